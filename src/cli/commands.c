/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/commands.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static const agl_command COMMANDS[] = {
    { "serve", AGL_CLI_SERVE, "[MODEL] [flags]", "answer the OpenAI API over HTTP", agl_command_serve },
    { "ask", AGL_CLI_ASK, "[--image FILE]... [flags] QUESTION", "one question, the answer on the terminal",
      agl_command_ask },
    { "chat", AGL_CLI_CHAT, "[--image FILE]... [flags]", "a conversation on the terminal", agl_command_chat },
    { "inspect", AGL_CLI_INSPECT, "[MODEL] [--json]", "what a checkpoint holds, and whether it would be served",
      agl_command_inspect },
    { "bench", AGL_CLI_MEASURE | AGL_CLI_PLATFORM, "KIND [flags]", "measure a server, the engine, a whole machine",
      agl_command_bench },
    { "plan", AGL_CLI_PLAN, "[MODEL] --hardware NAME,...", "would it fit there, and how fast", agl_command_plan },
};

const agl_command *agl_command_at(size_t index)
{
    return index < AGL_COUNT(COMMANDS) ? &COMMANDS[index] : NULL;
}

const agl_command *agl_command_find(const char *name)
{
    for (size_t i = 0; i < AGL_COUNT(COMMANDS); i++)
        if (strcmp(COMMANDS[i].name, name) == 0) return &COMMANDS[i];
    return NULL;
}

static const agl_command *command_of(unsigned bit)
{
    size_t i = 0;
    while (!(COMMANDS[i].command & bit)) i++;
    return &COMMANDS[i];
}

int agl_command_begin(agl_console *console, agl_cli_options *options, unsigned command, int argc,
                      char **argv)
{
    return agl_command_begin_as(console, options, command_of(command), argc, argv);
}

int agl_command_begin_as(agl_console *console, agl_cli_options *options, const agl_command *self,
                         int argc, char **argv)
{
    agl_error err = { 0 };
    agl_cli_options_init(options);
    agl_sampling_init(&options->sampling);
    if (agl_cli_options_parse(options, self->command, argc, argv, &err) != AGL_OK) {
        fprintf(stderr, "autoglm %s: %s\n", self->name, err.message);
        return AGL_EXIT_USAGE;
    }
    if (options->parsed.help) {
        bool colour = agl_console_has_colour(stdout);
        printf("autoglm %s %s\n  %s\n", self->name, self->usage, self->summary);
        agl_cli_options_help(stdout, self->command, colour);
        return AGL_EXIT_OK;
    }
    agl_console_configure(console, options->log_level, options->log_format);
    for (size_t i = 0; i < options->parsed.idle_count; i++)
        agl_log_warning("--%s has no effect here: %s", options->parsed.idle[i]->name, options->parsed.idle[i]->help);
    return -1;
}
