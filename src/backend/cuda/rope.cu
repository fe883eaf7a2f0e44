/* SPDX-License-Identifier: Apache-2.0
 *
 * rope.cu - rotation of queries and keys: text with the write into the KV pages, and vision.
 *
 *   rope_store   qkv [tokens, (heads + 2 kv_heads) * head_dim] T   q and k turned in place
 *                positions [3, tokens] i32, slots [tokens] i64, inv_freq, axis [pairs]
 *                k, v pages [pages, kv_heads, page_tokens, head_dim] T
 *   rope_vision  qkv [tokens, q | k | v of heads * head_dim] T     q and k turned in place
 *                rows_columns [tokens, 2] i32, inv_freq [head_dim / 4]
 *
 * Needs     rope_store: pages of the activation dtype. Vector path: head_dim % 8 == 0 (vision: 16),
 *           addresses of 16 bytes; other sizes go pair by pair.
 * Bound     memory; of a query only the dims that turn are touched. One row: latency of two
 *           loads in parallel (position, vector), a sine, a store.
 * Grid      one block a token; a thread holds one vector of 8 dims (4 interleaved pairs; vision:
 *           8 dims and their partners half a head away). In rope_store the vector is requested
 *           before the angles are computed, so that both waits overlap.
 * Numerics  angle = position * inv_freq in F32, accurate sincosf (positions reach 65,000 and
 *           inv_freq starts at 1), turn in F32, rounded once; the page gets the very bits of the
 *           row. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/ptx.cuh"
#include "backend/cuda/rows.cuh"

#include <assert.h>

#define ROPE_THREADS_MAX 512

static unsigned rope_threads(int64_t items)
{
    int64_t threads = blocks_for(items, WARP_LANES) * WARP_LANES;
    return (unsigned)(threads < ROPE_THREADS_MAX ? threads : ROPE_THREADS_MAX);
}

/* ---- text ------------------------------------------------------------------------- */

/* Which values of a token's row a thread holds. */
typedef struct {
    int head, dim;              /* head counts q, then k, then v                         */
} rope_place;

/* The items of a token: of each query head the vectors that turn, of k and v all. */
typedef struct {
    int turning, vectors;       /* vectors of a head that turn, of a whole head          */
    int query_items, items;
} rope_items;

template <int VALUES>
static __host__ __device__ rope_items rope_items_of(const agl_rope_store_args *args)
{
    rope_items items;
    items.turning = (int)((2 * args->pairs + VALUES - 1) / VALUES);
    items.vectors = (int)((args->kv.head_dim + VALUES - 1) / VALUES);
    items.query_items = (int)args->heads * items.turning;
    items.items = items.query_items + 2 * (int)args->kv.kv_heads * items.vectors;
    return items;
}

template <int VALUES>
static __device__ __forceinline__ rope_place rope_place_of(const rope_items *items, int item,
                                                           int heads)
{
    bool is_query = item < items->query_items;
    int within = is_query ? item : item - items->query_items;
    int per_head = is_query ? items->turning : items->vectors;
    rope_place place = {within / per_head + (is_query ? 0 : heads), within % per_head * VALUES};
    return place;
}

/* The last pair of an odd head has one value. */
template <typename T, int VALUES>
static __device__ __forceinline__ void load_dims(float *out, const T *head, int dim, int head_dim)
{
    if constexpr (VALUES == VECTOR) {
        load8(out, head + dim);
    } else {
        for (int i = 0; i < VALUES; i++) out[i] = dim + i < head_dim ? to_f32(head[dim + i]) : 0.0f;
    }
}

template <typename T, int VALUES>
static __device__ __forceinline__ void store_dims(T *head, int dim, int head_dim, const float *in)
{
    if constexpr (VALUES == VECTOR) {
        store8(head + dim, in);
    } else {
        for (int i = 0; i < VALUES; i++) if (dim + i < head_dim) head[dim + i] = from_f32<T>(in[i]);
    }
}

template <typename T, int VALUES>
static __global__ void __launch_bounds__(ROPE_THREADS_MAX)
    rope_store_token(agl_rope_store_args args)
{
    DYNAMIC_SHARED(shared);
    float2 *turns = (float2 *)shared;       /* [pairs]: cosine, sine                     */
    __shared__ int64_t page_first;          /* the token's first value in head 0 of its page */
    const int64_t token = blockIdx.x;
    const int heads = (int)args.heads, kv_heads = (int)args.kv.kv_heads;
    const int head_dim = (int)args.kv.head_dim, pairs = (int)args.pairs;
    const rope_items items = rope_items_of<VALUES>(&args);
    T *row = (T *)args.qkv + token * (heads + 2 * kv_heads) * head_dim;
    int item = threadIdx.x;
    rope_place place = rope_place_of<VALUES>(&items, item, heads);
    float values[VALUES];

    ptx_release_next();
    ptx_wait_for_previous();
    if (item < items.items) {
        load_dims<T, VALUES>(values, row + place.head * head_dim, place.dim, head_dim);
    }
    for (int pair = threadIdx.x; pair < pairs; pair += blockDim.x) {
        float position = (float)args.positions[args.axis[pair] * args.tokens + token];
        sincosf(position * args.inv_freq[pair], &turns[pair].y, &turns[pair].x);
    }
    if (threadIdx.x == blockDim.x - 1) {    /* a warp that has no angles, if there is one */
        int64_t slot = args.slots[token], page = slot / args.kv.page_tokens;
        int64_t offset = slot - page * args.kv.page_tokens;
        page_first = slot < 0 ? -1 : (page * kv_heads * args.kv.page_tokens + offset) * head_dim;
    }
    __syncthreads();
    while (item < items.items) {
        T *head = row + place.head * head_dim;
        if (place.head < heads + kv_heads && place.dim < 2 * pairs) {
            for (int i = 0; i < VALUES; i += 2) {
                int pair = (place.dim + i) / 2;
                if (pair >= pairs) break;
                float2 turn = turns[pair];
                float a = values[i], b = values[i + 1];
                values[i] = a * turn.x - b * turn.y;
                values[i + 1] = b * turn.x + a * turn.y;
            }
            store_dims<T, VALUES>(head, place.dim, head_dim, values);
        }
        if (place.head >= heads && page_first >= 0) {
            int kv_head = place.head - heads;
            bool is_key = kv_head < kv_heads;
            T *pages = (T *)(is_key ? args.kv.k : args.kv.v) + page_first;
            int64_t head_first = (is_key ? kv_head : kv_head - kv_heads) * args.kv.page_tokens;
            store_dims<T, VALUES>(pages + head_first * head_dim, place.dim, head_dim, values);
        }
        item += blockDim.x;
        if (item < items.items) {
            place = rope_place_of<VALUES>(&items, item, heads);
            load_dims<T, VALUES>(values, row + place.head * head_dim, place.dim, head_dim);
        }
    }
}

template <typename T>
static agl_status launch_rope_store(agl_stream *stream, const agl_rope_store_args *args)
{
    bool fits = args->kv.head_dim % VECTOR == 0 && is_aligned16(args->qkv) &&
                is_aligned16(args->kv.k) && is_aligned16(args->kv.v);
    rope_items items = fits ? rope_items_of<VECTOR>(args) : rope_items_of<2>(args);
    return cuda_launch_early(stream, fits ? rope_store_token<T, VECTOR> : rope_store_token<T, 2>,
                             dim3((unsigned)args->tokens), dim3(rope_threads(items.items)),
                             (size_t)args->pairs * sizeof(float2), *args);
}

extern "C" agl_status agl_cuda_rope_store(agl_stream *stream, const agl_rope_store_args *args)
{
    assert(2 * args->pairs <= args->kv.head_dim);
    if (args->kv.dtype != stream->backend->activation) return AGL_ERR_UNSUPPORTED;
    if (args->tokens < 1) return AGL_OK;
    AGL_CUDA_BY_ACTIVATION(stream->backend->activation, T,
                           return launch_rope_store<T>(stream, args));
}

/* ---- vision ------------------------------------------------------------------------ */

template <typename T, int VALUES>
static __global__ void __launch_bounds__(ROPE_THREADS_MAX)
    rope_vision_token(agl_rope_vision_args args)
{
    DYNAMIC_SHARED(shared);
    float2 *turns = (float2 *)shared;       /* [head_dim / 2]: cosine, sine              */
    const int64_t token = blockIdx.x;
    const int head_dim = (int)args.head_dim, half = head_dim / 2, quarter = head_dim / 4;
    const int vectors = half / VALUES, items = 2 * (int)args.heads * vectors; /* q, then k */
    T *row = (T *)args.qkv + token * 3 * args.heads * head_dim;

    ptx_release_next();
    ptx_wait_for_previous();
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        bool is_row = i < quarter;
        float position = (float)args.rows_columns[token * 2 + (is_row ? 0 : 1)];
        float angle = position * args.inv_freq[is_row ? i : i - quarter];
        sincosf(angle, &turns[i].y, &turns[i].x);
    }
    __syncthreads();
    for (int item = threadIdx.x; item < items; item += blockDim.x) {
        int dim = item % vectors * VALUES;
        T *low = row + item / vectors * head_dim + dim, *high = low + half;
        float a[VALUES], b[VALUES];
        load_values<VALUES>(a, low);
        load_values<VALUES>(b, high);
        for (int i = 0; i < VALUES; i++) {
            float2 turn = turns[dim + i];
            float low_value = a[i], high_value = b[i];
            a[i] = low_value * turn.x - high_value * turn.y;
            b[i] = high_value * turn.x + low_value * turn.y;
        }
        store_values<VALUES>(low, a);
        store_values<VALUES>(high, b);
    }
}

template <typename T>
static agl_status launch_rope_vision(agl_stream *stream, const agl_rope_vision_args *args)
{
    bool fits = args->head_dim % (2 * VECTOR) == 0 && is_aligned16(args->qkv);
    int64_t half = args->head_dim / 2, items = 2 * args->heads * (half / (fits ? VECTOR : 1));
    return cuda_launch_early(stream, fits ? rope_vision_token<T, VECTOR> : rope_vision_token<T, 1>,
                             dim3((unsigned)args->tokens), dim3(rope_threads(items)),
                             (size_t)half * sizeof(float2), *args);
}

extern "C" agl_status agl_cuda_rope_vision(agl_stream *stream, const agl_rope_vision_args *args)
{
    assert(args->head_dim % 4 == 0);
    if (args->tokens < 1) return AGL_OK;
    AGL_CUDA_BY_ACTIVATION(stream->backend->activation, T,
                           return launch_rope_vision<T>(stream, args));
}
