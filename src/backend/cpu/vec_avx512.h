/* SPDX-License-Identifier: Apache-2.0
 *
 * vec_avx512.h - the vector vocabulary of the *_vec.h kernels, in AVX-512. vec_avx2.h and
 * vec_neon.h offer the same words; only VEC_LANES and the tile sizes differ. Included by
 * exactly one file that is compiled for this instruction set. */
#ifndef AGL_BACKEND_CPU_VEC_AVX512_H
#define AGL_BACKEND_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define VEC_LANES 16
#define VEC_LINEAR_ROWS 6   /* 6 x 4 sums, 4 weights, 1 activation: 29 of 32 registers */
#define VEC_TILE_ROWS 6     /* 6 x 4 sums, 4 of B, 1 of A                              */
#define VEC_TILE_VECS 4

typedef __m512 vec;

static inline __mmask16 vec_mask(int64_t count)
{
    return count >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << count) - 1u);
}

static inline vec vec_zero(void) { return _mm512_setzero_ps(); }
static inline vec vec_set(float value) { return _mm512_set1_ps(value); }
static inline vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vec_store(float *p, vec a) { _mm512_storeu_ps(p, a); }
static inline vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
static inline vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }   /* ab + c */
static inline vec vec_fnma(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); } /* c - ab */
/* The second operand if either is NaN. */
static inline vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline vec vec_min(vec a, vec b) { return _mm512_min_ps(a, b); }
static inline vec vec_round(vec a) { return _mm512_roundscale_ps(a, 0); }
static inline float vec_max_lane(vec a) { return _mm512_reduce_max_ps(a); }

/* a * 2^n for integral n, with gradual underflow. */
static inline vec vec_scale(vec a, vec n) { return _mm512_scalef_ps(a, n); }

/* The first `count` elements (0 .. VEC_LANES), then zeros. Nothing behind them is read. */
static inline vec vec_load_f32(const void *p, int64_t count)
{
    return _mm512_maskz_loadu_ps(vec_mask(count), p);
}

static inline void vec_store_f32(float *p, vec a, int64_t count)
{
    _mm512_mask_storeu_ps(p, vec_mask(count), a);
}

static inline vec vec_load_bf16(const void *p, int64_t count)
{
    __m256i bits = _mm256_maskz_loadu_epi16(vec_mask(count), p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

static inline vec vec_load_f16(const void *p, int64_t count)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vec_mask(count), p));
}

/* 2 * VEC_LANES BF16: those at even places, those at odd places. One operation each. */
static inline vec vec_bf16_even(const void *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}

static inline vec vec_bf16_odd(const void *p)
{
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32((int)0xffff0000)));
}

/* Elements at even places of a | b, and at odd places. */
static inline vec vec_even(vec a, vec b)
{
    const __m512i index = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, index, b);
}

static inline vec vec_odd(vec a, vec b)
{
    const __m512i index = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(a, index, b);
}

/* Sums of the lanes of four vectors, in one fixed order. */
static inline void vec_sum4(float *out, vec a, vec b, vec c, vec d)
{
    vec ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    vec cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    vec abcd = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

static inline float vec_sum(vec a) { return _mm512_reduce_add_ps(a); }

/* Transpose the VEC_LANES x VEC_LANES block in place. */
static inline void vec_transpose(vec m[VEC_LANES])
{
    vec t[16];
    for (int i = 0; i < 16; i += 4) {
        vec a = _mm512_unpacklo_ps(m[i], m[i + 1]), b = _mm512_unpackhi_ps(m[i], m[i + 1]);
        vec c = _mm512_unpacklo_ps(m[i + 2], m[i + 3]), d = _mm512_unpackhi_ps(m[i + 2], m[i + 3]);
        t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(c)));
        t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(c)));
        t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b), _mm512_castps_pd(d)));
        t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b), _mm512_castps_pd(d)));
    }
    /* t[4 i + j], quarter q: column 4 q + j of rows 4 i .. 4 i + 3. */
    for (int j = 0; j < 4; j++) {
        vec a = _mm512_shuffle_f32x4(t[j], t[4 + j], 0x88), b = _mm512_shuffle_f32x4(t[j], t[4 + j], 0xdd);
        vec c = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0x88), d = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0xdd);
        m[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        m[4 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
        m[8 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
        m[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

#endif
