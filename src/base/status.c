/* SPDX-License-Identifier: Apache-2.0 */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

static const char *const STATUS_TEXT[AGL_STATUS_COUNT] = {
#define X(name, text) [name] = text,
    AGL_STATUS_LIST(X)
#undef X
};

const char *agl_status_text(agl_status status)
{
    if ((unsigned)status >= AGL_STATUS_COUNT) return "unknown status";
    return STATUS_TEXT[status];
}

agl_status agl_fail(agl_error *err, agl_status status, const char *format, ...)
{
    if (err == NULL) return status;
    err->status = status;
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    /* One line, whatever outside data was quoted in it. */
    for (char *c = err->message; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' ';
    }
    return status;
}
