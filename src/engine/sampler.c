/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "base/utf8.h"

#define STOP_STRINGS_MAX 64
#define STOP_BYTES_MAX 4096
#define STOP_TOKENS_MAX 1024
#define BAD_WORDS_MAX 1024
#define BAD_WORD_BYTES_MAX 4096
#define TEMPERATURE_MIN 1e-5f       /* below: arg-max, as vLLM does */

static float or_default(float value, float fallback) { return isnan(value) ? fallback : value; }

static agl_status check_ranges(const agl_sampling_rules *rules, agl_error *err)
{
    const struct {
        const char *name;
        float value, min, max;
        bool open_min;          /* the minimum itself is refused */
    } fields[] = {
        {"temperature", rules->temperature, 0.0f, 1e4f, false},
        {"top_p", rules->top_p, 0.0f, 1.0f, true},
        {"min_p", rules->min_p, 0.0f, 1.0f, false},
        {"repetition_penalty", rules->repetition_penalty, 0.0f, 1e4f, true},
        {"frequency_penalty", rules->frequency_penalty, -2.0f, 2.0f, false},
        {"presence_penalty", rules->presence_penalty, -2.0f, 2.0f, false},
    };
    for (size_t i = 0; i < AGL_COUNT(fields); i++) {
        float value = fields[i].value;
        if (value >= fields[i].min && value <= fields[i].max &&
            !(fields[i].open_min && value == fields[i].min)) continue;
        return agl_fail(err, AGL_ERR_ARGUMENT, "%s must be in %s%g, %g], got %g", fields[i].name,
                        fields[i].open_min ? "(" : "[", (double)fields[i].min,
                        (double)fields[i].max, (double)value);
    }
    if (rules->top_k < 0) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "top_k must be -1, 0 (off) or at least 1, got %d",
                        rules->top_k);
    }
    return AGL_OK;
}

static agl_status check_counts(const agl_sampling_rules *rules, const agl_sampling_context *context,
                               agl_error *err)
{
    if (rules->n < 1 || rules->n > context->n_max) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "n must be in [1, %u], got %u", context->n_max,
                        rules->n);
    }
    const struct {
        const char *name;
        int32_t value;
    } fields[] = {{"logprobs", rules->logprobs}, {"prompt_logprobs", rules->prompt_logprobs}};
    for (size_t i = 0; i < AGL_COUNT(fields); i++) {
        if (fields[i].value >= -1 && (int64_t)fields[i].value <= context->logprobs_max) continue;
        return agl_fail(err, AGL_ERR_ARGUMENT, "%s must be in [0, %u], got %d", fields[i].name,
                        context->logprobs_max, fields[i].value);
    }
    return AGL_OK;
}

static agl_status check_token(int32_t token, const char *name, const agl_sampling_context *context,
                              agl_error *err)
{
    if (token >= 0 && (uint32_t)token < context->vocab) return AGL_OK;
    return agl_fail(err, AGL_ERR_ARGUMENT, "%s: token id %d is out of range [0, %u)", name, token,
                    context->vocab);
}

static agl_status no_memory(agl_error *err)
{
    return agl_fail(err, AGL_ERR_MEMORY, "no memory for the request's sampling fields");
}

static agl_status copy_stop_tokens(agl_sampling_rules *rules, agl_arena *arena,
                                   const agl_sampling *sampling,
                                   const agl_sampling_context *context, agl_error *err)
{
    if (sampling->stop_token_count > STOP_TOKENS_MAX) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "stop_token_ids holds %zu ids, at most %d are taken",
                        sampling->stop_token_count, STOP_TOKENS_MAX);
    }
    uint32_t eos_count = sampling->ignore_eos ? 0 : context->eos_count;
    int32_t *tokens = agl_arena_alloc(arena, (sampling->stop_token_count + eos_count) * sizeof *tokens);
    if (tokens == NULL) return no_memory(err);
    uint32_t count = 0;
    for (size_t i = 0; i < sampling->stop_token_count; i++) {
        AGL_TRY(check_token(sampling->stop_tokens[i], "stop_token_ids", context, err));
        tokens[count++] = sampling->stop_tokens[i];
    }
    for (uint32_t i = 0; i < eos_count; i++) tokens[count++] = context->eos[i];
    rules->stop_tokens = tokens;
    rules->stop_token_count = count;
    return AGL_OK;
}

static agl_status copy_stop_strings(agl_sampling_rules *rules, agl_arena *arena,
                                    const agl_sampling *sampling, agl_error *err)
{
    if (sampling->stop_count > STOP_STRINGS_MAX) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "stop holds %zu strings, at most %d are taken",
                        sampling->stop_count, STOP_STRINGS_MAX);
    }
    agl_stop_string *stops = agl_arena_alloc(arena, sampling->stop_count * sizeof *stops);
    if (stops == NULL) return no_memory(err);
    for (size_t i = 0; i < sampling->stop_count; i++) {
        size_t bytes = strlen(sampling->stop[i]);
        if (bytes == 0) return agl_fail(err, AGL_ERR_ARGUMENT, "stop[%zu] is an empty string", i);
        if (bytes > STOP_BYTES_MAX) {
            return agl_fail(err, AGL_ERR_ARGUMENT, "stop[%zu] has %zu bytes, at most %d are taken",
                            i, bytes, STOP_BYTES_MAX);
        }
        if (!agl_utf8_is_valid(sampling->stop[i], bytes)) {
            return agl_fail(err, AGL_ERR_ARGUMENT, "stop[%zu] is not valid UTF-8", i);
        }
        stops[i].text = agl_arena_string(arena, sampling->stop[i], bytes);
        stops[i].bytes = bytes;
        if (stops[i].text == NULL) return no_memory(err);
        if (bytes > rules->stop_bytes_max) rules->stop_bytes_max = bytes;
    }
    rules->stops = stops;
    rules->stop_count = (uint32_t)sampling->stop_count;
    return AGL_OK;
}

static agl_status copy_bias(agl_sampling_rules *rules, agl_arena *arena,
                            const agl_sampling *sampling, const agl_sampling_context *context,
                            agl_error *err)
{
    if (sampling->logit_bias_count > context->vocab) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "logit_bias holds %zu tokens, the vocabulary has %u",
                        sampling->logit_bias_count, context->vocab);
    }
    for (size_t i = 0; i < sampling->logit_bias_count; i++) {
        const agl_logit_bias *bias = &sampling->logit_bias[i];
        AGL_TRY(check_token(bias->token, "logit_bias", context, err));
        if (isnan(bias->bias)) {
            return agl_fail(err, AGL_ERR_ARGUMENT, "logit_bias of token %d is not a number",
                            bias->token);
        }
    }
    rules->bias_count = (uint32_t)sampling->logit_bias_count;
    rules->bias = agl_arena_copy(arena, sampling->logit_bias,
                                 sampling->logit_bias_count * sizeof *sampling->logit_bias);
    return rules->bias != NULL ? AGL_OK : no_memory(err);
}

static agl_status copy_allowed(agl_sampling_rules *rules, agl_arena *arena,
                               const agl_sampling *sampling, const agl_sampling_context *context,
                               agl_error *err)
{
    if (sampling->allowed_tokens == NULL) return AGL_OK;
    if (sampling->allowed_token_count == 0) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "allowed_token_ids is empty");
    }
    uint32_t *bits = agl_arena_alloc(arena, (context->vocab + 31) / 32 * sizeof *bits);
    if (bits == NULL) return no_memory(err);
    for (size_t i = 0; i < sampling->allowed_token_count; i++) {
        int32_t token = sampling->allowed_tokens[i];
        AGL_TRY(check_token(token, "allowed_token_ids", context, err));
        bits[token / 32] |= 1u << token % 32;
    }
    rules->allowed = bits;
    return AGL_OK;
}

/* A word may be written with and without a space before it; both forms are banned when
 * they differ in their first token only, as vLLM does. */
static agl_status copy_bad_words(agl_sampling_rules *rules, agl_arena *arena,
                                 const agl_sampling *sampling, const agl_sampling_context *context,
                                 agl_error *err)
{
    if (sampling->bad_word_count > BAD_WORDS_MAX) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "bad_words holds %zu words, at most %d are taken",
                        sampling->bad_word_count, BAD_WORDS_MAX);
    }
    agl_bad_word *words = agl_arena_alloc(arena, 2 * sampling->bad_word_count * sizeof *words);
    if (words == NULL) return no_memory(err);
    uint32_t count = 0;
    for (size_t i = 0; i < sampling->bad_word_count; i++) {
        const char *word = sampling->bad_words[i] + strspn(sampling->bad_words[i], " ");
        size_t bytes = strlen(word);
        if (bytes == 0 || bytes > BAD_WORD_BYTES_MAX) {
            return agl_fail(err, AGL_ERR_ARGUMENT, "bad_words[%zu] has %zu bytes, 1 to %d are taken",
                            i, bytes, BAD_WORD_BYTES_MAX);
        }
        uint32_t plain = count;
        for (int spaced = 0; spaced < 2; spaced++) {
            agl_text_run runs[] = {{" ", 1, false}, {word, bytes, false}};
            agl_tokens tokens = {0};
            agl_status status = agl_tokenizer_encode(&tokens, context->tokenizer,
                                                     runs + !spaced, 1 + (size_t)spaced, false, err);
            bool take = status == AGL_OK && tokens.count > 0 &&
                        (!spaced || count == plain ||
                         (tokens.count == words[plain].count &&
                          tokens.ids[0] != words[plain].tokens[0]));
            if (take) {
                words[count].tokens = agl_arena_copy(arena, tokens.ids,
                                                     tokens.count * sizeof *tokens.ids);
                words[count].count = (uint32_t)tokens.count;
                if (words[count++].tokens == NULL) status = no_memory(err);
            }
            agl_tokens_deinit(&tokens);
            if (status != AGL_OK) return status;
        }
    }
    rules->bad_words = words;
    rules->bad_word_count = count;
    return AGL_OK;
}

agl_status agl_sampling_resolve(agl_sampling_rules *out, agl_arena *arena,
                                const agl_sampling *sampling, const agl_sampling_context *context,
                                uint64_t seed, agl_error *err)
{
    const agl_sampling_defaults *defaults = &context->defaults;
    int32_t top_k = sampling->top_k == INT32_MIN ? defaults->top_k : sampling->top_k;
    *out = (agl_sampling_rules){
        .temperature = or_default(sampling->temperature, defaults->temperature),
        .top_p = or_default(sampling->top_p, defaults->top_p),
        .min_p = or_default(sampling->min_p, defaults->min_p),
        .repetition_penalty = or_default(sampling->repetition_penalty, defaults->repetition_penalty),
        .frequency_penalty = or_default(sampling->frequency_penalty, 0.0f),
        .presence_penalty = or_default(sampling->presence_penalty, 0.0f),
        .top_k = top_k == -1 ? 0 : top_k,
        .logprobs = sampling->logprobs,
        .prompt_logprobs = sampling->prompt_logprobs,
        .n = sampling->n,
        .max_tokens = sampling->max_tokens != 0 ? sampling->max_tokens : defaults->max_tokens,
        .min_tokens = sampling->min_tokens,
        .seed = sampling->has_seed ? sampling->seed : seed,
        .include_stop_str = sampling->include_stop_str,
        .keep_special_tokens = sampling->keep_special_tokens,
    };
    AGL_TRY(check_ranges(out, err));
    AGL_TRY(check_counts(out, context, err));
    if (out->temperature < TEMPERATURE_MIN) out->temperature = 0.0f;
    out->counted = out->repetition_penalty != 1.0f || out->frequency_penalty != 0.0f ||
                   out->presence_penalty != 0.0f;
    AGL_TRY(copy_stop_tokens(out, arena, sampling, context, err));
    AGL_TRY(copy_stop_strings(out, arena, sampling, err));
    AGL_TRY(copy_bias(out, arena, sampling, context, err));
    AGL_TRY(copy_allowed(out, arena, sampling, context, err));
    return copy_bad_words(out, arena, sampling, context, err);
}

bool agl_sampling_stops(const agl_sampling_rules *rules, int32_t token)
{
    for (uint32_t i = 0; i < rules->stop_token_count; i++) {
        if (rules->stop_tokens[i] == token) return true;
    }
    return false;
}

uint64_t agl_choice_seed(uint64_t seed, uint32_t choice)
{
    return choice == 0 ? seed : agl_random_mix(agl_random_mix(seed + 0x9e3779b97f4a7c15u) ^ choice);
}

double agl_random_uniform(uint64_t seed, uint64_t index)
{
    uint64_t bits = agl_random_mix(agl_random_mix(seed + 0x9e3779b97f4a7c15u) + (index + 1) * 0xd1342543de82ef95u);
    return (double)(bits >> 11) * 0x1p-53;
}

static uint32_t table_place(const agl_sampler *sampler, int32_t token)
{
    return (uint32_t)agl_random_mix((uint64_t)token) & sampler->table_mask;
}

static void count_token(agl_sampler *sampler, int32_t token, int32_t output)
{
    uint32_t place = table_place(sampler, token);
    while (sampler->table[place] != 0) {
        agl_token_count *count = &sampler->counts[sampler->table[place] - 1];
        if (count->token == token) {
            count->output_count += output;
            return;
        }
        place = (place + 1) & sampler->table_mask;
    }
    sampler->counts[sampler->count_count] = (agl_token_count){token, output};
    sampler->table[place] = ++sampler->count_count;
}

agl_status agl_sampler_init(agl_sampler *sampler, const agl_sampling_rules *rules, uint32_t choice,
                            const int32_t *prompt, size_t prompt_count, uint32_t vocab,
                            agl_error *err)
{
    *sampler = (agl_sampler){.rules = rules, .seed = agl_choice_seed(rules->seed, choice)};
    size_t bans = (rules->min_tokens > 0 ? rules->stop_token_count : 0) + rules->bad_word_count;
    size_t bias = bans > 0 ? rules->bias_count + bans : 0;
    bool prompt_counts = rules->repetition_penalty != 1.0f;
    size_t counts = 0, table = 0;
    if (rules->counted) {
        counts = rules->max_tokens + (prompt_counts ? prompt_count : 0);
        if (counts > vocab) counts = vocab;
        for (table = 16; table < 2 * counts;) table *= 2;
        sampler->table_mask = (uint32_t)table - 1;
    }
    /* calloc: what a short answer never reaches stays untouched. */
    sampler->memory = calloc(1, counts * sizeof *sampler->counts + bias * sizeof *sampler->bias +
                                    table * sizeof *sampler->table + 1);
    if (sampler->memory == NULL) {
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for the sampling state");
    }
    sampler->counts = sampler->memory;
    sampler->bias = (agl_logit_bias *)(sampler->counts + counts);
    sampler->table = (uint32_t *)(sampler->bias + bias);
    if (bias > 0 && rules->bias_count > 0) {
        memcpy(sampler->bias, rules->bias, rules->bias_count * sizeof *rules->bias);
    }
    for (size_t i = 0; prompt_counts && i < prompt_count; i++) count_token(sampler, prompt[i], 0);
    return AGL_OK;
}

void agl_sampler_deinit(agl_sampler *sampler)
{
    free(sampler->memory);
    *sampler = (agl_sampler){0};
}

static bool ends_with(const int32_t *output, uint32_t output_count, const agl_bad_word *word)
{
    uint32_t before = word->count - 1;
    return output_count >= before &&
           (before == 0 || memcmp(output + output_count - before, word->tokens,
                                  before * sizeof *output) == 0);
}

void agl_sampler_row(const agl_sampler *sampler, agl_sample_row *out, uint32_t index)
{
    const agl_sampling_rules *rules = sampler->rules;
    *out = (agl_sample_row){
        .temperature = rules->temperature,
        .top_p = rules->top_p,
        .min_p = rules->min_p,
        .repetition_penalty = rules->repetition_penalty,
        .frequency_penalty = rules->frequency_penalty,
        .presence_penalty = rules->presence_penalty,
        .top_k = rules->top_k,
        .logprobs = rules->logprobs,
        .random = rules->temperature > 0.0f ? agl_random_uniform(sampler->seed, index) : 0.0,
        .counts = sampler->counts,
        .bias = rules->bias,
        .bias_count = (int32_t)rules->bias_count,
        .allowed = rules->allowed,
    };
}

void agl_sampler_row_complete(agl_sampler *sampler, agl_sample_row *out, const int32_t *output,
                              uint32_t index)
{
    const agl_sampling_rules *rules = sampler->rules;
    out->count_count = (int32_t)sampler->count_count;
    bool early = index < rules->min_tokens;
    if (!early && rules->bad_word_count == 0) return;

    uint32_t count = rules->bias_count;
    for (uint32_t i = 0; early && i < rules->stop_token_count; i++) {
        sampler->bias[count++] = (agl_logit_bias){rules->stop_tokens[i], -INFINITY};
    }
    for (uint32_t i = 0; i < rules->bad_word_count; i++) {
        const agl_bad_word *word = &rules->bad_words[i];
        if (!ends_with(output, index, word)) continue;
        sampler->bias[count++] = (agl_logit_bias){word->tokens[word->count - 1], -INFINITY};
    }
    out->bias = sampler->bias;
    out->bias_count = (int32_t)count;
}

void agl_sampler_prefetch(const agl_sampler *sampler, int32_t token)
{
    if (sampler->rules->counted) __builtin_prefetch(&sampler->table[table_place(sampler, token)]);
}

void agl_sampler_accept(agl_sampler *sampler, int32_t token)
{
    if (sampler->rules->counted) count_token(sampler, token, 1);
}
