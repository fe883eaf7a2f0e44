/* SPDX-License-Identifier: Apache-2.0
 *
 * bench.c - `autoglm bench KIND ...`: flags for the measurements of bench/. */
#include "cli/commands.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "bench/bench.h"

/* The flags of `bench serve` speak of another process: they share no row with the program's own. */
enum { SERVE = 1 };
#define SERVE_SUMMARY "a server over HTTP: latency and throughput under load"

typedef struct {
    agl_bench_serve_options serve;
    const char *dataset, *endpoint, *model_name;
    struct json_object *extra_body;
    agl_flag_list goodput;
    uint32_t prompts, turns;
} bench_options;

#define AT(field) offsetof(bench_options, field)
#define COUNT_MAX 4294967295.0

static const agl_flag FLAGS[] = {
    { .name = "base-url", .kind = AGL_FLAG_TEXT, .commands = SERVE, .offset = AT(serve.base_url),
      .group = "Server", .value = "URL", .shown_default = "http://127.0.0.1:8000",
      .help = "server to measure, with or without /v1" },
    { .name = "against", .kind = AGL_FLAG_TEXT, .commands = SERVE, .offset = AT(serve.against),
      .group = "Server", .value = "URL",
      .help = "another server, measured in turn with the first" },
    { .name = "api-key", .kind = AGL_FLAG_TEXT, .commands = SERVE, .offset = AT(serve.api_key),
      .group = "Server", .value = "KEY", .help = "sent as Authorization: Bearer" },
    { .name = "model-name", .aliases = "served-model-name", .kind = AGL_FLAG_TEXT,
      .commands = SERVE, .offset = AT(model_name), .group = "Server", .value = "NAME",
      .shown_default = "autoglm-phone-9b", .help = "model named in the requests" },
    { .name = "endpoint", .aliases = "backend", .kind = AGL_FLAG_TEXT, .commands = SERVE,
      .offset = AT(endpoint), .group = "Server", .value = "NAME",
      .choices = "chat completions openai openai-chat vllm",
      .shown_default = "completions for random tokens, else chat", .help = "which API" },

    { .name = "dataset-name", .aliases = "dataset", .kind = AGL_FLAG_TEXT, .commands = SERVE,
      .offset = AT(dataset), .group = "Workload", .value = "NAME",
      .choices = "random screens agent jsonl", .shown_default = "random",
      .help = "random tokens; a screenshot each; agent sessions with growing history; a file" },
    { .name = "dataset-path", .kind = AGL_FLAG_TEXT, .commands = SERVE,
      .offset = AT(serve.workload.path), .group = "Workload", .value = "FILE",
      .help = "jsonl: one request body a line" },
    { .name = "num-prompts", .kind = AGL_FLAG_U32, .commands = SERVE, .offset = AT(prompts),
      .group = "Workload", .value = "COUNT", .min = 1, .max = 1e7, .shown_default = "100",
      .help = "requests, or agent sessions" },
    { .name = "turns", .kind = AGL_FLAG_U32, .commands = SERVE, .offset = AT(turns),
      .group = "Workload", .value = "COUNT", .min = 1, .max = 1000, .shown_default = "5",
      .help = "agent: steps of a session" },
    { .name = "random-input-len", .aliases = "input-len", .kind = AGL_FLAG_U32, .commands = SERVE,
      .offset = AT(serve.workload.input_tokens), .group = "Workload", .value = "TOKENS", .min = 1,
      .max = 1e6, .shown_default = "512", .help = "prompt tokens (chat: words)" },
    { .name = "random-output-len", .aliases = "output-len", .kind = AGL_FLAG_U32, .commands = SERVE,
      .offset = AT(serve.workload.output_tokens), .group = "Workload", .value = "TOKENS", .min = 1,
      .max = 1e6, .shown_default = "256", .help = "answer tokens at most" },
    { .name = "random-range-ratio", .kind = AGL_FLAG_REAL, .commands = SERVE,
      .offset = AT(serve.workload.range_ratio), .group = "Workload", .value = "SHARE", .min = 0,
      .max = 0.99, .shown_default = "0", .help = "lengths vary by this share up and down" },
    { .name = "token-first", .kind = AGL_FLAG_U32, .commands = SERVE,
      .offset = AT(serve.workload.token_first), .group = "Workload", .value = "ID", .min = 0,
      .max = 1e7, .shown_default = "0", .help = "random ids are drawn from here" },
    { .name = "token-last", .kind = AGL_FLAG_U32, .commands = SERVE,
      .offset = AT(serve.workload.token_last), .group = "Workload", .value = "ID", .min = 1,
      .max = 1e7, .shown_default = "256", .help = "up to, not including" },
    { .name = "image-width", .kind = AGL_FLAG_U32, .commands = SERVE,
      .offset = AT(serve.workload.image_width), .group = "Workload", .value = "PIXELS", .min = 64,
      .max = 8192, .shown_default = "1080", .help = "of screenshots" },
    { .name = "image-height", .kind = AGL_FLAG_U32, .commands = SERVE,
      .offset = AT(serve.workload.image_height), .group = "Workload", .value = "PIXELS", .min = 64,
      .max = 8192, .shown_default = "2400", .help = "of screenshots" },
    { .name = "ignore-eos", .kind = AGL_FLAG_SWITCH, .commands = SERVE,
      .offset = AT(serve.workload.ignore_eos), .group = "Workload",
      .help = "go on to the full answer length" },
    { .name = "temperature", .kind = AGL_FLAG_REAL, .commands = SERVE,
      .offset = AT(serve.workload.temperature), .group = "Workload", .value = "NUMBER", .min = 0,
      .max = 2, .shown_default = "0", .help = "0: greedy, answers are compared" },
    { .name = "no-stream", .kind = AGL_FLAG_SWITCH_OFF, .commands = SERVE,
      .offset = AT(serve.workload.stream), .group = "Workload", .help = "ask for whole answers" },
    { .name = "extra-body", .kind = AGL_FLAG_JSON, .commands = SERVE, .offset = AT(extra_body),
      .group = "Workload", .value = "JSON", .help = "merged into every request" },

    { .name = "max-concurrency", .kind = AGL_FLAG_U32, .commands = SERVE,
      .offset = AT(serve.max_concurrency), .group = "Load", .value = "COUNT", .min = 1,
      .max = 100000, .shown_default = "no limit", .help = "sessions under way" },
    { .name = "request-rate", .kind = AGL_FLAG_REAL, .commands = SERVE,
      .offset = AT(serve.request_rate), .group = "Load", .value = "PER_SECOND", .zero_word = "inf",
      .min = 0.001, .max = 1e6, .shown_default = "inf",
      .help = "sessions started a second, at random times" },
    { .name = "burstiness", .kind = AGL_FLAG_REAL, .commands = SERVE,
      .offset = AT(serve.burstiness), .group = "Load", .value = "SHAPE", .min = 0.01, .max = 1000,
      .shown_default = "1 (Poisson)", .help = "below 1: bursts; above: even" },
    { .name = "num-warmups", .aliases = "warmups", .kind = AGL_FLAG_U32, .commands = SERVE,
      .offset = AT(serve.warmups), .group = "Load", .value = "COUNT", .min = 0, .max = 1e6,
      .shown_default = "1", .help = "requests before the clock starts" },
    { .name = "repetitions", .kind = AGL_FLAG_U32, .commands = SERVE,
      .offset = AT(serve.repetitions), .group = "Load", .value = "COUNT", .min = 1, .max = 100,
      .shown_default = "1", .help = "runs; 95 % intervals over them" },
    { .name = "warm-cache", .kind = AGL_FLAG_SWITCH, .commands = SERVE,
      .offset = AT(serve.warm_cache), .group = "Load",
      .help = "let repetitions find their prompts in the prefix cache" },
    { .name = "goodput", .kind = AGL_FLAG_LIST, .commands = SERVE, .offset = AT(goodput),
      .group = "Load", .value = "ttft:MS tpot:MS e2el:MS",
      .help = "count requests that meet all of these" },
    { .name = "seed", .kind = AGL_FLAG_U64, .commands = SERVE, .offset = AT(serve.workload.seed),
      .group = "Load", .value = "NUMBER", .min = 0, .max = 9007199254740992.0, .shown_default = "0",
      .help = "of the workload" },

    { .name = "json", .kind = AGL_FLAG_SWITCH, .commands = SERVE, .offset = AT(serve.json),
      .group = "Result", .help = "JSON on standard output, keys as vllm bench serve" },
    { .name = "save-result", .aliases = "result-filename output-json", .kind = AGL_FLAG_TEXT,
      .commands = SERVE, .offset = AT(serve.save_path), .group = "Result", .value = "FILE",
      .help = "write that JSON to a file" },
    { .name = "save-detailed", .kind = AGL_FLAG_SWITCH, .commands = SERVE,
      .offset = AT(serve.save_detailed), .group = "Result",
      .help = "with every request's times and text" },
    { .name = "label", .kind = AGL_FLAG_TEXT, .commands = SERVE, .offset = AT(serve.label),
      .group = "Result", .value = "TEXT", .help = "kept in the result" },
    { .name = "quiet", .kind = AGL_FLAG_SWITCH, .commands = SERVE, .offset = AT(serve.quiet),
      .group = "Result", .help = "no progress bars" },
    { .name = "allow-lag", .kind = AGL_FLAG_SWITCH, .commands = SERVE,
      .offset = AT(serve.allow_lag), .group = "Result",
      .help = "report even if this client was too slow to measure" },
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static agl_status settle_goodput(bench_options *o, agl_error *err)
{
    const struct { const char *name; double *value; } OBJECTIVES[] = {
        { "ttft:", &o->serve.goodput_ttft_ms }, { "tpot:", &o->serve.goodput_tpot_ms },
        { "e2el:", &o->serve.goodput_e2el_ms },
    };
    for (size_t i = 0; i < o->goodput.count; i++) {
        const char *text = o->goodput.items[i];
        char *end = NULL;
        for (size_t k = 0; k < AGL_COUNT(OBJECTIVES); k++) {
            if (strncmp(text, OBJECTIVES[k].name, 5) != 0) continue;
            *OBJECTIVES[k].value = strtod(text + 5, &end);
            if (*end != '\0' || !(*OBJECTIVES[k].value > 0)) end = NULL;
        }
        if (end == NULL) {
            return agl_fail(err, AGL_ERR_ARGUMENT,
                            "--goodput is \"%s\"; ttft:MS, tpot:MS or e2el:MS expected", text);
        }
    }
    return AGL_OK;
}

static agl_status settle_serve(bench_options *o, agl_error *err)
{
    static const char *const KINDS[] = { "random", "screens", "agent", "jsonl" };
    agl_workload_options *w = &o->serve.workload;
    for (size_t i = 0; i < AGL_COUNT(KINDS); i++) {
        if (strcmp(o->dataset, KINDS[i]) == 0) w->kind = (agl_workload_kind)i;
    }
    bool chat = o->endpoint != NULL && strstr(o->endpoint, "chat") != NULL;
    w->completions = w->kind == AGL_WORKLOAD_RANDOM && !chat;
    if (w->kind == AGL_WORKLOAD_JSONL) {
        if (w->path == NULL) {
            return agl_fail(err, AGL_ERR_ARGUMENT, "--dataset-name jsonl needs --dataset-path");
        }
        w->completions = o->endpoint != NULL && !chat;
    }
    if (w->token_first >= w->token_last) {
        return agl_fail(err, AGL_ERR_ARGUMENT,
                        "--token-first is %u and --token-last %u; first < last expected",
                        w->token_first, w->token_last);
    }
    w->model = o->model_name;
    w->sessions = o->prompts;
    w->turns = o->turns;
    if (o->extra_body != NULL) {
        w->extra_body = json_object_to_json_string_ext(o->extra_body, JSON_C_TO_STRING_PLAIN);
    }
    o->serve.interrupted = &interrupted;
    return settle_goodput(o, err);
}

static agl_status run_serve(int *exit_status, int argc, char **argv, agl_error *err)
{
    agl_flag_table table = { FLAGS, AGL_COUNT(FLAGS) };
    agl_flag_result parsed = { 0 };
    bench_options o = {
        .serve = { .base_url = "http://127.0.0.1:8000", .warmups = 1, .repetitions = 1,
                   .burstiness = 1,
                   .workload = { .stream = true, .input_tokens = 512, .output_tokens = 256,
                                 .token_last = 256, .image_width = 1080, .image_height = 2400 } },
        .dataset = "random", .model_name = "autoglm-phone-9b", .prompts = 100, .turns = 5,
    };
    agl_status status = agl_flags_parse(&parsed, &o, &table, SERVE, argc, argv, err);
    if (status == AGL_OK && parsed.help) {
        printf("autoglm bench serve [flags]\n  %s\n", SERVE_SUMMARY);
        agl_flags_help(stdout, &table, SERVE, agl_console_has_colour(stdout));
    } else {
        if (status == AGL_OK && parsed.words.count > 0) {
            status = agl_fail(err, AGL_ERR_ARGUMENT, "unexpected \"%s\"", parsed.words.items[0]);
        }
        if (status == AGL_OK) status = settle_serve(&o, err);
        if (status == AGL_OK) status = agl_bench_serve(exit_status, &o.serve, err);
    }
    agl_flags_deinit(&parsed, &o, &table);
    return status;
}

/* ---- without HTTP -------------------------------------------------------- */

static const struct {
    agl_command command;
    agl_status (*run)(const agl_bench_direct_options *options, agl_error *err);
    uint32_t batch, iterations;
} DIRECT[] = {
    { { "bench latency", AGL_CLI_MEASURE, "[flags]",
        "an engine in this process: a batch of equal requests", NULL }, agl_bench_latency, 8, 5 },
    { { "bench throughput", AGL_CLI_MEASURE, "[flags]",
        "an engine in this process: many requests at once", NULL }, agl_bench_throughput, 100, 1 },
    { { "bench startup", AGL_CLI_MEASURE, "[flags]",
        "from nothing to the first token, by phase", NULL }, agl_bench_startup, 1, 3 },
    { { "bench kernels", AGL_CLI_MEASURE, "[flags]",
        "single operations at the model's shapes, beside the machine's limits", NULL },
      agl_bench_kernels, 1, 5 },
};

static const agl_command PLATFORM = {
    "bench platform", AGL_CLI_PLATFORM, "[flags]",
    "the whole comparison on this machine, into a result file", NULL
};

static const char *kind_of(const agl_command *command)
{
    return command->name + strlen("bench ");
}

/* Returns the exit code, or -1: `status` says how it went. */
static int run_direct(agl_console *console, size_t kind, int argc, char **argv, agl_status *status,
                      agl_error *err)
{
    agl_cli_options options;
    int code = agl_command_begin_as(console, &options, &DIRECT[kind].command, argc, argv);
    if (code < 0) {
        agl_bench_direct_options *measure = &options.measure;
        measure->engine = options.engine;
        measure->json = options.json;
        measure->quiet = options.quiet;
        measure->interrupted = &interrupted;
        if (measure->input_tokens == 0) measure->input_tokens = 512;
        if (measure->output_tokens == 0) measure->output_tokens = 256;
        if (measure->batch == 0) measure->batch = DIRECT[kind].batch;
        if (measure->iterations == 0) measure->iterations = DIRECT[kind].iterations;
        *status = DIRECT[kind].run(measure, err);
    }
    agl_cli_options_deinit(&options);
    return code;
}

/* ---- the whole machine ----------------------------------------------------- */

static agl_status read_batches(agl_bench_platform_options *platform, const agl_flag_list *given,
                               agl_error *err)
{
    if (given->count > AGL_BENCH_BATCHES_MAX) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "--batches: at most %d expected",
                        AGL_BENCH_BATCHES_MAX);
    }
    for (size_t i = 0; i < given->count; i++) {
        char *end;
        unsigned long batch = strtoul(given->items[i], &end, 10);
        uint32_t before = i > 0 ? platform->batches[i - 1] : 0;
        if (*end != '\0' || batch <= before || batch > 4096) {
            return agl_fail(err, AGL_ERR_ARGUMENT,
                            "--batches: \"%s\"; ascending numbers in [1, 4096] expected",
                            given->items[i]);
        }
        platform->batches[platform->batch_count++] = (uint32_t)batch;
    }
    return AGL_OK;
}

static int run_platform(agl_console *console, int argc, char **argv, agl_status *status,
                        agl_error *err)
{
    agl_cli_options options;
    int code = agl_command_begin_as(console, &options, &PLATFORM, argc, argv);
    if (code < 0) {
        agl_bench_platform_options *platform = &options.platform;
        const agl_bench_direct_options *shared = &options.measure;
        platform->engine = options.engine;
        platform->input_tokens = shared->input_tokens != 0 ? shared->input_tokens : 512;
        platform->output_tokens = shared->output_tokens != 0 ? shared->output_tokens : 256;
        platform->iterations = shared->iterations != 0 ? shared->iterations : 3;
        platform->warmups = shared->warmups;
        platform->save_path = shared->save_path;
        platform->formats = options.formats.count > 0 ? options.formats.items : NULL;
        platform->format_count = options.formats.count;
        platform->json = options.json;
        platform->quiet = options.quiet;
        platform->interrupted = &interrupted;
        uint32_t width = platform->image_width, height = platform->image_height;
        if (height == 0) platform->image_height = 2 * width;
        if (width == 0) platform->image_width = height / 2;
        *status = read_batches(platform, &options.batches, err);
        if (*status == AGL_OK) *status = agl_bench_platform(platform, err);
    }
    agl_cli_options_deinit(&options);
    return code;
}

static void print_kind(FILE *out, const char *kind, const char *summary)
{
    fprintf(out, "autoglm bench %-11s %s\n", kind, summary);
}

static void print_kinds(FILE *out)
{
    print_kind(out, "serve", SERVE_SUMMARY);
    for (size_t i = 0; i < AGL_COUNT(DIRECT); i++) {
        print_kind(out, kind_of(&DIRECT[i].command), DIRECT[i].command.summary);
    }
    print_kind(out, kind_of(&PLATFORM), PLATFORM.summary);
    print_kind(out, "report", "result files of several machines as tables and a page");
    fprintf(out, "\n`autoglm bench KIND --help` lists the flags of a kind.\n");
}

int agl_command_bench(agl_console *console, int argc, char **argv)
{
    struct sigaction action = { .sa_handler = on_interrupt };
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    agl_error err = { 0 };
    agl_status status = AGL_OK;
    int exit_status = AGL_EXIT_OK, code = -1;
    size_t kind = 0;
    const char *name = argc > 0 ? argv[0] : "";
    if (*name == '\0' || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        print_kinds(*name == '\0' ? stderr : stdout);
        return *name == '\0' ? AGL_EXIT_USAGE : AGL_EXIT_OK;
    }
    while (kind < AGL_COUNT(DIRECT) && strcmp(name, kind_of(&DIRECT[kind].command)) != 0) kind++;
    if (kind < AGL_COUNT(DIRECT)) {
        code = run_direct(console, kind, argc - 1, argv + 1, &status, &err);
    } else if (strcmp(name, "platform") == 0) {
        code = run_platform(console, argc - 1, argv + 1, &status, &err);
    } else if (strcmp(name, "report") == 0) {
        status = agl_command_bench_report(argc - 1, argv + 1, &err);
    } else if (strcmp(name, "serve") == 0) {
        status = run_serve(&exit_status, argc - 1, argv + 1, &err);
    } else {
        status = agl_fail(&err, AGL_ERR_ARGUMENT,
                          "unknown kind \"%s\"; serve, latency, throughput, startup, kernels, platform "
                          "or report expected", name);
    }
    if (code >= 0) return code;
    if (status == AGL_OK) return exit_status;
    fprintf(stderr, "autoglm bench %s: %s\n", name, err.message);
    return status == AGL_ERR_ARGUMENT ? AGL_EXIT_USAGE : AGL_EXIT_FAILED;
}
