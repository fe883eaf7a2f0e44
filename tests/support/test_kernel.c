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

#include "backend/cpu/cpu_features.h"
#include "base/clock.h"
#include "support/test_kernel.h"

const test_variant TEST_VARIANTS[] = {
    {"portable", AGL_ISA_PORTABLE, 0},
    {"avx2", AGL_ISA_AVX2, AGL_ISA_AVX2},
    {"avx512", AGL_ISA_AVX2 | AGL_ISA_AVX512, AGL_ISA_AVX512},
    {"neon", AGL_ISA_NEON, AGL_ISA_NEON},
    {NULL, 0, 0},
};

bool test_variant_runs(const test_variant *variant)
{
    if ((agl_cpu_features() & variant->isa_needed) == variant->isa_needed) return true;
    printf("skip: this processor has no %s\n", variant->name);
    return false;
}

agl_backend *test_backend_create(const test_variant *variant, uint32_t threads)
{
    agl_backend *backend;
    agl_backend_options options = {.threads = threads, .isa_mask = variant->isa_mask};
    assert_int_equal(agl_backend_cpu_create(&backend, &options, NULL), AGL_OK);
    assert_non_null(strstr(backend->description, variant->name));
    return backend;
}

agl_stream *test_stream(agl_backend *backend)
{
    agl_stream *stream;
    assert_int_equal(backend->ops->stream_create(backend, &stream, NULL), AGL_OK);
    return stream;
}

/* ---- random arrays --------------------------------------------------------- */

uint32_t test_random_u32(test_random *random)
{
    random->state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    uint64_t z = random->state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

float test_random_f32(test_random *random, float scale)
{
    return ((float)(test_random_u32(random) >> 8) * 0x1p-23f - 1.0f) * scale;
}

void *test_alloc(size_t bytes)
{
    size_t rounded = (bytes + 64) / 64 * 64;
    void *memory = aligned_alloc(64, rounded);
    assert_non_null(memory);
    memset(memory, 0, rounded);
    return memory;
}

void *test_elements(test_random *random, agl_dtype dtype, size_t count, float scale)
{
    void *data = test_alloc(count * agl_dtype_bytes(dtype));
    for (size_t i = 0; i < count; i++) {
        float value = test_random_f32(random, scale);
        if (dtype == AGL_F32) ((float *)data)[i] = value;
        else if (dtype == AGL_BF16) ((uint16_t *)data)[i] = agl_f32_to_bf16(value);
        else ((uint16_t *)data)[i] = agl_f32_to_f16(value);
    }
    return data;
}

float *test_floats(test_random *random, size_t count, float scale)
{
    return test_elements(random, AGL_F32, count, scale);
}

double test_element(const void *data, agl_dtype dtype, int64_t index)
{
    if (dtype == AGL_F32) return (double)((const float *)data)[index];
    uint16_t value = ((const uint16_t *)data)[index];
    return (double)(dtype == AGL_BF16 ? agl_bf16_to_f32(value) : agl_f16_to_f32(value));
}

/* ---- comparison ------------------------------------------------------------ */

void test_close(const char *what, float got, double want, double tolerance)
{
    if (fabs((double)got - want) <= tolerance) return;
    fail_msg("%s: got %.9g, want %.9g +- %.3g", what, (double)got, want, tolerance);
}

void test_same_bits(const char *what, const float *got, const float *want, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (memcmp(&got[i], &want[i], sizeof *got) == 0) continue;
        fail_msg("%s: element %zu is %a, not %a", what, i, (double)got[i], (double)want[i]);
    }
}

/* ---- time ------------------------------------------------------------------ */

double test_best_seconds(test_bench_fn fn, void *context, int runs)
{
    double best = INFINITY;
    for (int i = 0; i < runs; i++) {
        double start = agl_clock_s();
        fn(context);
        double seconds = agl_clock_s() - start;
        if (seconds < best) best = seconds;
    }
    return best;
}
