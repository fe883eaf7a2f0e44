/* SPDX-License-Identifier: Apache-2.0
 *
 * http.c - libmicrohttpd's callbacks: receive a request, hand it over, send the
 * answer. The order of checks is: key, path, method, size, readiness - and only
 * then is the body kept. */
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/answer.h"
#include "server/server_state.h"

#define STREAM_BLOCK_BYTES 32768
#define BODY_BYTES_PER_S 65536u     /* slower uploads are cut off */

static const char *header(const agl_exchange *exchange, const char *name)
{
    return MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

/* ---- answers --------------------------------------------------------- */

static void add_headers(agl_exchange *exchange, struct MHD_Response *response)
{
    char number[16];
    int retry_after_s = agl_retry_after_s(exchange->http_status);
    MHD_add_response_header(response, "Content-Type", exchange->content_type);
    MHD_add_response_header(response, "X-Request-Id", exchange->id);
    if (retry_after_s > 0) {
        snprintf(number, sizeof number, "%d", retry_after_s);
        MHD_add_response_header(response, "Retry-After", number);
    }
    if (exchange->allow != NULL) MHD_add_response_header(response, "Allow", exchange->allow);
    if (exchange->http_status == 401) MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    agl_cors_add(exchange, response, false);
}

static enum MHD_Result queue(agl_exchange *exchange, struct MHD_Response *response)
{
    if (response == NULL) return MHD_NO;
    add_headers(exchange, response);
    enum MHD_Result result = MHD_queue_response(exchange->connection, (unsigned)exchange->http_status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result send_answer(agl_exchange *exchange)
{
    size_t bytes;
    if (exchange->answer.failed) {
        agl_api_fail(&exchange->err, AGL_ERR_MEMORY, NULL, "the answer does not fit in memory");
        agl_exchange_fail(exchange);
    }
    char *body = agl_buffer_detach(&exchange->answer, &bytes);
    if (body == NULL) return queue(exchange, MHD_create_response_from_buffer(0, "", MHD_RESPMEM_PERSISTENT));
    struct MHD_Response *response = MHD_create_response_from_buffer(bytes, body, MHD_RESPMEM_MUST_FREE);
    if (response == NULL) free(body);
    return queue(exchange, response);
}

static void count_reject(agl_exchange *exchange)
{
    static const struct {
        int http_status;
        agl_reject reason;
    } REASONS[] = {
        {401, AGL_REJECT_AUTH}, {413, AGL_REJECT_BODY_SIZE}, {429, AGL_REJECT_BUSY},
        {503, AGL_REJECT_NOT_READY}, {400, AGL_REJECT_BAD_REQUEST},
    };
    agl_reject reason = AGL_REJECT_OTHER;
    for (size_t i = 0; i < AGL_COUNT(REASONS); i++) {
        if (REASONS[i].http_status == exchange->http_status) reason = REASONS[i].reason;
    }
    if (exchange->err.detail.status == AGL_ERR_CONTEXT) reason = AGL_REJECT_CONTEXT;
    agl_metrics_reject(exchange->server->metrics, reason);
}

static enum MHD_Result send_error(agl_exchange *exchange)
{
    agl_exchange_fail(exchange);
    return send_answer(exchange);
}

/* ---- streams --------------------------------------------------------- */

/* Ends a stream that nobody reads. libmicrohttpd frees a connection whose reader reports an error
 * only when every older one is gone; one that it cannot write to it frees at once. */
static ssize_t break_stream(const agl_exchange *exchange)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info == NULL) return MHD_CONTENT_READER_END_WITH_ERROR;
    shutdown(info->connect_fd, SHUT_RDWR); /* fails after a reset: nothing can be written either */
    return MHD_CONTENT_READER_END_OF_STREAM;
}

/* Feeds libmicrohttpd one chunk per call; nothing now: the pump has suspended the connection. */
static ssize_t read_stream(void *user, uint64_t position, char *block, size_t block_bytes)
{
    agl_exchange *exchange = user;
    (void)position;
    agl_buffer *answer = &exchange->answer;
    if (answer->failed) return break_stream(exchange);
    if (exchange->sent_bytes == answer->bytes) {
        agl_buffer_clear(answer);
        exchange->sent_bytes = 0;
        if (exchange->stream_ended) return MHD_CONTENT_READER_END_OF_STREAM;
        agl_pump state = agl_exchange_pump(exchange);
        if (state == AGL_PUMP_GONE) return break_stream(exchange);
        if (state == AGL_PUMP_SUSPENDED) return 0;
    }
    size_t bytes = answer->bytes - exchange->sent_bytes;
    if (bytes > block_bytes) bytes = block_bytes;
    memcpy(block, answer->data + exchange->sent_bytes, bytes);
    exchange->sent_bytes += bytes;

    pthread_mutex_lock(&exchange->mutex);
    exchange->last_write_ns = agl_clock_ns();
    pthread_mutex_unlock(&exchange->mutex);
    return (ssize_t)bytes;
}

static enum MHD_Result send_stream(agl_exchange *exchange)
{
    exchange->stream_started = true;
    exchange->content_type = "text/event-stream; charset=utf-8";
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, read_stream, exchange, NULL);
    if (response == NULL) return MHD_NO;
    MHD_add_response_header(response, "Cache-Control", "no-cache");
    MHD_add_response_header(response, "X-Accel-Buffering", "no");
    return queue(exchange, response);
}

/* ---- receiving ------------------------------------------------------- */

static void make_request_id(agl_exchange *exchange)
{
    const char *given = header(exchange, "X-Request-Id");
    size_t bytes = given != NULL ? strlen(given) : 0;
    static const char SAFE[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:";
    if (bytes > 0 && bytes <= AGL_REQUEST_ID_MAX && strspn(given, SAFE) == bytes) {
        memcpy(exchange->id, given, bytes + 1);
        return;
    }
    uint64_t random[2] = {agl_clock_ns(), (uintptr_t)exchange};
    if (getrandom(random, sizeof random, GRND_NONBLOCK) < 0) random[1] ^= random[0] << 20;
    snprintf(exchange->id, sizeof exchange->id, "%016llx%016llx", (unsigned long long)random[0],
             (unsigned long long)random[1]);
}

static unsigned method_bit(const char *method)
{
    if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0) return AGL_METHOD_GET;
    return strcmp(method, "POST") == 0 ? AGL_METHOD_POST : 0;
}

static agl_status check_route(agl_exchange *exchange)
{
    const agl_route *route = exchange->route;
    agl_server *server = exchange->server;
    if (!route->is_public && !agl_keys_allow(&server->keys, header(exchange, "Authorization"),
                                             header(exchange, "X-Api-Key"))) {
        return agl_api_fail_http(&exchange->err, 401, NULL, "Unauthorized: the API key is missing or wrong");
    }
    if (agl_route_name(agl_route_index(route) + 1) == NULL) return AGL_OK; /* unknown: a 404 for any method */
    if ((method_bit(exchange->method) & route->methods) == 0) {
        exchange->allow = route->methods == AGL_METHOD_GET    ? "GET, HEAD, OPTIONS"
                          : route->methods == AGL_METHOD_POST ? "POST, OPTIONS"
                                                              : "GET, HEAD, POST, OPTIONS";
        return agl_api_fail_http(&exchange->err, 405, NULL, "Method Not Allowed: %.20s; %s takes %s",
                                 exchange->method, route->path, exchange->allow);
    }
    if (route->needs_engine && agl_server_engine(server, &exchange->err) == NULL) return AGL_ERR_BUSY;
    return AGL_OK;
}

static agl_status too_large(agl_exchange *exchange)
{
    return agl_api_fail_http(&exchange->err, 413, NULL, "The request body is larger than %llu bytes",
                             (unsigned long long)exchange->server->options.body_bytes_max);
}

/* Headers are complete. An error found here is sent at once if the client waits for
 * leave to send (100-continue) or has far too much; otherwise after its body has been
 * read and dropped, since a client that is cut off while sending loses the answer. */
static enum MHD_Result begin(agl_exchange *exchange, const char *url, const char *method)
{
    agl_server *server = exchange->server;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    exchange->watch_id = info != NULL ? (agl_watch_id)(uintptr_t)info->socket_context : 0;
    exchange->url = strdup(url);
    exchange->method = method;
    if (exchange->url == NULL) return MHD_NO;
    make_request_id(exchange);
    exchange->route = agl_route_find(exchange);

    if (strcmp(method, "OPTIONS") == 0) {
        exchange->http_status = 204;
        struct MHD_Response *response = MHD_create_response_from_buffer(0, "", MHD_RESPMEM_PERSISTENT);
        if (response == NULL) return MHD_NO;
        agl_cors_add(exchange, response, true);
        enum MHD_Result result = MHD_queue_response(exchange->connection, 204, response);
        MHD_destroy_response(response);
        return result;
    }
    const char *length = header(exchange, "Content-Length");
    uint64_t announced = length != NULL ? strtoull(length, NULL, 10) : 0;
    uint64_t allowance_ns = (uint64_t)server->options.receive_timeout_ms * 1000000u +
                            server->options.body_bytes_max / BODY_BYTES_PER_S * 1000000000u;
    agl_watch_set_deadline(server->watch, exchange->watch_id, agl_clock_ns() + allowance_ns);

    agl_status status = check_route(exchange);
    if (status == AGL_OK && announced > server->options.body_bytes_max) status = too_large(exchange);
    if (status == AGL_OK && !agl_server_reserve_body(server, exchange, announced)) {
        status = agl_api_fail(&exchange->err, AGL_ERR_BUSY, NULL, "The server holds too many request bodies");
    }
    if (status == AGL_OK) return MHD_YES;
    bool at_once = announced > server->options.body_bytes_max || header(exchange, "Expect") != NULL;
    return at_once ? send_error(exchange) : MHD_YES;
}

static enum MHD_Result receive(agl_exchange *exchange, const char *data, size_t bytes)
{
    agl_server *server = exchange->server;
    exchange->received_bytes += bytes;
    if (exchange->received_bytes > 2 * server->options.body_bytes_max) return MHD_NO; /* it does not stop */
    if (exchange->err.http_status != 0) return MHD_YES;
    if (exchange->received_bytes > server->options.body_bytes_max) {
        too_large(exchange);
    } else if (exchange->received_bytes > exchange->reserved_bytes &&
               !agl_server_reserve_body(server, exchange, exchange->received_bytes - exchange->reserved_bytes)) {
        agl_api_fail(&exchange->err, AGL_ERR_BUSY, NULL, "The server holds too many request bodies");
    } else if (exchange->route->work != NULL) {
        if (exchange->body.data == NULL) agl_buffer_reserve(&exchange->body, (size_t)exchange->reserved_bytes);
        agl_buffer_append(&exchange->body, data, bytes);
        if (exchange->body.failed) agl_api_fail(&exchange->err, AGL_ERR_MEMORY, NULL, "no memory for the request");
    }
    if (exchange->err.http_status != 0) {
        agl_buffer_deinit(&exchange->body);
        agl_server_release_body(server, exchange);
    }
    return MHD_YES;
}

/* The request is complete. */
static enum MHD_Result handle(agl_exchange *exchange)
{
    agl_server *server = exchange->server;
    agl_watch_set_deadline(server->watch, exchange->watch_id, 0);
    if (exchange->err.http_status != 0) return send_error(exchange);
    if (exchange->route->answer != NULL) {
        exchange->route->answer(exchange);
        return send_answer(exchange);
    }
    if (agl_server_engine(server, &exchange->err) == NULL) return send_error(exchange);
    if (!agl_server_enter(server, exchange)) return MHD_NO;
    agl_watch_arm(server->watch, exchange->watch_id, agl_exchange_gone, exchange);
    if (agl_exchange_dispatch(exchange)) return MHD_YES;
    agl_api_fail(&exchange->err, AGL_ERR_BUSY, NULL, "Too many requests are waiting, try again later");
    return send_error(exchange);
}

/* After a resume. */
static enum MHD_Result proceed(agl_exchange *exchange)
{
    if (exchange->http_status == 0 && exchange->generation != NULL) {
        switch (agl_exchange_pump(exchange)) {
        case AGL_PUMP_SUSPENDED: return MHD_YES;
        case AGL_PUMP_GONE: return MHD_NO;
        case AGL_PUMP_READY: break;
        }
    }
    if (exchange->http_status == 0) return MHD_NO; /* the client left before any work was done */
    bool is_stream = exchange->is_stream && exchange->http_status == 200;
    return is_stream ? send_stream(exchange) : send_answer(exchange);
}

static enum MHD_Result on_access(void *user, struct MHD_Connection *connection, const char *url, const char *method,
                                 const char *version, const char *data, size_t *data_bytes, void **state)
{
    agl_exchange *exchange = *state;
    (void)version;
    if (exchange == NULL) {
        exchange = agl_exchange_create(user, connection);
        if (exchange == NULL) return MHD_NO;
        *state = exchange;
        return begin(exchange, url, method);
    }
    if (*data_bytes > 0) {
        enum MHD_Result result = receive(exchange, data, *data_bytes);
        *data_bytes = 0;
        return result;
    }
    return exchange->counted ? proceed(exchange) : handle(exchange);
}

/* ---- ends ------------------------------------------------------------ */

static void log_access(const agl_exchange *exchange, int http_status)
{
    char host[INET6_ADDRSTRLEN + 8] = "unix", port[8] = "0";
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info != NULL && info->client_addr != NULL && info->client_addr->sa_family != AF_UNIX) {
        socklen_t bytes = info->client_addr->sa_family == AF_INET ? sizeof(struct sockaddr_in)
                                                                  : sizeof(struct sockaddr_in6);
        getnameinfo(info->client_addr, bytes, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
    }
    const char *plain = strncmp(host, "::ffff:", 7) == 0 ? host + 7 : host;
    agl_log_info("%s:%s - \"%.20s %.300s HTTP/1.1\" %d", plain, port, exchange->method, exchange->url, http_status);
}

static void log_generation(const agl_exchange *exchange)
{
    agl_usage usage = agl_generation_usage(exchange->generation);
    agl_log_info("Finished request %s: %u prompt tokens (%u cached, %u of images), %u generated, "
                 "queue %.1f ms, first token %.1f ms, total %.1f ms", exchange->id, usage.prompt_tokens,
                 usage.cached_tokens, usage.image_tokens, usage.completion_tokens, usage.queue_s * 1e3,
                 usage.ttft_s * 1e3, usage.total_s * 1e3);
}

static void free_exchange(void *user)
{
    agl_exchange_destroy(user);
}

static void on_completed(void *user, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code)
{
    agl_server *server = user;
    agl_exchange *exchange = *state;
    (void)connection;
    *state = NULL;
    if (exchange == NULL) return;
    agl_watch_disarm(server->watch, exchange->watch_id);
    agl_server_leave(server, exchange);
    agl_server_release_body(server, exchange);
    /* An idle connection is closed by libmicrohttpd; this is for one that sends its next request too slowly. */
    uint64_t idle_ms = (uint64_t)server->options.idle_timeout_ms + server->options.receive_timeout_ms;
    agl_watch_set_deadline(server->watch, exchange->watch_id, agl_clock_ns() + idle_ms * 1000000u);

    bool complete = code == MHD_REQUEST_TERMINATED_COMPLETED_OK && exchange->http_status != 0;
    int http_status = complete ? exchange->http_status : 499;
    if (!complete) agl_metrics_disconnect(server->metrics);
    if (complete && http_status >= 400) count_reject(exchange);
    if (exchange->route != NULL) {
        double seconds = (double)(agl_clock_ns() - exchange->start_ns) * 1e-9;
        agl_metrics_http(server->metrics, agl_route_index(exchange->route), http_status, seconds);
        if (!server->options.disable_access_log) log_access(exchange, http_status);
        if (server->options.log_requests && exchange->generation != NULL) log_generation(exchange);
    }
    if (exchange->generation == NULL) {
        agl_exchange_destroy(exchange);
        return;
    }
    exchange->job = (agl_job){.run = free_exchange, .user = exchange};
    agl_workers_push_cleanup(server->workers, &exchange->job);
}

static void on_connection(void *user, struct MHD_Connection *connection, void **state,
                          enum MHD_ConnectionNotificationCode code)
{
    agl_server *server = user;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        agl_watch_close(server->watch, (agl_watch_id)(uintptr_t)*state);
        atomic_fetch_sub(&server->connections, 1);
        *state = NULL;
        return;
    }
    atomic_fetch_add(&server->connections, 1);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info == NULL) return;
    int on = 1;
    setsockopt(info->connect_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* fails on Unix sockets */
    agl_watch_id id = agl_watch_open(server->watch, info->connect_fd);
    agl_watch_set_deadline(server->watch, id,
                           agl_clock_ns() + (uint64_t)server->options.receive_timeout_ms * 1000000u);
    *state = (void *)(uintptr_t)id;
}

__attribute__((format(printf, 2, 0)))
static void on_log(void *user, const char *format, va_list args)
{
    char line[512];
    (void)user;
    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = '\0';
    agl_log_debug("http: %s", line);
}

/* ---- start and stop -------------------------------------------------- */

agl_status agl_http_start(agl_server *server, agl_error *err)
{
    const agl_server_options *options = &server->options;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    struct MHD_OptionItem items[16];
    size_t count = 0;
    items[count++] = (struct MHD_OptionItem){MHD_OPTION_LISTEN_SOCKET, server->listen_socket, NULL};
    items[count++] = (struct MHD_OptionItem){MHD_OPTION_CONNECTION_LIMIT, (intptr_t)options->connections_max, NULL};
    items[count++] = (struct MHD_OptionItem){MHD_OPTION_CONNECTION_TIMEOUT,
                                             (intptr_t)((options->idle_timeout_ms + 999) / 1000), NULL};
    /* The pool of a connection holds the headers and both its buffers; a full pool is a 431. */
    items[count++] = (struct MHD_OptionItem){MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)options->header_bytes_max,
                                             NULL};
    if (options->http_threads > 1) {
        items[count++] = (struct MHD_OptionItem){MHD_OPTION_THREAD_POOL_SIZE, (intptr_t)options->http_threads, NULL};
    }
    if (server->tls_certificate != NULL) {
        flags |= MHD_USE_TLS;
        items[count++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, server->tls_certificate};
        items[count++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0, server->tls_key};
        if (options->ssl_keyfile_password != NULL) {
            items[count++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_KEY_PASSWORD, 0,
                                                     (void *)(uintptr_t)options->ssl_keyfile_password};
        }
    }
    items[count] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
    server->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_access, server,
                                      MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
                                      MHD_OPTION_NOTIFY_COMPLETED, on_completed, server,
                                      MHD_OPTION_NOTIFY_CONNECTION, on_connection, server,
                                      MHD_OPTION_ARRAY, items, MHD_OPTION_END);
    if (server->daemon != NULL) return AGL_OK;
    return agl_fail(err, AGL_ERR_IO, "the HTTP server does not start%s",
                    server->tls_certificate != NULL ? "; check --ssl-certfile and --ssl-keyfile" : "");
}

void agl_http_stop(agl_server *server)
{
    MHD_stop_daemon(server->daemon);
    server->daemon = NULL;
}
