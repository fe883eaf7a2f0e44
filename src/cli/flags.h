/* SPDX-License-Identifier: Apache-2.0
 *
 * flags.h - a command line read against a table of flags.
 *
 * One row describes a flag completely: its spellings, what kind of value it
 * takes, the range, where the value is stored, its help text and which commands
 * know it. Parsing, --help and the error messages all come from the rows.
 *
 *     --flag value   --flag=value   --fl_ag value    `_` and `-` are one character
 *     --switch   --no-switch   --switch=false
 *     --list a b c                                   until the next flag
 *     --json '{"a":{"b":1}}'   --json.a.b 1   --json.list+ 1
 *     --count 4k  (4000)   --count 4K  (4096)   --count 1.5k
 *     -x value   -x9
 *
 * Text values are views of argv. Only the main thread uses this module. */
#ifndef AGL_CLI_FLAGS_H
#define AGL_CLI_FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/status.h"

typedef enum {
    AGL_FLAG_SWITCH,     /* bool                                              */
    AGL_FLAG_SWITCH_OFF, /* bool, stored negated: enable-x clears disable_x   */
    AGL_FLAG_TEXT,       /* const char *                                      */
    AGL_FLAG_LIST,       /* agl_flag_list: all values up to the next flag     */
    AGL_FLAG_REPEAT,     /* agl_flag_list: one value each time it is given    */
    AGL_FLAG_U32,        /* uint32_t                                          */
    AGL_FLAG_I32,        /* int32_t                                           */
    AGL_FLAG_U64,        /* uint64_t                                          */
    AGL_FLAG_REAL,       /* double                                            */
    AGL_FLAG_FLOAT,      /* float                                             */
    AGL_FLAG_JSON        /* struct json_object *: an object, owned            */
} agl_flag_kind;

typedef struct {
    const char **items;  /* owned array of views */
    size_t count;
} agl_flag_list;

typedef struct {
    const char *name;        /* without dashes, words joined by '-'                               */
    const char *aliases;     /* other spellings, space separated; "-x": one dash; "!x": negates   */
    agl_flag_kind kind;
    unsigned commands;       /* bits of the commands that know it                                 */
    size_t offset;           /* of the value in the values struct; AGL_FLAG_IDLE: stored nowhere  */
    const char *group;       /* heading in the help                                               */
    const char *value;       /* what to call the value in the help                                */
    const char *choices;     /* texts: the only ones allowed, space separated; NULL: any          */
    const char *zero_word;   /* numbers: this word, and -1, store 0                               */
    double min, max;         /* numbers                                                           */
    const char *shown_default;
    const char *help;        /* of an idle flag: why it does nothing here                         */
} agl_flag;

/* The flag is understood and its value skipped; the caller warns about it. */
#define AGL_FLAG_IDLE ((size_t)-1)

typedef struct {
    const agl_flag *flags;
    size_t count;
} agl_flag_table;

enum { AGL_FLAGS_IDLE_MAX = 64 };

typedef struct {
    agl_flag_list words;                          /* positional                       */
    const agl_flag *idle[AGL_FLAGS_IDLE_MAX];     /* idle flags given, each once      */
    size_t idle_count;
    bool help;                                    /* --help or -h                     */
} agl_flag_result;

/* Parse argv[0 .. argc-1] (no program name) into `values`. ARGUMENT with one line
 * that names the flag, the value and what is expected. A flag given twice: the last
 * one counts; lists and JSON keys add up. */
agl_status agl_flags_parse(agl_flag_result *result, void *values, const agl_flag_table *table,
                           unsigned command, int argc, char **argv, agl_error *err);

/* Free what parsing stored in `result` and `values`; allowed after a failed parse. */
void agl_flags_deinit(agl_flag_result *result, void *values, const agl_flag_table *table);

/* The rows of `command`, by group in table order; idle ones as a list of names. */
void agl_flags_help(FILE *out, const agl_flag_table *table, unsigned command, bool colour);

/* Does `text` spell `name`, `_` and `-` alike? */
bool agl_flag_name_equal(const char *name, size_t name_bytes, const char *text, size_t text_bytes);

/* The nearest spelling the command knows, or NULL if none is near. */
const char *agl_flags_nearest(const agl_flag_table *table, unsigned command, const char *text,
                              size_t text_bytes);

#endif
