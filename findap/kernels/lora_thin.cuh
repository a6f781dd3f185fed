// lora_thin.cuh: LoRA's products when the rank is small (at most 48 columns side by side): bf16, sm_80 and up.
//
// All of them move many numbers and compute little: per token 2 R to 4 R FLOPs for each number that is read or written once. A library's GEMM has tiles
// for products that are large in two dimensions; at these shapes it reached a third to a half of the memory's speed, read dy once for dxa and once
// more for dB, and cleared a workspace before each (dev/LOG.md). Three kernels instead, each bound by bytes:
//
//     pass    reads a wide matrix X (N, K) once, and from each tile makes a part of U = s X M^T (xa from x; dxa from dy), of V = P^T X (dA; dB), or of both
//     finish  adds the parts, always in the same order
//     expand  writes a wide matrix Y = U M [+ residual] (y from xa, dx from dxa)
//
// pass: a block owns `rows` rows and CHUNK columns, so that it has all it needs of M in shared memory and its part of V in registers, and walks down its rows
// in tiles of 64 x 128, which arrive by cp.async four ahead. In a tile each warp takes 16 rows and half of the columns for U (the halves are added
// at the end of the rows), then 16 columns and all rows for V: both read their operands from the same tile with ldmatrix, by rows and transposed. Parts are
// fp32, in scratch that mostly stays in the L2 cache: of U one for each CHUNK columns, of V one for each block along the rows.
//
// Measured on an H200 with R = 16 and 4,096 tokens (build/dev/lora), of a copy's bandwidth: matrices of 117 MB and more 62 to 85 %, the library's 43 to 88; of 33 and 50 MB, where two launches are
// most of the time, 35 to 63 %, the library's 10 to 58. They made a step 4 % shorter.
//
// Everywhere M is (R, K) for A, "by row", and (K, R) for B. R is a multiple of 8; the tensor cores take 16 at a time, what is missing is zero.
#ifndef FINDAP_KERNELS_LORA_THIN_CUH
#define FINDAP_KERNELS_LORA_THIN_CUH
#include "cuda.cuh"            // defines: real, bf16, CUDA_CHECK, Pack

// one projection with an adapter, of the up to three of a site
typedef struct {
    const real *b;           // (O, R)
    float *db;               // (O, R), backwards
    int64_t O, column;       // its columns of y begin here; those of xa at R times its place in the list
} LoraSide;

#if defined(FINDAP_FP32) || !defined(__CUDACC__)   // no tensor cores for this
static inline bool thin_possible(int64_t columns) { (void)columns; return false; }
template <typename... A> static void thin_a_forward(A...) {}
template <typename... A> static void thin_b_forward(A...) {}
template <typename... A> static void thin_b_backward(A...) {}
template <typename... A> static void thin_a_backward_input(A...) {}
template <typename... A> static void thin_a_backward_weight(A...) {}
#else
#include "attention_mma.cuh"   // defines: cp_async16, cp_async_commit, ldsm_x4, ldsm_x4_transposed, mma_bf16

enum { THIN_THREADS = 256, THIN_ROWS = 64, THIN_COLS = 128, THIN_STAGES = 4, THIN_PARTS = 3, THIN_EXPAND_COLS = 512 };

// some columns of the wide matrix, and what they are multiplied with: one projection's of dy or y; all of x or dx
typedef struct {
    const bf16 *m;
    float *v;                  // (width, R) or, by row, (R, width): where V goes
    int column, width;         // in X or Y
    int u_column;              // in U and P
    int first_chunk, chunks;
} ThinPart;

typedef struct {
    const bf16 *x, *p;         // (N, ldx), (N, ldu)
    bf16 *u;                   // (N, ldu)
    float *u_parts, *v_parts;  // (chunks, N, R); (row blocks, ldx, R) or, by row, (row blocks, R, ldx)
    int64_t ldx;
    int N, R, ldu, rows, row_blocks, num_parts, chunks;
    float scale;
    bool add;
    ThinPart part[THIN_PARTS];
} ThinPass;

template <int RB, bool PROJECT, bool GRADIENT, bool BY_ROW> struct Thin {   // RB: R in units of 16, rounded up
    static constexpr int TILES = RB <= 2 ? 4 : 2, CHUNK = TILES * THIN_COLS;
    static constexpr int STRIDE = 32 * RB + 16;   // bytes of a row of P, and of M if not by row: an odd number of 16, so that eight rows lie in different banks
    static constexpr int TILE_BYTES = THIN_ROWS * THIN_COLS * 2, P_BYTES = THIN_ROWS * STRIDE;
    static constexpr int P_AT = THIN_STAGES * TILE_BYTES, M_AT = P_AT + (GRADIENT ? 3 * P_BYTES : 0);   // in shared memory, behind the tiles
    static constexpr int SUMS_AT = M_AT + (!PROJECT ? 0 : BY_ROW ? 16 * RB * CHUNK * 2 : CHUNK * STRIDE), BYTES = SUMS_AT + (PROJECT ? 2 * RB * 128 * 16 : 0);
};

template <int RB, bool PROJECT, bool GRADIENT, bool BY_ROW> __global__ static void __launch_bounds__(THIN_THREADS) thin_pass_kernel(const __grid_constant__ ThinPass a) {
    using S = Thin<RB, PROJECT, GRADIENT, BY_ROW>;
    extern __shared__ __align__(128) uint8_t thin_shared[];
    const uint32_t tiles = smem_u32(thin_shared), p_tiles = tiles + S::P_AT, m_tile = tiles + S::M_AT;
    float4 *sums = reinterpret_cast<float4 *>(thin_shared + S::SUMS_AT);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int which = 0;
    while (which + 1 < a.num_parts && (int)blockIdx.x >= a.part[which + 1].first_chunk) which++;
    const ThinPart part = a.part[which];
    const int column = ((int)blockIdx.x - part.first_chunk) * S::CHUNK, width = part.width - column;   // width: columns from this block's first on that exist
    const int t0 = (int)blockIdx.y * a.rows, rows = min(a.rows, a.N - t0), row_tiles = (rows + THIN_ROWS - 1) / THIN_ROWS, last = row_tiles * S::TILES;
    const bf16 *x = a.x + (int64_t)t0 * a.ldx + part.column + column;

    auto load = [&](int i) {   // tile i of this block's: four 16-byte units a thread; with the first of a row of tiles, P's rows
        const int r0 = (i / S::TILES) * THIN_ROWS, c0 = (i % S::TILES) * THIN_COLS, u = threadIdx.x % 16, r = threadIdx.x / 16;
        const uint32_t to = tiles + (i % THIN_STAGES) * S::TILE_BYTES + r * 256 + ((u ^ (r & 7)) << 4);
        const bool inside = c0 + u * 8 < width;
        #pragma unroll
        for (int k = 0; k < 4; k++) {
            const int row = r0 + r + 16 * k;
            const bool exists = inside && row < rows;
            cp_async16(to + k * 16 * 256, exists ? x + (int64_t)row * a.ldx + c0 + u * 8 : a.x, exists);
        }
        if (GRADIENT && i % S::TILES == 0)
            for (int k = threadIdx.x; k < THIN_ROWS * 2 * RB; k += THIN_THREADS) {
                const int row = k / (2 * RB), unit = k % (2 * RB);
                const bool exists = r0 + row < rows && unit * 8 < a.R;
                cp_async16(p_tiles + (i / S::TILES % 3) * S::P_BYTES + row * S::STRIDE + unit * 16, exists ? a.p + (int64_t)(t0 + r0 + row) * a.ldu + part.u_column + unit * 8 : a.x, exists);
            }
    };
    if (PROJECT) {
        if (BY_ROW) {
            for (int k = threadIdx.x; k < 16 * RB * S::CHUNK / 8; k += THIN_THREADS) {
                const int r = k / (S::CHUNK / 8), u = k % (S::CHUNK / 8);
                const bool exists = r < a.R && u * 8 < width;
                cp_async16(m_tile + r * S::CHUNK * 2 + ((u ^ (r & 7)) << 4), exists ? part.m + (int64_t)r * part.width + column + u * 8 : a.x, exists);
            }
        } else {
            for (int k = threadIdx.x; k < S::CHUNK * 2 * RB; k += THIN_THREADS) {
                const int c = k / (2 * RB), unit = k % (2 * RB);
                const bool exists = c < width && unit * 8 < a.R;
                cp_async16(m_tile + c * S::STRIDE + unit * 16, exists ? part.m + (int64_t)(column + c) * a.R + unit * 8 : a.x, exists);
            }
        }
    }
    #pragma unroll
    for (int i = 0; i < THIN_STAGES - 1; i++) {
        if (i < last) load(i);
        cp_async_commit();
    }

    float v[GRADIENT ? S::TILES : 1][RB][2][4], u[RB][2][4];
    #pragma unroll
    for (int k = 0; k < (GRADIENT ? S::TILES : 1) * RB * 8; k++) v[k / (8 * RB)][k / 8 % RB][k / 4 % 2][k % 4] = 0.0f;
    for (int i = 0; i < last;) {
        #pragma unroll
        for (int k = 0; k < RB * 8; k++) u[k / 8][k / 4 % 2][k % 4] = 0.0f;
        #pragma unroll
        for (int tile = 0; tile < S::TILES; tile++, i++) {
            asm volatile("cp.async.wait_group %0;" ::"n"(THIN_STAGES - 2) : "memory");
            __syncthreads();   // tile i has arrived for all, and tile i - 1 has been read by all
            if (i + THIN_STAGES - 1 < last) load(i + THIN_STAGES - 1);
            cp_async_commit();
            const uint32_t at = tiles + (i % THIN_STAGES) * S::TILE_BYTES;
            if (PROJECT) {
                #pragma unroll
                for (int k = 0; k < 4; k++) {   // 16 columns each
                    const int row = (warp & 3) * 16 + (lane & 15), unit = (warp >> 2) * 8 + k * 2;
                    uint32_t fx[4], fm[4];
                    ldsm_x4(fx, at + row * 256 + (((unit + (lane >> 4)) ^ (row & 7)) << 4));
                    #pragma unroll
                    for (int b = 0; b < RB; b++) {
                        if (BY_ROW) {
                            const int r = b * 16 + (lane >> 4) * 8 + (lane & 7), c = tile * (THIN_COLS / 8) + unit + ((lane >> 3) & 1);
                            ldsm_x4(fm, m_tile + r * S::CHUNK * 2 + ((c ^ (r & 7)) << 4));
                        } else ldsm_x4_transposed(fm, m_tile + (tile * THIN_COLS + unit * 8 + (lane & 15)) * S::STRIDE + (b * 2 + (lane >> 4)) * 16);
                        mma_bf16(u[b][0], fx, fm[0], fm[1]);
                        mma_bf16(u[b][1], fx, fm[2], fm[3]);
                    }
                }
            }
            if (GRADIENT) {
                const uint32_t p_at = p_tiles + (i / S::TILES % 3) * S::P_BYTES;
                #pragma unroll
                for (int k = 0; k < THIN_ROWS / 16; k++) {
                    const int row = k * 16 + (lane & 15);
                    uint32_t fx[4], fp[4];
                    ldsm_x4_transposed(fx, at + row * 256 + (((warp * 2 + (lane >> 4)) ^ (row & 7)) << 4));
                    #pragma unroll
                    for (int b = 0; b < RB; b++) {
                        ldsm_x4_transposed(fp, p_at + (k * 16 + (lane >> 4) * 8 + (lane & 7)) * S::STRIDE + (b * 2 + ((lane >> 3) & 1)) * 16);
                        mma_bf16(v[tile][b][0], fp, fx[0], fx[1]);
                        mma_bf16(v[tile][b][1], fp, fx[2], fx[3]);
                    }
                }
            }
        }
        if (PROJECT) {   // the second half's sums to the first; between here and the next such place lie barriers enough
            const int slot = (warp & 3) * 32 + lane, r0 = (i / S::TILES - 1) * THIN_ROWS + (warp & 3) * 16 + lane / 4;
            if (warp >= 4)
                #pragma unroll
                for (int k = 0; k < 2 * RB; k++) sums[k * 128 + slot] = make_float4(u[k / 2][k % 2][0], u[k / 2][k % 2][1], u[k / 2][k % 2][2], u[k / 2][k % 2][3]);
            __syncthreads();
            if (warp < 4) {
                #pragma unroll
                for (int k = 0; k < 2 * RB; k++) {
                    const float4 other = sums[k * 128 + slot];
                    const int r = k * 8 + (lane & 3) * 2;
                    if (r >= a.R) continue;
                    float *to = a.u_parts + ((int64_t)blockIdx.x * a.N + t0 + r0) * a.R + r;
                    if (r0 < rows) *reinterpret_cast<float2 *>(to) = make_float2(u[k / 2][k % 2][0] + other.x, u[k / 2][k % 2][1] + other.y);
                    if (r0 + 8 < rows) *reinterpret_cast<float2 *>(to + 8 * a.R) = make_float2(u[k / 2][k % 2][2] + other.z, u[k / 2][k % 2][3] + other.w);
                }
            }
        }
    }
    if (GRADIENT) {
        #pragma unroll
        for (int k = 0; k < S::TILES * RB * 4; k++) {
            const int tile = k / (4 * RB), b = k / 4 % RB, n = k / 2 % 2, half = k % 2;
            const int r = b * 16 + lane / 4 + half * 8, c = tile * THIN_COLS + warp * 16 + n * 8 + (lane & 3) * 2;
            if (r >= a.R || c >= width) continue;
            const float *from = v[tile][b][n] + 2 * half;
            if (BY_ROW) *reinterpret_cast<float2 *>(a.v_parts + ((int64_t)blockIdx.y * a.R + r) * a.ldx + column + c) = make_float2(from[0], from[1]);
            else
                for (int e = 0; e < 2; e++) a.v_parts[((int64_t)blockIdx.y * a.ldx + part.column + column + c + e) * a.R + r] = from[e];
        }
    }
}

// u = s x the sum of its parts; v = or += the sum of its parts; 8 numbers a thread, the blocks of U first
__device__ static inline void thin_add8(float (&sum)[8], const float *from) {
    const float4 a = *reinterpret_cast<const float4 *>(from), b = *reinterpret_cast<const float4 *>(from + 4);
    sum[0] += a.x; sum[1] += a.y; sum[2] += a.z; sum[3] += a.w; sum[4] += b.x; sum[5] += b.y; sum[6] += b.z; sum[7] += b.w;
}
template <bool BY_ROW> __global__ static void __launch_bounds__(THIN_THREADS) thin_finish_kernel(const __grid_constant__ ThinPass a, int u_blocks) {
    float sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if ((int)blockIdx.x < u_blocks) {
        const int per_row = a.num_parts * a.R / 8;
        const int64_t i = (int64_t)blockIdx.x * THIN_THREADS + threadIdx.x, t = i / per_row;
        if (t >= a.N) return;
        const int j = (int)(i % per_row) * 8, which = j / a.R;
        const ThinPart part = a.part[which];
        #pragma unroll 8
        for (int k = 0; k < part.chunks; k++) thin_add8(sum, a.u_parts + ((int64_t)(part.first_chunk + k) * a.N + t) * a.R + j % a.R);
        Pack<bf16> out;
        for (int e = 0; e < 8; e++) out.at[e] = __float2bfloat16_rn(a.scale * sum[e]);
        store_pack(a.u + t * a.ldu + part.u_column + j % a.R, out);
        return;
    }
    const int64_t i = ((int64_t)(blockIdx.x - u_blocks) * THIN_THREADS + threadIdx.x) * 8, all = a.ldx * a.R;
    if (i >= all) return;
    float *to;
    if (BY_ROW) to = a.part[0].v + i;
    else {
        const int c = (int)(i / a.R);
        int which = 0;
        while (which < a.num_parts && (c < a.part[which].column || c >= a.part[which].column + a.part[which].width)) which++;
        if (which == a.num_parts) return;
        to = a.part[which].v + (i - (int64_t)a.part[which].column * a.R);
    }
    #pragma unroll 8
    for (int k = 0; k < a.row_blocks; k++) thin_add8(sum, a.v_parts + k * all + i);
    if (a.add) thin_add8(sum, to);
    *reinterpret_cast<float4 *>(to) = make_float4(sum[0], sum[1], sum[2], sum[3]);
    *reinterpret_cast<float4 *>(to + 4) = make_float4(sum[4], sum[5], sum[6], sum[7]);
}

// Y (N, ldy) = U M [+ residual], of the columns of the parts. A warp holds M for 64 columns in registers - by way of shared memory: fetched number by number, each waits for
// the one before, and a block lived for that - and walks down the rows. Which column of the product is which of Y is free: 2 c + e of the fragment of tile j is
// 8 c + 2 j + e of 32, so that a thread has eight neighbours, one 16-byte store; and which r is which of a sum of 16 is free too: 2 q + 8 h + e of
// the fragments is 4 q + 2 h + e, so that a thread reads four neighbours of U.
typedef struct {
    const bf16 *u, *residual;  // (N, ldu); like y
    bf16 *y;
    int64_t ldy;
    int N, R, ldu, rows, num_parts;
    ThinPart part[THIN_PARTS];
} ThinExpand;
template <int RB, bool BY_ROW> struct Expand {
    static constexpr int STRIDE = BY_ROW ? THIN_EXPAND_COLS * 2 + 16 : 32 * RB + 16, BYTES = (BY_ROW ? 16 * RB : THIN_EXPAND_COLS) * STRIDE;
};
template <int RB, bool BY_ROW> __global__ static void __launch_bounds__(THIN_THREADS) thin_expand_kernel(const __grid_constant__ ThinExpand a) {
    using S = Expand<RB, BY_ROW>;
    extern __shared__ __align__(128) uint8_t thin_shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, q = lane & 3, g = lane >> 2;
    int which = 0;
    while (which + 1 < a.num_parts && (int)blockIdx.x >= a.part[which + 1].first_chunk) which++;
    const ThinPart part = a.part[which];
    const int first = ((int)blockIdx.x - part.first_chunk) * THIN_EXPAND_COLS, column = first + warp * 64, width = part.width - column;
    const uint32_t tile = smem_u32(thin_shared);
    if (BY_ROW) {
        for (int k = threadIdx.x; k < 16 * RB * THIN_EXPAND_COLS / 8; k += THIN_THREADS) {
            const int r = k / (THIN_EXPAND_COLS / 8), c = k % (THIN_EXPAND_COLS / 8) * 8;
            const bool exists = r < a.R && first + c < part.width;
            cp_async16(tile + r * S::STRIDE + c * 2, exists ? part.m + (int64_t)r * part.width + first + c : part.m, exists);
        }
    } else {
        for (int k = threadIdx.x; k < THIN_EXPAND_COLS * 2 * RB; k += THIN_THREADS) {
            const int c = k / (2 * RB), unit = k % (2 * RB);
            const bool exists = first + c < part.width && unit * 8 < a.R;
            cp_async16(tile + c * S::STRIDE + unit * 16, exists ? part.m + (int64_t)(first + c) * a.R + unit * 8 : part.m, exists);
        }
    }
    cp_async_commit();
    const int begin = (int)blockIdx.y * a.rows, end = min(begin + a.rows, a.N);
    auto load = [&](uint32_t (&fu)[RB][4], int t) {
        #pragma unroll
        for (int k = 0; k < 2 * RB; k++) {
            const int row = t + g + (k & 1) * 8, r = k / 2 * 16 + 4 * q;
            const uint2 four = row < end && r < a.R ? *reinterpret_cast<const uint2 *>(a.u + (int64_t)row * a.ldu + part.u_column + r) : make_uint2(0, 0);
            fu[k / 2][k & 1] = four.x;
            fu[k / 2][2 + (k & 1)] = four.y;
        }
    };
    uint32_t fm[2][4][RB][2], fu[RB][4], next[RB][4];
    load(fu, begin);
    cp_async_wait_all();
    __syncthreads();
    #pragma unroll
    for (int k = 0; k < 8 * RB; k++) {
        const int group = k / (4 * RB), j = k / RB % 4, b = k % RB, c = warp * 64 + group * 32 + (g >> 1) * 8 + 2 * j + (g & 1), r = b * 16 + 4 * q;
        if (BY_ROW) {
            const uint8_t *at = thin_shared + r * S::STRIDE + c * 2;
            auto pair = [&](int n) { return (uint32_t)*reinterpret_cast<const uint16_t *>(at + n * S::STRIDE) | (uint32_t)*reinterpret_cast<const uint16_t *>(at + (n + 1) * S::STRIDE) << 16; };
            fm[group][j][b][0] = pair(0);
            fm[group][j][b][1] = pair(2);
        } else {
            const uint2 four = *reinterpret_cast<const uint2 *>(thin_shared + c * S::STRIDE + r * 2);
            fm[group][j][b][0] = four.x;
            fm[group][j][b][1] = four.y;
        }
    }
    bf16 *y = a.y + (int64_t)(begin + g) * a.ldy + part.column + column + q * 8;
    const bf16 *with = a.residual ? a.residual + (y - a.y) : NULL;
    const int64_t eight = 8 * a.ldy;
    for (int t = begin; t < end; t += 16) {
        load(next, t + 16);
        #pragma unroll
        for (int group = 0; group < 2; group++) {
            float s[4][4];
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
                #pragma unroll
                for (int b = 0; b < RB; b++) mma_bf16(s[j], fu[b], fm[group][j][b][0], fm[group][j][b][1]);
            }
            #pragma unroll
            for (int half = 0; half < 2; half++) {
                if (t + g + half * 8 >= end || group * 32 + q * 8 >= width) continue;
                if (with) {
                    const Pack<bf16> x = load_pack(with + half * eight + group * 32);
                    #pragma unroll
                    for (int k = 0; k < 8; k++) s[k / 2][2 * half + k % 2] += __bfloat162float(x.at[k]);
                }
                uint4 out;
                out.x = pack_bf16(s[0][2 * half], s[0][2 * half + 1]); out.y = pack_bf16(s[1][2 * half], s[1][2 * half + 1]);
                out.z = pack_bf16(s[2][2 * half], s[2][2 * half + 1]); out.w = pack_bf16(s[3][2 * half], s[3][2 * half + 1]);
                *reinterpret_cast<uint4 *>(y + half * eight + group * 32) = out;
            }
        }
        y += 2 * eight;
        if (with) with += 2 * eight;
        #pragma unroll
        for (int k = 0; k < 4 * RB; k++) fu[k / 4][k % 4] = next[k / 4][k % 4];
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// launches

static inline int thin_chunks(ThinPart *part, int n, int chunk) {   // places the parts' chunks one behind the other; how many there are
    int chunks = 0;
    for (int i = 0; i < n; i++) { part[i].first_chunk = chunks; part[i].chunks = (int)ceil_div(part[i].width, chunk); chunks += part[i].chunks; }
    return chunks;
}
template <int RB, bool PROJECT, bool GRADIENT, bool BY_ROW> static void thin_pass_launch(ThinPass a, void *scratch, size_t scratch_bytes, cudaStream_t stream) {
    using S = Thin<RB, PROJECT, GRADIENT, BY_ROW>;
    static int blocks_at_once = 0;
    if (blocks_at_once == 0) {
        CUDA_CHECK(cudaFuncSetAttribute(thin_pass_kernel<RB, PROJECT, GRADIENT, BY_ROW>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::BYTES));
        CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_at_once, thin_pass_kernel<RB, PROJECT, GRADIENT, BY_ROW>, THIN_THREADS, S::BYTES));
        CHECK(blocks_at_once > 0);
        blocks_at_once *= device_multiprocessors();
    }
    a.chunks = thin_chunks(a.part, a.num_parts, S::CHUNK);
    const int most_blocks = a.chunks < blocks_at_once ? blocks_at_once / a.chunks : 1;
    // rows are taken in spans for which the parts have room: one span, unless a micro-batch is very large
    const int64_t v_bytes = GRADIENT ? most_blocks * a.ldx * a.R * 4 : 0, room = (int64_t)scratch_bytes - v_bytes, all = a.N;
    CHECK(room > 0);
    int64_t span = PROJECT ? room / (a.chunks * a.R * 4) / THIN_ROWS * THIN_ROWS : all;
    if (span > all) span = all;
    CHECK(span > 0);
    a.v_parts = (float *)scratch;
    a.u_parts = (float *)((char *)scratch + v_bytes);
    for (int64_t begin = 0; begin < all; begin += span) {
        ThinPass s = a;
        s.N = (int)(all - begin < span ? all - begin : span);
        s.x += begin * a.ldx;
        if (PROJECT) s.u += begin * a.ldu;
        if (GRADIENT) s.p += begin * a.ldu;
        s.add = a.add || begin > 0;
        s.rows = (int)(ceil_div(ceil_div(s.N, most_blocks), THIN_ROWS) * THIN_ROWS);
        s.row_blocks = (int)ceil_div(s.N, s.rows);
        thin_pass_kernel<RB, PROJECT, GRADIENT, BY_ROW><<<dim3((unsigned)s.chunks, (unsigned)s.row_blocks), THIN_THREADS, S::BYTES, stream>>>(s);
        const int u_blocks = PROJECT ? (int)ceil_div((int64_t)s.N * (s.num_parts * s.R / 8), THIN_THREADS) : 0, v_blocks = GRADIENT ? (int)ceil_div(s.ldx * s.R / 8, THIN_THREADS) : 0;
        thin_finish_kernel<BY_ROW><<<u_blocks + v_blocks, THIN_THREADS, 0, stream>>>(s, u_blocks);
        CUDA_CHECK(cudaGetLastError());
    }
}
// project: u is made; gradient: every part's v is
template <bool PROJECT, bool GRADIENT, bool BY_ROW> static void thin_pass(const ThinPass &a, void *scratch, size_t scratch_bytes, cudaStream_t stream) {
    const int blocks = (a.R + 15) / 16;
    if (blocks == 1) thin_pass_launch<1, PROJECT, GRADIENT, BY_ROW>(a, scratch, scratch_bytes, stream);
    else if (blocks == 2) thin_pass_launch<2, PROJECT, GRADIENT, BY_ROW>(a, scratch, scratch_bytes, stream);
    else { CHECK(blocks == 3); thin_pass_launch<3, PROJECT, GRADIENT, BY_ROW>(a, scratch, scratch_bytes, stream); }
}
template <int RB, bool BY_ROW> static void thin_expand_launch(ThinExpand a, cudaStream_t stream) {
    constexpr int bytes = Expand<RB, BY_ROW>::BYTES;
    static bool allowed = false;
    if (!allowed) { CUDA_CHECK(cudaFuncSetAttribute(thin_expand_kernel<RB, BY_ROW>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)); allowed = true; }
    const int64_t chunks = thin_chunks(a.part, a.num_parts, THIN_EXPAND_COLS), rows = ceil_div(a.N * chunks, 8 * (int64_t)device_multiprocessors());   // four to five blocks for each place
    a.rows = rows < 64 ? 64 : (int)(ceil_div(rows, 16) * 16);
    thin_expand_kernel<RB, BY_ROW><<<dim3((unsigned)chunks, (unsigned)ceil_div(a.N, a.rows)), THIN_THREADS, bytes, stream>>>(a);
    CUDA_CHECK(cudaGetLastError());
}
template <bool BY_ROW> static void thin_expand(const ThinExpand &a, cudaStream_t stream) {
    const int blocks = (a.R + 15) / 16;
    if (blocks == 1) thin_expand_launch<1, BY_ROW>(a, stream);
    else if (blocks == 2) thin_expand_launch<2, BY_ROW>(a, stream);
    else { CHECK(blocks == 3); thin_expand_launch<3, BY_ROW>(a, stream); }
}

// ---------------------------------------------------------------------------------------------------------------------
// the products, under the names of lora.cuh

static inline bool thin_possible(int64_t columns) {   // side by side; a block needs up to 140 KB of shared memory, which not every card has
    static int shared = 0;
    if (shared == 0) {
        int device;
        CUDA_CHECK(cudaGetDevice(&device));
        CUDA_CHECK(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    }
    return columns <= 48 && shared >= 160 << 10;   // from 64 columns on the library is faster
}
static inline ThinPass thin_pass_of(const bf16 *x, int64_t ldx, int64_t N, int64_t R, int64_t ldu, int parts) {
    ThinPass a;
    memset(&a, 0, sizeof a);
    a.x = x; a.ldx = ldx; a.N = (int)N; a.R = (int)R; a.ldu = (int)ldu; a.num_parts = parts;
    return a;
}
static inline void thin_a_forward(void *scratch, size_t scratch_bytes, bf16 *xa, const bf16 *x, const bf16 *a, float scale, int64_t N, int64_t K, int64_t nR, cudaStream_t stream) {
    ThinPass p = thin_pass_of(x, K, N, nR, nR, 1);
    p.u = xa; p.scale = scale;
    p.part[0].m = a; p.part[0].width = (int)K;
    thin_pass<true, false, true>(p, scratch, scratch_bytes, stream);
}
static inline void thin_b_backward(void *scratch, size_t scratch_bytes, bf16 *dxa, const bf16 *dy, int64_t ldy, const bf16 *xa, const LoraSide *side, int n, float scale, bool add, int64_t N, int64_t R, cudaStream_t stream) {
    ThinPass p = thin_pass_of(dy, ldy, N, R, n * R, n);
    p.u = dxa; p.p = xa; p.scale = scale; p.add = add;
    for (int i = 0; i < n; i++) { p.part[i].m = side[i].b; p.part[i].v = side[i].db; p.part[i].column = (int)side[i].column; p.part[i].width = (int)side[i].O; p.part[i].u_column = (int)(i * R); }
    thin_pass<true, true, false>(p, scratch, scratch_bytes, stream);
}
static inline void thin_a_backward_weight(void *scratch, size_t scratch_bytes, float *da, const bf16 *dxa, const bf16 *x, bool add, int64_t N, int64_t K, int64_t nR, cudaStream_t stream) {
    ThinPass p = thin_pass_of(x, K, N, nR, nR, 1);
    p.p = dxa; p.add = add;
    p.part[0].v = da; p.part[0].width = (int)K;
    thin_pass<false, true, true>(p, scratch, scratch_bytes, stream);
}
static inline ThinExpand thin_expand_of(bf16 *y, int64_t ldy, const bf16 *u, int64_t ldu, int64_t N, int64_t R, int parts) {
    ThinExpand a;
    memset(&a, 0, sizeof a);
    a.y = y; a.ldy = ldy; a.u = u; a.ldu = (int)ldu; a.N = (int)N; a.R = (int)R; a.num_parts = parts;
    return a;
}
static inline void thin_b_forward(bf16 *y, int64_t ldy, const bf16 *xa, const LoraSide *side, int n, const bf16 *residual, int64_t N, int64_t R, cudaStream_t stream) {
    ThinExpand e = thin_expand_of(y, ldy, xa, n * R, N, R, n);
    e.residual = residual;
    for (int i = 0; i < n; i++) { e.part[i].m = side[i].b; e.part[i].column = (int)side[i].column; e.part[i].width = (int)side[i].O; e.part[i].u_column = (int)(i * R); }
    thin_expand<false>(e, stream);
}
static inline void thin_a_backward_input(bf16 *dx, const bf16 *dxa, const bf16 *a, int64_t N, int64_t K, int64_t nR, cudaStream_t stream) {
    ThinExpand e = thin_expand_of(dx, K, dxa, nR, N, nR, 1);
    e.part[0].m = a; e.part[0].width = (int)K;
    thin_expand<true>(e, stream);
}
#endif
#endif
