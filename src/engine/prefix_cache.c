/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/prefix_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A popular prefix may have thousands of continuations; looking at the newest few is enough
 * to save part of one page. */
#define CHILDREN_SEEN_MAX 32

typedef struct {
    agl_digest digest, parent;
    uint32_t count;             /* tokens with valid keys; 0: page is not cached  */
    uint32_t digest_next;       /* chain of its bucket in by_digest               */
    uint32_t parent_next;       /* chain of its bucket in by_parent, newest first */
} page_entry;

struct agl_prefix_cache {
    agl_page_pool *pool;
    uint32_t page_tokens, cached_count;
    uint32_t bucket_mask;
    agl_page_id *by_digest;     /* [bucket_mask + 1] first page of a chain */
    agl_page_id *by_parent;
    page_entry *entries;        /* [pages]                                 */
    int32_t *tokens;            /* [pages, page_tokens]                    */
};

agl_digest agl_prefix_root(const char *salt)
{
    agl_digest_part parts[] = {
        {"autoglm prefix", 14},
        {salt, salt != NULL ? strlen(salt) : 0},
    };
    return agl_digest_of(parts, AGL_COUNT(parts));
}

agl_digest agl_prefix_extend(const agl_digest *parent, const int32_t *tokens, uint32_t first,
                             uint32_t count, const agl_prefix_image *images, size_t image_count)
{
    agl_digest_part head[] = {
        {parent->bytes, sizeof parent->bytes},
        {tokens, count * sizeof *tokens},
    };
    agl_digest digest = agl_digest_of(head, AGL_COUNT(head));
    for (size_t i = 0; i < image_count; i++) {
        const agl_prefix_image *image = &images[i];
        uint32_t end = image->first_token + image->rows * image->columns;
        if (end <= first || image->first_token >= first + count) continue;
        int64_t place[3] = {(int64_t)image->first_token - first, image->rows, image->columns};
        agl_digest_part parts[] = {
            {digest.bytes, sizeof digest.bytes},
            {image->digest.bytes, sizeof image->digest.bytes},
            {place, sizeof place},
        };
        digest = agl_digest_of(parts, AGL_COUNT(parts));
    }
    return digest;
}

static uint32_t bucket_of(const agl_prefix_cache *cache, const agl_digest *digest)
{
    uint32_t hash;
    memcpy(&hash, digest->bytes, sizeof hash);  /* SHA-256: any bits are good bits */
    return hash & cache->bucket_mask;
}

static bool equal(const agl_digest *a, const agl_digest *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0; /* not a secret */
}

static void unlink_page(agl_prefix_cache *cache, agl_page_id page)
{
    page_entry *entry = &cache->entries[page];
    assert(entry->count > 0);
    agl_page_id *link = &cache->by_parent[bucket_of(cache, &entry->parent)];
    while (*link != page) link = &cache->entries[*link].parent_next;
    *link = entry->parent_next;
    if (entry->count == cache->page_tokens) {
        link = &cache->by_digest[bucket_of(cache, &entry->digest)];
        while (*link != page) link = &cache->entries[*link].digest_next;
        *link = entry->digest_next;
    }
    entry->count = 0;
    cache->cached_count--;
}

static void on_evict(void *user, agl_page_id page) { unlink_page(user, page); }

agl_status agl_prefix_cache_create(agl_prefix_cache **out, agl_page_pool *pool,
                                   uint32_t page_tokens, agl_error *err)
{
    assert(page_tokens > 0);
    uint32_t pages = agl_page_pool_size(pool);
    uint32_t buckets = 16;
    while (buckets < pages && buckets < (1u << 30)) buckets *= 2;

    agl_prefix_cache *cache = calloc(1, sizeof *cache);
    if (cache != NULL) {
        cache->by_digest = malloc(buckets * sizeof *cache->by_digest);
        cache->by_parent = malloc(buckets * sizeof *cache->by_parent);
        cache->entries = calloc(pages, sizeof *cache->entries);
        cache->tokens = calloc((size_t)pages * page_tokens, sizeof *cache->tokens);
    }
    if (cache == NULL || cache->by_digest == NULL || cache->by_parent == NULL ||
        cache->entries == NULL || cache->tokens == NULL) {
        agl_prefix_cache_destroy(cache);
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for the prefix cache of %u pages", pages);
    }
    cache->pool = pool;
    cache->page_tokens = page_tokens;
    cache->bucket_mask = buckets - 1;
    for (uint32_t i = 0; i < buckets; i++) cache->by_digest[i] = cache->by_parent[i] = AGL_PAGE_NONE;
    agl_page_pool_on_evict(pool, on_evict, cache);
    *out = cache;
    return AGL_OK;
}

void agl_prefix_cache_destroy(agl_prefix_cache *cache)
{
    if (cache == NULL) return;
    free(cache->by_digest);
    free(cache->by_parent);
    free(cache->entries);
    free(cache->tokens);
    free(cache);
}

agl_page_id agl_prefix_cache_find(const agl_prefix_cache *cache, const agl_digest *digest)
{
    agl_page_id page = cache->by_digest[bucket_of(cache, digest)];
    while (page != AGL_PAGE_NONE && !equal(&cache->entries[page].digest, digest)) {
        page = cache->entries[page].digest_next;
    }
    return page;
}

agl_page_id agl_prefix_cache_find_partial(const agl_prefix_cache *cache, const agl_digest *parent,
                                          const int32_t *tokens, uint32_t count,
                                          uint32_t *matched)
{
    agl_page_id best = AGL_PAGE_NONE;
    uint32_t best_count = 0;
    int seen = 0;
    for (agl_page_id page = cache->by_parent[bucket_of(cache, parent)];
         page != AGL_PAGE_NONE && seen < CHILDREN_SEEN_MAX && best_count < count;
         page = cache->entries[page].parent_next) {
        const page_entry *entry = &cache->entries[page];
        if (!equal(&entry->parent, parent)) continue;
        seen++;
        const int32_t *have = cache->tokens + (size_t)page * cache->page_tokens;
        uint32_t common = 0;
        while (common < count && common < entry->count && tokens[common] >= 0 &&
               have[common] == tokens[common]) common++;
        if (common > best_count) {
            best = page;
            best_count = common;
        }
    }
    *matched = best_count;
    return best;
}

agl_page_id agl_prefix_cache_insert(agl_prefix_cache *cache, agl_page_id page,
                                    const agl_prefix_entry *entry)
{
    assert(entry->count > 0 && entry->count <= cache->page_tokens);
    assert(cache->entries[page].count == 0);
    bool full = entry->count == cache->page_tokens;
    if (full) {
        agl_page_id known = agl_prefix_cache_find(cache, &entry->digest);
        if (known != AGL_PAGE_NONE) return known;
    } else {
        uint32_t matched;
        agl_page_id known = agl_prefix_cache_find_partial(cache, &entry->parent, entry->tokens,
                                                          entry->count, &matched);
        if (matched == entry->count) return known;
    }

    page_entry *slot = &cache->entries[page];
    slot->digest = entry->digest;
    slot->parent = entry->parent;
    slot->count = entry->count;
    memcpy(cache->tokens + (size_t)page * cache->page_tokens, entry->tokens,
           entry->count * sizeof *entry->tokens);
    agl_page_id *head = &cache->by_parent[bucket_of(cache, &slot->parent)];
    slot->parent_next = *head;
    *head = page;
    if (full) {
        head = &cache->by_digest[bucket_of(cache, &slot->digest)];
        slot->digest_next = *head;
        *head = page;
    }
    cache->cached_count++;
    agl_page_keep(cache->pool, page, entry->cold);
    return page;
}

void agl_prefix_cache_reset(agl_prefix_cache *cache)
{
    agl_page_id page;
    while ((page = agl_page_idle_first(cache->pool)) != AGL_PAGE_NONE) {
        unlink_page(cache, page);
        agl_page_forget(cache->pool, page);
    }
}

uint32_t agl_prefix_cache_pages(const agl_prefix_cache *cache) { return cache->cached_count; }
