/* SPDX-License-Identifier: Apache-2.0
 *
 * bench.h - the measurements behind `autoglm bench`. Each prints a table for people
 * and, if asked, JSON with vLLM's keys for machines. */
#ifndef AGL_BENCH_BENCH_H
#define AGL_BENCH_BENCH_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "bench/workload.h"

typedef struct {
    const char *base_url;       /* "http://127.0.0.1:8000"; with or without /v1           */
    const char *against;        /* another server, measured in turn; NULL: none           */
    const char *api_key;
    const char *label;
    agl_workload_options workload;
    uint32_t max_concurrency;   /* 0: no limit                                            */
    double request_rate;        /* sessions a second; 0: all at once                      */
    double burstiness;
    uint32_t warmups;           /* requests before the clock starts                       */
    uint32_t repetitions;
    double goodput_ttft_ms, goodput_tpot_ms, goodput_e2el_ms; /* 0: no such objective     */
    const char *save_path;      /* JSON file; NULL: none                                  */
    bool save_detailed;         /* with every request's times and text                    */
    bool json;                  /* JSON on standard output instead of the table           */
    bool warm_cache;            /* repetitions may find each other's prompts cached       */
    bool quiet;                 /* no progress                                            */
    bool allow_lag;             /* report even if this client was too slow to measure     */
    const volatile sig_atomic_t *interrupted;
} agl_bench_serve_options;

/* Exit status of the process: 0; 1: requests failed; 3: refused, the client distorted the times. */
agl_status agl_bench_serve(int *exit_status, const agl_bench_serve_options *options,
                           agl_error *err);

/* The library without HTTP: an engine in this process, prompts of random token ids. */
typedef struct {
    agl_engine_options engine;
    uint32_t input_tokens, output_tokens;
    uint32_t batch;             /* latency: requests at once; throughput: requests in all  */
    uint32_t warmups, iterations;
    uint32_t token_first, token_last; /* ids drawn from [first, last); 0: the vocabulary   */
    uint64_t seed;
    const char *save_path;
    bool json, quiet;
    const volatile sig_atomic_t *interrupted;
} agl_bench_direct_options;

/* A batch of equal requests, again and again: whole latency, first token, token gaps. */
agl_status agl_bench_latency(const agl_bench_direct_options *options, agl_error *err);

/* All requests at once: requests and tokens a second. */
agl_status agl_bench_throughput(const agl_bench_direct_options *options, agl_error *err);

/* The whole comparison of hardware platforms on this machine: first token, token gaps and
 * throughput at growing batch sizes for every weight format, the largest batch, and how far
 * all that is from the machine's own rates. Writes a result file after every batch size. */
enum { AGL_BENCH_BATCHES_MAX = 24 };

typedef struct {
    agl_engine_options engine;
    const char *platform;       /* title; NULL: the processor's name                       */
    const char *const *formats; /* keys of weight formats; NULL: all this build runs       */
    size_t format_count;
    uint32_t batches[AGL_BENCH_BATCHES_MAX]; /* ascending; 0 of them: 1 to 8, 16, 32, 64   */
    size_t batch_count;
    uint32_t input_tokens, output_tokens, warmups, iterations;
    uint32_t image_width, image_height; /* screenshot to time too; 0: none                 */
    double seconds_max;         /* no batch size begins after that long; 0: no limit       */
    uint64_t seed;
    const char *save_path;
    bool json, quiet;
    const volatile sig_atomic_t *interrupted;
} agl_bench_platform_options;

agl_status agl_bench_platform(const agl_bench_platform_options *options, agl_error *err);

/* From nothing to the first token, by phase, `iterations` times. */
agl_status agl_bench_startup(const agl_bench_direct_options *options, agl_error *err);

/* Single operations at the model's shapes, each beside what the machine allows. */
agl_status agl_bench_kernels(const agl_bench_direct_options *options, agl_error *err);

#endif
