/* SPDX-License-Identifier: Apache-2.0
 *
 * template_form.h - the form of a Jinja chat template: what is left when white space that is
 * never printed is taken away.
 *
 *     "a  \n  {%- if  x %}\n b"  ->  "a{%if x%} b"
 *
 * Rules of the environment chat templates run in: trim_blocks, lstrip_blocks, "-" marks, one
 * final newline dropped, CR LF as LF. Comments go; white space inside tags shrinks to one
 * space outside of quotes. Two templates of the same form render the same text. */
#ifndef AGL_TOKENIZER_TEMPLATE_FORM_H
#define AGL_TOKENIZER_TEMPLATE_FORM_H

#include <stddef.h>

#include "base/buffer.h"
#include "base/status.h"

/* Append the form to `out`. A tag that is not closed, or that uses "+" marks, stays as it is
 * with all that follows. */
agl_status agl_template_form(agl_buffer *out, const char *text, size_t bytes, agl_error *err);

#endif
