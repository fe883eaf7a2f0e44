/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.h - byte-level BPE from a Hugging Face tokenizer.json.
 *
 * Every key of the file is honoured or refused with its name. The pre-tokenizer's
 * pattern is run by PCRE2 (JIT, match limits). Immutable after open: any thread. */
#ifndef AGL_TOKENIZER_TOKENIZER_H
#define AGL_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"

typedef struct agl_tokenizer agl_tokenizer;

/* A growing list of token ids. Zero-initialise; free with agl_tokens_deinit. */
typedef struct {
    int32_t *ids;
    size_t count, capacity;
} agl_tokens;

void agl_tokens_deinit(agl_tokens *tokens);
agl_status agl_tokens_append(agl_tokens *tokens, int32_t id, size_t repeat, agl_error *err);

agl_status agl_tokenizer_open(agl_tokenizer **out, const char *path, agl_error *err);
agl_status agl_tokenizer_parse(agl_tokenizer **out, const char *json, size_t bytes,
                               const char *name, agl_error *err);       /* fuzzed */
void agl_tokenizer_close(agl_tokenizer *tokenizer);

/* A stretch of prompt text. All stretches of a call are encoded as one text. Added tokens are
 * recognised only where all their characters are `trusted`: in untrusted text "<|user|>" is
 * plain characters, and so is one that would be completed by untrusted text. */
typedef struct {
    const char *text;       /* UTF-8 */
    size_t bytes;
    bool trusted;
} agl_text_run;

/* Append the ids of the runs to `out`; a failed call appends nothing. add_special: apply the
 * file's post-processor, if any. Each run is UTF-8 by itself; what is not becomes U+FFFD, as
 * with Python's errors="replace". LIMIT beyond 1 GiB of text. */
agl_status agl_tokenizer_encode(agl_tokens *out, const agl_tokenizer *tokenizer,
                                const agl_text_run *runs, size_t count, bool add_special,
                                agl_error *err);

int32_t agl_tokenizer_vocab(const agl_tokenizer *tokenizer);    /* highest id + 1 */

/* Id of an added token by its text, or of a plain token by its bytes ("\n"), or -1. */
int32_t agl_tokenizer_find(const agl_tokenizer *tokenizer, const char *text);

/* The token that tokenizer_config.json at `path` names eos_token, a string or an object with
 * "content"; -1 if the file, the name or the token is not there. */
agl_status agl_tokenizer_end_token(int32_t *out, const agl_tokenizer *tokenizer, const char *path,
                                   agl_error *err);

/* Bytes the token stands for; NULL for an unknown id. A view. */
const char *agl_tokenizer_bytes(const agl_tokenizer *tokenizer, int32_t id, size_t *bytes);
bool agl_tokenizer_is_special(const agl_tokenizer *tokenizer, int32_t id);

/* Incremental detokenising: text comes out in whole UTF-8 characters. */
typedef struct {
    const agl_tokenizer *tokenizer;
    bool keep_special;
    unsigned char held[4];  /* start of an incomplete character */
    size_t held_bytes;
} agl_detokenizer;

void agl_detokenizer_init(agl_detokenizer *detokenizer, const agl_tokenizer *tokenizer,
                          bool keep_special);

/* Append to `out` the characters that `id` completes. The sum of all is what Hugging Face
 * decodes from the whole sequence. An unknown id is nothing. */
void agl_detokenizer_push(agl_detokenizer *detokenizer, int32_t id, agl_buffer *out);

/* The end: an incomplete rest becomes U+FFFD. */
void agl_detokenizer_flush(agl_detokenizer *detokenizer, agl_buffer *out);

#endif
