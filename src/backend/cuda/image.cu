/* SPDX-License-Identifier: Apache-2.0
 *
 * image.cu - pixels to patch rows, and the interpolated position table.
 *
 *   patchify        pixels [height, width, 3] u8 -> out [patches, 3 * frames * patch * patch] T
 *   position_embed  x [patches, hidden] f32 += taps of table [side * side, hidden] f32
 *
 * Needs     height and width multiples of patch * merge. position_embed: hidden % 4 == 0 and
 *           addresses of 16 bytes for the vector path, one value a thread otherwise.
 * Bound     patchify: writing the patches. position_embed: reading and writing x; 16 taps a
 *           value come from the L1, because neighbouring patches have the same taps.
 * Grid      patchify: one block a patch, one thread a pixel. position_embed: one block per 16
 *           patches in merge order, a thread keeps its columns; weights of the 16 in shared memory.
 * Numerics  patchify has the bits of the reference's PIL path before the store: byte * (1.0 / 255)
 *           in F64 rounded to F32, minus mean, over std in F32. position_embed in F32. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/ptx.cuh"
#include "backend/cuda/rows.cuh"

#include <assert.h>

#define PATCH_THREADS 256
#define POSITION_THREADS 384        /* hidden 1536: four columns each */
#define POSITION_PATCHES 16
#define POSITION_VECTOR 4

/* Row and column of a patch in the grid. Merge order: block row, block column, then inside. */
typedef struct {
    int row, column;
} patch_cell;

static __device__ __forceinline__ patch_cell patch_cell_of(int64_t patch, int grid_w, int merge)
{
    int64_t per_block_row = (int64_t)merge * grid_w;
    int block_row = (int)(patch / per_block_row), rest = (int)(patch % per_block_row);
    int in_block = rest % (merge * merge);
    patch_cell cell = {block_row * merge + in_block / merge,
                       rest / (merge * merge) * merge + in_block % merge};
    return cell;
}

/* ---- patchify ------------------------------------------------------------------------ */

template <typename T>
static __global__ void __launch_bounds__(PATCH_THREADS) patchify_patch(agl_patchify_args args)
{
    const int patch = (int)args.patch, frames = (int)args.frames, plane = patch * patch;
    const int64_t index = blockIdx.x;
    patch_cell cell = patch_cell_of(index, (int)(args.width / patch), (int)args.merge);
    const uint8_t *corner =
        args.pixels + ((int64_t)cell.row * patch * args.width + (int64_t)cell.column * patch) * 3;
    T *out = (T *)args.out + index * 3 * frames * plane;
    ptx_release_next();
    ptx_wait_for_previous();
    for (int i = threadIdx.x; i < plane; i += PATCH_THREADS) {
        const uint8_t *pixel = corner + (i / patch * args.width + i % patch) * 3;
        for (int channel = 0; channel < 3; channel++) {
            float rescaled = (float)((double)pixel[channel] * (1.0 / 255.0));
            T value = from_f32<T>((rescaled - args.mean[channel]) / args.std[channel]);
            for (int frame = 0; frame < frames; frame++) {
                out[(channel * frames + frame) * plane + i] = value;
            }
        }
    }
}

template <typename T>
static agl_status launch_patchify(agl_stream *stream, const agl_patchify_args *args)
{
    int64_t patches = args->height / args->patch * (args->width / args->patch);
    return cuda_launch_early(stream, patchify_patch<T>, dim3((unsigned)patches),
                             dim3(PATCH_THREADS), 0, *args);
}

extern "C" agl_status agl_cuda_patchify(agl_stream *stream, const agl_patchify_args *args)
{
    assert(args->height % (args->patch * args->merge) == 0 && args->height > 0);
    assert(args->width % (args->patch * args->merge) == 0 && args->width > 0);
    AGL_CUDA_BY_ACTIVATION(stream->backend->activation, T, return launch_patchify<T>(stream, args));
}

/* ---- position table -------------------------------------------------------------------- */

/* Four taps of the cubic convolution kernel with A = -0.75 around one coordinate. */
typedef struct {
    int index[4];
    float weight[4];
} cubic_taps;

static __device__ float cubic_near(float d)     /* 0 <= d <= 1 */
{
    const float a = -0.75f;
    return ((a + 2.0f) * d - (a + 3.0f)) * d * d + 1.0f;
}

static __device__ float cubic_far(float d)      /* 1 <= d <= 2 */
{
    const float a = -0.75f;
    return ((a * d - 5.0f * a) * d + 8.0f * a) * d - 4.0f * a;
}

static __device__ void taps_at(cubic_taps *taps, int cell, int cells, int side)
{
    /* Through the [-1, 1] grid in F32, as the reference samples it. */
    float normalised = ((float)cell + 0.5f) / (float)cells * 2.0f - 1.0f;
    float coordinate = ((normalised + 1.0f) * (float)side - 1.0f) / 2.0f;
    float floor_value = floorf(coordinate), t = coordinate - floor_value;
    taps->weight[0] = cubic_far(t + 1.0f);
    taps->weight[1] = cubic_near(t);
    taps->weight[2] = cubic_near(1.0f - t);
    taps->weight[3] = cubic_far(2.0f - t);
    for (int i = 0; i < 4; i++) {
        int index = (int)floor_value - 1 + i;
        taps->index[i] = index < 0 ? 0 : index >= side ? side - 1 : index;
    }
}

template <int VALUES>
static __device__ __forceinline__ void load_columns(float *out, const float *in)
{
    if constexpr (VALUES == POSITION_VECTOR) {
        float4 v = *(const float4 *)in;
        out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
    } else {
        out[0] = in[0];
    }
}

template <int VALUES>
static __device__ __forceinline__ void store_columns(float *out, const float *in)
{
    if constexpr (VALUES == POSITION_VECTOR) {
        *(float4 *)out = make_float4(in[0], in[1], in[2], in[3]);
    } else {
        out[0] = in[0];
    }
}

template <int VALUES>
static __global__ void __launch_bounds__(POSITION_THREADS)
    position_embed_patches(agl_position_embed_args args)
{
    __shared__ cubic_taps rows[POSITION_PATCHES], columns[POSITION_PATCHES];
    const int64_t patches = args.grid_h * args.grid_w;
    const int64_t first = (int64_t)blockIdx.x * POSITION_PATCHES;
    const int count = (int)min(patches - first, (int64_t)POSITION_PATCHES);
    const int side = (int)args.side, hidden = (int)args.hidden;
    ptx_release_next();
    if ((int)threadIdx.x < 2 * count) {
        int patch = threadIdx.x / 2;
        patch_cell cell = patch_cell_of(first + patch, (int)args.grid_w, (int)args.merge);
        if (threadIdx.x % 2 == 0) taps_at(&rows[patch], cell.row, (int)args.grid_h, side);
        else taps_at(&columns[patch], cell.column, (int)args.grid_w, side);
    }
    __syncthreads();
    ptx_wait_for_previous();
    for (int column = threadIdx.x * VALUES; column < hidden; column += POSITION_THREADS * VALUES) {
        for (int patch = 0; patch < count; patch++) {
            float *x = args.x + (first + patch) * hidden + column;
            float sum[VALUES] = {}, old[VALUES];
            load_columns<VALUES>(old, x);
            for (int j = 0; j < 4; j++) {
                const float *line =
                    args.table + (int64_t)rows[patch].index[j] * side * hidden + column;
                float across[VALUES] = {}, tap[VALUES];
                for (int k = 0; k < 4; k++) {
                    load_columns<VALUES>(tap, line + (int64_t)columns[patch].index[k] * hidden);
                    for (int i = 0; i < VALUES; i++) across[i] += tap[i] * columns[patch].weight[k];
                }
                for (int i = 0; i < VALUES; i++) sum[i] += across[i] * rows[patch].weight[j];
            }
            for (int i = 0; i < VALUES; i++) old[i] += sum[i];
            store_columns<VALUES>(x, old);
        }
    }
}

extern "C" agl_status agl_cuda_position_embed(agl_stream *stream,
                                              const agl_position_embed_args *args)
{
    assert(args->grid_h % args->merge == 0 && args->grid_w % args->merge == 0);
    int64_t blocks = blocks_for(args->grid_h * args->grid_w, POSITION_PATCHES);
    if (blocks < 1) return AGL_OK;
    bool fits = args->hidden % POSITION_VECTOR == 0 && is_aligned16(args->x) &&
                is_aligned16(args->table);
    return cuda_launch_early(stream, fits ? position_embed_patches<POSITION_VECTOR>
                                          : position_embed_patches<1>,
                             dim3((unsigned)blocks), dim3(POSITION_THREADS), 0, *args);
}
