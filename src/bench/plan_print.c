/* SPDX-License-Identifier: Apache-2.0
 *
 * plan_print.c - rows of a plan as a table and as JSON. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench/plan.h"

static const char *const DEFAULT_FORMATS[] = {"bf16", "fp8", "int4"};

typedef struct {
    char text[24];
} cell;

/* Three digits are enough for a prediction. */
static cell number(double value)
{
    cell c;
    if (!isfinite(value)) snprintf(c.text, sizeof c.text, "-");
    else if (value < 10) snprintf(c.text, sizeof c.text, "%.2f", value);
    else if (value < 100) snprintf(c.text, sizeof c.text, "%.1f", value);
    else snprintf(c.text, sizeof c.text, "%.0f", value);
    return c;
}

static const char *mark(agl_fit fit)
{
    return fit == AGL_FIT_YES ? "✅" : fit == AGL_FIT_TIGHT ? "⚠️ " : "❌";
}

/* ---- table ----------------------------------------------------------------- */

static void print_model(const agl_plan *p, const agl_engine_options *engine)
{
    printf("%s: %.2f B parameters (layers %.2f, embedding %.2f, output %.2f, vision %.2f)\n",
           engine->model, 1e-9 * (double)p->parameters, 1e-9 * (double)p->layer_parameters,
           1e-9 * (double)p->embedding_parameters, 1e-9 * (double)p->lm_head_parameters,
           1e-9 * (double)p->vision_parameters);
    printf(
        "a token: %.2f GFLOP in the layers, %.2f in the output;"
        " a 1080x2400 screenshot: %u patches, %u tokens\n",
        1e-9 * p->token_flops, 1e-9 * p->lm_head_flops, p->image_patches, p->image_tokens);
}

static void print_head(const agl_hardware *h, const agl_efficiency *e)
{
    char title[128];
    agl_hardware_title(title, sizeof title, h);
    printf("\n%s  %.1f GB each, %.0f GB/s, %.3g TFLOP/s   (%s)\n", title,
           1e-9 * (double)h->memory_bytes, 1e-9 * h->bandwidth, 1e-12 * h->flops, h->basis);
    printf("efficiency: memory %.0f %%, prompts %.0f %%, vision %.0f %%   (%s)\n",
           100 * e->bandwidth, 100 * e->prefill, 100 * e->vision, e->origin);
    printf("  %-6s %-4s %8s %8s %8s   %-26s  %9s %10s   %-27s %s\n", "format", "fits", "weights",
           "scratch", "KV room", "batch at 768 2k 6k 25k", "TTFT(512)", "screenshot",
           "token gap at batch 1 8 32 128", "best tok/s");
}

/* `unbuilt`: what was said last for this machine; a reason is not repeated for each format. */
static void print_row(const agl_plan_row *row, const char **unbuilt)
{
    const agl_plan *p = &row->plan;
    char batches[96], gaps[128];
    snprintf(batches, sizeof batches, "%llu %llu %llu %llu", (unsigned long long)row->batch_max[0],
             (unsigned long long)row->batch_max[1], (unsigned long long)row->batch_max[2],
             (unsigned long long)row->batch_max[3]);
    snprintf(gaps, sizeof gaps, "%s %s %s %s ms", number(row->itl_ms[0]).text,
             number(row->itl_ms[1]).text, number(row->itl_ms[2]).text, number(row->itl_ms[3]).text);
    double scratch = (double)(p->activation_bytes + p->vision_bytes + p->encoder_bytes);
    printf("  %-6s %s   %5.1f GB %5.1f GB %5.1f GB   %-26s  %6s ms %7s ms   %-29s %s at %llu\n",
           row->format->title, mark(row->fit), 1e-9 * (double)p->weight_bytes, 1e-9 * scratch,
           1e-9 * (double)p->kv_room_bytes, batches, number(row->ttft_ms).text,
           number(row->image_ttft_ms).text, gaps, number(row->throughput).text,
           (unsigned long long)row->throughput_batch);
    if (row->reason[0] != '\0') {
        printf("         %s%s%s\n", row->reason, row->help[0] != '\0' ? "; helps: " : "",
               row->help);
    }
    if (p->not_built != NULL && p->not_built != *unbuilt)
        printf("         prediction only: %s\n", p->not_built);
    *unbuilt = p->not_built;
}

/* ---- JSON -------------------------------------------------------------------- */

static void put_number(agl_buffer *out, const char *key, double value)
{
    if (isfinite(value)) agl_buffer_append_format(out, ",\"%s\":%.6g", key, value);
    else agl_buffer_append_format(out, ",\"%s\":null", key);
}

static void put_text(agl_buffer *out, const char *key, const char *text)
{
    agl_buffer_append_format(out, ",\"%s\":\"", key);
    agl_buffer_append_json(out, text, strlen(text));
    agl_buffer_append_char(out, '"');
}

static void put_row(agl_buffer *out, const agl_plan_row *row, const agl_efficiency *e)
{
    static const char *const FITS[] = {"no", "tight", "yes"};
    const agl_plan *p = &row->plan;
    agl_buffer_append_format(out, "%s{\"fit\":\"%s\"", out->bytes > 1 ? ",\n " : "",
                             FITS[row->fit]);
    put_text(out, "hardware", row->hardware.name);
    agl_buffer_append_format(out, ",\"count\":%u", row->hardware.count);
    put_text(out, "format", row->format->key);
    put_text(out, "reason", row->reason);
    put_text(out, "help", row->help);
    if (p->not_built != NULL) put_text(out, "not_built", p->not_built);
    const struct { const char *key; uint64_t bytes;
    } sizes[] = {
        {"memory_bytes", p->memory_bytes},
        {"budget_bytes", p->budget_bytes},
        {"weight_bytes", p->weight_bytes},
        {"activation_bytes", p->activation_bytes},
        {"vision_bytes", p->vision_bytes},
        {"encoder_bytes", p->encoder_bytes},
        {"kv_room_bytes", p->kv_room_bytes},
        {"kv_bytes_per_token", p->kv_bytes_per_token},
        {"decode_weight_bytes", p->decode_weight_bytes},
        {"parameters", p->parameters},
        {"max_model_len", p->max_model_len},
        {"image_tokens", p->image_tokens},
    };
    for (size_t i = 0; i < AGL_COUNT(sizes); i++) {
        agl_buffer_append_format(out, ",\"%s\":%llu", sizes[i].key,
                                 (unsigned long long)sizes[i].bytes);
    }
    agl_buffer_append_text(out, ",\"batch_max\":{");
    for (int i = 0; i < AGL_PLAN_CONTEXTS; i++) {
        agl_buffer_append_format(out, "%s\"%u\":%llu", i > 0 ? "," : "", agl_plan_contexts[i],
                                 (unsigned long long)row->batch_max[i]);
    }
    agl_buffer_append_text(out, "}");
    put_number(out, "ttft_512_ms", row->ttft_ms);
    put_number(out, "screenshot_ttft_ms", row->image_ttft_ms);
    for (int i = 0; i < AGL_PLAN_BATCHES; i++) {
        char key[32];
        snprintf(key, sizeof key, "itl_ms_batch_%u", agl_plan_batches[i]);
        put_number(out, key, row->itl_ms[i]);
    }
    put_number(out, "output_throughput", row->throughput);
    agl_buffer_append_format(
        out,
        ",\"throughput_batch\":%llu,\"efficiency\":{\"bandwidth\":%.4f,\"prefill\":%.4f,"
        "\"vision\":%.4f",
        (unsigned long long)row->throughput_batch, e->bandwidth, e->prefill, e->vision);
    put_text(out, "origin", e->origin);
    agl_buffer_append_text(out, "}}");
}

/* ---- predictions beside measurements ---------------------------------------- */

static void print_pair(const char *what, double predicted, double measured)
{
    if (!isfinite(predicted) || !isfinite(measured) || measured <= 0) return;
    printf("    %-28s predicted %10s   measured %10s   off by %+.1f %%\n", what,
           number(predicted).text, number(measured).text, 100 * (predicted / measured - 1));
}

static bool is_asked_for(const agl_plan_print_options *o, const agl_result *result)
{
    agl_hardware measured = agl_result_hardware(result);
    for (size_t h = 0; h < o->hardware_count; h++) {
        if (strcmp(o->hardware[h].name, measured.name) == 0 &&
            o->hardware[h].count == measured.count)
            return true;
    }
    return !o->compare_named;
}

static agl_status compare(const agl_plan_print_options *o, const agl_result *result, agl_error *err)
{
    agl_efficiency efficiency = agl_efficiency_fit(o->results, o->result_count, result->gpu,
                                                   agl_plan_parameters(&o->engine));
    bool reported = result->reported_by[0] != '\0';
    printf("\n%s: %s, %u tokens in, %u out\n", result->platform,
           reported ? result->reported_by : result->file, result->input_tokens,
           result->output_tokens);
    for (size_t i = 0; i < result->run_count; i++) {
        const agl_result_run *run = &result->runs[i];
        const agl_result_point *single = agl_result_point_of(run, 1);
        agl_prediction p;
        AGL_TRY(agl_prediction_make(&p, &o->engine, result, run, &efficiency, err));
        if (p.plan.parameters == 0) {
            printf("    %s: another model, or a machine whose rates are not known: not compared\n",
                   run->format);
            continue;
        }
        printf("  %s%s\n", run->format, isnan(p.ttft_ms) ? ", which would not fit" : "");
        print_pair("weights, GB", 1e-9 * (double)p.plan.weight_bytes, 1e-9 * run->weight_bytes);
        if (single != NULL) {
            print_pair("first token, ms", p.ttft_ms, single->ttft.mean);
            print_pair("token gap at batch 1, ms", p.itl_ms, single->itl.mean);
        }
        print_pair("screenshot's first token, ms", p.image_ttft_ms, run->image_ttft_ms);
        print_pair("output tokens/s at best", p.throughput, run->max_throughput);
        print_pair("largest batch", p.batch_max, run->batch_max);
    }
    return AGL_OK;
}

agl_status agl_plan_print(const agl_plan_print_options *o, agl_error *err)
{
    const char *const *formats = o->formats != NULL ? o->formats : DEFAULT_FORMATS;
    size_t format_count = o->formats != NULL ? o->format_count : AGL_COUNT(DEFAULT_FORMATS);
    double parameters = agl_plan_parameters(&o->engine);
    agl_buffer json;
    agl_buffer_init(&json, 0);
    agl_buffer_append_char(&json, '[');
    agl_status status = AGL_OK;
    for (size_t h = 0; status == AGL_OK && h < o->hardware_count; h++) {
        agl_efficiency efficiency =
            agl_efficiency_fit(o->results, o->result_count, o->hardware[h].gpu, parameters);
        const char *unbuilt = NULL;
        for (size_t f = 0; status == AGL_OK && f < format_count; f++) {
            agl_plan_row row;
            const agl_format *format = agl_format_find(formats[f]);
            if (format == NULL) {
                status =
                    agl_fail(err, AGL_ERR_ARGUMENT,
                             "format \"%s\" is not known; bf16, fp16, f32, fp8 or int4 expected",
                             formats[f]);
                break;
            }
            status = agl_plan_row_make(&row, &o->engine, &o->hardware[h], format, &efficiency, err);
            if (status != AGL_OK) break;
            if (o->json) {
                put_row(&json, &row, &efficiency);
                continue;
            }
            if (h == 0 && f == 0) print_model(&row.plan, &o->engine);
            if (f == 0) print_head(&o->hardware[h], &efficiency);
            print_row(&row, &unbuilt);
        }
    }
    for (size_t i = 0; status == AGL_OK && !o->json && i < o->result_count; i++) {
        if (is_asked_for(o, &o->results[i])) status = compare(o, &o->results[i], err);
    }
    agl_buffer_append_text(&json, "]\n");
    if (status == AGL_OK && json.failed)
        status = agl_fail(err, AGL_ERR_MEMORY, "no memory for the plan");
    if (status == AGL_OK && o->json) fwrite(json.data, 1, json.bytes, stdout);
    agl_buffer_deinit(&json);
    return status;
}
