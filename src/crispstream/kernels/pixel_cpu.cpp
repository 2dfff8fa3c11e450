// SPDX-License-Identifier: Apache-2.0
//
// Version, status, colour constants and the head's statistics.

#include "launcher_checks.h"
#include "pixel_math.h"
#include "status_text.h"

#include <algorithm>
#include <cstddef>

namespace crispstream {
namespace {

template <class T>
void cell_statistics(const crispstream_geometry &geometry, const T *head, float statistics[2]) {
    const int width = geometry.padded_width / geometry.map_stride,
              height = geometry.padded_height / geometry.map_stride;
    const int side = 16 / geometry.map_stride;
    const T *masks = head, *gates = head + size_t(width) * height;
    statistics[0] = statistics[1] = 0.0f;
    for (int top = 0; top < height; top += side)
        for (int left = 0; left < width; left += side) {
            const int bottom = std::min(top + side, height), right = std::min(left + side, width);
            const float count = float((bottom - top) * (right - left));
            float people = 0.0f, rest = 0.0f;
            for (int y = top; y < bottom; ++y)
                for (int x = left; x < right; ++x) {
                    float mask, gate;
                    load(masks + size_t(y) * width + x, mask);
                    load(gates + size_t(y) * width + x, gate);
                    people += gate * mask;
                    rest += gate * (1.0f - mask);
                }
            people = people / count;
            rest = rest / count;
            if (!not_finite(people) && people > statistics[0])
                statistics[0] = people;
            if (!not_finite(rest) && rest > statistics[1])
                statistics[1] = rest;
        }
}

} // namespace
} // namespace crispstream

using namespace crispstream;

int32_t crispstream_abi_version(void) { return CRISPSTREAM_ABI_VERSION; }

const char *crispstream_status_text(int32_t status) { return status_text(status); }

int32_t crispstream_color(int32_t matrix, int32_t range, float constants[17]) {
    if (!constants)
        return CRISPSTREAM_NULL_POINTER;
    if (matrix < CRISPSTREAM_BT601 || matrix > CRISPSTREAM_BT2020 || range < CRISPSTREAM_LIMITED ||
        range > CRISPSTREAM_FULL)
        return CRISPSTREAM_BAD_FORMAT;
    const Color color = make_color(matrix, range == CRISPSTREAM_FULL);
    static_assert(sizeof color == 17 * sizeof(float), "crispstream_color hands out every constant");
    std::memcpy(constants, &color, sizeof color);
    return CRISPSTREAM_OK;
}

int32_t crispstream_cpu_statistics(const crispstream_geometry *geometry, const void *head, float statistics[2]) {
    const int32_t status = check_geometry(geometry);
    if (status)
        return status;
    if (!head || !statistics)
        return CRISPSTREAM_NULL_POINTER;
    if (16 % geometry->map_stride)
        return CRISPSTREAM_BAD_ARGUMENT;
    if (geometry->dtype == CRISPSTREAM_FLOAT32)
        cell_statistics(*geometry, static_cast<const float *>(head), statistics);
    else
        cell_statistics(*geometry, static_cast<const uint16_t *>(head), statistics);
    return CRISPSTREAM_OK;
}
