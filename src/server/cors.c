/* SPDX-License-Identifier: Apache-2.0
 *
 * cors.c - which web pages may read the answers. */
#include <string.h>
#include <strings.h>

#include "server/server_state.h"

static const char *header(const agl_exchange *exchange, const char *name)
{
    return MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

static bool lists(const agl_string_list *list, const char *value)
{
    if (list->count == 0) return true;
    for (size_t i = 0; i < list->count; i++) {
        if (strcmp(list->items[i], "*") == 0 || strcasecmp(list->items[i], value) == 0) return true;
    }
    return false;
}

/* The configured list, or what the page asked for if everything is allowed. */
static void add_list(struct MHD_Response *response, const char *name, const agl_string_list *list,
                     const char *asked, const char *otherwise)
{
    if (lists(list, "\n")) { /* only "*" admits that */
        MHD_add_response_header(response, name, asked != NULL ? asked : otherwise);
        return;
    }
    agl_buffer joined;
    agl_buffer_init(&joined, 8192);
    for (size_t i = 0; i < list->count; i++) {
        agl_buffer_append_text(&joined, i > 0 ? ", " : "");
        agl_buffer_append_text(&joined, list->items[i]);
    }
    if (!joined.failed && joined.data != NULL) MHD_add_response_header(response, name, joined.data);
    agl_buffer_deinit(&joined);
}

void agl_cors_add(agl_exchange *exchange, struct MHD_Response *response, bool is_preflight)
{
    const agl_server_options *options = &exchange->server->options;
    const char *origin = header(exchange, "Origin");
    bool any = lists(&options->allowed_origins, "\n");
    if (any && !options->allow_credentials) {
        MHD_add_response_header(response, "Access-Control-Allow-Origin", "*");
    } else {
        MHD_add_response_header(response, "Vary", "Origin");
        if (origin == NULL || !lists(&options->allowed_origins, origin)) return;
        MHD_add_response_header(response, "Access-Control-Allow-Origin", origin);
        if (options->allow_credentials) MHD_add_response_header(response, "Access-Control-Allow-Credentials", "true");
    }
    if (!is_preflight) {
        MHD_add_response_header(response, "Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
        return;
    }
    add_list(response, "Access-Control-Allow-Methods", &options->allowed_methods, NULL, "GET, POST, OPTIONS, HEAD");
    add_list(response, "Access-Control-Allow-Headers", &options->allowed_headers,
             header(exchange, "Access-Control-Request-Headers"),
             "Authorization, Content-Type, X-Api-Key, X-Request-Id");
    MHD_add_response_header(response, "Access-Control-Max-Age", "600");
}
