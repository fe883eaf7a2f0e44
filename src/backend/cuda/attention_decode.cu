/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_decode.cu - causal attention over pages for sequences with few query rows.
 *
 *   q, out, pages   as in backend.h, 16-bit activations, head_dim 128
 *
 * Needs     head_dim == 128; q, out, k, v and the rows of q 16-byte aligned; every sequence has at
 *           least one row; context <= context_max. Sequences, page_tables and the keys of earlier
 *           steps are read before the wait for the kernel before; see backend.h.
 * Bound     memory: 512 bytes a key and kv head, read once for up to 16 query heads. At batch 1
 *           latency: what is behind the wait, then partial results, then their merge.
 * Grid      as many blocks as stay resident (71 KB each). All chunks of the batch in one line are
 *           cut in equal runs, a run a block. The line is measured from `sequences` in device
 *           memory, so the launch depends on upper bounds only and can be recorded.
 *           A second kernel, launched early, merges rows that lie in several runs.
 * Numerics  F32 sums of 16-bit products, weights rounded to 16 bit before they meet V. Keys are
 *           cut in chunks of 128, each with its own maximum and sum, chunks folded in order within
 *           a group, groups folded in order. Chunks and groups depend on the keys of the row
 *           alone. Runs may end anywhere: what a block cannot fold in that order it passes on, so
 *           bits do not depend on the batch.
 *
 * A chunk: 4 warps. Scores: a warp takes 32 keys, its m16n8k16 rows are the 16 heads. Weights go
 * through shared memory, then a warp takes 32 dims of the values. K of the next chunk, of this row
 * or the next, is fetched while this one's V is used and the other way round: 32 to 64 KB in flight
 * per block. */
#include "backend/cuda/attention.cuh"

#define DECODE_WARPS 4
#define DECODE_THREADS (DECODE_WARPS * WARP_LANES)
#define DECODE_BLOCKS 3              /* on a processor with 227 KB of shared memory      */
#define HEADS 16                     /* query heads of a strip: rows of the products     */
#define CHUNK 128                    /* keys with one maximum; a slot a thread           */
#define GROUP_CHUNKS 4               /* at least, while a row has fewer than GROUPS_MAX  */
#define GROUPS_MAX 16                /* of a row                                         */
#define WARP_KEYS (CHUNK / DECODE_WARPS)
#define WARP_DIMS (ATTENTION_DIM / DECODE_WARPS)
#define LANE_VALUES (HEADS * WARP_DIMS / WARP_LANES)
#define K_STEPS (ATTENTION_DIM / 16)
#define FETCH_ROWS (DECODE_THREADS / ROW_PIECES) /* at a time                           */
#define STRIPS 4                     /* a block knows of at a time                       */

#define LOOSE_CHUNKS_MAX 31          /* of a run, kept apart: it lacks their group's begin */
#define MERGE_WARPS 16
#define MERGE_PARTS 4                /* of one head that a warp loads together           */
#define MERGE_RUN_WARPS 8            /* and where a block is for a run                   */
#define MERGE_RUN_PARTS 8

/* Result of a part: values are sums of 2^(score - max) v, sum those of the weights. */
typedef struct {
    float values[HEADS][ATTENTION_DIM];
    float2 max_sum[HEADS];
} decode_part;

/* How the batch is cut: a unit is a chunk or a group, runs are equal numbers of units. */
typedef struct {
    int units, runs;
    int share, longer;               /* `longer` runs have share + 1 units, the rest share */
    bool by_group;
} decode_plan;

/* A row and up to 16 heads of a kv head: its place in the batch, and what of it is this block's. */
typedef struct {
    int number, row_of, tile;        /* sequence, its row, its tile                      */
    int sequence_begin, begin, units;
    int64_t row;                     /* query row                                        */
    int page_table, keys, old_keys;  /* old: of earlier steps                            */
    int kv_head, head_first, head_count;
    int chunks, groups;
    int share, longer;               /* `longer` groups have share + 1 chunks            */
    int chunk_first, chunk_end;      /* of this block                                    */
    bool is_last;                    /* of this block                                    */
} decode_strip;

/* What the merge of a run's last strip has to know, if the run begins it and does not end it. */
typedef struct {
    decode_strip strip;
    decode_plan plan;
    bool is_cut;
} decode_cut;

typedef struct {
    attention_paged_view view;
    int ratio;                       /* query heads of a kv head                         */
    int tiles_per_kv, tiles;         /* of up to 16 query heads                          */
    int runs_max;                    /* blocks of the first kernel                       */
    bool may_cut_groups;             /* loose chunks of the longest group fit            */
    int loose_chunks;                /* places of a run: these, and GROUPS_MAX twice     */
    decode_part *parts;              /* [run][places]                                    */
    decode_cut *cuts;                /* [run], or NULL                                   */
} decode_job;

typedef struct {
    unsigned char k[CHUNK * ROW_BYTES], v[CHUNK * ROW_BYTES], weights[HEADS * ROW_BYTES];
    uint32_t slots[2][CHUNK];        /* of this chunk and the next                       */
    float max[DECODE_WARPS][HEADS], sum[DECODE_WARPS][HEADS];
    int prefix[2][DECODE_WARPS];
    decode_strip strips[STRIPS];     /* a ring                                           */
} decode_shared;

/* ---- parts of a row ---------------------------------------------------------------- */

static __host__ __device__ __forceinline__ int chunk_count(int keys)
{
    return keys > 0 ? (keys + CHUNK - 1) / CHUNK : 0;
}

static __host__ __device__ __forceinline__ int group_count(int chunks)
{
    int groups = (chunks + GROUP_CHUNKS - 1) / GROUP_CHUNKS;
    return groups < GROUPS_MAX ? groups : GROUPS_MAX;
}

/* n things dealt out as evenly as can be, the longer shares first: where share i begins, and whose
 * thing number i is. */
static __device__ __forceinline__ int share_first(int i, int share, int longer)
{
    return i * share + min(i, longer);
}

static __device__ __forceinline__ int share_of(int i, int share, int longer)
{
    int after = i - longer * (share + 1);
    return after < 0 ? (int)((unsigned)i / (unsigned)(share + 1))
                     : longer + (int)((unsigned)after / (unsigned)share);
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

/* ---- how the batch is cut ------------------------------------------------------------ */

/* Keys that a row of a sequence sees. */
static __device__ __forceinline__ int row_keys(const agl_attention_sequence &sequence, int row)
{
    return sequence.context - (sequence.row_count - 1 - row);
}

static __device__ __forceinline__ void sequence_measure(int *chunks, int *groups,
                                                        const decode_job &job,
                                                        const agl_attention_sequence &sequence)
{
    *chunks = *groups = 0;
    if (sequence.row_count > DECODE_ROWS) return;
#pragma unroll 1
    for (int row = 0; row < sequence.row_count; row++) {
        int count = chunk_count(row_keys(sequence, row));
        *chunks += count * job.tiles;
        *groups += group_count(count) * job.tiles;
    }
}

/* Of a thread's share of the sequences. */
static __device__ __forceinline__ void sequences_measure(int *chunks, int *groups,
                                                         const decode_job &job, int first, int end)
{
    *chunks = *groups = 0;
#pragma unroll 1
    for (int i = first; i < end; i++) {
        int own_chunks, own_groups;
        sequence_measure(&own_chunks, &own_groups, job, sequence_load(job.view, i));
        *chunks += own_chunks, *groups += own_groups;
    }
}

/* By groups, if the longest run then is hardly longer: fewer parts have to be merged. */
static __device__ __forceinline__ decode_plan plan_of(const decode_job &job, int chunks, int groups)
{
    unsigned most = (unsigned)job.runs_max;
    unsigned run_chunks = ((unsigned)chunks + most - 1) / most;
    unsigned run_groups = ((unsigned)groups + most - 1) / most;
    decode_plan plan;
    plan.by_group = (int64_t)(run_groups * 16) * chunks <= (int64_t)(run_chunks * 17) * groups ||
                    (!job.may_cut_groups && (int)run_chunks > job.loose_chunks);
    plan.units = plan.by_group ? groups : chunks;
    plan.runs = min(job.runs_max, plan.units);
    plan.share = plan.runs > 0 ? (int)((unsigned)plan.units / (unsigned)plan.runs) : 0;
    plan.longer = plan.units - plan.share * plan.runs;
    return plan;
}

/* Run r is the units [run_first(r), run_first(r + 1)). */
static __device__ __forceinline__ int run_first(const decode_plan &plan, int run)
{
    return share_first(run, plan.share, plan.longer);
}

static __device__ __forceinline__ int run_of(const decode_plan &plan, int unit)
{
    return share_of(unit, plan.share, plan.longer);
}

/* Group g is the chunks [group_first(g), group_first(g + 1)). */
static __device__ __forceinline__ int group_first(const decode_strip &strip, int group)
{
    return share_first(group, strip.share, strip.longer);
}

static __device__ __forceinline__ void strip_measure(decode_strip *strip, bool by_group)
{
    strip->chunks = chunk_count(strip->keys);
    strip->groups = group_count(strip->chunks);
    strip->units = by_group ? strip->groups : strip->chunks;
    strip->share = (int)((unsigned)strip->chunks / (unsigned)max(strip->groups, 1));
    strip->longer = strip->chunks - strip->share * strip->groups;
}

/* The chunk of a row where its unit begins. */
static __device__ __forceinline__ int unit_chunk(const decode_plan &plan, const decode_strip &strip,
                                                 int unit)
{
    return plan.by_group ? group_first(strip, unit) : unit;
}

/* The chunk of a row where its part in a run begins. */
static __device__ __forceinline__ int run_chunk(const decode_plan &plan, const decode_strip &strip,
                                                int run)
{
    int unit = run_first(plan, run) - strip.begin;
    return unit_chunk(plan, strip, min(max(unit, 0), strip.units));
}

/* The strip that has a unit, searched from sequence `number`, whose first unit is `begin`. */
static __device__ void strip_find(decode_strip *out, const decode_job &job, const decode_plan &plan,
                                  int number, int begin, int unit, int run)
{
    agl_attention_sequence sequence;
    for (;; number++) {
        sequence = sequence_load(job.view, number);
        int chunks, groups;
        sequence_measure(&chunks, &groups, job, sequence);
        int units = plan.by_group ? groups : chunks;
        if (unit < begin + units) break;
        begin += units;
    }
    decode_strip strip;
    strip.number = number;
    strip.sequence_begin = strip.begin = begin;
    strip.row_of = 0;
    for (;; strip.row_of++) {
        strip.keys = row_keys(sequence, strip.row_of);
        strip_measure(&strip, plan.by_group);
        if (unit < strip.begin + strip.units * job.tiles) break;
        strip.begin += strip.units * job.tiles;
    }
    strip.tile = 0;
    while (unit >= strip.begin + strip.units) strip.tile++, strip.begin += strip.units;
    strip.row = sequence.row_first + strip.row_of;
    strip.page_table = sequence.page_table;
    strip.old_keys = sequence.context - sequence.row_count;
    strip.kv_head = (int)((unsigned)strip.tile / (unsigned)job.tiles_per_kv);
    int head = (strip.tile - strip.kv_head * job.tiles_per_kv) * HEADS;
    strip.head_first = strip.kv_head * job.ratio + head;
    strip.head_count = min(HEADS, job.ratio - head);
    strip.chunk_first = run_chunk(plan, strip, run);
    strip.chunk_end = run_chunk(plan, strip, run + 1);
    strip.is_last = strip.begin + strip.units >= run_first(plan, run + 1);
    *out = strip;
}

/* The one behind it in the run. */
static __device__ __forceinline__ void strip_next(decode_strip *out, const decode_job &job,
                                                  const decode_plan &plan,
                                                  const decode_strip &strip)
{
    strip_find(out, job, plan, strip.number, strip.sequence_begin, strip.begin + strip.units,
               (int)blockIdx.x);
}

/* Places of a run's parts: chunks of a group that another run began, by their distance from the
 * run's first; groups of the row it did not begin; groups of the row that it did. */
static __device__ __forceinline__ int loose_place(const decode_job &job, int run, int chunk)
{
    return run * (job.loose_chunks + 2 * GROUPS_MAX) + chunk;
}

static __device__ __forceinline__ int group_place(const decode_job &job, int run, int group,
                                                  bool begins_row)
{
    return loose_place(job, run, job.loose_chunks + (begins_row ? GROUPS_MAX : 0) + group);
}

/* Where the part lies that begins with a chunk of this group; -1: the chunk is inside one. */
static __device__ __forceinline__ int part_place(const decode_job &job, const decode_plan &plan,
                                                 const decode_strip &strip, int group, int chunk)
{
    int run = run_of(plan, strip.begin + (plan.by_group ? group : chunk));
    int first = run_chunk(plan, strip, run), group_begin = group_first(strip, group);
    if (chunk == group_begin) return group_place(job, run, group, first == 0);
    return first > group_begin ? loose_place(job, run, chunk - first) : -1;
}

/* ---- one chunk --------------------------------------------------------------------- */

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

/* Where the slot of a key of a chunk lies: those that one thread fetches are neighbours. */
static __device__ __forceinline__ int slot_place(int key)
{
    return key % FETCH_ROWS * (CHUNK / FETCH_ROWS) + key / FETCH_ROWS;
}

/* Fetch the rows of a chunk but those from `old` to `keys`; keys past the end become zeros. */
template <typename T>
static __device__ __forceinline__ void fetch_chunk(unsigned char *tile, const void *pages,
                                                   const uint32_t *slots, int old, int keys)
{
    int piece = threadIdx.x % ROW_PIECES, first = threadIdx.x / ROW_PIECES;
    const T *from = (const T *)pages + piece * 8;
#pragma unroll
    for (int i = 0; i < CHUNK / FETCH_ROWS; i += 4) {
        uint4 four = *(const uint4 *)&slots[first * (CHUNK / FETCH_ROWS) + i];
        uint32_t slot[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int row = (i + j) * FETCH_ROWS + first;
            if (row >= old && row < keys) continue;
            ptx_cp_async16_or_zero(tile_piece(tile, row, piece),
                                   from + (int64_t)slot[j] * ATTENTION_DIM, row < keys);
        }
    }
}

/* And these. */
template <typename T>
static __device__ __forceinline__ void fetch_rows(unsigned char *tile, const void *pages,
                                                  const uint32_t *slots, int old, int keys)
{
    int piece = threadIdx.x % ROW_PIECES;
#pragma unroll 1
    for (int row = max(old, 0) + threadIdx.x / ROW_PIECES; row < min(keys, CHUNK);
         row += FETCH_ROWS) {
        const T *from = (const T *)pages + (int64_t)slots[slot_place(row)] * ATTENTION_DIM;
        ptx_cp_async16(tile_piece(tile, row, piece), from + piece * 8);
    }
}

/* The slot of this thread's key in a chunk; keys past the end share the last key's. */
static __device__ __forceinline__ uint32_t chunk_slot(const attention_paged_view &view,
                                                      const decode_strip &strip, int chunk)
{
    int key = min(chunk * CHUNK + (int)threadIdx.x, strip.keys - 1);
    return key_slot(view, strip.page_table, strip.kv_head, key);
}

/* The 16 heads as a of ptx_mma; heads the tile lacks are zeros. */
template <typename T>
static __device__ __forceinline__ void load_heads(uint32_t q[K_STEPS][4],
                                                  const attention_paged_view &view,
                                                  const decode_strip &strip)
{
    int lane = threadIdx.x % WARP_LANES, g = lane / 4, t = lane % 4;
    const T *first = (const T *)view.q + strip.row * view.q_stride +
                     (int64_t)strip.head_first * ATTENTION_DIM;
    for (int i = 0; i < K_STEPS * 4; i++) {
        int head = g + i % 2 * 8, dim = i / 4 * 16 + i / 2 % 2 * 8 + 2 * t;
        q[i / 4][i % 4] = head < strip.head_count
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

/* The finished row. */
template <typename T>
static __device__ __forceinline__ void state_store(const attention_paged_view &view,
                                                   const decode_strip &strip,
                                                   const decode_state *state)
{
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    for (int h = 0; h < 2; h++) {
        int head = lane / 4 + h * 8;
        if (head >= strip.head_count) continue;
        float scale = 1.0f / state->sum[h];
        T *out = (T *)view.out + (strip.row * view.heads + strip.head_first + head) * ATTENTION_DIM;
        for (int n = 0; n < WARP_DIMS / 8; n++) {
            int dim = warp * WARP_DIMS + n * 8 + lane % 4 * 2;
            float low = state->values[n * 4 + 2 * h], high = state->values[n * 4 + 2 * h + 1];
            *(uint32_t *)(out + dim) = pack2<T>(low * scale, high * scale);
        }
    }
}

/* A part for the merge kernel. */
static __device__ __forceinline__ void state_pass_on(decode_part *part, const decode_strip &strip,
                                                     const decode_state *state)
{
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    for (int h = 0; h < 2; h++) {
        int head = lane / 4 + h * 8;
        if (head >= strip.head_count) continue;
        for (int n = 0; n < WARP_DIMS / 8; n++) {
            int dim = warp * WARP_DIMS + n * 8 + lane % 4 * 2;
            *(float2 *)&part->values[head][dim] = make_float2(state->values[n * 4 + 2 * h],
                                                              state->values[n * 4 + 2 * h + 1]);
        }
        if (warp == 0 && lane % 4 == 0) {
            part->max_sum[head] = make_float2(state->max[h], state->sum[h]);
        }
    }
}

/* ---- a run -------------------------------------------------------------------------- */

/* This block's run and its first two strips; false: there is none. */
static __device__ __forceinline__ bool run_find(decode_shared *shared, decode_plan *plan,
                                                const decode_job &job)
{
    int each = (job.view.sequence_count + DECODE_THREADS - 1) / DECODE_THREADS;
    int number = (int)threadIdx.x * each, end = min(number + each, job.view.sequence_count);
    int chunks, groups, all_chunks, all_groups, run = (int)blockIdx.x;
    sequences_measure(&chunks, &groups, job, number, end);
    int chunks_before = block_prefix(chunks, &all_chunks, shared->prefix[0]);
    int groups_before = block_prefix(groups, &all_groups, shared->prefix[1]);
    *plan = plan_of(job, all_chunks, all_groups);
    if (run >= plan->runs) return false;
    int begin = plan->by_group ? groups_before : chunks_before;
    int units = plan->by_group ? groups : chunks;
    int first = run_first(*plan, run) - begin;
    if (first >= 0 && first < units) {
#pragma unroll 1
        for (int i = 0, unit = begin + first; i < 2; i++) {
            strip_find(&shared->strips[i], job, *plan, number, begin, unit, run);
            if (shared->strips[i].is_last) break;
            unit = shared->strips[i].begin + shared->strips[i].units;
        }
    }
    __syncthreads();
    return true;
}

static __device__ __forceinline__ bool is_whole(const decode_strip &strip)
{
    return strip.chunk_first == 0 && strip.chunk_end == strip.chunks;
}

template <typename T>
static __device__ __forceinline__ void run_chunks(decode_shared *shared, const decode_job &job,
                                                  const decode_plan &plan)
{
    const attention_paged_view &view = job.view;
    const decode_strip *strip = &shared->strips[0];
    uint32_t q[K_STEPS][4];
    decode_state row = {}, group = {};
    int at = 0, chunk = strip->chunk_first;      /* the strip's place in the ring            */
    uint32_t *slots = shared->slots[0];
    slots[slot_place((int)threadIdx.x)] = chunk_slot(view, *strip, chunk);
    __syncthreads();
    int keys = strip->keys - chunk * CHUNK, old = strip->old_keys - chunk * CHUNK;
    fetch_chunk<T>(shared->k, view.k, slots, old, keys);
    fetch_chunk<T>(shared->v, view.v, slots, old, keys);
    int number = share_of(chunk, strip->share, strip->longer);
    ptx_wait_for_previous();
    fetch_rows<T>(shared->k, view.k, slots, old, keys);
    ptx_cp_async_commit();
    fetch_rows<T>(shared->v, view.v, slots, old, keys);
    ptx_cp_async_commit();
    load_heads<T>(q, view, *strip);

    for (bool is_last = false; !is_last;) {
        bool ends = chunk + 1 == strip->chunk_end;
        is_last = ends && strip->is_last;
        int next_at = ends ? (at + 1) % STRIPS : at;
        const decode_strip *next = &shared->strips[next_at];
        int next_chunk = ends ? next->chunk_first : chunk + 1;
        uint32_t next_slot = is_last ? 0 : chunk_slot(view, *next, next_chunk);
        int next_keys = is_last ? 0 : next->keys - next_chunk * CHUNK;
        slots = slots == shared->slots[0] ? shared->slots[1] : shared->slots[0];
        float scores[WARP_KEYS / 8][4];
        decode_state state;
        ptx_cp_async_wait<1>();
        __syncthreads();                                     /* K is there               */
        chunk_scores<T>(scores, shared, q, keys, view.scale_log2);
        slots[slot_place((int)threadIdx.x)] = next_slot;
        __syncthreads();                                     /* K is free, maxima known  */
        if (!is_last) fetch_chunk<T>(shared->k, view.k, slots, CHUNK, next_keys);
        ptx_cp_async_commit();
        if (ends && !is_last) {
            load_heads<T>(q, view, *next);
            if (threadIdx.x == 0 && !next->is_last) {
                strip_next(&shared->strips[(next_at + 1) % STRIPS], job, plan, *next);
            }
        }
        chunk_weights<T>(&state, shared, scores);
        ptx_cp_async_wait<1>();
        __syncthreads();                                     /* V and weights are there  */
        chunk_values<T>(&state, shared);
        __syncthreads();                                     /* V and weights are free   */
        if (!is_last) fetch_chunk<T>(shared->v, view.v, slots, CHUNK, next_keys);
        ptx_cp_async_commit();

        int group_begin = group_first(*strip, number);
        bool ends_group = ends || chunk + 1 == group_first(*strip, number + 1);
        bool is_loose = group_begin < strip->chunk_first;    /* begun by another block   */
        if (is_loose || chunk == group_begin) group = state;
        else state_fold(&group, &state);
        if (is_loose || (ends_group && !is_whole(*strip))) {
            int place = is_loose ? loose_place(job, (int)blockIdx.x, chunk - strip->chunk_first)
                                 : group_place(job, (int)blockIdx.x, number,
                                               strip->chunk_first == 0);
            state_pass_on(job.parts + place, *strip, &group);
        } else if (ends_group) {
            if (number == 0) row = group;
            else state_fold(&row, &group);
            if (ends) state_store<T>(view, *strip, &row);
        }
        if (ends_group) number++;
        if (ends && !is_last) number = share_of(next_chunk, next->share, next->longer);
        if (is_last && job.cuts != NULL && threadIdx.x == 0) {
            decode_cut *cut = &job.cuts[blockIdx.x];
            cut->is_cut = strip->chunk_first == 0 && !is_whole(*strip);
            if (cut->is_cut) cut->strip = *strip, cut->plan = plan;
        }
        at = next_at, strip = next, chunk = next_chunk, keys = next_keys;
    }
}

/* ---- merging ------------------------------------------------------------------------ */

/* One head's 4 dims of a lane. */
typedef struct {
    float max, sum, values[4];
} lane_state;

static __device__ __forceinline__ lane_state lane_state_of(float4 values, float2 max_sum)
{
    lane_state state = {max_sum.x, max_sum.y, {values.x, values.y, values.z, values.w}};
    return state;
}

static __device__ __forceinline__ void lane_fold(lane_state *state, const lane_state &later)
{
    float keep, add;
    fold(&state->max, &state->sum, later.max, later.sum, &keep, &add);
    for (int d = 0; d < 4; d++) {
        state->values[d] = fold_value(state->values[d], later.values[d], keep, add);
    }
}

template <typename T>
static __device__ __forceinline__ void lane_store(const attention_paged_view &view, int64_t row,
                                                  int head, const lane_state &state)
{
    float scale = 1.0f / state.sum;
    T *out = (T *)view.out + (row * view.heads + head) * ATTENTION_DIM;
    *(uint2 *)(out + threadIdx.x % WARP_LANES * 4) =
        make_uint2(pack2<T>(state.values[0] * scale, state.values[1] * scale),
                   pack2<T>(state.values[2] * scale, state.values[3] * scale));
}

/* ---- kernels ----------------------------------------------------------------------- */

template <typename T>
static __global__ void __launch_bounds__(DECODE_THREADS, DECODE_BLOCKS)
decode_kernel(decode_job job)
{
    DYNAMIC_SHARED(memory);
    decode_shared *shared = (decode_shared *)memory;
    decode_plan plan;
    ptx_release_next();
    if (!run_find(shared, &plan, job)) {
        ptx_wait_for_previous();
        if (job.cuts != NULL && threadIdx.x == 0) job.cuts[blockIdx.x].is_cut = false;
        return;
    }
    run_chunks<T>(shared, job, plan);
}

/* Fold parts: `left` and `begins` have a bit for each lane that knows a part, and for each whose
 * part begins a group. Finished groups go to *row; the last stays in *group. */
template <int PARTS>
static __device__ __forceinline__ void fold_parts(lane_state *row, lane_state *group, int *groups,
                                                  const decode_job &job, unsigned left,
                                                  unsigned begins, int place, int head)
{
    while (left != 0) {
        float4 values[PARTS];
        float2 max_sum[PARTS];
        unsigned rest = left;
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
            if (rest == 0) continue;
            const decode_part *part = job.parts + __shfl_sync(FULL_WARP, place,
                                                              __ffs((int)rest) - 1);
            rest &= rest - 1;
            values[p] = *(const float4 *)&part->values[head][threadIdx.x % WARP_LANES * 4];
            max_sum[p] = part->max_sum[head];
        }
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
            if (left == 0) continue;
            lane_state part = lane_state_of(values[p], max_sum[p]);
            if ((left & -left & begins) == 0) {
                lane_fold(group, part);
            } else {
                if (*groups == 1) *row = *group;
                else if (*groups > 1) lane_fold(row, *group);
                *group = part;
                ++*groups;
            }
            left &= left - 1;
        }
    }
}

/* A block for a head of a sequence: each warp folds groups of a row, then one folds these. */
template <typename T>
static __global__ void __launch_bounds__(MERGE_WARPS * WARP_LANES, 2)
merge_kernel(decode_job job)
{
    __shared__ float4 values[GROUPS_MAX][WARP_LANES];
    __shared__ float2 max_sum[GROUPS_MAX];
    __shared__ int prefix[2][MERGE_WARPS], sequence_begin;
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    int number = (int)(blockIdx.x / (unsigned)job.view.heads);
    int head = (int)blockIdx.x - number * job.view.heads;
    int of_kv = head % job.ratio, tile = head / job.ratio * job.tiles_per_kv + of_kv / HEADS;
    ptx_release_next();
    int chunks = 0, groups = 0, all_chunks, all_groups;
    if ((int)threadIdx.x < job.view.sequence_count) {
        sequence_measure(&chunks, &groups, job, sequence_load(job.view, (int)threadIdx.x));
    }
    chunks = block_prefix(chunks, &all_chunks, prefix[0]);
    groups = block_prefix(groups, &all_groups, prefix[1]);
    decode_plan plan = plan_of(job, all_chunks, all_groups);
    if ((int)threadIdx.x == number) sequence_begin = plan.by_group ? groups : chunks;
    __syncthreads();
    agl_attention_sequence sequence = sequence_load(job.view, number);
    int rows = sequence.row_count > DECODE_ROWS ? 0 : sequence.row_count;
    for (int r = 0, begin = sequence_begin; r < rows; r++) {
        decode_strip strip = {};
        strip.keys = row_keys(sequence, r);
        strip_measure(&strip, plan.by_group);
        strip.begin = begin + tile * strip.units;
        strip.row = sequence.row_first + r;
        begin += strip.units * job.tiles;
        if (strip.units == 0 ||
            run_of(plan, strip.begin) == run_of(plan, strip.begin + strip.units - 1)) {
            continue;
        }
        for (int g = warp; g < strip.groups; g += MERGE_WARPS) {
            int group_begin = group_first(strip, g), group_end = group_first(strip, g + 1);
            int groups_seen = 0;
            lane_state row = {}, group = {};
            for (int first = group_begin; first < group_end; first += WARP_LANES) {
                int chunk = first + lane, place = -1;
                if (chunk < group_end) place = part_place(job, plan, strip, g, chunk);
                unsigned left = __ballot_sync(FULL_WARP, place >= 0);
                ptx_wait_for_previous();
                fold_parts<MERGE_PARTS>(&row, &group, &groups_seen, job, left,
                                        first == group_begin ? 1u : 0u, place, of_kv % HEADS);
            }
            values[g][lane] = make_float4(group.values[0], group.values[1], group.values[2],
                                          group.values[3]);
            if (lane == 0) max_sum[g] = make_float2(group.max, group.sum);
        }
        __syncthreads();
        if (warp == 0) {
            lane_state row = {};
#pragma unroll 2
            for (int g = 0; g < strip.groups; g++) {
                lane_state later = lane_state_of(values[g][lane], max_sum[g]);
                if (g == 0) row = later;
                else lane_fold(&row, later);
            }
            lane_store<T>(job.view, strip.row, head, row);
        }
        __syncthreads();
    }
    ptx_wait_for_previous();
}

/* The same for many rows: a block goes for the row that a run begins and does not end, a warp for
 * one of its heads. */
template <typename T>
static __global__ void __launch_bounds__(MERGE_RUN_WARPS * WARP_LANES, 3)
merge_run_kernel(decode_job job)
{
    int lane = threadIdx.x % WARP_LANES;
    int head = (int)blockIdx.y * MERGE_RUN_WARPS + (int)threadIdx.x / WARP_LANES;
    ptx_release_next();
    ptx_wait_for_previous();
    const decode_cut cut = job.cuts[blockIdx.x];
    if (!cut.is_cut || head >= cut.strip.head_count) return;
    const decode_strip &strip = cut.strip;
    lane_state row = {}, group = {};
    int groups = 0;
    for (int first = 0; first < strip.chunks; first += WARP_LANES) {
        int chunk = first + lane, place = -1;
        bool begins = false;
        if (chunk < strip.chunks) {
            int number = share_of(chunk, strip.share, strip.longer);
            begins = chunk == group_first(strip, number);
            place = part_place(job, cut.plan, strip, number, chunk);
        }
        fold_parts<MERGE_RUN_PARTS>(&row, &group, &groups, job,
                                    __ballot_sync(FULL_WARP, place >= 0),
                                    __ballot_sync(FULL_WARP, begins), place, head);
    }
    if (groups > 1) lane_fold(&row, group);
    else row = group;
    lane_store<T>(job.view, strip.row, strip.head_first + head, row);
}

/* ---- launcher ---------------------------------------------------------------------- */

static int tiles_of(int64_t heads, int64_t kv_heads)
{
    return (int)(kv_heads * ((heads / kv_heads + HEADS - 1) / HEADS));
}

/* Blocks of the first kernel that stay resident; the system keeps 1 KB of each one's memory. */
static int64_t resident_blocks(const agl_cuda *cuda)
{
    int64_t each = (int64_t)(cuda->shared_bytes_max / (sizeof(decode_shared) + 1024));
    if (each < 1) each = 1;
    return cuda->processors * (each < DECODE_BLOCKS ? each : DECODE_BLOCKS);
}

/* Chunks of the longest group that a run may have without its first. */
static int loose_chunks_of(int64_t context_max)
{
    int chunks = chunk_count((int)context_max);
    if (chunks <= GROUPS_MAX * GROUP_CHUNKS) return GROUP_CHUNKS - 1;
    return (chunks + GROUPS_MAX - 1) / GROUPS_MAX - 1;
}

static int loose_chunks_kept(const agl_backend_limits *limits)
{
    int loose = loose_chunks_of(limits->context_max);
    return loose < LOOSE_CHUNKS_MAX ? loose : LOOSE_CHUNKS_MAX;
}

static int parts_of_run(const agl_backend_limits *limits)
{
    return loose_chunks_kept(limits) + 2 * GROUPS_MAX;
}

template <typename T>
static agl_status decode_launch(agl_stream *stream, const decode_job &job)
{
    AGL_TRY(cuda_launch_early(stream, decode_kernel<T>, dim3((unsigned)job.runs_max),
                              dim3(DECODE_THREADS), sizeof(decode_shared), job));
    if (job.runs_max == 1) return AGL_OK;
    if (job.cuts != NULL) {
        dim3 grid((unsigned)job.runs_max, HEADS / MERGE_RUN_WARPS);
        return cuda_launch_early(stream, merge_run_kernel<T>, grid,
                                 dim3(MERGE_RUN_WARPS * WARP_LANES), 0, job);
    }
    return cuda_launch_early(stream, merge_kernel<T>,
                             dim3((unsigned)(job.view.heads * job.view.sequence_count)),
                             dim3(MERGE_WARPS * WARP_LANES), 0, job);
}

agl_status agl_cuda_attention_decode(agl_stream *stream, const agl_attention_paged_args *args)
{
    const agl_cuda *cuda = agl_cuda_of(stream);
    if (cuda->attention_space.bytes < agl_cuda_attention_decode_bytes(cuda, &cuda->limits)) {
        return AGL_ERR_ARGUMENT;
    }
    decode_job job = {};
    job.view = attention_view(args);
    job.ratio = job.view.heads / job.view.kv_heads;
    job.tiles_per_kv = (job.ratio + HEADS - 1) / HEADS;
    job.tiles = tiles_of(args->heads, args->kv.kv_heads);

    int64_t blocks = resident_blocks(cuda), chunks = chunk_count(job.view.context_max);
    int64_t rows_max = args->sequence_count * DECODE_ROWS;
    int64_t work = (args->rows < rows_max ? args->rows : rows_max) * job.tiles * chunks;
    job.runs_max = (int)(work < blocks ? work : blocks);
    job.loose_chunks = loose_chunks_kept(&cuda->limits);
    job.may_cut_groups = loose_chunks_of(job.view.context_max) <= job.loose_chunks;
    job.parts = (decode_part *)cuda->attention_space.data;
    /* With few rows all groups of a head are merged at once, by blocks that wait for that work. */
    if (args->heads * args->sequence_count > 2 * cuda->processors ||
        args->sequence_count > MERGE_WARPS * WARP_LANES) {
        job.cuts = (decode_cut *)(job.parts + blocks * parts_of_run(&cuda->limits));
    }
    bool half = stream->backend->activation == AGL_F16;
    return half ? decode_launch<__half>(stream, job) : decode_launch<__nv_bfloat16>(stream, job);
}

uint64_t agl_cuda_attention_decode_bytes(const agl_cuda *cuda, const agl_backend_limits *limits)
{
    uint64_t run_bytes = (uint64_t)parts_of_run(limits) * sizeof(decode_part) + sizeof(decode_cut);
    return (uint64_t)resident_blocks(cuda) * run_bytes;
}
