/* SPDX-License-Identifier: Apache-2.0
 *
 * linear.h - the ways to compute y = x W^T + b; linear.cu chooses among them. Private to
 * linear.cu and the files that implement them. Each may answer AGL_ERR_UNSUPPORTED, having
 * launched nothing: the next way that fits is tried then. */
#ifndef AGL_BACKEND_CUDA_LINEAR_H
#define AGL_BACKEND_CUDA_LINEAR_H

#include "backend/cuda/cuda_backend.h"

#ifdef __cplusplus
extern "C" {
#endif

agl_status agl_cuda_linear_skinny(agl_stream *stream, const agl_linear_args *args);
agl_status agl_cuda_linear_skinny_swiglu(agl_stream *stream, const agl_linear_swiglu_args *args);
agl_status agl_cuda_linear_skinny_rope(agl_stream *stream, const agl_linear_rope_store_args *args);
/* norms.cu asks first: true if the norm waits for the product that reads its y, as part of its chain. */
bool agl_cuda_chain_norm(agl_stream *stream, const agl_rmsnorm_args *args);
agl_status agl_cuda_rmsnorm_alone(agl_stream *stream, const agl_rmsnorm_args *args);

agl_status agl_cuda_linear_plain(agl_stream *stream, const agl_linear_args *args);
agl_status agl_cuda_linear_products(agl_stream *stream, const agl_linear_args *args);

#ifdef __cplusplus
}
#endif
#endif
