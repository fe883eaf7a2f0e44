/* SPDX-License-Identifier: Apache-2.0
 *
 * engine.h - the parts of an engine and which thread owns them.
 *
 *     submit (any thread)        engine thread (loop.c)               consumer (any thread)
 *       prompt, pixels   inbox     scheduler -> step -> publish   lock   stream reader
 *       -----------------------> [ pages, caches, device ]  ----------------------->
 *                 cancel, stop string found: posted to the inbox
 *
 * Internal to src/engine; the public face is agl/agl.h. */
#ifndef AGL_ENGINE_ENGINE_H
#define AGL_ENGINE_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/decode_room.h"
#include "engine/kv_memory.h"
#include "engine/memory_plan.h"
#include "engine/scheduler.h"
#include "engine/step.h"
#include "model/model.h"

struct agl_engine {
    /* Fixed after create; any thread may read. */
    char root[4096];
    agl_config config;
    agl_memory_plan memory;
    agl_backend *backend;
    agl_tokenizer *tokenizer;
    agl_prompt_rules prompt_rules;
    agl_sampling_context sampling_context;
    agl_model_info info;
    uint64_t seed;
    double stall_timeout_s;
    uint32_t max_queued;
    bool priority_scheduling;

    /* Engine thread, once it runs. */
    agl_stream *stream;
    agl_model *model;
    agl_kv_memory kv;
    agl_page_pool *pool;
    agl_page_context pages;
    agl_encoder_cache *encoder;
    agl_scheduler *scheduler;
    agl_step *step;
    agl_request *active;            /* list of all requests that have not ended   */
    agl_request *departed;          /* and of those that have, in this round      */
    agl_request *told_first, *told_last; /* whose consumers are to be notified    */
    uint64_t deadline_next_ns;      /* no deadline passes before; 0: there is none */
    pthread_t thread;
    bool thread_started;

    atomic_uint_fast64_t arrivals;
    atomic_uint_fast64_t pixel_bytes;   /* of all requests alive                   */
    agl_decode_room decode_room;        /* of requests being submitted             */

    pthread_mutex_t inbox_lock;     /* of what follows                             */
    pthread_cond_t inbox_wake;
    agl_request *submitted_first, *submitted_last;
    agl_request *posted_first;
    uint32_t queued;                /* requests submitted and never scheduled      */
    bool stopping, reset_caches;
    agl_status fatal;
    char fatal_message[256];

    pthread_mutex_t stats_lock;     /* of what follows                             */
    agl_engine_stats stats;
    uint32_t preempted;             /* sequences that wait for pages again         */
    uint64_t last_step_ns;          /* end of the last step                        */
    uint64_t work_since_ns;         /* when the engine was last idle; 0: it is     */
};

/* Body of the engine thread: `argument` is the engine. */
void *agl_engine_loop(void *argument);

/* Have the engine thread look at a request's cancelled and stop_wanted flags. Any thread. */
void agl_engine_post(agl_engine *engine, agl_request *request);

/* The request is scheduled for the first time. Engine thread. */
void agl_engine_left_queue(agl_engine *engine, agl_request *request);

/* Decoded pictures of queued requests are bounded: BUSY when there are too many. Any thread. */
agl_status agl_engine_pixels_reserve(agl_engine *engine, size_t bytes, agl_error *err);
void agl_engine_pixels_release(agl_engine *engine, size_t bytes);

#endif
