// decode.cuh: what generating a token costs beside training's kernels: attention over keys and values that lie in pages, and products of a few rows with a
// whole weight matrix. bf16, sm_80 and up; the fp32 build has plain loops instead.
//
// Both are bound by bytes. Attention reads each key and value once, for all query heads of its group: 4 HD bytes a token and key/value head. A product with up to 8 rows
// reads the matrix once: 2 K O bytes. The tensor cores are used because they are the cheapest way to multiply what has arrived, mostly by zeros.
// On an H200, of the bandwidth of a copy: 256 rows of 1,024 tokens 97 % (decode_single.cuh); eight rows times Llama-3-8B's gate and up 98 %, LM head 105 % (reads alone are faster than a copy), down 88 %,
// qkv 71 %, o 60 %: there beginning and end count (dev/decode.cu). Of a prompt, which is another matter, the pages come from L2, and mma.sync and what happens between the splits count: the
// last 2,048 tokens of 3,500 take 0.81 ms a layer.
//
// A row's result does not depend on which other rows there are, bit for bit: how attention is split depends on a row's own length, and a product's sum is one chain over K,
// sixteen numbers at a time in rising order. That is the sum that cuBLASLt's kernels have too, those that do not split K (matmul.cuh, `unsplit`): mma.sync, wgmma of any
// width and the library agree in every bit (dev/decode.cu checks it). So a request's answer is the same alone, among eight and among 256.
//
// A weight does not depend on what was computed before it. Kernels of a small batch are therefore launched early (cuda.cuh): while the last one works, the next fills its
// shared memory with its first weights, and then waits.
//
// Pages are those of model.h's Call: of a layer, k and v are (pages, NKV, PAGE_TOKENS, HD); position t of sequence s lies in page pages[s][t / PAGE_TOKENS], at t % PAGE_TOKENS. A row is
// a token of a Call: one of a prompt as well as the one that a running answer goes on from.
#ifndef FINDAP_KERNELS_DECODE_CUH
#define FINDAP_KERNELS_DECODE_CUH
#include "cuda.cuh"        // defines: real, bf16, Pack, load_pack, store_pack, launch_early, wait_for_previous, let_next_begin, CUDA_CHECK
#include "findap/model.h"  // defines: PAGE_TOKENS
#include "swiglu.cuh"      // defines: sigmoid

// A Call on the device. Rows of one sequence that stand side by side share its keys: tile i is rows [tiles[i], tiles[i + 1]), at most DECODE_ROWS / (NH / NKV) of one sequence.
typedef struct {
    int64_t N, width, num_tiles, alone, longest;   // alone: so many of the first tiles are single rows; longest: most tokens that a row sees
    const int32_t *tokens, *positions, *sequence, *pages, *tiles;   // tiles NULL: a row a tile
    const int32_t *host_tiles;              // the same on the host
    bool own;                               // single rows all, and the page that one writes is read by no other: attention may put k and v there itself
} PagedCall;
enum { DECODE_GROUPS = 4 /* of 16 rows in a tile: tokens times query heads of a key/value head */, DECODE_ROWS = 16 * DECODE_GROUPS, DECODE_SPLIT = 512 /* tokens of a block */ };
static inline int64_t decode_splits(int64_t longest) { return longest < 1 ? 1 : ceil_div(longest, DECODE_SPLIT); }
// floats of scratch for the parts of up to N rows; with less, rows are taken in several goes
static inline int64_t decode_scratch(int64_t N, int64_t NH, int64_t HD, int64_t longest) { return decode_splits(longest) == 1 ? 0 : N * NH * decode_splits(longest) * (HD + 2); }
static inline int64_t decode_tile_tokens(int64_t NH, int64_t NKV) { return DECODE_ROWS / (NH / NKV) > 1 ? DECODE_ROWS / (NH / NKV) : 1; }

// a pair turned by an angle: one expression wherever it is done, so that bits agree
__device__ inline void turn_pair(real *a, real *b, float cosine, float sine) {
    const float x = to_float(*a), y = to_float(*b);
    *a = from_float<real>(fmaf(x, cosine, -__fmul_rn(y, sine)));
    *b = from_float<real>(fmaf(y, cosine, __fmul_rn(x, sine)));
}
// RoPE of q, and of k on its way into its page with v. A thread has P pairs of a head; of v, which is not turned, 2P numbers.
template <int P> __global__ static void rope_store_kernel(real *qkv, real *k, real *v, const float *table, const __grid_constant__ PagedCall c, int NH, int NKV, int HD) {
    const int half = HD / 2, parts = half / P, heads = NH + 2 * NKV;
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, n = i / (heads * parts);
    wait_for_previous();
    let_next_begin();
    if (n >= c.N) return;
    const int r = (int)(i - n * (heads * parts)), h = r / parts, j = (r - h * parts) * P, t = c.positions[n];
    real *from = qkv + n * heads * HD + h * HD + j, *to = from;
    if (h >= NH) {
        const int64_t page = c.pages[c.sequence[n] * c.width + t / PAGE_TOKENS];
        to = (h < NH + NKV ? k : v) + ((page * NKV + (h - NH) % NKV) * PAGE_TOKENS + t % PAGE_TOKENS) * HD + j;
    }
    struct alignas(P * sizeof(real)) Part { real at[P]; };
    Part a = *reinterpret_cast<const Part *>(from), b = *reinterpret_cast<const Part *>(from + half);
    if (h < NH + NKV) {
        const float *turn = table + ((int64_t)t * half + j) * 2;
        #pragma unroll
        for (int e = 0; e < P; e++) turn_pair(&a.at[e], &b.at[e], turn[2 * e], turn[2 * e + 1]);
    }
    *reinterpret_cast<Part *>(to) = a;
    *reinterpret_cast<Part *>(to + half) = b;
}
// qkv (N, W): q is turned in place, k and v go to their pages
static inline void rope_store(real *qkv, real *k, real *v, const float *table, const PagedCall *c, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    const bool packed = HD / 2 % (int)Pack<real>::size == 0;
    const int64_t threads = c->N * (NH + 2 * NKV) * (HD / 2) / (packed ? (int)Pack<real>::size : 1);
    launch_early(packed ? rope_store_kernel<Pack<real>::size> : rope_store_kernel<1>, dim3((unsigned)ceil_div(threads, 128)), 128, 0, stream, qkv, k, v, table, *c, (int)NH, (int)NKV, (int)HD);
}

// from one page to another, in all layers; page: numbers of a page, layer: of a layer's pages
__global__ static void page_copy_kernel(real *k, real *v, int from, int to, int64_t page, int64_t layer) {
    real *x = (blockIdx.y ? v : k) + blockIdx.x * layer;
    for (int64_t i = threadIdx.x; i < page; i += blockDim.x) x[to * page + i] = x[from * page + i];
}
static inline void page_copy(real *k, real *v, int32_t from, int32_t to, int64_t page, int64_t layer, int64_t layers, cudaStream_t stream) {
    page_copy_kernel<<<dim3((unsigned)layers, 2), 256, 0, stream>>>(k, v, from, to, page, layer);
    CUDA_CHECK(cudaGetLastError());
}

// Attention and a product as they are written down: any head_dim and width, fp32 too
__global__ static void attention_pages_plain_kernel(real *out, const real *qkv, const real *k, const real *v, const __grid_constant__ PagedCall c, int64_t first, int NH, int NKV, int HD) {
    extern __shared__ float plain_scores[];   // (positions + 1)
    __shared__ float shared[33];
    const int64_t n = first + blockIdx.y;
    const int h = blockIdx.x, kv = h / (NH / NKV), seen = c.positions[n] + 1;
    const int32_t *table = c.pages + c.sequence[n] * c.width;
    const real *q = qkv + n * (NH + 2 * NKV) * HD + h * HD;
    auto at = [&](int t) { return (((int64_t)table[t / PAGE_TOKENS] * NKV + kv) * PAGE_TOKENS + t % PAGE_TOKENS) * HD; };
    float most = -INFINITY, sum = 0;
    for (int t = threadIdx.x; t < seen; t += blockDim.x) {
        float dot = 0;
        for (int d = 0; d < HD; d++) dot += to_float(q[d]) * to_float(k[at(t) + d]);
        plain_scores[t] = dot / sqrtf((float)HD);
        most = fmaxf(most, plain_scores[t]);
    }
    most = block_max(most, shared);
    for (int t = threadIdx.x; t < seen; t += blockDim.x) { plain_scores[t] = expf(plain_scores[t] - most); sum += plain_scores[t]; }
    sum = block_sum(sum, shared);
    for (int d = threadIdx.x; d < HD; d += blockDim.x) {
        float x = 0;
        for (int t = 0; t < seen; t++) x += plain_scores[t] * to_float(v[at(t) + d]);
        out[n * NH * HD + h * HD + d] = from_float<real>(x / sum);
    }
}
__global__ static void matmul_plain_kernel(real *y, int64_t ldy, const real *x, int64_t ldx, const real *w, const real *bias, const real *residual, float scale, int64_t N, int64_t K, int64_t O) {
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, n = i / O, o = i - n * O;
    if (n >= N) return;
    float s = 0;
    for (int64_t j = 0; j < K; j++) s = fmaf(to_float(x[n * ldx + j]), to_float(w[o * K + j]), s);
    s *= scale;
    if (residual) s += to_float(residual[n * ldy + o]);
    if (bias) s += to_float(bias[o]);
    y[n * ldy + o] = from_float<real>(s);
}
static inline int attention_pages_plain_bytes(void) { return device_shared_bytes() - 1024; }   // of scores, 4 a token
static inline void attention_pages_plain(real *out, const real *qkv, const real *k, const real *v, const PagedCall *c, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    CUDA_CHECK(cudaFuncSetAttribute(attention_pages_plain_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)c->longest * 4 > 48 << 10 ? (int)c->longest * 4 : 48 << 10));
    for (int64_t n = 0; n < c->N; n += 32768)
        attention_pages_plain_kernel<<<dim3((unsigned)NH, (unsigned)(c->N - n < 32768 ? c->N - n : 32768)), 128, (size_t)c->longest * 4, stream>>>(out, qkv, k, v, *c, n, (int)NH, (int)NKV, (int)HD);
    CUDA_CHECK(cudaGetLastError());
}
static inline void matmul_plain(real *y, int64_t ldy, const real *x, int64_t ldx, const real *w, const real *bias, const real *residual, float scale, int64_t N, int64_t K, int64_t O, cudaStream_t stream) {
    matmul_plain_kernel<<<(unsigned)ceil_div(N * O, 256), 256, 0, stream>>>(y, ldy, x, ldx, w, bias, residual, scale, N, K, O);
    CUDA_CHECK(cudaGetLastError());
}

#ifdef FINDAP_FP32
static inline bool decode_possible(int64_t, int64_t, int64_t) { return false; }
static inline bool matvec_possible(int64_t) { return false; }
static inline void decode_attention(real *, const real *, real *, real *, const float *, const PagedCall *, float *, int64_t, int64_t, int64_t, int64_t, cudaStream_t) {}
static inline bool matvec_norm_possible(int64_t, int64_t) { return false; }
typedef struct { real *y; const real *x, *w, *bias, *residual, *norm; float scale, eps; int64_t ldx, ldy; int N, K, O; } Matvec;
static inline void matvec(const Matvec *, cudaStream_t) {}
static inline void matvec_swiglu(const Matvec *, cudaStream_t) {}
static inline bool rows_swiglu_pays(int64_t, int64_t, int64_t) { return false; }
static inline void rows_swiglu(real *, const real *, const real *, int64_t, int64_t, int64_t, cudaStream_t) {}
#else
#include "matmul_rows_sm90.cuh"   // defines: rows_swiglu_possible, rows_swiglu_pays, rows_swiglu
#include "matvec_sm90.cuh"     // defines: Matvec, norm_factor, normalised, matvec_one_possible, matvec_one, matvec_one_swiglu
#include "attention_mma.cuh"   // defines: cp_async16, cp_async_commit, ldsm_x4, ldsm_x4_transposed, mma_bf16, pack_bf16, ex2

// ---------------------------------------------------------------------------------------------------------------------
// attention

enum { DECODE_WARPS = 4, DECODE_STAGES = 3 };
static bool decode_little_shared = false, decode_without_tma = false;   // for dev/decode.cu: as on cards whose blocks have 99 KB; as on cards before Hopper

typedef struct {
    bf16 *out;                 // (N, NH*HD)
    const bf16 *qkv;           // (N, W)
    bf16 *k, *v;
    const float *turn;         // single rows: RoPE's table, or NULL
    float *part;               // (rows of this launch, NH, splits, HD + 2): sums, their maximum and their weight; only with more than one split
    int NH, NKV, splits, first_tile, first_row;
    bool apart;                // tiles: shared memory has room for pages and sums; where it has not, sums lie where the pages were
    float scale_log2;
} Decode;

// The four quarters of a block that had every fourth page each, of one row: HD sums, their maximum and their weight, `stride` floats from quarter to quarter. quarters_share puts their
// shares in the place of the maxima, quarters_sum adds columns d and d + 1 up by them.
DEVICE void quarters_share(float *first, int stride, int HD, float *high, float *weight) {
    *high = -INFINITY;
    *weight = 0;
    #pragma unroll
    for (int w = 0; w < DECODE_WARPS; w++) *high = fmaxf(*high, first[w * stride + HD]);
    #pragma unroll
    for (int w = 0; w < DECODE_WARPS; w++) {
        float *one = first + w * stride;
        const float share = one[HD] == -INFINITY ? 0.0f : ex2(one[HD] - *high);   // a quarter without a page of this row's
        *weight = fmaf(share, one[HD + 1], *weight);
        one[HD] = share;
    }
}
DEVICE float2 quarters_sum(const float *first, int stride, int HD, int d) {
    float2 x = {0, 0};
    #pragma unroll
    for (int w = 0; w < DECODE_WARPS; w++, first += stride) {
        const float2 v = *reinterpret_cast<const float2 *>(first + d);
        x = make_float2(fmaf(first[HD], v.x, x.x), fmaf(first[HD], v.y, x.y));
    }
    return x;
}
// out (HD) = the splits of a row and head together, by a warp; part (splits, HD + 2). __ldcg: other multiprocessors may have written it since this one looked
DEVICE void join_splits(bf16 *out, const float *part, int splits, int HD, int lane) {
    float high = -INFINITY, weight = 0;
    float2 x[2] = {{0, 0}, {0, 0}};
    #pragma unroll 4
    for (int s = 0; s < splits; s++) high = fmaxf(high, __ldcg(part + s * (HD + 2) + HD));
    #pragma unroll 4
    for (int s = 0; s < splits; s++) {
        const float *one = part + s * (HD + 2);
        const float share = ex2(__ldcg(one + HD) - high);
        weight = fmaf(share, __ldcg(one + HD + 1), weight);
        #pragma unroll
        for (int k = 0; k < 2; k++)
            if (k * 64 < HD) {
                const float2 v = __ldcg(reinterpret_cast<const float2 *>(one + k * 64 + lane * 2));
                x[k] = make_float2(fmaf(share, v.x, x[k].x), fmaf(share, v.y, x[k].y));
            }
    }
    #pragma unroll
    for (int k = 0; k < 2; k++)
        if (k * 64 < HD) *reinterpret_cast<uint32_t *>(out + k * 64 + lane * 2) = pack_bf16(x[k].x / weight, x[k].y / weight);
}
#include "decode_single.cuh"   // defines: DecodeSingle, DECODE_COUNTERS, decode_single_kernel

// One block: a tile of a prompt, a key/value head, and all the tokens that the tile sees, DECODE_SPLIT after DECODE_SPLIT: its sums are the same as of blocks of a split each. A quarter of its warps takes every fourth page, three ahead by cp.async; each quarter keeps its own
// maxima and sums; at the end of a split the four are put together. A quarter is a warp for each sixteen of the tile's rows: of a long prompt, a page is read once for all of them. Row r is query head
// r % G of the tile's token r / G, and row r % 16 of a product's first operand. What a row gets hangs on its own tokens only: later ones are masked, which changes no bit.
template <int HD> __global__ static void __launch_bounds__(DECODE_WARPS * 32 * DECODE_GROUPS) decode_attention_kernel(const __grid_constant__ Decode a, const __grid_constant__ PagedCall c) {
    constexpr int PAGE_BYTES = PAGE_TOKENS * HD * 2, UNITS = HD / 8, STAGE = 2 * PAGE_BYTES, GROUPS = DECODE_GROUPS, ROWS = 16, THREADS = DECODE_WARPS * 32 * GROUPS, BOTH = 2 /* groups that put their sums together at a time */, SUMS = HD + 8 /* a row's sums, maximum and weight: rows 8 banks apart */;
    extern __shared__ __align__(128) uint8_t decode_shared[];
    __shared__ float row_high[32], row_weight[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % DECODE_WARPS, group = threadIdx.x / 32 / DECODE_WARPS, g = lane >> 2, q4 = lane & 3, G = a.NH / a.NKV;   // warp: the quarter
    const int head = blockIdx.y, tile = a.first_tile + blockIdx.z, W = (a.NH + 2 * a.NKV) * HD;
    const int row0 = c.tiles[tile], tokens = c.tiles[tile + 1] - row0, rows = tokens * G;
    const int length = c.positions[row0] + tokens;   // positions rise by one
    int split = 0, begin = 0, end = min(length, DECODE_SPLIT);
    let_next_begin();
    wait_for_previous();
    int first = begin / PAGE_TOKENS + warp, last = (end + PAGE_TOKENS - 1) / PAGE_TOKENS;
#ifdef FINDAP_RACECHECK   // which loses its way where named barriers and __syncthreads meet: all quarters go in step there
    auto quarter_sync = [&]() { __syncthreads(); };
    auto rounds_end = [&]() { return first + (last - first + warp + DECODE_WARPS - 1) / DECODE_WARPS * DECODE_WARPS; };
#else
    auto quarter_sync = [&]() { bar_sync(warp + 1, 32 * GROUPS); };
    auto rounds_end = [&]() { return last; };
#endif
    const int32_t *table = c.pages + (int64_t)c.sequence[row0] * c.width;
    const uint32_t stages = smem_u32(decode_shared) + warp * DECODE_STAGES * STAGE;
    float *const all = reinterpret_cast<float *>(decode_shared + (a.apart ? DECODE_WARPS * DECODE_STAGES * STAGE : 0));   // (groups, quarters, ROWS, SUMS)

    auto load = [&](int page, int stage) {
        if (page < last) {
            const int64_t at = ((int64_t)table[page] * a.NKV + head) * PAGE_TOKENS * HD;
            #pragma unroll
            for (int i = 0; i < PAGE_TOKENS * UNITS / 32 / GROUPS; i++) {
                const int u = (i * GROUPS + group) * 32 + lane, row = u / UNITS, unit = u % UNITS;
                const uint32_t to = stages + stage * STAGE + row * HD * 2 + ((unit ^ (row & 7)) << 4);
                const bool seen = page * PAGE_TOKENS + row < end;   // what lies behind the end may be NaN, and 0 times that is too
                cp_async16(to, a.k + at + u * 8, seen);
                cp_async16(to + PAGE_BYTES, a.v + at + u * 8, seen);
            }
        }
        cp_async_commit();
    };
    #pragma unroll
    for (int s = 0; s < DECODE_STAGES - 1; s++) load(first + s * DECODE_WARPS, s);
    uint32_t fq[HD / 16][4];
    int own[2];   // the last position that rows g and g + 8 see
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        const int r = group * 16 + g + 8 * h;
        const bool there = r < rows;
        const bf16 *from = a.qkv + (int64_t)(row0 + (there ? r / G : 0)) * W + (int64_t)(head * G + (there ? r % G : 0)) * HD + 2 * q4;
        own[h] = there ? length - tokens + r / G : -1;
        #pragma unroll
        for (int i = 0; i < HD / 16; i++) {
            fq[i][h] = there ? *reinterpret_cast<const uint32_t *>(from + i * 16) : 0;
            fq[i][2 + h] = there ? *reinterpret_cast<const uint32_t *>(from + i * 16 + 8) : 0;
        }
    }
    for (;;) {   // a split after the other
        float o[HD / 8][4], most[2], sum[2][2];   // sum: of this lane's even and odd tokens
        #pragma unroll
        for (int h = 0; h < 2; h++) { most[h] = -INFINITY; sum[h][0] = sum[h][1] = 0; }
        #pragma unroll
        for (int i = 0; i < HD / 8 * 4; i++) o[i / 4][i % 4] = 0.0f;
        int stage = 0;
        for (int page = first, stop = rounds_end(); page < stop; page += DECODE_WARPS) {
            asm volatile("cp.async.wait_group %0;" ::"n"(DECODE_STAGES - 2) : "memory");
            quarter_sync();   // the page has arrived for all, and all have done with the one before
            load(page + (DECODE_STAGES - 1) * DECODE_WARPS, (stage + DECODE_STAGES - 1) % DECODE_STAGES);
            const uint32_t k = stages + stage * STAGE, v = k + PAGE_BYTES;
            stage = (stage + 1) % DECODE_STAGES;
            if (group * 16 >= rows || page >= last) continue;   // a short tile: the warp only loads
            float s[2][4];
            #pragma unroll
            for (int i = 0; i < 8; i++) s[i / 4][i % 4] = 0.0f;
            #pragma unroll
            for (int i = 0; i < HD / 16; i++) {
                const int row = (lane >> 4) * 8 + (lane & 7);
                uint32_t f[4];
                ldsm_x4(f, k + row * HD * 2 + (((i * 2 + ((lane >> 3) & 1)) ^ (row & 7)) << 4));
                mma_bf16(s[0], fq[i], f[0], f[1]);
                mma_bf16(s[1], fq[i], f[2], f[3]);
            }
            uint32_t fp[4] = {0, 0, 0, 0};
            float fade[2];
            #pragma unroll
            for (int h = 0; h < 2; h++) {
                float high = most[h];
                #pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int t = page * PAGE_TOKENS + (i / 2) * 8 + 2 * q4 + i % 2;
                    float &x = s[i / 2][2 * h + i % 2];
                    x = t <= own[h] && t < end ? __fmul_rn(x, a.scale_log2) : -INFINITY;
                    high = fmaxf(high, x);
                }
                high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
                high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
                const float base = high == -INFINITY ? 0.0f : high;   // a row that has seen nothing yet, or is not there
                fade[h] = ex2(most[h] - base);
                float p[4];
                #pragma unroll
                for (int i = 0; i < 4; i++) p[i] = ex2(s[i / 2][2 * h + i % 2] - base);
                #pragma unroll
                for (int e = 0; e < 2; e++) sum[h][e] = fmaf(sum[h][e], fade[h], p[e] + p[2 + e]);   // of this lane's tokens; all are added in the end
                most[h] = high;
                fp[h] = pack_bf16(p[0], p[1]);
                fp[2 + h] = pack_bf16(p[2], p[3]);
            }
            #pragma unroll
            for (int i = 0; i < HD / 16; i++) {
                const int row = lane & 15;
                uint32_t f[4];
                ldsm_x4_transposed(f, v + row * HD * 2 + (((i * 2 + (lane >> 4)) ^ (row & 7)) << 4));
                #pragma unroll
                for (int e = 0; e < 4; e++) { o[2 * i][e] *= fade[e / 2]; o[2 * i + 1][e] *= fade[e / 2]; }
                mma_bf16(o[2 * i], fp, f[0], f[1]);
                mma_bf16(o[2 * i + 1], fp, f[2], f[3]);
            }
        }
        // the next split's first pages; then the four quarters' sums together, two groups at a time
        const int this_split = split;
        auto load_next = [&]() {
            if (begin < length)
                #pragma unroll
                for (int i = 0; i < DECODE_STAGES - 1; i++) load(first + i * DECODE_WARPS, i);
        };
        if (!a.apart) asm volatile("cp.async.wait_group 0;" ::: "memory");
        split++;
        begin += DECODE_SPLIT;
        end = min(length, begin + DECODE_SPLIT);
        first = begin / PAGE_TOKENS + warp;
        last = (end + PAGE_TOKENS - 1) / PAGE_TOKENS;
        if (a.apart) { quarter_sync(); load_next(); }
        #pragma unroll
        for (int h = 0; h < 2; h++) {
            sum[h][0] += sum[h][1];
            sum[h][0] += __shfl_xor_sync(0xffffffffu, sum[h][0], 1);
            sum[h][0] += __shfl_xor_sync(0xffffffffu, sum[h][0], 2);
        }
        for (int now = 0; now < GROUPS && now * 16 < rows; now += BOTH) {
            __syncthreads();
            if (group / BOTH == now / BOTH)
                #pragma unroll
                for (int h = 0; h < 2; h++) {
                    float *mine = all + ((group % BOTH * DECODE_WARPS + warp) * ROWS + g + 8 * h) * SUMS;
                    #pragma unroll
                    for (int i = 0; i < HD / 8; i++) { mine[i * 8 + 2 * q4] = o[i][2 * h]; mine[i * 8 + 2 * q4 + 1] = o[i][2 * h + 1]; }
                    if (q4 == 0) { mine[HD] = most[h]; mine[HD + 1] = sum[h][0]; }
                }
            __syncthreads();
            const int here = min(rows - now * 16, BOTH * 16);
            if (threadIdx.x < here) quarters_share(all + (threadIdx.x / 16 * DECODE_WARPS * ROWS + threadIdx.x % 16) * SUMS, ROWS * SUMS, HD, &row_high[threadIdx.x], &row_weight[threadIdx.x]);
            __syncthreads();
            for (int i = threadIdx.x; i < here * (HD / 2); i += THREADS) {   // two numbers at a time
                const int in = i / (HD / 2), d = i % (HD / 2) * 2, r = now * 16 + in, n = row0 + r / G, query = head * G + r % G;
                const float2 x = quarters_sum(all + (in / 16 * DECODE_WARPS * ROWS + in % 16) * SUMS, ROWS * SUMS, HD, d);
                if (length - tokens + r / G < DECODE_SPLIT) { if (this_split == 0) *reinterpret_cast<uint32_t *>(a.out + ((int64_t)n * a.NH + query) * HD + d) = pack_bf16(x.x / row_weight[in], x.y / row_weight[in]); }   // it sees one split only
                else {
                    float *part = a.part + (((int64_t)(n - a.first_row) * a.NH + query) * a.splits + this_split) * (HD + 2);
                    *reinterpret_cast<float2 *>(part + d) = x;
                    if (d == 0) { part[HD] = row_high[in]; part[HD + 1] = row_weight[in]; }
                }
            }
        }
        if (begin >= length) return;
        if (!a.apart) { __syncthreads(); load_next(); }
    }
}
// the splits of a prompt's rows together: a warp a head
__global__ static void __launch_bounds__(256) decode_join_kernel(const __grid_constant__ Decode a, const int32_t *positions, int HD, int rows) {
    const int i = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32, row = i / a.NH, h = i % a.NH, n = a.first_row + row;
    wait_for_previous();
    let_next_begin();
    if (row >= rows || positions[n] < DECODE_SPLIT) return;   // of one split: attention has put it there itself
    join_splits(a.out + ((int64_t)n * a.NH + h) * HD, a.part + (int64_t)i * a.splits * (HD + 2), positions[n] / DECODE_SPLIT + 1, HD, lane);
}
static inline bool decode_possible(int64_t NH, int64_t NKV, int64_t HD) { return (HD == 64 || HD == 128) && NH / NKV <= 8; }

// out (N, NH*HD) = attention of the q in qkv (N, W) over the pages of their sequences, up to their own positions. scratch: scratch_count floats, decode_scratch of a tile's tokens at
// least. turn: RoPE's table, if q and k of the rows, single ones, are still to be turned and k and v put into their pages; or NULL
static inline void decode_attention(bf16 *out, const bf16 *qkv, bf16 *k, bf16 *v, const float *turn, const PagedCall *c, float *scratch, int64_t scratch_count, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    CHECK(decode_possible(NH, NKV, HD) && c->longest <= c->width * PAGE_TOKENS && !(turn && c->tiles));
    Decode a = {out, qkv, k, v, turn, scratch, (int)NH, (int)NKV, (int)decode_splits(c->longest), 0, 0, false, 1.4426950408889634f / sqrtf((float)HD)};
    const int pages = DECODE_WARPS * DECODE_STAGES * 2 * PAGE_TOKENS * (int)HD * 2, sums = 2 * DECODE_WARPS * 16 * ((int)HD + 8) * 4;
    a.apart = pages + sums + 2048 <= device_shared_bytes() && !decode_little_shared;
    const int64_t alone = c->tiles ? c->alone : c->num_tiles;
    for (int64_t tile = 0, tiles; tile < c->num_tiles; tile += tiles) {   // single rows, then tiles of prompts
        const bool single = tile < alone;
        const int64_t tile_part = decode_scratch(single ? 1 : decode_tile_tokens(NH, NKV), NH, HD, c->longest), fit = tile_part ? scratch_count / tile_part : 65535, most = single ? DECODE_COUNTERS / NKV : 65535 / decode_tile_tokens(NH, NKV);
        CHECK(fit > 0 && most > 0);
        tiles = std::min(std::min(fit, most), (single ? alone : c->num_tiles) - tile);
        a.first_tile = (int)tile;
        a.first_row = c->tiles ? c->host_tiles[tile] : (int)tile;
        if (single) { decode_single(&a, c, HD, tiles, stream); continue; }
        const int64_t rows = c->host_tiles[tile + tiles] - a.first_row;
        void (*kernel)(Decode, PagedCall) = HD == 128 ? decode_attention_kernel<128> : decode_attention_kernel<64>;
        const int bytes = a.apart ? pages + sums : pages;
        CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
        launch_early(kernel, dim3(1, (unsigned)NKV, (unsigned)tiles), DECODE_WARPS * 32 * DECODE_GROUPS, bytes, stream, a, *c);
        if (a.splits > 1) launch_early(decode_join_kernel, dim3((unsigned)ceil_div(rows * NH, 8)), 256, 0, stream, a, c->positions, (int)HD, (int)rows);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// a few rows times a matrix

enum { MATVEC_ROWS = 8 /* most rows of x */ };

// y (N, ldy) = scale x (N, ldx) w^T [+ residual, laid out like y] [+ bias (O)], N <= 8, w (O, K), K and ldx multiples of 8. A warp has TILES times 8 rows of w, each a chain of
// products over K, and feeds itself by cp.async, 128 columns a stage. x is the product's first operand, of whose 16 rows the upper eight repeat the lower ones, w the second: so a
// warp needs no more than 8 rows of w, and narrow matrices have enough warps. While a stage is multiplied, the next one's operands are fetched. x is read once a block: all
// warps of the card want the same line of it at the same time, and one slice of the L2 would serve them in turn (measured: half of the time). SWIGLU: w is gate (O, K) and up
// (O, K), y = silu(gate x) * (up x), rounded in between as by two kernels; of the tiles the first half are rows of gate, the others the same of up, and one thread has both.
// NORM: x is RMSNorm's, with the bits of rmsnorm_forward: every block makes it itself, which takes less time than another kernel between two others; all of x is in shared memory
// then, else two chunks of it.
//
// The inner loop is a chain of dependent products with everything else issued between them; a warp has a scheduler to itself, so each instruction counts: addresses
// are registers plus constants, and EVEN, K a multiple of 256 and O one of the block's rows, knows no ends. Tried in vain: asking the L2 for lines further ahead (slower by
// half: each line is then asked for twice); warps of 16 rows, w as the first operand (half the reads of shared memory, 3 % slower).
template <int TILES, int WARPS, int STAGES, bool SWIGLU, bool NORM, bool EVEN> __global__ static void __launch_bounds__(WARPS * 32) matvec_kernel(const __grid_constant__ Matvec m) {
    extern __shared__ __align__(128) uint8_t matvec_shared[];   // (WARPS, STAGES, STAGE) of w; (2, N, CHUNK) or, with NORM, (N, K) of x
    constexpr int OWN = SWIGLU ? TILES / 2 : TILES, STAGE = TILES * 8 * 256, THREADS = WARPS * 32, PARTS = STAGES > 10 ? 2 : 1, CHUNK = PARTS * THREADS * 8, CHUNK_STEPS = CHUNK / 128;
    static_assert(STAGES >= 4 && STAGES - 3 <= CHUNK_STEPS - 1, "a chunk of x has come when it is needed");
    __shared__ float sums[8];
    const int N = m.N, K = m.K, O = m.O;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, unit = lane & 15, sub = lane >> 4, steps = (K + 127) / 128, row0 = (blockIdx.x * WARPS + warp) * OWN * 8;
    const uint32_t w_base = smem_u32(matvec_shared) + warp * STAGES * STAGE, x_base = smem_u32(matvec_shared) + WARPS * STAGES * STAGE, x_stride = NORM ? steps * 256 : CHUNK * 2, x_buffer = N * x_stride;
    // 16-byte unit u of row r of a stage of w lies at r * 256 + (u ^ r % 8) * 16, of row n of x at n * x_stride + (u ^ n) * 16: what ldmatrix reads at a time lies in different banks
    const bf16 *from[TILES * 4];   // this lane's 16 bytes of rows sub, sub + 2, ...: of the step that is copied next
    uint32_t to[4];                // where they go, of rows 0 to 7 of the first stage
    bool has[TILES * 4];
    #pragma unroll
    for (int j = 0; j < TILES * 4; j++) {
        const int r = j * 2 + sub, o = row0 + (SWIGLU ? r % (OWN * 8) : r);
        has[j] = EVEN || o < O;
        from[j] = has[j] ? m.w + ((int64_t)o + (SWIGLU && r >= OWN * 8 ? O : 0)) * K + unit * 8 : m.w;
        if (j < 4) to[j] = w_base + r * 256 + ((unit ^ r) << 4);
    }
    auto load_w = [&](int i, uint32_t slot, int j) {   // of TILES * 4; behind the end nothing is read
        const bool there = i < steps && (EVEN || (has[j] && i * 128 + unit * 8 < K));
        cp_async16(to[j % 4] + slot + j / 4 * 2048, EVEN || there ? from[j] : m.w, there);
    };
    auto x_place = [&](int n, int u) { return x_base + n * x_stride + ((u ^ n) << 4); };
    auto put_x = [&](int n, int u, uint4 v) { store_shared(x_place(n, u), v); };
    auto load_x = [&](int chunk) {
        for (int n = 0; n < N; n++)
            #pragma unroll
            for (int p = 0; p < PARTS; p++) {
                const int u = p * THREADS + threadIdx.x, c = chunk * CHUNK + u * 8;
                cp_async16((chunk & 1) * x_buffer + x_place(n, u), c < K ? m.x + n * m.ldx + c : m.x, c < K);
            }
    };
    #pragma unroll 1
    for (int i = 0; i < STAGES - 1; i++) {   // no weight hangs on the kernel before
        #pragma unroll
        for (int j = 0; j < TILES * 4; j++) { load_w(i, i * STAGE, j); from[j] += 128; }
        cp_async_commit();
    }
    let_next_begin();
    wait_for_previous();
    // The first chunk of x by hand: behind all those copies it would have to wait for them
    if constexpr (NORM) {
        for (int n = 0; n < N; n++) {
            constexpr int MOST = 8;   // 16-byte units of a thread: K at most 8,192
            const bool adds = threadIdx.x < 128;   // four warps make it
            Pack<bf16> v[MOST], weight[MOST];
            float half[2] = {0, 0};
            #pragma unroll
            for (int p = 0; p < MOST; p++)
                if (adds && (p * 128 + threadIdx.x) * 8 < K) { v[p] = load_pack(m.x + n * m.ldx + (p * 128 + threadIdx.x) * 8); weight[p] = load_pack(m.norm + (p * 128 + threadIdx.x) * 8); }
            #pragma unroll
            for (int p = 0; p < MOST; p++)
                if (adds && (p * 128 + threadIdx.x) * 8 < K)
                    #pragma unroll
                    for (int k = 0; k < 8; k++) { const float f = to_float(v[p].at[k]); half[p % 2] += f * f; }
            half[0] = warp_sum(half[0]);
            half[1] = warp_sum(half[1]);
            if (n > 0) __syncthreads();
            if (adds && lane == 0) { sums[warp] = half[0]; sums[4 + warp] = half[1]; }
            __syncthreads();
            const float r = norm_factor(sums, K, m.eps);
            #pragma unroll
            for (int p = 0; p < MOST; p++) {
                const int u = p * 128 + threadIdx.x;
                if (!adds || u >= steps * 16) break;
                Pack<bf16> out = {};
                if (u * 8 < K) out = normalised(v[p], weight[p], r);
                put_x(n, u, *reinterpret_cast<const uint4 *>(&out));
            }
        }
    } else {
        for (int n = 0; n < N; n++)
            #pragma unroll
            for (int p = 0; p < PARTS; p++) {
                const int u = p * THREADS + threadIdx.x;
                put_x(n, u, u * 8 < K ? *reinterpret_cast<const uint4 *>(m.x + n * m.ldx + u * 8) : make_uint4(0, 0, 0, 0));
            }
        load_x(1);
    }
    cp_async_commit();
    // Operands of a step: fw[t][k / 2]: of tile t both halves of two sixteens; fx[k]: the two halves of sixteen k, each twice
    uint32_t fx[2][8][4], fw[2][TILES][4][4], at_x[4], at_w[2];
    {
        const int row = lane & 7, x_row = row < N ? row : N - 1;   // rows of x that are not there: any, their sums are dropped
        #pragma unroll
        for (int k = 0; k < 4; k++) at_x[k] = x_base + x_row * x_stride + (((k * 2 + (lane >> 4)) ^ x_row) << 4);
        #pragma unroll
        for (int k = 0; k < 2; k++) at_w[k] = w_base + row * 256 + (((k * 4 + (lane >> 3)) ^ row) << 4);
    }
    auto fetch_x = [&](uint32_t (&tx)[8][4], int k, uint32_t offset) { ldsm_x4(tx[k], at_x[k % 4] + offset + k / 4 * 128); };
    auto fetch_w = [&](uint32_t (&tw)[TILES][4][4], int k, uint32_t slot) {
        #pragma unroll
        for (int t = 0; t < TILES; t++) ldsm_x4(tw[t][k], at_w[k % 2] + slot + k / 2 * 128 + t * 2048);
    };
    float d[TILES][4], added[OWN][2];   // added: the residual of this lane's results, asked for now: at the end it would be waited for
    #pragma unroll
    for (int t = 0; t < TILES * 4; t++) d[t / 4][t % 4] = 0.0f;
    #pragma unroll
    for (int t = 0; t < OWN && !SWIGLU; t++)
        #pragma unroll
        for (int e = 0; e < 2; e++) {
            const int o = row0 + t * 8 + 2 * (lane & 3) + e;
            added[t][e] = m.residual && (lane >> 2) < N && o < O ? __bfloat162float(m.residual[(lane >> 2) * m.ldy + o]) : 0.0f;
        }
    asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
    __syncthreads();
    #pragma unroll
    for (int k = 0; k < 8; k++) { fetch_x(fx[0], k, 0); if (k < 4) fetch_w(fw[0], k, 0); }
    uint32_t fetch_slot = STAGE, load_slot = (STAGES - 1) * STAGE, x_offset = steps > 1 ? 256 : 0;   // of step i + 1; of step i + STAGES - 1, which takes the place of step i - 1: its operands have been multiplied
    auto step = [&](int i, uint32_t (&tx)[8][4], uint32_t (&tw)[TILES][4][4], uint32_t (&nx)[8][4], uint32_t (&nw)[TILES][4][4]) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 3) : "memory");
        const bool turn = !NORM && (i + 1) % CHUNK_STEPS == 0;   // the next step begins a chunk: all threads' copies of it have come, and all have done with the last one
        if (turn) { __syncthreads(); x_offset = (i + 1) / CHUNK_STEPS % 2 * x_buffer; } else __syncwarp();
        #pragma unroll
        for (int k = 0; k < 8; k++) {
            #pragma unroll
            for (int t = 0; t < TILES; t++) mma_bf16(d[t], tx[k], tw[t][k / 2][k % 2 * 2], tw[t][k / 2][k % 2 * 2 + 1]);
            fetch_x(nx, k, x_offset);
            if (k < 4) fetch_w(nw, k, fetch_slot);
            else
                #pragma unroll
                for (int j = 0; j < TILES; j++) load_w(i + STAGES - 1, load_slot, (k - 4) * TILES + j);
        }
        if (turn) load_x((i + 1) / CHUNK_STEPS + 1);
        cp_async_commit();
        #pragma unroll
        for (int j = 0; j < TILES * 4; j++) from[j] += 128;
        x_offset += i + 2 < steps ? 256 : 0;   // the last step's fetch is of nothing; it stays inside
        fetch_slot = fetch_slot == (STAGES - 1) * STAGE ? 0 : fetch_slot + STAGE;
        load_slot = load_slot == (STAGES - 1) * STAGE ? 0 : load_slot + STAGE;
    };
    #pragma unroll 1
    for (int i = 0; i < steps; i += 2) {
        step(i, fx[0], fw[0], fx[1], fw[1]);
        if (EVEN || i + 1 < steps) step(i + 1, fx[1], fw[1], fx[0], fw[0]);
    }
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    const int n = lane >> 2;   // d: row n of x, rows 2 (lane % 4) and the next of each tile of w
    if (n >= N) return;
    #pragma unroll
    for (int t = 0; t < OWN; t++)
        #pragma unroll
        for (int e = 0; e < 2; e++) {
            const int o = row0 + t * 8 + 2 * (lane & 3) + e;
            if (o >= O) continue;
            if constexpr (SWIGLU) {
                const float gate = __bfloat162float(__float2bfloat16_rn(d[t][e])), up = __bfloat162float(__float2bfloat16_rn(d[OWN + t][e]));
                m.y[n * m.ldy + o] = __float2bfloat16_rn(gate * sigmoid(gate) * up);
            } else {
                float s = d[t][e] * m.scale;
                if (m.residual) s += added[t][e];
                if (m.bias) s += __bfloat162float(m.bias[o]);
                m.y[n * m.ldy + o] = __float2bfloat16_rn(s);
            }
        }
}
// 176 KB of shared memory at most: Hopper has them; elsewhere a few rows are the library's business as many are, with the same bits
static inline bool matvec_possible(int64_t N) { return N <= MATVEC_ROWS && device_shared_bytes() >= 180 << 10; }
static inline bool matvec_norm_possible(int64_t N, int64_t K) { return N <= 2 && K <= 8192 && matvec_possible(N); }   // more rows are normalised once, not in every block
template <int TILES, int WARPS, int STAGES, bool SWIGLU, bool NORM, bool EVEN> static void matvec_launch_one(const Matvec *m, int rows, cudaStream_t stream) {
    static bool allowed = false;
    const int w_bytes = WARPS * STAGES * TILES * 8 * 256, x_bytes = NORM ? (int)ceil_div(m->K, 128) * 256 : 2 * (STAGES > 10 ? 2 : 1) * WARPS * 32 * 16;   // of a row of x
    if (!allowed) {
        CUDA_CHECK(cudaFuncSetAttribute(matvec_kernel<TILES, WARPS, STAGES, SWIGLU, NORM, EVEN>, cudaFuncAttributeMaxDynamicSharedMemorySize, w_bytes + (NORM ? 2 * 8192 * 2 : MATVEC_ROWS * x_bytes)));
        CUDA_CHECK(cudaFuncSetAttribute(matvec_kernel<TILES, WARPS, STAGES, SWIGLU, NORM, EVEN>, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
        allowed = true;
    }
    launch_early(matvec_kernel<TILES, WARPS, STAGES, SWIGLU, NORM, EVEN>, dim3((unsigned)ceil_div(m->O, rows)), WARPS * 32, w_bytes + m->N * x_bytes, stream, *m);
}
template <int TILES, int WARPS, int STAGES, bool SWIGLU> static void matvec_launch(const Matvec *m, cudaStream_t stream) {
    CHECK(matvec_possible(m->N) && m->K % 8 == 0 && m->ldx % 8 == 0 && (!m->norm || matvec_norm_possible(m->N, m->K)));
    const int rows = (SWIGLU ? TILES / 2 : TILES) * 8 * WARPS;
    const bool even = m->K % 256 == 0 && m->O % rows == 0;
    if (m->norm && even) matvec_launch_one<TILES, WARPS, STAGES, SWIGLU, true, true>(m, rows, stream);
    else if (m->norm) matvec_launch_one<TILES, WARPS, STAGES, SWIGLU, true, false>(m, rows, stream);
    else if (even) matvec_launch_one<TILES, WARPS, STAGES, SWIGLU, false, true>(m, rows, stream);
    else matvec_launch_one<TILES, WARPS, STAGES, SWIGLU, false, false>(m, rows, stream);
}
// Narrow matrices have a warp for every 8 rows, and one block a multiprocessor with some 110 KB under way: with less, two of them may come to lie on one multiprocessor, which
// then is the last (measured: a quarter slower). Wide ones have a warp for every 16 rows and two blocks a multiprocessor.
static inline void matvec_few(const Matvec *m, cudaStream_t stream) {
    const int64_t warps = ceil_div(m->O, 8), each = device_multiprocessors();
    if (warps <= 4 * each) matvec_launch<1, 4, 14, false>(m, stream);
    else if (warps <= 6 * each) matvec_launch<1, 6, 9, false>(m, stream);
    else matvec_launch<2, 4, 5, false>(m, stream);
}
// y (N, ldy) = silu(x gate^T) * (x up^T), w: gate (O, K) and behind it up (O, K)
static inline void matvec_few_swiglu(const Matvec *m, cudaStream_t stream) { matvec_launch<2, 4, 5, true>(m, stream); }

// One row on Hopper is another kernel's (matvec_sm90.cuh), with the same bits
static inline void matvec(const Matvec *m, cudaStream_t stream) { if (matvec_one_possible(m)) matvec_one(m, stream); else matvec_few(m, stream); }
static inline void matvec_swiglu(const Matvec *m, cudaStream_t stream) { if (matvec_one_possible(m)) matvec_one_swiglu(m, stream); else matvec_few_swiglu(m, stream); }
#endif
#endif
