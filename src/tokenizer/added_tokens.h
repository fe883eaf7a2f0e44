/* SPDX-License-Identifier: Apache-2.0
 *
 * added_tokens.h - tokens such as "<|user|>" that are found in the text as they are,
 * leftmost first, the longest of those that start at one place.
 *
 * Tokens with "normalized": false are found in a first pass over the text, the others in
 * what the first pass left. Immutable once sealed: any thread may search. */
#ifndef AGL_TOKENIZER_ADDED_TOKENS_H
#define AGL_TOKENIZER_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    int32_t id;
    char *text;             /* UTF-8, owned                                */
    uint32_t bytes;
    bool special;           /* left out of the answer's text by default    */
    bool normalized;        /* belongs to the second pass                  */
    bool lstrip, rstrip;    /* swallows white space on that side           */
} agl_added_token;

typedef struct {
    agl_added_token *tokens;    /* [count], after sealing by first byte, then longest first */
    size_t count, capacity;
    uint16_t first[2][257];     /* [pass][byte]: tokens of that first byte start here       */
} agl_added_tokens;

#define AGL_ADDED_TOKENS_MAX 16384

void agl_added_tokens_deinit(agl_added_tokens *added);

/* Copies the text. */
agl_status agl_added_tokens_insert(agl_added_tokens *added, const agl_added_token *token,
                                   agl_error *err);
void agl_added_tokens_seal(agl_added_tokens *added);    /* after the last insert */

const agl_added_token *agl_added_tokens_find(const agl_added_tokens *added, const char *text,
                                             size_t bytes); /* by whole text; NULL: none */

/* Half-open stretches of a text, rising. */
typedef struct {
    size_t begin, end;
} agl_span;

/* Where the next token stands in text[from, end). Places that touch one of the `closed` spans
 * do not count. White space swallowed by lstrip and rstrip is part of *place, but reaches
 * back no further than `from`. NULL if there is none. */
const agl_added_token *agl_added_tokens_next(agl_span *place, const agl_added_tokens *added,
                                             int pass, const char *text, size_t from, size_t end,
                                             const agl_span *closed, size_t closed_count);

#endif
