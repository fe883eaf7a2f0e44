/* SPDX-License-Identifier: Apache-2.0
 *
 * launcher.h - the first words of other servers' command lines, so that a line
 * from their documents can be pasted whole after `autoglm` or `autoglm serve`. */
#ifndef AGL_CLI_LAUNCHER_H
#define AGL_CLI_LAUNCHER_H

/* How many leading words of argv only start another server: `vllm serve` is 2,
 * `python3 -m vllm.entrypoints.openai.api_server` is 3, anything else 0. */
int agl_cli_launcher_words(int argc, char **argv);

#endif
