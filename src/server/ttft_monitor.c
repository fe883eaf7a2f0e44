/* SPDX-License-Identifier: Apache-2.0 */
#include "server/ttft_monitor.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define TOKENS_LE_MIN 16u
#define TOKEN_CLASSES 15            /* 16, 32, .. 131072, more */
#define IMAGE_CLASSES 6             /* 0, 1, 2, 4, 8, more     */

#define WINDOW 64.0                 /* samples the baseline remembers */
#define DEVIATIONS_CUT 3.0
#define DEVIATIONS_MAX 4.0
#define RATIO_MAX 1.5
#define EXCESS_S 0.050
/* A class of equal times has no deviation; 4 x this is the log of RATIO_MAX. */
#define DEVIATION_MIN 0.1
/* Phases of less count as this: a queue of 1 us or of 100 us is equally empty. */
#define SECONDS_MIN 1e-4

typedef struct {
    double mean, variance;          /* of the log of seconds */
} baseline;

typedef struct {
    uint64_t samples;
    baseline ttft, phases[AGL_TTFT_PHASES];
} class_state;

struct agl_ttft_monitor {
    pthread_mutex_t lock;           /* of all below */
    class_state classes[TOKEN_CLASSES][IMAGE_CLASSES];
    uint64_t anomalies[AGL_TTFT_PHASES];
    uint64_t unlogged;
    double logged_s;                /* of the last line; negative: none yet */
};

agl_ttft_monitor *agl_ttft_monitor_create(void)
{
    agl_ttft_monitor *monitor = calloc(1, sizeof *monitor);
    if (monitor == NULL) return NULL;
    pthread_mutex_init(&monitor->lock, NULL);
    monitor->logged_s = -1;
    return monitor;
}

void agl_ttft_monitor_destroy(agl_ttft_monitor *monitor)
{
    if (monitor == NULL) return;
    pthread_mutex_destroy(&monitor->lock);
    free(monitor);
}

const char *agl_ttft_phase_name(agl_ttft_phase phase)
{
    static const char *const NAMES[AGL_TTFT_PHASES] = {"queue", "media", "vision", "prefill"};
    return NAMES[phase];
}

/* ---- classes ----------------------------------------------------------- */

/* The last class has no bound. */
static uint32_t tokens_le(uint32_t index)
{
    return index + 1 < TOKEN_CLASSES ? TOKENS_LE_MIN << index : UINT32_MAX;
}

static uint32_t images_le(uint32_t index)
{
    if (index + 1 == IMAGE_CLASSES) return UINT32_MAX;
    return index == 0 ? 0 : 1u << (index - 1);
}

static uint32_t token_class(const agl_usage *usage)
{
    uint32_t cached = usage->cached_tokens, index = 0;
    uint32_t computed = usage->prompt_tokens > cached ? usage->prompt_tokens - cached : 0;
    while (computed > tokens_le(index)) index++;
    return index;
}

static uint32_t image_class(const agl_usage *usage)
{
    uint32_t index = 0;
    while (usage->image_count > images_le(index)) index++;
    return index;
}

/* The four add up to the time to the first token. */
static void split(double phases[AGL_TTFT_PHASES], const agl_usage *usage)
{
    double vision_s = fmin(usage->vision_s, usage->prefill_s);
    phases[AGL_TTFT_QUEUE] = usage->queue_s;
    phases[AGL_TTFT_MEDIA] = usage->ttft_s - usage->queue_s - usage->prefill_s;
    phases[AGL_TTFT_VISION] = vision_s;
    phases[AGL_TTFT_PREFILL] = usage->prefill_s - vision_s;
}

/* ---- baselines --------------------------------------------------------- */

static double log_of(double seconds)
{
    return log(seconds > SECONDS_MIN ? seconds : SECONDS_MIN);
}

static double deviation(const baseline *self)
{
    return fmax(sqrt(self->variance), DEVIATION_MIN);
}

/* `samples` came before this one. */
static void learn(baseline *self, double seconds, uint64_t samples)
{
    double weight = 1.0 / fmin((double)samples + 1.0, WINDOW);
    double delta = log_of(seconds) - self->mean;
    double cut = DEVIATIONS_CUT * deviation(self);
    if (samples >= AGL_TTFT_SAMPLES_MIN) delta = fmax(-cut, fmin(cut, delta));
    self->mean += weight * delta;
    self->variance = (1.0 - weight) * (self->variance + weight * delta * delta);
}

static bool is_late(const class_state *state, double ttft_s)
{
    if (state->samples < AGL_TTFT_SAMPLES_MIN) return false;
    double mean_s = exp(state->ttft.mean);
    return log_of(ttft_s) > state->ttft.mean + DEVIATIONS_MAX * deviation(&state->ttft) &&
           ttft_s > RATIO_MAX * mean_s && ttft_s > mean_s + EXCESS_S;
}

static agl_ttft_phase cause_of(const class_state *state, const double phases[AGL_TTFT_PHASES])
{
    agl_ttft_phase cause = AGL_TTFT_PREFILL;
    double most_s = -INFINITY;
    for (int i = 0; i < AGL_TTFT_PHASES; i++) {
        double excess_s = phases[i] - exp(state->phases[i].mean);
        if (excess_s <= most_s) continue;
        most_s = excess_s;
        cause = (agl_ttft_phase)i;
    }
    return cause;
}

/* With the lock held: count it, and see whether a line is due. */
static void record(agl_ttft_monitor *monitor, agl_ttft_anomaly *anomaly, double now_s)
{
    monitor->anomalies[anomaly->phase]++;
    anomaly->log = monitor->logged_s < 0 || now_s - monitor->logged_s >= AGL_TTFT_LOG_S;
    anomaly->unlogged = monitor->unlogged;
    monitor->unlogged = anomaly->log ? 0 : monitor->unlogged + 1;
    if (anomaly->log) monitor->logged_s = now_s;
}

bool agl_ttft_monitor_observe(agl_ttft_monitor *monitor, const agl_usage *usage, double now_s,
                              agl_ttft_anomaly *anomaly)
{
    double phases[AGL_TTFT_PHASES];
    uint32_t tokens = token_class(usage), images = image_class(usage);
    class_state *state = &monitor->classes[tokens][images];
    split(phases, usage);

    pthread_mutex_lock(&monitor->lock);
    bool late = is_late(state, usage->ttft_s);
    if (late) {
        agl_ttft_phase cause = cause_of(state, phases);
        *anomaly = (agl_ttft_anomaly){
            .tokens_le = tokens_le(tokens),
            .images_le = images_le(images),
            .ttft_s = usage->ttft_s,
            .baseline_s = exp(state->ttft.mean),
            .phase = cause,
            .phase_s = phases[cause],
            .phase_baseline_s = exp(state->phases[cause].mean),
        };
        record(monitor, anomaly, now_s);
    }
    learn(&state->ttft, usage->ttft_s, state->samples);
    for (int i = 0; i < AGL_TTFT_PHASES; i++) learn(&state->phases[i], phases[i], state->samples);
    state->samples++;
    pthread_mutex_unlock(&monitor->lock);
    return late;
}

/* ---- writing ----------------------------------------------------------- */

static void write_bound(char text[16], uint32_t bound)
{
    if (bound == UINT32_MAX) snprintf(text, 16, "+Inf");
    else snprintf(text, 16, "%u", bound);
}

static void write_class(agl_buffer *out, const char *labels, uint32_t tokens, uint32_t images, const char *field,
                        double seconds)
{
    char tokens_text[16], images_text[16];
    write_bound(tokens_text, tokens_le(tokens));
    write_bound(images_text, images_le(images));
    agl_buffer_append_format(out, "agl_ttft_%s_seconds{%s,prompt_tokens_le=\"%s\",images_le=\"%s\"} %.6g\n", field,
                             labels, tokens_text, images_text, seconds);
}

/* The mean, or the bound above which a first token is an anomaly. */
static double gauge(const class_state *state, bool limit)
{
    double mean_s = exp(state->ttft.mean);
    if (!limit) return mean_s;
    double above_s = exp(state->ttft.mean + DEVIATIONS_MAX * deviation(&state->ttft));
    return fmax(above_s, fmax(RATIO_MAX * mean_s, mean_s + EXCESS_S));
}

void agl_ttft_monitor_write(agl_buffer *out, agl_ttft_monitor *monitor, const char *labels)
{
    static const struct {
        const char *field, *help;
    } GAUGES[] = {
        {"baseline", "Usual time to first token, by uncached prompt tokens and images"},
        {"limit", "Time to first token above which a request is an anomaly"},
    };
    pthread_mutex_lock(&monitor->lock);
    agl_buffer_append_text(out, "# HELP agl_ttft_anomalies_total First tokens later than their baseline, by cause\n"
                                "# TYPE agl_ttft_anomalies_total counter\n");
    for (int i = 0; i < AGL_TTFT_PHASES; i++) {
        agl_buffer_append_format(out, "agl_ttft_anomalies_total{%s,phase=\"%s\"} %llu\n", labels,
                                 agl_ttft_phase_name((agl_ttft_phase)i), (unsigned long long)monitor->anomalies[i]);
    }
    for (int g = 0; g < 2; g++) {
        agl_buffer_append_format(out, "# HELP agl_ttft_%s_seconds %s\n# TYPE agl_ttft_%s_seconds gauge\n",
                                 GAUGES[g].field, GAUGES[g].help, GAUGES[g].field);
        for (uint32_t t = 0; t < TOKEN_CLASSES; t++) {
            for (uint32_t i = 0; i < IMAGE_CLASSES; i++) {
                const class_state *state = &monitor->classes[t][i];
                if (state->samples < AGL_TTFT_SAMPLES_MIN) continue;
                write_class(out, labels, t, i, GAUGES[g].field, gauge(state, g == 1));
            }
        }
    }
    pthread_mutex_unlock(&monitor->lock);
}
