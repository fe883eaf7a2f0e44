/* SPDX-License-Identifier: Apache-2.0
 *
 * positions.h - three-axis (M-RoPE) positions of a token sequence with images. */
#ifndef AGL_MODEL_POSITIONS_H
#define AGL_MODEL_POSITIONS_H

#include <stddef.h>
#include <stdint.h>

/* A run of image tokens in the sequence: `rows` x `columns` merged cells. */
typedef struct {
    size_t first_token;
    int32_t rows, columns;
} agl_image_span;

/* Positions of tokens [first, first + count) of a sequence with the given images (in
 * order): t, h, w each hold `count` values. Tokens after the last image are text.
 * Works for generated tokens too: they continue from the prompt. */
void agl_positions_fill(int32_t *t, int32_t *h, int32_t *w, size_t first, size_t count,
                        const agl_image_span *images, size_t image_count);

#endif
