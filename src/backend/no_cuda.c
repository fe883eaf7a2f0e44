/* SPDX-License-Identifier: Apache-2.0
 *
 * no_cuda.c - stands for backend/cuda in a build without it; the Makefile links one of them. */
#include <stdio.h>

#include "backend/backend.h"

#define WHY "this program was built without CUDA"

bool agl_backend_cuda_built(void)
{
    return false;
}

int agl_backend_cuda_count(char *why, size_t why_bytes)
{
    if (why != NULL) snprintf(why, why_bytes, "%s", WHY);
    return 0;
}

agl_status agl_backend_cuda_create(agl_backend **out, const agl_backend_options *options,
                                   agl_error *err)
{
    (void)options;
    *out = NULL;
    return agl_fail(err, AGL_ERR_UNSUPPORTED, "device cuda: %s; nvcc and `make CUDA=1` build it in",
                    WHY);
}
