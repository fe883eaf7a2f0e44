/* SPDX-License-Identifier: Apache-2.0
 *
 * fields.h - typed members of a request object. An absent or null member leaves
 * the value as it is; a wrong type is a 400 that names the field. */
#ifndef AGL_SERVER_FIELDS_H
#define AGL_SERVER_FIELDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/json.h"
#include "server/api_error.h"

typedef struct {
    struct json_object *object;
    agl_arena *arena;           /* of copies and arrays; they live as long as the request */
    agl_api_error *err;
} agl_fields;

typedef struct {
    int64_t min, max;
} agl_integer_range;

bool agl_field_present(const agl_fields *fields, const char *key);

agl_status agl_field_bool(const agl_fields *fields, const char *key, bool *value);
agl_status agl_field_integer(const agl_fields *fields, const char *key, int64_t *value);
agl_status agl_field_number(const agl_fields *fields, const char *key, double *value);

/* Without NUL bytes inside; copied to the arena. */
agl_status agl_field_text(const agl_fields *fields, const char *key, const char **value);

/* A member that must be an object. */
agl_status agl_field_object(const agl_fields *fields, const char *key, struct json_object **value);

/* A list of strings; a single string counts as a list of one if `single` is set. */
agl_status agl_field_texts(const agl_fields *fields, const char *key, bool single, size_t count_max,
                           const char *const **values, size_t *count);

agl_status agl_field_integers(const agl_fields *fields, const char *key, size_t count_max,
                              agl_integer_range range, const int32_t **values, size_t *count);

/* The elements of an array of integers, `name` for messages. */
agl_status agl_integers_read(struct json_object *array, const agl_fields *fields, const char *name,
                             agl_integer_range range, int32_t *values);

/* The integer in a JSON number: 5 and 5.0, not 5.5. */
bool agl_integer_read(struct json_object *value, int64_t *number);

#endif
