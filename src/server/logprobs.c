/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "server/answer.h"

void agl_list_write(agl_buffer *out, const agl_buffer *items)
{
    agl_buffer_append_char(out, '[');
    if (items->bytes > 0) agl_buffer_append(out, items->data, items->bytes - 1);
    agl_buffer_append_char(out, ']');
}

/* JSON has no infinity: vLLM's floor stands for it. */
static void append_logprob(agl_buffer *out, float logprob)
{
    if (!(logprob >= -9999.0f)) {
        agl_buffer_append_text(out, "-9999.0");
    } else {
        agl_buffer_append_format(out, "%.9g", (double)logprob);
    }
}

/* A quoted token: its text, or "token_id:7". Returns its length in characters. */
static size_t append_token(agl_buffer *out, const agl_answer *answer, int32_t token)
{
    size_t bytes = 0;
    agl_buffer_append_char(out, '"');
    if (answer->call->tokens_as_token_ids) agl_buffer_append_format(out, "token_id:%d", token);
    const char *text = agl_token_bytes(answer->engine, token, &bytes);
    if (text == NULL) bytes = 0;
    if (!answer->call->tokens_as_token_ids) agl_buffer_append_json(out, text, bytes);
    agl_buffer_append_char(out, '"');
    size_t characters = 0;
    for (size_t i = 0; i < bytes; i++) characters += ((unsigned char)text[i] & 0xc0) != 0x80;
    return characters;
}

/* {"token":"..","logprob":..,"bytes":[..] without the closing brace. */
static void append_chat_token(agl_buffer *out, const agl_answer *answer, const agl_token_logprob *entry)
{
    size_t bytes = 0;
    agl_buffer_append_text(out, "{\"token\":");
    append_token(out, answer, entry->token);
    agl_buffer_append_text(out, ",\"logprob\":");
    append_logprob(out, entry->logprob);
    agl_buffer_append_text(out, ",\"bytes\":[");
    const char *text = agl_token_bytes(answer->engine, entry->token, &bytes);
    for (size_t i = 0; text != NULL && i < bytes; i++) {
        agl_buffer_append_format(out, i == 0 ? "%u" : ",%u", (unsigned)(unsigned char)text[i]);
    }
    agl_buffer_append_char(out, ']');
}

static void append_chat(const agl_answer *answer, agl_choice *choice, const agl_token_event *event)
{
    agl_buffer *items = &choice->logprobs.items;
    append_chat_token(items, answer, &event->chosen);
    agl_buffer_append_text(items, ",\"top_logprobs\":[");
    for (size_t i = 0; i < event->top_count; i++) {
        if (i > 0) agl_buffer_append_char(items, ',');
        append_chat_token(items, answer, &event->top[i]);
        agl_buffer_append_char(items, '}');
    }
    agl_buffer_append_text(items, "]},");
}

/* `first_of_prompt`: nothing predicted that token, its entries are null. */
static void append_completion(const agl_answer *answer, agl_choice *choice, const agl_token_event *event,
                              bool first_of_prompt)
{
    agl_logprob_lists *lists = &choice->logprobs;
    size_t characters = append_token(&lists->items, answer, event->chosen.token);
    agl_buffer_append_char(&lists->items, ',');
    agl_buffer_append_format(&lists->offsets, "%zu,", lists->next_offset);
    lists->next_offset += characters;
    if (first_of_prompt) {
        agl_buffer_append_text(&lists->values, "null,");
        agl_buffer_append_text(&lists->top, "null,");
        return;
    }
    append_logprob(&lists->values, event->chosen.logprob);
    agl_buffer_append_char(&lists->values, ',');
    agl_buffer_append_char(&lists->top, '{');
    append_token(&lists->top, answer, event->chosen.token);
    agl_buffer_append_char(&lists->top, ':');
    append_logprob(&lists->top, event->chosen.logprob);
    for (size_t i = 0; i < event->top_count; i++) {
        if (event->top[i].token == event->chosen.token) continue;
        agl_buffer_append_char(&lists->top, ',');
        append_token(&lists->top, answer, event->top[i].token);
        agl_buffer_append_char(&lists->top, ':');
        append_logprob(&lists->top, event->top[i].logprob);
    }
    agl_buffer_append_text(&lists->top, "},");
}

void agl_logprobs_append(const agl_answer *answer, agl_choice *choice, const agl_token_event *tokens,
                         size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (answer->call->is_chat) {
            append_chat(answer, choice, &tokens[i]);
        } else {
            append_completion(answer, choice, &tokens[i], false);
        }
    }
}

void agl_logprobs_write(agl_buffer *out, const agl_answer *answer, const agl_choice *choice)
{
    if (!answer->call->logprobs) {
        agl_buffer_append_text(out, "\"logprobs\":null");
        return;
    }
    const agl_logprob_lists *lists = &choice->logprobs;
    if (answer->call->is_chat) {
        agl_buffer_append_text(out, "\"logprobs\":{\"content\":");
        agl_list_write(out, &lists->items);
    } else {
        agl_buffer_append_text(out, "\"logprobs\":{\"text_offset\":");
        agl_list_write(out, &lists->offsets);
        agl_buffer_append_text(out, ",\"token_logprobs\":");
        agl_list_write(out, &lists->values);
        agl_buffer_append_text(out, ",\"tokens\":");
        agl_list_write(out, &lists->items);
        agl_buffer_append_text(out, ",\"top_logprobs\":");
        agl_list_write(out, &lists->top);
    }
    agl_buffer_append_char(out, '}');
}

/* "id":{"logprob":..,"rank":..,"decoded_token":".."} */
static void append_ranked(agl_buffer *out, const agl_answer *answer, const agl_token_logprob *entry)
{
    size_t bytes = 0;
    const char *text = agl_token_bytes(answer->engine, entry->token, &bytes);
    agl_buffer_append_format(out, "\"%d\":{\"logprob\":", entry->token);
    append_logprob(out, entry->logprob);
    agl_buffer_append_format(out, ",\"rank\":%d,\"decoded_token\":\"", entry->rank);
    if (text != NULL) agl_buffer_append_json(out, text, bytes);
    agl_buffer_append_text(out, "\"}");
}

static void append_prompt_item(agl_buffer *out, const agl_answer *answer, const agl_token_event *event,
                               bool first)
{
    if (first) {
        agl_buffer_append_text(out, "null,");
        return;
    }
    agl_buffer_append_char(out, '{');
    append_ranked(out, answer, &event->chosen);
    for (size_t i = 0; i < event->top_count; i++) {
        if (event->top[i].token == event->chosen.token) continue;
        agl_buffer_append_char(out, ',');
        append_ranked(out, answer, &event->top[i]);
    }
    agl_buffer_append_text(out, "},");
}

void agl_prompt_logprobs_append(agl_answer *answer, size_t prompt, const agl_token_event *tokens,
                                size_t count)
{
    const agl_call *call = answer->call;
    agl_answer_prompt *target = &answer->prompts[prompt];
    for (size_t i = 0; i < count; i++) {
        append_prompt_item(&target->logprobs, answer, &tokens[i], target->logprobs.bytes == 0);
    }
    if (call->is_chat || !call->echo || !call->logprobs) return;
    uint32_t n = call->options.sampling.n;
    for (size_t choice = prompt * n; choice < (prompt + 1) * n; choice++) {
        agl_choice *each = &answer->choices[choice];
        for (size_t i = 0; i < count; i++) {
            append_completion(answer, each, &tokens[i], each->logprobs.items.bytes == 0);
        }
    }
}
