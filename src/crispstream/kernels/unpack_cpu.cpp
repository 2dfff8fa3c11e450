// SPDX-License-Identifier: Apache-2.0
//
// Frame -> network input, on the CPU.

#include "pixel_bands.h"

#include <new>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace crispstream {
namespace {

// A tensor of that many bytes leaves the caches before anyone reads it.
constexpr size_t LARGE = size_t(16) << 20;

struct Unpack {
    const crispstream_image &source;
    const crispstream_geometry &geometry;
    const Color color;
    void *packed;
    bool stream; // write past the caches
};

// An ordinary store first reads the memory that it is about to overwrite, which doubles what a large tensor costs;
// these do not (Intel 64 and IA-32 Architectures Optimization Reference Manual, non-temporal stores). n is a multiple
// of 4, `to` aligned to 16 bytes.
#if defined(__SSE2__)
constexpr bool STREAMS = true;

CRISPSTREAM_FN void stream_row(const float *from, int n, float *to) {
    for (int i = 0; i < n; i += 4)
        _mm_stream_ps(to + i, _mm_loadu_ps(from + i));
}

// Before another thread reads what was written.
CRISPSTREAM_FN void end_stream() { _mm_sfence(); }
#else
constexpr bool STREAMS = false;

CRISPSTREAM_FN void stream_row(const float *from, int n, float *to) { std::copy_n(from, n, to); }

CRISPSTREAM_FN void end_stream() {}
#endif

bool streams(const crispstream_geometry &geometry, const void *packed) {
    const size_t bytes = size_t(3) * sizeof(float) * geometry.padded_width * geometry.padded_height;
    return STREAMS && geometry.dtype == CRISPSTREAM_FLOAT32 && bytes >= LARGE &&
           geometry.padded_width / geometry.pack % 4 == 0 && reinterpret_cast<uintptr_t>(packed) % 16 == 0;
}

template <class T>
CRISPSTREAM_FN void unpack_frame_row(const Unpack &job, int y, Buffers &buffers) {
    const int s = job.geometry.pack, cells = job.geometry.padded_width / s;
    const size_t phase = size_t(cells) * (job.geometry.padded_height / s); // a plane of the tensor: one c, dy, dx
    T *first = static_cast<T *>(job.packed) + size_t(y % s) * s * phase + size_t(y / s) * cells;
    const size_t channel = size_t(s) * s * phase;
    decode_row<T>(job.source, job.color, std::min(y, job.source.height - 1), {s, cells}, buffers,
                  {first, first + channel, first + 2 * channel}, phase);
}

// By way of a row in the cache, from where whole lines are written. A function of its own: inside the one above it
// makes that a tenth slower, as GCC 12 lays it out.
CRISPSTREAM_FN void stream_frame_row(const Unpack &job, int y, Buffers &buffers) {
    const int s = job.geometry.pack, cells = job.geometry.padded_width / s;
    const size_t phase = size_t(cells) * (job.geometry.padded_height / s);
    const Planes<float> row = buffers.rows(Buffers::RGB);
    decode_row<float>(job.source, job.color, std::min(y, job.source.height - 1), {s, cells}, buffers, row,
                      size_t(cells));
    float *first = static_cast<float *>(job.packed) + size_t(y % s) * s * phase + size_t(y / s) * cells;
    for (int c = 0; c < 3; ++c)
        for (int dx = 0; dx < s; ++dx)
            stream_row(row[c] + dx * cells, cells, first + (size_t(c) * s * s + dx) * phase);
}

CRISPSTREAM_CLONES void unpack_band(const Unpack &job, int begin, int end, Buffers &buffers) {
    if (job.stream) {
        for (int y = begin; y < end; ++y)
            stream_frame_row(job, y, buffers);
        return end_stream();
    }
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
        const Unpack job{*source, *geometry, color_of(*source), packed, streams(*geometry, packed)};
        const int step = 2 * geometry->pack, rows = geometry->padded_height;
        const int bands = band_count(rows, step, threads);
        std::vector<Buffers> buffers = make_buffers(bands, geometry->padded_width);
        for_each_band(rows, step, bands, [&](int i, int begin, int end) { unpack_band(job, begin, end, buffers[i]); });
    } catch (const std::bad_alloc &) {
        return CRISPSTREAM_NO_MEMORY;
    }
    return CRISPSTREAM_OK;
}
