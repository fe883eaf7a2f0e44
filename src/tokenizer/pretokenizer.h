/* SPDX-License-Identifier: Apache-2.0
 *
 * pretokenizer.h - cuts text into pre-tokens, the words that BPE never joins.
 *
 *     "Hi there" -> stage 0: pattern -> "Hi", " there" -> stage 1: ... -> pre-tokens
 *
 * Every match of a stage's pattern, and every gap between matches, goes to the next stage.
 * Patterns are run by PCRE2. Hugging Face runs them with Oniguruma, whose tables are
 * Unicode 16; PCRE2's are those of its version (10.42: Unicode 14). Characters that one
 * side does not know as letters, numbers or spaces are replaced, for matching only, by
 * old ones of the same kind and length: agl_pretokenizer_fold. Immutable once filled:
 * any thread may use it with a matcher of its own. */
#ifndef AGL_TOKENIZER_PRETOKENIZER_H
#define AGL_TOKENIZER_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

#define AGL_PRETOKENIZER_STAGES_MAX 8

typedef struct {
    struct pcre2_real_code_8 *patterns[AGL_PRETOKENIZER_STAGES_MAX];
    size_t stage_count;
} agl_pretokenizer;

void agl_pretokenizer_deinit(agl_pretokenizer *pretokenizer);

/* Add a stage. FORMAT if the pattern does not compile, UNSUPPORTED if it uses what the two
 * engines understand differently. */
agl_status agl_pretokenizer_add(agl_pretokenizer *pretokenizer, const char *pattern, size_t bytes,
                                const char *name, agl_error *err);

/* Replace in place the characters that PCRE2 would class differently. Returns false, and
 * changes nothing, if `text` has none: `write` false asks only. */
bool agl_pretokenizer_fold(char *text, size_t bytes, bool write);

/* What one call needs: never shared. */
typedef struct {
    const agl_pretokenizer *pretokenizer;
    struct pcre2_real_match_data_8 *match;
    struct pcre2_real_match_context_8 *limits;
    /* Called with every pre-token's place in the text, in order. */
    agl_status (*word)(void *context, size_t begin, size_t end, agl_error *err);
    void *context;
} agl_pretoken_matcher;

/* text_bytes: of the longest text to come; sets the work a match may do. */
agl_status agl_pretoken_matcher_init(agl_pretoken_matcher *matcher,
                                     const agl_pretokenizer *pretokenizer, size_t text_bytes,
                                     agl_error *err);
void agl_pretoken_matcher_deinit(agl_pretoken_matcher *matcher);

/* Cut text[begin, end), valid UTF-8, as if nothing stood around it. LIMIT if a pattern gives up. */
agl_status agl_pretoken_matcher_run(agl_pretoken_matcher *matcher, const char *text, size_t begin,
                                    size_t end, agl_error *err);

#endif
