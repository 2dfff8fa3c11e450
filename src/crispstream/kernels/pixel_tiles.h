// SPDX-License-Identifier: Apache-2.0
//
// What the CUDA kernels share. A thread works on a tile of 2 rows and N columns, so that a 4:2:0 chroma sample never
// straddles tiles. N is 8 for what the presets have: 24 bytes of packed pixels are three 8-byte words, and with s = 2
// the tile has four neighbours of every plane of a packed tensor, half floats, which travel as one such word. The lanes
// of a warp are 32 consecutive tiles of one pair of rows, so they read and write 256 consecutive bytes of such a plane
// at once. For anything else N is 2, which keeps the code small. Threads do not wait for one another.
#ifndef CRISPSTREAM_PIXEL_TILES_H
#define CRISPSTREAM_PIXEL_TILES_H

#include "launcher_checks.h"
#include "pixel_math.h"

#include <cuda_runtime.h>

#define CRISPSTREAM_DEVICE __device__ __forceinline__

namespace crispstream {

constexpr int TILE_ROWS = 2;
constexpr int BLOCK_TILES = 32, BLOCK_ROWS = 4; // threads of a block: tiles of a pair of rows, pairs of rows

// --- launching ------------------------------------------------------------------------------------------------------

// Columns of a tile.
__host__ __device__ constexpr int tile_columns(bool preset) { return preset ? 8 : 2; }

// Blocks for `batch` pictures of this size.
inline dim3 grid_of(int width, int height, int batch, bool preset) {
    const int columns = tile_columns(preset) * BLOCK_TILES, rows = TILE_ROWS * BLOCK_ROWS;
    return dim3((width + columns - 1) / columns, (height + rows - 1) / rows, batch);
}

inline int32_t status_of(cudaError_t error) {
    return error == cudaSuccess ? CRISPSTREAM_OK : CRISPSTREAM_CUDA_ERROR + int32_t(error);
}

template <class Task>
int32_t launch(void (*kernel)(Task), dim3 grid, dim3 block, const Task &task, void *stream) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.stream = static_cast<cudaStream_t>(stream);
    return status_of(cudaLaunchKernelEx(&config, kernel, task));
}

// --- images ---------------------------------------------------------------------------------------------------------

// What a launch fixes of an image; the rest stands in its job.
struct Layout {
    int format, width, height;
    bool center; // siting of chroma
    Color color;
};

inline Layout layout_of(const crispstream_image &image) {
    return {image.format, image.width, image.height, image.siting == CRISPSTREAM_CENTER, color_of(image)};
}

// What the job says of an image when the kernel runs.
struct Surface {
    uint8_t *plane[3];
    int64_t stride[3];

    CRISPSTREAM_DEVICE explicit Surface(const crispstream_image &image)
        : plane{image.plane[0], image.plane[1], image.plane[2]},
          stride{image.stride[0], image.stride[1], image.stride[2]} {
#if defined(__CUDA_ARCH__) // a pointer that comes out of memory could point to shared memory for all the compiler knows
        for (const uint8_t *memory : plane)
            __builtin_assume(__isGlobal(memory));
#endif
    }
    CRISPSTREAM_DEVICE uint8_t *row(int i, int y) const { return plane[i] + stride[i] * y; }
    // True where every row of a plane starts at a multiple of `bytes`, a power of two.
    CRISPSTREAM_DEVICE bool aligned(int i, int bytes) const {
        return ((uint64_t(reinterpret_cast<uintptr_t>(plane[i])) | uint64_t(stride[i])) & uint64_t(bytes - 1)) == 0;
    }
};

using Word = unsigned long long; // eight codes, or four halves

// N codes in registers.
template <int N>
struct Codes {
    uint32_t words[(N + 3) / 4];

    CRISPSTREAM_DEVICE explicit Codes(uint8_t code = 0) {
        for (uint32_t &word : words)
            word = code * 0x01010101u;
    }
    CRISPSTREAM_DEVICE uint8_t operator[](int i) const { return uint8_t(words[i / 4] >> i % 4 * 8); }
    CRISPSTREAM_DEVICE void add(int i, uint8_t code) { words[i / 4] |= uint32_t(code) << i % 4 * 8; } // where 0 was
};

// READ_ONLY: nobody writes the memory while the kernel runs, so the load may overtake the thread's own stores.
template <bool READ_ONLY, class T>
CRISPSTREAM_DEVICE T load_from(const T *from) {
    return READ_ONLY ? __ldg(from) : *from;
}

// N codes, `count` > 0 of which exist; the last STEP of those stand for what lies beyond.
template <int N, int STEP, bool READ_ONLY>
CRISPSTREAM_DEVICE Codes<N> load_codes(const uint8_t *from, int count, bool aligned) {
    Codes<N> codes;
    if (N % 4 == 0 && aligned && count >= N) {
        if constexpr (N % 8 == 0) {
#pragma unroll
            for (int i = 0; i < N / 8; ++i) {
                const Word pair = load_from<READ_ONLY>(reinterpret_cast<const Word *>(from) + i);
                codes.words[2 * i] = uint32_t(pair);
                codes.words[2 * i + 1] = uint32_t(pair >> 32);
            }
        } else {
            codes.words[0] = load_from<READ_ONLY>(reinterpret_cast<const uint32_t *>(from));
        }
        return codes;
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
        codes.add(i, load_from<READ_ONLY>(from + (i < count ? i : count - STEP + i % STEP)));
    return codes;
}

// The first `count` of N codes.
template <int N>
CRISPSTREAM_DEVICE void store_codes(uint8_t *to, const Codes<N> &codes, int count, bool aligned) {
    if (N % 4 == 0 && aligned && count >= N) {
        if constexpr (N % 8 == 0) {
#pragma unroll
            for (int i = 0; i < N / 8; ++i)
                reinterpret_cast<Word *>(to)[i] = codes.words[2 * i] | Word(codes.words[2 * i + 1]) << 32;
        } else {
            *reinterpret_cast<uint32_t *>(to) = codes.words[0];
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
        if (i < count)
            to[i] = codes[i];
}

// N samples of U and of V.
template <int N>
struct ChromaCodes {
    Codes<N> u, v;
};

// Chroma columns x .. x + N - 1 of row y, x a multiple of N and inside the plane.
template <int N, bool READ_ONLY>
CRISPSTREAM_DEVICE ChromaCodes<N> load_chroma(const Layout &layout, const Surface &surface, int x, int y) {
    const int count = half_up(layout.width) - x;
    if (layout.format == CRISPSTREAM_I420)
        return {load_codes<N, 1, READ_ONLY>(surface.row(1, y) + x, count, surface.aligned(1, 4)),
                load_codes<N, 1, READ_ONLY>(surface.row(2, y) + x, count, surface.aligned(2, 4))};
    const auto pairs = load_codes<2 * N, 2, READ_ONLY>(surface.row(1, y) + 2 * x, 2 * count, surface.aligned(1, 8));
    ChromaCodes<N> codes;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        codes.u.add(i, pairs[2 * i]);
        codes.v.add(i, pairs[2 * i + 1]);
    }
    return codes;
}

template <int N>
CRISPSTREAM_DEVICE void store_chroma(const Layout &layout, const Surface &surface, int x, int y,
                                     const ChromaCodes<N> &codes) {
    const int count = half_up(layout.width) - x;
    if (layout.format == CRISPSTREAM_I420) {
        store_codes(surface.row(1, y) + x, codes.u, count, surface.aligned(1, 4));
        store_codes(surface.row(2, y) + x, codes.v, count, surface.aligned(2, 4));
        return;
    }
    Codes<2 * N> pairs;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        pairs.add(2 * i, codes.u[i]);
        pairs.add(2 * i + 1, codes.v[i]);
    }
    store_codes(surface.row(1, y) + 2 * x, pairs, 2 * count, surface.aligned(1, 8));
}

// --- decoding -------------------------------------------------------------------------------------------------------

template <int N>
using Row = float[3][N]; // R, G and B of one row of a tile

// Chroma columns x - 1 .. x + N of row y: U in the low half of each word, V in the high half.
template <int N>
CRISPSTREAM_DEVICE void load_chroma_row(const Layout &layout, const Surface &source, int x, int y,
                                        uint32_t (&pairs)[N + 2]) {
    const ChromaCodes<N> inner = load_chroma<N, true>(layout, source, x, y);
#pragma unroll
    for (int i = 0; i < N; ++i)
        pairs[1 + i] = inner.u[i] | uint32_t(inner.v[i]) << 16;
    const bool planar = layout.format == CRISPSTREAM_I420;
    const int last = half_up(layout.width) - 1, step = planar ? 1 : 2;
    const int before = x > 0 ? x - 1 : 0, after = x + N < last ? x + N : last;
    const uint8_t *u = source.row(1, y), *v = planar ? source.row(2, y) : u + 1;
    pairs[0] = __ldg(u + step * before) | uint32_t(__ldg(v + step * before)) << 16;
    pairs[N + 1] = __ldg(u + step * after) | uint32_t(__ldg(v + step * after)) << 16;
}

// One row of a tile as RGB in [0, 1]; x, y: inside the frame. Columns beyond the frame hold anything finite. The source
// is read only while the kernel runs. U and V are upsampled together: their sixteenths have 12 bits each.
template <int N>
CRISPSTREAM_DEVICE void decode_row(const Layout &layout, const Surface &source, int x, int y, Row<N> &rgb) {
    const int count = layout.width - x;
    if (layout.format <= CRISPSTREAM_RGB24) {
        const auto codes = load_codes<3 * N, 3, true>(source.row(0, y) + 3 * x, 3 * count, source.aligned(0, 8));
        const bool bgr = layout.format == CRISPSTREAM_BGR24;
#pragma unroll
        for (int i = 0; i < N; ++i) {
            rgb[0][i] = decode_code(bgr ? codes[3 * i + 2] : codes[3 * i]);
            rgb[1][i] = decode_code(codes[3 * i + 1]);
            rgb[2][i] = decode_code(bgr ? codes[3 * i] : codes[3 * i + 2]);
        }
        return;
    }
    const auto luma = load_codes<N, 1, true>(source.row(0, y) + x, count, source.aligned(0, 8));
    const int last = half_up(layout.height) - 1, near = y / 2;
    const int far = y % 2 ? (near < last ? near + 1 : last) : (near > 0 ? near - 1 : 0);
    uint32_t line[N / 2 + 2], other[N / 2 + 2]; // quarters of a code after the sum
    load_chroma_row<N / 2>(layout, source, x / 2, near, line);
    load_chroma_row<N / 2>(layout, source, x / 2, far, other);
#pragma unroll
    for (int i = 0; i < N / 2 + 2; ++i)
        line[i] = 3 * line[i] + other[i];
    const uint32_t before = layout.center ? 1 : 0, even = layout.center ? 3 : 4;
    const uint32_t after = layout.center ? 1 : 2, odd = layout.center ? 3 : 2;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const int k = i / 2 + 1;
        const uint32_t uv = i % 2 ? odd * line[k] + after * line[k + 1] : even * line[k] + before * line[k - 1];
        const Rgb pixel = decode_yuv(layout.color, luma[i], uint16_t(uv & 0xffff), uint16_t(uv >> 16));
        rgb[0][i] = pixel.r;
        rgb[1][i] = pixel.g;
        rgb[2][i] = pixel.b;
    }
}

} // namespace crispstream
#endif
