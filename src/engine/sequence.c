/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/sequence.h"

#include <assert.h>
#include <stdlib.h>

#include "engine/engine.h"

/* Results of `count` rows with `top` alternatives each, in one block. calloc: rows that are
 * never reached stay untouched. */
static agl_sample_result *results_create(size_t count, int32_t top)
{
    return calloc(count, sizeof(agl_sample_result) + (size_t)top * sizeof(agl_token_logprob));
}

agl_token_logprob *agl_results_top(agl_sample_result *results, size_t count, int32_t top,
                                   size_t index)
{
    agl_token_logprob *tops = (agl_token_logprob *)(results + count);
    return tops + index * (size_t)top;
}

static agl_status reserve_sequence(agl_sequence *sequence, uint32_t page_tokens, uint32_t vocab,
                                   agl_error *err)
{
    agl_request *request = sequence->request;
    const agl_sampling_rules *rules = &request->sampling;
    size_t tokens = request->prompt.tokens.count + rules->max_tokens;
    size_t pages = (tokens + page_tokens - 1) / page_tokens;
    size_t images = request->prompt.image_count;
    sequence->stop_token = -1;
    sequence->tip = request->prompt.root;
    sequence->output = calloc(rules->max_tokens, sizeof *sequence->output);
    sequence->pages = calloc(pages, sizeof *sequence->pages);
    sequence->image_entries = calloc(images + 1, sizeof *sequence->image_entries);
    if (rules->logprobs >= 0) {
        sequence->results = results_create(rules->max_tokens, rules->logprobs);
    }
    if (sequence->output == NULL || sequence->pages == NULL || sequence->image_entries == NULL ||
        (rules->logprobs >= 0 && sequence->results == NULL)) {
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for an answer of %u tokens",
                        rules->max_tokens);
    }
    for (size_t i = 0; i < images; i++) sequence->image_entries[i] = -1;
    return agl_sampler_init(&sequence->sampler, rules, sequence->choice, request->prompt.tokens.ids,
                            request->prompt.tokens.count, vocab, err);
}

agl_status agl_request_reserve(agl_request *request, uint32_t page_tokens, uint32_t vocab,
                               agl_error *err)
{
    uint32_t n = request->sampling.n;
    request->sequences = calloc(n, sizeof *request->sequences);
    if (request->sequences == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a request");
    for (uint32_t i = 0; i < n; i++) {
        agl_sequence *sequence = &request->sequences[i];
        sequence->request = request;
        sequence->choice = i;
        sequence->slots = i == 0 ? n : 1;
        AGL_TRY(reserve_sequence(sequence, page_tokens, vocab, err));
    }
    if (request->sampling.prompt_logprobs >= 0) {
        request->prompt_results = results_create(request->prompt.tokens.count,
                                                 request->sampling.prompt_logprobs);
        if (request->prompt_results == NULL) {
            return agl_fail(err, AGL_ERR_MEMORY, "no memory for prompt logprobs");
        }
    }
    request->live = n;
    return agl_stream_reader_init(&request->reader, request, err);
}

void agl_request_retain(agl_request *request) { atomic_fetch_add(&request->references, 1); }

void agl_request_release(agl_request *request)
{
    if (atomic_fetch_sub(&request->references, 1) > 1) return;
    for (uint32_t i = 0; request->sequences != NULL && i < request->sampling.n; i++) {
        agl_sequence *sequence = &request->sequences[i];
        assert(sequence->page_count == 0);
        agl_sampler_deinit(&sequence->sampler);
        free(sequence->output);
        free(sequence->pages);
        free(sequence->image_entries);
        free(sequence->results);
    }
    agl_stream_reader_deinit(&request->reader);
    agl_engine_pixels_release(request->engine, request->pixel_bytes);
    agl_prompt_deinit(&request->prompt);
    agl_arena_deinit(&request->arena);
    free(request->sequences);
    free(request->prompt_results);
    pthread_cond_destroy(&request->wake);
    pthread_mutex_destroy(&request->lock);
    pthread_mutex_destroy(&request->notify_lock);
    free(request);
}

bool agl_request_news(agl_request *request)
{
    if (request->news) return false;
    request->news = true;
    pthread_cond_signal(&request->wake);
    return true;
}

void agl_request_notify(agl_request *request)
{
    pthread_mutex_lock(&request->notify_lock);
    if (request->notify != NULL) request->notify(request->notify_user);
    pthread_mutex_unlock(&request->notify_lock);
}

int agl_sequence_compare(const agl_sequence *a, const agl_sequence *b)
{
    if (a->request->priority != b->request->priority) {
        return a->request->priority < b->request->priority ? -1 : 1;
    }
    if (a->request->number != b->request->number) {
        return a->request->number < b->request->number ? -1 : 1;
    }
    return (a->choice > b->choice) - (a->choice < b->choice);
}
