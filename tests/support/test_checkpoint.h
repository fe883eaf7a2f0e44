/* SPDX-License-Identifier: Apache-2.0
 *
 * test_checkpoint.h - checkpoints for tests, made where they are needed.
 *
 * Every weight is a hash of (seed, tensor name, index), so C and Python build the same
 * checkpoint and only results have to be committed. tests/support/make_tiny_checkpoint.py
 * writes the same files; tests/golden/make_model_vectors.py computes the expected results. */
#ifndef TEST_CHECKPOINT_H
#define TEST_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

/* A zero field takes the value in brackets. */
typedef struct {
    int64_t hidden;             /* [64]                                       */
    int64_t layers;             /* [2]                                        */
    int64_t heads, kv_heads;    /* [4], [2]; head_dim = hidden / heads        */
    int64_t intermediate;       /* [128]                                      */
    int64_t vocab;              /* [320]; at least 279                        */
    int64_t max_positions;      /* [4096]                                     */
    double rope_theta;          /* [10000]                                    */
    int64_t vision_hidden;      /* [64]                                       */
    int64_t vision_depth;       /* [2]                                        */
    int64_t vision_heads;       /* [2]                                        */
    int64_t merger;             /* [96]                                       */
    int64_t image_size;         /* [112]                                      */
    agl_dtype dtype;            /* [AGL_F32]                                  */
    uint64_t seed;              /* [1]                                        */
    int64_t shards;             /* [1]; more: with an index                   */
    bool old_layout;            /* RoPE keys side by side, as in GLM-4.1V     */
    bool split_gate_up;         /* gate_proj and up_proj                      */
    bool other_prefixes;        /* language_model.model., visual.             */
    bool tied;                  /* tie_word_embeddings, no lm_head            */
} test_checkpoint_shape;

/* Write config.json, the weights, tokenizer.json (one token a byte, and the GLM-4.1V
 * control tokens, ids 256 and up), chat_template.jinja, generation_config.json and
 * preprocessor_config.json into `dir`, which is made if needed. Runs from the
 * repository root. `shape` may be NULL. The rotated half of a head is cut in the
 * proportions 1 : 1.5 : 1.5 as in the 9B model. */
agl_status test_checkpoint_write(const char *dir, const test_checkpoint_shape *shape,
                                 agl_error *err);

/* Fresh folder under TMPDIR or /tmp; test_folder_remove deletes it with the files in it. */
agl_status test_folder_make(char *out, size_t size, agl_error *err);
void test_folder_remove(const char *dir);

/* A checkpoint in a fresh folder; none is left behind when it fails. */
agl_status test_checkpoint_make(char *out, size_t size, const test_checkpoint_shape *shape,
                                agl_error *err);

/* The generator: values [first, first + count) of tensor `name`, in [-1, 1). */
void test_hash_fill(float *out, uint64_t seed, const char *name, uint64_t first, uint64_t count);

#endif
