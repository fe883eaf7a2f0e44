/* SPDX-License-Identifier: Apache-2.0
 *
 * test_limits.h - what `--bench` of the kernel checks divides by: the limits of this machine with
 * that many threads (0: all), measured now as `autoglm bench` measures them. */
#ifndef AGL_TESTS_SUPPORT_TEST_LIMITS_H
#define AGL_TESTS_SUPPORT_TEST_LIMITS_H

#include <stdint.h>

typedef struct {
    double read_gb_s;           /* best of 1, 2 and 4 read streams a thread */
    double fma_gflop_s;         /* F32, the widest registers there are      */
} test_limits;

test_limits test_limits_measure(uint32_t threads);

#endif
