/* SPDX-License-Identifier: Apache-2.0
 *
 * loop.c - the engine thread: two steps in its hands, one on the device and one being made.
 *
 *     device   |------- step n -------|    |------ step n+1 ------|    |------ step n+2 ---
 *     host     |publish n-1           |    |publish n             |    |publish n+1
 *              |  inbox               |    |  inbox               |    |  inbox
 *              |    plan n+1, lay out |wait|    plan n+2, lay out |wait|    ...
 *                                     |n   |                      |n+1 |
 *                                     |accept n, complete n+1, launch n+1
 *
 * Between the end of one step and the launch of the next, the device waits for the host: there
 * the tokens of n are accepted into their sequences and put into n+1, and nothing else is done.
 * Planning n+1 counts on a token from every sequence in n. A sequence that ends with it leaves
 * a dead row in n+1 (step.h); for what else may happen in n, n+1 is planned only when n is
 * published (agl_scheduler_can_run_ahead is the rule): then a round is wait, accept, publish,
 * and the next one plans and launches.
 *
 * The device works in the order in which steps are launched. So pages, vision rows and prefixes
 * change hands as soon as the host decides it, while the steps that use them still run: what the
 * new owner queues comes later. Only host memory that a step points to has to stay until it was
 * waited for: a request that ends is kept until the round is over (departed).
 *
 * A request is on the active list from the moment it is taken from the inbox until its last
 * sequence has ended; the engine's reference goes with it. */
#include <assert.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"

/* ---- the end of things ------------------------------------------------- */

/* The step on the device, and times that belong to it. */
typedef struct {
    agl_step_plan *on_device;   /* NULL: none                                           */
    uint64_t idle_since_ns;     /* when the device ran out of work, or work came in     */
    uint64_t launched_ns;       /* launch began                                         */
    uint64_t queued_ns;         /* launch returned                                      */
    /* Of the last round, for the statistics. */
    double schedule_s, overlapped_s, step_s;
    uint32_t generated, prompt_rows, decode_rows;
} pipeline;

/* Consumers that have news are told together: the first to be woken may take the processor away,
 * and the others, and the next step, would wait for it. */
static void notify_later(agl_engine *engine, agl_request *request)
{
    if (request->to_be_told) return;
    request->to_be_told = true;
    request->told_next = NULL;
    if (engine->told_first == NULL) engine->told_first = request;
    else engine->told_last->told_next = request;
    engine->told_last = request;
}

static void notify_all(agl_engine *engine)
{
    while (engine->told_first != NULL) {
        agl_request *request = engine->told_first;
        engine->told_first = request->told_next;
        request->to_be_told = false;
        agl_request_notify(request);
    }
}

static void active_add(agl_engine *engine, agl_request *request)
{
    request->active_previous = NULL;
    request->active_next = engine->active;
    if (engine->active != NULL) engine->active->active_previous = request;
    engine->active = request;
}

/* The step on the device may point into the request: let_departed_go gives up the engine's
 * reference. */
static void active_remove(agl_engine *engine, agl_request *request)
{
    if (request->active_previous != NULL) {
        request->active_previous->active_next = request->active_next;
    } else {
        engine->active = request->active_next;
    }
    if (request->active_next != NULL) request->active_next->active_previous = request->active_previous;
    if (!request->scheduled) agl_engine_left_queue(engine, request);
    request->active_next = engine->departed;
    engine->departed = request;
}

/* The end of a round. The step on the device was completed after they had departed. */
static void let_departed_go(agl_engine *engine)
{
    notify_all(engine);
    while (engine->departed != NULL) {
        agl_request *request = engine->departed;
        engine->departed = request->active_next;
        agl_request_release(request);
    }
}

/* Show the consumer the sequence as it is now. token_ns: when its newest token was made; 0: none
 * is new. */
static void publish(agl_engine *engine, agl_sequence *sequence, agl_finish finish,
                    int32_t stop_token, uint64_t token_ns)
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
    if (notify) notify_later(engine, request);
}

static void end_sequence(agl_engine *engine, agl_sequence *sequence, agl_finish finish,
                         int32_t stop_token, uint64_t token_ns)
{
    agl_request *request = sequence->request;
    agl_scheduler_end(engine->scheduler, sequence);
    publish(engine, sequence, finish, stop_token, token_ns);
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
    for (uint32_t i = 0; i < request->sampling.n; i++) {
        if (request->sequences[i].state == AGL_SEQUENCE_ENDED) continue;
        end_sequence(engine, &request->sequences[i], AGL_FINISH_ABORT, -1, 0);
    }
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
    if (notify) notify_later(engine, request);
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

/* Take what has come in; without any work, wait for it. false: the engine is to stop. */
static bool take_inbox(agl_engine *engine, pipeline *pipe)
{
    pthread_mutex_lock(&engine->inbox_lock);
    while (!engine->stopping && !engine->reset_caches && engine->submitted_first == NULL &&
           engine->posted_first == NULL && engine->active == NULL && pipe->on_device == NULL) {
        update_gauges(engine);
        pthread_cond_wait(&engine->inbox_wake, &engine->inbox_lock);
        pipe->idle_since_ns = agl_clock_ns();
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

/* The forward pass has swept the caches, and a sequence's state is twenty lines in as many places.
 * Fetching them ahead of use saves a third of the host's time for 256 sequences; each distance
 * needs what the one before has brought. */
#define FETCH_SEQUENCE 12
#define FETCH_REQUEST 8
#define FETCH_ARRAYS 4

static void fetch_lines(const void *memory, size_t bytes)
{
    for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch((const char *)memory + line);
}

static const agl_sequence *live_sequence(const agl_step_plan *plan, uint32_t e)
{
    return e < plan->entry_count ? plan->entries[e].sequence : NULL;
}

static void fetch_ahead(const agl_step_plan *plan, uint32_t e)
{
    const agl_sequence *far = live_sequence(plan, e + FETCH_SEQUENCE);
    if (far != NULL) fetch_lines(far, sizeof *far);
    const agl_sequence *middle = live_sequence(plan, e + FETCH_REQUEST);
    if (middle != NULL) fetch_lines(middle->request, offsetof(agl_request, reader));
    const agl_sequence *near = live_sequence(plan, e + FETCH_ARRAYS);
    if (near == NULL) return;
    __builtin_prefetch(&near->output[near->output_count]);
    __builtin_prefetch(&near->pages[near->page_count]);
    __builtin_prefetch(near->request->sampling.stop_tokens);
}

static void fetch_count(const agl_engine *engine, const agl_step_plan *plan, uint32_t e)
{
    const agl_sequence *near = live_sequence(plan, e + FETCH_ARRAYS);
    if (near == NULL || plan->entries[e + FETCH_ARRAYS].samples != 1) return;
    agl_sampler_prefetch(&near->sampler, agl_step_sample(engine->step, plan, e + FETCH_ARRAYS, 0)->token);
}

/* The sampled token joins its sequence, which may end with it. */
static void accept(agl_sequence *sequence, const agl_sample_result *result)
{
    const agl_sampling_rules *rules = &sequence->request->sampling;
    uint32_t place = sequence->output_count;
    assert(place < rules->max_tokens);
    sequence->output[place] = result->token;
    if (sequence->results != NULL) sequence->results[place] = *result;
    sequence->output_count = place + 1;
    sequence->pending = 0;
    agl_sampler_accept(&sequence->sampler, result->token);
    sequence->ending_token = -1;
    if (agl_sampling_stops(rules, result->token)) {
        sequence->ending = AGL_FINISH_STOP;
        sequence->ending_token = result->token;
    } else if (sequence->output_count == rules->max_tokens) {
        sequence->ending = AGL_FINISH_LENGTH;
    }
}

/* Nobody is told yet: the device waits. Returns the number of tokens. */
static uint32_t accept_step(agl_engine *engine, agl_step_plan *plan)
{
    uint32_t generated = 0;
    for (uint32_t e = 0; e < plan->entry_count; e++) {
        fetch_ahead(plan, e);
        fetch_count(engine, plan, e);
        agl_step_entry *entry = &plan->entries[e];
        agl_sequence *sequence = entry->sequence;
        if (sequence == NULL) continue;
        if (sequence->state == AGL_SEQUENCE_ENDED) {    /* by the inbox, while the step ran */
            entry->sequence = NULL;
            continue;
        }
        /* All choices take over the prompt's pages before one of them may end. */
        for (uint32_t i = 1; i < entry->samples; i++) {
            agl_scheduler_fork(engine->scheduler, &sequence->request->sequences[i], sequence);
        }
        for (uint32_t i = 0; i < entry->samples; i++) {
            agl_sequence *choice = entry->samples > 1 ? &sequence->request->sequences[i] : sequence;
            accept(choice, agl_step_sample(engine->step, plan, e, i));
        }
        generated += entry->samples;
    }
    return generated;
}

static void keep_prompt_results(const agl_engine *engine, const agl_step_plan *plan, uint32_t e)
{
    const agl_step_entry *entry = &plan->entries[e];
    for (uint32_t i = 0; i < entry->prompt_logits; i++) {
        entry->sequence->request->prompt_results[entry->first + i + 1] =
            *agl_step_prompt_result(engine->step, plan, e, i);
    }
}

static double seconds(uint64_t from_ns, uint64_t to_ns) { return (double)(to_ns - from_ns) * 1e-9; }

static void update_stats(agl_engine *engine, const pipeline *pipe)
{
    agl_scheduler_counters counters = agl_scheduler_counters_get(engine->scheduler);
    pthread_mutex_lock(&engine->stats_lock);
    agl_engine_stats *stats = &engine->stats;
    stats->steps++;
    stats->generated_tokens += pipe->generated;
    stats->preemptions = counters.preemptions;
    stats->prefix_queries = counters.prefix_queries;
    stats->prefix_hits = counters.prefix_hits;
    stats->encoder_queries = counters.encoder_queries;
    stats->encoder_hits = counters.encoder_hits;
    stats->vision_runs = agl_model_counters_get(engine->model).vision_runs;
    stats->schedule_s += pipe->schedule_s;
    stats->overlapped_s += pipe->overlapped_s;
    stats->step_s += pipe->step_s;
    stats->decode_rows += pipe->decode_rows;
    stats->prompt_rows += pipe->prompt_rows;
    if (pipe->prompt_rows > 0) {
        stats->prompt_steps++;
        stats->prompt_step_s += pipe->step_s;
    }
    engine->last_step_ns = agl_clock_ns();
    pthread_mutex_unlock(&engine->stats_lock);
    agl_log_debug("step: %u prompt rows, %u decode rows, %.3f ms; %.3f ms before launch, %.3f ms beside",
                  pipe->prompt_rows, pipe->decode_rows, pipe->step_s * 1e3, pipe->schedule_s * 1e3,
                  pipe->overlapped_s * 1e3);
}

/* Tell the consumers; sequences that ended give back what they hold. */
static void publish_step(agl_engine *engine, const pipeline *pipe, const agl_step_plan *plan,
                         uint64_t token_ns)
{
    update_stats(engine, pipe);
    for (uint32_t e = 0; e < plan->entry_count; e++) {
        fetch_ahead(plan, e);
        const agl_step_entry *entry = &plan->entries[e];
        if (entry->sequence == NULL) continue;
        keep_prompt_results(engine, plan, e);
        for (uint32_t i = 0; i < entry->samples; i++) {
            agl_sequence *choice = entry->samples > 1 ? &entry->sequence->request->sequences[i]
                                                      : entry->sequence;
            if (choice->ending == AGL_FINISH_NONE) {
                publish(engine, choice, AGL_FINISH_NONE, -1, token_ns);
            } else {
                end_sequence(engine, choice, choice->ending, choice->ending_token, token_ns);
            }
        }
    }
    notify_all(engine);
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

/* ---- the pipeline ------------------------------------------------------ */

/* NULL: there is nothing to do that does not wait for the step on the device. */
static agl_step_plan *plan_step(agl_engine *engine, const pipeline *pipe)
{
    const agl_step_plan *on_device = pipe->on_device;
    if (on_device != NULL && !agl_scheduler_can_run_ahead(engine->scheduler, on_device)) return NULL;
    agl_step_plan *plan = agl_scheduler_plan(engine->scheduler);
    if (plan->entry_count > 0) {
        agl_step_prepare(engine->step, plan);
        return plan;
    }
    if (on_device == NULL) {
        /* Something always fits when requests are there; if our accounting says otherwise, say so
         * rather than spin. */
        agl_error error = {.status = AGL_ERR_INTERNAL,
                           .message = "the scheduler found no work although requests wait"};
        go_fatal(engine, &error);
    }
    return engine->pages.copy_count > 0 ? plan : NULL;
}

/* Wait for the step on the device and take its tokens. */
static agl_status finish_step(agl_engine *engine, pipeline *pipe, agl_error *err)
{
    agl_step_plan *plan = pipe->on_device;
    uint64_t wait_ns = agl_clock_ns();
    pipe->on_device = NULL;
    AGL_TRY(agl_step_wait(engine->step, err));
    uint64_t now = agl_clock_ns();
    pipe->schedule_s = seconds(pipe->idle_since_ns, pipe->launched_ns);
    pipe->overlapped_s = seconds(pipe->queued_ns, wait_ns);
    pipe->step_s = seconds(pipe->idle_since_ns, now);
    double device_s = seconds(pipe->launched_ns, now);
    pipe->idle_since_ns = now;
    if (plan->image_count == 0) agl_scheduler_measured(engine->scheduler, plan, device_s);
    pipe->decode_rows = plan->decode_rows;
    pipe->prompt_rows = plan->row_count - plan->decode_rows;
    pipe->generated = accept_step(engine, plan);
    return AGL_OK;
}

static agl_status launch_step(agl_engine *engine, pipeline *pipe, agl_step_plan *plan,
                              agl_error *err)
{
    uint64_t now = agl_clock_ns();
    AGL_TRY(agl_step_launch(engine->step, plan, &engine->pages, err));
    if (plan->live_count == 0) return AGL_OK;
    pipe->on_device = plan;
    pipe->launched_ns = now;
    pipe->queued_ns = agl_clock_ns();
    for (uint32_t e = 0; e < plan->entry_count; e++) {
        fetch_ahead(plan, e);
        if (plan->entries[e].sequence != NULL) agl_scheduler_advance(engine->scheduler, &plan->entries[e]);
    }
    return AGL_OK;
}

/* One turn of the picture on top. */
static void run_round(agl_engine *engine, pipeline *pipe)
{
    agl_error error = {0};
    agl_step_plan *done = pipe->on_device, *next = plan_step(engine, pipe);
    agl_status status = done != NULL ? finish_step(engine, pipe, &error) : AGL_OK;
    if (status != AGL_OK) {
        go_fatal(engine, &error);
        return;
    }
    uint64_t token_ns = pipe->idle_since_ns;
    if (next != NULL) agl_step_complete(engine->step, next);
    /* Tokens do not wait for a launch that comes back only when the device is done. */
    bool publish_first = next == NULL || agl_step_launch_blocks(engine->step, next);
    if (done != NULL && publish_first) publish_step(engine, pipe, done, token_ns);
    if (next != NULL) status = launch_step(engine, pipe, next, &error);
    if (done != NULL && !publish_first) publish_step(engine, pipe, done, token_ns);
    if (status != AGL_OK) go_fatal(engine, &error);
}

void *agl_engine_loop(void *argument)
{
    agl_engine *engine = argument;
    pipeline pipe = {.idle_since_ns = agl_clock_ns()};
    pthread_setname_np(pthread_self(), "agl-engine");
    while (take_inbox(engine, &pipe)) {
        check_deadlines(engine);
        update_gauges(engine);
        notify_all(engine);
        /* Only this thread writes `fatal`, so it may read it without the lock. */
        if (engine->fatal != AGL_OK) fail_all(engine, engine->fatal, engine->fatal_message);
        else if (engine->active != NULL || pipe.on_device != NULL) run_round(engine, &pipe);
        let_departed_go(engine);
    }
    if (pipe.on_device != NULL) agl_step_wait(engine->step, NULL);
    fail_all(engine, AGL_ERR_CANCELLED, "the engine is shutting down");
    let_departed_go(engine);
    update_gauges(engine);
    return NULL;
}
