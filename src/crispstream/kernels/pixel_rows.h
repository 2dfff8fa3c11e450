// SPDX-License-Identifier: Apache-2.0
//
// Loops over one row of samples, free of branches so that the compiler vectorises them. No function here allocates.
//
// Floats are kept in *packed order*, as space-to-depth leaves them, so that every loop over them is contiguous; only
// bytes are ever shuffled.
#ifndef CRISPSTREAM_PIXEL_ROWS_H
#define CRISPSTREAM_PIXEL_ROWS_H

#include "pixel_math.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

// For lambdas what CRISPSTREAM_FN is for functions.
#if defined(__GNUC__)
#define CRISPSTREAM_LAMBDA __attribute__((always_inline))
#else
#define CRISPSTREAM_LAMBDA
#endif

// A loop whose iterations do not depend on each other.
#define CRISPSTREAM_INDEPENDENT _Pragma("GCC ivdep")

namespace crispstream {

template <class T>
using Planes = std::array<T *, 3>; // one row of R, G and B

// x / s; a division takes as long as ten pixels do.
CRISPSTREAM_FN int cell_of(int x, int s) { return s == 2 ? x >> 1 : s == 1 ? x : x / s; }

// The order of a row after space-to-depth by s: samples 0, s, 2 s, ..., then 1, s + 1, ...; `cells` of each.
struct Packing {
    int s, cells;

    CRISPSTREAM_FN int length() const { return s * cells; }
    CRISPSTREAM_FN int index(int x) const { return (x - cell_of(x, s) * s) * cells + cell_of(x, s); }
    // How many of the samples dx, dx + s, ... lie in a row of `width`.
    CRISPSTREAM_FN int samples(int width, int dx) const { return cell_of(width - dx + s - 1, s); }
};

// Calls run(integral_constant) with the factors that loops are compiled for, 1 and 2, or with 0 for any other.
template <class Run>
CRISPSTREAM_FN void by_factor(int s, Run run) {
    s == 1   ? run(std::integral_constant<int, 1>())
    : s == 2 ? run(std::integral_constant<int, 2>())
             : run(std::integral_constant<int, 0>());
}

// --- order ----------------------------------------------------------------------------------------------------------

// N interleaved rows -> N rows, and back.
template <int N>
CRISPSTREAM_FN void split(const uint8_t *codes, int n, const std::array<uint8_t *, N> &rows) {
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < N; ++k)
            rows[k][i] = codes[N * i + k];
}

template <int N>
CRISPSTREAM_FN void join(const std::array<uint8_t *, N> &rows, int n, uint8_t *codes) {
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < N; ++k)
            codes[N * i + k] = rows[k][i];
}

// Repeats the last sample of a row of `width` up to `length`.
template <class T>
CRISPSTREAM_FN void pad(T *row, int width, int length) {
    std::fill(row + width, row + length, row[width - 1]);
}

// --- codes -> RGB ---------------------------------------------------------------------------------------------------

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

// Horizontal half, in sixteenths: luma columns 2x and 2x + 1 from chroma columns x - 1, x and x + 1. Where APART, odd
// columns go to out + `odd` on, which for s = 2 is packed order; else the two alternate.
template <bool APART>
CRISPSTREAM_FN void upsample_columns(const uint16_t *line, int chroma_width, bool center, uint16_t *out, int odd) {
    const int near = center ? 3 : 4, before = center ? 1 : 0, odd_near = center ? 3 : 2, after = center ? 1 : 2;
    CRISPSTREAM_INDEPENDENT
    for (int x = 0; x < chroma_width; ++x) {
        const int left = near * line[x + 1] + before * line[x], right = odd_near * line[x + 1] + after * line[x + 2];
        out[APART ? x : 2 * x] = uint16_t(left);
        out[APART ? odd + x : 2 * x + 1] = uint16_t(right);
    }
}

// Codes in pixel order -> values in packed order. S: the factor s where it is known at compile time, else 0.
template <int S, class T>
CRISPSTREAM_FN void decode_codes(const Packing &packing, const Planes<uint8_t> &codes, const Planes<T> &rgb,
                                 size_t phase) {
    const int s = S ? S : packing.s, cells = packing.cells;
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < cells; ++i)
        for (int dx = 0; dx < s; ++dx)
            for (int c = 0; c < 3; ++c)
                store(rgb[c] + dx * phase + i, decode_code(codes[c][s * i + dx]));
}

// Luma in pixel order and chroma as `upsample_columns` leaves it, APART where S is 2.
template <int S, class T>
CRISPSTREAM_FN void decode_yuv_codes(const Color &color, const Packing &packing, const uint8_t *luma,
                                     const uint16_t *u16, const uint16_t *v16, const Planes<T> &rgb, size_t phase) {
    const int s = S ? S : packing.s, cells = packing.cells, along = S == 2 ? 1 : s, across = S == 2 ? cells : 1;
    T *r = rgb[0], *g = rgb[1], *b = rgb[2];
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < cells; ++i)
        for (int dx = 0; dx < s; ++dx) {
            const int chroma = along * i + across * dx;
            const Rgb p = decode_yuv(color, luma[s * i + dx], u16[chroma], v16[chroma]);
            store(r + dx * phase + i, p.r);
            store(g + dx * phase + i, p.g);
            store(b + dx * phase + i, p.b);
        }
}

// --- the head -------------------------------------------------------------------------------------------------------

template <class T>
CRISPSTREAM_FN void upsample_map_rows(const T *a, const T *b, float weight, int cells, float *line) {
    CRISPSTREAM_INDEPENDENT
    for (int k = 0; k < cells; ++k) {
        float upper, lower;
        load(a + k, upper);
        load(b + k, lower);
        line[k] = lerp(upper, lower, weight);
    }
}

// gain * map + bias for the samples dx, dx + s, ... of a row, PER = stride / s of which lie in each cell of the map.
// `line` has a cell before its first and after its last; what needs the one before is the border's and set later.
template <int PER>
CRISPSTREAM_FN void upsample_map_phase(const float *line, int count, int stride, int s, int dx, float gain, float bias,
                                       float *out) {
    const float *first[PER];
    float weight[PER];
    for (int r = 0; r < PER; ++r) {
        const int twice = 2 * (r * s + dx) + 1 - stride;
        first[r] = twice < 0 ? line - 1 : line;
        weight[r] = float(twice < 0 ? twice + 2 * stride : twice) / float(2 * stride);
    }
    CRISPSTREAM_INDEPENDENT
    for (int k = 0; k < count; ++k)
        for (int r = 0; r < PER; ++r)
            out[PER * k + r] = gain * lerp(first[r][k], first[r][k + 1], weight[r]) + bias;
}

// --- residual -------------------------------------------------------------------------------------------------------

// d of n samples; only BOTH branches need a mask and a second residual. Returns the bits of the largest magnitude, that
// of an infinity or a NaN if there is one.
template <bool BOTH, class T>
CRISPSTREAM_FN int32_t residual_samples(const Planes<const T> &first, const Planes<const T> &second, const float *gate,
                                        const float *mask, int n, const Planes<float> &out) {
    int32_t largest = 0;
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < n; ++i)
        for (int c = 0; c < 3; ++c) {
            float a, b, d;
            load(first[c] + i, a);
            if (BOTH) {
                load(second[c] + i, b);
                d = mix_residuals(gate[i], mask[i], a, b);
            } else {
                d = gate[i] * a;
            }
            out[c][i] = d;
            const int32_t magnitude = bits_of_float(d) & 0x7fffffff;
            largest = magnitude > largest ? magnitude : largest;
        }
    return largest;
}

// Values that are not finite become 0. Returns how many.
CRISPSTREAM_FN int drop_not_finite(float *values, int n) {
    int dropped = 0;
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < n; ++i) {
        const int32_t drop = not_finite(values[i]);
        values[i] = float_of_bits(bits_of_float(values[i]) & ~drop);
        dropped -= drop;
    }
    return dropped;
}

// --- RGB -> codes ---------------------------------------------------------------------------------------------------
//
// Codes in pixel order, RGB in packed order, sample dx of each cell at dx * pitch. S as above.

template <int S>
CRISPSTREAM_FN void encode_rgb(int any_s, const uint8_t *base, const float *values, int pitch, int width,
                               uint8_t *codes) {
    const int s = S ? S : any_s, cells = width / s;
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < cells; ++i)
        for (int dx = 0; dx < s; ++dx)
            codes[s * i + dx] = add_codes(base[s * i + dx], 255.0f * values[dx * pitch + i]);
    for (int x = cells * s; x < width; ++x)
        codes[x] = add_codes(base[x], 255.0f * values[x % s * pitch + cells]);
}

// A sum of finite values times weights that add up to one does not overflow before the last multiplication: no NaN.
template <int S>
CRISPSTREAM_FN void encode_luma(int any_s, const Color &color, const uint8_t *base, const Planes<float> &rgb, int pitch,
                                int width, uint8_t *codes) {
    const float *r = rgb[0], *g = rgb[1], *b = rgb[2];
    const int s = S ? S : any_s, cells = width / s;
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < cells; ++i)
        for (int dx = 0; dx < s; ++dx) {
            const int at = dx * pitch + i;
            codes[s * i + dx] = add_codes(base[s * i + dx], luma_codes(color, {r[at], g[at], b[at]}));
        }
    for (int x = cells * s; x < width; ++x) {
        const int at = x % s * pitch + cells;
        codes[x] = add_codes(base[x], luma_codes(color, {r[at], g[at], b[at]}));
    }
}

// Sum of the luma samples of a row under each chroma sample, added to the row above where ADD. APART: odd columns from
// values + `odd` on, else even and odd alternate.
template <bool ADD, bool APART>
CRISPSTREAM_FN void sum_pairs(const float *values, int odd, int width, float *sum) {
    const int pairs = width / 2;
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < pairs; ++i) {
        const float pair = values[APART ? i : 2 * i] + values[APART ? odd + i : 2 * i + 1];
        sum[i] = ADD ? sum[i] + pair : pair;
    }
    if (width % 2) // the last column has no odd neighbour
        sum[pairs] = ADD ? sum[pairs] + values[APART ? pairs : 2 * pairs] : values[APART ? pairs : 2 * pairs];
}

// n samples from `begin` on, each the mean of 1 / weight luma samples. STEP: bytes from one sample of a plane to the
// next; base and codes of V lie `v_base` and `v_codes` behind those of U.
template <int STEP>
CRISPSTREAM_FN void encode_chroma(const Color &color, const uint8_t *base, ptrdiff_t v_base, const Planes<float> &sum,
                                  float weight, int begin, int end, uint8_t *codes, ptrdiff_t v_codes) {
    const float *r = sum[0], *g = sum[1], *b = sum[2];
    if (STEP == 2)
        v_base = v_codes = 1;
    CRISPSTREAM_INDEPENDENT
    for (int i = begin; i < end; ++i) {
        const Chroma delta = chroma_codes(color, {r[i] * weight, g[i] * weight, b[i] * weight});
        codes[STEP * i] = add_codes(base[STEP * i], zero_if_nan(delta.u));
        codes[STEP * i + v_codes] = add_codes(base[STEP * i + v_base], zero_if_nan(delta.v));
    }
}

} // namespace crispstream
#endif
