/* SPDX-License-Identifier: Apache-2.0
 *
 * report_tables.c - the tables of a report, generated from its data. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/report.h"

/* ---- words ------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2)))
static agl_words same(const char *format, ...)
{
    agl_words words;
    va_list args;
    va_start(args, format);
    vsnprintf(words.en, sizeof words.en, format, args);
    va_end(args);
    snprintf(words.zh, sizeof words.zh, "%s", words.en);
    return words;
}

static agl_words pair(const char *en, const char *zh)
{
    agl_words words;
    snprintf(words.en, sizeof words.en, "%s", en);
    snprintf(words.zh, sizeof words.zh, "%s", zh);
    return words;
}

agl_words agl_source_words(agl_source source)
{
    switch (source) {
    case AGL_SOURCE_MEASURED: return pair("measured", "实测");
    case AGL_SOURCE_REPORTED: return pair("reported by the article", "文章报告");
    case AGL_SOURCE_PREDICTED: return pair("predicted", "预测");
    }
    return pair("", "");
}

/* Three significant digits; "–" for what is not known. */
static void digits(char *out, size_t size, double value)
{
    if (!isfinite(value)) snprintf(out, size, "–");
    else if (value < 10) snprintf(out, size, "%.2f", value);
    else if (value < 100) snprintf(out, size, "%.1f", value);
    else if (value < 100000) snprintf(out, size, "%.0f", value);
    else snprintf(out, size, "%.1fk", value / 1000);
}

static agl_words amount(double value)
{
    char text[32];
    digits(text, sizeof text, value);
    return same("%s", text);
}

static agl_words spread(double mean, double deviation)
{
    char a[32], b[32];
    digits(a, sizeof a, mean);
    digits(b, sizeof b, deviation);
    return isfinite(deviation) ? same("%s ± %s", a, b) : same("%s", a);
}

static agl_words share(double value)
{
    return isfinite(value) ? same("%.0f %%", 100 * value) : same("–");
}

static agl_words whole(double value)
{
    return isfinite(value) ? same("%.0f", value) : same("–");
}

/* ---- tables ------------------------------------------------------------------ */

static agl_words *add_row(agl_table *table, agl_source source)
{
    if (table->row_count == AGL_TABLE_ROWS_MAX) return NULL;
    table->sources[table->row_count] = source;
    return table->rows[table->row_count++];
}

static void set_head(agl_table *table, agl_words title, agl_words note, const agl_words *head,
                     size_t columns)
{
    table->title = title;
    table->note = note;
    table->columns = columns;
    for (size_t i = 0; i < columns; i++) table->head[i] = head[i];
}

static agl_words verdict(const agl_plan_row *row)
{
    if (row->format == NULL) return same("–");
    const char *mark = row->fit == AGL_FIT_YES ? "✅" : row->fit == AGL_FIT_TIGHT ? "⚠️" : "❌";
    const char *built = row->plan.not_built != NULL ? " ¹" : "";
    agl_words words = row->fit == AGL_FIT_YES ? pair("", "") : same("%s", row->reason);
    agl_words out;
    double weights = 1e-9 * (double)row->plan.weight_bytes;
    if (row->fit == AGL_FIT_YES) {
        snprintf(out.en, sizeof out.en, "%s %.1f GB, %llu at once%s", mark, weights,
                 (unsigned long long)row->batch_max[0], built);
        snprintf(out.zh, sizeof out.zh, "%s %.1f GB，可并发 %llu%s", mark, weights,
                 (unsigned long long)row->batch_max[0], built);
        return out;
    }
    const char *helps = row->help[0] != '\0' ? row->help : "";
    snprintf(out.en, sizeof out.en, "%s %.120s%s%.60s%s", mark, words.en,
             *helps != '\0' ? "; " : "", helps, built);
    snprintf(out.zh, sizeof out.zh, "%s %s%s%.60s%s", mark,
             row->fit == AGL_FIT_NO ? "显存/内存不足"
             : row->plan.kv_room_bytes > 0 && row->batch_max[3] == 0 ? "放不下 25,480 词元的上下文"
             : row->format->products8 ? "无 FP8 单元：8 位存储、16 位计算" : "并发不足 8",
             *helps != '\0' ? "；可用 " : "", helps, built);
    return out;
}

static void support(agl_table *table, const agl_report *report)
{
    const agl_words head[] = {pair("Platform", "平台"), pair("Source", "来源"), same("FP16/BF16"),
                              same("FP8"), same("INT4")};
    set_head(table, pair("Support matrix", "支持矩阵"),
             pair("Fits within 90 % of the memory? ✅ yes, ⚠️ with a limit, ❌ no;"
                  " with weights on each device and "
                  "requests of 768 tokens at once. ¹ Predicted: the program does not run it yet.",
                  "是否放得进 90 % 的显存/内存：✅ 可以，⚠️ 有限制，❌ 不行；并列出每卡权重与 768 词元请求的并发数。¹ 预测：程序尚不支持。"),
             head, AGL_COUNT(head));
    for (size_t i = 0; i < report->platform_count; i++) {
        const agl_report_platform *p = &report->platforms[i];
        agl_words *row = add_row(table, p->source);
        if (row == NULL) return;
        row[0] = same("%s", p->title);
        row[1] = agl_source_words(p->source);
        for (int f = 0; f < AGL_REPORT_FORMATS; f++) row[2 + f] = verdict(&p->matrix[f]);
    }
}

/* A report of times need not say what the device reaches: that is then the table's of devices. */
static agl_words reported_from(const agl_result *r)
{
    if (isfinite(r->read_rate) && isfinite(r->multiply_rate)) return same("%s", r->reported_by);
    agl_words out;
    snprintf(out.en, sizeof out.en, "times: %.100s; device: datasheet", r->reported_by);
    snprintf(out.zh, sizeof out.zh, "时间：%.100s；设备：规格表", r->reported_by);
    return out;
}

static void configurations(agl_table *table, const agl_report *report)
{
    const agl_words head[] = {pair("Platform", "平台"),
                              pair("Device", "设备"),
                              pair("Memory of each", "单卡显存/内存"),
                              pair("Bandwidth", "带宽"),
                              pair("Products", "算力"),
                              pair("Host", "主机"),
                              pair("Where from", "依据")};
    set_head(table, pair("Platform configurations", "平台配置"),
             pair("Bandwidth and products are attainable rates: measured where the machine was at "
                  "hand, otherwise from "
                  "datasheets, less what programs are known to reach.",
                  "带宽与算力为可达值：有机器时为实测，否则由规格表折算。"),
             head, AGL_COUNT(head));
    for (size_t i = 0; i < report->platform_count; i++) {
        const agl_report_platform *p = &report->platforms[i];
        const agl_hardware *h = &p->hardware;
        const agl_result *r = p->result;
        agl_words *row = add_row(table, p->source);
        if (row == NULL) return;
        row[0] = same("%s", p->title);
        row[1] = h->count > 1 ? same("%u × %s", h->count, h->name) : same("%s", h->name);
        row[2] = h->memory_bytes > 0 ? same("%.1f GB", 1e-9 * (double)h->memory_bytes) : same("–");
        row[3] = h->bandwidth > 0
                     ? same(h->bandwidth < 1e11 ? "%.1f GB/s" : "%.0f GB/s", 1e-9 * h->bandwidth)
                     : same("–");
        row[4] = h->flops > 0 ? same("%.3g TFLOP/s", 1e-12 * h->flops) : same("–");
        row[5] = r != NULL && r->machine.cpu[0] != '\0'
                     ? same("%.90s, %u CPUs, %.0f GB, %.60s%s%s", r->machine.cpu, r->machine.cpus,
                            1e-9 * (double)r->machine.memory_bytes, r->machine.system,
                            r->machine.driver[0] != '\0' ? ", NVIDIA " : "", r->machine.driver)
                     : same("–");
        row[6] = p->source == AGL_SOURCE_MEASURED   ? same("%s, %.20s%s", r->program, r->created,
                                                         r->dummy ? ", random weights" : "")
                 : p->source == AGL_SOURCE_REPORTED ? reported_from(r)
                 : strncmp(h->basis, "datasheet", 9) == 0 ? pair("datasheet", "规格表")
                                                          : pair("rates measured", "速率为实测");
        if (p->source == AGL_SOURCE_MEASURED && r->dummy) {
            snprintf(row[6].zh, sizeof row[6].zh, "%s，%.20s，随机权重", r->program, r->created);
        }
    }
}

static const char *image_note(const agl_report_platform *p, const agl_report_entry *e)
{
    if (!isfinite(e->image_ttft_ms)) return "";
    if (e->image_is_predicted) return " *";
    return p->source == AGL_SOURCE_MEASURED ? " †" : "";
}

static void performance(agl_table *table, const agl_report *report)
{
    const agl_words head[] = {
        pair("Platform", "平台"), pair("Format", "精度"), pair("Source", "来源"),
        pair("First token, ms", "首词元 (ms)"), pair("Token gap, ms", "词元间隔 (ms)"),
        pair("Best tokens/s", "最大吞吐 (词元/s)"), pair("Largest batch", "最大并发"),
        pair("Screenshot, s", "截图首词元 (s)"), pair("Of the limit", "达到极限的"),
        pair("Gap predicted, ms", "预测间隔 (ms)")};
    set_head(table, pair("Performance comparison", "性能对比"),
             pair("512 tokens in, 256 out; first token and token gap of one request, mean ± sd. "
                  "Screenshot: 1080×2400 and "
                  "1,500 tokens of text; * predicted, † picture measured, text predicted. Of the limit: roofline ÷ measured, first "
                  "token / gap.",
                  "输入 512、输出 256 词元；首词元与词元间隔为单请求均值 ± 标准差。截图：1080×2400 加 1,500 词元文本；* 为预测，† 为图片实测、文本预测。极限：屋顶线 ÷ "
                  "实测（首词元/间隔）。"),
             head, AGL_COUNT(head));
    for (size_t i = 0; i < report->platform_count; i++) {
        const agl_report_platform *p = &report->platforms[i];
        for (size_t k = 0; k < p->entry_count; k++) {
            const agl_report_entry *e = &p->entries[k];
            agl_words *row = add_row(table, p->source);
            if (row == NULL) return;
            row[0] = same("%s", p->title);
            row[1] = same("%s", e->format->title);
            row[2] = agl_source_words(p->source);
            row[3] = spread(e->ttft_ms, e->ttft_sd);
            row[4] = spread(e->itl_ms, e->itl_sd);
            row[5] = amount(e->throughput);
            row[6] = whole(e->batch_max);
            char image[32];
            digits(image, sizeof image, e->image_ttft_ms / 1000);
            row[7] = same("%s%s", image, image_note(p, e));
            row[8] = isfinite(e->floor_itl)
                         ? same("%s / %s", share(e->floor_ttft).en, share(e->floor_itl).en)
                         : same("–");
            row[9] = amount(e->prediction.itl_ms);
        }
    }
}

static void batches(agl_table *table, const agl_report *report)
{
    const agl_words head[] = {pair("Platform", "平台"), pair("Format", "精度"), pair("Batch", "并发"),
                              pair("First token, "
                                   "ms", "首词元 (ms)"), pair("Token gap, ms", "词元间隔 (ms)"),
                              pair("Output tokens/s", "输出词元/s"), pair("Of the limit", "达到极限的")};
    set_head(table, pair("Measured batch sizes", "各并发实测"),
             pair("All requests of a batch are sent at once; mean ± sd over requests and "
                  "repetitions.",
                  "同一批请求同时发出；均值 ± 标准差取自所有请求与重复。"),
             head, AGL_COUNT(head));
    for (size_t i = 0; i < report->platform_count; i++) {
        const agl_report_platform *p = &report->platforms[i];
        for (size_t k = 0; p->result != NULL && k < p->result->run_count; k++) {
            const agl_result_run *run = &p->result->runs[k];
            const agl_format *format = agl_format_find(run->format);
            for (size_t n = 0; n < run->point_count; n++) {
                const agl_result_point *point = &run->points[n];
                agl_words *row = add_row(table, p->source);
                if (row == NULL) return;
                row[0] = same("%s", p->title);
                row[1] = same("%s", format != NULL ? format->title : run->format);
                row[2] = same("%u", point->batch);
                row[3] = spread(point->ttft.mean, point->ttft.deviation);
                row[4] = spread(point->itl.mean, point->itl.deviation);
                row[5] = amount(point->output_throughput);
                double ttft = point->floor_ttft_ms / point->ttft.mean,
                       itl = point->floor_itl_ms / point->itl.mean;
                row[6] = isfinite(itl) ? same("%s / %s", share(ttft).en, share(itl).en) : same("–");
            }
        }
    }
}

/* ---- predictions ---------------------------------------------------------------- */

static void add_pair(agl_table *table, const agl_report_platform *p, const agl_report_entry *e,
                     agl_words what, double predicted, double measured)
{
    if (!isfinite(predicted) || !isfinite(measured) || !(measured > 0)) return;
    agl_words *row = add_row(table, p->source);
    if (row == NULL) return;
    row[0] = same("%s", p->title);
    row[1] = same("%s", e->format->title);
    row[2] = what;
    row[3] = amount(predicted);
    row[4] = amount(measured);
    row[5] = same("%+.1f %%", 100 * (predicted / measured - 1));
}

static void predictions(agl_table *table, const agl_report *report)
{
    const agl_words head[] = {pair("Platform", "平台"),     pair("Format", "精度"),
                              pair("Number", "数字"),       pair("Predicted", "预测"),
                              pair("Measured", "实测"), pair("Off by", "偏差")};
    set_head(table, pair("Predicted beside measured", "预测与实测"),
             pair("Efficiencies are fitted to first token, token gap and screenshot of batch 1: a "
                  "single file agrees with itself there. Sizes and rates are not fitted.",
                  "效率由并发 1 的首词元、词元间隔与截图拟合：只有一个文件时自然吻合。大小与吞吐未参与拟合。"),
             head, AGL_COUNT(head));
    for (size_t i = 0; i < report->platform_count; i++) {
        const agl_report_platform *p = &report->platforms[i];
        if (p->source != AGL_SOURCE_MEASURED) continue;
        for (size_t k = 0; k < p->entry_count; k++) {
            const agl_report_entry *e = &p->entries[k];
            const agl_result_run *run = &p->result->runs[k];
            const agl_prediction *a = &e->prediction;
            if (a->plan.parameters == 0) continue;
            add_pair(table, p, e, pair("weights, GB", "权重 (GB)"),
                     1e-9 * (double)a->plan.weight_bytes, 1e-9 * run->weight_bytes);
            add_pair(table, p, e, pair("largest batch", "最大并发"), a->batch_max, run->batch_max);
            add_pair(table, p, e, pair("first token, ms", "首词元 (ms)"), a->ttft_ms, e->ttft_ms);
            add_pair(table, p, e, pair("token gap, ms", "词元间隔 (ms)"), a->itl_ms, e->itl_ms);
            add_pair(table, p, e, pair("screenshot alone, ms", "仅截图 (ms)"), a->image_ttft_ms,
                     run->image_ttft_ms);
            add_pair(table, p, e, pair("best tokens/s", "最大吞吐 (词元/s)"), a->throughput,
                     run->max_throughput);
        }
    }
}

/* ---- scenarios ---------------------------------------------------------------- */

enum { ANSWER_TOKENS = 100 };

/* Seconds of one phone step: screenshot in, a hundred tokens out. */
static double turn_s(const agl_report_entry *e)
{
    return (e->image_ttft_ms + ANSWER_TOKENS * e->itl_ms) / 1000;
}

/* The fewest bits are not always best: the shortest step, of equals (5 %) the widest format. */
static const agl_report_entry *best_entry(const agl_report_platform *p)
{
    const agl_report_entry *best = NULL;
    for (size_t i = 0; i < p->entry_count; i++) {
        if (!isfinite(turn_s(&p->entries[i]))) continue;
        if (best == NULL || turn_s(&p->entries[i]) < 0.95 * turn_s(best)) best = &p->entries[i];
    }
    return best;
}

static agl_words scenario_of(const agl_report_entry *e)
{
    double turn = turn_s(e);
    if (turn <= 3 && e->sessions >= 8)
        return pair("several phones at once, interactive", "多台手机同时实时操作");
    if (turn <= 8) return pair("one or two phones, interactive", "一两台手机实时操作");
    if (turn <= 60) return pair("unattended jobs: overnight tests, labelling", "无人值守任务：夜间测试、批量标注");
    return pair("development, functional tests, short text requests", "开发调试、功能验证、短文本请求");
}

static void scenarios(agl_table *table, const agl_report *report)
{
    const agl_words head[] = {pair("Platform", "平台"),
                              pair("Recommended for", "推荐场景"),
                              pair("Format", "精度"),
                              pair("One phone step, s", "单步耗时 (s)"),
                              pair("Phones at once", "同时会话数"),
                              pair("Source", "来源")};
    set_head(table, pair("Recommended scenario per platform", "各平台推荐场景"),
             pair("A phone step: screenshot and 1,500 tokens of text in, 100 tokens out, nothing "
                  "cached. Several phones: "
                  "≤ 3 s and 8 sessions of 6,000 tokens; interactive: ≤ 8 s; unattended: ≤ 60 s. "
                  "* The screenshot's part is predicted.",
                  "单步：输入一张截图加 1,500 词元文本，输出 100 词元，无缓存。多台：≤ 3 s 且容纳 8 个 6,000 词元会话；实时：≤ 8 "
                  "s；无人值守：≤ 60 s。* 其中截图部分为预测。"),
             head, AGL_COUNT(head));
    for (size_t i = 0; i < report->platform_count; i++) {
        const agl_report_platform *p = &report->platforms[i];
        const agl_report_entry *e = best_entry(p);
        agl_words *row = add_row(table, p->source);
        if (row == NULL) return;
        row[0] = same("%s", p->title);
        row[1] = e != NULL ? scenario_of(e)
                           : pair("not enough is known, or it does not fit", "数据不足，或放不下");
        row[2] = e != NULL ? same("%s", e->format->title) : same("–");
        row[3] = e != NULL ? amount(turn_s(e)) : same("–");
        if (e != NULL && p->source != AGL_SOURCE_PREDICTED && e->image_is_predicted) {
            row[3] = same("%.20s *", row[3].en);
        }
        row[4] = e != NULL ? same("%llu", (unsigned long long)e->sessions) : same("–");
        row[5] = agl_source_words(p->source);
    }
}

enum { ARTICLE_PLATFORMS = 4 };

agl_words agl_report_remark(const agl_report_platform *p)
{
    agl_words out = pair("", "");
    if (p->source != AGL_SOURCE_REPORTED || p->entry_count == 0) return out;
    const agl_report_entry *e = &p->entries[0];
    double streams = e->batch_max * 1000 / e->itl_ms;
    if (!isfinite(streams) || !isfinite(e->throughput)) return out;
    snprintf(
        out.en, sizeof out.en,
        "%.0f streams at %.3g ms a token would give %.0f tokens/s; %.0f are reported. For this "
        "hardware %.1f ms a token are predicted.",
        e->batch_max, e->itl_ms, streams, e->throughput, e->prediction.itl_ms);
    snprintf(
        out.zh, sizeof out.zh,
        "%.0f 路、每词元 %.3g ms 应得 %.0f 词元/s，而报告为 %.0f。该硬件的预测值约为每词元 %.1f ms。",
        e->batch_max, e->itl_ms, streams, e->throughput, e->prediction.itl_ms);
    return out;
}

agl_words agl_report_missing(const agl_report *report)
{
    int known = 0;
    for (size_t i = 0; i < report->platform_count; i++)
        known += report->platforms[i].source == AGL_SOURCE_REPORTED;
    if (known == 0 || known >= ARTICLE_PLATFORMS) return pair("", "");
    agl_words out;
    snprintf(out.en, sizeof out.en,
             "The article compares %d platforms. Of %d of them neither the hardware nor the "
             "figures are known to this project, so their rows and their part of the support "
             "matrix are missing here; data/reference.json takes them.",
             ARTICLE_PLATFORMS, ARTICLE_PLATFORMS - known);
    snprintf(out.zh, sizeof out.zh,
             "文章比较了 %d 个平台，其中 %d 个的硬件与数字本项目不知道，因此这里没有它们的行和支持矩阵；可在 "
             "data/reference.json 中补充。",
             ARTICLE_PLATFORMS, ARTICLE_PLATFORMS - known);
    return out;
}

/* ---- all ---------------------------------------------------------------------- */

agl_status agl_report_tables(agl_table tables[AGL_REPORT_TABLES], const agl_report *report,
                             agl_error *err)
{
    static void (*const FILL[AGL_REPORT_TABLES])(agl_table *, const agl_report *) = {
        support, configurations, performance, scenarios, predictions, batches};
    for (int i = 0; i < AGL_REPORT_TABLES; i++) {
        tables[i].rows = calloc(AGL_TABLE_ROWS_MAX, sizeof *tables[i].rows);
        if (tables[i].rows == NULL)
            return agl_fail(err, AGL_ERR_MEMORY, "no memory for the tables");
        FILL[i](&tables[i], report);
    }
    return AGL_OK;
}

void agl_report_tables_deinit(agl_table tables[AGL_REPORT_TABLES])
{
    for (int i = 0; i < AGL_REPORT_TABLES; i++) free(tables[i].rows);
}
