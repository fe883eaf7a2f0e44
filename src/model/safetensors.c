/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors.c - the header of one safetensors file.
 *
 *     u64 header bytes | JSON header                                  | data
 *                        {"name": {"dtype", "shape", "data_offsets"}}
 *
 * The tensors must cover the data without holes or overlaps, as the format demands. */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/weights.h"

#define HEADER_BYTES_MAX ((uint64_t)100 << 20)  /* the reference implementation's limit */
#define RANK_MAX ((int)AGL_COUNT(((agl_tensor *)0)->shape))

static agl_status read_shape(agl_tensor *tensor, struct json_object *entry, const char *file,
                             agl_error *err)
{
    struct json_object *shape = agl_json_member(entry, "shape");
    size_t rank =
        json_object_is_type(shape, json_type_array) ? json_object_array_length(shape) : SIZE_MAX;
    if (rank > (size_t)RANK_MAX) {
        return agl_fail(err, AGL_ERR_FORMAT,
                        "%s: tensor %s: shape is missing or has over %d dimensions", file,
                        tensor->name, RANK_MAX);
    }
    tensor->rank = (int)rank;
    tensor->bytes = agl_dtype_bytes(tensor->dtype);
    for (size_t i = 0; i < rank; i++) {
        struct json_object *side = json_object_array_get_idx(shape, i);
        tensor->shape[i] =
            json_object_is_type(side, json_type_int) ? json_object_get_int64(side) : -1;
        if (tensor->shape[i] < 0 ||
            __builtin_mul_overflow(tensor->bytes, (size_t)tensor->shape[i], &tensor->bytes)) {
            return agl_fail(err, AGL_ERR_FORMAT,
                            "%s: tensor %s: shape is %.60s, sizes of a real tensor expected", file,
                            tensor->name,
                            json_object_to_json_string_ext(shape, JSON_C_TO_STRING_PLAIN));
        }
    }
    return AGL_OK;
}

static bool read_offset(uint64_t *out, struct json_object *offsets, size_t index)
{
    struct json_object *value = json_object_array_get_idx(offsets, index);
    int64_t number = json_object_is_type(value, json_type_int) ? json_object_get_int64(value) : -1;
    *out = (uint64_t)number;
    return number >= 0;
}

/* data: start of the file; header_bytes: where its tensors' data begins. */
static agl_status read_tensor(agl_tensor *tensor, struct json_object *entry,
                              const unsigned char *data, size_t bytes, size_t header_bytes,
                              const char *file, agl_error *err)
{
    const char *dtype = NULL;
    AGL_TRY(agl_json_get_string(&dtype, entry, "dtype", true, tensor->name, err));
    tensor->dtype = agl_dtype_from_safetensors(dtype, strlen(dtype));
    if (tensor->dtype == AGL_DTYPE_COUNT) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "%s: tensor %s: dtype is %.20s, which this build does not read", file,
                        tensor->name, dtype);
    }
    AGL_TRY(read_shape(tensor, entry, file, err));

    struct json_object *offsets = agl_json_member(entry, "data_offsets");
    uint64_t begin, end;
    if (!json_object_is_type(offsets, json_type_array) || json_object_array_length(offsets) != 2 ||
        !read_offset(&begin, offsets, 0) || !read_offset(&end, offsets, 1)) {
        return agl_fail(err, AGL_ERR_FORMAT, "%s: tensor %s: data_offsets are missing or malformed",
                        file, tensor->name);
    }
    if (begin > end || end > bytes - header_bytes) {
        return agl_fail(err, AGL_ERR_FORMAT,
                        "%s: tensor %s: data_offsets [%" PRIu64 ",%" PRIu64
                        "] leave the file's %zu data bytes",
                        file, tensor->name, begin, end, bytes - header_bytes);
    }
    if (end - begin != tensor->bytes) {
        return agl_fail(err, AGL_ERR_FORMAT,
                        "%s: tensor %s: %" PRIu64
                        " bytes of data, %zu expected from dtype and shape",
                        file, tensor->name, end - begin, tensor->bytes);
    }
    size_t position = header_bytes + (size_t)begin;
    if (position % agl_dtype_bytes(tensor->dtype) != 0) {
        return agl_fail(
            err, AGL_ERR_FORMAT,
            "%s: tensor %s: data at byte %zu, a multiple of %zu expected (re-save the file)", file,
            tensor->name, position, agl_dtype_bytes(tensor->dtype));
    }
    tensor->data = data + position;
    return AGL_OK;
}

static int by_data(const void *a, const void *b)
{
    const agl_tensor *left = a, *right = b;
    if (left->data != right->data) return left->data < right->data ? -1 : 1;
    return (left->bytes > right->bytes) - (left->bytes < right->bytes);
}

/* Sorted tensors must follow each other from the header to the end. A name that the header
 * holds twice shows here too, as a hole where the first one's data lies. */
static agl_status check_coverage(const agl_tensor *tensors, size_t count, const unsigned char *from,
                                 const unsigned char *to, const char *file, agl_error *err)
{
    const unsigned char *expected = from;
    for (size_t i = 0; i < count; i++) {
        const unsigned char *data = tensors[i].data;
        if (data != expected) {
            return agl_fail(err, AGL_ERR_FORMAT,
                            "%s: tensor %s: data begins at byte %zu, %zu expected (%s)", file,
                            tensors[i].name, (size_t)(data - from), (size_t)(expected - from),
                            data < expected ? "tensors overlap" : "bytes that belong to no tensor");
        }
        expected = data + tensors[i].bytes;
    }
    if (expected == to) return AGL_OK;
    return agl_fail(err, AGL_ERR_FORMAT, "%s: %zu bytes after the last tensor belong to none", file,
                    (size_t)(to - expected));
}

void agl_safetensors_free(agl_tensor *tensors, size_t count)
{
    if (tensors == NULL) return;
    for (size_t i = 0; i < count; i++) free((char *)tensors[i].name);
    free(tensors);
}

static agl_status read_header(agl_tensor **tensors, size_t *count, struct json_object *header,
                              const unsigned char *data, size_t bytes, size_t header_bytes,
                              const char *file, agl_error *err)
{
    if (!json_object_is_type(header, json_type_object)) {
        return agl_fail(err, AGL_ERR_FORMAT, "%s: header is not a JSON object", file);
    }
    size_t entries = (size_t)json_object_object_length(header);
    *tensors = calloc(entries + 1, sizeof **tensors);
    if (*tensors == NULL)
        return agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for %zu tensors", file, entries);
    json_object_object_foreach(header, key, entry) {
        if (strcmp(key, "__metadata__") == 0) continue;
        agl_tensor *tensor = &(*tensors)[*count];
        tensor->name = strdup(key);
        if (tensor->name == NULL)
            return agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for names", file);
        (*count)++;
        AGL_TRY(read_tensor(tensor, entry, data, bytes, header_bytes, file, err));
    }
    qsort(*tensors, *count, sizeof **tensors, by_data);
    return check_coverage(*tensors, *count, data + header_bytes, data + bytes, file, err);
}

agl_status agl_safetensors_parse(agl_tensor **tensors, size_t *count, const unsigned char *data,
                                 size_t bytes, const char *name, agl_error *err)
{
    *tensors = NULL;
    *count = 0;
    if (bytes < 8)
        return agl_fail(err, AGL_ERR_FORMAT, "%s: %zu bytes are no safetensors file", name, bytes);
    uint64_t json_bytes = 0;
    for (int i = 7; i >= 0; i--) json_bytes = json_bytes << 8 | data[i];
    if (json_bytes > HEADER_BYTES_MAX || json_bytes > bytes - 8) {
        return agl_fail(err, AGL_ERR_FORMAT,
                        "%s: header of %" PRIu64
                        " bytes in a file of %zu (cut short, or no safetensors file)",
                        name, json_bytes, bytes);
    }
    struct json_object *header;
    AGL_TRY(agl_json_parse(&header, (const char *)data + 8, (size_t)json_bytes, name, err));
    agl_status status =
        read_header(tensors, count, header, data, bytes, 8 + (size_t)json_bytes, name, err);
    json_object_put(header);
    if (status != AGL_OK) {
        agl_safetensors_free(*tensors, *count);
        *tensors = NULL;
        *count = 0;
    }
    return status;
}
