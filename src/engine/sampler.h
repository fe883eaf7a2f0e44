/* SPDX-License-Identifier: Apache-2.0
 *
 * sampler.h - from a request's sampling fields to the parameters of one row of logits.
 *
 * agl_sampling_rules are checked and copied once per request; an agl_sampler is what one
 * choice has seen. Randomness is a function of (seed, choice, token index) alone, so a
 * token never depends on which other sequences shared its step. */
#ifndef AGL_ENGINE_SAMPLER_H
#define AGL_ENGINE_SAMPLER_H

#include "backend/backend.h"
#include "base/arena.h"
#include "tokenizer/tokenizer.h"

typedef struct {
    const int32_t *tokens;
    uint32_t count;
} agl_bad_word;

typedef struct {
    const char *text;
    size_t bytes;
} agl_stop_string;

/* Checked fields of agl_sampling; arrays live in the request's arena. */
typedef struct {
    float temperature, top_p, min_p;
    float repetition_penalty, frequency_penalty, presence_penalty;
    int32_t top_k, logprobs, prompt_logprobs;
    uint32_t n, max_tokens, min_tokens;
    uint64_t seed;
    bool counted;                       /* a penalty needs token counts        */
    bool include_stop_str, keep_special_tokens;
    const int32_t *stop_tokens;         /* the request's, and EOS if it counts */
    uint32_t stop_token_count;
    const agl_logit_bias *bias;
    uint32_t bias_count;
    const uint32_t *allowed;            /* [vocab / 32] bits, or NULL          */
    const agl_bad_word *bad_words;
    uint32_t bad_word_count;
    const agl_stop_string *stops;
    uint32_t stop_count;
    size_t stop_bytes_max;
} agl_sampling_rules;

typedef struct {
    agl_sampling_defaults defaults;
    const int32_t *eos;
    uint32_t eos_count;
    uint32_t vocab;                     /* ids at or above are never chosen    */
    uint32_t logprobs_max, n_max;
    const agl_tokenizer *tokenizer;
} agl_sampling_context;

/* ARGUMENT names the field, its value and its range. max_tokens is left to the caller,
 * who knows the prompt; `seed` is taken if the request has none. Any thread. */
agl_status agl_sampling_resolve(agl_sampling_rules *out, agl_arena *arena,
                                const agl_sampling *sampling, const agl_sampling_context *context,
                                uint64_t seed, agl_error *err);

bool agl_sampling_stops(const agl_sampling_rules *rules, int32_t token);

/* Seed of choice number `choice`: a request with n choices and seed s equals n requests
 * with these seeds. Choice 0 has the request's own. */
uint64_t agl_choice_seed(uint64_t seed, uint32_t choice);

/* Uniform in [0, 1), the same on every machine. */
double agl_random_uniform(uint64_t seed, uint64_t index);

typedef struct {
    const agl_sampling_rules *rules;
    uint64_t seed;
    agl_token_count *counts;            /* [count_capacity] tokens seen           */
    uint32_t *table;                    /* [table_mask + 1]: 1 + index in counts, 0: free */
    uint32_t count_count, table_mask;
    agl_logit_bias *bias;               /* [rules->bias_count + bans]: room for a row's bans */
    void *memory;
} agl_sampler;

/* All memory the choice will ever need. `rules` is borrowed. */
agl_status agl_sampler_init(agl_sampler *sampler, const agl_sampling_rules *rules, uint32_t choice,
                            const int32_t *prompt, size_t prompt_count, uint32_t vocab,
                            agl_error *err);
void agl_sampler_deinit(agl_sampler *sampler);

/* Parameters for output token number `index`, as far as they do not depend on the tokens
 * before it. */
void agl_sampler_row(const agl_sampler *sampler, agl_sample_row *out, uint32_t index);

/* And the rest, now that output[0 .. index) is there and accepted. Valid until the next call. */
void agl_sampler_row_complete(agl_sampler *sampler, agl_sample_row *out, const int32_t *output,
                              uint32_t index);

/* `token` will be accepted soon: bring its count near. */
void agl_sampler_prefetch(const agl_sampler *sampler, int32_t token);

/* The token was chosen. */
void agl_sampler_accept(agl_sampler *sampler, int32_t token);

#endif
