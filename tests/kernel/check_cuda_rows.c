/* SPDX-License-Identifier: Apache-2.0
 *
 * Row-wise operations of the CUDA backend against portable C, for the three activation
 * formats: embed (and the conversion of weights), gather, rmsnorm, layernorm, swiglu, both
 * rotations with the write into KV pages, resize, patchify, position_embed.
 *
 * Both backends get the same values: arrays of activations are rounded first. Tolerance: half
 * a step of the activation format, for the one rounding at the store, and beside it what F32
 * sums in another order, FMA and another sine may differ by, stated at each check. Copies,
 * resized pictures and patches are compared to the bit. Sixteen values behind every array must
 * stay as they were.
 *
 *   check_cuda_rows           the comparison
 *   check_cuda_rows --bench   microseconds and GB/s of the model's shapes in BF16 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "media/image_resize.h"
#include "support/test_cuda.h"
#include "support/test_kernel.h"

#define GUARD 16            /* values behind an array */

static const agl_dtype DTYPES[] = {AGL_F32, AGL_BF16, AGL_F16};

/* ---- one array on both backends ---------------------------------------------- */

typedef struct {
    float *host;            /* [count + GUARD]: what the CPU computes on */
    void *device;           /* the same in `dtype`                       */
    size_t count;
    agl_dtype dtype;
} twin;

static twin twin_random(test_cuda *t, agl_dtype dtype, size_t count, float scale)
{
    twin made = {.count = count, .dtype = dtype};
    made.host = test_cuda_values(t, &made.device, dtype, count + GUARD, scale);
    return made;
}

static void twin_free(test_cuda *t, twin *array)
{
    test_cuda_free(t, array->device);
    free(array->host);
}

static void *twin_fetch(test_cuda *t, const twin *array)
{
    size_t bytes = array->count * agl_dtype_bytes(array->dtype);
    void *data = test_alloc(bytes);
    test_cuda_download(t, data, array->device, bytes);
    return data;
}

/* Both zero: to the bit. The guard always. */
static void twin_check(test_cuda *t, const twin *array, const char *what, double relative, double absolute)
{
    const char *behind = (const char *)array->device + array->count * agl_dtype_bytes(array->dtype);
    test_cuda_compare(t, what, array->device, array->dtype, array->host, array->count, relative, absolute);
    test_cuda_compare(t, "values behind the array", behind, array->dtype, array->host + array->count, GUARD,
                      0, 0);
}

#define RUN(t, op, cpu_args, cuda_args)                                                        \
    do {                                                                                       \
        assert_int_equal((t)->cpu->ops->op((t)->cpu_stream, &(cpu_args)), AGL_OK);             \
        assert_int_equal((t)->cuda->ops->op((t)->cuda_stream, &(cuda_args)), AGL_OK);          \
    } while (0)

typedef void (*check_fn)(test_cuda *t);

static void for_dtypes(check_fn fn)
{
    for (size_t d = 0; d < AGL_COUNT(DTYPES); d++) {
        test_cuda t;
        if (!test_cuda_open(&t, DTYPES[d])) skip();
        fn(&t);
        test_cuda_close(&t);
    }
}

/* ---- embed, gather --------------------------------------------------------------- */

/* Weights of every format become activations of every format; beyond 65504 F16 saturates.
 * Odd row lengths put the second part at an odd address. */
static void embed_one(test_cuda *t)
{
    enum { VOCAB = 11, FIRST = 6, TOKENS = 9, VISUALS = 3 };
    static const int64_t HIDDEN[] = {1, 37, 64, 4096};
    static const int32_t IDS[TOKENS] = {0, 10, 3, 3, 7, 1, 2, 9, 5};
    static const int32_t VISUAL[TOKENS] = {-1, -1, 1, 0, -1, -1, 2, -1, -1};
    void *ids = test_cuda_upload(t, IDS, sizeof IDS), *visual_rows = test_cuda_upload(t, VISUAL, sizeof VISUAL);
    for (size_t h = 0; h < AGL_COUNT(HIDDEN); h++) {
        int64_t hidden = HIDDEN[h];
        for (size_t d = 0; d < AGL_COUNT(DTYPES); d++) {
            size_t count = (size_t)(VOCAB * hidden);
            float *table = test_floats(&t->random, count, DTYPES[d] == AGL_F16 ? 6e4f : 1e5f);
            for (size_t i = 0; i < count; i++) table[i] = test_cuda_round(DTYPES[d], table[i]);
            char *given = test_cuda_pack(DTYPES[d], table, count);
            void *held = test_cuda_pack(t->activation, table, count); /* what the device makes of it */
            agl_weight_desc desc = {
                .parts = {{.data = given, .rows = FIRST},
                          {.data = given + (size_t)(FIRST * hidden) * agl_dtype_bytes(DTYPES[d]),
                           .rows = VOCAB - FIRST}},
                .part_count = 2, .in = hidden, .dtype = DTYPES[d]};
            agl_weight_desc whole = {.parts = {{.data = held, .rows = VOCAB}}, .part_count = 1,
                                     .in = hidden, .dtype = t->activation};
            agl_weight *cuda_table, *cpu_table;
            assert_int_equal(t->cuda->ops->weight_create(t->cuda, &cuda_table, &desc, NULL), AGL_OK);
            assert_int_equal(t->cpu->ops->weight_create(t->cpu, &cpu_table, &whole, NULL), AGL_OK);
            for (int with_visual = 0; with_visual < 2; with_visual++) {
                twin out = twin_random(t, AGL_F32, (size_t)(TOKENS * hidden), 1.0f);
                twin visual = twin_random(t, t->activation, (size_t)(VISUALS * hidden), 1.0f);
                agl_embed_args cpu = {.out = out.host, .table = cpu_table, .ids = IDS, .tokens = TOKENS,
                                      .hidden = hidden, .visual = with_visual ? visual.host : NULL,
                                      .visual_rows = with_visual ? VISUAL : NULL};
                agl_embed_args cuda = {.out = out.device, .table = cuda_table, .ids = ids, .tokens = TOKENS,
                                       .hidden = hidden, .visual = with_visual ? visual.device : NULL,
                                       .visual_rows = with_visual ? visual_rows : NULL};
                RUN(t, embed, cpu, cuda);
                twin_check(t, &out, "embed", 0, 0);
                twin_free(t, &out), twin_free(t, &visual);
            }
            t->cuda->ops->weight_destroy(t->cuda, cuda_table);
            t->cpu->ops->weight_destroy(t->cpu, cpu_table);
            free(table), free(given), free(held);
        }
    }
    test_cuda_free(t, ids), test_cuda_free(t, visual_rows);
}

/* Rows of an odd number of words, of whole vectors, and more rows than a grid is high. */
static void gather_one(test_cuda *t)
{
    static const struct { int64_t words, count; } CASES[] = {
        {1, 4}, {5, 7}, {12, 3}, {4096, 5}, {1, 65537},
    };
    enum { ROWS = 9 };
    if (t->activation != AGL_F32) return; /* bytes in, bytes out */
    for (size_t c = 0; c < AGL_COUNT(CASES); c++) {
        int64_t words = CASES[c].words, count = CASES[c].count;
        int32_t *rows = test_alloc((size_t)count * sizeof *rows);
        for (int64_t i = 0; i < count; i++) rows[i] = (int32_t)(test_random_u32(&t->random) % ROWS);
        void *device_rows = test_cuda_upload(t, rows, (size_t)count * sizeof *rows);
        twin x = twin_random(t, AGL_F32, (size_t)(ROWS * words), 1.0f);
        twin out = twin_random(t, AGL_F32, (size_t)(count * words), 1.0f);
        agl_gather_args cpu = {.x = x.host, .out = out.host, .rows = rows, .count = count,
                               .row_bytes = words * 4};
        agl_gather_args cuda = {.x = x.device, .out = out.device, .rows = device_rows, .count = count,
                                .row_bytes = words * 4};
        RUN(t, gather, cpu, cuda);
        twin_check(t, &out, "gather", 0, 0);
        twin_free(t, &x), twin_free(t, &out);
        test_cuda_free(t, device_rows), free(rows);
    }
}

/* ---- norms ------------------------------------------------------------------------- */

typedef struct {
    int64_t rows, hidden;
    float delta_scale, weight_scale;
    bool delta, delta_weight, y, y_f32;
} norm_case;

/* Sums of squares in another order: 2e-6 relative. x and delta may cancel, so the slack of x is
 * relative to the larger of the two; the error of y is that of x over its root mean square. */
static void rmsnorm_case(test_cuda *t, const norm_case *c)
{
    size_t count = (size_t)(c->rows * c->hidden), hidden = (size_t)c->hidden;
    twin x = twin_random(t, AGL_F32, count, 1.0f), delta = twin_random(t, AGL_F32, count, c->delta_scale);
    twin weight = twin_random(t, AGL_F32, hidden, c->weight_scale);
    twin delta_weight = twin_random(t, AGL_F32, hidden, 2.0f);
    twin y = twin_random(t, c->y_f32 ? AGL_F32 : t->activation, count, 1.0f);
    agl_rmsnorm_args cpu = {.x = x.host, .delta = c->delta ? delta.host : NULL,
                            .delta_weight = c->delta_weight ? delta_weight.host : NULL,
                            .y = c->y ? y.host : NULL, .weight = weight.host, .rows = c->rows,
                            .hidden = c->hidden, .eps = 1e-5f, .y_f32 = c->y_f32};
    agl_rmsnorm_args cuda = cpu;
    cuda.x = x.device;
    cuda.delta = c->delta ? delta.device : NULL;
    cuda.delta_weight = c->delta_weight ? delta_weight.device : NULL;
    cuda.y = c->y ? y.device : NULL;
    cuda.weight = weight.device;
    RUN(t, rmsnorm, cpu, cuda);
    bool is_plain = c->delta && !c->delta_weight;
    double spread = is_plain ? (double)c->delta_scale : 8.0;
    if (c->delta) twin_check(t, &x, "rmsnorm x", 2e-6, 2e-6 * spread);
    else twin_check(t, &x, "rmsnorm x", 0, 0);
    twin_check(t, &y, "rmsnorm y", c->y ? 4e-6 : 0, c->y ? 2e-5 * (double)c->weight_scale : 0);
    twin_free(t, &x), twin_free(t, &delta), twin_free(t, &weight), twin_free(t, &delta_weight);
    twin_free(t, &y);
}

static void rmsnorm_one(test_cuda *t)
{
    static const int64_t WIDTHS[] = {1, 7, 100, 264, 1536, 4096, 8192, 8200};
    static const int64_t ROWS[] = {1, 5};
    for (size_t w = 0; w < AGL_COUNT(WIDTHS); w++) {
        for (size_t n = 0; n < AGL_COUNT(ROWS); n++) {
            for (int mode = 1; mode < 16; mode++) {
                norm_case c = {.rows = ROWS[n], .hidden = WIDTHS[w], .delta_scale = 3e5f, .weight_scale = 2.0f,
                               .delta = mode & 1, .y = mode & 2, .delta_weight = (mode & 4) && (mode & 1),
                               .y_f32 = mode & 8};
                if (c.delta || c.y) rmsnorm_case(t, &c);
            }
        }
    }
    /* More rows than blocks; results beyond the largest F16. */
    rmsnorm_case(t, &(norm_case){.rows = test_cuda_is_real() ? 1200 : 40, .hidden = 4096, .delta_scale = 3e5f,
                                 .weight_scale = 2.0f, .delta = true, .delta_weight = true, .y = true});
    rmsnorm_case(t, &(norm_case){.rows = 2, .hidden = 1536, .delta_scale = 1e5f, .weight_scale = 1e5f,
                                 .delta = true, .y = true});
    rmsnorm_case(t, &(norm_case){.rows = 2, .hidden = 100, .delta_scale = 1e5f, .weight_scale = 1e5f,
                                 .delta = true, .y = true});
}

/* y may be x. */
static void rmsnorm_in_place(test_cuda *t)
{
    static const int64_t WIDTHS[] = {7, 1536};
    for (size_t w = 0; w < AGL_COUNT(WIDTHS); w++) {
        twin x = twin_random(t, AGL_F32, (size_t)(3 * WIDTHS[w]), 100.0f);
        twin weight = twin_random(t, AGL_F32, (size_t)WIDTHS[w], 2.0f);
        agl_rmsnorm_args cpu = {.x = x.host, .y = x.host, .weight = weight.host, .rows = 3,
                                .hidden = WIDTHS[w], .eps = 1e-5f, .y_f32 = true};
        agl_rmsnorm_args cuda = cpu;
        cuda.x = cuda.y = x.device, cuda.weight = weight.device;
        RUN(t, rmsnorm, cpu, cuda);
        twin_check(t, &x, "rmsnorm in place", 2e-6, 1e-6);
        twin_free(t, &x), twin_free(t, &weight);
    }
}

/* The mean of 100 costs 100 * 2^-24 / spread on each side; GELU's slope is at most 1.13. */
static void layernorm_one(test_cuda *t)
{
    static const int64_t WIDTHS[] = {7, 100, 264, 4096, 8200};
    static const int64_t ROWS[] = {1, 5};
    for (size_t w = 0; w < AGL_COUNT(WIDTHS); w++) {
        for (int mode = 0; mode < 4; mode++) {
            int64_t hidden = WIDTHS[w], rows = ROWS[mode / 2];
            size_t count = (size_t)(rows * hidden);
            twin x = twin_random(t, AGL_F32, count, 4.0f), y = twin_random(t, t->activation, count, 1.0f);
            twin weight = twin_random(t, AGL_F32, (size_t)hidden, 2.0f);
            twin bias = twin_random(t, AGL_F32, (size_t)hidden, 1.0f);
            for (size_t i = 0; i < count; i++) x.host[i] += 100.0f;
            assert_int_equal(t->cuda->ops->upload(t->cuda_stream, x.device, x.host, count * sizeof(float)), AGL_OK);
            agl_layernorm_args cpu = {.x = x.host, .y = y.host, .weight = weight.host, .bias = bias.host,
                                      .rows = rows, .hidden = hidden, .eps = 1e-5f, .gelu = mode & 1};
            agl_layernorm_args cuda = cpu;
            cuda.x = x.device, cuda.y = y.device, cuda.weight = weight.device, cuda.bias = bias.device;
            RUN(t, layernorm, cpu, cuda);
            twin_check(t, &y, "layernorm", 4e-6, 6e-5);
            twin_check(t, &x, "layernorm x", 0, 0);
            twin_free(t, &x), twin_free(t, &y), twin_free(t, &weight), twin_free(t, &bias);
        }
    }
}

/* ---- swiglu ------------------------------------------------------------------------- */

/* exp, sum, quotient and product on both sides: 1e-6. Products pass the largest F16. */
static void swiglu_one(test_cuda *t)
{
    static const int64_t WIDTHS[] = {1, 7, 100, 264, 4096, 13696};
    static const int64_t ROWS[] = {1, 4};
    for (size_t w = 0; w < AGL_COUNT(WIDTHS); w++) {
        for (size_t n = 0; n < AGL_COUNT(ROWS); n++) {
            int64_t width = WIDTHS[w], rows = ROWS[n];
            twin x = twin_random(t, t->activation, (size_t)(rows * 2 * width), n == 0 ? 8.0f : 400.0f);
            twin y = twin_random(t, t->activation, (size_t)(rows * width), 1.0f);
            agl_swiglu_args cpu = {.x = x.host, .y = y.host, .rows = rows, .width = width};
            agl_swiglu_args cuda = {.x = x.device, .y = y.device, .rows = rows, .width = width};
            RUN(t, swiglu, cpu, cuda);
            twin_check(t, &y, "swiglu", 1e-6, 1e-34);
            twin_free(t, &x), twin_free(t, &y);
        }
    }
}

/* ---- rotations ----------------------------------------------------------------------- */

typedef struct {
    int64_t heads, kv_heads, head_dim, pairs, page_tokens, tokens;
    int64_t in;                 /* of the product before; 0: none        */
} rope_case;

/* Weights, bias and x of -1, 0 and 1: the sums are exact in every format, so that it does not
 * matter whether they are rounded before they are turned. */
static void *signs(test_cuda *t, agl_dtype dtype, int64_t count, float **values)
{
    *values = test_alloc((size_t)count * sizeof **values);
    for (int64_t i = 0; i < count; i++) (*values)[i] = (float)(test_random_u32(&t->random) % 3) - 1.0f;
    return test_cuda_pack(dtype, *values, (size_t)count);
}

static void run_linear_rope_store(test_cuda *t, const agl_rope_store_args *cpu,
                                  const agl_rope_store_args *cuda, int64_t out, int64_t in)
{
    float *x_values, *weight_values, *bias_values;
    void *x = signs(t, t->activation, cpu->tokens * in, &x_values);
    void *weight = signs(t, t->activation, out * in, &weight_values);
    void *bias = signs(t, t->activation, out, &bias_values);
    void *device_x = test_cuda_upload(t, x, (size_t)(cpu->tokens * in) * agl_dtype_bytes(t->activation));
    agl_weight_desc desc = {.parts = {{.data = weight, .bias = bias, .rows = out}}, .part_count = 1, .in = in,
                            .dtype = t->activation, .bias_dtype = t->activation};
    agl_linear_rope_store_args host = {.x = x_values, .rope = *cpu}, device = {.x = device_x, .rope = *cuda};
    agl_weight *host_weight, *device_weight;
    assert_int_equal(t->cpu->ops->weight_create(t->cpu, &host_weight, &desc, NULL), AGL_OK);
    assert_int_equal(t->cuda->ops->weight_create(t->cuda, &device_weight, &desc, NULL), AGL_OK);
    host.weight = host_weight, device.weight = device_weight;
    RUN(t, linear_rope_store, host, device);
    agl_error err = {0};
    if (t->cuda->ops->stream_wait(t->cuda_stream, &err) != AGL_OK) fail_msg("%s", err.message);
    t->cpu->ops->weight_destroy(t->cpu, host_weight);
    t->cuda->ops->weight_destroy(t->cuda, device_weight);
    test_cuda_free(t, device_x);
    free(x), free(weight), free(bias), free(x_values), free(weight_values), free(bias_values);
}

/* Sine and cosine of the same F32 angle, then two products of values below 5: 4e-6. */
static void rope_store_case(test_cuda *t, const rope_case *c)
{
    enum { PAGES = 4 };
    int64_t tokens = c->tokens, row = (c->heads + 2 * c->kv_heads) * c->head_dim;
    size_t cache = (size_t)(PAGES * c->kv_heads * c->page_tokens * c->head_dim);
    twin qkv = twin_random(t, t->activation, (size_t)(tokens * row), 5.0f);
    twin k = twin_random(t, t->activation, cache, 1.0f), v = twin_random(t, t->activation, cache, 1.0f);
    int32_t *positions = test_alloc((size_t)(3 * tokens) * sizeof *positions);
    int32_t *axis = test_alloc((size_t)c->pairs * sizeof *axis);
    int64_t *slots = test_alloc((size_t)tokens * sizeof *slots);
    twin inv_freq = twin_random(t, AGL_F32, (size_t)c->pairs, 1.0f);
    for (int64_t i = 0; i < 3 * tokens; i++) positions[i] = (int32_t)(test_random_u32(&t->random) % 65536);
    for (int64_t i = 0; i < c->pairs; i++) {
        axis[i] = (int32_t)(i % 3);
        inv_freq.host[i] = powf(10000.0f, -(float)i / (float)c->pairs);
    }
    /* From the last slot downwards, in steps that cross the pages' borders; one token in four
     * is not stored. */
    int64_t slot = PAGES * c->page_tokens - 1;
    for (int64_t i = 0; i < tokens; i++) {
        slots[i] = i % 4 == 3 ? -1 : slot;
        if (slots[i] >= 0) slot -= 1;
        assert_true(slot >= 0);
    }
    void *device_positions = test_cuda_upload(t, positions, (size_t)(3 * tokens) * sizeof *positions);
    void *device_axis = test_cuda_upload(t, axis, (size_t)c->pairs * sizeof *axis);
    void *device_slots = test_cuda_upload(t, slots, (size_t)tokens * sizeof *slots);
    void *device_freq = test_cuda_upload(t, inv_freq.host, (size_t)c->pairs * sizeof(float));
    agl_rope_store_args cpu = {.qkv = qkv.host, .positions = positions, .slots = slots,
                               .inv_freq = inv_freq.host, .axis = axis, .tokens = tokens, .heads = c->heads,
                               .pairs = c->pairs,
                               .kv = {k.host, v.host, AGL_F32, c->page_tokens, c->kv_heads, c->head_dim}};
    agl_rope_store_args cuda = {.qkv = qkv.device, .positions = device_positions, .slots = device_slots,
                                .inv_freq = device_freq, .axis = device_axis, .tokens = tokens,
                                .heads = c->heads, .pairs = c->pairs,
                                .kv = {k.device, v.device, t->activation, c->page_tokens, c->kv_heads, c->head_dim}};
    if (c->in == 0) {
        RUN(t, rope_store, cpu, cuda);
    } else {
        run_linear_rope_store(t, &cpu, &cuda, row, c->in);
    }
    twin_check(t, &qkv, "rope_store qkv", 1e-6, 4e-6);
    twin_check(t, &k, "rope_store k", 1e-6, 4e-6);
    twin_check(t, &v, "rope_store v", 0, 0);
    /* The page holds the very bits of the row. */
    char *rows = twin_fetch(t, &qkv), *pages = twin_fetch(t, &k);
    size_t bytes = agl_dtype_bytes(t->activation);
    int64_t stored = 0;
    for (int64_t token = 0; token < tokens; token++) {
        if (slots[token] < 0) continue;
        int64_t page = slots[token] / c->page_tokens, offset = slots[token] % c->page_tokens;
        for (int64_t head = 0; head < c->kv_heads; head++) {
            int64_t from = token * row + (c->heads + head) * c->head_dim;
            int64_t to = ((page * c->kv_heads + head) * c->page_tokens + offset) * c->head_dim;
            assert_memory_equal(rows + (size_t)from * bytes, pages + (size_t)to * bytes,
                                (size_t)c->head_dim * bytes);
            stored++;
        }
    }
    assert_true(stored > 0);
    free(rows), free(pages), free(positions), free(axis), free(slots);
    test_cuda_free(t, device_positions), test_cuda_free(t, device_axis), test_cuda_free(t, device_slots);
    test_cuda_free(t, device_freq);
    twin_free(t, &qkv), twin_free(t, &k), twin_free(t, &v), twin_free(t, &inv_freq);
}

static void rope_store_one(test_cuda *t)
{
    static const rope_case CASES[] = {
        /* heads, kv_heads, head_dim, pairs, page_tokens, tokens, in */
        {32, 2, 128, 32, 16, 1, 0},  {32, 2, 128, 32, 16, 40, 0}, {4, 2, 16, 8, 3, 9, 0},
        {4, 1, 24, 5, 5, 11, 0},     {3, 3, 10, 3, 2, 6, 0},      {2, 1, 7, 2, 4, 8, 0},
        {5, 1, 8, 1, 1, 4, 0},       {64, 8, 128, 64, 7, 5, 0},
        {32, 2, 128, 32, 16, 1, 72}, {4, 2, 16, 8, 3, 8, 24},     {4, 2, 16, 6, 3, 9, 24},
        {3, 3, 10, 3, 2, 6, 16},     {2, 1, 7, 2, 4, 8, 16},      {5, 1, 8, 1, 1, 4, 7},
    };
    agl_backend_limits limits = {.rows_max = 64, .sequences_max = 4, .logit_rows_max = 4, .context_max = 64,
                                 .heads = 4, .kv_heads = 2, .head_dim = 32, .vocab = 256};
    assert_int_equal(t->cuda->ops->workspace_reserve(t->cuda, &limits, NULL), AGL_OK);
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) rope_store_case(t, &CASES[i]);
}

static void rope_vision_one(test_cuda *t)
{
    static const struct { int64_t heads, head_dim, tokens; } CASES[] = {
        {12, 128, 1}, {12, 128, 21}, {3, 24, 5}, {1, 4, 3}, {2, 16, 7}, {16, 80, 3},
    };
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        int64_t heads = CASES[i].heads, head_dim = CASES[i].head_dim, tokens = CASES[i].tokens;
        twin qkv = twin_random(t, t->activation, (size_t)(tokens * 3 * heads * head_dim), 5.0f);
        twin inv_freq = twin_random(t, AGL_F32, (size_t)(head_dim / 4), 1.0f);
        int32_t *places = test_alloc((size_t)(2 * tokens) * sizeof *places);
        for (int64_t n = 0; n < 2 * tokens; n++) places[n] = (int32_t)(test_random_u32(&t->random) % 400);
        void *device_places = test_cuda_upload(t, places, (size_t)(2 * tokens) * sizeof *places);
        agl_rope_vision_args cpu = {.qkv = qkv.host, .rows_columns = places, .inv_freq = inv_freq.host,
                                    .tokens = tokens, .heads = heads, .head_dim = head_dim};
        agl_rope_vision_args cuda = cpu;
        cuda.qkv = qkv.device, cuda.rows_columns = device_places, cuda.inv_freq = inv_freq.device;
        RUN(t, rope_vision, cpu, cuda);
        twin_check(t, &qkv, "rope_vision", 1e-6, 4e-6);
        test_cuda_free(t, device_places), free(places);
        twin_free(t, &qkv), twin_free(t, &inv_freq);
    }
}

/* ---- images ---------------------------------------------------------------------------- */

static agl_resize_windows windows_of(const agl_resize_axis *axis)
{
    return (agl_resize_windows){axis->first, axis->count, axis->weights, axis->taps};
}

/* A copy of an axis on the device; all NULL where the axis keeps its size. */
static agl_resize_windows device_windows(test_cuda *t, const agl_resize_axis *axis)
{
    if (axis->weights == NULL) return (agl_resize_windows){0};
    size_t count = (size_t)axis->out_size, cells = count * (size_t)axis->taps;
    return (agl_resize_windows){
        test_cuda_upload(t, axis->first, count * sizeof *axis->first),
        test_cuda_upload(t, axis->count, count * sizeof *axis->count),
        test_cuda_upload(t, axis->weights, cells * sizeof *axis->weights), axis->taps};
}

static void windows_free(test_cuda *t, const agl_resize_windows *windows)
{
    const int32_t *tables[] = {windows->first, windows->count, windows->weights};
    for (size_t i = 0; i < AGL_COUNT(tables); i++) test_cuda_free(t, (void *)(uintptr_t)tables[i]);
}

/* The last shape: more rows than a grid is high. */
static void resize_one(test_cuda *t)
{
    static const int64_t SHAPES[][4] = { /* height, width, new height, new width */
        {1, 1, 84, 84},   {60, 54, 63, 56}, {160, 72, 154, 70}, {300, 20, 28, 28}, {7, 300, 3, 17},
        {40, 40, 40, 84}, {40, 40, 84, 40}, {90, 2, 28, 2},     {33, 21, 33, 21},  {65540, 2, 65540, 1},
    };
    if (t->activation != AGL_F32) return; /* bytes in, bytes out */
    for (size_t i = 0; i < AGL_COUNT(SHAPES); i++) {
        int64_t height = SHAPES[i][0], width = SHAPES[i][1], out_height = SHAPES[i][2], out_width = SHAPES[i][3];
        size_t in_bytes = (size_t)(height * width * 3), out_bytes = (size_t)(out_height * out_width * 3);
        size_t between_bytes = (size_t)((height > out_height ? height : out_height) *
                                        (width > out_width ? width : out_width) * 3);
        uint8_t *pixels = test_alloc(in_bytes), *want = test_alloc(out_bytes), *got = test_alloc(out_bytes + GUARD);
        uint8_t *between = test_alloc(between_bytes);
        for (size_t n = 0; n < in_bytes; n++) {
            uint32_t draw = test_random_u32(&t->random) % 1024; /* ends of the range: they clamp */
            pixels[n] = (uint8_t)(draw < 256 ? draw : draw & 1 ? 255 : 0);
        }
        memset(got, 77, out_bytes + GUARD);
        agl_resize_axis across = {0}, down = {0};
        if (width != out_width) assert_int_equal(agl_resize_axis_init(&across, width, out_width, NULL), AGL_OK);
        if (height != out_height) assert_int_equal(agl_resize_axis_init(&down, height, out_height, NULL), AGL_OK);
        agl_resize_args cpu = {
            .pixels = pixels, .out = want, .between = between, .height = height, .width = width,
            .out_height = out_height, .out_width = out_width, .across = windows_of(&across),
            .down = windows_of(&down),
            .down_first = agl_resize_goes_down_first(height, width, out_height, out_width)};
        agl_resize_args cuda = cpu;
        void *device_pixels = test_cuda_upload(t, pixels, in_bytes);
        cuda.pixels = device_pixels;
        cuda.out = test_cuda_upload(t, got, out_bytes + GUARD);
        cuda.between = test_cuda_upload(t, NULL, between_bytes);
        cuda.across = device_windows(t, &across), cuda.down = device_windows(t, &down);
        RUN(t, resize, cpu, cuda);
        test_cuda_download(t, got, cuda.out, out_bytes + GUARD);
        assert_memory_equal(got, want, out_bytes);
        for (int n = 0; n < GUARD; n++) assert_int_equal(got[out_bytes + (size_t)n], 77);
        windows_free(t, &cuda.across), windows_free(t, &cuda.down);
        test_cuda_free(t, device_pixels), test_cuda_free(t, cuda.out), test_cuda_free(t, cuda.between);
        agl_resize_axis_deinit(&across), agl_resize_axis_deinit(&down);
        free(pixels), free(want), free(got), free(between);
    }
}

static void patchify_one(test_cuda *t)
{
    static const struct { int64_t grid_h, grid_w, patch, merge, frames; } CASES[] = {
        {4, 6, 14, 2, 2}, {2, 2, 14, 2, 2}, {3, 5, 3, 1, 1}, {6, 3, 17, 3, 3},
    };
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        int64_t patch = CASES[i].patch, height = CASES[i].grid_h * patch, width = CASES[i].grid_w * patch;
        int64_t values = CASES[i].grid_h * CASES[i].grid_w * 3 * CASES[i].frames * patch * patch;
        size_t bytes = (size_t)(height * width * 3);
        uint8_t *pixels = test_alloc(bytes);
        for (size_t n = 0; n < bytes; n++) pixels[n] = (uint8_t)(n < 256 ? n : test_random_u32(&t->random));
        void *device_pixels = test_cuda_upload(t, pixels, bytes);
        twin out = twin_random(t, t->activation, (size_t)values, 1.0f);
        agl_patchify_args cpu = {.pixels = pixels, .out = out.host, .height = height, .width = width,
                                 .patch = patch, .merge = CASES[i].merge, .frames = CASES[i].frames,
                                 .mean = {0.48145466f, 0.4578275f, 0.40821073f},
                                 .std = {0.26862954f, 0.26130258f, 0.27577711f}};
        agl_patchify_args cuda = cpu;
        cuda.pixels = device_pixels, cuda.out = out.device;
        RUN(t, patchify, cpu, cuda);
        twin_check(t, &out, "patchify", 0, 0);
        twin_free(t, &out);
        test_cuda_free(t, device_pixels), free(pixels);
    }
}

/* A coordinate passes through F32 with and without FMA: 3e-6 at 24 cells, times the slope of the
 * kernel, times values of magnitude 1. */
static void position_embed_one(test_cuda *t)
{
    static const struct { int64_t grid_h, grid_w, merge, side, hidden; } CASES[] = {
        {4, 6, 2, 24, 5}, {10, 26, 2, 24, 64}, {24, 24, 2, 24, 12}, {3, 7, 1, 5, 1536}, {2, 40, 2, 4, 9},
    };
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        int64_t patches = CASES[i].grid_h * CASES[i].grid_w, hidden = CASES[i].hidden;
        twin table = twin_random(t, AGL_F32, (size_t)(CASES[i].side * CASES[i].side * hidden), 1.0f);
        twin x = twin_random(t, AGL_F32, (size_t)(patches * hidden), 1.0f);
        agl_position_embed_args cpu = {.x = x.host, .table = table.host, .grid_h = CASES[i].grid_h,
                                       .grid_w = CASES[i].grid_w, .merge = CASES[i].merge,
                                       .side = CASES[i].side, .hidden = hidden};
        agl_position_embed_args cuda = cpu;
        cuda.x = x.device, cuda.table = table.device;
        RUN(t, position_embed, cpu, cuda);
        twin_check(t, &x, "position_embed", 1e-6, 1e-5);
        twin_free(t, &x), twin_free(t, &table);
    }
}

/* ---- the same row alone and among others -------------------------------------------------- */

static void same_bits(test_cuda *t, const twin *batch, const void *single, int64_t row, int64_t width)
{
    size_t bytes = (size_t)width * agl_dtype_bytes(batch->dtype);
    char *all = twin_fetch(t, batch), *one = test_alloc(bytes);
    test_cuda_download(t, one, single, bytes);
    assert_memory_equal(all + (size_t)row * bytes, one, bytes);
    free(all), free(one);
}

static void batch_is_single(test_cuda *t)
{
    enum { ROWS = 40, WIDTH = 4096 };
    twin x = twin_random(t, AGL_F32, ROWS * WIDTH, 10.0f), weight = twin_random(t, AGL_F32, WIDTH, 2.0f);
    twin y = twin_random(t, t->activation, ROWS * WIDTH, 1.0f), one = twin_random(t, t->activation, WIDTH, 1.0f);
    twin gate_up = twin_random(t, t->activation, ROWS * 2 * WIDTH, 10.0f);
    agl_rmsnorm_args norm = {.x = x.device, .y = y.device, .weight = weight.device, .rows = ROWS,
                             .hidden = WIDTH, .eps = 1e-5f};
    agl_swiglu_args swiglu = {.x = gate_up.device, .y = y.device, .rows = ROWS, .width = WIDTH};
    static const int64_t PICKED[] = {0, 17, ROWS - 1};
    assert_int_equal(t->cuda->ops->rmsnorm(t->cuda_stream, &norm), AGL_OK);
    for (size_t i = 0; i < AGL_COUNT(PICKED); i++) {
        agl_rmsnorm_args alone = norm;
        alone.x = (float *)x.device + PICKED[i] * WIDTH, alone.y = one.device, alone.rows = 1;
        assert_int_equal(t->cuda->ops->rmsnorm(t->cuda_stream, &alone), AGL_OK);
        same_bits(t, &y, one.device, PICKED[i], WIDTH);
    }
    assert_int_equal(t->cuda->ops->swiglu(t->cuda_stream, &swiglu), AGL_OK);
    for (size_t i = 0; i < AGL_COUNT(PICKED); i++) {
        agl_swiglu_args alone = swiglu;
        alone.x = (char *)gate_up.device + (size_t)(PICKED[i] * 2 * WIDTH) * agl_dtype_bytes(t->activation);
        alone.y = one.device, alone.rows = 1;
        assert_int_equal(t->cuda->ops->swiglu(t->cuda_stream, &alone), AGL_OK);
        same_bits(t, &y, one.device, PICKED[i], WIDTH);
    }
    twin_free(t, &x), twin_free(t, &weight), twin_free(t, &y), twin_free(t, &one), twin_free(t, &gate_up);
}

static void embed_matches(void **state) { (void)state, for_dtypes(embed_one); }
static void gather_matches(void **state) { (void)state, for_dtypes(gather_one); }
static void rmsnorm_matches(void **state) { (void)state, for_dtypes(rmsnorm_one); }
static void rmsnorm_in_place_matches(void **state) { (void)state, for_dtypes(rmsnorm_in_place); }
static void layernorm_matches(void **state) { (void)state, for_dtypes(layernorm_one); }
static void swiglu_matches(void **state) { (void)state, for_dtypes(swiglu_one); }
static void rope_store_matches(void **state) { (void)state, for_dtypes(rope_store_one); }
static void rope_vision_matches(void **state) { (void)state, for_dtypes(rope_vision_one); }
static void resize_matches(void **state) { (void)state, for_dtypes(resize_one); }
static void patchify_matches(void **state) { (void)state, for_dtypes(patchify_one); }
static void position_embed_matches(void **state) { (void)state, for_dtypes(position_embed_one); }
static void batch_has_the_bits_of_single_rows(void **state) { (void)state, for_dtypes(batch_is_single); }

/* ---- bench --------------------------------------------------------------------------------- */

typedef agl_status (*launch_fn)(test_cuda *t, const void *args);

#define LAUNCH(op)                                                                             \
    static agl_status launch_##op(test_cuda *t, const void *args)                              \
    {                                                                                          \
        return t->cuda->ops->op(t->cuda_stream, args);                                         \
    }
LAUNCH(embed) LAUNCH(rmsnorm) LAUNCH(layernorm) LAUNCH(swiglu) LAUNCH(rope_store) LAUNCH(rope_vision)
LAUNCH(patchify) LAUNCH(position_embed)
#undef LAUNCH

/* Recorded, as a step is: `count` launches one behind the other. */
static void bench_op(test_cuda *t, const char *name, launch_fn launch, const void *args, int64_t rows,
                     double row_bytes)
{
    const agl_backend_ops *ops = t->cuda->ops;
    int count = !test_cuda_is_real() ? 2 : rows <= 64 ? 400 : 20;
    agl_graph *graph;
    double best = INFINITY;
    assert_int_equal(launch(t, args), AGL_OK);
    assert_int_equal(ops->stream_wait(t->cuda_stream, NULL), AGL_OK);
    assert_int_equal(ops->graph_begin(t->cuda_stream), AGL_OK);
    for (int i = 0; i < count; i++) assert_int_equal(launch(t, args), AGL_OK);
    assert_int_equal(ops->graph_end(t->cuda_stream, &graph, NULL), AGL_OK);
    for (int run = 0; run < 6; run++) {
        double start = agl_clock_s();
        assert_int_equal(ops->graph_launch(t->cuda_stream, graph), AGL_OK);
        assert_int_equal(ops->stream_wait(t->cuda_stream, NULL), AGL_OK);
        best = fmin(best, (agl_clock_s() - start) / count);
    }
    ops->graph_destroy(t->cuda, graph);
    printf("%-26s rows %6lld  %8.2f us  %7.1f GB/s\n", name, (long long)rows, best * 1e6,
           row_bytes * (double)rows / best / 1e9);
}

static void bench_text(test_cuda *t, int64_t rows)
{
    enum { HIDDEN = 4096, WIDTH = 13696, HEADS = 32, KV_HEADS = 2, DIM = 128, PAIRS = 32, PAGE = 16, VOCAB = 8,
           QKV = (HEADS + 2 * KV_HEADS) * DIM };
    twin x = twin_random(t, AGL_F32, (size_t)(rows * HIDDEN), 1.0f);
    twin delta = twin_random(t, AGL_F32, (size_t)(rows * HIDDEN), 1.0f);
    twin y = twin_random(t, t->activation, (size_t)(rows * HIDDEN), 1.0f);
    twin weight = twin_random(t, AGL_F32, HIDDEN, 1.0f), table = twin_random(t, t->activation, VOCAB * HIDDEN, 1.0f);
    twin wide = twin_random(t, t->activation, (size_t)(rows * 2 * WIDTH), 1.0f);
    size_t cache = (size_t)((rows + PAGE) * KV_HEADS * DIM);
    twin k = twin_random(t, t->activation, cache, 1.0f), v = twin_random(t, t->activation, cache, 1.0f);
    twin inv_freq = twin_random(t, AGL_F32, PAIRS, 1.0f);
    int32_t *positions = test_alloc((size_t)rows * 3 * sizeof *positions), axis[PAIRS] = {0};
    int64_t *slots = test_alloc((size_t)rows * sizeof *slots);
    for (int64_t i = 0; i < rows; i++) slots[i] = i;
    for (int64_t i = 0; i < 3 * rows; i++) positions[i] = (int32_t)(i % rows);
    void *device_positions = test_cuda_upload(t, positions, (size_t)rows * 3 * sizeof *positions);
    void *device_slots = test_cuda_upload(t, slots, (size_t)rows * sizeof *slots);
    void *device_axis = test_cuda_upload(t, axis, sizeof axis);
    void *ids = test_cuda_upload(t, NULL, (size_t)rows * sizeof(int32_t));
    agl_weight_desc desc = {.parts = {{.rows = VOCAB}}, .part_count = 1, .in = HIDDEN, .dtype = AGL_F32};
    desc.parts[0].data = table.host;
    agl_weight *embedding;
    assert_int_equal(t->cuda->ops->weight_create(t->cuda, &embedding, &desc, NULL), AGL_OK);
    double two = (double)agl_dtype_bytes(t->activation);
    bench_op(t, "embed 4096", launch_embed, &(agl_embed_args){
        .out = x.device, .table = embedding, .ids = ids, .tokens = rows, .hidden = HIDDEN}, rows, HIDDEN * (4 + two));
    agl_rmsnorm_args norm = {.x = x.device, .y = y.device, .weight = weight.device, .rows = rows,
                             .hidden = HIDDEN, .eps = 1e-5f};
    bench_op(t, "rmsnorm 4096", launch_rmsnorm, &norm, rows, HIDDEN * (4 + two));
    norm.delta = delta.device, norm.delta_weight = weight.device;
    bench_op(t, "rmsnorm 4096, two and sum", launch_rmsnorm, &norm, rows, HIDDEN * (12 + two));
    bench_op(t, "layernorm 4096, GELU", launch_layernorm, &(agl_layernorm_args){
        .x = x.device, .y = y.device, .weight = weight.device, .bias = weight.device, .rows = rows,
        .hidden = HIDDEN, .eps = 1e-5f, .gelu = true}, rows, HIDDEN * (4 + two));
    twin half = twin_random(t, t->activation, (size_t)(rows * WIDTH), 1.0f);
    bench_op(t, "swiglu 13696", launch_swiglu, &(agl_swiglu_args){
        .x = wide.device, .y = half.device, .rows = rows, .width = WIDTH}, rows, 3 * WIDTH * two);
    bench_op(t, "rope_store 32 + 2 + 2", launch_rope_store, &(agl_rope_store_args){
        .qkv = wide.device, .positions = device_positions, .slots = device_slots, .inv_freq = inv_freq.device,
        .axis = device_axis, .tokens = rows, .heads = HEADS, .pairs = PAIRS,
        .kv = {k.device, v.device, t->activation, PAGE, KV_HEADS, DIM}},
        rows, two * (HEADS * 2 * 2 * PAIRS + KV_HEADS * (4 * DIM + 2 * PAIRS)));
    t->cuda->ops->weight_destroy(t->cuda, embedding);
    test_cuda_free(t, device_positions), test_cuda_free(t, device_slots), test_cuda_free(t, device_axis);
    test_cuda_free(t, ids), free(positions), free(slots);
    twin *arrays[] = {&x, &delta, &y, &weight, &table, &wide, &k, &v, &inv_freq, &half};
    for (size_t i = 0; i < AGL_COUNT(arrays); i++) twin_free(t, arrays[i]);
}

/* A picture of 1092 x 2408 pixels. */
static void bench_picture(test_cuda *t)
{
    enum { GRID_H = 172, GRID_W = 78, PATCHES = GRID_H * GRID_W, PATCH = 14, HIDDEN = 1536, HEADS = 12, DIM = 128,
           SIDE = 24, VALUES = 3 * 2 * PATCH * PATCH };
    twin qkv = twin_random(t, t->activation, (size_t)PATCHES * 3 * HIDDEN, 1.0f);
    twin x = twin_random(t, AGL_F32, (size_t)PATCHES * HIDDEN, 1.0f);
    twin table = twin_random(t, AGL_F32, SIDE * SIDE * HIDDEN, 1.0f), inv_freq = twin_random(t, AGL_F32, DIM / 4, 1.0f);
    void *places = test_cuda_upload(t, NULL, PATCHES * 2 * sizeof(int32_t));
    void *pixels = test_cuda_upload(t, NULL, (size_t)PATCHES * PATCH * PATCH * 3);
    double two = (double)agl_dtype_bytes(t->activation);
    bench_op(t, "patchify", launch_patchify, &(agl_patchify_args){
        .pixels = pixels, .out = qkv.device, .height = GRID_H * PATCH, .width = GRID_W * PATCH, .patch = PATCH,
        .merge = 2, .frames = 2, .std = {1, 1, 1}}, PATCHES, 3 * PATCH * PATCH + two * VALUES);
    bench_op(t, "position_embed 1536", launch_position_embed, &(agl_position_embed_args){
        .x = x.device, .table = table.device, .grid_h = GRID_H, .grid_w = GRID_W, .merge = 2, .side = SIDE,
        .hidden = HIDDEN}, PATCHES, HIDDEN * 8);
    bench_op(t, "rope_vision 12", launch_rope_vision, &(agl_rope_vision_args){
        .qkv = qkv.device, .rows_columns = places, .inv_freq = inv_freq.device, .tokens = PATCHES, .heads = HEADS,
        .head_dim = DIM}, PATCHES, 4 * HIDDEN * two);
    test_cuda_free(t, places), test_cuda_free(t, pixels);
    twin_free(t, &qkv), twin_free(t, &x), twin_free(t, &table), twin_free(t, &inv_freq);
}

static int bench_all(void)
{
    test_cuda t;
    if (!test_cuda_open(&t, AGL_BF16)) return 0;
    printf("%s\n", t.cuda->description);
    bench_text(&t, 1);
    bench_text(&t, test_cuda_is_real() ? 4096 : 8);
    if (test_cuda_is_real()) bench_picture(&t);
    test_cuda_close(&t);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench_all();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embed_matches),          cmocka_unit_test(gather_matches),
        cmocka_unit_test(rmsnorm_matches),        cmocka_unit_test(rmsnorm_in_place_matches),
        cmocka_unit_test(layernorm_matches),      cmocka_unit_test(swiglu_matches),
        cmocka_unit_test(rope_store_matches),     cmocka_unit_test(rope_vision_matches),
        cmocka_unit_test(resize_matches),
        cmocka_unit_test(patchify_matches),       cmocka_unit_test(position_embed_matches),
        cmocka_unit_test(batch_has_the_bits_of_single_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
