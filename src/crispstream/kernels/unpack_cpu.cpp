// SPDX-License-Identifier: Apache-2.0
//
// Frame -> network input, on the CPU.

#include "pixel_bands.h"

#include <new>

namespace crispstream {
namespace {

struct Unpack {
    const crispstream_image &source;
    const crispstream_geometry &geometry;
    const Color color;
    void *packed;
};

template <class T>
CRISPSTREAM_FN void unpack_frame_row(const Unpack &job, int y, Buffers &buffers) {
    const int s = job.geometry.pack, cells = job.geometry.padded_width / s;
    const size_t phase = size_t(cells) * (job.geometry.padded_height / s); // a plane of the tensor: one c, dy, dx
    T *first = static_cast<T *>(job.packed) + size_t(y % s) * s * phase + size_t(y / s) * cells;
    const size_t channel = size_t(s) * s * phase;
    decode_row<T>(job.source, job.color, std::min(y, job.source.height - 1), {s, cells}, buffers,
                  {first, first + channel, first + 2 * channel}, phase);
}

CRISPSTREAM_CLONES void unpack_band(const Unpack &job, int begin, int end, Buffers &buffers) {
    for (int y = begin; y < end; ++y)
        job.geometry.dtype == CRISPSTREAM_FLOAT32 ? unpack_frame_row<float>(job, y, buffers)
                                                  : unpack_frame_row<uint16_t>(job, y, buffers);
}

} // namespace
} // namespace crispstream

using namespace crispstream;

int32_t crispstream_cpu_unpack(const crispstream_image *source, const crispstream_geometry *geometry, void *packed,
                               int32_t threads) {
    int32_t status = check_image(source);
    status = status ? status : check_geometry(geometry);
    status = status ? status : check_fit(*source, *geometry);
    status = status ? status : packed ? CRISPSTREAM_OK : CRISPSTREAM_NULL_POINTER;
    status = status ? status : threads >= 1 ? CRISPSTREAM_OK : CRISPSTREAM_BAD_ARGUMENT;
    if (status)
        return status;
    try {
        const Unpack job{*source, *geometry, color_of(*source), packed};
        const int step = 2 * geometry->pack, rows = geometry->padded_height;
        const int bands = band_count(rows, step, threads);
        std::vector<Buffers> buffers = make_buffers(bands, geometry->padded_width);
        for_each_band(rows, step, bands, [&](int i, int begin, int end) { unpack_band(job, begin, end, buffers[i]); });
    } catch (const std::bad_alloc &) {
        return CRISPSTREAM_NO_MEMORY;
    }
    return CRISPSTREAM_OK;
}
