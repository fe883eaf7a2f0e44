/* SPDX-License-Identifier: Apache-2.0
 *
 * sample_rows.h - what the host and the kernels of sampling share: limits, and the layout of
 * the block that carries a call's parameters to the device and of its results back.
 *
 *   parameter block   [rows] sample_row, then per row its edits, the ends of their waves and,
 *                     unless the row before has the same, its mask of allowed tokens
 *   results           [rows] sample_result, then [rows, top_stride] sample_top */
#ifndef AGL_BACKEND_CUDA_SAMPLE_ROWS_H
#define AGL_BACKEND_CUDA_SAMPLE_ROWS_H

#include <stdint.h>

#define SAMPLE_TOKEN_BITS 22        /* of an order key: the vocabulary has at most 2^22 tokens    */
#define SAMPLE_BINS 2048            /* of a histogram: 11 bits of a key a pass                    */
#define SAMPLE_LIST 1024            /* tokens that one block sorts; the most alternatives */
#define SAMPLE_ROWS 256             /* of one group: what the histograms are planned for          */

/* A change of one logit: first the penalties (value: times it was output), then the biases. The
 * kernel that applies it leaves the logit's old value in its place. */
typedef struct {
    int32_t token;
    float value;
} sample_edit;

#define SAMPLE_DRAWS 1u             /* temperature > 0                                            */
#define SAMPLE_TOP_P 2u             /* top_p < 1                                                  */
#define SAMPLE_NO_MASK 0xffffffffu

typedef struct {
    uint64_t random;                /* in units of 2^-64                                          */
    uint64_t top_p;                 /* the same                                                   */
    double mass_min;                /* min_p                                                      */
    float inverse_temperature, bin_scale;
    float repetition, frequency, presence;
    int32_t top_k;                  /* 0: off                                                     */
    int32_t logprobs;               /* -1: none                                                   */
    uint32_t flags;
    /* Places in the block, in bytes from its start. A wave holds a token once, so its edits may
     * be made in any order; waves are made one after the other. */
    uint32_t edits, waves, allowed;
    int32_t penalty_count, wave_count;

    /* Written by the kernels; 0 at first. */
    uint32_t slices_done;
    unsigned long long best;        /* order key of the arg-max                                   */
    uint32_t raw_best;              /* order bits of the largest raw logit; 0: all are NaN        */
    uint32_t raw_nan;               /* not 0: a raw logit is NaN                                  */
    uint32_t better;                /* raw logits before the chosen one in the order              */
    uint32_t padding;
} sample_row;

typedef struct {
    int32_t token;
    float logprob;
    int32_t rank;
    int32_t top_count;
} sample_result;

typedef struct {
    int32_t token;
    float logprob;
} sample_top;

/* Of one row: how many tokens are in each bin, and their mass. */
typedef struct {
    unsigned long long mass[SAMPLE_BINS];
    uint32_t count[SAMPLE_BINS];
} sample_histogram;

/* What every kernel gets. */
typedef struct {
    float *logits;                  /* [rows, vocab]                                              */
    int64_t vocab;
    int32_t vocab_used;
    int32_t span;                   /* tokens of a slice, a multiple of 4                         */
    double mass_scale;              /* mass 1 as an integer                                       */
    unsigned char *block;           /* parameters; [rows] sample_row at its start                 */
    sample_histogram *histograms;   /* [rows]                                                     */
    sample_result *results;         /* [rows]                                                     */
    sample_top *tops;               /* [rows, top_stride]                                         */
    int32_t *tokens;                /* [rows]: the chosen ones, for the next step on the device   */
    int32_t top_stride;
    int32_t aligned;                /* rows begin at multiples of 16 bytes                        */
} sample_call;

#endif
