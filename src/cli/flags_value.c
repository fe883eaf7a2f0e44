/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/flags_value.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

/* More would be a mistake or an attack on the table of the help, not a list of names. */
enum { LIST_MAX = 4096, PATH_KEY_MAX = 128 };

bool agl_flag_takes_value(const agl_flag *flag)
{
    return flag->kind != AGL_FLAG_SWITCH && flag->kind != AGL_FLAG_SWITCH_OFF;
}

static void *slot(void *values, const agl_flag *flag)
{
    return (char *)values + flag->offset;
}

void agl_flag_store_switch(void *values, const agl_flag *flag, bool on)
{
    if (flag->offset == AGL_FLAG_IDLE) return;
    *(bool *)slot(values, flag) = flag->kind == AGL_FLAG_SWITCH ? on : !on;
}

agl_status agl_flag_list_add(agl_flag_list *list, const char *item, agl_error *err)
{
    if (list->count >= LIST_MAX)
        return agl_fail(err, AGL_ERR_LIMIT, "more than %d values on the command line", LIST_MAX);
    const char **items = realloc(list->items, (list->count + 1) * sizeof *items);
    if (items == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the command line");
    items[list->count] = item;
    list->items = items;
    list->count++;
    return AGL_OK;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t bytes = strlen(text);
    for (const char *at = choices; *at != '\0';) {
        size_t word = strcspn(at, " ");
        if (word == bytes && memcmp(at, text, bytes) == 0) return true;
        at += word;
        at += strspn(at, " ");
    }
    return false;
}

static agl_status store_text(void *values, const agl_flag *flag, const char *text, agl_error *err)
{
    if (flag->choices != NULL && !is_choice(flag->choices, text))
        return agl_fail(err, AGL_ERR_ARGUMENT, "--%s: \"%s\" is not one of: %s", flag->name, text,
                        flag->choices);
    *(const char **)slot(values, flag) = text;
    return AGL_OK;
}

/* Decimal digits, perhaps a fraction, perhaps one of k m g t (powers of 1000) or
 * K M G T (powers of 1024, whole numbers only): the rule of vLLM. */
static bool parse_number(double *out, const char *text, bool whole)
{
    static const char DECIMAL[] = "kmgt", BINARY[] = "KMGT";
    size_t digits = strspn(text, "-0123456789.eE");
    if (digits == 0 || digits > 40) return false;
    char *end;
    double value = strtod(text, &end);
    if (end == text || end > text + digits || !isfinite(value)) return false; /* no hexadecimal */
    bool fraction = memchr(text, '.', (size_t)(end - text)) != NULL;
    if (*end != '\0') {
        const char *decimal = strchr(DECIMAL, *end), *binary = strchr(BINARY, *end);
        if ((decimal == NULL && binary == NULL) || end[1] != '\0') return false;
        if (binary != NULL && fraction) return false;
        value *= decimal != NULL ? pow(1000, (double)(decimal - DECIMAL + 1))
                                 : pow(1024, (double)(binary - BINARY + 1));
    } else if (whole && fraction) {
        return false;
    }
    *out = whole ? nearbyint(value) : value;
    return true;
}

static agl_status fail_number(const agl_flag *flag, const char *text, bool whole, agl_error *err)
{
    char also[64] = "";
    if (flag->zero_word != NULL) snprintf(also, sizeof also, ", or %s", flag->zero_word);
    if (flag->max >= 1e15)
        return agl_fail(err, AGL_ERR_ARGUMENT, "--%s: \"%s\" is not a %snumber of at least %.15g%s",
                        flag->name, text, whole ? "whole " : "", flag->min, also);
    return agl_fail(err, AGL_ERR_ARGUMENT, "--%s: \"%s\" is not a %snumber from %.15g to %.15g%s",
                    flag->name, text, whole ? "whole " : "", flag->min, flag->max, also);
}

static agl_status store_number(void *values, const agl_flag *flag, const char *text, agl_error *err)
{
    bool whole = flag->kind != AGL_FLAG_REAL && flag->kind != AGL_FLAG_FLOAT;
    double value = 0;
    bool zero = flag->zero_word != NULL && (strcmp(text, flag->zero_word) == 0 || strcmp(text, "-1") == 0);
    if (!zero && (!parse_number(&value, text, whole) || value < flag->min || value > flag->max))
        return fail_number(flag, text, whole, err);
    void *at = slot(values, flag);
    switch (flag->kind) {
    case AGL_FLAG_U32: *(uint32_t *)at = (uint32_t)value; break;
    case AGL_FLAG_I32: *(int32_t *)at = (int32_t)value; break;
    case AGL_FLAG_U64: *(uint64_t *)at = (uint64_t)value; break;
    case AGL_FLAG_REAL: *(double *)at = value; break;
    default: *(float *)at = (float)value; break;
    }
    return AGL_OK;
}

/* Members of `from` replace those of `into`; objects on both sides are merged. */
static void merge_objects(struct json_object *into, struct json_object *from)
{
    json_object_object_foreach(from, key, value)
    {
        struct json_object *old = agl_json_member(into, key);
        if (json_object_is_type(old, json_type_object) && json_object_is_type(value, json_type_object))
            merge_objects(old, value);
        else
            json_object_object_add(into, key, json_object_get(value));
    }
}

/* A sub-key's value is JSON if it reads as JSON, else text: `--x.a 5`, `--x.b true`, `--x.c shm`. */
static struct json_object *loose_value(const char *text)
{
    struct json_object *value = NULL;
    if (agl_json_parse(&value, text, strlen(text), "", NULL) == AGL_OK) return value;
    return json_object_new_string(text);
}

/* Set root.a.b.c = value; a trailing '+' appends to a list. Takes ownership of `value`. */
static agl_status set_path(struct json_object *root, const agl_flag *flag, const char *path,
                           struct json_object *value, agl_error *err)
{
    char key[PATH_KEY_MAX];
    for (;;) {
        size_t bytes = strcspn(path, ".");
        bool last = path[bytes] == '\0', append = last && bytes > 1 && path[bytes - 1] == '+';
        if (append) bytes--;
        if (bytes == 0 || bytes >= sizeof key) {
            json_object_put(value);
            return agl_fail(err, AGL_ERR_ARGUMENT, "--%s: \"%s\" is not a key", flag->name, path);
        }
        memcpy(key, path, bytes);
        key[bytes] = '\0';
        struct json_object *child = agl_json_member(root, key);
        if (last && !append) {
            json_object_object_add(root, key, value);
            return AGL_OK;
        }
        json_type wanted = append ? json_type_array : json_type_object;
        if (!json_object_is_type(child, wanted)) {
            child = append ? json_object_new_array() : json_object_new_object();
            json_object_object_add(root, key, child);
        }
        if (append) {
            json_object_array_add(child, value);
            return AGL_OK;
        }
        root = child;
        path += bytes + 1;
    }
}

/* `image=10,video=0`, as vLLM read it before it took JSON. NULL if it is not of that form. */
static struct json_object *parse_pairs(const char *text)
{
    struct json_object *object = json_object_new_object();
    while (*text != '\0') {
        char pair[PATH_KEY_MAX];
        size_t bytes = strcspn(text, ",");
        char *equals = NULL;
        if (bytes < sizeof pair) {
            memcpy(pair, text, bytes);
            pair[bytes] = '\0';
            equals = strchr(pair, '=');
        }
        if (equals == NULL || equals == pair || strpbrk(pair, "{}\"[]") != NULL) {
            json_object_put(object);
            return NULL;
        }
        *equals = '\0';
        json_object_object_add(object, pair, loose_value(equals + 1));
        text += bytes;
        if (*text == ',') text++;
    }
    return object;
}

static agl_status store_json(void *values, const agl_flag *flag, const char *path, const char *text,
                             agl_error *err)
{
    struct json_object **at = slot(values, flag);
    if (path != NULL) {
        if (*at == NULL) *at = json_object_new_object();
        if (*at == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the command line");
        return set_path(*at, flag, path, loose_value(text), err);
    }
    struct json_object *object = parse_pairs(text);
    if (object == NULL) {
        char name[96];
        snprintf(name, sizeof name, "--%s", flag->name);
        AGL_TRY(agl_json_parse(&object, text, strlen(text), name, err));
    }
    if (!json_object_is_type(object, json_type_object)) {
        json_object_put(object);
        return agl_fail(err, AGL_ERR_ARGUMENT, "--%s: \"%.200s\" is not a JSON object such as %s", flag->name,
                        text, flag->value);
    }
    if (*at == NULL) {
        *at = object;
        return AGL_OK;
    }
    merge_objects(*at, object);
    json_object_put(object);
    return AGL_OK;
}

agl_status agl_flag_store(void *values, const agl_flag *flag, const char *path, const char *text,
                          agl_error *err)
{
    if (flag->offset == AGL_FLAG_IDLE) return AGL_OK;
    switch (flag->kind) {
    case AGL_FLAG_TEXT: return store_text(values, flag, text, err);
    case AGL_FLAG_LIST:
    case AGL_FLAG_REPEAT: return agl_flag_list_add(slot(values, flag), text, err);
    case AGL_FLAG_JSON: return store_json(values, flag, path, text, err);
    default: return store_number(values, flag, text, err);
    }
}
