/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_skinny.cu - y = x W^T + b for a few rows, at the speed of reading W once; and with
 * SwiGLU behind it, y = silu(gate) * up.
 *
 *   x        [rows, in]  bf16 or f16, row stride x_stride
 *   weight   [out, in]   the same type; SwiGLU: gate rows, then as many up rows
 *   bias     [out]       f32, or none
 *   y        [rows, out] the same type, or f32; SwiGLU: [rows, out / 2] the same type
 *
 * Needs     in % 8 == 0, x_stride % 8 == 0, x and weight 16-byte aligned. Any out; any rows,
 *           in slices of 16 that read the weights anew.
 * Bound     memory: out * in * 2 bytes.
 * Grid      persistent blocks of 8 warps, at most 3 an SM. A block takes tiles of 16 weight
 *           rows; its warps deal the tile's chunks of 64 columns out among themselves and add
 *           their sums in shared memory. The grid is chosen so that all blocks get the same
 *           number of tiles, up to one: they share the bandwidth, so they end together
 *           although some SMs hold 2 of them and some 3.
 * Loads     Every warp has its own ring of 3 chunks in shared memory that cp.async fills, whole
 *           128-byte lines of W: no barrier of the block. While it waits for a chunk two more
 *           are on their way, the first two from before the kernels ahead have ended, later
 *           ones across the border of tiles. With 2 blocks an SM that is 96 KB an SM; H200
 *           needs 25 KB. (Loads into registers do not do: ptxas moves them down.)
 * SwiGLU    A tile is 8 gate rows above the 8 up rows that belong to them, wherever they lie.
 * Numerics  F32 sums in an order given by `in` alone: the same row gives the same bits
 *           whatever the other rows are and however many.
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

#define WARPS 8
#define BLOCK_THREADS (WARPS * WARP_LANES)
#define BLOCKS_PER_SM 3
#define TILE_ROWS 16                /* weight rows: M of an mma                               */
#define TOKENS 8                    /* rows of x: N of an mma                                 */
#define SLICE_ROWS 16               /* rows of x that one pass over the weights serves        */
#define PIECE 8                     /* columns in 16 bytes                                    */
#define CHUNK 64                    /* columns of a warp at once: a line of each weight row   */
#define PIECES (CHUNK / PIECE)
#define GROUPS (PIECES / 4)         /* a group of 32 columns is one piece for each t          */
#define LANE_LOADS (TILE_ROWS * PIECES / WARP_LANES)
#define STAGES 3                    /* chunks of the ring                                     */
#define PARTIAL_STRIDE 20           /* of a token's 16 sums: the writes of a warp hit 32 banks */

typedef struct {
    const void *x, *weight;
    const float *bias;
    void *y;
    int64_t x_stride;
    int rows, in, out;
    int width;                      /* columns of y                                           */
    int tile_columns;               /* of y from a tile: 16, with SwiGLU 8                    */
    int high;                       /* from weight row g of a tile to its row g + 8           */
    int tiles;                      /* ceil(width / tile_columns)                             */
    int chunks;                     /* of a warp and tile                                     */
    bool y_f32, swiglu;
} skinny_args;

/* A warp's weights. Piece p of row r lies at place_of(r, p). */
typedef uint4 weight_chunk[TILE_ROWS][PIECES];

template <int TOKEN_TILES>
struct skinny_shared {
    weight_chunk ring[WARPS][STAGES];
    /* [tile % 2][warp][row of x][weight row]. Twice: a tile's sums are written while slow
     * warps still add those of the tile before. */
    float partial[2][WARPS][TOKEN_TILES * TOKENS][PARTIAL_STRIDE];
};

/* Lanes that read at once hold pieces 0 to 3, or 4 to 7, of an even and an odd row: the halves
 * of odd rows change places, so that these lie in different banks. */
static __device__ __forceinline__ int place_of(int row, int piece)
{
    return piece ^ (row % 2 * (PIECES / 2));
}

/* What a warp reads next: runs through the block's tiles, STAGES - 1 chunks ahead of the sums.
 * A lane copies piece lane % 8 of rows lane / 8, + 4, + 8, + 12. */
typedef struct {
    const unsigned short *rows[LANE_LOADS];
    int tile, chunk, stage;
} weight_cursor;

/* Rows past the last are read as the last: their sums go nowhere. */
static __device__ __forceinline__ void cursor_enter_tile(weight_cursor *cursor, int tile,
                                                         const skinny_args *args)
{
    int first = min(tile, args->tiles - 1) * args->tile_columns + threadIdx.x % WARP_LANES / PIECES;
#pragma unroll
    for (int i = 0; i < LANE_LOADS; i++) {
        int offset = i * (TILE_ROWS / LANE_LOADS);
        if (offset >= TILE_ROWS / 2) offset += args->high - TILE_ROWS / 2;
        int row = min(first + offset, args->out - 1);
        cursor->rows[i] = (const unsigned short *)args->weight + (int64_t)row * args->in;
    }
    cursor->tile = tile;
    cursor->chunk = 0;
}

/* First column of a chunk of this warp. The warps take chunks in turn, so that the block reads
 * 1 KB of each row at a time. */
static __device__ __forceinline__ int column_of(int chunk)
{
    return (chunk * WARPS + (int)threadIdx.x / WARP_LANES) * CHUNK;
}

static __device__ __forceinline__ int stage_after(int stage)
{
    return stage + 1 == STAGES ? 0 : stage + 1;
}

/* Zeros past the last column; nothing past the last tile. */
static __device__ __forceinline__ void fetch(weight_chunk *ring, weight_cursor *cursor,
                                             const skinny_args *args)
{
    if (cursor->tile < args->tiles) {
        int lane = threadIdx.x % WARP_LANES, piece = lane % PIECES;
        int column = column_of(cursor->chunk) + piece * PIECE;
        bool valid = column < args->in;
        if (!valid) column = 0;
#pragma unroll
        for (int i = 0; i < LANE_LOADS; i++) {
            int row = lane / PIECES + i * (TILE_ROWS / LANE_LOADS);
            ptx_cp_async16_or_zero(&ring[cursor->stage][row][place_of(row, piece)],
                                   cursor->rows[i] + column, valid);
        }
    }
    ptx_cp_async_commit();
    cursor->stage = stage_after(cursor->stage);
    if (++cursor->chunk == args->chunks) {
        cursor_enter_tile(cursor, cursor->tile + (int)gridDim.x, args);
    }
}

/* A lane's pieces of row g of the n-th eight of x, through the L1. */
template <typename T, int TOKEN_TILES>
static __device__ __forceinline__ void read_x(uint4 out[GROUPS][TOKEN_TILES],
                                              const T *const x[TOKEN_TILES], int chunk, int in)
{
#pragma unroll
    for (int j = 0; j < GROUPS; j++) {
        int column = column_of(chunk) + (4 * j + (int)threadIdx.x % 4) * PIECE;
#pragma unroll
        for (int n = 0; n < TOKEN_TILES; n++) {
            out[j][n] = make_uint4(0, 0, 0, 0);
            if (column < in) out[j][n] = *(const uint4 *)(x[n] + column);
        }
    }
}

/* sums[n] += the chunk's weights times the n-th eight of x. */
template <typename T, int TOKEN_TILES>
static __device__ __forceinline__ void multiply(float sums[TOKEN_TILES][4],
                                                const weight_chunk weights,
                                                const uint4 x[GROUPS][TOKEN_TILES])
{
    int lane = threadIdx.x % WARP_LANES, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < GROUPS; j++) {
        int place = place_of(g, 4 * j + t); /* rows g and g + 8 are both even or both odd */
        const uint4 low = weights[g][place], high = weights[g + 8][place];
        const uint32_t first[4] = {low.x, high.x, low.y, high.y};
        const uint32_t second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (int n = 0; n < TOKEN_TILES; n++) {
            const uint32_t x_first[2] = {x[j][n].x, x[j][n].y};
            const uint32_t x_second[2] = {x[j][n].z, x[j][n].w};
            ptx_mma<T>(sums[n], first, x_first);
            ptx_mma<T>(sums[n], second, x_second);
        }
    }
}

/* One warp's sums of a tile as [row of x][weight row]. */
template <int TOKEN_TILES>
static __device__ __forceinline__ void keep_partial(float (*partial)[PARTIAL_STRIDE],
                                                    const float sums[TOKEN_TILES][4])
{
    int lane = threadIdx.x % WARP_LANES, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
        int row = n * TOKENS + 2 * t;
        partial[row][g] = sums[n][0];
        partial[row + 1][g] = sums[n][1];
        partial[row][g + 8] = sums[n][2];
        partial[row + 1][g + 8] = sums[n][3];
    }
}

/* Bias of weight row `out` + the warps' sums of the tile's row `place`, in the order of the warps. */
template <int TOKEN_TILES>
static __device__ __forceinline__ float add_warps(const skinny_args *args,
    const float (*partial)[TOKEN_TILES * TOKENS][PARTIAL_STRIDE], int row, int place, int out)
{
    float sum = args->bias != NULL ? args->bias[out] : 0.0f;
#pragma unroll
    for (int part = 0; part < WARPS; part++) sum += partial[part][row][place];
    return sum;
}

template <typename T, int TOKEN_TILES>
static __device__ __forceinline__ void write_tile(const skinny_args *args,
    const float (*partial)[TOKEN_TILES * TOKENS][PARTIAL_STRIDE], int tile, int row_first, int rows)
{
    int columns = args->tile_columns;
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * columns; i += BLOCK_THREADS) {
        int row = i / columns, place = i % columns, out = tile * columns + place;
        if (out >= args->width) continue;
        float value = add_warps<TOKEN_TILES>(args, partial, row, place, out);
        if (args->swiglu) {
            float up = add_warps<TOKEN_TILES>(args, partial, row, place + TILE_ROWS / 2,
                                              out + args->high);
            value = value / (1.0f + expf(-value)) * up;
        }
        int64_t at = (int64_t)(row_first + row) * args->width + out;
        if (args->y_f32) ((float *)args->y)[at] = value;
        else ((T *)args->y)[at] = from_f32<T>(value);
    }
}

template <typename T, int TOKEN_TILES>
static __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS_PER_SM)
linear_skinny(const skinny_args args)
{
    DYNAMIC_SHARED(memory);
    skinny_shared<TOKEN_TILES> *shared = (skinny_shared<TOKEN_TILES> *)memory;
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    weight_chunk *ring = shared->ring[warp];
    int row_first = blockIdx.y * SLICE_ROWS;
    int rows = min(args.rows - row_first, SLICE_ROWS);

    weight_cursor cursor;
    cursor.stage = 0;
    cursor_enter_tile(&cursor, blockIdx.x, &args);
    for (int i = 0; i < STAGES - 1; i++) fetch(ring, &cursor, &args);
    ptx_wait_for_previous();
    ptx_release_next();

    const T *x[TOKEN_TILES];        /* a row past the last is the last: its sums go nowhere */
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
        int row = row_first + min(n * TOKENS + lane / 4, rows - 1);
        x[n] = (const T *)args.x + row * args.x_stride;
    }
    int stage = 0, half = 0;
    for (int tile = blockIdx.x; tile < args.tiles; tile += gridDim.x, half ^= 1) {
        float sums[TOKEN_TILES][4] = {};
#pragma unroll 1
        for (int chunk = 0; chunk < args.chunks; chunk++) {
            uint4 x_chunk[GROUPS][TOKEN_TILES];
            __syncwarp();           /* all lanes have read the chunk that fetch replaces */
            fetch(ring, &cursor, &args);
            read_x<T, TOKEN_TILES>(x_chunk, x, chunk, args.in);
            ptx_cp_async_wait<STAGES - 1>();
            __syncwarp();           /* and here all have waited */
            multiply<T, TOKEN_TILES>(sums, ring[stage], x_chunk);
            stage = stage_after(stage);
        }
        keep_partial<TOKEN_TILES>(shared->partial[half][warp], sums);
        __syncthreads();
        write_tile<T, TOKEN_TILES>(&args, shared->partial[half], tile, row_first, rows);
    }
}

/* ---- launcher ------------------------------------------------------------------ */

static int ceil_div(int64_t a, int64_t b) { return (int)((a + b - 1) / b); }

template <typename T, int TOKEN_TILES>
static agl_status launch(agl_stream *stream, const skinny_args *args)
{
    const agl_cuda *cuda = agl_cuda_of(stream);
    /* The system keeps 1 KB of each block's shared memory for itself. */
    size_t bytes = sizeof(skinny_shared<TOKEN_TILES>), block_bytes = bytes + 1024;
    int blocks_per_sm = (int)((cuda->shared_bytes_max + 1024) / block_bytes);
    if (blocks_per_sm > BLOCKS_PER_SM) blocks_per_sm = BLOCKS_PER_SM;
    if (blocks_per_sm == 0) return AGL_ERR_UNSUPPORTED;
    int tiles_per_block = ceil_div(args->tiles, cuda->processors * blocks_per_sm);
    dim3 grid(ceil_div(args->tiles, tiles_per_block), ceil_div(args->rows, SLICE_ROWS));
    return cuda_launch_early(stream, linear_skinny<T, TOKEN_TILES>, grid, dim3(BLOCK_THREADS),
                             bytes, *args);
}

template <typename T>
static agl_status launch_for_rows(agl_stream *stream, const skinny_args *args)
{
    return args->rows <= TOKENS ? launch<T, 1>(stream, args) : launch<T, 2>(stream, args);
}

static agl_status launch_for_dtype(agl_stream *stream, const skinny_args *args)
{
    switch (stream->backend->activation) {
    case AGL_BF16: return launch_for_rows<__nv_bfloat16>(stream, args);
    case AGL_F16: return launch_for_rows<__half>(stream, args);
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
    args->chunks = ceil_div(args->in, CHUNK * WARPS);
    return true;
}

extern "C" agl_status agl_cuda_linear_skinny(agl_stream *stream, const agl_linear_args *args)
{
    skinny_args a = {};
    if (!fill_args(&a, args->x, args->y, args->weight, args->rows)) return AGL_ERR_UNSUPPORTED;
    a.x_stride = args->x_stride, a.y_f32 = args->y_f32;
    a.width = a.out, a.tile_columns = TILE_ROWS, a.high = TILE_ROWS / 2;
    a.tiles = ceil_div(a.width, a.tile_columns);
    return launch_for_dtype(stream, &a);
}

extern "C" agl_status agl_cuda_linear_skinny_swiglu(agl_stream *stream,
                                                    const agl_linear_swiglu_args *args)
{
    skinny_args a = {};
    if (!fill_args(&a, args->x, args->y, args->weight, args->rows)) return AGL_ERR_UNSUPPORTED;
    a.swiglu = true;
    a.width = a.high = a.out / 2, a.tile_columns = TILE_ROWS / 2;
    a.tiles = ceil_div(a.width, a.tile_columns);
    return launch_for_dtype(stream, &a);
}
