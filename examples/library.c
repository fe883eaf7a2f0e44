/* SPDX-License-Identifier: Apache-2.0
 *
 * library.c - the engine without the server: one question, streamed.
 *
 *     cc -std=c17 library.c -o library $(pkg-config --cflags --libs agl)
 *     ./library CHECKPOINT "打开设置" */
#include <stdio.h>
#include <string.h>

#include <agl/agl.h>

static int fail(const agl_error *err)
{
    fprintf(stderr, "%s\n", err->message);
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s CHECKPOINT QUESTION\n", argv[0]);
        return 2;
    }
    agl_error err;
    agl_engine *engine;
    agl_engine_options options = { .model = argv[1] };
    if (agl_engine_create(&engine, &options, &err) != AGL_OK) return fail(&err);

    agl_part part = { .kind = AGL_PART_TEXT, .data = argv[2], .bytes = strlen(argv[2]) };
    agl_message message = { .role = "user", .parts = &part, .part_count = 1 };
    agl_request_options question = { .messages = &message, .message_count = 1 };
    agl_sampling_init(&question.sampling);
    question.sampling.max_tokens = 64;

    agl_request *request;
    agl_status status = agl_request_submit(&request, engine, &question, &err);
    if (status == AGL_OK) {
        agl_event event;
        do {
            agl_request_next(request, -1, &event);
            fwrite(event.text_bytes != 0 ? event.text : "", 1, event.text_bytes, stdout);
            fflush(stdout);
        } while (event.kind != AGL_EVENT_DONE);
        putchar('\n');
        agl_request_destroy(request);
    }
    agl_engine_destroy(engine);
    return status == AGL_OK ? 0 : fail(&err);
}
