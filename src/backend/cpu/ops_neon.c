/* SPDX-License-Identifier: Apache-2.0
 *
 * ops_neon.c - the vector kernels in ARMv8-A Advanced SIMD. */
#include "backend/cpu/cpu_ops.h"

#if defined(__aarch64__) && defined(__ARM_NEON)

/* In this order: each header is written in the words of the ones before it. */
#include "backend/cpu/vec_neon.h"

#include "backend/cpu/math_vec.h"

#include "backend/cpu/attention_vec.h"
#include "backend/cpu/linear_vec.h"
#include "backend/cpu/rows_vec.h"

void agl_cpu_ops_neon(agl_cpu_ops *ops)
{
    ops->rmsnorm = rmsnorm;
    ops->linear = linear;
    ops->swiglu = swiglu;
    ops->attention_paged = attention_paged;
    ops->attention_dense = attention_dense;
}

#else

void agl_cpu_ops_neon(agl_cpu_ops *ops)
{
    (void)ops;
}

#endif
