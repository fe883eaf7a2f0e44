/* SPDX-License-Identifier: Apache-2.0
 *
 * cpu_features.h - which instruction sets this processor and kernel offer. */
#ifndef AGL_BACKEND_CPU_CPU_FEATURES_H
#define AGL_BACKEND_CPU_CPU_FEATURES_H

#include <stdint.h>

/* Bits of agl_backend_options.isa_mask. Each stands for all that its files are compiled with. */
#define AGL_ISA_AVX2 0x1u    /* AVX2, FMA, F16C                     */
#define AGL_ISA_AVX512 0x2u  /* AVX2's and AVX-512 F, BW, DQ, VL    */
#define AGL_ISA_NEON 0x4u    /* ARMv8-A Advanced SIMD               */
#define AGL_ISA_PORTABLE 0x80000000u /* as the only bit: portable C      */

uint32_t agl_cpu_features(void);

#endif
