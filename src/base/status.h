/* SPDX-License-Identifier: Apache-2.0
 *
 * status.h - how fallible functions report: a status, and one line written where
 * the fault was seen. The codes are public and listed in agl.h. */
#ifndef AGL_BASE_STATUS_H
#define AGL_BASE_STATUS_H

#include "agl/agl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fill `err` (NULL allowed) and return `status`. The message is one line without
 * a final stop; control characters of quoted input are replaced. */
__attribute__((format(printf, 3, 4)))
agl_status agl_fail(agl_error *err, agl_status status, const char *format, ...);

/* Return early when nothing is held. */
#define AGL_TRY(call)                                                          \
    do {                                                                       \
        agl_status agl_try_status = (call);                                    \
        if (agl_try_status != AGL_OK) return agl_try_status;                   \
    } while (0)

#define AGL_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#ifdef __cplusplus
}
#endif

#endif
