/* SPDX-License-Identifier: Apache-2.0
 *
 * Command lines as people type and paste them, and the ones that must be refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "cli/launcher.h"
#include "cli/options.h"

enum { ARGS_MAX = 64, LINE_MAX_BYTES = 4096 };

typedef struct {
    char line[LINE_MAX_BYTES];
    char *argv[ARGS_MAX];
    int argc;
    agl_cli_options options;
    agl_error err;
} command_line;

/* Split at `|`, so that values may hold spaces and quotes. */
static void split(command_line *given, const char *text)
{
    memset(given, 0, sizeof *given);
    agl_cli_options_init(&given->options);
    assert_true(strlen(text) < sizeof given->line);
    strcpy(given->line, text);
    for (char *at = given->line; at != NULL && given->line[0] != '\0';) {
        assert_true(given->argc < ARGS_MAX);
        given->argv[given->argc++] = at;
        at = strchr(at, '|');
        if (at != NULL) *at++ = '\0';
    }
}

static agl_status parse(command_line *given, unsigned command, const char *text)
{
    split(given, text);
    return agl_cli_options_parse(&given->options, command, given->argc, given->argv, &given->err);
}

static bool is_idle(const command_line *given, const char *name)
{
    for (size_t i = 0; i < given->options.parsed.idle_count; i++)
        if (strcmp(given->options.parsed.idle[i]->name, name) == 0) return true;
    return false;
}

/* ---- values that arrive ---------------------------------------------- */

typedef enum { U32, I32, U64, REAL, FLOAT, SWITCH, TEXT, LIST } shape;

#define AT(field) offsetof(agl_cli_options, field)

typedef struct {
    unsigned command;
    const char *line;
    size_t offset;
    shape shape;
    double number;
    const char *text; /* of TEXT, and of the items of LIST joined by ',' */
} value_case;

static const value_case VALUES[] = {
    { AGL_CLI_SERVE, "M|--port|8123", AT(server.port), I32, 8123, NULL },
    { AGL_CLI_SERVE, "M|--port=8123", AT(server.port), I32, 8123, NULL },
    { AGL_CLI_SERVE, "M|-p|81", AT(server.port), I32, 81, NULL },
    { AGL_CLI_SERVE, "M|-p81", AT(server.port), I32, 81, NULL },
    { AGL_CLI_SERVE, "M", AT(server.port), I32, 8000, NULL },
    { AGL_CLI_SERVE, "M|--port|0", AT(server.port), I32, -1, NULL },
    { AGL_CLI_SERVE, "M|--port|1|--port|2", AT(server.port), I32, 2, NULL },
    { AGL_CLI_SERVE, "M", AT(engine.model), TEXT, 0, "M" },
    { AGL_CLI_SERVE, "--model|M", AT(engine.model), TEXT, 0, "M" },
    { AGL_CLI_SERVE, "--model-path|M", AT(engine.model), TEXT, 0, "M" },
    { AGL_CLI_SERVE, "M|--model|M", AT(engine.model), TEXT, 0, "M" },
    { AGL_CLI_SERVE, "--port|1|--|--M", AT(engine.model), TEXT, 0, "--M" },
    { AGL_CLI_SERVE, "M|--max-model-len|25480", AT(engine.max_model_len), U32, 25480, NULL },
    { AGL_CLI_SERVE, "M|--max_model_len|25480", AT(engine.max_model_len), U32, 25480, NULL },
    { AGL_CLI_SERVE, "M|--max_model-len=25480", AT(engine.max_model_len), U32, 25480, NULL },
    { AGL_CLI_SERVE, "M|--context-length|25480", AT(engine.max_model_len), U32, 25480, NULL },
    { AGL_CLI_SERVE, "M|--max-model-len|1k", AT(engine.max_model_len), U32, 1000, NULL },
    { AGL_CLI_SERVE, "M|--max-model-len|1K", AT(engine.max_model_len), U32, 1024, NULL },
    { AGL_CLI_SERVE, "M|--max-model-len|25.6k", AT(engine.max_model_len), U32, 25600, NULL },
    { AGL_CLI_SERVE, "M|--max-model-len|1m", AT(engine.max_model_len), U32, 1000000, NULL },
    { AGL_CLI_SERVE, "M|--max-model-len|1M", AT(engine.max_model_len), U32, 1048576, NULL },
    { AGL_CLI_SERVE, "M|--max-model-len|auto", AT(engine.max_model_len), U32, 0, NULL },
    { AGL_CLI_SERVE, "M|--max-model-len|-1", AT(engine.max_model_len), U32, 0, NULL },
    { AGL_CLI_SERVE, "M|--kv-cache-memory-bytes|2G", AT(engine.kv_cache_bytes), U64, 2147483648.0, NULL },
    { AGL_CLI_SERVE, "M|--kv-cache-memory-bytes|1.5g", AT(engine.kv_cache_bytes), U64, 1.5e9, NULL },
    { AGL_CLI_SERVE, "M|--gpu-memory-utilization|.85", AT(engine.memory_utilization), REAL, 0.85, NULL },
    { AGL_CLI_SERVE, "M|--mem-fraction-static=0.8", AT(engine.memory_utilization), REAL, 0.8, NULL },
    { AGL_CLI_SERVE, "M|--dtype|half", AT(engine.dtype), TEXT, 0, "half" },
    { AGL_CLI_SERVE, "M|--dtype|float", AT(engine.dtype), TEXT, 0, "float32" },
    { AGL_CLI_SERVE, "M|--load-format=dummy", AT(engine.load_format), TEXT, 0, "dummy" },
    { AGL_CLI_SERVE, "M|-q|awq", AT(engine.quantization), TEXT, 0, "awq" },
    { AGL_CLI_SERVE, "M|-tp|1", AT(engine.tensor_parallel_size), U32, 1, NULL },
    { AGL_CLI_SERVE, "M|--tp|1", AT(engine.tensor_parallel_size), U32, 1, NULL },
    { AGL_CLI_SERVE, "M|--enable-prefix-caching", AT(engine.disable_prefix_cache), SWITCH, 0, NULL },
    { AGL_CLI_SERVE, "M|--no-enable-prefix-caching", AT(engine.disable_prefix_cache), SWITCH, 1, NULL },
    { AGL_CLI_SERVE, "M|--no_enable_prefix_caching", AT(engine.disable_prefix_cache), SWITCH, 1, NULL },
    { AGL_CLI_SERVE, "M|--enable-prefix-caching=false", AT(engine.disable_prefix_cache), SWITCH, 1, NULL },
    { AGL_CLI_SERVE, "M|--disable-radix-cache", AT(engine.disable_prefix_cache), SWITCH, 1, NULL },
    { AGL_CLI_SERVE, "M|--no-disable-radix-cache", AT(engine.disable_prefix_cache), SWITCH, 0, NULL },
    { AGL_CLI_SERVE, "M|--no-enable-chunked-prefill", AT(engine.disable_chunked_prefill), SWITCH, 1, NULL },
    { AGL_CLI_SERVE, "M|--enforce-eager", AT(engine.enforce_eager), SWITCH, 1, NULL },
    { AGL_CLI_SERVE, "M|--enforce-eager|--no-enforce-eager", AT(engine.enforce_eager), SWITCH, 0, NULL },
    { AGL_CLI_SERVE, "M|--no-special-in-user", AT(engine.no_special_in_user), SWITCH, 1, NULL },
    { AGL_CLI_SERVE, "M|--chat-template-content-format|openai", AT(engine.content_format), U32, AGL_CONTENT_OPENAI, NULL },
    { AGL_CLI_SERVE, "M|--chat-template-content-format|auto", AT(engine.content_format), U32, AGL_CONTENT_STRING, NULL },
    { AGL_CLI_SERVE, "M|--scheduling-policy|priority", AT(engine.priority_scheduling), SWITCH, 1, NULL },
    { AGL_CLI_SERVE, "M|--limit-mm-per-prompt|{\"image\":10}", AT(engine.max_images), U32, 10, NULL },
    { AGL_CLI_SERVE, "M|--limit-mm-per-prompt|image=3,video=0", AT(engine.max_images), U32, 3, NULL },
    { AGL_CLI_SERVE, "M|--limit-mm-per-prompt|{\"image\":{\"count\":4,\"width\":9}}", AT(engine.max_images), U32, 4, NULL },
    { AGL_CLI_SERVE, "M|--limit-mm-per-prompt.image|5", AT(server.media_count_max), U32, 5, NULL },
    { AGL_CLI_SERVE, "M|--mm-processor-kwargs|{\"max_pixels\":5000000}", AT(engine.max_pixels), U64, 5e6, NULL },
    { AGL_CLI_SERVE, "M|--mm_processor_kwargs={\"max_pixels\":5000000}", AT(engine.max_pixels), U64, 5e6, NULL },
    { AGL_CLI_SERVE, "M|--mm-processor-kwargs.max_pixels|5000000", AT(engine.max_pixels), U64, 5e6, NULL },
    { AGL_CLI_SERVE, "M|--mm_processor_kwargs.max_pixels=5000000", AT(engine.max_pixels), U64, 5e6, NULL },
    { AGL_CLI_SERVE, "M|--mm-processor-kwargs.size.longest_edge|10000000", AT(engine.max_pixels), U64, 5e6, NULL },
    { AGL_CLI_SERVE, "M|--mm-process-config|{\"image\":{\"max_pixels\":5000000}}", AT(engine.max_pixels), U64, 5e6, NULL },
    { AGL_CLI_SERVE, "M|--max-pixels|2m", AT(engine.max_pixels), U64, 2e6, NULL },
    { AGL_CLI_SERVE, "M|--served-model-name|a|b|c|--port|1", AT(served_names), LIST, 0, "a,b,c" },
    { AGL_CLI_SERVE, "M|--served-model-name|a|--served-model-name|b", AT(served_names), LIST, 0, "a,b" },
    { AGL_CLI_SERVE, "--served-model-name|a|--model|M", AT(server.model_names), LIST, 0, "a" },
    { AGL_CLI_SERVE, "org/M", AT(server.model_names), LIST, 0, "org/M" },
    { AGL_CLI_SERVE, "M|--api-key|k1|k2", AT(server.api_keys), LIST, 0, "k1,k2" },
    { AGL_CLI_SERVE, "M|--api-key|", AT(server.api_keys), LIST, 0, "" },
    { AGL_CLI_SERVE, "M|--allowed-origins|[\"http://a\",\"http://b\"]", AT(server.allowed_origins), LIST, 0, "http://a,http://b" },
    { AGL_CLI_SERVE, "M|--allowed-origins|http://a", AT(server.allowed_origins), LIST, 0, "http://a" },
    { AGL_CLI_SERVE, "M|--allowed-media-domains|a.example|b.example", AT(server.allowed_media_domains), LIST, 0, "a.example,b.example" },
    { AGL_CLI_SERVE, "M|--disable-log-requests", AT(server.log_requests), SWITCH, 0, NULL },
    { AGL_CLI_SERVE, "M|--enable-log-requests", AT(server.log_requests), SWITCH, 1, NULL },
    { AGL_CLI_SERVE, "M|--no-enable-log-requests", AT(server.log_requests), SWITCH, 0, NULL },
    { AGL_CLI_SERVE, "M|--disable-uvicorn-access-log", AT(server.disable_access_log), SWITCH, 1, NULL },
    { AGL_CLI_SERVE, "M|--uvicorn-log-level|warning", AT(log_level), TEXT, 0, "warning" },
    { AGL_CLI_SERVE, "M|--reasoning-parser|glm45", AT(server.split_reasoning), SWITCH, 1, NULL },
    { AGL_CLI_SERVE, "M|--reasoning-parser|", AT(server.split_reasoning), SWITCH, 0, NULL },
    { AGL_CLI_SERVE, "M", AT(shutdown_timeout_s), REAL, 30, NULL },
    { AGL_CLI_SERVE, "M|--shutdown-timeout|0", AT(shutdown_timeout_s), REAL, 0, NULL },
    { AGL_CLI_SERVE, "M|--timeout-keep-alive|2", AT(server.idle_timeout_ms), U32, 2000, NULL },
    { AGL_CLI_SERVE, "M|--receive-timeout|0.5", AT(server.receive_timeout_ms), U32, 500, NULL },
    { AGL_CLI_SERVE, "M|--request-timeout|1.5", AT(server.request_timeout_ms), U32, 1500, NULL },
    { AGL_CLI_SERVE, "M|--default-chat-template-kwargs.enable_thinking|false", AT(server.default_chat_template_kwargs), TEXT, 0, "{\"enable_thinking\":false}" },
    { AGL_CLI_SERVE, "M|--override-generation-config|{\"temperature\":0.5}|--override-generation-config.top_p|1", AT(engine.override_generation_config), TEXT, 0, "{\"temperature\":0.5,\"top_p\":1}" },
    { AGL_CLI_SERVE, "M|--override-generation-config.a+|1|--override-generation-config.a+|x", AT(engine.override_generation_config), TEXT, 0, "{\"a\":[1,\"x\"]}" },
    { AGL_CLI_ASK, "--model|M|--image|a.png|what|is|this", AT(images), LIST, 0, "a.png" },
    { AGL_CLI_ASK, "--model|M|-i|a.png|-i|b.png|q", AT(images), LIST, 0, "a.png,b.png" },
    { AGL_CLI_ASK, "--model|M|q|--temperature|0", AT(sampling.temperature), FLOAT, 0, NULL },
    { AGL_CLI_ASK, "--model|M|q|--frequency-penalty|-0.5", AT(sampling.frequency_penalty), FLOAT, -0.5, NULL },
    { AGL_CLI_ASK, "--model|M|q|--top-k|-1", AT(sampling.top_k), I32, 0, NULL },
    { AGL_CLI_ASK, "--model|M|q|-n|7", AT(sampling.max_tokens), U32, 7, NULL },
    { AGL_CLI_ASK, "--model|M|q|--stop|a|--stop|b", AT(stop), LIST, 0, "a,b" },
    { AGL_CLI_ASK, "--model|M|q|--json", AT(json), SWITCH, 1, NULL },
    { AGL_CLI_INSPECT, "M|--json", AT(engine.model), TEXT, 0, "M" },
};

static void join(char *out, size_t out_bytes, const agl_flag_list *list)
{
    out[0] = '\0';
    for (size_t i = 0; i < list->count; i++) {
        size_t used = strlen(out);
        snprintf(out + used, out_bytes - used, "%s%s", i != 0 ? "," : "", list->items[i]);
    }
}

static void check_value(const value_case *expected, const command_line *given)
{
    const void *at = (const char *)&given->options + expected->offset;
    char joined[256];
    agl_flag_list list;
    switch (expected->shape) {
    case U32: assert_int_equal(*(const uint32_t *)at, expected->number); break;
    case I32: assert_int_equal(*(const int32_t *)at, expected->number); break;
    case U64: assert_int_equal(*(const uint64_t *)at, expected->number); break;
    case REAL: assert_float_equal(*(const double *)at, expected->number, 1e-12); break;
    case FLOAT: assert_float_equal(*(const float *)at, expected->number, 1e-6); break;
    case SWITCH: assert_int_equal(*(const bool *)at, expected->number); break;
    case TEXT: assert_string_equal(*(const char *const *)at, expected->text); break;
    case LIST: /* agl_string_list has the same two members */
        memcpy(&list, at, sizeof list);
        join(joined, sizeof joined, &list);
        assert_string_equal(joined, expected->text);
        break;
    }
}

static void test_values_arrive(void **state)
{
    (void)state;
    static command_line given;
    for (size_t i = 0; i < AGL_COUNT(VALUES); i++) {
        agl_status status = parse(&given, VALUES[i].command, VALUES[i].line);
        if (status != AGL_OK) fail_msg("%s: %s", VALUES[i].line, given.err.message);
        check_value(&VALUES[i], &given);
        agl_cli_options_deinit(&given.options);
    }
}

/* ---- lines that are refused ------------------------------------------- */

static const struct {
    unsigned command;
    const char *line, *message;
} REFUSED[] = {
    { AGL_CLI_SERVE, "M|--max-modle-len|1", "unknown flag --max-modle-len; did you mean --max-model-len?" },
    { AGL_CLI_SERVE, "M|--max_model_lem=1", "did you mean --max-model-len?" },
    { AGL_CLI_SERVE, "M|--gpu-memory|1", "did you mean --gpu-memory-utilization?" },
    { AGL_CLI_SERVE, "M|--prot|1", "did you mean --port?" },
    { AGL_CLI_SERVE, "M|--zzzzzzzzzz", "unknown flag --zzzzzzzzzz; --help lists the flags" },
    { AGL_CLI_SERVE, "M|--no-such-thing", "unknown flag --no-such-thing" },
    { AGL_CLI_SERVE, "M|-z", "unknown flag -z" },
    { AGL_CLI_SERVE, "M|--image|a.png", "unknown flag --image" },
    { AGL_CLI_ASK, "--model|M|q|--port|1", "unknown flag --port" },
    { AGL_CLI_SERVE, "M|--port", "--port needs a value: PORT" },
    { AGL_CLI_SERVE, "M|--port|--host|x", "--port needs a value" },
    { AGL_CLI_SERVE, "M|--port|abc", "--port: \"abc\" is not a whole number from 0 to 65535" },
    { AGL_CLI_SERVE, "M|--port|65536", "--port: \"65536\" is not a whole number from 0 to 65535" },
    { AGL_CLI_SERVE, "M|--port|-5", "--port: \"-5\" is not" },
    { AGL_CLI_SERVE, "M|--port|80.5", "--port: \"80.5\" is not" },
    { AGL_CLI_SERVE, "M|--port|0x50", "--port: \"0x50\" is not" },
    { AGL_CLI_SERVE, "M|--port=", "--port: \"\" is not" },
    { AGL_CLI_SERVE, "M|--max-model-len|0", "--max-model-len: \"0\" is not a whole number from 1 to 4294967295, or auto" },
    { AGL_CLI_SERVE, "M|--max-model-len|1.5K", "--max-model-len: \"1.5K\" is not" },
    { AGL_CLI_SERVE, "M|--max-model-len|1kk", "--max-model-len: \"1kk\" is not" },
    { AGL_CLI_SERVE, "M|--max-model-len|99999999999", "--max-model-len: \"99999999999\" is not" },
    { AGL_CLI_SERVE, "M|--max-model-len|nan", "--max-model-len: \"nan\" is not" },
    { AGL_CLI_SERVE, "M|--kv-cache-memory-bytes|1e400", "is not a whole number of at least 1" },
    { AGL_CLI_SERVE, "M|--gpu-memory-utilization|1.5", "is not a number from 0.01 to 1" },
    { AGL_CLI_SERVE, "M|--gpu-memory-utilization|inf", "is not a number from 0.01 to 1" },
    { AGL_CLI_SERVE, "M|--dtype|int3", "--dtype: \"int3\" is not one of: auto half float16 bfloat16" },
    { AGL_CLI_SERVE, "M|--load-format|pickle", "--load-format: \"pickle\" is not one of" },
    { AGL_CLI_SERVE, "M|--kv-cache-dtype|fp8", "--kv-cache-dtype: \"fp8\" is not one of" },
    { AGL_CLI_SERVE, "M|--enforce-eager=perhaps", "--enforce-eager: \"perhaps\" is neither true nor false" },
    { AGL_CLI_SERVE, "M|--port.x|1", "--port takes no sub-keys, but got \".x\"" },
    { AGL_CLI_SERVE, "M|--mm-processor-kwargs|{bad", "--mm-processor-kwargs" },
    { AGL_CLI_SERVE, "M|--mm-processor-kwargs|[1]", "--mm-processor-kwargs: \"[1]\" is not a JSON object such as" },
    { AGL_CLI_SERVE, "M|--mm-processor-kwargs|7", "is not a JSON object such as" },
    { AGL_CLI_SERVE, "M|--mm-processor-kwargs|{\"max_pixels\":\"big\"}", "max_pixels" },
    { AGL_CLI_SERVE, "M|--mm-processor-kwargs|{\"max_pixels\":-1}", "max_pixels" },
    { AGL_CLI_SERVE, "M|--mm-processor-kwargs.|1", "is not a key" },
    { AGL_CLI_SERVE, "M|--mm-processor-kwargs..|1", "is not a key" },
    { AGL_CLI_SERVE, "M|--mm-process-config|{\"image\":3}", "--mm-process-config: \"image\" is not an object" },
    { AGL_CLI_SERVE, "M|--limit-mm-per-prompt|{\"image\":-1}", "--limit-mm-per-prompt" },
    { AGL_CLI_SERVE, "M|--limit-mm-per-prompt|{\"image\":100000}", "--limit-mm-per-prompt" },
    { AGL_CLI_SERVE, "M|--tensor-parallel-size|2", "tensor parallel size 2: this build runs on one device: use" },
    { AGL_CLI_SERVE, "M|-tp=4", "tensor parallel size 4: this build runs on one device" },
    { AGL_CLI_SERVE, "M|--pipeline-parallel-size|2", "pipeline parallel size 2 is not built in" },
    { AGL_CLI_SERVE, "M|-dp|2", "data parallel size 2 is not built in" },
    { AGL_CLI_SERVE, "M|--ssl-certfile|c.pem", "--ssl-keyfile is missing" },
    { AGL_CLI_SERVE, "M|--ssl-keyfile|c.pem", "--ssl-certfile is missing" },
    { AGL_CLI_SERVE, "M|--ssl-cert-reqs|2", "--ssl-cert-reqs 2 needs --ssl-ca-certs" },
    { AGL_CLI_SERVE, "M|--allowed-origins|[1]", "--allowed-origins: element 0 is not a text" },
    { AGL_CLI_SERVE, "M|--allowed-origins|[", "--allowed-origins" },
    { AGL_CLI_SERVE, "M|N", "unexpected \"N\" after the model \"M\"" },
    { AGL_CLI_SERVE, "M|--model|N", "two models: \"M\" and --model \"N\"" },
    { AGL_CLI_SERVE, "--model|", "--model is empty" },
    { AGL_CLI_ASK, "--model|M|q|--temperature|-1", "--temperature: \"-1\" is not a number from 0 to 100" },
    { AGL_CLI_ASK, "--model|M|q|--top-p|0", "--top-p: \"0\" is not" },
};

static void test_refused(void **state)
{
    (void)state;
    static command_line given;
    for (size_t i = 0; i < AGL_COUNT(REFUSED); i++) {
        agl_status status = parse(&given, REFUSED[i].command, REFUSED[i].line);
        if (status == AGL_OK) fail_msg("%s: was accepted", REFUSED[i].line);
        if (strstr(given.err.message, REFUSED[i].message) == NULL)
            fail_msg("%s: \"%s\" lacks \"%s\"", REFUSED[i].line, given.err.message, REFUSED[i].message);
        assert_null(strchr(given.err.message, '\n'));
        agl_cli_options_deinit(&given.options);
    }
}

/* ---- whole lines, pasted ----------------------------------------------- */

static agl_status parse_pasted(command_line *given, const char *text)
{
    split(given, text);
    int skipped = agl_cli_launcher_words(given->argc, given->argv);
    return agl_cli_options_parse(&given->options, AGL_CLI_SERVE, given->argc - skipped, given->argv + skipped,
                                 &given->err);
}

/* The README of Open-AutoGLM, as it stands. */
static void test_open_autoglm_vllm_line(void **state)
{
    (void)state;
    static command_line given;
    agl_status status = parse_pasted(
        &given, "python3|-m|vllm.entrypoints.openai.api_server|--served-model-name|autoglm-phone-9b|"
                "--allowed-local-media-path|/|--mm-encoder-tp-mode|data|--mm_processor_cache_type|shm|"
                "--mm_processor_kwargs|{\"max_pixels\":5000000}|--max-model-len|25480|"
                "--chat-template-content-format|string|--limit-mm-per-prompt|{\"image\":10}|"
                "--model|zai-org/AutoGLM-Phone-9B|--port|8000");
    assert_string_equal(given.err.message, "");
    assert_int_equal(status, AGL_OK);
    const agl_cli_options *options = &given.options;
    assert_string_equal(options->engine.model, "zai-org/AutoGLM-Phone-9B");
    assert_string_equal(options->server.model_names.items[0], "autoglm-phone-9b");
    assert_string_equal(options->server.allowed_local_media_path, "/");
    assert_int_equal(options->engine.max_pixels, 5000000);
    assert_int_equal(options->engine.max_model_len, 25480);
    assert_int_equal(options->engine.max_images, 10);
    assert_int_equal(options->engine.content_format, AGL_CONTENT_STRING);
    assert_int_equal(options->server.port, 8000);
    assert_int_equal(options->parsed.idle_count, 2);
    assert_true(is_idle(&given, "mm-encoder-tp-mode"));
    assert_true(is_idle(&given, "mm-processor-cache-type"));
    assert_false(options->demonstration);
    agl_cli_options_deinit(&given.options);
}

static void test_open_autoglm_sglang_line(void **state)
{
    (void)state;
    static command_line given;
    agl_status status = parse_pasted(
        &given, "python3|-m|sglang.launch_server|--model-path|zai-org/AutoGLM-Phone-9B|--served-model-name|"
                "autoglm-phone-9b|--context-length|25480|--mm-enable-dp-encoder|--mm-process-config|"
                "{\"image\":{\"max_pixels\":5000000}}|--port|8000");
    assert_string_equal(given.err.message, "");
    assert_int_equal(status, AGL_OK);
    assert_int_equal(given.options.engine.max_model_len, 25480);
    assert_int_equal(given.options.engine.max_pixels, 5000000);
    assert_true(is_idle(&given, "mm-enable-dp-encoder"));
    agl_cli_options_deinit(&given.options);
}

static void test_launchers(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        int words;
    } LINES[] = {
        { "vllm|serve|M", 2 },
        { "python|-m|vllm.entrypoints.openai.api_server|--model|M", 3 },
        { "/usr/bin/python3.12|-m|vllm.entrypoints.api_server|--model|M", 3 },
        { "sglang|serve|--model-path|M", 2 },
        { "python3|script.py", 0 },
        { "python3", 0 },
        { "M|--port|1", 0 },
        { "", 0 },
    };
    static command_line given;
    for (size_t i = 0; i < AGL_COUNT(LINES); i++) {
        split(&given, LINES[i].line);
        assert_int_equal(agl_cli_launcher_words(given.argc, given.argv), LINES[i].words);
    }
}

/* Flags seen in recipes for the family, all at once. */
static void test_community_line(void **state)
{
    (void)state;
    static command_line given;
    agl_status status = parse(
        &given, AGL_CLI_SERVE,
        "zai-org/GLM-4.1V-9B-Thinking|--trust-remote-code|--swap-space|4|--disable-log-requests|"
        "--disable-log-stats|--tool-call-parser|glm45|--enable-auto-tool-choice|-O3|--compilation-config|"
        "{\"level\":3}|--media-io-kwargs|{\"video\":{\"num_frames\":-1}}|--speculative-config.method|ngram|"
        "--enable-prefix-caching|--no-enable-chunked-prefill|--async-scheduling|--mm-processor-cache-gb|0|"
        "--uvicorn-log-level|info|--cuda-graph-sizes|1|2|4|--trust_remote_code|--lora-modules|a=b|c=d|--port|1");
    assert_string_equal(given.err.message, "");
    assert_int_equal(status, AGL_OK);
    assert_true(is_idle(&given, "optimization-level"));
    assert_true(is_idle(&given, "speculative-config"));
    assert_true(is_idle(&given, "lora-modules"));
    assert_int_equal(given.options.parsed.idle_count, 13); /* trust-remote-code counts once */
    assert_int_equal(given.options.parsed.words.count, 1);
    agl_cli_options_deinit(&given.options);
}

/* ---- environment, help, table ------------------------------------------ */

static void test_keys_of_the_environment(void **state)
{
    (void)state;
    static command_line given;
    setenv("VLLM_API_KEY", "from-vllm", 1);
    setenv("AUTOGLM_API_KEY", "from-autoglm", 1);
    assert_int_equal(parse(&given, AGL_CLI_SERVE, "M"), AGL_OK);
    assert_int_equal(given.options.server.api_keys.count, 2);
    assert_string_equal(given.options.server.api_keys.items[0], "from-autoglm");
    assert_string_equal(given.options.server.api_keys.items[1], "from-vllm");
    agl_cli_options_deinit(&given.options);
    assert_int_equal(parse(&given, AGL_CLI_SERVE, "M|--api-key|flag"), AGL_OK);
    assert_int_equal(given.options.server.api_keys.count, 1);
    assert_string_equal(given.options.server.api_keys.items[0], "flag");
    agl_cli_options_deinit(&given.options);
    unsetenv("VLLM_API_KEY");
    unsetenv("AUTOGLM_API_KEY");
}

static void test_demonstration_model(void **state)
{
    (void)state;
    static command_line given;
    char folder[] = "/tmp/agl-demo-XXXXXX", path[64], file[128];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "mkdir %s/autoglm-phone-demo", folder);
    assert_int_equal(system(path), 0);
    snprintf(file, sizeof file, "%s/autoglm-phone-demo/config.json", folder);
    FILE *config = fopen(file, "w");
    assert_non_null(config);
    fclose(config);
    setenv("AUTOGLM_MODELS", folder, 1);
    assert_int_equal(parse(&given, AGL_CLI_SERVE, "--port|1"), AGL_OK);
    assert_true(given.options.demonstration);
    assert_string_equal(given.options.server.model_names.items[0], "autoglm-phone-9b");
    assert_memory_equal(given.options.engine.model, folder, strlen(folder));
    agl_cli_options_deinit(&given.options);
    unsetenv("AUTOGLM_MODELS");
    snprintf(path, sizeof path, "rm -r %s", folder);
    assert_int_equal(system(path), 0);
}

static void test_help_names_every_flag(void **state)
{
    (void)state;
    static command_line given;
    assert_int_equal(parse(&given, AGL_CLI_SERVE, "--help"), AGL_OK);
    assert_true(given.options.parsed.help);
    agl_cli_options_deinit(&given.options);

    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    agl_cli_options_help(out, AGL_CLI_SERVE, false);
    fclose(out);
    agl_flag_table table = agl_cli_flag_table();
    for (size_t i = 0; i < table.count; i++) {
        if (!(table.flags[i].commands & AGL_CLI_SERVE)) continue;
        char name[96];
        snprintf(name, sizeof name, "--%s", table.flags[i].name);
        if (strstr(text, name) == NULL) fail_msg("%s is not in the help", name);
    }
    assert_null(strchr(text, '\033'));
    free(text);
}

/* A name twice in the table would make one of the rows unreachable. */
static void test_table_is_sound(void **state)
{
    (void)state;
    agl_flag_table table = agl_cli_flag_table();
    for (size_t i = 0; i < table.count; i++) {
        const agl_flag *flag = &table.flags[i];
        assert_non_null(flag->help);
        assert_null(strchr(flag->name, '_'));
        if (flag->kind != AGL_FLAG_SWITCH && flag->kind != AGL_FLAG_SWITCH_OFF) assert_non_null(flag->value);
        if (flag->offset != AGL_FLAG_IDLE) assert_non_null(flag->group);
        for (size_t j = i + 1; j < table.count; j++) {
            assert_string_not_equal(flag->name, table.flags[j].name);
            if (flag->aliases != NULL && table.flags[j].aliases != NULL && (flag->commands & table.flags[j].commands))
                assert_string_not_equal(flag->aliases, table.flags[j].aliases);
        }
    }
}

int main(void)
{
    unsetenv("VLLM_API_KEY");
    unsetenv("AUTOGLM_API_KEY");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_arrive),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_open_autoglm_vllm_line),
        cmocka_unit_test(test_open_autoglm_sglang_line),
        cmocka_unit_test(test_launchers),
        cmocka_unit_test(test_community_line),
        cmocka_unit_test(test_keys_of_the_environment),
        cmocka_unit_test(test_demonstration_model),
        cmocka_unit_test(test_help_names_every_flag),
        cmocka_unit_test(test_table_is_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
