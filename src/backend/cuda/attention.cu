/* SPDX-License-Identifier: Apache-2.0
 *
 * attention.cu - checks the arguments of both attention operations and chooses the kernels.
 *
 *   head_dim 128, 16-bit activations     rows of a sequence   kernel
 *     paged                              1 .. DECODE_ROWS     attention_decode.cu
 *     paged                              more                 attention_wgmma.cu on Hopper, or
 *     dense                              -                    attention_tiles.cu
 *   anything else, head_dim <= 256                            attention_plain.cu
 *
 * How many rows a sequence has is known to the device alone (a recorded step is replayed with other
 * sequences), so a batch with more rows than sequences is given to both kernels, and each passes
 * over the sequences of the other. */
#include "backend/cuda/attention.cuh"

static bool is_aligned(const void *memory)
{
    return (uintptr_t)memory % 16 == 0;
}

static bool has_tensor_kernel(const agl_stream *stream, int64_t head_dim)
{
    agl_dtype dtype = stream->backend->activation;
    return head_dim == ATTENTION_DIM && (dtype == AGL_BF16 || dtype == AGL_F16);
}

extern "C" agl_status agl_cuda_attention_paged(agl_stream *stream,
                                               const agl_attention_paged_args *args)
{
    const agl_kv_layer *kv = &args->kv;
    if (args->rows == 0 || args->sequence_count == 0) return AGL_OK;
    if (args->rows < 0 || args->sequence_count < 0 || args->context_max < 1 ||
        args->context_max > INT32_MAX || args->heads < 1 || kv->kv_heads < 1 ||
        args->heads % kv->kv_heads != 0 || kv->page_tokens < 1 || kv->head_dim < 1 ||
        !(args->scale > 0)) {
        return AGL_ERR_ARGUMENT;
    }
    if (kv->dtype != stream->backend->activation || kv->head_dim > ATTENTION_DIM_MAX) {
        return AGL_ERR_UNSUPPORTED;
    }
    if (!has_tensor_kernel(stream, kv->head_dim) || args->q_stride % 8 != 0 ||
        !is_aligned(args->q) || !is_aligned(args->out) || !is_aligned(kv->k) ||
        !is_aligned(kv->v)) {
        return agl_cuda_attention_plain_paged(stream, args);
    }
    AGL_TRY(agl_cuda_attention_decode(stream, args));
    if (args->rows == args->sequence_count) return AGL_OK;
    agl_status status = agl_cuda_attention_wgmma_paged(stream, args);
    if (status != AGL_ERR_UNSUPPORTED) return status;
    return agl_cuda_attention_tiles_paged(stream, args);
}

extern "C" agl_status agl_cuda_attention_dense(agl_stream *stream,
                                               const agl_attention_dense_args *args)
{
    if (args->tokens == 0 || args->segment_count == 0) return AGL_OK;
    if (args->tokens < 0 || args->tokens > INT32_MAX || args->segment_count < 0 ||
        args->heads < 1 || args->head_dim < 1 || !(args->scale > 0)) {
        return AGL_ERR_ARGUMENT;
    }
    for (int64_t i = 0; i < args->segment_count; i++) {
        if (args->segments[i] < 0 || args->segments[i] > args->segments[i + 1] ||
            args->segments[i + 1] > args->tokens) {
            return AGL_ERR_ARGUMENT;
        }
    }
    if (args->head_dim > ATTENTION_DIM_MAX) return AGL_ERR_UNSUPPORTED;
    if (!has_tensor_kernel(stream, args->head_dim) || !is_aligned(args->qkv) ||
        !is_aligned(args->out)) {
        return agl_cuda_attention_plain_dense(stream, args);
    }
    agl_status status = agl_cuda_attention_wgmma_dense(stream, args);
    if (status != AGL_ERR_UNSUPPORTED) return status;
    return agl_cuda_attention_tiles_dense(stream, args);
}

extern "C" uint64_t agl_cuda_attention_bytes(const agl_cuda *cuda, const agl_backend_limits *limits)
{
    bool tensor = limits->head_dim == ATTENTION_DIM && limits->kv_heads > 0 &&
                  cuda->base.activation != AGL_F32;
    return tensor ? agl_cuda_attention_decode_bytes(cuda, limits) : 0;
}
