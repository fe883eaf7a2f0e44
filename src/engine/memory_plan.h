/* SPDX-License-Identifier: Apache-2.0
 *
 * memory_plan.h - where every byte goes, decided before anything is loaded.
 *
 *     budget = memory_total * memory_utilization
 *     weights | activations | vision scratch | encoder cache | step inputs | workspace | KV pages = the rest
 *
 * On a GPU the budget must be free when the plan is made, and a reserve is kept beside it all.
 * What cannot fit is refused with the numbers and the flag that would help. */
#ifndef AGL_ENGINE_MEMORY_PLAN_H
#define AGL_ENGINE_MEMORY_PLAN_H

#include "agl/agl.h"
#include "backend/backend.h"
#include "model/model.h"

typedef struct {
    agl_dtype weight_dtype;     /* CPU: AGL_DTYPE_COUNT, as stored; CUDA: activations' */
    agl_dtype kv_dtype;
    uint32_t max_model_len, max_sequences, max_rows, max_logit_rows, prompt_logit_rows;
    uint32_t page_tokens, page_count;
    uint64_t page_bytes;        /* device bytes of one page: all layers, K and V    */
    int64_t image_tokens_max;   /* of one image; 0: no vision                       */
    int64_t patches_max;
    int64_t encoder_rows;
    size_t pixel_bytes_max;     /* of one resized image                             */
    agl_model_plan model;
    agl_backend_limits limits;  /* of the backend's workspace                       */
    uint64_t picture_bytes;     /* of the room for one picture                      */
    uint64_t encoder_bytes, input_bytes, workspace_bytes, kv_bytes, budget_bytes;
} agl_memory_plan;

/* What a GPU computes in: --dtype, and for auto float16 if the checkpoint is, else bfloat16. */
agl_status agl_memory_plan_activation(agl_dtype *out, const agl_engine_options *options,
                                      const agl_config *config, agl_error *err);

/* Bytes that are taken before the first KV page. */
uint64_t agl_memory_plan_fixed(const agl_memory_plan *plan);

/* What is needed besides KV pages, and the budget. Nothing is refused for want of memory. */
agl_status agl_memory_plan_size(agl_memory_plan *out, const agl_engine_options *options,
                                const agl_config *config, const agl_backend *backend,
                                agl_error *err);

/* Then: the pages that the rest of the budget pays for, and the window that fits them. */
agl_status agl_memory_plan_fit(agl_memory_plan *plan, const agl_engine_options *options,
                               const agl_config *config, const agl_backend *backend, agl_error *err);

/* Both. */
agl_status agl_memory_plan_make(agl_memory_plan *out, const agl_engine_options *options,
                                const agl_config *config, const agl_backend *backend,
                                agl_error *err);

/* The part of the plan that the model is created with. */
agl_model_options agl_memory_plan_model(const agl_memory_plan *plan,
                                        const agl_engine_options *options, const char *dir);

#endif
