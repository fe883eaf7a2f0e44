/* SPDX-License-Identifier: Apache-2.0 */
#include "server/generation.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "server/answer.h"

/* A choice's text is bounded by the window; this only stops a runaway. */
#define TEXT_BYTES_MAX ((size_t)64 << 20)

struct agl_generation {
    agl_call call;
    agl_answer answer;
    agl_metrics *metrics;
    agl_request **requests;         /* [answer.prompt_count]; owned */
    bool *done;                     /* [answer.prompt_count]        */
    size_t done_count;
    bool ended;
    char *id, *model;
};

static agl_status no_memory(agl_api_error *err)
{
    return agl_api_fail(err, AGL_ERR_MEMORY, NULL, "no memory for the request");
}

static void append_ids(agl_buffer *out, const int32_t *tokens, size_t count)
{
    for (size_t i = 0; i < count; i++) agl_buffer_append_format(out, "%d,", tokens[i]);
}

/* ---- create ---------------------------------------------------------- */

static void init_choice(agl_choice *choice, uint32_t index)
{
    *choice = (agl_choice){.index = index, .stop_token = -1};
    agl_buffer *const buffers[] = {&choice->text, &choice->reasoning, &choice->token_ids, &choice->logprobs.items,
                                   &choice->logprobs.values, &choice->logprobs.top, &choice->logprobs.offsets};
    for (size_t i = 0; i < AGL_COUNT(buffers); i++) agl_buffer_init(buffers[i], TEXT_BYTES_MAX);
}

static agl_status allocate(agl_generation *self, const agl_generation_options *options, agl_api_error *err)
{
    agl_answer *answer = &self->answer;
    size_t prompts = self->call.prompt_count;
    answer->call = &self->call;
    answer->engine = options->engine;
    answer->created = (int64_t)time(NULL);
    self->id = strdup(options->id);
    self->model = strdup(options->model);
    answer->id = self->id;
    answer->model = self->model;
    answer->prompts = calloc(prompts, sizeof *answer->prompts);
    answer->choices = calloc(prompts * self->call.options.sampling.n, sizeof *answer->choices);
    self->requests = calloc(prompts, sizeof *self->requests);
    self->done = calloc(prompts, sizeof *self->done);
    if (self->id == NULL || self->model == NULL || answer->prompts == NULL || answer->choices == NULL ||
        self->requests == NULL || self->done == NULL) {
        return no_memory(err);
    }
    answer->prompt_count = prompts;
    answer->choice_count = prompts * self->call.options.sampling.n;
    for (size_t i = 0; i < answer->choice_count; i++) init_choice(&answer->choices[i], (uint32_t)i);
    for (size_t i = 0; i < prompts; i++) {
        agl_buffer_init(&answer->prompts[i].token_ids, TEXT_BYTES_MAX);
        agl_buffer_init(&answer->prompts[i].logprobs, TEXT_BYTES_MAX);
    }
    agl_buffer_init(&answer->chunk_head, 1 << 16);
    agl_sse_head_write(answer);
    return AGL_OK;
}

/* The text an echoed prompt shows. */
static agl_status keep_echo(agl_generation *self, size_t index, agl_api_error *err)
{
    const agl_call *call = &self->call;
    agl_answer_prompt *prompt = &self->answer.prompts[index];
    const char *text = call->echo_text;
    size_t bytes = call->echo_bytes;
    if (!call->echo) return AGL_OK;
    if (!call->is_chat && call->prompts[index].tokens != NULL) {
        const agl_prompt *source = &call->prompts[index];
        char *decoded = NULL;
        agl_status status = agl_detokenize(self->answer.engine, source->tokens, source->token_count, &decoded,
                                           &prompt->echo_bytes, &err->detail);
        if (status != AGL_OK) return agl_api_fail_detail(err, status, "prompt");
        prompt->echo = malloc(prompt->echo_bytes + 1);
        if (prompt->echo != NULL) memcpy(prompt->echo, decoded, prompt->echo_bytes);
        agl_free(decoded);
        return prompt->echo != NULL ? AGL_OK : no_memory(err);
    }
    if (!call->is_chat) {
        text = call->prompts[index].text;
        bytes = call->prompts[index].text_bytes;
    }
    if (text == NULL) return AGL_OK;
    prompt->echo = malloc(bytes + 1);
    if (prompt->echo == NULL) return no_memory(err);
    memcpy(prompt->echo, text, bytes);
    prompt->echo_bytes = bytes;
    return AGL_OK;
}

/* True if the prompt ends in an open <think> that its template put there. */
static bool opens_thinking(const agl_generation *self, const int32_t *tokens, size_t count)
{
    static const char OPEN[] = "<think>";
    for (size_t back = 1; back <= 2 && back <= count; back++) { /* a newline may follow the tag */
        size_t bytes = 0;
        const char *text = agl_token_bytes(self->answer.engine, tokens[count - back], &bytes);
        if (text != NULL && bytes == sizeof OPEN - 1 && memcmp(text, OPEN, bytes) == 0) return true;
        if (text == NULL || bytes != 1 || text[0] != '\n') return false;
    }
    return false;
}

/* A resumed answer may be inside its thinking, or inside a tag. */
static agl_status resume_split(agl_generation *self, agl_api_error *err)
{
    const agl_request_options *options = &self->call.options;
    char *text = NULL;
    size_t bytes = 0;
    if (options->resume_token_count == 0) return AGL_OK;
    agl_status status = agl_detokenize(self->answer.engine, options->resume_tokens, options->resume_token_count, &text,
                                       &bytes, &err->detail);
    if (status != AGL_OK) return agl_api_fail_detail(err, status, "resume_token_ids");
    agl_choice *choice = &self->answer.choices[0];
    agl_reasoning_split_push(&choice->split, text, bytes, &choice->reasoning, &choice->text);
    agl_buffer_clear(&choice->reasoning); /* the client has both */
    agl_buffer_clear(&choice->text);
    agl_free(text);
    return AGL_OK;
}

/* What the submitted prompt decides: the window, the split, the echoed ids. */
static agl_status inspect_prompt(agl_generation *self, size_t index, const agl_generation_options *options,
                                 agl_api_error *err)
{
    const agl_sampling *sampling = &self->call.options.sampling;
    size_t count = 0;
    const int32_t *tokens = agl_request_prompt(self->requests[index], &count);
    uint32_t window = agl_engine_model_info(options->engine).max_model_len;
    if (options->strict_max_model_len && count + sampling->max_tokens > window) {
        return agl_api_fail(err, AGL_ERR_CONTEXT, "max_tokens",
                            "This model's maximum context length is %u tokens. However, you requested %zu tokens "
                            "(%zu in the messages, %u in the completion). Please reduce the length of the messages "
                            "or completion.", window, count + sampling->max_tokens, count, sampling->max_tokens);
    }
    if (self->call.return_token_ids) append_ids(&self->answer.prompts[index].token_ids, tokens, count);
    bool inside = self->call.split_reasoning && opens_thinking(self, tokens, count);
    for (uint32_t i = 0; i < sampling->n; i++) {
        agl_reasoning_split_init(&self->answer.choices[index * sampling->n + i].split, inside);
    }
    return self->call.split_reasoning ? resume_split(self, err) : AGL_OK;
}

/* The engine's messages about a part begin with where it stands: "messages[2].content[0]: ...". */
static agl_status fail_submit(agl_api_error *err, agl_status status)
{
    char where[sizeof err->param] = "";
    size_t bytes = strcspn(err->detail.message, ":");
    if (strncmp(err->detail.message, "messages[", 9) == 0 && bytes < sizeof where) {
        memcpy(where, err->detail.message, bytes);
    }
    return agl_api_fail_detail(err, status, where);
}

static agl_status submit(agl_generation *self, size_t index, const agl_generation_options *options,
                         agl_api_error *err)
{
    agl_request_options request = self->call.options;
    request.id = self->id;
    /* The client's may only be the sooner one. */
    if (options->deadline_ms != 0 && (request.deadline_ms == 0 || request.deadline_ms > options->deadline_ms)) {
        request.deadline_ms = options->deadline_ms;
    }
    request.notify = options->notify;
    request.notify_user = options->notify_user;
    if (self->call.prompts != NULL) {
        const agl_prompt *prompt = &self->call.prompts[index];
        request.text = prompt->text;
        request.text_bytes = prompt->text_bytes;
        request.tokens = prompt->tokens;
        request.token_count = prompt->token_count;
    }
    AGL_TRY(keep_echo(self, index, err));
    agl_status status = agl_request_submit(&self->requests[index], options->engine, &request, &err->detail);
    if (status != AGL_OK) return fail_submit(err, status);
    return inspect_prompt(self, index, options, err);
}

static agl_status check_resume(const agl_call *call, agl_api_error *err)
{
    if (call->options.resume_token_count == 0 || (call->prompt_count == 1 && !call->echo)) return AGL_OK;
    return agl_api_fail(err, AGL_ERR_ARGUMENT, "resume_token_ids",
                        "resume_token_ids cannot be used with echo or with several prompts");
}

agl_status agl_generation_create(agl_generation **out, const agl_call *call,
                                 const agl_generation_options *options, agl_api_error *err)
{
    *out = NULL;
    agl_generation *self = calloc(1, sizeof *self);
    if (self == NULL) return no_memory(err);
    self->call = *call;
    self->metrics = options->metrics;
    agl_status status = check_resume(call, err);
    if (status == AGL_OK) status = allocate(self, options, err);
    for (size_t i = 0; status == AGL_OK && i < call->prompt_count; i++) status = submit(self, i, options, err);
    if (status != AGL_OK) {
        agl_generation_destroy(self);
        return status;
    }
    *out = self;
    return AGL_OK;
}

/* ---- pull ------------------------------------------------------------ */

static void put_text(agl_generation *self, agl_choice *choice, const agl_event *event)
{
    if (self->call.echo_only) return;
    if (!self->call.split_reasoning) {
        agl_buffer_append(&choice->text, event->text, event->text_bytes);
        return;
    }
    bool thinking = choice->split.state == AGL_SPLIT_THINKING;
    agl_reasoning_split_push(&choice->split, event->text, event->text_bytes, &choice->reasoning, &choice->text);
    if (event->kind == AGL_EVENT_FINISH) {
        agl_reasoning_split_finish(&choice->split, &choice->reasoning, &choice->text);
    }
    if (thinking || choice->split.state == AGL_SPLIT_THINKING) {
        self->answer.reasoning_tokens += (uint32_t)event->token_count;
    }
}

static void begin_choice(agl_generation *self, agl_choice *choice)
{
    const agl_answer_prompt *prompt = &self->answer.prompts[choice->index / self->call.options.sampling.n];
    if (prompt->echo != NULL) agl_buffer_append(&choice->text, prompt->echo, prompt->echo_bytes);
    choice->begun = true;
}

static void count_token_time(agl_generation *self, agl_choice *choice, const agl_event *event)
{
    if (event->token_count == 0) return;
    uint64_t now_ns = agl_clock_ns();
    if (choice->last_token_ns != 0 && self->metrics != NULL) {
        agl_metrics_inter_token(self->metrics, (double)(now_ns - choice->last_token_ns) * 1e-9);
    }
    choice->last_token_ns = now_ns;
}

/* A token makes a chunk even if it has no text yet (half a character) or none at all, as in vLLM:
 * clients time tokens by their chunks. Thinking that is left out makes none. */
static bool chunk_is_due(const agl_generation *self, const agl_choice *choice)
{
    if (choice->finished) return true;
    bool hides = self->call.hide_reasoning;
    bool news = choice->text.bytes > 0 || (choice->reasoning.bytes > 0 && !hides) ||
                choice->logprobs.items.bytes > 0 || choice->token_ids.bytes > 0 ||
                (choice->pending_tokens > 0 && !hides);
    return news && (!choice->opened || choice->pending_tokens >= self->call.stream_interval);
}

static void take_text(agl_generation *self, size_t prompt, const agl_event *event, agl_buffer *out)
{
    uint32_t n = self->call.options.sampling.n;
    if (event->choice >= n) return;
    agl_choice *choice = &self->answer.choices[prompt * n + event->choice];
    if (choice->finished) return;
    if (!choice->begun) begin_choice(self, choice);
    count_token_time(self, choice, event);
    put_text(self, choice, event);
    choice->pending_tokens += (uint32_t)event->token_count;
    if (self->call.logprobs && !self->call.echo_only) {
        agl_logprobs_append(&self->answer, choice, event->tokens, event->token_count);
    }
    for (size_t i = 0; self->call.return_token_ids && i < event->token_count; i++) {
        append_ids(&choice->token_ids, &event->tokens[i].chosen.token, 1);
    }
    if (event->kind == AGL_EVENT_FINISH) {
        choice->finished = true;
        choice->finish = event->finish;
        /* As in vLLM the tokenizer's own end of text is no reason; other stop tokens are one. */
        bool is_end = event->stop_token == agl_engine_model_info(self->answer.engine).end_token &&
                      !self->call.options.sampling.ignore_eos;
        choice->stop_token = is_end ? -1 : event->stop_token;
        choice->stop_string = event->stop_string != NULL ? strdup(event->stop_string) : NULL;
        if (self->metrics != NULL) agl_metrics_finish(self->metrics, event->finish);
    }
    if (self->call.stream && chunk_is_due(self, choice)) agl_sse_chunk_write(out, &self->answer, choice);
}

static void take_done(agl_generation *self, size_t prompt)
{
    self->done[prompt] = true;
    self->done_count++;
    if (self->metrics == NULL) return;
    const agl_usage *usage = &self->answer.prompts[prompt].usage;
    uint32_t n = self->call.options.sampling.n;
    agl_metrics_request(self->metrics, &(agl_request_record){
        .id = self->id,
        .usage = usage,
        .n = n,
        .max_tokens = self->call.options.sampling.max_tokens,
        .choice_tokens_max = (usage->completion_tokens + n - 1) / n,
    });
}

/* Everything one engine request has to say now. False: it failed. */
static bool pull_request(agl_generation *self, size_t prompt, agl_buffer *out, agl_api_error *err)
{
    agl_event event = {0};
    while (!self->done[prompt]) {
        agl_request_next(self->requests[prompt], 0, &event);
        if (event.kind == AGL_EVENT_NONE) return true;
        self->answer.prompts[prompt].usage = event.usage;
        switch (event.kind) {
        case AGL_EVENT_PROMPT:
            agl_prompt_logprobs_append(&self->answer, prompt, event.tokens, event.token_count);
            break;
        case AGL_EVENT_TEXT:
        case AGL_EVENT_FINISH:
            /* Cut off by the server itself, which this thread may not have noticed yet: what is
             * there must not pass for the whole answer. */
            if (event.kind == AGL_EVENT_FINISH && event.finish == AGL_FINISH_ABORT) {
                agl_api_fail_shutdown(err);
                return false;
            }
            take_text(self, prompt, &event, out);
            break;
        case AGL_EVENT_ERROR:
            agl_api_fail(err, event.status, NULL, "%s",
                         event.message != NULL ? event.message : agl_status_text(event.status));
            return false;
        case AGL_EVENT_DONE:
            take_done(self, prompt);
            break;
        case AGL_EVENT_NONE:
            break;
        }
    }
    return true;
}

agl_generation_state agl_generation_pull(agl_generation *self, agl_buffer *out, agl_api_error *err)
{
    if (self->ended) return AGL_GENERATION_DONE;
    for (size_t i = 0; i < self->answer.prompt_count; i++) {
        if (pull_request(self, i, out, err)) continue;
        agl_generation_cancel(self);
        return AGL_GENERATION_FAILED;
    }
    if (self->done_count < self->answer.prompt_count) return AGL_GENERATION_WAIT;
    self->ended = true;
    if (self->call.stream) {
        agl_sse_end_write(out, &self->answer);
    } else {
        agl_response_write(out, &self->answer);
    }
    bool full = out->failed;
    for (size_t i = 0; i < self->answer.choice_count; i++) full = full || self->answer.choices[i].text.failed;
    if (!full) return AGL_GENERATION_DONE;
    agl_api_fail(err, AGL_ERR_MEMORY, NULL, "the answer does not fit in memory");
    return AGL_GENERATION_FAILED;
}

agl_usage agl_generation_usage(const agl_generation *self)
{
    return agl_answer_usage(&self->answer);
}

/* ---- end ------------------------------------------------------------- */

void agl_generation_cancel(agl_generation *self)
{
    for (size_t i = 0; i < self->answer.prompt_count; i++) {
        if (self->requests[i] != NULL) agl_request_cancel(self->requests[i]);
    }
}

static void deinit_choice(agl_choice *choice)
{
    agl_buffer_deinit(&choice->text);
    agl_buffer_deinit(&choice->reasoning);
    agl_buffer_deinit(&choice->token_ids);
    agl_buffer_deinit(&choice->logprobs.items);
    agl_buffer_deinit(&choice->logprobs.values);
    agl_buffer_deinit(&choice->logprobs.top);
    agl_buffer_deinit(&choice->logprobs.offsets);
    free(choice->stop_string);
}

void agl_generation_destroy(agl_generation *self)
{
    if (self == NULL) return;
    agl_answer *answer = &self->answer;
    /* All are told to stop before the first one is waited for. */
    agl_generation_cancel(self);
    for (size_t i = 0; i < answer->prompt_count; i++) agl_request_destroy(self->requests[i]);
    for (size_t i = 0; i < answer->choice_count; i++) deinit_choice(&answer->choices[i]);
    for (size_t i = 0; i < answer->prompt_count; i++) {
        free(answer->prompts[i].echo);
        agl_buffer_deinit(&answer->prompts[i].token_ids);
        agl_buffer_deinit(&answer->prompts[i].logprobs);
    }
    agl_buffer_deinit(&answer->chunk_head);
    free(answer->prompts);
    free(answer->choices);
    free(self->requests);
    free(self->done);
    free(self->id);
    free(self->model);
    free(self);
}
