/* SPDX-License-Identifier: Apache-2.0
 *
 * weight_loader.h - from named tensors to the backend's weights; private to model/.
 *
 * The networks list their weights once (agl_text_load, agl_vision_load). The same list
 * is walked to count bytes without a backend, to fill random weights, and to load files.
 *
 * Tensor names are brought to the reference's spelling first, so that re-saves with the
 * prefixes `language_model.model.`, `visual.` or bare `model.` load too. */
#ifndef AGL_MODEL_WEIGHT_LOADER_H
#define AGL_MODEL_WEIGHT_LOADER_H

#include <stdbool.h>

#include "backend/backend.h"
#include "base/thread_pool.h"
#include "model/weights.h"

#define AGL_NAME_BYTES 160

/* Host memory that weights read in place: converted, reordered or random ones. */
typedef struct agl_host_block agl_host_block;
void agl_host_blocks_free(agl_host_block *first);

/* A checkpoint's tensors by their standard names. */
typedef struct {
    char *name;                 /* standard spelling; owned     */
    const agl_tensor *tensor;
    bool used;
} agl_named_tensor;

typedef struct {
    agl_named_tensor *entries;  /* [count], by name             */
    size_t count;
} agl_tensor_map;

agl_status agl_tensor_map_init(agl_tensor_map *out, const agl_weights *weights, const char *dir,
                               agl_error *err);
void agl_tensor_map_deinit(agl_tensor_map *map);
agl_named_tensor *agl_tensor_map_find(const agl_tensor_map *map, const char *name); /* NULL: none */

/* Error that names the first tensor which no network asked for. */
agl_status agl_tensor_map_check_used(const agl_tensor_map *map, const char *dir, agl_error *err);

typedef struct {
    /* Set by the owner. With a map, names and shapes are checked; with a backend, weights are
     * created, from the map's tensors or at random. skip: as without a backend, and uncounted. */
    const char *dir;            /* for messages                                        */
    agl_backend *backend;
    agl_stream *stream;
    agl_tensor_map *map;        /* NULL: random weights                                */
    agl_thread_pool *pool;
    agl_dtype dtype;            /* of linear weights on the backend                    */
    uint64_t seed;
    bool skip;
    void (*progress)(void *user, const char *phase, double fraction);
    void *progress_user;
    uint64_t parameters_total;  /* for progress                                        */
    /* Kept by the loader. */
    char prefix[64];            /* opens every name                                    */
    uint64_t bytes, parameters; /* of what has passed so far, skipped ones excluded    */
    agl_host_block *blocks;     /* the owner takes them                                */
    void *pattern;              /* random values that dummy weights repeat             */
} agl_weight_loader;

void agl_weight_loader_deinit(agl_weight_loader *loader);   /* leaves blocks alone */

/* Prefix of the names that follow, like printf. */
__attribute__((format(printf, 2, 3)))
void agl_weight_loader_enter(agl_weight_loader *loader, const char *format, ...);

/* One of the stacked parts of a linear layer: tensor NAME.weight of [rows, in] and, with
 * bias, NAME.bias of [rows]. */
typedef struct {
    const char *name;
    int64_t rows;
    bool bias;
} agl_linear_part;

typedef struct {
    agl_linear_part parts[AGL_WEIGHT_PARTS_MAX];
    int part_count;
    int64_t in;
    int64_t kernel; /* side of a convolution whose weight [out, in / side^2, side, side]
                                 * is stored as [out, side, side, in / side^2]; 0: none            */
} agl_linear_spec;

agl_status agl_weight_loader_linear(agl_weight_loader *loader, agl_weight **out,
                                    const agl_linear_spec *spec, agl_error *err);

/* The common case: one tensor NAME.weight of [rows, in], no bias. */
agl_status agl_weight_loader_matrix(agl_weight_loader *loader, agl_weight **out, const char *name,
                                    int64_t rows, int64_t in, agl_error *err);

/* Tensor prefix + name, [rows] or [rows, columns], as F32 on the backend. Random ones are 1.
 * *out is set as soon as there is memory to free. */
agl_status agl_weight_loader_vector(agl_weight_loader *loader, float **out, const char *name,
                                    int64_t rows, int64_t columns, agl_error *err);

/* True if the checkpoint has prefix + name; false without a map. */
bool agl_weight_loader_has(const agl_weight_loader *loader, const char *name);

#endif
