/* SPDX-License-Identifier: Apache-2.0
 *
 * test_reference.c - the engine's greedy answers against a plain loop over the model: every
 * token from a forward pass over the whole sequence, pages in order, no cache, no schedule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "media/image.h"
#include "model/model.h"
#include "model/positions.h"
#include "support/test_checkpoint.h"
#include "support/test_engine_run.h"
#include "support/test_queued_device.h"

#define TOKENS_MAX 256
#define PAGE_TOKENS 16

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

typedef struct {
    agl_config config;
    agl_backend *backend;
    agl_stream *stream;
    agl_model *model;
    agl_kv_layer *layers;
    float *visual;              /* CPU memory, rows of one image */
    int32_t tokens[TOKENS_MAX];
    size_t count;
    agl_image_span span;
    size_t span_count;
} plain_loop;

static void loop_open(plain_loop *loop)
{
    *loop = (plain_loop){0};
    assert_int_equal(agl_config_load(&loop->config, folder, NULL), AGL_OK);
    assert_int_equal(agl_backend_cpu_create(&loop->backend, &(agl_backend_options){.threads = 1}, NULL),
                     AGL_OK);
    const agl_backend_ops *ops = loop->backend->ops;
    assert_int_equal(ops->stream_create(loop->backend, &loop->stream, NULL), AGL_OK);
    agl_model_options options = {.dir = folder, .dtype = AGL_DTYPE_COUNT, .rows_max = TOKENS_MAX,
                                 .logit_rows_max = 1, .patches_max = 256};
    assert_int_equal(agl_model_create(&loop->model, &loop->config, loop->backend, &options, NULL),
                     AGL_OK);
    const agl_text_config *text = &loop->config.text;
    loop->layers = calloc((size_t)text->layers, sizeof *loop->layers);
    size_t bytes = (size_t)(text->kv_heads * TOKENS_MAX * text->head_dim) * sizeof(float);
    for (int64_t i = 0; i < text->layers; i++) {
        agl_kv_layer *layer = &loop->layers[i];
        *layer = (agl_kv_layer){.dtype = AGL_F32, .page_tokens = PAGE_TOKENS,
                                .kv_heads = text->kv_heads, .head_dim = text->head_dim};
        assert_int_equal(ops->alloc(loop->backend, &layer->k, bytes, AGL_MEMORY_KV, NULL), AGL_OK);
        assert_int_equal(ops->alloc(loop->backend, &layer->v, bytes, AGL_MEMORY_KV, NULL), AGL_OK);
    }
    loop->visual = calloc(64 * (size_t)text->hidden, sizeof(float));
}

static void loop_close(plain_loop *loop)
{
    const agl_backend_ops *ops = loop->backend->ops;
    for (int64_t i = 0; i < loop->config.text.layers; i++) {
        ops->free(loop->backend, loop->layers[i].k);
        ops->free(loop->backend, loop->layers[i].v);
    }
    free(loop->layers);
    free(loop->visual);
    agl_model_destroy(loop->model);
    ops->stream_destroy(loop->stream);
    ops->destroy(loop->backend);
}

/* The picture keeps its size: within the limits, and multiples of the factor. */
static void loop_image(plain_loop *loop, const test_job *job)
{
    agl_image image;
    assert_int_equal(agl_image_decode(&image, job->png, job->parts[0].bytes, NULL, NULL), AGL_OK);
    assert_int_equal(agl_model_encode_image(loop->model, loop->stream, image.pixels, image.height,
                                            image.width, loop->visual), AGL_OK);
    loop->span.rows = (int32_t)(image.height / 28);
    loop->span.columns = (int32_t)(image.width / 28);
    while (loop->tokens[loop->span.first_token] != loop->config.image_token) loop->span.first_token++;
    loop->span_count = 1;
    agl_image_deinit(&image);
}

/* vocab_used: ids above are no tokens of the tokenizer. */
static int32_t loop_next(plain_loop *loop, uint32_t vocab_used)
{
    static const agl_sample_row greedy = {.top_p = 1.0f, .repetition_penalty = 1.0f, .logprobs = -1};
    int32_t positions[3 * TOKENS_MAX], visual_rows[TOKENS_MAX], pages[TOKENS_MAX / PAGE_TOKENS];
    int64_t slots[TOKENS_MAX];
    int32_t rows = (int32_t)loop->count, last = rows - 1;
    agl_positions_fill(positions, positions + rows, positions + 2 * rows, 0, loop->count, &loop->span,
                       loop->span_count);
    for (int32_t i = 0; i < rows; i++) {
        int32_t place = i - (int32_t)loop->span.first_token;
        bool inside = loop->span_count > 0 && place >= 0 &&
                      place < loop->span.rows * loop->span.columns;
        visual_rows[i] = inside ? place : -1;
        slots[i] = i;
    }
    for (int32_t i = 0; i < TOKENS_MAX / PAGE_TOKENS; i++) pages[i] = i;
    agl_attention_sequence sequence = {.row_count = rows, .context = rows};
    agl_batch batch = {
        .rows = rows, .ids = loop->tokens, .visual_rows = visual_rows, .visual = loop->visual,
        .positions = positions, .slots = slots, .sequences = &sequence, .sequence_count = 1,
        .page_tables = pages, .context_max = rows, .logit_rows = &last, .logit_count = 1,
        .kv = loop->layers};
    float *logits;
    agl_sample_result result = {0};
    assert_int_equal(agl_model_decode(loop->model, loop->stream, &batch, &logits), AGL_OK);
    agl_sample_args args = {.logits = logits, .rows = 1, .vocab = loop->config.text.vocab,
                            .vocab_used = vocab_used, .params = &greedy,
                            .results = &result};
    assert_int_equal(loop->backend->ops->sample(loop->stream, &args), AGL_OK);
    return result.token;
}

static void answers_equal_a_plain_loop(void **state)
{
    (void)state;
    agl_engine_options options = {.max_num_batched_tokens = 64};
    agl_engine *engine = test_engine_open(folder, &options);
    test_device_use(TEST_DEVICE_AT_ONCE);   /* the loop's own backend */
    plain_loop loop;
    for (uint32_t i = 0; i < 8; i++) {
        loop_open(&loop);
        test_job job = i % 2 == 0 ? test_job_image(i, 84 + 28 * (i % 3), 84, 20)
                                  : test_job_tokens(i, 17 * i, 20);
        agl_request *request = test_submit(engine, &job);
        const int32_t *prompt = agl_request_prompt(request, &loop.count);
        assert_true(loop.count + 20 <= TOKENS_MAX);
        memcpy(loop.tokens, prompt, loop.count * sizeof *prompt);
        if (i % 2 == 0) loop_image(&loop, &job);
        test_result result = test_collect(request);
        for (size_t t = 0; t < result.choices[0].token_count; t++) {
            int32_t token = loop_next(&loop, agl_engine_model_info(engine).vocab);
            assert_int_equal(result.choices[0].tokens[t], token);
            loop.tokens[loop.count++] = token;
        }
        test_result_free(&result);
        test_job_free(&job);
        loop_close(&loop);
    }
    test_engine_close_idle(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(answers_equal_a_plain_loop)};
    int failed = 0;
    for (test_device device = 0; device < TEST_DEVICE_COUNT; device++) {
        test_device_use(device);
        printf("device: %s\n", test_device_name(device));
        failed += cmocka_run_group_tests(tests, make_checkpoint, remove_checkpoint);
    }
    return failed;
}
