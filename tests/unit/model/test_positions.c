/* SPDX-License-Identifier: Apache-2.0
 *
 * Three-axis positions: the published example, big images, and windows of a sequence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"
#include "model/positions.h"

/* 5 text tokens, an image of 2 x 3 cells, text. */
static void test_example(void **state)
{
    (void)state;
    static const int32_t T[15] = {0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 8, 9, 10, 11};
    static const int32_t H[15] = {0, 1, 2, 3, 4, 5, 5, 5, 6, 6, 6, 8, 9, 10, 11};
    static const int32_t W[15] = {0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8, 9, 10, 11};
    const agl_image_span image = {.first_token = 5, .rows = 2, .columns = 3};
    int32_t t[15], h[15], w[15];
    agl_positions_fill(t, h, w, 0, 15, &image, 1);
    assert_memory_equal(t, T, sizeof T);
    assert_memory_equal(h, H, sizeof H);
    assert_memory_equal(w, W, sizeof W);
}

static void test_text_only(void **state)
{
    (void)state;
    int32_t t[4], h[4], w[4];
    agl_positions_fill(t, h, w, 1000, 4, NULL, 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(t[i], 1000 + i);
        assert_int_equal(h[i], 1000 + i);
        assert_int_equal(w[i], 1000 + i);
    }
}

/* A 1080 x 2400 screen: 86 x 39 cells, positions advance by 86. */
static void test_screen(void **state)
{
    (void)state;
    const agl_image_span image = {.first_token = 6, .rows = 86, .columns = 39};
    int32_t t, h, w;
    agl_positions_fill(&t, &h, &w, 6 + 3354 - 1, 1, &image, 1);
    assert_int_equal(t, 6);
    assert_int_equal(h, 6 + 85);
    assert_int_equal(w, 6 + 38);
    agl_positions_fill(&t, &h, &w, 6 + 3354, 1, &image, 1);
    assert_int_equal(t, 6 + 86);
    assert_int_equal(w, 6 + 86);
}

/* Any window equals that part of the whole; images may touch, start and end the sequence. */
static void test_windows(void **state)
{
    (void)state;
    enum { TOKENS = 40 };
    const agl_image_span images[] = {{0, 2, 2}, {4, 1, 3}, {9, 3, 4}, {30, 5, 1}};
    int32_t whole[3][TOKENS], part[3][TOKENS];
    agl_positions_fill(whole[0], whole[1], whole[2], 0, TOKENS, images, AGL_COUNT(images));
    assert_int_equal(whole[0][4], 2);
    assert_int_equal(whole[0][7], 5);
    for (size_t first = 0; first < TOKENS; first++) {
        for (size_t count = 0; first + count <= TOKENS; count++) {
            memset(part, 0x55, sizeof part);
            agl_positions_fill(part[0], part[1], part[2], first, count, images, AGL_COUNT(images));
            for (int axis = 0; axis < 3; axis++) {
                assert_memory_equal(part[axis], whole[axis] + first, count * sizeof(int32_t));
                if (count < TOKENS) assert_int_equal(part[axis][count], 0x55555555);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_example),
        cmocka_unit_test(test_text_only),
        cmocka_unit_test(test_screen),
        cmocka_unit_test(test_windows),
    };
    return cmocka_run_group_tests_name("model/positions", tests, NULL, NULL);
}
