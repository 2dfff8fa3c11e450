// SPDX-License-Identifier: Apache-2.0

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
CRISPSTREAM_FN void pack_rgb(const Unpack &job, int y, Buffers &buffers) {
    const int s = job.geometry.pack, cells = job.geometry.padded_width / s;
    const size_t plane = size_t(cells) * (job.geometry.padded_height / s);
    for (int c = 0; c < 3; ++c) {
        float *row = buffers.row(RGB + c);
        std::fill(row + job.source.width, row + job.geometry.padded_width, row[job.source.width - 1]);
        T *to = static_cast<T *>(job.packed) + size_t(c * s + y % s) * s * plane + size_t(y / s) * cells;
        if (s == 2)
            pack_row<2>(row, cells, s, plane, to);
        else if (s == 4)
            pack_row<4>(row, cells, s, plane, to);
        else
            pack_row<0>(row, cells, s, plane, to);
    }
}

CRISPSTREAM_CLONES void unpack_band(const Unpack &job, int begin, int end, Buffers &buffers) {
    for (int y = begin; y < end; ++y) {
        if (y == begin || y < job.source.height)
            decode_row(job.source, job.color, std::min(y, job.source.height - 1), buffers);
        if (job.geometry.dtype == CRISPSTREAM_FLOAT32)
            pack_rgb<float>(job, y, buffers);
        else
            pack_rgb<uint16_t>(job, y, buffers);
    }
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
        std::vector<Buffers> buffers(bands, Buffers(*geometry));
        for_each_band(rows, step, bands, [&](int i, int begin, int end) { unpack_band(job, begin, end, buffers[i]); });
    } catch (const std::bad_alloc &) {
        return CRISPSTREAM_NO_MEMORY;
    }
    return CRISPSTREAM_OK;
}
