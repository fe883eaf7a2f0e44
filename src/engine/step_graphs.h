/* SPDX-License-Identifier: Apache-2.0
 *
 * step_graphs.h - decode steps that are recorded at start and run again.
 *
 * A step in which every sequence has one row is the same list of some 400 launches each time,
 * but for how many rows there are and how long the longest sequence is. Steps are recorded for
 * some sizes of both; a step takes the next larger ones, with dead rows (step.h) behind its own.
 *
 *     rows      1 2 4 8 16 24 32 48 64 ... max_num_seqs     context  1024 4096 16384 65536 window
 *
 * A recorded step reads its inputs where they lay when it was recorded. What it computes is what
 * the same batch would without recording. Engine thread only, but for the recording. */
#ifndef AGL_ENGINE_STEP_GRAPHS_H
#define AGL_ENGINE_STEP_GRAPHS_H

#include "model/model.h"

typedef struct agl_step_graphs agl_step_graphs;

typedef struct {
    agl_backend *backend;       /* all borrowed; the backend can record            */
    agl_stream *stream;
    agl_model *model;
    uint32_t rows_max;          /* of a decode step                                */
    uint32_t context_max;       /* the window                                      */
} agl_step_graphs_options;

agl_status agl_step_graphs_create(agl_step_graphs **out, const agl_step_graphs_options *options,
                                  agl_error *err);
void agl_step_graphs_destroy(agl_step_graphs *graphs);      /* NULL is allowed */

/* The sizes, rising; 0 behind the last one. */
uint32_t agl_step_graphs_size_at(const agl_step_graphs *graphs, uint32_t index);
/* The smallest that holds so many rows; 0: none does. */
uint32_t agl_step_graphs_size_for(const agl_step_graphs *graphs, uint32_t rows);

/* Record the batch, of one of the sizes, for every context. Its context_max is not looked at. */
agl_status agl_step_graphs_record(agl_step_graphs *graphs, const agl_batch *batch, agl_error *err);

/* agl_model_decode of a batch like one that was recorded. */
agl_status agl_step_graphs_run(agl_step_graphs *graphs, const agl_batch *batch, float **logits);

#endif
