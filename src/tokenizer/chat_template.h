/* SPDX-License-Identifier: Apache-2.0
 *
 * chat_template.h - messages to prompt text. There is no template interpreter: the
 * family is recognised from chat_template.jinja (or tokenizer_config.json's chat_template)
 * and rendered by code that the golden tests compare with Jinja. */
#ifndef AGL_TOKENIZER_CHAT_TEMPLATE_H
#define AGL_TOKENIZER_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/status.h"
#include "tokenizer/tokenizer.h"

typedef enum {
    AGL_TEMPLATE_NONE,          /* no template file: chat requests are refused   */
    AGL_TEMPLATE_GLM41V,        /* GLM-4.1V-9B-Thinking, AutoGLM-Phone-9B        */
    AGL_TEMPLATE_COUNT
} agl_template_family;

const char *agl_template_family_name(agl_template_family family);

/* Recognise the template of a checkpoint folder: chat_template.jinja, else "chat_template" of
 * chat_template.json, else of tokenizer_config.json; AGL_TEMPLATE_NONE if there is none.
 * UNSUPPORTED with the file and the SHA-256 of the template if it is unknown. */
agl_status agl_template_detect(agl_template_family *out, const char *dir, agl_error *err);

/* Templates are compared by their form (template_form.h), so that a change of indentation or
 * of line ends, which Jinja does not print, does not make one unknown. */
agl_status agl_template_recognise(agl_template_family *out, const char *text, size_t bytes,
                                  const char *name, agl_error *err);

typedef struct {
    bool no_generation_prompt;
    bool continue_final_message;
    bool disable_thinking;      /* the assistant turn opens with an empty thought          */
    bool content_openai;        /* parts in request order, no newlines; else string layout */
    bool no_special_in_user;    /* message text is untrusted; only the think and answer tags of
                                   system and assistant texts stay tokens */
} agl_template_options;

/* Rendered prompt: runs of text that point into the messages, with image placeholders between. Image i of the
 * request stands right after run number image_after[i] (each placeholder is the one
 * image token; the caller repeats it). Images are numbered in request order. */
typedef struct {
    agl_text_run *runs;         /* in the arena */
    size_t run_count;
    size_t *image_after;        /* [image_count], rising */
    size_t image_count;
} agl_rendered;

/* Roles without a form in the family render nothing, as its template does. ARGUMENT if that
 * would lose an image, or if the final message has no text that could be continued. */
agl_status agl_template_render(agl_rendered *out, agl_arena *arena, agl_template_family family,
                               const agl_message *messages, size_t message_count,
                               const agl_template_options *options, agl_error *err);

#endif
