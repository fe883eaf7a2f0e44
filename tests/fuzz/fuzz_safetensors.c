/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes: the parser refuses them or returns tensors that lie inside them. */
#include <assert.h>
#include <stdlib.h>

#include "model/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    agl_tensor *tensors;
    size_t count;
    agl_error err;
    if (agl_safetensors_parse(&tensors, &count, data, bytes, "fuzz", &err) != AGL_OK) return 0;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *start = tensors[i].data;
        if (start < data || start + tensors[i].bytes > data + bytes || tensors[i].name == NULL) abort();
    }
    agl_safetensors_free(tensors, count);
    return 0;
}
