/* SPDX-License-Identifier: Apache-2.0
 *
 * scheduler.h - which rows the next step computes.
 *
 *     waiting   heap, by (priority, arrival, choice)
 *        |  admit: a slot, and pages for every token so far
 *        v                                        ^ preempt: drop the pages, keep the tokens
 *     running   array in the same order ----------+
 *
 * A plan is: one row for every running sequence that decodes; then prompt chunks, oldest
 * first, under max_rows and, while others decode, under a bound on the step's time; then
 * new sequences while they fit. When a decoding sequence finds no page, the last in order
 * gives up its own and waits; its tokens stay, so nothing is lost or repeated, only computed
 * again. The first in order is never preempted, and one sequence always fits: there is
 * always progress.
 *
 * A plan may be made while the step before it is on the device: its sequences then count the
 * token that is being made as one they have (agl_sequence.pending). Engine thread only. */
#ifndef AGL_ENGINE_SCHEDULER_H
#define AGL_ENGINE_SCHEDULER_H

#include "engine/encoder_cache.h"
#include "engine/sequence_pages.h"

typedef struct agl_scheduler agl_scheduler;

typedef struct {
    uint32_t max_rows;          /* of one step                                         */
    uint32_t max_sequences;     /* running choices                                     */
    uint32_t max_waiting;       /* requests, preempted sequences come on top           */
    uint32_t prompt_logit_rows; /* rows of one step whose logits prompt logprobs may use */
    bool whole_prompts;         /* no chunks                                           */
} agl_scheduler_options;

/* One sequence's rows: tokens [first, first + row_count). */
typedef struct {
    agl_sequence *sequence;     /* NULL: dead, nobody wants what it computes (step.h)    */
    uint32_t first, row_count;
    uint32_t prompt_logits;     /* first rows whose logits are scored against the prompt */
    uint32_t samples;           /* tokens drawn from the last row: 0, 1, or n at a fork  */
    bool pending;               /* its last token is being made by the step before       */
} agl_step_entry;

/* An image whose vision rows this step must compute first. */
typedef struct {
    agl_request *request;
    uint32_t image;
    int32_t entry;              /* of the encoder cache                                */
} agl_step_image;

#define AGL_STEP_IMAGES_MAX 4

typedef struct {
    agl_step_entry *entries;    /* [max_sequences]                                     */
    uint32_t entry_count, row_count, decode_rows, logit_count;
    uint32_t live_count;        /* entries that are not dead                           */
    uint32_t turn;              /* 0, 1, 0, 1, ...: what it is laid out in             */
    bool forks;                 /* an entry has several samples                        */
    agl_step_image images[AGL_STEP_IMAGES_MAX];
    uint32_t image_count;
} agl_step_plan;

typedef struct {
    uint64_t preemptions, prefix_queries, prefix_hits, encoder_queries, encoder_hits;
} agl_scheduler_counters;

/* `pages` and `encoder` (NULL: no vision) are borrowed. */
agl_status agl_scheduler_create(agl_scheduler **out, const agl_scheduler_options *options,
                                agl_page_context *pages, agl_encoder_cache *encoder,
                                agl_error *err);
void agl_scheduler_destroy(agl_scheduler *scheduler);       /* NULL is allowed */

/* Queue a new request's first sequence. Room for all its choices is made here, so that a
 * preemption never needs memory. MEMORY: it is not queued. */
agl_status agl_scheduler_add(agl_scheduler *scheduler, agl_sequence *sequence);

/* The next step; entry_count 0: nothing can run. Valid until the plan after the next one. */
agl_step_plan *agl_scheduler_plan(agl_scheduler *scheduler);

/* May the next step be planned while `on_device` runs? Yes, if the outcome of that can change no
 * more than the values of tokens and which rows are dead: it forks no choices, and there is a
 * page for every sequence that goes on, so that none has to be preempted. */
bool agl_scheduler_can_run_ahead(const agl_scheduler *scheduler, const agl_step_plan *on_device);

/* After launch, for each entry that is not dead: what the device is given next finds its rows
 * in the pages. */
void agl_scheduler_advance(agl_scheduler *scheduler, const agl_step_entry *entry);

/* A choice that was never with the scheduler continues from `leader`. */
void agl_scheduler_fork(agl_scheduler *scheduler, agl_sequence *choice, agl_sequence *leader);

/* The sequence is over, wherever it is: pages, pins and slot are free again. */
void agl_scheduler_end(agl_scheduler *scheduler, agl_sequence *sequence);

/* How long the step took on the device: steers the size of prompt chunks. */
void agl_scheduler_measured(agl_scheduler *scheduler, const agl_step_plan *plan, double seconds);

uint32_t agl_scheduler_running(const agl_scheduler *scheduler);    /* choices              */
uint32_t agl_scheduler_preempted(const agl_scheduler *scheduler);  /* waiting for pages again */
agl_scheduler_counters agl_scheduler_counters_get(const agl_scheduler *scheduler);

#endif
