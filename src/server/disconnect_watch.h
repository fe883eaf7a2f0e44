/* SPDX-License-Identifier: Apache-2.0
 *
 * disconnect_watch.h - one thread that notices what libmicrohttpd does not look at
 * while a connection is suspended: that the client has gone; and that a client
 * takes too long to send its request, or has left without libmicrohttpd seeing it.
 *
 * An entry lives from the accept of a connection to just before its close, so
 * the descriptor is never a stranger's. Callbacks run on the watch thread with
 * the watch locked: after disarm or close returns, none is running. */
#ifndef AGL_SERVER_DISCONNECT_WATCH_H
#define AGL_SERVER_DISCONNECT_WATCH_H

#include <stdint.h>

#include "base/status.h"

typedef struct agl_watch agl_watch;
typedef uint32_t agl_watch_id;  /* 0: none */

typedef struct {
    uint32_t connections_max;
    uint32_t tick_ms;           /* how often deadlines are checked and `tick` is called */
    void (*tick)(void *user);   /* without the lock */
    void *tick_user;
} agl_watch_options;

agl_status agl_watch_create(agl_watch **out, const agl_watch_options *options, agl_error *err);
void agl_watch_destroy(agl_watch *watch);           /* NULL is allowed */

/* 0 if all entries are taken. */
agl_watch_id agl_watch_open(agl_watch *watch, int socket);
void agl_watch_close(agl_watch *watch, agl_watch_id id);

/* Shut the connection down if the deadline (agl_clock_ns) passes; 0: never. */
void agl_watch_set_deadline(agl_watch *watch, agl_watch_id id, uint64_t deadline_ns);

/* Call gone(user) once when the peer closes its side or the connection breaks. */
void agl_watch_arm(agl_watch *watch, agl_watch_id id, void (*gone)(void *user), void *user);
void agl_watch_disarm(agl_watch *watch, agl_watch_id id);

#endif
