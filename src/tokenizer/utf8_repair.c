/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/utf8_repair.h"

#include "base/utf8.h"

/* Bytes at `text`, which starts no valid character, that one U+FFFD stands for. */
static size_t broken_bytes(const char *text, size_t bytes)
{
    size_t length = 1;
    while (length < 3 && length < bytes && agl_utf8_is_incomplete(text, length + 1)) length++;
    return length;
}

void agl_utf8_append_repaired(agl_buffer *out, const char *text, size_t bytes)
{
    size_t valid = 0; /* valid bytes at `text` not yet appended */
    while (valid < bytes) {
        size_t length = agl_utf8_character(text + valid, bytes - valid);
        if (length > 0) {
            valid += length;
            continue;
        }
        size_t broken = broken_bytes(text + valid, bytes - valid);
        agl_buffer_append(out, text, valid);
        agl_buffer_append(out, "\xef\xbf\xbd", 3);
        text += valid + broken;
        bytes -= valid + broken;
        valid = 0;
    }
    agl_buffer_append(out, text, valid);
}
