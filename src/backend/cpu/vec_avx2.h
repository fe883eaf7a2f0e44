/* SPDX-License-Identifier: Apache-2.0
 *
 * vec_avx2.h - the vector vocabulary of the *_vec.h kernels, in AVX2, FMA and F16C. Words
 * and their meaning are those of vec_avx512.h. */
#ifndef AGL_BACKEND_CPU_VEC_AVX2_H
#define AGL_BACKEND_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define VEC_LANES 8
#define VEC_LINEAR_ROWS 3   /* 3 x 4 sums, 3 of x, 1 of W: all 16 registers */
#define VEC_TILE_ROWS 6     /* 6 x 2 sums, 2 of B, 1 of A                   */
#define VEC_TILE_VECS 2

typedef __m256 vec;

static inline vec vec_zero(void) { return _mm256_setzero_ps(); }
static inline vec vec_set(float value) { return _mm256_set1_ps(value); }
static inline vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vec_store(float *p, vec a) { _mm256_storeu_ps(p, a); }
static inline vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec vec_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
static inline vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec vec_div(vec a, vec b) { return _mm256_div_ps(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec vec_fnma(vec a, vec b, vec c) { return _mm256_fnmadd_ps(a, b, c); }
static inline vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
static inline vec vec_min(vec a, vec b) { return _mm256_min_ps(a, b); }
static inline vec vec_round(vec a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* In two halves: 2^n itself may leave the range of F32 where a * 2^n does not. */
static inline vec vec_scale(vec a, vec n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    __m256i rest = _mm256_sub_epi32(whole, half), one = _mm256_set1_epi32(127);
    vec low = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, one), 23));
    vec high = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, one), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, low), high);
}

static inline vec vec_load_f32(const void *p, int64_t count)
{
    if (count == VEC_LANES) return _mm256_loadu_ps(p);
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), lane));
}

static inline void vec_store_f32(float *p, vec a, int64_t count)
{
    float lanes[VEC_LANES];
    if (count == VEC_LANES) {
        _mm256_storeu_ps(p, a);
    } else {
        _mm256_storeu_ps(lanes, a);
        memcpy(p, lanes, (size_t)count * 4);
    }
}

/* AVX2 has no masked loads of 2-byte elements. */
static inline __m128i vec_load_halves(const void *p, int64_t count)
{
    if (count == VEC_LANES) return _mm_loadu_si128(p);
    uint16_t halves[VEC_LANES] = {0};
    memcpy(halves, p, (size_t)count * 2);
    return _mm_loadu_si128((const __m128i *)(const void *)halves);
}

static inline vec vec_load_bf16(const void *p, int64_t count)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(vec_load_halves(p, count)), 16));
}

static inline vec vec_load_f16(const void *p, int64_t count)
{
    return _mm256_cvtph_ps(vec_load_halves(p, count));
}

static inline vec vec_bf16_even(const void *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(p), 16));
}

static inline vec vec_bf16_odd(const void *p)
{
    return _mm256_castsi256_ps(
        _mm256_and_si256(_mm256_loadu_si256(p), _mm256_set1_epi32((int)0xffff0000)));
}

/* Within 128-bit halves first, then the middle quarters of 64 bits change places. */
static inline vec vec_even(vec a, vec b)
{
    vec mixed = _mm256_shuffle_ps(a, b, 0x88);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
}

static inline vec vec_odd(vec a, vec b)
{
    vec mixed = _mm256_shuffle_ps(a, b, 0xdd);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
}

static inline void vec_sum4(float *out, vec a, vec b, vec c, vec d)
{
    vec abcd = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}

static inline float vec_sum(vec a)
{
    float sums[4];
    vec_sum4(sums, a, a, a, a);
    return sums[0];
}

static inline float vec_max_lane(vec a)
{
    __m128 max = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    max = _mm_max_ps(max, _mm_movehl_ps(max, max));
    return _mm_cvtss_f32(_mm_max_ss(max, _mm_shuffle_ps(max, max, 1)));
}

static inline void vec_transpose(vec m[VEC_LANES])
{
    vec t[8];
    for (int i = 0; i < 8; i += 4) {
        vec a = _mm256_unpacklo_ps(m[i], m[i + 1]), b = _mm256_unpackhi_ps(m[i], m[i + 1]);
        vec c = _mm256_unpacklo_ps(m[i + 2], m[i + 3]), d = _mm256_unpackhi_ps(m[i + 2], m[i + 3]);
        t[i] = _mm256_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; i++) {
        m[i] = _mm256_permute2f128_ps(t[i], t[4 + i], 0x20);
        m[4 + i] = _mm256_permute2f128_ps(t[i], t[4 + i], 0x31);
    }
}

#endif
