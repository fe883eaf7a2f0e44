/* SPDX-License-Identifier: Apache-2.0
 *
 * inspect.c - `autoglm inspect DIR`: the JSON of agl_checkpoint_inspect as it is,
 * or as lines for people. */
#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "cli/commands.h"

enum { KEY_COLUMNS = 24, DEPTH_MAX = 6 };

static bool ends_with(const char *text, const char *end)
{
    size_t bytes = strlen(text), end_bytes = strlen(end);
    return bytes >= end_bytes && strcmp(text + bytes - end_bytes, end) == 0;
}

/* "weight_bytes" -> "weight bytes" in a column of its own. */
static void print_key(const char *key, int depth, bool colour)
{
    char words[64];
    snprintf(words, sizeof words, "%s", key);
    for (char *at = words; *at != '\0'; at++)
        if (*at == '_') *at = ' ';
    printf("%*s%s%-*s%s", 2 * depth, "", colour ? "\033[1m" : "", KEY_COLUMNS - 2 * depth, words,
           colour ? "\033[0m" : "");
}

static void print_scalar(const char *key, struct json_object *value)
{
    if (!json_object_is_type(value, json_type_int)) {
        printf("%s", value != NULL ? json_object_get_string(value) : "-");
        return;
    }
    int64_t number = json_object_get_int64(value);
    printf("%" PRId64, number);
    if (number < 100000) return;
    if (ends_with(key, "bytes")) printf(" (%s)", agl_human_bytes((uint64_t)number).text);
    else if (strstr(key, "parameter") != NULL) printf(" (%s)", agl_human_count((uint64_t)number).text);
}

static bool is_scalar(struct json_object *value)
{
    return !json_object_is_type(value, json_type_object) && !json_object_is_type(value, json_type_array);
}

static void print_object(struct json_object *object, int depth, bool colour);

/* Short lists of scalars on one line, texts one a line, objects as blocks. */
static void print_list(const char *key, struct json_object *list, int depth, bool colour)
{
    size_t count = json_object_array_length(list);
    print_key(key, depth, colour);
    if (count == 0) printf("none");
    for (size_t i = 0; i < count; i++) {
        struct json_object *item = json_object_array_get_idx(list, i);
        if (!is_scalar(item)) {
            printf("\n");
            if (json_object_is_type(item, json_type_object) && depth < DEPTH_MAX) print_object(item, depth + 1, colour);
        } else if (json_object_is_type(item, json_type_string) && json_object_get_string_len(item) > 40) {
            printf("%s%*s- %s", i == 0 ? "\n" : "", 2 * depth + 2, "", json_object_get_string(item));
            if (i + 1 < count) printf("\n");
        } else {
            if (i != 0) printf(", ");
            print_scalar(key, item);
        }
    }
    printf("\n");
}

static void print_object(struct json_object *object, int depth, bool colour)
{
    json_object_object_foreach(object, key, value)
    {
        if (json_object_is_type(value, json_type_array)) {
            print_list(key, value, depth, colour);
        } else if (json_object_is_type(value, json_type_object)) {
            print_key(key, depth, colour);
            printf("\n");
            if (depth < DEPTH_MAX) print_object(value, depth + 1, colour);
        } else {
            print_key(key, depth, colour);
            print_scalar(key, value);
            printf("\n");
        }
    }
}

static int print_report(const char *text, bool raw)
{
    agl_error err = { 0 };
    struct json_object *report = NULL;
    if (agl_json_parse(&report, text, strlen(text), "report", &err) != AGL_OK) {
        fprintf(stderr, "autoglm inspect: %s\n", err.message);
        return AGL_EXIT_FAILED;
    }
    if (raw) printf("%s\n", text);
    else print_object(report, 0, agl_console_has_colour(stdout));
    struct json_object *refused = agl_json_member(report, "refused");
    bool served = refused == NULL ||
                  (json_object_is_type(refused, json_type_array) && json_object_array_length(refused) == 0);
    json_object_put(report);
    return served ? AGL_EXIT_OK : AGL_EXIT_FAILED;
}

static int inspect(const agl_cli_options *options)
{
    agl_error err = { 0 };
    char *text = NULL;
    if (agl_checkpoint_inspect(options->engine.model, &text, &err) != AGL_OK) {
        fprintf(stderr, "autoglm inspect: %s\n", err.message);
        return AGL_EXIT_FAILED;
    }
    int code = print_report(text, options->json);
    agl_free(text);
    return code;
}

int agl_command_inspect(agl_console *console, int argc, char **argv)
{
    agl_cli_options options;
    int code = agl_command_begin(console, &options, AGL_CLI_INSPECT, argc, argv);
    if (code < 0) code = inspect(&options);
    agl_cli_options_deinit(&options);
    return code;
}
