/* SPDX-License-Identifier: Apache-2.0
 *
 * chat.c - `autoglm chat`: a conversation on the terminal.
 *
 *     /image FILE   attach an image to the next message        /reset   forget everything
 *     /help         these lines                                /quit    end (also Ctrl-D)
 *
 * Ctrl-C stops an answer; at the prompt it ends the program. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "cli/answer.h"

enum { LINE_BYTES_MAX = 1 << 20, CONVERSATION_BYTES_MAX = 1 << 30, MESSAGES_MAX = 4096, PARTS_MAX = 64 };

typedef struct {
    agl_talk talk;
    agl_arena arena;                    /* texts, images and parts of the conversation   */
    agl_message messages[MESSAGES_MAX];
    size_t message_count;
    agl_part parts[PARTS_MAX];          /* of the message being written: images          */
    size_t part_count;
    agl_buffer input;                   /* read from standard input, not yet used        */
    bool terminal;                      /* standard input is one                         */
} conversation;

/* The next line without its end, or NULL at the end of input or on a signal. Valid until the next call. */
static char *read_line(conversation *self, size_t *consumed)
{
    agl_buffer_consume(&self->input, *consumed);
    *consumed = 0;
    for (;;) {
        char *end = self->input.bytes != 0 ? memchr(self->input.data, '\n', self->input.bytes) : NULL;
        if (end != NULL) {
            *end = '\0';
            *consumed = (size_t)(end - self->input.data) + 1;
            return self->input.data;
        }
        struct pollfd fds[2] = { { STDIN_FILENO, POLLIN, 0 }, { self->talk.signal_fd, POLLIN, 0 } };
        if (poll(fds, 2, -1) < 0 && errno != EINTR) return NULL;
        if (fds[1].revents != 0) return NULL;
        char block[4096];
        ssize_t bytes = read(STDIN_FILENO, block, sizeof block);
        if (bytes > 0) {
            agl_buffer_append(&self->input, block, (size_t)bytes);
            if (self->input.failed) return NULL;
            continue;
        }
        if (bytes < 0 && errno == EINTR) continue;
        if (self->input.bytes == 0) return NULL;
        *consumed = self->input.bytes; /* a last line without an end */
        return self->input.data;
    }
}

static void forget(conversation *self)
{
    const char *system = self->talk.options.system;
    agl_arena_reset(&self->arena);
    self->message_count = self->part_count = 0;
    if (system == NULL) return;
    agl_part *part = agl_arena_alloc(&self->arena, sizeof *part);
    if (part == NULL) return;
    *part = (agl_part){ AGL_PART_TEXT, system, strlen(system), "system" };
    self->messages[self->message_count++] = (agl_message){ "system", part, 1 };
}

static agl_status attach(conversation *self, const char *path, agl_error *err)
{
    char *data;
    size_t bytes;
    /* One place stays for the text. */
    if (self->part_count + 1 >= PARTS_MAX) return agl_fail(err, AGL_ERR_LIMIT, "more than %d images", PARTS_MAX - 1);
    AGL_TRY(agl_image_read(&data, &bytes, path, err));
    const void *kept = agl_arena_copy(&self->arena, data, bytes);
    free(data);
    if (kept == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for %s", path);
    self->parts[self->part_count++] = (agl_part){ AGL_PART_IMAGE, kept, bytes, "image" };
    return AGL_OK;
}

/* Move the parts at hand into the conversation as one message. */
static agl_status add_message(conversation *self, const char *role, const char *text, size_t bytes, agl_error *err)
{
    if (self->message_count == MESSAGES_MAX)
        return agl_fail(err, AGL_ERR_LIMIT, "more than %d messages; /reset", MESSAGES_MAX);
    char *kept = agl_arena_string(&self->arena, text, bytes);
    self->parts[self->part_count++] = (agl_part){ AGL_PART_TEXT, kept, bytes, role };
    agl_part *parts = agl_arena_copy(&self->arena, self->parts, self->part_count * sizeof *parts);
    if (kept == NULL || parts == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the conversation; /reset");
    self->messages[self->message_count++] = (agl_message){ role, parts, self->part_count };
    self->part_count = 0;
    return AGL_OK;
}

/* A turn that fails leaves no trace, so that the next one can be tried. */
static agl_status take_turn(conversation *self, const char *text, agl_error *err)
{
    size_t before = self->message_count;
    agl_status status = add_message(self, "user", text, strlen(text), err);
    agl_answer answer = { 0 };
    if (status == AGL_OK) {
        agl_request_options request = {
            .id = "chat", .messages = self->messages, .message_count = self->message_count };
        status = agl_talk_answer(&answer, &self->talk, &request, stdout, err);
    }
    if (status == AGL_OK || status == AGL_ERR_CANCELLED) {
        printf("\n");
        fflush(stdout);
        if (self->terminal && !self->talk.options.quiet)
            agl_answer_print_usage(stderr, &answer, self->talk.console->colour);
        status = add_message(self, "assistant", answer.text.bytes != 0 ? answer.text.data : "", answer.text.bytes, err);
    }
    if (status != AGL_OK) {
        self->message_count = before;
        self->part_count = 0;
    }
    agl_answer_deinit(&answer);
    return status;
}

/* False to end. */
static bool take_line(conversation *self, const char *line)
{
    agl_error err = { 0 };
    agl_status status = AGL_OK;
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) return false;
    if (strcmp(line, "/reset") == 0) forget(self);
    else if (strncmp(line, "/image ", 7) == 0) status = attach(self, line + 7, &err);
    else if (line[0] == '/' && strchr(line, ' ') == NULL && strlen(line) < 16)
        fprintf(stderr, "/image FILE  attach an image to the next message\n/reset       forget everything\n"
                        "/quit        end\n");
    else if (line[0] != '\0') status = take_turn(self, line, &err);
    if (status != AGL_OK) fprintf(stderr, "autoglm chat: %s\n", err.message);
    return true;
}

static int converse(conversation *self)
{
    agl_error err = { 0 };
    const agl_cli_options *options = &self->talk.options;
    forget(self);
    for (size_t i = 0; i < options->images.count; i++) {
        if (attach(self, options->images.items[i], &err) == AGL_OK) continue;
        fprintf(stderr, "autoglm chat: %s\n", err.message);
        return AGL_EXIT_USAGE;
    }
    size_t consumed = 0;
    for (;;) {
        if (self->terminal) fputs("> ", stderr);
        const char *line = read_line(self, &consumed);
        if (line == NULL || !take_line(self, line)) break;
    }
    if (self->terminal) fputc('\n', stderr);
    if (!self->input.failed) return AGL_EXIT_OK;
    fprintf(stderr, "autoglm chat: a line is longer than %d bytes\n", LINE_BYTES_MAX);
    return AGL_EXIT_FAILED;
}

int agl_command_chat(agl_console *console, int argc, char **argv)
{
    conversation *self = calloc(1, sizeof *self);
    if (self == NULL) return AGL_EXIT_FAILED;
    self->terminal = isatty(STDIN_FILENO);
    agl_arena_init(&self->arena, CONVERSATION_BYTES_MAX);
    agl_buffer_init(&self->input, LINE_BYTES_MAX);
    int code = agl_talk_begin(&self->talk, console, AGL_CLI_CHAT, argc, argv);
    if (code < 0 && self->talk.options.parsed.words.count != 0) {
        fprintf(stderr, "autoglm chat: unexpected \"%s\"; autoglm ask takes a question\n",
                self->talk.options.parsed.words.items[0]);
        code = AGL_EXIT_USAGE;
    }
    if (code < 0) code = agl_talk_load(&self->talk);
    if (code < 0) code = converse(self);
    agl_talk_close(&self->talk);
    agl_buffer_deinit(&self->input);
    agl_arena_deinit(&self->arena);
    free(self);
    return code;
}
