/* SPDX-License-Identifier: Apache-2.0
 *
 * digest.h - SHA-256 (FIPS 180-4, through libnettle): cache keys that a client
 * cannot collide on purpose, and constant-time comparison of secrets. */
#ifndef AGL_BASE_DIGEST_H
#define AGL_BASE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint8_t bytes[32];
} agl_digest;

typedef struct {
    const void *data;
    size_t bytes;
} agl_digest_part;

/* Digest of the parts in order; each part's length is hashed before it, so parts cannot run together. */
agl_digest agl_digest_of(const agl_digest_part *parts, size_t count);

/* Plain SHA-256 of one run of bytes, for published checksums. */
agl_digest agl_sha256(const void *data, size_t bytes);

bool agl_digest_equal(const agl_digest *a, const agl_digest *b); /* constant time */

#endif
