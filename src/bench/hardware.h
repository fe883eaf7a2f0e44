/* SPDX-License-Identifier: Apache-2.0
 *
 * hardware.h - machines to predict for: a table of GPUs and CPUs by name, numbers given by
 * the user, or this machine as measured. */
#ifndef AGL_BENCH_HARDWARE_H
#define AGL_BENCH_HARDWARE_H

#include <stdbool.h>
#include <stdint.h>

#include "agl/agl.h"
#include "base/status.h"

typedef struct {
    char name[96];              /* "RTX 4090", "EPYC 9654"; of one device                    */
    bool gpu;
    uint32_t count;
    uint64_t memory_bytes;      /* of one device, as programs see it                         */
    /* Attainable, not printed on the box: bytes a second of reading, and FLOP a second of
     * dense products, 16-bit with F32 sums on GPUs, F32 on CPUs; 8-bit: 0 without FP8 units. */
    double bandwidth, flops, flops8;
    double link_bandwidth, link_latency_s; /* of an all-reduce between two of them            */
    double nominal_bandwidth, nominal_flops;
    const char *basis;          /* where the numbers come from                               */
} agl_hardware;

/* Entry of the table, or NULL past its end. */
const agl_hardware *agl_hardware_at(size_t index);

/* "RTX 4090", "rtx4090", "4090", "2x4090"; "here": this machine, measured in some seconds.
 * ARGUMENT lists the names. */
agl_status agl_hardware_find(agl_hardware *out, const char *text, agl_error *err);

/* The device of this machine that an engine of these options would use, measured on the spot. */
agl_status agl_hardware_here(agl_hardware *out, const agl_engine_options *options, agl_error *err);

/* "2 x RTX 4090" */
void agl_hardware_title(char *out, size_t size, const agl_hardware *hardware);

#endif
