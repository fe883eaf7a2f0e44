/* SPDX-License-Identifier: Apache-2.0
 *
 * Raw bytes into a running server with the scripted engine. The client reads what
 * comes within a few milliseconds, then leaves, whatever state the request is in. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "server/server.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static agl_server *SERVER;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    agl_engine *engine;
    agl_error err;
    agl_server_options options = {.host = "127.0.0.1", .port = -1, .request_threads = 2, .disable_access_log = true,
                                  .receive_timeout_ms = 2000, .body_bytes_max = 1 << 20};
    if (agl_server_create(&SERVER, &options, &err) != AGL_OK || agl_server_start(SERVER, &err) != AGL_OK) abort();
    if (agl_engine_create(&engine, &(agl_engine_options){0}, &err) != AGL_OK) abort();
    agl_server_set_engine(SERVER, engine);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(agl_server_port(SERVER)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_usec = 3000};
    setsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    /* A reset instead of the usual end, so that ports do not stay in TIME_WAIT. */
    setsockopt(handle, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
    char answer[4096];
    if (connect(handle, (struct sockaddr *)&address, sizeof address) == 0 &&
        send(handle, data, bytes, MSG_NOSIGNAL) >= 0) {
        while (recv(handle, answer, sizeof answer, 0) > 0) {}
    }
    close(handle);
    return 0;
}
