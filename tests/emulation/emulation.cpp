// SPDX-License-Identifier: Apache-2.0
//
// Streams, events and graphs as lazy as CUDA may be: a stream is a queue, and what lies in it runs only when somebody
// synchronises, or an event that somebody waits for demands it, and then no further than needed. So work that nothing
// orders is seen in the wrong order. One lock serialises everything.

#include "cuda_runtime.h"

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

using Operation = std::function<void()>;

struct Graph {
    std::vector<Operation> operations;
    int under_way = 0; // launches that have not finished
};

struct Stream {
    std::deque<Operation> queue;
    std::unique_ptr<Graph> recording;
    std::thread::id recorder;

    void step() {
        const Operation operation = std::move(queue.front());
        queue.pop_front();
        operation();
    }
    void drain() {
        while (!queue.empty())
            step();
    }
};

namespace {

// What a recorded event stands for: a place in a stream's queue.
struct Mark {
    Stream *stream;
    bool reached = false;

    void demand() {
        while (!reached)
            stream->step();
    }
};

struct Event {
    std::shared_ptr<Mark> mark; // null: never recorded
};

std::recursive_mutex lock;
std::map<Stream *, std::unique_ptr<Stream>> streams;

struct Guard {
    std::lock_guard<std::recursive_mutex> guard{lock};
};

bool known(Stream *stream) { return !stream || streams.count(stream); }

// The legacy default stream waits for all others and is never behind.
void drain_all() {
    for (auto &[stream, owner] : streams)
        stream->drain();
}

cudaError_t enqueue(Stream *stream, Operation operation) {
    const Guard guard;
    if (!known(stream))
        return cudaErrorInvalidResourceHandle;
    if (!stream) {
        drain_all();
        operation();
    } else if (stream->recording) {
        if (stream->recorder != std::this_thread::get_id())
            return cudaErrorStreamCaptureWrongThread;
        stream->recording->operations.push_back(std::move(operation));
    } else {
        stream->queue.push_back(std::move(operation));
    }
    return cudaSuccess;
}

} // namespace

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

cudaError_t emulate_launch(const cudaLaunchConfig_t &config, std::function<void()> thread) {
    const dim3 grid = config.gridDim, block = config.blockDim;
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || !block.x ||
        !block.y || !block.z || block.x * block.y * block.z > 1024)
        return cudaErrorInvalidConfiguration;
    return enqueue(config.stream, [grid, block, thread] {
        gridDim = grid;
        blockDim = block;
        for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
            for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
                for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
                    for (threadIdx.z = 0; threadIdx.z < block.z; ++threadIdx.z)
                        for (threadIdx.y = 0; threadIdx.y < block.y; ++threadIdx.y)
                            for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x)
                                thread();
    });
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorInvalidConfiguration:
        return "invalid configuration argument";
    case cudaErrorInvalidResourceHandle:
        return "invalid resource handle";
    case cudaErrorIllegalState:
        return "the operation cannot be performed in the present state";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureIsolation:
        return "dependency created on uncaptured work in another stream";
    case cudaErrorStreamCaptureWrongThread:
        return "attempt to terminate a thread-local capture sequence from another thread";
    }
    return "unrecognized error code";
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    return enqueue(stream, [=] { std::memset(to, value, bytes); });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    const Guard guard;
    if (!stream || stream->recording)
        return cudaErrorStreamCaptureUnsupported;
    if (!known(stream))
        return cudaErrorInvalidResourceHandle;
    stream->recording = std::make_unique<Graph>();
    stream->recorder = std::this_thread::get_id();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    const Guard guard;
    if (!stream || !known(stream) || !stream->recording)
        return cudaErrorIllegalState;
    if (stream->recorder != std::this_thread::get_id())
        return cudaErrorStreamCaptureWrongThread;
    *graph = stream->recording.release();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long) {
    *executable = new Graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    const Guard guard;
    const cudaError_t error = enqueue(stream, [executable] {
        for (const Operation &operation : executable->operations)
            operation();
        --executable->under_way;
    });
    if (!error)
        ++executable->under_way;
    return error;
}

// CUDA would let a launch under way finish; here it is an error, since the ABI forbids it.
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    const Guard guard;
    if (executable->under_way)
        return cudaErrorIllegalState;
    delete executable;
    return cudaSuccess;
}

// --- for the driver's stand-in in the tests: 0 is success, anything else a cudaError ---------------------------------

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void *emu_stream_create() {
    const Guard guard;
    auto stream = std::make_unique<Stream>();
    Stream *handle = stream.get();
    streams[handle] = std::move(stream);
    return handle;
}

EXPORT int emu_stream_synchronize(void *stream) {
    const Guard guard;
    Stream *queue = static_cast<Stream *>(stream);
    if (!known(queue))
        return cudaErrorInvalidResourceHandle;
    if (!queue)
        drain_all();
    else if (queue->recording)
        return cudaErrorStreamCaptureUnsupported;
    else
        queue->drain();
    return cudaSuccess;
}

EXPORT void emu_stream_destroy(void *stream) {
    const Guard guard;
    emu_stream_synchronize(stream);
    streams.erase(static_cast<Stream *>(stream));
}

// Forget what is enqueued: for work that could not run.
EXPORT void emu_stream_discard(void *stream) {
    const Guard guard;
    static_cast<Stream *>(stream)->queue.clear();
    streams.erase(static_cast<Stream *>(stream));
}

// Operations that wait in any stream.
EXPORT int emu_pending() {
    const Guard guard;
    size_t pending = 0;
    for (auto &[stream, owner] : streams)
        pending += stream->queue.size();
    return int(pending);
}

EXPORT void *emu_event_create() { return new Event; }

EXPORT void emu_event_destroy(void *event) { delete static_cast<Event *>(event); }

EXPORT int emu_event_record(void *event, void *stream) {
    const Guard guard;
    Stream *queue = static_cast<Stream *>(stream);
    if (queue && known(queue) && queue->recording)
        return cudaErrorStreamCaptureUnsupported; // forks inside a graph are not emulated
    auto mark = std::make_shared<Mark>(Mark{queue});
    const cudaError_t error = enqueue(queue, [mark] { mark->reached = true; });
    if (!error)
        static_cast<Event *>(event)->mark = mark;
    return error;
}

EXPORT int emu_stream_wait_event(void *stream, void *event) {
    const Guard guard;
    Stream *queue = static_cast<Stream *>(stream);
    const std::shared_ptr<Mark> mark = static_cast<Event *>(event)->mark;
    if (queue && known(queue) && queue->recording)
        return cudaErrorStreamCaptureIsolation;
    return mark ? enqueue(queue, [mark] { mark->demand(); }) : cudaSuccess;
}

// 1 when done; otherwise the stream advances by one operation.
EXPORT int emu_event_query(void *event) {
    const Guard guard;
    const std::shared_ptr<Mark> mark = static_cast<Event *>(event)->mark;
    if (!mark || mark->reached)
        return 1;
    mark->stream->step();
    return mark->reached;
}

EXPORT int emu_event_synchronize(void *event) {
    const Guard guard;
    if (const std::shared_ptr<Mark> mark = static_cast<Event *>(event)->mark)
        mark->demand();
    return cudaSuccess;
}

EXPORT int emu_copy(void *to, const void *from, size_t bytes, void *stream) {
    return enqueue(static_cast<Stream *>(stream), [=] { std::memmove(to, from, bytes); });
}

EXPORT int emu_fill(void *to, int value, size_t bytes, void *stream) {
    return cudaMemsetAsync(to, value, bytes, static_cast<Stream *>(stream));
}

EXPORT int emu_host_call(void (*function)(void *), void *argument, void *stream) {
    return enqueue(static_cast<Stream *>(stream), [=] { function(argument); });
}
