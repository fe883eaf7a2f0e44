/* SPDX-License-Identifier: Apache-2.0
 *
 * kernel_times.c - single operations at the model's shapes, on random values.
 *
 * Operations run one behind the other, recorded where the backend can, as in a decode step. What
 * a step reads from memory comes from memory here: copies of it go round, more than any cache
 * holds. Rows stay in the caches as they do in a step, so the norms may pass 100 %. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agl/agl.h"
#include "base/clock.h"
#include "engine/device.h"
#include "engine/device_limits.h"
#include "model/checkpoint.h"
#include "model/config.h"

#define CACHE_BYTES ((size_t)512 << 20)
#define COPIES_MAX 64
#define PATTERN_BYTES ((size_t)1 << 20)
#define PAGE_TOKENS 16
#define BLOCKS_MAX 24               /* of memory that a kernel takes                      */
#define ROWS_MAX 4096               /* of the cases below                                 */
#define SEQUENCES_MAX 64
#define CONTEXT_MAX 6016
#define PATCHES_GPU 13416           /* a picture of 1080 x 2400                           */
#define PATCHES_CPU 784
#define ROUND_S 0.01                /* launches and waits are small in it                 */

typedef struct {
    agl_config config;
    agl_kernel_fn tell;
    void *user;
    uint32_t rounds;
    agl_backend *backend;
    agl_stream *stream;
    agl_dtype weight_dtype;
    size_t value_bytes;             /* of an activation                                   */
    bool is_cpu;
    unsigned char *pattern;         /* [PATTERN_BYTES] on their way to the device         */
    /* What the kernel at hand holds. */
    agl_weight *weights[COPIES_MAX];
    unsigned char *host;
    void *blocks[BLOCKS_MAX];
    size_t block_count;
    int copies;
} session;

typedef agl_status (*launch_fn)(session *s, const void *args, int copy);

/* ---- memory ---------------------------------------------------------------- */

/* Device memory until the kernel's end; `values` of that type in it, or zeros (AGL_DTYPE_COUNT). */
static agl_status take(session *s, void **out, size_t bytes, agl_dtype values, agl_error *err)
{
    const agl_backend_ops *ops = s->backend->ops;
    if (s->block_count == BLOCKS_MAX) return agl_fail(err, AGL_ERR_INTERNAL, "too many blocks");
    AGL_TRY(ops->alloc(s->backend, out, bytes, AGL_MEMORY_ACTIVATIONS, err));
    s->blocks[s->block_count++] = *out;
    if (values == AGL_DTYPE_COUNT) return AGL_OK;
    agl_device_random_values(s->pattern, PATTERN_BYTES, values);
    for (size_t at = 0; at < bytes; at += PATTERN_BYTES) {
        size_t piece = bytes - at < PATTERN_BYTES ? bytes - at : PATTERN_BYTES;
        agl_status status = ops->upload(s->stream, (unsigned char *)*out + at, s->pattern, piece);
        if (status != AGL_OK) return agl_fail(err, status, "the device's memory cannot be filled");
    }
    return ops->stream_wait(s->stream, err);
}

static void release(session *s)
{
    const agl_backend_ops *ops = s->backend->ops;
    for (int i = 0; i < s->copies; i++) {
        if (s->weights[i] != NULL) ops->weight_destroy(s->backend, s->weights[i]);
        s->weights[i] = NULL;
    }
    while (s->block_count > 0) ops->free(s->backend, s->blocks[--s->block_count]);
    free(s->host);
    s->host = NULL;
    s->copies = 0;
}

static int copies_of(size_t bytes)
{
    size_t copies = CACHE_BYTES / bytes + 1;
    return copies < COPIES_MAX ? (int)copies : COPIES_MAX;
}

/* Copies of one random weight. A CPU reads them where they lie, so there each has its own bytes. */
static agl_status make_weights(session *s, int64_t out, int64_t in, agl_error *err)
{
    size_t bytes = (size_t)(out * in) * agl_dtype_bytes(s->weight_dtype);
    s->copies = copies_of(bytes);
    size_t host_bytes = s->is_cpu ? bytes * (size_t)s->copies : bytes;
    s->host = malloc(host_bytes);
    if (s->host == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for %zu bytes", host_bytes);
    agl_device_random_values(s->host, host_bytes, s->weight_dtype);
    for (int i = 0; i < s->copies; i++) {
        agl_weight_desc desc = {
            .parts = {{.data = s->host + (s->is_cpu ? bytes * (size_t)i : 0), .rows = out}},
            .part_count = 1, .in = in, .dtype = s->weight_dtype};
        AGL_TRY(s->backend->ops->weight_create(s->backend, &s->weights[i], &desc, err));
    }
    return AGL_OK;
}

/* ---- timing ---------------------------------------------------------------- */

static agl_status launch_all(session *s, launch_fn launch, const void *args, int count)
{
    for (int i = 0; i < count; i++) AGL_TRY(launch(s, args, i % s->copies));
    return AGL_OK;
}

/* Seconds of one launch among `count`, the best of `rounds`. */
static agl_status time_launches(double *best, session *s, launch_fn launch, const void *args,
                                int count, agl_error *err)
{
    const agl_backend_ops *ops = s->backend->ops;
    agl_graph *graph = NULL;
    agl_status status = AGL_OK;
    if (ops->graph_begin != NULL) {
        AGL_TRY(ops->graph_begin(s->stream));
        status = launch_all(s, launch, args, count);
        agl_status ended = ops->graph_end(s->stream, &graph, err);
        if (status == AGL_OK) status = ended;
    }
    *best = INFINITY;
    for (uint32_t i = 0; status == AGL_OK && i < s->rounds; i++) {
        double start_s = agl_clock_s();
        status = graph != NULL ? ops->graph_launch(s->stream, graph)
                               : launch_all(s, launch, args, count);
        if (status == AGL_OK) status = ops->stream_wait(s->stream, err);
        *best = fmin(*best, (agl_clock_s() - start_s) / count);
    }
    if (graph != NULL) ops->graph_destroy(s->backend, graph);
    return status;
}

/* ---- one kernel ------------------------------------------------------------- */

static agl_status run_kernel(session *s, agl_kernel_time *k, launch_fn launch, const void *args,
                             agl_error *err)
{
    const agl_backend_ops *ops = s->backend->ops;
    double seconds = 0;
    /* The first loads kernels, the second says how many make a round. */
    for (int i = 0; i < 2; i++) {
        double start_s = agl_clock_s();
        agl_status status = launch(s, args, 0);
        if (status != AGL_OK) return agl_fail(err, status, "%s: %s", k->name, agl_status_text(status));
        AGL_TRY(ops->stream_wait(s->stream, err));
        seconds = agl_clock_s() - start_s;
    }
    int count = (int)(ROUND_S / (seconds + 1e-7)) + 1;
    if (count < s->copies && seconds < ROUND_S) count = s->copies;
    if (count > 400) count = 400;
    agl_status status = time_launches(&k->seconds, s, launch, args, count, err);
    if (status != AGL_OK) {
        return agl_fail(err, status, "%s cannot be timed: %s", k->name, agl_status_text(status));
    }
    return s->tell(s->user, k) ? AGL_OK : AGL_ERR_CANCELLED;
}

/* ---- products ---------------------------------------------------------------- */

static agl_status launch_linear(session *s, const void *args, int copy)
{
    agl_linear_args linear = *(const agl_linear_args *)args;
    linear.weight = s->weights[copy];
    return s->backend->ops->linear(s->stream, &linear);
}

static agl_status launch_swiglu(session *s, const void *args, int copy)
{
    agl_linear_swiglu_args linear = *(const agl_linear_swiglu_args *)args;
    linear.weight = s->weights[copy];
    return s->backend->ops->linear_swiglu(s->stream, &linear);
}

static agl_status bench_linear(session *s, const char *name, int64_t out, int64_t in, bool y_f32,
                               bool swiglu, const int64_t *rows, size_t row_count, agl_error *err)
{
    int64_t most = rows[row_count - 1], width = swiglu ? out / 2 : out;
    size_t y_bytes = y_f32 ? sizeof(float) : s->value_bytes;
    void *x, *y, *wide = NULL;
    AGL_TRY(make_weights(s, out, in, err));
    AGL_TRY(take(s, &x, (size_t)(most * in) * s->value_bytes, s->backend->activation, err));
    AGL_TRY(take(s, &y, (size_t)(most * width) * y_bytes, AGL_DTYPE_COUNT, err));
    if (swiglu) AGL_TRY(take(s, &wide, (size_t)(most * out) * s->value_bytes, AGL_DTYPE_COUNT, err));
    for (size_t i = 0; i < row_count; i++) {
        agl_kernel_time k = {.name = name, .rows = rows[i]};
        double values = (double)(out * in);
        snprintf(k.shape, sizeof k.shape, "%lld x %lld", (long long)out, (long long)in);
        k.bytes = values * (double)agl_dtype_bytes(s->weight_dtype) +
                  (double)rows[i] * (double)(in * (int64_t)s->value_bytes + width * (int64_t)y_bytes);
        k.flops = 2 * values * (double)rows[i];
        agl_linear_args linear = {.x = x, .y = y, .rows = rows[i], .x_stride = in, .y_f32 = y_f32};
        agl_linear_swiglu_args fused = {.x = x, .y = y, .wide = wide, .rows = rows[i]};
        AGL_TRY(run_kernel(s, &k, swiglu ? launch_swiglu : launch_linear,
                           swiglu ? (const void *)&fused : (const void *)&linear, err));
    }
    return AGL_OK;
}

static agl_status bench_products(session *s, agl_error *err)
{
    static const int64_t GPU_ROWS[] = {1, 8, 64, 512, ROWS_MAX}, CPU_ROWS[] = {1, 8, 64, 256};
    const agl_text_config *text = &s->config.text;
    const int64_t *rows = s->is_cpu ? CPU_ROWS : GPU_ROWS;
    size_t count = s->is_cpu ? AGL_COUNT(CPU_ROWS) : AGL_COUNT(GPU_ROWS);
    int64_t q_width = text->heads * text->head_dim;
    const struct {
        const char *name;
        int64_t out, in;
        bool y_f32, swiglu;
        size_t row_count;
    } LAYERS[] = {
        {"qkv", q_width + 2 * text->kv_heads * text->head_dim, text->hidden, false, false, count},
        {"attention output", text->hidden, q_width, true, false, count},
        {"gate, up and SwiGLU", 2 * text->intermediate, text->hidden, false, true, count},
        {"down", text->hidden, text->intermediate, true, false, count},
        {"lm_head", text->vocab, text->hidden, true, false, 3},
    };
    agl_status status = AGL_OK;
    for (size_t i = 0; status == AGL_OK && i < AGL_COUNT(LAYERS); i++) {
        status = bench_linear(s, LAYERS[i].name, LAYERS[i].out, LAYERS[i].in, LAYERS[i].y_f32,
                              LAYERS[i].swiglu, rows, LAYERS[i].row_count, err);
        release(s);
    }
    return status;
}

/* ---- attention ---------------------------------------------------------------- */

typedef struct {
    agl_attention_paged_args args;
    size_t layer_bytes;             /* of K, and of V, of one copy                        */
} paged_case;

static agl_status launch_paged(session *s, const void *args, int copy)
{
    const paged_case *c = args;
    agl_attention_paged_args paged = c->args;
    paged.kv.k = (unsigned char *)paged.kv.k + c->layer_bytes * (size_t)copy;
    paged.kv.v = (unsigned char *)paged.kv.v + c->layer_bytes * (size_t)copy;
    return s->backend->ops->attention_paged(s->stream, &paged);
}

static agl_status put(session *s, const void **out, const void *host, size_t bytes, agl_error *err)
{
    void *device;
    AGL_TRY(take(s, &device, bytes, AGL_DTYPE_COUNT, err));
    *out = device;
    agl_status status = s->backend->ops->upload(s->stream, device, host, bytes);
    return status == AGL_OK ? s->backend->ops->stream_wait(s->stream, err)
                            : agl_fail(err, status, "the device's memory cannot be filled");
}

enum { PAGES_MAX = 16384 };       /* of all sequences of a case */

static agl_status bench_paged(session *s, const char *name, int32_t sequences, int32_t rows,
                              int32_t context, agl_error *err)
{
    const agl_text_config *text = &s->config.text;
    static agl_attention_sequence order[SEQUENCES_MAX];
    static int32_t tables[PAGES_MAX];
    int32_t pages = (context + PAGE_TOKENS - 1) / PAGE_TOKENS, total = rows * sequences;
    int64_t width = text->heads * text->head_dim, kv_width = text->kv_heads * text->head_dim;
    agl_dtype kv_dtype = s->weight_dtype;
    for (int32_t i = 0; i < sequences * pages; i++) tables[i] = i;
    for (int32_t i = 0; i < sequences; i++) {
        order[i] = (agl_attention_sequence){i * rows, rows, context, i * pages};
    }
    paged_case c = {.layer_bytes = (size_t)(sequences * pages * PAGE_TOKENS * kv_width) *
                                   agl_dtype_bytes(kv_dtype)};
    s->copies = rows > 1 ? 1 : copies_of(2 * c.layer_bytes);
    void *q, *out;
    const void *on_device, *tables_on_device;
    AGL_TRY(take(s, &q, (size_t)(total * width) * s->value_bytes, s->backend->activation, err));
    AGL_TRY(take(s, &out, (size_t)(total * width) * s->value_bytes, AGL_DTYPE_COUNT, err));
    AGL_TRY(take(s, &c.args.kv.k, c.layer_bytes * (size_t)s->copies, kv_dtype, err));
    AGL_TRY(take(s, &c.args.kv.v, c.layer_bytes * (size_t)s->copies, kv_dtype, err));
    AGL_TRY(put(s, &on_device, order, (size_t)sequences * sizeof *order, err));
    AGL_TRY(put(s, &tables_on_device, tables, (size_t)(sequences * pages) * sizeof *tables, err));
    c.args.q = q, c.args.out = out, c.args.q_stride = width;
    c.args.sequences = on_device, c.args.page_tables = tables_on_device;
    c.args.sequence_count = sequences, c.args.rows = total, c.args.heads = text->heads;
    c.args.context_max = context, c.args.scale = 1.0f / sqrtf((float)text->head_dim);
    c.args.kv.dtype = kv_dtype, c.args.kv.page_tokens = PAGE_TOKENS;
    c.args.kv.kv_heads = text->kv_heads, c.args.kv.head_dim = text->head_dim;
    double pairs = ((double)rows * context - (double)rows * (rows - 1) / 2) * sequences;
    agl_kernel_time k = {.name = name, .rows = total, .flops = 4 * (double)width * pairs};
    k.bytes = 2.0 * sequences * context * (double)kv_width * (double)agl_dtype_bytes(kv_dtype) +
              2.0 * total * (double)width * (double)s->value_bytes;
    snprintf(k.shape, sizeof k.shape, "%d x %d keys", sequences, context);
    return run_kernel(s, &k, launch_paged, &c, err);
}

static agl_status launch_dense(session *s, const void *args, int copy)
{
    (void)copy;
    return s->backend->ops->attention_dense(s->stream, args);
}

static agl_status bench_dense(session *s, int32_t patches, agl_error *err)
{
    const agl_vision_config *vision = &s->config.vision;
    int64_t width = vision->heads * vision->head_dim;
    int32_t segments[2] = {0, patches};
    void *qkv, *out;
    s->copies = 1;
    AGL_TRY(take(s, &qkv, (size_t)(patches * 3 * width) * s->value_bytes, s->backend->activation, err));
    AGL_TRY(take(s, &out, (size_t)(patches * width) * s->value_bytes, AGL_DTYPE_COUNT, err));
    agl_attention_dense_args args = {.qkv = qkv, .out = out, .segments = segments, .segment_count = 1,
                                     .tokens = patches, .heads = vision->heads,
                                     .head_dim = vision->head_dim,
                                     .scale = 1.0f / sqrtf((float)vision->head_dim)};
    agl_kernel_time k = {.name = "vision attention", .rows = patches,
                .bytes = 4.0 * patches * (double)width * (double)s->value_bytes,
                .flops = 4.0 * (double)width * patches * patches};
    snprintf(k.shape, sizeof k.shape, "%lld heads of %lld", (long long)vision->heads,
             (long long)vision->head_dim);
    return run_kernel(s, &k, launch_dense, &args, err);
}

static agl_status bench_attention(session *s, agl_error *err)
{
    static const struct {
        const char *name;
        int32_t sequences, rows, context;
    } CASES[] = {
        {"decode attention", 1, 1, 512},   {"decode attention", 1, 1, 6000},
        {"decode attention", 16, 1, 2000}, {"decode attention", 64, 1, 768},
        {"prefill attention", 1, 512, 512}, {"prefill attention", 1, 512, 6000},
    };
    agl_status status = AGL_OK;
    for (size_t i = 0; status == AGL_OK && i < AGL_COUNT(CASES); i++) {
        status = bench_paged(s, CASES[i].name, CASES[i].sequences, CASES[i].rows, CASES[i].context, err);
        release(s);
    }
    if (status != AGL_OK || !s->config.has_vision) return status;
    status = bench_dense(s, s->is_cpu ? PATCHES_CPU : PATCHES_GPU, err);
    release(s);
    return status;
}

/* ---- rows ---------------------------------------------------------------------- */

static agl_status launch_rmsnorm(session *s, const void *args, int copy)
{
    (void)copy;
    return s->backend->ops->rmsnorm(s->stream, args);
}

static agl_status bench_rmsnorm(session *s, int64_t rows, agl_error *err)
{
    int64_t hidden = s->config.text.hidden;
    size_t stream_bytes = (size_t)(rows * hidden) * sizeof(float), weight_bytes = (size_t)hidden * 4;
    void *x, *delta, *weight, *delta_weight, *y;
    s->copies = 1;
    AGL_TRY(take(s, &x, stream_bytes, AGL_F32, err));
    AGL_TRY(take(s, &delta, stream_bytes, AGL_F32, err));
    AGL_TRY(take(s, &weight, weight_bytes, AGL_F32, err));
    AGL_TRY(take(s, &delta_weight, weight_bytes, AGL_F32, err));
    AGL_TRY(take(s, &y, (size_t)(rows * hidden) * s->value_bytes, AGL_DTYPE_COUNT, err));
    agl_rmsnorm_args args = {.x = x, .delta = delta, .delta_weight = delta_weight, .y = y,
                             .weight = weight, .rows = rows, .hidden = hidden,
                             .eps = s->config.text.rms_eps};
    agl_kernel_time k = {.name = "two norms and sum", .rows = rows,
                .bytes = 3.0 * (double)stream_bytes + (double)(rows * hidden) * (double)s->value_bytes,
                .flops = 0};
    snprintf(k.shape, sizeof k.shape, "%lld", (long long)hidden);
    return run_kernel(s, &k, launch_rmsnorm, &args, err);
}

static agl_status bench_rows(session *s, agl_error *err)
{
    const int64_t rows[] = {1, s->is_cpu ? 256 : ROWS_MAX};
    agl_status status = AGL_OK;
    for (size_t i = 0; status == AGL_OK && i < AGL_COUNT(rows); i++) {
        status = bench_rmsnorm(s, rows[i], err);
        release(s);
    }
    return status;
}

/* ---- the session ---------------------------------------------------------------- */

static agl_status open_session(session *s, const agl_engine_options *options, agl_error *err)
{
    char root[4096];
    AGL_TRY(agl_checkpoint_resolve(root, sizeof root, options->model, err));
    AGL_TRY(agl_config_load(&s->config, root, err));
    AGL_TRY(agl_device_open(&s->backend, options, &s->config, err));
    s->is_cpu = s->backend->kind == AGL_BACKEND_CPU;
    s->weight_dtype = s->is_cpu ? AGL_BF16 : s->backend->activation;
    s->value_bytes = agl_dtype_bytes(s->backend->activation);
    s->pattern = malloc(PATTERN_BYTES);
    if (s->pattern == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for random values");
    agl_backend_limits limits = {
        .rows_max = ROWS_MAX, .sequences_max = SEQUENCES_MAX, .logit_rows_max = 64,
        .patches_max = PATCHES_GPU, .context_max = CONTEXT_MAX, .heads = s->config.text.heads,
        .kv_heads = s->config.text.kv_heads, .head_dim = s->config.text.head_dim,
        .vision_heads = s->config.vision.heads, .vocab = s->config.text.vocab};
    AGL_TRY(s->backend->ops->stream_create(s->backend, &s->stream, err));
    return s->backend->ops->workspace_reserve(s->backend, &limits, err);
}

agl_status agl_kernels_measure(const agl_engine_options *options, uint32_t rounds, agl_kernel_fn tell,
                               void *user, agl_error *err)
{
    session *s = calloc(1, sizeof *s);
    if (s == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a session");
    s->tell = tell, s->user = user, s->rounds = rounds > 0 ? rounds : 1;
    agl_status status = open_session(s, options, err);
    if (status == AGL_OK) status = bench_products(s, err);
    if (status == AGL_OK) status = bench_attention(s, err);
    if (status == AGL_OK) status = bench_rows(s, err);
    if (s->backend != NULL) {
        release(s);
        if (s->stream != NULL) s->backend->ops->stream_destroy(s->stream);
        s->backend->ops->destroy(s->backend);
    }
    free(s->pattern);
    free(s);
    return status;
}
