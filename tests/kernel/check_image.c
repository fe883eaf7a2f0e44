/* SPDX-License-Identifier: Apache-2.0
 *
 * Picture loops: every resize variant and the PNG filters against the portable
 * rule, bit for bit, on random, odd and large shapes.
 *
 *   check_image                  the comparison
 *   check_image --bench [FILE]   milliseconds of each step, for a made-up phone
 *                                screen in three kinds or for the file        */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <libdeflate.h>
#include <webp/encode.h>

#include "base/clock.h"
#include "base/file_map.h"
#include "media/image_codec.h"
#include "media/image_resize.h"

static uint32_t random_state = 1;

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)random_state * limit >> 32);
}

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes);
    if (memory == NULL) abort();
    return memory;
}

/* ---- comparison ------------------------------------------------------ */

/* Exact memory, so that a sanitizer sees each byte beyond; levels at the ends are the ones that clamp. */
static agl_image random_image(int64_t height, int64_t width)
{
    size_t bytes = (size_t)height * (size_t)width * 3;
    agl_image image = {allocate(bytes), height, width};
    for (size_t i = 0; i < bytes; i++) {
        uint32_t draw = random_below(1024);
        image.pixels[i] = (uint8_t)(draw < 256 ? draw : draw & 1 ? 255 : 0);
    }
    return image;
}

static bool compare_resize(const char *name, const agl_resize_kernels *kernels,
                           const int64_t sides[4])
{
    agl_image in = random_image(sides[0], sides[1]), expected, got;
    agl_error err = {0};
    if (agl_image_resize_with(&expected, &in, sides[2], sides[3], &agl_resize_portable, &err) !=
            AGL_OK ||
        agl_image_resize_with(&got, &in, sides[2], sides[3], kernels, &err) != AGL_OK) {
        printf("resize %s: %s\n", name, err.message);
        return false;
    }
    bool equal = memcmp(expected.pixels, got.pixels, (size_t)(sides[2] * sides[3] * 3)) == 0;
    if (!equal)
        printf("resize %s: %lld x %lld to %lld x %lld differs from portable C\n", name,
               (long long)sides[1], (long long)sides[0], (long long)sides[3], (long long)sides[2]);
    agl_image_deinit(&in);
    agl_image_deinit(&expected);
    agl_image_deinit(&got);
    return equal;
}

static bool check_resize(const char *name, const agl_resize_kernels *kernels)
{
    static const int64_t SHAPES[][4] = {
        {1, 1, 84, 84},           {2400, 1080, 2408, 1092}, {1600, 720, 1596, 728},
        {3200, 1440, 3192, 1428}, {3000, 1000, 28, 28},     {7, 3000, 3, 17},
        {40, 40, 40, 84},         {40, 40, 84, 40},         {900, 2, 28, 2},
    };
    bool equal = true;
    if (kernels == NULL) {
        printf("skip: resize %s is not of this machine\n", name);
        return true;
    }
    for (size_t i = 0; i < AGL_COUNT(SHAPES); i++)
        equal = compare_resize(name, kernels, SHAPES[i]) && equal;
    for (int round = 0; round < 400; round++) {
        int64_t sides[4];
        uint32_t limit = round % 8 == 0 ? 400 : 60;
        for (size_t i = 0; i < 4; i++) sides[i] = 1 + random_below(limit);
        equal = compare_resize(name, kernels, sides) && equal;
    }
    printf("resize %s: %s\n", name, equal ? "equal to portable C" : "FAILED");
    return equal;
}

/* One byte of a filtered row, straight from the PNG specification. */
static uint8_t unfilter_byte(int filter, int x, int a, int b, int c)
{
    int p = a + b - c, to_a = abs(p - a), to_b = abs(p - b), to_c = abs(p - c);
    int paeth = to_a <= to_b && to_a <= to_c ? a : to_b <= to_c ? b : c;
    int guesses[5] = {0, a, b, (a + b) / 2, paeth};
    return (uint8_t)(x + guesses[filter]);
}

static bool check_filters(void)
{
    static const size_t PIXEL_BYTES[] = {1, 2, 3, 4, 6, 8};
    enum { ROW_MAX = 400 };
    for (int round = 0; round < 6000; round++) {
        size_t pixel_bytes = PIXEL_BYTES[round % 6],
               bytes = pixel_bytes * (1 + random_below((uint32_t)(ROW_MAX / pixel_bytes)));
        int filter = round / 6 % 5;
        uint8_t *row = allocate(bytes + AGL_PNG_SLACK), *above = allocate(bytes + AGL_PNG_SLACK),
                expected[ROW_MAX];
        for (size_t i = 0; i < bytes + AGL_PNG_SLACK; i++) {
            row[i] = (uint8_t)random_below(256);
            above[i] = (uint8_t)random_below(round % 4 == 0 ? 3 : 256);
        }
        for (size_t i = 0; i < bytes; i++)
            expected[i] =
                unfilter_byte(filter, row[i], i < pixel_bytes ? 0 : expected[i - pixel_bytes],
                              above[i], i < pixel_bytes ? 0 : above[i - pixel_bytes]);
        bool equal = agl_png_unfilter(row, above, bytes, filter, pixel_bytes) &&
                     memcmp(row, expected, bytes) == 0;
        free(row);
        free(above);
        if (!equal) {
            printf("PNG filter %d with %zu bytes a pixel differs: FAILED\n", filter, pixel_bytes);
            return false;
        }
    }
    printf("PNG filters: equal to the specification\n");
    return true;
}

/* ---- a phone screen -------------------------------------------------- */

#define SCREEN_HEIGHT 2400
#define SCREEN_WIDTH 1080

/* Flat panels, a photo-like slope with grain, and glyph-like strokes: inflates about as a real one. */
static agl_image make_screen(void)
{
    agl_image image = {allocate((size_t)SCREEN_HEIGHT * SCREEN_WIDTH * 3), SCREEN_HEIGHT,
                       SCREEN_WIDTH};
    for (int y = 0; y < SCREEN_HEIGHT; y++)
        for (int x = 0; x < SCREEN_WIDTH; x++) {
            uint8_t *pixel = image.pixels + ((size_t)y * SCREEN_WIDTH + (size_t)x) * 3;
            bool photo = y / 300 % 3 == 1;
            bool stroke = !photo && x % 200 > 30 && y % 60 > 20 &&
                          ((x * 7 + y / 3 * 13) % 23 < 4 || (x ^ y) % 37 == 0);
            for (int c = 0; c < 3; c++) {
                int level =
                    photo ? (x * (c + 1) / 12 + y * (3 - c) / 20) % 200 + (int)random_below(12)
                          : 245 - 3 * c;
                pixel[c] = (uint8_t)(stroke ? 40 + 20 * c : level);
            }
        }
    return image;
}

static uint8_t *put_chunk(uint8_t *at, const char *name, const void *data, size_t bytes)
{
    uint32_t length = __builtin_bswap32((uint32_t)bytes);
    memcpy(at, &length, 4);
    memcpy(at + 4, name, 4);
    memcpy(at + 8, data, bytes);
    uint32_t check = __builtin_bswap32(libdeflate_crc32(0, at + 4, bytes + 4));
    memcpy(at + 8 + bytes, &check, 4);
    return at + 12 + bytes;
}

/* RGBA with alpha 255; Up on flat rows, Paeth on the others, as encoders tend to choose. */
static agl_bytes encode_png(const agl_image *image)
{
    size_t line = (size_t)image->width * 4, rows_bytes = (size_t)image->height * (line + 1);
    uint8_t *plain = allocate(2 * line + 8), *rows = allocate(rows_bytes);
    memset(plain, 0, 2 * line + 8);
    for (int64_t y = 0; y < image->height; y++) {
        uint8_t *above = plain + (y % 2 ? 4 : line + 4), *row = plain + (y % 2 ? line + 4 : 4),
                *out = rows + (size_t)y * (line + 1);
        for (int64_t x = 0; x < image->width; x++) {
            memcpy(row + 4 * x, image->pixels + (y * image->width + x) * 3, 3);
            row[4 * x + 3] = 255;
        }
        out[0] = memcmp(row, above, line) == 0 ? 2 : 4;
        for (size_t i = 0; i < line; i++) {
            uint8_t a = i < 4 ? 0 : row[i - 4], c = i < 4 ? 0 : above[i - 4];
            out[1 + i] = (uint8_t)(row[i] - unfilter_byte(out[0], 0, a, above[i], c));
        }
    }
    struct libdeflate_compressor *compressor = libdeflate_alloc_compressor(6);
    size_t bound = libdeflate_zlib_compress_bound(compressor, rows_bytes);
    uint8_t *stream = allocate(bound), *file = allocate(bound + 100);
    size_t stream_bytes = libdeflate_zlib_compress(compressor, rows, rows_bytes, stream, bound);
    uint8_t header[13] = {0,
                          0,
                          (uint8_t)(image->width >> 8),
                          (uint8_t)image->width,
                          0,
                          0,
                          (uint8_t)(image->height >> 8),
                          (uint8_t)image->height,
                          8,
                          6,
                          0,
                          0,
                          0};
    memcpy(file, "\x89PNG\r\n\x1a\n", 8);
    uint8_t *end = put_chunk(file + 8, "IHDR", header, sizeof header);
    end = put_chunk(end, "IDAT", stream, stream_bytes);
    end = put_chunk(end, "IEND", "", 0);
    libdeflate_free_compressor(compressor);
    free(plain);
    free(rows);
    free(stream);
    return (agl_bytes){file, (size_t)(end - file)};
}

static agl_bytes encode_jpeg(const agl_image *image)
{
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    unsigned char *data = NULL;
    unsigned long bytes = 0;
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, &data, &bytes);
    jpeg.image_width = (JDIMENSION)image->width;
    jpeg.image_height = (JDIMENSION)image->height;
    jpeg.input_components = 3;
    jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&jpeg);
    jpeg_set_quality(&jpeg, 90, TRUE);
    jpeg_start_compress(&jpeg, TRUE);
    while (jpeg.next_scanline < jpeg.image_height) {
        JSAMPROW row = image->pixels + (size_t)jpeg.next_scanline * (size_t)image->width * 3;
        jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    return (agl_bytes){data, bytes};
}

static agl_bytes encode_webp(const agl_image *image)
{
    uint8_t *data = NULL;
    size_t bytes = WebPEncodeRGB(image->pixels, (int)image->width, (int)image->height,
                                 (int)image->width * 3, 85, &data);
    return (agl_bytes){data, bytes};
}

/* ---- bench ----------------------------------------------------------- */

static const agl_resize_rule RULE = {
    .factor = 28, .frames = 2, .pixels_min = 12544, .pixels_max = 9633792};
#define ROUNDS 15

static double best(double old, double start)
{
    double now = (agl_clock_s() - start) * 1e3;
    return old == 0.0 || now < old ? now : old;
}

static void bench_file(const char *name, agl_bytes file)
{
    double decode = 0, resize = 0, portable = 0, digest = 0;
    agl_error err = {0};
    agl_image image = {0}, scaled = {0};
    int64_t height = 0, width = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double start = agl_clock_s();
        agl_image_deinit(&image);
        if (agl_image_decode(&image, file.data, file.bytes, NULL, &err) != AGL_OK ||
            agl_image_target_size(&height, &width, image.height, image.width, &RULE, &err) !=
                AGL_OK) {
            printf("%s: %s\n", name, err.message);
            return;
        }
        decode = best(decode, start);
        start = agl_clock_s();
        agl_image_deinit(&scaled);
        if (agl_image_resize(&scaled, &image, height, width, &err) != AGL_OK) abort();
        resize = best(resize, start);
        start = agl_clock_s();
        agl_image_deinit(&scaled);
        if (round < 3 && agl_image_resize_with(&scaled, &image, height, width, &agl_resize_portable,
                                               &err) != AGL_OK)
            abort();
        if (round < 3) portable = best(portable, start);
        start = agl_clock_s();
        agl_digest sum = agl_image_digest(file.data, file.bytes, height, width);
        digest = best(digest, start);
        if (sum.bytes[0] == 0 && sum.bytes[1] == 0) printf(" ");
    }
    printf("%-14s %5lld x %-5lld %8zu  %7.2f  %5lld x %-5lld %7.2f  %8.2f  %7.2f  %7.2f\n", name,
           (long long)image.width, (long long)image.height, file.bytes, decode, (long long)width,
           (long long)height, resize, portable, digest, decode + resize + digest);
    agl_image_deinit(&image);
    agl_image_deinit(&scaled);
}

static int bench(int argc, char **argv)
{
    printf("milliseconds on one core, best of %d\n", ROUNDS);
    printf("%-14s %13s %8s  %7s  %13s %7s  %8s  %7s  %7s\n", "file", "width x height", "bytes",
           "decode", "to", "resize", "portable", "digest", "sum");
    for (int i = 2; i < argc; i++) {
        agl_file_map map;
        agl_error err = {0};
        if (agl_file_map_open(&map, argv[i], &err) != AGL_OK) {
            printf("%s\n", err.message);
            return 1;
        }
        const char *base = strrchr(argv[i], '/');
        bench_file(base != NULL ? base + 1 : argv[i], (agl_bytes){map.data, map.bytes});
        agl_file_map_close(&map);
    }
    if (argc > 2) return 0;
    agl_image screen = make_screen();
    agl_bytes files[] = {encode_png(&screen), encode_jpeg(&screen), encode_webp(&screen)};
    static const char *const NAMES[] = {"PNG (RGBA)", "JPEG (q 90)", "WebP (q 85)"};
    for (size_t i = 0; i < AGL_COUNT(files); i++) bench_file(NAMES[i], files[i]);
    free((void *)files[0].data);
    free((void *)files[1].data);
    WebPFree((void *)files[2].data);
    agl_image_deinit(&screen);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench(argc, argv);
    bool equal = check_resize("avx2", agl_resize_avx2());
    equal = check_filters() && equal;
    return equal ? 0 : 1;
}
