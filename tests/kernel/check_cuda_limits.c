/* SPDX-License-Identifier: Apache-2.0
 *
 * The rates of a CUDA device as agl_device_limits_take measures them: on a GPU those that any
 * card of compute capability 8.0 passes, on the emulated one that they are numbers at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "engine/device_limits.h"
#include "support/test_cuda.h"

static void check(agl_dtype activation)
{
    agl_backend *backend = test_cuda_create(activation);
    if (backend == NULL) return;
    bool real = test_cuda_is_real();
    agl_device_limits limits;
    agl_error err;
    size_t bytes = real ? (size_t)512 << 20 : (size_t)1 << 20;
    if (agl_device_limits_take(&limits, backend, bytes, &err) != AGL_OK) fail_msg("%s", err.message);
    printf("%s, %s: read %.1f GB/s, products %.3f TFLOP/s\n", limits.name, agl_dtype_name(activation),
           1e-9 * limits.read_rate, 1e-12 * limits.multiply_rate);
    assert_true(limits.gpu);
    assert_true(limits.name[0] != '\0' && strchr(limits.name, '(') == NULL);
    assert_int_equal(limits.memory_bytes, backend->memory_total);
    assert_true(limits.read_rate > (real ? 1e11 : 1) && limits.read_rate < 1e14);
    assert_true(limits.multiply_rate > (real ? 1e12 : 1) && limits.multiply_rate < 1e16);
    backend->ops->destroy(backend);
}

static void rates_of_16_bit_values(void **state)
{
    (void)state;
    check(AGL_BF16);
    check(AGL_F16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_of_16_bit_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
