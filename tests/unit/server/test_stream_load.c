/* SPDX-License-Identifier: Apache-2.0
 *
 * 64 streams at once: every token arrives, in its own chunk as long as the server
 * keeps up. Prints the CPU time of the server per token (scripted engine included). */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "unit/server/fake_engine.h"
#include "unit/server/http_client.h"

#define STREAMS 64
#define TOKENS 200

static double cpu_s(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static size_t count(const char *text, const char *needle)
{
    size_t found = 0;
    for (const char *at = text; (at = strstr(at, needle)) != NULL; at += strlen(needle)) found++;
    return found;
}

/* Characters 'x' inside "content":"…". */
static size_t content_bytes(const char *text)
{
    static const char KEY[] = "\"content\":\"";
    size_t bytes = 0;
    for (const char *at = text; (at = strstr(at, KEY)) != NULL;) {
        at += sizeof KEY - 1;
        bytes += strcspn(at, "\"");
    }
    return bytes;
}

/* In a process of its own, so that its work is not counted. Exits with 0 if all arrived. */
static void read_streams(const int *handles, int report)
{
    size_t chunks = 0;
    int wrong = 0;
    char *texts[STREAMS];
    size_t used[STREAMS] = {0};
    struct pollfd polls[STREAMS];
    int open = STREAMS;
    for (int i = 0; i < STREAMS; i++) {
        texts[i] = malloc(1 << 20);
        polls[i] = (struct pollfd){.fd = handles[i], .events = POLLIN};
    }
    while (open > 0 && poll(polls, STREAMS, 20000) > 0) {
        for (int i = 0; i < STREAMS; i++) {
            if (polls[i].revents == 0) continue;
            ssize_t got = recv(polls[i].fd, texts[i] + used[i], (1 << 20) - 1 - used[i], 0);
            if (got > 0) {
                used[i] += (size_t)got;
            } else {
                polls[i].fd = -1;
                open--;
            }
        }
    }
    for (int i = 0; i < STREAMS; i++) {
        texts[i][used[i]] = '\0';
        if (content_bytes(texts[i]) != TOKENS || strstr(texts[i], "data: [DONE]") == NULL) wrong++;
        chunks += count(texts[i], "chat.completion.chunk");
    }
    if (write(report, &chunks, sizeof chunks) < 0) wrong++;
    _exit(wrong == 0 ? 0 : 1);
}

static void all_tokens_of_all_streams_arrive(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){.disable_access_log = true}, false);
    char body[256], head[256];
    int body_bytes = snprintf(body, sizeof body, "{\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":"
                              "\"[first=100][delay=5][count=%d]\"}]}", TOKENS);
    int head_bytes = snprintf(head, sizeof head, "POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
                              "Content-Length: %d\r\n\r\n", body_bytes);
    int handles[STREAMS], report[2], status = 0;
    assert_int_equal(pipe(report), 0);
    for (int i = 0; i < STREAMS; i++) handles[i] = test_connect(&service);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) read_streams(handles, report[1]);

    double before_s = cpu_s();
    for (int i = 0; i < STREAMS; i++) {
        test_send(handles[i], head, (size_t)head_bytes);
        test_send(handles[i], body, (size_t)body_bytes);
        close(handles[i]);
    }
    size_t chunks = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(read(report[0], &chunks, sizeof chunks), sizeof chunks);
    double spent_s = cpu_s() - before_s;
    assert_int_equal(status, 0);
    print_message("%d streams, %d tokens in %zu chunks: %.1f us of CPU per token\n", STREAMS, STREAMS * TOKENS, chunks,
                  spent_s * 1e6 / (STREAMS * TOKENS));
    close(report[0]);
    close(report[1]);
    assert_true(test_wait_idle());
    test_service_stop(&service);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_tokens_of_all_streams_arrive)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
