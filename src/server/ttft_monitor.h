/* SPDX-License-Identifier: Apache-2.0
 *
 * ttft_monitor.h - notices first tokens that come later than they used to.
 *
 * Requests of one class - uncached prompt tokens and images, both rounded up to
 * powers of two - cost about the same, so each class has a running baseline:
 *
 *     class (tokens_le, images_le) ── ttft      mean and variance of log seconds
 *                                  └─ phase[4]  the same, to name the cause
 *
 * Latencies vary by factors, not by amounts, so everything is kept in logarithms:
 * the mean is a geometric one and one deviation is a ratio. Samples weigh 1/n until
 * there are 64, then 1/64 each, and enter cut off at three deviations: one outlier
 * moves the baseline by little, a lasting change becomes the new baseline within
 * some dozens of requests.
 *
 * A first token is an anomaly if its class has at least AGL_TTFT_SAMPLES_MIN
 * samples and it is later than mean + 4 deviations, than 1.5 x the mean, and than
 * the mean + 50 ms. Its cause is the phase that exceeds its own mean by most seconds.
 *
 * Fixed memory (about 10 KiB). Any thread may call. Time is the caller's. */
#ifndef AGL_SERVER_TTFT_MONITOR_H
#define AGL_SERVER_TTFT_MONITOR_H

#include "agl/agl.h"
#include "base/buffer.h"

#define AGL_TTFT_SAMPLES_MIN 32

typedef enum {
    AGL_TTFT_QUEUE,             /* in the engine's queue                        */
    AGL_TTFT_MEDIA,             /* before it: template, tokens, pictures        */
    AGL_TTFT_VISION,            /* the vision tower                             */
    AGL_TTFT_PREFILL,           /* the rest, steps shared with others included  */
    AGL_TTFT_PHASES
} agl_ttft_phase;

typedef struct {
    uint32_t tokens_le, images_le;  /* the class; UINT32_MAX: no upper bound    */
    double ttft_s, baseline_s;
    agl_ttft_phase phase;
    double phase_s, phase_baseline_s;
    bool log;                       /* not more than one in AGL_TTFT_LOG_S      */
    uint64_t unlogged;              /* anomalies since the last one with `log`  */
} agl_ttft_anomaly;

#define AGL_TTFT_LOG_S 10.0

typedef struct agl_ttft_monitor agl_ttft_monitor;

agl_ttft_monitor *agl_ttft_monitor_create(void);            /* NULL: no memory */
void agl_ttft_monitor_destroy(agl_ttft_monitor *monitor);   /* NULL is allowed */

/* A request that got its first token. True: it is an anomaly, described in *anomaly.
 * `now_s` on any monotonic clock spaces the log lines. */
bool agl_ttft_monitor_observe(agl_ttft_monitor *monitor, const agl_usage *usage, double now_s,
                              agl_ttft_anomaly *anomaly);

const char *agl_ttft_phase_name(agl_ttft_phase phase);

/* Counters of anomalies by phase, gauges of every class that has samples enough. */
void agl_ttft_monitor_write(agl_buffer *out, agl_ttft_monitor *monitor, const char *labels);

#endif
