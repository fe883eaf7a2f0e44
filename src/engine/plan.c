/* SPDX-License-Identifier: Apache-2.0
 *
 * plan.c - agl_plan_make: the memory plan of an engine that is not created, and the counts
 * that rooflines are made of. The backend is a description only: it never gets work. */
#include <assert.h>

#include "engine/engine.h"
#include "media/image.h"
#include "model/checkpoint.h"

/* A model split over `count` devices: linear layers, embedding and lm_head are cut, the vision
 * tower stays whole on each (its heads need not divide), K/V heads are cut down to one. */
static agl_config rank_config(const agl_config *config, uint32_t count)
{
    agl_config rank = *config;
    rank.text.kv_heads = config->text.kv_heads / count > 1 ? config->text.kv_heads / count : 1;
    return rank;
}

typedef struct {
    agl_model_plan text, vision;    /* alone                                         */
    agl_model_plan layer;           /* one layer of the decoder                      */
    double layer_matrix;            /* its linear parameters, without norms and bias */
} part_counts;

static void subtract(agl_model_plan *from, const agl_model_plan *what)
{
    from->weight_bytes -= what->weight_bytes;
    from->parameters -= what->parameters;
}

/* Parts are differences of whole plans, so they follow the networks' own lists of weights. */
static agl_status count_parts(part_counts *out, const agl_config *config, const agl_model_options *options,
                              const agl_backend *backend)
{
    agl_config longer = *config;
    agl_model_options no_vision = *options;
    no_vision.patches_max = 0;
    longer.text.layers++;
    AGL_TRY(agl_model_plan_make(&out->vision, config, options, backend));
    AGL_TRY(agl_model_plan_make(&out->text, config, &no_vision, backend));
    AGL_TRY(agl_model_plan_make(&out->layer, &longer, &no_vision, backend));
    subtract(&out->vision, &out->text);
    subtract(&out->layer, &out->text);
    const agl_text_config *text = &config->text;
    int64_t q_width = text->heads * text->head_dim, kv_width = text->kv_heads * text->head_dim;
    out->layer_matrix = (double)(text->hidden * (2 * q_width + 2 * kv_width + 3 * text->intermediate));
    return AGL_OK;
}

static void count_text(agl_plan *out, const agl_config *config, const part_counts *parts)
{
    const agl_text_config *text = &config->text;
    uint64_t table = (uint64_t)(text->vocab * text->hidden);
    out->layer_parameters = parts->layer.parameters * (uint64_t)text->layers;
    out->embedding_parameters = table;
    out->lm_head_parameters = parts->text.parameters - out->layer_parameters - table;
    out->token_flops = 2 * (double)text->layers * parts->layer_matrix;
    out->lm_head_flops = 2 * (double)table;
    out->attention_flops = 4 * (double)(text->layers * text->heads * text->head_dim);
    out->layers = (uint32_t)text->layers;
    out->hidden = (uint32_t)text->hidden;
}

static void count_vision(agl_plan *out, const agl_config *config)
{
    const agl_vision_config *v = &config->vision;
    double width = (double)v->hidden, wide = (double)v->out_hidden;
    double values = (double)(v->channels * v->frames * v->patch * v->patch);
    out->patch_flops = 2 * (double)v->depth * width * (4 * width + 3 * (double)v->mlp) + 2 * width * values;
    out->patch_pair_flops = 4 * (double)v->depth * width;
    out->cell_flops = 2 * wide * ((double)(v->merge * v->merge) * width + wide + 3 * (double)v->merger);
    out->vision_blocks = (uint32_t)v->depth;
    out->vision_hidden = (uint32_t)v->hidden;
}

static agl_status count_image(agl_plan *out, const agl_engine_options *options, const agl_plan_options *hardware,
                              const agl_config *config, agl_error *err)
{
    if (!config->has_vision || hardware->image_width == 0 || hardware->image_height == 0) return AGL_OK;
    const agl_vision_config *v = &config->vision;
    int64_t pixels_max = config->image.pixels_max;
    if (options->max_pixels != 0 && options->max_pixels * (uint64_t)v->frames < (uint64_t)pixels_max) {
        pixels_max = (int64_t)options->max_pixels * v->frames;
    }
    agl_resize_rule rule = {.factor = v->patch * v->merge, .frames = v->frames,
                            .pixels_min = config->image.pixels_min, .pixels_max = pixels_max};
    int64_t height, width;
    AGL_TRY(agl_image_target_size(&height, &width, hardware->image_height, hardware->image_width, &rule, err));
    out->image_patches = (uint32_t)(height / v->patch * (width / v->patch));
    out->image_tokens = out->image_patches / (uint32_t)(v->merge * v->merge);
    return AGL_OK;
}

/* Bytes of weights: packed formats in place of the dtype, then the share of one device. */
static void settle_weights(agl_plan *out, agl_memory_plan *plan, const agl_plan_options *hardware,
                           const agl_config *config, const part_counts *parts, uint32_t count)
{
    agl_dtype dtype = plan->weight_dtype != AGL_DTYPE_COUNT ? plan->weight_dtype : config->dtype;
    double dtype_bits = 8 * (double)agl_dtype_bytes(dtype);
    double layer_bits = hardware->layer_bits > 0 ? hardware->layer_bits : dtype_bits;
    double lm_head_bits = hardware->lm_head_bits > 0 ? hardware->lm_head_bits : dtype_bits;
    double layers = (double)config->text.layers, table = (double)out->embedding_parameters;
    double layer_saved = layers * parts->layer_matrix * (dtype_bits - layer_bits) / 8;
    double lm_head_saved = table * (dtype_bits - lm_head_bits) / 8;
    double layer_bytes = layers * (double)parts->layer.weight_bytes - layer_saved;
    double text_bytes = (double)parts->text.weight_bytes - layer_saved - lm_head_saved;
    out->dtype = agl_dtype_name(dtype);
    out->decode_weight_bytes = (uint64_t)(layer_bytes + table * lm_head_bits / 8);
    plan->model.weight_bytes = (uint64_t)(text_bytes / count) + parts->vision.weight_bytes;
}

static void report(agl_plan *out, const agl_memory_plan *plan, uint64_t memory_bytes)
{
    uint64_t fixed = agl_memory_plan_fixed(plan);
    out->memory_bytes = memory_bytes;
    out->budget_bytes = plan->budget_bytes;
    out->weight_bytes = plan->model.weight_bytes;
    out->activation_bytes = plan->model.activation_bytes + plan->input_bytes + plan->workspace_bytes;
    out->vision_bytes = plan->model.vision_bytes + plan->picture_bytes;
    out->encoder_bytes = plan->encoder_bytes;
    out->kv_room_bytes = plan->budget_bytes > fixed ? plan->budget_bytes - fixed : 0;
    out->kv_bytes = plan->kv_bytes;
    out->kv_tokens = (uint64_t)plan->page_count * plan->page_tokens;
    out->max_model_len = plan->page_count > 0 ? plan->max_model_len : 0;
    out->max_num_seqs = plan->max_sequences;
    out->page_tokens = plan->page_tokens;
}

static const char *not_built(const agl_plan_options *hardware, uint32_t count)
{
    if (hardware->gpu && !agl_backend_cuda_built()) return "this build runs on the CPU only";
    if (count > 1) return "this build runs on one device";
    if (hardware->layer_bits > 0 || hardware->lm_head_bits > 0) return "this build has no packed weights";
    return NULL;
}

agl_status agl_plan_make(agl_plan *out, const agl_engine_options *options, const agl_plan_options *hardware,
                         agl_error *err)
{
    assert(out != NULL && options != NULL && hardware != NULL && options->model != NULL);
    char root[4096];
    agl_config config;
    agl_memory_plan plan;
    part_counts parts;
    *out = (agl_plan){0};
    AGL_TRY(agl_checkpoint_resolve(root, sizeof root, options->model, err));
    AGL_TRY(agl_config_load(&config, root, err));
    uint32_t count = hardware->count > 0 ? hardware->count : 1;
    agl_dtype activation = AGL_F32;
    if (hardware->gpu) AGL_TRY(agl_memory_plan_activation(&activation, options, &config, err));
    agl_backend backend = {.activation = activation, .description = "the device",
                           .kind = hardware->gpu ? AGL_BACKEND_CUDA : AGL_BACKEND_CPU, .memory_total = hardware->memory_bytes};
    AGL_TRY(agl_memory_plan_size(&plan, options, &config, &backend, err));
    agl_model_options model = agl_memory_plan_model(&plan, options, NULL);
    agl_status status = count_parts(&parts, &config, &model, &backend);
    if (status != AGL_OK) return agl_fail(err, status, "%.3000s: the model's memory cannot be planned", root);
    out->not_built = not_built(hardware, count);
    out->parameters = plan.model.parameters;
    out->vision_parameters = parts.vision.parameters;
    count_text(out, &config, &parts);
    if (config.has_vision) count_vision(out, &config);
    AGL_TRY(count_image(out, options, hardware, &config, err));
    settle_weights(out, &plan, hardware, &config, &parts, count);
    agl_config rank = rank_config(&config, count);
    out->kv_bytes_per_token = agl_model_kv_bytes_per_token(&rank, plan.kv_dtype);
    status = agl_memory_plan_fit(&plan, options, &rank, &backend, err);
    report(out, &plan, hardware->memory_bytes);
    return status;
}
