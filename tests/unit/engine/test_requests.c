/* SPDX-License-Identifier: Apache-2.0
 *
 * test_requests.c - the life of requests on a tiny model: text, stop strings, limits and
 * refusals, cancelling anywhere, deadlines, order, and clean ends. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "support/test_checkpoint.h"
#include "support/test_engine_run.h"
#include "support/test_queued_device.h"

static char folder[256];
static int32_t letters[26];

static int make_checkpoint(void **state)
{
    (void)state;
    agl_error err = {0};
    for (int i = 0; i < 26; i++) letters[i] = 'a' + i;
    return test_checkpoint_make(folder, sizeof folder, NULL, &err) != AGL_OK;
}

static int remove_checkpoint(void **state)
{
    (void)state;
    test_folder_remove(folder);
    return 0;
}

/* Answers in letters, one a token, and never the same twice in a row. */
static test_job letter_job(uint64_t seed, uint32_t max_tokens)
{
    test_job job = test_job_tokens(seed, 20, max_tokens);
    agl_sampling *sampling = &job.options.sampling;
    sampling->allowed_tokens = letters;
    sampling->allowed_token_count = 26;
    sampling->temperature = 2.0f;
    sampling->top_p = 1.0f;
    sampling->has_seed = true;
    sampling->seed = seed;
    return job;
}

static void pause_ms(long milliseconds)
{
    nanosleep(&(struct timespec){.tv_nsec = milliseconds * 1000000}, NULL);
}

/* ---- text -------------------------------------------------------------- */

static void streamed_text_is_the_text(void **state)
{
    (void)state;
    agl_engine *engine = test_engine_open(folder, NULL);
    for (uint64_t seed = 0; seed < 12; seed++) {
        test_job job = test_job_tokens(seed, 20, 200);  /* bytes at random: broken UTF-8 too */
        job.options.sampling.temperature = 1.5f;
        job.options.sampling.has_seed = true;
        job.options.sampling.seed = seed;
        job.options.sampling.ignore_eos = true;
        job.options.sampling.keep_special_tokens = true;
        test_result streamed = test_run(engine, &job);

        agl_request *request = test_submit(engine, &job);
        while (agl_engine_stats_get(engine).running + agl_engine_stats_get(engine).waiting > 0) pause_ms(1);
        pause_ms(1);
        test_result late = test_collect(request);       /* all tokens are there at once */
        test_assert_same(&streamed, &late);
        assert_true(late.choices[0].event_count <= streamed.choices[0].event_count);

        char *text;
        size_t bytes;
        test_choice *choice = &streamed.choices[0];
        assert_int_equal(agl_detokenize(engine, choice->tokens, choice->token_count, &text, &bytes,
                                        NULL), AGL_OK);
        assert_int_equal(bytes, choice->text.bytes);
        assert_memory_equal(text, choice->text.data, bytes);
        agl_free(text);
        test_result_free(&streamed);
        test_result_free(&late);
    }
    test_engine_close_idle(engine);
}

static void stop_strings_end_the_text(void **state)
{
    (void)state;
    agl_engine *engine = test_engine_open(folder, NULL);
    test_job job = letter_job(4, 60);
    test_result whole = test_run(engine, &job);
    const char *text = whole.choices[0].text.data;
    assert_int_equal(whole.choices[0].text.bytes, 60);

    for (size_t at = 1; at < 50; at += 7) {
        for (size_t length = 1; length <= 9; length += 4) {
            char stop[16], wrong[16];
            memcpy(stop, text + at, length);
            stop[length] = '\0';
            snprintf(wrong, sizeof wrong, "%.14s!", stop);  /* begins alike, never completes */
            size_t first = (size_t)(strstr(text, stop) - text);
            const char *stops[] = {wrong, stop};
            for (int include = 0; include < 2; include++) {
                job.options.sampling.stop = stops;
                job.options.sampling.stop_count = 2;
                job.options.sampling.include_stop_str = include;
                test_result cut = test_run(engine, &job);
                test_choice *choice = &cut.choices[0];
                assert_int_equal(choice->finish, AGL_FINISH_STOP);
                assert_string_equal(choice->stop_string, stop);
                assert_int_equal(choice->stop_token, -1);
                assert_int_equal(choice->text.bytes, first + (include ? length : 0));
                assert_memory_equal(choice->text.data, text, choice->text.bytes);
                assert_int_equal(choice->token_count, first + length);
                assert_int_equal(cut.usage.completion_tokens, first + length);
                test_result_free(&cut);
            }
        }
    }
    /* A start that never completes comes out at the end. */
    char never[16];
    snprintf(never, sizeof never, "%.5s!", text + 55);
    const char *stops[] = {never};
    job.options.sampling.stop = stops;
    job.options.sampling.stop_count = 1;
    test_result uncut = test_run(engine, &job);
    assert_int_equal(uncut.choices[0].text.bytes, 60);
    assert_int_equal(uncut.choices[0].finish, AGL_FINISH_LENGTH);
    test_result_free(&uncut);

    /* Not before min_tokens. */
    char early[2] = {text[0], '\0'};
    stops[0] = early;
    job.options.sampling.min_tokens = 40;
    test_result late = test_run(engine, &job);
    assert_true(late.choices[0].token_count > 40);
    test_result_free(&late);
    test_result_free(&whole);
    test_engine_close_idle(engine);
}

static void stop_tokens_end_the_answer(void **state)
{
    (void)state;
    agl_engine *engine = test_engine_open(folder, NULL);
    test_job job = letter_job(5, 60);
    test_result whole = test_run(engine, &job);
    int32_t stop = whole.choices[0].tokens[30];
    size_t first = 0;
    while (whole.choices[0].tokens[first] != stop) first++;
    job.options.sampling.stop_tokens = &stop;
    job.options.sampling.stop_token_count = 1;
    for (int include = 0; include < 2; include++) {
        job.options.sampling.include_stop_str = include;
        test_result cut = test_run(engine, &job);
        assert_int_equal(cut.choices[0].finish, AGL_FINISH_STOP);
        assert_int_equal(cut.choices[0].stop_token, stop);
        assert_int_equal(cut.choices[0].token_count, first + 1);
        assert_int_equal(cut.choices[0].text.bytes, first + (include ? 1 : 0));
        test_result_free(&cut);
    }
    job.options.sampling.min_tokens = 50;
    test_result late = test_run(engine, &job);
    for (size_t i = 0; i < 50; i++) assert_int_not_equal(late.choices[0].tokens[i], stop);
    test_result_free(&late);
    test_result_free(&whole);
    test_engine_close_idle(engine);
}

static void bad_words_do_not_come(void **state)
{
    (void)state;
    agl_engine *engine = test_engine_open(folder, NULL);
    test_job job = letter_job(6, 200);
    test_result whole = test_run(engine, &job);
    char word[3] = {whole.choices[0].text.data[10], whole.choices[0].text.data[11], '\0'};
    char letter[2] = {whole.choices[0].text.data[20], '\0'};
    const char *words[] = {word, letter};
    job.options.sampling.bad_words = words;
    job.options.sampling.bad_word_count = 2;
    test_result clean = test_run(engine, &job);
    assert_null(strstr(clean.choices[0].text.data, word));
    assert_null(strstr(clean.choices[0].text.data, letter));
    test_result_free(&clean);
    test_result_free(&whole);
    test_engine_close_idle(engine);
}

/* ---- limits ------------------------------------------------------------ */

static void refused(agl_engine *engine, test_job *job, agl_status status, const char *words)
{
    test_result result = test_run(engine, job);
    if (result.status != status || strstr(result.message, words) == NULL) {
        fail_msg("wanted %s with \"%s\", got %s: %s", agl_status_text(status), words,
                 agl_status_text(result.status), result.message);
    }
    test_result_free(&result);
}

static void bad_requests_are_refused(void **state)
{
    (void)state;
    agl_engine_options options = {.max_model_len = 128, .max_images = 1};
    agl_engine *engine = test_engine_open(folder, &options);
    test_job job = test_job_tokens(1, 128, 5);
    refused(engine, &job, AGL_ERR_CONTEXT, "maximum context length is 128 tokens");
    job = test_job_tokens(1, 127, 500);
    test_result clamped = test_run(engine, &job);
    assert_int_equal(clamped.usage.completion_tokens, 1);
    assert_int_equal(clamped.choices[0].finish, AGL_FINISH_LENGTH);
    test_result_free(&clamped);

    job = test_job_tokens(1, 300, 5);
    job.options.truncate_prompt_tokens = 50;
    test_result truncated = test_run(engine, &job);
    assert_int_equal(truncated.usage.prompt_tokens, 50);
    test_result_free(&truncated);

    job = test_job_tokens(1, 5, 5);
    job.tokens[3] = 5000;
    refused(engine, &job, AGL_ERR_ARGUMENT, "prompt token 3 is 5000, out of range");
    job = test_job_tokens(1, 5, 5);
    job.options.sampling.temperature = -1.0f;
    refused(engine, &job, AGL_ERR_ARGUMENT, "temperature must be in [0");
    job = test_job_tokens(1, 5, 5);
    job.options.sampling.top_p = 0.0f;
    refused(engine, &job, AGL_ERR_ARGUMENT, "top_p");
    job = test_job_tokens(1, 5, 5);
    job.options.sampling.n = 1000;
    refused(engine, &job, AGL_ERR_ARGUMENT, "n must be in [1, 64]");
    job = test_job_tokens(1, 5, 5);
    job.options.sampling.logprobs = 21;
    refused(engine, &job, AGL_ERR_ARGUMENT, "logprobs must be in [0, 20]");
    job = test_job_tokens(1, 5, 5);
    job.options.sampling.min_tokens = 6;
    refused(engine, &job, AGL_ERR_ARGUMENT, "min_tokens 6");

    job = test_job_image(1, 112, 112, 5);
    job.options.truncate_prompt_tokens = 50;
    refused(engine, &job, AGL_ERR_UNSUPPORTED, "truncate_prompt_tokens");
    job.options.truncate_prompt_tokens = 0;
    job.parts[0].bytes = 60;
    refused(engine, &job, AGL_ERR_FORMAT, "messages[0].content[0]");
    test_job_free(&job);
    test_engine_close_idle(engine);

    agl_error err = {0};
    agl_engine *none = NULL;
    options = (agl_engine_options){.model = folder, .threads = 1, .max_model_len = 4096,
                                   .kv_cache_bytes = 100 * 512};
    assert_int_equal(agl_engine_create(&none, &options, &err), AGL_ERR_MEMORY);
    assert_non_null(strstr(err.message, "--max-model-len"));
    options = (agl_engine_options){.model = folder, .threads = 1, .max_num_seqs = 20,
                                   .max_num_batched_tokens = 10};
    assert_int_equal(agl_engine_create(&none, &options, &err), AGL_ERR_ARGUMENT);
    assert_null(none);
}

/* Small pictures grow to the checkpoint's least size with sides rounded up, narrow ones keep a
 * width of one cell: with the lowest cap both come out larger than it. */
static void pictures_over_a_low_cap_fit(void **state)
{
    (void)state;
    static const uint32_t SIZES[][2] = {{56, 84}, {28, 28}, {1, 200}, {30, 3000}, {2000, 28}, {90, 90}};
    agl_engine_options options = {.max_pixels = 6272};
    agl_engine *engine = test_engine_open(folder, &options);
    for (size_t i = 0; i < AGL_COUNT(SIZES); i++) {
        test_job job = test_job_image(i, SIZES[i][0], SIZES[i][1], 1);
        test_result result = test_run(engine, &job);
        if (result.status != AGL_OK) fail_msg("%s", result.message);
        test_result_free(&result);
        test_job_free(&job);
    }
    test_engine_close_idle(engine);
}

static void a_full_queue_is_busy(void **state)
{
    (void)state;
    agl_engine_options options = {.max_queued = 3, .max_num_seqs = 1};
    agl_engine *engine = test_engine_open(folder, &options);
    agl_request *requests[8];
    int accepted = 0;
    agl_error err = {0};
    for (int i = 0; i < 8; i++) {
        test_job job = letter_job((uint64_t)i, 400);
        job.options.tokens = job.tokens;
        agl_status status = agl_request_submit(&requests[accepted], engine, &job.options, &err);
        if (status == AGL_OK) accepted++;
        else assert_int_equal(status, AGL_ERR_BUSY);
    }
    assert_true(accepted >= 3 && accepted <= 5);
    for (int i = 0; i < accepted; i++) agl_request_destroy(requests[i]);
    test_engine_close_idle(engine);
}

/* ---- order and ends ---------------------------------------------------- */

static double finish_time(agl_request *request)
{
    test_result result = test_collect(request);
    double queued = result.usage.queue_s;
    test_result_free(&result);
    return queued;
}

static void priority_goes_first(void **state)
{
    (void)state;
    agl_engine_options options = {.max_num_seqs = 1, .priority_scheduling = true};
    agl_engine *engine = test_engine_open(folder, &options);
    test_job job = letter_job(1, 400);
    agl_request *blocker = test_submit(engine, &job);
    while (agl_engine_stats_get(engine).running == 0) pause_ms(1);
    job = letter_job(2, 50);
    job.options.priority = 5;
    agl_request *low = test_submit(engine, &job);
    job.options.priority = -5;
    agl_request *high = test_submit(engine, &job);
    agl_request_destroy(blocker);
    double high_queued = finish_time(high), low_queued = finish_time(low);
    assert_true(high_queued < low_queued);
    test_engine_close_idle(engine);
}

static void a_deadline_ends_the_request(void **state)
{
    (void)state;
    agl_engine_options options = {.max_num_seqs = 1};
    agl_engine *engine = test_engine_open(folder, &options);
    test_job job = letter_job(1, 900);
    agl_request *blocker = test_submit(engine, &job);
    job.options.deadline_ms = 1;
    agl_request *late = test_submit(engine, &job);
    test_result result = test_collect(late);
    assert_int_equal(result.status, AGL_ERR_TIMEOUT);
    assert_int_equal(result.done, 1);
    test_result_free(&result);
    agl_request_destroy(blocker);
    test_engine_close_idle(engine);
}

static void cancelled_requests_say_so(void **state)
{
    (void)state;
    agl_engine *engine = test_engine_open(folder, NULL);
    test_job job = letter_job(1, 900);
    job.options.sampling.n = 3;
    agl_request *request = test_submit(engine, &job);
    agl_event event;
    agl_request_next(request, -1, &event);
    agl_request_cancel(request);
    int finished = 0;
    do {
        agl_request_next(request, -1, &event);
        if (event.kind == AGL_EVENT_FINISH) {
            assert_int_equal(event.finish, AGL_FINISH_ABORT);
            finished++;
        }
    } while (event.kind != AGL_EVENT_DONE);
    assert_int_equal(finished, 3);
    assert_true(event.usage.completion_tokens < 2700);
    agl_request_destroy(request);
    assert_int_equal(agl_engine_stats_get(engine).aborts_decode, 1);
    test_engine_close_idle(engine);
}

static void news_are_announced(void *user)
{
    atomic_fetch_add((atomic_uint *)user, 1);
}

/* A reader that only looks when told sees everything. */
static void notify_misses_nothing(void **state)
{
    (void)state;
    agl_engine *engine = test_engine_open(folder, NULL);
    for (uint64_t seed = 0; seed < 20; seed++) {
        atomic_uint told = 0;
        test_job job = letter_job(seed, 100);
        job.options.notify = news_are_announced;
        job.options.notify_user = &told;
        agl_request *request = test_submit(engine, &job);
        agl_event event = {0};
        unsigned seen = 0;
        size_t tokens = 0;
        while (event.kind != AGL_EVENT_DONE) {
            while (atomic_load(&told) == seen) pause_ms(1);
            seen = atomic_load(&told);
            do {
                agl_request_next(request, 0, &event);
                tokens += event.token_count;
            } while (event.kind != AGL_EVENT_NONE && event.kind != AGL_EVENT_DONE);
        }
        assert_int_equal(tokens, 100);
        agl_request_destroy(request);
    }
    test_engine_close_idle(engine);
}

/* ---- chaos ------------------------------------------------------------- */

typedef struct {
    agl_engine *engine;
    uint64_t seed;
    uint32_t count, finished;
} chaos;

static test_job chaos_job(uint64_t *seed)
{
    uint64_t kind = test_random(seed) % 6, variety = test_random(seed);
    test_job job = kind == 0 ? test_job_image(variety % 6, 84, 56 + 28 * (variety % 3), 30)
                             : test_job_tokens(variety % 9, 1 + variety % 180, 1 + variety % 60);
    job.options.sampling.temperature = 1.0f;
    if (kind == 1) job.options.sampling.n = 1 + (uint32_t)(variety % 5);
    if (kind == 2) job.options.deadline_ms = 1 + (uint32_t)(variety % 20);
    if (kind == 3) job.options.sampling.prompt_logprobs = 1;
    if (kind == 4) {
        static const char *const stops[] = {"a", "\xc3\xa9"};
        job.options.sampling.stop = stops;
        job.options.sampling.stop_count = 2;
    }
    return job;
}

static void *run_chaos(void *argument)
{
    chaos *self = argument;
    for (uint32_t i = 0; i < self->count; i++) {
        test_job job = chaos_job(&self->seed);
        agl_request *request = test_submit(self->engine, &job);
        test_job_free(&job);
        uint64_t ending = test_random(&self->seed) % 5;
        if (ending <= 1) {                              /* read all */
            test_result result = test_collect(request);
            self->finished += result.done;
            test_result_free(&result);
            continue;
        }
        agl_event event = {0};
        uint64_t events = test_random(&self->seed) % 12;
        if (ending >= 3) pause_ms((long)(test_random(&self->seed) % 4));
        for (uint64_t e = 0; ending == 2 && e < events && event.kind != AGL_EVENT_DONE; e++) {
            agl_request_next(request, 5, &event);
        }
        if (ending == 4) agl_request_cancel(request);
        agl_request_destroy(request);
    }
    return NULL;
}

static void random_aborts_leave_nothing_behind(void **state)
{
    (void)state;
    agl_engine_options options = {.max_model_len = 256, .max_num_seqs = 12,
                                  .max_num_batched_tokens = 48, .kv_cache_bytes = 700 * 512,
                                  .encoder_cache_bytes = 60 * 256};
    agl_engine *engine = test_engine_open(folder, &options);
    chaos users[5];
    pthread_t threads[5];
    for (uint32_t i = 0; i < 5; i++) {
        users[i] = (chaos){.engine = engine, .seed = 31 * i + 5, .count = 100};
        assert_int_equal(pthread_create(&threads[i], NULL, run_chaos, &users[i]), 0);
    }
    uint32_t finished = 0;
    for (uint32_t i = 0; i < 5; i++) {
        pthread_join(threads[i], NULL);
        finished += users[i].finished;
    }
    assert_true(finished > 100);
    test_engine_assert_idle(engine);
    agl_engine_stats stats = agl_engine_stats_get(engine);
    printf("  %llu steps, %llu preemptions, aborts %llu queue %llu prefill %llu decode\n",
           (unsigned long long)stats.steps, (unsigned long long)stats.preemptions,
           (unsigned long long)stats.aborts_queue, (unsigned long long)stats.aborts_prefill,
           (unsigned long long)stats.aborts_decode);
    agl_engine_cache_reset(engine);
    test_job job = test_job_tokens(1, 3, 1);
    test_result result = test_run(engine, &job);        /* still serves */
    assert_int_equal(result.status, AGL_OK);
    test_result_free(&result);
    test_engine_close_idle(engine);
}

static void destroy_with_work_pending_is_clean(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 5; seed++) {
        agl_engine_options options = {.max_num_seqs = 4};
        agl_engine *engine = test_engine_open(folder, &options);
        for (uint64_t i = 0; i < 12; i++) {
            test_job job = i % 3 == 0 ? test_job_image(i, 84, 84, 200) : letter_job(i, 900);
            agl_request *request = test_submit(engine, &job);
            test_job_free(&job);
            if (i == 6) pause_ms((long)seed);
            agl_request_destroy(request);
        }
        agl_engine_destroy(engine);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streamed_text_is_the_text),
        cmocka_unit_test(stop_strings_end_the_text),
        cmocka_unit_test(stop_tokens_end_the_answer),
        cmocka_unit_test(bad_words_do_not_come),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(pictures_over_a_low_cap_fit),
        cmocka_unit_test(a_full_queue_is_busy),
        cmocka_unit_test(priority_goes_first),
        cmocka_unit_test(a_deadline_ends_the_request),
        cmocka_unit_test(cancelled_requests_say_so),
        cmocka_unit_test(notify_misses_nothing),
        cmocka_unit_test(random_aborts_leave_nothing_behind),
        cmocka_unit_test(destroy_with_work_pending_is_clean),
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
