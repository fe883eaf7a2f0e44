/* SPDX-License-Identifier: Apache-2.0 */
#include "server/disconnect_watch.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

#define EVENTS_MAX 64

/* libmicrohttpd polls edges and takes a short read for "no more to come": the end of a connection
 * that arrives with the last bytes goes unseen until the idle time-out. What it has not closed
 * after this long is shut down. */
#define HANGUP_GRACE_NS 500000000u

typedef struct {
    int socket;                 /* -1: free */
    uint32_t generation;        /* tells an old event from the slot's new owner */
    uint32_t next_free;
    uint64_t deadline_ns;
    uint64_t hangup_ns;         /* when to close what the peer has left; 0: it has not */
    void (*gone)(void *user);   /* NULL: not armed */
    void *user;
} entry;

struct agl_watch {
    pthread_mutex_t mutex;
    pthread_t thread;
    int epoll, wake;
    bool running;               /* the thread exists */
    bool stopping;
    agl_watch_options options;
    entry *entries;             /* [connections_max + 1]; 0 is never used */
    uint32_t first_free;
};

static void handle(agl_watch *watch, uint64_t tag)
{
    uint32_t id = (uint32_t)tag;
    pthread_mutex_lock(&watch->mutex);
    entry *each = &watch->entries[id];
    bool is_mine = each->generation == (uint32_t)(tag >> 32) && each->socket >= 0;
    if (is_mine && each->gone != NULL) {
        void (*gone)(void *user) = each->gone;
        each->gone = NULL;
        gone(each->user);
    } else if (is_mine) {
        each->hangup_ns = agl_clock_ns() + HANGUP_GRACE_NS;
    }
    pthread_mutex_unlock(&watch->mutex);
}

static void check_deadlines(agl_watch *watch)
{
    uint64_t now_ns = agl_clock_ns();
    pthread_mutex_lock(&watch->mutex);
    for (uint32_t id = 1; id <= watch->options.connections_max; id++) {
        entry *each = &watch->entries[id];
        bool late = each->deadline_ns != 0 && each->deadline_ns <= now_ns;
        bool left = each->hangup_ns != 0 && each->hangup_ns <= now_ns;
        if (each->socket < 0 || !(late || left)) continue;
        each->deadline_ns = each->hangup_ns = 0;
        shutdown(each->socket, SHUT_RDWR); /* the HTTP thread sees it and closes */
    }
    pthread_mutex_unlock(&watch->mutex);
}

static void *run(void *argument)
{
    agl_watch *watch = argument;
    struct epoll_event events[EVENTS_MAX];
    uint64_t tick_ns = (uint64_t)watch->options.tick_ms * 1000000u;
    uint64_t next_ns = agl_clock_ns() + tick_ns;
    for (;;) {
        uint64_t now_ns = agl_clock_ns();
        int wait_ms = now_ns >= next_ns ? 0 : (int)((next_ns - now_ns) / 1000000u) + 1;
        int count = epoll_wait(watch->epoll, events, EVENTS_MAX, wait_ms);
        pthread_mutex_lock(&watch->mutex);
        bool stopping = watch->stopping;
        pthread_mutex_unlock(&watch->mutex);
        if (stopping) return NULL;
        for (int i = 0; i < count; i++) {
            if (events[i].data.u64 != 0) handle(watch, events[i].data.u64);
        }
        if (agl_clock_ns() < next_ns) continue;
        next_ns = agl_clock_ns() + tick_ns;
        check_deadlines(watch);
        if (watch->options.tick != NULL) watch->options.tick(watch->options.tick_user);
    }
}

agl_status agl_watch_create(agl_watch **out, const agl_watch_options *options, agl_error *err)
{
    *out = NULL;
    agl_watch *watch = calloc(1, sizeof *watch);
    if (watch == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the connection watch");
    watch->options = *options;
    pthread_mutex_init(&watch->mutex, NULL);
    watch->epoll = epoll_create1(EPOLL_CLOEXEC);
    watch->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    watch->entries = calloc((size_t)options->connections_max + 1, sizeof *watch->entries);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0};
    if (watch->epoll < 0 || watch->wake < 0 || watch->entries == NULL ||
        epoll_ctl(watch->epoll, EPOLL_CTL_ADD, watch->wake, &event) != 0) {
        agl_watch_destroy(watch);
        return agl_fail(err, AGL_ERR_IO, "the connection watch cannot start: %s", strerror(errno));
    }
    for (uint32_t id = 1; id <= options->connections_max; id++) {
        watch->entries[id].socket = -1;
        watch->entries[id].next_free = id < options->connections_max ? id + 1 : 0;
    }
    watch->first_free = 1;
    if (pthread_create(&watch->thread, NULL, run, watch) != 0) {
        agl_watch_destroy(watch);
        return agl_fail(err, AGL_ERR_IO, "the connection watch cannot start a thread");
    }
    watch->running = true;
    *out = watch;
    return AGL_OK;
}

void agl_watch_destroy(agl_watch *watch)
{
    if (watch == NULL) return;
    if (watch->running) {
        pthread_mutex_lock(&watch->mutex);
        watch->stopping = true;
        pthread_mutex_unlock(&watch->mutex);
        eventfd_write(watch->wake, 1);
        pthread_join(watch->thread, NULL);
    }
    if (watch->epoll >= 0) close(watch->epoll);
    if (watch->wake >= 0) close(watch->wake);
    pthread_mutex_destroy(&watch->mutex);
    free(watch->entries);
    free(watch);
}

/* Report the peer's end from now on, once: to `gone` if there is one. */
static void expect_end(agl_watch *watch, agl_watch_id id, int operation)
{
    entry *each = &watch->entries[id];
    each->generation++;
    each->hangup_ns = 0;
    struct epoll_event event = {
        .events = EPOLLRDHUP | EPOLLONESHOT, /* errors and hang-ups are always reported */
        .data.u64 = (uint64_t)each->generation << 32 | id,
    };
    epoll_ctl(watch->epoll, operation, each->socket, &event);
}

agl_watch_id agl_watch_open(agl_watch *watch, int socket)
{
    pthread_mutex_lock(&watch->mutex);
    agl_watch_id id = watch->first_free;
    if (id != 0) {
        entry *each = &watch->entries[id];
        watch->first_free = each->next_free;
        *each = (entry){.socket = socket, .generation = each->generation};
        expect_end(watch, id, EPOLL_CTL_ADD);
    }
    pthread_mutex_unlock(&watch->mutex);
    return id;
}

void agl_watch_close(agl_watch *watch, agl_watch_id id)
{
    if (id == 0) return;
    pthread_mutex_lock(&watch->mutex);
    entry *each = &watch->entries[id];
    epoll_ctl(watch->epoll, EPOLL_CTL_DEL, each->socket, NULL);
    each->gone = NULL;
    each->socket = -1;
    each->generation++;
    each->next_free = watch->first_free;
    watch->first_free = id;
    pthread_mutex_unlock(&watch->mutex);
}

void agl_watch_set_deadline(agl_watch *watch, agl_watch_id id, uint64_t deadline_ns)
{
    if (id == 0) return;
    pthread_mutex_lock(&watch->mutex);
    watch->entries[id].deadline_ns = deadline_ns;
    pthread_mutex_unlock(&watch->mutex);
}

void agl_watch_arm(agl_watch *watch, agl_watch_id id, void (*gone)(void *user), void *user)
{
    if (id == 0) return;
    pthread_mutex_lock(&watch->mutex);
    entry *each = &watch->entries[id];
    each->gone = gone;
    each->user = user;
    expect_end(watch, id, EPOLL_CTL_MOD);
    pthread_mutex_unlock(&watch->mutex);
}

void agl_watch_disarm(agl_watch *watch, agl_watch_id id)
{
    if (id == 0) return;
    pthread_mutex_lock(&watch->mutex);
    watch->entries[id].gone = NULL;
    expect_end(watch, id, EPOLL_CTL_MOD);
    pthread_mutex_unlock(&watch->mutex);
}
