// matmul.cuh: every large matrix product, through cuBLASLt. About 80 % of a training step is spent in here, at the tensor
// cores' speed under the card's power limit; a GEMM of our own would gain at most a few per cent and cost a thousand lines.
//
// A plan (layouts and algorithm) is made once for each shape and kept. The library's own first choice of algorithm is up
// to 10 % from the best, so each shape is tuned when the model is made: the candidates are timed on random numbers, and
// the fastest is taken - of those that give the first choice's bits. Tuning thus changes speed and never results, and
// the same command gives the same bits although two tunings may end differently.
//
// The fused parts: a bias is added by the epilogue; a residual is the C operand (D = A B + C, C and D different buffers),
// so that x + branch is rounded once and costs no pass of its own; parameter gradients are summed in fp32 (beta = 1). C may be D itself:
// what LoRA's adapters add is written there first (lora.cuh).
#ifndef FINDAP_KERNELS_MATMUL_CUH
#define FINDAP_KERNELS_MATMUL_CUH
#include "cuda.cuh"      // defines: CUDA_CHECK, real
#include <cublasLt.h>    // defines: cublasLtMatmul
#include <unistd.h>      // defines: usleep

#define CUBLAS_CHECK(call) cublas_check((call), #call, __FILE__, __LINE__)
static inline void cublas_check(cublasStatus_t status, const char *call, const char *file, int line) {
    if (status != CUBLAS_STATUS_SUCCESS) die("%s:%d: %s: %s ---> the shape or alignment is not supported by cuBLASLt", file, line, call, cublasLtGetStatusString(status));
}

// D (n, m) row-major = scale op(A) op(B) [+ C] [+ bias (m)], in cuBLAS's column-major words: D is m x n with leading dimension ldd.
typedef struct {
    int64_t m, n, k, lda, ldb, ldd;
    bool transpose_a, transpose_b;
    bool add;          // + C
    bool bias;         // + bias
    bool out_fp32;     // D and C are float, else real
    bool inside;       // operands begin inside an array, at multiples of 16 bytes; else at multiples of 256, as the library assumes
    bool unsplit;      // each sum is one chain over k: a row's bits do not depend on how many rows there are, and are those of matvec (decode.cuh)
    float scale;
} GemmShape;

typedef struct {
    GemmShape shape;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algorithm;
    bool tuned;
} GemmPlan;

enum { MAX_GEMM_PLANS = 512, GEMM_PROPOSED = 16, GEMM_TRIES = 160 };
enum { TUNE_PAUSE_US = 3000 };

typedef struct {
    cublasLtHandle_t handle;
    void *workspace;
    size_t workspace_bytes;
    int64_t tune_weights;   // numbers of `a` that gemm_tune may take in turn, so that weights come from memory and not from the L2; 0: one matrix
    GemmPlan plans[MAX_GEMM_PLANS];
    int num_plans;
} Gemm;

static inline void gemm_create(Gemm *g) {
    memset(g, 0, sizeof *g);
    CUBLAS_CHECK(cublasLtCreate(&g->handle));
    g->workspace_bytes = 64 << 20;   // what cuBLAS asks for on Hopper is 32 MiB; more candidates fit in 64
    CUDA_CHECK(cudaMalloc(&g->workspace, g->workspace_bytes));
}
static inline void gemm_destroy(Gemm *g) {
    for (int i = 0; i < g->num_plans; i++) {
        cublasLtMatrixLayoutDestroy(g->plans[i].a); cublasLtMatrixLayoutDestroy(g->plans[i].b); cublasLtMatrixLayoutDestroy(g->plans[i].d);
        cublasLtMatmulDescDestroy(g->plans[i].operation);
    }
    if (g->workspace) cudaFree(g->workspace);
    if (g->handle) cublasLtDestroy(g->handle);
}

#ifdef FINDAP_FP32
#define GEMM_REAL CUDA_R_32F
#else
#define GEMM_REAL CUDA_R_16BF
#endif

static inline int gemm_candidates(Gemm *g, GemmPlan *p, cublasLtMatmulHeuristicResult_t *results, int most) {
    cublasLtMatmulPreference_t preference;
    CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&preference));
    CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &g->workspace_bytes, sizeof g->workspace_bytes));
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                                                      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint32_t bytes = 16;
    for (int i = 0; i < 4 && p->shape.inside; i++) CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, alignments[i], &bytes, sizeof bytes));
    const uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE;
    if (p->shape.unsplit) CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, sizeof none));
    int found = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(g->handle, p->operation, p->a, p->b, p->d, p->d, preference, most, results, &found);
    cublasLtMatmulPreferenceDestroy(preference);
    if (status != CUBLAS_STATUS_SUCCESS || found == 0)
        die("cuBLASLt has no algorithm for a product of %lld x %lld x %lld ---> widths of a model must be multiples of 8", (long long)p->shape.m, (long long)p->shape.n, (long long)p->shape.k);
    return found;
}

static inline GemmPlan *gemm_plan(Gemm *g, const GemmShape *s) {
    for (int i = 0; i < g->num_plans; i++)
        if (memcmp(&g->plans[i].shape, s, sizeof *s) == 0) return &g->plans[i];
    if (g->num_plans == MAX_GEMM_PLANS) {   // many odd batch sizes have come by: forget one that was not tuned
        int i = 0;
        while (i < MAX_GEMM_PLANS - 1 && g->plans[i].tuned) i++;
        cublasLtMatrixLayoutDestroy(g->plans[i].a); cublasLtMatrixLayoutDestroy(g->plans[i].b); cublasLtMatrixLayoutDestroy(g->plans[i].d);
        cublasLtMatmulDescDestroy(g->plans[i].operation);
        g->plans[i] = g->plans[--g->num_plans];
    }
    GemmPlan *p = &g->plans[g->num_plans++];
    memset(p, 0, sizeof *p);
    p->shape = *s;
    cudaDataType out = s->out_fp32 ? CUDA_R_32F : GEMM_REAL;
    cublasOperation_t ta = s->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, tb = s->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    CUBLAS_CHECK(cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta));
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb));
    if (s->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    }
    CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&p->a, GEMM_REAL, (uint64_t)(s->transpose_a ? s->k : s->m), (uint64_t)(s->transpose_a ? s->m : s->k), s->lda));
    CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&p->b, GEMM_REAL, (uint64_t)(s->transpose_b ? s->n : s->k), (uint64_t)(s->transpose_b ? s->k : s->n), s->ldb));
    CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&p->d, out, (uint64_t)s->m, (uint64_t)s->n, s->ldd));
    cublasLtMatmulHeuristicResult_t first;
    gemm_candidates(g, p, &first, 1);
    p->algorithm = first.algo;
    return p;
}

#ifdef FINDAP_RACECHECK
// racecheck stops inside the library's kernels ("failed to handle a hardware exception"); with this one it sees all of ours, in a whole training step
__global__ static void gemm_plain_kernel(GemmShape s, const real *a, const real *b, const void *c, void *d, const real *bias) {
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, j = blockIdx.y;   // of D (m, n), column-major
    if (i >= s.m) return;
    float sum = 0;
    for (int64_t k = 0; k < s.k; k++) sum += to_float(a[s.transpose_a ? k + i * s.lda : i + k * s.lda]) * to_float(b[s.transpose_b ? j + k * s.ldb : k + j * s.ldb]);
    sum *= s.scale;
    if (s.bias) sum += to_float(bias[i]);
    if (s.out_fp32) ((float *)d)[i + j * s.ldd] = sum + (s.add ? ((const float *)c)[i + j * s.ldd] : 0.0f);
    else ((real *)d)[i + j * s.ldd] = from_float<real>(sum + (s.add ? to_float(((const real *)c)[i + j * s.ldd]) : 0.0f));
}
#endif

static inline void gemm_launch(Gemm *g, GemmPlan *p, const cublasLtMatmulAlgo_t *algorithm, const void *a, const void *b, const void *c, void *d, const void *bias, cudaStream_t stream) {
#ifdef FINDAP_RACECHECK
    (void)g; (void)algorithm;
    gemm_plain_kernel<<<dim3((unsigned)ceil_div(p->shape.m, 128), (unsigned)p->shape.n), 128, 0, stream>>>(p->shape, (const real *)a, (const real *)b, c, d, (const real *)bias);
    CUDA_CHECK(cudaGetLastError());
    return;
#endif
    float alpha = p->shape.scale, beta = p->shape.add ? 1.0f : 0.0f;
    if (p->shape.bias) CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    CUBLAS_CHECK(cublasLtMatmul(g->handle, p->operation, &alpha, a, p->a, b, p->b, &beta, p->shape.add ? c : d, p->d, d, p->d, algorithm, g->workspace, g->workspace_bytes, stream));
}
static inline void gemm_run(Gemm *g, GemmShape s, const void *a, const void *b, const void *c, void *d, const void *bias, cudaStream_t stream) {
    GemmPlan *p = gemm_plan(g, &s);
    gemm_launch(g, p, &p->algorithm, a, b, c, d, bias, stream);
}

// the three products of a linear layer y (N, O) = x (N, K) w^T, w (O, K); row strides equal widths but for y's, which is ldy
static inline GemmShape gemm_shape(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldd, bool ta, bool tb, bool add, bool bias, bool out_fp32) {
    GemmShape s;
    memset(&s, 0, sizeof s);   // compared as bytes
    s.m = m; s.n = n; s.k = k; s.lda = lda; s.ldb = ldb; s.ldd = ldd;
    s.transpose_a = ta; s.transpose_b = tb; s.add = add; s.bias = bias; s.out_fp32 = out_fp32;
    s.scale = 1.0f;
    return s;
}
static inline GemmShape shape_forward(int64_t N, int64_t K, int64_t O, int64_t ldy, bool residual, bool bias) { return gemm_shape(O, N, K, K, K, ldy, true, false, residual, bias, false); }
static inline GemmShape shape_dinput(int64_t N, int64_t K, int64_t O, int64_t ldy, bool add) { return gemm_shape(K, N, O, K, ldy, K, false, false, add, false, false); }
static inline GemmShape shape_dweight(int64_t N, int64_t K, int64_t O, int64_t ldy, bool add) { return gemm_shape(K, O, N, K, ldy, K, false, true, add, false, true); }

// y (N, O; row stride ldy) = x (N, K) w^T [+ bias (O)] [+ residual, laid out like y, or y itself]
static inline void matmul_forward(Gemm *g, real *y, const real *x, const real *w, const real *bias, const real *residual, int64_t N, int64_t K, int64_t O, int64_t ldy, cudaStream_t stream) {
    gemm_run(g, shape_forward(N, K, O, ldy, residual != NULL, bias != NULL), w, x, residual, y, bias, stream);
}
// the same for generation, y = scale x w^T ..., x with rows ldx apart: the first ones of `rows` rows are wanted, the others are there, whatever they hold
static inline GemmShape shape_generate(int64_t rows, int64_t K, int64_t O, int64_t ldx, int64_t ldy, bool residual, bool bias, float scale) {
    GemmShape s = gemm_shape(O, rows, K, K, ldx, ldy, true, false, residual, bias, false);
    s.unsplit = true; s.inside = ldx != K || ldy != O; s.scale = scale;   // where an adapter reads or writes its own columns
    return s;
}
// dx (N, K) = or += dy (N, O; row stride ldy) w
static inline void matmul_backward_input(Gemm *g, real *dx, const real *dy, const real *w, bool add, int64_t N, int64_t K, int64_t O, int64_t ldy, cudaStream_t stream) {
    gemm_run(g, shape_dinput(N, K, O, ldy, add), w, dy, dx, dx, NULL, stream);
}
// dw (O, K) fp32 = or += dy (N, O; row stride ldy)^T x (N, K)
static inline void matmul_backward_weight(Gemm *g, float *dw, const real *dy, const real *x, bool add, int64_t N, int64_t K, int64_t O, int64_t ldy, cudaStream_t stream) {
    gemm_run(g, shape_dweight(N, K, O, ldy, add), x, dy, dw, dw, NULL, stream);
}

// ---------------------------------------------------------------------------------------------------------------------
// tuning

__global__ static void gemm_fill_kernel(real *x, int64_t n, uint64_t seed) {   // roughly normal: the speed of a GEMM depends on its numbers, through power
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        float sum = 0;
        for (int k = 0; k < 4; k++) sum += (float)(random_bits(seed, (uint64_t)(4 * i + k)) >> 8) * (1.0f / 16777216.0f) - 0.5f;
        x[i] = from_float<real>(sum * 1.7320508f);
    }
}
__global__ static void gemm_differs_kernel(const uint32_t *a, const uint32_t *b, int64_t n, int *differs) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        if (a[i] != b[i]) *differs = 1;
}

// The library proposes at most eight algorithms of the hundreds it has. These tiles, clusters and options of its Hopper kernels, found by
// trying all (dev/gemm_search.cu), are up to 9 % faster at the shapes of a transformer; what does not fit a shape or a GPU is refused by the library. Of a few hundred
// answers' tokens at a time, whose products have few tiles, others: up to 10 %.
static inline int gemm_more_candidates(Gemm *g, GemmPlan *p, cublasLtMatmulAlgo_t *out, int room) {
    static const int large[] = {CUBLASLT_MATMUL_TILE_128x128, CUBLASLT_MATMUL_TILE_128x256, CUBLASLT_MATMUL_TILE_256x128, CUBLASLT_MATMUL_TILE_128x160, CUBLASLT_MATMUL_TILE_160x128, CUBLASLT_MATMUL_TILE_176x128};
    static const int few[] = {CUBLASLT_MATMUL_TILE_64x128, CUBLASLT_MATMUL_TILE_128x64, CUBLASLT_MATMUL_TILE_96x128, CUBLASLT_MATMUL_TILE_112x128, CUBLASLT_MATMUL_TILE_112x256, CUBLASLT_MATMUL_TILE_152x128, CUBLASLT_MATMUL_TILE_224x128};
    static const uint16_t clusters[] = {CUBLASLT_CLUSTER_SHAPE_1x1x1, CUBLASLT_CLUSTER_SHAPE_2x1x1, CUBLASLT_CLUSTER_SHAPE_1x2x1};
    static const int options[] = {0, 1, 2, 3, 4, 7};
    cublasLtMatmulAlgo_t base = p->algorithm;   // keeps the kind and its number of stages
    int n = 0;
    const int *tiles = p->shape.unsplit ? few : large, num_tiles = (int)(p->shape.unsplit ? sizeof few / sizeof *few : sizeof large / sizeof *large);
    for (int i = 0; i < num_tiles; i++)
        for (uint16_t cluster : clusters)
            for (int option : options) {
                cublasLtMatmulAlgo_t a = base;
                cublasLtMatmulHeuristicResult_t r;
                if (n == room || cublasLtMatmulAlgoConfigSetAttribute(&a, CUBLASLT_ALGO_CONFIG_TILE_ID, &tiles[i], sizeof *tiles) != CUBLAS_STATUS_SUCCESS ||
                    cublasLtMatmulAlgoConfigSetAttribute(&a, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &cluster, sizeof cluster) != CUBLAS_STATUS_SUCCESS ||
                    cublasLtMatmulAlgoConfigSetAttribute(&a, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, &option, sizeof option) != CUBLAS_STATUS_SUCCESS) continue;
                if (cublasLtMatmulAlgoCheck(g->handle, p->operation, p->a, p->b, p->d, p->d, &a, &r) == CUBLAS_STATUS_SUCCESS && r.workspaceSize <= g->workspace_bytes) out[n++] = a;
            }
    return n;
}

// Times the candidates of one shape and keeps the fastest that gives the first one's bits; of the thinnest products, bound by bytes, the library's own only, since
// the tiles above are not for them. a, b, c, d, d2: scratch that holds random numbers and is large enough. Appends one line to `notes`. Waits for
// the device: only before training.
//
// Each is timed alone, after a pause. Back to back at the card's power limit would seem closer to training, but there the clock falls with each
// candidate's own power, and a slow, frugal kernel looks fast; in a step the clock is that of the whole mix, and cycles are what counts (measured:
// choosing at the power limit made the step 1.5 % slower than no tuning, choosing by bursts 0.5 % faster; dev/LOG.md).
static inline void gemm_tune(Gemm *g, const GemmShape *s, real *a, real *b, void *c, void *d, void *d2, int *differs, const char *name, char *notes, size_t notes_size, cudaStream_t stream) {
    GemmPlan *p = gemm_plan(g, s);
    if (p->tuned) return;
    cublasLtMatmulHeuristicResult_t proposed[GEMM_PROPOSED];
    cublasLtMatmulAlgo_t tries[GEMM_TRIES];
    float burst[GEMM_TRIES], least = INFINITY;
    int found = gemm_candidates(g, p, proposed, GEMM_PROPOSED), best = 0;
    for (int i = 0; i < found; i++) tries[i] = proposed[i].algo;
    if (!s->inside && (!s->unsplit || (s->n > 128 && s->n <= 512))) found += gemm_more_candidates(g, p, tries + found, GEMM_TRIES - found);
    const int64_t matrices = s->m * s->k % 128 == 0 ? g->tune_weights / (s->m * s->k) : 0;   // beginning at multiples of 256 bytes
    int64_t words = s->ldd * s->n * (s->out_fp32 ? 4 : (int64_t)sizeof(real)) / 4;
    cudaEvent_t begin, end;
    CUDA_CHECK(cudaEventCreate(&begin));
    CUDA_CHECK(cudaEventCreate(&end));
    for (int i = 0; i < found; i++) {
        burst[i] = INFINITY;
        for (int k = 0; k < 4; k++) {   // the first only loads its code
            float ms;
            if (k > 0) usleep(s->unsplit ? TUNE_PAUSE_US / 10 : TUNE_PAUSE_US);   // unsplit: small, and somebody waits for an answer
            CUDA_CHECK(cudaEventRecord(begin, stream));
            gemm_launch(g, p, &tries[i], a + (matrices ? (i * 4 + k) % matrices * (s->m * s->k) : 0), b, s->out_fp32 ? d2 : c, d2, c, stream);
            CUDA_CHECK(cudaEventRecord(end, stream));
            CUDA_CHECK(cudaEventSynchronize(end));
            CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
            if (k > 0 && ms < burst[i]) burst[i] = ms;
            if (k > 0 && ms > 1.15f * least) break;   // it will not be the one: most are not, and a person waits for the first step
        }
        least = burst[i] < least ? burst[i] : least;
    }
    CUDA_CHECK(cudaEventDestroy(begin));
    CUDA_CHECK(cudaEventDestroy(end));
    const float first_ms = burst[0];
    float best_ms = first_ms;
    CUDA_CHECK(cudaMemsetAsync(d, 0, (size_t)words * 4, stream));   // where C is D, as where a gradient is added to, the bits of a first sum are compared
    gemm_launch(g, p, &tries[0], a, b, s->out_fp32 ? d : c, d, c, stream);
    for (;;) {   // the fastest first, until one has the first proposal's bits
        int pick = 0, host = 0;
        for (int i = 1; i < found; i++) if (burst[i] < burst[pick]) pick = i;
        if (pick == 0) break;
        CUDA_CHECK(cudaMemsetAsync(d2, 0, (size_t)words * 4, stream));
        gemm_launch(g, p, &tries[pick], a, b, s->out_fp32 ? d2 : c, d2, c, stream);
        CUDA_CHECK(cudaMemsetAsync(differs, 0, sizeof(int), stream));
        gemm_differs_kernel<<<1024, 256, 0, stream>>>((const uint32_t *)d, (const uint32_t *)d2, words, differs);
        CUDA_CHECK(cudaMemcpyAsync(&host, differs, sizeof host, cudaMemcpyDeviceToHost, stream));
        CUDA_CHECK(cudaStreamSynchronize(stream));
        if (!host) { best = pick; best_ms = burst[pick]; break; }
        burst[pick] = INFINITY;
    }
    p->algorithm = tries[best];
    p->tuned = true;
    int tile = 0, option = 0;
    uint16_t cluster = 0;
    cublasLtMatmulAlgoConfigGetAttribute(&p->algorithm, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, &option, sizeof option, NULL);
    cublasLtMatmulAlgoConfigGetAttribute(&p->algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &cluster, sizeof cluster, NULL);
    cublasLtMatmulAlgoConfigGetAttribute(&p->algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile, sizeof tile, NULL);
    size_t used = strlen(notes);
    snprintf(notes + used, notes_size - used, "gemm %-22s %7lld x %7lld x %7lld  %8.3f ms %5.0f TFLOP/s  number %2d of %2d, tile %d cluster %d option %d, %.1f %% faster than the first\n", name, (long long)s->m,
                     (long long)s->n, (long long)s->k, best_ms, 2e-9 * (double)s->m * (double)s->n * (double)s->k / best_ms, best, found, tile, cluster, option, 100 * (first_ms / best_ms - 1));
}
#endif
