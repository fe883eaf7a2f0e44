/* SPDX-License-Identifier: Apache-2.0 */
#include "base/dtype.h"

static const struct {
    const char *name;
    const char *safetensors;
    size_t bytes;
} DTYPES[AGL_DTYPE_COUNT] = {
    [AGL_F32] = {"float32", "F32", 4},   [AGL_F16] = {"float16", "F16", 2},
    [AGL_BF16] = {"bfloat16", "BF16", 2}, [AGL_I32] = {"int32", "I32", 4},
    [AGL_I64] = {"int64", "I64", 8},     [AGL_U8] = {"uint8", "U8", 1},
    [AGL_I8] = {"int8", "I8", 1},        [AGL_F8E4M3] = {"float8_e4m3", "F8_E4M3", 1},
    [AGL_BOOL] = {"bool", "BOOL", 1},    [AGL_F64] = {"float64", "F64", 8},
};

size_t agl_dtype_bytes(agl_dtype dtype)
{
    return DTYPES[dtype].bytes;
}

const char *agl_dtype_name(agl_dtype dtype)
{
    return dtype < AGL_DTYPE_COUNT ? DTYPES[dtype].name : "unknown";
}

agl_dtype agl_dtype_from_safetensors(const char *name, size_t bytes)
{
    for (int i = 0; i < AGL_DTYPE_COUNT; i++) {
        const char *known = DTYPES[i].safetensors;
        if (strlen(known) == bytes && memcmp(known, name, bytes) == 0) return (agl_dtype)i;
    }
    return AGL_DTYPE_COUNT;
}

float agl_f16_to_f32(uint16_t value)
{
    uint32_t sign = (uint32_t)(value & 0x8000u) << 16;
    uint32_t exponent = value >> 10 & 0x1fu;
    uint32_t mantissa = value & 0x3ffu;
    uint32_t bits;
    if (exponent == 0x1f) {
        bits = sign | 0x7f800000u | mantissa << 13;
    } else if (exponent != 0) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        /* Subnormal: mantissa * 2^-24 is exact in F32. */
        float magnitude = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &magnitude, sizeof bits);
        bits |= sign;
    }
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

uint16_t agl_f32_to_f16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return sign | 0x7e00u;
    if (bits >= 0x477ff000u) return sign | 0x7c00u; /* 65520 and above round to infinity */
    if (bits < 0x38800000u) {
        /* Subnormal result: adding 2^-1 * 2^-13 rounds at the right place. */
        float magnitude;
        memcpy(&magnitude, &bits, sizeof magnitude);
        magnitude += 0.5f;
        memcpy(&bits, &magnitude, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    bits += 0xfffu + (bits >> 13 & 1u);
    return (uint16_t)(sign | (bits - 0x38000000u) >> 13);
}
