/* SPDX-License-Identifier: Apache-2.0
 *
 * norms.cuh - a block adds up one row: what the norm kernels and the products with a norm in front
 * of them share, so that both give the same bits. */
#ifndef AGL_BACKEND_CUDA_NORMS_CUH
#define AGL_BACKEND_CUDA_NORMS_CUH

#include "backend/cuda/rows.cuh"

/* Sums of a block with one barrier each. Two lines take turns: a thread that writes line 0
 * again has passed the barrier of line 1, and so has every reader of the old line 0. */
typedef struct {
    float lines[2][WARP_LANES];
} sum_lines;

/* A butterfly over the lanes of a warp, then one over the warps. */
static __device__ __forceinline__ float row_sum(float v, sum_lines *shared, int *turn)
{
    float *line = shared->lines[*turn];
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    int warps = blockDim.x / WARP_LANES;
    *turn ^= 1;
    v = warp_sum(v);
    if (lane == 0) line[warp] = v;
    __syncthreads();
    return warp_sum(lane < warps ? line[lane] : 0.0f);
}

static __device__ __forceinline__ float squares8(const float *v)
{
    float sum = 0.0f;
    for (int i = 0; i < VECTOR; i++) sum += v[i] * v[i];
    return sum;
}

static __device__ __forceinline__ float rms_scale(float squares, int64_t hidden, float eps)
{
    return 1.0f / sqrtf(squares / (float)hidden + eps);
}

/* x += RMS(delta) delta_weight, or x += delta; a thread has eight values of each. */
static __device__ __forceinline__ void add_delta8(float *x, const float *delta,
                                                  const float *delta_weight, bool weighted,
                                                  int64_t hidden, float eps, sum_lines *shared,
                                                  int *turn)
{
    float scale = 1.0f;
    if (weighted) scale = rms_scale(row_sum(squares8(delta), shared, turn), hidden, eps);
    for (int i = 0; i < VECTOR; i++) x[i] += weighted ? delta[i] * scale * delta_weight[i] : delta[i];
}

/* y = RMS(x) weight. */
static __device__ __forceinline__ void normalise8(float *y, const float *x, const float *weight,
                                                  int64_t hidden, float eps, sum_lines *shared,
                                                  int *turn)
{
    float scale = rms_scale(row_sum(squares8(x), shared, turn), hidden, eps);
    for (int i = 0; i < VECTOR; i++) y[i] = x[i] * (scale * weight[i]);
}

#endif
