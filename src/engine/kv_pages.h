/* SPDX-License-Identifier: Apache-2.0
 *
 * kv_pages.h - who holds which page of the KV cache: a fixed pool, counted.
 *
 *             acquire                    release, not kept
 *     free ------------> held (refs > 0) ------------------> free
 *       ^                 ^        |
 *       | evict           | retain | release, kept
 *       +--------------- idle <----+      two queues, least recently used first:
 *                                         [cold] pages that will hardly match again
 *                                         [warm] all others
 *
 * A kept page is known to the prefix cache; when nobody holds it, it stays
 * idle with its contents until acquire needs it. Cold pages are taken before
 * warm ones. Numbers only, no device memory (see kv_memory.h). Engine thread only. */
#ifndef AGL_ENGINE_KV_PAGES_H
#define AGL_ENGINE_KV_PAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef uint32_t agl_page_id;
#define AGL_PAGE_NONE UINT32_MAX
#define AGL_PAGE_TOKENS_MAX 256     /* tokens of a page */

typedef struct agl_page_pool agl_page_pool;

/* Called when an idle page is about to get new contents. */
typedef void (*agl_page_evict_fn)(void *user, agl_page_id page);

agl_status agl_page_pool_create(agl_page_pool **out, uint32_t page_count, agl_error *err);
void agl_page_pool_destroy(agl_page_pool *pool);            /* NULL is allowed */
void agl_page_pool_on_evict(agl_page_pool *pool, agl_page_evict_fn evict, void *user);

/* A page with one reference and no contents; an idle one is evicted if none is
 * free. AGL_ERR_LIMIT: every page is held. */
agl_status agl_page_acquire(agl_page_id *out, agl_page_pool *pool);
void agl_page_retain(agl_page_pool *pool, agl_page_id page); /* held or idle */
void agl_page_release(agl_page_pool *pool, agl_page_id page);

/* Mark a held page as cached: it goes idle, not free, when released last. */
void agl_page_keep(agl_page_pool *pool, agl_page_id page, bool cold);
void agl_page_forget(agl_page_pool *pool, agl_page_id page); /* undo keep, free if idle */

/* Next idle page in eviction order, or AGL_PAGE_NONE. */
agl_page_id agl_page_idle_first(const agl_page_pool *pool);

uint32_t agl_page_refs(const agl_page_pool *pool, agl_page_id page);
bool agl_page_kept(const agl_page_pool *pool, agl_page_id page);
uint32_t agl_page_pool_size(const agl_page_pool *pool);
uint32_t agl_page_pool_available(const agl_page_pool *pool); /* free and idle */
uint32_t agl_page_pool_idle(const agl_page_pool *pool);

#endif
