/* SPDX-License-Identifier: Apache-2.0
 *
 * generation.h - the sampling defaults of an engine: the checkpoint's generation_config,
 * another folder's, or none; then the operator's overrides. */
#ifndef AGL_ENGINE_GENERATION_H
#define AGL_ENGINE_GENERATION_H

#include "agl/agl.h"
#include "model/config.h"

agl_status agl_generation_defaults(agl_sampling_defaults *out, const agl_config *config,
                                   const agl_engine_options *options, agl_error *err);

#endif
