/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/test_cuda.h"

#define F16_LARGEST 65504.0f

agl_backend *test_cuda_create(agl_dtype activation)
{
    char why[128];
    if (agl_backend_cuda_count(why, sizeof why) == 0) {
        printf("skip: %s\n", why);
        return NULL;
    }
    agl_backend *backend = NULL;
    agl_backend_options options = {.activation = activation};
    agl_error err = {0};
    if (agl_backend_cuda_create(&backend, &options, &err) != AGL_OK) fail_msg("%s", err.message);
    return backend;
}

/* Only the emulator has this. */
extern void emu_set_order(uint32_t order) __attribute__((weak));

extern void emu_set_processors(int processors) __attribute__((weak));

bool test_cuda_is_real(void)
{
    return emu_set_order == NULL;
}

void test_cuda_pretend_processors(int processors)
{
    if (emu_set_processors != NULL) emu_set_processors(processors);
}

bool test_cuda_open(test_cuda *t, agl_dtype activation)
{
    *t = (test_cuda){.activation = activation, .random = {(uint64_t)17 + activation}};
    t->cuda = test_cuda_create(activation);
    if (t->cuda == NULL) return false;
    assert_int_equal(t->cuda->activation, activation);
    assert_int_equal(t->cuda->ops->stream_create(t->cuda, &t->cuda_stream, NULL), AGL_OK);
    t->cpu = test_backend_create(&TEST_VARIANTS[0], 1);
    t->cpu_stream = test_stream(t->cpu);
    return true;
}

void test_cuda_close(test_cuda *t)
{
    t->cuda->ops->stream_destroy(t->cuda_stream);
    t->cuda->ops->destroy(t->cuda);
    t->cpu->ops->destroy(t->cpu);
}

/* ---- memory ------------------------------------------------------------------ */

static void wait(test_cuda *t)
{
    agl_error err = {0};
    agl_status status = t->cuda->ops->stream_wait(t->cuda_stream, &err);
    if (status != AGL_OK) fail_msg("the device reports: %s", err.message);
}

void *test_cuda_upload(test_cuda *t, const void *host, size_t bytes)
{
    void *device = NULL;
    assert_int_equal(t->cuda->ops->alloc(t->cuda, &device, bytes, AGL_MEMORY_ACTIVATIONS, NULL), AGL_OK);
    if (host != NULL) assert_int_equal(t->cuda->ops->upload(t->cuda_stream, device, host, bytes), AGL_OK);
    wait(t);
    return device;
}

void test_cuda_download(test_cuda *t, void *host, const void *device, size_t bytes)
{
    assert_int_equal(t->cuda->ops->download(t->cuda_stream, host, device, bytes), AGL_OK);
    wait(t);
}

void test_cuda_free(test_cuda *t, void *device)
{
    t->cuda->ops->free(t->cuda, device);
}

/* ---- values ------------------------------------------------------------------ */

float test_cuda_round(agl_dtype dtype, float value)
{
    if (dtype == AGL_F32) return value;
    if (dtype == AGL_BF16) return agl_bf16_to_f32(agl_f32_to_bf16(value));
    return agl_f16_to_f32(agl_f32_to_f16(fminf(fmaxf(value, -F16_LARGEST), F16_LARGEST)));
}

void *test_cuda_pack(agl_dtype dtype, const float *values, size_t count)
{
    void *data = test_alloc(count * agl_dtype_bytes(dtype));
    for (size_t i = 0; i < count; i++) {
        float value = test_cuda_round(dtype, values[i]);
        if (dtype == AGL_F32) ((float *)data)[i] = value;
        else if (dtype == AGL_BF16) ((uint16_t *)data)[i] = agl_f32_to_bf16(value);
        else ((uint16_t *)data)[i] = agl_f32_to_f16(value);
    }
    return data;
}

float *test_cuda_values(test_cuda *t, void **device, agl_dtype dtype, size_t count, float scale)
{
    float *values = test_floats(&t->random, count, scale);
    for (size_t i = 0; i < count; i++) values[i] = test_cuda_round(dtype, values[i]);
    void *data = test_cuda_pack(dtype, values, count);
    *device = test_cuda_upload(t, data, count * agl_dtype_bytes(dtype));
    free(data);
    return values;
}

/* Of the rounding to nearest; below the least normal F16 steps no longer shrink. */
static double half_step(agl_dtype dtype, double value)
{
    if (dtype == AGL_F32) return fabs(value) * 0x1p-24;
    return dtype == AGL_BF16 ? fabs(value) * 0x1p-8 : fmax(fabs(value) * 0x1p-11, 0x1p-25);
}

void test_cuda_compare(test_cuda *t, const char *what, const void *device, agl_dtype dtype,
                       const float *want, size_t count, double relative, double absolute)
{
    size_t bytes = count * agl_dtype_bytes(dtype);
    void *data = test_alloc(bytes);
    test_cuda_download(t, data, device, bytes);
    bool exact = relative == 0 && absolute == 0;
    for (size_t i = 0; i < count; i++) {
        float got = (float)test_element(data, dtype, (int64_t)i), near = test_cuda_round(dtype, want[i]);
        double wanted = dtype == AGL_F16 ? (double)fminf(fmaxf(want[i], -F16_LARGEST), F16_LARGEST) : (double)want[i];
        double slack = half_step(dtype, wanted) + relative * fabs(wanted) + absolute;
        if (exact ? memcmp(&got, &near, sizeof got) == 0 : fabs((double)got - wanted) <= slack) continue;
        fail_msg("%s %s: element %zu of %zu is %.9g, not %.9g +- %.3g", what, agl_dtype_name(dtype), i,
                 count, (double)got, wanted, exact ? 0 : slack);
    }
    free(data);
}
