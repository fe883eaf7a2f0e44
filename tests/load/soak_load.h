/* SPDX-License-Identifier: Apache-2.0
 *
 * soak_load.h - many clients in one thread: each slot is one connection that works
 * through one plan after another, driven by epoll and by its own timers.
 *
 *     idle ── connect ── sending ──┬── reading ── complete: check, perhaps keep the connection
 *                                  ├── abort: close at a random moment or byte
 *                                  └── holding: half a request, closed later */
#ifndef SOAK_LOAD_H
#define SOAK_LOAD_H

#include "load/soak_plan.h"
#include "load/soak_server.h"

/* Times from a microsecond up, eight buckets an octave: 9 % apart. */
#define SOAK_BUCKETS 256
typedef struct {
    uint64_t counts[SOAK_BUCKETS], total;
    double max_s;
} soak_times;

/* Upper edge of the bucket of this share; 0 if there are no times. */
double soak_times_quantile(const soak_times *times, double share);

typedef struct {
    uint64_t sent[SOAK_KIND_COUNT], good[SOAK_KIND_COUNT], aborted[SOAK_KIND_COUNT];
    uint64_t violations;
    uint64_t tokens;            /* of checked answers                          */
    uint64_t cut;               /* drain: streams ended by an error event      */
    soak_times inter_token;     /* between reads that brought text, one choice */
    soak_times first_token;     /* from the last byte sent                     */
} soak_totals;

typedef struct soak_load soak_load;

typedef struct {
    const soak_server *server;
    soak_material *material;
    uint32_t slots;
    double timeout_s;           /* of one request: longer is a violation       */
} soak_load_options;

soak_load *soak_load_create(const soak_load_options *options);
void soak_load_destroy(soak_load *load);

/* Keep every slot busy with random plans until `end_s` on agl_clock_s. `sample` is called once a second. */
void soak_load_run(soak_load *load, double end_s, void (*sample)(void *user), void *user);

/* Let what runs end, nothing new; true if all did. */
bool soak_load_settle(soak_load *load, double timeout_s);

/* Drain: start `count` long streams; returns when each has text. Then soak_load_settle
 * accepts streams that end with an error event. */
bool soak_load_start_long(soak_load *load, uint32_t count, uint32_t max_tokens, double timeout_s);

const soak_totals *soak_load_totals(const soak_load *load);

#endif
