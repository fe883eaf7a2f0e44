/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_decode.cu - causal attention over pages for sequences with few query rows.
 *
 *   q, out, pages   as in backend.h, 16-bit activations, head_dim 128
 *
 * Needs     head_dim == 128; q, out, k, v and the rows of q 16-byte aligned; every sequence has at
 *           least one row; context <= context_max.
 * Bound     memory: 512 bytes a key and kv head, read once for up to 16 query heads. At batch 1
 *           latency: page index, K, V, partial results, merge follow each other.
 * Grid      as many blocks as stay resident (71 KB each); the items of the batch are dealt out in
 *           turns. Which items there are, a block counts from `sequences` in device memory, so the
 *           launch depends on upper bounds only and can be recorded.
 *           A second kernel, launched early, merges rows that were cut; a warp per head.
 * Numerics  F32 sums of 16-bit products, weights rounded to 16 bit before they meet V. Keys are
 *           cut in chunks of 128, each with its own maximum and sum, chunks folded in order within
 *           a group, groups folded in order. Chunks and groups depend on the keys of the row and
 *           the class of row_count (1, or 2 to 4) alone. An item may be a chunk, a group or the
 *           whole row; all three do the same arithmetic, so bits do not depend on the batch.
 *
 * A chunk: 4 warps. Scores: a warp takes 32 keys, its m16n8k16 rows are the 16 heads. Weights go
 * through shared memory, then a warp takes 32 dims of the values. K of the next chunk is fetched
 * while this one's V is used and the other way round: 32 to 64 KB in flight per block. */
#include "backend/cuda/attention.cuh"

#define DECODE_WARPS 4
#define DECODE_THREADS (DECODE_WARPS * WARP_LANES)
#define DECODE_BLOCKS 3              /* on a processor with 227 KB of shared memory      */
#define HEADS 16                     /* query heads of an item: rows of the products     */
#define CHUNK 128                    /* keys with one maximum; a slot a thread           */
#define GROUP_CHUNKS 4               /* at least, while a row has fewer than GROUPS_MAX  */
#define GROUPS_MAX 16                /* of a row; of all rows where a sequence has more  */
#define CHUNK_PARTS_MAX 2048         /* chunk items of a launch                          */
#define WARP_KEYS (CHUNK / DECODE_WARPS)
#define WARP_DIMS (ATTENTION_DIM / DECODE_WARPS)
#define LANE_VALUES (HEADS * WARP_DIMS / WARP_LANES)
#define K_STEPS (ATTENTION_DIM / 16)

#define MERGE_PARTS 64               /* of one head in flight, one warp a block          */
#define MERGE_WARPS 4                /* where parts are groups                           */

typedef enum { PART_CHUNK, PART_GROUP, PART_ROW } part_kind;

/* Result of a part: values are sums of 2^(score - max) v, sum those of the weights. */
typedef struct {
    float values[HEADS][ATTENTION_DIM];
    float2 max_sum[HEADS];
} decode_part;

typedef struct {
    attention_paged_view view;
    part_kind kind;
    int ratio;                       /* query heads of a kv head                         */
    int tiles_per_kv, tiles;         /* of up to 16 query heads                          */
    decode_part *parts;
    int tile_parts, row_parts;       /* distance of tiles of a sequence, rows of a tile  */
} decode_job;

/* What a block works on. */
typedef struct {
    int64_t row;                     /* query row                                        */
    int page_table, keys, kv_head;
    int head_first, head_count;      /* query heads                                      */
    int chunk_first, chunk_end;
    int group;                       /* the first to end, of an item longer than a chunk  */
    int chunks, groups;              /* of the row                                       */
    decode_part *part;               /* NULL: the item is the whole row                  */
} decode_item;

typedef struct {
    unsigned char k[CHUNK * ROW_BYTES], v[CHUNK * ROW_BYTES], weights[HEADS * ROW_BYTES];
    uint32_t slots[2][CHUNK];        /* of this chunk and the next                       */
    float max[DECODE_WARPS][HEADS], sum[DECODE_WARPS][HEADS];
    int prefix[DECODE_WARPS];
    decode_item item;
    bool has_item;
} decode_shared;

/* ---- parts of a row ---------------------------------------------------------------- */

static __host__ __device__ __forceinline__ int chunk_count(int keys)
{
    return (keys + CHUNK - 1) / CHUNK;
}

/* The partial results of a sequence's rows fit GROUPS_MAX places together. */
static __host__ __device__ __forceinline__ int group_count(int chunks, int row_count)
{
    int most = row_count == 1 ? GROUPS_MAX : GROUPS_MAX / DECODE_ROWS;
    int groups = (chunks + GROUP_CHUNKS - 1) / GROUP_CHUNKS;
    return groups < most ? groups : most;
}

/* Group g is the chunks [group_first(g), group_first(g + 1)). */
static __device__ __forceinline__ int group_first(int group, int chunks, int groups)
{
    return group * chunks / groups;
}

static __device__ __forceinline__ int part_count(part_kind kind, int chunks, int row_count)
{
    if (kind == PART_CHUNK) return chunks;
    return kind == PART_GROUP ? group_count(chunks, row_count) : 1;
}

/* Add a later part's (max, sum) to a row's; values then become values * *keep + later * *add.
 * Explicit FMAs: the same bits wherever parts meet. */
static __device__ __forceinline__ void fold(float *max, float *sum, float later_max,
                                            float later_sum, float *keep, float *add)
{
    float top = fmaxf(*max, later_max);
    *keep = ptx_exp2(*max - top);
    *add = ptx_exp2(later_max - top);
    *max = top;
    *sum = fmaf(*sum, *keep, later_sum * *add);
}

static __device__ __forceinline__ float fold_value(float value, float later, float keep, float add)
{
    return fmaf(value, keep, later * add);
}

/* ---- one item ---------------------------------------------------------------------- */

/* Two of a lane's values: columns 2 (lane % 4) of head lane / 4 and of the head 8 further. */
typedef struct {
    float max[2], sum[2], values[LANE_VALUES];
} decode_state;

static __device__ __forceinline__ void state_fold(decode_state *state, const decode_state *later)
{
    float keep[2], add[2];
    for (int h = 0; h < 2; h++) {
        fold(&state->max[h], &state->sum[h], later->max[h], later->sum[h], &keep[h], &add[h]);
    }
    for (int i = 0; i < LANE_VALUES; i++) {
        int h = i / 2 % 2;
        state->values[i] = fold_value(state->values[i], later->values[i], keep[h], add[h]);
    }
}

/* Fetch the rows of a chunk; keys past the end become zeros. */
template <typename T>
static __device__ __forceinline__ void fetch_chunk(unsigned char *tile, const void *pages,
                                                   const uint32_t *slots, int keys)
{
    int piece = threadIdx.x % ROW_PIECES;
    for (int row = threadIdx.x / ROW_PIECES; row < CHUNK; row += DECODE_THREADS / ROW_PIECES) {
        const T *from = (const T *)pages + (int64_t)slots[row] * ATTENTION_DIM + piece * 8;
        ptx_cp_async16_or_zero(tile_piece(tile, row, piece), from, row < keys);
    }
}

/* The slot of this thread's key in a chunk; keys past the end share the last key's. */
static __device__ __forceinline__ uint32_t chunk_slot(const attention_paged_view &view,
                                                      const decode_item &item, int chunk)
{
    int key = min(chunk * CHUNK + (int)threadIdx.x, item.keys - 1);
    return key_slot(view, item.page_table, item.kv_head, key);
}

/* The 16 heads as a of ptx_mma; heads the tile lacks are zeros. */
template <typename T>
static __device__ __forceinline__ void load_heads(uint32_t q[K_STEPS][4],
                                                  const attention_paged_view &view,
                                                  const decode_item &item)
{
    int lane = threadIdx.x % WARP_LANES, g = lane / 4, t = lane % 4;
    const T *first = (const T *)view.q + item.row * view.q_stride +
                     (int64_t)item.head_first * ATTENTION_DIM;
    for (int i = 0; i < K_STEPS * 4; i++) {
        int head = g + i % 2 * 8, dim = i / 4 * 16 + i / 2 % 2 * 8 + 2 * t;
        q[i / 4][i % 4] = head < item.head_count
                              ? *(const uint32_t *)(first + head * ATTENTION_DIM + dim) : 0;
    }
}

/* Scores of the warp's 32 keys, in exponents of 2, and their maxima to shared memory. */
template <typename T>
static __device__ __forceinline__ void chunk_scores(float scores[WARP_KEYS / 8][4],
                                                    decode_shared *shared,
                                                    const uint32_t q[K_STEPS][4], int keys,
                                                    float scale_log2)
{
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    int lane_offset = tile_lane_columns(lane);
    for (int n = 0; n < WARP_KEYS / 8; n++) for (int i = 0; i < 4; i++) scores[n][i] = 0.0f;
#pragma unroll
    for (int k = 0; k < K_STEPS; k++) {
#pragma unroll
        for (int n = 0; n < WARP_KEYS / 8; n += 2) {
            uint32_t b[4];
            ptx_ldmatrix_x4(b, tile_at(shared->k, lane_offset, warp * WARP_KEYS + n * 8, 2 * k));
            ptx_mma<T>(scores[n], q[k], b);
            ptx_mma<T>(scores[n + 1], q[k], b + 2);
        }
    }
    float max[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int n = 0; n < WARP_KEYS / 8; n++) {
        for (int i = 0; i < 4; i++) {
            int key = warp * WARP_KEYS + n * 8 + lane % 4 * 2 + i % 2;
            scores[n][i] = key < keys ? scores[n][i] * scale_log2 : -INFINITY;
            max[i / 2] = fmaxf(max[i / 2], scores[n][i]);
        }
    }
    for (int h = 0; h < 2; h++) {
        max[h] = fmaxf(max[h], __shfl_xor_sync(FULL_WARP, max[h], 1));
        max[h] = fmaxf(max[h], __shfl_xor_sync(FULL_WARP, max[h], 2));
        if (lane % 4 == 0) shared->max[warp][lane / 4 + h * 8] = max[h];
    }
}

/* The chunk's maxima to the state; weights and their sums to shared memory. */
template <typename T>
static __device__ __forceinline__ void chunk_weights(decode_state *state, decode_shared *shared,
                                                     float scores[WARP_KEYS / 8][4])
{
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    for (int h = 0; h < 2; h++) {
        int head = lane / 4 + h * 8;
        float max = shared->max[0][head], sum = 0.0f;
        for (int w = 1; w < DECODE_WARPS; w++) max = fmaxf(max, shared->max[w][head]);
        state->max[h] = max;
#pragma unroll
        for (int n = 0; n < WARP_KEYS / 8; n++) {
            float low = ptx_exp2(scores[n][2 * h] - max);
            float high = ptx_exp2(scores[n][2 * h + 1] - max);
            sum += low + high;
            unsigned char *piece = tile_piece(shared->weights, head, warp * (WARP_KEYS / 8) + n);
            *(uint32_t *)(piece + lane % 4 * 4) = pack_weights<T>(low, high);
        }
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        sum += __shfl_xor_sync(FULL_WARP, sum, 2);
        if (lane % 4 == 0) shared->sum[warp][head] = sum;
    }
}

/* The warp's 32 dims of weights * V, and the chunk's sums. */
template <typename T>
static __device__ __forceinline__ void chunk_values(decode_state *state, decode_shared *shared)
{
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    int lane_offset = tile_lane_rows(lane);
    float d[WARP_DIMS / 8][4];
    for (int n = 0; n < WARP_DIMS / 8; n++) for (int i = 0; i < 4; i++) d[n][i] = 0.0f;
#pragma unroll
    for (int k = 0; k < CHUNK / 16; k++) {
        uint32_t a[4];
        ptx_ldmatrix_x4(a, tile_at(shared->weights, lane_offset, 0, 2 * k));
#pragma unroll
        for (int n = 0; n < WARP_DIMS / 8; n += 2) {
            uint32_t b[4];
            ptx_ldmatrix_x4_trans(b, tile_at(shared->v, lane_offset, k * 16,
                                             warp * (WARP_DIMS / 8) + n));
            ptx_mma<T>(d[n], a, b);
            ptx_mma<T>(d[n + 1], a, b + 2);
        }
    }
    for (int i = 0; i < LANE_VALUES; i++) state->values[i] = d[i / 4][i % 4];
    for (int h = 0; h < 2; h++) {
        float sum = 0.0f;
        for (int w = 0; w < DECODE_WARPS; w++) sum += shared->sum[w][lane / 4 + h * 8];
        state->sum[h] = sum;
    }
}

/* Results of a whole row, or of a part for the merge kernel. */
template <typename T>
static __device__ __forceinline__ void item_store(const attention_paged_view &view,
                                                  const decode_item &item,
                                                  const decode_state *state)
{
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    for (int h = 0; h < 2; h++) {
        int head = lane / 4 + h * 8;
        if (head >= item.head_count) continue;
        float scale = item.part == NULL ? 1.0f / state->sum[h] : 1.0f;
        for (int n = 0; n < WARP_DIMS / 8; n++) {
            int dim = warp * WARP_DIMS + n * 8 + lane % 4 * 2;
            float low = state->values[n * 4 + 2 * h], high = state->values[n * 4 + 2 * h + 1];
            if (item.part == NULL) {
                int64_t at = (item.row * view.heads + item.head_first + head) * ATTENTION_DIM + dim;
                *(uint32_t *)((T *)view.out + at) = pack2<T>(low * scale, high * scale);
            } else {
                *(float2 *)&item.part->values[head][dim] = make_float2(low, high);
            }
        }
        if (item.part != NULL && warp == 0 && lane % 4 == 0) {
            item.part->max_sum[head] = make_float2(state->max[h], state->sum[h]);
        }
    }
}

template <typename T>
static __device__ __forceinline__ void item_run(decode_shared *shared,
                                                const attention_paged_view &view)
{
    const decode_item &item = shared->item;
    uint32_t q[K_STEPS][4];
    decode_state row = {}, group = {};
    bool first_of_row = true, first_of_group = true;
    int group_index = item.group;
    int group_end = group_first(group_index + 1, item.chunks, item.groups);
    shared->slots[item.chunk_first % 2][threadIdx.x] = chunk_slot(view, item, item.chunk_first);
    __syncthreads();
    int keys = item.keys - item.chunk_first * CHUNK;
    fetch_chunk<T>(shared->k, view.k, shared->slots[item.chunk_first % 2], keys);
    ptx_cp_async_commit();
    fetch_chunk<T>(shared->v, view.v, shared->slots[item.chunk_first % 2], keys);
    ptx_cp_async_commit();
    load_heads<T>(q, view, item);

    for (int chunk = item.chunk_first; chunk < item.chunk_end; chunk++, keys -= CHUNK) {
        bool is_last = chunk + 1 == item.chunk_end;
        uint32_t next_slot = is_last ? 0 : chunk_slot(view, item, chunk + 1);
        uint32_t *next_slots = shared->slots[(chunk + 1) % 2];
        float scores[WARP_KEYS / 8][4];
        decode_state state;
        ptx_cp_async_wait<1>();
        __syncthreads();                                     /* K is there               */
        chunk_scores<T>(scores, shared, q, keys, view.scale_log2);
        next_slots[threadIdx.x] = next_slot;
        __syncthreads();                                     /* K is free, maxima known  */
        if (!is_last) fetch_chunk<T>(shared->k, view.k, next_slots, keys - CHUNK);
        ptx_cp_async_commit();
        chunk_weights<T>(&state, shared, scores);
        ptx_cp_async_wait<1>();
        __syncthreads();                                     /* V and weights are there  */
        chunk_values<T>(&state, shared);
        __syncthreads();                                     /* V and weights are free   */
        if (!is_last) fetch_chunk<T>(shared->v, view.v, next_slots, keys - CHUNK);
        ptx_cp_async_commit();

        if (first_of_group) group = state;
        else state_fold(&group, &state);
        first_of_group = false;
        if (chunk + 1 < group_end && !is_last) continue;     /* a lone chunk is its own group */
        if (first_of_row) row = group;
        else state_fold(&row, &group);
        first_of_row = false, first_of_group = true;
        group_end = group_first(++group_index + 1, item.chunks, item.groups);
    }
    item_store<T>(view, item, &row);
}

/* ---- kernels ----------------------------------------------------------------------- */

/* Items of a sequence: its rows, tiles and parts, parts fastest. A row that sees fewer keys than
 * the last may lack the last part. */
static __device__ __forceinline__ int item_count(const decode_job &job,
                                                 const agl_attention_sequence &sequence)
{
    if (sequence.row_count < 1 || sequence.row_count > DECODE_ROWS) return 0;
    return sequence.row_count * job.tiles *
           part_count(job.kind, chunk_count(sequence.context), sequence.row_count);
}

/* Item number `index` of sequence number `number`; false: this row lacks it. */
static __device__ __forceinline__ bool item_find(decode_item *item, const decode_job &job,
                                                 const agl_attention_sequence &sequence, int number,
                                                 int index)
{
    int parts = part_count(job.kind, chunk_count(sequence.context), sequence.row_count);
    int part = index % parts, tile = index / parts % job.tiles, row = index / parts / job.tiles;
    int head = tile % job.tiles_per_kv * HEADS;
    item->row = sequence.row_first + row;
    item->page_table = sequence.page_table;
    item->keys = sequence.context - (sequence.row_count - 1 - row);
    if (item->keys < 1) return false;
    item->kv_head = tile / job.tiles_per_kv;
    item->head_first = item->kv_head * job.ratio + head;
    item->head_count = min(HEADS, job.ratio - head);
    item->chunks = chunk_count(item->keys);
    item->groups = group_count(item->chunks, sequence.row_count);
    parts = part_count(job.kind, item->chunks, sequence.row_count);
    if (part >= parts) return false;
    item->part = parts == 1 ? NULL
                            : job.parts + ((int64_t)number * job.tiles + tile) * job.tile_parts +
                                  row * job.row_parts + part;
    item->group = 0;
    if (job.kind == PART_CHUNK) {
        item->chunk_first = part, item->chunk_end = part + 1;
    } else if (job.kind == PART_GROUP) {
        item->group = part;
        item->chunk_first = group_first(part, item->chunks, item->groups);
        item->chunk_end = group_first(part + 1, item->chunks, item->groups);
    } else {
        item->chunk_first = 0, item->chunk_end = item->chunks;
    }
    return true;
}

template <typename T>
static __global__ void __launch_bounds__(DECODE_THREADS, DECODE_BLOCKS)
decode_kernel(decode_job job)
{
    DYNAMIC_SHARED(memory);
    decode_shared *shared = (decode_shared *)memory;
    int next = (int)blockIdx.x, before = 0;       /* this block's item, items before the window */
    ptx_wait_for_previous();
    ptx_release_next();
    for (int first = 0; first < job.view.sequence_count; first += DECODE_THREADS) {
        int number = first + (int)threadIdx.x, count = 0, total;
        agl_attention_sequence sequence = {};
        if (number < job.view.sequence_count) {
            sequence = sequence_load(job.view, number);
            count = item_count(job, sequence);
        }
        int begin = before + block_prefix(count, &total, shared->prefix);
        before += total;
        for (; next < before; next += (int)gridDim.x) {
            if (next >= begin && next < begin + count) {
                shared->has_item = item_find(&shared->item, job, sequence, number,
                                             next - begin);
            }
            __syncthreads();
            if (shared->has_item) item_run<T>(shared, job.view);
            __syncthreads();
        }
        __syncthreads();
    }
}

/* A warp for one head of one sequence: each lane folds 4 dims, which it fetched itself. */
template <typename T>
static __global__ void __launch_bounds__(MERGE_WARPS * WARP_LANES)
merge_kernel(decode_job job, int staged)
{
    DYNAMIC_SHARED(memory);
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    int head = (int)blockIdx.x * ((int)blockDim.x / WARP_LANES) + warp, number = (int)blockIdx.y;
    float4 *values = (float4 *)memory + warp * staged * WARP_LANES;   /* [staged][lane]  */
    /* Not written by the decode kernel, which lets this one begin only after its own wait. */
    agl_attention_sequence sequence = sequence_load(job.view, number);
    ptx_wait_for_previous();
    ptx_release_next();
    if (head >= job.view.heads) return;
    if (sequence.row_count > DECODE_ROWS) return;
    int of_kv = head % job.ratio, tile = head / job.ratio * job.tiles_per_kv + of_kv / HEADS;
    for (int r = 0; r < sequence.row_count; r++) {
        int chunks = chunk_count(sequence.context - (sequence.row_count - 1 - r));
        int groups = group_count(chunks, sequence.row_count);
        int parts = part_count(job.kind, chunks, sequence.row_count);
        if (parts <= 1) continue;
        const decode_part *first = job.parts + r * job.row_parts +
                                   ((int64_t)number * job.tiles + tile) * job.tile_parts;
        float row_max = 0, row_sum = 0, group_max = 0, group_sum = 0, keep, add;
        float row[4], group[4];
        bool is_chunk = job.kind == PART_CHUNK;              /* else a part is a group       */
        int group_end = is_chunk ? group_first(1, chunks, groups) : 1;
        int group_index = 0, group_begin = 0;
        for (int from = 0; from < parts; from += staged) {
            int count = min(staged, parts - from);
            for (int i = 0; i < count; i++) {
                ptx_cp_async16(&values[i * WARP_LANES + lane],
                               &first[from + i].values[of_kv % HEADS][lane * 4]);
            }
            ptx_cp_async_commit();
            float2 held[MERGE_PARTS / WARP_LANES];           /* of parts lane, lane + 32 */
            for (int i = 0; i < MERGE_PARTS / WARP_LANES; i++) {
                int part = i * WARP_LANES + lane;
                held[i] = part < count ? first[from + part].max_sum[of_kv % HEADS]
                                       : make_float2(0.0f, 0.0f);
            }
            ptx_cp_async_wait<0>();
            for (int i = 0; i < count; i++) {
                float2 own = i < WARP_LANES ? held[0] : held[1];
                float max = __shfl_sync(FULL_WARP, own.x, i % WARP_LANES);
                float sum = __shfl_sync(FULL_WARP, own.y, i % WARP_LANES);
                float4 v = values[i * WARP_LANES + lane];
                float later[4] = {v.x, v.y, v.z, v.w};
                int part = from + i;
                if (part == group_begin) {
                    group_max = max, group_sum = sum;
                    for (int d = 0; d < 4; d++) group[d] = later[d];
                } else {
                    fold(&group_max, &group_sum, max, sum, &keep, &add);
                    for (int d = 0; d < 4; d++) {
                        group[d] = fold_value(group[d], later[d], keep, add);
                    }
                }
                if (part + 1 < group_end) continue;
                if (group_index == 0) {
                    row_max = group_max, row_sum = group_sum;
                    for (int d = 0; d < 4; d++) row[d] = group[d];
                } else {
                    fold(&row_max, &row_sum, group_max, group_sum, &keep, &add);
                    for (int d = 0; d < 4; d++) row[d] = fold_value(row[d], group[d], keep, add);
                }
                group_index++;
                group_begin = part + 1;
                group_end = is_chunk ? group_first(group_index + 1, chunks, groups) : part + 2;
            }
        }
        float scale = 1.0f / row_sum;
        int64_t at = ((int64_t)(sequence.row_first + r) * job.view.heads + head) * ATTENTION_DIM;
        *(uint2 *)((T *)job.view.out + at + lane * 4) =
            make_uint2(pack2<T>(row[0] * scale, row[1] * scale),
                       pack2<T>(row[2] * scale, row[3] * scale));
    }
}

/* ---- launcher ---------------------------------------------------------------------- */

static int tiles_of(int64_t heads, int64_t kv_heads)
{
    return (int)(kv_heads * ((heads / kv_heads + HEADS - 1) / HEADS));
}

/* Above this many (sequence, tile) pairs whole rows fill the device. */
static int64_t split_tiles_max(const agl_cuda *cuda)
{
    return (int64_t)cuda->processors * 4;
}

/* The smallest parts that do not cost more than they win; see docs/KERNELS.md. */
static void choose_parts(decode_job *job, const agl_cuda *cuda, int64_t rows)
{
    int64_t capacity = (int64_t)(cuda->attention_space.bytes / sizeof(decode_part));
    int64_t work = (int64_t)job->view.sequence_count * job->tiles;
    int chunks = chunk_count(job->view.context_max), groups = group_count(chunks, 1);
    int sequence_rows = rows > job->view.sequence_count ? DECODE_ROWS : 1;
    int64_t chunk_parts = work * sequence_rows * chunks;
    int64_t most = capacity < CHUNK_PARTS_MAX ? capacity : CHUNK_PARTS_MAX;
    if (work * groups < 2 * cuda->processors && chunk_parts <= most) {
        job->kind = PART_CHUNK;
        job->row_parts = chunks;
        job->tile_parts = chunks * sequence_rows;
    } else if (work < split_tiles_max(cuda) && work * GROUPS_MAX <= capacity) {
        job->kind = PART_GROUP;
        job->row_parts = GROUPS_MAX / DECODE_ROWS;
        job->tile_parts = GROUPS_MAX;
    } else {
        job->kind = PART_ROW;
    }
}

template <typename T>
static agl_status decode_launch(agl_stream *stream, const decode_job &job, int64_t rows)
{
    const agl_cuda *cuda = agl_cuda_of(stream);
    int64_t sequences = job.view.sequence_count;
    int chunks = chunk_count(job.view.context_max);
    int parts = job.kind == PART_ROW ? 1 : job.kind == PART_GROUP ? group_count(chunks, 1) : chunks;
    int64_t decode_rows = rows < sequences * DECODE_ROWS ? rows : sequences * DECODE_ROWS;
    int64_t items = decode_rows * job.tiles * parts;
    int64_t resident = (int64_t)(cuda->shared_bytes_max / (sizeof(decode_shared) + 1024));
    if (resident < 1) resident = 1;
    int64_t blocks = cuda->processors * (resident < DECODE_BLOCKS ? resident : DECODE_BLOCKS);
    if (blocks > items) blocks = items;
    AGL_TRY(cuda_launch_early(stream, decode_kernel<T>, dim3((unsigned)blocks),
                              dim3(DECODE_THREADS), sizeof(decode_shared), job));
    if (parts == 1) return AGL_OK;
    int warps = job.kind == PART_CHUNK ? 1 : MERGE_WARPS;
    int staged = job.kind == PART_CHUNK ? MERGE_PARTS : GROUPS_MAX;
    dim3 grid((unsigned)((job.view.heads + warps - 1) / warps), (unsigned)sequences);
    return cuda_launch_early(stream, merge_kernel<T>, grid, dim3((unsigned)(warps * WARP_LANES)),
                             (size_t)(warps * staged) * ATTENTION_DIM * sizeof(float), job, staged);
}

agl_status agl_cuda_attention_decode(agl_stream *stream, const agl_attention_paged_args *args)
{
    const agl_cuda *cuda = agl_cuda_of(stream);
    decode_job job = {};
    job.view = attention_view(args);
    job.ratio = job.view.heads / job.view.kv_heads;
    job.tiles_per_kv = (job.ratio + HEADS - 1) / HEADS;
    job.tiles = tiles_of(args->heads, args->kv.kv_heads);
    job.parts = (decode_part *)cuda->attention_space.data;
    choose_parts(&job, cuda, args->rows);
    bool half = stream->backend->activation == AGL_F16;
    return half ? decode_launch<__half>(stream, job, args->rows)
                : decode_launch<__nv_bfloat16>(stream, job, args->rows);
}

uint64_t agl_cuda_attention_decode_bytes(const agl_cuda *cuda, const agl_backend_limits *limits)
{
    int64_t work = limits->sequences_max * tiles_of(limits->heads, limits->kv_heads);
    int64_t most = split_tiles_max(cuda);
    int64_t groups = (work < most ? work : most) * GROUPS_MAX;
    int64_t chunks = work * DECODE_ROWS * chunk_count((int)limits->context_max);
    if (chunks > CHUNK_PARTS_MAX) chunks = CHUNK_PARTS_MAX;
    return (uint64_t)(groups > chunks ? groups : chunks) * sizeof(decode_part);
}
