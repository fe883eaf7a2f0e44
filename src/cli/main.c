/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c - `autoglm COMMAND ...`. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/launcher.h"

static void print_usage(FILE *out)
{
    fprintf(out, "autoglm %s - serves AutoGLM-Phone-9B and its relatives over the OpenAI API\n\n", AGL_VERSION);
    for (size_t i = 0; agl_command_at(i) != NULL; i++) {
        const agl_command *command = agl_command_at(i);
        fprintf(out, "  autoglm %-8s %-36s %s\n", command->name, command->usage, command->summary);
    }
    fprintf(out, "  autoglm %-8s %-36s %s\n\n", "version", "", "which version this is");
    fprintf(out, "`autoglm COMMAND --help` lists the flags of a command. Command lines of other servers\n"
                 "(`vllm serve ...`, `python3 -m sglang.launch_server ...`) may follow `autoglm` as they are.\n");
}

static int dispatch(agl_console *console, int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return AGL_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        print_usage(stdout);
        return AGL_EXIT_OK;
    }
    if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0 || strcmp(name, "-v") == 0) {
        printf("autoglm %s\n", AGL_VERSION);
        return AGL_EXIT_OK;
    }
    int words = agl_cli_launcher_words(argc - 1, argv + 1);
    if (words > 0) return agl_command_serve(console, argc - 1 - words, argv + 1 + words);
    const agl_command *command = agl_command_find(name);
    if (command != NULL) {
        words = command->command == AGL_CLI_SERVE ? agl_cli_launcher_words(argc - 2, argv + 2) : 0;
        return command->run(console, argc - 2 - words, argv + 2 + words);
    }
    const char *hint = name[0] == '-' ? "; flags come after the command: autoglm serve " : "";
    fprintf(stderr, "autoglm: unknown command %s%s%s\n", name, hint, *hint != '\0' ? name : "");
    return AGL_EXIT_USAGE;
}

int main(int argc, char **argv)
{
    agl_console console;
    agl_console_init(&console);
    int code = dispatch(&console, argc, argv);
    agl_console_deinit(&console);
    return code;
}
