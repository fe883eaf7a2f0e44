/* SPDX-License-Identifier: Apache-2.0
 *
 * checkpoint.h - from what the user calls a model to the folder that holds it.
 *
 * A folder is taken as it is. A hub id (org/name) is looked up in the local caches of
 * Hugging Face and ModelScope; nothing is ever downloaded. */
#ifndef AGL_MODEL_CHECKPOINT_H
#define AGL_MODEL_CHECKPOINT_H

#include <stddef.h>

#include "base/status.h"

/* Folder of `model`, in order: a folder of that name; HF_HUB_CACHE, else HF_HOME/hub, else
 * ~/.cache/huggingface/hub; MODELSCOPE_CACHE, else ~/.cache/modelscope/hub.
 * NOT_FOUND lists the folders that were looked at. */
agl_status agl_checkpoint_resolve(char *out, size_t size, const char *model, agl_error *err);

#endif
