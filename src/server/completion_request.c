/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <string.h>

#include "server/call.h"
#include "server/sampling_fields.h"

#define DEFAULT_MAX_TOKENS 16   /* OpenAI's and vLLM's, for this endpoint only */

static const agl_integer_range TOKEN_RANGE = {0, INT32_MAX};

static agl_status text_prompt(agl_prompt *prompt, struct json_object *value)
{
    prompt->text = json_object_get_string(value);
    prompt->text_bytes = (size_t)json_object_get_string_len(value);
    return AGL_OK;
}

static agl_status token_prompt(agl_prompt *prompt, const agl_fields *fields, struct json_object *array)
{
    size_t count = json_object_array_length(array);
    int32_t *tokens = agl_arena_alloc(fields->arena, (count + 1) * sizeof *tokens);
    if (tokens == NULL) return agl_api_fail(fields->err, AGL_ERR_MEMORY, NULL, "no memory for the request");
    AGL_TRY(agl_integers_read(array, fields, "prompt", TOKEN_RANGE, tokens));
    if (count == 0) return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "prompt", "prompt: it has no tokens");
    prompt->tokens = tokens;
    prompt->token_count = count;
    return AGL_OK;
}

static agl_status wrong_prompt(const agl_fields *fields)
{
    return agl_api_fail(fields->err, AGL_ERR_FORMAT, "prompt",
                        "prompt must be a string, array of strings, array of tokens, or array of token arrays");
}

/* A string, [strings], [token ids] or [[token ids]]. */
static agl_status parse_prompts(agl_call *call, const agl_fields *fields)
{
    struct json_object *value = agl_json_member(fields->object, "prompt");
    if (value == NULL) return agl_api_fail(fields->err, AGL_ERR_FORMAT, "prompt", "prompt: Field required");
    bool is_array = json_object_is_type(value, json_type_array);
    if (!is_array && !json_object_is_type(value, json_type_string)) return wrong_prompt(fields);
    if (is_array && json_object_array_length(value) == 0) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "prompt", "please provide at least one prompt");
    }
    struct json_object *first = is_array ? json_object_array_get_idx(value, 0) : NULL;
    bool is_tokens = is_array && (json_object_is_type(first, json_type_int) ||
                                  json_object_is_type(first, json_type_double));
    size_t count = !is_array || is_tokens ? 1 : json_object_array_length(value);
    if (count > AGL_PROMPTS_MAX) {
        return agl_api_fail(fields->err, AGL_ERR_LIMIT, "prompt", "prompt: at most %d prompts are allowed, got %zu",
                            AGL_PROMPTS_MAX, count);
    }
    agl_prompt *prompts = agl_arena_alloc(fields->arena, count * sizeof *prompts);
    if (prompts == NULL) return agl_api_fail(fields->err, AGL_ERR_MEMORY, NULL, "no memory for the request");
    call->prompts = prompts;
    call->prompt_count = count;
    if (!is_array) return text_prompt(&prompts[0], value);
    if (is_tokens) return token_prompt(&prompts[0], fields, value);
    for (size_t i = 0; i < count; i++) {
        struct json_object *item = json_object_array_get_idx(value, i);
        if (json_object_is_type(item, json_type_string)) {
            AGL_TRY(text_prompt(&prompts[i], item));
        } else if (json_object_is_type(item, json_type_array)) {
            AGL_TRY(token_prompt(&prompts[i], fields, item));
        } else {
            return wrong_prompt(fields);
        }
    }
    return AGL_OK;
}

/* logprobs: k. */
static agl_status parse_logprobs(agl_call *call, const agl_fields *fields)
{
    if (!agl_field_present(fields, "logprobs")) return AGL_OK;
    int64_t top = 0;
    AGL_TRY(agl_field_integer(fields, "logprobs", &top));
    if (top < 0 || top > INT32_MAX) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "logprobs", "`logprobs` must be a positive value.");
    }
    call->logprobs = true;
    call->options.sampling.logprobs = (int32_t)top;
    /* The echoed prompt carries logprobs too, in the same lists. */
    if (call->echo) call->options.sampling.prompt_logprobs = (int32_t)top;
    return AGL_OK;
}

agl_status agl_completion_request_parse(agl_call *call, agl_fields *fields,
                                        const agl_call_defaults *defaults)
{
    *call = (agl_call){.response_role = defaults->response_role};
    AGL_TRY(agl_call_common_parse(call, fields, defaults));
    call->split_reasoning = false; /* a text completion has no reasoning field */
    const char *suffix = NULL;
    AGL_TRY(agl_field_text(fields, "suffix", &suffix));
    if (suffix != NULL && suffix[0] != '\0') {
        return agl_api_fail(fields->err, AGL_ERR_UNSUPPORTED, "suffix", "suffix is not currently supported");
    }
    AGL_TRY(parse_prompts(call, fields));
    AGL_TRY(parse_logprobs(call, fields));
    bool add_special = true;
    AGL_TRY(agl_field_bool(fields, "add_special_tokens", &add_special));
    call->options.no_special_tokens = !add_special;

    agl_sampling *sampling = &call->options.sampling;
    if (call->prompt_count * sampling->n > AGL_CHOICES_MAX) {
        return agl_api_fail(fields->err, AGL_ERR_LIMIT, "n",
                            "prompts times n must be at most %d, got %zu times %u", AGL_CHOICES_MAX,
                            call->prompt_count, sampling->n);
    }
    if (sampling->max_tokens == 0) {
        /* An explicit 0 asks to score the prompt alone, which makes sense with echo only. */
        call->echo_only = agl_field_present(fields, "max_tokens");
        if (call->echo_only && !call->echo) return agl_max_tokens_refuse(fields, "max_tokens", 0);
        sampling->max_tokens = call->echo_only ? 1 : DEFAULT_MAX_TOKENS;
        if (sampling->min_tokens > sampling->max_tokens) sampling->min_tokens = sampling->max_tokens;
    }
    return AGL_OK;
}
