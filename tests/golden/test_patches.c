/* SPDX-License-Identifier: Apache-2.0
 *
 * test_patches.c - picture file to patch rows, the whole way the vision tower's input takes, against
 * the pixel_values of transformers' Glm4vImageProcessor (PIL back end), bit for bit.
 *
 * Vectors: tests/fixtures/media/vectors.json, written by make_image_vectors.py.
 * With `--bench FILE`: milliseconds of each step on one core. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file_map.h"
#include "support/test_kernel.h"
#include "support/test_pictures.h"

#define PATCH_VALUES 1176       /* 3 channels, 2 frames, 14 x 14 */

static const agl_resize_rule RULE = {.factor = 28, .frames = 2, .pixels_min = 12544, .pixels_max = 9633792};

static agl_patchify_args patch_args(const agl_image *image, float *out)
{
    return (agl_patchify_args){
        .pixels = image->pixels, .out = out, .height = image->height, .width = image->width, .patch = 14, .merge = 2,
        .frames = 2, .mean = {0.48145466f, 0.4578275f, 0.40821073f}, .std = {0.26862954f, 0.26130258f, 0.27577711f}};
}

static void rows_equal_the_processors(void **state)
{
    (void)state;
    agl_backend *backend;
    assert_int_equal(agl_backend_cpu_create(&backend, &(agl_backend_options){.threads = 2}, NULL), AGL_OK);
    struct json_object *root = test_picture_vectors();
    struct json_object *cases = agl_json_member(root, "processor");
    assert_true(json_object_array_length(cases) >= 9);
    for (size_t i = 0; i < json_object_array_length(cases); i++) {
        struct json_object *row = json_object_array_get_idx(cases, i);
        agl_image source = test_picture_of(row), image;
        int64_t height, width;
        assert_int_equal(agl_image_target_size(&height, &width, source.height, source.width, &RULE, NULL), AGL_OK);
        assert_int_equal(agl_image_resize(&image, &source, height, width, NULL), AGL_OK);
        size_t values = (size_t)(height / 14 * (width / 14)) * PATCH_VALUES;
        float *out = test_alloc(values * sizeof *out);
        agl_patchify_args args = patch_args(&image, out);
        assert_int_equal(backend->ops->patchify(test_stream(backend), &args), AGL_OK);
        test_hex hex = test_sha256(out, values * sizeof *out);
        if (strcmp(hex.text, json_object_get_string(agl_json_member(row, "pixel_values_sha256"))) != 0) {
            fail_msg("patch rows differ: %.80s", json_object_to_json_string(row));
        }
        free(out);
        agl_image_deinit(&image);
        agl_image_deinit(&source);
    }
    json_object_put(root);
    backend->ops->destroy(backend);
}

static int bench(const char *path)
{
    enum { RUNS = 15 };
    char *data;
    size_t bytes;
    agl_error err;
    double best[3] = {1e9, 1e9, 1e9};
    agl_backend *backend;
    if (agl_backend_cpu_create(&backend, &(agl_backend_options){.threads = 1}, &err) != AGL_OK
        || agl_file_read(&data, &bytes, path, (size_t)64 << 20, &err) != AGL_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    for (int run = 0; run < RUNS; run++) {
        agl_image source, image;
        int64_t height, width;
        double start = agl_clock_s();
        if (agl_image_decode(&source, data, bytes, NULL, &err) != AGL_OK) return 1;
        double decoded = agl_clock_s();
        agl_image_target_size(&height, &width, source.height, source.width, &RULE, NULL);
        agl_image_resize(&image, &source, height, width, NULL);
        double resized = agl_clock_s();
        static float *out; /* touched once: the tower's scratch is, too */
        if (out == NULL) out = test_alloc((size_t)(height / 14 * (width / 14)) * PATCH_VALUES * sizeof *out);
        agl_patchify_args args = patch_args(&image, out);
        double begin = agl_clock_s();
        backend->ops->patchify(test_stream(backend), &args);
        double times[3] = {decoded - start, resized - decoded, agl_clock_s() - begin};
        for (int i = 0; i < 3; i++) best[i] = times[i] < best[i] ? times[i] : best[i];
        agl_image_deinit(&source);
        agl_image_deinit(&image);
    }
    printf("one core, best of %d: decode %.1f ms, resize %.1f ms, patches %.1f ms, together %.1f ms\n", RUNS,
           best[0] * 1e3, best[1] * 1e3, best[2] * 1e3, (best[0] + best[1] + best[2]) * 1e3);
    free(data);
    backend->ops->destroy(backend);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--bench") == 0) return bench(argv[2]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_equal_the_processors)};
    return cmocka_run_group_tests_name("patches", tests, NULL, NULL);
}
