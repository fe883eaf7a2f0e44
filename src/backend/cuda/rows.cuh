/* SPDX-License-Identifier: Apache-2.0
 *
 * rows.cuh - what the row-wise operations share: eight values at a time between memory and
 * registers, and the test whether a pointer allows it.
 *
 * A vector is eight values: 16 bytes of BF16 or F16, 32 bytes of F32. Kernels that have a
 * vector path are templates on VALUES, 8 or 1; the launcher takes 8 where all sizes and
 * addresses are multiples of a vector, as in every shape of the model. */
#ifndef AGL_BACKEND_CUDA_ROWS_CUH
#define AGL_BACKEND_CUDA_ROWS_CUH

#include "backend/cuda/elements.cuh"

#define VECTOR 8
#define GRID_Y_MAX 65535        /* blocks along y; rows beyond are reached by a loop */

static inline bool is_aligned16(const void *pointer)
{
    return ((uintptr_t)pointer & 15) == 0;
}

static inline int64_t blocks_for(int64_t count, int64_t block)
{
    return (count + block - 1) / block;
}

/* ---- eight values; both addresses are multiples of 16 bytes ------------------- */

static __device__ __forceinline__ void load8(float *out, const float *in)
{
    float4 low = ((const float4 *)in)[0], high = ((const float4 *)in)[1];
    out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
    out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
}

static __device__ __forceinline__ void store8(float *out, const float *in)
{
    ((float4 *)out)[0] = make_float4(in[0], in[1], in[2], in[3]);
    ((float4 *)out)[1] = make_float4(in[4], in[5], in[6], in[7]);
}

template <typename T>
static __device__ __forceinline__ void load8(float *out, const T *in)
{
    uint4 bits = *(const uint4 *)in;
    float2 a = unpack2<T>(bits.x), b = unpack2<T>(bits.y);
    float2 c = unpack2<T>(bits.z), d = unpack2<T>(bits.w);
    out[0] = a.x, out[1] = a.y, out[2] = b.x, out[3] = b.y;
    out[4] = c.x, out[5] = c.y, out[6] = d.x, out[7] = d.y;
}

template <typename T>
static __device__ __forceinline__ void store8(T *out, const float *in)
{
    *(uint4 *)out = make_uint4(pack2<T>(in[0], in[1]), pack2<T>(in[2], in[3]),
                               pack2<T>(in[4], in[5]), pack2<T>(in[6], in[7]));
}

/* ---- VALUES values: a vector, or fewer one by one -------------------------------- */

template <int VALUES, typename T>
static __device__ __forceinline__ void load_values(float *out, const T *in)
{
    if constexpr (VALUES == VECTOR) {
        load8(out, in);
    } else {
        for (int i = 0; i < VALUES; i++) out[i] = to_f32(in[i]);
    }
}

template <int VALUES, typename T>
static __device__ __forceinline__ void store_values(T *out, const float *in)
{
    if constexpr (VALUES == VECTOR) {
        store8(out, in);
    } else {
        for (int i = 0; i < VALUES; i++) out[i] = from_f32<T>(in[i]);
    }
}

#endif
