/* SPDX-License-Identifier: Apache-2.0
 *
 * roofline.h - how fast a machine could run a model: every byte read once at the memory's
 * rate, every product at the units' rate, whichever takes longer.
 *
 *     step(B, c)    = max(W / bw, B * linear / F) + B * c * kv / bw + all-reduce
 *     prefill(T, c) = max(W / bw, (T * linear + lm_head) / F) + attn * (T c + T (T + 1) / 2) / F
 *     vision(N)     = (N * patch + N^2 * pair + cells * cell) / F
 *
 * With all efficiencies 1 these are floors; with fitted ones, predictions. */
#ifndef AGL_BENCH_ROOFLINE_H
#define AGL_BENCH_ROOFLINE_H

#include "bench/hardware.h"

/* How weights are stored and multiplied. */
typedef struct {
    const char *key;            /* "bf16", "fp16", "f32", "fp8", "int4"                      */
    const char *title;          /* "BF16", ...                                               */
    const char *dtype;          /* for agl_engine_options; NULL: as stored                   */
    double layer_bits, lm_head_bits; /* for agl_plan_options; 0: the dtype's                  */
    bool products8;             /* multiplied in FP8 where the machine can                   */
} agl_format;

const agl_format *agl_format_at(size_t index);          /* NULL past the end                 */
const agl_format *agl_format_find(const char *key);     /* also "half", "bfloat16"; NULL: none */

/* Shares of a machine's attainable rates that the program reaches. */
typedef struct {
    double bandwidth;           /* decode steps                                              */
    double prefill;             /* products of a prompt                                      */
    double vision;              /* products of a picture                                     */
    char origin[160];
} agl_efficiency;

agl_efficiency agl_efficiency_one(void);
agl_efficiency agl_efficiency_default(bool gpu);

/* A plan on a machine, ready for the formulas. */
typedef struct {
    agl_plan plan;
    agl_hardware hardware;
    agl_efficiency efficiency;
    double linear_rate;         /* FLOP/s of linear layers                                   */
} agl_roofline;

agl_roofline agl_roofline_of(const agl_plan *plan, const agl_hardware *hardware,
                             const agl_format *format, const agl_efficiency *efficiency);

double agl_roofline_step_s(const agl_roofline *r, double batch, double context);
double agl_roofline_prefill_s(const agl_roofline *r, double tokens, double cached);
/* First token, the mean of a batch: its first waits for one prompt, its last for all. */
double agl_roofline_first_token_s(const agl_roofline *r, double batch, double tokens);
double agl_roofline_vision_s(const agl_roofline *r, double patches, double tokens);

/* Output tokens a second, `batch` requests always under way, each `input` in and `output` out. */
double agl_roofline_throughput(const agl_roofline *r, double batch, double input, double output);

/* Sequences of `context` tokens that the memory beside the weights holds. */
uint64_t agl_plan_batch_max(const agl_plan *plan, uint32_t context);

#endif
