/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json in both layouts, and every refusal with its message. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file_map.h"
#include "model/config.h"
#include "support/test_checkpoint.h"

#define FIXTURES "tests/fixtures/model"

static char folder[256];

static int setup(void **state)
{
    (void)state;
    return test_folder_make(folder, sizeof folder, NULL) == AGL_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    test_folder_remove(folder);
    return 0;
}

/* The text of a fixture; free with free(). */
static void read_fixture(char **out, const char *name)
{
    char path[512];
    size_t bytes;
    snprintf(path, sizeof path, "%s/%s", FIXTURES, name);
    assert_int_equal(agl_file_read(out, &bytes, path, 1 << 20, NULL), AGL_OK);
}

static void write_file(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* Copy a fixture to `name` with the first `old` replaced by `new`. */
static void write_changed(const char *name, const char *fixture, const char *old, const char *new)
{
    char *text = NULL;
    read_fixture(&text, fixture);
    char *at = strstr(text, old);
    assert_non_null(at);
    char changed[16384];
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, new, at + strlen(old));
    write_file(name, changed);
    free(text);
}

static void write_genuine(const char *config)
{
    write_changed("config.json", config, "{", "{");
    write_changed("generation_config.json", "tiny/generation_config.json",
                  "[\n    256,\n    263,\n    265,\n    275\n  ]",
                  "[151329, 151336, 151338, 151348]");
    write_changed("preprocessor_config.json", "tiny/preprocessor_config.json", "{", "{");
}

static void test_glm_41v(void **state)
{
    (void)state;
    agl_config c;
    agl_error err;
    write_genuine("glm-4.1v-9b.config.json");
    assert_int_equal(agl_config_load(&c, folder, &err), AGL_OK);
    assert_string_equal(c.architecture, "Glm4vForConditionalGeneration");
    assert_int_equal(c.dtype, AGL_BF16);
    assert_int_equal(c.text.hidden, 4096);
    assert_int_equal(c.text.layers, 40);
    assert_int_equal(c.text.heads, 32);
    assert_int_equal(c.text.kv_heads, 2);
    assert_int_equal(c.text.head_dim, 128);
    assert_int_equal(c.text.intermediate, 13696);
    assert_int_equal(c.text.vocab, 151552);
    assert_int_equal(c.text.max_positions, 65536);
    assert_true(c.text.rms_eps == 1e-5f);
    assert_true(c.text.rope_theta == 10000.0);
    assert_int_equal(c.text.rope_pairs, 32);
    assert_int_equal(c.text.mrope_section[0], 8);
    assert_int_equal(c.text.mrope_section[1], 12);
    assert_int_equal(c.text.mrope_section[2], 12);
    assert_false(c.text.tie_embeddings);
    assert_true(c.has_vision);
    assert_int_equal(c.vision.hidden, 1536);
    assert_int_equal(c.vision.depth, 24);
    assert_int_equal(c.vision.heads, 12);
    assert_int_equal(c.vision.head_dim, 128);
    assert_int_equal(c.vision.mlp, 4096);
    assert_int_equal(c.vision.merger, 13696);
    assert_int_equal(c.vision.position_side, 24);
    assert_int_equal(c.image_token, 151343);
    assert_int_equal(c.image_start_token, 151339);
    assert_int_equal(c.image_end_token, 151340);
    assert_int_equal(c.eos_count, 4);
    assert_int_equal(c.eos[3], 151348);
    assert_int_equal(c.image.pixels_min, 12544);
    assert_int_equal(c.image.pixels_max, 9633792);
    assert_true(c.temperature == 0.8f && c.top_p == 0.6f && c.top_k == 2);
    assert_true(isnan(c.min_p) && isnan(c.repetition_penalty));
    assert_int_equal(c.max_new_tokens, -1);
    assert_string_equal(c.quant_method, "");
}

static void test_glm_46v_flash(void **state)
{
    (void)state;
    agl_config c;
    agl_error err;
    write_genuine("glm-4.6v-flash.config.json");
    assert_int_equal(agl_config_load(&c, folder, &err), AGL_OK);
    assert_true(c.text.rope_theta == 500000.0);
    assert_int_equal(c.text.rope_pairs, 32);
    assert_int_equal(c.image_token, 151363);
    assert_int_equal(c.text.max_positions, 131072);
}

static void test_generation_config_precedence(void **state)
{
    (void)state;
    agl_config c;
    agl_error err;
    write_genuine("glm-4.6v-flash.config.json");
    assert_int_equal(agl_config_load(&c, folder, &err), AGL_OK);
    assert_int_equal(c.eos_count, 4);               /* config.json lists three */
    write_file("generation_config.json", "{\"eos_token_id\": 7, \"max_new_tokens\": 99}");
    assert_int_equal(agl_config_load(&c, folder, &err), AGL_OK);
    assert_int_equal(c.eos_count, 1);
    assert_int_equal(c.eos[0], 7);
    assert_int_equal(c.max_new_tokens, 99);
    assert_true(isnan(c.temperature));
    assert_int_equal(c.top_k, -1);
    write_file("generation_config.json", "{}");
    assert_int_equal(agl_config_load(&c, folder, &err), AGL_OK);
    assert_int_equal(c.eos_count, 3);
    write_file("generation_config.json", "{\"eos_token_id\": ");
    assert_int_equal(agl_config_load(&c, folder, &err), AGL_ERR_FORMAT);
}

static void test_absent_generation_config(void **state)
{
    (void)state;
    agl_config c;
    char path[512];
    write_genuine("glm-4.1v-9b.config.json");
    snprintf(path, sizeof path, "%s/generation_config.json", folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(agl_config_load(&c, folder, NULL), AGL_OK);
    assert_int_equal(c.eos_count, 4);
}

static void test_processor_config(void **state)
{
    (void)state;
    agl_config c;
    agl_error err;
    char path[512];
    write_genuine("glm-4.1v-9b.config.json");
    snprintf(path, sizeof path, "%s/preprocessor_config.json", folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(agl_config_load(&c, folder, &err), AGL_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "preprocessor_config.json"));
    write_file("processor_config.json",
               "{\"image_processor\": {\"size\": {\"shortest_edge\": 1, \"longest_edge\": 5000000},"
               "\"image_mean\": [0.5, 0.5, 0.5], \"image_std\": [0.5, 0.5, 0.5]}}");
    assert_int_equal(agl_config_load(&c, folder, &err), AGL_OK);
    assert_int_equal(c.image.pixels_max, 5000000);
    /* Without `size` the reference's class default holds. */
    write_file("preprocessor_config.json",
               "{\"image_mean\": [0.5, 0.5, 0.5], \"image_std\": [0.5, 0.5, 0.5]}");
    assert_int_equal(agl_config_load(&c, folder, &err), AGL_OK);
    assert_int_equal(c.image.pixels_min, 12544);
    assert_int_equal(c.image.pixels_max, 11760000);
}

/* One change to a genuine file, and words of the one line that must refuse it. */
static void test_refusals(void **state)
{
    (void)state;
    static const struct { const char *file, *old, *new, *message;
    } CASES[] = {
        {"config.json", "\"rope_theta\": 10000,", "", "rope_theta is missing"},
        {"config.json", "\"partial_rotary_factor\": 0.5,", "", "partial_rotary_factor is missing"},
        {"config.json", "\"mrope_section\"", "\"other\"", "mrope_section is missing"},
        {"config.json", "\"rope_type\": \"default\"", "\"rope_type\": \"yarn\"",
         "rope_type is \"yarn\", \"default\" expected"},
        {"config.json", "\"rope_type\": \"default\"", "\"type\": \"linear\"", "type is \"linear\""},
        {"config.json", "\"rope_theta\": 10000,",
         "\"rope_theta\": 10000, \"rope_parameters\": {\"rope_theta\": 500000},",
         "rope_theta is 10000, 500000 expected"},
        {"config.json", "\"rope_theta\": 10000,",
         "\"rope_theta\": 10000, \"rope_parameters\": {\"mrope_section\": [12, 8, 12]},",
         "mrope_section is [8,12,12]"},
        {"config.json", "12\n      ]", "13]", "with sum 32 expected"},
        {"config.json", "Glm4vForConditionalGeneration", "Glm4vMoeForConditionalGeneration",
         "architectures is"},
        {"config.json", "\"image_token_id\": 151343,", "", "image_token_id is missing"},
        {"config.json", "\"image_token_id\": 151343,", "\"image_token_id\": 151552,",
         "image_token_id is 151552"},
        {"config.json", "\"dtype\": \"bfloat16\",", "", "dtype is missing"},
        {"config.json", "\"dtype\": \"bfloat16\",", "\"dtype\": \"int8\",", "dtype is \"int8\""},
        {"config.json", "\"num_key_value_heads\": 2,", "\"num_key_value_heads\": 3,",
         "num_key_value_heads is 3"},
        {"config.json", "\"num_key_value_heads\": 2,", "", "num_key_value_heads is missing"},
        {"config.json", "\"hidden_size\": 4096,", "\"hidden_size\": \"x\",", "hidden_size is"},
        {"config.json", "\"hidden_size\": 4096,", "\"hidden_size\": -1,", "hidden_size is -1"},
        {"config.json", "\"max_position_embeddings\": 65536,", "",
         "max_position_embeddings is missing"},
        {"config.json", "\"rms_norm_eps\": 1e-05,", "", "rms_norm_eps is missing"},
        {"config.json", "\"hidden_act\": \"silu\",", "\"hidden_act\": \"gelu\",",
         "hidden_act is \"gelu\", \"silu\" expected"},
        {"config.json", "\"attention_bias\": false,", "\"attention_bias\": true,",
         "attention_bias is true, false expected"},
        {"config.json", "\"out_hidden_size\": 4096,", "\"out_hidden_size\": 2048,",
         "out_hidden_size is 2048"},
        {"config.json", "\"num_heads\": 12,", "\"num_heads\": 11,", "num_heads is 11"},
        {"config.json", "\"text_config\"", "\"text\"", "text_config is missing"},
        {"config.json", "\"image_size\": 336,",
         "\"image_size\": 336, \"rope_parameters\": {\"rope_theta\": 1},",
         "rope_theta is 1, 10000 expected"},
        {"preprocessor_config.json", "\"do_rescale\": true", "\"do_rescale\": false",
         "do_rescale is false, true expected"},
        {"preprocessor_config.json", "{", "{\"do_resize\": false,", "do_resize is false"},
        {"preprocessor_config.json", "{", "{\"resample\": 2,", "resample is 2, 3 expected"},
        {"preprocessor_config.json", "{", "{\"rescale_factor\": 1,", "rescale_factor is 1"},
        {"preprocessor_config.json", "\"merge_size\": 2", "\"merge_size\": 4",
         "merge_size is 4, 2 expected"},
        {"preprocessor_config.json", "\"longest_edge\"", "\"width\"", "longest_edge is missing"},
        {"preprocessor_config.json", "\"image_mean\"", "\"mean\"", "image_mean is missing"},
        {"preprocessor_config.json", "\"image_std\"", "\"std\"", "image_std is missing"},
        {"generation_config.json", "0.8", "-1", "temperature is -1"},
        {"generation_config.json", "256", "1000000", "eos_token_id is"},
    };
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        char fixture[64];
        bool is_config = strcmp(CASES[i].file, "config.json") == 0;
        write_genuine("glm-4.1v-9b.config.json");
        snprintf(fixture, sizeof fixture, is_config ? "glm-4.1v-9b.%s" : "tiny/%s", CASES[i].file);
        write_changed(CASES[i].file, fixture, CASES[i].old, CASES[i].new);
        agl_config c;
        agl_error err = {0};
        agl_status status = agl_config_load(&c, folder, &err);
        if (status == AGL_OK || strstr(err.message, CASES[i].message) == NULL ||
            strstr(err.message, CASES[i].file) == NULL) {
            fail_msg("%s: %s -> %s: status %d, \"%s\"; \"%s\" expected", CASES[i].file,
                     CASES[i].old, CASES[i].new, (int)status, err.message, CASES[i].message);
        }
    }
}

static void test_quantization_is_recorded(void **state)
{
    (void)state;
    agl_config c;
    write_genuine("glm-4.1v-9b.config.json");
    write_changed("config.json", "glm-4.1v-9b.config.json", "{",
                  "{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4},");
    assert_int_equal(agl_config_load(&c, folder, NULL), AGL_OK);
    assert_string_equal(c.quant_method, "awq");
}

static void test_head_dim_and_tying(void **state)
{
    (void)state;
    agl_config c;
    write_genuine("glm-4.1v-9b.config.json");
    write_changed("config.json", "glm-4.1v-9b.config.json", "\"hidden_act\": \"silu\",",
                  "\"hidden_act\": \"silu\", \"head_dim\": 128, \"tie_word_embeddings\": true,");
    assert_int_equal(agl_config_load(&c, folder, NULL), AGL_OK);
    assert_int_equal(c.text.head_dim, 128);
    assert_true(c.text.tie_embeddings);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_glm_41v),
        cmocka_unit_test(test_glm_46v_flash),
        cmocka_unit_test(test_generation_config_precedence),
        cmocka_unit_test(test_absent_generation_config),
        cmocka_unit_test(test_processor_config),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_quantization_is_recorded),
        cmocka_unit_test(test_head_dim_and_tying),
    };
    return cmocka_run_group_tests_name("model/config", tests, setup, teardown);
}
