/* SPDX-License-Identifier: Apache-2.0
 *
 * workload.h - what a benchmark sends: request bodies for the load generator.
 *
 *   random   exact numbers of random token ids (completions) or random words (chat)
 *   screens  one generated phone screenshot and a short task each (chat)
 *   agent    sessions of a phone agent: system prompt, growing text history, a new
 *            screenshot in every step, the old one removed (as Open-AutoGLM does)
 *   jsonl    bodies from a file, one JSON object a line
 *
 * Everything follows from the seed: two runs send the same bytes. */
#ifndef AGL_BENCH_WORKLOAD_H
#define AGL_BENCH_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef enum {
    AGL_WORKLOAD_RANDOM,
    AGL_WORKLOAD_SCREENS,
    AGL_WORKLOAD_AGENT,
    AGL_WORKLOAD_JSONL
} agl_workload_kind;

typedef struct {
    agl_workload_kind kind;
    bool completions;           /* random: /v1/completions with token ids             */
    const char *model;          /* name in the request                                */
    const char *path;           /* jsonl file                                         */
    const char *extra_body;     /* JSON object merged into every body; NULL: none     */
    size_t sessions, turns;
    uint32_t input_tokens, output_tokens;
    double range_ratio;         /* lengths vary by +- this share                      */
    uint32_t token_first, token_last; /* ids drawn from [first, last)                 */
    uint32_t image_width, image_height;
    bool ignore_eos, stream;
    double temperature;
    uint64_t seed;
    void (*progress)(void *user, size_t drawn, size_t total); /* screens; NULL allowed     */
    void *progress_user;
} agl_workload_options;

typedef struct agl_workload agl_workload;

/* `options` is copied; its strings must outlive the workload. */
agl_status agl_workload_create(agl_workload **out, const agl_workload_options *options,
                               agl_error *err);
void agl_workload_destroy(agl_workload *workload);

size_t agl_workload_sessions(const agl_workload *workload); /* jsonl: at most its lines */
size_t agl_workload_turns(const agl_workload *workload);

/* Later bodies carry this cache_salt, so that a repetition does not find the prompts of
 * the one before in the server's prefix cache; 0: none, as first built. */
void agl_workload_salt(agl_workload *workload, uint32_t salt);

/* agl_load_options.build for this workload as `user`. */
char *agl_workload_build(void *user, size_t session, size_t turn, const char *previous);

/* A phone screen as a PNG file in malloc'd memory: same seed, same picture. */
agl_status agl_screen_draw(unsigned char **png, size_t *bytes, uint32_t width, uint32_t height,
                           uint64_t seed, agl_error *err);

#endif
