/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/launcher.h"

#include <stdbool.h>
#include <string.h>

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

int agl_cli_launcher_words(int argc, char **argv)
{
    if (argc < 2) return 0;
    const char *slash = strrchr(argv[0], '/'), *program = slash != NULL ? slash + 1 : argv[0];
    bool is_server = strcmp(program, "vllm") == 0 || strcmp(program, "sglang") == 0;
    if (is_server && strcmp(argv[1], "serve") == 0) return 2;
    if (argc < 3 || !starts_with(program, "python") || strcmp(argv[1], "-m") != 0) return 0;
    return starts_with(argv[2], "vllm.entrypoints.") || starts_with(argv[2], "sglang.launch_server") ? 3 : 0;
}
