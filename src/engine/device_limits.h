/* SPDX-License-Identifier: Apache-2.0
 *
 * device_limits.h - the rates of a backend, measured through its own operations. */
#ifndef AGL_ENGINE_DEVICE_LIMITS_H
#define AGL_ENGINE_DEVICE_LIMITS_H

#include "agl/agl.h"
#include "backend/backend.h"

/* With a weight of about `weight_bytes`, far beyond the device's caches or the rates are theirs.
 * Takes four times that memory, less on a CPU, and gives it back. No workspace may have been
 * reserved on `backend` before. */
agl_status agl_device_limits_take(agl_device_limits *out, agl_backend *backend, size_t weight_bytes,
                                  agl_error *err);

#endif
