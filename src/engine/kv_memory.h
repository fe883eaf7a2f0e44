/* SPDX-License-Identifier: Apache-2.0
 *
 * kv_memory.h - the device memory behind the page numbers of kv_pages.h.
 *
 *     layer l: k [pages, kv_heads, page_tokens, head_dim], v the same
 *
 * A page number names the same place in every layer. Engine thread only. */
#ifndef AGL_ENGINE_KV_MEMORY_H
#define AGL_ENGINE_KV_MEMORY_H

#include "backend/backend.h"
#include "model/config.h"

typedef struct {
    agl_backend *backend;       /* borrowed  */
    agl_kv_layer *layers;       /* [layer_count] */
    int64_t layer_count;
    size_t page_bytes;          /* of k, or of v, of one layer */
} agl_kv_memory;

agl_status agl_kv_memory_init(agl_kv_memory *memory, agl_backend *backend,
                              const agl_text_config *text, agl_dtype dtype, uint32_t page_count,
                              uint32_t page_tokens, agl_error *err);
void agl_kv_memory_deinit(agl_kv_memory *memory);

/* Queue a copy of all keys and values of one page. */
agl_status agl_kv_memory_copy(agl_kv_memory *memory, agl_stream *stream, uint32_t to,
                              uint32_t from);

#endif
