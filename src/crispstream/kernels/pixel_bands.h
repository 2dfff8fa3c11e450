// SPDX-License-Identifier: Apache-2.0
//
// What the CPU kernels share: bands of rows, a thread and a set of row buffers for each, and the decoding of a row.
#ifndef CRISPSTREAM_PIXEL_BANDS_H
#define CRISPSTREAM_PIXEL_BANDS_H

#include "launcher_checks.h"
#include "pixel_rows.h"

#include <exception>
#include <memory>
#include <thread>
#include <vector>

// The version for this processor is picked when the library is loaded. aarch64 has its vectors always.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12
#define CRISPSTREAM_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#elif defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define CRISPSTREAM_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CRISPSTREAM_CLONES
#endif

namespace crispstream {

// Row buffers of one band, not initialised, for `longest` elements and some around them; rows of R, G and B follow each
// other.
class Buffers {
public:
    enum Float { RGB = 0, RESIDUAL = 3, SUM = 6, MAP_LINE = 9, MASK = 11, GATE, ORDERED, FLOATS };
    enum Word { CHROMA_LINE, U16, V16, WORDS };
    enum Byte { PIXELS = 0, BLACK = 3, GRAY, BYTES };

    explicit Buffers(int longest)
        : width_(size_t(longest) + 16), floats_(new float[FLOATS * width_]), words_(new uint16_t[WORDS * width_]),
          bytes_(new uint8_t[BYTES * width_]) {}

    size_t width() const { return width_; }
    float *row(Float i, int plane = 0) { return floats_.get() + (i + plane) * width_; }
    uint16_t *row(Word i) { return words_.get() + i * width_; }
    uint8_t *row(Byte i, int plane = 0) { return bytes_.get() + (i + plane) * width_; }
    Planes<float> rows(Float i) { return {row(i), row(i, 1), row(i, 2)}; }
    Planes<uint8_t> rows(Byte i) { return {row(i), row(i, 1), row(i, 2)}; }

private:
    size_t width_;
    std::unique_ptr<float[]> floats_;
    std::unique_ptr<uint16_t[]> words_;
    std::unique_ptr<uint8_t[]> bytes_;
};

inline std::vector<Buffers> make_buffers(int bands, int longest) {
    std::vector<Buffers> buffers;
    for (int i = 0; i < bands; ++i)
        buffers.emplace_back(longest);
    return buffers;
}

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

// Chroma of luma row y, padded, as `decode_yuv_codes` wants it. STEP: bytes from one sample to the next.
template <int STEP>
CRISPSTREAM_FN void upsample_chroma(const crispstream_image &image, const uint8_t *plane, int64_t stride, int y,
                                    const Packing &packing, uint16_t *line, uint16_t *out) {
    const int chroma_width = half_up(image.width), last = half_up(image.height) - 1;
    const int near = y / 2, far = std::clamp(y % 2 ? near + 1 : near - 1, 0, last);
    const bool center = image.siting == CRISPSTREAM_CENTER;
    upsample_rows<STEP>(plane + stride * near, plane + stride * far, chroma_width, line);
    if (packing.s != 2) {
        upsample_columns<false>(line, chroma_width, center, out, 0);
        return pad(out, image.width, packing.length());
    }
    uint16_t *even = out, *odd = out + packing.cells;
    upsample_columns<true>(line, chroma_width, center, out, packing.cells);
    if (image.width % 2)
        odd[chroma_width - 1] = even[chroma_width - 1];
    std::fill(even + chroma_width, even + packing.cells, odd[chroma_width - 1]);
    std::fill(odd + chroma_width, odd + packing.cells, odd[chroma_width - 1]);
}

// One row of a frame as R, G, B in [0, 1], padded and in packed order; dx + 1 goes `phase` elements after dx.
template <class T>
CRISPSTREAM_FN void decode_row(const crispstream_image &image, const Color &color, int y, const Packing &packing,
                               Buffers &buffers, const Planes<T> &rgb, size_t phase) {
    const int width = image.width, length = packing.length();
    const uint8_t *source = row_of(image, 0, y);
    const Planes<uint8_t> pixels = buffers.rows(Buffers::PIXELS);
    if (!is_yuv(image)) {
        split<3>(source, width, pixels);
        for (uint8_t *row : pixels)
            pad(row, width, length);
        const Planes<T> planes = image.format == CRISPSTREAM_BGR24 ? Planes<T>{rgb[2], rgb[1], rgb[0]} : rgb;
        return by_factor(packing.s,
                         [&](auto s) CRISPSTREAM_LAMBDA { decode_codes<s>(packing, pixels, planes, phase); });
    }
    uint16_t *line = buffers.row(Buffers::CHROMA_LINE), *u = buffers.row(Buffers::U16), *v = buffers.row(Buffers::V16);
    if (image.format == CRISPSTREAM_NV12) {
        upsample_chroma<2>(image, image.plane[1], image.stride[1], y, packing, line, u);
        upsample_chroma<2>(image, image.plane[1] + 1, image.stride[1], y, packing, line, v);
    } else {
        upsample_chroma<1>(image, image.plane[1], image.stride[1], y, packing, line, u);
        upsample_chroma<1>(image, image.plane[2], image.stride[2], y, packing, line, v);
    }
    if (width < length) { // the frame's own row is not padded
        std::copy_n(source, width, pixels[0]);
        pad(pixels[0], width, length);
        source = pixels[0];
    }
    by_factor(packing.s,
              [&](auto s) CRISPSTREAM_LAMBDA { decode_yuv_codes<s>(color, packing, source, u, v, rgb, phase); });
}

} // namespace crispstream
#endif
