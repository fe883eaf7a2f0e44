/* SPDX-License-Identifier: Apache-2.0
 *
 * results.h - what was measured on one machine, as `autoglm bench platform` writes it and
 * `bench report` and `plan --fit` read it. The file format is in docs/BENCH.md.
 *
 * Numbers nobody knows are NaN here and null in the file, so that rows reported by others
 * fit the same tables. */
#ifndef AGL_BENCH_RESULTS_H
#define AGL_BENCH_RESULTS_H

#include <stdbool.h>

#include "base/buffer.h"
#include "bench/hardware.h"
#include "bench/machine.h"

#define AGL_RESULT_SCHEMA "autoglm-platform-1"

enum { AGL_RESULT_POINTS_MAX = 24, AGL_RESULT_RUNS_MAX = 8 };

typedef struct {
    double mean, deviation, median, p99; /* milliseconds                                     */
    uint32_t count;
} agl_result_time;

/* One batch size. */
typedef struct {
    uint32_t batch, iterations;
    agl_result_time ttft, itl;
    double output_throughput;   /* tokens a second, all streams                              */
    double floor_ttft_ms, floor_itl_ms;
} agl_result_point;

/* One weight format. */
typedef struct {
    char format[16];            /* "bf16", "fp8", "int4"                                     */
    char dtype[16];             /* as computed                                               */
    double load_s;
    double weight_bytes, kv_bytes, kv_tokens;
    double batch_max;           /* requests of input + output tokens that fit at once        */
    double max_throughput;
    double image_ttft_ms, image_floor_ms; /* one screenshot                                  */
    agl_result_point points[AGL_RESULT_POINTS_MAX];
    size_t point_count;
} agl_result_run;

typedef struct {
    char file[256];             /* where it was read; empty: here                            */
    char platform[96];
    char reported_by[64];       /* who says so; empty: measured by this program              */
    char note[512];
    char created[32], program[32];
    bool complete;              /* false: interrupted                                        */
    bool gpu;
    uint32_t count;             /* devices                                                   */
    char device[96];
    double device_memory_bytes;
    agl_machine machine;
    double read_rate, multiply_rate;     /* bytes/s, FLOP/s; measured in the same run        */
    char model[96];
    double parameters;
    bool dummy;
    uint32_t input_tokens, output_tokens, image_width, image_height, image_tokens;
    agl_result_run runs[AGL_RESULT_RUNS_MAX];
    size_t run_count;
} agl_result;

/* All NaN and empty. */
void agl_result_init(agl_result *result);

/* One object, or the objects of a list, become results[0 .. *count). FORMAT names file and key. */
agl_status agl_results_load(agl_result **results, size_t *count, const char *path, agl_error *err);

void agl_result_append_json(agl_buffer *out, const agl_result *result);
agl_status agl_result_save(const agl_result *result, const char *path, agl_error *err);

/* The point of a batch size, or NULL. */
const agl_result_point *agl_result_point_of(const agl_result_run *run, uint32_t batch);

#endif
