// matmul_rows_sm90.cuh: 129 to 256 rows times gate and up on Hopper, with SwiGLU: what that many running answers ask for at a time, and a third of their time.
//
// Bound by nearly everything at once: Llama-3-8B's 235 MB of weights take 55 us to read, its 60 GFLOP 61 us at the data sheet's rate, and each multiprocessor can take some 64 bytes a cycle
// from the L2; and the card has 700 W. 94 us back to back, where the library's product and SwiGLU take 112 (dev/decode.cu). What is done about it:
// - Four blocks in a cluster: two share the rows of x, two the weights, and each loads half of what it shares for both (multicast). So x leaves the L2 once for 480 columns, and weights once.
//   In clusters of two, sharing weights alone, it took 100 us.
// - An H200 has room for 30 such clusters at a time. 14,336 columns are 120 tiles of 120, each with gate's and up's: two tiles a block, and no third round.
// - The first weights are asked for before the kernel ahead, which makes x, has ended.
// The same for qkv and for attention's output, in tiles of 112 and 80 columns, was slower than the library by 4 and 7 % (dev/LOG.md): there it is left to it.
//
// A sum is one chain over K, sixteen at a time in rising order, as everywhere in generation (decode.cuh): the bits are those of the library's unsplit products and swiglu_forward.
#ifndef FINDAP_KERNELS_MATMUL_ROWS_SM90_CUH
#define FINDAP_KERNELS_MATMUL_ROWS_SM90_CUH
#include "sm90.cuh"     // defines: TMA, mbarrier, cluster and wgmma wrappers
#include "swiglu.cuh"   // defines: sigmoid

enum { ROWS_COLS = 120 /* of gate, and of up, in a tile */, ROWS_HALF = 128 /* rows of x in a tile */, ROWS_STEP = 64, ROWS_STAGES = 4, ROWS_THREADS = 384, ROWS_CLUSTER = 4 };
enum { ROWS_W = ROWS_COLS * ROWS_STEP * 2 /* bytes of gate, or of up, of a step */, ROWS_X = ROWS_HALF / 2 * ROWS_STEP * 2 /* of half of a tile's rows of x */ };
struct alignas(1024) RowsShared {
    uint8_t w[ROWS_STAGES][2 * ROWS_W], x[ROWS_STAGES][2 * ROWS_X];   // a ring of steps along K
    uint64_t full[ROWS_STAGES], empty[ROWS_STAGES];
};
typedef struct {
    CUtensorMap map_x, map_w;   // (N, K) in boxes of 64 rows; gate (F, K) and up (F, K) in boxes of 120
    bf16 *y;                    // (N, F)
    int N, K, F;
} Rows;

// y (N, F) = silu(x gate^T) * (x up^T), both products rounded to bf16 first. Block r of a cluster has rows 128 (r % 2) .. of the cluster's tile r / 2; a cluster goes from two tiles to the next two. One thread of the
// first warpgroup feeds the ring; the other two have 64 rows each, 64 x (120 + 120) sums, 120 registers a thread.
__global__ static void __launch_bounds__(ROWS_THREADS, 1) rows_swiglu_kernel(const __grid_constant__ Rows p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t shared_raw[];
    auto &sm = *reinterpret_cast<RowsShared *>(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023);
    const int wg = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), steps = p.K / ROWS_STEP, tiles = (p.F + ROWS_COLS - 1) / ROWS_COLS, clusters = gridDim.x / ROWS_CLUSTER;
    const uint32_t rank = cluster_rank(), half = rank & 1, pair = rank >> 1;
    if (threadIdx.x == 0) {
        for (int i = 0; i < ROWS_STAGES; i++) { mbar_init(&sm.full[i], 1); mbar_init(&sm.empty[i], 8 * 3); }   // empty: of each consumer warp of this block and of the two that it loads for
        fence_mbar_init();
    }
    cluster_sync();
    let_next_begin();
    if (wg == 0) {   // ------------------------------------------------------------------------------------ producer
        reg_dec<40>();
        if (threadIdx.x == 0) {
            const uint16_t share_x = (uint16_t)(5u << half), share_w = (uint16_t)(3u << (2 * pair));   // blocks half and half + 2; 2 pair and 2 pair + 1
            auto load_w = [&](int stage, int tile, int k) {   // gate by one of the two, up by the other
                mbar_arrive_tx(&sm.full[stage], 2 * ROWS_W + 2 * ROWS_X);
                tma_load_shared(sm.w[stage] + half * ROWS_W, &p.map_w, &sm.full[stage], tile * ROWS_COLS, k, (int)half, share_w);
            };
            auto load_x = [&](int stage, int k) { tma_load_shared(sm.x[stage] + pair * ROWS_X, &p.map_x, &sm.full[stage], (int)half * ROWS_HALF + (int)pair * (ROWS_HALF / 2), k, 0, share_x); };
            const int first = (int)(blockIdx.x / ROWS_CLUSTER), ahead = min(steps, (int)ROWS_STAGES);
            for (int k = 0; k < ahead; k++) load_w(k, 2 * first + (int)pair, k);   // no weight hangs on the kernel before
            wait_for_previous();
            for (int k = 0; k < ahead; k++) load_x(k, k);
            int stage = ahead % ROWS_STAGES;
            uint32_t parity = ahead == ROWS_STAGES ? 0 : 1;   // that says a stage is free
            for (int item = first; 2 * item < tiles; item += clusters)
                for (int k = item == first ? ahead : 0; k < steps; k++) {
                    mbar_wait(&sm.empty[stage], parity);
                    load_w(stage, 2 * item + (int)pair, k);
                    load_x(stage, k);
                    if (++stage == ROWS_STAGES) { stage = 0; parity ^= 1; }
                }
        }
    } else {         // ----------------------------------------------------------------------------------- consumers
        reg_inc<232>();
        const int warp = __shfl_sync(0xffffffffu, (threadIdx.x & 127) / 32, 0), lane = threadIdx.x & 31, quad = lane & 3;
        const uint64_t x_desc = descriptor_kmajor(smem_u32(sm.x[0]) + (uint32_t)(wg - 1) * (64 * 128)), w_desc = descriptor_kmajor(smem_u32(sm.w[0]));
        float sum[ROWS_COLS];   // of gate the first half, of up the second
        int stage = 0;
        uint32_t parity = 0;
        auto release = [&](int s) { if (lane < 3) cluster_arrive(counterpart(smem_u32(&sm.empty[s]), rank ^ (uint32_t)lane)); };
        for (int item = (int)(blockIdx.x / ROWS_CLUSTER); 2 * item < tiles; item += clusters) {
            pin(sum);
            for (int k = 0; k < steps; k++) {
                mbar_wait(&sm.full[stage], parity);
                wg_fence();
                #pragma unroll
                for (int kk = 0; kk < ROWS_STEP / 16; kk++) mma_ss<0, 0>(sum, x_desc + stage * (2 * ROWS_X >> 4) + kk * 2, w_desc + stage * (2 * ROWS_W >> 4) + kk * 2, k != 0 || kk != 0);
                wg_commit();
                if (k > 0) { wg_wait<1>(); release(stage == 0 ? ROWS_STAGES - 1 : stage - 1); }
                if (++stage == ROWS_STAGES) { stage = 0; parity ^= 1; }
            }
            wg_wait<0>(); pin(sum);
            release(stage == 0 ? ROWS_STAGES - 1 : stage - 1);
            const int col = (2 * item + (int)pair) * ROWS_COLS + 2 * quad;
            #pragma unroll
            for (int h = 0; h < 2; h++) {
                const int row = (int)half * ROWS_HALF + (wg - 1) * 64 + warp * 16 + lane / 4 + 8 * h;
                bf16 *to = p.y + (int64_t)row * p.F + col;
                #pragma unroll
                for (int j = 0; j < ROWS_COLS / 8; j++) {
                    float act[2];
                    #pragma unroll
                    for (int e = 0; e < 2; e++) {
                        const float gate = to_float(from_float<bf16>(sum[4 * j + 2 * h + e])), up = to_float(from_float<bf16>(sum[ROWS_COLS / 2 + 4 * j + 2 * h + e]));
                        act[e] = gate * sigmoid(gate) * up;
                    }
                    if (row < p.N && col + 8 * j < p.F) *reinterpret_cast<uint32_t *>(to + 8 * j) = pack_bf16(act[0], act[1]);
                }
            }
        }
    }
    cluster_sync();   // nobody leaves while another may still send something here
#endif
}

static inline bool rows_swiglu_possible(int64_t N, int64_t K, int64_t F) { return N > ROWS_HALF && N <= 2 * ROWS_HALF && K % ROWS_STEP == 0 && F % 8 == 0 && device_is_hopper(); }
static inline int64_t rows_items(int64_t F) { return ceil_div(ceil_div(F, ROWS_COLS), ROWS_CLUSTER / 2); }
// a launch, of `clusters` clusters at most; attributes: two, which it points to
static inline cudaLaunchConfig_t rows_launch(cudaLaunchAttribute *attributes, int64_t clusters, cudaStream_t stream) {
    memset(attributes, 0, 2 * sizeof *attributes);
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = ROWS_CLUSTER; attributes[0].val.clusterDim.y = 1; attributes[0].val.clusterDim.z = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t c = {};
    c.gridDim = dim3((unsigned)(ROWS_CLUSTER * clusters)); c.blockDim = dim3(ROWS_THREADS); c.dynamicSmemBytes = sizeof(RowsShared) + 1024; c.stream = stream; c.attrs = attributes; c.numAttrs = 1 + launches_early();
    return c;
}
static inline int rows_clusters(void) {   // that the card has room for at a time
    static int clusters = 0;
    if (clusters) return clusters;
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t c = rows_launch(attributes, 1, 0);
    c.numAttrs = 1;
    CUDA_CHECK(cudaFuncSetAttribute(rows_swiglu_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)c.dynamicSmemBytes));
    CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters, rows_swiglu_kernel, &c));
    CHECK(clusters > 0);
    return clusters;
}
// Is it the faster way? Not where in the last round most clusters have nothing to do
static inline bool rows_swiglu_pays(int64_t N, int64_t K, int64_t F) {
    if (!rows_swiglu_possible(N, K, F)) return false;
    const int64_t items = rows_items(F), clusters = rows_clusters();
    return (double)items >= 0.85 * (double)(ceil_div(items, clusters) * clusters);
}
// w: gate (F, K) and behind it up (F, K)
static inline void rows_swiglu(bf16 *y, const bf16 *x, const bf16 *w, int64_t N, int64_t K, int64_t F, cudaStream_t stream) {
    CHECK(rows_swiglu_possible(N, K, F));
    Rows p;
    p.map_x = tile_map(x, 1, N, K, ROWS_HALF / 2, ROWS_STEP, 1, CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
    p.map_w = tile_map(w, 2, F, K, ROWS_COLS, ROWS_STEP, 1, CU_TENSOR_MAP_L2_PROMOTION_L2_128B);
    p.y = y; p.N = (int)N; p.K = (int)K; p.F = (int)F;
    cudaLaunchAttribute attributes[2];
    const cudaLaunchConfig_t c = rows_launch(attributes, std::min<int64_t>(rows_items(F), rows_clusters()), stream);
    CUDA_CHECK(cudaLaunchKernelEx(&c, rows_swiglu_kernel, p));
}
#endif
