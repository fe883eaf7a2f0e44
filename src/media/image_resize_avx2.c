/* SPDX-License-Identifier: Apache-2.0
 *
 * image_resize_avx2.c - the resize loops with 16-bit multiply-add.
 *
 * A weight has 24 bits, a multiply-add takes 16: each weight is (high << 12) + low
 * and both halves are summed apart, which is exact in 32 bits and still cheaper
 * than 32-bit multiplication. */
#include "media/image_resize.h"

#if defined(__AVX2__)
#include <immintrin.h>
#include <string.h>

#define ROUNDING (1 << (AGL_RESIZE_FRACTION_BITS - 1))

/* Sum of one window. Four pixels of a row become 16-bit pairs of equal channels,
 * (r0 r1)(g0 g1)(b0 b1)(0 0) | (r2 r3)(g2 g3)(b2 b3)(0 0), times their weights.
 * Each group reads 16 bytes, 4 more than it needs. */
static inline __attribute__((always_inline)) __m128i window_sum(const uint8_t *in,
                                                                const int16_t *halves,
                                                                int32_t groups)
{
    const __m128i pairs = _mm_setr_epi8(0, 3, 1, 4, 2, 5, -1, -1, 6, 9, 7, 10, 8, 11, -1, -1);
    const __m256i high_pairs = _mm256_setr_epi32(0x03020100, 0x03020100, 0x03020100, 0x03020100,
                                                 0x07060504, 0x07060504, 0x07060504, 0x07060504);
    const __m256i low_pairs = _mm256_setr_epi32(0x0b0a0908, 0x0b0a0908, 0x0b0a0908, 0x0b0a0908,
                                                0x0f0e0d0c, 0x0f0e0d0c, 0x0f0e0d0c, 0x0f0e0d0c);
    __m256i high = _mm256_setzero_si256(), low = high;
    for (int32_t g = 0; g < groups; g++) {
        __m128i levels = _mm_loadu_si128((const __m128i *)(in + 12 * (size_t)g));
        __m256i words = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(levels, pairs));
        __m256i weights =
            _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(halves + 8 * (size_t)g)));
        high = _mm256_add_epi32(high,
                                _mm256_madd_epi16(words, _mm256_shuffle_epi8(weights, high_pairs)));
        low = _mm256_add_epi32(low,
                               _mm256_madd_epi16(words, _mm256_shuffle_epi8(weights, low_pairs)));
    }
    __m256i both = _mm256_add_epi32(_mm256_slli_epi32(high, AGL_RESIZE_LOW_BITS), low);
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    return _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(ROUNDING)), AGL_RESIZE_FRACTION_BITS);
}

static inline int32_t groups_of(int32_t count)
{
    return (count + AGL_RESIZE_GROUP - 1) / AGL_RESIZE_GROUP;
}

/* Outputs from 0 on whose reads stay in the row. The longest window stands for all:
 * a window may be longer, and end later, than one that begins after it. */
static int64_t readable_outputs(const agl_resize_axis *axis)
{
    int64_t outputs = axis->out_size, last = 3 * (axis->in_size - axis->taps) - 4;
    while (outputs > 0 && 3 * (int64_t)axis->first[outputs - 1] > last) outputs--;
    return outputs;
}

static void across_avx2(uint8_t *out, const uint8_t *in, const agl_resize_axis *axis)
{
    const __m128i drop_fourth =
        _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const int32_t *first = axis->first, *count = axis->count;
    const int16_t *halves = axis->halves;
    int64_t step = 2 * axis->taps, x = 0;
    /* Four pixels at a time; the store writes four bytes more, so two pixels must follow. */
    int64_t end = readable_outputs(axis);
    if (end > axis->out_size - 2) end = axis->out_size - 2;
    for (; x + 4 <= end; x += 4, halves += 4 * step) {
        __m128i sum[4];
        for (int i = 0; i < 4; i++)
            sum[i] = window_sum(in + 3 * (size_t)first[x + i], halves + i * step,
                                groups_of(count[x + i]));
        __m128i levels =
            _mm_packus_epi16(_mm_packs_epi32(sum[0], sum[1]), _mm_packs_epi32(sum[2], sum[3]));
        _mm_storeu_si128((__m128i *)(out + 3 * x), _mm_shuffle_epi8(levels, drop_fourth));
    }
    for (; x < axis->out_size; x++) agl_resize_pixel(out + 3 * x, in, axis, x);
}

/* Sums of eight levels, high and low halves. */
typedef struct {
    __m256i high, low;
} sums;

static inline __attribute__((always_inline)) void add_pairs(sums *to, __m256i words, __m256i high,
                                                            __m256i low)
{
    to->high = _mm256_add_epi32(to->high, _mm256_madd_epi16(words, high));
    to->low = _mm256_add_epi32(to->low, _mm256_madd_epi16(words, low));
}

static inline __attribute__((always_inline)) __m256i total(sums from)
{
    __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(from.high, AGL_RESIZE_LOW_BITS), from.low);
    return _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(ROUNDING)),
                             AGL_RESIZE_FRACTION_BITS);
}

/* 32 levels at a time; two rows make the 16-bit pairs. */
static void down_avx2(uint8_t *out, const uint8_t *const *rows, size_t bytes,
                      const agl_resize_axis *axis, int64_t index)
{
    const int16_t *halves = axis->halves + index * axis->taps * 2;
    int32_t count = axis->count[index];
    const __m256i zero = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 32 <= bytes; i += 32) {
        sums s0 = {zero, zero}, s1 = s0, s2 = s0, s3 = s0;
        for (int32_t t = 0; t < count; t += 2) {
            /* An odd last row pairs with itself: its partner's weight is zero. */
            const uint8_t *second = rows[t + 1 < count ? t + 1 : t];
            int32_t high_pair, low_pair;
            const int16_t *group =
                halves + t / AGL_RESIZE_GROUP * 2 * AGL_RESIZE_GROUP + t % AGL_RESIZE_GROUP;
            memcpy(&high_pair, group, sizeof high_pair);
            memcpy(&low_pair, group + AGL_RESIZE_GROUP, sizeof low_pair);
            __m256i high = _mm256_set1_epi32(high_pair), low = _mm256_set1_epi32(low_pair);
            __m256i a = _mm256_loadu_si256((const __m256i *)(rows[t] + i));
            __m256i b = _mm256_loadu_si256((const __m256i *)(second + i));
            __m256i front = _mm256_unpacklo_epi8(a, b), back = _mm256_unpackhi_epi8(a, b);
            add_pairs(&s0, _mm256_unpacklo_epi8(front, zero), high, low);
            add_pairs(&s1, _mm256_unpackhi_epi8(front, zero), high, low);
            add_pairs(&s2, _mm256_unpacklo_epi8(back, zero), high, low);
            add_pairs(&s3, _mm256_unpackhi_epi8(back, zero), high, low);
        }
        __m256i front = _mm256_packs_epi32(total(s0), total(s1));
        __m256i back = _mm256_packs_epi32(total(s2), total(s3));
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_packus_epi16(front, back));
    }
    agl_resize_levels(out, rows, i, bytes, axis, index);
}

static const agl_resize_kernels KERNELS = {across_avx2, down_avx2};

const agl_resize_kernels *agl_resize_avx2(void)
{
    return __builtin_cpu_supports("avx2") ? &KERNELS : NULL;
}
#else
const agl_resize_kernels *agl_resize_avx2(void)
{
    return NULL;
}
#endif
