/* SPDX-License-Identifier: Apache-2.0
 *
 * ops_avx512.c - the vector kernels in AVX-512 F, BW, DQ and VL. */
#include "backend/cpu/cpu_ops.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

/* In this order: each header is written in the words of the ones before it. */
#include "backend/cpu/vec_avx512.h"

#include "backend/cpu/math_vec.h"

#include "backend/cpu/attention_vec.h"
#include "backend/cpu/linear_vec.h"
#include "backend/cpu/rows_vec.h"

void agl_cpu_ops_avx512(agl_cpu_ops *ops)
{
    ops->rmsnorm = rmsnorm;
    ops->linear = linear;
    ops->swiglu = swiglu;
    ops->attention_paged = attention_paged;
    ops->attention_dense = attention_dense;
}

#else

void agl_cpu_ops_avx512(agl_cpu_ops *ops)
{
    (void)ops;
}

#endif
