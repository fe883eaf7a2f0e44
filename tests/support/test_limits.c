/* SPDX-License-Identifier: Apache-2.0 */
#include "support/test_limits.h"

#include "bench/machine.h"

test_limits test_limits_measure(uint32_t threads)
{
    return (test_limits){.read_gb_s = 1e-9 * agl_machine_read_rate(threads, 4),
                         .fma_gflop_s = 1e-9 * agl_machine_multiply_rate(threads, 4)};
}
