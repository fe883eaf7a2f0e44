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
#include "base/thread_pool.h"
#include "support/test_kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

/* ---- limits of the machine ------------------------------------------------- */

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

#define READ_TASKS 64
#define READ_TASK_BYTES ((size_t)4 << 20) /* all tasks: 256 MiB, far beyond the caches */
#define FMA_ROUNDS 1000000
#define FMA_CHAINS 12

typedef struct {
    agl_thread_pool *pool;
    const char *memory;
    int streams;
    float sink[64 * 16];                  /* one line a worker; keeps the loops alive */
} limits_job;

#if defined(__x86_64__)
__attribute__((target("avx512f")))
static float read_avx512(const char *data, int streams)
{
    __m512i sums[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                       _mm512_setzero_si512()};
    size_t part = READ_TASK_BYTES / (size_t)streams;
    for (size_t at = 0; at < part; at += 64) {
        for (int s = 0; s < streams; s++) {
            const char *line = data + (size_t)s * part + at;
            _mm_prefetch(line + 2048, _MM_HINT_T0);
            sums[s] = _mm512_xor_si512(sums[s], _mm512_load_si512(line));
        }
    }
    sums[0] = _mm512_xor_si512(_mm512_xor_si512(sums[0], sums[1]), _mm512_xor_si512(sums[2], sums[3]));
    return (float)_mm512_reduce_or_epi32(sums[0]);
}

__attribute__((target("avx512f")))
static float fma_avx512(void)
{
    __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
    /* Different starts, or the compiler folds the chains into one. */
    __m512 c0 = _mm512_set1_ps(0), c1 = _mm512_set1_ps(1), c2 = _mm512_set1_ps(2),
           c3 = _mm512_set1_ps(3), c4 = _mm512_set1_ps(4), c5 = _mm512_set1_ps(5),
           c6 = _mm512_set1_ps(6), c7 = _mm512_set1_ps(7), c8 = _mm512_set1_ps(8),
           c9 = _mm512_set1_ps(9), c10 = _mm512_set1_ps(10), c11 = _mm512_set1_ps(11);
    for (int i = 0; i < FMA_ROUNDS; i++) {
        c0 = _mm512_fmadd_ps(c0, a, b), c1 = _mm512_fmadd_ps(c1, a, b);
        c2 = _mm512_fmadd_ps(c2, a, b), c3 = _mm512_fmadd_ps(c3, a, b);
        c4 = _mm512_fmadd_ps(c4, a, b), c5 = _mm512_fmadd_ps(c5, a, b);
        c6 = _mm512_fmadd_ps(c6, a, b), c7 = _mm512_fmadd_ps(c7, a, b);
        c8 = _mm512_fmadd_ps(c8, a, b), c9 = _mm512_fmadd_ps(c9, a, b);
        c10 = _mm512_fmadd_ps(c10, a, b), c11 = _mm512_fmadd_ps(c11, a, b);
    }
    c0 = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(c0, c1), _mm512_add_ps(c2, c3)),
                       _mm512_add_ps(_mm512_add_ps(c4, c5), _mm512_add_ps(c6, c7)));
    c0 = _mm512_add_ps(c0, _mm512_add_ps(_mm512_add_ps(c8, c9), _mm512_add_ps(c10, c11)));
    return _mm512_reduce_add_ps(c0);
}
#endif

static float read_plain(const char *data)
{
    uint64_t sums[8] = {0};
    for (size_t at = 0; at < READ_TASK_BYTES; at += 64) {
        const uint64_t *line = (const uint64_t *)(const void *)(data + at);
        for (int i = 0; i < 8; i++) sums[i] ^= line[i];
    }
    return (float)(sums[0] ^ sums[1] ^ sums[2] ^ sums[3] ^ sums[4] ^ sums[5] ^ sums[6] ^ sums[7]);
}

/* Independent chains of four lanes, which compilers turn into vector FMAs. */
static float fma_plain(void)
{
    float c[FMA_CHAINS][4];
    for (int i = 0; i < FMA_CHAINS; i++) for (int j = 0; j < 4; j++) c[i][j] = (float)(i + j);
    for (int round = 0; round < FMA_ROUNDS; round++) {
        for (int i = 0; i < FMA_CHAINS; i++) {
            for (int j = 0; j < 4; j++) c[i][j] = c[i][j] * 0.999f + 0.001f;
        }
    }
    float sum = 0.0f;
    for (int i = 0; i < FMA_CHAINS; i++) for (int j = 0; j < 4; j++) sum += c[i][j];
    return sum;
}

static bool has_avx512(void)
{
    return (agl_cpu_features() & AGL_ISA_AVX512) != 0;
}

static void read_task(void *context, size_t task, uint32_t worker)
{
    limits_job *job = context;
    const char *data = job->memory + task * READ_TASK_BYTES;
#if defined(__x86_64__)
    if (has_avx512()) {
        job->sink[worker % 64 * 16] += read_avx512(data, job->streams);
        return;
    }
#endif
    job->sink[worker % 64 * 16] += read_plain(data);
}

static void fma_task(void *context, size_t task, uint32_t worker)
{
    limits_job *job = context;
    (void)task;
#if defined(__x86_64__)
    if (has_avx512()) {
        job->sink[worker % 64 * 16] += fma_avx512();
        return;
    }
#endif
    job->sink[worker % 64 * 16] += fma_plain();
}

static void read_all(void *context)
{
    limits_job *job = context;
    agl_thread_pool_run(job->pool, read_task, job, READ_TASKS);
}

static void fma_all(void *context)
{
    limits_job *job = context;
    agl_thread_pool_run(job->pool, fma_task, job, 8 * agl_thread_pool_size(job->pool));
}

test_limits test_limits_measure(uint32_t threads)
{
    test_limits limits = {0};
    agl_backend *memory_owner = test_backend_create(&TEST_VARIANTS[0], 1);
    limits_job job = {0};
    void *memory;
    assert_int_equal(agl_thread_pool_create(&job.pool, threads, NULL), AGL_OK);
    assert_int_equal(memory_owner->ops->alloc(memory_owner, &memory, READ_TASKS * READ_TASK_BYTES + 4096,
                                              AGL_MEMORY_WORKSPACE, NULL), AGL_OK);
    memset(memory, 1, READ_TASKS * READ_TASK_BYTES);
    job.memory = memory;
    for (job.streams = 1; job.streams <= 4; job.streams *= 2) {
        double rate = READ_TASKS * READ_TASK_BYTES / test_best_seconds(read_all, &job, 8) / 1e9;
        if (rate > limits.read_gb_s) limits.read_gb_s = rate;
    }
    double flop = 2.0 * FMA_ROUNDS * FMA_CHAINS * (has_avx512() ? 16 : 4) * 8 * threads;
    limits.fma_gflop_s = flop / test_best_seconds(fma_all, &job, 3) / 1e9;
    memory_owner->ops->free(memory_owner, memory);
    agl_thread_pool_destroy(job.pool);
    memory_owner->ops->destroy(memory_owner);
    return limits;
}
