/* SPDX-License-Identifier: Apache-2.0
 *
 * sequence.h - a request and its sequences (one per choice), as two threads see them.
 *
 *     submitting thread       engine thread                 consumer thread
 *     builds all of it  --->  grows output[], pages   --->  reads output[0 .. published)
 *                             publishes under lock          detokenises (stream.h)
 *
 * Everything a request can ever need is reserved at submit, so neither the step loop nor
 * a slow reader makes it grow. It is freed when both sides have let go of it. */
#ifndef AGL_ENGINE_SEQUENCE_H
#define AGL_ENGINE_SEQUENCE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/prompt.h"
#include "engine/sampler.h"
#include "engine/stream.h"

typedef struct agl_sequence agl_sequence;

typedef enum {
    AGL_SEQUENCE_NEW,           /* not with the scheduler yet (a choice before its fork) */
    AGL_SEQUENCE_WAITING,
    AGL_SEQUENCE_RUNNING,
    AGL_SEQUENCE_ENDED
} agl_sequence_state;

/* Tokens are numbered through: the prompt's, then the output's. */
struct agl_sequence {
    agl_request *request;
    uint32_t choice;

    /* Engine thread. */
    agl_sequence_state state;
    uint32_t heap_index;        /* while waiting                                       */
    uint32_t slots;             /* choices it stands for: n until the fork, then 1     */
    uint32_t computed;          /* tokens whose keys and values are in the pages, those
                                 * that the step on the device computes included       */
    uint32_t output_count;
    uint32_t pending;           /* 1: the step on the device makes its next token      */
    agl_finish ending;          /* its last token is there; to be told and cleared up  */
    int32_t ending_token;       /* that stopped it, or -1                              */
    agl_sampler sampler;
    agl_page_id *pages;         /* [page_capacity], page_count held                    */
    uint32_t page_count;
    uint32_t cached_pages;      /* first pages that the prefix cache knows             */
    agl_digest tip;             /* digest of page cached_pages - 1, or the root        */
    int32_t *image_entries;     /* [images] pinned encoder entries                     */

    /* Written by the engine thread beyond `published`, read by the consumer before it. */
    int32_t *output;            /* [max_tokens]                                        */
    agl_sample_result *results; /* [max_tokens], tops behind it; NULL without logprobs */

    /* Under request->lock. */
    uint32_t published;
    agl_finish finish;
    int32_t stop_token;

    atomic_bool stop_wanted;    /* the consumer found a stop string                    */
};

struct agl_request {
    /* Fixed after submit. */
    agl_engine *engine;
    const char *id;
    agl_arena arena;
    agl_prompt prompt;
    size_t pixel_bytes;         /* taken from the engine's bound                       */
    agl_sampling_rules sampling;
    uint32_t resumed_tokens;    /* first tokens of the output, given by the client     */
    int64_t priority;           /* 0 unless scheduled by priority                      */
    uint64_t number;            /* order of arrival                                    */
    uint64_t submit_ns, queued_ns;
    uint64_t deadline_ns;       /* 0: none                                             */
    agl_sequence *sequences;    /* [sampling.n]                                        */
    agl_sample_result *prompt_results; /* [prompt tokens], or NULL                     */

    atomic_uint references;     /* engine, consumer, inbox                             */
    atomic_bool cancelled;

    /* Under the engine's inbox lock. */
    agl_request *submitted_next, *posted_next;
    bool posted;

    /* Engine thread. */
    uint32_t live;              /* sequences not ended                                 */
    bool scheduled;             /* has left the queue once                             */
    agl_request *active_next, *active_previous, *told_next;
    bool to_be_told;            /* is in the engine's list of these                    */

    /* Under lock: what the engine tells the consumer. */
    pthread_mutex_t lock;
    pthread_cond_t wake;        /* CLOCK_MONOTONIC                                     */
    bool news;                  /* since the consumer last found nothing               */
    bool prompt_ready;          /* prompt_results are complete                         */
    agl_status status;          /* other than AGL_OK: the request failed               */
    char message[256];
    uint64_t scheduled_ns, first_token_ns, last_token_ns;
    double vision_s;
    uint32_t cached_tokens, preemptions;

    pthread_mutex_t notify_lock;/* held while notify runs; cleared by destroy          */
    void (*notify)(void *user);
    void *notify_user;

    agl_stream_reader reader;   /* consumer thread                                     */
};

/* Reserve n sequences for the prompt and rules that are in the request already. */
agl_status agl_request_reserve(agl_request *request, uint32_t page_tokens, uint32_t vocab,
                               agl_error *err);
/* Alternatives of result `index` of a block of `count` results with `top` each. */
agl_token_logprob *agl_results_top(agl_sample_result *results, size_t count, int32_t top,
                                   size_t index);
void agl_request_retain(agl_request *request);
void agl_request_release(agl_request *request);     /* frees at zero */

/* Tell the consumer that something changed; `lock` must be held. Returns true when notify
 * is due: call agl_request_notify after unlocking. */
bool agl_request_news(agl_request *request);
void agl_request_notify(agl_request *request);

/* Tokens there are, and the one that is being made. */
static inline uint32_t agl_sequence_tokens(const agl_sequence *sequence)
{
    return (uint32_t)sequence->request->prompt.tokens.count + sequence->output_count +
           sequence->pending;
}

static inline int32_t agl_sequence_token(const agl_sequence *sequence, uint32_t index)
{
    uint32_t prompt = (uint32_t)sequence->request->prompt.tokens.count;
    return index < prompt ? sequence->request->prompt.tokens.ids[index]
                          : sequence->output[index - prompt];
}

/* The order in which sequences are served: negative when a goes first. */
int agl_sequence_compare(const agl_sequence *a, const agl_sequence *b);

#endif
