/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/generation.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

#define FILE_BYTES_MAX (1u << 20)

static const agl_sampling_defaults NEUTRAL = {
    .temperature = 1.0f, .top_p = 1.0f, .min_p = 0.0f, .repetition_penalty = 1.0f};

/* The keys of a generation_config object replace what is there; others are left alone. */
static agl_status apply(agl_sampling_defaults *out, struct json_object *object, const char *name,
                        agl_error *err)
{
    double temperature = (double)out->temperature, top_p = (double)out->top_p;
    double min_p = (double)out->min_p, repetition = (double)out->repetition_penalty;
    int64_t top_k = out->top_k, max_tokens = out->max_tokens;
    AGL_TRY(agl_json_get_double(&temperature, object, "temperature", 0.0, 1e4, false, name, err));
    AGL_TRY(agl_json_get_double(&top_p, object, "top_p", 1e-9, 1.0, false, name, err));
    AGL_TRY(agl_json_get_double(&min_p, object, "min_p", 0.0, 1.0, false, name, err));
    AGL_TRY(agl_json_get_double(&repetition, object, "repetition_penalty", 1e-3, 1e4, false, name,
                                err));
    AGL_TRY(agl_json_get_int(&top_k, object, "top_k", -1, INT32_MAX, false, name, err));
    AGL_TRY(agl_json_get_int(&max_tokens, object, "max_new_tokens", 1, UINT32_MAX, false, name, err));
    *out = (agl_sampling_defaults){
        .temperature = (float)temperature, .top_p = (float)top_p, .min_p = (float)min_p,
        .repetition_penalty = (float)repetition, .top_k = top_k > 0 ? (int32_t)top_k : 0,
        .max_tokens = (uint32_t)max_tokens};
    return AGL_OK;
}

static agl_status apply_folder(agl_sampling_defaults *out, const char *folder, agl_error *err)
{
    char path[4096 + 32];
    snprintf(path, sizeof path, "%.4095s/generation_config.json", folder);
    struct json_object *object;
    AGL_TRY(agl_json_load(&object, path, FILE_BYTES_MAX, err));
    agl_status status = apply(out, object, path, err);
    json_object_put(object);
    return status;
}

static void apply_checkpoint(agl_sampling_defaults *out, const agl_config *config)
{
    if (!isnan(config->temperature)) out->temperature = config->temperature;
    if (!isnan(config->top_p)) out->top_p = config->top_p;
    if (!isnan(config->min_p)) out->min_p = config->min_p;
    if (!isnan(config->repetition_penalty)) out->repetition_penalty = config->repetition_penalty;
    if (config->top_k > 0) out->top_k = config->top_k;
    if (config->max_new_tokens > 0) out->max_tokens = (uint32_t)config->max_new_tokens;
}

agl_status agl_generation_defaults(agl_sampling_defaults *out, const agl_config *config,
                                   const agl_engine_options *options, agl_error *err)
{
    const char *from = options->generation_config;
    *out = NEUTRAL;
    if (from == NULL || strcmp(from, "auto") == 0) apply_checkpoint(out, config);
    else if (strcmp(from, "vllm") != 0) AGL_TRY(apply_folder(out, from, err));

    const char *text = options->override_generation_config;
    if (text == NULL || text[0] == '\0') return AGL_OK;
    struct json_object *object;
    const char *name = "--override-generation-config";
    AGL_TRY(agl_json_parse(&object, text, strlen(text), name, err));
    agl_status status = json_object_is_type(object, json_type_object)
                            ? apply(out, object, name, err)
                            : agl_fail(err, AGL_ERR_ARGUMENT, "%s must be a JSON object", name);
    json_object_put(object);
    return status;
}
