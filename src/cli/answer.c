/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/answer.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/file_map.h"
#include "base/log.h"

enum {
    IMAGE_BYTES_MAX = 32 << 20,  /* as the server's default              */
    ANSWER_BYTES_MAX = 64 << 20, /* a whole window of long tokens        */
    TURN_MS = 50,                /* how late a signal may be seen        */
};

int agl_talk_begin(agl_talk *talk, agl_console *console, unsigned command, int argc, char **argv)
{
    talk->console = console;
    talk->engine = NULL;
    talk->signal_fd = -1;
    int code = agl_command_begin(console, &talk->options, command, argc, argv);
    /* The answer is what was asked for; the engine's own lines only matter when they warn. */
    if (console->least == AGL_LOG_INFO) console->least = AGL_LOG_WARNING;
    return code;
}

int agl_talk_load(agl_talk *talk)
{
    agl_error err = { 0 };
    agl_status status = agl_signals_open(&talk->signal_fd, &err);
    talk->loader = (agl_loader){ .console = talk->console, .signal_fd = talk->signal_fd, .quiet = talk->options.quiet };
    if (status == AGL_OK)
        status = agl_loader_run(&talk->engine, &talk->loader, &talk->options.engine, AGL_EXIT_INTERRUPTED, &err);
    if (status != AGL_OK) {
        fprintf(stderr, "autoglm: %s\n", err.message);
        return AGL_EXIT_FAILED;
    }
    if (talk->options.demonstration && !talk->options.quiet)
        fprintf(stderr, "(the small demonstration model answers, not AutoGLM-Phone-9B; --model names another)\n");
    return -1;
}

void agl_talk_close(agl_talk *talk)
{
    agl_engine_destroy(talk->engine);
    if (talk->signal_fd >= 0) close(talk->signal_fd);
    agl_cli_options_deinit(&talk->options);
}

agl_status agl_image_read(char **data, size_t *bytes, const char *path, agl_error *err)
{
    return agl_file_read(data, bytes, path, IMAGE_BYTES_MAX, err);
}

void agl_answer_deinit(agl_answer *answer)
{
    agl_buffer_deinit(&answer->text);
}

static void take_text(agl_answer *answer, const agl_event *event, FILE *out)
{
    agl_buffer_append(&answer->text, event->text, event->text_bytes);
    if (out == NULL || event->text_bytes == 0) return;
    fwrite(event->text, 1, event->text_bytes, out);
    fflush(out);
}

static agl_status read_events(agl_answer *answer, agl_talk *talk, agl_request *request, FILE *out, agl_error *err)
{
    agl_status status = AGL_OK;
    agl_event event;
    do {
        agl_request_next(request, TURN_MS, &event);
        if (agl_signals_take(talk->signal_fd, 0)) {
            agl_request_cancel(request);
            status = AGL_ERR_CANCELLED;
        }
        if (event.kind == AGL_EVENT_TEXT || event.kind == AGL_EVENT_FINISH) take_text(answer, &event, out);
        if (event.kind == AGL_EVENT_FINISH) {
            answer->finish = event.finish;
            answer->stop_token = event.stop_token;
        }
        if (event.kind == AGL_EVENT_ERROR && status == AGL_OK)
            status = agl_fail(err, event.status, "%s",
                              event.message != NULL ? event.message : agl_status_text(event.status));
    } while (event.kind != AGL_EVENT_DONE);
    answer->usage = event.usage;
    if (status == AGL_OK && answer->text.failed)
        status = agl_fail(err, AGL_ERR_LIMIT, "the answer is longer than %d bytes", ANSWER_BYTES_MAX);
    return status;
}

agl_status agl_talk_answer(agl_answer *answer, agl_talk *talk, const agl_request_options *request, FILE *out,
                           agl_error *err)
{
    const agl_cli_options *options = &talk->options;
    agl_request_options full = *request;
    full.sampling = options->sampling;
    full.sampling.stop = options->stop.items;
    full.sampling.stop_count = options->stop.count;
    full.chat.disable_thinking = options->no_thinking;
    *answer = (agl_answer){ .stop_token = -1 };
    agl_buffer_init(&answer->text, ANSWER_BYTES_MAX);
    agl_request *running;
    AGL_TRY(agl_request_submit(&running, talk->engine, &full, err));
    agl_status status = read_events(answer, talk, running, out, err);
    agl_request_destroy(running);
    return status;
}

const char *agl_finish_name(agl_finish finish)
{
    switch (finish) {
    case AGL_FINISH_STOP: return "stop";
    case AGL_FINISH_LENGTH: return "length";
    case AGL_FINISH_ABORT: return "abort";
    default: return "none";
    }
}

void agl_answer_print_usage(FILE *out, const agl_answer *answer, bool colour)
{
    const agl_usage *usage = &answer->usage;
    fprintf(out, "%s%u prompt tokens", colour ? "\033[2m" : "", usage->prompt_tokens);
    if (usage->image_tokens != 0) fprintf(out, ", %u of images", usage->image_tokens);
    if (usage->cached_tokens != 0) fprintf(out, " (%u cached)", usage->cached_tokens);
    fprintf(out, ", %u tokens, first after %.2f s", usage->completion_tokens, usage->ttft_s);
    if (usage->completion_tokens > 1 && usage->decode_s > 0)
        fprintf(out, ", %.1f tokens/s", (usage->completion_tokens - 1) / usage->decode_s);
    if (answer->finish == AGL_FINISH_LENGTH) fprintf(out, ", cut at the limit");
    fprintf(out, "%s\n", colour ? "\033[0m" : "");
}
