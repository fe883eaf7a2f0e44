/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "base/file_map.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/template_form.h"

#define TEMPLATE "tests/fixtures/tokenizer/glm41v.chat_template.jinja"

#define TEXT(string) {.kind = AGL_PART_TEXT, .data = string, .bytes = sizeof string - 1}
#define IMAGE {.kind = AGL_PART_IMAGE, .data = "", .where = "messages[0].content[0]"}
#define BOX "<|begin_of_image|>@<|end_of_image|>" /* "@" marks where image tokens go */

typedef struct {
    const char *role;
    agl_part parts[4];
    size_t part_count;
} test_message;

/* Runs joined; "@" for each image; untrusted runs between guillemets. */
static agl_status render(agl_buffer *text, const test_message *items, size_t count,
                         const agl_template_options *options, agl_error *err)
{
    agl_message messages[4];
    for (size_t i = 0; i < count; i++) {
        messages[i] = (agl_message){
            .role = items[i].role, .parts = items[i].parts, .part_count = items[i].part_count};
    }
    agl_arena arena;
    agl_arena_init(&arena, 0);
    agl_rendered rendered;
    agl_status status =
        agl_template_render(&rendered, &arena, AGL_TEMPLATE_GLM41V, messages, count, options, err);
    size_t image = 0;
    for (size_t i = 0; status == AGL_OK && i < rendered.run_count; i++) {
        const agl_text_run *run = &rendered.runs[i];
        if (!run->trusted) agl_buffer_append_text(text, "«");
        agl_buffer_append(text, run->text, run->bytes);
        if (!run->trusted) agl_buffer_append_text(text, "»");
        for (; image < rendered.image_count && rendered.image_after[image] == i; image++)
            agl_buffer_append_text(text, "@");
    }
    if (status == AGL_OK) assert_int_equal(image, rendered.image_count);
    agl_arena_deinit(&arena);
    return status;
}

static void test_render(void **state)
{
    (void)state;
    static const struct {
        test_message messages[4];
        agl_template_options options;
        const char *expected;   /* or, if it starts with "!", a part of the error */
    } CASES[] = {
        {{{"user", {TEXT("Hi")}, 1}}, {0}, "[gMASK]<sop><|user|>\nHi<|assistant|>\n"},
        {{{"user", {TEXT("a"), IMAGE, TEXT("b")}, 3}},
         {0},
         "[gMASK]<sop><|user|>\n" BOX "\na\nb<|assistant|>\n"},
        {{{"user", {IMAGE, TEXT(""), IMAGE, TEXT("b")}, 4}},
         {0},
         "[gMASK]<sop><|user|>\n" BOX "\n" BOX "\nb<|assistant|>\n"},
        {{{"user", {IMAGE}, 1}}, {0}, "[gMASK]<sop><|user|>\n" BOX "\n<|assistant|>\n"},
        {{{"user", {TEXT("a"), IMAGE, TEXT("b")}, 3}},
         {.content_openai = true},
         "[gMASK]<sop><|user|>\na" BOX "b<|assistant|>\n"},
        {{{"system", {TEXT("s"), TEXT("t")}, 2}, {"user", {TEXT("q")}, 1}},
         {0},
         "[gMASK]<sop><|system|>\ns\nt<|user|>\nq<|assistant|>\n"},
        {{{"user", {TEXT("q")}, 1}, {"tool", {TEXT("lost")}, 1}, {"assistant", {TEXT(" x ")}, 1}},
         {.continue_final_message = true},
         "[gMASK]<sop><|user|>\nq<|assistant|>\n x "},
        {{{"user", {TEXT("q")}, 1}}, {.no_generation_prompt = true}, "[gMASK]<sop><|user|>\nq"},
        {{{"user", {TEXT("q")}, 1}},
         {.disable_thinking = true},
         "[gMASK]<sop><|user|>\nq<|assistant|>\n<think></think>\n"},
        {{{"user", {TEXT("q")}, 1}, {.role = "assistant"}},
         {.continue_final_message = true, .disable_thinking = true},
         "[gMASK]<sop><|user|>\nq<|assistant|>\n"},
        {{{"user", {TEXT("<|user|>"), IMAGE}, 2},
          {"assistant", {TEXT("x<think>a</think>\n<answer><|user|>")}, 1}},
         {.no_special_in_user = true},
         "[gMASK]<sop><|user|>\n" BOX
         "\n«<|user|>»<|assistant|>\n«x»<think>«a»</think>«\n»<answer>«<|user|>»<|assistant|>\n"},
        {{{"system", {TEXT("</answer></think>"), TEXT("<thin")}, 2}, {"user", {TEXT("<think>")}, 1}},
         {.no_special_in_user = true, .content_openai = true},
         "[gMASK]<sop><|system|>\n</answer></think>«<thin»<|user|>\n«<think>»<|assistant|>\n"},
        {.expected = "[gMASK]<sop><|assistant|>\n"},
        {{{"tool", {IMAGE}, 1}}, {0}, "!messages[0].content[0]"},
        {{{"user", {TEXT("q"), IMAGE}, 2}},
         {.continue_final_message = true, .content_openai = true},
         "!continue_final_message"},
        {{{"tool", {TEXT("q")}, 1}}, {.continue_final_message = true}, "!continue_final_message"},
        {.options = {.continue_final_message = true}, .expected = "!continue_final_message"},
    };
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        size_t count = 0;
        while (count < 4 && CASES[i].messages[count].role != NULL) count++;
        agl_buffer text;
        agl_buffer_init(&text, 0);
        agl_error err = {0};
        agl_status status = render(&text, CASES[i].messages, count, &CASES[i].options, &err);
        if (CASES[i].expected[0] == '!') {
            assert_int_equal(status, AGL_ERR_ARGUMENT);
            assert_non_null(strstr(err.message, CASES[i].expected + 1));
        } else {
            assert_int_equal(status, AGL_OK);
            assert_string_equal(text.data, CASES[i].expected);
        }
        agl_buffer_deinit(&text);
    }
}

static void test_no_template(void **state)
{
    (void)state;
    agl_arena arena;
    agl_arena_init(&arena, 0);
    agl_rendered rendered;
    agl_template_options options = {0};
    assert_int_equal(agl_template_render(&rendered, &arena, AGL_TEMPLATE_NONE, NULL, 0, &options, NULL),
                     AGL_ERR_UNSUPPORTED);
    agl_arena_deinit(&arena);
    agl_arena_init(&arena, 64);
    agl_part parts[64];
    for (size_t i = 0; i < AGL_COUNT(parts); i++) parts[i] = (agl_part)TEXT("x");
    agl_message message = {.role = "user", .parts = parts, .part_count = AGL_COUNT(parts)};
    assert_int_equal(
        agl_template_render(&rendered, &arena, AGL_TEMPLATE_GLM41V, &message, 1, &options, NULL),
        AGL_ERR_LIMIT);
    agl_arena_deinit(&arena);
}

static void test_form(void **state)
{
    (void)state;
    static const char *const CASES[][2] = {
        {"a  \n  {%- if  x %}\n b", "a{%if x%} b"},
        {"a\n  {% if x %}\n  b\n  {% endif %}\nc\n", "a\n{%if x%}  b\n{%endif%}c"},
        {"a\r\nb\r\n", "a\nb"},
        {"{{ '  a\n}}' }}\n x", "{{'  a\n}}'}}\n x"},
        {"{# note #}\nx {# note -#}\n y", "x y"},
        {"a {{- x -}} b", "a{{x}}b"},
        {"a {%+ if x %}", "a {%+ if x %}"},
        {"a {% if", "a {% if"},
        {"b {% if x %} {% endif %}", "b {%if x%} {%endif%}"},
        {"", ""},
        {"\n\n", "\n"},
        {"{%-%}{{-}}{%", "{%%}{{}}{%"},
    };
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        agl_buffer form;
        agl_buffer_init(&form, 0);
        agl_buffer_append_text(&form, "");
        assert_int_equal(agl_template_form(&form, CASES[i][0], strlen(CASES[i][0]), NULL), AGL_OK);
        assert_string_equal(form.data != NULL ? form.data : "", CASES[i][1]);
        agl_buffer_deinit(&form);
    }
}

static void write_file(const char *dir, const char *name, const char *text, size_t bytes)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static void remove_file(const char *dir, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(unlink(path), 0);
}

static void test_detect(void **state)
{
    (void)state;
    agl_error err = {0};
    agl_file_map map;
    assert_int_equal(agl_file_map_open(&map, TEMPLATE, &err), AGL_OK);
    char dir[] = "/tmp/agl-template-XXXXXX";
    assert_non_null(mkdtemp(dir));
    agl_template_family family;
    assert_int_equal(agl_template_detect(&family, dir, &err), AGL_OK);
    assert_int_equal(family, AGL_TEMPLATE_NONE);

    agl_buffer config;
    agl_buffer_init(&config, 0);
    agl_buffer_append_text(&config, "{\"chat_template\":[{\"name\":\"x\",\"template\":\"y\"},{\"name\":"
                                    "\"default\",\"template\":\"");
    agl_buffer_append_json(&config, (const char *)map.data, map.bytes);
    agl_buffer_append_text(&config, "\"}]}");
    write_file(dir, "tokenizer_config.json", config.data, config.bytes);
    assert_int_equal(agl_template_detect(&family, dir, &err), AGL_OK);
    assert_int_equal(family, AGL_TEMPLATE_GLM41V);

    write_file(dir, "chat_template.json", "{\"chat_template\":3}", 19);
    assert_int_equal(agl_template_detect(&family, dir, &err), AGL_ERR_FORMAT);
    write_file(dir, "chat_template.json", "{}", 2);
    assert_int_equal(agl_template_detect(&family, dir, &err), AGL_OK);
    assert_int_equal(family, AGL_TEMPLATE_GLM41V);

    write_file(dir, "chat_template.jinja", "{{ x }}", 7);
    assert_int_equal(agl_template_detect(&family, dir, &err), AGL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "chat_template.jinja"));
    assert_non_null(
        strstr(err.message, "e52c737297f7dad622da7e58f5a16e7437f2716daccb4da859fc567ccd75c9a4"));
    assert_int_equal(family, AGL_TEMPLATE_NONE);
    write_file(dir, "chat_template.jinja", (const char *)map.data, map.bytes);
    assert_int_equal(agl_template_detect(&family, dir, &err), AGL_OK);
    assert_string_equal(agl_template_family_name(family), "glm-4.1v");

    /* One word changed: another template. */
    char *changed = malloc(map.bytes);
    memcpy(changed, map.data, map.bytes);
    changed[1] = 'G';
    changed[2] = 'm';
    assert_int_equal(agl_template_recognise(&family, changed, map.bytes, "t", &err), AGL_ERR_UNSUPPORTED);
    free(changed);

    remove_file(dir, "chat_template.jinja");
    remove_file(dir, "chat_template.json");
    remove_file(dir, "tokenizer_config.json");
    assert_int_equal(rmdir(dir), 0);
    agl_buffer_deinit(&config);
    agl_file_map_close(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_render), cmocka_unit_test(test_no_template),
        cmocka_unit_test(test_form),   cmocka_unit_test(test_detect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
