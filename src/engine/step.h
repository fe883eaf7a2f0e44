/* SPDX-License-Identifier: Apache-2.0
 *
 * step.h - one forward pass: from a plan to sampled tokens.
 *
 * The inputs of a step lie in one host block with the same layout as one device block,
 * so a step uploads once:
 *
 *     ids | positions t,h,w | visual rows | logit rows | slots | sequences | page tables
 *
 * Arrays are packed behind each other at 64-byte borders for the step's actual sizes.
 * Engine thread only; all memory is reserved at creation. */
#ifndef AGL_ENGINE_STEP_H
#define AGL_ENGINE_STEP_H

#include "engine/kv_memory.h"
#include "engine/scheduler.h"
#include "model/model.h"

typedef struct agl_step agl_step;

typedef struct {
    agl_backend *backend;       /* all borrowed */
    agl_stream *stream;
    agl_model *model;
    agl_kv_memory *kv;
    agl_encoder_cache *encoder; /* NULL: no vision */
    uint32_t max_rows, max_sequences, max_logit_rows;
    uint32_t page_tokens, pages_per_sequence;
    uint32_t vocab, vocab_used;
    size_t pixel_bytes_max;     /* of one resized image */
} agl_step_options;

agl_status agl_step_create(agl_step **out, const agl_step_options *options, agl_error *err);
void agl_step_destroy(agl_step *step);                      /* NULL is allowed */

/* Host work: lay out the inputs of the plan. */
void agl_step_prepare(agl_step *step, const agl_step_plan *plan);

/* Device work: page copies, vision, forward pass, sampling; waits for the end. */
agl_status agl_step_run(agl_step *step, const agl_step_plan *plan, const agl_page_context *pages,
                        agl_error *err);

/* The i-th sampled token of an entry, and the score of its i-th prompt token to come.
 * Valid until the next step. */
const agl_sample_result *agl_step_sample(const agl_step *step, uint32_t entry, uint32_t i);
const agl_sample_result *agl_step_prompt_result(const agl_step *step, uint32_t entry, uint32_t i);

#endif
