/* SPDX-License-Identifier: Apache-2.0
 *
 * patchify, to the bit, the interpolated position table, against published vectors, and
 * resize, to the bit, against agl_image_resize, which has vectors of its own.
 *
 * Tolerance of the table: coordinates pass through F32 (3e-6 at 24 cells), times the slope
 * of the kernel, times values of magnitude 1. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "media/image_resize.h"
#include "support/test_kernel.h"

static const float MEAN[3] = {0.48145466f, 0.4578275f, 0.40821073f};
static const float STD[3] = {0.26862954f, 0.26130258f, 0.27577711f};

static agl_backend *create(uint32_t threads)
{
    return test_backend_create(&TEST_VARIANTS[0], threads);
}

/* Walks the output in its own order and computes each place in the picture. */
static void patches_hold_the_pixels_in_merge_order(void **state)
{
    (void)state;
    enum { GRID_H = 4, GRID_W = 6, PATCH = 14, MERGE = 2, FRAMES = 2, HEIGHT = GRID_H * PATCH,
           WIDTH = GRID_W * PATCH, ROW = 3 * FRAMES * PATCH * PATCH };
    static const int ORDER[GRID_H * GRID_W][2] = { /* (row, column) */
        {0, 0}, {0, 1}, {1, 0}, {1, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {0, 4}, {0, 5}, {1, 4}, {1, 5},
        {2, 0}, {2, 1}, {3, 0}, {3, 1}, {2, 2}, {2, 3}, {3, 2}, {3, 3}, {2, 4}, {2, 5}, {3, 4}, {3, 5}};
    test_random random = {4};
    uint8_t *pixels = test_alloc(HEIGHT * WIDTH * 3);
    for (int i = 0; i < HEIGHT * WIDTH * 3; i++) pixels[i] = (uint8_t)test_random_u32(&random);
    float *out = test_alloc(GRID_H * GRID_W * ROW * sizeof *out);
    for (uint32_t threads = 1; threads <= 2; threads++) {
        agl_backend *backend = create(threads);
        agl_patchify_args args = {.pixels = pixels, .out = out, .height = HEIGHT, .width = WIDTH,
                                  .patch = PATCH, .merge = MERGE, .frames = FRAMES};
        memcpy(args.mean, MEAN, sizeof MEAN);
        memcpy(args.std, STD, sizeof STD);
        assert_int_equal(backend->ops->patchify(test_stream(backend), &args), AGL_OK);
        for (int patch = 0; patch < GRID_H * GRID_W; patch++) {
            for (int i = 0; i < ROW; i++) {
                int channel = i / (FRAMES * PATCH * PATCH), y = i / PATCH % PATCH, x = i % PATCH;
                int row = ORDER[patch][0] * PATCH + y, column = ORDER[patch][1] * PATCH + x;
                float value = (float)(pixels[(row * WIDTH + column) * 3 + channel] * (1.0 / 255.0));
                value -= MEAN[channel];
                value /= STD[channel];
                test_same_bits("patchify", &out[patch * ROW + i], &value, 1);
            }
        }
        backend->ops->destroy(backend);
    }
    free(pixels), free(out);
}

/* A table with one channel a cell and 1 in that cell shows the weights themselves. */
static float *weights_of(agl_backend *backend, int64_t grid_h, int64_t grid_w, int64_t side)
{
    int64_t cells = side * side;
    float *table = test_alloc((size_t)(cells * cells) * sizeof *table);
    for (int64_t i = 0; i < cells; i++) table[i * cells + i] = 1.0f;
    float *x = test_alloc((size_t)(grid_h * grid_w * cells) * sizeof *x);
    agl_position_embed_args args = {.x = x, .table = table, .grid_h = grid_h, .grid_w = grid_w, .merge = 2,
                                    .side = side, .hidden = cells};
    assert_int_equal(backend->ops->position_embed(test_stream(backend), &args), AGL_OK);
    free(table);
    return x;
}

typedef struct {
    int64_t grid, cell;
    int rows[4];
    double weights[4];
} tap_vector;

static const tap_vector TAPS[] = {
    {4, 0, {1, 2, 3, 4}, {-0.09375, 0.59375, 0.59375, -0.09375}},
    {172, 0, {0, 0, 0, 1}, {-0.079098, 0.500779, 0.683070, -0.104751}},
    {172, 86, {10, 11, 12, 13}, {-0.079098, 0.500779, 0.683070, -0.104751}},
    {172, 171, {22, 23, 23, 23}, {-0.104751, 0.683070, 0.500779, -0.079098}},
    {78, 1, {0, 0, 0, 1}, {-0.001067, 0.030994, 0.996743, -0.026670}},
    {24, 7, {6, 7, 8, 9}, {0, 1, 0, 0}},
};

static void position_weights_match_the_vectors(void **state)
{
    (void)state;
    enum { SIDE = 24, CELLS = SIDE * SIDE };
    agl_backend *backend = create(2);
    for (size_t i = 0; i < AGL_COUNT(TAPS); i++) {
        const tap_vector *taps = &TAPS[i];
        double want[SIDE] = {0};
        for (int t = 0; t < 4; t++) want[taps->rows[t]] += taps->weights[t];
        /* Vertical: a grid of that height, 2 wide, column 0. Sums over table columns give the
         * row weights, because the other axis' weights sum to 1. Then the same lying down. */
        for (int axis = 0; axis < 2; axis++) {
            int64_t grid_h = axis == 0 ? taps->grid : 2, grid_w = axis == 0 ? 2 : taps->grid;
            float *x = weights_of(backend, grid_h, grid_w, SIDE);
            int64_t row = axis == 0 ? taps->cell : 0, column = axis == 0 ? 0 : taps->cell;
            int64_t at = ((row / 2 * (grid_w / 2) + column / 2) * 2 + row % 2) * 2 + column % 2;
            for (int cell = 0; cell < SIDE; cell++) {
                double sum = 0;
                for (int other = 0; other < SIDE; other++) {
                    sum += (double)x[at * CELLS + (axis == 0 ? cell * SIDE + other : other * SIDE + cell)];
                }
                test_close(axis == 0 ? "row weight" : "column weight", (float)sum, want[cell], 1e-5);
            }
            free(x);
        }
    }
    backend->ops->destroy(backend);
}

/* At the table's own size it is the identity, added to what is there. */
static void table_of_the_same_size_is_added_as_it_is(void **state)
{
    (void)state;
    enum { SIDE = 24, HIDDEN = 5 };
    test_random random = {8};
    agl_backend *backend = create(1);
    float *table = test_floats(&random, SIDE * SIDE * HIDDEN, 1.0f);
    float *x = test_floats(&random, SIDE * SIDE * HIDDEN, 1.0f), *before = test_alloc(SIDE * SIDE * HIDDEN * 4);
    memcpy(before, x, SIDE * SIDE * HIDDEN * sizeof *x);
    agl_position_embed_args args = {.x = x, .table = table, .grid_h = SIDE, .grid_w = SIDE, .merge = 2,
                                    .side = SIDE, .hidden = HIDDEN};
    assert_int_equal(backend->ops->position_embed(test_stream(backend), &args), AGL_OK);
    for (int row = 0; row < SIDE; row++) {
        for (int column = 0; column < SIDE; column++) {
            int at = ((row / 2 * (SIDE / 2) + column / 2) * 2 + row % 2) * 2 + column % 2;
            for (int i = 0; i < HIDDEN; i++) {
                double want = (double)before[at * HIDDEN + i] + (double)table[(row * SIDE + column) * HIDDEN + i];
                test_close("identity", x[at * HIDDEN + i], want, 1e-5);
            }
        }
    }
    backend->ops->destroy(backend);
    free(table), free(x), free(before);
}

static agl_resize_windows windows_of(const agl_resize_axis *axis)
{
    return (agl_resize_windows){axis->first, axis->count, axis->weights, axis->taps};
}

/* Either axis, both, none; across first and down first; sides of 1 and windows of 200. */
static void resize_has_the_bits_of_the_media_path(void **state)
{
    (void)state;
    static const int64_t SHAPES[][4] = { /* height, width, new height, new width */
        {1, 1, 84, 84},    {240, 108, 252, 112}, {320, 144, 308, 140}, {3000, 100, 28, 28}, {7, 300, 3, 17},
        {40, 40, 40, 84},  {40, 40, 84, 40},     {900, 2, 28, 2},      {33, 21, 33, 21},    {50, 9, 31, 40},
    };
    _Static_assert(AGL_RESIZE_WEIGHT_BITS == AGL_RESIZE_FRACTION_BITS, "the same weights");
    test_random random = {9};
    for (size_t i = 0; i < AGL_COUNT(SHAPES); i++) {
        int64_t height = SHAPES[i][0], width = SHAPES[i][1], out_height = SHAPES[i][2], out_width = SHAPES[i][3];
        agl_image in = {test_alloc((size_t)(height * width * 3)), height, width}, want;
        for (int64_t n = 0; n < height * width * 3; n++) {
            uint32_t draw = test_random_u32(&random) % 1024; /* ends of the range: they clamp */
            in.pixels[n] = (uint8_t)(draw < 256 ? draw : draw & 1 ? 255 : 0);
        }
        assert_int_equal(agl_image_resize(&want, &in, out_height, out_width, NULL), AGL_OK);
        agl_resize_axis across = {0}, down = {0};
        if (width != out_width) assert_int_equal(agl_resize_axis_init(&across, width, out_width, NULL), AGL_OK);
        if (height != out_height) assert_int_equal(agl_resize_axis_init(&down, height, out_height, NULL), AGL_OK);
        uint8_t *out = test_alloc((size_t)(out_height * out_width * 3));
        int64_t rows = height > out_height ? height : out_height, columns = width > out_width ? width : out_width;
        uint8_t *between = test_alloc((size_t)(rows * columns * 3));
        for (uint32_t threads = 1; threads <= 2; threads++) {
            agl_backend *backend = create(threads);
            agl_resize_args args = {
                .pixels = in.pixels, .out = out, .between = between, .height = height, .width = width,
                .out_height = out_height, .out_width = out_width, .across = windows_of(&across),
                .down = windows_of(&down),
                .down_first = agl_resize_goes_down_first(height, width, out_height, out_width)};
            assert_int_equal(backend->ops->resize(test_stream(backend), &args), AGL_OK);
            assert_memory_equal(out, want.pixels, (size_t)(out_height * out_width * 3));
            backend->ops->destroy(backend);
        }
        agl_resize_axis_deinit(&across), agl_resize_axis_deinit(&down);
        agl_image_deinit(&want);
        free(in.pixels), free(out), free(between);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patches_hold_the_pixels_in_merge_order),
        cmocka_unit_test(position_weights_match_the_vectors),
        cmocka_unit_test(table_of_the_same_size_is_added_as_it_is),
        cmocka_unit_test(resize_has_the_bits_of_the_media_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
