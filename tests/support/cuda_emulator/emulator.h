/* SPDX-License-Identifier: Apache-2.0
 *
 * emulator.h - how a test sets up the emulated device, and what the emulator's own files share.
 * docs/KERNELS.md, "Kernels without a GPU", says what it finds and what it cannot. */
#ifndef AGL_TESTS_CUDA_EMULATOR_EMULATOR_H
#define AGL_TESTS_CUDA_EMULATOR_EMULATOR_H

#include <stddef.h>
#include <stdint.h>

#include "cuda_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Order of the blocks of a grid, the warps of a block and the lanes of a warp between two
 * barriers: 0 ascending, 1 descending, anything else shuffled by that seed. */
EMU_API void emu_set_order(uint32_t order);

/* What the pretended device is; 90 and 4 at start. 0 processors: as at start. */
EMU_API void emu_set_capability(int capability);
EMU_API void emu_set_processors(int processors);

/* Memory of the device, 8 GiB at start; cudaMalloc fails beyond it. */
EMU_API void emu_set_memory_bytes(size_t bytes);

/* Device and pinned allocations that nobody has freed, after a line on stderr for each. */
EMU_API size_t emu_leak_count(void);

/* Work handed to a stream by a library that is not compiled with the kernels (cublaslt.cc): `run`
 * is called with `context` when the stream gets there, every time a graph with it is launched. */
EMU_API cudaError_t emu_enqueue(cudaStream_t stream, void (*run)(void *context),
                                const void *context, size_t context_bytes);

#ifdef __cplusplus
}

/* ---- between the emulator's files ------------------------------------------------ */

struct emu_grid {
    const void *kernel;                      /* address of the __global__ function         */
    dim3 grid, block;
    size_t shared_bytes;
    bool early;                              /* launched with programmatic serialization   */
};

/* Run all blocks of a grid, one after the other; thread.cc. */
void emu_run_grid(const emu_grid &grid, const std::function<void()> &call);

/* Text to stderr with the place (kernel, block, thread) when a kernel is running, then abort. */
[[noreturn]] EMU_API void emu_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* From now on a fault says where it was. Test frames set handlers of their own: call it often. */
void emu_catch_faults(void);
#endif
#endif
