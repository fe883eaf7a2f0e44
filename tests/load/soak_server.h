/* SPDX-License-Identifier: Apache-2.0
 *
 * soak_server.h - the server under load: its process, its memory, its /metrics. */
#ifndef SOAK_SERVER_H
#define SOAK_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct {
    pid_t pid;
    uint16_t port;
    const char *log_path;
} soak_server;

/* Run `argv` (NULL-terminated) with its output in log_path and wait until it serves. */
bool soak_server_start(soak_server *server, char *const argv[], const char *log_path, double timeout_s);

/* Wait for its end. The exit code; -1: still running after timeout_s; 128 + n: signal n. */
int soak_server_wait(soak_server *server, double timeout_s);

typedef struct {
    double rss_bytes;
    int threads, files;
} soak_process;

/* From /proc. False: it is gone. */
bool soak_process_read(soak_process *process, pid_t pid);

/* Milliseconds of CPU time since its start. */
double soak_process_cpu_s(pid_t pid);

/* A blocking GET with a connection of its own; body malloc'd. The status; 0: no answer. */
int soak_get(const soak_server *server, const char *path, char **body);

/* Sum over all labels of a metric in Prometheus text; NAN: it is not there. */
double soak_metric(const char *text, const char *name);

/* A connected non-blocking socket, or -1. `receive_bytes` 0: the system's buffer. */
int soak_connect(const soak_server *server, int receive_bytes);

#endif
