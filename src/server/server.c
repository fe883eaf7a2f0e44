/* SPDX-License-Identifier: Apache-2.0
 *
 * server.c - life of the server: options, socket, readiness, drain. */
#include "server/server.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file_map.h"
#include "base/log.h"
#include "server/server_state.h"

#define PEM_BYTES_MAX ((size_t)1 << 20)

/* ---- options --------------------------------------------------------- */

static agl_status copy_string(agl_server *server, const char **text, agl_error *err)
{
    if (*text == NULL) return AGL_OK;
    *text = agl_arena_string(&server->arena, *text, strlen(*text));
    return *text != NULL ? AGL_OK : agl_fail(err, AGL_ERR_MEMORY, "no memory for the server's options");
}

static agl_status copy_list(agl_server *server, agl_string_list *list, agl_error *err)
{
    if (list->count == 0) {
        list->items = NULL;
        return AGL_OK;
    }
    const char **items = agl_arena_copy(&server->arena, list->items, list->count * sizeof *items);
    if (items == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the server's options");
    for (size_t i = 0; i < list->count; i++) AGL_TRY(copy_string(server, &items[i], err));
    list->items = items;
    return AGL_OK;
}

static agl_status copy_options(agl_server *server, const agl_server_options *options, agl_error *err)
{
    agl_server_options *o = &server->options;
    *o = *options;
    const char **const strings[] = {&o->host, &o->uds, &o->root_path, &o->ssl_certfile, &o->ssl_keyfile,
                                    &o->ssl_keyfile_password, &o->ssl_ca_certs, &o->response_role,
                                    &o->default_chat_template_kwargs, &o->allowed_local_media_path};
    agl_string_list *const lists[] = {&o->api_keys, &o->allowed_origins, &o->allowed_methods, &o->allowed_headers,
                                      &o->model_names, &o->allowed_media_domains};
    for (size_t i = 0; i < AGL_COUNT(strings); i++) AGL_TRY(copy_string(server, strings[i], err));
    for (size_t i = 0; i < AGL_COUNT(lists); i++) AGL_TRY(copy_list(server, lists[i], err));
    return AGL_OK;
}

static void default_u32(uint32_t *value, uint32_t otherwise)
{
    if (*value == 0) *value = otherwise;
}

static void fill_defaults(agl_server_options *o)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t workers = cpus < 2 ? 2 : cpus > 16 ? 16 : (uint32_t)cpus;
    if (o->port == 0) o->port = 8000;
    if (o->response_role == NULL) o->response_role = "assistant";
    if (o->media_bytes_max == 0) o->media_bytes_max = (uint64_t)32 << 20;
    if (o->body_bytes_max == 0) o->body_bytes_max = (uint64_t)32 << 20;
    if (o->body_bytes_total == 0) o->body_bytes_total = (uint64_t)1 << 30;
    default_u32(&o->stream_interval, 1);
    default_u32(&o->media_timeout_ms, 5000);
    default_u32(&o->media_count_max, 10);
    default_u32(&o->header_bytes_max, 32 << 10);
    if (o->header_bytes_max < 4096) o->header_bytes_max = 4096; /* libmicrohttpd's own buffers are in it */
    default_u32(&o->connections_max, 1024);
    default_u32(&o->receive_timeout_ms, 30000);
    default_u32(&o->idle_timeout_ms, 75000);
    default_u32(&o->heartbeat_ms, 15000);
    default_u32(&o->http_threads, cpus > 8 ? 4 : 2);
    default_u32(&o->request_threads, workers);
    default_u32(&o->queue_max, 1024);
}

static agl_status read_template_kwargs(agl_server *server, agl_error *err)
{
    static const char NAME[] = "--default-chat-template-kwargs";
    const char *text = server->options.default_chat_template_kwargs;
    if (text == NULL) return AGL_OK;
    struct json_object **object = &server->defaults.template_kwargs;
    AGL_TRY(agl_json_parse(object, text, strlen(text), NAME, err));
    if (!json_object_is_type(*object, json_type_object)) {
        return agl_fail(err, AGL_ERR_FORMAT, "%s: a JSON object is expected", NAME);
    }
    bool thinking;
    return agl_json_get_bool(&thinking, *object, "enable_thinking", false, NAME, err);
}

static agl_status resolve_media(agl_server *server, agl_error *err)
{
    const agl_server_options *o = &server->options;
    server->media = (agl_media_policy){
        .domains = o->allowed_media_domains.items,
        .domain_count = o->allowed_media_domains.count,
        .timeout_ms = o->media_timeout_ms,
        .bytes_max = o->media_bytes_max,
        .count_max = o->media_count_max,
    };
    if (o->allowed_local_media_path == NULL || o->allowed_local_media_path[0] == '\0') return AGL_OK;
    char *path = realpath(o->allowed_local_media_path, NULL);
    struct stat info;
    if (path == NULL || stat(path, &info) != 0 || !S_ISDIR(info.st_mode)) {
        free(path);
        return agl_fail(err, AGL_ERR_NOT_FOUND, "--allowed-local-media-path: %s is not a folder",
                        o->allowed_local_media_path);
    }
    server->media.local_path = agl_arena_string(&server->arena, path, strlen(path));
    free(path);
    return server->media.local_path != NULL ? AGL_OK : agl_fail(err, AGL_ERR_MEMORY, "no memory for the options");
}

static agl_status read_tls(agl_server *server, agl_error *err)
{
    const agl_server_options *o = &server->options;
    if (o->ssl_certfile == NULL && o->ssl_keyfile == NULL) return AGL_OK;
    if (o->ssl_certfile == NULL || o->ssl_keyfile == NULL) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "--ssl-certfile and --ssl-keyfile belong together");
    }
    if (o->ssl_require_client_cert || o->ssl_ca_certs != NULL) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "client certificates (--ssl-ca-certs) are not supported; "
                        "put a proxy in front or use --api-key");
    }
    if (MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "this libmicrohttpd is built without TLS");
    }
    size_t bytes;
    AGL_TRY(agl_file_read(&server->tls_certificate, &bytes, o->ssl_certfile, PEM_BYTES_MAX, err));
    AGL_TRY(agl_file_read(&server->tls_key, &bytes, o->ssl_keyfile, PEM_BYTES_MAX, err));
    return AGL_OK;
}

/* ---- socket ---------------------------------------------------------- */

static agl_status bind_failed(const char *where, agl_error *err)
{
    const char *hint = errno == EADDRINUSE ? "; is another server running there?" : "";
    return agl_fail(err, AGL_ERR_IO, "cannot listen on %s: %s%s", where, strerror(errno), hint);
}

static agl_status listen_unix(agl_server *server, agl_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = server->options.uds;
    if (strlen(path) >= sizeof address.sun_path) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "--uds: the path is longer than %zu bytes", sizeof address.sun_path - 1);
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    struct stat info;
    if (stat(path, &info) == 0 && S_ISSOCK(info.st_mode)) unlink(path); /* left by an earlier run */
    server->listen_socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server->listen_socket < 0 ||
        bind(server->listen_socket, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(server->listen_socket, SOMAXCONN) != 0) {
        return bind_failed(path, err);
    }
    snprintf(server->address, sizeof server->address, "unix:%s", path);
    return AGL_OK;
}

static int try_address(const struct addrinfo *info, bool both_families)
{
    int handle = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (handle < 0) return -1;
    int on = 1, off = 0;
    setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (info->ai_family == AF_INET6) {
        setsockopt(handle, IPPROTO_IPV6, IPV6_V6ONLY, both_families ? &off : &on, sizeof on);
    }
    if (bind(handle, info->ai_addr, info->ai_addrlen) == 0 && listen(handle, SOMAXCONN) == 0) return handle;
    int saved = errno;
    close(handle);
    errno = saved;
    return -1;
}

static agl_status listen_tcp(agl_server *server, agl_error *err)
{
    const char *host = server->options.host;
    bool any = host == NULL || host[0] == '\0';
    char port[16], where[288];
    snprintf(port, sizeof port, "%d", server->options.port < 0 ? 0 : server->options.port);
    snprintf(where, sizeof where, "%.250s:%s", any ? "0.0.0.0" : host, port);
    if (server->options.port > 65535) return agl_fail(err, AGL_ERR_ARGUMENT, "--port: %s is not a port", port);

    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int code = getaddrinfo(any ? NULL : host, port, &hints, &found);
    if (code != 0) return agl_fail(err, AGL_ERR_NOT_FOUND, "--host: %.250s: %s", host, gai_strerror(code));
    errno = EADDRNOTAVAIL;
    /* Without a host, one IPv6 socket takes both families; IPv4 alone where there is no IPv6. */
    for (int wanted = 0; wanted < 2 && server->listen_socket < 0; wanted++) {
        for (struct addrinfo *each = found; each != NULL && server->listen_socket < 0; each = each->ai_next) {
            bool preferred = any ? each->ai_family == AF_INET6 : true;
            if (preferred == (wanted == 0)) server->listen_socket = try_address(each, any);
        }
        if (errno == EADDRINUSE) break;
    }
    freeaddrinfo(found);
    if (server->listen_socket < 0) return bind_failed(where, err);

    struct sockaddr_storage bound;
    socklen_t bytes = sizeof bound;
    if (getsockname(server->listen_socket, (struct sockaddr *)&bound, &bytes) != 0) return bind_failed(where, err);
    server->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                     : ((struct sockaddr_in *)&bound)->sin_port);
    bool brackets = !any && strchr(host, ':') != NULL;
    snprintf(server->address, sizeof server->address, "%s://%s%.250s%s:%u",
             server->tls_certificate != NULL ? "https" : "http", brackets ? "[" : "", any ? "0.0.0.0" : host,
             brackets ? "]" : "", server->port);
    return AGL_OK;
}

/* ---- create, start --------------------------------------------------- */

/* Streams that have been silent for long say that they live. */
static void tick(void *user)
{
    agl_server *server = user;
    uint64_t silence_ns = (uint64_t)server->options.heartbeat_ms * 1000000u;
    uint64_t now_ns = agl_clock_ns();
    if (now_ns < silence_ns) return;
    pthread_mutex_lock(&server->mutex);
    for (agl_exchange *each = server->exchanges; each != NULL; each = each->next) {
        agl_exchange_heartbeat(each, now_ns - silence_ns);
    }
    pthread_mutex_unlock(&server->mutex);
}

static agl_status start_threads(agl_server *server, agl_error *err)
{
    const agl_server_options *o = &server->options;
    agl_watch_options watch = {
        .connections_max = o->connections_max + 64, /* closing ones still hold their entry */
        .tick_ms = o->heartbeat_ms < 1000 ? (o->heartbeat_ms + 3) / 4 : 250,
        .tick = tick,
        .tick_user = server,
    };
    AGL_TRY(agl_resumer_create(&server->resumer, err));
    AGL_TRY(agl_watch_create(&server->watch, &watch, err));
    return agl_workers_create(&server->workers, o->request_threads, o->queue_max, err);
}

agl_status agl_server_create(agl_server **out, const agl_server_options *options, agl_error *err)
{
    *out = NULL;
    agl_server *server = calloc(1, sizeof *server);
    if (server == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the server");
    server->listen_socket = -1;
    server->start_ns = agl_clock_ns();
    agl_arena_init(&server->arena, 0);
    pthread_mutex_init(&server->mutex, NULL);
    server->metrics = agl_metrics_create();
    agl_status status = server->metrics != NULL ? AGL_OK : agl_fail(err, AGL_ERR_MEMORY, "no memory for metrics");
    if (status == AGL_OK) status = copy_options(server, options, err);
    if (status == AGL_OK) fill_defaults(&server->options);
    if (status == AGL_OK) status = agl_media_init(err);
    if (status == AGL_OK) status = agl_keys_init(&server->keys, &server->options.api_keys, err);
    if (status == AGL_OK) status = resolve_media(server, err);
    if (status == AGL_OK) status = read_template_kwargs(server, err);
    if (status == AGL_OK) status = read_tls(server, err);
    if (status == AGL_OK) {
        status = server->options.uds != NULL ? listen_unix(server, err) : listen_tcp(server, err);
    }
    if (status != AGL_OK) {
        agl_server_destroy(server);
        return status;
    }
    server->defaults.media = &server->media;
    server->defaults.content_format = server->options.content_format;
    server->defaults.response_role = server->options.response_role;
    server->defaults.split_reasoning = server->options.split_reasoning;
    server->defaults.force_include_usage = server->options.force_include_usage;
    server->defaults.stream_interval = server->options.stream_interval;
    *out = server;
    return AGL_OK;
}

agl_status agl_server_start(agl_server *server, agl_error *err)
{
    AGL_TRY(start_threads(server, err));
    return agl_http_start(server, err);
}

uint16_t agl_server_port(const agl_server *server)
{
    return server->port;
}

const char *agl_server_address(const agl_server *server)
{
    return server->address;
}

/* ---- readiness ------------------------------------------------------- */

void agl_server_set_progress(agl_server *server, const char *phase, double fraction)
{
    pthread_mutex_lock(&server->mutex);
    snprintf(server->phase, sizeof server->phase, "%s", phase != NULL ? phase : "");
    server->fraction = fraction;
    pthread_mutex_unlock(&server->mutex);
}

void agl_server_set_failed(agl_server *server, const char *message)
{
    pthread_mutex_lock(&server->mutex);
    snprintf(server->failure, sizeof server->failure, "%s", message);
    pthread_mutex_unlock(&server->mutex);
}

void agl_server_set_engine(agl_server *server, agl_engine *engine)
{
    server->default_name = agl_engine_model_info(engine).root;
    server->ready_ns = agl_clock_ns();
    atomic_store(&server->engine, engine); /* publishes the two above */
}

static void say_loading(agl_server *server, agl_api_error *err)
{
    pthread_mutex_lock(&server->mutex);
    if (server->failure[0] != '\0') {
        agl_api_fail_http(err, 503, NULL, "The model could not be loaded: %s", server->failure);
    } else if (server->phase[0] != '\0') {
        agl_api_fail_http(err, 503, NULL, "The model is loading: %s, %.0f %% done", server->phase,
                          server->fraction * 100);
    } else {
        agl_api_fail_http(err, 503, NULL, "The model is loading");
    }
    pthread_mutex_unlock(&server->mutex);
}

agl_engine *agl_server_engine(agl_server *server, agl_api_error *err)
{
    agl_engine *engine = atomic_load(&server->engine);
    if (engine == NULL) {
        say_loading(server, err);
        return NULL;
    }
    if (atomic_load(&server->draining)) {
        agl_api_fail_shutdown(err);
        return NULL;
    }
    agl_engine_stats stats = agl_engine_stats_get(engine);
    if (stats.fatal != AGL_OK) {
        agl_api_fail_http(err, 503, NULL, "The engine has stopped: %s", agl_status_text(stats.fatal));
        return NULL;
    }
    if (stats.stalled) {
        agl_api_fail_http(err, 503, NULL, "The engine has not finished a step for %.0f s", stats.last_step_age_s);
        return NULL;
    }
    return engine;
}

const char *agl_server_model_name(agl_server *server)
{
    const agl_string_list *names = &server->options.model_names;
    return names->count > 0 ? names->items[0] : server->default_name;
}

agl_status agl_server_check_model(agl_server *server, const char *name, agl_api_error *err)
{
    const agl_string_list *names = &server->options.model_names;
    for (size_t i = 0; i < names->count; i++) {
        if (strcmp(names->items[i], name) == 0) return AGL_OK;
    }
    if (names->count == 0 && strcmp(server->default_name, name) == 0) return AGL_OK;
    return agl_api_fail_http(err, 404, "model", "The model `%.200s` does not exist. This server has `%.200s`.", name,
                             agl_server_model_name(server));
}

/* ---- accounts -------------------------------------------------------- */

bool agl_server_reserve_body(agl_server *server, agl_exchange *exchange, uint64_t bytes)
{
    uint64_t before = atomic_fetch_add(&server->body_bytes, bytes);
    if (before + bytes > server->options.body_bytes_total) {
        atomic_fetch_sub(&server->body_bytes, bytes);
        return false;
    }
    exchange->reserved_bytes += bytes;
    return true;
}

void agl_server_release_body(agl_server *server, agl_exchange *exchange)
{
    atomic_fetch_sub(&server->body_bytes, exchange->reserved_bytes);
    exchange->reserved_bytes = 0;
}

bool agl_server_enter(agl_server *server, agl_exchange *exchange)
{
    pthread_mutex_lock(&server->mutex);
    bool open = !server->closed;
    if (open) {
        exchange->counted = true;
        exchange->next = server->exchanges;
        if (exchange->next != NULL) exchange->next->previous = exchange;
        server->exchanges = exchange;
        atomic_fetch_add(&server->active, 1);
    }
    pthread_mutex_unlock(&server->mutex);
    return open;
}

void agl_server_leave(agl_server *server, agl_exchange *exchange)
{
    if (!exchange->counted) return;
    pthread_mutex_lock(&server->mutex);
    if (exchange->previous != NULL) exchange->previous->next = exchange->next; else server->exchanges = exchange->next;
    if (exchange->next != NULL) exchange->next->previous = exchange->previous;
    exchange->counted = false;
    pthread_mutex_unlock(&server->mutex);
    atomic_fetch_sub(&server->active, 1);
}

uint32_t agl_server_active(const agl_server *server)
{
    return atomic_load(&server->active);
}

/* ---- end ------------------------------------------------------------- */

static bool wait_until_idle(agl_server *server, uint32_t timeout_ms)
{
    uint64_t deadline_ns = agl_clock_ns() + (uint64_t)timeout_ms * 1000000u;
    while (agl_server_active(server) > 0) {
        if (agl_clock_ns() >= deadline_ns) return false;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return true;
}

static void cut_all(agl_server *server)
{
    pthread_mutex_lock(&server->mutex);
    for (agl_exchange *each = server->exchanges; each != NULL; each = each->next) agl_exchange_cut(each);
    pthread_mutex_unlock(&server->mutex);
}

bool agl_server_drain(agl_server *server, uint32_t timeout_ms)
{
    atomic_store(&server->draining, true);
    if (wait_until_idle(server, timeout_ms)) return true;
    cut_all(server);
    wait_until_idle(server, 2000); /* for the error events to leave; a slow reader loses them */
    return false;
}

/* libmicrohttpd must not be stopped while a connection is suspended. After `closed`
 * no exchange is added; a cut one is never suspended again. */
static void wake_all(agl_server *server)
{
    bool busy = true;
    while (busy) {
        pthread_mutex_lock(&server->mutex);
        server->closed = true;
        busy = false;
        for (agl_exchange *each = server->exchanges; each != NULL; each = each->next) {
            agl_exchange_cut(each);
            busy = agl_exchange_is_working(each) || busy;
        }
        pthread_mutex_unlock(&server->mutex);
        if (busy) nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    wait_until_idle(server, 1000); /* for the last events to leave */
}

void agl_server_destroy(agl_server *server)
{
    if (server == NULL) return;
    atomic_store(&server->draining, true);
    if (server->daemon != NULL) {
        MHD_quiesce_daemon(server->daemon); /* the socket is ours again */
        wake_all(server);
        agl_http_stop(server);
    }
    agl_workers_destroy(server->workers);
    agl_watch_destroy(server->watch);
    agl_resumer_destroy(server->resumer);
    if (server->listen_socket >= 0) close(server->listen_socket);
    if (server->options.uds != NULL && server->address[0] != '\0') unlink(server->options.uds);
    json_object_put(server->defaults.template_kwargs);
    agl_keys_deinit(&server->keys);
    agl_metrics_destroy(server->metrics);
    free(server->tls_certificate);
    free(server->tls_key);
    pthread_mutex_destroy(&server->mutex);
    agl_arena_deinit(&server->arena);
    free(server);
}
