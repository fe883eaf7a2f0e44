/* SPDX-License-Identifier: Apache-2.0
 *
 * cuda_backend.h - inside of the CUDA backend: what its operation files share. Private to
 * backend/cuda; plain C, so that tests may look inside.
 *
 * Every operation is one function agl_cuda_<op>(stream, args) in a file of its own, listed
 * in backend_cuda.cu. It checks its arguments, picks a kernel, launches it on the stream and
 * returns (products of one row may wait for those that follow, see agl_cuda_queue); it allocates
 * nothing. Memory beside the arguments comes from the workspace: each
 * heavy operation says how much it needs for given limits, and finds its region in agl_cuda. */
#ifndef AGL_BACKEND_CUDA_CUDA_BACKEND_H
#define AGL_BACKEND_CUDA_CUDA_BACKEND_H

#include <cuda_runtime.h>

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct agl_cuda_products agl_cuda_products; /* matrix products: library handle, chosen algorithms */
typedef struct agl_cuda_sampler agl_cuda_sampler;   /* sampling: pinned blocks, results under way */
typedef struct agl_cuda_chain agl_cuda_chain;       /* linear_skinny.cu: products not launched yet */

typedef struct {
    void *data;                         /* 256-byte aligned device memory                    */
    size_t bytes;
} agl_cuda_region;

typedef struct {
    agl_backend base;
    int device;                         /* CUDA ordinal                                      */
    int capability;                     /* 80, 86, 89, 90, 120                               */
    int processors;                     /* SMs                                               */
    size_t shared_bytes_max;            /* of one block, opted in                            */
    bool blocks_meet;                   /* the blocks of a kernel can wait for each other    */
    void *tensor_map_encode;            /* the driver's; NULL: attention_wgmma.cu declines   */
    agl_backend_limits limits;          /* the workspace below is made for these             */
    void *workspace;                    /* the regions, one behind the other                 */
    agl_cuda_region products_space, attention_space, sample_space, chain_space;
    agl_stream *chains;                 /* the only stream whose products may form chains    */
    agl_cuda_products *products;
    agl_cuda_sampler *sampler;          /* made with the workspace                           */
    agl_stream *filling;                /* clears new memory and carries weights in          */
    struct agl_cuda_loader *loader;     /* cuda_weights.cu; made with the first weight       */
    struct agl_cuda_block *blocks;      /* cuda_memory.cu: what alloc gave out               */
    char description[160];
} agl_cuda;

typedef struct {
    agl_stream base;
    cudaStream_t cuda;
    unsigned char *staging;             /* pinned: two halves that uploads from pageable memory pass */
    size_t staging_bytes;
    size_t staging_used;                /* of the half being filled                          */
    cudaEvent_t staging_free[2];        /* the half's copies have been made                  */
    int staging_next;                   /* the half being filled                             */
    agl_cuda_chain *chain;
    bool chain_pending;                 /* something in `chain` is to be launched            */
} agl_cuda_stream;

/* A linear layer on the device: [out, in] row-major in the activation dtype. */
typedef struct {
    agl_weight base;
    void *data;                         /* [out, in], 256-byte aligned                       */
    float *bias;                        /* [out]; NULL: none                                 */
    void *bias_rounded;                 /* [out] in the activation dtype, for products.cu;   */
                                        /* NULL: no bias, or activations are F32             */
} agl_cuda_weight;

static inline agl_cuda *agl_cuda_of(const agl_stream *stream)
{
    return (agl_cuda *)stream->backend;
}

/* linear_skinny.cu. Launches what is pending; made and freed with the stream. */
agl_status agl_cuda_chain_create(agl_stream *stream);
void agl_cuda_chain_destroy(agl_stream *stream);
void agl_cuda_chain_launch(agl_stream *stream);

/* Where work goes that must come behind all operations so far: everything but the products of one
 * row and their norms, which may wait for each other (linear_skinny.cu). */
static inline cudaStream_t agl_cuda_queue(agl_stream *stream)
{
    agl_cuda_stream *own = (agl_cuda_stream *)stream;
    if (own->chain_pending) agl_cuda_chain_launch(stream);
    return own->cuda;
}

/* AGL_OK, or AGL_ERR_DEVICE (AGL_ERR_MEMORY when memory is out) with "<what>: <CUDA's text>" in err. */
agl_status agl_cuda_check(cudaError_t error, const char *what, agl_error *err);

/* Operations; the structs and their meaning are in backend.h. */
agl_status agl_cuda_embed(agl_stream *stream, const agl_embed_args *args);
agl_status agl_cuda_rmsnorm(agl_stream *stream, const agl_rmsnorm_args *args);
agl_status agl_cuda_layernorm(agl_stream *stream, const agl_layernorm_args *args);
agl_status agl_cuda_linear(agl_stream *stream, const agl_linear_args *args);
agl_status agl_cuda_swiglu(agl_stream *stream, const agl_swiglu_args *args);
agl_status agl_cuda_linear_swiglu(agl_stream *stream, const agl_linear_swiglu_args *args);
agl_status agl_cuda_rope_store(agl_stream *stream, const agl_rope_store_args *args);
agl_status agl_cuda_linear_rope_store(agl_stream *stream, const agl_linear_rope_store_args *args);
agl_status agl_cuda_attention_paged(agl_stream *stream, const agl_attention_paged_args *args);
agl_status agl_cuda_attention_dense(agl_stream *stream, const agl_attention_dense_args *args);
agl_status agl_cuda_rope_vision(agl_stream *stream, const agl_rope_vision_args *args);
agl_status agl_cuda_resize(agl_stream *stream, const agl_resize_args *args);
agl_status agl_cuda_patchify(agl_stream *stream, const agl_patchify_args *args);
agl_status agl_cuda_position_embed(agl_stream *stream, const agl_position_embed_args *args);
agl_status agl_cuda_gather(agl_stream *stream, const agl_gather_args *args);
agl_status agl_cuda_sample(agl_stream *stream, const agl_sample_args *args);

/* out[i] = in[i] in the activation dtype (saturating at +-65504 for F16); device to device. */
agl_status agl_cuda_convert(agl_stream *stream, void *out, const void *in, agl_dtype in_dtype,
                            int64_t count);

/* Sets tensor_map_encode if the device and this build have what attention_wgmma.cu needs. */
void agl_cuda_attention_find(agl_cuda *cuda);

/* Bytes of workspace for these limits; 0: none. */
uint64_t agl_cuda_products_bytes(const agl_cuda *cuda, const agl_backend_limits *limits);
uint64_t agl_cuda_attention_bytes(const agl_cuda *cuda, const agl_backend_limits *limits);
uint64_t agl_cuda_sample_bytes(const agl_cuda *cuda, const agl_backend_limits *limits);

/* The matrix-product library. Loaded at run time: without it only create fails, with its name. */
agl_status agl_cuda_products_create(agl_cuda_products **out, agl_cuda *cuda, agl_error *err);
void agl_cuda_products_destroy(agl_cuda_products *products);    /* NULL is allowed */

/* The host's part of sampling: pinned memory and events. Made by workspace_reserve once
 * `limits` and `sample_space` are set; destroyed after the streams are idle. */
agl_status agl_cuda_sampler_create(agl_cuda_sampler **out, agl_cuda *cuda, agl_error *err);
void agl_cuda_sampler_destroy(agl_cuda_sampler *sampler);       /* NULL is allowed */

/* stream_wait calls this after it has waited: results of the stream's sample calls go from
 * pinned memory to the callers' structs. Nothing pending, no sampler: does nothing. */
void agl_cuda_sample_finish(agl_stream *stream);

/* Device [rows]: the tokens of the latest sample call, until the next one. */
const int32_t *agl_cuda_sampled_tokens(const agl_backend *backend);

#ifdef __cplusplus
}
#endif
#endif
