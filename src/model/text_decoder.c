/* SPDX-License-Identifier: Apache-2.0
 *
 * text_decoder.c - the text network: 40 layers of attention and MLP, each with a norm
 * before and a norm behind, over a residual stream x of [rows, hidden].
 *
 *     a = RMS(x) input_norm                  m = down(silu(gate(b)) * up(b))
 *     o = output(attention(rope(qkv(a))))    x = x + RMS(m) post_mlp_norm
 *     x = x + RMS(o) post_self_attn_norm     ... next layer ...
 *     b = RMS(x) post_attention_norm         logits = lm_head(RMS(x) norm)
 *
 * docs/MODEL.md is the specification. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "model/network.h"

static int64_t q_width(const agl_text_config *text)
{
    return text->heads * text->head_dim;
}

static int64_t qkv_width(const agl_text_config *text)
{
    return (text->heads + 2 * text->kv_heads) * text->head_dim;
}

/* ---- weights ---------------------------------------------------------------- */

static agl_status load_layer(agl_text_layer *layer, const agl_text_config *text,
                             agl_weight_loader *loader, agl_error *err)
{
    int64_t hidden = text->hidden, kv_width = text->kv_heads * text->head_dim;
    agl_linear_spec qkv = {
        .parts = {{"self_attn.q_proj", q_width(text), true},
                  {"self_attn.k_proj", kv_width, true},
                  {"self_attn.v_proj", kv_width, true}},
        .part_count = 3, .in = hidden};
    agl_linear_spec gate_up = {
        .parts = {{"mlp.gate_up_proj", 2 * text->intermediate, false}},
        .part_count = 1, .in = hidden};
    if (agl_weight_loader_has(loader, "mlp.gate_proj.weight")) {
        gate_up = (agl_linear_spec){
            .parts = {{"mlp.gate_proj", text->intermediate, false},
                      {"mlp.up_proj", text->intermediate, false}},
            .part_count = 2, .in = hidden};
    }
    const struct { float **out; const char *name; } norms[] = {
        {&layer->input_norm, "input_layernorm.weight"},
        {&layer->post_self_attn_norm, "post_self_attn_layernorm.weight"},
        {&layer->post_attention_norm, "post_attention_layernorm.weight"},
        {&layer->post_mlp_norm, "post_mlp_layernorm.weight"},
    };
    for (size_t i = 0; i < AGL_COUNT(norms); i++) {
        AGL_TRY(agl_weight_loader_vector(loader, norms[i].out, norms[i].name, hidden, 1, err));
    }
    AGL_TRY(agl_weight_loader_linear(loader, &layer->qkv, &qkv, err));
    AGL_TRY(agl_weight_loader_matrix(loader, &layer->output, "self_attn.o_proj", hidden,
                                     q_width(text), err));
    AGL_TRY(agl_weight_loader_linear(loader, &layer->gate_up, &gate_up, err));
    return agl_weight_loader_matrix(loader, &layer->down, "mlp.down_proj", hidden,
                                    text->intermediate, err);
}

/* Frequencies theta^(-2j / rotated dimensions) and the axis of each pair: contiguous blocks of
 * mrope_section[0] temporal, [1] height and [2] width pairs. */
static agl_status make_rope_tables(agl_text_network *network, const agl_text_config *text,
                                   const agl_weight_loader *loader, agl_error *err)
{
    float inv_freq[AGL_ROPE_PAIRS_MAX];
    int32_t axis[AGL_ROPE_PAIRS_MAX];
    for (int64_t pair = 0; pair < text->rope_pairs; pair++) {
        float exponent = (float)(2 * pair) / (float)(2 * text->rope_pairs);
        inv_freq[pair] = 1.0f / powf((float)text->rope_theta, exponent);
        axis[pair] = pair < text->mrope_section[0] ? 0
                   : pair < text->mrope_section[0] + text->mrope_section[1] ? 1 : 2;
    }
    const agl_backend_ops *ops = loader->backend->ops;
    size_t bytes = (size_t)text->rope_pairs * sizeof(float);
    void *memory;
    AGL_TRY(ops->alloc(loader->backend, &memory, bytes, AGL_MEMORY_WEIGHTS, err));
    network->inv_freq = memory;
    AGL_TRY(ops->alloc(loader->backend, &memory, bytes, AGL_MEMORY_WEIGHTS, err));
    network->axis = memory;
    AGL_TRY(ops->upload(loader->stream, network->inv_freq, inv_freq, bytes));
    AGL_TRY(ops->upload(loader->stream, network->axis, axis, bytes));
    return ops->stream_wait(loader->stream, err);
}

agl_status agl_text_load(agl_text_network *network, const agl_config *config,
                         agl_weight_loader *loader, agl_error *err)
{
    const agl_text_config *text = &config->text;
    int64_t hidden = text->hidden;
    agl_weight_loader_enter(loader, "model.language_model.");
    AGL_TRY(agl_weight_loader_matrix(loader, &network->embed, "embed_tokens", text->vocab, hidden,
                                     err));
    AGL_TRY(agl_weight_loader_vector(loader, &network->norm, "norm.weight", hidden, 1, err));
    if (loader->backend != NULL) {
        network->layers = calloc((size_t)text->layers, sizeof *network->layers);
        if (network->layers == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for layers");
        AGL_TRY(make_rope_tables(network, text, loader, err));
    }
    for (int64_t i = 0; i < text->layers; i++) {
        agl_text_layer counted = {0};
        agl_text_layer *layer = loader->backend != NULL ? &network->layers[i] : &counted;
        agl_weight_loader_enter(loader, "model.language_model.layers.%lld.", (long long)i);
        AGL_TRY(load_layer(layer, text, loader, err));
    }
    agl_weight_loader_enter(loader, "%s", "");
    if (!text->tie_embeddings || agl_weight_loader_has(loader, "lm_head.weight")) {
        return agl_weight_loader_matrix(loader, &network->lm_head, "lm_head", text->vocab, hidden,
                                        err);
    }
    network->lm_head = network->embed;
    return AGL_OK;
}

void agl_text_unload(agl_text_network *network, const agl_config *config, agl_backend *backend)
{
    const agl_backend_ops *ops = backend->ops;
    for (int64_t i = 0; network->layers != NULL && i < config->text.layers; i++) {
        agl_text_layer *layer = &network->layers[i];
        float *vectors[] = {layer->input_norm, layer->post_self_attn_norm,
                            layer->post_attention_norm, layer->post_mlp_norm};
        agl_weight *weights[] = {layer->qkv, layer->output, layer->gate_up, layer->down};
        for (size_t n = 0; n < AGL_COUNT(vectors); n++) ops->free(backend, vectors[n]);
        for (size_t n = 0; n < AGL_COUNT(weights); n++) {
            if (weights[n] != NULL) ops->weight_destroy(backend, weights[n]);
        }
    }
    free(network->layers);
    if (network->lm_head != NULL && network->lm_head != network->embed) {
        ops->weight_destroy(backend, network->lm_head);
    }
    if (network->embed != NULL) ops->weight_destroy(backend, network->embed);
    ops->free(backend, network->norm);
    ops->free(backend, network->inv_freq);
    ops->free(backend, network->axis);
}

/* ---- scratch ---------------------------------------------------------------- */

void agl_text_scratch_carve(agl_text_scratch *scratch, const agl_config *config,
                            const agl_model_options *options, const agl_backend *backend,
                            agl_carver *carver)
{
    const agl_text_config *text = &config->text;
    int64_t rows = options->rows_max, tail = agl_min(options->logit_rows_max, rows);
    int64_t chunk = agl_min(rows, agl_chunk_rows(backend));
    size_t value_bytes = agl_dtype_bytes(backend->activation);
    int64_t wide = agl_max(rows * qkv_width(text), chunk * 2 * text->intermediate);
    scratch->x = agl_carver_take(carver, rows, text->hidden, sizeof(float));
    scratch->normed = agl_carver_take(carver, rows, text->hidden, value_bytes);
    scratch->attention = agl_carver_take(carver, rows, q_width(text), value_bytes);
    scratch->wide = agl_carver_take(carver, wide, 1, value_bytes);
    scratch->mlp = agl_carver_take(carver, chunk, text->intermediate, value_bytes);
    scratch->delta = agl_carver_take(carver, chunk, text->hidden, sizeof(float));
    scratch->tail_x = agl_carver_take(carver, tail, text->hidden, sizeof(float));
    scratch->tail_attention = agl_carver_take(carver, tail, q_width(text), value_bytes);
    scratch->logits = agl_carver_take(carver, tail, text->vocab, sizeof(float));
}

/* ---- forward pass ----------------------------------------------------------- */

/* The part of a layer that looks at other rows. attention: [rows, q_width]; NULL: only the
 * keys and values are stored, as for the last layer when no logits are wanted. */
static agl_status attend(agl_model *model, agl_stream *stream, const agl_batch *batch,
                         int64_t index, void *attention)
{
    const agl_backend_ops *ops = model->backend->ops;
    const agl_text_config *text = &model->config->text;
    const agl_text_network *network = &model->text;
    void *qkv = model->text_scratch.wide;
    AGL_TRY(ops->linear_rope_store(stream, &(agl_linear_rope_store_args){
        .x = model->text_scratch.normed, .weight = network->layers[index].qkv,
        .rope = {.qkv = qkv, .positions = batch->positions, .slots = batch->slots,
                 .inv_freq = network->inv_freq, .axis = network->axis, .tokens = batch->rows,
                 .heads = text->heads, .pairs = text->rope_pairs, .kv = batch->kv[index]}}));
    if (attention == NULL) return AGL_OK;
    return ops->attention_paged(stream, &(agl_attention_paged_args){
        .q = qkv, .out = attention, .q_stride = qkv_width(text), .sequences = batch->sequences,
        .page_tables = batch->page_tables, .sequence_count = batch->sequence_count,
        .rows = batch->rows, .heads = text->heads, .context_max = batch->context_max,
        .scale = 1.0f / sqrtf((float)text->head_dim), .kv = batch->kv[index]});
}

/* The rest of a layer, row by row: x takes in attention output and MLP, and
 * normed = RMS(x) next_norm opens what follows. attention: [rows, q_width]. */
static agl_status finish_layer(agl_model *model, agl_stream *stream, const agl_text_layer *layer,
                               void *attention, float *x_rows, int64_t rows,
                               const float *next_norm)
{
    const agl_backend_ops *ops = model->backend->ops;
    const agl_text_config *text = &model->config->text;
    const agl_text_scratch *scratch = &model->text_scratch;
    float *delta = scratch->delta;
    int64_t chunk = agl_chunk_rows(model->backend);
    for (int64_t first = 0; first < rows; first += chunk) {
        int64_t count = agl_min(rows - first, chunk);
        void *heads = agl_row(model, attention, first, q_width(text));
        float *x = x_rows + first * text->hidden;
        void *normed = agl_row(model, scratch->normed, first, text->hidden);
        AGL_TRY(agl_run_linear_f32(stream, delta, heads, layer->output, count));
        AGL_TRY(ops->rmsnorm(stream, &(agl_rmsnorm_args){
            .x = x, .delta = delta, .delta_weight = layer->post_self_attn_norm, .y = normed,
            .weight = layer->post_attention_norm, .rows = count, .hidden = text->hidden,
            .eps = text->rms_eps}));
        AGL_TRY(agl_run_linear_swiglu(stream, scratch->mlp, normed, layer->gate_up, scratch->wide,
                                      count));
        AGL_TRY(agl_run_linear_f32(stream, delta, scratch->mlp, layer->down, count));
        AGL_TRY(ops->rmsnorm(stream, &(agl_rmsnorm_args){
            .x = x, .delta = delta, .delta_weight = layer->post_mlp_norm, .y = normed,
            .weight = next_norm, .rows = count, .hidden = text->hidden, .eps = text->rms_eps}));
    }
    return AGL_OK;
}

/* The last layer, only for the rows whose logits are wanted. */
static agl_status finish_tail(agl_model *model, agl_stream *stream, const agl_batch *batch)
{
    const agl_backend_ops *ops = model->backend->ops;
    const agl_text_config *text = &model->config->text;
    const agl_text_layer *last = &model->text.layers[text->layers - 1];
    const agl_text_scratch *scratch = &model->text_scratch;
    int64_t count = batch->logit_count;
    int64_t value_bytes = (int64_t)agl_dtype_bytes(model->backend->activation);
    float *x = scratch->x;
    void *attention = scratch->attention;
    if (batch->logit_rows != NULL) {
        x = scratch->tail_x, attention = scratch->tail_attention;
        AGL_TRY(ops->gather(stream, &(agl_gather_args){
            .x = scratch->x, .out = x, .rows = batch->logit_rows, .count = count,
            .row_bytes = text->hidden * (int64_t)sizeof(float)}));
        AGL_TRY(ops->gather(stream, &(agl_gather_args){
            .x = scratch->attention, .out = attention, .rows = batch->logit_rows, .count = count,
            .row_bytes = q_width(text) * value_bytes}));
    }
    AGL_TRY(finish_layer(model, stream, last, attention, x, count, model->text.norm));
    return ops->linear(stream, &(agl_linear_args){
        .x = scratch->normed, .y = scratch->logits, .weight = model->text.lm_head, .rows = count,
        .x_stride = text->hidden, .y_f32 = true});
}

agl_status agl_model_decode(agl_model *model, agl_stream *stream, const agl_batch *batch,
                            float **logits)
{
    assert(batch->rows >= 1 && batch->rows <= model->rows_max);
    assert(batch->logit_count >= 0);
    assert(batch->logit_count <= agl_min(model->logit_rows_max, model->rows_max));
    assert(batch->logit_count == 0 || batch->logit_rows != NULL || batch->logit_count == batch->rows);
    assert(batch->sequence_count >= 1 && batch->kv != NULL);
    const agl_backend_ops *ops = model->backend->ops;
    const agl_text_config *text = &model->config->text;
    const agl_text_layer *layers = model->text.layers;
    const agl_text_scratch *scratch = &model->text_scratch;
    int64_t last = text->layers - 1;
    model->counters.decoder_runs++;

    AGL_TRY(ops->embed(stream, &(agl_embed_args){
        .out = scratch->x, .table = model->text.embed, .ids = batch->ids, .visual = batch->visual,
        .visual_rows = batch->visual_rows, .tokens = batch->rows, .hidden = text->hidden}));
    AGL_TRY(ops->rmsnorm(stream, &(agl_rmsnorm_args){
        .x = scratch->x, .y = scratch->normed, .weight = layers[0].input_norm,
        .rows = batch->rows, .hidden = text->hidden, .eps = text->rms_eps}));
    for (int64_t i = 0; i < last; i++) {
        AGL_TRY(attend(model, stream, batch, i, scratch->attention));
        AGL_TRY(finish_layer(model, stream, &layers[i], scratch->attention, scratch->x,
                             batch->rows, layers[i + 1].input_norm));
    }
    *logits = scratch->logits;
    if (batch->logit_count == 0) return attend(model, stream, batch, last, NULL);
    AGL_TRY(attend(model, stream, batch, last, scratch->attention));
    return finish_tail(model, stream, batch);
}
