/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_skinny.cu - y = x W^T + b for a few rows, at the speed of reading W once; with
 * SwiGLU behind it, y = silu(gate) * up; and with rope_store behind it. For one row several such
 * products and the norms between them are one kernel, a chain.
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
 *           the ring is on its way, later chunks across the borders of tiles and links. The ring is
 *           nearly all of the SM's shared memory, so that a block of the next kernel can only
 *           take the place of one that has ended: it fills its ring while others still work
 *           and small kernels in between run. (Smaller blocks start earlier, wherever there is
 *           room, and then some SMs have more of them than others. Loads into registers do not
 *           do: ptxas moves them down.) x is read some chunks ahead, through
 *           the L1: under this load an answer of the L2 takes over a microsecond.
 * Chain     Between two links all blocks wait for each other. All are resident, one an SM, and only
 *           one stream has chains. Meanwhile the ring fills with the next link's weights: the
 *           memory does not rest. Every block computes a norm between links for itself, with its
 *           threads' eight values of the residual in registers; the first block writes them.
 * rope      Pairs of dims are neighbouring columns of y, so a thread turns its two sums before it
 *           rounds them. Where a pair turns to is asked for before the tile's sums.
 * SwiGLU    A tile is gate rows above the up rows that belong to them, wherever they lie.
 * Numerics  F32 sums in an order given by `in` and the number of warps: the same row gives the
 *           same bits whatever the other rows are and however many. In a chain the same bits as
 *           alone. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/linear.h"
#include "backend/cuda/linear_skinny.cuh"

#include <assert.h>
#include <stdlib.h>

/* ---- kernel -------------------------------------------------------------------- */

/* All blocks wait for each other: a block's threads have written, thread 0 counts it, and when all
 * are counted everything they wrote is visible. Every chain has as many blocks and counts as often
 * in each, so that counts go on from launch to launch. */
typedef struct {
    unsigned long long *count, wanted;          /* of thread 0                             */
} meeting;

/* Behind the wait for the kernel before: only blocks of this one can have been counted since. */
static __device__ __forceinline__ void meeting_begin(meeting *all, unsigned long long *count)
{
    all->count = count;
    if (threadIdx.x == 0) all->wanted = ptx_load_relaxed(count) / gridDim.x * gridDim.x;
}

static __device__ __forceinline__ void meeting_arrive(meeting *all)
{
    __syncthreads();
    if (threadIdx.x == 0) ptx_add_release(all->count, 1);
    all->wanted += gridDim.x;
}

static __device__ __forceinline__ void meeting_wait(const meeting *all)
{
    if (threadIdx.x == 0) {
        while (ptx_load_relaxed(all->count) < all->wanted) {}
        ptx_load_acquire(all->count);       /* once: it empties the L1 */
    }
    __syncthreads();
}

/* The link's row of x behind its norm, to shared memory; `residual`: the thread's values of norm->x. */
template <typename T, int WARPS, int STAGES>
static __device__ __forceinline__ const T *normalise_row(skinny_shared<WARPS, STAGES> *shared,
                                                         const skinny_norm *norm, int hidden,
                                                         float residual[VECTOR],
                                                         const float weight[VECTOR],
                                                         const float delta_weight[VECTOR],
                                                         int *turn)
{
    const int column = (int)threadIdx.x * VECTOR;
    const bool inside = column < hidden;
    float delta[VECTOR] = {}, y[VECTOR];
    if (norm->delta != NULL) {
        if (inside) load8(delta, norm->delta + column);
        add_delta8(residual, delta, delta_weight, norm->delta_weight != NULL, hidden, norm->eps,
                   &shared->sums, turn);
    }
    normalise8(y, residual, weight, hidden, norm->eps, &shared->sums, turn);
    if (inside) store8((T *)&shared->normed[threadIdx.x], y);
    if (inside && blockIdx.x == 0) {
        if (norm->writes_x) store8(norm->x + column, residual);
        store8((T *)norm->y + column, y);
    }
    __syncthreads();
    return (const T *)shared->normed;
}

template <typename T, int WARPS, int STAGES>
static __global__ void __launch_bounds__(WARPS * WARP_LANES, 1)
linear_skinny(const __grid_constant__ skinny_chain chain)
{
    DYNAMIC_SHARED(memory);
    skinny_shared<WARPS, STAGES> *shared = (skinny_shared<WARPS, STAGES> *)memory;
    weight_chunk *ring = shared->ring[threadIdx.x / WARP_LANES];
    weight_cursor cursor = {};
    cursor_enter_link(&cursor, &chain, 0);
    for (int i = 0; i < STAGES - 1; i++) fetch<WARPS, STAGES>(ring, &cursor, &chain);

    int stage = 0, turn = 0;
    float residual[VECTOR] = {};
    meeting all = {};
    for (int i = 0; i < chain.count; i++) {
        const skinny_link *link = &chain.links[i];
        const skinny_norm *norm = &link->norm;
        const int column = (int)threadIdx.x * VECTOR;
        float weight[VECTOR] = {}, delta_weight[VECTOR] = {};
        const bool normed = norm->weight != NULL && column < link->in;
        if (normed) load8(weight, norm->weight + column);
        if (normed && norm->delta_weight != NULL) load8(delta_weight, norm->delta_weight + column);
        if (i == 0) {
            ptx_wait_for_previous();
            ptx_release_next();
            if (chain_meets(&chain)) meeting_begin(&all, chain.arrivals);
        }
        /* No link writes x before the last norm does. */
        if (normed && norm->reads_x) load8(residual, norm->x + column);
        if (i > 0) meeting_wait(&all);
        const T *x = (const T *)link->x;
        if (norm->weight != NULL) {
            x = normalise_row<T>(shared, norm, link->in, residual, weight, delta_weight, &turn);
        }
        if (link->rotates) {
            run_link<T, WARPS, STAGES, true>(shared, &cursor, &chain, link, x, &stage);
        } else {
            run_link<T, WARPS, STAGES, false>(shared, &cursor, &chain, link, x, &stage);
        }
        if (i + 1 < chain.count || chain.late_x != NULL) meeting_arrive(&all);
    }
    if (chain.late_x != NULL && blockIdx.x == 0) {
        meeting_wait(&all);
        const int column = (int)threadIdx.x * VECTOR;
        if (column < chain.late_columns) store8(chain.late_x + column, residual);
    }
}

/* ---- launcher ------------------------------------------------------------------ */

static int ceil_div(int64_t a, int64_t b) { return (int)((a + b - 1) / b); }

static void share_out(skinny_link *link, int processors, int warps)
{
    int tile_most = link->swiglu ? TILE_ROWS / 2 : TILE_ROWS;
    int unit = link->rotates ? 2 : 1; /* columns that stay together */
    link->block_columns = ceil_div(link->width, processors * unit) * unit;
    int tiles = ceil_div(link->block_columns, tile_most);
    link->tile_columns = ceil_div(link->block_columns, tiles * unit) * unit;
    link->chunks = ceil_div(link->in, CHUNK * warps);
}

template <typename T, int WARPS, int STAGES>
static agl_status launch(agl_stream *stream, skinny_chain chain)
{
    int processors = agl_cuda_of(stream)->processors;
    for (int i = 0; i < chain.count; i++) share_out(&chain.links[i], processors, WARPS);
    const skinny_link *first = &chain.links[0];
    bool meets = chain_meets(&chain);
    dim3 grid(meets ? processors : ceil_div(first->width, first->block_columns),
              ceil_div(first->rows, SLICE_ROWS));
    assert(!meets || grid.y == 1);
    return cuda_launch_early(stream, linear_skinny<T, WARPS, STAGES>, grid, dim3(WARPS * WARP_LANES),
                             sizeof(skinny_shared<WARPS, STAGES>), chain);
}

/* Warps of a block and chunks of a ring by the shared memory of an SM: 227 KB on H100 and H200, 163
 * on A100, 99 on most others. What it leaves is the L1, and more rows of x need more of that. */
static int warps_of(const agl_stream *stream)
{
    size_t bytes = agl_cuda_of(stream)->shared_bytes_max;
    return bytes >= sizeof(skinny_shared<16, 4>) ? 16 : bytes >= sizeof(skinny_shared<8, 4>) ? 8 : 0;
}

template <typename T>
static agl_status launch_for_device(agl_stream *stream, const skinny_chain *chain)
{
    size_t bytes = agl_cuda_of(stream)->shared_bytes_max;
    if (chain->links[0].rows == 1 && bytes >= sizeof(skinny_shared<16, 6>)) {
        return launch<T, 16, 6>(stream, *chain);
    }
    if (chain->links[0].rows <= SLICE_ROWS / 2 && bytes >= sizeof(skinny_shared<16, 5>)) {
        return launch<T, 16, 5>(stream, *chain);
    }
    switch (warps_of(stream)) {
    case 16: return launch<T, 16, 4>(stream, *chain);
    case 8: return launch<T, 8, 4>(stream, *chain);
    default: return AGL_ERR_UNSUPPORTED;
    }
}

static agl_status launch_for_dtype(agl_stream *stream, const skinny_chain *chain)
{
    switch (stream->backend->activation) {
    case AGL_BF16: return launch_for_device<__nv_bfloat16>(stream, chain);
    case AGL_F16: return launch_for_device<__half>(stream, chain);
    default: return AGL_ERR_UNSUPPORTED;
    }
}

/* ---- chains -------------------------------------------------------------------- */

/* What a stream has not launched yet: links, and a norm whose product is still to come. */
struct agl_cuda_chain {
    skinny_chain ready;
    const float *x;                 /* the residual of the links' norms; NULL: none had one   */
    agl_rmsnorm_args norm;          /* y == NULL: none                                        */
};

extern "C" agl_status agl_cuda_chain_create(agl_stream *stream)
{
    agl_cuda_stream *owner = (agl_cuda_stream *)stream;
    owner->chain = (agl_cuda_chain *)calloc(1, sizeof *owner->chain);
    return owner->chain != NULL ? AGL_OK : AGL_ERR_MEMORY;
}

extern "C" void agl_cuda_chain_destroy(agl_stream *stream)
{
    agl_cuda *cuda = agl_cuda_of(stream);
    if (cuda->chains == stream) cuda->chains = NULL;
    free(((agl_cuda_stream *)stream)->chain);
}

/* Two streams with chains could each hold SMs that the other waits for: the first that asks is
 * the only one. */
static agl_cuda_chain *chain_of(agl_stream *stream)
{
    agl_cuda *cuda = agl_cuda_of(stream);
    if (!cuda->blocks_meet || cuda->chain_space.data == NULL) return NULL;
    if (cuda->chains == NULL) cuda->chains = stream;
    return cuda->chains == stream ? ((agl_cuda_stream *)stream)->chain : NULL;
}

/* A refused launch stays in cudaGetLastError, which stream_wait asks and which ends a recording. */
extern "C" void agl_cuda_chain_launch(agl_stream *stream)
{
    agl_cuda_stream *owner = (agl_cuda_stream *)stream;
    agl_cuda_chain *chain = owner->chain;
    skinny_chain ready = chain->ready;
    agl_rmsnorm_args norm = chain->norm;
    owner->chain_pending = false;
    chain->ready.count = 0, chain->x = NULL, chain->norm.y = NULL;
    ready.arrivals = (unsigned long long *)agl_cuda_of(stream)->chain_space.data;
    skinny_link *last = NULL;
    for (int i = 0; i < ready.count; i++) {
        if (ready.links[i].norm.delta != NULL) last = &ready.links[i];
    }
    ready.late_x = NULL;
    if (last != NULL && last->norm.reads_x) {
        ready.late_x = last->norm.x, ready.late_columns = last->in;
    } else if (last != NULL) {
        last->norm.writes_x = true;
    }
    if (ready.count > 0) launch_for_dtype(stream, &ready);
    if (norm.y != NULL) agl_cuda_rmsnorm_alone(stream, &norm);
}

extern "C" bool agl_cuda_chain_norm(agl_stream *stream, const agl_rmsnorm_args *args)
{
    agl_cuda_stream *owner = (agl_cuda_stream *)stream;
    bool fits = args->rows == 1 && args->y != NULL && args->y != (void *)args->x && !args->y_f32 &&
                stream->backend->activation != AGL_F32 && args->hidden % VECTOR == 0 &&
                args->hidden <= warps_of(stream) * WARP_LANES * VECTOR && is_aligned16(args->x) &&
                is_aligned16(args->delta) && is_aligned16(args->delta_weight) &&
                is_aligned16(args->weight) && is_aligned16(args->y);
    agl_cuda_chain *chain = fits ? chain_of(stream) : NULL;
    if (chain == NULL) return false;
    if (chain->norm.y != NULL || (chain->x != NULL && chain->x != args->x)) {
        agl_cuda_chain_launch(stream);
    }
    chain->norm = *args;
    owner->chain_pending = true;
    return true;
}

/* The norm in front of the link if that reads what the norm writes. */
static void take_norm(agl_cuda_chain *chain, skinny_link *link)
{
    const agl_rmsnorm_args *args = &chain->norm;
    if (args->y == NULL) return;
    link->norm.x = args->x, link->norm.y = args->y, link->norm.weight = args->weight;
    link->norm.delta = args->delta, link->norm.delta_weight = args->delta_weight;
    link->norm.eps = args->eps;
    link->norm.reads_x = chain->x == NULL;
    chain->x = args->x;
    chain->norm.y = NULL;
}

/* The product at once, or with those that follow. */
static agl_status add_link(agl_stream *stream, skinny_link *link)
{
    agl_cuda_stream *owner = (agl_cuda_stream *)stream;
    agl_cuda_chain *chain = link->rows == 1 ? chain_of(stream) : NULL;
    if (chain == NULL) {
        skinny_chain alone = {};
        alone.links[0] = *link, alone.count = 1;
        return launch_for_dtype(stream, &alone);
    }
    bool normed = chain->norm.y != NULL && chain->norm.y == link->x && chain->norm.hidden == link->in;
    if (chain->ready.count == CHAIN_MAX || (chain->norm.y != NULL && !normed)) {
        agl_rmsnorm_args norm = chain->norm;
        if (normed) chain->norm.y = NULL;
        agl_cuda_chain_launch(stream);
        if (normed) chain->norm = norm;
    }
    take_norm(chain, link);
    chain->ready.links[chain->ready.count++] = *link;
    owner->chain_pending = true;
    return AGL_OK;
}

/* ---- operations ---------------------------------------------------------------- */

/* What all have in common; false: the device, its activations or a size do not fit. */
static bool fill_link(skinny_link *link, const agl_stream *stream, const void *x, void *y,
                      const agl_weight *base, int64_t rows)
{
    const agl_cuda_weight *weight = (const agl_cuda_weight *)base;
    if (stream->backend->activation == AGL_F32 || warps_of(stream) == 0) return false;
    if (rows > INT16_MAX || base->out > INT32_MAX - TILE_ROWS || base->in > INT32_MAX / 2) return false;
    link->x = x, link->x_stride = base->in, link->rows = (int)rows, link->y = y;
    link->weight = weight->data, link->bias = weight->bias;
    link->in = (int)base->in, link->out = (int)base->out;
    return true;
}

extern "C" agl_status agl_cuda_linear_skinny(agl_stream *stream, const agl_linear_args *args)
{
    skinny_link link = {};
    if (!fill_link(&link, stream, args->x, args->y, args->weight, args->rows)) {
        return AGL_ERR_UNSUPPORTED;
    }
    link.x_stride = args->x_stride, link.y_f32 = args->y_f32;
    link.width = link.out;
    return add_link(stream, &link);
}

extern "C" agl_status agl_cuda_linear_skinny_swiglu(agl_stream *stream,
                                                    const agl_linear_swiglu_args *args)
{
    skinny_link link = {};
    if (!fill_link(&link, stream, args->x, args->y, args->weight, args->rows)) {
        return AGL_ERR_UNSUPPORTED;
    }
    link.swiglu = true;
    link.width = link.high = link.out / 2;
    return add_link(stream, &link);
}

extern "C" agl_status agl_cuda_linear_skinny_rope(agl_stream *stream,
                                                  const agl_linear_rope_store_args *args)
{
    skinny_link link = {};
    const agl_rope_store_args *rope = &args->rope;
    if (!fill_link(&link, stream, args->x, rope->qkv, args->weight, rope->tokens) ||
        rope->kv.dtype != stream->backend->activation || rope->kv.head_dim % 2 != 0) {
        return AGL_ERR_UNSUPPORTED;
    }
    link.rotates = true, link.rope = *rope;
    link.width = link.out;
    return add_link(stream, &link);
}
