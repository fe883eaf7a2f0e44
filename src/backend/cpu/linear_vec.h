/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_vec.h - y = x W^T + b with weights read in place, for any number of rows.
 *
 *   x  [rows, in] F32      W  [out, in] BF16, F16 or F32      y  [rows, out] F32
 *
 * Tile      up to VEC_LINEAR_ROWS rows by 4 outputs. One sum vector per (row, output) runs
 *           along `in`, so a weight vector is used as it lies in the file: 2-byte weights are
 *           loaded as 4-byte words whose even elements are shifted and odd ones masked, one
 *           operation a vector. The rows of x are packed to match.
 *
 *   packed x  [block of BLOCK columns][row tile][step of 2 vectors][row in tile][2 vectors]
 *
 * Numerics  Each (row, output): VEC_LANES sums per block of columns, added up by one fixed
 *           tree; blocks added in order; then the bias. A row's result has the same bits
 *           whatever other rows, tiles, tasks or threads there are.
 * Bound     Few rows: memory. One row tile, 4 long streams a task, prefetched.
 *           Many rows: FMA. A task keeps OUTS outputs of one block in the L2 and one row
 *           tile of x in the L1. Per step 48 FMAs meet 20 loads (AVX-512). */

#include <assert.h>
#include <string.h>

#include "backend/cpu/cpu_ops.h"

#define LINEAR_BLOCK 1024       /* columns: 6 rows of packed x are 24 KB of the L1       */
#define LINEAR_OUTS 64          /* of a task with several row tiles: 128 KB of the L2    */
#define LINEAR_STREAM_BYTES (1 << 20)   /* weights of a task with one row tile           */
#define LINEAR_PREFETCH 4096    /* bytes ahead in each of the 4 streams                  */
#define STEP (2 * VEC_LANES)

typedef struct {
    agl_cpu *cpu;
    const agl_linear_args *args;
    int64_t row_first, rows;    /* of this pass                                          */
    int64_t columns;            /* `in` rounded up to STEP                               */
    int64_t tiles;              /* row tiles of the pass                                 */
    int64_t outs;               /* per task                                              */
    int64_t out_tasks, tile_groups;
} linear_pass;

/* ---- packing --------------------------------------------------------------- */

static int64_t tile_row(const linear_pass *pass, int64_t tile)
{
    return pass->rows * tile / pass->tiles; /* tiles differ by at most one row */
}

static int64_t block_columns(const linear_pass *pass, int64_t block)
{
    int64_t left = pass->columns - block * LINEAR_BLOCK;
    return left < LINEAR_BLOCK ? left : LINEAR_BLOCK;
}

static float *packed_tile(const linear_pass *pass, int64_t block, int64_t row)
{
    return (float *)pass->cpu->shared + block * LINEAR_BLOCK * pass->rows +
           row * block_columns(pass, block);
}

static void pack_tile(const linear_pass *pass, int64_t tile)
{
    const agl_linear_args *args = pass->args;
    bool pairs = ((const agl_cpu_weight *)args->weight)->desc.dtype == AGL_BF16;
    int64_t first = tile_row(pass, tile), rows = tile_row(pass, tile + 1) - first;
    int64_t in = args->weight->in;
    for (int64_t row = 0; row < rows; row++) {
        const float *x = (const float *)args->x + (pass->row_first + first + row) * args->x_stride;
        for (int64_t column = 0; column < in; column += STEP) {
            int64_t block = column / LINEAR_BLOCK, step = column % LINEAR_BLOCK / STEP;
            float *out = packed_tile(pass, block, first) + (step * rows + row) * STEP;
            int64_t left = in - column;
            vec a = vec_load_f32(x + column, left < VEC_LANES ? left : VEC_LANES);
            vec b = left > VEC_LANES ? vec_load_f32(x + column + VEC_LANES, left < STEP ? left - VEC_LANES : VEC_LANES)
                                     : vec_zero();
            vec_store(out, pairs ? vec_even(a, b) : a);
            vec_store(out + VEC_LANES, pairs ? vec_odd(a, b) : b);
        }
    }
}

static void pack_task(void *context, size_t task, uint32_t worker)
{
    (void)worker;
    pack_tile(context, (int64_t)task);
}

/* ---- one tile -------------------------------------------------------------- */

INLINE vec weights_first(agl_dtype dtype, const char *w)
{
    if (dtype == AGL_BF16) return vec_bf16_even(w);
    return dtype == AGL_F16 ? vec_load_f16(w, VEC_LANES) : vec_load((const float *)(const void *)w);
}

INLINE vec weights_second(agl_dtype dtype, const char *w)
{
    if (dtype == AGL_BF16) return vec_bf16_odd(w);
    return dtype == AGL_F16 ? vec_load_f16(w + 2 * VEC_LANES, VEC_LANES)
                            : vec_load((const float *)(const void *)w + VEC_LANES);
}

/* One step of columns. All indices are constants after unrolling: sums stay in registers. */
INLINE void tile_step(vec sum[VEC_LINEAR_ROWS][4], const char *const w[4], int64_t at,
                      const float *x, agl_dtype dtype, int rows, bool stream)
{
    vec weight[4];
    UNROLL for (int out = 0; out < 4; out++) {
        if (stream) __builtin_prefetch(w[out] + at + LINEAR_PREFETCH);
        weight[out] = weights_first(dtype, w[out] + at);
    }
    UNROLL for (int row = 0; row < rows; row++) {
        vec a = vec_load(x + row * STEP);
        UNROLL for (int out = 0; out < 4; out++) sum[row][out] = vec_fma(a, weight[out], sum[row][out]);
    }
    UNROLL for (int out = 0; out < 4; out++) weight[out] = weights_second(dtype, w[out] + at);
    UNROLL for (int row = 0; row < rows; row++) {
        vec a = vec_load(x + row * STEP + VEC_LANES);
        UNROLL for (int out = 0; out < 4; out++) sum[row][out] = vec_fma(a, weight[out], sum[row][out]);
    }
}

/* sums[row][output] of `columns` columns, the last of which may leave a step incomplete.
 * `dtype`, `rows` and `stream` are constants wherever this is called. */
INLINE void tile_sums(float *sums, const char *const w[4], const float *x, int64_t columns,
                      agl_dtype dtype, int rows, bool stream)
{
    const int64_t bytes = dtype == AGL_F32 ? 4 : 2;
    vec sum[VEC_LINEAR_ROWS][4];
    UNROLL for (int row = 0; row < rows; row++) {
        UNROLL for (int out = 0; out < 4; out++) sum[row][out] = vec_zero();
    }
    int64_t at = 0, end = columns / STEP * STEP * bytes;
    for (; at < end; at += STEP * bytes) {
        tile_step(sum, w, at, x, dtype, rows, stream);
        x += rows * STEP;
    }
    if (columns % STEP != 0) {
        char last[4][STEP * 4] = {{0}}; /* rows end here: what follows is not ours to read */
        const char *last_w[4];
        for (int out = 0; out < 4; out++) {
            memcpy(last[out], w[out] + at, (size_t)(columns % STEP * bytes));
            last_w[out] = last[out];
        }
        tile_step(sum, last_w, 0, x, dtype, rows, false);
    }
    UNROLL for (int row = 0; row < rows; row++) {
        vec_sum4(sums + row * 4, sum[row][0], sum[row][1], sum[row][2], sum[row][3]);
    }
}

INLINE void tile_any_rows(float *sums, const char *const w[4], const float *x, int64_t columns,
                          agl_dtype dtype, int rows, bool stream)
{
    switch (rows) {
    case 1: tile_sums(sums, w, x, columns, dtype, 1, stream); break;
    case 2: tile_sums(sums, w, x, columns, dtype, 2, stream); break;
    case 3: tile_sums(sums, w, x, columns, dtype, 3, stream); break;
#if VEC_LINEAR_ROWS > 3
    case 4: tile_sums(sums, w, x, columns, dtype, 4, stream); break;
    case 5: tile_sums(sums, w, x, columns, dtype, 5, stream); break;
    case 6: tile_sums(sums, w, x, columns, dtype, 6, stream); break;
#endif
    default: assert(!"a tile has 1 .. VEC_LINEAR_ROWS rows");
    }
}

/* The kernels: one function per weight format and way of reading. */
typedef void (*tile_fn)(float *, const char *const[4], const float *, int64_t, int);
#define TILE(name, dtype, stream)                                                          \
    static void name(float *sums, const char *const w[4], const float *x, int64_t columns, \
                     int rows)                                                             \
    {                                                                                      \
        tile_any_rows(sums, w, x, columns, dtype, rows, stream);                           \
    }
TILE(tile_bf16, AGL_BF16, false)
TILE(tile_bf16_stream, AGL_BF16, true)
TILE(tile_f16, AGL_F16, false)
TILE(tile_f16_stream, AGL_F16, true)
TILE(tile_f32, AGL_F32, false)
TILE(tile_f32_stream, AGL_F32, true)
#undef TILE

static const struct {
    agl_dtype dtype;
    tile_fn one_tile, many_tiles;
} LINEAR_ROWS[] = {
    /* weights    rows fit one tile   more rows         why                              */
    { AGL_BF16,   tile_bf16_stream,   tile_bf16 },   /* memory bound: prefetch; L2: don't */
    { AGL_F16,    tile_f16_stream,    tile_f16  },
    { AGL_F32,    tile_f32_stream,    tile_f32  },
};

/* ---- tasks ----------------------------------------------------------------- */

/* One block of columns of one tile at outputs out[0 .. 3]; an output of -1 is left out. */
static void run_tile(const linear_pass *pass, tile_fn kernel, int64_t tile, int64_t block,
                     const int64_t out[4])
{
    const agl_linear_args *args = pass->args;
    const agl_weight *weight = args->weight;
    int64_t first = tile_row(pass, tile), rows = tile_row(pass, tile + 1) - first;
    int64_t offset = block * LINEAR_BLOCK;
    int64_t columns = weight->in - offset < LINEAR_BLOCK ? weight->in - offset : LINEAR_BLOCK;
    size_t bytes = agl_dtype_bytes(((const agl_cpu_weight *)weight)->desc.dtype);
    const char *w[4];
    for (int i = 0; i < 4; i++) {
        int64_t row = out[i] >= 0 ? out[i] : out[0];
        w[i] = (const char *)agl_cpu_weight_row(weight, row) + (size_t)offset * bytes;
    }
    float sums[VEC_LINEAR_ROWS * 4];
    kernel(sums, w, packed_tile(pass, block, first), columns, (int)rows);
    bool last = offset + columns == weight->in;
    for (int i = 0; i < 4; i++) {
        if (out[i] < 0) continue;
        float bias = last ? agl_cpu_weight_bias(weight, out[i]) : 0.0f;
        for (int64_t row = 0; row < rows; row++) {
            float *y = (float *)args->y + (pass->row_first + first + row) * weight->out + out[i];
            float sum = block == 0 ? sums[row * 4 + i] : *y + sums[row * 4 + i];
            *y = last ? sum + bias : sum;
        }
    }
}

static void linear_task(void *context, size_t task, uint32_t worker)
{
    (void)worker;
    const linear_pass *pass = context;
    const agl_weight *weight = pass->args->weight;
    agl_dtype dtype = ((const agl_cpu_weight *)weight)->desc.dtype;
    size_t format = 0;
    while (LINEAR_ROWS[format].dtype != dtype) format++;
    int64_t out_task = (int64_t)task % pass->out_tasks, group = (int64_t)task / pass->out_tasks;
    int64_t out_first = out_task * pass->outs;
    int64_t outs = weight->out - out_first < pass->outs ? weight->out - out_first : pass->outs;
    int64_t tile_first = pass->tiles * group / pass->tile_groups;
    int64_t tile_end = pass->tiles * (group + 1) / pass->tile_groups;
    int64_t blocks = (weight->in + LINEAR_BLOCK - 1) / LINEAR_BLOCK;
    int64_t quarter = (outs + 3) / 4;
    if (pass->tiles == 1) {
        /* Stream i walks a quarter of the task's outputs: 4 long runs of memory. */
        for (int64_t j = 0; j < quarter; j++) {
            int64_t out[4];
            for (int i = 0; i < 4; i++) {
                int64_t k = i * quarter + j;
                out[i] = k < outs ? out_first + k : -1;
            }
            for (int64_t block = 0; block < blocks; block++) {
                run_tile(pass, LINEAR_ROWS[format].one_tile, 0, block, out);
            }
        }
        return;
    }
    for (int64_t block = 0; block < blocks; block++) {
        for (int64_t tile = tile_first; tile < tile_end; tile++) {
            for (int64_t j = 0; j < outs; j += 4) {
                int64_t out[4];
                for (int i = 0; i < 4; i++) out[i] = j + i < outs ? out_first + j + i : -1;
                run_tile(pass, LINEAR_ROWS[format].many_tiles, tile, block, out);
            }
        }
    }
}

/* Outputs of a task: large enough to pay for its start, small enough that threads end
 * together; with few outputs and many rows, rows are shared out too. */
static void choose_tasks(linear_pass *pass)
{
    const agl_weight *weight = pass->args->weight;
    int64_t row_bytes = weight->in * (int64_t)agl_dtype_bytes(((const agl_cpu_weight *)weight)->desc.dtype);
    int64_t threads = pass->cpu->threads;
    pass->outs = LINEAR_OUTS;
    if (pass->tiles == 1) {
        int64_t fair = weight->out / (4 * threads);
        pass->outs = LINEAR_STREAM_BYTES / row_bytes;
        if (pass->outs > fair) pass->outs = fair;
        pass->outs = pass->outs < 4 ? 4 : pass->outs / 4 * 4;
    }
    pass->out_tasks = (weight->out + pass->outs - 1) / pass->outs;
    pass->tile_groups = 1;
    if (pass->out_tasks < 4 * threads && pass->tiles > 1) {
        pass->tile_groups = (4 * threads + pass->out_tasks - 1) / pass->out_tasks;
        if (pass->tile_groups > pass->tiles) pass->tile_groups = pass->tiles;
    }
}

static agl_status linear(agl_cpu *cpu, const agl_linear_args *args)
{
    assert(args->rows >= 1 && args->x_stride >= args->weight->in);
    linear_pass pass = {.cpu = cpu, .args = args};
    pass.columns = (args->weight->in + STEP - 1) / STEP * STEP;
    for (int64_t row = 0; row < args->rows; row += AGL_CPU_LINEAR_ROWS) {
        pass.row_first = row;
        pass.rows = args->rows - row < AGL_CPU_LINEAR_ROWS ? args->rows - row : AGL_CPU_LINEAR_ROWS;
        pass.tiles = (pass.rows + VEC_LINEAR_ROWS - 1) / VEC_LINEAR_ROWS;
        assert((size_t)(pass.rows * pass.columns) * sizeof(float) <= cpu->shared_bytes);
        choose_tasks(&pass);
        if (pass.tiles == 1) pack_tile(&pass, 0);
        else agl_thread_pool_run(cpu->pool, pack_task, &pass, (size_t)pass.tiles);
        agl_thread_pool_run(cpu->pool, linear_task, &pass, (size_t)(pass.out_tasks * pass.tile_groups));
    }
    return AGL_OK;
}
