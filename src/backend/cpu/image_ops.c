/* SPDX-License-Identifier: Apache-2.0
 *
 * image_ops.c - pixels to patch rows, and the interpolated position table. Plain C on
 * every processor: both touch each element once, between matrix products that touch it
 * thousands of times.
 *
 * Numerics  patchify has the bits of the reference's PIL path: the byte times the double
 *           1/255 is rounded to F32, then (value - mean) / std in F32. A value depends only
 *           on channel and byte, so a table of 3 x 256 holds them all. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_ops.h"

typedef struct {
    const agl_patchify_args *args;
    float values[3][256];
} patchify_job;

/* One row of blocks: `merge` patch rows of the grid, all columns. */
static void patchify_block_row(const patchify_job *job, int64_t block_row)
{
    const agl_patchify_args *args = job->args;
    int64_t patch = args->patch, merge = args->merge;
    int64_t grid_w = args->width / patch;
    int64_t plane = patch * patch, row_values = 3 * args->frames * plane;
    for (int64_t cell = 0; cell < merge * grid_w; cell++) {
        /* `cell` counts in output order: block column, row in block, column in block. */
        int64_t block_column = cell / (merge * merge), in_block = cell % (merge * merge);
        int64_t patch_row = block_row * merge + in_block / merge;
        int64_t patch_column = block_column * merge + in_block % merge;
        float *out = (float *)args->out + (block_row * merge * grid_w + cell) * row_values;
        for (int64_t channel = 0; channel < 3; channel++) {
            float *first = out + channel * args->frames * plane;
            for (int64_t y = 0; y < patch; y++) {
                const uint8_t *in = args->pixels + channel +
                    ((patch_row * patch + y) * args->width + patch_column * patch) * 3;
                for (int64_t x = 0; x < patch; x++) {
                    first[y * patch + x] = job->values[channel][in[x * 3]];
                }
            }
            for (int64_t frame = 1; frame < args->frames; frame++) {
                memcpy(first + frame * plane, first, (size_t)plane * sizeof *first);
            }
        }
    }
}

static void patchify_rows(const void *context, int64_t first, int64_t end)
{
    for (int64_t row = first; row < end; row++) patchify_block_row(context, row);
}

agl_status agl_cpu_patchify(agl_cpu *cpu, const agl_patchify_args *args)
{
    int64_t block = args->patch * args->merge;
    assert(args->height % block == 0 && args->width % block == 0);
    patchify_job job = {.args = args};
    for (int channel = 0; channel < 3; channel++) {
        for (int byte = 0; byte < 256; byte++) {
            float rescaled = (float)((double)byte * (1.0 / 255.0));
            job.values[channel][byte] = (rescaled - args->mean[channel]) / args->std[channel];
        }
    }
    agl_cpu_for_rows(cpu, patchify_rows, &job, args->height / block, args->width * block * 24);
    return AGL_OK;
}

/* Four taps of the cubic convolution kernel with A = -0.75 around one coordinate. */
typedef struct {
    int64_t index[4];
    float weight[4];
} cubic_taps;

static float cubic_near(float d) /* 0 <= d <= 1 */
{
    const float a = -0.75f;
    return ((a + 2.0f) * d - (a + 3.0f)) * d * d + 1.0f;
}

static float cubic_far(float d) /* 1 <= d <= 2 */
{
    const float a = -0.75f;
    return ((a * d - 5.0f * a) * d + 8.0f * a) * d - 4.0f * a;
}

static cubic_taps taps_at(int64_t cell, int64_t cells, int64_t side)
{
    /* Through the [-1, 1] grid in F32, as the reference samples it. */
    float normalised = ((float)cell + 0.5f) / (float)cells * 2.0f - 1.0f;
    float coordinate = ((normalised + 1.0f) * (float)side - 1.0f) / 2.0f;
    float floor_value = floorf(coordinate), t = coordinate - floor_value;
    cubic_taps taps = {.weight = {cubic_far(t + 1.0f), cubic_near(t), cubic_near(1.0f - t),
                                  cubic_far(2.0f - t)}};
    for (int i = 0; i < 4; i++) {
        int64_t index = (int64_t)floor_value - 1 + i;
        taps.index[i] = index < 0 ? 0 : index >= side ? side - 1 : index;
    }
    return taps;
}

static void position_embed_rows(const void *context, int64_t first, int64_t end)
{
    const agl_position_embed_args *args = context;
    int64_t merge = args->merge, hidden = args->hidden;
    for (int64_t row = first; row < end; row++) {
        int64_t cells_per_block_row = merge * args->grid_w;
        int64_t block_row = row / cells_per_block_row, cell = row % cells_per_block_row;
        int64_t in_block = cell % (merge * merge);
        cubic_taps y = taps_at(block_row * merge + in_block / merge, args->grid_h, args->side);
        cubic_taps x = taps_at(cell / (merge * merge) * merge + in_block % merge, args->grid_w,
                               args->side);
        float *out = (float *)args->x + row * hidden;
        const float *tap[16];
        for (int i = 0; i < 16; i++) {
            tap[i] = args->table + (y.index[i / 4] * args->side + x.index[i % 4]) * hidden;
        }
        for (int64_t i = 0; i < hidden; i++) {
            float sum = 0.0f;
            for (int j = 0; j < 4; j++) {
                const float *const *line = tap + 4 * j;
                sum += y.weight[j] * (line[0][i] * x.weight[0] + line[1][i] * x.weight[1] +
                                      line[2][i] * x.weight[2] + line[3][i] * x.weight[3]);
            }
            out[i] += sum;
        }
    }
}

agl_status agl_cpu_position_embed(agl_cpu *cpu, const agl_position_embed_args *args)
{
    assert(args->grid_h % args->merge == 0 && args->grid_w % args->merge == 0);
    agl_cpu_for_rows(cpu, position_embed_rows, args, args->grid_h * args->grid_w, args->hidden * 32);
    return AGL_OK;
}
