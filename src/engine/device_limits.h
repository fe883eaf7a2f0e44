/* SPDX-License-Identifier: Apache-2.0
 *
 * device_limits.h - the rates of a backend, measured through its own operations. */
#ifndef AGL_ENGINE_DEVICE_LIMITS_H
#define AGL_ENGINE_DEVICE_LIMITS_H

#include "agl/agl.h"
#include "backend/backend.h"

/* Random values in [-1, 1), 1 MiB of them again and again. Zeros would flip no bits, and a GPU that
 * saves that power runs faster. */
void agl_device_random_values(void *out, size_t bytes, agl_dtype dtype);

/* With a weight of about `weight_bytes`, far beyond the device's caches or the rates are theirs.
 * Takes four times that memory, less on a CPU, and gives it back. No workspace may have been
 * reserved on `backend` before. */
agl_status agl_device_limits_take(agl_device_limits *out, agl_backend *backend, size_t weight_bytes,
                                  agl_error *err);

#endif
