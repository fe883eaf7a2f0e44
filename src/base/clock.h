/* SPDX-License-Identifier: Apache-2.0
 *
 * clock.h - monotonic time. */
#ifndef AGL_BASE_CLOCK_H
#define AGL_BASE_CLOCK_H

#include <stdint.h>

/* Nanoseconds and seconds since an arbitrary start; never goes back. */
uint64_t agl_clock_ns(void);
double agl_clock_s(void);

/* Deadline for pthread_cond_timedwait on a CLOCK_MONOTONIC condition variable. */
struct timespec;
void agl_clock_deadline(struct timespec *out, int64_t milliseconds_from_now);

#endif
