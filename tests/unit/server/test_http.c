/* SPDX-License-Identifier: Apache-2.0
 *
 * Transport: routes, keys, limits, readiness, clients that leave, shutdown. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/status.h"
#include "unit/server/fake_engine.h"
#include "unit/server/http_client.h"

#define CHAT "/v1/chat/completions"

static void expect(test_reply reply, int status, const char *text)
{
    if (reply.status != status || (text != NULL && strstr(reply.all, text) == NULL)) {
        fail_msg("expected %d and '%s', got:\n%s", status, text != NULL ? text : "", reply.all);
    }
    test_reply_free(&reply);
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static char *chat(const char *text, bool stream)
{
    char *body = malloc(strlen(text) + 128);
    sprintf(body, "{\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}],\"stream\":%s}", text, stream ? "true" : "false");
    return body;
}

/* A chat request on a connection of its own, which test_receive reads. */
static int send_chat(const test_service *service, const char *text, bool stream)
{
    char *body = chat(text, stream);
    int handle = test_send_request(service, "POST", CHAT, "", body);
    free(body);
    return handle;
}

static void readiness_follows_the_engine(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){0}, true);
    expect(test_get(&service, "/health"), 503, "The model is loading");
    agl_server_set_progress(service.server, "weights", 0.43);
    expect(test_get(&service, "/healthz"), 503, "weights, 43 % done");
    expect(test_post(&service, CHAT, "{}"), 503, "Retry-After: 5");
    expect(test_get(&service, "/v1/models"), 503, NULL);
    expect(test_get(&service, "/livez"), 200, NULL);
    expect(test_get(&service, "/metrics"), 200, "agl_ready");
    agl_server_set_failed(service.server, "no such folder");
    expect(test_get(&service, "/readyz"), 503, "could not be loaded: no such folder");

    agl_server_set_engine(service.server, service.engine);
    expect(test_get(&service, "/healthz"), 200, "{\"status\": \"ok\"}");
    atomic_store(&test_fake()->stalled, true);
    expect(test_get(&service, "/healthz"), 503, "has not finished a step");
    expect(test_get(&service, "/livez"), 503, NULL);
    expect(test_post(&service, CHAT, "{}"), 503, NULL);
    atomic_store(&test_fake()->stalled, false);
    test_service_stop(&service);
}

static void every_path_answers_with_and_without_v1(void **state)
{
    static const struct {
        const char *method, *path;
        int status;
        const char *text;
    } CASES[] = {
        {"GET", "/models", 200, "\"object\":\"list\""},
        {"GET", "/models/", 200, "\"object\":\"list\""},
        {"GET", "/models/org/name", 200, "\"id\":\"org/name\""},
        {"GET", "/models/org%2Fname", 200, "\"max_model_len\":4096"},
        {"GET", "/models/other", 404, "NotFoundError"},
        {"GET", "/version", 200, "\"version\""},
        {"GET", "/load", 200, "server_load"},
        {"GET", "/ping", 200, NULL},
        {"POST", "/ping", 200, NULL},
        {"GET", "/metrics", 200, "vllm:num_requests_running{model_name=\"org/name\",engine=\"0\"} 0"},
        {"HEAD", "/health", 200, NULL},
        {"DELETE", "/models", 405, "Allow: GET, HEAD, OPTIONS"},
        {"GET", "/chat/completions", 405, "Allow: POST, OPTIONS"},
        {"POST", "/embeddings", 501, "NotImplementedError"},
        {"GET", "/nowhere", 404, "Not Found"},
        {"POST", "/nowhere", 404, "\"error\":{"},
        {"PATCH", "/nowhere", 404, NULL},
        {"OPTIONS", "/anything", 204, "Access-Control-Allow-Origin: *"},
        {"POST", "/reset_prefix_cache", 404, NULL},
    };
    (void)state;
    test_service service = test_service_start(&(agl_server_options){
        .model_names = {(const char *const[]){"org/name", "alias"}, 2}, .root_path = "/llm/"}, false);
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        char path[128];
        for (int form = 0; form < 3; form++) {
            snprintf(path, sizeof path, "%s%s", form == 0 ? "" : form == 1 ? "/v1" : "/llm/v1", CASES[i].path);
            const char *body = strcmp(CASES[i].method, "POST") == 0 ? "{}" : NULL;
            expect(test_request(&service, CASES[i].method, path, "", body), CASES[i].status, CASES[i].text);
        }
    }
    test_service_stop(&service);
}

static void keys_guard_everything_but_health(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){
        .api_keys = {(const char *const[]){"first", "second"}, 2}}, false);
    expect(test_get(&service, "/v1/models"), 401, "WWW-Authenticate: Bearer");
    expect(test_get(&service, "/metrics"), 401, "AuthenticationError");
    expect(test_get(&service, "/nowhere"), 401, NULL);
    expect(test_post(&service, "/tokenize", "{\"prompt\":\"a\"}"), 401, NULL);
    expect(test_post(&service, "/invocations", "{}"), 401, NULL);
    expect(test_get(&service, "/health"), 200, NULL);
    expect(test_get(&service, "/livez"), 200, NULL);
    expect(test_request(&service, "OPTIONS", CHAT, "", NULL), 204, NULL);
    expect(test_request(&service, "GET", "/models", "Authorization: Bearer second\r\n", NULL), 200, NULL);
    expect(test_request(&service, "GET", "/models", "authorization: bearer first\r\n", NULL), 200, NULL);
    expect(test_request(&service, "GET", "/models", "X-Api-Key: first\r\n", NULL), 200, NULL);
    expect(test_request(&service, "GET", "/models", "Authorization: Bearer firs\r\n", NULL), 401, NULL);
    expect(test_request(&service, "GET", "/models", "Authorization: Bearer \r\n", NULL), 401, NULL);
    expect(test_request(&service, "GET", "/models", "Authorization: Basic first\r\n", NULL), 401, NULL);
    test_service_stop(&service);

    agl_error err;
    agl_server *server;
    agl_server_options empty = {.port = -1, .api_keys = {(const char *const[]){""}, 1}};
    assert_int_equal(agl_server_create(&server, &empty, &err), AGL_ERR_ARGUMENT);
}

static void pages_of_listed_origins_may_read(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){
        .allowed_origins = {(const char *const[]){"https://a.example"}, 1}, .allow_credentials = true}, false);
    expect(test_request(&service, "GET", "/health", "Origin: https://a.example\r\n", NULL), 200,
           "Access-Control-Allow-Origin: https://a.example");
    test_reply reply = test_request(&service, "GET", "/health", "Origin: https://b.example\r\n", NULL);
    assert_null(strstr(reply.all, "Access-Control-Allow-Origin"));
    test_reply_free(&reply);
    expect(test_request(&service, "OPTIONS", CHAT, "Origin: https://a.example\r\n"
                        "Access-Control-Request-Headers: x-mine\r\n", NULL), 204, "Access-Control-Allow-Headers: x-mine");
    test_service_stop(&service);
}

static void request_ids_are_echoed_if_safe(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){0}, false);
    expect(test_request(&service, "GET", "/health", "X-Request-Id: abc-1\r\n", NULL), 200, "X-Request-Id: abc-1\r\n");
    test_reply reply = test_request(&service, "GET", "/health", "X-Request-Id: a\"b\r\n", NULL);
    assert_null(strstr(reply.all, "a\"b"));
    assert_non_null(strstr(reply.all, "X-Request-Id: "));
    test_reply_free(&reply);
    char *body = chat("[say:hi]", false);
    expect(test_request(&service, "POST", CHAT, "X-Request-Id: abc-1\r\n", body), 200, "\"id\":\"chatcmpl-abc-1\"");
    free(body);
    test_service_stop(&service);
}

static test_reply raw(const test_service *service, const char *text)
{
    int handle = test_connect(service);
    test_send(handle, text, strlen(text));
    return test_receive(handle);
}

static void limits_hold(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){.body_bytes_max = 1000, .header_bytes_max = 4096,
                                                                    .body_bytes_total = 1500}, false);
    expect(raw(&service, "POST " CHAT " HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999\r\n\r\n"), 413,
           "larger than 1000 bytes");
    char big[2000];
    memset(big, ' ', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    expect(test_post(&service, CHAT, big), 413, "RequestEntityTooLargeError");

    /* Chunked bodies say no length beforehand. */
    char chunked[2400];
    snprintf(chunked, sizeof chunked, "POST %s HTTP/1.1\r\nHost: t\r\nConnection: close\r\nTransfer-Encoding: chunked"
             "\r\n\r\n5dc\r\n%.1500s\r\n0\r\n\r\n", CHAT, big);
    expect(raw(&service, chunked), 413, NULL);
    expect(raw(&service, "POST " CHAT " HTTP/1.1\r\nHost: t\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
               "3b\r\n{\"messages\":[{\"role\":\"user\",\"content\":\"[say:chunked ok]\"}]}\r\n0\r\n\r\n"), 200, "chunked ok");
    test_reply broken = raw(&service, "POST " CHAT " HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
                            "Transfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n0\r\n\r\n");
    assert_true(broken.status == 400 || broken.status == 0);
    test_reply_free(&broken);

    char *headers = malloc(9000);
    memset(headers, 'a', 9000);
    memcpy(headers, "X-Long: ", 8);
    memcpy(headers + 8996, "\r\n", 3);
    expect(test_request(&service, "GET", "/health", headers, NULL), 431, NULL);
    free(headers);
    expect(test_get(&service, "/health"), 200, NULL);
    test_service_stop(&service);
}

static void expect_continue_is_answered(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){.body_bytes_max = 1000}, false);
    int handle = test_connect(&service);
    static const char HEAD[] = "POST " CHAT " HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 54\r\n"
                               "Expect: 100-continue\r\n\r\n";
    char answer[64] = {0};
    test_send(handle, HEAD, sizeof HEAD - 1);
    assert_true(recv(handle, answer, sizeof answer - 1, 0) > 0);
    assert_memory_equal(answer, "HTTP/1.1 100", 12);
    static const char BODY[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"[say:later]\"}]}";
    test_send(handle, BODY, sizeof BODY - 1);
    expect(test_receive(handle), 200, "later");
    expect(raw(&service, "POST " CHAT " HTTP/1.1\r\nHost: t\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n"),
           413, NULL);
    test_service_stop(&service);
}

static void slow_senders_are_cut_off(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){.receive_timeout_ms = 100}, false);
    int handle = test_connect(&service);
    test_send(handle, "GET /health HT", 14);
    char byte;
    assert_int_equal(recv(handle, &byte, 1, 0), 0); /* closed by the server, not by our 20 s */
    close(handle);
    expect(test_get(&service, "/health"), 200, NULL);
    test_service_stop(&service);
}

static void readers_that_stop_are_cut_off(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){.idle_timeout_ms = 1000}, false);
    char *body = chat("[count=65000]", true);
    char head[256];
    int bytes = snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: t\r\nContent-Length: %zu\r\n\r\n", CHAT,
                         strlen(body));
    int handle = test_connect(&service), small = 4096;
    setsockopt(handle, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    test_send(handle, head, (size_t)bytes);
    test_send(handle, body, strlen(body));
    while (agl_server_active(service.server) == 0) sleep_ms(1);
    for (int i = 0; i < 4000 && agl_server_active(service.server) > 0; i++) sleep_ms(5);
    assert_int_equal(agl_server_active(service.server), 0);
    assert_true(test_wait_idle());
    expect(test_get(&service, "/metrics"), 200, "agl_disconnects_total{model_name=\"fake/model\",engine=\"0\"} 1\n");
    close(handle);
    free(body);
    test_service_stop(&service);
}

static void connections_are_reused(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){0}, false);
    int handle = test_connect(&service);
    /* Two at once, and a third that closes; all on one connection. */
    static const char REQUESTS[] = "GET /health HTTP/1.1\r\nHost: t\r\n\r\n"
                                   "POST /tokenize HTTP/1.1\r\nHost: t\r\nContent-Length: 15\r\n\r\n{\"prompt\":\"ab\"}"
                                   "GET /version HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    test_send(handle, REQUESTS, sizeof REQUESTS - 1);
    test_reply reply = test_receive(handle);
    assert_non_null(strstr(reply.all, "{\"status\": \"ok\"}"));
    assert_non_null(strstr(reply.all, "\"count\":2"));
    assert_non_null(strstr(reply.all, "{\"version\""));
    test_reply_free(&reply);
    test_service_stop(&service);
}

static void overload_is_429(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){.request_threads = 1, .queue_max = 1}, false);
    int handles[4];
    for (int i = 0; i < 4; i++) {
        handles[i] = send_chat(&service, "[submit=400][say:x]", false);
        sleep_ms(50);
    }
    int served = 0, refused = 0;
    for (int i = 0; i < 4; i++) {
        test_reply reply = test_receive(handles[i]);
        served += reply.status == 200;
        refused += reply.status == 429 && strstr(reply.all, "Retry-After: 1") != NULL;
        test_reply_free(&reply);
    }
    assert_int_equal(served, 2);
    assert_int_equal(refused, 2);
    test_service_stop(&service);
}

/* Clients that leave in each phase; the engine must be told, and nothing may stay. */
static void leaving_clients_free_everything(void **state)
{
    static const struct {
        const char *text;
        bool stream;
        long leave_after_ms;
        bool cancels;           /* the request reaches the engine and does not end by itself */
    } CASES[] = {
        {"[submit=200][count=9999][delay=1]", true, 20, true},
        {"[submit=200][count=9999][delay=1]", false, 20, true},
        {"[first=5000][count=9]", true, 50, true},
        {"[first=5000][count=9]", false, 50, true},
        {"[count=60000][delay=1]", true, 60, true},
        {"[count=60000][delay=1]", false, 60, true},
        {"[count=60000]", true, 5, true},
        {"[say:quick]", true, 0, false},
        {"[say:quick]", false, 0, false},
    };
    (void)state;
    test_service service = test_service_start(&(agl_server_options){0}, false);
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        char *body = chat(CASES[i].text, CASES[i].stream);
        char head[256];
        int cancelled = atomic_load(&test_fake()->cancelled), submitted = atomic_load(&test_fake()->submitted);
        int bytes = snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: t\r\nContent-Length: %zu\r\n\r\n", CHAT,
                             strlen(body));
        int handle = test_connect(&service);
        test_send(handle, head, (size_t)bytes);
        test_send(handle, body, strlen(body));
        sleep_ms(CASES[i].leave_after_ms);
        close(handle);
        if (CASES[i].cancels) {
            while (atomic_load(&test_fake()->submitted) == submitted) sleep_ms(1);
        }
        assert_true(test_wait_idle());
        if (CASES[i].cancels) assert_int_equal(atomic_load(&test_fake()->cancelled), cancelled + 1);
        free(body);
    }
    for (int i = 0; i < 2000 && agl_server_active(service.server) > 0; i++) sleep_ms(5);
    assert_int_equal(agl_server_active(service.server), 0);
    expect(test_get(&service, "/metrics"), 200, "agl_disconnects_total");
    test_service_stop(&service);
}

static void two_hundred_clients_vanish(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){0}, false);
    char *body = chat("[submit=1][first=5][count=400][delay=1]", true);
    unsigned random = 12345;
    for (int round = 0; round < 10; round++) {
        int handles[20];
        for (int i = 0; i < 20; i++) {
            char head[256];
            int bytes = snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: t\r\nContent-Length: %zu\r\n\r\n", CHAT,
                                 strlen(body));
            handles[i] = test_connect(&service);
            random = random * 1103515245u + 12345u;
            size_t cut = random >> 16 & 1 ? strlen(body) : (random >> 17) % strlen(body);
            test_send(handles[i], head, (size_t)bytes);
            test_send(handles[i], body, cut);
        }
        for (int i = 0; i < 20; i++) {
            random = random * 1103515245u + 12345u;
            sleep_ms((random >> 16) % 6);
            if (random >> 24 & 1) shutdown(handles[i], SHUT_RDWR);
            close(handles[i]);
        }
    }
    assert_true(test_wait_idle());
    free(body);
    expect(test_get(&service, "/health"), 200, NULL);
    test_service_stop(&service);
}

static void silent_streams_send_heartbeats(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){.heartbeat_ms = 40}, false);
    char *body = chat("[first=400][say:at last]", true);
    test_reply reply = test_post(&service, CHAT, body);
    assert_int_equal(reply.status, 200);
    assert_memory_equal(reply.body, ": waiting\n\n", 11);
    assert_non_null(strstr(reply.body, "data: [DONE]"));
    assert_non_null(strstr(reply.all, "X-Accel-Buffering: no"));
    assert_non_null(strstr(reply.all, "Cache-Control: no-cache"));
    test_reply_free(&reply);
    free(body);
    test_service_stop(&service);
}

static void wait_for_submitted(int count)
{
    while (atomic_load(&test_fake()->submitted) < count) sleep_ms(1);
}

typedef struct {
    agl_server *server;
    atomic_bool returned;
    bool none_cut;
} drain;

static void *run_drain(void *argument)
{
    drain *self = argument;
    self->none_cut = agl_server_drain(self->server, 60000);
    atomic_store(&self->returned, true);
    return NULL;
}

static bool is_ready(const test_service *service)
{
    test_reply reply = test_get(service, "/readyz");
    bool ready = reply.status == 200;
    test_reply_free(&reply);
    return ready;
}

static void draining_lets_requests_end(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){0}, false);
    int submitted = atomic_load(&test_fake()->submitted);
    atomic_store(&test_fake()->held, true);
    int handle = send_chat(&service, "[hold=0][say:e]", true);
    wait_for_submitted(submitted + 1);
    drain draining = {.server = service.server};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run_drain, &draining), 0);
    while (is_ready(&service)) sleep_ms(1);
    expect(test_get(&service, "/readyz"), 503, "shutting down");
    expect(test_get(&service, "/livez"), 200, NULL);
    char *body = chat("[say:late]", true);
    expect(test_post(&service, CHAT, body), 503, "shutting down");
    free(body);
    assert_false(atomic_load(&draining.returned));

    atomic_store(&test_fake()->held, false);
    expect(test_receive(handle), 200, "\"content\":\"e\"},\"logprobs\":null,\"finish_reason\":\"stop\"");
    pthread_join(thread, NULL);
    assert_true(draining.none_cut);
    test_service_stop(&service);
}

static void draining_cuts_what_does_not_end(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){0}, false);
    int submitted = atomic_load(&test_fake()->submitted);
    atomic_store(&test_fake()->held, true);
    int begun = send_chat(&service, "[hold=1][say:xy]", true);
    int silent = send_chat(&service, "[hold=0][say:xy]", true);
    int whole = send_chat(&service, "[hold=1][say:xy]", false);
    char first;
    assert_int_equal(recv(begun, &first, 1, MSG_PEEK), 1);
    wait_for_submitted(submitted + 3);
    assert_false(agl_server_drain(service.server, 50));
    expect(test_receive(begun), 200, "shutting down");
    expect(test_receive(silent), 503, "shutting down");
    expect(test_receive(whole), 503, "shutting down");
    atomic_store(&test_fake()->held, false);
    test_service_stop(&service);
}

/* The engine may tell that a request was cut off before the server's own thread knows it. */
static void an_aborted_answer_is_an_error(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){0}, false);
    atomic_store(&test_fake()->held, true);
    int begun = send_chat(&service, "[hold=1][abort=2][say:xyz]", true);
    char first;
    assert_int_equal(recv(begun, &first, 1, MSG_PEEK), 1);
    atomic_store(&test_fake()->held, false);
    test_reply reply = test_receive(begun);
    assert_null(strstr(reply.all, "\"finish_reason\":\""));
    expect(reply, 200, "shutting down");
    expect(test_receive(send_chat(&service, "[abort=2][say:xyz]", false)), 503, "shutting down");
    test_service_stop(&service);
}

/* Nothing is waited for: destroy while requests are in every phase. */
static void destroy_cuts_off_what_runs(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){0}, false);
    static const char *const TEXTS[] = {"[submit=100][hold=0][say:x]", "[hold=0][say:x]", "[count=60000][delay=1]"};
    atomic_store(&test_fake()->held, true);
    int handles[6];
    for (int i = 0; i < 6; i++) {
        char *body = chat(TEXTS[i % 3], i % 2 == 0);
        char head[256];
        int bytes = snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: t\r\nContent-Length: %zu\r\n\r\n", CHAT,
                             strlen(body));
        handles[i] = test_connect(&service);
        test_send(handles[i], head, (size_t)bytes);
        test_send(handles[i], body, strlen(body));
        free(body);
    }
    while (agl_server_active(service.server) < 6) sleep_ms(1);
    test_service_stop(&service);
    for (int i = 0; i < 6; i++) close(handles[i]);
    atomic_store(&test_fake()->held, false);
}

static void a_taken_port_is_one_clear_line(void **state)
{
    (void)state;
    test_service service = test_service_start(&(agl_server_options){0}, true);
    agl_server *second = NULL;
    agl_error err;
    agl_server_options options = {.host = "127.0.0.1", .port = agl_server_port(service.server)};
    assert_int_equal(agl_server_create(&second, &options, &err), AGL_ERR_IO);
    assert_non_null(strstr(err.message, "Address already in use; is another server running there?"));
    assert_null(second);
    options = (agl_server_options){.port = -1, .ssl_certfile = "/nonexistent"};
    assert_int_equal(agl_server_create(&second, &options, &err), AGL_ERR_ARGUMENT);
    options = (agl_server_options){.port = -1, .allowed_local_media_path = "/nonexistent"};
    assert_int_equal(agl_server_create(&second, &options, &err), AGL_ERR_NOT_FOUND);
    options = (agl_server_options){.port = -1, .default_chat_template_kwargs = "{\"enable_thinking\":3}"};
    assert_int_equal(agl_server_create(&second, &options, &err), AGL_ERR_FORMAT);
    test_service_stop(&service);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readiness_follows_the_engine),
        cmocka_unit_test(every_path_answers_with_and_without_v1),
        cmocka_unit_test(keys_guard_everything_but_health),
        cmocka_unit_test(pages_of_listed_origins_may_read),
        cmocka_unit_test(request_ids_are_echoed_if_safe),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(expect_continue_is_answered),
        cmocka_unit_test(slow_senders_are_cut_off),
        cmocka_unit_test(readers_that_stop_are_cut_off),
        cmocka_unit_test(connections_are_reused),
        cmocka_unit_test(overload_is_429),
        cmocka_unit_test(leaving_clients_free_everything),
        cmocka_unit_test(two_hundred_clients_vanish),
        cmocka_unit_test(silent_streams_send_heartbeats),
        cmocka_unit_test(draining_lets_requests_end),
        cmocka_unit_test(draining_cuts_what_does_not_end),
        cmocka_unit_test(an_aborted_answer_is_an_error),
        cmocka_unit_test(destroy_cuts_off_what_runs),
        cmocka_unit_test(a_taken_port_is_one_clear_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
