/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of one row and the norms between them, which CUDA runs as one kernel (linear_skinny.cu),
 * against the same operations one by one with a wait behind each: every buffer must hold the same
 * bits. That single operations are right is checked in check_cuda_linear.c and check_cuda_rows.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "support/test_cuda.h"

enum { HEADS = 3, KV_HEADS = 1, PAGE_TOKENS = 16, PAGES = 2, PAIRS = 8, VOCAB = 211, REPEATS = 3 };

typedef struct {
    int64_t hidden, intermediate, head_dim;
} chain_case;

/* The last is the model's; it, and so many repeats, on a GPU only. */
static const chain_case CASES[] = {{64, 40, 16}, {264, 520, 32}, {2048, 72, 64}, {4096, 13696, 128}};
enum { REPEATS_ON_GPU = 50 };

enum { X, ATTENTION, NORMED, DELTA, MLP, WIDE, QKV, KEYS, VALUES, LOGITS, BUFFERS };

typedef struct {
    test_cuda t;
    chain_case shape;
    bool waits;                     /* behind every operation */
    void *buffers[BUFFERS], *first[BUFFERS];
    size_t bytes[BUFFERS];
    void *norms[4], *positions, *slots, *inv_freq, *axis;
    agl_weight *output, *gate_up, *down, *qkv, *lm_head;
} chain;

static agl_weight *make_weight(chain *c, int64_t out, int64_t in, bool bias)
{
    test_cuda *t = &c->t;
    agl_weight *weight;
    void *data = test_elements(&t->random, t->activation, (size_t)(out * in), 0.2f);
    void *bias_data = test_elements(&t->random, t->activation, (size_t)out, 1.0f);
    agl_weight_desc desc = {.parts = {{.data = data, .bias = bias ? bias_data : NULL, .rows = out}}, .part_count = 1,
                            .in = in, .dtype = t->activation, .bias_dtype = t->activation};
    agl_error err = {0};
    if (t->cuda->ops->weight_create(t->cuda, &weight, &desc, &err) != AGL_OK) fail_msg("%s", err.message);
    free(data), free(bias_data);
    return weight;
}

static bool open_chain(chain *c, const chain_case *shape, agl_dtype activation)
{
    *c = (chain){.shape = *shape};
    test_cuda_pretend_processors(1);
    bool opened = test_cuda_open(&c->t, activation);
    test_cuda_pretend_processors(0);
    if (!opened) return false;
    test_cuda *t = &c->t;
    agl_backend_limits limits = {.rows_max = 64, .sequences_max = 4, .logit_rows_max = 4, .patches_max = 64,
                                 .context_max = 64, .heads = HEADS, .kv_heads = KV_HEADS,
                                 .head_dim = shape->head_dim, .vision_heads = 2, .vocab = VOCAB};
    assert_int_equal(t->cuda->ops->workspace_reserve(t->cuda, &limits, NULL), AGL_OK);
    int64_t hidden = shape->hidden, q = HEADS * shape->head_dim, row = q + 2 * KV_HEADS * shape->head_dim;
    size_t cache = (size_t)(PAGES * KV_HEADS * PAGE_TOKENS * shape->head_dim);
    const struct { size_t count; agl_dtype dtype; } sizes[BUFFERS] = {
        [X] = {(size_t)hidden, AGL_F32}, [ATTENTION] = {(size_t)q, activation}, [NORMED] = {(size_t)hidden, activation},
        [DELTA] = {(size_t)hidden, AGL_F32}, [MLP] = {(size_t)shape->intermediate, activation},
        [WIDE] = {(size_t)(2 * shape->intermediate), activation}, [QKV] = {(size_t)row, activation},
        [KEYS] = {cache, activation}, [VALUES] = {cache, activation}, [LOGITS] = {VOCAB, AGL_F32}};
    for (int i = 0; i < BUFFERS; i++) {
        c->bytes[i] = sizes[i].count * agl_dtype_bytes(sizes[i].dtype);
        c->first[i] = test_elements(&t->random, sizes[i].dtype, sizes[i].count, 1.0f);
        c->buffers[i] = test_cuda_upload(t, c->first[i], c->bytes[i]);
    }
    for (int i = 0; i < 4; i++) free(test_cuda_values(t, &c->norms[i], AGL_F32, (size_t)hidden, 1.0f));
    free(test_cuda_values(t, &c->inv_freq, AGL_F32, PAIRS, 1.0f));
    c->positions = test_cuda_upload(t, (const int32_t[]){77, 5, 1009}, 3 * sizeof(int32_t));
    c->slots = test_cuda_upload(t, (const int64_t[]){PAGE_TOKENS + 3}, sizeof(int64_t));
    c->axis = test_cuda_upload(t, (const int32_t[PAIRS]){0, 0, 1, 1, 2, 2, 0, 1}, PAIRS * sizeof(int32_t));
    c->output = make_weight(c, hidden, q, false);
    c->gate_up = make_weight(c, 2 * shape->intermediate, hidden, false);
    c->down = make_weight(c, hidden, shape->intermediate, false);
    c->qkv = make_weight(c, row, hidden, true);
    c->lm_head = make_weight(c, VOCAB, hidden, false);
    return true;
}

static void close_chain(chain *c)
{
    test_cuda *t = &c->t;
    agl_weight *weights[] = {c->output, c->gate_up, c->down, c->qkv, c->lm_head};
    for (size_t i = 0; i < AGL_COUNT(weights); i++) t->cuda->ops->weight_destroy(t->cuda, weights[i]);
    for (int i = 0; i < BUFFERS; i++) test_cuda_free(t, c->buffers[i]), free(c->first[i]);
    for (int i = 0; i < 4; i++) test_cuda_free(t, c->norms[i]);
    test_cuda_free(t, c->positions), test_cuda_free(t, c->slots);
    test_cuda_free(t, c->inv_freq), test_cuda_free(t, c->axis);
    test_cuda_close(t);
}

static void run(chain *c, agl_status status)
{
    agl_error err = {0};
    assert_int_equal(status, AGL_OK);
    if (c->waits && c->t.cuda->ops->stream_wait(c->t.cuda_stream, &err) != AGL_OK) fail_msg("%s", err.message);
}

static void run_linear(chain *c, const agl_weight *weight, int x, int y, bool y_f32)
{
    run(c, c->t.cuda->ops->linear(c->t.cuda_stream, &(agl_linear_args){
        .x = c->buffers[x], .y = c->buffers[y], .weight = weight, .rows = 1, .x_stride = weight->in, .y_f32 = y_f32}));
}

/* delta_norm < 0: no delta. */
static void run_norm(chain *c, int delta_norm, int norm)
{
    run(c, c->t.cuda->ops->rmsnorm(c->t.cuda_stream, &(agl_rmsnorm_args){
        .x = c->buffers[X], .delta = delta_norm < 0 ? NULL : c->buffers[DELTA],
        .delta_weight = delta_norm < 0 ? NULL : c->norms[delta_norm], .y = c->buffers[NORMED], .weight = c->norms[norm],
        .rows = 1, .hidden = c->shape.hidden, .eps = 1e-5f}));
}

static void run_gate_up(chain *c)
{
    run(c, c->t.cuda->ops->linear_swiglu(c->t.cuda_stream, &(agl_linear_swiglu_args){
        .x = c->buffers[NORMED], .y = c->buffers[MLP], .wide = c->buffers[WIDE], .weight = c->gate_up, .rows = 1}));
}

static void run_qkv(chain *c)
{
    run(c, c->t.cuda->ops->linear_rope_store(c->t.cuda_stream, &(agl_linear_rope_store_args){
        .x = c->buffers[NORMED], .weight = c->qkv,
        .rope = {.qkv = c->buffers[QKV], .positions = c->positions, .slots = c->slots, .inv_freq = c->inv_freq,
                 .axis = c->axis, .tokens = 1, .heads = HEADS, .pairs = PAIRS,
                 .kv = {c->buffers[KEYS], c->buffers[VALUES], c->t.activation, PAGE_TOKENS, KV_HEADS,
                        c->shape.head_dim}}}));
}

/* ---- what may follow each other -------------------------------------------------- */

/* As behind an attention of the text network. */
static void to_next_norm(chain *c)
{
    run_linear(c, c->output, ATTENTION, DELTA, true);
    run_norm(c, 0, 1);
    run_gate_up(c);
    run_linear(c, c->down, MLP, DELTA, true);
    run_norm(c, 2, 3);
}

static void layer(chain *c)
{
    to_next_norm(c);
    run_qkv(c);
}

static void first_layer(chain *c)
{
    run_norm(c, -1, 0);
    run_qkv(c);
}

static void last_layer(chain *c)
{
    to_next_norm(c);
    run_linear(c, c->lm_head, NORMED, LOGITS, true);
}

/* The residual is written when the last block has read it. */
static void norm_with_delta_first(chain *c)
{
    run_norm(c, 0, 1);
    run_gate_up(c);
}

static void norm_with_delta_then_others(chain *c)
{
    run_norm(c, 0, 1);
    run_gate_up(c);
    run_linear(c, c->down, MLP, DELTA, true);
}

/* Nothing reads what the last norm writes, so it runs alone. */
static void norm_at_the_end(chain *c)
{
    run_linear(c, c->output, ATTENTION, DELTA, true);
    run_norm(c, 0, 1);
}

static void norm_that_is_not_read(chain *c)
{
    run_norm(c, 0, 1);
    run_linear(c, c->output, ATTENTION, DELTA, true);
    run_norm(c, 2, 3);
}

static void two_norms(chain *c)
{
    run_norm(c, 0, 1);
    run_norm(c, 2, 3);
    run_qkv(c);
}

/* More than one kernel holds; the borders fall differently each time. */
static void long_chain(chain *c)
{
    first_layer(c);
    layer(c);
    run_linear(c, c->lm_head, NORMED, LOGITS, true);
    layer(c);
    last_layer(c);
}

/* Another operation between the links. */
static void interrupted(chain *c)
{
    run_linear(c, c->output, ATTENTION, DELTA, true);
    run_norm(c, 0, 1);
    run(c, c->t.cuda->ops->copy(c->t.cuda_stream, c->buffers[QKV], c->buffers[NORMED], 64));
    run_gate_up(c);
    run_linear(c, c->down, MLP, DELTA, true);
}

typedef void (*sequence)(chain *c);
static const sequence SEQUENCES[] = {layer, first_layer, last_layer, norm_with_delta_first,
                                     norm_with_delta_then_others, norm_at_the_end, norm_that_is_not_read, two_norms,
                                     long_chain, interrupted};

static void reset(chain *c)
{
    for (int i = 0; i < BUFFERS; i++) {
        assert_int_equal(c->t.cuda->ops->upload(c->t.cuda_stream, c->buffers[i], c->first[i], c->bytes[i]), AGL_OK);
    }
}

static void fetch(chain *c, void *out[BUFFERS])
{
    for (int i = 0; i < BUFFERS; i++) {
        out[i] = test_alloc(c->bytes[i]);
        test_cuda_download(&c->t, out[i], c->buffers[i], c->bytes[i]);
    }
}

static void expect_same(chain *c, void *want[BUFFERS], size_t which, const char *how)
{
    void *got[BUFFERS];
    fetch(c, got);
    for (int i = 0; i < BUFFERS; i++) {
        if (memcmp(got[i], want[i], c->bytes[i]) != 0) {
            fail_msg("sequence %zu %s, hidden %lld: buffer %d differs", which, how, (long long)c->shape.hidden, i);
        }
        free(got[i]);
    }
}

static void check_sequence(chain *c, size_t which)
{
    const agl_backend_ops *ops = c->t.cuda->ops;
    void *want[BUFFERS];
    agl_graph *graph;
    int repeats = test_cuda_is_real() ? REPEATS_ON_GPU : REPEATS;
    c->waits = true;
    reset(c);
    for (int i = 0; i < repeats; i++) SEQUENCES[which](c);
    fetch(c, want);
    c->waits = false;
    reset(c);
    for (int i = 0; i < repeats; i++) SEQUENCES[which](c);
    expect_same(c, want, which, "at once");
    assert_int_equal(ops->graph_begin(c->t.cuda_stream), AGL_OK);
    SEQUENCES[which](c);
    assert_int_equal(ops->graph_end(c->t.cuda_stream, &graph, NULL), AGL_OK);
    reset(c);
    for (int i = 0; i < repeats; i++) assert_int_equal(ops->graph_launch(c->t.cuda_stream, graph), AGL_OK);
    expect_same(c, want, which, "recorded");
    ops->graph_destroy(c->t.cuda, graph);
    for (int i = 0; i < BUFFERS; i++) free(want[i]);
}

static void check_case(const chain_case *shape, agl_dtype activation)
{
    chain c;
    if (!open_chain(&c, shape, activation)) return;
    for (size_t i = 0; i < AGL_COUNT(SEQUENCES); i++) check_sequence(&c, i);
    close_chain(&c);
}

static void chains_give_the_bits_of_single_operations(void **state)
{
    (void)state;
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        if (i + 1 == AGL_COUNT(CASES) && !test_cuda_is_real()) continue;
        check_case(&CASES[i], AGL_BF16);
        check_case(&CASES[i], AGL_F16);
    }
    check_case(&CASES[0], AGL_F32);     /* never a chain */
}

/* A second stream, whose products must not wait in a chain of its own. */
static void two_streams(void **state)
{
    (void)state;
    chain c;
    if (!open_chain(&c, &CASES[1], AGL_BF16)) return;
    agl_stream *other, *own = c.t.cuda_stream;
    assert_int_equal(c.t.cuda->ops->stream_create(c.t.cuda, &other, NULL), AGL_OK);
    void *want[BUFFERS];
    c.waits = true;
    layer(&c);
    layer(&c);
    fetch(&c, want);
    c.waits = false;
    reset(&c);
    layer(&c);
    assert_int_equal(c.t.cuda->ops->stream_wait(own, NULL), AGL_OK);
    c.t.cuda_stream = other;
    layer(&c);
    assert_int_equal(c.t.cuda->ops->stream_wait(other, NULL), AGL_OK);
    expect_same(&c, want, 0, "in two streams");
    c.t.cuda_stream = own;
    c.t.cuda->ops->stream_destroy(other);
    for (int i = 0; i < BUFFERS; i++) free(want[i]);
    close_chain(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chains_give_the_bits_of_single_operations),
        cmocka_unit_test(two_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
