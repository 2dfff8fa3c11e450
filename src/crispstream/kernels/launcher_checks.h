// SPDX-License-Identifier: Apache-2.0
//
// What every launcher checks and derives before it touches a pixel, whichever device it runs on.
#ifndef CRISPSTREAM_LAUNCHER_CHECKS_H
#define CRISPSTREAM_LAUNCHER_CHECKS_H

#include "crispstream/launchers.h"
#include "pixel_math.h"

namespace crispstream {

constexpr int32_t MAX_SIDE = 32768; // keeps every index of a row in 32 bits

inline bool is_yuv(const crispstream_image &image) { return image.format >= CRISPSTREAM_NV12; }

inline Color color_of(const crispstream_image &image) {
    return is_yuv(image) ? make_color(image.matrix, image.range == CRISPSTREAM_FULL) : Color{};
}

inline int plane_count(const crispstream_image &image) {
    return image.format == CRISPSTREAM_I420 ? 3 : image.format == CRISPSTREAM_NV12 ? 2 : 1;
}

inline int32_t check_image(const crispstream_image *image) {
    if (!image)
        return CRISPSTREAM_NULL_POINTER;
    if (image->format < CRISPSTREAM_BGR24 || image->format > CRISPSTREAM_I420)
        return CRISPSTREAM_BAD_FORMAT;
    if (image->width < 1 || image->height < 1 || image->width > MAX_SIDE || image->height > MAX_SIDE)
        return CRISPSTREAM_BAD_SIZE;
    if (is_yuv(*image)) {
        const bool known = image->matrix >= CRISPSTREAM_BT601 && image->matrix <= CRISPSTREAM_BT2020 &&
                           (image->range == CRISPSTREAM_LIMITED || image->range == CRISPSTREAM_FULL) &&
                           (image->siting == CRISPSTREAM_LEFT || image->siting == CRISPSTREAM_CENTER);
        if (!known)
            return CRISPSTREAM_BAD_FORMAT;
    }
    const int64_t chroma = (image->width + 1) / 2;
    for (int i = 0; i < plane_count(*image); ++i) {
        if (!image->plane[i])
            return CRISPSTREAM_NULL_POINTER;
        const int64_t row = !is_yuv(*image)                     ? 3 * int64_t(image->width)
                            : i == 0                            ? image->width
                            : image->format == CRISPSTREAM_NV12 ? 2 * chroma
                                                                : chroma;
        if (image->stride[i] < row)
            return CRISPSTREAM_BAD_STRIDE;
    }
    return CRISPSTREAM_OK;
}

inline int32_t check_geometry(const crispstream_geometry *geometry) {
    if (!geometry)
        return CRISPSTREAM_NULL_POINTER;
    if (geometry->pack < 1 || geometry->map_stride < 1 || geometry->padded_width < 1 || geometry->padded_height < 1 ||
        geometry->padded_width > 2 * MAX_SIDE || geometry->padded_height > 2 * MAX_SIDE)
        return CRISPSTREAM_BAD_SIZE;
    if (geometry->padded_width % geometry->pack || geometry->padded_height % geometry->pack ||
        geometry->padded_width % geometry->map_stride || geometry->padded_height % geometry->map_stride)
        return CRISPSTREAM_BAD_SIZE;
    if (geometry->dtype != CRISPSTREAM_FLOAT32 && geometry->dtype != CRISPSTREAM_FLOAT16)
        return CRISPSTREAM_BAD_FORMAT;
    return CRISPSTREAM_OK;
}

inline int32_t check_fit(const crispstream_image &image, const crispstream_geometry &geometry) {
    const bool fits = image.width <= geometry.padded_width && image.height <= geometry.padded_height;
    return fits ? CRISPSTREAM_OK : CRISPSTREAM_BAD_SIZE;
}

// True where a zero residual has to return the source byte for byte.
inline bool same_layout(const crispstream_image &a, const crispstream_image &b) {
    return a.format == b.format && (!is_yuv(a) || (a.matrix == b.matrix && a.range == b.range && a.siting == b.siting));
}

// In place works sample by sample: same layout, same rows. A conversion reads neighbours that it has overwritten.
inline int32_t check_overlap(const crispstream_image &source, const crispstream_image &destination) {
    const bool same = same_layout(source, destination);
    for (int i = 0; i < plane_count(source); ++i)
        for (int j = 0; j < plane_count(destination); ++j)
            if (source.plane[i] == destination.plane[j]) {
                if (!same || i != j)
                    return CRISPSTREAM_BAD_ARGUMENT;
                if (source.stride[i] != destination.stride[j])
                    return CRISPSTREAM_BAD_STRIDE;
            }
    return CRISPSTREAM_OK;
}

} // namespace crispstream
#endif
