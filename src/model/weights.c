/* SPDX-License-Identifier: Apache-2.0 */
#include "model/weights.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file_map.h"
#include "base/json.h"

#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE "model.safetensors.index.json"
#define INDEX_BYTES_MAX ((size_t)64 << 20)
#define SHARDS_MAX 4096
#define PATH_BYTES 4352

typedef struct {
    char *file;             /* name inside the folder */
    agl_file_map map;
    agl_tensor *tensors;    /* owns the names         */
    size_t count;
} shard;

struct agl_weights {
    shard *shards;
    size_t shard_count;
    const agl_tensor **sorted;  /* [count] views into the shards, by name */
    size_t count;
};

static agl_status join(char out[PATH_BYTES], const char *dir, const char *file, agl_error *err)
{
    int bytes = snprintf(out, PATH_BYTES, "%s/%s", dir, file);
    if (bytes >= 0 && bytes < PATH_BYTES) return AGL_OK;
    return agl_fail(err, AGL_ERR_LIMIT, "%.80s...: path is longer than %d bytes", dir, PATH_BYTES);
}

static agl_status shard_open(shard *out, const char *dir, agl_error *err)
{
    char path[PATH_BYTES];
    AGL_TRY(join(path, dir, out->file, err));
    AGL_TRY(agl_file_map_open(&out->map, path, err));
    return agl_safetensors_parse(&out->tensors, &out->count, out->map.data, out->map.bytes, path,
                                 err);
}

/* ---- list of shards --------------------------------------------------------- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The index is outside data: it must not name files elsewhere. */
static bool is_plain_file(const char *file)
{
    return file[0] != '\0' && file[0] != '.' && strchr(file, '/') == NULL && strlen(file) < 256;
}

/* Distinct values of weight_map, sorted. */
static agl_status shards_from_map(agl_weights *weights, struct json_object *map, const char *path,
                                  agl_error *err)
{
    size_t entries = (size_t)json_object_object_length(map), filled = 0;
    const char **files = calloc(entries + 1, sizeof *files);
    if (files == NULL)
        return agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for %zu entries", path, entries);
    agl_status status = AGL_OK;
    json_object_object_foreach(map, tensor, value) {
        const char *file =
            json_object_is_type(value, json_type_string) ? json_object_get_string(value) : "";
        if (!is_plain_file(file)) {
            status = agl_fail(err, AGL_ERR_FORMAT,
                              "%s: weight_map of %.80s is \"%.80s\", a file name expected", path,
                              tensor, file);
            break;
        }
        files[filled++] = file;
    }
    qsort(files, filled, sizeof *files, by_text);
    size_t distinct = 0;
    for (size_t i = 0; i < filled; i++) {
        if (distinct == 0 || strcmp(files[distinct - 1], files[i]) != 0)
            files[distinct++] = files[i];
    }
    if (status == AGL_OK && (distinct == 0 || distinct > SHARDS_MAX)) {
        status = agl_fail(err, AGL_ERR_FORMAT, "%s: weight_map names %zu files, 1 to %d expected",
                          path, distinct, SHARDS_MAX);
    }
    if (status == AGL_OK) {
        weights->shards = calloc(distinct, sizeof *weights->shards);
        if (weights->shards == NULL)
            status = agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for shards", path);
    }
    for (size_t i = 0; status == AGL_OK && i < distinct; i++) {
        weights->shards[i].file = strdup(files[i]);
        if (weights->shards[i].file == NULL)
            status = agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for names", path);
        weights->shard_count++;
    }
    free(files);
    return status;
}

static agl_status list_single(agl_weights *weights, agl_error *err)
{
    weights->shards = calloc(1, sizeof *weights->shards);
    char *file = strdup(SINGLE_FILE);
    if (weights->shards == NULL || file == NULL) {
        free(file);
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for weights");
    }
    weights->shards[0].file = file;
    weights->shard_count = 1;
    return AGL_OK;
}

static agl_status open_shards(agl_weights *weights, const char *dir, agl_error *err)
{
    for (size_t i = 0; i < weights->shard_count; i++) {
        AGL_TRY(shard_open(&weights->shards[i], dir, err));
    }
    return AGL_OK;
}

/* ---- all tensors, by name --------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const agl_tensor *const *)a)->name, (*(const agl_tensor *const *)b)->name);
}

static agl_status sort_tensors(agl_weights *weights, const char *dir, agl_error *err)
{
    size_t total = 0;
    for (size_t i = 0; i < weights->shard_count; i++) total += weights->shards[i].count;
    weights->sorted = calloc(total + 1, sizeof *weights->sorted);
    if (weights->sorted == NULL)
        return agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for %zu tensors", dir, total);
    for (size_t i = 0; i < weights->shard_count; i++) {
        shard *from = &weights->shards[i];
        for (size_t t = 0; t < from->count; t++)
            weights->sorted[weights->count++] = &from->tensors[t];
    }
    qsort(weights->sorted, weights->count, sizeof *weights->sorted, by_name);
    for (size_t i = 1; i < weights->count; i++) {
        if (strcmp(weights->sorted[i - 1]->name, weights->sorted[i]->name) == 0) {
            return agl_fail(err, AGL_ERR_FORMAT, "%s: tensor %s is in two shards", dir,
                            weights->sorted[i]->name);
        }
    }
    return AGL_OK;
}

/* Every tensor the index promises must be there. */
static agl_status check_promises(const agl_weights *weights, struct json_object *map,
                                 const char *path, agl_error *err)
{
    json_object_object_foreach(map, name, file) {
        if (agl_weights_find(weights, name) == NULL) {
            return agl_fail(err, AGL_ERR_FORMAT, "%s: tensor %.200s is missing, in %s expected",
                            path, name, json_object_get_string(file));
        }
    }
    return AGL_OK;
}

static agl_status open_indexed(agl_weights *weights, const char *dir, const char *path,
                               struct json_object *index, agl_error *err)
{
    struct json_object *map = agl_json_member(index, "weight_map");
    if (!json_object_is_type(map, json_type_object)) {
        return agl_fail(err, AGL_ERR_FORMAT, "%s: weight_map is missing, an object expected", path);
    }
    AGL_TRY(shards_from_map(weights, map, path, err));
    AGL_TRY(open_shards(weights, dir, err));
    AGL_TRY(sort_tensors(weights, dir, err));
    return check_promises(weights, map, path, err);
}

static agl_status open_any(agl_weights *weights, const char *dir, agl_error *err)
{
    char path[PATH_BYTES];
    AGL_TRY(list_single(weights, err));
    agl_status status = open_shards(weights, dir, err);
    if (status == AGL_OK) return sort_tensors(weights, dir, err);
    if (status != AGL_ERR_NOT_FOUND) return status;
    free(weights->shards[0].file);
    free(weights->shards);
    weights->shards = NULL;
    weights->shard_count = 0;

    AGL_TRY(join(path, dir, INDEX_FILE, err));
    struct json_object *index;
    status = agl_json_load(&index, path, INDEX_BYTES_MAX, err);
    if (status == AGL_ERR_NOT_FOUND) {
        return agl_fail(err, AGL_ERR_NOT_FOUND,
                        "%s: neither %s nor %s is there, one of them expected", dir, SINGLE_FILE,
                        INDEX_FILE);
    }
    if (status != AGL_OK) return status;
    status = open_indexed(weights, dir, path, index, err);
    json_object_put(index);
    return status;
}

agl_status agl_weights_open(agl_weights **out, const char *dir, agl_error *err)
{
    *out = NULL;
    agl_weights *weights = calloc(1, sizeof *weights);
    if (weights == NULL) return agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for weights", dir);
    agl_status status = open_any(weights, dir, err);
    if (status != AGL_OK) {
        agl_weights_close(weights);
        return status;
    }
    *out = weights;
    return AGL_OK;
}

void agl_weights_close(agl_weights *weights)
{
    if (weights == NULL) return;
    for (size_t i = 0; i < weights->shard_count; i++) {
        agl_safetensors_free(weights->shards[i].tensors, weights->shards[i].count);
        agl_file_map_close(&weights->shards[i].map);
        free(weights->shards[i].file);
    }
    free(weights->shards);
    free(weights->sorted);
    free(weights);
}

size_t agl_weights_count(const agl_weights *weights)
{
    return weights->count;
}

const agl_tensor *agl_weights_at(const agl_weights *weights, size_t index)
{
    return weights->sorted[index];
}

const agl_tensor *agl_weights_find(const agl_weights *weights, const char *name)
{
    size_t low = 0, high = weights->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, weights->sorted[middle]->name);
        if (order == 0) return weights->sorted[middle];
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}
