// operations.c of dev/emulate.sh: the first half of train_findap.c, its operations, for kernels.cuh
#include "findap/common.h"
#include "findap/config.h"
#include "findap/model.h"
#ifdef _OPENMP
#include <omp.h>
#endif
#include "operations.inc"   // cut out of train_findap.c by dev/emulate.sh
void cpu_gemm(int64_t M, int64_t N, int64_t K, const float *a, int64_t a_i, int64_t a_k, const float *b, int64_t b_k, int64_t b_j, float *c, int64_t ldc) { gemm(M, N, K, a, a_i, a_k, b, b_k, b_j, c, ldc, false); }
void cpu_rmsnorm_forward(float *y, float *rstd, const float *x, const float *w, int64_t N, int64_t C, float eps) { rmsnorm_forward(y, rstd, x, w, N, C, eps); }
void cpu_rmsnorm_backward(float *dx, float *dw, const float *dy, const float *x, const float *rstd, const float *w, int64_t N, int64_t C) { rmsnorm_backward(dx, dw, dy, x, rstd, w, N, C); }
void cpu_rope(float *qkv, const float *t, const int32_t *p, float sign, int64_t N, int64_t NH, int64_t NKV, int64_t HD) { rope(qkv, t, p, sign, N, NH, NKV, HD); }
static int64_t max_threads(void) {
    #ifdef _OPENMP
    return omp_get_max_threads();
    #else
    return 1;
    #endif
}
// documents and branches as AttentionPlan has them: a token's first key, the first that is hidden from it and the first that no longer is
static Span *spans(const int32_t *start, const int32_t *hole_begin, const int32_t *hole_end, int64_t B, int64_t T, int64_t *n) {
    Span *s = (Span *)xcalloc(B * T, sizeof(Span)); *n = 0;
    for (int64_t i = 0; i < B * T; i++) {
        const bool branch = hole_end[i] != start[i];
        if (hole_end[i] == i % T) { s[*n].begin = i; s[*n].document = i - i % T + start[i]; s[*n].prefix = branch ? hole_begin[i] - start[i] : 0; ++*n; }
        s[*n - 1].end = i + 1;
    }
    return s;
}
void cpu_attention_forward(float *out, float *lse, const float *qkv, const int32_t *start, const int32_t *hole_begin, const int32_t *hole_end, int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD) {
    int64_t n; Span *s = spans(start, hole_begin, hole_end, B, T, &n); float *scores = (float *)xcalloc(T * max_threads(), sizeof(float));
    attention_forward(out, lse, scores, qkv, s, n, T, NH, NKV, HD); free(s); free(scores);
}
void cpu_attention_backward(float *dqkv, const float *dout, const float *out, const float *lse, const float *qkv, const int32_t *start, const int32_t *hole_begin, const int32_t *hole_end, int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD) {
    int64_t n; Span *s = spans(start, hole_begin, hole_end, B, T, &n); float *scores = (float *)xcalloc(T * max_threads(), sizeof(float));
    attention_backward(dqkv, scores, dout, out, lse, qkv, s, n, B * T, T, NH, NKV, HD); free(s); free(scores);
}
void cpu_swiglu_forward(float *y, const float *g, int64_t N, int64_t F) { swiglu_forward(y, g, N, F); }
void cpu_swiglu_backward(float *d, const float *dy, const float *g, int64_t N, int64_t F) { swiglu_backward(d, dy, g, N, F); }
void cpu_cross_entropy(float *logp, float *logits, const int32_t *t, const float *coef, int64_t n, int64_t V) { cross_entropy(logp, logits, t, coef, n, V); }
double cpu_sum_of_squares(const float *x, int64_t n) { return sum_of_squares(x, n); }
