// SPDX-License-Identifier: Apache-2.0
//
// Loops over one row of samples, free of branches so that the compiler vectorises them. No function here allocates.
//
// Floats are kept in *packed order*, as space-to-depth leaves them, so that every loop over them is contiguous; only
// bytes and words of chroma are ever shuffled.
#ifndef CRISPSTREAM_PIXEL_ROWS_H
#define CRISPSTREAM_PIXEL_ROWS_H

#include "pixel_math.h"

#include <algorithm>
#include <array>
#include <cstddef>

// A loop whose iterations do not depend on each other.
#define CRISPSTREAM_INDEPENDENT _Pragma("GCC ivdep")

namespace crispstream {

template <class T>
using Planes = std::array<T *, 3>; // one row of R, G and B

// The order of a row after space-to-depth by s: samples 0, s, 2 s, ..., then 1, s + 1, ...; `cells` of each.
struct Packing {
    int s, cells;

    CRISPSTREAM_FN int length() const { return s * cells; }
    CRISPSTREAM_FN int index(int x) const { return x % s * cells + x / s; }
    // How many of the samples dx, dx + s, ... lie in a row of `width`.
    CRISPSTREAM_FN int samples(int width, int dx) const { return (width - dx + s - 1) / s; }
};

// --- order ----------------------------------------------------------------------------------------------------------

// N interleaved rows -> N rows, and back.
template <int N>
CRISPSTREAM_FN void split(const uint8_t *codes, int n, std::array<uint8_t *, N> rows) {
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < N; ++k)
            rows[k][i] = codes[N * i + k];
}

template <int N>
CRISPSTREAM_FN void join(std::array<uint8_t *, N> rows, int n, uint8_t *codes) {
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < N; ++k)
            codes[N * i + k] = rows[k][i];
}

// S: the factor s where it is known at compile time, else 0.
template <int S, class T>
CRISPSTREAM_FN void pack_by(const T *row, Packing packing, T *packed) {
    const int s = S ? S : packing.s, cells = packing.cells;
    CRISPSTREAM_INDEPENDENT
    for (int cell = 0; cell < cells; ++cell)
        for (int dx = 0; dx < s; ++dx)
            packed[dx * cells + cell] = row[cell * s + dx];
}

template <int S, class T>
CRISPSTREAM_FN void unpack_by(const T *packed, Packing packing, T *row) {
    const int s = S ? S : packing.s, cells = packing.cells;
    CRISPSTREAM_INDEPENDENT
    for (int cell = 0; cell < cells; ++cell)
        for (int dx = 0; dx < s; ++dx)
            row[cell * s + dx] = packed[dx * cells + cell];
}

// packing.length() elements from pixel order to packed order, and back.
template <class T>
CRISPSTREAM_FN void pack_row(const T *row, Packing packing, T *packed) {
    if (packing.s == 1)
        std::copy_n(row, packing.cells, packed);
    else if (packing.s == 2)
        pack_by<2>(row, packing, packed);
    else if (packing.s == 4)
        pack_by<4>(row, packing, packed);
    else
        pack_by<0>(row, packing, packed);
}

template <class T>
CRISPSTREAM_FN void unpack_row(const T *packed, Packing packing, T *row) {
    if (packing.s == 1)
        std::copy_n(packed, packing.cells, row);
    else if (packing.s == 2)
        unpack_by<2>(packed, packing, row);
    else if (packing.s == 4)
        unpack_by<4>(packed, packing, row);
    else
        unpack_by<0>(packed, packing, row);
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

// Horizontal half, in sixteenths: luma columns 2x and 2x + 1 from chroma columns x - 1, x and x + 1.
CRISPSTREAM_FN void upsample_columns(const uint16_t *line, int chroma_width, bool center, uint16_t *out) {
    const int before = center ? 1 : 0, even = center ? 3 : 4, odd = center ? 3 : 2, after = center ? 1 : 2;
    CRISPSTREAM_INDEPENDENT
    for (int x = 0; x < chroma_width; ++x) {
        out[2 * x] = uint16_t(even * line[x + 1] + before * line[x]);
        out[2 * x + 1] = uint16_t(odd * line[x + 1] + after * line[x + 2]);
    }
}

template <class T>
CRISPSTREAM_FN void decode_codes(const uint8_t *codes, int n, T *out) {
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < n; ++i)
        store(out + i, decode_code(codes[i]));
}

template <class T>
CRISPSTREAM_FN void decode_yuv_codes(const Color &color, const uint8_t *luma, const uint16_t *u16, const uint16_t *v16,
                                     int n, T *r, T *g, T *b) {
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < n; ++i) {
        const Rgb p = decode_yuv(color, luma[i], u16[i], v16[i]);
        store(r + i, p.r);
        store(g + i, p.g);
        store(b + i, p.b);
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

// d of n samples; only BOTH branches need a mask and a second residual. Returns how many values were not finite.
template <bool BOTH, class T>
CRISPSTREAM_FN int residual_samples(const T *first, const T *second, const float *gate, const float *mask, int n,
                                    float *out) {
    int dropped = 0;
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < n; ++i) {
        float a, b, d;
        load(first + i, a);
        if (BOTH) {
            load(second + i, b);
            d = mix_residuals(gate[i], mask[i], a, b);
        } else {
            d = gate[i] * a;
        }
        const int32_t drop = not_finite(d);
        out[i] = float_of_bits(bits_of_float(d) & ~drop);
        dropped -= drop;
    }
    return dropped;
}

// --- RGB -> codes ---------------------------------------------------------------------------------------------------

CRISPSTREAM_FN void encode_rgb(const uint8_t *base, const float *rgb, int n, uint8_t *codes) {
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < n; ++i)
        codes[i] = add_codes(base[i], 255.0f * rgb[i]);
}

CRISPSTREAM_FN void encode_luma(const Color &color, const uint8_t *base, const Planes<float> &rgb, int n,
                                uint8_t *codes) {
    const float *r = rgb[0], *g = rgb[1], *b = rgb[2];
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < n; ++i)
        codes[i] = add_codes(base[i], zero_if_nan(luma_codes(color, {r[i], g[i], b[i]})));
}

// Sum of the luma samples of a row under each chroma sample, added to the row above where ADD. Even and odd columns are
// STEP apart, `singles` columns have no odd neighbour.
template <bool ADD, int STEP>
CRISPSTREAM_FN void sum_pairs(const float *even, const float *odd, int pairs, int singles, float *sum) {
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < pairs; ++i) {
        const float pair = even[STEP * i] + odd[STEP * i];
        sum[i] = ADD ? sum[i] + pair : pair;
    }
    for (int i = pairs; i < pairs + singles; ++i)
        sum[i] = ADD ? sum[i] + even[STEP * i] : even[STEP * i];
}

// weights: 1 / luma columns under each chroma sample; row_weight: 1 / luma rows.
CRISPSTREAM_FN void encode_chroma(const Color &color, const uint8_t *base_u, const uint8_t *base_v,
                                  const Planes<float> &sum, const float *weights, float row_weight, int n, uint8_t *u,
                                  uint8_t *v) {
    const float *r = sum[0], *g = sum[1], *b = sum[2];
    CRISPSTREAM_INDEPENDENT
    for (int i = 0; i < n; ++i) {
        const float weight = weights[i] * row_weight;
        const Chroma delta = chroma_codes(color, {r[i] * weight, g[i] * weight, b[i] * weight});
        u[i] = add_codes(base_u[i], zero_if_nan(delta.u));
        v[i] = add_codes(base_v[i], zero_if_nan(delta.v));
    }
}

} // namespace crispstream
#endif
