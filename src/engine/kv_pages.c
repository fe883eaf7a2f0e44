/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/kv_pages.h"

#include <assert.h>
#include <stdlib.h>

enum { COLD, WARM, QUEUES };

typedef struct {
    uint32_t refs;
    uint32_t next, previous;    /* in its idle queue, or AGL_PAGE_NONE */
    bool kept, cold;
} page_state;

typedef struct {
    uint32_t first, last;
} page_queue;

struct agl_page_pool {
    uint32_t page_count, free_count, idle_count;
    page_state *pages;          /* [page_count]                         */
    agl_page_id *free_pages;    /* [page_count], a stack of free_count  */
    page_queue idle[QUEUES];
    agl_page_evict_fn evict;
    void *evict_user;
};

agl_status agl_page_pool_create(agl_page_pool **out, uint32_t page_count, agl_error *err)
{
    assert(page_count > 0 && page_count < AGL_PAGE_NONE);
    agl_page_pool *pool = calloc(1, sizeof *pool);
    if (pool != NULL) {
        pool->pages = calloc(page_count, sizeof *pool->pages);
        pool->free_pages = calloc(page_count, sizeof *pool->free_pages);
    }
    if (pool == NULL || pool->pages == NULL || pool->free_pages == NULL) {
        agl_page_pool_destroy(pool);
        return agl_fail(err, AGL_ERR_MEMORY, "no memory to account for %u KV pages", page_count);
    }
    pool->page_count = pool->free_count = page_count;
    for (uint32_t i = 0; i < page_count; i++) pool->free_pages[i] = page_count - 1 - i;
    for (int i = 0; i < QUEUES; i++) pool->idle[i] = (page_queue){AGL_PAGE_NONE, AGL_PAGE_NONE};
    *out = pool;
    return AGL_OK;
}

void agl_page_pool_destroy(agl_page_pool *pool)
{
    if (pool == NULL) return;
    free(pool->pages);
    free(pool->free_pages);
    free(pool);
}

void agl_page_pool_on_evict(agl_page_pool *pool, agl_page_evict_fn evict, void *user)
{
    pool->evict = evict;
    pool->evict_user = user;
}

static page_queue *queue_of(agl_page_pool *pool, const page_state *page)
{
    return &pool->idle[page->cold ? COLD : WARM];
}

static void idle_append(agl_page_pool *pool, agl_page_id id)
{
    page_state *page = &pool->pages[id];
    page_queue *queue = queue_of(pool, page);
    page->previous = queue->last;
    page->next = AGL_PAGE_NONE;
    if (queue->last != AGL_PAGE_NONE) pool->pages[queue->last].next = id;
    else queue->first = id;
    queue->last = id;
    pool->idle_count++;
}

static void idle_remove(agl_page_pool *pool, agl_page_id id)
{
    page_state *page = &pool->pages[id];
    page_queue *queue = queue_of(pool, page);
    if (page->previous != AGL_PAGE_NONE) pool->pages[page->previous].next = page->next;
    else queue->first = page->next;
    if (page->next != AGL_PAGE_NONE) pool->pages[page->next].previous = page->previous;
    else queue->last = page->previous;
    pool->idle_count--;
}

agl_page_id agl_page_idle_first(const agl_page_pool *pool)
{
    return pool->idle[COLD].first != AGL_PAGE_NONE ? pool->idle[COLD].first
                                                   : pool->idle[WARM].first;
}

agl_status agl_page_acquire(agl_page_id *out, agl_page_pool *pool)
{
    if (pool->free_count == 0) {
        agl_page_id victim = agl_page_idle_first(pool);
        if (victim == AGL_PAGE_NONE) return AGL_ERR_LIMIT;
        if (pool->evict != NULL) pool->evict(pool->evict_user, victim);
        agl_page_forget(pool, victim);
    }
    assert(pool->free_count > 0);
    agl_page_id id = pool->free_pages[--pool->free_count];
    assert(pool->pages[id].refs == 0 && !pool->pages[id].kept);
    pool->pages[id].refs = 1;
    *out = id;
    return AGL_OK;
}

void agl_page_retain(agl_page_pool *pool, agl_page_id id)
{
    assert(id < pool->page_count);
    page_state *page = &pool->pages[id];
    assert(page->refs > 0 || page->kept);
    if (page->refs == 0) idle_remove(pool, id);
    page->refs++;
}

void agl_page_release(agl_page_pool *pool, agl_page_id id)
{
    assert(id < pool->page_count);
    page_state *page = &pool->pages[id];
    assert(page->refs > 0);
    if (--page->refs > 0) return;
    if (page->kept) idle_append(pool, id);
    else pool->free_pages[pool->free_count++] = id;
}

void agl_page_keep(agl_page_pool *pool, agl_page_id id, bool cold)
{
    assert(id < pool->page_count && pool->pages[id].refs > 0);
    pool->pages[id].kept = true;
    pool->pages[id].cold = cold;
}

void agl_page_forget(agl_page_pool *pool, agl_page_id id)
{
    assert(id < pool->page_count && pool->pages[id].kept);
    page_state *page = &pool->pages[id];
    if (page->refs == 0) {
        idle_remove(pool, id);
        pool->free_pages[pool->free_count++] = id;
    }
    page->kept = false;
}

uint32_t agl_page_refs(const agl_page_pool *pool, agl_page_id page)
{
    assert(page < pool->page_count);
    return pool->pages[page].refs;
}

bool agl_page_kept(const agl_page_pool *pool, agl_page_id page)
{
    assert(page < pool->page_count);
    return pool->pages[page].kept;
}

uint32_t agl_page_pool_size(const agl_page_pool *pool) { return pool->page_count; }

uint32_t agl_page_pool_available(const agl_page_pool *pool)
{
    return pool->free_count + pool->idle_count;
}

uint32_t agl_page_pool_idle(const agl_page_pool *pool) { return pool->idle_count; }
