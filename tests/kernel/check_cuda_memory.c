/* SPDX-License-Identifier: Apache-2.0
 *
 * What moves bytes in the CUDA backend: device memory, uploads through the pinned ring, weights
 * that are converted on their way. Tolerance: none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "support/test_cuda.h"

#define MIB ((size_t)1 << 20)

static void memory_is_cleared_and_counted(void **state)
{
    (void)state;
    test_cuda t;
    if (!test_cuda_open(&t, AGL_BF16)) skip();
    const agl_backend_ops *ops = t.cuda->ops;
    unsigned char *host = malloc(MIB);
    uint64_t before = t.cuda->memory_by_tag[AGL_MEMORY_KV];
    void *first, *second, *empty;
    assert_int_equal(ops->alloc(t.cuda, &first, MIB, AGL_MEMORY_KV, NULL), AGL_OK);
    assert_int_equal(ops->alloc(t.cuda, &second, 1000, AGL_MEMORY_KV, NULL), AGL_OK);
    assert_int_equal(ops->alloc(t.cuda, &empty, 0, AGL_MEMORY_KV, NULL), AGL_OK);
    assert_true(t.cuda->memory_by_tag[AGL_MEMORY_KV] == before + MIB + 1000);
    assert_true((uintptr_t)first % 256 == 0 && (uintptr_t)second % 256 == 0);
    test_cuda_download(&t, host, first, MIB);
    for (size_t i = 0; i < MIB; i++) assert_int_equal(host[i], 0);
    ops->free(t.cuda, first);
    ops->free(t.cuda, empty);
    ops->free(t.cuda, NULL);
    assert_true(t.cuda->memory_by_tag[AGL_MEMORY_KV] == before + 1000);
    ops->free(t.cuda, second);

    agl_error err = {0};
    assert_int_equal(ops->alloc(t.cuda, &first, (size_t)1 << 50, AGL_MEMORY_KV, &err), AGL_ERR_MEMORY);
    assert_null(first);
    assert_non_null(strstr(err.message, "MiB are free"));
    assert_int_equal(ops->stream_wait(t.cuda_stream, &err), AGL_OK);    /* told once */
    free(host);
    test_cuda_close(&t);
}

/* Sizes around the ring's halves of 16 MiB; every buffer is overwritten once upload returns. */
static void uploads_leave_the_host_at_once(void **state)
{
    (void)state;
    static const size_t SIZES[] = {1, 16 * MIB - 65, 63, 3, 16 * MIB, 40 * MIB + 7, 64, 5 * MIB, 12 * MIB};
    test_cuda t;
    if (!test_cuda_open(&t, AGL_BF16)) skip();
    const agl_backend_ops *ops = t.cuda->ops;
    unsigned char *host = malloc(41 * MIB);
    void *device[AGL_COUNT(SIZES)];
    for (size_t i = 0; i < AGL_COUNT(SIZES); i++) {
        assert_int_equal(ops->alloc(t.cuda, &device[i], SIZES[i], AGL_MEMORY_KV, NULL), AGL_OK);
        for (size_t b = 0; b < SIZES[i]; b++) host[b] = (unsigned char)(b * 31 + (b >> 13) + i);
        assert_int_equal(ops->upload(t.cuda_stream, device[i], host, SIZES[i]), AGL_OK);
        memset(host, 0xee, SIZES[i]);
    }
    for (size_t i = 0; i < AGL_COUNT(SIZES); i++) {
        size_t wrong = 0;
        test_cuda_download(&t, host, device[i], SIZES[i]);
        for (size_t b = 0; b < SIZES[i]; b++) wrong += host[b] != (unsigned char)(b * 31 + (b >> 13) + i);
        if (wrong > 0) fail_msg("%zu of %zu bytes of upload %zu are wrong", wrong, SIZES[i], i);
        ops->free(t.cuda, device[i]);
    }
    free(host);
    test_cuda_close(&t);
}

/* Rows on both sides of the slots' borders, read back through embed. */
static void check_weight(agl_dtype activation, agl_dtype stored)
{
    enum { IN = 512, FIRST = 5000, SECOND = 4100, PICKED = 8 };
    static const int32_t IDS[PICKED] = {0, 1, 4095, 4096, FIRST - 1, FIRST, 8192, FIRST + SECOND - 1};
    test_cuda t;
    if (!test_cuda_open(&t, activation)) skip();
    const agl_backend_ops *ops = t.cuda->ops;
    size_t count = (size_t)(FIRST + SECOND) * IN;
    float *values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = test_cuda_round(stored, (float)(int64_t)(i * 2654435761u % 20011) / 10007.0f - 1.0f);
    }
    void *first = test_cuda_pack(stored, values, (size_t)FIRST * IN);
    void *second = test_cuda_pack(stored, values + (size_t)FIRST * IN, (size_t)SECOND * IN);
    agl_weight_desc desc = {.parts = {{first, NULL, FIRST}, {second, NULL, SECOND}}, .part_count = 2,
                            .in = IN, .dtype = stored, .bias_dtype = AGL_F32};
    agl_weight *weight;
    agl_error err = {0};
    if (ops->weight_create(t.cuda, &weight, &desc, &err) != AGL_OK) fail_msg("%s", err.message);
    memset(first, 0xff, (size_t)FIRST * IN * agl_dtype_bytes(stored));
    free(first);
    free(second);
    assert_int_equal(agl_weight_out(weight), FIRST + SECOND);
    int32_t *ids = test_cuda_upload(&t, IDS, sizeof IDS);
    float *out = test_cuda_upload(&t, NULL, PICKED * IN * sizeof *out), *want = malloc(PICKED * IN * sizeof *want);
    assert_int_equal(ops->embed(t.cuda_stream, &(agl_embed_args){
        .out = out, .table = weight, .ids = ids, .tokens = PICKED, .hidden = IN}), AGL_OK);
    for (size_t i = 0; i < PICKED * IN; i++) {
        want[i] = test_cuda_round(activation, values[(size_t)IDS[i / IN] * IN + i % IN]);
    }
    test_cuda_compare(&t, "rows of the weight", out, AGL_F32, want, PICKED * IN, 0, 0);
    ops->weight_destroy(t.cuda, weight);
    test_cuda_free(&t, ids);
    test_cuda_free(&t, out);
    free(want);
    free(values);
    test_cuda_close(&t);
}

static void weights_come_as_stored(void **state)
{
    (void)state;
    check_weight(AGL_BF16, AGL_BF16);
}

static void weights_are_converted(void **state)
{
    (void)state;
    check_weight(AGL_BF16, AGL_F32);
    check_weight(AGL_F16, AGL_BF16);
    check_weight(AGL_F32, AGL_F16);
}

/* A part without bias has zeros beside a part that has one: x = 0 leaves the bias. */
static void parts_share_a_bias(void **state)
{
    (void)state;
    enum { IN = 64, ROWS = 24 };
    test_cuda t;
    if (!test_cuda_open(&t, AGL_BF16)) skip();
    const agl_backend_ops *ops = t.cuda->ops;
    float zeros[ROWS * IN] = {0}, bias[ROWS], want[2 * ROWS] = {0};
    for (int i = 0; i < ROWS; i++) want[ROWS + i] = bias[i] = 0.25f * (float)i - 1.0f;
    agl_weight_desc desc = {.parts = {{zeros, NULL, ROWS}, {zeros, bias, ROWS}}, .part_count = 2,
                            .in = IN, .dtype = AGL_F32, .bias_dtype = AGL_F32};
    agl_weight *weight;
    assert_int_equal(ops->weight_create(t.cuda, &weight, &desc, NULL), AGL_OK);
    void *x = test_cuda_upload(&t, NULL, IN * 2);
    float *y = test_cuda_upload(&t, NULL, sizeof want);
    assert_int_equal(ops->linear(t.cuda_stream, &(agl_linear_args){
        .x = x, .y = y, .weight = weight, .rows = 1, .x_stride = IN, .y_f32 = true}), AGL_OK);
    test_cuda_compare(&t, "bias", y, AGL_F32, want, 2 * ROWS, 0, 0);
    ops->weight_destroy(t.cuda, weight);
    test_cuda_free(&t, x);
    test_cuda_free(&t, y);
    test_cuda_close(&t);
}

static void other_devices_are_refused(void **state)
{
    (void)state;
    char why[128];
    int count = agl_backend_cuda_count(why, sizeof why);
    if (count == 0) skip();
    agl_backend *backend;
    agl_error err = {0};
    agl_backend_options options = {.device = count, .activation = AGL_BF16};
    assert_int_equal(agl_backend_cuda_create(&backend, &options, &err), AGL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "this machine has"));
    options = (agl_backend_options){.activation = AGL_I32};
    assert_int_equal(agl_backend_cuda_create(&backend, &options, &err), AGL_ERR_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_cleared_and_counted), cmocka_unit_test(uploads_leave_the_host_at_once),
        cmocka_unit_test(weights_come_as_stored),        cmocka_unit_test(weights_are_converted),
        cmocka_unit_test(parts_share_a_bias),            cmocka_unit_test(other_devices_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
