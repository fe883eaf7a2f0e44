/* SPDX-License-Identifier: Apache-2.0
 *
 * ops_portable.c - the operations in plain C: what each of them means. Variants for
 * instruction sets are tested against this file. Attention, images and sampling have
 * files of their own. Activations are F32; sums are F32. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_ops.h"

/* ---- elements -------------------------------------------------------------- */

float agl_cpu_load(const void *data, agl_dtype dtype, int64_t index)
{
    if (dtype == AGL_F32) return ((const float *)data)[index];
    uint16_t value = ((const uint16_t *)data)[index];
    return dtype == AGL_BF16 ? agl_bf16_to_f32(value) : agl_f16_to_f32(value);
}

void agl_cpu_store(void *data, agl_dtype dtype, int64_t index, float value)
{
    if (dtype == AGL_F32) ((float *)data)[index] = value;
    else if (dtype == AGL_BF16) ((uint16_t *)data)[index] = agl_f32_to_bf16(value);
    else ((uint16_t *)data)[index] = agl_f32_to_f16(value);
}

void agl_cpu_load_row(float *out, const void *data, agl_dtype dtype, int64_t first, int64_t count)
{
    if (dtype == AGL_F32) {
        memcpy(out, (const float *)data + first, (size_t)count * sizeof *out);
    } else if (dtype == AGL_BF16) {
        const uint16_t *in = (const uint16_t *)data + first;
        for (int64_t i = 0; i < count; i++) out[i] = agl_bf16_to_f32(in[i]);
    } else {
        const uint16_t *in = (const uint16_t *)data + first;
        for (int64_t i = 0; i < count; i++) out[i] = agl_f16_to_f32(in[i]);
    }
}

/* Sixteen partial sums: the order a vector unit likes, and a smaller rounding error than one. */
#define LANES 16

static float sum_lanes(const float lanes[LANES])
{
    float sum = 0.0f;
    for (int i = 0; i < LANES; i++) sum += lanes[i];
    return sum;
}

static float dot(const float *a, const float *b, int64_t count)
{
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) lanes[lane] += a[i + lane] * b[i + lane];
    }
    for (; i < count; i++) lanes[i % LANES] += a[i] * b[i];
    return sum_lanes(lanes);
}

/* ---- embed, gather --------------------------------------------------------- */

static void embed_rows(const void *context, int64_t first, int64_t end)
{
    const agl_embed_args *args = context;
    agl_dtype dtype = ((const agl_cpu_weight *)args->table)->desc.dtype;
    for (int64_t token = first; token < end; token++) {
        float *out = args->out + token * args->hidden;
        int32_t visual = args->visual != NULL ? args->visual_rows[token] : -1;
        if (visual >= 0) {
            memcpy(out, (const float *)args->visual + visual * args->hidden,
                   (size_t)args->hidden * sizeof *out);
        } else {
            agl_cpu_load_row(out, agl_cpu_weight_row(args->table, args->ids[token]), dtype, 0,
                             args->hidden);
        }
    }
}

static agl_status embed(agl_cpu *cpu, const agl_embed_args *args)
{
    assert(args->table->in == args->hidden);
    agl_cpu_for_rows(cpu, embed_rows, args, args->tokens, args->hidden * 8);
    return AGL_OK;
}

static void gather_rows(const void *context, int64_t first, int64_t end)
{
    const agl_gather_args *args = context;
    for (int64_t i = first; i < end; i++) {
        memcpy((char *)args->out + i * args->row_bytes,
               (const char *)args->x + args->rows[i] * args->row_bytes, (size_t)args->row_bytes);
    }
}

static agl_status gather(agl_cpu *cpu, const agl_gather_args *args)
{
    agl_cpu_for_rows(cpu, gather_rows, args, args->count, 2 * args->row_bytes);
    return AGL_OK;
}

/* ---- norms ----------------------------------------------------------------- */

static float rms_scale(const float *row, int64_t hidden, float eps)
{
    return 1.0f / sqrtf(dot(row, row, hidden) / (float)hidden + eps);
}

static void rmsnorm_rows(const void *context, int64_t first, int64_t end)
{
    const agl_rmsnorm_args *args = context;
    int64_t hidden = args->hidden;
    for (int64_t row = first; row < end; row++) {
        float *x = (float *)args->x + row * hidden;
        if (args->delta != NULL) {
            const float *delta = (const float *)args->delta + row * hidden;
            if (args->delta_weight != NULL) {
                float scale = rms_scale(delta, hidden, args->eps);
                for (int64_t i = 0; i < hidden; i++) x[i] += delta[i] * scale * args->delta_weight[i];
            } else {
                for (int64_t i = 0; i < hidden; i++) x[i] += delta[i];
            }
        }
        if (args->y != NULL) {
            float *y = (float *)args->y + row * hidden;
            float scale = rms_scale(x, hidden, args->eps);
            for (int64_t i = 0; i < hidden; i++) y[i] = x[i] * scale * args->weight[i];
        }
    }
}

static agl_status rmsnorm(agl_cpu *cpu, const agl_rmsnorm_args *args)
{
    assert(args->delta == NULL || args->x != args->y);
    agl_cpu_for_rows(cpu, rmsnorm_rows, args, args->rows, args->hidden * 12);
    return AGL_OK;
}

static float gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

static void layernorm_rows(const void *context, int64_t first, int64_t end)
{
    const agl_layernorm_args *args = context;
    int64_t hidden = args->hidden;
    for (int64_t row = first; row < end; row++) {
        const float *x = (const float *)args->x + row * hidden;
        float *y = (float *)args->y + row * hidden;
        /* The mean is taken off before squaring: a large mean must not drown the variance. */
        float sum[LANES] = {0}, squares[LANES] = {0};
        for (int64_t i = 0; i < hidden; i++) sum[i % LANES] += x[i];
        float mean = sum_lanes(sum) / (float)hidden;
        for (int64_t i = 0; i < hidden; i++) squares[i % LANES] += (x[i] - mean) * (x[i] - mean);
        float scale = 1.0f / sqrtf(sum_lanes(squares) / (float)hidden + args->eps);
        for (int64_t i = 0; i < hidden; i++) {
            float value = (x[i] - mean) * scale * args->weight[i] + args->bias[i];
            y[i] = args->gelu ? gelu(value) : value;
        }
    }
}

static agl_status layernorm(agl_cpu *cpu, const agl_layernorm_args *args)
{
    agl_cpu_for_rows(cpu, layernorm_rows, args, args->rows, args->hidden * 32);
    return AGL_OK;
}

/* ---- linear ---------------------------------------------------------------- */

#define LINEAR_OUTS 32 /* outputs of one task */

typedef struct {
    agl_cpu *cpu;
    const agl_linear_args *args;
} linear_job;

static void linear_task(void *context, size_t task, uint32_t worker)
{
    const linear_job *job = context;
    const agl_linear_args *args = job->args;
    const agl_weight *weight = args->weight;
    float *weight_row = job->cpu->worker_scratch[worker]; /* [in] */
    int64_t first = (int64_t)task * LINEAR_OUTS;
    int64_t end = first + LINEAR_OUTS < weight->out ? first + LINEAR_OUTS : weight->out;
    for (int64_t out = first; out < end; out++) {
        agl_cpu_load_row(weight_row, agl_cpu_weight_row(weight, out),
                         ((const agl_cpu_weight *)weight)->desc.dtype, 0, weight->in);
        float bias = agl_cpu_weight_bias(weight, out);
        for (int64_t row = 0; row < args->rows; row++) {
            const float *x = (const float *)args->x + row * args->x_stride;
            ((float *)args->y)[row * weight->out + out] = dot(x, weight_row, weight->in) + bias;
        }
    }
}

static agl_status linear(agl_cpu *cpu, const agl_linear_args *args)
{
    assert(args->rows >= 1 && args->x_stride >= args->weight->in);
    linear_job job = {cpu, args};
    agl_thread_pool_run(cpu->pool, linear_task, &job,
                        (size_t)((args->weight->out + LINEAR_OUTS - 1) / LINEAR_OUTS));
    return AGL_OK;
}

/* ---- swiglu ---------------------------------------------------------------- */

static void swiglu_rows(const void *context, int64_t first, int64_t end)
{
    const agl_swiglu_args *args = context;
    for (int64_t row = first; row < end; row++) {
        const float *gate = (const float *)args->x + row * 2 * args->width;
        const float *up = gate + args->width;
        float *y = (float *)args->y + row * args->width;
        for (int64_t i = 0; i < args->width; i++) y[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
}

static agl_status swiglu(agl_cpu *cpu, const agl_swiglu_args *args)
{
    agl_cpu_for_rows(cpu, swiglu_rows, args, args->rows, args->width * 32);
    return AGL_OK;
}

/* ---- rotations ------------------------------------------------------------- */

/* The angle is a product of two F32, its sine and cosine are F32, as in the reference. */
static void rope_store_rows(const void *context, int64_t first, int64_t end)
{
    const agl_rope_store_args *args = context;
    const agl_kv_layer *kv = &args->kv;
    int64_t head_dim = kv->head_dim;
    int64_t heads_all = args->heads + 2 * kv->kv_heads;
    for (int64_t token = first; token < end; token++) {
        float *row = (float *)args->qkv + token * heads_all * head_dim;
        for (int64_t pair = 0; pair < args->pairs; pair++) {
            float position = (float)args->positions[args->axis[pair] * args->tokens + token];
            float angle = position * args->inv_freq[pair];
            float c = cosf(angle), s = sinf(angle);
            for (int64_t head = 0; head < args->heads + kv->kv_heads; head++) {
                float *even = row + head * head_dim + 2 * pair;
                float a = even[0], b = even[1];
                even[0] = a * c - b * s;
                even[1] = b * c + a * s;
            }
        }
        int64_t slot = args->slots[token];
        if (slot < 0) continue;
        int64_t page = slot / kv->page_tokens, offset = slot % kv->page_tokens;
        for (int64_t head = 0; head < kv->kv_heads; head++) {
            const float *k = row + (args->heads + head) * head_dim;
            const float *v = k + kv->kv_heads * head_dim;
            int64_t at = ((page * kv->kv_heads + head) * kv->page_tokens + offset) * head_dim;
            for (int64_t i = 0; i < head_dim; i++) {
                agl_cpu_store(kv->k, kv->dtype, at + i, k[i]);
                agl_cpu_store(kv->v, kv->dtype, at + i, v[i]);
            }
        }
    }
}

static agl_status rope_store(agl_cpu *cpu, const agl_rope_store_args *args)
{
    assert(2 * args->pairs <= args->kv.head_dim);
    agl_cpu_for_rows(cpu, rope_store_rows, args, args->tokens,
                     (args->heads + 2 * args->kv.kv_heads) * args->kv.head_dim * 8);
    return AGL_OK;
}

static void rope_vision_rows(const void *context, int64_t first, int64_t end)
{
    const agl_rope_vision_args *args = context;
    int64_t half = args->head_dim / 2, quarter = args->head_dim / 4;
    for (int64_t token = first; token < end; token++) {
        float *qkv = (float *)args->qkv + token * 3 * args->heads * args->head_dim;
        for (int64_t i = 0; i < half; i++) {
            bool is_row = i < quarter;
            float position = (float)args->rows_columns[token * 2 + (is_row ? 0 : 1)];
            float angle = position * args->inv_freq[is_row ? i : i - quarter];
            float c = cosf(angle), s = sinf(angle);
            for (int64_t head = 0; head < 2 * args->heads; head++) { /* q, then k */
                float *low = qkv + head * args->head_dim + i;
                float a = low[0], b = low[half];
                low[0] = a * c - b * s;
                low[half] = b * c + a * s;
            }
        }
    }
}

static agl_status rope_vision(agl_cpu *cpu, const agl_rope_vision_args *args)
{
    assert(args->head_dim % 4 == 0);
    agl_cpu_for_rows(cpu, rope_vision_rows, args, args->tokens, args->heads * args->head_dim * 12);
    return AGL_OK;
}

void agl_cpu_ops_portable(agl_cpu_ops *ops)
{
    *ops = (agl_cpu_ops){
        .embed = embed,
        .rmsnorm = rmsnorm,
        .layernorm = layernorm,
        .linear = linear,
        .swiglu = swiglu,
        .rope_store = rope_store,
        .attention_paged = agl_cpu_attention_paged_portable,
        .attention_dense = agl_cpu_attention_dense_portable,
        .rope_vision = rope_vision,
        .resize = agl_cpu_resize,
        .patchify = agl_cpu_patchify,
        .position_embed = agl_cpu_position_embed,
        .gather = gather,
        .sample = agl_cpu_sample,
    };
}
