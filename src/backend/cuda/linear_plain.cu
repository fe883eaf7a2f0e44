/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_plain.cu - y = x W^T + b for every size and dtype, without tensor cores: what the
 * other kernels refuse (rows that are not 16-byte aligned), and F32 for a few rows.
 *
 *   x        [rows, in]  activations, row stride x_stride
 *   weight   [out, in]   the same type
 *   bias     [out]       f32, or none
 *   y        [rows, out] the same type, or f32
 *
 * Needs     nothing.
 * Bound     memory for 1 to 4 rows: W is read once per 4 rows.
 * Grid      a warp for each output and 4 rows of x; x goes through the caches.
 * Numerics  F32 FMA, lane l adds columns l, l + 32, ..., then a fixed tree: the same row gives
 *           the same bits whatever the other rows are. */
#include "backend/cuda/elements.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/linear.h"

#define WARPS 8
#define ROWS 4                      /* of x at once */
#define GRID_ROWS_MAX 4096          /* blocks in y; they stride over the rest */

template <typename T>
struct plain_args {
    const T *x, *weight;
    const float *bias;
    void *y;
    int64_t x_stride, rows, in, out;
    bool y_f32;
};

template <typename T>
static __global__ void __launch_bounds__(WARPS *WARP_LANES) linear_plain(const plain_args<T> args)
{
    int lane = threadIdx.x % WARP_LANES;
    int64_t out = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP_LANES;
    if (out >= args.out) return;
    const T *weight = args.weight + out * args.in;
    float bias = args.bias != NULL ? args.bias[out] : 0.0f;
    for (int64_t first = (int64_t)blockIdx.y * ROWS; first < args.rows;
         first += (int64_t)gridDim.y * ROWS) {
        const T *x[ROWS];           /* a row past the last is the last: its sum goes nowhere */
        float sums[ROWS] = {};
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int64_t row = first + r < args.rows ? first + r : args.rows - 1;
            x[r] = args.x + row * args.x_stride;
        }
#pragma unroll 4
        for (int64_t k = lane; k < args.in; k += WARP_LANES) {
            float w = to_f32(weight[k]);
#pragma unroll
            for (int r = 0; r < ROWS; r++) sums[r] = fmaf(w, to_f32(x[r][k]), sums[r]);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float sum = warp_sum(sums[r]) + bias;
            if (lane != r || first + r >= args.rows) continue;
            int64_t at = (first + r) * args.out + out;
            if (args.y_f32) ((float *)args.y)[at] = sum;
            else ((T *)args.y)[at] = from_f32<T>(sum);
        }
    }
}

template <typename T>
static agl_status launch(agl_stream *stream, const agl_linear_args *args)
{
    const agl_cuda_weight *weight = (const agl_cuda_weight *)args->weight;
    plain_args<T> a = {};
    a.x = (const T *)args->x, a.x_stride = args->x_stride, a.rows = args->rows;
    a.weight = (const T *)weight->data, a.bias = weight->bias;
    a.in = weight->base.in, a.out = weight->base.out;
    a.y = args->y, a.y_f32 = args->y_f32;
    int64_t row_blocks = (a.rows + ROWS - 1) / ROWS;
    dim3 grid((unsigned)((a.out + WARPS - 1) / WARPS),
              (unsigned)(row_blocks < GRID_ROWS_MAX ? row_blocks : GRID_ROWS_MAX));
    return cuda_launch(stream, linear_plain<T>, grid, dim3(WARPS * WARP_LANES), 0, a);
}

extern "C" agl_status agl_cuda_linear_plain(agl_stream *stream, const agl_linear_args *args)
{
    AGL_CUDA_BY_ACTIVATION(stream->backend->activation, T, return launch<T>(stream, args));
}
