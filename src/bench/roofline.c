/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/roofline.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* INT4: 4 bits and an FP16 scale for every 128 weights of the decoder's layers; the output layer
 * in 8 bits, embedding and vision tower in 16. */
static const agl_format FORMATS[] = {
    {.key = "bf16", .title = "BF16", .dtype = "bfloat16"},
    {.key = "fp16", .title = "FP16", .dtype = "float16"},
    {.key = "f32", .title = "FP32", .dtype = "float32"},
    {.key = "fp8", .title = "FP8", .layer_bits = 8, .lm_head_bits = 8, .products8 = true},
    {.key = "int4", .title = "INT4", .layer_bits = 4.125, .lm_head_bits = 8},
};

const agl_format *agl_format_at(size_t index)
{
    return index < AGL_COUNT(FORMATS) ? &FORMATS[index] : NULL;
}

const agl_format *agl_format_find(const char *key)
{
    static const struct { const char *name, *key;
    } ALSO[] = {
        {"bfloat16", "bf16"}, {"half", "fp16"}, {"float16", "fp16"},
        {"float32", "f32"},   {"fp32", "f32"},
    };
    for (size_t i = 0; i < AGL_COUNT(ALSO); i++) {
        if (strcasecmp(ALSO[i].name, key) == 0) key = ALSO[i].key;
    }
    for (size_t i = 0; i < AGL_COUNT(FORMATS); i++) {
        if (strcasecmp(FORMATS[i].key, key) == 0) return &FORMATS[i];
    }
    return NULL;
}

agl_efficiency agl_efficiency_one(void)
{
    return (agl_efficiency){.bandwidth = 1, .prefill = 1, .vision = 1, .origin = "floor"};
}

/* docs/BENCH.md, "Efficiency", says where each comes from. */
agl_efficiency agl_efficiency_default(bool gpu)
{
    if (gpu) {
        return (agl_efficiency){.bandwidth = 0.85, .prefill = 0.625, .vision = 0.667,
                                .origin = "targets, not measured: no result file of a GPU"};
    }
    return (agl_efficiency){
        .bandwidth = 0.80,
        .prefill = 0.65,
        .vision = 0.55,
        .origin = "single kernels on one 2-core AVX-512 machine; vision is a guess below them"};
}

agl_roofline agl_roofline_of(const agl_plan *plan, const agl_hardware *hardware,
                             const agl_format *format, const agl_efficiency *efficiency)
{
    bool is_8bit = format != NULL && format->products8 && hardware->flops8 > 0;
    return (agl_roofline){.plan = *plan, .hardware = *hardware, .efficiency = *efficiency,
                          .linear_rate = is_8bit ? hardware->flops8 : hardware->flops};
}

/* Two sums a layer over all devices, each of `rows` rows of 16-bit values. */
static double reduce_s(const agl_roofline *r, double rows)
{
    const agl_hardware *h = &r->hardware;
    if (h->count < 2 || h->link_bandwidth <= 0) return 0;
    double share = 2.0 * (h->count - 1) / h->count; /* of the data, over a ring */
    double bytes = rows * r->plan.hidden * 2 * share;
    return 2.0 * r->plan.layers * (h->link_latency_s + bytes / h->link_bandwidth);
}

double agl_roofline_step_s(const agl_roofline *r, double batch, double context)
{
    const agl_plan *p = &r->plan;
    double count = r->hardware.count, bandwidth = r->hardware.bandwidth * r->efficiency.bandwidth;
    double rate = r->linear_rate * r->efficiency.prefill;
    double weights_s = (double)p->decode_weight_bytes / count / bandwidth;
    double products_s = batch * (p->token_flops + p->lm_head_flops) / count / rate;
    double kv_s = batch * context * (double)p->kv_bytes_per_token / bandwidth;
    return fmax(weights_s, products_s) + kv_s + reduce_s(r, batch);
}

double agl_roofline_prefill_s(const agl_roofline *r, double tokens, double cached)
{
    const agl_plan *p = &r->plan;
    double count = r->hardware.count, efficiency = r->efficiency.prefill;
    double weights_s = (double)p->decode_weight_bytes / count /
                       (r->hardware.bandwidth * r->efficiency.bandwidth);
    double products_s = (tokens * p->token_flops + p->lm_head_flops) / count /
                        (r->linear_rate * efficiency);
    double pairs = tokens * cached + tokens * (tokens + 1) / 2;
    double attention_s = p->attention_flops * pairs / count / (r->hardware.flops * efficiency);
    return fmax(weights_s, products_s) + attention_s + reduce_s(r, tokens);
}

double agl_roofline_first_token_s(const agl_roofline *r, double batch, double tokens)
{
    return agl_roofline_prefill_s(r, tokens, 0) * (batch + 1) / 2;
}

/* One picture stays on one device. */
double agl_roofline_vision_s(const agl_roofline *r, double patches, double tokens)
{
    const agl_plan *p = &r->plan;
    double flops = patches * p->patch_flops + patches * patches * p->patch_pair_flops +
                   tokens * p->cell_flops;
    return flops / (r->hardware.flops * r->efficiency.vision);
}

double agl_roofline_throughput(const agl_roofline *r, double batch, double input, double output)
{
    if (batch < 1) return 0;
    double steps_s = output * agl_roofline_step_s(r, batch, input + output / 2);
    return batch * output / (steps_s + batch * agl_roofline_prefill_s(r, input, 0));
}

uint64_t agl_plan_batch_max(const agl_plan *plan, uint32_t context)
{
    uint64_t pages = (context + (uint64_t)plan->page_tokens - 1) / plan->page_tokens;
    uint64_t bytes = pages * plan->page_tokens * plan->kv_bytes_per_token;
    return bytes > 0 ? plan->kv_room_bytes / bytes : 0;
}
