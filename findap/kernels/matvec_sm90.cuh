// matvec_sm90.cuh: one row times a whole weight matrix on Hopper: what a single running answer does all the time.
//
// Bound by bytes: w is read once, 2 K O bytes. TMA brings it in slots of 128 columns, a ring of which lies ahead, asked for by one thread; a warpgroup multiplies by wgmma,
// w as the first operand with its rows on the 64 rows of a product, x as the second. Llama-3-8B on an H200: 253 tok/s, where decode.cuh's products by mma.sync give 242 (dev/LOG.md).
//
// Why not mma.sync, as decode.cuh does for two to eight rows: a sum is one chain over K, sixteen at a time (decode.cuh says why), and a link of it takes 33 cycles by mma.sync, some
// 18 by wgmma. In the middle of a matrix memory is slower than either; but what has gathered in shared memory while the kernel waited for x is worked off at that pace. The bits are the same.
//
// x is a single row, and a product wants eight. Without swizzle an operand's row r lies 16 bytes behind row r - 1, and eight columns further on another block of eight rows begins; with
// 16 bytes from block to block too, x may lie as it is: row 0 is x, row r is x from column 8 r on, and of the result only column 0 is kept.
// w has 16 to 64 rows a block; the product reads 64, of what comes next in shared memory, and those results are dropped.
//
// How many slots: what lies ahead bridges the gaps between kernels, but two blocks of a narrow matrix must not fit on one multiprocessor, which then would be the last: 20 slots of
// 32 rows (11 slots: 2.5 % slower), 9 of 48. Wide matrices have three blocks a multiprocessor. Chosen by trying 375 combinations.
#ifndef FINDAP_KERNELS_MATVEC_SM90_CUH
#define FINDAP_KERNELS_MATVEC_SM90_CUH
#include "cuda.cuh"     // defines: bf16, Pack, load_pack, launch_early, wait_for_previous, let_next_begin, device_is_hopper
#include "sm90.cuh"     // defines: TMA, mbarrier and wgmma wrappers
#include "swiglu.cuh"   // defines: sigmoid

typedef struct {
    bf16 *y;                          // (N, ldy)
    const bf16 *x, *w;                // (N, ldx); (O, K)
    const bf16 *bias, *residual;      // (O); like y
    const bf16 *norm;                 // (K) RMSNorm's weight: x is normalised on its way in
    float scale, eps;
    int64_t ldx, ldy;
    int N, K, O;
} Matvec;

// RMSNorm on x's way into a product, with the bits of rmsnorm_forward: 128 threads, each with the sums of two of its 256, its own and the one 128 further on; sums: of the warps of
// either, four and four
__device__ static __forceinline__ float norm_factor(const float *sums, int K, float eps) {
    return 1.0f / sqrtf((((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]))) / (float)K + eps);
}
__device__ static __forceinline__ Pack<bf16> normalised(const Pack<bf16> &x, const Pack<bf16> &weight, float r) {
    Pack<bf16> y;
    #pragma unroll
    for (int k = 0; k < 8; k++) y.at[k] = from_float<bf16>(to_float(weight.at[k]) * to_float(from_float<bf16>(to_float(x.at[k]) * r)));
    return y;
}

enum { ONE_THREADS = 160 /* a warpgroup, and a warp that asks for w */, ONE_SLOTS = 26 /* at most */, ONE_NORM = 8192 /* longest row that is normalised */ };
typedef struct {
    CUtensorMap map;   // of w
    Matvec m;
    int rows, slots;   // of a block: rows of the product's 64 that are there; slots of the ring
} MatvecOne;

DEVICE void mma_one(float (&d)[4], uint64_t a, uint64_t b) {   // d (64, 8) += a (64, 16) b (16, 8)
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b));
}
DEVICE uint64_t descriptor_row(uint32_t address) { return (uint64_t)((address & 0x3FFFFu) >> 4) | 1ull << 16 | 1ull << 32; }   // no swizzle, 16 bytes from one block of 8 x 8 to the next

// y (O) = scale x (K) w^T [+ residual (O)] [+ bias (O)], K a multiple of 128. SWIGLU, NORM: as decode.cuh's; SWIGLU's rows of a block: half of them of gate, and the same of up
template <bool SWIGLU, bool NORM> __global__ static void __launch_bounds__(ONE_THREADS) matvec_one_kernel(const __grid_constant__ MatvecOne p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t one_shared[];   // (slots, 2, rows, 64) of w, in chunks of 64 columns; (K) of x
    __shared__ uint64_t full[ONE_SLOTS], empty[ONE_SLOTS], x_full;
    __shared__ float shared[32];
    const Matvec &m = p.m;
    const int t = threadIdx.x, warp = t / 32, lane = t % 32, K = m.K, steps = K / 128, rows = p.rows, slots = p.slots, slot_bytes = rows * 256, own = SWIGLU ? rows / 2 : rows, row0 = blockIdx.x * own;
    uint8_t *const w = one_shared + (-smem_u32(one_shared) & 1023), *const x = w + slots * slot_bytes;
    if (t == 128) {
        for (int s = 0; s < slots; s++) { mbar_init(&full[s], 1); mbar_init(&empty[s], 4 * WARP_ARRIVALS); }
        mbar_init(&x_full, 1);
        fence_mbar_init();
    }
    __syncthreads();
    let_next_begin();
    if (warp == 4) {
        auto load = [&](int i, int slot) {
            mbar_arrive_tx(&full[slot], slot_bytes);
            for (int c = 0; c < 2; c++) tma_load(w + slot * slot_bytes + c * rows * 128, &p.map, &full[slot], row0, 2 * i + c, 0);
        };
        if (lane > 0) return;
        for (int i = 0; i < slots && i < steps; i++) load(i, i);   // no weight hangs on the kernel before
        for (int i = slots, slot = 0, parity = 0; i < steps; i++) {
            mbar_wait(&empty[slot], parity);
            load(i, slot);
            if (++slot == slots) { slot = 0; parity ^= 1; }
        }
        return;
    }
    if constexpr (NORM) {
        constexpr int MOST = ONE_NORM / 8 / 128;   // 16-byte units of a thread
        Pack<bf16> v[MOST], weight[MOST];
        float half[2] = {0, 0};
        #pragma unroll
        for (int i = 0; i < MOST; i++) if ((i * 128 + t) * 8 < K) weight[i] = load_pack(m.norm + (i * 128 + t) * 8);
        wait_for_previous();
        #pragma unroll
        for (int i = 0; i < MOST; i++) if ((i * 128 + t) * 8 < K) v[i] = load_pack(m.x + (i * 128 + t) * 8);
        #pragma unroll
        for (int i = 0; i < MOST; i++)
            if ((i * 128 + t) * 8 < K)
                #pragma unroll
                for (int k = 0; k < 8; k++) { const float f = to_float(v[i].at[k]); half[i % 2] += f * f; }
        half[0] = warp_sum(half[0]);
        half[1] = warp_sum(half[1]);
        if (lane == 0) { shared[warp] = half[0]; shared[4 + warp] = half[1]; }
        bar_sync(1, 128);
        const float r = norm_factor(shared, K, m.eps);
        #pragma unroll
        for (int i = 0; i < MOST; i++) {
            if ((i * 128 + t) * 8 >= K) break;
            store_pack(reinterpret_cast<bf16 *>(x) + (i * 128 + t) * 8, normalised(v[i], weight[i], r));
        }
        fence_async_smem();
        bar_sync(1, 128);
    } else {
        wait_for_previous();
        if (t == 0) { mbar_arrive_tx(&x_full, K * 2); bulk_load(x, m.x, K * 2, &x_full); }
    }
    // of d, this lane has column 0 of rows 16 warp + lane / 4 and 8 further on, if lane % 4 is 0
    const bool keeps = lane % 4 == 0;
    float added[2] = {0, 0}, d[4] = {0, 0, 0, 0};
    if (!SWIGLU && m.residual)   // asked for now: at the end it would be waited for
        #pragma unroll
        for (int h = 0; h < 2; h++) { const int r = warp * 16 + lane / 4 + 8 * h; if (keeps && r < own && row0 + r < m.O) added[h] = to_float(m.residual[row0 + r]); }
    if (!NORM) mbar_wait(&x_full, 0);
    const uint64_t at_w = descriptor_kmajor(smem_u32(w)), at_x = descriptor_row(smem_u32(x));   // addresses in units of 16 bytes
    #pragma unroll 1
    for (int i = 0, slot = 0, parity = 0; i < steps; i++) {
        mbar_wait(&full[slot], parity);
        pin(d);
        wg_fence();
        #pragma unroll
        for (int k = 0; k < 8; k++) mma_one(d, at_w + (slot * slot_bytes + k / 4 * rows * 128) / 16 + k % 4 * 2, at_x + i * 16 + k * 2);
        wg_commit();
        wg_wait<1>();
        if (i > 0) warp_arrive(smem_u32(&empty[slot == 0 ? slots - 1 : slot - 1]), lane);
        if (++slot == slots) { slot = 0; parity ^= 1; }
    }
    wg_wait<0>();
    pin(d);
    if constexpr (SWIGLU) {
        #pragma unroll
        for (int h = 0; h < 2; h++) { const int r = warp * 16 + lane / 4 + 8 * h; if (keeps && r >= own) shared[r - own] = to_float(from_float<bf16>(d[2 * h])); }
        bar_sync(1, 128);
    }
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        const int r = warp * 16 + lane / 4 + 8 * h, o = row0 + r;
        if (!keeps || r >= own || o >= m.O) continue;
        if constexpr (SWIGLU) {
            const float gate = to_float(from_float<bf16>(d[2 * h]));
            m.y[o] = from_float<bf16>(gate * sigmoid(gate) * shared[r]);
        } else {
            float s = d[2 * h] * m.scale;
            if (m.residual) s += added[h];
            if (m.bias) s += to_float(m.bias[o]);
            m.y[o] = from_float<bf16>(s);
        }
    }
#endif
}

static inline bool matvec_one_possible(const Matvec *m) { return m->N == 1 && m->K % 128 == 0 && m->K <= (m->norm ? ONE_NORM : 32768) && device_is_hopper(); }
template <bool SWIGLU, bool NORM> static void matvec_one_launch(const Matvec *m, cudaStream_t stream) {
    const int64_t eights = ceil_div(m->O, 8), each = device_multiprocessors();
    MatvecOne p;
    p.m = *m;
    p.rows = SWIGLU || eights > 6 * each ? 64 : eights > 4 * each ? 48 : eights > 2 * each ? 32 : 16;
    p.slots = p.rows == 64 ? 4 : p.rows == 48 ? 9 : p.rows == 32 ? 20 : 26;
    p.map = weight_map(m->w, SWIGLU ? 2 : 1, m->O, m->K, SWIGLU ? 32 : p.rows);
    const int64_t most = 225 << 10, behind = std::max<int64_t>(m->K * 2 + 256, (64 - p.rows) * 128);   // behind the ring: x, and what a product reads of it and of the last slot beyond the end
    const int64_t fit = (most - 1024 - behind) / (p.rows * 256);
    p.slots = (int)std::min<int64_t>(p.slots, fit);
    CHECK(p.slots >= 2);
    static bool allowed = false;
    if (!allowed) {
        CUDA_CHECK(cudaFuncSetAttribute(matvec_one_kernel<SWIGLU, NORM>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)most));
        CUDA_CHECK(cudaFuncSetAttribute(matvec_one_kernel<SWIGLU, NORM>, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
        allowed = true;
    }
    launch_early(matvec_one_kernel<SWIGLU, NORM>, dim3((unsigned)ceil_div(m->O, SWIGLU ? 32 : p.rows)), ONE_THREADS, (int)(1024 + p.slots * p.rows * 256 + behind), stream, p);
}
// y (O) = one row: see the kernel
static inline void matvec_one(const Matvec *m, cudaStream_t stream) { if (m->norm) matvec_one_launch<false, true>(m, stream); else matvec_one_launch<false, false>(m, stream); }
// y (O) = silu(x gate^T) * (x up^T), w: gate (O, K) and behind it up (O, K)
static inline void matvec_one_swiglu(const Matvec *m, cudaStream_t stream) { if (m->norm) matvec_one_launch<true, true>(m, stream); else matvec_one_launch<true, false>(m, stream); }
#endif
