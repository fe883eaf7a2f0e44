/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <string.h>

#include "server/answer.h"

agl_usage agl_answer_usage(const agl_answer *answer)
{
    agl_usage sum = answer->prompts[0].usage;
    for (size_t i = 1; i < answer->prompt_count; i++) {
        const agl_usage *usage = &answer->prompts[i].usage;
        sum.prompt_tokens += usage->prompt_tokens;
        sum.completion_tokens += usage->completion_tokens;
        sum.cached_tokens += usage->cached_tokens;
        sum.image_tokens += usage->image_tokens;
        sum.image_count += usage->image_count;
        sum.preemptions += usage->preemptions;
        /* Prompts run side by side: the slowest one is what the client waited for. */
        if (usage->queue_s > sum.queue_s) sum.queue_s = usage->queue_s;
        if (usage->prefill_s > sum.prefill_s) sum.prefill_s = usage->prefill_s;
        if (usage->decode_s > sum.decode_s) sum.decode_s = usage->decode_s;
        if (usage->ttft_s > sum.ttft_s) sum.ttft_s = usage->ttft_s;
        if (usage->total_s > sum.total_s) sum.total_s = usage->total_s;
    }
    return sum;
}

void agl_usage_write(agl_buffer *out, const agl_answer *answer, const agl_usage *usage)
{
    uint32_t completion = answer->call->echo_only ? 0 : usage->completion_tokens;
    agl_buffer_append_format(out,
                             "{\"prompt_tokens\":%u,\"total_tokens\":%u,\"completion_tokens\":%u,"
                             "\"prompt_tokens_details\":{\"cached_tokens\":%u,\"image_tokens\":%u}",
                             usage->prompt_tokens, usage->prompt_tokens + completion, completion,
                             usage->cached_tokens, usage->image_tokens);
    if (answer->call->split_reasoning) {
        agl_buffer_append_format(out, ",\"completion_tokens_details\":{\"reasoning_tokens\":%u}",
                                 answer->reasoning_tokens);
    }
    agl_buffer_append_char(out, '}');
}

static double per(double numerator, double denominator)
{
    return denominator > 0 ? numerator / denominator : 0;
}

void agl_timings_write(agl_buffer *out, const agl_usage *usage)
{
    uint32_t prompt = usage->prompt_tokens - usage->cached_tokens;
    uint32_t predicted = usage->completion_tokens;
    double prompt_ms = usage->prefill_s * 1e3, predicted_ms = usage->decode_s * 1e3;
    agl_buffer_append_format(out,
                             "{\"cache_n\":%u,\"prompt_n\":%u,\"prompt_ms\":%.3f,\"prompt_per_token_ms\":%.4f,"
                             "\"prompt_per_second\":%.2f,\"predicted_n\":%u,\"predicted_ms\":%.3f,"
                             "\"predicted_per_token_ms\":%.4f,\"predicted_per_second\":%.2f,",
                             usage->cached_tokens, prompt, prompt_ms, per(prompt_ms, prompt),
                             per(prompt, usage->prefill_s), predicted, predicted_ms,
                             per(predicted_ms, predicted > 1 ? predicted - 1 : 0),
                             per(predicted > 1 ? predicted - 1 : 0, usage->decode_s));
    agl_buffer_append_format(out,
                             "\"queue_ms\":%.3f,\"media_decode_ms\":%.3f,\"media_resize_ms\":%.3f,"
                             "\"vision_ms\":%.3f,\"ttft_ms\":%.3f,\"total_ms\":%.3f}",
                             usage->queue_s * 1e3, usage->media_decode_s * 1e3, usage->media_resize_s * 1e3,
                             usage->vision_s * 1e3, usage->ttft_s * 1e3, usage->total_s * 1e3);
}

/* `"finish_reason":...,"stop_reason":...`; null while the choice runs. */
static void append_finish(agl_buffer *out, const agl_choice *choice)
{
    static const char *const NAMES[] = {
        [AGL_FINISH_NONE] = "null",
        [AGL_FINISH_STOP] = "\"stop\"",
        [AGL_FINISH_LENGTH] = "\"length\"",
    };
    assert(choice->finish < AGL_COUNT(NAMES));      /* what is cut off ends with an error */
    agl_buffer_append_text(out, "\"finish_reason\":");
    agl_buffer_append_text(out, NAMES[choice->finish]);
    if (choice->finish == AGL_FINISH_NONE) return;
    agl_buffer_append_text(out, ",\"stop_reason\":");
    if (choice->stop_string != NULL) {
        agl_buffer_append_char(out, '"');
        agl_buffer_append_json(out, choice->stop_string, strlen(choice->stop_string));
        agl_buffer_append_char(out, '"');
    } else if (choice->stop_token >= 0) {
        agl_buffer_append_format(out, "%d", choice->stop_token);
    } else {
        agl_buffer_append_text(out, "null");
    }
}

void agl_choice_end_write(agl_buffer *out, const agl_answer *answer, const agl_choice *choice)
{
    const agl_call *call = answer->call;
    agl_buffer_append_char(out, ',');
    agl_logprobs_write(out, answer, choice);
    agl_buffer_append_char(out, ',');
    append_finish(out, choice);
    if (!call->return_token_ids) return;
    agl_buffer_append_text(out, ",\"token_ids\":");
    agl_list_write(out, &choice->token_ids);
    if (call->is_chat || choice->opened) return;
    agl_buffer_append_text(out, ",\"prompt_token_ids\":");
    agl_list_write(out, &answer->prompts[choice->index / call->options.sampling.n].token_ids);
}

static void append_text(agl_buffer *out, const agl_buffer *text)
{
    agl_buffer_append_char(out, '"');
    agl_buffer_append_json(out, text->data, text->bytes);
    agl_buffer_append_char(out, '"');
}

static void append_message(agl_buffer *out, const agl_answer *answer, const agl_choice *choice)
{
    const agl_call *call = answer->call;
    agl_buffer_append_text(out, "\"message\":{\"role\":\"");
    agl_buffer_append_json(out, call->response_role, strlen(call->response_role));
    agl_buffer_append_text(out, "\",\"content\":");
    append_text(out, &choice->text);
    agl_buffer_append_text(out, ",\"refusal\":null");
    if (call->split_reasoning) {
        bool has = choice->reasoning.bytes > 0 && !call->hide_reasoning;
        agl_buffer_append_text(out, ",\"reasoning_content\":");
        if (has) append_text(out, &choice->reasoning); else agl_buffer_append_text(out, "null");
        agl_buffer_append_text(out, ",\"reasoning\":");
        if (has) append_text(out, &choice->reasoning); else agl_buffer_append_text(out, "null");
    }
    agl_buffer_append_char(out, '}');
}

static void append_choice(agl_buffer *out, const agl_answer *answer, const agl_choice *choice)
{
    const agl_call *call = answer->call;
    const agl_answer_prompt *prompt = &answer->prompts[choice->index / call->options.sampling.n];
    agl_buffer_append_format(out, "{\"index\":%u,", choice->index);
    if (call->is_chat) {
        append_message(out, answer, choice);
    } else {
        agl_buffer_append_text(out, "\"text\":");
        append_text(out, &choice->text);
    }
    agl_choice_end_write(out, answer, choice);
    if (!call->is_chat && call->options.sampling.prompt_logprobs >= 0) {
        agl_buffer_append_text(out, ",\"prompt_logprobs\":");
        agl_list_write(out, &prompt->logprobs);
    }
    agl_buffer_append_char(out, '}');
}

void agl_response_write(agl_buffer *out, const agl_answer *answer)
{
    const agl_call *call = answer->call;
    agl_usage usage = agl_answer_usage(answer);
    agl_buffer_append_format(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":\"", answer->id,
                             call->is_chat ? "chat.completion" : "text_completion", (long long)answer->created);
    agl_buffer_append_json(out, answer->model, strlen(answer->model));
    agl_buffer_append_text(out, "\",\"choices\":[");
    for (size_t i = 0; i < answer->choice_count; i++) {
        if (i > 0) agl_buffer_append_char(out, ',');
        append_choice(out, answer, &answer->choices[i]);
    }
    agl_buffer_append_text(out, "],\"service_tier\":null,\"system_fingerprint\":\"agl-" AGL_VERSION "\",\"usage\":");
    agl_usage_write(out, answer, &usage);
    agl_buffer_append_text(out, ",\"timings\":");
    agl_timings_write(out, &usage);
    if (call->is_chat && call->options.sampling.prompt_logprobs >= 0) {
        agl_buffer_append_text(out, ",\"prompt_logprobs\":");
        agl_list_write(out, &answer->prompts[0].logprobs);
    }
    if (call->is_chat && call->return_token_ids) {
        agl_buffer_append_text(out, ",\"prompt_token_ids\":");
        agl_list_write(out, &answer->prompts[0].token_ids);
    }
    agl_buffer_append_char(out, '}');
}
