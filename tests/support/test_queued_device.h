/* SPDX-License-Identifier: Apache-2.0
 *
 * test_queued_device.h - the CPU backend as a device that works later, as a GPU does.
 *
 * Programs that link this are linked with --wrap=agl_backend_cpu_create. Host memory given to a
 * queued operation must still hold the same when it runs, and results are rubbish until then. */
#ifndef TEST_QUEUED_DEVICE_H
#define TEST_QUEUED_DEVICE_H

#include "backend/backend.h"

typedef enum {
    TEST_DEVICE_AT_ONCE,        /* the CPU backend as it is                             */
    TEST_DEVICE_AT_WAIT,        /* all work is done in stream_wait                      */
    TEST_DEVICE_THREAD,         /* by a thread of its own                               */
    TEST_DEVICE_COUNT
} test_device;

/* How backends work that are created from now on; a name for test groups. */
void test_device_use(test_device device);
const char *test_device_name(test_device device);

/* The backends made since test_device_use fail: stream_wait after so many times, or the sample
 * operation after so many times; UINT32_MAX: never. */
void test_device_break(uint32_t waits, uint32_t samples);

/* Operations that are queued and not done, on all streams. */
uint32_t test_device_queued(void);

#endif
