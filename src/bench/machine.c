/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/machine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "base/clock.h"
#include "base/thread_pool.h"

#define READ_BYTES ((size_t)1 << 30)
#define TASK_BYTES ((size_t)4 << 20)
#define MULTIPLY_ROUNDS 4000000
#define CHAINS 12               /* independent sums: latency times throughput of any FMA unit */

/* ---- description -------------------------------------------------------- */

static void read_line(char *out, size_t bytes, const char *path, const char *key)
{
    char line[512];
    FILE *file = fopen(path, "r");
    out[0] = '\0';
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        char *colon = strchr(line, ':');
        if (strncmp(line, key, strlen(key)) != 0 || colon == NULL) continue;
        colon += 1 + strspn(colon + 1, " \t");
        colon[strcspn(colon, "\n")] = '\0';
        snprintf(out, bytes, "%s", colon);
        break;
    }
    if (file != NULL) fclose(file);
}

static double steal_share(void)
{
    unsigned long long t[8] = {0}, total = 0;
    FILE *file = fopen("/proc/stat", "r");
    int got = file == NULL ? 0
                           : fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0],
                                    &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]);
    if (file != NULL) fclose(file);
    for (int i = 0; i < 8; i++) total += t[i];
    return got == 8 && total > 0 ? (double)t[7] / (double)total : 0;
}

void agl_machine_driver(char *out, size_t size, const char *text)
{
    out[0] = '\0';
    while (*text != '\0') {
        size_t bytes = strspn(text, "0123456789.");
        const char *point = memchr(text, '.', bytes);
        if (point != NULL && point > text && text[bytes - 1] != '.') {
            snprintf(out, size, "%.*s", (int)bytes, text);
            return;
        }
        text += bytes > 0 ? bytes : 1;
    }
}

static void read_driver(agl_machine *machine)
{
    char text[512] = "";
    FILE *file = fopen("/proc/driver/nvidia/version", "r");
    if (file == NULL) return;
    if (fgets(text, sizeof text, file) != NULL) {
        agl_machine_driver(machine->driver, sizeof machine->driver, text);
    }
    fclose(file);
}

agl_machine agl_machine_describe(void)
{
    agl_machine machine = {.cpus = agl_cpu_count(), .steal = steal_share()};
    struct utsname name;
    read_line(machine.cpu, sizeof machine.cpu, "/proc/cpuinfo", "model name");
    if (machine.cpu[0] == '\0') snprintf(machine.cpu, sizeof machine.cpu, "unknown CPU");
    if (uname(&name) == 0) {
        /* "6.1.0" of "6.1.0-18-amd64": what follows is the vendor's. */
        name.release[strcspn(name.release, "-")] = '\0';
        snprintf(machine.system, sizeof machine.system, "%.20s %.40s %.20s", name.sysname,
                 name.release, name.machine);
    }
    read_driver(&machine);
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0) machine.memory_bytes = (uint64_t)pages * (uint64_t)page;
    return machine;
}

void agl_machine_append_json(agl_buffer *out, const agl_machine *machine)
{
    agl_buffer_append_text(out, "{\"cpu\":\"");
    agl_buffer_append_json(out, machine->cpu, strlen(machine->cpu));
    agl_buffer_append_text(out, "\",\"system\":\"");
    agl_buffer_append_json(out, machine->system, strlen(machine->system));
    if (machine->driver[0] != '\0') {
        agl_buffer_append_text(out, "\",\"driver\":\"");
        agl_buffer_append_json(out, machine->driver, strlen(machine->driver));
    }
    agl_buffer_append_format(out, "\",\"cpus\":%u,\"memory_bytes\":%llu,\"steal\":%.4f}",
                             machine->cpus, (unsigned long long)machine->memory_bytes,
                             machine->steal);
}

/* ---- rates -------------------------------------------------------------- */

/* Not under ThreadSanitizer: its checks would run in the resolver, before they are set up. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
#define WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDEST
#endif

/* Eight words a step from each of `streams` equal parts; the compiler makes vectors of it. */
#define READ(streams)                                                                    \
    WIDEST static uint64_t read_##streams(const uint64_t *data, size_t words)            \
    {                                                                                    \
        size_t part = words / (streams);                                                 \
        uint64_t sums[streams][8] = {{0}}, sum = 0;                                      \
        for (size_t i = 0; i + 8 <= part; i += 8) {                                      \
            for (int s = 0; s < (streams); s++) {                                        \
                const uint64_t *at = data + (size_t)s * part + i;                        \
                __builtin_prefetch(at + 512);                                            \
                for (int k = 0; k < 8; k++) sums[s][k] += at[k];                         \
            }                                                                            \
        }                                                                                \
        for (int s = 0; s < (streams); s++) {                                            \
            for (int k = 0; k < 8; k++) sum += sums[s][k];                               \
        }                                                                                \
        return sum;                                                                      \
    }
READ(1)
READ(2)
READ(4)

/* Which is the fastest differs from machine to machine. */
static uint64_t (*const READERS[])(const uint64_t *data, size_t words) = {read_1, read_2, read_4};

typedef struct {
    uint64_t (*read)(const uint64_t *data, size_t words);
    const uint64_t *data;
    uint64_t sums[64];
} read_job;

static void read_task(void *context, size_t task, uint32_t worker)
{
    read_job *job = context;
    job->sums[worker % 64] += job->read(job->data + task * (TASK_BYTES / 8), TASK_BYTES / 8);
}

double agl_machine_read_rate(uint32_t threads, int tries)
{
    agl_thread_pool *pool;
    if (agl_thread_pool_create(&pool, threads, NULL) != AGL_OK) return 0;
    void *memory =
        mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    double best = 0;
    if (memory != MAP_FAILED) {
        madvise(memory, READ_BYTES, MADV_HUGEPAGE);
        memset(memory, 1, READ_BYTES);
        for (int i = 0; i < tries * (int)AGL_COUNT(READERS); i++) {
            read_job job = {.read = READERS[(size_t)i % AGL_COUNT(READERS)], .data = memory};
            double start = agl_clock_s();
            agl_thread_pool_run(pool, read_task, &job, READ_BYTES / TASK_BYTES);
            best = fmax(best, (double)READ_BYTES / (agl_clock_s() - start));
        }
        munmap(memory, READ_BYTES);
    }
    agl_thread_pool_destroy(pool);
    return best;
}

/* CHAINS sums of one vector each; every variant is the same loop. */
#define MULTIPLY(vector, set, fma)                                             \
    vector sums[CHAINS], factor = set(0.5f), addend = set(0.25f);              \
    for (int c = 0; c < CHAINS; c++) sums[c] = set((float)c);                  \
    for (int i = 0; i < MULTIPLY_ROUNDS; i++) {                                \
        for (int c = 0; c < CHAINS; c++) sums[c] = fma(sums[c], factor, addend); \
    }                                                                          \
    float result[sizeof(vector) / sizeof(float)], sum = 0;                     \
    for (int c = 0; c < CHAINS; c++) {                                         \
        memcpy(result, &sums[c], sizeof result);                               \
        sum += result[0];                                                      \
    }                                                                          \
    return sum;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static float multiply_avx512(void)
{
    MULTIPLY(__m512, _mm512_set1_ps, _mm512_fmadd_ps)
}

__attribute__((target("avx2,fma"))) static float multiply_avx2(void)
{
    MULTIPLY(__m256, _mm256_set1_ps, _mm256_fmadd_ps)
}
#elif defined(__ARM_NEON)
static float32x4_t neon_fma(float32x4_t x, float32x4_t factor, float32x4_t addend)
{
    return vfmaq_f32(addend, x, factor);
}

static float multiply_neon(void)
{
    MULTIPLY(float32x4_t, vdupq_n_f32, neon_fma)
}
#endif

static float same(float value)
{
    return value;
}

static float multiply_portable(void)
{
    MULTIPLY(float, same, fmaf)
}

typedef struct {
    float (*run)(void);
    int lanes;
    float sink[64];
} multiply_job;

static multiply_job multiply_best(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return (multiply_job){.run = multiply_avx512, .lanes = 16};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return (multiply_job){.run = multiply_avx2, .lanes = 8};
    }
#elif defined(__ARM_NEON)
    return (multiply_job){.run = multiply_neon, .lanes = 4};
#endif
    return (multiply_job){.run = multiply_portable, .lanes = 1};
}

static void multiply_task(void *context, size_t task, uint32_t worker)
{
    multiply_job *job = context;
    (void)task;
    job->sink[worker % 64] = job->run();
}

double agl_machine_multiply_rate(uint32_t threads, int tries)
{
    agl_thread_pool *pool;
    if (agl_thread_pool_create(&pool, threads, NULL) != AGL_OK) return 0;
    size_t tasks = agl_thread_pool_size(pool);
    multiply_job job = multiply_best();
    double best = 0;
    for (int i = 0; i < tries; i++) {
        double start = agl_clock_s();
        agl_thread_pool_run(pool, multiply_task, &job, tasks);
        double flops = 2.0 * MULTIPLY_ROUNDS * CHAINS * job.lanes * (double)tasks;
        best = fmax(best, flops / (agl_clock_s() - start));
    }
    agl_thread_pool_destroy(pool);
    return best;
}
