/* SPDX-License-Identifier: Apache-2.0
 *
 * Recorded decode steps against steps launched piece by piece: the same requests at the same time
 * on two engines of the CUDA backend, three, five and more sequences on recordings of four and
 * eight, some of them ending early. Tolerance: none, tokens and log-probabilities are the same
 * bits. Steps of one engine may hold other requests than those of the other; but with at most 8
 * rows a step and 4 of a sequence the kernels of a row do not depend on its company. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "support/test_checkpoint.h"
#include "support/test_engine_run.h"

#define JOBS 7
#define TOKENS_MAX 14

static const test_checkpoint_shape SHAPE = {.hidden = 256, .heads = 2, .kv_heads = 1, .layers = 2,
                                            .vision_hidden = 128, .vision_heads = 2};
static char folder[256];
static bool has_device, recording_seen, recording_refused;

static void see_progress(void *user, const char *phase, double fraction)
{
    (void)user;
    (void)fraction;
    if (strcmp(phase, "graphs") == 0) recording_seen = true;
}

static void see_log(void *user, agl_log_level level, const char *line)
{
    (void)user;
    if (level == AGL_LOG_WARNING) printf("%s\n", line);
    if (strstr(line, "not recorded") != NULL) recording_refused = true;
}

static test_job job_number(uint32_t i)
{
    test_job job = test_job_tokens(70 + i, 1 + i % 4, TOKENS_MAX - i);
    agl_sampling *sampling = &job.options.sampling;
    sampling->ignore_eos = true;
    sampling->logprobs = 2;
    if (i % 3 == 1) {
        sampling->temperature = 0.9f;
        sampling->presence_penalty = 0.5f;
        sampling->has_seed = true;
        sampling->seed = i;
    }
    return job;
}

static void run_jobs(test_result results[JOBS], const char *dtype, bool eager)
{
    agl_engine_options options = {.device = "cuda", .dtype = dtype, .kv_cache_bytes = 8 << 20,
                                  .max_num_seqs = 8, .max_num_batched_tokens = 8,
                                  .max_model_len = 1536, .max_pixels = 84 * 84,
                                  .enforce_eager = eager, .progress = see_progress};
    recording_seen = recording_refused = false;
    agl_engine *engine = test_engine_open(folder, &options);
    assert_int_equal(recording_seen, !eager);
    assert_false(recording_refused);
    test_run_together(engine, job_number, JOBS, results);
    test_engine_close_idle(engine);
}

static int make_checkpoint(void **state)
{
    (void)state;
    char why[128];
    agl_error err = {0};
    agl_log_set(see_log, NULL);
    has_device = agl_backend_cuda_count(why, sizeof why) > 0;
    if (!has_device) {
        printf("skip: %s\n", why);
        return 0;
    }
    return test_checkpoint_make(folder, sizeof folder, &SHAPE, &err) != AGL_OK;
}

static int remove_checkpoint(void **state)
{
    (void)state;
    if (has_device) test_folder_remove(folder);
    return 0;
}

static void check_same(const char *dtype)
{
    if (!has_device) skip();
    test_result eager[JOBS], recorded[JOBS];
    run_jobs(eager, dtype, true);
    run_jobs(recorded, dtype, false);
    for (uint32_t i = 0; i < JOBS; i++) {
        const test_choice *got = &recorded[i].choices[0], *want = &eager[i].choices[0];
        test_assert_same(&recorded[i], &eager[i]);
        assert_int_equal(want->token_count, TOKENS_MAX - i);
        assert_memory_equal(got->logprobs, want->logprobs, want->token_count * sizeof(float));
        test_result_free(&eager[i]);
        test_result_free(&recorded[i]);
    }
}

static void bf16_steps_are_the_same(void **state)
{
    (void)state;
    check_same("bfloat16");
}

static void f32_steps_are_the_same(void **state)
{
    (void)state;
    check_same("float32");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_steps_are_the_same),
        cmocka_unit_test(f32_steps_are_the_same),
    };
    return cmocka_run_group_tests(tests, make_checkpoint, remove_checkpoint);
}
