/* SPDX-License-Identifier: Apache-2.0
 *
 * test_cuda.h - what the checks of the CUDA backend share. A program check_cuda_<family> is linked
 * twice: with the kernels run on a CPU (tests/support/cuda_emulator), for every machine, and with
 * the real ones, which skip where there is no GPU. */
#ifndef AGL_TESTS_SUPPORT_TEST_CUDA_H
#define AGL_TESTS_SUPPORT_TEST_CUDA_H

#include "backend/backend.h"
#include "support/test_kernel.h"

/* A backend of the first device, or NULL and a line "skip: <why>". */
agl_backend *test_cuda_create(agl_dtype activation);

/* True on a GPU: the largest shapes would take minutes when emulated. */
bool test_cuda_is_real(void);

/* SMs of the emulated device from the next test_cuda_open on; 0: the usual number. With 1 its blocks
 * can wait for each other, for it runs them one after the other. A GPU stays as it is. */
void test_cuda_pretend_processors(int processors);

/* The CUDA backend and portable C side by side, each with a stream. */
typedef struct {
    agl_backend *cuda, *cpu;
    agl_stream *cuda_stream, *cpu_stream;
    agl_dtype activation;       /* of `cuda`; the CPU's is F32 */
    test_random random;
} test_cuda;

/* False: there is no device, and the skip line is printed. */
bool test_cuda_open(test_cuda *t, agl_dtype activation);
void test_cuda_close(test_cuda *t);

/* Device memory with a copy of `host` (NULL: zeros); test_cuda_download waits for the stream and
 * fails the test with what the device reports. */
void *test_cuda_upload(test_cuda *t, const void *host, size_t bytes);
void test_cuda_download(test_cuda *t, void *host, const void *device, size_t bytes);
void test_cuda_free(test_cuda *t, void *device);

/* The nearest value of a format (F16 saturates at +-65504), and an array of them, free(). */
float test_cuda_round(agl_dtype dtype, float value);
void *test_cuda_pack(agl_dtype dtype, const float *values, size_t count);

/* Uniform in [-scale, scale), rounded to `dtype`: F32 for the CPU (free()), and in `dtype` on the
 * device (test_cuda_free()). */
float *test_cuda_values(test_cuda *t, void **device, agl_dtype dtype, size_t count, float scale);

/* Fail the test unless every value on the device is within half a step of its format plus
 * relative * |want| plus absolute of `want`. With 0 and 0 it is the rounded value to the bit. */
void test_cuda_compare(test_cuda *t, const char *what, const void *device, agl_dtype dtype,
                       const float *want, size_t count, double relative, double absolute);

#endif
