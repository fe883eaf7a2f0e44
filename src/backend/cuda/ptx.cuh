/* SPDX-License-Identifier: Apache-2.0
 *
 * ptx.cuh - the instructions that CUDA C has no names for, one function each. All inline
 * assembly of the backend is here; a second header with the same functions in plain C++
 * (tests/support/cuda_emulator) runs the kernels on a CPU.
 *
 * Sources: PTX ISA, "Warp Level Matrix Instructions", "Data Movement", "Griddepcontrol". */
#ifndef AGL_BACKEND_CUDA_PTX_CUH
#define AGL_BACKEND_CUDA_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
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

#endif
