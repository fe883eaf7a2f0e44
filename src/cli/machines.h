/* SPDX-License-Identifier: Apache-2.0
 *
 * machines.h - lists of hardware names and of result files on a command line; shared by
 * `plan` and `bench report`. */
#ifndef AGL_CLI_MACHINES_H
#define AGL_CLI_MACHINES_H

#include "bench/plan.h"
#include "cli/flags.h"

enum { AGL_CLI_HARDWARE_MAX = 32, AGL_CLI_RESULTS_MAX = 64 };

typedef struct {
    agl_hardware items[AGL_CLI_HARDWARE_MAX];
    size_t count;
} agl_cli_hardware_list;

/* Call `add` for every part of every item, cut at commas. */
agl_status agl_cli_each_part(const agl_flag_list *list, agl_status (*add)(void *to, const char *part, agl_error *err),
                             void *to, agl_error *err);

/* For agl_cli_each_part: `to` is an agl_cli_hardware_list; "all" is the whole table. */
agl_status agl_cli_add_hardware(void *to, const char *part, agl_error *err);

/* Paths of the measurements that come with this program, in malloc'd memory; none if they are
 * not there. agl_cli_paths_free frees them and the list. */
void agl_cli_shipped_results(agl_flag_list *out);
void agl_cli_paths_free(agl_flag_list *list);

/* The results of all files in one array, to be freed; also after a failure. */
agl_status agl_cli_load_results(agl_result **all, size_t *count, const agl_flag_list *files, agl_error *err);

#endif
