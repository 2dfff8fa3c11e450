// SPDX-License-Identifier: Apache-2.0
//
// Tiles of the network's tensors, for the CUDA kernels. PRESET: float16, s = 2 and a map stride of 8, as every preset
// has them; then all three are known to the compiler and elements travel in fours. Otherwise they are found at run
// time.
#ifndef CRISPSTREAM_TENSOR_TILES_H
#define CRISPSTREAM_TENSOR_TILES_H

#include "pixel_tiles.h"

namespace crispstream {

inline bool is_preset(const crispstream_geometry &geometry) {
    return geometry.pack == 2 && geometry.map_stride == 8 && geometry.dtype == CRISPSTREAM_FLOAT16;
}

// --- elements: 32 bits are enough for an index inside the tensors of one frame --------------------------------------

CRISPSTREAM_DEVICE float load_element(const void *tensor, bool half, int i) {
    return half ? float_of_half(__ldg(static_cast<const uint16_t *>(tensor) + i))
                : __ldg(static_cast<const float *>(tensor) + i);
}

CRISPSTREAM_DEVICE void store_element(void *tensor, bool half, int i, float value) {
    if (half)
        static_cast<uint16_t *>(tensor)[i] = half_of_float(value);
    else
        static_cast<float *>(tensor)[i] = value;
}

// Bytes from one frame's `elements` of a batched tensor to the next frame's.
CRISPSTREAM_DEVICE int64_t bytes_of(int64_t elements, bool half) { return half ? 2 * elements : 4 * elements; }

// --- packed tensors -------------------------------------------------------------------------------------------------

// Where the samples of a frame lie in a packed tensor.
template <bool PRESET>
struct PackedLayout {
    int s, cells, plane, width;
    bool half;

    CRISPSTREAM_DEVICE explicit PackedLayout(const crispstream_geometry &geometry)
        : s(PRESET ? 2 : geometry.pack), cells(geometry.padded_width / s), plane(cells * (geometry.padded_height / s)),
          width(geometry.padded_width), half(PRESET || geometry.dtype == CRISPSTREAM_FLOAT16) {}

    CRISPSTREAM_DEVICE int64_t frame_bytes() const { return bytes_of(int64_t(3) * s * s * plane, half); }
    CRISPSTREAM_DEVICE int index(int channel, int x, int y) const {
        return ((channel * s + y % s) * s + x % s) * plane + y / s * cells + x / s;
    }
};

// One row of a tile of a tensor that nobody writes; columns beyond the padded frame repeat its last one.
template <bool PRESET, int N>
CRISPSTREAM_DEVICE void load_row(const void *tensor, const PackedLayout<PRESET> &packing, int x, int y, Row<N> &row) {
#pragma unroll
    for (int c = 0; c < 3; ++c)
        if constexpr (PRESET) {
#pragma unroll
            for (int dx = 0; dx < 2; ++dx) {
                const uint16_t *from = static_cast<const uint16_t *>(tensor) + packing.index(c, x + dx, y);
                const Word four = __ldg(reinterpret_cast<const Word *>(from));
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    row[c][2 * i + dx] = float_of_half(uint16_t(four >> 16 * i));
            }
        } else {
#pragma unroll
            for (int i = 0; i < N; ++i) {
                const int column = x + i < packing.width ? x + i : packing.width - 1;
                row[c][i] = load_element(tensor, packing.half, packing.index(c, column, y));
            }
        }
}

// Writes what of the row lies inside the padded frame.
template <bool PRESET, int N>
CRISPSTREAM_DEVICE void store_row(void *tensor, const PackedLayout<PRESET> &packing, int x, int y, const Row<N> &row) {
#pragma unroll
    for (int c = 0; c < 3; ++c)
        if constexpr (PRESET) {
#pragma unroll
            for (int dx = 0; dx < 2; ++dx) {
                uint16_t *to = static_cast<uint16_t *>(tensor) + packing.index(c, x + dx, y);
                Word four = 0;
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    four |= Word(half_of_float(row[c][2 * i + dx])) << 16 * i;
                *reinterpret_cast<Word *>(to) = four;
            }
        } else {
#pragma unroll
            for (int i = 0; i < N; ++i)
                if (x + i < packing.width)
                    store_element(tensor, packing.half, packing.index(c, x + i, y), row[c][i]);
        }
}

// --- maps of the head -----------------------------------------------------------------------------------------------

// The sizes of a map.
template <bool PRESET>
struct MapSize {
    int stride, width, height;
    bool half;

    CRISPSTREAM_DEVICE explicit MapSize(const crispstream_geometry &geometry)
        : stride(PRESET ? 8 : geometry.map_stride), width(geometry.padded_width / stride),
          height(geometry.padded_height / stride), half(PRESET || geometry.dtype == CRISPSTREAM_FLOAT16) {}

    // Mask (0) or gate (1) of a picture of the batch.
    CRISPSTREAM_DEVICE const void *find(const void *head, int64_t picture, int channel) const {
        return static_cast<const uint8_t *>(head) + bytes_of((2 * picture + channel) * width * height, half);
    }
};

// A map under the tile at x, y.
template <bool PRESET>
struct MapTile {
    const void *map;
    MapSize<false> size;
    int x;

    CRISPSTREAM_DEVICE MapTile(const void *map, const MapSize<false> &size, int x, int) : map(map), size(size), x(x) {}

    CRISPSTREAM_DEVICE float sample(int column, const Tap &rows) const {
        return lerp(load_element(map, size.half, rows.first * size.width + column),
                    load_element(map, size.half, rows.second * size.width + column), rows.weight);
    }

    // gain * map + bias of one row of the tile.
    template <int N>
    CRISPSTREAM_DEVICE void upsample(int y, float gain, float bias, float (&out)[N]) const {
        const Tap rows = tap_at(y, size.stride, size.height);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const int last = size.stride * size.width - 1;
            const Tap columns = tap_at(x + i < last ? x + i : last, size.stride, size.width);
            out[i] = gain * lerp(sample(columns.first, rows), sample(columns.second, rows), columns.weight) + bias;
        }
    }
};

// With a stride of 8 a tile lies over one column of cells, and both its rows between the same two rows of them: six
// samples serve it all.
template <>
struct MapTile<true> {
    int height;
    bool first_column;
    float upper[3], lower[3];

    CRISPSTREAM_DEVICE MapTile(const void *map, const MapSize<true> &size, int x, int y)
        : height(size.height), first_column(x == 0) {
        const int cell = x / 8, columns[3] = {cell > 0 ? cell - 1 : 0, cell, cell + 1 < size.width ? cell + 1 : cell};
        const Tap rows = tap_at(y, 8, height);
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            upper[i] = load_element(map, true, rows.first * size.width + columns[i]);
            lower[i] = load_element(map, true, rows.second * size.width + columns[i]);
        }
    }

    CRISPSTREAM_DEVICE void upsample(int y, float gain, float bias, float (&out)[8]) const {
        const float weight = tap_at(y, 8, height).weight;
        float line[3];
#pragma unroll
        for (int i = 0; i < 3; ++i)
            line[i] = lerp(upper[i], lower[i], weight);
        // The border clamps the position, not the cell: its four columns are the first cell plus 0 times the second.
        const float left = first_column ? line[1] : line[0], right = first_column ? line[2] : line[1];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const float value = i < 4 ? lerp(left, right, first_column ? 0.0f : float(2 * i + 9) * 0.0625f)
                                      : lerp(line[1], line[2], float(2 * i - 7) * 0.0625f);
            out[i] = gain * value + bias;
        }
    }
};

} // namespace crispstream
#endif
