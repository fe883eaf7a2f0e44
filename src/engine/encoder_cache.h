/* SPDX-License-Identifier: Apache-2.0
 *
 * encoder_cache.h - vision rows of recent images, found by digest.
 *
 *     rows   |aaaa|bbbbbbbb|....|cc|..........|     one device buffer [rows_max, hidden]
 *
 * An image's rows are consecutive, so the step can name them by row number. An entry is
 * pinned while a prompt still needs it; the others leave least recently used first when
 * a new image finds no gap. Engine thread only. */
#ifndef AGL_ENGINE_ENCODER_CACHE_H
#define AGL_ENGINE_ENCODER_CACHE_H

#include "backend/backend.h"
#include "base/digest.h"

typedef struct agl_encoder_cache agl_encoder_cache;

#define AGL_ENCODER_NONE (-1)

/* row_bytes = hidden * activation size. `backend` NULL: accounting only. */
agl_status agl_encoder_cache_create(agl_encoder_cache **out, agl_backend *backend, int64_t rows_max,
                                    size_t row_bytes, agl_error *err);
void agl_encoder_cache_destroy(agl_encoder_cache *cache);   /* NULL is allowed */

/* Entry with that digest, pinned once more, or AGL_ENCODER_NONE. */
int32_t agl_encoder_cache_find(agl_encoder_cache *cache, const agl_digest *digest);

/* Room for a new image, pinned; AGL_ENCODER_NONE when pinned entries leave none. The caller
 * fills the rows before it unpins. */
int32_t agl_encoder_cache_insert(agl_encoder_cache *cache, const agl_digest *digest, int64_t rows);

void agl_encoder_cache_unpin(agl_encoder_cache *cache, int32_t entry);
int64_t agl_encoder_cache_row(const agl_encoder_cache *cache, int32_t entry);  /* first row */
void *agl_encoder_cache_rows(agl_encoder_cache *cache);     /* device [rows_max, hidden] */
uint64_t agl_encoder_cache_used_bytes(const agl_encoder_cache *cache);
uint32_t agl_encoder_cache_pinned(const agl_encoder_cache *cache);
void agl_encoder_cache_reset(agl_encoder_cache *cache);     /* forget what is not pinned */

#endif
