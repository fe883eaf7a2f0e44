/* SPDX-License-Identifier: Apache-2.0
 *
 * image_resize.h - inside of agl_image_resize: the windows of an axis, for who
 * resizes elsewhere with the same bits, and the inner loops with their variants,
 * so that a check can run each against portable C.
 *
 * Pillow's arithmetic: weights with 22 fraction bits, products of 8-bit levels
 * summed in 32 bits from one half, shifted, clamped. Integer sums do not depend
 * on their order, so every variant gives the same bits. */
#ifndef AGL_MEDIA_IMAGE_RESIZE_H
#define AGL_MEDIA_IMAGE_RESIZE_H

#include <stdbool.h>

#include "media/image.h"

#define AGL_RESIZE_FRACTION_BITS 22
/* Variants multiply 16-bit halves: weight = (high << 12) + low, 0 <= low < 4096. */
#define AGL_RESIZE_LOW_BITS 12
#define AGL_RESIZE_GROUP 4

/* Windows of one axis: output i is the sum of `count[i]` inputs from `first[i]` on.
 * first and first + count never decrease. */
typedef struct {
    int64_t in_size, out_size;
    int64_t taps;           /* longest window, rounded up to whole groups of 4               */
    int32_t *first;         /* [out_size]                                                    */
    int32_t *count;         /* [out_size]                                                    */
    int32_t *weights;       /* [out_size, taps], zero behind the window                      */
    int16_t *halves;        /* [out_size, taps / 4, 8]: four high halves, then four low ones */
} agl_resize_axis;

/* The windows that resize in_size to another out_size; deinit takes a zeroed axis. */
agl_status agl_resize_axis_init(agl_resize_axis *axis, int64_t in_size, int64_t out_size,
                                agl_error *err);
void agl_resize_axis_deinit(agl_resize_axis *axis);

/* Whether the pass down goes before the pass across, where both sizes change. */
bool agl_resize_goes_down_first(int64_t height, int64_t width, int64_t out_height,
                                int64_t out_width);

typedef struct {
    /* One row across: out[axis->out_size][3] from in[axis->in_size][3]. */
    void (*across)(uint8_t *out, const uint8_t *in, const agl_resize_axis *axis);
    /* Output row `index` from its window: rows[axis->count[index]], each of `bytes`. */
    void (*down)(uint8_t *out, const uint8_t *const *rows, size_t bytes, const agl_resize_axis *axis,
                 int64_t index);
} agl_resize_kernels;

extern const agl_resize_kernels agl_resize_portable;

/* NULL where the program was built or runs without it. */
const agl_resize_kernels *agl_resize_avx2(void);

/* One output pixel and a part of one output row by the portable rule: the ends that variants leave over. */
void agl_resize_pixel(uint8_t *out, const uint8_t *in, const agl_resize_axis *axis, int64_t index);
void agl_resize_levels(uint8_t *out, const uint8_t *const *rows, size_t from, size_t to,
                       const agl_resize_axis *axis, int64_t index);

/* agl_image_resize with the kernels named. */
agl_status agl_image_resize_with(agl_image *out, const agl_image *in, int64_t height, int64_t width,
                                 const agl_resize_kernels *kernels, agl_error *err);

#endif
