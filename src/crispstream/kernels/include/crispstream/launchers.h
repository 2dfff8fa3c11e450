/* SPDX-License-Identifier: Apache-2.0
 *
 * C ABI of the CrispStream pixel kernels. No global state: every call works on the caller's memory alone,
 * allocates nothing that outlives it, never throws and returns a crispstream_status. Any thread may call.
 *
 * Network tensors are planar (channels, height, width), C-contiguous. Images are padded on the right and at the
 * bottom to padded_width x padded_height by edge replication; the padded size is a multiple of `pack` and of
 * `map_stride`.
 */
#ifndef CRISPSTREAM_LAUNCHERS_H
#define CRISPSTREAM_LAUNCHERS_H

#include <stdint.h>

#define CRISPSTREAM_ABI_VERSION 2

#if defined(__GNUC__)
#define CRISPSTREAM_API __attribute__((visibility("default")))
#else
#define CRISPSTREAM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum crispstream_status {
    CRISPSTREAM_OK = 0,
    CRISPSTREAM_NULL_POINTER = 1,
    CRISPSTREAM_BAD_FORMAT = 2,
    CRISPSTREAM_BAD_SIZE = 3,
    CRISPSTREAM_BAD_STRIDE = 4,
    CRISPSTREAM_BAD_ARGUMENT = 5,
    CRISPSTREAM_NO_MEMORY = 6,
    CRISPSTREAM_BAD_ALIGNMENT = 7
} crispstream_status;

enum { CRISPSTREAM_BGR24 = 0, CRISPSTREAM_RGB24 = 1, CRISPSTREAM_NV12 = 2, CRISPSTREAM_I420 = 3 };
enum { CRISPSTREAM_BT601 = 0, CRISPSTREAM_BT709 = 1, CRISPSTREAM_BT2020 = 2 };
enum { CRISPSTREAM_LIMITED = 0, CRISPSTREAM_FULL = 1 };
enum { CRISPSTREAM_LEFT = 0, CRISPSTREAM_CENTER = 1 };
enum { CRISPSTREAM_FLOAT32 = 0, CRISPSTREAM_FLOAT16 = 1 };

/* A frame. plane: packed formats use [0]; NV12 [0] luma, [1] interleaved U, V; I420 [0] Y, [1] U, [2] V.
 * stride: bytes from one row to the next, at least the bytes of a row. matrix, range and siting are read for the
 * 4:2:0 formats only. */
typedef struct crispstream_image {
    int32_t format;
    int32_t width;
    int32_t height;
    int32_t matrix;
    int32_t range;
    int32_t siting;
    int64_t stride[3];
    uint8_t *plane[3];
} crispstream_image;

/* The network's view of a frame: space-to-depth factor, padded size in pixels, pixels per cell of the head's map
 * (an integer), element type of every network tensor. */
typedef struct crispstream_geometry {
    int32_t pack;
    int32_t padded_width;
    int32_t padded_height;
    int32_t map_stride;
    int32_t dtype;
} crispstream_geometry;

/* How the two residuals are mixed. Mask after fading: mask_gain * m + mask_bias (1 and 0: the mask as it is). */
typedef struct crispstream_mix {
    float strength;
    float mask_gain;
    float mask_bias;
} crispstream_mix;

CRISPSTREAM_API int32_t crispstream_abi_version(void);

/* English text of a status; never NULL. */
CRISPSTREAM_API const char *crispstream_status_text(int32_t status);

/* The float32 constants of one matrix and range, in the order of `Color` in pixel_math.h. */
CRISPSTREAM_API int32_t crispstream_color(int32_t matrix, int32_t range, float constants[17]);

/* Frame -> packed (3 * pack^2, padded_height / pack, padded_width / pack), RGB in [0, 1].
 * threads: at least 1; the rows are cut into at most so many bands, and the result does not depend on it. */
CRISPSTREAM_API int32_t crispstream_cpu_unpack(const crispstream_image *source, const crispstream_geometry *geometry,
                                               void *packed, int32_t threads);

/* destination = source + strength * gate * (m * foreground + (1 - m) * background).
 * head: (2, padded_height / map_stride, padded_width / map_stride), mask then gate.
 * foreground, background: packed residuals, shaped like `packed` above; NULL means m = 0 or m = 1; both NULL: zero.
 * A residual that is not finite is taken as 0 and counted in *non_finite (may be NULL).
 * Source and destination have one size. If format, matrix, range and siting agree too, a zero residual returns every
 * byte, and the two may be the same memory, row for row; any other overlap is an error of the caller. */
CRISPSTREAM_API int32_t crispstream_cpu_blend(const crispstream_image *source, const crispstream_geometry *geometry,
                                              const void *head, const void *foreground, const void *background,
                                              const crispstream_mix *mix, const crispstream_image *destination,
                                              uint64_t *non_finite, int32_t threads);

/* statistics[0]: maximum over 16x16-pixel cells of mean(gate * mask); [1]: of mean(gate * (1 - mask)).
 * map_stride divides 16; cells at the edges average what they have. A mean that is not finite counts as 0. */
CRISPSTREAM_API int32_t crispstream_cpu_statistics(const crispstream_geometry *geometry, const void *head,
                                                   float statistics[2]);

/* The end of a branch: residual = bias + weight * (features . factors), a 3x3 convolution with zero padding of the
 * element-wise product, in FP32. features: (channels, height, width), both even; factors: (channels, height / 2,
 * width / 2), each for 2x2 features; weight: (outputs, channels, 3, 3); bias: (outputs); residual: (outputs, height,
 * width). Sums are fused multiply-adds where the processor has them. residual is memory of
 * its own. threads: as in crispstream_cpu_unpack. */
CRISPSTREAM_API int32_t crispstream_cpu_residual(const float *features, const float *factors, const float *weight,
                                                 const float *bias, int32_t channels, int32_t outputs, int32_t height,
                                                 int32_t width, float *residual, int32_t threads);

/* --- CUDA: libcrispstream_cuda12.so, libcrispstream_cuda13.so -------------------------------------------------------
 *
 * Unpack, blend and statistics on a GPU, byte for byte. Every launcher works on `stream` (a cudaStream_t or CUstream;
 * NULL is the legacy default stream) of the current context, allocates nothing, does not synchronise and may be
 * captured into a graph. Tensors, planes, device_jobs and findings are device memory, or host memory mapped into the
 * device's. Tensors and findings are aligned to 16 bytes. Planes and strides may be anything; multiples of 8 bytes are
 * fastest. A tensor of one frame has fewer than 2^31 elements, a batch at most CRISPSTREAM_MAX_BATCH frames. Returned
 * is a crispstream_status, or CRISPSTREAM_CUDA_ERROR plus the cudaError_t. */
enum { CRISPSTREAM_CUDA_ERROR = 1000, CRISPSTREAM_MAX_BATCH = 1024 };

/* What one frame needs. */
typedef struct crispstream_job {
    crispstream_image source;
    crispstream_image destination; /* of the blend alone */
    crispstream_mix mix;           /* of the blend alone */
} crispstream_job;

/* What is read back of one frame: the statistics of crispstream_cpu_statistics, and how many residual values the blend
 * dropped because they were not finite. */
typedef struct crispstream_findings {
    float people;
    float rest;
    uint64_t non_finite;
} crispstream_findings;

/* Frames -> packed (batch, 3 * pack^2, padded_height / pack, padded_width / pack).
 * jobs: `batch` of them in host memory, read now and checked; their sources share format, size and colour.
 * device_jobs: a copy of them in device memory, read when the kernel runs, and then only planes, strides and mix: they
 * may be rewritten between the replays of a captured launch, within the rules that `jobs` were checked by. */
CRISPSTREAM_API int32_t crispstream_cuda_unpack(const crispstream_job *jobs, const crispstream_job *device_jobs,
                                                int32_t batch, const crispstream_geometry *geometry, void *packed,
                                                void *stream);

/* As crispstream_cpu_blend, for `batch` frames; jobs as in crispstream_cuda_unpack, destinations alike too.
 * Adds what it drops to findings[i].non_finite; findings may be NULL. */
CRISPSTREAM_API int32_t crispstream_cuda_blend(const crispstream_job *jobs, const crispstream_job *device_jobs,
                                               int32_t batch, const crispstream_geometry *geometry, const void *head,
                                               const void *foreground, const void *background,
                                               crispstream_findings *findings, void *stream);

/* As crispstream_cpu_statistics, for `batch` heads; sets every field of findings[i], non_finite to 0. */
CRISPSTREAM_API int32_t crispstream_cuda_statistics(const crispstream_geometry *geometry, int32_t batch,
                                                    const void *head, crispstream_findings *findings, void *stream);

/* Graphs. Between begin and end, what this thread launches on `stream` is recorded (thread-local mode), not run; what
 * is recorded has run once before, so that nothing is loaded meanwhile. *graph is an executable graph, NULL where the
 * recording failed (which ends it too); it is destroyed when no launch of it is under way. */
CRISPSTREAM_API int32_t crispstream_cuda_capture_begin(void *stream);
CRISPSTREAM_API int32_t crispstream_cuda_capture_end(void *stream, void **graph);
CRISPSTREAM_API int32_t crispstream_cuda_graph_launch(void *graph, void *stream);
CRISPSTREAM_API int32_t crispstream_cuda_graph_destroy(void *graph);

#ifdef __cplusplus
}
#endif
#endif
