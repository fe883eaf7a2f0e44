/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/statistics.h"

#include <math.h>
#include <stdlib.h>

#include "base/status.h"

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double agl_percentile(const double *samples, size_t count, double percent)
{
    if (count == 0) return 0;
    double rank = percent / 100 * (double)(count - 1);
    size_t below = (size_t)rank;
    if (below + 1 >= count) return samples[count - 1];
    return samples[below] + (rank - (double)below) * (samples[below + 1] - samples[below]);
}

static double mean_of(const double *samples, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += samples[i];
    return sum / (double)count;
}

static double squares_of(const double *samples, size_t count, double mean)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (samples[i] - mean) * (samples[i] - mean);
    return sum;
}

agl_summary agl_summary_of(double *samples, size_t count)
{
    if (count == 0) return (agl_summary){0};
    qsort(samples, count, sizeof *samples, ascending);
    double mean = mean_of(samples, count);
    return (agl_summary){
        .count = count,
        .mean = mean,
        .deviation = sqrt(squares_of(samples, count, mean) / (double)count),
        .min = samples[0],
        .median = agl_percentile(samples, count, 50),
        .max = samples[count - 1],
        .p90 = agl_percentile(samples, count, 90),
        .p95 = agl_percentile(samples, count, 95),
        .p99 = agl_percentile(samples, count, 99),
    };
}

double agl_confidence95(const double *samples, size_t count)
{
    /* Two-sided 97.5 % points of Student's t for 1.. degrees of freedom. */
    static const double T[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365,
                               2.306,  2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
                               2.131,  2.120, 2.110, 2.101, 2.093, 2.086};
    if (count < 2) return 0;
    double mean = mean_of(samples, count);
    double deviation = sqrt(squares_of(samples, count, mean) / (double)(count - 1));
    double t = count - 2 < AGL_COUNT(T) ? T[count - 2] : 1.96;
    return t * deviation / sqrt((double)count);
}
