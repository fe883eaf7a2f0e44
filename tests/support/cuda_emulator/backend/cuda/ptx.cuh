/* SPDX-License-Identifier: Apache-2.0
 *
 * ptx.cuh - stands in for src/backend/cuda/ptx.cuh: the same functions without inline assembly.
 * Addresses that an instruction wants aligned are checked. */
#ifndef AGL_BACKEND_CUDA_PTX_CUH
#define AGL_BACKEND_CUDA_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "emulator.h"

#define DYNAMIC_SHARED(name) unsigned char *const name = emu_dynamic_shared()

static inline uint32_t ptx_shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

static inline void ptx_cp_async16(void *shared, const void *global)
{
    emu_cp_async16(shared, global, true);
}

static inline void ptx_cp_async16_or_zero(void *shared, const void *global, bool valid)
{
    emu_cp_async16(shared, global, valid);
}

static inline void ptx_cp_async_commit(void) { emu_cp_async_commit(); }

template <int PENDING>
static inline void ptx_cp_async_wait(void)
{
    static_assert(PENDING >= 0, "groups");
    emu_cp_async_wait(PENDING);
}

static inline void ptx_ldmatrix_x4(uint32_t r[4], const void *row)
{
    emu_warp(EMU_LDMATRIX, 0xffffffffu, r, &row, sizeof row, 0, 32);
}

static inline void ptx_ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    emu_warp(EMU_LDMATRIX_TRANS, 0xffffffffu, r, &row, sizeof row, 0, 32);
}

/* What a lane brings to a product. */
struct emu_mma_operands {
    uint32_t a[4], b[2];
    float d[4];
};

template <typename T>
static inline void ptx_mma(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    emu_mma_operands in;
    memcpy(in.a, a, sizeof in.a);
    memcpy(in.b, b, sizeof in.b);
    memcpy(in.d, d, sizeof in.d);
    emu_warp(std::is_same<T, __half>::value ? EMU_MMA_F16 : EMU_MMA_BF16, 0xffffffffu, d, &in, sizeof in, 0, 32);
}

static inline float ptx_exp2(float x) { return exp2f(x); }

static inline void ptx_add_release(unsigned long long *count, unsigned long long value) { *count += value; }
static inline unsigned long long ptx_load_relaxed(const unsigned long long *count) { return *count; }
static inline unsigned long long ptx_load_acquire(const unsigned long long *count) { return *count; }

static inline void ptx_wait_for_previous(void) { emu_wait_for_previous(); }
static inline void ptx_release_next(void) {}

/* Products of warpgroups and tensor copies are not pretended: the kernels that need them stay
 * empty, and the backend takes those of other GPUs. */
#define PTX_WGMMA 0

#endif
