/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/workload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/buffer.h"
#include "base/file_map.h"
#include "base/json.h"
#include "base/random.h"

#define FILE_BYTES_MAX ((size_t)1 << 30)

/* What one agent has said so far; grows by a step at each turn. */
typedef struct {
    agl_buffer history;         /* JSON of the past messages, each followed by a comma */
} conversation;

struct agl_workload {
    agl_workload_options options;
    size_t sessions, turns;
    uint32_t salt;
    char *extra;                /* inside of extra_body without braces, with a leading comma */
    conversation *conversations;/* agent: [sessions] */
    char **screens; /* [sessions * turns] base64 of PNG files, drawn before the clock starts */
    char *file;                 /* jsonl */
    const char **lines;
    size_t *line_bytes;
    size_t line_count;
};

static uint64_t mix(uint64_t seed, uint64_t a, uint64_t b)
{
    return agl_random_mix(seed + AGL_RANDOM_STEP * (a + 1) + 0xd1b54a32d192ed03u * (b + 1));
}

static uint32_t below(uint64_t *state, uint32_t limit)
{
    *state = mix(*state, 0, 0);
    return (uint32_t)((*state >> 32) * limit >> 32);
}

static uint32_t length_of(const agl_workload *w, uint32_t tokens, uint64_t *state)
{
    uint32_t spread = (uint32_t)(tokens * w->options.range_ratio);
    uint32_t length = tokens - spread + (spread > 0 ? below(state, 2 * spread + 1) : 0);
    return length > 0 ? length : 1;
}

static void append_salt(agl_buffer *body, const agl_workload *w)
{
    if (w->salt != 0) agl_buffer_append_format(body, ",\"cache_salt\":\"bench-%u\"", w->salt);
}

/* Fields every body ends with. */
static void append_end(agl_buffer *body, const agl_workload *w, uint32_t output_tokens, bool chat)
{
    const agl_workload_options *o = &w->options;
    agl_buffer_append_format(body, ",\"model\":\"");
    agl_buffer_append_json(body, o->model, strlen(o->model));
    agl_buffer_append_format(body, "\",\"%s\":%u,\"temperature\":%g",
                             chat ? "max_completion_tokens" : "max_tokens", output_tokens,
                             o->temperature);
    if (o->ignore_eos) agl_buffer_append_text(body, ",\"ignore_eos\":true");
    if (o->stream) {
        agl_buffer_append_text(body,
                               ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    }
    append_salt(body, w);
    agl_buffer_append_text(body, w->extra);
    agl_buffer_append_char(body, '}');
}

static void append_words(agl_buffer *body, uint32_t words, uint64_t *state)
{
    static const char *const WORDS[] = {"open", "phone", "list", "tap", "message", "blue", "seven",
                                        "where", "quick", "window", "note", "call", "home", "music"};
    for (uint32_t i = 0; i < words; i++) {
        if (i > 0) agl_buffer_append_char(body, ' ');
        agl_buffer_append_text(body, WORDS[below(state, AGL_COUNT(WORDS))]);
    }
}

static void build_random(agl_buffer *body, const agl_workload *w, size_t session)
{
    const agl_workload_options *o = &w->options;
    uint64_t state = mix(o->seed, session, 1);
    uint32_t input = length_of(w, o->input_tokens, &state);
    uint32_t output = length_of(w, o->output_tokens, &state);
    if (o->completions) {
        agl_buffer_append_text(body, "{\"prompt\":[");
        for (uint32_t i = 0; i < input; i++) {
            agl_buffer_append_format(body, i > 0 ? ",%u" : "%u",
                                     o->token_first +
                                         below(&state, o->token_last - o->token_first));
        }
        agl_buffer_append_char(body, ']');
    } else {
        agl_buffer_append_text(body, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
        append_words(body, input, &state);
        agl_buffer_append_text(body, "\"}]");
    }
    append_end(body, w, output, !o->completions);
}

static void append_screen(agl_buffer *body, const agl_workload *w, size_t session, size_t turn)
{
    agl_buffer_append_text(
        body, "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,");
    agl_buffer_append_text(body, w->screens[session * w->turns + turn]);
    agl_buffer_append_text(body, "\"}}");
}

static void build_screen(agl_buffer *body, const agl_workload *w, size_t session)
{
    uint64_t state = mix(w->options.seed, session, 2);
    agl_buffer_append_text(body, "{\"messages\":[{\"role\":\"user\",\"content\":[");
    append_screen(body, w, session, 0);
    agl_buffer_append_text(body, ",{\"type\":\"text\",\"text\":\"");
    append_words(body, length_of(w, w->options.input_tokens, &state), &state);
    agl_buffer_append_text(body, "\"}]}]");
    append_end(body, w, w->options.output_tokens, true);
}

static void build_step(agl_buffer *body, agl_workload *w, size_t session, size_t turn,
                       const char *previous)
{
    agl_buffer *history = &w->conversations[session].history;
    char task[160];
    uint64_t state = mix(w->options.seed, session, 4);
    if (turn == 0) {
        /* The same system prompt for all, as every phone of one application sends it. */
        uint64_t shared = mix(w->options.seed, 0, 5);
        agl_buffer_clear(history);
        agl_buffer_append_text(history, "{\"role\":\"system\",\"content\":\"");
        append_words(history, w->options.input_tokens, &shared);
        agl_buffer_append_text(history, "\"},");
        snprintf(task, sizeof task, "task %u\\n\\n{\\\"current_app\\\": \\\"Home\\\"}",
                 below(&state, 1000000));
    } else {
        agl_buffer_append_text(history, "{\"role\":\"assistant\",\"content\":\"");
        agl_buffer_append_json(history, previous, strlen(previous));
        agl_buffer_append_text(history, "\"},");
        snprintf(task, sizeof task, "** Screen Info **\\n\\n{\\\"current_app\\\": \\\"App %zu\\\"}",
                 turn);
    }
    agl_buffer_append_text(body, "{\"messages\":[");
    agl_buffer_append(body, history->data, history->bytes);
    agl_buffer_append_text(body, "{\"role\":\"user\",\"content\":[");
    append_screen(body, w, session, turn);
    agl_buffer_append_format(body, ",{\"type\":\"text\",\"text\":\"%s\"}]}]", task);
    append_end(body, w, w->options.output_tokens, true);
    /* The picture leaves the history once its step is done. */
    agl_buffer_append_format(
        history, "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"%s\"}]},", task);
    if (history->failed) body->failed = true;
}

/* A line of the file, with our fields behind those it has: the last one counts in JSON parsers,
 * so the line's own max_tokens stay unless they are absent. */
static void build_line(agl_buffer *body, const agl_workload *w, size_t session)
{
    const char *line = w->lines[session];
    size_t bytes = w->line_bytes[session];
    agl_buffer_append_char(body, '{');
    agl_buffer_append_format(body, "\"max_tokens\":%u,\"temperature\":%g,\"model\":\"",
                             w->options.output_tokens, w->options.temperature);
    agl_buffer_append_json(body, w->options.model, strlen(w->options.model));
    agl_buffer_append_char(body, '"');
    if (w->options.stream) {
        agl_buffer_append_text(body,
                               ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    }
    if (w->options.ignore_eos) agl_buffer_append_text(body, ",\"ignore_eos\":true");
    append_salt(body, w);
    agl_buffer_append_text(body, w->extra);
    agl_buffer_append_char(body, ',');
    agl_buffer_append(body, line + 1, bytes - 1); /* the line opens with a brace */
}

char *agl_workload_build(void *user, size_t session, size_t turn, const char *previous)
{
    agl_workload *w = user;
    agl_buffer body;
    agl_buffer_init(&body, 0);
    switch (w->options.kind) {
    case AGL_WORKLOAD_RANDOM: build_random(&body, w, session); break;
    case AGL_WORKLOAD_SCREENS: build_screen(&body, w, session); break;
    case AGL_WORKLOAD_AGENT: build_step(&body, w, session, turn, previous); break;
    case AGL_WORKLOAD_JSONL: build_line(&body, w, session); break;
    }
    if (body.failed) {
        agl_buffer_deinit(&body);
        return NULL;
    }
    return agl_buffer_detach(&body, NULL);
}

/* ---- creation ----------------------------------------------------------- */

static agl_status read_lines(agl_workload *w, agl_error *err)
{
    size_t bytes;
    AGL_TRY(agl_file_read(&w->file, &bytes, w->options.path, FILE_BYTES_MAX, err));
    size_t capacity = 1;
    for (size_t i = 0; i < bytes; i++) capacity += w->file[i] == '\n';
    w->lines = calloc(capacity, sizeof *w->lines);
    w->line_bytes = calloc(capacity, sizeof *w->line_bytes);
    if (w->lines == NULL || w->line_bytes == NULL)
        return agl_fail(err, AGL_ERR_MEMORY, "no memory");
    size_t number = 0;
    for (char *line = w->file; line < w->file + bytes;) {
        char *end = memchr(line, '\n', (size_t)(w->file + bytes - line));
        size_t length = end != NULL ? (size_t)(end - line) : (size_t)(w->file + bytes - line);
        number++;
        while (length > 0 && strchr(" \t\r", line[length - 1]) != NULL) length--;
        while (length > 0 && strchr(" \t", *line) != NULL) line++, length--;
        if (length > 0) {
            char name[300];
            snprintf(name, sizeof name, "%.250s:%zu", w->options.path, number);
            struct json_object *object;
            AGL_TRY(agl_json_parse(&object, line, length, name, err));
            bool is_object = json_object_is_type(object, json_type_object)
                          && json_object_object_length(object) > 0;
            json_object_put(object);
            if (!is_object)
                return agl_fail(err, AGL_ERR_FORMAT, "%s: a request body (JSON object) expected",
                                name);
            w->lines[w->line_count] = line;
            w->line_bytes[w->line_count++] = length;
        }
        if (end == NULL) break;
        line = end + 1;
    }
    if (w->line_count == 0)
        return agl_fail(err, AGL_ERR_FORMAT, "%s: no requests in it", w->options.path);
    if (w->sessions > w->line_count) w->sessions = w->line_count;
    return AGL_OK;
}

static agl_status read_extra(agl_workload *w, agl_error *err)
{
    const char *text = w->options.extra_body;
    if (text == NULL) {
        w->extra = strdup("");
        return w->extra != NULL ? AGL_OK : AGL_ERR_MEMORY;
    }
    struct json_object *object;
    AGL_TRY(agl_json_parse(&object, text, strlen(text), "--extra-body", err));
    if (!json_object_is_type(object, json_type_object)) {
        json_object_put(object);
        return agl_fail(err, AGL_ERR_ARGUMENT, "--extra-body: a JSON object expected");
    }
    const char *plain = json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN);
    size_t bytes = strlen(plain);
    w->extra = calloc(1, bytes + 1);
    if (w->extra != NULL && bytes > 2) {
        w->extra[0] = ',';
        memcpy(w->extra + 1, plain + 1, bytes - 2);
    }
    json_object_put(object);
    return w->extra != NULL ? AGL_OK : AGL_ERR_MEMORY;
}

static agl_status draw_screens(agl_workload *w, agl_error *err)
{
    size_t count = w->sessions * w->turns;
    w->screens = calloc(count, sizeof *w->screens);
    if (w->screens == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for screens");
    for (size_t i = 0; i < count; i++) {
        unsigned char *png;
        size_t bytes;
        AGL_TRY(agl_screen_draw(&png, &bytes, w->options.image_width, w->options.image_height,
                                mix(w->options.seed, i, 3), err));
        w->screens[i] = malloc((bytes + 2) / 3 * 4 + 1);
        if (w->screens[i] != NULL) agl_base64_encode(w->screens[i], png, bytes);
        free(png);
        if (w->screens[i] == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for screens");
        if (w->options.progress != NULL)
            w->options.progress(w->options.progress_user, i + 1, count);
    }
    return AGL_OK;
}

agl_status agl_workload_create(agl_workload **out, const agl_workload_options *options,
                               agl_error *err)
{
    *out = NULL;
    agl_workload *w = calloc(1, sizeof *w);
    if (w == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a workload");
    *w = (agl_workload){.options = *options, .sessions = options->sessions,
                        .turns = options->kind == AGL_WORKLOAD_AGENT ? options->turns : 1};
    agl_status status = read_extra(w, err);
    if (status == AGL_OK && options->kind == AGL_WORKLOAD_JSONL) status = read_lines(w, err);
    if (status == AGL_OK &&
        (options->kind == AGL_WORKLOAD_SCREENS || options->kind == AGL_WORKLOAD_AGENT)) {
        status = draw_screens(w, err);
    }
    if (status == AGL_OK && options->kind == AGL_WORKLOAD_AGENT) {
        w->conversations = calloc(w->sessions, sizeof *w->conversations);
        if (w->conversations == NULL)
            status = agl_fail(err, AGL_ERR_MEMORY, "no memory for sessions");
    }
    if (status != AGL_OK) {
        agl_workload_destroy(w);
        return status;
    }
    *out = w;
    return AGL_OK;
}

void agl_workload_destroy(agl_workload *workload)
{
    if (workload == NULL) return;
    if (workload->conversations != NULL) {
        for (size_t i = 0; i < workload->sessions; i++)
            agl_buffer_deinit(&workload->conversations[i].history);
    }
    if (workload->screens != NULL) {
        for (size_t i = 0; i < workload->sessions * workload->turns; i++)
            free(workload->screens[i]);
    }
    free(workload->screens);
    free(workload->conversations);
    free(workload->extra);
    free(workload->file);
    free(workload->lines);
    free(workload->line_bytes);
    free(workload);
}

size_t agl_workload_sessions(const agl_workload *workload)
{
    return workload->sessions;
}

size_t agl_workload_turns(const agl_workload *workload)
{
    return workload->turns;
}

void agl_workload_salt(agl_workload *workload, uint32_t salt)
{
    workload->salt = salt;
}
