/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/stream.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "engine/engine.h"

/* What the engine had published when the consumer looked. */
typedef struct {
    uint32_t published;
    agl_finish finish;
    int32_t stop_token;
    bool failed;
} choice_view;

agl_status agl_stream_reader_init(agl_stream_reader *reader, agl_request *request, agl_error *err)
{
    uint32_t count = request->sampling.n;
    reader->choices = calloc(count, sizeof *reader->choices);
    reader->token_capacity = AGL_STREAM_PENDING_MAX;
    if (request->prompt_results != NULL && request->prompt.tokens.count > reader->token_capacity) {
        reader->token_capacity = request->prompt.tokens.count;
    }
    reader->tokens = calloc(reader->token_capacity, sizeof *reader->tokens);
    if (reader->choices == NULL || reader->tokens == NULL) {
        return agl_fail(err, AGL_ERR_MEMORY, "no memory to stream an answer");
    }
    reader->choice_count = count;
    for (uint32_t i = 0; i < count; i++) {
        agl_detokenizer_init(&reader->choices[i].detokenizer, request->engine->tokenizer,
                             request->sampling.keep_special_tokens);
        agl_buffer_init(&reader->choices[i].text, 0);
    }
    return AGL_OK;
}

void agl_stream_reader_skip(agl_stream_reader *reader, const int32_t *tokens, uint32_t count)
{
    agl_choice_reader *choice = &reader->choices[0];
    for (uint32_t i = 0; i < count; i++) {
        agl_detokenizer_push(&choice->detokenizer, tokens[i], &choice->text);
        agl_buffer_clear(&choice->text);
    }
    choice->consumed = count;
}

void agl_stream_reader_deinit(agl_stream_reader *reader)
{
    for (uint32_t i = 0; i < reader->choice_count; i++) agl_buffer_deinit(&reader->choices[i].text);
    free(reader->choices);
    free(reader->tokens);
    *reader = (agl_stream_reader){0};
}

/* ---- stop strings ------------------------------------------------------ */

/* The match that begins first and ends after byte `before`, where the text grew. */
static const agl_stop_string *find_stop(const agl_sampling_rules *rules, const agl_buffer *text,
                                        size_t before, size_t *place)
{
    const agl_stop_string *found = NULL;
    for (uint32_t i = 0; i < rules->stop_count; i++) {
        const agl_stop_string *stop = &rules->stops[i];
        size_t from = before + 1 > stop->bytes ? before + 1 - stop->bytes : 0;
        if (from >= text->bytes) continue;
        const char *match = memmem(text->data + from, text->bytes - from, stop->text, stop->bytes);
        if (match == NULL) continue;
        size_t at = (size_t)(match - text->data);
        if (found == NULL || at < *place) {
            found = stop;
            *place = at;
        }
    }
    return found;
}

/* Bytes at the end of the text that may be the start of a stop string. */
static size_t held_bytes(const agl_sampling_rules *rules, const agl_buffer *text)
{
    size_t held = 0;
    for (uint32_t i = 0; i < rules->stop_count; i++) {
        const agl_stop_string *stop = &rules->stops[i];
        size_t length = stop->bytes - 1 < text->bytes ? stop->bytes - 1 : text->bytes;
        for (; length > held; length--) {
            if (memcmp(text->data + text->bytes - length, stop->text, length) == 0) held = length;
        }
    }
    return held;
}

/* ---- one choice -------------------------------------------------------- */

/* Drop what the last event handed out. */
static void forget_handed(agl_choice_reader *choice)
{
    if (choice->handed > 0) agl_buffer_consume(&choice->text, choice->handed);
    uint32_t left = choice->pending - choice->pending_handed;
    for (uint32_t i = 0; i < left; i++) {
        size_t end = choice->token_ends[choice->pending_handed + i];
        choice->token_ends[i] = end > choice->handed ? end - choice->handed : 0;
    }
    choice->pending = left;
    choice->pending_handed = 0;
    choice->handed = 0;
}

/* Detokenise what is there, up to a stop string. */
static void read_tokens(agl_choice_reader *choice, const agl_sequence *sequence,
                        const choice_view *view)
{
    const agl_sampling_rules *rules = &sequence->request->sampling;
    while (choice->consumed < view->published && choice->pending < AGL_STREAM_PENDING_MAX) {
        bool last = choice->consumed + 1 == view->published;
        bool stop = last && view->finish == AGL_FINISH_STOP && view->stop_token >= 0;
        size_t before = choice->text.bytes;
        if (!stop || rules->include_stop_str) {
            agl_detokenizer_push(&choice->detokenizer, sequence->output[choice->consumed],
                                 &choice->text);
        }
        choice->consumed++;
        choice->token_ends[choice->pending++] = choice->text.bytes;
        if (stop || choice->text.bytes == before || choice->consumed <= rules->min_tokens) continue;

        size_t place = 0;
        const agl_stop_string *match = find_stop(rules, &choice->text, before, &place);
        if (match == NULL) continue;
        choice->stop_string = match->text;
        choice->text.bytes = place + (rules->include_stop_str ? match->bytes : 0);
        return;
    }
}

static void fill_tokens(agl_stream_reader *reader, const agl_choice_reader *choice,
                        const agl_sequence *sequence, uint32_t count, agl_event *event)
{
    const agl_sampling_rules *rules = &sequence->request->sampling;
    uint32_t first = choice->consumed - choice->pending;
    for (uint32_t i = 0; i < count; i++) {
        agl_token_event *token = &reader->tokens[i];
        *token = (agl_token_event){.chosen = {.token = sequence->output[first + i]}};
        if (sequence->results == NULL) continue;
        const agl_sample_result *result = &sequence->results[first + i];
        token->chosen.logprob = result->logprob;
        token->chosen.rank = result->rank;
        token->top = agl_results_top(sequence->results, rules->max_tokens, rules->logprobs,
                                     first + i);
        token->top_count = (size_t)result->top_count;
    }
    event->tokens = reader->tokens;
    event->token_count = count;
}

/* Make an event of what can be told of this choice; false: nothing yet. */
static bool read_choice(agl_stream_reader *reader, agl_sequence *sequence, const choice_view *view,
                        agl_event *event)
{
    agl_choice_reader *choice = &reader->choices[sequence->choice];
    const agl_sampling_rules *rules = &sequence->request->sampling;
    read_tokens(choice, sequence, view);

    bool matched = choice->stop_string != NULL;
    bool all_read = choice->consumed == view->published;
    bool ending = matched || (all_read && view->finish != AGL_FINISH_NONE);
    bool release = ending || (all_read && view->failed);
    if (release && !matched) agl_detokenizer_flush(&choice->detokenizer, &choice->text);

    /* A full list means a stop string's start longer than the list: it cannot be held longer. */
    bool full = choice->pending == AGL_STREAM_PENDING_MAX;
    size_t safe = release ? choice->text.bytes
                          : choice->text.bytes - held_bytes(rules, &choice->text);
    uint32_t tokens = 0;
    while (tokens < choice->pending && (release || choice->token_ends[tokens] <= safe)) tokens++;
    if (full && tokens == 0) tokens = choice->pending;
    if (!ending && safe == 0 && tokens == 0) return false;

    *event = (agl_event){
        .kind = ending ? AGL_EVENT_FINISH : AGL_EVENT_TEXT,
        .choice = sequence->choice,
        .text = choice->text.data != NULL ? choice->text.data : "",
        .text_bytes = safe,
        .stop_token = -1,
        .stop_string = choice->stop_string,
    };
    fill_tokens(reader, choice, sequence, tokens, event);
    if (ending) {
        event->finish = matched ? AGL_FINISH_STOP : view->finish;
        event->stop_token = matched ? -1 : view->stop_token;
        choice->ended = true;
        reader->choices_ended++;
    }
    choice->handed = safe;
    choice->pending_handed = tokens;
    return true;
}

/* ---- events ------------------------------------------------------------ */

static double seconds_between(uint64_t from_ns, uint64_t to_ns)
{
    return from_ns != 0 && to_ns > from_ns ? (double)(to_ns - from_ns) * 1e-9 : 0.0;
}

/* `lock` is held. */
static agl_usage usage_of(const agl_request *request)
{
    const agl_prompt *prompt = &request->prompt;
    const agl_stream_reader *reader = &request->reader;
    uint64_t now = reader->done_ns != 0 ? reader->done_ns : agl_clock_ns();
    agl_usage usage = {
        .prompt_tokens = (uint32_t)prompt->tokens.count + request->resumed_tokens,
        .cached_tokens = request->cached_tokens,
        .image_tokens = prompt->image_tokens,
        .image_count = (uint32_t)prompt->image_count,
        .preemptions = request->preemptions,
        .media_decode_s = prompt->media_decode_s,
        .media_resize_s = prompt->media_resize_s,
        .vision_s = request->vision_s,
        .queue_s = seconds_between(request->queued_ns,
                                   request->scheduled_ns != 0 ? request->scheduled_ns : now),
        .prefill_s = seconds_between(request->scheduled_ns, request->first_token_ns),
        .decode_s = seconds_between(request->first_token_ns, request->last_token_ns),
        .ttft_s = seconds_between(request->submit_ns, request->first_token_ns),
        .total_s = seconds_between(request->submit_ns, now),
    };
    for (uint32_t i = 0; i < reader->choice_count; i++) {
        usage.completion_tokens += reader->choices[i].consumed;
    }
    usage.completion_tokens -= request->resumed_tokens;
    return usage;
}

static void prompt_event(agl_request *request, agl_event *event)
{
    agl_stream_reader *reader = &request->reader;
    size_t count = request->prompt.tokens.count;
    int32_t top = request->sampling.prompt_logprobs;
    for (size_t i = 0; i < count; i++) {
        agl_token_event *token = &reader->tokens[i];
        *token = (agl_token_event){.chosen = {.token = request->prompt.tokens.ids[i]}};
        if (i == 0) continue;       /* nothing comes before the first token */
        const agl_sample_result *result = &request->prompt_results[i];
        token->chosen.logprob = result->logprob;
        token->chosen.rank = result->rank;
        token->top = agl_results_top(request->prompt_results, count, top, i);
        token->top_count = (size_t)result->top_count;
    }
    *event = (agl_event){.kind = AGL_EVENT_PROMPT, .tokens = reader->tokens, .token_count = count,
                         .stop_token = -1};
    reader->prompt_done = true;
}

/* Look at every choice once, beginning behind the last one served. `lock` is held, but for
 * the detokenising. Returns true with an event; sets *changed if something was read. */
static bool next_of_choices(agl_request *request, agl_event *event, bool *changed)
{
    agl_stream_reader *reader = &request->reader;
    uint32_t count = reader->choice_count;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t index = (reader->next_choice + i) % count;
        agl_choice_reader *choice = &reader->choices[index];
        agl_sequence *sequence = &request->sequences[index];
        choice_view view = {sequence->published, sequence->finish, sequence->stop_token,
                            request->status != AGL_OK};
        bool nothing_new = choice->consumed == view.published && view.finish == AGL_FINISH_NONE &&
                           (!view.failed || choice->text.bytes + choice->pending == 0);
        if (choice->ended || nothing_new) continue;
        pthread_mutex_unlock(&request->lock);
        bool told = read_choice(reader, sequence, &view, event);
        if (choice->stop_string != NULL) {
            atomic_store(&sequence->stop_wanted, true);
            agl_engine_post(request->engine, request);
        }
        pthread_mutex_lock(&request->lock);
        if (told) {
            reader->next_choice = index + 1;
            return true;
        }
        *changed = true;
        if (view.failed) choice->ended = true;
    }
    return false;
}

/* The next event, if there is one. `lock` is held. */
static bool next_event(agl_request *request, agl_event *event)
{
    agl_stream_reader *reader = &request->reader;
    bool changed;
    if (reader->done) {
        *event = (agl_event){.kind = AGL_EVENT_DONE, .stop_token = -1};
        return true;
    }
    if (request->prompt_ready && !reader->prompt_done) {
        prompt_event(request, event);
        return true;
    }
    do {
        changed = false;
        if (next_of_choices(request, event, &changed)) return true;
    } while (changed);

    if (request->status != AGL_OK && !reader->failed) {
        reader->failed = true;
        *event = (agl_event){.kind = AGL_EVENT_ERROR, .stop_token = -1, .status = request->status,
                             .message = request->message};
        return true;
    }
    if (reader->failed || reader->choices_ended == reader->choice_count) {
        reader->done = true;
        reader->done_ns = agl_clock_ns();
        *event = (agl_event){.kind = AGL_EVENT_DONE, .stop_token = -1};
        return true;
    }
    return false;
}

void agl_request_next(agl_request *request, int timeout_ms, agl_event *event)
{
    for (uint32_t i = 0; i < request->reader.choice_count; i++) {
        forget_handed(&request->reader.choices[i]);
    }
    struct timespec deadline;
    if (timeout_ms > 0) agl_clock_deadline(&deadline, timeout_ms);
    *event = (agl_event){.kind = AGL_EVENT_NONE, .stop_token = -1};

    pthread_mutex_lock(&request->lock);
    while (!next_event(request, event)) {
        request->news = false;
        if (timeout_ms == 0) break;
        int late = timeout_ms < 0 ? pthread_cond_wait(&request->wake, &request->lock)
                                  : pthread_cond_timedwait(&request->wake, &request->lock, &deadline);
        if (late != 0) timeout_ms = 0;
    }
    event->usage = usage_of(request);
    pthread_mutex_unlock(&request->lock);
}
