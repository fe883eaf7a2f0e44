/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/sequence_pages.h"

#include <assert.h>

static uint32_t pages_for(const agl_page_context *context, uint32_t tokens)
{
    return (tokens + context->page_tokens - 1) / context->page_tokens;
}

static bool inside_image(const agl_prompt *prompt, uint32_t token)
{
    for (size_t i = 0; i < prompt->image_count; i++) {
        const agl_prefix_image *image = &prompt->images[i];
        if (token >= image->first_token &&
            token < image->first_token + image->rows * image->columns) return true;
    }
    return false;
}

/* Copy tokens [first, first + count); placeholders of images become -1 if asked. */
static void page_tokens(int32_t *out, const agl_sequence *sequence, uint32_t first, uint32_t count,
                        bool mark_images)
{
    const agl_prompt *prompt = &sequence->request->prompt;
    for (uint32_t i = 0; i < count; i++) {
        out[i] = mark_images && inside_image(prompt, first + i) ? -1
                                                                : agl_sequence_token(sequence, first + i);
    }
}

/* Digest of full page `page`, whose parent's is given. The prompt's are made at submit. */
static agl_digest page_digest(const agl_page_context *context, const agl_sequence *sequence,
                              uint32_t page, const agl_digest *parent)
{
    const agl_prompt *prompt = &sequence->request->prompt;
    uint32_t first = page * context->page_tokens;
    if (first + context->page_tokens <= prompt->tokens.count) return prompt->page_digests[page];
    int32_t tokens[AGL_PAGE_TOKENS_MAX];
    page_tokens(tokens, sequence, first, context->page_tokens, false);
    return agl_prefix_extend(parent, tokens, first, context->page_tokens, prompt->images,
                             prompt->image_count);
}

/* From the first image on, a page matches again only if the same step is retried: clients
 * drop the pictures of past turns. */
static bool is_cold(const agl_page_context *context, const agl_sequence *sequence, uint32_t page)
{
    const agl_prompt *prompt = &sequence->request->prompt;
    return prompt->image_count > 0 &&
           (page + 1) * context->page_tokens > prompt->images[0].first_token;
}

static void list_copy(agl_page_context *context, agl_page_id to, agl_page_id from)
{
    assert(context->copy_count < context->copy_capacity);
    context->copies[context->copy_count++] = (agl_page_copy){to, from};
}

/* Hold the full pages of the longest known prefix. The last token is always computed anew,
 * for its logits. */
static void match_full(agl_page_context *context, agl_sequence *sequence, uint32_t tokens)
{
    uint32_t limit = (tokens - 1) / context->page_tokens;
    while (sequence->page_count < limit) {
        uint32_t page = sequence->page_count;
        agl_digest digest = page_digest(context, sequence, page, &sequence->tip);
        agl_page_id known = agl_prefix_cache_find(context->prefix, &digest);
        if (known == AGL_PAGE_NONE) break;
        agl_page_retain(context->pool, known);
        sequence->pages[sequence->page_count++] = known;
        sequence->tip = digest;
    }
    sequence->cached_pages = sequence->page_count;
    sequence->computed = sequence->page_count * context->page_tokens;
}

/* The page in which the prompt leaves the known tree: its common first tokens are copied. */
static agl_page_id match_partial(const agl_page_context *context, const agl_sequence *sequence,
                                 uint32_t tokens, uint32_t *matched)
{
    int32_t wanted[AGL_PAGE_TOKENS_MAX];
    uint32_t first = sequence->computed;
    uint32_t count = tokens - 1 - first;
    if (count > context->page_tokens) count = context->page_tokens;
    *matched = 0;
    if (count == 0) return AGL_PAGE_NONE;
    page_tokens(wanted, sequence, first, count, true);
    return agl_prefix_cache_find_partial(context->prefix, &sequence->tip, wanted, count, matched);
}

bool agl_sequence_admit(agl_page_context *context, agl_sequence *sequence, uint32_t reserve)
{
    assert(sequence->page_count == 0);
    uint32_t tokens = agl_sequence_tokens(sequence);
    uint32_t pages = pages_for(context, tokens);
    bool reuse = context->prefix != NULL && sequence->request->prompt_results == NULL;
    sequence->tip = sequence->request->prompt.root;
    sequence->computed = sequence->cached_pages = 0;
    /* Cheap refusal before the chain is walked: even a perfect match leaves the others in use. */
    if (agl_page_pool_available(context->pool) == 0) return false;
    if (reuse) match_full(context, sequence, tokens);
    if (agl_page_pool_available(context->pool) < pages - sequence->page_count + reserve) {
        agl_sequence_drop(context, sequence, false);
        return false;
    }

    agl_page_id source = AGL_PAGE_NONE;
    uint32_t matched = 0;
    if (reuse) source = match_partial(context, sequence, tokens, &matched);
    /* Held while the new pages are taken, or one of them might be the source itself. */
    if (source != AGL_PAGE_NONE) agl_page_retain(context->pool, source);
    if (source != AGL_PAGE_NONE &&
        agl_page_pool_available(context->pool) < pages - sequence->page_count) {
        agl_page_release(context->pool, source);
        source = AGL_PAGE_NONE;
    }
    uint32_t first_new = sequence->page_count;
    while (sequence->page_count < pages) {
        agl_status status = agl_page_acquire(&sequence->pages[sequence->page_count], context->pool);
        assert(status == AGL_OK);
        (void)status;
        sequence->page_count++;
    }
    if (source != AGL_PAGE_NONE) {
        list_copy(context, sequence->pages[first_new], source);
        sequence->computed += matched;
        agl_page_release(context->pool, source);
    }
    return true;
}

bool agl_sequence_has_room(const agl_page_context *context, const agl_sequence *sequence)
{
    uint32_t page = sequence->computed / context->page_tokens;
    assert(page <= sequence->page_count);
    return page < sequence->page_count &&
           agl_page_refs(context->pool, sequence->pages[page]) == 1;
}

bool agl_sequence_make_room(agl_page_context *context, agl_sequence *sequence)
{
    if (agl_sequence_has_room(context, sequence)) return true;
    uint32_t page = sequence->computed / context->page_tokens;
    if (page == sequence->page_count) {
        if (agl_page_acquire(&sequence->pages[page], context->pool) != AGL_OK) return false;
        sequence->page_count++;
        return true;
    }
    agl_page_id shared = sequence->pages[page];
    agl_page_id own;
    if (agl_page_acquire(&own, context->pool) != AGL_OK) return false;
    list_copy(context, own, shared);
    agl_page_release(context->pool, shared);
    sequence->pages[page] = own;
    return true;
}

void agl_sequence_fork(agl_page_context *context, agl_sequence *choice, const agl_sequence *leader)
{
    assert(choice->page_count == 0);
    uint32_t held = pages_for(context, leader->computed);
    for (uint32_t i = 0; i < held; i++) {
        agl_page_retain(context->pool, leader->pages[i]);
        choice->pages[i] = leader->pages[i];
    }
    choice->page_count = held;
    choice->computed = leader->computed;
    choice->cached_pages = leader->cached_pages;
    choice->tip = leader->tip;
}

void agl_sequence_advance(agl_page_context *context, agl_sequence *sequence, uint32_t rows)
{
    sequence->computed += rows;
    if (context->prefix == NULL) return;
    uint32_t full = sequence->computed / context->page_tokens;
    while (sequence->cached_pages < full) {
        uint32_t page = sequence->cached_pages;
        int32_t tokens[AGL_PAGE_TOKENS_MAX];
        page_tokens(tokens, sequence, page * context->page_tokens, context->page_tokens, true);
        agl_prefix_entry entry = {
            .parent = sequence->tip,
            .digest = page_digest(context, sequence, page, &sequence->tip),
            .tokens = tokens,
            .count = context->page_tokens,
            .cold = is_cold(context, sequence, page),
        };
        agl_page_id mine = sequence->pages[page];
        if (!agl_page_kept(context->pool, mine)) {
            agl_page_id known = agl_prefix_cache_insert(context->prefix, mine, &entry);
            if (known != mine) {    /* two sequences computed the same: keep one */
                agl_page_retain(context->pool, known);
                agl_page_release(context->pool, mine);
                sequence->pages[page] = known;
            }
        }
        sequence->tip = entry.digest;
        sequence->cached_pages++;
    }
}

static void cache_tail(agl_page_context *context, agl_sequence *sequence)
{
    uint32_t page = sequence->cached_pages;
    uint32_t count = sequence->computed - page * context->page_tokens;
    if (count == 0 || count >= context->page_tokens || page >= sequence->page_count) return;
    agl_page_id tail = sequence->pages[page];
    if (agl_page_refs(context->pool, tail) > 1 || agl_page_kept(context->pool, tail)) return;
    int32_t tokens[AGL_PAGE_TOKENS_MAX];
    page_tokens(tokens, sequence, page * context->page_tokens, count, true);
    if (tokens[0] < 0) return;
    agl_prefix_entry entry = {
        .parent = sequence->tip, .tokens = tokens, .count = count,
        .cold = is_cold(context, sequence, page),
    };
    agl_prefix_cache_insert(context->prefix, tail, &entry);
}

void agl_sequence_drop(agl_page_context *context, agl_sequence *sequence, bool keep_tail)
{
    if (keep_tail && context->prefix != NULL) cache_tail(context, sequence);
    /* Last page first: a page without its parent can never match, so parents leave later. */
    while (sequence->page_count > 0) {
        agl_page_release(context->pool, sequence->pages[--sequence->page_count]);
    }
    sequence->computed = sequence->cached_pages = 0;
    sequence->tip = sequence->request->prompt.root;
}
