// decode.cuh: what generating a token costs beside training's kernels: attention over keys and values that lie in pages, and products of a few rows with a
// whole weight matrix. bf16, sm_80 and up; the fp32 build has plain loops instead.
//
// Both are bound by bytes. Attention reads each key and value once, for all query heads of its group: 4 HD bytes a token and key/value head. A product with up to 8 rows
// reads the matrix once: 2 K O bytes. The tensor cores are used because they are the cheapest way to multiply what has arrived, mostly by zeros.
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
    int64_t N, width, num_tiles, longest;   // longest: most tokens that a row sees
    const int32_t *tokens, *positions, *sequence, *pages, *tiles;   // tiles NULL: a row a tile
    const int32_t *host_tiles;              // the same on the host
} PagedCall;
enum { DECODE_ROWS = 16 /* of a tile: tokens times query heads of a key/value head */, DECODE_SPLIT = 256 /* tokens of a block */ };
static inline int64_t decode_splits(int64_t longest) { return longest < 1 ? 1 : ceil_div(longest, DECODE_SPLIT); }
// floats of scratch for the parts of up to N rows; with less, rows are taken in several goes
static inline int64_t decode_scratch(int64_t N, int64_t NH, int64_t HD, int64_t longest) { return decode_splits(longest) == 1 ? 0 : N * NH * decode_splits(longest) * (HD + 2); }
static inline int64_t decode_tile_tokens(int64_t NH, int64_t NKV) { return DECODE_ROWS / (NH / NKV) > 1 ? DECODE_ROWS / (NH / NKV) : 1; }

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
        for (int e = 0; e < P; e++) {
            const float x = to_float(a.at[e]), y = to_float(b.at[e]), cosine = turn[2 * e], sine = turn[2 * e + 1];
            a.at[e] = from_float<real>(x * cosine - y * sine);
            b.at[e] = from_float<real>(y * cosine + x * sine);
        }
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
__global__ static void attention_pages_plain_kernel(real *out, const real *qkv, const real *k, const real *v, const __grid_constant__ PagedCall c, int NH, int NKV, int HD) {
    extern __shared__ float plain_scores[];   // (positions + 1)
    __shared__ float shared[33];
    const int64_t n = blockIdx.y;
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
static inline void attention_pages_plain(real *out, const real *qkv, const real *k, const real *v, const PagedCall *c, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    CUDA_CHECK(cudaFuncSetAttribute(attention_pages_plain_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)c->longest * 4 > 48 << 10 ? (int)c->longest * 4 : 48 << 10));
    attention_pages_plain_kernel<<<dim3((unsigned)NH, (unsigned)c->N), 128, (size_t)c->longest * 4, stream>>>(out, qkv, k, v, *c, (int)NH, (int)NKV, (int)HD);
    CUDA_CHECK(cudaGetLastError());
}
static inline void matmul_plain(real *y, int64_t ldy, const real *x, int64_t ldx, const real *w, const real *bias, const real *residual, float scale, int64_t N, int64_t K, int64_t O, cudaStream_t stream) {
    matmul_plain_kernel<<<(unsigned)ceil_div(N * O, 256), 256, 0, stream>>>(y, ldy, x, ldx, w, bias, residual, scale, N, K, O);
    CUDA_CHECK(cudaGetLastError());
}

#ifdef FINDAP_FP32
static inline bool decode_possible(int64_t, int64_t, int64_t) { return false; }
static inline bool matvec_possible(int64_t) { return false; }
static inline void decode_attention(real *, const real *, const real *, const real *, const PagedCall *, float *, int64_t, int64_t, int64_t, int64_t, cudaStream_t) {}
static inline void matvec(real *, int64_t, const real *, int64_t, const real *, const real *, const real *, float, int64_t, int64_t, int64_t, cudaStream_t) {}
static inline void matvec_swiglu(real *, const real *, const real *, int64_t, int64_t, int64_t, cudaStream_t) {}
#else
#include "attention_mma.cuh"   // defines: cp_async16, cp_async_commit, ldsm_x4, ldsm_x4_transposed, mma_bf16, pack_bf16, ex2

// ---------------------------------------------------------------------------------------------------------------------
// attention

enum { DECODE_WARPS = 4, DECODE_STAGES = 3 };

typedef struct {
    bf16 *out;                 // (N, NH*HD)
    const bf16 *qkv;           // (N, W)
    const bf16 *k, *v;
    float *part;               // (rows of this launch, NH, splits, HD + 2): sums, their maximum and their weight; only with more than one split
    int NH, NKV, splits, first_tile, first_row;
    float scale_log2;
} Decode;

// One block: a tile, a key/value head, DECODE_SPLIT tokens. A warp takes every fourth page, three ahead by cp.async, which it waits for alone, and keeps its own
// maxima and sums; in the end the four are put together. Row r of a product's first operand is query head r % G of the tile's token r / G. ALONE: tiles are one token, and
// the group at most 8 heads: rows from 8 on are not there. What a row gets hangs on its own tokens only: later ones are masked, which changes no bit.
template <int HD, bool ALONE> __global__ static void __launch_bounds__(DECODE_WARPS * 32) decode_attention_kernel(const __grid_constant__ Decode a, const __grid_constant__ PagedCall c) {
    constexpr int PAGE_BYTES = PAGE_TOKENS * HD * 2, UNITS = HD / 8, STAGE = 2 * PAGE_BYTES, ROWS = ALONE ? 8 : 16, H = ALONE ? 1 : 2;
    extern __shared__ __align__(128) uint8_t decode_shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane >> 2, q4 = lane & 3, G = a.NH / a.NKV;
    const int split = blockIdx.x, head = blockIdx.y, tile = a.first_tile + blockIdx.z, W = (a.NH + 2 * a.NKV) * HD;
    const int row0 = c.tiles ? c.tiles[tile] : tile, tokens = c.tiles ? c.tiles[tile + 1] - row0 : 1, rows = tokens * G;
    const int length = c.positions[row0] + tokens, begin = split * DECODE_SPLIT, end = min(length, begin + DECODE_SPLIT);   // positions rise by one
    wait_for_previous();
    let_next_begin();
    if (begin >= length) return;
    const int first = begin / PAGE_TOKENS + warp, last = (end + PAGE_TOKENS - 1) / PAGE_TOKENS;
    const int32_t *table = c.pages + (int64_t)c.sequence[row0] * c.width;
    const uint32_t stages = smem_u32(decode_shared) + warp * DECODE_STAGES * STAGE;

    auto load = [&](int page, int stage) {
        if (page < last) {
            const int64_t at = ((int64_t)table[page] * a.NKV + head) * PAGE_TOKENS * HD;
            #pragma unroll
            for (int i = 0; i < PAGE_TOKENS * UNITS / 32; i++) {
                const int u = i * 32 + lane, row = u / UNITS, unit = u % UNITS;
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
    int own[H];   // the last position that rows g and g + 8 see
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        const int r = g + 8 * h;
        const bool there = h < H && r < rows;
        const bf16 *from = a.qkv + (int64_t)(row0 + (there ? r / G : 0)) * W + (int64_t)(head * G + (there ? r % G : 0)) * HD + 2 * q4;
        if (h < H) own[h] = there ? length - tokens + r / G : -1;
        #pragma unroll
        for (int i = 0; i < HD / 16; i++) {
            fq[i][h] = there ? *reinterpret_cast<const uint32_t *>(from + i * 16) : 0;
            fq[i][2 + h] = there ? *reinterpret_cast<const uint32_t *>(from + i * 16 + 8) : 0;
        }
    }
    float o[HD / 8][4], most[H], sum[H];
    #pragma unroll
    for (int h = 0; h < H; h++) { most[h] = -INFINITY; sum[h] = 0; }
    #pragma unroll
    for (int i = 0; i < HD / 8 * 4; i++) o[i / 4][i % 4] = 0.0f;
    int stage = 0;
    for (int page = first; page < last; page += DECODE_WARPS) {
        asm volatile("cp.async.wait_group %0;" ::"n"(DECODE_STAGES - 2) : "memory");
        __syncwarp();   // the page has arrived for all lanes, and all have done with the one before
        load(page + (DECODE_STAGES - 1) * DECODE_WARPS, (stage + DECODE_STAGES - 1) % DECODE_STAGES);
        const uint32_t k = stages + stage * STAGE, v = k + PAGE_BYTES;
        stage = (stage + 1) % DECODE_STAGES;
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
        float fade[H];
        #pragma unroll
        for (int h = 0; h < H; h++) {
            float high = most[h];
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                const int t = page * PAGE_TOKENS + (i / 2) * 8 + 2 * q4 + i % 2;
                float &x = s[i / 2][2 * h + i % 2];
                x = t <= own[h] && t < end ? x * a.scale_log2 : -INFINITY;
                high = fmaxf(high, x);
            }
            high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
            high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
            const float base = high == -INFINITY ? 0.0f : high;   // a row that has seen nothing yet, or is not there
            fade[h] = ex2(most[h] - base);
            float p[4], added = 0;
            #pragma unroll
            for (int i = 0; i < 4; i++) { p[i] = ex2(s[i / 2][2 * h + i % 2] - base); added += p[i]; }
            sum[h] = sum[h] * fade[h] + added;   // of this lane's tokens; the quad's are added in the end
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
            for (int e = 0; e < 2 * H; e++) { o[2 * i][e] *= fade[e / 2]; o[2 * i + 1][e] *= fade[e / 2]; }
            mma_bf16(o[2 * i], fp, f[0], f[1]);
            mma_bf16(o[2 * i + 1], fp, f[2], f[3]);
        }
    }
    // the four warps' together, in the memory the pages were in
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();
    float *all = reinterpret_cast<float *>(decode_shared);   // (warps, ROWS, HD + 2)
    #pragma unroll
    for (int h = 0; h < H; h++) {
        sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
        sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
        float *mine = all + (warp * ROWS + g + 8 * h) * (HD + 2);
        #pragma unroll
        for (int i = 0; i < HD / 8; i++) { mine[i * 8 + 2 * q4] = o[i][2 * h]; mine[i * 8 + 2 * q4 + 1] = o[i][2 * h + 1]; }
        if (q4 == 0) { mine[HD] = most[h]; mine[HD + 1] = sum[h]; }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * HD; i += DECODE_WARPS * 32) {
        const int r = i / HD, d = i % HD, n = row0 + r / G, query = head * G + r % G;
        float high = -INFINITY, weight = 0, x = 0;
        for (int w = 0; w < DECODE_WARPS; w++) high = fmaxf(high, all[(w * ROWS + r) * (HD + 2) + HD]);
        for (int w = 0; w < DECODE_WARPS; w++) {
            const float *one = all + (w * ROWS + r) * (HD + 2);
            const float share = one[HD] == -INFINITY ? 0.0f : ex2(one[HD] - high);   // a warp without a page of this row's
            weight += share * one[HD + 1];
            x += share * one[d];
        }
        if (a.splits == 1) a.out[((int64_t)n * a.NH + query) * HD + d] = __float2bfloat16_rn(x / weight);
        else {
            float *part = a.part + (((int64_t)(n - a.first_row) * a.NH + query) * a.splits + split) * (HD + 2);
            part[d] = x;
            if (d == 0) { part[HD] = high; part[HD + 1] = weight; }
        }
    }
}
__global__ static void decode_join_kernel(const __grid_constant__ Decode a, const int32_t *positions, int HD) {
    const int h = blockIdx.x, n = a.first_row + blockIdx.y, splits = positions[n] / DECODE_SPLIT + 1;
    const float *part = a.part + ((int64_t)blockIdx.y * a.NH + h) * a.splits * (HD + 2);
    wait_for_previous();
    let_next_begin();
    float high = -INFINITY, weight = 0, x = 0;
    for (int s = 0; s < splits; s++) high = fmaxf(high, part[s * (HD + 2) + HD]);
    for (int s = 0; s < splits; s++) {
        const float share = ex2(part[s * (HD + 2) + HD] - high);
        weight += share * part[s * (HD + 2) + HD + 1];
        x += share * part[s * (HD + 2) + threadIdx.x];
    }
    a.out[((int64_t)n * a.NH + h) * HD + threadIdx.x] = __float2bfloat16_rn(x / weight);
}
static inline bool decode_possible(int64_t NH, int64_t NKV, int64_t HD) { return (HD == 64 || HD == 128) && NH / NKV <= 8; }

// out (N, NH*HD) = attention of the q in qkv (N, W) over the pages of their sequences, up to their own positions. scratch: scratch_count floats, decode_scratch of a tile's tokens at least
static inline void decode_attention(bf16 *out, const bf16 *qkv, const bf16 *k, const bf16 *v, const PagedCall *c, float *scratch, int64_t scratch_count, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    CHECK(decode_possible(NH, NKV, HD) && c->longest <= c->width * PAGE_TOKENS);
    Decode a = {out, qkv, k, v, scratch, (int)NH, (int)NKV, (int)decode_splits(c->longest), 0, 0, 1.4426950408889634f / sqrtf((float)HD)};
    const int bytes = DECODE_WARPS * DECODE_STAGES * 2 * PAGE_TOKENS * (int)HD * 2;
    static bool allowed = false;
    if (!allowed) {
        CUDA_CHECK(cudaFuncSetAttribute(decode_attention_kernel<128, true>, cudaFuncAttributeMaxDynamicSharedMemorySize, DECODE_WARPS * DECODE_STAGES * 2 * PAGE_TOKENS * 128 * 2));
        CUDA_CHECK(cudaFuncSetAttribute(decode_attention_kernel<128, false>, cudaFuncAttributeMaxDynamicSharedMemorySize, DECODE_WARPS * DECODE_STAGES * 2 * PAGE_TOKENS * 128 * 2));
        CUDA_CHECK(cudaFuncSetAttribute(decode_attention_kernel<64, true>, cudaFuncAttributeMaxDynamicSharedMemorySize, DECODE_WARPS * DECODE_STAGES * 2 * PAGE_TOKENS * 64 * 2));
        CUDA_CHECK(cudaFuncSetAttribute(decode_attention_kernel<64, false>, cudaFuncAttributeMaxDynamicSharedMemorySize, DECODE_WARPS * DECODE_STAGES * 2 * PAGE_TOKENS * 64 * 2));
        allowed = true;
    }
    const int64_t tile_part = decode_scratch(c->tiles ? decode_tile_tokens(NH, NKV) : 1, NH, HD, c->longest), fit = tile_part ? scratch_count / tile_part : 32768, most = fit < 32768 ? fit : 32768;
    CHECK(most > 0);
    for (int64_t tile = 0; tile < c->num_tiles; tile += most) {
        const int64_t tiles = c->num_tiles - tile < most ? c->num_tiles - tile : most, end = tile + tiles;
        a.first_tile = (int)tile;
        a.first_row = c->tiles ? c->host_tiles[tile] : (int)tile;
        const int64_t rows = (c->tiles ? c->host_tiles[end] : (int)end) - a.first_row;
        const dim3 grid((unsigned)a.splits, (unsigned)NKV, (unsigned)tiles);
        if (HD == 128) launch_early(c->tiles ? decode_attention_kernel<128, false> : decode_attention_kernel<128, true>, grid, DECODE_WARPS * 32, bytes, stream, a, *c);
        else launch_early(c->tiles ? decode_attention_kernel<64, false> : decode_attention_kernel<64, true>, grid, DECODE_WARPS * 32, bytes, stream, a, *c);
        if (a.splits > 1) launch_early(decode_join_kernel, dim3((unsigned)NH, (unsigned)rows), (int)HD, 0, stream, a, c->positions, (int)HD);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// a few rows times a matrix

// A warp has MATVEC_BYTES of w on their way into shared memory, and the L2 is asked for what comes MATVEC_AHEAD steps later: shared memory is kept small so that a multiprocessor
// has room for blocks of the next product while this one runs
enum { MATVEC_ROWS = 8 /* most rows of x */, MATVEC_BYTES = 16384, MATVEC_AHEAD = 16 };

// y (N, ldy) = scale x (N, ldx) w^T [+ residual, laid out like y] [+ bias (O)], N <= 8, w (O, K), K and ldx multiples of 8. A warp has TILES times 8 rows of w, each a chain of
// products over K, and feeds itself by cp.async, 128 columns a stage. x is the product's first operand, of whose 16 rows the upper eight are zero, w the second: so a
// warp needs no more than 8 rows of w, and narrow matrices have enough warps. While a stage is multiplied, the next one's operands are fetched. x is read once a block: all
// warps of the card want the same line of it at the same time, and one slice of the L2 would serve them in turn (measured: half of the time). SWIGLU: w is gate (O, K) and up
// (O, K), y = silu(gate x) * (up x), rounded in between as by two kernels; of the tiles the first half are rows of gate, the others the same of up, and one thread has both.
// The inner loop is a chain of dependent products with everything else issued between them; a warp has a scheduler to itself, so each instruction counts: addresses
// are registers plus constants, and EVEN, K a multiple of 256 and O one of the block's rows, knows no ends.
template <int TILES, int WARPS, bool SWIGLU, bool EVEN> __global__ static void __launch_bounds__(WARPS * 32) matvec_kernel(bf16 *y, const bf16 *x, const bf16 *w, const bf16 *bias, const bf16 *residual, float scale, int64_t ldx, int64_t ldy, int N, int K, int O) {
    extern __shared__ __align__(128) uint8_t matvec_shared[];   // (WARPS, MATVEC_BYTES) of w; (2, N, CHUNK) of x
    constexpr int OWN = SWIGLU ? TILES / 2 : TILES, STAGE = TILES * 8 * 256, STAGES = MATVEC_BYTES / STAGE, CHUNK = WARPS * 32 * 8 /* columns of x that lie in shared memory at a time, twice */, CHUNK_STEPS = CHUNK / 128;
    static_assert(STAGES >= 4 && STAGES - 3 <= CHUNK_STEPS - 1, "a chunk of x has come when it is needed");
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, unit = lane & 15, sub = lane >> 4, steps = (K + 127) / 128, row0 = (blockIdx.x * WARPS + warp) * OWN * 8;
    const uint32_t w_base = smem_u32(matvec_shared) + warp * MATVEC_BYTES, x_base = smem_u32(matvec_shared) + WARPS * MATVEC_BYTES, x_buffer = N * (CHUNK * 2);
    // 16-byte unit u of row r of a stage of w lies at r * 256 + (u ^ r % 8) * 16, of row n of a chunk of x at n * CHUNK * 2 + (u ^ n) * 16: what ldmatrix reads at a time lies in different banks
    const bf16 *from[TILES * 4];   // this lane's 16 bytes of rows sub, sub + 2, ...: of the step that is copied next
    uint32_t to[4];                // where they go, of rows 0 to 7 of the first stage
    bool has[TILES * 4];
    #pragma unroll
    for (int j = 0; j < TILES * 4; j++) {
        const int r = j * 2 + sub, o = row0 + (SWIGLU ? r % (OWN * 8) : r);
        has[j] = EVEN || o < O;
        from[j] = has[j] ? w + ((int64_t)o + (SWIGLU && r >= OWN * 8 ? O : 0)) * K + unit * 8 : w;
        if (j < 4) to[j] = w_base + r * 256 + ((unit ^ r) << 4);
    }
    auto load_w = [&](int i, uint32_t slot, int j) {   // of TILES * 4; behind the end nothing is read
        const bool there = i < steps && (EVEN || (has[j] && i * 128 + unit * 8 < K));
        cp_async16(to[j % 4] + slot + j / 4 * 2048, EVEN || there ? from[j] : w, there);
    };
    auto x_place = [&](int chunk, int n) { return x_base + (chunk & 1) * x_buffer + n * (CHUNK * 2) + (((int)threadIdx.x ^ n) << 4); };
    auto load_x = [&](int chunk) {
        const int c = chunk * CHUNK + threadIdx.x * 8;
        for (int n = 0; n < N; n++) cp_async16(x_place(chunk, n), c < K ? x + n * ldx + c : x, c < K);
    };
    // a lane asks for one line of a row of each tile, half a step of it
    const bf16 *line = w + ((int64_t)(row0 + (lane >> 1 & 7)) + (SWIGLU && lane >= 16 ? O : 0)) * K + (lane & 1) * 64;
    auto ask = [&](int i) {
        if (EVEN && i < steps && lane < TILES * 16) asm volatile("prefetch.global.L2 [%0];" ::"l"(line + i * 128 + (SWIGLU || lane < 16 ? 0 : 8 * (int64_t)K)));
    };
    #pragma unroll 1
    for (int i = 0; i < STAGES - 1; i++) {   // no weight hangs on the kernel before
        #pragma unroll
        for (int j = 0; j < TILES * 4; j++) { load_w(i, i * STAGE, j); from[j] += 128; }
        cp_async_commit();
    }
    let_next_begin();
    #pragma unroll 1
    for (int i = STAGES - 1; i < STAGES - 1 + MATVEC_AHEAD; i++) ask(i);
    wait_for_previous();
    for (int n = 0; n < N; n++) {   // the first chunk by hand: behind all those copies it would have to wait for them
        const int c = threadIdx.x * 8;
        const uint4 v = c < K ? *reinterpret_cast<const uint4 *>(x + n * ldx + c) : make_uint4(0, 0, 0, 0);
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(x_place(0, n)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
    }
    load_x(1);
    cp_async_commit();
    // Operands of a step: fw[t][k / 2]: of tile t both halves of two sixteens; fx[k]: the two halves of sixteen k, each twice, since rows 8 to 15 of a product are those above again
    uint32_t fx[2][8][4], fw[2][TILES][4][4], at_x[4], at_w[2];
    {
        const int row = lane & 7, x_row = row < N ? row : N - 1;   // rows of x that are not there: any, their sums are dropped
        #pragma unroll
        for (int k = 0; k < 4; k++) at_x[k] = x_base + x_row * (CHUNK * 2) + (((k * 2 + (lane >> 4)) ^ x_row) << 4);
        #pragma unroll
        for (int k = 0; k < 2; k++) at_w[k] = w_base + row * 256 + (((k * 4 + (lane >> 3)) ^ row) << 4);
    }
    auto fetch_x = [&](uint32_t (&tx)[8][4], int k, uint32_t offset) { ldsm_x4(tx[k], at_x[k % 4] + offset + k / 4 * 128); };
    auto fetch_w = [&](uint32_t (&tw)[TILES][4][4], int k, uint32_t slot) {
        #pragma unroll
        for (int t = 0; t < TILES; t++) ldsm_x4(tw[t][k], at_w[k % 2] + slot + k / 2 * 128 + t * 2048);
    };
    float d[TILES][4];
    #pragma unroll
    for (int t = 0; t < TILES * 4; t++) d[t / 4][t % 4] = 0.0f;
    asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
    __syncthreads();
    #pragma unroll
    for (int k = 0; k < 8; k++) { fetch_x(fx[0], k, 0); if (k < 4) fetch_w(fw[0], k, 0); }
    uint32_t fetch_slot = STAGE, load_slot = (STAGES - 1) * STAGE, x_offset = 256;   // of step i + 1; of step i + STAGES - 1, which takes the place of step i - 1: its operands have been multiplied
    auto step = [&](int i, uint32_t (&tx)[8][4], uint32_t (&tw)[TILES][4][4], uint32_t (&nx)[8][4], uint32_t (&nw)[TILES][4][4]) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 3) : "memory");
        const bool turn = (i + 1) % CHUNK_STEPS == 0;   // the next step begins a chunk: all threads' copies of it have come, and all have done with the last one
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
        ask(i + STAGES - 1 + MATVEC_AHEAD);
        #pragma unroll
        for (int j = 0; j < TILES * 4; j++) from[j] += 128;
        x_offset += 256;
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
                y[n * ldy + o] = __float2bfloat16_rn(gate * sigmoid(gate) * up);
            } else {
                float s = d[t][e] * scale;
                if (residual) s += __bfloat162float(residual[n * ldy + o]);
                if (bias) s += __bfloat162float(bias[o]);
                y[n * ldy + o] = __float2bfloat16_rn(s);
            }
        }
}
static inline bool matvec_possible(int64_t N) { return N <= MATVEC_ROWS; }
template <int TILES, int WARPS, bool SWIGLU, bool EVEN> static void matvec_launch_one(bf16 *y, int64_t ldy, const bf16 *x, int64_t ldx, const bf16 *w, const bf16 *bias, const bf16 *residual, float scale, int64_t N, int64_t K, int64_t O, int64_t rows, cudaStream_t stream) {
    static bool allowed = false;
    const int w_bytes = WARPS * MATVEC_BYTES, x_bytes = 2 * WARPS * 32 * 8 * 2 /* of a row */;
    if (!allowed) {
        CUDA_CHECK(cudaFuncSetAttribute(matvec_kernel<TILES, WARPS, SWIGLU, EVEN>, cudaFuncAttributeMaxDynamicSharedMemorySize, w_bytes + MATVEC_ROWS * x_bytes));
        CUDA_CHECK(cudaFuncSetAttribute(matvec_kernel<TILES, WARPS, SWIGLU, EVEN>, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
        allowed = true;
    }
    launch_early(matvec_kernel<TILES, WARPS, SWIGLU, EVEN>, dim3((unsigned)ceil_div(O, rows)), WARPS * 32, w_bytes + (int)N * x_bytes, stream, y, x, w, bias, residual, scale, ldx, ldy, (int)N, (int)K, (int)O);
}
template <int TILES, int WARPS, bool SWIGLU> static void matvec_launch(bf16 *y, int64_t ldy, const bf16 *x, int64_t ldx, const bf16 *w, const bf16 *bias, const bf16 *residual, float scale, int64_t N, int64_t K, int64_t O, cudaStream_t stream) {
    CHECK(matvec_possible(N) && K % 8 == 0 && ldx % 8 == 0);
    const int64_t rows = (SWIGLU ? TILES / 2 : TILES) * 8 * WARPS;
    if (K % 256 == 0 && O % rows == 0) matvec_launch_one<TILES, WARPS, SWIGLU, true>(y, ldy, x, ldx, w, bias, residual, scale, N, K, O, rows, stream);
    else matvec_launch_one<TILES, WARPS, SWIGLU, false>(y, ldy, x, ldx, w, bias, residual, scale, N, K, O, rows, stream);
}
// Narrow matrices have a warp for every 8 rows, as many in a block as it takes to have one block a multiprocessor; wide ones have a warp for every 16
static inline void matvec(bf16 *y, int64_t ldy, const bf16 *x, int64_t ldx, const bf16 *w, const bf16 *bias, const bf16 *residual, float scale, int64_t N, int64_t K, int64_t O, cudaStream_t stream) {
    const int64_t warps = ceil_div(O, 8), each = device_multiprocessors();
    if (warps <= 4 * each) matvec_launch<1, 4, false>(y, ldy, x, ldx, w, bias, residual, scale, N, K, O, stream);
    else if (warps <= 6 * each) matvec_launch<1, 6, false>(y, ldy, x, ldx, w, bias, residual, scale, N, K, O, stream);
    else matvec_launch<2, 4, false>(y, ldy, x, ldx, w, bias, residual, scale, N, K, O, stream);
}
// y (N, F) = silu(x gate^T) * (x up^T), w: gate (F, K) and behind it up (F, K)
static inline void matvec_swiglu(bf16 *y, const bf16 *x, const bf16 *w, int64_t N, int64_t K, int64_t F, cudaStream_t stream) { matvec_launch<2, 4, true>(y, F, x, K, w, NULL, NULL, 1.0f, N, K, F, stream); }
#endif
#endif
