/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/flags.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/flags_value.h"

enum {
    NAME_MAX_BYTES = 64, /* longest spelling that is compared for likeness              */
    NEAR_MAX = 3,        /* edits; more would suggest flags that nobody had in mind      */
};

static char fold(char c)
{
    return c == '_' ? '-' : (char)tolower((unsigned char)c);
}

bool agl_flag_name_equal(const char *name, size_t name_bytes, const char *text, size_t text_bytes)
{
    if (name_bytes != text_bytes) return false;
    for (size_t i = 0; i < name_bytes; i++)
        if (fold(name[i]) != fold(text[i])) return false;
    return true;
}

/* Next word of a space-separated list, or NULL at its end. */
static const char *next_word(const char **at, size_t *bytes)
{
    if (*at == NULL) return NULL;
    const char *word = *at + strspn(*at, " ");
    *bytes = strcspn(word, " ");
    *at = word + *bytes;
    return *bytes != 0 ? word : NULL;
}

typedef struct {
    const agl_flag *flag;
    bool negated;
} match;

static bool match_double(match *out, const agl_flag *flag, const char *name, size_t bytes)
{
    *out = (match){ flag, false };
    if (agl_flag_name_equal(flag->name, strlen(flag->name), name, bytes)) return true;
    const char *at = flag->aliases, *word;
    size_t word_bytes;
    while ((word = next_word(&at, &word_bytes)) != NULL) {
        if (word[0] == '-') continue;
        out->negated = word[0] == '!';
        if (agl_flag_name_equal(word + out->negated, word_bytes - out->negated, name, bytes)) return true;
    }
    return false;
}

static bool find_double(match *out, const agl_flag_table *table, unsigned command, const char *name,
                        size_t bytes)
{
    for (size_t i = 0; i < table->count; i++)
        if ((table->flags[i].commands & command) && match_double(out, &table->flags[i], name, bytes)) return true;
    if (bytes <= 3 || !agl_flag_name_equal("no-", 3, name, 3)) return false;
    for (size_t i = 0; i < table->count; i++) {
        const agl_flag *flag = &table->flags[i];
        if (!(flag->commands & command) || agl_flag_takes_value(flag)) continue;
        if (match_double(out, flag, name + 3, bytes - 3)) {
            out->negated = !out->negated;
            return true;
        }
    }
    return false;
}

/* `-tp`; of one-letter names also the attached form `-O3`, whose value starts at *attached. */
static const agl_flag *find_single(const agl_flag_table *table, unsigned command, const char *name, size_t bytes,
                                   const char **attached)
{
    const agl_flag *prefix = NULL;
    for (size_t i = 0; i < table->count; i++) {
        const char *at = table->flags[i].aliases, *word;
        size_t word_bytes;
        while ((table->flags[i].commands & command) && (word = next_word(&at, &word_bytes)) != NULL) {
            if (word[0] != '-') continue;
            if (word_bytes - 1 == bytes && strncmp(word + 1, name, bytes) == 0) return &table->flags[i];
            if (word_bytes == 2 && word[1] == name[0] && isdigit((unsigned char)name[1])) prefix = &table->flags[i];
        }
    }
    if (prefix != NULL) *attached = name + 1;
    return prefix;
}

/* Levenshtein distance, `_` and `-` alike; NAME_MAX_BYTES bounds both. */
static size_t edits_between(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    size_t row[NAME_MAX_BYTES + 1];
    if (a_bytes > NAME_MAX_BYTES || b_bytes > NAME_MAX_BYTES) return NAME_MAX_BYTES;
    for (size_t j = 0; j <= b_bytes; j++) row[j] = j;
    for (size_t i = 1; i <= a_bytes; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_bytes; j++) {
            size_t best = diagonal + (fold(a[i - 1]) != fold(b[j - 1]));
            diagonal = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[b_bytes];
}

/* A start of the name ("--max-model") is near too, after everything that is only misspelt. */
static size_t likeness(const char *name, const char *text, size_t text_bytes)
{
    size_t name_bytes = strlen(name), edits = edits_between(name, name_bytes, text, text_bytes);
    bool start = text_bytes >= 4 && text_bytes < name_bytes && agl_flag_name_equal(name, text_bytes, text, text_bytes);
    size_t allowed = (text_bytes + 2) / 3 < NEAR_MAX ? (text_bytes + 2) / 3 : NEAR_MAX;
    if (edits <= allowed) return edits;
    return start ? NEAR_MAX + 1 : NAME_MAX_BYTES;
}

const char *agl_flags_nearest(const agl_flag_table *table, unsigned command, const char *text, size_t text_bytes)
{
    const char *best_name = NULL;
    size_t best = NAME_MAX_BYTES;
    for (size_t i = 0; i < table->count; i++) {
        const agl_flag *flag = &table->flags[i];
        if (!(flag->commands & command)) continue;
        size_t distance = likeness(flag->name, text, text_bytes);
        if (distance >= best) continue;
        best = distance;
        best_name = flag->name;
    }
    return best_name;
}

typedef struct {
    agl_flag_result *result;
    void *values;
    const agl_flag_table *table;
    unsigned command;
    int argc;
    char **argv;
    int at;         /* next argument to read */
} parser;

static agl_status fail_unknown(const parser *parse, const char *dashes, const char *name, size_t bytes, agl_error *err)
{
    const char *near = agl_flags_nearest(parse->table, parse->command, name, bytes);
    int shown = bytes > 100 ? 100 : (int)bytes;
    if (near != NULL)
        return agl_fail(err, AGL_ERR_ARGUMENT, "unknown flag %s%.*s; did you mean --%s?", dashes, shown, name, near);
    return agl_fail(err, AGL_ERR_ARGUMENT, "unknown flag %s%.*s; --help lists the flags", dashes, shown, name);
}

/* An argument that starts with a dash is a flag, unless it is a negative number or the dash alone. */
static bool is_flag(const char *text)
{
    if (text[0] != '-' || text[1] == '\0') return false;
    return !(isdigit((unsigned char)text[1]) || (text[1] == '.' && isdigit((unsigned char)text[2])));
}

static agl_status note_idle(parser *parse, const agl_flag *flag, agl_error *err)
{
    agl_flag_result *result = parse->result;
    if (flag->offset != AGL_FLAG_IDLE) return AGL_OK;
    for (size_t i = 0; i < result->idle_count; i++)
        if (result->idle[i] == flag) return AGL_OK;
    if (result->idle_count == AGL_FLAGS_IDLE_MAX)
        return agl_fail(err, AGL_ERR_LIMIT, "more than %d flags without effect", AGL_FLAGS_IDLE_MAX);
    result->idle[result->idle_count++] = flag;
    return AGL_OK;
}

static agl_status parse_switch(parser *parse, match found, const char *text, agl_error *err)
{
    bool on = true;
    if (text != NULL) {
        static const char *const WORDS[] = { "false", "true", "0", "1", "no", "yes", "off", "on" };
        size_t word = 0;
        while (word < AGL_COUNT(WORDS) && !agl_flag_name_equal(WORDS[word], strlen(WORDS[word]), text, strlen(text)))
            word++;
        if (word == AGL_COUNT(WORDS))
            return agl_fail(err, AGL_ERR_ARGUMENT, "--%s: \"%s\" is neither true nor false", found.flag->name, text);
        on = word % 2 == 1;
    }
    agl_flag_store_switch(parse->values, found.flag, on != found.negated);
    return AGL_OK;
}

/* `text` is the attached value or NULL: then the following arguments are the value. */
static agl_status parse_value(parser *parse, const agl_flag *flag, const char *path, const char *text, agl_error *err)
{
    if (text != NULL) return agl_flag_store(parse->values, flag, path, text, err);
    bool none = parse->at >= parse->argc || is_flag(parse->argv[parse->at]);
    if (none && flag->offset == AGL_FLAG_IDLE) return AGL_OK;
    if (none) return agl_fail(err, AGL_ERR_ARGUMENT, "--%s needs a value: %s", flag->name, flag->value);
    do {
        AGL_TRY(agl_flag_store(parse->values, flag, path, parse->argv[parse->at++], err));
    } while (flag->kind == AGL_FLAG_LIST && parse->at < parse->argc && !is_flag(parse->argv[parse->at]));
    return AGL_OK;
}

/* `name` follows the dashes: "max-model-len=4k", "mm-processor-kwargs.size.longest_edge". */
static agl_status parse_double(parser *parse, const char *name, agl_error *err)
{
    const char *text = strchr(name, '=');
    size_t bytes = text != NULL ? (size_t)(text - name) : strlen(name);
    const char *dot = memchr(name, '.', bytes);
    size_t base_bytes = dot != NULL ? (size_t)(dot - name) : bytes;
    if (text != NULL) text++;
    if (agl_flag_name_equal("help", 4, name, bytes)) {
        parse->result->help = true;
        return AGL_OK;
    }
    match found;
    if (!find_double(&found, parse->table, parse->command, name, base_bytes))
        return fail_unknown(parse, "--", name, base_bytes, err);
    if (dot != NULL && found.flag->kind != AGL_FLAG_JSON)
        return agl_fail(err, AGL_ERR_ARGUMENT, "--%s takes no sub-keys, but got \"%.*s\"", found.flag->name,
                        (int)(bytes - base_bytes), dot);
    AGL_TRY(note_idle(parse, found.flag, err));
    if (!agl_flag_takes_value(found.flag)) return parse_switch(parse, found, text, err);
    char path[256];
    if (dot == NULL) return parse_value(parse, found.flag, NULL, text, err);
    size_t path_bytes = bytes - base_bytes - 1;
    if (path_bytes >= sizeof path)
        return agl_fail(err, AGL_ERR_ARGUMENT, "--%s: the sub-key is longer than 255 bytes", found.flag->name);
    memcpy(path, dot + 1, path_bytes);
    path[path_bytes] = '\0';
    return parse_value(parse, found.flag, path, text, err);
}

static agl_status parse_single(parser *parse, const char *name, agl_error *err)
{
    if (strcmp(name, "h") == 0) {
        parse->result->help = true;
        return AGL_OK;
    }
    const char *text = strchr(name, '='), *attached = NULL;
    size_t bytes = strcspn(name, "=.");
    const agl_flag *flag = find_single(parse->table, parse->command, name, bytes, &attached);
    if (flag == NULL) return fail_unknown(parse, "-", name, bytes, err);
    AGL_TRY(note_idle(parse, flag, err));
    if (attached == NULL && text != NULL) attached = text + 1;
    if (!agl_flag_takes_value(flag)) return parse_switch(parse, (match){ flag, false }, attached, err);
    return parse_value(parse, flag, NULL, attached, err);
}

agl_status agl_flags_parse(agl_flag_result *result, void *values, const agl_flag_table *table, unsigned command,
                           int argc, char **argv, agl_error *err)
{
    parser parse = { result, values, table, command, argc, argv, 0 };
    bool only_words = false;
    while (parse.at < argc) {
        const char *text = argv[parse.at++];
        if (only_words || !is_flag(text)) {
            AGL_TRY(agl_flag_list_add(&result->words, text, err));
        } else if (strcmp(text, "--") == 0) {
            only_words = true;
        } else if (text[1] == '-') {
            AGL_TRY(parse_double(&parse, text + 2, err));
        } else {
            AGL_TRY(parse_single(&parse, text + 1, err));
        }
    }
    return AGL_OK;
}

void agl_flags_deinit(agl_flag_result *result, void *values, const agl_flag_table *table)
{
    free(result->words.items);
    *result = (agl_flag_result){ 0 };
    for (size_t i = 0; i < table->count; i++) {
        const agl_flag *flag = &table->flags[i];
        if (flag->offset == AGL_FLAG_IDLE) continue;
        void *at = (char *)values + flag->offset;
        if (flag->kind == AGL_FLAG_LIST || flag->kind == AGL_FLAG_REPEAT) {
            free(((agl_flag_list *)at)->items);
            *(agl_flag_list *)at = (agl_flag_list){ 0 };
        } else if (flag->kind == AGL_FLAG_JSON) {
            json_object_put(*(struct json_object **)at);
            *(struct json_object **)at = NULL;
        }
    }
}
