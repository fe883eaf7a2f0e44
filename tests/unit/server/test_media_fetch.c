/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/media_fetch.h"

static char FOLDER[] = "/tmp/agl-media-XXXXXX";

static agl_status fetch(const agl_media_policy *policy, const char *url, char *out, agl_api_error *err)
{
    const void *data;
    size_t bytes = 0;
    agl_arena arena;
    agl_arena_init(&arena, 1 << 20);
    agl_status status = agl_media_fetch(&data, &bytes, &arena, policy, url, strlen(url), "messages[0].content[0]", err);
    if (status == AGL_OK) {
        memcpy(out, data, bytes < 63 ? bytes : 63);
        out[bytes < 63 ? bytes : 63] = '\0';
    }
    agl_arena_deinit(&arena);
    return status;
}

static void put(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", FOLDER, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void files_stay_below_their_folder(void **state)
{
    static const struct {
        const char *path;       /* after file:// and the temporary folder, or absolute with '@' */
        const char *content;    /* NULL: refused */
    } CASES[] = {
        {"/root/a.png", "inside"},
        {"/root/sub/../a.png", "inside"},
        {"/root/%61.png", "inside"},
        {"/root/link_inside", "inside"},
        {"/root/link_outside", NULL},
        {"/root/link_folder/secret", NULL},
        {"/root/../secret", NULL},
        {"/root/%2e%2e/secret", NULL},
        {"/root2/secret", NULL},
        {"/secret", NULL},
        {"/root", NULL},
        {"/root/", NULL},
        {"/root/sub", NULL},
        {"/root/fifo", NULL},
        {"/root/empty", NULL},
        {"/root/absent", NULL},
        {"/root/a.png%00.jpg", NULL},
        {"/root/a.png%", NULL},
        {"/root/a.png%zz", NULL},
        {"@/etc/passwd", NULL},
        {"@/proc/self/environ", NULL},
        {"@localhost/etc/passwd", NULL},
        {"@relative", NULL},
        {"@", NULL},
    };
    (void)state;
    char path[256], target[256], content[64], root[256];
    assert_non_null(mkdtemp(FOLDER));
    static const char *const FOLDERS[] = {"root", "root/sub", "root2"};
    for (size_t i = 0; i < AGL_COUNT(FOLDERS); i++) {
        snprintf(path, sizeof path, "%s/%s", FOLDER, FOLDERS[i]);
        mkdir(path, 0700);
    }
    put("root/a.png", "inside");
    put("root/empty", "");
    put("secret", "outside");
    put("root2/secret", "outside");
    static const char *const LINKS[][2] = {{"root/a.png", "root/link_inside"}, {"secret", "root/link_outside"},
                                           {"root2", "root/link_folder"}};
    for (size_t i = 0; i < AGL_COUNT(LINKS); i++) {
        snprintf(target, sizeof target, "%s/%s", FOLDER, LINKS[i][0]);
        snprintf(path, sizeof path, "%s/%s", FOLDER, LINKS[i][1]);
        assert_int_equal(symlink(target, path), 0);
    }
    snprintf(path, sizeof path, "%s/root/fifo", FOLDER);
    mkfifo(path, 0600);

    snprintf(root, sizeof root, "%s/root", FOLDER);
    agl_media_policy policy = {.local_path = root, .bytes_max = 1000, .timeout_ms = 1000, .count_max = 1};
    agl_api_error err;
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        char url[512];
        bool absolute = CASES[i].path[0] == '@';
        snprintf(url, sizeof url, "file://%s%s", absolute ? "" : FOLDER, CASES[i].path + absolute);
        agl_status status = fetch(&policy, url, content, &err);
        if ((status == AGL_OK) != (CASES[i].content != NULL)) fail_msg("%s: status %d", url, status);
        if (status == AGL_OK) assert_string_equal(content, CASES[i].content);
    }
    policy.bytes_max = 3;
    snprintf(path, sizeof path, "file://%s/root/a.png", FOLDER);
    assert_int_equal(fetch(&policy, path, content, &err), AGL_ERR_LIMIT);
    policy.local_path = NULL;
    assert_int_equal(fetch(&policy, path, content, &err), AGL_ERR_DENIED);
    char command[300];
    snprintf(command, sizeof command, "rm -r %s", FOLDER);
    assert_int_equal(system(command), 0);
}

static void private_addresses_are_known(void **state)
{
    static const struct {
        const char *address;
        bool is_public;
    } CASES[] = {
        {"8.8.8.8", true},          {"1.1.1.1", true},         {"127.0.0.1", false},    {"127.255.255.254", false},
        {"10.1.2.3", false},        {"172.16.0.1", false},     {"172.32.0.1", true},    {"192.168.1.1", false},
        {"169.254.169.254", false}, {"100.64.0.1", false},     {"100.128.0.1", true},   {"0.0.0.0", false},
        {"224.0.0.1", false},       {"255.255.255.255", false},{"198.18.0.1", false},   {"192.0.2.1", false},
        {"::1", false},             {"::", false},             {"fe80::1", false},      {"fc00::1", false},
        {"::ffff:127.0.0.1", false},{"::ffff:8.8.8.8", false}, {"ff02::1", false},      {"2001:db8::1", false},
        {"2002:7f00:1::", false},   {"2001:0:1::", false},     {"64:ff9b::7f00:1", false},
        {"2606:4700:4700::1111", true}, {"2001:4860:4860::8888", true},
    };
    (void)state;
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        struct sockaddr_in v4 = {.sin_family = AF_INET};
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
        bool is_v4 = inet_pton(AF_INET, CASES[i].address, &v4.sin_addr) == 1;
        if (!is_v4) assert_int_equal(inet_pton(AF_INET6, CASES[i].address, &v6.sin6_addr), 1);
        bool is_public = agl_address_is_public(is_v4 ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6);
        if (is_public != CASES[i].is_public) fail_msg("%s", CASES[i].address);
    }
}

/* A host on the loopback that answers by path. */
typedef struct {
    int socket;
    uint16_t port;
    pthread_t thread;
} web;

static void *serve(void *argument)
{
    web *self = argument;
    for (;;) {
        int peer = accept(self->socket, NULL, NULL);
        if (peer < 0) return NULL;
        char request[1024] = {0}, answer[4096];
        if (read(peer, request, sizeof request - 1) <= 0) request[0] = '\0';
        if (strncmp(request, "GET /image", 10) == 0) {
            snprintf(answer, sizeof answer, "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nbytes");
        } else if (strncmp(request, "GET /big", 8) == 0) {
            snprintf(answer, sizeof answer, "HTTP/1.0 200 OK\r\n\r\n%02000d", 0);
        } else if (strncmp(request, "GET /away", 9) == 0) {
            snprintf(answer, sizeof answer, "HTTP/1.0 302 Found\r\nLocation: http://localhost:%u/image\r\n\r\n", self->port);
        } else if (strncmp(request, "GET /near", 9) == 0) {
            snprintf(answer, sizeof answer, "HTTP/1.0 302 Found\r\nLocation: /image\r\n\r\n");
        } else if (strncmp(request, "GET /file", 9) == 0) {
            snprintf(answer, sizeof answer, "HTTP/1.0 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n");
        } else if (strncmp(request, "GET /loop", 9) == 0) {
            snprintf(answer, sizeof answer, "HTTP/1.0 302 Found\r\nLocation: /loop\r\n\r\n");
        } else if (strncmp(request, "GET /slow", 9) == 0) {
            usleep(150 * 1000);
            snprintf(answer, sizeof answer, "HTTP/1.0 302 Found\r\nLocation: /slow\r\n\r\n");
        } else {
            snprintf(answer, sizeof answer, "HTTP/1.0 404 No\r\n\r\nno");
        }
        if (write(peer, answer, strlen(answer)) < 0) perror("write");
        close(peer);
    }
}

/* "%u" in a URL is the port. */
static void write_port(char *out, size_t out_bytes, const char *url, unsigned port)
{
    const char *mark = strstr(url, "%u");
    if (mark == NULL) {
        snprintf(out, out_bytes, "%s", url);
    } else {
        snprintf(out, out_bytes, "%.*s%u%s", (int)(mark - url), url, port, mark + 2);
    }
}

static void only_listed_hosts_are_asked(void **state)
{
    static const struct {
        const char *url;
        agl_status status;
    } CASES[] = {
        {"http://127.0.0.1:%u/image", AGL_OK},
        {"HTTP://127.0.0.1:%u/near", AGL_OK},
        {"http://127.0.0.1:%u/big", AGL_ERR_LIMIT},
        {"http://127.0.0.1:%u/away", AGL_ERR_DENIED},       /* redirect to a host that is not listed */
        {"http://127.0.0.1:%u/file", AGL_ERR_FORMAT},
        {"http://127.0.0.1:%u/loop", AGL_ERR_LIMIT},
        {"http://127.0.0.1:%u/absent", AGL_ERR_NOT_FOUND},
        {"http://localhost:%u/image", AGL_ERR_DENIED},
        {"http://127.0.0.2:%u/image", AGL_ERR_DENIED},
        {"http://[::1]:%u/image", AGL_ERR_DENIED},
        {"http://127.0.0.1@localhost:%u/image", AGL_ERR_FORMAT},
        {"http://user:pw@127.0.0.1:%u/image", AGL_ERR_FORMAT},
        {"http://127.0.0.1:%u@other/image", AGL_ERR_FORMAT},
        {"http://", AGL_ERR_FORMAT},
        {"http://private.test:%u/image", AGL_ERR_NOT_FOUND}, /* listed, but does not resolve */
    };
    (void)state;
    web host = {.socket = socket(AF_INET, SOCK_STREAM, 0)};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    assert_int_equal(bind(host.socket, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(host.socket, 8), 0);
    getsockname(host.socket, (struct sockaddr *)&address, &bytes);
    host.port = ntohs(address.sin_port);
    pthread_create(&host.thread, NULL, serve, &host);

    const char *const domains[] = {"127.0.0.1", "private.test"};
    agl_media_policy policy = {.domains = domains, .domain_count = 2, .bytes_max = 1000, .timeout_ms = 5000, .count_max = 1};
    agl_error start;
    assert_int_equal(agl_media_init(&start), AGL_OK);
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        char url[256], content[64];
        agl_api_error err = {0};
        write_port(url, sizeof url, CASES[i].url, host.port);
        agl_status status = fetch(&policy, url, content, &err);
        if (status != CASES[i].status) fail_msg("%s: status %d, %s", url, status, err.detail.message);
        if (status == AGL_OK) assert_string_equal(content, "bytes");
        if (status != AGL_OK) assert_int_equal(err.http_status, 400);
    }
    /* The time limit holds for all redirects together: it ends the fetch before their number does. */
    char url[256], content[64];
    agl_api_error err = {0};
    policy.timeout_ms = 200;
    write_port(url, sizeof url, "http://127.0.0.1:%u/slow", host.port);
    assert_int_equal(fetch(&policy, url, content, &err), AGL_ERR_NOT_FOUND);
    shutdown(host.socket, SHUT_RDWR);
    close(host.socket);
    pthread_join(host.thread, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_stay_below_their_folder),
        cmocka_unit_test(private_addresses_are_known),
        cmocka_unit_test(only_listed_hosts_are_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
