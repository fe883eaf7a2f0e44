/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/batch.h"

#include <semaphore.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"

static void add(agl_samples *s, double value)
{
    if (s->count == s->capacity) {
        size_t capacity = s->capacity == 0 ? 1024 : 2 * s->capacity;
        double *values = realloc(s->values, capacity * sizeof *values);
        if (values == NULL) return;
        s->values = values;
        s->capacity = capacity;
    }
    s->values[s->count++] = value;
}

void agl_batch_times_deinit(agl_batch_times *times)
{
    free(times->latency_s.values);
    free(times->ttft_s.values);
    free(times->gap_s.values);
    *times = (agl_batch_times){0};
}

typedef struct {
    agl_request *request;
    double last_s;
    bool ended;
} stream;

static void wake(void *user)
{
    sem_post(user);
}

static agl_status submit(stream *out, agl_engine *engine, const agl_batch_options *o,
                         const int32_t *tokens, sem_t *news, agl_error *err)
{
    static const char QUESTION[] = "What is on the screen?";
    const agl_part parts[] = {
        {.kind = AGL_PART_IMAGE, .data = o->image, .bytes = o->image_bytes},
        {.kind = AGL_PART_TEXT, .data = QUESTION, .bytes = sizeof QUESTION - 1}};
    const agl_message message = {.role = "user", .parts = parts, .part_count = AGL_COUNT(parts)};
    agl_request_options request = {.notify = wake, .notify_user = news};
    if (o->image != NULL) {
        request.messages = &message;
        request.message_count = 1;
    } else {
        request.tokens = tokens;
        request.token_count = o->input_tokens;
    }
    agl_sampling_init(&request.sampling);
    request.sampling.temperature = 0;
    request.sampling.max_tokens = o->output_tokens;
    request.sampling.ignore_eos = true;
    *out = (stream){0};
    return agl_request_submit(&out->request, engine, &request, err);
}

/* Sleep until a stream has news; the engine wants the cores. Now and then look for an interrupt. */
static void wait_for_news(sem_t *news)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    sem_timedwait(news, &until);
}

/* Take what has come for one stream; false: nothing new. */
static bool take(stream *s, double start_s, agl_batch_times *times, agl_error *err,
                 agl_status *status)
{
    agl_event event;
    agl_request_next(s->request, 0, &event);
    if (event.kind == AGL_EVENT_NONE) return false;
    double at = agl_clock_s();
    if (event.kind == AGL_EVENT_ERROR) {
        *status = agl_fail(err, event.status, "%s", event.message);
    } else if (event.kind == AGL_EVENT_DONE) {
        s->ended = true;
        times->prompt_tokens += event.usage.prompt_tokens;
        times->output_tokens += event.usage.completion_tokens;
        times->image_tokens += event.usage.image_tokens;
    } else if (event.token_count > 0) {
        /* Tokens that were read late come together and share the time since the one before. */
        if (s->last_s <= 0) add(&times->ttft_s, at - start_s);
        for (size_t i = 0; s->last_s > 0 && i < event.token_count; i++) {
            add(&times->gap_s, (at - s->last_s) / (double)event.token_count);
        }
        s->last_s = at;
    }
    return true;
}

static agl_status collect(stream *streams, uint32_t count, double start_s, sem_t *news,
                          const agl_batch_options *o, agl_batch_times *times, agl_error *err)
{
    agl_status status = AGL_OK;
    uint32_t ended = 0;
    while (status == AGL_OK && ended < count && !*o->interrupted) {
        bool any = false;
        for (uint32_t i = 0; i < count && status == AGL_OK; i++) {
            if (streams[i].ended) continue;
            while (status == AGL_OK && !streams[i].ended &&
                   take(&streams[i], start_s, times, err, &status)) {
                any = true;
            }
            ended += streams[i].ended;
        }
        if (!any) wait_for_news(news);
    }
    if (status == AGL_OK && ended < count) status = agl_fail(err, AGL_ERR_CANCELLED, "interrupted");
    return status;
}

/* Sends the batch; what a failed one has added is taken back. */
static agl_status send_and_collect(stream *streams, int32_t *tokens, agl_engine *engine,
                                   const agl_batch_options *o, agl_batch_times *times,
                                   agl_error *err)
{
    uint32_t vocab = agl_engine_model_info(engine).vocab;
    uint32_t first = o->token_first, last = o->token_last > first ? o->token_last : vocab;
    agl_batch_times before = *times;
    uint64_t state = o->seed;
    agl_status status = AGL_OK;
    sem_t news;
    sem_init(&news, 0, 0);
    double start_s = agl_clock_s();
    for (uint32_t r = 0; status == AGL_OK && r < o->batch; r++) {
        for (uint32_t i = 0; i < o->input_tokens; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            tokens[i] = (int32_t)(first + (uint32_t)((state >> 33) % (last - first)));
        }
        status = submit(&streams[r], engine, o, tokens, &news, err);
    }
    if (status == AGL_OK) status = collect(streams, o->batch, start_s, &news, o, times, err);
    double seconds = agl_clock_s() - start_s;
    if (status == AGL_OK) {
        add(&times->latency_s, seconds);
        times->elapsed_s += seconds;
    } else {
        times->ttft_s.count = before.ttft_s.count;
        times->gap_s.count = before.gap_s.count;
        times->prompt_tokens = before.prompt_tokens;
        times->output_tokens = before.output_tokens;
    }
    for (uint32_t r = 0; r < o->batch; r++) agl_request_destroy(streams[r].request);
    sem_destroy(&news);
    return status;
}

agl_status agl_batch_run(agl_batch_times *times, agl_engine *engine,
                         const agl_batch_options *options, agl_error *err)
{
    stream *streams = calloc(options->batch, sizeof *streams);
    int32_t *tokens = malloc((options->input_tokens + (size_t)1) * sizeof *tokens);
    agl_status status =
        streams != NULL && tokens != NULL
            ? send_and_collect(streams, tokens, engine, options, times, err)
            : agl_fail(err, AGL_ERR_MEMORY, "no memory for %u requests", options->batch);
    free(streams);
    free(tokens);
    return status;
}
