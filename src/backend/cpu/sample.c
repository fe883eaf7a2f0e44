/* SPDX-License-Identifier: Apache-2.0
 *
 * sample.c - a row of logits to one token, on the host.
 *
 *   raw logits -> penalties -> bias -> mask -> arg-max                     (temperature 0)
 *                                           -> temperature -> min_p -> top_k -> top_p -> draw
 *
 * Order of tokens: higher logit first, lower id on ties. All choices are defined on this
 * order but nothing is sorted: a candidate carries its order as one integer key and its
 * probability mass, and two selections partition the candidates around pivots in O(vocab):
 * the first k of the order, and the token at which the running mass passes a target.
 *
 * Numerics  masses are F64; the same row, parameters and `random` give the same token. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_ops.h"

/* key: the F32 logit's bits made monotonic, then the id reversed. */
typedef struct {
    uint64_t key;
    double mass;                /* exp(scaled logit - scaled maximum)               */
} candidate;

static size_t candidate_bytes(int64_t vocab)
{
    return (size_t)vocab * sizeof(candidate);
}

agl_status agl_cpu_sample_reserve(agl_cpu *cpu, int64_t vocab)
{
    /* Candidates, then the logits of one row after penalties. */
    return agl_cpu_reserve_worker(cpu, candidate_bytes(vocab) + (size_t)vocab * sizeof(float));
}

static uint64_t order_key(float logit, int32_t token)
{
    uint32_t bits;
    if (isnan(logit)) return (uint32_t)~(uint32_t)token; /* last */
    logit += 0.0f; /* -0 and 0 are a tie */
    memcpy(&bits, &logit, sizeof bits);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (uint32_t)~(uint32_t)token;
}

static int32_t key_token(uint64_t key)
{
    return (int32_t)~(uint32_t)key;
}

/* ---- before the choice ----------------------------------------------------- */

static void apply_penalties(float *logits, int64_t vocab, const agl_sample_row *row)
{
    float repetition = row->repetition_penalty > 0.0f ? row->repetition_penalty : 1.0f;
    for (int32_t i = 0; i < row->count_count; i++) {
        agl_token_count seen = row->counts[i];
        if (seen.token < 0 || seen.token >= vocab) continue;
        float *logit = &logits[seen.token];
        *logit = *logit > 0.0f ? *logit / repetition : *logit * repetition;
        if (seen.output_count > 0) {
            *logit -= row->frequency_penalty * (float)seen.output_count;
            *logit -= row->presence_penalty;
        }
    }
}

static bool is_allowed(const uint32_t *allowed, int64_t token)
{
    return allowed == NULL || (allowed[token / 32] >> (token % 32) & 1u) != 0;
}

/* What the choice is made from: NaN and forbidden tokens become -inf. */
static void prepare(float *out, const float *logits, int64_t vocab, const agl_sample_row *row)
{
    memcpy(out, logits, (size_t)vocab * sizeof *out);
    apply_penalties(out, vocab, row);
    for (int32_t i = 0; i < row->bias_count; i++) {
        int32_t token = row->bias[i].token;
        if (token >= 0 && token < vocab) out[token] += row->bias[i].bias;
    }
    for (int64_t token = 0; token < vocab; token++) {
        if (isnan(out[token]) || !is_allowed(row->allowed, token)) out[token] = -INFINITY;
    }
}

static int32_t arg_max(const float *logits, int64_t vocab)
{
    int64_t best = 0;
    for (int64_t token = 1; token < vocab; token++) {
        if (logits[token] > logits[best]) best = token;
    }
    return (int32_t)best;
}

/* ---- selection ------------------------------------------------------------- */

static void swap(candidate *a, candidate *b)
{
    candidate held = *a;
    *a = *b;
    *b = held;
}

static uint64_t pivot_key(const candidate *candidates, int64_t first, int64_t end)
{
    uint64_t a = candidates[first].key, b = candidates[first + (end - first) / 2].key;
    uint64_t c = candidates[end - 1].key;
    uint64_t low = a < b ? a : b, high = a < b ? b : a;
    return c <= low ? low : c >= high ? high : c;
}

/* Bring keys >= pivot to the front of [first, end); returns the first of the others. */
static int64_t partition(candidate *candidates, int64_t first, int64_t end, uint64_t pivot)
{
    int64_t middle = first;
    for (int64_t i = first; i < end; i++) {
        if (candidates[i].key >= pivot) swap(&candidates[i], &candidates[middle++]);
    }
    return middle;
}

/* The boundary is sought inside [first, end). Keys are distinct, so a middle that equals
 * `end` means the pivot is the least of them: it is moved to the back and the rest searched. */
static int64_t split(candidate *candidates, int64_t first, int64_t end)
{
    uint64_t pivot = pivot_key(candidates, first, end);
    int64_t middle = partition(candidates, first, end, pivot);
    if (middle < end) return middle;
    for (int64_t i = first; i < end; i++) {
        if (candidates[i].key == pivot) {
            swap(&candidates[i], &candidates[end - 1]);
            break;
        }
    }
    return end - 1;
}

/* Partition so that the first `keep` candidates are the best ones. */
static void select_count(candidate *candidates, int64_t count, int64_t keep)
{
    int64_t first = 0, end = count;
    while (end - first > 1 && first < keep && keep < end) {
        int64_t middle = split(candidates, first, end);
        if (keep < middle) end = middle;
        else first = middle;
    }
}

static double mass_of(const candidate *candidates, int64_t first, int64_t end)
{
    double mass = 0.0;
    for (int64_t i = first; i < end; i++) mass += candidates[i].mass;
    return mass;
}

/* Partition so that candidates [0, index] are the best ones, where `index` is the first
 * at which the running mass passes `target`; returns index. */
static int64_t select_mass(candidate *candidates, int64_t count, double target)
{
    int64_t first = 0, end = count;
    double before = 0.0;
    while (end - first > 1) {
        int64_t middle = split(candidates, first, end);
        double upper = before + mass_of(candidates, first, middle);
        if (upper > target) {
            end = middle;
        } else {
            before = upper;
            first = middle;
        }
    }
    return first;
}

static int32_t draw(candidate *candidates, const float *logits, int64_t vocab,
                    const agl_sample_row *row)
{
    float inverse = 1.0f / row->temperature;
    float best = logits[arg_max(logits, vocab)];
    if (!isfinite(best) || !isfinite(inverse)) return arg_max(logits, vocab);
    double floor_mass = row->min_p > 0.0f ? (double)row->min_p : 0.0;
    int64_t count = 0;
    for (int64_t token = 0; token < vocab; token++) {
        double mass = exp((double)(logits[token] - best) * (double)inverse);
        if (mass == 0.0 || mass < floor_mass) continue;
        candidates[count++] = (candidate){order_key(logits[token], (int32_t)token), mass};
    }
    if (row->top_k > 0 && row->top_k < count) {
        select_count(candidates, count, row->top_k);
        count = row->top_k;
    }
    double total = mass_of(candidates, 0, count);
    if (row->top_p < 1.0f) {
        /* The smallest set whose mass reaches top_p: its last token is the first at which
         * the running mass is not below the target, so the target itself must not pass. */
        double target = nextafter((double)row->top_p * total, 0.0);
        count = select_mass(candidates, count, target) + 1;
        total = mass_of(candidates, 0, count);
    }
    return key_token(candidates[select_mass(candidates, count, row->random * total)].key);
}

/* ---- log-probabilities ----------------------------------------------------- */

static double log_sum_exp(const float *logits, int64_t vocab)
{
    float best = logits[arg_max(logits, vocab)];
    if (!isfinite(best)) return (double)best;
    double sum = 0.0;
    for (int64_t token = 0; token < vocab; token++) sum += exp((double)logits[token] - (double)best);
    return (double)best + log(sum);
}

static void sort_best_first(candidate *candidates, int64_t count)
{
    for (int64_t i = 1; i < count; i++) { /* at most a few tens */
        for (int64_t j = i; j > 0 && candidates[j].key > candidates[j - 1].key; j--) {
            swap(&candidates[j], &candidates[j - 1]);
        }
    }
}

static void report(agl_sample_result *result, candidate *candidates, const float *raw, int64_t vocab,
                   const agl_sample_row *row)
{
    double normaliser = log_sum_exp(raw, vocab);
    uint64_t chosen = order_key(raw[result->token], result->token);
    result->rank = 1;
    for (int64_t token = 0; token < vocab; token++) {
        candidates[token].key = order_key(raw[token], (int32_t)token);
        if (candidates[token].key > chosen) result->rank++;
    }
    result->logprob = (float)((double)raw[result->token] - normaliser);
    int64_t wanted = row->logprobs < vocab ? row->logprobs : vocab;
    select_count(candidates, vocab, wanted);
    sort_best_first(candidates, wanted);
    for (int64_t i = 0; i < wanted; i++) {
        int32_t token = key_token(candidates[i].key);
        result->top[i] = (agl_token_logprob){
            .token = token,
            .logprob = (float)((double)raw[token] - normaliser),
            .rank = (int32_t)i + 1,
        };
    }
    result->top_count = (int32_t)wanted;
}

/* ---- rows ------------------------------------------------------------------ */

typedef struct {
    agl_cpu *cpu;
    const agl_sample_args *args;
} sample_job;

static void sample_task(void *context, size_t task, uint32_t worker)
{
    const sample_job *job = context;
    const agl_sample_args *args = job->args;
    const agl_sample_row *row = &args->params[task];
    agl_sample_result *result = &args->results[task];
    const float *raw = args->logits + (int64_t)task * args->vocab;
    int64_t vocab = args->vocab_used;
    candidate *candidates = job->cpu->worker_scratch[worker];
    float *logits = (float *)((char *)candidates + candidate_bytes(vocab));
    result->logprob = 0.0f;
    result->rank = 0;
    result->top_count = 0;
    prepare(logits, raw, vocab, row);
    result->token = row->temperature > 0.0f ? draw(candidates, logits, vocab, row)
                                            : arg_max(logits, vocab);
    if (row->logprobs >= 0) report(result, candidates, raw, vocab, row);
}

agl_status agl_cpu_sample(agl_cpu *cpu, const agl_sample_args *args)
{
    assert(args->vocab_used >= 1 && args->vocab_used <= args->vocab);
    AGL_TRY(agl_cpu_sample_reserve(cpu, args->vocab_used));
    sample_job job = {cpu, args};
    agl_thread_pool_run(cpu->pool, sample_task, &job, (size_t)args->rows);
    return AGL_OK;
}
