/* SPDX-License-Identifier: Apache-2.0
 *
 * http_soak.c - run the real server for minutes under everything clients do to it.
 *
 *     http_soak [--seconds 60] [--streams 256] [--seed 1] [--timeout 120] [--rise 8] [--json FILE]
 *               --model DIR [--server build/autoglm] [-- flags of the server]
 *
 * --rise: MiB that memory may grow by after the warm-up; much, for a server under a sanitizer.
 * Phases: load; quiet (everything must be back at zero); long streams, then SIGTERM.
 * Exit status 1 if any answer was wrong, anything leaked, or the end was not clean. */
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "load/soak_load.h"

#define ARGUMENTS_MAX 64
#define SHUTDOWN_S 5
#define WARMUP_SHARE 0.25
/* Memory is flat if the fitted line rises by less than --rise over the whole measurement, or by this per minute. */
#define RISE_MIB_DEFAULT 8.0
#define SLOPE_BYTES_MAX (0.5 * 1048576)

typedef struct {
    double seconds, timeout_s, rise_mib;
    uint32_t streams;
    uint64_t seed;
    const char *model, *binary, *json;
    char *const *more;
    int more_count;
} options;

typedef struct {
    double time_s, rss_bytes;
} memory_sample;

typedef struct {
    options options;
    soak_server server;
    soak_load *load;
    double start_s;
    memory_sample *samples;
    size_t sample_count, sample_capacity;
    double rss_slope;           /* bytes per minute after the warm-up */
    double rss_rise, rss_end;   /* bytes                              */
    double cpu_s, load_s;
    double steps, preemptions, prefix_hits, step_s, schedule_s, overlapped_s, aborts;
    double load_average;
    int failures;
    int exit_code;
    uint32_t drained, cut;
} soak;

__attribute__((format(printf, 2, 3)))
static void fail(soak *self, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "FAILED: ");
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    self->failures++;
}

/* ---- options ----------------------------------------------------------- */

static void usage(void)
{
    fprintf(stderr, "http_soak --model DIR [--seconds N] [--streams N] [--seed N] [--timeout N] [--rise MIB] [--json FILE] "
                    "[--server PROGRAM] [-- server flags]\n");
    exit(2);
}

static void read_options(options *o, int argc, char **argv)
{
    *o = (options){.seconds = 60, .streams = 256, .seed = 1, .timeout_s = 120, .rise_mib = RISE_MIB_DEFAULT, .binary = "build/autoglm"};
    for (int i = 1; i < argc; i += 2) {
        if (strcmp(argv[i], "--") == 0) {
            o->more = argv + i + 1;
            o->more_count = argc - i - 1;
            break;
        }
        if (i + 1 >= argc) usage();
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--seconds") == 0) o->seconds = strtod(value, NULL);
        else if (strcmp(name, "--streams") == 0) o->streams = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--seed") == 0) o->seed = strtoull(value, NULL, 10);
        else if (strcmp(name, "--timeout") == 0) o->timeout_s = strtod(value, NULL);
        else if (strcmp(name, "--rise") == 0) o->rise_mib = strtod(value, NULL);
        else if (strcmp(name, "--json") == 0) o->json = value;
        else if (strcmp(name, "--model") == 0) o->model = value;
        else if (strcmp(name, "--server") == 0) o->binary = value;
        else usage();
    }
    if (o->model == NULL || o->streams == 0 || o->streams > 900 || o->seconds <= 0) usage();
}

/* Few pages, so that sequences are preempted; a small encoder cache, so that pictures are evicted. */
static bool start_server(soak *self, const char *log_path)
{
    const options *o = &self->options;
    char shutdown[16];
    snprintf(shutdown, sizeof shutdown, "%d", SHUTDOWN_S);
    const char *arguments[ARGUMENTS_MAX] = {
        o->binary, "serve", "--model", o->model, "--served-model-name", "soak", "--host", "127.0.0.1", "--port", "0",
        "--max-num-seqs", "256", "--kv-cache-memory-bytes", "16M", "--max-pixels", "50176", "--encoder-cache-bytes", "48K",
        "--shutdown-timeout", shutdown, "--disable-uvicorn-access-log",
    };
    int count = 0;
    while (arguments[count] != NULL) count++;
    for (int i = 0; i < o->more_count && count < ARGUMENTS_MAX - 1; i++) arguments[count++] = o->more[i];
    char *argv[ARGUMENTS_MAX];
    memcpy(argv, arguments, sizeof argv);
    return soak_server_start(&self->server, argv, log_path, 120);
}

/* ---- memory ------------------------------------------------------------ */

static void take_sample(void *user)
{
    soak *self = user;
    soak_process process;
    if (!soak_process_read(&process, self->server.pid)) return;
    if (self->sample_count == self->sample_capacity) {
        self->sample_capacity = 2 * self->sample_capacity + 256;
        self->samples = realloc(self->samples, self->sample_capacity * sizeof *self->samples);
        if (self->samples == NULL) abort();
    }
    self->samples[self->sample_count++] = (memory_sample){agl_clock_s() - self->start_s, process.rss_bytes};
}

/* Least squares of resident bytes over minutes. */
static void fit_memory(soak *self)
{
    double n = 0, x = 0, y = 0, xx = 0, xy = 0, first_s = self->options.seconds * WARMUP_SHARE, last_s = first_s;
    for (size_t i = 0; i < self->sample_count; i++) {
        double minutes = self->samples[i].time_s / 60, bytes = self->samples[i].rss_bytes;
        if (self->samples[i].time_s < first_s) continue;
        n++, x += minutes, y += bytes, xx += minutes * minutes, xy += minutes * bytes;
        last_s = self->samples[i].time_s;
        self->rss_end = bytes;
    }
    double spread = n * xx - x * x;
    self->rss_slope = spread > 0 ? (n * xy - x * y) / spread : 0;
    self->rss_rise = self->rss_slope * (last_s - first_s) / 60;
    if (self->rss_rise > self->options.rise_mib * 1048576 && self->rss_slope > SLOPE_BYTES_MAX) {
        fail(self, "memory grows by %.2f MiB per minute", self->rss_slope / 1048576);
    }
}

/* ---- phases ------------------------------------------------------------ */

static void expect_zero(soak *self, const char *text, const char *name, double allowed)
{
    double value = soak_metric(text, name);
    if (!(value <= allowed)) fail(self, "%s is %g when nothing runs, expected %g", name, value, allowed);
}

/* All accounts are back where they were. */
static void check_quiet(soak *self, const soak_process *before)
{
    char *text = NULL;
    for (int tries = 0; tries < 1000; tries++) {
        free(text);
        if (soak_get(&self->server, "/metrics", &text) != 200 || text == NULL) break;
        if (soak_metric(text, "agl_http_active_requests") == 0 && soak_metric(text, "vllm:num_requests_running") == 0 &&
            soak_metric(text, "agl_kv_pages_free") == soak_metric(text, "agl_kv_pages") &&
            soak_metric(text, "agl_http_connections") <= 1) break;
        usleep(10000);
    }
    if (text == NULL) {
        fail(self, "no /metrics after the load");
        return;
    }
    expect_zero(self, text, "vllm:num_requests_running", 0);
    expect_zero(self, text, "vllm:num_requests_waiting", 0);
    expect_zero(self, text, "agl_http_active_requests", 0);
    expect_zero(self, text, "agl_http_held_body_bytes", 0);
    expect_zero(self, text, "agl_http_connections", 1); /* this one */
    expect_zero(self, text, "agl_engine_stalled", 0);
    expect_zero(self, text, "agl_engine_lost", 0);
    double pages = soak_metric(text, "agl_kv_pages"), available = soak_metric(text, "agl_kv_pages_free");
    if (!(pages == available)) fail(self, "%g of %g pages are free when nothing runs", available, pages);
    self->steps = soak_metric(text, "agl_steps_total");
    self->step_s = soak_metric(text, "agl_step_seconds_total");
    self->schedule_s = soak_metric(text, "agl_schedule_seconds_total");
    self->overlapped_s = soak_metric(text, "agl_overlapped_seconds_total");
    self->preemptions = soak_metric(text, "vllm:num_preemptions_total");
    self->aborts = soak_metric(text, "agl_aborts_total");
    self->prefix_hits = soak_metric(text, "vllm:prefix_cache_hits_total") / soak_metric(text, "vllm:prefix_cache_queries_total");
    free(text);

    soak_process after = {0};
    for (int tries = 0; tries < 500; tries++) { /* the last connection is closed behind its answer */
        soak_process_read(&after, self->server.pid);
        if (after.files <= before->files && after.threads == before->threads) break;
        usleep(10000);
    }
    if (after.threads != before->threads) fail(self, "%d threads, %d at the start", after.threads, before->threads);
    if (after.files > before->files) fail(self, "%d open files, %d at the start", after.files, before->files);
}

/* SIGTERM while long streams run. */
static void check_drain(soak *self)
{
    self->exit_code = soak_server_wait(&self->server, 0);
    if (self->exit_code != -1) {
        fail(self, "the server ended with %d under load; see %s", self->exit_code, self->server.log_path);
        return;
    }
    uint32_t count = self->options.streams < 32 ? self->options.streams : 32;
    const soak_totals *totals = soak_load_totals(self->load);
    uint64_t before = totals->good[SOAK_CHAT_STREAM], violations = totals->violations;
    if (!soak_load_start_long(self->load, count, 3500, self->options.timeout_s)) fail(self, "the last streams do not start");
    kill(self->server.pid, SIGTERM);
    int status = 200;
    for (int tries = 0; tries < 200 && status == 200; tries++) { /* the signal takes a moment */
        char *body = NULL;
        usleep(5000);
        status = soak_get(&self->server, "/readyz", &body);
        free(body);
    }
    if (status != 503) fail(self, "/readyz answers %d while the server drains", status);
    if (!soak_load_settle(self->load, SHUTDOWN_S + self->options.timeout_s)) fail(self, "streams hang at the end");
    self->drained = (uint32_t)(totals->good[SOAK_CHAT_STREAM] - before);
    self->cut = (uint32_t)totals->cut;
    if (totals->violations == violations && self->drained + self->cut != count) {
        fail(self, "of %u streams %u ended and %u were cut with an error event", count, self->drained, self->cut);
    }
    self->exit_code = soak_server_wait(&self->server, SHUTDOWN_S + 60);
    if (self->exit_code == -1) {
        fail(self, "the server does not end");
        kill(self->server.pid, SIGKILL);
    } else if (self->exit_code != 0) {
        fail(self, "the server ended with %d; see %s", self->exit_code, self->server.log_path);
    }
}

/* ---- report ------------------------------------------------------------ */

static void print_table(const soak *self)
{
    const soak_totals *totals = soak_load_totals(self->load);
    uint64_t sent = 0, good = 0, aborted = 0;
    printf("%-28s %10s %10s %10s\n", "request", "sent", "checked", "aborted");
    for (int i = 0; i < SOAK_KIND_COUNT; i++) {
        printf("%-28s %10llu %10llu %10llu\n", soak_kind_name((soak_kind)i), (unsigned long long)totals->sent[i],
               (unsigned long long)totals->good[i], (unsigned long long)totals->aborted[i]);
        sent += totals->sent[i], good += totals->good[i], aborted += totals->aborted[i];
    }
    printf("%-28s %10llu %10llu %10llu   violations %llu\n", "all", (unsigned long long)sent, (unsigned long long)good,
           (unsigned long long)aborted, (unsigned long long)totals->violations);
    printf("inter-token   p50 %.2f ms, p99 %.2f ms, max %.1f ms (%llu reads)\n",
           soak_times_quantile(&totals->inter_token, 0.5) * 1e3, soak_times_quantile(&totals->inter_token, 0.99) * 1e3,
           totals->inter_token.max_s * 1e3, (unsigned long long)totals->inter_token.total);
    printf("first token   p50 %.2f ms, p99 %.2f ms, max %.1f ms\n", soak_times_quantile(&totals->first_token, 0.5) * 1e3,
           soak_times_quantile(&totals->first_token, 0.99) * 1e3, totals->first_token.max_s * 1e3);
    printf("engine        %.0f steps of %.2f ms, %.1f us before launch, %.1f us after; %.0f preemptions; "
           "%.0f aborts; %.0f %% of prompt tokens cached\n", self->steps, self->step_s / self->steps * 1e3,
           self->schedule_s / self->steps * 1e6, self->overlapped_s / self->steps * 1e6, self->preemptions, self->aborts, self->prefix_hits * 100);
    printf("memory        %.1f MiB resident, %+.3f MiB per minute over the last %.0f %%\n", self->rss_end / 1048576,
           self->rss_slope / 1048576, (1 - WARMUP_SHARE) * 100);
    printf("machine       load average %.1f; the server used %.2f CPUs\n", self->load_average, self->cpu_s / self->load_s);
    printf("end           %u streams drained, %u cut with an error event, exit code %d\n", self->drained, self->cut,
           self->exit_code);
}

static void write_json(const soak *self, FILE *file)
{
    const soak_totals *totals = soak_load_totals(self->load);
    uint64_t sent = 0, good = 0, aborted = 0;
    for (int i = 0; i < SOAK_KIND_COUNT; i++) sent += totals->sent[i], good += totals->good[i], aborted += totals->aborted[i];
    fprintf(file, "{\"streams\":%u,\"seconds\":%.1f,\"requests\":%llu,\"checked\":%llu,\"aborted\":%llu,\"violations\":%llu,"
            "\"failures\":%d,", self->options.streams, self->options.seconds, (unsigned long long)sent,
            (unsigned long long)good, (unsigned long long)aborted, (unsigned long long)totals->violations, self->failures);
    fprintf(file, "\"itl_p50_ms\":%.3f,\"itl_p99_ms\":%.3f,\"ttft_p50_ms\":%.3f,\"ttft_p99_ms\":%.3f,",
            soak_times_quantile(&totals->inter_token, 0.5) * 1e3, soak_times_quantile(&totals->inter_token, 0.99) * 1e3,
            soak_times_quantile(&totals->first_token, 0.5) * 1e3, soak_times_quantile(&totals->first_token, 0.99) * 1e3);
    fprintf(file, "\"steps\":%.0f,\"preemptions\":%.0f,\"schedule_us\":%.2f,\"overlapped_us\":%.2f,\"rss_mib\":%.1f,\"rss_mib_per_minute\":%.4f,"
            "\"load_average\":%.2f,\"drained\":%u,\"cut\":%u,\"exit_code\":%d}\n", self->steps, self->preemptions,
            self->schedule_s / self->steps * 1e6, self->overlapped_s / self->steps * 1e6, self->rss_end / 1048576, self->rss_slope / 1048576, self->load_average,
            self->drained, self->cut, self->exit_code);
}

static int run(soak *self)
{
    const options *o = &self->options;
    char log_path[] = "/tmp/http_soak.XXXXXX";
    int log = mkstemp(log_path);
    if (log >= 0) close(log);
    if (!start_server(self, log_path)) {
        fprintf(stderr, "the server does not start: see %s\n", log_path);
        if (self->server.pid > 0) kill(self->server.pid, SIGKILL);
        return 1;
    }
    soak_process before = {0};
    char *body = NULL;
    soak_get(&self->server, "/health", &body); /* the first request may open what later ones share */
    free(body);
    soak_process_read(&before, self->server.pid);
    soak_material *material = soak_material_create(o->seed);
    self->load = soak_load_create(&(soak_load_options){&self->server, material, o->streams, o->timeout_s});
    if (self->load == NULL || material == NULL) abort();

    self->start_s = agl_clock_s();
    soak_load_run(self->load, self->start_s + o->seconds, take_sample, self);
    self->load_s = agl_clock_s() - self->start_s;
    self->cpu_s = soak_process_cpu_s(self->server.pid);
    getloadavg(&self->load_average, 1);
    fit_memory(self);
    if (!soak_load_settle(self->load, o->timeout_s)) fail(self, "requests hang after the load");
    check_quiet(self, &before);
    check_drain(self);
    if (soak_load_totals(self->load)->violations > 0) fail(self, "%llu answers were wrong",
                                                           (unsigned long long)soak_load_totals(self->load)->violations);
    print_table(self);
    write_json(self, stdout);
    FILE *json = o->json != NULL ? fopen(o->json, "w") : NULL;
    if (json != NULL) {
        write_json(self, json);
        fclose(json);
    }
    if (self->failures == 0) unlink(log_path);
    else fprintf(stderr, "log of the server: %s\n", log_path);
    soak_load_destroy(self->load);
    soak_material_destroy(material);
    free(self->samples);
    return self->failures == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    soak self = {0};
    read_options(&self.options, argc, argv);
    signal(SIGPIPE, SIG_IGN);
    return run(&self);
}
