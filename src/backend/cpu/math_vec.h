/* SPDX-License-Identifier: Apache-2.0
 *
 * math_vec.h - functions of vectors, written in the vocabulary of vec_*.h. */

#include "base/dtype.h"

#define UNROLL _Pragma("GCC unroll 16")
#define INLINE static inline __attribute__((always_inline))

/* e^x: x = n ln 2 + r, a polynomial of degree 6 on |r| <= ln 2 / 2, times 2^n.
 * At most 1.01 ulp off where the result is normal; exp(0) = 1, exp(-inf) = 0, NaN stays. */
static inline vec vec_exp(vec x)
{
    x = vec_max(vec_set(-110.0f), x);
    x = vec_min(vec_set(89.0f), x);
    vec n = vec_round(vec_mul(x, vec_set(1.44269504f)));
    vec r = vec_fnma(n, vec_set(0.693359375f), x);        /* exact: 0.693359375 has 9 bits */
    r = vec_fnma(n, vec_set(-2.12194440e-4f), r);
    vec p = vec_set(1.9875691500e-4f);
    p = vec_fma(p, r, vec_set(1.3981999507e-3f));
    p = vec_fma(p, r, vec_set(8.3334519073e-3f));
    p = vec_fma(p, r, vec_set(4.1665795894e-2f));
    p = vec_fma(p, r, vec_set(1.6666665459e-1f));
    p = vec_fma(p, r, vec_set(5.0000001201e-1f));
    p = vec_fma(p, vec_mul(r, r), r);
    return vec_scale(vec_add(p, vec_set(1.0f)), n);
}

/* VEC_LANES elements of an array of F32, BF16 or F16; zeros from `count` on. */
INLINE vec vec_load_as(agl_dtype dtype, const void *p, int64_t count)
{
    if (dtype == AGL_F32) return vec_load_f32(p, count);
    return dtype == AGL_BF16 ? vec_load_bf16(p, count) : vec_load_f16(p, count);
}
