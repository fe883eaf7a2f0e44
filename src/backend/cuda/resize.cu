/* SPDX-License-Identifier: Apache-2.0
 *
 * resize.cu - an 8-bit RGB picture at another size, two passes of weighted windows.
 *
 *   pixels  [height, width, 3] u8 -> out [out_height, out_width, 3] u8
 *   between [height, out_width, 3] u8; down first: [out_height, width, 3]
 *
 * Needs     nothing; rows of a multiple of four bytes at addresses of four go four at a time
 *           in the pass down.
 * Bound     the loads of the windows, from the L1: about 12 a value for a picture that keeps its
 *           size, more when it shrinks; memory sees each pass read once and written once.
 * Grid      x: 128 threads with a pixel (across) or 4 bytes (down) each; y: rows, in strides.
 * Numerics  integers: weights of 22 fraction bits, 32-bit sums that wrap, shift, clamp. The bits
 *           of the CPU. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/ptx.cuh"
#include "backend/cuda/rows.cuh"

#include <assert.h>

#define RESIZE_THREADS 128
#define ROUNDING (1u << (AGL_RESIZE_WEIGHT_BITS - 1))

typedef struct {
    const uint8_t *in;          /* [in_rows, in_width, 3]                                */
    uint8_t *out;               /* [out_rows, out_width, 3]                              */
    int64_t in_width, out_width, out_rows;
    agl_resize_windows windows;
} resize_pass;

static __device__ __forceinline__ uint8_t level_of(uint32_t sum)
{
    int level = (int)sum >> AGL_RESIZE_WEIGHT_BITS;
    return (uint8_t)min(max(level, 0), 255);
}

static __global__ void __launch_bounds__(RESIZE_THREADS) resize_across(resize_pass pass)
{
    const int64_t column = (int64_t)blockIdx.x * RESIZE_THREADS + threadIdx.x;
    ptx_release_next();
    ptx_wait_for_previous();
    if (column >= pass.out_width) return;
    const int first = pass.windows.first[column], count = pass.windows.count[column];
    const int32_t *weights = pass.windows.weights + column * pass.windows.taps;
    for (int64_t row = blockIdx.y; row < pass.out_rows; row += gridDim.y) {
        const uint8_t *in = pass.in + (row * pass.in_width + first) * 3;
        uint32_t sums[3] = {ROUNDING, ROUNDING, ROUNDING};
        for (int t = 0; t < count; t++) {
            uint32_t weight = (uint32_t)weights[t];
            for (int c = 0; c < 3; c++) sums[c] += weight * in[3 * t + c];
        }
        uint8_t *out = pass.out + (row * pass.out_width + column) * 3;
        for (int c = 0; c < 3; c++) out[c] = level_of(sums[c]);
    }
}

/* Word: uint32_t, four bytes of a row that is a multiple of them, or uint8_t. */
template <typename Word>
static __global__ void __launch_bounds__(RESIZE_THREADS) resize_down(resize_pass pass)
{
    const int64_t words = pass.out_width * 3 / (int64_t)sizeof(Word);
    const int64_t word = (int64_t)blockIdx.x * RESIZE_THREADS + threadIdx.x;
    ptx_release_next();
    ptx_wait_for_previous();
    if (word >= words) return;
    for (int64_t row = blockIdx.y; row < pass.out_rows; row += gridDim.y) {
        const int first = pass.windows.first[row], count = pass.windows.count[row];
        const int32_t *weights = pass.windows.weights + row * pass.windows.taps;
        const Word *in = (const Word *)pass.in + first * words + word;
        uint32_t sums[sizeof(Word)];
        for (int b = 0; b < (int)sizeof(Word); b++) sums[b] = ROUNDING;
        for (int t = 0; t < count; t++) {
            uint32_t weight = (uint32_t)weights[t], bytes = in[t * words];
            for (int b = 0; b < (int)sizeof(Word); b++) {
                sums[b] += weight * (bytes >> (8 * b) & 255u);
            }
        }
        uint32_t levels = 0;
        for (int b = 0; b < (int)sizeof(Word); b++) {
            levels |= (uint32_t)level_of(sums[b]) << (8 * b);
        }
        ((Word *)pass.out)[row * words + word] = (Word)levels;
    }
}

static bool is_aligned4(const void *pointer)
{
    return ((uintptr_t)pointer & 3) == 0;
}

static agl_status launch_pass(agl_stream *stream, const resize_pass *pass, bool down)
{
    int64_t row_bytes = pass->out_width * 3;
    bool fours = down && row_bytes % 4 == 0 && is_aligned4(pass->in) && is_aligned4(pass->out);
    int64_t items = fours ? row_bytes / 4 : down ? row_bytes : pass->out_width;
    dim3 grid((unsigned)blocks_for(items, RESIZE_THREADS),
              (unsigned)(pass->out_rows < GRID_Y_MAX ? pass->out_rows : GRID_Y_MAX));
    return cuda_launch_early(stream, !down ? resize_across
                                     : fours ? resize_down<uint32_t> : resize_down<uint8_t>,
                             grid, dim3(RESIZE_THREADS), 0, *pass);
}

extern "C" agl_status agl_cuda_resize(agl_stream *stream, const agl_resize_args *args)
{
    bool across = args->across.weights != NULL, down = args->down.weights != NULL;
    assert(across || args->width == args->out_width);
    assert(down || args->height == args->out_height);
    assert(!across || !down || args->between != NULL);
    if (!across && !down) {
        size_t bytes = (size_t)(args->height * args->width * 3);
        cudaError_t error = cudaMemcpyAsync(args->out, args->pixels, bytes,
                                            cudaMemcpyDeviceToDevice, agl_cuda_queue(stream));
        return error == cudaSuccess ? AGL_OK : AGL_ERR_DEVICE;
    }
    bool down_first = down && (!across || args->down_first);
    resize_pass first = {}, second = {};
    first.in = args->pixels;
    first.in_width = args->width;
    first.out_width = down_first ? args->width : args->out_width;
    first.out_rows = down_first ? args->out_height : args->height;
    first.windows = down_first ? args->down : args->across;
    first.out = across && down ? args->between : args->out;
    AGL_TRY(launch_pass(stream, &first, down_first));
    if (!across || !down) return AGL_OK;
    second.in = first.out;
    second.in_width = first.out_width;
    second.out = args->out;
    second.out_width = args->out_width;
    second.out_rows = args->out_height;
    second.windows = down_first ? args->across : args->down;
    return launch_pass(stream, &second, !down_first);
}
