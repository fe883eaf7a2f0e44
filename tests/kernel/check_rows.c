/* SPDX-License-Identifier: Apache-2.0
 *
 * Row-wise operations of every variant against F64: embed, gather, rmsnorm, layernorm,
 * swiglu and both rotations.
 *
 * Tolerances: norms and activations are a handful of F32 operations after a sum of at most
 * 4096 squares, 1e-6 relative with room; rotations add the error of a F32 angle, which the
 * reference takes over, so sine and cosine of the very same angle are compared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/test_kernel.h"

typedef void (*variant_fn)(const test_variant *variant, agl_backend *backend, test_random *random);

static void for_variants(variant_fn fn)
{
    for (const test_variant *variant = TEST_VARIANTS; variant->name != NULL; variant++) {
        if (!test_variant_runs(variant)) continue;
        for (uint32_t threads = 1; threads <= 2; threads++) {
            agl_backend *backend = test_backend_create(variant, threads);
            test_random random = {17};
            fn(variant, backend, &random);
            backend->ops->destroy(backend);
        }
    }
}

static const int64_t WIDTHS[] = {1, 7, 16, 33, 100, 1536, 4096};

static void embed_one(const test_variant *variant, agl_backend *backend, test_random *random)
{
    enum { VOCAB = 11, HIDDEN = 37, TOKENS = 9 };
    static const agl_dtype DTYPES[] = {AGL_F32, AGL_BF16, AGL_F16};
    static const int32_t IDS[TOKENS] = {0, 10, 3, 3, 7, 1, 2, 9, 5};
    static const int32_t VISUAL[TOKENS] = {-1, -1, 1, 0, -1, -1, 2, -1, -1};
    float *visual = test_floats(random, 3 * HIDDEN, 1.0f);
    for (size_t d = 0; d < AGL_COUNT(DTYPES); d++) {
        void *data = test_elements(random, DTYPES[d], VOCAB * HIDDEN, 1.0f);
        const char *second = (const char *)data + (size_t)6 * HIDDEN * agl_dtype_bytes(DTYPES[d]);
        agl_weight_desc desc = {.parts = {{.data = data, .rows = 6}, {.data = second, .rows = 5}},
                                .part_count = 2, .in = HIDDEN, .dtype = DTYPES[d]};
        agl_weight *table;
        assert_int_equal(backend->ops->weight_create(backend, &table, &desc, NULL), AGL_OK);
        float out[TOKENS * HIDDEN];
        for (int with_visual = 0; with_visual < 2; with_visual++) {
            agl_embed_args args = {.out = out, .table = table, .ids = IDS, .tokens = TOKENS, .hidden = HIDDEN,
                                   .visual = with_visual ? visual : NULL,
                                   .visual_rows = with_visual ? VISUAL : NULL};
            assert_int_equal(backend->ops->embed(test_stream(backend), &args), AGL_OK);
            for (int token = 0; token < TOKENS; token++) {
                for (int i = 0; i < HIDDEN; i++) {
                    double want = with_visual && VISUAL[token] >= 0
                        ? (double)visual[VISUAL[token] * HIDDEN + i]
                        : test_element(data, DTYPES[d], IDS[token] * HIDDEN + i);
                    test_close(variant->name, out[token * HIDDEN + i], want, 0);
                }
            }
        }
        backend->ops->weight_destroy(backend, table);
        free(data);
    }
    free(visual);
}

static void gather_one(const test_variant *variant, agl_backend *backend, test_random *random)
{
    enum { WIDTH = 5, COUNT = 4 };
    static const int32_t ROWS[COUNT] = {6, 0, 0, 3};
    float *x = test_floats(random, 7 * WIDTH, 1.0f), out[COUNT * WIDTH];
    agl_gather_args args = {.x = x, .out = out, .rows = ROWS, .count = COUNT,
                            .row_bytes = WIDTH * sizeof(float)};
    assert_int_equal(backend->ops->gather(test_stream(backend), &args), AGL_OK);
    for (int i = 0; i < COUNT; i++) test_same_bits(variant->name, out + i * WIDTH, x + ROWS[i] * WIDTH, WIDTH);
    free(x);
}

static double rms_of(const double *row, int64_t hidden, double eps)
{
    double squares = 0;
    for (int64_t i = 0; i < hidden; i++) squares += row[i] * row[i];
    return sqrt(squares / (double)hidden + eps);
}

/* All combinations of delta, its norm, and y; activations far above 65504. */
static void rmsnorm_one(const test_variant *variant, agl_backend *backend, test_random *random)
{
    enum { ROWS = 5 };
    for (size_t w = 0; w < AGL_COUNT(WIDTHS); w++) {
        int64_t hidden = WIDTHS[w];
        for (int mode = 1; mode < 8; mode++) {
            bool has_delta = mode & 1, has_y = mode & 2, has_weight = (mode & 4) && has_delta;
            float *x = test_floats(random, (size_t)(ROWS * hidden), 1.0f);
            float *delta = test_floats(random, (size_t)(ROWS * hidden), 3e5f);
            float *weight = test_floats(random, (size_t)hidden, 2.0f);
            float *delta_weight = test_floats(random, (size_t)hidden, 2.0f);
            float *y = test_alloc((size_t)(ROWS * hidden) * sizeof *y);
            double *want = test_alloc((size_t)(ROWS * hidden) * sizeof *want);
            for (int64_t row = 0; row < ROWS; row++) {
                double *line = want + row * hidden;
                for (int64_t i = 0; i < hidden; i++) line[i] = (double)delta[row * hidden + i];
                double rms = has_weight ? rms_of(line, hidden, 1e-5) : 1;
                for (int64_t i = 0; i < hidden; i++) {
                    double more = has_delta ? line[i] / rms * (has_weight ? (double)delta_weight[i] : 1) : 0;
                    line[i] = (double)x[row * hidden + i] + more;
                }
            }
            agl_rmsnorm_args args = {.x = x, .delta = has_delta ? delta : NULL,
                                     .delta_weight = has_weight ? delta_weight : NULL,
                                     .y = has_y ? y : NULL, .weight = weight, .rows = ROWS,
                                     .hidden = hidden, .eps = 1e-5f};
            assert_int_equal(backend->ops->rmsnorm(test_stream(backend), &args), AGL_OK);
            for (int64_t row = 0; row < ROWS; row++) {
                double rms = rms_of(want + row * hidden, hidden, 1e-5);
                for (int64_t i = 0; i < hidden; i++) {
                    double value = want[row * hidden + i];
                    /* delta and x may cancel: relative to the larger of the two. */
                    double slack = 1e-6 * (fabs(value) + (has_delta && !has_weight ? 3e5 : 4.0));
                    test_close(variant->name, x[row * hidden + i], value, slack);
                    if (!has_y) continue;
                    test_close(variant->name, y[row * hidden + i], value / rms * (double)weight[i],
                               2e-6 * fabs(value / rms) * 2 + 2 * slack / rms);
                }
            }
            free(x), free(delta), free(weight), free(delta_weight), free(y), free(want);
        }
    }
}

static void layernorm_one(const test_variant *variant, agl_backend *backend, test_random *random)
{
    enum { ROWS = 3 };
    for (size_t w = 1; w < AGL_COUNT(WIDTHS); w++) {
        int64_t hidden = WIDTHS[w];
        float *x = test_floats(random, (size_t)(ROWS * hidden), 4.0f);
        float *weight = test_floats(random, (size_t)hidden, 2.0f), *bias = test_floats(random, (size_t)hidden, 1.0f);
        float *y = test_alloc((size_t)(ROWS * hidden) * sizeof *y);
        for (int64_t i = 0; i < ROWS * hidden; i++) x[i] += 100.0f; /* a mean that dwarfs the spread */
        for (int gelu = 0; gelu < 2; gelu++) {
            agl_layernorm_args args = {.x = x, .y = y, .weight = weight, .bias = bias, .rows = ROWS,
                                       .hidden = hidden, .eps = 1e-5f, .gelu = gelu};
            assert_int_equal(backend->ops->layernorm(test_stream(backend), &args), AGL_OK);
            for (int64_t row = 0; row < ROWS; row++) {
                double mean = 0, variance = 0;
                for (int64_t i = 0; i < hidden; i++) mean += (double)x[row * hidden + i] / (double)hidden;
                for (int64_t i = 0; i < hidden; i++) {
                    variance += pow((double)x[row * hidden + i] - mean, 2) / (double)hidden;
                }
                for (int64_t i = 0; i < hidden; i++) {
                    double want = ((double)x[row * hidden + i] - mean) / sqrt(variance + 1e-5) *
                                  (double)weight[i] + (double)bias[i];
                    if (gelu) want = 0.5 * want * (1 + erf(want / sqrt(2.0)));
                    test_close(variant->name, y[row * hidden + i], want, 3e-5); /* 100 * 2^-24 / spread */
                }
            }
        }
        free(x), free(weight), free(bias), free(y);
    }
}

static void swiglu_one(const test_variant *variant, agl_backend *backend, test_random *random)
{
    enum { ROWS = 4 };
    for (size_t w = 0; w < AGL_COUNT(WIDTHS); w++) {
        int64_t width = WIDTHS[w];
        float *x = test_floats(random, (size_t)(ROWS * 2 * width), 120.0f);
        float *y = test_alloc((size_t)(ROWS * width) * sizeof *y);
        agl_swiglu_args args = {.x = x, .y = y, .rows = ROWS, .width = width};
        assert_int_equal(backend->ops->swiglu(test_stream(backend), &args), AGL_OK);
        for (int64_t row = 0; row < ROWS; row++) {
            for (int64_t i = 0; i < width; i++) {
                double gate = (double)x[row * 2 * width + i], up = (double)x[row * 2 * width + width + i];
                double want = gate / (1 + exp(-gate)) * up;
                /* 4 ulp: exp, sum, quotient, product. Below 1e-34 the sigmoid flushes to 0. */
                test_close(variant->name, y[row * width + i], want, 4 * 0x1p-23 * fabs(want) + 1e-34);
            }
        }
        free(x), free(y);
    }
}

static void rope_store_one(const test_variant *variant, agl_backend *backend, test_random *random)
{
    enum { TOKENS = 6, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 16, PAIRS = 4, PAGE = 3, PAGES = 4,
           ROW = (HEADS + 2 * KV_HEADS) * HEAD_DIM, CACHE = PAGES * KV_HEADS * PAGE * HEAD_DIM };
    static const int64_t SLOTS[TOKENS] = {11, 0, 4, -1, 5, 8};
    static const int32_t AXIS[PAIRS] = {0, 1, 1, 2};
    static const agl_dtype DTYPES[] = {AGL_F32, AGL_BF16, AGL_F16};
    int32_t positions[3 * TOKENS];
    float inv_freq[PAIRS];
    for (int i = 0; i < 3 * TOKENS; i++) positions[i] = (int32_t)(test_random_u32(random) % 60000);
    for (int i = 0; i < PAIRS; i++) inv_freq[i] = powf(10000.0f, -(float)i / PAIRS);
    for (size_t d = 0; d < AGL_COUNT(DTYPES); d++) {
        float *qkv = test_floats(random, TOKENS * ROW, 5.0f), *before = test_alloc(TOKENS * ROW * 4);
        memcpy(before, qkv, TOKENS * ROW * sizeof *qkv);
        void *k = test_alloc(CACHE * 4), *v = test_alloc(CACHE * 4);
        agl_rope_store_args args = {.qkv = qkv, .positions = positions, .slots = SLOTS, .inv_freq = inv_freq,
                                    .axis = AXIS, .tokens = TOKENS, .heads = HEADS, .pairs = PAIRS,
                                    .kv = {k, v, DTYPES[d], PAGE, KV_HEADS, HEAD_DIM}};
        assert_int_equal(backend->ops->rope_store(test_stream(backend), &args), AGL_OK);
        double step = DTYPES[d] == AGL_F32 ? 0 : DTYPES[d] == AGL_BF16 ? 0x1p-8 : 0x1p-11;
        int stored = 0;
        for (int token = 0; token < TOKENS; token++) {
            for (int i = 0; i < ROW; i++) {
                int head = i / HEAD_DIM, dim = i % HEAD_DIM;
                double want = (double)before[token * ROW + i];
                if (head < HEADS + KV_HEADS && dim < 2 * PAIRS) {
                    float angle = (float)positions[AXIS[dim / 2] * TOKENS + token] * inv_freq[dim / 2];
                    double other = (double)before[token * ROW + (i ^ 1)];
                    want = want * cos((double)angle) + (dim % 2 ? other : -other) * sin((double)angle);
                }
                test_close(variant->name, qkv[token * ROW + i], want, 2e-6);
                if (head < HEADS || SLOTS[token] < 0) continue;
                int64_t kv_head = (head - HEADS) % KV_HEADS;
                int64_t at = ((SLOTS[token] / PAGE * KV_HEADS + kv_head) * PAGE + SLOTS[token] % PAGE) * HEAD_DIM;
                test_close(variant->name, (float)test_element(head < HEADS + KV_HEADS ? k : v, DTYPES[d], at + dim),
                           (double)qkv[token * ROW + i], step * fabs((double)qkv[token * ROW + i]));
                stored++;
            }
        }
        int nonzero = 0;
        for (int i = 0; i < CACHE; i++) nonzero += test_element(k, DTYPES[d], i) != 0;
        assert_int_equal(stored, 5 * 2 * KV_HEADS * HEAD_DIM);
        assert_true(nonzero <= 5 * KV_HEADS * HEAD_DIM); /* nothing else was written */
        free(qkv), free(before), free(k), free(v);
    }
}

static void rope_vision_one(const test_variant *variant, agl_backend *backend, test_random *random)
{
    enum { TOKENS = 7, HEADS = 3, HEAD_DIM = 24, WIDTH = HEADS * HEAD_DIM };
    int32_t places[2 * TOKENS];
    float inv_freq[HEAD_DIM / 4];
    for (int i = 0; i < 2 * TOKENS; i++) places[i] = (int32_t)(test_random_u32(random) % 200);
    for (int i = 0; i < HEAD_DIM / 4; i++) inv_freq[i] = powf(10000.0f, -(float)i / (HEAD_DIM / 4));
    float *qkv = test_floats(random, TOKENS * 3 * WIDTH, 5.0f), *before = test_alloc(TOKENS * 3 * WIDTH * 4);
    memcpy(before, qkv, TOKENS * 3 * WIDTH * sizeof *qkv);
    agl_rope_vision_args args = {.qkv = qkv, .rows_columns = places, .inv_freq = inv_freq, .tokens = TOKENS,
                                 .heads = HEADS, .head_dim = HEAD_DIM};
    assert_int_equal(backend->ops->rope_vision(test_stream(backend), &args), AGL_OK);
    for (int token = 0; token < TOKENS; token++) {
        for (int i = 0; i < 3 * WIDTH; i++) {
            const float *row = before + token * 3 * WIDTH;
            double want = (double)row[i];
            int dim = i % HEAD_DIM, pair = dim % (HEAD_DIM / 2);
            if (i < 2 * WIDTH) {
                bool is_row = pair < HEAD_DIM / 4, low = dim < HEAD_DIM / 2;
                float angle = (float)places[token * 2 + !is_row] * inv_freq[pair % (HEAD_DIM / 4)];
                double other = (double)row[low ? i + HEAD_DIM / 2 : i - HEAD_DIM / 2];
                want = want * cos((double)angle) + (low ? -other : other) * sin((double)angle);
            }
            test_close(variant->name, qkv[token * 3 * WIDTH + i], want, 2e-6);
        }
    }
    free(qkv), free(before);
}

static void embed_copies_rows(void **state) { (void)state, for_variants(embed_one); }
static void gather_copies_rows(void **state) { (void)state, for_variants(gather_one); }
static void rmsnorm_is_right(void **state) { (void)state, for_variants(rmsnorm_one); }
static void layernorm_is_right(void **state) { (void)state, for_variants(layernorm_one); }
static void swiglu_is_right(void **state) { (void)state, for_variants(swiglu_one); }
static void rope_store_is_right(void **state) { (void)state, for_variants(rope_store_one); }
static void rope_vision_is_right(void **state) { (void)state, for_variants(rope_vision_one); }

/* The same row alone and among others. */
static void rows_have_the_same_bits_in_any_batch(void **state)
{
    (void)state;
    enum { ROWS = 40, WIDTH = 1000 };
    for (const test_variant *variant = TEST_VARIANTS; variant->name != NULL; variant++) {
        if (!test_variant_runs(variant)) continue;
        agl_backend *backend = test_backend_create(variant, 2);
        agl_stream *stream = test_stream(backend);
        test_random random = {3};
        float *x = test_floats(&random, ROWS * 2 * WIDTH, 3.0f), *weight = test_floats(&random, WIDTH, 1.0f);
        float *y = test_alloc(ROWS * WIDTH * 4), single[WIDTH];
        agl_rmsnorm_args norm = {.x = x, .y = y, .weight = weight, .rows = ROWS, .hidden = WIDTH, .eps = 1e-5f};
        assert_int_equal(backend->ops->rmsnorm(stream, &norm), AGL_OK);
        for (int row = 0; row < ROWS; row++) {
            agl_rmsnorm_args one = {.x = x + row * WIDTH, .y = single, .weight = weight, .rows = 1,
                                    .hidden = WIDTH, .eps = 1e-5f};
            assert_int_equal(backend->ops->rmsnorm(stream, &one), AGL_OK);
            test_same_bits(variant->name, single, y + row * WIDTH, WIDTH);
        }
        agl_swiglu_args swiglu = {.x = x, .y = y, .rows = ROWS, .width = WIDTH};
        assert_int_equal(backend->ops->swiglu(stream, &swiglu), AGL_OK);
        for (int row = 0; row < ROWS; row++) {
            agl_swiglu_args one = {.x = x + row * 2 * WIDTH, .y = single, .rows = 1, .width = WIDTH};
            assert_int_equal(backend->ops->swiglu(stream, &one), AGL_OK);
            test_same_bits(variant->name, single, y + row * WIDTH, WIDTH);
        }
        backend->ops->destroy(backend);
        free(x), free(weight), free(y);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embed_copies_rows),   cmocka_unit_test(gather_copies_rows),
        cmocka_unit_test(rmsnorm_is_right),    cmocka_unit_test(layernorm_is_right),
        cmocka_unit_test(swiglu_is_right),     cmocka_unit_test(rope_store_is_right),
        cmocka_unit_test(rope_vision_is_right), cmocka_unit_test(rows_have_the_same_bits_in_any_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
