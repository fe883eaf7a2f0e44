/* SPDX-License-Identifier: Apache-2.0 */
#include "support/test_checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file_map.h"

#define FIXTURES "tests/fixtures/model/tiny"
#define GOLDEN_RATIO 0x9e3779b97f4a7c15u
#define CHUNK 4096
#define TENSORS_MAX 16384

/* How the hash in [-1, 1) becomes a weight. */
typedef enum {
    KIND_LINEAR,    /* * sqrt(3 / fan_in): outputs of unit variance */
    KIND_NORM,      /* 1 + u / 4                                    */
    KIND_BIAS,      /* u / 4                                        */
    KIND_TABLE      /* u                                            */
} tensor_kind;

typedef struct {
    char name[160];         /* in the file                            */
    char hash_name[160];    /* same for every spelling of the name    */
    uint64_t first;         /* in the hash stream (halves of gate_up) */
    int rank;
    int64_t shape[5];
    tensor_kind kind;
    int64_t fan_in;
} tensor;

typedef struct {
    test_checkpoint_shape shape;
    tensor *tensors;
    size_t count;
} plan;

/* ---- the generator ---------------------------------------------------------- */

void test_hash_fill(float *out, uint64_t seed, const char *name, uint64_t first, uint64_t count)
{
    uint64_t key = 0xcbf29ce484222325u; /* FNV-1a */
    for (const char *c = name; *c != '\0'; c++) key = (key ^ (unsigned char)*c) * 0x100000001b3u;
    key ^= seed * GOLDEN_RATIO;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t z = key + (first + i + 1) * GOLDEN_RATIO; /* splitmix64 */
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        out[i] = (float)((int32_t)(z >> 40) - (1 << 23)) * 0x1p-23f;
    }
}

static float weight_of(const tensor *t, float u)
{
    switch (t->kind) {
    case KIND_LINEAR: return (float)sqrt(3.0 / (double)t->fan_in) * u;
    case KIND_NORM: return 1.0f + 0.25f * u;
    case KIND_BIAS: return 0.25f * u;
    case KIND_TABLE: break;
    }
    return u;
}

/* ---- list of tensors -------------------------------------------------------- */

__attribute__((format(printf, 2, 3)))
static tensor *add(plan *p, const char *format, ...)
{
    tensor *t = &p->tensors[p->count++];
    memset(t, 0, sizeof *t);
    va_list args;
    va_start(args, format);
    vsnprintf(t->hash_name, sizeof t->hash_name, format, args);
    va_end(args);
    const char *name = t->hash_name;
    if (p->shape.other_prefixes && strncmp(name, "model.language_model.", 21) == 0) {
        snprintf(t->name, sizeof t->name, "language_model.model.%.100s", name + 21);
    } else if (p->shape.other_prefixes && strncmp(name, "model.visual.", 13) == 0) {
        snprintf(t->name, sizeof t->name, "%s", name + 6);
    } else {
        snprintf(t->name, sizeof t->name, "%s", name);
    }
    return t;
}

static void set(tensor *t, tensor_kind kind, int rank, const int64_t *shape)
{
    t->kind = kind;
    t->rank = rank;
    t->fan_in = 1;
    for (int i = 0; i < rank; i++) {
        t->shape[i] = shape[i];
        if (i > 0) t->fan_in *= shape[i];
    }
}

static void vector(tensor *t, tensor_kind kind, int64_t size)
{
    set(t, kind, 1, &size);
}

static void matrix(tensor *t, int64_t out, int64_t in)
{
    set(t, KIND_LINEAR, 2, (int64_t[]){out, in});
}

#define TEXT "model.language_model."
#define LAYER TEXT "layers.%d."

static void add_gate_up(plan *p, int layer)
{
    const test_checkpoint_shape *s = &p->shape;
    tensor *t = add(p, LAYER "mlp.gate_up_proj.weight", layer);
    matrix(t, 2 * s->intermediate, s->hidden);
    if (!s->split_gate_up) return;
    p->count--;
    static const char *const HALVES[] = {"gate_proj.weight", "up_proj.weight"};
    tensor fused = *t;
    for (int half = 0; half < 2; half++) {
        t = &p->tensors[p->count++];
        *t = fused;
        t->shape[0] = s->intermediate;
        t->first = (uint64_t)(half * s->intermediate * s->hidden);
        char *tail = strstr(t->name, "gate_up_proj");
        snprintf(tail, sizeof t->name - (size_t)(tail - t->name), "%s", HALVES[half]);
    }
}

static void add_text(plan *p)
{
    const test_checkpoint_shape *s = &p->shape;
    int64_t head_dim = s->hidden / s->heads, hidden = s->hidden;
    tensor *t = add(p, TEXT "embed_tokens.weight");
    set(t, KIND_TABLE, 2, (int64_t[]){s->vocab, hidden});
    for (int l = 0; l < (int)s->layers; l++) {
        static const char *const NORMS[] = {"input_layernorm", "post_self_attn_layernorm",
                                            "post_attention_layernorm", "post_mlp_layernorm"};
        for (size_t n = 0; n < 4; n++)
            vector(add(p, LAYER "%s.weight", l, NORMS[n]), KIND_NORM, hidden);
        static const char *const PARTS[] = {"q_proj", "k_proj", "v_proj"};
        for (size_t n = 0; n < 3; n++) {
            int64_t rows = (n == 0 ? s->heads : s->kv_heads) * head_dim;
            matrix(add(p, LAYER "self_attn.%s.weight", l, PARTS[n]), rows, hidden);
            vector(add(p, LAYER "self_attn.%s.bias", l, PARTS[n]), KIND_BIAS, rows);
        }
        matrix(add(p, LAYER "self_attn.o_proj.weight", l), hidden, s->heads * head_dim);
        add_gate_up(p, l);
        matrix(add(p, LAYER "mlp.down_proj.weight", l), hidden, s->intermediate);
    }
    vector(add(p, TEXT "norm.weight"), KIND_NORM, hidden);
    if (!s->tied) matrix(add(p, "lm_head.weight"), s->vocab, hidden);
}

#define VISUAL "model.visual."
#define BLOCK VISUAL "blocks.%d."

static void add_vision(plan *p)
{
    const test_checkpoint_shape *s = &p->shape;
    int64_t hidden = s->vision_hidden, out = s->hidden, side = s->image_size / 14;
    set(add(p, VISUAL "patch_embed.proj.weight"), KIND_LINEAR, 5,
        (int64_t[]){hidden, 3, 2, 14, 14});
    vector(add(p, VISUAL "patch_embed.proj.bias"), KIND_BIAS, hidden);
    vector(add(p, VISUAL "post_conv_layernorm.weight"), KIND_NORM, hidden);
    set(add(p, VISUAL "embeddings.position_embedding.weight"), KIND_TABLE, 2,
        (int64_t[]){side * side, hidden});
    for (int b = 0; b < (int)s->vision_depth; b++) {
        vector(add(p, BLOCK "norm1.weight", b), KIND_NORM, hidden);
        vector(add(p, BLOCK "norm2.weight", b), KIND_NORM, hidden);
        matrix(add(p, BLOCK "attn.qkv.weight", b), 3 * hidden, hidden);
        matrix(add(p, BLOCK "attn.proj.weight", b), hidden, hidden);
        matrix(add(p, BLOCK "mlp.gate_proj.weight", b), out, hidden);
        matrix(add(p, BLOCK "mlp.up_proj.weight", b), out, hidden);
        matrix(add(p, BLOCK "mlp.down_proj.weight", b), hidden, out);
    }
    vector(add(p, VISUAL "post_layernorm.weight"), KIND_NORM, hidden);
    set(add(p, VISUAL "downsample.weight"), KIND_LINEAR, 4, (int64_t[]){out, hidden, 2, 2});
    vector(add(p, VISUAL "downsample.bias"), KIND_BIAS, out);
    matrix(add(p, VISUAL "merger.proj.weight"), out, out);
    vector(add(p, VISUAL "merger.post_projection_norm.weight"), KIND_NORM, out);
    vector(add(p, VISUAL "merger.post_projection_norm.bias"), KIND_BIAS, out);
    matrix(add(p, VISUAL "merger.gate_proj.weight"), s->merger, out);
    matrix(add(p, VISUAL "merger.up_proj.weight"), s->merger, out);
    matrix(add(p, VISUAL "merger.down_proj.weight"), out, s->merger);
}

/* ---- files ------------------------------------------------------------------ */

static agl_status open_file(FILE **out, const char *dir, const char *name, agl_error *err)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    *out = fopen(path, "wb");
    return *out != NULL ? AGL_OK : agl_fail(err, AGL_ERR_IO, "%s: %s", path, strerror(errno));
}

static agl_status close_file(FILE *file, const char *name, agl_error *err)
{
    bool failed = ferror(file) != 0;
    failed |= fclose(file) != 0;
    return failed ? agl_fail(err, AGL_ERR_IO, "%s: cannot be written", name) : AGL_OK;
}

static agl_status write_text(const char *dir, const char *name, const char *text, size_t bytes,
                             agl_error *err)
{
    FILE *file;
    AGL_TRY(open_file(&file, dir, name, err));
    fwrite(text, 1, bytes, file);
    return close_file(file, name, err);
}

static int64_t values_of(const tensor *t)
{
    int64_t count = 1;
    for (int i = 0; i < t->rank; i++) count *= t->shape[i];
    return count;
}

static void write_tensor(FILE *file, const tensor *t, const test_checkpoint_shape *s)
{
    float values[CHUNK];
    uint16_t halves[CHUNK];
    uint64_t total = (uint64_t)values_of(t);
    for (uint64_t done = 0; done < total; done += CHUNK) {
        uint64_t count = total - done < CHUNK ? total - done : CHUNK;
        test_hash_fill(values, s->seed, t->hash_name, t->first + done, count);
        for (uint64_t i = 0; i < count; i++) {
            values[i] = weight_of(t, values[i]);
            halves[i] =
                s->dtype == AGL_BF16 ? agl_f32_to_bf16(values[i]) : agl_f32_to_f16(values[i]);
        }
        if (s->dtype == AGL_F32) fwrite(values, sizeof values[0], count, file);
        else fwrite(halves, sizeof halves[0], count, file);
    }
}

/* Tensors first, first + step, ... of the plan. */
static agl_status write_shard(const plan *p, const char *dir, const char *name, size_t first,
                              size_t step, agl_error *err)
{
    static const char *const DTYPES[] = {[AGL_F32] = "F32", [AGL_F16] = "F16", [AGL_BF16] = "BF16"};
    agl_buffer header;
    agl_buffer_init(&header, 0);
    agl_buffer_append_text(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    uint64_t offset = 0;
    for (size_t i = first; i < p->count; i += step) {
        const tensor *t = &p->tensors[i];
        agl_buffer_append_format(&header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name,
                                 DTYPES[p->shape.dtype]);
        for (int d = 0; d < t->rank; d++) {
            agl_buffer_append_format(&header, "%s%lld", d > 0 ? "," : "", (long long)t->shape[d]);
        }
        uint64_t bytes = (uint64_t)values_of(t) * agl_dtype_bytes(p->shape.dtype);
        agl_buffer_append_format(&header, "],\"data_offsets\":[%llu,%llu]}",
                                 (unsigned long long)offset, (unsigned long long)(offset + bytes));
        offset += bytes;
    }
    agl_buffer_append_char(&header, '}');
    while (header.bytes % 8 != 0) agl_buffer_append_char(&header, ' ');

    FILE *file;
    agl_status status = open_file(&file, dir, name, err);
    if (status == AGL_OK) {
        uint64_t bytes = header.bytes;
        fwrite(&bytes, sizeof bytes, 1, file); /* little-endian hosts only */
        fwrite(header.data, 1, header.bytes, file);
        for (size_t i = first; i < p->count; i += step)
            write_tensor(file, &p->tensors[i], &p->shape);
        status = close_file(file, name, err);
    }
    agl_buffer_deinit(&header);
    return status;
}

static agl_status write_weights(const plan *p, const char *dir, agl_error *err)
{
    size_t shards = (size_t)p->shape.shards;
    if (shards == 1) return write_shard(p, dir, "model.safetensors", 0, 1, err);
    agl_buffer index;
    agl_buffer_init(&index, 0);
    agl_buffer_append_text(&index, "{\"metadata\":{\"total_size\":0},\"weight_map\":{");
    agl_status status = AGL_OK;
    for (size_t s = 0; s < shards && status == AGL_OK; s++) {
        char name[64];
        snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", s + 1, shards);
        status = write_shard(p, dir, name, s, shards, err);
        for (size_t i = s; i < p->count; i += shards) {
            agl_buffer_append_format(&index, "%s\"%s\":\"%s\"", i > 0 ? "," : "",
                                     p->tensors[i].name, name);
        }
    }
    agl_buffer_append_text(&index, "}}");
    if (status == AGL_OK) {
        status = write_text(dir, "model.safetensors.index.json", index.data, index.bytes, err);
    }
    agl_buffer_deinit(&index);
    return status;
}

static agl_status write_config(const test_checkpoint_shape *s, const char *dir, agl_error *err)
{
    static const char *const DTYPES[] = {
        [AGL_F32] = "float32", [AGL_F16] = "float16", [AGL_BF16] = "bfloat16"};
    long long pairs = (long long)(s->hidden / s->heads / 4), temporal = pairs / 4;
    long long height = (pairs - temporal) / 2, width = pairs - temporal - height;
    char rope[512], text[4096];
    snprintf(rope, sizeof rope,
             s->old_layout
                 ? "\"rope_theta\":%g,\"partial_rotary_factor\":0.5,"
                   "\"rope_scaling\":{\"rope_type\":\"default\",\"mrope_section\":[%lld,%lld,%lld]}"
                 : "\"rope_parameters\":{\"rope_theta\":%g,\"partial_rotary_factor\":0.5,"
                   "\"rope_type\":\"default\",\"mrope_section\":[%lld,%lld,%lld]}",
             s->rope_theta, temporal, height, width);
    int bytes = snprintf(
        text, sizeof text,
        "{\"architectures\":[\"Glm4vForConditionalGeneration\"],\"model_type\":\"glm4v\",\"dtype\":\"%s\","
        "\"image_start_token_id\":266,\"image_end_token_id\":267,\"video_start_token_id\":268,"
        "\"video_end_token_id\":269,\"image_token_id\":270,\"video_token_id\":271,\"tie_word_embeddings\":%s,"
        "\"text_config\":{\"model_type\":\"glm4v_text\",\"attention_bias\":true,\"attention_dropout\":0.0,"
        "\"pad_token_id\":256,\"eos_token_id\":[256,263,265,275],\"hidden_act\":\"silu\",\"hidden_size\":%lld,"
        "\"intermediate_size\":%lld,\"max_position_embeddings\":%lld,\"num_attention_heads\":%lld,"
        "\"num_hidden_layers\":%lld,\"num_key_value_heads\":%lld,\"rms_norm_eps\":1e-05,\"vocab_size\":%lld,%s},"
        "\"vision_config\":{\"model_type\":\"glm4v_vision\",\"attention_bias\":false,\"depth\":%lld,"
        "\"hidden_act\":\"silu\",\"hidden_size\":%lld,\"image_size\":%lld,\"in_channels\":3,"
        "\"intermediate_size\":%lld,\"num_heads\":%lld,\"out_hidden_size\":%lld,\"patch_size\":14,"
        "\"rms_norm_eps\":1e-05,\"spatial_merge_size\":2,\"temporal_patch_size\":2}}",
        DTYPES[s->dtype], s->tied ? "true" : "false", (long long)s->hidden,
        (long long)s->intermediate, (long long)s->max_positions, (long long)s->heads,
        (long long)s->layers, (long long)s->kv_heads, (long long)s->vocab, rope,
        (long long)s->vision_depth, (long long)s->vision_hidden, (long long)s->image_size,
        (long long)s->merger, (long long)s->vision_heads, (long long)s->hidden);
    return write_text(dir, "config.json", text, (size_t)bytes, err);
}

static agl_status copy_fixtures(const char *dir, agl_error *err)
{
    static const char *const FILES[] = {"tokenizer.json", "tokenizer_config.json",
                                        "chat_template.jinja", "generation_config.json",
                                        "preprocessor_config.json"};
    for (size_t i = 0; i < AGL_COUNT(FILES); i++) {
        char path[256], *text;
        size_t bytes;
        snprintf(path, sizeof path, "%s/%s", FIXTURES, FILES[i]);
        AGL_TRY(agl_file_read(&text, &bytes, path, (size_t)1 << 20, err));
        agl_status status = write_text(dir, FILES[i], text, bytes, err);
        free(text);
        AGL_TRY(status);
    }
    return AGL_OK;
}

/* ---- all together ----------------------------------------------------------- */

static void set_default(int64_t *value, int64_t preset)
{
    if (*value == 0) *value = preset;
}

static void fill_defaults(test_checkpoint_shape *s)
{
    set_default(&s->hidden, 64);
    set_default(&s->layers, 2);
    set_default(&s->heads, 4);
    set_default(&s->kv_heads, 2);
    set_default(&s->intermediate, 128);
    set_default(&s->vocab, 320);
    set_default(&s->max_positions, 4096);
    set_default(&s->vision_hidden, 64);
    set_default(&s->vision_depth, 2);
    set_default(&s->vision_heads, 2);
    set_default(&s->merger, 96);
    set_default(&s->image_size, 112);
    set_default(&s->shards, 1);
    if (s->rope_theta == 0) s->rope_theta = 10000;
    if (s->seed == 0) s->seed = 1;
}

agl_status test_checkpoint_write(const char *dir, const test_checkpoint_shape *shape,
                                 agl_error *err)
{
    plan p = {.shape = shape != NULL ? *shape : (test_checkpoint_shape){0}};
    fill_defaults(&p.shape);
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return agl_fail(err, AGL_ERR_IO, "%s: %s", dir, strerror(errno));
    p.tensors = malloc(TENSORS_MAX * sizeof *p.tensors);
    if (p.tensors == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for a test checkpoint");
    add_text(&p);
    add_vision(&p);
    agl_status status = write_config(&p.shape, dir, err);
    if (status == AGL_OK) status = copy_fixtures(dir, err);
    if (status == AGL_OK) status = write_weights(&p, dir, err);
    free(p.tensors);
    return status;
}

agl_status test_folder_make(char *out, size_t size, agl_error *err)
{
    const char *parent = getenv("TMPDIR");
    snprintf(out, size, "%s/agl-test-XXXXXX",
             parent != NULL && parent[0] != '\0' ? parent : "/tmp");
    return mkdtemp(out) != NULL ? AGL_OK
                                : agl_fail(err, AGL_ERR_IO, "%s: %s", out, strerror(errno));
}

void test_folder_remove(const char *dir)
{
    DIR *folder = opendir(dir);
    if (folder == NULL) return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (unlink(path) != 0) test_folder_remove(path);
    }
    closedir(folder);
    rmdir(dir);
}

agl_status test_checkpoint_make(char *out, size_t size, const test_checkpoint_shape *shape,
                                agl_error *err)
{
    AGL_TRY(test_folder_make(out, size, err));
    agl_status status = test_checkpoint_write(out, shape, err);
    if (status != AGL_OK) test_folder_remove(out);
    return status;
}
