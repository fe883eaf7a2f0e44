/* SPDX-License-Identifier: Apache-2.0
 *
 * utf8.h - strict UTF-8 (RFC 3629): no surrogates, no overlong forms, <= U+10FFFF. */
#ifndef AGL_BASE_UTF8_H
#define AGL_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the valid character at `text`, or 0 if it is invalid or cut short. */
size_t agl_utf8_character(const char *text, size_t bytes);

/* True if `text` could become a valid character by appending bytes. */
bool agl_utf8_is_incomplete(const char *text, size_t bytes);

bool agl_utf8_is_valid(const char *text, size_t bytes);

/* Length of the longest prefix that ends at a character border, counting an
 * incomplete character at the very end as not yet there. Invalid bytes count as characters. */
size_t agl_utf8_complete_prefix(const char *text, size_t bytes);

#endif
