/* SPDX-License-Identifier: Apache-2.0
 *
 * report.h - `autoglm bench report`: results of several machines, rows reported by others
 * and predictions for machines nobody has, as one comparison.
 *
 *     results, hardware --agl_report_build--> agl_report --agl_report_tables--> tables
 *     tables, charts --> Markdown, CSV, one HTML page without any outside reference
 *
 * Every text is kept in English and Chinese. */
#ifndef AGL_BENCH_REPORT_H
#define AGL_BENCH_REPORT_H

#include "bench/plan.h"

enum {
    AGL_REPORT_PLATFORMS_MAX = 64,
    AGL_REPORT_FORMATS = 3,
    AGL_REPORT_ENTRIES_MAX = AGL_RESULT_RUNS_MAX
};

typedef enum { AGL_SOURCE_MEASURED, AGL_SOURCE_REPORTED, AGL_SOURCE_PREDICTED } agl_source;

/* Speed of one platform with one format; NaN: not known. */
typedef struct {
    const agl_format *format;
    double ttft_ms, ttft_sd, itl_ms, itl_sd; /* batch 1                                      */
    double throughput, batch_max;
    double image_ttft_ms;       /* a screenshot; predicted where nobody measured it          */
    bool image_is_predicted;    /* else measured alone, its text's part predicted           */
    double floor_ttft, floor_itl; /* floor / time: 1 is the limit of the machine             */
    agl_prediction prediction;  /* beside a measured or reported one                         */
    uint64_t sessions;          /* agents with 6,000 tokens each that fit at once            */
} agl_report_entry;

typedef struct {
    char title[128];
    agl_source source;
    const agl_result *result;   /* NULL: predicted                                           */
    agl_hardware hardware;
    agl_plan_row matrix[AGL_REPORT_FORMATS]; /* 16-bit, FP8, INT4                            */
    agl_report_entry entries[AGL_REPORT_ENTRIES_MAX];
    size_t entry_count;
} agl_report_platform;

typedef struct {
    agl_report_platform platforms[AGL_REPORT_PLATFORMS_MAX];
    size_t platform_count;
    agl_efficiency efficiency[2];   /* CPU, GPU */
    double parameters;              /* of the model that predictions are for */
} agl_report;

/* results must outlive the report. */
agl_status agl_report_build(agl_report **out, const agl_engine_options *engine,
                            const agl_result *results, size_t result_count,
                            const agl_hardware *hardware, size_t hardware_count, agl_error *err);

/* ---- tables --------------------------------------------------------------- */

enum { AGL_TABLE_COLUMNS = 10, AGL_TABLE_ROWS_MAX = 512 };

typedef struct {
    char en[288], zh[288];
} agl_words;

typedef struct {
    agl_words title, note;
    agl_words head[AGL_TABLE_COLUMNS];
    size_t columns;
    agl_words (*rows)[AGL_TABLE_COLUMNS]; /* [row_count]                                     */
    agl_source sources[AGL_TABLE_ROWS_MAX];
    size_t row_count;
} agl_table;

/* Support, configurations, performance, scenarios, predictions beside measurements, and every
 * batch size measured. */
enum { AGL_REPORT_TABLES = 6 };
agl_status agl_report_tables(agl_table tables[AGL_REPORT_TABLES], const agl_report *report,
                             agl_error *err);
void agl_report_tables_deinit(agl_table tables[AGL_REPORT_TABLES]);

/* What the numbers themselves say against a reported row; empty: nothing. */
agl_words agl_report_remark(const agl_report_platform *platform);

/* How many of the article's platforms are not among the results; empty: all are, or none is. */
agl_words agl_report_missing(const agl_report *report);

agl_words agl_source_words(agl_source source);

/* ---- output ----------------------------------------------------------------- */

void agl_report_markdown(agl_buffer *out, const agl_report *report, const agl_table *tables,
                         bool chinese);
void agl_report_csv(agl_buffer *out, const agl_table *tables, bool chinese);
void agl_report_html(agl_buffer *out, const agl_report *report, const agl_table *tables);

/* The charts of the HTML page. */
void agl_report_charts(agl_buffer *out, const agl_report *report);

/* HTML: text escaped, and a pair of spans of which the page shows one. */
void agl_html_text(agl_buffer *out, const char *text);
void agl_html_words(agl_buffer *out, const char *en, const char *zh);

typedef struct {
    agl_engine_options engine;
    const agl_result *results;
    size_t result_count;
    const agl_hardware *hardware;   /* to predict */
    size_t hardware_count;
    bool chinese;                   /* Markdown and CSV */
    const char *html_path, *markdown_path, *csv_path; /* NULL: not written; "-": standard output */
} agl_report_options;

agl_status agl_report_write(const agl_report_options *options, agl_error *err);

#endif
