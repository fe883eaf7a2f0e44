/* SPDX-License-Identifier: Apache-2.0
 *
 * generation.h - one completion request inside the engine: an engine request per
 * prompt, and the answer they write.
 *
 * create and destroy run on a request thread; pull on whichever thread answers
 * the connection, one at a time; cancel on any. */
#ifndef AGL_SERVER_GENERATION_H
#define AGL_SERVER_GENERATION_H

#include "server/call.h"
#include "server/metrics.h"

typedef struct agl_generation agl_generation;

typedef struct {
    agl_engine *engine;
    agl_metrics *metrics;           /* NULL: none                                   */
    const char *id;                 /* "chatcmpl-...", copied                       */
    const char *model;              /* name in the answer, copied                   */
    uint32_t deadline_ms;           /* 0: none                                      */
    bool strict_max_model_len;      /* refuse prompt + max_tokens over the window   */
    void (*notify)(void *user);     /* from the engine thread: pull would have news */
    void *notify_user;
} agl_generation_options;

typedef enum {
    AGL_GENERATION_WAIT,            /* nothing more for now                         */
    AGL_GENERATION_DONE,            /* the answer is complete                       */
    AGL_GENERATION_FAILED           /* err says why                                 */
} agl_generation_state;

/* Submit every prompt. Afterwards messages, prompts and their arena may go;
 * `call` itself is copied. */
agl_status agl_generation_create(agl_generation **out, const agl_call *call,
                                 const agl_generation_options *options, agl_api_error *err);

/* Take what is there. Streams append events to `out`, the last of them [DONE];
 * others append the body when it is complete. Never blocks. */
agl_generation_state agl_generation_pull(agl_generation *generation, agl_buffer *out, agl_api_error *err);

/* Tokens and times so far. */
agl_usage agl_generation_usage(const agl_generation *generation);

void agl_generation_cancel(agl_generation *generation);
void agl_generation_destroy(agl_generation *generation);    /* NULL is allowed */

#endif
