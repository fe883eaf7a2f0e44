/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const int HTTP_STATUS[AGL_STATUS_COUNT] = {
    [AGL_OK] = 200,
    [AGL_ERR_ARGUMENT] = 400,
    [AGL_ERR_FORMAT] = 400,
    [AGL_ERR_UNSUPPORTED] = 400,
    [AGL_ERR_NOT_FOUND] = 400,      /* a named file or host, not the route */
    [AGL_ERR_DENIED] = 400,         /* as vLLM: a URL outside the policy    */
    [AGL_ERR_LIMIT] = 400,
    [AGL_ERR_CONTEXT] = 400,
    [AGL_ERR_BUSY] = 429,
    [AGL_ERR_MEMORY] = 503,
    [AGL_ERR_IO] = 500,
    [AGL_ERR_CANCELLED] = 503,      /* only the server itself cancels a request that is still read */
    [AGL_ERR_TIMEOUT] = 504,
    [AGL_ERR_DEVICE] = 503,
    [AGL_ERR_INTERNAL] = 500,
};

static const struct {
    int http_status;
    int retry_after_s;
    const char *type;
} HTTP_TYPE[] = {
    {400, 0, "BadRequestError"},
    {401, 0, "AuthenticationError"},
    {403, 0, "PermissionDeniedError"},
    {404, 0, "NotFoundError"},
    {405, 0, "MethodNotAllowedError"},
    {408, 0, "RequestTimeoutError"},
    {413, 0, "RequestEntityTooLargeError"},
    {429, 1, "RateLimitError"},
    {500, 0, "InternalServerError"},
    {501, 0, "NotImplementedError"},
    {503, 5, "ServiceUnavailableError"},
    {504, 0, "TimeoutError"},
};

int agl_http_status_of(agl_status status)
{
    return HTTP_STATUS[status];
}

int agl_retry_after_s(int http_status)
{
    for (size_t i = 0; i < AGL_COUNT(HTTP_TYPE); i++) {
        if (HTTP_TYPE[i].http_status == http_status) return HTTP_TYPE[i].retry_after_s;
    }
    return 0;
}

static void set(agl_api_error *err, int http_status, const char *param)
{
    err->http_status = http_status;
    snprintf(err->param, sizeof err->param, "%s", param != NULL ? param : "");
}

/* The arguments may be views of the message that is replaced. */
static agl_status fail(agl_api_error *err, int http_status, agl_status status, const char *param,
                       const char *format, va_list args)
{
    char message[sizeof err->detail.message];
    vsnprintf(message, sizeof message, format, args);
    set(err, http_status, param);
    return agl_fail(&err->detail, status, "%s", message);
}

agl_status agl_api_fail(agl_api_error *err, agl_status status, const char *param,
                        const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fail(err, agl_http_status_of(status), status, param, format, args);
    va_end(args);
    return status;
}

agl_status agl_api_fail_http(agl_api_error *err, int http_status, const char *param,
                             const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fail(err, http_status, AGL_ERR_ARGUMENT, param, format, args);
    va_end(args);
    return AGL_ERR_ARGUMENT;
}

agl_status agl_api_fail_shutdown(agl_api_error *err)
{
    return agl_api_fail(err, AGL_ERR_CANCELLED, NULL, "The server is shutting down.");
}

agl_status agl_api_fail_detail(agl_api_error *err, agl_status status, const char *param)
{
    set(err, agl_http_status_of(status), param);
    return status;
}

void agl_api_error_write(agl_buffer *out, const agl_api_error *err)
{
    const char *type = "InternalServerError";
    for (size_t i = 0; i < AGL_COUNT(HTTP_TYPE); i++) {
        if (HTTP_TYPE[i].http_status == err->http_status) type = HTTP_TYPE[i].type;
    }
    agl_buffer_append_text(out, "{\"error\":{\"message\":\"");
    agl_buffer_append_json(out, err->detail.message, strlen(err->detail.message));
    agl_buffer_append_format(out, "\",\"type\":\"%s\",\"param\":", type);
    if (err->param[0] != '\0') {
        agl_buffer_append_char(out, '"');
        agl_buffer_append_json(out, err->param, strlen(err->param));
        agl_buffer_append_char(out, '"');
    } else {
        agl_buffer_append_text(out, "null");
    }
    agl_buffer_append_format(out, ",\"code\":%d}}", err->http_status);
}
