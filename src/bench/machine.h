/* SPDX-License-Identifier: Apache-2.0
 *
 * machine.h - what this computer is, and the two rates that bound the model on it:
 * reading memory, and multiplying. Both are measured, in about a second each. */
#ifndef AGL_BENCH_MACHINE_H
#define AGL_BENCH_MACHINE_H

#include <stdint.h>

#include "base/buffer.h"

typedef struct {
    char cpu[96];               /* "AMD EPYC 9B14"                                  */
    char system[96];            /* "Linux 6.1.0 x86_64"                             */
    char driver[32];            /* NVIDIA's, "550.54.15"; empty: none is loaded     */
    uint32_t cpus;              /* this process may use                             */
    uint64_t memory_bytes;
    double steal;               /* share of CPU time taken by the host since start  */
} agl_machine;

agl_machine agl_machine_describe(void);

/* The version in the text of /proc/driver/nvidia/version: its first number with a point in it. */
void agl_machine_driver(char *out, size_t size, const char *text);

/* Best of `tries` sums over 1 GiB with 1, 2 and 4 read streams a thread, `threads` (0: all) at
 * once: bytes a second. 0: no memory. */
double agl_machine_read_rate(uint32_t threads, int tries);

/* Best of `tries` F32 fused multiply-adds in registers: FLOP a second (two each). */
double agl_machine_multiply_rate(uint32_t threads, int tries);

void agl_machine_append_json(agl_buffer *out, const agl_machine *machine);

#endif
