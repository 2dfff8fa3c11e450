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

// Rows of floats: three channels each of the frame, of d and of the sums that become chroma; the head's maps.
enum Row { RGB = 0, RESIDUAL = 3, SUM = 6, MASK = 9, GATE, MAP_LINE, PACKED_MASK, PACKED_GATE, ROWS };

// Row buffers of one band.
class Buffers {
public:
    explicit Buffers(const crispstream_geometry &geometry)
        : width_(size_t(geometry.padded_width) + geometry.map_stride), floats_(ROWS * width_), words_(3 * (width_ + 2)),
          codes_(5 * width_) {}

    float *row(int i) { return floats_.data() + i * width_; }
    Planes planes(int i) { return {row(i), row(i + 1), row(i + 2)}; }
    uint16_t *chroma(int i) { return words_.data() + i * (width_ + 2); }
    uint8_t *codes(int i) { return codes_.data() + i * width_; }

private:
    size_t width_;
    std::vector<float> floats_;
    std::vector<uint16_t> words_;
    std::vector<uint8_t> codes_;
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

inline Color color_of(const crispstream_image &image) {
    return is_yuv(image) ? make_color(image.matrix, image.range == CRISPSTREAM_FULL) : Color{};
}

template <int STEP>
CRISPSTREAM_FN void upsample_chroma(const crispstream_image &image, const uint8_t *plane, int64_t stride, int y,
                                    uint16_t *line, uint16_t *out) {
    const int chroma_width = half_up(image.width), last = half_up(image.height) - 1;
    const int near = y / 2, far = std::clamp(y % 2 ? near + 1 : near - 1, 0, last);
    upsample_rows<STEP>(plane + stride * near, plane + stride * far, chroma_width, line);
    upsample_columns(line, chroma_width, image.siting == CRISPSTREAM_CENTER, out);
}

// One row of a frame, as R, G, B in [0, 1], into the RGB buffers.
CRISPSTREAM_FN void decode_row(const crispstream_image &image, const Color &color, int y, Buffers &buffers) {
    const Planes rgb = buffers.planes(RGB);
    if (image.format == CRISPSTREAM_BGR24) {
        decode_packed(row_of(image, 0, y), image.width, rgb[2], rgb[1], rgb[0]);
    } else if (image.format == CRISPSTREAM_RGB24) {
        decode_packed(row_of(image, 0, y), image.width, rgb[0], rgb[1], rgb[2]);
    } else {
        uint16_t *line = buffers.chroma(0), *u16 = buffers.chroma(1), *v16 = buffers.chroma(2);
        if (image.format == CRISPSTREAM_NV12) {
            upsample_chroma<2>(image, image.plane[1], image.stride[1], y, line, u16);
            upsample_chroma<2>(image, image.plane[1] + 1, image.stride[1], y, line, v16);
        } else {
            upsample_chroma<1>(image, image.plane[1], image.stride[1], y, line, u16);
            upsample_chroma<1>(image, image.plane[2], image.stride[2], y, line, v16);
        }
        decode_yuv_row(color, row_of(image, 0, y), u16, v16, image.width, rgb);
    }
}

} // namespace crispstream
#endif
