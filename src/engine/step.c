/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/step.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/picture_room.h"
#include "engine/step_graphs.h"

#define ALIGN 64

/* Added to one logit it makes that token the arg-max whatever the others are: how a prompt's
 * own token is scored by the sampler, whose logprob and rank are of the raw logits. */
#define FORCING_BIAS 1e30f

/* Host pointers of the arrays of one block. */
typedef struct {
    int32_t *ids, *positions, *visual_rows, *logit_rows, *page_tables;
    int64_t *slots;
    agl_attention_sequence *sequences;
} step_inputs;

/* All that one step on the device needs to stay as it is. */
typedef struct {
    unsigned char *host;            /* [capacity_bytes] like the step's device block */
    size_t used_bytes;
    step_inputs in;                 /* in `host`                         */
    agl_batch batch;                /* in the device block               */
    bool recorded;                  /* as a graph; then padded with dead rows */
    int64_t logit_count;            /* of live and buried rows, padding excluded */
    agl_sample_row *rows;           /* [max_logit_rows]                  */
    agl_sample_result *results;     /* [max_logit_rows]                  */
    agl_logit_bias *forced;         /* [max_logit_rows] for prompt logprobs */
    uint32_t *logit_first;          /* [max_sequences] of an entry: prompt rows, then samples */
    uint32_t *sample_first;         /* [max_sequences]                   */
} step_block;

struct agl_step {
    agl_step_options options;
    step_block blocks[2];           /* by plan->turn                     */
    unsigned char *device;          /* [capacity_bytes] inputs           */
    size_t capacity_bytes;
    agl_picture_room *picture;      /* NULL: no vision                   */
    agl_step_graphs *graphs;        /* NULL: every step is launched piece by piece */
};

static size_t aligned(size_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

uint64_t agl_step_input_bytes(const agl_step_options *options)
{
    size_t rows = options->max_rows, sequences = options->max_sequences;
    size_t pages = (options->max_model_len + options->page_tokens - 1) / options->page_tokens;
    return 4 * aligned(rows * sizeof(int32_t)) + aligned(3 * rows * sizeof(int32_t)) +
           aligned(options->max_logit_rows * sizeof(int32_t)) + aligned(rows * sizeof(int64_t)) +
           aligned(sequences * sizeof(agl_attention_sequence)) +
           aligned((sequences * pages + 1) * sizeof(int32_t));
}

static agl_status create_block(step_block *block, const agl_step_options *options, agl_error *err)
{
    block->host = calloc(1, agl_step_input_bytes(options));
    block->rows = calloc(options->max_logit_rows, sizeof *block->rows);
    block->results = calloc(options->max_logit_rows, sizeof *block->results);
    block->forced = calloc(options->max_logit_rows, sizeof *block->forced);
    block->logit_first = calloc(options->max_sequences, sizeof *block->logit_first);
    block->sample_first = calloc(options->max_sequences, sizeof *block->sample_first);
    if (block->host == NULL || block->rows == NULL || block->results == NULL ||
        block->forced == NULL || block->logit_first == NULL || block->sample_first == NULL) {
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for the inputs of a step");
    }
    return AGL_OK;
}

static void destroy_block(step_block *block)
{
    free(block->host);
    free(block->rows);
    free(block->results);
    free(block->forced);
    free(block->logit_first);
    free(block->sample_first);
}

void agl_step_destroy(agl_step *step)
{
    if (step == NULL) return;
    agl_backend *backend = step->options.backend;
    agl_step_graphs_destroy(step->graphs);
    destroy_block(&step->blocks[0]);
    destroy_block(&step->blocks[1]);
    if (step->device != NULL) backend->ops->free(backend, step->device);
    agl_picture_room_destroy(step->picture);
    free(step);
}

/* ---- inputs ------------------------------------------------------------ */

/* Next array of the block: the host pointer is returned, *device gets its twin. */
static void *take(const agl_step *step, step_block *block, const void **device, size_t bytes)
{
    assert(block->used_bytes + aligned(bytes) <= step->capacity_bytes);
    void *host = block->host + block->used_bytes;
    *device = step->device + block->used_bytes;
    block->used_bytes += aligned(bytes);
    return host;
}

static uint32_t table_entries(const agl_step *step, const agl_step_entry *entry)
{
    uint32_t context = entry->first + entry->row_count;
    return (context + step->options.page_tokens - 1) / step->options.page_tokens;
}

/* Rows to record it with if all of the step's rows are text, one of each sequence, and each has its
 * logits; else 0. */
static uint32_t recorded_rows(const agl_step *step, const agl_step_plan *plan)
{
    if (step->graphs == NULL || plan->row_count != plan->entry_count) return 0;
    for (uint32_t e = 0; e < plan->entry_count; e++) {
        const agl_step_entry *entry = &plan->entries[e];
        const agl_prompt *prompt = &entry->sequence->request->prompt;
        if (prompt->image_count > 0 && entry->first < prompt->tokens.count) return 0;
        if (entry->prompt_logits + entry->samples != 1) return 0;
    }
    return agl_step_graphs_size_for(step->graphs, plan->row_count);
}

typedef struct {
    size_t rows, sequences, logits, page_entries;
} step_sizes;

static void lay_out(const agl_step *step, step_block *block, const step_sizes *sizes)
{
    step_inputs *in = &block->in;
    agl_batch *batch = &block->batch;
    size_t rows = sizes->rows;
    block->used_bytes = 0;
    *batch = (agl_batch){.rows = (int64_t)rows, .sequence_count = (int64_t)sizes->sequences,
                         .logit_count = (int64_t)sizes->logits, .kv = step->options.kv->layers};
    in->ids = take(step, block, (const void **)&batch->ids, rows * sizeof *in->ids);
    in->positions = take(step, block, (const void **)&batch->positions,
                         3 * rows * sizeof *in->positions);
    in->visual_rows = take(step, block, (const void **)&batch->visual_rows,
                           rows * sizeof *in->visual_rows);
    in->logit_rows = take(step, block, (const void **)&batch->logit_rows,
                          sizes->logits * sizeof *in->logit_rows);
    in->slots = take(step, block, (const void **)&batch->slots, rows * sizeof *in->slots);
    in->sequences = take(step, block, (const void **)&batch->sequences,
                         sizes->sequences * sizeof *in->sequences);
    /* Last: the only array whose size differs between steps of one recording. */
    in->page_tables = take(step, block, (const void **)&batch->page_tables,
                           sizes->page_entries * sizeof *in->page_tables);
}

static void lay_out_plan(const agl_step *step, step_block *block, const agl_step_plan *plan)
{
    uint32_t padded = recorded_rows(step, plan);
    step_sizes sizes = {plan->row_count, plan->entry_count, plan->logit_count, 0};
    for (uint32_t i = 0; i < plan->entry_count; i++) {
        sizes.page_entries += table_entries(step, &plan->entries[i]);
    }
    if (padded > 0) {
        sizes.rows = sizes.sequences = sizes.logits = padded;
        sizes.page_entries++;       /* page 0, for the dead */
    }
    block->recorded = padded > 0;
    block->logit_count = plan->logit_count;
    lay_out(step, block, &sizes);
}

/* What makes a step one that is recorded: dead rows from `row` on, which share one entry of the page
 * tables, and logits of all rows. */
static void fill_recorded(step_block *block, uint32_t row, uint32_t table)
{
    const step_inputs *in = &block->in;
    uint32_t rows = (uint32_t)block->batch.rows;
    block->batch.logit_rows = NULL;
    in->page_tables[table] = 0;
    for (uint32_t i = row; i < rows; i++) {
        in->ids[i] = 0;
        in->positions[i] = in->positions[rows + i] = in->positions[2 * rows + i] = 0;
        in->slots[i] = -1;
        in->sequences[i] = (agl_attention_sequence){
            .row_first = (int32_t)i, .row_count = 1, .context = 1, .page_table = (int32_t)table};
    }
}

/* The last token of a pending entry is not known yet: complete() puts it in. */
static void fill_ids(const agl_step_entry *entry, int32_t *ids)
{
    uint32_t known = entry->row_count - entry->pending;
    for (uint32_t i = 0; i < known; i++) {
        ids[i] = agl_sequence_token(entry->sequence, entry->first + i);
    }
    if (entry->pending) ids[known] = 0;
}

static void fill_slots(const agl_step *step, const agl_step_entry *entry, int64_t *slots)
{
    uint32_t page_tokens = step->options.page_tokens;
    uint32_t page = entry->first / page_tokens;
    uint32_t offset = entry->first % page_tokens;
    for (uint32_t i = 0; i < entry->row_count; i++) {
        slots[i] = (int64_t)entry->sequence->pages[page] * page_tokens + offset;
        if (++offset == page_tokens) {
            offset = 0;
            page++;
        }
    }
}

/* Rows of `visual` for the placeholders among the entry's tokens; true if there are any. */
static bool fill_visual(const agl_step *step, const agl_step_entry *entry, int32_t *visual_rows)
{
    const agl_sequence *sequence = entry->sequence;
    const agl_prompt *prompt = &sequence->request->prompt;
    uint32_t first = entry->first, end = first + entry->row_count;
    bool any = false;
    for (uint32_t i = 0; i < entry->row_count; i++) visual_rows[i] = -1;
    for (size_t i = 0; i < prompt->image_count; i++) {
        const agl_prefix_image *image = &prompt->images[i];
        uint32_t image_end = image->first_token + image->rows * image->columns;
        uint32_t from = image->first_token > first ? image->first_token : first;
        uint32_t to = image_end < end ? image_end : end;
        if (from >= to) continue;
        int64_t row = agl_encoder_cache_row(step->options.encoder, sequence->image_entries[i]);
        for (uint32_t t = from; t < to; t++) {
            visual_rows[t - first] = (int32_t)(row + t - image->first_token);
        }
        any = true;
    }
    return any;
}

static void fill_prompt_scoring(step_block *block, const agl_step_entry *entry, uint32_t logit)
{
    const agl_request *request = entry->sequence->request;
    const agl_sampling_rules *rules = &request->sampling;
    for (uint32_t i = 0; i < entry->prompt_logits; i++) {
        uint32_t token = entry->first + i + 1;
        block->forced[logit + i] = (agl_logit_bias){request->prompt.tokens.ids[token], FORCING_BIAS};
        block->rows[logit + i] = (agl_sample_row){
            .top_p = 1.0f, .repetition_penalty = 1.0f, .logprobs = rules->prompt_logprobs,
            .bias = &block->forced[logit + i], .bias_count = 1};
        block->results[logit + i] = (agl_sample_result){
            .top = agl_results_top(request->prompt_results, request->prompt.tokens.count,
                                   rules->prompt_logprobs, token)};
    }
}

/* The i-th of the sequences that an entry's samples are for. */
static agl_sequence *sampled_choice(const agl_step_entry *entry, uint32_t i)
{
    return entry->samples > 1 ? &entry->sequence->request->sequences[i] : entry->sequence;
}

/* Number, in the output, of the token that an entry samples. */
static uint32_t sampled_index(const agl_step_entry *entry)
{
    return entry->first + entry->row_count - (uint32_t)entry->sequence->request->prompt.tokens.count;
}

/* One logit row of the entry's last row for each choice that goes on from it. */
static void fill_sampling(step_block *block, const agl_step_entry *entry, uint32_t logit)
{
    const agl_sampling_rules *rules = &entry->sequence->request->sampling;
    for (uint32_t i = 0; i < entry->samples; i++) {
        const agl_sequence *choice = sampled_choice(entry, i);
        uint32_t index = sampled_index(entry);
        agl_sampler_row(&choice->sampler, &block->rows[logit + i], index);
        block->results[logit + i] = (agl_sample_result){0};
        if (choice->results == NULL) continue;
        block->results[logit + i].top = agl_results_top(choice->results, rules->max_tokens,
                                                        rules->logprobs, index);
    }
}

void agl_step_prepare(agl_step *step, const agl_step_plan *plan)
{
    step_block *block = &step->blocks[plan->turn];
    lay_out_plan(step, block, plan);
    const step_inputs *in = &block->in;
    agl_batch *batch = &block->batch;
    uint32_t rows = (uint32_t)batch->rows, row = 0, logit = 0, table = 0;
    bool visual = false;
    for (uint32_t e = 0; e < plan->entry_count; e++) {
        const agl_step_entry *entry = &plan->entries[e];
        const agl_sequence *sequence = entry->sequence;
        const agl_prompt *prompt = &sequence->request->prompt;
        uint32_t first = entry->first, count = entry->row_count;
        fill_ids(entry, in->ids + row);
        int32_t *t = in->positions + row;
        agl_positions_fill(t, t + rows, t + 2 * rows, first, count, prompt->spans,
                           prompt->image_count);
        fill_slots(step, entry, in->slots + row);
        if (fill_visual(step, entry, in->visual_rows + row)) visual = true;
        uint32_t entries = table_entries(step, entry);
        memcpy(in->page_tables + table, sequence->pages, entries * sizeof *sequence->pages);
        in->sequences[e] = (agl_attention_sequence){
            .row_first = (int32_t)row, .row_count = (int32_t)count,
            .context = (int32_t)(first + count), .page_table = (int32_t)table};
        if (first + count > batch->context_max) batch->context_max = first + count;

        for (uint32_t i = 0; i < entry->prompt_logits; i++) {
            in->logit_rows[logit + i] = (int32_t)(row + i);
        }
        fill_prompt_scoring(block, entry, logit);
        block->logit_first[e] = logit;
        logit += entry->prompt_logits;
        for (uint32_t i = 0; i < entry->samples; i++) {
            in->logit_rows[logit + i] = (int32_t)(row + count - 1);
        }
        fill_sampling(block, entry, logit);
        block->sample_first[e] = logit;
        logit += entry->samples;
        row += count;
        table += entries;
    }
    assert(row == plan->row_count && logit == plan->logit_count);
    if (block->recorded) fill_recorded(block, row, table);
    assert(!(block->recorded && visual));
    batch->visual = visual ? agl_encoder_cache_rows(step->options.encoder) : NULL;
    if (!visual) batch->visual_rows = NULL;
}

static void bury(step_block *block, agl_step_plan *plan, uint32_t e)
{
    agl_step_entry *entry = &plan->entries[e];
    agl_attention_sequence *sequence = &block->in.sequences[e];
    assert(entry->row_count == 1 && entry->samples == 1 && entry->prompt_logits == 0);
    block->in.slots[sequence->row_first] = -1;
    block->in.page_tables[sequence->page_table] = 0;
    sequence->context = 1;
    uint32_t sample = block->sample_first[e];
    block->rows[sample] = (agl_sample_row){.top_p = 1.0f, .repetition_penalty = 1.0f, .logprobs = -1};
    block->results[sample] = (agl_sample_result){0};
    entry->sequence = NULL;
    plan->live_count--;
}

void agl_step_complete(agl_step *step, agl_step_plan *plan)
{
    step_block *block = &step->blocks[plan->turn];
    for (uint32_t e = 0; e < plan->entry_count; e++) {
        const agl_step_entry *entry = &plan->entries[e];
        agl_sequence *sequence = entry->sequence;
        if (sequence->ending != AGL_FINISH_NONE) {
            bury(block, plan, e);
            continue;
        }
        if (entry->pending) {
            int32_t last = block->in.sequences[e].row_first + (int32_t)entry->row_count - 1;
            block->in.ids[last] = sequence->output[sequence->output_count - 1];
        }
        for (uint32_t i = 0; i < entry->samples; i++) {
            agl_sequence *choice = sampled_choice(entry, i);
            agl_sampler_row_complete(&choice->sampler, &block->rows[block->sample_first[e] + i],
                                     choice->output, choice->output_count);
        }
    }
}

/* ---- device work ------------------------------------------------------- */

static agl_status run_image(agl_step *step, const agl_step_image *image, agl_error *err)
{
    const agl_step_options *options = &step->options;
    const agl_prefix_image *place = &image->request->prompt.images[image->image];
    const agl_config *config = &image->request->engine->config;
    int64_t side = config->vision.patch * config->vision.merge;
    int64_t height = place->rows * side, width = place->columns * side;
    size_t row_bytes = (size_t)config->text.hidden * agl_dtype_bytes(options->backend->activation);
    char *out = (char *)agl_encoder_cache_rows(options->encoder) +
                (size_t)agl_encoder_cache_row(options->encoder, image->entry) * row_bytes;
    uint64_t started = agl_clock_ns();
    const uint8_t *pixels = NULL;
    agl_status status = agl_picture_room_load(step->picture, &pixels, options->stream,
                                              &image->request->prompt.pixels[image->image], height, width);
    if (status == AGL_OK) {
        status = agl_model_encode_image(options->model, options->stream, pixels, height, width, out);
    }
    if (status != AGL_OK) {
        return agl_fail(err, AGL_ERR_DEVICE, "the vision tower failed: %s", agl_status_text(status));
    }
    AGL_TRY(options->backend->ops->stream_wait(options->stream, err));
    pthread_mutex_lock(&image->request->lock);
    image->request->vision_s += (double)(agl_clock_ns() - started) * 1e-9;
    pthread_mutex_unlock(&image->request->lock);
    return AGL_OK;
}

static agl_status run_sample(agl_step *step, step_block *block, float *logits)
{
    if (block->logit_count == 0) return AGL_OK;
    agl_sample_args args = {
        .logits = logits,
        .rows = block->logit_count,
        .vocab = step->options.vocab,
        .vocab_used = step->options.vocab_used,
        .params = block->rows,
        .results = block->results,
    };
    return step->options.backend->ops->sample(step->options.stream, &args);
}

static agl_status copy_pages(agl_step *step, const agl_page_context *pages)
{
    for (uint32_t i = 0; i < pages->copy_count; i++) {
        AGL_TRY(agl_kv_memory_copy(step->options.kv, step->options.stream, pages->copies[i].to,
                                   pages->copies[i].from));
    }
    return AGL_OK;
}

static agl_status run_batch(agl_step *step, step_block *block)
{
    const agl_step_options *options = &step->options;
    float *logits = NULL;
    AGL_TRY(options->backend->ops->upload(options->stream, step->device, block->host,
                                          block->used_bytes));
    if (block->recorded) {
        AGL_TRY(agl_step_graphs_run(step->graphs, &block->batch, &logits));
    } else {
        AGL_TRY(agl_model_decode(options->model, options->stream, &block->batch, &logits));
    }
    return run_sample(step, block, logits);
}

static agl_status queue_step(agl_step *step, const agl_step_plan *plan,
                             const agl_page_context *pages, agl_error *err)
{
    agl_status status = copy_pages(step, pages);
    for (uint32_t i = 0; status == AGL_OK && i < plan->image_count; i++) {
        AGL_TRY(run_image(step, &plan->images[i], err));
    }
    if (status == AGL_OK && plan->live_count > 0) {
        status = run_batch(step, &step->blocks[plan->turn]);
    }
    if (status == AGL_OK) return AGL_OK;
    return agl_fail(err, AGL_ERR_DEVICE, "the forward pass failed: %s", agl_status_text(status));
}

agl_status agl_step_launch(agl_step *step, const agl_step_plan *plan,
                           const agl_page_context *pages, agl_error *err)
{
    agl_status status = queue_step(step, plan, pages, err);
    if (status == AGL_OK) return AGL_OK;
    /* What was queued before reads host memory; and the device knows best what went wrong. */
    agl_error device;
    if (agl_step_wait(step, &device) == AGL_OK) return status;
    return agl_fail(err, AGL_ERR_DEVICE, "%s", device.message);
}

bool agl_step_launch_blocks(const agl_step *step, const agl_step_plan *plan)
{
    return step->options.backend->synchronous || plan->image_count > 0;
}

agl_status agl_step_wait(agl_step *step, agl_error *err)
{
    return step->options.backend->ops->stream_wait(step->options.stream, err);
}

/* ---- recording --------------------------------------------------------- */

/* Libraries choose and load their kernels when they first see a shape, which must not fall into
 * a recording: so each size is run once before, as if for the longest context, which takes the
 * kernels of long contexts too. */
static agl_status record_size(agl_step *step, uint32_t rows, agl_error *err)
{
    step_block *block = &step->blocks[0];
    const agl_step_options *options = &step->options;
    float *logits;
    lay_out(step, block, &(step_sizes){rows, rows, rows, 1});
    fill_recorded(block, 0, 0);
    block->batch.visual_rows = NULL;
    block->batch.context_max = options->max_model_len;
    agl_status status = options->backend->ops->upload(options->stream, step->device, block->host,
                                                      block->used_bytes);
    if (status == AGL_OK) {
        status = agl_model_decode(options->model, options->stream, &block->batch, &logits);
    }
    AGL_TRY(agl_step_wait(step, err));
    if (status != AGL_OK) {
        return agl_fail(err, status, "a step of %u rows cannot be run: %s", rows,
                        agl_status_text(status));
    }
    return agl_step_graphs_record(step->graphs, &block->batch, err);
}

static agl_status record_steps(agl_step *step, agl_error *err)
{
    const agl_step_options *options = &step->options;
    if (options->eager || options->backend->ops->graph_begin == NULL) return AGL_OK;
    agl_step_graphs_options graphs = {
        .backend = options->backend, .stream = options->stream, .model = options->model,
        .rows_max = options->max_sequences, .context_max = options->max_model_len};
    AGL_TRY(agl_step_graphs_create(&step->graphs, &graphs, err));
    uint32_t last = options->max_sequences, rows;
    for (uint32_t i = 0; (rows = agl_step_graphs_size_at(step->graphs, i)) != 0; i++) {
        if (options->progress != NULL) {
            options->progress(options->progress_user, "graphs", (double)rows / last);
        }
        agl_error cause;
        if (record_size(step, rows, &cause) == AGL_OK) continue;
        /* A device that cannot record can still run; one that is lost cannot. */
        AGL_TRY(agl_step_wait(step, err));
        agl_log_warning("Steps are not recorded, short ones will be slower: %s", cause.message);
        agl_step_graphs_destroy(step->graphs);
        step->graphs = NULL;
        return AGL_OK;
    }
    return AGL_OK;
}

agl_status agl_step_create(agl_step **out, const agl_step_options *options, agl_error *err)
{
    agl_step *step = calloc(1, sizeof *step);
    if (step == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the step");
    step->options = *options;
    agl_backend *backend = options->backend;
    agl_status status = create_block(&step->blocks[0], options, err);
    if (status == AGL_OK) status = create_block(&step->blocks[1], options, err);
    step->capacity_bytes = agl_step_input_bytes(options);
    if (status == AGL_OK) {
        status = backend->ops->alloc(backend, (void **)&step->device, step->capacity_bytes,
                                     AGL_MEMORY_STEP_INPUT, err);
    }
    if (status == AGL_OK && options->encoder != NULL) {
        status = agl_picture_room_create(&step->picture, backend, options->pixel_bytes_max, err);
    }
    if (status == AGL_OK) status = record_steps(step, err);
    if (status != AGL_OK) {
        agl_step_destroy(step);
        return status;
    }
    *out = step;
    return AGL_OK;
}

const agl_sample_result *agl_step_sample(const agl_step *step, const agl_step_plan *plan,
                                         uint32_t entry, uint32_t i)
{
    const step_block *block = &step->blocks[plan->turn];
    return &block->results[block->sample_first[entry] + i];
}

const agl_sample_result *agl_step_prompt_result(const agl_step *step, const agl_step_plan *plan,
                                                uint32_t entry, uint32_t i)
{
    const step_block *block = &step->blocks[plan->turn];
    return &block->results[block->logit_first[entry] + i];
}
