/* SPDX-License-Identifier: Apache-2.0
 *
 * Pictures of every kind against Pillow's pixels (tests/golden/make_image_vectors.py),
 * and files that are refused, cut, damaged or too large. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <libdeflate.h>

#include "base/file_map.h"
#include "base/json.h"
#include "media/image.h"

#define FIXTURES "tests/fixtures/media/"
#define FILE_BYTES_MAX (1 << 20)

static struct json_object *load_part(struct json_object **root, const char *part)
{
    agl_error err = {0};
    assert_int_equal(agl_json_load(root, FIXTURES "vectors.json", FILE_BYTES_MAX, &err), AGL_OK);
    struct json_object *rows = agl_json_member(*root, part);
    assert_non_null(rows);
    return rows;
}

static const char *text(struct json_object *row, const char *key)
{
    return json_object_get_string(agl_json_member(row, key));
}

static int64_t number(struct json_object *row, const char *key)
{
    return json_object_get_int64(agl_json_member(row, key));
}

static char *read_fixture(size_t *bytes, const char *name)
{
    char path[256], *data = NULL;
    agl_error err = {0};
    snprintf(path, sizeof path, FIXTURES "%s", name);
    if (agl_file_read(&data, bytes, path, FILE_BYTES_MAX, &err) != AGL_OK)
        fail_msg("%s", err.message);
    return data;
}

static void hex_digest(char out[65], const void *data, size_t bytes)
{
    agl_digest digest = agl_sha256(data, bytes);
    for (size_t i = 0; i < sizeof digest.bytes; i++)
        snprintf(out + 2 * i, 3, "%02x", digest.bytes[i]);
}

static void test_pixels_are_pillows(void **state)
{
    (void)state;
    struct json_object *root, *rows = load_part(&root, "decode");
    assert_true(json_object_array_length(rows) > 60);
    for (size_t i = 0; i < json_object_array_length(rows); i++) {
        struct json_object *row = json_object_array_get_idx(rows, i);
        agl_error err = {0};
        agl_image image;
        size_t bytes;
        int64_t height, width;
        char *data = read_fixture(&bytes, text(row, "file")), digest[65];
        static const char *const KINDS[] = {"", "PNG", "JPEG", "WEBP"};
        assert_string_equal(KINDS[agl_image_kind_of(data, bytes)], text(row, "kind"));
        if (agl_image_decode(&image, data, bytes, NULL, &err) != AGL_OK)
            fail_msg("%s: %s", text(row, "file"), err.message);
        assert_int_equal(agl_image_size(&height, &width, data, bytes, &err), AGL_OK);
        assert_int_equal(image.height, number(row, "height"));
        assert_int_equal(image.width, number(row, "width"));
        assert_int_equal(height, image.height);
        assert_int_equal(width, image.width);
        hex_digest(digest, image.pixels, (size_t)(image.height * image.width * 3));
        if (strcmp(digest, text(row, "rgb_sha256")) != 0)
            fail_msg("%s: pixels differ from the reference", text(row, "file"));
        agl_image_deinit(&image);
        free(data);
    }
    json_object_put(root);
}

static void test_other_kinds_are_named(void **state)
{
    (void)state;
    struct json_object *root, *rows = load_part(&root, "refuse");
    for (size_t i = 0; i < json_object_array_length(rows); i++) {
        struct json_object *row = json_object_array_get_idx(rows, i);
        agl_error err = {0};
        agl_image image;
        size_t bytes;
        char *data = read_fixture(&bytes, text(row, "file"));
        assert_int_equal(agl_image_decode(&image, data, bytes, NULL, &err), AGL_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.message, text(row, "names")));
        assert_non_null(strstr(err.message, "PNG, JPEG and WebP"));
        assert_null(image.pixels);
        free(data);
    }
    json_object_put(root);
    agl_error err = {0};
    agl_image image;
    assert_int_equal(agl_image_decode(&image, "", 0, NULL, &err), AGL_ERR_FORMAT);
    assert_int_equal(agl_image_decode(&image, "<html>", 6, NULL, &err), AGL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "3c 68 74 6d"));
}

/* Copies to memory of exactly that size, so that AddressSanitizer sees a byte too many. */
static agl_status decode_copy(const char *data, size_t bytes)
{
    agl_image image;
    agl_error err = {0};
    char *copy = malloc(bytes > 0 ? bytes : 1);
    memcpy(copy, data, bytes);
    agl_status status = agl_image_decode(&image, copy, bytes, NULL, &err);
    if (status != AGL_OK) {
        assert_null(image.pixels);
        assert_true(err.message[0] != 0);
    }
    agl_image_deinit(&image);
    free(copy);
    return status;
}

static const char *const SAMPLES[] = {
    "png_rgba8.png",        "png_palette4_trns_adam7.png",
    "png_many_idat.png",    "png_exif8_behind.png",
    "jpeg_420.jpg",         "jpeg_cmyk.jpg",
    "jpeg_progressive.jpg", "jpeg_exif6.jpg",
    "webp_lossy.webp",      "webp_alpha.webp",
    "webp_exif5.webp",      "webp_animated.webp",
};

/* At three quarters pixels are missing in every kind: never a picture with a made-up part. */
static void test_cut_files_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < AGL_COUNT(SAMPLES); i++) {
        size_t bytes;
        char *data = read_fixture(&bytes, SAMPLES[i]);
        for (size_t cut = 0; cut < bytes; cut += 1 + cut / 64) {
            agl_status status = decode_copy(data, cut);
            /* Pixels come first in these two, so they may be whole. */
            bool whole = strcmp(SAMPLES[i], "webp_animated.webp") == 0 ||
                         strcmp(SAMPLES[i], "png_exif8_behind.png") == 0;
            if (!whole && cut < bytes * 3 / 4) assert_int_not_equal(status, AGL_OK);
        }
        assert_int_equal(decode_copy(data, bytes), AGL_OK);
        free(data);
    }
}

static void test_damaged_files_do_no_harm(void **state)
{
    (void)state;
    uint32_t random = 1;
    for (size_t i = 0; i < AGL_COUNT(SAMPLES); i++) {
        size_t bytes;
        char *data = read_fixture(&bytes, SAMPLES[i]);
        for (int round = 0; round < 200; round++) {
            random = random * 1664525u + 1013904223u;
            size_t at = (random >> 8) % (round % 2 ? bytes : bytes < 80 ? bytes : 80);
            char old = data[at];
            data[at] = (char)(data[at] ^ (char)(random >> 3 | 1));
            decode_copy(data, bytes);
            data[at] = old;
        }
        free(data);
    }
}

static void test_limits(void **state)
{
    (void)state;
    size_t bytes;
    char *data = read_fixture(&bytes, "jpeg_exif6.jpg"); /* 67 x 45 stored, 45 x 67 upright */
    agl_image image;
    agl_error err = {0};
    agl_image_limits limits = {.pixels_max = 45 * 67, .side_max = 67};
    assert_int_equal(agl_image_decode(&image, data, bytes, &limits, &err), AGL_OK);
    agl_image_deinit(&image);
    limits.pixels_max = 45 * 67 - 1;
    assert_int_equal(agl_image_decode(&image, data, bytes, &limits, &err), AGL_ERR_LIMIT);
    assert_non_null(strstr(err.message, "3014"));
    limits = (agl_image_limits){.side_max = 66};
    assert_int_equal(agl_image_decode(&image, data, bytes, &limits, &err), AGL_ERR_LIMIT);
    free(data);
}

/* A header may claim what it likes: memory is taken only for what the file can hold. */
static void test_small_files_claim_no_memory(void **state)
{
    (void)state;
    static const uint8_t LARGE[4] = {0, 0, 0x30, 0}; /* 12,288 */
    size_t bytes;
    char *data = read_fixture(&bytes, "png_rgba8.png");
    memcpy(data + 16, LARGE, 4);
    memcpy(data + 20, LARGE, 4);
    int64_t height, width;
    agl_error err = {0};
    assert_int_equal(agl_image_size(&height, &width, data, bytes, &err), AGL_ERR_FORMAT);
    memset(data + 16, 0x7f, 8);
    assert_int_equal(agl_image_size(&height, &width, data, bytes, &err), AGL_ERR_LIMIT);
    memset(data + 16, 0, 4);
    assert_int_equal(agl_image_size(&height, &width, data, bytes, &err), AGL_ERR_FORMAT);
    free(data);
    data = read_fixture(&bytes, "jpeg_progressive_gray.jpg");
    char *frame = memmem(data, bytes, "\xff\xc2\0\x0b\x08", 5);
    assert_non_null(frame);
    memcpy(frame + 5, LARGE + 2, 2);
    memcpy(frame + 7, LARGE + 2, 2);
    assert_int_equal(agl_image_size(&height, &width, data, bytes, &err), AGL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "cut short"));
    free(data);
}

/* Refused before anything else of the request is decoded. */
static void test_sizes_over_the_limits_are_refused_from_the_header(void **state)
{
    (void)state;
    static const uint8_t WIDE[8] = {0, 1, 0x11, 0x70, 0, 0, 0, 1}; /* 70,000 x 1 */
    size_t bytes;
    char *data = read_fixture(&bytes, "png_rgba8_screen.png");
    memcpy(data + 16, WIDE, sizeof WIDE);
    uint32_t sum = libdeflate_crc32(0, data + 12, 17);
    for (int i = 0; i < 4; i++) data[29 + i] = (char)(sum >> (24 - 8 * i));
    int64_t height, width;
    agl_error err = {0};
    assert_int_equal(agl_image_size(&height, &width, data, bytes, &err), AGL_ERR_LIMIT);
    assert_non_null(strstr(err.message, "70000 x 1 pixels: sides may have 65535"));
    free(data);
}

/* The same scan again and again: work without end for a small file. */
static void test_jpeg_of_many_scans_is_refused(void **state)
{
    (void)state;
    size_t bytes, used = 0;
    char *data = read_fixture(&bytes, "jpeg_progressive_gray.jpg");
    char *last = NULL;
    for (size_t i = 0; i + 2 < bytes; i++)
        if (memcmp(data + i, "\xff\xda", 2) == 0) last = data + i;
    assert_non_null(last);
    size_t head = (size_t)(last - data), scan = bytes - 2 - head;
    char *file = malloc(head + 150 * scan + 2);
    memcpy(file, data, used = head);
    for (int i = 0; i < 150; i++, used += scan) memcpy(file + used, last, scan);
    memcpy(file + used, "\xff\xd9", 2);
    agl_image image;
    agl_error err = {0};
    assert_int_equal(agl_image_decode(&image, file, used + 2, NULL, &err), AGL_ERR_LIMIT);
    free(file);
    free(data);
}

static void test_digest_tells_files_and_sizes_apart(void **state)
{
    (void)state;
    uint8_t file[36] = {1, 2, 3};
    agl_digest a = agl_image_digest(file, sizeof file, 28, 56),
               b = agl_image_digest(file, sizeof file, 56, 28),
               c = agl_image_digest(file, sizeof file, 28, 56);
    assert_false(agl_digest_equal(&a, &b));
    assert_true(agl_digest_equal(&a, &c));
    file[35] = 1;
    c = agl_image_digest(file, sizeof file, 28, 56);
    assert_false(agl_digest_equal(&a, &c));
    c = agl_image_digest(file, sizeof file - 1, 28, 56);
    assert_false(agl_digest_equal(&a, &c));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pixels_are_pillows),
        cmocka_unit_test(test_other_kinds_are_named),
        cmocka_unit_test(test_cut_files_are_refused),
        cmocka_unit_test(test_damaged_files_do_no_harm),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_small_files_claim_no_memory),
        cmocka_unit_test(test_sizes_over_the_limits_are_refused_from_the_header),
        cmocka_unit_test(test_jpeg_of_many_scans_is_refused),
        cmocka_unit_test(test_digest_tells_files_and_sizes_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
