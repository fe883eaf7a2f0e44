/* SPDX-License-Identifier: Apache-2.0
 *
 * report_text.c - a report as Markdown and as CSV. */
#include <string.h>

#include "bench/report.h"

static const char *in(const agl_words *words, bool chinese)
{
    return chinese ? words->zh : words->en;
}

/* A cell of a Markdown table: "|" would end it. */
static void put_cell(agl_buffer *out, const char *text)
{
    agl_buffer_append_text(out, " ");
    for (; *text != '\0'; text++) {
        if (*text == '|' || *text == '\\') agl_buffer_append_char(out, '\\');
        agl_buffer_append_char(out, *text == '\n' ? ' ' : *text);
    }
    agl_buffer_append_text(out, " |");
}

static void put_table(agl_buffer *out, const agl_table *table, bool chinese)
{
    if (table->row_count == 0) return;
    agl_buffer_append_format(out, "\n## %s\n\n%s\n\n|", in(&table->title, chinese),
                             in(&table->note, chinese));
    for (size_t c = 0; c < table->columns; c++) put_cell(out, in(&table->head[c], chinese));
    agl_buffer_append_text(out, "\n|");
    for (size_t c = 0; c < table->columns; c++) agl_buffer_append_text(out, " --- |");
    for (size_t r = 0; r < table->row_count; r++) {
        agl_buffer_append_text(out, "\n|");
        for (size_t c = 0; c < table->columns; c++) put_cell(out, in(&table->rows[r][c], chinese));
    }
    agl_buffer_append_char(out, '\n');
}

void agl_report_markdown(agl_buffer *out, const agl_report *report, const agl_table *tables,
                         bool chinese)
{
    agl_buffer_append_format(out, "# %s\n",
                             chinese ? "AutoGLM-Phone-9B 硬件平台对比"
                                     : "AutoGLM-Phone-9B on hardware platforms");
    for (int gpu = 1; gpu >= 0; gpu--) {
        const agl_efficiency *e = &report->efficiency[gpu];
        agl_buffer_append_format(
            out,
            chinese ? "\n%s 预测的效率：内存 %.0f %%，提示 %.0f %%，视觉 %.0f %%（%s）。\n"
                    : "\nEfficiencies behind %s predictions: memory %.0f %%, prompts %.0f %%, "
                      "vision %.0f %% (%s).\n",
            gpu ? "GPU" : "CPU", 100 * e->bandwidth, 100 * e->prefill, 100 * e->vision, e->origin);
    }
    for (int i = 0; i < AGL_REPORT_TABLES; i++) put_table(out, &tables[i], chinese);
    for (size_t i = 0; i < report->platform_count; i++) {
        agl_words remark = agl_report_remark(&report->platforms[i]);
        if (remark.en[0] == '\0') continue;
        agl_buffer_append_format(out, "\n%s: %s\n", report->platforms[i].title,
                                 in(&remark, chinese));
    }
    agl_words missing = agl_report_missing(report);
    if (missing.en[0] != '\0') agl_buffer_append_format(out, "\n%s\n", in(&missing, chinese));
}

/* RFC 4180, and a quote before what a spreadsheet would take for a formula. */
static void put_field(agl_buffer *out, const char *text)
{
    agl_buffer_append_char(out, '"');
    if (*text != '\0' && strchr("=+-@", *text) != NULL) agl_buffer_append_char(out, '\'');
    for (; *text != '\0'; text++) {
        if (*text == '"') agl_buffer_append_char(out, '"');
        agl_buffer_append_char(out, *text);
    }
    agl_buffer_append_char(out, '"');
}

void agl_report_csv(agl_buffer *out, const agl_table *tables, bool chinese)
{
    for (int i = 0; i < AGL_REPORT_TABLES; i++) {
        const agl_table *table = &tables[i];
        if (table->row_count == 0) continue;
        put_field(out, in(&table->title, chinese));
        agl_buffer_append_text(out, "\r\n");
        for (size_t c = 0; c < table->columns; c++) {
            if (c > 0) agl_buffer_append_char(out, ',');
            put_field(out, in(&table->head[c], chinese));
        }
        for (size_t r = 0; r < table->row_count; r++) {
            agl_buffer_append_text(out, "\r\n");
            for (size_t c = 0; c < table->columns; c++) {
                if (c > 0) agl_buffer_append_char(out, ',');
                put_field(out, in(&table->rows[r][c], chinese));
            }
        }
        agl_buffer_append_text(out, "\r\n\r\n");
    }
}
