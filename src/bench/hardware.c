/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/hardware.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "bench/machine.h"

static const char SHEET[] =
    "datasheet, less what programs are known to reach (8 % of bandwidth, 6-14 % of products)";
static const char MEASURED[] = "reading 0.5 GiB and a large product, measured on such a card";
static const char PEAK_CPU[] =
    "datasheet: memory channels x 85 %, vector units x all-core clock x 85 %";

#define GPU(label, gigabytes, nominal_gbs, gbs, nominal_tf, tf, tf8, link_gbs, link_us, origin)    \
    {                                                                                              \
        .name = label, .gpu = true, .count = 1, .memory_bytes = (uint64_t)((gigabytes)*1e9),       \
        .bandwidth = (gbs)*1e9, .flops = (tf)*1e12, .flops8 = (tf8)*1e12,                          \
        .link_bandwidth = (link_gbs)*1e9, .link_latency_s = (link_us)*1e-6,                        \
        .nominal_bandwidth = (nominal_gbs)*1e9, .nominal_flops = (nominal_tf)*1e12,                \
        .basis = origin                                                                            \
    }
#define CPU(label, gigabytes, nominal_gbs, nominal_tf)                                             \
    {                                                                                              \
        .name = label, .count = 1, .memory_bytes = (uint64_t)((gigabytes)*1e9),                    \
        .bandwidth = (nominal_gbs)*0.85e9, .flops = (nominal_tf)*0.85e12,                          \
        .nominal_bandwidth = (nominal_gbs)*1e9, .nominal_flops = (nominal_tf)*1e12,                \
        .basis = PEAK_CPU                                                                          \
    }

/* Products of consumer cards count with F32 accumulation: the FP16-accumulate mode overflows in
 * this model's layers. Links: NVLink where the card has it, else PCIe through host memory. The
 * memory of a CPU is a usual fitting; --memory changes it. */
static const agl_hardware TABLE[] = {
    /*   name        GB     GB/s nominal, used  TFLOP/s nominal, used, FP8   all-reduce GB/s, us */
    GPU("RTX 3090",   25.3,   936,  870,    71,  66,    0,   12, 10,  SHEET),
    GPU("RTX 4090",   25.3,  1008,  940,   165, 155,  310,   12, 10,  SHEET),
    GPU("RTX 5090",   33.7,  1792, 1650,   210, 190,  380,   24, 10,  SHEET),
    GPU("L40S",       47.7,   864,  795,   362, 300,  600,   12, 10,  SHEET),
    GPU("A100 40GB",  42.3,  1555, 1400,   312, 270,    0,  200,  6,  SHEET),
    GPU("A100 80GB",  85.0,  2039, 1835,   312, 270,    0,  200,  6,  SHEET),
    GPU("H100",       84.9,  3350, 3000,   989, 750, 1400,  300, 4.5, SHEET),
    GPU("H200",      150.0,  4800, 4520,   989, 810, 1500,  300, 4.5, MEASURED),
    CPU("Ryzen 9 7950X",       64,   83, 2.3),
    CPU("Core i9-13900K",      64,   90, 1.8),
    CPU("Threadripper 7980X", 256,  166, 7.2),
    CPU("Xeon 8480+",         256,  307, 9.3),
    CPU("EPYC 9654",          384,  461, 10.9),
    CPU("Graviton4",          384,  537, 8.6),
};

const agl_hardware *agl_hardware_at(size_t index)
{
    return index < AGL_COUNT(TABLE) ? &TABLE[index] : NULL;
}

/* Letters and digits only, lower case, makers' names dropped: "NVIDIA GeForce RTX 4090" becomes
 * "rtx4090". */
static void fold(char *out, size_t size, const char *text)
{
    static const char *const DROPPED[] = {"nvidia", "geforce", "tesla", "amd", "intel", "aws"};
    size_t used = 0;
    while (*text != '\0' && used + 1 < size) {
        size_t skip = 0;
        for (size_t i = 0; i < AGL_COUNT(DROPPED); i++) {
            if (strncasecmp(text, DROPPED[i], strlen(DROPPED[i])) == 0) skip = strlen(DROPPED[i]);
        }
        if (skip > 0) {
            text += skip;
            continue;
        }
        if (isalnum((unsigned char)*text)) out[used++] = (char)tolower((unsigned char)*text);
        text++;
    }
    out[used] = '\0';
}

static agl_status unknown(const char *text, agl_error *err)
{
    agl_buffer names;
    agl_buffer_init(&names, 4096);
    for (size_t i = 0; i < AGL_COUNT(TABLE); i++) {
        agl_buffer_append_format(&names, "%s%s", i > 0 ? ", " : "", TABLE[i].name);
    }
    agl_status status = agl_fail(err, AGL_ERR_ARGUMENT,
                                 "hardware \"%.60s\" is not known;"
                                 " here, %s expected, with 2x in front for two of them, "
                                 "or --memory, --bandwidth and "
                                 "--flops", text, names.failed ? "" : names.data);
    agl_buffer_deinit(&names);
    return status;
}

agl_status agl_hardware_find(agl_hardware *out, const char *text, agl_error *err)
{
    const char *name = text + strspn(text, " ");
    char *after;
    unsigned long count = strtoul(name, &after, 10);
    while (*after == ' ') after++;
    bool counted = count >= 1 && count <= 64 && (*after == 'x' || *after == 'X');
    if (counted) name = after + 1;
    char wanted[64], known[64];
    fold(wanted, sizeof wanted, name);
    if (strcmp(wanted, "here") == 0) {
        AGL_TRY(agl_hardware_here(out, &(agl_engine_options){0}, err));
    } else {
        const agl_hardware *found = NULL;
        for (size_t i = 0; i < AGL_COUNT(TABLE) && wanted[0] != '\0'; i++) {
            /* The whole name or its tail: "4090", "9654"; "a100" alone is the smaller one. */
            fold(known, sizeof known, TABLE[i].name);
            size_t tail = strlen(known) >= strlen(wanted) ? strlen(known) - strlen(wanted) : 0;
            bool fits = strcmp(known + tail, wanted) == 0 ||
                        strncmp(known, wanted, strlen(wanted)) == 0;
            if (fits && strlen(wanted) >= 4) {
                found = &TABLE[i];
                break;
            }
        }
        if (found == NULL) return unknown(text, err);
        *out = *found;
    }
    if (counted) out->count = (uint32_t)count;
    return AGL_OK;
}

agl_status agl_hardware_here(agl_hardware *out, const agl_engine_options *options, agl_error *err)
{
    agl_device_limits limits;
    AGL_TRY(agl_device_limits_measure(&limits, options, err));
    *out = (agl_hardware){.gpu = limits.gpu, .count = 1, .memory_bytes = limits.memory_bytes,
                          .bandwidth = limits.read_rate, .flops = limits.multiply_rate,
                          .basis = "measured on this machine"};
    snprintf(out->name, sizeof out->name, "%.90s", limits.name);
    if (!limits.gpu) {
        /* Plain loops reach more than the operations, which cannot be faster than the machine. */
        agl_machine machine = agl_machine_describe();
        snprintf(out->name, sizeof out->name, "%s", machine.cpu);
        out->memory_bytes = machine.memory_bytes;
        out->bandwidth = fmax(out->bandwidth, agl_machine_read_rate(options->threads, 3));
        out->flops = fmax(out->flops, agl_machine_multiply_rate(options->threads, 3));
    }
    out->nominal_bandwidth = out->bandwidth;
    out->nominal_flops = out->flops;
    return AGL_OK;
}

void agl_hardware_title(char *out, size_t size, const agl_hardware *hardware)
{
    if (hardware->count > 1) snprintf(out, size, "%u × %s", hardware->count, hardware->name);
    else snprintf(out, size, "%s", hardware->name);
}
