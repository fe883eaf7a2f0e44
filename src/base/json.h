/* SPDX-License-Identifier: Apache-2.0
 *
 * json.h - reading JSON of outside origin with json-c: one way to parse with
 * limits, and typed getters whose errors name file, key and what was expected. */
#ifndef AGL_BASE_JSON_H
#define AGL_BASE_JSON_H

#include <json-c/json.h>

#include "base/status.h"

/* Strict parse (RFC 8259, UTF-8 validated, depth <= 64, nothing after the value). `name` opens
 * the message. The escape of half a surrogate pair becomes U+FFFD. */
agl_status agl_json_parse(struct json_object **out, const char *text, size_t bytes,
                          const char *name, agl_error *err);
agl_status agl_json_load(struct json_object **out, const char *path, size_t limit_bytes,
                         agl_error *err);

/* Member of an object or NULL; JSON null counts as absent. */
struct json_object *agl_json_member(struct json_object *object, const char *key);

/* Typed members. FORMAT if the type is wrong, NOT_FOUND if absent and required;
 * if absent and not required *out is left as it is. */
agl_status agl_json_get_int(int64_t *out, struct json_object *object, const char *key,
                            int64_t min, int64_t max, bool required, const char *name, agl_error *err);
agl_status agl_json_get_double(double *out, struct json_object *object, const char *key,
                               double min, double max, bool required, const char *name, agl_error *err);
agl_status agl_json_get_bool(bool *out, struct json_object *object, const char *key, bool required,
                             const char *name, agl_error *err);
agl_status agl_json_get_string(const char **out, struct json_object *object, const char *key,
                               bool required, const char *name, agl_error *err); /* view */

#endif
