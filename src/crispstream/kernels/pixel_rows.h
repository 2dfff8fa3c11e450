// SPDX-License-Identifier: Apache-2.0
//
// Loops over one row of pixels, free of branches so that the compiler vectorises them. Rows of floats are planar R, G,
// B in pixel order and live in the first cache levels; no function here allocates.
#ifndef CRISPSTREAM_PIXEL_ROWS_H
#define CRISPSTREAM_PIXEL_ROWS_H

#include "crispstream/launchers.h"
#include "pixel_math.h"

#include <algorithm>
#include <array>
#include <cstddef>

// A loop whose iterations do not depend on each other; where it works in place it reads and writes the same sample.
#define CRISPSTREAM_INDEPENDENT _Pragma("GCC ivdep")
// A short loop that is one or two vectors itself: unrolled first, GCC would vectorise across the loop around it.
#define CRISPSTREAM_ROLLED _Pragma("GCC unroll 1")

namespace crispstream {

using Planes = std::array<float *, 3>; // one row of R, G and B

inline int half_up(int n) { return (n + 1) / 2; }

inline uint8_t *row_of(const crispstream_image &image, int plane, int y) {
    return image.plane[plane] + image.stride[plane] * y;
}

// --- codes -> RGB ---------------------------------------------------------------------------------------------------

CRISPSTREAM_FN void decode_packed(const uint8_t *codes, int width, float *first, float *second, float *third) {
    CRISPSTREAM_INDEPENDENT
    for (int x = 0; x < width; ++x) {
        first[x] = decode_code(codes[3 * x]);
        second[x] = decode_code(codes[3 * x + 1]);
        third[x] = decode_code(codes[3 * x + 2]);
    }
}

// Vertical half of the chroma upsampling, in quarters of a code: the luma row lies a quarter of a chroma row off.
// `line` gets a replicated sample on each side. STEP: bytes from one sample of this plane to the next.
template <int STEP>
CRISPSTREAM_FN void upsample_rows(const uint8_t *near, const uint8_t *far, int chroma_width, uint16_t *line) {
    CRISPSTREAM_INDEPENDENT
    for (int x = 0; x < chroma_width; ++x)
        line[x + 1] = uint16_t(3 * near[STEP * x] + far[STEP * x]);
    line[0] = line[1];
    line[chroma_width + 1] = line[chroma_width];
}

// Horizontal half, in sixteenths: luma columns 2x and 2x + 1 from chroma columns x - 1, x and x + 1.
CRISPSTREAM_FN void upsample_columns(const uint16_t *line, int chroma_width, bool center, uint16_t *out) {
    const int before = center ? 1 : 0, even = center ? 3 : 4, odd = center ? 3 : 2, after = center ? 1 : 2;
    CRISPSTREAM_INDEPENDENT
    for (int x = 0; x < chroma_width; ++x) {
        out[2 * x] = uint16_t(even * line[x + 1] + before * line[x]);
        out[2 * x + 1] = uint16_t(odd * line[x + 1] + after * line[x + 2]);
    }
}

CRISPSTREAM_FN void decode_yuv_row(const Color &color, const uint8_t *luma, const uint16_t *u16, const uint16_t *v16,
                                   int width, const Planes &rgb) {
    float *r = rgb[0], *g = rgb[1], *b = rgb[2];
    CRISPSTREAM_INDEPENDENT
    for (int x = 0; x < width; ++x) {
        const Rgb p = decode_yuv(color, luma[x], u16[x], v16[x]);
        r[x] = p.r;
        g[x] = p.g;
        b[x] = p.b;
    }
}

// --- space to depth and back ----------------------------------------------------------------------------------------

// S: the packing factor where it is known at compile time, else 0. `planes` is where dx = 0 goes, `plane` its stride.
template <int S, class T>
CRISPSTREAM_FN void pack_row(const float *row, int cells, int pack, size_t plane, T *planes) {
    const int s = S ? S : pack;
    CRISPSTREAM_INDEPENDENT
    for (int cell = 0; cell < cells; ++cell)
        for (int dx = 0; dx < s; ++dx)
            store(planes + dx * plane + cell, row[cell * s + dx]);
}

// One channel of d, for cells begin..end of one row. `first`, `second`: where dx = 0 of the residuals lies, `plane`
// elements before dx = 1. `gate`, `mask`: packed likewise, `phase` elements apart; only BOTH branches need a mask and a
// second residual. Returns how many values were not finite.
template <int S, bool BOTH, class T>
CRISPSTREAM_FN int residual_cells(const T *first, const T *second, size_t plane, const float *gate, const float *mask,
                                  size_t phase, int pack, int begin, int end, float *out) {
    const int s = S ? S : pack;
    int kept = 0;
    CRISPSTREAM_INDEPENDENT
    for (int cell = begin; cell < end; ++cell)
        for (int dx = 0; dx < s; ++dx) {
            float a, b, d;
            load(first + dx * plane + cell, a);
            if (BOTH) {
                load(second + dx * plane + cell, b);
                d = mix_residuals(gate[dx * phase + cell], mask[dx * phase + cell], a, b);
            } else {
                d = gate[dx * phase + cell] * a;
            }
            const int32_t finite = finite_mask(d);
            out[cell * s + dx] = float_of_bits(bits_of_float(d) & finite);
            kept -= finite;
        }
    return s * (end - begin) - kept;
}

// --- the head -------------------------------------------------------------------------------------------------------

// Taps of bilinear upsampling by an integer, half-pixel centres: source = (x + 0.5) / stride - 0.5, clamped at 0.
struct Tap {
    int first, second;
    float weight;
};

inline Tap tap_at(int x, int stride, int cells) {
    const int twice = std::max(2 * x + 1 - stride, 0), first = twice / (2 * stride);
    return {first, std::min(first + 1, cells - 1), float(twice % (2 * stride)) / float(2 * stride)};
}

template <class T>
CRISPSTREAM_FN void upsample_map_rows(const T *a, const T *b, float weight, int cells, float *line) {
    CRISPSTREAM_INDEPENDENT
    for (int k = 0; k < cells; ++k) {
        float upper, lower;
        load(a + k, upper);
        load(b + k, lower);
        line[k] = lerp(upper, lower, weight);
    }
    line[cells] = line[cells - 1];
}

// gain * map + bias. weights: those of the `stride` pixels from one cell's centre to the next. `out` holds stride / 2 +
// cells * stride.
template <int STRIDE>
CRISPSTREAM_FN void upsample_map_columns(const float *line, int cells, int map_stride, const float *weights, float gain,
                                         float bias, float *out) {
    const int stride = STRIDE ? STRIDE : map_stride;
    for (int x = 0; x < stride / 2; ++x)
        out[x] = gain * lerp(line[0], line[1], 0.0f) + bias;
    out += stride / 2;
    for (int k = 0; k < cells; ++k, out += stride) {
        CRISPSTREAM_INDEPENDENT
        CRISPSTREAM_ROLLED
        for (int j = 0; j < stride; ++j)
            out[j] = gain * lerp(line[k], line[k + 1], weights[j]) + bias;
    }
}

// --- RGB -> codes ---------------------------------------------------------------------------------------------------

CRISPSTREAM_FN void encode_packed(const uint8_t *base, const float *first, const float *second, const float *third,
                                  int width, uint8_t *codes) {
    CRISPSTREAM_INDEPENDENT
    for (int x = 0; x < width; ++x) {
        codes[3 * x] = add_codes(base[3 * x], 255.0f * first[x]);
        codes[3 * x + 1] = add_codes(base[3 * x + 1], 255.0f * second[x]);
        codes[3 * x + 2] = add_codes(base[3 * x + 2], 255.0f * third[x]);
    }
}

CRISPSTREAM_FN void encode_luma(const Color &color, const uint8_t *base, const Planes &rgb, int width, uint8_t *codes) {
    const float *r = rgb[0], *g = rgb[1], *b = rgb[2];
    CRISPSTREAM_INDEPENDENT
    for (int x = 0; x < width; ++x)
        codes[x] = add_codes(base[x], zero_if_nan(luma_codes(color, {r[x], g[x], b[x]})));
}

// Sum of the luma samples under each chroma sample: this row's pair, added to the pair of the row above where ADD.
template <bool ADD>
CRISPSTREAM_FN void sum_pairs(const float *row, int width, float *sum) {
    const int pairs = width / 2;
    CRISPSTREAM_INDEPENDENT
    for (int x = 0; x < pairs; ++x) {
        const float pair = row[2 * x] + row[2 * x + 1];
        sum[x] = ADD ? sum[x] + pair : pair;
    }
    if (width % 2)
        sum[pairs] = ADD ? sum[pairs] + row[width - 1] : row[width - 1];
}

// weight: 1 / luma samples under one chroma sample.
template <int STEP>
CRISPSTREAM_FN void encode_chroma(const Color &color, const uint8_t *base_u, const uint8_t *base_v, const Planes &sum,
                                  int begin, int end, float weight, uint8_t *u, uint8_t *v) {
    const float *r = sum[0], *g = sum[1], *b = sum[2];
    CRISPSTREAM_INDEPENDENT
    for (int x = begin; x < end; ++x) {
        const Chroma delta = chroma_codes(color, {r[x] * weight, g[x] * weight, b[x] * weight});
        u[STEP * x] = add_codes(base_u[STEP * x], zero_if_nan(delta.u));
        v[STEP * x] = add_codes(base_v[STEP * x], zero_if_nan(delta.v));
    }
}

} // namespace crispstream
#endif
