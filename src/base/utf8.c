/* SPDX-License-Identifier: Apache-2.0 */
#include "base/utf8.h"

#include <stdint.h>
#include <string.h>

/* Expected length and allowed range of the second byte (RFC 3629, table of section 4). */
static size_t lead_length(unsigned char lead, unsigned char *second_min, unsigned char *second_max)
{
    *second_min = 0x80;
    *second_max = 0xbf;
    if (lead < 0x80) return 1;
    if (lead >= 0xc2 && lead <= 0xdf) return 2;
    if (lead >= 0xe0 && lead <= 0xef) {
        if (lead == 0xe0) *second_min = 0xa0;
        if (lead == 0xed) *second_max = 0x9f;
        return 3;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        if (lead == 0xf0) *second_min = 0x90;
        if (lead == 0xf4) *second_max = 0x8f;
        return 4;
    }
    return 0;
}

/* Bytes of `text` that agree with one character, and that character's full length in *length. */
static size_t matching_bytes(const char *text, size_t bytes, size_t *length)
{
    unsigned char min, max;
    *length = 0;
    if (bytes == 0) return 0;
    *length = lead_length((unsigned char)text[0], &min, &max);
    if (*length == 0) return 0;
    size_t matched = 1;
    while (matched < *length && matched < bytes) {
        unsigned char c = (unsigned char)text[matched];
        if (c < min || c > max) break;
        min = 0x80;
        max = 0xbf;
        matched++;
    }
    return matched;
}

size_t agl_utf8_character(const char *text, size_t bytes)
{
    size_t length;
    size_t matched = matching_bytes(text, bytes, &length);
    return matched == length ? length : 0;
}

bool agl_utf8_is_incomplete(const char *text, size_t bytes)
{
    size_t length;
    size_t matched = matching_bytes(text, bytes, &length);
    return matched == bytes && matched < length;
}

bool agl_utf8_is_valid(const char *text, size_t bytes)
{
    const uint64_t high_bits = UINT64_C(0x8080808080808080);
    for (size_t i = 0; i < bytes;) {
        /* A request is megabytes of base64: eight ASCII characters at a time. */
        uint64_t eight;
        while (bytes - i >= sizeof eight && (memcpy(&eight, text + i, sizeof eight), (eight & high_bits) == 0))
            i += sizeof eight;
        if (i == bytes) break;
        size_t length = agl_utf8_character(text + i, bytes - i);
        if (length == 0) return false;
        i += length;
    }
    return true;
}

size_t agl_utf8_complete_prefix(const char *text, size_t bytes)
{
    size_t tail = bytes < 3 ? bytes : 3; /* an incomplete character has at most 3 bytes */
    for (size_t back = tail; back > 0; back--) {
        if (agl_utf8_is_incomplete(text + bytes - back, back)) return bytes - back;
    }
    return bytes;
}
