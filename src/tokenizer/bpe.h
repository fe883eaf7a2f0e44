/* SPDX-License-Identifier: Apache-2.0
 *
 * bpe.h - byte pair encoding of one pre-token.
 *
 * Merges are numbered by rank. The pair with the lowest rank is merged first, the leftmost
 * of equals before the others, until no neighbours form a pair of the list. Immutable once
 * filled; the scratch belongs to one thread. */
#ifndef AGL_TOKENIZER_BPE_H
#define AGL_TOKENIZER_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocab.h"

/* A slot of the table is one word: left id (20 bits), right id (20), rank (24). */
#define AGL_BPE_RANK_BITS 24
#define AGL_BPE_RANK_MAX ((1u << AGL_BPE_RANK_BITS) - 2u)

typedef struct {
    const agl_vocab *vocab;     /* borrowed; must outlive this                             */
    bool ignore_merges;         /* a pre-token that is a token is emitted whole            */
    uint64_t *slots;            /* [slot_mask + 1] open addressing; UINT64_MAX: free       */
    uint32_t slot_mask;
    int32_t *merged;            /* [merge_count] token that the merge of this rank makes   */
    uint32_t merge_count;
} agl_bpe;

agl_status agl_bpe_init(agl_bpe *bpe, const agl_vocab *vocab, size_t merges, agl_error *err);
void agl_bpe_deinit(agl_bpe *bpe);

/* The merge of next rank. A pair that is listed twice keeps its last rank. */
void agl_bpe_insert(agl_bpe *bpe, int32_t left, int32_t right, int32_t merged);

typedef struct {
    struct agl_bpe_symbol *symbols;     /* [symbol_capacity]                    */
    struct agl_bpe_candidate *heap;     /* [2 * symbol_capacity]                */
    size_t symbol_capacity;
} agl_bpe_scratch;

void agl_bpe_scratch_deinit(agl_bpe_scratch *scratch);  /* zero-initialise before use */

/* Append the tokens of one pre-token; O(n log n) in its bytes. Bytes that are no token
 * of the vocabulary vanish, as Hugging Face does without an unknown token. */
agl_status agl_bpe_encode(agl_tokens *out, const agl_bpe *bpe, agl_bpe_scratch *scratch,
                          const char *text, size_t bytes, agl_error *err);

#endif
