/* SPDX-License-Identifier: Apache-2.0
 *
 * network.h - inside of a model: weights and scratch of the two networks; private to model/.
 *
 * Weights [out, in] belong to the backend; small vectors are F32 in its memory. Scratch is
 * one block per network, carved once by the functions that also count it for the plan. */
#ifndef AGL_MODEL_NETWORK_H
#define AGL_MODEL_NETWORK_H

#include "model/model.h"
#include "model/weight_loader.h"

/* Rows that pass the wide layers (MLP, merger) at once. They are independent of each other,
 * so this bounds the scratch: the merger of a 9B model needs 110 KB of F32 a row. A GPU wants
 * more rows for full waves of tiles, and has the memory. */
static inline int64_t agl_chunk_rows(const agl_backend *backend)
{
    return backend->kind == AGL_BACKEND_CPU ? 1024 : 4096;
}

/* ---- text decoder ----------------------------------------------------------- */

/* q_width = heads * head_dim; qkv_width = q_width + 2 * kv_heads * head_dim */
typedef struct {
    float *input_norm;              /* [hidden] before attention                         */
    agl_weight *qkv;                /* [qkv_width, hidden], bias                         */
    agl_weight *output;             /* [hidden, q_width]                                 */
    float *post_self_attn_norm;     /* [hidden] on the attention output                  */
    float *post_attention_norm;     /* [hidden] before the MLP                           */
    agl_weight *gate_up;            /* [2 * intermediate, hidden]                        */
    agl_weight *down;               /* [hidden, intermediate]                            */
    float *post_mlp_norm;           /* [hidden] on the MLP output                        */
} agl_text_layer;

typedef struct {
    agl_weight *embed;              /* [vocab, hidden]                                   */
    agl_text_layer *layers;         /* [layers]                                          */
    float *norm;                    /* [hidden]                                          */
    agl_weight *lm_head;            /* [vocab, hidden]; a weight of its own even if tied */
    float *inv_freq;                /* [rope_pairs]                                      */
    int32_t *axis;                  /* [rope_pairs]: which position turns the pair       */
} agl_text_network;

/* rows: rows_max; chunk: min(rows_max, agl_chunk_rows); tail: min(rows_max, logit_rows_max) */
typedef struct {
    float *x;                       /* [rows, hidden] residual stream                    */
    void *normed;                   /* [rows, hidden]                                    */
    void *attention;                /* [rows, q_width]                                   */
    void *wide;                     /* [rows, qkv_width], later [chunk, 2 * intermediate] */
    void *mlp;                      /* [chunk, intermediate]                             */
    float *delta;                   /* [chunk, hidden] what is added to x                */
    float *tail_x;                  /* [tail, hidden] x of the rows whose logits are wanted */
    void *tail_attention;           /* [tail, q_width]                                   */
    float *logits;                  /* [tail, vocab]                                     */
} agl_text_scratch;

/* ---- vision tower ----------------------------------------------------------- */

typedef struct {
    float *norm1;                   /* [hidden]                                          */
    agl_weight *qkv;                /* [3 * hidden, hidden]                              */
    agl_weight *proj;               /* [hidden, hidden]                                  */
    float *norm2;                   /* [hidden]                                          */
    agl_weight *gate_up;            /* [2 * mlp, hidden]                                 */
    agl_weight *down;               /* [hidden, mlp]                                     */
} agl_vision_block;

typedef struct {
    agl_weight *patch_embed;        /* [hidden, channels * frames * patch * patch], bias */
    float *post_conv_norm;          /* [hidden]                                          */
    float *positions;               /* [position_side^2, hidden]                         */
    agl_vision_block *blocks;       /* [depth]                                           */
    float *post_norm;               /* [hidden]                                          */
    agl_weight *downsample;         /* [out_hidden, merge * merge * hidden], bias        */
    agl_weight *merger_proj;        /* [out_hidden, out_hidden]                          */
    float *merger_norm, *merger_norm_bias; /* [out_hidden]                               */
    agl_weight *merger_gate_up;     /* [2 * merger, out_hidden]                          */
    agl_weight *merger_down;        /* [out_hidden, merger]                              */
    float *inv_freq;                /* [head_dim / 4]                                    */
} agl_vision_network;

/* patches: patches_max; chunk: min(patches_max, agl_chunk_rows) */
typedef struct {
    float *x;                       /* [patches, hidden] residual stream                 */
    void *normed;                   /* [patches, hidden], also the attention output      */
    void *wide;                     /* [patches, max(3 * hidden, patch values)],
                                     * later [chunk, 2 * max(mlp, merger)]               */
    void *mlp;                      /* [chunk, max(mlp, merger)]                         */
    float *delta;                   /* [chunk, max(hidden, out_hidden)]                  */
    void *cells;                    /* [chunk, out_hidden] merged cells                  */
    int32_t *rows_columns;          /* [patches, 2]                                      */
    int32_t *rows_columns_host;     /* HOST, the same                                    */
} agl_vision_scratch;

/* ---- both ------------------------------------------------------------------- */

struct agl_model {
    const agl_config *config;       /* borrowed                                          */
    agl_backend *backend;           /* borrowed                                          */
    int64_t rows_max, logit_rows_max, patches_max;
    agl_weights *files;             /* NULL: random weights                              */
    agl_host_block *blocks;         /* weights that are not read from the files in place */
    agl_text_network text;
    agl_text_scratch text_scratch;
    void *text_memory;
    agl_vision_network vision;
    agl_vision_scratch vision_scratch;
    void *vision_memory;
    agl_model_counters counters;
};

/* Cuts one block into aligned pieces. Without a base it only counts. */
typedef struct {
    char *base;
    uint64_t bytes;
} agl_carver;

void *agl_carver_take(agl_carver *carver, int64_t rows, int64_t columns, size_t value_bytes);

/* The lists of weights. With a counting loader the networks' arrays stay NULL. */
agl_status agl_text_load(agl_text_network *text, const agl_config *config,
                         agl_weight_loader *loader, agl_error *err);
agl_status agl_vision_load(agl_vision_network *vision, const agl_config *config,
                           agl_weight_loader *loader, agl_error *err);
void agl_text_unload(agl_text_network *text, const agl_config *config, agl_backend *backend);
void agl_vision_unload(agl_vision_network *vision, const agl_config *config, agl_backend *backend);

void agl_text_scratch_carve(agl_text_scratch *scratch, const agl_config *config,
                            const agl_model_options *options, const agl_backend *backend,
                            agl_carver *carver);
void agl_vision_scratch_carve(agl_vision_scratch *scratch, const agl_config *config,
                              const agl_model_options *options, const agl_backend *backend,
                              agl_carver *carver);

/* Row `row` of an activation matrix of `width` columns. */
static inline void *agl_row(const agl_model *model, void *matrix, int64_t row, int64_t width)
{
    return (char *)matrix + (size_t)(row * width) * agl_dtype_bytes(model->backend->activation);
}

/* y [rows, out] = x [rows, in] W^T + b, contiguous rows. */
static inline agl_status agl_run_linear(agl_stream *stream, void *y, const void *x,
                                        const agl_weight *weight, int64_t rows)
{
    return stream->backend->ops->linear(stream, &(agl_linear_args){
        .x = x, .y = y, .weight = weight, .rows = rows, .x_stride = agl_weight_in(weight)});
}

/* The same into F32: what joins a residual stream. */
static inline agl_status agl_run_linear_f32(agl_stream *stream, float *y, const void *x,
                                            const agl_weight *weight, int64_t rows)
{
    return stream->backend->ops->linear(stream, &(agl_linear_args){
        .x = x, .y = y, .weight = weight, .rows = rows, .x_stride = agl_weight_in(weight),
        .y_f32 = true});
}

/* y [rows, width] = silu(gate) * up of gate | up = x [rows, in] W^T; wide is scratch for them. */
static inline agl_status agl_run_linear_swiglu(agl_stream *stream, void *y, const void *x,
                                               const agl_weight *weight, void *wide, int64_t rows)
{
    return stream->backend->ops->linear_swiglu(stream, &(agl_linear_swiglu_args){
        .x = x, .y = y, .wide = wide, .weight = weight, .rows = rows});
}

static inline int64_t agl_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline int64_t agl_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

#endif
