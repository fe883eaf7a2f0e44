/* SPDX-License-Identifier: Apache-2.0
 *
 * cuda_device.h - what a kernel may use, in plain C++: index variables, barriers, warp functions,
 * atomics, intrinsics, and launching. Every CUDA thread is a fiber of one CPU thread, so a plain
 * read-modify-write is atomic; fibers change places only in barriers and warp functions. */
#ifndef AGL_TESTS_CUDA_EMULATOR_CUDA_DEVICE_H
#define AGL_TESTS_CUDA_EMULATOR_CUDA_DEVICE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__
/* Thread-local, so that all of them lie together (the TLS segment of the program, which has no
 * other such variable) and can be poisoned before every block. */
#define __shared__ static thread_local
#define __builtin_assume(condition) ((void)0)

/* ---- vectors --------------------------------------------------------------------- */

#define EMU_VECTOR(type, name, align2, align4)                                                 \
    struct __align__(align2) name##2 { type x, y; };                                           \
    struct __align__(align4) name##4 { type x, y, z, w; };                                     \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                    \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMU_VECTOR(float, float, 8, 16)
EMU_VECTOR(int, int, 8, 16)
EMU_VECTOR(unsigned, uint, 8, 16)
EMU_VECTOR(short, short, 4, 8)
EMU_VECTOR(unsigned short, ushort, 4, 8)
EMU_VECTOR(signed char, char, 2, 4)
EMU_VECTOR(unsigned char, uchar, 2, 4)
EMU_VECTOR(double, double, 16, 16)
EMU_VECTOR(long long, longlong, 16, 16)
EMU_VECTOR(unsigned long long, ulonglong, 16, 16)
struct float3 { float x, y, z; };
static inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
static inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }

/* ---- place ------------------------------------------------------------------------- */

EMU_API extern uint3 threadIdx, blockIdx;
EMU_API extern dim3 blockDim, gridDim;
static constexpr int warpSize = 32;

/* ---- barriers and warp functions; thread.cc ------------------------------------------ */

enum emu_barrier_kind { EMU_BARRIER_PLAIN, EMU_BARRIER_OR, EMU_BARRIER_AND, EMU_BARRIER_COUNT };
EMU_API int emu_barrier(emu_barrier_kind kind, int predicate);

static inline void __syncthreads(void) { emu_barrier(EMU_BARRIER_PLAIN, 0); }
static inline int __syncthreads_or(int p) { return emu_barrier(EMU_BARRIER_OR, p); }
static inline int __syncthreads_and(int p) { return emu_barrier(EMU_BARRIER_AND, p); }
static inline int __syncthreads_count(int p) { return emu_barrier(EMU_BARRIER_COUNT, p); }

/* Barrier `id` of `threads` threads of the block. */
EMU_API void emu_named_barrier(int id, int threads, bool wait);

enum emu_warp_kind {
    EMU_SYNCWARP, EMU_SHFL, EMU_SHFL_UP, EMU_SHFL_DOWN, EMU_SHFL_XOR, EMU_BALLOT, EMU_ANY, EMU_ALL,
    EMU_REDUCE_ADD, EMU_REDUCE_MIN, EMU_REDUCE_MAX, EMU_REDUCE_MIN_SIGNED, EMU_REDUCE_MAX_SIGNED,
    EMU_REDUCE_AND, EMU_REDUCE_OR, EMU_REDUCE_XOR, EMU_MATCH_ANY, EMU_LDMATRIX, EMU_LDMATRIX_TRANS,
    EMU_MMA_BF16, EMU_MMA_F16
};

/* Wait for all lanes of `mask`, then out = what the function gives this lane. `argument` and
 * `width` are those of a shuffle. */
EMU_API void emu_warp(emu_warp_kind kind, unsigned mask, void *out, const void *in, size_t bytes,
                      int argument, int width);

static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    emu_warp(EMU_SYNCWARP, mask, NULL, NULL, 0, 0, 32);
}

#define EMU_SHUFFLE(name, kind, parameter)                                                     \
    template <typename T>                                                                      \
    static inline T name(unsigned mask, T value, parameter argument, int width = 32)           \
    {                                                                                          \
        static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "shuffle");      \
        T result;                                                                              \
        emu_warp(kind, mask, &result, &value, sizeof value, (int)argument, width);             \
        return result;                                                                         \
    }
EMU_SHUFFLE(__shfl_sync, EMU_SHFL, int)
EMU_SHUFFLE(__shfl_up_sync, EMU_SHFL_UP, unsigned)
EMU_SHUFFLE(__shfl_down_sync, EMU_SHFL_DOWN, unsigned)
EMU_SHUFFLE(__shfl_xor_sync, EMU_SHFL_XOR, int)

static inline unsigned emu_warp_value(emu_warp_kind kind, unsigned mask, unsigned value)
{
    unsigned result;
    emu_warp(kind, mask, &result, &value, sizeof value, 0, 32);
    return result;
}
static inline unsigned __ballot_sync(unsigned mask, int p) { return emu_warp_value(EMU_BALLOT, mask, p != 0); }
static inline int __any_sync(unsigned mask, int p) { return (int)emu_warp_value(EMU_ANY, mask, p != 0); }
static inline int __all_sync(unsigned mask, int p) { return (int)emu_warp_value(EMU_ALL, mask, p != 0); }
static inline unsigned __match_any_sync(unsigned mask, unsigned v) { return emu_warp_value(EMU_MATCH_ANY, mask, v); }
static inline unsigned __match_any_sync(unsigned mask, int v) { return emu_warp_value(EMU_MATCH_ANY, mask, (unsigned)v); }
static inline unsigned __reduce_add_sync(unsigned mask, unsigned v) { return emu_warp_value(EMU_REDUCE_ADD, mask, v); }
static inline int __reduce_add_sync(unsigned mask, int v) { return (int)emu_warp_value(EMU_REDUCE_ADD, mask, (unsigned)v); }
static inline unsigned __reduce_min_sync(unsigned mask, unsigned v) { return emu_warp_value(EMU_REDUCE_MIN, mask, v); }
static inline int __reduce_min_sync(unsigned mask, int v) { return (int)emu_warp_value(EMU_REDUCE_MIN_SIGNED, mask, (unsigned)v); }
static inline unsigned __reduce_max_sync(unsigned mask, unsigned v) { return emu_warp_value(EMU_REDUCE_MAX, mask, v); }
static inline int __reduce_max_sync(unsigned mask, int v) { return (int)emu_warp_value(EMU_REDUCE_MAX_SIGNED, mask, (unsigned)v); }
static inline unsigned __reduce_and_sync(unsigned mask, unsigned v) { return emu_warp_value(EMU_REDUCE_AND, mask, v); }
static inline unsigned __reduce_or_sync(unsigned mask, unsigned v) { return emu_warp_value(EMU_REDUCE_OR, mask, v); }
static inline unsigned __reduce_xor_sync(unsigned mask, unsigned v) { return emu_warp_value(EMU_REDUCE_XOR, mask, v); }

/* The lanes that have not ended. A device may give any part of them that holds this lane. */
EMU_API unsigned __activemask(void);

/* Let the other threads of the block run: for loops that wait on one of them. */
EMU_API void __nanosleep(unsigned nanoseconds);

static inline void __threadfence(void) {}
static inline void __threadfence_block(void) {}
static inline void __threadfence_system(void) {}
[[noreturn]] EMU_API void __trap(void);

EMU_API long long clock64(void);

/* Asynchronous copies: performed by the wait that covers their group; until then the 16 bytes at
 * `shared` are NaN. */
EMU_API void emu_cp_async16(void *shared, const void *global, bool valid);
EMU_API void emu_cp_async_commit(void);
EMU_API void emu_cp_async_wait(int pending);

EMU_API void emu_wait_for_previous(void);

/* Dynamic shared memory of the running block. */
EMU_API unsigned char *emu_dynamic_shared(void);

EMU_API size_t __cvta_generic_to_shared(const void *shared);

/* ---- atomics: the old value ------------------------------------------------------------- */

template <typename T, typename V>
static inline T atomicAdd(T *p, V v) { T old = *p; *p = old + (T)v; return old; }
template <typename T, typename V>
static inline T atomicSub(T *p, V v) { T old = *p; *p = old - (T)v; return old; }
template <typename T, typename V>
static inline T atomicExch(T *p, V v) { T old = *p; *p = (T)v; return old; }
template <typename T, typename V>
static inline T atomicMax(T *p, V v) { T old = *p; if ((T)v > old) *p = (T)v; return old; }
template <typename T, typename V>
static inline T atomicMin(T *p, V v) { T old = *p; if ((T)v < old) *p = (T)v; return old; }
template <typename T, typename V>
static inline T atomicOr(T *p, V v) { T old = *p; *p = old | (T)v; return old; }
template <typename T, typename V>
static inline T atomicAnd(T *p, V v) { T old = *p; *p = old & (T)v; return old; }
template <typename T, typename V>
static inline T atomicXor(T *p, V v) { T old = *p; *p = old ^ (T)v; return old; }
template <typename T, typename C, typename V>
static inline T atomicCAS(T *p, C compare, V v) { T old = *p; if (old == (T)compare) *p = (T)v; return old; }
static inline unsigned atomicInc(unsigned *p, unsigned limit) { unsigned old = *p; *p = old >= limit ? 0 : old + 1; return old; }
static inline unsigned atomicDec(unsigned *p, unsigned limit) { unsigned old = *p; *p = old == 0 || old > limit ? limit : old - 1; return old; }

/* ---- loads and stores with a cache hint ---------------------------------------------------- */

template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline T __ldcg(const T *p) { return *p; }
template <typename T> static inline T __ldca(const T *p) { return *p; }
template <typename T> static inline T __ldcv(const T *p) { return *p; }
template <typename T> static inline T __ldlu(const T *p) { return *p; }
template <typename T> static inline void __stcs(T *p, T v) { *p = v; }
template <typename T> static inline void __stcg(T *p, T v) { *p = v; }
template <typename T> static inline void __stwt(T *p, T v) { *p = v; }
template <typename T> static inline void __stwb(T *p, T v) { *p = v; }

/* ---- bits ---------------------------------------------------------------------------------- */

template <typename To, typename From>
static inline To emu_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float v) { return emu_bits<unsigned>(v); }
static inline int __float_as_int(float v) { return emu_bits<int>(v); }
static inline float __uint_as_float(unsigned v) { return emu_bits<float>(v); }
static inline float __int_as_float(int v) { return emu_bits<float>(v); }
static inline long long __double_as_longlong(double v) { return emu_bits<long long>(v); }
static inline double __longlong_as_double(long long v) { return emu_bits<double>(v); }
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz((unsigned)v); }
static inline int __clzll(long long v) { return v == 0 ? 64 : __builtin_clzll((unsigned long long)v); }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline unsigned __brev(unsigned v)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (v >> i & 1u) << (31 - i);
    return r;
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    unsigned long long bytes = (unsigned long long)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = selector >> (4 * i) & 15u;
        unsigned byte = (unsigned)(bytes >> (8 * (s & 7u))) & 255u;
        if (s & 8u) byte = byte & 128u ? 255u : 0u;
        r |= byte << (8 * i);
    }
    return r;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((unsigned long long)high << 32 | low) << (shift & 31u) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31u));
}
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

/* ---- numbers; what the device approximates is computed exactly here. The C library keeps some of
 * the names for itself: those are macros. ------------------------------------------------------- */

#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __sincosf(x, s, c) sincosf(x, s, c)
#define __powf(x, y) powf(x, y)
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frsqrt_rn(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline float rsqrtf(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline int __float2int_rn(float x) { return (int)nearbyintf(x); }
static inline int __float2int_rz(float x) { return (int)x; }
static inline int __float2int_rd(float x) { return (int)floorf(x); }
static inline int __float2int_ru(float x) { return (int)ceilf(x); }
static inline unsigned __float2uint_rn(float x) { return (unsigned)nearbyintf(x); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }

/* min and max of any two numbers, with the usual conversions; of floats, the one that is no NaN. */
template <typename A, typename B>
static inline typename std::common_type<A, B>::type min(A a, B b)
{
    typedef typename std::common_type<A, B>::type T;
    if constexpr (std::is_floating_point<T>::value) return (T)a != (T)a || (T)b < (T)a ? (T)b : (T)a;
    else return (T)b < (T)a ? (T)b : (T)a;
}
template <typename A, typename B>
static inline typename std::common_type<A, B>::type max(A a, B b)
{
    typedef typename std::common_type<A, B>::type T;
    if constexpr (std::is_floating_point<T>::value) return (T)a != (T)a || (T)a < (T)b ? (T)b : (T)a;
    else return (T)a < (T)b ? (T)b : (T)a;
}

/* ---- launching; runtime.cc -------------------------------------------------------------------- */

EMU_API cudaError_t emu_launch(const cudaLaunchConfig_t *config, const void *kernel,
                               const std::function<void()> &call);
/* Fail if a pointer argument is an address of the host. */
EMU_API void emu_check_pointer(const void *kernel, int index, const void *pointer);

template <typename... Params, typename... Args>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config,
                                             void (*kernel)(Params...), Args... args)
{
    int index = 0;
    auto check = [&](auto value) {
        if constexpr (std::is_pointer<decltype(value)>::value) {
            emu_check_pointer((const void *)kernel, index, (const void *)value);
        }
        index++;
    };
    (check((Params)args), ...);
    return emu_launch(config, (const void *)kernel, [=]() { kernel((Params)args...); });
}

template <typename T>
static inline cudaError_t cudaMalloc(T **out, size_t bytes) { return cudaMalloc((void **)(void *)out, bytes); }
template <typename T>
static inline cudaError_t cudaMallocHost(T **out, size_t bytes, unsigned = 0) { return cudaMallocHost((void **)(void *)out, bytes); }
template <typename T>
static inline cudaError_t cudaHostAlloc(T **out, size_t bytes, unsigned flags) { return cudaHostAlloc((void **)(void *)out, bytes, flags); }
template <typename... Params>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute attribute, int value)
{
    return cudaFuncSetAttribute((const void *)kernel, attribute, value);
}
/* Two blocks, or as many as the threads and the shared memory of a processor allow. */
EMU_API cudaError_t emu_occupancy(int *blocks, int threads, size_t shared_bytes);
template <typename... Params>
static inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void (*)(Params...), int threads, size_t shared_bytes)
{
    return emu_occupancy(blocks, threads, shared_bytes);
}

#endif
