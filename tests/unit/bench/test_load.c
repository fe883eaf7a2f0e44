/* SPDX-License-Identifier: Apache-2.0
 *
 * test_load.c - statistics, workloads and the load generator against a small server in
 * this process that speaks the API with known answers. Times are checked for order only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <math.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"
#include "bench/bench.h"
#include "bench/load.h"
#include "bench/statistics.h"

static volatile sig_atomic_t interrupted;

/* ---- statistics --------------------------------------------------------- */

static void test_statistics(void **state)
{
    (void)state;
    double samples[] = {4, 1, 3, 2, 5};
    agl_summary s = agl_summary_of(samples, 5);
    assert_true(s.mean == 3 && s.median == 3 && s.min == 1 && s.max == 5);
    assert_true(fabs(s.deviation - sqrt(2.0)) < 1e-12);
    assert_true(fabs(s.p90 - 4.6) < 1e-12);                 /* numpy.percentile([1..5], 90) */
    assert_true(fabs(agl_percentile(samples, 5, 25) - 2) < 1e-12);
    assert_true(agl_summary_of(samples, 0).count == 0);
    double three[] = {1, 2, 3};
    assert_true(fabs(agl_confidence95(three, 3) - 4.303 / sqrt(3.0)) < 1e-9);
    assert_true(agl_confidence95(three, 1) == 0);
}

/* ---- workloads ---------------------------------------------------------- */

static struct json_object *body_of(agl_workload *w, size_t session, size_t turn, const char *previous)
{
    char *text = agl_workload_build(w, session, turn, previous);
    assert_non_null(text);
    struct json_object *object;
    assert_int_equal(agl_json_parse(&object, text, strlen(text), "body", NULL), AGL_OK);
    free(text);
    return object;
}

static void test_random_workload(void **state)
{
    (void)state;
    agl_workload_options options = {.kind = AGL_WORKLOAD_RANDOM, .completions = true, .model = "m\"x",
                                    .sessions = 3, .turns = 1, .input_tokens = 17, .output_tokens = 5,
                                    .token_first = 10, .token_last = 20, .ignore_eos = true, .stream = true,
                                    .extra_body = "{\"seed\": 3}", .seed = 1};
    agl_workload *w, *again;
    assert_int_equal(agl_workload_create(&w, &options, NULL), AGL_OK);
    assert_int_equal(agl_workload_create(&again, &options, NULL), AGL_OK);
    struct json_object *body = body_of(w, 1, 0, NULL);
    struct json_object *prompt = agl_json_member(body, "prompt");
    assert_int_equal(json_object_array_length(prompt), 17);
    for (size_t i = 0; i < 17; i++) {
        int id = json_object_get_int(json_object_array_get_idx(prompt, i));
        assert_in_range(id, 10, 19);
    }
    assert_string_equal(json_object_get_string(agl_json_member(body, "model")), "m\"x");
    assert_int_equal(json_object_get_int(agl_json_member(body, "seed")), 3);
    assert_int_equal(json_object_get_int(agl_json_member(body, "max_tokens")), 5);
    assert_null(agl_json_member(body, "cache_salt"));
    json_object_put(body);
    char *a = agl_workload_build(w, 2, 0, NULL), *b = agl_workload_build(again, 2, 0, NULL);
    assert_string_equal(a, b);
    free(a);
    free(b);
    agl_workload_salt(w, 4);
    body = body_of(w, 0, 0, NULL);
    assert_string_equal(json_object_get_string(agl_json_member(body, "cache_salt")), "bench-4");
    json_object_put(body);
    agl_workload_destroy(w);
    agl_workload_destroy(again);

    options.extra_body = "[1]";
    agl_error err;
    assert_int_equal(agl_workload_create(&w, &options, &err), AGL_ERR_ARGUMENT);
    assert_string_equal(err.message, "--extra-body: a JSON object expected");
}

static void test_agent_workload(void **state)
{
    (void)state;
    agl_workload_options options = {.kind = AGL_WORKLOAD_AGENT, .model = "m", .sessions = 1, .turns = 3,
                                    .input_tokens = 8, .output_tokens = 4, .image_width = 108,
                                    .image_height = 240, .stream = true, .seed = 5};
    agl_workload *w;
    assert_int_equal(agl_workload_create(&w, &options, NULL), AGL_OK);
    for (size_t turn = 0; turn < 3; turn++) {
        struct json_object *body = body_of(w, 0, turn, turn == 0 ? NULL : "do(\"x\")\n");
        struct json_object *messages = agl_json_member(body, "messages");
        size_t count = json_object_array_length(messages);
        assert_int_equal(count, 2 + 2 * turn);              /* system, (user, assistant)*, user */
        size_t pictures = 0;
        for (size_t i = 0; i < count; i++) {
            const char *text = json_object_to_json_string(json_object_array_get_idx(messages, i));
            pictures += strstr(text, "image_url\":") != NULL && strstr(text, "base64,iVBOR") != NULL;
        }
        assert_int_equal(pictures, 1);                      /* only the newest */
        json_object_put(body);
    }
    agl_workload_destroy(w);
}

static void test_jsonl_workload(void **state)
{
    (void)state;
    char path[] = "/tmp/agl_test_XXXXXX";
    int fd = mkstemp(path);
    const char *text = "{\"messages\":[],\"max_tokens\":7}\n\n  {\"prompt\":\"x\"} \n";
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    agl_workload_options options = {.kind = AGL_WORKLOAD_JSONL, .model = "m", .path = path, .sessions = 9,
                                    .turns = 1, .output_tokens = 3};
    agl_workload *w;
    assert_int_equal(agl_workload_create(&w, &options, NULL), AGL_OK);
    assert_int_equal(agl_workload_sessions(w), 2);
    struct json_object *body = body_of(w, 0, 0, NULL);
    assert_int_equal(json_object_get_int(agl_json_member(body, "max_tokens")), 7); /* the line's own */
    json_object_put(body);
    body = body_of(w, 1, 0, NULL);
    assert_int_equal(json_object_get_int(agl_json_member(body, "max_tokens")), 3);
    json_object_put(body);
    agl_workload_destroy(w);
    assert_int_equal(write(fd, "[1]\n", 4), 4);
    agl_error err;
    assert_int_equal(agl_workload_create(&w, &options, &err), AGL_ERR_FORMAT);
    assert_non_null(strstr(err.message, ":4: a request body"));
    close(fd);
    unlink(path);
}

/* ---- load --------------------------------------------------------------- */

typedef struct {
    int listener;
    uint16_t port;
    pthread_t thread;
    atomic_int answered, open, open_max;
} server;

typedef struct {
    server *owner;
    int fd;
} connection;

static const char EVENTS[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n"
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n"
    ": heartbeat\n\n"
    "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\r\n\r\n"
    "data:{\"choices\":[{\"delta\":{\"content\":\"lo\"}}]}\n\n"
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":2,"
    "\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n"
    "data: [DONE]\n\n";
static const char WHOLE[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    "{\"choices\":[{\"message\":{\"content\":\"Hello\"}}],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":2}}";
static const char BUSY[] =
    "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    "{\"error\":{\"message\":\"queue is full\"}}";
static const char BROKEN[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n"
    "data: {\"error\":{\"message\":\"device lost\"}}\n\n";

/* Answer by what the body asks for; events leave in small pieces. */
static void *serve(void *user)
{
    connection *c = user;
    char request[65536];
    size_t bytes = 0;
    const char *body = NULL;
    while (bytes < sizeof request - 1) {
        ssize_t got = recv(c->fd, request + bytes, sizeof request - 1 - bytes, 0);
        if (got <= 0) break;
        bytes += (size_t)got;
        request[bytes] = '\0';
        const char *length = strstr(request, "Content-Length: ");
        body = strstr(request, "\r\n\r\n");
        if (body != NULL && length != NULL && bytes - (size_t)(body + 4 - request) >= (size_t)atol(length + 16)) break;
    }
    const char *answer = strstr(request, "\"busy\"") != NULL     ? BUSY
                       : strstr(request, "\"broken\"") != NULL   ? BROKEN
                       : strstr(request, "\"stream\":true") != NULL ? EVENTS
                                                                  : WHOLE;
    for (size_t i = 0; i < strlen(answer); i += 37) {
        size_t piece = strlen(answer) - i < 37 ? strlen(answer) - i : 37;
        if (send(c->fd, answer + i, piece, MSG_NOSIGNAL) < 0) break;
    }
    close(c->fd);
    atomic_fetch_add(&c->owner->answered, 1);
    atomic_fetch_sub(&c->owner->open, 1);
    free(c);
    return NULL;
}

static void *accept_all(void *user)
{
    server *s = user;
    for (;;) {
        int fd = accept(s->listener, NULL, NULL);
        if (fd < 0) return NULL;
        int open = atomic_fetch_add(&s->open, 1) + 1;
        if (open > atomic_load(&s->open_max)) atomic_store(&s->open_max, open);
        connection *c = malloc(sizeof *c);
        *c = (connection){s, fd};
        pthread_t thread;
        pthread_create(&thread, NULL, serve, c);
        pthread_detach(thread);
    }
}

static void server_start(server *s)
{
    *s = (server){.listener = socket(AF_INET, SOCK_STREAM, 0)};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    assert_int_equal(bind(s->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(s->listener, 64), 0);
    getsockname(s->listener, (struct sockaddr *)&address, &size);
    s->port = ntohs(address.sin_port);
    pthread_create(&s->thread, NULL, accept_all, s);
}

static void server_stop(server *s)
{
    shutdown(s->listener, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->listener);
    while (atomic_load(&s->open) > 0) usleep(1000);
}

static char *build(void *user, size_t session, size_t turn, const char *previous)
{
    if (turn > 0) assert_string_equal(previous, "Hello");
    char *body = malloc(100);
    const char *kind = user != NULL ? user : session % 2 == 0 ? "\"stream\":true" : "\"stream\":false";
    snprintf(body, 100, "{\"n\":%zu,%s}", session * 10 + turn, kind);
    return body;
}

static void test_load_answers(void **state)
{
    (void)state;
    server s;
    server_start(&s);
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%u/v1/chat/completions", s.port);
    agl_load_options options = {.url = url, .sessions = 12, .turns = 3, .max_concurrency = 4, .build = build,
                                .interrupted = &interrupted, .api_key = "k"};
    agl_load_result results[36];
    agl_load_summary summary;
    assert_int_equal(agl_load_run(results, &summary, &options, NULL), AGL_OK);
    assert_int_equal(summary.completed, 36);
    assert_int_equal(summary.failed, 0);
    assert_int_equal(summary.peak_concurrency, 4);
    agl_digest hello = agl_sha256("Hello", 5);
    for (size_t i = 0; i < 36; i++) {
        const agl_load_result *r = &results[i];
        bool streamed = i / 3 % 2 == 0;
        assert_true(r->ok);
        assert_string_equal(r->text, "Hello");
        assert_true(agl_digest_equal(&r->text_digest, &hello));
        assert_int_equal(r->prompt_tokens, 11);
        assert_int_equal(r->output_tokens, 2);
        assert_int_equal(r->cached_tokens, streamed ? 4 : 0);
        assert_int_equal(r->events, streamed ? 3 : 1);
        assert_int_equal(r->gap_count, streamed ? 2 : 0);
        assert_true(r->sent_s <= r->first_event_s && r->first_event_s <= r->first_text_s);
        assert_true(r->first_text_s <= r->last_event_s);
    }
    agl_load_results_free(results, 36);
    assert_in_range(atomic_load(&s.open_max), 1, 8);
    server_stop(&s);
}

static void test_load_failures(void **state)
{
    (void)state;
    server s;
    server_start(&s);
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%u/v1/chat/completions", s.port);
    agl_load_options options = {.url = url, .sessions = 3, .turns = 2, .build = build,
                                .interrupted = &interrupted, .build_user = "\"x\":\"busy\""};
    agl_load_result results[6];
    agl_load_summary summary;
    assert_int_equal(agl_load_run(results, &summary, &options, NULL), AGL_OK);
    assert_int_equal(summary.failed, 3);
    assert_int_equal(summary.unsent, 3);                    /* a failed turn ends its session */
    assert_int_equal(results[0].http_status, 429);
    assert_string_equal(results[0].error, "queue is full");
    agl_load_results_free(results, 6);

    options.build_user = "\"x\":\"broken\"";
    options.turns = 1;
    assert_int_equal(agl_load_run(results, &summary, &options, NULL), AGL_OK);
    assert_int_equal(summary.failed, 3);
    assert_string_equal(results[1].error, "device lost");
    agl_load_results_free(results, 3);
    server_stop(&s);

    assert_int_equal(agl_load_run(results, &summary, &options, NULL), AGL_OK);  /* nobody listens */
    assert_int_equal(summary.failed, 3);
    assert_non_null(strstr(results[0].error, "onnect"));
    agl_load_results_free(results, 3);
}

static void test_open_loop(void **state)
{
    (void)state;
    server s;
    server_start(&s);
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%u/v1/chat/completions", s.port);
    agl_load_options options = {.url = url, .sessions = 20, .turns = 1, .request_rate = 200, .burstiness = 1,
                                .seed = 3, .build = build, .interrupted = &interrupted};
    agl_load_result results[20];
    agl_load_summary summary;
    assert_int_equal(agl_load_run(results, &summary, &options, NULL), AGL_OK);
    assert_int_equal(summary.completed, 20);
    for (size_t i = 1; i < 20; i++) {
        assert_true(results[i].scheduled_s > results[i - 1].scheduled_s);
        assert_true(results[i].sent_s >= results[i].scheduled_s);
    }
    agl_load_results_free(results, 20);
    server_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statistics),     cmocka_unit_test(test_random_workload),
        cmocka_unit_test(test_agent_workload), cmocka_unit_test(test_jsonl_workload),
        cmocka_unit_test(test_load_answers),   cmocka_unit_test(test_load_failures),
        cmocka_unit_test(test_open_loop),
    };
    return cmocka_run_group_tests_name("bench", tests, NULL, NULL);
}
