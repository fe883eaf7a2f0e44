/* SPDX-License-Identifier: Apache-2.0
 *
 * soak_plan.h - the requests of the load test: what is sent, how the client misbehaves,
 * and what has to come back.
 *
 * Valid requests come in a fixed number of variants. The first answer to a variant is its
 * reference; every later one - streamed or not, in whatever batch, after whatever
 * preemption, from the prefix cache or not - must be equal to it. */
#ifndef SOAK_PLAN_H
#define SOAK_PLAN_H

#include "load/soak_response.h"

#define SOAK_VARIANTS 12
#define SOAK_IMAGES 6

/* kind, name, share of the requests */
#define SOAK_KINDS(X)                                                            \
    X(CHAT_STREAM, "chat, streamed", 22)                                         \
    X(CHAT_WHOLE, "chat, whole", 8)                                              \
    X(TEXT_STREAM, "completion, streamed", 8)                                    \
    X(TEXT_WHOLE, "completion, whole", 4)                                        \
    X(CHOICES, "n=3, sampled with a seed", 7)                                    \
    X(IMAGE, "chat with images", 10)                                             \
    X(STOP, "stop strings", 8)                                                   \
    X(PREFIX, "chat, long shared prefix", 10)                                    \
    X(SLOW, "reads 1 byte/s for a while", 3)                                     \
    X(BAD, "malformed, refused", 10)                                             \
    X(HEADER, "headers too large", 2)                                            \
    X(HALF, "half a request left open", 4)

typedef enum {
#define AGL_X(kind, name, share) SOAK_##kind,
    SOAK_KINDS(AGL_X)
#undef AGL_X
    SOAK_KIND_COUNT
} soak_kind;

const char *soak_kind_name(soak_kind kind);

typedef struct {
    soak_kind kind;
    uint32_t variant;
    uint32_t choices;           /* of the answer; 0: a refusal                     */
    uint32_t max_tokens;
    int status;                 /* that must come                                  */
    bool has_reference;         /* equal to every other answer of this variant     */
    agl_buffer request;         /* the bytes to send                               */
    size_t send_bytes;          /* less: the request is left unfinished            */
    double hold_s;              /* keep the unfinished request open for so long    */
    double slow_s;              /* read one byte a second for so long              */
    double abort_s;             /* hang up so long after sending; 0: do not        */
    uint64_t abort_bytes;       /* hang up after so many received bytes; 0: do not */
} soak_plan;

/* Pictures, prompts and the references. */
typedef struct soak_material soak_material;
soak_material *soak_material_create(uint64_t seed);
void soak_material_destroy(soak_material *material);

void soak_plan_init(soak_plan *plan);
void soak_plan_deinit(soak_plan *plan);

/* The next request, at random. */
void soak_plan_make(soak_plan *plan, soak_material *material);

/* A plain streamed chat of exactly `max_tokens` tokens. */
void soak_plan_make_long(soak_plan *plan, soak_material *material, uint32_t variant, uint32_t max_tokens);

/* Whether the complete answer is what the plan asked for; faults go to the response. */
bool soak_plan_check(const soak_plan *plan, soak_material *material, soak_response *response);

double soak_random(soak_material *material);    /* [0, 1) */

#endif
