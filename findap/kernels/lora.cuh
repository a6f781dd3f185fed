// lora.cuh: the thin matrix products of LoRA's adapters (Hu et al. 2021): y (N, O) = x W^T + s (x A^T) B^T, A (R, K), B (O, R), R some tens.
//
// Nothing here costs arithmetic (6 R (K + O) a token, against 4 K O of the frozen matrix): all of it is bound by bytes, those of y, dy, x and dx. So:
// - Projections that read the same x, a site, have their A side by side: one product gives the xa = s x A^T of all n of them, (N, n*R), and x is read once
//   for it. s is the product's own factor, there and in dxa = s dy B: nothing else has to know it, dB = dy^T xa and dA = dxa^T x.
// - xa B^T is written into y, and dxa A into dx, BEFORE the frozen matrix's product, which adds it as its C operand. Added behind it, y would be
//   read once more by a kernel that only waits for memory; the large GEMM reads it under its arithmetic. What is rounded in between is the small term.
// - Where y is added to a residual, that is this product's C operand, and the sum the large one's.
// - Up to 48 columns side by side are the business of kernels of our own (lora_thin.cuh), which read dy once for both dxa and dB; more, and fp32, of cuBLASLt.
// What is left, a layer and token, in numbers: x read twice (xa, dA), dy once, y and dx written and read; that is, of Llama-3-8B with all
// seven targets, about 0.35 ms for 4,096 tokens at an H200's 4.2 TB/s, beside some 6 ms of everything else.
// Gradients are fp32 sums. All operands begin at multiples of 16 bytes, since R is a multiple of 8.
#ifndef FINDAP_KERNELS_LORA_CUH
#define FINDAP_KERNELS_LORA_CUH
#include "matmul.cuh"      // defines: Gemm, GemmShape, gemm_shape, gemm_run
#include "lora_thin.cuh"   // defines: LoraSide, thin_possible, thin_a_*, thin_b_*

// xa and dxa (N, R) have rows nR apart, y and dy (N, O) rows ldy apart; x and dx are (N, K), a is (nR, K), b (O, R)
static inline GemmShape lora_shape(GemmShape s, float scale) { s.inside = true; s.scale = scale; return s; }
static inline GemmShape lora_shape_xa(int64_t N, int64_t K, int64_t nR, float scale) { return lora_shape(shape_forward(N, K, nR, nR, false, false), scale); }
static inline GemmShape lora_shape_y(int64_t N, int64_t R, int64_t nR, int64_t O, int64_t ldy, bool residual) { return lora_shape(gemm_shape(O, N, R, R, nR, ldy, true, false, residual, false, false), 1.0f); }
static inline GemmShape lora_shape_dxa(int64_t N, int64_t R, int64_t nR, int64_t O, int64_t ldy, float scale) { return lora_shape(gemm_shape(R, N, O, R, ldy, nR, false, false, false, false, false), scale); }
static inline GemmShape lora_shape_db(int64_t N, int64_t R, int64_t nR, int64_t O, int64_t ldy, bool add) { return lora_shape(gemm_shape(R, O, N, nR, ldy, R, false, true, add, false, true), 1.0f); }
static inline GemmShape lora_shape_dx(int64_t N, int64_t K, int64_t nR) { return lora_shape(shape_dinput(N, K, nR, nR, false), 1.0f); }
static inline GemmShape lora_shape_da(int64_t N, int64_t K, int64_t nR, bool add) { return lora_shape(shape_dweight(N, K, nR, nR, add), 1.0f); }

// xa (N, nR) = scale x a^T, kept for the backward pass
static inline void lora_a_forward(Gemm *g, real *xa, const real *x, const real *a, float scale, int64_t N, int64_t K, int64_t nR, cudaStream_t stream) {
    if (thin_possible(nR)) thin_a_forward(g->workspace, g->workspace_bytes, xa, x, a, scale, N, K, nR, stream);
    else gemm_run(g, lora_shape_xa(N, K, nR, scale), a, x, NULL, xa, NULL, stream);
}
// y = xa b^T [+ residual, laid out like y], of the columns of n sides
static inline void lora_b_forward(Gemm *g, real *y, int64_t ldy, const real *xa, const LoraSide *side, int n, const real *residual, int64_t N, int64_t R, cudaStream_t stream) {
    if (thin_possible(R)) thin_b_forward(y, ldy, xa, side, n, residual, N, R, stream);
    else for (int i = 0; i < n; i++) gemm_run(g, lora_shape_y(N, R, n * R, side[i].O, ldy, residual != NULL), side[i].b, xa + i * R, residual, y + side[i].column, NULL, stream);
}
// dxa (N, n*R) = scale dy b, and db (O, R) fp32 = or += dy^T xa
static inline void lora_b_backward(Gemm *g, real *dxa, const real *dy, int64_t ldy, const real *xa, const LoraSide *side, int n, float scale, bool add, int64_t N, int64_t R, cudaStream_t stream) {
    if (thin_possible(R)) thin_b_backward(g->workspace, g->workspace_bytes, dxa, dy, ldy, xa, side, n, scale, add, N, R, stream);
    else for (int i = 0; i < n; i++) {
        gemm_run(g, lora_shape_dxa(N, R, n * R, side[i].O, ldy, scale), side[i].b, dy + side[i].column, NULL, dxa + i * R, NULL, stream);
        gemm_run(g, lora_shape_db(N, R, n * R, side[i].O, ldy, add), xa + i * R, dy + side[i].column, side[i].db, side[i].db, NULL, stream);
    }
}
// dx (N, K) = dxa a
static inline void lora_a_backward_input(Gemm *g, real *dx, const real *dxa, const real *a, int64_t N, int64_t K, int64_t nR, cudaStream_t stream) {
    if (thin_possible(nR)) thin_a_backward_input(dx, dxa, a, N, K, nR, stream);
    else gemm_run(g, lora_shape_dx(N, K, nR), a, dxa, NULL, dx, NULL, stream);
}
// da (nR, K) fp32 = or += dxa^T x
static inline void lora_a_backward_weight(Gemm *g, float *da, const real *dxa, const real *x, bool add, int64_t N, int64_t K, int64_t nR, cudaStream_t stream) {
    if (thin_possible(nR)) thin_a_backward_weight(g->workspace, g->workspace_bytes, da, dxa, x, add, N, K, nR, stream);
    else gemm_run(g, lora_shape_da(N, K, nR, add), x, dxa, da, da, NULL, stream);
}
#endif
