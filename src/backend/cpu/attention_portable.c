/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_portable.c - softmax(q k^T * scale) v for one query row and one head at a
 * time, over pages (causal) or over a segment of fused rows (full).
 *
 * Numerics  F32, keys in order with a running maximum and sum: a row's result does not
 *           depend on which rows share its step. */
#include <assert.h>
#include <math.h>

#include "backend/cpu/cpu_ops.h"

typedef struct {
    float max, sum;
    float values[AGL_CPU_HEAD_DIM_MAX]; /* sum of exp(score - max) * v */
} running_softmax;

/* Take in one key's score; returns the weight of its value row. */
static float softmax_add(running_softmax *state, float score, int64_t head_dim)
{
    if (score > state->max) {
        float shrink = expf(state->max - score); /* 0 for the first key */
        state->max = score;
        state->sum *= shrink;
        for (int64_t i = 0; i < head_dim; i++) state->values[i] *= shrink;
    }
    float weight = expf(score - state->max);
    state->sum += weight;
    return weight;
}

static void softmax_finish(float *out, const running_softmax *state, int64_t head_dim)
{
    for (int64_t i = 0; i < head_dim; i++) out[i] = state->values[i] / state->sum;
}

static void attend(running_softmax *state, const float *q, const void *k, const void *v,
                   agl_dtype dtype, int64_t at, int64_t head_dim, float scale)
{
    float row[AGL_CPU_HEAD_DIM_MAX];
    float score = 0.0f;
    agl_cpu_load_row(row, k, dtype, at, head_dim);
    for (int64_t i = 0; i < head_dim; i++) score += q[i] * row[i];
    float weight = softmax_add(state, score * scale, head_dim);
    agl_cpu_load_row(row, v, dtype, at, head_dim);
    for (int64_t i = 0; i < head_dim; i++) state->values[i] += weight * row[i];
}

static const agl_attention_sequence *sequence_of(const agl_attention_paged_args *args, int64_t row)
{
    for (int64_t i = 0; i < args->sequence_count; i++) {
        const agl_attention_sequence *sequence = &args->sequences[i];
        if (row >= sequence->row_first && row < sequence->row_first + sequence->row_count) {
            return sequence;
        }
    }
    return NULL; /* a row of padding */
}

static void paged_task(void *context, size_t task, uint32_t worker)
{
    (void)worker;
    const agl_attention_paged_args *args = context;
    const agl_kv_layer *kv = &args->kv;
    int64_t row = (int64_t)task / args->heads, head = (int64_t)task % args->heads;
    const agl_attention_sequence *sequence = sequence_of(args, row);
    if (sequence == NULL) return;
    int64_t kv_head = head / (args->heads / kv->kv_heads);
    int64_t last_row = sequence->row_first + sequence->row_count - 1;
    int64_t keys = sequence->context - (last_row - row);
    const float *q = (const float *)args->q + row * args->q_stride + head * kv->head_dim;
    running_softmax state = {.max = -INFINITY};
    for (int64_t key = 0; key < keys; key++) {
        int64_t page = args->page_tables[sequence->page_table + key / kv->page_tokens];
        int64_t slot = (page * kv->kv_heads + kv_head) * kv->page_tokens + key % kv->page_tokens;
        attend(&state, q, kv->k, kv->v, kv->dtype, slot * kv->head_dim, kv->head_dim, args->scale);
    }
    softmax_finish((float *)args->out + (row * args->heads + head) * kv->head_dim, &state,
                   kv->head_dim);
}

agl_status agl_cpu_attention_paged_portable(agl_cpu *cpu, const agl_attention_paged_args *args)
{
    assert(args->kv.head_dim <= AGL_CPU_HEAD_DIM_MAX && args->heads % args->kv.kv_heads == 0);
    agl_attention_paged_args job = *args;
    agl_thread_pool_run(cpu->pool, paged_task, &job, (size_t)(args->rows * args->heads));
    return AGL_OK;
}

static void dense_task(void *context, size_t task, uint32_t worker)
{
    (void)worker;
    const agl_attention_dense_args *args = context;
    int64_t token = (int64_t)task / args->heads, head = (int64_t)task % args->heads;
    int64_t segment = 0;
    while (segment < args->segment_count && token >= args->segments[segment + 1]) segment++;
    if (segment == args->segment_count) return;
    int64_t width = args->heads * args->head_dim;
    const float *qkv = args->qkv;
    const float *q = qkv + token * 3 * width + head * args->head_dim;
    const float *k = qkv + width + head * args->head_dim;
    const float *v = k + width;
    running_softmax state = {.max = -INFINITY};
    for (int64_t key = args->segments[segment]; key < args->segments[segment + 1]; key++) {
        attend(&state, q, k, v, AGL_F32, key * 3 * width, args->head_dim, args->scale);
    }
    softmax_finish((float *)args->out + token * width + head * args->head_dim, &state,
                   args->head_dim);
}

agl_status agl_cpu_attention_dense_portable(agl_cpu *cpu, const agl_attention_dense_args *args)
{
    assert(args->head_dim <= AGL_CPU_HEAD_DIM_MAX);
    agl_attention_dense_args job = *args;
    agl_thread_pool_run(cpu->pool, dense_task, &job, (size_t)(args->tokens * args->heads));
    return AGL_OK;
}
