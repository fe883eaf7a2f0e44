/* SPDX-License-Identifier: Apache-2.0
 *
 * How many prompt rows a step takes while others decode: by the times the scheduler was told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "engine/scheduler.h"

enum { PAGE_TOKENS = 16, PAGES = 8192, PROMPT_TOKENS = 10000, SHORT_TOKENS = 10, ROWS_MAX = 8192, REQUESTS_MAX = 96 };

/* A step of decoding alone takes 5 ms, a prompt row 30 us: 50 ms are 1,500 rows of prompts. */
#define DECODE_STEP_S 0.005
#define ROW_S 30e-6

typedef struct {
    agl_page_pool *pool;
    agl_page_context pages;
    agl_scheduler *scheduler;
    agl_request requests[REQUESTS_MAX];
    agl_sequence sequences[REQUESTS_MAX];
    int count;
} bench;

static void bench_open(bench *b, const agl_scheduler_options *given)
{
    agl_scheduler_options options = *given;
    *b = (bench){0};
    options.max_rows = ROWS_MAX, options.max_waiting = REQUESTS_MAX;
    assert_int_equal(agl_page_pool_create(&b->pool, PAGES, NULL), AGL_OK);
    b->pages = (agl_page_context){.pool = b->pool, .page_tokens = PAGE_TOKENS};
    b->pages.copy_capacity = REQUESTS_MAX;
    b->pages.copies = calloc(REQUESTS_MAX, sizeof *b->pages.copies);
    assert_non_null(b->pages.copies);
    assert_int_equal(agl_scheduler_create(&b->scheduler, &options, &b->pages, NULL, NULL), AGL_OK);
}

static void bench_close(bench *b)
{
    for (int i = 0; i < b->count; i++) {
        agl_scheduler_end(b->scheduler, &b->sequences[i]);
        free(b->sequences[i].pages);
        free(b->requests[i].prompt.tokens.ids);
    }
    agl_scheduler_destroy(b->scheduler);
    agl_page_pool_destroy(b->pool);
    free(b->pages.copies);
}

static agl_sequence *submit(bench *b, uint32_t tokens)
{
    assert_true(b->count < REQUESTS_MAX);
    agl_request *request = &b->requests[b->count];
    agl_sequence *sequence = &b->sequences[b->count];
    request->number = (uint64_t)b->count++;
    request->scheduled = true;      /* nobody waits for the news that it has left the queue */
    request->sampling = (agl_sampling_rules){.n = 1, .max_tokens = 100};
    request->prompt.tokens.ids = calloc(tokens, sizeof *request->prompt.tokens.ids);
    request->prompt.tokens.count = tokens;
    sequence->request = request, sequence->slots = 1;
    sequence->pages = calloc(tokens / PAGE_TOKENS + 8, sizeof *sequence->pages);
    assert_true(request->prompt.tokens.ids != NULL && sequence->pages != NULL);
    assert_int_equal(agl_scheduler_add(b->scheduler, sequence), AGL_OK);
    return sequence;
}

/* Run a step as the engine does: a sequence whose last row it has gets a token. */
static const agl_step_plan *step(bench *b, double seconds)
{
    const agl_step_plan *plan = agl_scheduler_plan(b->scheduler);
    for (uint32_t i = 0; i < plan->entry_count; i++) {
        agl_sequence *sequence = plan->entries[i].sequence;
        agl_scheduler_advance(b->scheduler, &plan->entries[i]);
        sequence->output_count += sequence->pending;
        sequence->pending = 0;
    }
    agl_scheduler_measured(b->scheduler, plan, seconds);
    return plan;
}

/* One that decodes, and both times known. */
static void begin(bench *b, const agl_scheduler_options *options)
{
    bench_open(b, options);
    submit(b, PROMPT_TOKENS / 2);
    const agl_step_plan *plan = step(b, PROMPT_TOKENS / 2 * ROW_S);
    assert_int_equal(plan->row_count, PROMPT_TOKENS / 2); /* alone: as many rows as there are */
    plan = step(b, DECODE_STEP_S);
    assert_int_equal(plan->row_count, 1);
}

static void a_stream_is_held_up_for_50_ms(void **state)
{
    (void)state;
    bench b;
    begin(&b, &(agl_scheduler_options){.max_sequences = REQUESTS_MAX});
    submit(&b, PROMPT_TOKENS);
    const agl_step_plan *plan = step(&b, 0.05);
    assert_int_equal(plan->decode_rows, 1);
    assert_int_equal(plan->row_count, 12 * 128); /* 1 + 1,500, to whole tiles of 128 */
    bench_close(&b);
}

static void longer_when_more_wait_than_run(void **state)
{
    (void)state;
    static const struct { int waiting; uint32_t rows; } CASES[] = {
        {2, 25 * 128},      /* 100 ms: 3,167 rows                                          */
        {3, 38 * 128},
        {5, 64 * 128},      /* 250 ms: 8,167                                               */
        {9, 64 * 128},      /* and no more                                                 */
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        bench b;
        begin(&b, &(agl_scheduler_options){.max_sequences = REQUESTS_MAX});
        for (int n = 0; n < CASES[i].waiting; n++) submit(&b, PROMPT_TOKENS);
        assert_int_equal(step(&b, 0.1)->row_count, CASES[i].rows);
        bench_close(&b);
    }
}

/* Those behind them have no slot: it would not be their turn sooner. */
static void not_for_those_that_find_no_slot(void **state)
{
    (void)state;
    bench b;
    begin(&b, &(agl_scheduler_options){.max_sequences = 2});
    for (int n = 0; n < 9; n++) submit(&b, PROMPT_TOKENS);
    assert_int_equal(step(&b, 0.05)->row_count, 12 * 128);
    assert_int_equal(step(&b, 0.05)->row_count, 12 * 128); /* the same one goes on */
    bench_close(&b);
}

static void streams_count_against_it(void **state)
{
    (void)state;
    bench b;
    begin(&b, &(agl_scheduler_options){.max_sequences = REQUESTS_MAX});
    for (int n = 0; n < 3; n++) submit(&b, SHORT_TOKENS);
    const agl_step_plan *plan = step(&b, DECODE_STEP_S + 3 * SHORT_TOKENS * ROW_S);
    assert_int_equal(plan->row_count, 1 + 3 * SHORT_TOKENS);
    for (int n = 0; n < 4; n++) submit(&b, PROMPT_TOKENS); /* 4 wait, 4 run */
    plan = step(&b, 0.05);
    assert_int_equal(plan->decode_rows, 4);
    assert_int_equal(plan->row_count, 12 * 128);
    bench_close(&b);
}

/* 40 streams and 40 prompts: 50 ms times 40 / 16 are 4,000 rows. */
static void longer_when_many_wait(void **state)
{
    (void)state;
    bench b;
    begin(&b, &(agl_scheduler_options){.max_sequences = REQUESTS_MAX});
    for (int n = 0; n < 39; n++) submit(&b, SHORT_TOKENS);
    step(&b, DECODE_STEP_S + 39 * SHORT_TOKENS * ROW_S);
    for (int n = 0; n < 40; n++) submit(&b, PROMPT_TOKENS);
    const agl_step_plan *plan = step(&b, 0.125);
    assert_int_equal(plan->decode_rows, 40);
    assert_int_equal(plan->row_count, 32 * 128); /* 40 + 4,000, to whole tiles of 128 */
    bench_close(&b);
}

static void whole_prompts_are_not_cut(void **state)
{
    (void)state;
    bench b;
    begin(&b, &(agl_scheduler_options){.max_sequences = REQUESTS_MAX, .whole_prompts = true});
    submit(&b, PROMPT_TOKENS / 2);
    assert_int_equal(step(&b, 0.15)->row_count, 1 + PROMPT_TOKENS / 2);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_is_held_up_for_50_ms),  cmocka_unit_test(longer_when_more_wait_than_run),
        cmocka_unit_test(longer_when_many_wait),
        cmocka_unit_test(not_for_those_that_find_no_slot), cmocka_unit_test(streams_count_against_it),
        cmocka_unit_test(whole_prompts_are_not_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
