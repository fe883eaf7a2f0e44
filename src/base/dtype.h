/* SPDX-License-Identifier: Apache-2.0
 *
 * dtype.h - number formats of tensors, and exact scalar conversions between them. */
#ifndef AGL_BASE_DTYPE_H
#define AGL_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    AGL_F32,
    AGL_F16,    /* IEEE 754 binary16                                  */
    AGL_BF16,   /* upper half of an F32                               */
    AGL_I32,
    AGL_I64,
    AGL_U8,
    AGL_I8,
    AGL_F8E4M3,
    AGL_BOOL,
    AGL_F64,
    AGL_DTYPE_COUNT
} agl_dtype;

size_t agl_dtype_bytes(agl_dtype dtype);
const char *agl_dtype_name(agl_dtype dtype);                     /* "float32", ...       */
agl_dtype agl_dtype_from_safetensors(const char *name, size_t bytes); /* AGL_DTYPE_COUNT: unknown */

/* Round to nearest even, like PyTorch. */
static inline uint16_t agl_f32_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u); /* NaN stays NaN */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static inline float agl_bf16_to_f32(uint16_t value)
{
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

float agl_f16_to_f32(uint16_t value);
uint16_t agl_f32_to_f16(float value);

#ifdef __cplusplus
}
#endif

#endif
