/* SPDX-License-Identifier: Apache-2.0
 *
 * Target sizes against transformers' smart_resize, pixels against Pillow's bicubic. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file_map.h"
#include "base/json.h"
#include "media/image.h"

#define FIXTURES "tests/fixtures/media/"
#define FILE_BYTES_MAX (1 << 20)

static const agl_resize_rule RULE = {
    .factor = 28, .frames = 2, .pixels_min = 12544, .pixels_max = 9633792};

static struct json_object *load_part(struct json_object **root, const char *part)
{
    agl_error err = {0};
    assert_int_equal(agl_json_load(root, FIXTURES "vectors.json", FILE_BYTES_MAX, &err), AGL_OK);
    struct json_object *rows = agl_json_member(*root, part);
    assert_non_null(rows);
    return rows;
}

static int64_t item(struct json_object *array, size_t index)
{
    return json_object_get_int64(json_object_array_get_idx(array, index));
}

/* noise(h, w) of the script that made the vectors. */
static agl_image noise(int64_t height, int64_t width)
{
    size_t bytes = (size_t)height * (size_t)width * 3;
    agl_image image = {malloc(bytes), height, width};
    for (size_t i = 0; i < bytes; i++)
        image.pixels[i] = i < bytes / 2 ? (uint8_t)((uint32_t)(i * 2654435761u) >> 24)
                                        : (uint8_t)(i / 96 % 2 * 255);
    return image;
}

static void assert_pixels(const agl_image *image, struct json_object *row)
{
    char hex[65];
    agl_digest digest = agl_sha256(image->pixels, (size_t)(image->height * image->width * 3));
    for (size_t i = 0; i < sizeof digest.bytes; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest.bytes[i]);
    if (strcmp(hex, json_object_get_string(agl_json_member(row, "rgb_sha256"))) != 0)
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
        agl_image in = noise(item(from, 0), item(from, 1)), out;
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
        struct json_object *file = agl_json_member(row, "file"),
                           *size = agl_json_member(row, "size");
        agl_image in, out;
        agl_error err = {0};
        int64_t height, width;
        if (file != NULL) {
            char path[256], *data;
            size_t bytes;
            snprintf(path, sizeof path, FIXTURES "%s", json_object_get_string(file));
            assert_int_equal(agl_file_read(&data, &bytes, path, FILE_BYTES_MAX, &err), AGL_OK);
            assert_int_equal(agl_image_decode(&in, data, bytes, NULL, &err), AGL_OK);
            free(data);
        } else {
            struct json_object *sides = agl_json_member(row, "noise");
            in = noise(item(sides, 0), item(sides, 1));
        }
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
    agl_image in = noise(2, 2), out;
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
