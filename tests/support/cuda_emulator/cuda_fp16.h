/* SPDX-License-Identifier: Apache-2.0
 *
 * cuda_fp16.h - stands in for the toolkit's header: F16. */
#ifndef AGL_TESTS_CUDA_EMULATOR_CUDA_FP16_H
#define AGL_TESTS_CUDA_EMULATOR_CUDA_FP16_H

#include "half_types.h"

EMU_HALF_TYPE(__half, __half2, emu_f16_to_f32, emu_f32_to_f16)
typedef __half half;
typedef __half2 half2;

static inline float __half2float(__half v) { return emu_f16_to_f32(v.bits); }
static inline __half __float2half(float v) { return __half(v); }
static inline __half __float2half_rn(float v) { return __half(v); }
static inline unsigned short __half_as_ushort(__half v) { return v.bits; }
static inline __half __ushort_as_half(unsigned short bits)
{
    __half v;
    v.bits = bits;
    return v;
}
static inline __half2 __floats2half2_rn(float low, float high) { return {__half(low), __half(high)}; }
static inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
static inline __half2 __float2half2_rn(float v) { return {__half(v), __half(v)}; }
static inline __half2 __halves2half2(__half low, __half high) { return {low, high}; }
static inline __half2 __half2half2(__half v) { return {v, v}; }
static inline __half __low2half(__half2 v) { return v.x; }
static inline __half __high2half(__half2 v) { return v.y; }
static inline float2 __half22float2(__half2 v) { return make_float2((float)v.x, (float)v.y); }

#endif
