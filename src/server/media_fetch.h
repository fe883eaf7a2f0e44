/* SPDX-License-Identifier: Apache-2.0
 *
 * media_fetch.h - the bytes behind an image URL of a request: data: always,
 * file: below one folder, http(s): from listed hosts.
 *
 * A listed host may resolve to public addresses only; a private or loopback
 * address must be listed as that address ("192.168.1.5"). Redirects stay on the
 * list. The address that was checked is the one that is connected to. */
#ifndef AGL_SERVER_MEDIA_FETCH_H
#define AGL_SERVER_MEDIA_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "server/api_error.h"

typedef struct {
    const char *local_path;         /* resolved folder; NULL: file: is refused */
    const char *const *domains;
    size_t domain_count;            /* 0: http(s): is refused                  */
    uint32_t timeout_ms;            /* of one image, redirects included       */
    uint64_t bytes_max;
    uint32_t count_max;             /* images of one request                   */
} agl_media_policy;

/* The bytes live in the arena. `where` names the field in messages. */
agl_status agl_media_fetch(const void **data, size_t *bytes, agl_arena *arena,
                           const agl_media_policy *policy, const char *url, size_t url_bytes,
                           const char *where, agl_api_error *err);

/* Whether an address (struct sockaddr) is global unicast: no loopback, private,
 * link-local, multicast, documentation or mapped range. */
struct sockaddr;
bool agl_address_is_public(const struct sockaddr *address);

/* Before the first fetch, and before other threads run. */
agl_status agl_media_init(agl_error *err);

#endif
