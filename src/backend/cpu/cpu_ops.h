/* SPDX-License-Identifier: Apache-2.0
 *
 * cpu_ops.h - inside of the CPU backend: its state, its weights, and the table of
 * operations that each instruction set fills or overrides.
 *
 * An operation runs on the calling thread and the pool, and has finished when it
 * returns. Threads share no sums: every output is computed whole by one thread in
 * an order that depends neither on the number of rows nor on the number of threads. */
#ifndef AGL_BACKEND_CPU_CPU_OPS_H
#define AGL_BACKEND_CPU_CPU_OPS_H

#include "backend/backend.h"
#include "backend/cpu/cpu_features.h"
#include "base/thread_pool.h"

/* One linear layer, read in place: no copy, no repacking. */
typedef struct {
    agl_weight base;            /* first: an agl_weight * is an agl_cpu_weight *   */
    agl_weight_desc desc;
    int64_t part_first[AGL_WEIGHT_PARTS_MAX + 1]; /* first row of each part, then all rows */
} agl_cpu_weight;

/* Rows of one pass of `linear` over the weights: enough to make the reading of the
 * weights cheap beside the arithmetic, few enough for packed rows to stay in the L3. */
#define AGL_CPU_LINEAR_ROWS 384

/* Attention keeps one head of a query and its sum on the stack. */
#define AGL_CPU_HEAD_DIM_MAX 256

/* Scratch of the attention kernels: of each worker, and of each pair of query rows and keys
 * that is in work at the same time (attention_vec.h checks the sizes). */
#define AGL_CPU_ATTENTION_SCRATCH_BYTES ((size_t)512 << 10)
#define AGL_CPU_ATTENTION_SLOT_BYTES ((size_t)128 << 10)
#define AGL_CPU_ATTENTION_WAVE 64

typedef struct agl_cpu agl_cpu;

typedef struct {
    agl_status (*embed)(agl_cpu *cpu, const agl_embed_args *args);
    agl_status (*rmsnorm)(agl_cpu *cpu, const agl_rmsnorm_args *args);
    agl_status (*layernorm)(agl_cpu *cpu, const agl_layernorm_args *args);
    agl_status (*linear)(agl_cpu *cpu, const agl_linear_args *args);
    agl_status (*swiglu)(agl_cpu *cpu, const agl_swiglu_args *args);
    agl_status (*rope_store)(agl_cpu *cpu, const agl_rope_store_args *args);
    agl_status (*attention_paged)(agl_cpu *cpu, const agl_attention_paged_args *args);
    agl_status (*attention_dense)(agl_cpu *cpu, const agl_attention_dense_args *args);
    agl_status (*rope_vision)(agl_cpu *cpu, const agl_rope_vision_args *args);
    agl_status (*resize)(agl_cpu *cpu, const agl_resize_args *args);
    agl_status (*patchify)(agl_cpu *cpu, const agl_patchify_args *args);
    agl_status (*position_embed)(agl_cpu *cpu, const agl_position_embed_args *args);
    agl_status (*gather)(agl_cpu *cpu, const agl_gather_args *args);
    agl_status (*sample)(agl_cpu *cpu, const agl_sample_args *args);
} agl_cpu_ops;

struct agl_cpu {
    agl_backend base;           /* first: an agl_backend * is an agl_cpu *         */
    agl_cpu_ops ops;
    agl_thread_pool *pool;
    uint32_t threads;
    agl_stream stream;          /* all streams are this one: work is done at once  */
    char description[64];
    /* Scratch grows with the weights that are created, so that a step allocates nothing. */
    void *shared;               /* one block that all threads see                  */
    size_t shared_bytes;
    void **worker_scratch;      /* [threads]                                       */
    size_t worker_bytes;        /* of each                                         */
    void *attention_slots;      /* [AGL_CPU_ATTENTION_WAVE] partial results        */
};

/* Fill every slot, or override the slots the instruction set has a kernel for. A file of
 * another machine's instruction set compiles to a function that does nothing. */
void agl_cpu_ops_portable(agl_cpu_ops *ops);
void agl_cpu_ops_avx2(agl_cpu_ops *ops);
void agl_cpu_ops_avx512(agl_cpu_ops *ops);
void agl_cpu_ops_neon(agl_cpu_ops *ops);

/* Launchers that live in files of their own. */
agl_status agl_cpu_attention_paged_portable(agl_cpu *cpu, const agl_attention_paged_args *args);
agl_status agl_cpu_attention_dense_portable(agl_cpu *cpu, const agl_attention_dense_args *args);
agl_status agl_cpu_resize(agl_cpu *cpu, const agl_resize_args *args);
agl_status agl_cpu_patchify(agl_cpu *cpu, const agl_patchify_args *args);
agl_status agl_cpu_position_embed(agl_cpu *cpu, const agl_position_embed_args *args);
agl_status agl_cpu_sample(agl_cpu *cpu, const agl_sample_args *args);
agl_status agl_cpu_sample_reserve(agl_cpu *cpu, int64_t vocab);

/* Make scratch at least that large; contents are lost when it grows. */
agl_status agl_cpu_reserve_shared(agl_cpu *cpu, size_t bytes);
agl_status agl_cpu_reserve_worker(agl_cpu *cpu, size_t bytes);

/* fn(context, row_first, row_end) over 0 .. rows in pieces of about 16 KB of work each. */
typedef void (*agl_cpu_rows_fn)(const void *args, int64_t row_first, int64_t row_end);
void agl_cpu_for_rows(agl_cpu *cpu, agl_cpu_rows_fn fn, const void *args, int64_t rows,
                      int64_t row_bytes);

/* Row `row` of a weight, and the value of its bias (0 if it has none). */
const void *agl_cpu_weight_row(const agl_weight *weight, int64_t row);
float agl_cpu_weight_bias(const agl_weight *weight, int64_t row);

/* Element `index` of an array of F32, BF16 or F16. */
float agl_cpu_load(const void *data, agl_dtype dtype, int64_t index);
/* Elements first .. first + count - 1. */
void agl_cpu_load_row(float *out, const void *data, agl_dtype dtype, int64_t first, int64_t count);
void agl_cpu_store(void *data, agl_dtype dtype, int64_t index, float value);

#endif
