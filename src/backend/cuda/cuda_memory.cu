/* SPDX-License-Identifier: Apache-2.0
 *
 * cuda_memory.cu - device memory, copies, streams and recorded graphs. Host code only.
 *
 * An upload leaves the caller's memory before it returns and reaches the device later, in
 * the order of the stream. It passes a pinned ring of two halves, filled piece by piece:
 *
 *     | half 0: written, being copied ...| half 1: written so far |  free  |
 *                                          staging_next = 1   ^ staging_used
 *
 * When a half is full the other one is taken, once the copies out of it have been made. A
 * step's inputs are some ten kilobytes, so that is every hundred steps; the largest picture
 * fits a half. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_memory.h"

#define STAGING_HALF ((size_t)16 << 20)
#define STAGING_ALIGN ((size_t)64)

struct agl_cuda_block {
    struct agl_cuda_block *next;
    void *memory;
    size_t bytes;
    agl_memory_tag tag;
};

struct agl_graph {
    cudaGraphExec_t exec;
};

agl_status agl_cuda_check(cudaError_t error, const char *what, agl_error *err)
{
    if (error == cudaSuccess) return AGL_OK;
    cudaGetLastError(); /* told now, so not again by the next wait */
    agl_status status = error == cudaErrorMemoryAllocation ? AGL_ERR_MEMORY : AGL_ERR_DEVICE;
    return agl_fail(err, status, "%s: %s", what, cudaGetErrorString(error));
}

agl_status agl_cuda_enter(const agl_cuda *cuda)
{
    return cudaSetDevice(cuda->device) == cudaSuccess ? AGL_OK : AGL_ERR_DEVICE;
}

static agl_cuda_stream *cuda_stream(agl_stream *stream)
{
    return (agl_cuda_stream *)stream;
}

/* ---- memory ------------------------------------------------------------------ */

static agl_status no_memory(const agl_cuda *cuda, size_t bytes, cudaError_t error, agl_error *err)
{
    size_t free_bytes = 0, total_bytes = 0;
    if (error != cudaErrorMemoryAllocation) return agl_cuda_check(error, cuda->description, err);
    cudaGetLastError();
    cudaMemGetInfo(&free_bytes, &total_bytes);
    return agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for %zu MiB, %zu of %zu MiB are free",
                    cuda->description, bytes >> 20, free_bytes >> 20, total_bytes >> 20);
}

/* cudaMalloc aligns to 256 bytes and more. */
agl_status agl_cuda_alloc(agl_backend *backend, void **out, size_t bytes, agl_memory_tag tag,
                          agl_error *err)
{
    agl_cuda *cuda = (agl_cuda *)backend;
    *out = NULL;
    struct agl_cuda_block *block = (struct agl_cuda_block *)malloc(sizeof *block);
    if (block == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a block's record");
    void *memory = NULL;
    cudaStream_t queue = agl_cuda_queue(cuda->filling);
    cudaError_t error = cudaSetDevice(cuda->device);
    if (error == cudaSuccess) error = cudaMalloc(&memory, bytes > 0 ? bytes : 1);
    if (error != cudaSuccess) {
        free(block);
        return no_memory(cuda, bytes, error, err);
    }
    error = cudaMemsetAsync(memory, 0, bytes, queue);
    if (error == cudaSuccess) error = cudaStreamSynchronize(queue);
    if (error != cudaSuccess) {
        cudaFree(memory);
        free(block);
        return agl_cuda_check(error, "device memory cannot be cleared", err);
    }
    block->next = cuda->blocks;
    block->memory = memory;
    block->bytes = bytes;
    block->tag = tag;
    cuda->blocks = block;
    backend->memory_by_tag[tag] += bytes;
    *out = memory;
    return AGL_OK;
}

void agl_cuda_free(agl_backend *backend, void *memory)
{
    agl_cuda *cuda = (agl_cuda *)backend;
    if (memory == NULL) return;
    struct agl_cuda_block **link = &cuda->blocks;
    while (*link != NULL && (*link)->memory != memory) link = &(*link)->next;
    struct agl_cuda_block *block = *link;
    assert(block != NULL);
    *link = block->next;
    backend->memory_by_tag[block->tag] -= block->bytes;
    agl_cuda_enter(cuda);
    cudaFree(memory);
    free(block);
}

/* ---- copies ------------------------------------------------------------------ */

/* The other half of the ring, once nothing in it is still to be copied. */
static cudaError_t turn_over(agl_cuda_stream *stream)
{
    cudaError_t error = cudaEventRecord(stream->staging_free[stream->staging_next],
                                        agl_cuda_queue(&stream->base));
    if (error != cudaSuccess) return error;
    stream->staging_next ^= 1;
    stream->staging_used = 0;
    return cudaEventSynchronize(stream->staging_free[stream->staging_next]);
}

agl_status agl_cuda_upload(agl_stream *stream, void *device, const void *host, size_t bytes)
{
    agl_cuda_stream *to = cuda_stream(stream);
    size_t half = to->staging_bytes / 2;
    AGL_TRY(agl_cuda_enter(agl_cuda_of(stream)));
    for (size_t done = 0, piece; done < bytes; done += piece) {
        if (to->staging_used == half && turn_over(to) != cudaSuccess) return AGL_ERR_DEVICE;
        piece = half - to->staging_used;
        if (piece > bytes - done) piece = bytes - done;
        unsigned char *staged = to->staging + (size_t)to->staging_next * half + to->staging_used;
        memcpy(staged, (const char *)host + done, piece);
        if (cudaMemcpyAsync((char *)device + done, staged, piece, cudaMemcpyHostToDevice,
                            agl_cuda_queue(stream)) != cudaSuccess) {
            return AGL_ERR_DEVICE;
        }
        to->staging_used += (piece + STAGING_ALIGN - 1) / STAGING_ALIGN * STAGING_ALIGN;
    }
    return AGL_OK;
}

/* Into pageable memory: CUDA returns when the bytes are there. */
agl_status agl_cuda_download(agl_stream *stream, void *host, const void *device, size_t bytes)
{
    AGL_TRY(agl_cuda_enter(agl_cuda_of(stream)));
    if (bytes == 0) return AGL_OK;
    return cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, agl_cuda_queue(stream)) ==
                   cudaSuccess ? AGL_OK : AGL_ERR_DEVICE;
}

agl_status agl_cuda_copy(agl_stream *stream, void *out, const void *in, size_t bytes)
{
    AGL_TRY(agl_cuda_enter(agl_cuda_of(stream)));
    if (bytes == 0) return AGL_OK;
    return cudaMemcpyAsync(out, in, bytes, cudaMemcpyDeviceToDevice, agl_cuda_queue(stream)) ==
                   cudaSuccess ? AGL_OK : AGL_ERR_DEVICE;
}

/* ---- streams ----------------------------------------------------------------- */

static cudaError_t open_stream(agl_cuda_stream *stream)
{
    /* Non-blocking: nothing of ours uses the default stream, and a library that does must not
     * order our work. */
    cudaError_t error = cudaStreamCreateWithFlags(&stream->cuda, cudaStreamNonBlocking);
    void *staging = NULL;
    if (error == cudaSuccess) error = cudaMallocHost(&staging, 2 * STAGING_HALF);
    if (error != cudaSuccess) return error;
    stream->staging = (unsigned char *)staging;
    stream->staging_bytes = 2 * STAGING_HALF;
    for (int i = 0; i < 2 && error == cudaSuccess; i++) {
        error = cudaEventCreateWithFlags(&stream->staging_free[i], cudaEventDisableTiming);
    }
    return error;
}

agl_status agl_cuda_stream_create(agl_backend *backend, agl_stream **out, agl_error *err)
{
    agl_cuda *cuda = (agl_cuda *)backend;
    *out = NULL;
    agl_cuda_stream *stream = (agl_cuda_stream *)calloc(1, sizeof *stream);
    if (stream == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a stream");
    stream->base.backend = backend;
    cudaError_t error = cudaSetDevice(cuda->device);
    if (error == cudaSuccess) error = open_stream(stream);
    if (error == cudaSuccess && agl_cuda_chain_create(&stream->base) != AGL_OK) {
        error = cudaErrorMemoryAllocation;
    }
    if (error != cudaSuccess) {
        agl_cuda_stream_destroy(&stream->base);
        return agl_cuda_check(error, "a stream cannot be created", err);
    }
    *out = &stream->base;
    return AGL_OK;
}

void agl_cuda_stream_destroy(agl_stream *stream)
{
    if (stream == NULL) return;
    agl_cuda_stream *old = cuda_stream(stream);
    agl_cuda_enter(agl_cuda_of(stream));
    if (old->cuda != NULL) cudaStreamSynchronize(agl_cuda_queue(stream));
    agl_cuda_chain_destroy(stream);
    for (int i = 0; i < 2; i++) {
        if (old->staging_free[i] != NULL) cudaEventDestroy(old->staging_free[i]);
    }
    if (old->staging != NULL) cudaFreeHost(old->staging);
    if (old->cuda != NULL) cudaStreamDestroy(old->cuda);
    free(old);
}

/* A fault in a kernel is sticky: every later call reports it too, and only a new process
 * can use the device again. A refused launch is not; it waits in cudaGetLastError. */
agl_status agl_cuda_stream_wait(agl_stream *stream, agl_error *err)
{
    AGL_TRY(agl_cuda_enter(agl_cuda_of(stream)));
    cudaError_t error = cudaStreamSynchronize(agl_cuda_queue(stream));
    cudaError_t earlier = cudaGetLastError();
    if (error == cudaSuccess) error = earlier;
    /* Also after a fault: the callers' structs may be gone at the next wait. */
    agl_cuda_sample_finish(stream);
    if (error == cudaSuccess) return AGL_OK;
    return agl_fail(err, AGL_ERR_DEVICE, "%s reported: %s (%s)", agl_cuda_of(stream)->description,
                    cudaGetErrorString(error), cudaGetErrorName(error));
}

/* ---- graphs ------------------------------------------------------------------ */

agl_status agl_cuda_graph_begin(agl_stream *stream)
{
    AGL_TRY(agl_cuda_enter(agl_cuda_of(stream)));
    return cudaStreamBeginCapture(agl_cuda_queue(stream), cudaStreamCaptureModeThreadLocal) ==
                   cudaSuccess ? AGL_OK : AGL_ERR_DEVICE;
}

agl_status agl_cuda_graph_end(agl_stream *stream, agl_graph **out, agl_error *err)
{
    *out = NULL;
    cudaGraph_t recorded = NULL;
    cudaGraphExec_t exec = NULL;
    cudaError_t error = cudaStreamEndCapture(agl_cuda_queue(stream), &recorded);
    /* The form without flags changed its parameters between CUDA 11 and 12. */
    if (error == cudaSuccess) error = cudaGraphInstantiateWithFlags(&exec, recorded, 0);
    if (error == cudaSuccess) error = cudaGraphUpload(exec, agl_cuda_queue(stream));
    if (recorded != NULL) cudaGraphDestroy(recorded);
    AGL_TRY(agl_cuda_check(error, "a step cannot be recorded", err));
    agl_graph *graph = (agl_graph *)calloc(1, sizeof *graph);
    if (graph == NULL) {
        cudaGraphExecDestroy(exec);
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for a graph");
    }
    graph->exec = exec;
    *out = graph;
    return AGL_OK;
}

agl_status agl_cuda_graph_launch(agl_stream *stream, agl_graph *graph)
{
    return cudaGraphLaunch(graph->exec, agl_cuda_queue(stream)) == cudaSuccess ? AGL_OK
                                                                              : AGL_ERR_DEVICE;
}

void agl_cuda_graph_destroy(agl_backend *backend, agl_graph *graph)
{
    if (graph == NULL) return;
    agl_cuda_enter((agl_cuda *)backend);
    cudaGraphExecDestroy(graph->exec);
    free(graph);
}
