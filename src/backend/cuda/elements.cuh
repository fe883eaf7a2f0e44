/* SPDX-License-Identifier: Apache-2.0
 *
 * elements.cuh - activations of three formats as F32, warp-wide sums in a fixed order, and
 * the choice of a template by the backend's activation dtype. */
#ifndef AGL_BACKEND_CUDA_ELEMENTS_CUH
#define AGL_BACKEND_CUDA_ELEMENTS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#include <string.h>

#include "backend/cuda/cuda_backend.h"

#define WARP_LANES 32
#define FULL_WARP 0xffffffffu
#define F16_MAX 65504.0f

/* ---- one value --------------------------------------------------------------- */

static __device__ __forceinline__ float to_f32(float v) { return v; }
static __device__ __forceinline__ float to_f32(__nv_bfloat16 v) { return __bfloat162float(v); }
static __device__ __forceinline__ float to_f32(__half v) { return __half2float(v); }

/* Round to nearest even; F16 saturates: an infinity would spread, 65504 does not. */
template <typename T>
static __device__ __forceinline__ T from_f32(float v);
template <>
__device__ __forceinline__ float from_f32<float>(float v) { return v; }
template <>
__device__ __forceinline__ __nv_bfloat16 from_f32<__nv_bfloat16>(float v) { return __float2bfloat16(v); }
template <>
__device__ __forceinline__ __half from_f32<__half>(float v)
{
    return __float2half(fminf(fmaxf(v, -F16_MAX), F16_MAX));
}

/* ---- two 16-bit values in a register, the first in the low half --------------- */

template <typename T>
static __device__ __forceinline__ uint32_t pack2(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack2<__nv_bfloat16>(float low, float high)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
template <>
__device__ __forceinline__ uint32_t pack2<__half>(float low, float high)
{
    __half2 v = __floats2half2_rn(fminf(fmaxf(low, -F16_MAX), F16_MAX),
                                  fminf(fmaxf(high, -F16_MAX), F16_MAX));
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

template <typename T>
static __device__ __forceinline__ float2 unpack2(uint32_t bits);
template <>
__device__ __forceinline__ float2 unpack2<__nv_bfloat16>(uint32_t bits)
{
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}
template <>
__device__ __forceinline__ float2 unpack2<__half>(uint32_t bits)
{
    __half2 v;
    memcpy(&v, &bits, sizeof v);
    return __half22float2(v);
}

/* ---- sums in a warp ------------------------------------------------------------ */

static __device__ __forceinline__ float warp_sum(float v)
{
    for (int offset = WARP_LANES / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(FULL_WARP, v, offset);
    return v;
}

/* ---- choice by dtype ------------------------------------------------------------- */

/* AGL_CUDA_BY_ACTIVATION(dtype, T, return launch<T>(...)) runs the statement with T defined. */
#define AGL_CUDA_BY_ACTIVATION(dtype, T, statement)                                            \
    switch (dtype) {                                                                           \
    case AGL_F32: { typedef float T; statement; } break;                                       \
    case AGL_BF16: { typedef __nv_bfloat16 T; statement; } break;                              \
    case AGL_F16: { typedef __half T; statement; } break;                                      \
    default: return AGL_ERR_UNSUPPORTED;                                                       \
    }

#endif
