/* SPDX-License-Identifier: Apache-2.0
 *
 * norms.cu - residual add and RMS norms in one pass over a row; layer norm with GELU.
 *
 *   x       [rows, hidden]  f32      residual stream, updated in place where there is a delta
 *   delta   [rows, hidden]  f32      output of attention or MLP
 *   y       [rows, hidden]  T or f32 what the next product reads; may be x without a delta
 *   weights [hidden]        f32
 *
 * Needs     rmsnorm_row, layernorm_row: hidden % 8 == 0, hidden <= 8192, addresses of 16 bytes;
 *           rmsnorm_any, layernorm_any: nothing. The launcher chooses.
 * Bound     memory. The _row kernels read and write every value once: 14 bytes a value for the
 *           residual and both norms into 16 bits; the weights' 8 stay in registers from row to
 *           row. One row: latency of one load, two sums, one store.
 * Grid      a block takes one row at a time, hidden / 8 threads of eight values; as many blocks
 *           as the device holds, which go through the rows in strides. Weights are loaded before
 *           the wait for the kernel before.
 * Numerics  F32. A sum is: eight values of a thread in order, a butterfly over the lanes of a
 *           warp, a butterfly over the warps. It depends on hidden alone, so a row has the same
 *           bits in every batch. y rounds once; F16 saturates. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/linear.h"
#include "backend/cuda/norms.cuh"
#include "backend/cuda/ptx.cuh"

#include <assert.h>

#define ROW_THREADS_MAX 1024
#define ANY_THREADS 512
#define THREADS_PER_PROCESSOR 2048

/* ---- RMS norm ---------------------------------------------------------------------- */

template <typename Y>
static __global__ void __launch_bounds__(ROW_THREADS_MAX) rmsnorm_row(agl_rmsnorm_args args)
{
    __shared__ sum_lines shared;
    int turn = 0;
    const int64_t hidden = args.hidden, column = (int64_t)threadIdx.x * VECTOR;
    const bool inside = column < hidden;    /* the last warp may have lanes to spare */
    float weight[VECTOR] = {}, delta_weight[VECTOR] = {};
    ptx_release_next();
    if (inside && args.y != NULL) load8(weight, args.weight + column);
    if (inside && args.delta_weight != NULL) load8(delta_weight, args.delta_weight + column);
    ptx_wait_for_previous();
    for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
        const int64_t at = row * hidden + column;
        float x[VECTOR] = {}, delta[VECTOR] = {};
        if (inside) load8(x, args.x + at);
        if (args.delta != NULL) {
            if (inside) load8(delta, args.delta + at);
            add_delta8(x, delta, delta_weight, args.delta_weight != NULL, hidden, args.eps, &shared,
                       &turn);
            if (inside) store8(args.x + at, x);
        }
        if (args.y != NULL) {
            normalise8(x, x, weight, hidden, args.eps, &shared, &turn);
            if (inside) store8((Y *)args.y + at, x);
        }
    }
}

/* Any hidden: a thread walks the row in strides and meets the same columns again, so what it
 * wrote in one pass it may read in the next. */
template <typename Y>
static __global__ void __launch_bounds__(ANY_THREADS) rmsnorm_any(agl_rmsnorm_args args)
{
    __shared__ sum_lines shared;
    int turn = 0;
    const int64_t hidden = args.hidden;
    ptx_release_next();
    ptx_wait_for_previous();
    for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
        float *x = args.x + row * hidden;
        if (args.delta != NULL) {
            const float *delta = args.delta + row * hidden;
            float scale = 1.0f;
            if (args.delta_weight != NULL) {
                float squares = 0.0f;
                for (int64_t i = threadIdx.x; i < hidden; i += blockDim.x) {
                    squares += delta[i] * delta[i];
                }
                scale = rms_scale(row_sum(squares, &shared, &turn), hidden, args.eps);
            }
            for (int64_t i = threadIdx.x; i < hidden; i += blockDim.x) {
                float weight = args.delta_weight != NULL ? args.delta_weight[i] : 1.0f;
                x[i] += delta[i] * scale * weight;
            }
        }
        if (args.y != NULL) {
            Y *y = (Y *)args.y + row * hidden;
            float squares = 0.0f;
            for (int64_t i = threadIdx.x; i < hidden; i += blockDim.x) squares += x[i] * x[i];
            float scale = rms_scale(row_sum(squares, &shared, &turn), hidden, args.eps);
            for (int64_t i = threadIdx.x; i < hidden; i += blockDim.x) {
                y[i] = from_f32<Y>(x[i] * (scale * args.weight[i]));
            }
        }
    }
}

/* ---- layer norm -------------------------------------------------------------------- */

static __device__ __forceinline__ float layer_value(float centred, float scale, float weight,
                                                    float bias, bool gelu)
{
    float value = centred * scale * weight + bias;
    return gelu ? 0.5f * value * (1.0f + erff(value * 0.70710678118654752f)) : value;
}

/* The mean is taken off before squaring: a large mean must not drown the variance. */
template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS_MAX) layernorm_row(agl_layernorm_args args)
{
    __shared__ sum_lines shared;
    int turn = 0;
    const int64_t hidden = args.hidden, column = (int64_t)threadIdx.x * VECTOR;
    const bool inside = column < hidden;
    float weight[VECTOR] = {}, bias[VECTOR] = {};
    ptx_release_next();
    if (inside) {
        load8(weight, args.weight + column);
        load8(bias, args.bias + column);
    }
    ptx_wait_for_previous();
    for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
        const int64_t at = row * hidden + column;
        float x[VECTOR] = {}, sum = 0.0f;
        if (inside) load8(x, args.x + at);
        for (int i = 0; i < VECTOR; i++) sum += x[i];
        float mean = row_sum(sum, &shared, &turn) / (float)hidden;
        for (int i = 0; i < VECTOR; i++) x[i] = inside ? x[i] - mean : 0.0f;
        float scale = rms_scale(row_sum(squares8(x), &shared, &turn), hidden, args.eps);
        for (int i = 0; i < VECTOR; i++) {
            x[i] = layer_value(x[i], scale, weight[i], bias[i], args.gelu);
        }
        if (inside) store8((T *)args.y + at, x);
    }
}

template <typename T>
static __global__ void __launch_bounds__(ANY_THREADS) layernorm_any(agl_layernorm_args args)
{
    __shared__ sum_lines shared;
    int turn = 0;
    const int64_t hidden = args.hidden;
    ptx_release_next();
    ptx_wait_for_previous();
    for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
        const float *x = args.x + row * hidden;
        T *y = (T *)args.y + row * hidden;
        float sum = 0.0f, squares = 0.0f;
        for (int64_t i = threadIdx.x; i < hidden; i += blockDim.x) sum += x[i];
        float mean = row_sum(sum, &shared, &turn) / (float)hidden;
        for (int64_t i = threadIdx.x; i < hidden; i += blockDim.x) {
            squares += (x[i] - mean) * (x[i] - mean);
        }
        float scale = rms_scale(row_sum(squares, &shared, &turn), hidden, args.eps);
        for (int64_t i = threadIdx.x; i < hidden; i += blockDim.x) {
            float value = layer_value(x[i] - mean, scale, args.weight[i], args.bias[i], args.gelu);
            y[i] = from_f32<T>(value);
        }
    }
}

/* ---- launchers ---------------------------------------------------------------------- */

static bool row_fits(int64_t hidden)
{
    return hidden % VECTOR == 0 && hidden <= (int64_t)ROW_THREADS_MAX * VECTOR;
}

/* Threads of a block that holds a row. */
static unsigned row_threads(int64_t hidden)
{
    return (unsigned)(blocks_for(hidden / VECTOR, WARP_LANES) * WARP_LANES);
}

/* As many blocks as can be on the device at once, and no more than rows. */
static unsigned row_blocks(const agl_stream *stream, int64_t rows, unsigned threads)
{
    int64_t resident = (int64_t)agl_cuda_of(stream)->processors * (THREADS_PER_PROCESSOR / threads);
    return (unsigned)(rows < resident ? rows : resident);
}

template <typename Y>
static agl_status launch_rmsnorm(agl_stream *stream, const agl_rmsnorm_args *args)
{
    bool fits = row_fits(args->hidden) && is_aligned16(args->x) && is_aligned16(args->delta) &&
                is_aligned16(args->y) && is_aligned16(args->weight) &&
                is_aligned16(args->delta_weight);
    unsigned threads = fits ? row_threads(args->hidden) : ANY_THREADS;
    unsigned blocks = row_blocks(stream, args->rows, threads);
    return cuda_launch_early(stream, fits ? rmsnorm_row<Y> : rmsnorm_any<Y>, dim3(blocks),
                             dim3(threads), 0, *args);
}

template <typename T>
static agl_status launch_layernorm(agl_stream *stream, const agl_layernorm_args *args)
{
    bool fits = row_fits(args->hidden) && is_aligned16(args->x) && is_aligned16(args->y) &&
                is_aligned16(args->weight) && is_aligned16(args->bias);
    unsigned threads = fits ? row_threads(args->hidden) : ANY_THREADS;
    unsigned blocks = row_blocks(stream, args->rows, threads);
    return cuda_launch_early(stream, fits ? layernorm_row<T> : layernorm_any<T>, dim3(blocks),
                             dim3(threads), 0, *args);
}

extern "C" agl_status agl_cuda_rmsnorm_alone(agl_stream *stream, const agl_rmsnorm_args *args)
{
    agl_dtype dtype = args->y_f32 ? AGL_F32 : stream->backend->activation;
    AGL_CUDA_BY_ACTIVATION(dtype, Y, return launch_rmsnorm<Y>(stream, args));
}

extern "C" agl_status agl_cuda_rmsnorm(agl_stream *stream, const agl_rmsnorm_args *args)
{
    assert(args->delta == NULL || (const void *)args->x != args->y);
    assert(args->y == NULL || args->weight != NULL);
    if (args->rows < 1 || agl_cuda_chain_norm(stream, args)) return AGL_OK;
    return agl_cuda_rmsnorm_alone(stream, args);
}

extern "C" agl_status agl_cuda_layernorm(agl_stream *stream, const agl_layernorm_args *args)
{
    if (args->rows < 1) return AGL_OK;
    AGL_CUDA_BY_ACTIVATION(stream->backend->activation, T,
                           return launch_layernorm<T>(stream, args));
}
