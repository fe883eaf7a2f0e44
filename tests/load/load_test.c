/* SPDX-License-Identifier: Apache-2.0
 *
 * load_test.c - many concurrent streams with random aborts, slow readers and refused
 * requests on a tiny model, for a stated time.
 *
 *     build/tests/load/load_test [--seconds S] [--streams N] [--threads T] [--steady] [--queued]
 *
 * Reports throughput, inter-token latency, the slope of the process's memory and the
 * scheduler's time per step; fails if a request fails that should not, or if anything is
 * still held at the end. --steady: long answers, no aborts, to time the scheduler. --queued:
 * the device works beside the engine's thread, as a GPU does. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agl/agl.h"
#include "base/clock.h"
#include "base/random.h"
#include "support/test_checkpoint.h"
#include "support/test_queued_device.h"

#define BUCKETS 400             /* of 5 % each, from 1 us on */

typedef struct {
    double seconds;
    uint32_t streams, threads;
    bool steady;
} load_options;

typedef struct {
    agl_engine *engine;
    const load_options *options;
    uint64_t seed, end_ns;
    uint32_t streams;
    uint64_t finished, aborted, refused, busy, tokens, unexpected;
    uint64_t latency[BUCKETS];
    char first_error[256];
} worker;

/* One open stream of a worker. */
typedef struct {
    agl_request *request;
    uint64_t last_ns, sleep_until_ns;
    uint32_t events_left;       /* then it is aborted; UINT32_MAX: never */
    bool slow;
} stream;

static void count_latency(worker *self, uint64_t ns)
{
    double us = (double)ns * 1e-3;
    uint32_t bucket = 0;
    for (; us > 1.0 && bucket + 1 < BUCKETS; us /= 1.05) bucket++;
    self->latency[bucket]++;
}

static void unexpected(worker *self, const char *what)
{
    if (self->unexpected++ == 0) snprintf(self->first_error, sizeof self->first_error, "%.255s", what);
}

/* A request at random; about one in thirty is a client's mistake. */
static void open_stream(worker *self, stream *slot)
{
    uint64_t dice = agl_random_next(&self->seed);
    int32_t tokens[600];
    uint64_t shared = dice % 7;         /* prompts share starts, as conversations do */
    uint32_t count = self->options->steady ? 32 : 8 + (uint32_t)(dice >> 8) % 400;
    for (uint32_t i = 0; i < count; i++) {
        tokens[i] = (int32_t)(agl_random_next(i < 64 ? &shared : &self->seed) % 256);
    }
    agl_request_options options = {.tokens = tokens, .token_count = count};
    agl_sampling_init(&options.sampling);
    options.sampling.ignore_eos = true;
    options.sampling.frequency_penalty = 0.2f;
    options.sampling.max_tokens = self->options->steady ? 400 : 20 + (uint32_t)(dice >> 20) % 120;
    bool mistake = !self->options->steady && (dice >> 32) % 30 == 0;
    if (mistake) tokens[0] = 1 << 20;
    if (!self->options->steady && (dice >> 36) % 16 == 0) options.sampling.n = 3;

    agl_error err = {0};
    *slot = (stream){.events_left = UINT32_MAX};
    agl_status status = agl_request_submit(&slot->request, self->engine, &options, &err);
    if (mistake && status == AGL_ERR_ARGUMENT) self->refused++;
    else if (status == AGL_ERR_BUSY) self->busy++;
    else if (status != AGL_OK || mistake) unexpected(self, err.message);
    if (self->options->steady) return;
    if ((dice >> 40) % 8 == 0) slot->events_left = (uint32_t)(dice >> 44) % 40;
    slot->slow = (dice >> 50) % 32 == 0;
}

static void close_stream(stream *slot)
{
    agl_request_destroy(slot->request);
    slot->request = NULL;
}

static void read_stream(worker *self, stream *slot, uint64_t now)
{
    agl_event event;
    agl_request_next(slot->request, 0, &event);
    if (event.kind == AGL_EVENT_NONE) return;
    if (event.kind == AGL_EVENT_ERROR) unexpected(self, event.message);
    if (event.token_count > 0) {
        if (slot->last_ns != 0 && !slot->slow) count_latency(self, now - slot->last_ns);
        slot->last_ns = now;
        self->tokens += event.token_count;
    }
    if (slot->slow) slot->sleep_until_ns = now + 200000000u;
    if (event.kind == AGL_EVENT_DONE) {
        self->finished++;
        close_stream(slot);
    } else if (slot->events_left != UINT32_MAX && slot->events_left-- == 0) {
        self->aborted++;
        close_stream(slot);
    }
}

static void *run_worker(void *argument)
{
    worker *self = argument;
    stream *slots = calloc(self->streams, sizeof *slots);
    bool open = true;
    while (open) {
        uint64_t now = agl_clock_ns();
        bool ending = now >= self->end_ns;
        open = !ending;
        for (uint32_t i = 0; i < self->streams; i++) {
            stream *slot = &slots[i];
            if (slot->request == NULL && !ending) open_stream(self, slot);
            if (slot->request == NULL) continue;
            /* At the end half of the streams are left as a lost client leaves them. */
            if (ending && i % 2 == 0) close_stream(slot);
            else if (now >= slot->sleep_until_ns) read_stream(self, slot, now);
            open = open || slot->request != NULL;
        }
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
    free(slots);
    return NULL;
}

static double resident_mib(void)
{
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL) return 0.0;
    if (fscanf(file, "%ld %ld", &pages, &resident) != 2) resident = 0;
    fclose(file);
    return (double)resident * (double)sysconf(_SC_PAGESIZE) / 1048576.0;
}

/* Least-squares slope of the memory over the second half of the run, in MiB a minute. */
static double watch_memory(const load_options *options, double *last)
{
    double t_sum = 0, m_sum = 0, tt_sum = 0, tm_sum = 0;
    int count = 0, ticks = 50;
    for (int i = 0; i < ticks; i++) {
        double pause = options->seconds / ticks;
        nanosleep(&(struct timespec){(time_t)pause, (long)((pause - (double)(time_t)pause) * 1e9)}, NULL);
        *last = resident_mib();
        if (i < ticks / 2) continue;
        double t = i * pause / 60.0;
        t_sum += t;
        m_sum += *last;
        tt_sum += t * t;
        tm_sum += t * *last;
        count++;
    }
    double spread = count * tt_sum - t_sum * t_sum;
    return spread > 0.0 ? (count * tm_sum - t_sum * m_sum) / spread : 0.0;
}

static double percentile_ms(const uint64_t *latency, double share)
{
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++) total += latency[i];
    double us = 1.0;
    for (int i = 0; i < BUCKETS; i++, us *= 1.05) {
        seen += latency[i];
        if ((double)seen >= share * (double)total) break;
    }
    return us * 1e-3;
}

static int report(agl_engine *engine, const load_options *options, worker *workers, double slope,
                  double resident)
{
    worker sum = {0};
    for (uint32_t t = 0; t < options->threads; t++) {
        const worker *self = &workers[t];
        sum.finished += self->finished;
        sum.aborted += self->aborted;
        sum.refused += self->refused;
        sum.busy += self->busy;
        sum.tokens += self->tokens;
        sum.unexpected += self->unexpected;
        for (int i = 0; i < BUCKETS; i++) sum.latency[i] += self->latency[i];
        if (self->unexpected > 0) printf("unexpected: %s\n", self->first_error);
    }
    agl_engine_stats stats = agl_engine_stats_get(engine);
    for (int i = 0; i < 5000 && (stats.running > 0 || stats.kv_pages_free < stats.kv_pages); i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        stats = agl_engine_stats_get(engine);
    }
    double steps = stats.steps > 0 ? (double)stats.steps : 1.0;
    printf("streams %u, %.0f s: %llu finished, %llu aborted, %llu refused, %llu busy, %llu unexpected\n",
           options->streams, options->seconds, (unsigned long long)sum.finished,
           (unsigned long long)sum.aborted, (unsigned long long)sum.refused,
           (unsigned long long)sum.busy, (unsigned long long)sum.unexpected);
    printf("tokens/s %.0f, inter-token p50 %.2f ms, p99 %.2f ms\n",
           (double)sum.tokens / options->seconds, percentile_ms(sum.latency, 0.5),
           percentile_ms(sum.latency, 0.99));
    printf("memory %.1f MiB, slope %+.2f MiB/min\n", resident, slope);
    printf("steps %llu of %.1f tokens and %.1f us: the device waits %.1f us, beside it the host "
           "works %.1f us\n", (unsigned long long)stats.steps,
           (double)stats.generated_tokens / steps, stats.step_s / steps * 1e6,
           stats.schedule_s / steps * 1e6, stats.overlapped_s / steps * 1e6);
    printf("%llu preemptions, cached %.0f %% of prompt tokens\n", (unsigned long long)stats.preemptions,
           100.0 * (double)stats.cached_prompt_tokens / (double)(stats.prompt_tokens + 1));
    bool idle = stats.running == 0 && stats.waiting == 0 && stats.kv_pages_free == stats.kv_pages;
    if (!idle) {
        printf("not idle: running %u, waiting %u, pages %u of %u free\n", stats.running,
               stats.waiting, stats.kv_pages_free, stats.kv_pages);
    }
    return idle && sum.unexpected == 0 && sum.finished > 0 ? 0 : 1;
}

static int run(const char *folder, const load_options *options)
{
    agl_engine *engine;
    agl_error err = {0};
    agl_engine_options engine_options = {
        .model = folder, .max_model_len = 1024, .max_num_seqs = options->streams < 256 ? options->streams : 256,
        .max_num_batched_tokens = 1024,
        .kv_cache_bytes = options->steady ? 0 : (uint64_t)options->streams * 128 * 512};
    if (agl_engine_create(&engine, &engine_options, &err) != AGL_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    worker *workers = calloc(options->threads, sizeof *workers);
    pthread_t *threads = calloc(options->threads, sizeof *threads);
    uint64_t end_ns = agl_clock_ns() + (uint64_t)(options->seconds * 1e9);
    for (uint32_t t = 0; t < options->threads; t++) {
        workers[t] = (worker){.engine = engine, .options = options, .seed = 17 * t + 1,
                              .end_ns = end_ns, .streams = options->streams / options->threads};
        pthread_create(&threads[t], NULL, run_worker, &workers[t]);
    }
    double resident = 0.0, slope = watch_memory(options, &resident);
    for (uint32_t t = 0; t < options->threads; t++) pthread_join(threads[t], NULL);
    int failed = report(engine, options, workers, slope, resident);
    agl_engine_destroy(engine);
    free(workers);
    free(threads);
    return failed;
}

int main(int argc, char **argv)
{
    load_options options = {.seconds = 10.0, .streams = 256, .threads = 2};
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--steady") == 0) {
            options.steady = true;
            continue;
        }
        if (strcmp(name, "--queued") == 0) {
            test_device_use(TEST_DEVICE_THREAD);
            continue;
        }
        const char *value = ++i < argc ? argv[i] : "";
        if (strcmp(name, "--seconds") == 0) options.seconds = strtod(value, NULL);
        else if (strcmp(name, "--streams") == 0) options.streams = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--threads") == 0) options.threads = (uint32_t)strtoul(value, NULL, 10);
        else return fprintf(stderr, "unknown option %s\n", name), 2;
    }
    if (options.threads == 0 || options.streams < options.threads || !(options.seconds > 0.0)) {
        return fprintf(stderr, "--streams must be at least --threads, --seconds above 0\n"), 2;
    }
    char folder[256];
    agl_error err = {0};
    if (test_checkpoint_make(folder, sizeof folder, NULL, &err) != AGL_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    int failed = run(folder, &options);
    test_folder_remove(folder);
    return failed;
}
