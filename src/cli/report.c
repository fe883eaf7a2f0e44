/* SPDX-License-Identifier: Apache-2.0
 *
 * report.c - `autoglm bench report FILE...`: flags, and where files come from and go to. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bench/report.h"
#include "cli/commands.h"
#include "cli/machines.h"

typedef struct {
    const char *model, *reference, *language, *html, *markdown, *csv, *folder;
    agl_flag_list hardware;
    bool no_reference, no_predictions;
} report_flags;

#define AT(field) offsetof(report_flags, field)

static const agl_flag FLAGS[] = {
    { .name = "html", .kind = AGL_FLAG_TEXT, .commands = 1, .offset = AT(html), .group = "Output", .value = "FILE",
      .help = "one page with charts, nothing fetched; - is standard output" },
    { .name = "markdown", .kind = AGL_FLAG_TEXT, .commands = 1, .offset = AT(markdown), .group = "Output", .value = "FILE",
      .shown_default = "standard output, if no other output is given", .help = "tables" },
    { .name = "csv", .kind = AGL_FLAG_TEXT, .commands = 1, .offset = AT(csv), .group = "Output", .value = "FILE",
      .help = "the same tables for a spreadsheet" },
    { .name = "output-dir", .kind = AGL_FLAG_TEXT, .commands = 1, .offset = AT(folder), .group = "Output", .value = "DIR",
      .help = "all three: report.html, report.md, report.csv" },
    { .name = "language", .kind = AGL_FLAG_TEXT, .commands = 1, .offset = AT(language), .group = "Output", .value = "NAME",
      .choices = "en zh", .shown_default = "en", .help = "of Markdown and CSV; the page has both" },
    { .name = "model", .aliases = "-m", .kind = AGL_FLAG_TEXT, .commands = 1, .offset = AT(model), .group = "Content",
      .value = "DIR|ID", .shown_default = "the 9B shape", .help = "model of the predictions" },
    { .name = "hardware", .kind = AGL_FLAG_LIST, .commands = 1, .offset = AT(hardware), .group = "Content",
      .value = "NAME,...", .shown_default = "all of the table", .help = "machines to predict" },
    { .name = "no-predictions", .kind = AGL_FLAG_SWITCH, .commands = 1, .offset = AT(no_predictions), .group = "Content",
      .help = "only what was measured or reported" },
    { .name = "reference", .kind = AGL_FLAG_TEXT, .commands = 1, .offset = AT(reference), .group = "Content",
      .value = "FILE", .shown_default = "data/reference.json", .help = "rows reported by others" },
    { .name = "no-reference", .kind = AGL_FLAG_SWITCH, .commands = 1, .offset = AT(no_reference), .group = "Content",
      .help = "leave those out" },
};

typedef struct {
    char model[AGL_CLI_PATH_MAX], reference[AGL_CLI_PATH_MAX];
    char html[AGL_CLI_PATH_MAX], markdown[AGL_CLI_PATH_MAX], csv[AGL_CLI_PATH_MAX];
} paths;

static agl_status settle_outputs(paths *p, agl_report_options *o, const report_flags *flags, agl_error *err)
{
    o->html_path = flags->html;
    o->markdown_path = flags->markdown;
    o->csv_path = flags->csv;
    if (flags->folder != NULL) {
        if (strlen(flags->folder) + 32 > sizeof p->html) return agl_fail(err, AGL_ERR_ARGUMENT, "--output-dir is too long");
        mkdir(flags->folder, 0777); /* if it cannot be made, writing says why */
        snprintf(p->html, sizeof p->html, "%s/report.html", flags->folder);
        snprintf(p->markdown, sizeof p->markdown, "%s/report.md", flags->folder);
        snprintf(p->csv, sizeof p->csv, "%s/report.csv", flags->folder);
        if (o->html_path == NULL) o->html_path = p->html;
        if (o->markdown_path == NULL) o->markdown_path = p->markdown;
        if (o->csv_path == NULL) o->csv_path = p->csv;
    }
    if (o->html_path == NULL && o->markdown_path == NULL && o->csv_path == NULL) o->markdown_path = "-";
    o->chinese = flags->language != NULL && strcmp(flags->language, "zh") == 0;
    return AGL_OK;
}

static agl_status load_all(agl_result **results, size_t *count, paths *p, const agl_flag_list *files,
                           const report_flags *flags, agl_error *err)
{
    const char *items[AGL_CLI_RESULTS_MAX + 1];
    agl_flag_list list = { items, 0 };
    if (files->count > AGL_CLI_RESULTS_MAX) return agl_fail(err, AGL_ERR_LIMIT, "more than %d files", AGL_CLI_RESULTS_MAX);
    for (size_t i = 0; i < files->count; i++) items[list.count++] = files->items[i];
    if (flags->reference != NULL) {
        items[list.count++] = flags->reference;
    } else if (!flags->no_reference) {
        AGL_TRY(agl_cli_find_shipped(p->reference, sizeof p->reference, "data", "reference.json", err));
        items[list.count++] = p->reference;
    }
    return agl_cli_load_results(results, count, &list, err);
}

static agl_status report(const agl_flag_list *files, const report_flags *flags, agl_error *err)
{
    agl_report_options o = { 0 };
    agl_cli_hardware_list hardware = { 0 };
    paths *p = calloc(1, sizeof *p);
    agl_result *results = NULL;
    if (p == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory");
    agl_status status = settle_outputs(p, &o, flags, err);
    o.engine.model = flags->model;
    if (status == AGL_OK && flags->model == NULL) {
        status = agl_cli_find_shipped(p->model, sizeof p->model, "models", "shapes/autoglm-phone-9b", err);
        o.engine.model = p->model;
    }
    if (status == AGL_OK && !flags->no_predictions) {
        status = flags->hardware.count > 0 ? agl_cli_each_part(&flags->hardware, agl_cli_add_hardware, &hardware, err)
                                           : agl_cli_add_hardware(&hardware, "all", err);
    }
    if (status == AGL_OK) status = load_all(&results, &o.result_count, p, files, flags, err);
    if (status == AGL_OK) {
        o.results = results;
        o.hardware = hardware.items;
        o.hardware_count = hardware.count;
        status = agl_report_write(&o, err);
    }
    free(results);
    free(p);
    return status;
}

agl_status agl_command_bench_report(int argc, char **argv, agl_error *err)
{
    agl_flag_table table = { FLAGS, AGL_COUNT(FLAGS) };
    agl_flag_result parsed = { 0 };
    report_flags flags = { 0 };
    agl_status status = agl_flags_parse(&parsed, &flags, &table, 1, argc, argv, err);
    if (status == AGL_OK && parsed.help) {
        printf("autoglm bench report FILE... [flags]\n  results of several machines as one comparison\n");
        agl_flags_help(stdout, &table, 1, agl_console_has_colour(stdout));
    } else if (status == AGL_OK) {
        status = report(&parsed.words, &flags, err);
    }
    agl_flags_deinit(&parsed, &flags, &table);
    return status;
}
