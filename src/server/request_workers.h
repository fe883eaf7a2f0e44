/* SPDX-License-Identifier: Apache-2.0
 *
 * request_workers.h - the threads that parse requests, fetch and decode media and
 * tokenise, and a bounded queue in front of them. HTTP threads never block. */
#ifndef AGL_SERVER_REQUEST_WORKERS_H
#define AGL_SERVER_REQUEST_WORKERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct agl_workers agl_workers;

/* Embedded in what it works on; queued at most once at a time. */
typedef struct agl_job {
    struct agl_job *next;
    void (*run)(void *user);
    void *user;
} agl_job;

agl_status agl_workers_create(agl_workers **out, uint32_t threads, uint32_t queue_max, agl_error *err);

/* False if the queue is full. */
bool agl_workers_push(agl_workers *workers, agl_job *job);

/* For freeing what a request held: goes first, and is never refused. */
void agl_workers_push_cleanup(agl_workers *workers, agl_job *job);

/* Runs what is queued, then ends. NULL is allowed. */
void agl_workers_destroy(agl_workers *workers);

#endif
