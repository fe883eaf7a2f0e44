/* SPDX-License-Identifier: Apache-2.0
 *
 * engine_ratios.c - what the scheduler and the caches are worth, as ratios of one run:
 * throughput of 8 and 64 streams to one; inter-token latency of running streams while a long
 * prompt comes in, with and without chunks; time to first token of a second turn, with and
 * without the prefix cache. A small random model: the ratios count, not the times. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "agl/agl.h"
#include "base/clock.h"
#include "support/test_checkpoint.h"

#define STREAMS_MAX 64
#define LONG_PROMPT 3000

static agl_engine *open_engine(const char *folder, bool chunks, bool prefix)
{
    agl_engine_options options = {
        .model = folder, .max_model_len = 4096, .max_num_seqs = STREAMS_MAX,
        .max_num_batched_tokens = chunks ? 512 : 0, .disable_chunked_prefill = !chunks,
        .disable_prefix_cache = !prefix, .max_pixels = 112 * 112};
    agl_engine *engine = NULL;
    agl_error err = {0};
    if (agl_engine_create(&engine, &options, &err) != AGL_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    return engine;
}

static agl_request *submit(agl_engine *engine, int32_t first, uint32_t prompt, uint32_t answer)
{
    static int32_t tokens[LONG_PROMPT + 64];
    for (uint32_t i = 0; i < prompt; i++) tokens[i] = (int32_t)((first + i * 7 + i / 13) % 256);
    agl_request_options options = {.tokens = tokens, .token_count = prompt};
    agl_sampling_init(&options.sampling);
    options.sampling.max_tokens = answer;
    options.sampling.ignore_eos = true;
    agl_request *request = NULL;
    agl_error err = {0};
    if (agl_request_submit(&request, engine, &options, &err) != AGL_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    return request;
}

/* Read to the end; returns the longest time between two events with tokens. */
static double read_all(agl_request *request, agl_usage *usage)
{
    agl_event event;
    double last = 0.0, longest = 0.0;
    do {
        agl_request_next(request, -1, &event);
        double now = agl_clock_s();
        if (last > 0.0 && now - last > longest) longest = now - last;
        if (event.token_count > 0) last = now;
    } while (event.kind != AGL_EVENT_DONE);
    if (usage != NULL) *usage = event.usage;
    agl_request_destroy(request);
    return longest;
}

static double throughput(agl_engine *engine, uint32_t streams)
{
    agl_request *requests[STREAMS_MAX];
    double started = agl_clock_s();
    for (uint32_t i = 0; i < streams; i++) requests[i] = submit(engine, (int32_t)i, 16, 64);
    for (uint32_t i = 0; i < streams; i++) read_all(requests[i], NULL);
    return 64.0 * streams / (agl_clock_s() - started);
}

typedef struct {
    agl_request *request;
    double longest;
} reader;

static void *run_reader(void *argument)
{
    reader *self = argument;
    self->longest = read_all(self->request, NULL);
    return NULL;
}

/* Longest gap in the answers of four streams while one long prompt is computed. */
static double stall(agl_engine *engine)
{
    reader readers[4];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        readers[i].request = submit(engine, i, 16, 600);
        pthread_create(&threads[i], NULL, run_reader, &readers[i]);
    }
    while (agl_engine_stats_get(engine).generated_tokens < 400) {
        agl_request *probe = submit(engine, 9, 4, 4);   /* waits by working */
        read_all(probe, NULL);
    }
    agl_usage usage;
    read_all(submit(engine, 77, LONG_PROMPT, 2), &usage);
    double longest = 0.0;
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        if (readers[i].longest > longest) longest = readers[i].longest;
    }
    printf("  prompt of %d tokens: first token after %.0f ms, longest gap of the others %.0f ms\n",
           LONG_PROMPT, usage.ttft_s * 1e3, longest * 1e3);
    return longest;
}

/* Time to first token of a conversation's second turn: the first one plus 50 tokens. */
static double second_turn(agl_engine *engine)
{
    agl_usage usage;
    read_all(submit(engine, 5, 2000, 2), NULL);
    read_all(submit(engine, 5, 2050, 2), &usage);
    printf("  second turn: %u of %u tokens cached, first token after %.1f ms\n",
           usage.cached_tokens, usage.prompt_tokens, usage.ttft_s * 1e3);
    return usage.ttft_s;
}

int main(void)
{
    char folder[256];
    agl_error err = {0};
    test_checkpoint_shape shape = {.hidden = 256, .layers = 4, .intermediate = 1024, .heads = 8};
    if (test_checkpoint_make(folder, sizeof folder, &shape, &err) != AGL_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    agl_engine *chunked = open_engine(folder, true, true);
    double one = throughput(chunked, 1), eight = throughput(chunked, 8), many = throughput(chunked, 64);
    printf("tokens/s: 1 stream %.0f, 8 streams %.0f (x %.1f), 64 streams %.0f (x %.1f)\n", one, eight,
           eight / one, many, many / one);
    printf("in chunks:\n");
    double bounded = stall(chunked), cached = second_turn(chunked);
    agl_engine_destroy(chunked);
    printf("whole prompts, no prefix cache:\n");
    agl_engine *whole = open_engine(folder, false, false);
    double unbounded = stall(whole), cold = second_turn(whole);
    agl_engine_destroy(whole);
    printf("ratios: gap without chunks / with chunks %.1f, second turn cold / cached %.1f\n",
           unbounded / bounded, cold / cached);
    test_folder_remove(folder);
    return 0;
}
