/* SPDX-License-Identifier: Apache-2.0
 *
 * plan.c - `autoglm plan [MODEL] --hardware NAME,...`: flags, and where files come from. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/plan.h"
#include "cli/commands.h"
#include "cli/machines.h"

enum { FORMATS_MAX = 8 };

typedef struct {
    agl_engine_options engine;
    agl_flag_list hardware, formats, fit;
    double memory_gb, bandwidth_gbs, flops_t;
    uint32_t count;
    const char *kind;
    bool json;
} plan_options;

#define AT(field) offsetof(plan_options, field)

static const agl_flag FLAGS[] = {
    { .name = "model", .aliases = "-m", .kind = AGL_FLAG_TEXT, .commands = 1, .offset = AT(engine.model),
      .group = "Model", .value = "DIR|ID", .shown_default = "the 9B shape",
      .help = "folder with config.json (weights are not needed); also as the first word" },
    { .name = "dtype", .aliases = "formats", .kind = AGL_FLAG_LIST, .commands = 1, .offset = AT(formats),
      .group = "Model", .value = "NAME", .shown_default = "bf16 fp8 int4", .help = "weight formats: bf16 fp16 f32 fp8 int4" },
    { .name = "max-model-len", .aliases = "context", .kind = AGL_FLAG_U32, .commands = 1,
      .offset = AT(engine.max_model_len), .group = "Model", .value = "TOKENS", .zero_word = "auto", .min = 1, .max = 1e9,
      .shown_default = "auto", .help = "window that must fit" },
    { .name = "kv-cache-dtype", .kind = AGL_FLAG_TEXT, .commands = 1, .offset = AT(engine.kv_cache_dtype),
      .group = "Model", .value = "NAME", .choices = "auto float32 bfloat16 float16", .shown_default = "auto",
      .help = "of the KV pages" },
    { .name = "max-pixels", .kind = AGL_FLAG_U64, .commands = 1, .offset = AT(engine.max_pixels), .group = "Model",
      .value = "PIXELS", .min = 784, .max = 1e12, .shown_default = "the checkpoint's", .help = "cap on pictures" },
    { .name = "max-num-seqs", .kind = AGL_FLAG_U32, .commands = 1, .offset = AT(engine.max_num_seqs), .group = "Model",
      .value = "COUNT", .min = 1, .max = 4096, .shown_default = "256 (CPU: 64)", .help = "sequences decoded at once" },
    { .name = "max-num-batched-tokens", .kind = AGL_FLAG_U32, .commands = 1, .offset = AT(engine.max_num_batched_tokens),
      .group = "Model", .value = "TOKENS", .min = 1, .max = 1 << 20, .shown_default = "2048 (CPU: 512)",
      .help = "rows of one step: scratch grows with them" },

    { .name = "hardware", .kind = AGL_FLAG_LIST, .commands = 1, .offset = AT(hardware), .group = "Hardware",
      .value = "NAME,...", .shown_default = "here: this machine, measured",
      .help = "\"RTX 4090\", 2x4090, H200, \"EPYC 9654\", here, all; separated by commas or spaces" },
    { .name = "memory", .kind = AGL_FLAG_REAL, .commands = 1, .offset = AT(memory_gb), .group = "Hardware", .value = "GB",
      .min = 0.1, .max = 1e6, .help = "of one device; changes a named one" },
    { .name = "bandwidth", .kind = AGL_FLAG_REAL, .commands = 1, .offset = AT(bandwidth_gbs), .group = "Hardware",
      .value = "GB/s", .min = 0.1, .max = 1e6, .help = "attainable, of one device" },
    { .name = "flops", .kind = AGL_FLAG_REAL, .commands = 1, .offset = AT(flops_t), .group = "Hardware",
      .value = "TFLOP/s", .min = 0.001, .max = 1e6, .help = "attainable dense products of one device" },
    { .name = "kind", .kind = AGL_FLAG_TEXT, .commands = 1, .offset = AT(kind), .group = "Hardware", .value = "NAME",
      .choices = "cpu gpu", .shown_default = "gpu", .help = "of hardware given by numbers" },
    { .name = "count", .aliases = "tensor-parallel-size -tp", .kind = AGL_FLAG_U32, .commands = 1, .offset = AT(count),
      .group = "Hardware", .value = "DEVICES", .min = 1, .max = 64, .shown_default = "1", .help = "that share one model" },
    { .name = "gpu-memory-utilization", .kind = AGL_FLAG_REAL, .commands = 1, .offset = AT(engine.memory_utilization),
      .group = "Hardware", .value = "SHARE", .min = 0.01, .max = 1, .shown_default = "0.9", .help = "of the memory to use" },

    { .name = "fit", .kind = AGL_FLAG_LIST, .commands = 1, .offset = AT(fit), .group = "Result", .value = "FILE",
      .shown_default = "those measured for this program",
      .help = "result files of bench platform: efficiencies come from them, and they are compared with the plan" },
    { .name = "json", .kind = AGL_FLAG_SWITCH, .commands = 1, .offset = AT(json), .group = "Result",
      .help = "a list of objects on standard output" },
};

/* ---- lists ------------------------------------------------------------------ */

typedef struct {
    const char *keys[FORMATS_MAX];
    size_t count;
} format_list;

static agl_status add_format(void *to, const char *part, agl_error *err)
{
    format_list *list = to;
    const agl_format *format = agl_format_find(part);
    if (format == NULL) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "--dtype: \"%s\" is not known; bf16, fp16, f32, fp8 or int4 expected", part);
    }
    if (list->count == FORMATS_MAX) return agl_fail(err, AGL_ERR_LIMIT, "--dtype: more than %d formats", FORMATS_MAX);
    list->keys[list->count++] = format->key;
    return AGL_OK;
}

/* ---- what flags mean together ------------------------------------------------ */

static agl_status settle_hardware(agl_cli_hardware_list *list, const plan_options *o, agl_error *err)
{
    AGL_TRY(agl_cli_each_part(&o->hardware, agl_cli_add_hardware, list, err));
    bool by_numbers = o->memory_gb > 0 && o->bandwidth_gbs > 0 && o->flops_t > 0;
    bool any_number = o->memory_gb > 0 || o->bandwidth_gbs > 0 || o->flops_t > 0;
    if (list->count == 0 && by_numbers) {
        list->items[list->count++] = (agl_hardware){.name = "given hardware", .count = 1, .basis = "command line",
                                                    .gpu = o->kind == NULL || strcmp(o->kind, "gpu") == 0};
    } else if (list->count == 0 && any_number) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "--memory, --bandwidth and --flops go together, or with --hardware");
    } else if (list->count == 0) {
        AGL_TRY(agl_cli_add_hardware(list, "here", err));
    }
    for (size_t i = 0; i < list->count; i++) {
        agl_hardware *h = &list->items[i];
        if (o->memory_gb > 0) h->memory_bytes = (uint64_t)(o->memory_gb * 1e9);
        if (o->bandwidth_gbs > 0) h->bandwidth = h->nominal_bandwidth = o->bandwidth_gbs * 1e9;
        if (o->flops_t > 0) h->flops = h->nominal_flops = o->flops_t * 1e12;
        if (o->count > 0) h->count = o->count;
    }
    return AGL_OK;
}

static agl_status plan(const agl_flag_list *words, plan_options *o, agl_error *err)
{
    char shape[AGL_CLI_PATH_MAX];
    agl_cli_hardware_list hardware = {0};
    format_list formats = {0};
    agl_result *results = NULL;
    size_t result_count = 0;
    if (words->count > 1) return agl_fail(err, AGL_ERR_ARGUMENT, "unexpected \"%s\"", words->items[1]);
    if (words->count == 1) o->engine.model = words->items[0];
    if (o->engine.model == NULL) {
        AGL_TRY(agl_cli_find_shipped(shape, sizeof shape, "models", "shapes/autoglm-phone-9b", err));
        o->engine.model = shape;
    }
    AGL_TRY(settle_hardware(&hardware, o, err));
    AGL_TRY(agl_cli_each_part(&o->formats, add_format, &formats, err));
    agl_flag_list shipped = {0};
    if (o->fit.count == 0) agl_cli_shipped_results(&shipped);
    agl_status status =
        agl_cli_load_results(&results, &result_count, o->fit.count > 0 ? &o->fit : &shipped, err);
    if (status == AGL_OK) {
        agl_plan_print_options print = {
            .engine = o->engine, .hardware = hardware.items, .hardware_count = hardware.count,
            .formats = formats.count > 0 ? formats.keys : NULL, .format_count = formats.count,
            .results = results, .result_count = result_count, .compare_named = o->fit.count == 0,
            .json = o->json,
        };
        status = agl_plan_print(&print, err);
    }
    free(results);
    agl_cli_paths_free(&shipped);
    return status;
}

int agl_command_plan(agl_console *console, int argc, char **argv)
{
    (void)console;
    agl_flag_table table = { FLAGS, AGL_COUNT(FLAGS) };
    agl_flag_result parsed = { 0 };
    plan_options options = { 0 };
    agl_error err = { 0 };
    agl_status status = agl_flags_parse(&parsed, &options, &table, 1, argc, argv, &err);
    if (status == AGL_OK && parsed.help) {
        printf("autoglm plan [MODEL] --hardware NAME,...\n  would a model fit there, how many requests at once, how fast\n");
        agl_flags_help(stdout, &table, 1, agl_console_has_colour(stdout));
    } else if (status == AGL_OK) {
        status = plan(&parsed.words, &options, &err);
    }
    agl_flags_deinit(&parsed, &options, &table);
    if (status == AGL_OK) return AGL_EXIT_OK;
    fprintf(stderr, "autoglm plan: %s\n", err.message);
    return status == AGL_ERR_ARGUMENT ? AGL_EXIT_USAGE : AGL_EXIT_FAILED;
}
