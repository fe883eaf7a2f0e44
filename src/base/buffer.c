/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buffer.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

#define DEFAULT_LIMIT ((size_t)1 << 30)

void agl_buffer_init(agl_buffer *buffer, size_t limit_bytes)
{
    *buffer = (agl_buffer){.limit_bytes = limit_bytes};
}

void agl_buffer_deinit(agl_buffer *buffer)
{
    free(buffer->data);
    *buffer = (agl_buffer){.limit_bytes = buffer->limit_bytes};
}

void agl_buffer_clear(agl_buffer *buffer)
{
    buffer->bytes = 0;
    buffer->failed = false;
    if (buffer->data != NULL) buffer->data[0] = '\0';
}

bool agl_buffer_reserve(agl_buffer *buffer, size_t extra_bytes)
{
    size_t limit = buffer->limit_bytes != 0 ? buffer->limit_bytes : DEFAULT_LIMIT;
    if (buffer->failed) return false;
    if (extra_bytes > limit || buffer->bytes > limit - extra_bytes) {
        buffer->failed = true;
        return false;
    }
    size_t needed = buffer->bytes + extra_bytes + 1;
    if (needed <= buffer->capacity) return true;

    size_t capacity = buffer->capacity < 128 ? 128 : buffer->capacity;
    while (capacity < needed) capacity += capacity / 2;
    char *data = realloc(buffer->data, capacity);
    if (data == NULL) {
        buffer->failed = true;
        return false;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

void agl_buffer_append(agl_buffer *buffer, const void *data, size_t bytes)
{
    if (!agl_buffer_reserve(buffer, bytes)) return;
    if (bytes > 0) memcpy(buffer->data + buffer->bytes, data, bytes);
    buffer->bytes += bytes;
    buffer->data[buffer->bytes] = '\0';
}

void agl_buffer_append_text(agl_buffer *buffer, const char *text)
{
    agl_buffer_append(buffer, text, strlen(text));
}

void agl_buffer_append_char(agl_buffer *buffer, char c)
{
    agl_buffer_append(buffer, &c, 1);
}

void agl_buffer_append_format(agl_buffer *buffer, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int bytes = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (bytes < 0 || !agl_buffer_reserve(buffer, (size_t)bytes)) {
        buffer->failed = true;
        return;
    }
    va_start(args, format);
    vsnprintf(buffer->data + buffer->bytes, (size_t)bytes + 1, format, args);
    va_end(args);
    buffer->bytes += (size_t)bytes;
}

void agl_buffer_append_json(agl_buffer *buffer, const char *text, size_t bytes)
{
    static const char HEX[] = "0123456789abcdef";
    size_t i = 0, plain = 0; /* text[plain, i) waits to be copied as it is */
    while (i < bytes) {
        unsigned char c = (unsigned char)text[i];
        size_t length = c < 0x80 ? 1 : agl_utf8_character(text + i, bytes - i);
        if (length != 0 && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) {
            i += length;
            continue;
        }
        agl_buffer_append(buffer, text + plain, i - plain);
        if (length == 0) {
            agl_buffer_append_text(buffer, "\xef\xbf\xbd");
        } else if (c == '"' || c == '\\') {
            agl_buffer_append(buffer, (char[]){'\\', (char)c}, 2);
        } else if (c == '\n') {
            agl_buffer_append(buffer, "\\n", 2);
        } else {
            agl_buffer_append(buffer, (char[]){'\\', 'u', '0', '0', HEX[c >> 4], HEX[c & 15]}, 6);
        }
        i++;
        plain = i;
    }
    agl_buffer_append(buffer, text + plain, i - plain);
}

void agl_buffer_consume(agl_buffer *buffer, size_t bytes)
{
    if (bytes > buffer->bytes) bytes = buffer->bytes;
    if (bytes == 0) return;
    memmove(buffer->data, buffer->data + bytes, buffer->bytes - bytes + 1);
    buffer->bytes -= bytes;
}

char *agl_buffer_detach(agl_buffer *buffer, size_t *bytes)
{
    char *data = buffer->data;
    if (bytes != NULL) *bytes = buffer->bytes;
    *buffer = (agl_buffer){.limit_bytes = buffer->limit_bytes};
    return data;
}
