/* SPDX-License-Identifier: Apache-2.0
 *
 * report_charts.c - the charts of the HTML page, as SVG inside of HTML rows.
 *
 * A platform is a row with a mark for each format on a logarithmic axis: the machines differ
 * by factors of a thousand. Text stays HTML, so it is readable at any width. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench/report.h"

typedef struct {
    const char *title_en, *title_zh, *unit;
    bool less_is_better;
    double (*value)(const agl_report_entry *entry);
} chart;

static double itl(const agl_report_entry *e) { return e->itl_ms; }
static double ttft(const agl_report_entry *e) { return e->ttft_ms; }
static double rate(const agl_report_entry *e) { return e->throughput; }
static double image(const agl_report_entry *e) { return e->image_ttft_ms / 1000; }

static const chart CHARTS[] = {
    {"Token gap, one request", "词元间隔（单请求）", "ms", true, itl},
    {"First token, 512 tokens in", "首词元时间（输入 512 词元）", "ms", true, ttft},
    {"First token of a screenshot", "截图首词元时间", "s", true, image},
    {"Best output rate, 512 in, 256 out", "最大输出吞吐（512 入 256 出）", "tokens/s", false, rate},
};

/* Decades that hold all values. */
typedef struct {
    int first, last;
} axis;

static axis axis_around(double low, double high)
{
    axis a = {(int)floor(log10(low)), (int)ceil(log10(high))};
    if (a.last == a.first) a.last++;
    return a;
}

static axis axis_of(const agl_report *report, const chart *c)
{
    double low = INFINITY, high = 0;
    for (size_t i = 0; i < report->platform_count; i++) {
        for (size_t k = 0; k < report->platforms[i].entry_count; k++) {
            double value = c->value(&report->platforms[i].entries[k]);
            if (!isfinite(value) || value <= 0) continue;
            low = fmin(low, value);
            high = fmax(high, value);
        }
    }
    return high > 0 ? axis_around(low, high) : (axis){0, 0};
}

/* Per cent of the width. */
static double place(axis a, double value)
{
    return 100 * (log10(value) - a.first) / (a.last - a.first);
}

static int shape_of(const agl_report_entry *e)
{
    return strcmp(e->format->key, "int4") == 0 ? 2 : strcmp(e->format->key, "fp8") == 0 ? 1 : 0;
}

/* kind: a letter of the style sheet. */
static void put_shape(agl_buffer *out, double x, int shape, const char *kind)
{
    static const char *const SHAPES[] = {"<circle r=\"5\"/>",
                                         "<rect x=\"-4.5\" y=\"-4.5\" width=\"9\" height=\"9\"/>",
                                         "<path d=\"M0-6L6 5H-6Z\"/>"};
    agl_buffer_append_format(
        out, "<svg x=\"%.2f%%\" y=\"50%%\" overflow=\"visible\" class=\"%s\">%s</svg>", x, kind,
        SHAPES[shape]);
}

static void put_mark(agl_buffer *out, double x, int shape, agl_source source)
{
    static const char *const KINDS[] = {"m", "r", "p"};
    put_shape(out, x, shape, KINDS[source]);
}

static void put_value(agl_buffer *out, double value)
{
    agl_buffer_append_format(out, value < 10 ? "%.2f" : value < 100 ? "%.1f" : "%.0f", value);
}

static void put_row(agl_buffer *out, const agl_report_platform *p, const chart *c, axis a)
{
    double best = NAN;
    for (size_t k = 0; k < p->entry_count; k++) {
        double value = c->value(&p->entries[k]);
        if (!isfinite(value) || value <= 0) continue;
        if (!isfinite(best) || (c->less_is_better ? value < best : value > best)) best = value;
    }
    if (!isfinite(best)) return;
    agl_buffer_append_text(out, "<div class=\"row\"><span class=\"name\">");
    agl_html_text(out, p->title);
    agl_buffer_append_text(out, "</span><svg class=\"track\" role=\"img\" aria-label=\"");
    for (size_t k = 0; k < p->entry_count; k++) {
        double value = c->value(&p->entries[k]);
        if (!isfinite(value) || value <= 0) continue;
        agl_buffer_append_format(out, "%s ", p->entries[k].format->title);
        put_value(out, value);
        agl_buffer_append_format(out, " %s; ", c->unit);
    }
    agl_buffer_append_text(out, "\">");
    for (int d = a.first; d <= a.last; d++) {
        double x = place(a, pow(10, d));
        agl_buffer_append_format(out, "<line x1=\"%.2f%%\" x2=\"%.2f%%\" y1=\"0\" y2=\"100%%\"/>",
                                 x, x);
    }
    for (size_t k = 0; k < p->entry_count; k++) {
        const agl_report_entry *e = &p->entries[k];
        double value = c->value(e);
        bool is_predicted = c->value == image && e->image_is_predicted;
        if (isfinite(value) && value > 0) {
            put_mark(out, place(a, value), shape_of(e),
                     is_predicted ? AGL_SOURCE_PREDICTED : p->source);
        }
    }
    agl_buffer_append_text(out, "</svg><span class=\"value\">");
    put_value(out, best);
    agl_buffer_append_text(out, "</span></div>\n");
}

static void put_axis(agl_buffer *out, axis a)
{
    agl_buffer_append_text(
        out, "<div class=\"row axis\" aria-hidden=\"true\"><span></span><svg class=\"track\">");
    for (int d = a.first; d <= a.last; d++) {
        /* Every other one stays away from a narrow screen. */
        agl_buffer_append_format(
            out, "<text x=\"%.2f%%\" y=\"12\"%s>%g</text>", place(a, pow(10, d)),
            (d - a.first) % 2 == 1 && a.last - a.first > 3 ? " class=\"odd\"" : "", pow(10, d));
    }
    agl_buffer_append_text(out, "</svg><span></span></div>\n");
}

static void put_chart(agl_buffer *out, const agl_report *report, const chart *c)
{
    axis a = axis_of(report, c);
    if (a.last == a.first) return;
    char en[96], zh[96];
    snprintf(en, sizeof en, "%s, %s; %s is better", c->title_en, c->unit,
             c->less_is_better ? "left" : "right");
    snprintf(zh, sizeof zh, "%s，%s；越靠%s越好", c->title_zh, c->unit, c->less_is_better ? "左" : "右");
    agl_buffer_append_text(out, "<figure><figcaption>");
    agl_html_words(out, en, zh);
    agl_buffer_append_text(out, "</figcaption>\n");
    for (size_t i = 0; i < report->platform_count; i++) put_row(out, &report->platforms[i], c, a);
    put_axis(out, a);
    agl_buffer_append_text(out, "</figure>\n");
}

static void put_key(agl_buffer *out)
{
    static const char *const FORMATS[] = {"FP16/BF16", "FP8", "INT4"};
    agl_buffer_append_text(out, "<p class=\"key\">");
    for (int shape = 0; shape < 3; shape++) {
        agl_buffer_append_text(out, "<span><svg class=\"sample\">");
        put_shape(out, 50, shape, "n");
        agl_buffer_append_format(out, "</svg>%s</span> ", FORMATS[shape]);
    }
    for (int source = 0; source < 3; source++) {
        agl_words words = agl_source_words((agl_source)source);
        agl_buffer_append_text(out, "<span><svg class=\"sample\">");
        put_mark(out, 50, 0, (agl_source)source);
        agl_buffer_append_text(out, "</svg>");
        agl_html_words(out, words.en, words.zh);
        agl_buffer_append_text(out, "</span> ");
    }
    agl_buffer_append_text(out, "</p>\n");
}

/* ---- throughput over batch ------------------------------------------------------ */

enum { WIDTH = 360, HEIGHT = 220, LEFT = 44, RIGHT = 12, TOP = 22, BOTTOM = 28, LINES_MAX = 8 };

/* Both axes are logarithmic: a CPU's line lies below 1, a GPU's ends near 10,000. */
typedef struct {
    double batch_max;
    axis rates;
    int lines;
} plot;

static double plot_x(const plot *p, double batch)
{
    return LEFT + (WIDTH - LEFT - RIGHT) * log2(batch) / fmax(1, log2(p->batch_max));
}

static double plot_y(const plot *p, double rate)
{
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * place(p->rates, rate) / 100;
}

static void put_line(agl_buffer *out, plot *p, const agl_report_platform *platform,
                     const agl_result_run *run)
{
    if (p->lines == LINES_MAX) return;
    agl_buffer_append_format(out, "<g class=\"line c%d\"><polyline points=\"", p->lines++);
    double last_x = 0, last_y = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < run->point_count; i++) {
            if (!(run->points[i].output_throughput > 0)) continue; /* also NaN */
            double x = plot_x(p, run->points[i].batch);
            double y = plot_y(p, run->points[i].output_throughput);
            if (pass == 0) agl_buffer_append_format(out, "%.1f,%.1f ", x, y);
            else agl_buffer_append_format(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>", x, y);
            last_x = x;
            last_y = y;
        }
        if (pass == 0) agl_buffer_append_text(out, "\"/>");
    }
    agl_buffer_append_text(out, "<title>");
    agl_html_text(out, platform->title);
    agl_buffer_append_format(
        out, " %s</title><text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text></g>",
        run->format, last_x - 2, last_y - 7, run->format);
}

static bool has_line(const agl_result *result, size_t run)
{
    return result != NULL && run < result->run_count && result->runs[run].point_count >= 2;
}

static void put_line_names(agl_buffer *out, const agl_report *report)
{
    int line = 0;
    agl_buffer_append_text(out, "<p class=\"key\">");
    for (size_t i = 0; i < report->platform_count; i++) {
        for (size_t k = 0; k < AGL_RESULT_RUNS_MAX && line < LINES_MAX; k++) {
            const agl_report_platform *p = &report->platforms[i];
            if (!has_line(p->result, k)) continue;
            agl_buffer_append_format(
                out, "<span><svg class=\"sample c%d\"><circle cx=\"10\" cy=\"10\" r=\"4\"/></svg>",
                line++);
            agl_html_text(out, p->title);
            agl_buffer_append_format(out, ", %s</span> ", p->result->runs[k].format);
        }
    }
    agl_buffer_append_text(out, "</p>");
}

static plot plot_of(const agl_report *report)
{
    plot p = {.batch_max = 1};
    double low = INFINITY, high = 0;
    for (size_t i = 0; i < report->platform_count; i++) {
        const agl_result *r = report->platforms[i].result;
        for (size_t k = 0; r != NULL && k < r->run_count; k++) {
            for (size_t n = 0; n < r->runs[k].point_count; n++) {
                p.batch_max = fmax(p.batch_max, r->runs[k].points[n].batch);
                double rate = r->runs[k].points[n].output_throughput;
                if (r->runs[k].point_count < 2 || !(rate > 0)) continue; /* also NaN */
                low = fmin(low, rate);
                high = fmax(high, rate);
            }
        }
    }
    if (high > 0) p.rates = axis_around(low, high);
    return p;
}

static void put_plot(agl_buffer *out, const agl_report *report)
{
    plot p = plot_of(report);
    if (p.batch_max < 2 || p.rates.last == p.rates.first) return;
    agl_buffer_append_text(out, "<figure><figcaption>");
    agl_html_words(out, "Measured output tokens/s over requests at once; up is better",
                   "实测：输出词元/s 与并发请求数；越靠上越好");
    agl_buffer_append_format(
        out, "</figcaption>\n<svg class=\"plot\" viewBox=\"0 0 %d %d\" role=\"img\">", WIDTH,
        HEIGHT);
    for (int d = p.rates.first; d <= p.rates.last; d++) {
        double y = plot_y(&p, pow(10, d));
        agl_buffer_append_format(
            out,
            "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" "
            "text-anchor=\"end\">%g</text>",
            LEFT, WIDTH - RIGHT, y, y, LEFT - 6, y + 4, pow(10, d));
    }
    for (double batch = 1; batch <= p.batch_max; batch *= 2) {
        double x = plot_x(&p, batch);
        agl_buffer_append_format(out,
                                 "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>", x,
                                 HEIGHT - 8, batch);
    }
    for (size_t i = 0; i < report->platform_count; i++) {
        const agl_result *r = report->platforms[i].result;
        for (size_t k = 0; k < AGL_RESULT_RUNS_MAX; k++) {
            if (has_line(r, k)) put_line(out, &p, &report->platforms[i], &r->runs[k]);
        }
    }
    agl_buffer_append_text(out, "</svg>");
    put_line_names(out, report);
    agl_buffer_append_text(out, "</figure>\n");
}

void agl_report_charts(agl_buffer *out, const agl_report *report)
{
    put_key(out);
    agl_buffer_append_text(out, "<div class=\"charts\">\n");
    for (size_t i = 0; i < AGL_COUNT(CHARTS); i++) put_chart(out, report, &CHARTS[i]);
    put_plot(out, report);
    agl_buffer_append_text(out, "</div>\n");
}
