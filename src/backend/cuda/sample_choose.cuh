/* SPDX-License-Identifier: Apache-2.0
 *
 * sample_choose.cuh - kernels of sampling with one block a row: `sample_choose` finds the token
 * at which a count or a mass of the order is reached (top_k, top_p, the draw), `sample_report`
 * the best tokens of the raw logits and their log-probabilities.
 *
 * A cut is found without sorting the vocabulary: the histogram of sample_scan.cuh names its bin.
 * If the tokens up to there, or those of the bin alone, fit in a list, they are collected and
 * sorted. Else the bin is narrowed by digits of 11 bits of the key - logit first, then id, so
 * ties end too - until what is left fits. The next cut is often in the same list. */
#ifndef AGL_BACKEND_CUDA_SAMPLE_CHOOSE_CUH
#define AGL_BACKEND_CUDA_SAMPLE_CHOOSE_CUH

#include "backend/cuda/sample_scan.cuh"

#define CHOOSE_THREADS 1024
#define CHOOSE_LOADS 4
#define CHOOSE_TOKENS (CHOOSE_THREADS * CHOOSE_LOADS * 4)
#define DIGIT_BITS 11               /* SAMPLE_BINS values */
#define KEY_BITS (32 + SAMPLE_TOKEN_BITS)

typedef struct {
    sample_histogram sums;              /* running sums over bins, the bin itself included */
    sample_key list[SAMPLE_LIST];       /* best first                                      */
    unsigned long long running[SAMPLE_LIST]; /* mass of the list up to and including       */
    unsigned long long warp_mass[CHOOSE_THREADS / WARP_LANES];
    uint32_t warp_count[CHOOSE_THREADS / WARP_LANES];
    uint32_t list_count;
    int found;                          /* answer of a search                              */
} choose_space;

/* What the block knows, the same in all threads. */
typedef struct {
    const float *logits;
    const uint32_t *allowed;
    const sample_histogram *histogram;
    mass_rule rule;
    int32_t tokens;
    bool aligned;
    bool by_bin;                        /* `sums` is of the histogram, not of digits       */
    /* The list: `list_count` tokens of the order behind `before_count` others.            */
    uint32_t list_count, before_count;
    unsigned long long before_mass;
} choose_state;

/* Tokens in these bins with these keys. */
typedef struct {
    int bin_first, bin_last;
    sample_key key_first, key_last;     /* smallest, largest                               */
} choose_range;

/* A place in the order, and the mass up to and including it. */
typedef struct {
    sample_key key;
    unsigned long long mass;
} choose_cut;

/* ---- sums -------------------------------------------------------------------- */

/* values[i] becomes the sum of values[0 .. i], for ITEMS values a thread. */
template <int ITEMS, typename T>
static __device__ void running_sums(T *values, T *warp_totals)
{
    int lane = (int)threadIdx.x % WARP_LANES, warp = (int)threadIdx.x / WARP_LANES;
    T *own = values + (int)threadIdx.x * ITEMS, sum = 0;
    __syncthreads();
    for (int i = 0; i < ITEMS; i++) sum += own[i];
    T before = sum;
    for (int offset = 1; offset < WARP_LANES; offset *= 2) {
        T lower = __shfl_up_sync(FULL_WARP, before, offset);
        if (lane >= offset) before += lower;
    }
    if (lane == WARP_LANES - 1) warp_totals[warp] = before;
    __syncthreads();
    before -= sum;
    for (int i = 0; i < warp; i++) before += warp_totals[i];
    for (int i = 0; i < ITEMS; i++) own[i] = before += own[i];
    __syncthreads();
}

/* The first i at which the running sum reaches `goal`, for all threads. */
template <typename T, typename G>
static __device__ int first_reaching(choose_space *space, const T *running, int count, G goal)
{
    for (int i = (int)threadIdx.x; i < count; i += CHOOSE_THREADS) {
        if (running[i] >= goal && (i == 0 || running[i - 1] < goal)) space->found = i;
    }
    __syncthreads();
    int found = space->found;
    __syncthreads();
    return found;
}

static __device__ void sum_bins(choose_space *space)
{
    running_sums<SAMPLE_BINS / CHOOSE_THREADS>(space->sums.mass, space->warp_mass);
    running_sums<SAMPLE_BINS / CHOOSE_THREADS>(space->sums.count, space->warp_count);
}

static __device__ void load_histogram(choose_state *state, choose_space *space)
{
    if (state->by_bin) return;
    for (int i = (int)threadIdx.x; i < SAMPLE_BINS; i += CHOOSE_THREADS) {
        space->sums.mass[i] = state->histogram->mass[i];
        space->sums.count[i] = state->histogram->count[i];
    }
    sum_bins(space);
    state->by_bin = true;
}

/* ---- passes over the row ------------------------------------------------------- */

/* The keys of four tokens; 0 for those outside of the range. */
template <bool RAW>
static __device__ __forceinline__ void keys4(sample_key out[4], const choose_state *state,
                                             const choose_range *range, float v[4], int token)
{
    if (!RAW) forbid4(v, state->allowed, token, state->tokens);
    for (int i = 0; i < 4; i++) {
        out[i] = 0;
        if (token + i >= state->tokens) continue;
        int bin = bin_of(state->rule, v[i]);
        if (bin < range->bin_first || bin > range->bin_last) continue;
        sample_key key = order_key(v[i], token + i);
        if (key < range->key_first || key > range->key_last) continue;
        if (!RAW && mass_of(state->rule, v[i]) == 0) continue;
        out[i] = key;
    }
}

/* `sums`: count and mass by the digit at `shift` of the keys in the range, largest first. */
template <bool RAW>
static __device__ void sum_digits(choose_state *state, choose_space *space,
                                  const choose_range *range, int shift)
{
    for (int i = (int)threadIdx.x; i < SAMPLE_BINS; i += CHOOSE_THREADS) {
        space->sums.mass[i] = 0;
        space->sums.count[i] = 0;
    }
    state->by_bin = false;
    __syncthreads();
    for (int at = (int)threadIdx.x * 4; at < state->tokens; at += CHOOSE_TOKENS) {
        float v[CHOOSE_LOADS][4];
        for (int j = 0; j < CHOOSE_LOADS; j++) {
            load4(v[j], state->logits, at + j * CHOOSE_THREADS * 4, state->tokens, state->aligned);
        }
        for (int j = 0; j < CHOOSE_LOADS; j++) {
            sample_key keys[4];
            keys4<RAW>(keys, state, range, v[j], at + j * CHOOSE_THREADS * 4);
            for (int i = 0; i < 4; i++) {
                if (keys[i] == 0) continue;
                int digit = SAMPLE_BINS - 1 - (int)(keys[i] >> shift & (SAMPLE_BINS - 1));
                atomicAdd(&space->sums.count[digit], 1u);
                atomicAdd(&space->sums.mass[digit], mass_of(state->rule, v[j][i]));
            }
        }
    }
    sum_bins(space);
}

/* The list: the keys of the range, at most SAMPLE_LIST, best first, and their running mass. */
template <bool RAW>
static __device__ void collect(choose_state *state, choose_space *space, const choose_range *range)
{
    if (threadIdx.x == 0) space->list_count = 0;
    __syncthreads();
    for (int at = (int)threadIdx.x * 4; at < state->tokens; at += CHOOSE_TOKENS) {
        float v[CHOOSE_LOADS][4];
        for (int j = 0; j < CHOOSE_LOADS; j++) {
            load4(v[j], state->logits, at + j * CHOOSE_THREADS * 4, state->tokens, state->aligned);
        }
        for (int j = 0; j < CHOOSE_LOADS; j++) {
            sample_key keys[4];
            keys4<RAW>(keys, state, range, v[j], at + j * CHOOSE_THREADS * 4);
            for (int i = 0; i < 4; i++) {
                if (keys[i] == 0) continue;
                uint32_t place = atomicAdd(&space->list_count, 1u);
                if (place < SAMPLE_LIST) space->list[place] = keys[i];
            }
        }
    }
    __syncthreads();
    state->list_count = min(space->list_count, (uint32_t)SAMPLE_LIST);
    int size = 2;
    while (size < (int)state->list_count) size *= 2;
    for (int i = (int)(state->list_count + threadIdx.x); i < size; i += CHOOSE_THREADS) {
        space->list[i] = 0;
    }
    /* Bitonic: sorted runs of `run` keys, up and down in turn, are merged in halving strides. */
    for (int run = 2; run <= size; run *= 2) {
        for (int stride = run / 2; stride > 0; stride /= 2) {
            __syncthreads();
            for (int pair = (int)threadIdx.x; pair < size / 2; pair += CHOOSE_THREADS) {
                int low = pair / stride * 2 * stride + pair % stride, high = low + stride;
                sample_key a = space->list[low], b = space->list[high];
                if ((a < b) == ((low & run) == 0)) {
                    space->list[low] = b;
                    space->list[high] = a;
                }
            }
        }
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < SAMPLE_LIST; i += CHOOSE_THREADS) {
        bool used = i < (int)state->list_count;
        space->running[i] = used ? mass_of(state->rule, key_logit(space->list[i])) : 0;
    }
    running_sums<SAMPLE_LIST / CHOOSE_THREADS>(space->running, space->warp_mass);
}

/* ---- cuts -------------------------------------------------------------------- */

/* The bin in which `goal` is reached, a count or a mass of the order. */
template <bool BY_COUNT>
static __device__ int bin_reaching(const choose_state *state, choose_space *space,
                                   unsigned long long goal)
{
    if (!BY_COUNT) {
        return first_reaching(space, space->sums.mass, SAMPLE_BINS, goal - state->before_mass);
    }
    return first_reaching(space, space->sums.count, SAMPLE_BINS, goal - state->before_count);
}

/* A list with the place in it at which `goal` is reached. */
template <bool RAW, bool BY_COUNT>
static __device__ void list_around(choose_state *state, choose_space *space,
                                   unsigned long long goal)
{
    load_histogram(state, space);
    const sample_histogram *sums = &space->sums;
    state->before_count = 0;
    state->before_mass = 0;
    int bin = bin_reaching<BY_COUNT>(state, space, goal);
    bool from_best = sums->count[bin] <= SAMPLE_LIST || bin == 0;
    choose_range range = {from_best ? 0 : bin, bin, 0, ~0ull};
    state->before_count = from_best ? 0 : sums->count[bin - 1];
    state->before_mass = from_best ? 0 : sums->mass[bin - 1];
    uint32_t count = sums->count[bin] - state->before_count;
    __syncthreads();

    sample_key prefix = 0;
    for (int shift = (KEY_BITS - 1) / DIGIT_BITS * DIGIT_BITS; count > SAMPLE_LIST && shift >= 0;
         shift -= DIGIT_BITS) {
        sum_digits<RAW>(state, space, &range, shift);
        int digit = bin_reaching<BY_COUNT>(state, space, goal);
        count = sums->count[digit] - (digit > 0 ? sums->count[digit - 1] : 0);
        state->before_count += digit > 0 ? sums->count[digit - 1] : 0;
        state->before_mass += digit > 0 ? sums->mass[digit - 1] : 0;
        prefix |= (sample_key)(SAMPLE_BINS - 1 - digit) << shift;
        range.key_first = prefix;
        range.key_last = prefix | ((1ull << shift) - 1);
        __syncthreads();
    }
    collect<RAW>(state, space, &range);
}

/* The first token of the order with which the count or the mass reaches `goal`; 1 to the total. */
template <bool RAW, bool BY_COUNT>
static __device__ choose_cut find_cut(choose_state *state, choose_space *space,
                                      unsigned long long goal)
{
    unsigned long long before = BY_COUNT ? state->before_count : state->before_mass;
    unsigned long long within = BY_COUNT              ? state->list_count
                                : state->list_count == 0 ? 0
                                                         : space->running[state->list_count - 1];
    if (goal <= before || goal > before + within) list_around<RAW, BY_COUNT>(state, space, goal);
    int place = BY_COUNT ? (int)(goal - state->before_count) - 1
                         : first_reaching(space, space->running, (int)state->list_count,
                                          goal - state->before_mass);
    choose_cut cut = {space->list[place], state->before_mass + space->running[place]};
    return cut;
}

template <bool RAW>
static __device__ choose_state state_of(const sample_call &call, const sample_row *row, int index)
{
    choose_state state = {};
    state.logits = call.logits + (int64_t)index * call.vocab;
    state.allowed = RAW ? NULL : mask_of(call, row);
    state.histogram = &call.histograms[index];
    state.rule = rule_of<RAW>(call, row);
    state.tokens = call.vocab_used;
    state.aligned = call.aligned;
    return state;
}

/* ---- the token ----------------------------------------------------------------- */

static __device__ sample_key draw(choose_state *state, choose_space *space, const sample_row *row)
{
    load_histogram(state, space);
    uint32_t candidates = space->sums.count[SAMPLE_BINS - 1];
    unsigned long long total = space->sums.mass[SAMPLE_BINS - 1];
    if (total == 0) return row->best; /* min_p above 1 */
    if (row->top_k > 0 && (uint32_t)row->top_k < candidates) {
        total = find_cut<false, true>(state, space, (unsigned long long)row->top_k).mass;
    }
    if ((row->flags & SAMPLE_TOP_P) != 0) {
        /* The smallest set whose mass reaches top_p, rounded up to a whole unit. */
        unsigned long long goal = __umul64hi(row->top_p, total) + (row->top_p * total != 0);
        total = find_cut<false, false>(state, space, goal > 0 ? goal : 1).mass;
    }
    /* The first token whose running mass passes random * total, rounded down. */
    return find_cut<false, false>(state, space, __umul64hi(row->random, total) + 1).key;
}

/* One row: the drawn token; then, where log-probabilities are wanted, the raw logits and an
 * empty histogram for the kernels behind. */
static __global__ __launch_bounds__(CHOOSE_THREADS) void sample_choose(sample_call call)
{
    __shared__ choose_space space;
    ptx_wait_for_previous();
    ptx_release_next();
    int index = (int)blockIdx.x;
    const sample_row *row = row_of(call, index);
    if (row_draws(row)) {
        choose_state state = state_of<false>(call, row, index);
        int32_t token = key_token(draw(&state, &space, row));
        if (threadIdx.x == 0) {
            call.results[index].token = token;
            call.tokens[index] = token;
        }
    }
    if (row->logprobs < 0) return;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < SAMPLE_BINS; i += CHOOSE_THREADS) {
        call.histograms[index].mass[i] = 0;
        call.histograms[index].count[i] = 0;
    }
    revert_edits(call, row, call.logits + (int64_t)index * call.vocab);
}

/* ---- log-probabilities ----------------------------------------------------------- */

/* ln(sum(exp(raw))) as the specification has it: an infinite best logit is the answer. */
static __device__ double normaliser_of(const sample_row *row, const mass_rule &rule,
                                       float first_logit, unsigned long long total)
{
    if (isnan(first_logit)) return (double)first_logit;
    if (!isfinite(rule.best)) return (double)rule.best;
    if (row->raw_nan != 0) return (double)NAN;
    return (double)rule.best + log((double)total / rule.scale);
}

/* One row: logprob and rank of the token, and the best `logprobs` tokens. */
static __global__ __launch_bounds__(CHOOSE_THREADS) void sample_report(sample_call call)
{
    __shared__ choose_space space;
    ptx_wait_for_previous();
    ptx_release_next();
    int index = (int)blockIdx.x;
    const sample_row *row = row_of(call, index);
    if (row->logprobs < 0) return;
    choose_state state = state_of<true>(call, row, index);
    load_histogram(&state, &space);
    double normaliser = normaliser_of(row, state.rule, state.logits[0],
                                      space.sums.mass[SAMPLE_BINS - 1]);
    int wanted = min(row->logprobs, call.vocab_used);
    if (wanted > 0) {
        choose_cut cut = find_cut<true, true>(&state, &space, (unsigned long long)wanted);
        if (state.before_count > 0) {
            choose_range range = {0, SAMPLE_BINS - 1, cut.key, ~0ull};
            __syncthreads();
            collect<true>(&state, &space, &range);
        }
    }
    sample_top *tops = call.tops + (int64_t)index * call.top_stride;
    for (int i = (int)threadIdx.x; i < wanted; i += CHOOSE_THREADS) {
        sample_key key = space.list[i];
        sample_top top = {key_token(key), (float)((double)key_logit(key) - normaliser)};
        tops[i] = top;
    }
    if (threadIdx.x != 0) return;
    sample_result *result = &call.results[index];
    result->logprob = (float)((double)state.logits[result->token] - normaliser);
    result->rank = (int32_t)row->better + 1;
    result->top_count = wanted;
}

#endif
