// cublasLt.h of dev/emulate.sh: what findap/kernels/matmul.cuh uses of cuBLASLt, as one plain product. Every descriptor is taken at its word - sizes, row strides,
// transposition, scale, C, bias - and what would not fit together, or is not aligned to 16 bytes, ends the program.
#ifndef FINDAP_EMULATED_CUBLASLT
#define FINDAP_EMULATED_CUBLASLT
typedef int cublasStatus_t; enum { CUBLAS_STATUS_SUCCESS };
typedef int cublasOperation_t; enum { CUBLAS_OP_N, CUBLAS_OP_T };
typedef int cublasLtEpilogue_t; enum { CUBLASLT_EPILOGUE_BIAS = 7 };
enum { CUBLAS_COMPUTE_32F };
enum { CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_BIAS_POINTER };
typedef int cublasLtMatmulPreferenceAttributes_t;
enum { CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK };
enum { CUBLASLT_REDUCTION_SCHEME_NONE };
struct EmulatedProduct { int ta = 0, tb = 0, epilogue = 0; const void *bias = 0; };
struct EmulatedLayout { int type; uint64_t rows, cols; int64_t ld; };
typedef EmulatedProduct *cublasLtMatmulDesc_t; typedef EmulatedLayout *cublasLtMatrixLayout_t; typedef void *cublasLtHandle_t;
typedef uint32_t *cublasLtMatmulPreference_t;
struct cublasLtMatmulAlgo_t { uint32_t align; };
struct cublasLtMatmulHeuristicResult_t { cublasLtMatmulAlgo_t algo; size_t workspaceSize; };
static inline const char *cublasLtGetStatusString(int) { return ""; }
static inline int cublasLtCreate(cublasLtHandle_t *h) { *h = 0; return 0; }
static inline int cublasLtDestroy(cublasLtHandle_t) { return 0; }
static inline int cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, int, int) { *d = new EmulatedProduct; return 0; }
static inline int cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { delete d; return 0; }
static inline int cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, int what, const void *v, size_t) {
    if (what == CUBLASLT_MATMUL_DESC_TRANSA) d->ta = *(int *)v; else if (what == CUBLASLT_MATMUL_DESC_TRANSB) d->tb = *(int *)v; else if (what == CUBLASLT_MATMUL_DESC_EPILOGUE) d->epilogue = *(int *)v; else d->bias = *(const void **)v;
    return 0;
}
static inline int cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, int t, uint64_t r, uint64_t c, int64_t ld) { CHECK(ld >= (int64_t)r); *l = new EmulatedLayout{t, r, c, ld}; return 0; }
static inline int cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { delete l; return 0; }
static inline int cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) { *p = new uint32_t(256); return 0; }
static inline int cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { delete p; return 0; }
static inline int cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, int what, const void *v, size_t) { if (what) *p = *(uint32_t *)v; return 0; }
static inline int cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, EmulatedProduct *, EmulatedLayout *, EmulatedLayout *, EmulatedLayout *, EmulatedLayout *, cublasLtMatmulPreference_t p, int, cublasLtMatmulHeuristicResult_t *r, int *found) { r->algo.align = *p; *found = 1; return 0; }
extern "C" void cpu_gemm(int64_t M, int64_t N, int64_t K, const float *a, int64_t a_i, int64_t a_k, const float *b, int64_t b_k, int64_t b_j, float *c, int64_t ldc);
static float layout_number(const void *p, int type, int64_t i) { return type == CUDA_R_32F ? ((const float *)p)[i] : to_float(((const bf16 *)p)[i]); }
static int cublasLtMatmul(cublasLtHandle_t, EmulatedProduct *o, const float *alpha, const void *a, EmulatedLayout *la, const void *b, EmulatedLayout *lb, const float *beta, const void *c, EmulatedLayout *lc, void *d, EmulatedLayout *ld, const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t) {
    const int64_t m = (int64_t)ld->rows, n = (int64_t)ld->cols, k = (int64_t)(o->ta ? la->rows : la->cols);
    CHECK((int64_t)(o->ta ? la->cols : la->rows) == m && (int64_t)(o->tb ? lb->cols : lb->rows) == k && (int64_t)(o->tb ? lb->rows : lb->cols) == n && lc == ld);
    CHECK((uintptr_t)a % 16 == 0 && (uintptr_t)b % 16 == 0 && (uintptr_t)d % 16 == 0 && (uintptr_t)c % 16 == 0);
    const int64_t as = la->type == CUDA_R_32F ? 4 : 2, bs = lb->type == CUDA_R_32F ? 4 : 2, ds = ld->type == CUDA_R_32F ? 4 : 2;
    CHECK(la->ld * as % 16 == 0 && lb->ld * bs % 16 == 0 && ld->ld * ds % 16 == 0);
    std::vector<float> fa((size_t)(la->rows * la->cols)), fb((size_t)(lb->rows * lb->cols)), y((size_t)(m * n));
    for (uint64_t j = 0; j < la->cols; j++) for (uint64_t i = 0; i < la->rows; i++) fa[i + j * la->rows] = layout_number(a, la->type, (int64_t)i + (int64_t)j * la->ld);
    for (uint64_t j = 0; j < lb->cols; j++) for (uint64_t i = 0; i < lb->rows; i++) fb[i + j * lb->rows] = layout_number(b, lb->type, (int64_t)i + (int64_t)j * lb->ld);
    // row-major D^T (n, m) = op(B)^T op(A)^T
    const int64_t ar = (int64_t)la->rows, br = (int64_t)lb->rows;
    cpu_gemm(n, m, k, fb.data(), o->tb ? 1 : br, o->tb ? br : 1, fa.data(), o->ta ? 1 : ar, o->ta ? ar : 1, y.data(), m);
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < m; i++) {
            float v = *alpha * y[(size_t)(j * m + i)];
            if (*beta != 0) v += *beta * layout_number(c, ld->type, i + j * ld->ld);
            if (o->epilogue) v += layout_number(o->bias, la->type, i);
            if (ld->type == CUDA_R_32F) ((float *)d)[i + j * ld->ld] = v; else ((bf16 *)d)[i + j * ld->ld] = from_float<bf16>(v);
        }
    return 0;
}
#endif
