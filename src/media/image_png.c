/* SPDX-License-Identifier: Apache-2.0
 *
 * image_png.c - PNG (1.2, with eXIf): every colour type, depth and Adam7.
 *
 *   chunks -> IDAT joined -> inflate at once -> unfilter -> RGB, row by row
 *
 * libdeflate instead of libspng or zlib: the size of the inflated rows is known
 * from the header, so the whole stream is one call with an exact output bound.
 * A 1080 x 2400 RGBA screenshot: 4.5 ms (zlib's streaming: 20 ms; all of libspng:
 * 60 to 75 ms, all of this file: 17 ms).
 *
 * Pixels are those of Pillow with two deviations, both where Pillow loses the
 * picture: 16-bit gray keeps its high byte (Pillow clips at 255, nearly all
 * white), and tRNS of 2-, 4- and 16-bit samples is compared before scaling.
 * IDAT and IHDR checksums are left to the Adler-32 and the length of the rows;
 * other chunks use theirs. */
#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>

#include "media/image_codec.h"

enum { GRAY = 0, RGB = 2, PALETTE = 3, GRAY_ALPHA = 4, RGB_ALPHA = 6 };

/* No product of sides and sample bytes below overflows 64 bits. */
#define SIDE_MAX (1u << 24)
/* Deflate cannot shrink further than 258 bytes to two bits. */
#define DEFLATE_RATIO_MAX 1032

typedef struct {
    uint32_t width, height;
    uint8_t depth, colour;
    bool interlaced;
    size_t channels;
    agl_bytes palette;      /* RGB triples */
    agl_bytes transparency; /* tRNS */
    agl_bytes exif;
    agl_bytes idat;         /* data of the first IDAT */
    size_t idat_count;
    uint64_t idat_bytes;    /* of all of them */
} png_file;

/* Adam7: first column and row, steps, of each pass. The last row is a picture without interlace. */
typedef struct {
    uint8_t x, y, x_step, y_step;
} png_pass;

static const png_pass PASSES[] = {
    {0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
    {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}, {0, 0, 1, 1},
};

static uint32_t big_endian32(const uint8_t *data)
{
    return (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
}

static uint32_t big_endian16(const uint8_t *data)
{
    return (uint32_t)data[0] << 8 | data[1];
}

/* ---- chunks ---------------------------------------------------------- */

static agl_status read_ihdr(png_file *png, agl_bytes body, agl_error *err)
{
    if (body.bytes != 13)
        return agl_fail(err, AGL_ERR_FORMAT, "PNG header has %zu bytes instead of 13", body.bytes);
    const uint8_t *ihdr = body.data;
    png->width = big_endian32(ihdr);
    png->height = big_endian32(ihdr + 4);
    png->depth = ihdr[8];
    png->colour = ihdr[9];
    png->interlaced = ihdr[12] != 0;
    static const struct {
        uint8_t colour, channels;
        uint32_t depths;    /* bit d: depth d is allowed */
    } KINDS[] = {
        {GRAY, 1, 1u << 1 | 1u << 2 | 1u << 4 | 1u << 8 | 1u << 16},
        {RGB, 3, 1u << 8 | 1u << 16},
        {PALETTE, 1, 1u << 1 | 1u << 2 | 1u << 4 | 1u << 8},
        {GRAY_ALPHA, 2, 1u << 8 | 1u << 16},
        {RGB_ALPHA, 4, 1u << 8 | 1u << 16},
    };
    for (size_t i = 0; i < AGL_COUNT(KINDS); i++)
        if (KINDS[i].colour == png->colour && png->depth <= 16 &&
            (KINDS[i].depths >> png->depth & 1u))
            png->channels = KINDS[i].channels;
    if (png->channels == 0 || ihdr[10] != 0 || ihdr[11] != 0 || ihdr[12] > 1)
        return agl_fail(
            err, AGL_ERR_FORMAT,
            "PNG header: no such colour type %d, depth %d, compression %d, filter %d, interlace %d",
            png->colour, png->depth, ihdr[10], ihdr[11], ihdr[12]);
    if (png->width == 0 || png->height == 0)
        return agl_fail(err, AGL_ERR_FORMAT, "PNG of %u x %u pixels is empty", png->width,
                        png->height);
    if (png->width > SIDE_MAX || png->height > SIDE_MAX)
        return agl_fail(err, AGL_ERR_LIMIT, "PNG of %u x %u pixels: sides may have %u at most",
                        png->width, png->height, SIDE_MAX);
    return AGL_OK;
}

static agl_status check_sum(const uint8_t *type, agl_bytes body, agl_error *err)
{
    if (libdeflate_crc32(0, type, body.bytes + 4) == big_endian32(body.data + body.bytes)) return AGL_OK;
    return agl_fail(err, AGL_ERR_FORMAT, "PNG chunk %.4s is damaged (checksum)", (const char *)type);
}

/* Only chunks that change pixels or their orientation are read. */
static agl_status read_chunk(png_file *png, const uint8_t *type, agl_bytes body, agl_error *err)
{
    if (memcmp(type, "PLTE", 4) == 0) png->palette = body;
    else if (memcmp(type, "tRNS", 4) == 0) png->transparency = body;
    else if (memcmp(type, "eXIf", 4) == 0) png->exif = body;
    else return AGL_OK;
    return check_sum(type, body, err);
}

/* One walk over all chunks. A file cut after its first IDAT goes on; inflate will judge. */
static agl_status read_chunks(png_file *png, agl_bytes file, agl_error *err)
{
    size_t at = 8;
    while (file.bytes - at >= 8) {
        const uint8_t *type = file.data + at + 4;
        agl_bytes body = {file.data + at + 8, big_endian32(file.data + at)};
        size_t rest = file.bytes - at - 8;
        bool first = at == 8, cut = rest < 4 || body.bytes > rest - 4;
        if (first && (cut || memcmp(type, "IHDR", 4) != 0))
            return agl_fail(err, AGL_ERR_FORMAT, "PNG does not begin with its header chunk");
        if (first) {
            AGL_TRY(read_ihdr(png, body, err));
            AGL_TRY(check_sum(type, body, err));
        } else if (memcmp(type, "IDAT", 4) == 0) {
            if (body.bytes > rest) body.bytes = rest;
            if (png->idat_count++ == 0) png->idat = body;
            png->idat_bytes += body.bytes;
        } else if (memcmp(type, "IEND", 4) == 0) {
            break;
        } else if (!cut) {
            AGL_TRY(read_chunk(png, type, body, err));
        }
        if (cut) break;
        at += body.bytes + 12;
    }
    if (png->idat_count == 0)
        return agl_fail(err, AGL_ERR_FORMAT, "PNG has no image data (cut after %zu bytes)",
                        file.bytes);
    if (png->colour == PALETTE && png->palette.bytes < 3)
        return agl_fail(err, AGL_ERR_FORMAT, "PNG has palette colours but no palette");
    return AGL_OK;
}

/* ---- geometry -------------------------------------------------------- */

static uint32_t pass_width(const png_file *png, const png_pass *pass)
{
    return png->width > pass->x ? (png->width - pass->x + pass->x_step - 1) / pass->x_step : 0;
}

static uint32_t pass_height(const png_file *png, const png_pass *pass)
{
    return png->height > pass->y ? (png->height - pass->y + pass->y_step - 1) / pass->y_step : 0;
}

static size_t row_bytes(const png_file *png, uint32_t width)
{
    return (size_t)(((uint64_t)width * png->channels * png->depth + 7) / 8);
}

static const png_pass *passes_of(const png_file *png, size_t *count)
{
    *count = png->interlaced ? 7 : 1;
    return png->interlaced ? PASSES : PASSES + 7;
}

/* Rows of all passes, each with its filter byte. */
static uint64_t inflated_bytes(const png_file *png)
{
    size_t count;
    const png_pass *passes = passes_of(png, &count);
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t width = pass_width(png, passes + i);
        if (width > 0)
            bytes += (uint64_t)pass_height(png, passes + i) * (1 + row_bytes(png, width));
    }
    return bytes;
}

static agl_status read_file(png_file *png, agl_bytes file, agl_error *err)
{
    *png = (png_file){0};
    AGL_TRY(read_chunks(png, file, err));
    if (inflated_bytes(png) / DEFLATE_RATIO_MAX > png->idat_bytes)
        return agl_fail(err, AGL_ERR_FORMAT,
                        "PNG of %u x %u pixels has only %llu bytes of image data", png->width,
                        png->height, (unsigned long long)png->idat_bytes);
    return AGL_OK;
}

agl_status agl_png_header(agl_image_header *out, agl_bytes file, agl_error *err)
{
    png_file png;
    AGL_TRY(read_file(&png, file, err));
    *out = (agl_image_header){png.height, png.width, agl_exif_orientation(png.exif)};
    return AGL_OK;
}

/* ---- colours --------------------------------------------------------- */

/* How samples become RGB on white: a table for samples up to 8 bits in one channel, else by hand. */
typedef struct {
    const png_file *png;
    uint8_t table[256][3];
    uint32_t key[3];        /* tRNS colour of gray and RGB */
    bool has_key;
} png_colours;

static void fill_table(png_colours *colours)
{
    const png_file *png = colours->png;
    for (uint32_t i = 0; i < 256; i++) {
        uint8_t rgb[3] = {0}, alpha = 255;
        if (png->colour == PALETTE) {
            if ((i + 1) * 3 <= png->palette.bytes)
                memcpy(rgb, png->palette.data + (size_t)i * 3, 3);
            if (i < png->transparency.bytes) alpha = png->transparency.data[i];
        } else {
            memset(rgb, (int)(uint8_t)(i * 255 / ((1u << png->depth) - 1)), 3);
            if (colours->has_key && i == colours->key[0]) alpha = 0;
        }
        for (size_t c = 0; c < 3; c++) colours->table[i][c] = agl_level_over_white(rgb[c], alpha);
    }
}

static void init_colours(png_colours *colours, const png_file *png)
{
    colours->png = png;
    size_t samples = png->colour == GRAY ? 1 : 3;
    colours->has_key =
        (png->colour == GRAY || png->colour == RGB) && png->transparency.bytes >= 2 * samples;
    for (size_t i = 0; colours->has_key && i < samples; i++)
        colours->key[i] = big_endian16(png->transparency.data + 2 * i);
    if (png->channels == 1 && png->depth <= 8) fill_table(colours);
}

static void expand_table(uint8_t *rgb, const uint8_t *row, uint32_t width,
                         const png_colours *colours)
{
    uint32_t depth = colours->png->depth, per_byte = 8 / depth, mask = (1u << depth) - 1;
    for (uint32_t x = 0; x < width; x++) {
        uint32_t shift = (per_byte - 1 - x % per_byte) * depth;
        memcpy(rgb + 3 * (size_t)x, colours->table[(uint32_t)row[x / per_byte] >> shift & mask], 3);
    }
}

/* Samples of 8 or 16 bits, by the first byte of each; gray has one sample for all three. */
static void expand_samples(uint8_t *rgb, const uint8_t *row, uint32_t width,
                           const png_colours *colours)
{
    const png_file *png = colours->png;
    size_t sample = png->depth / 8u, colour_samples = png->channels >= 3 ? 3 : 1;
    bool has_alpha = png->channels % 2 == 0;
    for (uint32_t x = 0; x < width; x++, row += png->channels * sample, rgb += 3) {
        uint8_t alpha = has_alpha ? row[colour_samples * sample] : 255;
        if (colours->has_key) {
            bool equal = true;
            for (size_t c = 0; c < colour_samples; c++)
                equal =
                    equal && colours->key[c] == (sample == 2 ? big_endian16(row + 2 * c) : row[c]);
            if (equal) alpha = 0;
        }
        for (size_t c = 0; c < 3; c++)
            rgb[c] = agl_level_over_white(row[colour_samples == 3 ? c * sample : 0], alpha);
    }
}

static void expand_row(uint8_t *rgb, const uint8_t *row, uint32_t width, const png_colours *colours)
{
    const png_file *png = colours->png;
    if (png->channels == 1 && png->depth <= 8) expand_table(rgb, row, width, colours);
    else if (png->colour == RGB_ALPHA && png->depth == 8) agl_rgba_over_white(rgb, row, width);
    else if (png->colour == RGB && png->depth == 8 && !colours->has_key)
        memcpy(rgb, row, (size_t)width * 3);
    else expand_samples(rgb, row, width, colours);
}

/* ---- pixels ---------------------------------------------------------- */

/* One pass: `rows` at its first filter byte, changed in place; `line` holds one picture row of RGB
 * and `zeros` one of nothing. Returns the first byte after it, NULL for an unknown filter. */
static uint8_t *expand_pass(uint8_t *rgb, uint8_t *rows, const png_pass *pass,
                            const png_colours *colours, uint8_t *line, const uint8_t *zeros)
{
    const png_file *png = colours->png;
    uint32_t width = pass_width(png, pass), height = width > 0 ? pass_height(png, pass) : 0;
    size_t bytes = row_bytes(png, width), pixel_bytes = (png->channels * png->depth + 7u) / 8u;
    const uint8_t *above = zeros;
    for (uint32_t y = 0; y < height; y++, rows += bytes + 1) {
        if (!agl_png_unfilter(rows + 1, above, bytes, rows[0], pixel_bytes)) return NULL;
        above = rows + 1;
        uint8_t *out = rgb + ((size_t)pass->y + (size_t)y * pass->y_step) * png->width * 3;
        if (pass->x_step == 1) {
            expand_row(out, above, width, colours);
            continue;
        }
        expand_row(line, above, width, colours);
        for (uint32_t x = 0; x < width; x++)
            memcpy(out + ((size_t)pass->x + (size_t)x * pass->x_step) * 3, line + (size_t)x * 3, 3);
    }
    return rows;
}

/* The zlib stream as one run of bytes: the file itself if there is one IDAT, else a copy in *joined. */
static agl_status join_idat(agl_bytes *out, uint8_t **joined, const png_file *png, agl_bytes file,
                            agl_error *err)
{
    *out = png->idat;
    if (png->idat_count == 1) return AGL_OK;
    size_t filled = 0, at = 8;
    *joined = malloc((size_t)png->idat_bytes + 1);
    if (*joined == NULL)
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for a PNG of %zu bytes", file.bytes);
    while (filled < png->idat_bytes) {
        size_t bytes = big_endian32(file.data + at), rest = file.bytes - at - 8;
        if (bytes > rest) bytes = rest;
        if (memcmp(file.data + at + 4, "IDAT", 4) == 0) {
            memcpy(*joined + filled, file.data + at + 8, bytes);
            filled += bytes;
        }
        at += bytes + 12;
    }
    *out = (agl_bytes){*joined, filled};
    return AGL_OK;
}

static agl_status inflate_rows(uint8_t *rows, size_t bytes, agl_bytes stream, agl_error *err)
{
    struct libdeflate_decompressor *inflater = libdeflate_alloc_decompressor();
    if (inflater == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory to inflate a PNG");
    enum libdeflate_result result =
        libdeflate_zlib_decompress(inflater, stream.data, stream.bytes, rows, bytes, NULL);
    libdeflate_free_decompressor(inflater);
    switch (result) {
    case LIBDEFLATE_SUCCESS: return AGL_OK;
    case LIBDEFLATE_SHORT_OUTPUT: return agl_fail(err, AGL_ERR_FORMAT, "PNG image data ends early");
    case LIBDEFLATE_INSUFFICIENT_SPACE:
        return agl_fail(err, AGL_ERR_FORMAT, "PNG image data is longer than its size tells");
    default: return agl_fail(err, AGL_ERR_FORMAT, "PNG image data is damaged or cut short");
    }
}

agl_status agl_png_decode(uint8_t *rgb, agl_bytes file, agl_error *err)
{
    png_file png;
    AGL_TRY(read_file(&png, file, err));
    size_t rows_bytes = (size_t)inflated_bytes(&png);
    size_t line_bytes = (size_t)png.width * 8 + AGL_PNG_SLACK;
    uint8_t *joined = NULL, *rows = malloc(rows_bytes + AGL_PNG_SLACK);
    uint8_t *line = calloc(2, line_bytes);
    agl_bytes stream = {0};
    agl_status status = AGL_OK;
    if (rows == NULL || line == NULL)
        status = agl_fail(err, AGL_ERR_MEMORY, "no memory for a PNG of %u x %u pixels", png.width,
                          png.height);
    if (status == AGL_OK) status = join_idat(&stream, &joined, &png, file, err);
    if (status == AGL_OK) {
        memset(rows + rows_bytes, 0, AGL_PNG_SLACK);
        status = inflate_rows(rows, rows_bytes, stream, err);
    }
    if (status == AGL_OK) {
        png_colours colours = {0};
        init_colours(&colours, &png);
        size_t count;
        const png_pass *passes = passes_of(&png, &count);
        uint8_t *at = rows;
        for (size_t i = 0; i < count && at != NULL; i++)
            at = expand_pass(rgb, at, passes + i, &colours, line, line + line_bytes);
        if (at == NULL) status = agl_fail(err, AGL_ERR_FORMAT, "PNG row has an unknown filter");
    }
    free(joined);
    free(rows);
    free(line);
    return status;
}
