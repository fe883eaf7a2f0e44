/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/machines.h"

#include <glob.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"

agl_status agl_cli_each_part(const agl_flag_list *list, agl_status (*add)(void *to, const char *part, agl_error *err),
                             void *to, agl_error *err)
{
    for (size_t i = 0; i < list->count; i++) {
        const char *at = list->items[i];
        for (;;) {
            size_t bytes = strcspn(at, ",");
            char part[96];
            if (bytes >= sizeof part) return agl_fail(err, AGL_ERR_ARGUMENT, "\"%.60s...\" is too long a name", at);
            memcpy(part, at, bytes);
            part[bytes] = '\0';
            if (bytes > 0) AGL_TRY(add(to, part, err));
            if (at[bytes] == '\0') break;
            at += bytes + 1;
        }
    }
    return AGL_OK;
}

agl_status agl_cli_add_hardware(void *to, const char *part, agl_error *err)
{
    agl_cli_hardware_list *list = to;
    bool all = strcmp(part, "all") == 0;
    for (size_t i = 0; all && agl_hardware_at(i) != NULL && list->count < AGL_CLI_HARDWARE_MAX; i++) {
        list->items[list->count++] = *agl_hardware_at(i);
    }
    if (all) return AGL_OK;
    if (list->count == AGL_CLI_HARDWARE_MAX) return agl_fail(err, AGL_ERR_LIMIT, "more than %d machines", AGL_CLI_HARDWARE_MAX);
    AGL_TRY(agl_hardware_find(&list->items[list->count], part, err));
    list->count++;
    return AGL_OK;
}

agl_status agl_cli_load_results(agl_result **all, size_t *count, const agl_flag_list *files, agl_error *err)
{
    *all = NULL;
    *count = 0;
    for (size_t i = 0; i < files->count; i++) {
        agl_result *some, *grown;
        size_t some_count;
        AGL_TRY(agl_results_load(&some, &some_count, files->items[i], err));
        grown = realloc(*all, (*count + some_count + 1) * sizeof *grown);
        if (grown == NULL || *count + some_count > AGL_CLI_RESULTS_MAX) {
            if (grown != NULL) *all = grown;
            free(some);
            return agl_fail(err, AGL_ERR_LIMIT, "more than %d results", AGL_CLI_RESULTS_MAX);
        }
        *all = grown;
        memcpy(*all + *count, some, some_count * sizeof *some);
        *count += some_count;
        free(some);
    }
    return AGL_OK;
}

void agl_cli_shipped_results(agl_flag_list *out)
{
    char folder[AGL_CLI_PATH_MAX], pattern[AGL_CLI_PATH_MAX + 8];
    glob_t found = { 0 };
    *out = (agl_flag_list){ 0 };
    if (agl_cli_find_shipped(folder, sizeof folder, "docs/platforms", "results", NULL) != AGL_OK) return;
    snprintf(pattern, sizeof pattern, "%s/*.json", folder);
    if (glob(pattern, 0, NULL, &found) == 0) out->items = calloc(found.gl_pathc + 1, sizeof *out->items);
    for (size_t i = 0; out->items != NULL && i < found.gl_pathc; i++) {
        char *path = strdup(found.gl_pathv[i]);
        if (path != NULL) out->items[out->count++] = path;
    }
    globfree(&found);
}

void agl_cli_paths_free(agl_flag_list *list)
{
    for (size_t i = 0; i < list->count; i++) free((char *)list->items[i]);
    free(list->items);
    *list = (agl_flag_list){ 0 };
}
