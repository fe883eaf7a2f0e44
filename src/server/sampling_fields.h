/* SPDX-License-Identifier: Apache-2.0
 *
 * sampling_fields.h - the sampling parameters that chat and text completions
 * share, checked against one table of ranges with vLLM's messages. */
#ifndef AGL_SERVER_SAMPLING_FIELDS_H
#define AGL_SERVER_SAMPLING_FIELDS_H

#include "server/fields.h"

#define AGL_CHOICES_MAX 128     /* n of one request, and prompts * n */
#define AGL_STOP_MAX 16

/* Everything but logprobs, whose form differs between the two endpoints.
 * max_tokens is what `max_tokens` says: 0 and null mean absent. */
agl_status agl_sampling_parse(agl_sampling *sampling, const agl_fields *fields);

/* Fields that change the output and are not built: refused rather than ignored. */
agl_status agl_unsupported_check(const agl_fields *fields);

#endif
