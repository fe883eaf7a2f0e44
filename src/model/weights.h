/* SPDX-License-Identifier: Apache-2.0
 *
 * weights.h - named tensors of a checkpoint: safetensors shards, memory-mapped and
 * bounds-checked, or random ones of the configured shape (load format "dummy").
 *
 * Names are matched by suffix, so re-saves with other prefixes load too; a tensor
 * that is missing, of the wrong shape, or left over is an error that names it. */
#ifndef AGL_MODEL_WEIGHTS_H
#define AGL_MODEL_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

typedef struct agl_weights agl_weights;

typedef struct {
    const char *name;       /* as in the file                        */
    const void *data;       /* mapped, at a multiple of the dtype's size in the file (checked) */
    agl_dtype dtype;
    int rank;
    int64_t shape[8];
    size_t bytes;
} agl_tensor;

/* Map model.safetensors or the shards of model.safetensors.index.json in `dir`. */
agl_status agl_weights_open(agl_weights **out, const char *dir, agl_error *err);
void agl_weights_close(agl_weights *weights);

size_t agl_weights_count(const agl_weights *weights);
const agl_tensor *agl_weights_at(const agl_weights *weights, size_t index);
const agl_tensor *agl_weights_find(const agl_weights *weights, const char *name); /* NULL: none */

/* Parse one safetensors header (untrusted); fuzzed. Tensors view `data`. */
agl_status agl_safetensors_parse(agl_tensor **tensors, size_t *count, const unsigned char *data,
                                 size_t bytes, const char *name, agl_error *err);
void agl_safetensors_free(agl_tensor *tensors, size_t count);

#endif
