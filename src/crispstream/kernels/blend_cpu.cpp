// SPDX-License-Identifier: Apache-2.0
//
// Frame and residuals -> frame, on the CPU.

#include "pixel_bands.h"

#include <new>

namespace crispstream {
namespace {

struct Blend {
    const crispstream_image &source;
    const crispstream_image &destination;
    const crispstream_geometry &geometry;
    const crispstream_mix mix;
    const void *head, *foreground, *background;
    const Color source_color, color;
    const bool convert;
    const Packing packing; // of a row
};

template <class T>
CRISPSTREAM_FN const T *map_of(const Blend &job, int channel) {
    const crispstream_geometry &g = job.geometry;
    return static_cast<const T *>(job.head) +
           channel * size_t(g.padded_width / g.map_stride) * (g.padded_height / g.map_stride);
}

// One row between those of a map, a cell before it and one after.
template <class T>
CRISPSTREAM_FN void map_line(const Blend &job, int channel, int y, float *line) {
    const int stride = job.geometry.map_stride, width = job.geometry.padded_width / stride;
    const T *map = map_of<T>(job, channel);
    const Tap rows = tap_at(y, stride, job.geometry.padded_height / stride);
    upsample_map_rows(map + size_t(rows.first) * width, map + size_t(rows.second) * width, rows.weight, width, line);
    line[-1] = line[0]; // of no weight
    line[width] = line[width - 1];
}

// gain * map + bias of a row, in packed order.
CRISPSTREAM_FN void map_row(const Blend &job, const float *line, float gain, float bias, float *out) {
    const int stride = job.geometry.map_stride, s = job.packing.s, pitch = job.packing.cells;
    const int per = stride % s ? 0 : stride / s, cells = job.geometry.padded_width / stride;
    const bool regular = per == 1 || per == 2 || per == 4;
    const int count = (job.source.width + stride - 1) / stride;
    for (int dx = 0; dx < s && regular; ++dx) {
        float *phase = out + dx * pitch;
        per == 1   ? upsample_map_phase<1>(line, count, stride, s, dx, gain, bias, phase)
        : per == 2 ? upsample_map_phase<2>(line, count, stride, s, dx, gain, bias, phase)
                   : upsample_map_phase<4>(line, count, stride, s, dx, gain, bias, phase);
    }
    if (regular) { // the border has one value
        const float value = gain * lerp(line[0], line[std::min(1, cells - 1)], 0.0f) + bias;
        for (int x = 0; x < stride / 2; ++x)
            out[job.packing.index(x)] = value;
    }
    for (int x = 0; x < job.source.width && !regular; ++x) {
        const Tap tap = tap_at(x, stride, cells);
        out[job.packing.index(x)] = gain * lerp(line[tap.first], line[tap.second], tap.weight) + bias;
    }
}

// Sample dx of each cell of a row of a packed tensor: rows of R, G and B.
template <class T>
CRISPSTREAM_FN Planes<const T> residual_rows(const Blend &job, const void *tensor, int y, int dx) {
    const int s = job.packing.s, row = cell_of(y, s);
    const size_t plane = size_t(job.packing.cells) * cell_of(job.geometry.padded_height, s);
    const T *first =
        static_cast<const T *>(tensor) + size_t((y - row * s) * s + dx) * plane + size_t(row) * job.packing.cells;
    return {first, first + size_t(s) * s * plane, first + 2 * size_t(s) * s * plane};
}

// d of a row into the RESIDUAL buffers. Returns how many values were not finite.
template <bool BOTH, class T>
CRISPSTREAM_FN int residual_row(const Blend &job, int y, const void *first, const void *second, Buffers &buffers) {
    const Planes<float> residual = buffers.rows(Buffers::RESIDUAL);
    int dropped = 0;
    for (int dx = 0; dx < job.packing.s; ++dx) {
        const int at = dx * job.packing.cells;
        const int samples = job.packing.samples(job.source.width, dx); // of the frame, not of its padding
        const Planes<float> out{residual[0] + at, residual[1] + at, residual[2] + at};
        const int32_t largest =
            residual_samples<BOTH>(residual_rows<T>(job, first, y, dx), residual_rows<T>(job, second, y, dx),
                                   buffers.row(Buffers::GATE) + at, buffers.row(Buffers::MASK) + at, samples, out);
        if (not_finite(float_of_bits(largest)))
            for (float *row : out)
                dropped += drop_not_finite(row, samples);
    }
    return dropped;
}

template <class T>
CRISPSTREAM_FN int residual_rgb(const Blend &job, int y, Buffers &buffers) {
    if (!job.foreground && !job.background) {
        for (float *row : buffers.rows(Buffers::RESIDUAL))
            std::fill_n(row, job.packing.length(), 0.0f);
        return 0;
    }
    map_row(job, buffers.row(Buffers::MAP_LINE, 1) + 1, job.mix.strength, 0.0f, buffers.row(Buffers::GATE));
    if (!job.foreground || !job.background) {
        const void *only = job.foreground ? job.foreground : job.background;
        return residual_row<false, T>(job, y, only, only, buffers);
    }
    map_row(job, buffers.row(Buffers::MAP_LINE) + 1, job.mix.mask_gain, job.mix.mask_bias, buffers.row(Buffers::MASK));
    return residual_row<true, T>(job, y, job.foreground, job.background, buffers);
}

// RGB is added to the source's codes, or to those of black where the layouts differ.

CRISPSTREAM_FN void write_packed(const Blend &job, int y, const Planes<float> &rgb, Buffers &buffers) {
    const Planes<uint8_t> pixels = buffers.rows(Buffers::PIXELS);
    const int width = job.source.width, pitch = job.packing.cells, any_s = job.packing.s;
    if (!job.convert)
        split<3>(row_of(job.source, 0, y), width, pixels);
    for (int c = 0; c < 3; ++c) {
        const uint8_t *base = job.convert ? buffers.row(Buffers::BLACK) : pixels[c];
        const float *values = rgb[job.destination.format == CRISPSTREAM_BGR24 ? 2 - c : c];
        by_factor(any_s,
                  [&](auto s) CRISPSTREAM_LAMBDA { encode_rgb<s>(any_s, base, values, pitch, width, pixels[c]); });
    }
    join<3>(pixels, width, row_of(job.destination, 0, y));
}

CRISPSTREAM_FN void write_luma(const Blend &job, int y, const Planes<float> &rgb, Buffers &buffers) {
    const uint8_t *base = job.convert ? buffers.row(Buffers::BLACK) : row_of(job.source, 0, y);
    uint8_t *codes = row_of(job.destination, 0, y);
    by_factor(job.packing.s, [&](auto s) CRISPSTREAM_LAMBDA {
        encode_luma<s>(job.packing.s, job.color, base, rgb, job.packing.cells, job.source.width, codes);
    });
}

// Adds one row of RGB to the sums that become chroma.
template <bool ADD>
CRISPSTREAM_FN void sum_row(const Blend &job, const Planes<float> &rgb, Buffers &buffers) {
    const Packing packing = job.packing;
    for (int c = 0; c < 3; ++c) {
        float *sum = buffers.row(Buffers::SUM, c);
        if (packing.s == 2) {
            sum_pairs<ADD, true>(rgb[c], packing.cells, job.source.width, sum);
            continue;
        }
        const float *row = rgb[c]; // s = 1: in pixel order as it is
        if (packing.s != 1) {
            float *ordered = buffers.row(Buffers::ORDERED);
            for (int x = 0; x < job.source.width; ++x)
                ordered[x] = rgb[c][packing.index(x)];
            row = ordered;
        }
        sum_pairs<ADD, false>(row, 0, job.source.width, sum);
    }
}

CRISPSTREAM_FN void write_chroma(const Blend &job, int y, Buffers &buffers) {
    const crispstream_image &from = job.source, &to = job.destination;
    const int end = half_up(job.source.width), pairs = job.source.width / 2;
    const float weight = y % 2 ? 0.5f : 1.0f; // 1 / rows of luma
    const bool joined = to.format == CRISPSTREAM_NV12;
    const uint8_t *base = job.convert ? buffers.row(Buffers::GRAY) : row_of(from, 1, y / 2);
    const ptrdiff_t v_base = job.convert || joined ? 0 : row_of(from, 2, y / 2) - base;
    uint8_t *codes = row_of(to, 1, y / 2);
    const ptrdiff_t v_codes = joined ? 0 : row_of(to, 2, y / 2) - codes;
    const Planes<float> sum = buffers.rows(Buffers::SUM);
    const auto encode = [&](float columns, int first, int last) CRISPSTREAM_LAMBDA {
        joined ? encode_chroma<2>(job.color, base, 1, sum, columns * weight, first, last, codes, 1)
               : encode_chroma<1>(job.color, base, v_base, sum, columns * weight, first, last, codes, v_codes);
    };
    encode(0.5f, 0, pairs);
    encode(1.0f, pairs, end); // the last column may stand alone
}

CRISPSTREAM_FN void write_row(const Blend &job, int y, const Planes<float> &rgb, Buffers &buffers) {
    if (!is_yuv(job.destination))
        return write_packed(job, y, rgb, buffers);
    write_luma(job, y, rgb, buffers);
    y % 2 ? sum_row<true>(job, rgb, buffers) : sum_row<false>(job, rgb, buffers);
    if (y % 2 || y + 1 == job.destination.height)
        write_chroma(job, y, buffers);
}

// What a conversion restores: the source's RGB, decoded before, and the residual, which it replaces.
CRISPSTREAM_FN void restore(const Blend &job, Buffers &buffers) {
    for (int c = 0; c < 3; ++c)
        for (int dx = 0; dx < job.packing.s; ++dx) {
            const float *decoded = buffers.row(Buffers::RGB, c) + dx * job.packing.cells;
            float *value = buffers.row(Buffers::RESIDUAL, c) + dx * job.packing.cells;
            const int samples = job.packing.samples(job.source.width, dx);
            CRISPSTREAM_INDEPENDENT
            for (int i = 0; i < samples; ++i)
                value[i] = clamp_to(1.0f, decoded[i] + value[i]);
        }
}

template <class T>
CRISPSTREAM_FN int blend_row(const Blend &job, int y, Buffers &buffers) {
    for (int channel : {0, 1})
        map_line<T>(job, channel, y, buffers.row(Buffers::MAP_LINE, channel) + 1);
    const int dropped = residual_rgb<T>(job, y, buffers);
    if (job.convert) {
        decode_row<float>(job.source, job.source_color, y, job.packing, buffers, buffers.rows(Buffers::RGB),
                          job.packing.cells);
        restore(job, buffers);
    }
    write_row(job, y, buffers.rows(Buffers::RESIDUAL), buffers);
    return dropped;
}

CRISPSTREAM_CLONES int64_t blend_band(const Blend &job, int begin, int end, Buffers &buffers) {
    std::fill_n(buffers.row(Buffers::BLACK), buffers.width(), uint8_t(job.color.y_offset));
    std::fill_n(buffers.row(Buffers::GRAY), buffers.width(), uint8_t(128));
    int64_t dropped = 0;
    for (int y = begin; y < end; ++y)
        dropped += job.geometry.dtype == CRISPSTREAM_FLOAT32 ? blend_row<float>(job, y, buffers)
                                                             : blend_row<uint16_t>(job, y, buffers);
    return dropped;
}

} // namespace
} // namespace crispstream

using namespace crispstream;

int32_t crispstream_cpu_blend(const crispstream_image *source, const crispstream_geometry *geometry, const void *head,
                              const void *foreground, const void *background, const crispstream_mix *mix,
                              const crispstream_image *destination, uint64_t *non_finite, int32_t threads) {
    int32_t status = check_image(source);
    status = status ? status : check_image(destination);
    status = status ? status : check_geometry(geometry);
    status = status ? status : check_fit(*source, *geometry);
    if (status)
        return status;
    if (!head || !mix)
        return CRISPSTREAM_NULL_POINTER;
    if (source->width != destination->width || source->height != destination->height)
        return CRISPSTREAM_BAD_SIZE;
    status = threads >= 1 ? check_overlap(*source, *destination) : CRISPSTREAM_BAD_ARGUMENT;
    if (status)
        return status;
    try {
        const int s = geometry->pack, width = geometry->padded_width;
        const Blend job{*source,
                        *destination,
                        *geometry,
                        *mix,
                        head,
                        foreground,
                        background,
                        color_of(*source),
                        color_of(*destination),
                        !same_layout(*source, *destination),
                        {s, width / s}};
        const int step = 2 * s, rows = source->height, bands = band_count(rows, step, threads);
        std::vector<Buffers> buffers = make_buffers(bands, width);
        std::vector<int64_t> dropped(bands, 0);
        for_each_band(rows, step, bands,
                      [&](int i, int begin, int end) { dropped[i] = blend_band(job, begin, end, buffers[i]); });
        if (non_finite) {
            *non_finite = 0;
            for (int64_t count : dropped)
                *non_finite += uint64_t(count);
        }
    } catch (const std::bad_alloc &) {
        return CRISPSTREAM_NO_MEMORY;
    }
    return CRISPSTREAM_OK;
}
