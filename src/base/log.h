/* SPDX-License-Identifier: Apache-2.0
 *
 * log.h - lines for the operator. The sink is set by agl_log_set; the library
 * itself never prints. Safe from any thread. */
#ifndef AGL_BASE_LOG_H
#define AGL_BASE_LOG_H

#include "agl/agl.h"

__attribute__((format(printf, 2, 3)))
void agl_log(agl_log_level level, const char *format, ...);

#define agl_log_debug(...) agl_log(AGL_LOG_DEBUG, __VA_ARGS__)
#define agl_log_info(...) agl_log(AGL_LOG_INFO, __VA_ARGS__)
#define agl_log_warning(...) agl_log(AGL_LOG_WARNING, __VA_ARGS__)
#define agl_log_error(...) agl_log(AGL_LOG_ERROR, __VA_ARGS__)

#endif
