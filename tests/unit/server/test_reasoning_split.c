/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"
#include "server/reasoning_split.h"

static const struct {
    const char *text;
    bool inside;
    const char *reasoning, *content;
} CASES[] = {
    {"<think>a b</think>\n<answer>do(x)", false, "a b", "<answer>do(x)"},
    {"\n <think>\na\n</think>\n\nrest\n", false, "a\n", "rest\n"},
    {"no tags at all", false, "", "no tags at all"},
    {"  text <think>late</think>", false, "", "text <think>late</think>"},
    {"<thin", false, "", "<thin"},
    {"<thinking>x", false, "", "<thinking>x"},
    {"<think>never closed", false, "never closed", ""},
    {"<think>a < b </thin k></think>c", false, "a < b </thin k>", "c"},
    {"<think>a<<</think>c", false, "a<<", "c"},
    {"<think>a</</think>c", false, "a</", "c"},
    {"<think>skips the end <answer>do(1)", false, "skips the end ", "<answer>do(1)"},
    {"<think>a <ans</think>b", false, "a <ans", "b"},
    {"<think></think>x", false, "", "x"},
    {"<think>", false, "", ""},
    {"", false, "", ""},
    {"opened by the template</think>x", true, "opened by the template", "x"},
    {"<think>a</think>b<think>c</think>", false, "a", "b<think>c</think>"},
    {"<think>a</think>\n<think>", false, "a", "<think>"},
    {"<think>思考</think>答", false, "思考", "答"},
};

static void check(size_t index, size_t piece)
{
    agl_reasoning_split split;
    agl_buffer reasoning, content;
    agl_buffer_init(&reasoning, 0);
    agl_buffer_init(&content, 0);
    agl_reasoning_split_init(&split, CASES[index].inside);
    size_t bytes = strlen(CASES[index].text);
    for (size_t at = 0; at < bytes; at += piece) {
        size_t length = bytes - at < piece ? bytes - at : piece;
        agl_reasoning_split_push(&split, CASES[index].text + at, length, &reasoning, &content);
    }
    agl_reasoning_split_finish(&split, &reasoning, &content);
    assert_string_equal(reasoning.data != NULL ? reasoning.data : "", CASES[index].reasoning);
    assert_string_equal(content.data != NULL ? content.data : "", CASES[index].content);
    agl_buffer_deinit(&reasoning);
    agl_buffer_deinit(&content);
}

static void the_pieces_do_not_matter(void **state)
{
    (void)state;
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        for (size_t piece = 1; piece <= 40; piece++) check(i, piece);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_pieces_do_not_matter)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
