/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_wgmma.cu - attention_tiles.cu's work on Hopper (sm_90a): warpgroup products, K and V
 * brought by tensor copies.
 *
 *   q, k, v, out, pages   as in backend.h, 16-bit activations, head_dim 128
 *
 * Needs     compute capability 9.0 and code for sm_90a; head_dim == 128; all rows 16-byte aligned;
 *           paged: page_tokens % 16 == 0, sequences with more than DECODE_ROWS rows (the others are
 *           passed over), context <= context_max. The launchers decline the rest.
 * Bound     tensor cores: 4 * 128 operations a query row, head and key.
 * Grid      a block of 3 warpgroups for 128 rows of one kv head; rows and the order of tiles as in
 *           attention_tiles.cu. A warp of the first group brings half the dims of K or of V, 128
 *           keys at a time, two tiles ahead; the other groups own 64 rows each.
 * Numerics  F32 sums of 16-bit products over blocks of 128 keys from key 0 on, weights rounded to
 *           16 bit before they meet V. Weights are 2^(score - m), where m follows the row's maximum
 *           only when that is more than 8 ahead. A row's bits depend on its own keys alone.
 *
 * The scores of a block of keys are computed beside the values of the block before, so the tensor
 * cores have work while a group takes exponents; and the two groups take turns in issuing products,
 * which keeps one's exponents under the other's products. Q lies in shared memory, weights go from
 * the registers they arise in straight into the second product.
 *
 * A tile of K or V is [2][128 keys][128 bytes]: 64 dims are a row of 128 bytes, which is as far as
 * the swizzle of tensor copies reaches. Keys behind the end of a picture or a sequence are zeros:
 * the copies leave them out, but for those of the last, partly written 16 of a page, whose values
 * are cleared here (they may hold anything, and 0 * NaN is not 0). */
#include "backend/cuda/attention.cuh"

#if PTX_WGMMA

#include <cuda.h>

#define GROUP_THREADS 128
#define CONSUMERS 2                  /* warpgroups that multiply                         */
#define BLOCK_THREADS (GROUP_THREADS * (1 + CONSUMERS))
#define GROUP_ROWS 64
#define TILE_ROWS (GROUP_ROWS * CONSUMERS)
#define TILE_KEYS 128
#define STAGES 2                     /* tiles of K, and of V                             */
#define HALF_ROW 128                 /* bytes of 64 dims                                 */
#define HALF_TILE (TILE_KEYS * HALF_ROW)
#define HALF_GROUP (GROUP_ROWS * HALF_ROW)
#define EIGHT_ROWS (8 * HALF_ROW)
#define COPY_KEYS 16                 /* from pages                                       */
#define RISE_MAX 8.0f                /* exponents of 2: weights up to 256 are harmless   */
#define SEGMENTS_MAX 16              /* of a launch                                      */
#define SHARED_ALIGN 1024            /* the swizzle's period                             */

/* Of a thread: 3 x 128 of them start with an equal share, copies need few, products many. */
#define REGISTERS_START 168
#define REGISTERS_PRODUCER 40
#define REGISTERS_CONSUMER 232

/* Barriers 1, 2: a consumer's turn; 3, 4: the threads of a consumer. */
#define BARRIER_TURN 1
#define BARRIER_GROUP (BARRIER_TURN + CONSUMERS)

/* Segments of a launch, by value. maps: the segment's rows of qkv, so that no other's are read. */
typedef struct {
    CUtensorMap maps[SEGMENTS_MAX];
    const void *qkv;
    void *out;
    int heads, segment_count;
    int first[SEGMENTS_MAX];         /* token                                            */
    int tokens[SEGMENTS_MAX];
    int tile_end[SEGMENTS_MAX];      /* tiles of this segment and those before           */
    float scale_log2;
} dense_call;

typedef struct {
    CUtensorMap k, v;                /* [pages * kv_heads * page_tokens, head_dim]       */
    attention_paged_view view;
} paged_call;

/* What a block works on. Row f of the flat rows is head f % ratio of token f / ratio. */
typedef struct {
    int row_first;                   /* flat                                             */
    int row_count;                   /* flat rows there are, this tile's from row_first  */
    int ratio;
    int keys;                        /* seen by the last token of the tile               */
    int keys_all;                    /* seen by all its tokens                           */
    int keys_before;                 /* token i sees keys_before + i + 1; unused if dense */
    const void *q;                   /* token 0, the kv head's first query head          */
    void *out;
    int64_t q_stride, out_stride;    /* elements from token to token                     */
    const CUtensorMap *k_map, *v_map;
    int k_column, v_column;          /* of the head in a row of the maps                 */
    int page_table, kv_head;         /* paged                                            */
    const attention_paged_view *view;
} tile_work;

typedef struct {
    unsigned char k[STAGES][2 * HALF_TILE], v[STAGES][2 * HALF_TILE];
    unsigned char q[CONSUMERS][2 * HALF_GROUP];  /* at the end the group's results       */
    uint64_t k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
} tile_shared;

#if PTX_WGMMA_CODE

static __device__ __forceinline__ tile_shared *shared_begin(unsigned char *memory)
{
    uint32_t past = ptx_shared_address(memory) % SHARED_ALIGN;
    return (tile_shared *)(memory + (past == 0 ? 0 : SHARED_ALIGN - past));
}

/* Piece p of row r in [2][rows][128 bytes]. */
static __device__ __forceinline__ unsigned char *half_piece(unsigned char *tile, int half_bytes,
                                                            int row, int piece)
{
    return tile + piece / 8 * half_bytes + row * HALF_ROW + (((piece ^ row) & 7) << 4);
}

/* ---- finding work ------------------------------------------------------------------- */

/* The block's work, found by each warp for itself; false: there is none. */
template <typename T>
static __device__ __forceinline__ bool work_find(const dense_call &call, tile_work *work)
{
    int tile = (int)blockIdx.x, head = (int)blockIdx.y, segment = 0;
    while (segment + 1 < call.segment_count && tile >= call.tile_end[segment]) segment++;
    if (segment > 0) tile -= call.tile_end[segment - 1];
    int64_t width = (int64_t)call.heads * ATTENTION_DIM;
    work->row_first = tile * TILE_ROWS;
    work->row_count = work->keys = work->keys_all = call.tokens[segment];
    work->ratio = 1;
    work->keys_before = 0;
    work->q_stride = 3 * width;
    work->out_stride = width;
    work->q = (const T *)call.qkv + call.first[segment] * 3 * width + head * ATTENTION_DIM;
    work->out = (T *)call.out + call.first[segment] * width + head * ATTENTION_DIM;
    work->k_map = work->v_map = &call.maps[segment];
    work->k_column = (call.heads + head) * ATTENTION_DIM;
    work->v_column = (2 * call.heads + head) * ATTENTION_DIM;
    work->view = NULL;
    return true;
}

template <typename T>
static __device__ __forceinline__ bool work_find(const paged_call &call, tile_work *work)
{
    const attention_paged_view &view = call.view;
    int number = (int)blockIdx.x / view.kv_heads, ratio = view.heads / view.kv_heads, tile;
    agl_attention_sequence sequence;
    if (!tile_find(&sequence, &tile, view, ratio, TILE_ROWS, number)) return false;
    work->kv_head = (int)blockIdx.x % view.kv_heads;
    work->row_first = tile * TILE_ROWS;
    work->row_count = sequence.row_count * ratio;
    work->ratio = ratio;
    work->keys_before = sequence.context - sequence.row_count;
    int token_last = (min(work->row_first + TILE_ROWS, work->row_count) - 1) / ratio;
    work->keys = work->keys_before + token_last + 1;
    work->keys_all = work->keys_before + work->row_first / ratio + 1;
    int head = work->kv_head * ratio;
    work->q_stride = view.q_stride;
    work->out_stride = (int64_t)view.heads * ATTENTION_DIM;
    work->q = (const T *)view.q + sequence.row_first * work->q_stride + head * ATTENTION_DIM;
    work->out = (T *)view.out + sequence.row_first * work->out_stride + head * ATTENTION_DIM;
    work->k_map = &call.k, work->v_map = &call.v;
    work->k_column = work->v_column = 0;
    work->page_table = sequence.page_table;
    work->view = &view;
    return work->keys > 0;
}

/* ---- copies of K and V ------------------------------------------------------------ */

/* Row of the maps where a lane's 16 keys begin; behind the end: outside, which copies as zeros. */
template <bool PAGED>
static __device__ __forceinline__ int copy_row(const tile_work &work, int first)
{
    if (!PAGED) return first;
    int key = first + (int)threadIdx.x % WARP_LANES * COPY_KEYS;
    if (key >= work.keys) return -COPY_KEYS;
    return (int)key_slot(*work.view, work.page_table, work.kv_head, key);
}

/* A warp brings one half of the dims of K or of V. */
template <bool PAGED>
static __device__ __forceinline__ void produce(tile_shared *shared, const tile_work &work)
{
    int warp = __shfl_sync(FULL_WARP, (int)threadIdx.x / WARP_LANES, 0), half = warp % 2;
    int lane = threadIdx.x % WARP_LANES, next = copy_row<PAGED>(work, 0);
    bool is_v = warp >= 2, copies = lane < (PAGED ? TILE_KEYS / COPY_KEYS : 1);
    uint64_t *full = is_v ? shared->v_full : shared->k_full;
    uint64_t *empty = is_v ? shared->v_empty : shared->k_empty;
    unsigned char *tiles = (is_v ? shared->v[0] : shared->k[0]) + half * HALF_TILE +
                           lane * COPY_KEYS * HALF_ROW;
    const CUtensorMap *map = is_v ? work.v_map : work.k_map;
    int column = (is_v ? work.v_column : work.k_column) + half * (ATTENTION_DIM / 2);
    for (int first = 0; first < work.keys; first += TILE_KEYS) {
        int turn = first / TILE_KEYS, stage = turn % STAGES, row = next;
        if (first + TILE_KEYS < work.keys) next = copy_row<PAGED>(work, first + TILE_KEYS);
        ptx_mbarrier_wait(&empty[stage], (turn / STAGES + 1) & 1);
        if (lane == 0) ptx_mbarrier_expect(&full[stage], HALF_TILE);
        __syncwarp();
        if (copies) ptx_tensor_load(tiles + stage * 2 * HALF_TILE, map, column, row, &full[stage]);
    }
}

/* ---- the products ------------------------------------------------------------------- */

/* A thread's share of a warpgroup: row r (0, 1) is 16 warp + 8 r + lane / 4 of the group's; its
 * values of columns 8 n + 2 (lane % 4) + c are at [4 n + 2 r + c]. */
typedef struct {
    float values[ATTENTION_DIM / 2];
    float scores[TILE_KEYS / 2];     /* later the weights                                */
    uint32_t weights[TILE_KEYS / 4]; /* packed as a of the second product                */
    float max[2], sum[2];            /* a recent maximum of q k; this thread's part      */
} group_state;

template <typename T>
static __device__ __forceinline__ void group_load_q(unsigned char *q, const tile_work &work,
                                                    int group)
{
    const int step = GROUP_THREADS / ROW_PIECES;
    int thread = threadIdx.x % GROUP_THREADS, piece = thread % ROW_PIECES;
    int flat = work.row_first + group * GROUP_ROWS + thread / ROW_PIECES;
    int token = flat / work.ratio, head = flat - token * work.ratio;
    int step_tokens = step / work.ratio, step_heads = step - step_tokens * work.ratio;
    uint4 values[GROUP_ROWS / step];
#pragma unroll
    for (int i = 0; i < GROUP_ROWS / step; i++) {
        values[i] = make_uint4(0, 0, 0, 0);
        if (flat + i * step < work.row_count) {
            values[i] = *(const uint4 *)((const T *)work.q + token * work.q_stride +
                                         head * ATTENTION_DIM + piece * 8);
        }
        token += step_tokens, head += step_heads;
        if (head >= work.ratio) head -= work.ratio, token++;
    }
#pragma unroll
    for (int i = 0; i < GROUP_ROWS / step; i++) {
        *(uint4 *)half_piece(q, HALF_GROUP, i * step + thread / ROW_PIECES, piece) = values[i];
    }
    ptx_fence_shared_async();
    ptx_barrier_wait(BARRIER_GROUP + group, GROUP_THREADS);
}

template <typename T>
static __device__ __forceinline__ void issue_scores(group_state *state, uint64_t q, uint64_t k)
{
    ptx_wgmma_fence();
#pragma unroll
    for (int i = 0; i < ATTENTION_DIM / 16; i++) {
        ptx_wgmma_ss<T>(state->scores, q + (i / 4 * HALF_GROUP + i % 4 * 32) / 16,
                        k + (i / 4 * HALF_TILE + i % 4 * 32) / 16, i > 0);
    }
    ptx_wgmma_commit();
}

template <typename T>
static __device__ __forceinline__ void issue_values(group_state *state, uint64_t v)
{
    ptx_wgmma_fence();
#pragma unroll
    for (int i = 0; i < TILE_KEYS / 16; i++) {
        ptx_wgmma_rs<T>(state->values, &state->weights[4 * i], v + i * 2 * EIGHT_ROWS / 16);
    }
    ptx_wgmma_commit();
}

/* Scores of keys that a row does not see become -inf. Rows past the end see what the last sees. */
template <bool PAGED>
static __device__ __forceinline__ void group_mask(group_state *state, const tile_work &work,
                                                  int group, int first)
{
    int thread = threadIdx.x % GROUP_THREADS, lane = thread % WARP_LANES;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = thread / WARP_LANES * 16 + r * 8 + lane / 4;
        int flat = work.row_first + group * GROUP_ROWS + row;
        int keys = work.keys;
        if (PAGED) keys = min(work.keys_before + flat / work.ratio + 1, work.keys);
        int left = keys - first - lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < TILE_KEYS / 8; n++) {
            if (n * 8 >= left) state->scores[4 * n + 2 * r] = -INFINITY;
            if (n * 8 + 1 >= left) state->scores[4 * n + 2 * r + 1] = -INFINITY;
        }
    }
}

/* Scores to weights; keep[r]: what the row's values so far are still to be multiplied with. */
static __device__ __forceinline__ void group_weights(group_state *state, float keep[2],
                                                     float scale_log2)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float max = state->max[r];
#pragma unroll
        for (int n = 0; n < TILE_KEYS / 8; n++) {
            max = fmaxf(max, fmaxf(state->scores[4 * n + 2 * r], state->scores[4 * n + 2 * r + 1]));
        }
        max = fmaxf(max, __shfl_xor_sync(FULL_WARP, max, 1));
        max = fmaxf(max, __shfl_xor_sync(FULL_WARP, max, 2));
        float rise = (max - state->max[r]) * scale_log2;
        keep[r] = rise > RISE_MAX ? ptx_exp2(-rise) : 1.0f;
        if (rise > RISE_MAX) state->max[r] = max;
        float shift = -state->max[r] * scale_log2, sum = 0.0f;
#pragma unroll
        for (int n = 0; n < TILE_KEYS / 8; n++) {
            float *s = &state->scores[4 * n + 2 * r];
            s[0] = ptx_exp2(fmaf(s[0], scale_log2, shift));
            s[1] = ptx_exp2(fmaf(s[1], scale_log2, shift));
            sum += s[0] + s[1];
        }
        state->sum[r] = fmaf(state->sum[r], keep[r], sum);
    }
}

/* Once no product reads the weights before and none adds to the values any more. */
template <typename T>
static __device__ __forceinline__ void group_take(group_state *state, const float keep[2])
{
    /* Seldom after the first blocks of keys; for a row that keeps its maximum nothing changes. */
    if (__any_sync(FULL_WARP, keep[0] != 1.0f || keep[1] != 1.0f)) {
#pragma unroll
        for (int i = 0; i < ATTENTION_DIM / 2; i++) state->values[i] *= keep[i / 2 % 2];
    }
#pragma unroll
    for (int i = 0; i < TILE_KEYS / 4; i++) {
        state->weights[i] = pack_weights<T>(state->scores[2 * i], state->scores[2 * i + 1]);
    }
}

/* One lane of each warp says that the warp has read a tile. */
static __device__ __forceinline__ void tile_release(uint64_t *empty)
{
    if (threadIdx.x % WARP_LANES == 0) ptx_mbarrier_arrive(empty);
}

/* Values of the keys that the last copies brought from behind the sequence's end. */
static __device__ __forceinline__ void clear_tail(unsigned char *v, const tile_work &work,
                                                  int group)
{
    int keys = (work.keys - 1) % TILE_KEYS + 1, thread = threadIdx.x % GROUP_THREADS;
    int end = (keys + COPY_KEYS - 1) / COPY_KEYS * COPY_KEYS;
    if (keys == end) return;
    for (int row = keys + thread / ROW_PIECES; row < end; row += GROUP_THREADS / ROW_PIECES) {
        *(uint4 *)half_piece(v, HALF_TILE, row, thread % ROW_PIECES) = make_uint4(0, 0, 0, 0);
    }
    ptx_fence_shared_async();
    ptx_barrier_wait(BARRIER_GROUP + group, GROUP_THREADS);
}

/* Out through the warp's own rows of Q, so that whole 16-byte pieces leave. */
template <typename T>
static __device__ __forceinline__ void group_store(group_state *state, unsigned char *q,
                                                   const tile_work &work, int group)
{
    int thread = threadIdx.x % GROUP_THREADS, lane = thread % WARP_LANES;
    int row = thread / WARP_LANES * 16;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = state->sum[r];
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        sum += __shfl_xor_sync(FULL_WARP, sum, 2);
        float scale = __fdividef(1.0f, sum);
#pragma unroll
        for (int n = 0; n < ATTENTION_DIM / 8; n++) {
            const float *values = &state->values[4 * n + 2 * r];
            unsigned char *piece = half_piece(q, HALF_GROUP, row + 8 * r + lane / 4, n);
            *(uint32_t *)(piece + lane % 4 * 4) = pack2<T>(values[0] * scale, values[1] * scale);
        }
    }
    __syncwarp();
    for (int r = lane / ROW_PIECES; r < 16; r += WARP_LANES / ROW_PIECES) {
        int flat = work.row_first + group * GROUP_ROWS + row + r, piece = lane % ROW_PIECES;
        if (flat >= work.row_count) break;
        int token = flat / work.ratio, head = flat - token * work.ratio;
        T *out = (T *)work.out + token * work.out_stride + head * ATTENTION_DIM + piece * 8;
        *(uint4 *)out = *(const uint4 *)half_piece(q, HALF_GROUP, row + r, piece);
    }
}

template <typename T, bool PAGED>
static __device__ __forceinline__ void consume(tile_shared *shared, const tile_work &work,
                                               int group, float scale_log2)
{
    group_state state;
    float keep[2];
    int blocks = (work.keys + TILE_KEYS - 1) / TILE_KEYS, last = blocks - 1;
    uint64_t q = ptx_wgmma_matrix(shared->q[group], EIGHT_ROWS, 0);
    uint64_t k = ptx_wgmma_matrix(shared->k, EIGHT_ROWS, 0);
    uint64_t v = ptx_wgmma_matrix(shared->v, EIGHT_ROWS, HALF_TILE);
    group_load_q<T>(shared->q[group], work, group);
#pragma unroll
    for (int i = 0; i < ATTENTION_DIM / 2; i++) state.values[i] = 0.0f;
    state.max[0] = state.max[1] = -INFINITY;
    state.sum[0] = state.sum[1] = 0.0f;
    if (group == 1) ptx_barrier_arrive(BARRIER_TURN, CONSUMERS * GROUP_THREADS);

    ptx_mbarrier_wait(&shared->k_full[0], 0);
    issue_scores<T>(&state, q, k);
    ptx_wgmma_wait<0>();
    ptx_wgmma_sums(state.scores);
    tile_release(&shared->k_empty[0]);
    if (TILE_KEYS > work.keys_all) group_mask<PAGED>(&state, work, group, 0);
    group_weights(&state, keep, scale_log2);
    group_take<T>(&state, keep);

    if (last > 0) ptx_mbarrier_wait(&shared->k_full[1 % STAGES], 0);
    for (int n = 1; n < blocks; n++) {
        int stage = n % STAGES, before = (n - 1) % STAGES;
        ptx_barrier_wait(BARRIER_TURN + group, CONSUMERS * GROUP_THREADS);
        issue_scores<T>(&state, q, k + stage * 2 * HALF_TILE / 16);
        ptx_mbarrier_wait(&shared->v_full[before], (n - 1) / STAGES & 1);
        issue_values<T>(&state, v + before * 2 * HALF_TILE / 16);
        if (group == 0 || n < last) {
            ptx_barrier_arrive(BARRIER_TURN + 1 - group, CONSUMERS * GROUP_THREADS);
        }
        ptx_wgmma_wait<1>();
        ptx_wgmma_sums(state.scores);
        tile_release(&shared->k_empty[stage]);
        if ((n + 1) * TILE_KEYS > work.keys_all) {
            group_mask<PAGED>(&state, work, group, n * TILE_KEYS);
        }
        group_weights(&state, keep, scale_log2);
        /* Without a branch in between, the compiler takes the exponents behind the second wait. */
        ptx_wgmma_sums(state.scores);
        if (n < last) {
            ptx_mbarrier_wait(&shared->k_full[(n + 1) % STAGES], (n + 1) / STAGES & 1);
        }
        ptx_wgmma_wait<0>();
        ptx_wgmma_sums(state.values);
        tile_release(&shared->v_empty[before]);
        group_take<T>(&state, keep);
    }

    int stage = last % STAGES;
    ptx_mbarrier_wait(&shared->v_full[stage], last / STAGES & 1);
    if (PAGED) clear_tail(shared->v[stage], work, group);
    issue_values<T>(&state, v + stage * 2 * HALF_TILE / 16);
    ptx_wgmma_wait<0>();
    ptx_wgmma_sums(state.values);
    ptx_barrier_wait(BARRIER_GROUP + group, GROUP_THREADS); /* nobody reads Q any more */
    group_store<T>(&state, shared->q[group], work, group);
}

/* Barriers are ready for all threads behind a barrier of the block. */
static __device__ __forceinline__ void barriers_init(tile_shared *shared)
{
    for (int i = 0; i < STAGES; i++) {
        ptx_mbarrier_init(&shared->k_full[i], 2);
        ptx_mbarrier_init(&shared->v_full[i], 2);
        ptx_mbarrier_init(&shared->k_empty[i], CONSUMERS * GROUP_THREADS / WARP_LANES);
        ptx_mbarrier_init(&shared->v_empty[i], CONSUMERS * GROUP_THREADS / WARP_LANES);
    }
    ptx_mbarrier_publish();
}

template <typename T, bool PAGED, typename CALL>
static __device__ __forceinline__ void block_run(const CALL &call, float scale_log2)
{
    DYNAMIC_SHARED(memory);
    tile_shared *shared = shared_begin(memory);
    int group = __shfl_sync(FULL_WARP, (int)threadIdx.x / GROUP_THREADS, 0);
    tile_work work;
    if (threadIdx.x == 0) barriers_init(shared);
    __syncthreads();
    ptx_wait_for_previous();
    ptx_release_next();
    if (!work_find<T>(call, &work)) return;
    if (group == 0) {
        ptx_registers_fewer<REGISTERS_PRODUCER>();
        produce<PAGED>(shared, work);
    } else {
        ptx_registers_more<REGISTERS_CONSUMER>();
        consume<T, PAGED>(shared, work, group - 1, scale_log2);
    }
}

#endif

/* ---- kernels --------------------------------------------------------------------------- */

template <typename T>
static __global__ void __launch_bounds__(BLOCK_THREADS, 1)
wgmma_dense_kernel(const __grid_constant__ dense_call call)
{
#if PTX_WGMMA_CODE
    block_run<T, false>(call, call.scale_log2);
#endif
}

template <typename T>
static __global__ void __launch_bounds__(BLOCK_THREADS, 1)
wgmma_paged_kernel(const __grid_constant__ paged_call call)
{
#if PTX_WGMMA_CODE
    block_run<T, true>(call, call.view.scale_log2);
#endif
}

/* ---- launchers -------------------------------------------------------------------------- */

/* The driver's encoder. A build for sm_90 that lacks the `a`, or has but PTX, holds kernels without
 * a body, which need next to no registers. */
extern "C" void agl_cuda_attention_find(agl_cuda *cuda)
{
    cudaFuncAttributes attributes = {};
    cudaDriverEntryPointQueryResult found;
    const void *kernel = (const void *)wgmma_dense_kernel<__half>;
    void *encode = NULL;
    if (cuda->capability != 90 || cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess ||
        attributes.numRegs < REGISTERS_START) {
        return;
    }
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000,
                                         cudaEnableDefault, &found) == cudaSuccess &&
        found == cudaDriverEntryPointSuccess) {
        cuda->tensor_map_encode = encode;
    }
}

/* A matrix of 16-bit values of which copies take 64 columns of `box_rows` rows. */
static agl_status map_encode(const agl_stream *stream, CUtensorMap *map, const void *memory,
                             int64_t columns, int64_t rows, int64_t row_bytes, int box_rows)
{
    const agl_cuda *cuda = agl_cuda_of(stream);
    auto encode = (decltype(&cuTensorMapEncodeTiled))cuda->tensor_map_encode;
    cuuint64_t sizes[2] = {(cuuint64_t)columns, (cuuint64_t)rows};
    cuuint64_t strides[1] = {(cuuint64_t)row_bytes};
    cuuint32_t box[2] = {ATTENTION_DIM / 2, (cuuint32_t)box_rows}, steps[2] = {1, 1};
    CUtensorMapDataType type = cuda->base.activation == AGL_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                                : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    CUresult result = encode(map, type, 2, (void *)(uintptr_t)memory, sizes, strides, box, steps,
                             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? AGL_OK : AGL_ERR_DEVICE;
}

static const size_t SHARED_BYTES = sizeof(tile_shared) + SHARED_ALIGN;

agl_status agl_cuda_attention_wgmma_paged(agl_stream *stream, const agl_attention_paged_args *args)
{
    const agl_kv_layer *kv = &args->kv;
    if (agl_cuda_of(stream)->tensor_map_encode == NULL || kv->page_tokens % COPY_KEYS != 0) {
        return AGL_ERR_UNSUPPORTED;
    }
    int64_t blocks = paged_blocks(args, TILE_ROWS);
    if (blocks == 0) return AGL_OK;
    /* How many pages there are is not said; rows beyond them are not asked for. */
    paged_call call = {};
    AGL_TRY(map_encode(stream, &call.k, kv->k, ATTENTION_DIM, INT32_MAX, ROW_BYTES, COPY_KEYS));
    AGL_TRY(map_encode(stream, &call.v, kv->v, ATTENTION_DIM, INT32_MAX, ROW_BYTES, COPY_KEYS));
    call.view = attention_view(args);
    bool half = stream->backend->activation == AGL_F16;
    return cuda_launch_early(stream, half ? wgmma_paged_kernel<__half>
                                          : wgmma_paged_kernel<__nv_bfloat16>,
                             dim3((unsigned)blocks), dim3(BLOCK_THREADS), SHARED_BYTES, call);
}

agl_status agl_cuda_attention_wgmma_dense(agl_stream *stream, const agl_attention_dense_args *args)
{
    if (agl_cuda_of(stream)->tensor_map_encode == NULL) return AGL_ERR_UNSUPPORTED;
    bool half = stream->backend->activation == AGL_F16;
    int64_t width = 3 * args->heads * ATTENTION_DIM;
    for (int64_t first = 0; first < args->segment_count; first += SEGMENTS_MAX) {
        dense_call call = {};
        int tiles = 0;
        call.qkv = args->qkv;
        call.out = args->out;
        call.heads = (int)args->heads;
        call.scale_log2 = args->scale * LOG2_E;
        for (int64_t i = first; i < args->segment_count && i < first + SEGMENTS_MAX; i++) {
            int n = call.segment_count++, tokens = args->segments[i + 1] - args->segments[i];
            tiles += tile_count(tokens, 1, TILE_ROWS);
            call.first[n] = args->segments[i];
            call.tokens[n] = tokens;
            call.tile_end[n] = tiles;
            if (tokens == 0) continue;
            const char *rows = (const char *)args->qkv + (int64_t)call.first[n] * width * 2;
            AGL_TRY(map_encode(stream, &call.maps[n], rows, width, tokens, width * 2, TILE_KEYS));
        }
        if (tiles == 0) continue;
        dim3 grid((unsigned)tiles, (unsigned)args->heads);
        AGL_TRY(cuda_launch_early(stream, half ? wgmma_dense_kernel<__half>
                                               : wgmma_dense_kernel<__nv_bfloat16>,
                                  grid, dim3(BLOCK_THREADS), SHARED_BYTES, call));
    }
    return AGL_OK;
}

#else

extern "C" void agl_cuda_attention_find(agl_cuda *cuda)
{
    (void)cuda;
}

agl_status agl_cuda_attention_wgmma_paged(agl_stream *stream, const agl_attention_paged_args *args)
{
    (void)stream, (void)args;
    return AGL_ERR_UNSUPPORTED;
}

agl_status agl_cuda_attention_wgmma_dense(agl_stream *stream, const agl_attention_dense_args *args)
{
    (void)stream, (void)args;
    return AGL_ERR_UNSUPPORTED;
}

#endif
