/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/file_map.h"
#include "base/utf8.h"

#define DEPTH_MAX 64

/* ---- what json-c's strict mode still takes --------------------------------
 *
 * Single-quoted keys, NaN and Infinity, "1." and "00", control characters in strings. This
 * looks for them alone; json-c refuses everything else that RFC 8259 does. */

/* End of the plain stretch at `at`: a quote, a backslash or a control character. A request is
 * megabytes of base64 in one string: eight characters at a time. */
static size_t plain_end(const char *text, size_t bytes, size_t at)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    uint64_t eight;
    for (; bytes - at >= sizeof eight; at += sizeof eight) {
        memcpy(&eight, text + at, sizeof eight);
        uint64_t quote = eight ^ ones * '"', slash = eight ^ ones * '\\';
        uint64_t found = ((eight - ones * 0x20) & ~eight) | ((quote - ones) & ~quote) |
                         ((slash - ones) & ~slash);
        if ((found & tops) != 0) break;
    }
    while (at < bytes && (unsigned char)text[at] >= 0x20 && text[at] != '"' && text[at] != '\\') at++;
    return at;
}

/* From behind the opening quote to behind the closing one. */
static const char *check_string(const char *text, size_t bytes, size_t *at)
{
    while ((*at = plain_end(text, bytes, *at)) < bytes) {
        char c = text[(*at)++];
        if (c == '"') return NULL;
        if (c != '\\') return "control character in a string";
        *at += *at < bytes; /* what is escaped, json-c judges */
    }
    return NULL;
}

static size_t digits_end(const char *text, size_t bytes, size_t at)
{
    while (at < bytes && text[at] >= '0' && text[at] <= '9') at++;
    return at;
}

static const char *check_number(const char *text, size_t bytes, size_t *at)
{
    size_t start = *at + (text[*at] == '-'), end = digits_end(text, bytes, start);
    *at = end;
    if (end == start) return "number expected"; /* -Infinity */
    if (end - start > 1 && text[start] == '0') return "number with a leading zero";
    if (end == bytes || text[end] != '.') return NULL;
    *at = digits_end(text, bytes, end + 1);
    return *at == end + 1 ? "digits expected after the point" : NULL;
}

/* What is wrong at *at, or NULL. */
static const char *check_strict(const char *text, size_t bytes, size_t *at)
{
    const char *problem = NULL;
    *at = 0;
    while (problem == NULL && *at < bytes) {
        char c = text[*at];
        if (c == '-' || (c >= '0' && c <= '9')) {
            problem = check_number(text, bytes, at);
        } else if (c == 'e' || c == 'E') {
            /* An exponent, or the end of true and false: its digits may begin with zeros. */
            ++*at;
            if (*at < bytes && (text[*at] == '-' || text[*at] == '+')) ++*at;
            *at = digits_end(text, bytes, *at);
        } else if (c == '\'' || c == 'N' || c == 'I') {
            problem = c == '\'' ? "double quotes expected" : "a value expected";
        } else {
            ++*at;
            if (c == '"') problem = check_string(text, bytes, at);
        }
    }
    return problem;
}

/* ---- parsing -------------------------------------------------------------- */

agl_status agl_json_parse(struct json_object **out, const char *text, size_t bytes,
                          const char *name, agl_error *err)
{
    *out = NULL;
    if (bytes > INT_MAX) {
        return agl_fail(err, AGL_ERR_LIMIT, "%s: %zu bytes of JSON are too many", name, bytes);
    }
    /* json-c's own check lets overlong forms and surrogates pass. */
    if (!agl_utf8_is_valid(text, bytes)) {
        return agl_fail(err, AGL_ERR_FORMAT, "%s: invalid JSON: not UTF-8", name);
    }
    size_t end;
    const char *fault = check_strict(text, bytes, &end);
    if (fault != NULL) {
        return agl_fail(err, AGL_ERR_FORMAT, "%s: invalid JSON at byte %zu: %s", name, end, fault);
    }
    struct json_tokener *tokener = json_tokener_new_ex(DEPTH_MAX);
    if (tokener == NULL) return agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for JSON", name);
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);

    struct json_object *value = json_tokener_parse_ex(tokener, text, (int)bytes);
    enum json_tokener_error problem = json_tokener_get_error(tokener);
    end = json_tokener_get_parse_end(tokener);
    if (problem == json_tokener_continue) {
        /* A bare number may end with the text: a white space tells the parser so. */
        value = json_tokener_parse_ex(tokener, " ", 1);
        problem = json_tokener_get_error(tokener);
        if (problem == json_tokener_continue) problem = json_tokener_error_parse_eof;
        end = bytes;
    }
    json_tokener_free(tokener);
    if (problem != json_tokener_success) {
        json_object_put(value);
        return agl_fail(err, AGL_ERR_FORMAT, "%s: invalid JSON at byte %zu: %s", name, end,
                        json_tokener_error_desc(problem));
    }
    while (end < bytes && strchr(" \n\r\t", text[end]) != NULL && text[end] != '\0') end++;
    if (end < bytes) {
        json_object_put(value);
        return agl_fail(err, AGL_ERR_FORMAT, "%s: invalid JSON at byte %zu: text after the value",
                        name, end);
    }
    *out = value;
    return AGL_OK;
}

agl_status agl_json_load(struct json_object **out, const char *path, size_t limit_bytes,
                         agl_error *err)
{
    char *text;
    size_t bytes;
    *out = NULL;
    AGL_TRY(agl_file_read(&text, &bytes, path, limit_bytes, err));
    agl_status status = agl_json_parse(out, text, bytes, path, err);
    free(text);
    return status;
}

struct json_object *agl_json_member(struct json_object *object, const char *key)
{
    struct json_object *value = NULL;
    if (!json_object_is_type(object, json_type_object)) return NULL;
    json_object_object_get_ex(object, key, &value);
    return value;
}

static agl_status missing(bool required, const char *name, const char *key, const char *expected,
                          agl_error *err)
{
    if (!required) return AGL_OK;
    return agl_fail(err, AGL_ERR_NOT_FOUND, "%s: %s is missing, %s expected", name, key, expected);
}

static agl_status mistyped(struct json_object *value, const char *name, const char *key,
                           const char *expected, agl_error *err)
{
    return agl_fail(err, AGL_ERR_FORMAT, "%s: %s is %.60s, %s expected", name, key,
                    json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN), expected);
}

agl_status agl_json_get_int(int64_t *out, struct json_object *object, const char *key,
                            int64_t min, int64_t max, bool required, const char *name, agl_error *err)
{
    struct json_object *value = agl_json_member(object, key);
    if (value == NULL) return missing(required, name, key, "an integer", err);
    int64_t number = 0;
    bool is_integer = json_object_is_type(value, json_type_int);
    if (is_integer) {
        number = json_object_get_int64(value);
    } else if (json_object_is_type(value, json_type_double)) {
        double real = json_object_get_double(value);
        /* Some clients write 5.0; 2^53 is the last range where that is exact. */
        is_integer = real == floor(real) && fabs(real) <= 9007199254740992.0;
        if (is_integer) number = (int64_t)real;
    }
    if (!is_integer) return mistyped(value, name, key, "an integer", err);
    if (number < min || number > max) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "%s: %s is %lld, a value in [%lld, %lld] expected",
                        name, key, (long long)number, (long long)min, (long long)max);
    }
    *out = number;
    return AGL_OK;
}

agl_status agl_json_get_double(double *out, struct json_object *object, const char *key,
                               double min, double max, bool required, const char *name, agl_error *err)
{
    struct json_object *value = agl_json_member(object, key);
    if (value == NULL) return missing(required, name, key, "a number", err);
    if (!json_object_is_type(value, json_type_int) && !json_object_is_type(value, json_type_double)) {
        return mistyped(value, name, key, "a number", err);
    }
    double number = json_object_get_double(value);
    if (!(number >= min && number <= max)) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "%s: %s is %g, a value in [%g, %g] expected", name,
                        key, number, min, max);
    }
    *out = number;
    return AGL_OK;
}

agl_status agl_json_get_bool(bool *out, struct json_object *object, const char *key, bool required,
                             const char *name, agl_error *err)
{
    struct json_object *value = agl_json_member(object, key);
    if (value == NULL) return missing(required, name, key, "true or false", err);
    if (!json_object_is_type(value, json_type_boolean)) {
        return mistyped(value, name, key, "true or false", err);
    }
    *out = json_object_get_boolean(value);
    return AGL_OK;
}

agl_status agl_json_get_string(const char **out, struct json_object *object, const char *key,
                               bool required, const char *name, agl_error *err)
{
    struct json_object *value = agl_json_member(object, key);
    if (value == NULL) return missing(required, name, key, "a string", err);
    if (!json_object_is_type(value, json_type_string)) {
        return mistyped(value, name, key, "a string", err);
    }
    *out = json_object_get_string(value);
    return AGL_OK;
}
