/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a picture: kind, size, decode under limits, target size, resize.
 * Seeds: tests/fixtures/media.
 *
 * Checksums keep random bytes out of the PNG row code, so the same bytes are
 * also wrapped into a sound PNG whose header, palette, tRNS and rows they choose. */
#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>

#include "media/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void require(int condition)
{
    if (!condition) abort();
}

/* Every byte, so that the sanitizers see the whole of it. */
static void read_pixels(const agl_image *image)
{
    agl_digest digest = agl_sha256(image->pixels, (size_t)(3 * image->height * image->width));
    require(agl_digest_equal(&digest, &digest));
}

static void decode_any(const uint8_t *data, size_t bytes)
{
    static const agl_image_limits LIMITS = {.pixels_max = 1 << 18, .side_max = 4096};
    static const agl_resize_rule RULE = {
        .factor = 28, .frames = 2, .pixels_min = 12544, .pixels_max = 1 << 16};
    int64_t height = 0, width = 0;
    agl_error err = {0};
    agl_image image, scaled;
    agl_image_kind kind = agl_image_kind_of(data, bytes);
    agl_status sized = agl_image_size(&height, &width, data, bytes, &err);
    require(kind != AGL_IMAGE_UNKNOWN || sized != AGL_OK);
    agl_status decoded = agl_image_decode(&image, data, bytes, &LIMITS, &err);
    if (decoded != AGL_OK) {
        require(image.pixels == NULL && err.message[0] != 0);
        return;
    }
    require(sized == AGL_OK && image.height == height && image.width == width);
    read_pixels(&image);
    if (agl_image_target_size(&height, &width, image.height, image.width, &RULE, &err) == AGL_OK &&
        agl_image_resize(&scaled, &image, height, width, &err) == AGL_OK) {
        read_pixels(&scaled);
        agl_image_deinit(&scaled);
    }
    agl_image_deinit(&image);
}

static uint8_t *put_chunk(uint8_t *at, const char *name, const void *data, size_t bytes)
{
    uint32_t length = __builtin_bswap32((uint32_t)bytes);
    memcpy(at, &length, 4);
    memcpy(at + 4, name, 4);
    if (bytes > 0) memcpy(at + 8, data, bytes);
    uint32_t check = __builtin_bswap32(libdeflate_crc32(0, at + 4, bytes + 4));
    memcpy(at + 8 + bytes, &check, 4);
    return at + 12 + bytes;
}

/* Bytes of all passes with their filter bytes: a second opinion on the decoder's sum. */
static size_t rows_size(uint32_t width, uint32_t height, uint32_t bits, bool interlaced)
{
    static const uint8_t X[] = {0, 4, 0, 2, 0, 1, 0}, Y[] = {0, 0, 4, 0, 2, 0, 1};
    static const uint8_t X_STEP[] = {8, 8, 4, 4, 2, 2, 1}, Y_STEP[] = {8, 8, 8, 4, 4, 2, 2};
    if (!interlaced) return height * (1 + (width * bits + 7) / 8);
    size_t total = 0;
    for (int pass = 0; pass < 7; pass++) {
        size_t columns = 0, rows = 0;
        for (uint32_t x = X[pass]; x < width; x += X_STEP[pass]) columns++;
        for (uint32_t y = Y[pass]; y < height; y += Y_STEP[pass]) rows++;
        if (columns > 0) total += rows * (1 + (columns * bits + 7) / 8);
    }
    return total;
}

/* First byte: colour type and depth; then sides, interlace and the lengths of PLTE and tRNS; then all of it as rows. */
static void decode_as_rows(const uint8_t *data, size_t bytes)
{
    static const uint8_t KINDS[][3] = {{0, 1, 1}, {0, 2, 1},  {0, 4, 1},  {0, 8, 1}, {0, 16, 1},
                                       {2, 8, 3}, {2, 16, 3}, {3, 1, 1},  {3, 2, 1}, {3, 4, 1},
                                       {3, 8, 1}, {4, 8, 2},  {4, 16, 2}, {6, 8, 4}, {6, 16, 4}};
    enum { ROWS_MAX = 64 * 64 * 8 + 64 * 16, EXTRA = 2048 };
    if (bytes < 8) return;
    const uint8_t *kind = KINDS[data[0] % 15];
    uint32_t width = 1 + data[1] % 64, height = 1 + data[2] % 64;
    bool interlaced = data[3] & 1;
    size_t palette = data[4] % (bytes < 256 ? bytes : 256),
           holes = data[5] % (bytes < 256 ? bytes : 256);
    size_t size = rows_size(width, height, (uint32_t)kind[1] * kind[2], interlaced);
    uint8_t *rows = malloc(size), *file = malloc(ROWS_MAX + EXTRA);
    require(rows != NULL && file != NULL && size <= ROWS_MAX);
    for (size_t i = 0; i < size; i++) rows[i] = data[6 + i % (bytes - 6)];
    /* Filter bytes above 4 end the decoding, so most are brought into range. */
    if (!interlaced && !(data[3] & 2))
        for (size_t at = 0; at < size; at += size / height) rows[at] %= 5;
    if (interlaced && !(data[3] & 2))
        for (size_t at = 0; at < size; at++) rows[at] %= 5;
    uint8_t header[13] = {0,       0, 0, (uint8_t)width, 0, 0, 0, (uint8_t)height, kind[1],
                          kind[0], 0, 0, interlaced};
    memcpy(file, "\x89PNG\r\n\x1a\n", 8);
    uint8_t *end = put_chunk(file + 8, "IHDR", header, sizeof header);
    if (palette > 0) end = put_chunk(end, "PLTE", data, palette);
    if (holes > 0) end = put_chunk(end, "tRNS", data, holes);
    struct libdeflate_compressor *compressor = libdeflate_alloc_compressor(0);
    uint8_t *stream = malloc(libdeflate_zlib_compress_bound(compressor, size));
    size_t stream_bytes = libdeflate_zlib_compress(
        compressor, rows, size, stream, libdeflate_zlib_compress_bound(compressor, size));
    end = put_chunk(end, "IDAT", stream, stream_bytes);
    end = put_chunk(end, "IEND", NULL, 0);
    libdeflate_free_compressor(compressor);
    agl_image image;
    agl_error err = {0};
    agl_status status = agl_image_decode(&image, file, (size_t)(end - file), NULL, &err);
    /* Sizes agree, so only a missing palette or a filter may be at fault. */
    require(status == AGL_OK || strstr(err.message, "palette") != NULL ||
            strstr(err.message, "filter") != NULL);
    decode_any(file, (size_t)(end - file));
    agl_image_deinit(&image);
    free(rows);
    free(stream);
    free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    decode_any(data, bytes);
    decode_as_rows(data, bytes);
    return 0;
}
