/* SPDX-License-Identifier: Apache-2.0
 *
 * attention.cuh - what the attention files share: the launchers the dispatcher chooses from,
 * where a key lies in the pages, tiles of 128-dim rows in shared memory, and a block's tile of
 * a batch. */
#ifndef AGL_BACKEND_CUDA_ATTENTION_CUH
#define AGL_BACKEND_CUDA_ATTENTION_CUH

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/elements.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/ptx.cuh"

#define ATTENTION_DIM 128            /* head_dim of the tensor-core kernels              */
#define ATTENTION_DIM_MAX 256        /* of the plain kernel                              */
#define ROW_BYTES (ATTENTION_DIM * 2)
#define ROW_PIECES (ROW_BYTES / 16)  /* 16-byte pieces of a row                          */

/* Sequences with up to this many rows are decoded, longer ones go in tiles. */
#define DECODE_ROWS 4

#define LOG2_E 1.4426950408889634f

/* Arguments of the paged kernels. */
typedef struct {
    const void *q, *k, *v;
    void *out;
    const agl_attention_sequence *sequences;
    const int32_t *page_tables;
    int64_t q_stride;
    int sequence_count, heads, kv_heads, page_tokens;
    int context_max;
    float scale_log2;                /* scores are exponents of 2                        */
} attention_paged_view;

/* Launchers. Arguments have been checked. */
agl_status agl_cuda_attention_decode(agl_stream *stream, const agl_attention_paged_args *args);
uint64_t agl_cuda_attention_decode_bytes(const agl_cuda *cuda, const agl_backend_limits *limits);
agl_status agl_cuda_attention_tiles_paged(agl_stream *stream, const agl_attention_paged_args *args);
agl_status agl_cuda_attention_tiles_dense(agl_stream *stream, const agl_attention_dense_args *args);

/* The same through wgmma; AGL_ERR_UNSUPPORTED: not on this device, or not these pages. The
 * device and the size of a page alone decide which of the two runs: bits do not depend on the
 * batch. */
agl_status agl_cuda_attention_wgmma_paged(agl_stream *stream, const agl_attention_paged_args *args);
agl_status agl_cuda_attention_wgmma_dense(agl_stream *stream, const agl_attention_dense_args *args);

agl_status agl_cuda_attention_plain_paged(agl_stream *stream, const agl_attention_paged_args *args);
agl_status agl_cuda_attention_plain_dense(agl_stream *stream, const agl_attention_dense_args *args);

static inline attention_paged_view attention_view(const agl_attention_paged_args *args)
{
    attention_paged_view view = {};
    view.q = args->q, view.k = args->kv.k, view.v = args->kv.v;
    view.out = args->out;
    view.sequences = args->sequences;
    view.page_tables = args->page_tables;
    view.q_stride = args->q_stride;
    view.sequence_count = (int)args->sequence_count;
    view.heads = (int)args->heads;
    view.kv_heads = (int)args->kv.kv_heads;
    view.page_tokens = (int)args->kv.page_tokens;
    view.context_max = (int)args->context_max;
    view.scale_log2 = args->scale * LOG2_E;
    return view;
}

/* Sequence i; a context over the stated maximum is cut, so that no result leaves its buffer. */
static __device__ __forceinline__ agl_attention_sequence
sequence_load(const attention_paged_view &view, int i)
{
    agl_attention_sequence sequence = view.sequences[i];
    sequence.context = min(sequence.context, view.context_max);
    return sequence;
}

/* Row of k and v (head_dim elements each) that holds a key. */
static __device__ __forceinline__ uint32_t key_slot(const attention_paged_view &view,
                                                    int page_table, int kv_head, int key)
{
    int page = view.page_tables[page_table + key / view.page_tokens];
    return ((uint32_t)page * (uint32_t)view.kv_heads + (uint32_t)kv_head) *
               (uint32_t)view.page_tokens + (uint32_t)(key % view.page_tokens);
}

/* ---- tiles of rows in shared memory --------------------------------------------- */

/* A tile is [rows][256 bytes]; piece p of row r lies at p ^ (r % 8), so that the same piece of 8
 * neighbouring rows, what ldmatrix reads at once, touches all banks once. */
static __device__ __forceinline__ unsigned char *tile_piece(unsigned char *tile, int row, int piece)
{
    return tile + row * ROW_BYTES + ((piece ^ (row & 7)) << 4);
}

/* What a lane adds to a tile to read its part of a fragment at row 0, piece 0. Rows advance in
 * steps of 8, pieces in steps of 2: a fragment elsewhere is one addition and one xor away. */
static __device__ __forceinline__ int tile_lane(int row, int piece)
{
    return row * ROW_BYTES + ((piece ^ (row & 7)) << 4);
}

/* For a of ptx_mma (rows of the tile are rows of a), and for b where the summation runs over rows
 * of the tile: p v. */
static __device__ __forceinline__ int tile_lane_rows(int lane)
{
    return tile_lane(lane & 15, lane >> 4);
}

/* For b where the summation runs along the rows of the tile: q k^T. */
static __device__ __forceinline__ int tile_lane_columns(int lane)
{
    return tile_lane(((lane >> 4) << 3) + (lane & 7), (lane >> 3) & 1);
}

static __device__ __forceinline__ const unsigned char *
tile_at(const unsigned char *tile, int lane_offset, int row, int piece)
{
    return tile + row * ROW_BYTES + (lane_offset ^ (piece << 4));
}

/* Two weights as T: pack2 without its saturation, which they are too small for. */
template <typename T>
static __device__ __forceinline__ uint32_t pack_weights(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack_weights<__nv_bfloat16>(float low, float high)
{
    return pack2<__nv_bfloat16>(low, high);
}
template <>
__device__ __forceinline__ uint32_t pack_weights<__half>(float low, float high)
{
    __half2 v = __floats2half2_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

/* ---- finding work in the batch ---------------------------------------------------- */

/* Sum of `count` over the threads before this one, and over all in *total. `warps` is shared, one
 * int a warp; it may be used again after the next barrier. */
static __device__ __forceinline__ int block_prefix(int count, int *total, int *warps)
{
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES, sum = count;
    for (int offset = 1; offset < WARP_LANES; offset *= 2) {
        int below = __shfl_up_sync(FULL_WARP, sum, offset);
        if (lane >= offset) sum += below;
    }
    if (lane == WARP_LANES - 1) warps[warp] = sum;
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < (int)blockDim.x / WARP_LANES; w++) {
        if (w < warp) before += warps[w];
        all += warps[w];
    }
    *total = all;
    return before + sum - count;
}

static __host__ __device__ __forceinline__ int tile_count(int rows, int ratio, int tile_rows)
{
    return (int)(((int64_t)rows * ratio + tile_rows - 1) / tile_rows);
}

/* Tile number `wanted` of those of all sequences with more than DECODE_ROWS rows, the last one of a
 * sequence first: its sequence, and its number there. A row is a (token, query head) pair; `ratio`
 * heads share a kv head. False: there are fewer tiles. A warp finds out for itself. */
static __device__ __forceinline__ bool tile_find(agl_attention_sequence *sequence, int *tile,
                                                 const attention_paged_view &view, int ratio,
                                                 int tile_rows, int wanted)
{
    int lane = threadIdx.x % WARP_LANES;
    for (int first = 0; first < view.sequence_count; first += WARP_LANES) {
        agl_attention_sequence own = {};
        if (first + lane < view.sequence_count) own = sequence_load(view, first + lane);
        int count = own.row_count > DECODE_ROWS ? tile_count(own.row_count, ratio, tile_rows) : 0;
        int end = count;
        for (int offset = 1; offset < WARP_LANES; offset *= 2) {
            int below = __shfl_up_sync(FULL_WARP, end, offset);
            if (lane >= offset) end += below;
        }
        unsigned behind = __ballot_sync(FULL_WARP, wanted < end);
        if (behind != 0) {
            int owner = __ffs((int)behind) - 1;
            sequence->row_first = __shfl_sync(FULL_WARP, own.row_first, owner);
            sequence->row_count = __shfl_sync(FULL_WARP, own.row_count, owner);
            sequence->context = __shfl_sync(FULL_WARP, own.context, owner);
            sequence->page_table = __shfl_sync(FULL_WARP, own.page_table, owner);
            *tile = __shfl_sync(FULL_WARP, end, owner) - 1 - wanted;
            return true;
        }
        wanted -= __shfl_sync(FULL_WARP, end, WARP_LANES - 1);
    }
    return false;
}

/* Upper bound of the blocks that tiles of a paged call need: each long sequence ends in a tile of
 * its own that may be part full. */
static inline int64_t paged_blocks(const agl_attention_paged_args *args, int64_t tile_rows)
{
    int64_t ratio = args->heads / args->kv.kv_heads, most = args->rows / (DECODE_ROWS + 1);
    if (most > args->sequence_count) most = args->sequence_count;
    return (args->rows * ratio / tile_rows + most) * args->kv.kv_heads;
}

#endif
