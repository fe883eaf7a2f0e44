/* SPDX-License-Identifier: Apache-2.0
 *
 * routes.c - the table of paths, and the answers that need no request thread. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "server/server_state.h"

static agl_buffer *ok(agl_exchange *exchange)
{
    exchange->http_status = 200;
    return &exchange->answer;
}

/* ---- health ---------------------------------------------------------- */

/* {"status": "ok"} exactly when a request sent now would be served. */
static void answer_ready(agl_exchange *exchange)
{
    if (agl_server_engine(exchange->server, &exchange->err) == NULL) {
        agl_exchange_fail(exchange);
    } else {
        agl_buffer_append_text(ok(exchange), "{\"status\": \"ok\"}");
    }
}

/* Alive unless only a restart helps: loading and draining are fine. */
static void answer_live(agl_exchange *exchange)
{
    agl_engine *engine = atomic_load(&exchange->server->engine);
    if (engine != NULL) {
        agl_engine_stats stats = agl_engine_stats_get(engine);
        if (stats.fatal != AGL_OK || stats.stalled) {
            answer_ready(exchange);
            return;
        }
    }
    agl_buffer_append_text(ok(exchange), "{\"status\": \"ok\"}");
}

/* ---- information ----------------------------------------------------- */

static void append_quoted(agl_buffer *out, const char *text)
{
    agl_buffer_append_char(out, '"');
    if (text != NULL) agl_buffer_append_json(out, text, strlen(text));
    agl_buffer_append_char(out, '"');
}

static void append_model(agl_buffer *out, agl_server *server, const char *name)
{
    agl_model_info info = agl_engine_model_info(atomic_load(&server->engine));
    agl_buffer_append_text(out, "{\"id\":");
    append_quoted(out, name);
    agl_buffer_append_text(out, ",\"object\":\"model\",\"created\":0,\"owned_by\":\"autoglm\",\"root\":");
    append_quoted(out, info.root);
    agl_buffer_append_format(out, ",\"parent\":null,\"max_model_len\":%u,\"permission\":[],\"meta\":{\"architecture\":",
                             info.max_model_len);
    append_quoted(out, info.architecture);
    agl_buffer_append_text(out, ",\"dtype\":");
    append_quoted(out, info.dtype);
    agl_buffer_append_format(out, ",\"n_params\":%llu,\"size\":%llu,\"n_vocab\":%u,\"n_ctx\":%u,\"vision\":%s}}",
                             (unsigned long long)info.parameters, (unsigned long long)info.weight_bytes, info.vocab,
                             info.max_model_len, info.has_vision ? "true" : "false");
}

static void answer_models(agl_exchange *exchange)
{
    agl_server *server = exchange->server;
    const agl_string_list *names = &server->options.model_names;
    agl_buffer *out = ok(exchange);
    agl_buffer_append_text(out, "{\"object\":\"list\",\"data\":[");
    if (names->count == 0) append_model(out, server, agl_server_model_name(server));
    for (size_t i = 0; i < names->count; i++) {
        if (i > 0) agl_buffer_append_char(out, ',');
        append_model(out, server, names->items[i]);
    }
    agl_buffer_append_text(out, "]}");
}

static void answer_model(agl_exchange *exchange)
{
    if (agl_server_check_model(exchange->server, exchange->tail, &exchange->err) != AGL_OK) {
        agl_exchange_fail(exchange);
        return;
    }
    append_model(ok(exchange), exchange->server, exchange->tail);
}

static void answer_version(agl_exchange *exchange)
{
    agl_buffer_append_text(ok(exchange), "{\"version\":\"" AGL_VERSION "\"}");
}

static void answer_load(agl_exchange *exchange)
{
    agl_buffer_append_format(ok(exchange), "{\"server_load\":%u}", agl_server_active(exchange->server));
}

static void answer_metrics(agl_exchange *exchange)
{
    agl_server *server = exchange->server;
    uint64_t ready_ns = server->ready_ns;
    agl_engine *engine = atomic_load(&server->engine);
    agl_metrics_snapshot now = {
        .model = engine != NULL ? agl_server_model_name(server) : "",
        .engine = engine,
        .connections = atomic_load(&server->connections),
        .active_requests = agl_server_active(server),
        .body_bytes = atomic_load(&server->body_bytes),
        .uptime_s = (double)(agl_clock_ns() - server->start_ns) * 1e-9,
        .load_s = engine != NULL ? (double)(ready_ns - server->start_ns) * 1e-9 : 0,
    };
    exchange->content_type = "text/plain; version=0.0.4; charset=utf-8";
    agl_metrics_write(ok(exchange), server->metrics, &now, agl_route_name);
}

static void answer_cache_reset(agl_exchange *exchange)
{
    if (!exchange->server->options.enable_dev_routes) {
        agl_api_fail_http(&exchange->err, 404, NULL, "Not Found");
        agl_exchange_fail(exchange);
        return;
    }
    agl_engine_cache_reset(atomic_load(&exchange->server->engine));
    agl_buffer_append_text(ok(exchange), "{\"status\":\"ok\"}");
}

static void answer_not_built(agl_exchange *exchange)
{
    agl_api_fail_http(&exchange->err, 501, NULL, "%s is not something this model does", exchange->route->path);
    agl_exchange_fail(exchange);
}

static void answer_unknown(agl_exchange *exchange)
{
    agl_api_fail_http(&exchange->err, 404, NULL, "Not Found: %.20s %.200s", exchange->method, exchange->url);
    agl_exchange_fail(exchange);
}

/* ---- the table ------------------------------------------------------- */

enum { GET = AGL_METHOD_GET, POST = AGL_METHOD_POST, BOTH = AGL_METHOD_GET | AGL_METHOD_POST };

/* Every path answers with and without /v1. First match wins; the last row takes the rest. */
static const agl_route ROUTES[] = {
    /* path                     methods public engine  answered at once      or with the body */
    {"/chat/completions",       POST, false, true,  NULL,               agl_work_chat},
    {"/completions",            POST, false, true,  NULL,               agl_work_completion},
    {"/invocations",            POST, false, true,  NULL,               agl_work_invocation},
    {"/tokenize",               POST, false, true,  NULL,               agl_work_tokenize},
    {"/detokenize",             POST, false, true,  NULL,               agl_work_detokenize},
    {"/apply-template",         POST, false, true,  NULL,               agl_work_apply_template},
    {"/models",                 GET,  false, true,  answer_models,      NULL},
    {"/models/",                GET,  false, true,  answer_model,       NULL},
    {"/health",                 GET,  true,  false, answer_ready,       NULL},
    {"/healthz",                GET,  true,  false, answer_ready,       NULL},
    {"/readyz",                 GET,  true,  false, answer_ready,       NULL},
    {"/livez",                  GET,  true,  false, answer_live,        NULL},
    {"/ping",                   BOTH, true,  false, answer_ready,       NULL},
    {"/version",                GET,  false, false, answer_version,     NULL},
    {"/metrics",                GET,  false, false, answer_metrics,     NULL},
    {"/load",                   GET,  false, false, answer_load,        NULL},
    {"/reset_prefix_cache",     POST, false, true,  answer_cache_reset, NULL},
    {"/embeddings",             POST, false, false, answer_not_built,   NULL},
    {"/rerank",                 POST, false, false, answer_not_built,   NULL},
    {"/score",                  POST, false, false, answer_not_built,   NULL},
    {"/classify",               POST, false, false, answer_not_built,   NULL},
    {"/pooling",                POST, false, false, answer_not_built,   NULL},
    {"/moderations",            POST, false, false, answer_not_built,   NULL},
    {"/responses",              POST, false, false, answer_not_built,   NULL},
    {"/messages",               POST, false, false, answer_not_built,   NULL},
    {"/audio/transcriptions",   POST, false, false, answer_not_built,   NULL},
    {"/audio/translations",     POST, false, false, answer_not_built,   NULL},
    {"/audio/speech",           POST, false, false, answer_not_built,   NULL},
    {"/images/generations",     POST, false, false, answer_not_built,   NULL},
    {"(unknown)",               BOTH, false, false, answer_unknown,     NULL},
};

static const char *skip_prefix(const char *path, const char *prefix)
{
    size_t bytes = strlen(prefix);
    while (bytes > 0 && prefix[bytes - 1] == '/') bytes--;
    if (bytes == 0 || strncmp(path, prefix, bytes) != 0) return path;
    return path[bytes] == '/' ? path + bytes : path;
}

const agl_route *agl_route_find(agl_exchange *exchange)
{
    const char *root = exchange->server->options.root_path;
    const char *path = exchange->url;
    if (root != NULL) path = skip_prefix(path, root);
    path = skip_prefix(path, "/v1");
    size_t path_bytes = strlen(path);
    while (path_bytes > 1 && path[path_bytes - 1] == '/') path_bytes--;

    size_t last = AGL_COUNT(ROUTES) - 1;
    for (size_t i = 0; i < last; i++) {
        size_t bytes = strlen(ROUTES[i].path);
        if (strncmp(path, ROUTES[i].path, bytes) != 0) continue;
        bool takes_tail = ROUTES[i].path[bytes - 1] == '/';
        if (takes_tail ? path_bytes > bytes : path_bytes == bytes) {
            exchange->tail = path + bytes;
            return &ROUTES[i];
        }
    }
    return &ROUTES[last];
}

size_t agl_route_index(const agl_route *route)
{
    return (size_t)(route - ROUTES);
}

const char *agl_route_name(size_t index)
{
    return index < AGL_COUNT(ROUTES) ? ROUTES[index].path : NULL;
}
