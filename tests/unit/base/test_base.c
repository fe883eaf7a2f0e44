/* SPDX-License-Identifier: Apache-2.0
 *
 * test_base.c - buffers, arenas, UTF-8, base64, number formats, JSON access, digests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/base64.h"
#include "base/buffer.h"
#include "base/digest.h"
#include "base/dtype.h"
#include "base/file_map.h"
#include "base/json.h"
#include "base/utf8.h"

static void test_error_is_one_line(void **state)
{
    (void)state;
    agl_error err;
    assert_int_equal(agl_fail(&err, AGL_ERR_FORMAT, "bad \"%s\"", "a\nb\tc\x7f"), AGL_ERR_FORMAT);
    assert_string_equal(err.message, "bad \"a b c \"");
    assert_int_equal(err.status, AGL_ERR_FORMAT);
    assert_int_equal(agl_fail(NULL, AGL_ERR_IO, "x"), AGL_ERR_IO);
    for (int i = 0; i < AGL_STATUS_COUNT; i++) assert_non_null(agl_status_text((agl_status)i));
    assert_string_equal(agl_status_text((agl_status)99), "unknown status");
}

static void test_arena(void **state)
{
    (void)state;
    agl_arena arena;
    agl_arena_init(&arena, 1 << 20);
    char *a = agl_arena_string(&arena, "hello", 5);
    char *big = agl_arena_alloc(&arena, 300000);
    assert_non_null(big);
    memset(big, 1, 300000);
    assert_string_equal(a, "hello");
    for (int i = 0; i < 1000; i++) {
        unsigned char *p = agl_arena_alloc(&arena, 100);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (int k = 0; k < 100; k++) assert_int_equal(p[k], 0);
        memset(p, 0xff, 100);
    }
    assert_null(agl_arena_alloc(&arena, 1 << 20));      /* over the limit */
    assert_null(agl_arena_alloc(&arena, SIZE_MAX));
    agl_arena_reset(&arena);
    assert_int_equal(arena.used_bytes, 0);
    unsigned char *again = agl_arena_alloc(&arena, 1000);
    for (int k = 0; k < 1000; k++) assert_int_equal(again[k], 0);
    agl_arena_deinit(&arena);
}

static void test_buffer_limit(void **state)
{
    (void)state;
    agl_buffer buffer;
    agl_buffer_init(&buffer, 10);
    agl_buffer_append_text(&buffer, "12345678");
    agl_buffer_append_text(&buffer, "abc");             /* 11 > 10: refused whole */
    assert_true(buffer.failed);
    assert_string_equal(buffer.data, "12345678");
    agl_buffer_append_char(&buffer, 'x');               /* stays failed */
    assert_int_equal(buffer.bytes, 8);
    agl_buffer_clear(&buffer);
    agl_buffer_append_format(&buffer, "%d-%s", 42, "ok");
    assert_string_equal(buffer.data, "42-ok");
    agl_buffer_consume(&buffer, 3);
    assert_string_equal(buffer.data, "ok");
    agl_buffer_deinit(&buffer);
}

static void test_buffer_json(void **state)
{
    (void)state;
    agl_buffer buffer;
    agl_buffer_init(&buffer, 0);
    const char text[] = "a\"b\\c\n\x01\x7f\xe4\xbd\xa0\xff\xe4\xbd!\xf0\x9f\x98\x80";
    agl_buffer_append_json(&buffer, text, sizeof text - 1);
    assert_string_equal(buffer.data, "a\\\"b\\\\c\\n\\u0001\\u007f\xe4\xbd\xa0\xef\xbf\xbd"
                                     "\xef\xbf\xbd\xef\xbf\xbd!\xf0\x9f\x98\x80");
    agl_buffer_deinit(&buffer);
}

static void test_utf8(void **state)
{
    (void)state;
    assert_true(agl_utf8_is_valid("\xe4\xbd\xa0\xf0\x9f\x98\x80z", 8));
    static const char *const INVALID[] = {"\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\x80",
                                          "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xc3", "\xff"};
    for (size_t i = 0; i < AGL_COUNT(INVALID); i++) {
        assert_false(agl_utf8_is_valid(INVALID[i], strlen(INVALID[i])));
    }
    assert_true(agl_utf8_is_incomplete("\xf0\x9f\x98", 3));
    assert_false(agl_utf8_is_incomplete("\xf0\x9f\x98\x80", 4));
    assert_false(agl_utf8_is_incomplete("\xed\xa0", 2));
    assert_int_equal(agl_utf8_complete_prefix("ab\xe4\xbd", 4), 2);
    assert_int_equal(agl_utf8_complete_prefix("ab\xe4\xbd\xa0", 5), 5);
    assert_int_equal(agl_utf8_complete_prefix("\x80\x80", 2), 2);
    assert_int_equal(agl_utf8_complete_prefix("", 0), 0);
}

static void test_base64_round_trip(void **state)
{
    (void)state;
    unsigned char data[100], back[200];
    char text[200];
    for (size_t bytes = 0; bytes < sizeof data; bytes++) {
        for (size_t i = 0; i < bytes; i++) data[i] = (unsigned char)(i * 37 + bytes);
        agl_base64_encode(text, data, bytes);
        size_t got;
        assert_int_equal(agl_base64_decode(back, &got, text, strlen(text), NULL), AGL_OK);
        assert_int_equal(got, bytes);
        assert_memory_equal(back, data, bytes);
    }
}

static void test_base64_forms(void **state)
{
    (void)state;
    static const struct { const char *text; const char *out; } CASES[] = {
        {"aGVsbG8=", "hello"}, {"aGVsbG8", "hello"}, {"aGVs\nbG8 =", "hello"}, {"", ""},
        {"-_-_", "\xfb\xff\xbf"}, {"YQ==", "a"}, {"YQ", "a"},
        {"a", NULL}, {"aGVsbG8==", NULL}, {"aG*s", NULL}, {"YQ==YQ==", NULL}, {"====", NULL},
        {"aGVsb", NULL},
    };
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        unsigned char out[64];
        size_t bytes;
        agl_error err = {0};
        agl_status status = agl_base64_decode(out, &bytes, CASES[i].text, strlen(CASES[i].text), &err);
        if (CASES[i].out == NULL) {
            assert_int_equal(status, AGL_ERR_FORMAT);
            assert_non_null(strstr(err.message, "base64"));
        } else {
            assert_int_equal(status, AGL_OK);
            assert_int_equal(bytes, strlen(CASES[i].out));
            assert_memory_equal(out, CASES[i].out, bytes);
        }
    }
}

static void test_number_formats(void **state)
{
    (void)state;
    /* Every binary16 and bfloat16 value survives the way to F32 and back. */
    for (uint32_t v = 0; v < 65536; v++) {
        float f = agl_f16_to_f32((uint16_t)v);
        if (!isnan(f)) assert_int_equal(agl_f32_to_f16(f), v);
        float b = agl_bf16_to_f32((uint16_t)v);
        if (!isnan(b)) assert_int_equal(agl_f32_to_bf16(b), v);
    }
    assert_int_equal(agl_f32_to_f16(65504.0f), 0x7bff);
    assert_int_equal(agl_f32_to_f16(65519.9f), 0x7bff);
    assert_int_equal(agl_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(agl_f32_to_f16(0x1p-25f), 0);           /* ties to even */
    assert_int_equal(agl_f32_to_f16(0x1.8p-25f), 1);
    assert_int_equal(agl_f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
    assert_int_equal(agl_f32_to_f16(1.0f + 0x1.8p-10f), 0x3c02);
    assert_true(isnan(agl_f16_to_f32(agl_f32_to_f16(NAN))));
    assert_int_equal(agl_f32_to_bf16(1.0f + 0x1p-8f), 0x3f80); /* tie to even */
    assert_true(isnan(agl_bf16_to_f32(agl_f32_to_bf16(NAN))));
    assert_int_equal(agl_dtype_from_safetensors("BF16", 4), AGL_BF16);
    assert_int_equal(agl_dtype_from_safetensors("BF1", 3), AGL_DTYPE_COUNT);
}

static void test_json(void **state)
{
    (void)state;
    static const char *const REFUSED[] = {
        "", "{", "{\"a\":1}x", "['a']", "[1,]", "{\"a\":1,}", "\"\xff\"", "nul", "[1] [2]", "{\"a\" 1}",
        "\x00", "// c\n1", "01", "[+1]", "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", "\"0123456789abc\xf5\"",
        /* What json-c itself would take. */
        "{'a':1}", "{\"a\":1,'b':2}", "[NaN]", "{\"a\":Infinity}", "-Infinity", "[-NaN]", "[1.]", "[-1.e5]",
        "[00]", "[-01.5]", "\"a\tb\"", "\"0123456789\n\"", "[\"\\\\\x1f\"]", "\"\\u12",
        /* And more of what it refuses. */
        "[.5]", "[1e]", "[1.5e+]", "[0x10]", "[1-2]", "[--1]", "/**/1", "{a:1}", "\f1", "[True]", "\"\\",
        "\"\\x41\"", "[1 2]",
    };
    struct json_object *value;
    for (size_t i = 0; i < AGL_COUNT(REFUSED); i++) {
        agl_error err;
        size_t bytes = i == 10 ? 1 : strlen(REFUSED[i]);
        if (agl_json_parse(&value, REFUSED[i], bytes, "body", &err) == AGL_OK) fail_msg("accepted: %s", REFUSED[i]);
        assert_null(value);
        assert_ptr_equal(strstr(err.message, "body: "), err.message);
    }
    static const char *const TAKEN[] = {
        "[0, -0, 0.5, -0.0e0, 10e-007, 1E+05, 1.25e00]", "[true, false, null]", "\"it's 'quoted' NaN\\n\\\"\"",
        "\"\\\\\"", "\"0123456\\\"'\"", "\"\\ud83d\\ude00 \\ud800\"", "\"\x7f\xc2\x80 \xe4\xbd\xa0\"",
    };
    for (size_t i = 0; i < AGL_COUNT(TAKEN); i++) {
        agl_error err = {0};
        if (agl_json_parse(&value, TAKEN[i], strlen(TAKEN[i]), "body", &err) != AGL_OK) fail_msg("%s", err.message);
        json_object_put(value);
    }
    char deep[400];
    memset(deep, '[', sizeof deep);
    assert_int_not_equal(agl_json_parse(&value, deep, sizeof deep, "body", NULL), AGL_OK);

    /* A number alone ends with the text. */
    assert_int_equal(agl_json_parse(&value, "5000000", 7, "body", NULL), AGL_OK);
    assert_int_equal(json_object_get_int64(value), 5000000);
    json_object_put(value);

    const char *text = " {\"i\": 3, \"f\": 2.0, \"s\": \"x\", \"n\": null, \"b\": true} \n";
    assert_int_equal(agl_json_parse(&value, text, strlen(text), "f.json", NULL), AGL_OK);
    int64_t i = 7;
    double d;
    bool b = false;
    const char *s;
    agl_error err;
    assert_int_equal(agl_json_get_int(&i, value, "i", 0, 5, true, "f.json", &err), AGL_OK);
    assert_int_equal(i, 3);
    assert_int_equal(agl_json_get_int(&i, value, "f", 0, 5, true, "f.json", &err), AGL_OK);
    assert_int_equal(i, 2);
    assert_int_equal(agl_json_get_int(&i, value, "i", 5, 9, true, "f.json", &err), AGL_ERR_ARGUMENT);
    assert_string_equal(err.message, "f.json: i is 3, a value in [5, 9] expected");
    assert_int_equal(agl_json_get_int(&i, value, "s", 0, 5, true, "f.json", &err), AGL_ERR_FORMAT);
    assert_string_equal(err.message, "f.json: s is \"x\", an integer expected");
    assert_int_equal(agl_json_get_int(&i, value, "none", 0, 5, true, "f.json", &err), AGL_ERR_NOT_FOUND);
    assert_string_equal(err.message, "f.json: none is missing, an integer expected");
    i = 9;
    assert_int_equal(agl_json_get_int(&i, value, "n", 0, 5, false, "f.json", &err), AGL_OK);
    assert_int_equal(i, 9); /* null counts as absent */
    assert_int_equal(agl_json_get_double(&d, value, "f", 0, 5, true, "f.json", &err), AGL_OK);
    assert_int_equal(agl_json_get_bool(&b, value, "b", true, "f.json", &err), AGL_OK);
    assert_true(b);
    assert_int_equal(agl_json_get_string(&s, value, "s", true, "f.json", &err), AGL_OK);
    assert_string_equal(s, "x");
    assert_int_equal(agl_json_get_string(&s, value, "i", true, "f.json", &err), AGL_ERR_FORMAT);
    json_object_put(value);
}

static void test_digest(void **state)
{
    (void)state;
    /* FIPS 180-4 example: SHA-256("abc"). */
    static const uint8_t ABC[32] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
                                    0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
                                    0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
    agl_digest digest = agl_sha256("abc", 3);
    assert_memory_equal(digest.bytes, ABC, 32);
    agl_digest_part ab_c[] = {{"ab", 2}, {"c", 1}}, a_bc[] = {{"a", 1}, {"bc", 2}};
    agl_digest x = agl_digest_of(ab_c, 2), y = agl_digest_of(a_bc, 2), z = agl_digest_of(ab_c, 2);
    assert_false(agl_digest_equal(&x, &y));
    assert_true(agl_digest_equal(&x, &z));
}

static void test_files(void **state)
{
    (void)state;
    agl_file_map map;
    agl_error err;
    char *text;
    size_t bytes;
    assert_int_equal(agl_file_map_open(&map, "/nonexistent/x", &err), AGL_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "/nonexistent/x"));
    assert_int_equal(agl_file_map_open(&map, "/", &err), AGL_ERR_IO);
    assert_int_equal(agl_file_map_open(&map, "LICENSE", &err), AGL_OK);
    assert_int_equal(agl_file_read(&text, &bytes, "LICENSE", 1 << 20, &err), AGL_OK);
    assert_int_equal(bytes, map.bytes);
    assert_memory_equal(text, map.data, bytes);
    free(text);
    agl_file_map_close(&map);
    assert_int_equal(agl_file_read(&text, &bytes, "LICENSE", 10, &err), AGL_ERR_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_is_one_line), cmocka_unit_test(test_arena),
        cmocka_unit_test(test_buffer_limit),      cmocka_unit_test(test_buffer_json),
        cmocka_unit_test(test_utf8),              cmocka_unit_test(test_base64_round_trip),
        cmocka_unit_test(test_base64_forms),      cmocka_unit_test(test_number_formats),
        cmocka_unit_test(test_json),              cmocka_unit_test(test_digest),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
