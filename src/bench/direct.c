/* SPDX-License-Identifier: Apache-2.0
 *
 * direct.c - `autoglm bench latency | throughput | startup`: the engine in this process,
 * without HTTP. JSON keys are those of `vllm bench latency | throughput | startup`. */
#include "bench/bench.h"

#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "bench/statistics.h"

/* Growing list of times. */
typedef struct {
    double *values;
    size_t count, capacity;
} samples;

static void add(samples *s, double value)
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

typedef struct {
    samples latency_s, ttft_s, gap_s; /* of whole batches, first tokens, and between tokens */
    uint64_t prompt_tokens, output_tokens;
    double elapsed_s;
} outcome;

static void outcome_deinit(outcome *o)
{
    free(o->latency_s.values);
    free(o->ttft_s.values);
    free(o->gap_s.values);
}

static void note(const agl_bench_direct_options *o, const char *what, size_t done, size_t total)
{
    if (o->quiet || !isatty(STDERR_FILENO)) return;
    fprintf(stderr, "\r  %s %zu/%zu ", what, done, total);
    if (done == total) fputc('\n', stderr);
    fflush(stderr);
}

/* ---- one batch ---------------------------------------------------------- */

typedef struct {
    agl_request *request;
    double last_s;
    bool ended;
} stream;

static void wake(void *user)
{
    sem_post(user);
}

static agl_status submit(stream *out, agl_engine *engine, const agl_bench_direct_options *o,
                         const int32_t *tokens, sem_t *news, agl_error *err)
{
    agl_request_options request = {.tokens = tokens, .token_count = o->input_tokens, .notify = wake,
                                   .notify_user = news};
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
static bool take(stream *s, double start_s, outcome *sum, agl_error *err, agl_status *status)
{
    agl_event event;
    agl_request_next(s->request, 0, &event);
    if (event.kind == AGL_EVENT_NONE) return false;
    double at = agl_clock_s();
    if (event.kind == AGL_EVENT_ERROR) {
        *status = agl_fail(err, event.status, "%s", event.message);
    } else if (event.kind == AGL_EVENT_DONE) {
        s->ended = true;
        sum->prompt_tokens += event.usage.prompt_tokens;
        sum->output_tokens += event.usage.completion_tokens;
    } else if (event.token_count > 0) {
        if (s->last_s <= 0) add(&sum->ttft_s, at - start_s);
        else add(&sum->gap_s, (at - s->last_s) / (double)event.token_count);
        s->last_s = at;
    }
    return true;
}

static agl_status run_batch(agl_engine *engine, const agl_bench_direct_options *o, uint64_t seed,
                            outcome *sum, agl_error *err)
{
    uint32_t vocab = agl_engine_model_info(engine).vocab;
    uint32_t first = o->token_first, last = o->token_last > o->token_first ? o->token_last : vocab;
    stream *streams = calloc(o->batch, sizeof *streams);
    int32_t *tokens = malloc((o->input_tokens + 1) * sizeof *tokens);
    agl_status status = streams == NULL || tokens == NULL ? agl_fail(err, AGL_ERR_MEMORY, "no memory") : AGL_OK;
    sem_t news;
    sem_init(&news, 0, 0);
    double start_s = agl_clock_s();
    uint32_t open = 0;
    for (; status == AGL_OK && open < o->batch; open++) {
        for (uint32_t i = 0; i < o->input_tokens; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            tokens[i] = (int32_t)(first + (uint32_t)((seed >> 33) % (last - first)));
        }
        status = submit(&streams[open], engine, o, tokens, &news, err);
        if (status != AGL_OK) break;
    }
    uint32_t ended = 0;
    while (status == AGL_OK && ended < open && !*o->interrupted) {
        bool any = false;
        for (uint32_t i = 0; i < open && status == AGL_OK; i++) {
            if (streams[i].ended) continue;
            while (status == AGL_OK && !streams[i].ended && take(&streams[i], start_s, sum, err, &status)) {
                any = true;
            }
            ended += streams[i].ended;
        }
        if (!any) wait_for_news(&news);
    }
    double seconds = agl_clock_s() - start_s;
    add(&sum->latency_s, seconds);
    sum->elapsed_s += seconds;
    for (uint32_t i = 0; streams != NULL && i < o->batch; i++) agl_request_destroy(streams[i].request);
    sem_destroy(&news);
    free(streams);
    free(tokens);
    if (status == AGL_OK && *o->interrupted) status = agl_fail(err, AGL_ERR_CANCELLED, "interrupted");
    return status;
}

/* ---- reports ------------------------------------------------------------ */

static agl_status deliver(const agl_bench_direct_options *o, agl_buffer *json, agl_error *err)
{
    agl_buffer_append_char(json, '\n');
    if (json->failed) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the results");
    if (o->json) fwrite(json->data, 1, json->bytes, stdout);
    if (o->save_path == NULL) return AGL_OK;
    FILE *file = fopen(o->save_path, "w");
    bool written = file != NULL && fwrite(json->data, 1, json->bytes, file) == json->bytes;
    if (file != NULL && fclose(file) != 0) written = false;
    return written ? AGL_OK : agl_fail(err, AGL_ERR_IO, "%s: cannot be written", o->save_path);
}

static void append_summary(agl_buffer *json, const char *key, const agl_summary *s)
{
    agl_buffer_append_format(json,
        ",\"%s\":{\"mean\":%.6f,\"std\":%.6f,\"median\":%.6f,\"min\":%.6f,\"max\":%.6f,\"p90\":%.6f,\"p99\":%.6f}",
        key, s->mean * 1e3, s->deviation * 1e3, s->median * 1e3, s->min * 1e3, s->max * 1e3, s->p90 * 1e3,
        s->p99 * 1e3);
}

static void print_row(const char *name, const agl_summary *s)
{
    printf("%-28s %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, s->mean * 1e3, s->deviation * 1e3,
           s->median * 1e3, s->p99 * 1e3, s->min * 1e3);
}

static void print_head(agl_engine *engine, const agl_bench_direct_options *o)
{
    agl_model_info info = agl_engine_model_info(engine);
    printf("%s  %s  %s  %.2f B parameters\n", info.architecture, info.dtype, info.device,
           (double)info.parameters * 1e-9);
    printf("%u tokens in, %u out, %u at once, %u iterations\n", o->input_tokens, o->output_tokens, o->batch,
           o->iterations);
    printf("%-28s %10s %10s %10s %10s %10s\n", "ms", "mean", "sd", "median", "p99", "min");
}

static agl_status report_latency(agl_engine *engine, const agl_bench_direct_options *o, outcome *sum,
                                 agl_error *err)
{
    static const double PERCENTS[] = {10, 25, 50, 75, 90, 99};
    agl_buffer json;
    agl_buffer_init(&json, 0);
    agl_buffer_append_text(&json, "{\"latencies\":[");
    for (size_t i = 0; i < sum->latency_s.count; i++) {
        agl_buffer_append_format(&json, i > 0 ? ",%.6f" : "%.6f", sum->latency_s.values[i]);
    }
    agl_summary latency = agl_summary_of(sum->latency_s.values, sum->latency_s.count);
    agl_summary ttft = agl_summary_of(sum->ttft_s.values, sum->ttft_s.count);
    agl_summary gap = agl_summary_of(sum->gap_s.values, sum->gap_s.count);
    agl_buffer_append_format(&json, "],\"avg_latency\":%.6f,\"percentiles\":{", latency.mean);
    for (size_t i = 0; i < AGL_COUNT(PERCENTS); i++) {
        agl_buffer_append_format(&json, "%s\"%g\":%.6f", i > 0 ? "," : "", PERCENTS[i],
                                 agl_percentile(sum->latency_s.values, sum->latency_s.count, PERCENTS[i]));
    }
    double tokens_per_s = sum->elapsed_s > 0 ? (double)sum->output_tokens / sum->elapsed_s : 0;
    agl_buffer_append_format(&json, "},\"batch_size\":%u,\"input_len\":%u,\"output_len\":%u,"
                             "\"output_throughput\":%.6f", o->batch, o->input_tokens, o->output_tokens, tokens_per_s);
    append_summary(&json, "ttft_ms", &ttft);
    append_summary(&json, "itl_ms", &gap);
    agl_buffer_append_char(&json, '}');
    if (!o->json) {
        print_head(engine, o);
        print_row("latency of a batch", &latency);
        print_row("time to first token", &ttft);
        print_row("inter-token latency", &gap);
        printf("%-28s %10.2f\n", "output tokens/s", tokens_per_s);
    }
    agl_status status = deliver(o, &json, err);
    agl_buffer_deinit(&json);
    return status;
}

static agl_status report_throughput(agl_engine *engine, const agl_bench_direct_options *o, outcome *sum,
                                    agl_error *err)
{
    double requests = (double)o->batch * (double)sum->latency_s.count;
    double total = (double)(sum->prompt_tokens + sum->output_tokens);
    agl_summary ttft = agl_summary_of(sum->ttft_s.values, sum->ttft_s.count);
    agl_summary gap = agl_summary_of(sum->gap_s.values, sum->gap_s.count);
    agl_buffer json;
    agl_buffer_init(&json, 0);
    agl_buffer_append_format(&json, "{\"elapsed_time\":%.6f,\"num_requests\":%.0f,\"total_num_tokens\":%.0f,"
                             "\"requests_per_second\":%.6f,\"tokens_per_second\":%.6f,"
                             "\"output_tokens_per_second\":%.6f", sum->elapsed_s, requests, total,
                             requests / sum->elapsed_s, total / sum->elapsed_s,
                             (double)sum->output_tokens / sum->elapsed_s);
    append_summary(&json, "ttft_ms", &ttft);
    append_summary(&json, "itl_ms", &gap);
    agl_buffer_append_char(&json, '}');
    if (!o->json) {
        print_head(engine, o);
        print_row("time to first token", &ttft);
        print_row("inter-token latency", &gap);
        printf("throughput: %.2f requests/s, %.2f total tokens/s, %.2f output tokens/s\n",
               requests / sum->elapsed_s, total / sum->elapsed_s, (double)sum->output_tokens / sum->elapsed_s);
    }
    agl_status status = deliver(o, &json, err);
    agl_buffer_deinit(&json);
    return status;
}

/* Warm-ups, then iterations of one batch on a fresh engine. */
static agl_status measure(const agl_bench_direct_options *o,
                          agl_status (*report)(agl_engine *, const agl_bench_direct_options *, outcome *,
                                               agl_error *),
                          agl_error *err)
{
    if (o->batch == 0 || o->iterations == 0 || o->input_tokens == 0) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "batch size, iterations and input length: at least 1 expected");
    }
    agl_engine *engine;
    AGL_TRY(agl_engine_create(&engine, &o->engine, err));
    outcome warm = {0}, sum = {0};
    agl_status status = AGL_OK;
    for (uint32_t i = 0; status == AGL_OK && i < o->warmups; i++) {
        status = run_batch(engine, o, o->seed + 1000003u * (i + 1), &warm, err);
        note(o, "warm-up", i + 1, o->warmups);
    }
    for (uint32_t i = 0; status == AGL_OK && i < o->iterations; i++) {
        status = run_batch(engine, o, o->seed + 7919u * i, &sum, err);
        note(o, "iteration", i + 1, o->iterations);
    }
    /* Interrupted runs keep what was measured. */
    if (status == AGL_ERR_CANCELLED && sum.latency_s.count > 1) {
        sum.latency_s.count--;
        status = AGL_OK;
    }
    if (status == AGL_OK) status = report(engine, o, &sum, err);
    outcome_deinit(&warm);
    outcome_deinit(&sum);
    agl_engine_destroy(engine);
    return status;
}

agl_status agl_bench_latency(const agl_bench_direct_options *options, agl_error *err)
{
    return measure(options, report_latency, err);
}

agl_status agl_bench_throughput(const agl_bench_direct_options *options, agl_error *err)
{
    return measure(options, report_throughput, err);
}

/* ---- start-up ----------------------------------------------------------- */

enum { PHASES_MAX = 16 };

typedef struct {
    char names[PHASES_MAX][48];
    double begin_s[PHASES_MAX];
    size_t count;
} phases;

static void on_phase(void *user, const char *name, double fraction)
{
    (void)fraction;
    phases *p = user;
    if (p->count > 0 && strcmp(p->names[p->count - 1], name) == 0) return;
    if (p->count == PHASES_MAX) return;
    snprintf(p->names[p->count], sizeof p->names[0], "%s", name);
    p->begin_s[p->count++] = agl_clock_s();
}

static agl_status start_once(const agl_bench_direct_options *o, agl_buffer *json, bool first, agl_error *err)
{
    phases p = {0};
    agl_engine_options options = o->engine;
    options.progress = on_phase;
    options.progress_user = &p;
    agl_engine *engine;
    double start_s = agl_clock_s();
    AGL_TRY(agl_engine_create(&engine, &options, err));
    double ready_s = agl_clock_s();
    outcome one = {0};
    agl_bench_direct_options single = *o;
    single.batch = 1;
    single.output_tokens = 1;
    agl_status status = run_batch(engine, &single, o->seed, &one, err);
    double token_s = agl_clock_s();
    agl_engine_destroy(engine);
    outcome_deinit(&one);
    if (status != AGL_OK) return status;
    agl_buffer_append_format(json, "%s{\"ready_s\":%.6f,\"first_token_s\":%.6f,\"phases\":{", first ? "" : ",",
                             ready_s - start_s, token_s - start_s);
    for (size_t i = 0; i < p.count; i++) {
        double end_s = i + 1 < p.count ? p.begin_s[i + 1] : ready_s;
        agl_buffer_append_format(json, "%s\"%s\":%.6f", i > 0 ? "," : "", p.names[i], end_s - p.begin_s[i]);
        if (!o->json) printf("  %-28s %8.3f s\n", p.names[i], end_s - p.begin_s[i]);
    }
    agl_buffer_append_text(json, "}}");
    if (!o->json) {
        printf("  %-28s %8.3f s\n  %-28s %8.3f s\n", "ready", ready_s - start_s, "first token", token_s - start_s);
    }
    return AGL_OK;
}

agl_status agl_bench_startup(const agl_bench_direct_options *options, agl_error *err)
{
    agl_buffer json;
    agl_buffer_init(&json, 0);
    agl_buffer_append_text(&json, "{\"starts\":[");
    agl_status status = AGL_OK;
    for (uint32_t i = 0; status == AGL_OK && i < options->iterations && !*options->interrupted; i++) {
        if (!options->json) printf("start %u of %u\n", i + 1, options->iterations);
        status = start_once(options, &json, i == 0, err);
    }
    agl_buffer_append_text(&json, "]}");
    if (status == AGL_OK) status = deliver(options, &json, err);
    agl_buffer_deinit(&json);
    return status;
}
