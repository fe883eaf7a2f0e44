/* SPDX-License-Identifier: Apache-2.0
 *
 * image_jpeg.c - JPEG through libjpeg-turbo: baseline and progressive, gray,
 * YCbCr, RGB, CMYK and YCCK.
 *
 * libjpeg reports by longjmp. Everything that lives across a jump is in one
 * jpeg_reader of the caller; the functions that may jump keep no other state. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "media/image_codec.h"

/* A file of many tiny scans costs a pass over all coefficients for each: encoders write about ten. */
#define SCANS_MAX 100
/* A block of 8 x 8 pixels takes at least one bit, and colour may be sampled at half the sides. */
#define PIXELS_PER_BYTE_MAX 2048
#define ROWS_AT_ONCE 16

typedef struct {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    agl_status status;
    char message[JMSG_LENGTH_MAX];
    uint8_t *cmyk;          /* one row; NULL unless the file has four inks */
} jpeg_reader;

static _Noreturn void stop(jpeg_reader *reader, agl_status status, const char *message)
{
    reader->status = status;
    if (message != NULL) snprintf(reader->message, sizeof reader->message, "%s", message);
    else reader->errors.format_message((j_common_ptr)&reader->jpeg, reader->message);
    longjmp(reader->escape, 1);
}

static void on_error(j_common_ptr jpeg)
{
    jpeg_reader *reader = jpeg->client_data;
    switch (reader->errors.msg_code) {
    case JERR_OUT_OF_MEMORY: stop(reader, AGL_ERR_MEMORY, NULL);
    case JERR_SOF_UNSUPPORTED:
    case JERR_BAD_PRECISION:
    case JERR_CONVERSION_NOTIMPL: stop(reader, AGL_ERR_UNSUPPORTED, NULL);
    default: stop(reader, AGL_ERR_FORMAT, NULL);
    }
}

/* Warnings pass, as in Pillow, but for the one that means the file ends early. */
static void on_message(j_common_ptr jpeg, int level)
{
    jpeg_reader *reader = jpeg->client_data;
    if (level < 0 && reader->errors.msg_code == JWRN_JPEG_EOF)
        stop(reader, AGL_ERR_FORMAT, "the file is cut short");
}

static void on_progress(j_common_ptr jpeg)
{
    jpeg_reader *reader = jpeg->client_data;
    if (reader->jpeg.input_scan_number > SCANS_MAX)
        stop(reader, AGL_ERR_LIMIT, "it has more than 100 scans");
}

/* ---- steps that may jump --------------------------------------------- */

static void open_file(jpeg_reader *reader, agl_bytes file, bool keep_exif)
{
    jpeg_create_decompress(&reader->jpeg);
    reader->jpeg.client_data = reader;
    reader->jpeg.progress = &reader->progress;
    jpeg_mem_src(&reader->jpeg, file.data, (unsigned long)file.bytes);
    if (keep_exif) jpeg_save_markers(&reader->jpeg, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(&reader->jpeg, TRUE);
    /* As good as never used, and without the bound of one bit a block. */
    if (reader->jpeg.arith_code)
        stop(reader, AGL_ERR_UNSUPPORTED, "arithmetic coding is not read here");
    if (reader->jpeg.num_components != 1 && reader->jpeg.num_components != 3 &&
        reader->jpeg.num_components != 4)
        stop(reader, AGL_ERR_UNSUPPORTED, "it is neither gray nor of three or four colours");
    uint64_t pixels = (uint64_t)reader->jpeg.image_width * reader->jpeg.image_height;
    if (pixels / PIXELS_PER_BYTE_MAX > file.bytes)
        stop(reader, AGL_ERR_FORMAT, "the file is cut short");
}

/* Inks arrive inverted, as Adobe writes them and Pillow assumes; PIL's naive conversion. */
static void inks_to_rgb(uint8_t *rgb, const uint8_t *cmyk, size_t pixels)
{
    for (size_t i = 0; i < pixels; i++, cmyk += 4, rgb += 3) {
        int light = cmyk[3];
        for (size_t c = 0; c < 3; c++) {
            int product = (255 - cmyk[c]) * light + 128;
            rgb[c] = (uint8_t)(light - (((product >> 8) + product) >> 8));
        }
    }
}

static void read_rows(jpeg_reader *reader, uint8_t *rgb)
{
    struct jpeg_decompress_struct *jpeg = &reader->jpeg;
    bool inks = jpeg->num_components == 4;
    jpeg->out_color_space = inks ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(jpeg);
    size_t width = jpeg->output_width;
    if (inks) {
        reader->cmyk = malloc(width * 4);
        if (reader->cmyk == NULL) stop(reader, AGL_ERR_MEMORY, "no memory for a row");
    }
    while (jpeg->output_scanline < jpeg->output_height) {
        JSAMPROW rows[ROWS_AT_ONCE];
        size_t first = jpeg->output_scanline;
        if (inks) {
            rows[0] = reader->cmyk;
            jpeg_read_scanlines(jpeg, rows, 1);
            inks_to_rgb(rgb + first * width * 3, reader->cmyk, width);
            continue;
        }
        JDIMENSION count = jpeg->output_height - jpeg->output_scanline;
        if (count > ROWS_AT_ONCE) count = ROWS_AT_ONCE;
        for (size_t i = 0; i < count; i++) rows[i] = rgb + (first + i) * width * 3;
        jpeg_read_scanlines(jpeg, rows, count);
    }
}

static int saved_orientation(const jpeg_reader *reader)
{
    for (jpeg_saved_marker_ptr marker = reader->jpeg.marker_list; marker != NULL;
         marker = marker->next)
        if (marker->data_length >= 6 && memcmp(marker->data, "Exif\0\0", 6) == 0)
            return agl_exif_orientation((agl_bytes){marker->data, marker->data_length});
    return 1;
}

/* ---- entries --------------------------------------------------------- */

static void init_reader(jpeg_reader *reader)
{
    memset(reader, 0, sizeof *reader);
    reader->jpeg.err = jpeg_std_error(&reader->errors);
    reader->jpeg.client_data = reader;
    reader->errors.error_exit = on_error;
    reader->errors.emit_message = on_message;
    reader->progress.progress_monitor = on_progress;
}

/* Ends both ways: after a jump and after success. */
static agl_status close_reader(jpeg_reader *reader, agl_error *err)
{
    jpeg_destroy_decompress(&reader->jpeg);
    free(reader->cmyk);
    if (reader->status == AGL_OK) return AGL_OK;
    return agl_fail(err, reader->status, "JPEG: %s", reader->message);
}

agl_status agl_jpeg_header(agl_image_header *out, agl_bytes file, agl_error *err)
{
    jpeg_reader reader;
    init_reader(&reader);
    if (setjmp(reader.escape) == 0) {
        open_file(&reader, file, true);
        *out = (agl_image_header){reader.jpeg.image_height, reader.jpeg.image_width,
                                  saved_orientation(&reader)};
    }
    return close_reader(&reader, err);
}

agl_status agl_jpeg_decode(uint8_t *rgb, agl_bytes file, agl_error *err)
{
    jpeg_reader reader;
    init_reader(&reader);
    if (setjmp(reader.escape) == 0) {
        open_file(&reader, file, false);
        read_rows(&reader, rgb);
    }
    return close_reader(&reader, err);
}
