/* SPDX-License-Identifier: Apache-2.0
 *
 * ask.c - `autoglm ask [--image FILE]... QUESTION`: one answer, then the end.
 * The answer goes to standard output and everything else to standard error. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "cli/answer.h"

enum { QUESTION_BYTES_MAX = 16 << 20 };

/* The words of the command line, or all of standard input for "-". */
static agl_status read_question(agl_buffer *question, const agl_flag_list *words, agl_error *err)
{
    if (words->count == 0)
        return agl_fail(err, AGL_ERR_ARGUMENT, "no question; autoglm ask \"...\", or - for standard input");
    if (words->count == 1 && strcmp(words->items[0], "-") == 0) {
        char block[4096];
        ssize_t bytes;
        while ((bytes = read(STDIN_FILENO, block, sizeof block)) > 0)
            agl_buffer_append(question, block, (size_t)bytes);
    }
    else for (size_t i = 0; i < words->count; i++) {
        if (i != 0) agl_buffer_append_char(question, ' ');
        agl_buffer_append_text(question, words->items[i]);
    }
    if (question->failed)
        return agl_fail(err, AGL_ERR_LIMIT, "the question is longer than %d bytes", QUESTION_BYTES_MAX);
    return AGL_OK;
}

/* Images first, then the text: the order the model was trained with. */
static agl_status build_parts(agl_part **out, size_t *count, agl_arena *arena, const agl_flag_list *images,
                              const agl_buffer *question, agl_error *err)
{
    agl_part *parts = agl_arena_alloc(arena, (images->count + 1) * sizeof *parts);
    if (parts == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the question");
    for (size_t i = 0; i < images->count; i++) {
        char *data;
        size_t bytes;
        AGL_TRY(agl_image_read(&data, &bytes, images->items[i], err));
        const void *kept = agl_arena_copy(arena, data, bytes);
        free(data);
        if (kept == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for %s", images->items[i]);
        parts[i] = (agl_part){ AGL_PART_IMAGE, kept, bytes, images->items[i] };
    }
    const char *text = question->bytes != 0 ? question->data : "";
    parts[images->count] = (agl_part){ AGL_PART_TEXT, text, question->bytes, "question" };
    *out = parts;
    *count = images->count + 1;
    return AGL_OK;
}

static void print_json(const agl_talk *talk, const agl_answer *answer, agl_status status)
{
    const agl_usage *usage = &answer->usage;
    agl_buffer out;
    agl_buffer_init(&out, 0);
    agl_buffer_append_text(&out, "{\"model\":\"");
    agl_buffer_append_json(&out, talk->options.engine.model, strlen(talk->options.engine.model));
    agl_buffer_append_text(&out, "\",\"text\":\"");
    agl_buffer_append_json(&out, answer->text.bytes != 0 ? answer->text.data : "", answer->text.bytes);
    agl_buffer_append_format(&out, "\",\"finish_reason\":\"%s\"",
                             status == AGL_ERR_CANCELLED ? "abort" : agl_finish_name(answer->finish));
    agl_buffer_append_format(&out, ",\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%u,"
                             "\"cached_tokens\":%u,\"image_tokens\":%u}", usage->prompt_tokens,
                             usage->completion_tokens, usage->prompt_tokens + usage->completion_tokens,
                             usage->cached_tokens, usage->image_tokens);
    agl_buffer_append_format(&out, ",\"timings\":{\"load_s\":%.6f,\"media_decode_s\":%.6f,\"media_resize_s\":%.6f,"
                             "\"vision_s\":%.6f,\"queue_s\":%.6f,\"prefill_s\":%.6f,\"decode_s\":%.6f,\"ttft_s\":%.6f,"
                             "\"total_s\":%.6f}}\n", talk->loader.seconds, usage->media_decode_s,
                             usage->media_resize_s, usage->vision_s, usage->queue_s, usage->prefill_s, usage->decode_s,
                             usage->ttft_s, usage->total_s);
    if (!out.failed) fwrite(out.data, 1, out.bytes, stdout);
    agl_buffer_deinit(&out);
}

static void report(const agl_talk *talk, const agl_answer *answer, agl_status status)
{
    if (talk->options.json) {
        print_json(talk, answer, status);
        return;
    }
    if (answer->text.bytes != 0 && answer->text.data[answer->text.bytes - 1] != '\n') putchar('\n');
    fflush(stdout);
    if (!talk->options.quiet && talk->console->terminal)
        agl_answer_print_usage(stderr, answer, talk->console->colour);
}

static agl_status ask(agl_talk *talk, const agl_buffer *question, const agl_part *parts, size_t part_count,
                      agl_error *err)
{
    const agl_cli_options *options = &talk->options;
    agl_message messages[2];
    agl_part system = { AGL_PART_TEXT, options->system, 0, "system" };
    agl_request_options request = { .id = "ask" };
    if (options->system != NULL) {
        system.bytes = strlen(options->system);
        messages[request.message_count++] = (agl_message){ "system", &system, 1 };
    }
    messages[request.message_count++] = (agl_message){ "user", parts, part_count };
    request.messages = messages;
    if (options->raw_prompt)
        request = (agl_request_options){ .id = "ask", .text = question->data, .text_bytes = question->bytes };
    agl_answer answer;
    agl_status status = agl_talk_answer(&answer, talk, &request, options->json ? NULL : stdout, err);
    if (status == AGL_OK || status == AGL_ERR_CANCELLED) report(talk, &answer, status);
    agl_answer_deinit(&answer);
    return status;
}

/* Files and question first: a wrong path should not cost the time to load a model. */
static agl_status prepare(agl_buffer *question, agl_part **parts, size_t *part_count, agl_arena *arena,
                          const agl_cli_options *options, agl_error *err)
{
    AGL_TRY(read_question(question, &options->parsed.words, err));
    if (options->raw_prompt && (options->images.count != 0 || options->system != NULL))
        return agl_fail(err, AGL_ERR_ARGUMENT, "--raw takes text alone, no --image and no --system");
    if (options->raw_prompt && question->bytes == 0) return agl_fail(err, AGL_ERR_ARGUMENT, "--raw: the text is empty");
    return build_parts(parts, part_count, arena, &options->images, question, err);
}

int agl_command_ask(agl_console *console, int argc, char **argv)
{
    agl_talk *talk = calloc(1, sizeof *talk); /* the options alone are several pages */
    if (talk == NULL) return AGL_EXIT_FAILED;
    agl_buffer question;
    agl_arena arena;
    agl_buffer_init(&question, QUESTION_BYTES_MAX);
    agl_arena_init(&arena, 0);
    agl_error err = { 0 };
    agl_part *parts = NULL;
    size_t part_count = 0;
    int code = agl_talk_begin(talk, console, AGL_CLI_ASK, argc, argv);
    if (code < 0 && prepare(&question, &parts, &part_count, &arena, &talk->options, &err) != AGL_OK) {
        fprintf(stderr, "autoglm ask: %s\n", err.message);
        code = AGL_EXIT_USAGE;
    }
    if (code < 0) code = agl_talk_load(talk);
    if (code < 0) {
        agl_status status = ask(talk, &question, parts, part_count, &err);
        code = status == AGL_OK ? AGL_EXIT_OK : status == AGL_ERR_CANCELLED ? AGL_EXIT_INTERRUPTED : AGL_EXIT_FAILED;
        if (code == AGL_EXIT_FAILED) fprintf(stderr, "autoglm ask: %s\n", err.message);
    }
    agl_talk_close(talk);
    agl_arena_deinit(&arena);
    agl_buffer_deinit(&question);
    free(talk);
    return code;
}
