/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_vec.h - softmax(q k^T * scale) v in blocks of keys, for pages (causal, grouped
 * heads) and for segments (full).
 *
 *   unit    up to ROWS query rows that read the same keys: for pages, all heads of one kv
 *           head for a few tokens (row = token * group + head), so that keys and values are
 *           converted once; for segments, consecutive tokens of one head
 *   block   KEYS keys, K transposed to [head_dim][KEYS] and V as [KEYS][head_dim], both F32
 *   span    SPAN keys: a softmax of its own (maximum, sum, weighted values); spans are
 *           merged in order
 *
 * Blocks and spans begin at multiples of KEYS and SPAN from key 0 of the sequence, and a
 * block or span of which a row sees nothing leaves that row's numbers as they are. So a row
 * has the same bits in decode, in any chunk of a prefill, and however spans are dealt out.
 *
 * Tile      both products are C[6][w] += A[6][k] B[k][w]: for scores A = q, B = K block; for
 *           values A = exp(scores), B = V block. Per k: 24 FMAs, 4 loads, 6 broadcasts (AVX-512).
 * Bound     FMA for many rows; reading and converting keys for decode.
 * Parallel  by unit. With fewer units than threads want (decode), (unit, span) pairs are run
 *           in waves of a fixed number of slots and merged by the caller. */

#include <assert.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_ops.h"

#define ROWS 96                 /* of a unit: pays for the transposition of a block      */
#define KEYS 64                 /* of a block: K and V are 32 KB each at head_dim 128    */
#define SPAN 1024
#define TILE_WIDTH (VEC_TILE_VECS * VEC_LANES)

/* One unit's softmax over some keys. */
typedef struct {
    float max[ROWS], sum[ROWS];
    float values[ROWS * AGL_CPU_HEAD_DIM_MAX]; /* [row][width]                           */
} softmax_state;

typedef struct {
    softmax_state span, total;
    float q[ROWS * AGL_CPU_HEAD_DIM_MAX];      /* [row][head_dim], times scale           */
    float k[AGL_CPU_HEAD_DIM_MAX * KEYS];      /* [head_dim][KEYS]                       */
    float v[KEYS * AGL_CPU_HEAD_DIM_MAX];      /* [KEYS][width]                          */
    float scores[VEC_TILE_ROWS * KEYS];
} attention_scratch;

_Static_assert(sizeof(softmax_state) <= AGL_CPU_ATTENTION_SLOT_BYTES, "a slot holds a span");
_Static_assert(sizeof(attention_scratch) <= AGL_CPU_ATTENTION_SCRATCH_BYTES, "as reserved");

/* What a unit reads and writes. */
typedef struct {
    const float *q;             /* row r: q + r / group * q_stride + r % group * head_dim */
    float *out;                 /* likewise                                              */
    int64_t q_stride, out_stride;
    int64_t group;
    const void *k, *v;          /* element offset of key j: key_offset                   */
    agl_dtype dtype;
    const int32_t *pages;       /* NULL: keys lie `key_stride` apart                     */
    int64_t page_tokens, page_stride, key_stride;
    int64_t rows, head_dim, width; /* width: head_dim rounded up to TILE_WIDTH           */
    int64_t keys;               /* seen by the last row                                  */
    bool causal;                /* a token sees one key less than the next one           */
    float scale;
} attention_unit;

static int64_t key_offset(const attention_unit *unit, int64_t key)
{
    if (unit->pages == NULL) return key * unit->key_stride;
    return unit->pages[key / unit->page_tokens] * unit->page_stride +
           key % unit->page_tokens * unit->key_stride;
}

/* Keys 0 .. visible - 1 are seen by `row`. */
static int64_t visible_keys(const attention_unit *unit, int64_t row)
{
    if (!unit->causal) return unit->keys;
    return unit->keys - ((unit->rows - 1) / unit->group - row / unit->group);
}

/* ---- blocks ---------------------------------------------------------------- */

static void pack_q(attention_scratch *scratch, const attention_unit *unit)
{
    for (int64_t row = 0; row < unit->rows; row++) {
        const float *q = unit->q + row / unit->group * unit->q_stride +
                         row % unit->group * unit->head_dim;
        for (int64_t i = 0; i < unit->head_dim; i++) {
            scratch->q[row * unit->head_dim + i] = q[i] * unit->scale;
        }
    }
}

INLINE void load_block_as(attention_scratch *scratch, const attention_unit *unit, int64_t first,
                          int64_t count, agl_dtype dtype)
{
    size_t bytes = dtype == AGL_F32 ? 4 : 2;
    for (int64_t group = 0; group < KEYS; group += VEC_LANES) {
        const char *k[VEC_LANES];
        for (int64_t i = 0; i < VEC_LANES; i++) {
            int64_t key = first + group + i;
            /* Keys past the end are zeros, so that their values times weight 0 are 0. */
            bool present = group + i < count;
            size_t offset = present ? (size_t)key_offset(unit, key) * bytes : 0;
            k[i] = present ? (const char *)unit->k + offset : NULL;
            float *v_out = scratch->v + (group + i) * unit->width;
            const char *v = (const char *)unit->v + offset;
            for (int64_t at = 0; at < unit->width; at += VEC_LANES) {
                int64_t left = present ? unit->head_dim - at : 0;
                int64_t take = left < 0 ? 0 : left < VEC_LANES ? left : VEC_LANES;
                vec_store(v_out + at, take == 0 ? vec_zero()
                                                : vec_load_as(dtype, v + (size_t)at * bytes, take));
            }
        }
        for (int64_t at = 0; at < unit->head_dim; at += VEC_LANES) {
            int64_t left = unit->head_dim - at;
            int64_t take = left < VEC_LANES ? left : VEC_LANES;
            vec block[VEC_LANES];
            for (int64_t i = 0; i < VEC_LANES; i++) {
                block[i] = k[i] == NULL ? vec_zero()
                                        : vec_load_as(dtype, k[i] + (size_t)at * bytes, take);
            }
            vec_transpose(block);
            for (int64_t i = 0; i < take; i++) {
                vec_store(scratch->k + (at + i) * KEYS + group, block[i]);
            }
        }
    }
}

static void load_block(attention_scratch *scratch, const attention_unit *unit, int64_t first,
                       int64_t count)
{
    switch (unit->dtype) {
    case AGL_F32: load_block_as(scratch, unit, first, count, AGL_F32); break;
    case AGL_BF16: load_block_as(scratch, unit, first, count, AGL_BF16); break;
    default: load_block_as(scratch, unit, first, count, AGL_F16); break;
    }
}

/* C[rows][TILE_WIDTH] = C * shrink[row] + A[rows][depth] B[depth][TILE_WIDTH]; C starts at
 * zero if shrink is NULL. `rows` is a constant wherever this is called. */
INLINE void multiply_tile(float *c, int64_t c_stride, const float *shrink, const float *a,
                          int64_t a_stride, const float *b, int64_t b_stride, int64_t depth,
                          int rows)
{
    vec sum[VEC_TILE_ROWS][VEC_TILE_VECS];
    UNROLL for (int row = 0; row < rows; row++) {
        UNROLL for (int i = 0; i < VEC_TILE_VECS; i++) {
            sum[row][i] = shrink == NULL ? vec_zero()
                                         : vec_mul(vec_load(c + row * c_stride + i * VEC_LANES),
                                                   vec_set(shrink[row]));
        }
    }
    for (int64_t k = 0; k < depth; k++) {
        vec line[VEC_TILE_VECS];
        UNROLL for (int i = 0; i < VEC_TILE_VECS; i++) line[i] = vec_load(b + k * b_stride + i * VEC_LANES);
        UNROLL for (int row = 0; row < rows; row++) {
            vec factor = vec_set(a[row * a_stride + k]);
            UNROLL for (int i = 0; i < VEC_TILE_VECS; i++) {
                sum[row][i] = vec_fma(factor, line[i], sum[row][i]);
            }
        }
    }
    UNROLL for (int row = 0; row < rows; row++) {
        UNROLL for (int i = 0; i < VEC_TILE_VECS; i++) {
            vec_store(c + row * c_stride + i * VEC_LANES, sum[row][i]);
        }
    }
}

static void multiply(float *c, int64_t c_stride, const float *shrink, const float *a,
                     int64_t a_stride, const float *b, int64_t b_stride, int64_t depth, int64_t rows)
{
    switch (rows) {
    case 1: multiply_tile(c, c_stride, shrink, a, a_stride, b, b_stride, depth, 1); break;
    case 2: multiply_tile(c, c_stride, shrink, a, a_stride, b, b_stride, depth, 2); break;
    case 3: multiply_tile(c, c_stride, shrink, a, a_stride, b, b_stride, depth, 3); break;
    case 4: multiply_tile(c, c_stride, shrink, a, a_stride, b, b_stride, depth, 4); break;
    case 5: multiply_tile(c, c_stride, shrink, a, a_stride, b, b_stride, depth, 5); break;
    default: multiply_tile(c, c_stride, shrink, a, a_stride, b, b_stride, depth, 6); break;
    }
}

/* Scores of one row and block to weights; returns what the row's earlier sums shrink by. */
static float softmax_block(float *scores, float *max, float *sum, int64_t visible)
{
    for (int64_t key = visible < 0 ? 0 : visible; key < KEYS; key++) scores[key] = -INFINITY;
    vec highest = vec_load(scores);
    for (int64_t at = VEC_LANES; at < KEYS; at += VEC_LANES) {
        highest = vec_max(highest, vec_load(scores + at));
    }
    float block_max = vec_max_lane(highest);
    float new_max = block_max > *max ? block_max : *max;
    /* A row that has seen no key yet: any finite reference makes all its weights 0. */
    float reference = new_max == -INFINITY ? 0.0f : new_max;
    vec total = vec_zero();
    for (int64_t at = 0; at < KEYS; at += VEC_LANES) {
        vec weight = vec_exp(vec_sub(vec_load(scores + at), vec_set(reference)));
        vec_store(scores + at, weight);
        total = vec_add(total, weight);
    }
    float old[VEC_LANES];
    vec_store(old, vec_exp(vec_set(*max - reference)));
    *sum = *sum * old[0] + vec_sum(total);
    *max = new_max;
    return old[0];
}

/* The span that begins at key `first`, into `state`. */
static void attend_span(softmax_state *state, attention_scratch *scratch,
                        const attention_unit *unit, int64_t first)
{
    int64_t end = first + SPAN < unit->keys ? first + SPAN : unit->keys;
    for (int64_t row = 0; row < unit->rows; row++) state->max[row] = -INFINITY, state->sum[row] = 0.0f;
    memset(state->values, 0, (size_t)(unit->rows * unit->width) * sizeof(float));
    for (int64_t block = first; block < end; block += KEYS) {
        load_block(scratch, unit, block, end - block < KEYS ? end - block : KEYS);
        for (int64_t row = 0; row < unit->rows; row += VEC_TILE_ROWS) {
            int64_t rows = unit->rows - row < VEC_TILE_ROWS ? unit->rows - row : VEC_TILE_ROWS;
            if (visible_keys(unit, row + rows - 1) <= block) continue;
            float shrink[VEC_TILE_ROWS];
            for (int64_t at = 0; at < KEYS; at += TILE_WIDTH) {
                multiply(scratch->scores + at, KEYS, NULL, scratch->q + row * unit->head_dim,
                         unit->head_dim, scratch->k + at, KEYS, unit->head_dim, rows);
            }
            for (int64_t i = 0; i < rows; i++) {
                shrink[i] = softmax_block(scratch->scores + i * KEYS, &state->max[row + i],
                                          &state->sum[row + i], visible_keys(unit, row + i) - block);
            }
            for (int64_t at = 0; at < unit->width; at += TILE_WIDTH) {
                multiply(state->values + row * unit->width + at, unit->width, shrink,
                         scratch->scores, KEYS, scratch->v + at, unit->width, KEYS, rows);
            }
        }
    }
}

/* Take the next span of the unit into its total. */
static void merge_span(softmax_state *total, const softmax_state *span, const attention_unit *unit,
                       bool is_first)
{
    for (int64_t row = 0; row < unit->rows; row++) {
        float *values = total->values + row * unit->width;
        const float *more = span->values + row * unit->width;
        if (is_first) {
            total->max[row] = span->max[row];
            total->sum[row] = span->sum[row];
            memcpy(values, more, (size_t)unit->head_dim * sizeof *values);
            continue;
        }
        if (span->max[row] == -INFINITY) continue;
        float max = span->max[row] > total->max[row] ? span->max[row] : total->max[row];
        float keep = expf(total->max[row] - max), take = expf(span->max[row] - max);
        total->max[row] = max;
        total->sum[row] = total->sum[row] * keep + span->sum[row] * take;
        for (int64_t i = 0; i < unit->head_dim; i++) values[i] = values[i] * keep + more[i] * take;
    }
}

static void write_unit(const softmax_state *total, const attention_unit *unit)
{
    for (int64_t row = 0; row < unit->rows; row++) {
        float *out = unit->out + row / unit->group * unit->out_stride +
                     row % unit->group * unit->head_dim;
        const float *values = total->values + row * unit->width;
        float inverse = 1.0f / total->sum[row];
        for (int64_t i = 0; i < unit->head_dim; i++) out[i] = values[i] * inverse;
    }
}

/* ---- units of the two operations ------------------------------------------- */

typedef struct attention_job attention_job;
struct attention_job {
    agl_cpu *cpu;
    const void *args;
    void (*unit_at)(attention_unit *unit, const void *args, int64_t index);
    int64_t units;
    /* One wave of (unit, span) pairs, when there are few units. */
    const attention_unit *wave_unit[AGL_CPU_ATTENTION_WAVE];
    int64_t wave_first[AGL_CPU_ATTENTION_WAVE];
};

static int64_t round_up(int64_t value, int64_t step)
{
    return (value + step - 1) / step * step;
}

static int64_t tokens_per_unit(int64_t group)
{
    return group >= ROWS ? 1 : ROWS / group;
}

static int64_t paged_group(const agl_attention_paged_args *args)
{
    return args->heads / args->kv.kv_heads;
}

static int64_t paged_units(const agl_attention_paged_args *args, int64_t sequence)
{
    int64_t tokens = tokens_per_unit(paged_group(args));
    return (args->sequences[sequence].row_count + tokens - 1) / tokens * args->kv.kv_heads;
}

/* Units count through sequences, then token groups, then kv heads. */
static void paged_unit_at(attention_unit *unit, const void *context, int64_t index)
{
    const agl_attention_paged_args *args = context;
    const agl_kv_layer *kv = &args->kv;
    int64_t at = 0;
    while (index >= paged_units(args, at)) index -= paged_units(args, at++);
    const agl_attention_sequence *sequence = &args->sequences[at];
    int64_t group = paged_group(args), tokens = tokens_per_unit(group);
    int64_t kv_head = index % kv->kv_heads, token_first = index / kv->kv_heads * tokens;
    if (tokens > sequence->row_count - token_first) tokens = sequence->row_count - token_first;
    int64_t row = sequence->row_first + token_first;
    int64_t head_offset = kv_head * kv->page_tokens * kv->head_dim;
    size_t bytes = agl_dtype_bytes(kv->dtype);
    *unit = (attention_unit){
        .q = (const float *)args->q + row * args->q_stride + kv_head * group * kv->head_dim,
        .out = (float *)args->out + (row * args->heads + kv_head * group) * kv->head_dim,
        .q_stride = args->q_stride,
        .out_stride = args->heads * kv->head_dim,
        .group = group,
        .k = (const char *)kv->k + (size_t)head_offset * bytes,
        .v = (const char *)kv->v + (size_t)head_offset * bytes,
        .dtype = kv->dtype,
        .pages = args->page_tables + sequence->page_table,
        .page_tokens = kv->page_tokens,
        .page_stride = kv->kv_heads * kv->page_tokens * kv->head_dim,
        .key_stride = kv->head_dim,
        .rows = tokens * group,
        .head_dim = kv->head_dim,
        .width = round_up(kv->head_dim, TILE_WIDTH),
        .keys = sequence->context - (sequence->row_count - token_first - tokens),
        .causal = true,
        .scale = args->scale,
    };
}

static int64_t dense_units(const agl_attention_dense_args *args, int64_t segment)
{
    int64_t tokens = args->segments[segment + 1] - args->segments[segment];
    return (tokens + ROWS - 1) / ROWS * args->heads;
}

static void dense_unit_at(attention_unit *unit, const void *context, int64_t index)
{
    const agl_attention_dense_args *args = context;
    int64_t at = 0;
    while (index >= dense_units(args, at)) index -= dense_units(args, at++);
    int64_t first = args->segments[at], tokens = args->segments[at + 1] - first;
    int64_t row_groups = (tokens + ROWS - 1) / ROWS;
    int64_t head = index / row_groups, row = index % row_groups * ROWS;
    int64_t width = args->heads * args->head_dim;
    const float *head_rows = (const float *)args->qkv + first * 3 * width + head * args->head_dim;
    *unit = (attention_unit){
        .q = head_rows + row * 3 * width,
        .out = (float *)args->out + (first + row) * width + head * args->head_dim,
        .q_stride = 3 * width,
        .out_stride = width,
        .group = 1,
        .k = head_rows + width,
        .v = head_rows + 2 * width,
        .dtype = AGL_F32,
        .key_stride = 3 * width,
        .rows = tokens - row < ROWS ? tokens - row : ROWS,
        .head_dim = args->head_dim,
        .width = round_up(args->head_dim, TILE_WIDTH),
        .keys = tokens,
        .scale = args->scale,
    };
}

/* ---- schedule -------------------------------------------------------------- */

static void unit_task(void *context, size_t task, uint32_t worker)
{
    const attention_job *job = context;
    attention_scratch *scratch = job->cpu->worker_scratch[worker];
    attention_unit unit;
    /* Later units of a sequence see more keys: the long ones go first. */
    job->unit_at(&unit, job->args, job->units - 1 - (int64_t)task);
    pack_q(scratch, &unit);
    for (int64_t first = 0; first < unit.keys; first += SPAN) {
        attend_span(&scratch->span, scratch, &unit, first);
        merge_span(&scratch->total, &scratch->span, &unit, first == 0);
    }
    write_unit(&scratch->total, &unit);
}

static softmax_state *wave_slot(const attention_job *job, size_t slot)
{
    return (softmax_state *)((char *)job->cpu->attention_slots + slot * AGL_CPU_ATTENTION_SLOT_BYTES);
}

static void wave_task(void *context, size_t task, uint32_t worker)
{
    const attention_job *job = context;
    attention_scratch *scratch = job->cpu->worker_scratch[worker];
    pack_q(scratch, job->wave_unit[task]);
    attend_span(wave_slot(job, task), scratch, job->wave_unit[task], job->wave_first[task]);
}

/* Run (unit, span) pairs in order, a wave at a time; the caller's scratch holds the total
 * of the unit that the wave ended in. */
static void run_waves(attention_job *job, attention_unit *units)
{
    attention_scratch *scratch = job->cpu->worker_scratch[0];
    int64_t unit = 0, first = 0;
    while (unit < job->units) {
        size_t slots = 0;
        while (slots < AGL_CPU_ATTENTION_WAVE && unit < job->units) {
            job->wave_unit[slots] = &units[unit];
            job->wave_first[slots++] = first;
            first += SPAN;
            if (first >= units[unit].keys) unit++, first = 0;
        }
        agl_thread_pool_run(job->cpu->pool, wave_task, job, slots);
        for (size_t slot = 0; slot < slots; slot++) {
            const attention_unit *done = job->wave_unit[slot];
            merge_span(&scratch->total, wave_slot(job, slot), done, job->wave_first[slot] == 0);
            if (job->wave_first[slot] + SPAN >= done->keys) write_unit(&scratch->total, done);
        }
    }
}

static agl_status run_attention(attention_job *job)
{
    attention_unit units[AGL_CPU_ATTENTION_WAVE];
    bool few = job->units < 4 * (int64_t)job->cpu->threads && job->units <= AGL_CPU_ATTENTION_WAVE;
    if (few && job->cpu->threads > 1) {
        for (int64_t i = 0; i < job->units; i++) job->unit_at(&units[i], job->args, i);
        run_waves(job, units);
    } else {
        agl_thread_pool_run(job->cpu->pool, unit_task, job, (size_t)job->units);
    }
    return AGL_OK;
}

static agl_status attention_paged(agl_cpu *cpu, const agl_attention_paged_args *args)
{
    if (args->kv.head_dim > AGL_CPU_HEAD_DIM_MAX || paged_group(args) > ROWS) {
        return agl_cpu_attention_paged_portable(cpu, args);
    }
    attention_job job = {.cpu = cpu, .args = args, .unit_at = paged_unit_at};
    for (int64_t i = 0; i < args->sequence_count; i++) job.units += paged_units(args, i);
    return run_attention(&job);
}

static agl_status attention_dense(agl_cpu *cpu, const agl_attention_dense_args *args)
{
    assert(args->head_dim <= AGL_CPU_HEAD_DIM_MAX);
    attention_job job = {.cpu = cpu, .args = args, .unit_at = dense_unit_at};
    for (int64_t i = 0; i < args->segment_count; i++) job.units += dense_units(args, i);
    return run_attention(&job);
}
