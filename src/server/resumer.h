/* SPDX-License-Identifier: Apache-2.0
 *
 * resumer.h - one thread that wakes suspended connections.
 *
 * libmicrohttpd's resume is a lock and a system call, and wakes a thread that competes
 * for the CPU. After a step of 256 sequences the engine thread would pay for 256 of
 * them before the next step; here it pays for a list entry, and for one wake-up. */
#ifndef AGL_SERVER_RESUMER_H
#define AGL_SERVER_RESUMER_H

#include "base/status.h"

typedef struct agl_resumer agl_resumer;

/* Embedded in what is to be resumed. */
typedef struct agl_resume_link {
    struct agl_resume_link *next;
    void (*resume)(void *user); /* on the resumer's thread */
    void *user;
} agl_resume_link;

agl_status agl_resumer_create(agl_resumer **out, agl_error *err);

/* Nothing may be pushed any more. NULL is allowed. */
void agl_resumer_destroy(agl_resumer *resumer);

/* Any thread. The link must stay until its resume is called, and is free again from then on. */
void agl_resumer_push(agl_resumer *resumer, agl_resume_link *link);

#endif
