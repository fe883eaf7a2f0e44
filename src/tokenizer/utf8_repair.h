/* SPDX-License-Identifier: Apache-2.0
 *
 * utf8_repair.h - bytes of any kind to valid UTF-8.
 *
 * Each maximal part of a broken character becomes one U+FFFD, as Python's
 * errors="replace" and Rust's from_utf8_lossy have it. */
#ifndef AGL_TOKENIZER_UTF8_REPAIR_H
#define AGL_TOKENIZER_UTF8_REPAIR_H

#include <stddef.h>

#include "base/buffer.h"

void agl_utf8_append_repaired(agl_buffer *out, const char *text, size_t bytes);

#endif
