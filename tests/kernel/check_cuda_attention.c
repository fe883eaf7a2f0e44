/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention of the CUDA backend against portable C on the same rounded numbers.
 *
 * Tolerance: an output is a weighted mean of values. Weights are rounded to the activation dtype
 * before they meet V, so the error is at most half a step of 1 times the largest |v|; scores and
 * sums in F32 add 4e-5 of it, ten times that where scores reach hundreds.
 *
 * Bits: a row does not depend on the batch. For a decoded one the batch decides where its keys are
 * cut into the runs of several blocks; for others the size of the tiles. */
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
#include "support/test_cuda.h"

#define SEQUENCES_MAX 6
#define VALUE_SCALE 2.0f
#define UNTOUCHED 7.0f               /* what rows hold that belong to no sequence        */

static const agl_dtype DTYPES[] = {AGL_BF16, AGL_F16, AGL_F32};

typedef struct {
    int64_t heads, kv_heads, head_dim, page_tokens;
    float q_scale;
    bool gaps;                       /* rows of no sequence between the others           */
    struct {
        int32_t rows, context;
    } sequences[SEQUENCES_MAX];      /* 0 rows end the list                              */
} paged_case;

static const paged_case PAGED[] = {
    {32, 2, 128, 16, 2, false, {{1, 1}, {1, 16}, {1, 17}, {1, 129}}},           /* decode only   */
    {32, 2, 128, 16, 2, true, {{1, 700}, {4, 4}, {2, 131}, {4, 300}, {3, 128}}},/* few rows      */
    {32, 2, 128, 16, 2, true, {{1, 33}, {5, 5}, {41, 171}, {1, 1}, {9, 64}}},   /* mixed         */
    {16, 1, 128, 16, 2, false, {{130, 130}}},                                   /* whole prompt  */
    {2, 2, 128, 5, 2, true, {{1, 131}, {150, 161}, {2, 7}}},                    /* one head each */
    {4, 2, 128, 1, 2, false, {{70, 75}, {1, 66}}},
    {20, 1, 128, 256, 2, true, {{1, 260}, {4, 257}, {20, 90}}},  /* more heads than a tile's 16  */
    {3, 1, 128, 7, 2, false, {{50, 110}, {3, 70}}},
    {32, 2, 128, 16, 90, false, {{1, 600}, {12, 150}}},                         /* large scores  */
    {4, 2, 64, 16, 2, true, {{1, 40}, {9, 33}}},                                /* plain kernel  */
    {4, 1, 40, 7, 2, false, {{2, 30}, {1, 1}}},
    {2, 1, 16, 16, 2, false, {{1, 70}, {33, 33}}},
    {1, 1, 256, 3, 2, false, {{6, 9}}},
};

/* Several blocks of 128 keys, for the kernel of Hopper. On such a GPU the other one runs where a
 * page is no multiple of 16, as in some cases above. */
static const paged_case PAGED_LONG[] = {
    {32, 2, 128, 16, 2, true, {{70, 640}, {40, 385}, {9, 1025}, {6, 130}, {2, 300}}},
    {16, 1, 128, 48, 2, false, {{300, 300}, {17, 129}, {5, 256}}},
    {3, 1, 128, 256, 2, true, {{200, 511}, {86, 127}, {85, 128}}},
    {20, 1, 128, 32, 90, false, {{60, 700}}},                                    /* large scores  */
};

typedef struct {
    const paged_case *c;
    int64_t rows, width;
    int32_t sequence_count, tables_count;
    agl_attention_sequence sequences[SEQUENCES_MAX];
    float *q, *k, *v;                /* host, F32                                        */
    void *q_device, *k_device, *v_device;
    int32_t *tables, *tables_device;
} paged_data;

static double tolerance(agl_dtype dtype, float q_scale)
{
    double weights = dtype == AGL_F32 ? 0 : dtype == AGL_BF16 ? 0x1p-9 : 0x1p-12;
    return VALUE_SCALE * (weights + (q_scale > 10 ? 4e-4 : 4e-5));
}

static bool open_device(test_cuda *t, agl_dtype dtype, int64_t heads, int64_t kv_heads, int64_t head_dim)
{
    if (!test_cuda_open(t, dtype)) return false;
    agl_backend_limits limits = {
        .rows_max = 8192, .sequences_max = 1024, .logit_rows_max = 1, .patches_max = 1,
        .context_max = 32768, .heads = heads, .kv_heads = kv_heads, .head_dim = head_dim,
        .vision_heads = 1, .vocab = 64};
    assert_int_equal(t->cuda->ops->workspace_reserve(t->cuda, &limits, NULL), AGL_OK);
    return true;
}

/* Keys and values on the device, and NaN in what no sequence has written yet. */
static void *upload_pages(test_cuda *t, const paged_data *data, const float *values, size_t count)
{
    const paged_case *c = data->c;
    float *marked = test_alloc(count * sizeof *marked);
    for (size_t i = 0; i < count; i++) marked[i] = NAN;
    for (int32_t s = 0; s < data->sequence_count; s++) {
        for (int64_t key = 0; key < data->sequences[s].context; key++) {
            int64_t page = data->tables[data->sequences[s].page_table + key / c->page_tokens];
            for (int64_t h = 0; h < c->kv_heads; h++) {
                int64_t at = ((page * c->kv_heads + h) * c->page_tokens + key % c->page_tokens) * c->head_dim;
                memcpy(marked + at, values + at, (size_t)c->head_dim * sizeof *values);
            }
        }
    }
    void *packed = test_cuda_pack(t->activation, marked, count);
    void *device = test_cuda_upload(t, packed, count * agl_dtype_bytes(t->activation));
    free(packed), free(marked);
    return device;
}

static paged_data make_paged(test_cuda *t, const paged_case *c)
{
    paged_data data = {.c = c, .width = c->heads * c->head_dim};
    int32_t pages = 1, tables[4096];
    for (int i = 0; i < SEQUENCES_MAX && c->sequences[i].rows > 0; i++) {
        data.sequences[data.sequence_count++] = (agl_attention_sequence){
            .row_first = (int32_t)data.rows, .row_count = c->sequences[i].rows,
            .context = c->sequences[i].context, .page_table = data.tables_count};
        data.rows += c->sequences[i].rows + c->gaps;
        int64_t entries = (c->sequences[i].context + c->page_tokens - 1) / c->page_tokens;
        for (int64_t e = 0; e < entries; e++) tables[data.tables_count++] = pages++;
    }
    for (int32_t i = data.tables_count - 1; i > 0; i--) {
        int32_t j = (int32_t)(test_random_u32(&t->random) % (uint32_t)(i + 1)), held = tables[i];
        tables[i] = tables[j], tables[j] = held;
    }
    size_t bytes = (size_t)data.tables_count * sizeof *tables;
    data.tables = test_alloc(bytes);
    memcpy(data.tables, tables, bytes);
    data.tables_device = test_cuda_upload(t, tables, bytes);
    data.q = test_cuda_values(t, &data.q_device, t->activation, (size_t)(data.rows * data.width), c->q_scale);
    size_t count = (size_t)(pages * c->kv_heads * c->page_tokens * c->head_dim);
    data.k = test_floats(&t->random, count, 1.0f), data.v = test_floats(&t->random, count, VALUE_SCALE);
    for (size_t i = 0; i < count; i++) {
        data.k[i] = test_cuda_round(t->activation, data.k[i]);
        data.v[i] = test_cuda_round(t->activation, data.v[i]);
    }
    data.k_device = upload_pages(t, &data, data.k, count);
    data.v_device = upload_pages(t, &data, data.v, count);
    return data;
}

static void free_paged(test_cuda *t, paged_data *data)
{
    test_cuda_free(t, data->q_device), test_cuda_free(t, data->k_device);
    test_cuda_free(t, data->v_device), test_cuda_free(t, data->tables_device);
    free(data->q), free(data->k), free(data->v), free(data->tables);
}

static agl_attention_paged_args paged_args(const paged_data *data)
{
    const paged_case *c = data->c;
    agl_attention_paged_args args = {
        .q = data->q, .q_stride = data->width, .sequences = data->sequences,
        .page_tables = data->tables, .sequence_count = data->sequence_count, .rows = data->rows,
        .heads = c->heads, .scale = 1.0f / sqrtf((float)c->head_dim),
        .kv = {.k = data->k, .v = data->v, .dtype = AGL_F32, .page_tokens = c->page_tokens,
               .kv_heads = c->kv_heads, .head_dim = c->head_dim}};
    for (int32_t i = 0; i < data->sequence_count; i++) {
        if (args.context_max < data->sequences[i].context) args.context_max = data->sequences[i].context;
    }
    return args;
}

/* The same on the device with these sequences; the caller frees .out and .sequences. */
static agl_attention_paged_args paged_device_args(test_cuda *t, const paged_data *data,
                                                  const agl_attention_sequence *sequences, int64_t count,
                                                  int64_t rows)
{
    agl_attention_paged_args args = paged_args(data);
    float *untouched = test_floats(&t->random, (size_t)(rows * data->width), 0.0f);
    for (int64_t i = 0; i < rows * data->width; i++) untouched[i] = UNTOUCHED;
    void *packed = test_cuda_pack(t->activation, untouched, (size_t)(rows * data->width));
    args.out = test_cuda_upload(t, packed, (size_t)(rows * data->width) * agl_dtype_bytes(t->activation));
    args.sequences = test_cuda_upload(t, sequences, (size_t)count * sizeof *sequences);
    args.sequence_count = count, args.rows = rows;
    args.q = data->q_device, args.page_tables = data->tables_device;
    args.kv.k = data->k_device, args.kv.v = data->v_device, args.kv.dtype = t->activation;
    free(untouched), free(packed);
    return args;
}

static void check_paged(agl_dtype dtype, const paged_case *c)
{
    test_cuda t;
    if (!open_device(&t, dtype, c->heads, c->kv_heads, c->head_dim)) return;
    paged_data data = make_paged(&t, c);
    size_t count = (size_t)(data.rows * data.width);
    float *want = test_floats(&t.random, count, 0.0f);
    for (size_t i = 0; i < count; i++) want[i] = UNTOUCHED;
    agl_attention_paged_args args = paged_args(&data);
    args.out = want;
    assert_int_equal(t.cpu->ops->attention_paged(t.cpu_stream, &args), AGL_OK);
    /* Once with the sizes as they are, once with the upper bounds of a recorded step. */
    for (int bound = 0; bound <= 1; bound++) {
        agl_attention_paged_args device = paged_device_args(&t, &data, data.sequences, data.sequence_count,
                                                            data.rows);
        if (bound) device.context_max = 2048, device.rows += 60;
        assert_int_equal(t.cuda->ops->attention_paged(t.cuda_stream, &device), AGL_OK);
        test_cuda_compare(&t, "paged", device.out, dtype, want, count, 0, tolerance(dtype, c->q_scale));
        test_cuda_free(&t, device.out), test_cuda_free(&t, (void *)(uintptr_t)device.sequences);
    }
    free(want);
    free_paged(&t, &data);
    test_cuda_close(&t);
}

/* Pairs of a query head and a key: what the plain kernel's time goes by. */
static int64_t pair_count(const paged_case *c)
{
    int64_t pairs = 0;
    for (int i = 0; i < SEQUENCES_MAX; i++) {
        pairs += c->heads * c->sequences[i].rows * c->sequences[i].context;
    }
    return pairs;
}

static void paged_is_right(void **state)
{
    (void)state;
    for (size_t d = 0; d < AGL_COUNT(DTYPES); d++) {
        for (size_t i = 0; i < AGL_COUNT(PAGED); i++) {
            /* F32 goes to the plain kernel whatever the shape; emulated, long ones take minutes. */
            if (DTYPES[d] == AGL_F32 && !test_cuda_is_real() && pair_count(&PAGED[i]) > 10000) continue;
            check_paged(DTYPES[d], &PAGED[i]);
        }
        for (size_t i = 0; i < AGL_COUNT(PAGED_LONG) && test_cuda_is_real() && DTYPES[d] != AGL_F32; i++) {
            check_paged(DTYPES[d], &PAGED_LONG[i]);
        }
    }
}

/* Rows of `copies` copies of the sequences, all of which read the same queries and pages. */
static void *run_copies(test_cuda *t, const paged_data *data, int64_t first, int64_t count, int64_t copies)
{
    agl_attention_sequence *sequences = test_alloc((size_t)(count * copies) * sizeof *sequences);
    for (int64_t i = 0; i < count * copies; i++) sequences[i] = data->sequences[first + i % count];
    agl_attention_paged_args args = paged_device_args(t, data, sequences, count * copies, data->rows);
    args.rows = args.sequence_count; /* decode rows only, as many as sequences */
    assert_int_equal(t->cuda->ops->attention_paged(t->cuda_stream, &args), AGL_OK);
    size_t bytes = (size_t)(data->rows * data->width) * agl_dtype_bytes(t->activation);
    void *out = test_alloc(bytes);
    test_cuda_download(t, out, args.out, bytes);
    test_cuda_free(t, args.out), test_cuda_free(t, (void *)(uintptr_t)args.sequences);
    free(sequences);
    return out;
}

/* The four sequences alone and in batches of several sizes, which cut their keys at other places. */
static void check_copies(test_cuda *t, const paged_data *data)
{
    static const int64_t COPIES[2][4] = {{1, 2, 3, 5}, {1, 3, 50, 250}};
    size_t row_bytes = (size_t)data->width * agl_dtype_bytes(t->activation);
    char *first = NULL;
    for (size_t i = 0; i < AGL_COUNT(COPIES[0]); i++) {
        char *rows = run_copies(t, data, 0, 4, COPIES[test_cuda_is_real()][i]);
        if (first == NULL) first = rows;
        assert_memory_equal(rows, first, 4 * row_bytes);
        if (rows != first) free(rows);
    }
    for (int64_t i = 0; i < 4; i++) {
        char *alone = run_copies(t, data, i, 1, 1);
        assert_memory_equal(alone + (size_t)i * row_bytes, first + (size_t)i * row_bytes, row_bytes);
        free(alone);
    }
    free(first);
}

static void decode_does_not_depend_on_the_batch(void **state)
{
    (void)state;
    static const paged_case LONG[] = {
        /* 9, 5, 6 and 1 chunks: groups of 3, of 3 and 2, of 3, of 1. */
        {32, 2, 128, 16, 4, false, {{1, 1100}, {1, 640}, {1, 700}, {1, 90}}},
        /* Groups of 5 and 4 chunks, and of 4 and 3: emulated, 2 heads have another merge. */
        {2, 1, 128, 16, 4, false, {{1, 8400}, {1, 1}, {1, 1700}, {1, 200}}},
    };
    for (size_t d = 0; d < 2; d++) {
        test_cuda t;
        if (!open_device(&t, DTYPES[d], 32, 2, 128)) return;
        /* Rounding to 16 bit hides most differences of F32 sums: many numbers are needed to see one. */
        for (int round = 0; round < 8; round++) {
            paged_data data = make_paged(&t, &LONG[round / 6]);
            check_copies(&t, &data);
            free_paged(&t, &data);
        }
        test_cuda_close(&t);
    }
}

/* Emulated, the first sequence alone goes in tiles of 64 rows, in the batch in tiles of 128. */
static void prefill_does_not_depend_on_the_batch(void **state)
{
    (void)state;
    static const paged_case MIXED = {32, 2, 128, 16, 4, false, {{12, 150}, {60, 300}, {7, 7}, {1, 40}}};
    for (size_t d = 0; d < 2; d++) {
        test_cuda t;
        if (!open_device(&t, DTYPES[d], 32, 2, 128)) return;
        paged_data data = make_paged(&t, &MIXED);
        size_t row_bytes = (size_t)data.width * agl_dtype_bytes(t.activation);
        char *outs[2];
        for (int alone = 0; alone <= 1; alone++) {
            int64_t rows = alone ? 12 : data.rows;
            agl_attention_paged_args args = paged_device_args(&t, &data, data.sequences, alone ? 1 : 4, rows);
            assert_int_equal(t.cuda->ops->attention_paged(t.cuda_stream, &args), AGL_OK);
            outs[alone] = test_alloc((size_t)rows * row_bytes);
            test_cuda_download(&t, outs[alone], args.out, (size_t)rows * row_bytes);
            test_cuda_free(&t, args.out), test_cuda_free(&t, (void *)(uintptr_t)args.sequences);
        }
        assert_memory_equal(outs[0], outs[1], 12 * row_bytes);
        free(outs[0]), free(outs[1]);
        free_paged(&t, &data);
        test_cuda_close(&t);
    }
}

/* The last 12 rows of a prompt, in a chunk of their own and with the rows before. */
static void prefill_does_not_depend_on_the_chunk(void **state)
{
    (void)state;
    static const paged_case WHOLE = {32, 2, 128, 16, 4, false, {{60, 300}}};
    for (size_t d = 0; d < 2; d++) {
        test_cuda t;
        if (!open_device(&t, DTYPES[d], 32, 2, 128)) return;
        paged_data data = make_paged(&t, &WHOLE);
        size_t row_bytes = (size_t)data.width * agl_dtype_bytes(t.activation);
        char *outs[2];
        for (int chunk = 0; chunk <= 1; chunk++) {
            agl_attention_sequence sequence = data.sequences[0];
            if (chunk) sequence.row_first = 48, sequence.row_count = 12;
            agl_attention_paged_args args = paged_device_args(&t, &data, &sequence, 1, data.rows);
            assert_int_equal(t.cuda->ops->attention_paged(t.cuda_stream, &args), AGL_OK);
            outs[chunk] = test_alloc(60 * row_bytes);
            test_cuda_download(&t, outs[chunk], args.out, 60 * row_bytes);
            test_cuda_free(&t, args.out), test_cuda_free(&t, (void *)(uintptr_t)args.sequences);
        }
        assert_memory_equal(outs[0] + 48 * row_bytes, outs[1] + 48 * row_bytes, 12 * row_bytes);
        free(outs[0]), free(outs[1]);
        free_paged(&t, &data);
        test_cuda_close(&t);
    }
}

/* A recorded step is replayed after other sequences were written over the ones it was recorded with. */
static void recorded_attention_reads_its_sequences_anew(void **state)
{
    (void)state;
    static const paged_case RECORDED = {32, 2, 128, 16, 2, false, {{1, 700}, {20, 150}, {1, 1}, {2, 300}}};
    test_cuda t;
    if (!open_device(&t, AGL_BF16, 32, 2, 128)) return;
    const agl_backend_ops *ops = t.cuda->ops;
    paged_data data = make_paged(&t, &RECORDED);
    agl_attention_paged_args device = paged_device_args(&t, &data, data.sequences, data.sequence_count, data.rows);
    device.context_max = 1024;
    agl_graph *graph = NULL;
    assert_int_equal(ops->graph_begin(t.cuda_stream), AGL_OK);
    assert_int_equal(ops->attention_paged(t.cuda_stream, &device), AGL_OK);
    assert_int_equal(ops->graph_end(t.cuda_stream, &graph, NULL), AGL_OK);

    float *want = test_alloc((size_t)(data.rows * data.width) * sizeof *want);
    agl_attention_paged_args args = paged_args(&data);
    args.out = want;
    for (int round = 0; round < 3; round++) {
        assert_int_equal(t.cpu->ops->attention_paged(t.cpu_stream, &args), AGL_OK);
        assert_int_equal(ops->upload(t.cuda_stream, (void *)(uintptr_t)device.sequences, data.sequences,
                                     (size_t)data.sequence_count * sizeof *data.sequences), AGL_OK);
        assert_int_equal(ops->graph_launch(t.cuda_stream, graph), AGL_OK);
        test_cuda_compare(&t, "recorded", device.out, AGL_BF16, want, (size_t)(data.rows * data.width), 0,
                          tolerance(AGL_BF16, RECORDED.q_scale));
        /* Rows change hands: the prefill ends up decoded, and the last sequence goes in tiles. */
        data.sequences[0].context -= 201, data.sequences[3].context -= 130;
        data.sequences[1].row_count -= 9, data.sequences[1].context -= 31;
        data.sequences[2].row_first -= 9, data.sequences[2].row_count = data.sequences[2].context = 1;
        data.sequences[3].row_first -= 9, data.sequences[3].row_count += 9;
    }
    ops->graph_destroy(t.cuda, graph);
    test_cuda_free(&t, device.out), test_cuda_free(&t, (void *)(uintptr_t)device.sequences);
    free(want);
    free_paged(&t, &data);
    test_cuda_close(&t);
}

/* ---- dense ----------------------------------------------------------------- */

static void check_dense(agl_dtype dtype, int64_t heads, int64_t head_dim, const int32_t *segments,
                        int64_t segment_count, float q_scale)
{
    test_cuda t;
    if (!open_device(&t, dtype, heads, heads, head_dim)) return;
    int64_t tokens = segments[segment_count], width = heads * head_dim;
    void *qkv_device;
    float *qkv = test_cuda_values(&t, &qkv_device, dtype, (size_t)(tokens * 3 * width), q_scale);
    float *want = test_alloc((size_t)(tokens * width) * sizeof *want);
    agl_attention_dense_args args = {.qkv = qkv, .out = want, .segments = segments,
                                     .segment_count = segment_count, .tokens = tokens, .heads = heads,
                                     .head_dim = head_dim, .scale = 1.0f / sqrtf((float)head_dim)};
    assert_int_equal(t.cpu->ops->attention_dense(t.cpu_stream, &args), AGL_OK);
    args.qkv = qkv_device;
    args.out = test_cuda_upload(&t, NULL, (size_t)(tokens * width) * agl_dtype_bytes(dtype));
    assert_int_equal(t.cuda->ops->attention_dense(t.cuda_stream, &args), AGL_OK);
    test_cuda_compare(&t, "dense", args.out, dtype, want, (size_t)(tokens * width), 0,
                      tolerance(dtype, q_scale * q_scale) * (double)(q_scale / VALUE_SCALE));
    test_cuda_free(&t, args.out), test_cuda_free(&t, qkv_device);
    free(qkv), free(want);
    test_cuda_close(&t);
}

static void dense_is_right(void **state)
{
    (void)state;
    static const int32_t RAGGED[] = {0, 1, 64, 128, 193, 323};
    static const int32_t MANY[] = {0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 51, 60};
    static const int32_t SHORT[] = {0, 37, 40};
    static const int32_t LONG[] = {0, 129, 129, 385, 1100, 1228};
    for (size_t d = 0; d < AGL_COUNT(DTYPES); d++) {
        check_dense(DTYPES[d], 1, 128, MANY, AGL_COUNT(MANY) - 1, 2);
        check_dense(DTYPES[d], 2, 80, SHORT, 2, 2);
        check_dense(DTYPES[d], 3, 16, SHORT, 2, 2);
        if (DTYPES[d] == AGL_F32 && !test_cuda_is_real()) continue;
        check_dense(DTYPES[d], 2, 128, RAGGED, AGL_COUNT(RAGGED) - 1, 2);
        check_dense(DTYPES[d], 5, 128, RAGGED, AGL_COUNT(RAGGED) - 1, 2); /* tiles of 128 rows */
        check_dense(DTYPES[d], 1, 128, RAGGED, AGL_COUNT(RAGGED) - 1, 8);
        if (DTYPES[d] != AGL_F32 && test_cuda_is_real()) {
            check_dense(DTYPES[d], 3, 128, LONG, AGL_COUNT(LONG) - 1, 2);
        }
    }
}

/* A picture that has become NaN leaves the one before it and the one behind it alone. */
static void pictures_do_not_see_each_other(void **state)
{
    (void)state;
    enum { HEADS = 2, WIDTH = HEADS * 128, TOKENS = 230 };
    static const int32_t SEGMENTS[] = {0, 70, 150, TOKENS};
    test_cuda t;
    if (!open_device(&t, AGL_BF16, HEADS, HEADS, 128)) return;
    float *values = test_floats(&t.random, TOKENS * 3 * WIDTH, 2);
    char *outs[2];
    for (int bad = 0; bad <= 1; bad++) {
        for (int32_t i = 70 * 3 * WIDTH; bad && i < 150 * 3 * WIDTH; i++) values[i] = NAN;
        void *packed = test_cuda_pack(AGL_BF16, values, TOKENS * 3 * WIDTH);
        agl_attention_dense_args args = {
            .qkv = test_cuda_upload(&t, packed, TOKENS * 3 * WIDTH * 2),
            .out = test_cuda_upload(&t, NULL, TOKENS * WIDTH * 2), .segments = SEGMENTS,
            .segment_count = 3, .tokens = TOKENS, .heads = HEADS, .head_dim = 128, .scale = 0.0884f};
        assert_int_equal(t.cuda->ops->attention_dense(t.cuda_stream, &args), AGL_OK);
        outs[bad] = test_alloc(TOKENS * WIDTH * 2);
        test_cuda_download(&t, outs[bad], args.out, TOKENS * WIDTH * 2);
        test_cuda_free(&t, args.out), test_cuda_free(&t, (void *)(uintptr_t)args.qkv);
        free(packed);
    }
    assert_memory_equal(outs[0], outs[1], 70 * WIDTH * 2);
    assert_memory_equal(outs[0] + 150 * WIDTH * 2, outs[1] + 150 * WIDTH * 2, 80 * WIDTH * 2);
    free(outs[0]), free(outs[1]), free(values);
    test_cuda_close(&t);
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    test_cuda t;
    if (!open_device(&t, AGL_BF16, 32, 2, 128)) return;
    paged_data data = make_paged(&t, &PAGED[0]);
    agl_attention_paged_args args = paged_device_args(&t, &data, data.sequences, data.sequence_count, data.rows);
    agl_attention_paged_args bad = args;
    bad.kv.dtype = AGL_F32;
    assert_int_equal(t.cuda->ops->attention_paged(t.cuda_stream, &bad), AGL_ERR_UNSUPPORTED);
    bad = args, bad.kv.head_dim = 512;
    assert_int_equal(t.cuda->ops->attention_paged(t.cuda_stream, &bad), AGL_ERR_UNSUPPORTED);
    bad = args, bad.heads = 31;
    assert_int_equal(t.cuda->ops->attention_paged(t.cuda_stream, &bad), AGL_ERR_ARGUMENT);
    bad = args, bad.context_max = 0;
    assert_int_equal(t.cuda->ops->attention_paged(t.cuda_stream, &bad), AGL_ERR_ARGUMENT);
    static const int32_t BACKWARDS[] = {0, 3, 2};
    agl_attention_dense_args dense = {.qkv = args.q, .out = args.out, .segments = BACKWARDS,
                                      .segment_count = 2, .tokens = 2, .heads = 1, .head_dim = 128,
                                      .scale = 1.0f};
    assert_int_equal(t.cuda->ops->attention_dense(t.cuda_stream, &dense), AGL_ERR_ARGUMENT);
    test_cuda_free(&t, args.out), test_cuda_free(&t, (void *)(uintptr_t)args.sequences);
    free_paged(&t, &data);
    test_cuda_close(&t);
}

/* ---- bench ----------------------------------------------------------------- */

/* Seconds of one of `runs` launches, back to back. */
static double bench_seconds(test_cuda *t, agl_status (*launch)(test_cuda *, const void *), const void *args, int runs)
{
    double best = INFINITY;
    for (int round = 0; round < 4; round++) {
        double start = agl_clock_s();
        for (int i = 0; i < runs; i++) assert_int_equal(launch(t, args), AGL_OK);
        assert_int_equal(t->cuda->ops->stream_wait(t->cuda_stream, NULL), AGL_OK);
        best = fmin(best, (agl_clock_s() - start) / runs);
    }
    return best;
}

/* Random values: with zeros the tensor cores draw less power, and the clock is higher. */
static void *bench_values(test_cuda *t, size_t count)
{
    enum { PERIOD = 1 << 20 };
    float *values = test_floats(&t->random, PERIOD, 2);
    uint16_t *packed = test_alloc(count * sizeof *packed);
    for (size_t i = 0; i < count && i < PERIOD; i++) packed[i] = agl_f32_to_bf16(values[i]);
    for (size_t i = PERIOD; i < count; i += PERIOD) {
        memcpy(packed + i, packed, (count - i < PERIOD ? count - i : PERIOD) * sizeof *packed);
    }
    void *device = test_cuda_upload(t, packed, count * sizeof *packed);
    free(values), free(packed);
    return device;
}

static agl_status launch_paged(test_cuda *t, const void *args)
{
    return t->cuda->ops->attention_paged(t->cuda_stream, args);
}

static agl_status launch_dense(test_cuda *t, const void *args)
{
    return t->cuda->ops->attention_dense(t->cuda_stream, args);
}

/* Recorded, as a step is: one launch behind the other, each with the keys of another layer, so that
 * they come from memory and not from the cache. */
static double bench_layers(test_cuda *t, agl_attention_paged_args *layers, int count)
{
    const agl_backend_ops *ops = t->cuda->ops;
    int runs = count < 40 ? 40 : count;
    agl_graph *graph;
    double best = INFINITY;
    assert_int_equal(launch_paged(t, layers), AGL_OK);
    assert_int_equal(ops->stream_wait(t->cuda_stream, NULL), AGL_OK);
    assert_int_equal(ops->graph_begin(t->cuda_stream), AGL_OK);
    for (int i = 0; i < runs; i++) assert_int_equal(launch_paged(t, &layers[i % count]), AGL_OK);
    assert_int_equal(ops->graph_end(t->cuda_stream, &graph, NULL), AGL_OK);
    for (int round = 0; round < 4; round++) {
        double start = agl_clock_s();
        assert_int_equal(ops->graph_launch(t->cuda_stream, graph), AGL_OK);
        assert_int_equal(ops->stream_wait(t->cuda_stream, NULL), AGL_OK);
        best = fmin(best, (agl_clock_s() - start) / runs);
    }
    ops->graph_destroy(t->cuda, graph);
    return best;
}

static void bench_paged(int32_t sequence_count, int32_t rows, int32_t context)
{
    enum { HEADS = 32, KV_HEADS = 2, DIM = 128, PAGE = 16, WIDTH = HEADS * DIM, LAYERS_MAX = 400 };
    test_cuda t;
    if (!open_device(&t, AGL_BF16, HEADS, KV_HEADS, DIM)) return;
    int32_t entries = (context + PAGE - 1) / PAGE, total = rows * sequence_count;
    size_t kv_bytes = (size_t)sequence_count * (size_t)entries * PAGE * KV_HEADS * DIM * 2;
    agl_attention_sequence *sequences = test_alloc((size_t)sequence_count * sizeof *sequences);
    int32_t *tables = test_alloc((size_t)sequence_count * (size_t)entries * sizeof *tables);
    for (int32_t i = 0; i < sequence_count * entries; i++) tables[i] = i;
    for (int32_t i = 0; i < sequence_count; i++) {
        sequences[i] = (agl_attention_sequence){i * rows, rows, context, i * entries};
    }
    agl_attention_paged_args args = {
        .q = bench_values(&t, (size_t)total * WIDTH),
        .out = test_cuda_upload(&t, NULL, (size_t)total * WIDTH * 2), .q_stride = WIDTH,
        .sequences = test_cuda_upload(&t, sequences, (size_t)sequence_count * sizeof *sequences),
        .page_tables = test_cuda_upload(&t, tables, (size_t)sequence_count * (size_t)entries * sizeof *tables),
        .sequence_count = sequence_count, .rows = total, .heads = HEADS, .context_max = context,
        .scale = 0.0884f,
        .kv = {.dtype = AGL_BF16, .page_tokens = PAGE, .kv_heads = KV_HEADS, .head_dim = DIM}};
    int layer_count = rows > 1 ? 1 : (int)((400u << 20) / (2 * kv_bytes)) + 1;
    if (layer_count > LAYERS_MAX) layer_count = LAYERS_MAX;
    agl_attention_paged_args layers[LAYERS_MAX];
    unsigned char *k = bench_values(&t, kv_bytes / 2 * (size_t)layer_count);
    unsigned char *v = bench_values(&t, kv_bytes / 2 * (size_t)layer_count);
    for (int i = 0; i < layer_count; i++) {
        layers[i] = args;
        layers[i].kv.k = k + kv_bytes * (size_t)i, layers[i].kv.v = v + kv_bytes * (size_t)i;
    }
    double seconds = bench_layers(&t, layers, layer_count);
    double pairs = ((double)rows * context - (double)rows * (rows - 1) / 2) * sequence_count;
    printf("paged %4d x %4d rows, context %5d   %9.2f us  %7.1f GB/s of K, V  %7.1f TFLOP/s\n", sequence_count,
           rows, context, seconds * 1e6, 2.0 * (double)kv_bytes / seconds / 1e9,
           4.0 * WIDTH * pairs / seconds / 1e12);
    free(sequences), free(tables);
    test_cuda_close(&t);
}

static void bench_dense(int32_t tokens)
{
    enum { HEADS = 12, WIDTH = HEADS * 128 };
    test_cuda t;
    if (!open_device(&t, AGL_BF16, HEADS, HEADS, 128)) return;
    int32_t segments[2] = {0, tokens};
    agl_attention_dense_args args = {.qkv = bench_values(&t, (size_t)tokens * 3 * WIDTH),
                                     .out = test_cuda_upload(&t, NULL, (size_t)tokens * WIDTH * 2),
                                     .segments = segments, .segment_count = 1, .tokens = tokens,
                                     .heads = HEADS, .head_dim = 128, .scale = 0.0884f};
    double seconds = bench_seconds(&t, launch_dense, &args, 5);
    printf("dense %5d tokens, %d heads            %9.2f us  %7.1f TFLOP/s\n", tokens, HEADS, seconds * 1e6,
           4.0 * WIDTH * (double)tokens * tokens / seconds / 1e12);
    test_cuda_close(&t);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench_paged(1, 1, 512), bench_paged(1, 1, 1000), bench_paged(1, 1, 6000), bench_paged(1, 1, 32000);
        bench_paged(4, 1, 2000), bench_paged(16, 1, 6000), bench_paged(256, 1, 768), bench_paged(64, 1, 3000);
        bench_paged(256, 1, 512), bench_paged(64, 1, 300);
        bench_paged(1, 40, 6000), bench_paged(1, 512, 512), bench_paged(1, 512, 6000);
        bench_paged(4, 500, 1500), bench_paged(1, 4900, 4900);
        bench_dense(3136), bench_dense(13416), bench_dense(25000);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paged_is_right),
        cmocka_unit_test(decode_does_not_depend_on_the_batch),
        cmocka_unit_test(prefill_does_not_depend_on_the_batch),
        cmocka_unit_test(prefill_does_not_depend_on_the_chunk),
        cmocka_unit_test(recorded_attention_reads_its_sequences_anew),
        cmocka_unit_test(dense_is_right),
        cmocka_unit_test(pictures_do_not_see_each_other),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
