/* SPDX-License-Identifier: Apache-2.0
 *
 * y = x W^T + b on CUDA, against an F64 sum.
 *
 * Tolerance: as in check_linear.c, (in / 4 + 32) * 2^-24 of the sum of magnitudes, which holds
 * for every order of F32 sums and for tensor cores that cut instead of rounding; then half a
 * step of y's format.
 *
 * Bits: up to 8 rows, and wherever cuBLASLt is not asked, a row's result must not depend on
 * the other rows. Everywhere the same call must give the same bits, whatever was called before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/test_cuda.h"

/* What y holds before, and behind its last row afterwards. */
#define UNTOUCHED 0x5b
#define GUARD_BYTES 4096

static const agl_dtype DTYPES[] = {AGL_F32, AGL_BF16, AGL_F16};

typedef struct {
    int64_t part_rows[AGL_WEIGHT_PARTS_MAX];
    int64_t in, rows, x_stride;
    float x_scale, w_scale;
    bool y_f32;
} linear_case;

static const linear_case CASES[] = {
    /* parts            in     rows  stride  x scale  w scale  y_f32 */
    {{1},               1,     1,    1,      1,       1,       false}, /* nothing is aligned          */
    {{3},               5,     2,    7,      1,       1,       true},
    {{5, 1, 2},         33,    18,   40,     1,       0.1f,    false},
    {{16},              8,     1,    8,      1,       1,       false}, /* one tile, one piece of 8    */
    {{17},              72,    3,    80,     1,       0.1f,    false}, /* a tile of one row           */
    {{64, 8, 8},        64,    7,    64,     1,       0.1f,    false},
    {{24, 4, 4},        1024,  16,   1032,   6e4f,    0.5f,    true},  /* beyond 65504                */
    {{24, 4, 4},        1024,  24,   1024,   6e4f,    0.5f,    true},
    {{32, 8},           520,   1,    520,    1,       0.1f,    true},  /* 9 chunks: warp 0 has two    */
    {{37},              1176,  5,    1176,   1,       0.05f,   false}, /* patch embedding             */
    {{37},              1176,  40,   1176,   1,       0.05f,   false}, /* odd out: slices of 8 rows   */
    {{40},              1176,  40,   1176,   1,       0.05f,   false},
    {{21},              1028,  20,   1028,   1,       0.05f,   false}, /* in % 8 = 4: F32 is aligned  */
    {{40},              264,   21,   267,    1,       0.05f,   true},  /* only x is not aligned       */
    {{304},             1160,  10,   1160,   1,       0.05f,   false}, /* 19 tiles: several a block   */
    {{16},              13696, 9,    13696,  1,       0.05f,   true},
};

/* The model's, on a GPU only; every SAMPLE-th output is checked. */
static const linear_case LARGE_CASES[] = {
    {{4096, 256, 256},  4096,  1,    4096,   1,       0.05f,   false},
    {{4096, 256, 256},  4096,  512,  4096,   1,       0.05f,   false},
    {{4096},            4096,  16,   4608,   1,       0.05f,   true},
    {{4096},            4096,  333,  4096,   1,       0.05f,   true},
    {{13696, 13696},    4096,  8,    4096,   1,       0.05f,   false},
    {{13696, 13696},    4096,  64,   4096,   1,       0.05f,   false},
    {{4096},            13696, 16,   13696,  1,       0.05f,   true},
    {{4096},            13696, 1000, 13696,  1,       0.05f,   true},
    {{151552},          4096,  1,    4096,   1,       0.05f,   true},
    {{151552},          4096,  32,   4096,   1,       0.05f,   true},
};
#define LARGE_SAMPLE 61

typedef struct {
    linear_case shape;
    agl_weight_desc desc;
    agl_weight *weight;
    void *weight_data[AGL_WEIGHT_PARTS_MAX], *bias_data[AGL_WEIGHT_PARTS_MAX];
    float *x;                   /* [rows, x_stride] */
    void *x_device, *y_device;
    int64_t out;
    agl_dtype y_dtype;
} linear_data;

static bool is_16_bit(const test_cuda *t)
{
    return t->activation != AGL_F32;
}

static linear_data make_data(test_cuda *t, const linear_case *c)
{
    linear_data data = {.shape = *c, .desc = {.in = c->in, .dtype = t->activation, .bias_dtype = t->activation}};
    for (int i = 0; i < AGL_WEIGHT_PARTS_MAX && c->part_rows[i] > 0; i++) {
        int64_t rows = c->part_rows[i];
        data.weight_data[i] = test_elements(&t->random, t->activation, (size_t)(rows * c->in), c->w_scale);
        data.desc.parts[i].data = data.weight_data[i];
        data.desc.parts[i].rows = rows;
        if (i != 1) { /* one part without bias */
            data.bias_data[i] = test_elements(&t->random, t->activation, (size_t)rows, 1.0f);
            data.desc.parts[i].bias = data.bias_data[i];
        }
        data.desc.part_count = i + 1;
        data.out += rows;
    }
    agl_error err = {0};
    if (t->cuda->ops->weight_create(t->cuda, &data.weight, &data.desc, &err) != AGL_OK) {
        fail_msg("%s", err.message);
    }
    data.x = test_cuda_values(t, &data.x_device, t->activation, (size_t)(c->rows * c->x_stride), c->x_scale);
    data.y_dtype = c->y_f32 ? AGL_F32 : t->activation;
    size_t bytes = (size_t)(c->rows * data.out) * agl_dtype_bytes(data.y_dtype) + GUARD_BYTES;
    void *nothing = test_alloc(bytes);
    memset(nothing, UNTOUCHED, bytes);
    data.y_device = test_cuda_upload(t, nothing, bytes);
    free(nothing);
    return data;
}

static void free_data(test_cuda *t, linear_data *data)
{
    t->cuda->ops->weight_destroy(t->cuda, data->weight);
    for (int i = 0; i < AGL_WEIGHT_PARTS_MAX; i++) free(data->weight_data[i]), free(data->bias_data[i]);
    test_cuda_free(t, data->x_device), test_cuda_free(t, data->y_device);
    free(data->x);
}

/* Rows [first, first + rows) to the same rows of y. */
static void run_rows(test_cuda *t, const linear_data *data, int64_t first, int64_t rows)
{
    const linear_case *c = &data->shape;
    agl_linear_args args = {
        .x = (const char *)data->x_device + (size_t)(first * c->x_stride) * agl_dtype_bytes(t->activation),
        .y = (char *)data->y_device + (size_t)(first * data->out) * agl_dtype_bytes(data->y_dtype),
        .weight = data->weight, .rows = rows, .x_stride = c->x_stride, .y_f32 = c->y_f32,
    };
    assert_int_equal(t->cuda->ops->linear(t->cuda_stream, &args), AGL_OK);
}

/* y with the bytes behind it, free(). */
static void *download_y(test_cuda *t, const linear_data *data)
{
    size_t bytes = (size_t)(data->shape.rows * data->out) * agl_dtype_bytes(data->y_dtype);
    unsigned char *y = test_alloc(bytes + GUARD_BYTES);
    test_cuda_download(t, y, data->y_device, bytes + GUARD_BYTES);
    for (size_t i = 0; i < GUARD_BYTES; i++) assert_int_equal(y[bytes + i], UNTOUCHED);
    return y;
}

static double step_of(agl_dtype dtype, double value)
{
    if (dtype == AGL_F32) return 0x1p-24 * value;
    return dtype == AGL_BF16 ? 0x1p-8 * value : fmax(0x1p-11 * value, 0x1p-25);
}

/* W x + b of weight row r of a part, and how far off a sum in another order may be. */
static double product_of(const linear_data *data, int part, int64_t r, int64_t row, double *slack)
{
    const linear_case *c = &data->shape;
    const void *bias = data->desc.parts[part].bias;
    double sum = bias == NULL ? 0.0 : test_element(bias, data->desc.bias_dtype, r), size = fabs(sum);
    for (int64_t i = 0; i < c->in; i++) {
        double product = (double)data->x[row * c->x_stride + i] *
            test_element(data->weight_data[part], data->desc.dtype, r * c->in + i);
        sum += product, size += fabs(product);
    }
    *slack = ((double)c->in / 4 + 32) * 0x1p-24 * size;
    return sum;
}

static void check_y(const linear_data *data, const void *y, int64_t row_first, int64_t rows, int64_t sample,
                    const char *how)
{
    const linear_case *c = &data->shape;
    char what[128];
    for (int64_t row = row_first; row < row_first + rows; row++) {
        int64_t out = 0;
        for (int part = 0; part < data->desc.part_count; part++) {
            for (int64_t r = 0; r < data->desc.parts[part].rows; r++, out++) {
                if (out % sample != 0) continue;
                double slack, sum = product_of(data, part, r, row, &slack);
                snprintf(what, sizeof what, "%s %s, %lld x %lld, rows %lld: row %lld, output %lld",
                         agl_dtype_name(data->desc.dtype), how, (long long)data->out, (long long)c->in,
                         (long long)c->rows, (long long)row, (long long)out);
                slack += step_of(data->y_dtype, fabs(sum) + slack);
                test_close(what, (float)test_element(y, data->y_dtype, row * data->out + out), sum, slack);
            }
        }
    }
}

/* cuBLASLt computes it: its bits depend on the number of rows. */
static bool is_product(const test_cuda *t, const linear_data *data)
{
    const linear_case *c = &data->shape;
    int64_t unit = is_16_bit(t) ? 8 : 4, y_unit = data->y_dtype == AGL_F32 ? 4 : 8;
    return c->rows > 8 && c->in % unit == 0 && c->x_stride % unit == 0 && data->out % y_unit == 0;
}

static void check_case(test_cuda *t, const linear_case *c, int64_t sample)
{
    linear_data data = make_data(t, c);
    size_t bytes = (size_t)(c->rows * data.out) * agl_dtype_bytes(data.y_dtype);
    run_rows(t, &data, 0, c->rows);
    void *y = download_y(t, &data);
    check_y(&data, y, 0, c->rows, sample, "at once");

    /* Alone and in other company; then the whole once more. */
    int64_t split = c->rows / 3;
    if (split > 0) run_rows(t, &data, 0, split);
    run_rows(t, &data, split, c->rows - split);
    void *apart = download_y(t, &data);
    check_y(&data, apart, 0, c->rows, sample, "in two parts");
    if (!is_product(t, &data)) assert_memory_equal(apart, y, bytes);
    for (int64_t row = 0; row < c->rows && !is_product(t, &data); row++) run_rows(t, &data, row, 1);
    void *single = download_y(t, &data);
    if (!is_product(t, &data)) assert_memory_equal(single, y, bytes);
    run_rows(t, &data, 0, c->rows);
    void *again = download_y(t, &data);
    assert_memory_equal(again, y, bytes);
    free(y), free(apart), free(single), free(again);
    free_data(t, &data);
}

/* ---- SwiGLU behind it ---------------------------------------------------------- */

static const linear_case SWIGLU_CASES[] = {
    {{8, 8},            64,    1,    64,     1,       0.5f,    false}, /* one tile                    */
    {{13, 13},          72,    3,    72,     1,       0.5f,    false}, /* the last tile has 5 columns */
    {{24, 24},          520,   16,   520,    1,       0.2f,    false},
    {{24, 24},          520,   17,   520,    1,       0.2f,    false}, /* not fused                   */
    {{100, 100},        136,   9,    136,    1,       0.3f,    false},
    {{7, 7},            33,    2,    33,     1,       0.3f,    false}, /* nothing is aligned          */
};

static void run_swiglu(test_cuda *t, const linear_data *data, void *wide, int64_t first, int64_t rows)
{
    size_t bytes = agl_dtype_bytes(t->activation);
    agl_linear_swiglu_args args = {
        .x = (const char *)data->x_device + (size_t)(first * data->shape.in) * bytes,
        .y = (char *)data->y_device + (size_t)(first * data->out / 2) * bytes,
        .wide = wide, .weight = data->weight, .rows = rows};
    assert_int_equal(t->cuda->ops->linear_swiglu(t->cuda_stream, &args), AGL_OK);
}

static void check_swiglu(test_cuda *t, const linear_case *c)
{
    linear_data data = make_data(t, c);
    int64_t width = data.out / 2;
    size_t bytes = agl_dtype_bytes(t->activation), size = (size_t)(c->rows * width) * bytes;
    unsigned char *nothing = test_alloc((size_t)(c->rows * data.out) * bytes);
    void *wide = test_cuda_upload(t, nothing, (size_t)(c->rows * data.out) * bytes);
    free(nothing);
    run_swiglu(t, &data, wide, 0, c->rows);
    unsigned char *y = download_y(t, &data);
    for (size_t i = size; i < 2 * size; i++) assert_int_equal(y[i], UNTOUCHED);
    for (int64_t row = 0; row < c->rows; row++) {
        for (int64_t r = 0; r < width; r++) {
            double gate_slack, up_slack, gate = product_of(&data, 0, r, row, &gate_slack);
            double up = product_of(&data, 1, r, row, &up_slack);
            /* Where gate and up are written in between they are rounded. */
            gate_slack += step_of(t->activation, fabs(gate) + gate_slack);
            up_slack += step_of(t->activation, fabs(up) + up_slack);
            double silu = gate / (1.0 + exp(-gate)), want = silu * up;
            /* The slope of silu is at most 1.1; exp of F32 is off by 2 steps of F32. */
            double slack = 1.1 * gate_slack * (fabs(up) + up_slack) + fabs(silu) * up_slack;
            slack += 0x1p-20 * fabs(want) + 0x1p-126;
            slack += step_of(t->activation, fabs(want) + slack);
            char what[160];
            snprintf(what, sizeof what, "%s, swiglu of %lld x %lld, rows %lld: row %lld, output %lld",
                     agl_dtype_name(t->activation), (long long)data.out, (long long)c->in, (long long)c->rows,
                     (long long)row, (long long)r);
            test_close(what, (float)test_element(y, t->activation, row * width + r), want, slack);
        }
    }
    for (int64_t row = 0; row < c->rows && c->rows <= 8; row++) run_swiglu(t, &data, wide, row, 1);
    unsigned char *single = download_y(t, &data);
    if (c->rows <= 8) assert_memory_equal(single, y, size);
    free(y), free(single);
    test_cuda_free(t, wide);
    free_data(t, &data);
}

/* The workspace that prefill needs. */
static bool open_device(test_cuda *t, agl_dtype activation)
{
    if (!test_cuda_open(t, activation)) return false;
    agl_backend_limits limits = {.rows_max = 64, .sequences_max = 4, .logit_rows_max = 4, .patches_max = 64,
                                 .context_max = 64, .heads = 4, .kv_heads = 2, .head_dim = 32,
                                 .vision_heads = 2, .vocab = 256};
    assert_int_equal(t->cuda->ops->workspace_reserve(t->cuda, &limits, NULL), AGL_OK);
    return true;
}

static void linear_is_right_and_independent_of_the_batch(void **state)
{
    (void)state;
    for (size_t d = 0; d < AGL_COUNT(DTYPES); d++) {
        test_cuda t;
        if (!open_device(&t, DTYPES[d])) return;
        for (size_t i = 0; i < AGL_COUNT(CASES); i++) check_case(&t, &CASES[i], 1);
        for (size_t i = 0; i < AGL_COUNT(LARGE_CASES) && test_cuda_is_real(); i++) {
            check_case(&t, &LARGE_CASES[i], LARGE_SAMPLE);
        }
        test_cuda_close(&t);
    }
}

static void swiglu_is_right_and_independent_of_the_batch(void **state)
{
    (void)state;
    for (size_t d = 0; d < AGL_COUNT(DTYPES); d++) {
        for (int processors = 0; processors < 2; processors++) { /* 1: products of one row may wait */
            test_cuda t;
            test_cuda_pretend_processors(processors);
            bool opened = open_device(&t, DTYPES[d]);
            test_cuda_pretend_processors(0);
            if (!opened) return;
            for (size_t i = 0; i < AGL_COUNT(SWIGLU_CASES); i++) check_swiglu(&t, &SWIGLU_CASES[i]);
            test_cuda_close(&t);
        }
    }
}

/* One weight, every number of rows around the borders of the table. */
static void every_number_of_rows_is_right(void **state)
{
    (void)state;
    static const linear_case SHAPE = {{24, 8}, 136, 33, 144, 1, 0.1f, false};
    for (size_t d = 0; d < AGL_COUNT(DTYPES); d++) {
        test_cuda t;
        if (!open_device(&t, DTYPES[d])) return;
        linear_data data = make_data(&t, &SHAPE);
        for (int64_t rows = 1; rows <= SHAPE.rows; rows++) {
            /* The last ones, so that what lies before must stay. */
            run_rows(&t, &data, SHAPE.rows - rows, rows);
            void *y = download_y(&t, &data);
            check_y(&data, y, SHAPE.rows - rows, rows, 1, "the last rows");
            free(y);
        }
        free_data(&t, &data);
        test_cuda_close(&t);
    }
}

/* A row of NaN must not leak into its neighbours, nor a row of the weight. */
static void rows_do_not_leak(void **state)
{
    (void)state;
    static const linear_case SHAPES[] = {
        {{20}, 40, 8, 40, 1, 1, true}, {{20}, 40, 14, 40, 1, 1, true}, {{20}, 37, 6, 37, 1, 1, true},
    };
    for (size_t s = 0; s < AGL_COUNT(SHAPES); s++) {
        test_cuda t;
        if (!open_device(&t, AGL_BF16)) return;
        linear_case shape = SHAPES[s];
        linear_data data = make_data(&t, &shape);
        uint16_t *w = data.weight_data[0], *x = test_cuda_pack(AGL_BF16, data.x, (size_t)(shape.rows * shape.in));
        for (int64_t i = 0; i < shape.in; i++) w[17 * shape.in + i] = x[3 * shape.in + i] = 0x7fc0; /* NaN */
        t.cuda->ops->weight_destroy(t.cuda, data.weight);
        assert_int_equal(t.cuda->ops->weight_create(t.cuda, &data.weight, &data.desc, NULL), AGL_OK);
        test_cuda_free(&t, data.x_device);
        data.x_device = test_cuda_upload(&t, x, (size_t)(shape.rows * shape.in) * 2);
        run_rows(&t, &data, 0, shape.rows);
        float *y = download_y(&t, &data);
        for (int64_t row = 0; row < shape.rows; row++) {
            for (int64_t out = 0; out < data.out; out++) {
                assert_int_equal(isnan(y[row * data.out + out]) != 0, row == 3 || out == 17);
            }
        }
        free(x), free(y);
        free_data(&t, &data);
        test_cuda_close(&t);
    }
}

/* More numbers of rows than the table of algorithms holds; none may disturb another. */
static void many_shapes_come_and_go(void **state)
{
    (void)state;
    static const linear_case SHAPE = {{8}, 16, 700, 16, 1, 1, false};
    test_cuda t;
    if (!open_device(&t, AGL_BF16)) return;
    linear_data data = make_data(&t, &SHAPE);
    size_t bytes = (size_t)(17 * data.out) * 2;
    run_rows(&t, &data, 0, 17);
    void *first = download_y(&t, &data);
    for (int64_t rows = 17; rows <= SHAPE.rows; rows++) run_rows(&t, &data, 0, rows);
    void *y = download_y(&t, &data);
    check_y(&data, y, 0, SHAPE.rows, 1, "after many shapes");
    run_rows(&t, &data, 0, 17);
    void *last = download_y(&t, &data);
    assert_memory_equal(last, first, bytes);
    free(first), free(y), free(last);
    free_data(&t, &data);
    test_cuda_close(&t);
}

static void recorded_products_are_the_same(void **state)
{
    (void)state;
    static const linear_case SHAPES[] = {{{40}, 72, 4, 72, 1, 0.1f, false}, {{40}, 72, 20, 72, 1, 0.1f, true},
                                         {{39}, 71, 4, 71, 1, 0.1f, false}};
    for (size_t s = 0; s < AGL_COUNT(SHAPES); s++) {
        test_cuda t;
        if (!open_device(&t, AGL_BF16)) return;
        linear_data data = make_data(&t, &SHAPES[s]);
        size_t bytes = (size_t)(SHAPES[s].rows * data.out) * agl_dtype_bytes(data.y_dtype);
        run_rows(&t, &data, 0, SHAPES[s].rows);
        void *want = download_y(&t, &data);
        unsigned char *junk = test_alloc(bytes + GUARD_BYTES);
        memset(junk, UNTOUCHED, bytes + GUARD_BYTES);
        assert_int_equal(t.cuda->ops->upload(t.cuda_stream, data.y_device, junk, bytes), AGL_OK);
        agl_graph *graph;
        assert_int_equal(t.cuda->ops->graph_begin(t.cuda_stream), AGL_OK);
        run_rows(&t, &data, 0, SHAPES[s].rows);
        assert_int_equal(t.cuda->ops->graph_end(t.cuda_stream, &graph, NULL), AGL_OK);
        void *before = download_y(&t, &data);
        assert_memory_equal(before, junk, bytes);
        assert_int_equal(t.cuda->ops->graph_launch(t.cuda_stream, graph), AGL_OK);
        void *after = download_y(&t, &data);
        assert_memory_equal(after, want, bytes);
        t.cuda->ops->graph_destroy(t.cuda, graph);
        free(want), free(junk), free(before), free(after);
        free_data(&t, &data);
        test_cuda_close(&t);
    }
}

/* ---- bench ----------------------------------------------------------------- */

#define BENCH_COPIES_MAX 64

typedef struct {
    test_cuda *t;
    agl_weight *weights[BENCH_COPIES_MAX];
    int64_t copies, rows, in;
    void *x, *y;
    bool y_f32;
} linear_bench;

static void bench_wait(test_cuda *t)
{
    agl_error err = {0};
    if (t->cuda->ops->stream_wait(t->cuda_stream, &err) != AGL_OK) fail_msg("%s", err.message);
}

static void bench_once(void *context)
{
    linear_bench *bench = context;
    for (int64_t i = 0; i < bench->copies; i++) {
        agl_linear_args args = {.x = bench->x, .y = bench->y, .weight = bench->weights[i], .rows = bench->rows,
                                .x_stride = bench->in, .y_f32 = bench->y_f32};
        assert_int_equal(bench->t->cuda->ops->linear(bench->t->cuda_stream, &args), AGL_OK);
    }
    bench_wait(bench->t);
}

typedef struct {
    test_cuda *t;
    void *out, *in;
    size_t bytes;
} copy_bench;

static void copy_once(void *context)
{
    copy_bench *copy = context;
    for (int i = 0; i < 8; i++) {
        assert_int_equal(copy->t->cuda->ops->copy(copy->t->cuda_stream, copy->out, copy->in, copy->bytes), AGL_OK);
    }
    bench_wait(copy->t);
}

static double copy_gb_s(test_cuda *t)
{
    copy_bench copy = {.t = t, .bytes = (size_t)1 << 30};
    copy.out = test_cuda_upload(t, NULL, copy.bytes), copy.in = test_cuda_upload(t, NULL, copy.bytes);
    double seconds = test_best_seconds(copy_once, &copy, 5) / 8;
    test_cuda_free(t, copy.out), test_cuda_free(t, copy.in);
    return 2.0 * (double)copy.bytes / seconds / 1e9;
}

typedef struct {
    const char *name;
    int64_t out, in;
    bool bias, y_f32;
    int per_token;              /* times it runs for one token of the text model */
} bench_shape;

static const bench_shape BENCH_SHAPES[] = {
    {"qkv", 4608, 4096, true, false, 40},       {"o", 4096, 4096, false, true, 40},
    {"gate_up", 27392, 4096, false, false, 40}, {"down", 4096, 13696, false, true, 40},
    {"lm_head", 151552, 4096, false, true, 1},
};
static const int64_t BENCH_ROWS[] = {1, 2, 4, 8, 9, 16, 32, 64, 128, 208, 224, 256, 1024, 4096};

/* Enough copies of the weight that none is still in the L2, launched one behind the other. */
static void bench_one(test_cuda *t, const bench_shape *shape, double limit_gb_s, double *token_seconds)
{
    linear_bench bench = {.t = t, .in = shape->in, .y_f32 = shape->y_f32};
    size_t bytes = (size_t)(shape->out * shape->in) * agl_dtype_bytes(t->activation);
    bench.copies = (int64_t)(((size_t)1 << 30) / bytes + 1);
    if (bench.copies > BENCH_COPIES_MAX) bench.copies = BENCH_COPIES_MAX;
    void *data = test_elements(&t->random, t->activation, (size_t)(shape->out * shape->in), 0.05f);
    void *bias = test_elements(&t->random, t->activation, (size_t)shape->out, 1.0f);
    agl_weight_desc desc = {.parts = {{.data = data, .bias = shape->bias ? bias : NULL, .rows = shape->out}},
                            .part_count = 1, .in = shape->in, .dtype = t->activation, .bias_dtype = t->activation};
    for (int64_t i = 0; i < bench.copies; i++) {
        assert_int_equal(t->cuda->ops->weight_create(t->cuda, &bench.weights[i], &desc, NULL), AGL_OK);
    }
    for (size_t i = 0; i < AGL_COUNT(BENCH_ROWS); i++) {
        bench.rows = BENCH_ROWS[i];
        if (shape->per_token == 1 && bench.rows > 256) continue;
        free(test_cuda_values(t, &bench.x, t->activation, (size_t)(bench.rows * shape->in), 1.0f));
        bench.y = test_cuda_upload(t, NULL, (size_t)(bench.rows * shape->out) * 4);
        double seconds = test_best_seconds(bench_once, &bench, 10) / (double)bench.copies;
        double gb_s = (double)bytes / seconds / 1e9, tflop_s = 2e-12 * (double)(shape->out * shape->in * bench.rows) / seconds;
        printf("%-8s %6lld x %-6lld rows %4lld  %9.2f us  %7.1f GB/s (%3.0f %% of copy)  %6.1f TFLOP/s\n", shape->name,
               (long long)shape->out, (long long)shape->in, (long long)bench.rows, seconds * 1e6, gb_s,
               100 * gb_s / limit_gb_s, tflop_s);
        if (bench.rows == 1) *token_seconds += shape->per_token * seconds;
        test_cuda_free(t, bench.x), test_cuda_free(t, bench.y);
    }
    for (int64_t i = 0; i < bench.copies; i++) t->cuda->ops->weight_destroy(t->cuda, bench.weights[i]);
    free(data), free(bias);
}

static int bench_all(void)
{
    test_cuda t;
    if (!open_device(&t, AGL_BF16)) return 0;
    double limit = copy_gb_s(&t), token_seconds = 0;
    printf("%s: copy %.0f GB/s\n", t.cuda->description, limit);
    for (size_t i = 0; i < AGL_COUNT(BENCH_SHAPES); i++) bench_one(&t, &BENCH_SHAPES[i], limit, &token_seconds);
    printf("products of one token: %.3f ms\n", token_seconds * 1e3);
    test_cuda_close(&t);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench_all();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_is_right_and_independent_of_the_batch),
        cmocka_unit_test(swiglu_is_right_and_independent_of_the_batch),
        cmocka_unit_test(every_number_of_rows_is_right),
        cmocka_unit_test(rows_do_not_leak),
        cmocka_unit_test(many_shapes_come_and_go),
        cmocka_unit_test(recorded_products_are_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
