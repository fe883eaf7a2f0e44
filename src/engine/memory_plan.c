/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/memory_plan.h"

#include <math.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/picture_room.h"
#include "engine/step.h"
#include "media/image.h"

#define GIB (1024.0 * 1024.0 * 1024.0)
#define DEFAULT_UTILIZATION 0.9
#define DEFAULT_PAGE_TOKENS 16
#define DEFAULT_SEQUENCES_CPU 64
#define DEFAULT_SEQUENCES_GPU 256
#define DEFAULT_ROWS_CPU 512
/* A screenshot turn is 5000 rows: one step where 130 MB more of scratch are nothing. Latency of
 * others does not suffer, the scheduler cuts prompts by measured time. */
#define DEFAULT_ROWS_GPU 2048
#define DEFAULT_ROWS_LARGE_GPU 8192
#define LARGE_GPU_BYTES (60ull << 30)
#define DEFAULT_KV_BYTES_CPU (4ull << 30)
#define DEFAULT_ENCODER_BYTES (256ull << 20)
/* Blocks of device memory are rounded to 2 MiB, the driver loads code with its first use, and a
 * recorded step takes some MiB. */
#define RESERVE_BYTES_GPU (256ull << 20)
#define ENCODER_IMAGES_MAX 16       /* more rows than this many largest images are not reserved */
#define MAX_SEQUENCES 4096
#define MAX_ROWS (1u << 20)

/* Prompt logprobs are rare; a few logit rows a step keep them from costing a vocabulary-wide
 * buffer for every prompt token. */
#define PROMPT_LOGIT_ROWS 32

static bool is_cpu(const agl_backend *backend)
{
    return backend->kind == AGL_BACKEND_CPU;
}

static agl_status parse_dtype(agl_dtype *out, const char *name, const char *flag,
                              agl_dtype automatic, agl_error *err)
{
    static const struct {
        const char *name;
        agl_dtype dtype;
    } names[] = {
        {"float32", AGL_F32}, {"float", AGL_F32}, {"bfloat16", AGL_BF16},
        {"float16", AGL_F16}, {"half", AGL_F16},
    };
    *out = automatic;
    if (name == NULL || strcmp(name, "auto") == 0) return AGL_OK;
    for (size_t i = 0; i < AGL_COUNT(names); i++) {
        if (strcmp(name, names[i].name) != 0) continue;
        *out = names[i].dtype;
        return AGL_OK;
    }
    return agl_fail(err, AGL_ERR_UNSUPPORTED,
                    "%s %s is not supported: use auto, float32, bfloat16 or float16", flag, name);
}

agl_status agl_memory_plan_activation(agl_dtype *out, const agl_engine_options *options,
                                      const agl_config *config, agl_error *err)
{
    agl_dtype automatic = config->dtype == AGL_F16 ? AGL_F16 : AGL_BF16;
    return parse_dtype(out, options->dtype, "--dtype", automatic, err);
}

static uint32_t or_default(uint32_t value, uint32_t fallback)
{
    return value != 0 ? value : fallback;
}

static agl_status plan_limits(agl_memory_plan *plan, const agl_engine_options *options,
                              const agl_config *config, const agl_backend *backend, agl_error *err)
{
    bool cpu = is_cpu(backend);
    int64_t positions = config->text.max_positions;
    if (options->max_model_len > positions) {
        return agl_fail(err, AGL_ERR_ARGUMENT,
                        "--max-model-len %u is over the checkpoint's max_position_embeddings %lld",
                        options->max_model_len, (long long)positions);
    }
    plan->page_tokens = or_default(options->block_size, DEFAULT_PAGE_TOKENS);
    if (plan->page_tokens > AGL_PAGE_TOKENS_MAX) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "--block-size %u is over the maximum of %d",
                        plan->page_tokens, AGL_PAGE_TOKENS_MAX);
    }
    plan->max_sequences = or_default(options->max_num_seqs,
                                     cpu ? DEFAULT_SEQUENCES_CPU : DEFAULT_SEQUENCES_GPU);
    uint32_t rows_gpu = backend->memory_total >= LARGE_GPU_BYTES ? DEFAULT_ROWS_LARGE_GPU
                                                                 : DEFAULT_ROWS_GPU;
    plan->max_rows = or_default(options->max_num_batched_tokens, cpu ? DEFAULT_ROWS_CPU : rows_gpu);
    if (plan->max_sequences > MAX_SEQUENCES) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "--max-num-seqs %u is over the maximum of %d",
                        plan->max_sequences, MAX_SEQUENCES);
    }
    plan->max_model_len = options->max_model_len;
    if (options->disable_chunked_prefill) {
        uint32_t window = plan->max_model_len != 0 ? plan->max_model_len : (uint32_t)positions;
        if (options->max_num_batched_tokens != 0 && plan->max_rows < window) {
            return agl_fail(err, AGL_ERR_ARGUMENT,
                            "without chunked prefill --max-num-batched-tokens %u must be at least "
                            "--max-model-len %u", plan->max_rows, window);
        }
        /* Room for a whole prompt beside everyone's decode row. */
        plan->max_rows = (plan->max_rows > window ? plan->max_rows : window) + plan->max_sequences;
    }
    if (plan->max_rows < plan->max_sequences && options->max_num_batched_tokens == 0) {
        plan->max_rows = plan->max_sequences;
    }
    if (plan->max_rows < plan->max_sequences || plan->max_rows > MAX_ROWS) {
        return agl_fail(err, AGL_ERR_ARGUMENT,
                        "--max-num-batched-tokens %u must be in [--max-num-seqs %u, %u]",
                        plan->max_rows, plan->max_sequences, MAX_ROWS);
    }
    plan->prompt_logit_rows = PROMPT_LOGIT_ROWS;
    plan->max_logit_rows = plan->max_sequences + plan->prompt_logit_rows;
    return AGL_OK;
}

/* Pixels of the largest resized picture. Sides are multiples of `side`: a small picture grows to
 * pixels_min with its sides rounded up, and a narrow one shrinks to one `side` and not below. Both
 * may pass a low cap, the more the further from square (AGL_IMAGE_ASPECT_MAX). */
static int64_t resized_pixels_max(int64_t cap, int64_t pixels_min, int64_t side)
{
    double aspect = sqrt((double)AGL_IMAGE_ASPECT_MAX), least = sqrt((double)pixels_min);
    double grown = (least * aspect + (double)side) * (least / aspect + (double)side);
    double narrow = sqrt((double)cap) * aspect * (double)side;
    double most = fmax(fmax(grown, narrow), (double)cap);
    return (int64_t)most;
}

static agl_status plan_vision(agl_memory_plan *plan, const agl_engine_options *options,
                              const agl_config *config, const agl_backend *backend, agl_error *err)
{
    if (!config->has_vision) return AGL_OK;
    const agl_vision_config *vision = &config->vision;
    int64_t side = vision->patch * vision->merge;
    int64_t pixels = config->image.pixels_max / vision->frames;
    if (options->max_pixels != 0 && options->max_pixels < (uint64_t)pixels) {
        if (options->max_pixels < (uint64_t)(config->image.pixels_min / vision->frames)) {
            return agl_fail(err, AGL_ERR_ARGUMENT,
                            "max_pixels %llu is below the smallest image of this model, %lld pixels",
                            (unsigned long long)options->max_pixels,
                            (long long)(config->image.pixels_min / vision->frames));
        }
        pixels = (int64_t)options->max_pixels;
    }
    int64_t window = plan->max_model_len != 0 ? plan->max_model_len : config->text.max_positions;
    pixels = resized_pixels_max(pixels, config->image.pixels_min / vision->frames, side);
    int64_t tokens = pixels / (side * side);
    if (tokens < 1) tokens = 1;
    if (tokens > window) tokens = window;       /* a larger image is over the context anyway */
    plan->image_tokens_max = tokens;
    plan->patches_max = tokens * vision->merge * vision->merge;
    plan->pixel_bytes_max = (size_t)(tokens * side * side * 3);
    plan->picture_bytes = agl_picture_room_bytes(backend, plan->pixel_bytes_max);

    uint64_t row_bytes = (uint64_t)config->text.hidden * agl_dtype_bytes(backend->activation);
    uint64_t image_bytes = (uint64_t)tokens * row_bytes;
    uint64_t bytes = options->encoder_cache_bytes;
    if (bytes != 0 && bytes < image_bytes) {
        return agl_fail(err, AGL_ERR_MEMORY,
                        "an encoder cache of %.3f GiB cannot hold the largest image, %lld tokens of "
                        "%.3f GiB: raise it, or lower max_pixels", (double)bytes / GIB,
                        (long long)tokens, (double)image_bytes / GIB);
    }
    if (bytes == 0) {
        bytes = DEFAULT_ENCODER_BYTES;
        if (bytes > ENCODER_IMAGES_MAX * image_bytes) bytes = ENCODER_IMAGES_MAX * image_bytes;
        if (bytes < image_bytes) bytes = image_bytes;
    }
    plan->encoder_rows = (int64_t)(bytes / row_bytes);
    plan->encoder_bytes = (uint64_t)plan->encoder_rows * row_bytes;
    return AGL_OK;
}

static uint64_t pages_for(uint64_t tokens, uint32_t page_tokens)
{
    return (tokens + page_tokens - 1) / page_tokens;
}

static uint64_t window_of(const agl_memory_plan *plan, const agl_config *config)
{
    return plan->max_model_len != 0 ? plan->max_model_len : (uint64_t)config->text.max_positions;
}

/* A backend that only describes hardware has no operations to ask. */
static void plan_workspace(agl_memory_plan *plan, const agl_config *config,
                           const agl_backend *backend)
{
    agl_model_options model = agl_memory_plan_model(plan, &(agl_engine_options){0}, NULL);
    plan->limits = (agl_backend_limits){
        .rows_max = model.rows_max,
        .sequences_max = plan->max_sequences,
        .logit_rows_max = plan->max_logit_rows,
        .patches_max = plan->patches_max,
        .context_max = (int64_t)window_of(plan, config),
        .heads = config->text.heads,
        .kv_heads = config->text.kv_heads,
        .head_dim = config->text.head_dim,
        .vision_heads = config->has_vision ? config->vision.heads : 0,
        .vocab = config->text.vocab,
    };
    if (backend->ops != NULL) {
        plan->workspace_bytes = backend->ops->workspace_bytes(backend, &plan->limits);
    }
    if (is_cpu(backend)) return;
    plan->input_bytes = agl_step_input_bytes(&(agl_step_options){
        .max_rows = plan->max_rows, .max_sequences = plan->max_sequences,
        .max_logit_rows = plan->max_logit_rows, .page_tokens = plan->page_tokens,
        .max_model_len = (uint32_t)window_of(plan, config)});
    plan->workspace_bytes += RESERVE_BYTES_GPU;
}

uint64_t agl_memory_plan_fixed(const agl_memory_plan *plan)
{
    return plan->model.weight_bytes + plan->model.activation_bytes + plan->model.vision_bytes +
           plan->encoder_bytes + plan->picture_bytes + plan->input_bytes + plan->workspace_bytes;
}

static agl_status not_free(const agl_memory_plan *plan, const agl_backend *backend, agl_error *err)
{
    return agl_fail(err, AGL_ERR_MEMORY,
                    "--gpu-memory-utilization of %s is %.2f GiB, but %.2f of its %.2f GiB are free: "
                    "stop what else uses the GPU, or set it to %.2f at most",
                    backend->description, (double)plan->budget_bytes / GIB,
                    (double)backend->memory_free / GIB, (double)backend->memory_total / GIB,
                    floor(100.0 * (double)backend->memory_free / (double)backend->memory_total) / 100.0);
}

static agl_status no_room(const agl_memory_plan *plan, uint64_t fixed, const agl_engine_options *options,
                          const agl_backend *backend, agl_error *err)
{
    double share = options->memory_utilization > 0.0 ? options->memory_utilization
                                                     : DEFAULT_UTILIZATION;
    return agl_fail(err, AGL_ERR_MEMORY,
                    "the model needs %.2f GiB (weights %.2f, activations %.2f, vision %.2f, encoder "
                    "cache %.2f, workspace %.2f) before any KV cache, but %.2f of %.2f GiB of %s is %.2f GiB: use "
                    "--quantization, --tensor-parallel-size 2, a smaller --max-num-batched-tokens or "
                    "a larger --gpu-memory-utilization", (double)fixed / GIB,
                    (double)plan->model.weight_bytes / GIB,
                    (double)plan->model.activation_bytes / GIB,
                    (double)plan->model.vision_bytes / GIB, (double)plan->encoder_bytes / GIB,
                    (double)(plan->workspace_bytes + plan->input_bytes) / GIB, share,
                    (double)backend->memory_total / GIB, backend->description,
                    (double)plan->budget_bytes / GIB);
}

agl_status agl_memory_plan_fit(agl_memory_plan *plan, const agl_engine_options *options,
                               const agl_config *config, const agl_backend *backend, agl_error *err)
{
    uint64_t fixed = agl_memory_plan_fixed(plan);
    if (backend->memory_free != 0 && plan->budget_bytes > backend->memory_free) {
        return not_free(plan, backend, err);
    }
    if (fixed >= plan->budget_bytes) return no_room(plan, fixed, options, backend, err);
    uint64_t left = plan->budget_bytes - fixed;
    uint64_t bytes = options->kv_cache_bytes;
    if (bytes > left) {
        return agl_fail(err, AGL_ERR_MEMORY,
                        "--kv-cache-memory-bytes asks for %.2f GiB, but %.2f GiB of the budget of "
                        "%.2f GiB are left beside the model: lower it, or raise "
                        "--gpu-memory-utilization", (double)bytes / GIB, (double)left / GIB,
                        (double)plan->budget_bytes / GIB);
    }
    plan->page_bytes = agl_model_kv_bytes_per_token(config, plan->kv_dtype) * plan->page_tokens;
    uint64_t window = window_of(plan, config);
    if (bytes == 0) {
        bytes = left;
        if (is_cpu(backend) && bytes > DEFAULT_KV_BYTES_CPU) bytes = DEFAULT_KV_BYTES_CPU;
        /* More than every sequence at its longest could never be used. */
        uint64_t useful = plan->max_sequences * pages_for(window, plan->page_tokens) *
                          plan->page_bytes;
        if (bytes > useful) bytes = useful;
    }
    uint64_t pages = bytes / plan->page_bytes;
    if (pages > INT32_MAX / plan->page_tokens) pages = INT32_MAX / plan->page_tokens;
    uint64_t tokens = pages * plan->page_tokens;
    if (plan->max_model_len == 0) plan->max_model_len = (uint32_t)(window < tokens ? window : tokens);
    if (tokens < plan->max_model_len || plan->max_model_len < 2) {
        uint64_t needed = pages_for(window, plan->page_tokens) * plan->page_bytes;
        return agl_fail(err, AGL_ERR_MEMORY,
                        "one sequence of %llu tokens needs %.3f GiB of KV cache, but %.3f GiB are "
                        "available, enough for %llu tokens: lower --max-model-len, or raise "
                        "--kv-cache-memory-bytes or --gpu-memory-utilization",
                        (unsigned long long)window, (double)needed / GIB, (double)bytes / GIB,
                        (unsigned long long)tokens);
    }
    plan->page_count = (uint32_t)pages;
    plan->kv_bytes = pages * plan->page_bytes;
    return AGL_OK;
}

agl_model_options agl_memory_plan_model(const agl_memory_plan *plan,
                                        const agl_engine_options *options, const char *dir)
{
    return (agl_model_options){
        .dir = dir,
        .dummy = options->load_format != NULL && strcmp(options->load_format, "dummy") == 0,
        .seed = options->seed,
        .dtype = plan->weight_dtype,
        /* The choices of one request may sample from one row, so logit rows can outnumber rows. */
        .rows_max = plan->max_rows > plan->max_logit_rows ? plan->max_rows : plan->max_logit_rows,
        .logit_rows_max = plan->max_logit_rows,
        .patches_max = plan->patches_max,
        .progress = options->progress,
        .progress_user = options->progress_user,
    };
}

agl_status agl_memory_plan_size(agl_memory_plan *out, const agl_engine_options *options,
                                const agl_config *config, const agl_backend *backend,
                                agl_error *err)
{
    *out = (agl_memory_plan){0};
    double share = options->memory_utilization > 0.0 ? options->memory_utilization
                                                     : DEFAULT_UTILIZATION;
    if (!(share <= 1.0)) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "--gpu-memory-utilization %g must be in (0, 1]",
                        options->memory_utilization);
    }
    agl_dtype stored = is_cpu(backend) ? AGL_DTYPE_COUNT : backend->activation;
    AGL_TRY(parse_dtype(&out->weight_dtype, options->dtype, "--dtype", stored, err));
    AGL_TRY(parse_dtype(&out->kv_dtype, options->kv_cache_dtype, "--kv-cache-dtype",
                        backend->activation, err));
    if (!is_cpu(backend) && out->kv_dtype != backend->activation) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "--kv-cache-dtype %s: on a GPU keys and values have the model's dtype, %s",
                        agl_dtype_name(out->kv_dtype), agl_dtype_name(backend->activation));
    }
    AGL_TRY(plan_limits(out, options, config, backend, err));
    AGL_TRY(plan_vision(out, options, config, backend, err));
    agl_model_options model = agl_memory_plan_model(out, options, NULL);
    agl_status status = agl_model_plan_make(&out->model, config, &model, backend);
    if (status != AGL_OK) return agl_fail(err, status, "the model's memory cannot be planned");
    plan_workspace(out, config, backend);
    out->budget_bytes = (uint64_t)((double)backend->memory_total * share);
    return AGL_OK;
}

agl_status agl_memory_plan_make(agl_memory_plan *out, const agl_engine_options *options,
                                const agl_config *config, const agl_backend *backend,
                                agl_error *err)
{
    AGL_TRY(agl_memory_plan_size(out, options, config, backend, err));
    return agl_memory_plan_fit(out, options, config, backend, err);
}
