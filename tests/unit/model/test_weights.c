/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors headers that lie, shards that are missing, and a checkpoint that is right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/weights.h"
#include "support/test_checkpoint.h"

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

/* Parse `header` followed by data_bytes zeros from memory of exactly that size. */
static agl_status parse(agl_tensor **tensors, size_t *count, const char *header, size_t data_bytes,
                        agl_error *err)
{
    static unsigned char *file;
    size_t json = strlen(header);
    free(file);
    file = calloc(1, 8 + json + data_bytes);
    assert_non_null(file);
    for (int i = 0; i < 8; i++) file[i] = (unsigned char)(json >> 8 * i);
    memcpy(file + 8, header, json);
    return agl_safetensors_parse(tensors, count, file, 8 + json + data_bytes, "file", err);
}

/* Headers are padded to 8 bytes by hand: `%-*s` of the writer is not under test. */
static void test_good_header(void **state)
{
    (void)state;
    agl_tensor *tensors;
    size_t count;
    agl_error err;
    char header[512];
    snprintf(
        header, sizeof header, "%-160s",
        "{\"__metadata__\":{\"a\":\"b\"},\"x\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
        "\"y\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[24,26]}}");
    assert_int_equal(parse(&tensors, &count, header, 26, &err), AGL_OK);
    assert_int_equal(count, 2);
    assert_string_equal(tensors[0].name, "x");
    assert_int_equal(tensors[0].rank, 2);
    assert_int_equal(tensors[0].shape[1], 3);
    assert_int_equal(tensors[0].bytes, 24);
    assert_int_equal(tensors[1].dtype, AGL_BF16);
    assert_int_equal(tensors[1].rank, 0);
    assert_ptr_equal(tensors[1].data, (const char *)tensors[0].data + 24);
    agl_safetensors_free(tensors, count);
}

static void test_bad_headers(void **state)
{
    (void)state;
#define X(dtype, shape, offsets)                                                                   \
    "{\"x\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    static const struct { const char *header; size_t data_bytes; const char *message;
    } CASES[] = {
        {"[]", 0, "not a JSON object"},
        {"{", 0, "invalid JSON"},
        {"{\"x\":3}", 0, "dtype is missing"},
        {X("\"F99\"", "[1]", "[0,4]"), 4, "dtype is F99"},
        {X("\"F32\"", "[2]", "[0,4]"), 4, "4 bytes of data, 8 expected"},
        {X("\"F32\"", "[1]", "[0,4]"), 3, "leave the file's 3 data bytes"},
        {X("\"F32\"", "[1]", "[4,0]"), 4, "leave the file"},
        {X("\"F32\"", "[1]", "[-1,3]"), 4, "malformed"},
        {X("\"F32\"", "[1]", "[0]"), 4, "malformed"},
        {X("\"F32\"", "[1]", "[0.5,4]"), 4, "malformed"},
        {X("\"F32\"", "[-1]", "[0,4]"), 4, "shape is"},
        {X("\"F32\"", "[4611686018427387904,4]", "[0,0]"), 0, "shape is"},
        {X("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "over 8 dimensions"},
        {X("\"F32\"", "3", "[0,4]"), 4, "shape is missing"},
        {X("\"U8\"", "[4]", "[0,4]"), 5, "1 bytes after the last tensor"},
        {X("\"U8\"", "[3]", "[1,4]"), 4, "belong to no tensor"},
        {"{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"y\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}",
         6, "overlap"},
        {"{\"x\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"x\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
         4, "belong to no tensor"},
        {"{\"xy\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "a multiple of 4 expected"},
    };
#undef X
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        agl_tensor *tensors;
        size_t count;
        agl_error err = {0};
        agl_status status = parse(&tensors, &count, CASES[i].header, CASES[i].data_bytes, &err);
        if (status == AGL_OK || strstr(err.message, CASES[i].message) == NULL) {
            fail_msg("%s: status %d, \"%s\"; \"%s\" expected", CASES[i].header, (int)status,
                     err.message, CASES[i].message);
        }
        assert_null(tensors);
    }
}

static void test_bad_lengths(void **state)
{
    (void)state;
    agl_tensor *tensors;
    size_t count;
    unsigned char file[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    assert_int_equal(agl_safetensors_parse(&tensors, &count, file, 16, "file", NULL),
                     AGL_ERR_FORMAT);
    assert_int_equal(agl_safetensors_parse(&tensors, &count, file, 7, "file", NULL),
                     AGL_ERR_FORMAT);
    memset(file, 0, sizeof file);
    file[0] = 9; /* one more than the file has */
    assert_int_equal(agl_safetensors_parse(&tensors, &count, file, 16, "file", NULL),
                     AGL_ERR_FORMAT);
    assert_int_equal(agl_safetensors_parse(&tensors, &count, file, 0, "file", NULL),
                     AGL_ERR_FORMAT);
}

static void test_shards(void **state)
{
    (void)state;
    char dir[300], path[400];
    agl_weights *weights;
    agl_error err;
    snprintf(dir, sizeof dir, "%s/shards", folder);
    assert_int_equal(test_checkpoint_write(dir, &(test_checkpoint_shape){.shards = 3}, &err),
                     AGL_OK);
    assert_int_equal(agl_weights_open(&weights, dir, &err), AGL_OK);
    const agl_tensor *norm =
        agl_weights_find(weights, "model.language_model.layers.1.input_layernorm.weight");
    assert_non_null(norm);
    assert_int_equal(norm->shape[0], 64);
    assert_null(agl_weights_find(weights, "model.language_model.layers.2.input_layernorm.weight"));
    for (size_t i = 1; i < agl_weights_count(weights); i++) {
        assert_true(strcmp(agl_weights_at(weights, i - 1)->name, agl_weights_at(weights, i)->name) <
                    0);
    }
    /* The numbers are the generator's. */
    float u;
    test_hash_fill(&u, 1, norm->name, 5, 1);
    assert_true(((const float *)norm->data)[5] == 1.0f + 0.25f * u);
    agl_weights_close(weights);

    snprintf(path, sizeof path, "%s/model-00002-of-00003.safetensors", dir);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(agl_weights_open(&weights, dir, &err), AGL_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "model-00002-of-00003.safetensors"));
}

static void write_index(const char *dir, const char *text)
{
    char path[400];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_bad_index(void **state)
{
    (void)state;
    agl_weights *weights;
    agl_error err;
    char dir[300];
    snprintf(dir, sizeof dir, "%s/index", folder);
    assert_int_equal(test_checkpoint_write(dir, &(test_checkpoint_shape){.shards = 2}, &err),
                     AGL_OK);
    write_index(dir, "{\"weight_map\":{\"a\":\"../../etc/passwd\"}}");
    assert_int_equal(agl_weights_open(&weights, dir, &err), AGL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "a file name expected"));
    write_index(dir, "{\"weight_map\":{\"lost\":\"model-00001-of-00002.safetensors\"}}");
    assert_int_equal(agl_weights_open(&weights, dir, &err), AGL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "tensor lost is missing"));
    write_index(dir, "{\"weight_map\":{}}");
    assert_int_equal(agl_weights_open(&weights, dir, &err), AGL_ERR_FORMAT);
    write_index(dir, "{}");
    assert_int_equal(agl_weights_open(&weights, dir, &err), AGL_ERR_FORMAT);
}

static void test_nothing_there(void **state)
{
    (void)state;
    agl_weights *weights;
    agl_error err;
    assert_int_equal(agl_weights_open(&weights, folder, &err), AGL_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "model.safetensors.index.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_header),
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_bad_lengths),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_bad_index),
        cmocka_unit_test(test_nothing_there),
    };
    return cmocka_run_group_tests_name("model/weights", tests, setup, teardown);
}
