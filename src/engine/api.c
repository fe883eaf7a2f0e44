/* SPDX-License-Identifier: Apache-2.0
 *
 * api.c - agl.h: an engine's life, and what may be asked of it from any thread.
 * Requests are in api_request.c. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/device.h"
#include "engine/engine.h"
#include "engine/generation.h"
#include "model/checkpoint.h"

#define DEFAULT_MAX_QUEUED 1024
#define DEFAULT_MAX_IMAGES 10
#define DEFAULT_MAX_LOGPROBS 20

/* Pending work and no finished step for so long means the loop hangs. Longer than any honest
 * step: a large image on two cores takes minutes. */
#define DEFAULT_STALL_S 600.0

/* Pictures being decoded, of all requests: the largest that is read takes 1.4 GB, a 1080 x 2400 screenshot 21 MB. */
#define DECODE_BYTES_MAX (2ull << 30)

/* ---- create ------------------------------------------------------------ */

static void report(const agl_engine_options *options, const char *phase, double fraction)
{
    if (options->progress != NULL) options->progress(options->progress_user, phase, fraction);
}

static agl_status refuse_unbuilt(const agl_engine_options *options, agl_error *err)
{
    if (options->model == NULL || options->model[0] == '\0') {
        return agl_fail(err, AGL_ERR_ARGUMENT, "no model is given");
    }
    if (options->tensor_parallel_size > 1) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "--tensor-parallel-size %u: this build runs on one device",
                        options->tensor_parallel_size);
    }
    const char *format = options->load_format;
    if (format != NULL && strcmp(format, "auto") != 0 && strcmp(format, "safetensors") != 0 &&
        strcmp(format, "dummy") != 0) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "--load-format %s is not supported: use auto, safetensors or dummy", format);
    }
    return AGL_OK;
}

static agl_status open_checkpoint(agl_engine *engine, const agl_engine_options *options,
                                  agl_error *err)
{
    AGL_TRY(agl_checkpoint_resolve(engine->root, sizeof engine->root, options->model, err));
    AGL_TRY(agl_config_load(&engine->config, engine->root, err));
    const char *method = engine->config.quant_method, *wanted = options->quantization;
    bool given = wanted != NULL && wanted[0] != '\0' && strcmp(wanted, "none") != 0;
    if (given && strcmp(wanted, method) != 0) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "--quantization %s: the checkpoint is %s", wanted,
                        method[0] != '\0' ? method : "not quantised");
    }

    char path[sizeof engine->root + 32];
    const char *source = options->tokenizer != NULL ? options->tokenizer : engine->root;
    struct stat info;
    bool folder = stat(source, &info) != 0 || S_ISDIR(info.st_mode);
    snprintf(path, sizeof path, "%.4095s%s", source, folder ? "/tokenizer.json" : "");
    AGL_TRY(agl_tokenizer_open(&engine->tokenizer, path, err));
    snprintf(path, sizeof path, "%s/tokenizer_config.json", engine->root);
    AGL_TRY(agl_tokenizer_end_token(&engine->info.end_token, engine->tokenizer, path, err));
    AGL_TRY(agl_template_detect(&engine->prompt_rules.family, engine->root, err));
    return agl_generation_defaults(&engine->sampling_context.defaults, &engine->config, options, err);
}

static agl_status create_memory(agl_engine *engine, const agl_engine_options *options,
                                agl_error *err)
{
    const agl_memory_plan *plan = &engine->memory;
    agl_backend *backend = engine->backend;
    AGL_TRY(backend->ops->stream_create(backend, &engine->stream, err));
    report(options, "kv cache", 0.0);
    AGL_TRY(agl_kv_memory_init(&engine->kv, backend, &engine->config.text, plan->kv_dtype,
                               plan->page_count, plan->page_tokens, err));
    AGL_TRY(agl_page_pool_create(&engine->pool, plan->page_count, err));
    engine->pages = (agl_page_context){.pool = engine->pool, .page_tokens = plan->page_tokens,
                                       .copy_capacity = 2 * plan->max_sequences};
    engine->pages.copies = calloc(engine->pages.copy_capacity, sizeof *engine->pages.copies);
    if (engine->pages.copies == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the scheduler");
    if (!options->disable_prefix_cache) {
        AGL_TRY(agl_prefix_cache_create(&engine->pages.prefix, engine->pool, plan->page_tokens, err));
    }
    if (plan->encoder_rows > 0) {
        size_t row_bytes = (size_t)engine->config.text.hidden * agl_dtype_bytes(backend->activation);
        AGL_TRY(agl_encoder_cache_create(&engine->encoder, backend, plan->encoder_rows, row_bytes, err));
    }
    report(options, "kv cache", 1.0);
    return AGL_OK;
}

static agl_status create_step(agl_engine *engine, const agl_engine_options *options, agl_error *err)
{
    const agl_memory_plan *plan = &engine->memory;
    agl_scheduler_options scheduler = {
        .max_rows = plan->max_rows,
        .max_sequences = plan->max_sequences,
        .max_waiting = engine->max_queued,
        .prompt_logit_rows = plan->prompt_logit_rows,
        .whole_prompts = options->disable_chunked_prefill,
    };
    AGL_TRY(agl_scheduler_create(&engine->scheduler, &scheduler, &engine->pages, engine->encoder, err));
    agl_step_options step = {
        .backend = engine->backend,
        .stream = engine->stream,
        .model = engine->model,
        .kv = &engine->kv,
        .encoder = engine->encoder,
        .max_rows = plan->max_rows,
        .max_sequences = plan->max_sequences,
        .max_logit_rows = plan->max_logit_rows,
        .page_tokens = plan->page_tokens,
        .max_model_len = plan->max_model_len,
        .vocab = (uint32_t)engine->config.text.vocab,
        .vocab_used = engine->prompt_rules.vocab,
        .pixel_bytes_max = plan->pixel_bytes_max,
        .eager = options->enforce_eager,
        .progress = options->progress,
        .progress_user = options->progress_user,
    };
    return agl_step_create(&engine->step, &step, err);
}

static agl_status start_thread(agl_engine *engine, agl_error *err)
{
    if (pthread_create(&engine->thread, NULL, agl_engine_loop, engine) != 0) {
        return agl_fail(err, AGL_ERR_INTERNAL, "the engine thread cannot be started");
    }
    engine->thread_started = true;
    return AGL_OK;
}

static void set_rules(agl_engine *engine, const agl_engine_options *options)
{
    const agl_config *config = &engine->config;
    uint32_t vocab = (uint32_t)config->text.vocab;
    uint32_t known = (uint32_t)agl_tokenizer_vocab(engine->tokenizer);
    if (known < vocab) vocab = known;
    size_t longest = 1;
    for (uint32_t i = 0; i < vocab; i++) {
        size_t bytes = 0;
        if (agl_tokenizer_bytes(engine->tokenizer, (int32_t)i, &bytes) != NULL && bytes > longest) {
            longest = bytes;
        }
    }
    agl_prompt_rules *rules = &engine->prompt_rules;
    rules->config = config;
    rules->tokenizer = engine->tokenizer;
    rules->content_format = options->content_format;
    rules->no_special_in_user = options->no_special_in_user;
    rules->max_model_len = engine->memory.max_model_len;
    rules->max_images = options->max_images != 0 ? options->max_images : DEFAULT_MAX_IMAGES;
    rules->page_tokens = engine->memory.page_tokens;
    rules->vocab = vocab;
    rules->token_bytes_max = longest;
    rules->max_pixels = options->max_pixels;
    rules->backend = engine->backend;
    rules->pixel_bytes_max = engine->memory.pixel_bytes_max;

    agl_sampling_context *sampling = &engine->sampling_context;
    sampling->eos = config->eos;
    sampling->eos_count = (uint32_t)config->eos_count;
    sampling->vocab = vocab;
    sampling->logprobs_max = options->max_logprobs != 0 ? options->max_logprobs
                                                        : DEFAULT_MAX_LOGPROBS;
    sampling->n_max = engine->memory.max_sequences;
    sampling->tokenizer = engine->tokenizer;
    engine->seed = options->seed;
    engine->stall_timeout_s = options->stall_timeout_s > 0 ? options->stall_timeout_s : DEFAULT_STALL_S;
    engine->max_queued = options->max_queued != 0 ? options->max_queued : DEFAULT_MAX_QUEUED;
    engine->priority_scheduling = options->priority_scheduling;
}

static void set_info(agl_engine *engine)
{
    const agl_memory_plan *plan = &engine->memory;
    agl_dtype dtype = plan->weight_dtype != AGL_DTYPE_COUNT ? plan->weight_dtype
                                                            : engine->config.dtype;
    engine->info = (agl_model_info){
        .root = engine->root,
        .architecture = engine->config.architecture,
        .template_family = agl_template_family_name(engine->prompt_rules.family),
        .dtype = agl_dtype_name(dtype),
        .device = engine->backend->description,
        .parameters = plan->model.parameters,
        .weight_bytes = plan->model.weight_bytes,
        .max_model_len = plan->max_model_len,
        .vocab = engine->prompt_rules.vocab,
        .end_token = engine->info.end_token,
        .device_count = 1,
        .has_vision = engine->config.has_vision,
        .sampling = engine->sampling_context.defaults,
    };
    engine->stats.kv_pages = engine->stats.kv_pages_free = plan->page_count;
    engine->stats.kv_page_tokens = plan->page_tokens;
    engine->stats.kv_bytes = plan->kv_bytes;
    engine->stats.weight_bytes = plan->model.weight_bytes;
    const uint64_t *by_tag = engine->backend->memory_by_tag;
    engine->stats.workspace_bytes = by_tag[AGL_MEMORY_ACTIVATIONS] + by_tag[AGL_MEMORY_VISION] +
                                    by_tag[AGL_MEMORY_STEP_INPUT] + by_tag[AGL_MEMORY_WORKSPACE];
    agl_log_info("engine: %s on %s, window %u tokens, %u KV pages of %u tokens (%.2f GiB), "
                 "%u sequences, %u rows a step", engine->config.architecture,
                 engine->backend->description, plan->max_model_len, plan->page_count,
                 plan->page_tokens, (double)plan->kv_bytes / (1024.0 * 1024.0 * 1024.0),
                 plan->max_sequences, plan->max_rows);
}

static agl_status build(agl_engine *engine, const agl_engine_options *options, agl_error *err)
{
    AGL_TRY(refuse_unbuilt(options, err));
    report(options, "checkpoint", 0.0);
    AGL_TRY(open_checkpoint(engine, options, err));
    report(options, "checkpoint", 1.0);
    report(options, "device", 0.0);
    AGL_TRY(agl_device_open(&engine->backend, options, &engine->config, err));
    AGL_TRY(agl_memory_plan_make(&engine->memory, options, &engine->config, engine->backend, err));
    AGL_TRY(engine->backend->ops->workspace_reserve(engine->backend, &engine->memory.limits, err));
    report(options, "device", 1.0);
    set_rules(engine, options);
    agl_model_options model = agl_memory_plan_model(&engine->memory, options, engine->root);
    AGL_TRY(agl_model_create(&engine->model, &engine->config, engine->backend, &model, err));
    AGL_TRY(create_memory(engine, options, err));
    AGL_TRY(create_step(engine, options, err));
    set_info(engine);
    AGL_TRY(start_thread(engine, err));
    report(options, "ready", 1.0);
    return AGL_OK;
}

static void init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

agl_status agl_engine_create(agl_engine **out, const agl_engine_options *options, agl_error *err)
{
    assert(out != NULL && options != NULL);
    *out = NULL;
    agl_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for an engine");
    pthread_mutex_init(&engine->inbox_lock, NULL);
    pthread_mutex_init(&engine->stats_lock, NULL);
    agl_decode_room_init(&engine->decode_room, DECODE_BYTES_MAX);
    init_condition(&engine->inbox_wake);
    agl_status status = build(engine, options, err);
    if (status != AGL_OK) {
        agl_engine_destroy(engine);
        return status;
    }
    *out = engine;
    return AGL_OK;
}

void agl_engine_destroy(agl_engine *engine)
{
    if (engine == NULL) return;
    if (engine->thread_started) {
        pthread_mutex_lock(&engine->inbox_lock);
        engine->stopping = true;
        pthread_cond_signal(&engine->inbox_wake);
        pthread_mutex_unlock(&engine->inbox_lock);
        pthread_join(engine->thread, NULL);
    }
    agl_step_destroy(engine->step);
    agl_scheduler_destroy(engine->scheduler);
    agl_encoder_cache_destroy(engine->encoder);
    agl_prefix_cache_destroy(engine->pages.prefix);
    free(engine->pages.copies);
    agl_page_pool_destroy(engine->pool);
    if (engine->backend != NULL) agl_kv_memory_deinit(&engine->kv);
    agl_model_destroy(engine->model);
    if (engine->stream != NULL) engine->backend->ops->stream_destroy(engine->stream);
    if (engine->backend != NULL) engine->backend->ops->destroy(engine->backend);
    agl_tokenizer_close(engine->tokenizer);
    pthread_cond_destroy(&engine->inbox_wake);
    pthread_mutex_destroy(&engine->stats_lock);
    agl_decode_room_deinit(&engine->decode_room);
    pthread_mutex_destroy(&engine->inbox_lock);
    free(engine);
}

/* ---- questions --------------------------------------------------------- */

agl_model_info agl_engine_model_info(const agl_engine *engine) { return engine->info; }

agl_engine_stats agl_engine_stats_get(agl_engine *engine)
{
    pthread_mutex_lock(&engine->inbox_lock);
    uint32_t queued = engine->queued;
    pthread_mutex_unlock(&engine->inbox_lock);

    pthread_mutex_lock(&engine->stats_lock);
    agl_engine_stats stats = engine->stats;
    stats.waiting = queued + engine->preempted;
    uint64_t last = engine->last_step_ns, since = engine->work_since_ns;
    pthread_mutex_unlock(&engine->stats_lock);
    uint64_t now = agl_clock_ns();
    stats.last_step_age_s = last != 0 && now > last ? (double)(now - last) * 1e-9 : 0.0;
    uint64_t from = last > since ? last : since;
    stats.stalled = since != 0 && now > from && (double)(now - from) * 1e-9 > engine->stall_timeout_s;
    return stats;
}

void agl_engine_cache_reset(agl_engine *engine)
{
    pthread_mutex_lock(&engine->inbox_lock);
    engine->reset_caches = true;
    pthread_cond_signal(&engine->inbox_wake);
    pthread_mutex_unlock(&engine->inbox_lock);
}

agl_status agl_checkpoint_inspect(const char *model, char **json, agl_error *err)
{
    char root[4096];
    AGL_TRY(agl_checkpoint_resolve(root, sizeof root, model, err));
    return agl_model_inspect(json, root, err);
}

void agl_free(void *memory) { free(memory); }

/* ---- tokens ------------------------------------------------------------ */

/* Hand the ids over to the caller; malloc'd even when there are none. */
static agl_status give_tokens(agl_tokens *from, agl_status status, int32_t **tokens, size_t *count,
                              agl_error *err)
{
    if (status == AGL_OK && from->ids == NULL) {
        from->ids = malloc(sizeof *from->ids);
        if (from->ids == NULL) status = agl_fail(err, AGL_ERR_MEMORY, "no memory for tokens");
    }
    if (status != AGL_OK) {
        agl_tokens_deinit(from);
        return status;
    }
    *tokens = from->ids;
    *count = from->count;
    return AGL_OK;
}

agl_status agl_tokenize(agl_engine *engine, const char *text, size_t bytes, bool add_special,
                        int32_t **tokens, size_t *count, agl_error *err)
{
    agl_tokens ids = {0};
    agl_text_run run = {text, bytes, true};
    agl_status status = agl_tokenizer_encode(&ids, engine->tokenizer, &run, 1, add_special, err);
    return give_tokens(&ids, status, tokens, count, err);
}

agl_status agl_tokenize_chat(agl_engine *engine, const agl_message *messages, size_t message_count,
                             const agl_chat_options *chat, int32_t **tokens, size_t *count,
                             agl_error *err)
{
    agl_chat_options defaults = {0};
    agl_tokens ids = {0};
    agl_status status = agl_prompt_tokenize_chat(&ids, &engine->prompt_rules, messages,
                                                 message_count, chat != NULL ? chat : &defaults, err);
    return give_tokens(&ids, status, tokens, count, err);
}

agl_status agl_detokenize(agl_engine *engine, const int32_t *tokens, size_t count, char **text,
                          size_t *bytes, agl_error *err)
{
    agl_buffer buffer;
    agl_buffer_init(&buffer, 0);
    agl_detokenizer detokenizer;
    agl_detokenizer_init(&detokenizer, engine->tokenizer, true);
    agl_status status = AGL_OK;
    for (size_t i = 0; status == AGL_OK && i < count; i++) {
        size_t length;
        if (agl_tokenizer_bytes(engine->tokenizer, tokens[i], &length) == NULL) {
            status = agl_fail(err, AGL_ERR_ARGUMENT, "token %zu is %d, which the tokenizer does not know",
                              i, tokens[i]);
        } else {
            agl_detokenizer_push(&detokenizer, tokens[i], &buffer);
        }
    }
    agl_detokenizer_flush(&detokenizer, &buffer);
    agl_buffer_append(&buffer, "", 0);      /* an empty text is a string too */
    if (status == AGL_OK && buffer.failed) {
        status = agl_fail(err, AGL_ERR_MEMORY, "no memory for the text of %zu tokens", count);
    }
    if (status != AGL_OK) {
        agl_buffer_deinit(&buffer);
        return status;
    }
    *text = agl_buffer_detach(&buffer, bytes);
    return AGL_OK;
}

const char *agl_token_bytes(const agl_engine *engine, int32_t token, size_t *bytes)
{
    return agl_tokenizer_bytes(engine->tokenizer, token, bytes);
}
