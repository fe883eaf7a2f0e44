/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/kv_memory.h"

#include <stdlib.h>

agl_status agl_kv_memory_init(agl_kv_memory *memory, agl_backend *backend,
                              const agl_text_config *text, agl_dtype dtype, uint32_t page_count,
                              uint32_t page_tokens, agl_error *err)
{
    *memory = (agl_kv_memory){.backend = backend};
    memory->page_bytes = (size_t)text->kv_heads * page_tokens * (size_t)text->head_dim *
                         agl_dtype_bytes(dtype);
    memory->layers = calloc((size_t)text->layers, sizeof *memory->layers);
    if (memory->layers == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the KV cache");
    memory->layer_count = text->layers;

    size_t bytes = memory->page_bytes * page_count;
    for (int64_t i = 0; i < memory->layer_count; i++) {
        agl_kv_layer *layer = &memory->layers[i];
        layer->dtype = dtype;
        layer->page_tokens = page_tokens;
        layer->kv_heads = text->kv_heads;
        layer->head_dim = text->head_dim;
        agl_status status = backend->ops->alloc(backend, &layer->k, bytes, AGL_MEMORY_KV, err);
        if (status == AGL_OK) {
            status = backend->ops->alloc(backend, &layer->v, bytes, AGL_MEMORY_KV, err);
        }
        if (status != AGL_OK) {
            agl_kv_memory_deinit(memory);
            return status;
        }
    }
    return AGL_OK;
}

void agl_kv_memory_deinit(agl_kv_memory *memory)
{
    for (int64_t i = 0; i < memory->layer_count; i++) {
        agl_kv_layer *layer = &memory->layers[i];
        if (layer->k != NULL) memory->backend->ops->free(memory->backend, layer->k);
        if (layer->v != NULL) memory->backend->ops->free(memory->backend, layer->v);
    }
    free(memory->layers);
    *memory = (agl_kv_memory){0};
}

agl_status agl_kv_memory_copy(agl_kv_memory *memory, agl_stream *stream, uint32_t to,
                              uint32_t from)
{
    const agl_backend_ops *ops = memory->backend->ops;
    size_t bytes = memory->page_bytes;
    for (int64_t i = 0; i < memory->layer_count; i++) {
        char *k = memory->layers[i].k;
        char *v = memory->layers[i].v;
        AGL_TRY(ops->copy(stream, k + to * bytes, k + from * bytes, bytes));
        AGL_TRY(ops->copy(stream, v + to * bytes, v + from * bytes, bytes));
    }
    return AGL_OK;
}
