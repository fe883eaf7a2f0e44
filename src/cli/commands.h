/* SPDX-License-Identifier: Apache-2.0
 *
 * commands.h - the subcommands. Each gets the arguments after its name and
 * returns the exit code of the process: 0 well, 1 failed, 2 a wrong command line. */
#ifndef AGL_CLI_COMMANDS_H
#define AGL_CLI_COMMANDS_H

#include "cli/console.h"
#include "cli/options.h"

enum { AGL_EXIT_OK = 0, AGL_EXIT_FAILED = 1, AGL_EXIT_USAGE = 2, AGL_EXIT_INTERRUPTED = 130 };

int agl_command_serve(agl_console *console, int argc, char **argv);
int agl_command_ask(agl_console *console, int argc, char **argv);
int agl_command_chat(agl_console *console, int argc, char **argv);
int agl_command_inspect(agl_console *console, int argc, char **argv);
int agl_command_bench(agl_console *console, int argc, char **argv);
agl_status agl_command_bench_report(int argc, char **argv, agl_error *err);
int agl_command_plan(agl_console *console, int argc, char **argv);

/* What a command is called with: "serve", "[MODEL] [flags]", and one line on what it does. */
typedef struct {
    const char *name;
    unsigned command;
    const char *usage;
    const char *summary;
    int (*run)(agl_console *console, int argc, char **argv);
} agl_command;

/* The common start of a command: parse, print the help or the error, warn of flags without
 * effect. Returns -1 to go on, else the exit code; `options` is initialised in any case. */
int agl_command_begin(agl_console *console, agl_cli_options *options, unsigned command, int argc,
                      char **argv);

/* The same for a command that is not of the list, as the kinds of `bench`. */
int agl_command_begin_as(agl_console *console, agl_cli_options *options, const agl_command *self,
                         int argc, char **argv);

const agl_command *agl_command_find(const char *name); /* NULL: none */
const agl_command *agl_command_at(size_t index);       /* NULL: past the last */

#endif
