/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/template_form.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *at, *end;
    bool strip_newline;     /* the tag before was a block: trim_blocks             */
    bool strip_space;       /* the tag before ended with "-"                       */
    bool line_start;        /* what comes first stands at the start of a line      */
} scanner;

static bool is_space(char c)
{
    return isspace((unsigned char)c) != 0;
}

/* First "{{", "{%" or "{#" at or after `at`, or `end`. */
static const char *tag_start(const char *at, const char *end)
{
    for (; at + 1 < end; at++) {
        if (at[0] == '{' && (at[1] == '{' || at[1] == '%' || at[1] == '#')) return at;
    }
    return end;
}

/* The closing mark of the tag at `at`, quotes respected; NULL if it is not closed. */
static const char *tag_end(const char *at, const char *end)
{
    char close = at[1] == '{' ? '}' : at[1];
    char quote = '\0';
    for (at += 2; at + 1 < end; at++) {
        if (quote != '\0') {
            if (*at == '\\') at++;
            else if (*at == quote) quote = '\0';
        } else if (close != '#' && (*at == '\'' || *at == '"')) {
            quote = *at;
        } else if (at[0] == close && at[1] == '}') {
            return at;
        }
    }
    return NULL;
}

static void append_text(agl_buffer *out, scanner *s, const char *stop, bool strip_space, bool block)
{
    const char *text = s->at, *end = stop;
    if (s->strip_space) {
        while (text < end && is_space(*text)) text++;
    } else if (s->strip_newline && text < end && *text == '\n') {
        text++;
        s->line_start = true;
    }
    if (strip_space) {
        while (end > text && is_space(end[-1])) end--;
    } else if (block) { /* lstrip_blocks: a block alone at the start of its line */
        const char *line = end;
        while (line > text && (line[-1] == ' ' || line[-1] == '\t')) line--;
        if (line > text ? line[-1] == '\n' : s->line_start) end = line;
    }
    agl_buffer_append(out, text, (size_t)(end - text));
}

static void append_tag(agl_buffer *out, const char *open, const char *inside, const char *inside_end)
{
    while (inside < inside_end && is_space(*inside)) inside++;
    while (inside_end > inside && is_space(inside_end[-1])) inside_end--;
    agl_buffer_append(out, open, 2);
    char quote = '\0';
    for (const char *at = inside; at < inside_end; at++) {
        if (quote == '\0' && is_space(*at)) {
            if (!is_space(at[1])) agl_buffer_append_char(out, ' ');
            continue;
        }
        agl_buffer_append_char(out, *at);
        if (quote != '\0' && *at == '\\' && at + 1 < inside_end) agl_buffer_append_char(out, *++at);
        else if (quote != '\0' && *at == quote) quote = '\0';
        else if (quote == '\0' && (*at == '\'' || *at == '"')) quote = *at;
    }
    agl_buffer_append(out, open[1] == '{' ? "}}" : "%}", 2);
}

/* One stretch of text and the tag behind it. False at the end. */
static bool scan(agl_buffer *out, scanner *s)
{
    const char *open = tag_start(s->at, s->end);
    const char *close = open < s->end ? tag_end(open, s->end) : NULL;
    bool marked_plus = close != NULL && (open[2] == '+' || close[-1] == '+');
    if (close == NULL || marked_plus) {
        append_text(out, s, s->end, false, false);
        return false;
    }
    const char *inside = open + 2, *inside_end = close;
    bool strip_before = inside < inside_end && *inside == '-';
    if (strip_before) inside++;
    bool strip_after = inside < inside_end && inside_end[-1] == '-';
    if (strip_after) inside_end--;
    bool block = open[1] != '{';
    append_text(out, s, open, strip_before, block);
    if (open[1] != '#') append_tag(out, open, inside, inside_end);
    s->at = close + 2;
    s->strip_space = strip_after;
    s->strip_newline = block;
    s->line_start = false;
    return true;
}

agl_status agl_template_form(agl_buffer *out, const char *text, size_t bytes, agl_error *err)
{
    char *lines = malloc(bytes + 1);
    if (lines == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a chat template");
    size_t length = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] != '\r') lines[length++] = text[i];
        else if (i + 1 == bytes || text[i + 1] != '\n') lines[length++] = '\n';
    }
    if (length > 0 && lines[length - 1] == '\n') length--;
    scanner s = {.at = lines, .end = lines + length, .line_start = true};
    while (scan(out, &s)) {}
    free(lines);
    return out->failed ? agl_fail(err, AGL_ERR_MEMORY, "no memory for a chat template") : AGL_OK;
}
