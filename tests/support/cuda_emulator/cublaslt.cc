/* SPDX-License-Identifier: Apache-2.0
 *
 * cublaslt.cc - D = alpha op(A) op(B) + beta C + bias, exact products summed in F64 and rounded
 * once. Pointers must be aligned as the algorithm was asked for, and the workspace is written, as
 * the real library may do. */
#include "cublasLt.h"

#include <string.h>

#include <vector>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "emulator.h"

/* As much of the workspace as a product spoils. */
#define SPOILED_BYTES ((size_t)64 << 10)
#define LANES 8

struct emu_cublaslt { int unused; };

struct emu_cublaslt_product {
    cublasOperation_t transpose_a, transpose_b;
    cublasLtEpilogue_t epilogue;
    const void *bias;
    cudaDataType_t bias_type;
    bool bias_type_set;
};

struct emu_cublaslt_layout {
    cudaDataType_t type;
    cublasLtOrder_t order;
    uint64_t rows, columns;
    int64_t stride;
};

struct emu_cublaslt_preference {
    uint64_t workspace_bytes;
    uint32_t alignment[4];                   /* of A, B, C, D */
};

/* What is left of all that when the stream gets there. */
struct product_job {
    emu_cublaslt_product product;
    emu_cublaslt_layout a, b, c, d;
    const void *a_data, *b_data, *c_data;
    void *d_data, *workspace;
    size_t workspace_bytes;
    float alpha, beta;
};

/* ---- descriptions ---------------------------------------------------------------- */

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    *out = new emu_cublaslt();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute, cudaDataType_t scale)
{
    *out = NULL;
    if ((compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_PEDANTIC) || scale != CUDA_R_32F) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    *out = new emu_cublaslt_product();
    (*out)->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product)
{
    delete product;
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set(void *member, size_t member_bytes, const void *value, size_t bytes)
{
    if (bytes != member_bytes) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(member, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

#define SET(member) set(&(member), sizeof(member), value, bytes)

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t bytes)
{
    switch (name) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return SET(product->transpose_a);
    case CUBLASLT_MATMUL_DESC_TRANSB: return SET(product->transpose_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return SET(product->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return SET(product->bias);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        product->bias_type_set = true;
        return SET(product->bias_type);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t stride)
{
    *out = new emu_cublaslt_layout{type, CUBLASLT_ORDER_COL, rows, columns, stride};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t name,
                                                const void *value, size_t bytes)
{
    switch (name) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE: return SET(layout->type);
    case CUBLASLT_MATRIX_LAYOUT_ORDER: return SET(layout->order);
    case CUBLASLT_MATRIX_LAYOUT_ROWS: return SET(layout->rows);
    case CUBLASLT_MATRIX_LAYOUT_COLS: return SET(layout->columns);
    case CUBLASLT_MATRIX_LAYOUT_LD: return SET(layout->stride);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    *out = new emu_cublaslt_preference{0, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t name, const void *value,
                                                    size_t bytes)
{
    uint32_t any;
    switch (name) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return SET(preference->workspace_bytes);
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE: case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return SET(any);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return SET(preference->alignment[0]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return SET(preference->alignment[1]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return SET(preference->alignment[2]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return SET(preference->alignment[3]);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

/* ---- the product ------------------------------------------------------------------- */

static size_t type_bytes(cudaDataType_t type)
{
    return type == CUDA_R_32F ? 4 : type == CUDA_R_16F || type == CUDA_R_16BF ? 2 : 0;
}

static float load(const void *data, cudaDataType_t type, size_t at)
{
    if (type == CUDA_R_32F) return ((const float *)data)[at];
    uint16_t bits = ((const uint16_t *)data)[at];
    return type == CUDA_R_16F ? emu_f16_to_f32(bits) : emu_bf16_to_f32(bits);
}

static void store(void *data, cudaDataType_t type, size_t at, float v)
{
    if (type == CUDA_R_32F) ((float *)data)[at] = v;
    else ((uint16_t *)data)[at] = type == CUDA_R_16F ? emu_f32_to_f16(v) : emu_f32_to_bf16(v);
}

static size_t place(const emu_cublaslt_layout &m, uint64_t row, uint64_t column)
{
    uint64_t stride = (uint64_t)m.stride;
    return m.order == CUBLASLT_ORDER_COL ? column * stride + row : row * stride + column;
}

/* [count, depth] of op(m) by rows (left) or by columns. */
static std::vector<float> gather(const emu_cublaslt_layout &m, const void *data, bool by_columns)
{
    uint64_t count = by_columns ? m.columns : m.rows, depth = by_columns ? m.rows : m.columns;
    std::vector<float> out(count * depth);
    for (uint64_t i = 0; i < count; i++) {
        for (uint64_t k = 0; k < depth; k++) {
            out[i * depth + k] = load(data, m.type, by_columns ? place(m, k, i) : place(m, i, k));
        }
    }
    return out;
}

static double dot(const float *a, const float *b, uint64_t count)
{
    double sums[LANES] = {0};
    uint64_t k = 0;
    for (; k + LANES <= count; k += LANES) {
        for (int i = 0; i < LANES; i++) sums[i] += (double)a[k + i] * (double)b[k + i];
    }
    for (; k < count; k++) sums[0] += (double)a[k] * (double)b[k];
    double sum = 0;
    for (int i = 0; i < LANES; i++) sum += sums[i];
    return sum;
}

static void run_product(void *context)
{
    const product_job *job = (const product_job *)context;
    const emu_cublaslt_product &product = job->product;
    std::vector<float> left = gather(job->a, job->a_data, product.transpose_a == CUBLAS_OP_T);
    std::vector<float> right = gather(job->b, job->b_data, product.transpose_b == CUBLAS_OP_N);
    uint64_t depth = product.transpose_a == CUBLAS_OP_T ? job->a.rows : job->a.columns;
    if (job->workspace != NULL) {
        memset(job->workspace, 0xff, job->workspace_bytes < SPOILED_BYTES ? job->workspace_bytes : SPOILED_BYTES);
    }
    for (uint64_t row = 0; row < job->d.rows; row++) {
        double bias = product.epilogue == CUBLASLT_EPILOGUE_BIAS ? (double)load(product.bias, product.bias_type, row) : 0;
        for (uint64_t column = 0; column < job->d.columns; column++) {
            double sum = (double)job->alpha * dot(&left[row * depth], &right[column * depth], depth) + bias;
            if (job->beta != 0.0f) {
                sum += (double)job->beta * (double)load(job->c_data, job->c.type, place(job->c, row, column));
            }
            store(job->d_data, job->d.type, place(job->d, row, column), (float)sum);
        }
    }
}

static bool shape_is_right(const emu_cublaslt_layout *m)
{
    int64_t least = (int64_t)(m->order == CUBLASLT_ORDER_COL ? m->rows : m->columns);
    return m->rows > 0 && m->columns > 0 && m->stride >= least && type_bytes(m->type) > 0;
}

static cublasStatus_t check(const emu_cublaslt_product *p, const emu_cublaslt_layout *a, const emu_cublaslt_layout *b,
                            const emu_cublaslt_layout *c, const emu_cublaslt_layout *d)
{
    if (!shape_is_right(a) || !shape_is_right(b) || !shape_is_right(c) || !shape_is_right(d)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    bool ta = p->transpose_a == CUBLAS_OP_T, tb = p->transpose_b == CUBLAS_OP_T;
    uint64_t rows = ta ? a->columns : a->rows, depth = ta ? a->rows : a->columns;
    uint64_t columns = tb ? b->rows : b->columns, other = tb ? b->columns : b->rows;
    if (depth != other || d->rows != rows || d->columns != columns || c->rows != rows || c->columns != columns) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    /* The combinations that the library's manual lists for F32 sums. */
    if (a->type != b->type || c->type != d->type || (d->type != a->type && d->type != CUDA_R_32F)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (p->epilogue == CUBLASLT_EPILOGUE_BIAS) {
        if (p->bias == NULL) return CUBLAS_STATUS_INVALID_VALUE;
        if (p->bias_type_set && p->bias_type != d->type) return CUBLAS_STATUS_NOT_SUPPORTED;
    } else if (p->epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *count)
{
    *count = 0;
    if (handle == NULL || wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t status = check(product, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    memset(results, 0, sizeof *results);
    for (int i = 0; i < 4; i++) results->algo.data[i] = preference->alignment[i];
    results->workspaceSize = preference->workspace_bytes < SPOILED_BYTES ? preference->workspace_bytes : SPOILED_BYTES;
    results->algo.data[4] = results->workspaceSize;
    *count = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algorithm,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    if (handle == NULL) return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t status = check(product, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    memset(result, 0, sizeof *result);
    result->algo = *algorithm;
    result->workspaceSize = algorithm->data[4];
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t product, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algorithm,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    const void *data[4] = {a, b, c, d};
    if (handle == NULL) return CUBLAS_STATUS_NOT_INITIALIZED;
    cublasStatus_t status = check(product, a_layout, b_layout, c_layout, d_layout);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (algorithm != NULL) {
        for (int i = 0; i < 4; i++) {
            uint64_t alignment = algorithm->data[i];
            if (alignment != 0 && (uintptr_t)data[i] % alignment != 0) return CUBLAS_STATUS_INVALID_VALUE;
        }
        if (workspace_bytes < algorithm->data[4]) return CUBLAS_STATUS_INVALID_VALUE;
        workspace_bytes = algorithm->data[4];
    }
    if (workspace_bytes > 0 && (workspace == NULL || (uintptr_t)workspace % 256 != 0)) return CUBLAS_STATUS_INVALID_VALUE;
    product_job job = {*product, *a_layout, *b_layout, *c_layout, *d_layout, a, b, c, d, workspace, workspace_bytes,
                       *(const float *)alpha, *(const float *)beta};
    if (!job.product.bias_type_set) job.product.bias_type = d_layout->type;
    return emu_enqueue(stream, run_product, &job, sizeof job) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                                             : CUBLAS_STATUS_EXECUTION_FAILED;
}
