/* SPDX-License-Identifier: Apache-2.0 */
#include "server/metrics.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "server/histogram.h"
#include "server/ttft_monitor.h"

#define ROUTES_MAX 48

/* vLLM's edges are all here; the others split its lowest buckets, where a fast engine lives. */
static const double TTFT_EDGES[] = {0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3,
                                    0.4,   0.5,   0.75, 1,    1.5,  2,    2.5,  5,    7.5,  10,  20,   40,  80,   160,
                                    640,   2560};
static const double TOKEN_EDGES[] = {0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01,
                                     0.015,  0.02,  0.025,  0.03,  0.04,  0.05,  0.075, 0.1,   0.15,  0.2,
                                     0.3,    0.4,   0.5,    0.75,  1,     2.5,   5,     7.5,   10,    20,
                                     40,     80};
static const double LATENCY_EDGES[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1,
                                       1.5,   2,     2.5,  5,    10,   15,   20,   30,  40,   50,  60,  120, 240, 480,
                                       960,   1920,  7680};
static const double STAGE_EDGES[] = {0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03,
                                     0.04,   0.06,  0.08,  0.1,   0.15,  0.2,   0.3,  0.5,   1,    2,
                                     5,      10,    30};
static const double COUNT_EDGES[] = {1,    2,    5,    10,    20,    50,    100,   200, 500,
                                     1000, 2000, 5000, 10000, 20000, 50000, 100000};
static const double N_EDGES[] = {1, 2, 5, 10, 20};
static const double BYTE_EDGES[] = {1e3, 1e4, 1e5, 2e5, 5e5, 1e6, 2e6, 4e6, 8e6, 16e6, 32e6, 64e6};

/* slot, name, edges, unit of the sum, help */
#define HISTOGRAMS(X)                                                                                        \
    X(TTFT, "vllm:time_to_first_token_seconds", TTFT_EDGES, 1e-9, "Time to first token")                     \
    X(ITL, "vllm:inter_token_latency_seconds", TOKEN_EDGES, 1e-9, "Time between tokens of a sequence")       \
    X(TPOT, "vllm:request_time_per_output_token_seconds", TOKEN_EDGES, 1e-9, "Mean time per output token")   \
    X(E2E, "vllm:e2e_request_latency_seconds", LATENCY_EDGES, 1e-9, "Submit to last token")                  \
    X(QUEUE, "vllm:request_queue_time_seconds", LATENCY_EDGES, 1e-9, "Time in the queue")                    \
    X(INFERENCE, "vllm:request_inference_time_seconds", LATENCY_EDGES, 1e-9, "Prefill and decode")           \
    X(PREFILL, "vllm:request_prefill_time_seconds", LATENCY_EDGES, 1e-9, "Prefill")                          \
    X(DECODE, "vllm:request_decode_time_seconds", LATENCY_EDGES, 1e-9, "Decode")                             \
    X(PROMPT, "vllm:request_prompt_tokens", COUNT_EDGES, 1, "Prompt tokens of a request")                    \
    X(GENERATION, "vllm:request_generation_tokens", COUNT_EDGES, 1, "Generated tokens of a request")         \
    X(LONGEST, "vllm:request_max_num_generation_tokens", COUNT_EDGES, 1, "Tokens of the longest choice")     \
    X(PARAM_N, "vllm:request_params_n", N_EDGES, 1, "Choices asked for")                                     \
    X(PARAM_MAX, "vllm:request_params_max_tokens", COUNT_EDGES, 1, "max_tokens asked for")                   \
    X(COMPUTED, "vllm:request_prefill_kv_computed_tokens", COUNT_EDGES, 1, "Prompt tokens not in a cache")   \
    X(MEDIA_DECODE, "agl_media_decode_seconds", STAGE_EDGES, 1e-9, "Image decoding, requests with images")   \
    X(MEDIA_RESIZE, "agl_media_resize_seconds", STAGE_EDGES, 1e-9, "Resize on the host, digest")             \
    X(VISION, "agl_vision_seconds", STAGE_EDGES, 1e-9, "Vision tower")                                       \
    X(IMAGE_TOKENS, "agl_request_image_tokens", COUNT_EDGES, 1, "Image tokens, requests with images")        \
    X(PREPARE, "agl_request_prepare_seconds", STAGE_EDGES, 1e-9, "Body received to queued in the engine")    \
    X(UPLOAD, "agl_request_body_bytes", BYTE_EDGES, 1, "Size of request bodies")                             \
    X(HTTP, "http_request_duration_seconds", LATENCY_EDGES, 1e-9, "Headers received to answer complete")

enum {
#define AGL_X(slot, name, edges, unit, help) H_##slot,
    HISTOGRAMS(AGL_X)
#undef AGL_X
    H_COUNT
};

static const struct {
    const char *name;
    const double *edges;
    size_t edge_count;
    double unit;
    const char *help;
} HISTOGRAM_TABLE[H_COUNT] = {
#define AGL_X(slot, name, edges, unit, help) {name, edges, AGL_COUNT(edges), unit, help},
    HISTOGRAMS(AGL_X)
#undef AGL_X
};

/* 499: the client left. The last slot counts everything else. */
static const int STATUSES[] = {200, 204, 400, 401, 403, 404, 405, 408, 413, 429, 499, 500, 501, 503, 504, 0};

static const char *const REJECTS[AGL_REJECT_COUNT] = {
    [AGL_REJECT_AUTH] = "auth",     [AGL_REJECT_BAD_REQUEST] = "bad_request", [AGL_REJECT_BODY_SIZE] = "body_size",
    [AGL_REJECT_BUSY] = "busy",     [AGL_REJECT_NOT_READY] = "not_ready",     [AGL_REJECT_CONTEXT] = "context",
    [AGL_REJECT_OTHER] = "other",
};

struct agl_metrics {
    agl_histogram histograms[H_COUNT];
    _Atomic uint64_t http[ROUTES_MAX][AGL_COUNT(STATUSES)];
    _Atomic uint64_t rejects[AGL_REJECT_COUNT];
    _Atomic uint64_t finishes[AGL_FINISH_ABORT + 1];
    _Atomic uint64_t disconnects;
    agl_ttft_monitor *ttft_monitor;
};

agl_metrics *agl_metrics_create(void)
{
    agl_metrics *metrics = calloc(1, sizeof *metrics);
    if (metrics == NULL) return NULL;
    metrics->ttft_monitor = agl_ttft_monitor_create();
    if (metrics->ttft_monitor == NULL) {
        free(metrics);
        return NULL;
    }
    for (size_t i = 0; i < H_COUNT; i++) {
        agl_histogram_init(&metrics->histograms[i], HISTOGRAM_TABLE[i].edges, HISTOGRAM_TABLE[i].edge_count,
                           HISTOGRAM_TABLE[i].unit);
    }
    return metrics;
}

void agl_metrics_destroy(agl_metrics *metrics)
{
    if (metrics == NULL) return;
    agl_ttft_monitor_destroy(metrics->ttft_monitor);
    free(metrics);
}

static void add(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static unsigned long long get(const _Atomic uint64_t *counter)
{
    return (unsigned long long)atomic_load_explicit(counter, memory_order_relaxed);
}

void agl_metrics_http(agl_metrics *metrics, size_t route, int status, double seconds)
{
    size_t slot = 0;
    while (STATUSES[slot] != 0 && STATUSES[slot] != status) slot++;
    if (route < ROUTES_MAX) add(&metrics->http[route][slot]);
    agl_histogram_observe(&metrics->histograms[H_HTTP], seconds);
}

void agl_metrics_inter_token(agl_metrics *metrics, double seconds)
{
    agl_histogram_observe(&metrics->histograms[H_ITL], seconds);
}

static void watch_ttft(agl_metrics *metrics, const agl_request_record *record)
{
    agl_ttft_anomaly found;
    if (!agl_ttft_monitor_observe(metrics->ttft_monitor, record->usage, agl_clock_s(), &found) || !found.log) return;
    const agl_usage *usage = record->usage;
    agl_log_warning("Late first token of request %s: %.0f ms, usual for its size is %.0f ms; mostly %s: %.0f ms, "
                    "usual is %.0f ms (%u prompt tokens, %u cached, %u images; %llu others since the last such line)",
                    record->id != NULL ? record->id : "?", found.ttft_s * 1e3, found.baseline_s * 1e3,
                    agl_ttft_phase_name(found.phase), found.phase_s * 1e3, found.phase_baseline_s * 1e3,
                    usage->prompt_tokens, usage->cached_tokens, usage->image_count,
                    (unsigned long long)found.unlogged);
}

void agl_metrics_request(agl_metrics *metrics, const agl_request_record *record)
{
    const agl_usage *usage = record->usage;
    agl_histogram *h = metrics->histograms;
    uint32_t tokens = usage->completion_tokens;
    if (tokens > 0) {
        agl_histogram_observe(&h[H_TTFT], usage->ttft_s);
        watch_ttft(metrics, record);
    }
    if (tokens > record->n) {
        agl_histogram_observe(&h[H_TPOT], usage->decode_s * record->n / (tokens - record->n));
    }
    agl_histogram_observe(&h[H_E2E], usage->total_s);
    agl_histogram_observe(&h[H_QUEUE], usage->queue_s);
    agl_histogram_observe(&h[H_INFERENCE], usage->prefill_s + usage->decode_s);
    agl_histogram_observe(&h[H_PREFILL], usage->prefill_s);
    agl_histogram_observe(&h[H_DECODE], usage->decode_s);
    agl_histogram_observe(&h[H_PROMPT], usage->prompt_tokens);
    agl_histogram_observe(&h[H_GENERATION], tokens);
    agl_histogram_observe(&h[H_LONGEST], record->choice_tokens_max);
    agl_histogram_observe(&h[H_PARAM_N], record->n);
    if (record->max_tokens > 0) agl_histogram_observe(&h[H_PARAM_MAX], record->max_tokens);
    agl_histogram_observe(&h[H_COMPUTED], usage->prompt_tokens - usage->cached_tokens);
    if (usage->image_count > 0) {
        agl_histogram_observe(&h[H_MEDIA_DECODE], usage->media_decode_s);
        agl_histogram_observe(&h[H_MEDIA_RESIZE], usage->media_resize_s);
        agl_histogram_observe(&h[H_VISION], usage->vision_s);
        agl_histogram_observe(&h[H_IMAGE_TOKENS], usage->image_tokens);
    }
}

void agl_metrics_finish(agl_metrics *metrics, agl_finish finish)
{
    add(&metrics->finishes[finish]);
}

void agl_metrics_reject(agl_metrics *metrics, agl_reject reason)
{
    add(&metrics->rejects[reason]);
}

void agl_metrics_disconnect(agl_metrics *metrics)
{
    add(&metrics->disconnects);
}

void agl_metrics_upload(agl_metrics *metrics, size_t body_bytes)
{
    agl_histogram_observe(&metrics->histograms[H_UPLOAD], (double)body_bytes);
}

void agl_metrics_parse(agl_metrics *metrics, double seconds)
{
    agl_histogram_observe(&metrics->histograms[H_PREPARE], seconds);
}

/* ---- writing --------------------------------------------------------- */

static void head(agl_buffer *out, const char *name, const char *type, const char *help)
{
    agl_buffer_append_format(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void value(agl_buffer *out, const char *name, const char *type, const char *labels, double number)
{
    agl_buffer_append_format(out, "# TYPE %s %s\n%s{%s} %.15g\n", name, type, name, labels, number);
}

static void write_histograms(agl_buffer *out, const agl_metrics *metrics, const char *labels)
{
    for (size_t i = 0; i < H_COUNT; i++) {
        head(out, HISTOGRAM_TABLE[i].name, "histogram", HISTOGRAM_TABLE[i].help);
        agl_histogram_write(out, &metrics->histograms[i], HISTOGRAM_TABLE[i].name, labels);
    }
    /* Boards older than vLLM 0.11 know the inter-token latency by this name. */
    head(out, "vllm:time_per_output_token_seconds", "histogram", "As inter_token_latency_seconds");
    agl_histogram_write(out, &metrics->histograms[H_ITL], "vllm:time_per_output_token_seconds", labels);
}

static void write_counters(agl_buffer *out, const agl_metrics *metrics, const char *labels,
                           const char *(*route_name)(size_t route))
{
    static const char *const FINISHES[] = {"none", "stop", "length", "abort"};
    head(out, "vllm:request_success_total", "counter", "Finished choices by reason");
    for (size_t i = AGL_FINISH_STOP; i < AGL_COUNT(FINISHES); i++) {
        agl_buffer_append_format(out, "vllm:request_success_total{%s,finished_reason=\"%s\"} %llu\n", labels,
                                 FINISHES[i], get(&metrics->finishes[i]));
    }
    head(out, "agl_rejected_total", "counter", "Requests refused before the engine, by reason");
    for (size_t i = 0; i < AGL_REJECT_COUNT; i++) {
        agl_buffer_append_format(out, "agl_rejected_total{%s,reason=\"%s\"} %llu\n", labels, REJECTS[i],
                                 get(&metrics->rejects[i]));
    }
    head(out, "agl_disconnects_total", "counter", "Clients that left before the end of their answer");
    agl_buffer_append_format(out, "agl_disconnects_total{%s} %llu\n", labels, get(&metrics->disconnects));
    head(out, "http_requests_total", "counter", "Answers by route and status; 499: the client left");
    for (size_t route = 0; route < ROUTES_MAX && route_name(route) != NULL; route++) {
        for (size_t slot = 0; slot < AGL_COUNT(STATUSES); slot++) {
            unsigned long long count = get(&metrics->http[route][slot]);
            if (count == 0) continue;
            char status[8] = "other";
            if (STATUSES[slot] != 0) snprintf(status, sizeof status, "%d", STATUSES[slot]);
            agl_buffer_append_format(out, "http_requests_total{handler=\"%s\",status=\"%s\"} %llu\n",
                                     route_name(route), status, count);
        }
    }
}

static void write_engine(agl_buffer *out, const char *labels, agl_engine *engine)
{
    agl_engine_stats s = agl_engine_stats_get(engine);
    double used = s.kv_pages > 0 ? 1 - (double)s.kv_pages_free / s.kv_pages : 0;
    const struct {
        const char *name, *type;
        double number;
    } VALUES[] = {
        {"vllm:num_requests_running", "gauge", s.running},
        {"vllm:num_requests_waiting", "gauge", s.waiting},
        {"vllm:kv_cache_usage_perc", "gauge", used},
        {"vllm:gpu_cache_usage_perc", "gauge", used},
        {"vllm:prompt_tokens_total", "counter", (double)s.prompt_tokens},
        {"vllm:prompt_tokens_cached_total", "counter", (double)s.cached_prompt_tokens},
        {"vllm:generation_tokens_total", "counter", (double)s.generated_tokens},
        {"vllm:num_preemptions_total", "counter", (double)s.preemptions},
        {"vllm:prefix_cache_queries_total", "counter", (double)s.prefix_queries},
        {"vllm:prefix_cache_hits_total", "counter", (double)s.prefix_hits},
        {"vllm:mm_cache_queries_total", "counter", (double)s.encoder_queries},
        {"vllm:mm_cache_hits_total", "counter", (double)s.encoder_hits},
        {"agl_kv_pages", "gauge", s.kv_pages},
        {"agl_kv_pages_free", "gauge", s.kv_pages_free},
        {"agl_kv_pages_cached", "gauge", s.kv_pages_cached},
        {"agl_kv_bytes", "gauge", (double)s.kv_bytes},
        {"agl_weight_bytes", "gauge", (double)s.weight_bytes},
        {"agl_workspace_bytes", "gauge", (double)s.workspace_bytes},
        {"agl_encoder_cache_used_bytes", "gauge", (double)s.encoder_cache_bytes_used},
        {"agl_steps_total", "counter", (double)s.steps},
        {"agl_prompt_steps_total", "counter", (double)s.prompt_steps},
        {"agl_prompt_rows_total", "counter", (double)s.prompt_rows},
        {"agl_decode_rows_total", "counter", (double)s.decode_rows},
        {"agl_step_seconds_total", "counter", s.step_s},
        {"agl_prompt_step_seconds_total", "counter", s.prompt_step_s},
        {"agl_schedule_seconds_total", "counter", s.schedule_s},
        {"agl_overlapped_seconds_total", "counter", s.overlapped_s},
        {"agl_last_step_age_seconds", "gauge", s.last_step_age_s},
        {"agl_vision_runs_total", "counter", (double)s.vision_runs},
        {"agl_text_only_requests_total", "counter", (double)s.text_only_requests},
        {"agl_engine_stalled", "gauge", s.stalled},
        {"agl_engine_lost", "gauge", s.fatal != AGL_OK},
    };
    for (size_t i = 0; i < AGL_COUNT(VALUES); i++) {
        value(out, VALUES[i].name, VALUES[i].type, labels, VALUES[i].number);
    }
    head(out, "vllm:cache_config_info", "gauge", "Shape of the KV cache");
    agl_buffer_append_format(out, "vllm:cache_config_info{%s,block_size=\"%u\",num_gpu_blocks=\"%u\"} 1\n", labels,
                             s.kv_page_tokens, s.kv_pages);
    head(out, "agl_aborts_total", "counter", "Cancelled requests by the phase they were in");
    agl_buffer_append_format(out,
                             "agl_aborts_total{%s,phase=\"queue\"} %llu\nagl_aborts_total{%s,phase=\"prefill\"} %llu\n"
                             "agl_aborts_total{%s,phase=\"decode\"} %llu\n",
                             labels, (unsigned long long)s.aborts_queue, labels, (unsigned long long)s.aborts_prefill,
                             labels, (unsigned long long)s.aborts_decode);
}

static void write_process(agl_buffer *out, const char *labels, const agl_metrics_snapshot *now)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file != NULL) {
        if (fscanf(file, "%*s %lu", &pages) != 1) pages = 0;
        fclose(file);
    }
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    double cpu_s = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                   (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
    agl_buffer_append_format(out, "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes %.15g\n",
                             (double)pages * (double)sysconf(_SC_PAGESIZE));
    agl_buffer_append_format(out, "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total %.6f\n", cpu_s);
    value(out, "agl_uptime_seconds", "gauge", labels, now->uptime_s);
    value(out, "agl_startup_seconds", "gauge", labels, now->load_s);
    value(out, "agl_ready", "gauge", labels, now->engine != NULL);
    value(out, "agl_http_connections", "gauge", labels, now->connections);
    value(out, "agl_http_active_requests", "gauge", labels, now->active_requests);
    value(out, "agl_http_held_body_bytes", "gauge", labels, (double)now->body_bytes);
    head(out, "agl_build_info", "gauge", "Version of the program");
    agl_buffer_append_text(out, "agl_build_info{version=\"" AGL_VERSION "\"} 1\n");
}

void agl_metrics_write(agl_buffer *out, const agl_metrics *metrics, const agl_metrics_snapshot *now,
                       const char *(*route_name)(size_t route))
{
    agl_buffer labels;
    agl_buffer_init(&labels, 4096);
    agl_buffer_append_text(&labels, "model_name=\"");
    agl_buffer_append_json(&labels, now->model, strlen(now->model)); /* the escapes of label values */
    agl_buffer_append_text(&labels, "\",engine=\"0\"");
    const char *text = labels.failed ? "engine=\"0\"" : labels.data;
    if (now->engine != NULL) write_engine(out, text, now->engine);
    write_counters(out, metrics, text, route_name);
    write_histograms(out, metrics, text);
    agl_ttft_monitor_write(out, metrics->ttft_monitor, text);
    write_process(out, text, now);
    agl_buffer_deinit(&labels);
}
