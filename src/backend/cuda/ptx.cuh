/* SPDX-License-Identifier: Apache-2.0
 *
 * ptx.cuh - the instructions that CUDA C has no names for, one function each. All inline
 * assembly of the backend is here; a second header with the same functions in plain C++
 * (tests/support/cuda_emulator) runs the kernels on a CPU.
 *
 * Sources: PTX ISA, "Warp Level Matrix Instructions", "Asynchronous Warpgroup Level Matrix
 * Instructions", "Data Movement", "mbarrier", "Griddepcontrol". */
#ifndef AGL_BACKEND_CUDA_PTX_CUH
#define AGL_BACKEND_CUDA_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <stdint.h>

/* Shared memory whose size is given at launch, 128-byte aligned. */
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

static __device__ __forceinline__ uint32_t ptx_shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* ---- asynchronous copies, global to shared ---------------------------------- */

/* 16 bytes, both addresses 16-byte aligned. They have arrived for this thread after the
 * ptx_cp_async_wait that covers their group, for the block after a barrier behind it. */
static __device__ __forceinline__ void ptx_cp_async16(void *shared, const void *global)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(ptx_shared_address(shared)),
                 "l"(global) : "memory");
}

/* The same, or 16 zero bytes when !valid; `global` must be a legal address all the same. */
static __device__ __forceinline__ void ptx_cp_async16_or_zero(void *shared, const void *global,
                                                              bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(ptx_shared_address(shared)),
                 "l"(global), "r"(valid ? 16 : 0) : "memory");
}

static __device__ __forceinline__ void ptx_cp_async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All but the newest PENDING groups of this thread have arrived. */
template <int PENDING>
static __device__ __forceinline__ void ptx_cp_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* ---- matrices in a warp ------------------------------------------------------ */

/* Four 8x8 matrices of 16-bit values: lane i gives the address of row i % 8 of matrix i / 8
 * (16 bytes, aligned); lane i gets columns 2 (i % 4), +1 of row i / 4 of each. */
static __device__ __forceinline__ void ptx_ldmatrix_x4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(ptx_shared_address(row)) : "memory");
}

/* The same, each matrix transposed. */
static __device__ __forceinline__ void ptx_ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(ptx_shared_address(row)) : "memory");
}

/* d[16, 8] += a[16, 16] b[16, 8], F32 sums. With g = lane / 4, t = lane % 4, pairs packed low first:
 *   a[0]: row g,     columns 2t, 2t+1     a[2]: row g,     columns 2t+8, 2t+9
 *   a[1]: row g + 8, columns 2t, 2t+1     a[3]: row g + 8, columns 2t+8, 2t+9
 *   b[0]: rows 2t, 2t+1 of column g       b[1]: rows 2t+8, 2t+9 of column g
 *   d[0], d[1]: row g, columns 2t, 2t+1   d[2], d[3]: row g + 8, the same columns */
template <typename T>
static __device__ __forceinline__ void ptx_mma(float d[4], const uint32_t a[4], const uint32_t b[2]);

template <>
__device__ __forceinline__ void ptx_mma<__nv_bfloat16>(float d[4], const uint32_t a[4],
                                                       const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ __forceinline__ void ptx_mma<__half>(float d[4], const uint32_t a[4],
                                                const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* ---- numbers, launches ------------------------------------------------------- */

/* 2^x; 2 ulp. 2^-inf is 0. */
static __device__ __forceinline__ float ptx_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Behind all this thread wrote and has seen written. */
static __device__ __forceinline__ void ptx_add_release(unsigned long long *count, unsigned long long value)
{
    asm volatile("red.add.release.gpu.global.u64 [%0], %1;" ::"l"(count), "l"(value) : "memory");
}

static __device__ __forceinline__ unsigned long long ptx_load_relaxed(const unsigned long long *count)
{
    unsigned long long value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(count) : "memory");
    return value;
}

/* What was written before the ptx_add_release that it sees is visible to this thread afterwards. */
static __device__ __forceinline__ unsigned long long ptx_load_acquire(const unsigned long long *count)
{
    unsigned long long value;
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(count) : "memory");
    return value;
}

/* In a kernel launched early (launch.cuh): wait until the kernels before it have finished and
 * their writes are visible. Nothing of theirs may be read, and nothing written, before this. */
static __device__ __forceinline__ void ptx_wait_for_previous(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next kernel, if launched early, may begin once every block of this one got here or ended. */
static __device__ __forceinline__ void ptx_release_next(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- warpgroups: matrix products and tensor copies of sm_90a ------------------ */

/* What follows exists for sm_90a alone. PTX_WGMMA says that it can be built (the runtime finds the
 * driver's encoder of tensor maps from CUDA 12.5 on), PTX_WGMMA_CODE that the code being compiled
 * is for such a GPU: for others the kernels stay empty. */
#define PTX_WGMMA (CUDART_VERSION >= 12050)
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PTX_WGMMA_CODE 1
#else
#define PTX_WGMMA_CODE 0
#endif

/* A barrier in shared memory; its phase ends when `arrivals` threads have arrived and all bytes
 * that were announced have been written. Other threads may use it after ptx_mbarrier_publish by
 * the one that made it, and a barrier of the block. */
static __device__ __forceinline__ void ptx_mbarrier_init(uint64_t *barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(ptx_shared_address(barrier)),
                 "r"(arrivals) : "memory");
}

static __device__ __forceinline__ void ptx_mbarrier_publish(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void ptx_mbarrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(ptx_shared_address(barrier))
                 : "memory");
}

/* Arrive, and announce bytes that copies will bring. */
static __device__ __forceinline__ void ptx_mbarrier_expect(uint64_t *barrier, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 ::"r"(ptx_shared_address(barrier)), "r"(bytes) : "memory");
}

/* Until the phase of this parity has ended; phases count from 0. A barrier in its first phase
 * counts as having ended one of parity 1. */
static __device__ __forceinline__ void ptx_mbarrier_wait(uint64_t *barrier, int parity)
{
    uint32_t done;
    do {
        asm volatile("{\n"
                     ".reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n"
                     "}" : "=r"(done) : "r"(ptx_shared_address(barrier)), "r"(parity) : "memory");
    } while (done == 0);
}

/* Copy a map's box that begins at (column, row) to shared memory; its bytes count for `barrier`.
 * What lies outside of the tensor becomes zero. */
static __device__ __forceinline__ void ptx_tensor_load(void *shared, const void *map, int column,
                                                       int row, uint64_t *barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(ptx_shared_address(shared)), "l"(map),
                 "r"(column), "r"(row), "r"(ptx_shared_address(barrier)) : "memory");
}

static __device__ __forceinline__ void ptx_tensor_prefetch(const void *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* Shared memory that this thread has written is ready for wgmma, after a barrier behind this. */
static __device__ __forceinline__ void ptx_fence_shared_async(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Barriers 1 .. 15 of the block, for `threads` of its threads: wait for all, or only arrive. */
static __device__ __forceinline__ void ptx_barrier_wait(int barrier, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

static __device__ __forceinline__ void ptx_barrier_arrive(int barrier, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/* Registers a thread of this warpgroup may use from here on: a multiple of 8. */
template <int REGISTERS>
static __device__ __forceinline__ void ptx_registers_more(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS>
static __device__ __forceinline__ void ptx_registers_fewer(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/* Before products that read registers, or add to some, that other instructions have written. */
static __device__ __forceinline__ void ptx_wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void ptx_wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* All but the newest PENDING groups of products have finished. Sums are to be read only behind
 * ptx_wgmma_sums, which says so to the compiler. */
template <int PENDING>
static __device__ __forceinline__ void ptx_wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

template <int COUNT>
static __device__ __forceinline__ void ptx_wgmma_sums(float (&d)[COUNT])
{
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i]) :: "memory");
}

/* A matrix in shared memory, made of blocks of 8 rows x 128 bytes that begin at multiples of 1024
 * bytes, 16-byte piece p of row r at p ^ r (what a tensor map's 128-byte swizzle makes).
 *   summed along the rows:  blocks of 8 rows are `rows_step` bytes apart; columns_step is unused
 *   summed over the rows:   the same, and blocks of 64 columns are columns_step bytes apart
 * Add bytes / 16 to begin elsewhere: 2 for the next 16 columns, 2 * rows_step / 16 for 16 rows. */
static __device__ __forceinline__ uint64_t ptx_wgmma_matrix(const void *shared, int rows_step,
                                                            int columns_step)
{
    return (uint64_t)((ptx_shared_address(shared) & 0x3ffff) >> 4) |
           (uint64_t)(columns_step >> 4) << 16 | (uint64_t)(rows_step >> 4) << 32 |
           (uint64_t)1 << 62;
}

/* d[64, 128] (+)= a[64, 16] b[16, 128], F32 sums. Warp w of the warpgroup has rows 16 w on; row and
 * column of d[4 n + c] are those of d[c] in ptx_mma, 8 n columns further.
 * SS: a and b from shared memory, both summed along their rows. */
#define PTX_WGMMA_D \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
    "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, " \
    "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
    "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define PTX_WGMMA_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PTX_WGMMA_16(i) PTX_WGMMA_4(i), PTX_WGMMA_4(i + 4), PTX_WGMMA_4(i + 8), PTX_WGMMA_4(i + 12)
#define PTX_WGMMA_64 PTX_WGMMA_16(0), PTX_WGMMA_16(16), PTX_WGMMA_16(32), PTX_WGMMA_16(48)

#define PTX_WGMMA_SS(type)                                                                     \
    asm volatile("{\n"                                                                         \
                 ".reg .pred p;\n"                                                             \
                 "setp.ne.b32 p, %66, 0;\n"                                                    \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " PTX_WGMMA_D  \
                 ", %64, %65, p, 1, 1, 0, 0;\n"                                                \
                 "}" : PTX_WGMMA_64 : "l"(a), "l"(b), "r"((int)add))

/* RS: a from registers, as in ptx_mma for the warp's 16 rows; b is summed over its rows. */
#define PTX_WGMMA_RS(type)                                                                     \
    asm volatile("{\n"                                                                         \
                 ".reg .pred p;\n"                                                             \
                 "setp.eq.b32 p, 0, 0;\n"                                                      \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " PTX_WGMMA_D  \
                 ", {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n"                                  \
                 "}" : PTX_WGMMA_64 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

template <typename T>
static __device__ __forceinline__ void ptx_wgmma_ss(float (&d)[64], uint64_t a, uint64_t b,
                                                    bool add);
template <>
__device__ __forceinline__ void ptx_wgmma_ss<__nv_bfloat16>(float (&d)[64], uint64_t a, uint64_t b,
                                                            bool add)
{
    PTX_WGMMA_SS("bf16");
}
template <>
__device__ __forceinline__ void ptx_wgmma_ss<__half>(float (&d)[64], uint64_t a, uint64_t b,
                                                     bool add)
{
    PTX_WGMMA_SS("f16");
}

template <typename T>
static __device__ __forceinline__ void ptx_wgmma_rs(float (&d)[64], const uint32_t *a, uint64_t b);
template <>
__device__ __forceinline__ void ptx_wgmma_rs<__nv_bfloat16>(float (&d)[64], const uint32_t *a,
                                                            uint64_t b)
{
    PTX_WGMMA_RS("bf16");
}
template <>
__device__ __forceinline__ void ptx_wgmma_rs<__half>(float (&d)[64], const uint32_t *a, uint64_t b)
{
    PTX_WGMMA_RS("f16");
}

#endif
