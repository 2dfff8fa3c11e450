// SPDX-License-Identifier: Apache-2.0
//
// What the CPU kernels share: bands of rows, a thread and a set of row buffers for each, and the decoding of a row.
#ifndef CRISPSTREAM_PIXEL_BANDS_H
#define CRISPSTREAM_PIXEL_BANDS_H

#include "launcher_checks.h"
#include "pixel_rows.h"

#include <exception>
#include <thread>
#include <vector>

// The version for this processor is picked when the library is loaded.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define CRISPSTREAM_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CRISPSTREAM_CLONES
#endif

namespace crispstream {

// Row buffers of one band; rows of R, G and B (or U and V) follow each other.
class Buffers {
public:
    enum Float { RGB = 0, RESIDUAL = 3, SUM = 6, GATE = 9, MASK, MAP_LINE, WEIGHTS, FLOATS };
    enum Word { CHROMA_LINE, U16, V16, PACKED_U16, PACKED_V16, WORDS };
    enum Byte { PIXELS = 0, PACKED = 3, CODES = 6, BLACK = 9, GRAY, BYTES };

    explicit Buffers(const crispstream_geometry &geometry)
        : width_(size_t(geometry.padded_width) + geometry.map_stride + 2), floats_(FLOATS * width_),
          words_(WORDS * width_), bytes_(BYTES * width_) {}

    float *row(Float i, int plane = 0) { return floats_.data() + (i + plane) * width_; }
    uint16_t *row(Word i) { return words_.data() + i * width_; }
    uint8_t *row(Byte i, int plane = 0) { return bytes_.data() + (i + plane) * width_; }
    Planes<float> rows(Float i) { return {row(i), row(i, 1), row(i, 2)}; }

private:
    size_t width_;
    std::vector<float> floats_;
    std::vector<uint16_t> words_;
    std::vector<uint8_t> bytes_;
};

// How many bands `rows` rows make: at most `threads`, each at least `step` rows.
inline int band_count(int rows, int step, int threads) { return std::min(threads, (rows + step - 1) / step); }

// Calls band(i, first row, end row) for every band, the last ones in threads of their own; `step` divides their starts.
// `band` does not throw.
template <class Band>
void for_each_band(int rows, int step, int bands, Band band) {
    const int groups = (rows + step - 1) / step;
    const auto run = [&](int i) {
        const auto edge = [&](int k) { return std::min(int(int64_t(groups) * k / bands) * step, rows); };
        band(i, edge(i), edge(i + 1));
    };
    std::vector<std::thread> workers;
    workers.reserve(size_t(bands));
    for (int i = 1; i < bands; ++i) {
        try {
            workers.emplace_back(run, i);
        } catch (const std::exception &) { // no more threads to be had
            run(i);
        }
    }
    run(0);
    for (std::thread &worker : workers)
        worker.join();
}

inline uint8_t *row_of(const crispstream_image &image, int plane, int y) {
    return image.plane[plane] + image.stride[plane] * y;
}

template <int STEP>
CRISPSTREAM_FN void upsample_chroma(const crispstream_image &image, const uint8_t *plane, int64_t stride, int y,
                                    uint16_t *line, uint16_t *out) {
    const int chroma_width = half_up(image.width), last = half_up(image.height) - 1;
    const int near = y / 2, far = std::clamp(y % 2 ? near + 1 : near - 1, 0, last);
    upsample_rows<STEP>(plane + stride * near, plane + stride * far, chroma_width, line);
    upsample_columns(line, chroma_width, image.siting == CRISPSTREAM_CENTER, out);
}

// Pads a row by its last element and packs it.
template <class T>
CRISPSTREAM_FN void pad_and_pack(T *row, int width, Packing packing, T *packed) {
    std::fill(row + width, row + packing.length(), row[width - 1]);
    pack_row(row, packing, packed);
}

// One row of a frame as R, G, B in [0, 1], padded and in packed order; dx + 1 goes `phase` elements after dx.
template <class T>
CRISPSTREAM_FN void decode_row(const crispstream_image &image, const Color &color, int y, Packing packing,
                               Buffers &buffers, const Planes<T> &rgb, size_t phase) {
    const int width = image.width;
    const uint8_t *source = row_of(image, 0, y);
    if (!is_yuv(image)) {
        const auto pixels = [&](int c) { return buffers.row(Buffers::PIXELS, c); };
        split<3>(source, width, {pixels(0), pixels(1), pixels(2)});
        for (int c = 0; c < 3; ++c) {
            uint8_t *packed = buffers.row(Buffers::PACKED, c);
            pad_and_pack(pixels(c), width, packing, packed);
            T *out = rgb[image.format == CRISPSTREAM_BGR24 ? 2 - c : c];
            for (int dx = 0; dx < packing.s; ++dx)
                decode_codes(packed + dx * packing.cells, packing.cells, out + dx * phase);
        }
        return;
    }
    uint8_t *luma = buffers.row(Buffers::PIXELS), *packed = buffers.row(Buffers::PACKED);
    uint16_t *line = buffers.row(Buffers::CHROMA_LINE), *u = buffers.row(Buffers::U16), *v = buffers.row(Buffers::V16);
    uint16_t *packed_u = buffers.row(Buffers::PACKED_U16), *packed_v = buffers.row(Buffers::PACKED_V16);
    if (image.format == CRISPSTREAM_NV12) {
        upsample_chroma<2>(image, image.plane[1], image.stride[1], y, line, u);
        upsample_chroma<2>(image, image.plane[1] + 1, image.stride[1], y, line, v);
    } else {
        upsample_chroma<1>(image, image.plane[1], image.stride[1], y, line, u);
        upsample_chroma<1>(image, image.plane[2], image.stride[2], y, line, v);
    }
    std::copy_n(source, width, luma);
    pad_and_pack(luma, width, packing, packed);
    pad_and_pack(u, width, packing, packed_u);
    pad_and_pack(v, width, packing, packed_v);
    for (int dx = 0; dx < packing.s; ++dx) {
        const int at = dx * packing.cells;
        decode_yuv_codes(color, packed + at, packed_u + at, packed_v + at, packing.cells, rgb[0] + dx * phase,
                         rgb[1] + dx * phase, rgb[2] + dx * phase);
    }
}

} // namespace crispstream
#endif
