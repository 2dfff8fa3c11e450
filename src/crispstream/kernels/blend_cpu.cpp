// SPDX-License-Identifier: Apache-2.0

#include "pixel_bands.h"

#include <new>
#include <utility>

namespace crispstream {
namespace {

// Rows of codes that a conversion starts from: black, three bytes a pixel, and gray chroma, two bytes a sample.
enum { BLACK = 0, GRAY = 3 };

struct Blend {
    const crispstream_image &source;
    const crispstream_image &destination;
    const crispstream_geometry &geometry;
    const crispstream_mix mix;
    const void *head, *foreground, *background;
    const Color source_color, color;
    const bool convert;
    std::vector<float> weights; // of upsample_map_columns
};

template <class T>
CRISPSTREAM_FN void map_row(const Blend &job, int channel, int y, float gain, float bias, Buffers &buffers,
                            float *out) {
    const int stride = job.geometry.map_stride;
    const int cells = job.geometry.padded_width / stride, rows = job.geometry.padded_height / stride;
    const T *map = static_cast<const T *>(job.head) + channel * size_t(cells) * rows;
    const Tap tap = tap_at(y, stride, rows);
    float *line = buffers.row(MAP_LINE);
    upsample_map_rows(map + size_t(tap.first) * cells, map + size_t(tap.second) * cells, tap.weight, cells, line);
    if (stride == 4)
        upsample_map_columns<4>(line, cells, stride, job.weights.data(), gain, bias, out);
    else if (stride == 8)
        upsample_map_columns<8>(line, cells, stride, job.weights.data(), gain, bias, out);
    else if (stride == 16)
        upsample_map_columns<16>(line, cells, stride, job.weights.data(), gain, bias, out);
    else
        upsample_map_columns<0>(line, cells, stride, job.weights.data(), gain, bias, out);
}

// d of one row, whose maps are in the buffers. S: the packing factor or 0, as in pack_row.
template <int S, bool BOTH, class T>
CRISPSTREAM_FN int residual_row(const Blend &job, int y, const T *first, const T *second, Buffers &buffers) {
    const int width = job.source.width, s = job.geometry.pack, cells = job.geometry.padded_width / s;
    const size_t plane = size_t(cells) * (job.geometry.padded_height / s), phase = cells;
    float *gate = buffers.row(PACKED_GATE), *mask = buffers.row(PACKED_MASK);
    pack_row<S>(buffers.row(GATE), cells, s, phase, gate);
    if (BOTH)
        pack_row<S>(buffers.row(MASK), cells, s, phase, mask);
    const int whole = width / s;
    int dropped = 0;
    for (int c = 0; c < 3; ++c) {
        const size_t at = size_t(c * s + y % s) * s * plane + size_t(y / s) * cells;
        float *out = buffers.row(RESIDUAL + c);
        dropped += residual_cells<S, BOTH>(first + at, second + at, plane, gate, mask, phase, s, 0, whole, out);
        for (int dx = 0; dx < width % s; ++dx) // the cell that the frame's edge cuts
            dropped +=
                residual_cells<1, BOTH>(first + at + dx * plane, second + at + dx * plane, plane, gate + dx * phase,
                                        mask + dx * phase, phase, 1, whole, whole + 1, out + whole * s + dx - whole);
    }
    return dropped;
}

// d of one row into the RESIDUAL buffers.
template <class T>
CRISPSTREAM_FN int residual_rgb(const Blend &job, int y, Buffers &buffers) {
    const T *foreground = static_cast<const T *>(job.foreground), *background = static_cast<const T *>(job.background);
    const int s = job.geometry.pack;
    if (!foreground && !background) {
        for (int c = 0; c < 3; ++c)
            std::fill_n(buffers.row(RESIDUAL + c), job.source.width, 0.0f);
        return 0;
    }
    map_row<T>(job, 1, y, job.mix.strength, 0.0f, buffers, buffers.row(GATE));
    if (foreground && background) {
        map_row<T>(job, 0, y, job.mix.mask_gain, job.mix.mask_bias, buffers, buffers.row(MASK));
        return s == 2   ? residual_row<2, true>(job, y, foreground, background, buffers)
               : s == 4 ? residual_row<4, true>(job, y, foreground, background, buffers)
                        : residual_row<0, true>(job, y, foreground, background, buffers);
    }
    const T *only = foreground ? foreground : background;
    return s == 2   ? residual_row<2, false>(job, y, only, only, buffers)
           : s == 4 ? residual_row<4, false>(job, y, only, only, buffers)
                    : residual_row<0, false>(job, y, only, only, buffers);
}

template <int STEP>
CRISPSTREAM_FN void write_chroma(const Blend &job, int y, const uint8_t *base_u, const uint8_t *base_v, uint8_t *u,
                                 uint8_t *v, const Planes &sum) {
    const int width = job.source.width;
    const float weight = y % 2 ? 0.5f : 1.0f;
    encode_chroma<STEP>(job.color, base_u, base_v, sum, 0, width / 2, 0.5f * weight, u, v);
    if (width % 2)
        encode_chroma<STEP>(job.color, base_u, base_v, sum, width / 2, width / 2 + 1, weight, u, v);
}

// Adds a row of RGB to the codes it starts from: the source's, or those of black where the formats differ.
CRISPSTREAM_FN void write_row(const Blend &job, int y, const Planes &rgb, Buffers &buffers) {
    const crispstream_image &from = job.source, &to = job.destination;
    const int width = to.width, format = to.format;
    const uint8_t *base = job.convert ? buffers.codes(BLACK) : row_of(from, 0, y);
    if (!is_yuv(to)) {
        const int red = format == CRISPSTREAM_RGB24 ? 0 : 2;
        encode_packed(base, rgb[red], rgb[1], rgb[2 - red], width, row_of(to, 0, y));
        return;
    }
    encode_luma(job.color, base, rgb, width, row_of(to, 0, y));
    const Planes sum = buffers.planes(SUM);
    for (int c = 0; c < 3; ++c)
        y % 2 ? sum_pairs<true>(rgb[c], width, sum[c]) : sum_pairs<false>(rgb[c], width, sum[c]);
    if (y % 2 == 0 && y + 1 < to.height)
        return;
    const uint8_t *gray = buffers.codes(GRAY);
    if (format == CRISPSTREAM_NV12) {
        const uint8_t *uv = job.convert ? gray : row_of(from, 1, y / 2);
        uint8_t *out = row_of(to, 1, y / 2);
        write_chroma<2>(job, y, uv, uv + 1, out, out + 1, sum);
    } else {
        const uint8_t *u = job.convert ? gray : row_of(from, 1, y / 2),
                      *v = job.convert ? gray : row_of(from, 2, y / 2);
        write_chroma<1>(job, y, u, v, row_of(to, 1, y / 2), row_of(to, 2, y / 2), sum);
    }
}

CRISPSTREAM_CLONES int64_t blend_band(const Blend &job, int begin, int end, Buffers &buffers) {
    const int width = job.source.width;
    if (job.convert && is_yuv(job.destination)) {
        std::fill_n(buffers.codes(BLACK), width, uint8_t(job.color.y_offset));
        std::fill_n(buffers.codes(GRAY), width + 1, uint8_t(128));
    }
    const Planes rgb = buffers.planes(RGB), residual = buffers.planes(RESIDUAL);
    int64_t dropped = 0;
    for (int y = begin; y < end; ++y) {
        dropped += job.geometry.dtype == CRISPSTREAM_FLOAT32 ? residual_rgb<float>(job, y, buffers)
                                                             : residual_rgb<uint16_t>(job, y, buffers);
        if (job.convert) {
            decode_row(job.source, job.source_color, y, buffers);
            for (int c = 0; c < 3; ++c)
                for (int x = 0; x < width; ++x)
                    rgb[c][x] = clamp_to(1.0f, rgb[c][x] + residual[c][x]);
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
        const int stride = geometry->map_stride, step = 2 * geometry->pack, rows = source->height;
        const int bands = band_count(rows, step, threads);
        std::vector<float> weights;
        for (int x = 0; x < stride; ++x)
            weights.push_back(tap_at(stride / 2 + x, stride, 1).weight);
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
                        std::move(weights)};
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
