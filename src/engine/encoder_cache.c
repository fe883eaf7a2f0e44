/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/encoder_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define ENTRIES_MAX 256

typedef struct {
    agl_digest digest;
    int64_t row, rows;          /* rows == 0: the entry is unused */
    uint64_t used;              /* tick of the last use           */
    uint32_t pins;
} encoder_entry;

struct agl_encoder_cache {
    agl_backend *backend;
    void *rows;
    int64_t rows_max, rows_used;
    size_t row_bytes;
    uint64_t tick;
    int32_t order_count;
    int32_t order[ENTRIES_MAX]; /* used entries by rising row */
    encoder_entry entries[ENTRIES_MAX];
};

agl_status agl_encoder_cache_create(agl_encoder_cache **out, agl_backend *backend, int64_t rows_max,
                                    size_t row_bytes, agl_error *err)
{
    agl_encoder_cache *cache = calloc(1, sizeof *cache);
    if (cache == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the encoder cache");
    cache->backend = backend;
    cache->rows_max = rows_max;
    cache->row_bytes = row_bytes;
    if (backend != NULL) {
        agl_status status = backend->ops->alloc(backend, &cache->rows, (size_t)rows_max * row_bytes,
                                                AGL_MEMORY_ENCODER_CACHE, err);
        if (status != AGL_OK) {
            free(cache);
            return status;
        }
    }
    *out = cache;
    return AGL_OK;
}

void agl_encoder_cache_destroy(agl_encoder_cache *cache)
{
    if (cache == NULL) return;
    if (cache->rows != NULL) cache->backend->ops->free(cache->backend, cache->rows);
    free(cache);
}

int32_t agl_encoder_cache_find(agl_encoder_cache *cache, const agl_digest *digest)
{
    for (int32_t i = 0; i < cache->order_count; i++) {
        encoder_entry *entry = &cache->entries[cache->order[i]];
        if (memcmp(entry->digest.bytes, digest->bytes, sizeof digest->bytes) != 0) continue;
        entry->pins++;
        entry->used = ++cache->tick;
        return cache->order[i];
    }
    return AGL_ENCODER_NONE;
}

static void drop(agl_encoder_cache *cache, int32_t place)
{
    encoder_entry *entry = &cache->entries[cache->order[place]];
    assert(entry->pins == 0);
    cache->rows_used -= entry->rows;
    entry->rows = 0;
    cache->order_count--;
    memmove(cache->order + place, cache->order + place + 1,
            (size_t)(cache->order_count - place) * sizeof *cache->order);
}

static bool drop_oldest(agl_encoder_cache *cache)
{
    int32_t oldest = -1;
    for (int32_t i = 0; i < cache->order_count; i++) {
        const encoder_entry *entry = &cache->entries[cache->order[i]];
        if (entry->pins > 0) continue;
        if (oldest < 0 || entry->used < cache->entries[cache->order[oldest]].used) oldest = i;
    }
    if (oldest < 0) return false;
    drop(cache, oldest);
    return true;
}

/* Place in `order` before which a gap of `rows` lies, or -1; *row is its first row. */
static int32_t find_gap(const agl_encoder_cache *cache, int64_t rows, int64_t *row)
{
    if (cache->order_count == ENTRIES_MAX) return -1;
    int64_t end = 0;
    for (int32_t i = 0; i <= cache->order_count; i++) {
        bool last = i == cache->order_count;
        const encoder_entry *next = last ? NULL : &cache->entries[cache->order[i]];
        if ((last ? cache->rows_max : next->row) - end >= rows) {
            *row = end;
            return i;
        }
        if (!last) end = next->row + next->rows;
    }
    return -1;
}

int32_t agl_encoder_cache_insert(agl_encoder_cache *cache, const agl_digest *digest, int64_t rows)
{
    assert(rows > 0);
    int64_t row = 0;
    int32_t place;
    while ((place = find_gap(cache, rows, &row)) < 0) {
        if (!drop_oldest(cache)) return AGL_ENCODER_NONE;
    }
    int32_t id = 0;
    while (cache->entries[id].rows != 0) id++;
    memmove(cache->order + place + 1, cache->order + place,
            (size_t)(cache->order_count - place) * sizeof *cache->order);
    cache->order[place] = id;
    cache->order_count++;
    cache->rows_used += rows;
    cache->entries[id] = (encoder_entry){
        .digest = *digest, .row = row, .rows = rows, .used = ++cache->tick, .pins = 1};
    return id;
}

void agl_encoder_cache_unpin(agl_encoder_cache *cache, int32_t id)
{
    assert(id >= 0 && id < ENTRIES_MAX && cache->entries[id].pins > 0);
    cache->entries[id].pins--;
}

int64_t agl_encoder_cache_row(const agl_encoder_cache *cache, int32_t id)
{
    assert(id >= 0 && id < ENTRIES_MAX && cache->entries[id].rows > 0);
    return cache->entries[id].row;
}

void *agl_encoder_cache_rows(agl_encoder_cache *cache) { return cache->rows; }

uint64_t agl_encoder_cache_used_bytes(const agl_encoder_cache *cache)
{
    return (uint64_t)cache->rows_used * cache->row_bytes;
}

uint32_t agl_encoder_cache_pinned(const agl_encoder_cache *cache)
{
    uint32_t pinned = 0;
    for (int32_t i = 0; i < cache->order_count; i++) {
        pinned += cache->entries[cache->order[i]].pins > 0;
    }
    return pinned;
}

void agl_encoder_cache_reset(agl_encoder_cache *cache)
{
    while (drop_oldest(cache)) {}
}
