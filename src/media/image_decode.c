/* SPDX-License-Identifier: Apache-2.0
 *
 * image_decode.c - which codec reads a file, its limits, and the steps all kinds
 * share: orientation and the digest. */
#include "media/image.h"

#include <stdlib.h>
#include <string.h>

#include "media/image_codec.h"

#define PIXELS_MAX_DEFAULT 178956970
#define SIDE_MAX_DEFAULT 65535
#define ACCEPTED "accepted are PNG, JPEG and WebP"

/* ---- kinds ----------------------------------------------------------- */

typedef struct {
    size_t offset;
    const char *magic;
    size_t magic_bytes;
    const char *name;
} signature;

/* Pictures that people send and that are refused by name. HEIC and AVIF differ in the brand of their first box. */
static const signature REFUSED[] = {
    {0, "GIF8", 4, "GIF"},
    {0, "BM", 2, "BMP"},
    {0, "II*\0", 4, "TIFF"},
    {0, "MM\0*", 4, "TIFF"},
    {4, "ftypavif", 8, "AVIF"},
    {4, "ftypavis", 8, "AVIF"},
    {4, "ftyphei", 7, "HEIC"},
    {4, "ftyphev", 7, "HEIC"},
    {4, "ftypmif1", 8, "HEIF"},
    {4, "ftypmsf1", 8, "HEIF"},
    {0, "\0\0\0\x0cJXL ", 8, "JPEG XL"},
    {0, "\xff\x0a", 2, "JPEG XL"},
    {0, "\0\0\0\x0cjP  ", 8, "JPEG 2000"},
    {0, "<svg", 4, "SVG"},
    {0, "%PDF", 4, "PDF"},
};

static bool has_magic(agl_bytes file, size_t offset, const char *magic, size_t magic_bytes)
{
    return file.bytes >= offset + magic_bytes &&
           memcmp(file.data + offset, magic, magic_bytes) == 0;
}

static agl_image_kind kind_of(agl_bytes file)
{
    if (has_magic(file, 0, "\x89PNG\r\n\x1a\n", 8)) return AGL_IMAGE_PNG;
    if (has_magic(file, 0, "\xff\xd8\xff", 3)) return AGL_IMAGE_JPEG;
    if (has_magic(file, 0, "RIFF", 4) && has_magic(file, 8, "WEBP", 4)) return AGL_IMAGE_WEBP;
    return AGL_IMAGE_UNKNOWN;
}

agl_image_kind agl_image_kind_of(const void *data, size_t bytes)
{
    return kind_of((agl_bytes){data, bytes});
}

static agl_status refuse_kind(agl_bytes file, agl_error *err)
{
    if (file.bytes == 0) return agl_fail(err, AGL_ERR_FORMAT, "image is empty; " ACCEPTED);
    for (size_t i = 0; i < AGL_COUNT(REFUSED); i++)
        if (has_magic(file, REFUSED[i].offset, REFUSED[i].magic, REFUSED[i].magic_bytes))
            return agl_fail(err, AGL_ERR_UNSUPPORTED, "image is %s; " ACCEPTED, REFUSED[i].name);
    uint8_t head[4] = {0};
    memcpy(head, file.data, file.bytes < 4 ? file.bytes : 4);
    return agl_fail(
        err, AGL_ERR_UNSUPPORTED,
        "image of %zu bytes is of no known kind (begins %02x %02x %02x %02x); " ACCEPTED,
        file.bytes, head[0], head[1], head[2], head[3]);
}

typedef struct {
    agl_status (*header)(agl_image_header *out, agl_bytes file, agl_error *err);
    agl_status (*decode)(uint8_t *rgb, agl_bytes file, agl_error *err);
} codec;

static const codec CODECS[] = {
    [AGL_IMAGE_PNG] = {agl_png_header, agl_png_decode},
    [AGL_IMAGE_JPEG] = {agl_jpeg_header, agl_jpeg_decode},
    [AGL_IMAGE_WEBP] = {agl_webp_header, agl_webp_decode},
};

/* ---- colour ---------------------------------------------------------- */

void agl_rgba_over_white(uint8_t *rgb, const uint8_t *rgba, size_t pixels)
{
    size_t i = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    /* Screenshots are opaque: four pixels at a time while they are. */
    for (; i + 4 <= pixels; i += 4) {
        uint64_t in[2];
        memcpy(in, rgba + 4 * i, sizeof in);
        if ((in[0] & in[1] & 0xff000000ff000000u) == 0xff000000ff000000u) {
            uint64_t front = (in[0] & 0xffffffu) | (in[0] >> 8 & 0xffffff000000u) | in[1] << 48;
            uint32_t back = (uint32_t)(in[1] >> 16 & 0xffu) | (uint32_t)(in[1] >> 32) << 8;
            memcpy(rgb + 3 * i, &front, sizeof front);
            memcpy(rgb + 3 * i + 8, &back, sizeof back);
            continue;
        }
        for (size_t p = i; p < i + 4; p++)
            for (size_t c = 0; c < 3; c++)
                rgb[3 * p + c] = agl_level_over_white(rgba[4 * p + c], rgba[4 * p + 3]);
    }
#endif
    for (; i < pixels; i++) {
        uint8_t alpha = rgba[4 * i + 3];
        for (size_t c = 0; c < 3; c++)
            rgb[3 * i + c] = agl_level_over_white(rgba[4 * i + c], alpha);
    }
}

/* ---- orientation ----------------------------------------------------- */

static void swap_sides(agl_image_header *header)
{
    if (header->orientation < 5) return;
    int64_t height = header->height;
    header->height = header->width;
    header->width = height;
}

/* Output pixel (y, x) comes from in + origin + y * y_step + x * x_step. Tiles keep
 * both sides of a quarter turn in the cache. */
#define TURN_TILE 32
static void turn(uint8_t *out, const uint8_t *in, const agl_image_header *upright, int orientation)
{
    int64_t height = upright->height, width = upright->width;
    int64_t in_height = orientation < 5 ? height : width;
    int64_t in_width = orientation < 5 ? width : height;
    bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    int64_t row = (from_bottom ? -3 : 3) * in_width, column = from_right ? -3 : 3;
    in += 3 * ((from_bottom ? in_height - 1 : 0) * in_width + (from_right ? in_width - 1 : 0));
    int64_t y_step = orientation < 5 ? row : column, x_step = orientation < 5 ? column : row;
    for (int64_t y0 = 0; y0 < height; y0 += TURN_TILE)
        for (int64_t x0 = 0; x0 < width; x0 += TURN_TILE)
            for (int64_t y = y0; y < height && y < y0 + TURN_TILE; y++)
                for (int64_t x = x0; x < width && x < x0 + TURN_TILE; x++)
                    memcpy(out + 3 * (y * width + x), in + y * y_step + x * x_step, 3);
}

/* ---- whole pictures -------------------------------------------------- */

static agl_status read_header(agl_image_header *out, const codec **out_codec, agl_bytes file,
                              agl_error *err)
{
    agl_image_kind kind = kind_of(file);
    if (kind == AGL_IMAGE_UNKNOWN) return refuse_kind(file, err);
    *out_codec = &CODECS[kind];
    return CODECS[kind].header(out, file, err);
}

static agl_status check_limits(const agl_image_header *header, const agl_image_limits *limits,
                               agl_error *err)
{
    uint64_t pixels_max =
        limits != NULL && limits->pixels_max > 0 ? limits->pixels_max : PIXELS_MAX_DEFAULT;
    int64_t side_max = limits != NULL && limits->side_max > 0 ? limits->side_max : SIDE_MAX_DEFAULT;
    int64_t height = header->height, width = header->width;
    if (height > side_max || width > side_max)
        return agl_fail(err, AGL_ERR_LIMIT,
                        "image of %lld x %lld pixels: sides may have %lld at most",
                        (long long)width, (long long)height, (long long)side_max);
    if ((uint64_t)height * (uint64_t)width > pixels_max)
        return agl_fail(err, AGL_ERR_LIMIT, "image of %lld x %lld pixels: %llu pixels are allowed",
                        (long long)width, (long long)height, (unsigned long long)pixels_max);
    return AGL_OK;
}

agl_status agl_image_size(int64_t *height, int64_t *width, const void *data, size_t bytes,
                          agl_error *err)
{
    const codec *reader = NULL;
    agl_image_header header;
    AGL_TRY(read_header(&header, &reader, (agl_bytes){data, bytes}, err));
    AGL_TRY(check_limits(&header, NULL, err));
    swap_sides(&header);
    *height = header.height;
    *width = header.width;
    return AGL_OK;
}

agl_status agl_image_decode(agl_image *out, const void *data, size_t bytes,
                            const agl_image_limits *limits, agl_error *err)
{
    *out = (agl_image){0};
    agl_bytes file = {data, bytes};
    const codec *reader = NULL;
    agl_image_header header;
    AGL_TRY(read_header(&header, &reader, file, err));
    AGL_TRY(check_limits(&header, limits, err));
    size_t rgb_bytes = (size_t)header.height * (size_t)header.width * 3;
    uint8_t *stored = malloc(rgb_bytes);
    uint8_t *upright = header.orientation == 1 ? NULL : malloc(rgb_bytes);
    agl_status status = AGL_OK;
    if (stored == NULL || (header.orientation != 1 && upright == NULL))
        status = agl_fail(err, AGL_ERR_MEMORY, "no memory for an image of %lld x %lld pixels",
                          (long long)header.width, (long long)header.height);
    if (status == AGL_OK) status = reader->decode(stored, file, err);
    if (status != AGL_OK) goto fail;
    swap_sides(&header);
    if (header.orientation != 1) {
        turn(upright, stored, &header, header.orientation);
        free(stored);
        stored = upright;
    }
    *out = (agl_image){stored, header.height, header.width};
    return AGL_OK;
fail:
    free(stored);
    free(upright);
    return status;
}

void agl_image_deinit(agl_image *image)
{
    free(image->pixels);
    *image = (agl_image){0};
}

agl_digest agl_image_digest(const void *data, size_t bytes, int64_t height, int64_t width)
{
    int64_t sides[2] = {height, width};
    agl_digest_part parts[] = {{sides, sizeof sides}, {data, bytes}};
    return agl_digest_of(parts, AGL_COUNT(parts));
}
