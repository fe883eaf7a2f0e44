/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <time.h>

#define NS_PER_S 1000000000ll
#define NS_PER_MS 1000000ll

uint64_t agl_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

double agl_clock_s(void)
{
    return (double)agl_clock_ns() * 1e-9;
}

void agl_clock_deadline(struct timespec *out, int64_t milliseconds_from_now)
{
    clock_gettime(CLOCK_MONOTONIC, out);
    int64_t ns = out->tv_nsec + (milliseconds_from_now % 1000) * NS_PER_MS;
    out->tv_sec += (time_t)(milliseconds_from_now / 1000 + ns / NS_PER_S);
    out->tv_nsec = (long)(ns % NS_PER_S);
}
