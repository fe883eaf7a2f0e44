/* SPDX-License-Identifier: Apache-2.0
 *
 * soak_response.h - a strict reader of HTTP/1.1 answers and of the server-sent events
 * in them, fed with whatever the socket gives. The first violation is kept in `fault`. */
#ifndef SOAK_RESPONSE_H
#define SOAK_RESPONSE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"

#define SOAK_CHOICES_MAX 4

typedef struct {
    agl_buffer text;
    uint32_t tokens;            /* counted from token_ids                    */
    char finish[12];            /* "": none yet                              */
} soak_choice;

/* What an answer said, whichever way it came. */
typedef struct {
    soak_choice choices[SOAK_CHOICES_MAX];
    uint32_t prompt_tokens, completion_tokens, cached_tokens;
    bool usage_seen, done, error_event;
} soak_answer;

typedef struct {
    agl_buffer raw;             /* received, not yet parsed                  */
    agl_buffer body;            /* without chunk framing; streams: not yet read as events */
    int status;                 /* 0: the head is not complete               */
    bool stream, chunked, keep_alive, complete;
    uint64_t left;              /* of the body or the chunk                  */
    int state;
    uint32_t token_events;      /* chunks with a choice, so far              */
    uint64_t bytes;             /* received                                  */
    soak_answer answer;
    char fault[256];            /* "": none                                  */
} soak_response;

void soak_response_init(soak_response *response);
void soak_response_deinit(soak_response *response);
void soak_response_clear(soak_response *response);

/* Parse what came. False: response->fault says what is wrong with it. */
bool soak_response_feed(soak_response *response, const char *data, size_t bytes);

/* The connection was closed by the server. */
bool soak_response_closed(soak_response *response);

__attribute__((format(printf, 2, 3)))
bool soak_fault(soak_response *response, const char *format, ...);

#endif
