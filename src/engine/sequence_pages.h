/* SPDX-License-Identifier: Apache-2.0
 *
 * sequence_pages.h - the KV pages one sequence holds, from admission to end.
 *
 *     tokens   0 ............ cached_pages ........ computed ........ tokens
 *     pages    |known to the prefix cache|own, full |own, partly| reserved |
 *
 * A page before `computed` may be shared; a page that is about to be written is not:
 * make_room copies a shared tail first. Copies are listed, not done: the step runs them in
 * order before the forward pass. Engine thread only. */
#ifndef AGL_ENGINE_SEQUENCE_PAGES_H
#define AGL_ENGINE_SEQUENCE_PAGES_H

#include "engine/sequence.h"

typedef struct {
    agl_page_id to, from;
} agl_page_copy;

/* What all sequences of an engine share. */
typedef struct {
    agl_page_pool *pool;
    agl_prefix_cache *prefix;   /* NULL: off */
    uint32_t page_tokens;
    agl_page_copy *copies;      /* [copy_capacity] of the step being planned */
    uint32_t copy_count, copy_capacity;
} agl_page_context;

/* Take the pages of all tokens so far: what the prefix cache has, then new ones. Leaves
 * `reserve` pages available. false: not enough, nothing is held. Sets `computed`. */
bool agl_sequence_admit(agl_page_context *context, agl_sequence *sequence, uint32_t reserve);

/* Is the page of token number `computed` present and private? */
bool agl_sequence_has_room(const agl_page_context *context, const agl_sequence *sequence);

/* Make it so. false: no page left. */
bool agl_sequence_make_room(agl_page_context *context, agl_sequence *sequence);

/* `choice` continues from `leader`, whose pages it shares from now on. */
void agl_sequence_fork(agl_page_context *context, agl_sequence *choice, const agl_sequence *leader);

/* `rows` more tokens have been computed: full pages become known to the prefix cache. */
void agl_sequence_advance(agl_page_context *context, agl_sequence *sequence, uint32_t rows);

/* Let go of all pages; `keep_tail`: the partly filled last one becomes known too. */
void agl_sequence_drop(agl_page_context *context, agl_sequence *sequence, bool keep_tail);

#endif
