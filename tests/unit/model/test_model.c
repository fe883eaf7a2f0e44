/* SPDX-License-Identifier: Apache-2.0
 *
 * A model as a whole: what loads, what is refused, that the plan is what is taken, and
 * that the way rows are batched, chunked and paged does not change the numbers. The
 * CPU computes every row in an order of its own, so "the same" means the same bits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json.h"
#include "support/test_checkpoint.h"
#include "support/test_decoder.h"

#define VOCAB 320
#define TOKENS 47

static char folder[256];            /* the default shape */
static int32_t prompt[TOKENS];
static float visual[6 * 64];        /* a 2 x 3 image of the hidden size 64 */
static const int32_t CELLS[][2] = {{2, 3}};

static int setup(void **state)
{
    (void)state;
    if (test_checkpoint_make(folder, sizeof folder, NULL, NULL) != AGL_OK) return -1;
    float u[TOKENS];
    test_hash_fill(u, 7, "prompt", 0, TOKENS);
    for (int i = 0; i < TOKENS; i++) prompt[i] = (int32_t)((u[i] + 1.0f) * 128.0f);
    for (int i = 20; i < 26; i++) prompt[i] = 270;
    test_hash_fill(visual, 7, "visual", 0, AGL_COUNT(visual));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    test_folder_remove(folder);
    return 0;
}

/* Logits of all prompt rows, fed in chunks (0: at once). */
static void run_prompt(float *logits, const test_decoder_options *options, size_t chunk)
{
    test_decoder decoder;
    test_sequence sequence, *one = &sequence;
    test_decoder_open(&decoder, folder, options);
    test_sequence_init(&sequence, &decoder, prompt, TOKENS, CELLS, visual);
    for (size_t done = 0; done < TOKENS;) {
        size_t rows = chunk == 0 || chunk > TOKENS - done ? TOKENS - done : chunk;
        test_decoder_step(&decoder, &one, &rows, 1, true, logits + done * VOCAB);
        done += rows;
    }
    test_decoder_close(&decoder);
}

static void test_chunked_equals_whole(void **state)
{
    (void)state;
    static float whole[TOKENS * VOCAB], chunked[TOKENS * VOCAB];
    static const size_t CHUNKS[] = {1, 7, 16, 23};
    run_prompt(whole, &(test_decoder_options){0}, 0);
    for (size_t i = 0; i < TOKENS * VOCAB; i++) assert_true(isfinite(whole[i]));
    for (size_t i = 0; i < AGL_COUNT(CHUNKS); i++) {
        run_prompt(chunked, &(test_decoder_options){0}, CHUNKS[i]);
        assert_memory_equal(chunked, whole, sizeof whole);
    }
}

static void test_pages_and_threads(void **state)
{
    (void)state;
    static float plain[TOKENS * VOCAB], other[TOKENS * VOCAB];
    static const test_decoder_options OPTIONS[] = {
        {.scattered = true},
        {.scattered = true, .page_tokens = 1},
        {.page_tokens = 32},
        {.threads = 3, .scattered = true},
    };
    run_prompt(plain, &(test_decoder_options){0}, 0);
    for (size_t i = 0; i < AGL_COUNT(OPTIONS); i++) {
        run_prompt(other, &OPTIONS[i], i % 2 == 0 ? 11 : 0);
        assert_memory_equal(other, plain, sizeof plain);
    }
}

/* Three sequences in one step, at different places: a prompt, a chunk, a single token. */
static void test_batch_equals_single(void **state)
{
    (void)state;
    float alone[3][VOCAB], together[3 * VOCAB];
    for (int mode = 0; mode < 2; mode++) {
        test_decoder decoder;
        test_sequence a, b, c;
        test_decoder_open(&decoder, folder, &(test_decoder_options){.scattered = true});
        test_sequence_init(&a, &decoder, prompt, TOKENS, CELLS, visual);
        test_sequence_init(&b, &decoder, prompt + 3, 30, CELLS, visual);
        test_sequence_init(&c, &decoder, prompt, 12, NULL, NULL);
        test_sequence *sequences[] = {&a, &b, &c};
        const size_t before[] = {0, 19, 11}, rows[] = {TOKENS, 11, 1};
        for (int i = 1; i < 3; i++)
            test_decoder_step(&decoder, &sequences[i], &before[i], 1, false, NULL);
        if (mode == 0) {
            for (int i = 0; i < 3; i++)
                test_decoder_step(&decoder, &sequences[i], &rows[i], 1, false, alone[i]);
        } else {
            test_decoder_step(&decoder, sequences, rows, 3, false, together);
        }
        test_decoder_close(&decoder);
    }
    assert_memory_equal(together, alone, sizeof together);
}

/* A step without logits stores the keys and values all the same. */
static void test_step_without_logits(void **state)
{
    (void)state;
    float with[VOCAB], without[VOCAB], unused[VOCAB];
    for (int mode = 0; mode < 2; mode++) {
        test_decoder decoder;
        test_sequence sequence, *one = &sequence;
        size_t first = TOKENS - 1, last = 1;
        test_decoder_open(&decoder, folder, &(test_decoder_options){0});
        test_sequence_init(&sequence, &decoder, prompt, TOKENS, CELLS, visual);
        test_decoder_step(&decoder, &one, &first, 1, false, mode == 0 ? unused : NULL);
        test_decoder_step(&decoder, &one, &last, 1, false, mode == 0 ? with : without);
        test_decoder_close(&decoder);
    }
    assert_memory_equal(with, without, sizeof with);
}

/* Rows in chunks of the wide layers: more patches and rows than one chunk holds. */
static void test_more_rows_than_a_chunk(void **state)
{
    (void)state;
    enum { SIDE = 28 * 17, CELL_COUNT = 17 * 17 }; /* 1156 patches */
    test_decoder decoder;
    test_decoder_open(&decoder, folder,
                      &(test_decoder_options){.patches_max = 4 * CELL_COUNT, .threads = 2});
    uint8_t *pixels = malloc(SIDE * SIDE * 3);
    float *whole = malloc(CELL_COUNT * 64 * sizeof *whole);
    assert_true(pixels != NULL && whole != NULL);
    for (size_t i = 0; i < SIDE * SIDE * 3; i++)
        pixels[i] = 128; /* patches differ by position only */
    assert_int_equal(
        agl_model_encode_image(decoder.model, decoder.stream, pixels, SIDE, SIDE, whole), AGL_OK);
    double smallest = INFINITY;
    for (size_t cell = 0; cell < CELL_COUNT; cell++) {
        double square = 0.0;
        for (size_t i = 0; i < 64; i++)
            square += (double)whole[cell * 64 + i] * (double)whole[cell * 64 + i];
        assert_true(isfinite(square));
        if (square < smallest) smallest = square;
    }
    assert_true(smallest > 1e-6); /* every row was written */
    agl_model_counters counters = agl_model_counters_get(decoder.model);
    assert_int_equal(counters.vision_runs, 1);
    assert_int_equal(counters.decoder_runs, 0);
    free(pixels);
    free(whole);
    test_decoder_close(&decoder);
}

/* ---- what loads ------------------------------------------------------------- */

static void run_variant(float *logits, const test_checkpoint_shape *shape, agl_dtype dtype)
{
    char dir[300];
    test_decoder decoder;
    test_sequence sequence, *one = &sequence;
    size_t rows = TOKENS;
    agl_error err;
    snprintf(dir, sizeof dir, "%s/variant", folder);
    assert_int_equal(test_checkpoint_write(dir, shape, &err), AGL_OK);
    test_decoder_open(&decoder, dir, &(test_decoder_options){.dtype = dtype});
    test_sequence_init(&sequence, &decoder, prompt, TOKENS, CELLS, visual);
    test_decoder_step(&decoder, &one, &rows, 1, false, logits);
    test_decoder_close(&decoder);
    test_folder_remove(dir);
}

static void test_spellings(void **state)
{
    (void)state;
    static const test_checkpoint_shape SHAPES[] = {
        {.shards = 4}, {.old_layout = true}, {.split_gate_up = true},
        {.other_prefixes = true}, {.other_prefixes = true, .split_gate_up = true, .shards = 2},
    };
    float expected[VOCAB], actual[VOCAB];
    run_variant(expected, NULL, AGL_DTYPE_COUNT);
    for (size_t i = 0; i < AGL_COUNT(SHAPES); i++) {
        run_variant(actual, &SHAPES[i], AGL_DTYPE_COUNT);
        assert_memory_equal(actual, expected, sizeof expected);
    }
}

/* Weights widened to F32 are the same numbers; narrowed ones are near. */
static void test_conversion(void **state)
{
    (void)state;
    float stored[VOCAB], converted[VOCAB], full[VOCAB];
    run_variant(full, NULL, AGL_DTYPE_COUNT);
    run_variant(stored, &(test_checkpoint_shape){.dtype = AGL_BF16}, AGL_DTYPE_COUNT);
    run_variant(converted, &(test_checkpoint_shape){.dtype = AGL_BF16}, AGL_F32);
    assert_true(test_relative_error(converted, stored, VOCAB) < 1e-5);
    run_variant(converted, NULL, AGL_F16);
    assert_true(test_relative_error(converted, full, VOCAB) < 5e-3);
    assert_true(test_relative_error(converted, full, VOCAB) > 0.0);
}

typedef struct {
    agl_config config;
    agl_backend *backend;
    agl_model *model;
    agl_error err;
} attempt;

static agl_status try_create(attempt *a, const char *dir, const agl_model_options *options)
{
    agl_model_options filled = *options;
    memset(a, 0, sizeof *a);
    AGL_TRY(agl_config_load(&a->config, dir, &a->err));
    AGL_TRY(agl_backend_cpu_create(&a->backend, &(agl_backend_options){.threads = 1}, &a->err));
    filled.dir = dir;
    if (filled.rows_max == 0) filled.rows_max = 8;
    if (filled.logit_rows_max == 0) filled.logit_rows_max = 8;
    return agl_model_create(&a->model, &a->config, a->backend, &filled, &a->err);
}

static void end_attempt(attempt *a)
{
    agl_model_destroy(a->model);
    if (a->backend != NULL) a->backend->ops->destroy(a->backend);
}

/* Rewrite one tensor name (same length) in the header of a fresh checkpoint. */
static void expect_refusal(const char *old, const char *new, const char *message)
{
    char dir[300], path[400];
    attempt a;
    snprintf(dir, sizeof dir, "%s/broken", folder);
    assert_int_equal(test_checkpoint_write(dir, NULL, NULL), AGL_OK);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    static char header[16384];
    size_t bytes = fread(header, 1, sizeof header, file), length = strlen(old);
    assert_int_equal(strlen(new), length);
    char *at = memmem(header, bytes, old, length);
    assert_non_null(at);
    fseek(file, at - header, SEEK_SET);
    fwrite(new, 1, length, file);
    fclose(file);
    agl_status status =
        try_create(&a, dir, &(agl_model_options){.dtype = AGL_DTYPE_COUNT, .patches_max = 16});
    if (status == AGL_OK || strstr(a.err.message, message) == NULL) {
        fail_msg("%s -> %s: status %d, \"%s\"; \"%s\" expected", old, new, (int)status,
                 a.err.message, message);
    }
    end_attempt(&a);
    char *report = NULL;
    assert_int_equal(agl_model_inspect(&report, dir, NULL), AGL_OK);
    assert_non_null(strstr(report, message));
    free(report);
    test_folder_remove(dir);
}

static void test_wrong_tensors(void **state)
{
    (void)state;
    expect_refusal("layers.1.self_attn.k_proj.bias", "layers.1.self_attn.k_proj.bios",
                   "tensor model.language_model.layers.1.self_attn.k_proj.bias is missing");
    expect_refusal("visual.blocks.1.norm2", "visual.blocks.7.norm2",
                   "model.visual.blocks.1.norm2.weight is missing");
    expect_refusal("layers.0.mlp.down_proj.weight\":{\"dtype\":\"F32\",\"shape\":[64,128]",
                   "layers.0.mlp.down_proj.weight\":{\"dtype\":\"F32\",\"shape\":[128,64]",
                   "shape is [128,64], [64,128] expected");
    expect_refusal("\"dtype\":\"F32\",\"shape\":[320,64]", "\"dtype\":\"I32\",\"shape\":[320,64]",
                   "dtype is int32, float32, bfloat16 or float16 expected");
}

/* A tensor of no network: here the head of a checkpoint whose configuration has fewer layers. */
static void test_left_over(void **state)
{
    (void)state;
    char dir[300], path[400], text[4096];
    attempt a;
    snprintf(dir, sizeof dir, "%s/left", folder);
    assert_int_equal(test_checkpoint_write(dir, NULL, NULL), AGL_OK);
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    char *at = strstr(text, "\"num_hidden_layers\":2");
    assert_non_null(at);
    fseek(file, at - text, SEEK_SET);
    fputs("\"num_hidden_layers\":1", file);
    fclose(file);
    assert_int_equal(
        try_create(&a, dir, &(agl_model_options){.dtype = AGL_DTYPE_COUNT, .patches_max = 16}),
        AGL_ERR_FORMAT);
    assert_non_null(strstr(a.err.message, "layers.1."));
    assert_non_null(strstr(a.err.message, "belongs to no part of this model"));
    end_attempt(&a);
    test_folder_remove(dir);
}

static void test_quantized_is_refused(void **state)
{
    (void)state;
    attempt a;
    assert_int_equal(try_create(&a, folder, &(agl_model_options){.dtype = AGL_I32}),
                     AGL_ERR_UNSUPPORTED);
    assert_non_null(strstr(a.err.message, "dtype is int32"));
    end_attempt(&a);
    assert_int_equal(agl_config_load(&a.config, folder, NULL), AGL_OK);
    strcpy(a.config.quant_method, "awq");
    assert_int_equal(
        agl_model_create(&a.model, &a.config, NULL, &(agl_model_options){.dir = folder}, &a.err),
        AGL_ERR_UNSUPPORTED);
    assert_non_null(
        strstr(a.err.message, "quantized checkpoints (awq) are not supported by this build yet"));
}

/* ---- plan ------------------------------------------------------------------- */

static void test_plan_is_what_is_taken(void **state)
{
    (void)state;
    static const agl_model_options OPTIONS[] = {
        {.dtype = AGL_DTYPE_COUNT, .rows_max = 8, .logit_rows_max = 3, .patches_max = 64},
        {.dtype = AGL_BF16, .rows_max = 2000, .logit_rows_max = 4000, .patches_max = 5000},
        {.dtype = AGL_F16, .rows_max = 1, .logit_rows_max = 1, .patches_max = 0},
        {.dtype = AGL_BF16, .rows_max = 100, .logit_rows_max = 10, .patches_max = 4, .dummy = true},
    };
    for (size_t i = 0; i < AGL_COUNT(OPTIONS); i++) {
        attempt a;
        agl_model_plan plan;
        assert_int_equal(try_create(&a, folder, &OPTIONS[i]), AGL_OK);
        assert_int_equal(agl_model_plan_make(&plan, &a.config, &OPTIONS[i], a.backend), AGL_OK);
        assert_int_equal(a.backend->memory_by_tag[AGL_MEMORY_ACTIVATIONS], plan.activation_bytes);
        assert_int_equal(a.backend->memory_by_tag[AGL_MEMORY_VISION], plan.vision_bytes);
        assert_int_equal(plan.kv_bytes_per_token, 2 * 2 * 2 * 16 * 4);
        assert_true((plan.vision_bytes > 0) == (OPTIONS[i].patches_max > 0));
        end_attempt(&a);
    }
}

/* The published sizes of the 9B model: 10,292,777,472 parameters, 40,960 bytes of BF16 cache a token. */
static void test_plan_of_9b(void **state)
{
    (void)state;
    agl_config config = {.dtype = AGL_BF16,
                         .has_vision = true,
                         .text = {.hidden = 4096,
                                  .layers = 40,
                                  .heads = 32,
                                  .kv_heads = 2,
                                  .head_dim = 128,
                                  .intermediate = 13696,
                                  .vocab = 151552,
                                  .rope_pairs = 32},
                         .vision = {.hidden = 1536,
                                    .depth = 24,
                                    .heads = 12,
                                    .head_dim = 128,
                                    .mlp = 4096,
                                    .out_hidden = 4096,
                                    .merger = 13696,
                                    .patch = 14,
                                    .merge = 2,
                                    .frames = 2,
                                    .channels = 3,
                                    .position_side = 24}};
    agl_backend backend = {.activation = AGL_F32};
    agl_model_plan plan;
    agl_model_options options = {
        .dtype = AGL_DTYPE_COUNT, .rows_max = 512, .logit_rows_max = 64, .patches_max = 13416};
    assert_int_equal(agl_model_plan_make(&plan, &config, &options, &backend), AGL_OK);
    assert_int_equal(plan.parameters, 10292777472);
    assert_true(plan.weight_bytes > 2 * plan.parameters &&
                plan.weight_bytes < 2 * plan.parameters + (8 << 20));
    assert_int_equal(agl_model_kv_bytes_per_token(&config, AGL_BF16), 40960);
    assert_true(plan.vision_bytes < (uint64_t)700 << 20);
    options.patches_max = 0;
    assert_int_equal(agl_model_plan_make(&plan, &config, &options, &backend), AGL_OK);
    assert_int_equal(plan.parameters, 9400279040);
    assert_int_equal(plan.vision_bytes, 0);
}

/* ---- random weights, report ------------------------------------------------- */

static void count_progress(void *user, const char *phase, double fraction)
{
    double *last = user;
    assert_string_equal(phase, "weights");
    assert_true(fraction >= *last && fraction <= 1.0);
    *last = fraction;
}

static void test_dummy_weights(void **state)
{
    (void)state;
    enum { HEIGHT = 56, WIDTH = 84 };
    static const uint8_t PIXELS[HEIGHT * WIDTH * 3] = {200, 10, 30, 90};
    float rows[2][6 * 64];
    for (int run = 0; run < 2; run++) {
        attempt a;
        agl_stream *stream;
        double progress = 0.0;
        assert_int_equal(try_create(&a, folder,
                                    &(agl_model_options){.dummy = true,
                                                         .dtype = AGL_BF16,
                                                         .patches_max = 64,
                                                         .seed = 5,
                                                         .progress = count_progress,
                                                         .progress_user = &progress}),
                         AGL_OK);
        assert_true(progress > 0.5);
        assert_int_equal(a.backend->ops->stream_create(a.backend, &stream, &a.err), AGL_OK);
        assert_int_equal(agl_model_encode_image(a.model, stream, PIXELS, HEIGHT, WIDTH, rows[run]),
                         AGL_OK);
        for (size_t i = 0; i < 6 * 64; i++) assert_true(isfinite(rows[run][i]));
        a.backend->ops->stream_destroy(stream);
        end_attempt(&a);
    }
    assert_memory_equal(rows[0], rows[1], sizeof rows[0]);
}

static void test_inspect(void **state)
{
    (void)state;
    char *text = NULL;
    struct json_object *report;
    agl_error err;
    assert_int_equal(agl_model_inspect(&text, folder, &err), AGL_OK);
    assert_int_equal(agl_json_parse(&report, text, strlen(text), "report", &err), AGL_OK);
    assert_int_equal(json_object_array_length(agl_json_member(report, "refused")), 0);
    assert_string_equal(json_object_get_string(agl_json_member(report, "architecture")),
                        "Glm4vForConditionalGeneration");
    assert_string_equal(json_object_get_string(agl_json_member(report, "dtype")), "float32");
    assert_int_equal(json_object_get_int64(agl_json_member(report, "weight_bytes")),
                     4 * json_object_get_int64(agl_json_member(report, "parameters")));
    struct json_object *parts = agl_json_member(report, "parts");
    assert_int_equal(
        json_object_get_int64(agl_json_member(agl_json_member(parts, "embed"), "parameters")),
        320 * 64);
    assert_null(agl_json_member(parts, "other"));
    assert_non_null(strstr(text, "\"temperature\":0.8,"));
    json_object_put(report);
    free(text);
    assert_int_equal(agl_model_inspect(&text, "/no/such", &err), AGL_ERR_NOT_FOUND);
}

/* Another architecture, and no weights: described, with two reasons. */
static void test_inspect_foreign(void **state)
{
    (void)state;
    char dir[300], path[400], *text = NULL;
    struct json_object *report;
    snprintf(dir, sizeof dir, "%s/foreign", folder);
    assert_int_equal(test_checkpoint_write(dir, NULL, NULL), AGL_OK);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs(
        "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"torch_dtype\":\"float16\","
        "\"quantization_config\":{\"quant_method\":\"gptq\"}}",
        file);
    fclose(file);
    assert_int_equal(agl_model_inspect(&text, dir, NULL), AGL_OK);
    assert_int_equal(agl_json_parse(&report, text, strlen(text), "report", NULL), AGL_OK);
    assert_int_equal(json_object_array_length(agl_json_member(report, "refused")), 2);
    assert_non_null(strstr(text, "architectures is [\\\"LlamaForCausalLM\\\"]"));
    assert_non_null(strstr(text, "\"quant_method\":\"gptq\""));
    json_object_put(report);
    free(text);
    test_folder_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunked_equals_whole),
        cmocka_unit_test(test_pages_and_threads),
        cmocka_unit_test(test_batch_equals_single),
        cmocka_unit_test(test_step_without_logits),
        cmocka_unit_test(test_more_rows_than_a_chunk),
        cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_conversion),
        cmocka_unit_test(test_wrong_tensors),
        cmocka_unit_test(test_left_over),
        cmocka_unit_test(test_quantized_is_refused),
        cmocka_unit_test(test_plan_is_what_is_taken),
        cmocka_unit_test(test_plan_of_9b),
        cmocka_unit_test(test_dummy_weights),
        cmocka_unit_test(test_inspect),
        cmocka_unit_test(test_inspect_foreign),
    };
    return cmocka_run_group_tests_name("model/model", tests, setup, teardown);
}
