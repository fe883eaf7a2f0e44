/* SPDX-License-Identifier: Apache-2.0
 *
 * image.h - picture files to the 8-bit RGB the vision tower sees.
 *
 * decode (PNG, JPEG, WebP by content) -> EXIF orientation -> alpha on white ->
 * target size -> PIL-exact antialiased bicubic. Input is untrusted: sizes are
 * checked before memory is taken. Any thread. */
#ifndef AGL_MEDIA_IMAGE_H
#define AGL_MEDIA_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/status.h"

typedef struct {
    uint8_t *pixels;        /* [height, width, 3] RGB; free with agl_image_deinit */
    int64_t height, width;
} agl_image;

typedef struct {
    uint64_t pixels_max;    /* refused above; 0: 178,956,970 (PIL's default limit) */
    int64_t side_max;       /* 0: 65,535                                           */
} agl_image_limits;

typedef enum { AGL_IMAGE_UNKNOWN, AGL_IMAGE_PNG, AGL_IMAGE_JPEG, AGL_IMAGE_WEBP } agl_image_kind;

/* By magic bytes. */
agl_image_kind agl_image_kind_of(const void *data, size_t bytes);

/* Size after orientation, from the headers alone. Refuses what agl_image_decode would for its kind and default limits. */
agl_status agl_image_size(int64_t *height, int64_t *width, const void *data, size_t bytes,
                          agl_error *err);

/* Whole picture. FORMAT: broken; UNSUPPORTED: another kind (named if known: GIF, BMP, TIFF, HEIC, AVIF);
 * LIMIT: too large. */
agl_status agl_image_decode(agl_image *out, const void *data, size_t bytes,
                            const agl_image_limits *limits, agl_error *err);
void agl_image_deinit(agl_image *image);

typedef struct {
    int64_t factor;         /* patch * merge = 28                              */
    int64_t frames;         /* temporal patch = 2                              */
    int64_t pixels_min, pixels_max; /* of frames * H * W                       */
} agl_resize_rule;

#define AGL_IMAGE_ASPECT_MAX 200

/* The processor's "smart resize": sizes the picture is scaled to, multiples of factor.
 * ARGUMENT when the aspect ratio is over the maximum. MODEL.md, "Target size". */
agl_status agl_image_target_size(int64_t *out_height, int64_t *out_width, int64_t height,
                                 int64_t width, const agl_resize_rule *rule, agl_error *err);

/* PIL Image.resize(BICUBIC) for 8-bit RGB, bit for bit. out is allocated. */
agl_status agl_image_resize(agl_image *out, const agl_image *in, int64_t height, int64_t width,
                            agl_error *err);

/* Identity of a file's picture at this size: SHA-256 over both. The same file has the same pixels,
 * and is an eighth of them. */
agl_digest agl_image_digest(const void *data, size_t bytes, int64_t height, int64_t width);

#endif
