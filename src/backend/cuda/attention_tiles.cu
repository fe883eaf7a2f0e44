/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_tiles.cu - attention of many query rows: segments of fused rows without a mask
 * (vision), and prefill over pages with a causal one.
 *
 *   q, k, v, out, pages   as in backend.h, 16-bit activations, head_dim 128
 *
 * Needs     head_dim == 128; all rows 16-byte aligned. Paged: sequences with more than
 *           DECODE_ROWS rows; the others are passed over. context <= context_max.
 * Bound     tensor cores: 4 * 128 operations a query row, head and key.
 * Grid      a block of 4 warps for 128 rows of one kv head, or 64 where 128 would leave processors
 *           idle: a row's arithmetic is the same. Dense: a row is a token of the segment.
 *           Paged: a row is a (token, query head of the kv head) pair, heads fastest, so that with
 *           16 heads a tile spans 8 tokens: short chunks fill tiles, and of the keys it reads a
 *           tile masks 8 tokens' worth and not 128. A sequence's last tiles, the longest, start
 *           first. The grid is an upper bound; a block counts from `sequences` what is its own.
 * Numerics  F32 sums of 16-bit products over blocks of 64 keys, weights rounded to 16 bit before
 *           they meet V. Weights are 2^(score - m), where m follows the row's maximum only when
 *           that is more than 8 ahead: the sum divides m out, and values need not be scaled down
 *           for each small rise. A row's bits depend on its own keys alone.
 *
 * A warp of 128 rows owns two m16 tiles, so each fragment of K and V that it loads serves two
 * products: with one, shared memory would bound the kernel at half the rate. Their sums are 128
 * registers, the scores 64; Q is read again from shared memory for every block of keys. K and V
 * have one buffer each: V arrives during q k^T, the next K during softmax and p v. 64 KB of shared
 * memory and 255 registers let two blocks share a processor, one multiplies while the other takes
 * exponents. */
#include "backend/cuda/attention.cuh"

#define TILE_WARPS 4
#define TILE_THREADS (TILE_WARPS * WARP_LANES)
#define TILE_BLOCKS 2                /* on a processor                                   */
#define M_TILES_MAX 2                /* m16 tiles of a warp                              */
#define TILE_ROWS(M) (16 * (M) * TILE_WARPS)
#define TILE_KEYS 64
#define FETCH_ROWS (TILE_THREADS / ROW_PIECES)
#define KEY_STEPS (TILE_KEYS / 8)    /* n8 tiles of the scores                           */
#define DIM_STEPS (ATTENTION_DIM / 8)
#define RISE_MAX 8.0f                /* exponents of 2: weights up to 256 are harmless   */
#define SEGMENTS_MAX 16              /* of a launch                                      */

/* Segments of a launch, by value. */
typedef struct {
    const void *qkv;
    void *out;
    int heads, segment_count;
    int first[SEGMENTS_MAX];         /* token                                            */
    int tokens[SEGMENTS_MAX];
    int tile_end[SEGMENTS_MAX];      /* tiles of this segment and those before           */
    float scale_log2;
} dense_view;

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
    const void *k, *v;               /* dense: key 0 of the head. Paged: page 0          */
    int64_t key_stride;              /* dense: elements                                  */
    int page_table, kv_head;
} tile_work;

typedef struct {
    unsigned char k[TILE_KEYS * ROW_BYTES], v[TILE_KEYS * ROW_BYTES];
    uint32_t slots[2][TILE_KEYS];    /* paged: of this block of keys and the next        */
    /* What follows would be in registers if there were any left. lane_rows, lane_columns: where a
     * lane reads in a tile; loaded for every block of keys, or the compiler keeps all the addresses
     * that follow from them. */
    tile_work work;
    int lane_rows[WARP_LANES], lane_columns[WARP_LANES];
    float sum[2 * M_TILES_MAX][TILE_THREADS]; /* the lane's part of its rows' sums       */
    __align__(128) unsigned char q[TILE_ROWS(M_TILES_MAX) * ROW_BYTES]; /* a small tile has half */
} tile_shared;

/* ---- fetching ---------------------------------------------------------------------- */

template <typename T, int M>
static __device__ __forceinline__ void fetch_q(unsigned char *tile, const tile_work &work)
{
    int piece = threadIdx.x % ROW_PIECES;
    for (int row = threadIdx.x / ROW_PIECES; row < TILE_ROWS(M); row += FETCH_ROWS) {
        bool valid = work.row_first + row < work.row_count;
        int flat = valid ? work.row_first + row : 0;
        int token = flat / work.ratio, head = flat - token * work.ratio;
        const T *from = (const T *)work.q + token * work.q_stride + head * ATTENTION_DIM +
                        piece * 8;
        ptx_cp_async16_or_zero(tile_piece(tile, row, piece), from, valid);
    }
}

/* Rows of keys first .. first + 63; those past the end become zeros. */
template <typename T, bool PAGED>
static __device__ __forceinline__ void fetch_keys(unsigned char *tile, const void *rows,
                                                  const tile_work &work, const uint32_t *slots,
                                                  int first)
{
    int piece = threadIdx.x % ROW_PIECES, row = threadIdx.x / ROW_PIECES;
    int left = work.keys - first - row;
    unsigned char *to = tile_piece(tile, row, piece);
    const T *begin = (const T *)rows + piece * 8;
    const T *from = PAGED ? begin : begin + (first + row) * work.key_stride;
    int64_t stride = PAGED ? 0 : FETCH_ROWS * work.key_stride;
#pragma unroll
    for (int i = 0; i < TILE_KEYS; i += FETCH_ROWS) {
        if (PAGED) from = begin + (int64_t)slots[row + i] * ATTENTION_DIM;
        ptx_cp_async16_or_zero(to + i * ROW_BYTES, i < left ? from : begin, i < left);
        from += stride;
    }
}

/* ---- the products -------------------------------------------------------------------- */

/* Of a warp with M m16 tiles; row [i][h] of a lane is 16 i + 8 h + lane / 4. */
template <int M>
struct tile_state {
    float values[M][DIM_STEPS][4];
    float max[M][2];                 /* a recent maximum of q k                          */
};

template <typename T, int M>
static __device__ __forceinline__ void tile_scores(float s[M][KEY_STEPS][4], tile_shared *shared)
{
    int lane = threadIdx.x % WARP_LANES, row = threadIdx.x / WARP_LANES * 16 * M;
    int lane_q = shared->lane_rows[lane], lane_k = shared->lane_columns[lane];
#pragma unroll
    for (int i = 0; i < M; i++) {
#pragma unroll
        for (int n = 0; n < KEY_STEPS; n++) for (int c = 0; c < 4; c++) s[i][n][c] = 0.0f;
    }
#pragma unroll
    for (int k = 0; k < ATTENTION_DIM / 16; k++) {
        uint32_t a[M][4];
#pragma unroll
        for (int i = 0; i < M; i++) {
            ptx_ldmatrix_x4(a[i], tile_at(shared->q, lane_q, row + 16 * i, 2 * k));
        }
#pragma unroll
        for (int n = 0; n < KEY_STEPS; n += 2) {
            uint32_t b[4];
            ptx_ldmatrix_x4(b, tile_at(shared->k, lane_k, n * 8, 2 * k));
#pragma unroll
            for (int i = 0; i < M; i++) {
                ptx_mma<T>(s[i][n], a[i], b);
                ptx_mma<T>(s[i][n + 1], a[i], b + 2);
            }
        }
    }
}

/* Scores of keys that a row does not see become -inf. Rows past the end see what the last sees. */
template <bool PAGED, int M>
static __device__ __forceinline__ void tile_mask(float s[M][KEY_STEPS][4], const tile_work &work,
                                                 int first)
{
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
#pragma unroll
    for (int r = 0; r < 2 * M; r++) {
        int flat = work.row_first + warp * 16 * M + r * 8 + lane / 4;
        int keys = work.keys;
        if (PAGED) keys = min(work.keys_before + flat / work.ratio + 1, work.keys);
        int left = keys - first - lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < KEY_STEPS; n++) {
            if (n * 8 >= left) s[r / 2][n][r % 2 * 2] = -INFINITY;
            if (n * 8 + 1 >= left) s[r / 2][n][r % 2 * 2 + 1] = -INFINITY;
        }
    }
}

/* Scores to weights, packed as a of p v; the state takes in the new maxima and sums. */
template <typename T, int M>
static __device__ __forceinline__ void tile_weights(tile_state<M> *state, tile_shared *shared,
                                                    uint32_t weights[M][KEY_STEPS][2],
                                                    const float s[M][KEY_STEPS][4],
                                                    float scale_log2)
{
    float keep[2 * M];
    bool rises = false;
#pragma unroll
    for (int r = 0; r < 2 * M; r++) {
        const int i = r / 2, c = r % 2 * 2;
        float max = state->max[i][r % 2];
#pragma unroll
        for (int n = 0; n < KEY_STEPS; n++) max = fmaxf(max, fmaxf(s[i][n][c], s[i][n][c + 1]));
        max = fmaxf(max, __shfl_xor_sync(FULL_WARP, max, 1));
        max = fmaxf(max, __shfl_xor_sync(FULL_WARP, max, 2));
        float rise = (max - state->max[i][r % 2]) * scale_log2;
        keep[r] = rise > RISE_MAX ? ptx_exp2(-rise) : 1.0f;
        if (rise > RISE_MAX) state->max[i][r % 2] = max, rises = true;
    }
    /* Seldom after the first blocks of keys; for a row that keeps its maximum nothing changes. */
    if (__any_sync(FULL_WARP, rises)) {
#pragma unroll
        for (int r = 0; r < 2 * M; r++) {
            shared->sum[r][threadIdx.x] *= keep[r];
#pragma unroll
            for (int n = 0; n < DIM_STEPS; n++) {
                state->values[r / 2][n][r % 2 * 2] *= keep[r];
                state->values[r / 2][n][r % 2 * 2 + 1] *= keep[r];
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2 * M; r++) {
        const int i = r / 2, c = r % 2 * 2;
        float shift = -state->max[i][r % 2] * scale_log2, sum = 0.0f;
#pragma unroll
        for (int n = 0; n < KEY_STEPS; n++) {
            float low = ptx_exp2(fmaf(s[i][n][c], scale_log2, shift));
            float high = ptx_exp2(fmaf(s[i][n][c + 1], scale_log2, shift));
            sum += low + high;
            weights[i][n][r % 2] = pack_weights<T>(low, high);
        }
        shared->sum[r][threadIdx.x] += sum;
    }
}

template <typename T, int M>
static __device__ __forceinline__ void tile_values(tile_state<M> *state, tile_shared *shared,
                                                   const uint32_t weights[M][KEY_STEPS][2])
{
    int lane_v = shared->lane_rows[threadIdx.x % WARP_LANES];
#pragma unroll
    for (int k = 0; k < TILE_KEYS / 16; k++) {
        uint32_t a[M][4];
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int c = 0; c < 4; c++) a[i][c] = weights[i][2 * k + c / 2][c % 2];
        }
#pragma unroll
        for (int n = 0; n < DIM_STEPS; n += 2) {
            uint32_t b[4];
            ptx_ldmatrix_x4_trans(b, tile_at(shared->v, lane_v, k * 16, n));
#pragma unroll
            for (int i = 0; i < M; i++) {
                ptx_mma<T>(state->values[i][n], a[i], b);
                ptx_mma<T>(state->values[i][n + 1], a[i], b + 2);
            }
        }
    }
}

/* Out through the warp's own rows of the Q tile, so that whole 16-byte pieces leave. */
template <typename T, int M>
static __device__ __forceinline__ void tile_store(tile_state<M> *state, tile_shared *shared,
                                                  const tile_work &work)
{
    int lane = threadIdx.x % WARP_LANES, row = threadIdx.x / WARP_LANES * 16 * M;
    unsigned char *rows = shared->q + row * ROW_BYTES + lane % 4 * 4;
    int lane_row = tile_lane(lane / 4, 0);
    float scale[2 * M];
#pragma unroll
    for (int r = 0; r < 2 * M; r++) {
        float sum = shared->sum[r][threadIdx.x];
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        sum += __shfl_xor_sync(FULL_WARP, sum, 2);
        scale[r] = __fdividef(1.0f, sum);
    }
#pragma unroll
    for (int n = 0; n < DIM_STEPS; n++) {
#pragma unroll
        for (int r = 0; r < 2 * M; r++) {
            const float *values = &state->values[r / 2][n][r % 2 * 2];
            *(uint32_t *)(rows + r * 8 * ROW_BYTES + (lane_row ^ (n << 4))) =
                pack2<T>(values[0] * scale[r], values[1] * scale[r]);
        }
    }
    __syncwarp();
    for (int r = lane / ROW_PIECES; r < 16 * M; r += WARP_LANES / ROW_PIECES) {
        int flat = work.row_first + row + r, piece = lane % ROW_PIECES;
        if (flat >= work.row_count) break;
        int token = flat / work.ratio, head = flat - token * work.ratio;
        T *out = (T *)work.out + token * work.out_stride + head * ATTENTION_DIM + piece * 8;
        *(uint4 *)out = *(const uint4 *)tile_piece(shared->q, row + r, piece);
    }
}

template <typename T, bool PAGED, int M>
static __device__ __forceinline__ void tile_run(tile_shared *shared,
                                                const attention_paged_view *view, float scale_log2)
{
    const tile_work &work = shared->work;
    tile_state<M> state = {};
    int blocks = (work.keys + TILE_KEYS - 1) / TILE_KEYS;
    for (int r = 0; r < 2 * M; r++) {
        state.max[r / 2][r % 2] = -INFINITY;
        shared->sum[r][threadIdx.x] = 0.0f;
    }
    int key = min((int)threadIdx.x, work.keys - 1);
    if (threadIdx.x < WARP_LANES) {
        shared->lane_rows[threadIdx.x] = tile_lane_rows(threadIdx.x);
        shared->lane_columns[threadIdx.x] = tile_lane_columns(threadIdx.x);
    }
    bool has_slot = PAGED && threadIdx.x < TILE_KEYS;
    if (has_slot) {
        shared->slots[0][threadIdx.x] = key_slot(*view, work.page_table, work.kv_head, key);
    }
    if (PAGED) __syncthreads();
    fetch_q<T, M>(shared->q, work);
    fetch_keys<T, PAGED>(shared->k, work.k, work, shared->slots[0], 0);
    ptx_cp_async_commit();
    for (int block = 0; block < blocks; block++) {
        int first = block * TILE_KEYS;
        float s[M][KEY_STEPS][4];
        uint32_t weights[M][KEY_STEPS][2], next_slot = 0;
        ptx_cp_async_wait<0>();
        __syncthreads();                                     /* K is there, V is free     */
        fetch_keys<T, PAGED>(shared->v, work.v, work, shared->slots[block % 2], first);
        ptx_cp_async_commit();
        if (has_slot) {
            key = min(first + TILE_KEYS + (int)threadIdx.x, work.keys - 1);
            next_slot = key_slot(*view, work.page_table, work.kv_head, key);
        }
        tile_scores<T, M>(s, shared);
        if (has_slot) shared->slots[(block + 1) % 2][threadIdx.x] = next_slot;
        ptx_cp_async_wait<0>();
        __syncthreads();                                     /* V is there, K is free     */
        if (block + 1 < blocks) {
            fetch_keys<T, PAGED>(shared->k, work.k, work, shared->slots[(block + 1) % 2],
                                 first + TILE_KEYS);
        }
        ptx_cp_async_commit();
        if (first + TILE_KEYS > work.keys_all) tile_mask<PAGED, M>(s, work, first);
        tile_weights<T, M>(&state, shared, weights, s, scale_log2);
        tile_values<T, M>(&state, shared, weights);
    }
    tile_store<T, M>(&state, shared, work);
}

/* ---- kernels --------------------------------------------------------------------------- */

template <typename T, int M>
static __global__ void __launch_bounds__(TILE_THREADS, TILE_BLOCKS)
tiles_dense_kernel(dense_view view)
{
    DYNAMIC_SHARED(memory);
    tile_shared *shared = (tile_shared *)memory;
    int tile = (int)blockIdx.x, head = (int)blockIdx.y, segment = 0;
    ptx_wait_for_previous();
    ptx_release_next();
    while (segment + 1 < view.segment_count && tile >= view.tile_end[segment]) segment++;
    if (segment > 0) tile -= view.tile_end[segment - 1];
    int64_t width = (int64_t)view.heads * ATTENTION_DIM;
    tile_work work = {};
    work.row_first = tile * TILE_ROWS(M);
    work.row_count = work.keys = work.keys_all = view.tokens[segment];
    work.ratio = 1;
    work.q_stride = work.key_stride = 3 * width;
    work.out_stride = width;
    work.q = (const T *)view.qkv + view.first[segment] * 3 * width + head * ATTENTION_DIM;
    work.k = (const T *)work.q + width;
    work.v = (const T *)work.k + width;
    work.out = (T *)view.out + view.first[segment] * width + head * ATTENTION_DIM;
    if (threadIdx.x == 0) shared->work = work;
    __syncthreads();
    tile_run<T, false, M>(shared, NULL, view.scale_log2);
}

template <typename T, int M>
static __global__ void __launch_bounds__(TILE_THREADS, TILE_BLOCKS)
tiles_paged_kernel(attention_paged_view view)
{
    DYNAMIC_SHARED(memory);
    tile_shared *shared = (tile_shared *)memory;
    int ratio = view.heads / view.kv_heads;
    ptx_wait_for_previous();
    ptx_release_next();
    agl_attention_sequence sequence;
    int tile;
    if (!tile_find(&sequence, &tile, view, ratio, TILE_ROWS(M), (int)blockIdx.x / view.kv_heads)) {
        return;
    }
    tile_work work = {};
    work.kv_head = (int)blockIdx.x % view.kv_heads;
    work.row_first = tile * TILE_ROWS(M);
    work.row_count = sequence.row_count * ratio;
    work.ratio = ratio;
    work.keys_before = sequence.context - sequence.row_count;
    int token_last = (min(work.row_first + TILE_ROWS(M), work.row_count) - 1) / ratio;
    work.keys = work.keys_before + token_last + 1;
    work.keys_all = work.keys_before + work.row_first / ratio + 1;
    if (work.keys < 1) return;
    int head = work.kv_head * ratio;
    work.q_stride = view.q_stride;
    work.out_stride = (int64_t)view.heads * ATTENTION_DIM;
    work.q = (const T *)view.q + sequence.row_first * work.q_stride + head * ATTENTION_DIM;
    work.out = (T *)view.out + sequence.row_first * work.out_stride + head * ATTENTION_DIM;
    work.k = view.k, work.v = view.v;
    work.page_table = sequence.page_table;
    if (threadIdx.x == 0) shared->work = work;
    __syncthreads();
    tile_run<T, true, M>(shared, &view, view.scale_log2);
}

/* ---- launchers -------------------------------------------------------------------------- */

/* Small tiles multiply at a lower rate, but large ones must fill the device. */
static bool is_small(const agl_stream *stream, int64_t large_blocks)
{
    return large_blocks < (int64_t)agl_cuda_of(stream)->processors * TILE_BLOCKS;
}

static size_t shared_bytes(int m)
{
    return sizeof(tile_shared) - (size_t)(TILE_ROWS(M_TILES_MAX) - TILE_ROWS(m)) * ROW_BYTES;
}

template <typename T, int M>
static agl_status paged_launch(agl_stream *stream, const agl_attention_paged_args *args)
{
    int64_t blocks = paged_blocks(args, TILE_ROWS(M));
    if (blocks == 0) return AGL_OK;
    return cuda_launch_early(stream, tiles_paged_kernel<T, M>, dim3((unsigned)blocks),
                             dim3(TILE_THREADS), shared_bytes(M), attention_view(args));
}

agl_status agl_cuda_attention_tiles_paged(agl_stream *stream, const agl_attention_paged_args *args)
{
    bool half = stream->backend->activation == AGL_F16;
    if (is_small(stream, paged_blocks(args, TILE_ROWS(2)))) {
        return half ? paged_launch<__half, 1>(stream, args)
                    : paged_launch<__nv_bfloat16, 1>(stream, args);
    }
    return half ? paged_launch<__half, 2>(stream, args)
                : paged_launch<__nv_bfloat16, 2>(stream, args);
}

template <typename T, int M>
static agl_status dense_launch(agl_stream *stream, const agl_attention_dense_args *args)
{
    for (int64_t first = 0; first < args->segment_count; first += SEGMENTS_MAX) {
        dense_view view = {};
        int tiles = 0;
        view.qkv = args->qkv;
        view.out = args->out;
        view.heads = (int)args->heads;
        view.scale_log2 = args->scale * LOG2_E;
        for (int64_t i = first; i < args->segment_count && i < first + SEGMENTS_MAX; i++) {
            int n = view.segment_count++, tokens = args->segments[i + 1] - args->segments[i];
            tiles += tile_count(tokens, 1, TILE_ROWS(M));
            view.first[n] = args->segments[i];
            view.tokens[n] = tokens;
            view.tile_end[n] = tiles;
        }
        if (tiles == 0) continue;
        dim3 grid((unsigned)tiles, (unsigned)args->heads);
        AGL_TRY(cuda_launch_early(stream, tiles_dense_kernel<T, M>, grid, dim3(TILE_THREADS),
                                  shared_bytes(M), view));
    }
    return AGL_OK;
}

agl_status agl_cuda_attention_tiles_dense(agl_stream *stream, const agl_attention_dense_args *args)
{
    bool half = stream->backend->activation == AGL_F16;
    if (is_small(stream, args->tokens / TILE_ROWS(2) * args->heads)) {
        return half ? dense_launch<__half, 1>(stream, args)
                    : dense_launch<__nv_bfloat16, 1>(stream, args);
    }
    return half ? dense_launch<__half, 2>(stream, args)
                : dense_launch<__nv_bfloat16, 2>(stream, args);
}
