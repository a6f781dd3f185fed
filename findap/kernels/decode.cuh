// decode.cuh: what generating a token costs beside training's kernels: attention of single queries over keys and values that lie in pages, and products
// of a few rows with a whole weight matrix. bf16, sm_80 and up.
//
// Both are bound by bytes. Attention reads each key and value once, for all query heads of its group: 4 HD bytes a token and key/value head. A product with up to 8 rows
// reads the matrix once: 2 K O bytes. The tensor cores are used because they are the cheapest way to multiply what has arrived, mostly by zeros.
//
// A row's result does not depend on which other rows there are: how sums are split depends on a row's length and on the matrix, never on the batch. So the same
// request gives the same bits alone and among others.
//
// Pages are those of model.h's Call: of a layer, k and v are (pages, NKV, PAGE_TOKENS, HD); position t of sequence s lies in page pages[s][t / PAGE_TOKENS], at t % PAGE_TOKENS. A row is
// a token of a Call: one of a prompt as well as the one that a running answer goes on from.
#ifndef FINDAP_KERNELS_DECODE_CUH
#define FINDAP_KERNELS_DECODE_CUH
#include "cuda.cuh"        // defines: real, bf16, Pack, load_pack, store_pack, CUDA_CHECK
#include "findap/model.h"  // defines: PAGE_TOKENS

// k and v of the N rows of qkv (N, W), RoPE applied, into their pages. positions, sequence (N), pages (sequences, width): of a Call, on the device
__global__ static void kv_store_kernel(real *k, real *v, const real *qkv, const int32_t *positions, const int32_t *sequence, const int32_t *pages, int64_t width, int NH, int NKV, int HD) {
    constexpr int P = Pack<real>::size;
    const int64_t n = blockIdx.x, t = positions[n], page = pages[sequence[n] * width + t / PAGE_TOKENS];
    const real *from = qkv + n * (NH + 2 * NKV) * HD + (int64_t)NH * HD;
    for (int i = threadIdx.x * P; i < 2 * NKV * HD; i += blockDim.x * P) {
        const int side = i / (NKV * HD), head = i / HD % NKV;
        store_pack((side ? v : k) + ((page * NKV + head) * PAGE_TOKENS + t % PAGE_TOKENS) * HD + i % HD, load_pack(from + i));
    }
}
static inline void kv_store(real *k, real *v, const real *qkv, const int32_t *positions, const int32_t *sequence, const int32_t *pages, int64_t width, int64_t N, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    kv_store_kernel<<<(unsigned)N, 128, 0, stream>>>(k, v, qkv, positions, sequence, pages, width, (int)NH, (int)NKV, (int)HD);
    CUDA_CHECK(cudaGetLastError());
}

#ifndef FINDAP_FP32
#include "attention_mma.cuh"   // defines: cp_async16, cp_async_commit, ldsm_x4, ldsm_x4_transposed, mma_bf16, pack_bf16, ex2

// ---------------------------------------------------------------------------------------------------------------------
// attention

enum { DECODE_WARPS = 4, DECODE_STAGES = 3, DECODE_SPLIT = 256 /* tokens of a block */, DECODE_GROUP = 8 /* most query heads of a key/value head */ };

typedef struct {
    const bf16 *q;             // (N, ldq): NH heads of HD numbers
    bf16 *out;                 // (N, ldo): likewise
    const bf16 *k, *v;
    const int32_t *pages;      // (sequences, width)
    const int32_t *positions, *sequence;   // (N) row n sees the tokens of its sequence up to its own position
    float *part;               // (N, NH, splits, HD + 2): sums, their maximum and their weight; only with more than one split
    int64_t ldq, ldo;
    int NH, NKV, width, splits;
    float scale_log2;
} Decode;

// One block: a row, a key/value head, DECODE_SPLIT tokens. A warp takes every fourth page, three ahead by cp.async, which it waits for alone, and keeps its own
// maximum and sums; in the end the four are put together. Of the 16 rows of a product's first operand the group's query heads are the first.
template <int HD> __global__ static void __launch_bounds__(DECODE_WARPS * 32) decode_attention_kernel(const __grid_constant__ Decode a) {
    constexpr int PAGE_BYTES = PAGE_TOKENS * HD * 2, UNITS = HD / 8, STAGE = 2 * PAGE_BYTES;
    extern __shared__ __align__(128) uint8_t decode_shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane >> 2, q4 = lane & 3, G = a.NH / a.NKV;
    const int split = blockIdx.x, head = blockIdx.y, n = blockIdx.z, length = a.positions[n] + 1, begin = split * DECODE_SPLIT, end = min(length, begin + DECODE_SPLIT);
    if (begin >= length) return;
    const int first = begin / PAGE_TOKENS + warp, last = (end + PAGE_TOKENS - 1) / PAGE_TOKENS;
    const int32_t *table = a.pages + (int64_t)a.sequence[n] * a.width;
    const uint32_t stages = smem_u32(decode_shared) + warp * DECODE_STAGES * STAGE;

    auto load = [&](int page, int stage) {
        if (page < last) {
            const int64_t at = ((int64_t)table[page] * a.NKV + head) * PAGE_TOKENS * HD;
            #pragma unroll
            for (int i = 0; i < PAGE_TOKENS * UNITS / 32; i++) {
                const int c = i * 32 + lane, row = c / UNITS, unit = c % UNITS;
                const uint32_t to = stages + stage * STAGE + row * HD * 2 + ((unit ^ (row & 7)) << 4);
                const bool seen = page * PAGE_TOKENS + row < end;   // what lies behind the end may be NaN, and 0 times that is too
                cp_async16(to, a.k + at + c * 8, seen);
                cp_async16(to + PAGE_BYTES, a.v + at + c * 8, seen);
            }
        }
        cp_async_commit();
    };
    #pragma unroll
    for (int s = 0; s < DECODE_STAGES - 1; s++) load(first + s * DECODE_WARPS, s);

    uint32_t fq[HD / 16][4];
    #pragma unroll
    for (int i = 0; i < HD / 16; i++) {
        const bf16 *from = a.q + (int64_t)n * a.ldq + (int64_t)(head * G + g) * HD + i * 16 + 2 * q4;
        fq[i][0] = g < G ? *reinterpret_cast<const uint32_t *>(from) : 0;
        fq[i][2] = g < G ? *reinterpret_cast<const uint32_t *>(from + 8) : 0;
        fq[i][1] = fq[i][3] = 0;
    }
    float o[HD / 8][4], most = -INFINITY, sum = 0;
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
        float high = most;
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            const int t = page * PAGE_TOKENS + (i / 2) * 8 + 2 * q4 + i % 2;
            s[i / 2][i % 2] = t < end ? s[i / 2][i % 2] * a.scale_log2 : -INFINITY;
            high = fmaxf(high, s[i / 2][i % 2]);
        }
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
        const float fade = ex2(most - high);   // the first time: 2^-infinity; `high` is finite, since a page has a visible token
        float p[2][2], added = 0;
        #pragma unroll
        for (int i = 0; i < 4; i++) { p[i / 2][i % 2] = ex2(s[i / 2][i % 2] - high); added += p[i / 2][i % 2]; }
        sum = sum * fade + added;   // of this lane's tokens; the quad's are added in the end
        most = high;
        uint32_t fp[4] = {pack_bf16(p[0][0], p[0][1]), 0, pack_bf16(p[1][0], p[1][1]), 0};
        #pragma unroll
        for (int i = 0; i < HD / 16; i++) {
            const int row = lane & 15;
            uint32_t f[4];
            ldsm_x4_transposed(f, v + row * HD * 2 + (((i * 2 + (lane >> 4)) ^ (row & 7)) << 4));
            #pragma unroll
            for (int e = 0; e < 2; e++) { o[2 * i][e] *= fade; o[2 * i + 1][e] *= fade; }
            mma_bf16(o[2 * i], fp, f[0], f[1]);
            mma_bf16(o[2 * i + 1], fp, f[2], f[3]);
        }
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);

    // the four warps' together, in the memory the pages were in
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();
    float *all = reinterpret_cast<float *>(decode_shared);   // (warps, heads of the group, HD + 2)
    float *mine = all + (warp * DECODE_GROUP + g) * (HD + 2);
    #pragma unroll
    for (int i = 0; i < HD / 8; i++) { mine[i * 8 + 2 * q4] = o[i][0]; mine[i * 8 + 2 * q4 + 1] = o[i][1]; }
    if (q4 == 0) { mine[HD] = most; mine[HD + 1] = sum; }
    __syncthreads();
    for (int i = threadIdx.x; i < G * HD; i += DECODE_WARPS * 32) {
        const int h = i / HD, d = i % HD;
        float high = -INFINITY, weight = 0, x = 0;
        for (int w = 0; w < DECODE_WARPS; w++) high = fmaxf(high, all[(w * DECODE_GROUP + h) * (HD + 2) + HD]);
        for (int w = 0; w < DECODE_WARPS; w++) {
            const float *one = all + (w * DECODE_GROUP + h) * (HD + 2);
            const float share = one[HD] == -INFINITY ? 0.0f : ex2(one[HD] - high);   // a warp without a page
            weight += share * one[HD + 1];
            x += share * one[d];
        }
        if (a.splits == 1) a.out[(int64_t)n * a.ldo + (int64_t)(head * G + h) * HD + d] = __float2bfloat16_rn(x / weight);
        else {
            float *part = a.part + (((int64_t)n * a.NH + head * G + h) * a.splits + split) * (HD + 2);
            part[d] = x;
            if (d == 0) { part[HD] = high; part[HD + 1] = weight; }
        }
    }
}
__global__ static void decode_join_kernel(const __grid_constant__ Decode a, int HD) {
    const int h = blockIdx.x, n = blockIdx.y, splits = a.positions[n] / DECODE_SPLIT + 1;
    const float *part = a.part + ((int64_t)n * a.NH + h) * a.splits * (HD + 2);
    float high = -INFINITY, weight = 0, x = 0;
    for (int s = 0; s < splits; s++) high = fmaxf(high, part[s * (HD + 2) + HD]);
    for (int s = 0; s < splits; s++) {
        const float share = ex2(part[s * (HD + 2) + HD] - high);
        weight += share * part[s * (HD + 2) + HD + 1];
        x += share * part[s * (HD + 2) + threadIdx.x];
    }
    a.out[(int64_t)n * a.ldo + (int64_t)h * HD + threadIdx.x] = __float2bfloat16_rn(x / weight);
}
static inline int64_t decode_splits(int64_t longest) { return longest < 1 ? 1 : ceil_div(longest, DECODE_SPLIT); }
// floats of scratch for N rows of which the longest sees `longest` tokens
static inline int64_t decode_scratch(int64_t N, int64_t NH, int64_t HD, int64_t longest) { return decode_splits(longest) == 1 ? 0 : N * NH * decode_splits(longest) * (HD + 2); }
static inline bool decode_possible(int64_t NH, int64_t NKV, int64_t HD) { return (HD == 64 || HD == 128) && NH % NKV == 0 && NH / NKV <= DECODE_GROUP; }

// out (N, ldo) = attention of N rows q (N, ldq) over the pages of their sequences (pages, positions, sequence: of a Call, on the device), up to their own positions, all below `longest`
static inline void decode_attention(bf16 *out, int64_t ldo, const bf16 *q, int64_t ldq, const bf16 *k, const bf16 *v, const int32_t *pages, int64_t width, const int32_t *positions, const int32_t *sequence, int64_t longest,
                                    float *scratch, int64_t N, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    CHECK(decode_possible(NH, NKV, HD) && longest <= width * PAGE_TOKENS);
    Decode a = {q, out, k, v, pages, positions, sequence, scratch, ldq, ldo, (int)NH, (int)NKV, (int)width, (int)decode_splits(longest), 1.4426950408889634f / sqrtf((float)HD)};
    const dim3 grid((unsigned)a.splits, (unsigned)NKV, (unsigned)N);
    const int bytes = DECODE_WARPS * DECODE_STAGES * 2 * PAGE_TOKENS * (int)HD * 2;
    static bool allowed = false;
    if (!allowed) {
        CUDA_CHECK(cudaFuncSetAttribute(decode_attention_kernel<128>, cudaFuncAttributeMaxDynamicSharedMemorySize, DECODE_WARPS * DECODE_STAGES * 2 * PAGE_TOKENS * 128 * 2));
        CUDA_CHECK(cudaFuncSetAttribute(decode_attention_kernel<64>, cudaFuncAttributeMaxDynamicSharedMemorySize, DECODE_WARPS * DECODE_STAGES * 2 * PAGE_TOKENS * 64 * 2));
        allowed = true;
    }
    if (HD == 128) decode_attention_kernel<128><<<grid, DECODE_WARPS * 32, bytes, stream>>>(a);
    else decode_attention_kernel<64><<<grid, DECODE_WARPS * 32, bytes, stream>>>(a);
    if (a.splits > 1) decode_join_kernel<<<dim3((unsigned)NH, (unsigned)N), (unsigned)HD, 0, stream>>>(a, (int)HD);
    CUDA_CHECK(cudaGetLastError());
}

// ---------------------------------------------------------------------------------------------------------------------
// a few rows times a matrix

enum { MATVEC_WARPS = 8, MATVEC_ROWS = 8 /* most rows of x */, MATVEC_UNROLL = 4 };

// y (N, ldy) = x (N, K) w^T [+ bias (O)] [+ residual, laid out like y], N <= 8, w (O, K), K a multiple of 32. A block takes 16 rows of w, its warps every eighth piece of 32
// columns; a lane loads 16 bytes of two rows, which are the operands of two products: which column of a sum is which is free, so the eight neighbours a lane
// has are columns 2 q, 2 q + 1, 2 q + 8, 2 q + 9 of one and of the other; and likewise of x.
__global__ static void __launch_bounds__(MATVEC_WARPS * 32) matvec_kernel(bf16 *y, const bf16 *x, const bf16 *w, const bf16 *bias, const bf16 *residual, int64_t ldx, int64_t ldy, int N, int K, int O) {
    __shared__ float sums[MATVEC_WARPS][16 * MATVEC_ROWS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane >> 2, q = lane & 3, row = blockIdx.x * 16 + g, pieces = K / 32;
    const bool has[2] = {row < O, row + 8 < O}, has_x = g < N;
    const bf16 *from = w + (int64_t)row * K + q * 8, *at = x + g * ldx + q * 8;
    float d[4] = {0, 0, 0, 0};
    const uint4 zero = make_uint4(0, 0, 0, 0);
    for (int i = warp; i < pieces; i += MATVEC_WARPS * MATVEC_UNROLL) {
        uint4 low[MATVEC_UNROLL], high[MATVEC_UNROLL], in[MATVEC_UNROLL];
        #pragma unroll
        for (int u = 0; u < MATVEC_UNROLL; u++) {
            const int c = (i + u * MATVEC_WARPS) * 32;
            const bool there = i + u * MATVEC_WARPS < pieces;
            low[u] = there && has[0] ? __ldcs(reinterpret_cast<const uint4 *>(from + c)) : zero;
            high[u] = there && has[1] ? __ldcs(reinterpret_cast<const uint4 *>(from + c + 8 * (int64_t)K)) : zero;
            in[u] = there && has_x ? *reinterpret_cast<const uint4 *>(at + c) : zero;
        }
        #pragma unroll
        for (int u = 0; u < MATVEC_UNROLL; u++) {
            const uint32_t one[4] = {low[u].x, high[u].x, low[u].y, high[u].y}, other[4] = {low[u].z, high[u].z, low[u].w, high[u].w};
            mma_bf16(d, one, in[u].x, in[u].y);
            mma_bf16(d, other, in[u].z, in[u].w);
        }
    }
    // d: rows g and g + 8 of w, rows 2 q and 2 q + 1 of x
    #pragma unroll
    for (int i = 0; i < 4; i++) sums[warp][(2 * q + i % 2) * 16 + g + i / 2 * 8] = d[i];
    __syncthreads();
    const int n = threadIdx.x / 16, o = blockIdx.x * 16 + threadIdx.x % 16;
    if (n >= N || o >= O) return;
    float s = 0;
    #pragma unroll
    for (int i = 0; i < MATVEC_WARPS; i++) s += sums[i][threadIdx.x];
    if (bias) s += __bfloat162float(bias[o]);
    if (residual) s += __bfloat162float(residual[n * ldy + o]);
    y[n * ldy + o] = __float2bfloat16_rn(s);
}
static inline bool matvec_possible(int64_t N, int64_t K) { return N <= MATVEC_ROWS && K % 32 == 0; }
static inline void matvec(bf16 *y, int64_t ldy, const bf16 *x, int64_t ldx, const bf16 *w, const bf16 *bias, const bf16 *residual, int64_t N, int64_t K, int64_t O, cudaStream_t stream) {
    CHECK(matvec_possible(N, K));
    matvec_kernel<<<(unsigned)ceil_div(O, 16), MATVEC_WARPS * 32, 0, stream>>>(y, x, w, bias, residual, ldx, ldy, (int)N, (int)K, (int)O);
    CUDA_CHECK(cudaGetLastError());
}
#endif
#endif
