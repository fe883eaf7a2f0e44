/* SPDX-License-Identifier: Apache-2.0
 *
 * device_limits.c - what a device reaches at best, by the operations that the model uses:
 *
 *     read        a copy (its bytes count twice), and one row times a large weight, which reads
 *                 the weight once; the better of the two
 *     multiply    many rows times the same weight */
#include "engine/device_limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/random.h"
#include "engine/device.h"
#include "model/checkpoint.h"

#define WEIGHT_BYTES ((size_t)512 << 20)    /* ten times the largest L2 of a GPU   */
#define COLUMNS 8192
#define ROWS_GPU 8192
#define ROWS_CPU 512
#define PATTERN_BYTES ((size_t)1 << 20)
#define TRIES 5
#define TRY_S 0.05                          /* launches and waits are small in it  */
#define CALL_S 0.03                         /* rows double until a product takes it */

typedef struct {
    agl_backend *backend;
    agl_stream *stream;
    agl_weight *weight;         /* [out, COLUMNS]                                  */
    unsigned char *host;        /* what the weight is made of                      */
    void *x;                    /* [rows_max, COLUMNS] activations                 */
    void *y;                    /* [rows_max, out] activations                     */
    void *from, *to;            /* [copy_bytes]                                    */
    size_t weight_bytes, copy_bytes;
    int64_t rows, rows_max, out;
} bench;

static agl_status copy(bench *b)
{
    return b->backend->ops->copy(b->stream, b->to, b->from, b->copy_bytes);
}

static agl_status multiply(bench *b)
{
    agl_linear_args args = {.x = b->x, .y = b->y, .weight = b->weight, .rows = b->rows,
                            .x_stride = COLUMNS};
    return b->backend->ops->linear(b->stream, &args);
}

static agl_status time_calls(double *seconds, bench *b, agl_status (*call)(bench *b),
                             uint32_t count, agl_error *err)
{
    double start_s = agl_clock_s();
    for (uint32_t i = 0; i < count; i++) {
        agl_status status = call(b);
        if (status != AGL_OK) return agl_fail(err, status, "the device's rates cannot be measured");
    }
    AGL_TRY(b->backend->ops->stream_wait(b->stream, err));
    *seconds = (agl_clock_s() - start_s) / count;
    return AGL_OK;
}

/* Seconds of one call, the best of some tries; the first call is not among them. */
static agl_status best_seconds(double *out, bench *b, agl_status (*call)(bench *b), agl_error *err)
{
    double seconds = 0;
    AGL_TRY(time_calls(&seconds, b, call, 1, err));
    AGL_TRY(time_calls(out, b, call, 1, err));
    uint32_t count = *out > TRY_S ? 1 : (uint32_t)(TRY_S / (*out + 1e-6)) + 1;
    for (int i = 0; i < TRIES; i++) {
        AGL_TRY(time_calls(&seconds, b, call, count, err));
        if (seconds < *out) *out = seconds;
    }
    return AGL_OK;
}

void agl_device_random_values(void *values, size_t bytes, agl_dtype dtype)
{
    unsigned char *out = values;
    uint64_t state = 1;
    size_t pattern = bytes < PATTERN_BYTES ? bytes : PATTERN_BYTES, size = agl_dtype_bytes(dtype);
    for (size_t at = 0; at + size <= pattern; at += size) {
        float value = (float)(agl_random_next(&state) >> 40) * 0x1p-23f - 1.0f; /* [-1, 1) */
        uint16_t half = dtype == AGL_F16 ? agl_f32_to_f16(value) : agl_f32_to_bf16(value);
        memcpy(out + at, dtype == AGL_F32 ? (void *)&value : (void *)&half, size);
    }
    for (size_t at = pattern; at < bytes; at += pattern) {
        memcpy(out + at, out, bytes - at < pattern ? bytes - at : pattern);
    }
}

static agl_status fill(bench *b, void *device, size_t bytes, agl_dtype dtype)
{
    size_t piece = bytes < b->weight_bytes ? bytes : b->weight_bytes;
    agl_device_random_values(b->host, piece, dtype);
    for (size_t at = 0; at < bytes; at += piece) {
        size_t rest = bytes - at < piece ? bytes - at : piece;
        AGL_TRY(b->backend->ops->upload(b->stream, (unsigned char *)device + at, b->host, rest));
    }
    return b->backend->ops->stream_wait(b->stream, NULL);
}

static agl_status prepare(bench *b, size_t weight_bytes, agl_error *err)
{
    agl_backend *backend = b->backend;
    const agl_backend_ops *ops = backend->ops;
    bool is_cpu = backend->kind == AGL_BACKEND_CPU;
    /* A CPU multiplies weights as stored; a GPU in the type of its activations. */
    agl_dtype dtype = is_cpu ? AGL_BF16 : backend->activation;
    b->out = (int64_t)(weight_bytes / (COLUMNS * agl_dtype_bytes(dtype)) / 64 * 64);
    b->weight_bytes = (size_t)b->out * COLUMNS * agl_dtype_bytes(dtype);
    b->rows_max = is_cpu ? ROWS_CPU : ROWS_GPU;
    b->copy_bytes = b->weight_bytes / 2;
    size_t value = agl_dtype_bytes(backend->activation);
    size_t x_bytes = (size_t)b->rows_max * COLUMNS * value;
    size_t y_bytes = (size_t)(b->rows_max * b->out) * value;
    b->host = malloc(b->weight_bytes);
    if (b->out == 0 || b->host == NULL) {
        return agl_fail(err, AGL_ERR_MEMORY, "no memory to measure the device with (%zu bytes)",
                        weight_bytes);
    }
    agl_backend_limits limits = {.rows_max = b->rows_max, .sequences_max = 1, .logit_rows_max = 1,
                                 .context_max = 1, .heads = 1, .kv_heads = 1, .head_dim = 128,
                                 .vision_heads = 1, .vocab = 64};
    AGL_TRY(ops->stream_create(backend, &b->stream, err));
    AGL_TRY(ops->workspace_reserve(backend, &limits, err));
    AGL_TRY(ops->alloc(backend, &b->x, x_bytes, AGL_MEMORY_WORKSPACE, err));
    AGL_TRY(ops->alloc(backend, &b->y, y_bytes, AGL_MEMORY_WORKSPACE, err));
    AGL_TRY(ops->alloc(backend, &b->from, b->copy_bytes, AGL_MEMORY_WORKSPACE, err));
    AGL_TRY(ops->alloc(backend, &b->to, b->copy_bytes, AGL_MEMORY_WORKSPACE, err));
    agl_status status = fill(b, b->x, x_bytes, backend->activation);
    if (status == AGL_OK) status = fill(b, b->from, b->copy_bytes, dtype);
    if (status != AGL_OK) return agl_fail(err, status, "the device's memory cannot be filled");
    agl_device_random_values(b->host, b->weight_bytes, dtype);
    agl_weight_desc desc = {.parts = {{.data = b->host, .rows = b->out}}, .part_count = 1,
                            .in = COLUMNS, .dtype = dtype};
    return ops->weight_create(backend, &b->weight, &desc, err);
}

static agl_status measure(agl_device_limits *out, bench *b, agl_error *err)
{
    double copy_s = 0, read_s = 0, product_s = 0, call_s = 0;
    AGL_TRY(best_seconds(&copy_s, b, copy, err));
    b->rows = 1;
    AGL_TRY(best_seconds(&read_s, b, multiply, err));
    double copied = 2 * (double)b->copy_bytes / copy_s, read = (double)b->weight_bytes / read_s;
    out->read_rate = copied > read ? copied : read;
    do {
        b->rows *= 2;
        AGL_TRY(time_calls(&call_s, b, multiply, 1, err)); /* libraries choose and load kernels */
        AGL_TRY(time_calls(&call_s, b, multiply, 1, err));
    } while (call_s < CALL_S && 2 * b->rows <= b->rows_max);
    AGL_TRY(best_seconds(&product_s, b, multiply, err));
    out->multiply_rate = 2 * (double)b->rows * (double)b->out * COLUMNS / product_s;
    return AGL_OK;
}

static void release(bench *b)
{
    const agl_backend_ops *ops = b->backend->ops;
    if (b->weight != NULL) ops->weight_destroy(b->backend, b->weight);
    void *const memory[] = {b->x, b->y, b->from, b->to};
    for (size_t i = 0; i < AGL_COUNT(memory); i++) {
        if (memory[i] != NULL) ops->free(b->backend, memory[i]);
    }
    if (b->stream != NULL) ops->stream_destroy(b->stream);
    free(b->host);
}

/* "cuda:0 (NVIDIA H200, sm_90, 150 GB)" -> "NVIDIA H200". A CPU backend does not know its name. */
static void read_name(agl_device_limits *out, const agl_backend *backend)
{
    const char *open = strchr(backend->description, '(');
    const char *name = out->gpu && open != NULL ? open + 1 : backend->description;
    size_t bytes = out->gpu ? strcspn(name, ",)") : strlen(name);
    snprintf(out->name, sizeof out->name, "%.*s", (int)bytes, name);
}

agl_status agl_device_limits_take(agl_device_limits *out, agl_backend *backend, size_t weight_bytes,
                                  agl_error *err)
{
    bench b = {.backend = backend};
    *out = (agl_device_limits){.gpu = backend->kind == AGL_BACKEND_CUDA,
                               .memory_bytes = backend->memory_total};
    read_name(out, backend);
    agl_status status = prepare(&b, weight_bytes, err);
    if (status == AGL_OK) status = measure(out, &b, err);
    release(&b);
    return status;
}

agl_status agl_device_limits_measure(agl_device_limits *out, const agl_engine_options *options,
                                     agl_error *err)
{
    agl_config *config = calloc(1, sizeof *config);
    agl_backend *backend = NULL;
    char root[4096];
    *out = (agl_device_limits){0};
    if (config == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a configuration");
    config->dtype = AGL_BF16;
    agl_status status = AGL_OK;
    if (options->model != NULL) {
        status = agl_checkpoint_resolve(root, sizeof root, options->model, err);
        if (status == AGL_OK) status = agl_config_load(config, root, err);
    }
    if (status == AGL_OK) status = agl_device_open(&backend, options, config, err);
    if (status == AGL_OK) {
        uint64_t unused = backend->memory_free > 0 ? backend->memory_free : backend->memory_total;
        size_t bytes = unused / 8 < WEIGHT_BYTES ? (size_t)(unused / 8) : WEIGHT_BYTES;
        status = agl_device_limits_take(out, backend, bytes, err);
    }
    if (backend != NULL) backend->ops->destroy(backend);
    free(config);
    return status;
}
