/* SPDX-License-Identifier: Apache-2.0
 *
 * Target sizes against transformers' smart_resize, pixels against Pillow's bicubic. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/test_pictures.h"

static const agl_resize_rule RULE = {
    .factor = 28, .frames = 2, .pixels_min = 12544, .pixels_max = 9633792};

static struct json_object *load_part(struct json_object **root, const char *part)
{
    *root = test_picture_vectors();
    struct json_object *rows = agl_json_member(*root, part);
    assert_non_null(rows);
    return rows;
}

static int64_t item(struct json_object *array, size_t index)
{
    return json_object_get_int64(json_object_array_get_idx(array, index));
}

static void assert_pixels(const agl_image *image, struct json_object *row)
{
    test_hex hex = test_sha256(image->pixels, (size_t)(image->height * image->width * 3));
    if (strcmp(hex.text, json_object_get_string(agl_json_member(row, "rgb_sha256"))) != 0)
        fail_msg("pixels differ: %s", json_object_to_json_string(row));
}

static void test_target_sizes(void **state)
{
    (void)state;
    struct json_object *root, *rows = load_part(&root, "target");
    assert_true(json_object_array_length(rows) >= 2000);
    for (size_t i = 0; i < json_object_array_length(rows); i++) {
        struct json_object *row = json_object_array_get_idx(rows, i);
        agl_resize_rule rule = RULE;
        rule.pixels_max = item(row, 2);
        int64_t height = 0, width = 0;
        agl_error err = {0};
        agl_status status =
            agl_image_target_size(&height, &width, item(row, 0), item(row, 1), &rule, &err);
        if (status != (item(row, 3) == 0 ? AGL_ERR_ARGUMENT : AGL_OK) || height != item(row, 3) ||
            width != item(row, 4))
            fail_msg("%s: got %d x %d", json_object_to_json_string(row), (int)height, (int)width);
    }
    json_object_put(root);
}

/* The published table, width x height in, height x width out. */
static void test_target_sizes_of_the_model(void **state)
{
    (void)state;
    static const struct {
        int64_t width, height, out_height, out_width, tokens;
    } ROWS[] = {
        {1, 1, 84, 84, 9},
        {28, 28, 84, 84, 9},
        {30, 50, 112, 84, 12},
        {98, 98, 112, 112, 16},
        {100, 10, 28, 280, 10},
        {15, 53, 168, 56, 12},
        {480, 1067, 1064, 476, 646},
        {540, 1200, 1204, 532, 817},
        {720, 1600, 1596, 728, 1482},
        {1080, 2400, 2408, 1092, 3354},
        {1440, 3200, 3192, 1428, 5814},
        {4000, 30, 28, 4004, 143},
        {4000, 4000, 2184, 2184, 6084},
    };
    for (size_t i = 0; i < AGL_COUNT(ROWS); i++) {
        int64_t height, width;
        assert_int_equal(
            agl_image_target_size(&height, &width, ROWS[i].height, ROWS[i].width, &RULE, NULL),
            AGL_OK);
        assert_int_equal(height, ROWS[i].out_height);
        assert_int_equal(width, ROWS[i].out_width);
        assert_int_equal(height * width / 784, ROWS[i].tokens);
    }
    int64_t height, width;
    agl_error err = {0};
    assert_int_equal(agl_image_target_size(&height, &width, 0, 5, &RULE, &err), AGL_ERR_ARGUMENT);
    assert_int_equal(agl_image_target_size(&height, &width, 28 * 201, 28, &RULE, &err),
                     AGL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "200"));
}

static void test_bicubic_is_pillows(void **state)
{
    (void)state;
    struct json_object *root, *rows = load_part(&root, "resize");
    for (size_t i = 0; i < json_object_array_length(rows); i++) {
        struct json_object *row = json_object_array_get_idx(rows, i);
        struct json_object *from = agl_json_member(row, "in"), *to = agl_json_member(row, "out");
        agl_image in = test_picture_noise(item(from, 0), item(from, 1)), out;
        agl_error err = {0};
        assert_int_equal(agl_image_resize(&out, &in, item(to, 0), item(to, 1), &err), AGL_OK);
        assert_int_equal(out.height, item(to, 0));
        assert_int_equal(out.width, item(to, 1));
        assert_pixels(&out, row);
        agl_image_deinit(&in);
        agl_image_deinit(&out);
    }
    json_object_put(root);
}

/* File or noise -> decode -> target size -> resize: what the processor normalises. */
static void test_whole_way_is_the_processors(void **state)
{
    (void)state;
    struct json_object *root, *rows = load_part(&root, "processor");
    for (size_t i = 0; i < json_object_array_length(rows); i++) {
        struct json_object *row = json_object_array_get_idx(rows, i);
        struct json_object *size = agl_json_member(row, "size");
        agl_image in = test_picture_of(row), out;
        agl_error err = {0};
        int64_t height, width;
        assert_int_equal(agl_image_target_size(&height, &width, in.height, in.width, &RULE, &err),
                         AGL_OK);
        assert_int_equal(height, item(size, 0));
        assert_int_equal(width, item(size, 1));
        assert_int_equal(agl_image_resize(&out, &in, height, width, &err), AGL_OK);
        assert_pixels(&out, row);
        agl_image_deinit(&in);
        agl_image_deinit(&out);
    }
    json_object_put(root);
}

static void test_resize_refuses_empty(void **state)
{
    (void)state;
    agl_image in = test_picture_noise(2, 2), out;
    agl_error err = {0};
    assert_int_equal(agl_image_resize(&out, &in, 0, 4, &err), AGL_ERR_ARGUMENT);
    assert_null(out.pixels);
    agl_image_deinit(&in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_target_sizes),
        cmocka_unit_test(test_target_sizes_of_the_model),
        cmocka_unit_test(test_bicubic_is_pillows),
        cmocka_unit_test(test_whole_way_is_the_processors),
        cmocka_unit_test(test_resize_refuses_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
