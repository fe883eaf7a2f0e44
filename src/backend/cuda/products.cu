/* SPDX-License-Identifier: Apache-2.0
 *
 * products.cu - y = x W^T + b for many rows, by cuBLASLt.
 *
 *   x        [rows, in]  activations, row stride x_stride
 *   weight   [out, in]   the same type
 *   bias     [out]       the type of y, or none: added in F32 before the only rounding
 *   y        [rows, out] activations, or f32
 *
 * Needs     rows of x, weight and y that begin at 16 bytes. The library is loaded when the
 *           backend is created: the program starts on machines without it.
 * Bound     arithmetic; below about 200 rows on an H200 reading the weights.
 * Numerics  F32 sums; F32 inputs are not rounded to TF32. Parts of a split sum are added in
 *           F32, never in the type of y. y in F16 overflows to infinity where linear_skinny
 *           saturates; what passes 65504 in this model leaves as F32.
 * Same call, same bits: the algorithm is the library's first choice for (rows, in, out,
 *           x_stride, y's type, bias) at 16-byte alignment and never depends on addresses
 *           or on earlier calls. The table below only remembers it. Up to CLASSED_ROWS it is
 *           the choice for a class of rows: then a row's bits do not change with the dead rows
 *           that fill a recorded step, and a step of any size finds its kernels loaded by the
 *           recordings. On an H200 loading one takes 2.3 ms, and asking the library 0.4 ms.
 *
 * Everything but cublasLtMatmul is host work, which a stream that is recorded into a graph
 * permits. A kernel's first use loads it, so run a shape once before recording it. The
 * workspace is one: operations of two streams must not overlap. */
#include <assert.h>
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/linear.h"

#define WORKSPACE_BYTES_SM90 ((size_t)32 << 20) /* the library's own advice for Hopper        */
#define WORKSPACE_BYTES ((size_t)8 << 20)
#define CLASSED_ROWS 256
#define CLASS_ROWS 16               /* as recorded steps (step_graphs.c)                      */
#define LAST_CLASS_ROWS 209         /* from here on 256: measured, docs/SPEED.md              */
#define ALIGNMENT 16u               /* bytes, of every matrix and row                         */

/* 512 plans: chunked prefill brings many different numbers of rows. A plan may stand in the 4
 * places of its set; the one unused for longest makes room. */
#define PLAN_SETS 128
#define PLAN_WAYS 4

/* ---- the library ----------------------------------------------------------------- */

#define LIBRARY_FUNCTIONS(X)                                                                   \
    X(cublasLtCreate)                                                                          \
    X(cublasLtDestroy)                                                                         \
    X(cublasLtMatmulDescCreate)                                                                \
    X(cublasLtMatmulDescDestroy)                                                               \
    X(cublasLtMatmulDescSetAttribute)                                                          \
    X(cublasLtMatrixLayoutCreate)                                                              \
    X(cublasLtMatrixLayoutDestroy)                                                             \
    X(cublasLtMatmulPreferenceCreate)                                                          \
    X(cublasLtMatmulPreferenceDestroy)                                                         \
    X(cublasLtMatmulPreferenceSetAttribute)                                                    \
    X(cublasLtMatmulAlgoGetHeuristic)                                                          \
    X(cublasLtMatmulAlgoCheck)                                                                 \
    X(cublasLtMatmul)

typedef struct {
    void *file;
#define LIBRARY_MEMBER(name) decltype(&::name) name;
    LIBRARY_FUNCTIONS(LIBRARY_MEMBER)
} library;

/* ---- plans ----------------------------------------------------------------------- */

typedef struct {
    int64_t rows, in, out, x_stride;
    int64_t flags;                  /* 1: y is F32; 2: bias                                   */
} plan_key;

/* In the library's terms, whose matrices are stored by columns: y^T = W x^T, where
 * W is a [in, out] matrix to be transposed. */
typedef struct {
    plan_key key;
    uint64_t used;                  /* number of the last call; 0: place is free              */
    bool possible;                  /* the library knows an algorithm                         */
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t weight, x, y;
    cublasLtMatmulAlgo_t algorithm;
} plan;

struct agl_cuda_products {
    library lib;
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    cudaDataType_t type;            /* of activations                                         */
    uint64_t workspace_bytes;
    uint64_t calls;
    plan plans[PLAN_SETS][PLAN_WAYS];
};

static void plan_clear(const library *lib, plan *p)
{
    if (p->product != NULL) lib->cublasLtMatmulDescDestroy(p->product);
    if (p->weight != NULL) lib->cublasLtMatrixLayoutDestroy(p->weight);
    if (p->x != NULL) lib->cublasLtMatrixLayoutDestroy(p->x);
    if (p->y != NULL) lib->cublasLtMatrixLayoutDestroy(p->y);
    memset(p, 0, sizeof *p);
}

/* x and y of so many rows. */
static bool lay_out(const library *lib, plan *p, cudaDataType_t type, int64_t rows)
{
    const plan_key *key = &p->key;
    cudaDataType_t y_type = key->flags & 1 ? CUDA_R_32F : type;
    if (p->x != NULL) lib->cublasLtMatrixLayoutDestroy(p->x);
    if (p->y != NULL) lib->cublasLtMatrixLayoutDestroy(p->y);
    p->x = p->y = NULL;
    return lib->cublasLtMatrixLayoutCreate(&p->x, type, (uint64_t)key->in, (uint64_t)rows,
                                           key->x_stride) == CUBLAS_STATUS_SUCCESS &&
           lib->cublasLtMatrixLayoutCreate(&p->y, y_type, (uint64_t)key->out, (uint64_t)rows,
                                           key->out) == CUBLAS_STATUS_SUCCESS;
}

static bool describe(const library *lib, plan *p, cudaDataType_t type, const void *bias)
{
    const plan_key *key = &p->key;
    cudaDataType_t y_type = key->flags & 1 ? CUDA_R_32F : type;
    cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
#define SET(name, value) (lib->cublasLtMatmulDescSetAttribute( \
                              p->product, name, &(value), sizeof(value)) == CUBLAS_STATUS_SUCCESS)
    if (lib->cublasLtMatmulDescCreate(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F) !=
            CUBLAS_STATUS_SUCCESS ||
        !SET(CUBLASLT_MATMUL_DESC_TRANSA, transposed)) {
        return false;
    }
    if (bias != NULL && (!SET(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue) ||
                         !SET(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, y_type) ||
                         !SET(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias))) {
        return false;
    }
#undef SET
    return lib->cublasLtMatrixLayoutCreate(&p->weight, type, (uint64_t)key->in, (uint64_t)key->out,
                                           key->in) == CUBLAS_STATUS_SUCCESS;
}

/* The library's first choice for so many rows. */
static bool choose(agl_cuda_products *products, plan *p, int64_t rows)
{
    const library *lib = &products->lib;
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    if (!lay_out(lib, p, products->type, rows)) return false;
    cublasStatus_t status = lib->cublasLtMatmulAlgoGetHeuristic(
        products->handle, p->product, p->weight, p->x, p->y, p->y, products->preference, 1,
        &found, &count);
    p->algorithm = found.algo;
    return status == CUBLAS_STATUS_SUCCESS && count == 1 && found.state == CUBLAS_STATUS_SUCCESS;
}

/* The choice for a whole class, if it can be used for the rows of this plan too. */
static bool choose_class(agl_cuda_products *products, plan *p)
{
    const library *lib = &products->lib;
    int64_t rows = p->key.rows, whole = (rows + CLASS_ROWS - 1) / CLASS_ROWS * CLASS_ROWS;
    if (rows >= LAST_CLASS_ROWS && rows < CLASSED_ROWS) whole = CLASSED_ROWS;
    if (rows == whole || whole > CLASSED_ROWS || !choose(products, p, whole)) return false;
    cublasLtMatmulHeuristicResult_t need = {};
    return lay_out(lib, p, products->type, rows) &&
           lib->cublasLtMatmulAlgoCheck(products->handle, p->product, p->weight, p->x, p->y, p->y,
                                        &p->algorithm, &need) == CUBLAS_STATUS_SUCCESS &&
           need.workspaceSize <= products->workspace_bytes;
}

static agl_status plan_make(agl_cuda_products *products, plan *p, const plan_key *key,
                            const void *bias)
{
    const library *lib = &products->lib;
    plan_clear(lib, p);
    p->key = *key;
    if (!describe(lib, p, products->type, bias)) {
        plan_clear(lib, p);
        return AGL_ERR_DEVICE;
    }
    p->possible = choose_class(products, p) || choose(products, p, key->rows);
    return AGL_OK;
}

static uint64_t key_hash(const plan_key *key)
{
    const int64_t words[] = {key->rows, key->in, key->out, key->x_stride, key->flags};
    uint64_t hash = 0;
    for (size_t i = 0; i < AGL_COUNT(words); i++) {
        hash = (hash ^ (uint64_t)words[i]) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    return hash;
}

static bool key_equal(const plan_key *a, const plan_key *b)
{
    return a->rows == b->rows && a->in == b->in && a->out == b->out &&
           a->x_stride == b->x_stride && a->flags == b->flags;
}

static agl_status plan_find(agl_cuda_products *products, plan **out, const plan_key *key,
                            const void *bias)
{
    plan *set = products->plans[key_hash(key) % PLAN_SETS], *oldest = set;
    for (int i = 0; i < PLAN_WAYS; i++) {
        if (set[i].used != 0 && key_equal(&set[i].key, key)) {
            *out = &set[i];
            set[i].used = ++products->calls;
            return AGL_OK;
        }
        if (set[i].used < oldest->used) oldest = &set[i];
    }
    AGL_TRY(plan_make(products, oldest, key, bias));
    oldest->used = ++products->calls;
    *out = oldest;
    return AGL_OK;
}

/* ---- life ------------------------------------------------------------------------ */

uint64_t agl_cuda_products_bytes(const agl_cuda *cuda, const agl_backend_limits *limits)
{
    (void)limits;
    return cuda->capability == 90 ? WORKSPACE_BYTES_SM90 : WORKSPACE_BYTES;
}

static agl_status library_open(library *lib, agl_error *err)
{
    static const char *const NAMES[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
    /* It stays mapped: it keeps state in the CUDA context, which outlives a backend. */
    for (size_t i = 0; i < AGL_COUNT(NAMES) && lib->file == NULL; i++) {
        lib->file = dlopen(NAMES[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    }
    if (lib->file == NULL) {
        return agl_fail(err, AGL_ERR_NOT_FOUND,
                        "libcublasLt.so.13 or .12 cannot be loaded; it is in the package "
                        "libcublas-13-0 (NVIDIA) or libcublaslt12 (Debian non-free)");
    }
#define LIBRARY_LOAD(name)                                                                     \
    lib->name = (decltype(lib->name))dlsym(lib->file, #name);                                  \
    if (lib->name == NULL) {                                                                   \
        return agl_fail(err, AGL_ERR_UNSUPPORTED, "libcublasLt has no function %s", #name);    \
    }
    LIBRARY_FUNCTIONS(LIBRARY_LOAD)
    return AGL_OK;
}

static bool preference_create(agl_cuda_products *products, const agl_cuda *cuda)
{
    const library *lib = &products->lib;
    uint64_t bytes = agl_cuda_products_bytes(cuda, &cuda->limits);
    products->workspace_bytes = bytes;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, alignment = ALIGNMENT;
    if (lib->cublasLtMatmulPreferenceCreate(&products->preference) != CUBLAS_STATUS_SUCCESS) {
        return false;
    }
#define SET(name, value) (lib->cublasLtMatmulPreferenceSetAttribute( \
                              products->preference, name, &(value), sizeof(value)) == \
                          CUBLAS_STATUS_SUCCESS)
    return SET(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, bytes) &&
           SET(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions) &&
           SET(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment) &&
           SET(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment) &&
           SET(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment) &&
           SET(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment);
#undef SET
}

static cudaDataType_t library_type(agl_dtype dtype)
{
    return dtype == AGL_F32 ? CUDA_R_32F : dtype == AGL_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

agl_status agl_cuda_products_create(agl_cuda_products **out, agl_cuda *cuda, agl_error *err)
{
    *out = NULL;
    agl_cuda_products *products = (agl_cuda_products *)calloc(1, sizeof *products);
    if (products == NULL) return agl_fail(err, AGL_ERR_MEMORY, "no memory for matrix products");
    products->type = library_type(cuda->base.activation);
    agl_status status = library_open(&products->lib, err);
    if (status == AGL_OK) {
        cublasStatus_t result = products->lib.cublasLtCreate(&products->handle);
        if (result != CUBLAS_STATUS_SUCCESS) {
            status = agl_fail(err, AGL_ERR_DEVICE, "cublasLtCreate: status %d", (int)result);
        }
    }
    if (status == AGL_OK && !preference_create(products, cuda)) {
        status = agl_fail(err, AGL_ERR_DEVICE, "libcublasLt refuses a preference");
    }
    if (status != AGL_OK) {
        agl_cuda_products_destroy(products);
        return status;
    }
    *out = products;
    return AGL_OK;
}

void agl_cuda_products_destroy(agl_cuda_products *products)
{
    if (products == NULL) return;
    const library *lib = &products->lib;
    for (int i = 0; i < PLAN_SETS * PLAN_WAYS; i++) {
        plan *p = &products->plans[i / PLAN_WAYS][i % PLAN_WAYS];
        if (p->used != 0) plan_clear(lib, p);
    }
    if (products->preference != NULL) lib->cublasLtMatmulPreferenceDestroy(products->preference);
    if (products->handle != NULL) lib->cublasLtDestroy(products->handle);
    if (lib->file != NULL) dlclose(lib->file);
    free(products);
}

/* ---- launcher -------------------------------------------------------------------- */

agl_status agl_cuda_linear_products(agl_stream *stream, const agl_linear_args *args)
{
    agl_cuda *cuda = agl_cuda_of(stream);
    agl_cuda_products *products = cuda->products;
    const library *lib = &products->lib;
    const agl_cuda_weight *weight = (const agl_cuda_weight *)args->weight;
    bool wide = args->y_f32 || cuda->base.activation == AGL_F32;
    const void *bias = wide ? weight->bias : weight->bias_rounded;
    plan_key key = {};
    key.rows = args->rows, key.in = weight->base.in, key.out = weight->base.out;
    key.x_stride = args->x_stride;
    key.flags = (wide ? 1 : 0) | (bias != NULL ? 2 : 0);
    assert(cuda->products_space.bytes > 0 && (bias != NULL) == (weight->bias != NULL));
    plan *p;
    AGL_TRY(plan_find(products, &p, &key, bias));
    if (!p->possible) return AGL_ERR_UNSUPPORTED;
    if (bias != NULL && lib->cublasLtMatmulDescSetAttribute(
                            p->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                            sizeof bias) != CUBLAS_STATUS_SUCCESS) {
        return AGL_ERR_DEVICE;
    }
    const float one = 1.0f, zero = 0.0f;
    cublasStatus_t status = lib->cublasLtMatmul(
        products->handle, p->product, &one, weight->data, p->weight, args->x, p->x, &zero,
        args->y, p->y, args->y, p->y, &p->algorithm, cuda->products_space.data,
        cuda->products_space.bytes, agl_cuda_queue(stream));
    return status == CUBLAS_STATUS_SUCCESS ? AGL_OK : AGL_ERR_DEVICE;
}
