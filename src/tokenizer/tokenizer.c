/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/tokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer_state.h"
#include "tokenizer/utf8_repair.h"

/* Positions in the text are 32 bits wide in bpe.c. */
#define TEXT_BYTES_MAX ((size_t)1 << 30)

/* Words repeat. The cache of one call holds, by hash, where a word stood before and which
 * of the ids already written are its own; a collision overwrites. 4096 words of 20 bytes
 * stay in the second-level cache. */
#define CACHE_WORDS 4096u
#define CACHE_TEXT_BYTES_MIN 2048u /* a shorter text does not pay for clearing it */

typedef struct {
    uint32_t begin, bytes;      /* the word's place in the text; bytes 0: free   */
    uint32_t hash;
    uint32_t ids_begin, id_count; /* ids_begin counts from the call's first id   */
} cached_word;

typedef struct {
    const agl_tokenizer *tokenizer;
    const char *text;           /* valid UTF-8                                    */
    const char *folded;         /* the same, as the pre-tokenizer shall see it    */
    agl_span *closed;           /* [closed_count] untrusted stretches             */
    size_t closed_count;
    agl_tokens *out;
    size_t out_begin;           /* ids in `out` before this call                  */
    agl_pretoken_matcher matcher;
    agl_bpe_scratch scratch;
    cached_word *cache;         /* [CACHE_WORDS] or NULL                          */
} encoder;

void agl_tokens_deinit(agl_tokens *tokens)
{
    free(tokens->ids);
    *tokens = (agl_tokens){0};
}

agl_status agl_tokens_append(agl_tokens *tokens, int32_t id, size_t repeat, agl_error *err)
{
    if (repeat > tokens->capacity - tokens->count) {
        size_t capacity = tokens->capacity < 64 ? 64 : tokens->capacity;
        while (capacity - tokens->count < repeat) {
            if (capacity > SIZE_MAX / 2 / sizeof *tokens->ids) {
                return agl_fail(err, AGL_ERR_MEMORY, "no memory for %zu more tokens", repeat);
            }
            capacity *= 2;
        }
        int32_t *ids = realloc(tokens->ids, capacity * sizeof *ids);
        if (ids == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for %zu tokens", capacity);
        tokens->ids = ids;
        tokens->capacity = capacity;
    }
    for (size_t i = 0; i < repeat; i++) tokens->ids[tokens->count++] = id;
    return AGL_OK;
}

void agl_tokenizer_close(agl_tokenizer *tokenizer)
{
    if (tokenizer == NULL) return;
    agl_bpe_deinit(&tokenizer->bpe);
    agl_vocab_deinit(&tokenizer->vocab);
    agl_added_tokens_deinit(&tokenizer->added);
    agl_pretokenizer_deinit(&tokenizer->pretokenizer);
    agl_tokens_deinit(&tokenizer->prefix);
    agl_tokens_deinit(&tokenizer->suffix);
    free(tokenizer->special);
    free(tokenizer);
}

int32_t agl_tokenizer_vocab(const agl_tokenizer *tokenizer)
{
    return tokenizer->vocab.size;
}

int32_t agl_tokenizer_find(const agl_tokenizer *tokenizer, const char *text)
{
    const agl_added_token *added = agl_added_tokens_find(&tokenizer->added, text, strlen(text));
    if (added != NULL) return added->id;
    return agl_vocab_find(&tokenizer->vocab, text, strlen(text));
}

const char *agl_tokenizer_bytes(const agl_tokenizer *tokenizer, int32_t id, size_t *bytes)
{
    return agl_vocab_bytes(&tokenizer->vocab, id, bytes);
}

bool agl_tokenizer_is_special(const agl_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->vocab.size && tokenizer->special[id] != 0;
}

static agl_status encode_word(void *context, size_t begin, size_t end, agl_error *err)
{
    encoder *e = context;
    const char *word = e->text + begin;
    size_t bytes = end - begin;
    const agl_bpe *bpe = &e->tokenizer->bpe;
    if (e->cache == NULL) return agl_bpe_encode(e->out, bpe, &e->scratch, word, bytes, err);

    uint32_t hash = agl_bytes_hash(word, bytes);
    cached_word *cached = &e->cache[hash % CACHE_WORDS];
    size_t ids_begin = e->out->count;
    if (cached->hash == hash && cached->bytes == bytes &&
        memcmp(e->text + cached->begin, word, bytes) == 0) {
        for (uint32_t i = 0; i < cached->id_count; i++) {
            int32_t id = e->out->ids[e->out_begin + cached->ids_begin + i];
            AGL_TRY(agl_tokens_append(e->out, id, 1, err));
        }
        return AGL_OK;
    }
    AGL_TRY(agl_bpe_encode(e->out, bpe, &e->scratch, word, bytes, err));
    *cached = (cached_word){.begin = (uint32_t)begin,
                            .bytes = (uint32_t)bytes,
                            .hash = hash,
                            .ids_begin = (uint32_t)(ids_begin - e->out_begin),
                            .id_count = (uint32_t)(e->out->count - ids_begin)};
    return AGL_OK;
}

/* Pass 0 and 1 look for added tokens in text[begin, end); what lies between goes to the
 * next pass, after the last one to the pre-tokenizer. */
static agl_status encode_pass(encoder *e, int pass, size_t begin, size_t end, agl_error *err)
{
    if (begin >= end) return AGL_OK;
    if (pass == 2) return agl_pretoken_matcher_run(&e->matcher, e->folded, begin, end, err);
    const agl_added_token *token;
    agl_span place;
    while ((token = agl_added_tokens_next(&place, &e->tokenizer->added, pass, e->text, begin, end,
                                          e->closed, e->closed_count)) != NULL) {
        AGL_TRY(encode_pass(e, pass + 1, begin, place.begin, err));
        AGL_TRY(agl_tokens_append(e->out, token->id, 1, err));
        begin = place.end;
    }
    return encode_pass(e, pass + 1, begin, end, err);
}

/* Join the runs into valid UTF-8 and note which stretches are untrusted. */
static agl_status runs_join(agl_buffer *joined, encoder *e, const agl_text_run *runs, size_t count,
                            agl_error *err)
{
    e->closed = malloc((count + 1) * sizeof *e->closed);
    if (e->closed == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory to tokenise");
    for (size_t i = 0; i < count; i++) {
        size_t begin = joined->bytes;
        agl_utf8_append_repaired(joined, runs[i].text, runs[i].bytes);
        if (runs[i].trusted || joined->bytes == begin) continue;
        agl_span *last = e->closed_count > 0 ? &e->closed[e->closed_count - 1] : NULL;
        if (last != NULL && last->end == begin) last->end = joined->bytes;
        else e->closed[e->closed_count++] = (agl_span){.begin = begin, .end = joined->bytes};
    }
    if (!joined->failed) return AGL_OK;
    return agl_fail(err, AGL_ERR_LIMIT, "text to tokenise is over %zu bytes", TEXT_BYTES_MAX);
}

static agl_status encode_text(encoder *e, char *text, size_t bytes, agl_error *err)
{
    char *copy = NULL;
    e->text = text;
    e->folded = text;
    if (agl_pretokenizer_fold(text, bytes, false)) {
        copy = malloc(bytes);
        if (copy == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory to tokenise");
        memcpy(copy, text, bytes);
        agl_pretokenizer_fold(copy, bytes, true);
        e->folded = copy;
    }
    agl_status status = agl_pretoken_matcher_init(&e->matcher, &e->tokenizer->pretokenizer, bytes, err);
    e->matcher.word = encode_word;
    e->matcher.context = e;
    if (bytes >= CACHE_TEXT_BYTES_MIN) e->cache = calloc(CACHE_WORDS, sizeof *e->cache);
    if (status == AGL_OK) status = encode_pass(e, 0, 0, bytes, err);
    free(e->cache);
    agl_bpe_scratch_deinit(&e->scratch);
    agl_pretoken_matcher_deinit(&e->matcher);
    free(copy);
    return status;
}

agl_status agl_tokenizer_encode(agl_tokens *out, const agl_tokenizer *tokenizer,
                                const agl_text_run *runs, size_t count, bool add_special,
                                agl_error *err)
{
    size_t out_begin = out->count;
    const agl_tokens *prefix = &tokenizer->prefix, *suffix = &tokenizer->suffix;
    agl_status status = AGL_OK;
    for (size_t i = 0; add_special && status == AGL_OK && i < prefix->count; i++) {
        status = agl_tokens_append(out, prefix->ids[i], 1, err);
    }
    encoder e = {.tokenizer = tokenizer, .out = out, .out_begin = out->count};
    agl_buffer joined;
    agl_buffer_init(&joined, TEXT_BYTES_MAX);
    if (status == AGL_OK) status = runs_join(&joined, &e, runs, count, err);
    if (status == AGL_OK && joined.bytes > 0) status = encode_text(&e, joined.data, joined.bytes, err);
    agl_buffer_deinit(&joined);
    free(e.closed);
    for (size_t i = 0; add_special && status == AGL_OK && i < suffix->count; i++) {
        status = agl_tokens_append(out, suffix->ids[i], 1, err);
    }
    if (status != AGL_OK) out->count = out_begin;
    return status;
}
