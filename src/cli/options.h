/* SPDX-License-Identifier: Apache-2.0
 *
 * options.h - every option of the program: one struct that flags fill, and the
 * rules that turn a command line into options of the engine and the server.
 *
 *     agl_cli_options_init -> agl_cli_options_parse -> use -> agl_cli_options_deinit
 *
 * The engine and server options inside hold views of argv, of the environment
 * and of the struct itself: it must stay where it is while they are used. */
#ifndef AGL_CLI_OPTIONS_H
#define AGL_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/bench.h"
#include "cli/flags.h"
#include "server/server.h"

struct json_object;

enum { AGL_CLI_SERVE = 1, AGL_CLI_ASK = 2, AGL_CLI_CHAT = 4, AGL_CLI_INSPECT = 8, AGL_CLI_MEASURE = 16,
       AGL_CLI_PLATFORM = 32, AGL_CLI_PLAN = 64 };

enum { AGL_CLI_API_KEYS_MAX = 256, AGL_CLI_PATH_MAX = 4096 };

typedef struct {
    agl_engine_options engine;
    agl_server_options server;
    agl_sampling sampling;              /* ask, chat: agl_sampling_init first            */

    /* As given; agl_cli_options_parse moves them into the structs above. */
    agl_flag_list served_names, api_keys, allowed_origins, allowed_methods, allowed_headers, media_domains;
    struct json_object *mm_processor_kwargs, *mm_process_config, *limit_mm, *override_generation_config,
        *chat_template_kwargs;
    const char *content_format, *scheduling_policy, *reasoning_parser;
    uint32_t pipeline_parallel_size, data_parallel_size;
    int32_t ssl_cert_reqs;              /* Python's ssl: 2 asks clients for certificates */
    double request_timeout_s, media_timeout_s, receive_timeout_s, idle_timeout_s;

    /* program */
    const char *log_level;              /* "debug", "info", ...                          */
    const char *log_format;             /* "text" or "json"                              */
    double shutdown_timeout_s;
    bool quiet;
    bool json;                          /* ask, inspect: one JSON object as the result   */
    bool demonstration;                 /* no model was named: the small one is used     */

    /* ask, chat */
    agl_flag_list images;               /* files                                         */
    agl_flag_list stop;
    const char *system;
    bool no_thinking;
    bool raw_prompt;                    /* no chat template                              */

    /* bench latency, throughput, startup; its engine options are those above */
    agl_bench_direct_options measure;

    /* bench platform: also those of `measure` that it shares */
    agl_bench_platform_options platform;
    agl_flag_list formats, batches;

    /* storage behind the views */
    agl_flag_result parsed;
    struct json_object *kept_lists[3];  /* JSON forms of the CORS lists                  */
    agl_flag_list kept_items[3];
    const char *kept_keys[AGL_CLI_API_KEYS_MAX];
    const char *default_name;
    char model_path[AGL_CLI_PATH_MAX];  /* of the demonstration model                    */
} agl_cli_options;

/* Zero values and the defaults that are not zero. */
void agl_cli_options_init(agl_cli_options *options);
void agl_cli_options_deinit(agl_cli_options *options);

/* Read the arguments after the command's name and settle everything that follows from
 * them. options->parsed.help set: nothing else was settled. Flags without effect are in
 * options->parsed.idle, for the caller to warn of once its log is open. */
agl_status agl_cli_options_parse(agl_cli_options *options, unsigned command, int argc, char **argv,
                                 agl_error *err);

void agl_cli_options_help(FILE *out, unsigned command, bool colour);

/* The rows behind it, for tests and documents. */
agl_flag_table agl_cli_flag_table(void);

/* The same places for any file or folder below `kind` ("models", "data"). */
agl_status agl_cli_find_shipped(char *path, size_t path_bytes, const char *kind, const char *name, agl_error *err);

/* Find the demonstration checkpoint: $AUTOGLM_MODELS, ./models, beside the program's
 * source tree or in its share folder. NOT_FOUND names the places. */
agl_status agl_cli_find_demonstration(char *path, size_t path_bytes, agl_error *err);

#endif
