/* SPDX-License-Identifier: Apache-2.0
 *
 * resize.c - an 8-bit RGB picture at another size: two passes of weighted windows, rounded to
 * 8 bits between them. The meaning of the operation and no more: where the pixels stay on the
 * CPU, agl_image_resize gives the same bits, faster and without the picture between. */
#include <assert.h>
#include <string.h>

#include "backend/cpu/cpu_ops.h"

#define ROUNDING (1u << (AGL_RESIZE_WEIGHT_BITS - 1))

typedef struct {
    const uint8_t *in;          /* [in_rows, in_width, 3]                                */
    uint8_t *out;               /* [out_rows, out_width, 3]                              */
    int64_t in_width, out_width, out_rows;
    const agl_resize_windows *windows;
} resize_pass;

/* Unsigned sums wrap without harm; the total always fits 32 bits with its sign. */
static uint8_t level_of(uint32_t sum)
{
    int32_t level = (int32_t)sum >> AGL_RESIZE_WEIGHT_BITS;
    return (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
}

/* One output value: `count` bytes that lie `stride` apart. */
static uint8_t window_level(const uint8_t *in, int64_t stride, const int32_t *weights,
                            int32_t count)
{
    uint32_t sum = ROUNDING;
    for (int32_t t = 0; t < count; t++) sum += (uint32_t)weights[t] * in[t * stride];
    return level_of(sum);
}

static void across_rows(const void *context, int64_t first, int64_t end)
{
    const resize_pass *pass = context;
    const agl_resize_windows *windows = pass->windows;
    for (int64_t row = first; row < end; row++) {
        for (int64_t i = 0; i < pass->out_width * 3; i++) {
            int64_t column = i / 3, first_column = windows->first[column];
            const uint8_t *in = pass->in + (row * pass->in_width + first_column) * 3 + i % 3;
            const int32_t *weights = windows->weights + column * windows->taps;
            pass->out[row * pass->out_width * 3 + i] =
                window_level(in, 3, weights, windows->count[column]);
        }
    }
}

static void down_rows(const void *context, int64_t first, int64_t end)
{
    const resize_pass *pass = context;
    const agl_resize_windows *windows = pass->windows;
    int64_t row_bytes = pass->out_width * 3;
    for (int64_t row = first; row < end; row++) {
        const uint8_t *in = pass->in + windows->first[row] * row_bytes;
        for (int64_t i = 0; i < row_bytes; i++) {
            pass->out[row * row_bytes + i] = window_level(
                in + i, row_bytes, windows->weights + row * windows->taps, windows->count[row]);
        }
    }
}

static void run_pass(agl_cpu *cpu, const resize_pass *pass, bool down)
{
    agl_cpu_for_rows(cpu, down ? down_rows : across_rows, pass, pass->out_rows,
                     pass->out_width * 3 * pass->windows->taps);
}

agl_status agl_cpu_resize(agl_cpu *cpu, const agl_resize_args *args)
{
    bool across = args->across.weights != NULL, down = args->down.weights != NULL;
    assert(across || args->width == args->out_width);
    assert(down || args->height == args->out_height);
    assert(!across || !down || args->between != NULL);
    if (!across && !down) {
        memcpy(args->out, args->pixels, (size_t)(args->height * args->width * 3));
        return AGL_OK;
    }
    bool down_first = down && (!across || args->down_first);
    resize_pass first = {
        .in = args->pixels, .out = across && down ? args->between : args->out,
        .in_width = args->width, .out_width = down_first ? args->width : args->out_width,
        .out_rows = down_first ? args->out_height : args->height,
        .windows = down_first ? &args->down : &args->across};
    run_pass(cpu, &first, down_first);
    if (!across || !down) return AGL_OK;
    resize_pass second = {
        .in = first.out, .out = args->out, .in_width = first.out_width,
        .out_width = args->out_width, .out_rows = args->out_height,
        .windows = down_first ? &args->across : &args->down};
    run_pass(cpu, &second, !down_first);
    return AGL_OK;
}
