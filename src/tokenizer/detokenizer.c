/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8_repair.h"

void agl_detokenizer_init(agl_detokenizer *detokenizer, const agl_tokenizer *tokenizer,
                          bool keep_special)
{
    *detokenizer = (agl_detokenizer){.tokenizer = tokenizer, .keep_special = keep_special};
}

void agl_detokenizer_push(agl_detokenizer *detokenizer, int32_t id, agl_buffer *out)
{
    if (!detokenizer->keep_special && agl_tokenizer_is_special(detokenizer->tokenizer, id)) return;
    size_t bytes;
    const char *text = agl_tokenizer_bytes(detokenizer->tokenizer, id, &bytes);
    if (text == NULL) return; /* an id of the padded vocabulary: the network has it, the file not */

    char *held = (char *)detokenizer->held;
    while (detokenizer->held_bytes > 0 && bytes > 0) {
        held[detokenizer->held_bytes] = *text;
        size_t joined_bytes = detokenizer->held_bytes + 1;
        if (agl_utf8_is_incomplete(held, joined_bytes)) {
            detokenizer->held_bytes = joined_bytes;
        } else if (agl_utf8_character(held, joined_bytes) == joined_bytes) {
            agl_buffer_append(out, held, joined_bytes);
            detokenizer->held_bytes = 0;
        } else {
            /* This byte does not go on what is held: that is broken, the byte starts anew. */
            agl_detokenizer_flush(detokenizer, out);
            break;
        }
        text++;
        bytes--;
    }
    if (bytes == 0) return;
    size_t complete = agl_utf8_complete_prefix(text, bytes);
    agl_utf8_append_repaired(out, text, complete);
    assert(bytes - complete < sizeof detokenizer->held);
    memcpy(held, text + complete, bytes - complete);
    detokenizer->held_bytes = bytes - complete;
}

void agl_detokenizer_flush(agl_detokenizer *detokenizer, agl_buffer *out)
{
    agl_utf8_append_repaired(out, (const char *)detokenizer->held, detokenizer->held_bytes);
    detokenizer->held_bytes = 0;
}
