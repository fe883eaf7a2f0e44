/* SPDX-License-Identifier: Apache-2.0
 *
 * flags_value.h - one value of a flag: checked against its row, then stored.
 * A part of flags.c; nobody else includes it. */
#ifndef AGL_CLI_FLAGS_VALUE_H
#define AGL_CLI_FLAGS_VALUE_H

#include "cli/flags.h"

/* Does this kind take a value after its name? */
bool agl_flag_takes_value(const agl_flag *flag);

void agl_flag_store_switch(void *values, const agl_flag *flag, bool on);

/* Check `text` and store it. `path` is the dotted rest of a JSON flag ("size.longest_edge"), else NULL. */
agl_status agl_flag_store(void *values, const agl_flag *flag, const char *path, const char *text,
                          agl_error *err);

agl_status agl_flag_list_add(agl_flag_list *list, const char *item, agl_error *err);

#endif
