/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer_json.c - reads tokenizer.json. Every key is honoured or refused with its name:
 * a tokenizer that is nearly right would give wrong prompts without a word. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file_map.h"
#include "base/json.h"
#include "tokenizer/tokenizer_state.h"

#define FILE_BYTES_MAX ((size_t)512 << 20)
#define SEQUENCE_DEPTH_MAX 8

/* GPT-2's own pattern, which a ByteLevel pre-tokenizer with use_regex applies. */
static const char BYTE_LEVEL_PATTERN[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

typedef struct json_object json;

typedef struct {
    agl_tokenizer *tokenizer;
    const char *name;           /* of the file, opens every message */
    bool has_byte_level;        /* the pre-tokenizer ended in ByteLevel */
    bool has_decoder;
    bool has_template;
    agl_error *err;
} reader;

static agl_status refuse(const reader *r, const char *where, const char *what)
{
    return agl_fail(r->err, AGL_ERR_UNSUPPORTED, "%s: %s: %s is not supported", r->name, where, what);
}

/* `keys` is a list such as "type|pattern|"; any other key of the object is refused. */
static agl_status check_keys(const reader *r, json *object, const char *where, const char *keys)
{
    if (!json_object_is_type(object, json_type_object)) {
        return agl_fail(r->err, AGL_ERR_FORMAT, "%s: %s: an object is expected", r->name, where);
    }
    json_object_object_foreach(object, key, value) {
        (void)value;
        size_t length = strlen(key);
        const char *at = keys;
        while (*at != '\0' && !(strncmp(at, key, length) == 0 && at[length] == '|')) {
            at = strchr(at, '|') + 1;
        }
        if (*at == '\0' || length == 0 || strchr(key, '|') != NULL) return refuse(r, where, *key != '\0' ? key : "an empty key");
    }
    return AGL_OK;
}

static agl_status read_string(const reader *r, json *object, const char *key, const char **out)
{
    return agl_json_get_string(out, object, key, true, r->name, r->err);
}

/* A member that must be null, absent or of no effect. */
static agl_status expect_null(const reader *r, json *object, const char *key)
{
    json *value = agl_json_member(object, key);
    if (value == NULL) return AGL_OK;
    if (json_object_is_type(value, json_type_string) && json_object_get_string_len(value) == 0)
        return AGL_OK;
    if (json_object_is_type(value, json_type_double) && json_object_get_double(value) == 0.0)
        return AGL_OK;
    char what[256];
    snprintf(what, sizeof what, "%s %.100s", key, json_object_to_json_string(value));
    return refuse(r, "tokenizer", what);
}

static agl_status expect_bool(const reader *r, json *object, const char *key, bool expected,
                              bool absent, const char *where)
{
    bool value = absent;
    AGL_TRY(agl_json_get_bool(&value, object, key, false, r->name, r->err));
    if (value == expected) return AGL_OK;
    char what[64];
    snprintf(what, sizeof what, "%s %s", key, value ? "true" : "false");
    return refuse(r, where, what);
}

static agl_status read_id(const reader *r, json *value, const char *what, int32_t *out)
{
    int64_t id = json_object_is_type(value, json_type_int) ? json_object_get_int64(value) : -1;
    if (id < 0 || id > AGL_VOCAB_ID_MAX) {
        return agl_fail(r->err, AGL_ERR_FORMAT, "%s: %.100s: the id must be 0..%d", r->name, what,
                        AGL_VOCAB_ID_MAX);
    }
    *out = (int32_t)id;
    return AGL_OK;
}

/* ---- model ------------------------------------------------------------- */

static agl_status read_vocab(reader *r, json *model)
{
    json *vocab = agl_json_member(model, "vocab");
    if (!json_object_is_type(vocab, json_type_object)) {
        return agl_fail(r->err, AGL_ERR_FORMAT, "%s: model.vocab: an object is expected", r->name);
    }
    size_t count = (size_t)json_object_object_length(vocab);
    agl_vocab *tokens = &r->tokenizer->vocab;
    AGL_TRY(agl_vocab_init(tokens, count, r->err));
    agl_buffer bytes;
    agl_buffer_init(&bytes, 0);
    agl_status status = AGL_OK;
    json_object_object_foreach(vocab, spelling, value) {
        int32_t id = 0;
        status = read_id(r, value, spelling, &id);
        if (status != AGL_OK) break;
        agl_buffer_clear(&bytes);
        bool byte_level = agl_vocab_spelling_decode(&bytes, spelling, strlen(spelling));
        if (bytes.failed) {
            status = agl_fail(r->err, AGL_ERR_MEMORY, "%s: no memory for the vocabulary", r->name);
        } else {
            status = agl_vocab_insert(tokens, id, bytes.bytes > 0 ? bytes.data : "", bytes.bytes,
                                      byte_level, r->name, r->err);
        }
        if (status != AGL_OK) break;
    }
    agl_buffer_deinit(&bytes);
    return status;
}

/* Both halves of a merge, as views: ["a", "b"] or the older "a b". */
static bool merge_halves(json *merge, const char *half[2], size_t bytes[2])
{
    if (json_object_is_type(merge, json_type_array)) {
        if (json_object_array_length(merge) != 2) return false;
        for (size_t i = 0; i < 2; i++) {
            json *part = json_object_array_get_idx(merge, i);
            if (!json_object_is_type(part, json_type_string)) return false;
            half[i] = json_object_get_string(part);
            bytes[i] = (size_t)json_object_get_string_len(part);
        }
        return true;
    }
    if (!json_object_is_type(merge, json_type_string)) return false;
    const char *text = json_object_get_string(merge);
    const char *space = strchr(text, ' ');
    if (space == NULL || strchr(space + 1, ' ') != NULL) return false;
    half[0] = text;
    bytes[0] = (size_t)(space - text);
    half[1] = space + 1;
    bytes[1] = strlen(space + 1);
    return true;
}

static agl_status read_merge(reader *r, json *merge, size_t index, agl_buffer *joined)
{
    const agl_vocab *vocab = &r->tokenizer->vocab;
    const char *half[2];
    size_t bytes[2];
    if (!merge_halves(merge, half, bytes)) {
        return agl_fail(r->err, AGL_ERR_FORMAT, "%s: model.merges[%zu]: two tokens are expected",
                        r->name, index);
    }
    agl_buffer_clear(joined);
    bool byte_level = agl_vocab_spelling_decode(joined, half[0], bytes[0]);
    size_t left_bytes = joined->bytes;
    if (byte_level) byte_level = agl_vocab_spelling_decode(joined, half[1], bytes[1]);
    if (joined->failed)
        return agl_fail(r->err, AGL_ERR_MEMORY, "%s: no memory for the merges", r->name);
    int32_t left = -1, right = -1, merged = -1;
    if (byte_level && joined->bytes > 0) {
        left = agl_vocab_find(vocab, joined->data, left_bytes);
        right = agl_vocab_find(vocab, joined->data + left_bytes, joined->bytes - left_bytes);
        merged = agl_vocab_find(vocab, joined->data, joined->bytes);
    }
    if (left < 0 || right < 0 || merged < 0) {
        return agl_fail(r->err, AGL_ERR_FORMAT,
                        "%s: model.merges[%zu]: '%.*s' and '%.*s' or their union is not a token",
                        r->name, index, (int)(bytes[0] < 100 ? bytes[0] : 100), half[0],
                        (int)(bytes[1] < 100 ? bytes[1] : 100), half[1]);
    }
    agl_bpe_insert(&r->tokenizer->bpe, left, right, merged);
    return AGL_OK;
}

static agl_status read_merges(reader *r, json *model)
{
    json *merges = agl_json_member(model, "merges");
    if (!json_object_is_type(merges, json_type_array)) {
        return agl_fail(r->err, AGL_ERR_FORMAT, "%s: model.merges: a list is expected", r->name);
    }
    size_t count = json_object_array_length(merges);
    AGL_TRY(agl_bpe_init(&r->tokenizer->bpe, &r->tokenizer->vocab, count, r->err));
    agl_buffer joined;
    agl_buffer_init(&joined, 0);
    agl_status status = AGL_OK;
    for (size_t i = 0; i < count && status == AGL_OK; i++) {
        json *merge = json_object_array_get_idx(merges, i);
        const char *text =
            json_object_is_type(merge, json_type_string) ? json_object_get_string(merge) : "";
        if (strncmp(text, "#version", 8) == 0) continue; /* the head line of a merges.txt */
        status = read_merge(r, merge, i, &joined);
    }
    agl_buffer_deinit(&joined);
    return status;
}

static agl_status read_model(reader *r, json *root)
{
    json *model = agl_json_member(root, "model");
    AGL_TRY(check_keys(r, model, "model",
                       "type|dropout|unk_token|continuing_subword_prefix|end_of_word_suffix|fuse_unk|"
                       "byte_fallback|ignore_merges|vocab|merges|"));
    const char *type;
    AGL_TRY(read_string(r, model, "type", &type));
    if (strcmp(type, "BPE") != 0) return refuse(r, "model.type", type);
    AGL_TRY(expect_null(r, model, "dropout"));
    AGL_TRY(expect_null(r, model, "continuing_subword_prefix"));
    AGL_TRY(expect_null(r, model, "end_of_word_suffix"));
    AGL_TRY(read_vocab(r, model));
    AGL_TRY(read_merges(r, model));
    AGL_TRY(agl_json_get_bool(&r->tokenizer->bpe.ignore_merges, model, "ignore_merges", false, r->name,
                              r->err));

    /* An unknown token, fused or not, and byte fallback only matter for bytes that are no token. */
    bool complete = true;
    for (int byte = 0; byte < 256; byte++)
        complete = complete && r->tokenizer->vocab.byte_id[byte] >= 0;
    if (complete) return AGL_OK;
    AGL_TRY(expect_null(r, model, "unk_token"));
    return expect_bool(r, model, "byte_fallback", false, false, "model");
}

/* ---- added tokens ------------------------------------------------------ */

static agl_status read_added_token(reader *r, json *object, size_t index)
{
    char where[64];
    snprintf(where, sizeof where, "added_tokens[%zu]", index);
    AGL_TRY(check_keys(r, object, where, "id|content|single_word|lstrip|rstrip|normalized|special|"));
    AGL_TRY(expect_bool(r, object, "single_word", false, false, where));
    agl_tokenizer *tokenizer = r->tokenizer;
    agl_added_token token = {0};
    const char *content;
    AGL_TRY(read_string(r, object, "content", &content));
    AGL_TRY(read_id(r, agl_json_member(object, "id"), where, &token.id));
    AGL_TRY(agl_json_get_bool(&token.special, object, "special", true, r->name, r->err));
    AGL_TRY(agl_json_get_bool(&token.lstrip, object, "lstrip", false, r->name, r->err));
    AGL_TRY(agl_json_get_bool(&token.rstrip, object, "rstrip", false, r->name, r->err));
    AGL_TRY(agl_json_get_bool(&token.normalized, object, "normalized", false, r->name, r->err));
    size_t bytes = (size_t)json_object_get_string_len(agl_json_member(object, "content"));
    if (bytes == 0 || bytes > 4096) {
        return agl_fail(r->err, AGL_ERR_FORMAT, "%s: %s: content of %zu bytes, 1..4096 are allowed",
                        r->name, where, bytes);
    }
    token.text = (char *)(uintptr_t)content; /* only read: the insert copies it */
    token.bytes = (uint32_t)bytes;
    if (agl_added_tokens_find(&tokenizer->added, content, bytes) != NULL) {
        return agl_fail(r->err, AGL_ERR_FORMAT, "%s: %s: '%.100s' is listed twice", r->name, where,
                        content);
    }

    /* A decoder turns the spelling into bytes, of added tokens too. */
    agl_buffer decoded;
    agl_buffer_init(&decoded, 0);
    agl_vocab_spelling_decode(&decoded, content, bytes);
    agl_status status = AGL_OK;
    size_t known_bytes;
    const char *known = agl_vocab_bytes(&tokenizer->vocab, token.id, &known_bytes);
    int32_t same = decoded.failed ? -1 : agl_vocab_find(&tokenizer->vocab, decoded.data, decoded.bytes);
    if (decoded.failed) {
        status = agl_fail(r->err, AGL_ERR_MEMORY, "%s: no memory for the added tokens", r->name);
    } else if (same >= 0 && same != token.id) {
        status =
            agl_fail(r->err, AGL_ERR_FORMAT, "%s: %s: '%.100s' has id %d here and %d in model.vocab",
                     r->name, where, content, (int)token.id, (int)same);
    } else if (known == NULL) {
        status = agl_vocab_insert(&tokenizer->vocab, token.id, decoded.data, decoded.bytes, false,
                                  r->name, r->err);
    } else if (known_bytes != decoded.bytes || memcmp(known, decoded.data, known_bytes) != 0) {
        status = agl_fail(r->err, AGL_ERR_FORMAT, "%s: %s: id %d is another token in model.vocab",
                          r->name, where, (int)token.id);
    }
    agl_buffer_deinit(&decoded);
    AGL_TRY(status);
    return agl_added_tokens_insert(&tokenizer->added, &token, r->err);
}

static agl_status read_added_tokens(reader *r, json *root)
{
    agl_tokenizer *tokenizer = r->tokenizer;
    json *list = agl_json_member(root, "added_tokens");
    if (list != NULL && !json_object_is_type(list, json_type_array)) {
        return agl_fail(r->err, AGL_ERR_FORMAT, "%s: added_tokens: a list is expected", r->name);
    }
    size_t count = list != NULL ? json_object_array_length(list) : 0;
    for (size_t i = 0; i < count; i++) {
        AGL_TRY(read_added_token(r, json_object_array_get_idx(list, i), i));
    }
    agl_added_tokens_seal(&tokenizer->added);
    tokenizer->special = calloc((size_t)tokenizer->vocab.size + 1, 1);
    if (tokenizer->special == NULL) {
        return agl_fail(r->err, AGL_ERR_MEMORY, "%s: no memory for the vocabulary", r->name);
    }
    for (size_t i = 0; i < tokenizer->added.count; i++) {
        const agl_added_token *token = &tokenizer->added.tokens[i];
        tokenizer->special[token->id] = token->special;
    }
    return AGL_OK;
}

/* ---- stages that may stand in a Sequence ------------------------------- */

typedef agl_status (*read_stage_fn)(reader *r, json *stage, const char *type, int depth);

static agl_status read_stage(reader *r, json *stage, const char *where, const char *list_key,
                             read_stage_fn read, int depth)
{
    if (stage == NULL) return AGL_OK;
    if (!json_object_is_type(stage, json_type_object)) {
        return agl_fail(r->err, AGL_ERR_FORMAT, "%s: %s: an object is expected", r->name, where);
    }
    const char *type;
    AGL_TRY(read_string(r, stage, "type", &type));
    if (strcmp(type, "Sequence") != 0) return read(r, stage, type, depth);
    char keys[64];
    snprintf(keys, sizeof keys, "type|%s|", list_key);
    AGL_TRY(check_keys(r, stage, where, keys));
    json *list = agl_json_member(stage, list_key);
    if (!json_object_is_type(list, json_type_array) || depth == SEQUENCE_DEPTH_MAX) {
        return agl_fail(r->err, AGL_ERR_FORMAT, "%s: %s.%s: a list is expected", r->name, where,
                        list_key);
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        AGL_TRY(read_stage(r, json_object_array_get_idx(list, i), where, list_key, read, depth + 1));
    }
    return AGL_OK;
}

static agl_status read_normalizer(reader *r, json *stage, const char *type, int depth)
{
    (void)stage, (void)depth;
    return refuse(r, "normalizer", type);
}

static agl_status read_split(reader *r, json *stage)
{
    AGL_TRY(check_keys(r, stage, "pre_tokenizer.Split", "type|pattern|behavior|invert|"));
    const char *behavior;
    AGL_TRY(read_string(r, stage, "behavior", &behavior));
    if (strcmp(behavior, "Isolated") != 0) return refuse(r, "pre_tokenizer.Split: behavior", behavior);
    AGL_TRY(expect_bool(r, stage, "invert", false, false, "pre_tokenizer.Split"));
    json *pattern = agl_json_member(stage, "pattern");
    AGL_TRY(check_keys(r, pattern, "pre_tokenizer.Split.pattern", "Regex|"));
    const char *regex;
    AGL_TRY(read_string(r, pattern, "Regex", &regex));
    size_t bytes = (size_t)json_object_get_string_len(agl_json_member(pattern, "Regex"));
    return agl_pretokenizer_add(&r->tokenizer->pretokenizer, regex, bytes, r->name, r->err);
}

static agl_status read_pretokenizer(reader *r, json *stage, const char *type, int depth)
{
    (void)depth;
    if (r->has_byte_level) return refuse(r, "pre_tokenizer", "a stage after ByteLevel");
    if (strcmp(type, "Split") == 0) return read_split(r, stage);
    if (strcmp(type, "ByteLevel") != 0) return refuse(r, "pre_tokenizer", type);
    AGL_TRY(check_keys(r, stage, "pre_tokenizer.ByteLevel",
                       "type|add_prefix_space|trim_offsets|use_regex|"));
    AGL_TRY(expect_bool(r, stage, "add_prefix_space", false, true, "pre_tokenizer.ByteLevel"));
    bool use_regex = true;
    AGL_TRY(agl_json_get_bool(&use_regex, stage, "use_regex", false, r->name, r->err));
    r->has_byte_level = true;
    if (!use_regex) return AGL_OK;
    return agl_pretokenizer_add(&r->tokenizer->pretokenizer, BYTE_LEVEL_PATTERN,
                                sizeof BYTE_LEVEL_PATTERN - 1, r->name, r->err);
}

static agl_status read_decoder(reader *r, json *stage, const char *type, int depth)
{
    (void)depth;
    if (strcmp(type, "ByteLevel") != 0) return refuse(r, "decoder", type);
    r->has_decoder = true;
    return check_keys(r, stage, "decoder.ByteLevel", "type|add_prefix_space|trim_offsets|use_regex|");
}

/* ---- post-processor: ids before and after the text --------------------- */

/* One {"SpecialToken": {"id": "<sop>", ...}} of a template: its ids stand in special_tokens. */
static agl_status read_template_token(reader *r, json *stage, json *piece, agl_tokens *out)
{
    const char *key;
    AGL_TRY(check_keys(r, piece, "post_processor.single.SpecialToken", "id|type_id|"));
    AGL_TRY(read_string(r, piece, "id", &key));
    json *ids = agl_json_member(agl_json_member(agl_json_member(stage, "special_tokens"), key), "ids");
    if (!json_object_is_type(ids, json_type_array)) {
        return agl_fail(r->err, AGL_ERR_FORMAT, "%s: post_processor.special_tokens: no ids of '%.100s'",
                        r->name, key);
    }
    for (size_t i = 0; i < json_object_array_length(ids); i++) {
        int32_t id;
        size_t bytes;
        AGL_TRY(read_id(r, json_object_array_get_idx(ids, i), "post_processor.special_tokens", &id));
        if (agl_vocab_bytes(&r->tokenizer->vocab, id, &bytes) == NULL) {
            return agl_fail(r->err, AGL_ERR_FORMAT, "%s: post_processor: %d is no token", r->name,
                            (int)id);
        }
        AGL_TRY(agl_tokens_append(out, id, 1, r->err));
    }
    return AGL_OK;
}

static agl_status read_template(reader *r, json *stage)
{
    if (r->has_template) return refuse(r, "post_processor", "a second TemplateProcessing");
    r->has_template = true;
    /* "pair" is for two texts, which a prompt never is. */
    AGL_TRY(check_keys(r, stage, "post_processor.TemplateProcessing",
                       "type|single|pair|special_tokens|"));
    json *single = agl_json_member(stage, "single");
    if (!json_object_is_type(single, json_type_array)) {
        return agl_fail(r->err, AGL_ERR_FORMAT, "%s: post_processor.single: a list is expected",
                        r->name);
    }
    agl_tokens *out = &r->tokenizer->prefix;
    for (size_t i = 0; i < json_object_array_length(single); i++) {
        json *piece = json_object_array_get_idx(single, i);
        AGL_TRY(check_keys(r, piece, "post_processor.single", "SpecialToken|Sequence|"));
        json *special = agl_json_member(piece, "SpecialToken");
        json *sequence = agl_json_member(piece, "Sequence");
        if (special != NULL) {
            AGL_TRY(read_template_token(r, stage, special, out));
        } else if (sequence == NULL || out == &r->tokenizer->suffix) {
            return refuse(r, "post_processor.single", "a template without exactly one text");
        } else {
            out = &r->tokenizer->suffix;
        }
    }
    if (out == &r->tokenizer->suffix) return AGL_OK;
    return refuse(r, "post_processor.single", "a template without exactly one text");
}

static agl_status read_postprocessor(reader *r, json *stage, const char *type, int depth)
{
    (void)depth;
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(r, stage);
    if (strcmp(type, "ByteLevel") != 0) return refuse(r, "post_processor", type);
    /* ByteLevel moves offsets only, ids stay. */
    return check_keys(r, stage, "post_processor.ByteLevel",
                      "type|add_prefix_space|trim_offsets|use_regex|");
}

/* ---- the file ---------------------------------------------------------- */

static agl_status read_root(reader *r, json *root)
{
    AGL_TRY(check_keys(r, root, "tokenizer",
                       "version|truncation|padding|added_tokens|normalizer|pre_tokenizer|"
                       "post_processor|decoder|model|"));
    const char *version = "1.0";
    AGL_TRY(agl_json_get_string(&version, root, "version", false, r->name, r->err));
    if (strcmp(version, "1.0") != 0) return refuse(r, "version", version);
    AGL_TRY(expect_null(r, root, "truncation"));
    AGL_TRY(expect_null(r, root, "padding"));
    AGL_TRY(read_model(r, root));
    AGL_TRY(read_added_tokens(r, root));
    AGL_TRY(read_stage(r, agl_json_member(root, "normalizer"), "normalizer", "normalizers",
                       read_normalizer, 0));
    AGL_TRY(read_stage(r, agl_json_member(root, "pre_tokenizer"), "pre_tokenizer", "pretokenizers",
                       read_pretokenizer, 0));
    if (!r->has_byte_level) return refuse(r, "pre_tokenizer", "anything but a last stage ByteLevel");
    AGL_TRY(read_stage(r, agl_json_member(root, "decoder"), "decoder", "decoders", read_decoder, 0));
    if (!r->has_decoder) return refuse(r, "decoder", "anything but ByteLevel");
    return read_stage(r, agl_json_member(root, "post_processor"), "post_processor", "processors",
                      read_postprocessor, 0);
}

agl_status agl_tokenizer_parse(agl_tokenizer **out, const char *text, size_t bytes, const char *name,
                               agl_error *err)
{
    *out = NULL;
    json *root;
    AGL_TRY(agl_json_parse(&root, text, bytes, name, err));
    agl_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    agl_status status = tokenizer != NULL
        ? read_root(&(reader){.tokenizer = tokenizer, .name = name, .err = err}, root)
        : agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for the tokenizer", name);
    json_object_put(root);
    if (status != AGL_OK) {
        agl_tokenizer_close(tokenizer);
        return status;
    }
    *out = tokenizer;
    return AGL_OK;
}

agl_status agl_tokenizer_open(agl_tokenizer **out, const char *path, agl_error *err)
{
    *out = NULL;
    agl_file_map map;
    AGL_TRY(agl_file_map_open(&map, path, err));
    agl_status status = map.bytes <= FILE_BYTES_MAX
        ? agl_tokenizer_parse(out, (const char *)map.data, map.bytes, path, err)
        : agl_fail(err, AGL_ERR_LIMIT, "%s: %zu bytes are too many", path, map.bytes);
    agl_file_map_close(&map);
    return status;
}
