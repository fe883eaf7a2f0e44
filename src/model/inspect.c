/* SPDX-License-Identifier: Apache-2.0
 *
 * inspect.c - what a checkpoint folder holds, as JSON. Whatever can be described is, even
 * if this build would refuse to serve it; the reasons are collected under "refused". */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/network.h"

#define FILE_BYTES_MAX ((size_t)16 << 20)

typedef struct json_object json;

static void put_int(json *object, const char *key, int64_t value)
{
    json_object_object_add(object, key, json_object_new_int64(value));
}

static void put_text(json *object, const char *key, const char *value)
{
    json_object_object_add(object, key, value != NULL ? json_object_new_string(value) : NULL);
}

/* The shortest decimal that gives the same float: 0.8, not 0.80000001192. */
static void put_float(json *object, const char *key, double value)
{
    char text[32];
    if (isnan(value)) return;
    snprintf(text, sizeof text, "%.7g", value);
    json_object_object_add(object, key, json_object_new_double_s(value, text));
}

static json *put_object(json *object, const char *key)
{
    json *member = json_object_new_object();
    json_object_object_add(object, key, member);
    return member;
}

static void refuse(json *refused, const agl_error *err)
{
    json_object_array_add(refused, json_object_new_string(err->message));
}

/* ---- configuration ---------------------------------------------------------- */

static void describe_text(json *out, const agl_text_config *text)
{
    put_int(out, "hidden", text->hidden);
    put_int(out, "layers", text->layers);
    put_int(out, "heads", text->heads);
    put_int(out, "kv_heads", text->kv_heads);
    put_int(out, "head_dim", text->head_dim);
    put_int(out, "intermediate", text->intermediate);
    put_int(out, "vocab", text->vocab);
    put_int(out, "max_positions", text->max_positions);
    put_float(out, "rms_eps", (double)text->rms_eps);
    put_float(out, "rope_theta", text->rope_theta);
    put_int(out, "rope_dimensions", 2 * text->rope_pairs);
    json *sections = json_object_new_array();
    for (int i = 0; i < 3; i++)
        json_object_array_add(sections, json_object_new_int(text->mrope_section[i]));
    json_object_object_add(out, "mrope_section", sections);
    json_object_object_add(out, "tied_embeddings", json_object_new_boolean(text->tie_embeddings));
}

static void describe_vision(json *report, const agl_config *config)
{
    const agl_vision_config *vision = &config->vision;
    json *out = put_object(report, "vision");
    put_int(out, "hidden", vision->hidden);
    put_int(out, "depth", vision->depth);
    put_int(out, "heads", vision->heads);
    put_int(out, "head_dim", vision->head_dim);
    put_int(out, "mlp", vision->mlp);
    put_int(out, "merger", vision->merger);
    put_int(out, "patch", vision->patch);
    put_int(out, "merge", vision->merge);
    put_int(out, "frames", vision->frames);
    json *image = put_object(report, "image");
    put_int(image, "pixels_min", config->image.pixels_min);
    put_int(image, "pixels_max", config->image.pixels_max);
    put_int(image, "image_token", config->image_token);
    put_int(image, "image_start_token", config->image_start_token);
    put_int(image, "image_end_token", config->image_end_token);
}

static void describe_config(json *report, const agl_config *config)
{
    describe_text(put_object(report, "text"), &config->text);
    if (config->has_vision) describe_vision(report, config);
    json *generation = put_object(report, "generation");
    json *eos = json_object_new_array();
    for (int i = 0; i < config->eos_count; i++)
        json_object_array_add(eos, json_object_new_int(config->eos[i]));
    json_object_object_add(generation, "eos_tokens", eos);
    put_float(generation, "temperature", (double)config->temperature);
    put_float(generation, "top_p", (double)config->top_p);
    put_float(generation, "min_p", (double)config->min_p);
    put_float(generation, "repetition_penalty", (double)config->repetition_penalty);
    if (config->top_k >= 0) put_int(generation, "top_k", config->top_k);
    if (config->max_new_tokens >= 0) put_int(generation, "max_new_tokens", config->max_new_tokens);
    put_int(report, "kv_bytes_per_token",
            (int64_t)agl_model_kv_bytes_per_token(config, config->dtype));
}

/* ---- weights ---------------------------------------------------------------- */

typedef struct {
    const char *key;
    int64_t tensors, parameters, bytes;
} tally;

enum { EMBED, LAYERS, LM_HEAD, VISION, OTHER, PART_COUNT };

static int part_of(const char *standard_name)
{
    static const struct { const char *prefix; int part; } PREFIXES[] = {
        {"model.language_model.embed_tokens.", EMBED}, {"model.language_model.", LAYERS},
        {"lm_head.", LM_HEAD}, {"model.visual.", VISION},
    };
    for (size_t i = 0; i < AGL_COUNT(PREFIXES); i++) {
        if (strncmp(standard_name, PREFIXES[i].prefix, strlen(PREFIXES[i].prefix)) == 0)
            return PREFIXES[i].part;
    }
    return OTHER;
}

static void count_tensor(tally *to, const agl_tensor *tensor)
{
    to->tensors++;
    to->bytes += (int64_t)tensor->bytes;
    to->parameters += (int64_t)(tensor->bytes / agl_dtype_bytes(tensor->dtype));
}

/* Packed formats hold several parameters a value; "parameters" counts the stored values. */
static void put_tallies(json *report, const char *key, const tally *tallies, size_t count)
{
    json *out = put_object(report, key);
    for (size_t i = 0; i < count; i++) {
        if (tallies[i].tensors == 0) continue;
        json *entry = put_object(out, tallies[i].key);
        put_int(entry, "tensors", tallies[i].tensors);
        put_int(entry, "parameters", tallies[i].parameters);
        put_int(entry, "bytes", tallies[i].bytes);
    }
}

static void describe_tensors(json *report, const agl_tensor_map *map)
{
    tally parts[PART_COUNT] = {{.key = "embed"},
                               {.key = "layers"},
                               {.key = "lm_head"},
                               {.key = "vision"},
                               {.key = "other"}};
    tally dtypes[AGL_DTYPE_COUNT] = {0}, all = {0};
    for (int i = 0; i < AGL_DTYPE_COUNT; i++) dtypes[i].key = agl_dtype_name((agl_dtype)i);
    for (size_t i = 0; i < map->count; i++) {
        const agl_tensor *tensor = map->entries[i].tensor;
        count_tensor(&parts[part_of(map->entries[i].name)], tensor);
        count_tensor(&dtypes[tensor->dtype], tensor);
        count_tensor(&all, tensor);
    }
    put_int(report, "tensors", all.tensors);
    put_int(report, "parameters", all.parameters);
    put_int(report, "weight_bytes", all.bytes);
    put_tallies(report, "parts", parts, PART_COUNT);
    put_tallies(report, "dtypes", dtypes, AGL_DTYPE_COUNT);
}

/* Would every tensor find its place? */
static agl_status check_names(const char *dir, const agl_config *config, agl_tensor_map *map,
                              agl_error *err)
{
    agl_text_network text = {0};
    agl_vision_network vision = {0};
    agl_weight_loader checker = {.dir = dir, .dtype = config->dtype, .map = map};
    AGL_TRY(agl_text_load(&text, config, &checker, err));
    if (config->has_vision) AGL_TRY(agl_vision_load(&vision, config, &checker, err));
    return agl_tensor_map_check_used(map, dir, err);
}

/* config: NULL if it was refused. */
static void describe_weights(json *report, json *refused, const char *dir, const agl_config *config)
{
    agl_weights *weights;
    agl_tensor_map map;
    agl_error err;
    if (agl_weights_open(&weights, dir, &err) != AGL_OK) {
        refuse(refused, &err);
        return;
    }
    if (agl_tensor_map_init(&map, weights, dir, &err) != AGL_OK) {
        refuse(refused, &err);
    } else {
        describe_tensors(report, &map);
        bool is_plain = config != NULL && config->quant_method[0] == '\0';
        if (is_plain && check_names(dir, config, &map, &err) != AGL_OK) refuse(refused, &err);
        agl_tensor_map_deinit(&map);
    }
    agl_weights_close(weights);
}

/* ---- all together ----------------------------------------------------------- */

static const char *text_of(json *object, const char *key)
{
    json *value = agl_json_member(object, key);
    return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

static void describe_root(json *report, json *root)
{
    json *text = agl_json_member(root, "text_config");
    json *architectures = agl_json_member(root, "architectures"), *places[] = {root, text};
    json *first = json_object_is_type(architectures, json_type_array)
                      ? json_object_array_get_idx(architectures, 0)
                      : NULL;
    const char *dtype = NULL;
    for (size_t i = 0; dtype == NULL && i < 2; i++) {
        dtype = text_of(places[i], "dtype");
        if (dtype == NULL) dtype = text_of(places[i], "torch_dtype");
    }
    put_text(report, "architecture",
             json_object_is_type(first, json_type_string) ? json_object_get_string(first) : NULL);
    put_text(report, "model_type", text_of(root, "model_type"));
    put_text(report, "dtype", dtype);
    json *quantization = agl_json_member(root, "quantization_config");
    if (quantization == NULL) quantization = agl_json_member(text, "quantization_config");
    json_object_object_add(report, "quantization", json_object_get(quantization));
}

agl_status agl_model_inspect(char **out, const char *dir, agl_error *err)
{
    char path[4352];
    *out = NULL;
    int bytes = snprintf(path, sizeof path, "%s/config.json", dir);
    if (bytes < 0 || (size_t)bytes >= sizeof path)
        return agl_fail(err, AGL_ERR_LIMIT, "%.80s...: path is too long", dir);
    json *root;
    AGL_TRY(agl_json_load(&root, path, FILE_BYTES_MAX, err));
    json *report = json_object_new_object(), *refused = json_object_new_array();
    agl_config config;
    agl_error reason;
    put_text(report, "folder", dir);
    describe_root(report, root);
    bool is_readable = agl_config_load(&config, dir, &reason) == AGL_OK;
    if (is_readable) {
        describe_config(report, &config);
    } else {
        refuse(refused, &reason);
    }
    if (is_readable && config.quant_method[0] != '\0') {
        agl_fail(&reason, AGL_ERR_UNSUPPORTED,
                 "%s: quantized checkpoints (%s) are not supported by this build yet", dir,
                 config.quant_method);
        refuse(refused, &reason);
    }
    describe_weights(report, refused, dir, is_readable ? &config : NULL);
    json_object_object_add(report, "refused", refused);
    *out = strdup(json_object_to_json_string_ext(report, JSON_C_TO_STRING_PLAIN |
                                                             JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(report);
    json_object_put(root);
    return *out != NULL ? AGL_OK : agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for a report", dir);
}
