/* SPDX-License-Identifier: Apache-2.0
 *
 * Request bodies. The first byte picks the endpoint, the rest is its JSON. */
#include <stddef.h>
#include <stdint.h>

#include "server/call.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const agl_media_policy MEDIA = {.bytes_max = 1 << 20, .count_max = 10, .timeout_ms = 1};
    agl_call_defaults defaults = {.media = &MEDIA, .response_role = "assistant", .stream_interval = 1};
    struct json_object *body = NULL;
    agl_error err;
    agl_api_error api_err = {0};
    agl_call call = {0};
    agl_arena arena;
    if (bytes < 1) return 0;
    if (agl_json_parse(&body, (const char *)data + 1, bytes - 1, "request body", &err) != AGL_OK) return 0;
    agl_arena_init(&arena, (size_t)64 << 20);
    agl_fields fields = {.object = body, .arena = &arena, .err = &api_err};
    agl_status status = AGL_OK;
    switch (data[0] % 3) {
    case 0: status = agl_chat_request_parse(&call, &fields, &defaults); break;
    case 1: status = agl_completion_request_parse(&call, &fields, &defaults); break;
    case 2: status = agl_messages_parse(&call, &fields, &defaults); break;
    }
    /* A refusal is a client's mistake with a message, or no memory; never a 500. */
    if (status != AGL_OK && (api_err.http_status < 400 || api_err.http_status == 500)) __builtin_trap();
    if (status != AGL_OK && api_err.detail.message[0] == '\0') __builtin_trap();
    agl_buffer out;
    agl_buffer_init(&out, 1 << 16);
    if (status != AGL_OK) agl_api_error_write(&out, &api_err);
    agl_buffer_deinit(&out);
    agl_arena_deinit(&arena);
    json_object_put(body);
    return 0;
}
