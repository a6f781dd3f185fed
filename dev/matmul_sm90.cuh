// matmul_sm90.cuh: large bf16 matrix products on Hopper, by hand: D (R, S) = A B [+ C] [+ bias], sums in fp32 over K in one chain, D in bf16, or fp32 that is
// added to. To read, and to compare: training calls the library (findap/kernels/matmul.cuh).
//
// Bound by FLOPs, 2 R S K; at the card's power limit, by joules. 670 to 820 TFLOP/s alone and rested, within 4 % of the fastest of some 65 kernels of the library but where
// a gradient is added to; all products of a training step one behind the other, at the power limit, take 2 to 3 % longer (dev/LOG.md). What it has that they
// do not:
// - Tiles are handed out as blocks come free, not dealt at the start: meant for products beside transfers between GPUs, where it made no difference.
// - A product of gate and up can leave silu(gate) * up behind too, from registers: SwiGLU's forward pass need not read the two again.
// Its sums are those of the library's kernels that do not split K, bit for bit (dev/matmul.cu checks it).
//
// A cluster of two blocks works on 256 x 256 numbers of D, each block on its own 128 rows. Of a step of 64 along K each block loads its rows of A and half of
// the columns' B, and that half goes to both (multicast). A block has three warpgroups: one thread of the first feeds a ring of four steps by TMA; the others own
// 64 rows each, 64 x 256 sums in 128 registers a thread. They run freely: while one stores its tile, the other has the tensor cores for itself.
//
// Either operand may lie as it likes (sm90.cuh): K-major or MN-major, so the three products of a linear layer need no transposition. Widths in memory are
// multiples of 64, rows any number: TMA reads zeros beyond, and does not write there.
#ifndef DEV_MATMUL_SM90_CUH
#define DEV_MATMUL_SM90_CUH
#include "../findap/kernels/sm90.cuh"     // defines: TMA, mbarrier and wgmma wrappers
#include "../findap/kernels/swiglu.cuh"   // defines: sigmoid

// ---- what another block has written. An arrival that says so waits for all of this thread's memory traffic: in a loop over tiles that costs a third of the speed
DEVICE void cluster_publish(uint32_t b) { asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(b) : "memory"); }
DEVICE void cluster_store(uint32_t a, int x) { asm volatile("st.shared::cluster.b32 [%0], %1;" ::"r"(a), "r"(x) : "memory"); }
DEVICE void cluster_wait(uint64_t *b, uint32_t parity) {   // also for what another block has written
    asm volatile("{\n.reg .pred done;\nWAIT_%=:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n@done bra DONE_%=;\nbra WAIT_%=;\nDONE_%=:\n}"
                 ::"r"(smem_u32(b)), "r"(parity) : "memory");
}

// ---- wgmma of 256 columns
#define WGMMA_F128(d) WGMMA_F32(d, 0), WGMMA_F32(d, 32), WGMMA_F32(d, 64), WGMMA_F32(d, 96)
#define WGMMA_LIST_128 WGMMA_LIST_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
template <int TA, int TB> DEVICE void mma_ss(float (&d)[128], uint64_t a, uint64_t b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WGMMA_LIST_128 "}, %128, %129, p, 1, 1, %131, %132;\n}"
                 : WGMMA_F128(d) : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB));
}

// ---- the product

enum { MM_ROWS = 128, MM_COLS = 256, MM_STEP = 64, MM_STAGES = 4, MM_THREADS = 384, MM_CLUSTER = 2 };
enum MatmulOut { MM_BF16, MM_SWIGLU /* bf16, and act */, MM_FP32, MM_FP32_ADD };

struct alignas(1024) MatmulShared {
    uint8_t b[MM_STAGES][MM_COLS * MM_STEP * 2], a[MM_STAGES][MM_ROWS * MM_STEP * 2];   // the ring
    uint8_t out[8][16 * 128 * 2];                    // of each consumer warp: 16 rows of 128 columns on their way out
    uint64_t full[MM_STAGES], empty[MM_STAGES], work_full[2], work_empty[2];
    int work[2];
};

struct MatmulParameters {
    CUtensorMap map_a, map_b, map_d, map_act;
    void *d;
    const bf16 *c, *bias;                            // or NULL
    int32_t *counters;                               // [0] items handed out, [1] blocks that are done; both 0 between launches
    int64_t width;                                   // of C and D
    int R, S, K;
    int up;                                          // MM_SWIGLU: columns from gate to up; S: of gate
    int row_pairs, items;                            // of 256 x 256 (MM_SWIGLU: 256 x 128 of gate and of up)
    int group;                                       // pairs of rows that are walked along together, so that what they share stays in L2
    float scale;
};

// TA, TB: the operand is MN-major
template <int TA, int TB, int OUT> __global__ static void __launch_bounds__(MM_THREADS, 1) matmul_sm90_kernel(const __grid_constant__ MatmulParameters p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int A_BYTES = MM_ROWS * MM_STEP * 2, B_HALF = MM_COLS * MM_STEP, ITEM_COLS = OUT == MM_SWIGLU ? MM_COLS / 2 : MM_COLS;
    extern __shared__ uint8_t shared_raw[];
    auto &sm = *reinterpret_cast<MatmulShared *>(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023);
    const int wg = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), steps = (p.K + MM_STEP - 1) / MM_STEP;
    const uint32_t rank = cluster_rank();
    if (threadIdx.x == 0) {
        for (int i = 0; i < MM_STAGES; i++) { mbar_init(&sm.full[i], 1); mbar_init(&sm.empty[i], 8 * MM_CLUSTER); }   // empty: from each consumer warp of both blocks
        for (int i = 0; i < 2; i++) { mbar_init(&sm.work_full[i], 1); mbar_init(&sm.work_empty[i], 8 * MM_CLUSTER + MM_CLUSTER - 1); }
        fence_mbar_init();
    }
    cluster_sync();
    auto place = [&](int item, int *row, int *col) {   // of D, where this block's part of an item begins
        const int per_group = p.group * (p.items / p.row_pairs), g = item / per_group, r = item - g * per_group, pairs = min(p.group, p.row_pairs - g * p.group), c = r / pairs;
        *row = ((g * p.group + r - c * pairs) * MM_CLUSTER + (int)rank) * MM_ROWS;
        *col = c * ITEM_COLS;
    };

    if (wg == 0) {   // ------------------------------------------------------------------------------------ producer
        reg_dec<40>();
        if (threadIdx.x == 0) {
            tma_prefetch(&p.map_a); tma_prefetch(&p.map_b); tma_prefetch(&p.map_d);
            int stage = 0, next = blockIdx.x / MM_CLUSTER;
            uint32_t round = 1;                      // parity that says a stage is free
            for (int taken = 0;; taken++) {
                const int slot = taken & 1;
                int item = next;
                if (rank == 0) {                     // the first block of a cluster asks, for both
                    mbar_wait(&sm.work_empty[slot], ((taken >> 1) & 1) ^ 1);
                    #pragma unroll
                    for (uint32_t to = 0; to < MM_CLUSTER; to++) {
                        cluster_store(counterpart(smem_u32(&sm.work[slot]), to), item);
                        cluster_publish(counterpart(smem_u32(&sm.work_full[slot]), to));
                    }
                    if (item < p.items) next = gridDim.x / MM_CLUSTER + atomicAdd(&p.counters[0], 1);   // its latency hides behind this item's loads
                } else {
                    cluster_wait(&sm.work_full[slot], (taken >> 1) & 1);
                    item = *(volatile int *)&sm.work[slot];
                    cluster_arrive(counterpart(smem_u32(&sm.work_empty[slot]), 0));
                }
                if (item >= p.items) break;
                int row, col;
                place(item, &row, &col);
                // this block's half of the columns: the second 128, or of gate and up the latter
                const int col_half = OUT == MM_SWIGLU ? col + (int)rank * p.up : col + (int)rank * (MM_COLS / 2);
                for (int k = 0; k < steps; k++) {
                    mbar_wait(&sm.empty[stage], round);
                    mbar_arrive_tx(&sm.full[stage], A_BYTES + 2 * B_HALF);
                    if (TA) tma_load(sm.a[stage], &p.map_a, &sm.full[stage], k * MM_STEP, row / 64, 0);
                    else tma_load(sm.a[stage], &p.map_a, &sm.full[stage], row, k, 0);
                    if (TB) tma_load_shared(sm.b[stage] + rank * B_HALF, &p.map_b, &sm.full[stage], k * MM_STEP, col_half / 64, 0, 3);
                    else tma_load_shared(sm.b[stage] + rank * B_HALF, &p.map_b, &sm.full[stage], col_half, k, 0, 3);
                    if (++stage == MM_STAGES) { stage = 0; round ^= 1; }
                }
            }
            __threadfence();                         // the last cluster out makes the counters ready for the next launch
            if (rank == 0 && atomicAdd(&p.counters[1], 1) == (int)gridDim.x / MM_CLUSTER - 1) { p.counters[0] = 0; p.counters[1] = 0; }
        }
    } else {         // ----------------------------------------------------------------------------------- consumers
        reg_inc<232>();
        const int warp = __shfl_sync(0xffffffffu, (threadIdx.x & 127) / 32, 0), lane = threadIdx.x & 31, quad = lane & 3;
        uint8_t *const out = sm.out[(wg - 1) * 4 + warp];
        // of a k16 step: 32 bytes on in a K-major chunk, 16 rows on in MN-major ones
        const uint64_t a_desc = descriptor(smem_u32(sm.a[0]) + (uint32_t)(wg - 1) * (64 * 128), TA ? 64 * 128 : 16), b_desc = descriptor(smem_u32(sm.b[0]), TB ? 64 * 128 : 16);
        constexpr int A_STEP = (TA ? 16 * 128 : 32) >> 4, B_STEP = (TB ? 16 * 128 : 32) >> 4;
        float sum[128];
        int stage = 0;
        uint32_t round = 0;
        auto release = [&](int s) { if (lane < MM_CLUSTER) cluster_arrive(counterpart(smem_u32(&sm.empty[s]), (uint32_t)lane)); };
        for (int taken = 0;; taken++) {
            const int slot = taken & 1;
            cluster_wait(&sm.work_full[slot], (taken >> 1) & 1);
            const int item = __shfl_sync(0xffffffffu, *(volatile int *)&sm.work[slot], 0);
            if (lane == 0) cluster_arrive(counterpart(smem_u32(&sm.work_empty[slot]), 0));
            if (item >= p.items) break;
            pin(sum);
            for (int k = 0; k < steps; k++) {
                mbar_wait(&sm.full[stage], round);
                wg_fence();
                #pragma unroll
                for (int kk = 0; kk < MM_STEP / 16; kk++)
                    mma_ss<TA, TB>(sum, a_desc + stage * (A_BYTES >> 4) + kk * A_STEP, b_desc + stage * (2 * B_HALF >> 4) + kk * B_STEP, k != 0 || kk != 0);
                wg_commit();
                if (k > 0) { wg_wait<1>(); release(stage == 0 ? MM_STAGES - 1 : stage - 1); }
                if (++stage == MM_STAGES) { stage = 0; round ^= 1; }
            }
            wg_wait<0>(); pin(sum);
            release(stage == 0 ? MM_STAGES - 1 : stage - 1);

            int row, col;
            place(item, &row, &col);
            row += (wg - 1) * 64 + warp * 16;        // of this warp's 16
            const int r0 = row + (lane >> 2), r1 = r0 + 8;
            if (OUT == MM_FP32 || OUT == MM_FP32_ADD) {   // a warp's store is 32 bytes of each of eight rows: whole sectors
                float *d0 = (float *)p.d + (int64_t)r0 * p.width + col + 2 * quad, *d1 = d0 + 8 * p.width;
                #pragma unroll
                for (int j = 0; j < 32; j++) {
                    if (col + 8 * j >= p.S) break;
                    const float2 x0 = make_float2(sum[4 * j] * p.scale, sum[4 * j + 1] * p.scale), x1 = make_float2(sum[4 * j + 2] * p.scale, sum[4 * j + 3] * p.scale);
                    if (OUT == MM_FP32_ADD) {        // added where it lies, in L2: nobody waits for the old sums. One addition a number and launch, so the bits are always the same
                        if (r0 < p.R) asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(d0 + 8 * j), "f"(x0.x), "f"(x0.y) : "memory");
                        if (r1 < p.R) asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(d1 + 8 * j), "f"(x1.x), "f"(x1.y) : "memory");
                    } else {
                        if (r0 < p.R) *(float2 *)(d0 + 8 * j) = x0;
                        if (r1 < p.R) *(float2 *)(d1 + 8 * j) = x1;
                    }
                }
            } else {
                auto store = [&](int half, const CUtensorMap *map, int to) {   // columns 128 half + 0..127 of this tile, to column `to`
                    if (lane == 0) bulk_wait_read<0>();   // what lay here has left
                    __syncwarp();
                    #pragma unroll
                    for (int kk = 0; kk < 8; kk++) {
                        const float *x = sum + 64 * half + 8 * kk;
                        stsm_x4(smem_u32(out) + (kk / 4) * (16 * 128) + sw128(lane & 15, 2 * (kk % 4) + (lane >> 4)), pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
                    }
                    fence_async_smem();
                    __syncwarp();
                    if (lane == 0) {
                        if (row < p.R) tma_store(map, out, row, to / 64, 0);
                        bulk_commit();
                    }
                };
                #pragma unroll
                for (int i = 0; i < 128; i++) sum[i] *= p.scale;
                if (p.bias) {
                    #pragma unroll
                    for (int j = 0; j < 32; j++) {
                        const int at = col + 8 * j + 2 * quad + (OUT == MM_SWIGLU && j >= 16 ? p.up - 128 : 0);
                        if (OUT != MM_SWIGLU && col + 8 * j >= p.S) break;
                        const __nv_bfloat162 x = *(const __nv_bfloat162 *)(p.bias + at);
                        sum[4 * j] += __low2float(x); sum[4 * j + 1] += __high2float(x); sum[4 * j + 2] += __low2float(x); sum[4 * j + 3] += __high2float(x);
                    }
                }
                #pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int to = OUT == MM_SWIGLU ? col + half * p.up : col + 128 * half;
                    if (p.c) {
                        const bf16 *c0 = p.c + (int64_t)r0 * p.width + to + 2 * quad, *c1 = c0 + 8 * p.width;
                        #pragma unroll
                        for (int j = 0; j < 16; j++) {
                            float *x = sum + 64 * half + 4 * j;
                            if (OUT != MM_SWIGLU && to + 8 * j >= p.S) break;
                            if (r0 < p.R) { const __nv_bfloat162 y = *(const __nv_bfloat162 *)(c0 + 8 * j); x[0] += __low2float(y); x[1] += __high2float(y); }
                            if (r1 < p.R) { const __nv_bfloat162 y = *(const __nv_bfloat162 *)(c1 + 8 * j); x[2] += __low2float(y); x[3] += __high2float(y); }
                        }
                    }
                    store(half, &p.map_d, to);
                }
                if (OUT == MM_SWIGLU) {              // of gate and up as they were stored
                    #pragma unroll
                    for (int i = 0; i < 64; i++) {
                        const float g = to_float(from_float<bf16>(sum[i])), u = to_float(from_float<bf16>(sum[64 + i]));
                        sum[i] = g * sigmoid(g) * u;
                    }
                    store(0, &p.map_act, col);
                }
            }
        }
        if (OUT == MM_BF16 || OUT == MM_SWIGLU) if (lane == 0) bulk_wait<0>();
    }
    cluster_sync();                                  // nobody leaves while the other may still send something here
#endif
}

// A (R, K) or (K, R), B (S, K) or (K, S), C and D (R, S), rows one behind the other. K of what is K-major, R and S of what is MN-major are multiples of 64
typedef struct {
    const bf16 *a, *b, *c, *bias;
    void *d;
    bf16 *act;             // (R, S / 2), where B is gate and up, one behind the other: silu(gate) * up
    int64_t R, S, K;
    bool a_by_rows_of_k, b_by_rows_of_k, out_fp32, add;   // MN-major; add: D += where D is fp32
    float scale;
    int group;             // pairs of rows that are walked along together; 0: eight
    int32_t *counters;     // 2 numbers, zero, and zero again afterwards
} Matmul;

static inline bool matmul_sm90_possible(const Matmul *m) {
    auto aligned = [](const void *x) { return ((uintptr_t)x & 15) == 0; };
    const bool a = m->a_by_rows_of_k ? m->R % 64 == 0 : m->K % 64 == 0, b = m->b_by_rows_of_k ? m->S % 64 == 0 : m->K % 64 == 0;
    return a && b && m->S % (m->act ? 256 : 64) == 0 && aligned(m->a) && aligned(m->b) && aligned(m->d) && aligned(m->act) &&
           m->R < 1 << 30 && m->S < 1 << 30 && m->K < 1 << 30 && device_is_hopper();
}

template <int TA, int TB, int OUT> static void matmul_sm90_launch(const MatmulParameters *p, cudaStream_t stream) {
    const int bytes = (int)sizeof(MatmulShared) + 1024, clusters = p->items < device_multiprocessors() / MM_CLUSTER ? p->items : device_multiprocessors() / MM_CLUSTER;
    CUDA_CHECK(cudaFuncSetAttribute(matmul_sm90_kernel<TA, TB, OUT>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = MM_CLUSTER; cluster.val.clusterDim.y = 1; cluster.val.clusterDim.z = 1;
    c.gridDim = dim3((unsigned)(clusters * MM_CLUSTER)); c.blockDim = dim3(MM_THREADS); c.dynamicSmemBytes = (size_t)bytes; c.stream = stream; c.attrs = &cluster; c.numAttrs = 1;
    CUDA_CHECK(cudaLaunchKernelEx(&c, matmul_sm90_kernel<TA, TB, OUT>, *p));
}
static void matmul_sm90(const Matmul *m, cudaStream_t stream) {
    CHECK(matmul_sm90_possible(m));
    MatmulParameters p;
    p.map_a = m->a_by_rows_of_k ? head_map(m->a, 1, m->K, m->R, MM_STEP, MM_ROWS) : head_map(m->a, 1, m->R, m->K, MM_ROWS, MM_STEP);
    p.map_b = m->b_by_rows_of_k ? head_map(m->b, 1, m->K, m->S, MM_STEP, MM_COLS / 2) : head_map(m->b, 1, m->S, m->K, MM_COLS / 2, MM_STEP);
    p.map_d = m->out_fp32 ? p.map_a : head_map((const bf16 *)m->d, 1, m->R, m->S, 16, 128);
    p.map_act = m->act ? head_map(m->act, 1, m->R, m->S / 2, 16, 128) : p.map_a;
    p.d = m->d; p.c = m->c; p.bias = m->bias; p.counters = m->counters; p.width = m->S; p.scale = m->scale;
    p.up = (int)(m->S / 2);
    p.R = (int)m->R; p.S = (int)(m->act ? m->S / 2 : m->S); p.K = (int)m->K;
    p.row_pairs = (int)ceil_div(m->R, MM_CLUSTER * MM_ROWS);
    p.items = p.row_pairs * (int)ceil_div(p.S, m->act ? MM_COLS / 2 : MM_COLS);
    p.group = m->group ? m->group : 8;
    const int ta = m->a_by_rows_of_k, tb = m->b_by_rows_of_k;
    if (m->act) { CHECK(!ta && !tb && !m->out_fp32); matmul_sm90_launch<0, 0, MM_SWIGLU>(&p, stream); }
    else if (!ta && !tb && !m->out_fp32) matmul_sm90_launch<0, 0, MM_BF16>(&p, stream);       // forward
    else if (!ta && tb && !m->out_fp32) matmul_sm90_launch<0, 1, MM_BF16>(&p, stream);        // dinput
    else if (ta && tb && m->out_fp32 && !m->add) matmul_sm90_launch<1, 1, MM_FP32>(&p, stream);   // dweight
    else if (ta && tb && m->out_fp32) matmul_sm90_launch<1, 1, MM_FP32_ADD>(&p, stream);
    else die("no product of this kind on Hopper");
}
#endif
