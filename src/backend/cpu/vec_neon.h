/* SPDX-License-Identifier: Apache-2.0
 *
 * vec_neon.h - the vector vocabulary of the *_vec.h kernels, in ARMv8-A Advanced SIMD.
 * Words and their meaning are those of vec_avx512.h. */
#ifndef AGL_BACKEND_CPU_VEC_NEON_H
#define AGL_BACKEND_CPU_VEC_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define VEC_LANES 4
#define VEC_LINEAR_ROWS 6   /* 6 x 4 sums, 4 of W, 1 of x: 29 of 32 registers */
#define VEC_TILE_ROWS 6
#define VEC_TILE_VECS 4

typedef float32x4_t vec;

static inline vec vec_zero(void) { return vdupq_n_f32(0.0f); }
static inline vec vec_set(float value) { return vdupq_n_f32(value); }
static inline vec vec_load(const float *p) { return vld1q_f32(p); }
static inline void vec_store(float *p, vec a) { vst1q_f32(p, a); }
static inline vec vec_add(vec a, vec b) { return vaddq_f32(a, b); }
static inline vec vec_sub(vec a, vec b) { return vsubq_f32(a, b); }
static inline vec vec_mul(vec a, vec b) { return vmulq_f32(a, b); }
static inline vec vec_div(vec a, vec b) { return vdivq_f32(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
static inline vec vec_fnma(vec a, vec b, vec c) { return vfmsq_f32(c, a, b); }
/* NaN if either is NaN. */
static inline vec vec_max(vec a, vec b) { return vmaxq_f32(a, b); }
static inline vec vec_min(vec a, vec b) { return vminq_f32(a, b); }
static inline vec vec_round(vec a) { return vrndnq_f32(a); }
static inline float vec_max_lane(vec a) { return vmaxvq_f32(a); }

/* In two halves: 2^n itself may leave the range of F32 where a * 2^n does not. */
static inline vec vec_scale(vec a, vec n)
{
    int32x4_t whole = vcvtnq_s32_f32(n), half = vshrq_n_s32(whole, 1);
    int32x4_t rest = vsubq_s32(whole, half), one = vdupq_n_s32(127);
    vec low = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, one), 23));
    vec high = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, one), 23));
    return vmulq_f32(vmulq_f32(a, low), high);
}

static inline vec vec_load_f32(const void *p, int64_t count)
{
    if (count == VEC_LANES) return vld1q_f32(p);
    float lanes[VEC_LANES] = {0};
    memcpy(lanes, p, (size_t)count * 4);
    return vld1q_f32(lanes);
}

static inline void vec_store_f32(float *p, vec a, int64_t count)
{
    float lanes[VEC_LANES];
    if (count == VEC_LANES) {
        vst1q_f32(p, a);
    } else {
        vst1q_f32(lanes, a);
        memcpy(p, lanes, (size_t)count * 4);
    }
}

static inline uint16x4_t vec_load_halves(const void *p, int64_t count)
{
    if (count == VEC_LANES) return vld1_u16(p);
    uint16_t halves[VEC_LANES] = {0};
    memcpy(halves, p, (size_t)count * 2);
    return vld1_u16(halves);
}

static inline vec vec_load_bf16(const void *p, int64_t count)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vec_load_halves(p, count), 16));
}

static inline vec vec_load_f16(const void *p, int64_t count)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vec_load_halves(p, count)));
}

static inline vec vec_bf16_even(const void *p)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u16(vld1q_u16(p)), 16));
}

static inline vec vec_bf16_odd(const void *p)
{
    uint32x4_t words = vreinterpretq_u32_u16(vld1q_u16(p));
    return vreinterpretq_f32_u32(vandq_u32(words, vdupq_n_u32(0xffff0000u)));
}

static inline vec vec_even(vec a, vec b) { return vuzp1q_f32(a, b); }
static inline vec vec_odd(vec a, vec b) { return vuzp2q_f32(a, b); }

static inline void vec_sum4(float *out, vec a, vec b, vec c, vec d)
{
    vst1q_f32(out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
}

static inline float vec_sum(vec a) { return vaddvq_f32(a); }

static inline void vec_transpose(vec m[VEC_LANES])
{
    float32x4x2_t ab = vtrnq_f32(m[0], m[1]), cd = vtrnq_f32(m[2], m[3]);
    m[0] = vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
    m[1] = vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
    m[2] = vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
    m[3] = vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
}

#endif
