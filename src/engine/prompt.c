/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/prompt.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/thread_pool.h"
#include "engine/picture_room.h"

#define DECODE_THREADS_MAX 4
/* Of one request: larger pictures are decoded by fewer threads. */
#define DECODE_BYTES_MAX (1ull << 30)
/* Inflated samples or coefficients, and RGB. */
#define DECODE_PIXEL_BYTES 8

/* One image of the request, before its pixels exist. */
struct agl_image_plan {
    const agl_part *part;
    int64_t height, width;              /* of the file      */
    int64_t target_height, target_width;
    bool backend_resizes;
};

static agl_status no_memory(agl_error *err)
{
    return agl_fail(err, AGL_ERR_MEMORY, "no memory for the prompt");
}

static const char *where_of(const agl_part *part)
{
    return part->where != NULL ? part->where : "image";
}

/* Put the place in the request before what the decoder found. */
static agl_status at_part(const agl_part *part, agl_status status, const agl_error *inner,
                          agl_error *err)
{
    if (status == AGL_OK) return AGL_OK;
    return agl_fail(err, status, "%s: %s", where_of(part), inner->message);
}

static agl_status resize_rule(agl_resize_rule *out, const agl_prompt_rules *rules,
                              uint64_t max_pixels, agl_error *err)
{
    const agl_vision_config *vision = &rules->config->vision;
    const agl_image_config *image = &rules->config->image;
    *out = (agl_resize_rule){
        .factor = vision->patch * vision->merge,
        .frames = vision->frames,
        .pixels_min = image->pixels_min,
        .pixels_max = image->pixels_max,
    };
    uint64_t caps[] = {rules->max_pixels, max_pixels};
    for (size_t i = 0; i < AGL_COUNT(caps); i++) {
        uint64_t limit = (uint64_t)out->pixels_max / (uint64_t)out->frames;
        if (caps[i] == 0 || caps[i] >= limit) continue;
        if (caps[i] * (uint64_t)out->frames < (uint64_t)out->pixels_min) {
            return agl_fail(err, AGL_ERR_ARGUMENT,
                            "max_pixels %llu is below the smallest image of this model, %lld pixels",
                            (unsigned long long)caps[i],
                            (long long)(out->pixels_min / out->frames));
        }
        out->pixels_max = (int64_t)(caps[i] * (uint64_t)out->frames);
    }
    return AGL_OK;
}

static bool backend_resizes(const agl_image_plan *plan, const agl_prompt_rules *rules)
{
    agl_picture_size size = {plan->height, plan->width, plan->target_height, plan->target_width};
    return rules->backend != NULL &&
           agl_picture_room_takes(rules->backend, rules->pixel_bytes_max, &size);
}

/* Sizes of all images of the messages, from their headers. */
static agl_status plan_images(agl_prompt *prompt, agl_arena *arena,
                              const agl_prompt_rules *rules, const agl_message *messages,
                              size_t message_count, uint64_t max_pixels, agl_error *err)
{
    size_t count = 0;
    for (size_t m = 0; m < message_count; m++) {
        for (size_t p = 0; p < messages[m].part_count; p++) {
            count += messages[m].parts[p].kind == AGL_PART_IMAGE;
        }
    }
    prompt->image_count = count;
    if (count == 0) return AGL_OK;
    if (!rules->config->has_vision) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "this model takes no images");
    }
    if (count > rules->max_images) {
        return agl_fail(err, AGL_ERR_LIMIT, "at most %u image(s) may be provided in one prompt, got %zu",
                        rules->max_images, count);
    }
    agl_resize_rule rule;
    AGL_TRY(resize_rule(&rule, rules, max_pixels, err));
    prompt->plans = agl_arena_alloc(arena, count * sizeof *prompt->plans);
    if (prompt->plans == NULL) return no_memory(err);
    size_t filled = 0;
    uint64_t largest = 0;
    for (size_t m = 0; m < message_count; m++) {
        for (size_t p = 0; p < messages[m].part_count; p++) {
            const agl_part *part = &messages[m].parts[p];
            if (part->kind != AGL_PART_IMAGE) continue;
            agl_image_plan *plan = &prompt->plans[filled++];
            agl_error inner = {0};
            plan->part = part;
            agl_status status = agl_image_size(&plan->height, &plan->width, part->data, part->bytes,
                                               &inner);
            if (status == AGL_OK) {
                status = agl_image_target_size(&plan->target_height, &plan->target_width,
                                               plan->height, plan->width, &rule, &inner);
            }
            AGL_TRY(at_part(part, status, &inner, err));
            plan->backend_resizes = backend_resizes(plan, rules);
            prompt->pixel_bytes += 3 * (size_t)(plan->backend_resizes ? plan->height * plan->width
                                                    : plan->target_height * plan->target_width);
            uint64_t decode_bytes = (uint64_t)(plan->height * plan->width) * DECODE_PIXEL_BYTES;
            if (decode_bytes > largest) largest = decode_bytes;
        }
    }
    size_t threads = count < DECODE_THREADS_MAX ? count : DECODE_THREADS_MAX;
    if (threads > agl_cpu_count()) threads = agl_cpu_count();
    while (threads > 1 && threads * largest > DECODE_BYTES_MAX) threads--;
    prompt->decode_threads = threads;
    prompt->decode_bytes = threads * largest;
    return AGL_OK;
}

static agl_status context_error(size_t tokens, const char *prefix, const agl_prompt_rules *rules,
                                agl_error *err)
{
    return agl_fail(err, AGL_ERR_CONTEXT,
                    "This model's maximum context length is %u tokens, but the prompt has %s%zu "
                    "tokens and at least one is needed for the answer; shorten the prompt",
                    rules->max_model_len, prefix, tokens);
}

static agl_status check_text_size(size_t bytes, const agl_prompt_rules *rules, agl_error *err)
{
    size_t tokens_min = bytes / rules->token_bytes_max;
    return tokens_min < rules->max_model_len ? AGL_OK
                                             : context_error(tokens_min, "at least ", rules, err);
}

static agl_status encode_rendered(agl_prompt *prompt, const agl_prompt_rules *rules,
                                  const agl_rendered *rendered, agl_error *err)
{
    agl_tokens *out = &prompt->tokens;
    int64_t factor = rules->config->vision.patch * rules->config->vision.merge;
    size_t text_bytes = 0;
    for (size_t i = 0; i < rendered->run_count; i++) text_bytes += rendered->runs[i].bytes;
    AGL_TRY(check_text_size(text_bytes, rules, err));

    size_t run = 0;
    for (size_t i = 0; i <= rendered->image_count; i++) {
        bool last = i == rendered->image_count;
        size_t end = last ? rendered->run_count : rendered->image_after[i] + 1;
        size_t before = out->count;
        AGL_TRY(agl_tokenizer_encode(out, rules->tokenizer, rendered->runs + run, end - run, false,
                                     err));
        for (size_t t = before; rules->config->has_vision && t < out->count; t++) {
            if (out->ids[t] != rules->config->image_token) continue;
            return agl_fail(err, AGL_ERR_ARGUMENT,
                            "the text of a message holds the image placeholder token; send images "
                            "as image parts");
        }
        run = end;
        if (last) break;
        const agl_image_plan *plan = &prompt->plans[i];
        int64_t rows = plan->target_height / factor, columns = plan->target_width / factor;
        prompt->spans[i] = (agl_image_span){out->count, (int32_t)rows, (int32_t)columns};
        /* Checked before the placeholders are written: an image's tokens are many. */
        if (out->count + (size_t)(rows * columns) >= rules->max_model_len) {
            return context_error(out->count + (size_t)(rows * columns), "at least ", rules, err);
        }
        AGL_TRY(agl_tokens_append(out, rules->config->image_token, (size_t)(rows * columns), err));
    }
    return AGL_OK;
}

static agl_status render(agl_rendered *out, agl_arena *arena, const agl_prompt_rules *rules,
                         const agl_message *messages, size_t message_count,
                         const agl_chat_options *chat, size_t image_count, agl_error *err)
{
    agl_content_format format =
        chat->content_format != NULL ? *chat->content_format : rules->content_format;
    agl_template_options options = {
        .no_generation_prompt = chat->no_generation_prompt || chat->continue_final_message,
        .continue_final_message = chat->continue_final_message,
        .disable_thinking = chat->disable_thinking,
        .content_openai = format == AGL_CONTENT_OPENAI,
        .no_special_in_user = rules->no_special_in_user,
    };
    AGL_TRY(agl_template_render(out, arena, rules->family, messages, message_count, &options, err));
    if (out->image_count == image_count) return AGL_OK;
    return agl_fail(err, AGL_ERR_ARGUMENT,
                    "the messages hold %zu images, but the chat template has a place for %zu of "
                    "them: only user messages may hold images", image_count, out->image_count);
}

static agl_status build_chat(agl_prompt *prompt, agl_arena *arena,
                             const agl_prompt_rules *rules, const agl_message *messages,
                             size_t message_count, const agl_chat_options *chat,
                             uint64_t max_pixels, agl_error *err)
{
    if (message_count == 0) return agl_fail(err, AGL_ERR_ARGUMENT, "messages is empty");
    AGL_TRY(plan_images(prompt, arena, rules, messages, message_count, max_pixels, err));
    agl_rendered rendered;
    AGL_TRY(render(&rendered, arena, rules, messages, message_count, chat, prompt->image_count,
                   err));
    prompt->spans = agl_arena_alloc(arena, prompt->image_count * sizeof *prompt->spans);
    if (prompt->spans == NULL) return no_memory(err);
    return encode_rendered(prompt, rules, &rendered, err);
}

agl_status agl_prompt_tokenize_chat(agl_tokens *out, const agl_prompt_rules *rules,
                                    const agl_message *messages, size_t message_count,
                                    const agl_chat_options *chat, agl_error *err)
{
    agl_arena arena;
    agl_arena_init(&arena, 0);
    agl_prompt prompt = {0};
    agl_status status = build_chat(&prompt, &arena, rules, messages, message_count, chat, 0, err);
    if (status == AGL_OK) *out = prompt.tokens;
    else agl_tokens_deinit(&prompt.tokens);
    agl_arena_deinit(&arena);
    return status;
}

/* ---- pixels ------------------------------------------------------------ */

typedef struct {
    agl_prompt *prompt;
    atomic_size_t next;
    pthread_mutex_t lock;               /* of what follows */
    double decode_s, resize_s;
    agl_status status;
    agl_error error;
} decode_job;

static agl_status decode_one(decode_job *job, size_t index, agl_error *err)
{
    const agl_image_plan *plan = &job->prompt->plans[index];
    agl_image decoded = {0}, *out = &job->prompt->pixels[index];
    agl_error inner = {0};
    double started = agl_clock_s();
    agl_status status = agl_image_decode(&decoded, plan->part->data, plan->part->bytes, NULL,
                                         &inner);
    double decoded_at = agl_clock_s();
    if (status == AGL_OK && (decoded.height != plan->height || decoded.width != plan->width)) {
        status = agl_fail(&inner, AGL_ERR_FORMAT, "the header says %lldx%lld, the picture is %lldx%lld",
                          (long long)plan->width, (long long)plan->height,
                          (long long)decoded.width, (long long)decoded.height);
    }
    if (status == AGL_OK && plan->backend_resizes) {
        *out = decoded;
        decoded = (agl_image){0};
    } else if (status == AGL_OK) {
        status = agl_image_resize(out, &decoded, plan->target_height, plan->target_width, &inner);
    }
    agl_image_deinit(&decoded);
    if (status == AGL_OK) {
        job->prompt->images[index].digest = agl_image_digest(plan->part->data, plan->part->bytes,
                                                             plan->target_height, plan->target_width);
    }
    double finished = agl_clock_s();
    pthread_mutex_lock(&job->lock);
    job->decode_s += decoded_at - started;
    job->resize_s += finished - decoded_at;
    pthread_mutex_unlock(&job->lock);
    return at_part(plan->part, status, &inner, err);
}

static void *decode_worker(void *argument)
{
    decode_job *job = argument;
    size_t index;
    while ((index = atomic_fetch_add(&job->next, 1)) < job->prompt->image_count) {
        agl_error error = {0};
        agl_status status = decode_one(job, index, &error);
        if (status == AGL_OK) continue;
        pthread_mutex_lock(&job->lock);
        if (job->status == AGL_OK) {
            job->status = status;
            job->error = error;
        }
        pthread_mutex_unlock(&job->lock);
        atomic_store(&job->next, job->prompt->image_count);
    }
    return NULL;
}

/* Several images are decoded side by side: a PNG screenshot takes tens of milliseconds. */
static agl_status decode_images(agl_prompt *prompt, agl_arena *arena, agl_error *err)
{
    size_t count = prompt->image_count;
    if (count == 0) return AGL_OK;
    prompt->images = agl_arena_alloc(arena, count * sizeof *prompt->images);
    prompt->pixels = agl_arena_alloc(arena, count * sizeof *prompt->pixels);
    if (prompt->images == NULL || prompt->pixels == NULL) return no_memory(err);
    for (size_t i = 0; i < count; i++) {
        const agl_image_span *span = &prompt->spans[i];
        prompt->images[i].first_token = (uint32_t)span->first_token;
        prompt->images[i].rows = (uint32_t)span->rows;
        prompt->images[i].columns = (uint32_t)span->columns;
        prompt->image_tokens += (uint32_t)(span->rows * span->columns);
    }

    decode_job job = {.prompt = prompt};
    pthread_mutex_init(&job.lock, NULL);
    pthread_t threads[DECODE_THREADS_MAX];
    size_t started = 0;
    while (started + 1 < prompt->decode_threads &&
           pthread_create(&threads[started], NULL, decode_worker, &job) == 0) started++;
    decode_worker(&job);
    for (size_t i = 0; i < started; i++) pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&job.lock);
    prompt->media_decode_s = job.decode_s;
    prompt->media_resize_s = job.resize_s;
    if (job.status != AGL_OK && err != NULL) *err = job.error;
    return job.status;
}

/* ---- all together ------------------------------------------------------ */

static agl_status copy_tokens(agl_prompt *prompt, const agl_prompt_rules *rules,
                              const agl_request_options *options, agl_error *err)
{
    size_t count = options->token_count;
    size_t skip = 0;
    if (options->truncate_prompt_tokens > 0 && count > options->truncate_prompt_tokens) {
        skip = count - options->truncate_prompt_tokens;
    }
    if (count - skip >= rules->max_model_len) return context_error(count - skip, "", rules, err);
    for (size_t i = skip; i < count; i++) {
        int32_t id = options->tokens[i];
        if (id < 0 || (uint32_t)id >= rules->vocab) {
            return agl_fail(err, AGL_ERR_ARGUMENT, "prompt token %zu is %d, out of range [0, %u)", i,
                            id, rules->vocab);
        }
        AGL_TRY(agl_tokens_append(&prompt->tokens, id, 1, err));
    }
    return AGL_OK;
}

static agl_status build_tokens(agl_prompt *prompt, agl_arena *arena,
                               const agl_prompt_rules *rules, const agl_request_options *options,
                               agl_error *err)
{
    int kinds = (options->messages != NULL) + (options->text != NULL) + (options->tokens != NULL);
    if (kinds != 1) {
        return agl_fail(err, AGL_ERR_ARGUMENT,
                        "exactly one of messages, text and tokens must be given, got %d", kinds);
    }
    if (options->tokens != NULL) return copy_tokens(prompt, rules, options, err);
    if (options->messages != NULL) {
        return build_chat(prompt, arena, rules, options->messages, options->message_count,
                          &options->chat, options->max_pixels, err);
    }
    /* A text to be truncated may be long, but not without bound. */
    if (options->truncate_prompt_tokens == 0) {
        AGL_TRY(check_text_size(options->text_bytes, rules, err));
    }
    agl_text_run run = {options->text, options->text_bytes, true};
    return agl_tokenizer_encode(&prompt->tokens, rules->tokenizer, &run, 1,
                                !options->no_special_tokens, err);
}

static void truncate_front(agl_tokens *tokens, size_t keep)
{
    if (keep == 0 || tokens->count <= keep) return;
    memmove(tokens->ids, tokens->ids + tokens->count - keep, keep * sizeof *tokens->ids);
    tokens->count = keep;
}

static agl_status digest_pages(agl_prompt *prompt, agl_arena *arena, uint32_t page_tokens,
                               const char *salt, agl_error *err)
{
    size_t pages = prompt->tokens.count / page_tokens;
    prompt->page_digests = agl_arena_alloc(arena, pages * sizeof *prompt->page_digests);
    if (prompt->page_digests == NULL) return no_memory(err);
    prompt->root = agl_prefix_root(salt);
    const agl_digest *parent = &prompt->root;
    for (size_t i = 0; i < pages; i++) {
        uint32_t first = (uint32_t)i * page_tokens;
        prompt->page_digests[i] = agl_prefix_extend(parent, prompt->tokens.ids + first, first,
                                                    page_tokens, prompt->images,
                                                    prompt->image_count);
        parent = &prompt->page_digests[i];
    }
    return AGL_OK;
}

agl_status agl_prompt_build(agl_prompt *out, agl_arena *arena, const agl_prompt_rules *rules,
                            const agl_request_options *options, agl_error *err)
{
    *out = (agl_prompt){0};
    AGL_TRY(build_tokens(out, arena, rules, options, err));
    if (options->truncate_prompt_tokens > 0 && out->image_count > 0) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "truncate_prompt_tokens cannot be used with images");
    }
    truncate_front(&out->tokens, options->truncate_prompt_tokens);
    if (out->tokens.count == 0) return agl_fail(err, AGL_ERR_ARGUMENT, "the prompt is empty");
    if (out->tokens.count >= rules->max_model_len) {
        return context_error(out->tokens.count, "", rules, err);
    }
    for (size_t i = 0; i < out->tokens.count; i++) {
        if ((uint32_t)out->tokens.ids[i] < rules->vocab) continue;
        return agl_fail(err, AGL_ERR_ARGUMENT, "prompt token %zu is %d, out of range [0, %u)", i,
                        out->tokens.ids[i], rules->vocab);
    }
    return AGL_OK;
}

agl_status agl_prompt_load(agl_prompt *prompt, agl_arena *arena, const agl_prompt_rules *rules,
                           const char *cache_salt, agl_error *err)
{
    AGL_TRY(decode_images(prompt, arena, err));
    return digest_pages(prompt, arena, rules->page_tokens, cache_salt, err);
}

void agl_prompt_deinit(agl_prompt *prompt)
{
    agl_tokens_deinit(&prompt->tokens);
    for (size_t i = 0; prompt->pixels != NULL && i < prompt->image_count; i++) {
        agl_image_deinit(&prompt->pixels[i]);
    }
    *prompt = (agl_prompt){0};
}
