/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "model/weight_loader.h"

/* First match wins, so longer prefixes stand before the ones they begin with. */
static const struct { const char *prefix, *standard; } SPELLINGS[] = {
    {"model.language_model.", "model.language_model."},
    {"model.visual.", "model.visual."},
    {"language_model.model.", "model.language_model."},
    {"language_model.lm_head.", "lm_head."},
    {"visual.", "model.visual."},
    {"lm_head.", "lm_head."},
    {"model.", "model.language_model."},
};

static char *standard_name(const char *name)
{
    for (size_t i = 0; i < AGL_COUNT(SPELLINGS); i++) {
        size_t prefix = strlen(SPELLINGS[i].prefix), standard = strlen(SPELLINGS[i].standard);
        if (strncmp(name, SPELLINGS[i].prefix, prefix) != 0) continue;
        size_t rest = strlen(name + prefix) + 1;
        char *out = malloc(standard + rest);
        if (out == NULL) return NULL;
        memcpy(out, SPELLINGS[i].standard, standard);
        memcpy(out + standard, name + prefix, rest);
        return out;
    }
    return strdup(name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const agl_named_tensor *)a)->name, ((const agl_named_tensor *)b)->name);
}

agl_status agl_tensor_map_init(agl_tensor_map *out, const agl_weights *weights, const char *dir,
                               agl_error *err)
{
    size_t total = agl_weights_count(weights);
    *out = (agl_tensor_map){.entries = calloc(total + 1, sizeof *out->entries)};
    if (out->entries == NULL)
        return agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for %zu names", dir, total);
    for (size_t i = 0; i < total; i++) {
        const agl_tensor *tensor = agl_weights_at(weights, i);
        char *name = standard_name(tensor->name);
        if (name == NULL) {
            agl_tensor_map_deinit(out);
            return agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for names", dir);
        }
        out->entries[out->count++] = (agl_named_tensor){.name = name, .tensor = tensor};
    }
    qsort(out->entries, out->count, sizeof *out->entries, by_name);
    for (size_t i = 1; i < out->count; i++) {
        if (strcmp(out->entries[i - 1].name, out->entries[i].name) != 0) continue;
        agl_status status =
            agl_fail(err, AGL_ERR_FORMAT, "%s: tensors %s and %s are the same weight", dir,
                     out->entries[i - 1].tensor->name, out->entries[i].tensor->name);
        agl_tensor_map_deinit(out);
        return status;
    }
    return AGL_OK;
}

void agl_tensor_map_deinit(agl_tensor_map *map)
{
    for (size_t i = 0; i < map->count; i++) free(map->entries[i].name);
    free(map->entries);
    *map = (agl_tensor_map){0};
}

agl_named_tensor *agl_tensor_map_find(const agl_tensor_map *map, const char *name)
{
    size_t low = 0, high = map->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, map->entries[middle].name);
        if (order == 0) return &map->entries[middle];
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

/* Buffers that old saves contain and that the configuration determines. */
static bool is_derived(const char *name)
{
    static const char ENDING[] = "rotary_emb.inv_freq";
    size_t bytes = strlen(name), ending = sizeof ENDING - 1;
    return bytes >= ending && strcmp(name + bytes - ending, ENDING) == 0;
}

agl_status agl_tensor_map_check_used(const agl_tensor_map *map, const char *dir, agl_error *err)
{
    const agl_tensor *first = NULL;
    size_t count = 0;
    for (size_t i = 0; i < map->count; i++) {
        if (map->entries[i].used || is_derived(map->entries[i].name)) continue;
        if (count++ == 0) first = map->entries[i].tensor;
    }
    if (count == 0) return AGL_OK;
    return agl_fail(err, AGL_ERR_FORMAT,
                    "%s: tensor %s belongs to no part of this model (%zu such tensor%s)", dir,
                    first->name, count, count == 1 ? "" : "s");
}
