/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/load.h"

#include <curl/curl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/random.h"
#include "bench/statistics.h"

#define EVENTS_PER_WAIT 256
#define READS_BETWEEN_NOTES 16
#define LAG_SAMPLES_MAX (1u << 20)
#define TEXT_BYTES_MAX ((size_t)16 << 20)
#define SECONDS_MAX 86400
#define PEEK_BYTES ((size_t)1 << 16)

typedef struct load load;
typedef struct transfer transfer;

/* Bytes of `pending` below `end`, and not below the mark before, arrived at `at`. */
typedef struct {
    size_t end;
    double at;
} mark;

/* What is readable on a socket, and the call of libcurl that read it; 0: none yet. */
typedef struct {
    double arrived_s;
    uint64_t call;
} arrival;

/* One connection's request under way. */
struct transfer {
    load *run;
    CURL *curl;
    struct curl_slist *headers;
    char *body;
    agl_buffer pending;         /* bytes read but not parsed, or a whole JSON answer       */
    agl_buffer marks;           /* of `pending`: list of mark                              */
    agl_buffer text;
    transfer *next, *previous;  /* in the list of those to parse                           */
    bool is_listed;
    bool is_events;             /* text/event-stream                                       */
    double last_gap_s;          /* time of the last token event                            */
    size_t session, turn;
    int fd;                     /* its socket; -1: none yet                                */
};

/* A step of a server makes every connection readable at once. Their arrivals are noted first, and
 * again after every few reads; parsing waits until nothing is readable:
 *
 *     arrivals: edge-triggered --note--> noted[fd]
 *     epoll: level-triggered --read by libcurl--> pending, marked --when idle--> parsed
 */
struct load {
    const agl_load_options *options;
    agl_load_result *results;
    CURLM *multi;
    int epoll;                  /* what libcurl waits for                                  */
    int arrivals;               /* the same sockets, once for every arrival                */
    arrival *noted;             /* [noted_capacity] by descriptor                          */
    size_t noted_capacity;
    double origin_s;            /* clock at the start                                      */
    uint64_t calls;             /* of libcurl                                              */
    char *peeked;               /* [PEEK_BYTES] */
    transfer *first, *last;     /* to parse */
    double timer_s;             /* when libcurl wants to be called; < 0: never             */
    double *start_s;            /* [sessions] schedule                                     */
    size_t next_session, done_sessions;
    uint32_t active, peak;
    double *lags;
    size_t lag_count;
    uint32_t *tokens_in_second; /* [SECONDS_MAX]                                           */
    agl_error *err;
    agl_status status;
};

static double now_s(const load *run)
{
    return agl_clock_s() - run->origin_s;
}

/* ---- arrival -------------------------------------------------------------- */

/* Ask the kernel to note when bytes arrive. Where it cannot, the time of the wake-up is taken. */
static int on_new_socket(void *user, curl_socket_t fd, curlsocktype purpose)
{
    (void)user;
    (void)purpose;
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    return CURL_SOCKOPT_OK;
}

/* When the newest of the readable bytes arrived in the kernel, or `woken` if it does not say.
 * False: nothing is readable. */
static bool arrival_of(double *out, const load *run, int fd, double woken)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(struct timespec)) + 64];
    } control;
    struct iovec room = {run->peeked, PEEK_BYTES};
    struct msghdr message = {.msg_iov = &room,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    *out = woken;
    /* TRUNC: without copying. */
    if (recvmsg(fd, &message, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT) <= 0) return false;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_TIMESTAMPNS) continue;
        struct timespec stamp, now;
        memcpy(&stamp, CMSG_DATA(c), sizeof stamp);
        clock_gettime(CLOCK_REALTIME, &now);
        double ago = (double)(now.tv_sec - stamp.tv_sec) +
                     1e-9 * (double)(now.tv_nsec - stamp.tv_nsec);
        /* Somebody may have set the clock between the two. */
        if (ago >= 0 && ago < 1) *out = now_s(run) - ago;
    }
    return true;
}

static void note(load *run, int fd, double woken)
{
    double at;
    if ((size_t)fd >= run->noted_capacity || !arrival_of(&at, run, fd, woken)) return;
    run->noted[fd] = (arrival){.arrived_s = at};
    if (run->lag_count < LAG_SAMPLES_MAX) run->lags[run->lag_count++] = now_s(run) - at;
}

static void note_arrivals(load *run)
{
    struct epoll_event events[EVENTS_PER_WAIT];
    int count;
    do {
        count = epoll_wait(run->arrivals, events, EVENTS_PER_WAIT, 0);
        double woken = now_s(run);
        for (int i = 0; i < count; i++) note(run, events[i].data.fd, woken);
    } while (count == EVENTS_PER_WAIT);
}

static bool noted_reserve(load *run, int fd)
{
    if ((size_t)fd < run->noted_capacity) return true;
    size_t capacity = 2 * ((size_t)fd + 1);
    arrival *noted = realloc(run->noted, capacity * sizeof *noted);
    if (noted == NULL) return false;
    run->noted = noted;
    run->noted_capacity = capacity;
    return true;
}

/* Whether an arrival is noted whose bytes nobody read before this call of libcurl. */
static bool is_noted(const load *run, int fd)
{
    if (fd < 0 || (size_t)fd >= run->noted_capacity) return false;
    const arrival *noted = &run->noted[fd];
    return noted->arrived_s >= 0 && (noted->call == 0 || noted->call == run->calls);
}

/* Arrival of what libcurl reads from a socket in this call. */
static double read_arrival_s(load *run, int fd)
{
    if (!is_noted(run, fd)) return now_s(run);
    run->noted[fd].call = run->calls;
    return run->noted[fd].arrived_s;
}

/* ---- schedule ----------------------------------------------------------- */

static double uniform(uint64_t *state)
{
    return ((double)(agl_random_next(state) >> 11) + 0.5) * 0x1p-53; /* in (0, 1) */
}

static double normal(uint64_t *state)
{
    return sqrt(-2 * log(uniform(state))) * cos(2 * acos(-1.0) * uniform(state));
}

/* Gamma with mean 1: Marsaglia, Tsang, "A simple method for generating gamma variables", 2000. */
static double gamma_mean1(uint64_t *state, double shape)
{
    double boosted = shape < 1 ? shape + 1 : shape;
    double d = boosted - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = normal(state);
        double v = (1 + c * x) * (1 + c * x) * (1 + c * x);
        if (v <= 0 || log(uniform(state)) >= 0.5 * x * x + d - d * v + d * log(v)) continue;
        double value = d * v;
        if (shape < 1) value *= pow(uniform(state), 1 / shape);
        return value / shape;
    }
}

static void make_schedule(load *run)
{
    const agl_load_options *o = run->options;
    uint64_t state = o->seed ^ 0x6c6f6164u;
    double at = 0;
    for (size_t i = 0; i < o->sessions; i++) {
        run->start_s[i] = at;
        if (o->request_rate > 0) {
            at += gamma_mean1(&state, o->burstiness > 0 ? o->burstiness : 1) / o->request_rate;
        }
    }
}

/* ---- answers ------------------------------------------------------------ */

static void note_usage(agl_load_result *result, struct json_object *object)
{
    struct json_object *usage = agl_json_member(object, "usage");
    if (usage == NULL) return;
    int64_t prompt = 0, output = 0, cached = 0;
    agl_json_get_int(&prompt, usage, "prompt_tokens", 0, UINT32_MAX, false, "usage", NULL);
    agl_json_get_int(&output, usage, "completion_tokens", 0, UINT32_MAX, false, "usage", NULL);
    agl_json_get_int(&cached, agl_json_member(usage, "prompt_tokens_details"), "cached_tokens", 0,
                     UINT32_MAX, false, "usage", NULL);
    result->prompt_tokens = (uint32_t)prompt;
    result->output_tokens = (uint32_t)output;
    result->cached_tokens = (uint32_t)cached;
    result->usage_seen = true;
}

/* Text of a choice, streamed or whole, chat or completion. */
static const char *choice_text(struct json_object *choice)
{
    const char *text = NULL;
    struct json_object *holder = agl_json_member(choice, "delta");
    if (holder == NULL) holder = agl_json_member(choice, "message");
    if (holder == NULL) {
        agl_json_get_string(&text, choice, "text", false, "choice", NULL);
        return text;
    }
    agl_json_get_string(&text, holder, "content", false, "choice", NULL);
    if (text == NULL || *text == '\0') {
        agl_json_get_string(&text, holder, "reasoning_content", false, "choice", NULL);
    }
    return text;
}

static void note_error(agl_load_result *result, struct json_object *object, const char *otherwise)
{
    const char *message = NULL;
    agl_json_get_string(&message, agl_json_member(object, "error"), "message", false, "error",
                        NULL);
    snprintf(result->error, sizeof result->error, "%s", message != NULL ? message : otherwise);
}

static void note_gap(transfer *t, agl_load_result *result, double at)
{
    if (result->gap_count == result->gap_capacity) {
        uint32_t capacity = result->gap_capacity == 0 ? 256 : 2 * result->gap_capacity;
        float *gaps = realloc(result->gaps_s, capacity * sizeof *gaps);
        if (gaps == NULL) return;
        result->gaps_s = gaps;
        result->gap_capacity = capacity;
    }
    result->gaps_s[result->gap_count++] = (float)(at - t->last_gap_s);
}

static agl_load_result *result_of(transfer *t)
{
    return &t->run->results[t->session * t->run->options->turns + t->turn];
}

/* One event's JSON, stamped with the time its bytes arrived. What the others that became readable
 * with it cost this thread is not counted: a batch of 64 takes longer than a local network. */
static void take_event(transfer *t, const char *text, size_t bytes, double at)
{
    agl_load_result *result = result_of(t);
    struct json_object *object;
    if (agl_json_parse(&object, text, bytes, "event", NULL) != AGL_OK) {
        snprintf(result->error, sizeof result->error, "an event is not JSON");
        return;
    }
    if (agl_json_member(object, "error") != NULL) note_error(result, object, "error event");
    struct json_object *choices = agl_json_member(object, "choices");
    size_t count = json_object_is_type(choices, json_type_array) ? json_object_array_length(choices)
                                                                 : 0;
    if (count > 0) {
        if (result->events++ == 0) {
            result->first_event_s = at;
        } else {
            note_gap(t, result, at);
        }
        t->last_gap_s = at;
        if (at >= 0 && at < SECONDS_MAX) t->run->tokens_in_second[(size_t)at]++;
    }
    for (size_t i = 0; i < count; i++) {
        const char *piece = choice_text(json_object_array_get_idx(choices, i));
        if (piece == NULL || *piece == '\0') continue;
        if (result->first_text_s <= 0) result->first_text_s = at;
        agl_buffer_append_text(&t->text, piece);
    }
    note_usage(result, object);
    result->last_event_s = at;
    json_object_put(object);
}

/* Arrival of the byte at `position`; marks below *next are of bytes before it. */
static double marked_s(const transfer *t, size_t position, size_t *next)
{
    const mark *marks = (const mark *)t->marks.data;
    size_t count = t->marks.bytes / sizeof *marks;
    while (*next + 1 < count && marks[*next].end <= position) ++*next;
    return marks[*next].at;
}

/* Drop what is parsed. */
static void consume(transfer *t, size_t bytes)
{
    mark *marks = (mark *)t->marks.data;
    size_t count = t->marks.bytes / sizeof *marks, gone = 0;
    agl_buffer_consume(&t->pending, bytes);
    for (size_t i = 0; i < count; i++) {
        if (marks[i].end <= bytes) gone++;
        else marks[i].end -= bytes;
    }
    agl_buffer_consume(&t->marks, gone * sizeof *marks);
}

/* Lines of an event stream: only "data:" matters to this API. */
static void take_lines(transfer *t)
{
    size_t start = 0, next = 0;
    const char *data = t->pending.data;
    for (;;) {
        const char *end = memchr(data + start, '\n', t->pending.bytes - start);
        if (end == NULL) break;
        size_t bytes = (size_t)(end - data) - start;
        double at = marked_s(t, (size_t)(end - data), &next);
        const char *line = data + start;
        start += bytes + 1;
        if (bytes > 0 && line[bytes - 1] == '\r') bytes--;
        if (bytes < 5 || memcmp(line, "data:", 5) != 0) continue;
        line += 5, bytes -= 5;
        while (bytes > 0 && *line == ' ') line++, bytes--;
        if (bytes == 6 && memcmp(line, "[DONE]", 6) == 0) continue;
        take_event(t, line, bytes, at);
    }
    consume(t, start);
}

static void list_add(load *run, transfer *t)
{
    if (t->is_listed) return;
    t->is_listed = true;
    t->previous = run->last;
    if (run->last != NULL) run->last->next = t;
    else run->first = t;
    run->last = t;
}

static void list_remove(load *run, transfer *t)
{
    if (!t->is_listed) return;
    if (t->previous != NULL) t->previous->next = t->next;
    else run->first = t->next;
    if (t->next != NULL) t->next->previous = t->previous;
    else run->last = t->previous;
    t->next = t->previous = NULL;
    t->is_listed = false;
}

/* Parse what a transfer has read, if it is a stream; a whole answer is parsed at its end. */
static void transfer_parse(transfer *t)
{
    list_remove(t->run, t);
    if (t->is_events && t->pending.bytes > 0) take_lines(t);
}

static size_t on_body(char *data, size_t size, size_t count, void *user)
{
    transfer *t = user;
    load *run = t->run;
    agl_buffer_append(&t->pending, data, size * count);
    double at = read_arrival_s(run, t->fd);
    agl_buffer_append(&t->marks, &(mark){t->pending.bytes, at}, sizeof(mark));
    if (t->pending.failed || t->marks.failed) return 0;
    if (t->is_events) list_add(run, t);
    return size * count;
}

static size_t on_header(char *data, size_t size, size_t count, void *user)
{
    transfer *t = user;
    size_t bytes = size * count;
    if (bytes > 13 && strncasecmp(data, "content-type:", 13) == 0) {
        t->is_events = memmem(data, bytes, "text/event-stream", 17) != NULL;
    }
    return bytes;
}

/* ---- transfers ---------------------------------------------------------- */

static void transfer_free(transfer *t)
{
    list_remove(t->run, t);
    if (t->curl != NULL) {
        curl_multi_remove_handle(t->run->multi, t->curl);
        curl_easy_cleanup(t->curl);
    }
    curl_slist_free_all(t->headers);
    free(t->body);
    agl_buffer_deinit(&t->pending);
    agl_buffer_deinit(&t->marks);
    agl_buffer_deinit(&t->text);
    free(t);
}

static void act(load *run, curl_socket_t socket, int mask)
{
    int running;
    run->calls++;
    /* Arrived since the last look: its edge will find nothing to note. */
    if ((mask & CURL_CSELECT_IN) && !is_noted(run, socket)) note(run, socket, now_s(run));
    curl_multi_socket_action(run->multi, socket, mask, &running);
}

static bool transfer_start(load *run, size_t session, size_t turn, const char *previous,
                           double scheduled)
{
    const agl_load_options *o = run->options;
    char *body = o->build(o->build_user, session, turn, previous);
    if (body == NULL) return false;
    transfer *t = calloc(1, sizeof *t);
    if (t == NULL) {
        free(body);
        return false;
    }
    *t = (transfer){.run = run, .body = body, .session = session, .turn = turn,
                     .fd = -1};
    agl_buffer_init(&t->pending, TEXT_BYTES_MAX);
    agl_buffer_init(&t->marks, TEXT_BYTES_MAX);
    agl_buffer_init(&t->text, TEXT_BYTES_MAX);
    t->curl = curl_easy_init();
    if (t->curl == NULL) {
        transfer_free(t);
        return false;
    }
    t->headers = curl_slist_append(NULL, "Content-Type: application/json");
    t->headers = curl_slist_append(t->headers, "Expect:"); /* no round trip before the body */
    if (o->api_key != NULL) {
        char line[1024];
        snprintf(line, sizeof line, "Authorization: Bearer %s", o->api_key);
        t->headers = curl_slist_append(t->headers, line);
    }
    curl_easy_setopt(t->curl, CURLOPT_URL, o->url);
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(t->curl, CURLOPT_POSTFIELDS, t->body);
    curl_easy_setopt(t->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
    curl_easy_setopt(t->curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(t->curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(t->curl, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(t->curl, CURLOPT_SOCKOPTFUNCTION, on_new_socket);
    curl_easy_setopt(t->curl, CURLOPT_PRIVATE, t);
    curl_easy_setopt(t->curl, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(t->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(t->curl, CURLOPT_TIMEOUT, (long)(o->timeout_s > 0 ? o->timeout_s : 3600));

    agl_load_result *result = result_of(t);
    *result = (agl_load_result){.scheduled_s = scheduled, .body_bytes = strlen(body)};
    result->sent_s = now_s(run);
    if (curl_multi_add_handle(run->multi, t->curl) != CURLM_OK) return false;
    /* Let it go at once: the bodies of those that start with it take time to build. */
    act(run, CURL_SOCKET_TIMEOUT, 0);
    return true;
}

/* What libcurl did before the first byte went out is no time of the server's: about 0.1 ms. The
 * opening of a connection is, as in vLLM. */
static double preparation_s(CURL *curl)
{
    curl_off_t tcp_us = 0, tls_us = 0, ready_us = 0; /* 0: was open, is none */
    curl_easy_getinfo(curl, CURLINFO_CONNECT_TIME_T, &tcp_us);
    curl_easy_getinfo(curl, CURLINFO_APPCONNECT_TIME_T, &tls_us);
    curl_easy_getinfo(curl, CURLINFO_PRETRANSFER_TIME_T, &ready_us);
    curl_off_t connected_us = tls_us > tcp_us ? tls_us : tcp_us;
    return ready_us > connected_us ? 1e-6 * (double)(ready_us - connected_us) : 0;
}

static void session_end(load *run)
{
    run->active--;
    run->done_sessions++;
    if (run->options->progress != NULL) {
        run->options->progress(run->options->progress_user, run->done_sessions,
                               run->options->sessions, now_s(run));
    }
}

static void transfer_finish(load *run, transfer *t, CURLcode code)
{
    agl_load_result *result = result_of(t);
    long http_status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &http_status);
    result->http_status = (int)http_status;
    result->sent_s += preparation_s(t->curl);
    double at = now_s(run);
    if (code != CURLE_OK) {
        snprintf(result->error, sizeof result->error, "%s", curl_easy_strerror(code));
    } else if (http_status != 200) {
        struct json_object *object = NULL;
        char otherwise[64];
        snprintf(otherwise, sizeof otherwise, "HTTP status %ld", http_status);
        if (t->pending.data != NULL) {
            agl_json_parse(&object, t->pending.data, t->pending.bytes, "answer", NULL);
        }
        note_error(result, object, otherwise);
        json_object_put(object);
    } else if (t->is_events) {
        transfer_parse(t);
    } else if (t->pending.data != NULL) {
        size_t next = 0;
        take_event(t, t->pending.data, t->pending.bytes,
                   marked_s(t, t->pending.bytes - 1, &next));
    }
    if (result->error[0] == '\0' && result->events == 0) {
        snprintf(result->error, sizeof result->error, "no event with a choice");
    }
    result->ok = result->error[0] == '\0';
    if (!result->usage_seen) result->output_tokens = result->events;
    result->text_bytes = t->text.bytes;
    result->text_digest = agl_sha256(t->text.data, t->text.bytes);
    result->text = agl_buffer_detach(&t->text, NULL);

    bool more = result->ok && t->turn + 1 < run->options->turns && !*run->options->interrupted;
    size_t session = t->session, turn = t->turn;
    transfer_free(t);
    if (!more ||
        !transfer_start(run, session, turn + 1, result->text != NULL ? result->text : "", at)) {
        session_end(run);
    }
}

/* ---- the loop ----------------------------------------------------------- */

static int on_socket(CURL *curl, curl_socket_t fd, int what, void *user, void *socket_user)
{
    load *run = user;
    transfer *t = NULL;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(run->epoll, EPOLL_CTL_DEL, fd, NULL);
        epoll_ctl(run->arrivals, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    if (socket_user == NULL && noted_reserve(run, fd)) {
        struct epoll_event edge = {.events = EPOLLIN | EPOLLET, .data.fd = fd};
        epoll_ctl(run->arrivals, EPOLL_CTL_ADD, fd, &edge);
        run->noted[fd] = (arrival){.arrived_s = -1};
    }
    curl_easy_getinfo(curl, CURLINFO_PRIVATE, &t);
    if (t != NULL) t->fd = fd;
    struct epoll_event event = {.data.fd = fd};
    if (what & CURL_POLL_IN) event.events |= EPOLLIN;
    if (what & CURL_POLL_OUT) event.events |= EPOLLOUT;
    epoll_ctl(run->epoll, socket_user == NULL ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event);
    curl_multi_assign(run->multi, fd, run); /* anything but NULL: known to epoll */
    return 0;
}

static int on_timer(CURLM *multi, long timeout_ms, void *user)
{
    (void)multi;
    load *run = user;
    run->timer_s = timeout_ms < 0 ? -1 : now_s(run) + (double)timeout_ms * 1e-3;
    return 0;
}

static void start_due(load *run)
{
    const agl_load_options *o = run->options;
    while (run->next_session < o->sessions && !*o->interrupted) {
        if (o->max_concurrency > 0 && run->active >= o->max_concurrency) return;
        if (run->start_s[run->next_session] > now_s(run)) return;
        size_t session = run->next_session++;
        double due = run->start_s[session];
        /* Closed loop: a session is due when its place is free. */
        if (o->request_rate <= 0) due = now_s(run);
        run->active++;
        if (run->active > run->peak) run->peak = run->active;
        if (!transfer_start(run, session, 0, NULL, due)) session_end(run);
    }
}

static int wait_ms(const load *run)
{
    double wait = 0.5;
    if (run->timer_s >= 0) wait = fmin(wait, run->timer_s - now_s(run));
    if (run->next_session < run->options->sessions) {
        bool room = run->options->max_concurrency == 0 ||
                    run->active < run->options->max_concurrency;
        if (room) wait = fmin(wait, run->start_s[run->next_session] - now_s(run));
    }
    return wait <= 0 ? 0 : (int)ceil(wait * 1000);
}

static void read_ready(load *run, const struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++) {
        if (i % READS_BETWEEN_NOTES == 0) note_arrivals(run);
        int mask = (events[i].events & EPOLLIN ? CURL_CSELECT_IN : 0)
                 | (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0)
                 | (events[i].events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
        act(run, events[i].data.fd, mask);
    }
    if (run->timer_s >= 0 && now_s(run) >= run->timer_s) {
        note_arrivals(run); /* libcurl reads at such times too */
        run->timer_s = -1;
        act(run, CURL_SOCKET_TIMEOUT, 0);
    }
}

/* One answer that ended. */
static bool finish_one(load *run)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(run->multi, &left)) != NULL) {
        if (message->msg != CURLMSG_DONE) continue;
        transfer *t;
        CURLcode code = message->data.result;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &t);
        transfer_finish(run, t, code);
        return true;
    }
    return false;
}

static void loop(load *run)
{
    struct epoll_event events[EVENTS_PER_WAIT];
    bool is_busy = false;   /* answers may have ended, or be unparsed */
    while (run->active > 0 ||
           (run->next_session < run->options->sessions && !*run->options->interrupted)) {
        start_due(run);
        int count = epoll_wait(run->epoll, events, EVENTS_PER_WAIT, is_busy ? 0 : wait_ms(run));
        read_ready(run, events, count);
        is_busy = true;
        if (count != 0 || finish_one(run)) continue; /* < 0: a signal */
        if (run->first != NULL) transfer_parse(run->first);
        else is_busy = false;
    }
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
         + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void summarise(load *run, agl_load_summary *summary, double cpu_s)
{
    size_t total = run->options->sessions * run->options->turns;
    double first = INFINITY, last = 0;
    for (size_t i = 0; i < total; i++) {
        const agl_load_result *result = &run->results[i];
        if (result->sent_s == 0 && result->http_status == 0 && result->error[0] == '\0') {
            summary->unsent++;
            continue;
        }
        if (result->ok) summary->completed++;
        else summary->failed++;
        first = fmin(first, result->sent_s);
        last = fmax(last, fmax(result->last_event_s, result->sent_s));
    }
    summary->duration_s = last > first ? last - first : 0;
    summary->peak_concurrency = run->peak;
    for (size_t s = 0; s < SECONDS_MAX; s++) {
        summary->peak_tokens_per_s = fmax(summary->peak_tokens_per_s, run->tokens_in_second[s]);
    }
    summary->client_cpu_share = summary->duration_s > 0 ? cpu_s / summary->duration_s : 0;
    agl_summary lag = agl_summary_of(run->lags, run->lag_count);
    summary->lag_p99_s = lag.p99;
    summary->lag_max_s = lag.max;
}

agl_status agl_load_run(agl_load_result *results, agl_load_summary *summary,
                        const agl_load_options *options, agl_error *err)
{
    load run = {.options = options, .results = results, .timer_s = -1, .err = err, .epoll = -1,
                .arrivals = -1};
    agl_status status = AGL_OK;
    *summary = (agl_load_summary){0};
    memset(results, 0, options->sessions * options->turns * sizeof *results);
    run.start_s = calloc(options->sessions, sizeof *run.start_s);
    run.lags = malloc(LAG_SAMPLES_MAX * sizeof *run.lags);
    run.tokens_in_second = calloc(SECONDS_MAX, sizeof *run.tokens_in_second);
    run.peeked = malloc(PEEK_BYTES);
    run.multi = curl_multi_init();
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    run.arrivals = epoll_create1(EPOLL_CLOEXEC);
    if (run.start_s == NULL || run.lags == NULL || run.tokens_in_second == NULL ||
        run.peeked == NULL || run.multi == NULL || run.epoll < 0 || run.arrivals < 0) {
        status = agl_fail(err, AGL_ERR_MEMORY, "no memory for %zu sessions", options->sessions);
    } else {
        curl_multi_setopt(run.multi, CURLMOPT_SOCKETFUNCTION, on_socket);
        curl_multi_setopt(run.multi, CURLMOPT_SOCKETDATA, &run);
        curl_multi_setopt(run.multi, CURLMOPT_TIMERFUNCTION, on_timer);
        curl_multi_setopt(run.multi, CURLMOPT_TIMERDATA, &run);
        curl_multi_setopt(run.multi, CURLMOPT_MAXCONNECTS, 4096L);
        make_schedule(&run);
        run.origin_s = agl_clock_s();
        double cpu_before = cpu_seconds();
        loop(&run);
        summarise(&run, summary, cpu_seconds() - cpu_before);
    }
    if (run.multi != NULL) curl_multi_cleanup(run.multi);
    if (run.epoll >= 0) close(run.epoll);
    if (run.arrivals >= 0) close(run.arrivals);
    free(run.start_s);
    free(run.lags);
    free(run.tokens_in_second);
    free(run.peeked);
    free(run.noted);
    return status;
}

void agl_load_results_free(agl_load_result *results, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(results[i].gaps_s);
        free(results[i].text);
        results[i].gaps_s = NULL;
        results[i].text = NULL;
    }
}
