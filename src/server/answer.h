/* SPDX-License-Identifier: Apache-2.0
 *
 * answer.h - what a generation has produced so far, and its two written forms:
 * server-sent events (sse.c) and one JSON body (openai_response.c).
 *
 *     answer ── choices[prompt * n + i] ── text, reasoning, logprobs   since the last chunk,
 *            └─ prompts[prompt]         ── token ids, logprobs         or all of it
 *
 * Lists are kept as JSON text, comma after each item, so that writing a chunk
 * is a copy. One thread at a time. */
#ifndef AGL_SERVER_ANSWER_H
#define AGL_SERVER_ANSWER_H

#include "server/call.h"
#include "server/reasoning_split.h"

typedef struct {
    agl_buffer items;       /* chat: logprob objects; completions: "tokens"  */
    agl_buffer values;      /* completions: "token_logprobs"                 */
    agl_buffer top;         /* completions: "top_logprobs"                   */
    agl_buffer offsets;     /* completions: "text_offset"                    */
    size_t next_offset;     /* characters before the next token              */
} agl_logprob_lists;

typedef struct {
    uint32_t index;
    agl_buffer text;
    agl_buffer reasoning;
    agl_buffer token_ids;
    agl_logprob_lists logprobs;
    agl_reasoning_split split;
    uint32_t pending_tokens;    /* since the last chunk                      */
    bool begun;                 /* the engine has sent something             */
    bool opened;                /* the first chunk was written               */
    bool finished;
    agl_finish finish;
    int32_t stop_token;         /* -1: none, or the end of the text          */
    char *stop_string;          /* owned; NULL: none                         */
    uint64_t last_token_ns;     /* clock of the last text event; 0: none     */
} agl_choice;

typedef struct {
    char *echo;                 /* text put before each choice; owned; NULL  */
    size_t echo_bytes;
    agl_buffer token_ids;       /* of the prompt, if asked for               */
    agl_buffer logprobs;        /* prompt_logprobs items, if asked for       */
    agl_usage usage;
} agl_answer_prompt;

typedef struct {
    const agl_call *call;       /* its flags only: strings of the request may be gone */
    agl_engine *engine;
    const char *id;
    const char *model;
    int64_t created;            /* Unix seconds                              */
    agl_choice *choices;        /* [prompt_count * n]                        */
    size_t choice_count;
    agl_answer_prompt *prompts;
    size_t prompt_count;
    uint32_t reasoning_tokens;
    agl_buffer chunk_head;      /* "data: {...,\"choices\":[" of every chunk  */
} agl_answer;

/* Usage of all prompts together. */
agl_usage agl_answer_usage(const agl_answer *answer);

/* {"prompt_tokens":...} */
void agl_usage_write(agl_buffer *out, const agl_answer *answer, const agl_usage *usage);

/* Rates and phases of the request, llama.cpp's names and more. */
void agl_timings_write(agl_buffer *out, const agl_usage *usage);

/* What follows the text of a choice, in a body and in a chunk: `,"logprobs":...,"finish_reason":...` and,
 * if asked for, the ids; those of a text prompt once, before the choice is opened. */
void agl_choice_end_write(agl_buffer *out, const agl_answer *answer, const agl_choice *choice);

/* The whole body of a non-streamed answer. */
void agl_response_write(agl_buffer *out, const agl_answer *answer);

/* ---- server-sent events (sse.c) ---- */

void agl_sse_head_write(agl_answer *answer);

/* One chunk of what `choice` has gathered, which is cleared. */
void agl_sse_chunk_write(agl_buffer *out, agl_answer *answer, agl_choice *choice);

/* The usage chunk if asked for, then [DONE]. */
void agl_sse_end_write(agl_buffer *out, const agl_answer *answer);
void agl_sse_error_write(agl_buffer *out, const agl_api_error *err);
void agl_sse_heartbeat_write(agl_buffer *out);

/* ---- logprobs (logprobs.c) ---- */

/* Append generated tokens to the lists of a choice, in the endpoint's form. */
void agl_logprobs_append(const agl_answer *answer, agl_choice *choice, const agl_token_event *tokens,
                         size_t count);

/* `"logprobs":...` of a choice; null if none were asked for. */
void agl_logprobs_write(agl_buffer *out, const agl_answer *answer, const agl_choice *choice);

/* The prompt's tokens, for prompt_logprobs and for an echoed prompt. */
void agl_prompt_logprobs_append(agl_answer *answer, size_t prompt, const agl_token_event *tokens,
                                size_t count);

/* A list kept with a comma after each item, written as [..]. */
void agl_list_write(agl_buffer *out, const agl_buffer *items);

#endif
