/* SPDX-License-Identifier: Apache-2.0
 *
 * test_tokenizer_lines.c - ids and texts as Hugging Face has them.
 *
 * Without arguments: the committed vectors of make_tokenizer_vectors.py. With arguments it is
 * a tool that test_tokenizer_hf.py compares on many more lines:
 *
 *     test_tokenizer_lines encode|encode-special TOKENIZER.json LINES   LINES: u32 length, bytes, ...
 *     test_tokenizer_lines decode|decode-keep    TOKENIZER.json LISTS   LISTS: u32 count, u32 ids, ...
 *     test_tokenizer_lines time                  TOKENIZER.json TEXT    prints seconds, MB/s
 *
 * encode prints the ids of a line per line; decode writes u32 length, bytes of each text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file_map.h"
#include "base/json.h"
#include "tokenizer/tokenizer.h"

#define FIXTURES "tests/fixtures/tokenizer/"

static agl_tokens encode(const agl_tokenizer *tokenizer, const char *text, size_t bytes, bool special)
{
    agl_tokens tokens = {0};
    agl_error err = {0};
    agl_text_run run = {.text = text, .bytes = bytes, .trusted = true};
    if (agl_tokenizer_encode(&tokens, tokenizer, &run, 1, special, &err) != AGL_OK)
        fail_msg("%s", err.message);
    return tokens;
}

static void decode(agl_buffer *out, const agl_tokenizer *tokenizer, const int32_t *ids, size_t count,
                   bool keep_special)
{
    agl_detokenizer detokenizer;
    agl_detokenizer_init(&detokenizer, tokenizer, keep_special);
    for (size_t i = 0; i < count; i++) agl_detokenizer_push(&detokenizer, ids[i], out);
    agl_detokenizer_flush(&detokenizer, out);
}

static void expect_decoded(const agl_tokenizer *tokenizer, const agl_tokens *tokens, bool keep_special,
                           struct json_object *expected)
{
    agl_buffer text;
    agl_buffer_init(&text, 0);
    decode(&text, tokenizer, tokens->ids, tokens->count, keep_special);
    assert_int_equal(text.bytes, json_object_get_string_len(expected));
    if (text.bytes > 0) assert_memory_equal(text.data, json_object_get_string(expected), text.bytes);
    agl_buffer_deinit(&text);
}

static void test_vectors(void **state)
{
    (void)state;
    agl_error err = {0};
    agl_tokenizer *tokenizer;
    struct json_object *root;
    if (agl_tokenizer_open(&tokenizer, FIXTURES "tokenizer.json", &err) != AGL_OK)
        fail_msg("%s", err.message);
    if (agl_json_load(&root, FIXTURES "lines.json", (size_t)16 << 20, &err) != AGL_OK)
        fail_msg("%s", err.message);

    struct json_object *lines = agl_json_member(root, "encode");
    assert_true(json_object_array_length(lines) >= 500);
    for (size_t i = 0; i < json_object_array_length(lines); i++) {
        struct json_object *line = json_object_array_get_idx(lines, i);
        struct json_object *text = json_object_array_get_idx(line, 0),
                           *ids = json_object_array_get_idx(line, 1);
        agl_tokens tokens = encode(tokenizer, json_object_get_string(text),
                                   (size_t)json_object_get_string_len(text), false);
        if (tokens.count != json_object_array_length(ids)) {
            fail_msg("line %zu: %zu tokens, expected %zu", i, tokens.count, json_object_array_length(ids));
        }
        for (size_t k = 0; k < tokens.count; k++) {
            assert_int_equal(tokens.ids[k], json_object_get_int(json_object_array_get_idx(ids, k)));
        }
        expect_decoded(tokenizer, &tokens, true, text);
        agl_tokens_deinit(&tokens);
    }

    struct json_object *lists = agl_json_member(root, "decode");
    assert_true(json_object_array_length(lists) >= 100);
    for (size_t i = 0; i < json_object_array_length(lists); i++) {
        struct json_object *entry = json_object_array_get_idx(lists, i),
                           *ids = json_object_array_get_idx(entry, 0);
        agl_tokens tokens = {0};
        for (size_t k = 0; k < json_object_array_length(ids); k++) {
            int32_t id = json_object_get_int(json_object_array_get_idx(ids, k));
            assert_int_equal(agl_tokens_append(&tokens, id, 1, NULL), AGL_OK);
        }
        expect_decoded(tokenizer, &tokens, true, json_object_array_get_idx(entry, 1));
        expect_decoded(tokenizer, &tokens, false, json_object_array_get_idx(entry, 2));
        agl_tokens_deinit(&tokens);
    }
    json_object_put(root);
    agl_tokenizer_close(tokenizer);
}

static void run_time(const agl_tokenizer *tokenizer, const agl_file_map *map, double load_s)
{
    double begin = agl_clock_s();
    agl_tokens tokens = encode(tokenizer, (const char *)map->data, map->bytes, false);
    double encode_s = agl_clock_s() - begin;
    printf("load %.3f s, %zu bytes, %zu tokens, %.1f MB/s\n", load_s, map->bytes, tokens.count,
           (double)map->bytes / 1e6 / encode_s);
    agl_tokens_deinit(&tokens);
}

static void run_records(const agl_tokenizer *tokenizer, const agl_file_map *map, const char *mode)
{
    bool decoding = strncmp(mode, "decode", 6) == 0;
    for (size_t at = 0; at + 4 <= map->bytes;) {
        uint32_t length;
        memcpy(&length, map->data + at, sizeof length);
        const unsigned char *record = map->data + at + 4;
        at += 4 + (size_t)length * (decoding ? 4 : 1);
        if (decoding) {
            agl_buffer text;
            agl_buffer_init(&text, 0);
            decode(&text, tokenizer, (const int32_t *)(const void *)record, length,
                   strcmp(mode, "decode-keep") == 0);
            uint32_t bytes = (uint32_t)text.bytes;
            fwrite(&bytes, sizeof bytes, 1, stdout);
            if (bytes > 0) fwrite(text.data, 1, bytes, stdout);
            agl_buffer_deinit(&text);
            continue;
        }
        agl_tokens tokens =
            encode(tokenizer, (const char *)record, length, strcmp(mode, "encode-special") == 0);
        for (size_t i = 0; i < tokens.count; i++) printf("%s%d", i > 0 ? " " : "", (int)tokens.ids[i]);
        printf("\n");
        agl_tokens_deinit(&tokens);
    }
}

static int run_tool(char **argv)
{
    agl_error err = {0};
    agl_tokenizer *tokenizer = NULL;
    agl_file_map map = {0};
    double begin = agl_clock_s();
    agl_status status = agl_tokenizer_open(&tokenizer, argv[2], &err);
    double load_s = agl_clock_s() - begin;
    if (status == AGL_OK) status = agl_file_map_open(&map, argv[3], &err);
    if (status != AGL_OK) fprintf(stderr, "%s\n", err.message);
    else if (strcmp(argv[1], "time") == 0) run_time(tokenizer, &map, load_s);
    else run_records(tokenizer, &map, argv[1]);
    agl_file_map_close(&map);
    agl_tokenizer_close(tokenizer);
    return status == AGL_OK ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 4) return run_tool(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
