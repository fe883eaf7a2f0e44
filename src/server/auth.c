/* SPDX-License-Identifier: Apache-2.0 */
#include "server/auth.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

agl_status agl_keys_init(agl_keys *keys, const agl_string_list *list, agl_error *err)
{
    *keys = (agl_keys){0};
    if (list->count == 0) return AGL_OK;
    keys->digests = calloc(list->count, sizeof *keys->digests);
    if (keys->digests == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for API keys");
    for (size_t i = 0; i < list->count; i++) {
        size_t bytes = strlen(list->items[i]);
        if (bytes == 0) {
            agl_keys_deinit(keys);
            return agl_fail(err, AGL_ERR_ARGUMENT, "--api-key: key %zu is empty", i + 1);
        }
        keys->digests[i] = agl_sha256(list->items[i], bytes);
    }
    keys->count = list->count;
    return AGL_OK;
}

void agl_keys_deinit(agl_keys *keys)
{
    free(keys->digests);
    *keys = (agl_keys){0};
}

static bool matches(const agl_keys *keys, const char *key)
{
    agl_digest digest = agl_sha256(key, strlen(key));
    bool found = false;
    for (size_t i = 0; i < keys->count; i++) found |= agl_digest_equal(&digest, &keys->digests[i]);
    return found;
}

bool agl_keys_allow(const agl_keys *keys, const char *authorization, const char *x_api_key)
{
    if (keys->count == 0) return true;
    if (x_api_key != NULL && matches(keys, x_api_key)) return true;
    if (authorization == NULL || strncasecmp(authorization, "Bearer ", 7) != 0) return false;
    const char *key = authorization + 7;
    while (*key == ' ') key++;
    return matches(keys, key);
}
