/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/vocab.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

#define POOL_BYTES_MAX ((size_t)256 << 20)

uint32_t agl_bytes_hash(const char *text, size_t bytes)
{
    uint64_t hash = 0x9e3779b97f4a7c15u ^ bytes;
    while (bytes > 0) {
        uint64_t word = 0;
        size_t take = bytes < 8 ? bytes : 8;
        memcpy(&word, text, take);
        hash = (hash ^ word) * 0xff51afd7ed558ccdu;
        hash ^= hash >> 32;
        text += take;
        bytes -= take;
    }
    return (uint32_t)hash;
}

agl_status agl_vocab_init(agl_vocab *vocab, size_t tokens, agl_error *err)
{
    *vocab = (agl_vocab){0};
    agl_buffer_init(&vocab->pool, POOL_BYTES_MAX);
    for (int byte = 0; byte < 256; byte++) vocab->byte_id[byte] = -1;
    if (tokens > AGL_VOCAB_ID_MAX) {
        return agl_fail(err, AGL_ERR_LIMIT, "vocabulary of %zu tokens, at most %d are supported",
                        tokens, AGL_VOCAB_ID_MAX);
    }
    size_t slots = 16;
    while (slots < tokens + tokens / 2) slots *= 2; /* at most two thirds full */
    vocab->slots = malloc(slots * sizeof *vocab->slots);
    if (vocab->slots == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the vocabulary");
    memset(vocab->slots, 0xff, slots * sizeof *vocab->slots);
    vocab->slot_mask = (uint32_t)(slots - 1);
    return AGL_OK;
}

void agl_vocab_deinit(agl_vocab *vocab)
{
    agl_buffer_deinit(&vocab->pool);
    free(vocab->entries);
    free(vocab->slots);
    *vocab = (agl_vocab){0};
}

/* GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the other 68 bytes for
 * U+0100 and up, in order. Returns -1 for a character outside. */
static int alphabet_byte(uint32_t character)
{
    static const uint8_t OTHERS[][2] = {{0x00, 0x20}, {0x7f, 0xa0}, {0xad, 0xad}};
    if (character >= 0x100) {
        uint32_t index = character - 0x100;
        for (size_t i = 0; i < AGL_COUNT(OTHERS); i++) {
            uint32_t count = OTHERS[i][1] - OTHERS[i][0] + 1u;
            if (index < count) return (int)(OTHERS[i][0] + index);
            index -= count;
        }
        return -1;
    }
    for (size_t i = 0; i < AGL_COUNT(OTHERS); i++) {
        if (character >= OTHERS[i][0] && character <= OTHERS[i][1]) return -1;
    }
    return (int)character;
}

bool agl_vocab_spelling_decode(agl_buffer *out, const char *spelling, size_t bytes)
{
    size_t start = out->bytes;
    for (size_t i = 0; i < bytes;) {
        unsigned char lead = (unsigned char)spelling[i];
        size_t length = agl_utf8_character(spelling + i, bytes - i);
        uint32_t character = UINT32_MAX; /* the alphabet ends at U+0143 */
        if (length == 1) character = lead;
        if (length == 2) character = (lead & 0x1fu) << 6 | ((unsigned char)spelling[i + 1] & 0x3fu);
        int byte = alphabet_byte(character);
        if (byte < 0) {
            out->bytes = start;
            agl_buffer_append(out, spelling, bytes);
            return false;
        }
        agl_buffer_append_char(out, (char)byte);
        i += length;
    }
    return true;
}

static agl_status entries_grow(agl_vocab *vocab, int32_t id, agl_error *err)
{
    if (id < vocab->capacity) return AGL_OK;
    int32_t capacity = vocab->capacity == 0 ? 1024 : vocab->capacity;
    while (capacity <= id) capacity *= 2;
    agl_vocab_entry *entries = realloc(vocab->entries, (size_t)capacity * sizeof *entries);
    if (entries == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the vocabulary");
    memset(entries + vocab->capacity, 0, (size_t)(capacity - vocab->capacity) * sizeof *entries);
    vocab->entries = entries;
    vocab->capacity = capacity;
    return AGL_OK;
}

/* Slot that holds the token, or the free one where it belongs. */
static agl_vocab_slot *slot_of(const agl_vocab *vocab, uint32_t hash, const char *token, size_t bytes)
{
    uint32_t index = hash & vocab->slot_mask;
    for (;; index = (index + 1) & vocab->slot_mask) {
        agl_vocab_slot *slot = &vocab->slots[index];
        if (slot->id < 0) return slot;
        if (slot->hash != hash) continue;
        const agl_vocab_entry *entry = &vocab->entries[slot->id];
        if (entry->bytes == bytes && memcmp(vocab->pool.data + entry->offset, token, bytes) == 0)
            return slot;
    }
}

agl_status agl_vocab_insert(agl_vocab *vocab, int32_t id, const char *token, size_t bytes,
                            bool lookup, const char *name, agl_error *err)
{
    assert(id >= 0 && id <= AGL_VOCAB_ID_MAX);
    AGL_TRY(entries_grow(vocab, id, err));
    if (vocab->entries[id].present) {
        return agl_fail(err, AGL_ERR_FORMAT, "%s: two tokens have the id %d", name, (int)id);
    }
    if (lookup && bytes > 0) {
        uint32_t hash = agl_bytes_hash(token, bytes);
        agl_vocab_slot *slot = slot_of(vocab, hash, token, bytes);
        if (slot->id >= 0) {
            return agl_fail(err, AGL_ERR_FORMAT, "%s: ids %d and %d are the same token", name,
                            (int)slot->id, (int)id);
        }
        assert(vocab->slots_used < vocab->slot_mask);
        *slot = (agl_vocab_slot){.hash = hash, .id = id};
        vocab->slots_used++;
        if (bytes == 1) vocab->byte_id[(unsigned char)token[0]] = id;
    }
    size_t offset = vocab->pool.bytes;
    agl_buffer_append(&vocab->pool, token, bytes);
    agl_buffer_append_char(&vocab->pool, '\0');
    if (vocab->pool.failed) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the vocabulary");
    vocab->entries[id] = (agl_vocab_entry){
        .offset = (uint32_t)offset, .bytes = (uint32_t)bytes, .present = true};
    if (id >= vocab->size) vocab->size = id + 1;
    return AGL_OK;
}

int32_t agl_vocab_find(const agl_vocab *vocab, const char *token, size_t bytes)
{
    return slot_of(vocab, agl_bytes_hash(token, bytes), token, bytes)->id;
}

const char *agl_vocab_bytes(const agl_vocab *vocab, int32_t id, size_t *bytes)
{
    *bytes = 0;
    if (id < 0 || id >= vocab->size || !vocab->entries[id].present) return NULL;
    *bytes = vocab->entries[id].bytes;
    return vocab->pool.data + vocab->entries[id].offset;
}
