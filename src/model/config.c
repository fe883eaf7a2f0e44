/* SPDX-License-Identifier: Apache-2.0 */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

#define ARCHITECTURE "Glm4vForConditionalGeneration"
#define FILE_BYTES_MAX ((size_t)16 << 20)
#define NAME_BYTES 4352
#define VISION_THETA 10000.0

/* Limits that keep every product of two sizes far below 2^63. */
#define SIDE_MAX ((int64_t)1 << 24)
#define LAYERS_MAX 4096
#define AREA_MAX ((int64_t)1 << 40)
#define HEAD_DIM_MAX 256            /* of the attention kernels */

/* One JSON object and what messages call it: "DIR/config.json: text_config". */
typedef struct {
    struct json_object *object;
    char name[NAME_BYTES];
} section;

static agl_status file_name(section *out, const char *dir, const char *file, agl_error *err)
{
    out->object = NULL;
    int bytes = snprintf(out->name, sizeof out->name, "%s/%s", dir, file);
    if (bytes < 0 || (size_t)bytes >= sizeof out->name) {
        return agl_fail(err, AGL_ERR_LIMIT, "%.80s...: path is longer than %zu bytes", dir,
                        sizeof out->name);
    }
    return AGL_OK;
}

/* Member object `key` of `parent`; out->object is NULL when absent. */
static agl_status subsection(section *out, const section *parent, const char *key, agl_error *err)
{
    out->object = agl_json_member(parent->object, key);
    int bytes = snprintf(out->name, sizeof out->name, "%s: %s", parent->name, key);
    if (bytes < 0 || (size_t)bytes >= sizeof out->name) {
        return agl_fail(err, AGL_ERR_LIMIT, "%.80s...: path is too long", parent->name);
    }
    if (out->object != NULL && !json_object_is_type(out->object, json_type_object)) {
        return agl_fail(err, AGL_ERR_FORMAT, "%s is %.60s, an object expected", out->name,
                        json_object_to_json_string_ext(out->object, JSON_C_TO_STRING_PLAIN));
    }
    return AGL_OK;
}

static agl_status get_int(int64_t *out, const section *from, const char *key, int64_t max,
                          agl_error *err)
{
    return agl_json_get_int(out, from->object, key, 1, max, true, from->name, err);
}

/* A value that is built into the forward pass: absent is fine, anything else is not. */
static agl_status expect_int(const section *from, const char *key, int64_t expected, agl_error *err)
{
    int64_t value = expected;
    AGL_TRY(
        agl_json_get_int(&value, from->object, key, INT32_MIN, INT32_MAX, false, from->name, err));
    if (value != expected) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "%s: %s is %lld, %lld expected", from->name, key,
                        (long long)value, (long long)expected);
    }
    return AGL_OK;
}

static agl_status expect_bool(const section *from, const char *key, bool expected, agl_error *err)
{
    bool value = expected;
    AGL_TRY(agl_json_get_bool(&value, from->object, key, false, from->name, err));
    if (value != expected) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "%s: %s is %s, %s expected", from->name, key,
                        value ? "true" : "false", expected ? "true" : "false");
    }
    return AGL_OK;
}

static agl_status expect_string(const section *from, const char *key, const char *expected,
                                agl_error *err)
{
    const char *value = expected;
    AGL_TRY(agl_json_get_string(&value, from->object, key, false, from->name, err));
    if (strcmp(value, expected) != 0) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "%s: %s is \"%.60s\", \"%s\" expected",
                        from->name, key, value, expected);
    }
    return AGL_OK;
}

static agl_status divides(const section *from, const char *key, int64_t value, const char *of_key,
                          int64_t of, agl_error *err)
{
    if (of % value == 0) return AGL_OK;
    return agl_fail(err, AGL_ERR_ARGUMENT, "%s: %s is %lld, a divisor of %s (%lld) expected",
                    from->name, key, (long long)value, of_key, (long long)of);
}

static agl_status check_head_dim(const section *from, int64_t head_dim, agl_error *err)
{
    if (head_dim % 4 == 0 && head_dim <= HEAD_DIM_MAX) return AGL_OK;
    return agl_fail(err, AGL_ERR_UNSUPPORTED,
                    "%s: heads have %lld dimensions, a multiple of 4 up to %d expected", from->name,
                    (long long)head_dim, HEAD_DIM_MAX);
}

/* ---- architecture, number format, quantisation ------------------------------ */

static agl_status read_architecture(agl_config *out, const section *root, agl_error *err)
{
    struct json_object *list = agl_json_member(root->object, "architectures");
    const char *name = NULL;
    if (json_object_is_type(list, json_type_array) && json_object_array_length(list) > 0) {
        name = json_object_get_string(json_object_array_get_idx(list, 0));
    }
    if (name == NULL) {
        return agl_fail(err, AGL_ERR_NOT_FOUND, "%s: architectures is missing, [\"%s\"] expected",
                        root->name, ARCHITECTURE);
    }
    if (strcmp(name, ARCHITECTURE) != 0) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "%s: architectures is [\"%.60s\"], [\"%s\"] expected", root->name, name,
                        ARCHITECTURE);
    }
    snprintf(out->architecture, sizeof out->architecture, "%s", name);
    return AGL_OK;
}

static agl_status read_dtype(agl_config *out, const section *root, const section *text,
                             agl_error *err)
{
    static const struct { const char *name; agl_dtype dtype; } NAMES[] = {
        {"bfloat16", AGL_BF16}, {"float16", AGL_F16}, {"float32", AGL_F32},
    };
    static const char *const KEYS[] = {"dtype", "torch_dtype"};
    const section *places[] = {root, text};
    for (size_t i = 0; i < 4; i++) {
        const section *place = places[i / 2];
        const char *key = KEYS[i % 2];
        const char *name = NULL;
        AGL_TRY(agl_json_get_string(&name, place->object, key, false, place->name, err));
        if (name == NULL) continue;
        for (size_t n = 0; n < AGL_COUNT(NAMES); n++) {
            if (strcmp(name, NAMES[n].name) == 0) {
                out->dtype = NAMES[n].dtype;
                return AGL_OK;
            }
        }
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "%s: %s is \"%.60s\", bfloat16, float16 or float32 expected", place->name,
                        key, name);
    }
    return agl_fail(err, AGL_ERR_NOT_FOUND,
                    "%s: dtype is missing, bfloat16, float16 or float32 expected", root->name);
}

static agl_status read_quantization(agl_config *out, const section *root, const section *text,
                                    agl_error *err)
{
    section quantization;
    AGL_TRY(subsection(&quantization, root, "quantization_config", err));
    if (quantization.object == NULL)
        AGL_TRY(subsection(&quantization, text, "quantization_config", err));
    if (quantization.object == NULL) return AGL_OK;
    const char *method = NULL;
    AGL_TRY(agl_json_get_string(&method, quantization.object, "quant_method", true,
                                quantization.name, err));
    snprintf(out->quant_method, sizeof out->quant_method, "%s", method);
    return AGL_OK;
}

/* ---- text ------------------------------------------------------------------- */

/* A number that stands in rope_parameters (new layout), beside it in text_config (old
 * layout), or in both with the same value. */
static agl_status get_either(double *out, const section *joined, const section *beside,
                             const char *key, double min, double max, agl_error *err)
{
    double first = NAN, second = NAN;
    AGL_TRY(agl_json_get_double(&first, joined->object, key, min, max, false, joined->name, err));
    AGL_TRY(agl_json_get_double(&second, beside->object, key, min, max, false, beside->name, err));
    if (isnan(first) && isnan(second)) {
        return agl_fail(err, AGL_ERR_NOT_FOUND,
                        "%s: %s is missing, a number expected there or in rope_parameters",
                        beside->name, key);
    }
    if (!isnan(first) && !isnan(second) && first != second) {
        return agl_fail(err, AGL_ERR_FORMAT, "%s: %s is %g, %g expected as in rope_parameters",
                        beside->name, key, second, first);
    }
    *out = isnan(first) ? second : first;
    return AGL_OK;
}

static agl_status read_rope_type(const section *rope, agl_error *err)
{
    AGL_TRY(expect_string(rope, "rope_type", "default", err));
    return expect_string(rope, "type", "default", err);
}

static agl_status read_mrope_section(agl_text_config *text, const section *rope, agl_error *err)
{
    struct json_object *list = agl_json_member(rope->object, "mrope_section");
    bool valid = json_object_is_type(list, json_type_array) && json_object_array_length(list) == 3;
    int64_t sum = 0;
    for (size_t axis = 0; valid && axis < 3; axis++) {
        struct json_object *entry = json_object_array_get_idx(list, axis);
        int64_t pairs =
            json_object_is_type(entry, json_type_int) ? json_object_get_int64(entry) : -1;
        valid = pairs >= 0 && pairs <= AGL_ROPE_PAIRS_MAX;
        text->mrope_section[axis] = (int32_t)pairs;
        sum += pairs;
    }
    if (valid && sum == text->rope_pairs) return AGL_OK;
    return agl_fail(err, list == NULL ? AGL_ERR_NOT_FOUND : AGL_ERR_FORMAT,
                    "%s: mrope_section is %.60s, three counts with sum %lld expected", rope->name,
                    list == NULL ? "missing"
                                 : json_object_to_json_string_ext(list, JSON_C_TO_STRING_PLAIN),
                    (long long)text->rope_pairs);
}

static agl_status read_rope(agl_text_config *text, const section *from, agl_error *err)
{
    section joined, scaling;
    double factor;
    AGL_TRY(subsection(&joined, from, "rope_parameters", err));
    AGL_TRY(subsection(&scaling, from, "rope_scaling", err));
    AGL_TRY(get_either(&text->rope_theta, &joined, from, "rope_theta", 1.0, 1e12, err));
    AGL_TRY(get_either(&factor, &joined, from, "partial_rotary_factor", 0.0, 1.0, err));
    AGL_TRY(read_rope_type(&joined, err));
    AGL_TRY(read_rope_type(&scaling, err));

    int64_t rotary = (int64_t)((double)text->head_dim * factor);
    text->rope_pairs = rotary / 2;
    if (rotary % 2 != 0 || text->rope_pairs < 1 || text->rope_pairs > AGL_ROPE_PAIRS_MAX) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "%s: partial_rotary_factor is %g, an even number of 2 to %d rotated "
                        "dimensions of %lld expected",
                        from->name, factor, 2 * AGL_ROPE_PAIRS_MAX, (long long)text->head_dim);
    }
    const section *holder =
        agl_json_member(joined.object, "mrope_section") != NULL ? &joined : &scaling;
    AGL_TRY(read_mrope_section(text, holder, err));
    if (holder == &joined && agl_json_member(scaling.object, "mrope_section") != NULL) {
        agl_text_config beside = *text;
        AGL_TRY(read_mrope_section(&beside, &scaling, err));
        if (memcmp(beside.mrope_section, text->mrope_section, sizeof text->mrope_section) != 0) {
            return agl_fail(
                err, AGL_ERR_FORMAT,
                "%s: mrope_section is [%d,%d,%d], [%d,%d,%d] expected as in rope_parameters",
                scaling.name, beside.mrope_section[0], beside.mrope_section[1],
                beside.mrope_section[2], text->mrope_section[0], text->mrope_section[1],
                text->mrope_section[2]);
        }
    }
    return AGL_OK;
}

static agl_status read_text(agl_config *out, const section *root, const section *from,
                            agl_error *err)
{
    agl_text_config *text = &out->text;
    double eps;
    AGL_TRY(get_int(&text->hidden, from, "hidden_size", SIDE_MAX, err));
    AGL_TRY(get_int(&text->layers, from, "num_hidden_layers", LAYERS_MAX, err));
    AGL_TRY(get_int(&text->heads, from, "num_attention_heads", SIDE_MAX, err));
    AGL_TRY(get_int(&text->kv_heads, from, "num_key_value_heads", SIDE_MAX, err));
    AGL_TRY(get_int(&text->intermediate, from, "intermediate_size", SIDE_MAX, err));
    AGL_TRY(get_int(&text->vocab, from, "vocab_size", SIDE_MAX, err));
    AGL_TRY(get_int(&text->max_positions, from, "max_position_embeddings", SIDE_MAX, err));
    AGL_TRY(divides(from, "num_key_value_heads", text->kv_heads, "num_attention_heads", text->heads,
                    err));
    if (agl_json_member(from->object, "head_dim") != NULL) {
        AGL_TRY(get_int(&text->head_dim, from, "head_dim", SIDE_MAX, err));
    } else {
        AGL_TRY(
            divides(from, "num_attention_heads", text->heads, "hidden_size", text->hidden, err));
        text->head_dim = text->hidden / text->heads;
    }
    AGL_TRY(check_head_dim(from, text->head_dim, err));
    AGL_TRY(
        agl_json_get_double(&eps, from->object, "rms_norm_eps", 0.0, 1.0, true, from->name, err));
    text->rms_eps = (float)eps;
    AGL_TRY(expect_string(from, "hidden_act", "silu", err));
    /* The reference builds q, k, v with a bias and o without, whatever the flag says. */
    AGL_TRY(read_rope(text, from, err));

    /* Saves from before transformers 5 put the flag into text_config. */
    bool outer = false, inner = false;
    AGL_TRY(agl_json_get_bool(&outer, root->object, "tie_word_embeddings", false, root->name, err));
    AGL_TRY(agl_json_get_bool(&inner, from->object, "tie_word_embeddings", false, from->name, err));
    text->tie_embeddings = outer || inner;
    return AGL_OK;
}

/* ---- vision ----------------------------------------------------------------- */

static agl_status read_vision(agl_config *out, const section *from, agl_error *err)
{
    agl_vision_config *vision = &out->vision;
    int64_t image_size;
    double eps, theta = VISION_THETA;
    AGL_TRY(get_int(&vision->hidden, from, "hidden_size", SIDE_MAX, err));
    AGL_TRY(get_int(&vision->depth, from, "depth", LAYERS_MAX, err));
    AGL_TRY(get_int(&vision->heads, from, "num_heads", SIDE_MAX, err));
    AGL_TRY(get_int(&vision->out_hidden, from, "out_hidden_size", SIDE_MAX, err));
    AGL_TRY(get_int(&vision->merger, from, "intermediate_size", SIDE_MAX, err));
    AGL_TRY(get_int(&vision->patch, from, "patch_size", 256, err));
    AGL_TRY(get_int(&vision->merge, from, "spatial_merge_size", 16, err));
    AGL_TRY(get_int(&vision->frames, from, "temporal_patch_size", 16, err));
    AGL_TRY(get_int(&image_size, from, "image_size", 65536, err));
    vision->channels = 3;
    AGL_TRY(expect_int(from, "in_channels", vision->channels, err));
    AGL_TRY(divides(from, "num_heads", vision->heads, "hidden_size", vision->hidden, err));
    vision->head_dim = vision->hidden / vision->heads;
    AGL_TRY(check_head_dim(from, vision->head_dim, err));
    AGL_TRY(
        agl_json_get_double(&eps, from->object, "rms_norm_eps", 0.0, 1.0, true, from->name, err));
    vision->rms_eps = (float)eps;
    /* The reference gives the blocks' MLP the output's width; intermediate_size is the merger's. */
    vision->mlp = vision->out_hidden;
    vision->position_side = image_size / vision->patch;
    if (vision->position_side < 1) {
        return agl_fail(err, AGL_ERR_ARGUMENT,
                        "%s: image_size is %lld, at least patch_size (%lld) expected", from->name,
                        (long long)image_size, (long long)vision->patch);
    }
    if (vision->out_hidden != out->text.hidden) {
        return agl_fail(err, AGL_ERR_FORMAT,
                        "%s: out_hidden_size is %lld, the text's hidden_size %lld expected",
                        from->name, (long long)vision->out_hidden, (long long)out->text.hidden);
    }
    AGL_TRY(expect_string(from, "hidden_act", "silu", err));
    AGL_TRY(expect_bool(from, "attention_bias", false, err));

    section rope;
    AGL_TRY(subsection(&rope, from, "rope_parameters", err));
    AGL_TRY(
        agl_json_get_double(&theta, rope.object, "rope_theta", 1.0, 1e12, false, rope.name, err));
    if (theta != VISION_THETA) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "%s: rope_theta is %g, %g expected", rope.name,
                        theta, VISION_THETA);
    }
    return AGL_OK;
}

static agl_status read_token(int32_t *out, const agl_config *config, const section *root,
                             const char *key, agl_error *err)
{
    int64_t token;
    AGL_TRY(agl_json_get_int(&token, root->object, key, 0, config->text.vocab - 1, true, root->name,
                             err));
    *out = (int32_t)token;
    return AGL_OK;
}

/* ---- generation ------------------------------------------------------------- */

/* eos_token_id, a number or a list; leaves *out alone when absent. */
static agl_status read_eos(agl_config *out, const section *from, agl_error *err)
{
    struct json_object *value = agl_json_member(from->object, "eos_token_id");
    if (value == NULL) return AGL_OK;
    bool is_list = json_object_is_type(value, json_type_array);
    size_t count = is_list ? json_object_array_length(value) : 1;
    if (count < 1 || count > AGL_EOS_MAX) {
        return agl_fail(err, AGL_ERR_LIMIT, "%s: eos_token_id has %zu entries, 1 to %d expected",
                        from->name, count, AGL_EOS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        struct json_object *entry = is_list ? json_object_array_get_idx(value, i) : value;
        int64_t token =
            json_object_is_type(entry, json_type_int) ? json_object_get_int64(entry) : -1;
        if (token < 0 || token >= out->text.vocab) {
            return agl_fail(err, AGL_ERR_FORMAT,
                            "%s: eos_token_id is %.60s, token ids below %lld expected", from->name,
                            json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN),
                            (long long)out->text.vocab);
        }
        out->eos[i] = (int32_t)token;
    }
    out->eos_count = (int)count;
    return AGL_OK;
}

static agl_status read_float(float *out, const section *from, const char *key, double min,
                             double max, agl_error *err)
{
    double value = (double)*out;
    AGL_TRY(agl_json_get_double(&value, from->object, key, min, max, false, from->name, err));
    *out = (float)value;
    return AGL_OK;
}

static agl_status read_generation(agl_config *out, const section *root, const section *text,
                                  const section *generation, agl_error *err)
{
    int64_t top_k = -1, tokens = -1;
    out->temperature = out->top_p = out->min_p = out->repetition_penalty = NAN;
    AGL_TRY(read_float(&out->temperature, generation, "temperature", 0.0, 100.0, err));
    AGL_TRY(read_float(&out->top_p, generation, "top_p", 0.0, 1.0, err));
    AGL_TRY(read_float(&out->min_p, generation, "min_p", 0.0, 1.0, err));
    AGL_TRY(read_float(&out->repetition_penalty, generation, "repetition_penalty", 1e-3, 1e3, err));
    AGL_TRY(agl_json_get_int(&top_k, generation->object, "top_k", -1, INT32_MAX, false,
                             generation->name, err));
    AGL_TRY(agl_json_get_int(&tokens, generation->object, "max_new_tokens", 1, INT32_MAX, false,
                             generation->name, err));
    out->top_k = (int32_t)top_k;
    out->max_new_tokens = (int32_t)tokens;

    const section *places[] = {generation, text, root};
    for (size_t i = 0; i < AGL_COUNT(places) && out->eos_count == 0; i++) {
        AGL_TRY(read_eos(out, places[i], err));
    }
    if (out->eos_count > 0) return AGL_OK;
    return agl_fail(err, AGL_ERR_NOT_FOUND,
                    "%s: eos_token_id is missing, token ids expected there or in %s",
                    generation->name, root->name);
}

/* ---- image processor -------------------------------------------------------- */

static agl_status read_three(float out[3], const section *from, const char *key, double min,
                             agl_error *err)
{
    struct json_object *list = agl_json_member(from->object, key);
    bool valid = json_object_is_type(list, json_type_array) && json_object_array_length(list) == 3;
    for (size_t i = 0; valid && i < 3; i++) {
        struct json_object *entry = json_object_array_get_idx(list, i);
        double value = json_object_get_double(entry);
        valid = (json_object_is_type(entry, json_type_double) ||
                 json_object_is_type(entry, json_type_int)) &&
                value >= min && value <= 1e3;
        out[i] = (float)value;
    }
    if (valid) return AGL_OK;
    return agl_fail(err, list == NULL ? AGL_ERR_NOT_FOUND : AGL_ERR_FORMAT,
                    "%s: %s is %.60s, three numbers expected", from->name, key,
                    list == NULL ? "missing"
                                 : json_object_to_json_string_ext(list, JSON_C_TO_STRING_PLAIN));
}

static agl_status read_image(agl_config *out, const section *from, agl_error *err)
{
    agl_image_config *image = &out->image;
    section size;
    AGL_TRY(subsection(&size, from, "size", err));
    if (size.object == NULL) {
        /* The default of the reference's Glm4v processor class: 112 * 112 to 28 * 28 * 15000. */
        image->pixels_min = 12544;
        image->pixels_max = 11760000;
    } else {
        AGL_TRY(get_int(&image->pixels_min, &size, "shortest_edge", AREA_MAX, err));
        AGL_TRY(get_int(&image->pixels_max, &size, "longest_edge", AREA_MAX, err));
    }
    if (image->pixels_min > image->pixels_max) {
        return agl_fail(err, AGL_ERR_FORMAT,
                        "%s: shortest_edge is %lld, at most longest_edge (%lld) expected",
                        size.name, (long long)image->pixels_min, (long long)image->pixels_max);
    }
    AGL_TRY(read_three(image->mean, from, "image_mean", -1e3, err));
    AGL_TRY(read_three(image->std, from, "image_std", 1e-6, err));
    image->do_resize = true;
    AGL_TRY(expect_bool(from, "do_resize", true, err));
    AGL_TRY(expect_bool(from, "do_rescale", true, err));
    AGL_TRY(expect_bool(from, "do_normalize", true, err));
    AGL_TRY(expect_int(from, "resample", 3, err)); /* PIL's number of bicubic */
    AGL_TRY(expect_int(from, "patch_size", out->vision.patch, err));
    AGL_TRY(expect_int(from, "merge_size", out->vision.merge, err));
    AGL_TRY(expect_int(from, "temporal_patch_size", out->vision.frames, err));
    double factor = 1.0 / 255.0;
    AGL_TRY(agl_json_get_double(&factor, from->object, "rescale_factor", 0.0, 1e3, false,
                                from->name, err));
    if (fabs(factor * 255.0 - 1.0) > 1e-6) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "%s: rescale_factor is %g, 1/255 expected",
                        from->name, factor);
    }
    return AGL_OK;
}

/* preprocessor_config.json, or the image_processor of transformers 5's processor_config.json. */
static agl_status load_image(agl_config *out, const char *dir, agl_error *err)
{
    section file, inner;
    struct json_object *owner = NULL;
    AGL_TRY(file_name(&file, dir, "preprocessor_config.json", err));
    agl_status status = agl_json_load(&owner, file.name, FILE_BYTES_MAX, err);
    if (status == AGL_OK) {
        file.object = owner;
        status = read_image(out, &file, err);
    } else if (status == AGL_ERR_NOT_FOUND) {
        AGL_TRY(file_name(&file, dir, "processor_config.json", err));
        agl_error second;
        if (agl_json_load(&owner, file.name, FILE_BYTES_MAX, &second) != AGL_OK) return status;
        file.object = owner;
        status = subsection(&inner, &file, "image_processor", err);
        if (status == AGL_OK && inner.object == NULL) {
            status = agl_fail(err, AGL_ERR_NOT_FOUND,
                              "%s: image_processor is missing, an object expected", file.name);
        }
        if (status == AGL_OK) status = read_image(out, &inner, err);
    }
    json_object_put(owner);
    return status;
}

/* ---- all together ----------------------------------------------------------- */

static agl_status read_config(agl_config *out, const section *root, const section *generation,
                              agl_error *err)
{
    section text, vision;
    AGL_TRY(read_architecture(out, root, err));
    AGL_TRY(subsection(&text, root, "text_config", err));
    AGL_TRY(subsection(&vision, root, "vision_config", err));
    if (text.object == NULL) {
        return agl_fail(err, AGL_ERR_NOT_FOUND, "%s: text_config is missing, an object expected",
                        root->name);
    }
    AGL_TRY(read_dtype(out, root, &text, err));
    AGL_TRY(read_quantization(out, root, &text, err));
    AGL_TRY(read_text(out, root, &text, err));
    AGL_TRY(read_generation(out, root, &text, generation, err));
    out->image_token = out->image_start_token = out->image_end_token = -1;
    out->has_vision = vision.object != NULL;
    if (!out->has_vision) return AGL_OK;
    AGL_TRY(read_vision(out, &vision, err));
    AGL_TRY(read_token(&out->image_token, out, root, "image_token_id", err));
    AGL_TRY(read_token(&out->image_start_token, out, root, "image_start_token_id", err));
    return read_token(&out->image_end_token, out, root, "image_end_token_id", err);
}

agl_status agl_config_load(agl_config *out, const char *dir, agl_error *err)
{
    section root, generation;
    memset(out, 0, sizeof *out);
    AGL_TRY(file_name(&root, dir, "config.json", err));
    AGL_TRY(file_name(&generation, dir, "generation_config.json", err));
    AGL_TRY(agl_json_load(&root.object, root.name, FILE_BYTES_MAX, err));

    agl_error absent;
    agl_status status = agl_json_load(&generation.object, generation.name, FILE_BYTES_MAX, &absent);
    if (status == AGL_ERR_NOT_FOUND) {
        status = AGL_OK; /* config.json must then name the stop ids itself */
    } else if (status != AGL_OK) {
        agl_fail(err, status, "%s", absent.message);
    }
    if (status == AGL_OK) status = read_config(out, &root, &generation, err);
    if (status == AGL_OK && out->has_vision) status = load_image(out, dir, err);
    json_object_put(generation.object);
    json_object_put(root.object);
    return status;
}
