// SPDX-License-Identifier: Apache-2.0
//
// Arithmetic of one pixel, for host and device. Every loop over pixels, on a CPU or a GPU, calls these functions, so
// they all round alike. float32 in exactly the written order; compile with -ffp-contract=off (nvcc: -fmad=false).
// docs/kernels.md says the same in words, reference.py in NumPy.
#ifndef CRISPSTREAM_PIXEL_MATH_H
#define CRISPSTREAM_PIXEL_MATH_H

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define CRISPSTREAM_FN __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define CRISPSTREAM_FN inline __attribute__((always_inline)) // a caller's target_clones reach only what is inlined
#else
#define CRISPSTREAM_FN inline
#endif

namespace crispstream {

struct Rgb {
    float r, g, b;
};

struct Chroma {
    float u, v;
};

// Constants of one (matrix, range), all float32; crispstream_color hands them out in this order.
struct Color {
    float kr, kg, kb;       // luma of linear RGB
    float ur, ug, ub;       // U of linear RGB, in -0.5..0.5
    float vr, vg, vb;       // V of linear RGB, in -0.5..0.5
    float rv, gu, gv, bu;   // R, G, B of chroma codes around 0
    float y_offset, y_unit; // Y code -> [0, 1]: (Y - y_offset) * y_unit
    float y_codes, c_codes; // codes that [0, 1] luma and -0.5..0.5 chroma span
};

// Kr and Kb of ITU-R BT.601-7, BT.709-6, BT.2020-2; the formulas are those of ITU-T H.273, computed in double.
inline Color make_color(int matrix, bool full_range) {
    const double primaries[3][2] = {{0.299, 0.114}, {0.2126, 0.0722}, {0.2627, 0.0593}};
    const double kr = primaries[matrix][0], kb = primaries[matrix][1], kg = 1.0 - kr - kb;
    const double cr = 2.0 * (1.0 - kr), cb = 2.0 * (1.0 - kb);
    const double y_codes = full_range ? 255.0 : 219.0, c_codes = full_range ? 255.0 : 224.0;
    return {float(kr),
            float(kg),
            float(kb),
            float(-kr / cb),
            float(-kg / cb),
            0.5f,
            0.5f,
            float(-kg / cr),
            float(-kb / cr),
            float(cr / c_codes),
            float(-cb * kb / kg / c_codes),
            float(-cr * kr / kg / c_codes),
            float(cb / c_codes),
            full_range ? 0.0f : 16.0f,
            float(1.0 / y_codes),
            float(y_codes),
            float(c_codes)};
}

CRISPSTREAM_FN float float_of_bits(int32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

CRISPSTREAM_FN int32_t bits_of_float(float value) {
    int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// Chroma samples for n luma samples of a row or column.
CRISPSTREAM_FN int half_up(int n) { return (n + 1) / 2; }

// All ones or 0. Selecting by mask keeps loops free of the branches that GCC would make of a condition used twice.
CRISPSTREAM_FN int32_t mask_of(bool condition) { return -int32_t(condition); }

// Clamp to 0..top. Bit patterns of floats order like integers above zero and are negative below, and an integer
// minimum or maximum is one instruction where GCC keeps the comparison of floats for the sake of NaN.
CRISPSTREAM_FN float clamp_to(float top, float value) {
    int32_t bits = bits_of_float(value);
    bits = bits > 0 ? bits : 0;
    return float_of_bits(bits < bits_of_float(top) ? bits : bits_of_float(top));
}

// 0 <= code < 2^23, exact. A GPU converts four to eight times slower than it adds: there the integer becomes the
// mantissa of a float between 2^23 and 2^24.
CRISPSTREAM_FN float float_of_code(int32_t code) {
#if defined(__CUDA_ARCH__)
    return float_of_bits(code | 0x4b000000) - 0x1p23f;
#else
    return float(code);
#endif
}

// The integer part of 0 <= value < 2^23.
CRISPSTREAM_FN int32_t code_of_float(float value) {
#if defined(__CUDA_ARCH__)
    return bits_of_float(__fadd_rz(value, 0x1p23f)) & 0x7fffff;
#else
    return int32_t(value);
#endif
}

// --- decoding -------------------------------------------------------------------------------------------------------

CRISPSTREAM_FN float decode_code(uint8_t code) { return float_of_code(code) * (1.0f / 255.0f); }

// u16 and v16: chroma in sixteenths of a code, as the bilinear upsampling leaves it. Everything up to `u` is exact.
CRISPSTREAM_FN Rgb decode_yuv(const Color &color, uint8_t luma, uint16_t u16, uint16_t v16) {
    const float y = (float_of_code(luma) - color.y_offset) * color.y_unit;
    const float u = float_of_code(u16) * (1.0f / 16.0f) - 128.0f;
    const float v = float_of_code(v16) * (1.0f / 16.0f) - 128.0f;
    return {clamp_to(1.0f, y + v * color.rv), clamp_to(1.0f, (y + u * color.gu) + v * color.gv),
            clamp_to(1.0f, y + u * color.bu)};
}

// --- the head -------------------------------------------------------------------------------------------------------

// Bilinear upsampling by an integer, half-pixel centres: source = (x + 0.5) / stride - 0.5, clamped at 0.
struct Tap {
    int first, second;
    float weight;
};

CRISPSTREAM_FN Tap tap_at(int x, int stride, int cells) {
    const int shifted = 2 * x + 1 - stride, twice = shifted > 0 ? shifted : 0, first = twice / (2 * stride);
    return {first, first + 1 < cells ? first + 1 : cells - 1, float(twice % (2 * stride)) / float(2 * stride)};
}

// --- residual -------------------------------------------------------------------------------------------------------

CRISPSTREAM_FN float lerp(float a, float b, float weight) { return a * (1.0f - weight) + b * weight; }

// gate: strength * g; mask: mask_gain * m + mask_bias.
CRISPSTREAM_FN float mix_residuals(float gate, float mask, float foreground, float background) {
    return gate * (mask * foreground + (1.0f - mask) * background);
}

// All ones where the value is infinite or not a number.
CRISPSTREAM_FN int32_t not_finite(float value) {
#if defined(__CUDA_ARCH__)
    return mask_of(!(fabsf(value) <= 0x1.fffffep127f)); // one instruction there
#else
    return mask_of((bits_of_float(value) & 0x7fffffff) > 0x7f7fffff);
#endif
}

// --- encoding -------------------------------------------------------------------------------------------------------

CRISPSTREAM_FN float luma_codes(const Color &color, Rgb p) {
    return ((color.kr * p.r + color.kg * p.g) + color.kb * p.b) * color.y_codes;
}

CRISPSTREAM_FN Chroma chroma_codes(const Color &color, Rgb p) {
    return {((color.ur * p.r + color.ug * p.g) + color.ub * p.b) * color.c_codes,
            ((color.vr * p.r + color.vg * p.g) + color.vb * p.b) * color.c_codes};
}

CRISPSTREAM_FN uint8_t add_codes(uint8_t base, float delta) {
    return uint8_t(code_of_float(clamp_to(255.0f, float_of_code(base) + delta) + 0.5f));
}

// The sum of finite residuals can overflow to infinity minus infinity: such a sample keeps its code.
CRISPSTREAM_FN float zero_if_nan(float value) {
    const int32_t bits = bits_of_float(value);
    return float_of_bits(bits & ~mask_of((bits & 0x7fffffff) > 0x7f800000));
}

// --- IEEE 754 binary16 ----------------------------------------------------------------------------------------------
//
// On a GPU the hardware's conversion; elsewhere the same without branches, so that loops vectorise on any target. They
// may differ in the payload of a NaN, which nothing looks at.

CRISPSTREAM_FN float float_of_half(uint16_t half) {
#if defined(__CUDA_ARCH__)
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
#else
    const int32_t magnitude = half & 0x7fff, shifted = magnitude << 13;
    const int32_t special = (112 << 23) & mask_of(magnitude >= 0x7c00); // infinity and NaN: exponent 255
    const int32_t normal = shifted + (112 << 23) + special;
    const int32_t subnormal = bits_of_float(float_of_bits(shifted + (113 << 23)) - 0x1p-14f);
    const int32_t is_subnormal = mask_of(magnitude < 0x0400);
    const int32_t sign = int32_t(uint32_t(half & 0x8000) << 16);
    return float_of_bits((subnormal & is_subnormal) | (normal & ~is_subnormal) | sign);
#endif
}

// Round to nearest, ties to even, for 0 <= value < 65520.
CRISPSTREAM_FN uint16_t half_of_float(float value) {
#if defined(__CUDA_ARCH__)
    uint16_t half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
#else
    const int32_t bits = bits_of_float(value);
    const int32_t normal = (bits - (112 << 23) + 0xfff + ((bits >> 13) & 1)) >> 13;
    const int32_t subnormal = bits_of_float(value + 0.5f) - bits_of_float(0.5f); // 0.5f has the ulp of a subnormal half
    const int32_t is_subnormal = mask_of(bits < (113 << 23));
    return uint16_t((subnormal & is_subnormal) | (normal & ~is_subnormal));
#endif
}

CRISPSTREAM_FN void load(const float *from, float &value) { value = *from; }
CRISPSTREAM_FN void load(const uint16_t *from, float &value) { value = float_of_half(*from); }
CRISPSTREAM_FN void store(float *to, float value) { *to = value; }
CRISPSTREAM_FN void store(uint16_t *to, float value) { *to = half_of_float(value); }

} // namespace crispstream
#endif
