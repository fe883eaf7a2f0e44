/* SPDX-License-Identifier: Apache-2.0
 *
 * arena.h - memory that is freed at once: one arena a request, one a step.
 *
 *     block -> block -> block      each grows at its end; allocations never move
 *
 * Not thread-safe: an arena belongs to one thread at a time. */
#ifndef AGL_BASE_ARENA_H
#define AGL_BASE_ARENA_H

#include <stddef.h>

typedef struct agl_arena_block agl_arena_block;

typedef struct {
    agl_arena_block *head;
    size_t used_bytes;      /* handed out since init or reset */
    size_t limit_bytes;     /* 0: none                        */
} agl_arena;

void agl_arena_init(agl_arena *arena, size_t limit_bytes);
void agl_arena_deinit(agl_arena *arena);

/* Forget all allocations, keep the largest block. */
void agl_arena_reset(agl_arena *arena);

/* Zeroed, aligned to 64. NULL when the limit or the system's memory is spent. */
void *agl_arena_alloc(agl_arena *arena, size_t bytes);
void *agl_arena_copy(agl_arena *arena, const void *data, size_t bytes);
char *agl_arena_string(agl_arena *arena, const char *text, size_t bytes); /* adds the NUL */

#endif
