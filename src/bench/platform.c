/* SPDX-License-Identifier: Apache-2.0
 *
 * platform.c - `autoglm bench platform`: one command, one result file for this machine.
 *
 * Floors come from the rates of this machine, measured at the start of the same run, and
 * from the counts of agl_plan_make. The mean first token of a batch waits for the prompts
 * before it: the floor of B prompts is (B + 1) / 2 single ones. */
#include "bench/bench.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "bench/batch.h"
#include "bench/results.h"
#include "bench/roofline.h"
#include "bench/statistics.h"

static const uint32_t BATCHES[] = {1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64};

typedef struct {
    const agl_bench_platform_options *options;
    agl_hardware hardware;
    agl_result result;
    uint32_t batches[AGL_BENCH_BATCHES_MAX];
    size_t batch_count;
    double start_s;
    bool stopped;               /* by the user or the time limit */
} session;

__attribute__((format(printf, 2, 3)))
static void say(const session *s, const char *format, ...)
{
    if (s->options->json || s->options->quiet) return;
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    fflush(stdout);
}

static void draw(const session *s, const char *format, uint32_t batch, uint32_t done,
                 uint32_t total)
{
    if (s->options->quiet || !isatty(STDERR_FILENO)) return;
    int width = total > 0 ? (int)(24 * done / total) : 0;
    fprintf(stderr, "\r  %-5s batch %-4u [%-24.*s] %u/%u  %.0f s ", format, batch, width,
            "########################", done, total, agl_clock_s() - s->start_s);
    if (done == total) fputs("\r\033[K", stderr);
    fflush(stderr);
}

static agl_status save(const session *s, agl_error *err)
{
    return s->options->save_path != NULL ? agl_result_save(&s->result, s->options->save_path, err)
                                         : AGL_OK;
}

/* ---- one batch size ------------------------------------------------------ */

static agl_result_time time_of(agl_samples *samples)
{
    agl_summary sum = agl_summary_of(samples->values, samples->count);
    if (sum.count == 0)
        return (agl_result_time){.mean = NAN, .deviation = NAN, .median = NAN, .p99 = NAN};
    return (agl_result_time){.mean = 1e3 * sum.mean,
                             .deviation = 1e3 * sum.deviation,
                             .median = 1e3 * sum.median,
                             .p99 = 1e3 * sum.p99,
                             .count = (uint32_t)sum.count};
}

static void note_point(session *s, agl_result_run *run, const agl_roofline *floor, uint32_t batch,
                       agl_batch_times *times)
{
    const agl_bench_platform_options *o = s->options;
    agl_result_point *point = &run->points[run->point_count++];
    double context = o->input_tokens + o->output_tokens / 2.0;
    *point = (agl_result_point){
        .batch = batch,
        .iterations = (uint32_t)times->latency_s.count,
        .ttft = time_of(&times->ttft_s),
        .itl = time_of(&times->gap_s),
        .output_throughput = times->elapsed_s > 0 ? (double)times->output_tokens / times->elapsed_s
                                                  : NAN,
        .floor_ttft_ms = 1e3 * agl_roofline_first_token_s(floor, batch, o->input_tokens),
        .floor_itl_ms = 1e3 * agl_roofline_step_s(floor, batch, context),
    };
    run->max_throughput = fmax(run->max_throughput, point->output_throughput); /* NaN gives way */
    say(s, "  %5u  %9.1f +- %-8.1f %9.2f +- %-8.2f %9.1f   %4.0f %%  %4.0f %%\n", batch,
        point->ttft.mean, point->ttft.deviation, point->itl.mean, point->itl.deviation,
        point->output_throughput, 100 * point->floor_ttft_ms / point->ttft.mean,
        100 * point->floor_itl_ms / point->itl.mean);
}

/* Warm-ups with short answers, then the iterations. What an interrupt leaves is kept. */
static agl_status measure_batch(session *s, agl_result_run *run, agl_engine *engine,
                                const agl_roofline *floor, uint32_t batch, agl_error *err)
{
    const agl_bench_platform_options *o = s->options;
    agl_batch_options options = {.batch = batch,
                                 .input_tokens = o->input_tokens,
                                 .output_tokens = 2,
                                 .seed = o->seed + batch * 1000003u,
                                 .interrupted = o->interrupted};
    agl_batch_times warm = {0}, times = {0};
    agl_status status = AGL_OK;
    uint32_t total = o->warmups + o->iterations;
    for (uint32_t i = 0; status == AGL_OK && i < total; i++) {
        draw(s, run->format, batch, i, total);
        options.output_tokens = i < o->warmups ? 2 : o->output_tokens;
        options.seed += 7919;
        status = agl_batch_run(i < o->warmups ? &warm : &times, engine, &options, err);
    }
    draw(s, run->format, batch, total, total);
    if (status == AGL_ERR_CANCELLED) {
        s->stopped = true;
        status = AGL_OK;
    }
    if (status == AGL_OK && times.latency_s.count > 0) note_point(s, run, floor, batch, &times);
    agl_batch_times_deinit(&warm);
    agl_batch_times_deinit(&times);
    return status;
}

/* First token of one screenshot, cold: each iteration draws another one. */
static agl_status measure_image(session *s, agl_result_run *run, agl_engine *engine,
                                const agl_roofline *floor, agl_error *err)
{
    const agl_bench_platform_options *o = s->options;
    agl_batch_times times = {0};
    agl_status status = AGL_OK;
    for (uint32_t i = 0; status == AGL_OK && i < o->iterations; i++) {
        unsigned char *png;
        size_t bytes;
        draw(s, "image", 1, i, o->iterations);
        status = agl_screen_draw(&png, &bytes, o->image_width, o->image_height, o->seed + i, err);
        if (status != AGL_OK) break;
        agl_batch_options options = {.batch = 1,
                                     .output_tokens = 1,
                                     .image = png,
                                     .image_bytes = bytes,
                                     .interrupted = o->interrupted};
        status = agl_batch_run(&times, engine, &options, err);
        free(png);
    }
    draw(s, "image", 1, o->iterations, o->iterations);
    if (status == AGL_ERR_CANCELLED) {
        s->stopped = true;
        status = AGL_OK;
    }
    double count = (double)times.latency_s.count;
    if (status == AGL_OK && count > 0) {
        s->result.image_width = o->image_width;
        s->result.image_height = o->image_height;
        s->result.image_tokens = (uint32_t)((double)times.image_tokens / count);
        run->image_ttft_ms = time_of(&times.ttft_s).mean;
        run->image_floor_ms =
            1e3 *
            (agl_roofline_vision_s(floor, floor->plan.image_patches, floor->plan.image_tokens) +
             agl_roofline_prefill_s(floor, (double)times.prompt_tokens / count, 0));
        say(s, "  screenshot %ux%u, %u tokens: first token after %.1f ms\n", o->image_width,
            o->image_height, s->result.image_tokens, run->image_ttft_ms);
    }
    agl_batch_times_deinit(&times);
    return status;
}

/* ---- one format ---------------------------------------------------------- */

/* The engine that serves the largest batch, with pages for it and no more. */
static agl_engine_options engine_options(const session *s, const agl_format *format,
                                         const agl_plan *plan, uint32_t batch_most)
{
    const agl_bench_platform_options *o = s->options;
    agl_engine_options engine = o->engine;
    uint32_t length = o->input_tokens + o->output_tokens, text = 256;
    uint32_t image = o->image_width > 0 ? plan->image_tokens + text : 0;
    if (format->dtype != NULL) engine.dtype = format->dtype;
    engine.disable_prefix_cache = true;
    if (engine.max_num_seqs == 0) engine.max_num_seqs = batch_most;
    if (engine.max_model_len == 0) engine.max_model_len = length > image ? length : image;
    if (engine.kv_cache_bytes == 0) {
        uint64_t pages = (length + plan->page_tokens - 1) / plan->page_tokens * engine.max_num_seqs;
        uint64_t window = (engine.max_model_len + plan->page_tokens - 1) / plan->page_tokens;
        engine.kv_cache_bytes = (pages > window ? pages : window) * plan->page_tokens *
                                plan->kv_bytes_per_token;
        if (engine.kv_cache_bytes > plan->kv_room_bytes)
            engine.kv_cache_bytes = plan->kv_room_bytes;
    }
    return engine;
}

static agl_status plan_format(agl_plan *plan, const session *s, const agl_format *format,
                              agl_error *err)
{
    const agl_bench_platform_options *o = s->options;
    agl_engine_options engine = o->engine;
    agl_plan_options machine = {.gpu = s->hardware.gpu, .memory_bytes = s->hardware.memory_bytes,
                                .count = s->hardware.count, .layer_bits = format->layer_bits,
                                .lm_head_bits = format->lm_head_bits, .image_width = o->image_width,
                                .image_height = o->image_height};
    if (format->dtype != NULL) engine.dtype = format->dtype;
    return agl_plan_make(plan, &engine, &machine, err);
}

static agl_status measure_points(session *s, agl_result_run *run, agl_engine *engine,
                                 const agl_roofline *floor, uint32_t batch_most, agl_error *err)
{
    const agl_bench_platform_options *o = s->options;
    say(s, "  batch       first token (ms)       token gap (ms)    tokens/s   floor/measured\n");
    for (size_t i = 0; i < s->batch_count && !s->stopped; i++) {
        if (s->batches[i] > batch_most) break;
        if (o->seconds_max > 0 && agl_clock_s() - s->start_s > o->seconds_max) s->stopped = true;
        if (s->stopped) break;
        AGL_TRY(measure_batch(s, run, engine, floor, s->batches[i], err));
        AGL_TRY(save(s, err));
    }
    return o->image_width > 0 && !s->stopped ? measure_image(s, run, engine, floor, err) : AGL_OK;
}

static agl_status measure_format(session *s, const agl_format *format, agl_error *err)
{
    const agl_bench_platform_options *o = s->options;
    agl_plan plan;
    agl_error reason = {0};
    agl_status status = plan_format(&plan, s, format, &reason);
    if (status != AGL_OK || plan.not_built != NULL) {
        const char *why = status != AGL_OK ? reason.message : plan.not_built;
        if (status != AGL_OK && status != AGL_ERR_MEMORY) return agl_fail(err, status, "%s", why);
        if (!o->quiet) fprintf(stderr, "%s: left out: %s\n", format->title, why);
        return AGL_OK;
    }
    uint64_t batch_max = agl_plan_batch_max(&plan, o->input_tokens + o->output_tokens);
    uint32_t batch_most = 0;
    for (size_t i = 0; i < s->batch_count; i++) {
        if (s->batches[i] <= batch_max) batch_most = s->batches[i];
    }
    if (batch_most == 0) {
        if (!o->quiet)
            fprintf(stderr, "%s: left out: not even a batch of %u fits\n", format->title,
                    s->batches[0]);
        return AGL_OK;
    }
    agl_result_run *run = &s->result.runs[s->result.run_count++];
    *run = (agl_result_run){.max_throughput = NAN,
                            .image_ttft_ms = NAN,
                            .image_floor_ms = NAN,
                            .batch_max = (double)batch_max,
                            .weight_bytes = (double)plan.weight_bytes};
    snprintf(run->format, sizeof run->format, "%s", format->key);
    snprintf(run->dtype, sizeof run->dtype, "%s", plan.dtype);
    agl_engine_options options = engine_options(s, format, &plan, batch_most);
    say(s, "%s: loading %.2f GB\n", format->title, 1e-9 * (double)plan.weight_bytes);
    agl_engine *engine;
    double load_start_s = agl_clock_s();
    AGL_TRY(agl_engine_create(&engine, &options, err));
    run->load_s = agl_clock_s() - load_start_s;
    agl_engine_stats stats = agl_engine_stats_get(engine);
    run->kv_bytes = (double)stats.kv_bytes;
    run->kv_tokens = (double)stats.kv_pages * stats.kv_page_tokens;
    if (!s->hardware.gpu) {
        snprintf(s->result.device, sizeof s->result.device, "%s",
                 agl_engine_model_info(engine).device);
    }
    agl_efficiency one = agl_efficiency_one();
    agl_roofline floor = agl_roofline_of(&plan, &s->hardware, format, &one);
    status = measure_points(s, run, engine, &floor, batch_most, err);
    agl_engine_destroy(engine);
    say(s, "  largest batch %.0f\n", run->batch_max);
    return status;
}

/* ---- the session --------------------------------------------------------- */

static void describe(session *s)
{
    const agl_bench_platform_options *o = s->options;
    agl_result *r = &s->result;
    agl_plan plan;
    const char *slash = strrchr(o->engine.model, '/');
    time_t now = time(NULL);
    struct tm utc;
    strftime(r->created, sizeof r->created, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    snprintf(r->program, sizeof r->program, "autoglm %s", AGL_VERSION);
    snprintf(r->platform, sizeof r->platform, "%s",
             o->platform != NULL ? o->platform : s->hardware.name);
    r->gpu = s->hardware.gpu;
    if (r->gpu) snprintf(r->device, sizeof r->device, "%s", s->hardware.name);
    snprintf(r->model, sizeof r->model, "%s",
             slash != NULL && slash[1] != '\0' ? slash + 1 : o->engine.model);
    r->dummy = o->engine.load_format != NULL && strcmp(o->engine.load_format, "dummy") == 0;
    r->device_memory_bytes = (double)s->hardware.memory_bytes;
    r->read_rate = s->hardware.bandwidth;
    r->multiply_rate = s->hardware.flops;
    r->input_tokens = o->input_tokens;
    r->output_tokens = o->output_tokens;
    /* Too little memory for one format still tells the size of the model. */
    agl_status status = plan_format(&plan, s, agl_format_at(0), NULL);
    if (status == AGL_OK || status == AGL_ERR_MEMORY) r->parameters = (double)plan.parameters;
}

static agl_status measure_formats(session *s, agl_error *err)
{
    const agl_bench_platform_options *o = s->options;
    for (size_t i = 0; o->formats != NULL && i < o->format_count && !s->stopped; i++) {
        const agl_format *format = agl_format_find(o->formats[i]);
        if (format == NULL) {
            return agl_fail(err, AGL_ERR_ARGUMENT,
                            "format \"%s\" is not known; bf16, fp16, f32, fp8 or int4 expected",
                            o->formats[i]);
        }
        if (s->result.run_count < AGL_RESULT_RUNS_MAX) AGL_TRY(measure_format(s, format, err));
    }
    for (size_t i = 0; o->formats == NULL && agl_format_at(i) != NULL && !s->stopped; i++) {
        AGL_TRY(measure_format(s, agl_format_at(i), err));
    }
    return AGL_OK;
}

static agl_status finish(session *s, agl_error *err)
{
    bool measured = false;
    for (size_t i = 0; i < s->result.run_count; i++) measured |= s->result.runs[i].point_count > 0;
    if (!measured) return agl_fail(err, AGL_ERR_CANCELLED, "nothing was measured");
    s->result.complete = !s->stopped;
    AGL_TRY(save(s, err));
    if (!s->options->json) return AGL_OK;
    agl_buffer out;
    agl_buffer_init(&out, 0);
    agl_result_append_json(&out, &s->result);
    if (!out.failed) fwrite(out.data, 1, out.bytes, stdout);
    agl_buffer_deinit(&out);
    return AGL_OK;
}

agl_status agl_bench_platform(const agl_bench_platform_options *options, agl_error *err)
{
    if (options->input_tokens == 0 || options->output_tokens == 0 || options->iterations == 0) {
        return agl_fail(err, AGL_ERR_ARGUMENT,
                        "input length, output length and iterations: at least 1 expected");
    }
    session *s = calloc(1, sizeof *s);
    if (s == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a session");
    s->options = options;
    s->start_s = agl_clock_s();
    s->batch_count = options->batch_count > 0 ? options->batch_count : AGL_COUNT(BATCHES);
    memcpy(s->batches, options->batch_count > 0 ? options->batches : BATCHES,
           s->batch_count * sizeof *s->batches);
    agl_result_init(&s->result);
    s->result.machine = agl_machine_describe();
    s->result.complete = false;
    say(s, "measuring memory and units ...\n");
    agl_status status = agl_hardware_here(&s->hardware, &options->engine, err);
    if (status == AGL_OK) {
        describe(s);
        say(s, "%s: read %.2f GB/s, products %.1f GFLOP/s (%s)\n", s->hardware.name,
            1e-9 * s->hardware.bandwidth, 1e-9 * s->hardware.flops,
            s->hardware.gpu ? "16 bit" : "F32");
        status = measure_formats(s, err);
    }
    if (status == AGL_OK) status = finish(s, err);
    else if (s->result.run_count > 0) save(s, NULL);
    free(s);
    return status;
}
