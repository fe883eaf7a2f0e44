/* SPDX-License-Identifier: Apache-2.0 */
#include "model/weight_loader.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/buffer.h"
#include "base/random.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define PAGE_BYTES 4096
#define TASK_BYTES ((size_t)4 << 20)    /* of one thread's piece of copying          */
#define PATTERN_VALUES 1048573          /* a prime: rows of a matrix never line up   */
#define DUMMY_RANGE 0.0346f             /* uniform, standard deviation 0.02          */

/* ---- host memory ------------------------------------------------------------ */

struct agl_host_block {
    agl_host_block *next;
    void *memory;
    size_t bytes;
};

static agl_status host_alloc(agl_weight_loader *loader, void **out, size_t bytes, agl_error *err)
{
    agl_host_block *block = malloc(sizeof *block);
    void *memory = block == NULL ? MAP_FAILED
                                 : mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        free(block);
        return agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for a weight of %zu MiB", loader->dir,
                        bytes >> 20);
    }
    if (bytes >= 2 * HUGE_PAGE) madvise(memory, bytes, MADV_HUGEPAGE);
    *block = (agl_host_block){.next = loader->blocks, .memory = memory, .bytes = bytes};
    loader->blocks = block;
    *out = memory;
    return AGL_OK;
}

void agl_host_blocks_free(agl_host_block *first)
{
    while (first != NULL) {
        agl_host_block *next = first->next;
        munmap(first->memory, first->bytes);
        free(first);
        first = next;
    }
}

/* ---- work on many values, in threads ---------------------------------------- */

typedef struct {
    const agl_weight_loader *loader;
    const void *in;
    void *out;
    agl_dtype in_dtype, out_dtype;
    size_t values;
    uint64_t salt;
} bulk;

static float load_value(const void *data, agl_dtype dtype, size_t index)
{
    switch (dtype) {
    case AGL_F32: return ((const float *)data)[index];
    case AGL_BF16: return agl_bf16_to_f32(((const uint16_t *)data)[index]);
    case AGL_F16: return agl_f16_to_f32(((const uint16_t *)data)[index]);
    default: assert(!"float dtypes only"); return 0.0f;
    }
}

static void store_value(void *data, agl_dtype dtype, size_t index, float value)
{
    switch (dtype) {
    case AGL_F32: ((float *)data)[index] = value; break;
    case AGL_BF16: ((uint16_t *)data)[index] = agl_f32_to_bf16(value); break;
    case AGL_F16: ((uint16_t *)data)[index] = agl_f32_to_f16(value); break;
    default: assert(!"float dtypes only");
    }
}

static size_t values_per_task(const bulk *job)
{
    return TASK_BYTES / agl_dtype_bytes(job->out_dtype);
}

static void run_bulk(const agl_weight_loader *loader, agl_task_fn fn, bulk *job)
{
    size_t step = values_per_task(job);
    agl_thread_pool_run(loader->pool, fn, job, (job->values + step - 1) / step);
}

static void task_range(const bulk *job, size_t task, size_t *first, size_t *end)
{
    *first = task * values_per_task(job);
    *end =
        *first + values_per_task(job) < job->values ? *first + values_per_task(job) : job->values;
}

static void convert_task(void *context, size_t task, uint32_t worker)
{
    (void)worker;
    const bulk *job = context;
    size_t first, end;
    task_range(job, task, &first, &end);
    for (size_t i = first; i < end; i++) {
        store_value(job->out, job->out_dtype, i, load_value(job->in, job->in_dtype, i));
    }
}

/* Read a mapped tensor once, so that "loaded" means it is in memory and not on a disk. */
static void touch_task(void *context, size_t task, uint32_t worker)
{
    (void)worker;
    const bulk *job = context;
    size_t first, end, size = agl_dtype_bytes(job->in_dtype);
    task_range(job, task, &first, &end);
    for (size_t at = first * size; at < end * size; at += PAGE_BYTES) {
        (void)((const volatile unsigned char *)job->in)[at];
    }
}

/* Runs of the pattern from a place that depends on seed, tensor and task. */
static void dummy_task(void *context, size_t task, uint32_t worker)
{
    (void)worker;
    const bulk *job = context;
    size_t first, end, size = agl_dtype_bytes(job->out_dtype);
    task_range(job, task, &first, &end);
    size_t from = agl_random_mix(job->salt + task * 0x9e3779b97f4a7c15u) % PATTERN_VALUES;
    while (first < end) {
        size_t run = PATTERN_VALUES - from < end - first ? PATTERN_VALUES - from : end - first;
        memcpy((char *)job->out + first * size, (const char *)job->in + from * size, run * size);
        first += run;
        from = 0;
    }
}

static agl_status make_pattern(agl_weight_loader *loader, agl_error *err)
{
    if (loader->pattern != NULL) return AGL_OK;
    loader->pattern = malloc(PATTERN_VALUES * agl_dtype_bytes(loader->dtype));
    if (loader->pattern == NULL)
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for random weights");
    for (size_t i = 0; i < PATTERN_VALUES; i++) {
        uint64_t bits = agl_random_mix((loader->seed + 1) * 0x9e3779b97f4a7c15u + i * 0xd1b54a32d192ed03u);
        float unit = (float)((int32_t)(bits >> 40) - (1 << 23)) * 0x1p-23f;
        store_value(loader->pattern, loader->dtype, i, DUMMY_RANGE * unit);
    }
    return AGL_OK;
}

/* ---- names and shapes ------------------------------------------------------- */

static bool creates(const agl_weight_loader *loader)
{
    return loader->backend != NULL && !loader->skip;
}

/* The CPU computes with what is in host memory; other backends copy it to a device. */
static bool reads_in_place(const agl_weight_loader *loader)
{
    return loader->backend->kind == AGL_BACKEND_CPU;
}

void agl_weight_loader_deinit(agl_weight_loader *loader)
{
    free(loader->pattern);
    loader->pattern = NULL;
}

void agl_weight_loader_enter(agl_weight_loader *loader, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int bytes = vsnprintf(loader->prefix, sizeof loader->prefix, format, args);
    va_end(args);
    assert(bytes >= 0 && (size_t)bytes < sizeof loader->prefix);
    (void)bytes;
}

static void full_name(char out[AGL_NAME_BYTES], const agl_weight_loader *loader, const char *name,
                      const char *ending)
{
    int bytes = snprintf(out, AGL_NAME_BYTES, "%s%s%s", loader->prefix, name, ending);
    assert(bytes >= 0 && bytes < AGL_NAME_BYTES);
    (void)bytes;
}

bool agl_weight_loader_has(const agl_weight_loader *loader, const char *name)
{
    char full[AGL_NAME_BYTES];
    full_name(full, loader, name, "");
    return loader->map != NULL && agl_tensor_map_find(loader->map, full) != NULL;
}

static agl_status wrong_shape(const agl_weight_loader *loader, const agl_tensor *tensor,
                              int64_t rows, int64_t in, agl_error *err)
{
    agl_buffer shape;
    agl_buffer_init(&shape, 1024);
    for (int i = 0; i < tensor->rank; i++) {
        agl_buffer_append_format(&shape, "%s%lld", i > 0 ? "," : "", (long long)tensor->shape[i]);
    }
    agl_status status = agl_fail(
        err, AGL_ERR_FORMAT, "%s: tensor %s: shape is [%s], [%lld,%lld] expected", loader->dir,
        tensor->name, shape.bytes > 0 ? shape.data : "", (long long)rows, (long long)in);
    agl_buffer_deinit(&shape);
    return status;
}

/* Find prefix + name + ending, [rows, ...] with rows * in floats; a vector has in = 1. */
static agl_status find_tensor(const agl_tensor **out, const agl_weight_loader *loader,
                              const char *name, const char *ending, int64_t rows, int64_t in,
                              agl_error *err)
{
    char full[AGL_NAME_BYTES];
    full_name(full, loader, name, ending);
    agl_named_tensor *entry = agl_tensor_map_find(loader->map, full);
    if (entry == NULL) {
        return agl_fail(err, AGL_ERR_NOT_FOUND, "%s: tensor %s is missing, [%lld,%lld] expected",
                        loader->dir, full, (long long)rows, (long long)in);
    }
    entry->used = true;
    const agl_tensor *tensor = entry->tensor;
    if (tensor->dtype != AGL_F32 && tensor->dtype != AGL_BF16 && tensor->dtype != AGL_F16) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "%s: tensor %s: dtype is %s, float32, bfloat16 or float16 expected",
                        loader->dir, tensor->name, agl_dtype_name(tensor->dtype));
    }
    size_t values = tensor->bytes / agl_dtype_bytes(tensor->dtype);
    if (tensor->rank < 1 || tensor->shape[0] != rows || values != (size_t)rows * (size_t)in) {
        return wrong_shape(loader, tensor, rows, in, err);
    }
    *out = tensor;
    return AGL_OK;
}

/* ---- linear layers ---------------------------------------------------------- */

/* [out, in, side, side] -> [out, side, side, in] */
static void reorder_kernel(void *out, const void *in, agl_dtype dtype, int64_t rows,
                           int64_t channels, int64_t side)
{
    size_t size = agl_dtype_bytes(dtype);
    int64_t taps = side * side;
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t tap = 0; tap < taps; tap++) {
            for (int64_t channel = 0; channel < channels; channel++) {
                memcpy((char *)out + (size_t)((row * taps + tap) * channels + channel) * size,
                       (const char *)in + (size_t)((row * channels + channel) * taps + tap) * size,
                       size);
            }
        }
    }
}

/* Part `i` of the description. A device converts while it copies: it gets values as stored,
 * all parts in the dtype of the first. */
static agl_status part_from_file(agl_weight_loader *loader, agl_weight_desc *desc,
                                 const agl_linear_spec *spec, int i, agl_error *err)
{
    const agl_linear_part *part = &spec->parts[i];
    const void **out = &desc->parts[i].data;
    const agl_tensor *tensor;
    AGL_TRY(find_tensor(&tensor, loader, part->name, ".weight", part->rows, spec->in, err));
    if (!creates(loader)) return AGL_OK;
    if (i == 0 && !reads_in_place(loader)) desc->dtype = tensor->dtype;
    bulk job = {.loader = loader,
                .in = tensor->data,
                .in_dtype = tensor->dtype,
                .out_dtype = desc->dtype,
                .values = (size_t)(part->rows * spec->in)};
    *out = tensor->data;
    if (tensor->dtype != desc->dtype) {
        AGL_TRY(host_alloc(loader, &job.out, job.values * agl_dtype_bytes(desc->dtype), err));
        run_bulk(loader, convert_task, &job);
        *out = job.out;
    } else if (reads_in_place(loader)) {
        run_bulk(loader, touch_task, &job);
    }
    if (spec->kernel > 0) {
        void *reordered;
        AGL_TRY(host_alloc(loader, &reordered, job.values * agl_dtype_bytes(desc->dtype), err));
        reorder_kernel(reordered, *out, desc->dtype, part->rows,
                       spec->in / (spec->kernel * spec->kernel), spec->kernel);
        *out = reordered;
    }
    return AGL_OK;
}

static agl_status part_random(agl_weight_loader *loader, const void **out, int64_t rows, int64_t in,
                              agl_error *err)
{
    AGL_TRY(make_pattern(loader, err));
    bulk job = {.loader = loader,
                .in = loader->pattern,
                .out_dtype = loader->dtype,
                .values = (size_t)(rows * in),
                .salt = agl_random_mix(loader->seed ^ agl_random_mix(loader->parameters))};
    AGL_TRY(host_alloc(loader, &job.out, job.values * agl_dtype_bytes(loader->dtype), err));
    run_bulk(loader, dummy_task, &job);
    *out = job.out;
    return AGL_OK;
}

/* Biases are few: F32 whatever the file has. Random ones are 0, as the block arrives. */
static agl_status part_bias(agl_weight_loader *loader, const void **out,
                            const agl_linear_part *part, agl_error *err)
{
    const agl_tensor *tensor = NULL;
    void *bias;
    if (loader->map != NULL)
        AGL_TRY(find_tensor(&tensor, loader, part->name, ".bias", part->rows, 1, err));
    if (!creates(loader)) return AGL_OK;
    AGL_TRY(host_alloc(loader, &bias, (size_t)part->rows * sizeof(float), err));
    for (int64_t i = 0; tensor != NULL && i < part->rows; i++) {
        ((float *)bias)[i] = load_value(tensor->data, tensor->dtype, (size_t)i);
    }
    *out = bias;
    return AGL_OK;
}

static void report_progress(const agl_weight_loader *loader)
{
    if (loader->progress == NULL || loader->parameters_total == 0) return;
    loader->progress(loader->progress_user, "weights",
                     (double)loader->parameters / (double)loader->parameters_total);
}

agl_status agl_weight_loader_linear(agl_weight_loader *loader, agl_weight **out,
                                    const agl_linear_spec *spec, agl_error *err)
{
    agl_weight_desc desc = {.part_count = spec->part_count, .in = spec->in, .dtype = loader->dtype,
                            .bias_dtype = AGL_F32};
    for (int i = 0; i < spec->part_count; i++) {
        const agl_linear_part *part = &spec->parts[i];
        desc.parts[i].rows = part->rows;
        if (loader->map != NULL) {
            AGL_TRY(part_from_file(loader, &desc, spec, i, err));
        } else if (creates(loader)) {
            AGL_TRY(part_random(loader, &desc.parts[i].data, part->rows, spec->in, err));
        }
        if (part->bias) AGL_TRY(part_bias(loader, &desc.parts[i].bias, part, err));
        if (loader->skip) continue;
        loader->parameters += (uint64_t)part->rows * (uint64_t)(spec->in + part->bias);
        loader->bytes +=
            (uint64_t)part->rows * ((uint64_t)spec->in * agl_dtype_bytes(loader->dtype) +
                                    (part->bias ? sizeof(float) : 0));
    }
    if (!creates(loader)) return AGL_OK;
    AGL_TRY(loader->backend->ops->weight_create(loader->backend, out, &desc, err));
    if (!reads_in_place(loader)) {
        agl_host_blocks_free(loader->blocks);   /* of this weight: it has its own copy */
        loader->blocks = NULL;
    }
    report_progress(loader);
    return AGL_OK;
}

agl_status agl_weight_loader_matrix(agl_weight_loader *loader, agl_weight **out, const char *name,
                                    int64_t rows, int64_t in, agl_error *err)
{
    agl_linear_spec spec = {.parts = {{name, rows, false}}, .part_count = 1, .in = in};
    return agl_weight_loader_linear(loader, out, &spec, err);
}

/* ---- vectors ---------------------------------------------------------------- */

/* Upload and wait: the host copy goes away before the queue may have read it. */
static agl_status upload_values(agl_weight_loader *loader, float **out, const float *values,
                                size_t bytes, agl_error *err)
{
    const agl_backend_ops *ops = loader->backend->ops;
    void *memory;
    AGL_TRY(ops->alloc(loader->backend, &memory, bytes, AGL_MEMORY_WEIGHTS, err));
    *out = memory;
    agl_status status = ops->upload(loader->stream, memory, values, bytes);
    if (status != AGL_OK)
        return agl_fail(err, status, "%s: %zu bytes cannot be uploaded", loader->dir, bytes);
    return ops->stream_wait(loader->stream, err);
}

agl_status agl_weight_loader_vector(agl_weight_loader *loader, float **out, const char *name,
                                    int64_t rows, int64_t columns, agl_error *err)
{
    const agl_tensor *tensor = NULL;
    size_t count = (size_t)rows * (size_t)columns;
    if (!loader->skip) {
        loader->parameters += count;
        loader->bytes += count * sizeof(float);
    }
    if (loader->map != NULL) AGL_TRY(find_tensor(&tensor, loader, name, "", rows, columns, err));
    if (!creates(loader)) return AGL_OK;
    float *values = malloc(count * sizeof *values);
    if (values == NULL)
        return agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for %s", loader->dir, name);
    for (size_t i = 0; i < count; i++) {
        values[i] = tensor != NULL ? load_value(tensor->data, tensor->dtype, i) : 1.0f;
    }
    agl_status status = upload_values(loader, out, values, count * sizeof *values, err);
    free(values);
    return status;
}
