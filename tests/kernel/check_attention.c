/* SPDX-License-Identifier: Apache-2.0
 *
 * Paged and dense attention of every variant, against an F64 softmax.
 *
 * Tolerance: the output is a weighted mean of values, so its error is relative to the
 * largest |v|. Scores of magnitude s carry an error of about s * head_dim * 2^-24 into the
 * exponent, sums over keys a little more: 4e-5 of max |v| is 10 times what is seen.
 *
 * Bits: a row does not depend on the chunk of the prefill it is computed in, on the other
 * sequences of the step, or on the number of threads. */
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

#define TOLERANCE 4e-5
#define SEQUENCES_MAX 4

typedef struct {
    agl_dtype dtype;
    int64_t heads, kv_heads, head_dim, page_tokens;
    int32_t contexts[SEQUENCES_MAX];   /* whole sequences; 0 ends the list */
} paged_case;

static const paged_case PAGED[] = {
    {AGL_F32, 2, 1, 16, 16, {1, 2, 70}},
    {AGL_BF16, 32, 2, 128, 16, {65, 64, 31}},
    {AGL_F16, 8, 2, 64, 5, {33, 101}},
    {AGL_F32, 4, 4, 40, 7, {100}},               /* head_dim that fills no tile; page borders */
    {AGL_BF16, 3, 1, 256, 64, {77, 9}},
    {AGL_BF16, 2, 1, 32, 16, {1030}},            /* more than one span, and its border        */
};

typedef struct {
    const paged_case *c;
    int64_t tokens, width;
    void *k, *v;                /* pages in shuffled order */
    float *q;                   /* [tokens, heads * head_dim] of all sequences whole */
    int32_t *tables;            /* sequences one after the other */
    int32_t table_first[SEQUENCES_MAX], token_first[SEQUENCES_MAX];
    int32_t sequences;
} paged_data;

static paged_data make_paged(const paged_case *c)
{
    test_random random = {(uint64_t)c->head_dim * 7 + (uint64_t)c->heads};
    paged_data data = {.c = c, .width = c->heads * c->head_dim};
    int32_t pages = 0;
    for (int i = 0; i < SEQUENCES_MAX && c->contexts[i] > 0; i++, data.sequences++) {
        data.table_first[i] = pages;
        data.token_first[i] = (int32_t)data.tokens;
        pages += (int32_t)((c->contexts[i] + c->page_tokens - 1) / c->page_tokens);
        data.tokens += c->contexts[i];
    }
    data.tables = test_alloc((size_t)pages * sizeof *data.tables);
    for (int32_t i = 0; i < pages; i++) data.tables[i] = i;
    for (int32_t i = pages - 1; i > 0; i--) {
        int32_t j = (int32_t)(test_random_u32(&random) % (uint32_t)(i + 1));
        int32_t held = data.tables[i];
        data.tables[i] = data.tables[j];
        data.tables[j] = held;
    }
    size_t count = (size_t)(pages * c->page_tokens * c->kv_heads * c->head_dim);
    data.k = test_elements(&random, c->dtype, count, 1.0f);
    data.v = test_elements(&random, c->dtype, count, 2.0f);
    data.q = test_floats(&random, (size_t)(data.tokens * data.width), 3.0f);
    return data;
}

static void free_paged(paged_data *data)
{
    free(data->k), free(data->v), free(data->q), free(data->tables);
}

static int64_t element_of(const paged_data *data, int sequence, int64_t key, int64_t kv_head)
{
    const paged_case *c = data->c;
    int64_t page = data->tables[data->table_first[sequence] + key / c->page_tokens];
    return ((page * c->kv_heads + kv_head) * c->page_tokens + key % c->page_tokens) * c->head_dim;
}

static void paged_reference(double *want, const paged_data *data, int sequence, int64_t token)
{
    const paged_case *c = data->c;
    double *weights = test_alloc((size_t)(token + 1) * sizeof *weights);
    for (int64_t head = 0; head < c->heads; head++) {
        const float *q = data->q + (data->token_first[sequence] + token) * data->width + head * c->head_dim;
        int64_t kv_head = head / (c->heads / c->kv_heads);
        double max = -INFINITY, sum = 0;
        for (int64_t key = 0; key <= token; key++) {
            int64_t at = element_of(data, sequence, key, kv_head);
            double score = 0;
            for (int64_t i = 0; i < c->head_dim; i++) score += (double)q[i] * test_element(data->k, c->dtype, at + i);
            weights[key] = score / sqrt((double)c->head_dim);
            if (weights[key] > max) max = weights[key];
        }
        for (int64_t key = 0; key <= token; key++) sum += weights[key] = exp(weights[key] - max);
        double *out = want + head * c->head_dim;
        for (int64_t i = 0; i < c->head_dim; i++) out[i] = 0;
        for (int64_t key = 0; key <= token; key++) {
            int64_t at = element_of(data, sequence, key, kv_head);
            for (int64_t i = 0; i < c->head_dim; i++) {
                out[i] += weights[key] / sum * test_element(data->v, c->dtype, at + i);
            }
        }
    }
    free(weights);
}

/* All tokens of all sequences, `chunk` tokens of each a step; sequences share steps. */
static void run_paged(agl_backend *backend, float *out, const paged_data *data, int64_t chunk)
{
    const paged_case *c = data->c;
    float *q = test_alloc((size_t)(data->tokens * data->width) * sizeof *q);
    float *step_out = test_alloc((size_t)(data->tokens * data->width) * sizeof *q);
    int64_t longest = 0;
    for (int i = 0; i < data->sequences; i++) if (c->contexts[i] > longest) longest = c->contexts[i];
    for (int64_t first = 0; first < longest; first += chunk) {
        agl_attention_sequence sequences[SEQUENCES_MAX];
        int64_t count = 0, rows = 0;
        for (int i = 0; i < data->sequences; i++) {
            int64_t left = c->contexts[i] - first, take = left < chunk ? left : chunk;
            if (take <= 0) continue;
            sequences[count++] = (agl_attention_sequence){
                .row_first = (int32_t)rows, .row_count = (int32_t)take,
                .context = (int32_t)(first + take), .page_table = data->table_first[i]};
            memcpy(q + rows * data->width, data->q + (data->token_first[i] + first) * data->width,
                   (size_t)(take * data->width) * sizeof *q);
            rows += take;
        }
        agl_attention_paged_args args = {
            .q = q, .out = step_out, .q_stride = data->width, .sequences = sequences,
            .page_tables = data->tables, .sequence_count = count, .rows = rows, .heads = c->heads,
            .context_max = longest, .scale = 1.0f / sqrtf((float)c->head_dim),
            .kv = {.k = data->k, .v = data->v, .dtype = c->dtype, .page_tokens = c->page_tokens,
                   .kv_heads = c->kv_heads, .head_dim = c->head_dim}};
        assert_int_equal(backend->ops->attention_paged(test_stream(backend), &args), AGL_OK);
        rows = 0;
        for (int i = 0; i < data->sequences; i++) {
            int64_t left = c->contexts[i] - first, take = left < chunk ? left : chunk;
            if (take <= 0) continue;
            memcpy(out + (data->token_first[i] + first) * data->width, step_out + rows * data->width,
                   (size_t)(take * data->width) * sizeof *q);
            rows += take;
        }
    }
    free(q), free(step_out);
}

static void check_paged(const test_variant *variant, const paged_case *c)
{
    paged_data data = make_paged(c);
    size_t count = (size_t)(data.tokens * data.width);
    float *whole = test_alloc(count * sizeof *whole), *other = test_alloc(count * sizeof *other);
    double *want = test_alloc((size_t)data.width * sizeof *want);
    agl_backend *backend = test_backend_create(variant, 1);
    run_paged(backend, whole, &data, INT32_MAX);
    for (int sequence = 0; sequence < data.sequences; sequence++) {
        for (int64_t token = 0; token < c->contexts[sequence]; token++) {
            /* Long sequences: the rows around the borders of blocks and spans, and the last. */
            if (c->contexts[sequence] > 256 && token % 64 > 1 && token + 2 < c->contexts[sequence]) continue;
            paged_reference(want, &data, sequence, token);
            for (int64_t i = 0; i < data.width; i++) {
                test_close(variant->name, whole[(data.token_first[sequence] + token) * data.width + i],
                           want[i], TOLERANCE * 2.0);
            }
        }
    }
    static const int64_t CHUNKS[] = {INT32_MAX, 1, 3, 17, 64, 100};
    bool is_portable = variant->isa_needed == 0;
    for (uint32_t threads = 1; threads <= 3; threads += 2) {
        agl_backend *again = test_backend_create(variant, threads);
        for (size_t i = 0; i < AGL_COUNT(CHUNKS); i++) {
            /* Row by row, plain C cannot depend on its company: one chunking is enough. */
            if (is_portable && (CHUNKS[i] != 17 || data.tokens > 200)) continue;
            if (data.tokens > 200 && CHUNKS[i] < 64) continue;
            run_paged(again, other, &data, CHUNKS[i]);
            test_same_bits(variant->name, other, whole, count);
        }
        again->ops->destroy(again);
    }
    backend->ops->destroy(backend);
    free(whole), free(other), free(want);
    free_paged(&data);
}

static void paged_is_right_and_independent_of_chunks(void **state)
{
    (void)state;
    for (const test_variant *variant = TEST_VARIANTS; variant->name != NULL; variant++) {
        if (!test_variant_runs(variant)) continue;
        for (size_t i = 0; i < AGL_COUNT(PAGED); i++) check_paged(variant, &PAGED[i]);
    }
}

/* One decode row far into a context, alone on many threads (spans in waves) and in a crowd. */
static void decode_equals_prefill(void **state)
{
    (void)state;
    static const paged_case LONG = {AGL_BF16, 4, 2, 16, 16, {2200, 40}};
    for (const test_variant *variant = TEST_VARIANTS; variant->name != NULL; variant++) {
        if (!test_variant_runs(variant) || variant->isa_needed == 0) continue;
        paged_data data = make_paged(&LONG);
        size_t count = (size_t)(data.tokens * data.width);
        float *whole = test_alloc(count * sizeof *whole), *row = test_alloc((size_t)data.width * sizeof *row);
        agl_backend *one = test_backend_create(variant, 1), *many = test_backend_create(variant, 4);
        run_paged(one, whole, &data, INT32_MAX);
        for (int32_t token = 2199; token > 900; token -= 211) {
            agl_attention_sequence sequence = {.row_first = 0, .row_count = 1, .context = token + 1};
            agl_attention_paged_args args = {
                .q = data.q + token * data.width, .out = row, .q_stride = data.width,
                .sequences = &sequence, .page_tables = data.tables, .sequence_count = 1, .rows = 1,
                .heads = LONG.heads, .context_max = token + 1, .scale = 1.0f / sqrtf(16.0f),
                .kv = {.k = data.k, .v = data.v, .dtype = LONG.dtype, .page_tokens = 16,
                       .kv_heads = LONG.kv_heads, .head_dim = LONG.head_dim}};
            assert_int_equal(many->ops->attention_paged(test_stream(many), &args), AGL_OK);
            test_same_bits(variant->name, row, whole + token * data.width, (size_t)data.width);
        }
        one->ops->destroy(one), many->ops->destroy(many);
        free(whole), free(row);
        free_paged(&data);
    }
}

/* ---- dense ----------------------------------------------------------------- */

static void check_dense(const test_variant *variant, int64_t heads, int64_t head_dim,
                        const int32_t *segments, int64_t segment_count)
{
    test_random random = {(uint64_t)head_dim};
    int64_t tokens = segments[segment_count], width = heads * head_dim;
    float *qkv = test_floats(&random, (size_t)(tokens * 3 * width), 2.0f);
    float *out = test_alloc((size_t)(tokens * width) * sizeof *out);
    float *again = test_alloc((size_t)(tokens * width) * sizeof *out);
    double *weights = test_alloc((size_t)tokens * sizeof *weights);
    agl_attention_dense_args args = {.qkv = qkv, .out = out, .segments = segments,
                                     .segment_count = segment_count, .tokens = tokens,
                                     .heads = heads, .head_dim = head_dim,
                                     .scale = 1.0f / sqrtf((float)head_dim)};
    for (uint32_t threads = 1; threads <= 3; threads++) {
        agl_backend *backend = test_backend_create(variant, threads);
        args.out = threads == 1 ? out : again;
        assert_int_equal(backend->ops->attention_dense(test_stream(backend), &args), AGL_OK);
        if (threads > 1) test_same_bits(variant->name, again, out, (size_t)(tokens * width));
        backend->ops->destroy(backend);
    }
    for (int64_t s = 0; s < segment_count; s++) {
        for (int64_t token = segments[s]; token < segments[s + 1]; token += tokens > 500 ? 37 : 1) {
            for (int64_t head = 0; head < heads; head++) {
                const float *q = qkv + token * 3 * width + head * head_dim;
                double max = -INFINITY, sum = 0;
                for (int64_t key = segments[s]; key < segments[s + 1]; key++) {
                    const float *k = qkv + key * 3 * width + width + head * head_dim;
                    double score = 0;
                    for (int64_t i = 0; i < head_dim; i++) score += (double)q[i] * k[i];
                    weights[key] = score / sqrt((double)head_dim);
                    if (weights[key] > max) max = weights[key];
                }
                for (int64_t key = segments[s]; key < segments[s + 1]; key++) {
                    sum += weights[key] = exp(weights[key] - max);
                }
                for (int64_t i = 0; i < head_dim; i++) {
                    double want = 0;
                    for (int64_t key = segments[s]; key < segments[s + 1]; key++) {
                        want += weights[key] / sum * qkv[key * 3 * width + 2 * width + head * head_dim + i];
                    }
                    test_close(variant->name, out[token * width + head * head_dim + i], want, TOLERANCE * 2.0);
                }
            }
        }
    }
    free(qkv), free(out), free(again), free(weights);
}

static void dense_is_right(void **state)
{
    (void)state;
    static const int32_t RAGGED[] = {0, 1, 5, 100, 197};
    static const int32_t LONG[] = {0, 1050};
    for (const test_variant *variant = TEST_VARIANTS; variant->name != NULL; variant++) {
        if (!test_variant_runs(variant)) continue;
        check_dense(variant, 2, 128, RAGGED, 4);
        check_dense(variant, 2, 24, RAGGED, 4);
        check_dense(variant, 1, 16, LONG, 1);
    }
}

/* ---- bench ----------------------------------------------------------------- */

typedef struct {
    agl_backend *backend;
    agl_attention_dense_args dense;
    agl_attention_paged_args paged;
} attention_bench;

static void bench_dense(void *context)
{
    attention_bench *bench = context;
    assert_int_equal(bench->backend->ops->attention_dense(test_stream(bench->backend), &bench->dense), AGL_OK);
}

static void bench_paged(void *context)
{
    attention_bench *bench = context;
    assert_int_equal(bench->backend->ops->attention_paged(test_stream(bench->backend), &bench->paged), AGL_OK);
}

static void bench_dense_tokens(agl_backend *backend, int32_t tokens, test_limits limits)
{
    enum { HEADS = 2, HEAD_DIM = 128 };
    test_random random = {1};
    int32_t segments[2] = {0, tokens};
    float *qkv = test_floats(&random, (size_t)tokens * 3 * HEADS * HEAD_DIM, 1.0f);
    float *out = test_alloc((size_t)tokens * HEADS * HEAD_DIM * sizeof *out);
    attention_bench bench = {.backend = backend, .dense = {
        .qkv = qkv, .out = out, .segments = segments, .segment_count = 1, .tokens = tokens,
        .heads = HEADS, .head_dim = HEAD_DIM, .scale = 0.0884f}};
    double seconds = test_best_seconds(bench_dense, &bench, tokens > 5000 ? 2 : 4);
    double gflop_s = 4.0 * HEADS * HEAD_DIM * (double)tokens * tokens / seconds / 1e9;
    printf("dense  %6d tokens, %d heads        %9.2f ms  %7.1f GFLOP/s (%3.0f %%)\n", tokens, HEADS,
           seconds * 1e3, gflop_s, 100 * gflop_s / limits.fma_gflop_s);
    free(qkv), free(out);
}

static void bench_paged_rows(agl_backend *backend, int32_t rows, int32_t context, test_limits limits)
{
    enum { HEADS = 32, KV_HEADS = 2, HEAD_DIM = 128, PAGE = 16, WIDTH = HEADS * HEAD_DIM };
    test_random random = {1};
    int32_t pages = (context + PAGE - 1) / PAGE;
    size_t count = (size_t)pages * PAGE * KV_HEADS * HEAD_DIM;
    void *k = test_elements(&random, AGL_BF16, count, 1.0f), *v = test_elements(&random, AGL_BF16, count, 1.0f);
    float *q = test_floats(&random, (size_t)rows * WIDTH, 1.0f), *out = test_alloc((size_t)rows * WIDTH * 4);
    int32_t *table = test_alloc((size_t)pages * sizeof *table);
    for (int32_t i = 0; i < pages; i++) table[i] = i;
    agl_attention_sequence sequence = {.row_count = rows, .context = context};
    attention_bench bench = {.backend = backend, .paged = {
        .q = q, .out = out, .q_stride = WIDTH, .sequences = &sequence, .page_tables = table,
        .sequence_count = 1, .rows = rows, .heads = HEADS, .context_max = context, .scale = 0.0884f,
        .kv = {.k = k, .v = v, .dtype = AGL_BF16, .page_tokens = PAGE, .kv_heads = KV_HEADS, .head_dim = HEAD_DIM}}};
    double seconds = test_best_seconds(bench_paged, &bench, rows == 1 ? 20 : 4);
    double pairs = (double)rows * context - (double)rows * (rows - 1) / 2;
    double gflop_s = 4.0 * WIDTH * pairs / seconds / 1e9;
    printf("paged  %6d rows, context %6d     %9.3f ms  %7.1f GFLOP/s (%3.0f %%)  K, V %5.1f GB/s\n", rows,
           context, seconds * 1e3, gflop_s, 100 * gflop_s / limits.fma_gflop_s,
           (double)count * 4 / seconds / 1e9);
    free(k), free(v), free(q), free(out), free(table);
}

static int bench_all(const char *variant_name, uint32_t threads)
{
    test_limits limits = test_limits_measure(threads);
    printf("threads %u: read %.1f GB/s, FMA %.1f GFLOP/s\n", threads, limits.read_gb_s, limits.fma_gflop_s);
    for (const test_variant *variant = TEST_VARIANTS; variant->name != NULL; variant++) {
        if (strcmp(variant->name, variant_name) != 0 || !test_variant_runs(variant)) continue;
        agl_backend *backend = test_backend_create(variant, threads);
        printf("%s\n", backend->description);
        bench_dense_tokens(backend, 784, limits);
        bench_dense_tokens(backend, 2500, limits);
        bench_dense_tokens(backend, 13000, limits);
        bench_paged_rows(backend, 1, 768, limits);
        bench_paged_rows(backend, 1, 6000, limits);
        bench_paged_rows(backend, 512, 512, limits);
        bench_paged_rows(backend, 512, 6000, limits);
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
        cmocka_unit_test(paged_is_right_and_independent_of_chunks),
        cmocka_unit_test(decode_equals_prefill),
        cmocka_unit_test(dense_is_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
