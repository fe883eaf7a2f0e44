/* SPDX-License-Identifier: Apache-2.0
 *
 * plan.h - `autoglm plan`: would a model fit on a machine, how many requests at once, and
 * how fast. Memory is the engine's own arithmetic (agl_plan_make); speed is a roofline times
 * efficiencies, either defaults or fitted to result files. */
#ifndef AGL_BENCH_PLAN_H
#define AGL_BENCH_PLAN_H

#include "bench/results.h"
#include "bench/roofline.h"

/* Context lengths: the protocol's 512 + 256, a long chat, an agent's step, the AutoGLM
 * client's limit. Batch sizes of the predicted token gaps. */
enum { AGL_PLAN_CONTEXTS = 4, AGL_PLAN_BATCHES = 4 };

/* A phone step has a screenshot of 1080 x 2400 and that much text before it. */
enum { AGL_PLAN_IMAGE_TEXT = 1500 };
extern const uint32_t agl_plan_contexts[AGL_PLAN_CONTEXTS];
extern const uint32_t agl_plan_batches[AGL_PLAN_BATCHES];

typedef enum { AGL_FIT_NO, AGL_FIT_TIGHT, AGL_FIT_YES } agl_fit;

typedef struct {
    agl_hardware hardware;
    const agl_format *format;
    agl_plan plan;
    agl_fit fit;
    char reason[512];           /* why not, or what is tight; empty: nothing                 */
    char help[160];             /* the flag that helps; empty: none does or none is needed   */
    uint64_t batch_max[AGL_PLAN_CONTEXTS];
    /* Milliseconds; NaN where it does not fit. */
    double ttft_ms, image_ttft_ms, itl_ms[AGL_PLAN_BATCHES];
    double throughput;          /* output tokens a second at its best batch                  */
    uint64_t throughput_batch;
} agl_plan_row;

/* One machine and one format. Not fitting is a row, not an error. */
agl_status agl_plan_row_make(agl_plan_row *out, const agl_engine_options *engine,
                             const agl_hardware *hardware, const agl_format *format,
                             const agl_efficiency *efficiency, agl_error *err);

/* Machine of a result: of the table if the name is known, with rates as measured. */
agl_hardware agl_result_hardware(const agl_result *result);

/* Parameters of a model; NaN if its folder cannot be read. */
double agl_plan_parameters(const agl_engine_options *engine);

/* Geometric means over the runs of that model, measured on that kind of machine; defaults where
 * there are none. */
agl_efficiency agl_efficiency_fit(const agl_result *results, size_t count, bool gpu,
                                  double parameters);

/* What a measured run was predicted to give, for the same prompt and answer lengths. Zero
 * parameters in `plan`: another model was measured, or the machine's rates are not known. */
typedef struct {
    agl_plan plan;
    double ttft_ms, itl_ms;     /* of one request                                            */
    double image_ttft_ms;       /* a screenshot alone; NaN: another size was measured         */
    double throughput;          /* at the best batch that was measured                       */
    double batch_max;
} agl_prediction;

agl_status agl_prediction_make(agl_prediction *out, const agl_engine_options *engine,
                               const agl_result *result, const agl_result_run *run,
                               const agl_efficiency *efficiency, agl_error *err);

typedef struct {
    agl_engine_options engine;
    const agl_hardware *hardware;
    size_t hardware_count;
    const char *const *formats; /* keys; NULL: bf16, fp8, int4                               */
    size_t format_count;
    const agl_result *results;  /* to fit to and to compare with                             */
    size_t result_count;
    bool compare_named;         /* only with results of the machines asked for               */
    bool json;
} agl_plan_print_options;

/* Table (or JSON) on standard output. */
agl_status agl_plan_print(const agl_plan_print_options *options, agl_error *err);

#endif
