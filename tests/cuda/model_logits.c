/* SPDX-License-Identifier: Apache-2.0
 *
 * model_logits - logits of prompts, as a file for compare_transformers.py.
 *
 *     model_logits DIR cpu|cuda float32|bfloat16|float16 PROMPTS.safetensors OUT PROMPT...
 *
 * PROMPTS holds for each prompt P
 *     P.ids    [tokens] I32     one run of image tokens if there are pixels
 *     P.tail   [1] I32          how many of the last rows' logits are wanted
 *     P.pixels [height, width, 3] U8, optional
 * OUT gets F32 values, prompt after prompt: the image's rows [cells, hidden], then the logits
 * [tail, vocab]. The rows before the tail run as a step of their own, and the last 16 one by one, as
 * tokens that were generated: a chunked prompt and decoding. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file_map.h"
#include "model/weights.h"
#include "support/test_decoder.h"

#define DECODED_ROWS 16

typedef struct {
    agl_file_map map;
    agl_tensor *tensors;
    size_t count;
} prompt_file;

static const agl_tensor *find(const prompt_file *file, const char *prompt, const char *part)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", prompt, part);
    for (size_t i = 0; i < file->count; i++) {
        if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
    }
    return NULL;
}

static float *floats(size_t count)
{
    float *memory = malloc(count * sizeof *memory);
    assert_non_null(memory);
    return memory;
}

static void write_floats(FILE *out, const float *values, size_t count)
{
    assert_int_equal(fwrite(values, sizeof *values, count, out), count);
}

static void run_prompt(test_decoder *decoder, const prompt_file *file, const char *prompt, FILE *out)
{
    const agl_tensor *ids = find(file, prompt, "ids"), *tail = find(file, prompt, "tail");
    const agl_tensor *pixels = find(file, prompt, "pixels");
    assert_true(ids != NULL && tail != NULL);
    size_t count = ids->bytes / sizeof(int32_t), wanted = (size_t)*(const int32_t *)tail->data;
    size_t hidden = (size_t)decoder->config.text.hidden, vocab = (size_t)decoder->config.text.vocab;
    assert_true(wanted >= 1 && wanted <= count);
    float *visual = NULL;
    int32_t cells[1][2] = {{0, 0}};
    if (pixels != NULL) {
        int32_t side = (int32_t)(decoder->config.vision.patch * decoder->config.vision.merge);
        cells[0][0] = (int32_t)pixels->shape[0] / side;
        cells[0][1] = (int32_t)pixels->shape[1] / side;
        size_t values = (size_t)cells[0][0] * (size_t)cells[0][1] * hidden;
        visual = floats(values);
        test_decoder_image(decoder, pixels->data, pixels->shape[0], pixels->shape[1], visual);
        write_floats(out, visual, values);
    }
    test_sequence *sequence = malloc(sizeof *sequence);
    assert_non_null(sequence);
    test_sequence_init(sequence, decoder, ids->data, count, (const int32_t(*)[2])cells, visual);
    float *logits = floats(wanted * vocab);
    size_t head = count - wanted;
    size_t decoded = wanted < DECODED_ROWS ? wanted : DECODED_ROWS, prompt_rows = wanted - decoded, one = 1;
    if (head > 0) test_decoder_step(decoder, &sequence, &head, 1, false, NULL);
    if (prompt_rows > 0) test_decoder_step(decoder, &sequence, &prompt_rows, 1, true, logits);
    for (size_t row = prompt_rows; row < wanted; row++) {
        test_decoder_step(decoder, &sequence, &one, 1, true, logits + row * vocab);
    }
    write_floats(out, logits, wanted * vocab);
    free(logits);
    free(sequence);
    free(visual);
}

/* The largest prompt decides what the decoder reserves. */
static void size_options(test_decoder_options *options, const prompt_file *file, char **prompts,
                         int prompt_count)
{
    int64_t tokens = 0;
    options->rows_max = options->logit_rows_max = 1;
    options->patches_max = 4;
    for (int i = 0; i < prompt_count; i++) {
        const agl_tensor *ids = find(file, prompts[i], "ids"), *tail = find(file, prompts[i], "tail");
        const agl_tensor *pixels = find(file, prompts[i], "pixels");
        assert_true(ids != NULL && tail != NULL);
        int64_t count = (int64_t)(ids->bytes / sizeof(int32_t)), wanted = *(const int32_t *)tail->data;
        if (count > options->rows_max) options->rows_max = count;
        if (wanted > options->logit_rows_max) options->logit_rows_max = wanted;
        tokens += count + 16;
        if (pixels == NULL) continue;
        int64_t patches = pixels->shape[0] / 14 * (pixels->shape[1] / 14);
        if (patches > options->patches_max) options->patches_max = patches;
    }
    options->page_count = tokens / 16 + prompt_count;
}

static int fail_usage(void)
{
    fprintf(stderr, "model_logits DIR cpu|cuda float32|bfloat16|float16 PROMPTS OUT PROMPT...\n");
    return 2;
}

typedef struct {
    int argc;
    char **argv;
} command_line;

static void write_logits(void **state)
{
    const command_line *line = *state;
    char **argv = line->argv;
    static const agl_dtype FORMATS[] = {AGL_F32, AGL_BF16, AGL_F16};
    prompt_file file = {0};
    agl_error err = {0};
    if (agl_file_map_open(&file.map, argv[4], &err) != AGL_OK) fail_msg("%s", err.message);
    assert_int_equal(agl_safetensors_parse(&file.tensors, &file.count, file.map.data,
                                           file.map.bytes, argv[4], &err), AGL_OK);
    test_decoder_options options = {
        .kind = strcmp(argv[2], "cuda") == 0 ? AGL_BACKEND_CUDA : AGL_BACKEND_CPU, .threads = 2};
    options.dtype = AGL_DTYPE_COUNT;
    for (size_t i = 0; i < AGL_COUNT(FORMATS); i++) {
        if (strcmp(argv[3], agl_dtype_name(FORMATS[i])) == 0) options.dtype = FORMATS[i];
    }
    assert_true(options.dtype != AGL_DTYPE_COUNT);
    options.activation = options.dtype;
    size_options(&options, &file, argv + 6, line->argc - 6);
    test_decoder decoder;
    test_decoder_open(&decoder, argv[1], &options);
    FILE *out = fopen(argv[5], "wb");
    assert_non_null(out);
    for (int i = 6; i < line->argc; i++) run_prompt(&decoder, &file, argv[i], out);
    assert_int_equal(fclose(out), 0);
    test_decoder_close(&decoder);
    agl_safetensors_free(file.tensors, file.count);
    agl_file_map_close(&file.map);
}

int main(int argc, char **argv)
{
    if (argc < 7) return fail_usage();
    const command_line line = {argc, argv};
    const struct CMUnitTest tests[] = {{"write_logits", write_logits, NULL, NULL, (void *)&line}};
    return cmocka_run_group_tests_name("model_logits", tests, NULL, NULL);
}
