// train_findap.c: the reference. The whole of a Llama / Qwen2.5 transformer - forward, backward, AdamW - in plain C,
// fp32, to be read from top to bottom; train_findap.cu holds the same functions, under the same names, for the GPU.
//
// It is also a working trainer for small models and for machines without a GPU: `train_findap_cpu --help`.
//
// How to read it. Every operation is a pair, x_forward and x_backward, over plain float arrays whose shapes stand in the
// comments. A backward function is given the gradient of its output and adds to (+=) or sets (=) the gradients of its
// inputs, as its comment says; gradients of weights are always added, so that micro-batches accumulate. Then the model:
// tables of tensors and activations, forward, head, backward, update. One-letter dimensions, everywhere in the house:
//
//     B   rows in a micro-batch            C   hidden size, the width of the residual stream
//     T   tokens in a row                  L   layers
//     N   B*T, all places in the batch     NH  query heads;  NKV  key/value heads (NH is a multiple of NKV)
//     V   vocabulary                       HD  numbers in a head
//     F   width of the feed-forward        W   (NH + 2*NKV) * HD, the width of q, k and v side by side
//     R   LoRA's rank
//
// Two rules run through the file:
// - Documents. A row holds several documents; position 0 begins a new one. Attention is causal inside a document and
//   never leaves it, so a packed row gives what its documents give alone. A position that is neither 0 nor one more than the
//   one before begins a branch: another continuation of the document's first `position` tokens (see attention).
// - Determinism. Every sum has one order, whatever the number of threads: threads share out outputs, never summands.
//   The same command gives the same bits twice.

#include "findap/common.h"     // defines: Error, fail, die, xmalloc, xcalloc, random_normal, CHECK, FN
#include "findap/config.h"     // defines: Config, config_rope_inv_freq
#include "findap/model.h"      // defines: Model (declared), Batch, Tensor, TensorKind, AdamW, StepResult, Lora, lora_*
#ifdef _OPENMP
#include <omp.h>               // defines: omp_get_max_threads (through train.h's banner)
#endif

// ---------------------------------------------------------------------------------------------------------------------
// matrix multiplication
//
// All but a few per cent of the time is spent here, so this one operation is blocked for the caches and the registers:
//   C tile of TILE_M x TILE_N     one thread's piece of work, the same sums in the same order whoever does it
//   TILE_K values of k at a time  both operands of the tile are copied ("packed") into a small buffer that stays in L2,
//                                 in the very order in which the innermost loop reads them
//   MR x NR numbers of C          are held in registers while k runs; each step of k does MR*NR multiply-adds on MR+NR loads
// VL is the number of floats in a vector register; MR and NR are chosen so that accumulators and operands just fit the
// register file (32 registers with AVX-512, 16 with AVX2). Packing pads with zeros, so ragged edges need no other kernel.

#if defined(__AVX512F__)
enum { VL = 16, MR = 12 };
#elif defined(__AVX__)
enum { VL = 8, MR = 6 };
#else
enum { VL = 4, MR = 6 };
#endif
enum { NR = 2 * VL, TILE_M = 8 * MR, TILE_N = 8 * NR, TILE_K = 256 };

typedef float vec __attribute__((vector_size(VL * sizeof(float))));
typedef float vec_unaligned __attribute__((vector_size(VL * sizeof(float)), aligned(4)));

// c (MR, NR) = [c +] a (K, MR)^T b (K, NR), a and b packed; ldc: row stride of c
static inline void micro_kernel(int64_t K, const float *a, const float *b, float *c, int64_t ldc, bool add) {
    vec sum[MR][2] = {{{0}}};
    for (int64_t k = 0; k < K; k++) {
        vec b0 = *(const vec *)(b + k * NR), b1 = *(const vec *)(b + k * NR + VL);
        #pragma GCC unroll 12
        for (int i = 0; i < MR; i++) {
            float ai = a[k * MR + i];
            sum[i][0] += ai * b0;
            sum[i][1] += ai * b1;
        }
    }
    #pragma GCC unroll 12
    for (int i = 0; i < MR; i++) {
        vec_unaligned *row = (vec_unaligned *)(c + i * ldc);
        row[0] = add ? row[0] + sum[i][0] : sum[i][0];
        row[1] = add ? row[1] + sum[i][1] : sum[i][1];
    }
}

// copies x(i, k), i < n, k < K, into panels of `width` values of i, k-major inside a panel, zeros beyond n
static void pack(float *out, const float *x, int64_t stride_i, int64_t stride_k, int64_t n, int64_t K, int width) {
    for (int64_t panel = 0; panel < n; panel += width, out += K * width) {
        int64_t m = n - panel < width ? n - panel : width;
        const float *p = x + panel * stride_i;
        if (stride_i == 1 && m == width) {
            for (int64_t k = 0; k < K; k++) memcpy(out + k * width, p + k * stride_k, (size_t)width * sizeof(float));
            continue;
        }
        for (int64_t i = 0; i < width; i++)
            for (int64_t k = 0; k < K; k++) out[k * width + i] = i < m ? p[i * stride_i + k * stride_k] : 0.0f;
    }
}

// c(i, j) = [c(i, j) +] sum over k of a(i, k) b(k, j), i < M, j < N, k < K.
// Element (i, k) of a lies at a[i*a_i + k*a_k], (k, j) of b at b[k*b_k + j*b_j]: a transposed operand costs only its packing.
static void gemm(int64_t M, int64_t N, int64_t K, const float *a, int64_t a_i, int64_t a_k, const float *b, int64_t b_k, int64_t b_j,
                 float *c, int64_t ldc, bool add) {
    int64_t tiles_m = (M + TILE_M - 1) / TILE_M, tiles_n = (N + TILE_N - 1) / TILE_N;
    #pragma omp parallel
    {
        float pa[TILE_M * TILE_K] __attribute__((aligned(64))), pb[TILE_N * TILE_K] __attribute__((aligned(64)));
        #pragma omp for collapse(2) schedule(dynamic)
        for (int64_t tn = 0; tn < tiles_n; tn++) {
            for (int64_t tm = 0; tm < tiles_m; tm++) {
                int64_t i0 = tm * TILE_M, j0 = tn * TILE_N;
                int64_t m = M - i0 < TILE_M ? M - i0 : TILE_M, n = N - j0 < TILE_N ? N - j0 : TILE_N;
                for (int64_t k0 = 0; k0 < K; k0 += TILE_K) {
                    int64_t kk = K - k0 < TILE_K ? K - k0 : TILE_K;
                    bool add_here = add || k0 > 0;
                    pack(pa, a + i0 * a_i + k0 * a_k, a_i, a_k, m, kk, MR);
                    pack(pb, b + k0 * b_k + j0 * b_j, b_j, b_k, n, kk, NR);
                    for (int64_t j = 0; j < n; j += NR) {
                        for (int64_t i = 0; i < m; i += MR) {
                            float *to = c + (i0 + i) * ldc + j0 + j;
                            if (i + MR <= m && j + NR <= n) { micro_kernel(kk, pa + i * kk, pb + j * kk, to, ldc, add_here); continue; }
                            float edge[MR * NR];   // a ragged corner: through a buffer, only what exists is copied
                            micro_kernel(kk, pa + i * kk, pb + j * kk, edge, NR, false);
                            for (int64_t y = 0; y < MR && i + y < m; y++)
                                for (int64_t x = 0; x < NR && j + x < n; x++)
                                    to[y * ldc + x] = add_here ? to[y * ldc + x] + edge[y * NR + x] : edge[y * NR + x];
                        }
                    }
                }
            }
        }
    }
}

// y (N, O) = x (N, K) w^T + bias; w (O, K) as in Hugging Face's nn.Linear; bias (O) or NULL
static void matmul_forward(float *y, const float *x, const float *w, const float *bias, int64_t N, int64_t K, int64_t O) {
    gemm(N, O, K, x, K, 1, w, 1, K, y, O, false);
    if (!bias) return;
    #pragma omp parallel for
    for (int64_t n = 0; n < N; n++)
        for (int64_t o = 0; o < O; o++) y[n * O + o] += bias[o];
}

// dx (N, K) = dy (N, O) w;   dw (O, K) += dy^T x   [dw NULL: w is frozen];   dbias (O) += sum over n of dy   [NULL: no bias, or frozen]
static void matmul_backward(float *dx, float *dw, float *dbias, const float *dy, const float *x, const float *w, int64_t N, int64_t K, int64_t O) {
    gemm(N, K, O, dy, O, 1, w, K, 1, dx, K, false);
    if (dw) gemm(O, K, N, dy, 1, O, x, K, 1, dw, K, true);
    if (!dbias) return;
    #pragma omp parallel for schedule(static, 64)
    for (int64_t o = 0; o < O; o++) {
        float sum = 0;
        for (int64_t n = 0; n < N; n++) sum += dy[n * O + o];
        dbias[o] += sum;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// LoRA (Hu et al. 2021): y += s (x A^T) B^T beside a frozen y = x W^T. Projections that read the same x (q, k, v; gate, up) have
// their A side by side in memory, so one matmul makes x A^T of them all: n of rank R, xa (N, n*R). Each B then adds to the columns of
// its own projection in y, whose rows are ldy apart. s is multiplied into xa, (N, n*R) numbers, and not into anything wider.

static void scale_numbers(float *x, float s, int64_t n) {
    #pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++) x[i] *= s;
}
// xa (N, nR) = s x (N, K) a^T, kept for the backward pass; a (nR, K)
static void lora_a_forward(float *xa, const float *x, const float *a, float s, int64_t N, int64_t K, int64_t nR) {
    gemm(N, nR, K, x, K, 1, a, 1, K, xa, nR, false);
    scale_numbers(xa, s, N * nR);
}
// y (N, O), rows ldy apart, += xa (N, R), rows nR apart, b^T; b (O, R)
static void lora_b_forward(float *y, int64_t ldy, const float *xa, int64_t nR, const float *b, int64_t N, int64_t R, int64_t O) {
    gemm(N, O, R, xa, nR, 1, b, 1, R, y, ldy, true);
}
// dxa (N, R), rows nR apart, = dy b;   db (O, R) += dy^T xa
static void lora_b_backward(float *dxa, float *db, const float *dy, int64_t ldy, const float *xa, int64_t nR, const float *b, int64_t N, int64_t R, int64_t O) {
    gemm(N, R, O, dy, ldy, 1, b, R, 1, dxa, nR, false);
    gemm(O, R, N, dy, 1, ldy, xa, nR, 1, db, R, true);
}
// dx (N, K) += s dxa (N, nR) a;   da (nR, K) += s dxa^T x;   dxa is scaled in place
static void lora_a_backward(float *dx, float *da, float *dxa, const float *x, const float *a, float s, int64_t N, int64_t K, int64_t nR) {
    scale_numbers(dxa, s, N * nR);
    gemm(N, K, nR, dxa, nR, 1, a, K, 1, dx, K, true);
    gemm(nR, K, N, dxa, 1, nR, x, K, 1, da, K, true);
}

// ---------------------------------------------------------------------------------------------------------------------
// exp for loops that are to be vectorised (a call of expf is not): x = n ln 2 + r, exp x = 2^n exp r, a polynomial for
// |r| <= ln(2)/2. Within 2 units in the last place of expf for -87 <= x <= 88, clamped beyond; NaN stays NaN.
static inline float fast_exp(float x) {
    union { float f; uint32_t u; } shift, power;
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    shift.f = x * 1.44269504f + 12582912.0f;              // 1.5 * 2^23: rounds to an integer and leaves it in the low bits
    float n = shift.f - 12582912.0f;
    float r = x - n * 0.693359375f - n * -2.12194440e-4f; // ln 2 in two parts, so that n * high is exact
    float p = 1.98756915e-4f;                             // the minimax polynomial of Cephes' expf
    p = p * r + 1.39819995e-3f; p = p * r + 8.33345191e-3f; p = p * r + 4.16657959e-2f; p = p * r + 1.66666655e-1f; p = p * r + 5.00000012e-1f;
    p = 1.0f + r + r * r * p;
    power.u = (shift.u + 127u) << 23;                     // 2^n
    return p * power.f;
}

// ---------------------------------------------------------------------------------------------------------------------
// token embedding

// x (N, C) = rows of table (V, C)
static void embedding_forward(float *x, const float *table, const int32_t *tokens, int64_t N, int64_t C) {
    #pragma omp parallel for
    for (int64_t n = 0; n < N; n++) memcpy(x + n * C, table + tokens[n] * C, (size_t)C * sizeof(float));
}

// dtable (V, C) += dx (N, C), row by token. Threads share out channels, not tokens: a token may come twice.
static void embedding_backward(float *dtable, const float *dx, const int32_t *tokens, int64_t N, int64_t C) {
    #pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < (C + 15) / 16; block++)
        for (int64_t n = 0; n < N; n++)
            for (int64_t c = block * 16; c < C && c < block * 16 + 16; c++) dtable[tokens[n] * C + c] += dx[n * C + c];
}

// ---------------------------------------------------------------------------------------------------------------------
// RMSNorm (Zhang & Sennrich 2019), in Hugging Face's order: the normalised value first, then the weight

// y (N, C) = weight * x * rstd, rstd (N) = 1 / sqrt(mean of x^2 + eps); rstd is kept for the backward pass
static void rmsnorm_forward(float *y, float *rstd, const float *x, const float *weight, int64_t N, int64_t C, float eps) {
    #pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        const float *xn = x + n * C;
        float sum = 0;
        #pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < C; c++) sum += xn[c] * xn[c];
        float r = 1.0f / sqrtf(sum / (float)C + eps);
        rstd[n] = r;
        for (int64_t c = 0; c < C; c++) y[n * C + c] = weight[c] * (xn[c] * r);
    }
}

// dx (N, C) += gradient through the norm (the residual path already put its share there);  dweight (C) +=   [NULL: frozen]
// with h = weight * dy:  dx = rstd * h - x * rstd^3 * mean(h * x)
static void rmsnorm_backward(float *dx, float *dweight, const float *dy, const float *x, const float *rstd, const float *weight, int64_t N, int64_t C) {
    #pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        const float *xn = x + n * C, *dyn = dy + n * C;
        float dot = 0, r = rstd[n];
        #pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < C; c++) dot += weight[c] * dyn[c] * xn[c];
        float k = dot * r * r * r / (float)C;
        for (int64_t c = 0; c < C; c++) dx[n * C + c] += r * weight[c] * dyn[c] - k * xn[c];
    }
    if (!dweight) return;
    #pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < (C + 15) / 16; block++)
        for (int64_t n = 0; n < N; n++)
            for (int64_t c = block * 16; c < C && c < block * 16 + 16; c++) dweight[c] += dy[n * C + c] * (x[n * C + c] * rstd[n]);
}

// ---------------------------------------------------------------------------------------------------------------------
// rotary position embedding (Su et al. 2021) in Hugging Face's half-split form: numbers j and j + HD/2 of a head are a
// pair that is turned by position * inv_freq[j]. In place on the q and k parts of qkv (N, W). The backward pass is the
// rotation by the opposite angle (sign -1), since a rotation's transpose is its inverse.
// table (positions, HD/2, 2): cosine and sine, fp32

static void rope(float *qkv, const float *table, const int32_t *positions, float sign, int64_t N, int64_t NH, int64_t NKV, int64_t HD) {
    int64_t W = (NH + 2 * NKV) * HD, half = HD / 2;
    #pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        const float *cs = table + positions[n] * HD;
        for (int64_t h = 0; h < NH + NKV; h++) {   // the query heads, then the key heads behind them; v is not turned
            float *x = qkv + n * W + h * HD;
            for (int64_t j = 0; j < half; j++) {
                float co = cs[2 * j], si = sign * cs[2 * j + 1], a = x[j], b = x[j + half];
                x[j] = a * co - b * si;
                x[j + half] = b * co + a * si;
            }
        }
    }
}
static void rope_forward(float *qkv, const float *table, const int32_t *positions, int64_t N, int64_t NH, int64_t NKV, int64_t HD) {
    rope(qkv, table, positions, 1.0f, N, NH, NKV, HD);
}
static void rope_backward(float *dqkv, const float *table, const int32_t *positions, int64_t N, int64_t NH, int64_t NKV, int64_t HD) {
    rope(dqkv, table, positions, -1.0f, N, NH, NKV, HD);
}

// ---------------------------------------------------------------------------------------------------------------------
// attention: causal, inside documents, grouped queries (query head h reads key/value head h / (NH/NKV))
//
// Documents and key/value heads are independent of each other, so one (document, key/value head) is one thread's work:
// everything that is summed into dk and dv then happens in one thread, in one order. Nothing of size T x T is stored: the
// forward pass keeps the log of each softmax's denominator (lse), from which the backward pass recomputes probabilities.
//
// Branches: two answers to one prompt need the prompt only once. A branch stands behind its document in the row and sees the
// document's first `prefix` tokens, then itself; it sees no other branch, nor the rest of the document, and nothing sees it. A document
// with its branches is one unit of work, since all of them add to the prefix's dk and dv.

// places [begin, end) of the batch: a document (prefix 0, document = begin), or a branch of the one that begins at `document`
typedef struct { int64_t begin, end, document, prefix; } Span;

// the place of the i-th key that a span's tokens see
static inline int64_t key_place(const Span *span, int64_t i) { return i < span->prefix ? span->document + i : span->begin + i - span->prefix; }

static inline float dot_product(const float *a, const float *b, int64_t n) {
    float sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}
static inline void add_scaled(float *y, const float *x, float s, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += s * x[i];
}

static inline float *thread_scratch(float *scores, int64_t T) {   // this thread's T floats
    #ifdef _OPENMP
    return scores + omp_get_thread_num() * T;
    #else
    (void)T;
    return scores;
    #endif
}

// out (N, NH*HD), lse (N, NH) from qkv (N, W); `scores` is scratch: T floats for each thread
static void attention_forward(float *out, float *lse, float *scores, const float *qkv, const Span *documents, int64_t num_documents,
                              int64_t T, int64_t NH, int64_t NKV, int64_t HD) {
    int64_t W = (NH + 2 * NKV) * HD, group = NH / NKV;
    float scale = 1.0f / sqrtf((float)HD);
    #pragma omp parallel for collapse(2) schedule(dynamic)
    for (int64_t d = 0; d < num_documents; d++) {
        for (int64_t g = 0; g < NKV; g++) {
            Span span = documents[d];
            const float *k = qkv + (NH + g) * HD, *v = qkv + (NH + NKV + g) * HD;
            float *p = thread_scratch(scores, T);
            for (int64_t h = g * group; h < (g + 1) * group; h++) {
                for (int64_t t = span.begin; t < span.end; t++) {
                    const float *q = qkv + t * W + h * HD;
                    int64_t n = span.prefix + t - span.begin + 1;   // keys that t sees: the shared ones, then from its span's first token to itself
                    float maximum = -INFINITY, sum = 0;
                    for (int64_t s = 0; s < n; s++) {
                        p[s] = scale * dot_product(q, k + key_place(&span, s) * W, HD);
                        maximum = p[s] > maximum ? p[s] : maximum;
                    }
                    #pragma omp simd reduction(+ : sum)
                    for (int64_t s = 0; s < n; s++) { p[s] = fast_exp(p[s] - maximum); sum += p[s]; }
                    float *o = out + t * NH * HD + h * HD;
                    memset(o, 0, (size_t)HD * sizeof(float));
                    for (int64_t s = 0; s < n; s++) add_scaled(o, v + key_place(&span, s) * W, p[s] / sum, HD);
                    lse[t * NH + h] = maximum + logf(sum);
                }
            }
        }
    }
}

// Attention of a token to keys and values in pages (generation): keys, values (pages, NKV, PAGE_TOKENS, HD), table: the pages of its sequence.
static inline int64_t page_place(const int32_t *table, int64_t s, int64_t g, int64_t NKV, int64_t HD) {
    return ((table[s / PAGE_TOKENS] * NKV + g) * PAGE_TOKENS + s % PAGE_TOKENS) * HD;
}
// The sums are attention_forward's, in its order. First all tokens' keys and values go to their pages, since a token may need those of another of the same call.
static void attention_paged_forward(float *out, float *keys, float *values, float *scores, const float *qkv, const Call *c, int64_t T, int64_t NH, int64_t NKV, int64_t HD) {
    int64_t W = (NH + 2 * NKV) * HD, group = NH / NKV;
    float scale = 1.0f / sqrtf((float)HD);
    #pragma omp parallel for
    for (int64_t n = 0; n < c->N; n++) {
        for (int64_t g = 0; g < NKV; g++) {
            int64_t at = page_place(c->pages + c->sequence[n] * c->width, c->positions[n], g, NKV, HD);
            memcpy(keys + at, qkv + n * W + (NH + g) * HD, (size_t)HD * sizeof(float));
            memcpy(values + at, qkv + n * W + (NH + NKV + g) * HD, (size_t)HD * sizeof(float));
        }
    }
    #pragma omp parallel for collapse(2) schedule(dynamic)
    for (int64_t n = 0; n < c->N; n++) {
        for (int64_t h = 0; h < NH; h++) {
            const int32_t *table = c->pages + c->sequence[n] * c->width;
            const float *q = qkv + n * W + h * HD;
            int64_t seen = c->positions[n] + 1, g = h / group;
            float *p = thread_scratch(scores, T), *o = out + n * NH * HD + h * HD, maximum = -INFINITY, sum = 0;
            for (int64_t s = 0; s < seen; s++) {
                p[s] = scale * dot_product(q, keys + page_place(table, s, g, NKV, HD), HD);
                maximum = p[s] > maximum ? p[s] : maximum;
            }
            #pragma omp simd reduction(+ : sum)
            for (int64_t s = 0; s < seen; s++) { p[s] = fast_exp(p[s] - maximum); sum += p[s]; }
            memset(o, 0, (size_t)HD * sizeof(float));
            for (int64_t s = 0; s < seen; s++) add_scaled(o, values + page_place(table, s, g, NKV, HD), p[s] / sum, HD);
        }
    }
}

// dqkv (N, W) = gradient of q, k and v, from dout (N, NH*HD). With p = softmax(scores), D = dout . out:
//   dv_s += p_s dout;   dscore_s = p_s (dout . v_s - D);   dq += scale dscore_s k_s;   dk_s += scale dscore_s q
static void attention_backward(float *dqkv, float *scores, const float *dout, const float *out, const float *lse, const float *qkv,
                               const Span *documents, int64_t num_documents, int64_t N, int64_t T, int64_t NH, int64_t NKV, int64_t HD) {
    int64_t W = (NH + 2 * NKV) * HD, group = NH / NKV;
    float scale = 1.0f / sqrtf((float)HD);
    memset(dqkv, 0, (size_t)(N * W) * sizeof(float));
    #pragma omp parallel for collapse(2) schedule(dynamic)
    for (int64_t d = 0; d < num_documents; d++) {
        for (int64_t g = 0; g < NKV; g++) {
            if (documents[d].begin != documents[d].document) continue;   // a branch: done with its document
            const float *k = qkv + (NH + g) * HD, *v = qkv + (NH + NKV + g) * HD;
            float *dk = dqkv + (NH + g) * HD, *dv = dqkv + (NH + NKV + g) * HD;
            float *p = thread_scratch(scores, T);
            for (int64_t h = g * group; h < (g + 1) * group; h++) {
                for (int64_t b = d; b < num_documents && documents[b].document == documents[d].begin; b++) {
                    Span span = documents[b];
                    for (int64_t t = span.begin; t < span.end; t++) {
                        const float *q = qkv + t * W + h * HD, *dO = dout + t * NH * HD + h * HD;
                        float *dq = dqkv + t * W + h * HD;
                        float D = dot_product(dO, out + t * NH * HD + h * HD, HD), l = lse[t * NH + h];
                        int64_t n = span.prefix + t - span.begin + 1;
                        for (int64_t s = 0; s < n; s++) p[s] = scale * dot_product(q, k + key_place(&span, s) * W, HD) - l;
                        #pragma omp simd
                        for (int64_t s = 0; s < n; s++) p[s] = fast_exp(p[s]);
                        for (int64_t s = 0; s < n; s++) {
                            int64_t at = key_place(&span, s) * W;
                            float ds = scale * p[s] * (dot_product(dO, v + at, HD) - D);
                            add_scaled(dv + at, dO, p[s], HD);
                            add_scaled(dq, k + at, ds, HD);
                            add_scaled(dk + at, q, ds, HD);
                        }
                    }
                }
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// SwiGLU (Shazeer 2020): silu(gate) * up, gate and up side by side as one matmul leaves them

// y (N, F) from gate_up (N, 2F)
static void swiglu_forward(float *y, const float *gate_up, int64_t N, int64_t F) {
    #pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        const float *gate = gate_up + n * 2 * F, *up = gate + F;
        #pragma omp simd
        for (int64_t f = 0; f < F; f++) y[n * F + f] = gate[f] / (1.0f + fast_exp(-gate[f])) * up[f];
    }
}

// dgate_up (N, 2F) = from dy (N, F);  silu'(g) = s (1 + g (1 - s)), s = sigmoid(g)
static void swiglu_backward(float *dgate_up, const float *dy, const float *gate_up, int64_t N, int64_t F) {
    #pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        const float *gate = gate_up + n * 2 * F, *up = gate + F, *d = dy + n * F;
        float *dgate = dgate_up + n * 2 * F, *dup = dgate + F;
        #pragma omp simd
        for (int64_t f = 0; f < F; f++) {
            float s = 1.0f / (1.0f + fast_exp(-gate[f]));
            dgate[f] = d[f] * up[f] * s * (1.0f + gate[f] * (1.0f - s));
            dup[f] = d[f] * gate[f] * s;
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// residual connection

static void residual_forward(float *y, const float *x, const float *branch, int64_t n) {   // y = x + branch
    #pragma omp parallel for
    for (int64_t i = 0; i < n; i++) y[i] = x[i] + branch[i];
}

// ---------------------------------------------------------------------------------------------------------------------
// cross-entropy: log-probabilities of the targets and the gradient of the logits, in place

// logp (n) = log softmax(logits)[target]. With coef (n) = dL/dlogp, logits (n, V) become dL/dlogits = coef (onehot - softmax).
static void cross_entropy(float *logp, float *logits, const int32_t *targets, const float *coef, int64_t n, int64_t V) {
    #pragma omp parallel for
    for (int64_t i = 0; i < n; i++) {
        float *x = logits + i * V;
        float maximum = -INFINITY, sum = 0;
        #pragma omp simd reduction(max : maximum)
        for (int64_t v = 0; v < V; v++) maximum = x[v] > maximum ? x[v] : maximum;
        float at_target = x[targets[i]];
        if (!coef) {
            #pragma omp simd reduction(+ : sum)
            for (int64_t v = 0; v < V; v++) sum += fast_exp(x[v] - maximum);
        } else {
            #pragma omp simd reduction(+ : sum)
            for (int64_t v = 0; v < V; v++) { x[v] = fast_exp(x[v] - maximum); sum += x[v]; }
            float k = -coef[i] / sum;
            #pragma omp simd
            for (int64_t v = 0; v < V; v++) x[v] *= k;
            x[targets[i]] += coef[i];
        }
        logp[i] = at_target - maximum - logf(sum);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// the optimizer

// sum of squares in double, in blocks whose sums are added in order: the same bits for any number of threads
static double sum_of_squares(const float *x, int64_t n) {
    enum { BLOCK = 1 << 16 };
    int64_t blocks = (n + BLOCK - 1) / BLOCK;
    double *partial = (double *)xmalloc(blocks * (int64_t)sizeof(double)), total = 0;
    #pragma omp parallel for
    for (int64_t b = 0; b < blocks; b++) {
        double sum = 0;
        int64_t end = (b + 1) * BLOCK < n ? (b + 1) * BLOCK : n;
        #pragma omp simd reduction(+ : sum)
        for (int64_t i = b * BLOCK; i < end; i++) sum += (double)x[i] * (double)x[i];
        partial[b] = sum;
    }
    for (int64_t b = 0; b < blocks; b++) total += partial[b];
    free(partial);
    return total;
}

// AdamW (Loshchilov & Hutter 2019) as torch.optim.AdamW computes it, update number t; g is multiplied by grad_scale (clipping) first
static void adamw(float *p, float *m, float *v, const float *g, int64_t n, const AdamW *o, int64_t t, bool decayed, float grad_scale) {
    float b1 = (float)o->beta1, b2 = (float)o->beta2, eps = (float)o->eps;
    float step = (float)(o->lr / (1.0 - pow(o->beta1, (double)t)));
    float correction = (float)sqrt(1.0 - pow(o->beta2, (double)t));
    float keep = decayed ? (float)(1.0 - o->lr * o->weight_decay) : 1.0f;
    #pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++) {
        float gi = g[i] * grad_scale;
        m[i] = b1 * m[i] + (1.0f - b1) * gi;
        v[i] = b2 * v[i] + (1.0f - b2) * gi * gi;
        p[i] = p[i] * keep - step * m[i] / (sqrtf(v[i]) / correction + eps);
    }
}

// =====================================================================================================================
// the model

// The tensors. Order matters: what stands side by side here stands side by side in memory, so that q, k, v (and their
// biases) are one matmul, and gate and up another. Per-layer tensors follow each other layer by layer. With LoRA the adapters'
// come behind all others, which are then frozen: gradients, moments and checkpoints begin at the first tensor that is not.
enum { MAX_TENSORS = 32 };

// one layer's activations: what the backward pass needs
typedef struct {
    float *x;        // (N, C)    the residual stream that enters
    float *norm1;    // (N, C)
    float *rstd1;    // (N)
    float *qkv;      // (N, W)    after bias and rotation
    float *att;      // (N, NH*HD)
    float *lse;      // (N, NH)
    float *x2;       // (N, C)    the residual stream after attention
    float *norm2;    // (N, C)
    float *rstd2;    // (N)
    float *gate_up;  // (N, 2F)
    float *act;      // (N, F)
    float *xa[LORA_SITES];   // (N, n*R) LoRA: s x A^T of the n targets of each site
} Layer;

enum { HEAD_ROWS = 192 };   // targets whose logits exist at a time: (HEAD_ROWS, V), never (N, V)

struct Model {
    Config config;
    int64_t B, T;            // the largest micro-batch there is room for
    bool training;
    Tensor tensors[MAX_TENSORS];
    int num_tensors;
    int first_trained;       // tensors before this one are frozen
    int64_t num_parameters, num_trained;
    int64_t num_in_turn, in_turn_offset[MAX_TENSORS];   // the same when all layers take turns in one place
    float *params, *grads;   // (num_parameters), (num_trained), laid out by the table; with ZeRO-3 and -2 there is one place for all layers, used in turn
    float *moment1, *moment2;   // (num_owned)
    float *shard_sums;       // (num_owned)  ZeRO-2: the gradient's sum over micro-batches and ranks
    float *shard_params;     // (num_owned + num_owned_frozen)  ZeRO-3: the weights
    int64_t num_owned, num_owned_frozen, owned_offset[MAX_TENSORS], owned_stride[MAX_TENSORS];   // what this rank owns: of every tensor a piece, trained ones first
    Lora lora;
    int adapters[LORA_TARGETS][2];   // the tensors A and B of each target
    bool adapter_off, plain; // forward passes are to be without adapters; the last one was
    Comm *comm, alone;       // the ranks; `alone` when there is one
    Comm *shard, *replicas;  // those that share one copy of the state; those that own what this one owns
    int zero;                // ZeRO stage; 0 with one rank
    int64_t place_layer;     // ZeRO-3: whose weights are in the layers' place in params; -1: nobody's
    float *rope_table;       // (T, HD/2, 2)
    Layer *layers;           // (L)
    float *x;                // (N, C)   what leaves the last layer
    float *hidden;           // (N, C)   after the last norm: what the LM head sees
    float *rstd;             // (N)
    float *branch;           // (N, C)   scratch: what a block adds to the stream
    float *scores;           // (threads, T)
    float *head_hidden;      // (HEAD_ROWS, C)
    float *logits;           // (HEAD_ROWS, V)
    float *dhidden;          // (N, C)   gradients, shared by all layers
    float *dx, *dnorm;       // (N, C)
    float *dqkv;             // (N, W)
    float *datt;             // (N, NH*HD)
    float *dgate_up;         // (N, 2F)
    float *dact;             // (N, F)
    float *dxa;              // (N, 3R)   LoRA
    float *dhead_hidden;     // (HEAD_ROWS, C)
    float *arena;            // all activations lie in here
    Span *documents;         // documents of the last batch, and their branches
    int64_t num_documents;
    int64_t num_pages;       // generation: room for as many
    float *keys, *values;    // (L, pages, NKV, PAGE_TOKENS, HD)
    float *draw;             // (threads, 2V)  scratch of model_sample
    int64_t updates;         // since the moments were zero, for AdamW's bias correction
    double loss;
    StepResult result;
};

static void define_tensor(Model *m, const char *name, const char *hf_name, int64_t rows, int64_t cols, bool per_layer) {
    CHECK(m->num_tensors < MAX_TENSORS);
    int64_t numbers = (rows ? rows : 1) * cols;
    m->in_turn_offset[m->num_tensors] = m->num_in_turn;
    m->num_in_turn += numbers;
    Tensor *t = &m->tensors[m->num_tensors++];
    t->name = name; t->hf_name = hf_name; t->rows = rows; t->cols = cols; t->per_layer = per_layer;
    t->decayed = rows > 0;
    t->offset = m->num_parameters;
    m->num_parameters += numbers;
}

// the tensors from `first` on, whose first layer was defined last, are there in every layer
static void repeat_in_layers(Model *m, int first) {
    int64_t begin = m->tensors[first].offset, stride = m->num_parameters - begin;
    for (int i = first; i < m->num_tensors; i++) m->tensors[i].layer_stride = stride;
    m->num_parameters = begin + stride * m->config.num_layers;
}

// the adapters' tensors, A and B of every target: names are PEFT's
static void define_adapters(Model *m) {
    int first = m->num_tensors;
    for (int s = 0; s < LORA_SITES; s++)
        for (int side = 0; side < 2; side++)   // all A of a site side by side, then their B
            for (int k = lora_sites[s].first; k < lora_sites[s].first + lora_sites[s].n; k++) {
                const Tensor *w = &m->tensors[model_find_tensor(m, lora_targets[k])];
                if (!(m->lora.targets >> k & 1)) continue;
                m->adapters[k][side] = m->num_tensors;
                define_tensor(m, lora_names[k][side], lora_names[k][2 + side], side ? w->rows : m->lora.rank, side ? m->lora.rank : w->cols, true);
            }
    repeat_in_layers(m, first);
    for (int i = 0; i < m->num_tensors; i++) { m->tensors[i].frozen = i < first; m->tensors[i].adapter = i >= first; }
    m->first_trained = first;
}

// fills m->tensors and m->num_parameters; a tensor the family has not (biases, an untied head) gets no row
static void define_tensors(Model *m) {
    const Config *c = &m->config;
    int64_t C = c->hidden_size, F = c->intermediate_size, qw = c->num_heads * c->head_dim, kw = c->num_kv_heads * c->head_dim;
    define_tensor(m, "embed", "model.embed_tokens.weight", c->vocab_size, C, false);
    int first = m->num_tensors;
    define_tensor(m, "norm1", "model.layers.%d.input_layernorm.weight", 0, C, true);
    define_tensor(m, "q", "model.layers.%d.self_attn.q_proj.weight", qw, C, true);
    define_tensor(m, "k", "model.layers.%d.self_attn.k_proj.weight", kw, C, true);
    define_tensor(m, "v", "model.layers.%d.self_attn.v_proj.weight", kw, C, true);
    if (c->qkv_bias) {
        define_tensor(m, "q_bias", "model.layers.%d.self_attn.q_proj.bias", 0, qw, true);
        define_tensor(m, "k_bias", "model.layers.%d.self_attn.k_proj.bias", 0, kw, true);
        define_tensor(m, "v_bias", "model.layers.%d.self_attn.v_proj.bias", 0, kw, true);
    }
    define_tensor(m, "o", "model.layers.%d.self_attn.o_proj.weight", C, qw, true);
    define_tensor(m, "norm2", "model.layers.%d.post_attention_layernorm.weight", 0, C, true);
    define_tensor(m, "gate", "model.layers.%d.mlp.gate_proj.weight", F, C, true);
    define_tensor(m, "up", "model.layers.%d.mlp.up_proj.weight", F, C, true);
    define_tensor(m, "down", "model.layers.%d.mlp.down_proj.weight", C, F, true);
    repeat_in_layers(m, first);
    define_tensor(m, "norm", "model.norm.weight", 0, C, false);
    if (!c->tied_embeddings) define_tensor(m, "lm_head", "lm_head.weight", c->vocab_size, C, false);
    if (m->lora.rank) define_adapters(m);
    m->num_trained = m->num_parameters - m->tensors[m->first_trained].offset;
    for (int n = 0; n < m->num_tensors; n++) {   // what this rank owns: tensor after tensor, what is frozen last
        int i = (m->first_trained + n) % m->num_tensors;
        int64_t owned_begin, owned_end, *total = m->tensors[i].frozen ? &m->num_owned_frozen : &m->num_owned;
        model_owned(m, i, &owned_begin, &owned_end);
        m->owned_offset[i] = m->num_owned + m->num_owned_frozen;
        m->owned_stride[i] = owned_end - owned_begin;
        *total += (owned_end - owned_begin) * (m->tensors[i].per_layer ? c->num_layers : 1);
    }
}

// ZeRO-3 has one layer's weights at a time, ZeRO-2 one layer's gradients: all layers take turns in one place
static bool weights_in_turns(const Model *m) { return m->zero >= 3; }
static bool grads_in_turns(const Model *m) { return m->zero >= 2; }
// where tensor i of a layer lies in params or grads, which begin with the first trained tensor
static int64_t tensor_offset(const Model *m, int i, int64_t layer, bool grads) {
    const Tensor *t = &m->tensors[i], *first = &m->tensors[grads ? m->first_trained : 0];
    return (grads ? grads_in_turns(m) : weights_in_turns(m)) ? m->in_turn_offset[i] - m->in_turn_offset[first - m->tensors] : t->offset - first->offset + layer * t->layer_stride;
}
static int64_t arena_numbers(const Model *m, bool grads) {   // in params, in grads
    int first = grads ? m->first_trained : 0;
    return (grads ? grads_in_turns(m) : weights_in_turns(m)) ? m->num_in_turn - m->in_turn_offset[first] : m->num_parameters - m->tensors[first].offset;
}
// tensor `name` of a layer; NULL when the family has no such tensor, and the gradient of one that is frozen
static float *param_at(const Model *m, int i, int64_t layer) { return i < 0 ? NULL : m->params + tensor_offset(m, i, layer, false); }
static float *grad_at(const Model *m, int i, int64_t layer) { return i < 0 || m->tensors[i].frozen ? NULL : m->grads + tensor_offset(m, i, layer, true); }
static float *param(const Model *m, const char *name, int64_t layer) { return param_at(m, model_find_tensor(m, name), layer); }
static float *grad(const Model *m, const char *name, int64_t layer) { return grad_at(m, model_find_tensor(m, name), layer); }
static const char *head_name(const Model *m) { return m->config.tied_embeddings ? "embed" : "lm_head"; }

// Activations. Called twice: with arena NULL it only counts, then it hands out the pieces. Without training the layers
// share one set of buffers, since nothing of them is needed later.
static int64_t place_activations(Model *m, float *arena) {
    const Config *c = &m->config;
    int64_t N = m->B * m->T, C = c->hidden_size, F = c->intermediate_size, V = c->vocab_size, A = c->num_heads * c->head_dim;
    int64_t W = A + 2 * c->num_kv_heads * c->head_dim, used = 0, threads = 1;
    #ifdef _OPENMP
    threads = omp_get_max_threads();
    #endif
    #define PLACE(pointer, count) do { (pointer) = arena ? arena + used : NULL; used += ((count) + 15) / 16 * 16; } while (0)
    PLACE(m->rope_table, m->T * c->head_dim);
    for (int64_t l = 0; l < c->num_layers; l++) {
        Layer *y = &m->layers[l];
        if (!m->training && l > 0) {   // the same buffers again, but for the stream, which a layer reads from one and writes to another
            *y = m->layers[0];
            if (l == 1) PLACE(y->x, N * C);
            else y->x = m->layers[l % 2].x;
            continue;
        }
        PLACE(y->x, N * C); PLACE(y->norm1, N * C); PLACE(y->rstd1, N); PLACE(y->qkv, N * W); PLACE(y->att, N * A); PLACE(y->lse, N * c->num_heads);
        PLACE(y->x2, N * C); PLACE(y->norm2, N * C); PLACE(y->rstd2, N); PLACE(y->gate_up, N * 2 * F); PLACE(y->act, N * F);
        for (int s = 0; s < LORA_SITES; s++) PLACE(y->xa[s], N * lora_site_rank(&m->lora, s));
    }
    PLACE(m->x, N * C); PLACE(m->hidden, N * C); PLACE(m->rstd, N); PLACE(m->branch, N * C); PLACE(m->scores, threads * m->T);
    PLACE(m->head_hidden, HEAD_ROWS * C); PLACE(m->logits, HEAD_ROWS * V);
    if (m->training) {
        PLACE(m->dhidden, N * C); PLACE(m->dx, N * C); PLACE(m->dnorm, N * C); PLACE(m->dqkv, N * W); PLACE(m->datt, N * A);
        PLACE(m->dgate_up, N * 2 * F); PLACE(m->dact, N * F); PLACE(m->dhead_hidden, HEAD_ROWS * C);
        PLACE(m->dxa, N * 3 * m->lora.rank);
    }
    #undef PLACE
    return used;
}

static void define_model(Model *m, const Config *config, int64_t B, int64_t T, bool training, const ModelOptions *o) {
    memset(m, 0, sizeof *m);
    m->config = *config;
    m->B = B; m->T = T; m->training = training;
    m->alone.size = m->alone.stride = 1;
    m->comm = o && o->comm && o->comm->size > 1 ? o->comm : &m->alone;
    m->shard = !training ? &m->alone : o && o->shard ? o->shard : m->comm;   // what is not trained is whole on every rank
    m->replicas = !training ? m->comm : o && o->replicas ? o->replicas : &m->alone;
    m->zero = !training || m->comm->size == 1 ? 0 : o->zero && m->shard->size > 1 ? (int)o->zero : 1;
    m->place_layer = -1;
    if (o) m->lora = o->lora;
    m->layers = (Layer *)xcalloc(config->num_layers, sizeof(Layer));
    define_tensors(m);
}

bool model_check(const Config *config, const ModelOptions *o, Error *e) {
    (void)config;
    if (o->moments && strcmp(o->moments, "fp32") != 0) return fail(e, "--moments is \"%s\", the CPU twin has fp32 only", o->moments);
    if (o->gradients && strcmp(o->gradients, "fp32") != 0) return fail(e, "--gradients is \"%s\", the CPU twin has fp32 only", o->gradients);
    if (o->recompute && strcmp(o->recompute, "none") != 0) return fail(e, "--recompute is \"%s\", the CPU twin keeps all activations: none", o->recompute);
    if (o->links && strcmp(o->links, "auto") != 0) return fail(e, "--links is \"%s\", the CPU twin's ranks talk by MPI: auto", o->links);
    if (o->lora.rank && (!o->lora.targets || o->lora.targets >> LORA_TARGETS || !(o->lora.alpha > 0))) return fail(e, "LoRA needs a target and an alpha above 0");
    return true;
}

int64_t model_memory_bytes(const Config *config, int64_t B, int64_t T, bool training, const ModelOptions *options, char *plan) {
    Model m;
    define_model(&m, config, B, T, training, options);
    int64_t size = (int64_t)sizeof(float), activations = place_activations(&m, NULL) * size + B * T * (int64_t)sizeof(Span), parameters = arena_numbers(&m, false) * size;
    int64_t gradients = training ? arena_numbers(&m, true) * size : 0;
    int64_t owned = training ? m.num_owned * (m.zero >= 2 ? 3 : 2) * size + (m.zero >= 3 ? (m.num_owned + m.num_owned_frozen) * size : 0) : 0;
    free(m.layers);
    double MiB = 1048576.0;
    char trained[64] = "";
    if (m.lora.rank) snprintf(trained, sizeof trained, " (trained %.1f MiB)", (double)(m.num_trained * size) / MiB);
    if (plan && training) snprintf(plan, MODEL_PLAN_SIZE, "fp32 parameters %.1f MiB%s, gradients %.1f MiB, %s %.1f MiB, activations %.1f MiB", (double)parameters / MiB, trained, (double)gradients / MiB,
                                   m.zero >= 3 ? "moments, sums and weights of this rank" : m.zero == 2 ? "moments and sums of this rank" : m.zero ? "moments of this rank" : "moments", (double)owned / MiB, (double)activations / MiB);
    else if (plan) snprintf(plan, MODEL_PLAN_SIZE, "fp32 parameters %.1f MiB, activations %.1f MiB", (double)parameters / MiB, (double)activations / MiB);
    return activations + parameters + gradients + owned;
}

void model_use_device(int local_rank) { (void)local_rank; }
Model *model_create(const Config *config, int64_t B, int64_t T, bool training, const ModelOptions *options) {
    Model *m = (Model *)xmalloc(sizeof(Model));
    define_model(m, config, B, T, training, options);
    m->params = (float *)xcalloc(arena_numbers(m, false), sizeof(float));
    if (training) {
        m->grads = (float *)xcalloc(arena_numbers(m, true), sizeof(float));
        m->moment1 = (float *)xcalloc(m->num_owned, sizeof(float));
        m->moment2 = (float *)xcalloc(m->num_owned, sizeof(float));
        if (m->zero >= 2) m->shard_sums = (float *)xcalloc(m->num_owned, sizeof(float));
        if (m->zero >= 3) m->shard_params = (float *)xcalloc(m->num_owned + m->num_owned_frozen, sizeof(float));
    }
    m->arena = (float *)xcalloc(place_activations(m, NULL), sizeof(float));
    place_activations(m, m->arena);
    m->documents = (Span *)xcalloc(B * T, sizeof(Span));
    int64_t half = config->head_dim / 2;
    float *inv_freq = (float *)xcalloc(half, sizeof(float));
    config_rope_inv_freq(config, inv_freq);
    for (int64_t t = 0; t < T; t++) {
        for (int64_t j = 0; j < half; j++) {
            float angle = (float)t * inv_freq[j];
            m->rope_table[(t * half + j) * 2] = cosf(angle);
            m->rope_table[(t * half + j) * 2 + 1] = sinf(angle);
        }
    }
    free(inv_freq);
    return m;
}

void model_free(Model *m) {
    if (!m) return;
    free(m->params); free(m->grads); free(m->moment1); free(m->moment2); free(m->shard_sums); free(m->shard_params);
    free(m->arena); free(m->layers); free(m->documents); free(m->keys); free(m->values); free(m->draw);
    free(m);
}

const Config *model_config(const Model *m) { return &m->config; }
const Lora *model_lora(const Model *m) { return &m->lora; }
void model_adapter(Model *m, bool on) { m->adapter_off = !on && m->lora.rank; }
const char *model_notes(const Model *m) { (void)m; return ""; }
int model_num_tensors(const Model *m) { return m->num_tensors; }
const Tensor *model_tensor(const Model *m, int i) { return &m->tensors[i]; }

Comm *model_comm(const Model *m) { return m->comm; }
Comm *model_replicas(const Model *m) { return m->replicas; }

static int64_t tensor_count(const Tensor *t) { return (t->rows ? t->rows : 1) * t->cols; }
void model_owned(const Model *m, int i, int64_t *begin, int64_t *end) {
    *begin = shard_begin(m->shard, tensor_count(&m->tensors[i]));
    *end = shard_end(m->shard, tensor_count(&m->tensors[i]));
}
// What this rank owns of a tensor: the weights, the gradient, and where its moments lie in theirs
static int64_t owned_place(const Model *m, int i, int64_t layer) { return m->owned_offset[i] + layer * m->owned_stride[i]; }
static float *owned_params(const Model *m, int i, int64_t layer) {
    if (m->zero >= 3 && m->tensors[i].per_layer) return m->shard_params + owned_place(m, i, layer);
    return param_at(m, i, layer) + shard_begin(m->shard, tensor_count(&m->tensors[i]));
}
static float *owned_grads(const Model *m, int i, int64_t layer) {
    if (m->zero >= 2) return m->shard_sums + owned_place(m, i, layer);
    return grad_at(m, i, layer) + shard_begin(m->shard, tensor_count(&m->tensors[i]));
}

// What this rank owns of one tensor, out of or into its arena
static void owned_copy(Model *m, TensorKind kind, int i, int64_t layer, float *out, const float *in) {
    CHECK(i >= 0 && i < m->num_tensors && layer >= 0 && layer < (m->tensors[i].per_layer ? m->config.num_layers : 1) && (kind == KIND_PARAM || (m->training && !m->tensors[i].frozen)));
    float *x = kind == KIND_PARAM ? owned_params(m, i, layer) : kind == KIND_GRAD ? owned_grads(m, i, layer) : (kind == KIND_MOMENT1 ? m->moment1 : m->moment2) + owned_place(m, i, layer);
    if (out) memcpy(out, x, (size_t)m->owned_stride[i] * sizeof(float));
    if (in) memcpy(x, in, (size_t)m->owned_stride[i] * sizeof(float));
    if (in) m->place_layer = -1;
}
void model_get_owned(const Model *m, TensorKind kind, int i, int layer, float *out) { owned_copy((Model *)m, kind, i, layer, out, NULL); }
void model_put_owned(Model *m, TensorKind kind, int i, int layer, const float *in) { owned_copy(m, kind, i, layer, NULL, in); }
bool model_copy_is_bf16(const Model *m, TensorKind kind) { (void)m; (void)kind; return false; }
void model_copy_begin(Model *m) { (void)m; }   // only model_update changes what is copied
void model_copy_owned(Model *m, TensorKind kind, int i, int layer, void *out) { model_get_owned(m, kind, i, layer, (float *)out); }
void model_get(const Model *m, TensorKind kind, int i, int layer, float *out) {
    int64_t n = tensor_count(&m->tensors[i]);
    model_get_owned(m, kind, i, layer, out + shard_begin(m->shard, n));
    comm_gather_tensor_f32(m->shard, out, n);
}
void model_put(Model *m, TensorKind kind, int i, int layer, const float *in) {   // every rank is given all of it
    int64_t n = tensor_count(&m->tensors[i]);
    if (kind == KIND_PARAM && !(m->zero >= 3 && m->tensors[i].per_layer)) memcpy(param_at(m, i, layer), in, (size_t)n * sizeof(float));
    model_put_owned(m, kind, i, layer, in + shard_begin(m->shard, n));
}

// ---------------------------------------------------------------------------------------------------------------------
// between the ranks (who owns what: see the end of comm.h)
//
// Unit u: 0 the embedding, 1 ... L the layers, L + 1 the last norm and an LM head of its own. Gradients leave unit by unit, in falling order.

static int64_t unit_of(const Model *m, int i, int64_t layer) { return m->tensors[i].per_layer ? layer + 1 : i == 0 ? 0 : m->config.num_layers + 1; }

// Sums the gradients of a unit, which are complete, over the ranks; the sums are with those that own them. ZeRO-1 sums micro-batches first and the ranks in
// the last one; from ZeRO-2 on every micro-batch's are added to what the owner has, and their place is free again. Replicas sum what they own in the last one.
static void reduce_unit(Model *m, int64_t unit, bool last) {
    if (m->zero == 0 || (m->zero == 1 && !last)) return;
    const int64_t L = m->config.num_layers, layer = unit >= 1 && unit <= L ? unit - 1 : 0;
    for (int i = m->first_trained; i < m->num_tensors; i++) {
        if (unit_of(m, i, layer) != unit) continue;
        int64_t n = tensor_count(&m->tensors[i]), part = shard_part(m->shard, n), whole = part * m->shard->size;
        float *g = grad_at(m, i, layer);
        comm_reduce_scatter_f32(m->shard, g, part, "gradients");
        comm_reduce_f32(m->shard, g + whole, n - whole, m->shard->size - 1, "gradients");
        if (m->zero >= 2) {
            add_scaled(owned_grads(m, i, layer), g + shard_begin(m->shard, n), 1.0f, m->owned_stride[i]);
            memset(g, 0, (size_t)n * sizeof(float));
        }
        if (last) comm_sum_f32(m->replicas, owned_grads(m, i, layer), m->owned_stride[i], "gradients of replicas");
    }
}

// Puts a unit's weights together on all ranks of the shard group: all of them, or those from tensor `first` on
static void gather_unit(Model *m, int64_t unit, int first) {
    const int64_t L = m->config.num_layers, layer = unit >= 1 && unit <= L ? unit - 1 : 0;
    for (int i = first; i < m->num_tensors; i++) {
        if (unit_of(m, i, layer) != unit) continue;
        float *x = param_at(m, i, layer), *mine = x + shard_begin(m->shard, tensor_count(&m->tensors[i]));
        if (owned_params(m, i, layer) != mine) memcpy(mine, owned_params(m, i, layer), (size_t)m->owned_stride[i] * sizeof(float));
        comm_gather_tensor_f32(m->shard, x, tensor_count(&m->tensors[i]));
    }
}
// ZeRO-3: a layer's weights into the layers' place, when they are not there
static void fetch_layer(Model *m, int64_t layer) {
    if (m->zero < 3 || m->place_layer == layer) return;
    gather_unit(m, layer + 1, 0);
    m->place_layer = layer;
}
// Every rank has new weights in what it owns: all get all of them. With ZeRO-3 those of layers only when their turn comes.
static void share_from(Model *m, int first) {
    m->place_layer = -1;
    for (int64_t unit = 0; unit <= m->config.num_layers + 1; unit++) if (m->zero < 3 || unit == 0 || unit > m->config.num_layers) gather_unit(m, unit, first);
}
void model_share(Model *m) { share_from(m, 0); }

void model_init_random(Model *m, uint64_t seed) {
    for (int i = 0; i < m->num_tensors && !m->tensors[i].adapter; i++) {
        const Tensor *t = &m->tensors[i];
        bool norm = strncmp(t->name, "norm", 4) == 0;
        for (int64_t l = 0; l < (t->per_layer ? m->config.num_layers : 1); l++) {
            float *p = (float *)xmalloc(tensor_count(t) * (int64_t)sizeof(float));
            uint64_t stream = (uint64_t)(l * 16 + i);   // the model's own tensors are fewer than 16
            #pragma omp parallel for
            for (int64_t j = 0; j < tensor_count(t); j++)
                p[j] = norm ? 1.0f : t->rows == 0 ? 0.0f : (float)(m->config.initializer_range * random_normal(seed, stream, (uint64_t)j));
            model_put(m, KIND_PARAM, i, (int)l, p);
            free(p);
        }
    }
}

void model_zero_grad(Model *m) {
    memset(m->grads, 0, (size_t)arena_numbers(m, true) * sizeof(float));
    if (m->shard_sums) memset(m->shard_sums, 0, (size_t)m->num_owned * sizeof(float));
    m->loss = 0;
}
void model_zero_moments(Model *m) {
    memset(m->moment1, 0, (size_t)m->num_owned * sizeof(float));
    memset(m->moment2, 0, (size_t)m->num_owned * sizeof(float));
    m->updates = 0;
}

// The documents of a batch and, behind each, its branches. A document begins with every row and wherever position is 0.
static void find_documents(Model *m, const Batch *b) {
    Span *span = NULL, *document = NULL;
    m->num_documents = 0;
    for (int64_t i = 0; i < b->B * b->T; i++) {
        CHECK(b->tokens[i] >= 0 && b->tokens[i] < m->config.vocab_size && b->positions[i] >= 0 && b->positions[i] < m->T);
        bool first = i % b->T == 0 || b->positions[i] == 0;
        if (first || b->positions[i] != b->positions[i - 1] + 1) {
            span = &m->documents[m->num_documents++];
            if (first) document = span;
            span->begin = i;
            span->document = document->begin;
            span->prefix = first ? 0 : b->positions[i];
            CHECK(first || (b->positions[document->begin] == 0 && span->prefix <= document->end - document->begin));
        }
        span->end = i + 1;
    }
}

// The adapters of site s of a layer, where x (N, K) is read and y (N, ldy) made: y += s (x A^T) B^T in the columns of each target. The
// first projection of a site begins at column 0 of y, the next behind it. Without targets there, nothing.
static void adapters_forward(Model *m, int64_t l, int s, float *y, int64_t ldy, const float *x, int64_t N) {
    int64_t R = m->lora.rank, nR = lora_site_rank(&m->lora, s), done = 0, column = 0;
    if (nR == 0 || m->adapter_off) return;
    for (int k = lora_sites[s].first; k < lora_sites[s].first + lora_sites[s].n; k++) {
        const Tensor *w = &m->tensors[model_find_tensor(m, lora_targets[k])];
        if (m->lora.targets >> k & 1) {
            if (done == 0) lora_a_forward(m->layers[l].xa[s], x, param_at(m, m->adapters[k][0], l), (float)lora_scale(&m->lora), N, w->cols, nR);
            lora_b_forward(y + column, ldy, m->layers[l].xa[s] + done, nR, param_at(m, m->adapters[k][1], l), N, R, w->rows);
            done += R;
        }
        column += w->rows;
    }
}

// the same backwards: dx (N, K) += their share, after the frozen weight's; their own gradients +=
static void adapters_backward(Model *m, int64_t l, int s, float *dx, const float *dy, int64_t ldy, const float *x, int64_t N) {
    int64_t R = m->lora.rank, nR = lora_site_rank(&m->lora, s), done = 0, column = 0, K = 0;
    int first = -1;
    if (nR == 0) return;
    for (int k = lora_sites[s].first; k < lora_sites[s].first + lora_sites[s].n; k++) {
        const Tensor *w = &m->tensors[model_find_tensor(m, lora_targets[k])];
        if (m->lora.targets >> k & 1) {
            lora_b_backward(m->dxa + done, grad_at(m, m->adapters[k][1], l), dy + column, ldy, m->layers[l].xa[s] + done, nR, param_at(m, m->adapters[k][1], l), N, R, w->rows);
            done += R;
            K = w->cols;
            first = first < 0 ? k : first;
        }
        column += w->rows;
    }
    lora_a_backward(dx, grad_at(m, m->adapters[first][0], l), m->dxa, x, param_at(m, m->adapters[first][0], l), (float)lora_scale(&m->lora), N, K, nR);
}

// keys and values of a layer, all pages
static int64_t pages_numbers(const Config *c, int64_t pages) { return pages * c->num_kv_heads * PAGE_TOKENS * c->head_dim; }

// one layer: x (N, C) -> next (N, C). The tokens are in documents, or (generation) go on from what is in pages as `call` says
static void layer_forward(Model *m, int64_t l, float *next, const int32_t *positions, int64_t N, const Call *call) {
    const Config *c = &m->config;
    int64_t C = c->hidden_size, F = c->intermediate_size, NH = c->num_heads, NKV = c->num_kv_heads, HD = c->head_dim;
    int64_t A = NH * HD, W = A + 2 * NKV * HD;
    Layer *y = &m->layers[l];
    fetch_layer(m, l);
    rmsnorm_forward(y->norm1, y->rstd1, y->x, param(m, "norm1", l), N, C, (float)c->rms_norm_eps);
    matmul_forward(y->qkv, y->norm1, param(m, "q", l), param(m, "q_bias", l), N, C, W);   // q, k, v in one
    adapters_forward(m, l, 0, y->qkv, W, y->norm1, N);
    rope_forward(y->qkv, m->rope_table, positions, N, NH, NKV, HD);
    int64_t at = l * pages_numbers(c, m->num_pages);
    if (call) attention_paged_forward(y->att, m->keys + at, m->values + at, m->scores, y->qkv, call, m->T, NH, NKV, HD);
    else attention_forward(y->att, y->lse, m->scores, y->qkv, m->documents, m->num_documents, m->T, NH, NKV, HD);
    matmul_forward(m->branch, y->att, param(m, "o", l), NULL, N, A, C);
    adapters_forward(m, l, 1, m->branch, C, y->att, N);
    residual_forward(y->x2, y->x, m->branch, N * C);
    rmsnorm_forward(y->norm2, y->rstd2, y->x2, param(m, "norm2", l), N, C, (float)c->rms_norm_eps);
    matmul_forward(y->gate_up, y->norm2, param(m, "gate", l), NULL, N, C, 2 * F);          // gate, up in one
    adapters_forward(m, l, 2, y->gate_up, 2 * F, y->norm2, N);
    swiglu_forward(y->act, y->gate_up, N, F);
    matmul_forward(m->branch, y->act, param(m, "down", l), NULL, N, F, C);
    adapters_forward(m, l, 3, m->branch, C, y->act, N);
    residual_forward(next, y->x2, m->branch, N * C);
}

// the same backwards: m->dx (N, C) is the gradient of what leaves the layer, and becomes that of what enters it
static void layer_backward(Model *m, int64_t l, const Batch *b) {
    const Config *c = &m->config;
    int64_t N = b->B * b->T, C = c->hidden_size, F = c->intermediate_size, NH = c->num_heads, NKV = c->num_kv_heads, HD = c->head_dim;
    int64_t A = NH * HD, W = A + 2 * NKV * HD;
    Layer *y = &m->layers[l];
    fetch_layer(m, l);
    matmul_backward(m->dact, grad(m, "down", l), NULL, m->dx, y->act, param(m, "down", l), N, F, C);
    adapters_backward(m, l, 3, m->dact, m->dx, C, y->act, N);
    swiglu_backward(m->dgate_up, m->dact, y->gate_up, N, F);
    matmul_backward(m->dnorm, grad(m, "gate", l), NULL, m->dgate_up, y->norm2, param(m, "gate", l), N, C, 2 * F);
    adapters_backward(m, l, 2, m->dnorm, m->dgate_up, 2 * F, y->norm2, N);
    rmsnorm_backward(m->dx, grad(m, "norm2", l), m->dnorm, y->x2, y->rstd2, param(m, "norm2", l), N, C);
    matmul_backward(m->datt, grad(m, "o", l), NULL, m->dx, y->att, param(m, "o", l), N, A, C);
    adapters_backward(m, l, 1, m->datt, m->dx, C, y->att, N);
    attention_backward(m->dqkv, m->scores, m->datt, y->att, y->lse, y->qkv, m->documents, m->num_documents, N, m->T, NH, NKV, HD);
    rope_backward(m->dqkv, m->rope_table, b->positions, N, NH, NKV, HD);
    matmul_backward(m->dnorm, grad(m, "q", l), grad(m, "q_bias", l), m->dqkv, y->norm1, param(m, "q", l), N, C, W);
    adapters_backward(m, l, 0, m->dnorm, m->dqkv, W, y->norm1, N);
    rmsnorm_backward(m->dx, grad(m, "norm1", l), m->dnorm, y->x, y->rstd1, param(m, "norm1", l), N, C);
    reduce_unit(m, l + 1, b->last);
}

// tokens (N) -> m->hidden (N, C)
static void layers_forward(Model *m, const int32_t *tokens, const int32_t *positions, int64_t N, const Call *call) {
    const Config *c = &m->config;
    int64_t C = c->hidden_size, L = c->num_layers;
    embedding_forward(m->layers[0].x, param(m, "embed", 0), tokens, N, C);
    for (int64_t l = 0; l < L; l++) layer_forward(m, l, l + 1 < L ? m->layers[l + 1].x : m->x, positions, N, call);
    rmsnorm_forward(m->hidden, m->rstd, m->x, param(m, "norm", 0), N, C, (float)c->rms_norm_eps);
}

void model_forward(Model *m, const Batch *b) {
    CHECK(b->B >= 1 && b->T >= 1 && b->T <= m->T && b->B * b->T <= m->B * m->T);
    int64_t N = b->B * b->T;
    find_documents(m, b);
    m->plain = m->adapter_off;
    layers_forward(m, b->tokens, b->positions, N, NULL);
    if (m->training) memset(m->dhidden, 0, (size_t)(N * m->config.hidden_size) * sizeof(float));
}

// Only places with a weighted target are looked at, HEAD_ROWS at a time: gathered, multiplied with the LM head, turned
// into log-probabilities and (with coef) gradients, scattered back.
void model_head(Model *m, const Batch *b, const float *coef, float *logp) {
    CHECK(!coef || m->training);
    int64_t N = b->B * b->T, C = m->config.hidden_size, V = m->config.vocab_size;
    const float *w = param(m, head_name(m), 0);
    memset(logp, 0, (size_t)N * sizeof(float));
    int64_t place[HEAD_ROWS];
    int32_t target[HEAD_ROWS];
    float row_coef[HEAD_ROWS], row_logp[HEAD_ROWS];
    for (int64_t next = 0; next < N;) {
        int64_t n = 0;
        for (; next < N && n < HEAD_ROWS; next++) {
            if (b->weights[next] == 0.0f || b->targets[next] < 0) continue;
            CHECK(b->targets[next] < V);
            place[n] = next;
            target[n] = b->targets[next];
            row_coef[n] = coef ? coef[next] : 0.0f;
            memcpy(m->head_hidden + n * C, m->hidden + next * C, (size_t)C * sizeof(float));
            n++;
        }
        if (n == 0) break;
        matmul_forward(m->logits, m->head_hidden, w, NULL, n, C, V);
        cross_entropy(row_logp, m->logits, target, coef ? row_coef : NULL, n, V);
        if (coef) matmul_backward(m->dhead_hidden, grad(m, head_name(m), 0), NULL, m->logits, m->head_hidden, w, n, C, V);
        for (int64_t i = 0; i < n; i++) {
            logp[place[i]] = row_logp[i];
            if (!coef) continue;
            m->loss += (double)row_coef[i] * (double)row_logp[i];
            add_scaled(m->dhidden + place[i] * C, m->dhead_hidden + i * C, 1.0f, C);
        }
    }
}

void model_backward(Model *m, const Batch *b) {
    CHECK(m->training && !m->plain);
    int64_t N = b->B * b->T, C = m->config.hidden_size;
    memset(m->dx, 0, (size_t)(N * C) * sizeof(float));
    rmsnorm_backward(m->dx, grad(m, "norm", 0), m->dhidden, m->x, m->rstd, param(m, "norm", 0), N, C);
    reduce_unit(m, m->config.num_layers + 1, b->last);
    for (int64_t l = m->config.num_layers - 1; l >= 0; l--) layer_backward(m, l, b);
    if (grad(m, "embed", 0)) embedding_backward(grad(m, "embed", 0), m->dx, b->tokens, N, C);
    reduce_unit(m, 0, b->last);
}

void model_logits(Model *m, const int64_t *index, int64_t n, float *logits) {
    int64_t C = m->config.hidden_size, V = m->config.vocab_size;
    for (int64_t done = 0; done < n; done += HEAD_ROWS) {
        int64_t rows = n - done < HEAD_ROWS ? n - done : HEAD_ROWS;
        for (int64_t i = 0; i < rows; i++) memcpy(m->head_hidden + i * C, m->hidden + index[done + i] * C, (size_t)C * sizeof(float));
        matmul_forward(logits + done * V, m->head_hidden, param(m, head_name(m), 0), NULL, rows, C, V);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// generation

int64_t model_pages_bytes(const Config *c, int64_t pages) { return 2 * c->num_layers * pages_numbers(c, pages) * (int64_t)sizeof(float); }
void model_pages(Model *m, int64_t pages) {
    int64_t threads = 1;
    #ifdef _OPENMP
    threads = omp_get_max_threads();
    #endif
    CHECK(!m->training && !m->keys);
    m->num_pages = pages;
    m->keys = (float *)xcalloc(m->config.num_layers * pages_numbers(&m->config, pages), sizeof(float));
    m->values = (float *)xcalloc(m->config.num_layers * pages_numbers(&m->config, pages), sizeof(float));
    m->draw = (float *)xcalloc(threads * 2 * m->config.vocab_size, sizeof(float));
}
void model_page_copy(Model *m, int32_t from, int32_t to) {
    int64_t page = pages_numbers(&m->config, 1), layer = pages_numbers(&m->config, m->num_pages);
    for (int64_t l = 0; l < m->config.num_layers; l++) {
        memcpy(m->keys + l * layer + to * page, m->keys + l * layer + from * page, (size_t)page * sizeof(float));
        memcpy(m->values + l * layer + to * page, m->values + l * layer + from * page, (size_t)page * sizeof(float));
    }
}

void model_generate_forward(Model *m, const Call *c) {
    CHECK(m->keys && c->N >= 1 && c->N <= m->B * m->T);
    for (int64_t n = 0; n < c->N; n++) {
        CHECK(c->tokens[n] >= 0 && c->tokens[n] < m->config.vocab_size && c->positions[n] >= 0 && c->positions[n] < m->T && c->positions[n] / PAGE_TOKENS < c->width);
        int32_t page = c->pages[c->sequence[n] * c->width + c->positions[n] / PAGE_TOKENS];
        CHECK(page >= 0 && page < m->num_pages);
    }
    layers_forward(m, c->tokens, c->positions, c->N, c);
}

void model_sample(Model *m, const int64_t *index, int64_t n, const SampleRow *rows, int32_t *tokens, float *logp) {
    int64_t V = m->config.vocab_size;
    for (int64_t done = 0; done < n; done += HEAD_ROWS) {
        int64_t some = n - done < HEAD_ROWS ? n - done : HEAD_ROWS;
        model_logits(m, index + done, some, m->logits);
        #pragma omp parallel for schedule(dynamic)
        for (int64_t i = 0; i < some; i++) {
            float *z = thread_scratch(m->draw, 2 * V);
            sample_filter(z, z + V, m->logits + i * V, V, &rows[done + i]);
            tokens[done + i] = sample_draw(z, V, &rows[done + i]);
        }
        cross_entropy(logp + done, m->logits, tokens + done, NULL, some, V);
    }
}

// ---------------------------------------------------------------------------------------------------------------------

// One optimizer step over everything that is trained. The norm is that of the whole gradient; clipping is torch.nn.utils.clip_grad_norm_'s.
// When the loss or the norm is not finite nothing is changed: one bad batch must not poison the moments for good. Of several shard groups
// the first one's squares are taken: all ranks then scale and skip by the same bits, and a number is not counted once a replica.
void model_update(Model *m, const AdamW *opt) {
    double totals[2] = {m->loss, 0};
    if (m->zero == 0) totals[1] = sum_of_squares(m->grads, m->num_trained);
    for (int i = m->first_trained; i < m->num_tensors && m->zero && m->replicas->rank == 0; i++)
        for (int64_t l = 0; l < (m->tensors[i].per_layer ? m->config.num_layers : 1); l++) totals[1] += sum_of_squares(owned_grads(m, i, l), m->owned_stride[i]);
    comm_sum_f64(m->comm, totals, 2, "gradient norm");
    double norm = sqrt(totals[1]);
    m->loss = totals[0];
    m->result.loss = m->loss;
    m->result.grad_norm = norm;
    m->result.skipped = !isfinite(norm) || !isfinite(m->loss);
    if (opt->t > 0) m->updates = opt->t - 1;
    if (m->result.skipped) return;
    m->updates++;
    float scale = 1.0f;
    if (opt->grad_clip > 0 && norm + 1e-6 > opt->grad_clip) scale = (float)(opt->grad_clip / (norm + 1e-6));
    for (int i = m->first_trained; i < m->num_tensors; i++)
        for (int64_t l = 0; l < (m->tensors[i].per_layer ? m->config.num_layers : 1); l++)
            adamw(owned_params(m, i, l), m->moment1 + owned_place(m, i, l), m->moment2 + owned_place(m, i, l), owned_grads(m, i, l), m->owned_stride[i], opt, m->updates, m->tensors[i].decayed, scale);
    share_from(m, m->first_trained);
}

StepResult model_result(Model *m) {
    m->result.loss = m->loss;
    return m->result;
}

// what a GPU's host has to wait for; here all is done when a function returns
void model_wait(Model *m) { (void)m; }
void *model_host_alloc(int64_t bytes) { return xmalloc(bytes); }
void model_host_free(void *p) { free(p); }

// =====================================================================================================================
#ifndef FINDAP_LIBRARY
#include "findap/train.h"      // defines: train_main (recipe, data order, schedule, log, checkpoints), the same on every device
int main(int argc, char **argv) { return train_main(argc, argv); }
#endif
