/* SPDX-License-Identifier: Apache-2.0
 *
 * cuda_runtime.h - stands in for the CUDA toolkit's header when the kernels are compiled for a
 * CPU. The part of the runtime that the CUDA backend uses, plain C; for C++ also what a kernel
 * sees (cuda_device.h). Numbers of enumerators are those of the real header.
 *
 * The stand-in is strict where the device is: work on a stream runs only when something waits for
 * it, device memory cannot be touched by the host, and is full of NaN bits when it is new. */
#ifndef AGL_TESTS_CUDA_EMULATOR_CUDA_RUNTIME_H
#define AGL_TESTS_CUDA_EMULATOR_CUDA_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#define CUDART_VERSION 13000

#define EMU_API __attribute__((visibility("default")))
#ifdef __cplusplus
#define EMU_DEFAULT(value) = value
#else
#define EMU_DEFAULT(value)
#endif

typedef struct emu_stream *cudaStream_t;
typedef struct emu_event *cudaEvent_t;
typedef struct emu_graph *cudaGraph_t;
typedef struct emu_graph_exec *cudaGraphExec_t;
typedef struct emu_graph_node *cudaGraphNode_t;

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInitializationError = 3,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchOutOfResources = 701,
    cudaErrorHostMemoryAlreadyRegistered = 712,
    cudaErrorHostMemoryNotRegistered = 713,
    cudaErrorLaunchFailure = 719,
    cudaErrorNotSupported = 801,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorUnknown = 999
} cudaError_t;

typedef enum cudaMemcpyKind {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4
} cudaMemcpyKind;

typedef enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1,
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrWarpSize = 10,
    cudaDevAttrClockRate = 13,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrIntegrated = 18,
    cudaDevAttrConcurrentKernels = 31,
    cudaDevAttrMemoryClockRate = 36,
    cudaDevAttrGlobalMemoryBusWidth = 37,
    cudaDevAttrL2CacheSize = 38,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
    cudaDevAttrMpsEnabled = 133
} cudaDeviceAttr;

typedef enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
} cudaFuncAttribute;

typedef enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal = 0,
    cudaStreamCaptureModeThreadLocal = 1,
    cudaStreamCaptureModeRelaxed = 2
} cudaStreamCaptureMode;

typedef enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone = 0,
    cudaStreamCaptureStatusActive = 1,
    cudaStreamCaptureStatusInvalidated = 2
} cudaStreamCaptureStatus;

typedef struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin, sharedMemPerMultiprocessor;
    int cooperativeLaunch, major, minor, multiProcessorCount, warpSize, maxThreadsPerBlock, l2CacheSize;
    int memoryBusWidth, pciBusID, pciDeviceID, pciDomainID, integrated;
} cudaDeviceProp;

typedef struct cudaFuncAttributes {
    size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
    int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion;
} cudaFuncAttributes;

typedef enum cudaDataType { CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16F = 2, CUDA_R_16BF = 14 } cudaDataType_t;

typedef struct uint3 { unsigned x, y, z; } uint3;
typedef struct int3 { int x, y, z; } int3;
typedef struct dim3 {
    unsigned x, y, z;
#ifdef __cplusplus
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
#endif
} dim3;

typedef enum cudaLaunchAttributeID {
    cudaLaunchAttributeIgnore = 0,
    cudaLaunchAttributeProgrammaticStreamSerialization = 6
} cudaLaunchAttributeID;

typedef union cudaLaunchAttributeValue {
    char pad[64];
    int programmaticStreamSerializationAllowed;
} cudaLaunchAttributeValue;

typedef struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    cudaLaunchAttributeValue val;
} cudaLaunchAttribute;

typedef struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
} cudaLaunchConfig_t;

#define cudaHostAllocDefault 0
#define cudaHostAllocPortable 1
#define cudaHostAllocMapped 2
#define cudaHostAllocWriteCombined 4
#define cudaHostRegisterDefault 0
#define cudaHostRegisterPortable 1
#define cudaHostRegisterMapped 2
#define cudaHostRegisterReadOnly 8
#define cudaStreamDefault 0
#define cudaStreamNonBlocking 1
#define cudaEventDefault 0
#define cudaEventBlockingSync 1
#define cudaEventDisableTiming 2
#define cudaStreamLegacy ((cudaStream_t)0x1)

#ifdef __cplusplus
extern "C" {
#endif

EMU_API const char *cudaGetErrorString(cudaError_t error);
EMU_API const char *cudaGetErrorName(cudaError_t error);
EMU_API cudaError_t cudaGetLastError(void);
EMU_API cudaError_t cudaPeekAtLastError(void);

EMU_API cudaError_t cudaGetDeviceCount(int *count);
EMU_API cudaError_t cudaSetDevice(int device);
EMU_API cudaError_t cudaGetDevice(int *device);
EMU_API cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
EMU_API cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
EMU_API cudaError_t cudaDeviceSynchronize(void);
EMU_API cudaError_t cudaDriverGetVersion(int *version);
EMU_API cudaError_t cudaRuntimeGetVersion(int *version);
EMU_API cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);

EMU_API cudaError_t cudaMalloc(void **out, size_t bytes);
EMU_API cudaError_t cudaFree(void *memory);
EMU_API cudaError_t cudaMallocHost(void **out, size_t bytes);
EMU_API cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags);
EMU_API cudaError_t cudaFreeHost(void *memory);
EMU_API cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned flags);
EMU_API cudaError_t cudaHostUnregister(void *memory);
EMU_API cudaError_t cudaMemcpy(void *out, const void *in, size_t bytes, cudaMemcpyKind kind);
EMU_API cudaError_t cudaMemcpyAsync(void *out, const void *in, size_t bytes, cudaMemcpyKind kind,
                                    cudaStream_t stream EMU_DEFAULT(0));
EMU_API cudaError_t cudaMemset(void *out, int value, size_t bytes);
EMU_API cudaError_t cudaMemsetAsync(void *out, int value, size_t bytes,
                                    cudaStream_t stream EMU_DEFAULT(0));

EMU_API cudaError_t cudaStreamCreate(cudaStream_t *out);
EMU_API cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
EMU_API cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority);
EMU_API cudaError_t cudaStreamDestroy(cudaStream_t stream);
EMU_API cudaError_t cudaStreamSynchronize(cudaStream_t stream);
EMU_API cudaError_t cudaStreamQuery(cudaStream_t stream);
EMU_API cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event,
                                        unsigned flags EMU_DEFAULT(0));
EMU_API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status);

EMU_API cudaError_t cudaEventCreate(cudaEvent_t *out);
EMU_API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
EMU_API cudaError_t cudaEventDestroy(cudaEvent_t event);
EMU_API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream EMU_DEFAULT(0));
EMU_API cudaError_t cudaEventSynchronize(cudaEvent_t event);
EMU_API cudaError_t cudaEventQuery(cudaEvent_t event);
EMU_API cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end);

EMU_API cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
EMU_API cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out);
EMU_API cudaError_t cudaGraphDestroy(cudaGraph_t graph);
EMU_API cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count);
EMU_API cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph,
                                         unsigned long long flags EMU_DEFAULT(0));
EMU_API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *out, cudaGraph_t graph,
                                                  unsigned long long flags);
EMU_API cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream);
EMU_API cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
EMU_API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

EMU_API cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value);

#ifdef __cplusplus
}
#include "cuda_device.h"
#endif

#endif
