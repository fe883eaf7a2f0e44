/* SPDX-License-Identifier: Apache-2.0 */
#include "server/call.h"

#include <string.h>

#include "server/sampling_fields.h"

#define RESUME_TOKENS_MAX (1 << 20) /* the window is far below */

static agl_status parse_stream(agl_call *call, const agl_fields *fields, const agl_call_defaults *defaults)
{
    AGL_TRY(agl_field_bool(fields, "stream", &call->stream));
    struct json_object *object = NULL;
    AGL_TRY(agl_field_object(fields, "stream_options", &object));
    if (object != NULL && !call->stream) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "stream_options",
                            "Stream options can only be defined when `stream=True`.");
    }
    if (object != NULL) {
        agl_fields inner = {.object = object, .arena = fields->arena, .err = fields->err};
        AGL_TRY(agl_field_bool(&inner, "include_usage", &call->include_usage));
        AGL_TRY(agl_field_bool(&inner, "continuous_usage_stats", &call->continuous_usage));
        if (!call->include_usage) call->continuous_usage = false;
    }
    if (defaults->force_include_usage) call->include_usage = true;

    int64_t interval = defaults->stream_interval;
    AGL_TRY(agl_field_integer(fields, "stream_interval", &interval));
    if (interval < 1 || interval > INT32_MAX) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "stream_interval",
                            "stream_interval must be at least 1, got %lld.", (long long)interval);
    }
    call->stream_interval = (uint32_t)interval;
    return AGL_OK;
}

/* {"max_pixels": N} caps H*W; {"size": {"longest_edge": N}} counts the frame twice,
 * as the Hugging Face processor does with its temporal patch of 2. */
static agl_status parse_processor_kwargs(agl_call *call, const agl_fields *fields)
{
    struct json_object *object = NULL, *size = NULL;
    AGL_TRY(agl_field_object(fields, "mm_processor_kwargs", &object));
    if (object == NULL) return AGL_OK;
    int64_t max_pixels = 0, longest_edge = 0;
    agl_fields inner = {.object = object, .arena = fields->arena, .err = fields->err};
    AGL_TRY(agl_field_integer(&inner, "max_pixels", &max_pixels));
    AGL_TRY(agl_field_object(&inner, "size", &size));
    if (size != NULL) {
        inner.object = size;
        AGL_TRY(agl_field_integer(&inner, "longest_edge", &longest_edge));
    }
    if (max_pixels < 0 || longest_edge < 0 || longest_edge == 1) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "mm_processor_kwargs",
                            "mm_processor_kwargs: max_pixels and size.longest_edge must be positive");
    }
    call->options.max_pixels = (uint64_t)(max_pixels != 0 ? max_pixels : longest_edge / 2);
    return AGL_OK;
}

static agl_status parse_scheduling(agl_call *call, const agl_fields *fields)
{
    int64_t priority = 0, keep = 0, deadline_ms = 0;
    AGL_TRY(agl_field_integer(fields, "priority", &priority));
    if (priority < INT32_MIN || priority > INT32_MAX) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "priority", "priority is out of range: %lld",
                            (long long)priority);
    }
    call->options.priority = (int32_t)priority;

    AGL_TRY(agl_field_integer(fields, "deadline_ms", &deadline_ms));
    if (deadline_ms < 0 || deadline_ms > INT32_MAX) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "deadline_ms", "deadline_ms is out of range: %lld",
                            (long long)deadline_ms);
    }
    call->options.deadline_ms = (uint32_t)deadline_ms;

    AGL_TRY(agl_field_text(fields, "cache_salt", &call->options.cache_salt));
    if (call->options.cache_salt != NULL && call->options.cache_salt[0] == '\0') {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "cache_salt",
                            "Parameter 'cache_salt' must be a non-empty string if provided.");
    }
    AGL_TRY(agl_field_integer(fields, "truncate_prompt_tokens", &keep));
    if (agl_field_present(fields, "truncate_prompt_tokens") && (keep < -1 || keep == 0 || keep > INT32_MAX)) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "truncate_prompt_tokens",
                            "truncate_prompt_tokens must be an integer >= 1 or -1, got %lld.", (long long)keep);
    }
    /* -1: the whole window, which the engine clamps to. */
    call->options.truncate_prompt_tokens = keep == -1 ? INT32_MAX : (uint32_t)keep;
    return AGL_OK;
}

static agl_status parse_reasoning(agl_call *call, const agl_fields *fields, const agl_call_defaults *defaults)
{
    bool include = true;
    call->split_reasoning = defaults->split_reasoning;
    AGL_TRY(agl_field_bool(fields, "separate_reasoning", &call->split_reasoning));
    AGL_TRY(agl_field_bool(fields, "return_reasoning", &call->split_reasoning));
    AGL_TRY(agl_field_bool(fields, "include_reasoning", &include));
    call->hide_reasoning = !include;
    return AGL_OK;
}

agl_status agl_call_common_parse(agl_call *call, agl_fields *fields, const agl_call_defaults *defaults)
{
    AGL_TRY(agl_field_text(fields, "model", &call->model));
    AGL_TRY(agl_field_text(fields, "request_id", &call->request_id));
    AGL_TRY(agl_unsupported_check(fields));
    AGL_TRY(agl_sampling_parse(&call->options.sampling, fields));
    AGL_TRY(parse_stream(call, fields, defaults));
    AGL_TRY(agl_field_bool(fields, "echo", &call->echo));
    AGL_TRY(agl_field_bool(fields, "return_token_ids", &call->return_token_ids));
    AGL_TRY(agl_field_integers(fields, "resume_token_ids", RESUME_TOKENS_MAX, (agl_integer_range){0, INT32_MAX},
                               &call->options.resume_tokens, &call->options.resume_token_count));
    AGL_TRY(agl_field_bool(fields, "return_tokens_as_token_ids", &call->tokens_as_token_ids));
    AGL_TRY(parse_reasoning(call, fields, defaults));
    AGL_TRY(parse_processor_kwargs(call, fields));
    AGL_TRY(parse_scheduling(call, fields));

    const agl_sampling *sampling = &call->options.sampling;
    if (sampling->max_tokens != 0 && sampling->min_tokens > sampling->max_tokens) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "min_tokens",
                            "min_tokens must be less than or equal to max_tokens=%u, got %u.",
                            sampling->max_tokens, sampling->min_tokens);
    }
    return AGL_OK;
}
