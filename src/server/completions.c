/* SPDX-License-Identifier: Apache-2.0
 *
 * completions.c - from the body of a chat or text completion to a running generation. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/server_state.h"

/* Decoded images, copies of strings, token lists. Bodies are bounded before. */
#define ARENA_BYTES_MAX ((size_t)512 << 20)

typedef agl_status (*parse_fn)(agl_call *call, agl_fields *fields, const agl_call_defaults *defaults);

/* "chatcmpl-<id>": the header's id, else the body's, else the one made up. */
static void make_id(char *id, size_t id_bytes, const agl_exchange *exchange, const agl_call *call)
{
    const char *base = exchange->id;
    bool given = MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, "X-Request-Id") != NULL;
    size_t bytes = call->request_id != NULL ? strlen(call->request_id) : 0;
    if (!given && bytes > 0 && bytes <= AGL_REQUEST_ID_MAX &&
        strspn(call->request_id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:") == bytes) {
        base = call->request_id;
    }
    snprintf(id, id_bytes, "%s-%s", call->is_chat ? "chatcmpl" : "cmpl", base);
}

static agl_status generate(agl_exchange *exchange, struct json_object *body, agl_arena *arena, parse_fn parse)
{
    agl_server *server = exchange->server;
    agl_engine *engine = atomic_load(&server->engine); /* checked with the route; draining spares what was accepted */
    agl_call call;
    agl_fields fields = {.object = body, .arena = arena, .err = &exchange->err};
    AGL_TRY(parse(&call, &fields, &server->defaults));
    bool named = call.model != NULL && call.model[0] != '\0';
    if (named) AGL_TRY(agl_server_check_model(server, call.model, &exchange->err));

    char id[AGL_REQUEST_ID_MAX + 16];
    make_id(id, sizeof id, exchange, &call);
    agl_generation_options options = {
        .engine = engine,
        .metrics = server->metrics,
        .id = id,
        .model = named ? call.model : agl_server_model_name(server),
        .deadline_ms = server->options.request_timeout_ms,
        .strict_max_model_len = server->options.strict_max_model_len,
        .notify = agl_exchange_notify,
        .notify_user = exchange,
    };
    agl_generation *generation;
    AGL_TRY(agl_generation_create(&generation, &call, &options, &exchange->err));
    if (server->options.log_requests) {
        agl_log_info("Received request %s: n=%u, max_tokens=%u, stream=%d, prompts=%zu", id, call.options.sampling.n,
                     call.options.sampling.max_tokens, call.stream, call.prompt_count);
    }
    pthread_mutex_lock(&exchange->mutex);
    exchange->is_stream = call.stream;
    exchange->generation = generation;
    pthread_mutex_unlock(&exchange->mutex);
    return AGL_OK;
}

static void run(agl_exchange *exchange, parse_fn parse)
{
    agl_metrics *metrics = exchange->server->metrics;
    uint64_t start_ns = agl_clock_ns();
    agl_arena arena;
    agl_arena_init(&arena, ARENA_BYTES_MAX);
    agl_metrics_upload(metrics, exchange->body.bytes);

    struct json_object *body = NULL;
    agl_status status = agl_json_parse(&body, exchange->body.data != NULL ? exchange->body.data : "",
                                       exchange->body.bytes, "request body", &exchange->err.detail);
    agl_buffer_deinit(&exchange->body); /* the parsed form holds it all */
    if (status != AGL_OK) {
        agl_api_fail_detail(&exchange->err, status, NULL);
    } else if (!json_object_is_type(body, json_type_object)) {
        status = agl_api_fail(&exchange->err, AGL_ERR_FORMAT, NULL, "request body: a JSON object is expected");
    } else {
        if (parse == NULL) { /* SageMaker's one path for both */
            parse = agl_json_member(body, "messages") != NULL ? agl_chat_request_parse : agl_completion_request_parse;
        }
        status = generate(exchange, body, &arena, parse);
    }
    if (status != AGL_OK) agl_exchange_fail(exchange);
    json_object_put(body);
    agl_arena_deinit(&arena);
    agl_metrics_parse(metrics, (double)(agl_clock_ns() - start_ns) * 1e-9);
}

void agl_work_chat(agl_exchange *exchange)
{
    run(exchange, agl_chat_request_parse);
}

void agl_work_completion(agl_exchange *exchange)
{
    run(exchange, agl_completion_request_parse);
}

void agl_work_invocation(agl_exchange *exchange)
{
    run(exchange, NULL);
}
