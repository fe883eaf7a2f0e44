/* SPDX-License-Identifier: Apache-2.0 */
#include "load/soak_response.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define ANSWER_BYTES_MAX ((size_t)64 << 20)

enum { IN_HEAD, IN_BODY, IN_CHUNK_SIZE, IN_CHUNK, IN_CHUNK_END, IN_LAST, AFTER };

void soak_response_init(soak_response *response)
{
    memset(response, 0, sizeof *response);
    agl_buffer_init(&response->raw, ANSWER_BYTES_MAX);
    agl_buffer_init(&response->body, ANSWER_BYTES_MAX);
    for (int i = 0; i < SOAK_CHOICES_MAX; i++) agl_buffer_init(&response->answer.choices[i].text, ANSWER_BYTES_MAX);
}

void soak_response_deinit(soak_response *response)
{
    agl_buffer_deinit(&response->raw);
    agl_buffer_deinit(&response->body);
    for (int i = 0; i < SOAK_CHOICES_MAX; i++) agl_buffer_deinit(&response->answer.choices[i].text);
}

void soak_response_clear(soak_response *response)
{
    soak_response_deinit(response);
    soak_response_init(response);
}

bool soak_fault(soak_response *response, const char *format, ...)
{
    va_list args;
    if (response->fault[0] != '\0') return false;
    va_start(args, format);
    vsnprintf(response->fault, sizeof response->fault, format, args);
    va_end(args);
    return false;
}

/* ---- JSON -------------------------------------------------------------- */

static struct json_object *member(struct json_object *object, const char *key)
{
    struct json_object *value = NULL;
    json_object_object_get_ex(object, key, &value);
    return value;
}

static void read_usage(soak_answer *answer, struct json_object *usage)
{
    if (usage == NULL) return;
    answer->usage_seen = true;
    answer->prompt_tokens = (uint32_t)json_object_get_int(member(usage, "prompt_tokens"));
    answer->completion_tokens = (uint32_t)json_object_get_int(member(usage, "completion_tokens"));
    answer->cached_tokens =
        (uint32_t)json_object_get_int(member(member(usage, "prompt_tokens_details"), "cached_tokens"));
}

/* One choice of a chunk or of a whole answer. */
static bool read_choice(soak_response *response, struct json_object *from)
{
    int64_t index = json_object_get_int64(member(from, "index"));
    if (index < 0 || index >= SOAK_CHOICES_MAX) return soak_fault(response, "choice index %lld", (long long)index);
    soak_choice *choice = &response->answer.choices[index];
    if (choice->finish[0] != '\0') return soak_fault(response, "text after finish_reason %s", choice->finish);
    struct json_object *message = member(from, response->stream ? "delta" : "message");
    struct json_object *text = message != NULL ? member(message, "content") : member(from, "text");
    if (text != NULL) {
        agl_buffer_append(&choice->text, json_object_get_string(text), (size_t)json_object_get_string_len(text));
    }
    struct json_object *ids = member(from, "token_ids");
    if (ids != NULL) choice->tokens += (uint32_t)json_object_array_length(ids);
    struct json_object *finish = member(from, "finish_reason");
    if (finish != NULL) snprintf(choice->finish, sizeof choice->finish, "%s", json_object_get_string(finish));
    return true;
}

static bool read_object(soak_response *response, const char *text, size_t bytes)
{
    struct json_tokener *tokener = json_tokener_new();
    struct json_object *object = json_tokener_parse_ex(tokener, text, (int)bytes);
    bool whole = object != NULL && json_tokener_get_parse_end(tokener) == bytes;
    json_tokener_free(tokener);
    if (!whole) {
        json_object_put(object);
        return soak_fault(response, "not JSON: %.120s", text);
    }
    bool good = true;
    struct json_object *choices = member(object, "choices"), *error = member(object, "error");
    size_t count = choices != NULL ? json_object_array_length(choices) : 0;
    for (size_t i = 0; good && i < count; i++) good = read_choice(response, json_object_array_get_idx(choices, i));
    if (count > 0) response->token_events++;
    read_usage(&response->answer, member(object, "usage"));
    if (error != NULL) {
        const char *message = json_object_get_string(member(error, "message"));
        if (message == NULL || message[0] == '\0') good = soak_fault(response, "an error without a message");
        response->answer.error_event = true;
    }
    json_object_put(object);
    return good;
}

/* ---- events ------------------------------------------------------------ */

static bool read_event(soak_response *response, const char *event, size_t bytes)
{
    if (event[0] == ':') return true; /* a sign of life */
    if (response->answer.done) return soak_fault(response, "an event after [DONE]: %.*s", (int)bytes, event);
    if (bytes < 6 || memcmp(event, "data: ", 6) != 0) return soak_fault(response, "no event: %.*s", (int)bytes, event);
    if (memchr(event, '\n', bytes) != NULL) return soak_fault(response, "an event of two lines: %.*s", (int)bytes, event);
    if (bytes == 12 && memcmp(event + 6, "[DONE]", 6) == 0) {
        response->answer.done = true;
        return true;
    }
    return read_object(response, event + 6, bytes - 6);
}

static bool read_events(soak_response *response)
{
    size_t used = 0;
    bool good = true;
    agl_buffer *body = &response->body;
    while (good && used < body->bytes) {
        const char *event = body->data + used;
        char *end = memmem(event, body->bytes - used, "\n\n", 2);
        if (end == NULL) break;
        *end = '\0';
        good = read_event(response, event, (size_t)(end - event));
        used = (size_t)(end - body->data) + 2;
    }
    agl_buffer_consume(body, used);
    return good;
}

static bool finish(soak_response *response)
{
    response->complete = true;
    response->state = AFTER;
    if (!response->stream) return read_object(response, response->body.data ? response->body.data : "", response->body.bytes);
    if (response->body.bytes > 0) return soak_fault(response, "half an event at the end: %.100s", response->body.data);
    if (!response->answer.done) return soak_fault(response, "the stream ended without [DONE]");
    return true;
}

/* ---- HTTP -------------------------------------------------------------- */

static const char *header_value(const char *head, const char *name)
{
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n")) {
        size_t bytes = strlen(name);
        if (strncasecmp(line + 2, name, bytes) == 0 && line[2 + bytes] == ':') return line + 3 + bytes + strspn(line + 3 + bytes, " ");
    }
    return NULL;
}

static bool is_value(const char *head, const char *name, const char *value)
{
    const char *found = header_value(head, name);
    return found != NULL && strncasecmp(found, value, strlen(value)) == 0;
}

/* `head` ends in CRLF and NUL. */
static bool read_head(soak_response *response, const char *head)
{
    if (sscanf(head, "HTTP/1.1 %3d ", &response->status) != 1) return soak_fault(response, "no status line: %.60s", head);
    response->keep_alive = !is_value(head, "Connection", "close");
    response->chunked = is_value(head, "Transfer-Encoding", "chunked");
    response->stream = is_value(head, "Content-Type", "text/event-stream");
    bool json = is_value(head, "Content-Type", "application/json");
    const char *length = header_value(head, "Content-Length");
    if (response->status == 429 || response->status == 503) {
        if (header_value(head, "Retry-After") == NULL) return soak_fault(response, "%d without Retry-After", response->status);
    }
    if (json && header_value(head, "X-Request-Id") == NULL) return soak_fault(response, "no X-Request-Id");
    if (response->chunked) response->state = IN_CHUNK_SIZE;
    else if (length != NULL) response->state = IN_BODY;
    else return soak_fault(response, "neither chunked nor a length");
    response->left = length != NULL ? strtoull(length, NULL, 10) : 0;
    /* Answers that libmicrohttpd gives by itself (431 and 400) are a page of HTML. */
    if (!json && !response->stream && response->status < 400) return soak_fault(response, "a strange content type");
    return true;
}

static void take_body(soak_response *response)
{
    size_t bytes = response->raw.bytes < response->left ? response->raw.bytes : (size_t)response->left;
    agl_buffer_append(&response->body, response->raw.data, bytes);
    agl_buffer_consume(&response->raw, bytes);
    response->left -= bytes;
}

static bool take_head(soak_response *response, bool *more)
{
    char *end = response->raw.bytes > 0 ? memmem(response->raw.data, response->raw.bytes, "\r\n\r\n", 4) : NULL;
    *more = end != NULL;
    if (end == NULL) return true;
    end[2] = '\0';
    bool good = read_head(response, response->raw.data);
    agl_buffer_consume(&response->raw, (size_t)(end - response->raw.data) + 4);
    return good;
}

static bool read_chunk_size(soak_response *response, bool *more)
{
    char *end = response->raw.bytes > 0 ? memmem(response->raw.data, response->raw.bytes, "\r\n", 2) : NULL;
    *more = end != NULL;
    if (end == NULL) return true;
    char *stop;
    response->left = strtoull(response->raw.data, &stop, 16);
    if (stop == response->raw.data || stop != end) return soak_fault(response, "a bad chunk size");
    agl_buffer_consume(&response->raw, (size_t)(end - response->raw.data) + 2);
    response->state = response->left > 0 ? IN_CHUNK : IN_LAST;
    return true;
}

static bool expect_crlf(soak_response *response, int next, bool *more)
{
    *more = response->raw.bytes >= 2;
    if (!*more) return true;
    if (memcmp(response->raw.data, "\r\n", 2) != 0) return soak_fault(response, "a chunk is longer than announced");
    agl_buffer_consume(&response->raw, 2);
    response->state = next;
    return true;
}

static bool finish_refusal(soak_response *response)
{
    const char *body = response->body.data != NULL ? response->body.data : "";
    response->complete = true;
    response->state = AFTER;
    return body[0] != '{' || read_object(response, body, response->body.bytes);
}

static bool take_data(soak_response *response, bool *more)
{
    take_body(response);
    *more = response->left == 0;
    if (response->stream && !read_events(response)) return false;
    if (response->left > 0) return true;
    if (response->state == IN_BODY) return response->status >= 400 ? finish_refusal(response) : finish(response);
    response->state = IN_CHUNK_END;
    return true;
}

/* One move of the machine; *more: try again. */
static bool step(soak_response *response, bool *more)
{
    switch (response->state) {
    case IN_HEAD: return take_head(response, more);
    case IN_BODY:
    case IN_CHUNK: return take_data(response, more);
    case IN_CHUNK_SIZE: return read_chunk_size(response, more);
    case IN_CHUNK_END: return expect_crlf(response, IN_CHUNK_SIZE, more);
    case IN_LAST:
        if (!expect_crlf(response, AFTER, more)) return false;
        return !*more || finish(response);
    default:
        *more = false;
        return response->raw.bytes == 0 || soak_fault(response, "bytes after the answer");
    }
}

bool soak_response_feed(soak_response *response, const char *data, size_t bytes)
{
    bool more = true, good = true;
    response->bytes += bytes;
    agl_buffer_append(&response->raw, data, bytes);
    while (good && more) good = step(response, &more);
    if (response->raw.failed || response->body.failed) return soak_fault(response, "an answer over %zu bytes", ANSWER_BYTES_MAX);
    return good;
}

bool soak_response_closed(soak_response *response)
{
    if (response->complete) return true;
    if (response->status == 0 && response->bytes == 0) return soak_fault(response, "closed without an answer");
    return soak_fault(response, "closed in the middle of an answer (status %d, %llu bytes)", response->status,
                      (unsigned long long)response->bytes);
}
