/* SPDX-License-Identifier: Apache-2.0 */
#include "unit/server/http_client.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "unit/server/fake_engine.h"

test_service test_service_start(const agl_server_options *options, bool loading)
{
    test_service service = {0};
    agl_error err = {0};
    agl_server_options filled = *options;
    if (filled.host == NULL) filled.host = "127.0.0.1";
    if (filled.port == 0) filled.port = -1;
    if (agl_server_create(&service.server, &filled, &err) != AGL_OK) fail_msg("%s", err.message);
    if (agl_server_start(service.server, &err) != AGL_OK) fail_msg("%s", err.message);
    assert_int_equal(agl_engine_create(&service.engine, &(agl_engine_options){0}, &err), AGL_OK);
    if (!loading) agl_server_set_engine(service.server, service.engine);
    return service;
}

void test_service_stop(test_service *service)
{
    agl_server_destroy(service->server);
    assert_int_equal(atomic_load(&test_fake()->live), 0);
    agl_engine_destroy(service->engine);
}

int test_connect(const test_service *service)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(agl_server_port(service->server)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(handle >= 0);
    struct timeval limit = {.tv_sec = 20};
    setsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(handle, (struct sockaddr *)&address, sizeof address), 0);
    return handle;
}

void test_send(int handle, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t sent = send(handle, data, bytes, MSG_NOSIGNAL);
        if (sent <= 0) return; /* the server has closed: its answer tells why */
        data += sent;
        bytes -= (size_t)sent;
    }
}

/* In place; stops at the last chunk or where the text ends. */
static size_t unchunk(char *body)
{
    char *in = body, *out = body;
    for (;;) {
        char *rest;
        unsigned long bytes = strtoul(in, &rest, 16);
        if (bytes == 0 || strncmp(rest, "\r\n", 2) != 0) break;
        if (strlen(rest + 2) < bytes) bytes = strlen(rest + 2);
        memmove(out, rest + 2, bytes);
        out += bytes;
        in = rest + 2 + bytes;
        if (strncmp(in, "\r\n", 2) == 0) in += 2;
    }
    *out = '\0';
    return (size_t)(out - body);
}

test_reply test_receive(int handle)
{
    test_reply reply = {0};
    size_t used = 0, room = 1 << 16;
    reply.all = malloc(room + 1);
    for (;;) {
        ssize_t got = recv(handle, reply.all + used, room - used, 0);
        if (got <= 0) break;
        used += (size_t)got;
        if (used == room) reply.all = realloc(reply.all, (room *= 2) + 1);
    }
    close(handle);
    reply.all[used] = '\0';
    char *head = reply.all;
    while (strncmp(head, "HTTP/1.1 100", 12) == 0) {
        char *end = strstr(head, "\r\n\r\n");
        if (end == NULL) break;
        head = end + 4;
    }
    if (sscanf(head, "HTTP/1.%*c %d", &reply.status) != 1) reply.status = 0;
    char *end = strstr(head, "\r\n\r\n");
    reply.body = end != NULL ? end + 4 : reply.all + used;
    reply.body_bytes = used - (size_t)(reply.body - reply.all);
    if (end != NULL && strstr(head, "Transfer-Encoding: chunked") != NULL && strstr(head, "Transfer-Encoding") < end) {
        reply.body_bytes = unchunk(reply.body);
    }
    return reply;
}

void test_reply_free(test_reply *reply)
{
    free(reply->all);
    *reply = (test_reply){0};
}

int test_send_request(const test_service *service, const char *method, const char *path, const char *headers,
                      const char *body)
{
    int handle = test_connect(service);
    size_t room = strlen(path) + strlen(headers) + 256;
    char *head = malloc(room);
    int bytes = body != NULL ? snprintf(head, room, "%s %s HTTP/1.1\r\nHost: t\r\nConnection: close\r\n%s"
                                        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                                        method, path, headers, strlen(body))
                             : snprintf(head, room, "%s %s HTTP/1.1\r\nHost: t\r\nConnection: close\r\n%s\r\n", method,
                                        path, headers);
    test_send(handle, head, (size_t)bytes);
    if (body != NULL) test_send(handle, body, strlen(body));
    free(head);
    return handle;
}

test_reply test_request(const test_service *service, const char *method, const char *path, const char *headers,
                        const char *body)
{
    return test_receive(test_send_request(service, method, path, headers, body));
}

test_reply test_get(const test_service *service, const char *path)
{
    return test_request(service, "GET", path, "", NULL);
}

test_reply test_post(const test_service *service, const char *path, const char *body)
{
    return test_request(service, "POST", path, "", body);
}

bool test_wait_idle(void)
{
    for (int i = 0; i < 4000 && atomic_load(&test_fake()->live) > 0; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    return atomic_load(&test_fake()->live) == 0;
}
