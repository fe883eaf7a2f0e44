/* SPDX-License-Identifier: Apache-2.0 */
#include "model/model.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "model/network.h"

#define CARVE_ALIGNMENT 64

void *agl_carver_take(agl_carver *carver, int64_t rows, int64_t columns, size_t value_bytes)
{
    void *piece = carver->base != NULL ? carver->base + carver->bytes : NULL;
    uint64_t bytes = (uint64_t)rows * (uint64_t)columns * value_bytes;
    carver->bytes += (bytes + CARVE_ALIGNMENT - 1) / CARVE_ALIGNMENT * CARVE_ALIGNMENT;
    return piece;
}

/* ---- plan ------------------------------------------------------------------- */

static agl_dtype weight_dtype(const agl_config *config, const agl_model_options *options)
{
    return options->dtype < AGL_DTYPE_COUNT ? options->dtype : config->dtype;
}

static bool has_tower(const agl_config *config, const agl_model_options *options)
{
    return config->has_vision && options->patches_max > 0;
}

/* Bytes and parameters of the weights, by walking the networks' lists. */
static agl_status count_weights(agl_weight_loader *counter, const agl_config *config,
                                const agl_model_options *options)
{
    agl_text_network text = {0};
    agl_vision_network vision = {0};
    *counter = (agl_weight_loader){.dir = options->dir, .dtype = weight_dtype(config, options)};
    AGL_TRY(agl_text_load(&text, config, counter, NULL));
    return has_tower(config, options) ? agl_vision_load(&vision, config, counter, NULL) : AGL_OK;
}

uint64_t agl_model_kv_bytes_per_token(const agl_config *config, agl_dtype kv_dtype)
{
    const agl_text_config *text = &config->text;
    return 2 * (uint64_t)text->layers * (uint64_t)text->kv_heads * (uint64_t)text->head_dim *
           agl_dtype_bytes(kv_dtype);
}

agl_status agl_model_plan_make(agl_model_plan *out, const agl_config *config,
                               const agl_model_options *options, const agl_backend *backend)
{
    agl_weight_loader counter;
    agl_text_scratch text;
    agl_vision_scratch vision;
    agl_carver text_carver = {0}, vision_carver = {0};
    AGL_TRY(count_weights(&counter, config, options));
    agl_text_scratch_carve(&text, config, options, backend, &text_carver);
    if (has_tower(config, options))
        agl_vision_scratch_carve(&vision, config, options, backend, &vision_carver);
    *out = (agl_model_plan){
        .weight_bytes = counter.bytes,
        .activation_bytes = text_carver.bytes,
        .vision_bytes = vision_carver.bytes,
        .kv_bytes_per_token = agl_model_kv_bytes_per_token(config, backend->activation),
        .parameters = counter.parameters,
    };
    return AGL_OK;
}

/* ---- creation --------------------------------------------------------------- */

static agl_status check_options(const agl_config *config, const agl_model_options *options,
                                agl_error *err)
{
    agl_dtype dtype = weight_dtype(config, options);
    if (config->quant_method[0] != '\0') {
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "%s: quantized checkpoints (%s) are not supported by this build yet",
                        options->dir, config->quant_method);
    }
    if (dtype != AGL_F32 && dtype != AGL_BF16 && dtype != AGL_F16) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "dtype is %s, float32, bfloat16 or float16 expected",
                        agl_dtype_name(dtype));
    }
    assert(options->rows_max >= 1 && options->logit_rows_max >= 1 && options->patches_max >= 0);
    return AGL_OK;
}

static agl_status reserve_scratch(agl_model *model, const agl_model_options *options,
                                  agl_error *err)
{
    const agl_backend_ops *ops = model->backend->ops;
    agl_model_plan plan;
    AGL_TRY(agl_model_plan_make(&plan, model->config, options, model->backend));
    AGL_TRY(ops->alloc(model->backend, &model->text_memory, plan.activation_bytes,
                       AGL_MEMORY_ACTIVATIONS, err));
    agl_text_scratch_carve(&model->text_scratch, model->config, options, model->backend,
                           &(agl_carver){.base = model->text_memory});
    if (!has_tower(model->config, options)) return AGL_OK;
    AGL_TRY(ops->alloc(model->backend, &model->vision_memory, plan.vision_bytes, AGL_MEMORY_VISION,
                       err));
    agl_vision_scratch_carve(&model->vision_scratch, model->config, options, model->backend,
                             &(agl_carver){.base = model->vision_memory});
    int32_t *host = calloc((size_t)options->patches_max * 2, sizeof *host);
    model->vision_scratch.rows_columns_host = host;
    return host != NULL ? AGL_OK : agl_fail(err, AGL_ERR_MEMORY, "no memory for %lld patches",
                                            (long long)options->patches_max);
}

static agl_status load_networks(agl_model *model, agl_weight_loader *loader,
                                const agl_model_options *options, agl_error *err)
{
    AGL_TRY(agl_text_load(&model->text, model->config, loader, err));
    if (!model->config->has_vision) return AGL_OK;
    loader->skip = !has_tower(model->config, options);
    return agl_vision_load(&model->vision, model->config, loader, err);
}

static agl_status load_weights(agl_model *model, const agl_model_options *options, agl_error *err)
{
    agl_weight_loader counter, loader = {.dir = options->dir,
                                         .backend = model->backend,
                                         .dtype = weight_dtype(model->config, options),
                                         .seed = options->seed,
                                         .progress = options->progress,
                                         .progress_user = options->progress_user};
    agl_tensor_map map = {0};
    AGL_TRY(count_weights(&counter, model->config, options));
    loader.parameters_total = counter.parameters;
    if (!options->dummy) {
        AGL_TRY(agl_weights_open(&model->files, options->dir, err));
        AGL_TRY(agl_tensor_map_init(&map, model->files, options->dir, err));
        loader.map = &map;
    }
    agl_status status = agl_thread_pool_create(&loader.pool, 0, err);
    if (status == AGL_OK)
        status = model->backend->ops->stream_create(model->backend, &loader.stream, err);
    if (status == AGL_OK) status = load_networks(model, &loader, options, err);
    if (status == AGL_OK && !options->dummy)
        status = agl_tensor_map_check_used(&map, options->dir, err);
    model->blocks = loader.blocks;
    if (loader.stream != NULL) model->backend->ops->stream_destroy(loader.stream);
    agl_thread_pool_destroy(loader.pool);
    agl_weight_loader_deinit(&loader);
    agl_tensor_map_deinit(&map);
    return status;
}

agl_status agl_model_create(agl_model **out, const agl_config *config, agl_backend *backend,
                            const agl_model_options *options, agl_error *err)
{
    *out = NULL;
    AGL_TRY(check_options(config, options, err));
    agl_model *model = calloc(1, sizeof *model);
    if (model == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a model");
    model->config = config;
    model->backend = backend;
    model->rows_max = options->rows_max;
    model->logit_rows_max = options->logit_rows_max;
    model->patches_max = options->patches_max;
    agl_status status = reserve_scratch(model, options, err);
    if (status == AGL_OK) status = load_weights(model, options, err);
    if (status != AGL_OK) {
        agl_model_destroy(model);
        return status;
    }
    *out = model;
    return AGL_OK;
}

void agl_model_destroy(agl_model *model)
{
    if (model == NULL) return;
    agl_text_unload(&model->text, model->config, model->backend);
    agl_vision_unload(&model->vision, model->config, model->backend);
    model->backend->ops->free(model->backend, model->text_memory);
    model->backend->ops->free(model->backend, model->vision_memory);
    free(model->vision_scratch.rows_columns_host);
    agl_host_blocks_free(model->blocks);
    agl_weights_close(model->files);
    free(model);
}

agl_model_counters agl_model_counters_get(const agl_model *model)
{
    return model->counters;
}
