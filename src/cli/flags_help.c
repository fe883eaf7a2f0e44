/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <string.h>

#include "cli/flags.h"
#include "cli/flags_value.h"

enum { HELP_COLUMN = 36, HELP_WIDTH = 110 };

/* Words of `text` from column `indent` on, broken before HELP_WIDTH. */
static void print_wrapped(FILE *out, const char *text, size_t indent)
{
    size_t column = indent;
    while (*text != '\0') {
        size_t word = strcspn(text, " ");
        bool first = column == indent, wraps = !first && column + 1 + word > HELP_WIDTH;
        if (wraps) column = (size_t)fprintf(out, "\n%*s", (int)indent, "") - 1;
        else if (!first) column += (size_t)fprintf(out, " ");
        fprintf(out, "%.*s", (int)word, text);
        column += word;
        text += word;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void print_flag(FILE *out, const agl_flag *flag)
{
    char left[160], help[1024];
    const char *value = agl_flag_takes_value(flag) ? flag->value : "";
    const char *single = flag->aliases != NULL ? strchr(flag->aliases, '-') : NULL;
    /* Only an alias that starts with a dash is a short one; a dash inside a word is not. */
    bool is_short = single != NULL && (single == flag->aliases || single[-1] == ' ');
    int used = is_short ? snprintf(left, sizeof left, "  %.*s, --%s", (int)strcspn(single, " "), single, flag->name)
                        : snprintf(left, sizeof left, "  --%s", flag->name);
    bool is_open_list = flag->kind == AGL_FLAG_LIST && strstr(value, "...") == NULL;
    if (*value != '\0') snprintf(left + used, sizeof left - (size_t)used, " %s%s", value, is_open_list ? "..." : "");
    used = snprintf(help, sizeof help, "%s", flag->help);
    if (flag->choices != NULL)
        used += snprintf(help + used, sizeof help - (size_t)used, "; one of: %s", flag->choices);
    if (flag->kind == AGL_FLAG_SWITCH_OFF && flag->shown_default != NULL)
        snprintf(help + used, sizeof help - (size_t)used, " [%s; --no-%s: off]", flag->shown_default, flag->name);
    else if (flag->shown_default != NULL)
        snprintf(help + used, sizeof help - (size_t)used, " [%s]", flag->shown_default);
    size_t width = strlen(left);
    fputs(left, out);
    if (width + 2 > HELP_COLUMN) fprintf(out, "\n%*s", HELP_COLUMN, "");
    else fprintf(out, "%*s", (int)(HELP_COLUMN - width), "");
    print_wrapped(out, help, HELP_COLUMN);
}

static void print_heading(FILE *out, const char *heading, bool colour)
{
    fprintf(out, colour ? "\n\033[1m%s\033[0m\n" : "\n%s\n", heading);
}

static void print_idle(FILE *out, const agl_flag_table *table, unsigned command, bool colour)
{
    size_t column = 0;
    for (size_t i = 0; i < table->count; i++) {
        const agl_flag *flag = &table->flags[i];
        if (!(flag->commands & command) || flag->offset != AGL_FLAG_IDLE) continue;
        if (column == 0)
            print_heading(out, "Accepted so that command lines of other servers paste unchanged; without effect here",
                          colour);
        size_t width = strlen(flag->name) + 3;
        if (column + width > HELP_WIDTH) column = (size_t)fprintf(out, "\n") - 1;
        column += (size_t)fprintf(out, column == 0 ? "  --%s" : " --%s", flag->name);
    }
    if (column != 0) fputc('\n', out);
}

void agl_flags_help(FILE *out, const agl_flag_table *table, unsigned command, bool colour)
{
    const char *group = NULL;
    for (size_t i = 0; i < table->count; i++) {
        const agl_flag *flag = &table->flags[i];
        if (!(flag->commands & command) || flag->offset == AGL_FLAG_IDLE) continue;
        if (group == NULL || strcmp(group, flag->group) != 0) print_heading(out, flag->group, colour);
        group = flag->group;
        print_flag(out, flag);
    }
    print_idle(out, table, command, colour);
}
