/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/cpu/cpu_features.h"

uint32_t agl_cpu_features(void)
{
    uint32_t features = 0;
#if defined(__x86_64__)
    /* The compiler's own test also asks the kernel whether it saves the wide registers. */
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c")) {
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
