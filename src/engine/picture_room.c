/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/picture_room.h"

#include <assert.h>
#include <stdlib.h>

#include "media/image_resize.h"

#define ALIGN ((size_t)256)

/* An axis has at most 4 in + 6 out weights (windows are 4 scales wide and padded to groups), and
 * a first and a count for each of out. */
#define SIDE_MAX 16384
#define AXIS_BYTES_MAX ((size_t)(16 + 24 + 8) * SIDE_MAX)

struct agl_picture_room {
    agl_backend *backend;
    uint8_t *memory;            /* device: the four parts, the first alone on a CPU */
    size_t part_bytes;
    size_t table_bytes;         /* used of the fourth                               */
};

static size_t part_bytes_of(size_t pixel_bytes_max)
{
    return (pixel_bytes_max + ALIGN - 1) / ALIGN * ALIGN;
}

static bool resizes(const agl_backend *backend)
{
    return backend->kind != AGL_BACKEND_CPU;
}

uint64_t agl_picture_room_bytes(const agl_backend *backend, size_t pixel_bytes_max)
{
    if (pixel_bytes_max == 0) return 0;
    size_t part = part_bytes_of(pixel_bytes_max);
    return resizes(backend) ? 3 * part + 2 * (AXIS_BYTES_MAX + 3 * ALIGN) : part;
}

static bool down_first(const agl_picture_size *size)
{
    return agl_resize_goes_down_first(size->height, size->width, size->out_height, size->out_width);
}

static int64_t between_bytes(const agl_picture_size *size)
{
    return 3 * (down_first(size) ? size->out_height * size->width : size->height * size->out_width);
}

bool agl_picture_room_takes(const agl_backend *backend, size_t pixel_bytes_max,
                            const agl_picture_size *size)
{
    int64_t most = (int64_t)pixel_bytes_max;
    return resizes(backend) && size->height <= SIDE_MAX && size->width <= SIDE_MAX &&
           size->out_height <= SIDE_MAX && size->out_width <= SIDE_MAX &&
           3 * size->height * size->width <= most && between_bytes(size) <= most;
}

agl_status agl_picture_room_create(agl_picture_room **out, agl_backend *backend,
                                   size_t pixel_bytes_max, agl_error *err)
{
    agl_picture_room *room = calloc(1, sizeof *room);
    if (room == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for pictures");
    room->backend = backend;
    room->part_bytes = part_bytes_of(pixel_bytes_max);
    agl_status status = backend->ops->alloc(backend, (void **)&room->memory,
                                            agl_picture_room_bytes(backend, pixel_bytes_max),
                                            AGL_MEMORY_VISION, err);
    if (status != AGL_OK) {
        free(room);
        return status;
    }
    *out = room;
    return AGL_OK;
}

void agl_picture_room_destroy(agl_picture_room *room)
{
    if (room == NULL) return;
    room->backend->ops->free(room->backend, room->memory);
    free(room);
}

/* ---- resize ------------------------------------------------------------------ */

static agl_status put_table(agl_picture_room *room, const int32_t **out, agl_stream *stream,
                            const int32_t *table, int64_t count)
{
    uint8_t *place = room->memory + 3 * room->part_bytes + room->table_bytes;
    size_t bytes = (size_t)count * sizeof *table;
    room->table_bytes += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    assert(room->table_bytes <= 2 * (AXIS_BYTES_MAX + 3 * ALIGN));
    *out = (const int32_t *)place;
    return room->backend->ops->upload(stream, place, table, bytes);
}

static agl_status put_axis(agl_picture_room *room, agl_resize_windows *out, agl_stream *stream,
                           int64_t in_size, int64_t out_size)
{
    agl_resize_axis axis;
    *out = (agl_resize_windows){0};
    if (in_size == out_size) return AGL_OK;
    AGL_TRY(agl_resize_axis_init(&axis, in_size, out_size, NULL));
    out->taps = axis.taps;
    agl_status status = put_table(room, &out->first, stream, axis.first, out_size);
    if (status == AGL_OK) status = put_table(room, &out->count, stream, axis.count, out_size);
    if (status == AGL_OK) {
        status = put_table(room, &out->weights, stream, axis.weights, out_size * axis.taps);
    }
    agl_resize_axis_deinit(&axis);
    return status;
}

agl_status agl_picture_room_load(agl_picture_room *room, const uint8_t **out, agl_stream *stream,
                                 const agl_image *picture, int64_t height, int64_t width)
{
    const agl_backend_ops *ops = room->backend->ops;
    agl_picture_size size = {picture->height, picture->width, height, width};
    size_t bytes = (size_t)(3 * picture->height * picture->width);
    bool same = picture->height == height && picture->width == width;
    assert(bytes <= room->part_bytes && (size_t)(3 * height * width) <= room->part_bytes);
    assert(same || (resizes(room->backend) && between_bytes(&size) <= (int64_t)room->part_bytes));
    *out = room->memory;
    if (same) return ops->upload(stream, room->memory, picture->pixels, bytes);

    agl_resize_args args = {
        .pixels = room->memory + room->part_bytes,
        .out = room->memory,
        .between = room->memory + 2 * room->part_bytes,
        .height = size.height, .width = size.width, .out_height = height, .out_width = width,
        .down_first = down_first(&size),
    };
    room->table_bytes = 0;
    AGL_TRY(put_axis(room, &args.across, stream, size.width, width));
    AGL_TRY(put_axis(room, &args.down, stream, size.height, height));
    AGL_TRY(ops->upload(stream, room->memory + room->part_bytes, picture->pixels, bytes));
    return ops->resize(stream, &args);
}
