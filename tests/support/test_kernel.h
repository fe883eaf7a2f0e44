/* SPDX-License-Identifier: Apache-2.0
 *
 * test_kernel.h - what the kernel checks share: the list of variants, repeatable random
 * arrays, comparison against F64 references, and the machine's own limits for --bench. */
#ifndef AGL_TESTS_SUPPORT_TEST_KERNEL_H
#define AGL_TESTS_SUPPORT_TEST_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "backend/backend.h"

typedef struct {
    const char *name;
    uint32_t isa_mask;          /* the only sets allowed; the best of them is dispatched */
    uint32_t isa_needed;
} test_variant;

/* Ends with a NULL name. Row 0 is portable C. */
extern const test_variant TEST_VARIANTS[];

/* False (and a line that says so) if this processor lacks the variant. */
bool test_variant_runs(const test_variant *variant);
agl_backend *test_backend_create(const test_variant *variant, uint32_t threads);
/* The only stream of a backend; the CPU has no other. */
agl_stream *test_stream(agl_backend *backend);

/* Uniform in [-scale, scale), the same sequence for the same seed. */
typedef struct {
    uint64_t state;
} test_random;
uint32_t test_random_u32(test_random *random);
float test_random_f32(test_random *random, float scale);
void *test_alloc(size_t bytes);     /* zeroed, 64-byte aligned, free() */
float *test_floats(test_random *random, size_t count, float scale);
void *test_elements(test_random *random, agl_dtype dtype, size_t count, float scale);
double test_element(const void *data, agl_dtype dtype, int64_t index);

/* Fail the test unless |got - want| <= tolerance for all; says where. */
void test_close(const char *what, float got, double want, double tolerance);
void test_same_bits(const char *what, const float *got, const float *want, size_t count);

/* Seconds of the fastest of `runs` calls. Other work on the machine can only slow a call
 * down, so the minimum is the measurement. */
typedef void (*test_bench_fn)(void *context);
double test_best_seconds(test_bench_fn fn, void *context, int runs);

#endif
