/* SPDX-License-Identifier: Apache-2.0
 *
 * y = x W^T + b of every variant, against an F64 sum.
 *
 * Tolerance: a sum of `in` products kept in L lanes of F32 has an error of at most about
 * (in / L + 32) * 2^-24 of the sum of magnitudes; L is at least 4. That bound holds for
 * every order of the lanes, so it accepts all variants and nothing worse.
 *
 * Bits: a row's result must not depend on the other rows, the threads or the row stride. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/test_kernel.h"
#include "support/test_limits.h"

typedef struct {
    int64_t part_rows[AGL_WEIGHT_PARTS_MAX];
    int64_t in, rows, x_stride;
    float x_scale;
} linear_case;

static const linear_case CASES[] = {
    /* parts                in     rows  stride  scale           */
    {{1},                   1,     1,    1,      1.0f},
    {{3},                   5,     2,    7,      1.0f},
    {{5, 1, 2},             33,    3,    40,     1.0f},
    {{64, 8, 8},            64,    7,    64,     1.0f},  /* q, k, v with a ragged tile */
    {{130, 127},            96,    13,   200,    1.0f},
    {{37},                  1176,  5,    1176,   1.0f},  /* patch embedding: in % 32 = 24 */
    {{66},                  4100,  25,   4100,   1.0f},  /* a short last block of columns */
    {{24, 4, 4},            1024,  50,   1024,   2e6f},  /* beyond F16 and far beyond 65504 */
    {{19},                  13696, 9,    13696,  1.0f},
    {{70},                  2500,  400,  2500,   1.0f},  /* more rows than one pass holds */
};

static const agl_dtype DTYPES[] = {AGL_F32, AGL_BF16, AGL_F16};

typedef struct {
    agl_weight_desc desc;
    void *weight_data[AGL_WEIGHT_PARTS_MAX], *bias_data[AGL_WEIGHT_PARTS_MAX];
    float *x;
    int64_t out;
} linear_data;

static linear_data make_data(const linear_case *c, agl_dtype dtype)
{
    test_random random = {(uint64_t)c->in * 31 + (uint64_t)dtype};
    linear_data data = {.desc = {.in = c->in, .dtype = dtype, .bias_dtype = dtype}};
    for (int i = 0; i < AGL_WEIGHT_PARTS_MAX && c->part_rows[i] > 0; i++) {
        int64_t rows = c->part_rows[i];
        data.weight_data[i] = test_elements(&random, dtype, (size_t)(rows * c->in), 0.05f);
        data.desc.parts[i].data = data.weight_data[i];
        data.desc.parts[i].rows = rows;
        if (i != 1) { /* one part without bias */
            data.bias_data[i] = test_elements(&random, dtype, (size_t)rows, 1.0f);
            data.desc.parts[i].bias = data.bias_data[i];
        }
        data.desc.part_count = i + 1;
        data.out += rows;
    }
    data.x = test_floats(&random, (size_t)(c->rows * c->x_stride), c->x_scale);
    return data;
}

static void free_data(linear_data *data)
{
    for (int i = 0; i < AGL_WEIGHT_PARTS_MAX; i++) free(data->weight_data[i]), free(data->bias_data[i]);
    free(data->x);
}

static void reference(double *want, double *magnitude, const linear_data *data, const linear_case *c)
{
    for (int64_t row = 0; row < c->rows; row++) {
        int64_t out = 0;
        for (int part = 0; part < data->desc.part_count; part++) {
            for (int64_t r = 0; r < data->desc.parts[part].rows; r++, out++) {
                const void *bias = data->desc.parts[part].bias;
                double sum = bias == NULL ? 0.0 : test_element(bias, data->desc.bias_dtype, r);
                double size = fabs(sum);
                for (int64_t i = 0; i < c->in; i++) {
                    double product = (double)data->x[row * c->x_stride + i] *
                        test_element(data->desc.parts[part].data, data->desc.dtype, r * c->in + i);
                    sum += product;
                    size += fabs(product);
                }
                want[row * data->out + out] = sum;
                magnitude[row * data->out + out] = size;
            }
        }
    }
}

static void run_linear(agl_backend *backend, float *y, const agl_weight *weight, const float *x,
                       int64_t rows, int64_t x_stride)
{
    agl_linear_args args = {.x = x, .y = y, .weight = weight, .rows = rows, .x_stride = x_stride};
    assert_int_equal(backend->ops->linear(test_stream(backend), &args), AGL_OK);
}

static void check_case(const test_variant *variant, const linear_case *c, agl_dtype dtype)
{
    linear_data data = make_data(c, dtype);
    size_t count = (size_t)(c->rows * data.out);
    double *want = test_alloc(count * sizeof *want), *magnitude = test_alloc(count * sizeof *want);
    float *y = test_alloc(count * sizeof *y), *single = test_alloc(count * sizeof *y);
    reference(want, magnitude, &data, c);
    for (uint32_t threads = 1; threads <= 3; threads++) {
        agl_backend *backend = test_backend_create(variant, threads);
        agl_weight *weight;
        assert_int_equal(backend->ops->weight_create(backend, &weight, &data.desc, NULL), AGL_OK);
        assert_int_equal(agl_weight_out(weight), data.out);
        assert_int_equal(agl_weight_in(weight), c->in);
        run_linear(backend, y, weight, data.x, c->rows, c->x_stride);
        double bound = ((double)c->in / 4 + 32) * 0x1p-24;
        for (size_t i = 0; i < count; i++) test_close(variant->name, y[i], want[i], bound * magnitude[i]);
        if (threads == 1) {
            for (int64_t row = 0; row < c->rows; row++) {
                run_linear(backend, single + row * data.out, weight, data.x + row * c->x_stride, 1,
                           c->x_stride);
            }
        }
        test_same_bits(variant->name, y, single, count);
        backend->ops->weight_destroy(backend, weight);
        backend->ops->destroy(backend);
    }
    free(want), free(magnitude), free(y), free(single);
    free_data(&data);
}

static void linear_is_right_and_independent_of_the_batch(void **state)
{
    (void)state;
    for (const test_variant *variant = TEST_VARIANTS; variant->name != NULL; variant++) {
        if (!test_variant_runs(variant)) continue;
        for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
            for (size_t d = 0; d < AGL_COUNT(DTYPES); d++) check_case(variant, &CASES[i], DTYPES[d]);
        }
    }
}

/* A row of Inf or NaN must not leak into its neighbours, nor weights beyond a row's end. */
static void rows_do_not_leak(void **state)
{
    (void)state;
    enum { IN = 37, OUT = 9, ROWS = 8 };
    for (const test_variant *variant = TEST_VARIANTS; variant->name != NULL; variant++) {
        if (!test_variant_runs(variant)) continue;
        test_random random = {5};
        uint16_t *w = test_elements(&random, AGL_BF16, OUT * IN, 1.0f);
        float *x = test_floats(&random, ROWS * IN, 1.0f);
        for (int i = 0; i < IN; i++) x[3 * IN + i] = NAN;
        for (int i = 0; i < IN; i++) w[4 * IN + i] = 0x7fc0; /* NaN */
        float y[ROWS * OUT];
        agl_backend *backend = test_backend_create(variant, 2);
        agl_weight *weight;
        agl_weight_desc desc = {.parts = {{.data = w, .rows = OUT}}, .part_count = 1, .in = IN,
                                .dtype = AGL_BF16};
        assert_int_equal(backend->ops->weight_create(backend, &weight, &desc, NULL), AGL_OK);
        run_linear(backend, y, weight, x, ROWS, IN);
        for (int row = 0; row < ROWS; row++) {
            for (int out = 0; out < OUT; out++) {
                assert_int_equal(isnan(y[row * OUT + out]) != 0, row == 3 || out == 4);
            }
        }
        backend->ops->weight_destroy(backend, weight);
        backend->ops->destroy(backend);
        free(w), free(x);
    }
}

/* ---- bench ----------------------------------------------------------------- */

#define BENCH_COPIES_MAX 16

typedef struct {
    agl_backend *backend;
    agl_weight *weights[BENCH_COPIES_MAX];
    int64_t copies, rows;
    float *x, *y;
} linear_bench;

static void bench_once(void *context)
{
    linear_bench *bench = context;
    for (int64_t i = 0; i < bench->copies; i++) {
        run_linear(bench->backend, bench->y, bench->weights[i], bench->x, bench->rows,
                   agl_weight_in(bench->weights[i]));
    }
}

/* Copies of the weights, used in turn: 256 MiB and more, so that none is still in a cache. */
static void bench_shape(agl_backend *backend, int64_t out, int64_t in, agl_dtype dtype,
                        const int64_t *row_counts, size_t count, test_limits limits)
{
    linear_bench bench = {.backend = backend};
    test_random random = {1};
    size_t bytes = (size_t)(out * in) * agl_dtype_bytes(dtype);
    bench.copies = (int64_t)(((size_t)256 << 20) / bytes + 1);
    if (bench.copies > BENCH_COPIES_MAX) bench.copies = BENCH_COPIES_MAX;
    void *data;
    assert_int_equal(backend->ops->alloc(backend, &data, bytes * (size_t)bench.copies,
                                         AGL_MEMORY_WEIGHTS, NULL), AGL_OK);
    for (int64_t i = 0; i < out * in; i++) {
        float value = test_random_f32(&random, 0.05f);
        if (dtype == AGL_F32) ((float *)data)[i] = value;
        else ((uint16_t *)data)[i] = dtype == AGL_BF16 ? agl_f32_to_bf16(value) : agl_f32_to_f16(value);
    }
    for (int64_t i = 0; i < bench.copies; i++) {
        char *copy = (char *)data + (size_t)i * bytes;
        if (i > 0) memcpy(copy, data, bytes);
        agl_weight_desc desc = {.parts = {{.data = copy, .rows = out}}, .part_count = 1, .in = in, .dtype = dtype};
        assert_int_equal(backend->ops->weight_create(backend, &bench.weights[i], &desc, NULL), AGL_OK);
    }
    for (size_t i = 0; i < count; i++) {
        bench.rows = row_counts[i];
        bench.x = test_floats(&random, (size_t)(bench.rows * in), 1.0f);
        bench.y = test_alloc((size_t)(bench.rows * out) * sizeof(float));
        double seconds = test_best_seconds(bench_once, &bench, bench.rows < 16 ? 8 : 2) / (double)bench.copies;
        double gb_s = (double)bytes / seconds / 1e9;
        double gflop_s = 2.0 * (double)(out * in * bench.rows) / seconds / 1e9;
        printf("%-8s %6lld x %-6lld rows %4lld  %9.3f ms  %6.1f GB/s (%3.0f %%)  %7.1f GFLOP/s (%3.0f %%)\n",
               agl_dtype_name(dtype), (long long)out, (long long)in, (long long)bench.rows,
               seconds * 1e3, gb_s, 100 * gb_s / limits.read_gb_s, gflop_s,
               100 * gflop_s / limits.fma_gflop_s);
        free(bench.x), free(bench.y);
    }
    for (int64_t i = 0; i < bench.copies; i++) backend->ops->weight_destroy(backend, bench.weights[i]);
    backend->ops->free(backend, data);
}

/* Other work comes and goes: the best rates seen so far are the machine's limits. */
static void raise_limits(test_limits *limits, uint32_t threads)
{
    test_limits now = test_limits_measure(threads);
    if (now.read_gb_s > limits->read_gb_s) limits->read_gb_s = now.read_gb_s;
    if (now.fma_gflop_s > limits->fma_gflop_s) limits->fma_gflop_s = now.fma_gflop_s;
    printf("threads %u: read %.1f GB/s, FMA %.1f GFLOP/s\n", threads, limits->read_gb_s, limits->fma_gflop_s);
}

static int bench_all(const char *variant_name, uint32_t threads)
{
    static const int64_t ROWS[] = {1, 4, 8, 64, 256};
    static const int64_t SHAPES[][2] = {{4608, 4096}, {4096, 4096}, {27392, 4096}, {4096, 13696}};
    test_limits limits = {0};
    for (const test_variant *variant = TEST_VARIANTS; variant->name != NULL; variant++) {
        if (strcmp(variant->name, variant_name) != 0 || !test_variant_runs(variant)) continue;
        agl_backend *backend = test_backend_create(variant, threads);
        printf("%s\n", backend->description);
        for (size_t i = 0; i < AGL_COUNT(SHAPES); i++) {
            raise_limits(&limits, threads);
            bench_shape(backend, SHAPES[i][0], SHAPES[i][1], AGL_BF16, ROWS, AGL_COUNT(ROWS), limits);
        }
        bench_shape(backend, 4096, 4096, AGL_F16, ROWS, AGL_COUNT(ROWS), limits);
        bench_shape(backend, 4096, 4096, AGL_F32, ROWS, AGL_COUNT(ROWS), limits);
        backend->ops->destroy(backend);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        return bench_all(argc > 2 ? argv[2] : "avx512", argc > 3 ? (uint32_t)atoi(argv[3]) : 2);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_is_right_and_independent_of_the_batch),
        cmocka_unit_test(rows_do_not_leak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
