/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_tokenizer.c - the input up to the first NUL is a tokenizer.json, the rest a text that
 * is encoded with it, with trust changing along the way, and decoded again. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *json = (const char *)data;
    const uint8_t *end = size > 0 ? memchr(data, 0, size) : NULL;
    size_t json_bytes = end != NULL ? (size_t)(end - data) : size;
    agl_template_family family;
    (void)agl_template_recognise(&family, json, json_bytes, "fuzz", NULL);

    agl_tokenizer *tokenizer;
    agl_error err;
    if (agl_tokenizer_parse(&tokenizer, json, json_bytes, "fuzz", &err) != AGL_OK) return 0;
    const char *text = json;
    size_t bytes = size;
    if (end != NULL) {
        text = (const char *)end + 1;
        bytes = size - json_bytes - 1;
    }
    agl_text_run runs[3] = {
        {.text = text, .bytes = bytes / 3, .trusted = true},
        {.text = text + bytes / 3, .bytes = bytes / 3, .trusted = false},
        {.text = text + bytes / 3 * 2, .bytes = bytes - bytes / 3 * 2, .trusted = true},
    };
    agl_tokens tokens = {0};
    if (agl_tokenizer_encode(&tokens, tokenizer, runs, 3, true, &err) == AGL_OK) {
        agl_buffer out;
        agl_buffer_init(&out, 0);
        agl_detokenizer detokenizer;
        agl_detokenizer_init(&detokenizer, tokenizer, true);
        for (size_t i = 0; i < tokens.count; i++) {
            agl_detokenizer_push(&detokenizer, tokens.ids[i], &out);
            if (!agl_utf8_is_valid(out.data, out.bytes)) abort();
        }
        agl_detokenizer_flush(&detokenizer, &out);
        agl_buffer_deinit(&out);
    }
    agl_tokens_deinit(&tokens);
    agl_tokenizer_close(tokenizer);
    return 0;
}
