// SPDX-License-Identifier: Apache-2.0
//
// Frame and residuals -> frame, on a GPU.

#include "job_checks.h"
#include "tensor_tiles.h"

namespace crispstream {

struct BlendTask {
    Layout source, destination;
    crispstream_geometry geometry;
    const crispstream_job *jobs;
    const void *head, *first, *second; // second: the background, where there are two residuals
    crispstream_findings *findings;
};

// The codes of a tile by row, 24-bit pixels or luma; chroma is the 4:2:0 formats' alone.
template <bool YUV, int N>
struct TileCodes {
    static constexpr int SAMPLES = YUV ? 1 : 3;
    Codes<SAMPLES * N> rows[TILE_ROWS];
    ChromaCodes<N / 2> chroma;
};

// What the residual is added to; read whole before anything is written, since the destination may be the same memory.
template <bool YUV, int N>
CRISPSTREAM_DEVICE TileCodes<YUV, N> load_tile(const Layout &layout, const Surface &source, int x, int y) {
    constexpr int samples = TileCodes<YUV, N>::SAMPLES;
    TileCodes<YUV, N> codes;
#pragma unroll
    for (int r = 0; r < TILE_ROWS; ++r) {
        const uint8_t *row = source.row(0, y + r < layout.height ? y + r : y);
        codes.rows[r] = load_codes<samples * N, samples, false>(row + samples * x, samples * (layout.width - x),
                                                                source.aligned(0, 8));
    }
    if (YUV)
        codes.chroma = load_chroma<N / 2, false>(layout, source, x / 2, y / 2);
    return codes;
}

// Black, which a converted picture is added to.
template <bool YUV, int N>
CRISPSTREAM_DEVICE TileCodes<YUV, N> black_tile(const Layout &layout) {
    const Codes<TileCodes<YUV, N>::SAMPLES * N> row(YUV ? uint8_t(code_of_float(layout.color.y_offset)) : 0);
    return {{row, row}, {Codes<N / 2>(128), Codes<N / 2>(128)}};
}

template <int N>
CRISPSTREAM_DEVICE void write_pixels(const Layout &layout, const Surface &destination, int x, int y,
                                     const Codes<3 * N> &base, const Row<N> &rgb) {
    const bool bgr = layout.format == CRISPSTREAM_BGR24;
    Codes<3 * N> codes;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        codes.add(3 * i, add_codes(base[3 * i], 255.0f * (bgr ? rgb[2][i] : rgb[0][i])));
        codes.add(3 * i + 1, add_codes(base[3 * i + 1], 255.0f * rgb[1][i]));
        codes.add(3 * i + 2, add_codes(base[3 * i + 2], 255.0f * (bgr ? rgb[0][i] : rgb[2][i])));
    }
    store_codes(destination.row(0, y) + 3 * x, codes, 3 * (layout.width - x), destination.aligned(0, 8));
}

template <int N>
CRISPSTREAM_DEVICE void write_luma(const Layout &layout, const Surface &destination, int x, int y, const Codes<N> &base,
                                   const Row<N> &rgb) {
    Codes<N> codes;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const float delta = luma_codes(layout.color, {rgb[0][i], rgb[1][i], rgb[2][i]});
        codes.add(i, add_codes(base[i], zero_if_nan(delta)));
    }
    store_codes(destination.row(0, y) + x, codes, layout.width - x, destination.aligned(0, 8));
}

// Sums of the luma samples under each chroma sample of a tile, a row at a time.
template <int N>
struct ChromaSums {
    float sum[3][N / 2];

    CRISPSTREAM_DEVICE void add(const Row<N> &rgb, int columns, bool first) {
#pragma unroll
        for (int c = 0; c < 3; ++c)
#pragma unroll
            for (int i = 0; i < N / 2; ++i) {
                const float even = rgb[c][2 * i], pair = 2 * i + 1 < columns ? even + rgb[c][2 * i + 1] : even;
                sum[c][i] = first ? pair : sum[c][i] + pair;
            }
    }

    CRISPSTREAM_DEVICE void write(const Layout &layout, const Surface &destination, int x, int y,
                                  const ChromaCodes<N / 2> &base) const {
        const float row_weight = y + 1 < layout.height ? 0.5f : 1.0f;
        ChromaCodes<N / 2> codes;
#pragma unroll
        for (int i = 0; i < N / 2; ++i) {
            const float weight = (x + 2 * i + 1 < layout.width ? 0.5f : 1.0f) * row_weight;
            const Chroma delta =
                chroma_codes(layout.color, {sum[0][i] * weight, sum[1][i] * weight, sum[2][i] * weight});
            codes.u.add(i, add_codes(base.u[i], zero_if_nan(delta.u)));
            codes.v.add(i, add_codes(base.v[i], zero_if_nan(delta.v)));
        }
        store_chroma(layout, destination, x / 2, y / 2, codes);
    }
};

// d of one row of a tile; only BOTH branches need a mask and a second residual. Returns a bit for each value that was
// not finite: 8 c + i.
template <bool PRESET, bool BOTH, int N>
CRISPSTREAM_DEVICE uint32_t residual_row(const void *first, const void *second, const PackedLayout<PRESET> &packing,
                                         int x, int y, const float (&gate)[N], const float (&mask)[N], Row<N> &d) {
    Row<N> other;
    load_row(first, packing, x, y, d);
    if (BOTH)
        load_row(second, packing, x, y, other);
    uint32_t dropped = 0;
#pragma unroll
    for (int c = 0; c < 3; ++c)
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float value = BOTH ? mix_residuals(gate[i], mask[i], d[c][i], other[c][i]) : gate[i] * d[c][i];
            const int32_t drop = not_finite(value);
            d[c][i] = float_of_bits(bits_of_float(value) & ~drop);
            dropped |= uint32_t(drop) & 1u << (N * c + i);
        }
    return dropped;
}

template <bool PRESET, bool CONVERT, bool YUV, bool BOTH>
__global__ void __launch_bounds__(BLOCK_TILES *BLOCK_ROWS, PRESET ? (CONVERT ? 4 : 6) : 2) blend_tiles(BlendTask task) {
    constexpr int N = tile_columns(PRESET);
    const Layout &from = task.source, &to = task.destination;
    const int x = int(blockIdx.x * BLOCK_TILES + threadIdx.x) * N;
    const int top = int(blockIdx.y * BLOCK_ROWS + threadIdx.y) * TILE_ROWS;
    if (x >= from.width || top >= from.height)
        return;
    const crispstream_job &job = task.jobs[blockIdx.z];
    const Surface source(job.source), destination(job.destination);
    const crispstream_mix mix = job.mix;
    const PackedLayout<PRESET> packing(task.geometry);
    const int64_t offset = blockIdx.z * packing.frame_bytes();
    const uint8_t *first = static_cast<const uint8_t *>(task.first) + offset;
    const uint8_t *second = static_cast<const uint8_t *>(task.second) + offset;
    const MapSize<PRESET> size(task.geometry);
    const int columns = from.width - x < N ? from.width - x : N;
    const uint32_t inside = ((1u << columns) - 1) * (1u | 1u << N | 1u << 2 * N); // bits of residual_row that count

    const TileCodes<YUV, N> base = CONVERT ? black_tile<YUV, N>(to) : load_tile<YUV, N>(from, source, x, top);
    const MapTile<PRESET> masks(size.find(task.head, blockIdx.z, 0), size, x, top);
    const MapTile<PRESET> gates(size.find(task.head, blockIdx.z, 1), size, x, top);
    ChromaSums<N> sums;
    int dropped = 0;
#pragma unroll
    for (int r = 0; r < TILE_ROWS; ++r) {
        const int y = top + r;
        if (y >= from.height)
            break;
        Row<N> rgb = {};
        if (task.first) {
            float gate[N], mask[N];
            gates.upsample(y, mix.strength, 0.0f, gate);
            if (BOTH)
                masks.upsample(y, mix.mask_gain, mix.mask_bias, mask);
            dropped += __popc(residual_row<PRESET, BOTH>(first, second, packing, x, y, gate, mask, rgb) & inside);
        }
        if (CONVERT) {
            Row<N> pixels;
            decode_row(from, source, x, y, pixels);
#pragma unroll
            for (int c = 0; c < 3; ++c)
#pragma unroll
                for (int i = 0; i < N; ++i)
                    rgb[c][i] = clamp_to(1.0f, pixels[c][i] + rgb[c][i]);
        }
        if constexpr (YUV) {
            write_luma(to, destination, x, y, base.rows[r], rgb);
            sums.add(rgb, columns, r == 0);
        } else {
            write_pixels(to, destination, x, y, base.rows[r], rgb);
        }
    }
    if (YUV)
        sums.write(to, destination, x, top, base.chroma);
    if (dropped && task.findings)
        atomicAdd(reinterpret_cast<unsigned long long *>(&task.findings[blockIdx.z].non_finite),
                  static_cast<unsigned long long>(dropped));
}

using Kernel = void (*)(BlendTask);

template <bool PRESET, bool CONVERT, bool YUV>
Kernel kernel_for(bool both) {
    return both ? blend_tiles<PRESET, CONVERT, YUV, true> : blend_tiles<PRESET, CONVERT, YUV, false>;
}

template <bool PRESET>
Kernel kernel_for(bool convert, bool yuv, bool both) {
    if (convert)
        return yuv ? kernel_for<PRESET, true, true>(both) : kernel_for<PRESET, true, false>(both);
    return yuv ? kernel_for<PRESET, false, true>(both) : kernel_for<PRESET, false, false>(both);
}

} // namespace crispstream

using namespace crispstream;

int32_t crispstream_cuda_blend(const crispstream_job *jobs, const crispstream_job *device_jobs, int32_t batch,
                               const crispstream_geometry *geometry, const void *head, const void *foreground,
                               const void *background, crispstream_findings *findings, void *stream) {
    int32_t status = check_sources(jobs, device_jobs, batch, geometry);
    status = status ? status : check_destinations(jobs, batch);
    status = status ? status : check_memory(head);
    status = status ? status : check_memory(foreground, true);
    status = status ? status : check_memory(background, true);
    status = status ? status : check_memory(findings, true);
    if (status)
        return status;
    const crispstream_image &source = jobs[0].source, &destination = jobs[0].destination;
    const bool preset = is_preset(*geometry), convert = !same_layout(source, destination);
    const bool yuv = is_yuv(destination), both = foreground && background;
    const BlendTask task{layout_of(source),
                         layout_of(destination),
                         *geometry,
                         device_jobs,
                         head,
                         foreground ? foreground : background,
                         background,
                         findings};
    const dim3 grid = grid_of(source.width, source.height, batch, preset), block(BLOCK_TILES, BLOCK_ROWS);
    const auto kernel = preset ? kernel_for<true>(convert, yuv, both) : kernel_for<false>(convert, yuv, both);
    return launch(kernel, grid, block, task, stream);
}
