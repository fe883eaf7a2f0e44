/* SPDX-License-Identifier: Apache-2.0
 *
 * thread_pool.h - a fixed crew that runs one job at a time, in chunks taken from
 * an atomic counter, so that a descheduled thread holds up one chunk and not its
 * whole share. Workers spin briefly between jobs, then sleep.
 *
 * One thread (the owner) calls agl_thread_pool_run; it works too. */
#ifndef AGL_BASE_THREAD_POOL_H
#define AGL_BASE_THREAD_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct agl_thread_pool agl_thread_pool;

/* `worker` is 0 .. threads-1 and constant during one call: it indexes per-thread scratch. */
typedef void (*agl_task_fn)(void *context, size_t task, uint32_t worker);

/* threads >= 1, the caller included; 0: the CPUs this process may use. */
agl_status agl_thread_pool_create(agl_thread_pool **out, uint32_t threads, agl_error *err);
void agl_thread_pool_destroy(agl_thread_pool *pool);
uint32_t agl_thread_pool_size(const agl_thread_pool *pool);

/* Call fn(context, 0 .. tasks-1) once each, in any order; returns when all are done. */
void agl_thread_pool_run(agl_thread_pool *pool, agl_task_fn fn, void *context, size_t tasks);

/* CPUs this process may run on (affinity and cgroup quota). */
uint32_t agl_cpu_count(void);

#ifdef __cplusplus
}
#endif

#endif
