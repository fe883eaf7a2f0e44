/* SPDX-License-Identifier: Apache-2.0 */
#include "server/reasoning_split.h"

#include <string.h>

static const char OPEN[] = "<think>";
static const char CLOSE[] = "</think>";
static const char ANSWER[] = "<answer>";

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* 0: cannot become `tag`; 1: may still; 2: is it. */
static int match(const agl_reasoning_split *split, const char *tag)
{
    size_t bytes = strlen(tag);
    if (split->held_bytes > bytes || memcmp(split->held, tag, split->held_bytes) != 0) return 0;
    return split->held_bytes == bytes ? 2 : 1;
}

void agl_reasoning_split_init(agl_reasoning_split *split, bool inside)
{
    *split = (agl_reasoning_split){.state = inside ? AGL_SPLIT_THINKING : AGL_SPLIT_START};
}

/* One character that is no part of a tag. */
static void emit(agl_reasoning_split *split, char c, agl_buffer *reasoning, agl_buffer *content)
{
    if (split->state == AGL_SPLIT_THINKING) {
        if (!split->in_text && is_space(c)) return;
        split->in_text = true;
        agl_buffer_append_char(reasoning, c);
        return;
    }
    if (split->state != AGL_SPLIT_CONTENT) {
        if (is_space(c)) return;
        split->state = AGL_SPLIT_CONTENT;
    }
    agl_buffer_append_char(content, c);
}

/* Act on a whole tag, or give up the first held character. True if something was decided. */
static bool decide(agl_reasoning_split *split, agl_buffer *reasoning, agl_buffer *content)
{
    bool thinking = split->state == AGL_SPLIT_THINKING;
    int open = thinking ? 0 : match(split, OPEN);
    int close = thinking ? match(split, CLOSE) : 0;
    int answer = thinking ? match(split, ANSWER) : 0;
    if (split->state == AGL_SPLIT_GAP) open = 0;
    if (open == 2 || close == 2) {
        split->state = open == 2 ? AGL_SPLIT_THINKING : AGL_SPLIT_GAP;
        split->held_bytes = 0;
        return true;
    }
    if (answer == 2) {
        split->state = AGL_SPLIT_CONTENT;
        split->held_bytes = 0;
        agl_buffer_append_text(content, ANSWER);
        return true;
    }
    if (open == 1 || close == 1 || answer == 1) return false;
    char c = split->held[0];
    memmove(split->held, split->held + 1, --split->held_bytes);
    emit(split, c, reasoning, content);
    return true;
}

void agl_reasoning_split_push(agl_reasoning_split *split, const char *text, size_t bytes,
                              agl_buffer *reasoning, agl_buffer *content)
{
    for (size_t i = 0; i < bytes; i++) {
        if (split->state == AGL_SPLIT_CONTENT) { /* nothing is looked for any more */
            agl_buffer_append(content, split->held, split->held_bytes);
            split->held_bytes = 0;
            agl_buffer_append(content, text + i, bytes - i);
            return;
        }
        split->held[split->held_bytes++] = text[i];
        while (split->held_bytes > 0 && decide(split, reasoning, content)) {}
    }
}

void agl_reasoning_split_finish(agl_reasoning_split *split, agl_buffer *reasoning, agl_buffer *content)
{
    for (size_t i = 0; i < split->held_bytes; i++) emit(split, split->held[i], reasoning, content);
    split->held_bytes = 0;
}
