/* SPDX-License-Identifier: Apache-2.0
 *
 * screen.c - phone-like screenshots for load tests: bars, rows of labels, a grid of
 * icons. They have a real screenshot's size, colour type and share of flat areas, which
 * is what decoding, resizing and the vision tower's time depend on; nobody reads them. */
#include "bench/workload.h"

#include <spng.h>
#include <stdlib.h>

typedef struct {
    uint8_t *pixels;            /* [height, width, 4] RGBA */
    uint32_t width, height;
    uint64_t state;
} canvas;

static uint32_t draw_random(canvas *c, uint32_t below)
{
    uint64_t z = (c->state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(((z ^ z >> 31) >> 32) * below >> 32);
}

static void fill(canvas *c, uint32_t x, uint32_t y, uint32_t width, uint32_t height, uint32_t rgb)
{
    for (uint32_t row = y; row < y + height && row < c->height; row++) {
        for (uint32_t column = x; column < x + width && column < c->width; column++) {
            uint8_t *p = c->pixels + ((size_t)row * c->width + column) * 4;
            p[0] = (uint8_t)(rgb >> 16), p[1] = (uint8_t)(rgb >> 8), p[2] = (uint8_t)rgb, p[3] = 255;
        }
    }
}

/* Strokes with the density of a line of text. */
static void label(canvas *c, uint32_t x, uint32_t y, uint32_t size, uint32_t glyphs, uint32_t rgb)
{
    for (uint32_t g = 0; g < glyphs; g++) {
        for (int stroke = 0; stroke < 5; stroke++) {
            uint32_t along = draw_random(c, size), across = size / 8 + 1;
            bool upright = draw_random(c, 2) != 0;
            fill(c, x + g * size + (upright ? along * 7 / 8 : 0), y + (upright ? 0 : along * 7 / 8),
                 upright ? across : size * 7 / 8, upright ? size * 7 / 8 : across, rgb);
        }
    }
}

static void gradient(canvas *c, uint32_t x, uint32_t y, uint32_t side)
{
    uint32_t base = draw_random(c, 1u << 24);
    for (uint32_t row = 0; row < side; row++) {
        uint32_t shade = base ^ (row * 255 / side) * 0x010100u;
        for (uint32_t column = 0; column < side; column += 4) {
            fill(c, x + column, y + row, 4, 1, shade + (draw_random(c, 8) << 8));
        }
    }
}

static void compose(canvas *c)
{
    uint32_t unit = c->width / 27 + 1;
    bool dark = draw_random(c, 2) != 0;
    uint32_t paper = dark ? 0x101418 : 0xf4f5f7, ink = dark ? 0xe6e6e6 : 0x1c1c1e;
    fill(c, 0, 0, c->width, c->height, paper);
    label(c, unit, unit / 2, unit, 5, ink);
    fill(c, 0, 2 * unit, c->width, 3 * unit, dark ? 0x1d232b : 0xffffff);
    label(c, 2 * unit, 3 * unit, unit + unit / 2, 4 + draw_random(c, 6), ink);
    uint32_t y = 6 * unit;
    if (draw_random(c, 2) != 0) {
        for (uint32_t i = 0; i < 8; i++) {
            uint32_t x = unit + i % 4 * (c->width / 4);
            gradient(c, x, y + i / 4 * 7 * unit, 4 * unit);
            label(c, x, y + i / 4 * 7 * unit + 5 * unit, unit, 4, ink);
        }
        y += 15 * unit;
    }
    while (y + 4 * unit < c->height) {
        gradient(c, unit, y, 2 * unit);
        label(c, 5 * unit, y, unit, 3 + draw_random(c, 12), ink);
        label(c, 5 * unit, y + unit + unit / 3, unit * 3 / 4, 5 + draw_random(c, 15), 0x8a8a8e);
        fill(c, 0, y + 3 * unit, c->width, 1, 0xc6c6c8);
        y += 3 * unit + unit / 2;
    }
}

agl_status agl_screen_draw(unsigned char **png, size_t *bytes, uint32_t width, uint32_t height,
                           uint64_t seed, agl_error *err)
{
    *png = NULL;
    *bytes = 0;
    canvas c = {.width = width, .height = height, .state = seed};
    size_t pixel_bytes = (size_t)width * height * 4;
    c.pixels = malloc(pixel_bytes);
    spng_ctx *encoder = spng_ctx_new(SPNG_CTX_ENCODER);
    int problem = c.pixels == NULL || encoder == NULL ? SPNG_EMEM : 0;
    if (problem == 0) {
        compose(&c);
        struct spng_ihdr header = {.width = width, .height = height, .bit_depth = 8,
                                   .color_type = SPNG_COLOR_TYPE_TRUECOLOR_ALPHA};
        spng_set_option(encoder, SPNG_ENCODE_TO_BUFFER, 1);
        spng_set_option(encoder, SPNG_IMG_COMPRESSION_LEVEL, 3);
        problem = spng_set_ihdr(encoder, &header);
    }
    if (problem == 0) {
        problem = spng_encode_image(encoder, c.pixels, pixel_bytes, SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE);
    }
    if (problem == 0) *png = spng_get_png_buffer(encoder, bytes, &problem);
    spng_ctx_free(encoder);
    free(c.pixels);
    if (problem != 0) {
        return agl_fail(err, AGL_ERR_MEMORY, "cannot draw a %ux%u screen: %s", width, height,
                        spng_strerror(problem));
    }
    return AGL_OK;
}
