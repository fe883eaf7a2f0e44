/* SPDX-License-Identifier: Apache-2.0
 *
 * image_resize.c - target size and PIL's antialiased bicubic for 8-bit RGB.
 *
 *   input row --across--> ring of rows --down--> output row
 *
 * The first pass rounds to 8 bits, so the order shows in the pixels. The ring
 * holds just the rows one output row's window covers: both passes work in the
 * cache and no row is made that nobody reads. An axis that keeps its size is
 * skipped. A height that shrinks much more than the width goes first:
 *
 *   input rows --down--> one row --across--> output row */
#include "media/image_resize.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SUPPORT 2.0         /* of the bicubic kernel, in output pixels or more */
#define ROUNDING (1u << (AGL_RESIZE_FRACTION_BITS - 1))
/* Window tables use 32-bit positions, and three bytes a pixel must stay in range too. */
#define RESIZE_SIDE_MAX (1 << 24)

/* ---- target size ----------------------------------------------------- */

agl_status agl_image_target_size(int64_t *out_height, int64_t *out_width, int64_t height,
                                 int64_t width, const agl_resize_rule *rule, agl_error *err)
{
    if (height < 1 || width < 1 || height > RESIZE_SIDE_MAX || width > RESIZE_SIDE_MAX)
        return agl_fail(err, AGL_ERR_ARGUMENT, "image of %lld x %lld pixels has no target size",
                        (long long)width, (long long)height);
    double h = (double)height, w = (double)width;
    double factor = (double)rule->factor, frames = (double)rule->frames;
    if (h < factor || w < factor) {
        double scale = fmax(factor / h, factor / w);
        h = trunc(h * scale);
        w = trunc(w * scale);
    }
    double aspect = fmax(h, w) / fmin(h, w);
    if (aspect > AGL_IMAGE_ASPECT_MAX)
        return agl_fail(err, AGL_ERR_ARGUMENT,
                        "image of %lld x %lld pixels: aspect ratio %.1f is over %d",
                        (long long)width, (long long)height, aspect, AGL_IMAGE_ASPECT_MAX);
    double target_h = factor * rint(h / factor), target_w = factor * rint(w / factor);
    double area = frames * target_h * target_w;
    if (area > (double)rule->pixels_max) {
        double shrink = sqrt(frames * h * w / (double)rule->pixels_max);
        target_h = fmax(factor, factor * floor(h / shrink / factor));
        target_w = fmax(factor, factor * floor(w / shrink / factor));
    } else if (area < (double)rule->pixels_min) {
        double grow = sqrt((double)rule->pixels_min / (frames * h * w));
        target_h = factor * ceil(h * grow / factor);
        target_w = factor * ceil(w * grow / factor);
    }
    *out_height = (int64_t)target_h;
    *out_width = (int64_t)target_w;
    return AGL_OK;
}

/* ---- windows --------------------------------------------------------- */

/* Cubic convolution with a = -0.5, in Pillow's order of operations. */
static double bicubic(double x)
{
    x = fabs(x);
    if (x < 1.0) return ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0;
    if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
    return 0.0;
}

void agl_resize_axis_deinit(agl_resize_axis *axis)
{
    free(axis->first);
    free(axis->count);
    free(axis->weights);
    free(axis->halves);
    *axis = (agl_resize_axis){0};
}

/* Fixed point of one window; half away from zero. */
static void store_window(agl_resize_axis *axis, int64_t index, const double *window, double sum)
{
    int32_t *weights = axis->weights + index * axis->taps;
    int16_t *halves = axis->halves + index * axis->taps * 2;
    for (int64_t t = 0; t < axis->taps; t++) {
        double exact = 0.0;
        if (t < axis->count[index]) exact = sum != 0.0 ? window[t] / sum : window[t];
        exact *= 1 << AGL_RESIZE_FRACTION_BITS;
        int32_t weight = (int32_t)(exact < 0 ? exact - 0.5 : exact + 0.5);
        int32_t low = weight & ((1 << AGL_RESIZE_LOW_BITS) - 1);
        int16_t *group =
            halves + t / AGL_RESIZE_GROUP * 2 * AGL_RESIZE_GROUP + t % AGL_RESIZE_GROUP;
        weights[t] = weight;
        group[0] = (int16_t)((weight - low) / (1 << AGL_RESIZE_LOW_BITS));
        group[AGL_RESIZE_GROUP] = (int16_t)low;
    }
}

agl_status agl_resize_axis_init(agl_resize_axis *axis, int64_t in_size, int64_t out_size,
                                agl_error *err)
{
    double scale = (double)in_size / (double)out_size;
    double stretch = fmax(scale, 1.0), support = SUPPORT * stretch;
    int64_t longest = (int64_t)ceil(support) * 2 + 1;
    *axis = (agl_resize_axis){.in_size = in_size, .out_size = out_size};
    axis->taps = (longest + AGL_RESIZE_GROUP - 1) / AGL_RESIZE_GROUP * AGL_RESIZE_GROUP;
    size_t cells = (size_t)out_size * (size_t)axis->taps;
    axis->first = malloc((size_t)out_size * sizeof *axis->first);
    axis->count = malloc((size_t)out_size * sizeof *axis->count);
    axis->weights = malloc(cells * sizeof *axis->weights);
    axis->halves = malloc(cells * 2 * sizeof *axis->halves);
    double *window = malloc((size_t)axis->taps * sizeof *window);
    agl_status status = AGL_OK;
    if (axis->first == NULL || axis->count == NULL || axis->weights == NULL ||
        axis->halves == NULL || window == NULL)
        status = agl_fail(err, AGL_ERR_MEMORY, "no memory to resize %lld to %lld pixels",
                          (long long)in_size, (long long)out_size);
    for (int64_t i = 0; status == AGL_OK && i < out_size; i++) {
        double centre = ((double)i + 0.5) * scale, sum = 0.0;
        int64_t first = (int64_t)(centre - support + 0.5), end = (int64_t)(centre + support + 0.5);
        if (first < 0) first = 0;
        if (end > in_size) end = in_size;
        for (int64_t t = 0; t < end - first; t++) {
            window[t] = bicubic(((double)(t + first) - centre + 0.5) * (1.0 / stretch));
            sum += window[t];
        }
        axis->first[i] = (int32_t)first;
        axis->count[i] = (int32_t)(end - first);
        store_window(axis, i, window, sum);
    }
    free(window);
    if (status != AGL_OK) agl_resize_axis_deinit(axis);
    return status;
}

/* ---- portable kernels ------------------------------------------------ */

/* Unsigned sums wrap without harm; the total always fits 32 bits with its sign. */
static uint8_t level_of(uint32_t sum)
{
    int32_t level = (int32_t)sum >> AGL_RESIZE_FRACTION_BITS;
    return (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
}

void agl_resize_pixel(uint8_t *out, const uint8_t *in, const agl_resize_axis *axis, int64_t index)
{
    const int32_t *weights = axis->weights + index * axis->taps;
    const uint8_t *window = in + 3 * (size_t)axis->first[index];
    uint32_t sum[3] = {ROUNDING, ROUNDING, ROUNDING};
    for (int32_t t = 0; t < axis->count[index]; t++)
        for (int c = 0; c < 3; c++) sum[c] += (uint32_t)weights[t] * window[3 * t + c];
    for (int c = 0; c < 3; c++) out[c] = level_of(sum[c]);
}

void agl_resize_levels(uint8_t *out, const uint8_t *const *rows, size_t from, size_t to,
                       const agl_resize_axis *axis, int64_t index)
{
    const int32_t *weights = axis->weights + index * axis->taps;
    for (size_t i = from; i < to; i++) {
        uint32_t sum = ROUNDING;
        for (int32_t t = 0; t < axis->count[index]; t++) sum += (uint32_t)weights[t] * rows[t][i];
        out[i] = level_of(sum);
    }
}

static void across_portable(uint8_t *out, const uint8_t *in, const agl_resize_axis *axis)
{
    for (int64_t x = 0; x < axis->out_size; x++) agl_resize_pixel(out + 3 * x, in, axis, x);
}

static void down_portable(uint8_t *out, const uint8_t *const *rows, size_t bytes,
                          const agl_resize_axis *axis, int64_t index)
{
    agl_resize_levels(out, rows, 0, bytes, axis, index);
}

const agl_resize_kernels agl_resize_portable = {across_portable, down_portable};

/* ---- passes ---------------------------------------------------------- */

/* Row y of the input after the pass across: the input itself if that pass is skipped. */
typedef struct {
    const agl_image *in;
    const agl_resize_axis *across; /* NULL: width stays */
    const agl_resize_kernels *kernels;
    uint8_t *rows;          /* [row_count, row_bytes]: row y lies at y % row_count */
    int64_t row_count;
    size_t row_bytes;
    int64_t done;           /* rows made so far */
} row_ring;

static const uint8_t *ring_row(row_ring *ring, int64_t y)
{
    const agl_image *in = ring->in;
    if (ring->across == NULL) return in->pixels + (size_t)y * (size_t)in->width * 3;
    for (; ring->done <= y; ring->done++)
        ring->kernels->across(ring->rows + (size_t)(ring->done % ring->row_count) * ring->row_bytes,
                              in->pixels + (size_t)ring->done * (size_t)in->width * 3,
                              ring->across);
    return ring->rows + (size_t)(y % ring->row_count) * ring->row_bytes;
}

static void resize_across_only(agl_image *out, const agl_image *in, const agl_resize_axis *across,
                               const agl_resize_kernels *kernels)
{
    for (int64_t y = 0; y < out->height; y++)
        kernels->across(out->pixels + (size_t)y * (size_t)out->width * 3,
                        in->pixels + (size_t)y * (size_t)in->width * 3, across);
}

/* Pillow 13's choice; older ones always go across first. */
bool agl_resize_goes_down_first(int64_t height, int64_t width, int64_t out_height,
                                int64_t out_width)
{
    return out_height < height && height - out_height > 2 * (width - out_width);
}

static agl_status resize_down_first(agl_image *out, const agl_image *in,
                                    const agl_resize_axis *across, const agl_resize_axis *down,
                                    const agl_resize_kernels *kernels, agl_error *err)
{
    size_t in_row_bytes = (size_t)in->width * 3;
    const uint8_t **window = malloc((size_t)down->taps * sizeof *window);
    uint8_t *row = malloc(in_row_bytes);
    agl_status status = AGL_OK;
    if (window == NULL || row == NULL)
        status = agl_fail(err, AGL_ERR_MEMORY, "no memory for a row of a resize");
    for (int64_t y = 0; status == AGL_OK && y < out->height; y++) {
        for (int32_t t = 0; t < down->count[y]; t++)
            window[t] = in->pixels + (size_t)(down->first[y] + t) * in_row_bytes;
        kernels->down(row, window, in_row_bytes, down, y);
        kernels->across(out->pixels + (size_t)y * (size_t)out->width * 3, row, across);
    }
    free(window);
    free(row);
    return status;
}

/* `across` NULL: the width stays. */
static agl_status resize_down(agl_image *out, const agl_image *in, const agl_resize_axis *across,
                              const agl_resize_axis *down, const agl_resize_kernels *kernels,
                              agl_error *err)
{
    row_ring ring = {
        .in = in, .across = across, .kernels = kernels, .row_bytes = (size_t)out->width * 3};
    ring.row_count = down->taps < in->height ? down->taps : in->height;
    const uint8_t **window = malloc((size_t)down->taps * sizeof *window);
    if (across != NULL) ring.rows = malloc((size_t)ring.row_count * ring.row_bytes);
    agl_status status = AGL_OK;
    if (window == NULL || (across != NULL && ring.rows == NULL))
        status = agl_fail(err, AGL_ERR_MEMORY, "no memory for %lld rows of a resize",
                          (long long)ring.row_count);
    for (int64_t y = 0; status == AGL_OK && y < out->height; y++) {
        for (int32_t t = 0; t < down->count[y]; t++)
            window[t] = ring_row(&ring, down->first[y] + t);
        kernels->down(out->pixels + (size_t)y * ring.row_bytes, window, ring.row_bytes, down, y);
    }
    free(window);
    free(ring.rows);
    return status;
}

agl_status agl_image_resize_with(agl_image *out, const agl_image *in, int64_t height, int64_t width,
                                 const agl_resize_kernels *kernels, agl_error *err)
{
    *out = (agl_image){0};
    if (height < 1 || width < 1 || height > RESIZE_SIDE_MAX || width > RESIZE_SIDE_MAX ||
        in->height > RESIZE_SIDE_MAX || in->width > RESIZE_SIDE_MAX)
        return agl_fail(err, AGL_ERR_ARGUMENT, "image cannot be resized to %lld x %lld pixels",
                        (long long)width, (long long)height);
    size_t bytes = (size_t)height * (size_t)width * 3;
    agl_image made = {malloc(bytes), height, width};
    if (made.pixels == NULL)
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for an image of %lld x %lld pixels",
                        (long long)width, (long long)height);
    agl_resize_axis across = {0}, down = {0};
    bool new_width = width != in->width, new_height = height != in->height;
    agl_status status = AGL_OK;
    if (new_width) status = agl_resize_axis_init(&across, in->width, width, err);
    if (status == AGL_OK && new_height)
        status = agl_resize_axis_init(&down, in->height, height, err);
    if (status == AGL_OK) {
        if (new_height && new_width &&
            agl_resize_goes_down_first(in->height, in->width, height, width))
            status = resize_down_first(&made, in, &across, &down, kernels, err);
        else if (new_height)
            status = resize_down(&made, in, new_width ? &across : NULL, &down, kernels, err);
        else if (new_width) resize_across_only(&made, in, &across, kernels);
        else memcpy(made.pixels, in->pixels, bytes);
    }
    agl_resize_axis_deinit(&across);
    agl_resize_axis_deinit(&down);
    if (status == AGL_OK) *out = made;
    else agl_image_deinit(&made);
    return status;
}

agl_status agl_image_resize(agl_image *out, const agl_image *in, int64_t height, int64_t width,
                            agl_error *err)
{
    const agl_resize_kernels *kernels = agl_resize_avx2();
    return agl_image_resize_with(out, in, height, width,
                                 kernels != NULL ? kernels : &agl_resize_portable, err);
}
