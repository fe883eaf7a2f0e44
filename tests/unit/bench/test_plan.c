/* SPDX-License-Identifier: Apache-2.0
 *
 * test_plan.c - hardware by name, rooflines against numbers worked out by hand, fitting,
 * result files that are written and read back, and reports. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/report.h"

static const char SHAPE_9B[] = "models/shapes/autoglm-phone-9b";

static void assert_near(double value, double expected, double share)
{
    if (!(fabs(value - expected) <= share * fabs(expected))) fail_msg("%.6g is not %.6g", value, expected);
}

/* ---- hardware ------------------------------------------------------------- */

static void names_are_understood(void **state)
{
    (void)state;
    static const struct { const char *text, *name; uint32_t count; } NAMES[] = {
        {"RTX 4090", "RTX 4090", 1}, {"4090", "RTX 4090", 1}, {"NVIDIA GeForce RTX 3090", "RTX 3090", 1},
        {"2x4090", "RTX 4090", 2}, {"2 x rtx-4090", "RTX 4090", 2}, {"a100-80gb", "A100 80GB", 1}, {"A100", "A100 40GB", 1},
        {"8xH200", "H200", 8}, {"epyc9654", "EPYC 9654", 1}, {"l40s", "L40S", 1},
    };
    for (size_t i = 0; i < AGL_COUNT(NAMES); i++) {
        agl_hardware h;
        agl_error err = {0};
        if (agl_hardware_find(&h, NAMES[i].text, &err) != AGL_OK) fail_msg("%s: %s", NAMES[i].text, err.message);
        assert_string_equal(h.name, NAMES[i].name);
        assert_int_equal(h.count, NAMES[i].count);
    }
    static const char *const UNKNOWN[] = {"", "RTX", "x", "0x4090", "2x", "Cray-1", "40"};
    for (size_t i = 0; i < AGL_COUNT(UNKNOWN); i++) {
        agl_hardware h;
        agl_error err = {0};
        assert_int_equal(agl_hardware_find(&h, UNKNOWN[i], &err), AGL_ERR_ARGUMENT);
        assert_non_null(strstr(err.message, "H200"));
    }
}

/* ---- rooflines -------------------------------------------------------------- */

static agl_roofline roofline_of(const char *hardware, const char *format)
{
    agl_plan_row row;
    agl_hardware h;
    agl_error err = {0};
    agl_efficiency one = agl_efficiency_one();
    assert_int_equal(agl_hardware_find(&h, hardware, &err), AGL_OK);
    agl_status status = agl_plan_row_make(&row, &(agl_engine_options){.model = SHAPE_9B}, &h, agl_format_find(format), &one, &err);
    if (status != AGL_OK) fail_msg("%s", err.message);
    return agl_roofline_of(&row.plan, &h, row.format, &one);
}

/* Worked out by hand from the model's counts: W = 17.56 GB, 4.83 GB with INT4; KV 40,960 B a token. */
static void floors_are_those_of_the_formulas(void **state)
{
    (void)state;
    static const struct { const char *hardware, *format; double batch, ms; } STEPS[] = {
        {"H200", "bf16", 1, 3.89}, {"H200", "bf16", 8, 3.94}, {"H200", "bf16", 64, 4.33}, {"H200", "bf16", 256, 7.33},
        {"H200", "int4", 1, 1.076}, {"H200", "int4", 64, 1.83}, {"H200", "fp8", 1, 1.95}, {"A100", "bf16", 1, 12.6},
        {"4090", "bf16", 8, 19.0}, {"3090", "int4", 32, 9.67},
    };
    for (size_t i = 0; i < AGL_COUNT(STEPS); i++) {
        agl_roofline r = roofline_of(STEPS[i].hardware, STEPS[i].format);
        assert_near(1e3 * agl_roofline_step_s(&r, STEPS[i].batch, 768), STEPS[i].ms, 0.01);
    }
    agl_roofline h200 = roofline_of("H200", "bf16"), rtx = roofline_of("4090", "bf16");
    assert_near(1e3 * agl_roofline_prefill_s(&h200, 512, 0), 10.42, 0.01);
    assert_near(1e3 * agl_roofline_prefill_s(&rtx, 512, 0), 55, 0.02);
    assert_near(1e3 * agl_roofline_prefill_s(&h200, 3500, 2500), (57.1 + 0.4 + 9.75) / 0.81, 0.05);
    assert_near(agl_roofline_vision_s(&h200, 13416, 3354), 46.2e12 / 810e12, 0.005);
    /* Two devices: half of the bytes each, and 80 sums of one row over the link. */
    agl_roofline pair = roofline_of("2x4090", "bf16");
    assert_near(1e3 * agl_roofline_step_s(&pair, 1, 768), 9.36 + 0.85, 0.02);
}

static void throughput_counts_prompts_and_steps(void **state)
{
    (void)state;
    agl_roofline r = roofline_of("H200", "bf16");
    double one = agl_roofline_throughput(&r, 1, 512, 256);
    double seconds = 256 * agl_roofline_step_s(&r, 1, 640) + agl_roofline_prefill_s(&r, 512, 0);
    assert_near(one, 256 / seconds, 1e-9);
    assert_true(agl_roofline_throughput(&r, 64, 512, 256) > 20 * one);
    assert_true(agl_roofline_throughput(&r, 0, 512, 256) == 0);
}

/* ---- rows --------------------------------------------------------------------- */

static agl_plan_row row_of(agl_hardware hardware, const char *format, agl_engine_options engine)
{
    agl_plan_row row;
    agl_error err = {0};
    agl_efficiency one = agl_efficiency_one();
    engine.model = SHAPE_9B;
    agl_status status = agl_plan_row_make(&row, &engine, &hardware, agl_format_find(format), &one, &err);
    if (status != AGL_OK) fail_msg("%s", err.message);
    return row;
}

static void verdicts_name_what_helps(void **state)
{
    (void)state;
    agl_hardware gpu = {.gpu = true, .count = 1, .memory_bytes = 16000000000, .bandwidth = 5e11, .flops = 1e14};
    agl_plan_row row = row_of(gpu, "bf16", (agl_engine_options){0});
    assert_int_equal(row.fit, AGL_FIT_NO);
    assert_string_equal(row.help, "--quantization fp8");
    assert_true(isnan(row.itl_ms[0]) && isnan(row.ttft_ms) && row.batch_max[0] == 0);
    row = row_of(gpu, "int4", (agl_engine_options){0});
    assert_int_equal(row.fit, AGL_FIT_YES);
    assert_true(row.itl_ms[0] > 0 && row.throughput > 0 && row.batch_max[0] > row.batch_max[1]);
    gpu.memory_bytes = 8000000000;
    row = row_of(gpu, "int4", (agl_engine_options){0});
    assert_int_equal(row.fit, AGL_FIT_NO);
    assert_string_equal(row.help, "--tensor-parallel-size 2");
    gpu.memory_bytes = 25000000000;         /* room for weights and some ten thousand tokens */
    row = row_of(gpu, "bf16", (agl_engine_options){0});
    assert_int_equal(row.fit, AGL_FIT_TIGHT);
    assert_non_null(strstr(row.reason, "25480"));
    row = row_of(gpu, "bf16", (agl_engine_options){.max_model_len = 1024});
    assert_true(row.fit == AGL_FIT_YES || strstr(row.reason, "at once") != NULL);
    gpu.memory_bytes = 80000000000;
    row = row_of(gpu, "fp8", (agl_engine_options){0});
    assert_int_equal(row.fit, AGL_FIT_TIGHT);
    assert_non_null(strstr(row.reason, "FP8"));
}

/* ---- results -------------------------------------------------------------------- */

static agl_result sample(bool gpu, double parameters)
{
    agl_result r;
    agl_result_init(&r);
    snprintf(r.platform, sizeof r.platform, "a \"platform\"");
    snprintf(r.device, sizeof r.device, gpu ? "H200" : "cpu (avx512, 2 threads)");
    snprintf(r.model, sizeof r.model, "shape");
    r.gpu = gpu;
    r.parameters = parameters;
    r.input_tokens = 512;
    r.output_tokens = 256;
    r.device_memory_bytes = 64e9;
    r.read_rate = 2e10;
    r.multiply_rate = 1.5e11;
    r.run_count = 1;
    agl_result_run *run = &r.runs[0];
    *run = (agl_result_run){.batch_max = 30, .max_throughput = 2.5, .image_ttft_ms = NAN, .image_floor_ms = NAN, .point_count = 2};
    snprintf(run->format, sizeof run->format, "bf16");
    for (int i = 0; i < 2; i++) {
        run->points[i] = (agl_result_point){
            .batch = i == 0 ? 1 : 4, .iterations = 3, .ttft = {.mean = 1000, .deviation = 10, .median = 1000, .p99 = 1100, .count = 3},
            .itl = {.mean = 125, .deviation = 1, .median = 125, .p99 = 130, .count = 765}, .output_throughput = 1 + 1.5 * i,
            .floor_ttft_ms = 600, .floor_itl_ms = 100};
    }
    return r;
}

static void efficiencies_are_fitted_to_the_same_model_only(void **state)
{
    (void)state;
    agl_result results[] = {sample(false, 100), sample(false, 100), sample(true, 100), sample(false, 7)};
    results[1].runs[0].points[0].itl.median = 500;      /* 0.8 and 0.2: geometric mean 0.4 */
    snprintf(results[2].reported_by, sizeof results[2].reported_by, "somebody");
    agl_efficiency e = agl_efficiency_fit(results, 4, false, 100);
    assert_near(e.bandwidth, 0.4, 1e-9);
    assert_near(e.prefill, 0.6, 1e-9);
    assert_near(e.vision, 0.6, 1e-9);
    assert_non_null(strstr(e.origin, "2 measured runs"));
    agl_efficiency standard = agl_efficiency_default(true);
    e = agl_efficiency_fit(results, 4, true, 100);      /* only a reported one: not a measurement */
    assert_true(e.bandwidth == standard.bandwidth && e.prefill == standard.prefill);
    e = agl_efficiency_fit(results, 4, false, NAN);
    assert_true(e.bandwidth == agl_efficiency_default(false).bandwidth);
}

static void result_files_are_read_as_written(void **state)
{
    (void)state;
    char path[] = "/tmp/agl-result-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    agl_error err = {0};
    agl_result written = sample(false, 10292777472.0), *read;
    written.complete = false;
    size_t count;
    if (agl_result_save(&written, path, &err) != AGL_OK) fail_msg("%s", err.message);
    if (agl_results_load(&read, &count, path, &err) != AGL_OK) fail_msg("%s", err.message);
    assert_int_equal(count, 1);
    assert_string_equal(read->platform, written.platform);
    assert_string_equal(read->device, written.device);
    assert_true(!read->complete && !read->gpu && read->count == 1 && read->parameters == written.parameters);
    assert_true(read->read_rate == 2e10 && read->input_tokens == 512 && read->run_count == 1);
    assert_true(isnan(read->runs[0].image_ttft_ms));
    assert_int_equal(read->runs[0].point_count, 2);
    const agl_result_point *four = agl_result_point_of(&read->runs[0], 4);
    assert_non_null(four);
    assert_true(four->itl.count == 765 && four->itl.mean == 125 && four->floor_itl_ms == 100);
    assert_null(agl_result_point_of(&read->runs[0], 2));
    free(read);
    assert_int_equal(agl_result_save(&written, "/nonexistent/x.json", &err), AGL_ERR_IO);
    unlink(path);
    assert_int_equal(agl_results_load(&read, &count, path, &err), AGL_ERR_NOT_FOUND);
}

/* ---- reports ------------------------------------------------------------------------ */

static void reports_mark_where_numbers_come_from(void **state)
{
    (void)state;
    agl_error err = {0};
    agl_engine_options engine = {.model = SHAPE_9B};
    agl_result results[2] = {sample(true, NAN), sample(false, agl_plan_parameters(&engine))};
    snprintf(results[0].reported_by, sizeof results[0].reported_by, "the article");
    agl_hardware hardware[1];
    assert_int_equal(agl_hardware_find(&hardware[0], "RTX 4090", &err), AGL_OK);
    agl_report *report;
    if (agl_report_build(&report, &engine, results, 2, hardware, 1, &err) != AGL_OK) fail_msg("%s", err.message);
    assert_int_equal(report->platform_count, 3);
    assert_int_equal(report->platforms[0].source, AGL_SOURCE_MEASURED);
    assert_int_equal(report->platforms[1].source, AGL_SOURCE_REPORTED);
    assert_int_equal(report->platforms[2].source, AGL_SOURCE_PREDICTED);
    assert_near(report->efficiency[0].bandwidth, 0.8, 1e-9);
    assert_true(report->platforms[0].entries[0].image_is_predicted);
    assert_int_equal(report->platforms[2].entry_count, 3);
    agl_table *tables = calloc(AGL_REPORT_TABLES, sizeof *tables);
    assert_int_equal(agl_report_tables(tables, report, &err), AGL_OK);
    assert_int_equal(tables[0].row_count, 3);
    assert_int_equal(tables[4].row_count, 4);       /* two points of each result */
    agl_buffer out;
    agl_buffer_init(&out, 0);
    agl_report_html(&out, report, tables);
    assert_true(!out.failed);
    assert_non_null(strstr(out.data, "a &quot;platform&quot;"));
    assert_null(strstr(out.data, "a \"platform\""));
    agl_buffer_clear(&out);
    agl_report_markdown(&out, report, tables, true);
    assert_non_null(strstr(out.data, "文章报告"));
    agl_buffer_deinit(&out);
    agl_report_tables_deinit(tables);
    free(tables);
    free(report);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_understood),
        cmocka_unit_test(floors_are_those_of_the_formulas),
        cmocka_unit_test(throughput_counts_prompts_and_steps),
        cmocka_unit_test(verdicts_name_what_helps),
        cmocka_unit_test(efficiencies_are_fitted_to_the_same_model_only),
        cmocka_unit_test(result_files_are_read_as_written),
        cmocka_unit_test(reports_mark_where_numbers_come_from),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
