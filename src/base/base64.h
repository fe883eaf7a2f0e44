/* SPDX-License-Identifier: Apache-2.0
 *
 * base64.h - strict decoding of RFC 4648 base64 (standard alphabet; the URL
 * alphabet is accepted too), padding optional, ASCII white space skipped. */
#ifndef AGL_BASE_BASE64_H
#define AGL_BASE_BASE64_H

#include <stddef.h>

#include "base/status.h"

/* Upper bound of the decoded size. */
#define AGL_BASE64_DECODED_MAX(text_bytes) ((text_bytes) / 4 * 3 + 3)

/* Decode into out (at least AGL_BASE64_DECODED_MAX bytes). FORMAT names the offset of a bad character. */
agl_status agl_base64_decode(unsigned char *out, size_t *out_bytes, const char *text,
                             size_t text_bytes, agl_error *err);

/* Encode, for clients; out holds (bytes + 2) / 3 * 4 + 1. */
void agl_base64_encode(char *out, const void *data, size_t bytes);

#endif
