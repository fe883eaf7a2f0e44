/* SPDX-License-Identifier: Apache-2.0
 *
 * test_engine.c - agl.h end to end on a tiny FP32 model: what a request says never depends
 * on what else the engine is doing. */
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "agl/agl.h"
#include "support/test_checkpoint.h"
#include "support/test_engine_run.h"

static char folder[256];

static int make_checkpoint(void **state)
{
    (void)state;
    agl_error err = {0};
    return test_folder_make(folder, sizeof folder, &err) != AGL_OK ||
           test_checkpoint_write(folder, NULL, &err) != AGL_OK;
}

static int remove_checkpoint(void **state)
{
    (void)state;
    test_folder_remove(folder);
    return 0;
}

static void answers_a_prompt(void **state)
{
    (void)state;
    agl_engine *engine = test_engine_open(folder, NULL);
    test_job job = test_job_text("hello", 20);
    test_result result = test_run(engine, &job);
    assert_int_equal(result.done, 1);
    assert_true(result.choices[0].token_count > 0);
    printf("%u tokens, finish %d, text %zu bytes\n", (unsigned)result.choices[0].token_count,
           (int)result.choices[0].finish, result.choices[0].text.bytes);
    test_result_free(&result);
    test_engine_close_idle(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_a_prompt),
    };
    return cmocka_run_group_tests(tests, make_checkpoint, remove_checkpoint);
}
