/* SPDX-License-Identifier: Apache-2.0
 *
 * call.h - one parsed completion request: what the engine is asked, once per
 * prompt, and how the answer is to be written. Everything lives in the call's arena. */
#ifndef AGL_SERVER_CALL_H
#define AGL_SERVER_CALL_H

#include "agl/agl.h"
#include "base/arena.h"
#include "server/fields.h"
#include "server/media_fetch.h"

#define AGL_PROMPTS_MAX 256

typedef struct {
    const char *text;           /* not terminated; NULL: tokens */
    size_t text_bytes;
    const int32_t *tokens;
    size_t token_count;
} agl_prompt;

typedef struct {
    agl_request_options options;    /* without the prompt of a text completion */
    agl_prompt *prompts;            /* text completions; NULL: options.messages */
    size_t prompt_count;            /* >= 1; 1 for chat                         */

    bool is_chat;
    bool stream;
    bool include_usage;             /* a usage chunk at the end of a stream     */
    bool continuous_usage;          /* and the usage so far in every chunk      */
    bool logprobs;                  /* the answer carries logprobs              */
    bool echo;
    bool echo_only;                 /* echo with max_tokens 0: no completion    */
    bool return_token_ids;
    bool tokens_as_token_ids;       /* "token_id:123" instead of text           */
    bool split_reasoning;
    bool hide_reasoning;            /* split, but the thinking is left out      */
    uint32_t stream_interval;       /* tokens per chunk, >= 1                   */
    const char *response_role;
    const char *echo_text;          /* chat: last assistant text; may be NULL   */
    size_t echo_bytes;
    const char *model;              /* as asked for; NULL: the default          */
    const char *request_id;         /* of the body; NULL: none                  */
} agl_call;

/* What parsing needs to know of the server; borrowed. */
typedef struct {
    const agl_media_policy *media;
    agl_content_format content_format;
    struct json_object *template_kwargs; /* defaults under the request's own; may be NULL */
    const char *response_role;
    bool split_reasoning;
    bool force_include_usage;
    uint32_t stream_interval;
} agl_call_defaults;

agl_status agl_chat_request_parse(agl_call *call, agl_fields *fields, const agl_call_defaults *defaults);
agl_status agl_completion_request_parse(agl_call *call, agl_fields *fields,
                                        const agl_call_defaults *defaults);

/* The fields both have: sampling, streaming, ids, media options, scheduling. */
agl_status agl_call_common_parse(agl_call *call, agl_fields *fields, const agl_call_defaults *defaults);

/* messages, add_generation_prompt, chat_template_kwargs, ...: shared with /tokenize.
 * Images are fetched here. The echo text is the last assistant message's. */
agl_status agl_messages_parse(agl_call *call, agl_fields *fields, const agl_call_defaults *defaults);

#endif
