/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_skinny.cu - y = x W^T + b for a few rows, at the speed of reading W once; with
 * SwiGLU behind it, y = silu(gate) * up; and with rope_store behind it.
 *
 *   x        [rows, in]  bf16 or f16, row stride x_stride
 *   weight   [out, in]   the same type; SwiGLU: gate rows, then as many up rows
 *   bias     [out]       f32, or none
 *   y        [rows, out] the same type, or f32; SwiGLU: [rows, out / 2] the same type
 *
 * Needs     in % 8 == 0, x_stride % 8 == 0, x and weight 16-byte aligned. Any out; any rows,
 *           in slices of 8 that read the weights anew.
 * Bound     memory: out * in * 2 bytes.
 * Grid      one block an SM, which takes ceil(out / SMs) neighbouring rows of W, so that all
 *           read as much. A block goes through tiles of at most 16 rows, of equal height; its
 *           warps deal a tile's chunks of 64 columns out among themselves and add their sums
 *           in shared memory.
 * Loads     Every warp has its own ring of chunks in shared memory that cp.async fills, whole
 *           128-byte lines of W: no barrier of the block. While it waits for a chunk the rest of
 *           the ring is on its way, later chunks across the border of tiles. The ring is nearly
 *           all of the SM's shared memory, so that a block of the next product can only
 *           take the place of one that has ended: it fills its ring while others still work
 *           and small kernels in between run. (Smaller blocks start earlier, wherever there is
 *           room, and then some SMs have more of them than others. Loads into registers do not
 *           do: ptxas moves them down.) x is read some chunks ahead, through
 *           the L1: under this load an answer of the L2 takes over a microsecond.
 * rope      Pairs of dims are neighbouring columns of y, so a thread turns its two sums before it
 *           rounds them. Where a pair turns to is asked for before the tile's sums.
 * SwiGLU    A tile is gate rows above the up rows that belong to them, wherever they lie.
 * Numerics  F32 sums in an order given by `in` and the number of warps: the same row gives the
 *           same bits whatever the other rows are and however many.
 *
 * The 8 values that a lane reads at once are not those that one mma wants of it, but the
 * order of columns inside a sum is free as long as x keeps it too. With t = lane % 4, columns
 * 8t .. 8t+7 of a group of 32 become the lane's share (2t, 2t+1, 2t+8, 2t+9) of two mma:
 *
 *     row g:                | t=0: 0 1 2 3 4 5 6 7 | t=1: 8 .. 15 | t=2: 16 .. | t=3: 24 .. |
 *     first mma of t = 0:          --- ---           columns 0, 1 and 8, 9 of the mma
 *     second:                              --- ---   the same
 *
 * and row g of x is read in the very same pattern: it needs no rearranging. */
#include "backend/cuda/elements.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/linear.h"
#include "backend/cuda/ptx.cuh"

#define TILE_ROWS 16                /* weight rows: M of an mma                               */
#define SLICE_ROWS 8                /* rows of x of one pass over the weights: N of an mma    */
#define PIECE 8                     /* columns in 16 bytes                                    */
#define CHUNK 64                    /* columns of a warp at once: a line of each weight row   */
#define PIECES (CHUNK / PIECE)
#define GROUPS (PIECES / 4)         /* a group of 32 columns is one piece for each t          */
#define LANE_LOADS (TILE_ROWS * PIECES / WARP_LANES)
#define X_AHEAD 3                   /* chunks of x that are in registers before they are used */
#define PARTIAL_STRIDE 20           /* of a token's 16 sums: the writes of a warp hit 32 banks */

typedef struct {
    const void *x, *weight;
    const float *bias;
    void *y;
    int64_t x_stride;
    int rows, in, out;
    int width;                      /* columns of y                                           */
    int block_columns;              /* of y from a block                                      */
    int tile_columns;               /* of y from a tile: at most 16, with SwiGLU 8            */
    int high;                       /* SwiGLU: from a gate row to its up row                  */
    int chunks;                     /* of a warp and tile                                     */
    bool y_f32, swiglu, rotates;
    agl_rope_store_args rope;
} skinny_args;

/* A warp's weights. Piece p of row r lies at place_of(r, p). */
typedef uint4 weight_chunk[TILE_ROWS][PIECES];

/* One warp's sums of a tile: [row of x][weight row]. */
typedef float skinny_partial[SLICE_ROWS][PARTIAL_STRIDE];

template <int WARPS, int STAGES>
struct skinny_shared {
    weight_chunk ring[WARPS][STAGES];
    /* [tile % 2]: a tile's sums are written while slow warps still add those of the tile before. */
    skinny_partial partial[2][WARPS];
};

/* Lanes that read at once hold pieces 0 to 3, or 4 to 7, of an even and an odd row: the halves
 * of odd rows change places, so that these lie in different banks. */
static __device__ __forceinline__ int place_of(int row, int piece)
{
    return piece ^ (row % 2 * (PIECES / 2));
}

/* What a warp reads next: runs through the block's tiles, a ring ahead of the sums. A lane
 * copies piece lane % 8 of rows lane / 8, + 4, + 8, + 12. */
typedef struct {
    const unsigned short *rows[LANE_LOADS];     /* NULL: beyond the tile                       */
    int first, end;                 /* column of y that the tile begins with; the block's end  */
    int chunk, stage;
} weight_cursor;

static __device__ __forceinline__ void cursor_enter_tile(weight_cursor *cursor,
                                                         const skinny_args *args)
{
    int lane_row = threadIdx.x % WARP_LANES / PIECES;
    int columns = min(args->tile_columns, cursor->end - cursor->first);
#pragma unroll
    for (int i = 0; i < LANE_LOADS; i++) {
        int offset = i * (TILE_ROWS / LANE_LOADS) + lane_row, row = cursor->first + offset;
        if (args->swiglu && offset >= TILE_ROWS / 2) {
            offset -= TILE_ROWS / 2;
            row += args->high - TILE_ROWS / 2;
        }
        cursor->rows[i] = offset < columns
                              ? (const unsigned short *)args->weight + (int64_t)row * args->in
                              : NULL;
    }
    cursor->chunk = 0;
}

/* First column of a chunk of this warp. The warps take chunks in turn, so that the block reads
 * 1 or 2 KB of each row at a time. */
template <int WARPS>
static __device__ __forceinline__ int column_of(int chunk)
{
    return (chunk * WARPS + (int)threadIdx.x / WARP_LANES) * CHUNK;
}

template <int STAGES>
static __device__ __forceinline__ int stage_after(int stage)
{
    return stage + 1 == STAGES ? 0 : stage + 1;
}

static __device__ __forceinline__ void cursor_advance(weight_cursor *cursor, const skinny_args *args)
{
    if (++cursor->chunk < args->chunks) return;
    cursor->first += args->tile_columns;
    cursor_enter_tile(cursor, args);
}

/* Zeros past the last column; nothing of rows beyond the tile, whose sums go nowhere. */
template <int WARPS, int STAGES>
static __device__ __forceinline__ void fetch(weight_chunk *ring, weight_cursor *cursor,
                                             const skinny_args *args)
{
    if (cursor->first < cursor->end) {
        int lane = threadIdx.x % WARP_LANES, piece = lane % PIECES;
        int column = column_of<WARPS>(cursor->chunk) + piece * PIECE;
        bool valid = column < args->in;
        if (!valid) column = 0;
#pragma unroll
        for (int i = 0; i < LANE_LOADS; i++) {
            int row = lane / PIECES + i * (TILE_ROWS / LANE_LOADS);
            if (cursor->rows[i] == NULL) continue;
            ptx_cp_async16_or_zero(&ring[cursor->stage][row][place_of(row, piece)],
                                   cursor->rows[i] + column, valid);
        }
    }
    ptx_cp_async_commit();
    cursor->stage = stage_after<STAGES>(cursor->stage);
    cursor_advance(cursor, args);
}

/* A lane's pieces of its row of x, through the L1. */
template <typename T, int WARPS>
static __device__ __forceinline__ void read_x(uint4 out[GROUPS], const T *x, int chunk, int in)
{
#pragma unroll
    for (int j = 0; j < GROUPS; j++) {
        int column = column_of<WARPS>(chunk) + (4 * j + (int)threadIdx.x % 4) * PIECE;
        out[j] = make_uint4(0, 0, 0, 0);
        if (column < in) out[j] = *(const uint4 *)(x + column);
    }
}

/* sums += the chunk's weights times x. */
template <typename T>
static __device__ __forceinline__ void multiply(float sums[4], const weight_chunk weights,
                                                const uint4 x[GROUPS])
{
    int lane = threadIdx.x % WARP_LANES, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < GROUPS; j++) {
        int place = place_of(g, 4 * j + t); /* rows g and g + 8 are both even or both odd */
        const uint4 low = weights[g][place], high = weights[g + 8][place];
        const uint32_t first[4] = {low.x, high.x, low.y, high.y};
        const uint32_t second[4] = {low.z, high.z, low.w, high.w};
        const uint32_t x_first[2] = {x[j].x, x[j].y}, x_second[2] = {x[j].z, x[j].w};
        ptx_mma<T>(sums, first, x_first);
        ptx_mma<T>(sums, second, x_second);
    }
}

static __device__ __forceinline__ void keep_partial(skinny_partial partial, const float sums[4])
{
    int lane = threadIdx.x % WARP_LANES, g = lane / 4, row = lane % 4 * 2;
    partial[row][g] = sums[0];
    partial[row + 1][g] = sums[1];
    partial[row][g + 8] = sums[2];
    partial[row + 1][g + 8] = sums[3];
}

/* Bias of weight row `out` + the warps' sums of the tile's row `place`, in the order of the warps. */
template <int WARPS>
static __device__ __forceinline__ float add_warps(const skinny_args *args,
                                                  const skinny_partial *partial, int row,
                                                  int place, int out)
{
    float sum = args->bias != NULL ? args->bias[out] : 0.0f;
#pragma unroll
    for (int part = 0; part < WARPS; part++) sum += partial[part][row][place];
    return sum;
}

/* The pairs of columns that a thread turns, one of each tile: at most 64 threads have any. Nothing
 * here is used before the tile's sums are there, so that no warp waits for it. */
typedef struct {
    int row, place;                 /* of x; first column of the pair in its tile; row < 0: none */
    float positions[3];
    int64_t slot;
    int axis;                       /* < 0: does not turn                                      */
    float inv_freq;
} tile_pair;

static __device__ __forceinline__ tile_pair pair_begin(const skinny_args *args, int row_first,
                                                       int rows)
{
    const agl_rope_store_args *rope = &args->rope;
    int pairs = args->tile_columns / 2, row = threadIdx.x / pairs, token = row_first + row;
    tile_pair pair = {};
    pair.row = row < rows ? row : -1, pair.place = threadIdx.x % pairs * 2;
    if (pair.row < 0) return pair;
#pragma unroll
    for (int i = 0; i < 3; i++) pair.positions[i] = (float)rope->positions[i * rope->tokens + token];
    pair.slot = rope->slots[token];
    return pair;
}

static __device__ __forceinline__ void pair_enter_tile(tile_pair *pair, const skinny_args *args,
                                                       int first)
{
    int out = first + pair->place, head_dim = (int)args->rope.kv.head_dim;
    int turn = out % head_dim / 2;
    bool turns = out / head_dim < args->rope.heads + args->rope.kv.kv_heads &&
                 turn < args->rope.pairs;
    pair->axis = turns ? args->rope.axis[turn] : -1;
    pair->inv_freq = turns ? args->rope.inv_freq[turn] : 0.0f;
}

/* What rope_store does with the pair's two values; see rope.cu. */
template <typename T, int WARPS>
static __device__ __forceinline__ void write_pair(const skinny_args *args,
                                                  const skinny_partial *partial,
                                                  const tile_pair *pair, int first, int columns,
                                                  int row_first)
{
    const agl_kv_layer *kv = &args->rope.kv;
    int place = pair->place, out = first + place;
    if (pair->row < 0 || place >= columns) return;
    float a = add_warps<WARPS>(args, partial, pair->row, place, out);
    float b = add_warps<WARPS>(args, partial, pair->row, place + 1, out + 1);
    if (pair->axis >= 0) {
        float sine, cosine, low = a;
        float position = pair->axis == 0   ? pair->positions[0]
                         : pair->axis == 1 ? pair->positions[1]
                                           : pair->positions[2];
        sincosf(position * pair->inv_freq, &sine, &cosine);
        a = low * cosine - b * sine;
        b = b * cosine + low * sine;
    }
    T *y = (T *)args->y + (int64_t)(row_first + pair->row) * args->width + out;
    y[0] = from_f32<T>(a), y[1] = from_f32<T>(b);
    int head = out / (int)kv->head_dim - (int)args->rope.heads, kv_heads = (int)kv->kv_heads;
    if (head < 0 || pair->slot < 0) return;
    int64_t page = pair->slot / kv->page_tokens, offset = pair->slot - page * kv->page_tokens;
    T *pages = (T *)(head < kv_heads ? kv->k : kv->v);
    int64_t kv_head = page * kv_heads + (head < kv_heads ? head : head - kv_heads);
    T *to = pages + (kv_head * kv->page_tokens + offset) * kv->head_dim + out % (int)kv->head_dim;
    to[0] = y[0], to[1] = y[1];
}

template <typename T, int WARPS>
static __device__ __forceinline__ void write_tile(const skinny_args *args,
                                                  const skinny_partial *partial, int first,
                                                  int columns, int row_first, int rows)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * columns; i += WARPS * WARP_LANES) {
        int row = i / columns, place = i % columns, out = first + place;
        float value = add_warps<WARPS>(args, partial, row, place, out);
        if (args->swiglu) {
            float up = add_warps<WARPS>(args, partial, row, place + TILE_ROWS / 2, out + args->high);
            value = value / (1.0f + expf(-value)) * up;
        }
        int64_t at = (int64_t)(row_first + row) * args->width + out;
        if (args->y_f32) ((float *)args->y)[at] = value;
        else ((T *)args->y)[at] = from_f32<T>(value);
    }
}

template <typename T, int WARPS, int STAGES, bool ROTATES>
static __global__ void __launch_bounds__(WARPS * WARP_LANES)
linear_skinny(const skinny_args args)
{
    DYNAMIC_SHARED(memory);
    skinny_shared<WARPS, STAGES> *shared = (skinny_shared<WARPS, STAGES> *)memory;
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    weight_chunk *ring = shared->ring[warp];
    int row_first = blockIdx.y * SLICE_ROWS;
    int rows = min(args.rows - row_first, SLICE_ROWS);
    int block_first = blockIdx.x * args.block_columns;

    weight_cursor cursor;
    cursor.stage = 0;
    cursor.first = block_first;
    cursor.end = min(block_first + args.block_columns, args.width);
    cursor_enter_tile(&cursor, &args);
    for (int i = 0; i < STAGES - 1; i++) fetch<WARPS, STAGES>(ring, &cursor, &args);
    ptx_wait_for_previous();
    ptx_release_next();

    /* A row past the last is the last: its sums go nowhere. */
    const T *x = (const T *)args.x + (row_first + min(lane / 4, rows - 1)) * args.x_stride;
    uint4 x_chunks[X_AHEAD + 1][GROUPS];
    int x_next = 0;
#pragma unroll
    for (int i = 0; i < X_AHEAD; i++) {
        read_x<T, WARPS>(x_chunks[i], x, x_next, args.in);
        x_next = x_next + 1 < args.chunks ? x_next + 1 : 0;
    }
    tile_pair pair;
    if constexpr (ROTATES) pair = pair_begin(&args, row_first, rows);
    int stage = 0, half = 0;
    for (int first = block_first; first < cursor.end; first += args.tile_columns, half ^= 1) {
        float sums[4] = {};
        int columns = min(args.tile_columns, cursor.end - first);
        if constexpr (ROTATES) pair_enter_tile(&pair, &args, first);
#pragma unroll 1
        for (int chunk = 0; chunk < args.chunks; chunk++) {
            __syncwarp();           /* all lanes have read the chunk that fetch replaces */
            fetch<WARPS, STAGES>(ring, &cursor, &args);
            read_x<T, WARPS>(x_chunks[X_AHEAD], x, x_next, args.in);
            x_next = x_next + 1 < args.chunks ? x_next + 1 : 0;
            ptx_cp_async_wait<STAGES - 1>();
            __syncwarp();           /* and here all have waited */
            multiply<T>(sums, ring[stage], x_chunks[0]);
#pragma unroll
            for (int i = 0; i < X_AHEAD; i++) memcpy(x_chunks[i], x_chunks[i + 1], sizeof x_chunks[i]);
            stage = stage_after<STAGES>(stage);
        }
        keep_partial(shared->partial[half][warp], sums);
        __syncthreads();
        const skinny_partial *partial = shared->partial[half];
        if constexpr (ROTATES) write_pair<T, WARPS>(&args, partial, &pair, first, columns, row_first);
        else write_tile<T, WARPS>(&args, partial, first, columns, row_first, rows);
    }
}

/* ---- launcher ------------------------------------------------------------------ */

static int ceil_div(int64_t a, int64_t b) { return (int)((a + b - 1) / b); }

template <typename T, int WARPS, int STAGES>
static agl_status launch(agl_stream *stream, skinny_args args)
{
    int tile_most = args.swiglu ? TILE_ROWS / 2 : TILE_ROWS;
    int unit = args.rotates ? 2 : 1; /* columns that stay together */
    args.block_columns = ceil_div(args.width, agl_cuda_of(stream)->processors * unit) * unit;
    int tiles = ceil_div(args.block_columns, tile_most);
    args.tile_columns = ceil_div(args.block_columns, tiles * unit) * unit;
    args.chunks = ceil_div(args.in, CHUNK * WARPS);
    dim3 grid(ceil_div(args.width, args.block_columns), ceil_div(args.rows, SLICE_ROWS));
    return cuda_launch_early(stream,
                             args.rotates ? linear_skinny<T, WARPS, STAGES, true>
                                          : linear_skinny<T, WARPS, STAGES, false>,
                             grid, dim3(WARPS * WARP_LANES), sizeof(skinny_shared<WARPS, STAGES>),
                             args);
}

/* By the shared memory of an SM: 227 KB on H100 and H200, 163 on A100, 99 on most others. What
 * it leaves is the L1, and more rows of x need more of that. */
template <typename T>
static agl_status launch_for_device(agl_stream *stream, const skinny_args *args)
{
    size_t bytes = agl_cuda_of(stream)->shared_bytes_max;
    if (args->rows <= SLICE_ROWS / 2 && bytes >= sizeof(skinny_shared<16, 5>)) {
        return launch<T, 16, 5>(stream, *args);
    }
    if (bytes >= sizeof(skinny_shared<16, 4>)) return launch<T, 16, 4>(stream, *args);
    if (bytes >= sizeof(skinny_shared<8, 4>)) return launch<T, 8, 4>(stream, *args);
    return AGL_ERR_UNSUPPORTED;
}

static agl_status launch_for_dtype(agl_stream *stream, const skinny_args *args)
{
    switch (stream->backend->activation) {
    case AGL_BF16: return launch_for_device<__nv_bfloat16>(stream, args);
    case AGL_F16: return launch_for_device<__half>(stream, args);
    default: return AGL_ERR_UNSUPPORTED;
    }
}

/* What both operations share; false: a size is out of range. */
static bool fill_args(skinny_args *args, const void *x, void *y, const agl_weight *base, int64_t rows)
{
    const agl_cuda_weight *weight = (const agl_cuda_weight *)base;
    if (rows > INT16_MAX || base->out > INT32_MAX - TILE_ROWS || base->in > INT32_MAX / 2) return false;
    args->x = x, args->x_stride = base->in, args->rows = (int)rows, args->y = y;
    args->weight = weight->data, args->bias = weight->bias;
    args->in = (int)base->in, args->out = (int)base->out;
    return true;
}

extern "C" agl_status agl_cuda_linear_skinny(agl_stream *stream, const agl_linear_args *args)
{
    skinny_args a = {};
    if (!fill_args(&a, args->x, args->y, args->weight, args->rows)) return AGL_ERR_UNSUPPORTED;
    a.x_stride = args->x_stride, a.y_f32 = args->y_f32;
    a.width = a.out;
    return launch_for_dtype(stream, &a);
}

extern "C" agl_status agl_cuda_linear_skinny_swiglu(agl_stream *stream,
                                                    const agl_linear_swiglu_args *args)
{
    skinny_args a = {};
    if (!fill_args(&a, args->x, args->y, args->weight, args->rows)) return AGL_ERR_UNSUPPORTED;
    a.swiglu = true;
    a.width = a.high = a.out / 2;
    return launch_for_dtype(stream, &a);
}

extern "C" agl_status agl_cuda_linear_skinny_rope(agl_stream *stream,
                                                  const agl_linear_rope_store_args *args)
{
    skinny_args a = {};
    const agl_rope_store_args *rope = &args->rope;
    if (!fill_args(&a, args->x, rope->qkv, args->weight, rope->tokens)) return AGL_ERR_UNSUPPORTED;
    if (rope->kv.dtype != stream->backend->activation || rope->kv.head_dim % 2 != 0) {
        return AGL_ERR_UNSUPPORTED;
    }
    a.rotates = true, a.rope = *rope;
    a.width = a.out;
    return launch_for_dtype(stream, &a);
}
