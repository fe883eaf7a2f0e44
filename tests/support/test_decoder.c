/* SPDX-License-Identifier: Apache-2.0 */
#include "support/test_decoder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ROWS_MAX TEST_TOKENS_MAX
#define SEQUENCES_MAX 64

static void expect_ok(agl_status status, const agl_error *err)
{
    if (status != AGL_OK)
        fail_msg("%s: %s", agl_status_text(status), err != NULL ? err->message : "");
}

static void set_default(int64_t *value, int64_t preset)
{
    if (*value == 0) *value = preset;
}

static size_t value_bytes(const test_decoder *decoder)
{
    return agl_dtype_bytes(decoder->backend->activation);
}

static agl_backend *backend_open(const test_decoder_options *options)
{
    agl_backend_options machine = {.threads = options->threads != 0 ? options->threads : 1,
                                   .isa_mask = options->isa_mask,
                                   .activation = options->activation};
    agl_backend *backend = NULL;
    agl_error err = {0};
    expect_ok(options->kind == AGL_BACKEND_CUDA ? agl_backend_cuda_create(&backend, &machine, &err)
                                                : agl_backend_cpu_create(&backend, &machine, &err),
              &err);
    return backend;
}

static void workspace_reserve(test_decoder *decoder)
{
    const agl_text_config *text = &decoder->config.text;
    const agl_vision_config *vision = &decoder->config.vision;
    agl_backend_limits limits = {
        .rows_max = decoder->options.rows_max, .sequences_max = SEQUENCES_MAX,
        .logit_rows_max = decoder->options.logit_rows_max, .patches_max = decoder->options.patches_max,
        .context_max = TEST_TOKENS_MAX, .heads = text->heads, .kv_heads = text->kv_heads,
        .head_dim = text->head_dim, .vision_heads = vision->heads, .vocab = text->vocab};
    agl_error err = {0};
    expect_ok(decoder->backend->ops->workspace_reserve(decoder->backend, &limits, &err), &err);
}

/* NaN, so that a read of a slot nobody wrote shows. */
static void *kv_alloc(test_decoder *decoder, size_t bytes)
{
    const agl_backend_ops *ops = decoder->backend->ops;
    void *memory, *poison = malloc(bytes);
    agl_error err = {0};
    assert_non_null(poison);
    memset(poison, 0xff, bytes);
    expect_ok(ops->alloc(decoder->backend, &memory, bytes, AGL_MEMORY_KV, &err), &err);
    expect_ok(ops->upload(decoder->stream, memory, poison, bytes), NULL);
    expect_ok(ops->stream_wait(decoder->stream, &err), &err);
    free(poison);
    return memory;
}

void test_decoder_open(test_decoder *out, const char *dir, const test_decoder_options *options)
{
    agl_error err = {0};
    memset(out, 0, sizeof *out);
    out->options = *options;
    set_default(&out->options.page_tokens, 16);
    set_default(&out->options.page_count, 128);
    set_default(&out->options.rows_max, 256);
    set_default(&out->options.logit_rows_max, out->options.rows_max);
    set_default(&out->options.patches_max, 256);
    expect_ok(agl_config_load(&out->config, dir, &err), &err);
    out->backend = backend_open(options);
    workspace_reserve(out);
    expect_ok(out->backend->ops->stream_create(out->backend, &out->stream, &err), &err);
    agl_model_options model = {.dir = dir,
                               .dtype = options->dtype,
                               .rows_max = out->options.rows_max,
                               .logit_rows_max = out->options.logit_rows_max,
                               .patches_max = out->options.patches_max};
    expect_ok(agl_model_create(&out->model, &out->config, out->backend, &model, &err), &err);

    const agl_text_config *text = &out->config.text;
    size_t bytes = (size_t)(out->options.page_count * text->kv_heads * out->options.page_tokens *
                            text->head_dim) *
                   value_bytes(out);
    out->kv = calloc((size_t)text->layers, sizeof *out->kv);
    assert_non_null(out->kv);
    for (int64_t i = 0; i < text->layers; i++) {
        agl_kv_layer *layer = &out->kv[i];
        *layer = (agl_kv_layer){.dtype = out->backend->activation, .page_tokens = out->options.page_tokens,
                                .kv_heads = text->kv_heads, .head_dim = text->head_dim};
        layer->k = kv_alloc(out, bytes);
        layer->v = kv_alloc(out, bytes);
    }
}

void test_decoder_close(test_decoder *decoder)
{
    for (int64_t i = 0; decoder->kv != NULL && i < decoder->config.text.layers; i++) {
        decoder->backend->ops->free(decoder->backend, decoder->kv[i].k);
        decoder->backend->ops->free(decoder->backend, decoder->kv[i].v);
    }
    free(decoder->kv);
    agl_model_destroy(decoder->model);
    decoder->backend->ops->stream_destroy(decoder->stream);
    decoder->backend->ops->destroy(decoder->backend);
}

/* ---- device memory and back --------------------------------------------------- */

static void *upload(test_decoder *decoder, const void *data, size_t bytes)
{
    const agl_backend_ops *ops = decoder->backend->ops;
    void *memory;
    agl_error err = {0};
    expect_ok(ops->alloc(decoder->backend, &memory, bytes, AGL_MEMORY_STEP_INPUT, &err), &err);
    expect_ok(ops->upload(decoder->stream, memory, data, bytes), NULL);
    return memory;
}

static void download(test_decoder *decoder, void *out, const void *device, size_t bytes)
{
    agl_error err = {0};
    expect_ok(decoder->backend->ops->download(decoder->stream, out, device, bytes), NULL);
    expect_ok(decoder->backend->ops->stream_wait(decoder->stream, &err), &err);
}

/* NULL for NULL. */
static void *upload_activations(test_decoder *decoder, const float *values, size_t count)
{
    agl_dtype dtype = decoder->backend->activation;
    if (values == NULL || dtype == AGL_F32) {
        return values != NULL ? upload(decoder, values, count * sizeof *values) : NULL;
    }
    uint16_t *converted = malloc(count * sizeof *converted);
    assert_non_null(converted);
    for (size_t i = 0; i < count; i++) {
        converted[i] = dtype == AGL_BF16 ? agl_f32_to_bf16(values[i]) : agl_f32_to_f16(values[i]);
    }
    void *device = upload(decoder, converted, count * sizeof *converted);
    agl_error err = {0};
    expect_ok(decoder->backend->ops->stream_wait(decoder->stream, &err), &err);
    free(converted);
    return device;
}

static void from_activations(const test_decoder *decoder, float *out, const void *in, size_t count)
{
    agl_dtype dtype = decoder->backend->activation;
    for (size_t i = 0; i < count; i++) {
        if (dtype == AGL_F32) out[i] = ((const float *)in)[i];
        else out[i] = dtype == AGL_BF16 ? agl_bf16_to_f32(((const uint16_t *)in)[i])
                                        : agl_f16_to_f32(((const uint16_t *)in)[i]);
    }
}

void test_decoder_image(test_decoder *decoder, const uint8_t *pixels, int64_t height,
                        int64_t width, float *rows)
{
    const agl_backend_ops *ops = decoder->backend->ops;
    int64_t side = decoder->config.vision.patch * decoder->config.vision.merge;
    size_t values = (size_t)(height / side * (width / side) * decoder->config.text.hidden);
    void *out, *host = malloc(values * value_bytes(decoder));
    void *device = upload(decoder, pixels, (size_t)(height * width * 3));
    agl_error err = {0};
    assert_non_null(host);
    expect_ok(ops->alloc(decoder->backend, &out, values * value_bytes(decoder), AGL_MEMORY_VISION,
                         &err), &err);
    expect_ok(agl_model_encode_image(decoder->model, decoder->stream, device, height, width, out),
              NULL);
    download(decoder, host, out, values * value_bytes(decoder));
    from_activations(decoder, rows, host, values);
    ops->free(decoder->backend, out);
    ops->free(decoder->backend, device);
    free(host);
}

/* ---- sequences ---------------------------------------------------------------- */

static int32_t page_take(test_decoder *decoder)
{
    int64_t pages = decoder->options.page_count, number = decoder->pages_taken++;
    assert_true(number < pages);
    /* 37 is coprime to the default pool size: a walk through all pages out of order. */
    return (int32_t)(decoder->options.scattered ? (number * 37 + 5) % pages : number);
}

void test_sequence_init(test_sequence *out, test_decoder *decoder, const int32_t *ids, size_t count,
                        const int32_t (*cells)[2], const float *visual)
{
    memset(out, 0, sizeof *out);
    assert_true(count <= AGL_COUNT(out->ids));
    memcpy(out->ids, ids, count * sizeof *ids);
    out->count = count;
    out->visual = visual;
    for (size_t i = 0; visual != NULL && i < count; i++) {
        if (ids[i] != decoder->config.image_token) continue;
        assert_true(out->image_count < TEST_IMAGES_MAX);
        const int32_t *size = cells[out->image_count];
        out->images[out->image_count++] =
            (agl_image_span){.first_token = i, .rows = size[0], .columns = size[1]};
        i += (size_t)(size[0] * size[1]) - 1;
    }
    for (size_t i = 0; i < TEST_PAGES_MAX; i++) out->pages[i] = -1;
}

void test_sequence_append(test_sequence *sequence, int32_t token)
{
    assert_true(sequence->count < AGL_COUNT(sequence->ids));
    sequence->ids[sequence->count++] = token;
}

/* Row of `visual` for token `at`, or -1. */
static int32_t visual_row(const test_sequence *sequence, size_t at)
{
    int32_t before = 0;
    for (size_t i = 0; i < sequence->image_count; i++) {
        const agl_image_span *image = &sequence->images[i];
        size_t cells = (size_t)(image->rows * image->columns);
        if (at >= image->first_token && at < image->first_token + cells) {
            return before + (int32_t)(at - image->first_token);
        }
        before += (int32_t)cells;
    }
    return -1;
}

static int32_t visual_count(const test_sequence *sequence)
{
    int32_t count = 0;
    for (size_t i = 0; i < sequence->image_count; i++)
        count += sequence->images[i].rows * sequence->images[i].columns;
    return count;
}

typedef struct {
    int32_t ids[ROWS_MAX], visual_rows[ROWS_MAX], positions[3][ROWS_MAX], logit_rows[ROWS_MAX];
    int32_t packed_positions[3 * ROWS_MAX];
    int64_t slots[ROWS_MAX];
    agl_attention_sequence sequences[SEQUENCES_MAX];
    int32_t page_tables[SEQUENCES_MAX * TEST_PAGES_MAX];
} step_inputs;

/* Rows of one sequence from `row` on; visual rows count from `visual_first`. */
static void fill_rows(step_inputs *in, test_decoder *decoder, test_sequence *sequence, size_t rows,
                      size_t row, int32_t visual_first)
{
    int64_t page_tokens = decoder->options.page_tokens;
    assert_true(row + rows <= ROWS_MAX && sequence->cached + rows <= sequence->count);
    agl_positions_fill(in->positions[0] + row, in->positions[1] + row, in->positions[2] + row,
                       sequence->cached, rows, sequence->images, sequence->image_count);
    for (size_t i = 0; i < rows; i++) {
        size_t token = sequence->cached + i, page = token / (size_t)page_tokens;
        assert_true(page < TEST_PAGES_MAX);
        if (sequence->pages[page] < 0) sequence->pages[page] = page_take(decoder);
        int32_t visual = visual_row(sequence, token);
        in->ids[row + i] = sequence->ids[token];
        in->visual_rows[row + i] = visual < 0 ? -1 : visual_first + visual;
        in->slots[row + i] = sequence->pages[page] * page_tokens + (int64_t)token % page_tokens;
    }
}

void test_decoder_step(test_decoder *decoder, test_sequence *const *sequences, const size_t *rows,
                       size_t count, bool all_rows, float *logits)
{
    const agl_text_config *text = &decoder->config.text;
    step_inputs *in = calloc(1, sizeof *in);
    assert_non_null(in);
    size_t total = 0, wanted = 0, visual_total = 0, context_max = 0;
    float *visual = NULL;
    for (size_t i = 0; i < count; i++) {
        test_sequence *sequence = sequences[i];
        size_t cells = (size_t)visual_count(sequence);
        fill_rows(in, decoder, sequence, rows[i], total, (int32_t)visual_total);
        if (cells > 0) {
            visual =
                realloc(visual, (visual_total + cells) * (size_t)text->hidden * sizeof *visual);
            assert_non_null(visual);
            memcpy(visual + visual_total * (size_t)text->hidden, sequence->visual,
                   cells * (size_t)text->hidden * sizeof *visual);
            visual_total += cells;
        }
        sequence->cached += rows[i];
        if (sequence->cached > context_max) context_max = sequence->cached;
        in->sequences[i] = (agl_attention_sequence){.row_first = (int32_t)total,
                                                    .row_count = (int32_t)rows[i],
                                                    .context = (int32_t)sequence->cached,
                                                    .page_table = (int32_t)(i * TEST_PAGES_MAX)};
        memcpy(in->page_tables + i * TEST_PAGES_MAX, sequence->pages, sizeof sequence->pages);
        for (size_t row = all_rows ? 0 : rows[i] - 1; row < rows[i]; row++) {
            in->logit_rows[wanted++] = (int32_t)(total + row);
        }
        total += rows[i];
    }
    for (size_t axis = 0; axis < 3; axis++) {
        memcpy(in->packed_positions + axis * total, in->positions[axis], total * sizeof(int32_t));
    }
    void *visual_device = upload_activations(decoder, visual, visual_total * (size_t)text->hidden);
    step_inputs *device = upload(decoder, in, sizeof *in);
    agl_batch batch = {.rows = (int64_t)total,
                       .ids = device->ids,
                       .visual_rows = visual != NULL ? device->visual_rows : NULL,
                       .visual = visual_device,
                       .positions = device->packed_positions,
                       .slots = device->slots,
                       .sequences = device->sequences,
                       .sequence_count = (int64_t)count,
                       .page_tables = device->page_tables,
                       .context_max = (int64_t)context_max,
                       .logit_rows = device->logit_rows,
                       .logit_count = logits != NULL ? (int64_t)wanted : 0,
                       .kv = decoder->kv};
    float *result = NULL;
    agl_error err = {0};
    expect_ok(agl_model_decode(decoder->model, decoder->stream, &batch, &result), NULL);
    expect_ok(decoder->backend->ops->stream_wait(decoder->stream, &err), &err);
    if (logits != NULL) {
        download(decoder, logits, result, wanted * (size_t)text->vocab * sizeof *logits);
    }
    decoder->backend->ops->free(decoder->backend, device);
    decoder->backend->ops->free(decoder->backend, visual_device);
    free(visual);
    free(in);
}

double test_relative_error(const float *a, const float *b, size_t count)
{
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    return sqrt(difference / norm);
}
