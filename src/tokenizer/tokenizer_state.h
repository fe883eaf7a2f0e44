/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer_state.h - what a tokenizer is made of; only tokenizer/ includes this.
 *
 *     text -> added tokens -> pre-tokens -> byte pairs -> ids, between prefix and suffix */
#ifndef AGL_TOKENIZER_TOKENIZER_STATE_H
#define AGL_TOKENIZER_TOKENIZER_STATE_H

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocab.h"

struct agl_tokenizer {
    agl_vocab vocab;            /* plain and added tokens                          */
    agl_bpe bpe;
    agl_added_tokens added;
    agl_pretokenizer pretokenizer;
    agl_tokens prefix, suffix;  /* of the post-processor                           */
    uint8_t *special;           /* [vocab.size] 1: left out of the answer's text   */
};

#endif
