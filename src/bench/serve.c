/* SPDX-License-Identifier: Apache-2.0
 *
 * serve.c - `autoglm bench serve`: latency and throughput of a server over HTTP.
 *
 * Definitions are vLLM's (benchmarks/serve): TTFT to the first event with a choice, ITL
 * between such events, E2EL to the last event, TPOT = (E2EL - TTFT) / (tokens - 1).
 * Beside them: TTFT to the first text, and E2EL / tokens (guidellm's TPOT). */
#include "bench/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "bench/load.h"
#include "bench/statistics.h"

/* Above this the client's own delay is a visible part of an inter-token latency. */
#define LAG_P99_MAX_S 0.001
#define REPETITIONS_MAX 100

typedef enum { TTFT, TTFT_TEXT, TPOT, ITL, E2EL, TPOT_ALL, METRIC_COUNT } metric;

static const struct {
    const char *key, *title;
} METRICS[METRIC_COUNT] = {
    [TTFT] = {"ttft", "Time to First Token"},
    [TTFT_TEXT] = {"ttft_text", "Time to First Text"},
    [TPOT] = {"tpot", "Time per Output Token (excl. 1st)"},
    [ITL] = {"itl", "Inter-token Latency"},
    [E2EL] = {"e2el", "End-to-end Latency"},
    [TPOT_ALL] = {"latency_per_token", "Latency per Output Token (incl. 1st)"},
};

/* One repetition against one server. */
typedef struct {
    agl_load_summary load;
    agl_summary metrics[METRIC_COUNT];  /* milliseconds */
    double request_throughput, output_throughput, total_throughput, goodput;
    uint64_t input_tokens, output_tokens, cached_tokens;
    agl_digest answers;                 /* of all texts in order */
    char first_error[200];
} run_result;

/* All repetitions against one server. */
typedef struct {
    const char *url;
    char endpoint[1024];
    run_result runs[REPETITIONS_MAX];
    size_t run_count;
    agl_load_result *last;              /* requests of the last repetition */
} target;

static void endpoint_of(char *out, size_t size, const char *base, bool completions)
{
    size_t bytes = strlen(base);
    while (bytes > 0 && base[bytes - 1] == '/') bytes--;
    bool has_version = bytes >= 3 && memcmp(base + bytes - 3, "/v1", 3) == 0;
    snprintf(out, size, "%.*s%s/%s", (int)bytes, base, has_version ? "" : "/v1",
             completions ? "completions" : "chat/completions");
}

/* ---- one run ------------------------------------------------------------ */

typedef struct {
    const char *what;
    bool enabled;
    double drawn_s;
} bar;

static void draw_bar(void *user, size_t done, size_t total, double seconds)
{
    bar *b = user;
    if (!b->enabled || (done < total && seconds - b->drawn_s < 0.1)) return;
    b->drawn_s = seconds;
    int width = total > 0 ? (int)(30 * done / total) : 0;
    fprintf(stderr, "\r  %-24.24s [%-30.*s] %zu/%zu  %.1f s ", b->what, width,
            "##############################", done, total, seconds);
    if (done == total) fputc('\n', stderr);
    fflush(stderr);
}

static bool meets(const agl_bench_serve_options *o, double ttft, double tpot, double e2el)
{
    return (o->goodput_ttft_ms <= 0 || ttft <= o->goodput_ttft_ms)
        && (o->goodput_tpot_ms <= 0 || tpot <= o->goodput_tpot_ms)
        && (o->goodput_e2el_ms <= 0 || e2el <= o->goodput_e2el_ms);
}

/* Times of every answered request as sample lists, in ms. */
static agl_status measure(run_result *run, const agl_bench_serve_options *o,
                          const agl_load_result *results, size_t count, agl_error *err)
{
    size_t gaps = 0, used[METRIC_COUNT] = {0}, good = 0;
    for (size_t i = 0; i < count; i++) gaps += results[i].gap_count;
    double *samples[METRIC_COUNT];
    for (int m = 0; m < METRIC_COUNT; m++) {
        samples[m] = malloc(((m == ITL ? gaps : count) + 1) * sizeof **samples);
        if (samples[m] == NULL) {
            while (m > 0) free(samples[--m]);
            return agl_fail(err, AGL_ERR_MEMORY, "no memory for %zu samples", gaps + count);
        }
    }
    agl_digest_part *texts = calloc(count, sizeof *texts);
    for (size_t i = 0; i < count; i++) {
        const agl_load_result *r = &results[i];
        if (texts != NULL) texts[i] = (agl_digest_part){r->text, r->text_bytes};
        if (!r->ok) {
            if (run->first_error[0] == '\0')
                snprintf(run->first_error, sizeof run->first_error, "%s", r->error);
            continue;
        }
        double ttft = 1e3 * (r->first_event_s - r->sent_s),
               e2el = 1e3 * (r->last_event_s - r->sent_s);
        double tpot = r->output_tokens > 1 ? (e2el - ttft) / (r->output_tokens - 1) : 0;
        samples[TTFT][used[TTFT]++] = ttft;
        samples[E2EL][used[E2EL]++] = e2el;
        if (r->first_text_s > 0)
            samples[TTFT_TEXT][used[TTFT_TEXT]++] = 1e3 * (r->first_text_s - r->sent_s);
        if (r->output_tokens > 1) samples[TPOT][used[TPOT]++] = tpot;
        if (r->output_tokens > 0) samples[TPOT_ALL][used[TPOT_ALL]++] = e2el / r->output_tokens;
        for (uint32_t g = 0; g < r->gap_count; g++)
            samples[ITL][used[ITL]++] = 1e3 * (double)r->gaps_s[g];
        good += meets(o, ttft, tpot, e2el);
        run->input_tokens += r->prompt_tokens;
        run->output_tokens += r->output_tokens;
        run->cached_tokens += r->cached_tokens;
    }
    for (int m = 0; m < METRIC_COUNT; m++) {
        run->metrics[m] = agl_summary_of(samples[m], used[m]);
        free(samples[m]);
    }
    if (texts != NULL) run->answers = agl_digest_of(texts, count);
    free(texts);
    double seconds = run->load.duration_s;
    if (seconds > 0) {
        run->request_throughput = (double)run->load.completed / seconds;
        run->output_throughput = (double)run->output_tokens / seconds;
        run->total_throughput = (double)(run->input_tokens + run->output_tokens) / seconds;
        run->goodput = (double)good / seconds;
    }
    return AGL_OK;
}

static agl_status run_once(target *t, agl_workload *workload, const agl_bench_serve_options *o,
                           size_t sessions, bool keep, const char *what, agl_error *err)
{
    bar progress = {.what = what, .enabled = !o->quiet && isatty(STDERR_FILENO)};
    size_t count = sessions * agl_workload_turns(workload);
    agl_load_result *results = calloc(count, sizeof *results);
    if (results == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for %zu results", count);
    agl_load_options load = {
        .url = t->endpoint, .api_key = o->api_key, .sessions = sessions,
        .turns = agl_workload_turns(workload), .max_concurrency = o->max_concurrency,
        .request_rate = o->request_rate, .burstiness = o->burstiness, .seed = o->workload.seed,
        .build = agl_workload_build, .build_user = workload, .progress = draw_bar,
        .progress_user = &progress, .interrupted = o->interrupted,
    };
    run_result run = {0};
    agl_status status = agl_load_run(results, &run.load, &load, err);
    if (status == AGL_OK && keep) {
        status = measure(&run, o, results, count, err);
        if (status == AGL_OK) {
            t->runs[t->run_count++] = run;
            if (t->last != NULL) agl_load_results_free(t->last, count);
            free(t->last);
            t->last = results;
            return AGL_OK;
        }
    }
    if (status == AGL_OK && run.load.completed == 0 && run.load.unsent < count) {
        status = agl_fail(err, AGL_ERR_IO, "%s: %s", t->endpoint, results[0].error);
    }
    agl_load_results_free(results, count);
    free(results);
    return status;
}

/* ---- report ------------------------------------------------------------- */

static const run_result *last_run(const target *t)
{
    return &t->runs[t->run_count - 1];
}

/* Mean over the repetitions of one number and its 95 % interval. */
static double over_runs(double *interval, const target *t, double (*value)(const run_result *, int),
                        int which)
{
    double samples[REPETITIONS_MAX], sum = 0;
    for (size_t i = 0; i < t->run_count; i++) sum += samples[i] = value(&t->runs[i], which);
    *interval = agl_confidence95(samples, t->run_count);
    return sum / (double)t->run_count;
}

static double mean_of(const run_result *run, int m) { return run->metrics[m].mean; }
static double median_of(const run_result *run, int m) { return run->metrics[m].median; }
static double output_rate_of(const run_result *run, int unused)
{
    (void)unused;
    return run->output_throughput;
}

static void row(FILE *out, const char *name, const char *format, double value)
{
    char text[48];
    snprintf(text, sizeof text, format, value);
    fprintf(out, "%-40s %-10s\n", name, text);
}

static void print_text(FILE *out, const target *t, const agl_bench_serve_options *o)
{
    const run_result *run = last_run(t);
    fprintf(out, "============ Serving Benchmark Result ============\n");
    fprintf(out, "%-40s %s\n", "Server:", t->endpoint);
    row(out, "Successful requests:", "%.0f", (double)run->load.completed);
    row(out, "Failed requests:", "%.0f", (double)run->load.failed);
    if (o->max_concurrency > 0)
        row(out, "Maximum request concurrency:", "%.0f", o->max_concurrency);
    if (o->request_rate > 0) row(out, "Request rate configured (RPS):", "%.2f", o->request_rate);
    row(out, "Benchmark duration (s):", "%.2f", run->load.duration_s);
    row(out, "Total input tokens:", "%.0f", (double)run->input_tokens);
    row(out, "Total cached input tokens:", "%.0f", (double)run->cached_tokens);
    row(out, "Total generated tokens:", "%.0f", (double)run->output_tokens);
    row(out, "Request throughput (req/s):", "%.2f", run->request_throughput);
    if (o->goodput_ttft_ms > 0 || o->goodput_tpot_ms > 0 || o->goodput_e2el_ms > 0) {
        row(out, "Request goodput (req/s):", "%.2f", run->goodput);
    }
    row(out, "Output token throughput (tok/s):", "%.2f", run->output_throughput);
    row(out, "Peak output token throughput (tok/s):", "%.2f", run->load.peak_tokens_per_s);
    row(out, "Peak concurrent requests:", "%.0f", run->load.peak_concurrency);
    row(out, "Total token throughput (tok/s):", "%.2f", run->total_throughput);
    for (int m = 0; m < METRIC_COUNT; m++) {
        const agl_summary *s = &run->metrics[m];
        char heading[64], name[48];
        int pad = (50 - (int)strlen(METRICS[m].title)) / 2;
        snprintf(heading, sizeof heading, "%.*s%s%.*s", pad, "-------------------------",
                 METRICS[m].title, 50 - pad - (int)strlen(METRICS[m].title),
                 "-------------------------");
        fprintf(out, "%s\n", heading);
        const struct { const char *word; double value;
        } rows[] = {{"Mean", s->mean},
                    {"Median", s->median},
                    {"P90", s->p90},
                    {"P99", s->p99},
                    {"Std", s->deviation}};
        for (size_t i = 0; i < AGL_COUNT(rows); i++) {
            snprintf(name, sizeof name, "%s %s (ms):", rows[i].word, METRICS[m].key);
            row(out, name, "%.2f", rows[i].value);
        }
    }
    fprintf(out, "------------------- This client ------------------\n");
    row(out, "CPU share of one core (%):", "%.1f", 100 * run->load.client_cpu_share);
    row(out, "P99 lag (ms):", "%.3f", 1e3 * run->load.lag_p99_s);
    if (t->run_count > 1) {
        double interval, mean;
        fprintf(out, "-------- %zu repetitions, mean +- 95 %% --------\n", t->run_count);
        for (int m = 0; m < METRIC_COUNT; m++) {
            mean = over_runs(&interval, t, median_of, m);
            fprintf(out, "median %-33s %.2f +- %.2f\n", METRICS[m].key, mean, interval);
        }
        mean = over_runs(&interval, t, output_rate_of, 0);
        fprintf(out, "%-40s %.2f +- %.2f\n", "output tok/s", mean, interval);
    }
    fprintf(out, "==================================================\n");
    if (run->first_error[0] != '\0') fprintf(out, "first error: %s\n", run->first_error);
}

static void append_list(agl_buffer *out, const char *key, const agl_load_result *r, size_t count,
                        int which)
{
    agl_buffer_append_format(out, ",\"%s\":[", key);
    for (size_t i = 0; i < count; i++) {
        if (i > 0) agl_buffer_append_char(out, ',');
        switch (which) {
        case 0: agl_buffer_append_format(out, "%u", r[i].prompt_tokens); break;
        case 1: agl_buffer_append_format(out, "%u", r[i].output_tokens); break;
        case 2:
            agl_buffer_append_format(out, "%.6f", r[i].ok ? r[i].first_event_s - r[i].sent_s : 0);
            break;
        case 3: agl_buffer_append_format(out, "%.6f", r[i].sent_s); break;
        case 4:
            agl_buffer_append_char(out, '[');
            for (uint32_t g = 0; g < r[i].gap_count; g++) {
                agl_buffer_append_format(out, g > 0 ? ",%.6f" : "%.6f", (double)r[i].gaps_s[g]);
            }
            agl_buffer_append_char(out, ']');
            break;
        default: {
            const char *text = which == 5 ? (r[i].text != NULL ? r[i].text : "") : r[i].error;
            agl_buffer_append_char(out, '"');
            agl_buffer_append_json(out, text, strlen(text));
            agl_buffer_append_char(out, '"');
        }
        }
    }
    agl_buffer_append_char(out, ']');
}

static void append_string(agl_buffer *out, const char *key, const char *text)
{
    agl_buffer_append_format(out, "\"%s\":", key);
    if (text == NULL) {
        agl_buffer_append_text(out, "null,");
        return;
    }
    agl_buffer_append_char(out, '"');
    agl_buffer_append_json(out, text, strlen(text));
    agl_buffer_append_text(out, "\",");
}

static void append_json(agl_buffer *out, const target *t, const agl_bench_serve_options *o,
                        size_t requests)
{
    const run_result *run = last_run(t);
    char date[32], hex[65];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y%m%d-%H%M%S", gmtime_r(&now, &utc));
    for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", run->answers.bytes[i]);
    agl_buffer_append_char(out, '{');
    append_string(out, "date", date);
    append_string(out, "endpoint_type", o->workload.completions ? "openai" : "openai-chat");
    append_string(out, "backend", o->workload.completions ? "openai" : "openai-chat");
    append_string(out, "label", o->label);
    append_string(out, "model_id", o->workload.model);
    append_string(out, "tokenizer_id", o->workload.model);
    append_string(out, "base_url", t->url);
    append_string(out, "answers_sha256", hex);
    agl_buffer_append_format(out, "\"num_prompts\":%zu,", requests);
    if (o->request_rate > 0) agl_buffer_append_format(out, "\"request_rate\":%g,", o->request_rate);
    else agl_buffer_append_text(out, "\"request_rate\":\"inf\",");
    agl_buffer_append_format(out, "\"burstiness\":%g,", o->burstiness > 0 ? o->burstiness : 1);
    if (o->max_concurrency > 0)
        agl_buffer_append_format(out, "\"max_concurrency\":%u,", o->max_concurrency);
    else agl_buffer_append_text(out, "\"max_concurrency\":null,");
    agl_buffer_append_format(
        out,
        "\"duration\":%.6f,\"completed\":%zu,\"failed\":%zu,\"unsent\":%zu,"
        "\"total_input_tokens\":%llu,"
        "\"total_cached_tokens\":%llu,\"total_output_tokens\":%llu,\"request_throughput\":%.6f,"
        "\"request_goodput\":%.6f,\"output_throughput\":%.6f,\"total_token_throughput\":%.6f,"
        "\"max_output_tokens_per_s\":%.1f,\"max_concurrent_requests\":%u,\"client_cpu_share\":%.4f,"
        "\"client_lag_p99_ms\":%.4f,\"repetitions\":%zu",
        run->load.duration_s, run->load.completed, run->load.failed, run->load.unsent,
        (unsigned long long)run->input_tokens, (unsigned long long)run->cached_tokens,
        (unsigned long long)run->output_tokens, run->request_throughput, run->goodput,
        run->output_throughput, run->total_throughput, run->load.peak_tokens_per_s,
        run->load.peak_concurrency, run->load.client_cpu_share, 1e3 * run->load.lag_p99_s,
        t->run_count);
    for (int m = 0; m < METRIC_COUNT; m++) {
        const agl_summary *s = &run->metrics[m];
        const char *key = METRICS[m].key;
        double interval, mean = over_runs(&interval, t, mean_of, m);
        agl_buffer_append_format(
            out,
            ",\"mean_%s_ms\":%.6f,\"median_%s_ms\":%.6f,\"std_%s_ms\":%.6f,\"p90_%s_ms\":%.6f,"
            "\"p95_%s_ms\":%.6f,\"p99_%s_ms\":%.6f,\"repetitions_mean_%s_ms\":%.6f,"
            "\"ci95_%s_ms\":%.6f",
            key, s->mean, key, s->median, key, s->deviation, key, s->p90, key, s->p95, key, s->p99,
            key, mean, key, interval);
    }
    if (o->save_detailed) {
        static const char *const LISTS[] = {"input_lens", "output_lens",     "ttfts", "start_times",
                                            "itls",       "generated_texts", "errors"};
        for (int i = 0; i < (int)AGL_COUNT(LISTS); i++)
            append_list(out, LISTS[i], t->last, requests, i);
    }
    agl_buffer_append_char(out, '}');
}

/* Greedy answers to the same requests are the same bytes in every run and on both servers. */
static void compare_answers(FILE *out, const target *targets, size_t count,
                            const agl_bench_serve_options *o)
{
    if (o->workload.temperature > 0) return;
    for (size_t t = 0; t < count; t++) {
        for (size_t i = 1; i < targets[t].run_count; i++) {
            if (agl_digest_equal(&targets[t].runs[0].answers, &targets[t].runs[i].answers))
                continue;
            fprintf(out, "warning: %s: greedy answers differ between repetitions 1 and %zu\n",
                    targets[t].url, i + 1);
            break;
        }
    }
    if (count == 2 &&
        !agl_digest_equal(&last_run(&targets[0])->answers, &last_run(&targets[1])->answers)) {
        fprintf(out,
                "warning: the two servers' greedy answers differ: compare their speed with care\n");
    }
}

static agl_status write_results(const target *targets, size_t count,
                                const agl_bench_serve_options *o, size_t requests, agl_error *err)
{
    agl_buffer out;
    agl_buffer_init(&out, 0);
    if (count > 1) agl_buffer_append_char(&out, '[');
    for (size_t t = 0; t < count; t++) {
        if (t > 0) agl_buffer_append_char(&out, ',');
        append_json(&out, &targets[t], o, requests);
    }
    if (count > 1) agl_buffer_append_char(&out, ']');
    agl_buffer_append_char(&out, '\n');
    agl_status status = out.failed ? agl_fail(err, AGL_ERR_MEMORY, "no memory for the results")
                                   : AGL_OK;
    if (status == AGL_OK && o->save_path != NULL) {
        FILE *file = fopen(o->save_path, "w");
        bool written = file != NULL && fwrite(out.data, 1, out.bytes, file) == out.bytes;
        if (file != NULL && fclose(file) != 0) written = false;
        if (!written) status = agl_fail(err, AGL_ERR_IO, "%s: cannot be written", o->save_path);
    }
    if (status == AGL_OK && o->json) fwrite(out.data, 1, out.bytes, stdout);
    agl_buffer_deinit(&out);
    return status;
}

static int judge(const target *targets, size_t count, const agl_bench_serve_options *o)
{
    int exit_status = 0;
    for (size_t t = 0; t < count; t++) {
        const agl_load_summary *load = &last_run(&targets[t])->load;
        if (load->failed > 0) exit_status = 1;
        if (load->lag_p99_s > LAG_P99_MAX_S && !o->allow_lag) {
            fprintf(
                stderr,
                "error: this client noted tokens up to %.2f ms (p99) after they arrived: it is too "
                "slow for this load; lower it, free a core, or accept with --allow-lag\n",
                1e3 * load->lag_p99_s);
            exit_status = 3;
        }
    }
    return exit_status;
}

agl_status agl_bench_serve(int *exit_status, const agl_bench_serve_options *options, agl_error *err)
{
    const agl_bench_serve_options *o = options;
    size_t count = o->against != NULL ? 2 : 1;
    uint32_t repetitions = o->repetitions > 0 ? o->repetitions : 1;
    if (repetitions > REPETITIONS_MAX) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "--repetitions is %u, at most %d expected",
                        repetitions, REPETITIONS_MAX);
    }
    agl_workload *workload;
    AGL_TRY(agl_workload_create(&workload, &o->workload, err));
    size_t sessions = agl_workload_sessions(workload);
    target *targets = calloc(2, sizeof *targets);
    agl_status status = targets == NULL ? agl_fail(err, AGL_ERR_MEMORY, "no memory") : AGL_OK;
    for (size_t t = 0; status == AGL_OK && t < count; t++) {
        targets[t].url = t == 0 ? o->base_url : o->against;
        endpoint_of(targets[t].endpoint, sizeof targets[t].endpoint, targets[t].url,
                    o->workload.completions);
        size_t warm = o->warmups < sessions ? o->warmups : sessions;
        agl_workload_salt(workload, o->warm_cache ? 0 : repetitions + 1);
        if (warm > 0) status = run_once(&targets[t], workload, o, warm, false, "warm-up", err);
    }
    for (uint32_t r = 0; status == AGL_OK && r < repetitions && !*o->interrupted; r++) {
        for (size_t k = 0; status == AGL_OK && k < count; k++) {
            /* A B, B A, A B ...: neither always runs on the warmer machine. */
            size_t t = r % 2 == 0 ? k : count - 1 - k;
            char what[48];
            snprintf(what, sizeof what, "run %u/%u%s", r + 1, repetitions,
                     count == 1 ? ""
                     : t == 0   ? " A"
                                : " B");
            agl_workload_salt(workload, o->warm_cache ? 0 : r + 1);
            status = run_once(&targets[t], workload, o, sessions, true, what, err);
        }
    }
    bool measured = status == AGL_OK && targets[0].run_count > 0 &&
                    targets[count - 1].run_count > 0;
    if (measured) {
        *exit_status = judge(targets, count, o);
        for (size_t t = 0; t < count && !o->json; t++) print_text(stdout, &targets[t], o);
        compare_answers(stderr, targets, count, o);
        status = write_results(targets, count, o, sessions * agl_workload_turns(workload), err);
    } else if (status == AGL_OK) {
        status = agl_fail(err, AGL_ERR_CANCELLED, "interrupted before anything was measured");
    }
    for (size_t t = 0; targets != NULL && t < count; t++) {
        if (targets[t].last != NULL) {
            agl_load_results_free(targets[t].last, sessions * agl_workload_turns(workload));
        }
        free(targets[t].last);
    }
    free(targets);
    agl_workload_destroy(workload);
    return status;
}
