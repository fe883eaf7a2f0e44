/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/tokenizer.h"

#include "base/json.h"

#define CONFIG_BYTES_MAX ((size_t)64 << 20)

agl_status agl_tokenizer_end_token(int32_t *out, const agl_tokenizer *tokenizer, const char *path,
                                   agl_error *err)
{
    struct json_object *root;
    agl_error problem = {0};
    *out = -1;
    agl_status status = agl_json_load(&root, path, CONFIG_BYTES_MAX, &problem);
    if (status == AGL_ERR_NOT_FOUND) return AGL_OK;
    if (status != AGL_OK) return agl_fail(err, status, "%s", problem.message);
    struct json_object *token = agl_json_member(root, "eos_token");
    if (json_object_is_type(token, json_type_object)) token = agl_json_member(token, "content");
    if (json_object_is_type(token, json_type_string)) {
        *out = agl_tokenizer_find(tokenizer, json_object_get_string(token));
    }
    json_object_put(root);
    return AGL_OK;
}
