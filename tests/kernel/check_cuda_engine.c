/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine on the CUDA backend against the engine on the CPU, with a tiny checkpoint: prompts
 * in chunks, several sequences in a step, pictures, sampling, and recorded decode steps.
 *
 * Tolerances: in F32 both sum the same few hundred products in another order, which moves a
 * log-probability by some 1e-6; the greedy and the seeded tokens are the same. In 16 bits every
 * activation is rounded to 8 or 11 bits, some dozen times a layer; the errors add like a random
 * walk, and tokens may differ where two are nearly tied: there the log-probabilities of the given
 * prompts are compared, by their root mean square. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "support/test_checkpoint.h"
#include "support/test_engine_run.h"

#define JOBS 6
#define KV_BYTES ((uint64_t)8 << 20)

/* Heads of 128, as the kernels for matrix units want them; of 64 in the tower. */
static const test_checkpoint_shape SHAPE = {.hidden = 256, .heads = 2, .kv_heads = 1, .layers = 2,
                                            .vision_hidden = 128, .vision_heads = 2};
static char folder[256];
static bool has_device;

/* The pictures need another size: the CPU's thread makes it, and the GPU. */
static test_job job_number(uint32_t i)
{
    static const uint32_t LENGTHS[JOBS] = {5, 70, 1, 33, 0, 0};
    uint64_t seed = 40 + i;
    test_job job = LENGTHS[i] == 0 ? test_job_image(seed, 45 + 28 * (i % 2), 90, 6)
                                   : test_job_tokens(seed, LENGTHS[i], 8);
    agl_sampling *sampling = &job.options.sampling;
    sampling->ignore_eos = true;
    sampling->logprobs = 0;
    if (i % 2 == 0) sampling->prompt_logprobs = 0;
    if (i % 3 == 2) {
        sampling->temperature = 0.8f;
        sampling->top_p = 0.95f;
        sampling->frequency_penalty = 0.3f;
        sampling->has_seed = true;
        sampling->seed = i;
    }
    return job;
}

static void run_jobs(test_result *results, const char *device, const char *dtype)
{
    agl_engine_options options = {.device = device, .dtype = dtype, .kv_cache_bytes = KV_BYTES,
                                  .max_num_seqs = 4, .max_num_batched_tokens = 64,
                                  .max_model_len = 256};
    agl_engine *engine = test_engine_open(folder, &options);
    test_run_together(engine, job_number, JOBS, results);
    test_engine_close_idle(engine);
}

static test_result expected[JOBS];

static int make_checkpoint(void **state)
{
    (void)state;
    char why[128];
    agl_error err = {0};
    has_device = agl_backend_cuda_count(why, sizeof why) > 0;
    if (!has_device) {
        printf("skip: %s\n", why);
        return 0;
    }
    if (test_checkpoint_make(folder, sizeof folder, &SHAPE, &err) != AGL_OK) return 1;
    run_jobs(expected, "cpu", "float32");
    return 0;
}

static int remove_checkpoint(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < JOBS; i++) test_result_free(&expected[i]);
    if (has_device) test_folder_remove(folder);
    return 0;
}

static void expect_close(uint32_t job, size_t token, float got, float want)
{
    if (fabs((double)got - (double)want) <= 1e-5) return;
    fail_msg("job %u: log-probability %zu is %.7g, not %.7g", job, token, (double)got, (double)want);
}

static void f32_says_the_same(void **state)
{
    (void)state;
    if (!has_device) skip();
    test_result results[JOBS];
    run_jobs(results, "cuda", "float32");
    for (uint32_t i = 0; i < JOBS; i++) {
        const test_choice *got = &results[i].choices[0], *want = &expected[i].choices[0];
        test_assert_same(&results[i], &expected[i]);
        for (size_t t = 0; t < want->token_count; t++) {
            expect_close(i, t, got->logprobs[t], want->logprobs[t]);
        }
        assert_int_equal(results[i].prompt_count, expected[i].prompt_count);
        for (size_t t = 1; t < expected[i].prompt_count; t++) {
            expect_close(i, t, results[i].prompt[t].logprob, expected[i].prompt[t].logprob);
        }
        test_result_free(&results[i]);
    }
}

static void check_16_bit(const char *dtype, double tolerance)
{
    test_result results[JOBS];
    double squares = 0;
    size_t count = 0;
    run_jobs(results, "cuda", dtype);
    for (uint32_t i = 0; i < JOBS; i++) {
        assert_int_equal(results[i].prompt_count, expected[i].prompt_count);
        for (size_t t = 1; t < expected[i].prompt_count; t++, count++) {
            double error = (double)results[i].prompt[t].logprob - (double)expected[i].prompt[t].logprob;
            squares += error * error;
        }
        test_result_free(&results[i]);
    }
    assert_true(count > 0);
    double error = sqrt(squares / (double)count);
    print_message("%s: %zu log-probabilities differ by %.1e\n", dtype, count, error);
    if (!(error <= tolerance)) fail_msg("at most %.1e expected", tolerance);
}

static void bf16_is_near(void **state)
{
    (void)state;
    if (!has_device) skip();
    check_16_bit("bfloat16", 3e-2);
}

static void f16_is_near(void **state)
{
    (void)state;
    if (!has_device) skip();
    check_16_bit("float16", 4e-3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_says_the_same),
        cmocka_unit_test(bf16_is_near),
        cmocka_unit_test(f16_is_near),
    };
    return cmocka_run_group_tests(tests, make_checkpoint, remove_checkpoint);
}
