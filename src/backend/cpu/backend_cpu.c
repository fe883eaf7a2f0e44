/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU backend: memory, weights read in place, scratch, and the way from a
 * stream to the table of operations. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/cpu/cpu_ops.h"

#define ALIGNMENT 64
#define HUGE_PAGE ((size_t)2 << 20)

/* Stands before every allocation, so that free knows its size and tag. */
typedef struct {
    size_t mapped_bytes;
    size_t bytes;
    agl_memory_tag tag;
} memory_header;

_Static_assert(sizeof(memory_header) <= ALIGNMENT, "the header fits the alignment gap");

static agl_cpu *cpu_of(agl_stream *stream)
{
    return (agl_cpu *)stream->backend;
}

/* ---- memory ---------------------------------------------------------------- */

static agl_status memory_alloc(agl_backend *backend, void **out, size_t bytes, agl_memory_tag tag,
                               agl_error *err)
{
    *out = NULL;
    size_t limit = SIZE_MAX / 2;
    size_t total = bytes < limit ? bytes + ALIGNMENT : limit;
    /* Anonymous maps arrive zeroed, page by page, when first touched. */
    void *base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for %zu bytes (%zu MiB)", bytes, bytes >> 20);
    }
    if (total >= 2 * HUGE_PAGE) madvise(base, total, MADV_HUGEPAGE);
    memory_header *header = base;
    *header = (memory_header){.mapped_bytes = total, .bytes = bytes, .tag = tag};
    backend->memory_by_tag[tag] += bytes;
    *out = (char *)base + ALIGNMENT;
    return AGL_OK;
}

static void memory_free(agl_backend *backend, void *memory)
{
    if (memory == NULL) return;
    memory_header *header = (memory_header *)((char *)memory - ALIGNMENT);
    assert(backend->memory_by_tag[header->tag] >= header->bytes);
    backend->memory_by_tag[header->tag] -= header->bytes;
    munmap(header, header->mapped_bytes);
}

static agl_status memory_copy(agl_stream *stream, void *out, const void *in, size_t bytes)
{
    (void)stream;
    if (bytes > 0) memmove(out, in, bytes);
    return AGL_OK;
}

agl_status agl_cpu_reserve_shared(agl_cpu *cpu, size_t bytes)
{
    if (bytes <= cpu->shared_bytes) return AGL_OK;
    void *memory;
    AGL_TRY(memory_alloc(&cpu->base, &memory, bytes, AGL_MEMORY_WORKSPACE, NULL));
    memory_free(&cpu->base, cpu->shared);
    cpu->shared = memory;
    cpu->shared_bytes = bytes;
    return AGL_OK;
}

agl_status agl_cpu_reserve_worker(agl_cpu *cpu, size_t bytes)
{
    if (bytes <= cpu->worker_bytes) return AGL_OK;
    cpu->worker_bytes = 0; /* until all have grown */
    for (uint32_t i = 0; i < cpu->threads; i++) {
        void *memory;
        AGL_TRY(memory_alloc(&cpu->base, &memory, bytes, AGL_MEMORY_WORKSPACE, NULL));
        memory_free(&cpu->base, cpu->worker_scratch[i]);
        cpu->worker_scratch[i] = memory;
    }
    cpu->worker_bytes = bytes;
    return AGL_OK;
}

/* ---- weights --------------------------------------------------------------- */

static bool is_float(agl_dtype dtype)
{
    return dtype == AGL_F32 || dtype == AGL_BF16 || dtype == AGL_F16;
}

static agl_status weight_create(agl_backend *backend, agl_weight **out, const agl_weight_desc *desc,
                                agl_error *err)
{
    *out = NULL;
    assert(desc->part_count >= 1 && desc->part_count <= AGL_WEIGHT_PARTS_MAX && desc->in >= 1);
    if (!is_float(desc->dtype)) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "weights of %s are not supported on the CPU",
                        agl_dtype_name(desc->dtype));
    }
    agl_cpu_weight *weight = calloc(1, sizeof *weight);
    if (weight == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a weight");
    weight->desc = *desc;
    for (int i = 0; i < desc->part_count; i++) {
        assert(desc->parts[i].data != NULL && desc->parts[i].rows >= 1);
        assert(desc->parts[i].bias == NULL || is_float(desc->bias_dtype));
        weight->part_first[i + 1] = weight->part_first[i] + desc->parts[i].rows;
    }
    int64_t out_rows = weight->part_first[desc->part_count];
    weight->base = (agl_weight){.out = out_rows, .in = desc->in};
    /* What `linear` and `sample` will need with this weight is taken now. */
    agl_cpu *cpu = (agl_cpu *)backend;
    size_t columns = ((size_t)desc->in + 63) / 64 * 64;
    agl_status status = agl_cpu_reserve_shared(cpu, columns * sizeof(float) * AGL_CPU_LINEAR_ROWS);
    if (status == AGL_OK) status = agl_cpu_reserve_worker(cpu, columns * sizeof(float));
    if (status == AGL_OK) status = agl_cpu_sample_reserve(cpu, out_rows);
    if (status != AGL_OK) {
        free(weight);
        return agl_fail(err, status, "no memory for the scratch of a %lld x %lld weight",
                        (long long)out_rows, (long long)desc->in);
    }
    *out = &weight->base;
    return AGL_OK;
}

static void weight_destroy(agl_backend *backend, agl_weight *weight)
{
    (void)backend;
    free(weight);
}

static int part_of(const agl_cpu_weight *weight, int64_t row)
{
    assert(row >= 0 && row < weight->base.out);
    int part = 0;
    while (row >= weight->part_first[part + 1]) part++;
    return part;
}

const void *agl_cpu_weight_row(const agl_weight *weight, int64_t row)
{
    const agl_cpu_weight *cpu_weight = (const agl_cpu_weight *)weight;
    int part = part_of(cpu_weight, row);
    size_t row_bytes = (size_t)weight->in * agl_dtype_bytes(cpu_weight->desc.dtype);
    return (const char *)cpu_weight->desc.parts[part].data +
           (size_t)(row - cpu_weight->part_first[part]) * row_bytes;
}

float agl_cpu_weight_bias(const agl_weight *weight, int64_t row)
{
    const agl_cpu_weight *cpu_weight = (const agl_cpu_weight *)weight;
    int part = part_of(cpu_weight, row);
    const void *bias = cpu_weight->desc.parts[part].bias;
    if (bias == NULL) return 0.0f;
    return agl_cpu_load(bias, cpu_weight->desc.bias_dtype, row - cpu_weight->part_first[part]);
}

/* ---- streams --------------------------------------------------------------- */

static agl_status stream_create(agl_backend *backend, agl_stream **out, agl_error *err)
{
    (void)err;
    *out = &((agl_cpu *)backend)->stream;
    return AGL_OK;
}

static void stream_destroy(agl_stream *stream)
{
    (void)stream;
}

static agl_status stream_wait(agl_stream *stream, agl_error *err)
{
    (void)stream;
    (void)err;
    return AGL_OK;
}

/* ---- operations ------------------------------------------------------------ */

#define FORWARD(op)                                                            \
    static agl_status op(agl_stream *stream, const agl_##op##_args *args)      \
    {                                                                          \
        agl_cpu *cpu = cpu_of(stream);                                         \
        return cpu->ops.op(cpu, args);                                         \
    }
FORWARD(embed)
FORWARD(rmsnorm)
FORWARD(layernorm)
FORWARD(linear)
FORWARD(swiglu)
FORWARD(rope_store)
FORWARD(attention_paged)
FORWARD(attention_dense)
FORWARD(rope_vision)
FORWARD(resize)
FORWARD(patchify)
FORWARD(position_embed)
FORWARD(gather)
FORWARD(sample)
#undef FORWARD

static agl_status linear_swiglu(agl_stream *stream, const agl_linear_swiglu_args *args)
{
    AGL_TRY(linear(stream, &(agl_linear_args){
        .x = args->x, .y = args->wide, .weight = args->weight, .rows = args->rows,
        .x_stride = args->weight->in}));
    return swiglu(stream, &(agl_swiglu_args){
        .x = args->wide, .y = args->y, .rows = args->rows, .width = args->weight->out / 2});
}

static agl_status linear_rope_store(agl_stream *stream, const agl_linear_rope_store_args *args)
{
    AGL_TRY(linear(stream, &(agl_linear_args){
        .x = args->x, .y = args->rope.qkv, .weight = args->weight, .rows = args->rope.tokens,
        .x_stride = args->weight->in}));
    return rope_store(stream, &args->rope);
}

typedef struct {
    agl_cpu_rows_fn fn;
    const void *args;
    int64_t rows, rows_per_task;
} rows_job;

static void rows_task(void *context, size_t task, uint32_t worker)
{
    (void)worker;
    const rows_job *job = context;
    int64_t first = (int64_t)task * job->rows_per_task;
    int64_t end = first + job->rows_per_task < job->rows ? first + job->rows_per_task : job->rows;
    job->fn(job->args, first, end);
}

void agl_cpu_for_rows(agl_cpu *cpu, agl_cpu_rows_fn fn, const void *args, int64_t rows,
                      int64_t row_bytes)
{
    /* Waking a thread costs about as much as 16 KB of element-wise work. */
    int64_t rows_per_task = 16384 / (row_bytes > 0 ? row_bytes : 1);
    if (rows_per_task < 1) rows_per_task = 1;
    if (rows <= rows_per_task) {
        fn(args, 0, rows);
        return;
    }
    rows_job job = {fn, args, rows, rows_per_task};
    agl_thread_pool_run(cpu->pool, rows_task, &job,
                        (size_t)((rows + rows_per_task - 1) / rows_per_task));
}

/* ---- workspace ------------------------------------------------------------- */

/* Attention takes its scratch at creation, sampling with the first vocabulary it sees. */
static uint64_t workspace_bytes(const agl_backend *backend, const agl_backend_limits *limits)
{
    (void)backend;
    (void)limits;
    return 0;
}

static agl_status workspace_reserve(agl_backend *backend, const agl_backend_limits *limits,
                                    agl_error *err)
{
    (void)backend;
    (void)limits;
    (void)err;
    return AGL_OK;
}

/* ---- life ------------------------------------------------------------------ */

static void destroy(agl_backend *backend)
{
    agl_cpu *cpu = (agl_cpu *)backend;
    if (cpu == NULL) return;
    for (uint32_t i = 0; cpu->worker_scratch != NULL && i < cpu->threads; i++) {
        memory_free(&cpu->base, cpu->worker_scratch[i]);
    }
    memory_free(&cpu->base, cpu->attention_slots);
    memory_free(&cpu->base, cpu->shared);
    agl_thread_pool_destroy(cpu->pool);
    free(cpu->worker_scratch);
    free(cpu);
}

static const agl_backend_ops CPU_BACKEND_OPS = {
    .alloc = memory_alloc,
    .free = memory_free,
    .upload = memory_copy,
    .download = memory_copy,
    .copy = memory_copy,
    .weight_create = weight_create,
    .weight_destroy = weight_destroy,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_wait = stream_wait,
    .embed = embed,
    .rmsnorm = rmsnorm,
    .layernorm = layernorm,
    .linear = linear,
    .swiglu = swiglu,
    .linear_swiglu = linear_swiglu,
    .rope_store = rope_store,
    .linear_rope_store = linear_rope_store,
    .attention_paged = attention_paged,
    .attention_dense = attention_dense,
    .rope_vision = rope_vision,
    .resize = resize,
    .patchify = patchify,
    .position_embed = position_embed,
    .gather = gather,
    .sample = sample,
    .workspace_bytes = workspace_bytes,
    .workspace_reserve = workspace_reserve,
    .destroy = destroy,
};

static const char *fill_ops(agl_cpu_ops *ops, uint32_t isa)
{
    const char *name = "portable";
    agl_cpu_ops_portable(ops);
    if (isa & AGL_ISA_AVX2) agl_cpu_ops_avx2(ops), name = "avx2";
    if (isa & AGL_ISA_AVX512) agl_cpu_ops_avx512(ops), name = "avx512";
    if (isa & AGL_ISA_NEON) agl_cpu_ops_neon(ops), name = "neon";
    return name;
}

agl_status agl_backend_cpu_create(agl_backend **out, const agl_backend_options *options,
                                  agl_error *err)
{
    *out = NULL;
    agl_cpu *cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the CPU backend");
    agl_status status = agl_thread_pool_create(&cpu->pool, options->threads, err);
    if (status != AGL_OK) {
        free(cpu);
        return status;
    }
    cpu->threads = agl_thread_pool_size(cpu->pool);
    cpu->worker_scratch = calloc(cpu->threads, sizeof *cpu->worker_scratch);
    uint32_t isa = agl_cpu_features();
    if (options->isa_mask != 0) isa &= options->isa_mask;
    const char *isa_name = fill_ops(&cpu->ops, isa);
    cpu->base.ops = &CPU_BACKEND_OPS;
    cpu->base.kind = AGL_BACKEND_CPU;
    cpu->base.activation = AGL_F32;
    cpu->base.synchronous = true;
    cpu->base.description = cpu->description;
    cpu->base.memory_total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    cpu->stream.backend = &cpu->base;
    snprintf(cpu->description, sizeof cpu->description, "cpu (%s, %u thread%s)", isa_name,
             cpu->threads, cpu->threads == 1 ? "" : "s");
    if (cpu->worker_scratch == NULL) status = AGL_ERR_MEMORY;
    if (status == AGL_OK) status = agl_cpu_reserve_worker(cpu, AGL_CPU_ATTENTION_SCRATCH_BYTES);
    if (status == AGL_OK) {
        status = memory_alloc(&cpu->base, &cpu->attention_slots,
                              AGL_CPU_ATTENTION_SLOT_BYTES * AGL_CPU_ATTENTION_WAVE,
                              AGL_MEMORY_WORKSPACE, NULL);
    }
    if (status != AGL_OK) {
        destroy(&cpu->base);
        return agl_fail(err, status, "no memory for the scratch of the CPU backend");
    }
    *out = &cpu->base;
    return AGL_OK;
}
