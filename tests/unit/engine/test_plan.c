/* SPDX-License-Identifier: Apache-2.0
 *
 * test_plan.c - agl_plan_make: the published numbers of the 9B model, and the bytes that
 * engines of several shapes really take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"
#include "support/test_checkpoint.h"

static const char SHAPE_9B[] = "models/shapes/autoglm-phone-9b";

static agl_plan plan_9b(const agl_plan_options *hardware, agl_status expected, agl_error *err)
{
    agl_plan plan;
    assert_int_equal(agl_plan_make(&plan, &(agl_engine_options){.model = SHAPE_9B}, hardware, err), expected);
    return plan;
}

static void assert_near(double value, double expected, double share)
{
    if (fabs(value - expected) > share * expected) fail_msg("%.6g is not %.6g", value, expected);
}

/* docs/MODEL.md, "Sizes". */
static void counts_of_the_9b_model(void **state)
{
    (void)state;
    agl_error err = {0};
    agl_plan_options hardware = {.gpu = true, .memory_bytes = 80000000000, .image_width = 1080, .image_height = 2400};
    agl_plan p = plan_9b(&hardware, AGL_OK, &err);
    assert_true(p.parameters == 10292777472);
    assert_true(p.vision_parameters == 892498432);
    assert_true(p.layer_parameters == 8158760960);
    assert_true(p.lm_head_parameters == 620756992 + 4096);
    assert_true(p.embedding_parameters == 620756992);
    assert_int_equal(p.kv_bytes_per_token, 40960);
    assert_near((double)p.decode_weight_bytes, 17.56e9, 0.001);
    assert_near((double)p.weight_bytes, 20.59e9, 0.001);
    assert_near(p.token_flops, 16.316e9, 0.0001);
    assert_near(p.lm_head_flops, 1.2415e9, 0.0001);
    assert_true(p.attention_flops == 655360);
    assert_int_equal(p.image_patches, 13416);
    assert_int_equal(p.image_tokens, 3354);
    double patches = p.image_patches;
    assert_true(p.patch_pair_flops == 147456);
    assert_near(patches * p.patch_flops, 18.2e12 + 0.05e12, 0.005);
    assert_near(patches * p.patch_flops + patches * patches * p.patch_pair_flops + p.image_tokens * p.cell_flops,
                46.2e12, 0.002);
    assert_string_equal(p.dtype, "bfloat16");
}

/* 4-bit layers with an 8-bit output layer read 4.83 GB a step and take 7.9 GB. */
static void packed_formats_take_their_bits(void **state)
{
    (void)state;
    agl_error err = {0};
    agl_plan_options hardware = {.gpu = true, .memory_bytes = 25300000000, .layer_bits = 4.125, .lm_head_bits = 8};
    agl_plan p = plan_9b(&hardware, AGL_OK, &err);
    assert_near((double)p.decode_weight_bytes, 4.83e9, 0.005);
    assert_near((double)p.weight_bytes, 7.87e9, 0.01);
    hardware = (agl_plan_options){.gpu = true, .memory_bytes = 25300000000, .layer_bits = 8, .lm_head_bits = 8};
    p = plan_9b(&hardware, AGL_OK, &err);
    assert_near((double)p.decode_weight_bytes, 8.78e9, 0.001);
    assert_int_equal(p.image_tokens, 0);
}

static void what_does_not_fit_is_refused_with_sizes(void **state)
{
    (void)state;
    agl_error err = {0};
    agl_plan_options hardware = {.gpu = true, .memory_bytes = 16000000000};
    agl_plan p = plan_9b(&hardware, AGL_ERR_MEMORY, &err);
    assert_near((double)p.weight_bytes, 20.59e9, 0.001);
    assert_true(p.kv_room_bytes == 0 && p.kv_tokens == 0 && p.max_model_len == 0);
    assert_non_null(strstr(err.message, "--quantization"));
    assert_non_null(strstr(err.message, "--tensor-parallel-size"));
}

/* Two devices: everything of the decoder is halved, the tower is not, and a K/V head is left to each. */
static void two_devices_share_the_decoder(void **state)
{
    (void)state;
    agl_error err = {0};
    agl_plan_options one = {.gpu = true, .memory_bytes = 80000000000}, two = one, four = one;
    two.count = 2;
    four.count = 4;
    agl_plan a = plan_9b(&one, AGL_OK, &err), b = plan_9b(&two, AGL_OK, &err), c = plan_9b(&four, AGL_OK, &err);
    double vision = 2.0 * (double)a.vision_parameters;
    assert_near((double)b.weight_bytes, ((double)a.weight_bytes - vision) / 2 + vision, 0.001);
    assert_int_equal(b.kv_bytes_per_token, 20480);
    assert_int_equal(c.kv_bytes_per_token, 20480);
    assert_true(b.kv_room_bytes > a.kv_room_bytes);
}

static void missing_files_are_named(void **state)
{
    (void)state;
    agl_plan plan;
    agl_error err = {0};
    agl_plan_options hardware = {.memory_bytes = 1};
    assert_int_equal(agl_plan_make(&plan, &(agl_engine_options){.model = "/nonexistent"}, &hardware, &err),
                     AGL_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "/nonexistent"));
    agl_engine_options wide = {.model = SHAPE_9B, .max_model_len = 1000000};
    hardware.memory_bytes = 80000000000;
    assert_int_equal(agl_plan_make(&plan, &wide, &hardware, &err), AGL_ERR_ARGUMENT);
}

/* ---- against engines ---------------------------------------------------- */

static void assert_planned_as_taken(const test_checkpoint_shape *shape, agl_engine_options options)
{
    char folder[256];
    agl_error err = {0};
    assert_int_equal(test_checkpoint_make(folder, sizeof folder, shape, &err), AGL_OK);
    options.model = folder;
    options.threads = 1;
    agl_engine *engine;
    if (agl_engine_create(&engine, &options, &err) != AGL_OK) fail_msg("%s", err.message);
    agl_plan plan;
    agl_plan_options hardware = {.memory_bytes = engine->backend->memory_total};
    if (agl_plan_make(&plan, &options, &hardware, &err) != AGL_OK) fail_msg("%s", err.message);

    const uint64_t *taken = engine->backend->memory_by_tag;
    assert_near((double)plan.kv_bytes, (double)taken[AGL_MEMORY_KV], 0.02);
    assert_near((double)plan.activation_bytes, (double)taken[AGL_MEMORY_ACTIVATIONS], 0.02);
    assert_near((double)plan.vision_bytes, (double)taken[AGL_MEMORY_VISION], 0.02);
    assert_near((double)plan.encoder_bytes, (double)taken[AGL_MEMORY_ENCODER_CACHE], 0.02);
    /* Not planned: the backend's own scratch, the same for every model. */
    assert_true(taken[AGL_MEMORY_WORKSPACE] + taken[AGL_MEMORY_STEP_INPUT] < 64 << 20);
    agl_engine_stats stats = agl_engine_stats_get(engine);
    agl_model_info info = agl_engine_model_info(engine);
    assert_true(stats.kv_bytes == plan.kv_bytes && stats.weight_bytes == plan.weight_bytes);
    assert_true(plan.kv_tokens == (uint64_t)stats.kv_pages * stats.kv_page_tokens);
    assert_true(info.max_model_len == plan.max_model_len && info.parameters == plan.parameters);
    agl_engine_destroy(engine);

    /* The weights: what the file holds, less its header. */
    char path[300];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    assert_near((double)plan.weight_bytes, (double)ftell(file), 0.02);
    fclose(file);
    test_folder_remove(folder);
}

static void an_engine_takes_what_was_planned(void **state)
{
    (void)state;
    assert_planned_as_taken(&(test_checkpoint_shape){.dtype = AGL_BF16, .hidden = 128, .intermediate = 512},
                            (agl_engine_options){.kv_cache_bytes = 8 << 20, .max_num_seqs = 8});
    assert_planned_as_taken(&(test_checkpoint_shape){.hidden = 256, .layers = 4, .heads = 8, .intermediate = 1024,
                                                     .vision_hidden = 128, .vision_depth = 3, .merger = 512},
                            (agl_engine_options){.kv_cache_bytes = 64 << 20, .max_model_len = 2048,
                                                 .max_pixels = 500000});
    assert_planned_as_taken(&(test_checkpoint_shape){.dtype = AGL_F16, .hidden = 192, .heads = 6, .kv_heads = 2},
                            (agl_engine_options){.kv_cache_dtype = "bfloat16", .kv_cache_bytes = 4 << 20});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_of_the_9b_model),
        cmocka_unit_test(packed_formats_take_their_bits),
        cmocka_unit_test(what_does_not_fit_is_refused_with_sizes),
        cmocka_unit_test(two_devices_share_the_decoder),
        cmocka_unit_test(missing_files_are_named),
        cmocka_unit_test(an_engine_takes_what_was_planned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
