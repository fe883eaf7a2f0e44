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
#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

#define FIXTURE "tests/fixtures/tokenizer/tokenizer.json"

static agl_tokenizer *open_fixture(void)
{
    agl_error err = {0};
    agl_tokenizer *tokenizer;
    if (agl_tokenizer_open(&tokenizer, FIXTURE, &err) != AGL_OK) fail_msg("%s", err.message);
    return tokenizer;
}

static agl_tokens encode(const agl_tokenizer *tokenizer, const agl_text_run *runs, size_t count)
{
    agl_tokens tokens = {0};
    agl_error err = {0};
    if (agl_tokenizer_encode(&tokens, tokenizer, runs, count, false, &err) != AGL_OK) fail_msg("%s", err.message);
    return tokens;
}

static void expect_same(const agl_tokenizer *tokenizer, const agl_text_run *a, size_t a_count,
                        const agl_text_run *b, size_t b_count)
{
    agl_tokens x = encode(tokenizer, a, a_count), y = encode(tokenizer, b, b_count);
    assert_int_equal(x.count, y.count);
    if (x.count > 0) assert_memory_equal(x.ids, y.ids, x.count * sizeof *x.ids);
    agl_tokens_deinit(&x);
    agl_tokens_deinit(&y);
}

static agl_text_run run(const char *text, bool trusted)
{
    return (agl_text_run){.text = text, .bytes = strlen(text), .trusted = trusted};
}

static void test_untrusted(void **state)
{
    (void)state;
    agl_tokenizer *tokenizer = open_fixture();
    int32_t user = agl_tokenizer_find(tokenizer, "<|user|>");
    assert_true(user > 0 && agl_tokenizer_is_special(tokenizer, user));
    int32_t think = agl_tokenizer_find(tokenizer, "<think>");
    assert_true(think > 0 && !agl_tokenizer_is_special(tokenizer, think));

    static const struct {
        const char *text[4];
        bool trusted[4];
        int users;
    } CASES[] = {
        {{"<|user|>"}, {true}, 1},
        {{"<|user|>"}, {false}, 0},
        {{"a<|user|>b<think>"}, {false}, 0},
        {{"<|user|>\n", "<|user|> x", "<|user|>"}, {true, false, true}, 2},
        {{"<|us", "er|>"}, {true, true}, 1},
        {{"<|us", "er|>"}, {true, false}, 0},
        {{"<|us", "er|>"}, {false, true}, 0},
        {{"<", "|user|", ">"}, {true, false, true}, 0},
        {{"<|user|>", "", "<|user|>"}, {true, false, true}, 2},
    };
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        agl_text_run runs[4];
        size_t count = 0;
        for (; count < 4 && CASES[i].text[count] != NULL; count++) {
            runs[count] = run(CASES[i].text[count], CASES[i].trusted[count]);
        }
        agl_tokens tokens = encode(tokenizer, runs, count);
        int users = 0;
        for (size_t k = 0; k < tokens.count; k++) {
            users += tokens.ids[k] == user;
            assert_true(tokens.ids[k] != think);
        }
        if (users != CASES[i].users) fail_msg("case %zu: %d tokens <|user|>", i, users);
        agl_tokens_deinit(&tokens);
    }
    agl_tokenizer_close(tokenizer);
}

/* How text is cut into runs and whom we trust does not change the ids of harmless text. */
static void test_runs_are_one_text(void **state)
{
    (void)state;
    agl_tokenizer *tokenizer = open_fixture();
    agl_text_run whole = run("<|user|>\n\n hello wor打开ld 12345<|assistant|>\n", true);
    agl_text_run parts[] = {run("<|user|>\n", true), run("\n hello w", false), run("or打", false),
                            run("开ld 12", true),    run("345", false),        run("<|assistant|>\n", true)};
    expect_same(tokenizer, &whole, 1, parts, AGL_COUNT(parts));
    expect_same(tokenizer, &whole, 0, parts, 0);
    agl_tokenizer_close(tokenizer);
}

static void test_invalid_utf8(void **state)
{
    (void)state;
    /* Right column: bytes.decode("utf-8", errors="replace") in Python. */
    static const char *const CASES[][2] = {
        {"a\xff" "b", "a\xef\xbf\xbd" "b"},
        {"\xe4\xbd", "\xef\xbf\xbd"},
        {"\xf0\x9f\x98x", "\xef\xbf\xbdx"},
        {"\xf0\x9f\x98", "\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe0\x80\xe4\xbd\xa0", "\xef\xbf\xbd\xef\xbf\xbd\xe4\xbd\xa0"},
        {"\x80\xe4\xbd\xe4\xbd\xa0", "\xef\xbf\xbd\xef\xbf\xbd\xe4\xbd\xa0"},
    };
    agl_tokenizer *tokenizer = open_fixture();
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        agl_text_run broken = run(CASES[i][0], true), repaired = run(CASES[i][1], true);
        expect_same(tokenizer, &broken, 1, &repaired, 1);
    }
    agl_tokenizer_close(tokenizer);
}

/* Every push gives whole characters, and their sum does not depend on how bytes meet tokens. */
static void test_detokenizer(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *text;
    } CASES[] = {
        {"plain", "plain"},
        {"\xe6\x89\x93\xe5\xbc\x80", "打开"},
        {"\xf0\x9f\x98\x80!", "😀!"},
        {"\xf0\x9f\xe6\x89\x93", "\xef\xbf\xbd打"},
        {"a\xe6\x89", "a\xef\xbf\xbd"},
        {"\xe6\x89\xff\x93", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\xf0\x9f\x98\x80", "\xef\xbf\xbd😀"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
    };
    agl_tokenizer *tokenizer = open_fixture();
    int32_t byte_id[256] = {0};
    for (int32_t id = 0; id < agl_tokenizer_vocab(tokenizer); id++) {
        size_t bytes;
        const char *text = agl_tokenizer_bytes(tokenizer, id, &bytes);
        if (bytes == 1) byte_id[(unsigned char)text[0]] = id;
    }
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        agl_detokenizer detokenizer;
        agl_detokenizer_init(&detokenizer, tokenizer, false);
        agl_buffer out;
        agl_buffer_init(&out, 0);
        agl_detokenizer_push(&detokenizer, agl_tokenizer_find(tokenizer, "<|user|>"), &out);
        for (const char *at = CASES[i].bytes; *at != '\0'; at++) {
            agl_detokenizer_push(&detokenizer, byte_id[(unsigned char)*at], &out);
            agl_detokenizer_push(&detokenizer, agl_tokenizer_find(tokenizer, "<|image|>"), &out);
            agl_detokenizer_push(&detokenizer, -1, &out);
            agl_detokenizer_push(&detokenizer, INT32_MAX, &out);
            assert_true(agl_utf8_is_valid(out.data, out.bytes));
        }
        agl_detokenizer_flush(&detokenizer, &out);
        agl_detokenizer_flush(&detokenizer, &out);
        assert_string_equal(out.data, CASES[i].text);
        agl_buffer_deinit(&out);
    }
    agl_tokenizer_close(tokenizer);
}

/* A small whole file: bytes a, b, c; "ab", "abc"; the table below swaps parts of it. */
#define MODEL_TAIL "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"abc\":4},\"merges\":[[\"a\",\"b\"],\"ab c\"]}"
#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"
#define HEAD "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,"
#define STAGES(normalizer, pre, post, decoder)                                                      \
    "\"normalizer\":" normalizer ",\"pre_tokenizer\":" pre ",\"post_processor\":" post ",\"decoder\":" decoder ","
#define USUAL STAGES("null", BYTE_LEVEL, "null", BYTE_LEVEL)
#define ADDED "\"added_tokens\":[{\"id\":5,\"content\":\"<x>\",\"special\":true,\"normalized\":false}],"
#define MODEL "\"model\":{\"type\":\"BPE\"," MODEL_TAIL "}"
#define MODEL_WITH(members) "\"model\":{\"type\":\"BPE\"," members "," MODEL_TAIL "}"

static void test_files(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        agl_status status;
        const char *message;    /* part of it */
    } CASES[] = {
        {HEAD ADDED USUAL MODEL, AGL_OK, NULL},
        {HEAD ADDED STAGES("{\"type\":\"Sequence\",\"normalizers\":[]}", BYTE_LEVEL, BYTE_LEVEL, BYTE_LEVEL) MODEL,
         AGL_OK, NULL},
        {HEAD USUAL MODEL_WITH("\"dropout\":0.0,\"unk_token\":\"\",\"fuse_unk\":true"), AGL_OK, NULL},
        {"", AGL_ERR_FORMAT, "JSON"},
        {"{", AGL_ERR_FORMAT, "JSON"},
        {"[]", AGL_ERR_FORMAT, "object"},
        {"{}", AGL_ERR_FORMAT, "model"},
        {HEAD "\"extra\":1," USUAL MODEL, AGL_ERR_UNSUPPORTED, "extra"},
        {"{\"version\":\"2.0\"," USUAL MODEL, AGL_ERR_UNSUPPORTED, "2.0"},
        {"{\"truncation\":{\"max_length\":5}," USUAL MODEL, AGL_ERR_UNSUPPORTED, "truncation"},
        {"{\"padding\":{\"strategy\":1}," USUAL MODEL, AGL_ERR_UNSUPPORTED, "padding"},
        {HEAD STAGES("{\"type\":\"NFC\"}", BYTE_LEVEL, "null", BYTE_LEVEL) MODEL,
         AGL_ERR_UNSUPPORTED, "NFC"},
        {HEAD STAGES("null", "null", "null", BYTE_LEVEL) MODEL, AGL_ERR_UNSUPPORTED, "pre_tokenizer"},
        {HEAD STAGES("null", "{\"type\":\"Digits\"}", "null", BYTE_LEVEL) MODEL,
         AGL_ERR_UNSUPPORTED, "Digits"},
        {HEAD STAGES("null", "{\"type\":\"ByteLevel\"}", "null", BYTE_LEVEL) MODEL,
         AGL_ERR_UNSUPPORTED, "add_prefix_space"},
        {HEAD STAGES("null", BYTE_LEVEL, "null", "null") MODEL, AGL_ERR_UNSUPPORTED, "decoder"},
        {HEAD STAGES("null", BYTE_LEVEL, "null", "{\"type\":\"WordPiece\"}") MODEL,
         AGL_ERR_UNSUPPORTED, "WordPiece"},
        {HEAD STAGES("null", BYTE_LEVEL, "{\"type\":\"BertProcessing\"}", BYTE_LEVEL) MODEL,
         AGL_ERR_UNSUPPORTED, "BertProcessing"},
        {HEAD STAGES("null", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\",\"invert\":false}", "null", BYTE_LEVEL) MODEL,
         AGL_ERR_FORMAT, "pattern"},
        {HEAD STAGES("null", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"^a\"},\"behavior\":\"Isolated\"}", "null", BYTE_LEVEL) MODEL,
         AGL_ERR_UNSUPPORTED, "^"},
        {HEAD STAGES("null", "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Isolated\"}", "null", BYTE_LEVEL) MODEL,
         AGL_ERR_UNSUPPORTED, "String"},
        {HEAD STAGES("null", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Removed\"}", "null", BYTE_LEVEL) MODEL,
         AGL_ERR_UNSUPPORTED, "Removed"},
        {HEAD STAGES("null", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Isolated\",\"invert\":true}", "null", BYTE_LEVEL) MODEL,
         AGL_ERR_UNSUPPORTED, "invert"},
        {HEAD USUAL "\"model\":{\"type\":\"Unigram\"}}", AGL_ERR_UNSUPPORTED, "Unigram"},
        {HEAD USUAL MODEL_WITH("\"dropout\":0.5"), AGL_ERR_UNSUPPORTED, "dropout"},
        {HEAD USUAL MODEL_WITH("\"type|dropout\":0.5"), AGL_ERR_UNSUPPORTED, "type|dropout"},
        {HEAD USUAL MODEL_WITH("\"unk_token\":\"a\""), AGL_ERR_UNSUPPORTED, "unk_token"},
        {HEAD USUAL MODEL_WITH("\"byte_fallback\":true"), AGL_ERR_UNSUPPORTED, "byte_fallback"},
        {HEAD USUAL MODEL_WITH("\"continuing_subword_prefix\":\"##\""),
         AGL_ERR_UNSUPPORTED, "continuing_subword_prefix"},
        {HEAD USUAL MODEL_WITH("\"end_of_word_suffix\":\"</w>\""),
         AGL_ERR_UNSUPPORTED, "end_of_word_suffix"},
        {HEAD USUAL MODEL_WITH("\"ignore_merges\":1"), AGL_ERR_FORMAT, "ignore_merges"},
        {HEAD USUAL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}",
         AGL_ERR_FORMAT, "id 0"},
        {HEAD USUAL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}",
         AGL_ERR_FORMAT, "id must be"},
        {HEAD USUAL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1048576},\"merges\":[]}}",
         AGL_ERR_FORMAT, "id must be"},
        {HEAD USUAL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0.5},\"merges\":[]}}",
         AGL_ERR_FORMAT, "id must be"},
        {HEAD USUAL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}",
         AGL_ERR_FORMAT, "merges[0]"},
        {HEAD USUAL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}",
         AGL_ERR_FORMAT, "merges[0]"},
        {HEAD USUAL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":{}}}",
         AGL_ERR_FORMAT, "merges"},
        {HEAD "\"added_tokens\":[{\"id\":0,\"content\":\"<x>\",\"special\":true}]," USUAL MODEL,
         AGL_ERR_FORMAT, "another token"},
        {HEAD "\"added_tokens\":[{\"id\":9,\"content\":\"ab\",\"special\":true}]," USUAL MODEL,
         AGL_ERR_FORMAT, "model.vocab"},
        {HEAD "\"added_tokens\":[{\"id\":9,\"content\":\"\",\"special\":true}]," USUAL MODEL,
         AGL_ERR_FORMAT, "content"},
        {HEAD "\"added_tokens\":[{\"id\":9,\"content\":\"y\",\"special\":true,\"single_word\":true}]," USUAL MODEL,
         AGL_ERR_UNSUPPORTED, "single_word"},
        {HEAD "\"added_tokens\":[{\"id\":9,\"content\":\"y\",\"special\":true},{\"id\":10,\"content\":\"y\",\"special\":true}]," USUAL MODEL,
         AGL_ERR_FORMAT, "twice"},
    };
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        agl_error err = {0};
        agl_tokenizer *tokenizer;
        agl_status status = agl_tokenizer_parse(&tokenizer, CASES[i].json, strlen(CASES[i].json), "t.json", &err);
        if (status != CASES[i].status) {
            fail_msg("case %zu: status %d (%s), expected %d", i, (int)status, err.message, (int)CASES[i].status);
        }
        assert_true((tokenizer != NULL) == (status == AGL_OK));
        if (CASES[i].message != NULL && strstr(err.message, CASES[i].message) == NULL) {
            fail_msg("case %zu: '%s' does not name '%s'", i, err.message, CASES[i].message);
        }
        agl_tokenizer_close(tokenizer);
    }
    agl_tokenizer *tokenizer;
    assert_int_equal(agl_tokenizer_open(&tokenizer, "tests/fixtures/tokenizer/absent", NULL), AGL_ERR_NOT_FOUND);
}

/* Merges by rank, not by the longest token; unknown bytes vanish. */
static void test_small_file(void **state)
{
    (void)state;
    static const char JSON[] = HEAD ADDED USUAL MODEL;
    agl_tokenizer *tokenizer;
    assert_int_equal(agl_tokenizer_parse(&tokenizer, JSON, sizeof JSON - 1, "t.json", NULL), AGL_OK);
    assert_int_equal(agl_tokenizer_vocab(tokenizer), 6);
    assert_int_equal(agl_tokenizer_find(tokenizer, "abc"), 4);
    assert_int_equal(agl_tokenizer_find(tokenizer, "<x>"), 5);
    assert_int_equal(agl_tokenizer_find(tokenizer, "zzz"), -1);
    size_t bytes;
    assert_null(agl_tokenizer_bytes(tokenizer, 6, &bytes));
    agl_text_run text = run("abcz<x>bab", true);
    agl_tokens tokens = encode(tokenizer, &text, 1);
    static const int32_t EXPECTED[] = {4, 5, 1, 3};
    assert_int_equal(tokens.count, AGL_COUNT(EXPECTED));
    assert_memory_equal(tokens.ids, EXPECTED, sizeof EXPECTED);
    agl_tokens_deinit(&tokens);

    static const struct {
        const char *json;
        int32_t token;
    } CONFIGS[] = {
        {"{\"eos_token\":\"<x>\"}", 5}, {"{\"eos_token\":{\"content\":\"<x>\",\"special\":true}}", 5},
        {"{\"eos_token\":\"<y>\"}", -1}, {"{\"eos_token\":null}", -1}, {"{}", -1}, {"[]", -1},
    };
    char path[] = "/tmp/tokenizer_config-XXXXXX";
    int file = mkstemp(path);
    int32_t end;
    assert_true(file >= 0);
    for (size_t i = 0; i < AGL_COUNT(CONFIGS); i++) {
        ssize_t length = (ssize_t)strlen(CONFIGS[i].json);
        assert_true(ftruncate(file, 0) == 0 && pwrite(file, CONFIGS[i].json, (size_t)length, 0) == length);
        assert_int_equal(agl_tokenizer_end_token(&end, tokenizer, path, NULL), AGL_OK);
        assert_int_equal(end, CONFIGS[i].token);
    }
    close(file);
    unlink(path);
    assert_int_equal(agl_tokenizer_end_token(&end, tokenizer, path, NULL), AGL_OK); /* no file */
    assert_int_equal(end, -1);
    agl_tokenizer_close(tokenizer);
}

/* One word of a million bytes: the heap, and a merge list that collapses all of it. */
static void test_long_word(void **state)
{
    (void)state;
    agl_tokenizer *tokenizer = open_fixture();
    size_t bytes = (size_t)1 << 20;
    char *text = malloc(bytes);
    assert_non_null(text);
    memset(text, 'a', bytes);
    agl_text_run runs[2] = {{.text = text, .bytes = bytes, .trusted = true}, run("b", false)};
    agl_tokens tokens = encode(tokenizer, runs, 2);
    agl_buffer out;
    agl_buffer_init(&out, 0);
    agl_detokenizer detokenizer;
    agl_detokenizer_init(&detokenizer, tokenizer, true);
    for (size_t i = 0; i < tokens.count; i++) agl_detokenizer_push(&detokenizer, tokens.ids[i], &out);
    assert_int_equal(out.bytes, bytes + 1);
    assert_memory_equal(out.data, text, bytes);
    agl_buffer_deinit(&out);
    agl_tokens_deinit(&tokens);
    free(text);
    agl_tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_untrusted),   cmocka_unit_test(test_runs_are_one_text),
        cmocka_unit_test(test_invalid_utf8), cmocka_unit_test(test_detokenizer),
        cmocka_unit_test(test_files),       cmocka_unit_test(test_small_file),
        cmocka_unit_test(test_long_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
