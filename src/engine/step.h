/* SPDX-License-Identifier: Apache-2.0
 *
 * step.h - one forward pass: from a plan to sampled tokens.
 *
 * The inputs of a step lie in one host block with the same layout as the device block,
 * so a step uploads once:
 *
 *     ids | positions t,h,w | visual rows | logit rows | slots | sequences | page tables
 *
 * Arrays are packed behind each other at 64-byte borders for the step's actual sizes. There are
 * two host blocks, by plan->turn: while one step is on the device, the next is laid out. They
 * share the device block, which the stream fills only when the step before has read it. A step
 * that is recorded (step_graphs.h) is laid out for the rows of the recording.
 *
 *     prepare    all that does not depend on the tokens of the step before
 *     complete   these tokens, and which rows are dead
 *     launch     the device starts; nothing the step points to is touched until
 *     wait       the results are there
 *
 * A dead row is computed and forgotten. Its slot is -1, so it writes nothing; its sequence has
 * one key, on page 0, so it reads what is always there; nobody looks at its result, and its
 * entry's sequence is NULL. A row dies when its sequence ends after the row was laid out.
 *
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
    uint32_t page_tokens, max_model_len;
    uint32_t vocab, vocab_used;
    size_t pixel_bytes_max;     /* of one resized picture */
    bool eager;                 /* record nothing */
    agl_progress_fn progress;   /* of the recording; NULL allowed */
    void *progress_user;
} agl_step_options;

/* Device bytes of a step's inputs; only the sizes of `options` count. */
uint64_t agl_step_input_bytes(const agl_step_options *options);

/* The model is ready to run: where the backend can record, decode steps are run once, with dead
 * rows only, and recorded. */
agl_status agl_step_create(agl_step **out, const agl_step_options *options, agl_error *err);
void agl_step_destroy(agl_step *step);                      /* NULL is allowed */

void agl_step_prepare(agl_step *step, const agl_step_plan *plan);

/* The tokens of the step before are accepted: put them in, and bury the entries of sequences
 * that end with them. */
void agl_step_complete(agl_step *step, agl_step_plan *plan);

/* Queue page copies, vision, forward pass and sampling. A step with pictures waits for each of
 * them: the tower has one set of buffers, and its time is told to the request. Without live
 * entries the pages are copied and that is all: there is nothing to wait for. */
agl_status agl_step_launch(agl_step *step, const agl_step_plan *plan,
                           const agl_page_context *pages, agl_error *err);
agl_status agl_step_wait(agl_step *step, agl_error *err);

/* Will launch return only when the device is done, or nearly? */
bool agl_step_launch_blocks(const agl_step *step, const agl_step_plan *plan);

/* After wait and until the next plan of this turn is prepared: the i-th sampled token of an
 * entry, and the score of its i-th prompt token to come. */
const agl_sample_result *agl_step_sample(const agl_step *step, const agl_step_plan *plan,
                                         uint32_t entry, uint32_t i);
const agl_sample_result *agl_step_prompt_result(const agl_step *step, const agl_step_plan *plan,
                                                uint32_t entry, uint32_t i);

#endif
