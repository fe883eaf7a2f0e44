/* SPDX-License-Identifier: Apache-2.0
 *
 * exchange.h - one HTTP request and its answer, and the hand-over between the
 * threads that touch it:
 *
 *     HTTP thread      receives headers and body            (connection active)
 *     request thread   route->work: parses, submits         (connection suspended)
 *     HTTP thread      pulls events, sends                  (active while there is news,
 *                                                            suspended while there is none)
 *     request thread   frees it all
 *
 * libmicrohttpd forgets a resume that comes before its suspend. So both happen
 * under the exchange's mutex together with `suspended` and `news`: whoever has
 * news either finds the connection suspended and resumes it, or leaves `news`
 * set, and then the HTTP thread does not suspend. The mutex is held for these few
 * lines only, never around a call into the engine; the engine's notify takes it. The
 * resume itself is done by the resumer's thread: until then the connection is suspended
 * and the exchange cannot go away. */
#ifndef AGL_SERVER_EXCHANGE_H
#define AGL_SERVER_EXCHANGE_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdbool.h>

#include "base/buffer.h"
#include "server/api_error.h"
#include "server/disconnect_watch.h"
#include "server/generation.h"
#include "server/request_workers.h"
#include "server/resumer.h"
#include "server/server.h"

#define AGL_REQUEST_ID_MAX 128

typedef struct agl_exchange agl_exchange;

/* A path and what answers it. Handlers fill exchange->answer or call agl_exchange_fail. */
typedef struct {
    const char *path;               /* without /v1; one that ends in '/' takes a tail   */
    unsigned methods;               /* AGL_METHOD_*                                     */
    bool is_public;                 /* no key needed: health                            */
    bool needs_engine;              /* 503 until the engine is there, and while draining */
    void (*answer)(agl_exchange *exchange); /* at once, on the HTTP thread; or          */
    void (*work)(agl_exchange *exchange);   /* on a request thread, with the body       */
} agl_route;

enum { AGL_METHOD_GET = 1, AGL_METHOD_POST = 2 };

struct agl_exchange {
    agl_server *server;
    struct MHD_Connection *connection;
    const agl_route *route;         /* never NULL: unknown paths have one of their own  */
    const char *method;             /* view of the connection's                         */
    char *url;                      /* owned, for the log                               */
    const char *tail;               /* of the path, in url                              */
    char id[AGL_REQUEST_ID_MAX + 1];/* X-Request-Id, safe to print                      */
    uint64_t start_ns;
    agl_watch_id watch_id;

    agl_buffer body;
    uint64_t reserved_bytes;        /* of the server's body budget                      */
    uint64_t received_bytes;

    int http_status;                /* of the answer; 0: none yet                       */
    agl_api_error err;              /* http_status of it is 0: none                     */
    agl_buffer answer;              /* body, or stream bytes not yet sent               */
    size_t sent_bytes;              /* of answer                                        */
    const char *content_type;       /* static                                           */
    const char *allow;              /* Allow header of a 405; static                    */
    bool is_stream;
    bool stream_started;            /* headers are out                                  */
    bool stream_ended;              /* the last bytes are in `answer`                   */
    bool counted;                   /* in server->active, and in its list               */
    agl_exchange *next, *previous;  /* in the server's list                             */
    agl_job job;

    pthread_mutex_t mutex;          /* of all below                                     */
    bool suspended;
    bool resuming;                  /* and with the resumer                             */
    agl_resume_link resume_link;
    bool news;                      /* arrived since the last look                      */
    bool working;                   /* a request thread has it                          */
    bool gone;                      /* the client has left                              */
    bool cut;                       /* the server ends it                               */
    bool heartbeat;                 /* a sign of life is due                            */
    uint64_t last_write_ns;
    agl_generation *generation;     /* set once by the request thread, freed with this  */
};

agl_exchange *agl_exchange_create(agl_server *server, struct MHD_Connection *connection);

/* On a request thread: engine requests may take a moment to let go. */
void agl_exchange_destroy(agl_exchange *exchange);

/* Answer with exchange->err. */
void agl_exchange_fail(agl_exchange *exchange);

/* Give the body to a request thread and suspend. False: the queue is full. */
bool agl_exchange_dispatch(agl_exchange *exchange);

typedef enum {
    AGL_PUMP_SUSPENDED,             /* nothing to do until resumed                      */
    AGL_PUMP_READY,                 /* an answer, or stream bytes, or the stream's end  */
    AGL_PUMP_GONE                   /* close the connection                             */
} agl_pump;

/* Take the generation's news; suspend the connection if there are none. */
agl_pump agl_exchange_pump(agl_exchange *exchange);

void agl_exchange_notify(void *exchange);       /* the engine has news    */
void agl_exchange_gone(void *exchange);         /* the client has left    */
void agl_exchange_cut(agl_exchange *exchange);  /* the server is stopping */

/* True while a request thread has it or its connection is suspended. */
bool agl_exchange_is_working(agl_exchange *exchange);

/* A streamed answer that has been silent since before `before_ns` sends a comment. */
void agl_exchange_heartbeat(agl_exchange *exchange, uint64_t before_ns);

#endif
