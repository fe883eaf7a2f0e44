/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/added_tokens.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

void agl_added_tokens_deinit(agl_added_tokens *added)
{
    for (size_t i = 0; i < added->count; i++) free(added->tokens[i].text);
    free(added->tokens);
    *added = (agl_added_tokens){0};
}

agl_status agl_added_tokens_insert(agl_added_tokens *added, const agl_added_token *token,
                                   agl_error *err)
{
    if (added->count == AGL_ADDED_TOKENS_MAX) {
        return agl_fail(err, AGL_ERR_LIMIT, "more than %d added tokens", AGL_ADDED_TOKENS_MAX);
    }
    if (added->count == added->capacity) {
        size_t capacity = added->capacity == 0 ? 64 : 2 * added->capacity;
        agl_added_token *tokens = realloc(added->tokens, capacity * sizeof *tokens);
        if (tokens == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the added tokens");
        added->tokens = tokens;
        added->capacity = capacity;
    }
    char *text = malloc(token->bytes + 1u);
    if (text == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the added tokens");
    memcpy(text, token->text, token->bytes);
    text[token->bytes] = '\0';
    added->tokens[added->count] = *token;
    added->tokens[added->count++].text = text;
    return AGL_OK;
}

/* First pass before second, then by first byte, then the longest first. */
static int compare(const void *a, const void *b)
{
    const agl_added_token *x = a, *y = b;
    if (x->normalized != y->normalized) return x->normalized ? 1 : -1;
    int order = (int)(unsigned char)x->text[0] - (int)(unsigned char)y->text[0];
    if (order != 0) return order;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return memcmp(x->text, y->text, x->bytes);
}

void agl_added_tokens_seal(agl_added_tokens *added)
{
    if (added->count > 0) qsort(added->tokens, added->count, sizeof *added->tokens, compare);
    size_t at = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int byte = 0; byte < 256; byte++) {
            added->first[pass][byte] = (uint16_t)at;
            while (at < added->count && added->tokens[at].normalized == (pass == 1) &&
                   (unsigned char)added->tokens[at].text[0] == byte) {
                at++;
            }
        }
        added->first[pass][256] = (uint16_t)at;
    }
}

const agl_added_token *agl_added_tokens_find(const agl_added_tokens *added, const char *text,
                                             size_t bytes)
{
    for (size_t i = 0; i < added->count; i++) {
        const agl_added_token *token = &added->tokens[i];
        if (token->bytes == bytes && memcmp(token->text, text, bytes) == 0) return token;
    }
    return NULL;
}

/* Bytes of the White_Space character (Unicode) at `text`, or 0. */
static size_t white_space(const char *text, size_t bytes)
{
    static const char *const SPACES[] = {
        "\xc2\x85", "\xc2\xa0", "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81", "\xe2\x80\x82",
        "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87", "\xe2\x80\x88",
        "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f",
        "\xe3\x80\x80",
    };
    if (bytes == 0) return 0;
    if (text[0] == ' ' || (text[0] >= '\t' && text[0] <= '\r')) return 1;
    if ((unsigned char)text[0] < 0x80) return 0;
    for (size_t i = 0; i < AGL_COUNT(SPACES); i++) {
        size_t length = strlen(SPACES[i]);
        if (length <= bytes && memcmp(text, SPACES[i], length) == 0) return length;
    }
    return 0;
}

static size_t white_space_before(const char *text, size_t from, size_t at)
{
    while (at > from) {
        size_t start = at - 1;
        while (start > from && ((unsigned char)text[start] & 0xc0u) == 0x80u) start--;
        if (white_space(text + start, at - start) != at - start) break;
        at = start;
    }
    return at;
}

static size_t white_space_after(const char *text, size_t at, size_t end)
{
    for (size_t length; (length = white_space(text + at, end - at)) > 0;) at += length;
    return at;
}

const agl_added_token *agl_added_tokens_next(agl_span *place, const agl_added_tokens *added,
                                             int pass, const char *text, size_t from, size_t end,
                                             const agl_span *closed, size_t closed_count)
{
    const uint16_t *first = added->first[pass];
    if (first[0] == first[256]) return NULL;
    for (size_t at = from; at < end; at++) {
        unsigned char byte = (unsigned char)text[at];
        if (first[byte] == first[byte + 1]) continue;
        while (closed_count > 0 && closed->end <= at) {
            closed++;
            closed_count--;
        }
        for (size_t i = first[byte]; i < first[byte + 1]; i++) {
            const agl_added_token *token = &added->tokens[i];
            if (token->bytes > end - at || memcmp(text + at, token->text, token->bytes) != 0) continue;
            if (closed_count > 0 && closed->begin < at + token->bytes) continue;
            place->begin = token->lstrip ? white_space_before(text, from, at) : at;
            place->end = at + token->bytes;
            if (token->rstrip) place->end = white_space_after(text, place->end, end);
            return token;
        }
    }
    return NULL;
}
