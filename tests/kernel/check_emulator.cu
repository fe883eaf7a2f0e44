/* SPDX-License-Identifier: Apache-2.0
 *
 * The emulated CUDA device against what CUDA promises: barriers, warp functions, products,
 * copies that are late, memory, streams and graphs; and that it ends the program, with the place,
 * on the mistakes that it is there to find. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include <cmocka.h>
}

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/cuda/ptx.cuh"
#include "emulator.h"

#define FULL 0xffffffffu
static const uint32_t ORDERS[] = {0, 1, 12345};

static void check(cudaError_t error)
{
    if (error != cudaSuccess) fail_msg("%s", cudaGetErrorString(error));
}

static void *device_memory(const void *host, size_t bytes)
{
    void *memory;
    check(cudaMalloc(&memory, bytes));
    if (host != NULL) check(cudaMemcpy(memory, host, bytes, cudaMemcpyHostToDevice));
    return memory;
}

template <typename... Params, typename... Args>
static cudaError_t launch(cudaStream_t stream, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared,
                          Args... args)
{
    cudaLaunchConfig_t config = {grid, block, shared, stream, NULL, 0};
    return cudaLaunchKernelEx(&config, kernel, (Params)args...);
}

/* Launch on the default stream and bring `count` values back. */
template <typename T, typename... Params, typename... Args>
static void run(T *out, size_t count, void (*kernel)(T *, Params...), dim3 grid, dim3 block, size_t shared,
                Args... args)
{
    T *device = (T *)device_memory(NULL, count * sizeof(T));
    check(launch(NULL, kernel, grid, block, shared, device, args...));
    check(cudaMemcpy(out, device, count * sizeof(T), cudaMemcpyDeviceToHost));
    check(cudaFree(device));
}

/* ---- barriers ----------------------------------------------------------------- */

/* Every thread sums what all wrote, twice through the same memory. */
template <bool FIRST_BARRIER, bool SECOND_BARRIER>
static __global__ void sum_twice(float *out)
{
    __shared__ float values[1024];
    float total = 0.0f;
    for (int round = 0; round < 2; round++) {
        values[threadIdx.x] = (float)(threadIdx.x + round);
        if (FIRST_BARRIER) __syncthreads();
        for (unsigned i = 0; i < blockDim.x; i++) total += values[i];
        if (SECOND_BARRIER) __syncthreads();
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}

template <bool FIRST_BARRIER, bool SECOND_BARRIER>
static bool sums_are_right(int threads)
{
    enum { BLOCKS = 3 };
    float out[BLOCKS * 1024], want = (float)(threads * (threads - 1) + threads);
    run(out, (size_t)(BLOCKS * threads), sum_twice<FIRST_BARRIER, SECOND_BARRIER>, BLOCKS, threads, 0);
    for (int i = 0; i < BLOCKS * threads; i++) if (!(out[i] == want)) return false;
    return true;
}

static void barriers_order_a_block(void **)
{
    static const int THREADS[] = {1, 31, 32, 96, 1000, 1024};
    for (uint32_t order : ORDERS) {
        emu_set_order(order);
        for (int threads : THREADS) assert_true((sums_are_right<true, true>(threads)));
        assert_false((sums_are_right<false, true>(64)));
        assert_false((sums_are_right<true, false>(64)));
    }
    emu_set_order(0);
}

static __global__ void votes(int *out)
{
    int odd = threadIdx.x % 2;
    out[threadIdx.x * 3] = __syncthreads_count(odd);
    out[threadIdx.x * 3 + 1] = __syncthreads_or(threadIdx.x == 40);
    out[threadIdx.x * 3 + 2] = __syncthreads_and(threadIdx.x != 40);
}

static void barriers_count(void **)
{
    int out[3 * 64];
    run(out, 3 * 64, votes, 1, 64, 0);
    for (int i = 0; i < 64; i++) {
        assert_int_equal(out[3 * i], 32);
        assert_int_equal(out[3 * i + 1], 1);
        assert_int_equal(out[3 * i + 2], 0);
    }
}

/* Threads that have ended are not waited for. */
static __global__ void some_end(int *out)
{
    __shared__ int values[64];
    if (threadIdx.x >= 48) return;
    values[threadIdx.x] = (int)threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = values[47 - threadIdx.x];
}

static void ended_threads_do_not_hold_barriers(void **)
{
    int out[48];
    run(out, 48, some_end, 1, 64, 0);
    for (int i = 0; i < 48; i++) assert_int_equal(out[i], 47 - i);
}

static __global__ void place(unsigned *out)
{
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    atomicAdd(&out[block * blockDim.x * blockDim.y * blockDim.z + thread], 1u + thread);
}

static void every_thread_runs_once(void **)
{
    enum { BLOCKS = 5 * 3 * 2, THREADS = 7 * 4 * 3 };
    unsigned zero[BLOCKS * THREADS] = {0}, out[BLOCKS * THREADS];
    for (uint32_t order : ORDERS) {
        emu_set_order(order);
        void *device = device_memory(zero, sizeof zero);
        check(launch(NULL, place, dim3(5, 3, 2), dim3(7, 4, 3), 0, device));
        check(cudaMemcpy(out, device, sizeof out, cudaMemcpyDeviceToHost));
        check(cudaFree(device));
        for (unsigned i = 0; i < BLOCKS * THREADS; i++) assert_int_equal(out[i], 1 + i % THREADS);
    }
    emu_set_order(0);
}

/* ---- warps -------------------------------------------------------------------- */

enum { WARP_VALUES = 14 };

static __global__ void warp_functions(int *out)
{
    int lane = (int)threadIdx.x % 32, *mine = out + threadIdx.x * WARP_VALUES;
    mine[0] = __shfl_sync(FULL, lane * 10, 5);
    mine[1] = __shfl_sync(FULL, lane * 10, 5, 8);
    mine[2] = __shfl_up_sync(FULL, lane, 3);
    mine[3] = __shfl_down_sync(FULL, lane, 3, 16);
    mine[4] = __shfl_xor_sync(FULL, lane, 9);
    mine[5] = (int)__ballot_sync(FULL, lane % 3 == 0);
    mine[6] = __any_sync(FULL, lane == 31);
    mine[7] = __all_sync(FULL, lane < 31);
    mine[8] = __reduce_add_sync(FULL, lane - 16);
    mine[9] = __reduce_min_sync(FULL, lane - 16);
    mine[10] = (int)__reduce_max_sync(FULL, (unsigned)(lane - 16));
    mine[11] = (int)__match_any_sync(FULL, lane / 4);
    mine[12] = 0;
    /* Half of a warp alone, in turn. */
    if (lane < 16) mine[12] = __reduce_add_sync(0xffffu, lane);
    else mine[12] = __reduce_add_sync(0xffff0000u, lane);
    __syncwarp();
    double wide = __shfl_xor_sync(FULL, lane + 0.5, 1);
    mine[13] = (int)(2 * wide);
}

static void warp_functions_are_right(void **)
{
    static int out[64 * WARP_VALUES];
    for (uint32_t order : ORDERS) {
        emu_set_order(order);
        run(out, 64 * WARP_VALUES, warp_functions, 1, 64, 0);
        for (int i = 0; i < 64; i++) {
            int lane = i % 32, *got = out + i * WARP_VALUES;
            int want[WARP_VALUES] = {50, (lane / 8 * 8 + 5) * 10, lane < 3 ? lane : lane - 3,
                                     lane % 16 + 3 < 16 ? lane + 3 : lane, lane ^ 9, 0x49249249, 1, 0, -16, -16, -1,
                                     0xf << (lane / 4 * 4), lane < 16 ? 120 : 376, 2 * (lane ^ 1) + 1};
            for (int v = 0; v < WARP_VALUES; v++) {
                if (got[v] != want[v]) fail_msg("value %d of lane %d: %d, not %d", v, lane, got[v], want[v]);
            }
        }
    }
    emu_set_order(0);
}

/* ---- products ------------------------------------------------------------------- */

/* d = a[16, 16] b^T[8, 16] with a by ldmatrix, b [n, k] by ldmatrix or [k, n] by its transpose. */
template <typename T, bool TRANSPOSED>
static __global__ void product(float *d, const T *a, const T *b)
{
    __shared__ __align__(16) T left[16][16];
    __shared__ __align__(16) T right[16][16];
    int lane = (int)threadIdx.x;
    for (int i = lane; i < 16 * 16; i += 32) {
        left[i / 16][i % 16] = a[i];
        right[i / 16][i % 16] = b[i];
    }
    __syncthreads();
    uint32_t ra[4], rb[4];
    ptx_ldmatrix_x4(ra, &left[lane % 8 + lane / 8 % 2 * 8][lane / 16 * 8]);
    /* Matrices in the order: columns 0-7 with k 0-7, with k 8-15, then columns 8-15. */
    if (TRANSPOSED) ptx_ldmatrix_x4_trans(rb, &right[lane % 8 + lane / 8 % 2 * 8][lane / 16 * 8]);
    else ptx_ldmatrix_x4(rb, &right[lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);
    for (int half = 0; half < 2; half++) {
        float sums[4] = {1.0f, 1.0f, 1.0f, 1.0f};
        ptx_mma<T>(sums, ra, rb + 2 * half);
        for (int i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 16 + half * 8 + lane % 4 * 2 + i % 2] = sums[i];
    }
}

template <typename T, bool TRANSPOSED>
static void check_product(void)
{
    T a[16 * 16], b[16 * 16];
    float got[16 * 16];
    for (int i = 0; i < 16 * 16; i++) {
        a[i] = T((float)((i * 37 + 11) % 101 - 50) / 16.0f);
        b[i] = T((float)((i * 53 + 7) % 97 - 48) / 8.0f);
    }
    void *device_a = device_memory(a, sizeof a), *device_b = device_memory(b, sizeof b);
    run(got, 16 * 16, product<T, TRANSPOSED>, 1, 32, 0, (const T *)device_a, (const T *)device_b);
    for (int m = 0; m < 16; m++) {
        for (int n = 0; n < 16; n++) {
            double want = 1.0; /* sums of multiples of 1/128 below 2^16: exact */
            for (int k = 0; k < 16; k++) {
                want += (double)(float)a[m * 16 + k] * (double)(float)b[TRANSPOSED ? k * 16 + n : n * 16 + k];
            }
            if ((double)got[m * 16 + n] != want) {
                fail_msg("d[%d][%d] is %g, not %g", m, n, (double)got[m * 16 + n], want);
            }
        }
    }
    check(cudaFree(device_a));
    check(cudaFree(device_b));
}

static void products_are_right(void **)
{
    for (uint32_t order : ORDERS) {
        emu_set_order(order);
        check_product<__nv_bfloat16, false>();
        check_product<__nv_bfloat16, true>();
        check_product<__half, false>();
        check_product<__half, true>();
    }
    emu_set_order(0);
}

/* ---- asynchronous copies ------------------------------------------------------------ */

/* Two groups; the wait leaves PENDING of them open. out[t] is a value of each. */
template <int PENDING>
static __global__ void copies(float *out, const float *in)
{
    DYNAMIC_SHARED(memory);
    float *values = (float *)memory;
    int t = (int)threadIdx.x, n = (int)blockDim.x * 4;
    ptx_cp_async16(values + 4 * t, in + 4 * t);
    ptx_cp_async_commit();
    ptx_cp_async16_or_zero(values + n + 4 * t, in + n + 4 * t, t % 2 == 0);
    ptx_cp_async_commit();
    ptx_cp_async_wait<PENDING>();
    __syncthreads();
    int other = (int)blockDim.x - 1 - t;
    out[2 * t] = values[4 * other + 1];
    out[2 * t + 1] = values[n + 4 * other + 1];
}

static void copies_arrive_at_their_wait(void **)
{
    enum { THREADS = 64 };
    float in[THREADS * 8], out[THREADS * 2];
    for (int i = 0; i < THREADS * 8; i++) in[i] = (float)i;
    void *device = device_memory(in, sizeof in);
    for (uint32_t order : ORDERS) {
        emu_set_order(order);
        for (int pending = 0; pending < 3; pending++) {
            void (*kernel)(float *, const float *) = pending == 0 ? copies<0> : pending == 1 ? copies<1> : copies<2>;
            run(out, THREADS * 2, kernel, 1, THREADS, sizeof in, (const float *)device);
            for (int t = 0; t < THREADS; t++) {
                int other = THREADS - 1 - t;
                if (pending > 1) assert_true(isnan(out[2 * t]));
                else assert_true(out[2 * t] == in[4 * other + 1]);
                if (pending > 0) assert_true(isnan(out[2 * t + 1]));
                else assert_true(out[2 * t + 1] == (other % 2 == 0 ? in[THREADS * 4 + 4 * other + 1] : 0.0f));
            }
        }
    }
    emu_set_order(0);
    check(cudaFree(device));
}

static __global__ void read_first(float *out)
{
    DYNAMIC_SHARED(memory);
    __shared__ float fixed[8];
    out[2 * blockIdx.x] = ((float *)memory)[3];
    out[2 * blockIdx.x + 1] = fixed[3];
    ((float *)memory)[3] = 1.0f;
    fixed[3] = 1.0f;
}

static void shared_memory_is_full_of_nan(void **)
{
    float out[6];
    run(out, 6, read_first, 3, 1, 64);
    for (int i = 0; i < 6; i++) assert_true(isnan(out[i]));
}

/* ---- the 16-bit formats -------------------------------------------------------------- */

static void formats_round_to_nearest_even(void **)
{
    for (unsigned bits = 0; bits < 0x10000u; bits++) {
        float h = __half2float(__ushort_as_half((unsigned short)bits));
        float b = __bfloat162float(__ushort_as_bfloat16((unsigned short)bits));
        if (!isnan(h)) assert_int_equal(__half_as_ushort(__float2half(h)), bits);
        if (!isnan(b)) assert_int_equal(__bfloat16_as_ushort(__float2bfloat16(b)), bits);
        /* Half way to the next value the even one wins; a little more or less is decided. */
        if ((bits & 0x7fffu) < 0x7bffu) {
            float next = __half2float(__ushort_as_half((unsigned short)(bits + 1))), middle = (h + next) * 0.5f;
            assert_int_equal(__half_as_ushort(__float2half(middle)), bits + (bits & 1u));
            assert_int_equal(__half_as_ushort(__float2half(nextafterf(middle, h))), bits);
            assert_int_equal(__half_as_ushort(__float2half(nextafterf(middle, next))), bits + 1);
        }
    }
    assert_int_equal(__half_as_ushort(__float2half(65519.0f)), 0x7bff);
    assert_int_equal(__half_as_ushort(__float2half(65520.0f)), 0x7c00);
    assert_int_equal(__bfloat16_as_ushort(__float2bfloat16(NAN)), 0x7fff);
    assert_int_equal(__bfloat16_as_ushort(__float2bfloat16(1.0f + 0x1p-8f)), 0x3f80);
    assert_int_equal(__bfloat16_as_ushort(__float2bfloat16(1.0f + 0x1.8p-7f)), 0x3f82);
    assert_true((float)__ushort_as_half(1) == 0x1p-24f);
}

static void bits_are_moved(void **)
{
    assert_int_equal(__byte_perm(0x33221100u, 0x77665544u, 0x7531u), 0x77553311u);
    assert_int_equal(__brev(0x80000001u), 0x80000001u);
    assert_int_equal(__brev(2u), 0x40000000u);
    assert_int_equal(__clz(1), 31);
    assert_int_equal(__ffs(8), 4);
    assert_int_equal(__funnelshift_r(0x80000000u, 1u, 31), 3u);
    assert_int_equal(min(3, -2), -2);
    assert_true(max(NAN, 2.0f) == 2.0f);
}

/* ---- streams, events, graphs ---------------------------------------------------------- */

static __global__ void add(float *x, float v)
{
    x[blockIdx.x * blockDim.x + threadIdx.x] += v;
}

/* Nothing happens before the host waits, and then only that stream's work. */
static void streams_are_late(void **)
{
    cudaStream_t one, two;
    cudaEvent_t middle;
    float *pinned, zeros[32] = {0};
    check(cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking));
    check(cudaStreamCreateWithFlags(&two, cudaStreamNonBlocking));
    check(cudaEventCreateWithFlags(&middle, cudaEventDisableTiming));
    check(cudaMallocHost(&pinned, 4 * sizeof(float)));
    float *x = (float *)device_memory(zeros, sizeof zeros);
    memset(pinned, 0, 4 * sizeof(float));
    check(launch(one, add, 1, 32, 0, x, 1.0f));
    check(cudaMemcpyAsync(pinned, x, sizeof(float), cudaMemcpyDeviceToHost, one));
    check(cudaEventRecord(middle, one));
    check(launch(one, add, 1, 32, 0, x, 1.0f));
    check(cudaMemcpyAsync(pinned + 1, x, sizeof(float), cudaMemcpyDeviceToHost, one));
    check(cudaStreamWaitEvent(two, middle, 0));
    check(cudaMemcpyAsync(pinned + 2, x, sizeof(float), cudaMemcpyDeviceToHost, two));
    assert_true(pinned[0] == 0.0f);
    assert_int_equal(cudaEventQuery(middle), cudaErrorNotReady);
    check(cudaStreamSynchronize(two));
    assert_true(pinned[0] == 1.0f && pinned[1] == 0.0f && pinned[2] == 1.0f);
    assert_int_equal(cudaEventQuery(middle), cudaSuccess);
    check(cudaStreamSynchronize(one));
    assert_true(pinned[1] == 2.0f);
    /* Pinned memory is read when the copy runs, pageable memory when it is asked for. */
    float pageable = 5.0f;
    pinned[3] = 6.0f;
    check(cudaMemcpyAsync(x, &pageable, sizeof(float), cudaMemcpyHostToDevice, one));
    check(cudaMemcpyAsync(x + 1, pinned + 3, sizeof(float), cudaMemcpyHostToDevice, one));
    pageable = pinned[3] = 7.0f;
    float out[2];
    check(cudaMemcpyAsync(out, x, sizeof out, cudaMemcpyDeviceToHost, one));
    assert_true(out[0] == 5.0f && out[1] == 7.0f);
    check(cudaFree(x));
    check(cudaFreeHost(pinned));
    check(cudaEventDestroy(middle));
    check(cudaStreamDestroy(one));
    check(cudaStreamDestroy(two));
}

static void graphs_run_again(void **)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    size_t nodes;
    float out[32], zeros[32] = {0};
    void *more;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    float *x = (float *)device_memory(zeros, sizeof zeros);
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    check(launch(stream, add, 1, 32, 0, x, 1.0f));
    check(launch(stream, add, 1, 32, 0, x, 2.0f));
    check(cudaStreamEndCapture(stream, &graph));
    check(cudaGraphGetNodes(graph, NULL, &nodes));
    assert_int_equal(nodes, 2);
    check(cudaGraphInstantiate(&exec, graph, 0));
    check(cudaGraphDestroy(graph));
    check(cudaMemcpy(out, x, sizeof out, cudaMemcpyDeviceToHost));
    assert_true(out[31] == 0.0f);
    check(cudaGraphLaunch(exec, stream));
    check(cudaGraphLaunch(exec, stream));
    check(cudaGraphExecDestroy(exec));
    check(cudaStreamSynchronize(stream));
    check(cudaMemcpy(out, x, sizeof out, cudaMemcpyDeviceToHost));
    assert_true(out[31] == 6.0f);
    /* Memory cannot be taken while a stream records. */
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    assert_int_equal(cudaMalloc(&more, 16), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    assert_null(graph);
    cudaGetLastError();
    check(cudaFree(x));
    check(cudaStreamDestroy(stream));
}

static void launches_and_copies_are_checked(void **)
{
    float values[4];
    float *x = (float *)device_memory(NULL, sizeof values);
    assert_int_equal(launch(NULL, add, 0, 32, 0, x, 1.0f), cudaErrorInvalidConfiguration);
    assert_int_equal(launch(NULL, add, 1, 1025, 0, x, 1.0f), cudaErrorInvalidConfiguration);
    assert_int_equal(launch(NULL, add, dim3(1, 65536), 32, 0, x, 1.0f), cudaErrorInvalidConfiguration);
    assert_int_equal(launch(NULL, add, 1, 4, 49 << 10, x, 1.0f), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_int_equal(cudaFuncSetAttribute(add, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10), cudaErrorInvalidValue);
    check(cudaFuncSetAttribute(add, cudaFuncAttributeMaxDynamicSharedMemorySize, 49 << 10));
    check(launch(NULL, add, 1, 4, 49 << 10, x, 1.0f));
    assert_int_equal(cudaMemcpy(x, values, sizeof values, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(x + 1, values, sizeof values, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    size_t free_bytes, total_bytes;
    void *more;
    check(cudaMemGetInfo(&free_bytes, &total_bytes));
    assert_int_equal(cudaMalloc(&more, free_bytes + 1), cudaErrorMemoryAllocation);
    check(cudaDeviceSynchronize());
    check(cudaFree(x));
    cudaGetLastError();
}

/* ---- mistakes end the program --------------------------------------------------------- */

static void expect_end(const char *message, void (*mistake)(void))
{
    int pipes[2], state;
    char text[4096];
    size_t length = 0;
    fflush(NULL);
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(pipes[1], STDERR_FILENO);
        mistake();
        cudaDeviceSynchronize();
        _exit(0);
    }
    close(pipes[1]);
    for (ssize_t got; length < sizeof text - 1 && (got = read(pipes[0], text + length, sizeof text - 1 - length)) > 0;) {
        length += (size_t)got;
    }
    text[length] = '\0';
    close(pipes[0]);
    assert_int_equal(waitpid(child, &state, 0), child);
    if (WIFEXITED(state) && WEXITSTATUS(state) == 0) fail_msg("not found: %s", message);
    if (strstr(text, message) == NULL) fail_msg("said: %s\nnot: %s", text, message);
}

static __global__ void divergent_shuffle(int *out)
{
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(FULL, (int)threadIdx.x, 1);
    else __syncthreads();
}
static __global__ void mixed(int *out)
{
    out[threadIdx.x] = threadIdx.x < 16 ? (int)__ballot_sync(FULL, 1) : __shfl_xor_sync(FULL, 1, 1);
}
static __global__ void ended_lane(int *out)
{
    if (threadIdx.x == 31) return;
    out[threadIdx.x] = __shfl_xor_sync(FULL, 1, 1);
}
static __global__ void mixed_barriers(int *out)
{
    if (threadIdx.x < 32) __syncthreads();
    else out[0] = __syncthreads_or(1);
}
static __global__ void odd_copy(int *out)
{
    DYNAMIC_SHARED(memory);
    ptx_cp_async16(memory + 4, out);
}
static __global__ void beyond_shared(int *out)
{
    DYNAMIC_SHARED(memory);
    memory[threadIdx.x + 100] = 0;
    out[0] = 1;
}
static __global__ void odd_rows(int *out)
{
    DYNAMIC_SHARED(memory);
    uint32_t r[4];
    ptx_ldmatrix_x4(r, memory + 2 * threadIdx.x);
    out[0] = (int)r[0];
}
#ifndef __SANITIZE_ADDRESS__ /* which reports faults in its own words */
static __global__ void beyond_global(int *out) { out[1024 + threadIdx.x] = 1; }
#endif
static __global__ void behind_global(int *out) { out[10] = 1; }
static __global__ void nothing(int *out) { out[0] = 1; }

static int *ten(void) { return (int *)device_memory(NULL, 10 * sizeof(int)); }

static void mistakes_are_found(void **)
{
    expect_end("not reached by all", []() { launch(NULL, divergent_shuffle, 1, 32, 0, ten()); });
    expect_end("is at __shfl_xor_sync", []() { launch(NULL, mixed, 1, 32, 0, ten()); });
    expect_end("not reached by all", []() { launch(NULL, ended_lane, 1, 32, 0, ten()); });
    expect_end("have ended or do not exist", []() {
        emu_set_order(1);
        launch(NULL, ended_lane, 1, 32, 0, ten());
    });
    expect_end("block (0, 0, 0), thread (8, 0, 0)", []() {
        emu_set_order(1);
        launch(NULL, ended_lane, 1, 9, 0, ten());
    });
    expect_end("while others are at __syncthreads", []() { launch(NULL, mixed_barriers, 1, 64, 0, ten()); });
    expect_end("not 16-byte aligned", []() { launch(NULL, odd_copy, 1, 32, 512, ten()); });
    expect_end("not 16-byte aligned", []() { launch(NULL, odd_rows, 1, 32, 512, ten()); });
    expect_end("byte 100 of 100 of dynamic", []() { launch(NULL, beyond_shared, 1, 1, 100, ten()); });
    expect_end("byte 40 of an allocation of 40", []() {
        int *x = ten();
        launch(NULL, behind_global, 1, 1, 0, x);
        cudaFree(x);
    });
    expect_end("is the host address", []() {
        static int host[4];
        launch(NULL, nothing, 1, 1, 0, host);
    });
    expect_end("freed before", []() {
        int *x = ten();
        cudaFree(x);
        cudaFree(x);
    });
    expect_end("no thread waited", []() {
        cudaLaunchAttribute attribute = {};
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t config = {1, 1, 0, NULL, &attribute, 1};
        cudaLaunchKernelEx(&config, nothing, ten());
    });
#ifndef __SANITIZE_ADDRESS__
    expect_end("a kernel touched", []() { launch(NULL, beyond_global, 1, 32, 0, ten()); });
    expect_end("the host touched", []() {
        volatile int *x = ten();
        cudaDeviceSynchronize();
        signal(SIGSEGV, SIG_DFL);
        emu_catch_faults();
        x[0] = 1;
    });
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(barriers_order_a_block),
        cmocka_unit_test(barriers_count),
        cmocka_unit_test(ended_threads_do_not_hold_barriers),
        cmocka_unit_test(every_thread_runs_once),
        cmocka_unit_test(warp_functions_are_right),
        cmocka_unit_test(products_are_right),
        cmocka_unit_test(copies_arrive_at_their_wait),
        cmocka_unit_test(shared_memory_is_full_of_nan),
        cmocka_unit_test(formats_round_to_nearest_even),
        cmocka_unit_test(bits_are_moved),
        cmocka_unit_test(streams_are_late),
        cmocka_unit_test(graphs_run_again),
        cmocka_unit_test(launches_and_copies_are_checked),
        cmocka_unit_test(mistakes_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
