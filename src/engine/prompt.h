/* SPDX-License-Identifier: Apache-2.0
 *
 * prompt.h - from messages, text or tokens to what the scheduler works with: token ids
 * with every image placeholder repeated to its grid, resized pixels, and page digests.
 *
 * All of it runs on the submitting thread. Sizes are checked from the image headers
 * before a picture is decoded, so a prompt that cannot fit costs little. */
#ifndef AGL_ENGINE_PROMPT_H
#define AGL_ENGINE_PROMPT_H

#include "backend/backend.h"
#include "base/arena.h"
#include "engine/prefix_cache.h"
#include "media/image.h"
#include "model/config.h"
#include "model/positions.h"
#include "tokenizer/chat_template.h"

/* What an engine's prompts have in common. */
typedef struct {
    const agl_config *config;
    const agl_tokenizer *tokenizer;
    agl_template_family family;
    agl_content_format content_format;
    bool no_special_in_user;
    uint32_t max_model_len, max_images, page_tokens;
    uint32_t vocab;             /* ids at or above are refused               */
    size_t token_bytes_max;     /* of the longest token: bounds text cheaply */
    uint64_t max_pixels;        /* real pixels of a resized image; 0: the checkpoint's */
    const agl_backend *backend; /* NULL: pictures are resized here           */
    size_t pixel_bytes_max;     /* of the backend's room for pictures        */
} agl_prompt_rules;

typedef struct agl_image_plan agl_image_plan;

typedef struct {
    agl_tokens tokens;
    size_t image_count;
    agl_image_plan *plans;      /* [image_count] in the arena; views the parts until loaded */
    agl_prefix_image *images;   /* [image_count] in the arena                */
    agl_image_span *spans;      /* [image_count] the same, for positions     */
    agl_image *pixels;          /* [image_count] resized, or as decoded if the backend does it */
    size_t pixel_bytes;
    size_t decode_threads;      /* images decoded side by side               */
    uint64_t decode_bytes;      /* held while they are, beside pixel_bytes   */
    uint32_t image_tokens;
    agl_digest root;            /* start of the page digests                 */
    agl_digest *page_digests;   /* [tokens / page_tokens] of full pages      */
    double media_decode_s, media_resize_s;
} agl_prompt;

/* Tokens and the sizes of all images. ARGUMENT, FORMAT, UNSUPPORTED, LIMIT, CONTEXT: the
 * client's. agl_prompt_deinit in any case. */
agl_status agl_prompt_build(agl_prompt *out, agl_arena *arena, const agl_prompt_rules *rules,
                            const agl_request_options *options, agl_error *err);

/* Decode the images (pixel_bytes in all) and make the page digests. */
agl_status agl_prompt_load(agl_prompt *prompt, agl_arena *arena, const agl_prompt_rules *rules,
                           const char *cache_salt, agl_error *err);
void agl_prompt_deinit(agl_prompt *prompt);

/* Tokens of a chat; images are looked at for their size only. */
agl_status agl_prompt_tokenize_chat(agl_tokens *out, const agl_prompt_rules *rules,
                                    const agl_message *messages, size_t message_count,
                                    const agl_chat_options *chat, agl_error *err);

#endif
