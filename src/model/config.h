/* SPDX-License-Identifier: Apache-2.0
 *
 * config.h - what config.json, generation_config.json and preprocessor_config.json say.
 *
 * Both RoPE layouts are read (side-by-side keys, and one rope_parameters object).
 * Nothing that changes the numbers is assumed: a missing theta, rotary factor,
 * section list, token id or image limit is refused with file, key and what was expected. */
#ifndef AGL_MODEL_CONFIG_H
#define AGL_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

#define AGL_EOS_MAX 16
#define AGL_ROPE_PAIRS_MAX 128

typedef struct {
    int64_t hidden, layers, heads, kv_heads, head_dim, intermediate, vocab;
    int64_t max_positions;
    float rms_eps;
    double rope_theta;
    int64_t rope_pairs;             /* head_dim * partial_rotary_factor / 2                */
    int32_t mrope_section[3];       /* pairs of t, h, w; sum = rope_pairs                  */
    bool tie_embeddings;
} agl_text_config;

typedef struct {
    int64_t hidden, depth, heads, head_dim;
    int64_t mlp;                    /* width of a block's MLP (= out_hidden)               */
    int64_t out_hidden;             /* = text hidden                                       */
    int64_t merger;                 /* width of the merger's MLP (config: intermediate_size) */
    int64_t patch, merge, frames, channels;
    int64_t position_side;          /* image_size / patch                                  */
    float rms_eps;
} agl_vision_config;

typedef struct {
    int64_t pixels_min, pixels_max; /* of frames * H * W: size.shortest_edge, longest_edge */
    float mean[3], std[3];
    bool do_resize;
} agl_image_config;

typedef struct {
    char architecture[64];
    agl_dtype dtype;                /* of the checkpoint: F32, BF16 or F16                 */
    agl_text_config text;
    bool has_vision;
    agl_vision_config vision;
    agl_image_config image;
    int32_t image_token, image_start_token, image_end_token;
    int32_t eos[AGL_EOS_MAX];       /* generation_config first, else config                */
    int eos_count;
    /* generation_config; NaN / -1 where it says nothing */
    float temperature, top_p, min_p, repetition_penalty;
    int32_t top_k;
    int32_t max_new_tokens;
    char quant_method[32];          /* "" : not quantised                                  */
} agl_config;

/* Read the three files of a checkpoint folder. */
agl_status agl_config_load(agl_config *out, const char *dir, agl_error *err);

#endif
