// attention_mma.cuh: attention on any GPU from sm_80, forward and backward, head_dim 64 or 128, bf16: the tensor cores through mma.sync, which
// every such GPU has, instead of Hopper's wgmma. Causal, inside documents, grouped queries, any T; no atomics, no scratch, the same bits every
// time. Three kernels of one shape:
//
//     forward : 128 queries of a head to a block, 64 keys a step    S = Q K^T, O += P V
//     dQ, D   : 128 queries of a head to a block, 32 keys a step    S, dP = dO V^T, dQ += dS K; and D = rowsum(dO * O) on the way in
//     dK, dV  : 64 keys of a key/value head, 64 queries a step      S^T, dP^T, dV += P^T dO, dK += dS^T Q, over all heads of the group
//
// So the backward pass computes S and dP twice: seven matmuls where attention_backward_sm90 needs five, but nothing goes through memory
// between kernels save D. All are bound by FLOPs, and short of that by what ldmatrix reads: one ldmatrix.x4 takes as long in shared memory as two
// mma.m16n8k16 take in the tensor cores, so every operand that is loaded must serve several products. Hence the tiles: a warp holds as
// many rows as its registers allow (32 in the first two kernels, with the accumulators filling half of the 255 registers; 16 in the third, which
// has two accumulators), and 4 warps make a block, two blocks a multiprocessor, so that one's exponentials run under the other's products.
// On Hopper mma.sync reaches about 60 % of wgmma's rate at best.
//
// Tiles in shared memory: rows of HD bf16, the 16-byte unit u of row r in place u ^ (r & 7), so that eight rows of one column of units, which is
// what ldmatrix reads at a time, lie in different banks.
// Fragments (PTX ISA, mma.m16n8k16): lane l holds of the accumulator d[2 h + e] = row l/4 + 8 h, column 2 (l % 4) + e. Two neighbouring accumulators
// (16 columns), packed in pairs, are the A operand of the next product: neither P nor dS ever leaves its registers. For dK and dV that
// holds when keys are the rows; so that kernel computes its scores transposed.
//
// A branch's hole (attention_plan.h) is visited and masked in the first two kernels; the third does not meet it.
#ifndef FINDAP_KERNELS_ATTENTION_MMA_CUH
#define FINDAP_KERNELS_ATTENTION_MMA_CUH
#include "attention_plan.h"   // defines: AttentionPlan, KEY_TILE, QUERY_TILE
#include "sm90.cuh"           // defines: what sm_80 has too: DEVICE, smem_u32, pack_bf16, ex2, ldsm_x4, load_shared

enum { MMA_THREADS = 128, MMA_ROWS = 128 /* queries of a block */, MMA_FORWARD_KEYS = 64, MMA_DQ_KEYS = 32, MMA_DKV = 64 /* keys, and queries a step */ };

typedef struct {
    int T, TP, NH, NKV, K;                     // K: tiles of 128 in a row
    float scale, scale_log2;
    const int32_t *start, *hole_begin, *hole_end, *end, *end_most;   // the plan's document_start, ..., seen_end, seen_most
    const int32_t *order;                      // of tiles of 128 queries (128 keys for dK, dV), the heaviest first
} MmaShape;

// ---------------------------------------------------------------------------------------------------------------------
// instructions

DEVICE void cp_async16(uint32_t to, const void *from, bool exists) {   // 16 bytes; zeros when there is nothing
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(exists ? 16 : 0) : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
DEVICE void cp_async_wait_all() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }
DEVICE void ldsm_x4_transposed(uint32_t (&r)[4], uint32_t a) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}
// d (16, 8) += a (16, 16) b (16, 8)
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---------------------------------------------------------------------------------------------------------------------
// tiles

// starts the copy of ROWS rows of HD numbers, `stride` apart in memory; rows from `rows` on are not read and become zero
template <int HD, int ROWS> DEVICE void tile_load(uint32_t to, const bf16 *from, int64_t stride, int rows) {
    constexpr int UNITS = HD / 8, STEP = MMA_THREADS / UNITS;   // STEP is a multiple of 8: a thread's rows share r & 7
    const int u = threadIdx.x % UNITS, r0 = threadIdx.x / UNITS;
    to += r0 * HD * 2 + ((u ^ (r0 & 7)) << 4);
    from += r0 * stride + u * 8;
    #pragma unroll
    for (int i = 0; i < ROWS / STEP; i++, from += STEP * stride) cp_async16(to + i * STEP * HD * 2, from, r0 + i * STEP < rows);
}
// What a lane adds to a tile's address for ldmatrix.x4 of its first 16 x 16 block. The block at row r0, column 16 c is then at
// (address ^ 32 c) + r0 * HD * 2: rows are at least 128 bytes, so the unit's bits are the address's bits 4 to 7, and nothing else is.
// by_rows: matrices (0, 0), (8, 0), (0, 8), (8, 8) by row and column: the A operand; and, transposed, the B operand of a sum that runs along the rows
template <int HD> DEVICE uint32_t by_rows(int lane) { return (lane & 15) * HD * 2 + (((lane >> 4) ^ (lane & 7)) << 4); }
// by_columns: (0, 0), (0, 8), (8, 0), (8, 8): the B operand of a sum that runs along the columns; registers 0, 1 serve its rows 0-7, 2, 3 its rows 8-15
template <int HD> DEVICE uint32_t by_columns(int lane) { return ((lane >> 4) * 8 + (lane & 7)) * HD * 2 + ((((lane >> 3) & 1) ^ (lane & 7)) << 4); }

// c (M*16, N*16) += A (M*16, HD) B^T: rows of A from `a` (by_rows), rows of B from `b` (by_columns)
template <int HD, int M, int N> DEVICE void product_rows(float (&c)[M][2 * N][4], uint32_t a, uint32_t b) {
    #pragma unroll
    for (int k = 0; k < HD / 16; k++) {
        uint32_t fa[M][4], fb[4];
        #pragma unroll
        for (int m = 0; m < M; m++) ldsm_x4(fa[m], (a ^ (32 * k)) + m * 16 * HD * 2);
        #pragma unroll
        for (int n = 0; n < N; n++) {
            ldsm_x4(fb, (b ^ (32 * k)) + n * 16 * HD * 2);
            #pragma unroll
            for (int m = 0; m < M; m++) { mma_bf16(c[m][2 * n], fa[m], fb[0], fb[1]); mma_bf16(c[m][2 * n + 1], fa[m], fb[2], fb[3]); }
        }
    }
}
// c (M*16, HD) += A (M*16, N*16) B: A from the accumulators x, rounded to bf16, rows of B from `b` (by_rows)
template <int HD, int M, int N> DEVICE void product_columns(float (&c)[M][HD / 8][4], const float (&x)[M][2 * N][4], uint32_t b) {
    #pragma unroll
    for (int k = 0; k < N; k++) {
        uint32_t fa[M][4], fb[4];
        #pragma unroll
        for (int m = 0; m < M; m++) {
            fa[m][0] = pack_bf16(x[m][2 * k][0], x[m][2 * k][1]); fa[m][1] = pack_bf16(x[m][2 * k][2], x[m][2 * k][3]);
            fa[m][2] = pack_bf16(x[m][2 * k + 1][0], x[m][2 * k + 1][1]); fa[m][3] = pack_bf16(x[m][2 * k + 1][2], x[m][2 * k + 1][3]);
        }
        #pragma unroll
        for (int n = 0; n < HD / 16; n++) {
            ldsm_x4_transposed(fb, (b ^ (32 * n)) + k * 16 * HD * 2);
            #pragma unroll
            for (int m = 0; m < M; m++) { mma_bf16(c[m][2 * n], fa[m], fb[0], fb[1]); mma_bf16(c[m][2 * n + 1], fa[m], fb[2], fb[3]); }
        }
    }
}
template <int M, int N> DEVICE void zero(float (&c)[M][N][4]) {
    #pragma unroll
    for (int i = 0; i < M * N * 4; i++) c[i / (4 * N)][i / 4 % N][i % 4] = 0.0f;
}
// 16 rows of accumulators, scaled (s0: rows 0-7, s1: rows 8-15), to memory in whole 16-byte units, by way of 16 rows of shared memory of this
// warp's own; the first `rows` of them exist
template <int HD> DEVICE void rows_store(bf16 *to, int64_t stride, int rows, uint8_t *staging, const float (&c)[HD / 8][4], float s0, float s1, int lane) {
    constexpr int UNITS = HD / 8;
    __syncwarp();
    const int r = lane >> 2;   // r & 7 is that of row r + 8 too
    #pragma unroll
    for (int j = 0; j < UNITS; j++) {
        uint8_t *at = staging + r * HD * 2 + ((j ^ r) << 4) + (lane & 3) * 4;
        *reinterpret_cast<uint32_t *>(at) = pack_bf16(c[j][0] * s0, c[j][1] * s0);
        *reinterpret_cast<uint32_t *>(at + 8 * HD * 2) = pack_bf16(c[j][2] * s1, c[j][3] * s1);
    }
    __syncwarp();
    #pragma unroll
    for (int i = 0; i < UNITS / 2; i++) {
        const int row = (i * 32 + lane) / UNITS, u = lane % UNITS;
        if (row < rows) *reinterpret_cast<uint4 *>(to + row * stride + u * 8) = *reinterpret_cast<const uint4 *>(staging + row * HD * 2 + ((u ^ (row & 7)) << 4));
    }
}

// the scores of keys in the rows' holes; row: the lane's first of four, 8 apart; key: the lane's first
template <int KEYS> DEVICE void mask_hole(float (&s)[2][KEYS / 8][4], const MmaShape &p, int b, int row, int key) {
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        const int64_t n = (int64_t)b * p.T + min(row + 8 * i, p.T - 1);
        const int from = p.hole_begin[n] - key, to = p.hole_end[n] - key;
        #pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
            #pragma unroll
            for (int e = 0; e < 2; e++) if (8 * j + e >= from && 8 * j + e < to) s[i / 2][j][2 * (i % 2) + e] = -INFINITY;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// forward. K and V have one buffer each: V arrives under Q K^T, the next K under the exponentials and P V.

template <int HD> __global__ static void __launch_bounds__(MMA_THREADS, 2) attention_forward_mma_kernel(bf16 *out, float *lse, const bf16 *qkv, const MmaShape p) {
    extern __shared__ __align__(1024) uint8_t mma_shared[];
    constexpr int KEYS = MMA_FORWARD_KEYS;
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const int tile = p.order[blockIdx.x / p.NH], h = blockIdx.x % p.NH, b = tile / p.K, q0 = tile % p.K * MMA_ROWS;
    const int64_t W = (int64_t)(p.NH + 2 * p.NKV) * HD;
    const int32_t *start = p.start + (int64_t)b * p.T;
    const bf16 *sequence = qkv + (int64_t)b * p.T * W;
    const uint32_t q_s = smem_u32(mma_shared), k_s = q_s + MMA_ROWS * HD * 2, v_s = k_s + KEYS * HD * 2;
    const uint32_t q_a = q_s + warp * 32 * HD * 2 + by_rows<HD>(lane), k_b = k_s + by_columns<HD>(lane), v_b = v_s + by_rows<HD>(lane);
    const int n_min = start[q0] / KEYS, n_max = (min(q0 + MMA_ROWS, p.T) - 1) / KEYS;
    const int first = q0 + warp * 32, column = 2 * (lane & 3);   // this warp's rows: first .. first + 31; this lane's: first + lane/4 + 0, 8, 16, 24
    const int first_key = start[min(first, p.T - 1)], last_start = start[min(first + 31, p.T - 1)];
    const int own_start = p.hole_end[(int64_t)b * p.T + min(first + 31, p.T - 1)];   // the latest beginning of a document or branch among these rows
    const int hole_first = __reduce_min_sync(0xffffffffu, p.hole_begin[(int64_t)b * p.T + min(first + lane, p.T - 1)]);
    float m[4], l[4];                                            // of each of the lane's rows: its maximum, and the lane's part of its sum
    #pragma unroll
    for (int i = 0; i < 4; i++) { m[i] = -INFINITY; l[i] = 0.0f; }
    float o[2][HD / 8][4], s[2][KEYS / 8][4];
    zero(o);
    const bf16 *keys = sequence + (int64_t)n_max * KEYS * W + (p.NH + h / (p.NH / p.NKV)) * HD;   // of the present tile
    tile_load<HD, MMA_ROWS>(q_s, sequence + q0 * W + h * HD, W, p.T - q0);
    tile_load<HD, KEYS>(k_s, keys, W, p.T - n_max * KEYS);
    cp_async_commit();
    #pragma unroll 1
    for (int n = n_max; n >= n_min; n--) {
        const int k0 = n * KEYS;
        const bool busy = first < p.T && k0 <= first + 31 && k0 + KEYS > first_key;   // else this warp's rows see none of these keys
        cp_async_wait_all();
        __syncthreads();                                         // K is here, and everybody is done with the previous V
        tile_load<HD, KEYS>(v_s, keys + p.NKV * HD, W, p.T - k0);
        cp_async_commit();
        zero(s);
        if (busy) product_rows<HD, 2, KEYS / 16>(s, q_a, k_b);
        cp_async_wait_all();
        __syncthreads();                                         // V is here, and everybody is done with K
        keys -= KEYS * W;
        if (n > n_min) tile_load<HD, KEYS>(k_s, keys, W, KEYS);  // not the last tile of the row: whole
        cp_async_commit();
        if (!busy) continue;
        if (k0 + KEYS - 1 > first || k0 < last_start) {          // on the diagonal, or a document begins inside
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = first + (lane >> 2) + 8 * i, high = row - k0 - column, low = start[min(row, p.T - 1)] - k0 - column;
                #pragma unroll
                for (int j = 0; j < KEYS / 8; j++)
                    #pragma unroll
                    for (int e = 0; e < 2; e++) if (8 * j + e > high || 8 * j + e < low) s[i / 2][j][2 * (i % 2) + e] = -INFINITY;
            }
        }
        if (k0 < own_start && k0 + KEYS > hole_first) mask_hole<KEYS>(s, p, b, first + (lane >> 2), k0 + column);
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            float x = m[i], sum = 0.0f;
            #pragma unroll
            for (int j = 0; j < KEYS / 8; j++) x = fmaxf(x, fmaxf(s[i / 2][j][2 * (i % 2)], s[i / 2][j][2 * (i % 2) + 1]));
            x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1)); x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
            const float base = x == -INFINITY ? 0.0f : x * p.scale_log2;   // a row that has seen nothing yet
            #pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
                #pragma unroll
                for (int e = 0; e < 2; e++) { float &y = s[i / 2][j][2 * (i % 2) + e]; y = ex2(fmaf(y, p.scale_log2, -base)); sum += y; }
            const float fade = ex2(fmaf(m[i], p.scale_log2, -base));
            l[i] = fmaf(l[i], fade, sum);
            m[i] = x;
            if (__any_sync(0xffffffffu, fade != 1.0f)) {   // rare after the first tiles
                #pragma unroll
                for (int j = 0; j < HD / 8; j++) { o[i / 2][j][2 * (i % 2)] *= fade; o[i / 2][j][2 * (i % 2) + 1] *= fade; }
            }
        }
        product_columns<HD, 2, KEYS / 16>(o, s, v_b);
    }
    if (first >= p.T) return;
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        l[i] += __shfl_xor_sync(0xffffffffu, l[i], 1); l[i] += __shfl_xor_sync(0xffffffffu, l[i], 2);
        const int row = first + (lane >> 2) + 8 * i;
        if (column == 0 && row < p.T) lse[((int64_t)b * p.NH + h) * p.TP + row] = fmaf(m[i], p.scale_log2, log2f(l[i]));
    }
    #pragma unroll
    for (int i = 0; i < 2; i++)   // this warp's rows of Q, which nobody else reads, become its staging
        rows_store<HD>(out + ((int64_t)b * p.T + first + 16 * i) * p.NH * HD + h * HD, (int64_t)p.NH * HD, p.T - first - 16 * i, mma_shared + (warp * 32 + 16 * i) * HD * 2, o[i], 1.0f / l[2 * i], 1.0f / l[2 * i + 1], lane);
}

// ---------------------------------------------------------------------------------------------------------------------
// dQ, and D for the kernel after it. Two stages of K and V.

template <int HD> __global__ static void __launch_bounds__(MMA_THREADS, 2) attention_backward_query_kernel_mma(bf16 *dqkv, float *dsum, const bf16 *dout, const bf16 *out, const float *lse, const bf16 *qkv, const MmaShape p) {
    extern __shared__ __align__(1024) uint8_t mma_shared[];
    constexpr int KEYS = MMA_DQ_KEYS, TILE = KEYS * HD * 2, LANES = HD / 8;
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const int tile = p.order[blockIdx.x / p.NH], h = blockIdx.x % p.NH, b = tile / p.K, q0 = tile % p.K * MMA_ROWS;
    const int64_t W = (int64_t)(p.NH + 2 * p.NKV) * HD, A = (int64_t)p.NH * HD, statistics = ((int64_t)b * p.NH + h) * p.TP;
    const int32_t *start = p.start + (int64_t)b * p.T;
    const bf16 *sequence = qkv + (int64_t)b * p.T * W, *keys = sequence + (p.NH + h / (p.NH / p.NKV)) * HD, *values = keys + p.NKV * HD;
    const bf16 *dout_rows = dout + ((int64_t)b * p.T + q0) * A + h * HD, *out_rows = out + ((int64_t)b * p.T + q0) * A + h * HD;
    const uint32_t q_s = smem_u32(mma_shared), dout_s = q_s + MMA_ROWS * HD * 2, ring = dout_s + MMA_ROWS * HD * 2;   // a stage: K, V
    float *sums = reinterpret_cast<float *>(mma_shared + 2 * MMA_ROWS * HD * 2 + 4 * TILE);
    const int n_min = start[q0] / KEYS, n_max = (min(q0 + MMA_ROWS, p.T) - 1) / KEYS;
    auto load = [&](int n) {
        const uint32_t to = ring + (n & 1) * 2 * TILE;
        tile_load<HD, KEYS>(to, keys + (int64_t)n * KEYS * W, W, p.T - n * KEYS);
        tile_load<HD, KEYS>(to + TILE, values + (int64_t)n * KEYS * W, W, p.T - n * KEYS);
    };
    tile_load<HD, MMA_ROWS>(q_s, sequence + q0 * W + h * HD, W, p.T - q0);
    tile_load<HD, MMA_ROWS>(dout_s, dout_rows, A, p.T - q0);
    load(n_min);
    cp_async_commit();
    #pragma unroll 4
    for (int i = 0; i < LANES; i++) {   // D of this warp's 32 rows, 32 / LANES of them at a time
        const int r = warp * 32 + i * (32 / LANES) + lane / LANES;
        float sum = 0.0f;
        if (q0 + r < p.T) {
            const Pack<bf16> x = load_pack(out_rows + r * A + lane % LANES * 8), y = load_pack(dout_rows + r * A + lane % LANES * 8);
            #pragma unroll
            for (int k = 0; k < 8; k++) sum += to_float(x.at[k]) * to_float(y.at[k]);
        }
        #pragma unroll
        for (int x = LANES / 2; x > 0; x >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, x);
        if (lane % LANES == 0) {
            sums[r] = sum;
            if (q0 + r < p.TP) dsum[statistics + q0 + r] = sum;   // zero beyond the row: 0 * (0 - D) must stay 0
        }
    }
    __syncwarp();
    const int first = q0 + warp * 32, column = 2 * (lane & 3);
    const int first_key = start[min(first, p.T - 1)], last_start = start[min(first + 31, p.T - 1)];
    const int own_start = p.hole_end[(int64_t)b * p.T + min(first + 31, p.T - 1)];   // the latest beginning of a document or branch among these rows
    const int hole_first = __reduce_min_sync(0xffffffffu, p.hole_begin[(int64_t)b * p.T + min(first + lane, p.T - 1)]);
    float l[4], D[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        const int r = (lane >> 2) + 8 * i;
        l[i] = first + r < p.T ? lse[statistics + first + r] : INFINITY;   // a row that does not exist: P = 0
        D[i] = sums[warp * 32 + r];
    }
    const uint32_t q_a = q_s + warp * 32 * HD * 2 + by_rows<HD>(lane), dout_a = dout_s + warp * 32 * HD * 2 + by_rows<HD>(lane);
    const uint32_t key_columns = ring + by_columns<HD>(lane), key_rows = ring + by_rows<HD>(lane);
    float dq[2][HD / 8][4];
    zero(dq);
    #pragma unroll 1
    for (int n = n_min; n <= n_max; n++) {
        const int k0 = n * KEYS;
        const uint32_t stage = (n & 1) * 2 * TILE;
        cp_async_wait_all();
        __syncthreads();             // this stage is here, and everybody is done with the other
        if (n < n_max) load(n + 1);
        cp_async_commit();
        if (first >= p.T || k0 > first + 31 || k0 + KEYS <= first_key) continue;
        float s[2][KEYS / 8][4], dp[2][KEYS / 8][4];
        zero(s); zero(dp);
        product_rows<HD, 2, KEYS / 16>(s, q_a, key_columns + stage);
        product_rows<HD, 2, KEYS / 16>(dp, dout_a, key_columns + stage + TILE);
        if (k0 + KEYS - 1 > first || k0 < last_start) {
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = first + (lane >> 2) + 8 * i, high = row - k0 - column, low = start[min(row, p.T - 1)] - k0 - column;
                #pragma unroll
                for (int j = 0; j < KEYS / 8; j++)
                    #pragma unroll
                    for (int e = 0; e < 2; e++) if (8 * j + e > high || 8 * j + e < low) s[i / 2][j][2 * (i % 2) + e] = -INFINITY;
            }
        }
        if (k0 < own_start && k0 + KEYS > hole_first) mask_hole<KEYS>(s, p, b, first + (lane >> 2), k0 + column);
        #pragma unroll
        for (int i = 0; i < 4; i++)
            #pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
                #pragma unroll
                for (int e = 0; e < 2; e++) {
                    float &x = s[i / 2][j][2 * (i % 2) + e];
                    x = ex2(fmaf(x, p.scale_log2, -l[i])) * (dp[i / 2][j][2 * (i % 2) + e] - D[i]);
                }
        product_columns<HD, 2, KEYS / 16>(dq, s, key_rows + stage);
    }
    if (first >= p.T) return;
    #pragma unroll
    for (int i = 0; i < 2; i++)
        rows_store<HD>(dqkv + ((int64_t)b * p.T + first + 16 * i) * W + h * HD, W, p.T - first - 16 * i, mma_shared + (warp * 32 + 16 * i) * HD * 2, dq[i], p.scale, p.scale, lane);
}

// ---------------------------------------------------------------------------------------------------------------------
// dK and dV. Two stages of Q, dO, lse and D; 16 keys a warp, as rows.

template <int HD> __global__ static void __launch_bounds__(MMA_THREADS, 2) attention_backward_key_kernel_mma(bf16 *dqkv, const float *dsum, const bf16 *dout, const float *lse, const bf16 *qkv, const MmaShape p) {
    extern __shared__ __align__(1024) uint8_t mma_shared[];
    constexpr int TILE = MMA_DKV * HD * 2, STAGE = 2 * TILE + 2 * MMA_DKV * 4;   // a stage: Q, dO, lse, D
    static_assert(MMA_DKV == QUERY_TILE && KEY_TILE == 2 * MMA_DKV, "the plan's tiles of keys are taken as two halves");
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const int job = p.order[blockIdx.x / (2 * p.NKV)], head = blockIdx.x / 2 % p.NKV, b = job / p.K, k0 = job % p.K * KEY_TILE + blockIdx.x % 2 * MMA_DKV;
    if (k0 >= p.T) return;
    const int group = p.NH / p.NKV;
    const int64_t W = (int64_t)(p.NH + 2 * p.NKV) * HD, A = (int64_t)p.NH * HD;
    const int32_t *end = p.end + (int64_t)b * p.T;
    const bf16 *sequence = qkv + (int64_t)b * p.T * W, *keys = sequence + k0 * W + (p.NH + head) * HD;
    const uint32_t k_s = smem_u32(mma_shared), v_s = k_s + TILE, ring = v_s + TILE;
    const int qt0 = k0 / MMA_DKV, qt1 = (p.end_most[(b * p.TP + k0) / MMA_DKV] + MMA_DKV - 1) / MMA_DKV, steps = (qt1 - qt0) * group;
    int next_qt = qt0, next_h = head * group;
    auto load = [&](int stage) {   // the next step's tiles: all query tiles of one head, then of the next head
        const uint32_t to = ring + stage * STAGE;
        const int q0 = next_qt * MMA_DKV;
        tile_load<HD, MMA_DKV>(to, sequence + q0 * W + next_h * HD, W, p.T - q0);
        tile_load<HD, MMA_DKV>(to + TILE, dout + ((int64_t)b * p.T + q0) * A + next_h * HD, A, p.T - q0);
        if (threadIdx.x < 2 * MMA_DKV / 4) {
            const int i = threadIdx.x % (MMA_DKV / 4) * 4;
            cp_async16(to + 2 * TILE + threadIdx.x * 16, (threadIdx.x < MMA_DKV / 4 ? lse : dsum) + ((int64_t)b * p.NH + next_h) * p.TP + q0 + i, true);
        }
        if (++next_qt == qt1) { next_qt = qt0; next_h++; }
    };
    tile_load<HD, MMA_DKV>(k_s, keys, W, p.T - k0);
    tile_load<HD, MMA_DKV>(v_s, keys + p.NKV * HD, W, p.T - k0);
    load(0);
    cp_async_commit();
    const int first = k0 + warp * 16, key[2] = {first + (lane >> 2), first + (lane >> 2) + 8};   // this warp's keys: first .. first + 15; this lane's two
    const int key_end[2] = {key[0] < p.T ? end[key[0]] : 0, key[1] < p.T ? end[key[1]] : 0};     // a key beyond the row is seen by nobody
    const int end_least = __reduce_min_sync(0xffffffffu, end[min(first + lane % 16, p.T - 1)]), end_most = __reduce_max_sync(0xffffffffu, max(key_end[0], key_end[1]));   // of these 16
    const uint32_t k_a = k_s + warp * 16 * HD * 2 + by_rows<HD>(lane), v_a = v_s + warp * 16 * HD * 2 + by_rows<HD>(lane);
    const uint32_t query_columns = ring + by_columns<HD>(lane), query_rows = ring + by_rows<HD>(lane), numbers = ring + 2 * TILE + (lane & 3) * 8;
    float dk[1][HD / 8][4], dv[1][HD / 8][4];
    zero(dk); zero(dv);
    int qt = qt0;
    #pragma unroll 1
    for (int i = 0; i < steps; i++) {
        const int q0 = qt * MMA_DKV;
        const uint32_t stage = (i & 1) * STAGE;
        if (++qt == qt1) qt = qt0;
        cp_async_wait_all();
        __syncthreads();             // this stage is here, and everybody is done with the other
        if (i + 1 < steps) load((i + 1) & 1);
        cp_async_commit();
        if (q0 >= end_most) continue;
        float x[1][MMA_DKV / 8][4], dp[1][MMA_DKV / 8][4];
        zero(x);
        product_rows<HD, 1, MMA_DKV / 16>(x, k_a, query_columns + stage);
        #pragma unroll
        for (int j = 0; j < MMA_DKV / 8; j++) {   // P^T = 2^(c S^T - lse); lse of queries beyond the row may be anything: the mask puts them right
            const float2 l = load_shared(numbers + stage + j * 32);
            #pragma unroll
            for (int e = 0; e < 4; e++) x[0][j][e] = fmaf(x[0][j][e], p.scale_log2, e % 2 ? -l.y : -l.x);
        }
        if (q0 < first + 15 || q0 + MMA_DKV > end_least) {   // on the diagonal, or where a document, a branch or the row ends
            #pragma unroll
            for (int j = 0; j < MMA_DKV / 8; j++)
                #pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int q = q0 + 8 * j + (lane & 3) * 2 + e % 2;
                    if (q < key[e / 2] || q >= key_end[e / 2]) x[0][j][e] = -INFINITY;
                }
        }
        #pragma unroll
        for (int j = 0; j < MMA_DKV / 8; j++)
            #pragma unroll
            for (int e = 0; e < 4; e++) x[0][j][e] = ex2(x[0][j][e]);
        product_columns<HD, 1, MMA_DKV / 16>(dv, x, query_rows + stage + TILE);
        zero(dp);
        product_rows<HD, 1, MMA_DKV / 16>(dp, v_a, query_columns + stage + TILE);
        #pragma unroll
        for (int j = 0; j < MMA_DKV / 8; j++) {   // dS^T = P^T (dP^T - D)
            const float2 d = load_shared(numbers + stage + MMA_DKV * 4 + j * 32);
            #pragma unroll
            for (int e = 0; e < 4; e++) x[0][j][e] *= dp[0][j][e] - (e % 2 ? d.y : d.x);
        }
        product_columns<HD, 1, MMA_DKV / 16>(dk, x, query_rows + stage);
    }
    if (first >= p.T) return;
    bf16 *to = dqkv + ((int64_t)b * p.T + first) * W + (p.NH + head) * HD;   // this warp's rows of K and V become its staging
    rows_store<HD>(to, W, p.T - first, mma_shared + warp * 16 * HD * 2, dk[0], p.scale, p.scale, lane);
    rows_store<HD>(to + p.NKV * HD, W, p.T - first, mma_shared + TILE + warp * 16 * HD * 2, dv[0], 1.0f, 1.0f, lane);
}

// ---------------------------------------------------------------------------------------------------------------------
// host

static MmaShape mma_shape(const AttentionPlan *plan, int64_t NH, int64_t NKV, int64_t HD, const int32_t *order) {
    const int64_t K = ceil_div(plan->T, KEY_TILE);
    CHECK((HD == 64 || HD == 128) && NH % NKV == 0 && plan->B * K * NH < INT32_MAX && plan->B * K * NKV * 2 < INT32_MAX);
    MmaShape p = {(int)plan->T, (int)(ceil_div(plan->T, QUERY_TILE) * QUERY_TILE), (int)NH, (int)NKV, (int)K, 1.0f / sqrtf((float)HD), 1.4426950408889634f / sqrtf((float)HD),
                  plan->document_start, plan->hole_begin, plan->hole_end, plan->seen_end, plan->seen_most, order};
    return p;
}

template <int HD> static void attention_forward_mma_launch(bf16 *out, float *lse, const bf16 *qkv, const AttentionPlan *plan, int64_t NH, int64_t NKV, cudaStream_t stream) {
    const MmaShape p = mma_shape(plan, NH, NKV, HD, plan->forward_order);
    const int bytes = (MMA_ROWS + 2 * MMA_FORWARD_KEYS) * HD * 2;
    CUDA_CHECK(cudaFuncSetAttribute(attention_forward_mma_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    attention_forward_mma_kernel<HD><<<(unsigned)(plan->B * p.K * NH), MMA_THREADS, bytes, stream>>>(out, lse, qkv, p);
    CUDA_CHECK(cudaGetLastError());
}
template <int HD> static void attention_backward_mma_launch(bf16 *dqkv, float *dsum, const bf16 *dout, const bf16 *out, const float *lse, const bf16 *qkv, const AttentionPlan *plan, int64_t NH, int64_t NKV, cudaStream_t stream) {
    const MmaShape queries = mma_shape(plan, NH, NKV, HD, plan->forward_order), keys = mma_shape(plan, NH, NKV, HD, plan->key_order);
    const int query_bytes = (2 * MMA_ROWS + 4 * MMA_DQ_KEYS) * HD * 2 + MMA_ROWS * 4, key_bytes = 6 * MMA_DKV * HD * 2 + 4 * MMA_DKV * 4;
    CUDA_CHECK(cudaFuncSetAttribute(attention_backward_query_kernel_mma<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, query_bytes));
    CUDA_CHECK(cudaFuncSetAttribute(attention_backward_key_kernel_mma<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, key_bytes));
    attention_backward_query_kernel_mma<HD><<<(unsigned)(plan->B * queries.K * NH), MMA_THREADS, query_bytes, stream>>>(dqkv, dsum, dout, out, lse, qkv, queries);
    CUDA_CHECK(cudaGetLastError());
    attention_backward_key_kernel_mma<HD><<<(unsigned)(plan->B * keys.K * 2 * NKV), MMA_THREADS, key_bytes, stream>>>(dqkv, dsum, dout, lse, qkv, keys);
    CUDA_CHECK(cudaGetLastError());
}

// out (B*T, NH*HD), lse (B, NH, TP; base 2, of the scaled scores) from qkv (B*T, W)
static void attention_forward_mma(bf16 *out, float *lse, const bf16 *qkv, const AttentionPlan *plan, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    if (HD == 128) attention_forward_mma_launch<128>(out, lse, qkv, plan, NH, NKV, stream);
    else attention_forward_mma_launch<64>(out, lse, qkv, plan, NH, NKV, stream);
}
// dqkv (B*T, W); dsum (B, NH, TP) is working memory
static void attention_backward_mma(bf16 *dqkv, float *dsum, const bf16 *dout, const bf16 *out, const float *lse, const bf16 *qkv, const AttentionPlan *plan, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    if (HD == 128) attention_backward_mma_launch<128>(dqkv, dsum, dout, out, lse, qkv, plan, NH, NKV, stream);
    else attention_backward_mma_launch<64>(dqkv, dsum, dout, out, lse, qkv, plan, NH, NKV, stream);
}
#endif
