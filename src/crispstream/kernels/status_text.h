// SPDX-License-Identifier: Apache-2.0
//
// English for a crispstream_status; both libraries hand it out.
#ifndef CRISPSTREAM_STATUS_TEXT_H
#define CRISPSTREAM_STATUS_TEXT_H

#include "crispstream/launchers.h"

namespace crispstream {

inline const char *status_text(int32_t status) {
    switch (status) {
    case CRISPSTREAM_OK:
        return "ok";
    case CRISPSTREAM_NULL_POINTER:
        return "a required pointer is null";
    case CRISPSTREAM_BAD_FORMAT:
        return "unknown pixel format, matrix, range, siting or element type";
    case CRISPSTREAM_BAD_SIZE:
        return "sizes do not fit together";
    case CRISPSTREAM_BAD_STRIDE:
        return "a stride is shorter than its row, or differs between source and destination in place";
    case CRISPSTREAM_BAD_ARGUMENT:
        return "bad argument: threads or batch out of range, jobs of one batch that differ, map stride that does not "
               "divide 16, or a conversion in place";
    case CRISPSTREAM_NO_MEMORY:
        return "out of memory";
    case CRISPSTREAM_BAD_ALIGNMENT:
        return "a tensor or the findings are not aligned to 16 bytes, or the jobs to 8";
    default:
        return "unknown status";
    }
}

} // namespace crispstream
#endif
