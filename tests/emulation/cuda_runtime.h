// SPDX-License-Identifier: Apache-2.0
//
// As much of CUDA's runtime as the kernels use, for g++: the threads of a launch run one after another on the CPU,
// "device memory" is the process's own. emulation.cpp holds streams, events and graphs.
#ifndef CRISPSTREAM_EMULATED_CUDA_RUNTIME_H
#define CRISPSTREAM_EMULATED_CUDA_RUNTIME_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <type_traits>

#define CUDART_VERSION 13000
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};

extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

// Values and meanings of CUDA's own.
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorIllegalState = 401,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureIsolation = 905,
    cudaErrorStreamCaptureWrongThread = 908
};

struct Stream;
struct Graph;
using cudaStream_t = Stream *;
using cudaGraph_t = Graph *;
using cudaGraphExec_t = Graph *;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    void *attrs;
    unsigned int numAttrs;
};

const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);

// Enqueues thread() for every thread of the grid.
cudaError_t emulate_launch(const cudaLaunchConfig_t &config, std::function<void()> thread);

// The argument is copied now, as CUDA does.
template <class Task, class Argument>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Task), const Argument &argument) {
    const Task task = argument;
    return emulate_launch(*config, [kernel, task] { kernel(task); });
}

template <class T>
T __ldg(const T *from) {
    return *from;
}

inline int __popc(unsigned int bits) { return __builtin_popcount(bits); }

template <class T>
T atomicAdd(T *to, T value) {
    const T before = *to;
    *to = before + value;
    return before;
}

template <class T>
T atomicMax(T *to, T value) {
    const T before = *to;
    *to = before < value ? value : before;
    return before;
}

#endif
