/* SPDX-License-Identifier: Apache-2.0 */
#include "unit/server/fake_engine.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/status.h"

#define TOKENS_MAX 65536
#define WINDOW 4096

static test_fake_state STATE;

test_fake_state *test_fake(void)
{
    return &STATE;
}

struct agl_request {
    agl_engine *engine;
    agl_request *next;              /* in the engine's list */
    pthread_mutex_t mutex;
    pthread_cond_t news;
    void (*notify)(void *user);
    void *notify_user;
    agl_sampling sampling;
    int32_t *prompt;
    size_t prompt_count;
    int32_t *script;                /* tokens to say */
    size_t script_count;
    size_t produced, read;          /* tokens of each choice */
    uint32_t read_choice;
    long error_after;               /* -1: never; so the next two */
    long abort_after;
    long hold_after;
    long stop_token;                /* of the last event; -1: none */
    uint64_t next_ns;
    uint64_t delay_ns, start_ns;
    bool cancelled, prompt_sent, error_sent, done_sent;
    char text[64];
    size_t held;                    /* bytes of an unfinished character, per single choice */
    char partial[8];
    agl_token_event *events;
    agl_token_logprob top[20];
};

struct agl_engine {
    pthread_mutex_t mutex;
    pthread_t thread;
    bool stopping;
    agl_request *requests;
    uint64_t generated;
};

static const char *const SPECIAL[] = {"<think>", "</think>", "<answer>"};

/* ---- engine ---------------------------------------------------------- */

static bool reached(size_t tokens, long limit)
{
    return limit >= 0 && tokens >= (size_t)limit;
}

static bool step(agl_request *request, uint64_t now_ns)
{
    pthread_mutex_lock(&request->mutex);
    bool ended = request->cancelled || request->produced == request->script_count ||
                 reached(request->produced, request->error_after) || reached(request->produced, request->abort_after);
    bool waits = now_ns < request->next_ns ||
                 (reached(request->produced, request->hold_after) && atomic_load(&STATE.held));
    bool news = !ended && !waits;
    if (news) {
        request->produced++;
        request->next_ns = now_ns + request->delay_ns;
        pthread_cond_broadcast(&request->news);
    }
    pthread_mutex_unlock(&request->mutex);
    if (news && request->notify != NULL) request->notify(request->notify_user);
    return news;
}

static void *run(void *argument)
{
    agl_engine *engine = argument;
    for (;;) {
        pthread_mutex_lock(&engine->mutex);
        bool stopping = engine->stopping, news = false;
        for (agl_request *each = engine->requests; each != NULL; each = each->next) {
            news = step(each, agl_clock_ns()) || news;
        }
        engine->generated += news;
        pthread_mutex_unlock(&engine->mutex);
        if (stopping) return NULL;
        nanosleep(&(struct timespec){.tv_nsec = news ? 20000 : 500000}, NULL);
    }
}

agl_status agl_engine_create(agl_engine **out, const agl_engine_options *options, agl_error *err)
{
    (void)options;
    agl_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) return agl_fail(err, AGL_ERR_MEMORY, "fake engine");
    pthread_mutex_init(&engine->mutex, NULL);
    pthread_create(&engine->thread, NULL, run, engine);
    *out = engine;
    return AGL_OK;
}

void agl_engine_destroy(agl_engine *engine)
{
    if (engine == NULL) return;
    pthread_mutex_lock(&engine->mutex);
    engine->stopping = true;
    pthread_mutex_unlock(&engine->mutex);
    pthread_join(engine->thread, NULL);
    pthread_mutex_destroy(&engine->mutex);
    free(engine);
}

agl_model_info agl_engine_model_info(const agl_engine *engine)
{
    (void)engine;
    return (agl_model_info){.root = "fake/model", .architecture = "Fake", .template_family = "none", .dtype = "none",
                            .device = "none", .max_model_len = WINDOW, .vocab = 259, .end_token = 258,
                            .has_vision = true};
}

agl_engine_stats agl_engine_stats_get(agl_engine *engine)
{
    (void)engine;
    return (agl_engine_stats){.running = (uint32_t)atomic_load(&STATE.live), .kv_pages = 100, .kv_pages_free = 75,
                              .kv_page_tokens = 16, .stalled = atomic_load(&STATE.stalled)};
}

void agl_engine_cache_reset(agl_engine *engine)
{
    (void)engine;
}

agl_status agl_checkpoint_inspect(const char *model, char **json, agl_error *err)
{
    *json = NULL;
    return agl_fail(err, AGL_ERR_NOT_FOUND, "%s", model);
}

/* ---- requests -------------------------------------------------------- */

void agl_sampling_init(agl_sampling *sampling)
{
    *sampling = (agl_sampling){.temperature = NAN, .top_p = NAN, .min_p = NAN, .repetition_penalty = NAN,
                               .top_k = INT32_MIN, .n = 1, .logprobs = -1, .prompt_logprobs = -1};
}

static long directive(const char *text, const char *key, long otherwise)
{
    char open[32];
    snprintf(open, sizeof open, "[%s=", key);
    const char *found = strstr(text, open);
    return found != NULL ? strtol(found + strlen(open), NULL, 10) : otherwise;
}

/* `text` as tokens; tags are one token each. */
static size_t to_tokens(int32_t *tokens, const char *text, size_t bytes)
{
    size_t count = 0;
    for (size_t i = 0; i < bytes && count < TOKENS_MAX;) {
        size_t tag = 0;
        while (tag < AGL_COUNT(SPECIAL) && (bytes - i < strlen(SPECIAL[tag]) ||
                                            memcmp(text + i, SPECIAL[tag], strlen(SPECIAL[tag])) != 0)) {
            tag++;
        }
        tokens[count++] = tag < AGL_COUNT(SPECIAL) ? 256 + (int32_t)tag : (unsigned char)text[i];
        i += tag < AGL_COUNT(SPECIAL) ? strlen(SPECIAL[tag]) : 1;
    }
    return count;
}

static void render(char *out, size_t out_bytes, const agl_request_options *options)
{
    size_t used = 0;
    out[0] = '\0';
    if (options->text != NULL) snprintf(out, out_bytes, "%.*s", (int)options->text_bytes, options->text);
    for (size_t i = 0; i < options->message_count; i++) {
        const agl_message *message = &options->messages[i];
        used += (size_t)snprintf(out + used, out_bytes - used, "%s:", message->role);
        for (size_t p = 0; p < message->part_count && used < out_bytes; p++) {
            const agl_part *part = &message->parts[p];
            used += part->kind == AGL_PART_IMAGE
                        ? (size_t)snprintf(out + used, out_bytes - used, "<image %zu bytes>", part->bytes)
                        : (size_t)snprintf(out + used, out_bytes - used, "%.*s", (int)part->bytes,
                                           (const char *)part->data);
        }
        if (used >= out_bytes) return;
        used += (size_t)snprintf(out + used, out_bytes - used, "\n");
        if (used >= out_bytes) return;
    }
}

static void write_script(agl_request *request, const char *text)
{
    const char *say = strstr(text, "[say:");
    long count = directive(text, "count", -1);
    if (say != NULL) {
        const char *end = strrchr(say, ']');
        size_t bytes = end != NULL ? (size_t)(end - say - 5) : strlen(say + 5);
        request->script_count = to_tokens(request->script, say + 5, bytes);
    } else if (count >= 0) {
        request->script_count = count < TOKENS_MAX ? (size_t)count : TOKENS_MAX;
        for (size_t i = 0; i < request->script_count; i++) request->script[i] = 'x';
    } else {
        request->script_count = to_tokens(request->script, text, strlen(text));
    }
    uint32_t most = request->sampling.max_tokens;
    if (most != 0 && request->script_count > most) request->script_count = most;
}

agl_status agl_request_submit(agl_request **out, agl_engine *engine, const agl_request_options *options, agl_error *err)
{
    char text[sizeof STATE.prompt];
    render(text, sizeof text, options);
    long status = directive(text, "status", 0), wait_ms = directive(text, "submit", 0);
    nanosleep(&(struct timespec){.tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1000000}, NULL);
    *out = NULL;
    if (status > 0 && status < AGL_STATUS_COUNT) return agl_fail(err, (agl_status)status, "fake status %ld", status);

    agl_request *request = calloc(1, sizeof *request);
    if (request == NULL) return agl_fail(err, AGL_ERR_MEMORY, "fake request");
    request->engine = engine;
    request->notify = options->notify;
    request->notify_user = options->notify_user;
    request->sampling = options->sampling;
    request->prompt = calloc(TOKENS_MAX, sizeof *request->prompt);
    request->script = calloc(TOKENS_MAX, sizeof *request->script);
    request->events = calloc(TOKENS_MAX, sizeof *request->events);
    request->prompt_count = to_tokens(request->prompt, text, strlen(text));
    if (options->tokens != NULL) {
        request->prompt_count = options->token_count;
        memcpy(request->prompt, options->tokens, options->token_count * sizeof *request->prompt);
    }
    write_script(request, text);
    request->error_after = directive(text, "error", -1);
    request->abort_after = directive(text, "abort", -1);
    request->hold_after = directive(text, "hold", -1);
    request->stop_token = directive(text, "stop", -1);
    request->start_ns = agl_clock_ns();
    request->delay_ns = (uint64_t)directive(text, "delay", 0) * 1000000u;
    request->next_ns = request->start_ns + (uint64_t)directive(text, "first", 0) * 1000000u;
    pthread_mutex_init(&request->mutex, NULL);
    pthread_cond_init(&request->news, NULL);

    pthread_mutex_lock(&engine->mutex);
    STATE.sampling = options->sampling;
    STATE.chat = options->chat;
    STATE.max_pixels = options->max_pixels;
    memcpy(STATE.prompt, text, sizeof text);
    request->next = engine->requests;
    engine->requests = request;
    pthread_mutex_unlock(&engine->mutex);
    atomic_fetch_add(&STATE.submitted, 1);
    atomic_fetch_add(&STATE.live, 1);
    *out = request;
    return AGL_OK;
}

const int32_t *agl_request_prompt(const agl_request *request, size_t *count)
{
    *count = request->prompt_count;
    return request->prompt;
}

static agl_token_event token_event(agl_request *request, int32_t token, int32_t alternatives)
{
    for (int32_t i = 0; i < alternatives && i < 20; i++) {
        request->top[i] = (agl_token_logprob){.token = token + i, .logprob = -0.5f * (float)(i + 1), .rank = i + 1};
    }
    return (agl_token_event){.chosen = {.token = token, .logprob = -0.5f, .rank = 1}, .top = request->top,
                             .top_count = alternatives > 0 ? (size_t)alternatives : 0};
}

static void fill_usage(const agl_request *request, agl_usage *usage)
{
    double total_s = (double)(agl_clock_ns() - request->start_ns) * 1e-9;
    *usage = (agl_usage){.prompt_tokens = (uint32_t)request->prompt_count, .cached_tokens = 2,
                         .completion_tokens = (uint32_t)request->read * request->sampling.n,
                         .ttft_s = total_s / 2, .total_s = total_s, .decode_s = total_s / 2};
}

/* One token of one choice; choices take turns. */
static void next_token(agl_request *request, agl_event *event)
{
    int32_t token = request->script[request->read];
    bool last_choice = request->read_choice + 1 == request->sampling.n;
    event->kind = request->read + 1 == request->script_count ? AGL_EVENT_FINISH : AGL_EVENT_TEXT;
    event->choice = request->read_choice;
    event->finish = event->kind == AGL_EVENT_FINISH ? AGL_FINISH_STOP : AGL_FINISH_NONE;
    if (event->finish == AGL_FINISH_STOP && request->sampling.max_tokens == request->script_count) {
        event->finish = AGL_FINISH_LENGTH;
    }
    event->stop_token = event->finish == AGL_FINISH_STOP ? (int32_t)request->stop_token : -1;
    size_t bytes = 0;
    const char *text = agl_token_bytes(request->engine, token, &bytes);
    /* Whole characters only, as the real engine promises. */
    if (last_choice || request->held == 0) {
        memcpy(request->partial + request->held, text, bytes < 8 - request->held ? bytes : 0);
        memcpy(request->text, request->partial, request->held);
        memcpy(request->text + request->held, text, bytes);
        size_t whole = request->held + bytes;
        unsigned char lead = (unsigned char)request->text[0];
        size_t wanted = bytes > 1 || lead < 0x80 ? whole : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
        event->text = request->text;
        event->text_bytes = whole >= wanted ? whole : 0;
        request->held = event->text_bytes > 0 ? 0 : whole;
    }
    request->events[0] = token_event(request, token, request->sampling.logprobs);
    event->tokens = request->events;
    event->token_count = 1;
    request->read_choice = last_choice ? 0 : request->read_choice + 1;
    if (last_choice) request->read++;
}

static bool poll_event(agl_request *request, agl_event *event)
{
    event->stop_token = -1;
    if (!request->prompt_sent && request->sampling.prompt_logprobs >= 0) {
        request->prompt_sent = true;
        event->kind = AGL_EVENT_PROMPT;
        for (size_t i = 0; i < request->prompt_count; i++) {
            request->events[i] = token_event(request, request->prompt[i], request->sampling.prompt_logprobs);
        }
        event->tokens = request->events;
        event->token_count = request->prompt_count;
    } else if ((request->cancelled || reached(request->read, request->abort_after)) && !request->error_sent &&
               request->read < request->script_count) {
        request->error_sent = true;
        event->kind = AGL_EVENT_FINISH;
        event->finish = AGL_FINISH_ABORT;
    } else if (reached(request->read, request->error_after) && !request->error_sent) {
        request->error_sent = true;
        event->kind = AGL_EVENT_ERROR;
        event->status = AGL_ERR_DEVICE;
        event->message = "fake device failure";
    } else if (!request->error_sent && request->read < request->produced) {
        next_token(request, event);
    } else if ((request->error_sent || request->read == request->script_count) && !request->done_sent) {
        request->done_sent = true;
        event->kind = AGL_EVENT_DONE;
    } else {
        return false;
    }
    return true;
}

void agl_request_next(agl_request *request, int timeout_ms, agl_event *event)
{
    (void)timeout_ms; /* the server only polls */
    *event = (agl_event){.kind = AGL_EVENT_NONE};
    pthread_mutex_lock(&request->mutex);
    poll_event(request, event);
    fill_usage(request, &event->usage);
    pthread_mutex_unlock(&request->mutex);
}

void agl_request_cancel(agl_request *request)
{
    pthread_mutex_lock(&request->mutex);
    if (!request->cancelled && !request->done_sent) atomic_fetch_add(&STATE.cancelled, 1);
    request->cancelled = true;
    pthread_mutex_unlock(&request->mutex);
}

void agl_request_destroy(agl_request *request)
{
    if (request == NULL) return;
    agl_request_cancel(request);
    agl_engine *engine = request->engine;
    pthread_mutex_lock(&engine->mutex);
    agl_request **link = &engine->requests;
    while (*link != request) link = &(*link)->next;
    *link = request->next;
    pthread_mutex_unlock(&engine->mutex);
    pthread_mutex_destroy(&request->mutex);
    pthread_cond_destroy(&request->news);
    free(request->prompt);
    free(request->script);
    free(request->events);
    free(request);
    atomic_fetch_sub(&STATE.live, 1);
}

/* ---- tokens ---------------------------------------------------------- */

agl_status agl_tokenize(agl_engine *engine, const char *text, size_t bytes, bool add_special, int32_t **tokens,
                        size_t *count, agl_error *err)
{
    (void)engine;
    (void)add_special;
    *tokens = malloc((bytes + 1) * sizeof **tokens);
    if (*tokens == NULL || bytes > TOKENS_MAX) {
        free(*tokens);
        return agl_fail(err, AGL_ERR_LIMIT, "fake tokenizer");
    }
    *count = to_tokens(*tokens, text, bytes);
    return AGL_OK;
}

agl_status agl_tokenize_chat(agl_engine *engine, const agl_message *messages, size_t message_count,
                             const agl_chat_options *chat, int32_t **tokens, size_t *count, agl_error *err)
{
    char text[sizeof STATE.prompt];
    (void)chat;
    render(text, sizeof text, &(agl_request_options){.messages = messages, .message_count = message_count});
    return agl_tokenize(engine, text, strlen(text), false, tokens, count, err);
}

agl_status agl_detokenize(agl_engine *engine, const int32_t *tokens, size_t count, char **text, size_t *bytes,
                          agl_error *err)
{
    char *out = malloc(count * 16 + 1);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        size_t length = 0;
        const char *piece = agl_token_bytes(engine, tokens[i], &length);
        if (piece == NULL) {
            free(out);
            return agl_fail(err, AGL_ERR_ARGUMENT, "token %d is not in the vocabulary", tokens[i]);
        }
        memcpy(out + used, piece, length);
        used += length;
    }
    *text = out;
    *bytes = used;
    return AGL_OK;
}

static char BYTES[256];
static pthread_once_t BYTES_ONCE = PTHREAD_ONCE_INIT;

static void fill_bytes(void)
{
    for (int i = 0; i < 256; i++) BYTES[i] = (char)i;
}

const char *agl_token_bytes(const agl_engine *engine, int32_t token, size_t *bytes)
{
    (void)engine;
    pthread_once(&BYTES_ONCE, fill_bytes);
    if (token < 0 || token > 258) return NULL;
    if (token >= 256) {
        *bytes = strlen(SPECIAL[token - 256]);
        return SPECIAL[token - 256];
    }
    *bytes = 1;
    return &BYTES[token];
}

void agl_free(void *memory)
{
    free(memory);
}
