/* SPDX-License-Identifier: Apache-2.0
 *
 * console.h - what the operator sees on standard error: log lines, a progress
 * bar while a model loads, and how numbers are written for people.
 *
 *     INFO:     Started server process [4711]
 *     weights   [##########..........]  51 %   1.2 s      (terminals only)
 *
 * Log lines may come from any thread. */
#ifndef AGL_CLI_CONSOLE_H
#define AGL_CLI_CONSOLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "agl/agl.h"

typedef struct {
    pthread_mutex_t lock;
    agl_log_level least;     /* lower levels are dropped                     */
    bool off;
    bool json;               /* one object a line                            */
    bool colour;             /* a terminal, and NO_COLOR is not set          */
    bool terminal;
    bool bar_shown;          /* the cursor stands behind a progress bar      */
} agl_console;

/* Level info, text, colours if standard error is a terminal. Becomes the log sink. */
void agl_console_init(agl_console *console);
void agl_console_deinit(agl_console *console);

/* Names of --log-level and --log-format. */
void agl_console_configure(agl_console *console, const char *level, const char *format);

/* Draw, or redraw, the bar; nothing unless on a terminal. */
void agl_console_bar(agl_console *console, const char *phase, double fraction, double seconds);
void agl_console_bar_clear(agl_console *console);

/* May colours be written to this stream? */
bool agl_console_has_colour(FILE *stream);

typedef struct {
    char text[32];
} agl_human;

agl_human agl_human_bytes(uint64_t bytes);   /* "18.8 GB", decimal         */
agl_human agl_human_count(uint64_t count);   /* "9.40 B", "412 k"          */

#endif
