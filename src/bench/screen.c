/* SPDX-License-Identifier: Apache-2.0
 *
 * screen.c - phone-like screenshots for load tests: bars, rows of labels, a grid of
 * icons. They have a real screenshot's size, colour type and share of flat areas, which
 * is what decoding, resizing and the vision tower's time depend on; nobody reads them. */
#include "bench/workload.h"

#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"

typedef struct {
    uint8_t *pixels;            /* [height, width, 4] RGBA */
    uint32_t width, height;
    uint64_t state;
} canvas;

static void fill(canvas *c, uint32_t x, uint32_t y, uint32_t width, uint32_t height, uint32_t rgb)
{
    for (uint32_t row = y; row < y + height && row < c->height; row++) {
        for (uint32_t column = x; column < x + width && column < c->width; column++) {
            uint8_t *p = c->pixels + ((size_t)row * c->width + column) * 4;
            p[0] = (uint8_t)(rgb >> 16), p[1] = (uint8_t)(rgb >> 8), p[2] = (uint8_t)rgb,
            p[3] = 255;
        }
    }
}

/* Strokes with the density of a line of text. */
static void label(canvas *c, uint32_t x, uint32_t y, uint32_t size, uint32_t glyphs, uint32_t rgb)
{
    for (uint32_t g = 0; g < glyphs; g++) {
        for (int stroke = 0; stroke < 5; stroke++) {
            uint32_t along = agl_random_below(&c->state, size), across = size / 8 + 1;
            bool upright = agl_random_below(&c->state, 2) != 0;
            fill(c, x + g * size + (upright ? along * 7 / 8 : 0), y + (upright ? 0 : along * 7 / 8),
                 upright ? across : size * 7 / 8, upright ? size * 7 / 8 : across, rgb);
        }
    }
}

static void gradient(canvas *c, uint32_t x, uint32_t y, uint32_t side)
{
    uint32_t base = agl_random_below(&c->state, 1u << 24);
    for (uint32_t row = 0; row < side; row++) {
        uint32_t shade = base ^ (row * 255 / side) * 0x010100u;
        for (uint32_t column = 0; column < side; column += 4) {
            fill(c, x + column, y + row, 4, 1, shade + (agl_random_below(&c->state, 8) << 8));
        }
    }
}

static void compose(canvas *c)
{
    uint32_t unit = c->width / 27 + 1;
    bool dark = agl_random_below(&c->state, 2) != 0;
    uint32_t paper = dark ? 0x101418 : 0xf4f5f7, ink = dark ? 0xe6e6e6 : 0x1c1c1e;
    fill(c, 0, 0, c->width, c->height, paper);
    label(c, unit, unit / 2, unit, 5, ink);
    fill(c, 0, 2 * unit, c->width, 3 * unit, dark ? 0x1d232b : 0xffffff);
    label(c, 2 * unit, 3 * unit, unit + unit / 2, 4 + agl_random_below(&c->state, 6), ink);
    uint32_t y = 6 * unit;
    if (agl_random_below(&c->state, 2) != 0) {
        for (uint32_t i = 0; i < 8; i++) {
            uint32_t x = unit + i % 4 * (c->width / 4);
            gradient(c, x, y + i / 4 * 7 * unit, 4 * unit);
            label(c, x, y + i / 4 * 7 * unit + 5 * unit, unit, 4, ink);
        }
        y += 15 * unit;
    }
    while (y + 4 * unit < c->height) {
        gradient(c, unit, y, 2 * unit);
        label(c, 5 * unit, y, unit, 3 + agl_random_below(&c->state, 12), ink);
        label(c, 5 * unit, y + unit + unit / 3, unit * 3 / 4, 5 + agl_random_below(&c->state, 15),
              0x8a8a8e);
        fill(c, 0, y + 3 * unit, c->width, 1, 0xc6c6c8);
        y += 3 * unit + unit / 2;
    }
}

/* ---- PNG (1.2): IHDR, one IDAT, IEND; RGBA, every row with the Up filter ----- */

static void put_u32(unsigned char *to, uint32_t value)
{
    for (int i = 0; i < 4; i++) to[i] = (unsigned char)(value >> (24 - 8 * i));
}

/* A chunk's length, type and checksum around data that lies in place already; returns its end. */
static unsigned char *close_chunk(unsigned char *chunk, const char *type, size_t bytes)
{
    put_u32(chunk, (uint32_t)bytes);
    memcpy(chunk + 4, type, 4);
    put_u32(chunk + 8 + bytes, libdeflate_crc32(0, chunk + 4, bytes + 4));
    return chunk + 12 + bytes;
}

static void filter_rows(unsigned char *out, const canvas *c)
{
    size_t row_bytes = (size_t)c->width * 4;
    for (uint32_t y = 0; y < c->height; y++) {
        const uint8_t *row = c->pixels + y * row_bytes;
        *out++ = 2;
        for (size_t i = 0; i < row_bytes; i++)
            *out++ = (unsigned char)(row[i] - (y > 0 ? row[i - row_bytes] : 0));
    }
}

agl_status agl_screen_draw(unsigned char **png, size_t *bytes, uint32_t width, uint32_t height,
                           uint64_t seed, agl_error *err)
{
    static const unsigned char SIGNATURE[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    *png = NULL;
    *bytes = 0;
    size_t raw_bytes = ((size_t)width * 4 + 1) * height;
    canvas c = {.width = width,
                .height = height,
                .state = seed,
                .pixels = malloc((size_t)width * height * 4)};
    struct libdeflate_compressor *deflater = libdeflate_alloc_compressor(1);
    unsigned char *raw = malloc(raw_bytes), *out = NULL;
    size_t bound = deflater != NULL ? libdeflate_zlib_compress_bound(deflater, raw_bytes) : 0;
    if (deflater != NULL && raw != NULL && c.pixels != NULL) out = malloc(bound + 100);
    if (out != NULL) {
        compose(&c);
        filter_rows(raw, &c);
        memcpy(out, SIGNATURE, sizeof SIGNATURE);
        unsigned char *chunk = out + sizeof SIGNATURE;
        put_u32(chunk + 8, width);
        put_u32(chunk + 12, height);
        memcpy(chunk + 16, "\x08\x06\x00\x00\x00",
               5); /* 8 bits, RGBA, deflate, filters, not interlaced */
        chunk = close_chunk(chunk, "IHDR", 13);
        chunk = close_chunk(chunk, "IDAT",
                            libdeflate_zlib_compress(deflater, raw, raw_bytes, chunk + 8, bound));
        chunk = close_chunk(chunk, "IEND", 0);
        *bytes = (size_t)(chunk - out);
        *png = out;
    }
    libdeflate_free_compressor(deflater);
    free(c.pixels);
    free(raw);
    if (out == NULL)
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for a %ux%u screen", width, height);
    return AGL_OK;
}
