// SPDX-License-Identifier: Apache-2.0
//
// Version, status, the head's statistics and graphs, on a GPU.

#include "job_checks.h"
#include "status_text.h"
#include "tensor_tiles.h"

static_assert(CUDART_VERSION >= 12000, "CUDA 12 or newer");

namespace crispstream {

constexpr int BLOCK_CELLS = 128;

struct StatisticsTask {
    crispstream_geometry geometry;
    const void *head;
    crispstream_findings *findings;
};

// Raises *to, which is not negative, to a value that is finite and greater. Every thread of the warp takes part; from
// sm_80 on one of them speaks for all, since writes to one address stand in line.
CRISPSTREAM_DEVICE void raise_to(float *to, float value) {
    uint32_t bits = not_finite(value) || !(value > 0.0f) ? 0 : uint32_t(bits_of_float(value));
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    bits = __reduce_max_sync(0xffffffffu, bits);
    if (threadIdx.x % 32)
        return;
#endif
    if (bits) // floats above zero order like their bits
        atomicMax(reinterpret_cast<unsigned int *>(to), bits);
}

// A thread for each 16x16-pixel cell.
__global__ void __launch_bounds__(BLOCK_CELLS) cell_statistics(StatisticsTask task) {
    const MapSize<false> size(task.geometry);
    const int side = 16 / size.stride, width = size.width, height = size.height;
    const int columns = (width + side - 1) / side, cell = int(blockIdx.x * BLOCK_CELLS + threadIdx.x);
    const int left = cell % columns * side, top = cell / columns * side;
    const void *masks = size.find(task.head, blockIdx.y, 0), *gates = size.find(task.head, blockIdx.y, 1);
    const int right = left + side < width ? left + side : width, bottom = top + side < height ? top + side : height;
    float people = 0.0f, rest = 0.0f;
    for (int y = top; y < bottom; ++y)
        for (int x = left; x < right; ++x) {
            const float mask = load_element(masks, size.half, y * width + x);
            const float gate = load_element(gates, size.half, y * width + x);
            people += gate * mask;
            rest += gate * (1.0f - mask);
        }
    const float count =
        float((bottom - top) * (right - left)); // not positive below the last cell, where both sums are 0
    crispstream_findings &findings = task.findings[blockIdx.y];
    raise_to(&findings.people, people / count);
    raise_to(&findings.rest, rest / count);
}

} // namespace crispstream

using namespace crispstream;

int32_t crispstream_abi_version(void) { return CRISPSTREAM_ABI_VERSION; }

const char *crispstream_status_text(int32_t status) {
    if (status >= CRISPSTREAM_CUDA_ERROR)
        return cudaGetErrorString(static_cast<cudaError_t>(status - CRISPSTREAM_CUDA_ERROR));
    return status_text(status);
}

int32_t crispstream_cuda_statistics(const crispstream_geometry *geometry, int32_t batch, const void *head,
                                    crispstream_findings *findings, void *stream) {
    int32_t status = check_batch(batch, geometry);
    status = status ? status : check_memory(head);
    status = status ? status : check_memory(findings);
    status = status ? status : 16 % geometry->map_stride ? CRISPSTREAM_BAD_ARGUMENT : CRISPSTREAM_OK;
    if (status)
        return status;
    const size_t bytes = size_t(batch) * sizeof *findings;
    status = status_of(cudaMemsetAsync(findings, 0, bytes, static_cast<cudaStream_t>(stream)));
    if (status)
        return status;
    const int columns = (geometry->padded_width + 15) / 16, rows = (geometry->padded_height + 15) / 16;
    const dim3 grid((columns * rows + BLOCK_CELLS - 1) / BLOCK_CELLS, batch);
    return launch(cell_statistics, grid, dim3(BLOCK_CELLS), StatisticsTask{*geometry, head, findings}, stream);
}

int32_t crispstream_cuda_capture_begin(void *stream) {
    return status_of(cudaStreamBeginCapture(static_cast<cudaStream_t>(stream), cudaStreamCaptureModeThreadLocal));
}

int32_t crispstream_cuda_capture_end(void *stream, void **graph) {
    if (!graph)
        return CRISPSTREAM_NULL_POINTER;
    *graph = nullptr;
    cudaGraph_t recorded = nullptr;
    if (const cudaError_t error = cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &recorded))
        return status_of(error);
    cudaGraphExec_t executable = nullptr;
    const cudaError_t error = cudaGraphInstantiate(&executable, recorded, 0);
    cudaGraphDestroy(recorded);
    *graph = executable;
    return status_of(error);
}

int32_t crispstream_cuda_graph_launch(void *graph, void *stream) {
    if (!graph)
        return CRISPSTREAM_NULL_POINTER;
    return status_of(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), static_cast<cudaStream_t>(stream)));
}

int32_t crispstream_cuda_graph_destroy(void *graph) {
    return graph ? status_of(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph))) : CRISPSTREAM_NULL_POINTER;
}
