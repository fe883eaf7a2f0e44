/* SPDX-License-Identifier: Apache-2.0
 *
 * picture_room.h - device memory for the picture that goes into the vision tower, and its last
 * step there: the size the tower takes.
 *
 * On a CPU the submitting thread resizes, beside the engine. A GPU does it in a hundredth of the
 * time with the same bits, so there pictures come as they were decoded:
 *
 *     resized | as decoded | between the two passes | windows of both axes
 *
 * Pictures that do not fit this room are resized by the submitting thread as well: the first
 * three parts have one size, that of the largest resized picture. One picture at a time; engine
 * thread only, but for agl_picture_room_takes. */
#ifndef AGL_ENGINE_PICTURE_ROOM_H
#define AGL_ENGINE_PICTURE_ROOM_H

#include "backend/backend.h"
#include "base/status.h"
#include "media/image.h"

typedef struct agl_picture_room agl_picture_room;

/* Pixels before and after. */
typedef struct {
    int64_t height, width, out_height, out_width;
} agl_picture_size;

/* Device bytes of the room; a resized picture has pixel_bytes_max at most. */
uint64_t agl_picture_room_bytes(const agl_backend *backend, size_t pixel_bytes_max);

/* Does the backend resize this picture? Otherwise it has to come resized. */
bool agl_picture_room_takes(const agl_backend *backend, size_t pixel_bytes_max,
                            const agl_picture_size *size);

/* `backend` is borrowed and must outlive the room. */
agl_status agl_picture_room_create(agl_picture_room **out, agl_backend *backend,
                                   size_t pixel_bytes_max, agl_error *err);
void agl_picture_room_destroy(agl_picture_room *room);      /* NULL is allowed */

/* Queue the picture's way to the device, and to height x width if it has another size. Views:
 * *out until the next call, `picture` for this call only. */
agl_status agl_picture_room_load(agl_picture_room *room, const uint8_t **out, agl_stream *stream,
                                 const agl_image *picture, int64_t height, int64_t width);

#endif
