/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const uint32_t agl_plan_contexts[AGL_PLAN_CONTEXTS] = {768, 2048, 6000, 25480};
const uint32_t agl_plan_batches[AGL_PLAN_BATCHES] = {1, 8, 32, 128};

/* The protocol: 512 tokens in, 256 out, batches up to 8. */
enum { INPUT = 512, OUTPUT = 256, BATCH_WANTED = 8, BATCH_SEARCHED = 256 };
enum { IMAGE_WIDTH = 1080, IMAGE_HEIGHT = 2400 };

/* ---- one row --------------------------------------------------------------- */

static agl_status plan_of(agl_plan *out, const agl_engine_options *engine,
                          const agl_hardware *hardware, const agl_format *format, uint32_t count,
                          agl_error *err)
{
    agl_engine_options options = *engine;
    agl_plan_options machine = {.gpu = hardware->gpu,
                                .memory_bytes = hardware->memory_bytes,
                                .count = count,
                                .layer_bits = format->layer_bits,
                                .lm_head_bits = format->lm_head_bits,
                                .image_width = IMAGE_WIDTH,
                                .image_height = IMAGE_HEIGHT};
    if (format->dtype != NULL) options.dtype = format->dtype;
    return agl_plan_make(out, &options, &machine, err);
}

static bool would_fit(const agl_engine_options *engine, const agl_hardware *hardware,
                      const agl_format *format, uint32_t count)
{
    agl_plan plan;
    return plan_of(&plan, engine, hardware, format, count, NULL) == AGL_OK;
}

/* The mildest change with which it fits: fewer bits, then more devices. */
static void suggest(agl_plan_row *row, const agl_engine_options *engine)
{
    const agl_hardware *h = &row->hardware;
    const agl_format *fp8 = agl_format_find("fp8"), *int4 = agl_format_find("int4");
    uint32_t twice = 2 * h->count;
    bool is_wide = row->format->layer_bits == 0, is_packed = row->format == int4;
    if (is_wide && would_fit(engine, h, fp8, h->count)) {
        snprintf(row->help, sizeof row->help, "--quantization fp8");
    } else if (!is_packed && would_fit(engine, h, int4, h->count)) {
        snprintf(row->help, sizeof row->help, "--quantization awq (INT4)");
    } else if (h->gpu && would_fit(engine, h, row->format, twice)) {
        snprintf(row->help, sizeof row->help, "--tensor-parallel-size %u", twice);
    }
}

static void refuse(agl_plan_row *row, const agl_engine_options *engine)
{
    const agl_plan *p = &row->plan;
    double fixed =
        (double)(p->weight_bytes + p->activation_bytes + p->vision_bytes + p->encoder_bytes);
    row->fit = AGL_FIT_NO;
    if (p->kv_room_bytes == 0) {
        snprintf(row->reason, sizeof row->reason,
                 "weights %.1f GB and scratch %.1f GB%s, but %.0f %% of %.1f GB is %.1f GB",
                 1e-9 * (double)p->weight_bytes, 1e-9 * (fixed - (double)p->weight_bytes),
                 row->hardware.count > 1 ? " on each device" : "",
                 100 * (double)p->budget_bytes / (double)p->memory_bytes,
                 1e-9 * (double)p->memory_bytes, 1e-9 * (double)p->budget_bytes);
    } else {
        snprintf(row->reason, sizeof row->reason,
                 "%.2f GB are left for KV pages, not enough for one window",
                 1e-9 * (double)p->kv_room_bytes);
    }
    suggest(row, engine);
}

static void judge(agl_plan_row *row, const agl_engine_options *engine)
{
    const agl_plan *p = &row->plan;
    uint32_t window = agl_plan_contexts[AGL_PLAN_CONTEXTS - 1];
    uint64_t room_tokens = p->kv_bytes_per_token > 0 ? p->kv_room_bytes / p->kv_bytes_per_token : 0;
    row->fit = AGL_FIT_TIGHT;
    if (engine->max_model_len == 0 && room_tokens < window) {
        snprintf(row->reason, sizeof row->reason,
                 "room for %llu tokens: the phone client asks for %u",
                 (unsigned long long)room_tokens, window);
        suggest(row, engine);
        if (row->help[0] == '\0')
            snprintf(row->help, sizeof row->help, "--gpu-memory-utilization 0.95");
    } else if (row->batch_max[0] < BATCH_WANTED) {
        snprintf(row->reason, sizeof row->reason, "only %llu requests of %u tokens at once",
                 (unsigned long long)row->batch_max[0], agl_plan_contexts[0]);
        snprintf(row->help, sizeof row->help, "--gpu-memory-utilization 0.95");
    } else if (row->format->products8 && row->hardware.gpu && row->hardware.flops8 <= 0) {
        snprintf(row->reason, sizeof row->reason,
                 "no FP8 units: stored in 8 bits, multiplied in 16");
    } else {
        row->fit = AGL_FIT_YES;
    }
}

/* The plan's picture behind so much text. */
static double image_first_token_s(const agl_roofline *r, double text_tokens)
{
    double tokens = (double)r->plan.image_tokens;
    return agl_roofline_vision_s(r, (double)r->plan.image_patches, tokens) +
           agl_roofline_prefill_s(r, text_tokens + tokens, 0);
}

static void predict(agl_plan_row *row, const agl_efficiency *efficiency)
{
    agl_roofline r = agl_roofline_of(&row->plan, &row->hardware, row->format, efficiency);
    row->ttft_ms = 1e3 * agl_roofline_prefill_s(&r, INPUT, 0);
    if (row->plan.image_tokens > 0) {
        row->image_ttft_ms = 1e3 * image_first_token_s(&r, AGL_PLAN_IMAGE_TEXT);
    }
    for (int i = 0; i < AGL_PLAN_BATCHES; i++) {
        if (agl_plan_batches[i] > row->batch_max[0]) break;
        row->itl_ms[i] = 1e3 * agl_roofline_step_s(&r, agl_plan_batches[i], INPUT + OUTPUT / 2);
    }
    uint64_t most = row->batch_max[0] < BATCH_SEARCHED ? row->batch_max[0] : BATCH_SEARCHED;
    for (uint64_t batch = 1; batch <= most; batch++) {
        double rate = agl_roofline_throughput(&r, (double)batch, INPUT, OUTPUT);
        if (row->throughput >= rate) continue;
        row->throughput = rate;
        row->throughput_batch = batch;
    }
}

agl_status agl_plan_row_make(agl_plan_row *out, const agl_engine_options *engine,
                             const agl_hardware *hardware, const agl_format *format,
                             const agl_efficiency *efficiency, agl_error *err)
{
    agl_error reason = {0};
    *out = (agl_plan_row){.hardware = *hardware, .format = format, .ttft_ms = NAN, .image_ttft_ms = NAN,
                          .throughput = NAN};
    for (int i = 0; i < AGL_PLAN_BATCHES; i++) out->itl_ms[i] = NAN;
    agl_status status = plan_of(&out->plan, engine, hardware, format, hardware->count, &reason);
    if (status == AGL_ERR_MEMORY) {
        refuse(out, engine);
        return AGL_OK;
    }
    if (status != AGL_OK) return agl_fail(err, status, "%s", reason.message);
    for (int i = 0; i < AGL_PLAN_CONTEXTS; i++)
        out->batch_max[i] = agl_plan_batch_max(&out->plan, agl_plan_contexts[i]);
    judge(out, engine);
    out->throughput = 0;
    predict(out, efficiency);
    return AGL_OK;
}

/* ---- results ------------------------------------------------------------- */

agl_hardware agl_result_hardware(const agl_result *result)
{
    agl_hardware hardware;
    if (!result->gpu || agl_hardware_find(&hardware, result->device, NULL) != AGL_OK) {
        hardware = (agl_hardware){.gpu = result->gpu, .basis = "result file"};
        snprintf(hardware.name, sizeof hardware.name, "%s",
                 result->device[0] != '\0' ? result->device : result->platform);
    }
    hardware.count = result->count > 0 ? result->count : 1;
    if (result->device_memory_bytes > 0)
        hardware.memory_bytes = (uint64_t)result->device_memory_bytes;
    if (result->read_rate > 0) hardware.bandwidth = result->read_rate;
    if (result->multiply_rate > 0) hardware.flops = result->multiply_rate;
    return hardware;
}

typedef struct {
    double log_sum;
    int count;
} geometric;

static void geometric_add(geometric *g, double floor, double measured)
{
    if (!(floor > 0) || !(measured > 0)) return; /* also NaN */
    g->log_sum += log(floor / measured);
    g->count++;
}

static double geometric_mean(const geometric *g, double otherwise)
{
    return g->count > 0 ? exp(g->log_sum / g->count) : otherwise;
}

double agl_plan_parameters(const agl_engine_options *engine)
{
    agl_plan plan;
    agl_plan_options any = {.memory_bytes = 1};
    agl_status status = agl_plan_make(&plan, engine, &any, NULL);
    return status == AGL_OK || status == AGL_ERR_MEMORY ? (double)plan.parameters : NAN;
}

agl_efficiency agl_efficiency_fit(const agl_result *results, size_t count, bool gpu,
                                  double parameters)
{
    agl_efficiency fitted = agl_efficiency_default(gpu);
    geometric bandwidth = {0}, prefill = {0}, vision = {0};
    const char *first = NULL;
    size_t machines = 0;
    for (size_t i = 0; i < count; i++) {
        if (results[i].gpu != gpu || results[i].reported_by[0] != '\0') continue;
        if (results[i].parameters != parameters) continue; /* also NaN */
        if (machines++ == 0) first = results[i].platform;
        for (size_t k = 0; k < results[i].run_count; k++) {
            const agl_result_run *run = &results[i].runs[k];
            const agl_result_point *single = agl_result_point_of(run, 1);
            geometric_add(&vision, run->image_floor_ms, run->image_ttft_ms);
            if (single == NULL) continue;
            geometric_add(&bandwidth, single->floor_itl_ms, single->itl.median);
            geometric_add(&prefill, single->floor_ttft_ms, single->ttft.median);
        }
    }
    if (bandwidth.count == 0 && prefill.count == 0) return fitted;
    fitted.bandwidth = geometric_mean(&bandwidth, fitted.bandwidth);
    fitted.prefill = geometric_mean(&prefill, fitted.prefill);
    fitted.vision = geometric_mean(&vision, fitted.prefill);
    snprintf(fitted.origin, sizeof fitted.origin, "fitted to %d measured run%s: %.60s%s%s",
             bandwidth.count, bandwidth.count == 1 ? "" : "s", first,
             machines > 1 ? " and others" : "",
             vision.count == 0 ? "; no screenshot among them, vision as prefill" : "");
    return fitted;
}

agl_status agl_prediction_make(agl_prediction *out, const agl_engine_options *engine,
                               const agl_result *result, const agl_result_run *run,
                               const agl_efficiency *efficiency, agl_error *err)
{
    agl_hardware hardware = agl_result_hardware(result);
    const agl_format *format = agl_format_find(run->format);
    *out = (agl_prediction){.ttft_ms = NAN, .itl_ms = NAN, .image_ttft_ms = NAN,
                            .throughput = NAN, .batch_max = NAN};
    if (format == NULL || hardware.bandwidth <= 0 || hardware.flops <= 0 ||
        hardware.memory_bytes == 0)
        return AGL_OK;
    agl_plan plan;
    agl_status status = plan_of(&plan, engine, &hardware, format, hardware.count, err);
    if (status != AGL_OK && status != AGL_ERR_MEMORY) return status;
    if (isfinite(result->parameters) && (double)plan.parameters != result->parameters)
        return AGL_OK;
    out->plan = plan;
    uint32_t input = result->input_tokens, output = result->output_tokens;
    if (status != AGL_OK || input == 0 || output == 0) return AGL_OK;
    agl_roofline r = agl_roofline_of(&plan, &hardware, format, efficiency);
    out->ttft_ms = 1e3 * agl_roofline_prefill_s(&r, input, 0);
    out->itl_ms = 1e3 * agl_roofline_step_s(&r, 1, input + output / 2.0);
    if (plan.image_tokens > 0 && result->image_tokens == plan.image_tokens) {
        out->image_ttft_ms = 1e3 * image_first_token_s(&r, 0);
    }
    out->batch_max = (double)agl_plan_batch_max(&plan, input + output);
    out->throughput = 0;
    for (size_t i = 0; i < run->point_count; i++) {
        out->throughput =
            fmax(out->throughput, agl_roofline_throughput(&r, run->points[i].batch, input, output));
    }
    return AGL_OK;
}
