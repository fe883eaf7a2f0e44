/* SPDX-License-Identifier: Apache-2.0
 *
 * image_codec.h - what image_decode.c asks of each file kind. Private to media.
 *
 * A codec reads the header first; the caller checks limits, takes the memory and
 * calls decode, which fills plain RGB. Transparent pixels lie on white, as vLLM
 * shows them to the model. */
#ifndef AGL_MEDIA_IMAGE_CODEC_H
#define AGL_MEDIA_IMAGE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    const uint8_t *data;
    size_t bytes;
} agl_bytes;                /* view of the file, or of a part of it */

typedef struct {
    int64_t height, width;  /* as stored, before orientation        */
    int orientation;        /* EXIF 1 .. 8; 1: upright              */
} agl_image_header;

/* FORMAT also when the file is too short to hold that many pixels, so that a
 * small file cannot claim much memory. */
agl_status agl_png_header(agl_image_header *out, agl_bytes file, agl_error *err);
agl_status agl_jpeg_header(agl_image_header *out, agl_bytes file, agl_error *err);
agl_status agl_webp_header(agl_image_header *out, agl_bytes file, agl_error *err);

/* Fill rgb[height][width][3] of the size the header told. */
agl_status agl_png_decode(uint8_t *rgb, agl_bytes file, agl_error *err);
agl_status agl_jpeg_decode(uint8_t *rgb, agl_bytes file, agl_error *err);
agl_status agl_webp_decode(uint8_t *rgb, agl_bytes file, agl_error *err);

/* Orientation tag of a TIFF block (the EXIF payload, with or without its
 * "Exif\0\0" prefix); 1 when absent or broken. */
int agl_exif_orientation(agl_bytes exif);

/* PIL's 8-bit blend of one level on white: (255 * (255 - alpha) + level * alpha) / 255, rounded. */
static inline uint8_t agl_level_over_white(uint8_t level, uint8_t alpha)
{
    uint32_t sum = 255u * (255u - alpha) + (uint32_t)level * alpha + 128u;
    return (uint8_t)(((sum >> 8) + sum) >> 8);
}

/* RGBA pixels to RGB on white. `rgb` may be `rgba` itself. */
void agl_rgba_over_white(uint8_t *rgb, const uint8_t *rgba, size_t pixels);

/* Undo the row filters of PNG in place. `row` follows its filter byte; `above` is
 * the row before it or zeros. Both have AGL_PNG_SLACK readable bytes behind them.
 * False: unknown filter. */
#define AGL_PNG_SLACK 8
bool agl_png_unfilter(uint8_t *row, const uint8_t *above, size_t bytes, int filter,
                      size_t pixel_bytes);

#endif
