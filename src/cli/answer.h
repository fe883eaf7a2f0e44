/* SPDX-License-Identifier: Apache-2.0
 *
 * answer.h - one answer of an engine in this process, streamed to the terminal:
 * what `ask` and `chat` share. Main thread only. */
#ifndef AGL_CLI_ANSWER_H
#define AGL_CLI_ANSWER_H

#include "base/buffer.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/loader.h"

typedef struct {
    agl_console *console;
    agl_cli_options options;
    agl_loader loader;
    agl_engine *engine;
    int signal_fd;
} agl_talk;

/* Read the flags; then load the model. Both: -1 to go on, else the exit code. */
int agl_talk_begin(agl_talk *talk, agl_console *console, unsigned command, int argc, char **argv);
int agl_talk_load(agl_talk *talk);
void agl_talk_close(agl_talk *talk); /* after begin, whatever it returned */

/* An image file's bytes, to be freed with free(). */
agl_status agl_image_read(char **data, size_t *bytes, const char *path, agl_error *err);

typedef struct {
    agl_buffer text;
    agl_finish finish;
    int32_t stop_token;
    agl_usage usage;
} agl_answer;

/* Run `request` (sampling is taken from the flags) and collect its text; with `out`, write it there
 * as it comes. CANCELLED after a signal: what came until then is in `answer`. */
agl_status agl_talk_answer(agl_answer *answer, agl_talk *talk, const agl_request_options *request,
                           FILE *out, agl_error *err);
void agl_answer_deinit(agl_answer *answer);

/* "312 prompt tokens (3 cached), 40 tokens, first after 0.42 s, 23.1 tokens/s" */
void agl_answer_print_usage(FILE *out, const agl_answer *answer, bool colour);

const char *agl_finish_name(agl_finish finish);

#endif
