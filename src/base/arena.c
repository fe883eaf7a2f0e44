/* SPDX-License-Identifier: Apache-2.0 */
#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 64u
#define BLOCK_BYTES_MIN ((size_t)64 << 10)

struct agl_arena_block {
    agl_arena_block *next;
    size_t size;            /* bytes behind the header */
    size_t used;
};

static size_t header_bytes(void)
{
    return (sizeof(agl_arena_block) + ALIGN - 1) / ALIGN * ALIGN;
}

void agl_arena_init(agl_arena *arena, size_t limit_bytes)
{
    *arena = (agl_arena){.limit_bytes = limit_bytes};
}

void agl_arena_deinit(agl_arena *arena)
{
    for (agl_arena_block *block = arena->head; block != NULL;) {
        agl_arena_block *next = block->next;
        free(block);
        block = next;
    }
    *arena = (agl_arena){.limit_bytes = arena->limit_bytes};
}

void agl_arena_reset(agl_arena *arena)
{
    agl_arena_block *largest = NULL;
    for (agl_arena_block *block = arena->head; block != NULL;) {
        agl_arena_block *next = block->next;
        if (largest == NULL || block->size > largest->size) {
            free(largest);
            largest = block;
        } else {
            free(block);
        }
        block = next;
    }
    if (largest != NULL) {
        largest->next = NULL;
        largest->used = 0;
    }
    arena->head = largest;
    arena->used_bytes = 0;
}

static agl_arena_block *block_create(size_t size)
{
    if (size > SIZE_MAX - 2 * ALIGN - header_bytes()) return NULL;
    size_t total = (header_bytes() + size + ALIGN - 1) / ALIGN * ALIGN;
    agl_arena_block *block = aligned_alloc(ALIGN, total);
    if (block == NULL) return NULL;
    *block = (agl_arena_block){.size = total - header_bytes()};
    return block;
}

void *agl_arena_alloc(agl_arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
    size_t rounded = bytes == 0 ? ALIGN : (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (arena->limit_bytes != 0 && rounded > arena->limit_bytes - arena->used_bytes) return NULL;

    agl_arena_block *block = arena->head;
    if (block == NULL || block->size - block->used < rounded) {
        size_t size = rounded > BLOCK_BYTES_MIN ? rounded : BLOCK_BYTES_MIN;
        block = block_create(size);
        if (block == NULL) return NULL;
        block->next = arena->head;
        arena->head = block;
    }
    unsigned char *memory = (unsigned char *)block + header_bytes() + block->used;
    block->used += rounded;
    arena->used_bytes += rounded;
    memset(memory, 0, rounded);
    return memory;
}

void *agl_arena_copy(agl_arena *arena, const void *data, size_t bytes)
{
    void *memory = agl_arena_alloc(arena, bytes);
    if (memory != NULL && bytes > 0) memcpy(memory, data, bytes);
    return memory;
}

char *agl_arena_string(agl_arena *arena, const char *text, size_t bytes)
{
    char *memory = bytes < SIZE_MAX ? agl_arena_alloc(arena, bytes + 1) : NULL;
    if (memory != NULL && bytes > 0) memcpy(memory, text, bytes);
    return memory;
}
