/* SPDX-License-Identifier: Apache-2.0 */
#include "server/sampling_fields.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS_MAX INT32_MAX
#define LIST_MAX 4096           /* ids in one list: stop ids, allowed ids, biases */
#define BAD_WORDS_MAX 128

static const agl_integer_range TOKEN_RANGE = {0, INT32_MAX};

static agl_status check_number(const agl_fields *fields, const char *key, bool ok, const char *rule,
                               double number)
{
    if (ok) return AGL_OK;
    return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, key, "%s must be %s, got %g.", key, rule, number);
}

static agl_status parse_numbers(agl_sampling *sampling, const agl_fields *fields)
{
    double temperature = NAN, top_p = NAN, min_p = NAN, repetition = NAN;
    double frequency = 0, presence = 0; /* generation_config has no say in these two */
    AGL_TRY(agl_field_number(fields, "temperature", &temperature));
    AGL_TRY(agl_field_number(fields, "top_p", &top_p));
    AGL_TRY(agl_field_number(fields, "min_p", &min_p));
    AGL_TRY(agl_field_number(fields, "repetition_penalty", &repetition));
    AGL_TRY(agl_field_number(fields, "frequency_penalty", &frequency));
    AGL_TRY(agl_field_number(fields, "presence_penalty", &presence));

    AGL_TRY(check_number(fields, "temperature", !(temperature < 0), "non-negative", temperature));
    AGL_TRY(check_number(fields, "temperature", !(temperature > 2), "in [0, 2]", temperature));
    AGL_TRY(check_number(fields, "top_p", !(top_p <= 0) && !(top_p > 1), "in (0, 1]", top_p));
    AGL_TRY(check_number(fields, "min_p", !(min_p < 0) && !(min_p > 1), "in [0, 1]", min_p));
    AGL_TRY(check_number(fields, "repetition_penalty", !(repetition <= 0), "greater than zero", repetition));
    AGL_TRY(check_number(fields, "repetition_penalty", !(repetition > 100), "at most 100", repetition));
    AGL_TRY(check_number(fields, "frequency_penalty", fabs(frequency) <= 2, "in [-2, 2]", frequency));
    AGL_TRY(check_number(fields, "presence_penalty", fabs(presence) <= 2, "in [-2, 2]", presence));

    sampling->temperature = (float)temperature;
    sampling->top_p = (float)top_p;
    sampling->min_p = (float)min_p;
    sampling->repetition_penalty = (float)repetition;
    sampling->frequency_penalty = (float)frequency;
    sampling->presence_penalty = (float)presence;
    return AGL_OK;
}

agl_status agl_max_tokens_refuse(const agl_fields *fields, const char *key, int64_t value)
{
    return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, key,
                        "max_tokens must be at least 1, got %lld.", (long long)value);
}

static agl_status parse_integers(agl_sampling *sampling, const agl_fields *fields)
{
    int64_t top_k = INT32_MIN, n = 1, max_tokens = 0, min_tokens = 0, seed = -1, best_of = 0;
    AGL_TRY(agl_field_integer(fields, "top_k", &top_k));
    if (agl_field_present(fields, "top_k") && (top_k < -1 || top_k > INT32_MAX)) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "top_k",
                            "top_k must be 0 (disable), or at least 1, got %lld.", (long long)top_k);
    }
    AGL_TRY(agl_field_integer(fields, "n", &n));
    if (n < 1) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "n", "n must be at least 1, got %lld.", (long long)n);
    }
    if (n > AGL_CHOICES_MAX) {
        return agl_api_fail(fields->err, AGL_ERR_LIMIT, "n", "n must be at most %d, got %lld.",
                            AGL_CHOICES_MAX, (long long)n);
    }
    AGL_TRY(agl_field_integer(fields, "best_of", &best_of));
    if (best_of > 0 && best_of != n) {
        return agl_api_fail(fields->err, AGL_ERR_UNSUPPORTED, "best_of",
                            "best_of is not supported unless it equals n=%lld, got %lld.", (long long)n,
                            (long long)best_of);
    }
    AGL_TRY(agl_field_integer(fields, "max_tokens", &max_tokens));
    if (max_tokens < 0) return agl_max_tokens_refuse(fields, "max_tokens", max_tokens);
    AGL_TRY(agl_field_integer(fields, "min_tokens", &min_tokens));
    if (min_tokens < 0 || min_tokens > TOKENS_MAX) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "min_tokens",
                            "min_tokens must be greater than or equal to 0, got %lld.", (long long)min_tokens);
    }
    AGL_TRY(agl_field_integer(fields, "seed", &seed));
    sampling->top_k = (int32_t)top_k;
    sampling->n = (uint32_t)n;
    sampling->max_tokens = max_tokens > TOKENS_MAX ? TOKENS_MAX : (uint32_t)max_tokens;
    sampling->min_tokens = (uint32_t)min_tokens;
    sampling->has_seed = seed != -1 && agl_field_present(fields, "seed"); /* vLLM: -1 is none */
    sampling->seed = (uint64_t)seed;
    return AGL_OK;
}

static agl_status parse_stops(agl_sampling *sampling, const agl_fields *fields)
{
    AGL_TRY(agl_field_texts(fields, "stop", true, AGL_STOP_MAX, &sampling->stop, &sampling->stop_count));
    for (size_t i = 0; i < sampling->stop_count; i++) {
        if (sampling->stop[i][0] == '\0') {
            return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "stop", "stop cannot contain an empty string.");
        }
    }
    AGL_TRY(agl_field_integers(fields, "stop_token_ids", LIST_MAX, TOKEN_RANGE, &sampling->stop_tokens,
                               &sampling->stop_token_count));
    AGL_TRY(agl_field_bool(fields, "include_stop_str_in_output", &sampling->include_stop_str));
    AGL_TRY(agl_field_bool(fields, "ignore_eos", &sampling->ignore_eos));
    bool skip_special = true;
    AGL_TRY(agl_field_bool(fields, "skip_special_tokens", &skip_special));
    sampling->keep_special_tokens = !skip_special;
    return AGL_OK;
}

/* {"1234": -100, ...}: keys are token ids as text. */
static agl_status parse_logit_bias(agl_sampling *sampling, const agl_fields *fields)
{
    struct json_object *object = NULL;
    AGL_TRY(agl_field_object(fields, "logit_bias", &object));
    if (object == NULL) return AGL_OK;
    size_t count = (size_t)json_object_object_length(object);
    if (count > LIST_MAX) {
        return agl_api_fail(fields->err, AGL_ERR_LIMIT, "logit_bias",
                            "logit_bias: at most %d tokens are allowed, got %zu", LIST_MAX, count);
    }
    agl_logit_bias *biases = agl_arena_alloc(fields->arena, (count + 1) * sizeof *biases);
    if (biases == NULL) return agl_api_fail(fields->err, AGL_ERR_MEMORY, NULL, "no memory for the request");

    struct json_object_iterator it = json_object_iter_begin(object);
    struct json_object_iterator end = json_object_iter_end(object);
    size_t i = 0;
    for (; !json_object_iter_equal(&it, &end); json_object_iter_next(&it)) {
        const char *key = json_object_iter_peek_name(&it);
        struct json_object *value = json_object_iter_peek_value(&it);
        char *rest = NULL;
        long long token = strtoll(key, &rest, 10);
        if (key[0] < '0' || key[0] > '9' || *rest != '\0' || token > INT32_MAX) {
            return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "logit_bias",
                                "logit_bias: key '%.40s' is not a token id", key);
        }
        bool is_number = json_object_is_type(value, json_type_int) || json_object_is_type(value, json_type_double);
        double bias = is_number ? json_object_get_double(value) : NAN;
        if (!(bias >= -100 && bias <= 100)) {
            return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "logit_bias",
                                "logit_bias: the value of token %lld must be a number in [-100, 100]", token);
        }
        biases[i++] = (agl_logit_bias){.token = (int32_t)token, .bias = (float)bias};
    }
    sampling->logit_bias = biases;
    sampling->logit_bias_count = count;
    return AGL_OK;
}

static agl_status parse_allowed(agl_sampling *sampling, const agl_fields *fields)
{
    AGL_TRY(agl_field_integers(fields, "allowed_token_ids", LIST_MAX, TOKEN_RANGE, &sampling->allowed_tokens,
                               &sampling->allowed_token_count));
    if (sampling->allowed_tokens != NULL && sampling->allowed_token_count == 0) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "allowed_token_ids",
                            "allowed_token_ids is not None and empty!");
    }
    AGL_TRY(agl_field_texts(fields, "bad_words", false, BAD_WORDS_MAX, &sampling->bad_words,
                            &sampling->bad_word_count));
    for (size_t i = 0; i < sampling->bad_word_count; i++) {
        if (sampling->bad_words[i][0] == '\0') {
            return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "bad_words",
                                "bad_words cannot contain an empty string.");
        }
    }
    return AGL_OK;
}

static agl_status parse_prompt_logprobs(agl_sampling *sampling, const agl_fields *fields)
{
    if (!agl_field_present(fields, "prompt_logprobs")) return AGL_OK;
    int64_t count = 0;
    bool stream = false;
    AGL_TRY(agl_field_integer(fields, "prompt_logprobs", &count));
    AGL_TRY(agl_field_bool(fields, "stream", &stream));
    if (stream) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "prompt_logprobs",
                            "`prompt_logprobs` are not available when `stream=True`.");
    }
    if (count < 0 || count > INT32_MAX) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "prompt_logprobs",
                            "`prompt_logprobs` must be a positive value.");
    }
    sampling->prompt_logprobs = (int32_t)count;
    return AGL_OK;
}

agl_status agl_sampling_parse(agl_sampling *sampling, const agl_fields *fields)
{
    agl_sampling_init(sampling);
    AGL_TRY(parse_numbers(sampling, fields));
    AGL_TRY(parse_integers(sampling, fields));
    AGL_TRY(parse_stops(sampling, fields));
    AGL_TRY(parse_logit_bias(sampling, fields));
    AGL_TRY(parse_allowed(sampling, fields));
    return parse_prompt_logprobs(sampling, fields);
}

static agl_status refuse(const agl_fields *fields, const char *key, const char *what)
{
    return agl_api_fail(fields->err, AGL_ERR_UNSUPPORTED, key, "%s is not supported yet", what);
}

agl_status agl_unsupported_check(const agl_fields *fields)
{
    static const char *const REFUSED[] = {
        "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
        "json_schema", "grammar", "prompt_embeds", "audio", "repetition_detection",
        "thinking_token_budget", "logprob_token_ids",
    };
    for (size_t i = 0; i < AGL_COUNT(REFUSED); i++) {
        if (agl_field_present(fields, REFUSED[i])) return refuse(fields, REFUSED[i], REFUSED[i]);
    }
    bool beam_search = false;
    AGL_TRY(agl_field_bool(fields, "use_beam_search", &beam_search));
    if (beam_search) return refuse(fields, "use_beam_search", "use_beam_search");

    struct json_object *format = NULL;
    AGL_TRY(agl_field_object(fields, "response_format", &format));
    if (format == NULL) return AGL_OK;
    const char *type = NULL;
    agl_fields inner = {.object = format, .arena = fields->arena, .err = fields->err};
    AGL_TRY(agl_field_text(&inner, "type", &type));
    if (type != NULL && strcmp(type, "text") == 0) return AGL_OK;
    return agl_api_fail(fields->err, AGL_ERR_UNSUPPORTED, "response_format",
                        "response_format of type '%.40s' is not supported yet; only 'text' is",
                        type != NULL ? type : "");
}
