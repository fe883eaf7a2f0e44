/* SPDX-License-Identifier: Apache-2.0
 *
 * prefix_cache.h - finds KV pages whose contents a new prompt can use.
 *
 * Every full page of a sequence has a digest over its parent's digest, its tokens
 * and, where it touches an image, that image's pixels and grid. Equal digests mean
 * equal tokens, images and positions from the very start, hence equal keys and values:
 *
 *     root = H(salt) --> H(root, page 0) --> H(., page 1) --> ... --> partial tail
 *                              |
 *                              +--> H(., page 1') ...        pages are a tree
 *
 * Two indexes: by digest (full pages), and by the parent's digest, to find the child that
 * agrees longest with a prompt that leaves the tree inside a page: that page is copied.
 * A cached page is never written again. Engine thread only, but for the digest functions. */
#ifndef AGL_ENGINE_PREFIX_CACHE_H
#define AGL_ENGINE_PREFIX_CACHE_H

#include "base/digest.h"
#include "engine/kv_pages.h"

typedef struct agl_prefix_cache agl_prefix_cache;

/* An image of a prompt: what stands behind its placeholder tokens. */
typedef struct {
    agl_digest digest;          /* of the file and its size here     */
    uint32_t first_token;
    uint32_t rows, columns;     /* merged grid, rows * columns tokens */
} agl_prefix_image;

/* Start of every chain. Any thread. */
agl_digest agl_prefix_root(const char *salt);               /* NULL: none */

/* Digest of the page that holds tokens [first, first + count) of a sequence. Any thread. */
agl_digest agl_prefix_extend(const agl_digest *parent, const int32_t *tokens, uint32_t first,
                             uint32_t count, const agl_prefix_image *images, size_t image_count);

/* `pool` is borrowed; its evict callback becomes this cache's. */
agl_status agl_prefix_cache_create(agl_prefix_cache **out, agl_page_pool *pool,
                                   uint32_t page_tokens, agl_error *err);
void agl_prefix_cache_destroy(agl_prefix_cache *cache);     /* NULL is allowed */

/* Page with that digest or AGL_PAGE_NONE; not retained. */
agl_page_id agl_prefix_cache_find(const agl_prefix_cache *cache, const agl_digest *digest);

/* Child of `parent` that shares the longest run of first tokens with `tokens`; not retained.
 * A token that is a placeholder of an image is given as -1 and matches nothing. */
agl_page_id agl_prefix_cache_find_partial(const agl_prefix_cache *cache, const agl_digest *parent,
                                          const int32_t *tokens, uint32_t count,
                                          uint32_t *matched);

typedef struct {
    agl_digest parent, digest;  /* digest is unused if count < page_tokens        */
    const int32_t *tokens;      /* [count], -1 at image placeholders               */
    uint32_t count;             /* page_tokens, or less for a tail                 */
    bool cold;                  /* will hardly match again: evicted first          */
} agl_prefix_entry;

/* Make a held page known. If a page with the same digest is known already, that one is
 * returned and `page` stays unknown: the caller may exchange them. */
agl_page_id agl_prefix_cache_insert(agl_prefix_cache *cache, agl_page_id page,
                                    const agl_prefix_entry *entry);

/* Forget all pages nobody holds. */
void agl_prefix_cache_reset(agl_prefix_cache *cache);

uint32_t agl_prefix_cache_pages(const agl_prefix_cache *cache);

#endif
