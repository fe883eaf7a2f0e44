/* SPDX-License-Identifier: Apache-2.0
 *
 * sample.cu - rows of logits to tokens on the device.
 *
 *   logits   [rows, vocab]   f32      penalties and biases are made in place, and unmade in rows
 *                                     whose log-probabilities are wanted
 *   params   host [rows]              packed into one pinned block, one copy a group of rows
 *   results  host [rows]              one copy into pinned memory; agl_cuda_sample_finish hands
 *                                     them over when the stream has been waited for
 *
 * Needs     vocab < 2^22; lists of one row within PLACES_EXTRA of the vocabulary each;
 *           logprobs <= SAMPLE_LIST (the launcher refuses the rest with LIMIT).
 * Bound     latency of a few passes over logits that are still in the L2.
 * Grid      sample_best, sample_masses: slices x rows; sample_choose, sample_report: a block a row.
 * Numerics  masses are integers, so sums have no order: the same row, parameters and `random`
 *           give the same token in every batch. docs/KERNELS.md, "CUDA: sampling", says when it can
 *           differ from the portable one's.
 *
 * A call is cut into groups of rows when its lists, masks or alternatives exceed the block. All
 * kernels of a backend use one workspace: rows are sampled on one stream at a time. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/launch.cuh"
#include "backend/cuda/sample_choose.cuh"

#define UPLOADS 2                   /* parameter blocks: one is filled while the other travels    */
#define PENDING_MAX 4               /* groups whose results nobody has waited for                 */
#define PLACES_EXTRA 4096           /* edits of a row beyond one each for all tokens: bans        */
#define TOPS_USUAL 20               /* alternatives planned for all rows of a group               */
#define SLICES_PER_PROCESSOR 8
#define ALIGN 256

typedef struct {
    unsigned char *data;                /* pinned [block_bytes]                              */
    cudaEvent_t sent;
} upload_block;

typedef struct {
    agl_stream *stream;                 /* NULL: free                                        */
    agl_sample_result *results;         /* the caller's                                      */
    int64_t rows;
    int32_t top_stride;
    unsigned char *data;                /* pinned [results_bytes]                            */
} pending_results;

/* Sizes that follow from the limits, and where things lie in sample_space. */
typedef struct {
    int64_t rows_max, group_rows, vocab;
    size_t edits_max;                   /* of a row: penalties or biases                     */
    size_t block_bytes, results_bytes;
    size_t tokens, block, results, histograms, end;
} sample_layout;

struct agl_cuda_sampler {
    agl_cuda *cuda;
    sample_layout layout;
    unsigned char *pinned;
    upload_block uploads[UPLOADS];
    int upload_next;
    pending_results pending[PENDING_MAX];
    uint32_t *seen;                     /* [vocab / 32] bits: tokens of the wave being packed */
};

static size_t aligned(size_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

static size_t mask_bytes(int64_t vocab) { return (size_t)(vocab + 31) / 32 * sizeof(uint32_t); }

/* A wave holds an edit or more, so there are at most as many ends as edits. */
static size_t edits_bytes(size_t edits)
{
    return edits * (sizeof(sample_edit) + sizeof(int32_t)) + sizeof(sample_edit);
}

/* The tokens come first in the space: they stay there until the next call. */
static sample_layout layout_of(const agl_backend_limits *limits)
{
    sample_layout layout = {};
    layout.rows_max = limits->logit_rows_max > 1 ? limits->logit_rows_max : 1;
    layout.group_rows = layout.rows_max < SAMPLE_ROWS ? layout.rows_max : SAMPLE_ROWS;
    layout.vocab = limits->vocab > 1 ? limits->vocab : 1;
    layout.edits_max = (size_t)layout.vocab + PLACES_EXTRA;
    size_t rows = (size_t)layout.group_rows;
    layout.block_bytes = aligned(rows * sizeof(sample_row)) +
                         aligned(edits_bytes(2 * layout.edits_max) + mask_bytes(layout.vocab));
    size_t tops = rows * TOPS_USUAL > SAMPLE_LIST ? rows * TOPS_USUAL : SAMPLE_LIST;
    layout.results_bytes = aligned(rows * sizeof(sample_result) + tops * sizeof(sample_top));
    layout.tokens = 0;
    layout.block = aligned((size_t)layout.rows_max * sizeof(int32_t));
    layout.results = layout.block + layout.block_bytes;
    layout.histograms = layout.results + layout.results_bytes;
    layout.end = layout.histograms + rows * sizeof(sample_histogram);
    return layout;
}

extern "C" uint64_t agl_cuda_sample_bytes(const agl_cuda *cuda, const agl_backend_limits *limits)
{
    (void)cuda;
    return layout_of(limits).end;
}

extern "C" const int32_t *agl_cuda_sampled_tokens(const agl_backend *backend)
{
    const agl_cuda *cuda = (const agl_cuda *)backend;
    return (const int32_t *)((const unsigned char *)cuda->sample_space.data +
                             cuda->sampler->layout.tokens);
}

/* ---- the sampler ------------------------------------------------------------- */

extern "C" agl_status agl_cuda_sampler_create(agl_cuda_sampler **out, agl_cuda *cuda,
                                              agl_error *err)
{
    sample_layout layout = layout_of(&cuda->limits);
    if (layout.vocab >= 1 << SAMPLE_TOKEN_BITS) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "a vocabulary of %lld tokens cannot be sampled",
                        (long long)layout.vocab);
    }
    agl_cuda_sampler *sampler = (agl_cuda_sampler *)calloc(1, sizeof *sampler);
    uint32_t *seen = (uint32_t *)calloc(1, mask_bytes(layout.vocab));
    if (sampler == NULL || seen == NULL) {
        free(sampler);
        free(seen);
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for the sampler");
    }
    sampler->cuda = cuda;
    sampler->layout = layout;
    sampler->seen = seen;
    size_t bytes = UPLOADS * layout.block_bytes + PENDING_MAX * layout.results_bytes;
    agl_status status = agl_cuda_check(cudaMallocHost((void **)&sampler->pinned, bytes),
                                       "pinned memory for sampling", err);
    unsigned char *next = sampler->pinned;
    for (int i = 0; status == AGL_OK && i < UPLOADS; i++, next += layout.block_bytes) {
        sampler->uploads[i].data = next;
        status = agl_cuda_check(cudaEventCreateWithFlags(&sampler->uploads[i].sent,
                                                         cudaEventDisableTiming),
                                "event for sampling", err);
    }
    for (int i = 0; status == AGL_OK && i < PENDING_MAX; i++, next += layout.results_bytes) {
        sampler->pending[i].data = next;
    }
    if (status != AGL_OK) {
        agl_cuda_sampler_destroy(sampler);
        return status;
    }
    *out = sampler;
    return AGL_OK;
}

extern "C" void agl_cuda_sampler_destroy(agl_cuda_sampler *sampler)
{
    if (sampler == NULL) return;
    for (int i = 0; i < UPLOADS; i++) {
        if (sampler->uploads[i].sent != NULL) cudaEventDestroy(sampler->uploads[i].sent);
    }
    if (sampler->pinned != NULL) cudaFreeHost(sampler->pinned);
    free(sampler->seen);
    free(sampler);
}

/* ---- results ------------------------------------------------------------------- */

static void hand_over(pending_results *pending)
{
    const sample_result *from = (const sample_result *)pending->data;
    const sample_top *tops = (const sample_top *)(from + pending->rows);
    for (int64_t i = 0; i < pending->rows; i++, tops += pending->top_stride) {
        agl_sample_result *to = &pending->results[i];
        to->token = from[i].token;
        to->logprob = from[i].logprob;
        to->rank = from[i].rank;
        to->top_count = from[i].top_count;
        for (int32_t j = 0; j < from[i].top_count; j++) {
            agl_token_logprob top = {tops[j].token, tops[j].logprob, j + 1};
            to->top[j] = top;
        }
    }
    pending->stream = NULL;
}

extern "C" void agl_cuda_sample_finish(agl_stream *stream)
{
    agl_cuda_sampler *sampler = agl_cuda_of(stream)->sampler;
    if (sampler == NULL) return;
    for (int i = 0; i < PENDING_MAX; i++) {
        if (sampler->pending[i].stream == stream) hand_over(&sampler->pending[i]);
    }
}

/* A free place; if there is none, somebody is waited for. */
static agl_status acquire_pending(pending_results **out, agl_cuda_sampler *sampler)
{
    for (;;) {
        for (int i = 0; i < PENDING_MAX; i++) {
            if (sampler->pending[i].stream != NULL) continue;
            *out = &sampler->pending[i];
            return AGL_OK;
        }
        agl_stream *stream = sampler->pending[0].stream;
        if (cudaStreamSynchronize(agl_cuda_queue(stream)) != cudaSuccess) return AGL_ERR_DEVICE;
        agl_cuda_sample_finish(stream);
    }
}

/* ---- parameters ---------------------------------------------------------------- */

/* value in units of 2^-64, rounded down; [0, 1). */
static uint64_t fraction_of(double value)
{
    if (!(value > 0.0)) return 0;
    return value >= 1.0 ? UINT64_MAX : (uint64_t)(value * 0x1p64);
}

static sample_row packed_row(const agl_sample_row *row)
{
    sample_row out = {};
    float inverse = row->temperature > 0.0f ? 1.0f / row->temperature : INFINITY;
    if (isfinite(inverse)) out.flags |= SAMPLE_DRAWS;
    if (row->top_p < 1.0f) out.flags |= SAMPLE_TOP_P;
    out.random = fraction_of(row->random);
    out.top_p = fraction_of((double)row->top_p);
    out.mass_min = row->min_p > 0.0f ? (double)row->min_p : 0.0;
    out.inverse_temperature = inverse;
    /* 32 temperatures below the best in 2048 bins, but never more than 64 logits. */
    out.bin_scale = fmaxf(64.0f * inverse, RAW_BIN_SCALE);
    out.repetition = row->repetition_penalty > 0.0f ? row->repetition_penalty : 1.0f;
    out.frequency = row->frequency_penalty;
    out.presence = row->presence_penalty;
    out.top_k = row->top_k;
    out.logprobs = row->logprobs;
    out.allowed = SAMPLE_NO_MASK;
    return out;
}

/* The edits and wave ends of a row while they are packed. */
typedef struct {
    sample_edit *edits;
    int32_t count, wave_first;
    int32_t *ends;                      /* [wave_count], gathered in a place of its own       */
    int32_t wave_count;
    uint32_t *seen;
    int64_t vocab_used;
} edit_list;

static void close_wave(edit_list *list)
{
    if (list->count == list->wave_first) return;
    for (int32_t i = list->wave_first; i < list->count; i++) {
        list->seen[list->edits[i].token / 32] = 0;
    }
    list->ends[list->wave_count++] = list->count;
    list->wave_first = list->count;
}

static void add_edit(edit_list *list, int32_t token, float value)
{
    if (token < 0 || token >= list->vocab_used) return;
    uint32_t bit = 1u << token % 32;
    if ((list->seen[token / 32] & bit) != 0) close_wave(list);
    list->seen[token / 32] |= bit;
    list->edits[list->count].token = token;
    list->edits[list->count++].value = value;
}

/* The row's lists at `place` of the block; returns the place behind them. */
static size_t pack_edits(agl_cuda_sampler *sampler, unsigned char *block, size_t place,
                         sample_row *out, const agl_sample_row *row, int64_t vocab_used)
{
    size_t most = (size_t)row->count_count + (size_t)row->bias_count;
    if (most == 0) return place;
    place = (place + sizeof(sample_edit) - 1) / sizeof(sample_edit) * sizeof(sample_edit);
    edit_list list = {};
    list.edits = (sample_edit *)(block + place);
    list.ends = (int32_t *)(list.edits + most);
    list.seen = sampler->seen;
    list.vocab_used = vocab_used;
    for (int32_t i = 0; i < row->count_count; i++) {
        add_edit(&list, row->counts[i].token, (float)row->counts[i].output_count);
    }
    close_wave(&list);
    out->penalty_count = list.count;
    for (int32_t i = 0; i < row->bias_count; i++) {
        add_edit(&list, row->bias[i].token, row->bias[i].bias);
    }
    close_wave(&list);
    out->edits = (uint32_t)place;
    out->waves = (uint32_t)((unsigned char *)list.ends - block);
    out->wave_count = list.wave_count;
    return out->waves + (size_t)list.wave_count * sizeof(int32_t);
}

/* ---- groups -------------------------------------------------------------------- */

typedef struct {
    int64_t first, rows;
    int32_t top_stride;                 /* most alternatives of a row                        */
    bool draws, logprobs, reverts;
} sample_group;

static int32_t tops_of(const agl_sample_row *row, int64_t vocab_used)
{
    if (row->logprobs <= 0) return 0;
    return row->logprobs < vocab_used ? row->logprobs : (int32_t)vocab_used;
}

/* As many rows from `first` on as the block and the results hold: one at least. */
static sample_group next_group(const sample_layout *layout, const agl_sample_args *args,
                               int64_t first)
{
    sample_group group = {};
    group.first = first;
    size_t used = aligned((size_t)layout->group_rows * sizeof(sample_row));
    const uint32_t *mask = NULL;
    while (first + group.rows < args->rows && group.rows < layout->group_rows) {
        const agl_sample_row *row = &args->params[first + group.rows];
        size_t edits = (size_t)row->count_count + (size_t)row->bias_count;
        if (edits > 0) used += edits_bytes(edits);
        if (row->allowed != NULL && row->allowed != mask) used += mask_bytes(args->vocab_used);
        int32_t stride = tops_of(row, args->vocab_used);
        if (stride < group.top_stride) stride = group.top_stride;
        size_t results = (size_t)(group.rows + 1) *
                         (sizeof(sample_result) + (size_t)stride * sizeof(sample_top));
        bool fits = used <= layout->block_bytes && results <= layout->results_bytes;
        if (group.rows > 0 && !fits) break;
        mask = row->allowed;
        group.top_stride = stride;
        group.draws = group.draws || row->temperature > 0.0f;
        group.logprobs = group.logprobs || row->logprobs >= 0;
        group.reverts = group.reverts || (row->logprobs >= 0 && edits > 0);
        group.rows++;
    }
    return group;
}

/* Fill a block and queue its copy. */
static agl_status send_parameters(agl_stream *stream, const agl_sample_args *args,
                                  const sample_group *group, unsigned char *device)
{
    agl_cuda_sampler *sampler = agl_cuda_of(stream)->sampler;
    upload_block *upload = &sampler->uploads[sampler->upload_next];
    sampler->upload_next = (sampler->upload_next + 1) % UPLOADS;
    if (cudaEventSynchronize(upload->sent) != cudaSuccess) return AGL_ERR_DEVICE;
    size_t place = (size_t)group->rows * sizeof(sample_row);
    for (int64_t i = 0; i < group->rows; i++) {
        const agl_sample_row *row = &args->params[group->first + i];
        sample_row *out = (sample_row *)upload->data + i;
        *out = packed_row(row);
        place = pack_edits(sampler, upload->data, place, out, row, args->vocab_used);
        if (row->allowed == NULL) continue;
        if (i > 0 && row->allowed == row[-1].allowed) {
            out->allowed = out[-1].allowed;
            continue;
        }
        memcpy(upload->data + place, row->allowed, mask_bytes(args->vocab_used));
        out->allowed = (uint32_t)place;
        place += mask_bytes(args->vocab_used);
    }
    cudaStream_t queue = agl_cuda_queue(stream);
    cudaError_t error = cudaMemcpyAsync(device, upload->data, place, cudaMemcpyHostToDevice, queue);
    if (error == cudaSuccess) error = cudaEventRecord(upload->sent, queue);
    return error == cudaSuccess ? AGL_OK : AGL_ERR_DEVICE;
}

static sample_call call_of(const agl_cuda_sampler *sampler, const agl_sample_args *args,
                           const sample_group *group)
{
    const sample_layout *layout = &sampler->layout;
    unsigned char *space = (unsigned char *)sampler->cuda->sample_space.data;
    sample_call call = {};
    call.logits = (float *)args->logits + group->first * args->vocab;
    call.vocab = args->vocab;
    call.vocab_used = (int32_t)args->vocab_used;
    int64_t slices = (args->vocab_used + SCAN_TOKENS - 1) / SCAN_TOKENS;
    int64_t wanted = (int64_t)SLICES_PER_PROCESSOR * sampler->cuda->processors / group->rows;
    if (slices > wanted) slices = wanted > 1 ? wanted : 1;
    int64_t span = (args->vocab_used + slices - 1) / slices;
    call.span = (int32_t)((span + SCAN_TOKENS - 1) / SCAN_TOKENS * SCAN_TOKENS);
    /* A row's mass stays below 2^62. */
    int bits = 52;
    while (args->vocab_used >> (62 - bits) != 0) bits--;
    call.mass_scale = ldexp(1.0, bits);
    call.block = space + layout->block;
    call.histograms = (sample_histogram *)(space + layout->histograms);
    call.results = (sample_result *)(space + layout->results);
    call.tops = (sample_top *)(call.results + group->rows);
    call.tokens = (int32_t *)(space + layout->tokens) + group->first;
    call.top_stride = group->top_stride;
    call.aligned = args->vocab % 4 == 0 && (uintptr_t)call.logits % 16 == 0;
    return call;
}

static agl_status launch_group(agl_stream *stream, const agl_sample_args *args,
                               const sample_group *group, const sample_call *call)
{
    dim3 rows((unsigned)group->rows);
    dim3 slices((unsigned)((args->vocab_used + call->span - 1) / call->span), rows.x);
    AGL_TRY(cuda_launch(stream, sample_best, slices, dim3(SCAN_THREADS), 0, *call));
    if (group->draws) {
        AGL_TRY(cuda_launch_early(stream, sample_masses<false>, slices, dim3(SCAN_THREADS), 0,
                                  *call));
    }
    if (group->draws || group->reverts) {
        AGL_TRY(cuda_launch_early(stream, sample_choose, rows, dim3(CHOOSE_THREADS), 0, *call));
    }
    if (!group->logprobs) return AGL_OK;
    AGL_TRY(cuda_launch_early(stream, sample_masses<true>, slices, dim3(SCAN_THREADS), 0, *call));
    return cuda_launch_early(stream, sample_report, rows, dim3(CHOOSE_THREADS), 0, *call);
}

static agl_status sample_rows(agl_stream *stream, const agl_sample_args *args,
                              const sample_group *group)
{
    agl_cuda_sampler *sampler = agl_cuda_of(stream)->sampler;
    pending_results *pending = NULL;
    AGL_TRY(acquire_pending(&pending, sampler));
    sample_call call = call_of(sampler, args, group);
    AGL_TRY(send_parameters(stream, args, group, call.block));
    AGL_TRY(launch_group(stream, args, group, &call));
    size_t bytes = (size_t)group->rows *
                   (sizeof(sample_result) + (size_t)group->top_stride * sizeof(sample_top));
    /* If the device fails, what is handed over has no alternatives. */
    memset(pending->data, 0, (size_t)group->rows * sizeof(sample_result));
    if (cudaMemcpyAsync(pending->data, call.results, bytes, cudaMemcpyDeviceToHost,
                        agl_cuda_queue(stream)) != cudaSuccess) {
        return AGL_ERR_DEVICE;
    }
    pending->stream = stream;
    pending->results = args->results + group->first;
    pending->rows = group->rows;
    pending->top_stride = group->top_stride;
    return AGL_OK;
}

extern "C" agl_status agl_cuda_sample(agl_stream *stream, const agl_sample_args *args)
{
    const agl_cuda_sampler *sampler = agl_cuda_of(stream)->sampler;
    if (args->vocab_used < 1 || args->vocab_used > args->vocab) return AGL_ERR_ARGUMENT;
    if (sampler == NULL) return AGL_ERR_ARGUMENT; /* no workspace was reserved */
    const sample_layout *layout = &sampler->layout;
    if (args->vocab_used > layout->vocab || args->rows > layout->rows_max) return AGL_ERR_LIMIT;
    for (int64_t i = 0; i < args->rows; i++) {
        const agl_sample_row *row = &args->params[i];
        if ((size_t)row->count_count > layout->edits_max ||
            (size_t)row->bias_count > layout->edits_max ||
            tops_of(row, args->vocab_used) > SAMPLE_LIST) {
            return AGL_ERR_LIMIT;
        }
    }
    for (int64_t first = 0; first < args->rows;) {
        sample_group group = next_group(layout, args, first);
        AGL_TRY(sample_rows(stream, args, &group));
        first += group.rows;
    }
    return AGL_OK;
}
