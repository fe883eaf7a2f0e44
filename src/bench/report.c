/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const MATRIX[AGL_REPORT_FORMATS] = {"bf16", "fp8", "int4"};
enum { AGENT_CONTEXT = 2 };     /* 6,000 tokens, in agl_plan_contexts */
enum { PROTOCOL_INPUT = 512, PROTOCOL_OUTPUT = 256 };

static agl_report_entry unknown_entry(const agl_format *format)
{
    return (agl_report_entry){.format = format,
                              .ttft_ms = NAN,
                              .ttft_sd = NAN,
                              .itl_ms = NAN,
                              .itl_sd = NAN,
                              .throughput = NAN,
                              .batch_max = NAN,
                              .image_ttft_ms = NAN,
                              .floor_ttft = NAN,
                              .floor_itl = NAN,
                              .prediction = {.itl_ms = NAN}};
}

static agl_report_entry predicted_entry(const agl_plan_row *row)
{
    agl_report_entry e = unknown_entry(row->format);
    e.ttft_ms = row->ttft_ms;
    e.itl_ms = row->itl_ms[0];
    e.throughput = row->throughput;
    e.batch_max = (double)row->batch_max[0];
    e.image_ttft_ms = row->image_ttft_ms;
    e.image_is_predicted = true;
    e.sessions = row->batch_max[AGENT_CONTEXT];
    return e;
}

/* Numbers of a result file; what it lacks about screenshots and sessions is predicted. */
static agl_status known_entry(agl_report_entry *out, const agl_report *report,
                              const agl_report_platform *platform, const agl_engine_options *engine,
                              const agl_result_run *run, agl_error *err)
{
    const agl_result *result = platform->result;
    const agl_format *format = agl_format_find(run->format);
    const agl_result_point *single = agl_result_point_of(run, 1);
    const agl_efficiency *efficiency = &report->efficiency[result->gpu];
    *out = unknown_entry(format != NULL ? format : agl_format_at(0));
    out->throughput = run->max_throughput;
    out->batch_max = run->batch_max;
    out->image_ttft_ms = run->image_ttft_ms;
    if (single != NULL) {
        out->ttft_ms = single->ttft.mean;
        out->ttft_sd = single->ttft.deviation;
        out->itl_ms = single->itl.mean;
        out->itl_sd = single->itl.deviation;
        out->floor_ttft = single->floor_ttft_ms / single->ttft.mean;
        out->floor_itl = single->floor_itl_ms / single->itl.mean;
    }
    agl_prediction prediction;
    AGL_TRY(agl_prediction_make(&prediction, engine, result, run, efficiency, err));
    out->prediction = prediction;
    if (prediction.plan.parameters == 0 || format == NULL) return AGL_OK;
    agl_plan_row row;
    AGL_TRY(agl_plan_row_make(&row, engine, &platform->hardware, format, efficiency, err));
    out->sessions = row.batch_max[AGENT_CONTEXT];
    /* Pictures are measured alone; a phone step has text before them. */
    out->image_is_predicted = !isfinite(run->image_ttft_ms) || !isfinite(prediction.image_ttft_ms);
    if (out->image_is_predicted) out->image_ttft_ms = row.image_ttft_ms;
    else out->image_ttft_ms += row.image_ttft_ms - prediction.image_ttft_ms;
    return AGL_OK;
}

static agl_status fill_matrix(agl_report *report, agl_report_platform *platform,
                              const agl_engine_options *engine, agl_error *err)
{
    const agl_hardware *h = &platform->hardware;
    for (size_t i = 0; i < AGL_REPORT_FORMATS; i++) {
        if (h->memory_bytes == 0 || h->bandwidth <= 0 || h->flops <= 0) break;
        const agl_format *format = agl_format_find(MATRIX[i]);
        AGL_TRY(agl_plan_row_make(&platform->matrix[i], engine, h, format,
                                  &report->efficiency[h->gpu], err));
        /* What the program runs, not what the build does that writes the report. */
        if (h->count == 1 && format->layer_bits <= 0) platform->matrix[i].plan.not_built = NULL;
    }
    return AGL_OK;
}

static agl_status add_result(agl_report *report, const agl_engine_options *engine,
                             const agl_result *result, agl_error *err)
{
    agl_report_platform *platform = &report->platforms[report->platform_count++];
    *platform = (agl_report_platform){.result = result, .hardware = agl_result_hardware(result)};
    platform->source = result->reported_by[0] != '\0' ? AGL_SOURCE_REPORTED : AGL_SOURCE_MEASURED;
    AGL_TRY(fill_matrix(report, platform, engine, err));
    char other[64] = "";
    if (isfinite(result->parameters) && result->parameters != report->parameters) {
        snprintf(other, sizeof other, " (model %.40s)", result->model);
    } else if (result->input_tokens != PROTOCOL_INPUT || result->output_tokens != PROTOCOL_OUTPUT) {
        snprintf(other, sizeof other, " (%u in, %u out)", result->input_tokens,
                 result->output_tokens);
    }
    snprintf(platform->title, sizeof platform->title, "%.60s%s", result->platform, other);
    for (size_t i = 0; i < result->run_count; i++) {
        AGL_TRY(known_entry(&platform->entries[platform->entry_count++], report, platform, engine,
                            &result->runs[i], err));
    }
    return AGL_OK;
}

static agl_status add_prediction(agl_report *report, const agl_engine_options *engine,
                                 const agl_hardware *hardware, agl_error *err)
{
    agl_report_platform *platform = &report->platforms[report->platform_count++];
    *platform = (agl_report_platform){.source = AGL_SOURCE_PREDICTED, .hardware = *hardware};
    agl_hardware_title(platform->title, sizeof platform->title, hardware);
    AGL_TRY(fill_matrix(report, platform, engine, err));
    for (size_t i = 0; i < AGL_REPORT_FORMATS; i++) {
        if (platform->matrix[i].fit == AGL_FIT_NO) continue;
        platform->entries[platform->entry_count++] = predicted_entry(&platform->matrix[i]);
    }
    return AGL_OK;
}

agl_status agl_report_build(agl_report **out, const agl_engine_options *engine,
                            const agl_result *results, size_t result_count,
                            const agl_hardware *hardware, size_t hardware_count, agl_error *err)
{
    *out = NULL;
    if (result_count + hardware_count > AGL_REPORT_PLATFORMS_MAX) {
        return agl_fail(err, AGL_ERR_LIMIT, "%zu platforms, at most %d expected",
                        result_count + hardware_count, AGL_REPORT_PLATFORMS_MAX);
    }
    agl_report *report = calloc(1, sizeof *report);
    if (report == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the report");
    report->parameters = agl_plan_parameters(engine);
    for (int gpu = 0; gpu < 2; gpu++) {
        report->efficiency[gpu] =
            agl_efficiency_fit(results, result_count, gpu, report->parameters);
    }
    agl_status status = AGL_OK;
    /* Measured ones first, then what others report, then predictions. */
    for (int reported = 0; reported < 2; reported++) {
        for (size_t i = 0; status == AGL_OK && i < result_count; i++) {
            if ((results[i].reported_by[0] != '\0') == reported)
                status = add_result(report, engine, &results[i], err);
        }
    }
    for (size_t i = 0; status == AGL_OK && i < hardware_count; i++) {
        status = add_prediction(report, engine, &hardware[i], err);
    }
    if (status != AGL_OK) {
        free(report);
        return status;
    }
    *out = report;
    return AGL_OK;
}

/* ---- files ------------------------------------------------------------------- */

static agl_status write_out(const agl_buffer *text, const char *path, agl_error *err)
{
    if (text->failed) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the report");
    bool is_stdout = strcmp(path, "-") == 0;
    FILE *file = is_stdout ? stdout : fopen(path, "w");
    bool written = file != NULL && fwrite(text->data, 1, text->bytes, file) == text->bytes;
    if (file != NULL && (is_stdout ? fflush(file) : fclose(file)) != 0) written = false;
    return written ? AGL_OK : agl_fail(err, AGL_ERR_IO, "%s: cannot be written", path);
}

agl_status agl_report_write(const agl_report_options *o, agl_error *err)
{
    agl_report *report;
    agl_table *tables = calloc(AGL_REPORT_TABLES, sizeof *tables);
    if (tables == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the report");
    agl_status status = agl_report_build(&report, &o->engine, o->results, o->result_count,
                                         o->hardware, o->hardware_count, err);
    if (status == AGL_OK) status = agl_report_tables(tables, report, err);
    const char *const paths[] = {o->html_path, o->markdown_path, o->csv_path};
    for (int i = 0; status == AGL_OK && i < 3; i++) {
        if (paths[i] == NULL) continue;
        agl_buffer out;
        agl_buffer_init(&out, (size_t)64 << 20);
        if (i == 0) agl_report_html(&out, report, tables);
        else if (i == 1) agl_report_markdown(&out, report, tables, o->chinese);
        else agl_report_csv(&out, tables, o->chinese);
        status = write_out(&out, paths[i], err);
        agl_buffer_deinit(&out);
    }
    agl_report_tables_deinit(tables);
    free(tables);
    free(report);
    return status;
}
