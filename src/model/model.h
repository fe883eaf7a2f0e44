/* SPDX-License-Identifier: Apache-2.0
 *
 * model.h - a checkpoint brought onto a backend, and its two networks: the text
 * decoder (text_decoder.c) and the vision tower (vision_tower.c).
 *
 * Only the engine thread calls this module after agl_model_create. Scratch is
 * reserved at creation for the stated limits; forward passes allocate nothing. */
#ifndef AGL_MODEL_MODEL_H
#define AGL_MODEL_MODEL_H

#include "backend/backend.h"
#include "model/config.h"

typedef struct agl_model agl_model;

typedef struct {
    const char *dir;                /* checkpoint folder                                     */
    bool dummy;                     /* random weights of the configured shape                */
    uint64_t seed;
    agl_dtype dtype;                /* of weights as computed; AGL_DTYPE_COUNT: as stored    */
    int64_t rows_max;               /* rows of one step                                      */
    int64_t logit_rows_max;         /* rows of logits of one step; above rows_max: rows_max  */
    int64_t patches_max;            /* patches of one image; 0: the vision tower stays away  */
    void (*progress)(void *user, const char *phase, double fraction);
    void *progress_user;
} agl_model_options;

/* Bytes that create would take, without taking them. Weights count whether they are copied
 * to the device or, as on the CPU, read in place from the mapped files. */
typedef struct {
    uint64_t weight_bytes, activation_bytes, vision_bytes;
    uint64_t kv_bytes_per_token;    /* with the backend's activation dtype in the cache      */
    uint64_t parameters;
} agl_model_plan;

agl_status agl_model_plan_make(agl_model_plan *out, const agl_config *config,
                               const agl_model_options *options, const agl_backend *backend);
uint64_t agl_model_kv_bytes_per_token(const agl_config *config, agl_dtype kv_dtype);

/* `config` and `backend` are borrowed and must outlive the model. */
agl_status agl_model_create(agl_model **out, const agl_config *config, agl_backend *backend,
                            const agl_model_options *options, agl_error *err);
void agl_model_destroy(agl_model *model);

/* One step over a mixed batch. All pointers are device memory except where noted; the
 * engine fills them once per step (engine/step.c). Sequences' rows are consecutive. */
typedef struct {
    int64_t rows;                        /* 1 .. rows_max                                    */
    const int32_t *ids;                  /* [rows]                                           */
    const int32_t *visual_rows;          /* [rows]: row of `visual` or -1; NULL: text only   */
    const void *visual;                  /* [n, hidden] activations                          */
    const int32_t *positions;            /* [3, rows]                                        */
    const int64_t *slots;                /* [rows]                                           */
    const agl_attention_sequence *sequences;
    int64_t sequence_count;
    const int32_t *page_tables;
    int64_t context_max;
    const int32_t *logit_rows;           /* [logit_count]: rows whose logits are wanted; may repeat */
    int64_t logit_count;                 /* 0: none; rows, logit_rows NULL: all of them, in order */
    const agl_kv_layer *kv;              /* HOST [layers]                                    */
} agl_batch;

/* logits: device [logit_count, vocab] F32, valid until the next step. */
agl_status agl_model_decode(agl_model *model, agl_stream *stream, const agl_batch *batch,
                            float **logits);

/* One image through the vision tower. pixels: device RGB [height, width, 3], sizes multiples of
 * patch * merge. out: device [height * width / (patch * merge)^2, hidden] activations. */
agl_status agl_model_encode_image(agl_model *model, agl_stream *stream, const uint8_t *pixels,
                                  int64_t height, int64_t width, void *out);

/* How often each network ran; a text request leaves vision_runs alone. */
typedef struct {
    uint64_t decoder_runs, vision_runs;
} agl_model_counters;
agl_model_counters agl_model_counters_get(const agl_model *model);

/* JSON report for `autoglm inspect`: works without a backend, and describes what this build
 * would refuse, with the reasons in "refused". Any thread. Free with free(). */
agl_status agl_model_inspect(char **json, const char *dir, agl_error *err);

#endif
