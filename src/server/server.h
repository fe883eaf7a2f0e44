/* SPDX-License-Identifier: Apache-2.0
 *
 * server.h - the OpenAI HTTP API in front of an engine.
 *
 *     agl_server_create(&server, &options, &err);    binds the port, reads keys and certificates
 *     agl_server_start(server, &err);                answers from now on: 503 with progress
 *     agl_server_set_progress(server, "weights", 0.4);
 *     agl_server_set_engine(server, engine);         requests are served
 *     agl_server_drain(server, timeout_ms);          readiness off, let running requests end
 *     agl_server_destroy(server);                    before agl_engine_destroy
 *
 * create, start, set_engine, drain and destroy belong to one thread; the other
 * functions may be called from any. All strings of the options are copied. */
#ifndef AGL_SERVER_SERVER_H
#define AGL_SERVER_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agl/agl.h"

typedef struct agl_server agl_server;

typedef struct {
    const char *const *items;
    size_t count;
} agl_string_list;

/* Zero means the default named in the remark. */
typedef struct {
    /* ---- socket ---- */
    const char *host;               /* NULL: every address, IPv6 and IPv4                      */
    int32_t port;                   /* 0: 8000; -1: any free one, see agl_server_port          */
    const char *uds;                /* path of a Unix socket, used instead of host and port    */
    const char *root_path;          /* prefix a proxy leaves in the path: "/llm"; NULL: none   */
    const char *ssl_certfile;       /* PEM chain; with ssl_keyfile: TLS                        */
    const char *ssl_keyfile;        /* PEM                                                     */
    const char *ssl_keyfile_password;
    const char *ssl_ca_certs;       /* PEM; with ssl_require_client_cert: who may connect      */
    bool ssl_require_client_cert;

    /* ---- who may ask ---- */
    agl_string_list api_keys;       /* none: everybody; else Authorization: Bearer or X-Api-Key */
    agl_string_list allowed_origins;/* CORS; none: "*"                                         */
    agl_string_list allowed_methods;/* none: "*"                                               */
    agl_string_list allowed_headers;/* none: "*"                                               */
    bool allow_credentials;

    /* ---- what is served ---- */
    agl_string_list model_names;    /* --served-model-name; none: the checkpoint's folder      */
    const char *response_role;      /* NULL: "assistant"                                       */
    agl_content_format content_format;
    const char *default_chat_template_kwargs; /* JSON object under each request's own; NULL: {} */
    bool split_reasoning;           /* <think> text goes to reasoning fields unless the request says no */
    bool force_include_usage;       /* usage in every stream, asked for or not                 */
    bool strict_max_model_len;      /* prompt + max_tokens over the window is a 400, not clamped */
    bool enable_dev_routes;         /* POST /reset_prefix_cache and the like                   */
    uint32_t stream_interval;       /* tokens per chunk after the first; 0: 1                  */

    /* ---- media ---- */
    const char *allowed_local_media_path;   /* folder for file:// URLs; NULL: refused          */
    agl_string_list allowed_media_domains;  /* hosts for http(s):// URLs; none: refused        */
    uint32_t media_timeout_ms;      /* of one fetch; 0: 5000                                   */
    uint64_t media_bytes_max;       /* of one image; 0: 32 MiB                                 */
    uint32_t media_count_max;       /* images of one request; 0: 10                            */

    /* ---- limits ---- */
    uint64_t body_bytes_max;        /* of one request; 0: 32 MiB                               */
    uint64_t body_bytes_total;      /* of all requests being received or parsed; 0: 1 GiB      */
    uint32_t header_bytes_max;      /* request line and headers; 0: 32 KiB                     */
    uint32_t connections_max;       /* 0: 1024                                                 */
    uint32_t receive_timeout_ms;    /* to receive the headers; the body gets more with its size; 0: 30000 */
    uint32_t idle_timeout_ms;       /* kept-alive or not reading; 0: 75000                     */
    uint32_t request_timeout_ms;    /* from the whole body to the last token; 0: none          */
    uint32_t heartbeat_ms;          /* SSE comment when nothing was sent for so long; 0: 15000 */
    uint32_t http_threads;          /* 0: 2, or 4 on machines of more than 8 CPUs              */
    uint32_t request_threads;       /* parse, decode, tokenise; 0: CPUs, at least 2, at most 16 */
    uint32_t queue_max;             /* requests that wait for a request thread; 0: 1024        */

    /* ---- log ---- */
    bool disable_access_log;
    bool log_requests;              /* one line per request: ids, tokens, times; never content */
} agl_server_options;

/* Bind and listen. ARGUMENT, NOT_FOUND, FORMAT for files and values; IO if the address is taken. */
agl_status agl_server_create(agl_server **out, const agl_server_options *options, agl_error *err);

/* Start the threads. From here on the port answers. */
agl_status agl_server_start(agl_server *server, agl_error *err);

/* The port in use; 0 for a Unix socket. And "http://0.0.0.0:8000", a view. */
uint16_t agl_server_port(const agl_server *server);
const char *agl_server_address(const agl_server *server);

/* What 503 answers say until set_engine: a phase and how much of it is done, 0..1. */
void agl_server_set_progress(agl_server *server, const char *phase, double fraction);

/* Loading failed: answers stay 503 and carry the message. */
void agl_server_set_failed(agl_server *server, const char *message);

/* Serve with `engine`, which must outlive the server. Once. */
void agl_server_set_engine(agl_server *server, agl_engine *engine);

/* Requests that are received, waiting or running. */
uint32_t agl_server_active(const agl_server *server);

/* Refuse new requests (503, /readyz off), wait up to timeout_ms for the running ones,
 * then cancel the rest, which end with an error event. True if none was cut off. */
bool agl_server_drain(agl_server *server, uint32_t timeout_ms);

/* Cuts off what still runs; frees all. NULL is allowed. */
void agl_server_destroy(agl_server *server);

#endif
