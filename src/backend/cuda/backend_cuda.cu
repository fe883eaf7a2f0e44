/* SPDX-License-Identifier: Apache-2.0
 *
 * backend_cuda.cu - the CUDA backend: which devices there are, its creation, its workspace
 * and its table of operations. Host code only. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_memory.h"

/* Tensor cores of BF16 and asynchronous copies begin here. */
#define CAPABILITY_MIN 80

#define REGION_ALIGN ((uint64_t)256)

/* How many blocks have arrived: linear_skinny.cu. */
#define CHAIN_BYTES ((uint64_t)sizeof(unsigned long long))

/* ---- devices ----------------------------------------------------------------- */

bool agl_backend_cuda_built(void)
{
    return true;
}

/* A driver too old for the runtime inside this program, none at all, or no device. */
static void say_why(char *why, size_t why_bytes, cudaError_t error)
{
    int driver = 0, runtime = 0;
    if (why == NULL) return;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) {
        snprintf(why, why_bytes, "no NVIDIA driver was found");
    } else if (error == cudaErrorInsufficientDriver) {
        snprintf(why, why_bytes, "the NVIDIA driver is for CUDA %d.%d, this build needs %d.%d",
                 driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    } else if (error == cudaSuccess || error == cudaErrorNoDevice) {
        snprintf(why, why_bytes, "no NVIDIA GPU was found");
    } else {
        snprintf(why, why_bytes, "%s", cudaGetErrorString(error));
    }
}

int agl_backend_cuda_count(char *why, size_t why_bytes)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) return count;
    say_why(why, why_bytes, error);
    cudaGetLastError();
    return 0;
}

/* ---- workspace --------------------------------------------------------------- */

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + REGION_ALIGN - 1) / REGION_ALIGN * REGION_ALIGN;
}

static uint64_t workspace_bytes(const agl_backend *backend, const agl_backend_limits *limits)
{
    const agl_cuda *cuda = (const agl_cuda *)backend;
    return aligned(agl_cuda_products_bytes(cuda, limits)) +
           aligned(agl_cuda_attention_bytes(cuda, limits)) +
           aligned(agl_cuda_sample_bytes(cuda, limits)) + aligned(CHAIN_BYTES);
}

static agl_cuda_region cut(unsigned char **at, uint64_t bytes)
{
    agl_cuda_region region = {bytes > 0 ? *at : NULL, (size_t)bytes};
    *at += aligned(bytes);
    return region;
}

static agl_status workspace_reserve(agl_backend *backend, const agl_backend_limits *limits,
                                    agl_error *err)
{
    agl_cuda *cuda = (agl_cuda *)backend;
    void *memory = NULL;
    assert(cuda->workspace == NULL);
    AGL_TRY(agl_cuda_alloc(backend, &memory, (size_t)workspace_bytes(backend, limits),
                           AGL_MEMORY_WORKSPACE, err));
    unsigned char *at = (unsigned char *)memory;
    cuda->workspace = memory;
    cuda->limits = *limits;
    cuda->products_space = cut(&at, agl_cuda_products_bytes(cuda, limits));
    cuda->attention_space = cut(&at, agl_cuda_attention_bytes(cuda, limits));
    cuda->sample_space = cut(&at, agl_cuda_sample_bytes(cuda, limits));
    cuda->chain_space = cut(&at, CHAIN_BYTES);
    return agl_cuda_sampler_create(&cuda->sampler, cuda, err);
}

/* ---- life -------------------------------------------------------------------- */

static void destroy(agl_backend *backend)
{
    agl_cuda *cuda = (agl_cuda *)backend;
    if (cuda == NULL) return;
    agl_cuda_enter(cuda);
    agl_cuda_sampler_destroy(cuda->sampler);
    agl_cuda_products_destroy(cuda->products);
    agl_cuda_loader_destroy(cuda);
    agl_cuda_free(backend, cuda->workspace);
    agl_cuda_stream_destroy(cuda->filling);
    free(cuda);
}

/* In the order of backend.h, which C++ insists on. */
static const agl_backend_ops CUDA_BACKEND_OPS = {
    .alloc = agl_cuda_alloc,
    .free = agl_cuda_free,
    .upload = agl_cuda_upload,
    .download = agl_cuda_download,
    .copy = agl_cuda_copy,
    .weight_create = agl_cuda_weight_create,
    .weight_destroy = agl_cuda_weight_destroy,
    .stream_create = agl_cuda_stream_create,
    .stream_destroy = agl_cuda_stream_destroy,
    .stream_wait = agl_cuda_stream_wait,
    .embed = agl_cuda_embed,
    .rmsnorm = agl_cuda_rmsnorm,
    .layernorm = agl_cuda_layernorm,
    .linear = agl_cuda_linear,
    .swiglu = agl_cuda_swiglu,
    .linear_swiglu = agl_cuda_linear_swiglu,
    .rope_store = agl_cuda_rope_store,
    .linear_rope_store = agl_cuda_linear_rope_store,
    .attention_paged = agl_cuda_attention_paged,
    .attention_dense = agl_cuda_attention_dense,
    .rope_vision = agl_cuda_rope_vision,
    .resize = agl_cuda_resize,
    .patchify = agl_cuda_patchify,
    .position_embed = agl_cuda_position_embed,
    .gather = agl_cuda_gather,
    .sample = agl_cuda_sample,
    .workspace_bytes = workspace_bytes,
    .workspace_reserve = workspace_reserve,
    .graph_begin = agl_cuda_graph_begin,
    .graph_end = agl_cuda_graph_end,
    .graph_launch = agl_cuda_graph_launch,
    .graph_destroy = agl_cuda_graph_destroy,
    .destroy = destroy,
};

static agl_status find_device(agl_cuda *cuda, int device, agl_error *err)
{
    char why[128];
    int count = agl_backend_cuda_count(why, sizeof why);
    if (count == 0) return agl_fail(err, AGL_ERR_UNSUPPORTED, "device cuda: %s", why);
    if (device < 0 || device >= count) {
        return agl_fail(err, AGL_ERR_ARGUMENT, "device cuda:%d: this machine has %d GPU%s, cuda:0 "
                        "to cuda:%d", device, count, count == 1 ? "" : "s", count - 1);
    }
    cuda->device = device;
    return agl_cuda_check(cudaSetDevice(device), "the GPU cannot be used", err);
}

/* Whether the blocks of a kernel, one an SM, can wait for each other. Under MPS two programs may run
 * at once, and each could hold SMs that the other waits for. */
static bool blocks_meet(const agl_cuda *cuda, const cudaDeviceProp *properties)
{
#if CUDART_VERSION >= 12050
    int shared = 0;
    if (cudaDeviceGetAttribute(&shared, cudaDevAttrMpsEnabled, cuda->device) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    return properties->cooperativeLaunch && !shared;
#else
    (void)cuda, (void)properties;
    return false;
#endif
}

static agl_status read_properties(agl_cuda *cuda, agl_error *err)
{
    cudaDeviceProp *properties = (cudaDeviceProp *)calloc(1, sizeof *properties);
    if (properties == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the CUDA backend");
    size_t free_bytes = 0, total_bytes = 0;
    agl_status status = agl_cuda_check(cudaGetDeviceProperties(properties, cuda->device),
                                       "the GPU's properties", err);
    if (status == AGL_OK) {
        status = agl_cuda_check(cudaMemGetInfo(&free_bytes, &total_bytes), "the GPU's memory", err);
    }
    cuda->capability = 10 * properties->major + properties->minor;
    cuda->processors = properties->multiProcessorCount;
    cuda->shared_bytes_max = properties->sharedMemPerBlockOptin;
    cuda->blocks_meet = blocks_meet(cuda, properties);
    cuda->base.memory_total = total_bytes;
    cuda->base.memory_free = free_bytes;
    snprintf(cuda->description, sizeof cuda->description, "cuda:%d (%.80s, sm_%d, %.0f GB)",
             cuda->device, properties->name, cuda->capability, (double)total_bytes / 1e9);
    free(properties);
    if (status == AGL_OK && cuda->capability < CAPABILITY_MIN) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED,
                        "%s: its compute capability is %d.%d, 8.0 (Ampere) or later is needed",
                        cuda->description, cuda->capability / 10, cuda->capability % 10);
    }
    return status;
}

/* One small kernel: whether this build has code for the device shows here and not in the
 * first request. */
static agl_status try_kernel(agl_cuda *cuda, agl_error *err)
{
    void *memory = NULL;
    AGL_TRY(agl_cuda_alloc(&cuda->base, &memory, 2 * REGION_ALIGN, AGL_MEMORY_WORKSPACE, err));
    unsigned char *at = (unsigned char *)memory;
    agl_status status = agl_cuda_convert(cuda->filling, at, at + REGION_ALIGN, AGL_F32, 8);
    agl_error cause;
    if (agl_cuda_stream_wait(cuda->filling, &cause) != AGL_OK) {
        status = agl_fail(err, AGL_ERR_UNSUPPORTED,
                          "%s; was this program built for it? CUDA_ARCHS=%d builds for this GPU",
                          cause.message, cuda->capability);
    } else if (status != AGL_OK) {
        agl_fail(err, status, "%s: no kernel can be started", cuda->description);
    }
    agl_cuda_free(&cuda->base, memory);
    return status;
}

agl_status agl_backend_cuda_create(agl_backend **out, const agl_backend_options *options,
                                              agl_error *err)
{
    *out = NULL;
    if (options->activation != AGL_F32 && options->activation != AGL_BF16 &&
        options->activation != AGL_F16) {
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "CUDA computes in float32, bfloat16 or float16, "
                        "not %s", agl_dtype_name(options->activation));
    }
    agl_cuda *cuda = (agl_cuda *)calloc(1, sizeof *cuda);
    if (cuda == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for the CUDA backend");
    cuda->base.ops = &CUDA_BACKEND_OPS;
    cuda->base.kind = AGL_BACKEND_CUDA;
    cuda->base.activation = options->activation;
    cuda->base.description = cuda->description;
    agl_status status = find_device(cuda, options->device, err);
    if (status == AGL_OK) status = read_properties(cuda, err);
    if (status == AGL_OK) status = agl_cuda_stream_create(&cuda->base, &cuda->filling, err);
    if (status == AGL_OK) status = try_kernel(cuda, err);
    if (status == AGL_OK) status = agl_cuda_products_create(&cuda->products, cuda, err);
    if (status == AGL_OK) agl_cuda_attention_find(cuda);
    if (status != AGL_OK) {
        destroy(&cuda->base);
        return status;
    }
    *out = &cuda->base;
    return AGL_OK;
}
