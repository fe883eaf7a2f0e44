/* SPDX-License-Identifier: Apache-2.0
 *
 * auth.h - API keys. Only their digests are kept, and every one is compared, so
 * the time taken says nothing about how much of a guess was right. */
#ifndef AGL_SERVER_AUTH_H
#define AGL_SERVER_AUTH_H

#include <stdbool.h>

#include "base/digest.h"
#include "base/status.h"
#include "server/server.h"

typedef struct {
    agl_digest *digests;
    size_t count;               /* 0: everybody may ask */
} agl_keys;

/* Empty keys are refused: they would let everybody in who sends nothing. */
agl_status agl_keys_init(agl_keys *keys, const agl_string_list *list, agl_error *err);
void agl_keys_deinit(agl_keys *keys);

/* The values of Authorization ("Bearer <key>") and X-Api-Key; NULL: header absent. */
bool agl_keys_allow(const agl_keys *keys, const char *authorization, const char *x_api_key);

#endif
