// SPDX-License-Identifier: Apache-2.0
//
// Serves the CPU library over a pipe, so that a process of an emulator can stand in for another processor: reads a Call
// and its memory from standard input, calls, writes a Reply and the memory to standard output, until the input ends.

#include "crispstream/launchers.h"

#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <memory>

namespace {

enum Function { UNPACK = 0, BLEND = 1, STATISTICS = 2, RESIDUAL = 3 };

// Addresses are offsets into the call's memory; 0, where no plane or tensor lies, is null. RESIDUAL: `head` to `packed`
// are features, factors, weight and result, and the geometry's pack and map_stride channels and outputs.
struct Call {
    int32_t function, threads;
    crispstream_geometry geometry;
    crispstream_mix mix;
    crispstream_image source, destination;
    int64_t head, foreground, background, packed, bias;
    int64_t bytes;
};

struct Reply {
    int32_t status;
    float statistics[2];
    uint64_t non_finite;
};

void read_all(void *data, size_t bytes) {
    if (std::fread(data, 1, bytes, stdin) != bytes)
        std::exit(0);
}

void write_all(const void *data, size_t bytes) {
    if (std::fwrite(data, 1, bytes, stdout) != bytes)
        std::exit(1);
}

} // namespace

int main() {
    for (;;) {
        Call call;
        Reply reply{};
        read_all(&call, sizeof call);
        const std::unique_ptr<uint8_t[]> memory(new uint8_t[size_t(call.bytes)]);
        read_all(memory.get(), size_t(call.bytes));
        const auto address = [&](int64_t offset) { return offset ? memory.get() + offset : nullptr; };
        for (crispstream_image *image : {&call.source, &call.destination})
            for (uint8_t *&plane : image->plane)
                plane = address(reinterpret_cast<intptr_t>(plane));
        if (call.function == UNPACK)
            reply.status = crispstream_cpu_unpack(&call.source, &call.geometry, address(call.packed), call.threads);
        else if (call.function == BLEND)
            reply.status = crispstream_cpu_blend(&call.source, &call.geometry, address(call.head),
                                                 address(call.foreground), address(call.background), &call.mix,
                                                 &call.destination, &reply.non_finite, call.threads);
        else if (call.function == RESIDUAL) {
            const auto floats = [&](int64_t offset) { return reinterpret_cast<float *>(address(offset)); };
            const crispstream_geometry &sizes = call.geometry;
            reply.status = crispstream_cpu_residual(
                floats(call.head), floats(call.foreground), floats(call.background), floats(call.bias), sizes.pack,
                sizes.map_stride, sizes.padded_height, sizes.padded_width, floats(call.packed), call.threads);
        } else
            reply.status = crispstream_cpu_statistics(&call.geometry, address(call.head), reply.statistics);
        write_all(&reply, sizeof reply);
        write_all(memory.get(), size_t(call.bytes));
        std::fflush(stdout);
    }
}
