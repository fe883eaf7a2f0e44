/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_plain.cu - softmax(q k^T * scale) v of every dtype and head_dim, a warp per query row
 * and head. For shapes without a tensor-core kernel, and F32.
 *
 *   q, k, v, out   as in backend.h, activation dtype
 *
 * Needs     head_dim <= 256.
 * Bound     latency: a key costs one warp-wide sum; k and v come from the L2 cache for all but
 *           the first head that reads them.
 * Grid      4 warps a block, one for each (row, head); heads fastest.
 * Numerics  F32; keys in order with a running maximum and sum: a row's bits depend on nothing else
 *           in the batch. */
#include "backend/cuda/attention.cuh"

#define PLAIN_WARPS 4
#define LANE_DIMS (ATTENTION_DIM_MAX / WARP_LANES)

/* Lane l holds dims l, l + 32, ... */
typedef struct {
    float q[LANE_DIMS], values[LANE_DIMS];
    float max, sum;                  /* of 2^(score - max)                               */
} plain_row;

template <typename T>
static __device__ __forceinline__ void plain_begin(plain_row *row, const T *q, int head_dim,
                                                   float scale_log2)
{
    int lane = threadIdx.x % WARP_LANES;
    for (int i = 0; i < LANE_DIMS; i++) {
        int dim = lane + i * WARP_LANES;
        row->q[i] = dim < head_dim ? to_f32(q[dim]) * scale_log2 : 0.0f;
        row->values[i] = 0.0f;
    }
    row->max = -INFINITY;
    row->sum = 0.0f;
}

template <typename T>
static __device__ __forceinline__ void plain_add(plain_row *row, const T *k, const T *v,
                                                 int head_dim)
{
    int lane = threadIdx.x % WARP_LANES;
    float score = 0.0f;
    for (int i = 0; i < LANE_DIMS; i++) {
        int dim = lane + i * WARP_LANES;
        if (dim < head_dim) score = fmaf(row->q[i], to_f32(k[dim]), score);
    }
    score = warp_sum(score);
    float max = fmaxf(row->max, score);
    float keep = ptx_exp2(row->max - max), weight = ptx_exp2(score - max);
    row->max = max;
    row->sum = fmaf(row->sum, keep, weight);
    for (int i = 0; i < LANE_DIMS; i++) {
        int dim = lane + i * WARP_LANES;
        if (dim < head_dim) row->values[i] = fmaf(row->values[i], keep, weight * to_f32(v[dim]));
    }
}

template <typename T>
static __device__ __forceinline__ void plain_end(T *out, const plain_row *row, int head_dim)
{
    int lane = threadIdx.x % WARP_LANES;
    for (int i = 0; i < LANE_DIMS; i++) {
        int dim = lane + i * WARP_LANES;
        if (dim < head_dim) out[dim] = from_f32<T>(row->values[i] / row->sum);
    }
}

/* The sequence that a row belongs to, for all lanes; -1: none. */
static __device__ __forceinline__ int sequence_of_row(const attention_paged_view &view, int row)
{
    for (int first = 0; first < view.sequence_count; first += WARP_LANES) {
        int i = first + (int)(threadIdx.x % WARP_LANES), found = -1;
        if (i < view.sequence_count) {
            int from = view.sequences[i].row_first;
            if (row >= from && row < from + view.sequences[i].row_count) found = i;
        }
        for (int offset = WARP_LANES / 2; offset > 0; offset /= 2) {
            found = max(found, __shfl_xor_sync(FULL_WARP, found, offset));
        }
        if (found >= 0) return found;
    }
    return -1;
}

template <typename T>
static __global__ void __launch_bounds__(PLAIN_WARPS * WARP_LANES)
plain_paged_kernel(attention_paged_view view, int rows, int head_dim)
{
    ptx_wait_for_previous();
    int64_t task = (int64_t)blockIdx.x * PLAIN_WARPS + threadIdx.x / WARP_LANES;
    int64_t row = task / view.heads;
    int head = (int)(task % view.heads);
    if (row >= rows) return;
    int index = sequence_of_row(view, (int)row);
    if (index < 0) return;
    agl_attention_sequence sequence = sequence_load(view, index);
    int keys = sequence.context - (sequence.row_first + sequence.row_count - 1 - (int)row);
    int kv_head = head / (view.heads / view.kv_heads);
    plain_row state;
    plain_begin(&state, (const T *)view.q + row * view.q_stride + (int64_t)head * head_dim,
                head_dim, view.scale_log2);
    for (int key = 0; key < keys; key++) {
        int64_t at = (int64_t)key_slot(view, sequence.page_table, kv_head, key) * head_dim;
        plain_add(&state, (const T *)view.k + at, (const T *)view.v + at, head_dim);
    }
    plain_end((T *)view.out + (row * view.heads + head) * head_dim, &state, head_dim);
}

/* Tokens [first, last) of one segment. */
template <typename T>
static __global__ void __launch_bounds__(PLAIN_WARPS * WARP_LANES)
plain_dense_kernel(const T *qkv, T *out, int first, int last, int heads, int head_dim,
                   float scale_log2)
{
    ptx_wait_for_previous();
    int64_t task = (int64_t)blockIdx.x * PLAIN_WARPS + threadIdx.x / WARP_LANES;
    int64_t token = first + task / heads, width = (int64_t)heads * head_dim;
    int64_t at = task % heads * head_dim;
    if (token >= last) return;
    plain_row state;
    plain_begin(&state, qkv + token * 3 * width + at, head_dim, scale_log2);
    for (int64_t key = first; key < last; key++) {
        const T *k = qkv + key * 3 * width + width + at;
        plain_add(&state, k, k + width, head_dim);
    }
    plain_end(out + token * width + at, &state, head_dim);
}

/* ---- launchers -------------------------------------------------------------------- */

static dim3 plain_grid(int64_t tasks)
{
    return dim3((unsigned)((tasks + PLAIN_WARPS - 1) / PLAIN_WARPS));
}

agl_status agl_cuda_attention_plain_paged(agl_stream *stream, const agl_attention_paged_args *args)
{
    attention_paged_view view = attention_view(args);
    dim3 grid = plain_grid(args->rows * args->heads), block(PLAIN_WARPS * WARP_LANES);
    AGL_CUDA_BY_ACTIVATION(stream->backend->activation, T,
                           return cuda_launch_early(stream, plain_paged_kernel<T>, grid, block, 0,
                                                    view, (int)args->rows, (int)args->kv.head_dim))
    return AGL_ERR_INTERNAL;
}

template <typename T>
static agl_status plain_dense(agl_stream *stream, const agl_attention_dense_args *args)
{
    for (int64_t i = 0; i < args->segment_count; i++) {
        int32_t first = args->segments[i], last = args->segments[i + 1];
        if (first == last) continue;
        AGL_TRY(cuda_launch_early(stream, plain_dense_kernel<T>,
                                  plain_grid((last - first) * args->heads),
                                  dim3(PLAIN_WARPS * WARP_LANES), 0, (const T *)args->qkv,
                                  (T *)args->out, first, last, (int)args->heads,
                                  (int)args->head_dim, args->scale * LOG2_E));
    }
    return AGL_OK;
}

agl_status agl_cuda_attention_plain_dense(agl_stream *stream, const agl_attention_dense_args *args)
{
    AGL_CUDA_BY_ACTIVATION(stream->backend->activation, T, return plain_dense<T>(stream, args))
    return AGL_ERR_INTERNAL;
}
