// SPDX-License-Identifier: Apache-2.0
//
// The end of a branch, on the CPU: features * factors, then a 3x3 convolution to the packed residual, in one pass.
//
// Inference libraries pad the few channels of a residual to a multiple of their vectors, and write and read the product
// on the way. Here a block of 16 pixels of six channels (32 of twelve with AVX-512) stays in registers: vectors run
// along the row, so channels need no padding. The product is only ever three rows high.
#include "pixel_bands.h"

#include <new>

#if defined(__x86_64__) && defined(__GNUC__)
#define CRISPSTREAM_AVX2 __attribute__((target("avx2,fma")))
#define CRISPSTREAM_AVX512 __attribute__((target("avx512f,fma,prefer-vector-width=512")))
#endif
#define CRISPSTREAM_INLINE inline __attribute__((always_inline))

namespace crispstream {
namespace {

constexpr int TAPS = 9;
constexpr int LONGEST_BLOCK = 32;
constexpr int LONGEST_SIDE = 1 << 20;

// What stays in registers: GROUP output channels of BLOCK pixels, in vectors of LANES floats from any address.
template <int LANES, int GROUP_, int BLOCK_>
struct Registers {
    typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
    static constexpr int GROUP = GROUP_, BLOCK = BLOCK_, VECTORS = BLOCK / LANES;
};

struct Residual {
    const float *features, *factors;
    int channels, outputs, height, width;
    float *residual;
    int group;                       // output channels at once
    std::vector<float> weight, bias; // (groups, channels, TAPS, group) and (groups, group)

    int groups() const { return (outputs + group - 1) / group; }
    int64_t plane() const { return int64_t(height) * width; }
};

// Three rows of the product, of some columns and one more on either side: zero outside the image.
class Window {
public:
    explicit Window(const Residual &job)
        : stride_(std::min(job.width, columns_of(job.channels)) + LONGEST_BLOCK + 2), channels_(job.channels),
          rows_(size_t(3) * channels_ * stride_) {}

    // As many columns as keep a window, which every thread has one of, in the second cache level.
    static int columns_of(int channels) { return std::max(64'000 / (3 * channels) / LONGEST_BLOCK, 1) * LONGEST_BLOCK; }

    int stride() const { return stride_; }
    float *row(int y) { return rows_.data() + size_t((y + 3) % 3) * channels_ * stride_; }

    CRISPSTREAM_INLINE void fill(const Residual &job, int y, int begin, int end) {
        for (int c = 0; c < channels_; ++c) {
            float *out = row(y) + size_t(c) * stride_;
            if (y < 0 || y >= job.height) {
                std::fill(out, out + stride_, 0.0f);
                continue;
            }
            const float *x = job.features + c * job.plane() + int64_t(y) * job.width;
            const float *f = job.factors + c * (job.plane() / 4) + int64_t(y / 2) * (job.width / 2);
            out[0] = begin > 0 ? x[begin - 1] * f[(begin - 1) / 2] : 0.0f;
            for (int i = begin / 2; i < end / 2; ++i) {
                out[1 + 2 * i - begin] = x[2 * i] * f[i];
                out[2 + 2 * i - begin] = x[2 * i + 1] * f[i];
            }
            out[1 + end - begin] = end < job.width ? x[end] * f[end / 2] : 0.0f;
        }
    }

private:
    int stride_, channels_;
    std::vector<float> rows_;
};

// One block of one group: pixels x to x + `count` of row y; `rows` begin one pixel to the left of x.
template <class R>
CRISPSTREAM_INLINE void convolve(const Residual &job, const float *const rows[3], int stride, int group, int y, int x,
                                 int count) {
    using V = typename R::Vector;
    constexpr int GROUP = R::GROUP, BLOCK = R::BLOCK, VECTORS = R::VECTORS, LANES = BLOCK / VECTORS;
    const float *weight = job.weight.data() + size_t(group) * job.channels * TAPS * GROUP;
    V sum[GROUP][VECTORS];
    for (int o = 0; o < GROUP; ++o)
        for (int v = 0; v < VECTORS; ++v)
            sum[o][v] = V{} + job.bias[size_t(group) * GROUP + o];
    for (int c = 0; c < job.channels; ++c) {
        for (int dy = 0; dy < 3; ++dy) {
            const float *row = rows[dy] + size_t(c) * stride;
#pragma GCC unroll 3
            for (int dx = 0; dx < 3; ++dx, weight += GROUP) {
                V pixels[VECTORS];
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v)
                    pixels[v] = *reinterpret_cast<const V *>(row + dx + v * LANES);
#pragma GCC unroll 12
                for (int o = 0; o < GROUP; ++o)
#pragma GCC unroll 4
                    for (int v = 0; v < VECTORS; ++v)
                        sum[o][v] += weight[o] * pixels[v];
            }
        }
    }
    const int wanted = std::min(GROUP, job.outputs - group * GROUP);
    for (int o = 0; o < wanted; ++o) {
        float *out = job.residual + (group * GROUP + o) * job.plane() + int64_t(y) * job.width + x;
        if (count == BLOCK)
            for (int v = 0; v < VECTORS; ++v)
                *reinterpret_cast<V *>(out + v * LANES) = sum[o][v];
        else
            for (int i = 0; i < count; ++i)
                out[i] = sum[o][i / LANES][i % LANES];
    }
}

template <class R>
CRISPSTREAM_INLINE void residual_rows(const Residual &job, int first, int last, Window &window) {
    const int strips = (job.width + Window::columns_of(job.channels) - 1) / Window::columns_of(job.channels);
    const int columns = ((job.width + strips - 1) / strips + R::BLOCK - 1) / R::BLOCK * R::BLOCK;
    for (int begin = 0; begin < job.width; begin += columns) {
        const int end = std::min(begin + columns, job.width);
        window.fill(job, first - 1, begin, end);
        window.fill(job, first, begin, end);
        for (int y = first; y < last; ++y) {
            window.fill(job, y + 1, begin, end);
            for (int x = begin; x < end; x += R::BLOCK) {
                const float *rows[3] = {window.row(y - 1) + x - begin, window.row(y) + x - begin,
                                        window.row(y + 1) + x - begin};
                for (int group = 0; group < job.groups(); ++group)
                    convolve<R>(job, rows, window.stride(), group, y, x, std::min(R::BLOCK, end - x));
            }
        }
    }
}

using Four = Registers<4, 6, 16>;

#ifdef CRISPSTREAM_AVX2
using Eight = Registers<8, 6, 16>;     // 12 sums of the 16 registers
using Sixteen = Registers<16, 12, 32>; // 24 of 32

CRISPSTREAM_AVX2 void residual_rows_avx2(const Residual &job, int first, int last, Window &window) {
    residual_rows<Eight>(job, first, last, window);
}

CRISPSTREAM_AVX512 void residual_rows_avx512(const Residual &job, int first, int last, Window &window) {
    residual_rows<Sixteen>(job, first, last, window);
}
#endif

// What this processor runs: a function, and the group of output channels in whose order it reads the weights.
struct Way {
    int group;
    void (*rows)(const Residual &job, int first, int last, Window &window);
};

Way way_here() {
#ifdef CRISPSTREAM_AVX2
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma"))
        return {Sixteen::GROUP, residual_rows_avx512};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return {Eight::GROUP, residual_rows_avx2};
#endif
    return {Four::GROUP, residual_rows<Four>};
}

// (outputs, channels, TAPS) -> (groups, channels, TAPS, group): the kernel reads weights in this order.
void arrange(Residual &job, const float *weight, const float *bias) {
    const int group = job.group;
    job.weight.resize(size_t(job.groups()) * job.channels * TAPS * group);
    job.bias.resize(size_t(job.groups()) * group);
    for (int o = 0; o < job.outputs; ++o) {
        job.bias[o] = bias[o];
        for (int i = 0; i < job.channels * TAPS; ++i)
            job.weight[(size_t(o / group) * job.channels * TAPS + i) * group + o % group] =
                weight[size_t(o) * job.channels * TAPS + i];
    }
}

} // namespace
} // namespace crispstream

using namespace crispstream;

int32_t crispstream_cpu_residual(const float *features, const float *factors, const float *weight, const float *bias,
                                 int32_t channels, int32_t outputs, int32_t height, int32_t width, float *residual,
                                 int32_t threads) {
    if (!features || !factors || !weight || !bias || !residual)
        return CRISPSTREAM_NULL_POINTER;
    if (height < 2 || width < 2 || height % 2 || width % 2 || height > LONGEST_SIDE || width > LONGEST_SIDE)
        return CRISPSTREAM_BAD_SIZE;
    if (channels < 1 || channels > 4096 || outputs < 1 || outputs > 4096 || threads < 1)
        return CRISPSTREAM_BAD_ARGUMENT;
    try {
        const Way way = way_here();
        Residual job{features, factors, channels, outputs, height, width, residual, way.group, {}, {}};
        arrange(job, weight, bias);
        const int bands = band_count(height, 2, threads);
        std::vector<Window> windows(bands, Window(job));
        for_each_band(height, 2, bands, [&](int i, int first, int last) { way.rows(job, first, last, windows[i]); });
    } catch (const std::bad_alloc &) {
        return CRISPSTREAM_NO_MEMORY;
    }
    return CRISPSTREAM_OK;
}
