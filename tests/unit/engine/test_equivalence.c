/* SPDX-License-Identifier: Apache-2.0
 *
 * test_equivalence.c - what a request says never depends on what else the engine is doing,
 * token for token on a tiny FP32 model: alone = in a batch, chunked = whole, cached = cold,
 * preempted = not preempted, n choices = n requests. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "engine/sampler.h"
#include "support/test_checkpoint.h"
#include "support/test_engine_run.h"
#include "support/test_queued_device.h"

#define JOBS 96
#define CLIENTS 4

/* The first job of each client: answers of this length from next to nothing, side by side from
 * the engine's first step on. What together they need is known. */
#define LONG_TOKENS 100

static char folder[256];
static test_result alone[JOBS];

static int32_t letters[26];
static const char *const stops[] = {"qz", "th", "abc"};

/* Every fourth has an image; prompts share prefixes, but of the long ones; all ways to sample
 * take part. */
static test_job job_number(uint32_t i)
{
    uint64_t seed = 1000 + i;
    uint32_t output = 1 + (uint32_t)(test_random(&seed) % 40);
    test_job job = i < CLIENTS  ? test_job_tokens(60 + i, 4, LONG_TOKENS)
                 : i % 4 == 3   ? test_job_image(i / 8, 56 + i % 3 * 28, 84, output)
                                : test_job_tokens(i % 5, 1 + (uint32_t)(test_random(&seed) % 150), output);
    agl_sampling *sampling = &job.options.sampling;
    if (i % 3 != 0) {
        sampling->temperature = 0.9f;
        sampling->top_p = 0.9f;
        sampling->has_seed = true;
        sampling->seed = i;
    }
    if (i % 2 == 0) sampling->frequency_penalty = 0.4f;
    if (i % 5 == 0) sampling->repetition_penalty = 1.2f;
    if (i % 6 == 1) sampling->top_k = 5;
    if (i % 7 == 2) sampling->logprobs = 3;
    if (i % 8 == 5) sampling->min_tokens = output / 2;
    if (i % 9 == 4 || i < CLIENTS) sampling->ignore_eos = true;
    if (i % 10 == 6) {
        sampling->allowed_tokens = letters;
        sampling->allowed_token_count = 26;
        sampling->stop = stops;
        sampling->stop_count = 3;
    }
    return job;
}

static int make_checkpoint(void **state)
{
    (void)state;
    agl_error err = {0};
    for (int i = 0; i < 26; i++) letters[i] = 'a' + i;
    if (test_checkpoint_make(folder, sizeof folder, NULL, &err) != AGL_OK) return 1;

    agl_engine_options options = {.max_num_seqs = 1, .max_num_batched_tokens = 1024,
                                  .disable_prefix_cache = true};
    agl_engine *engine = test_engine_open(folder, &options);
    for (uint32_t i = 0; i < JOBS; i++) {
        test_job job = job_number(i);
        alone[i] = test_run(engine, &job);
        if (alone[i].status != AGL_OK) fail_msg("job %u: %s", i, alone[i].message);
        test_job_free(&job);
    }
    test_engine_close_idle(engine);
    return 0;
}

static int remove_checkpoint(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < JOBS; i++) test_result_free(&alone[i]);
    test_folder_remove(folder);
    return 0;
}

typedef struct {
    agl_engine *engine;
    uint32_t first;
    pthread_barrier_t *all_have_begun;
    test_result results[JOBS];
} client;

/* Several requests in flight from each client, with pauses: batches of every size occur. The
 * engine is held until each client's first one is with it. */
static void *run_client(void *argument)
{
    client *self = argument;
    uint64_t seed = self->first + 77;
    agl_request *open[16];
    test_job jobs[16];
    uint32_t numbers[16], open_count = 0;
    for (uint32_t i = self->first; i < JOBS || open_count > 0;) {
        bool more = i < JOBS && open_count < 16;
        if (i == self->first || (more && test_random(&seed) % 4 != 0)) {
            jobs[open_count] = job_number(i);
            open[open_count] = test_submit(self->engine, &jobs[open_count]);
            numbers[open_count++] = i;
            if (i == self->first) pthread_barrier_wait(self->all_have_begun);
            i += CLIENTS;
            if (test_random(&seed) % 3 == 0) nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        } else if (open_count > 0) {
            uint32_t place = (uint32_t)(test_random(&seed) % open_count);
            self->results[numbers[place]] = test_collect(open[place]);
            test_job_free(&jobs[place]);
            open_count--;
            open[place] = open[open_count];
            jobs[place] = jobs[open_count];
            numbers[place] = numbers[open_count];
        }
    }
    return NULL;
}

/* All jobs at once from four clients; each must say what it said alone. */
static agl_engine_stats check_all(const agl_engine_options *options)
{
    agl_engine *engine = test_engine_open(folder, options);
    client *clients = calloc(CLIENTS, sizeof *clients);
    pthread_t threads[CLIENTS];
    pthread_barrier_t all_have_begun;
    test_hold hold;
    test_engine_hold(&hold, engine);
    assert_int_equal(pthread_barrier_init(&all_have_begun, NULL, CLIENTS + 1), 0);
    for (uint32_t c = 0; c < CLIENTS; c++) {
        clients[c].engine = engine;
        clients[c].first = c;
        clients[c].all_have_begun = &all_have_begun;
        assert_int_equal(pthread_create(&threads[c], NULL, run_client, &clients[c]), 0);
    }
    pthread_barrier_wait(&all_have_begun);
    test_engine_release(&hold);
    for (uint32_t c = 0; c < CLIENTS; c++) pthread_join(threads[c], NULL);
    pthread_barrier_destroy(&all_have_begun);
    for (uint32_t i = 0; i < JOBS; i++) {
        test_result *result = &clients[i % CLIENTS].results[i];
        test_assert_same(&alone[i], result);
        assert_int_equal(result->usage.completion_tokens, alone[i].usage.completion_tokens);
        test_result_free(result);
    }
    free(clients);
    test_engine_assert_idle(engine);
    agl_engine_stats stats = agl_engine_stats_get(engine);
    agl_engine_destroy(engine);
    return stats;
}

static void alone_equals_batched(void **state)
{
    (void)state;
    agl_engine_options options = {.disable_prefix_cache = true};
    agl_engine_stats stats = check_all(&options);
    assert_int_equal(stats.cached_prompt_tokens, 0);
    assert_true(stats.steps < stats.generated_tokens);
}

static void small_batches_equal_alone(void **state)
{
    (void)state;
    agl_engine_options options = {.max_num_seqs = 3, .disable_prefix_cache = true};
    check_all(&options);
}

static void chunked_equals_whole(void **state)
{
    (void)state;
    agl_engine_options options = {.max_num_seqs = 7, .max_num_batched_tokens = 13,
                                  .disable_prefix_cache = true};
    check_all(&options);
    options = (agl_engine_options){.max_num_batched_tokens = 1024, .disable_chunked_prefill = true,
                                   .disable_prefix_cache = true};
    check_all(&options);
}

static void page_size_does_not_matter(void **state)
{
    (void)state;
    agl_engine_options options = {.block_size = 1};
    check_all(&options);
    options.block_size = 64;
    check_all(&options);
}

static void cached_prefix_equals_cold(void **state)
{
    (void)state;
    agl_engine_stats stats = check_all(NULL);
    assert_true(stats.cached_prompt_tokens > 0 && stats.prefix_hits > 0);
}

static void preempted_equals_not_preempted(void **state)
{
    (void)state;
    /* Room for little more than one sequence at its longest. The long answers come first, fit in
     * when they begin, gain a token in each step, and none ends before all need more than there
     * is: whatever the steps take, somebody has to give up pages. */
    agl_engine_options options = {.max_model_len = 256, .kv_cache_bytes = 300 * 512};
    agl_engine_stats stats = check_all(&options);
    printf("  %u pages, %llu preemptions\n", stats.kv_pages, (unsigned long long)stats.preemptions);
    assert_true(CLIENTS * (LONG_TOKENS / stats.kv_page_tokens) > stats.kv_pages);
    assert_true(stats.preemptions > 0);
    options.disable_prefix_cache = true;
    stats = check_all(&options);
    assert_true(stats.preemptions > 0);
}

/* Short prompts are admitted freely and then outgrow the pool together. */
static void growing_answers_preempt_each_other(void **state)
{
    (void)state;
    enum { COUNT = 20 };
    test_result roomy[COUNT];
    agl_request *requests[COUNT];
    for (int tight = 0; tight < 2; tight++) {
        agl_engine_options options = {.max_model_len = 256,
                                      .kv_cache_bytes = tight ? 300 * 512 : 0};
        agl_engine *engine = test_engine_open(folder, &options);
        test_hold hold;
        test_engine_hold(&hold, engine);
        for (uint32_t i = 0; i < COUNT; i++) {
            test_job job = test_job_tokens(50 + i, 4, 100 + i);
            job.options.sampling.ignore_eos = true;
            job.options.sampling.temperature = 1.0f;
            job.options.sampling.presence_penalty = 0.5f;
            job.options.sampling.has_seed = true;
            job.options.sampling.seed = i;
            requests[i] = test_submit(engine, &job);
        }
        test_engine_release(&hold);
        uint32_t preemptions = 0;
        for (uint32_t i = 0; i < COUNT; i++) {
            test_result result = test_collect(requests[i]);
            assert_int_equal(result.usage.completion_tokens, 100 + i);
            preemptions += result.usage.preemptions;
            if (!tight) {
                roomy[i] = result;
                continue;
            }
            test_assert_same(&roomy[i], &result);
            test_result_free(&result);
            test_result_free(&roomy[i]);
        }
        assert_int_equal(agl_engine_stats_get(engine).preemptions, preemptions);
        assert_true(tight ? preemptions >= COUNT / 2 : preemptions == 0);
        if (tight) printf("  %u preemptions of %d requests\n", preemptions, COUNT);
        test_engine_close_idle(engine);
    }
}

static void an_image_is_encoded_once(void **state)
{
    (void)state;
    agl_engine *engine = test_engine_open(folder, NULL);
    test_job job = test_job_image(5, 84, 84, 12);
    test_result cold = test_run(engine, &job);
    assert_int_equal(agl_engine_stats_get(engine).vision_runs, 1);
    assert_int_equal(cold.usage.image_count, 1);
    assert_int_equal(cold.usage.image_tokens, 9);
    assert_int_equal(cold.usage.cached_tokens, 0);

    /* The whole prompt is known: all but the last token comes from the cache, tail included. */
    test_result warm = test_run(engine, &job);
    test_assert_same(&cold, &warm);
    assert_int_equal(agl_engine_stats_get(engine).vision_runs, 1);
    assert_int_equal(warm.usage.cached_tokens, warm.usage.prompt_tokens - 1);

    /* Another salt sees nothing of it, but the picture's rows are the same. */
    job.options.cache_salt = "other tenant";
    test_result salted = test_run(engine, &job);
    test_assert_same(&cold, &salted);
    assert_int_equal(salted.usage.cached_tokens, 0);
    assert_int_equal(agl_engine_stats_get(engine).vision_runs, 1);
    test_job_free(&job);

    /* Same text and size, other pixels: the prefix ends where the image begins. */
    test_job other = test_job_image(15, 84, 84, 12);
    test_result different = test_run(engine, &other);
    assert_true(different.usage.cached_tokens < 16);
    assert_int_equal(agl_engine_stats_get(engine).vision_runs, 2);
    assert_int_equal(agl_engine_stats_get(engine).text_only_requests, 0);

    agl_engine_cache_reset(engine);
    job = test_job_image(5, 84, 84, 12);
    test_result again = test_run(engine, &job);
    test_assert_same(&cold, &again);
    assert_int_equal(again.usage.cached_tokens, 0);
    assert_int_equal(agl_engine_stats_get(engine).vision_runs, 3);
    test_job_free(&job);
    test_job_free(&other);
    test_result *results[] = {&cold, &warm, &salted, &different, &again};
    for (int i = 0; i < 5; i++) test_result_free(results[i]);
    test_engine_close_idle(engine);
}

static void choices_equal_requests(void **state)
{
    (void)state;
    /* Prompts that end inside a page, on its border, and are cached; with and without room. */
    for (uint32_t round = 0; round < 8; round++) {
        agl_engine_options options = {.max_model_len = 256,
                                      .kv_cache_bytes = round >= 6 ? 300 * 512 : 0};
        agl_engine *engine = test_engine_open(folder, &options);
        test_job job = test_job_tokens(round, 30 + round % 4, 25);
        agl_sampling *sampling = &job.options.sampling;
        sampling->temperature = 1.1f;
        sampling->has_seed = true;
        sampling->seed = 99 + round;
        sampling->n = TEST_CHOICES_MAX;
        sampling->frequency_penalty = 0.3f;
        test_result together = test_run(engine, &job);
        assert_int_equal(together.choice_count, TEST_CHOICES_MAX);
        sampling->n = 1;
        bool differ = false;
        for (uint32_t i = 0; i < TEST_CHOICES_MAX; i++) {
            sampling->seed = agl_choice_seed(99 + round, i);
            test_result single = test_run(engine, &job);
            const test_choice *a = &single.choices[0], *b = &together.choices[i];
            assert_int_equal(a->token_count, b->token_count);
            assert_memory_equal(a->tokens, b->tokens, a->token_count * sizeof *a->tokens);
            assert_int_equal(a->finish, b->finish);
            differ = differ || a->tokens[0] != together.choices[0].tokens[0] || a->token_count != together.choices[0].token_count;
            test_result_free(&single);
        }
        assert_true(differ);
        test_result_free(&together);
        test_engine_close_idle(engine);
    }
}

/* An answer that goes on behind tokens given by the client is the rest of the whole answer. */
static void resumed_equals_whole(void **state)
{
    (void)state;
    agl_engine_options options = {.max_num_seqs = 4, .max_num_batched_tokens = 96};
    agl_engine *engine = test_engine_open(folder, &options);
    uint64_t seed = 4;
    uint32_t compared = 0;
    for (uint32_t i = 0; i < JOBS; i++) {
        const test_choice *whole = &alone[i].choices[0];
        /* Not where a stop string ends the text inside the tokens. */
        if (whole->token_count < 2 || whole->stop_string[0] != '\0') continue;
        test_job job = job_number(i);
        size_t taken = 1 + (size_t)(test_random(&seed) % (whole->token_count - 1));
        job.options.resume_tokens = whole->tokens;
        job.options.resume_token_count = taken;
        test_result rest = test_run(engine, &job);
        const test_choice *choice = &rest.choices[0];
        if (rest.status != AGL_OK) fail_msg("job %u: %s", i, rest.message);
        assert_int_equal(choice->token_count, whole->token_count - taken);
        assert_memory_equal(choice->tokens, whole->tokens + taken, choice->token_count * sizeof *choice->tokens);
        assert_int_equal(choice->finish, whole->finish);
        assert_int_equal(rest.usage.completion_tokens, choice->token_count);
        assert_int_equal(rest.usage.prompt_tokens, alone[i].usage.prompt_tokens + taken);
        assert_true(choice->text.bytes <= whole->text.bytes);
        if (choice->text.bytes > 0) {
            assert_memory_equal(choice->text.data, whole->text.data + whole->text.bytes - choice->text.bytes,
                                choice->text.bytes);
        }
        compared++;
        test_result_free(&rest);
        test_job_free(&job);
    }
    assert_true(compared > JOBS / 2);
    test_engine_close_idle(engine);
}

/* The logprob a token had when it was drawn is the one it has as part of a prompt. */
static void prompt_logprobs_equal_output_logprobs(void **state)
{
    (void)state;
    agl_engine *engine = test_engine_open(folder, NULL);
    test_job job = test_job_tokens(3, 100, 60);
    job.options.sampling.logprobs = 0;
    job.options.sampling.ignore_eos = true;
    test_result drawn = test_run(engine, &job);
    test_choice *choice = &drawn.choices[0];
    assert_int_equal(choice->token_count, 60);
    for (size_t i = 0; i < 60; i++) job.tokens[100 + i] = choice->tokens[i];
    job.options.token_count = 160;
    job.options.sampling.prompt_logprobs = 2;
    job.options.sampling.max_tokens = 1;
    test_result scored = test_run(engine, &job);
    assert_int_equal(scored.prompt_count, 160);
    for (size_t i = 0; i < 60; i++) {
        assert_int_equal(scored.prompt[100 + i].token, choice->tokens[i]);
        assert_float_equal(scored.prompt[100 + i].logprob, choice->logprobs[i], 1e-4);
        assert_int_equal(scored.prompt[100 + i].rank, 1);
    }
    test_result_free(&drawn);
    test_result_free(&scored);
    test_engine_close_idle(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_equals_batched),
        cmocka_unit_test(small_batches_equal_alone),
        cmocka_unit_test(chunked_equals_whole),
        cmocka_unit_test(page_size_does_not_matter),
        cmocka_unit_test(cached_prefix_equals_cold),
        cmocka_unit_test(preempted_equals_not_preempted),
        cmocka_unit_test(growing_answers_preempt_each_other),
        cmocka_unit_test(an_image_is_encoded_once),
        cmocka_unit_test(choices_equal_requests),
        cmocka_unit_test(resumed_equals_whole),
        cmocka_unit_test(prompt_logprobs_equal_output_logprobs),
    };
    int failed = 0;
    for (test_device device = 0; device < TEST_DEVICE_COUNT; device++) {
        test_device_use(device);
        printf("device: %s\n", test_device_name(device));
        failed += cmocka_run_group_tests(tests, device == 0 ? make_checkpoint : NULL,
                                         device + 1 == TEST_DEVICE_COUNT ? remove_checkpoint : NULL);
    }
    return failed;
}
