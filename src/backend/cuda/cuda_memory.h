/* SPDX-License-Identifier: Apache-2.0
 *
 * cuda_memory.h - host side of the CUDA backend: the entries of agl_backend_ops that move
 * bytes. Meaning in backend.h; table and creation in backend_cuda.cu. */
#ifndef AGL_BACKEND_CUDA_CUDA_MEMORY_H
#define AGL_BACKEND_CUDA_CUDA_MEMORY_H

#include "backend/cuda/cuda_backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Make the backend's device this thread's. CUDA keeps it per thread, so the first call of a
 * thread must be one of those below; operations rely on it. */
agl_status agl_cuda_enter(const agl_cuda *cuda);

/* cuda_memory.cu */
agl_status agl_cuda_alloc(agl_backend *backend, void **out, size_t bytes, agl_memory_tag tag,
                          agl_error *err);
void agl_cuda_free(agl_backend *backend, void *memory);
agl_status agl_cuda_upload(agl_stream *stream, void *device, const void *host, size_t bytes);
agl_status agl_cuda_download(agl_stream *stream, void *host, const void *device, size_t bytes);
agl_status agl_cuda_copy(agl_stream *stream, void *out, const void *in, size_t bytes);

agl_status agl_cuda_stream_create(agl_backend *backend, agl_stream **out, agl_error *err);
void agl_cuda_stream_destroy(agl_stream *stream);           /* NULL is allowed */
agl_status agl_cuda_stream_wait(agl_stream *stream, agl_error *err);

agl_status agl_cuda_graph_begin(agl_stream *stream);
agl_status agl_cuda_graph_end(agl_stream *stream, agl_graph **out, agl_error *err);
agl_status agl_cuda_graph_launch(agl_stream *stream, agl_graph *graph);
void agl_cuda_graph_destroy(agl_backend *backend, agl_graph *graph);

/* cuda_weights.cu */
agl_status agl_cuda_weight_create(agl_backend *backend, agl_weight **out,
                                  const agl_weight_desc *desc, agl_error *err);
void agl_cuda_weight_destroy(agl_backend *backend, agl_weight *weight);
void agl_cuda_loader_destroy(agl_cuda *cuda);

#ifdef __cplusplus
}
#endif
#endif
