/* SPDX-License-Identifier: Apache-2.0
 *
 * api_error.h - an error as the HTTP client sees it, and the one table that maps
 * agl_status to an HTTP status. */
#ifndef AGL_SERVER_API_ERROR_H
#define AGL_SERVER_API_ERROR_H

#include "base/buffer.h"
#include "base/status.h"

typedef struct {
    int http_status;        /* 0: no error yet                             */
    char param[96];         /* the field at fault; "": none                */
    agl_error detail;
} agl_api_error;

/* Fill `err`; param NULL: none. Returns `status`. */
__attribute__((format(printf, 4, 5)))
agl_status agl_api_fail(agl_api_error *err, agl_status status, const char *param,
                        const char *format, ...);

/* The same with an HTTP status of its own: 401, 404, 405, 413, ... */
__attribute__((format(printf, 4, 5)))
agl_status agl_api_fail_http(agl_api_error *err, int http_status, const char *param,
                             const char *format, ...);

/* 503: what is asked for, or what was begun, is refused because the server ends. */
agl_status agl_api_fail_shutdown(agl_api_error *err);

/* err->detail was filled by a lower layer: derive the rest from its status. */
agl_status agl_api_fail_detail(agl_api_error *err, agl_status status, const char *param);

/* Client mistakes are 4xx: clients send a 5xx again, with its megabytes. */
int agl_http_status_of(agl_status status);

/* Seconds a client should wait before it tries again; 0: it should not. */
int agl_retry_after_s(int http_status);

/* {"error":{"message","type","param","code"}}, vLLM's and OpenAI's nested form. */
void agl_api_error_write(agl_buffer *out, const agl_api_error *err);

#endif
