/* SPDX-License-Identifier: Apache-2.0 */
#include "base/base64.h"

#include <stdint.h>

enum { BAD = 0xff, SPACE = 0xfe, PAD = 0xfd };

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Value of every byte: 0..63, SPACE, PAD or BAD. Written out by the ranges of RFC 4648. */
static uint8_t value_of(unsigned char c)
{
    if (c >= 'A' && c <= 'Z') return (uint8_t)(c - 'A');
    if (c >= 'a' && c <= 'z') return (uint8_t)(c - 'a' + 26);
    if (c >= '0' && c <= '9') return (uint8_t)(c - '0' + 52);
    if (c == '+' || c == '-') return 62;
    if (c == '/' || c == '_') return 63;
    if (c == '=') return PAD;
    if (c == ' ' || c == '\n' || c == '\r' || c == '\t') return SPACE;
    return BAD;
}

agl_status agl_base64_decode(unsigned char *out, size_t *out_bytes, const char *text,
                             size_t text_bytes, agl_error *err)
{
    uint8_t table[256];
    for (unsigned c = 0; c < 256; c++) table[c] = value_of((unsigned char)c);

    size_t written = 0, i = 0;
    uint32_t bits = 0;
    unsigned count = 0; /* sextets in `bits` */
    unsigned pads = 0;
    *out_bytes = 0;
    while (i < text_bytes) {
        /* The common case: four plain characters at once. */
        while (count == 0 && pads == 0 && i + 4 <= text_bytes) {
            uint32_t a = table[(unsigned char)text[i]], b = table[(unsigned char)text[i + 1]];
            uint32_t c = table[(unsigned char)text[i + 2]], d = table[(unsigned char)text[i + 3]];
            if ((a | b | c | d) >= 64) break;
            uint32_t word = a << 18 | b << 12 | c << 6 | d;
            out[written] = (unsigned char)(word >> 16);
            out[written + 1] = (unsigned char)(word >> 8);
            out[written + 2] = (unsigned char)word;
            written += 3;
            i += 4;
        }
        if (i >= text_bytes) break;
        uint8_t value = table[(unsigned char)text[i]];
        if (value == BAD || (value < 64 && pads > 0)) {
            return agl_fail(err, AGL_ERR_FORMAT, "invalid base64 at offset %zu", i);
        }
        i++;
        if (value == SPACE) continue;
        if (value == PAD) {
            pads++;
            continue;
        }
        bits = bits << 6 | value;
        if (++count == 4) {
            out[written++] = (unsigned char)(bits >> 16);
            out[written++] = (unsigned char)(bits >> 8);
            out[written++] = (unsigned char)bits;
            bits = 0;
            count = 0;
        }
    }
    if (count == 1 || pads > 2 || (pads > 0 && (count + pads) % 4 != 0)) {
        return agl_fail(err, AGL_ERR_FORMAT, "invalid base64: it ends inside a group");
    }
    if (count == 2) out[written++] = (unsigned char)(bits >> 4);
    if (count == 3) {
        out[written++] = (unsigned char)(bits >> 10);
        out[written++] = (unsigned char)(bits >> 2);
    }
    *out_bytes = written;
    return AGL_OK;
}

void agl_base64_encode(char *out, const void *data, size_t bytes)
{
    const unsigned char *in = data;
    size_t o = 0;
    for (size_t i = 0; i < bytes; i += 3) {
        size_t left = bytes - i;
        uint32_t word = (uint32_t)in[i] << 16;
        if (left > 1) word |= (uint32_t)in[i + 1] << 8;
        if (left > 2) word |= in[i + 2];
        out[o++] = ALPHABET[word >> 18];
        out[o++] = ALPHABET[word >> 12 & 63];
        out[o++] = left > 1 ? ALPHABET[word >> 6 & 63] : '=';
        out[o++] = left > 2 ? ALPHABET[word & 63] : '=';
    }
    out[o] = '\0';
}
