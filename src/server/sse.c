/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "server/answer.h"

void agl_sse_head_write(agl_answer *answer)
{
    agl_buffer *out = &answer->chunk_head;
    agl_buffer_append_format(out, "data: {\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":\"",
                             answer->id, answer->call->is_chat ? "chat.completion.chunk" : "text_completion",
                             (long long)answer->created);
    agl_buffer_append_json(out, answer->model, strlen(answer->model));
    agl_buffer_append_text(out, "\",\"system_fingerprint\":\"agl-" AGL_VERSION "\",\"choices\":[");
}

static void append_string(agl_buffer *out, const char *key, const agl_buffer *text)
{
    agl_buffer_append_text(out, key);
    agl_buffer_append_json(out, text->data, text->bytes);
    agl_buffer_append_char(out, '"');
}

/* The role rides in the chunk of the first token, so that a client that times the
 * first event times the first token. */
static void append_delta(agl_buffer *out, const agl_answer *answer, const agl_choice *choice)
{
    bool comma = false;
    agl_buffer_append_text(out, "\"delta\":{");
    if (!choice->opened) {
        agl_buffer_append_text(out, "\"role\":\"");
        agl_buffer_append_json(out, answer->call->response_role, strlen(answer->call->response_role));
        agl_buffer_append_char(out, '"');
        comma = true;
    }
    if (choice->reasoning.bytes > 0 && !answer->call->hide_reasoning) {
        append_string(out, comma ? ",\"reasoning_content\":\"" : "\"reasoning_content\":\"", &choice->reasoning);
        append_string(out, ",\"reasoning\":\"", &choice->reasoning);
        comma = true;
    }
    if (choice->text.bytes > 0 || !comma || (!choice->opened && choice->reasoning.bytes == 0)) {
        append_string(out, comma ? ",\"content\":\"" : "\"content\":\"", &choice->text);
    }
    agl_buffer_append_char(out, '}');
}

static void clear(agl_choice *choice)
{
    agl_buffer_clear(&choice->text);
    agl_buffer_clear(&choice->reasoning);
    agl_buffer_clear(&choice->token_ids);
    agl_buffer_clear(&choice->logprobs.items);
    agl_buffer_clear(&choice->logprobs.values);
    agl_buffer_clear(&choice->logprobs.top);
    agl_buffer_clear(&choice->logprobs.offsets);
    choice->pending_tokens = 0;
    choice->opened = true;
}

void agl_sse_chunk_write(agl_buffer *out, agl_answer *answer, agl_choice *choice)
{
    const agl_call *call = answer->call;
    const agl_answer_prompt *prompt = &answer->prompts[choice->index / call->options.sampling.n];
    agl_buffer_append(out, answer->chunk_head.data, answer->chunk_head.bytes);
    agl_buffer_append_format(out, "{\"index\":%u,", choice->index);
    if (call->is_chat) {
        append_delta(out, answer, choice);
    } else {
        append_string(out, "\"text\":\"", &choice->text);
    }
    agl_choice_end_write(out, answer, choice);
    agl_buffer_append_text(out, "}]");
    if (call->return_token_ids && call->is_chat && !choice->opened) {
        agl_buffer_append_text(out, ",\"prompt_token_ids\":");
        agl_list_write(out, &prompt->token_ids);
    }
    if (call->continuous_usage) {
        agl_buffer_append_text(out, ",\"usage\":");
        agl_usage_write(out, answer, &prompt->usage);
    }
    agl_buffer_append_text(out, "}\n\n");
    clear(choice);
}

void agl_sse_end_write(agl_buffer *out, const agl_answer *answer)
{
    if (answer->call->include_usage) {
        agl_usage usage = agl_answer_usage(answer);
        agl_buffer_append(out, answer->chunk_head.data, answer->chunk_head.bytes);
        agl_buffer_append_text(out, "],\"usage\":");
        agl_usage_write(out, answer, &usage);
        agl_buffer_append_text(out, ",\"timings\":");
        agl_timings_write(out, &usage);
        agl_buffer_append_text(out, "}\n\n");
    }
    agl_buffer_append_text(out, "data: [DONE]\n\n");
}

void agl_sse_error_write(agl_buffer *out, const agl_api_error *err)
{
    agl_buffer_append_text(out, "data: ");
    agl_api_error_write(out, err);
    agl_buffer_append_text(out, "\n\ndata: [DONE]\n\n");
}

void agl_sse_heartbeat_write(agl_buffer *out)
{
    agl_buffer_append_text(out, ": waiting\n\n");
}
