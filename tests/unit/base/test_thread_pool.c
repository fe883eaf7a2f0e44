/* SPDX-License-Identifier: Apache-2.0
 *
 * Every task runs once, on a worker index in range, whatever the sizes; jobs follow each
 * other without mixing. Run under ThreadSanitizer this also checks the hand-over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/thread_pool.h"

#define TASKS_MAX 4096

typedef struct {
    uint32_t threads;
    unsigned char runs[TASKS_MAX]; /* plain: a second run of a task would be a race */
    size_t values[TASKS_MAX];
    size_t factor;
} job;

static void count_task(void *context, size_t task, uint32_t worker)
{
    job *j = context;
    assert_true(worker < j->threads);
    j->runs[task]++;
    j->values[task] = task * j->factor;
}

static void run_and_check(agl_thread_pool *pool, job *j, size_t tasks, size_t factor)
{
    memset(j, 0, sizeof *j);
    j->threads = agl_thread_pool_size(pool);
    j->factor = factor;
    agl_thread_pool_run(pool, count_task, j, tasks);
    for (size_t i = 0; i < tasks; i++) {
        assert_int_equal(j->runs[i], 1);
        assert_int_equal(j->values[i], i * factor);
    }
    for (size_t i = tasks; i < TASKS_MAX; i++) assert_int_equal(j->runs[i], 0);
}

static void every_task_runs_once(void **state)
{
    (void)state;
    job *j = malloc(sizeof *j);
    assert_non_null(j);
    for (uint32_t threads = 1; threads <= 5; threads++) {
        agl_thread_pool *pool;
        assert_int_equal(agl_thread_pool_create(&pool, threads, NULL), AGL_OK);
        assert_int_equal(agl_thread_pool_size(pool), threads);
        for (size_t i = 0; i < 60; i++) run_and_check(pool, j, i * i, i + 1);
        run_and_check(pool, j, TASKS_MAX, 7);
        agl_thread_pool_destroy(pool);
    }
    free(j);
}

/* Workers asleep: the next job must wake them, or at least not need them. */
static void jobs_after_a_pause_run(void **state)
{
    (void)state;
    job *j = malloc(sizeof *j);
    agl_thread_pool *pool;
    assert_non_null(j);
    assert_int_equal(agl_thread_pool_create(&pool, 3, NULL), AGL_OK);
    for (size_t i = 0; i < 10; i++) {
        usleep(2000);
        run_and_check(pool, j, 50 + i, i + 1);
    }
    agl_thread_pool_destroy(pool);
    free(j);
}

static void rendezvous_task(void *context, size_t task, uint32_t worker)
{
    (void)task;
    (void)worker;
    atomic_int *arrived = context;
    atomic_fetch_add(arrived, 1);
    while (atomic_load(arrived) < 2) usleep(100);
}

/* Two tasks that wait for each other end only if two threads run them. */
static void tasks_run_at_the_same_time(void **state)
{
    (void)state;
    agl_thread_pool *pool;
    assert_int_equal(agl_thread_pool_create(&pool, 2, NULL), AGL_OK);
    for (int i = 0; i < 5; i++) {
        atomic_int arrived = 0;
        agl_thread_pool_run(pool, rendezvous_task, &arrived, 2);
        assert_int_equal(atomic_load(&arrived), 2);
    }
    agl_thread_pool_destroy(pool);
}

static void sizes_are_checked(void **state)
{
    (void)state;
    agl_thread_pool *pool;
    agl_error err;
    assert_int_equal(agl_thread_pool_create(&pool, 100000, &err), AGL_ERR_ARGUMENT);
    assert_null(pool);
    assert_non_null(strstr(err.message, "100000"));
    agl_thread_pool_destroy(NULL);
    assert_true(agl_cpu_count() >= 1);
    assert_int_equal(agl_thread_pool_create(&pool, 0, NULL), AGL_OK);
    assert_int_equal(agl_thread_pool_size(pool), agl_cpu_count());
    agl_thread_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(jobs_after_a_pause_run),
        cmocka_unit_test(tasks_run_at_the_same_time),
        cmocka_unit_test(sizes_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
