/* SPDX-License-Identifier: Apache-2.0
 *
 * server_state.h - the inside of agl_server, shared by the files of this folder. */
#ifndef AGL_SERVER_SERVER_STATE_H
#define AGL_SERVER_SERVER_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/arena.h"
#include "server/auth.h"
#include "server/call.h"
#include "server/exchange.h"
#include "server/metrics.h"
#include "server/request_workers.h"
#include "server/resumer.h"
#include "server/server.h"

struct agl_server {
    agl_server_options options;     /* defaults filled in; strings in the arena     */
    agl_arena arena;
    agl_keys keys;
    agl_media_policy media;
    agl_call_defaults defaults;
    agl_metrics *metrics;
    agl_watch *watch;
    agl_workers *workers;
    agl_resumer *resumer;
    struct MHD_Daemon *daemon;      /* NULL until start                             */
    int listen_socket;              /* -1: none                                     */
    char address[320];
    uint16_t port;
    char *tls_certificate, *tls_key;/* PEM; owned; NULL: no TLS                      */
    uint64_t start_ns;
    uint64_t ready_ns;              /* 0: not ready yet                             */

    _Atomic(agl_engine *) engine;   /* NULL while loading                           */
    atomic_bool draining;
    atomic_uint active;             /* exchanges with work to do                    */
    atomic_uint connections;
    _Atomic uint64_t body_bytes;    /* reserved by bodies being received or parsed  */

    pthread_mutex_t mutex;          /* of the rest                                  */
    char phase[64];
    double fraction;
    char failure[512];              /* "": none                                     */
    agl_exchange *exchanges;        /* the counted ones                             */
    bool closed;                    /* no exchange may be added                     */
    const char *default_name;       /* of the model, when no name was given         */
};

/* The engine, if a request would be served now; else err says why not (503). */
agl_engine *agl_server_engine(agl_server *server, agl_api_error *err);

/* The name answers carry. */
const char *agl_server_model_name(agl_server *server);

/* 404 with the served name, unless `name` is one that is served. */
agl_status agl_server_check_model(agl_server *server, const char *name, agl_api_error *err);

/* The body budget: false if the server holds too much already. */
bool agl_server_reserve_body(agl_server *server, agl_exchange *exchange, uint64_t bytes);
void agl_server_release_body(agl_server *server, agl_exchange *exchange);

/* Count a request as under way (false: the server is being destroyed), and stop counting it. */
bool agl_server_enter(agl_server *server, agl_exchange *exchange);
void agl_server_leave(agl_server *server, agl_exchange *exchange);

/* ---- http.c ---- */
agl_status agl_http_start(agl_server *server, agl_error *err);

/* No connection may be suspended. */
void agl_http_stop(agl_server *server);

/* ---- routes.c ---- */

/* Finds the route of exchange->url; sets its tail. */
const agl_route *agl_route_find(agl_exchange *exchange);
size_t agl_route_index(const agl_route *route);
const char *agl_route_name(size_t index);      /* NULL: past the end */

/* ---- completions.c, tokenize.c: work of the routes ---- */
void agl_work_chat(agl_exchange *exchange);
void agl_work_completion(agl_exchange *exchange);
void agl_work_invocation(agl_exchange *exchange);
void agl_work_tokenize(agl_exchange *exchange);
void agl_work_detokenize(agl_exchange *exchange);
void agl_work_apply_template(agl_exchange *exchange);

/* ---- cors.c ---- */
void agl_cors_add(agl_exchange *exchange, struct MHD_Response *response, bool is_preflight);

#endif
