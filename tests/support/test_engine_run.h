/* SPDX-License-Identifier: Apache-2.0
 *
 * test_engine_run.h - run requests on an engine and collect all they say. */
#ifndef TEST_ENGINE_RUN_H
#define TEST_ENGINE_RUN_H

#include <semaphore.h>
#include <stdatomic.h>

#include "agl/agl.h"
#include "base/buffer.h"

#define TEST_CHOICES_MAX 8

/* A request that owns its prompt. */
typedef struct {
    agl_request_options options;
    int32_t tokens[512];
    char text[512];
    agl_part parts[4];
    agl_message message;
    unsigned char *png;         /* malloc'd, or NULL */
} test_job;

typedef struct {
    agl_buffer text;
    int32_t *tokens;
    float *logprobs;
    size_t token_count, event_count;
    agl_finish finish;
    int32_t stop_token;
    char stop_string[64];
} test_choice;

typedef struct {
    agl_status status;          /* of submit, or of the error event */
    char message[1024];
    int done;
    uint32_t choice_count;
    test_choice choices[TEST_CHOICES_MAX];
    agl_token_logprob *prompt;  /* chosen, of the PROMPT event */
    size_t prompt_count;
    agl_usage usage;
} test_result;

/* Small limits that make every mechanism work; fields of `options` that are set win. */
agl_engine *test_engine_open(const char *folder, const agl_engine_options *options);

/* Assert that nothing is held any more, then destroy. */
void test_engine_close_idle(agl_engine *engine);
void test_engine_assert_idle(agl_engine *engine);

test_job test_job_tokens(uint64_t seed, uint32_t count, uint32_t max_tokens);

/* A user message of one PNG of the given size and some text. */
test_job test_job_image(uint64_t seed, uint32_t width, uint32_t height, uint32_t max_tokens);
void test_job_free(test_job *job);

/* Submit and read to the end on this thread; or submit now and read later. */
test_result test_run(agl_engine *engine, test_job *job);
agl_request *test_submit(agl_engine *engine, test_job *job);
test_result test_collect(agl_request *request);         /* destroys the request */

/* An engine that stands still: its thread waits in the news of a request of one token, and takes
 * in what is submitted meanwhile when it is let go. So requests are in one step together,
 * however slow their submitter is. Nothing may run at hold; the request is gone after release. */
typedef struct {
    agl_request *request;
    sem_t stands, may_go;
    atomic_bool once;
} test_hold;

void test_engine_hold(test_hold *hold, agl_engine *engine);
void test_engine_release(test_hold *hold);

/* Jobs 0 .. count - 1 of `make`, all submitted before the first is read; fails unless each is
 * served. */
void test_run_together(agl_engine *engine, test_job (*make)(uint32_t number), uint32_t count,
                       test_result *results);
void test_result_free(test_result *result);

/* Same tokens, text and finish of every choice. */
void test_assert_same(const test_result *a, const test_result *b);

uint64_t test_random(uint64_t *state);

#endif
