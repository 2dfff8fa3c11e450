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
    const Packing packing; // of luma and RGB
    const Packing chroma;  // an odd factor does not keep pairs of columns together: pixel order
};

// gain * map + bias of one row, in packed order.
template <class T>
CRISPSTREAM_FN void map_row(const Blend &job, int channel, int y, float gain, float bias, Buffers &buffers,
                            float *out) {
    const int stride = job.geometry.map_stride, s = job.packing.s, cells = job.packing.cells;
    const int map_width = job.geometry.padded_width / stride, map_height = job.geometry.padded_height / stride;
    const T *map = static_cast<const T *>(job.head) + channel * size_t(map_width) * map_height;
    const Tap rows = tap_at(y, stride, map_height);
    float *line = buffers.row(Buffers::MAP_LINE) + 1;
    upsample_map_rows(map + size_t(rows.first) * map_width, map + size_t(rows.second) * map_width, rows.weight,
                      map_width, line);
    line[map_width] = line[map_width - 1];
    const int per = stride % s ? 0 : stride / s;
    const bool regular = per == 1 || per == 2 || per == 4;
    for (int dx = 0; dx < s && regular; ++dx) {
        float *phase = out + dx * cells;
        per == 1   ? upsample_map_phase<1>(line, map_width, stride, s, dx, gain, bias, phase)
        : per == 2 ? upsample_map_phase<2>(line, map_width, stride, s, dx, gain, bias, phase)
                   : upsample_map_phase<4>(line, map_width, stride, s, dx, gain, bias, phase);
    }
    for (int x = 0; x < (regular ? stride / 2 : job.source.width); ++x) { // the border, or everything
        const Tap tap = tap_at(x, stride, map_width);
        out[job.packing.index(x)] = gain * lerp(line[tap.first], line[tap.second], tap.weight) + bias;
    }
}

template <bool BOTH, class T>
CRISPSTREAM_FN int residual_row(const Blend &job, int y, const T *first, const T *second, Buffers &buffers) {
    const int s = job.packing.s, cells = job.packing.cells;
    const float *gate = buffers.row(Buffers::GATE), *mask = buffers.row(Buffers::MASK);
    const size_t plane = size_t(cells) * (job.geometry.padded_height / s);
    int dropped = 0;
    for (int c = 0; c < 3; ++c)
        for (int dx = 0; dx < s; ++dx) {
            const size_t at = size_t((c * s + y % s) * s + dx) * plane + size_t(y / s) * cells;
            const int samples = job.packing.samples(job.source.width, dx); // of the frame, not of its padding
            dropped += residual_samples<BOTH>(first + at, second + at, gate + dx * cells, mask + dx * cells, samples,
                                              buffers.row(Buffers::RESIDUAL, c) + dx * cells);
        }
    return dropped;
}

// d of one row into the RESIDUAL buffers.
template <class T>
CRISPSTREAM_FN int residual_rgb(const Blend &job, int y, Buffers &buffers) {
    const T *foreground = static_cast<const T *>(job.foreground), *background = static_cast<const T *>(job.background);
    if (!foreground && !background)
        return 0; // the buffers hold zeros
    map_row<T>(job, 1, y, job.mix.strength, 0.0f, buffers, buffers.row(Buffers::GATE));
    if (!foreground || !background) {
        const T *only = foreground ? foreground : background;
        return residual_row<false>(job, y, only, only, buffers);
    }
    map_row<T>(job, 0, y, job.mix.mask_gain, job.mix.mask_bias, buffers, buffers.row(Buffers::MASK));
    return residual_row<true>(job, y, foreground, background, buffers);
}

// The codes that RGB is added to: the source's, or those of black where the layouts differ.
CRISPSTREAM_FN const uint8_t *base_row(const Blend &job, Buffers &buffers, int plane, int width, Packing packing) {
    if (job.convert)
        return buffers.row(plane && is_yuv(job.destination) ? Buffers::GRAY : Buffers::BLACK);
    pad_and_pack(buffers.row(Buffers::PIXELS, plane), width, packing, buffers.row(Buffers::PACKED, plane));
    return buffers.row(Buffers::PACKED, plane);
}

CRISPSTREAM_FN void write_packed(const Blend &job, int y, const Planes<float> &rgb, Buffers &buffers) {
    const int width = job.source.width;
    const std::array<uint8_t *, 3> pixels{buffers.row(Buffers::PIXELS, 0), buffers.row(Buffers::PIXELS, 1),
                                          buffers.row(Buffers::PIXELS, 2)};
    if (!job.convert)
        split<3>(row_of(job.source, 0, y), width, pixels);
    for (int c = 0; c < 3; ++c) {
        const uint8_t *base = base_row(job, buffers, c, width, job.packing);
        uint8_t *codes = buffers.row(Buffers::CODES);
        encode_rgb(base, rgb[job.destination.format == CRISPSTREAM_BGR24 ? 2 - c : c], job.packing.length(), codes);
        unpack_row(codes, job.packing, pixels[c]);
    }
    join<3>(pixels, width, row_of(job.destination, 0, y));
}

CRISPSTREAM_FN void write_luma(const Blend &job, int y, const Planes<float> &rgb, Buffers &buffers) {
    const int width = job.source.width;
    uint8_t *pixels = buffers.row(Buffers::PIXELS), *codes = buffers.row(Buffers::CODES);
    if (!job.convert)
        std::copy_n(row_of(job.source, 0, y), width, pixels);
    const uint8_t *base = base_row(job, buffers, 0, width, job.packing);
    encode_luma(job.color, base, rgb, job.packing.length(), codes);
    unpack_row(codes, job.packing, pixels);
    std::copy_n(pixels, width, row_of(job.destination, 0, y));
}

// Adds one row of RGB to the sums that become chroma.
template <bool ADD>
CRISPSTREAM_FN void sum_row(const Blend &job, const Planes<float> &rgb, Buffers &buffers) {
    const int width = job.source.width;
    const Packing packing = job.packing;
    for (int c = 0; c < 3; ++c) {
        float *sum = buffers.row(Buffers::SUM, c);
        if (packing.s % 2) {
            float *row = buffers.row(Buffers::MAP_LINE); // free until the next row
            unpack_row(rgb[c], packing, row);
            sum_pairs<ADD, 2>(row, row + 1, width / 2, width % 2, sum);
            continue;
        }
        for (int dx = 0; dx < packing.s; dx += 2) {
            const float *even = rgb[c] + dx * packing.cells;
            const int pairs = packing.samples(width, dx + 1), singles = packing.samples(width, dx) - pairs;
            sum_pairs<ADD, 1>(even, even + packing.cells, pairs, singles, sum + dx / 2 * packing.cells);
        }
    }
}

CRISPSTREAM_FN void write_chroma(const Blend &job, int y, Buffers &buffers) {
    const crispstream_image &from = job.source, &to = job.destination;
    const int width = half_up(to.width);
    uint8_t *u = buffers.row(Buffers::PIXELS, 1), *v = buffers.row(Buffers::PIXELS, 2);
    uint8_t *codes_u = buffers.row(Buffers::CODES, 1), *codes_v = buffers.row(Buffers::CODES, 2);
    if (!job.convert && from.format == CRISPSTREAM_NV12) {
        split<2>(row_of(from, 1, y / 2), width, {u, v});
    } else if (!job.convert) {
        std::copy_n(row_of(from, 1, y / 2), width, u);
        std::copy_n(row_of(from, 2, y / 2), width, v);
    }
    const uint8_t *base_u = base_row(job, buffers, 1, width, job.chroma);
    const uint8_t *base_v = base_row(job, buffers, 2, width, job.chroma);
    encode_chroma(job.color, base_u, base_v, buffers.rows(Buffers::SUM), buffers.row(Buffers::WEIGHTS),
                  y % 2 ? 0.5f : 1.0f, job.chroma.length(), codes_u, codes_v);
    unpack_row(codes_u, job.chroma, u);
    unpack_row(codes_v, job.chroma, v);
    if (to.format == CRISPSTREAM_NV12) {
        join<2>({u, v}, width, row_of(to, 1, y / 2));
    } else {
        std::copy_n(u, width, row_of(to, 1, y / 2));
        std::copy_n(v, width, row_of(to, 2, y / 2));
    }
}

CRISPSTREAM_FN void write_row(const Blend &job, int y, const Planes<float> &rgb, Buffers &buffers) {
    if (!is_yuv(job.destination))
        return write_packed(job, y, rgb, buffers);
    write_luma(job, y, rgb, buffers);
    y % 2 ? sum_row<true>(job, rgb, buffers) : sum_row<false>(job, rgb, buffers);
    if (y % 2 || y + 1 == job.destination.height)
        write_chroma(job, y, buffers);
}

CRISPSTREAM_CLONES int64_t blend_band(const Blend &job, int begin, int end, Buffers &buffers) {
    const int samples = job.packing.length(), width = job.source.width;
    std::fill_n(buffers.row(Buffers::BLACK), samples, uint8_t(job.color.y_offset));
    std::fill_n(buffers.row(Buffers::GRAY), samples, uint8_t(128));
    for (int x = 0; x < half_up(width); ++x)
        buffers.row(Buffers::WEIGHTS)[job.chroma.index(x)] = 2 * x + 1 < width ? 0.5f : 1.0f;
    const Planes<float> rgb = buffers.rows(Buffers::RGB), residual = buffers.rows(Buffers::RESIDUAL);
    int64_t dropped = 0;
    for (int y = begin; y < end; ++y) {
        dropped += job.geometry.dtype == CRISPSTREAM_FLOAT32 ? residual_rgb<float>(job, y, buffers)
                                                             : residual_rgb<uint16_t>(job, y, buffers);
        if (job.convert) {
            decode_row<float>(job.source, job.source_color, y, job.packing, buffers, rgb, job.packing.cells);
            for (int c = 0; c < 3; ++c)
                for (int i = 0; i < samples; ++i)
                    rgb[c][i] = clamp_to(1.0f, rgb[c][i] + residual[c][i]);
        }
        write_row(job, y, job.convert ? rgb : residual, buffers);
    }
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
                        {s, width / s},
                        s % 2 ? Packing{1, half_up(width)} : Packing{s / 2, width / s}};
        const int step = 2 * s, rows = source->height, bands = band_count(rows, step, threads);
        std::vector<Buffers> buffers(bands, Buffers(*geometry));
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
