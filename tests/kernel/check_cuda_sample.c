/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampling on the device against the portable backend: the same token, rank and alternatives
 * for every row; log-probabilities within 1e-5 (one is rounded from F64 sums, the other from
 * integer ones). A draw may differ only where random * mass falls within 1e-9 of a border
 * between two tokens, which these seeds do not do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/test_cuda.h"
#include "support/test_kernel.h"

enum { TOP_MAX = 1024, EDITS_MAX = 64 };

/* backend/cuda/cuda_backend.h, which needs CUDA's own headers. */
extern const int32_t *agl_cuda_sampled_tokens(const agl_backend *backend);

typedef struct {
    test_cuda t;
    const agl_backend_ops *ops; /* of the device                                */
    float *logits;              /* device [rows_max, vocab]                     */
    int64_t rows_max, vocab;
} pair;

static void pair_init(pair *both, int64_t rows_max, int64_t vocab)
{
    *both = (pair){.rows_max = rows_max, .vocab = vocab};
    if (!test_cuda_open(&both->t, AGL_BF16)) skip();
    both->ops = both->t.cuda->ops;
    agl_backend_limits limits = {
        .rows_max = rows_max, .sequences_max = rows_max, .logit_rows_max = rows_max,
        .context_max = 64, .heads = 1, .kv_heads = 1, .head_dim = 64, .vocab = vocab};
    assert_int_equal(both->ops->workspace_reserve(both->t.cuda, &limits, NULL), AGL_OK);
    both->logits = test_cuda_upload(&both->t, NULL, (size_t)(rows_max * vocab) * sizeof(float));
}

static void pair_deinit(pair *both)
{
    test_cuda_free(&both->t, both->logits);
    test_cuda_close(&both->t);
}

static void wait_for(pair *both)
{
    agl_error err = {0};
    if (both->ops->stream_wait(both->t.cuda_stream, &err) != AGL_OK) fail_msg("%s", err.message);
}

static agl_status queue_on_device(pair *both, const float *logits, int64_t rows, int64_t used,
                                  const agl_sample_row *params, agl_sample_result *results)
{
    agl_stream *stream = both->t.cuda_stream;
    agl_sample_args args = {.logits = both->logits, .rows = rows, .vocab = both->vocab,
                            .vocab_used = used, .params = params, .results = results};
    assert_int_equal(both->ops->upload(stream, both->logits, logits,
                                       (size_t)(rows * both->vocab) * sizeof *logits), AGL_OK);
    return both->ops->sample(stream, &args);
}

static void sample_on_host(pair *both, const float *logits, int64_t rows, int64_t used,
                           const agl_sample_row *params, agl_sample_result *results)
{
    agl_sample_args args = {.logits = logits, .rows = rows, .vocab = both->vocab,
                            .vocab_used = used, .params = params, .results = results};
    assert_int_equal(both->t.cpu->ops->sample(both->t.cpu_stream, &args), AGL_OK);
}

static agl_sample_result *results_create(int64_t rows, const agl_sample_row *params)
{
    agl_sample_result *results = test_alloc((size_t)rows * sizeof *results);
    for (int64_t i = 0; i < rows; i++) {
        if (params[i].logprobs > 0) {
            results[i].top = test_alloc((size_t)params[i].logprobs * sizeof *results[i].top);
        }
    }
    return results;
}

static void results_destroy(agl_sample_result *results, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) free(results[i].top);
    free(results);
}

static void same_logprob(float got, float want)
{
    if (isnan(want)) assert_true(isnan(got));
    else if (isinf(want)) assert_true(got == want);
    else test_close("logprob", got, (double)want, 1e-5 * (1.0 + fabs((double)want)));
}

static void same_results(const agl_sample_result *got, const agl_sample_result *want, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) {
        if (got[i].token != want[i].token) {
            print_error("row %d: token %d, not %d\n", (int)i, got[i].token, want[i].token);
        }
        assert_int_equal(got[i].token, want[i].token);
        assert_int_equal(got[i].rank, want[i].rank);
        same_logprob(got[i].logprob, want[i].logprob);
        assert_int_equal(got[i].top_count, want[i].top_count);
        for (int32_t j = 0; j < want[i].top_count; j++) {
            assert_int_equal(got[i].top[j].token, want[i].top[j].token);
            assert_int_equal(got[i].top[j].rank, want[i].top[j].rank);
            same_logprob(got[i].top[j].logprob, want[i].top[j].logprob);
        }
    }
}

/* The rows on both, compared. */
static void compare(pair *both, const float *logits, int64_t rows, int64_t used,
                    const agl_sample_row *params)
{
    agl_sample_result *got = results_create(rows, params), *want = results_create(rows, params);
    assert_int_equal(queue_on_device(both, logits, rows, used, params, got), AGL_OK);
    wait_for(both);
    sample_on_host(both, logits, rows, used, params, want);
    same_results(got, want, rows);
    results_destroy(got, rows);
    results_destroy(want, rows);
}

static agl_sample_row plain(float temperature)
{
    return (agl_sample_row){.temperature = temperature, .top_p = 1, .repetition_penalty = 1, .logprobs = -1};
}

/* ---- random rows ------------------------------------------------------------- */

typedef struct {
    agl_token_count counts[EDITS_MAX];
    agl_logit_bias bias[EDITS_MAX];
    uint32_t *allowed;
} row_lists;

static float pick(test_random *random, const float *values, uint32_t count)
{
    return values[test_random_u32(random) % count];
}

/* Some tokens are named twice, some lie outside of the vocabulary. */
static int32_t some_token(test_random *random, int64_t used)
{
    uint32_t range = test_random_u32(random) % 4 == 0 ? 20 : (uint32_t)used + 8;
    return (int32_t)(test_random_u32(random) % range) - 4;
}

static agl_sample_row random_row(test_random *random, row_lists *lists, int64_t used)
{
    static const float HEAT[] = {0, 0, 0.3f, 0.8f, 1, 2, 30, 1e-5f, 1e4f};
    static const float TOP_P[] = {1, 1, 0.95f, 0.6f, 0.1f, 1e-6f}, MIN_P[] = {0, 0, 0.05f, 0.7f, 1};
    static const int32_t TOP_K[] = {0, 0, 1, 2, 7, 50, 900, 100000}, LOGPROBS[] = {-1, -1, -1, 0, 1, 20};
    agl_sample_row row = {
        .temperature = pick(random, HEAT, AGL_COUNT(HEAT)), .top_p = pick(random, TOP_P, AGL_COUNT(TOP_P)),
        .min_p = pick(random, MIN_P, AGL_COUNT(MIN_P)), .top_k = TOP_K[test_random_u32(random) % AGL_COUNT(TOP_K)],
        .logprobs = LOGPROBS[test_random_u32(random) % AGL_COUNT(LOGPROBS)], .repetition_penalty = 1,
        .random = (double)test_random_u32(random) * 0x1p-32 + (double)test_random_u32(random) * 0x1p-64,
        .counts = lists->counts, .bias = lists->bias};
    if (test_random_u32(random) % 2) row.repetition_penalty = 1.1f;
    if (test_random_u32(random) % 2) row.frequency_penalty = 0.2f;
    if (test_random_u32(random) % 4 == 0) row.presence_penalty = -0.7f;
    if (test_random_u32(random) % 2) row.count_count = (int32_t)(test_random_u32(random) % EDITS_MAX);
    if (test_random_u32(random) % 2) row.bias_count = (int32_t)(test_random_u32(random) % EDITS_MAX);
    for (int32_t i = 0; i < EDITS_MAX; i++) {
        lists->counts[i] = (agl_token_count){some_token(random, used), (int32_t)(test_random_u32(random) % 4)};
        float bias = test_random_u32(random) % 8 == 0 ? -INFINITY : test_random_f32(random, 5.0f);
        lists->bias[i] = (agl_logit_bias){some_token(random, used), bias};
    }
    if (test_random_u32(random) % 5 == 0) row.allowed = lists->allowed;
    uint32_t sparse = test_random_u32(random) % 2;
    for (int64_t i = 0; i < (used + 31) / 32; i++) {
        lists->allowed[i] = test_random_u32(random);
        if (sparse && i % 7 != 0) lists->allowed[i] = 0;
    }
    return row;
}

/* Spread logits, ties on a coarse grid, a few good tokens among bad ones; some with NaN and
 * infinities. */
static void random_logits(test_random *random, float *logits, int64_t count, uint32_t kind)
{
    float spread = 1.0f + (float)(test_random_u32(random) % 12);
    for (int64_t i = 0; i < count; i++) {
        float v = test_random_f32(random, spread) + test_random_f32(random, spread);
        if (kind % 4 == 1) v = rintf(v);
        if (kind % 4 == 2 && test_random_u32(random) % 64 != 0) v -= 80;
        logits[i] = v;
    }
    if (kind % 9 == 5) {
        for (int i = 0; i < 10; i++) logits[test_random_u32(random) % count] = i % 3 ? NAN : -INFINITY;
    }
    if (kind % 17 == 11) logits[test_random_u32(random) % count] = INFINITY;
}

static void compare_random_rows(int64_t vocab, int64_t used, int64_t rows, int rounds, uint64_t seed)
{
    pair both;
    pair_init(&both, rows, vocab);
    test_random random = {seed};
    float *logits = test_alloc((size_t)(rows * vocab) * sizeof *logits);
    row_lists *lists = test_alloc((size_t)rows * sizeof *lists);
    agl_sample_row *params = test_alloc((size_t)rows * sizeof *params);
    for (int64_t i = 0; i < rows; i++) lists[i].allowed = test_alloc((size_t)(vocab + 31) / 32 * 4);
    for (int round = 0; round < rounds; round++) {
        for (int64_t i = 0; i < rows; i++) {
            random_logits(&random, logits + i * vocab, vocab, test_random_u32(&random));
            params[i] = random_row(&random, &lists[i], used);
        }
        compare(&both, logits, rows, used, params);
    }
    for (int64_t i = 0; i < rows; i++) free(lists[i].allowed);
    free(params);
    free(lists);
    free(logits);
    pair_deinit(&both);
}

static void random_rows_match_the_portable_backend(void **state)
{
    (void)state;
    compare_random_rows(1000, 1000, 40, test_cuda_is_real() ? 600 : 40, 1);
    compare_random_rows(8, 5, 3, 20, 2);
    compare_random_rows(1, 1, 2, 2, 3);
    compare_random_rows(33, 33, 7, 10, 4);
    compare_random_rows(4097, 4001, 24, 10, 5);     /* rows that are not aligned */
}

static void large_vocabularies_match(void **state)
{
    (void)state;
    compare_random_rows(151552, 151365, 10, test_cuda_is_real() ? 30 : 1, 6);
}

/* Every token of a bin is a tie, or the whole vocabulary is: bins are narrowed by ids. */
static void many_ties_match(void **state)
{
    (void)state;
    enum { VOCAB = 20000, ROWS = 12 };
    pair both;
    pair_init(&both, ROWS, VOCAB);
    test_random random = {8};
    float *logits = test_alloc((size_t)ROWS * VOCAB * sizeof *logits);
    agl_sample_row params[ROWS];
    for (int64_t i = 0; i < ROWS; i++) {
        for (int64_t token = 0; token < VOCAB; token++) {
            float v = i % 3 == 0 ? 0.0f : (float)(test_random_u32(&random) % 3);
            logits[i * VOCAB + token] = i % 3 == 2 ? v * 1e-3f : v;
        }
        params[i] = plain(i < 6 ? 1.0f : 0.5f);
        params[i].random = test_random_u32(&random) * 0x1p-32;
        params[i].top_p = i % 2 ? 0.37f : 1;
        params[i].top_k = i % 4 == 3 ? 15000 : 0;
        params[i].logprobs = i % 4 == 2 ? 700 : -1;
    }
    compare(&both, logits, ROWS, VOCAB, params);
    free(logits);
    pair_deinit(&both);
}

/* ---- borders ----------------------------------------------------------------- */

static void borders_match(void **state)
{
    (void)state;
    enum { VOCAB = 8 };
    pair both;
    pair_init(&both, 1, VOCAB);
    const float good[VOCAB] = {0, 1, 2, 3, 4, 9, 9, 9}, ties[VOCAB] = {1, 5, 5, 5, 0, 0, 0, -0.0f};
    const float zeros[VOCAB] = {-0.0f, 0, 0, -0.0f, 0, 0, 0, 0};
    const float broken[VOCAB] = {NAN, -INFINITY, NAN, 2, NAN, 1, NAN, NAN};
    const float high[VOCAB] = {1, INFINITY, 2, NAN, INFINITY, 0, 0, 0};
    float low[VOCAB], nan[VOCAB];
    for (int i = 0; i < VOCAB; i++) low[i] = -INFINITY, nan[i] = NAN;
    const float *const rows[] = {good, ties, zeros, broken, high, low, nan};
    static const double RANDOM[] = {0, 0.5, 1 - 0x1p-53};
    uint32_t none[1] = {0}, one[1] = {1u << 6};
    for (size_t i = 0; i < AGL_COUNT(rows) * 3 * 8; i++) {
        agl_sample_row row = plain(i % 2 ? 1 : 0);
        row.random = RANDOM[i / 8 % 3];
        row.logprobs = i % 4 < 2 ? VOCAB : -1;
        row.allowed = i % 8 == 2 ? none : i % 8 == 5 ? one : NULL;
        row.top_p = i % 8 == 3 ? 0 : i % 8 == 7 ? 0.5f : 1;
        row.top_k = i % 8 == 1 ? 1 : i % 8 == 6 ? VOCAB : 0;
        compare(&both, rows[i / 24], 1, i % 5 == 4 ? 5 : VOCAB, &row);
    }
    pair_deinit(&both);
}

/* How the prompt's own tokens are scored. */
static void forced_tokens_are_scored(void **state)
{
    (void)state;
    enum { VOCAB = 3000, ROWS = 9 };
    pair both;
    pair_init(&both, ROWS, VOCAB);
    test_random random = {21};
    float *logits = test_floats(&random, ROWS * VOCAB, 9.0f);
    agl_sample_row params[ROWS];
    agl_logit_bias forced[ROWS];
    for (int i = 0; i < ROWS; i++) {
        forced[i] = (agl_logit_bias){i * 311, 1e30f};
        params[i] = plain(0);
        params[i].logprobs = i;
        params[i].bias = &forced[i], params[i].bias_count = 1;
    }
    agl_sample_result *got = results_create(ROWS, params);
    assert_int_equal(queue_on_device(&both, logits, ROWS, VOCAB, params, got), AGL_OK);
    wait_for(&both);
    for (int i = 0; i < ROWS; i++) assert_int_equal(got[i].token, i * 311);
    results_destroy(got, ROWS);
    compare(&both, logits, ROWS, VOCAB, params);
    free(logits);
    pair_deinit(&both);
}

/* ---- calls ------------------------------------------------------------------- */

/* A row's bits do not depend on the rows beside it, nor on how many blocks share it. */
static void rows_are_independent(void **state)
{
    (void)state;
    enum { VOCAB = 9000, ROWS = 70 };
    pair both, single;
    pair_init(&both, ROWS, VOCAB);
    pair_init(&single, 1, VOCAB);
    test_random random = {77};
    float *logits = test_floats(&random, VOCAB * ROWS, 4.0f);
    agl_sample_row params[ROWS];
    for (int i = 0; i < ROWS; i++) {
        params[i] = plain(i % 3 ? 0.8f : 0);
        params[i].top_p = i % 2 ? 0.9f : 1;
        params[i].logprobs = i % 5 - 1;
        params[i].random = test_random_u32(&random) * 0x1p-32;
    }
    agl_sample_result *all = results_create(ROWS, params);
    assert_int_equal(queue_on_device(&both, logits, ROWS, VOCAB, params, all), AGL_OK);
    wait_for(&both);
    for (int i = 0; i < ROWS; i++) {
        agl_sample_result *alone = results_create(1, &params[i]);
        assert_int_equal(queue_on_device(&single, logits + i * VOCAB, 1, VOCAB, &params[i], alone), AGL_OK);
        wait_for(&single);
        assert_int_equal(alone->token, all[i].token);
        test_same_bits("logprob", &alone->logprob, &all[i].logprob, 1);
        results_destroy(alone, 1);
    }
    int32_t tokens[ROWS];       /* left for the next step */
    test_cuda_download(&both.t, tokens, agl_cuda_sampled_tokens(both.t.cuda), sizeof tokens);
    for (int i = 0; i < ROWS; i++) assert_int_equal(tokens[i], all[i].token);
    results_destroy(all, ROWS);
    free(logits);
    pair_deinit(&both);
    pair_deinit(&single);
}

/* Lists, masks and alternatives that exceed the planned block: it is filled several times. */
static void long_lists_go_in_groups(void **state)
{
    (void)state;
    enum { VOCAB = 2000, ROWS = 300 };
    pair both;
    pair_init(&both, ROWS, VOCAB);
    test_random random = {5};
    float *logits = test_floats(&random, VOCAB * ROWS, 4.0f);
    agl_token_count *counts = test_alloc(VOCAB * sizeof *counts);
    agl_logit_bias *bias = test_alloc((VOCAB + 4096) * sizeof *bias);
    uint32_t *allowed = test_alloc((VOCAB + 31) / 32 * sizeof *allowed);
    agl_sample_row params[ROWS];
    for (int i = 0; i < VOCAB; i++) counts[i] = (agl_token_count){(i * 7 + 3) % VOCAB, i % 3};
    for (int i = 0; i < VOCAB + 4096; i++) bias[i] = (agl_logit_bias){i % VOCAB, (float)(i % 11) - 5};
    for (int i = 0; i < (VOCAB + 31) / 32; i++) allowed[i] = test_random_u32(&random);
    for (int i = 0; i < ROWS; i++) {
        params[i] = plain(i % 2 ? 0.7f : 0);
        params[i].random = test_random_u32(&random) * 0x1p-32;
        params[i].frequency_penalty = 0.3f;
        params[i].counts = counts, params[i].count_count = i % 3 ? VOCAB : i;
        params[i].bias = bias, params[i].bias_count = i % 4 ? 40 : VOCAB + 4096;
        params[i].allowed = i % 6 < 3 ? allowed : NULL;
        params[i].logprobs = i % 50 == 7 ? TOP_MAX : i % 9 == 0 ? 20 : -1;
    }
    compare(&both, logits, ROWS, VOCAB, params);
    free(allowed);
    free(bias);
    free(counts);
    free(logits);
    pair_deinit(&both);
}

/* More calls than places for results; only the last wait is the caller's. */
static void calls_may_overlap(void **state)
{
    (void)state;
    enum { VOCAB = 600, ROWS = 5, CALLS = 7 };
    pair both;
    pair_init(&both, ROWS, VOCAB);
    test_random random = {31};
    float *logits = test_floats(&random, CALLS * ROWS * VOCAB, 5.0f);
    agl_sample_row params[ROWS];
    agl_sample_result *got[CALLS], *want[CALLS];
    for (int i = 0; i < ROWS; i++) {
        params[i] = plain(i % 2 ? 1 : 0);
        params[i].random = 0.3, params[i].logprobs = i - 1;
    }
    for (int call = 0; call < CALLS; call++) {
        const float *rows = logits + call * ROWS * VOCAB;
        got[call] = results_create(ROWS, params);
        want[call] = results_create(ROWS, params);
        assert_int_equal(queue_on_device(&both, rows, ROWS, VOCAB, params, got[call]), AGL_OK);
        sample_on_host(&both, rows, ROWS, VOCAB, params, want[call]);
    }
    wait_for(&both);
    for (int call = 0; call < CALLS; call++) {
        same_results(got[call], want[call], ROWS);
        results_destroy(got[call], ROWS);
        results_destroy(want[call], ROWS);
    }
    free(logits);
    pair_deinit(&both);
}

static void what_exceeds_the_limits_is_refused(void **state)
{
    (void)state;
    enum { VOCAB = 1500, ROWS = 2 };
    pair both;
    pair_init(&both, ROWS, VOCAB);
    test_random random = {9};
    float *logits = test_floats(&random, (ROWS + 1) * VOCAB, 5.0f);
    agl_sample_row params[ROWS + 1] = {plain(0), plain(0), plain(0)};
    agl_sample_result results[ROWS + 1] = {{0}};
    agl_sample_args args = {.logits = both.logits, .rows = ROWS + 1, .vocab = VOCAB, .vocab_used = VOCAB,
                            .params = params, .results = results};
    const agl_backend_ops *ops = both.ops;
    agl_stream *stream = both.t.cuda_stream;
    assert_int_equal(ops->sample(stream, &args), AGL_ERR_LIMIT);
    args.rows = ROWS;
    params[1].logprobs = TOP_MAX + 1;
    assert_int_equal(ops->sample(stream, &args), AGL_ERR_LIMIT);
    params[1] = plain(0);
    params[1].bias_count = 100000;
    assert_int_equal(ops->sample(stream, &args), AGL_ERR_LIMIT);
    args.vocab_used = VOCAB + 1;
    assert_int_equal(ops->sample(stream, &args), AGL_ERR_ARGUMENT);
    params[1].bias_count = 0;
    compare(&both, logits, ROWS, VOCAB, params);
    free(logits);
    pair_deinit(&both);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_rows_match_the_portable_backend),
        cmocka_unit_test(large_vocabularies_match),
        cmocka_unit_test(many_ties_match),
        cmocka_unit_test(borders_match),
        cmocka_unit_test(forced_tokens_are_scored),
        cmocka_unit_test(rows_are_independent),
        cmocka_unit_test(long_lists_go_in_groups),
        cmocka_unit_test(calls_may_overlap),
        cmocka_unit_test(what_exceeds_the_limits_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
