/* SPDX-License-Identifier: Apache-2.0
 *
 * image_webp.c - WebP through libwebp: lossy, lossless, alpha.
 *
 * Of an animation the first frame is the picture, as for Pillow, if it covers
 * the canvas; one that does not is refused, for its rest would be made up. */
#include <stdlib.h>
#include <string.h>

#include <webp/decode.h>

#include "media/image_codec.h"

#define RIFF_HEADER_BYTES 12
#define CHUNK_HEADER_BYTES 8
#define FRAME_HEADER_BYTES 16

typedef struct {
    int width, height;
    bool has_alpha;
    agl_bytes picture;      /* what libwebp decodes: the file, or the first frame's chunks */
    agl_bytes exif;
} webp_file;

static uint32_t little_endian24(const uint8_t *data)
{
    return (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16;
}

/* First chunk of that name; empty if there is none or it is cut short. */
static agl_bytes find_chunk(agl_bytes file, const char *name)
{
    size_t at = RIFF_HEADER_BYTES;
    while (file.bytes >= at && file.bytes - at >= CHUNK_HEADER_BYTES) {
        const uint8_t *chunk = file.data + at;
        size_t bytes = little_endian24(chunk + 4) | (size_t)chunk[7] << 24;
        if (bytes > file.bytes - at - CHUNK_HEADER_BYTES) break;
        if (memcmp(chunk, name, 4) == 0) return (agl_bytes){chunk + CHUNK_HEADER_BYTES, bytes};
        at += CHUNK_HEADER_BYTES + bytes + bytes % 2;
    }
    return (agl_bytes){0};
}

/* ANMF: x / 2, y / 2, width - 1, height - 1, duration (24 bits each), flags, then the frame's chunks. */
static agl_status first_frame(agl_bytes *out, agl_bytes file, agl_error *err)
{
    agl_bytes canvas = find_chunk(file, "VP8X"), frame = find_chunk(file, "ANMF");
    if (canvas.bytes < 10 || frame.bytes <= FRAME_HEADER_BYTES)
        return agl_fail(err, AGL_ERR_FORMAT, "WebP animation has no whole first frame");
    if (memcmp(frame.data, "\0\0\0\0\0\0", 6) != 0 ||
        memcmp(frame.data + 6, canvas.data + 4, 6) != 0)
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "WebP animation whose first frame does not fill the picture");
    *out = (agl_bytes){frame.data + FRAME_HEADER_BYTES, frame.bytes - FRAME_HEADER_BYTES};
    return AGL_OK;
}

static agl_status get_features(WebPBitstreamFeatures *out, agl_bytes picture, agl_error *err)
{
    switch (WebPGetFeatures(picture.data, picture.bytes, out)) {
    case VP8_STATUS_OK: return AGL_OK;
    case VP8_STATUS_NOT_ENOUGH_DATA:
        return agl_fail(err, AGL_ERR_FORMAT, "WebP file is cut short (%zu bytes)", picture.bytes);
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "WebP uses an unknown feature");
    default: return agl_fail(err, AGL_ERR_FORMAT, "WebP header is damaged");
    }
}

static agl_status read_file(webp_file *webp, agl_bytes file, agl_error *err)
{
    *webp = (webp_file){.picture = file, .exif = find_chunk(file, "EXIF")};
    WebPBitstreamFeatures features;
    AGL_TRY(get_features(&features, file, err));
    webp->width = features.width;
    webp->height = features.height;
    if (features.has_animation) {
        AGL_TRY(first_frame(&webp->picture, file, err));
        AGL_TRY(get_features(&features, webp->picture, err));
        if (features.width != webp->width || features.height != webp->height)
            return agl_fail(err, AGL_ERR_FORMAT,
                            "WebP animation's first frame has another size than it tells");
    }
    webp->has_alpha = features.has_alpha;
    return AGL_OK;
}

agl_status agl_webp_header(agl_image_header *out, agl_bytes file, agl_error *err)
{
    webp_file webp;
    AGL_TRY(read_file(&webp, file, err));
    *out = (agl_image_header){webp.height, webp.width, agl_exif_orientation(webp.exif)};
    return AGL_OK;
}

agl_status agl_webp_decode(uint8_t *rgb, agl_bytes file, agl_error *err)
{
    webp_file webp;
    AGL_TRY(read_file(&webp, file, err));
    agl_bytes in = webp.picture;
    size_t pixels = (size_t)webp.width * (size_t)webp.height;
    if (!webp.has_alpha) {
        if (WebPDecodeRGBInto(in.data, in.bytes, rgb, pixels * 3, webp.width * 3) == NULL)
            goto damaged;
        return AGL_OK;
    }
    uint8_t *rgba = malloc(pixels * 4);
    if (rgba == NULL)
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for a WebP of %d x %d pixels", webp.width,
                        webp.height);
    bool decoded = WebPDecodeRGBAInto(in.data, in.bytes, rgba, pixels * 4, webp.width * 4) != NULL;
    if (decoded) agl_rgba_over_white(rgb, rgba, pixels);
    free(rgba);
    if (decoded) return AGL_OK;
damaged:
    return agl_fail(err, AGL_ERR_FORMAT, "WebP image data is damaged or cut short");
}
