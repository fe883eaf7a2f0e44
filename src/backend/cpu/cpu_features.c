/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/cpu/cpu_features.h"

uint32_t agl_cpu_features(void)
{
    uint32_t features = 0;
#if defined(__x86_64__)
    /* The compiler's own test also asks the kernel whether it saves the wide registers. */
    __builtin_cpu_init();
    /* F16C is older than AVX2 and in every processor that has it; clang 14 cannot ask for it. */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        features |= AGL_ISA_AVX2;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
            features |= AGL_ISA_AVX512;
        }
    }
#elif defined(__aarch64__)
    features |= AGL_ISA_NEON;
#endif
    return features;
}
