/* SPDX-License-Identifier: Apache-2.0
 *
 * test_chat_prompts.c - rendered chats equal Jinja's (chats.json, openai layout). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "tokenizer/chat_template.h"

#define FIXTURES "tests/fixtures/tokenizer/"
#define PARTS_MAX 16

static agl_part part_of(struct json_object *item)
{
    struct json_object *text =
        json_object_is_type(item, json_type_string) ? item : agl_json_member(item, "text");
    if (text == NULL) return (agl_part){.kind = AGL_PART_IMAGE};
    return (agl_part){.kind = AGL_PART_TEXT,
                      .data = json_object_get_string(text),
                      .bytes = (size_t)json_object_get_string_len(text)};
}

static void check(struct json_object *chat, const char *key, bool no_generation_prompt)
{
    struct json_object *list = agl_json_member(chat, "messages");
    agl_message messages[PARTS_MAX];
    agl_part parts[PARTS_MAX][PARTS_MAX];
    size_t count = json_object_array_length(list);
    assert_true(count <= PARTS_MAX);
    for (size_t i = 0; i < count; i++) {
        struct json_object *message = json_object_array_get_idx(list, i);
        struct json_object *content = agl_json_member(message, "content");
        bool is_list = json_object_is_type(content, json_type_array);
        size_t part_count = is_list ? json_object_array_length(content) : 1;
        assert_true(part_count <= PARTS_MAX);
        for (size_t k = 0; k < part_count; k++) {
            parts[i][k] = part_of(is_list ? json_object_array_get_idx(content, k) : content);
        }
        messages[i] = (agl_message){.role = json_object_get_string(agl_json_member(message, "role")),
                                    .parts = parts[i], .part_count = part_count};
    }
    agl_arena arena;
    agl_arena_init(&arena, 0);
    agl_rendered rendered;
    agl_template_options options = {.content_openai = true, .no_generation_prompt = no_generation_prompt};
    assert_int_equal(
        agl_template_render(&rendered, &arena, AGL_TEMPLATE_GLM41V, messages, count, &options, NULL),
        AGL_OK);
    agl_buffer text;
    agl_buffer_init(&text, 0);
    size_t image = 0;
    for (size_t i = 0; i < rendered.run_count; i++) {
        agl_buffer_append(&text, rendered.runs[i].text, rendered.runs[i].bytes);
        if (image < rendered.image_count && rendered.image_after[image] == i) {
            agl_buffer_append_text(&text, "<|image|>");
            image++;
        }
    }
    assert_string_equal(text.data, json_object_get_string(agl_json_member(chat, key)));
    agl_buffer_deinit(&text);
    agl_arena_deinit(&arena);
}

static void test_prompts(void **state)
{
    (void)state;
    struct json_object *chats;
    assert_int_equal(agl_json_load(&chats, FIXTURES "chats.json", 1 << 20, NULL), AGL_OK);
    assert_true(json_object_array_length(chats) >= 10);
    for (size_t i = 0; i < json_object_array_length(chats); i++) {
        check(json_object_array_get_idx(chats, i), "prompt", false);
        check(json_object_array_get_idx(chats, i), "prompt_open", true);
    }
    json_object_put(chats);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
