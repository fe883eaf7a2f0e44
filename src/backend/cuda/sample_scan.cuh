/* SPDX-License-Identifier: Apache-2.0
 *
 * sample_scan.cuh - kernels of sampling that read whole rows, cut in slices: `sample_best` makes
 * the edits and takes the arg-max, `sample_masses` counts tokens and probability by distance
 * from the best one. A block has one slice of one row; blocks meet in integer sums and maxima,
 * so neither their order nor their number changes a bit.
 *
 *   key    54 bits: the logit's bits made monotonic, then the id reversed: the larger key comes
 *          first (higher logit, then lower id)
 *   mass   exp((logit - best) / temperature), computed in F64 and rounded to a multiple of
 *          1 / mass_scale: an integer */
#ifndef AGL_BACKEND_CUDA_SAMPLE_SCAN_CUH
#define AGL_BACKEND_CUDA_SAMPLE_SCAN_CUH

#include <math.h>

#include "backend/cuda/elements.cuh"
#include "backend/cuda/ptx.cuh"
#include "backend/cuda/sample_rows.h"

typedef unsigned long long sample_key;

#define SCAN_THREADS 256
#define SCAN_LOADS 2                /* of four logits each, in flight in a thread */
#define SCAN_TOKENS (SCAN_THREADS * SCAN_LOADS * 4)
#define TOKEN_MASK ((1u << SAMPLE_TOKEN_BITS) - 1)
#define RAW_BIN_SCALE 32.0f         /* 64 in 2048 bins */
#define EXPONENT_MIN -38.0f         /* exp of less is under half the finest unit, 2^-52 */

/* ---- order ------------------------------------------------------------------- */

static __device__ __forceinline__ uint32_t order_bits(float logit)
{
    if (isnan(logit)) return 0;
    uint32_t bits = __float_as_uint(__fadd_rn(logit, 0.0f)); /* -0 and 0 are a tie */
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* NaN for 0. */
static __device__ __forceinline__ float logit_of_bits(uint32_t bits)
{
    return __uint_as_float(bits & 0x80000000u ? bits ^ 0x80000000u : ~bits);
}

static __device__ __forceinline__ sample_key order_key(float logit, int32_t token)
{
    return (sample_key)order_bits(logit) << SAMPLE_TOKEN_BITS | (TOKEN_MASK - (uint32_t)token);
}

static __device__ __forceinline__ int32_t key_token(sample_key key)
{
    return (int32_t)(TOKEN_MASK - ((uint32_t)key & TOKEN_MASK));
}

static __device__ __forceinline__ float key_logit(sample_key key)
{
    return logit_of_bits((uint32_t)(key >> SAMPLE_TOKEN_BITS));
}

/* ---- rows -------------------------------------------------------------------- */

static __device__ __forceinline__ sample_row *row_of(const sample_call &call, int row)
{
    return (sample_row *)call.block + row;
}

static __device__ __forceinline__ const uint32_t *mask_of(const sample_call &call,
                                                          const sample_row *row)
{
    return row->allowed == SAMPLE_NO_MASK ? NULL : (const uint32_t *)(call.block + row->allowed);
}

/* Logits `token` to token + 3; those at or behind `end` are -infinity. token is a multiple of 4. */
static __device__ __forceinline__ void load4(float out[4], const float *logits, int token, int end,
                                             bool aligned)
{
    if (aligned && token < end) {
        float4 v = *(const float4 *)(logits + token);
        out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
    }
    for (int i = 0; i < 4; i++) {
        if (token + i >= end) out[i] = -INFINITY;
        else if (!aligned) out[i] = logits[token + i];
    }
}

/* What a token is chosen by: -infinity for NaN and for what the mask forbids. */
static __device__ __forceinline__ void forbid4(float values[4], const uint32_t *allowed, int token,
                                               int end)
{
    uint32_t bits = allowed != NULL && token < end ? allowed[token / 32] >> (token % 32) : 15u;
    for (int i = 0; i < 4; i++) {
        if ((bits >> i & 1u) == 0 || isnan(values[i])) values[i] = -INFINITY;
    }
}

/* A row that is drawn and not just the arg-max: no infinity is its best logit. */
static __device__ __forceinline__ bool row_draws(const sample_row *row)
{
    return (row->flags & SAMPLE_DRAWS) != 0 && isfinite(key_logit(row->best));
}

/* ---- masses ------------------------------------------------------------------ */

/* RAW: of the raw logits at temperature 1, for log-probabilities. */
typedef struct {
    float best, inverse, bin_scale;
    double mass_min, scale;
} mass_rule;

template <bool RAW>
static __device__ __forceinline__ mass_rule rule_of(const sample_call &call, const sample_row *row)
{
    mass_rule rule = {logit_of_bits(row->raw_best), 1.0f, RAW_BIN_SCALE, 0.0, call.mass_scale};
    if (RAW) return rule;
    rule.best = key_logit(row->best);
    rule.inverse = row->inverse_temperature;
    rule.bin_scale = row->bin_scale;
    rule.mass_min = row->mass_min;
    return rule;
}

/* 0: not a candidate. */
static __device__ __forceinline__ unsigned long long mass_of(const mass_rule &rule, float logit)
{
    float distance = __fsub_rn(logit, rule.best);
    if (!(distance * rule.inverse > EXPONENT_MIN)) return 0;
    double mass = exp(__dmul_rn((double)distance, (double)rule.inverse));
    if (mass < rule.mass_min) return 0;
    return (unsigned long long)__fma_rn(mass, rule.scale, 0.5);
}

/* Grows with the distance from the best; equal logits share a bin. NaN is in the last. */
static __device__ __forceinline__ int bin_of(const mass_rule &rule, float logit)
{
    float place = __fmul_rn(__fsub_rn(rule.best, logit), rule.bin_scale);
    return place < (float)(SAMPLE_BINS - 1) ? (int)place : SAMPLE_BINS - 1;
}

/* ---- edits ------------------------------------------------------------------- */

/* The rounding of each operation is the specification's: nothing may be fused. */
static __device__ float penalised(float logit, const sample_row *row, float output_count)
{
    logit = logit > 0.0f ? __fdiv_rn(logit, row->repetition) : __fmul_rn(logit, row->repetition);
    if (output_count > 0.0f) {
        logit = __fsub_rn(logit, __fmul_rn(row->frequency, output_count));
        logit = __fsub_rn(logit, row->presence);
    }
    return logit;
}

/* Make the row's edits between `begin` and `end`; the whole block calls it. */
static __device__ void apply_edits(const sample_call &call, const sample_row *row, float *logits,
                                   int begin, int end)
{
    sample_edit *edits = (sample_edit *)(call.block + row->edits);
    const int32_t *ends = (const int32_t *)(call.block + row->waves);
    int first = 0;
    for (int wave = 0; wave < row->wave_count; wave++) {
        int last = ends[wave];
        for (int i = first + (int)threadIdx.x; i < last; i += (int)blockDim.x) {
            int token = edits[i].token;
            if (token < begin || token >= end) continue;
            float logit = logits[token], value = edits[i].value;
            logits[token] = i < row->penalty_count ? penalised(logit, row, value)
                                                   : __fadd_rn(logit, value);
            edits[i].value = logit;
        }
        __syncthreads();
        first = last;
    }
}

/* The raw logits again: waves backwards. */
static __device__ void revert_edits(const sample_call &call, const sample_row *row, float *logits)
{
    const sample_edit *edits = (const sample_edit *)(call.block + row->edits);
    const int32_t *ends = (const int32_t *)(call.block + row->waves);
    for (int wave = row->wave_count - 1; wave >= 0; wave--) {
        int first = wave > 0 ? ends[wave - 1] : 0;
        for (int i = first + (int)threadIdx.x; i < ends[wave]; i += (int)blockDim.x) {
            logits[edits[i].token] = edits[i].value;
        }
        __syncthreads();
    }
}

/* ---- arg-max ----------------------------------------------------------------- */

/* The largest raw logit, before edits. */
static __device__ void find_raw_best(const sample_call &call, sample_row *row, const float *logits,
                                     int begin, int end)
{
    uint32_t best = 0;
    bool nan = false;
    for (int at = begin + (int)threadIdx.x * 4; at < end; at += SCAN_THREADS * 4) {
        float v[4];
        load4(v, logits, at, end, call.aligned);
        for (int i = 0; i < 4; i++) {
            nan = nan || isnan(v[i]);
            best = max(best, order_bits(v[i]));
        }
    }
    best = __reduce_max_sync(FULL_WARP, best);
    nan = __any_sync(FULL_WARP, nan);
    if (threadIdx.x % WARP_LANES == 0) {
        atomicMax(&row->raw_best, best);
        if (nan) atomicOr(&row->raw_nan, 1u);
    }
    __syncthreads(); /* edits come next */
}

static __device__ __forceinline__ sample_key key_max(sample_key a, sample_key b)
{
    return a > b ? a : b;
}

static __device__ __forceinline__ sample_key warp_key_max(sample_key key)
{
    for (int offset = WARP_LANES / 2; offset > 0; offset /= 2) {
        key = key_max(key, __shfl_xor_sync(FULL_WARP, key, offset));
    }
    return key;
}

/* One slice: edits, then the first token of the order. The last slice of a row to end writes the
 * row's result, which is final for rows that are not drawn. */
static __global__ __launch_bounds__(SCAN_THREADS) void sample_best(sample_call call)
{
    __shared__ sample_key partial[SCAN_THREADS / WARP_LANES];
    ptx_wait_for_previous();
    sample_row *row = row_of(call, blockIdx.y);
    float *logits = call.logits + (int64_t)blockIdx.y * call.vocab;
    const uint32_t *allowed = mask_of(call, row);
    int begin = (int)blockIdx.x * call.span, end = min(begin + call.span, call.vocab_used);
    bool aligned = call.aligned;

    if (row->logprobs >= 0) find_raw_best(call, row, logits, begin, end);
    if (row->wave_count > 0) apply_edits(call, row, logits, begin, end);

    sample_key best = 0;
    for (int at = begin + (int)threadIdx.x * 4; at < end; at += SCAN_TOKENS) {
        float v[SCAN_LOADS][4];
        for (int j = 0; j < SCAN_LOADS; j++) {
            load4(v[j], logits, at + j * SCAN_THREADS * 4, end, aligned);
        }
        for (int j = 0; j < SCAN_LOADS; j++) {
            int token = at + j * SCAN_THREADS * 4;
            forbid4(v[j], allowed, token, end);
            for (int i = 0; i < 4; i++) {
                if (token + i < end) best = key_max(best, order_key(v[j][i], token + i));
            }
        }
    }
    ptx_release_next();

    /* Rows that need a histogram find it empty. */
    if ((row->flags & SAMPLE_DRAWS) != 0 || row->logprobs >= 0) {
        sample_histogram *histogram = &call.histograms[blockIdx.y];
        int first = (int)blockIdx.x * SCAN_THREADS + (int)threadIdx.x;
        for (int i = first; i < SAMPLE_BINS; i += (int)gridDim.x * SCAN_THREADS) {
            histogram->mass[i] = 0;
            histogram->count[i] = 0;
        }
    }

    int lane = (int)threadIdx.x % WARP_LANES, warp = (int)threadIdx.x / WARP_LANES;
    best = warp_key_max(best);
    if (lane == 0) partial[warp] = best;
    __syncthreads();
    if (warp != 0) return;
    best = warp_key_max(lane < SCAN_THREADS / WARP_LANES ? partial[lane] : 0);
    if (lane != 0) return;
    atomicMax(&row->best, best);
    __threadfence();
    if (atomicAdd(&row->slices_done, 1u) + 1 < gridDim.x) return;
    int32_t token = key_token(atomicMax(&row->best, 0ull));
    sample_result result = {token, 0.0f, 0, 0};
    call.results[blockIdx.y] = result;
    call.tokens[blockIdx.y] = token;
}

/* ---- histograms -------------------------------------------------------------- */

/* One slice: candidates and their mass by bin. RAW: of all tokens, and how many are better than
 * the chosen one. */
template <bool RAW>
static __global__ __launch_bounds__(SCAN_THREADS) void sample_masses(sample_call call)
{
    __shared__ sample_histogram bins;
    ptx_wait_for_previous();
    sample_row *row = row_of(call, blockIdx.y);
    if (RAW ? row->logprobs < 0 : !row_draws(row)) return;
    const float *logits = call.logits + (int64_t)blockIdx.y * call.vocab;
    const uint32_t *allowed = RAW ? NULL : mask_of(call, row);
    int begin = (int)blockIdx.x * call.span, end = min(begin + call.span, call.vocab_used);
    mass_rule rule = rule_of<RAW>(call, row);
    int32_t chosen = call.results[blockIdx.y].token;
    sample_key chosen_key = RAW ? order_key(logits[chosen], chosen) : 0;
    bool aligned = call.aligned;

    for (int i = (int)threadIdx.x; i < SAMPLE_BINS; i += SCAN_THREADS) {
        bins.mass[i] = 0;
        bins.count[i] = 0;
    }
    __syncthreads();
    uint32_t better = 0;
    for (int at = begin + (int)threadIdx.x * 4; at < end; at += SCAN_TOKENS) {
        float v[SCAN_LOADS][4];
        for (int j = 0; j < SCAN_LOADS; j++) {
            load4(v[j], logits, at + j * SCAN_THREADS * 4, end, aligned);
        }
        for (int j = 0; j < SCAN_LOADS; j++) {
            int token = at + j * SCAN_THREADS * 4;
            if (!RAW) forbid4(v[j], allowed, token, end);
            for (int i = 0; i < 4; i++) {
                if (token + i >= end) continue;
                unsigned long long mass = mass_of(rule, v[j][i]);
                if (RAW && order_key(v[j][i], token + i) > chosen_key) better++;
                if (!RAW && mass == 0) continue;
                int bin = bin_of(rule, v[j][i]);
                atomicAdd(&bins.count[bin], 1u);
                if (mass != 0) atomicAdd(&bins.mass[bin], mass);
            }
        }
    }
    if (RAW) {
        better = __reduce_add_sync(FULL_WARP, better);
        if (threadIdx.x % WARP_LANES == 0 && better != 0) atomicAdd(&row->better, better);
    }
    __syncthreads();
    ptx_release_next();
    sample_histogram *out = &call.histograms[blockIdx.y];
    for (int i = (int)threadIdx.x; i < SAMPLE_BINS; i += SCAN_THREADS) {
        if (bins.count[i] == 0) continue;
        atomicAdd(&out->count[i], bins.count[i]);
        if (bins.mass[i] != 0) atomicAdd(&out->mass[i], bins.mass[i]);
    }
}

#endif
