// SPDX-License-Identifier: Apache-2.0
//
// Frame -> network input, on a GPU.

#include "job_checks.h"
#include "tensor_tiles.h"

namespace crispstream {

struct UnpackTask {
    Layout layout;
    crispstream_geometry geometry;
    const crispstream_job *jobs;
    void *packed;
};

// Columns beyond the frame's last one, `frame_last` of this tile, become column `last` of the row.
template <int N>
CRISPSTREAM_DEVICE void pad_row(int last, int frame_last, Row<N> &row) {
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        float edge = row[c][0];
#pragma unroll
        for (int i = 1; i < N; ++i)
            edge = i == last ? row[c][i] : edge;
#pragma unroll
        for (int i = 0; i < N; ++i)
            row[c][i] = i > frame_last ? edge : row[c][i];
    }
}

template <bool PRESET>
__global__ void __launch_bounds__(BLOCK_TILES *BLOCK_ROWS) unpack_tiles(UnpackTask task) {
    constexpr int N = tile_columns(PRESET);
    const Layout &layout = task.layout;
    const int x = int(blockIdx.x * BLOCK_TILES + threadIdx.x) * N;
    const int top = int(blockIdx.y * BLOCK_ROWS + threadIdx.y) * TILE_ROWS;
    if (x >= task.geometry.padded_width)
        return;
    const Surface source(task.jobs[blockIdx.z].source);
    const PackedLayout<PRESET> packing(task.geometry);
    void *tensor = static_cast<uint8_t *>(task.packed) + blockIdx.z * packing.frame_bytes();
    const int last = layout.width - 1;
    const int column = x <= last ? x : last / N * N; // a tile beyond the frame reads the last one inside
#pragma unroll
    for (int r = 0; r < TILE_ROWS; ++r) {
        const int y = top + r;
        if (y >= task.geometry.padded_height)
            return;
        Row<N> row;
        decode_row(layout, source, column, y < layout.height ? y : layout.height - 1, row);
        if (x + N - 1 > last)
            pad_row(last - column, last - x, row);
        store_row(tensor, packing, x, y, row);
    }
}

} // namespace crispstream

using namespace crispstream;

int32_t crispstream_cuda_unpack(const crispstream_job *jobs, const crispstream_job *device_jobs, int32_t batch,
                                const crispstream_geometry *geometry, void *packed, void *stream) {
    int32_t status = check_sources(jobs, device_jobs, batch, geometry);
    status = status ? status : check_memory(packed);
    if (status)
        return status;
    const UnpackTask task{layout_of(jobs[0].source), *geometry, device_jobs, packed};
    const bool preset = is_preset(*geometry);
    const dim3 grid = grid_of(geometry->padded_width, geometry->padded_height, batch, preset);
    const auto kernel = preset ? unpack_tiles<true> : unpack_tiles<false>;
    return launch(kernel, grid, dim3(BLOCK_TILES, BLOCK_ROWS), task, stream);
}
