/* SPDX-License-Identifier: Apache-2.0
 *
 * report_html.c - the report as one page: style, charts and tables inside of it, nothing
 * fetched. Light and dark follow the system; a click changes the language. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "bench/report.h"

static const char STYLE[] =
    ":root{color-scheme:light dark;--bg:#fbfbfa;--fg:#1d1f23;--soft:#5d6470;--line:#dcdfe4;"
    "--card:#fff;--measured:#0b62c4;"
    "--reported:#b34700;--predicted:#6b7280;--c0:#0b62c4;--c1:#b34700;--c2:#0f7b53;--c3:#8a3ea8;"
    "--c4:#a8324a;--c5:#6b6f00;"
    "--c6:#00708a;--c7:#565c66}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#15171b;--fg:#e9ebee;--soft:#a2a9b4;"
    "--line:#343941;--card:#1c1f24;"
    "--measured:#6fb1ff;--reported:#ffab6b;--predicted:#a2a9b4;--c0:#6fb1ff;--c1:#ffab6b;"
    "--c2:#63d3a4;--c3:#d59af0;"
    "--c4:#ff8fa3;--c5:#d8d65a;--c6:#5fd0ea;--c7:#b5bcc6}}\n"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);"
    "font:16px/1.5 system-ui,-apple-system,"
    "\"Segoe UI\",\"Noto Sans\",\"Noto Sans CJK SC\",\"PingFang SC\",\"Microsoft "
    "YaHei\",sans-serif}\n"
    "main{max-width:1180px;margin:0 auto;padding:20px 16px 48px}h1{font-size:1.6rem;"
    "line-height:1.25;margin:0 0 4px}"
    "h2{font-size:1.2rem;margin:40px 0 4px}p{margin:6px 0;max-width:75ch}"
    ".soft,.note{color:var(--soft);font-size:.9rem}\n"
    "header{display:flex;flex-wrap:wrap;gap:12px;justify-content:space-between;"
    "align-items:flex-start}"
    ".language button{font:inherit;min-height:40px;padding:4px 14px;border:1px solid var(--line);"
    "background:var(--card);"
    "color:var(--fg);border-radius:8px;cursor:pointer}.language "
    "button[aria-pressed=true]{border-color:var(--measured);"
    "color:var(--measured);font-weight:600}\n"
    "html[lang=en] .zh,html[lang=zh] .en{display:none}\n"
    ".key{display:flex;flex-wrap:wrap;gap:4px 18px;margin:18px 0 8px;max-width:none;"
    "font-size:.9rem}"
    ".key span{display:inline-flex;align-items:center;gap:4px}.sample{width:20px;height:20px}\n"
    ".m{fill:var(--measured);stroke:var(--measured)}.r{fill:var(--reported);stroke:var(--reported)}"
    ".n{fill:var(--fg);stroke:var(--fg)}.p{fill:var(--card);stroke:var(--predicted);"
    "stroke-width:1.8}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));"
    "gap:16px}"
    "figure{margin:0;padding:14px 14px 8px;background:var(--card);border:1px solid var(--line);"
    "border-radius:10px;min-width:0}"
    "figcaption{font-weight:600;margin-bottom:8px}\n"
    ".row{display:grid;grid-template-columns:minmax(88px,30%) 1fr 52px;gap:12px;"
    "align-items:center;font-size:.85rem;"
    "min-height:24px}.name{overflow-wrap:anywhere;line-height:1.2}.value{text-align:right;"
    "font-variant-numeric:tabular-nums}"
    ".track{width:100%;height:22px;overflow:visible}.track line,.plot line{stroke:var(--line)}"
    ".axis{color:var(--soft)}.track text,.plot text{fill:var(--soft);font-size:11px;"
    "text-anchor:middle}"
    ".plot text[text-anchor=end]{text-anchor:end}.plot{width:100%;height:auto;max-width:640px;"
    "display:block}\n"
    ".line polyline{fill:none;stroke-width:2}"
    ".c0{stroke:var(--c0);fill:var(--c0)}.c1{stroke:var(--c1);fill:var(--c1)}.c2{stroke:var(--c2);"
    "fill:var(--c2)}"
    ".c3{stroke:var(--c3);fill:var(--c3)}.c4{stroke:var(--c4);fill:var(--c4)}.c5{stroke:var(--c5);"
    "fill:var(--c5)}"
    ".c6{stroke:var(--c6);fill:var(--c6)}.c7{stroke:var(--c7);fill:var(--c7)}"
    ".plot .line text{stroke:none;fill:inherit}\n"
    ".scroll{overflow-x:auto;border:1px solid var(--line);border-radius:10px;"
    "background:var(--card);margin-top:10px}"
    "table{border-collapse:collapse;width:100%;font-size:.88rem}th,td{text-align:left;"
    "vertical-align:top;padding:7px 10px;"
    "border-bottom:1px solid var(--line);min-width:84px}tr:last-child td,tr:last-child "
    "th{border-bottom:0}"
    "thead th{color:var(--soft);font-weight:600}tbody th{position:sticky;left:0;"
    "background:var(--card);font-weight:600;"
    "min-width:104px;max-width:190px;overflow-wrap:break-word}td{font-variant-numeric:tabular-nums}"
    "tr.s0 th{color:var(--measured)}tr.s1 th{color:var(--reported)}\n"
    ".fit{width:1em;height:1em;vertical-align:-.12em;fill:none;stroke-width:2.2;"
    "stroke-linecap:round;stroke-linejoin:round}"
    ".yes{stroke:var(--c2)}.tight{stroke:var(--reported)}.no{stroke:var(--c4)}\n"
    "@media(max-width:480px){.track .odd{display:none}main{padding:16px 12px 40px}"
    "h1{font-size:1.35rem}tbody th{min-width:92px;max-width:112px}"
    "th,td{padding:6px 8px}.row{grid-template-columns:92px 1fr 48px;gap:8px}}\n";

static const char SCRIPT[] =
    "function language(l){document.documentElement.lang=l;document.querySelectorAll('.language "
    "button').forEach("
    "function(b){b.setAttribute('aria-pressed',b.dataset.language===l)})}\n"
    "document.querySelectorAll('.language button').forEach(function(b){b.onclick=function(){"
    "language(b.dataset.language)}});"
    "language(/^zh/i.test(navigator.language)?'zh':'en');\n";

/* Drawn, not written: not every machine has a font with these. Returns the bytes it stands for. */
static size_t put_verdict(agl_buffer *out, const char *text)
{
    static const struct { const char *text, *kind, *label, *path; } MARKS[] = {
        {"✅", "yes", "yes", "M3 9l4 4 8-9"},
        {"⚠️", "tight", "with a limit", "M9 2l8 14H1zM9 7v4M9 13.5v.5"},
        {"❌", "no", "no", "M4 4l10 10M14 4L4 14"},
    };
    for (size_t i = 0; i < AGL_COUNT(MARKS); i++) {
        size_t bytes = strlen(MARKS[i].text);
        if (strncmp(text, MARKS[i].text, bytes) != 0) continue;
        agl_buffer_append_format(
            out,
            "<svg class=\"fit %s\" viewBox=\"0 0 18 18\" role=\"img\" aria-label=\"%s\">"
            "<path d=\"%s\"/></svg>",
            MARKS[i].kind, MARKS[i].label, MARKS[i].path);
        return bytes;
    }
    return 0;
}

void agl_html_text(agl_buffer *out, const char *text)
{
    for (; *text != '\0'; text++) {
        size_t drawn = (unsigned char)*text == 0xe2 ? put_verdict(out, text) : 0;
        if (drawn > 0) {
            text += drawn - 1;
            continue;
        }
        switch (*text) {
        case '<': agl_buffer_append_text(out, "&lt;"); break;
        case '>': agl_buffer_append_text(out, "&gt;"); break;
        case '&': agl_buffer_append_text(out, "&amp;"); break;
        case '"': agl_buffer_append_text(out, "&quot;"); break;
        default: agl_buffer_append_char(out, *text);
        }
    }
}

void agl_html_words(agl_buffer *out, const char *en, const char *zh)
{
    if (strcmp(en, zh) == 0) {
        agl_html_text(out, en);
        return;
    }
    agl_buffer_append_text(out, "<span class=\"en\">");
    agl_html_text(out, en);
    agl_buffer_append_text(out, "</span><span class=\"zh\" lang=\"zh\">");
    agl_html_text(out, zh);
    agl_buffer_append_text(out, "</span>");
}

static void put_words(agl_buffer *out, const char *open, const agl_words *words, const char *close)
{
    agl_buffer_append_text(out, open);
    agl_html_words(out, words->en, words->zh);
    agl_buffer_append_text(out, close);
}

static void put_table(agl_buffer *out, const agl_table *table)
{
    if (table->row_count == 0) return;
    put_words(out, "<h2>", &table->title, "</h2>\n");
    put_words(out, "<p class=\"note\">", &table->note, "</p>\n");
    agl_buffer_append_text(out, "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr>");
    for (size_t c = 0; c < table->columns; c++)
        put_words(out, "<th scope=\"col\">", &table->head[c], "</th>");
    agl_buffer_append_text(out, "</tr></thead><tbody>\n");
    for (size_t r = 0; r < table->row_count; r++) {
        agl_buffer_append_format(out, "<tr class=\"s%d\">", (int)table->sources[r]);
        for (size_t c = 0; c < table->columns; c++) {
            bool first = c == 0;
            put_words(out, first ? "<th scope=\"row\">" : "<td>", &table->rows[r][c],
                      first ? "</th>" : "</td>");
        }
        agl_buffer_append_text(out, "</tr>\n");
    }
    agl_buffer_append_text(out, "</tbody></table></div>\n");
}

static void put_head(agl_buffer *out, const agl_report *report)
{
    char date[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%d", gmtime_r(&now, &utc));
    size_t counts[3] = {0};
    for (size_t i = 0; i < report->platform_count; i++) counts[report->platforms[i].source]++;
    agl_buffer_append_text(out, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                           "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
                           "<title>AutoGLM-Phone-9B on hardware platforms</title><link "
                           "rel=\"icon\" href=\"data:,\">\n<style>");
    agl_buffer_append_text(out, STYLE);
    agl_buffer_append_text(out, "</style></head><body><main>\n<header><div><h1>");
    agl_html_words(out, "AutoGLM-Phone-9B on hardware platforms", "AutoGLM-Phone-9B 硬件平台对比");
    agl_buffer_append_text(out, "</h1><p class=\"soft\">");
    char en[160], zh[160];
    snprintf(en, sizeof en, "%zu measured, %zu reported by others, %zu predicted; autoglm %s, %s",
             counts[0], counts[1], counts[2], AGL_VERSION, date);
    snprintf(zh, sizeof zh, "%zu 个实测，%zu 个来自文章，%zu 个预测；autoglm %s，%s", counts[0],
             counts[1], counts[2], AGL_VERSION, date);
    agl_html_words(out, en, zh);
    agl_buffer_append_text(
        out,
        "</p></div>\n<div class=\"language\"><button type=\"button\" "
        "data-language=\"en\">English</button> "
        "<button type=\"button\" data-language=\"zh\">中文</button></div></header>\n");
}

static void put_method(agl_buffer *out, const agl_report *report)
{
    put_words(out, "<h2>", &(agl_words){"How predictions are made", "预测方法"}, "</h2>\n");
    for (int gpu = 1; gpu >= 0; gpu--) {
        const agl_efficiency *e = &report->efficiency[gpu];
        agl_words words;
        snprintf(
            words.en, sizeof words.en,
            "%s: roofline times efficiency: memory %.0f %%, prompts %.0f %%, vision %.0f %% "
            "(%.159s).",
            gpu ? "GPU" : "CPU", 100 * e->bandwidth, 100 * e->prefill, 100 * e->vision, e->origin);
        snprintf(words.zh, sizeof words.zh,
                 "%s：屋顶线乘以效率：内存 %.0f %%，提示 %.0f %%，视觉 %.0f %%（%.159s）。",
                 gpu ? "GPU" : "CPU", 100 * e->bandwidth, 100 * e->prefill, 100 * e->vision,
                 e->origin);
        put_words(out, "<p>", &words, "</p>\n");
    }
    for (size_t i = 0; i < report->platform_count; i++) {
        const agl_report_platform *p = &report->platforms[i];
        agl_words remark = agl_report_remark(p);
        if (remark.en[0] == '\0') continue;
        agl_buffer_append_text(out, "<p><b>");
        agl_html_text(out, p->title);
        put_words(out, "</b>: ", &remark, "</p>\n");
    }
    agl_words missing = agl_report_missing(report);
    if (missing.en[0] != '\0') put_words(out, "<p>", &missing, "</p>\n");
}

void agl_report_html(agl_buffer *out, const agl_report *report, const agl_table *tables)
{
    put_head(out, report);
    agl_report_charts(out, report);
    for (int i = 0; i < AGL_REPORT_TABLES; i++) put_table(out, &tables[i]);
    put_method(out, report);
    agl_buffer_append_text(out, "</main>\n<script>");
    agl_buffer_append_text(out, SCRIPT);
    agl_buffer_append_text(out, "</script></body></html>\n");
}
