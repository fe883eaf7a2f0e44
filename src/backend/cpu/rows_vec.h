/* SPDX-License-Identifier: Apache-2.0
 *
 * rows_vec.h - rmsnorm with residual, and swiglu: one pass or two over a row.
 *
 * Bound     memory for many rows; a decode row stays in the L1.
 * Numerics  F32; four vectors of sums in a fixed order: the same row gives the same bits
 *           in every batch. */

#include <assert.h>
#include <math.h>

#include "backend/cpu/cpu_ops.h"

/* x += delta if delta, and the sum of squares of the result, in one pass. */
INLINE float add_and_square(float *x, const float *delta, const float *weight, float scale,
                            int64_t hidden)
{
    vec sums[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
    for (int64_t at = 0, turn = 0; at < hidden; at += VEC_LANES, turn = (turn + 1) % 4) {
        int64_t left = hidden - at < VEC_LANES ? hidden - at : VEC_LANES;
        vec value = vec_load_f32(x + at, left);
        if (delta != NULL) {
            vec more = vec_load_f32(delta + at, left);
            if (weight != NULL) {
                more = vec_mul(vec_mul(more, vec_set(scale)), vec_load_f32(weight + at, left));
            }
            value = vec_add(value, more);
            vec_store_f32(x + at, value, left);
        }
        sums[turn] = vec_fma(value, value, sums[turn]);
    }
    return vec_sum(vec_add(vec_add(sums[0], sums[1]), vec_add(sums[2], sums[3])));
}

static float scale_of(float squares, int64_t hidden, float eps)
{
    return 1.0f / sqrtf(squares / (float)hidden + eps);
}

static void rmsnorm_rows(const void *context, int64_t first, int64_t end)
{
    const agl_rmsnorm_args *args = context;
    int64_t hidden = args->hidden;
    for (int64_t row = first; row < end; row++) {
        float *x = (float *)args->x + row * hidden;
        const float *delta = args->delta == NULL ? NULL : (const float *)args->delta + row * hidden;
        float delta_scale = 1.0f;
        if (delta != NULL && args->delta_weight != NULL) {
            /* Read only: with no delta of its own nothing is added. */
            float squares = add_and_square((float *)delta, NULL, NULL, 1.0f, hidden);
            delta_scale = scale_of(squares, hidden, args->eps);
        }
        float squares = add_and_square(x, delta, args->delta_weight, delta_scale, hidden);
        if (args->y == NULL) continue;
        float *y = (float *)args->y + row * hidden;
        vec scale = vec_set(scale_of(squares, hidden, args->eps));
        for (int64_t at = 0; at < hidden; at += VEC_LANES) {
            int64_t left = hidden - at < VEC_LANES ? hidden - at : VEC_LANES;
            vec value = vec_mul(vec_load_f32(x + at, left), scale);
            vec_store_f32(y + at, vec_mul(value, vec_load_f32(args->weight + at, left)), left);
        }
    }
}

static agl_status rmsnorm(agl_cpu *cpu, const agl_rmsnorm_args *args)
{
    assert(args->delta == NULL || args->x != args->y);
    agl_cpu_for_rows(cpu, rmsnorm_rows, args, args->rows, args->hidden * 4);
    return AGL_OK;
}

static void swiglu_rows(const void *context, int64_t first, int64_t end)
{
    const agl_swiglu_args *args = context;
    vec one = vec_set(1.0f);
    for (int64_t row = first; row < end; row++) {
        const float *gate = (const float *)args->x + row * 2 * args->width;
        const float *up = gate + args->width;
        float *y = (float *)args->y + row * args->width;
        for (int64_t at = 0; at < args->width; at += VEC_LANES) {
            int64_t left = args->width - at < VEC_LANES ? args->width - at : VEC_LANES;
            vec g = vec_load_f32(gate + at, left);
            vec sigmoid = vec_div(g, vec_add(one, vec_exp(vec_sub(vec_zero(), g))));
            vec_store_f32(y + at, vec_mul(sigmoid, vec_load_f32(up + at, left)), left);
        }
    }
}

static agl_status swiglu(agl_cpu *cpu, const agl_swiglu_args *args)
{
    agl_cpu_for_rows(cpu, swiglu_rows, args, args->rows, args->width * 4);
    return AGL_OK;
}
