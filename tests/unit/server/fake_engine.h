/* SPDX-License-Identifier: Apache-2.0
 *
 * fake_engine.h - agl.h without a model, for tests of the server.
 *
 * A token is a byte (0..255); 256 is "<think>", 257 "</think>", 258 "<answer>".
 * The answer is the last text of the prompt, or what its directives say:
 *
 *     [say:TEXT]     answer TEXT; the tags above become one token each
 *     [count=N]      repeat 'x' N times        [error=N]   fail with DEVICE after N tokens
 *     [abort=N]      end as if cancelled after N tokens, N > 0
 *     [hold=N]       nothing after N tokens as long as `held` is set
 *     [first=MS]     wait before the first token   [delay=MS]  and between tokens
 *     [stop=N]       the answer ends by stop token N; 258 is the end of the text
 *     [submit=MS]    block in agl_request_submit
 *     [status=N]     agl_request_submit fails with that agl_status
 *
 * Chat prompts are "role:text\n" per message, images "<image N bytes>". */
#ifndef TEST_FAKE_ENGINE_H
#define TEST_FAKE_ENGINE_H

#include <stdatomic.h>

#include "agl/agl.h"

/* What the server asked for; reset by the test. */
typedef struct {
    atomic_int submitted;
    atomic_int live;            /* requests not yet destroyed       */
    atomic_int cancelled;       /* before their end                 */
    atomic_bool stalled;        /* reported by agl_engine_stats_get */
    atomic_bool held;           /* set by the test: see [hold=N]    */
    agl_sampling sampling;      /* of the last request; lists are gone */
    agl_chat_options chat;
    char prompt[4096];          /* of the last request              */
    uint64_t max_pixels;
} test_fake_state;

test_fake_state *test_fake(void);

#endif
