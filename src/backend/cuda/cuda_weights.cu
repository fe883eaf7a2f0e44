/* SPDX-License-Identifier: Apache-2.0
 *
 * cuda_weights.cu - weights from the mapped checkpoint onto the device. Host code only.
 *
 * A part of a weight travels in slots. Threads read the file (and its page faults) into a
 * pinned slot while the copy engine empties the slots before:
 *
 *     file  --threads-->  [slot 0][slot 1][slot 2][slot 3]  --copy engine-->  device
 *
 * One copy engine moves all that the bus carries, so there is one queue. Values of another
 * dtype than the activations go to a slot of device memory first and are converted from
 * there. weight_create returns when the weight is in place. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_memory.h"
#include "base/thread_pool.h"

#define SLOTS 4
#define SLOT_BYTES ((size_t)8 << 20)
#define TASK_BYTES ((size_t)256 << 10)
/* A thread reads mapped pages at 5 GB/s or more: eight are faster than any bus so far. */
#define THREADS_MAX 8

struct agl_cuda_loader {
    agl_thread_pool *pool;
    unsigned char *slots;               /* pinned [SLOTS][SLOT_BYTES]                        */
    cudaEvent_t emptied[SLOTS];
    int next;
    void *raw;                          /* device [SLOT_BYTES]: values to be converted       */
};

/* ---- the way in -------------------------------------------------------------- */

static cudaError_t open_loader(struct agl_cuda_loader *loader)
{
    void *slots = NULL;
    cudaError_t error = cudaMallocHost(&slots, SLOTS * SLOT_BYTES);
    loader->slots = (unsigned char *)slots;
    for (int i = 0; i < SLOTS && error == cudaSuccess; i++) {
        error = cudaEventCreateWithFlags(&loader->emptied[i], cudaEventDisableTiming);
    }
    return error;
}

static agl_status loader_create(agl_cuda *cuda, agl_error *err)
{
    if (cuda->loader != NULL) return AGL_OK;
    cuda->loader = (struct agl_cuda_loader *)calloc(1, sizeof *cuda->loader);
    if (cuda->loader == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory to load weights");
    uint32_t threads = agl_cpu_count();
    if (threads > THREADS_MAX) threads = THREADS_MAX;
    agl_status status = agl_thread_pool_create(&cuda->loader->pool, threads, err);
    if (status == AGL_OK) {
        status = agl_cuda_check(open_loader(cuda->loader), "pinned memory to load weights", err);
    }
    if (status == AGL_OK) {
        status = agl_cuda_alloc(&cuda->base, &cuda->loader->raw, SLOT_BYTES, AGL_MEMORY_WORKSPACE,
                                err);
    }
    if (status != AGL_OK) agl_cuda_loader_destroy(cuda);
    return status;
}

void agl_cuda_loader_destroy(agl_cuda *cuda)
{
    struct agl_cuda_loader *loader = cuda->loader;
    if (loader == NULL) return;
    agl_cuda_free(&cuda->base, loader->raw);
    for (int i = 0; i < SLOTS; i++) {
        if (loader->emptied[i] != NULL) cudaEventDestroy(loader->emptied[i]);
    }
    if (loader->slots != NULL) cudaFreeHost(loader->slots);
    agl_thread_pool_destroy(loader->pool);
    free(loader);
    cuda->loader = NULL;
}

typedef struct {
    unsigned char *out;
    const unsigned char *in;
    size_t bytes;
} piece_job;

static void copy_task(void *context, size_t task, uint32_t worker)
{
    (void)worker;
    const piece_job *job = (const piece_job *)context;
    size_t first = task * TASK_BYTES;
    size_t bytes = job->bytes - first < TASK_BYTES ? job->bytes - first : TASK_BYTES;
    memcpy(job->out + first, job->in + first, bytes);
}

/* Queue `bytes` of `in` to become values at `out`. */
static agl_status carry(agl_cuda *cuda, unsigned char *out, const unsigned char *in, size_t bytes,
                        agl_dtype dtype)
{
    struct agl_cuda_loader *loader = cuda->loader;
    cudaStream_t queue = agl_cuda_queue(cuda->filling);
    size_t in_size = agl_dtype_bytes(dtype), out_size = agl_dtype_bytes(cuda->base.activation);
    bool converts = dtype != cuda->base.activation;
    for (size_t done = 0, piece; done < bytes; done += piece) {
        piece = bytes - done < SLOT_BYTES ? bytes - done : SLOT_BYTES;
        int slot = loader->next;
        loader->next = (slot + 1) % SLOTS;
        piece_job job = {loader->slots + (size_t)slot * SLOT_BYTES, in + done, piece};
        unsigned char *target = out + done / in_size * out_size;
        if (cudaEventSynchronize(loader->emptied[slot]) != cudaSuccess) return AGL_ERR_DEVICE;
        agl_thread_pool_run(loader->pool, copy_task, &job, (piece + TASK_BYTES - 1) / TASK_BYTES);
        if (cudaMemcpyAsync(converts ? loader->raw : target, job.out, piece,
                            cudaMemcpyHostToDevice, queue) != cudaSuccess ||
            cudaEventRecord(loader->emptied[slot], queue) != cudaSuccess) {
            return AGL_ERR_DEVICE;
        }
        if (!converts) continue;
        AGL_TRY(agl_cuda_convert(cuda->filling, target, loader->raw, dtype,
                                 (int64_t)(piece / in_size)));
    }
    return AGL_OK;
}

/* ---- one weight -------------------------------------------------------------- */

static float load_value(const void *data, agl_dtype dtype, int64_t index)
{
    switch (dtype) {
    case AGL_F32: return ((const float *)data)[index];
    case AGL_BF16: return agl_bf16_to_f32(((const uint16_t *)data)[index]);
    case AGL_F16: return agl_f16_to_f32(((const uint16_t *)data)[index]);
    default: assert(!"float dtypes only"); return 0.0f;
    }
}

static bool is_float(agl_dtype dtype)
{
    return dtype == AGL_F32 || dtype == AGL_BF16 || dtype == AGL_F16;
}

/* A part without bias has zeros there when another part has one. */
static agl_status fill_bias(agl_cuda *cuda, agl_cuda_weight *weight, const agl_weight_desc *desc,
                            agl_error *err)
{
    bool any = false;
    for (int p = 0; p < desc->part_count; p++) any = any || desc->parts[p].bias != NULL;
    if (!any) return AGL_OK;
    void *memory = NULL;
    size_t bytes = (size_t)weight->base.out * sizeof(float);
    AGL_TRY(agl_cuda_alloc(&cuda->base, &memory, bytes, AGL_MEMORY_WEIGHTS, err));
    weight->bias = (float *)memory;
    float *values = (float *)calloc((size_t)weight->base.out, sizeof *values);
    if (values == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a bias");
    int64_t row = 0;
    for (int p = 0; p < desc->part_count; p++) {
        for (int64_t i = 0; i < desc->parts[p].rows; i++, row++) {
            if (desc->parts[p].bias == NULL) continue;
            values[row] = load_value(desc->parts[p].bias, desc->bias_dtype, i);
        }
    }
    agl_status status = agl_cuda_upload(cuda->filling, weight->bias, values, bytes);
    free(values);
    if (status != AGL_OK || cuda->base.activation == AGL_F32) return status;
    AGL_TRY(agl_cuda_alloc(&cuda->base, &weight->bias_rounded,
                           (size_t)weight->base.out * agl_dtype_bytes(cuda->base.activation),
                           AGL_MEMORY_WEIGHTS, err));
    return agl_cuda_convert(cuda->filling, weight->bias_rounded, weight->bias, AGL_F32,
                            weight->base.out);
}

static agl_status fill_weight(agl_cuda *cuda, agl_cuda_weight *weight, const agl_weight_desc *desc,
                              agl_error *err)
{
    size_t in_size = agl_dtype_bytes(desc->dtype);
    size_t out_size = agl_dtype_bytes(cuda->base.activation);
    size_t values = (size_t)weight->base.out * (size_t)weight->base.in;
    AGL_TRY(agl_cuda_alloc(&cuda->base, &weight->data, values * out_size, AGL_MEMORY_WEIGHTS, err));
    unsigned char *at = (unsigned char *)weight->data;
    agl_status status = AGL_OK;
    for (int p = 0; p < desc->part_count && status == AGL_OK; p++) {
        size_t part = (size_t)desc->parts[p].rows * (size_t)desc->in;
        status = carry(cuda, at, (const unsigned char *)desc->parts[p].data, part * in_size,
                       desc->dtype);
        at += part * out_size;
    }
    if (status == AGL_OK) status = fill_bias(cuda, weight, desc, err);
    /* Waits in any case: what was queued reads the slots and writes the weight. */
    AGL_TRY(agl_cuda_stream_wait(cuda->filling, err));
    if (status == AGL_OK) return AGL_OK;
    return agl_fail(err, status, "a weight cannot be loaded: %s", agl_status_text(status));
}

agl_status agl_cuda_weight_create(agl_backend *backend, agl_weight **out,
                                  const agl_weight_desc *desc, agl_error *err)
{
    agl_cuda *cuda = (agl_cuda *)backend;
    *out = NULL;
    assert(desc->part_count >= 1 && desc->part_count <= AGL_WEIGHT_PARTS_MAX && desc->in >= 1);
    if (!is_float(desc->dtype)) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "weights of %s are not supported on CUDA",
                        agl_dtype_name(desc->dtype));
    }
    AGL_TRY(agl_cuda_enter(cuda));
    AGL_TRY(loader_create(cuda, err));
    agl_cuda_weight *weight = (agl_cuda_weight *)calloc(1, sizeof *weight);
    if (weight == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a weight");
    weight->base.in = desc->in;
    for (int p = 0; p < desc->part_count; p++) {
        assert(desc->parts[p].data != NULL && desc->parts[p].rows >= 1);
        assert(desc->parts[p].bias == NULL || is_float(desc->bias_dtype));
        weight->base.out += desc->parts[p].rows;
    }
    agl_status status = fill_weight(cuda, weight, desc, err);
    if (status != AGL_OK) {
        agl_cuda_weight_destroy(backend, &weight->base);
        return status;
    }
    *out = &weight->base;
    return AGL_OK;
}

void agl_cuda_weight_destroy(agl_backend *backend, agl_weight *weight)
{
    if (weight == NULL) return;
    agl_cuda_weight *old = (agl_cuda_weight *)weight;
    agl_cuda_free(backend, old->data);
    agl_cuda_free(backend, old->bias);
    agl_cuda_free(backend, old->bias_rounded);
    free(old);
}
