/* SPDX-License-Identifier: Apache-2.0
 *
 * sampling_fields.h - the sampling parameters that chat and text completions
 * share, checked against one table of ranges with vLLM's messages. */
#ifndef AGL_SERVER_SAMPLING_FIELDS_H
#define AGL_SERVER_SAMPLING_FIELDS_H

#include "server/fields.h"

#define AGL_CHOICES_MAX 128     /* n of one request, and prompts * n */
#define AGL_STOP_MAX 16

/* Everything but logprobs, whose form differs between the two endpoints. max_tokens is what
 * `max_tokens` says, 0 if it is absent; whether it may be 0 is for the endpoint to say. */
agl_status agl_sampling_parse(agl_sampling *sampling, const agl_fields *fields);

/* The 400 of a limit below 1. */
agl_status agl_max_tokens_refuse(const agl_fields *fields, const char *key, int64_t value);

/* Fields that change the output and are not built: refused rather than ignored. */
agl_status agl_unsupported_check(const agl_fields *fields);

#endif
