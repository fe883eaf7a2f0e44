/* SPDX-License-Identifier: Apache-2.0
 *
 * First tokens that are late: when they count, what is blamed, what is learnt. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/ttft_monitor.h"

/* Seconds of each phase; the rest of TTFT is before the queue. */
static agl_usage usage_of(double queue_s, double media_s, double vision_s, double prefill_s)
{
    return (agl_usage){
        .prompt_tokens = 100, .cached_tokens = 60, .image_count = vision_s > 0 ? 1 : 0,
        .completion_tokens = 1, .queue_s = queue_s, .vision_s = vision_s,
        .prefill_s = vision_s + prefill_s, .ttft_s = queue_s + media_s + vision_s + prefill_s,
    };
}

static int start(void **state)
{
    *state = agl_ttft_monitor_create();
    return *state == NULL;
}

static int stop(void **state)
{
    agl_ttft_monitor_destroy(*state);
    return 0;
}

/* Factor in [0.9, 1.1] that is the same in every run. */
static double wobble(int i)
{
    return 0.9 + 0.2 * ((i * 37) % 64) / 63.0;
}

static void settle_text(agl_ttft_monitor *monitor, int samples)
{
    agl_ttft_anomaly anomaly;
    for (int i = 0; i < samples; i++) {
        agl_usage usage = usage_of(0.001, 0.002, 0, 0.1 * wobble(i));
        assert_false(agl_ttft_monitor_observe(monitor, &usage, 0, &anomaly));
    }
}

static bool observe(agl_ttft_monitor *monitor, agl_usage usage, double now_s, agl_ttft_anomaly *anomaly)
{
    *anomaly = (agl_ttft_anomaly){0};
    return agl_ttft_monitor_observe(monitor, &usage, now_s, anomaly);
}

static double metric(agl_ttft_monitor *monitor, const char *line)
{
    agl_buffer out;
    agl_buffer_init(&out, 0);
    agl_ttft_monitor_write(&out, monitor, "m=\"x\"");
    const char *found = strstr(out.data, line);
    double value = found != NULL ? strtod(found + strlen(line), NULL) : -1;
    agl_buffer_deinit(&out);
    return value;
}

static void test_needs_samples(void **state)
{
    agl_ttft_anomaly anomaly;
    settle_text(*state, AGL_TTFT_SAMPLES_MIN - 1);
    assert_false(observe(*state, usage_of(0, 0, 0, 30), 0, &anomaly));
}

static void test_each_phase_is_blamed(void **state)
{
    agl_ttft_anomaly anomaly;
    for (int i = 0; i < 64; i++) {
        assert_false(observe(*state, usage_of(0.002, 0.02 * wobble(i), 0.2 * wobble(i + 7), 0.1), 0, &anomaly));
    }
    const struct {
        agl_usage usage;
        agl_ttft_phase phase;
        double phase_s;
    } CASES[] = {
        {usage_of(1.0, 0.02, 0.2, 0.1), AGL_TTFT_QUEUE, 1.0},
        {usage_of(0.002, 1.02, 0.2, 0.1), AGL_TTFT_MEDIA, 1.02},
        {usage_of(0.002, 0.02, 1.2, 0.1), AGL_TTFT_VISION, 1.2},
        {usage_of(0.002, 0.02, 0.2, 1.1), AGL_TTFT_PREFILL, 1.1},
        /* More seconds over its own baseline, though the queue grew by the larger factor. */
        {usage_of(0.3, 0.02, 0.9, 0.1), AGL_TTFT_VISION, 0.9},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        assert_true(observe(*state, CASES[i].usage, 0, &anomaly));
        assert_int_equal(anomaly.phase, CASES[i].phase);
        assert_float_equal(anomaly.phase_s, CASES[i].phase_s, 1e-6);
        assert_int_equal(anomaly.tokens_le, 64); /* 100 - 60 = 40 */
        assert_int_equal(anomaly.images_le, 1);
        assert_true(anomaly.baseline_s > 0.2 && anomaly.baseline_s < 0.45);
    }
    assert_int_equal((int)metric(*state, "agl_ttft_anomalies_total{m=\"x\",phase=\"vision\"} "), 2);
    assert_int_equal((int)metric(*state, "agl_ttft_anomalies_total{m=\"x\",phase=\"queue\"} "), 1);
}

static void test_three_conditions(void **state)
{
    agl_ttft_anomaly anomaly;
    settle_text(*state, 200); /* 0.103 s +- 6 %: four deviations are below the factor 1.5 */
    assert_false(observe(*state, usage_of(0, 0, 0, 0.148), 0, &anomaly));  /* under 1.5 x        */
    assert_true(observe(*state, usage_of(0, 0, 0, 0.18), 0, &anomaly));    /* over all           */
}

static void test_small_times_never_alarm(void **state)
{
    agl_ttft_anomaly anomaly;
    for (int i = 0; i < 100; i++) observe(*state, usage_of(0, 0, 0, 0.002 * wobble(i)), 0, &anomaly);
    assert_false(observe(*state, usage_of(0, 0, 0, 0.05), 0, &anomaly));   /* 25 x, but 48 ms    */
    assert_true(observe(*state, usage_of(0, 0, 0, 0.06), 0, &anomaly));
}

static void test_wide_class_needs_more(void **state)
{
    agl_ttft_anomaly anomaly;
    for (int i = 0; i < 200; i++) { /* two modes, a factor of 4 apart: deviation 0.69, limit 16 x the mean */
        assert_false(observe(*state, usage_of(0, 0, 0, i % 2 == 0 ? 0.1 : 0.4), 0, &anomaly));
    }
    assert_false(observe(*state, usage_of(0, 0, 0, 1.2), 0, &anomaly));
    assert_true(observe(*state, usage_of(0, 0, 0, 6.0), 0, &anomaly));
}

static void test_outlier_barely_moves_baseline(void **state)
{
    const char *line = "agl_ttft_baseline_seconds{m=\"x\",prompt_tokens_le=\"64\",images_le=\"0\"} ";
    agl_ttft_anomaly anomaly;
    settle_text(*state, 200);
    double before = metric(*state, line);
    assert_float_equal(before, 0.103, 0.003);
    assert_true(observe(*state, usage_of(0, 0, 0, 1000), 0, &anomaly));
    double after = metric(*state, line);
    assert_true(after > before && after < before * 1.01);
    assert_true(metric(*state, "agl_ttft_limit_seconds{m=\"x\",prompt_tokens_le=\"64\",images_le=\"0\"} ") < 0.2);
}

static void test_lasting_change_becomes_normal(void **state)
{
    agl_ttft_anomaly anomaly;
    settle_text(*state, 200);
    int alarms = 0, last = 0;
    for (int i = 0; i < 400; i++) {
        if (!observe(*state, usage_of(0, 0, 0, 0.5 * wobble(i)), 0, &anomaly)) continue;
        alarms++;
        last = i;
    }
    assert_true(alarms >= 5 && alarms <= 100);
    assert_true(last < 100);
    double now = metric(*state, "agl_ttft_baseline_seconds{m=\"x\",prompt_tokens_le=\"64\",images_le=\"0\"} ");
    assert_float_equal(now, 0.5, 0.03);
}

static void test_classes_do_not_mix(void **state)
{
    agl_ttft_anomaly anomaly;
    settle_text(*state, 100);
    agl_usage large = usage_of(0, 0, 0, 5);
    large.prompt_tokens = 5000;
    assert_false(observe(*state, large, 0, &anomaly));
    agl_usage picture = usage_of(0, 0, 3, 0.1);
    assert_false(observe(*state, picture, 0, &anomaly));
    agl_usage cached = large; /* priced by what was not in the cache */
    cached.cached_tokens = 4960;
    assert_true(observe(*state, cached, 0, &anomaly));
    assert_int_equal(anomaly.tokens_le, 64);
}

static void test_extreme_classes(void **state)
{
    agl_ttft_anomaly anomaly;
    agl_usage usage = {.prompt_tokens = UINT32_MAX, .image_count = UINT32_MAX, .ttft_s = 1, .prefill_s = 1};
    for (int i = 0; i < 40; i++) assert_false(observe(*state, usage, 0, &anomaly));
    usage.ttft_s = usage.prefill_s = 9;
    assert_true(observe(*state, usage, 0, &anomaly));
    assert_int_equal(anomaly.tokens_le, UINT32_MAX);
    assert_int_equal(anomaly.images_le, UINT32_MAX);
    assert_true(metric(*state, "agl_ttft_baseline_seconds{m=\"x\",prompt_tokens_le=\"+Inf\",images_le=\"+Inf\"} ") > 0);
    /* Times that were never taken are zero; more cached than there is cannot wrap. */
    usage = (agl_usage){.prompt_tokens = 1, .cached_tokens = 2};
    for (int i = 0; i < 40; i++) assert_false(observe(*state, usage, 0, &anomaly));
    assert_true(metric(*state, "agl_ttft_baseline_seconds{m=\"x\",prompt_tokens_le=\"16\",images_le=\"0\"} ") > 0);
}

static void test_log_is_limited(void **state)
{
    agl_ttft_anomaly anomaly;
    settle_text(*state, 200);
    assert_true(observe(*state, usage_of(0, 0, 0, 2), 100, &anomaly));
    assert_true(anomaly.log);
    for (int i = 1; i <= 4; i++) {
        assert_true(observe(*state, usage_of(0, 0, 0, 2), 100 + 2.4 * i, &anomaly));
        assert_false(anomaly.log);
    }
    assert_true(observe(*state, usage_of(0, 0, 0, 2), 100 + AGL_TTFT_LOG_S, &anomaly));
    assert_true(anomaly.log);
    assert_int_equal(anomaly.unlogged, 4);
}

static void *observe_many(void *argument)
{
    agl_ttft_anomaly anomaly;
    for (int i = 0; i < 5000; i++) observe(argument, usage_of(0, 0, 0, 0.1 * wobble(i)), i, &anomaly);
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, observe_many, *state), 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    assert_true(fabs(metric(*state, "agl_ttft_baseline_seconds{m=\"x\",prompt_tokens_le=\"64\",images_le=\"0\"} ") - 0.1) < 0.01);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, start, stop)
    const struct CMUnitTest tests[] = {
        CASE(test_needs_samples), CASE(test_each_phase_is_blamed), CASE(test_three_conditions),
        CASE(test_small_times_never_alarm), CASE(test_wide_class_needs_more),
        CASE(test_outlier_barely_moves_baseline), CASE(test_lasting_change_becomes_normal),
        CASE(test_classes_do_not_mix), CASE(test_extreme_classes), CASE(test_log_is_limited), CASE(test_threads),
    };
#undef CASE
    return cmocka_run_group_tests(tests, NULL, NULL);
}
