/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "bench/machine.h"
#include "engine/device_limits.h"

/* Small enough for sanitizers: the rates are those of the caches. */
#define WEIGHT_BYTES ((size_t)8 << 20)

static void rates_are_those_of_the_machine(void **state)
{
    (void)state;
    agl_backend *backend;
    agl_device_limits limits;
    agl_error err;
    assert_int_equal(agl_backend_cpu_create(&backend, &(agl_backend_options){.threads = 2}, NULL), AGL_OK);
    if (agl_device_limits_take(&limits, backend, WEIGHT_BYTES, &err) != AGL_OK) fail_msg("%s", err.message);
    assert_false(limits.gpu);
    assert_string_equal(limits.name, backend->description);
    assert_int_equal(limits.memory_bytes, backend->memory_total);
    assert_true(limits.read_rate > 1e7 && limits.read_rate < 1e13);
    /* Nothing multiplies faster than registers do; the slack is for clocks and neighbours. */
    double most = agl_machine_multiply_rate(2, 3);
    if (limits.multiply_rate < 1e6 || limits.multiply_rate > 1.5 * most) {
        fail_msg("%.3g FLOP/s, of %.3g", limits.multiply_rate, most);
    }
    backend->ops->destroy(backend);
}

static void a_device_that_is_not_there_is_an_error(void **state)
{
    (void)state;
    agl_device_limits limits;
    agl_error err = {0};
    assert_int_equal(agl_device_limits_measure(&limits, &(agl_engine_options){.device = "abacus"}, &err),
                     AGL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "abacus"));
    assert_int_equal(agl_device_limits_measure(&limits, &(agl_engine_options){.model = "/none"}, &err),
                     AGL_ERR_NOT_FOUND);
}

static void drivers_are_read(void **state)
{
    (void)state;
    static const char *const CASES[][2] = {
        {"NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n", "550.54.15"},
        {"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", "580.65.06"},
        {"no version. at all 12 34.", ""},
        {"", ""},
    };
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        char version[32];
        agl_machine_driver(version, sizeof version, CASES[i][0]);
        assert_string_equal(version, CASES[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_are_those_of_the_machine),
        cmocka_unit_test(a_device_that_is_not_there_is_an_error),
        cmocka_unit_test(drivers_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
