// SPDX-License-Identifier: Apache-2.0
//
// What the CUDA launchers check of a batch of jobs and of device memory, without touching the device.
#ifndef CRISPSTREAM_JOB_CHECKS_H
#define CRISPSTREAM_JOB_CHECKS_H

#include "launcher_checks.h"

namespace crispstream {

inline bool is_aligned(const void *pointer, uintptr_t bytes) {
    return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// A tensor or the findings; `optional`: may be null.
inline int32_t check_memory(const void *pointer, bool optional = false) {
    if (!pointer && !optional)
        return CRISPSTREAM_NULL_POINTER;
    return is_aligned(pointer, 16) ? CRISPSTREAM_OK : CRISPSTREAM_BAD_ALIGNMENT;
}

// Sizes that every launcher needs: indices inside the tensors of one frame fit 32 bits.
inline int32_t check_batch(int32_t batch, const crispstream_geometry *geometry) {
    if (const int32_t status = check_geometry(geometry))
        return status;
    if (int64_t(3) * geometry->padded_width * geometry->padded_height > INT32_MAX)
        return CRISPSTREAM_BAD_SIZE;
    return batch >= 1 && batch <= CRISPSTREAM_MAX_BATCH ? CRISPSTREAM_OK : CRISPSTREAM_BAD_ARGUMENT;
}

// One kernel serves the whole batch: same format, size and colour.
inline bool alike(const crispstream_image &a, const crispstream_image &b) {
    return same_layout(a, b) && a.width == b.width && a.height == b.height;
}

inline int32_t check_sources(const crispstream_job *jobs, const crispstream_job *device_jobs, int32_t batch,
                             const crispstream_geometry *geometry) {
    if (const int32_t status = check_batch(batch, geometry))
        return status;
    if (!jobs || !device_jobs)
        return CRISPSTREAM_NULL_POINTER;
    if (!is_aligned(device_jobs, alignof(crispstream_job)))
        return CRISPSTREAM_BAD_ALIGNMENT;
    for (int32_t i = 0; i < batch; ++i) {
        int32_t status = check_image(&jobs[i].source);
        status = status ? status : check_fit(jobs[i].source, *geometry);
        status = status ? status : alike(jobs[i].source, jobs[0].source) ? CRISPSTREAM_OK : CRISPSTREAM_BAD_ARGUMENT;
        if (status)
            return status;
    }
    return CRISPSTREAM_OK;
}

inline int32_t check_destinations(const crispstream_job *jobs, int32_t batch) {
    for (int32_t i = 0; i < batch; ++i) {
        const crispstream_image &source = jobs[i].source, &destination = jobs[i].destination;
        if (const int32_t status = check_image(&destination))
            return status;
        if (source.width != destination.width || source.height != destination.height)
            return CRISPSTREAM_BAD_SIZE;
        if (!alike(destination, jobs[0].destination))
            return CRISPSTREAM_BAD_ARGUMENT;
        if (const int32_t status = check_overlap(source, destination))
            return status;
    }
    return CRISPSTREAM_OK;
}

} // namespace crispstream
#endif
