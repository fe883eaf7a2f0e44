/* SPDX-License-Identifier: Apache-2.0
 *
 * device.h - which device an engine runs on. */
#ifndef AGL_ENGINE_DEVICE_H
#define AGL_ENGINE_DEVICE_H

#include "agl/agl.h"
#include "backend/backend.h"
#include "model/config.h"

/* Open the backend that options->device names, with the activations that options->dtype and
 * the checkpoint ask for. "auto" is the first GPU; one that this program cannot use is named
 * in a warning, and the CPU taken. */
agl_status agl_device_open(agl_backend **out, const agl_engine_options *options,
                           const agl_config *config, agl_error *err);

#endif
