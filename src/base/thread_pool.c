/* SPDX-License-Identifier: Apache-2.0
 *
 * One 64-bit word is the whole state of the running job:
 *
 *     state = generation << 32 | next task        next = CLOSED: no job
 *
 * A worker loads the word, reads the job's fields, and claims its task with a
 * compare-exchange of the word. The owner closes the word before it changes the
 * fields, so a claim that succeeds has read fields of the same generation: a worker
 * that overslept a whole job can neither run a stale function nor steal a task.
 * The owner waits for tasks, not for workers; nobody waits for a sleeper. */
#include "base/thread_pool.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS_MAX 1024u
#define CLOSED 0xffffffffu
#define TASKS_MAX 0xfffffff0u

/* Polls before sleeping: about 20 us, longer than the serial work between two
 * operations of a decode step and far shorter than a time slice. */
#define SPIN_COUNT 600

typedef struct {
    agl_thread_pool *pool;
    pthread_t thread;
    uint32_t worker;
} crew_member;

struct agl_thread_pool {
    _Atomic uint64_t state;
    _Atomic(agl_task_fn) fn;
    _Atomic(void *) context;
    _Atomic uint32_t tasks;
    _Alignas(64) _Atomic uint32_t done;     /* tasks finished                     */
    _Alignas(64) _Atomic uint32_t sleepers; /* workers in pthread_cond_wait       */
    _Atomic bool owner_sleeps;
    _Atomic bool stop;
    pthread_mutex_t mutex;                  /* guards only the sleeping           */
    pthread_cond_t wake, finished;
    uint32_t threads;                       /* caller included                    */
    crew_member *crew;                      /* [threads]; entry 0 is the owner    */
};

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Run tasks of the current job until none is left; returns the generation seen. */
static uint32_t work(agl_thread_pool *pool, uint32_t worker)
{
    for (;;) {
        uint64_t state = atomic_load(&pool->state);
        uint32_t task = (uint32_t)state;
        uint32_t tasks = atomic_load_explicit(&pool->tasks, memory_order_relaxed);
        if (task >= tasks) return (uint32_t)(state >> 32);
        agl_task_fn fn = atomic_load_explicit(&pool->fn, memory_order_relaxed);
        void *context = atomic_load_explicit(&pool->context, memory_order_relaxed);
        if (!atomic_compare_exchange_weak(&pool->state, &state, state + 1)) continue;
        fn(context, task, worker);
        if (atomic_fetch_add(&pool->done, 1) + 1 == tasks && atomic_load(&pool->owner_sleeps)) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->finished);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
}

static bool has_news(agl_thread_pool *pool, uint32_t seen)
{
    return (uint32_t)(atomic_load(&pool->state) >> 32) != seen || atomic_load(&pool->stop);
}

static void *worker_main(void *argument)
{
    crew_member *member = argument;
    agl_thread_pool *pool = member->pool;
    uint32_t seen = 0;
    while (!atomic_load(&pool->stop)) {
        int spins = 0;
        while (!has_news(pool, seen) && spins++ < SPIN_COUNT) relax();
        if (!has_news(pool, seen)) {
            pthread_mutex_lock(&pool->mutex);
            atomic_fetch_add(&pool->sleepers, 1);
            while (!has_news(pool, seen)) pthread_cond_wait(&pool->wake, &pool->mutex);
            atomic_fetch_sub(&pool->sleepers, 1);
            pthread_mutex_unlock(&pool->mutex);
        }
        seen = work(pool, member->worker);
    }
    return NULL;
}

static void stop_crew(agl_thread_pool *pool, uint32_t started)
{
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (uint32_t i = 1; i < started; i++) pthread_join(pool->crew[i].thread, NULL);
}

static void pool_free(agl_thread_pool *pool)
{
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->finished);
    free(pool->crew);
    free(pool);
}

agl_status agl_thread_pool_create(agl_thread_pool **out, uint32_t threads, agl_error *err)
{
    *out = NULL;
    if (threads == 0) threads = agl_cpu_count();
    if (threads > THREADS_MAX) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "%u threads asked for, at most %u are possible",
                        threads, THREADS_MAX);
    }
    agl_thread_pool *pool = aligned_alloc(64, (sizeof *pool + 63) / 64 * 64);
    crew_member *crew = calloc(threads, sizeof *crew);
    if (pool == NULL || crew == NULL) {
        free(pool);
        free(crew);
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for %u threads", threads);
    }
    memset(pool, 0, sizeof *pool);
    pool->crew = crew;
    pool->threads = threads;
    atomic_init(&pool->state, (uint64_t)CLOSED);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->finished, NULL);
    for (uint32_t i = 1; i < threads; i++) {
        crew[i] = (crew_member){.pool = pool, .worker = i};
        int failed = pthread_create(&crew[i].thread, NULL, worker_main, &crew[i]);
        if (failed != 0) {
            stop_crew(pool, i);
            pool_free(pool);
            return agl_fail(err, AGL_ERR_LIMIT, "cannot start thread %u of %u: %s", i + 1, threads,
                            strerror(failed));
        }
    }
    *out = pool;
    return AGL_OK;
}

void agl_thread_pool_destroy(agl_thread_pool *pool)
{
    if (pool == NULL) return;
    stop_crew(pool, pool->threads);
    pool_free(pool);
}

uint32_t agl_thread_pool_size(const agl_thread_pool *pool)
{
    return pool->threads;
}

/* Sleep rather than spin on a worker that holds the last task: it may need our CPU. */
static void wait_done(agl_thread_pool *pool, uint32_t tasks)
{
    for (int spins = 0; spins < SPIN_COUNT; spins++) {
        if (atomic_load(&pool->done) == tasks) return;
        relax();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->owner_sleeps, true);
    while (atomic_load(&pool->done) != tasks) pthread_cond_wait(&pool->finished, &pool->mutex);
    atomic_store(&pool->owner_sleeps, false);
    pthread_mutex_unlock(&pool->mutex);
}

static void run_shared(agl_thread_pool *pool, agl_task_fn fn, void *context, uint32_t tasks)
{
    uint64_t generation = (atomic_load(&pool->state) >> 32) + 1;
    atomic_store(&pool->fn, fn);
    atomic_store(&pool->context, context);
    atomic_store(&pool->tasks, tasks);
    atomic_store(&pool->done, 0);
    atomic_store(&pool->state, generation << 32);
    if (atomic_load(&pool->sleepers) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
    work(pool, 0);
    wait_done(pool, tasks);
    atomic_store(&pool->state, (generation << 32) | CLOSED);
}

void agl_thread_pool_run(agl_thread_pool *pool, agl_task_fn fn, void *context, size_t tasks)
{
    if (pool->threads == 1 || tasks <= 1) {
        for (size_t task = 0; task < tasks; task++) fn(context, task, 0);
        return;
    }
    assert(tasks <= TASKS_MAX);
    run_shared(pool, fn, context, (uint32_t)tasks);
}

/* ---- CPUs ------------------------------------------------------------------ */

static bool read_line(char *line, size_t bytes, const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) return false;
    bool found = fgets(line, (int)bytes, file) != NULL;
    fclose(file);
    return found;
}

static double read_number(const char *path)
{
    char line[64];
    return read_line(line, sizeof line, path) ? strtod(line, NULL) : -1.0;
}

/* CPUs that the quota of one control group allows, or `limit` if it has none. */
static double group_quota(const char *directory, double limit)
{
    char path[4352], line[128];
    double quota, period;
    snprintf(path, sizeof path, "%s/cpu.max", directory);
    if (read_line(line, sizeof line, path)) {
        if (sscanf(line, "%lf %lf", &quota, &period) != 2) return limit; /* "max 100000" */
    } else {
        snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", directory);
        quota = read_number(path);
        snprintf(path, sizeof path, "%s/cpu.cfs_period_us", directory);
        period = read_number(path);
    }
    if (quota <= 0 || period <= 0 || quota / period >= limit) return limit;
    return quota / period;
}

/* The smallest quota of this process's control group and its ancestors. */
static double cgroup_limit(double limit)
{
    char line[4096];
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL) return limit;
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (group == NULL) continue;
        *group++ = '\0';
        controllers++;
        bool v2 = *controllers == '\0';
        if (!v2 && strstr(controllers, "cpu") == NULL) continue;
        for (;;) {
            char directory[4224];
            snprintf(directory, sizeof directory, "/sys/fs/cgroup%s%s", v2 ? "" : "/cpu", group);
            limit = group_quota(directory, limit);
            char *slash = strrchr(group, '/');
            if (slash == NULL) break;
            *slash = '\0';
        }
    }
    fclose(file);
    return limit;
}

uint32_t agl_cpu_count(void)
{
    /* Larger than any machine of today; CPU_COUNT_S would need the kernel's own size. */
    cpu_set_t *set = CPU_ALLOC(8192);
    uint32_t count = 1;
    if (set != NULL) {
        size_t bytes = CPU_ALLOC_SIZE(8192);
        if (sched_getaffinity(0, bytes, set) == 0) count = (uint32_t)CPU_COUNT_S(bytes, set);
        CPU_FREE(set);
    }
    if (count == 0) count = 1;
    /* Rounded down: a pool larger than its quota is throttled as a whole. */
    uint32_t allowed = (uint32_t)cgroup_limit((double)count);
    return allowed == 0 ? 1 : allowed;
}
