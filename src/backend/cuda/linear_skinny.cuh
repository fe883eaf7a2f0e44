/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_skinny.cuh - a block's share of one product with a few rows: y = x W^T + b, with SwiGLU or
 * rope_store behind it. linear_skinny.cu makes kernels of it and says how they are arranged.
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
#ifndef AGL_BACKEND_CUDA_LINEAR_SKINNY_CUH
#define AGL_BACKEND_CUDA_LINEAR_SKINNY_CUH

#include "backend/cuda/norms.cuh"
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

#define CHAIN_MAX 4                 /* links: o, gate and up, down, then the next layer's qkv */

/* A norm in front of a product of one row: agl_rmsnorm_args. weight == NULL: none. */
typedef struct {
    float *x;
    const float *delta, *delta_weight, *weight;
    void *y;
    float eps;
    bool reads_x;                   /* from memory: else it is in registers since a norm before */
    bool writes_x;                  /* at once; chain.late_x otherwise, or a later norm does  */
} skinny_norm;

/* One product, and a norm before it. */
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
    skinny_norm norm;
    agl_rope_store_args rope;
} skinny_link;

/* Products of one kernel. Behind each but the last all blocks wait for each other. */
typedef struct {
    skinny_link links[CHAIN_MAX];
    int count;
    float *late_x;                  /* written when all blocks have ended; NULL: nothing is   */
    int late_columns;
    unsigned long long *arrivals;   /* of all blocks of all chains so far                     */
} skinny_chain;

/* Its blocks wait for each other: there must be one on every SM. */
static __host__ __device__ __forceinline__ bool chain_meets(const skinny_chain *chain)
{
    return chain->count > 1 || chain->late_x != NULL;
}

/* A warp's weights. Piece p of row r lies at place_of(r, p). */
typedef uint4 weight_chunk[TILE_ROWS][PIECES];

/* One warp's sums of a tile: [row of x][weight row]. */
typedef float skinny_partial[SLICE_ROWS][PARTIAL_STRIDE];

template <int WARPS, int STAGES>
struct skinny_shared {
    weight_chunk ring[WARPS][STAGES];
    /* [tile % 2]: a tile's sums are written while slow warps still add those of the tile before. */
    skinny_partial partial[2][WARPS];
    uint4 normed[WARPS * WARP_LANES];           /* a row of x behind its norm                  */
    sum_lines sums;
};

/* Lanes that read at once hold pieces 0 to 3, or 4 to 7, of an even and an odd row: the halves
 * of odd rows change places, so that these lie in different banks. */
static __device__ __forceinline__ int place_of(int row, int piece)
{
    return piece ^ (row % 2 * (PIECES / 2));
}

/* What a warp reads next: runs through the block's tiles of all links, a ring ahead of the sums. A
 * lane copies piece lane % 8 of rows lane / 8, + 4, + 8, + 12. */
typedef struct {
    const unsigned short *rows[LANE_LOADS];     /* NULL: beyond the tile                       */
    int first, end;                 /* column of y that the tile begins with; the block's end  */
    int chunk, stage;
    int link, in, chunks;           /* link == count: nothing is left                          */
} weight_cursor;

static __device__ __forceinline__ void cursor_enter_tile(weight_cursor *cursor,
                                                         const skinny_link *link)
{
    int lane_row = threadIdx.x % WARP_LANES / PIECES;
    int columns = min(link->tile_columns, cursor->end - cursor->first);
#pragma unroll
    for (int i = 0; i < LANE_LOADS; i++) {
        int offset = i * (TILE_ROWS / LANE_LOADS) + lane_row, row = cursor->first + offset;
        if (link->swiglu && offset >= TILE_ROWS / 2) {
            offset -= TILE_ROWS / 2;
            row += link->high - TILE_ROWS / 2;
        }
        cursor->rows[i] = offset < columns
                              ? (const unsigned short *)link->weight + (int64_t)row * link->in
                              : NULL;
    }
    cursor->chunk = 0;
}

/* The first tile of this link, or of the next one that has any for this block. */
static __device__ __forceinline__ void cursor_enter_link(weight_cursor *cursor,
                                                         const skinny_chain *chain, int index)
{
    for (; index < chain->count; index++) {
        const skinny_link *link = &chain->links[index];
        cursor->first = blockIdx.x * link->block_columns;
        cursor->end = min(cursor->first + link->block_columns, link->width);
        cursor->in = link->in, cursor->chunks = link->chunks;
        if (cursor->first < cursor->end) break;
    }
    cursor->link = index;
    if (index < chain->count) cursor_enter_tile(cursor, &chain->links[index]);
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

static __device__ __forceinline__ void cursor_advance(weight_cursor *cursor,
                                                      const skinny_chain *chain)
{
    if (++cursor->chunk < cursor->chunks) return;
    const skinny_link *link = &chain->links[cursor->link];
    cursor->first += link->tile_columns;
    if (cursor->first < cursor->end) cursor_enter_tile(cursor, link);
    else cursor_enter_link(cursor, chain, cursor->link + 1);
}

/* Zeros past the last column; nothing of rows beyond the tile, whose sums go nowhere. */
template <int WARPS, int STAGES>
static __device__ __forceinline__ void fetch(weight_chunk *ring, weight_cursor *cursor,
                                             const skinny_chain *chain)
{
    bool more = cursor->link < chain->count;
    if (more) {
        int lane = threadIdx.x % WARP_LANES, piece = lane % PIECES;
        int column = column_of<WARPS>(cursor->chunk) + piece * PIECE;
        bool valid = column < cursor->in;
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
    if (more) cursor_advance(cursor, chain);
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
static __device__ __forceinline__ float add_warps(const skinny_link *link,
                                                  const skinny_partial *partial, int row,
                                                  int place, int out)
{
    float sum = link->bias != NULL ? link->bias[out] : 0.0f;
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

static __device__ __forceinline__ tile_pair pair_begin(const skinny_link *link, int row_first,
                                                       int rows)
{
    const agl_rope_store_args *rope = &link->rope;
    int pairs = link->tile_columns / 2, row = threadIdx.x / pairs, token = row_first + row;
    tile_pair pair = {};
    pair.row = row < rows ? row : -1, pair.place = threadIdx.x % pairs * 2;
    if (pair.row < 0) return pair;
#pragma unroll
    for (int i = 0; i < 3; i++) pair.positions[i] = (float)rope->positions[i * rope->tokens + token];
    pair.slot = rope->slots[token];
    return pair;
}

static __device__ __forceinline__ void pair_enter_tile(tile_pair *pair, const skinny_link *link,
                                                       int first)
{
    int out = first + pair->place, head_dim = (int)link->rope.kv.head_dim;
    int turn = out % head_dim / 2;
    bool turns = out / head_dim < link->rope.heads + link->rope.kv.kv_heads &&
                 turn < link->rope.pairs;
    pair->axis = turns ? link->rope.axis[turn] : -1;
    pair->inv_freq = turns ? link->rope.inv_freq[turn] : 0.0f;
}

/* What rope_store does with the pair's two values; see rope.cu. */
template <typename T, int WARPS>
static __device__ __forceinline__ void write_pair(const skinny_link *link,
                                                  const skinny_partial *partial,
                                                  const tile_pair *pair, int first, int columns,
                                                  int row_first)
{
    const agl_kv_layer *kv = &link->rope.kv;
    int place = pair->place, out = first + place;
    if (pair->row < 0 || place >= columns) return;
    float a = add_warps<WARPS>(link, partial, pair->row, place, out);
    float b = add_warps<WARPS>(link, partial, pair->row, place + 1, out + 1);
    if (pair->axis >= 0) {
        float sine, cosine, low = a;
        float position = pair->axis == 0   ? pair->positions[0]
                         : pair->axis == 1 ? pair->positions[1]
                                           : pair->positions[2];
        sincosf(position * pair->inv_freq, &sine, &cosine);
        a = low * cosine - b * sine;
        b = b * cosine + low * sine;
    }
    T *y = (T *)link->y + (int64_t)(row_first + pair->row) * link->width + out;
    y[0] = from_f32<T>(a), y[1] = from_f32<T>(b);
    int head = out / (int)kv->head_dim - (int)link->rope.heads, kv_heads = (int)kv->kv_heads;
    if (head < 0 || pair->slot < 0) return;
    int64_t page = pair->slot / kv->page_tokens, offset = pair->slot - page * kv->page_tokens;
    T *pages = (T *)(head < kv_heads ? kv->k : kv->v);
    int64_t kv_head = page * kv_heads + (head < kv_heads ? head : head - kv_heads);
    T *to = pages + (kv_head * kv->page_tokens + offset) * kv->head_dim + out % (int)kv->head_dim;
    to[0] = y[0], to[1] = y[1];
}

template <typename T, int WARPS>
static __device__ __forceinline__ void write_tile(const skinny_link *link,
                                                  const skinny_partial *partial, int first,
                                                  int columns, int row_first, int rows)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * columns; i += WARPS * WARP_LANES) {
        int row = i / columns, place = i % columns, out = first + place;
        float value = add_warps<WARPS>(link, partial, row, place, out);
        if (link->swiglu) {
            float up = add_warps<WARPS>(link, partial, row, place + TILE_ROWS / 2, out + link->high);
            value = value / (1.0f + expf(-value)) * up;
        }
        int64_t at = (int64_t)(row_first + row) * link->width + out;
        if (link->y_f32) ((float *)link->y)[at] = value;
        else ((T *)link->y)[at] = from_f32<T>(value);
    }
}

/* All of a link's tiles of this block. x: the link's, or its row behind the norm. */
template <typename T, int WARPS, int STAGES, bool ROTATES>
static __device__ __forceinline__ void run_link(skinny_shared<WARPS, STAGES> *shared,
                                                weight_cursor *cursor, const skinny_chain *chain,
                                                const skinny_link *link, const T *x, int *stage)
{
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    weight_chunk *ring = shared->ring[warp];
    const int row_first = blockIdx.y * SLICE_ROWS, rows = min(link->rows - row_first, SLICE_ROWS);
    const int block_first = blockIdx.x * link->block_columns;
    const int block_end = min(block_first + link->block_columns, link->width);
    const int in = link->in, chunks = link->chunks;

    /* A row past the last is the last: its sums go nowhere. */
    x += (row_first + min(lane / 4, rows - 1)) * link->x_stride;
    uint4 x_chunks[X_AHEAD + 1][GROUPS];
    int x_next = 0;
#pragma unroll
    for (int i = 0; i < X_AHEAD; i++) {
        read_x<T, WARPS>(x_chunks[i], x, x_next, in);
        x_next = x_next + 1 < chunks ? x_next + 1 : 0;
    }
    tile_pair pair;
    if constexpr (ROTATES) pair = pair_begin(link, row_first, rows);
    int half = 0;
    for (int first = block_first; first < block_end; first += link->tile_columns, half ^= 1) {
        float sums[4] = {};
        int columns = min(link->tile_columns, block_end - first);
        if constexpr (ROTATES) pair_enter_tile(&pair, link, first);
#pragma unroll 1
        for (int chunk = 0; chunk < chunks; chunk++) {
            __syncwarp();           /* all lanes have read the chunk that fetch replaces */
            fetch<WARPS, STAGES>(ring, cursor, chain);
            read_x<T, WARPS>(x_chunks[X_AHEAD], x, x_next, in);
            x_next = x_next + 1 < chunks ? x_next + 1 : 0;
            ptx_cp_async_wait<STAGES - 1>();
            __syncwarp();           /* and here all have waited */
            multiply<T>(sums, ring[*stage], x_chunks[0]);
#pragma unroll
            for (int i = 0; i < X_AHEAD * GROUPS; i++) {
                x_chunks[i / GROUPS][i % GROUPS] = x_chunks[i / GROUPS + 1][i % GROUPS];
            }
            *stage = stage_after<STAGES>(*stage);
        }
        keep_partial(shared->partial[half][warp], sums);
        __syncthreads();
        const skinny_partial *partial = shared->partial[half];
        if constexpr (ROTATES) write_pair<T, WARPS>(link, partial, &pair, first, columns, row_first);
        else write_tile<T, WARPS>(link, partial, first, columns, row_first, rows);
    }
}

#endif
