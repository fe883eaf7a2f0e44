/* SPDX-License-Identifier: Apache-2.0 */
#include "load/soak_load.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

#define READ_BYTES 65536
#define FAULTS_SHOWN 20
#define VIOLATIONS_MAX 1000         /* the server is gone, or as good as */
#define SLOW_RECEIVE_BYTES 4096
#define KEEP_SHARE 0.5

typedef enum { IDLE, SENDING, READING, HOLDING } slot_state;

typedef struct {
    slot_state state;
    int handle;                 /* -1: none                              */
    bool reused;                /* the connection answered before        */
    bool listening;             /* epoll looks for input                 */
    soak_plan plan;
    soak_response response;
    size_t sent_bytes;
    double sent_s, last_text_s; /* 0: no text yet                        */
    double wake_s;              /* abort, end of holding, next slow read; INFINITY: none */
    double slow_until_s;
} slot;

struct soak_load {
    soak_load_options options;
    slot *slots;
    int epoll;
    bool draining;
    soak_totals totals;
};

/* ---- times ------------------------------------------------------------- */

static void count_time(soak_times *times, double seconds)
{
    int bucket = seconds > 1e-6 ? (int)(8 * log2(seconds * 1e6)) : 0;
    times->counts[bucket < SOAK_BUCKETS ? bucket : SOAK_BUCKETS - 1]++;
    times->total++;
    if (seconds > times->max_s) times->max_s = seconds;
}

double soak_times_quantile(const soak_times *times, double share)
{
    uint64_t before = 0, wanted = (uint64_t)(share * (double)times->total);
    for (int i = 0; i < SOAK_BUCKETS; i++) {
        before += times->counts[i];
        if (before > wanted) return 1e-6 * exp2((i + 1) / 8.0);
    }
    return 0;
}

/* ---- one slot ---------------------------------------------------------- */

static void watch(soak_load *load, slot *self, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = self};
    epoll_ctl(load->epoll, EPOLL_CTL_MOD, self->handle, &event);
    self->listening = (events & EPOLLIN) != 0;
}

static void hang_up(slot *self)
{
    if (self->handle >= 0) close(self->handle);
    self->handle = -1;
    self->reused = false;
    self->state = IDLE;
    self->wake_s = INFINITY;
}

static void report(soak_load *load, slot *self)
{
    if (load->totals.violations++ < FAULTS_SHOWN) {
        fprintf(stderr, "violation: %s: %s\n", soak_kind_name(self->plan.kind), self->response.fault);
    }
    hang_up(self);
}

static void abort_slot(soak_load *load, slot *self)
{
    load->totals.aborted[self->plan.kind]++;
    hang_up(self);
}

/* Everything has come. */
static void complete(soak_load *load, slot *self)
{
    soak_response *response = &self->response;
    load->totals.tokens += response->answer.completion_tokens;
    if (load->draining && response->answer.error_event) {
        load->totals.cut++;
    } else if (!soak_plan_check(&self->plan, load->options.material, response)) {
        report(load, self);
        return;
    } else {
        load->totals.good[self->plan.kind]++;
    }
    bool keep = response->keep_alive && soak_random(load->options.material) < KEEP_SHARE && !load->draining;
    if (!keep) {
        hang_up(self);
        return;
    }
    self->reused = true;
    self->state = IDLE;
    self->wake_s = INFINITY;
}

/* The connection has ended, from their side. */
static void closed(soak_load *load, slot *self)
{
    soak_response *response = &self->response;
    /* A refusal sent while we still send is lost when the socket is closed. */
    if (self->plan.kind == SOAK_HEADER && response->bytes == 0) {
        load->totals.good[self->plan.kind]++;
        hang_up(self);
        return;
    }
    soak_response_closed(response);
    report(load, self);
}

static void count_text(soak_load *load, slot *self, uint32_t events_before)
{
    double now_s = agl_clock_s();
    if (self->response.token_events == events_before) return;
    if (self->plan.slow_s > 0 || self->plan.choices != 1 || !self->response.stream) return;
    if (self->last_text_s == 0) count_time(&load->totals.first_token, now_s - self->sent_s);
    else count_time(&load->totals.inter_token, now_s - self->last_text_s);
    self->last_text_s = now_s;
}

/* Read what is there, at most `limit` bytes. */
static void read_slot(soak_load *load, slot *self, size_t limit)
{
    static char block[READ_BYTES];
    uint32_t events = self->response.token_events;
    ssize_t got = recv(self->handle, block, limit, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        closed(load, self);
        return;
    }
    if (!soak_response_feed(&self->response, block, (size_t)got)) {
        report(load, self);
        return;
    }
    count_text(load, self, events);
    if (self->response.complete) complete(load, self);
    else if (self->plan.abort_bytes > 0 && self->response.bytes >= self->plan.abort_bytes) abort_slot(load, self);
}

static void begin_reading(soak_load *load, slot *self)
{
    double now_s = agl_clock_s();
    self->sent_s = now_s;
    self->state = READING;
    if (self->plan.abort_s > 0) self->wake_s = now_s + self->plan.abort_s;
    if (self->plan.slow_s > 0) {
        self->slow_until_s = now_s + self->plan.slow_s;
        self->wake_s = now_s + 1;
    }
    watch(load, self, self->plan.slow_s > 0 ? 0 : EPOLLIN);
}

static void send_slot(soak_load *load, slot *self)
{
    const soak_plan *plan = &self->plan;
    while (self->sent_bytes < plan->send_bytes) {
        ssize_t sent = send(self->handle, plan->request.data + self->sent_bytes, plan->send_bytes - self->sent_bytes,
                            MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (sent < 0) {
            self->state = READING; /* there may be an answer that says why */
            watch(load, self, EPOLLIN);
            return;
        }
        self->sent_bytes += (size_t)sent;
    }
    if (plan->send_bytes == plan->request.bytes) {
        begin_reading(load, self);
        return;
    }
    self->state = HOLDING;
    self->wake_s = agl_clock_s() + plan->hold_s;
    watch(load, self, 0);
}

static void start_slot(soak_load *load, slot *self)
{
    soak_response_clear(&self->response);
    self->sent_bytes = 0;
    self->sent_s = agl_clock_s();
    self->last_text_s = 0;
    self->wake_s = INFINITY;
    if (self->plan.slow_s > 0 && self->handle >= 0) hang_up(self); /* needs a socket with a small buffer */
    if (self->handle < 0) {
        self->reused = false;
        self->handle = soak_connect(load->options.server, self->plan.slow_s > 0 ? SLOW_RECEIVE_BYTES : 0);
        if (self->handle < 0) {
            soak_fault(&self->response, "cannot connect: %s", strerror(errno));
            report(load, self);
            return;
        }
        struct epoll_event event = {.events = 0, .data.ptr = self};
        epoll_ctl(load->epoll, EPOLL_CTL_ADD, self->handle, &event);
    }
    load->totals.sent[self->plan.kind]++;
    self->state = SENDING;
    watch(load, self, EPOLLOUT);
    send_slot(load, self);
}

static void on_timer(soak_load *load, slot *self, double now_s)
{
    if (self->state == HOLDING || (self->plan.abort_s > 0 && self->plan.slow_s <= 0)) {
        abort_slot(load, self);
    } else if (self->plan.abort_s > 0 && now_s > self->sent_s + self->plan.abort_s) {
        abort_slot(load, self);
    } else if (now_s < self->slow_until_s) {
        self->wake_s = now_s + 1;
        read_slot(load, self, 1);
    } else {
        self->wake_s = INFINITY;
        watch(load, self, EPOLLIN);
    }
}

/* ---- all slots --------------------------------------------------------- */

static void check_timers(soak_load *load)
{
    double now_s = agl_clock_s();
    for (uint32_t i = 0; i < load->options.slots; i++) {
        slot *self = &load->slots[i];
        if (self->state == IDLE) continue;
        if (now_s >= self->wake_s) {
            on_timer(load, self, now_s);
        } else if (now_s > self->sent_s + load->options.timeout_s) {
            soak_fault(&self->response, "no end after %.0f s (status %d, %u events, %llu bytes)", load->options.timeout_s,
                       self->response.status, self->response.token_events, (unsigned long long)self->response.bytes);
            report(load, self);
        }
    }
}

static void turn(soak_load *load)
{
    struct epoll_event events[64];
    int count = epoll_wait(load->epoll, events, 64, 5);
    for (int i = 0; i < count; i++) {
        slot *self = events[i].data.ptr;
        if (self->handle < 0) continue; /* closed while this round of events was read */
        if (self->state == SENDING) send_slot(load, self);
        else if (self->state == READING && self->listening) read_slot(load, self, READ_BYTES);
        else if (self->state == IDLE) hang_up(self); /* the server closed an idle connection */
        else if ((events[i].events & (EPOLLHUP | EPOLLERR)) != 0) hang_up(self);
    }
    check_timers(load);
}

static bool all_idle(const soak_load *load)
{
    for (uint32_t i = 0; i < load->options.slots; i++) {
        if (load->slots[i].state != IDLE) return false;
    }
    return true;
}

soak_load *soak_load_create(const soak_load_options *options)
{
    soak_load *load = calloc(1, sizeof *load);
    if (load == NULL) return NULL;
    load->options = *options;
    load->epoll = epoll_create1(EPOLL_CLOEXEC);
    load->slots = calloc(options->slots, sizeof *load->slots);
    if (load->slots == NULL || load->epoll < 0) abort();
    for (uint32_t i = 0; i < options->slots; i++) {
        soak_plan_init(&load->slots[i].plan);
        soak_response_init(&load->slots[i].response);
        load->slots[i].handle = -1;
    }
    return load;
}

void soak_load_destroy(soak_load *load)
{
    if (load == NULL) return;
    for (uint32_t i = 0; i < load->options.slots; i++) {
        hang_up(&load->slots[i]);
        soak_plan_deinit(&load->slots[i].plan);
        soak_response_deinit(&load->slots[i].response);
    }
    close(load->epoll);
    free(load->slots);
    free(load);
}

void soak_load_run(soak_load *load, double end_s, void (*sample)(void *user), void *user)
{
    double next_s = agl_clock_s();
    while (agl_clock_s() < end_s && load->totals.violations < VIOLATIONS_MAX) {
        for (uint32_t i = 0; i < load->options.slots; i++) {
            slot *self = &load->slots[i];
            if (self->state != IDLE) continue;
            soak_plan_make(&self->plan, load->options.material);
            start_slot(load, self);
        }
        turn(load);
        if (agl_clock_s() < next_s) continue;
        next_s += 1;
        sample(user);
    }
}

bool soak_load_settle(soak_load *load, double timeout_s)
{
    double end_s = agl_clock_s() + timeout_s;
    while (!all_idle(load) && agl_clock_s() < end_s) turn(load);
    bool settled = all_idle(load);
    for (uint32_t i = 0; i < load->options.slots; i++) hang_up(&load->slots[i]);
    return settled;
}

bool soak_load_start_long(soak_load *load, uint32_t count, uint32_t max_tokens, double timeout_s)
{
    double end_s = agl_clock_s() + timeout_s;
    load->draining = true;
    for (uint32_t i = 0; i < count; i++) {
        soak_plan_make_long(&load->slots[i].plan, load->options.material, i % SOAK_VARIANTS,
                            max_tokens / (1 + i % 4 * 2));
        start_slot(load, &load->slots[i]);
    }
    for (;;) {
        uint32_t begun = 0;
        for (uint32_t i = 0; i < count; i++) begun += load->slots[i].response.token_events > 0;
        if (begun == count) return true;
        if (agl_clock_s() > end_s || load->totals.violations >= VIOLATIONS_MAX) return false;
        turn(load);
    }
}

const soak_totals *soak_load_totals(const soak_load *load)
{
    return &load->totals;
}
