/* SPDX-License-Identifier: Apache-2.0
 *
 * rows.cu - operations that touch each value once: embed, gather, swiglu, convert.
 *
 *   embed    out [tokens, hidden] f32 <- table [vocab, hidden] T or visual [visual_rows, hidden] T
 *   gather   out [count] rows <- x [any] rows of row_bytes
 *   swiglu   y [rows, width] T <- x [rows, gate | up] T
 *   convert  out [count] T <- in [count] f32, bf16 or f16
 *
 * Needs     row_bytes % 4 == 0. Widths that are multiples of 8 (gather: 16 bytes) at addresses of
 *           16 bytes take the vector path, all others one value at a time.
 * Bound     memory; one row: latency of a load and a store (embed, gather: two loads in a row).
 * Grid      x: pieces of a row, 128 threads with a vector each; y: rows, in strides of 65535.
 *           convert: as many blocks of 256 as the device holds, in strides.
 * Numerics  copies are exact. swiglu in F32 with the accurate exp and quotient, rounded once;
 *           F16 saturates. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/ptx.cuh"
#include "backend/cuda/rows.cuh"

#include <assert.h>

#define PIECE_THREADS 128
#define CONVERT_THREADS 256
#define CONVERT_BLOCKS_PER_PROCESSOR 8

/* Blocks over `items` pieces of each of `rows` rows. */
static dim3 piece_grid(int64_t items, int64_t rows)
{
    return dim3((unsigned)blocks_for(items, PIECE_THREADS),
                (unsigned)(rows < GRID_Y_MAX ? rows : GRID_Y_MAX));
}

static __device__ __forceinline__ int64_t piece_index(void)
{
    return (int64_t)blockIdx.x * PIECE_THREADS + threadIdx.x;
}

/* ---- embed ------------------------------------------------------------------------- */

template <typename T, int VALUES>
static __global__ void __launch_bounds__(PIECE_THREADS) embed_rows(agl_embed_args args,
                                                                   const void *table)
{
    const int64_t column = piece_index() * VALUES;
    ptx_release_next();
    ptx_wait_for_previous();
    if (column >= args.hidden) return;
    for (int64_t token = blockIdx.y; token < args.tokens; token += gridDim.y) {
        int32_t visual = args.visual != NULL ? args.visual_rows[token] : -1;
        const T *row = visual >= 0 ? (const T *)args.visual + visual * args.hidden
                                   : (const T *)table + args.ids[token] * args.hidden;
        float values[VALUES];
        load_values<VALUES>(values, row + column);
        store_values<VALUES>(args.out + token * args.hidden + column, values);
    }
}

template <typename T>
static agl_status launch_embed(agl_stream *stream, const agl_embed_args *args, const void *table)
{
    bool fits = args->hidden % VECTOR == 0 && is_aligned16(args->out) && is_aligned16(table) &&
                is_aligned16(args->visual);
    dim3 grid = piece_grid(args->hidden / (fits ? VECTOR : 1), args->tokens);
    return cuda_launch_early(stream, fits ? embed_rows<T, VECTOR> : embed_rows<T, 1>, grid,
                             dim3(PIECE_THREADS), 0, *args, table);
}

extern "C" agl_status agl_cuda_embed(agl_stream *stream, const agl_embed_args *args)
{
    assert(args->table->in == args->hidden);
    if (args->tokens < 1) return AGL_OK;
    const void *table = ((const agl_cuda_weight *)args->table)->data;
    AGL_CUDA_BY_ACTIVATION(stream->backend->activation, T,
                           return launch_embed<T>(stream, args, table));
}

/* ---- gather ------------------------------------------------------------------------ */

template <typename Word>
static __global__ void __launch_bounds__(PIECE_THREADS) gather_rows(agl_gather_args args)
{
    const int64_t word = piece_index(), words = args.row_bytes / (int64_t)sizeof(Word);
    ptx_release_next();
    ptx_wait_for_previous();
    if (word >= words) return;
    for (int64_t i = blockIdx.y; i < args.count; i += gridDim.y) {
        ((Word *)args.out)[i * words + word] = ((const Word *)args.x)[args.rows[i] * words + word];
    }
}

extern "C" agl_status agl_cuda_gather(agl_stream *stream, const agl_gather_args *args)
{
    assert(args->row_bytes % 4 == 0);
    if (args->count < 1 || args->row_bytes < 1) return AGL_OK;
    bool fits = args->row_bytes % 16 == 0 && is_aligned16(args->x) && is_aligned16(args->out);
    dim3 grid = piece_grid(args->row_bytes / (fits ? 16 : 4), args->count);
    return cuda_launch_early(stream, fits ? gather_rows<uint4> : gather_rows<uint32_t>, grid,
                             dim3(PIECE_THREADS), 0, *args);
}

/* ---- swiglu ------------------------------------------------------------------------ */

template <typename T, int VALUES>
static __global__ void __launch_bounds__(PIECE_THREADS) swiglu_rows(agl_swiglu_args args)
{
    const int64_t column = piece_index() * VALUES;
    ptx_release_next();
    ptx_wait_for_previous();
    if (column >= args.width) return;
    for (int64_t row = blockIdx.y; row < args.rows; row += gridDim.y) {
        const T *x = (const T *)args.x + row * 2 * args.width + column;
        float gate[VALUES], up[VALUES];
        load_values<VALUES>(gate, x);
        load_values<VALUES>(up, x + args.width);
        for (int i = 0; i < VALUES; i++) gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
        store_values<VALUES>((T *)args.y + row * args.width + column, gate);
    }
}

template <typename T>
static agl_status launch_swiglu(agl_stream *stream, const agl_swiglu_args *args)
{
    bool fits = args->width % VECTOR == 0 && is_aligned16(args->x) && is_aligned16(args->y);
    dim3 grid = piece_grid(args->width / (fits ? VECTOR : 1), args->rows);
    return cuda_launch_early(stream, fits ? swiglu_rows<T, VECTOR> : swiglu_rows<T, 1>, grid,
                             dim3(PIECE_THREADS), 0, *args);
}

extern "C" agl_status agl_cuda_swiglu(agl_stream *stream, const agl_swiglu_args *args)
{
    if (args->rows < 1 || args->width < 1) return AGL_OK;
    AGL_CUDA_BY_ACTIVATION(stream->backend->activation, T, return launch_swiglu<T>(stream, args));
}

/* ---- convert ------------------------------------------------------------------------ */

/* Whole vectors by all blocks, then what is left of `count` one by one by the first. */
template <typename T, typename In, int VALUES>
static __global__ void __launch_bounds__(CONVERT_THREADS) convert_values(T *out, const In *in,
                                                                         int64_t count)
{
    const int64_t vectors = count / VALUES, threads = (int64_t)gridDim.x * CONVERT_THREADS;
    ptx_release_next();
    ptx_wait_for_previous();
    int64_t i = (int64_t)blockIdx.x * CONVERT_THREADS + threadIdx.x;
    int64_t rest = vectors * VALUES + i;
    for (; i < vectors; i += threads) {
        float values[VALUES];
        load_values<VALUES>(values, in + i * VALUES);
        store_values<VALUES>(out + i * VALUES, values);
    }
    if (rest < count) out[rest] = from_f32<T>(to_f32(in[rest]));
}

template <typename T, typename In>
static agl_status launch_convert(agl_stream *stream, void *out, const void *in, int64_t count)
{
    bool fits = is_aligned16(out) && is_aligned16(in);
    int64_t blocks = blocks_for(count, (fits ? VECTOR : 1) * CONVERT_THREADS);
    int64_t resident = (int64_t)agl_cuda_of(stream)->processors * CONVERT_BLOCKS_PER_PROCESSOR;
    if (blocks > resident) blocks = resident;
    return cuda_launch_early(stream,
                             fits ? convert_values<T, In, VECTOR> : convert_values<T, In, 1>,
                             dim3((unsigned)blocks), dim3(CONVERT_THREADS), 0, (T *)out,
                             (const In *)in, count);
}

template <typename T>
static agl_status convert_to(agl_stream *stream, void *out, const void *in, agl_dtype in_dtype,
                             int64_t count)
{
    AGL_CUDA_BY_ACTIVATION(in_dtype, In, return (launch_convert<T, In>(stream, out, in, count)));
}

extern "C" agl_status agl_cuda_convert(agl_stream *stream, void *out, const void *in,
                                       agl_dtype in_dtype, int64_t count)
{
    if (count < 1) return AGL_OK;
    AGL_CUDA_BY_ACTIVATION(stream->backend->activation, T,
                           return convert_to<T>(stream, out, in, in_dtype, count));
}
