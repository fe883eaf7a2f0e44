/* SPDX-License-Identifier: Apache-2.0
 *
 * vision_tower.c - one image to one row per 2 x 2 cell of patches.
 *
 * Patches leave `patchify` in merge order (the four of a cell are consecutive rows), and
 * everything up to the merger keeps that order: the downsampling convolution is then a
 * matrix product over rows of four neighbours, without a gather.
 *
 * docs/MODEL.md is the specification. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "model/network.h"

#define ROPE_THETA 10000.0f
#define MERGER_NORM_EPS 1e-5f       /* PyTorch's default, which the reference leaves alone */

static int64_t patch_values(const agl_vision_config *vision)
{
    return vision->channels * vision->frames * vision->patch * vision->patch;
}

static int64_t cell_patches(const agl_vision_config *vision)
{
    return vision->merge * vision->merge;
}

/* ---- weights ---------------------------------------------------------------- */

static agl_status load_block(agl_vision_block *block, const agl_vision_config *vision,
                             agl_weight_loader *loader, agl_error *err)
{
    int64_t hidden = vision->hidden, mlp = vision->mlp;
    agl_linear_spec gate_up = {
        .parts = {{"mlp.gate_proj", mlp, false}, {"mlp.up_proj", mlp, false}},
        .part_count = 2, .in = hidden};
    AGL_TRY(agl_weight_loader_vector(loader, &block->norm1, "norm1.weight", hidden, 1, err));
    AGL_TRY(agl_weight_loader_matrix(loader, &block->qkv, "attn.qkv", 3 * hidden, hidden, err));
    AGL_TRY(agl_weight_loader_matrix(loader, &block->proj, "attn.proj", hidden, hidden, err));
    AGL_TRY(agl_weight_loader_vector(loader, &block->norm2, "norm2.weight", hidden, 1, err));
    AGL_TRY(agl_weight_loader_linear(loader, &block->gate_up, &gate_up, err));
    return agl_weight_loader_matrix(loader, &block->down, "mlp.down_proj", hidden, mlp, err);
}

static agl_status load_merger(agl_vision_network *network, const agl_vision_config *vision,
                              agl_weight_loader *loader, agl_error *err)
{
    int64_t out = vision->out_hidden, merger = vision->merger;
    agl_linear_spec gate_up = {
        .parts = {{"gate_proj", merger, false}, {"up_proj", merger, false}},
        .part_count = 2, .in = out};
    agl_weight_loader_enter(loader, "model.visual.merger.");
    AGL_TRY(agl_weight_loader_matrix(loader, &network->merger_proj, "proj", out, out, err));
    AGL_TRY(agl_weight_loader_vector(loader, &network->merger_norm, "post_projection_norm.weight",
                                     out, 1, err));
    AGL_TRY(agl_weight_loader_vector(loader, &network->merger_norm_bias,
                                     "post_projection_norm.bias", out, 1, err));
    AGL_TRY(agl_weight_loader_linear(loader, &network->merger_gate_up, &gate_up, err));
    return agl_weight_loader_matrix(loader, &network->merger_down, "down_proj", out, merger, err);
}

/* Frequencies 10000^(-2i / (head_dim / 2)), the same for rows and columns. */
static agl_status make_rope_table(agl_vision_network *network, const agl_vision_config *vision,
                                  const agl_weight_loader *loader, agl_error *err)
{
    float inv_freq[AGL_ROPE_PAIRS_MAX];
    int64_t count = vision->head_dim / 4;
    assert(count <= AGL_ROPE_PAIRS_MAX);
    for (int64_t i = 0; i < count; i++) {
        inv_freq[i] = 1.0f / powf(ROPE_THETA, (float)(2 * i) / (float)(2 * count));
    }
    const agl_backend_ops *ops = loader->backend->ops;
    size_t bytes = (size_t)count * sizeof(float);
    void *memory;
    AGL_TRY(ops->alloc(loader->backend, &memory, bytes, AGL_MEMORY_WEIGHTS, err));
    network->inv_freq = memory;
    AGL_TRY(ops->upload(loader->stream, memory, inv_freq, bytes));
    return ops->stream_wait(loader->stream, err);
}

agl_status agl_vision_load(agl_vision_network *network, const agl_config *config,
                           agl_weight_loader *loader, agl_error *err)
{
    const agl_vision_config *vision = &config->vision;
    int64_t hidden = vision->hidden, side = vision->position_side;
    bool creates = loader->backend != NULL && !loader->skip;
    agl_linear_spec patch_embed = {
        .parts = {{"patch_embed.proj", hidden, true}},
        .part_count = 1, .in = patch_values(vision)};
    agl_linear_spec downsample = {
        .parts = {{"downsample", vision->out_hidden, true}},
        .part_count = 1, .in = cell_patches(vision) * hidden, .kernel = vision->merge};
    agl_weight_loader_enter(loader, "model.visual.");
    AGL_TRY(agl_weight_loader_linear(loader, &network->patch_embed, &patch_embed, err));
    AGL_TRY(agl_weight_loader_vector(loader, &network->post_conv_norm,
                                     "post_conv_layernorm.weight", hidden, 1, err));
    AGL_TRY(agl_weight_loader_vector(loader, &network->positions,
                                     "embeddings.position_embedding.weight", side * side, hidden,
                                     err));
    AGL_TRY(agl_weight_loader_vector(loader, &network->post_norm, "post_layernorm.weight", hidden,
                                     1, err));
    AGL_TRY(agl_weight_loader_linear(loader, &network->downsample, &downsample, err));
    AGL_TRY(load_merger(network, vision, loader, err));
    if (creates) {
        network->blocks = calloc((size_t)vision->depth, sizeof *network->blocks);
        if (network->blocks == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for blocks");
        AGL_TRY(make_rope_table(network, vision, loader, err));
    }
    for (int64_t i = 0; i < vision->depth; i++) {
        agl_vision_block counted = {0};
        agl_vision_block *block = creates ? &network->blocks[i] : &counted;
        agl_weight_loader_enter(loader, "model.visual.blocks.%lld.", (long long)i);
        AGL_TRY(load_block(block, vision, loader, err));
    }
    return AGL_OK;
}

void agl_vision_unload(agl_vision_network *network, const agl_config *config, agl_backend *backend)
{
    const agl_backend_ops *ops = backend->ops;
    for (int64_t i = 0; network->blocks != NULL && i < config->vision.depth; i++) {
        agl_vision_block *block = &network->blocks[i];
        agl_weight *weights[] = {block->qkv, block->proj, block->gate_up, block->down};
        ops->free(backend, block->norm1);
        ops->free(backend, block->norm2);
        for (size_t n = 0; n < AGL_COUNT(weights); n++) {
            if (weights[n] != NULL) ops->weight_destroy(backend, weights[n]);
        }
    }
    free(network->blocks);
    agl_weight *weights[] = {network->patch_embed, network->downsample, network->merger_proj,
                             network->merger_gate_up, network->merger_down};
    for (size_t n = 0; n < AGL_COUNT(weights); n++) {
        if (weights[n] != NULL) ops->weight_destroy(backend, weights[n]);
    }
    float *vectors[] = {network->post_conv_norm, network->positions, network->post_norm,
                        network->merger_norm, network->merger_norm_bias, network->inv_freq};
    for (size_t n = 0; n < AGL_COUNT(vectors); n++) ops->free(backend, vectors[n]);
}

/* ---- scratch ---------------------------------------------------------------- */

void agl_vision_scratch_carve(agl_vision_scratch *scratch, const agl_config *config,
                              const agl_model_options *options, const agl_backend *backend,
                              agl_carver *carver)
{
    const agl_vision_config *vision = &config->vision;
    int64_t patches = options->patches_max, chunk = agl_min(patches, agl_chunk_rows(backend));
    size_t value_bytes = agl_dtype_bytes(backend->activation);
    int64_t mlp = agl_max(vision->mlp, vision->merger);
    int64_t patch_width = agl_max(3 * vision->hidden, patch_values(vision));
    int64_t wide = agl_max(patches * patch_width, chunk * 2 * mlp);
    scratch->x = agl_carver_take(carver, patches, vision->hidden, sizeof(float));
    scratch->normed = agl_carver_take(carver, patches, vision->hidden, value_bytes);
    scratch->wide = agl_carver_take(carver, wide, 1, value_bytes);
    scratch->mlp = agl_carver_take(carver, chunk, mlp, value_bytes);
    scratch->delta = agl_carver_take(carver, chunk, agl_max(vision->hidden, vision->out_hidden),
                                     sizeof(float));
    scratch->cells = agl_carver_take(carver, chunk, vision->out_hidden, value_bytes);
    scratch->rows_columns = agl_carver_take(carver, patches, 2, sizeof(int32_t));
}

/* ---- forward pass ----------------------------------------------------------- */

/* Row and column of every patch, in merge order: for a 4 x 6 grid
 * (0,0)(0,1)(1,0)(1,1) (0,2)(0,3)(1,2)(1,3) (0,4)(0,5)(1,4)(1,5) (2,0)(2,1)(3,0)(3,1) ... */
static void fill_rows_columns(int32_t *out, int64_t grid_h, int64_t grid_w, int64_t merge)
{
    for (int64_t block_row = 0; block_row < grid_h; block_row += merge) {
        for (int64_t block_column = 0; block_column < grid_w; block_column += merge) {
            for (int64_t in_block = 0; in_block < merge * merge; in_block++) {
                *out++ = (int32_t)(block_row + in_block / merge);
                *out++ = (int32_t)(block_column + in_block % merge);
            }
        }
    }
}

/* x = RMS(patch_embed(patches)) + positions, normed = RMS(x) of the first block. */
static agl_status embed_patches(agl_model *model, agl_stream *stream, const uint8_t *pixels,
                                int64_t height, int64_t width)
{
    const agl_backend_ops *ops = model->backend->ops;
    const agl_vision_config *vision = &model->config->vision;
    const agl_image_config *image = &model->config->image;
    const agl_vision_network *network = &model->vision;
    const agl_vision_scratch *scratch = &model->vision_scratch;
    int64_t grid_h = height / vision->patch, grid_w = width / vision->patch;
    int64_t patches = grid_h * grid_w;
    fill_rows_columns(scratch->rows_columns_host, grid_h, grid_w, vision->merge);
    AGL_TRY(ops->upload(stream, scratch->rows_columns, scratch->rows_columns_host,
                        (size_t)patches * 2 * sizeof(int32_t)));
    AGL_TRY(ops->patchify(stream, &(agl_patchify_args){
        .pixels = pixels, .out = scratch->wide, .height = height, .width = width,
        .patch = vision->patch, .merge = vision->merge, .frames = vision->frames,
        .mean = {image->mean[0], image->mean[1], image->mean[2]},
        .std = {image->std[0], image->std[1], image->std[2]}}));
    AGL_TRY(agl_run_linear_f32(stream, scratch->x, scratch->wide, network->patch_embed, patches));
    AGL_TRY(ops->rmsnorm(stream, &(agl_rmsnorm_args){
        .x = scratch->x, .y = scratch->x, .weight = network->post_conv_norm, .rows = patches,
        .hidden = vision->hidden, .eps = vision->rms_eps, .y_f32 = true}));
    AGL_TRY(ops->position_embed(stream, &(agl_position_embed_args){
        .x = scratch->x, .table = network->positions, .grid_h = grid_h, .grid_w = grid_w,
        .merge = vision->merge, .side = vision->position_side, .hidden = vision->hidden}));
    return ops->rmsnorm(stream, &(agl_rmsnorm_args){
        .x = scratch->x, .y = scratch->normed, .weight = network->blocks[0].norm1, .rows = patches,
        .hidden = vision->hidden, .eps = vision->rms_eps});
}

/* normed = attention over all patches of the image; every layer sees them all. */
static agl_status attend(agl_model *model, agl_stream *stream, const agl_vision_block *block,
                         int64_t patches)
{
    const agl_backend_ops *ops = model->backend->ops;
    const agl_vision_config *vision = &model->config->vision;
    const agl_vision_scratch *scratch = &model->vision_scratch;
    const int32_t segments[2] = {0, (int32_t)patches};
    AGL_TRY(agl_run_linear(stream, scratch->wide, scratch->normed, block->qkv, patches));
    AGL_TRY(ops->rope_vision(stream, &(agl_rope_vision_args){
        .qkv = scratch->wide, .rows_columns = scratch->rows_columns,
        .inv_freq = model->vision.inv_freq, .tokens = patches, .heads = vision->heads,
        .head_dim = vision->head_dim}));
    return ops->attention_dense(stream, &(agl_attention_dense_args){
        .qkv = scratch->wide, .out = scratch->normed, .segments = segments, .segment_count = 1,
        .tokens = patches, .heads = vision->heads, .head_dim = vision->head_dim,
        .scale = 1.0f / sqrtf((float)vision->head_dim)});
}

/* The rest of a block, row by row: x takes in attention output and MLP, and
 * normed = RMS(x) next_norm opens what follows. */
static agl_status finish_block(agl_model *model, agl_stream *stream, const agl_vision_block *block,
                               int64_t patches, const float *next_norm)
{
    const agl_backend_ops *ops = model->backend->ops;
    const agl_vision_config *vision = &model->config->vision;
    const agl_vision_scratch *scratch = &model->vision_scratch;
    float *delta = scratch->delta;
    int64_t chunk = agl_chunk_rows(model->backend);
    for (int64_t first = 0; first < patches; first += chunk) {
        int64_t count = agl_min(patches - first, chunk);
        float *x = scratch->x + first * vision->hidden;
        void *normed = agl_row(model, scratch->normed, first, vision->hidden);
        AGL_TRY(agl_run_linear_f32(stream, delta, normed, block->proj, count));
        AGL_TRY(ops->rmsnorm(stream, &(agl_rmsnorm_args){
            .x = x, .delta = delta, .y = normed, .weight = block->norm2, .rows = count,
            .hidden = vision->hidden, .eps = vision->rms_eps}));
        AGL_TRY(agl_run_linear_swiglu(stream, scratch->mlp, normed, block->gate_up, scratch->wide,
                                      count));
        AGL_TRY(agl_run_linear_f32(stream, delta, scratch->mlp, block->down, count));
        AGL_TRY(ops->rmsnorm(stream, &(agl_rmsnorm_args){
            .x = x, .delta = delta, .y = normed, .weight = next_norm, .rows = count,
            .hidden = vision->hidden, .eps = vision->rms_eps}));
    }
    return AGL_OK;
}

/* Four neighbours of `normed` are one row of the downsampling product; then the merger. */
static agl_status merge_cells(agl_model *model, agl_stream *stream, int64_t cells, void *out)
{
    const agl_backend_ops *ops = model->backend->ops;
    const agl_vision_config *vision = &model->config->vision;
    const agl_vision_network *network = &model->vision;
    const agl_vision_scratch *scratch = &model->vision_scratch;
    int64_t cell_width = cell_patches(vision) * vision->hidden;
    float *projected = scratch->delta;
    void *normed = scratch->cells;  /* free again once projected */
    int64_t chunk = agl_chunk_rows(model->backend);
    for (int64_t first = 0; first < cells; first += chunk) {
        int64_t count = agl_min(cells - first, chunk);
        void *patches = agl_row(model, scratch->normed, first, cell_width);
        void *rows = agl_row(model, out, first, vision->out_hidden);
        AGL_TRY(agl_run_linear(stream, scratch->cells, patches, network->downsample, count));
        AGL_TRY(agl_run_linear_f32(stream, projected, scratch->cells, network->merger_proj, count));
        AGL_TRY(ops->layernorm(stream, &(agl_layernorm_args){
            .x = projected, .y = normed, .weight = network->merger_norm,
            .bias = network->merger_norm_bias, .rows = count, .hidden = vision->out_hidden,
            .eps = MERGER_NORM_EPS, .gelu = true}));
        AGL_TRY(agl_run_linear_swiglu(stream, scratch->mlp, normed, network->merger_gate_up,
                                      scratch->wide, count));
        AGL_TRY(agl_run_linear(stream, rows, scratch->mlp, network->merger_down, count));
    }
    return AGL_OK;
}

agl_status agl_model_encode_image(agl_model *model, agl_stream *stream, const uint8_t *pixels,
                                  int64_t height, int64_t width, void *out)
{
    const agl_vision_config *vision = &model->config->vision;
    const agl_vision_network *network = &model->vision;
    int64_t patches = height / vision->patch * (width / vision->patch);
    assert(patches >= 1 && patches <= model->patches_max);
    assert(height % (vision->patch * vision->merge) == 0);
    assert(width % (vision->patch * vision->merge) == 0);
    model->counters.vision_runs++;

    AGL_TRY(embed_patches(model, stream, pixels, height, width));
    for (int64_t i = 0; i < vision->depth; i++) {
        bool is_last = i + 1 == vision->depth;
        const float *next_norm = is_last ? network->post_norm : network->blocks[i + 1].norm1;
        AGL_TRY(attend(model, stream, &network->blocks[i], patches));
        AGL_TRY(finish_block(model, stream, &network->blocks[i], patches, next_norm));
    }
    return merge_cells(model, stream, patches / cell_patches(vision), out);
}
