/* SPDX-License-Identifier: Apache-2.0
 *
 * Both networks against the reference: vision rows, three-axis positions, logits and
 * greedy tokens of make_model_vectors.py, for text, one image and three images.
 *
 * AGL_TEST_DEVICE=cuda runs them on the first GPU, with activations of AGL_TEST_DTYPE.
 *
 * Tolerances are relative to the norm. F32: sums of a few thousand terms in another order.
 * 16 bits: every activation is rounded, some dozen times a layer, to 8 or 11 bits; such
 * errors add like a random walk. There the greedy tokens are fed from the reference and may
 * differ from ours only where our two logits are nearer to each other than that error. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file_map.h"
#include "model/weights.h"
#include "support/test_checkpoint.h"
#include "support/test_decoder.h"

typedef struct {
    const char *name;
    agl_dtype dtype;
    double tolerance;
} number_format;

static const number_format FORMATS[] = {
    {"float32", AGL_F32, 1e-4}, {"bfloat16", AGL_BF16, 3e-2}, {"float16", AGL_F16, 4e-3}};
static agl_backend_kind kind;
static const number_format *format = &FORMATS[0];

typedef struct {
    const char *name;
    test_checkpoint_shape shape;
} golden_case;

/* The same as CASES of make_model_vectors.py. */
static const golden_case GQA2 = {"gqa2", {
    .hidden = 512, .heads = 4, .kv_heads = 2, .layers = 3, .intermediate = 768, .old_layout = true,
    .vision_hidden = 256, .vision_heads = 2, .merger = 384, .image_size = 336}};
static const golden_case GQA4 = {"gqa4", {
    .hidden = 1024, .heads = 8, .kv_heads = 2, .layers = 2, .intermediate = 512,
    .rope_theta = 500000, .vision_hidden = 128, .vision_heads = 4, .vision_depth = 3,
    .merger = 256, .image_size = 336, .dtype = AGL_BF16, .seed = 2}};
static const golden_case TIED = {"tied", {
    .layers = 4, .tied = true, .dtype = AGL_F16, .seed = 3}};
static const golden_case SHAPES_9B = {"9b", {
    .hidden = 4096, .heads = 32, .kv_heads = 2, .layers = 1, .intermediate = 13696, .vocab = 2048,
    .old_layout = true, .vision_hidden = 1536, .vision_heads = 12, .vision_depth = 1,
    .merger = 13696, .image_size = 336, .dtype = AGL_BF16, .seed = 4}};

typedef struct {
    const golden_case *golden;
    agl_file_map map;
    agl_tensor *tensors;
    size_t tensor_count;
    test_decoder decoder;
    float *visual[3];           /* [cells, hidden] of each image */
    int32_t cells[3][2];
} fixture;

static const agl_tensor *find(const fixture *f, const char *pattern, const char *prompt, int image)
{
    char name[64];
    snprintf(name, sizeof name, pattern, prompt, image);
    for (size_t i = 0; i < f->tensor_count; i++) {
        if (strcmp(f->tensors[i].name, name) == 0) return &f->tensors[i];
    }
    return NULL;
}

static int setup(void **state)
{
    const golden_case *golden = *state;
    fixture *f = calloc(1, sizeof *f);
    char path[256], folder[256];
    agl_error err = {0};
    assert_non_null(f);
    f->golden = golden;
    snprintf(path, sizeof path, "tests/fixtures/model/golden_%s.safetensors", golden->name);
    assert_int_equal(agl_file_map_open(&f->map, path, &err), AGL_OK);
    assert_int_equal(
        agl_safetensors_parse(&f->tensors, &f->tensor_count, f->map.data, f->map.bytes, path, &err),
        AGL_OK);
    if (test_checkpoint_make(folder, sizeof folder, &golden->shape, &err) != AGL_OK) {
        fail_msg("%s", err.message);
    }
    test_decoder_open(
        &f->decoder, folder,
        &(test_decoder_options){.dtype = AGL_DTYPE_COUNT, .threads = 2, .scattered = true,
                                .kind = kind, .activation = format->dtype});
    test_folder_remove(folder); /* the weights stay mapped */
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    for (size_t i = 0; i < 3; i++) free(f->visual[i]);
    test_decoder_close(&f->decoder);
    agl_safetensors_free(f->tensors, f->tensor_count);
    agl_file_map_close(&f->map);
    free(f);
    return 0;
}

static void expect_close(const float *actual, const float *expected, size_t count, const char *what)
{
    double error = test_relative_error(actual, expected, count);
    print_message("%-24s relative error %.1e\n", what, error);
    if (!(error <= format->tolerance))
        fail_msg("%s: relative error %g, at most %g expected", what, error, format->tolerance);
}

/* The image's rows, from the tower; compared with what the file holds of them. */
static void check_image(fixture *f, int index)
{
    const agl_tensor *size = find(f, "%simage.%d.size", "", index);
    if (size == NULL) return; /* the large case has one image */
    int64_t height = ((const int32_t *)size->data)[0], width = ((const int32_t *)size->data)[1];
    size_t values = (size_t)(height * width * 3), cells = (size_t)(height / 28 * (width / 28));
    size_t hidden = (size_t)f->decoder.config.text.hidden;
    float *u = malloc(values * sizeof *u);
    uint8_t *pixels = malloc(values);
    char name[32];
    assert_true(u != NULL && pixels != NULL);
    snprintf(name, sizeof name, "image.%d", index);
    test_hash_fill(u, f->golden->shape.seed != 0 ? f->golden->shape.seed : 1, name, 0, values);
    for (size_t i = 0; i < values; i++) pixels[i] = (uint8_t)floorf((u[i] + 1.0f) * 128.0f);

    float *rows = malloc(cells * hidden * sizeof *rows);
    assert_non_null(rows);
    test_decoder_image(&f->decoder, pixels, height, width, rows);
    const agl_tensor *expected = find(f, "%simage.%d.rows", "", index);
    if (expected != NULL) {
        assert_int_equal(expected->bytes, cells * hidden * sizeof *rows);
        expect_close(rows, expected->data, cells * hidden, name);
    } else {
        const agl_tensor *picked = find(f, "%simage.%d.picked", "", index),
                         *value = find(f, "%simage.%d.values", "", index);
        const agl_tensor *norm = find(f, "%simage.%d.norm", "", index);
        assert_true(picked != NULL && value != NULL && norm != NULL);
        size_t count = picked->bytes / sizeof(int32_t);
        double square = 0.0;
        for (size_t i = 0; i < cells * hidden; i++) square += (double)rows[i] * (double)rows[i];
        for (size_t i = 0; i < count; i++) u[i] = rows[((const int32_t *)picked->data)[i]];
        expect_close(u, value->data, count, name);
        assert_true(fabs(sqrt(square) / (double)*(const float *)norm->data - 1.0) < format->tolerance);
    }
    f->visual[index] = rows;
    f->cells[index][0] = (int32_t)(height / 28);
    f->cells[index][1] = (int32_t)(width / 28);
    free(u);
    free(pixels);
}

static void check_positions(const fixture *f, const test_sequence *sequence, const char *prompt)
{
    const agl_tensor *expected = find(f, "%s.positions", prompt, 0);
    int32_t actual[3][512];
    assert_non_null(expected);
    assert_int_equal(expected->shape[1], sequence->count);
    agl_positions_fill(actual[0], actual[1], actual[2], 0, sequence->count, sequence->images,
                       sequence->image_count);
    for (size_t axis = 0; axis < 3; axis++) {
        assert_memory_equal(actual[axis], (const int32_t *)expected->data + axis * sequence->count,
                            sequence->count * sizeof(int32_t));
    }
}

/* True if the two logits are as good as equal in this number format. */
static bool is_tie(const float *logits, size_t vocab, size_t a, size_t b)
{
    double square = 0.0;
    if (format->dtype == AGL_F32) return false;
    for (size_t id = 0; id < vocab; id++) square += (double)logits[id] * (double)logits[id];
    double rounding = format->tolerance * sqrt(square / (double)vocab);
    return fabs((double)logits[a] - (double)logits[b]) <= 4.0 * rounding;
}

/* Prompt in one step with all logits, then greedy tokens one by one. */
static void check_prompt(fixture *f, const char *prompt, const int *images, size_t image_count)
{
    const agl_tensor *ids = find(f, "%s.ids", prompt, 0), *rows = find(f, "%s.rows", prompt, 0);
    const agl_tensor *logits = find(f, "%s.logits", prompt, 0),
                     *greedy = find(f, "%s.greedy", prompt, 0);
    if (ids == NULL) return;
    assert_true(rows != NULL && logits != NULL && greedy != NULL);
    size_t count = ids->bytes / sizeof(int32_t), hidden = (size_t)f->decoder.config.text.hidden;
    size_t vocab = (size_t)f->decoder.config.text.vocab;
    float *visual = NULL;
    int32_t cells[3][2];
    size_t total = 0;
    for (size_t i = 0; i < image_count; i++) {
        const int32_t *size = f->cells[images[i]];
        size_t values = (size_t)(size[0] * size[1]) * hidden;
        visual = realloc(visual, (total + values) * sizeof *visual);
        assert_non_null(visual);
        memcpy(visual + total, f->visual[images[i]], values * sizeof *visual);
        memcpy(cells[i], size, sizeof cells[i]);
        total += values;
    }
    test_sequence sequence, *one = &sequence;
    test_sequence_init(&sequence, &f->decoder, ids->data, count, (const int32_t(*)[2])cells,
                       visual);
    assert_int_equal(sequence.image_count, image_count);
    check_positions(f, &sequence, prompt);

    float *all = malloc(count * vocab * sizeof *all), *last = malloc(vocab * sizeof *last);
    assert_true(all != NULL && last != NULL);
    test_decoder_step(&f->decoder, &one, &count, 1, true, all);
    for (size_t i = 0; i < rows->bytes / sizeof(int32_t); i++) {
        char what[64];
        int32_t row = ((const int32_t *)rows->data)[i];
        snprintf(what, sizeof what, "%s logits of row %d", prompt, row);
        expect_close(all + (size_t)row * vocab, (const float *)logits->data + i * vocab, vocab,
                     what);
    }
    size_t tokens = greedy->bytes / sizeof(int32_t), width = 1, equal = 0;
    memcpy(last, all + (count - 1) * vocab, vocab * sizeof *last);
    for (size_t i = 0; i < tokens; i++) {
        size_t best = 0;
        for (size_t id = 1; id < vocab; id++) {
            if (last[id] > last[best]) best = id;
        }
        size_t expected = (size_t)((const int32_t *)greedy->data)[i];
        if (best == expected) equal++;
        else if (!is_tie(last, vocab, best, expected)) {
            fail_msg("%s: greedy token %zu is %zu, %zu expected", prompt, i, best, expected);
        }
        test_sequence_append(&sequence, (int32_t)expected);
        test_decoder_step(&f->decoder, &one, &width, 1, false, last);
    }
    print_message("%-24s %zu of %zu greedy tokens agree\n", prompt, equal, tokens);
    free(all);
    free(last);
    free(visual);
}

static void test_reference(void **state)
{
    fixture *f = *state;
    for (int i = 0; i < 3; i++) check_image(f, i);
    check_prompt(f, "text", NULL, 0);
    check_prompt(f, "one", (const int[]){0}, 1);
    check_prompt(f, "many", (const int[]){1, 2, 0}, 3);
}

/* Picks device and number format from the environment; false: this machine has no such device. */
static bool choose_device(void)
{
    const char *device = getenv("AGL_TEST_DEVICE"), *dtype = getenv("AGL_TEST_DTYPE");
    char why[128];
    if (device == NULL || strcmp(device, "cpu") == 0) return true;
    if (strcmp(device, "cuda") != 0) fail_msg("AGL_TEST_DEVICE is %s: cpu or cuda expected", device);
    if (agl_backend_cuda_count(why, sizeof why) == 0) {
        printf("skip: golden/model on CUDA: %s\n", why);
        return false;
    }
    kind = AGL_BACKEND_CUDA;
    for (size_t i = 0; dtype != NULL && i < AGL_COUNT(FORMATS); i++) {
        if (strcmp(dtype, FORMATS[i].name) == 0) format = &FORMATS[i];
    }
    return true;
}

int main(void)
{
    if (!choose_device()) return 0;
    const struct CMUnitTest tests[] = {
        {"heads of 128, 2 to 1, rope keys side by side", test_reference, setup, teardown,
         (void *)&GQA2},
        {"heads of 128, 4 to 1, theta 500000, bfloat16", test_reference, setup, teardown,
         (void *)&GQA4},
        {"tied embeddings, float16", test_reference, setup, teardown, (void *)&TIED},
        {"layer shapes of the 9B model, bfloat16", test_reference, setup, teardown,
         (void *)&SHAPES_9B},
    };
    return cmocka_run_group_tests_name("golden/model", tests, NULL, NULL);
}
