/* SPDX-License-Identifier: Apache-2.0 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/pretokenizer.h"

#include <assert.h>
#include <limits.h>
#include <pcre2.h>
#include <stdint.h>
#include <string.h>

#include "base/utf8.h"

/* PCRE2's own default; a long text may need a step back for each of its bytes on top. */
#define MATCH_STEPS 10000000u

/* Characters that became letters (L) or numbers (N) in Unicode 14.0 to 16.0, so that the PCRE2
 * of a long-term distribution does not know them, and U+180E, which PCRE2 takes for a space.
 * Found by comparing each character's class with that of Hugging Face tokenizers 0.23. */
typedef struct {
    uint32_t first, last;
    char kind;                  /* L letter, N number, P neither, nor space */
} newcomers;

static const newcomers NEWCOMERS[] = {
    {0x180e, 0x180e, 'P'},   {0x1c89, 0x1c8a, 'L'},   {0xa7cb, 0xa7cd, 'L'},   {0xa7da, 0xa7dc, 'L'},
    {0x105c0, 0x105f3, 'L'}, {0x10d40, 0x10d49, 'N'}, {0x10d4a, 0x10d65, 'L'}, {0x10d6f, 0x10d85, 'L'},
    {0x10ec2, 0x10ec4, 'L'}, {0x1123f, 0x11240, 'L'}, {0x11380, 0x11389, 'L'}, {0x1138b, 0x1138b, 'L'},
    {0x1138e, 0x1138e, 'L'}, {0x11390, 0x113b5, 'L'}, {0x113b7, 0x113b7, 'L'}, {0x113d1, 0x113d1, 'L'},
    {0x113d3, 0x113d3, 'L'}, {0x116d0, 0x116e3, 'N'}, {0x11bc0, 0x11be0, 'L'}, {0x11bf0, 0x11bf9, 'N'},
    {0x11f02, 0x11f02, 'L'}, {0x11f04, 0x11f10, 'L'}, {0x11f12, 0x11f33, 'L'}, {0x11f50, 0x11f59, 'N'},
    {0x1342f, 0x1342f, 'L'}, {0x13441, 0x13446, 'L'}, {0x13460, 0x143fa, 'L'}, {0x16100, 0x1611d, 'L'},
    {0x16130, 0x16139, 'N'}, {0x16d40, 0x16d6c, 'L'}, {0x16d70, 0x16d79, 'N'}, {0x18cff, 0x18cff, 'L'},
    {0x1b132, 0x1b132, 'L'}, {0x1b155, 0x1b155, 'L'}, {0x1ccf0, 0x1ccf9, 'N'}, {0x1d2c0, 0x1d2d3, 'N'},
    {0x1df25, 0x1df2a, 'L'}, {0x1e030, 0x1e06d, 'L'}, {0x1e4d0, 0x1e4eb, 'L'}, {0x1e4f0, 0x1e4f9, 'N'},
    {0x1e5d0, 0x1e5ed, 'L'}, {0x1e5f0, 0x1e5f0, 'L'}, {0x1e5f1, 0x1e5fa, 'N'}, {0x2b739, 0x2b739, 'L'},
    {0x2ebf0, 0x2ee5d, 'L'}, {0x31350, 0x323af, 'L'},
};

void agl_pretokenizer_deinit(agl_pretokenizer *pretokenizer)
{
    for (size_t i = 0; i < pretokenizer->stage_count; i++) pcre2_code_free(pretokenizer->patterns[i]);
    *pretokenizer = (agl_pretokenizer){0};
}

/* Oniguruma (Ruby syntax) and PCRE2 (Perl syntax) read these differently. */
static const char *ambiguous_construct(const char *pattern, size_t bytes)
{
    static const char *const CONSTRUCTS[] = {"&&", "\\h", "\\H", "\\R", "\\X", "\\K", "\\G", "\\Z",
                                             "(?m", "(?i-m", "(*", "(?C", "$", "^"};
    for (size_t i = 0; i < bytes; i++) {
        for (size_t k = 0; k < AGL_COUNT(CONSTRUCTS); k++) {
            const char *construct = CONSTRUCTS[k];
            size_t length = strlen(construct);
            if (length > bytes - i || memcmp(pattern + i, construct, length) != 0) continue;
            if (*construct == '^' && i > 0 && pattern[i - 1] == '[') continue; /* a negated class */
            return construct;
        }
        if (pattern[i] == '\\') i++;
    }
    return NULL;
}

agl_status agl_pretokenizer_add(agl_pretokenizer *pretokenizer, const char *pattern, size_t bytes,
                                const char *name, agl_error *err)
{
    if (pretokenizer->stage_count == AGL_PRETOKENIZER_STAGES_MAX) {
        return agl_fail(err, AGL_ERR_LIMIT, "%s: pre_tokenizer: more than %d stages", name,
                        AGL_PRETOKENIZER_STAGES_MAX);
    }
    const char *construct = ambiguous_construct(pattern, bytes);
    if (construct != NULL) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "%s: pre_tokenizer: %s in a pattern is not supported",
                        name, construct);
    }
    int code;
    PCRE2_SIZE offset;
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)pattern, bytes,
                                         PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code,
                                         &offset, NULL);
    if (compiled == NULL) {
        PCRE2_UCHAR reason[128];
        pcre2_get_error_message(code, reason, sizeof reason);
        return agl_fail(err, AGL_ERR_FORMAT, "%s: pre_tokenizer: pattern, byte %zu: %s", name,
                        (size_t)offset, (const char *)reason);
    }
    /* Without JIT (no executable memory, another processor) the interpreter does the same work. */
    (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
    pretokenizer->patterns[pretokenizer->stage_count++] = compiled;
    return AGL_OK;
}

static char newcomer_kind(uint32_t character)
{
    size_t low = 0, high = AGL_COUNT(NEWCOMERS);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (character > NEWCOMERS[middle].last) low = middle + 1;
        else high = middle;
    }
    return low < AGL_COUNT(NEWCOMERS) && character >= NEWCOMERS[low].first ? NEWCOMERS[low].kind : 0;
}

/* An old character of that kind and length. None has another case, as no newcomer folds to ASCII. */
static const char *stand_in(char kind, size_t length)
{
    if (length == 3) return kind == 'L' ? "\xe0\xa4\x84" /* U+0904 */ : "\xe2\x80\x8b" /* U+200B */;
    return kind == 'L' ? "\xf0\x90\x80\x80" /* U+10000 */ : "\xf0\x90\x84\x87" /* U+10107 */;
}

bool agl_pretokenizer_fold(char *text, size_t bytes, bool write)
{
    const unsigned char *at = (const unsigned char *)text;
    bool found = false;
    for (size_t i = 0; i < bytes;) {
        unsigned char lead = at[i];
        if (lead < 0xe1) { /* every newcomer has three bytes or more */
            i++;
            continue;
        }
        size_t length = lead < 0xf0 ? 3 : 4;
        assert(i + length <= bytes);
        uint32_t character = lead & (length == 3 ? 0x0fu : 0x07u);
        for (size_t k = 1; k < length; k++) character = character << 6 | (at[i + k] & 0x3fu);
        bool candidate = length == 4 || lead == 0xe1 || lead == 0xea; /* not CJK or kana */
        char kind = candidate ? newcomer_kind(character) : 0;
        if (kind != 0) {
            if (!write) return true;
            memcpy(text + i, stand_in(kind, length), length);
            found = true;
        }
        i += length;
    }
    return found;
}

agl_status agl_pretoken_matcher_init(agl_pretoken_matcher *matcher,
                                     const agl_pretokenizer *pretokenizer, size_t text_bytes,
                                     agl_error *err)
{
    *matcher = (agl_pretoken_matcher){.pretokenizer = pretokenizer};
    matcher->match = pcre2_match_data_create(1, NULL);
    matcher->limits = pcre2_match_context_create(NULL);
    if (matcher->match == NULL || matcher->limits == NULL) {
        agl_pretoken_matcher_deinit(matcher);
        return agl_fail(err, AGL_ERR_MEMORY, "no memory to tokenise");
    }
    uint64_t steps = MATCH_STEPS + (uint64_t)4 * text_bytes;
    pcre2_set_match_limit(matcher->limits, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
    return AGL_OK;
}

void agl_pretoken_matcher_deinit(agl_pretoken_matcher *matcher)
{
    pcre2_match_data_free(matcher->match);
    pcre2_match_context_free(matcher->limits);
    matcher->match = NULL;
    matcher->limits = NULL;
}

/* The next match in text[from, bytes); false in *found if there is none. */
static agl_status match_next(agl_pretoken_matcher *matcher, size_t stage, const char *text,
                             size_t bytes, size_t from, bool *found, agl_error *err)
{
    const pcre2_code *pattern = matcher->pretokenizer->patterns[stage];
    int rc = pcre2_match(pattern, (PCRE2_SPTR)text, bytes, from, PCRE2_NO_UTF_CHECK, matcher->match,
                         matcher->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) { /* the interpreter keeps its stack on the heap */
        rc = pcre2_match(pattern, (PCRE2_SPTR)text, bytes, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         matcher->match, matcher->limits);
    }
    *found = rc >= 0;
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH) return AGL_OK;
    PCRE2_UCHAR reason[128];
    pcre2_get_error_message(rc, reason, sizeof reason);
    return agl_fail(err, rc == PCRE2_ERROR_NOMEMORY ? AGL_ERR_MEMORY : AGL_ERR_LIMIT,
                    "text cannot be tokenised: %s near byte %zu", (const char *)reason, from);
}

static agl_status cut(agl_pretoken_matcher *matcher, size_t stage, const char *text, size_t begin,
                      size_t end, agl_error *err)
{
    if (begin == end) return AGL_OK;
    if (stage == matcher->pretokenizer->stage_count) {
        return matcher->word(matcher->context, begin, end, err);
    }
    const char *part = text + begin;
    size_t bytes = end - begin;
    size_t done = 0, from = 0; /* done: end of what went on; from: where to search */
    while (from <= bytes) {
        bool found;
        AGL_TRY(match_next(matcher, stage, part, bytes, from, &found, err));
        if (!found) break;
        const PCRE2_SIZE *place = pcre2_get_ovector_pointer(matcher->match);
        size_t match_begin = place[0], match_end = place[1];
        assert(match_begin <= match_end && match_end <= bytes);
        AGL_TRY(cut(matcher, stage + 1, text, begin + done, begin + match_begin, err));
        AGL_TRY(cut(matcher, stage + 1, text, begin + match_begin, begin + match_end, err));
        done = match_end;
        from = match_end;
        if (match_begin == match_end) { /* an empty match cuts, and the search steps on */
            from += from < bytes ? agl_utf8_character(part + from, bytes - from) : 1;
        }
    }
    return cut(matcher, stage + 1, text, begin + done, end, err);
}

agl_status agl_pretoken_matcher_run(agl_pretoken_matcher *matcher, const char *text, size_t begin,
                                    size_t end, agl_error *err)
{
    return cut(matcher, 0, text, begin, end, err);
}
