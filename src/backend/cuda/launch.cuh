/* SPDX-License-Identifier: Apache-2.0
 *
 * launch.cuh - starting a kernel: status instead of a sticky error, dynamic shared memory
 * above 48 KB opted in, and early launch on devices that have it. */
#ifndef AGL_BACKEND_CUDA_LAUNCH_CUH
#define AGL_BACKEND_CUDA_LAUNCH_CUH

#include "backend/cuda/cuda_backend.h"

/* What a kernel gets without asking. */
#define SHARED_BYTES_PLAIN (48 * 1024)

template <typename... Params, typename... Args>
static agl_status cuda_launch_with(agl_stream *stream, bool early, void (*kernel)(Params...),
                                   dim3 grid, dim3 block, size_t shared_bytes, Args... args)
{
    cudaLaunchAttribute attribute = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = agl_cuda_queue(stream);
    if (early && agl_cuda_of(stream)->capability >= 90) {
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        config.attrs = &attribute;
        config.numAttrs = 1;
    }
    if (shared_bytes > SHARED_BYTES_PLAIN) {
        cudaError_t error = cudaFuncSetAttribute((const void *)kernel,
                                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 (int)shared_bytes);
        if (error != cudaSuccess) return AGL_ERR_DEVICE;
    }
    return cudaLaunchKernelEx(&config, kernel, (Params)args...) == cudaSuccess ? AGL_OK
                                                                              : AGL_ERR_DEVICE;
}

/* Queue a kernel behind everything on the stream. */
template <typename... Params, typename... Args>
static agl_status cuda_launch(agl_stream *stream, void (*kernel)(Params...), dim3 grid, dim3 block,
                              size_t shared_bytes, Args... args)
{
    return cuda_launch_with(stream, false, kernel, grid, block, shared_bytes, args...);
}

/* The same, but its blocks may start while the kernel before still runs: such a kernel calls
 * ptx_wait_for_previous() before it touches anything but weights, and, as backend.h allows it to
 * attention, what no operation of the step writes. */
template <typename... Params, typename... Args>
static agl_status cuda_launch_early(agl_stream *stream, void (*kernel)(Params...), dim3 grid,
                                    dim3 block, size_t shared_bytes, Args... args)
{
    return cuda_launch_with(stream, true, kernel, grid, block, shared_bytes, args...);
}

#endif
