/* SPDX-License-Identifier: Apache-2.0 */
#include "server/histogram.h"

#include <assert.h>

void agl_histogram_init(agl_histogram *histogram, const double *edges, size_t edge_count, double unit)
{
    assert(edge_count <= AGL_HISTOGRAM_EDGES_MAX);
    histogram->edges = edges;
    histogram->edge_count = edge_count;
    histogram->unit = unit;
    for (size_t i = 0; i <= AGL_HISTOGRAM_EDGES_MAX; i++) atomic_init(&histogram->counts[i], 0);
    atomic_init(&histogram->sum, 0);
}

void agl_histogram_observe(agl_histogram *histogram, double value)
{
    if (!(value >= 0)) value = 0; /* a clock that was never set */
    size_t bucket = 0;
    while (bucket < histogram->edge_count && value > histogram->edges[bucket]) bucket++;
    atomic_fetch_add_explicit(&histogram->counts[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum, (uint64_t)(value / histogram->unit + 0.5), memory_order_relaxed);
}

void agl_histogram_write(agl_buffer *out, const agl_histogram *histogram, const char *name,
                         const char *labels)
{
    uint64_t total = 0;
    for (size_t i = 0; i < histogram->edge_count; i++) {
        total += atomic_load_explicit(&histogram->counts[i], memory_order_relaxed);
        agl_buffer_append_format(out, "%s_bucket{%s,le=\"%.10g\"} %llu\n", name, labels, histogram->edges[i],
                                 (unsigned long long)total);
    }
    total += atomic_load_explicit(&histogram->counts[histogram->edge_count], memory_order_relaxed);
    double sum = (double)atomic_load_explicit(&histogram->sum, memory_order_relaxed) * histogram->unit;
    agl_buffer_append_format(out, "%s_bucket{%s,le=\"+Inf\"} %llu\n", name, labels, (unsigned long long)total);
    agl_buffer_append_format(out, "%s_sum{%s} %.9g\n%s_count{%s} %llu\n", name, labels, sum, name, labels,
                             (unsigned long long)total);
}
