/* SPDX-License-Identifier: Apache-2.0
 *
 * statistics.h - summaries of samples. Percentiles interpolate linearly between
 * ranks, as numpy's default and vLLM's benchmark do. */
#ifndef AGL_BENCH_STATISTICS_H
#define AGL_BENCH_STATISTICS_H

#include <stddef.h>

typedef struct {
    size_t count;
    double mean, deviation;     /* deviation: of the population, like numpy.std      */
    double min, median, max;
    double p90, p95, p99;
} agl_summary;

/* Sorts `samples`. All zero for no samples. */
agl_summary agl_summary_of(double *samples, size_t count);

/* `samples` sorted ascending; percent 0..100. */
double agl_percentile(const double *samples, size_t count, double percent);

/* Half width of the 95 % confidence interval of the mean (Student's t); 0 for under two samples. */
double agl_confidence95(const double *samples, size_t count);

#endif
