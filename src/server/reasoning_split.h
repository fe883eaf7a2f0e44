/* SPDX-License-Identifier: Apache-2.0
 *
 * reasoning_split.h - divides streamed text into thinking and answer.
 *
 *     START --"<think>"--> THINKING --"</think>"--> GAP --other--> CONTENT
 *       | other               | "<answer>" (kept)                    ^
 *       +---------------------+--------------------------------------+
 *
 * White space around the tags is dropped. A tag may arrive in pieces: text that
 * could still become one is held back. `<answer>` stays in the content, because
 * clients of this model look for it. */
#ifndef AGL_SERVER_REASONING_SPLIT_H
#define AGL_SERVER_REASONING_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"

typedef enum { AGL_SPLIT_START, AGL_SPLIT_THINKING, AGL_SPLIT_GAP, AGL_SPLIT_CONTENT } agl_split_state;

typedef struct {
    agl_split_state state;
    bool in_text;           /* thinking has begun: white space counts */
    char held[16];          /* a possible tag, not yet decided        */
    size_t held_bytes;
} agl_reasoning_split;

/* `inside`: the prompt already ends in an open <think>. */
void agl_reasoning_split_init(agl_reasoning_split *split, bool inside);

/* Append what `text` adds to either side. */
void agl_reasoning_split_push(agl_reasoning_split *split, const char *text, size_t bytes,
                              agl_buffer *reasoning, agl_buffer *content);

/* The text has ended: what was held is plain text. */
void agl_reasoning_split_finish(agl_reasoning_split *split, agl_buffer *reasoning, agl_buffer *content);

#endif
