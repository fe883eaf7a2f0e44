/* SPDX-License-Identifier: Apache-2.0
 *
 * stream.h - the consumer's side of a request: published tokens become text events.
 *
 *     output  . . . . . . | . .        tokens detokenised | published, not yet read
 *     text    --------|=====|          delivered | held: may be the start of a stop string
 *
 * Tokens are taken one at a time, so what comes out does not depend on how many had
 * arrived. Only the thread that calls agl_request_next touches a reader. */
#ifndef AGL_ENGINE_STREAM_H
#define AGL_ENGINE_STREAM_H

#include "base/buffer.h"
#include "base/status.h"
#include "tokenizer/tokenizer.h"

/* Tokens whose text is not out: those of one event, and those behind a held stop string. */
#define AGL_STREAM_PENDING_MAX 512

typedef struct {
    agl_detokenizer detokenizer;
    agl_buffer text;            /* from the first byte not yet delivered on             */
    size_t handed;              /* bytes of `text` in the last event                    */
    uint32_t consumed;          /* tokens detokenised                                   */
    uint32_t pending;           /* of these, not delivered                              */
    uint32_t pending_handed;    /* of these, in the last event                          */
    size_t token_ends[AGL_STREAM_PENDING_MAX]; /* bytes of `text` after each pending one */
    bool ended;                 /* its FINISH event is out                              */
    const char *stop_string;    /* matched                                              */
} agl_choice_reader;

typedef struct {
    agl_choice_reader *choices; /* [choice_count]                                       */
    uint32_t choice_count;
    uint32_t next_choice;       /* round robin                                          */
    uint32_t choices_ended;
    bool prompt_done, failed, done;
    agl_token_event *tokens;    /* views of the last event                              */
    size_t token_capacity;
    uint64_t done_ns;
} agl_stream_reader;

agl_status agl_stream_reader_init(agl_stream_reader *reader, agl_request *request, agl_error *err);

/* The consumer has these first tokens of choice 0, and the whole characters they make. */
void agl_stream_reader_skip(agl_stream_reader *reader, const int32_t *tokens, uint32_t count);
void agl_stream_reader_deinit(agl_stream_reader *reader);

#endif
