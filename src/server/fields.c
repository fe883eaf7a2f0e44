/* SPDX-License-Identifier: Apache-2.0 */
#include "server/fields.h"

#include <math.h>
#include <string.h>

bool agl_field_present(const agl_fields *fields, const char *key)
{
    return agl_json_member(fields->object, key) != NULL;
}

static agl_status mistyped(const agl_fields *fields, const char *key, const char *expected)
{
    return agl_api_fail(fields->err, AGL_ERR_FORMAT, key, "%s: Input should be a valid %s", key, expected);
}

agl_status agl_field_bool(const agl_fields *fields, const char *key, bool *value)
{
    struct json_object *member = agl_json_member(fields->object, key);
    if (member == NULL) return AGL_OK;
    if (!json_object_is_type(member, json_type_boolean)) return mistyped(fields, key, "boolean");
    *value = json_object_get_boolean(member);
    return AGL_OK;
}

bool agl_integer_read(struct json_object *value, int64_t *number)
{
    if (json_object_is_type(value, json_type_int)) {
        /* json-c clamps what does not fit to the ends of the range. */
        *number = json_object_get_int64(value);
        return true;
    }
    if (!json_object_is_type(value, json_type_double)) return false;
    double real = json_object_get_double(value);
    if (!(fabs(real) <= 9007199254740992.0) || real != floor(real)) return false; /* 2^53: exact */
    *number = (int64_t)real;
    return true;
}

agl_status agl_field_integer(const agl_fields *fields, const char *key, int64_t *value)
{
    struct json_object *member = agl_json_member(fields->object, key);
    if (member == NULL) return AGL_OK;
    if (!agl_integer_read(member, value)) return mistyped(fields, key, "integer");
    return AGL_OK;
}

agl_status agl_field_number(const agl_fields *fields, const char *key, double *value)
{
    struct json_object *member = agl_json_member(fields->object, key);
    if (member == NULL) return AGL_OK;
    if (!json_object_is_type(member, json_type_double) && !json_object_is_type(member, json_type_int)) {
        return mistyped(fields, key, "number");
    }
    double number = json_object_get_double(member);
    if (!isfinite(number)) return mistyped(fields, key, "finite number");
    *value = number;
    return AGL_OK;
}

static agl_status copy_text(const agl_fields *fields, struct json_object *member, const char *name,
                            const char **value)
{
    if (!json_object_is_type(member, json_type_string)) return mistyped(fields, name, "string");
    const char *text = json_object_get_string(member);
    size_t bytes = (size_t)json_object_get_string_len(member);
    if (memchr(text, '\0', bytes) != NULL) {
        return agl_api_fail(fields->err, AGL_ERR_FORMAT, name, "%s: NUL characters are not allowed", name);
    }
    *value = agl_arena_string(fields->arena, text, bytes);
    if (*value == NULL) return agl_api_fail(fields->err, AGL_ERR_MEMORY, NULL, "no memory for the request");
    return AGL_OK;
}

agl_status agl_field_text(const agl_fields *fields, const char *key, const char **value)
{
    struct json_object *member = agl_json_member(fields->object, key);
    if (member == NULL) return AGL_OK;
    return copy_text(fields, member, key, value);
}

agl_status agl_field_object(const agl_fields *fields, const char *key, struct json_object **value)
{
    struct json_object *member = agl_json_member(fields->object, key);
    if (member == NULL) return AGL_OK;
    if (!json_object_is_type(member, json_type_object)) return mistyped(fields, key, "object");
    *value = member;
    return AGL_OK;
}

static agl_status check_count(const agl_fields *fields, const char *key, size_t count, size_t count_max)
{
    if (count <= count_max) return AGL_OK;
    return agl_api_fail(fields->err, AGL_ERR_LIMIT, key, "%s: at most %zu items are allowed, got %zu", key,
                        count_max, count);
}

agl_status agl_field_texts(const agl_fields *fields, const char *key, bool single, size_t count_max,
                           const char *const **values, size_t *count)
{
    struct json_object *member = agl_json_member(fields->object, key);
    if (member == NULL) return AGL_OK;
    bool is_array = json_object_is_type(member, json_type_array);
    if (!is_array && !(single && json_object_is_type(member, json_type_string))) {
        return mistyped(fields, key, single ? "string or list of strings" : "list of strings");
    }
    size_t items = is_array ? json_object_array_length(member) : 1;
    AGL_TRY(check_count(fields, key, items, count_max));
    const char **texts = agl_arena_alloc(fields->arena, (items + 1) * sizeof *texts);
    if (texts == NULL) return agl_api_fail(fields->err, AGL_ERR_MEMORY, NULL, "no memory for the request");
    for (size_t i = 0; i < items; i++) {
        struct json_object *item = is_array ? json_object_array_get_idx(member, i) : member;
        AGL_TRY(copy_text(fields, item, key, &texts[i]));
    }
    *values = texts;
    *count = items;
    return AGL_OK;
}

agl_status agl_integers_read(struct json_object *array, const agl_fields *fields, const char *name,
                             agl_integer_range range, int32_t *values)
{
    size_t count = json_object_array_length(array);
    for (size_t i = 0; i < count; i++) {
        int64_t number;
        if (!agl_integer_read(json_object_array_get_idx(array, i), &number)) {
            return agl_api_fail(fields->err, AGL_ERR_FORMAT, name, "%s: item %zu should be a valid integer",
                                name, i);
        }
        if (number < range.min || number > range.max) {
            return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, name,
                                "%s: item %zu is %lld, a value in [%lld, %lld] expected", name, i,
                                (long long)number, (long long)range.min, (long long)range.max);
        }
        values[i] = (int32_t)number;
    }
    return AGL_OK;
}

agl_status agl_field_integers(const agl_fields *fields, const char *key, size_t count_max,
                              agl_integer_range range, const int32_t **values, size_t *count)
{
    struct json_object *member = agl_json_member(fields->object, key);
    if (member == NULL) return AGL_OK;
    if (!json_object_is_type(member, json_type_array)) return mistyped(fields, key, "list of integers");
    size_t items = json_object_array_length(member);
    AGL_TRY(check_count(fields, key, items, count_max));
    int32_t *numbers = agl_arena_alloc(fields->arena, (items + 1) * sizeof *numbers);
    if (numbers == NULL) return agl_api_fail(fields->err, AGL_ERR_MEMORY, NULL, "no memory for the request");
    AGL_TRY(agl_integers_read(member, fields, key, range, numbers));
    *values = numbers;
    *count = items;
    return AGL_OK;
}
