/* SPDX-License-Identifier: Apache-2.0
 *
 * metrics.h - counters and histograms of the server in Prometheus text form,
 * under vLLM's names where vLLM has one and agl_ where it has none.
 *
 * Histograms keep vLLM's bucket edges as a subset of finer ones, so queries and
 * boards written for vLLM work. Counting is atomic; any thread may call. */
#ifndef AGL_SERVER_METRICS_H
#define AGL_SERVER_METRICS_H

#include "agl/agl.h"
#include "base/buffer.h"

typedef struct agl_metrics agl_metrics;

typedef enum {
    AGL_REJECT_AUTH, AGL_REJECT_BAD_REQUEST, AGL_REJECT_BODY_SIZE, AGL_REJECT_BUSY, AGL_REJECT_NOT_READY,
    AGL_REJECT_CONTEXT, AGL_REJECT_OTHER, AGL_REJECT_COUNT
} agl_reject;

/* What the server knows at the moment of scraping. */
typedef struct {
    const char *model;          /* label model_name            */
    agl_engine *engine;         /* NULL while loading          */
    uint32_t connections;
    uint32_t active_requests;
    uint64_t body_bytes;        /* held in request bodies now  */
    double uptime_s;
    double load_s;              /* start to ready; 0: not yet  */
} agl_metrics_snapshot;

agl_metrics *agl_metrics_create(void);              /* NULL: no memory */
void agl_metrics_destroy(agl_metrics *metrics);     /* NULL is allowed */

/* A request has been answered. `route` indexes the route table. */
void agl_metrics_http(agl_metrics *metrics, size_t route, int status, double seconds);

/* Time between two text events of one choice. */
void agl_metrics_inter_token(agl_metrics *metrics, double seconds);

/* The engine finished a request. */
typedef struct {
    const char *id;             /* for the log; NULL allowed */
    const agl_usage *usage;
    uint32_t n;
    uint32_t max_tokens;        /* as asked for; 0: none */
    uint32_t choice_tokens_max; /* of the longest choice; 0: not known */
} agl_request_record;
void agl_metrics_request(agl_metrics *metrics, const agl_request_record *record);

/* A choice ended with this reason. */
void agl_metrics_finish(agl_metrics *metrics, agl_finish finish);
void agl_metrics_reject(agl_metrics *metrics, agl_reject reason);
void agl_metrics_disconnect(agl_metrics *metrics);  /* the client left before the end */
void agl_metrics_upload(agl_metrics *metrics, size_t body_bytes);
void agl_metrics_parse(agl_metrics *metrics, double seconds); /* JSON, media, template, tokens */

/* `route_name(route)` labels the HTTP counters; NULL ends the table. */
void agl_metrics_write(agl_buffer *out, const agl_metrics *metrics, const agl_metrics_snapshot *now,
                       const char *(*route_name)(size_t route));

#endif
