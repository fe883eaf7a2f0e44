/* SPDX-License-Identifier: Apache-2.0
 *
 * load.h - a load generator for OpenAI-compatible servers: many connections, one
 * thread, epoll (libcurl's socket interface). Times of answers are those at which their
 * bytes arrived in the kernel, which this client learns as soon as it is woken.
 *
 * Work comes as sessions. A session is a chain of requests, each built when the one
 * before has been answered (an agent's steps); most workloads have one request each.
 * Sessions start by a schedule: at once up to a concurrency (closed loop), or at
 * random times of a given rate (open loop). */
#ifndef AGL_BENCH_LOAD_H
#define AGL_BENCH_LOAD_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/status.h"

typedef struct {
    bool ok;
    int http_status;            /* 0: no answer                                            */
    char error[200];
    /* Seconds since the start of the run. */
    double scheduled_s;         /* when it should have been sent                           */
    double sent_s;              /* to the kernel; of a new connection: its opening          */
    double first_event_s;       /* first event with a choice: vLLM's first token           */
    double first_text_s;        /* first event with non-empty text; 0: none                */
    double last_event_s;        /* last event, the usage event included: vLLM's end        */
    float *gaps_s;              /* [gap_count] times between token events: vLLM's ITL      */
    uint32_t gap_count, gap_capacity;
    uint32_t events;            /* with a choice                                           */
    uint32_t prompt_tokens, output_tokens, cached_tokens;
    bool usage_seen;            /* output_tokens come from the server, not from counting events */
    size_t body_bytes;
    char *text;                 /* the answer, NUL-terminated                              */
    size_t text_bytes;
    agl_digest text_digest;
} agl_load_result;

typedef struct {
    const char *url;            /* complete, with path                                     */
    const char *api_key;        /* NULL: none                                              */
    size_t sessions;
    size_t turns;               /* requests a session                                      */
    uint32_t max_concurrency;   /* sessions under way; 0: no limit                         */
    double request_rate;        /* sessions a second; 0: all at once                       */
    double burstiness;          /* gamma shape of the gaps; 1: Poisson                     */
    uint64_t seed;
    double timeout_s;           /* of one request; 0: 3600                                 */
    /* JSON body of a turn, in malloc'd memory; NULL ends the session. `previous` is the
     * answer of the turn before, or NULL. */
    char *(*build)(void *user, size_t session, size_t turn, const char *previous);
    void *build_user;
    void (*progress)(void *user, size_t done, size_t total, double seconds);
    void *progress_user;
    const volatile sig_atomic_t *interrupted; /* set: stop sending, keep what was measured */
} agl_load_options;

typedef struct {
    double duration_s;
    size_t completed, failed, unsent;
    uint32_t peak_concurrency;
    double peak_tokens_per_s;   /* in the best whole second                                */
    double client_cpu_share;    /* CPU time of this process / duration                     */
    double lag_p99_s, lag_max_s;/* between bytes' arrival and this client noting it        */
} agl_load_summary;

/* results: [sessions * turns], turn fastest; agl_load_results_free frees what they own. */
agl_status agl_load_run(agl_load_result *results, agl_load_summary *summary,
                        const agl_load_options *options, agl_error *err);
void agl_load_results_free(agl_load_result *results, size_t count);

#endif
