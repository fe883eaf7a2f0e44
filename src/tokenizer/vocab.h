/* SPDX-License-Identifier: Apache-2.0
 *
 * vocab.h - the plain tokens of a byte-level vocabulary: id to bytes, bytes to id.
 *
 * The file writes each byte as one printable character (GPT-2's alphabet); here tokens
 * are the bytes themselves. A token that uses characters outside the alphabet cannot come
 * out of any text; it keeps its UTF-8 spelling for decoding, as Hugging Face does.
 * Immutable once filled: any thread may read. */
#ifndef AGL_TOKENIZER_VOCAB_H
#define AGL_TOKENIZER_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"

/* Ids fit 20 bits, so that a pair of ids and a merge rank share 64 bits (bpe.h), and a
 * hostile file cannot ask for a large table with one large id. */
#define AGL_VOCAB_ID_BITS 20
#define AGL_VOCAB_ID_MAX ((1 << AGL_VOCAB_ID_BITS) - 1)

typedef struct {
    uint32_t offset, bytes;     /* in the pool                                 */
    bool present;
} agl_vocab_entry;

/* The hash beside the id saves the walk to the bytes of tokens that differ. */
typedef struct {
    uint32_t hash;
    int32_t id;                 /* -1: free */
} agl_vocab_slot;

typedef struct {
    agl_buffer pool;            /* bytes of all tokens, in the file's order    */
    agl_vocab_entry *entries;   /* [size]                                      */
    int32_t size, capacity;     /* size: highest id + 1                        */
    agl_vocab_slot *slots;      /* [slot_mask + 1] open addressing             */
    uint32_t slot_mask;
    uint32_t slots_used;
    int32_t byte_id[256];       /* token of a single byte, or -1               */
} agl_vocab;

/* Room for `tokens` byte-level tokens in the hash. */
agl_status agl_vocab_init(agl_vocab *vocab, size_t tokens, agl_error *err);
void agl_vocab_deinit(agl_vocab *vocab);

/* Bytes of a token as spelled in the file. False if a character is not in the byte
 * alphabet; then `out` is the spelling itself. */
bool agl_vocab_spelling_decode(agl_buffer *out, const char *spelling, size_t bytes);

/* Add a token; `lookup` makes its bytes findable. FORMAT if the id is taken. */
agl_status agl_vocab_insert(agl_vocab *vocab, int32_t id, const char *token, size_t bytes,
                            bool lookup, const char *name, agl_error *err);

int32_t agl_vocab_find(const agl_vocab *vocab, const char *token, size_t bytes); /* -1: none */

/* NULL for an id without token; never NULL for a token of no bytes. */
const char *agl_vocab_bytes(const agl_vocab *vocab, int32_t id, size_t *bytes);

/* Hash of short byte strings; also keys the encoder's cache. */
uint32_t agl_bytes_hash(const char *text, size_t bytes);

#endif
