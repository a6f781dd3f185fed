// attention_backward_sm90.cuh: attention's backward pass on Hopper. Causal, inside documents, grouped queries, head_dim 64 or 128;
// no atomics, the same bits every time, and no fp32 buffer for dQ. Three parts:
//
//     D       = rowsum(dO * O)                                          bound by bytes, 2 % of the time
//     dK, dV  : S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q  bound by FLOPs; also leaves dS^T in scratch
//     dQ      = scale * dS K, from the dS^T tiles in scratch            bound by bytes: every visited tile once, 16 KiB a head
//
// That is the least number of matmuls (five; a dQ part that computes S again needs seven), and cheaper than adding up dQ in fp32 through
// memory, which also has no fixed order. dS goes through memory in bf16, already in the layout in which the dQ part's wgmma reads it: two
// one-dimensional bulk copies, no address arithmetic. The price is scratch: 16 KiB for every visited tile of 64 queries x 128 keys and query
// head - 2.2 GB for a causal row of 8,192 tokens and 32 heads.
//
// Two launches, dK, dV and then dQ; the second one's blocks may take their places while the last of the first run out, and wait there. With scratch
// for fewer heads the key/value heads are worked through in passes of as many as fit. The result does not depend on it.
// (Tried and dropped: the dQ blocks of one pass spread among the dK, dV blocks of the next, some multiprocessors waiting for memory while others
// multiply: as fast at best, 0.5 to 2 % slower on causal rows; smaller passes cost more than the overlap gains.)
//
// dK, dV: one block takes a key tile of 128 and a key/value head, and runs over the queries that see it, of all heads of the group: dK and
// dV stay in registers to the end. Two consumer warpgroups of 64 keys each, which never wait for each other, and one producer thread. Scores are
// computed transposed (keys are rows), so that accumulators of P^T and dS^T are, packed, the A fragments of the next products; and the mask is
// two numbers a thread: key <= query < seen_end of the key. Q and dO tiles serve as both K-major and MN-major operands.
// The order inside a step (issue dP; exponentials; issue dV; wait dP; dS; issue dK; issue the next S; store dS; wait dV, dK; release; wait S) leaves no
// wgmma under way across the loop's back-edge whose result is read behind it, which the compiler would answer by serialising all of them.
//
// Tiles in which none of a warpgroup's 64 keys is seen are neither computed nor written: the dQ part walks halves of 64 keys and meets the others.
// Halves that lie in the hole of its first query (the plan) are hidden from all of its queries: those, and in its range no others, were not written.
#ifndef FINDAP_KERNELS_ATTENTION_BACKWARD_SM90_CUH
#define FINDAP_KERNELS_ATTENTION_BACKWARD_SM90_CUH
#include "attention_plan.h"   // defines: AttentionPlan, KEY_TILE, QUERY_TILE
#include "sm90.cuh"           // defines: TMA, mbarrier and wgmma wrappers

enum { BWD_THREADS = 384, BWD_STAGES = 3, HALF_KEYS = KEY_TILE / 2, DS_HALF = QUERY_TILE * HALF_KEYS * 2, DS_TILE = 2 * DS_HALF };   // DS_: bytes of dS^T

struct BackwardParameters {
    int B, T, TP, NH, NKV, K, Q;                 // K, Q: tiles of a row
    int head0, heads;                            // key/value heads of this pass: head0 .. head0 + heads - 1
    int64_t tiles;                               // visited tiles of one query head
    float scale, scale_log2;
    const int32_t *start, *hole_begin, *hole_end, *end, *end_least, *end_most, *key_order, *query_order, *tile_offset;   // the plan's; end: seen_end
    const float *lse, *dsum;                     // (B, NH, TP)
    uint8_t *ds;                                 // (heads, tiles, halves of the keys, group): 64 keys x 64 queries of dS^T each
};

// Two launches in one stream, the second with the attribute of programmatic serialization: it may begin once all blocks of the first have
// begun and said so (launch_next), or ended; launch_wait waits for the first launch's end, with all that it has written
#ifdef FINDAP_RACECHECK   // which cannot follow them: there the second launch waits as any does
DEVICE void launch_next() {}
DEVICE void launch_wait() {}
#else
DEVICE void launch_next() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
DEVICE void launch_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
#endif

// ---------------------------------------------------------------------------------------------------------------------
// D: 64 tokens of one head a block; HD/8 threads share a row

template <int HD> __global__ static void __launch_bounds__(256) attention_backward_sum_kernel(float *dsum, const bf16 *dout, const bf16 *out, int T, int TP, int NH) {
    constexpr int LANES = HD / 8, ROWS = 256 / LANES, STEPS = QUERY_TILE / ROWS;
    __shared__ float sums[QUERY_TILE];
    const int t0 = blockIdx.x * QUERY_TILE, h = blockIdx.y, b = blockIdx.z, lane = threadIdx.x % LANES, row = threadIdx.x / LANES;
    Pack<bf16> x[STEPS], y[STEPS];
    #pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const int t = t0 + i * ROWS + row;
        const int64_t at = (((int64_t)b * T + (t < T ? t : T - 1)) * NH + h) * HD + lane * 8;
        x[i] = load_pack(out + at);
        y[i] = load_pack(dout + at);
    }
    #pragma unroll
    for (int i = 0; i < STEPS; i++) {
        float sum = 0.0f;
        #pragma unroll
        for (int k = 0; k < 8; k++) sum += to_float(x[i].at[k]) * to_float(y[i].at[k]);
        #pragma unroll
        for (int m = LANES / 2; m > 0; m >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, m);
        if (lane == 0) sums[i * ROWS + row] = t0 + i * ROWS + row < T ? sum : 0.0f;   // zero beyond the row: 0 * (0 - D) must stay 0
    }
    __syncthreads();
    if (threadIdx.x < QUERY_TILE) dsum[((int64_t)b * NH + h) * TP + t0 + threadIdx.x] = sums[threadIdx.x];
}

// ---------------------------------------------------------------------------------------------------------------------
// dK and dV

template <int HD> struct alignas(1024) KeyShared {
    uint8_t k[KEY_TILE * HD * 2], v[KEY_TILE * HD * 2];
    uint8_t q[BWD_STAGES][QUERY_TILE * HD * 2], dout[BWD_STAGES][QUERY_TILE * HD * 2];
    uint8_t ds[2][DS_TILE];                              // on its way to scratch
    float lse[BWD_STAGES][QUERY_TILE], dsum[BWD_STAGES][QUERY_TILE];
    uint64_t kv_full, q_full[BWD_STAGES], dout_full[BWD_STAGES], empty[BWD_STAGES];
};

template <int HD> DEVICE void backward_keys(const CUtensorMap &map_q, const CUtensorMap &map_kv, const CUtensorMap &map_dout, const CUtensorMap &map_out, const BackwardParameters &p, KeyShared<HD> &sm, int block) {
    constexpr int CHUNKS = HD / 64, TILE = QUERY_TILE * HD * 2, STEPS = HD / 16;
    const int job = p.key_order[block / p.heads], head_of_pass = block % p.heads, head = p.head0 + head_of_pass;
    const int b = job / p.K, k0 = job % p.K * KEY_TILE, group = p.NH / p.NKV;
    const int32_t *end = p.end + (int64_t)b * p.T;
    const int qt0 = k0 / QUERY_TILE, qt1 = qt0 + p.tile_offset[job + 1] - p.tile_offset[job], steps = (qt1 - qt0) * group;
    if (threadIdx.x == 0) {
        mbar_init(&sm.kv_full, 1);
        for (int i = 0; i < BWD_STAGES; i++) { mbar_init(&sm.q_full[i], 1); mbar_init(&sm.dout_full[i], 1); mbar_init(&sm.empty[i], 8 * WARP_ARRIVALS); }
        fence_mbar_init();
    }
    __syncthreads();
    const int wg = __shfl_sync(0xffffffffu, threadIdx.x >> 7, 0);
    if (wg == 2) {   // ------------------------------------------------------------------------------------ producer
        reg_dec<24>();
        if (threadIdx.x != 256) return;
        mbar_arrive_tx(&sm.kv_full, 2 * KEY_TILE * HD * 2);
        tma_load(sm.k, &map_kv, &sm.kv_full, k0, (p.NH + head) * CHUNKS, b);
        tma_load(sm.v, &map_kv, &sm.kv_full, k0, (p.NH + p.NKV + head) * CHUNKS, b);
        int h = head * group, qt = qt0, stage = 0;
        uint32_t parity = 1;
        for (int i = 0; i < steps; i++) {
            const int64_t row = ((int64_t)b * p.NH + h) * p.TP + qt * QUERY_TILE;
            mbar_wait(&sm.empty[stage], parity);
            mbar_arrive_tx(&sm.q_full[stage], TILE + QUERY_TILE * 4);
            tma_load(sm.q[stage], &map_q, &sm.q_full[stage], qt * QUERY_TILE, h * CHUNKS, b);
            bulk_load(sm.lse[stage], p.lse + row, QUERY_TILE * 4, &sm.q_full[stage]);
            mbar_arrive_tx(&sm.dout_full[stage], TILE + QUERY_TILE * 4);
            tma_load(sm.dout[stage], &map_dout, &sm.dout_full[stage], qt * QUERY_TILE, h * CHUNKS, b);
            bulk_load(sm.dsum[stage], p.dsum + row, QUERY_TILE * 4, &sm.dout_full[stage]);
            if (++qt == qt1) { qt = qt0; h++; }
            if (++stage == BWD_STAGES) { stage = 0; parity ^= 1; }
        }
        return;
    }
    // ---------------------------------------------------------------------------------------------------- consumers
    reg_inc<240>();
    const int warp = (threadIdx.x >> 5) & 3, lane = threadIdx.x & 31;
    const int kw0 = k0 + wg * 64, key0 = kw0 + warp * 16 + (lane >> 2), key1 = key0 + 8;   // this thread's two keys
    const int end0 = key0 < p.T ? end[key0] : 0, end1 = key1 < p.T ? end[key1] : 0;         // a key beyond the row is seen by nobody
    const int end_least = kw0 < p.T ? p.end_least[b * p.Q + kw0 / 64] : 0;
    const int wq0 = kw0 / QUERY_TILE, wq1 = kw0 < p.T ? (p.end_most[b * p.Q + kw0 / 64] + QUERY_TILE - 1) / QUERY_TILE : wq0;   // query tiles this warpgroup's keys are seen by
    float dk[HD / 2], dv[HD / 2], x[32], y[32];   // x: S^T, then P^T; y: dP^T
    #pragma unroll
    for (int i = 0; i < HD / 2; i++) { dk[i] = 0.0f; dv[i] = 0.0f; }
    const uint64_t k_a = descriptor_kmajor(smem_u32(sm.k) + wg * 8192), v_a = descriptor_kmajor(smem_u32(sm.v) + wg * 8192);
    const uint64_t q_b = descriptor_kmajor(smem_u32(sm.q[0])), dout_b = descriptor_kmajor(smem_u32(sm.dout[0]));
    const uint64_t q_t = descriptor(smem_u32(sm.q[0]), 8192), dout_t = descriptor(smem_u32(sm.dout[0]), 8192);   // the same tiles as MN-major operands
    const uint32_t q_full = smem_u32(sm.q_full), dout_full = smem_u32(sm.dout_full), empty = smem_u32(sm.empty), lse = smem_u32(sm.lse) + (lane & 3) * 8, dsum = smem_u32(sm.dsum) + (lane & 3) * 8;
    const uint32_t staging = smem_u32(sm.ds) + wg * 8192 + warp * 2048;
    int qt = qt0, stage = 0, i = 0, hh = 0;       // step i: query tile qt of head hh of the group
    uint32_t parity = 0, stored = 0;              // stored: which of the two staging buffers is next; not i & 1, since skipped steps store nothing
    uint8_t *ds = p.ds + (((int64_t)head_of_pass * p.tiles + p.tile_offset[job]) * 2 + wg) * group * DS_HALF + warp * 2048;   // this warp's 16 keys of each tile
    mbar_wait(&sm.kv_full, 0);
    auto advance = [&] { i++; if (++qt == qt1) { qt = qt0; hh++; } if (++stage == BWD_STAGES) { stage = 0; parity ^= 1; } };
    auto skip = [&] {   // passes over tiles in which this warpgroup's keys are seen by nobody
        while (i < steps && (qt < wq0 || qt >= wq1)) {
            mbar_wait(q_full + 8 * stage, parity);   // before giving the stage back: or an empty phase could complete twice
            mbar_wait(dout_full + 8 * stage, parity);
            __syncwarp();
            warp_arrive(empty + 8 * stage, lane);
            advance();
        }
    };
    auto issue_s = [&] {
        pin(x); wg_fence();
        #pragma unroll
        for (int k = 0; k < STEPS; k++) mma_ss<0, 0>(x, k_a + (k >> 2) * (16384 >> 4) + (k & 3) * 2, q_b + stage * (TILE >> 4) + (k >> 2) * (8192 >> 4) + (k & 3) * 2, k != 0);
        wg_commit();
    };
    skip();
    if (i < steps) mbar_wait(q_full + 8 * stage, parity);
    issue_s();
    wg_wait<0>(); pin(x);
    #pragma unroll 1
    while (i < steps) {
        mbar_wait(dout_full + 8 * stage, parity);
        pin(y); wg_fence();
        #pragma unroll
        for (int k = 0; k < STEPS; k++) mma_ss<0, 0>(y, v_a + (k >> 2) * (16384 >> 4) + (k & 3) * 2, dout_b + stage * (TILE >> 4) + (k >> 2) * (8192 >> 4) + (k & 3) * 2, k != 0);
        wg_commit();
        // P^T = 2^(c S^T - lse)
        #pragma unroll
        for (int j = 0; j < 8; j++) {
            const float2 l = load_shared(lse + stage * 256 + j * 32);
            x[4 * j] = fmaf(x[4 * j], p.scale_log2, -l.x); x[4 * j + 1] = fmaf(x[4 * j + 1], p.scale_log2, -l.y);
            x[4 * j + 2] = fmaf(x[4 * j + 2], p.scale_log2, -l.x); x[4 * j + 3] = fmaf(x[4 * j + 3], p.scale_log2, -l.y);
        }
        const int q0 = qt * QUERY_TILE;
        if (q0 < kw0 + 63 || q0 + QUERY_TILE > end_least) {   // on the diagonal, or where a document, a branch or the row ends
            #pragma unroll
            for (int j = 0; j < 8; j++) {
                const int q = q0 + (lane & 3) * 2 + 8 * j;
                if (q < key0 || q >= end0) x[4 * j] = -INFINITY;
                if (q + 1 < key0 || q + 1 >= end0) x[4 * j + 1] = -INFINITY;
                if (q < key1 || q >= end1) x[4 * j + 2] = -INFINITY;
                if (q + 1 < key1 || q + 1 >= end1) x[4 * j + 3] = -INFINITY;
            }
        }
        uint32_t pa[16], da[16];
        #pragma unroll
        for (int k = 0; k < 32; k++) x[k] = ex2(x[k]);
        #pragma unroll
        for (int k = 0; k < 16; k++) pa[k] = pack_bf16(x[2 * k], x[2 * k + 1]);
        pin(pa); pin(dv); wg_fence();
        #pragma unroll
        for (int k = 0; k < 4; k++) mma_rs<1>(dv, pa[4 * k], pa[4 * k + 1], pa[4 * k + 2], pa[4 * k + 3], dout_t + stage * (TILE >> 4) + k * 128, 1);
        wg_commit();
        wg_wait<1>(); pin(y);
        // dS^T = P^T (dP^T - D)
        #pragma unroll
        for (int j = 0; j < 8; j++) {
            const float2 d = load_shared(dsum + stage * 256 + j * 32);
            da[2 * j] = pack_bf16(x[4 * j] * (y[4 * j] - d.x), x[4 * j + 1] * (y[4 * j + 1] - d.y));
            da[2 * j + 1] = pack_bf16(x[4 * j + 2] * (y[4 * j + 2] - d.x), x[4 * j + 3] * (y[4 * j + 3] - d.y));
        }
        pin(da); pin(dk); wg_fence();
        #pragma unroll
        for (int k = 0; k < 4; k++) mma_rs<1>(dk, da[4 * k], da[4 * k + 1], da[4 * k + 2], da[4 * k + 3], q_t + stage * (TILE >> 4) + k * 128, 1);
        wg_commit();
        uint8_t *to = ds + ((int64_t)(qt - qt0) * 2 * group + hh) * DS_HALF;
        const uint32_t done = empty + 8 * stage, from = staging + stored;
        stored ^= DS_TILE;
        advance();
        bool released = false;
        if (i < steps && (qt < wq0 || qt >= wq1)) {
            wg_wait<0>();
            __syncwarp();
            warp_arrive(done, lane);
            released = true;
            skip();
        }
        if (i < steps) mbar_wait(q_full + 8 * stage, parity);
        issue_s();   // at the last step on stale numbers that nobody reads: a branch around wgmma would serialise
        // dS goes out while dK and the next S run
        if (lane == 0) bulk_wait_read<1>();
        __syncwarp();
        #pragma unroll
        for (int k = 0; k < 4; k++) stsm_x4(from + sw128((lane & 15), 2 * k + (lane >> 4)), da[4 * k], da[4 * k + 1], da[4 * k + 2], da[4 * k + 3]);
        fence_async_smem();
        __syncwarp();
        if (lane == 0) { bulk_store_once(to, from, 2048, policy_once()); bulk_commit(); }
        wg_wait<1>(); pin(dv); pin(dk); pin(pa); pin(da);
        __syncwarp();
        if (!released) warp_arrive(done, lane);
        wg_wait<0>(); pin(x);
    }
    wg_wait<0>(); pin(dk); pin(dv); pin(x);
    bar_sync(1, 256);   // both warpgroups are done with K and V, whose place dK and dV now take
    const uint32_t to_k = smem_u32(sm.k) + wg * TILE, to_v = smem_u32(sm.v) + wg * TILE;
    #pragma unroll
    for (int j = 0; j < HD / 8; j += 2) {
        const uint32_t at = (j >> 3) * 8192 + sw128(warp * 16 + (lane & 15), (j & 7) + (lane >> 4));
        stsm_x4(to_k + at, pack_bf16(dk[4 * j] * p.scale, dk[4 * j + 1] * p.scale), pack_bf16(dk[4 * j + 2] * p.scale, dk[4 * j + 3] * p.scale),
                pack_bf16(dk[4 * j + 4] * p.scale, dk[4 * j + 5] * p.scale), pack_bf16(dk[4 * j + 6] * p.scale, dk[4 * j + 7] * p.scale));
        stsm_x4(to_v + at, pack_bf16(dv[4 * j], dv[4 * j + 1]), pack_bf16(dv[4 * j + 2], dv[4 * j + 3]), pack_bf16(dv[4 * j + 4], dv[4 * j + 5]), pack_bf16(dv[4 * j + 6], dv[4 * j + 7]));
    }
    fence_async_smem();
    bar_sync(2 + wg, 128);
    if ((threadIdx.x & 127) == 0) {
        tma_store(&map_out, sm.k + wg * TILE, kw0, (p.NH + head) * CHUNKS, b);
        tma_store(&map_out, sm.v + wg * TILE, kw0, (p.NH + p.NKV + head) * CHUNKS, b);
        bulk_commit();
    }
    bulk_wait<0>();
}

// ---------------------------------------------------------------------------------------------------------------------
// dQ: one block takes 64 queries and up to four heads of a group, two for each warpgroup, which share the keys. A stage is 64 keys and the
// four heads' halves of dS^T tiles, which lie side by side in scratch.

enum { DQ_STAGES = 4 };
template <int HD> struct alignas(1024) QueryShared {
    struct { uint8_t k[HALF_KEYS * HD * 2], ds[4][DS_HALF]; } stage[DQ_STAGES];
    uint64_t full[DQ_STAGES], empty[DQ_STAGES];
};

template <int HD> DEVICE void backward_queries(const CUtensorMap &map_q, const CUtensorMap &map_out, const BackwardParameters &p, QueryShared<HD> &sm, int block) {
    constexpr int CHUNKS = HD / 64, K_BYTES = HALF_KEYS * HD * 2, STAGE = K_BYTES + 4 * DS_HALF;
    const int group = p.NH / p.NKV, quads = (group + 3) / 4, per_tile = p.heads * quads, r = block % per_tile;
    const int job = p.query_order[block / per_tile], head_of_pass = r / quads, head = p.head0 + head_of_pass, h0 = r % quads * 4, nh = min(4, group - h0);
    const int b = job / p.Q, qt = job % p.Q, q0 = qt * QUERY_TILE;
    const int64_t n0 = (int64_t)b * p.T + q0;
    const int hole = (p.hole_begin[n0] - 1) / HALF_KEYS + 1, holes = max(p.hole_end[n0] / HALF_KEYS - hole, 0);   // halves of key tiles that lie in the hole
    const int first = p.start[n0] / HALF_KEYS, steps = qt + 1 - first - holes;   // halves that these queries see: no others were written
    if (threadIdx.x == 0) {
        for (int i = 0; i < DQ_STAGES; i++) { mbar_init(&sm.full[i], 1); mbar_init(&sm.empty[i], (nh > 2 ? 8 : 4) * WARP_ARRIVALS); }
        fence_mbar_init();
    }
    __syncthreads();
    const int wg = __shfl_sync(0xffffffffu, threadIdx.x >> 7, 0);
    if (wg == 2) {   // ------------------------------------------------------------------------------------ producer
        reg_dec<24>();
        if (threadIdx.x != 256) return;
        const uint64_t policy = policy_once();
        launch_wait();   // for the launch that wrote dS
        for (int i = 0; i < steps; i++) {
            const int s = i % DQ_STAGES, half = first + i + (first + i < hole ? 0 : holes), kt = half / 2;
            const int64_t tile = (int64_t)head_of_pass * p.tiles + p.tile_offset[b * p.K + kt] + (qt - 2 * kt);
            mbar_wait(&sm.empty[s], ((i / DQ_STAGES) & 1) ^ 1);
            mbar_arrive_tx(&sm.full[s], K_BYTES + nh * DS_HALF);
            tma_load(sm.stage[s].k, &map_q, &sm.full[s], half * HALF_KEYS, (p.NH + head) * CHUNKS, b);
            bulk_load_once(sm.stage[s].ds, p.ds + ((tile * 2 + half % 2) * group + h0) * DS_HALF, nh * DS_HALF, &sm.full[s], policy);
        }
        return;
    }
    // ---------------------------------------------------------------------------------------------------- consumers
    if (2 * wg >= nh) return;   // no head for this warpgroup
    reg_inc<240>();
    const int warp = (threadIdx.x >> 5) & 3, lane = threadIdx.x & 31;
    float a0[HD / 2], a1[HD / 2];
    #pragma unroll
    for (int i = 0; i < HD / 2; i++) { a0[i] = 0.0f; a1[i] = 0.0f; }
    const uint64_t k_b = descriptor(smem_u32(sm.stage[0].k), 8192), ds_a = descriptor(smem_u32(sm.stage[0].ds[2 * wg]), 1024);
    #pragma unroll 1
    for (int i = 0; i < steps; i++) {
        const int s = i % DQ_STAGES;
        mbar_wait(&sm.full[s], (i / DQ_STAGES) & 1);
        pin(a0); pin(a1); wg_fence();
        #pragma unroll
        for (int k = 0; k < HALF_KEYS / 16; k++) {   // the second head may be one that does not exist: then its sum is not stored
            mma_ss<1, 1>(a0, ds_a + s * (STAGE >> 4) + k * 128, k_b + s * (STAGE >> 4) + k * 128, 1);
            mma_ss<1, 1>(a1, ds_a + s * (STAGE >> 4) + (DS_HALF >> 4) + k * 128, k_b + s * (STAGE >> 4) + k * 128, 1);
        }
        wg_commit();
        wg_wait<0>(); pin(a0); pin(a1);
        __syncwarp();
        warp_arrive(smem_u32(&sm.empty[s]), lane);
    }
    bar_sync(2 + wg, 128);   // every load has come by now: this warpgroup's places for dS become its staging, head 0 in stage 0, head 1 in stage 1
    const uint32_t staging = smem_u32(sm.stage[0].ds[2 * wg]);
    #pragma unroll
    for (int j = 0; j < HD / 8; j += 2) {
        const uint32_t at = staging + (j >> 3) * 8192 + sw128(warp * 16 + (lane & 15), (j & 7) + (lane >> 4));
        stsm_x4(at, pack_bf16(a0[4 * j] * p.scale, a0[4 * j + 1] * p.scale), pack_bf16(a0[4 * j + 2] * p.scale, a0[4 * j + 3] * p.scale),
                pack_bf16(a0[4 * j + 4] * p.scale, a0[4 * j + 5] * p.scale), pack_bf16(a0[4 * j + 6] * p.scale, a0[4 * j + 7] * p.scale));
        stsm_x4(at + STAGE, pack_bf16(a1[4 * j] * p.scale, a1[4 * j + 1] * p.scale), pack_bf16(a1[4 * j + 2] * p.scale, a1[4 * j + 3] * p.scale),
                pack_bf16(a1[4 * j + 4] * p.scale, a1[4 * j + 5] * p.scale), pack_bf16(a1[4 * j + 6] * p.scale, a1[4 * j + 7] * p.scale));
    }
    fence_async_smem();
    bar_sync(2 + wg, 128);
    if ((threadIdx.x & 127) == 0) {
        for (int i = 0; i < 2; i++)
            if (2 * wg + i < nh) tma_store(&map_out, sm.stage[i].ds[2 * wg], q0, (head * group + h0 + 2 * wg + i) * CHUNKS, b);
        bulk_commit();
        bulk_wait<0>();
    }
}

// ---------------------------------------------------------------------------------------------------------------------

template <int HD> __global__ static void __launch_bounds__(BWD_THREADS, 1) attention_backward_keys_kernel(const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_kv,
                                                              const __grid_constant__ CUtensorMap map_dout, const __grid_constant__ CUtensorMap map_out, const __grid_constant__ BackwardParameters p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t shared_raw[];
    launch_next();
    backward_keys<HD>(map_q, map_kv, map_dout, map_out, p, *(KeyShared<HD> *)(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023), (int)blockIdx.x);
#endif
}
template <int HD> __global__ static void __launch_bounds__(BWD_THREADS, 1) attention_backward_queries_kernel(const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_out,
                                                              const __grid_constant__ BackwardParameters p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t shared_raw[];
    backward_queries<HD>(map_q, map_out, p, *(QueryShared<HD> *)(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023), (int)blockIdx.x);
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// host

// bytes of scratch that `kv_heads` key/value heads take at worst: one document a row
static int64_t attention_backward_sm90_scratch(int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD, int64_t kv_heads) {
    (void)HD;
    int64_t tiles = 0, Q = ceil_div(T, QUERY_TILE);
    for (int64_t k0 = 0; k0 < T; k0 += KEY_TILE) tiles += Q - k0 / QUERY_TILE;
    return B * tiles * (NH / NKV) * kv_heads * DS_TILE;
}

template <int HD> static void attention_backward_sm90_launch(bf16 *dqkv, float *dsum, const bf16 *dout, const bf16 *out, const float *lse, const bf16 *qkv, void *scratch, int64_t scratch_bytes,
                                                             const AttentionPlan *plan, int64_t NH, int64_t NKV, cudaStream_t stream) {
    const int64_t B = plan->B, T = plan->T, W = (NH + 2 * NKV) * HD, group = NH / NKV, quads = ceil_div(group, 4);
    const int64_t head_bytes = plan->visited_tiles * group * DS_TILE, fit = scratch_bytes / head_bytes;
    BackwardParameters p;
    memset(&p, 0, sizeof p);
    p.B = (int)B; p.T = (int)T; p.TP = (int)(ceil_div(T, QUERY_TILE) * QUERY_TILE); p.NH = (int)NH; p.NKV = (int)NKV; p.K = (int)ceil_div(T, KEY_TILE); p.Q = (int)ceil_div(T, QUERY_TILE);
    CHECK(fit >= 1 && B < 65536 && NH < 65536 && B * (p.K * NKV + p.Q * NKV * quads) < INT32_MAX);
    p.tiles = plan->visited_tiles;
    p.scale = 1.0f / sqrtf((float)HD); p.scale_log2 = p.scale * 1.4426950408889634f;
    p.start = plan->document_start; p.hole_begin = plan->hole_begin; p.hole_end = plan->hole_end; p.end = plan->seen_end; p.end_least = plan->seen_least; p.end_most = plan->seen_most; p.key_order = plan->key_order; p.query_order = plan->query_order; p.tile_offset = plan->tile_offset;
    p.lse = lse; p.dsum = dsum;
    attention_backward_sum_kernel<HD><<<dim3((unsigned)p.Q, (unsigned)NH, (unsigned)B), 256, 0, stream>>>(dsum, dout, out, p.T, p.TP, p.NH);
    CUDA_CHECK(cudaGetLastError());

    const CUtensorMap map_q = head_map(qkv, B, T, W, QUERY_TILE, HD), map_kv = head_map(qkv, B, T, W, KEY_TILE, HD), map_dout = head_map(dout, B, T, NH * HD, QUERY_TILE, HD), map_out = head_map(dqkv, B, T, W, 64, HD);
    const int key_bytes = (int)sizeof(KeyShared<HD>) + 1024, query_bytes = (int)sizeof(QueryShared<HD>) + 1024;
    CUDA_CHECK(cudaFuncSetAttribute(attention_backward_keys_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, key_bytes));
    CUDA_CHECK(cudaFuncSetAttribute(attention_backward_queries_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, query_bytes));
    p.ds = (uint8_t *)scratch;
    const int64_t passes = ceil_div(NKV, fit), heads = ceil_div(NKV, passes);
    for (int64_t head = 0; head < NKV; head += heads) {
        p.head0 = (int)head; p.heads = (int)(NKV - head < heads ? NKV - head : heads);
        attention_backward_keys_kernel<HD><<<(unsigned)(B * p.K * p.heads), BWD_THREADS, key_bytes, stream>>>(map_q, map_kv, map_dout, map_out, p);
        CUDA_CHECK(cudaGetLastError());
        cudaLaunchAttribute early;   // may begin before the launch ahead of it has ended
        early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        early.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3((unsigned)(B * p.Q * p.heads * quads)); config.blockDim = dim3(BWD_THREADS); config.dynamicSmemBytes = (size_t)query_bytes; config.stream = stream;
        config.attrs = &early; config.numAttrs = WARP_ARRIVALS == 1;   // not under racecheck
        CUDA_CHECK(cudaLaunchKernelEx(&config, attention_backward_queries_kernel<HD>, map_q, map_out, p));
    }
}

// dqkv (B*T, W) from dout, out (B*T, NH*HD), lse (B, NH, TP; base 2) and qkv; dsum (B, NH, TP) is written; scratch: at least one key/value head's
// attention_backward_sm90_scratch bytes, 128-byte aligned
static void attention_backward_sm90(bf16 *dqkv, float *dsum, const bf16 *dout, const bf16 *out, const float *lse, const bf16 *qkv, void *scratch, int64_t scratch_bytes, const AttentionPlan *plan, int64_t NH,
                                    int64_t NKV, int64_t HD, cudaStream_t stream) {
    CHECK((HD == 64 || HD == 128) && NH % NKV == 0);
    auto *launch = HD == 128 ? attention_backward_sm90_launch<128> : attention_backward_sm90_launch<64>;
    launch(dqkv, dsum, dout, out, lse, qkv, scratch, scratch_bytes, plan, NH, NKV, stream);
}
#endif
