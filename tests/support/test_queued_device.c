/* SPDX-License-Identifier: Apache-2.0 */
#include "support/test_queued_device.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUBBISH_TOKEN (-77777)

#define OPERATIONS(X)                                                                          \
    X(embed) X(rmsnorm) X(layernorm) X(linear) X(swiglu) X(linear_swiglu) X(rope_store)        \
    X(linear_rope_store) X(attention_paged) X(attention_dense) X(rope_vision) X(resize)      \
    X(patchify) X(position_embed) X(gather) X(sample)

typedef enum {
#define KIND(op) KIND_##op,
    OPERATIONS(KIND)
#undef KIND
    KIND_UPLOAD,
    KIND_DOWNLOAD,
    KIND_COPY
} kind;

typedef struct {
    kind kind;
    union {
#define ARGS(op) agl_##op##_args op;
        OPERATIONS(ARGS)
#undef ARGS
        struct {
            void *to;
            const void *from;
            size_t bytes;
        } move;
    } args;
    void *seen;                 /* what the host memory held when it was queued, or NULL */
} work;

typedef struct {
    agl_stream base;
    agl_stream *cpu;
    pthread_t thread;
    pthread_mutex_t lock;       /* of all below                                         */
    pthread_cond_t changed;
    work *queue;
    size_t count, done, capacity;
    agl_status failed;
    bool has_thread, stopping;
} queued_stream;

agl_status __real_agl_backend_cpu_create(agl_backend **out, const agl_backend_options *options,
                                         agl_error *err);
agl_status __wrap_agl_backend_cpu_create(agl_backend **out, const agl_backend_options *options,
                                         agl_error *err);

static test_device device_used = TEST_DEVICE_AT_ONCE;
static const agl_backend_ops *cpu_ops;
static agl_backend_ops queued_ops;
static atomic_uint queued_count, waits_left = UINT32_MAX, samples_left = UINT32_MAX;

void test_device_use(test_device device)
{
    device_used = device;
    test_device_break(UINT32_MAX, UINT32_MAX);
}

void test_device_break(uint32_t waits, uint32_t samples)
{
    atomic_store(&waits_left, waits);
    atomic_store(&samples_left, samples);
}

const char *test_device_name(test_device device)
{
    static const char *const NAMES[] = {"done at once", "done at wait", "done by a thread"};
    return NAMES[device];
}

uint32_t test_device_queued(void)
{
    return atomic_load(&queued_count);
}

static bool counted_down(atomic_uint *left)
{
    return atomic_load(left) != UINT32_MAX && (atomic_load(left) == 0 || atomic_fetch_sub(left, 1) == 0);
}

/* ---- the device's side --------------------------------------------------- */

static void check_seen(const work *item, const void *now, size_t bytes)
{
    if (memcmp(item->seen, now, bytes) == 0) return;
    fprintf(stderr, "host memory changed before the device had read it\n");
    abort();
}

static agl_status run(const queued_stream *stream, const work *item)
{
    switch (item->kind) {
    case KIND_UPLOAD:
        check_seen(item, item->args.move.from, item->args.move.bytes);
        return cpu_ops->upload(stream->cpu, item->args.move.to, item->args.move.from, item->args.move.bytes);
    case KIND_DOWNLOAD:
        return cpu_ops->download(stream->cpu, item->args.move.to, item->args.move.from, item->args.move.bytes);
    case KIND_COPY:
        return cpu_ops->copy(stream->cpu, item->args.move.to, item->args.move.from, item->args.move.bytes);
    case KIND_sample:
        check_seen(item, item->args.sample.params,
                   (size_t)item->args.sample.rows * sizeof *item->args.sample.params);
        return cpu_ops->sample(stream->cpu, &item->args.sample);
#define CASE(op) case KIND_##op: return cpu_ops->op(stream->cpu, &item->args.op);
    CASE(embed) CASE(rmsnorm) CASE(layernorm) CASE(linear) CASE(swiglu) CASE(linear_swiglu)
    CASE(rope_store) CASE(linear_rope_store)
    CASE(attention_paged) CASE(attention_dense) CASE(rope_vision) CASE(resize) CASE(patchify)
    CASE(position_embed) CASE(gather)
#undef CASE
    }
    return AGL_ERR_INTERNAL;
}

/* `lock` is held, but while the operation runs. */
static void run_next(queued_stream *stream)
{
    work item = stream->queue[stream->done];
    pthread_mutex_unlock(&stream->lock);
    agl_status status = run(stream, &item);
    free(item.seen);
    atomic_fetch_sub(&queued_count, 1);
    pthread_mutex_lock(&stream->lock);
    if (status != AGL_OK) stream->failed = status;
    stream->done++;
}

static void *run_thread(void *argument)
{
    queued_stream *stream = argument;
    pthread_mutex_lock(&stream->lock);
    while (!stream->stopping) {
        if (stream->done < stream->count) run_next(stream);
        else pthread_cond_wait(&stream->changed, &stream->lock);
        if (stream->done == stream->count) pthread_cond_broadcast(&stream->changed);
    }
    pthread_mutex_unlock(&stream->lock);
    return NULL;
}

/* ---- the host's side ----------------------------------------------------- */

static void *copy_of(const void *memory, size_t bytes)
{
    void *copy = malloc(bytes + 1);
    if (copy == NULL) abort();
    return bytes > 0 ? memcpy(copy, memory, bytes) : copy;
}

static agl_status push(agl_stream *base, const work *item)
{
    queued_stream *stream = (queued_stream *)base;
    pthread_mutex_lock(&stream->lock);
    if (stream->count == stream->capacity) {
        stream->capacity = 2 * stream->capacity + 1024;
        stream->queue = realloc(stream->queue, stream->capacity * sizeof *stream->queue);
        if (stream->queue == NULL) abort();
    }
    stream->queue[stream->count++] = *item;
    atomic_fetch_add(&queued_count, 1);
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    return AGL_OK;
}

static agl_status push_move(agl_stream *stream, kind move, void *to, const void *from, size_t bytes)
{
    work item = {.kind = move, .args.move = {to, from, bytes}};
    if (move == KIND_UPLOAD) item.seen = copy_of(from, bytes);
    return push(stream, &item);
}

static agl_status queue_upload(agl_stream *stream, void *device, const void *host, size_t bytes)
{
    return push_move(stream, KIND_UPLOAD, device, host, bytes);
}

static agl_status queue_download(agl_stream *stream, void *host, const void *device, size_t bytes)
{
    return push_move(stream, KIND_DOWNLOAD, host, device, bytes);
}

static agl_status queue_copy(agl_stream *stream, void *out, const void *in, size_t bytes)
{
    return push_move(stream, KIND_COPY, out, in, bytes);
}

/* The segments are read in the call: a launcher makes its grid from them. */
static agl_status queue_attention_dense(agl_stream *stream, const agl_attention_dense_args *args)
{
    work item = {.kind = KIND_attention_dense, .args.attention_dense = *args};
    item.seen = copy_of(args->segments, (size_t)(args->segment_count + 1) * sizeof *args->segments);
    item.args.attention_dense.segments = item.seen;
    return push(stream, &item);
}

static agl_status queue_sample(agl_stream *stream, const agl_sample_args *args)
{
    if (counted_down(&samples_left)) return AGL_ERR_DEVICE;
    work item = {.kind = KIND_sample, .args.sample = *args};
    item.seen = copy_of(args->params, (size_t)args->rows * sizeof *args->params);
    for (int64_t i = 0; i < args->rows; i++) args->results[i].token = RUBBISH_TOKEN;
    return push(stream, &item);
}

#define QUEUE(op)                                                                              \
    static agl_status queue_##op(agl_stream *stream, const agl_##op##_args *args)              \
    {                                                                                          \
        return push(stream, &(work){.kind = KIND_##op, .args.op = *args});                     \
    }
QUEUE(embed) QUEUE(rmsnorm) QUEUE(layernorm) QUEUE(linear) QUEUE(swiglu) QUEUE(linear_swiglu)
QUEUE(rope_store) QUEUE(linear_rope_store) QUEUE(attention_paged) QUEUE(rope_vision) QUEUE(resize)
QUEUE(patchify) QUEUE(position_embed) QUEUE(gather)
#undef QUEUE

static agl_status wait_for_all(agl_stream *base, agl_error *err)
{
    queued_stream *stream = (queued_stream *)base;
    pthread_mutex_lock(&stream->lock);
    while (stream->done < stream->count) {
        if (stream->has_thread) pthread_cond_wait(&stream->changed, &stream->lock);
        else run_next(stream);
    }
    stream->done = stream->count = 0;
    agl_status status = stream->failed;
    stream->failed = AGL_OK;
    pthread_mutex_unlock(&stream->lock);
    if (counted_down(&waits_left)) status = AGL_ERR_DEVICE;
    return status == AGL_OK ? AGL_OK : agl_fail(err, status, "the device has failed");
}

/* ---- life ---------------------------------------------------------------- */

static agl_status create_stream(agl_backend *backend, agl_stream **out, agl_error *err)
{
    queued_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a stream");
    stream->base.backend = backend;
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, NULL);
    stream->has_thread = device_used == TEST_DEVICE_THREAD;
    agl_status status = cpu_ops->stream_create(backend, &stream->cpu, err);
    if (status == AGL_OK && stream->has_thread &&
        pthread_create(&stream->thread, NULL, run_thread, stream) != 0) abort();
    *out = &stream->base;
    return status;
}

static void destroy_stream(agl_stream *base)
{
    queued_stream *stream = (queued_stream *)base;
    pthread_mutex_lock(&stream->lock);
    stream->stopping = true;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    if (stream->has_thread) pthread_join(stream->thread, NULL);
    for (; stream->done < stream->count; stream->done++) {
        free(stream->queue[stream->done].seen);
        atomic_fetch_sub(&queued_count, 1);
    }
    cpu_ops->stream_destroy(stream->cpu);
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    free(stream->queue);
    free(stream);
}

agl_status __wrap_agl_backend_cpu_create(agl_backend **out, const agl_backend_options *options,
                                         agl_error *err)
{
    AGL_TRY(__real_agl_backend_cpu_create(out, options, err));
    if (device_used == TEST_DEVICE_AT_ONCE) return AGL_OK;
    cpu_ops = (*out)->ops;
    queued_ops = *cpu_ops;
    queued_ops.upload = queue_upload;
    queued_ops.download = queue_download;
    queued_ops.copy = queue_copy;
    queued_ops.stream_create = create_stream;
    queued_ops.stream_destroy = destroy_stream;
    queued_ops.stream_wait = wait_for_all;
#define SLOT(op) queued_ops.op = queue_##op;
    OPERATIONS(SLOT)
#undef SLOT
    (*out)->ops = &queued_ops;
    (*out)->synchronous = false;
    return AGL_OK;
}
