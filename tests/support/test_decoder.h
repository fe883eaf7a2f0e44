/* SPDX-License-Identifier: Apache-2.0
 *
 * test_decoder.h - a model on a backend with a small paged KV cache, driven by hand: what
 * the engine does, without scheduler and sampling. Everything that goes in and comes out is
 * F32 in host memory. Fails the running test by cmocka assertions. */
#ifndef TEST_DECODER_H
#define TEST_DECODER_H

#include "model/model.h"
#include "model/positions.h"

#define TEST_TOKENS_MAX 8192    /* of one sequence */
#define TEST_PAGES_MAX 512
#define TEST_IMAGES_MAX 4

typedef struct {
    int64_t page_tokens;        /* [16]                                        */
    int64_t page_count;         /* [128], of the pool                          */
    bool scattered;             /* hand pages out in a mixed order             */
    int64_t rows_max;           /* [256]                                       */
    int64_t logit_rows_max;     /* [rows_max]                                  */
    int64_t patches_max;        /* [256]                                       */
    agl_dtype dtype;            /* of the weights; F32 is 0: set AGL_DTYPE_COUNT for "as stored" */
    uint32_t threads;           /* [1]                                         */
    uint32_t isa_mask;          /* [0: all]                                    */
    agl_backend_kind kind;      /* [CPU]                                       */
    agl_dtype activation;       /* [F32]; CUDA only                            */
} test_decoder_options;

typedef struct {
    test_decoder_options options;
    agl_config config;
    agl_backend *backend;
    agl_stream *stream;
    agl_model *model;
    agl_kv_layer *kv;           /* [layers]                                    */
    int64_t pages_taken;
} test_decoder;

typedef struct {
    int32_t ids[TEST_TOKENS_MAX];
    size_t count;               /* tokens so far                               */
    size_t cached;              /* of them in the pages                        */
    agl_image_span images[TEST_IMAGES_MAX];
    size_t image_count;
    const float *visual;        /* [cells of all images, hidden]; borrowed     */
    int32_t pages[TEST_PAGES_MAX];
} test_sequence;

void test_decoder_open(test_decoder *out, const char *dir, const test_decoder_options *options);
void test_decoder_close(test_decoder *decoder);

/* One image through the vision tower: pixels RGB [height, width, 3], rows [cells, hidden]. */
void test_decoder_image(test_decoder *decoder, const uint8_t *pixels, int64_t height,
                        int64_t width, float *rows);

/* Start a sequence; runs of the configured image token become images of the given cells. */
void test_sequence_init(test_sequence *out, test_decoder *decoder, const int32_t *ids, size_t count,
                        const int32_t (*cells)[2], const float *visual);
void test_sequence_append(test_sequence *sequence, int32_t token);

/* One step over the next `rows[i]` uncached tokens of each sequence. logits: [sum of rows, vocab]
 * with all_rows, else [count, vocab] of each sequence's last row; NULL: none are asked for. */
void test_decoder_step(test_decoder *decoder, test_sequence *const *sequences, const size_t *rows,
                       size_t count, bool all_rows, float *logits);

/* ||a - b|| / ||b|| */
double test_relative_error(const float *a, const float *b, size_t count);

#endif
