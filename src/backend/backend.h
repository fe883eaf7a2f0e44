/* SPDX-License-Identifier: Apache-2.0
 *
 * backend.h - the border between the model and the machine: device memory, a
 * queue of work, and the list of fused operations of the forward pass.
 *
 * The forward pass is written once, in model/, against this list. CPU and CUDA
 * implement it; portable C (cpu/ops_portable.c) is the specification both are
 * tested against. Only the engine thread calls a backend after its creation.
 *
 * Work is queued in order on an agl_stream. On the CPU an operation has finished
 * when it returns; on a GPU it has been launched, bad arguments and launch errors
 * are reported at once, and faults inside kernels surface in `stream_wait`.
 *
 * Shapes are written [slowest, ..., fastest]; all rows are contiguous unless a
 * stride is given. Activations have the dtype of `backend->activation`; the residual
 * streams and what is added to them are F32 on every backend: sums over 40 layers, and
 * outputs of layers that pass 65504 before their norm, must not round or overflow. */
#ifndef AGL_BACKEND_BACKEND_H
#define AGL_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct agl_backend agl_backend;
typedef struct agl_stream agl_stream;    /* a queue of device work              */
typedef struct agl_weight agl_weight;    /* a linear layer, in the backend's own layout */

/* What device memory is for; agl_backend_memory reports bytes by tag. */
typedef enum {
    AGL_MEMORY_WEIGHTS,
    AGL_MEMORY_KV,
    AGL_MEMORY_ACTIVATIONS,
    AGL_MEMORY_VISION,
    AGL_MEMORY_ENCODER_CACHE,
    AGL_MEMORY_STEP_INPUT,
    AGL_MEMORY_WORKSPACE,
    AGL_MEMORY_TAG_COUNT
} agl_memory_tag;

/* A linear layer y = x W^T + b as the checkpoint stores it: W is [out, in] row-major,
 * in up to four stacked parts (q, k, v or gate, up), each contiguous. */
#define AGL_WEIGHT_PARTS_MAX 4
typedef struct {
    struct {
        const void *data;      /* [rows, in] of `dtype`                              */
        const void *bias;      /* [rows] of `bias_dtype`; NULL: none                 */
        int64_t rows;
    } parts[AGL_WEIGHT_PARTS_MAX];
    int part_count;
    int64_t in;                /* columns                                            */
    agl_dtype dtype;           /* F32, BF16 or F16; packed formats come with quant/  */
    agl_dtype bias_dtype;
} agl_weight_desc;

/* Small parameter vectors (norms, tables) are plain device arrays of F32. */

typedef struct {
    float *out;                 /* [tokens, hidden]                                  */
    const agl_weight *table;    /* [vocab, hidden], made by weight_create            */
    const int32_t *ids;         /* [tokens]                                          */
    const void *visual;         /* [visual_rows, hidden] activations; may be NULL    */
    const int32_t *visual_rows; /* [tokens]: row of `visual` that replaces the embedding, or -1 */
    int64_t tokens, hidden;
} agl_embed_args;

/* Residual stream and norms in one pass over each row:
 *   if delta:  x += delta_weight ? RMS(delta) * delta_weight : delta
 *   if y:      y  = RMS(x) * weight
 * RMS(v) = v / sqrt(mean(v^2) + eps), in F32. y may be x when delta is NULL and y_f32 set. */
typedef struct {
    float *x;                   /* [rows, hidden]                                    */
    const float *delta;         /* [rows, hidden] or NULL                            */
    const float *delta_weight;  /* [hidden] or NULL                                  */
    void *y;                    /* [rows, hidden] activations, F32 if y_f32; or NULL */
    const float *weight;        /* [hidden]                                          */
    int64_t rows, hidden;
    float eps;
    bool y_f32;
} agl_rmsnorm_args;

/* y = gelu?(LayerNorm(x) * weight + bias), GELU in its erf form. */
typedef struct {
    const float *x;             /* [rows, hidden]                                    */
    void *y;                    /* [rows, hidden] activations, not x                 */
    const float *weight, *bias; /* [hidden]                                          */
    int64_t rows, hidden;
    float eps;
    bool gelu;
} agl_layernorm_args;

/* y = x W^T + b. rows may be any number >= 1. */
typedef struct {
    const void *x;              /* [rows, in], row stride x_stride elements          */
    void *y;                    /* [rows, out] contiguous; F32 if y_f32              */
    const agl_weight *weight;
    int64_t rows, x_stride;
    bool y_f32;                 /* logits, and what joins a residual stream          */
} agl_linear_args;

/* y = silu(gate) * up, where a row of x is [gate | up]. */
typedef struct {
    const void *x;              /* [rows, 2 * width]                                 */
    void *y;                    /* [rows, width]                                     */
    int64_t rows, width;
} agl_swiglu_args;

/* Geometry of the paged KV cache of one layer.
 *   k, v   [pages, kv_heads, page_tokens, head_dim] of `dtype`; k is stored rotated. */
typedef struct {
    void *k, *v;
    agl_dtype dtype;
    int64_t page_tokens, kv_heads, head_dim;
} agl_kv_layer;

/* y = silu(gate) * up of gate | up = x W^T (+ b), in one operation: with few rows a GPU never
 * writes gate and up. Backends that write them do it in `wide`. */
typedef struct {
    const void *x;              /* [rows, in] contiguous                             */
    void *y;                    /* [rows, width]                                     */
    void *wide;                 /* [rows, 2 * width] scratch                         */
    const agl_weight *weight;   /* [2 * width, in]: gate, then up                    */
    int64_t rows;
} agl_linear_swiglu_args;

/* Rotate q and k in place in the fused QKV rows and write k, v into their pages.
 * Pair j (dims 2j, 2j+1 of a head; interleaved) turns by positions[axis[j]][token] * inv_freq[j];
 * dims from 2 * pairs on pass unchanged. MODEL.md, "RoPE". */
typedef struct {
    void *qkv;                  /* [tokens, (heads + 2 kv_heads) * head_dim]         */
    const int32_t *positions;   /* [3, tokens]: temporal, height, width              */
    const int64_t *slots;       /* [tokens]: page * page_tokens + offset; -1: do not store */
    const float *inv_freq;      /* [pairs]                                           */
    const int32_t *axis;        /* [pairs]: 0, 1 or 2                                */
    int64_t tokens, heads, pairs;
    agl_kv_layer kv;
} agl_rope_store_args;

/* rope_store of qkv = x W^T + b, in one operation: with few rows a GPU turns the sums before it
 * writes them. */
typedef struct {
    const void *x;              /* [rope.tokens, in] contiguous                      */
    const agl_weight *weight;   /* [(heads + 2 kv_heads) * head_dim, in]: q, k, v    */
    agl_rope_store_args rope;   /* qkv is written                                    */
} agl_linear_rope_store_args;

/* One sequence's part of a step: `row_count` consecutive query rows whose last one is
 * token number context - 1 of the sequence (all keys up to there are in the pages). */
typedef struct {
    int32_t row_first, row_count;
    int32_t context;            /* keys the last row sees                            */
    int32_t page_table;         /* first entry of this sequence in page_tables       */
} agl_attention_sequence;

/* Causal attention over pages; query head i reads kv head i / (heads / kv_heads). `sequences`,
 * `page_tables` and keys before context - row_count may be read as soon as the last copy queued
 * before has ended: no operation behind it writes them. */
typedef struct {
    const void *q;              /* [rows, ...]: head h at q + row * q_stride + h * head_dim */
    void *out;                  /* [rows, heads * head_dim]                          */
    int64_t q_stride;           /* elements                                          */
    const agl_attention_sequence *sequences; /* [sequence_count]                     */
    const int32_t *page_tables; /* page numbers                                      */
    int64_t sequence_count, rows, heads;
    int64_t context_max;        /* largest context of the batch                      */
    float scale;
    agl_kv_layer kv;
} agl_attention_paged_args;

/* Full attention without mask inside each segment (vision). */
typedef struct {
    const void *qkv;            /* [tokens, 3 * heads * head_dim]: q | k | v         */
    void *out;                  /* [tokens, heads * head_dim]                        */
    const int32_t *segments;    /* HOST [segment_count + 1]: first token of each, then tokens */
    int64_t segment_count, tokens, heads, head_dim;
    float scale;
} agl_attention_dense_args;

/* Vision rotation, half-split pairs (i, i + head_dim/2), in place on q and k of qkv:
 * i < head_dim/4 turns by row * inv_freq[i], the rest by column * inv_freq[i - head_dim/4]. */
typedef struct {
    void *qkv;                  /* [tokens, 3 * heads * head_dim]                    */
    const int32_t *rows_columns;/* [tokens, 2]                                       */
    const float *inv_freq;      /* [head_dim / 4]                                    */
    int64_t tokens, heads, head_dim;
} agl_rope_vision_args;

/* 8-bit RGB image to normalised patch rows in merge order: block row, block column,
 * row in block, column in block; each row is [channel][frame][patch row][patch column],
 * value (pixel / 255 - mean) / std. Both frames hold the same picture. */
typedef struct {
    const uint8_t *pixels;      /* DEVICE [height, width, 3]                         */
    void *out;                  /* [grid_h * grid_w, 3 * frames * patch * patch]     */
    int64_t height, width, patch, merge, frames;
    float mean[3], std[3];
} agl_patchify_args;

/* Windows of one axis of a resize: value i of the output is the sum over t < count[i] of
 * weights[i * taps + t] * input[first[i] + t], with weights of AGL_RESIZE_WEIGHT_BITS fraction
 * bits, rounded to nearest and clamped to 0 .. 255. The sums fit 32 bits with their sign. */
#define AGL_RESIZE_WEIGHT_BITS 22
typedef struct {
    const int32_t *first;       /* [out size]                                        */
    const int32_t *count;       /* [out size]                                        */
    const int32_t *weights;     /* [out size, taps]; NULL: the axis keeps its size   */
    int64_t taps;
} agl_resize_windows;

/* 8-bit RGB picture at another size, rounded to 8 bits between the axes, so their order shows
 * in the pixels. The tables are made on the host (media/image_resize.h) and lie on the device. */
typedef struct {
    const uint8_t *pixels;      /* DEVICE [height, width, 3]                         */
    uint8_t *out;               /* DEVICE [out_height, out_width, 3], not pixels     */
    uint8_t *between;           /* DEVICE [height, out_width, 3], with down_first    */
                                /* [out_height, width, 3]; NULL if an axis keeps its size */
    int64_t height, width, out_height, out_width;
    agl_resize_windows across, down;
    bool down_first;
} agl_resize_args;

/* x += bicubic sample (A = -0.75, clamped, half-pixel centres) of a side x side table,
 * in merge order. MODEL.md, "Position embedding interpolation". */
typedef struct {
    float *x;                   /* [grid_h * grid_w, hidden]                         */
    const float *table;         /* [side * side, hidden]                             */
    int64_t grid_h, grid_w, merge, side, hidden;
} agl_position_embed_args;

/* out[i] = x[rows[i]] */
typedef struct {
    const void *x;              /* [any] rows of row_bytes, a multiple of 4          */
    void *out;                  /* [count] rows                                      */
    const int32_t *rows;        /* [count]                                           */
    int64_t count, row_bytes;
} agl_gather_args;

/* How one row of logits becomes a token. Penalties first, then bias and mask, then
 * temperature, min_p, top_k, top_p; temperature 0 is the arg-max after penalties, lowest
 * id on ties. Same row, parameters and `random`: same token on every batch. */
typedef struct {
    float temperature, top_p, min_p;
    float repetition_penalty, frequency_penalty, presence_penalty;
    int32_t top_k;              /* 0: off                                            */
    int32_t logprobs;           /* -1: none; else alternatives wanted                */
    double random;              /* uniform in [0, 1), drawn by the engine            */
    /* Tokens seen so far, as (token, count) of the output and a flag for the prompt. */
    const struct agl_token_count *counts;
    int32_t count_count;
    const agl_logit_bias *bias; /* added after penalties                             */
    int32_t bias_count;
    const uint32_t *allowed;    /* bit per token (LSB first), NULL: all              */
} agl_sample_row;

typedef struct agl_token_count {
    int32_t token;
    int32_t output_count;       /* 0: seen in the prompt only                        */
} agl_token_count;

typedef struct {
    int32_t token;
    float logprob;              /* of the raw logits                                 */
    int32_t rank;
    int32_t top_count;
    agl_token_logprob *top;     /* HOST [logprobs], the caller's                     */
} agl_sample_result;

typedef struct {
    const float *logits;        /* [rows, vocab]; may be overwritten                 */
    int64_t rows, vocab;        /* ids at or above vocab_used are never chosen       */
    int64_t vocab_used;
    const agl_sample_row *params; /* HOST [rows]                                     */
    agl_sample_result *results; /* HOST [rows]; filled by stream_wait at the latest  */
} agl_sample_args;

/* The largest operations to come, for the memory they need beside their arguments. */
typedef struct {
    int64_t rows_max, sequences_max, logit_rows_max, patches_max, context_max;
    int64_t heads, kv_heads, head_dim, vision_heads, vocab;
} agl_backend_limits;

typedef struct agl_graph agl_graph;      /* recorded operations                         */

typedef struct {
    /* Memory. Device pointers are plain pointers; on the CPU the host may use them. */
    agl_status (*alloc)(agl_backend *backend, void **out, size_t bytes, agl_memory_tag tag,
                        agl_error *err);        /* zeroed; 64-byte aligned (CUDA: 256)      */
    void (*free)(agl_backend *backend, void *memory);
    agl_status (*upload)(agl_stream *stream, void *device, const void *host, size_t bytes);
    agl_status (*download)(agl_stream *stream, void *host, const void *device, size_t bytes);
    agl_status (*copy)(agl_stream *stream, void *out, const void *in, size_t bytes); /* on device */

    /* Weights. The CPU reads the description's data in place: it must stay mapped until
     * weight_destroy. On CUDA it has been copied when weight_create returns. */
    agl_status (*weight_create)(agl_backend *backend, agl_weight **out, const agl_weight_desc *desc,
                                agl_error *err);
    void (*weight_destroy)(agl_backend *backend, agl_weight *weight);

    /* Streams. stream_wait reports what went wrong since the last wait. */
    agl_status (*stream_create)(agl_backend *backend, agl_stream **out, agl_error *err);
    void (*stream_destroy)(agl_stream *stream);
    agl_status (*stream_wait)(agl_stream *stream, agl_error *err);

    /* Operations. */
    agl_status (*embed)(agl_stream *stream, const agl_embed_args *args);
    agl_status (*rmsnorm)(agl_stream *stream, const agl_rmsnorm_args *args);
    agl_status (*layernorm)(agl_stream *stream, const agl_layernorm_args *args);
    agl_status (*linear)(agl_stream *stream, const agl_linear_args *args);
    agl_status (*swiglu)(agl_stream *stream, const agl_swiglu_args *args);
    agl_status (*linear_swiglu)(agl_stream *stream, const agl_linear_swiglu_args *args);
    agl_status (*rope_store)(agl_stream *stream, const agl_rope_store_args *args);
    agl_status (*linear_rope_store)(agl_stream *stream, const agl_linear_rope_store_args *args);
    agl_status (*attention_paged)(agl_stream *stream, const agl_attention_paged_args *args);
    agl_status (*attention_dense)(agl_stream *stream, const agl_attention_dense_args *args);
    agl_status (*rope_vision)(agl_stream *stream, const agl_rope_vision_args *args);
    agl_status (*resize)(agl_stream *stream, const agl_resize_args *args);
    agl_status (*patchify)(agl_stream *stream, const agl_patchify_args *args);
    agl_status (*position_embed)(agl_stream *stream, const agl_position_embed_args *args);
    agl_status (*gather)(agl_stream *stream, const agl_gather_args *args);
    agl_status (*sample)(agl_stream *stream, const agl_sample_args *args);

    /* What operations need beside their arguments: counted for the memory plan, then taken once
     * before the first operation. Tagged AGL_MEMORY_WORKSPACE. */
    uint64_t (*workspace_bytes)(const agl_backend *backend, const agl_backend_limits *limits);
    agl_status (*workspace_reserve)(agl_backend *backend, const agl_backend_limits *limits,
                                    agl_error *err);

    /* Recording: operations between begin and end are kept instead of run; launch runs them all
     * with the pointers and sizes they were given. NULL where a backend gains nothing by it. No
     * upload, download or sample inside. */
    agl_status (*graph_begin)(agl_stream *stream);
    agl_status (*graph_end)(agl_stream *stream, agl_graph **out, agl_error *err);
    agl_status (*graph_launch)(agl_stream *stream, agl_graph *graph);
    void (*graph_destroy)(agl_backend *backend, agl_graph *graph);

    void (*destroy)(agl_backend *backend);
} agl_backend_ops;

typedef enum { AGL_BACKEND_CPU, AGL_BACKEND_CUDA } agl_backend_kind;

/* Every backend's struct begins with this. */
struct agl_backend {
    const agl_backend_ops *ops;
    agl_backend_kind kind;
    agl_dtype activation;       /* F32 on the CPU                                    */
    bool synchronous;           /* operations have finished when they return         */
    const char *description;    /* "cpu (avx512, 2 threads)"                         */
    uint64_t memory_total;      /* bytes the device has                              */
    uint64_t memory_free;       /* of these unused when the backend was created; 0: not known */
    uint64_t memory_by_tag[AGL_MEMORY_TAG_COUNT];
};

struct agl_stream {
    agl_backend *backend;
};

/* Every backend's weight begins with this. */
struct agl_weight {
    int64_t out, in;            /* rows of all parts, columns                        */
};

typedef struct {
    uint32_t threads;           /* CPU; 0: all available                             */
    uint32_t isa_mask;          /* CPU: clear bits to forbid instruction sets (tests); 0: all */
    int device;                 /* CUDA ordinal                                      */
    agl_dtype activation;       /* CUDA: F32, BF16 or F16                            */
} agl_backend_options;

agl_status agl_backend_cpu_create(agl_backend **out, const agl_backend_options *options,
                                  agl_error *err);

/* Whether this build has the CUDA backend, whatever this machine has. */
bool agl_backend_cuda_built(void);

/* CUDA devices that this build and this machine have. 0 comes with the reason in `why`
 * (at least 128 bytes; may be NULL): built without CUDA, no driver, no device. */
int agl_backend_cuda_count(char *why, size_t why_bytes);
agl_status agl_backend_cuda_create(agl_backend **out, const agl_backend_options *options,
                                   agl_error *err);

/* Weight geometry, for assertions and reports. */
int64_t agl_weight_out(const agl_weight *weight);
int64_t agl_weight_in(const agl_weight *weight);

#ifdef __cplusplus
}
#endif

#endif
