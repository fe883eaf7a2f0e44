/* SPDX-License-Identifier: Apache-2.0 */
#include "server/exchange.h"

#include <stdlib.h>

#include "base/clock.h"
#include "server/answer.h"
#include "server/server_state.h"

#define ANSWER_BYTES_MAX ((size_t)256 << 20)

agl_exchange *agl_exchange_create(agl_server *server, struct MHD_Connection *connection)
{
    agl_exchange *exchange = calloc(1, sizeof *exchange);
    if (exchange == NULL) return NULL;
    exchange->server = server;
    exchange->connection = connection;
    exchange->start_ns = agl_clock_ns();
    exchange->last_write_ns = exchange->start_ns;
    exchange->content_type = "application/json";
    agl_buffer_init(&exchange->body, (size_t)server->options.body_bytes_max);
    agl_buffer_init(&exchange->answer, ANSWER_BYTES_MAX);
    pthread_mutex_init(&exchange->mutex, NULL);
    return exchange;
}

void agl_exchange_destroy(agl_exchange *exchange)
{
    agl_generation_destroy(exchange->generation);
    /* Whoever resumed the connection may still be on its way out of the mutex. */
    pthread_mutex_lock(&exchange->mutex);
    pthread_mutex_unlock(&exchange->mutex);
    agl_buffer_deinit(&exchange->body);
    agl_buffer_deinit(&exchange->answer);
    pthread_mutex_destroy(&exchange->mutex);
    free(exchange->url);
    free(exchange);
}

void agl_exchange_fail(agl_exchange *exchange)
{
    exchange->http_status = exchange->err.http_status;
    exchange->content_type = "application/json";
    agl_buffer_clear(&exchange->answer);
    agl_api_error_write(&exchange->answer, &exchange->err);
}

/* On the resumer's thread. The HTTP thread may free the exchange as soon as the mutex is free. */
static void resume_now(void *user)
{
    agl_exchange *exchange = user;
    pthread_mutex_lock(&exchange->mutex);
    exchange->resuming = false;
    exchange->suspended = false;
    MHD_resume_connection(exchange->connection);
    pthread_mutex_unlock(&exchange->mutex);
}

/* With the mutex held. */
static void resume(agl_exchange *exchange)
{
    exchange->news = true;
    if (!exchange->suspended || exchange->resuming) return;
    exchange->resuming = true;
    exchange->resume_link = (agl_resume_link){.resume = resume_now, .user = exchange};
    agl_resumer_push(exchange->server->resumer, &exchange->resume_link);
}

static void suspend(agl_exchange *exchange)
{
    exchange->suspended = true;
    MHD_suspend_connection(exchange->connection);
}

static void work(void *user)
{
    agl_exchange *exchange = user;
    /* A client that left while its request waited costs nothing more. */
    pthread_mutex_lock(&exchange->mutex);
    bool needless = exchange->gone || exchange->cut;
    pthread_mutex_unlock(&exchange->mutex);
    if (!needless) exchange->route->work(exchange);

    agl_server_release_body(exchange->server, exchange);
    pthread_mutex_lock(&exchange->mutex);
    exchange->working = false;
    resume(exchange); /* from here on the exchange belongs to the HTTP thread, which may free it */
    pthread_mutex_unlock(&exchange->mutex);
}

bool agl_exchange_dispatch(agl_exchange *exchange)
{
    exchange->job = (agl_job){.run = work, .user = exchange};
    pthread_mutex_lock(&exchange->mutex);
    exchange->working = true;
    /* The job may start at once; it cannot resume before this block ends. */
    bool accepted = agl_workers_push(exchange->server->workers, &exchange->job);
    if (accepted) {
        suspend(exchange);
    } else {
        exchange->working = false;
    }
    pthread_mutex_unlock(&exchange->mutex);
    return accepted;
}

/* ---- pulling --------------------------------------------------------- */

static void finish_stream(agl_exchange *exchange)
{
    if (exchange->stream_started) {
        agl_sse_error_write(&exchange->answer, &exchange->err);
        exchange->stream_ended = true;
    } else {
        agl_exchange_fail(exchange); /* headers are not out: the error has a status of its own */
    }
}

/* True if there is something to send. */
static bool take(agl_exchange *exchange, bool cut, bool heartbeat)
{
    if (cut) {
        agl_api_fail_shutdown(&exchange->err);
        finish_stream(exchange);
        return true;
    }
    switch (agl_generation_pull(exchange->generation, &exchange->answer, &exchange->err)) {
    case AGL_GENERATION_DONE:
        exchange->http_status = 200;
        exchange->stream_ended = exchange->is_stream;
        return true;
    case AGL_GENERATION_FAILED:
        finish_stream(exchange);
        return true;
    case AGL_GENERATION_WAIT:
        break;
    }
    if (!exchange->is_stream) return false;
    if (exchange->answer.bytes == 0 && heartbeat) agl_sse_heartbeat_write(&exchange->answer);
    if (exchange->answer.bytes == 0) return false;
    exchange->http_status = 200;
    return true;
}

agl_pump agl_exchange_pump(agl_exchange *exchange)
{
    for (;;) {
        pthread_mutex_lock(&exchange->mutex);
        bool gone = exchange->gone, cut = exchange->cut, heartbeat = exchange->heartbeat;
        exchange->news = false;
        exchange->heartbeat = false;
        pthread_mutex_unlock(&exchange->mutex);
        if (gone) return AGL_PUMP_GONE;
        if (take(exchange, cut, heartbeat)) return AGL_PUMP_READY;

        pthread_mutex_lock(&exchange->mutex);
        bool wait = !exchange->news;
        if (wait) suspend(exchange);
        pthread_mutex_unlock(&exchange->mutex);
        if (wait) return AGL_PUMP_SUSPENDED;
    }
}

/* ---- from other threads ---------------------------------------------- */

void agl_exchange_notify(void *user)
{
    agl_exchange *exchange = user;
    pthread_mutex_lock(&exchange->mutex);
    /* While the request thread has it, the news are found at the first pull. */
    if (exchange->working) {
        exchange->news = true;
    } else {
        resume(exchange);
    }
    pthread_mutex_unlock(&exchange->mutex);
}

static void stop(agl_exchange *exchange, bool *flag)
{
    pthread_mutex_lock(&exchange->mutex);
    *flag = true;
    agl_generation *generation = exchange->generation;
    pthread_mutex_unlock(&exchange->mutex);
    if (generation != NULL) agl_generation_cancel(generation);
    agl_exchange_notify(exchange);
}

void agl_exchange_gone(void *user)
{
    agl_exchange *exchange = user;
    stop(exchange, &exchange->gone);
}

void agl_exchange_cut(agl_exchange *exchange)
{
    stop(exchange, &exchange->cut);
}

bool agl_exchange_is_working(agl_exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    bool working = exchange->working || exchange->suspended;
    pthread_mutex_unlock(&exchange->mutex);
    return working;
}

void agl_exchange_heartbeat(agl_exchange *exchange, uint64_t before_ns)
{
    pthread_mutex_lock(&exchange->mutex);
    if (exchange->is_stream && !exchange->working && exchange->suspended && exchange->last_write_ns < before_ns) {
        exchange->heartbeat = true;
        exchange->last_write_ns = agl_clock_ns();
        resume(exchange);
    }
    pthread_mutex_unlock(&exchange->mutex);
}
