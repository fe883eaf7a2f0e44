/* SPDX-License-Identifier: Apache-2.0
 *
 * http_client.h - a plain HTTP client over a socket, for tests that send what no
 * library would, and a server with the scripted engine to talk to. */
#ifndef TEST_HTTP_CLIENT_H
#define TEST_HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "server/server.h"

/* A running server. `loading`: without an engine. */
typedef struct {
    agl_server *server;
    agl_engine *engine;
} test_service;

test_service test_service_start(const agl_server_options *options, bool loading);
void test_service_stop(test_service *service);

int test_connect(const test_service *service);
void test_send(int socket, const char *data, size_t bytes);

typedef struct {
    int status;
    char *all;          /* status line, headers and body as received; owned     */
    char *body;         /* in all; chunked encoding removed                      */
    size_t body_bytes;
} test_reply;

/* Read until the server closes (or 20 s pass). */
test_reply test_receive(int socket);
void test_reply_free(test_reply *reply);

/* One request with "Connection: close" on a connection of its own. Extra headers end in \r\n. */
test_reply test_get(const test_service *service, const char *path);
test_reply test_post(const test_service *service, const char *path, const char *body);
test_reply test_request(const test_service *service, const char *method, const char *path, const char *headers,
                        const char *body);
/* The same, sent: the connection, for test_receive. */
int test_send_request(const test_service *service, const char *method, const char *path, const char *headers,
                      const char *body);

/* Wait (up to 20 s) until no request of the engine is left; false if one stays. */
bool test_wait_idle(void);

#endif
