/* SPDX-License-Identifier: Apache-2.0 */
#include "server/resumer.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct agl_resumer {
    pthread_t thread;
    pthread_mutex_t mutex;      /* of all below       */
    pthread_cond_t wake;
    agl_resume_link *first, **last;
    bool stopping;
};

static void *run(void *argument)
{
    agl_resumer *resumer = argument;
    pthread_mutex_lock(&resumer->mutex);
    for (;;) {
        while (resumer->first == NULL && !resumer->stopping) pthread_cond_wait(&resumer->wake, &resumer->mutex);
        agl_resume_link *link = resumer->first;
        if (link == NULL) break;
        resumer->first = NULL;
        resumer->last = &resumer->first;
        pthread_mutex_unlock(&resumer->mutex);
        while (link != NULL) {
            agl_resume_link *next = link->next; /* afterwards the link is no longer ours */
            link->resume(link->user);
            link = next;
        }
        pthread_mutex_lock(&resumer->mutex);
    }
    pthread_mutex_unlock(&resumer->mutex);
    return NULL;
}

agl_status agl_resumer_create(agl_resumer **out, agl_error *err)
{
    agl_resumer *resumer = calloc(1, sizeof *resumer);
    if (resumer == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the resumer");
    resumer->last = &resumer->first;
    pthread_mutex_init(&resumer->mutex, NULL);
    pthread_cond_init(&resumer->wake, NULL);
    if (pthread_create(&resumer->thread, NULL, run, resumer) != 0) {
        pthread_cond_destroy(&resumer->wake);
        pthread_mutex_destroy(&resumer->mutex);
        free(resumer);
        return agl_fail(err, AGL_ERR_INTERNAL, "the resumer thread cannot be started");
    }
    *out = resumer;
    return AGL_OK;
}

void agl_resumer_destroy(agl_resumer *resumer)
{
    if (resumer == NULL) return;
    pthread_mutex_lock(&resumer->mutex);
    resumer->stopping = true;
    pthread_cond_signal(&resumer->wake);
    pthread_mutex_unlock(&resumer->mutex);
    pthread_join(resumer->thread, NULL);
    pthread_cond_destroy(&resumer->wake);
    pthread_mutex_destroy(&resumer->mutex);
    free(resumer);
}

void agl_resumer_push(agl_resumer *resumer, agl_resume_link *link)
{
    link->next = NULL;
    pthread_mutex_lock(&resumer->mutex);
    bool was_empty = resumer->first == NULL;
    *resumer->last = link;
    resumer->last = &link->next;
    pthread_mutex_unlock(&resumer->mutex);
    if (was_empty) pthread_cond_signal(&resumer->wake);
}
