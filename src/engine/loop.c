/* SPDX-License-Identifier: Apache-2.0
 *
 * loop.c - the engine thread: take what came in, plan, run, publish, again.
 *
 * A request is on the active list from the moment it is taken from the inbox until its last
 * sequence has ended; the engine's reference goes with it. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"

/* ---- the end of things ------------------------------------------------- */

static void active_add(agl_engine *engine, agl_request *request)
{
    request->active_previous = NULL;
    request->active_next = engine->active;
    if (engine->active != NULL) engine->active->active_previous = request;
    engine->active = request;
}

/* Gives up the engine's reference. */
static void active_remove(agl_engine *engine, agl_request *request)
{
    if (request->active_previous != NULL) {
        request->active_previous->active_next = request->active_next;
    } else {
        engine->active = request->active_next;
    }
    if (request->active_next != NULL) request->active_next->active_previous = request->active_previous;
    if (!request->scheduled) agl_engine_left_queue(engine, request);
    agl_request_release(request);
}

/* Show the consumer the sequence as it is now. token_ns: when its newest token was made; 0: none
 * is new. */
static void publish(agl_sequence *sequence, agl_finish finish, int32_t stop_token, uint64_t token_ns)
{
    agl_request *request = sequence->request;
    pthread_mutex_lock(&request->lock);
    sequence->published = sequence->output_count;
    sequence->finish = finish;
    sequence->stop_token = stop_token;
    if (token_ns != 0) {
        if (request->first_token_ns == 0) request->first_token_ns = token_ns;
        request->last_token_ns = token_ns;
        request->prompt_ready = request->prompt_results != NULL;
    }
    bool notify = agl_request_news(request);
    pthread_mutex_unlock(&request->lock);
    if (notify) agl_request_notify(request);
}

/* May free the request: nothing of it is touched afterwards. */
static void end_sequence(agl_engine *engine, agl_sequence *sequence, agl_finish finish,
                         int32_t stop_token, uint64_t token_ns)
{
    agl_request *request = sequence->request;
    agl_scheduler_end(engine->scheduler, sequence);
    publish(sequence, finish, stop_token, token_ns);
    assert(request->live > 0);
    if (--request->live == 0) active_remove(engine, request);
}

static void count_abort(agl_engine *engine, const agl_request *request)
{
    pthread_mutex_lock(&engine->stats_lock);
    if (!request->scheduled) engine->stats.aborts_queue++;
    else if (request->first_token_ns == 0) engine->stats.aborts_prefill++;
    else engine->stats.aborts_decode++;
    pthread_mutex_unlock(&engine->stats_lock);
}

static void cancel_request(agl_engine *engine, agl_request *request)
{
    if (request->live == 0) return;
    count_abort(engine, request);
    agl_request_retain(request);
    for (uint32_t i = 0; i < request->sampling.n; i++) {
        if (request->sequences[i].state == AGL_SEQUENCE_ENDED) continue;
        end_sequence(engine, &request->sequences[i], AGL_FINISH_ABORT, -1, 0);
    }
    agl_request_release(request);
}

/* The scheduler has let go of all sequences, or never had them. */
static void fail_unqueued(agl_engine *engine, agl_request *request, agl_status status,
                          const char *message)
{
    agl_log_warning("request %s: %s", request->id != NULL ? request->id : "without id", message);
    pthread_mutex_lock(&request->lock);
    request->status = status;
    snprintf(request->message, sizeof request->message, "%s", message);
    bool notify = agl_request_news(request);
    pthread_mutex_unlock(&request->lock);
    if (notify) agl_request_notify(request);
    request->live = 0;
    active_remove(engine, request);
}

static void fail_request(agl_engine *engine, agl_request *request, agl_status status,
                         const char *message)
{
    for (uint32_t i = 0; i < request->sampling.n; i++) {
        if (request->sequences[i].state == AGL_SEQUENCE_ENDED) continue;
        agl_scheduler_end(engine->scheduler, &request->sequences[i]);
    }
    fail_unqueued(engine, request, status, message);
}

/* ---- the inbox --------------------------------------------------------- */

void agl_engine_post(agl_engine *engine, agl_request *request)
{
    pthread_mutex_lock(&engine->inbox_lock);
    if (!request->posted) {
        request->posted = true;
        agl_request_retain(request);
        request->posted_next = engine->posted_first;
        engine->posted_first = request;
        pthread_cond_signal(&engine->inbox_wake);
    }
    pthread_mutex_unlock(&engine->inbox_lock);
}

void agl_engine_left_queue(agl_engine *engine, agl_request *request)
{
    if (request->scheduled) {
        pthread_mutex_lock(&engine->stats_lock);
        engine->stats.running += request->sampling.n;   /* before it stops waiting: never neither */
        engine->stats.prompt_tokens += request->prompt.tokens.count + request->resumed_tokens;
        engine->stats.cached_prompt_tokens += request->sequences[0].computed;
        engine->stats.text_only_requests += request->prompt.image_count == 0;
        pthread_mutex_unlock(&engine->stats_lock);
    }
    pthread_mutex_lock(&engine->inbox_lock);
    assert(engine->queued > 0);
    engine->queued--;
    pthread_mutex_unlock(&engine->inbox_lock);
}

static void take_submitted(agl_engine *engine, agl_request *first)
{
    while (first != NULL) {
        agl_request *request = first;
        first = request->submitted_next;
        active_add(engine, request);
        agl_status status = agl_scheduler_add(engine->scheduler, &request->sequences[0]);
        if (status != AGL_OK) {
            fail_unqueued(engine, request, status, "no memory to queue the request");
            continue;
        }
        if (request->deadline_ns != 0 && (engine->deadline_next_ns == 0 ||
                                          request->deadline_ns < engine->deadline_next_ns)) {
            engine->deadline_next_ns = request->deadline_ns;
        }
        if (atomic_load(&request->cancelled)) cancel_request(engine, request);
    }
}

static void take_posted(agl_engine *engine, agl_request *first)
{
    while (first != NULL) {
        agl_request *request = first;
        pthread_mutex_lock(&engine->inbox_lock);
        first = request->posted_next;
        request->posted = false;
        pthread_mutex_unlock(&engine->inbox_lock);
        if (atomic_load(&request->cancelled)) cancel_request(engine, request);
        for (uint32_t i = 0; request->live > 0 && i < request->sampling.n; i++) {
            agl_sequence *sequence = &request->sequences[i];
            if (sequence->state == AGL_SEQUENCE_ENDED || !atomic_load(&sequence->stop_wanted)) continue;
            end_sequence(engine, sequence, AGL_FINISH_STOP, -1, 0);
        }
        agl_request_release(request);
    }
}

static void check_deadlines(agl_engine *engine)
{
    uint64_t now = agl_clock_ns();
    if (engine->deadline_next_ns == 0 || now < engine->deadline_next_ns) return;
    engine->deadline_next_ns = 0;
    for (agl_request *request = engine->active, *next; request != NULL; request = next) {
        next = request->active_next;
        if (request->deadline_ns == 0) continue;
        if (request->deadline_ns <= now) {
            count_abort(engine, request);
            fail_request(engine, request, AGL_ERR_TIMEOUT, "the request's deadline has passed");
        } else if (engine->deadline_next_ns == 0 || request->deadline_ns < engine->deadline_next_ns) {
            engine->deadline_next_ns = request->deadline_ns;
        }
    }
}

static void update_gauges(agl_engine *engine)
{
    pthread_mutex_lock(&engine->stats_lock);
    agl_engine_stats *stats = &engine->stats;
    stats->running = agl_scheduler_running(engine->scheduler);
    engine->preempted = agl_scheduler_preempted(engine->scheduler);
    stats->kv_pages_free = agl_page_pool_available(engine->pool);
    stats->kv_pages_cached = engine->pages.prefix != NULL
                                 ? agl_prefix_cache_pages(engine->pages.prefix) : 0;
    stats->encoder_cache_bytes_used = engine->encoder != NULL
                                          ? agl_encoder_cache_used_bytes(engine->encoder) : 0;
    if (engine->active == NULL) engine->work_since_ns = 0;
    else if (engine->work_since_ns == 0) engine->work_since_ns = agl_clock_ns();
    pthread_mutex_unlock(&engine->stats_lock);
}

/* Wait for work and take it. false: the engine is to stop. */
static bool take_inbox(agl_engine *engine)
{
    pthread_mutex_lock(&engine->inbox_lock);
    while (!engine->stopping && !engine->reset_caches && engine->submitted_first == NULL &&
           engine->posted_first == NULL && engine->active == NULL) {
        update_gauges(engine);
        pthread_cond_wait(&engine->inbox_wake, &engine->inbox_lock);
    }
    agl_request *submitted = engine->submitted_first, *posted = engine->posted_first;
    engine->submitted_first = engine->submitted_last = engine->posted_first = NULL;
    bool stopping = engine->stopping, reset = engine->reset_caches;
    engine->reset_caches = false;
    pthread_mutex_unlock(&engine->inbox_lock);

    take_submitted(engine, submitted);
    take_posted(engine, posted);
    if (reset) {
        if (engine->pages.prefix != NULL) agl_prefix_cache_reset(engine->pages.prefix);
        if (engine->encoder != NULL) agl_encoder_cache_reset(engine->encoder);
    }
    return !stopping;
}

/* ---- after a step ------------------------------------------------------ */

/* The sampled token joins its sequence, which may end with it. */
static void accept(agl_engine *engine, agl_sequence *sequence, const agl_sample_result *result,
                   uint64_t now)
{
    const agl_sampling_rules *rules = &sequence->request->sampling;
    uint32_t place = sequence->output_count;
    assert(place < rules->max_tokens);
    sequence->output[place] = result->token;
    if (sequence->results != NULL) sequence->results[place] = *result;
    sequence->output_count = place + 1;
    agl_sampler_accept(&sequence->sampler, result->token);
    if (agl_sampling_stops(rules, result->token)) {
        end_sequence(engine, sequence, AGL_FINISH_STOP, result->token, now);
    } else if (sequence->output_count == rules->max_tokens) {
        end_sequence(engine, sequence, AGL_FINISH_LENGTH, -1, now);
    } else {
        publish(sequence, AGL_FINISH_NONE, -1, now);
    }
}

static void keep_prompt_results(const agl_engine *engine, const agl_step_entry *entry, uint32_t index)
{
    agl_request *request = entry->sequence->request;
    for (uint32_t i = 0; i < entry->prompt_logits; i++) {
        request->prompt_results[entry->sequence->computed + i + 1] =
            *agl_step_prompt_result(engine->step, index, i);
    }
}

/* The forward pass has swept the caches, and a sequence's state is a dozen lines in as many
 * places: fetching them ahead of use saves a third of the time of 256 sequences. */
#define FETCH_FAR 8
#define FETCH_NEAR 4

static void fetch_ahead(const agl_engine *engine, const agl_step_plan *plan, uint32_t e)
{
    if (e + FETCH_FAR < plan->entry_count) {
        const char *far = (const char *)plan->entries[e + FETCH_FAR].sequence;
        for (size_t line = 0; line < sizeof(agl_sequence); line += 64) __builtin_prefetch(far + line);
    }
    if (e + FETCH_NEAR >= plan->entry_count) return;
    const agl_step_entry *near = &plan->entries[e + FETCH_NEAR];
    const agl_sequence *sequence = near->sequence;
    const agl_request *request = sequence->request;
    __builtin_prefetch(&request->prompt);
    __builtin_prefetch(&request->sampling);
    __builtin_prefetch(&request->sampling.stop_tokens);
    __builtin_prefetch(&request->lock);
    __builtin_prefetch(&request->wake);
    __builtin_prefetch(&request->status);
    __builtin_prefetch(&request->first_token_ns);
    if (near->samples != 1) return;
    __builtin_prefetch(&sequence->output[sequence->output_count]);
    agl_sampler_prefetch(&sequence->sampler,
                         agl_step_sample(engine->step, e + FETCH_NEAR, 0)->token);
}

static uint32_t finish_step(agl_engine *engine, const agl_step_plan *plan)
{
    uint64_t now = agl_clock_ns();
    uint32_t generated = 0;
    for (uint32_t e = 0; e < plan->entry_count; e++) {
        fetch_ahead(engine, plan, e);
        const agl_step_entry *entry = &plan->entries[e];
        agl_sequence *sequence = entry->sequence;
        agl_request *request = sequence->request;
        keep_prompt_results(engine, entry, e);
        agl_scheduler_advance(engine->scheduler, entry);
        if (entry->samples == 0) continue;
        generated += entry->samples;
        if (entry->samples == 1) {
            accept(engine, sequence, agl_step_sample(engine->step, e, 0), now);
            continue;
        }
        /* All choices take over the prompt's pages before one of them may end. */
        for (uint32_t i = 1; i < entry->samples; i++) {
            agl_scheduler_fork(engine->scheduler, &request->sequences[i], sequence);
        }
        agl_request_retain(request);
        for (uint32_t i = 0; i < entry->samples; i++) {
            accept(engine, &request->sequences[i], agl_step_sample(engine->step, e, i), now);
        }
        agl_request_release(request);
    }
    return generated;
}

/* Times of one round, in seconds on agl_clock_s. */
typedef struct {
    double started, planned, ran, finished;
} round_times;

static void update_stats(agl_engine *engine, const round_times *times, uint32_t generated)
{
    agl_scheduler_counters counters = agl_scheduler_counters_get(engine->scheduler);
    pthread_mutex_lock(&engine->stats_lock);
    agl_engine_stats *stats = &engine->stats;
    stats->steps++;
    stats->generated_tokens += generated;
    stats->preemptions = counters.preemptions;
    stats->prefix_queries = counters.prefix_queries;
    stats->prefix_hits = counters.prefix_hits;
    stats->encoder_queries = counters.encoder_queries;
    stats->encoder_hits = counters.encoder_hits;
    stats->vision_runs = agl_model_counters_get(engine->model).vision_runs;
    stats->schedule_s += times->planned - times->started + times->finished - times->ran;
    stats->step_s += times->finished - times->started;
    engine->last_step_ns = agl_clock_ns();
    pthread_mutex_unlock(&engine->stats_lock);
}

static void fail_all(agl_engine *engine, agl_status status, const char *message)
{
    while (engine->active != NULL) fail_request(engine, engine->active, status, message);
}

/* The device is lost: nothing that comes later can be served either. */
static void go_fatal(agl_engine *engine, const agl_error *error)
{
    agl_log_error("engine: %s", error->message);
    pthread_mutex_lock(&engine->inbox_lock);
    engine->fatal = AGL_ERR_DEVICE;
    snprintf(engine->fatal_message, sizeof engine->fatal_message, "%.255s", error->message);
    pthread_mutex_unlock(&engine->inbox_lock);
    pthread_mutex_lock(&engine->stats_lock);
    engine->stats.fatal = AGL_ERR_DEVICE;
    pthread_mutex_unlock(&engine->stats_lock);
    fail_all(engine, AGL_ERR_DEVICE, error->message);
}

static void run_round(agl_engine *engine)
{
    round_times times = {.started = agl_clock_s()};
    agl_step_plan *plan = agl_scheduler_plan(engine->scheduler);
    if (plan->entry_count == 0) {
        /* Something always fits when requests are there; if our accounting says otherwise, say so
         * rather than spin. */
        agl_error error = {.status = AGL_ERR_INTERNAL,
                           .message = "the scheduler found no work although requests wait"};
        go_fatal(engine, &error);
        return;
    }
    agl_step_prepare(engine->step, plan);
    times.planned = agl_clock_s();
    agl_error error = {0};
    agl_status status = agl_step_run(engine->step, plan, &engine->pages, &error);
    times.ran = agl_clock_s();
    if (status != AGL_OK) {
        go_fatal(engine, &error);
        return;
    }
    if (plan->image_count == 0) {
        agl_scheduler_measured(engine->scheduler, plan, times.ran - times.planned);
    }
    uint32_t generated = finish_step(engine, plan);
    times.finished = agl_clock_s();
    update_stats(engine, &times, generated);
}

void *agl_engine_loop(void *argument)
{
    agl_engine *engine = argument;
    pthread_setname_np(pthread_self(), "agl-engine");
    while (take_inbox(engine)) {
        check_deadlines(engine);
        update_gauges(engine);
        if (engine->active == NULL) continue;
        pthread_mutex_lock(&engine->inbox_lock);
        agl_status fatal = engine->fatal;
        pthread_mutex_unlock(&engine->inbox_lock);
        if (fatal != AGL_OK) fail_all(engine, fatal, engine->fatal_message);
        else run_round(engine);
    }
    fail_all(engine, AGL_ERR_CANCELLED, "the engine is shutting down");
    update_gauges(engine);
    return NULL;
}
