/* SPDX-License-Identifier: Apache-2.0 */
#include "load/soak_server.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"

static void rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
}

/* ---- process ----------------------------------------------------------- */

static bool read_file(agl_buffer *out, const char *path)
{
    char block[4096];
    size_t bytes;
    FILE *file = fopen(path, "re");
    if (file == NULL) return false;
    while ((bytes = fread(block, 1, sizeof block, file)) > 0) agl_buffer_append(out, block, bytes);
    fclose(file);
    agl_buffer_append(out, "", 0);
    return out->data != NULL;
}

/* The port from the line that says where the server listens; 0: no such line yet. */
static uint16_t listening_port(const char *log)
{
    const char *line = strstr(log, "Listening on http://");
    const char *end = line != NULL ? strchr(line, ';') : NULL;
    if (end == NULL) return 0;
    while (end > line && end[-1] != ':') end--;
    return (uint16_t)strtoul(end, NULL, 10);
}

bool soak_server_start(soak_server *server, char *const argv[], const char *log_path, double timeout_s)
{
    *server = (soak_server){.log_path = log_path};
    int log = open(log_path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    if (log < 0) return false;
    server->pid = fork();
    if (server->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a load test that dies leaves nothing behind */
        dup2(log, STDOUT_FILENO);
        dup2(log, STDERR_FILENO);
        execv(argv[0], argv);
        _exit(127);
    }
    close(log);
    double end_s = agl_clock_s() + timeout_s;
    while (agl_clock_s() < end_s && soak_server_wait(server, 0) == -1) {
        agl_buffer text;
        agl_buffer_init(&text, 0);
        bool ready = read_file(&text, log_path) && strstr(text.data, "Application startup complete") != NULL;
        if (ready) server->port = listening_port(text.data);
        agl_buffer_deinit(&text);
        if (server->port != 0) return true;
        rest();
    }
    return false;
}

int soak_server_wait(soak_server *server, double timeout_s)
{
    double end_s = agl_clock_s() + timeout_s;
    for (;;) {
        int status = 0;
        pid_t ended = waitpid(server->pid, &status, WNOHANG);
        if (ended == server->pid) return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (ended < 0) return 127;
        if (agl_clock_s() >= end_s) return -1;
        rest();
    }
}

static int count_entries(const char *path)
{
    int count = 0;
    DIR *folder = opendir(path);
    if (folder == NULL) return -1;
    for (struct dirent *each; (each = readdir(folder)) != NULL;) count += each->d_name[0] != '.';
    closedir(folder);
    return count;
}

bool soak_process_read(soak_process *process, pid_t pid)
{
    char path[64];
    agl_buffer text;
    agl_buffer_init(&text, 0);
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    bool found = read_file(&text, path);
    const char *rss = found ? strstr(text.data, "VmRSS:") : NULL;
    if (rss != NULL) process->rss_bytes = strtod(rss + 6, NULL) * 1024;
    agl_buffer_deinit(&text);
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    process->threads = count_entries(path);
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    process->files = count_entries(path);
    return rss != NULL;
}

double soak_process_cpu_s(pid_t pid)
{
    char path[64];
    agl_buffer text;
    agl_buffer_init(&text, 0);
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    unsigned long user = 0, system = 0;
    const char *fields = read_file(&text, path) ? strrchr(text.data, ')') : NULL;
    if (fields != NULL) sscanf(fields, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    agl_buffer_deinit(&text);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* ---- HTTP -------------------------------------------------------------- */

int soak_connect(const soak_server *server, int receive_bytes)
{
    int handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (handle < 0) return -1;
    int on = 1;
    setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (receive_bytes > 0) setsockopt(handle, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(server->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(handle, (struct sockaddr *)&address, sizeof address) != 0) { /* at once on the loopback */
        close(handle);
        return -1;
    }
    fcntl(handle, F_SETFL, O_NONBLOCK);
    return handle;
}

int soak_get(const soak_server *server, const char *path, char **body)
{
    char request[256], block[16384];
    *body = NULL;
    int handle = soak_connect(server, 0);
    if (handle < 0) return 0;
    fcntl(handle, F_SETFL, 0);
    setsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 30}, sizeof(struct timeval));
    int bytes = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n", path);
    agl_buffer text;
    agl_buffer_init(&text, 0);
    if (send(handle, request, (size_t)bytes, MSG_NOSIGNAL) == bytes) {
        for (ssize_t got; (got = recv(handle, block, sizeof block, 0)) > 0;) agl_buffer_append(&text, block, (size_t)got);
    }
    close(handle);
    int status = 0;
    const char *start = text.data != NULL ? strstr(text.data, "\r\n\r\n") : NULL;
    if (start != NULL && sscanf(text.data, "HTTP/1.1 %3d", &status) == 1) *body = strdup(start + 4);
    agl_buffer_deinit(&text);
    return status;
}

double soak_metric(const char *text, const char *name)
{
    double sum = NAN;
    size_t bytes = strlen(name);
    for (const char *line = text; line != NULL && line[0] != '\0'; line = strchr(line, '\n')) {
        if (line[0] == '\n') line++;
        if (strncmp(line, name, bytes) != 0 || (line[bytes] != ' ' && line[bytes] != '{')) continue;
        const char *end = line + strcspn(line, "\n"), *value = end;
        while (value > line && value[-1] != ' ') value--;
        sum = (isnan(sum) ? 0 : sum) + strtod(value, NULL);
    }
    return sum;
}
