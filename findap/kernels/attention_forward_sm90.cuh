// attention_forward_sm90.cuh: attention's forward pass on Hopper. Causal, inside documents, grouped queries, head_dim 64 or 128.
//
// Bound by FLOPs: 4 * HD for each visible pair. The tensor cores' floor at one causal row of 8,192 tokens and 32 heads is 1,033 thousand
// cycles; this kernel takes about 1,255 (82 %), and what is missing is softmax, which shares the issue slots with the wgmmas.
//
// One persistent block per multiprocessor, three warpgroups. Warpgroup 0: one thread takes tiles of 128 queries x one head from a counter,
// longest first, and feeds a ring of two key/value tiles by TMA. Warpgroups 1 and 2: 64 query rows each, with Q and P as register operands, so
// that K and V are all that wgmma reads from shared memory. They see one flat stream of key tiles over all of their work:
//
//     issue S = Q K^T of the next tile | issue O += P V of this one | wait for S | mask, maximum, half of the exponentials |
//     wait for O | the other half, while P is packed | rescale O, or store it when the work item changed
//
// so that softmax runs under the P V of the tile before. Three things keep that overlap alive in the machine code, each found by reading it:
// a never-taken branch on the sums before the wait (else the compiler moves the wait above the exponentials); ring stages that are compile-time
// constants (else descriptors are rebuilt in every step); and explicit fences after each barrier wait.
//
// Softmax's reference is the running maximum, but it moves only when it is exceeded by more than 2^8: P stays below 2^8, harmless in
// bf16, and O is hardly ever rescaled (Milakov & Gimelshein 2018 for the online form; Dao et al. 2022 for attention by tiles).
//
// Softmax and the epilogue are inlined several times, and which copy serves a row depends on which block took its tile. So that all copies
// give the same bits, every multiply-add in them is written as fmaf: the compiler fused them in one copy and not in another.
//
// Key tiles outside a query tile's documents are never loaded; only tiles on the diagonal, at a document's first token or in a branch's hole compare
// positions. A row's hole is read again for every tile that it touches, from L1: registers are for what every row has. Tiles that lie wholly in a hole are
// visited all the same: they are the other answer's, some tenth of what a branch sees, and to pass over them producer and consumers would have to agree.
#ifndef FINDAP_KERNELS_ATTENTION_FORWARD_SM90_CUH
#define FINDAP_KERNELS_ATTENTION_FORWARD_SM90_CUH
#include "attention_plan.h"   // defines: AttentionPlan
#include "sm90.cuh"           // defines: TMA, mbarrier and wgmma wrappers
#include <type_traits>        // defines: std::integral_constant

enum { FWD_TILE = 128, FWD_THREADS = 384 };

template <int HD> struct alignas(1024) ForwardShared {
    uint8_t q[2][64 * HD * 2];            // one for each consumer warpgroup
    uint8_t k[2][FWD_TILE * HD * 2], v[2][FWD_TILE * HD * 2];   // the ring
    uint8_t o[2][64 * HD * 2];            // per warp: 16 rows on their way out
    uint64_t q_full[2], q_empty[2], k_full[2], k_empty[2], v_full[2], v_empty[2], work_full[2], work_empty[2];
    int4 work[2];                         // query tile (-1: stop), sequence << 16 | head, first and last key tile
};

struct ForwardParameters {
    CUtensorMap map_q, map_kv, map_o;
    float *lse;                           // (B, NH, TP) base 2
    const int32_t *start, *hole_begin, *hole_end, *hole_first, *order, *first;   // AttentionPlan's document_start, ..., forward_order, forward_first
    int32_t *counters;                    // [0] items handed out, [1] blocks that are done; both 0 between launches
    int T, TP, NH, NKV, K, tiles, items;  // K: tiles of a row; tiles: of all rows; items = tiles * NH
    int section_heads;                    // heads worked on together, so that their keys and values fit in L2
    float scale_log2;                     // log2(e) / sqrt(HD)
};

template <int HD> __global__ static void __launch_bounds__(FWD_THREADS, 1) attention_forward_sm90_kernel(const __grid_constant__ ForwardParameters p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int BN = FWD_TILE, KV_BYTES = BN * HD * 2, Q_BYTES = 64 * HD * 2, CHUNKS = HD / 64;
    constexpr float LAZY = 8.0f;
    extern __shared__ uint8_t shared_raw[];
    auto &sm = *reinterpret_cast<ForwardShared<HD> *>(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023);
    const int wg = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);   // through shfl: known to be uniform in the warp
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            mbar_init(&sm.q_full[i], 1); mbar_init(&sm.q_empty[i], 4 * WARP_ARRIVALS);
            mbar_init(&sm.k_full[i], 1); mbar_init(&sm.k_empty[i], 8 * WARP_ARRIVALS);   // from each consumer warp
            mbar_init(&sm.v_full[i], 1); mbar_init(&sm.v_empty[i], 8 * WARP_ARRIVALS);
            mbar_init(&sm.work_full[i], 1); mbar_init(&sm.work_empty[i], 8 * WARP_ARRIVALS);
        }
        fence_mbar_init();
    }
    __syncthreads();

    if (wg == 0) {   // ------------------------------------------------------------------------------------ producer
        reg_dec<24>();
        if (threadIdx.x != 0) return;
        tma_prefetch(&p.map_q); tma_prefetch(&p.map_kv); tma_prefetch(&p.map_o);
        const int group = p.NH / p.NKV;
        int item = blockIdx.x, loaded = 0, taken = 0;   // loaded: key tiles so far
        int vn = -1, vz = 0, vb = 0;                    // the V tile still owed: loads go K0 K1 V0 K2 V1 ...
        auto load = [&](uint8_t *to, uint64_t *full, uint64_t *empty, int i, int n, int z, int b) {
            mbar_wait(empty, ((i >> 1) & 1) ^ 1);
            mbar_arrive_tx(full, KV_BYTES);
            tma_load(to, &p.map_kv, full, n * BN, z, b);
        };
        auto flush_v = [&]() {
            if (vn < 0) return;
            const int i = loaded - 1, s = i & 1;
            load(sm.v[s], &sm.v_full[s], &sm.v_empty[s], i, vn, vz, vb);
        };
        for (;; taken++) {
            const int slot = taken & 1;
            mbar_wait(&sm.work_empty[slot], ((taken >> 1) & 1) ^ 1);
            if (item >= p.items) {
                sm.work[slot] = make_int4(-1, 0, 0, 0);
                mbar_arrive(&sm.work_full[slot]);
                flush_v();
                break;
            }
            const int next = gridDim.x + atomicAdd(&p.counters[0], 1);   // its latency hides behind this item's loads
            const int per_section = p.section_heads * p.tiles, section = item / per_section, r = item - section * per_section;
            const int heads = min(p.section_heads, p.NH - section * p.section_heads), a = r / heads, h = section * p.section_heads + (r - a * heads);
            const int tile = p.order[a], n_min = p.first[a], b = tile / p.K, qt = tile - b * p.K, q0 = qt * FWD_TILE, hk = h / group;
            const int n_max = (min(q0 + FWD_TILE, p.T) - 1) / BN;
            sm.work[slot] = make_int4(qt, (b << 16) | h, n_min, n_max);
            mbar_arrive(&sm.work_full[slot]);
            for (int w = 0; w < 2; w++) {
                mbar_wait(&sm.q_empty[w], (taken & 1) ^ 1);
                mbar_arrive_tx(&sm.q_full[w], Q_BYTES);
                tma_load(sm.q[w], &p.map_q, &sm.q_full[w], q0 + w * 64, h * CHUNKS, b);
            }
            for (int n = n_max; n >= n_min; n--) {
                const int s = loaded & 1;
                load(sm.k[s], &sm.k_full[s], &sm.k_empty[s], loaded, n, (p.NH + hk) * CHUNKS, b);
                flush_v();
                vn = n; vz = (p.NH + p.NKV + hk) * CHUNKS; vb = b;
                loaded++;
            }
            item = next;
        }
        __threadfence();   // the last block out makes the counters ready for the next launch
        if (atomicAdd(&p.counters[1], 1) == (int)gridDim.x - 1) { p.counters[0] = 0; p.counters[1] = 0; }
        return;
    }

    // ---------------------------------------------------------------------------------------------------- consumers
    reg_inc<240>();
    const int cw = wg - 1, warp = __shfl_sync(0xffffffffu, (threadIdx.x & 127) / 32, 0), lane = threadIdx.x & 31;
    const int quad = lane & 3, row_lane = warp * 16 + (lane >> 2);   // this thread's rows of the warpgroup's 64: row_lane and row_lane + 8
    const float sc = p.scale_log2;
    // low words of the descriptors of K (K-major) and V (MN-major); the high word is the same for both
    const uint32_t k_low = ((smem_u32(sm.k[0]) & 0x3FFFF) >> 4) | (1u << 16), v_low = ((smem_u32(sm.v[0]) & 0x3FFFF) >> 4) | ((BN * 128u >> 4) << 16);
    auto desc = [](uint32_t low) { return ((uint64_t)((1024u >> 4) | (1u << 30)) << 32) | low; };
    float o[HD / 2], s[BN / 2];
    uint32_t pr[BN / 4], qr[HD / 4];                 // A fragments of P and Q
    float m0, m1, l0, l1, a0, a1;                    // of the two rows: reference maximum, this thread's part of the sum, what O is scaled by
    bool move_max = true, keep = false;              // keep: O holds part of the present item
    int items = 0, row_wg, bh, lo0, lo1, lo_wg, own_wg, hole_wg;   // the present item; lo: first visible keys

    auto release = [&](uint64_t *b) { warp_arrive(smem_u32(b), lane); };
    auto fetch = [&]() {
        const int slot = items & 1;
        mbar_wait(&sm.work_full[slot], (items >> 1) & 1);
        int4 w = sm.work[slot];
        w.x = __shfl_sync(0xffffffffu, w.x, 0); w.y = __shfl_sync(0xffffffffu, w.y, 0);
        w.z = __shfl_sync(0xffffffffu, w.z, 0); w.w = __shfl_sync(0xffffffffu, w.w, 0);
        release(&sm.work_empty[slot]);
        return w;
    };
    auto begin_item = [&](const int4 &w) {
        bh = w.y;
        row_wg = w.x * FWD_TILE + cw * 64;
        const int32_t *start = p.start + (int64_t)(bh >> 16) * p.T;
        lo0 = start[min(row_wg + row_lane, p.T - 1)]; lo1 = start[min(row_wg + row_lane + 8, p.T - 1)];
        lo_wg = start[min(row_wg + 63, p.T - 1)];    // the latest document start among the 64 rows
        own_wg = p.hole_end[(int64_t)(bh >> 16) * p.T + min(row_wg + 63, p.T - 1)];   // the latest beginning of a document or branch
        hole_wg = p.hole_first[(bh >> 16) * (p.TP / 64) + min(row_wg / 64, p.TP / 64 - 1)];
        m0 = m1 = -INFINITY; l0 = l1 = 0.0f;
        mbar_wait(&sm.q_full[cw], items & 1);
        #pragma unroll
        for (int kk = 0; kk < HD / 16; kk++) {
            uint32_t f[4];
            ldsm_x4(f, smem_u32(sm.q[cw]) + (kk / 4) * (64 * 128) + sw128(warp * 16 + (lane & 15), 2 * (kk % 4) + (lane >> 4)));
            #pragma unroll
            for (int i = 0; i < 4; i++) qr[4 * kk + i] = f[i];
        }
        pin(qr);
        arrived(qr);                                 // ldmatrix and an mbarrier's arrive go different ways in the chip: without this, Q's place was given back, very
        __syncwarp();                                // rarely, before it had been read
        release(&sm.q_empty[cw]);
        items++;
    };
    auto issue_qk = [&](int stage) {
        const uint32_t low = k_low + stage * (KV_BYTES >> 4);
        #pragma unroll
        for (int kk = 0; kk < HD / 16; kk++)
            mma_rs<0>(s, qr[4 * kk], qr[4 * kk + 1], qr[4 * kk + 2], qr[4 * kk + 3], desc(low + (((kk / 4) * (BN * 128) + (kk % 4) * 32) >> 4)), kk != 0);
    };
    auto issue_pv = [&](int stage) {
        const uint32_t low = v_low + stage * (KV_BYTES >> 4);
        #pragma unroll
        for (int kk = 0; kk < BN / 16; kk++)
            mma_rs<1>(o, pr[4 * kk], pr[4 * kk + 1], pr[4 * kk + 2], pr[4 * kk + 3], desc(low + kk * (16 * 128 >> 4)), kk != 0 || keep);
    };
    auto mask = [&](int n) {
        const int k0 = n * BN, c = k0 + 2 * quad;
        if (k0 + BN - 1 > row_wg) {                  // on the diagonal
            const int h0 = row_wg + row_lane - c, h1 = h0 + 8;
            #pragma unroll
            for (int j = 0; j < BN / 8; j++)
                #pragma unroll
                for (int e = 0; e < 2; e++) {
                    if (8 * j + e > h0) s[4 * j + e] = -INFINITY;
                    if (8 * j + e > h1) s[4 * j + 2 + e] = -INFINITY;
                }
        }
        if (k0 >= own_wg) return;
        if (k0 < lo_wg) {                            // a document begins inside
            const int g0 = lo0 - c, g1 = lo1 - c;
            #pragma unroll
            for (int j = 0; j < BN / 8; j++)
                #pragma unroll
                for (int e = 0; e < 2; e++) {
                    if (8 * j + e < g0) s[4 * j + e] = -INFINITY;
                    if (8 * j + e < g1) s[4 * j + 2 + e] = -INFINITY;
                }
        }
        if (k0 + BN > hole_wg) {                     // keys between a branch and its prompt
            const int64_t base = (int64_t)(bh >> 16) * p.T, r0 = base + min(row_wg + row_lane, p.T - 1), r1 = base + min(row_wg + row_lane + 8, p.T - 1);
            const int u0 = p.hole_begin[r0] - c, v0 = p.hole_end[r0] - c, u1 = p.hole_begin[r1] - c, v1 = p.hole_end[r1] - c;
            #pragma unroll
            for (int j = 0; j < BN / 8; j++)
                #pragma unroll
                for (int e = 0; e < 2; e++) {
                    if (8 * j + e >= u0 && 8 * j + e < v0) s[4 * j + e] = -INFINITY;
                    if (8 * j + e >= u1 && 8 * j + e < v1) s[4 * j + 2 + e] = -INFINITY;
                }
        }
    };
    // S -> P and the rows' statistics. v_done: the barrier to release once the P V under way is done (NULL: none is).
    auto softmax = [&](uint64_t *v_done) {
        float x0 = m0, x1 = m1;
        #pragma unroll
        for (int j = 0; j < BN / 8; j++) {
            x0 = fmaxf(x0, fmaxf(s[4 * j], s[4 * j + 1]));
            x1 = fmaxf(x1, fmaxf(s[4 * j + 2], s[4 * j + 3]));
        }
        x0 = fmaxf(x0, __shfl_xor_sync(0xffffffffu, x0, 1)); x0 = fmaxf(x0, __shfl_xor_sync(0xffffffffu, x0, 2));
        x1 = fmaxf(x1, __shfl_xor_sync(0xffffffffu, x1, 1)); x1 = fmaxf(x1, __shfl_xor_sync(0xffffffffu, x1, 2));
        move_max = __any_sync(0xffffffffu, (x0 - m0) * sc > LAZY || (x1 - m1) * sc > LAZY);   // NaN of -inf - -inf: a row that saw nothing yet stays
        if (!move_max) { x0 = m0; x1 = m1; }
        const float b0 = x0 == -INFINITY ? 0.0f : x0 * sc, b1 = x1 == -INFINITY ? 0.0f : x1 * sc;
        a0 = ex2(fmaf(m0, sc, -b0)); a1 = ex2(fmaf(m1, sc, -b1));
        m0 = x0; m1 = x1;
        float t0 = 0.0f, t1 = 0.0f;
        auto exponentials = [&](int j) {
            s[4 * j] = ex2(fmaf(s[4 * j], sc, -b0)); s[4 * j + 1] = ex2(fmaf(s[4 * j + 1], sc, -b0));
            s[4 * j + 2] = ex2(fmaf(s[4 * j + 2], sc, -b1)); s[4 * j + 3] = ex2(fmaf(s[4 * j + 3], sc, -b1));
            t0 += s[4 * j] + s[4 * j + 1]; t1 += s[4 * j + 2] + s[4 * j + 3];
        };
        #pragma unroll
        for (int j = 0; j < BN / 16; j++) exponentials(j);
        if (t0 + t1 < 0.0f) asm volatile("nanosleep.u32 0;");   // never; see the top of the file
        wg_wait<0>(); pin(o); pin(pr);
        if (v_done) release(v_done);
        #pragma unroll
        for (int j = BN / 16; j < BN / 8; j++) {
            exponentials(j);
            const int i = 2 * (j - BN / 16);
            pr[i] = pack_bf16(s[2 * i], s[2 * i + 1]); pr[i + 1] = pack_bf16(s[2 * i + 2], s[2 * i + 3]);
        }
        #pragma unroll
        for (int i = BN / 8; i < BN / 4; i++) pr[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
        l0 = fmaf(l0, a0, t0); l1 = fmaf(l1, a1, t1);
    };
    auto epilogue = [&](int of_bh, int of_row, float em0, float em1, float el0, float el1) {
        el0 += __shfl_xor_sync(0xffffffffu, el0, 1); el0 += __shfl_xor_sync(0xffffffffu, el0, 2);
        el1 += __shfl_xor_sync(0xffffffffu, el1, 1); el1 += __shfl_xor_sync(0xffffffffu, el1, 2);
        const float i0 = __fdividef(1.0f, el0), i1 = __fdividef(1.0f, el1);
        const int r0 = of_row + row_lane, r1 = r0 + 8, b = of_bh >> 16, h = of_bh & 0xffff;
        if (quad == 0) {
            float *lse = p.lse + ((int64_t)b * p.NH + h) * p.TP;
            if (r0 < p.T) lse[r0] = fmaf(em0, sc, __log2f(el0));
            if (r1 < p.T) lse[r1] = fmaf(em1, sc, __log2f(el1));
        }
        uint8_t *ob = sm.o[cw] + warp * (CHUNKS * 16 * 128);
        if (lane == 0) bulk_wait_read<0>();          // this warp's previous rows have left
        __syncwarp();
        #pragma unroll
        for (int kk = 0; kk < HD / 16; kk++)
            stsm_x4(smem_u32(ob) + (kk / 4) * (16 * 128) + sw128(lane & 15, 2 * (kk % 4) + (lane >> 4)),
                    pack_bf16(o[8 * kk] * i0, o[8 * kk + 1] * i0), pack_bf16(o[8 * kk + 2] * i1, o[8 * kk + 3] * i1),
                    pack_bf16(o[8 * kk + 4] * i0, o[8 * kk + 5] * i0), pack_bf16(o[8 * kk + 6] * i1, o[8 * kk + 7] * i1));
        fence_async_smem();
        __syncwarp();
        if (lane == 0) {
            if (of_row + warp * 16 < p.T) tma_store(&p.map_o, ob, of_row + warp * 16, h * CHUNKS, b);   // rows >= T are clipped
            bulk_commit();
        }
    };

    int4 w = fetch();
    if (w.x < 0) return;
    begin_item(w);
    int n = w.w, n_min = w.z;
    mbar_wait(&sm.k_full[0], 0);
    pin(s); wg_fence();
    issue_qk(0);
    wg_commit(); wg_wait<0>(); pin(s);
    release(&sm.k_empty[0]);
    mask(n);
    softmax(NULL);
    // One step: S of the next tile (in ring stage NEXT), P V of the present one (stage NOW)
    auto step = [&](auto now_, auto next_, uint32_t parity_now, uint32_t parity_next) -> bool {
        constexpr int NOW = decltype(now_)::value, NEXT = decltype(next_)::value;
        const bool last = n == n_min;
        const int of_bh = bh, of_row = row_wg;
        const float em0 = m0, em1 = m1, el0 = l0, el1 = l1;
        if (last) {
            w = fetch();
            if (w.x < 0) return false;
            begin_item(w);
            n = w.w; n_min = w.z;
        } else n--;
        mbar_wait(&sm.k_full[NEXT], parity_next);
        pin(s); pin(pr); pin(o); wg_fence();
        issue_qk(NEXT);
        wg_commit();
        mbar_wait(&sm.v_full[NOW], parity_now);
        wg_fence();                                  // the one the compiler would put here would serialise
        issue_pv(NOW);
        wg_commit();
        wg_wait<1>(); pin(s);
        release(&sm.k_empty[NEXT]);
        mask(n);
        softmax(&sm.v_empty[NOW]);
        if (last) epilogue(of_bh, of_row, em0, em1, el0, el1);
        else if (move_max) {
            #pragma unroll
            for (int j = 0; j < HD / 8; j++) { o[4 * j] *= a0; o[4 * j + 1] *= a0; o[4 * j + 2] *= a1; o[4 * j + 3] *= a1; }
        }
        keep = !last;
        return true;
    };
    uint32_t parity = 0;                             // of the present round over the ring
    int final_stage;
    for (;; parity ^= 1) {
        if (!step(std::integral_constant<int, 0>{}, std::integral_constant<int, 1>{}, parity, parity)) { final_stage = 0; break; }
        if (!step(std::integral_constant<int, 1>{}, std::integral_constant<int, 0>{}, parity, parity ^ 1)) { final_stage = 1; break; }
    }
    mbar_wait(&sm.v_full[final_stage], parity);
    pin(pr); pin(o); wg_fence();
    issue_pv(final_stage);
    wg_commit(); wg_wait<0>(); pin(o);
    epilogue(bh, row_wg, m0, m1, l0, l1);
    if (lane == 0) bulk_wait<0>();
#endif
}

template <int HD> static void attention_forward_sm90_launch(bf16 *out, float *lse, const bf16 *qkv, const AttentionPlan *plan, int32_t *counters, int64_t NH, int64_t NKV, cudaStream_t stream) {
    const int64_t B = plan->B, T = plan->T, W = (NH + 2 * NKV) * HD, K = ceil_div(T, FWD_TILE);
    CHECK(B < 32768 && NH < 65536 && B * K * NH < INT32_MAX);
    ForwardParameters p;
    p.map_q = head_map(qkv, B, T, W, 64, HD);
    p.map_kv = head_map(qkv, B, T, W, FWD_TILE, HD);
    p.map_o = head_map(out, B, T, NH * HD, 16, HD);
    p.lse = lse; p.start = plan->document_start; p.hole_begin = plan->hole_begin; p.hole_end = plan->hole_end; p.hole_first = plan->hole_first; p.order = plan->forward_order; p.first = plan->forward_first; p.counters = counters;
    p.T = (int)T; p.TP = (int)(ceil_div(T, QUERY_TILE) * QUERY_TILE); p.NH = (int)NH; p.NKV = (int)NKV; p.K = (int)K; p.tiles = (int)(B * K); p.items = (int)(B * K * NH);
    // Long documents read all of a head's keys again for every query tile: so many heads at a time that these stay in L2. Short ones do not.
    const int64_t group = NH / NKV, head_bytes = B * T * HD * 4, fit = (34 << 20) / head_bytes;
    const bool is_long = plan->visible_pairs > 0.125 * (double)(B * T) * (double)T;
    p.section_heads = (int)(is_long && fit < NKV ? group * (fit < 1 ? 1 : fit) : NH);
    p.scale_log2 = 1.4426950408889634f / sqrtf((float)HD);
    const int bytes = (int)sizeof(ForwardShared<HD>) + 1024, blocks = p.items < device_multiprocessors() ? p.items : device_multiprocessors();
    CUDA_CHECK(cudaFuncSetAttribute(attention_forward_sm90_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    attention_forward_sm90_kernel<HD><<<blocks, FWD_THREADS, bytes, stream>>>(p);
    CUDA_CHECK(cudaGetLastError());
}

// out (B*T, NH*HD), lse (B, NH, TP; base 2, of the scaled scores) from qkv (B*T, W); counters: 2 numbers, zero, and zero again afterwards
static void attention_forward_sm90(bf16 *out, float *lse, const bf16 *qkv, const AttentionPlan *plan, int32_t *counters, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    CHECK(HD == 64 || HD == 128);
    if (HD == 128) attention_forward_sm90_launch<128>(out, lse, qkv, plan, counters, NH, NKV, stream);
    else attention_forward_sm90_launch<64>(out, lse, qkv, plan, counters, NH, NKV, stream);
}
#endif
