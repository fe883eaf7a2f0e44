/* SPDX-License-Identifier: Apache-2.0
 *
 * linear.cu - y = x W^T + b, alone or with SwiGLU or rope_store behind it: which kernel computes it.
 *
 * The choice depends on sizes, strides and types only. A row's bits may differ between two
 * kernels, so between 8 rows and 9; inside linear_skinny and linear_plain they do not. */
#include "backend/cuda/linear.h"

#include <assert.h>

#define MAX INT64_MAX
#define FUSED_ROWS 8                /* as linear_skinny in WAYS                               */

typedef enum {
    ANY_LAYOUT,
    INPUTS_ALIGNED,                 /* rows of x and of the weight begin at 16 bytes          */
    ALL_ALIGNED                     /* rows of y too                                          */
} linear_layout;

typedef struct {
    bool f32, f16;                  /* activations: F32, BF16 or F16                          */
    int64_t rows_from, rows_to;
    linear_layout layout;
    agl_status (*kernel)(agl_stream *stream, const agl_linear_args *args);
} linear_way;

/* First row that fits and does not answer AGL_ERR_UNSUPPORTED wins. */
static const linear_way WAYS[] = {
    /* f32, 16 bit   rows     layout          kernel                      why               */
    { false, true,   1,    8, INPUTS_ALIGNED, agl_cuda_linear_skinny },   /* reads W once   */
    { true,  true,   9,  MAX, ALL_ALIGNED,    agl_cuda_linear_products }, /* tensor cores   */
    { false, true,   9,  MAX, INPUTS_ALIGNED, agl_cuda_linear_skinny },   /* 8 at a time    */
    { true,  true,   1,  MAX, ANY_LAYOUT,     agl_cuda_linear_plain },    /* what is left   */
};

static bool is_aligned(const void *data, int64_t stride, size_t element_bytes)
{
    return (uintptr_t)data % 16 == 0 && (size_t)stride * element_bytes % 16 == 0;
}

static linear_layout layout_of(const agl_linear_args *args, agl_dtype dtype)
{
    const agl_cuda_weight *weight = (const agl_cuda_weight *)args->weight;
    size_t bytes = agl_dtype_bytes(dtype);
    if (!is_aligned(args->x, args->x_stride, bytes)) return ANY_LAYOUT;
    if (!is_aligned(weight->data, weight->base.in, bytes)) return ANY_LAYOUT;
    return is_aligned(args->y, weight->base.out, args->y_f32 ? sizeof(float) : bytes)
               ? ALL_ALIGNED : INPUTS_ALIGNED;
}

extern "C" agl_status agl_cuda_linear(agl_stream *stream, const agl_linear_args *args)
{
    agl_dtype dtype = stream->backend->activation;
    assert(args->rows >= 1 && args->x != NULL && args->y != NULL);
    assert(args->x_stride >= args->weight->in || args->rows == 1);
    linear_layout layout = layout_of(args, dtype);
    for (size_t i = 0; i < AGL_COUNT(WAYS); i++) {
        const linear_way *way = &WAYS[i];
        if (!(dtype == AGL_F32 ? way->f32 : way->f16)) continue;
        if (args->rows < way->rows_from || args->rows > way->rows_to) continue;
        if (layout < way->layout) continue;
        agl_status status = way->kernel(stream, args);
        if (status != AGL_ERR_UNSUPPORTED) return status;
    }
    return AGL_ERR_UNSUPPORTED;
}

/* Fused where a product is bound by reading W: with few rows the launch and the trip through
 * memory count; with many the product's own kernels are better and the rest is bandwidth. */
static bool may_fuse(const agl_stream *stream, const agl_linear_args *args)
{
    return args->rows <= FUSED_ROWS && layout_of(args, stream->backend->activation) >= INPUTS_ALIGNED;
}

extern "C" agl_status agl_cuda_linear_swiglu(agl_stream *stream, const agl_linear_swiglu_args *args)
{
    const agl_weight *weight = args->weight;
    agl_linear_args linear = {};
    linear.x = args->x, linear.y = args->wide, linear.weight = weight;
    linear.rows = args->rows, linear.x_stride = weight->in;
    assert(weight->out % 2 == 0);
    if (may_fuse(stream, &linear)) {
        agl_status status = agl_cuda_linear_skinny_swiglu(stream, args);
        if (status != AGL_ERR_UNSUPPORTED) return status;
    }
    AGL_TRY(agl_cuda_linear(stream, &linear));
    agl_swiglu_args swiglu = {};
    swiglu.x = args->wide, swiglu.y = args->y, swiglu.rows = args->rows;
    swiglu.width = weight->out / 2;
    return agl_cuda_swiglu(stream, &swiglu);
}

extern "C" agl_status agl_cuda_linear_rope_store(agl_stream *stream,
                                                 const agl_linear_rope_store_args *args)
{
    agl_linear_args linear = {};
    linear.x = args->x, linear.y = args->rope.qkv, linear.weight = args->weight;
    linear.rows = args->rope.tokens, linear.x_stride = args->weight->in;
    if (may_fuse(stream, &linear)) {
        agl_status status = agl_cuda_linear_skinny_rope(stream, args);
        if (status != AGL_ERR_UNSUPPORTED) return status;
    }
    AGL_TRY(agl_cuda_linear(stream, &linear));
    return agl_cuda_rope_store(stream, &args->rope);
}
