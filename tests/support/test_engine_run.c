/* SPDX-License-Identifier: Apache-2.0 */
#include "support/test_engine_run.h"

#include <arpa/inet.h>
#include <libdeflate.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "base/random.h"

uint64_t test_random(uint64_t *state)
{
    return agl_random_next(state);
}

agl_engine *test_engine_open(const char *folder, const agl_engine_options *given)
{
    agl_engine_options options = given != NULL ? *given : (agl_engine_options){0};
    options.model = folder;
    /* AGL_TEST_DEVICE=cuda: what a request says must not depend on the others there either. */
    const char *device = getenv("AGL_TEST_DEVICE");
    if (options.device == NULL) {
        options.device = device != NULL ? device : "cpu";
        if (device != NULL && options.dtype == NULL) options.dtype = "float32";
    }
    if (options.memory_utilization == 0) options.memory_utilization = 0.1; /* beside other checks */
    if (options.threads == 0) options.threads = 1;
    if (options.max_model_len == 0) options.max_model_len = 1024;
    if (options.max_num_seqs == 0) options.max_num_seqs = 64;
    if (options.max_num_batched_tokens == 0) options.max_num_batched_tokens = 256;
    if (options.max_pixels == 0) options.max_pixels = 112 * 112;
    agl_engine *engine = NULL;
    agl_error err = {0};
    if (agl_engine_create(&engine, &options, &err) != AGL_OK) fail_msg("%s", err.message);
    return engine;
}

void test_engine_assert_idle(agl_engine *engine)
{
    /* The engine ends a stopped choice a step after its reader has left. */
    agl_engine_stats stats;
    for (int i = 0; i < 5000; i++) {
        stats = agl_engine_stats_get(engine);
        if (stats.running == 0 && stats.waiting == 0 && stats.kv_pages_free == stats.kv_pages) break;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_int_equal(stats.running, 0);
    assert_int_equal(stats.waiting, 0);
    assert_int_equal(stats.kv_pages_free, stats.kv_pages);
    assert_false(stats.stalled);
}

void test_engine_close_idle(agl_engine *engine)
{
    test_engine_assert_idle(engine);
    agl_engine_destroy(engine);
}

static test_job new_job(uint32_t max_tokens)
{
    test_job job = {0};
    agl_sampling_init(&job.options.sampling);
    job.options.sampling.temperature = 0.0f;
    job.options.sampling.max_tokens = max_tokens;
    return job;
}

test_job test_job_tokens(uint64_t seed, uint32_t count, uint32_t max_tokens)
{
    test_job job = new_job(max_tokens);
    for (uint32_t i = 0; i < count; i++) job.tokens[i] = (int32_t)(test_random(&seed) % 256);
    job.options.token_count = count;
    return job;
}

static size_t put_chunk(unsigned char *out, const char *type, const unsigned char *data, size_t bytes)
{
    uint32_t length = htonl((uint32_t)bytes);
    memcpy(out, &length, 4);
    memcpy(out + 4, type, 4);
    if (bytes > 0) memcpy(out + 8, data, bytes);
    uint32_t check = htonl(libdeflate_crc32(0, out + 4, bytes + 4));
    memcpy(out + 8 + bytes, &check, 4);
    return bytes + 12;
}

/* Noise, uncompressible and different for every seed. */
static unsigned char *encode_png(uint64_t seed, uint32_t width, uint32_t height, size_t *bytes)
{
    size_t row = 1 + 3 * (size_t)width, raw_bytes = row * height;
    unsigned char *raw = malloc(raw_bytes);
    for (size_t i = 0; i < raw_bytes; i++) {
        raw[i] = i % row == 0 ? 0 : (unsigned char)test_random(&seed);
    }
    struct libdeflate_compressor *compressor = libdeflate_alloc_compressor(1);
    size_t packed_max = libdeflate_zlib_compress_bound(compressor, raw_bytes);
    unsigned char *packed = malloc(packed_max), *png = malloc(packed_max + 64);
    size_t packed_bytes = libdeflate_zlib_compress(compressor, raw, raw_bytes, packed, packed_max);
    unsigned char header[13] = {0, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0}; /* 8-bit RGB */
    uint32_t size[2] = {htonl(width), htonl(height)};
    memcpy(header, size, sizeof size);
    size_t at = 8;
    memcpy(png, "\x89PNG\r\n\x1a\n", at);
    at += put_chunk(png + at, "IHDR", header, sizeof header);
    at += put_chunk(png + at, "IDAT", packed, packed_bytes);
    at += put_chunk(png + at, "IEND", NULL, 0);
    libdeflate_free_compressor(compressor);
    free(raw);
    free(packed);
    *bytes = at;
    return png;
}

test_job test_job_image(uint64_t seed, uint32_t width, uint32_t height, uint32_t max_tokens)
{
    test_job job = new_job(max_tokens);
    size_t bytes;
    job.png = encode_png(seed, width, height, &bytes);
    snprintf(job.text, sizeof job.text, "open the settings %u", (unsigned)(seed % 10));
    job.parts[0] = (agl_part){AGL_PART_IMAGE, job.png, bytes, "messages[0].content[0]"};
    job.parts[1] = (agl_part){AGL_PART_TEXT, NULL, strlen(job.text), NULL};
    job.message = (agl_message){.role = "user", .part_count = 2};
    job.options.message_count = 1;
    return job;
}

void test_job_free(test_job *job)
{
    free(job->png);
    job->png = NULL;
}

/* Jobs are passed by value, so views into them are made at submit. */
static void set_views(test_job *job)
{
    if (job->options.token_count > 0) job->options.tokens = job->tokens;
    if (job->options.message_count > 0) {
        job->parts[1].data = job->text;
        job->message.parts = job->parts;
        job->options.messages = &job->message;
    }
}

agl_request *test_submit(agl_engine *engine, test_job *job)
{
    agl_request *request = NULL;
    agl_error err = {0};
    set_views(job);
    if (agl_request_submit(&request, engine, &job->options, &err) != AGL_OK) {
        fail_msg("%s", err.message);
    }
    return request;
}

static void keep_tokens(test_choice *choice, const agl_event *event)
{
    size_t count = choice->token_count + event->token_count;
    if (event->token_count == 0) return;
    choice->tokens = realloc(choice->tokens, count * sizeof *choice->tokens);
    choice->logprobs = realloc(choice->logprobs, count * sizeof *choice->logprobs);
    for (size_t i = 0; i < event->token_count; i++) {
        choice->tokens[choice->token_count + i] = event->tokens[i].chosen.token;
        choice->logprobs[choice->token_count + i] = event->tokens[i].chosen.logprob;
    }
    choice->token_count = count;
}

static void keep_event(test_result *result, const agl_event *event)
{
    result->usage = event->usage;
    if (event->kind == AGL_EVENT_DONE) result->done = 1;
    if (event->kind == AGL_EVENT_ERROR) {
        result->status = event->status;
        snprintf(result->message, sizeof result->message, "%s", event->message);
    }
    if (event->kind == AGL_EVENT_PROMPT) {
        result->prompt = calloc(event->token_count, sizeof *result->prompt);
        result->prompt_count = event->token_count;
        for (size_t i = 0; i < event->token_count; i++) result->prompt[i] = event->tokens[i].chosen;
    }
    if (event->kind != AGL_EVENT_TEXT && event->kind != AGL_EVENT_FINISH) return;
    assert_true(event->choice < TEST_CHOICES_MAX);
    test_choice *choice = &result->choices[event->choice];
    assert_int_equal(choice->finish, AGL_FINISH_NONE);
    if (event->choice >= result->choice_count) result->choice_count = event->choice + 1;
    agl_buffer_append(&choice->text, event->text, event->text_bytes);
    keep_tokens(choice, event);
    choice->event_count++;
    choice->finish = event->finish;
    choice->stop_token = event->stop_token;
    if (event->stop_string != NULL) {
        snprintf(choice->stop_string, sizeof choice->stop_string, "%s", event->stop_string);
    }
}

test_result test_collect(agl_request *request)
{
    test_result result = {0};
    agl_event event;
    for (int i = 0; i < TEST_CHOICES_MAX; i++) agl_buffer_init(&result.choices[i].text, 0);
    do {
        agl_request_next(request, -1, &event);
        keep_event(&result, &event);
    } while (event.kind != AGL_EVENT_DONE);
    agl_request_destroy(request);
    return result;
}

static void stand_still(void *user)
{
    test_hold *hold = user;
    if (atomic_exchange(&hold->once, true)) return;
    sem_post(&hold->stands);
    while (sem_wait(&hold->may_go) != 0) {}
}

void test_engine_hold(test_hold *hold, agl_engine *engine)
{
    test_job job = test_job_tokens(99, 1, 1);
    sem_init(&hold->stands, 0, 0);
    sem_init(&hold->may_go, 0, 0);
    atomic_init(&hold->once, false);
    job.options.notify = stand_still;
    job.options.notify_user = hold;
    hold->request = test_submit(engine, &job);
    while (sem_wait(&hold->stands) != 0) {}
}

void test_engine_release(test_hold *hold)
{
    sem_post(&hold->may_go);
    test_result result = test_collect(hold->request);
    assert_int_equal(result.status, AGL_OK);
    test_result_free(&result);
    sem_destroy(&hold->stands);
    sem_destroy(&hold->may_go);
}

void test_run_together(agl_engine *engine, test_job (*make)(uint32_t number), uint32_t count,
                       test_result *results)
{
    test_job *jobs = calloc(count, sizeof *jobs);
    agl_request **requests = calloc(count, sizeof *requests);
    assert_true(jobs != NULL && requests != NULL);
    for (uint32_t i = 0; i < count; i++) {
        jobs[i] = make(i);
        requests[i] = test_submit(engine, &jobs[i]);
    }
    for (uint32_t i = 0; i < count; i++) {
        results[i] = test_collect(requests[i]);
        if (results[i].status != AGL_OK) fail_msg("job %u: %s", i, results[i].message);
        test_job_free(&jobs[i]);
    }
    free(requests);
    free(jobs);
}

test_result test_run(agl_engine *engine, test_job *job)
{
    agl_request *request = NULL;
    agl_error err = {0};
    set_views(job);
    agl_status status = agl_request_submit(&request, engine, &job->options, &err);
    if (status == AGL_OK) return test_collect(request);
    test_result result = {.status = status};
    snprintf(result.message, sizeof result.message, "%s", err.message);
    return result;
}

void test_result_free(test_result *result)
{
    for (int i = 0; i < TEST_CHOICES_MAX; i++) {
        agl_buffer_deinit(&result->choices[i].text);
        free(result->choices[i].tokens);
        free(result->choices[i].logprobs);
    }
    free(result->prompt);
    *result = (test_result){0};
}

void test_assert_same(const test_result *a, const test_result *b)
{
    assert_int_equal(a->status, b->status);
    assert_int_equal(a->choice_count, b->choice_count);
    for (uint32_t i = 0; i < a->choice_count; i++) {
        const test_choice *x = &a->choices[i], *y = &b->choices[i];
        assert_int_equal(x->token_count, y->token_count);
        if (x->token_count > 0) {
            assert_memory_equal(x->tokens, y->tokens, x->token_count * sizeof *x->tokens);
        }
        assert_int_equal(x->text.bytes, y->text.bytes);
        if (x->text.bytes > 0) assert_memory_equal(x->text.data, y->text.data, x->text.bytes);
        assert_int_equal(x->finish, y->finish);
        assert_int_equal(x->stop_token, y->stop_token);
        assert_string_equal(x->stop_string, y->stop_string);
    }
}
