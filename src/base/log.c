/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static agl_log_fn sink;
static void *sink_user;

void agl_log_set(agl_log_fn fn, void *user)
{
    pthread_mutex_lock(&sink_lock);
    sink = fn;
    sink_user = user;
    pthread_mutex_unlock(&sink_lock);
}

void agl_log(agl_log_level level, const char *format, ...)
{
    char line[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);

    pthread_mutex_lock(&sink_lock);
    if (sink != NULL) sink(sink_user, level, line);
    pthread_mutex_unlock(&sink_lock);
}
