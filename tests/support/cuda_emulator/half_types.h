/* SPDX-License-Identifier: Apache-2.0
 *
 * half_types.h - conversions between F32 and the two 16-bit formats, exact and rounded to nearest
 * even, and the operators that both types of the toolkit have. */
#ifndef AGL_TESTS_CUDA_EMULATOR_HALF_TYPES_H
#define AGL_TESTS_CUDA_EMULATOR_HALF_TYPES_H

#include "cuda_runtime.h"

static inline float emu_bf16_to_f32(uint16_t bits) { return __uint_as_float((unsigned)bits << 16); }

static inline uint16_t emu_f32_to_bf16(float v)
{
    unsigned bits = __float_as_uint(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static inline float emu_f16_to_f32(uint16_t bits)
{
    unsigned sign = (unsigned)(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    /* The exponent moves from bias 15 to 127 in one product, which is exact, also for subnormals. */
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude << 13) * 0x1p112f));
}

static inline uint16_t emu_f32_to_f16(float v)
{
    unsigned bits = __float_as_uint(v), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        /* Adding 0.5 puts the last bit of a subnormal F16 into the last bit of the F32 sum. */
        float sum = __uint_as_float(magnitude) + 0.5f;
        return (uint16_t)(sign | (__float_as_uint(sum) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13));
}

/* A 16-bit type with its F32 conversions; every operation is done in F32 and rounded once. */
#define EMU_HALF_TYPE(type, pair, to_f32, from_f32)                                            \
    struct type {                                                                              \
        uint16_t bits;                                                                         \
        type() = default;                                                                      \
        type(float v) : bits(from_f32(v)) {}                                                   \
        type(double v) : bits(from_f32((float)v)) {}                                           \
        type(int v) : bits(from_f32((float)v)) {}                                              \
        operator float() const { return to_f32(bits); }                                        \
    };                                                                                         \
    struct __align__(4) pair {                                                                 \
        type x, y;                                                                             \
    };                                                                                         \
    static inline type operator+(type a, type b) { return type((float)a + (float)b); }         \
    static inline type operator-(type a, type b) { return type((float)a - (float)b); }         \
    static inline type operator*(type a, type b) { return type((float)a * (float)b); }         \
    static inline type operator/(type a, type b) { return type((float)a / (float)b); }         \
    static inline type operator-(type a) { a.bits ^= 0x8000u; return a; }                      \
    static inline bool operator<(type a, type b) { return (float)a < (float)b; }               \
    static inline bool operator>(type a, type b) { return (float)a > (float)b; }               \
    static inline bool operator<=(type a, type b) { return (float)a <= (float)b; }             \
    static inline bool operator>=(type a, type b) { return (float)a >= (float)b; }             \
    static inline bool operator==(type a, type b) { return (float)a == (float)b; }             \
    static inline bool operator!=(type a, type b) { return (float)a != (float)b; }             \
    static inline type __hadd(type a, type b) { return a + b; }                                \
    static inline type __hsub(type a, type b) { return a - b; }                                \
    static inline type __hmul(type a, type b) { return a * b; }                                \
    static inline type __hneg(type a) { return -a; }                                           \
    static inline type __habs(type a) { a.bits &= 0x7fffu; return a; }                         \
    static inline bool __hisnan(type a) { return (float)a != (float)a; }                       \
    static inline type __hmax(type a, type b) { return type(fmaxf((float)a, (float)b)); }      \
    static inline type __hmin(type a, type b) { return type(fminf((float)a, (float)b)); }      \
    static inline type __hfma(type a, type b, type c)                                          \
    {                                                                                          \
        return type((float)((double)(float)a * (double)(float)b + (double)(float)c));          \
    }                                                                                          \
    static inline pair __hadd2(pair a, pair b) { return {a.x + b.x, a.y + b.y}; }              \
    static inline pair __hsub2(pair a, pair b) { return {a.x - b.x, a.y - b.y}; }              \
    static inline pair __hmul2(pair a, pair b) { return {a.x * b.x, a.y * b.y}; }              \
    static inline pair __hmax2(pair a, pair b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; } \
    static inline pair __hmin2(pair a, pair b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; } \
    static inline pair __hfma2(pair a, pair b, pair c)                                         \
    {                                                                                          \
        return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};                                 \
    }                                                                                          \
    static inline float __low2float(pair v) { return (float)v.x; }                             \
    static inline float __high2float(pair v) { return (float)v.y; }

#endif
