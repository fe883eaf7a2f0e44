/* SPDX-License-Identifier: Apache-2.0
 *
 * api_request.c - agl.h: submitting, cancelling and destroying requests. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine.h"

/* Resized pictures of all requests alive. A prompt of ten large screenshots is 75 MB. */
#define PIXEL_BYTES_MAX (2ull << 30)

void agl_sampling_init(agl_sampling *sampling)
{
    *sampling = (agl_sampling){
        .temperature = NAN, .top_p = NAN, .min_p = NAN, .repetition_penalty = NAN,
        .frequency_penalty = NAN, .presence_penalty = NAN, .top_k = INT32_MIN, .n = 1,
        .logprobs = -1, .prompt_logprobs = -1};
}

agl_status agl_engine_pixels_reserve(agl_engine *engine, size_t bytes, agl_error *err)
{
    uint64_t before = atomic_fetch_add(&engine->pixel_bytes, bytes);
    if (before == 0 || before + bytes <= PIXEL_BYTES_MAX) return AGL_OK;
    atomic_fetch_sub(&engine->pixel_bytes, bytes);
    return agl_fail(err, AGL_ERR_BUSY, "the images of waiting requests take %llu MiB already; retry later",
                    (unsigned long long)(before >> 20));
}

void agl_engine_pixels_release(agl_engine *engine, size_t bytes)
{
    atomic_fetch_sub(&engine->pixel_bytes, bytes);
}

/* Called twice: before the costly preparation, and when the request joins the queue.
 * `inbox_lock` is held. */
static agl_status check_open(const agl_engine *engine, agl_error *err)
{
    if (engine->fatal != AGL_OK) {
        return agl_fail(err, engine->fatal, "the engine has failed: %s", engine->fatal_message);
    }
    if (engine->queued >= engine->max_queued) {
        return agl_fail(err, AGL_ERR_BUSY, "%u requests are waiting already; retry later",
                        engine->queued);
    }
    return AGL_OK;
}

static agl_request *request_create(agl_engine *engine, const agl_request_options *options)
{
    agl_request *request = calloc(1, sizeof *request);
    if (request == NULL) return NULL;
    request->engine = engine;
    atomic_init(&request->references, 1);
    agl_arena_init(&request->arena, 0);
    pthread_mutex_init(&request->lock, NULL);
    pthread_mutex_init(&request->notify_lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&request->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    request->notify = options->notify;
    request->notify_user = options->notify_user;
    return request;
}

static agl_status check_resume(const agl_request *request, const agl_request_options *options,
                               agl_error *err)
{
    static const char NAME[] = "resume_token_ids";
    const agl_sampling_rules *rules = &request->sampling;
    uint32_t vocab = request->engine->prompt_rules.vocab;
    if (options->resume_token_count == 0) return AGL_OK;
    if (rules->n > 1 || rules->prompt_logprobs >= 0) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "%s cannot be used with n > 1 or prompt_logprobs", NAME);
    }
    if (options->resume_token_count >= rules->max_tokens) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "%s holds %zu tokens, but the answer ends after %u: it is complete",
                        NAME, options->resume_token_count, rules->max_tokens);
    }
    for (size_t i = 0; i < options->resume_token_count; i++) {
        int32_t token = options->resume_tokens[i];
        if (token < 0 || (uint32_t)token >= vocab) {
            return agl_fail(err, AGL_ERR_ARGUMENT, "%s[%zu] is %d, out of range [0, %u)", NAME, i, token, vocab);
        }
        if (!agl_sampling_stops(rules, token)) continue;
        return agl_fail(err, AGL_ERR_ARGUMENT, "%s[%zu] is %d, which ends the answer: it is complete", NAME, i,
                        token);
    }
    return AGL_OK;
}

/* From here on the sequence looks like one that was preempted after these tokens. */
static void resume(agl_request *request, const agl_request_options *options)
{
    agl_sequence *sequence = &request->sequences[0];
    request->resumed_tokens = (uint32_t)options->resume_token_count;
    for (uint32_t i = 0; i < request->resumed_tokens; i++) {
        sequence->output[i] = options->resume_tokens[i];
        agl_sampler_accept(&sequence->sampler, options->resume_tokens[i]);
    }
    sequence->output_count = sequence->published = request->resumed_tokens;
    agl_stream_reader_skip(&request->reader, sequence->output, request->resumed_tokens);
}

static agl_status prepare(agl_request *request, const agl_request_options *options, agl_error *err)
{
    agl_engine *engine = request->engine;
    request->submit_ns = agl_clock_ns();
    request->number = atomic_fetch_add(&engine->arrivals, 1);
    request->priority = engine->priority_scheduling ? options->priority : 0;
    if (options->deadline_ms != 0) {
        request->deadline_ns = request->submit_ns + options->deadline_ms * 1000000ull;
    }
    if (options->id != NULL) {
        request->id = agl_arena_string(&request->arena, options->id, strlen(options->id));
    }
    agl_sampling_rules *rules = &request->sampling;
    uint64_t seed = agl_choice_seed(engine->seed + 1, (uint32_t)request->number + 1);
    AGL_TRY(agl_sampling_resolve(rules, &request->arena, &options->sampling,
                                 &engine->sampling_context, seed, err));
    agl_prompt *prompt = &request->prompt;
    AGL_TRY(agl_prompt_build(prompt, &request->arena, &engine->prompt_rules, options, err));
    AGL_TRY(agl_engine_pixels_reserve(engine, prompt->pixel_bytes, err));
    request->pixel_bytes = prompt->pixel_bytes;
    agl_decode_room_enter(&engine->decode_room, prompt->decode_bytes);
    agl_status loaded = agl_prompt_load(prompt, &request->arena, &engine->prompt_rules, options->cache_salt, err);
    agl_decode_room_leave(&engine->decode_room, prompt->decode_bytes);
    AGL_TRY(loaded);

    uint32_t room = engine->memory.max_model_len - (uint32_t)prompt->tokens.count;
    if (rules->max_tokens == 0 || rules->max_tokens > room) rules->max_tokens = room;
    if (rules->min_tokens > rules->max_tokens) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "min_tokens %u is over the %u tokens the answer may have",
                        rules->min_tokens, rules->max_tokens);
    }
    AGL_TRY(check_resume(request, options, err));
    AGL_TRY(agl_request_reserve(request, engine->memory.page_tokens, engine->prompt_rules.vocab, err));
    resume(request, options);
    return AGL_OK;
}

static agl_status enqueue(agl_engine *engine, agl_request *request, agl_error *err)
{
    pthread_mutex_lock(&engine->inbox_lock);
    agl_status status = check_open(engine, err);
    if (status == AGL_OK) {
        agl_request_retain(request);
        request->queued_ns = agl_clock_ns();
        if (engine->submitted_last != NULL) engine->submitted_last->submitted_next = request;
        else engine->submitted_first = request;
        engine->submitted_last = request;
        engine->queued++;
        pthread_cond_signal(&engine->inbox_wake);
    }
    pthread_mutex_unlock(&engine->inbox_lock);
    return status;
}

agl_status agl_request_submit(agl_request **out, agl_engine *engine,
                              const agl_request_options *options, agl_error *err)
{
    assert(out != NULL && engine != NULL && options != NULL);
    *out = NULL;
    pthread_mutex_lock(&engine->inbox_lock);
    agl_status status = check_open(engine, err);
    pthread_mutex_unlock(&engine->inbox_lock);
    if (status != AGL_OK) return status;

    agl_request *request = request_create(engine, options);
    if (request == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a request");
    status = prepare(request, options, err);
    if (status == AGL_OK) status = enqueue(engine, request, err);
    if (status != AGL_OK) {
        agl_request_release(request);
        return status;
    }
    *out = request;
    return AGL_OK;
}

const int32_t *agl_request_prompt(const agl_request *request, size_t *count)
{
    *count = request->prompt.tokens.count;
    return request->prompt.tokens.ids;
}

void agl_request_cancel(agl_request *request)
{
    atomic_store(&request->cancelled, true);
    agl_engine_post(request->engine, request);
}

void agl_request_destroy(agl_request *request)
{
    if (request == NULL) return;
    if (!request->reader.done) agl_request_cancel(request);
    pthread_mutex_lock(&request->notify_lock);
    request->notify = NULL;
    pthread_mutex_unlock(&request->notify_lock);
    agl_request_release(request);
}
