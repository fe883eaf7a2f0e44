/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampling against a reference that sorts everything: the same tokens for the same
 * `random`, over many settings. Draws whose target lies within 1e-9 of a border between
 * two tokens are left out: the sums are taken in another order there. */
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

typedef struct {
    float logit;
    int32_t token;
    double mass;
} entry;

static int best_first(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->token < y->token ? -1 : 1;
}

/* The entries that survive all filters, best first; returns how many. */
static int64_t reference_filter(entry *entries, const float *logits, int64_t vocab, const agl_sample_row *row)
{
    float *work = test_alloc((size_t)vocab * sizeof *work);
    memcpy(work, logits, (size_t)vocab * sizeof *work);
    for (int32_t i = 0; i < row->count_count; i++) {
        float *logit = &work[row->counts[i].token];
        *logit = *logit > 0 ? *logit / row->repetition_penalty : *logit * row->repetition_penalty;
        if (row->counts[i].output_count == 0) continue;
        *logit -= row->frequency_penalty * (float)row->counts[i].output_count;
        *logit -= row->presence_penalty;
    }
    for (int32_t i = 0; i < row->bias_count; i++) work[row->bias[i].token] += row->bias[i].bias;
    int64_t count = 0;
    for (int32_t token = 0; token < vocab; token++) {
        if (row->allowed != NULL && !(row->allowed[token / 32] >> (token % 32) & 1)) continue;
        entries[count++] = (entry){.logit = work[token], .token = token};
    }
    free(work);
    qsort(entries, (size_t)count, sizeof *entries, best_first);
    if (row->temperature == 0) return 1;
    for (int64_t i = 0; i < count; i++) {
        entries[i].mass = exp((double)(entries[i].logit - entries[0].logit) / (double)row->temperature);
    }
    int64_t kept = 0;
    while (kept < count && entries[kept].mass >= (double)row->min_p) kept++;
    if (row->top_k > 0 && row->top_k < kept) kept = row->top_k;
    double total = 0, running = 0;
    for (int64_t i = 0; i < kept; i++) total += entries[i].mass;
    for (int64_t i = 0; row->top_p < 1 && i < kept; i++) {
        running += entries[i].mass;
        if (running >= (double)row->top_p * total - 1e-12) kept = i + 1;
    }
    return kept;
}

/* -1: too close to a border to say. */
static int32_t reference_draw(const entry *entries, int64_t count, double random)
{
    double total = 0, running = 0;
    for (int64_t i = 0; i < count; i++) total += entries[i].mass;
    for (int64_t i = 0; i < count; i++) {
        running += entries[i].mass;
        if (fabs(running - random * total) < 1e-9 * total) return -1;
        if (running > random * total) return entries[i].token;
    }
    return entries[count - 1].token;
}

static agl_sample_result sample_one(agl_backend *backend, const float *logits, int64_t vocab, int64_t vocab_used,
                                    const agl_sample_row *row, agl_token_logprob *top)
{
    agl_sample_result result = {.top = top};
    agl_sample_args args = {.logits = logits, .rows = 1, .vocab = vocab, .vocab_used = vocab_used,
                            .params = row, .results = &result};
    assert_int_equal(backend->ops->sample(test_stream(backend), &args), AGL_OK);
    return result;
}

static agl_sample_row plain(float temperature)
{
    return (agl_sample_row){.temperature = temperature, .top_p = 1, .repetition_penalty = 1, .logprobs = -1};
}

static void draws_match_a_full_sort(void **state)
{
    (void)state;
    enum { VOCAB = 500, COUNTS = 12 };
    agl_backend *backend = test_backend_create(&TEST_VARIANTS[0], 1);
    test_random random = {99};
    entry entries[VOCAB];
    int compared = 0;
    for (int round = 0; round < 3000; round++) {
        float *logits = test_floats(&random, VOCAB, 1.0f + (float)(round % 7));
        /* Ties: a coarse grid of values in every third round. */
        for (int i = 0; round % 3 == 0 && i < VOCAB; i++) logits[i] = rintf(logits[i] * 2) / 2;
        agl_token_count counts[COUNTS];
        for (int i = 0; i < COUNTS; i++) {
            counts[i] = (agl_token_count){i * 41, (int32_t)(test_random_u32(&random) % 4)};
        }
        agl_logit_bias bias[2] = {{7, 2.5f}, {300, -100.0f}};
        uint32_t allowed[(VOCAB + 31) / 32];
        for (size_t i = 0; i < AGL_COUNT(allowed); i++) allowed[i] = test_random_u32(&random);
        static const float TOP_P[] = {1, 0.9f, 0.5f, 0.01f}, MIN_P[] = {0, 0.05f, 0.7f}, HEAT[] = {0, 0.3f, 1, 2};
        static const int32_t TOP_K[] = {0, 1, 2, 50, 1000};
        agl_sample_row row = {
            .temperature = HEAT[test_random_u32(&random) % 4], .top_p = TOP_P[test_random_u32(&random) % 4],
            .min_p = MIN_P[test_random_u32(&random) % 3], .top_k = TOP_K[test_random_u32(&random) % 5],
            .repetition_penalty = round % 2 ? 1.3f : 1.0f, .frequency_penalty = round % 5 ? 0.2f : 0,
            .presence_penalty = round % 4 ? 0 : 0.7f, .logprobs = -1, .counts = counts,
            .count_count = round % 3 ? COUNTS : 0, .bias = bias, .bias_count = round % 2 ? 2 : 0,
            .allowed = round % 6 == 5 ? allowed : NULL, .random = test_random_u32(&random) * 0x1p-32};
        int64_t kept = reference_filter(entries, logits, VOCAB, &row);
        int32_t want = row.temperature == 0 ? entries[0].token : reference_draw(entries, kept, row.random);
        agl_sample_result result = sample_one(backend, logits, VOCAB, VOCAB, &row, NULL);
        if (want >= 0) {
            assert_int_equal(result.token, want);
            compared++;
        }
        free(logits);
    }
    assert_true(compared > 2900);
    backend->ops->destroy(backend);
}

static void borders_of_the_vocabulary(void **state)
{
    (void)state;
    enum { VOCAB = 8 };
    agl_backend *backend = test_backend_create(&TEST_VARIANTS[0], 1);
    agl_sample_row greedy = plain(0), hot = plain(1);
    float padded[VOCAB] = {0, 1, 2, 3, 4, 9, 9, 9};
    assert_int_equal(sample_one(backend, padded, VOCAB, 5, &greedy, NULL).token, 4);
    hot.random = 1 - 0x1p-53;
    assert_int_equal(sample_one(backend, padded, VOCAB, 5, &hot, NULL).token, 0);
    hot.random = 0;
    assert_int_equal(sample_one(backend, padded, VOCAB, 5, &hot, NULL).token, 4);
    float ties[VOCAB] = {1, 5, 5, 5, 0, 0, 0, -0.0f};
    assert_int_equal(sample_one(backend, ties, VOCAB, VOCAB, &greedy, NULL).token, 1);
    hot.top_k = 1;
    assert_int_equal(sample_one(backend, ties, VOCAB, VOCAB, &hot, NULL).token, 1);
    hot.top_k = 0, hot.top_p = 0;
    assert_int_equal(sample_one(backend, ties, VOCAB, VOCAB, &hot, NULL).token, 1);
    float broken[VOCAB] = {NAN, -INFINITY, NAN, 2, NAN, 1, NAN, NAN};
    hot.top_p = 1;
    assert_int_equal(sample_one(backend, broken, VOCAB, VOCAB, &greedy, NULL).token, 3);
    assert_int_equal(sample_one(backend, broken, VOCAB, VOCAB, &hot, NULL).token, 3);
    for (int i = 0; i < VOCAB; i++) broken[i] = NAN;
    agl_token_logprob top[3];
    hot.logprobs = 3;
    agl_sample_result result = sample_one(backend, broken, VOCAB, VOCAB, &hot, top);
    assert_in_range(result.token, 0, VOCAB - 1);
    uint32_t none[1] = {0}, one[1] = {1u << 6};
    greedy.allowed = one;
    assert_int_equal(sample_one(backend, padded, VOCAB, VOCAB, &greedy, NULL).token, 6);
    greedy.allowed = none;
    assert_in_range(sample_one(backend, padded, VOCAB, VOCAB, &greedy, NULL).token, 0, VOCAB - 1);
    agl_token_count outside[] = {{-1, 3}, {VOCAB, 3}, {1 << 30, 3}};
    agl_sample_row penalised = plain(0);
    penalised.counts = outside, penalised.count_count = 3, penalised.frequency_penalty = 1;
    assert_int_equal(sample_one(backend, ties, VOCAB, VOCAB, &penalised, NULL).token, 1);
    backend->ops->destroy(backend);
}

/* Of the raw logits: penalties and temperature move the choice, not what is reported. */
static void logprobs_are_of_the_raw_logits(void **state)
{
    (void)state;
    enum { VOCAB = 300, TOP = 20 };
    agl_backend *backend = test_backend_create(&TEST_VARIANTS[0], 1);
    test_random random = {12};
    entry entries[VOCAB];
    for (int round = 0; round < 50; round++) {
        float *logits = test_floats(&random, VOCAB, 6.0f);
        if (round % 2) for (int i = 0; i < VOCAB; i++) logits[i] = rintf(logits[i]);
        double sum = 0;
        for (int32_t i = 0; i < VOCAB; i++) {
            entries[i] = (entry){.logit = logits[i], .token = i};
            sum += exp((double)logits[i]);
        }
        qsort(entries, VOCAB, sizeof *entries, best_first);
        agl_token_count seen = {entries[0].token, 1};
        agl_sample_row row = plain(0.7f);
        row.counts = &seen, row.count_count = 1, row.presence_penalty = 2, row.logprobs = TOP;
        row.random = test_random_u32(&random) * 0x1p-32;
        agl_token_logprob top[TOP];
        agl_sample_result result = sample_one(backend, logits, VOCAB, VOCAB, &row, top);
        assert_int_equal(result.top_count, TOP);
        for (int i = 0; i < TOP; i++) {
            assert_int_equal(top[i].token, entries[i].token);
            assert_int_equal(top[i].rank, i + 1);
            test_close("top logprob", top[i].logprob, (double)entries[i].logit - log(sum), 1e-5);
        }
        assert_in_range(result.rank, 1, VOCAB);
        assert_int_equal(entries[result.rank - 1].token, result.token);
        test_close("logprob", result.logprob, (double)logits[result.token] - log(sum), 1e-5);
        free(logits);
    }
    agl_sample_row none = plain(0);
    none.logprobs = 0;
    float two[2] = {0, 0};
    agl_sample_result result = sample_one(backend, two, 2, 2, &none, NULL);
    assert_int_equal(result.top_count, 0);
    test_close("logprob", result.logprob, log(0.5), 1e-6);
    backend->ops->destroy(backend);
}

/* Rows of one call do not see each other. */
static void rows_are_independent(void **state)
{
    (void)state;
    enum { VOCAB = 1000, ROWS = 20 };
    test_random random = {77};
    float *logits = test_floats(&random, VOCAB * ROWS, 4.0f);
    agl_sample_row rows[ROWS];
    for (int i = 0; i < ROWS; i++) {
        rows[i] = plain(i % 3 ? 0.8f : 0);
        rows[i].top_p = i % 2 ? 0.9f : 1;
        rows[i].random = test_random_u32(&random) * 0x1p-32;
    }
    for (uint32_t threads = 1; threads <= 3; threads++) {
        agl_backend *backend = test_backend_create(&TEST_VARIANTS[0], threads);
        agl_sample_result results[ROWS] = {{0}};
        agl_sample_args args = {.logits = logits, .rows = ROWS, .vocab = VOCAB, .vocab_used = VOCAB,
                                .params = rows, .results = results};
        assert_int_equal(backend->ops->sample(test_stream(backend), &args), AGL_OK);
        for (int i = 0; i < ROWS; i++) {
            assert_int_equal(results[i].token,
                             sample_one(backend, logits + i * VOCAB, VOCAB, VOCAB, &rows[i], NULL).token);
        }
        backend->ops->destroy(backend);
    }
    free(logits);
}

/* ---- bench ----------------------------------------------------------------- */

typedef struct {
    agl_backend *backend;
    const float *logits;
    agl_sample_row row;
    agl_token_logprob top[20];
} sample_bench;

static void bench_once(void *context)
{
    sample_bench *bench = context;
    sample_one(bench->backend, bench->logits, 151552, 151365, &bench->row, bench->top);
}

static int bench_all(void)
{
    sample_bench bench = {.backend = test_backend_create(&TEST_VARIANTS[0], 1)};
    test_random random = {1};
    float *logits = test_floats(&random, 151552, 10.0f);
    bench.logits = logits;
    static const struct {
        const char *name;
        float temperature, top_p;
        int32_t top_k, logprobs;
    } SETTINGS[] = {{"arg-max", 0, 1, 0, -1},       {"temperature 1", 1, 1, 0, -1},
                    {"top_p 0.6", 0.8f, 0.6f, 0, -1}, {"top_p 0.6, top_k 2", 0.8f, 0.6f, 2, -1},
                    {"arg-max, 20 logprobs", 0, 1, 0, 20}};
    for (size_t i = 0; i < AGL_COUNT(SETTINGS); i++) {
        bench.row = plain(SETTINGS[i].temperature);
        bench.row.top_p = SETTINGS[i].top_p, bench.row.top_k = SETTINGS[i].top_k;
        bench.row.logprobs = SETTINGS[i].logprobs, bench.row.random = 0.4;
        printf("%-22s %7.3f ms a row of 151552\n", SETTINGS[i].name, 1e3 * test_best_seconds(bench_once, &bench, 20));
    }
    free(logits);
    bench.backend->ops->destroy(bench.backend);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench_all();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_match_a_full_sort),
        cmocka_unit_test(borders_of_the_vocabulary),
        cmocka_unit_test(logprobs_are_of_the_raw_logits),
        cmocka_unit_test(rows_are_independent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
