/* SPDX-License-Identifier: Apache-2.0
 *
 * ops_avx2.c - the vector kernels in AVX2 with FMA and F16C. */
#include "backend/cpu/cpu_ops.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

/* In this order: each header is written in the words of the ones before it. */
#include "backend/cpu/vec_avx2.h"

#include "backend/cpu/math_vec.h"

#include "backend/cpu/attention_vec.h"
#include "backend/cpu/linear_vec.h"
#include "backend/cpu/rows_vec.h"

void agl_cpu_ops_avx2(agl_cpu_ops *ops)
{
    ops->rmsnorm = rmsnorm;
    ops->linear = linear;
    ops->swiglu = swiglu;
    ops->attention_paged = attention_paged;
    ops->attention_dense = attention_dense;
}

#else

void agl_cpu_ops_avx2(agl_cpu_ops *ops)
{
    (void)ops;
}

#endif
