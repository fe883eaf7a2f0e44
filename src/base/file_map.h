/* SPDX-License-Identifier: Apache-2.0
 *
 * file_map.h - a file as read-only memory.
 *
 * A mapped file that another process truncates later would fault; checkpoints
 * are expected to stay as they are while they are served. */
#ifndef AGL_BASE_FILE_MAP_H
#define AGL_BASE_FILE_MAP_H

#include <stddef.h>

#include "base/status.h"

typedef struct {
    const unsigned char *data;  /* NULL for an empty file */
    size_t bytes;
} agl_file_map;

/* NOT_FOUND, DENIED or IO with the path in the message. Only regular files. */
agl_status agl_file_map_open(agl_file_map *out, const char *path, agl_error *err);
void agl_file_map_close(agl_file_map *map);

/* Read a whole small file, at most limit_bytes; NUL added; free with free(). */
agl_status agl_file_read(char **out, size_t *bytes, const char *path, size_t limit_bytes,
                         agl_error *err);

#endif
