/* SPDX-License-Identifier: Apache-2.0
 *
 * loader.h - create an engine in a thread of its own, so that the main thread
 * keeps seeing signals, and tell how far it is.
 *
 * On a terminal a bar is drawn; elsewhere one line a phase, and one every few
 * seconds in a long phase. */
#ifndef AGL_CLI_LOADER_H
#define AGL_CLI_LOADER_H

#include <stdbool.h>

#include "base/status.h"
#include "cli/console.h"
#include "server/server.h"

enum { AGL_LOADER_PHASES_MAX = 16 };

typedef struct {
    char name[32];
    double seconds;
} agl_loader_phase;

typedef struct {
    agl_console *console;    /* must outlive the call                                     */
    agl_server *server;      /* is told the progress too; NULL allowed                    */
    int signal_fd;           /* of agl_signals_open                                       */
    bool quiet;              /* no bar, no lines                                          */

    agl_loader_phase phases[AGL_LOADER_PHASES_MAX]; /* out: in order, finished            */
    size_t phase_count;
    double seconds;          /* out: all together                                         */

    double started_s, phase_started_s, line_s; /* inner clockwork                          */
    bool in_phase;
} agl_loader;

/* Blocks. A signal while loading ends the process: nothing is served yet, and an engine
 * that is half built cannot be taken down from outside. `exit_code` is what it ends with. */
agl_status agl_loader_run(agl_engine **out, agl_loader *loader, const agl_engine_options *options,
                          int exit_code, agl_error *err);

/* Block SIGINT and SIGTERM for this thread and those it creates; they are read from *fd. */
agl_status agl_signals_open(int *fd, agl_error *err);

/* Has one arrived within timeout_ms? Takes it. */
bool agl_signals_take(int fd, int timeout_ms);

#endif
