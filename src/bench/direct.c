/* SPDX-License-Identifier: Apache-2.0
 *
 * direct.c - `autoglm bench latency | throughput | startup | kernels`: the engine in this process,
 * without HTTP. JSON keys are those of `vllm bench latency | throughput | startup`, and the
 * floors of roofline.h with the rates of this machine, measured just before. */
#include "bench/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "bench/batch.h"
#include "bench/roofline.h"
#include "bench/statistics.h"

static void note(const agl_bench_direct_options *o, const char *what, size_t done, size_t total)
{
    if (o->quiet || !isatty(STDERR_FILENO)) return;
    fprintf(stderr, "\r  %s %zu/%zu ", what, done, total);
    if (done == total) fputc('\n', stderr);
    fflush(stderr);
}

static agl_status run_batch(agl_engine *engine, const agl_bench_direct_options *o, uint64_t seed,
                            agl_batch_times *sum, agl_error *err)
{
    agl_batch_options batch = {.batch = o->batch,
                               .input_tokens = o->input_tokens,
                               .output_tokens = o->output_tokens,
                               .token_first = o->token_first,
                               .token_last = o->token_last,
                               .seed = seed,
                               .interrupted = o->interrupted};
    return agl_batch_run(sum, engine, &batch, err);
}

/* ---- floors ------------------------------------------------------------- */

/* What the machine allows at best; not known: no line of the report mentions it. */
typedef struct {
    bool known;
    double read_rate, multiply_rate;    /* bytes and FLOP a second                        */
    double ttft_s, itl_s;               /* means over the batch, as they are measured     */
} floors;

static agl_status measure_machine(agl_hardware *out, const agl_bench_direct_options *o, agl_error *err)
{
    if (!o->quiet && isatty(STDERR_FILENO)) fprintf(stderr, "  memory and units of this machine\n");
    return agl_hardware_here(out, &o->engine, err);
}

static floors measure_floors(const agl_bench_direct_options *o)
{
    agl_hardware hardware;
    agl_plan plan;
    if (measure_machine(&hardware, o, NULL) != AGL_OK) return (floors){0};
    agl_plan_options machine = {.gpu = hardware.gpu, .memory_bytes = hardware.memory_bytes,
                                .count = hardware.count};
    if (agl_plan_make(&plan, &o->engine, &machine, NULL) != AGL_OK) return (floors){0};
    const agl_format *format = agl_format_find(plan.dtype);
    if (format == NULL) return (floors){0};
    agl_efficiency one = agl_efficiency_one();
    agl_roofline roofline = agl_roofline_of(&plan, &hardware, format, &one);
    double together = o->batch < plan.max_num_seqs ? o->batch : plan.max_num_seqs;
    double context = o->input_tokens + o->output_tokens / 2.0;
    return (floors){.known = true, .read_rate = hardware.bandwidth, .multiply_rate = hardware.flops,
                    .ttft_s = agl_roofline_first_token_s(&roofline, o->batch, o->input_tokens),
                    .itl_s = agl_roofline_step_s(&roofline, together, context)};
}

static void append_floors(agl_buffer *json, const floors *f, const agl_summary *ttft,
                          const agl_summary *gap)
{
    if (!f->known) return;
    agl_buffer_append_format(json, ",\"rates\":{\"read_bytes_per_s\":%.0f,\"flops\":%.0f},"
                                   "\"floor\":{\"ttft_ms\":%.6f,\"itl_ms\":%.6f},\"achieved\":{",
                             f->read_rate, f->multiply_rate, f->ttft_s * 1e3, f->itl_s * 1e3);
    if (ttft->count > 0) agl_buffer_append_format(json, "\"ttft\":%.4f", f->ttft_s / ttft->mean);
    if (gap->count > 0) agl_buffer_append_format(json, ",\"itl\":%.4f", f->itl_s / gap->mean);
    agl_buffer_append_char(json, '}');
}

static void print_floors(const floors *f, const agl_summary *ttft, const agl_summary *gap)
{
    if (!f->known) return;
    printf("floor at %.1f GB/s and %.1f GFLOP/s, measured here: first token %.2f ms (%.0f %% reached)",
           f->read_rate * 1e-9, f->multiply_rate * 1e-9, f->ttft_s * 1e3,
           100 * f->ttft_s / ttft->mean);
    if (gap->count > 0) {
        printf(", token %.2f ms (%.0f %%)", f->itl_s * 1e3, 100 * f->itl_s / gap->mean);
    }
    printf("\n");
}

/* ---- reports ------------------------------------------------------------ */

static agl_status deliver(const agl_bench_direct_options *o, agl_buffer *json, agl_error *err)
{
    agl_buffer_append_char(json, '\n');
    if (json->failed) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the results");
    if (o->json) fwrite(json->data, 1, json->bytes, stdout);
    if (o->save_path == NULL) return AGL_OK;
    FILE *file = fopen(o->save_path, "w");
    bool written = file != NULL && fwrite(json->data, 1, json->bytes, file) == json->bytes;
    if (file != NULL && fclose(file) != 0) written = false;
    return written ? AGL_OK : agl_fail(err, AGL_ERR_IO, "%s: cannot be written", o->save_path);
}

static void append_summary(agl_buffer *json, const char *key, const agl_summary *s)
{
    agl_buffer_append_format(
        json,
        ",\"%s\":{\"mean\":%.6f,\"std\":%.6f,\"median\":%.6f,\"min\":%.6f,\"max\":%.6f,"
        "\"p90\":%.6f,\"p99\":%.6f}",
        key, s->mean * 1e3, s->deviation * 1e3, s->median * 1e3, s->min * 1e3, s->max * 1e3,
        s->p90 * 1e3, s->p99 * 1e3);
}

static void print_row(const char *name, const agl_summary *s)
{
    printf("%-28s %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, s->mean * 1e3, s->deviation * 1e3,
           s->median * 1e3, s->p99 * 1e3, s->min * 1e3);
}

static void print_head(agl_engine *engine, const agl_bench_direct_options *o)
{
    agl_model_info info = agl_engine_model_info(engine);
    printf("%s  %s  %s  %.2f B parameters\n", info.architecture, info.dtype, info.device,
           (double)info.parameters * 1e-9);
    printf("%u tokens in, %u out, %u at once, %u iterations\n", o->input_tokens, o->output_tokens,
           o->batch, o->iterations);
    printf("%-28s %10s %10s %10s %10s %10s\n", "ms", "mean", "sd", "median", "p99", "min");
}

static agl_status report_latency(agl_engine *engine, const agl_bench_direct_options *o,
                                 agl_batch_times *sum, const floors *floor, agl_error *err)
{
    static const double PERCENTS[] = {10, 25, 50, 75, 90, 99};
    agl_buffer json;
    agl_buffer_init(&json, 0);
    agl_buffer_append_text(&json, "{\"latencies\":[");
    for (size_t i = 0; i < sum->latency_s.count; i++) {
        agl_buffer_append_format(&json, i > 0 ? ",%.6f" : "%.6f", sum->latency_s.values[i]);
    }
    agl_summary latency = agl_summary_of(sum->latency_s.values, sum->latency_s.count);
    agl_summary ttft = agl_summary_of(sum->ttft_s.values, sum->ttft_s.count);
    agl_summary gap = agl_summary_of(sum->gap_s.values, sum->gap_s.count);
    agl_buffer_append_format(&json, "],\"avg_latency\":%.6f,\"percentiles\":{", latency.mean);
    for (size_t i = 0; i < AGL_COUNT(PERCENTS); i++) {
        agl_buffer_append_format(
            &json, "%s\"%g\":%.6f", i > 0 ? "," : "", PERCENTS[i],
            agl_percentile(sum->latency_s.values, sum->latency_s.count, PERCENTS[i]));
    }
    double tokens_per_s = sum->elapsed_s > 0 ? (double)sum->output_tokens / sum->elapsed_s : 0;
    agl_buffer_append_format(&json, "},\"batch_size\":%u,\"input_len\":%u,\"output_len\":%u,"
                             "\"output_throughput\":%.6f",
                             o->batch, o->input_tokens, o->output_tokens, tokens_per_s);
    append_summary(&json, "ttft_ms", &ttft);
    append_summary(&json, "itl_ms", &gap);
    append_floors(&json, floor, &ttft, &gap);
    agl_buffer_append_char(&json, '}');
    if (!o->json) {
        print_head(engine, o);
        print_row("latency of a batch", &latency);
        print_row("time to first token", &ttft);
        print_row("inter-token latency", &gap);
        printf("%-28s %10.2f\n", "output tokens/s", tokens_per_s);
        print_floors(floor, &ttft, &gap);
    }
    agl_status status = deliver(o, &json, err);
    agl_buffer_deinit(&json);
    return status;
}

static agl_status report_throughput(agl_engine *engine, const agl_bench_direct_options *o,
                                    agl_batch_times *sum, const floors *floor, agl_error *err)
{
    double requests = (double)o->batch * (double)sum->latency_s.count;
    double total = (double)(sum->prompt_tokens + sum->output_tokens);
    agl_summary ttft = agl_summary_of(sum->ttft_s.values, sum->ttft_s.count);
    agl_summary gap = agl_summary_of(sum->gap_s.values, sum->gap_s.count);
    agl_buffer json;
    agl_buffer_init(&json, 0);
    agl_buffer_append_format(
        &json,
        "{\"elapsed_time\":%.6f,\"num_requests\":%.0f,\"total_num_tokens\":%.0f,"
        "\"requests_per_second\":%.6f,\"tokens_per_second\":%.6f,"
        "\"output_tokens_per_second\":%.6f",
        sum->elapsed_s, requests, total, requests / sum->elapsed_s, total / sum->elapsed_s,
        (double)sum->output_tokens / sum->elapsed_s);
    append_summary(&json, "ttft_ms", &ttft);
    append_summary(&json, "itl_ms", &gap);
    append_floors(&json, floor, &ttft, &gap);
    agl_buffer_append_char(&json, '}');
    if (!o->json) {
        print_head(engine, o);
        print_row("time to first token", &ttft);
        print_row("inter-token latency", &gap);
        printf("throughput: %.2f requests/s, %.2f total tokens/s, %.2f output tokens/s\n",
               requests / sum->elapsed_s, total / sum->elapsed_s,
               (double)sum->output_tokens / sum->elapsed_s);
        print_floors(floor, &ttft, &gap);
    }
    agl_status status = deliver(o, &json, err);
    agl_buffer_deinit(&json);
    return status;
}

/* Warm-ups, then iterations of one batch on a fresh engine. */
static agl_status measure(const agl_bench_direct_options *o,
                          agl_status (*report)(agl_engine *, const agl_bench_direct_options *,
                                               agl_batch_times *, const floors *, agl_error *),
                          agl_error *err)
{
    if (o->batch == 0 || o->iterations == 0 || o->input_tokens == 0) {
        return agl_fail(err, AGL_ERR_ARGUMENT,
                        "batch size, iterations and input length: at least 1 expected");
    }
    floors floor = measure_floors(o);
    agl_engine *engine;
    AGL_TRY(agl_engine_create(&engine, &o->engine, err));
    agl_batch_times warm = {0}, sum = {0};
    agl_status status = AGL_OK;
    for (uint32_t i = 0; status == AGL_OK && i < o->warmups; i++) {
        status = run_batch(engine, o, o->seed + 1000003u * (i + 1), &warm, err);
        note(o, "warm-up", i + 1, o->warmups);
    }
    for (uint32_t i = 0; status == AGL_OK && i < o->iterations; i++) {
        status = run_batch(engine, o, o->seed + 7919u * i, &sum, err);
        note(o, "iteration", i + 1, o->iterations);
    }
    /* Interrupted runs keep what was measured. */
    if (status == AGL_ERR_CANCELLED && sum.latency_s.count > 0) status = AGL_OK;
    if (status == AGL_OK) status = report(engine, o, &sum, &floor, err);
    agl_batch_times_deinit(&warm);
    agl_batch_times_deinit(&sum);
    agl_engine_destroy(engine);
    return status;
}

agl_status agl_bench_latency(const agl_bench_direct_options *options, agl_error *err)
{
    return measure(options, report_latency, err);
}

agl_status agl_bench_throughput(const agl_bench_direct_options *options, agl_error *err)
{
    return measure(options, report_throughput, err);
}

/* ---- start-up ----------------------------------------------------------- */

enum { PHASES_MAX = 16 };

typedef struct {
    char names[PHASES_MAX][48];
    double begin_s[PHASES_MAX];
    size_t count;
} phases;

static void on_phase(void *user, const char *name, double fraction)
{
    (void)fraction;
    phases *p = user;
    if (p->count > 0 && strcmp(p->names[p->count - 1], name) == 0) return;
    if (p->count == PHASES_MAX) return;
    snprintf(p->names[p->count], sizeof p->names[0], "%s", name);
    p->begin_s[p->count++] = agl_clock_s();
}

static agl_status start_once(const agl_bench_direct_options *o, agl_buffer *json, bool first,
                             agl_error *err)
{
    phases p = {0};
    agl_engine_options options = o->engine;
    options.progress = on_phase;
    options.progress_user = &p;
    agl_engine *engine;
    double start_s = agl_clock_s();
    AGL_TRY(agl_engine_create(&engine, &options, err));
    double ready_s = agl_clock_s();
    agl_batch_times one = {0};
    agl_bench_direct_options single = *o;
    single.batch = 1;
    single.output_tokens = 1;
    agl_status status = run_batch(engine, &single, o->seed, &one, err);
    double token_s = agl_clock_s();
    agl_engine_destroy(engine);
    agl_batch_times_deinit(&one);
    if (status != AGL_OK) return status;
    agl_buffer_append_format(json, "%s{\"ready_s\":%.6f,\"first_token_s\":%.6f,\"phases\":{",
                             first ? "" : ",", ready_s - start_s, token_s - start_s);
    for (size_t i = 0; i < p.count; i++) {
        double end_s = i + 1 < p.count ? p.begin_s[i + 1] : ready_s;
        agl_buffer_append_format(json, "%s\"%s\":%.6f", i > 0 ? "," : "", p.names[i],
                                 end_s - p.begin_s[i]);
        if (!o->json) printf("  %-28s %8.3f s\n", p.names[i], end_s - p.begin_s[i]);
    }
    agl_buffer_append_text(json, "}}");
    if (!o->json) {
        printf("  %-28s %8.3f s\n  %-28s %8.3f s\n", "ready", ready_s - start_s, "first token",
               token_s - start_s);
    }
    return AGL_OK;
}

agl_status agl_bench_startup(const agl_bench_direct_options *options, agl_error *err)
{
    agl_buffer json;
    agl_buffer_init(&json, 0);
    agl_buffer_append_text(&json, "{\"starts\":[");
    agl_status status = AGL_OK;
    for (uint32_t i = 0; status == AGL_OK && i < options->iterations && !*options->interrupted;
         i++) {
        if (!options->json) printf("start %u of %u\n", i + 1, options->iterations);
        status = start_once(options, &json, i == 0, err);
    }
    agl_buffer_append_text(&json, "]}");
    if (status == AGL_OK) status = deliver(options, &json, err);
    agl_buffer_deinit(&json);
    return status;
}

/* ---- kernels ------------------------------------------------------------ */

typedef struct {
    const agl_bench_direct_options *options;
    agl_hardware hardware;
    agl_buffer json;
    size_t told;
} kernel_table;

static bool tell(void *user, const agl_kernel_time *k)
{
    kernel_table *s = user;
    double by_memory = k->bytes / s->hardware.bandwidth, by_units = k->flops / s->hardware.flops;
    double floor_s = fmax(by_memory, by_units);
    const char *bound = by_memory >= by_units ? "memory" : "units";
    if (!s->options->json) {
        printf("%-22s %-22s %6lld %12.2f %10.1f %10.1f   %-6s %4.0f %%\n", k->name, k->shape,
               (long long)k->rows, k->seconds * 1e6, k->bytes / k->seconds * 1e-9,
               k->flops / k->seconds * 1e-9, bound, 100 * floor_s / k->seconds);
        fflush(stdout);
    }
    agl_buffer_append_format(&s->json, "%s\n {\"name\":\"%s\",\"shape\":\"%s\",\"rows\":%lld,"
                             "\"seconds\":%.6g,\"bytes\":%.0f,\"flops\":%.0f,\"bound\":\"%s\","
                             "\"floor_s\":%.6g,\"achieved\":%.4f}",
                             s->told++ > 0 ? "," : "", k->name, k->shape, (long long)k->rows,
                             k->seconds, k->bytes, k->flops, bound, floor_s, floor_s / k->seconds);
    return !*s->options->interrupted;
}

static agl_status run_kernels(kernel_table *s, agl_error *err)
{
    const agl_bench_direct_options *o = s->options;
    AGL_TRY(measure_machine(&s->hardware, o, err));
    agl_buffer_append_format(&s->json, "{\"device\":\"%s\",\"rates\":{\"read_bytes_per_s\":%.0f,"
                             "\"flops\":%.0f},\"kernels\":[", s->hardware.name,
                             s->hardware.bandwidth, s->hardware.flops);
    if (!o->json) {
        printf("%s: read %.1f GB/s, products %.1f GFLOP/s\n", s->hardware.name,
               s->hardware.bandwidth * 1e-9, s->hardware.flops * 1e-9);
        printf("%-22s %-22s %6s %12s %10s %10s   %-6s %6s\n", "operation", "shape", "rows", "us",
               "GB/s", "GFLOP/s", "bound", "floor");
    }
    agl_status status = agl_kernels_measure(&o->engine, o->iterations, tell, s, err);
    /* Interrupted runs keep what was measured. */
    if (status == AGL_ERR_CANCELLED && s->told > 0) status = AGL_OK;
    agl_buffer_append_text(&s->json, "]}");
    return status == AGL_OK ? deliver(o, &s->json, err) : status;
}

agl_status agl_bench_kernels(const agl_bench_direct_options *options, agl_error *err)
{
    kernel_table s = {.options = options};
    agl_buffer_init(&s.json, 0);
    agl_status status = run_kernels(&s, err);
    agl_buffer_deinit(&s.json);
    return status;
}
