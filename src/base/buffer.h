/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer.h - a bounded growing byte buffer.
 *
 * It never grows past limit_bytes. A failed append leaves the contents as they
 * were and marks the buffer failed; later appends do nothing, so a run of
 * appends is checked once at its end. Always NUL-terminated. Not thread-safe. */
#ifndef AGL_BASE_BUFFER_H
#define AGL_BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    char *data;             /* NULL until the first append       */
    size_t bytes;
    size_t capacity;
    size_t limit_bytes;     /* 0: 1 GiB                          */
    bool failed;            /* an append did not fit             */
} agl_buffer;

void agl_buffer_init(agl_buffer *buffer, size_t limit_bytes);
void agl_buffer_deinit(agl_buffer *buffer);
void agl_buffer_clear(agl_buffer *buffer);               /* keeps the memory */
bool agl_buffer_reserve(agl_buffer *buffer, size_t extra_bytes);
void agl_buffer_append(agl_buffer *buffer, const void *data, size_t bytes);
void agl_buffer_append_text(agl_buffer *buffer, const char *text);
void agl_buffer_append_char(agl_buffer *buffer, char c);
__attribute__((format(printf, 2, 3)))
void agl_buffer_append_format(agl_buffer *buffer, const char *format, ...);

/* Append as the inside of a JSON string (no quotes); invalid UTF-8 becomes U+FFFD. */
void agl_buffer_append_json(agl_buffer *buffer, const char *text, size_t bytes);

/* Drop the first `bytes`. */
void agl_buffer_consume(agl_buffer *buffer, size_t bytes);

/* Hand over the memory (free with free()); the buffer is empty after. */
char *agl_buffer_detach(agl_buffer *buffer, size_t *bytes);

#endif
