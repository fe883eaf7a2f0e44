/* SPDX-License-Identifier: Apache-2.0
 *
 * test_pipeline.c - what the engine does while the device works, and when the device is lost.
 * That answers stay the same is in test_equivalence.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

#include "support/test_checkpoint.h"
#include "support/test_engine_run.h"
#include "support/test_queued_device.h"

#define TOKENS 60

static char folder[256];

static int make_checkpoint(void **state)
{
    (void)state;
    agl_error err = {0};
    return test_checkpoint_make(folder, sizeof folder, NULL, &err) != AGL_OK;
}

static int remove_checkpoint(void **state)
{
    (void)state;
    test_folder_remove(folder);
    return 0;
}

static agl_engine *open_engine(test_device device)
{
    test_device_use(device);
    return test_engine_open(folder, NULL);
}

typedef struct {
    atomic_uint working, idle;
} telling;

/* On the engine's thread, while it publishes. */
static void look_at_device(void *user)
{
    telling *self = user;
    atomic_fetch_add(test_device_queued() > 0 ? &self->working : &self->idle, 1);
}

static void tokens_are_told_while_the_device_works(void **state)
{
    (void)state;
    agl_engine *engine = open_engine(TEST_DEVICE_AT_WAIT);
    telling told = {0};
    test_job job = test_job_tokens(1, 40, TOKENS);
    job.options.sampling.ignore_eos = true;
    job.options.notify = look_at_device;
    job.options.notify_user = &told;
    test_result result = test_run(engine, &job);
    assert_int_equal(result.choices[0].token_count, TOKENS);
    /* The first token is always told; with the last one there is nothing more to do. */
    assert_true(atomic_load(&told.working) > 0);
    assert_true(atomic_load(&told.idle) <= 1);
    test_result_free(&result);
    /* A step for each token and no other: the end by length is known beforehand. */
    assert_int_equal(agl_engine_stats_get(engine).steps, TOKENS);
    test_engine_close_idle(engine);
}

/* The row that was laid out behind a stop token is dead, and alone it is not computed at all. */
static void a_stop_token_costs_no_step(void **state)
{
    (void)state;
    agl_engine *engine = open_engine(TEST_DEVICE_AT_WAIT);
    test_job job = test_job_tokens(2, 40, TOKENS);
    job.options.sampling.ignore_eos = true;
    test_result whole = test_run(engine, &job);
    const int32_t *tokens = whole.choices[0].tokens;
    uint64_t steps = agl_engine_stats_get(engine).steps;
    size_t first = 0;
    while (tokens[first] != tokens[TOKENS / 2]) first++;
    job.options.sampling.stop_tokens = &tokens[TOKENS / 2];
    job.options.sampling.stop_token_count = 1;
    test_result cut = test_run(engine, &job);
    assert_int_equal(cut.choices[0].token_count, first + 1);
    assert_int_equal(agl_engine_stats_get(engine).steps - steps, first + 1);
    test_result_free(&whole);
    test_result_free(&cut);
    test_engine_close_idle(engine);
}

/* Waits or launches fail after so many: everybody is told, nothing is touched too early. */
static void a_lost_device_ends_all_requests(void **state)
{
    (void)state;
    enum { COUNT = 6 };
    for (uint32_t round = 0; round < 12; round++) {
        agl_engine *engine = open_engine(round % 2 == 0 ? TEST_DEVICE_AT_WAIT : TEST_DEVICE_THREAD);
        uint32_t after = 1 + 3 * (round / 4);
        test_device_break(round % 4 < 2 ? after : UINT32_MAX, round % 4 < 2 ? UINT32_MAX : after);
        agl_request *requests[COUNT];
        uint32_t submitted = 0;
        for (uint32_t i = 0; i < COUNT; i++) {
            test_job job = test_job_tokens(i, 20 + 60 * i, TOKENS);
            job.options.tokens = job.tokens;
            job.options.sampling.ignore_eos = true;
            job.options.sampling.n = i == 2 ? 3 : 1;
            agl_status status = agl_request_submit(&requests[submitted], engine, &job.options, NULL);
            if (status == AGL_OK) submitted++;
            else assert_int_equal(status, AGL_ERR_DEVICE);
        }
        for (uint32_t i = 0; i < submitted; i++) {
            test_result result = test_collect(requests[i]);
            assert_int_equal(result.status, AGL_ERR_DEVICE);
            assert_int_equal(result.done, 1);
            test_result_free(&result);
        }
        assert_true(submitted > 0);
        test_job late = test_job_tokens(1, 10, 5);
        test_result refused = test_run(engine, &late);
        assert_int_equal(refused.status, AGL_ERR_DEVICE);
        test_result_free(&refused);
        test_engine_close_idle(engine);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_told_while_the_device_works),
        cmocka_unit_test(a_stop_token_costs_no_step),
        cmocka_unit_test(a_lost_device_ends_all_requests),
    };
    return cmocka_run_group_tests(tests, make_checkpoint, remove_checkpoint);
}
