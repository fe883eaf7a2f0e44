/* SPDX-License-Identifier: Apache-2.0
 *
 * batch.h - equal requests sent at once to an engine in this process, and the times of
 * their tokens. Prompts are random token ids, or one picture with a question. */
#ifndef AGL_BENCH_BATCH_H
#define AGL_BENCH_BATCH_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Growing list of times. */
typedef struct {
    double *values;
    size_t count, capacity;
} agl_samples;

/* Sums over batches; zero to begin with. */
typedef struct {
    agl_samples latency_s, ttft_s, gap_s; /* of whole batches, first tokens, and between tokens */
    uint64_t prompt_tokens, output_tokens, image_tokens;
    double elapsed_s;
} agl_batch_times;

void agl_batch_times_deinit(agl_batch_times *times);

typedef struct {
    uint32_t batch, input_tokens, output_tokens;
    uint32_t token_first, token_last; /* ids drawn from [first, last); 0: the vocabulary   */
    const void *image;          /* PNG that takes the place of the random prompt; NULL: none   */
    size_t image_bytes;
    uint64_t seed;
    const volatile sig_atomic_t *interrupted;
} agl_batch_options;

/* Add one batch to `times`. CANCELLED when interrupted: `times` is as it was. */
agl_status agl_batch_run(agl_batch_times *times, agl_engine *engine,
                         const agl_batch_options *options, agl_error *err);

#endif
