/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/step_graphs.h"

#include <assert.h>
#include <stdlib.h>

/* Above so many rows the launches hide behind the work. */
#define ROWS_MAX 512
#define SIZES_MAX (7 + (ROWS_MAX - 32 + 15) / 16)
#define CONTEXTS_MAX 5

struct agl_step_graphs {
    agl_step_graphs_options options;
    uint32_t sizes[SIZES_MAX + 1];              /* 0 behind the last                 */
    uint32_t contexts[CONTEXTS_MAX];
    uint32_t size_count, context_count;
    agl_graph *graphs[SIZES_MAX][CONTEXTS_MAX];
    float *logits;                              /* where every recorded step leaves them */
};

static uint32_t next_size(uint32_t size)
{
    if (size < 8) return 2 * size;
    return size < 32 ? size + 8 : size + 16;
}

agl_status agl_step_graphs_create(agl_step_graphs **out, const agl_step_graphs_options *options,
                                  agl_error *err)
{
    *out = NULL;
    agl_step_graphs *graphs = calloc(1, sizeof *graphs);
    if (graphs == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for recorded steps");
    graphs->options = *options;
    uint32_t most = options->rows_max < ROWS_MAX ? options->rows_max : ROWS_MAX;
    for (uint32_t size = 1; size < most; size = next_size(size)) {
        graphs->sizes[graphs->size_count++] = size;
    }
    graphs->sizes[graphs->size_count++] = most;
    assert(graphs->size_count <= SIZES_MAX);
    for (uint32_t context = 1024; context < options->context_max && context <= 65536; context *= 4) {
        graphs->contexts[graphs->context_count++] = context;
    }
    graphs->contexts[graphs->context_count++] = options->context_max;
    *out = graphs;
    return AGL_OK;
}

void agl_step_graphs_destroy(agl_step_graphs *graphs)
{
    if (graphs == NULL) return;
    agl_backend *backend = graphs->options.backend;
    for (uint32_t s = 0; s < graphs->size_count; s++) {
        for (uint32_t c = 0; c < graphs->context_count; c++) {
            if (graphs->graphs[s][c] == NULL) continue;
            backend->ops->graph_destroy(backend, graphs->graphs[s][c]);
        }
    }
    free(graphs);
}

uint32_t agl_step_graphs_size_at(const agl_step_graphs *graphs, uint32_t index)
{
    assert(index <= graphs->size_count);
    return graphs->sizes[index];
}

static uint32_t size_index(const agl_step_graphs *graphs, uint32_t rows)
{
    uint32_t index = 0;
    while (index < graphs->size_count && graphs->sizes[index] < rows) index++;
    return index;
}

uint32_t agl_step_graphs_size_for(const agl_step_graphs *graphs, uint32_t rows)
{
    return graphs->sizes[size_index(graphs, rows)];
}

agl_status agl_step_graphs_record(agl_step_graphs *graphs, const agl_batch *batch, agl_error *err)
{
    const agl_step_graphs_options *options = &graphs->options;
    const agl_backend_ops *ops = options->backend->ops;
    uint32_t index = size_index(graphs, (uint32_t)batch->rows);
    assert(graphs->sizes[index] == batch->rows);
    for (uint32_t c = 0; c < graphs->context_count; c++) {
        agl_batch recorded = *batch;
        recorded.context_max = graphs->contexts[c];
        agl_status status = ops->graph_begin(options->stream);
        if (status != AGL_OK) return agl_fail(err, status, "a step cannot be recorded");
        status = agl_model_decode(options->model, options->stream, &recorded, &graphs->logits);
        /* Ends the recording in any case. */
        agl_status ended = ops->graph_end(options->stream, &graphs->graphs[index][c], err);
        if (ended != AGL_OK) return ended;
        if (status != AGL_OK) return agl_fail(err, status, "a step of %lld rows cannot be recorded",
                                              (long long)batch->rows);
    }
    return AGL_OK;
}

agl_status agl_step_graphs_run(agl_step_graphs *graphs, const agl_batch *batch, float **logits)
{
    uint32_t index = size_index(graphs, (uint32_t)batch->rows), c = 0;
    assert(graphs->sizes[index] == batch->rows);
    while (graphs->contexts[c] < batch->context_max) c++;
    assert(c < graphs->context_count);
    *logits = graphs->logits;
    return graphs->options.backend->ops->graph_launch(graphs->options.stream,
                                                      graphs->graphs[index][c]);
}
