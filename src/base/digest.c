/* SPDX-License-Identifier: Apache-2.0 */
#include "base/digest.h"

#include <nettle/memops.h>
#include <nettle/sha2.h>

static agl_digest finish(struct sha256_ctx *context)
{
    agl_digest digest;
    sha256_digest(context, sizeof digest.bytes, digest.bytes);
    return digest;
}

agl_digest agl_digest_of(const agl_digest_part *parts, size_t count)
{
    struct sha256_ctx context;
    sha256_init(&context);
    for (size_t i = 0; i < count; i++) {
        uint64_t length = parts[i].bytes;
        sha256_update(&context, sizeof length, (const uint8_t *)&length);
        if (length > 0) sha256_update(&context, parts[i].bytes, parts[i].data);
    }
    return finish(&context);
}

agl_digest agl_sha256(const void *data, size_t bytes)
{
    struct sha256_ctx context;
    sha256_init(&context);
    if (bytes > 0) sha256_update(&context, bytes, data);
    return finish(&context);
}

bool agl_digest_equal(const agl_digest *a, const agl_digest *b)
{
    return memeql_sec(a->bytes, b->bytes, sizeof a->bytes) != 0;
}
