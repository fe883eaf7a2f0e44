/* SPDX-License-Identifier: Apache-2.0
 *
 * histogram.h - a Prometheus histogram with fixed edges and atomic counts. */
#ifndef AGL_SERVER_HISTOGRAM_H
#define AGL_SERVER_HISTOGRAM_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"

#define AGL_HISTOGRAM_EDGES_MAX 40

typedef struct {
    const double *edges;        /* rising; static storage                  */
    size_t edge_count;
    double unit;                /* what one step of `sum` stands for       */
    _Atomic uint64_t counts[AGL_HISTOGRAM_EDGES_MAX + 1]; /* not cumulative; the last is +Inf */
    _Atomic uint64_t sum;       /* in units                                */
} agl_histogram;

void agl_histogram_init(agl_histogram *histogram, const double *edges, size_t edge_count, double unit);
void agl_histogram_observe(agl_histogram *histogram, double value);

/* name_bucket, name_sum and name_count; `labels` is "a=\"b\",c=\"d\"". */
void agl_histogram_write(agl_buffer *out, const agl_histogram *histogram, const char *name,
                         const char *labels);

#endif
