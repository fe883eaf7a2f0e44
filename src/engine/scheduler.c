/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/scheduler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine.h"

/* While others decode, a step with prompt rows may last this long, or this many times a step
 * of decoding alone: running streams see a hiccup, not a stall. Where more prompts wait than
 * streams are held up it may last longer by their ratio, and where many wait by their number, up to
 * a limit: long steps take a tenth less time a row. */
#define MIXED_STEP_S 0.050
#define MIXED_STEP_FACTOR 3.0
#define MIXED_STEP_PROMPTS 16.0
#define MIXED_STEP_RATIO_MAX 5.0
#define CHUNK_ROWS_MIN 16

/* Steps that are cut by time anyway end at full tiles of matrix products; and few different sizes
 * find their kernels loaded: on a GPU a first size costs 10 ms. */
#define STEP_ROWS_STEP 128u
#define EWMA_WEIGHT 0.2

/* A blocked head of the queue is looked at again when pages came back, or after this many plans. */
#define BLOCKED_PLANS_MAX 64

struct agl_scheduler {
    agl_scheduler_options options;
    agl_page_context *pages;
    agl_encoder_cache *encoder;
    agl_sequence **running;     /* [max_sequences], in serving order     */
    uint32_t running_count, slots_used;
    agl_sequence **waiting;     /* binary heap                           */
    uint32_t waiting_count, waiting_capacity;
    uint32_t preempted_count;   /* of the waiting ones                   */
    uint32_t choices;           /* of all requests here: the most that may wait at once */
    agl_step_plan plans[2];     /* one is on the device, one is being made */
    agl_step_plan *plan;        /* the latter                            */
    agl_scheduler_counters counters;
    double decode_step_s;       /* running mean of steps without prompts */
    double prompt_row_s;        /* and of what one prompt row adds       */
    const agl_sequence *blocked;
    uint32_t blocked_available, blocked_plans;
};

agl_status agl_scheduler_create(agl_scheduler **out, const agl_scheduler_options *options,
                                agl_page_context *pages, agl_encoder_cache *encoder,
                                agl_error *err)
{
    agl_scheduler *scheduler = calloc(1, sizeof *scheduler);
    if (scheduler == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the scheduler");
    scheduler->options = *options;
    scheduler->pages = pages;
    scheduler->encoder = encoder;
    scheduler->waiting_capacity = options->max_waiting + options->max_sequences;
    scheduler->running = calloc(options->max_sequences, sizeof *scheduler->running);
    scheduler->waiting = calloc(scheduler->waiting_capacity, sizeof *scheduler->waiting);
    for (uint32_t turn = 0; turn < 2; turn++) {
        agl_step_plan *plan = &scheduler->plans[turn];
        plan->turn = turn;
        plan->entries = calloc(options->max_sequences, sizeof *plan->entries);
    }
    scheduler->plan = &scheduler->plans[1];
    if (scheduler->running == NULL || scheduler->waiting == NULL ||
        scheduler->plans[0].entries == NULL || scheduler->plans[1].entries == NULL) {
        agl_scheduler_destroy(scheduler);
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for the scheduler");
    }
    *out = scheduler;
    return AGL_OK;
}

void agl_scheduler_destroy(agl_scheduler *scheduler)
{
    if (scheduler == NULL) return;
    free(scheduler->running);
    free(scheduler->waiting);
    free(scheduler->plans[0].entries);
    free(scheduler->plans[1].entries);
    free(scheduler);
}

/* ---- waiting: a binary heap whose members know their place ------------- */

static void heap_put(agl_scheduler *scheduler, uint32_t place, agl_sequence *sequence)
{
    scheduler->waiting[place] = sequence;
    sequence->heap_index = place;
}

static void heap_settle(agl_scheduler *scheduler, uint32_t place, agl_sequence *sequence)
{
    while (place > 0) {
        uint32_t parent = (place - 1) / 2;
        if (agl_sequence_compare(scheduler->waiting[parent], sequence) < 0) break;
        heap_put(scheduler, place, scheduler->waiting[parent]);
        place = parent;
    }
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= scheduler->waiting_count) break;
        if (child + 1 < scheduler->waiting_count &&
            agl_sequence_compare(scheduler->waiting[child + 1], scheduler->waiting[child]) < 0) {
            child++;
        }
        if (agl_sequence_compare(sequence, scheduler->waiting[child]) < 0) break;
        heap_put(scheduler, place, scheduler->waiting[child]);
        place = child;
    }
    heap_put(scheduler, place, sequence);
}

static void heap_remove(agl_scheduler *scheduler, agl_sequence *sequence)
{
    uint32_t place = sequence->heap_index;
    assert(scheduler->waiting[place] == sequence);
    agl_sequence *last = scheduler->waiting[--scheduler->waiting_count];
    if (last != sequence) heap_settle(scheduler, place, last);
}

static void heap_insert(agl_scheduler *scheduler, agl_sequence *sequence)
{
    assert(scheduler->waiting_count < scheduler->waiting_capacity);
    sequence->state = AGL_SEQUENCE_WAITING;
    scheduler->waiting_count++;
    heap_settle(scheduler, scheduler->waiting_count - 1, sequence);
}

agl_status agl_scheduler_add(agl_scheduler *scheduler, agl_sequence *sequence)
{
    uint64_t needed = (uint64_t)scheduler->choices + sequence->slots;
    if (needed > scheduler->waiting_capacity) {
        uint64_t capacity = 2 * needed;
        agl_sequence **waiting = capacity <= UINT32_MAX
                                     ? realloc(scheduler->waiting, capacity * sizeof *waiting)
                                     : NULL;
        if (waiting == NULL) return AGL_ERR_MEMORY;
        scheduler->waiting = waiting;
        scheduler->waiting_capacity = (uint32_t)capacity;
    }
    scheduler->choices += sequence->slots;
    heap_insert(scheduler, sequence);
    return AGL_OK;
}

/* ---- running ----------------------------------------------------------- */

static void running_insert(agl_scheduler *scheduler, agl_sequence *sequence)
{
    assert(scheduler->running_count < scheduler->options.max_sequences);
    uint32_t place = scheduler->running_count++;
    for (; place > 0; place--) {
        if (agl_sequence_compare(scheduler->running[place - 1], sequence) < 0) break;
        scheduler->running[place] = scheduler->running[place - 1];
    }
    scheduler->running[place] = sequence;
    sequence->state = AGL_SEQUENCE_RUNNING;
}

static void running_remove(agl_scheduler *scheduler, const agl_sequence *sequence)
{
    uint32_t place = 0;
    while (scheduler->running[place] != sequence) place++;
    scheduler->running_count--;
    memmove(scheduler->running + place, scheduler->running + place + 1,
            (scheduler->running_count - place) * sizeof *scheduler->running);
    scheduler->slots_used -= sequence->slots;
}

static void unpin_images(agl_scheduler *scheduler, agl_sequence *sequence, uint32_t before)
{
    const agl_prompt *prompt = &sequence->request->prompt;
    for (size_t i = 0; i < prompt->image_count; i++) {
        const agl_prefix_image *image = &prompt->images[i];
        if (sequence->image_entries[i] == AGL_ENCODER_NONE) continue;
        if (image->first_token + image->rows * image->columns > before) continue;
        agl_encoder_cache_unpin(scheduler->encoder, sequence->image_entries[i]);
        sequence->image_entries[i] = AGL_ENCODER_NONE;
    }
}

static void preempt(agl_scheduler *scheduler, agl_sequence *sequence)
{
    assert(sequence->pending == 0);
    running_remove(scheduler, sequence);
    unpin_images(scheduler, sequence, UINT32_MAX);
    agl_sequence_drop(scheduler->pages, sequence, false);
    heap_insert(scheduler, sequence);
    scheduler->preempted_count++;
    scheduler->counters.preemptions++;
    pthread_mutex_lock(&sequence->request->lock);
    sequence->request->preemptions++;
    pthread_mutex_unlock(&sequence->request->lock);
}

void agl_scheduler_fork(agl_scheduler *scheduler, agl_sequence *choice, agl_sequence *leader)
{
    assert(choice->state == AGL_SEQUENCE_NEW && leader->slots > 1);
    agl_sequence_fork(scheduler->pages, choice, leader);
    leader->slots--;            /* the choice takes it over: slots_used stays */
    choice->slots = 1;
    running_insert(scheduler, choice);
}

void agl_scheduler_end(agl_scheduler *scheduler, agl_sequence *sequence)
{
    if (sequence->state == AGL_SEQUENCE_WAITING) {
        heap_remove(scheduler, sequence);
        scheduler->preempted_count -= sequence->request->scheduled;
    }
    if (sequence->state == AGL_SEQUENCE_RUNNING) {
        running_remove(scheduler, sequence);
        if (scheduler->encoder != NULL) unpin_images(scheduler, sequence, UINT32_MAX);
        agl_sequence_drop(scheduler->pages, sequence, true);
    }
    if (scheduler->blocked == sequence) scheduler->blocked = NULL;
    scheduler->choices--;
    sequence->state = AGL_SEQUENCE_ENDED;
}

void agl_scheduler_advance(agl_scheduler *scheduler, const agl_step_entry *entry)
{
    agl_sequence *sequence = entry->sequence;
    agl_sequence_advance(scheduler->pages, sequence, entry->row_count);
    sequence->pending = entry->samples > 0;
    if (scheduler->encoder != NULL) unpin_images(scheduler, sequence, sequence->computed);
}

/* ---- the plan ---------------------------------------------------------- */

static bool is_decoding(const agl_sequence *sequence)
{
    return sequence->computed + 1 == agl_sequence_tokens(sequence) &&
           sequence->output_count + sequence->pending > 0;
}

/* It decodes, and the token that is being made is not its last. */
static bool goes_on(const agl_sequence *sequence)
{
    return is_decoding(sequence) &&
           sequence->output_count + sequence->pending < sequence->request->sampling.max_tokens;
}

/* Its prompt's own tokens get log-probabilities. */
static bool is_scored(const agl_sequence *sequence)
{
    return sequence->request->prompt_results != NULL &&
           sequence->output_count + sequence->pending == 0;
}

static void add_entry(agl_scheduler *scheduler, agl_sequence *sequence, uint32_t rows)
{
    agl_step_plan *plan = scheduler->plan;
    const agl_request *request = sequence->request;
    uint32_t end = sequence->computed + rows;
    agl_step_entry *entry = &plan->entries[plan->entry_count++];
    *entry = (agl_step_entry){.sequence = sequence, .first = sequence->computed,
                              .row_count = rows, .pending = sequence->pending};
    if (end == agl_sequence_tokens(sequence)) entry->samples = sequence->slots;
    if (entry->samples > 1) plan->forks = true;
    /* Row i predicts prompt token i + 1; the prompt's last row is for sampling. */
    if (is_scored(sequence)) {
        entry->prompt_logits = end == request->prompt.tokens.count ? rows - 1 : rows;
    }
    plan->live_count++;
    plan->row_count += rows;
    plan->logit_count += entry->samples + entry->prompt_logits;
}

/* Every decoding sequence gets a row; the last in order pay with their pages if need be. */
static void plan_decodes(agl_scheduler *scheduler)
{
    for (uint32_t i = 0; i < scheduler->running_count; i++) {
        agl_sequence *sequence = scheduler->running[i];
        if (!goes_on(sequence)) continue;
        bool room;
        while (!(room = agl_sequence_make_room(scheduler->pages, sequence))) {
            agl_sequence *last = scheduler->running[scheduler->running_count - 1];
            preempt(scheduler, last);
            if (last == sequence) break;
        }
        if (!room) break;       /* it was the last itself */
        add_entry(scheduler, sequence, 1);
        scheduler->plan->decode_rows++;
    }
}

bool agl_scheduler_can_run_ahead(const agl_scheduler *scheduler, const agl_step_plan *on_device)
{
    if (on_device->forks) return false;
    uint32_t available = agl_page_pool_available(scheduler->pages->pool);
    if (available >= scheduler->running_count) return true;
    uint32_t needed = 0;
    for (uint32_t i = 0; i < scheduler->running_count; i++) {
        const agl_sequence *sequence = scheduler->running[i];
        needed += goes_on(sequence) && !agl_sequence_has_room(scheduler->pages, sequence);
    }
    return needed <= available;
}

/* Sequences whose prompt is not through yet and that have a slot, or would get one. */
static uint32_t prompts_at_hand(const agl_scheduler *scheduler)
{
    uint32_t open = 0, free_slots = scheduler->options.max_sequences - scheduler->slots_used;
    for (uint32_t i = 0; i < scheduler->running_count; i++) {
        open += !is_decoding(scheduler->running[i]);
    }
    return open + (scheduler->waiting_count < free_slots ? scheduler->waiting_count : free_slots);
}

/* Rows that prompts may add to this step. */
static uint32_t prompt_rows_max(const agl_scheduler *scheduler)
{
    uint32_t left = scheduler->options.max_rows - scheduler->plan->row_count;
    if (scheduler->plan->decode_rows == 0 || scheduler->options.whole_prompts ||
        scheduler->prompt_row_s <= 0.0) return left;
    double target = scheduler->decode_step_s * MIXED_STEP_FACTOR;
    double prompts = (double)prompts_at_hand(scheduler);
    double ratio = fmax(prompts / scheduler->plan->decode_rows, prompts / MIXED_STEP_PROMPTS);
    double longest = MIXED_STEP_S * fmin(fmax(ratio, 1.0), MIXED_STEP_RATIO_MAX);
    if (target < longest) target = longest;
    double rows = (target - scheduler->decode_step_s) / scheduler->prompt_row_s;
    if (rows < CHUNK_ROWS_MIN) rows = CHUNK_ROWS_MIN;
    if (rows >= left) return left;
    if (rows < STEP_ROWS_STEP) return (uint32_t)rows;
    uint32_t before = scheduler->plan->row_count;
    uint32_t tiles = (before + (uint32_t)rows + STEP_ROWS_STEP / 2) / STEP_ROWS_STEP;
    uint32_t whole = tiles * STEP_ROWS_STEP - before;
    return whole < left ? whole : left;
}

/* Bring the vision rows of one image into the plan. false: not in this step. */
static bool plan_image(agl_scheduler *scheduler, agl_sequence *sequence, uint32_t index)
{
    if (sequence->image_entries[index] != AGL_ENCODER_NONE) return true;
    const agl_prefix_image *image = &sequence->request->prompt.images[index];
    int32_t entry = agl_encoder_cache_find(scheduler->encoder, &image->digest);
    scheduler->counters.encoder_hits += entry != AGL_ENCODER_NONE;
    if (entry == AGL_ENCODER_NONE) {
        /* One tower run lengthens the step for everyone, so streams wait for one at most. */
        uint32_t limit = scheduler->plan->decode_rows > 0 ? 1 : AGL_STEP_IMAGES_MAX;
        if (scheduler->plan->image_count >= limit) return false;
        entry = agl_encoder_cache_insert(scheduler->encoder, &image->digest,
                                         (int64_t)image->rows * image->columns);
        if (entry == AGL_ENCODER_NONE) return false;
        scheduler->plan->images[scheduler->plan->image_count++] =
            (agl_step_image){sequence->request, index, entry};
    }
    scheduler->counters.encoder_queries++;
    sequence->image_entries[index] = entry;
    return true;
}

/* Of the next `rows` tokens, those whose vision rows are there or come with this step. */
static uint32_t plan_images(agl_scheduler *scheduler, agl_sequence *sequence, uint32_t rows)
{
    const agl_prompt *prompt = &sequence->request->prompt;
    uint32_t first = sequence->computed;
    for (uint32_t i = 0; i < prompt->image_count; i++) {
        const agl_prefix_image *image = &prompt->images[i];
        if (image->first_token >= first + rows) break;
        if (image->first_token + image->rows * image->columns <= first) continue;
        if (plan_image(scheduler, sequence, i)) continue;
        return image->first_token > first ? image->first_token - first : 0;
    }
    return rows;
}

/* A chunk of at most `limit` rows of a sequence that is not decoding; returns its rows. */
static uint32_t plan_chunk(agl_scheduler *scheduler, agl_sequence *sequence, uint32_t limit,
                           uint32_t *prompt_logits_left)
{
    uint32_t rows = agl_sequence_tokens(sequence) - sequence->computed;
    if (scheduler->options.whole_prompts && rows > limit) return 0;
    if (rows > limit) rows = limit;
    bool scored = is_scored(sequence);
    if (scored && rows > *prompt_logits_left) rows = *prompt_logits_left;
    if (rows > 0) rows = plan_images(scheduler, sequence, rows);
    if (rows == 0) return 0;
    add_entry(scheduler, sequence, rows);
    if (scored) *prompt_logits_left -= rows;
    return rows;
}

static void mark_scheduled(agl_scheduler *scheduler, agl_sequence *sequence)
{
    agl_request *request = sequence->request;
    uint32_t tokens = agl_sequence_tokens(sequence);
    if (scheduler->pages->prefix != NULL) {
        scheduler->counters.prefix_queries += tokens;
        scheduler->counters.prefix_hits += sequence->computed;
    }
    if (request->scheduled) return;
    request->scheduled = true;
    agl_engine_left_queue(request->engine, request);
    pthread_mutex_lock(&request->lock);
    request->scheduled_ns = agl_clock_ns();
    request->cached_tokens = sequence->computed;
    pthread_mutex_unlock(&request->lock);
}

/* Take the head of the queue in, if a slot and its pages are there. */
static agl_sequence *admit_next(agl_scheduler *scheduler)
{
    if (scheduler->waiting_count == 0) return NULL;
    agl_sequence *head = scheduler->waiting[0];
    if (scheduler->slots_used + head->slots > scheduler->options.max_sequences) return NULL;
    uint32_t available = agl_page_pool_available(scheduler->pages->pool);
    if (scheduler->blocked == head && available <= scheduler->blocked_available &&
        ++scheduler->blocked_plans < BLOCKED_PLANS_MAX && scheduler->running_count > 0) return NULL;

    /* A page for each that runs, so that the newcomer is not preempted at once. */
    uint32_t reserve = scheduler->slots_used;
    uint32_t sixteenth = agl_page_pool_size(scheduler->pages->pool) / 16;
    if (reserve > sixteenth) reserve = sixteenth;
    if (!agl_sequence_admit(scheduler->pages, head, reserve)) {
        scheduler->blocked = head;
        scheduler->blocked_available = available;
        scheduler->blocked_plans = 0;
        return NULL;
    }
    scheduler->blocked = NULL;
    heap_remove(scheduler, head);
    scheduler->preempted_count -= head->request->scheduled;
    scheduler->slots_used += head->slots;
    running_insert(scheduler, head);
    mark_scheduled(scheduler, head);
    return head;
}

agl_step_plan *agl_scheduler_plan(agl_scheduler *scheduler)
{
    scheduler->plan = &scheduler->plans[1 - scheduler->plan->turn];
    agl_step_plan *plan = scheduler->plan;
    *plan = (agl_step_plan){.entries = plan->entries, .turn = plan->turn};
    scheduler->pages->copy_count = 0;

    plan_decodes(scheduler);
    uint32_t left = prompt_rows_max(scheduler);
    uint32_t prompt_logits_left = scheduler->options.prompt_logit_rows;
    for (uint32_t i = 0; i < scheduler->running_count && left > 0; i++) {
        agl_sequence *sequence = scheduler->running[i];
        if (is_decoding(sequence)) continue;
        left -= plan_chunk(scheduler, sequence, left, &prompt_logits_left);
    }
    while (left > 0) {
        agl_sequence *sequence = admit_next(scheduler);
        if (sequence == NULL) break;
        left -= plan_chunk(scheduler, sequence, left, &prompt_logits_left);
    }
    return plan;
}

void agl_scheduler_measured(agl_scheduler *scheduler, const agl_step_plan *plan, double seconds)
{
    uint32_t prompt_rows = plan->row_count - plan->decode_rows;
    if (prompt_rows == 0) {
        double *mean = &scheduler->decode_step_s;
        *mean = *mean == 0.0 ? seconds : *mean + EWMA_WEIGHT * (seconds - *mean);
    } else if (prompt_rows >= CHUNK_ROWS_MIN) {
        double added = seconds - (plan->decode_rows > 0 ? scheduler->decode_step_s : 0.0);
        double row_s = added > 0.0 ? added / prompt_rows : 0.0;
        double *mean = &scheduler->prompt_row_s;
        *mean = *mean == 0.0 ? row_s : *mean + EWMA_WEIGHT * (row_s - *mean);
    }
}

uint32_t agl_scheduler_running(const agl_scheduler *scheduler)
{
    return scheduler->slots_used;
}

uint32_t agl_scheduler_preempted(const agl_scheduler *scheduler)
{
    return scheduler->preempted_count;
}

agl_scheduler_counters agl_scheduler_counters_get(const agl_scheduler *scheduler)
{
    return scheduler->counters;
}
