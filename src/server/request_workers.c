/* SPDX-License-Identifier: Apache-2.0 */
#include "server/request_workers.h"

#include <pthread.h>
#include <stdlib.h>

struct agl_workers {
    pthread_mutex_t mutex;
    pthread_cond_t ready;
    agl_job *first, *last;      /* requests, oldest first */
    agl_job *cleanup;           /* any order              */
    uint32_t queued, queue_max;
    bool stopping;
    uint32_t thread_count;
    pthread_t threads[];
};

static agl_job *take(agl_workers *workers)
{
    agl_job *job = workers->cleanup;
    if (job != NULL) {
        workers->cleanup = job->next;
        return job;
    }
    job = workers->first;
    if (job == NULL) return NULL;
    workers->first = job->next;
    if (workers->first == NULL) workers->last = NULL;
    workers->queued--;
    return job;
}

static void *run(void *argument)
{
    agl_workers *workers = argument;
    pthread_mutex_lock(&workers->mutex);
    for (;;) {
        agl_job *job = take(workers);
        if (job != NULL) {
            pthread_mutex_unlock(&workers->mutex);
            job->run(job->user); /* may free the job */
            pthread_mutex_lock(&workers->mutex);
        } else if (workers->stopping) {
            break;
        } else {
            pthread_cond_wait(&workers->ready, &workers->mutex);
        }
    }
    pthread_mutex_unlock(&workers->mutex);
    return NULL;
}

agl_status agl_workers_create(agl_workers **out, uint32_t threads, uint32_t queue_max, agl_error *err)
{
    *out = NULL;
    agl_workers *workers = calloc(1, sizeof *workers + threads * sizeof workers->threads[0]);
    if (workers == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the request threads");
    pthread_mutex_init(&workers->mutex, NULL);
    pthread_cond_init(&workers->ready, NULL);
    workers->queue_max = queue_max;
    for (uint32_t i = 0; i < threads; i++) {
        if (pthread_create(&workers->threads[i], NULL, run, workers) != 0) {
            agl_workers_destroy(workers);
            return agl_fail(err, AGL_ERR_IO, "cannot start %u request threads", threads);
        }
        workers->thread_count++;
    }
    *out = workers;
    return AGL_OK;
}

bool agl_workers_push(agl_workers *workers, agl_job *job)
{
    pthread_mutex_lock(&workers->mutex);
    bool accepted = workers->queued < workers->queue_max && !workers->stopping;
    if (accepted) {
        job->next = NULL;
        if (workers->last != NULL) workers->last->next = job; else workers->first = job;
        workers->last = job;
        workers->queued++;
        pthread_cond_signal(&workers->ready);
    }
    pthread_mutex_unlock(&workers->mutex);
    return accepted;
}

void agl_workers_push_cleanup(agl_workers *workers, agl_job *job)
{
    pthread_mutex_lock(&workers->mutex);
    job->next = workers->cleanup;
    workers->cleanup = job;
    pthread_cond_signal(&workers->ready);
    pthread_mutex_unlock(&workers->mutex);
}

void agl_workers_destroy(agl_workers *workers)
{
    if (workers == NULL) return;
    pthread_mutex_lock(&workers->mutex);
    workers->stopping = true;
    pthread_cond_broadcast(&workers->ready);
    pthread_mutex_unlock(&workers->mutex);
    for (uint32_t i = 0; i < workers->thread_count; i++) pthread_join(workers->threads[i], NULL);
    pthread_cond_destroy(&workers->ready);
    pthread_mutex_destroy(&workers->mutex);
    free(workers);
}
