/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/options.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"

static const char DEMONSTRATION[] = "autoglm-phone-demo";
static const char DEFAULT_NAME[] = "autoglm-phone-9b";

/* Images of one request, with room to spare: a window of 131,072 tokens holds fewer. */
enum { IMAGES_MAX = 1000, MAX_PIXELS_LEAST = 784 };

void agl_cli_options_init(agl_cli_options *options)
{
    *options = (agl_cli_options){ 0 };
    options->log_level = "info";
    options->log_format = "text";
    options->shutdown_timeout_s = 30;
    options->server.port = 8000;
    options->pipeline_parallel_size = options->data_parallel_size = 1;
    options->measure.warmups = 1;
}

void agl_cli_options_deinit(agl_cli_options *options)
{
    agl_flag_table table = agl_cli_flag_table();
    agl_flags_deinit(&options->parsed, options, &table);
    for (size_t i = 0; i < AGL_COUNT(options->kept_lists); i++) {
        json_object_put(options->kept_lists[i]);
        free(options->kept_items[i].items);
    }
    *options = (agl_cli_options){ 0 };
}

void agl_cli_options_help(FILE *out, unsigned command, bool colour)
{
    agl_flag_table table = agl_cli_flag_table();
    agl_flags_help(out, &table, command, colour);
}

/* ---- where the demonstration model lies ------------------------------ */

/* base/below/name into path; false if it is too long or not there. */
static bool try_place(char *path, size_t path_bytes, const char *base, const char *below, const char *name)
{
    int used = snprintf(path, path_bytes, "%s%s/%s", base, below, name);
    return used > 0 && (size_t)used < path_bytes && access(path, R_OK) == 0;
}

agl_status agl_cli_find_shipped(char *path, size_t path_bytes, const char *kind, const char *name, agl_error *err)
{
    char program[PATH_MAX], below[3][64];
    const char *models = getenv("AUTOGLM_MODELS"), *folder = ".";
    ssize_t bytes = readlink("/proc/self/exe", program, sizeof program - 1);
    if (bytes > 0) {
        program[bytes] = '\0';
        folder = dirname(program);
    }
    snprintf(below[0], sizeof below[0], "/%.40s", kind);
    snprintf(below[1], sizeof below[1], "/../%.40s", kind);
    snprintf(below[2], sizeof below[2], "/../share/autoglm/%.40s", kind);
    bool is_model = strcmp(kind, "models") == 0 && models != NULL && *models != '\0';
    if (is_model && try_place(path, path_bytes, models, "", name)) return AGL_OK;
    if (try_place(path, path_bytes, ".", below[0], name)) return AGL_OK;
    if (try_place(path, path_bytes, folder, below[1], name)) return AGL_OK;
    if (try_place(path, path_bytes, folder, below[2], name)) return AGL_OK;
    return agl_fail(err, AGL_ERR_NOT_FOUND, "%.200s is not in %s./%.40s, %.200s%s or %.200s%s", name,
                    strcmp(kind, "models") == 0 ? "$AUTOGLM_MODELS, " : "", kind, folder, below[1], folder, below[2]);
}

agl_status agl_cli_find_demonstration(char *path, size_t path_bytes, agl_error *err)
{
    agl_error reason = {0};
    char file[64];
    snprintf(file, sizeof file, "%s/config.json", DEMONSTRATION);
    if (agl_cli_find_shipped(path, path_bytes, "models", file, &reason) != AGL_OK) {
        return agl_fail(err, AGL_ERR_NOT_FOUND, "no --model given, and the demonstration model %.900s", reason.message);
    }
    *strrchr(path, '/') = '\0';
    return AGL_OK;
}

/* ---- what flags mean together ----------------------------------------- */

static agl_status settle_model(agl_cli_options *options, unsigned command, agl_error *err)
{
    agl_flag_list *words = &options->parsed.words;
    bool takes_word = command == AGL_CLI_SERVE || command == AGL_CLI_INSPECT;
    if (takes_word && words->count > 1)
        return agl_fail(err, AGL_ERR_ARGUMENT, "unexpected \"%s\" after the model \"%s\"", words->items[1],
                        words->items[0]);
    if (takes_word && words->count == 1) {
        if (options->engine.model != NULL && strcmp(options->engine.model, words->items[0]) != 0)
            return agl_fail(err, AGL_ERR_ARGUMENT, "two models: \"%s\" and --model \"%s\"", words->items[0],
                            options->engine.model);
        options->engine.model = words->items[0];
    }
    if (options->engine.model != NULL && options->engine.model[0] == '\0')
        return agl_fail(err, AGL_ERR_ARGUMENT, "--model is empty; it takes a checkpoint folder or a hub id");
    options->default_name = options->engine.model != NULL ? options->engine.model : DEFAULT_NAME;
    if (options->engine.model != NULL) return AGL_OK;
    AGL_TRY(agl_cli_find_demonstration(options->model_path, sizeof options->model_path, err));
    options->engine.model = options->model_path;
    options->demonstration = true;
    return AGL_OK;
}

/* "max_pixels" caps the real pixels; "size.longest_edge" counts them twice, once for each of the two
 * frames that a still image is repeated to. */
static agl_status settle_pixels(agl_cli_options *options, struct json_object *from, const char *name, agl_error *err)
{
    int64_t pixels = 0;
    json_object_object_foreach(from, key, value)
    {
        if (strcmp(key, "max_pixels") == 0) {
            AGL_TRY(agl_json_get_int(&pixels, from, key, MAX_PIXELS_LEAST, INT64_C(1) << 40, false, name, err));
        } else if (strcmp(key, "size") == 0 && json_object_is_type(value, json_type_object)) {
            int64_t edge = 0;
            AGL_TRY(agl_json_get_int(&edge, value, "longest_edge", 2 * MAX_PIXELS_LEAST, INT64_C(1) << 41, false, name,
                                     err));
            if (edge != 0 && pixels == 0) pixels = edge / 2;
        } else {
            agl_log_warning("%s: \"%s\" has no effect here", name, key);
        }
    }
    if (pixels != 0 && options->engine.max_pixels == 0) options->engine.max_pixels = (uint64_t)pixels;
    return AGL_OK;
}

static agl_status settle_images(agl_cli_options *options, agl_error *err)
{
    if (options->mm_processor_kwargs != NULL)
        AGL_TRY(settle_pixels(options, options->mm_processor_kwargs, "--mm-processor-kwargs", err));
    struct json_object *image = agl_json_member(options->mm_process_config, "image");
    if (image != NULL && !json_object_is_type(image, json_type_object))
        return agl_fail(err, AGL_ERR_ARGUMENT, "--mm-process-config: \"image\" is not an object");
    if (image != NULL) AGL_TRY(settle_pixels(options, image, "--mm-process-config: image", err));

    /* A count, or an object around it as vLLM has it since 0.11: {"image": {"count": 10, "width": …}}. */
    struct json_object *holder = options->limit_mm;
    const char *key = "image";
    struct json_object *limit = agl_json_member(holder, key);
    if (json_object_is_type(limit, json_type_object)) {
        holder = limit;
        key = "count";
    }
    int64_t count = 0;
    if (holder != NULL)
        AGL_TRY(agl_json_get_int(&count, holder, key, 1, IMAGES_MAX, false, "--limit-mm-per-prompt", err));
    options->engine.max_images = options->server.media_count_max = (uint32_t)count;
    return AGL_OK;
}

static agl_string_list string_list(const agl_flag_list *list)
{
    return (agl_string_list){ list->items, list->count };
}

/* `--allowed-origins '["a","b"]'` and `--allowed-origins a b` are the same. */
static agl_status settle_list(agl_string_list *out, agl_cli_options *options, size_t slot, const agl_flag_list *given,
                              const char *name, agl_error *err)
{
    *out = string_list(given);
    if (given->count != 1 || given->items[0][0] != '[') return AGL_OK;
    struct json_object **list = &options->kept_lists[slot];
    AGL_TRY(agl_json_parse(list, given->items[0], strlen(given->items[0]), name, err));
    size_t count = json_object_array_length(*list);
    agl_flag_list *items = &options->kept_items[slot];
    items->items = calloc(count + 1, sizeof *items->items);
    if (items->items == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the command line");
    for (size_t i = 0; i < count; i++) {
        struct json_object *item = json_object_array_get_idx(*list, i);
        if (!json_object_is_type(item, json_type_string))
            return agl_fail(err, AGL_ERR_ARGUMENT, "%s: element %zu is not a text", name, i);
        items->items[items->count++] = json_object_get_string(item);
    }
    *out = string_list(items);
    return AGL_OK;
}

/* Keys of the flag, else of the environment; empty ones do not count. */
static agl_status settle_keys(agl_cli_options *options, agl_error *err)
{
    static const char *const VARIABLES[] = { "AUTOGLM_API_KEY", "VLLM_API_KEY" };
    size_t count = 0;
    for (size_t i = 0; i < options->api_keys.count; i++) {
        if (options->api_keys.items[i][0] == '\0') continue;
        if (count == AGL_CLI_API_KEYS_MAX)
            return agl_fail(err, AGL_ERR_LIMIT, "--api-key: more than %d keys", AGL_CLI_API_KEYS_MAX);
        options->kept_keys[count++] = options->api_keys.items[i];
    }
    for (size_t i = 0; i < AGL_COUNT(VARIABLES) && options->api_keys.count == 0; i++) {
        const char *key = getenv(VARIABLES[i]);
        if (key != NULL && *key != '\0') options->kept_keys[count++] = key;
    }
    options->server.api_keys = (agl_string_list){ options->kept_keys, count };
    return AGL_OK;
}

static uint32_t milliseconds(double seconds)
{
    return (uint32_t)(seconds * 1e3 + 0.5);
}

static agl_status settle_server(agl_cli_options *options, agl_error *err)
{
    agl_server_options *server = &options->server;
    if (server->port == 0) server->port = -1;
    if ((server->ssl_certfile == NULL) != (server->ssl_keyfile == NULL))
        return agl_fail(err, AGL_ERR_ARGUMENT, "--ssl-certfile and --ssl-keyfile go together; --%s is missing",
                        server->ssl_certfile == NULL ? "ssl-certfile" : "ssl-keyfile");
    if (options->ssl_cert_reqs == 2 && server->ssl_ca_certs == NULL)
        return agl_fail(err, AGL_ERR_ARGUMENT, "--ssl-cert-reqs 2 needs --ssl-ca-certs: who signs the clients");
    server->ssl_require_client_cert = options->ssl_cert_reqs == 2;
    server->request_timeout_ms = milliseconds(options->request_timeout_s);
    server->media_timeout_ms = milliseconds(options->media_timeout_s);
    server->receive_timeout_ms = milliseconds(options->receive_timeout_s);
    server->idle_timeout_ms = milliseconds(options->idle_timeout_s);
    server->split_reasoning = options->reasoning_parser != NULL && options->reasoning_parser[0] != '\0';
    if (options->chat_template_kwargs != NULL)
        server->default_chat_template_kwargs =
            json_object_to_json_string_ext(options->chat_template_kwargs, JSON_C_TO_STRING_PLAIN);
    server->model_names = options->served_names.count != 0 ? string_list(&options->served_names)
                                                           : (agl_string_list){ &options->default_name, 1 };
    server->allowed_media_domains = string_list(&options->media_domains);
    AGL_TRY(settle_list(&server->allowed_origins, options, 0, &options->allowed_origins, "--allowed-origins", err));
    AGL_TRY(settle_list(&server->allowed_methods, options, 1, &options->allowed_methods, "--allowed-methods", err));
    AGL_TRY(settle_list(&server->allowed_headers, options, 2, &options->allowed_headers, "--allowed-headers", err));
    return settle_keys(options, err);
}

static agl_status check_parallel(const agl_cli_options *options, agl_error *err)
{
    uint32_t ranks = options->engine.tensor_parallel_size;
    if (ranks > 1)
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "tensor parallel size %u: this build runs on one device: use --tensor-parallel-size 1",
                        ranks);
    if (options->pipeline_parallel_size > 1)
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "pipeline parallel size %u is not built in: use 1",
                        options->pipeline_parallel_size);
    if (options->data_parallel_size > 1)
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "data parallel size %u is not built in: use 1, or one server for each replica",
                        options->data_parallel_size);
    return AGL_OK;
}

static agl_status settle_engine(agl_cli_options *options, agl_error *err)
{
    agl_engine_options *engine = &options->engine;
    AGL_TRY(check_parallel(options, err));
    AGL_TRY(settle_images(options, err));
    if (engine->dtype != NULL && strcmp(engine->dtype, "float") == 0) engine->dtype = "float32";
    if (options->content_format != NULL && strcmp(options->content_format, "openai") == 0)
        engine->content_format = AGL_CONTENT_OPENAI;
    options->server.content_format = engine->content_format;
    engine->priority_scheduling = options->scheduling_policy != NULL && options->scheduling_policy[0] == 'p';
    if (options->override_generation_config != NULL)
        engine->override_generation_config =
            json_object_to_json_string_ext(options->override_generation_config, JSON_C_TO_STRING_PLAIN);
    return AGL_OK;
}

agl_status agl_cli_options_parse(agl_cli_options *options, unsigned command, int argc, char **argv, agl_error *err)
{
    agl_flag_table table = agl_cli_flag_table();
    AGL_TRY(agl_flags_parse(&options->parsed, options, &table, command, argc, argv, err));
    if (options->parsed.help) return AGL_OK;
    if (command == AGL_CLI_SERVE) AGL_TRY(settle_server(options, err));
    if (command != AGL_CLI_INSPECT) AGL_TRY(settle_engine(options, err));
    return settle_model(options, command, err);
}
