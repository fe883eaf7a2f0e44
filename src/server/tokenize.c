/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenize.c - /tokenize, /detokenize and /apply-template. */
#include <string.h>

#include "server/sampling_fields.h"
#include "server/server_state.h"

#define ARENA_BYTES_MAX ((size_t)512 << 20)
#define TOKENS_MAX (1 << 20)

/* One request of this file while it runs. */
typedef struct {
    agl_exchange *exchange;
    agl_engine *engine;
    agl_arena arena;
    agl_fields fields;
} token_work;

static agl_status check_model(token_work *work)
{
    const char *model = NULL;
    AGL_TRY(agl_field_text(&work->fields, "model", &model));
    if (model == NULL || model[0] == '\0') return AGL_OK;
    return agl_server_check_model(work->exchange->server, model, work->fields.err);
}

static agl_status prompt_tokens(token_work *work, int32_t **tokens, size_t *count)
{
    /* vLLM's, llama.cpp's, TGI's, SGLang's. */
    static const char *const KEYS[] = {"prompt", "content", "inputs", "text"};
    agl_exchange *exchange = work->exchange;
    struct json_object *prompt = NULL;
    for (size_t i = 0; i < AGL_COUNT(KEYS) && prompt == NULL; i++) {
        prompt = agl_json_member(work->fields.object, KEYS[i]);
    }
    if (!json_object_is_type(prompt, json_type_string)) {
        return agl_api_fail(work->fields.err, AGL_ERR_FORMAT, "prompt", "prompt or messages: Field required");
    }
    bool add_special = true;
    AGL_TRY(agl_field_bool(&work->fields, "add_special_tokens", &add_special));
    agl_status status = agl_tokenize(work->engine, json_object_get_string(prompt),
                                     (size_t)json_object_get_string_len(prompt), add_special, tokens, count,
                                     &exchange->err.detail);
    return status == AGL_OK ? AGL_OK : agl_api_fail_detail(work->fields.err, status, "prompt");
}

static agl_status chat_tokens(token_work *work, int32_t **tokens, size_t *count)
{
    agl_call call = {.is_chat = true};
    AGL_TRY(agl_messages_parse(&call, &work->fields, &work->exchange->server->defaults));
    agl_status status = agl_tokenize_chat(work->engine, call.options.messages, call.options.message_count,
                                          &call.options.chat, tokens, count, &work->exchange->err.detail);
    return status == AGL_OK ? AGL_OK : agl_api_fail_detail(work->fields.err, status, "messages");
}

static agl_status tokenize(token_work *work)
{
    int32_t *tokens = NULL;
    size_t count = 0;
    bool with_text = false;
    AGL_TRY(agl_field_bool(&work->fields, "return_token_strs", &with_text));
    AGL_TRY(agl_field_present(&work->fields, "messages") ? chat_tokens(work, &tokens, &count)
                                                         : prompt_tokens(work, &tokens, &count));
    agl_buffer *out = &work->exchange->answer;
    agl_buffer_append_format(out, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", count,
                             agl_engine_model_info(work->engine).max_model_len);
    for (size_t i = 0; i < count; i++) agl_buffer_append_format(out, i == 0 ? "%d" : ",%d", tokens[i]);
    agl_buffer_append_text(out, "],\"token_strs\":");
    for (size_t i = 0; with_text && i < count; i++) {
        size_t bytes = 0;
        const char *text = agl_token_bytes(work->engine, tokens[i], &bytes);
        agl_buffer_append_text(out, i == 0 ? "[\"" : ",\"");
        if (text != NULL) agl_buffer_append_json(out, text, bytes);
        agl_buffer_append_char(out, '"');
    }
    agl_buffer_append_text(out, !with_text ? "null}" : count == 0 ? "[]}" : "]}");
    agl_free(tokens);
    return AGL_OK;
}

static agl_status append_text(token_work *work, const int32_t *tokens, size_t count)
{
    char *text = NULL;
    size_t bytes = 0;
    agl_status status = agl_detokenize(work->engine, tokens, count, &text, &bytes, &work->exchange->err.detail);
    if (status != AGL_OK) return agl_api_fail_detail(work->fields.err, status, "tokens");
    agl_buffer_append_text(&work->exchange->answer, "{\"prompt\":\"");
    agl_buffer_append_json(&work->exchange->answer, text, bytes);
    agl_buffer_append_text(&work->exchange->answer, "\"}");
    agl_free(text);
    return AGL_OK;
}

static agl_status detokenize(token_work *work)
{
    const int32_t *tokens = NULL;
    size_t count = 0;
    AGL_TRY(agl_field_integers(&work->fields, "tokens", TOKENS_MAX, (agl_integer_range){0, INT32_MAX}, &tokens,
                               &count));
    if (tokens == NULL) return agl_api_fail(work->fields.err, AGL_ERR_FORMAT, "tokens", "tokens: Field required");
    return append_text(work, tokens, count);
}

static agl_status apply_template(token_work *work)
{
    int32_t *tokens = NULL;
    size_t count = 0;
    AGL_TRY(chat_tokens(work, &tokens, &count));
    agl_status status = append_text(work, tokens, count);
    agl_free(tokens);
    return status;
}

static void run(agl_exchange *exchange, agl_status (*handle)(token_work *work))
{
    token_work work = {.exchange = exchange};
    agl_arena_init(&work.arena, ARENA_BYTES_MAX);
    struct json_object *body = NULL;
    agl_status status = agl_json_parse(&body, exchange->body.data != NULL ? exchange->body.data : "",
                                       exchange->body.bytes, "request body", &exchange->err.detail);
    work.fields = (agl_fields){.object = body, .arena = &work.arena, .err = &exchange->err};
    if (status != AGL_OK) {
        agl_api_fail_detail(&exchange->err, status, NULL);
    } else if (!json_object_is_type(body, json_type_object)) {
        status = agl_api_fail(&exchange->err, AGL_ERR_FORMAT, NULL, "request body: a JSON object is expected");
    } else {
        work.engine = atomic_load(&exchange->server->engine); /* checked with the route */
        status = check_model(&work);
        if (status == AGL_OK) status = handle(&work);
    }
    exchange->http_status = 200;
    if (status != AGL_OK) agl_exchange_fail(exchange);
    json_object_put(body);
    agl_arena_deinit(&work.arena);
}

void agl_work_tokenize(agl_exchange *exchange)
{
    run(exchange, tokenize);
}

void agl_work_detokenize(agl_exchange *exchange)
{
    run(exchange, detokenize);
}

void agl_work_apply_template(agl_exchange *exchange)
{
    run(exchange, apply_template);
}
