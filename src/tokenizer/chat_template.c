/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/chat_template.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/file_map.h"
#include "base/json.h"
#include "tokenizer/template_form.h"

#define TEMPLATE_BYTES_MAX ((size_t)1 << 20)
#define CONFIG_BYTES_MAX ((size_t)16 << 20)

typedef struct {
    const char *role, *head;
    bool keeps_markup;          /* its think and answer tags are tokens even if its text is untrusted */
} turn_form;

/* A family of templates whose turns are "head, content" one after the other. */
typedef struct {
    const char *name;
    const char *form;           /* of the published template, see template_form.h */
    const char *opening;
    turn_form turns[3];
    const char *image_begin, *image_end;    /* around each image's tokens */
    const char *generation;
    const char *no_think;       /* after `generation` when thinking is off */
} family_form;

static const family_form FAMILIES[AGL_TEMPLATE_COUNT] = {
    [AGL_TEMPLATE_NONE] = {.name = "none"},
    [AGL_TEMPLATE_GLM41V] = {
        .name = "glm-4.1v",
        .form =
            "[gMASK]<sop>{%for msg in messages%}"
            "{%if msg.role == 'system'%}<|system|>\n{{msg.content}}"
            "{%elif msg.role == 'user'%}<|user|>{{'\\n'}}"
            "{%if msg.content is string%}{{msg.content}}{%else%}{%for item in msg.content%}"
            "{%if item.type == 'video' or 'video' in item%}"
            "<|begin_of_video|><|video|><|end_of_video|>"
            "{%elif item.type == 'image' or 'image' in item%}"
            "<|begin_of_image|><|image|><|end_of_image|>"
            "{%elif item.type == 'text'%}{{item.text}}{%endif%}{%endfor%}{%endif%}"
            "{%elif msg.role == 'assistant'%}"
            "{%if msg.metadata%}<|assistant|>{{msg.metadata}}\n{{msg.content}}"
            "{%else%}<|assistant|>\n{{msg.content}}{%endif%}{%endif%}{%endfor%}"
            "{%if add_generation_prompt%}<|assistant|>\n{%endif%}",
        .opening = "[gMASK]<sop>",
        .turns = {{"system", "<|system|>\n", true},
                  {"user", "<|user|>\n", false},
                  {"assistant", "<|assistant|>\n", true}},
        .image_begin = "<|begin_of_image|>",
        .image_end = "<|end_of_image|>",
        .generation = "<|assistant|>\n",
        /* GLM-4.1V's own template has no switch. Its successors open the turn with an empty
         * thought, which this model's turns can begin with as well; their "/nothink" behind
         * the user's text is a token that this vocabulary lacks. */
        .no_think = "<think></think>\n",
    },
};

static const char *const MARKUP[] = {"<think>", "</think>", "<answer>", "</answer>"};

const char *agl_template_family_name(agl_template_family family)
{
    assert(family < AGL_TEMPLATE_COUNT);
    return FAMILIES[family].name;
}

/* ---- recognition ------------------------------------------------------- */

agl_status agl_template_recognise(agl_template_family *out, const char *text, size_t bytes,
                                  const char *name, agl_error *err)
{
    *out = AGL_TEMPLATE_NONE;
    if (bytes > TEMPLATE_BYTES_MAX) {
        return agl_fail(err, AGL_ERR_LIMIT, "%s: a chat template of %zu bytes, at most %zu are allowed",
                        name, bytes, TEMPLATE_BYTES_MAX);
    }
    agl_buffer form;
    agl_buffer_init(&form, 0);
    agl_status status = agl_template_form(&form, text, bytes, err);
    for (int family = AGL_TEMPLATE_NONE + 1; status == AGL_OK && family < AGL_TEMPLATE_COUNT;
         family++) {
        const char *known = FAMILIES[family].form;
        if (form.bytes != strlen(known) || memcmp(form.data, known, form.bytes) != 0) continue;
        *out = (agl_template_family)family;
        break;
    }
    agl_buffer_deinit(&form);
    if (status != AGL_OK || *out != AGL_TEMPLATE_NONE) return status;
    char hex[65];
    agl_digest digest = agl_sha256(text, bytes);
    for (size_t i = 0; i < sizeof digest.bytes; i++) snprintf(hex + 2 * i, 3, "%02x", digest.bytes[i]);
    return agl_fail(err, AGL_ERR_UNSUPPORTED,
                    "%s: unknown chat template (SHA-256 %s); known is that of GLM-4.1V-9B-Thinking",
                    name, hex);
}

/* "chat_template" of a JSON file: a string, or a list of named ones of which "default" counts. */
static agl_status recognise_in_json(agl_template_family *out, bool *found, const char *path,
                                    agl_error *err)
{
    struct json_object *root;
    AGL_TRY(agl_json_load(&root, path, CONFIG_BYTES_MAX, err));
    struct json_object *value = agl_json_member(root, "chat_template");
    if (json_object_is_type(value, json_type_array)) {
        struct json_object *list = value;
        value = NULL;
        for (size_t i = 0; i < json_object_array_length(list); i++) {
            struct json_object *entry = json_object_array_get_idx(list, i);
            struct json_object *name = agl_json_member(entry, "name");
            if (json_object_is_type(name, json_type_string) &&
                strcmp(json_object_get_string(name), "default") == 0) {
                value = agl_json_member(entry, "template");
            }
        }
    }
    agl_status status = AGL_OK;
    if (json_object_is_type(value, json_type_string)) {
        *found = true;
        status = agl_template_recognise(out, json_object_get_string(value),
                                        (size_t)json_object_get_string_len(value), path, err);
    } else if (value != NULL) {
        status = agl_fail(err, AGL_ERR_FORMAT, "%s: chat_template: a string is expected", path);
    }
    json_object_put(root);
    return status;
}

static agl_status recognise_file(agl_template_family *out, bool *found, const char *path, bool is_json,
                                 agl_error *err)
{
    agl_error problem = {0};
    agl_file_map map;
    agl_status status = agl_file_map_open(&map, path, &problem);
    if (status == AGL_ERR_NOT_FOUND) return AGL_OK;
    if (status != AGL_OK) return agl_fail(err, status, "%s", problem.message);
    if (is_json) {
        status = recognise_in_json(out, found, path, err);
    } else {
        *found = true;
        status = agl_template_recognise(out, (const char *)map.data, map.bytes, path, err);
    }
    agl_file_map_close(&map);
    return status;
}

agl_status agl_template_detect(agl_template_family *out, const char *dir, agl_error *err)
{
    static const char *const FILES[] = {"chat_template.jinja", "chat_template.json",
                                        "tokenizer_config.json"};
    *out = AGL_TEMPLATE_NONE;
    bool found = false;
    for (size_t i = 0; i < AGL_COUNT(FILES) && !found; i++) {
        agl_buffer path;
        agl_buffer_init(&path, 1 << 16);
        agl_buffer_append_format(&path, "%s/%s", dir, FILES[i]);
        agl_status status = path.failed
            ? agl_fail(err, AGL_ERR_LIMIT, "the folder's name is too long")
            : recognise_file(out, &found, path.data, i > 0, err);
        agl_buffer_deinit(&path);
        AGL_TRY(status);
    }
    return AGL_OK;
}

/* ---- rendering --------------------------------------------------------- */

typedef struct {
    agl_rendered *out;
    agl_arena *arena;
    size_t run_capacity, image_capacity;
    const family_form *family;
    const agl_template_options *options;
    bool failed;                /* the arena is full */
} renderer;

static void *grow(renderer *r, void *items, size_t count, size_t *capacity, size_t item_bytes)
{
    if (count < *capacity) return items;
    size_t larger = *capacity == 0 ? 16 : 2 * *capacity;
    void *copy = agl_arena_alloc(r->arena, larger * item_bytes);
    if (copy == NULL) {
        r->failed = true;
        return items;
    }
    if (count > 0) memcpy(copy, items, count * item_bytes);
    *capacity = larger;
    return copy;
}

static void add_run(renderer *r, const char *text, size_t bytes, bool trusted)
{
    agl_rendered *out = r->out;
    if (bytes == 0) return;
    out->runs = grow(r, out->runs, out->run_count, &r->run_capacity, sizeof *out->runs);
    if (r->failed) return;
    out->runs[out->run_count++] = (agl_text_run){.text = text, .bytes = bytes, .trusted = trusted};
}

static void add(renderer *r, const char *text)
{
    add_run(r, text, strlen(text), true);
}

static void add_image(renderer *r)
{
    agl_rendered *out = r->out;
    add(r, r->family->image_begin);
    out->image_after =
        grow(r, out->image_after, out->image_count, &r->image_capacity, sizeof *out->image_after);
    if (r->failed) return;
    out->image_after[out->image_count++] = out->run_count - 1;
    add(r, r->family->image_end);
}

/* Bytes of the think or answer tag at `text`, or 0. */
static size_t markup_bytes(const char *text, size_t bytes)
{
    for (size_t i = 0; i < AGL_COUNT(MARKUP); i++) {
        size_t length = strlen(MARKUP[i]);
        if (length <= bytes && memcmp(text, MARKUP[i], length) == 0) return length;
    }
    return 0;
}

/* A client's text. Untrusted text of the system or the assistant may hold the tags that the
 * model was trained to see there as tokens; they cannot end a turn. */
static void add_content(renderer *r, const turn_form *turn, const char *text, size_t bytes)
{
    if (!r->options->no_special_in_user || !turn->keeps_markup) {
        add_run(r, text, bytes, !r->options->no_special_in_user);
        return;
    }
    size_t plain = 0; /* bytes at `text` not yet added */
    while (plain < bytes) {
        size_t tag = text[plain] == '<' ? markup_bytes(text + plain, bytes - plain) : 0;
        if (tag == 0) {
            plain++;
            continue;
        }
        add_run(r, text, plain, false);
        add_run(r, text + plain, tag, true);
        text += plain + tag;
        bytes -= plain + tag;
        plain = 0;
    }
    add_run(r, text, plain, false);
}

/* The layout of vLLM's content format "string", which the model's own documentation asks for:
 * images first, each on its line, then the texts, one a line; empty texts do not count. */
static void add_parts_string(renderer *r, const turn_form *turn, const agl_message *message)
{
    for (size_t i = 0; i < message->part_count; i++) {
        if (message->parts[i].kind != AGL_PART_IMAGE) continue;
        add_image(r);
        add(r, "\n");
    }
    bool first = true;
    for (size_t i = 0; i < message->part_count; i++) {
        const agl_part *part = &message->parts[i];
        if (part->kind != AGL_PART_TEXT || part->bytes == 0) continue;
        if (!first) add(r, "\n");
        first = false;
        add_content(r, turn, part->data, part->bytes);
    }
}

static void add_parts_openai(renderer *r, const turn_form *turn, const agl_message *message)
{
    for (size_t i = 0; i < message->part_count; i++) {
        const agl_part *part = &message->parts[i];
        if (part->kind == AGL_PART_IMAGE) add_image(r);
        else add_content(r, turn, part->data, part->bytes);
    }
}

static const turn_form *turn_of(const family_form *family, const char *role)
{
    for (size_t i = 0; i < AGL_COUNT(family->turns); i++) {
        const turn_form *turn = &family->turns[i];
        if (turn->role != NULL && strcmp(turn->role, role) == 0) return turn;
    }
    return NULL;
}

static agl_status check_message(const family_form *family, const agl_message *message, agl_error *err)
{
    if (turn_of(family, message->role) != NULL) return AGL_OK;
    for (size_t i = 0; i < message->part_count; i++) {
        const agl_part *part = &message->parts[i];
        if (part->kind != AGL_PART_IMAGE) continue;
        return agl_fail(err, AGL_ERR_ARGUMENT,
                        "%s: the chat template has no place for an image of role '%.64s'",
                        part->where != NULL ? part->where : "messages", message->role);
    }
    return AGL_OK;
}

/* Hugging Face cuts the prompt right behind the last text of the final message. */
static agl_status check_continuable(const family_form *family, const agl_message *messages,
                                    size_t count, bool openai, agl_error *err)
{
    const agl_message *last = count > 0 ? &messages[count - 1] : NULL;
    if (last == NULL || turn_of(family, last->role) == NULL) {
        return agl_fail(err, AGL_ERR_ARGUMENT,
                        "continue_final_message: there is no final message to continue");
    }
    if (openai && last->part_count > 0 && last->parts[last->part_count - 1].kind != AGL_PART_TEXT) {
        return agl_fail(err, AGL_ERR_ARGUMENT,
                        "continue_final_message: the final message ends with an image, not with text");
    }
    return AGL_OK;
}

agl_status agl_template_render(agl_rendered *out, agl_arena *arena, agl_template_family family,
                               const agl_message *messages, size_t message_count,
                               const agl_template_options *options, agl_error *err)
{
    *out = (agl_rendered){0};
    if (family == AGL_TEMPLATE_NONE) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "the checkpoint has no chat template: only text prompts can be used");
    }
    renderer r = {.out = out, .arena = arena, .family = &FAMILIES[family], .options = options};
    if (options->continue_final_message) {
        AGL_TRY(check_continuable(r.family, messages, message_count, options->content_openai, err));
    }
    add(&r, r.family->opening);
    for (size_t i = 0; i < message_count; i++) {
        const agl_message *message = &messages[i];
        AGL_TRY(check_message(r.family, message, err));
        const turn_form *turn = turn_of(r.family, message->role);
        if (turn == NULL) continue;
        add(&r, turn->head);
        if (options->content_openai) add_parts_openai(&r, turn, message);
        else add_parts_string(&r, turn, message);
    }
    if (!options->no_generation_prompt && !options->continue_final_message) {
        add(&r, r.family->generation);
        if (options->disable_thinking) add(&r, r.family->no_think);
    }
    if (r.failed) return agl_fail(err, AGL_ERR_LIMIT, "the messages have too many parts");
    return AGL_OK;
}
