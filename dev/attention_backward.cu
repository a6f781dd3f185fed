// attention_backward.cu: the ladder of attention's backward pass, from a warp a row to findap/kernels/attention_backward_sm90.cuh.
//
//     build/dev/attention_backward           every rung, checked and timed: one causal row of 8,192 tokens, 32/8 heads of 128
//     build/dev/attention_backward 3         one rung
//     build/dev/attention_backward check     every rung over many shapes; the last one also with scratch for few heads,
//                                            which must give the same bits. Exit status 1 if a check fails
//     build/dev/attention_backward tiny      the same over a few small shapes, for compute-sanitizer
//     build/dev/attention_backward bench the last rung on causal rows and on packed documents
//
// Checked against a plain loop in double on the host where that is quick, against rung 1 elsewhere. Before a run the gradient, D and scratch are
// 0xff (NaN), and lse beyond the row always is. Times: rested: a pause of 0.3 s, two launches, ten timed, median - the card at its high clock;
// sustained: 120 launches, then the mean of 120 more - the card at its power limit (fewer launches where one takes milliseconds). TFLOP/s count
// what the gradient needs, ten operations a visible pair and number of the head, a causal row's pairs as T * T / 2; rungs that compute scores
// twice do fourteen.
#include "ladder.cuh"                                    // defines: Array, expect, same_bits, random_bits
#include "../findap/kernels/attention_backward_sm90.cuh" // defines: attention_backward_sm90, attention_backward_sum_kernel
#include "../findap/kernels/attention_plain.cuh"         // defines: attention_forward_plain, attention_backward_plain
#include <unistd.h>                                      // defines: usleep

// ---------------------------------------------------------------------------------------------------------------------
// Rungs 2 and 3 have one kernel for both gradients, since they mirror each other. KEYS: a block owns keys, and the queries that see them stream
// past, of every head of the group; else it owns queries of one head, and the keys that they see stream past. In both
//     x = a0 b0^T, y = a1 b1^T;   p = 2^(x - lse), ds = p (y - D);   sum0 += ds b0 (dk or dq);   sum1 += p b1 (dv)
// where a0, a1 (k and v, or q and dout) are the block's and b0, b1 (q and dout, or k and v) pass by.

struct Inputs {
    int T, TP, NH, NKV;
    float scale;
    const int32_t *start, *end;   // (B, T)
    const float *lse, *dsum;      // (B, NH, TP)
    const bf16 *dout, *qkv;       // (B*T, NH*HD), (B*T, W)
    bf16 *dqkv;                   // (B*T, W)
};

// what one block owns, and what streams past it, in tiles of `tile` rows
struct Range { int head, row0, heads, first, last; };   // heads h0 .. and tiles first .. last - 1 of each
template <bool KEYS> __device__ static inline Range range_of(const Inputs &in, int b, int tile) {
    Range r;
    r.head = blockIdx.y; r.row0 = blockIdx.x * tile;
    const int64_t row = (int64_t)b * in.T;
    r.heads = KEYS ? in.NH / in.NKV : 1;
    r.first = KEYS ? (int)blockIdx.x : in.start[row + r.row0] / tile;
    r.last = KEYS ? (in.end[row + min(r.row0 + tile, in.T) - 1] + tile - 1) / tile : (int)blockIdx.x + 1;
    return r;
}
// where a visible range ends (of a key's queries) or begins (of a query's keys); for a row beyond T: nothing is visible
template <bool KEYS> __device__ static inline int limit_of(const Inputs &in, int b, int row) {
    if (row >= in.T) return KEYS ? 0 : INT32_MAX;
    return (KEYS ? in.end : in.start)[(int64_t)b * in.T + row];
}
template <bool KEYS> __device__ static inline bool visible(int row, int column, int limit) {
    return KEYS ? row <= column && column < limit : limit <= column && column <= row;
}

// ---------------------------------------------------------------------------------------------------------------------
// rung 2: tiles of 32 rows in shared memory, fp32: a number is read from memory once for 32 rows instead of once for each

enum { SMALL = 32 };
template <int HD> struct TiledShared { float a0[SMALL][HD + 4], a1[SMALL][HD + 4], b0[SMALL][HD + 4], b1[SMALL][HD + 4], p[SMALL][SMALL + 1], ds[SMALL][SMALL + 1]; };

// rows row0 .. of a matrix of `width`; zero beyond T
template <int HD> __device__ static inline void load_tile(float (&to)[SMALL][HD + 4], const bf16 *from, int64_t width, int row0, int T) {
    for (int i = threadIdx.x; i < SMALL * HD / 8; i += 256) {
        const int r = i / (HD / 8), c = i % (HD / 8) * 8;
        Pack<bf16> x = {};
        if (row0 + r < T) x = load_pack(from + (row0 + r) * width + c);
        for (int k = 0; k < 8; k++) to[r][c + k] = to_float(x.at[k]);
    }
}
template <int HD, bool KEYS> __global__ static void __launch_bounds__(256) tiled_kernel(const __grid_constant__ Inputs in) {
    extern __shared__ uint8_t shared_raw[];
    auto &sm = *(TiledShared<HD> *)shared_raw;
    const int b = blockIdx.z, r = threadIdx.x / 8, lane = threadIdx.x % 8, group = in.NH / in.NKV;   // eight threads share a row
    const Range range = range_of<KEYS>(in, b, SMALL);
    const int row = range.row0 + r, limit = limit_of<KEYS>(in, b, row), g = KEYS ? range.head : range.head / group;
    const int64_t W = (int64_t)(in.NH + 2 * in.NKV) * HD, A = (int64_t)in.NH * HD;
    const bf16 *qkv = in.qkv + b * in.T * W, *k = qkv + (in.NH + g) * HD, *v = k + in.NKV * HD, *dout = in.dout + b * in.T * A;
    load_tile<HD>(sm.a0, KEYS ? k : qkv + range.head * HD, W, range.row0, in.T);
    load_tile<HD>(sm.a1, KEYS ? v : dout + range.head * HD, KEYS ? W : A, range.row0, in.T);
    float4 sum0[HD / 32] = {}, sum1[HD / 32] = {};
    for (int i = 0; i < range.heads; i++)
        for (int t = range.first; t < range.last; t++) {
            const int h = KEYS ? range.head * group + i : range.head, column0 = t * SMALL;
            const int64_t at = ((int64_t)b * in.NH + h) * in.TP;
            __syncthreads();   // the tiles before have been read
            load_tile<HD>(sm.b0, KEYS ? qkv + h * HD : k, W, column0, in.T);
            load_tile<HD>(sm.b1, KEYS ? dout + h * HD : v, KEYS ? A : W, column0, in.T);
            __syncthreads();
            float x[4] = {}, y[4] = {};
            for (int c = 0; c < HD; c += 4) {
                const float4 a0 = *(const float4 *)&sm.a0[r][c], a1 = *(const float4 *)&sm.a1[r][c];
                #pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float4 b0 = *(const float4 *)&sm.b0[lane + 8 * j][c], b1 = *(const float4 *)&sm.b1[lane + 8 * j][c];
                    x[j] += a0.x * b0.x + a0.y * b0.y + a0.z * b0.z + a0.w * b0.w;
                    y[j] += a1.x * b1.x + a1.y * b1.y + a1.z * b1.z + a1.w * b1.w;
                }
            }
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                const int column = column0 + lane + 8 * j, query = KEYS ? column : row;
                const bool seen = visible<KEYS>(row, column, limit);
                const float p = seen ? exp2f(x[j] * in.scale * 1.4426950408889634f - in.lse[at + query]) : 0.0f;
                sm.p[r][lane + 8 * j] = p;
                sm.ds[r][lane + 8 * j] = seen ? p * (y[j] - in.dsum[at + query]) : 0.0f;
            }
            __syncwarp();   // a row's eight threads are of one warp
            for (int j = 0; j < SMALL; j++) {
                const float ds = sm.ds[r][j], p = sm.p[r][j];
                #pragma unroll
                for (int c = 0; c < HD / 32; c++) {
                    const float4 b0 = *(const float4 *)&sm.b0[j][c * 32 + lane * 4], b1 = *(const float4 *)&sm.b1[j][c * 32 + lane * 4];
                    sum0[c].x += ds * b0.x; sum0[c].y += ds * b0.y; sum0[c].z += ds * b0.z; sum0[c].w += ds * b0.w;
                    if (KEYS) { sum1[c].x += p * b1.x; sum1[c].y += p * b1.y; sum1[c].z += p * b1.z; sum1[c].w += p * b1.w; }
                }
            }
        }
    if (row >= in.T) return;
    bf16 *to = in.dqkv + ((int64_t)b * in.T + row) * W + (KEYS ? in.NH + range.head : range.head) * HD;
    #pragma unroll
    for (int c = 0; c < HD / 32; c++) {
        const float x0[4] = {sum0[c].x, sum0[c].y, sum0[c].z, sum0[c].w}, x1[4] = {sum1[c].x, sum1[c].y, sum1[c].z, sum1[c].w};
        for (int k = 0; k < 4; k++) {
            to[c * 32 + lane * 4 + k] = from_float<bf16>(x0[k] * in.scale);
            if (KEYS) to[in.NKV * HD + c * 32 + lane * 4 + k] = from_float<bf16>(x1[k]);
        }
    }
}
template <int HD, bool KEYS> static void tiled(const Inputs &in, int64_t B) {
    CUDA_CHECK(cudaFuncSetAttribute(tiled_kernel<HD, KEYS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)sizeof(TiledShared<HD>)));
    tiled_kernel<HD, KEYS><<<dim3((unsigned)ceil_div(in.T, SMALL), (unsigned)(KEYS ? in.NKV : in.NH), (unsigned)B), 256, sizeof(TiledShared<HD>)>>>(in);
}

// ---------------------------------------------------------------------------------------------------------------------
// rung 3: the same on the tensor cores, seven products: a warpgroup and 64 rows a block. Nothing is overlapped inside a block: load, wait,
// multiply, wait; the two blocks of a multiprocessor fill each other's gaps.

template <int HD> struct alignas(1024) SimpleShared { uint8_t a0[64 * HD * 2], a1[64 * HD * 2], b0[64 * HD * 2], b1[64 * HD * 2]; uint64_t full; };

template <int HD, bool KEYS> __global__ static void __launch_bounds__(128, 2) simple_kernel(const __grid_constant__ CUtensorMap map_qkv, const __grid_constant__ CUtensorMap map_dout, const __grid_constant__ Inputs in) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int CHUNKS = HD / 64, TILE = 64 * HD * 2;
    extern __shared__ uint8_t shared_raw[];
    auto &sm = *(SimpleShared<HD> *)(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023);
    const int b = blockIdx.z, warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = in.NH / in.NKV;
    const Range range = range_of<KEYS>(in, b, 64);
    const int g = KEYS ? range.head : range.head / group, row[2] = {range.row0 + warp * 16 + lane / 4, range.row0 + warp * 16 + lane / 4 + 8};   // this thread's rows
    const int limit[2] = {limit_of<KEYS>(in, b, row[0]), limit_of<KEYS>(in, b, row[1])};
    if (threadIdx.x == 0) { mbar_init(&sm.full, 1); fence_mbar_init(); }
    __syncthreads();
    auto load = [&](uint8_t *query, uint8_t *dout, int h, int row0) {   // 64 queries of one head
        tma_load(query, &map_qkv, &sm.full, row0, h * CHUNKS, b);
        tma_load(dout, &map_dout, &sm.full, row0, h * CHUNKS, b);
    };
    auto load_keys = [&](uint8_t *k, uint8_t *v, int row0) {
        tma_load(k, &map_qkv, &sm.full, row0, (in.NH + g) * CHUNKS, b);
        tma_load(v, &map_qkv, &sm.full, row0, (in.NH + in.NKV + g) * CHUNKS, b);
    };
    if (threadIdx.x == 0) {
        mbar_arrive_tx(&sm.full, 2 * TILE);
        if (KEYS) load_keys(sm.a0, sm.a1, range.row0); else load(sm.a0, sm.a1, range.head, range.row0);
    }
    mbar_wait(&sm.full, 0);
    const uint64_t a0 = descriptor_kmajor(smem_u32(sm.a0)), a1 = descriptor_kmajor(smem_u32(sm.a1)), b0 = descriptor_kmajor(smem_u32(sm.b0)), b1 = descriptor_kmajor(smem_u32(sm.b1));
    const uint64_t b0_t = descriptor(smem_u32(sm.b0), 8192), b1_t = descriptor(smem_u32(sm.b1), 8192);
    const float scale_log2 = in.scale * 1.4426950408889634f;
    float sum0[HD / 2], sum1[HD / 2], x[32], y[32];
    #pragma unroll
    for (int i = 0; i < HD / 2; i++) { sum0[i] = 0.0f; sum1[i] = 0.0f; }
    uint32_t parity = 1;
    #pragma unroll 1
    for (int i = 0; i < range.heads * (range.last - range.first); i++, parity ^= 1) {
        const int h = KEYS ? range.head * group + i / (range.last - range.first) : range.head, column0 = (range.first + i % (range.last - range.first)) * 64;
        if (threadIdx.x == 0) {
            mbar_arrive_tx(&sm.full, 2 * TILE);
            if (KEYS) load(sm.b0, sm.b1, h, column0); else load_keys(sm.b0, sm.b1, column0);
        }
        mbar_wait(&sm.full, parity);
        pin(x); pin(y); wg_fence();
        #pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            mma_ss<0, 0>(x, a0 + (k >> 2) * 512 + (k & 3) * 2, b0 + (k >> 2) * 512 + (k & 3) * 2, k != 0);
            mma_ss<0, 0>(y, a1 + (k >> 2) * 512 + (k & 3) * 2, b1 + (k >> 2) * 512 + (k & 3) * 2, k != 0);
        }
        wg_commit(); wg_wait<0>(); pin(x); pin(y);
        const float *lse = in.lse + ((int64_t)b * in.NH + h) * in.TP, *dsum = in.dsum + ((int64_t)b * in.NH + h) * in.TP;
        uint32_t pa[16], da[16];
        #pragma unroll
        for (int j = 0; j < 16; j++) {   // numbers 2j and 2j + 1 of this thread: row j % 2, columns 8 (j/2) + 2 (lane % 4) and the next
            float p[2], ds[2];
            #pragma unroll
            for (int e = 0; e < 2; e++) {
                const int column = column0 + 8 * (j / 2) + 2 * (lane % 4) + e, query = min(KEYS ? column : row[j % 2], in.T - 1);
                p[e] = visible<KEYS>(row[j % 2], column, limit[j % 2]) ? ex2(fmaf(x[2 * j + e], scale_log2, -lse[query])) : 0.0f;
                ds[e] = p[e] * (y[2 * j + e] - dsum[query]);
            }
            pa[j] = pack_bf16(p[0], p[1]); da[j] = pack_bf16(ds[0], ds[1]);
        }
        pin(pa); pin(da); pin(sum0); pin(sum1); wg_fence();
        #pragma unroll
        for (int k = 0; k < 4; k++) {
            mma_rs<1>(sum0, da[4 * k], da[4 * k + 1], da[4 * k + 2], da[4 * k + 3], b0_t + k * 128, 1);
            if (KEYS) mma_rs<1>(sum1, pa[4 * k], pa[4 * k + 1], pa[4 * k + 2], pa[4 * k + 3], b1_t + k * 128, 1);
        }
        wg_commit(); wg_wait<0>(); pin(sum0); pin(sum1); pin(pa); pin(da);
        __syncthreads();   // b0 and b1 have been read
    }
    const int64_t W = (int64_t)(in.NH + 2 * in.NKV) * HD;
    #pragma unroll
    for (int i = 0; i < HD / 4; i++) {
        if (row[i % 2] >= in.T) continue;
        uint32_t *to = (uint32_t *)(in.dqkv + ((int64_t)b * in.T + row[i % 2]) * W + (KEYS ? in.NH + range.head : range.head) * HD + 8 * (i / 2) + 2 * (lane % 4));
        *to = pack_bf16(sum0[2 * i] * in.scale, sum0[2 * i + 1] * in.scale);
        if (KEYS) to[in.NKV * HD / 2] = pack_bf16(sum1[2 * i], sum1[2 * i + 1]);
    }
#endif
}
template <int HD, bool KEYS> static void simple(const Inputs &in, int64_t B) {
    const CUtensorMap map_qkv = head_map(in.qkv, B, in.T, (in.NH + 2 * in.NKV) * HD, 64, HD), map_dout = head_map(in.dout, B, in.T, in.NH * HD, 64, HD);
    const int bytes = (int)sizeof(SimpleShared<HD>) + 1024;
    CUDA_CHECK(cudaFuncSetAttribute(simple_kernel<HD, KEYS>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    simple_kernel<HD, KEYS><<<dim3((unsigned)ceil_div(in.T, 64), (unsigned)(KEYS ? in.NKV : in.NH), (unsigned)B), 128, bytes>>>(map_qkv, map_dout, in);
}

// ---------------------------------------------------------------------------------------------------------------------
// problems and rungs

static const char *const ideas[] = {"a warp a row, its keys or queries read from L2", "tiles of 32 rows in shared memory, fp32", "tensor cores (wgmma, TMA), seven products, nothing overlapped in a block",
                                    "attention_backward_sm90.cuh: five products, dS through memory; loads, matmuls and exponentials overlapped"};
enum { RUNGS = 4 };

static AttentionPlan plan_of(std::vector<int32_t> &block, int64_t B, int64_t T, const std::vector<int> &lengths) {   // lengths of documents in turn; none: one a row
    std::vector<int32_t> positions((size_t)(B * T));
    size_t next = 0;
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T;) {
            const int64_t length = lengths.empty() ? T : lengths[next++ % lengths.size()];
            for (int64_t i = 0; i < length && t < T; i++, t++) positions[(size_t)(b * T + t)] = (int32_t)i;
        }
    block.resize((size_t)attention_plan_ints(B, T));
    return attention_plan(block.data(), positions.data(), B, T);
}
struct Problem {
    int64_t B, T, NH, NKV, HD, W, A, stats;   // W, A: width of a row of qkv and of out; stats: numbers of lse
    std::vector<int32_t> block;               // of the plan, on the host
    AttentionPlan plan;                       // with the device's arrays
    Array<int32_t> device_block;
    Array<bf16> qkv, dout, out, dqkv;
    Array<float> lse, dsum;
    Array<uint8_t> scratch;                   // for every head, and not a byte more
    Problem(int64_t B_, int64_t T_, int64_t NH_, int64_t NKV_, int64_t HD_, const std::vector<int> &lengths, float scale)
        : B(B_), T(T_), NH(NH_), NKV(NKV_), HD(HD_), W((NH_ + 2 * NKV_) * HD_), A(NH_ * HD_), stats(B_ * NH_ * ceil_div(T_, QUERY_TILE) * QUERY_TILE), plan(plan_of(block, B_, T_, lengths)),
          device_block(block), qkv(B_ * T_ * W, 1, scale), dout(B_ * T_ * A, 2, 1.0f), out(B_ * T_ * A), dqkv(B_ * T_ * W), lse(stats), dsum(stats), scratch(plan.visited_tiles * NH_ * DS_TILE) {
        plan = attention_plan_at(plan, device_block.at);
        attention_forward_plain<bf16>(out.at, lse.at, qkv.at, &plan, NH, NKV, HD, 0);
        CUDA_CHECK(cudaDeviceSynchronize());
    }
    int64_t head_bytes() const { return plan.visited_tiles * (NH / NKV) * DS_TILE; }
};
template <int HD> static void middle_rung(Problem *p, int rung) {
    const Inputs in = {(int)p->T, (int)(ceil_div(p->T, QUERY_TILE) * QUERY_TILE), (int)p->NH, (int)p->NKV, 1.0f / sqrtf((float)HD), p->plan.document_start, p->plan.seen_end, p->lse.at, p->dsum.at, p->dout.at,
                       p->qkv.at, p->dqkv.at};
    attention_backward_sum_kernel<HD><<<dim3((unsigned)(in.TP / QUERY_TILE), (unsigned)p->NH, (unsigned)p->B), 256>>>(p->dsum.at, p->dout.at, p->out.at, in.T, in.TP, in.NH);
    if (rung == 2) { tiled<HD, true>(in, p->B); tiled<HD, false>(in, p->B); }
    else { simple<HD, true>(in, p->B); simple<HD, false>(in, p->B); }
    CUDA_CHECK(cudaGetLastError());
}
// places: key/value heads for which scratch is given
static void backward(Problem *p, int rung, int64_t places) {
    if (rung == 1) attention_backward_plain<bf16>(p->dqkv.at, p->dsum.at, p->dout.at, p->out.at, p->lse.at, p->qkv.at, &p->plan, p->NH, p->NKV, p->HD, 0);
    else if (rung == 4) attention_backward_sm90(p->dqkv.at, p->dsum.at, p->dout.at, p->out.at, p->lse.at, p->qkv.at, p->scratch.at, places * p->head_bytes(), &p->plan, p->NH, p->NKV, p->HD, 0);
    else if (p->HD == 128) middle_rung<128>(p, rung);
    else middle_rung<64>(p, rung);
}
static std::vector<bf16> run(Problem *p, int rung, int64_t places) {
    CUDA_CHECK(cudaMemset(p->dqkv.at, 0xff, (size_t)p->dqkv.n * 2));
    CUDA_CHECK(cudaMemset(p->dsum.at, 0xff, (size_t)p->dsum.n * 4));
    CUDA_CHECK(cudaMemset(p->scratch.at, 0xff, (size_t)p->scratch.n));
    backward(p, rung, places);
    CUDA_CHECK(cudaDeviceSynchronize());
    return p->dqkv.get();
}

// ---------------------------------------------------------------------------------------------------------------------
// checks

// dqkv (B*T, W) by plain loops
static std::vector<double> reference(const Problem &p) {
    const std::vector<double> qkv = p.qkv.numbers(), dout = p.dout.numbers();
    std::vector<double> d(qkv.size(), 0.0), s((size_t)p.T), dp((size_t)p.T);
    const int64_t HD = p.HD, group = p.NH / p.NKV;
    const double scale = 1 / sqrt((double)HD);
    auto dot = [&](const double *a, const double *b) { double x = 0; for (int64_t c = 0; c < HD; c++) x += a[c] * b[c]; return x; };
    auto add = [&](double *y, const double *x, double w) { for (int64_t c = 0; c < HD; c++) y[c] += w * x[c]; };
    for (int64_t n = 0; n < p.B * p.T; n++)
        for (int64_t h = 0; h < p.NH; h++) {
            const int64_t t = n % p.T, first = p.block[(size_t)n], q = n * p.W + h * HD;
            const double *o = &dout[(size_t)(n * p.A + h * HD)];
            auto k = [&](int64_t j) { return (n - t + j) * p.W + (p.NH + h / group) * HD; };
            const int64_t v = p.NKV * HD;
            double most = -1e300, sum = 0, D = 0;
            for (int64_t j = first; j <= t; j++) {
                s[(size_t)j] = scale * dot(&qkv[(size_t)q], &qkv[(size_t)k(j)]);
                dp[(size_t)j] = dot(o, &qkv[(size_t)(k(j) + v)]);
                most = std::max(most, s[(size_t)j]);
            }
            for (int64_t j = first; j <= t; j++) sum += s[(size_t)j] = exp(s[(size_t)j] - most);
            for (int64_t j = first; j <= t; j++) { s[(size_t)j] /= sum; D += s[(size_t)j] * dp[(size_t)j]; }
            for (int64_t j = first; j <= t; j++) {
                const double ds = scale * s[(size_t)j] * (dp[(size_t)j] - D);
                add(&d[(size_t)q], &qkv[(size_t)k(j)], ds);
                add(&d[(size_t)k(j)], &qkv[(size_t)q], ds);
                add(&d[(size_t)(k(j) + v)], o, s[(size_t)j]);
            }
        }
    return d;
}
static double number(double x) { return x; }
static double number(bf16 x) { return (double)to_float(x); }
// the largest of the relative errors of dq, dk and dv. The first two are nearly nothing where documents are short - a softmax over one key has
// no gradient - and are then measured by dv.
template <typename Y> static double error_of(const Problem &p, const std::vector<bf16> &x, const std::vector<Y> &y) {
    double d[3] = {0, 0, 0}, n[3] = {0, 0, 0}, worst = 0;
    for (size_t i = 0; i < x.size(); i++) {
        const int64_t c = (int64_t)(i % (size_t)p.W);
        const int part = c < p.A ? 0 : c < p.A + p.NKV * p.HD ? 1 : 2;
        const double a = number(x[i]), b = number(y[i]);
        d[part] += (a - b) * (a - b); n[part] += b * b;
    }
    for (int part = 0; part < 3; part++) {
        const double e = sqrt(d[part] / std::max(n[part], part < 2 ? 0.0025 * n[2] : 0.0));
        if (!(e <= worst)) worst = e;
        if (e != e) return NAN;
    }
    return worst;
}
// as Array::fences_stand, without copying all that lies between: scratch is 2 GB
template <typename T> static bool fences_stand(const Array<T> &x) {
    unsigned char fence[2][512];
    CUDA_CHECK(cudaMemcpy(fence[0], x.base, 512, cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaMemcpy(fence[1], x.at + x.n, 512, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 512; i++) if (fence[0][i] != 0xff || fence[1][i] != 0xff) return false;
    return true;
}
static void check(int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD, const std::vector<int> &lengths, float scale) {
    Problem p(B, T, NH, NKV, HD, lengths, scale);
    char shape[128];
    snprintf(shape, sizeof shape, "%lld x %lld tokens, %lld/%lld heads of %lld, %s", (long long)B, (long long)T, (long long)NH, (long long)NKV, (long long)HD, lengths.empty() ? "causal" : "documents");
    const int failed = failures;
    const std::vector<bf16> first = run(&p, 1, NKV);
    const bool small = B * T <= 800;
    std::vector<double> slow;
    if (small) slow = reference(p);
    printf("%-58s", shape);
    std::vector<bf16> last;
    for (int rung = 1; rung <= RUNGS; rung++) {
        last = run(&p, rung, NKV);
        const double error = small ? error_of(p, last, slow) : error_of(p, last, first);
        printf(" %d: %.1e", rung, error);
        char what[96];
        snprintf(what, sizeof what, "rung %d: error %.2e, at most 8e-3", rung, error);
        expect(error <= 8e-3, what, shape);
        snprintf(what, sizeof what, "rung %d: written outside its shape", rung);
        expect(fences_stand(p.dqkv) && fences_stand(p.dsum) && fences_stand(p.scratch), what, shape);
        snprintf(what, sizeof what, "rung %d: other bits the second time", rung);
        expect(same_bits(last, run(&p, rung, NKV)), what, shape);
    }
    for (int64_t places = 1; places <= NKV; places++)
        for (int again = 0; again < 2; again++) {
            char what[96];
            snprintf(what, sizeof what, "scratch for %lld key/value heads: other bits", (long long)places);
            expect(same_bits(last, run(&p, RUNGS, places)) && fences_stand(p.scratch), what, shape);
        }
    printf("  %s\n", failures == failed ? "ok" : "FAILED");
    fflush(stdout);
}
static std::vector<int> documents(int low, int high, uint64_t seed) {
    std::vector<int> v;
    for (int i = 0; i < 97; i++) v.push_back(low + (int)(random_bits(seed, (uint64_t)i) % (uint32_t)(high - low + 1)));
    return v;
}

// ---------------------------------------------------------------------------------------------------------------------
// times

template <typename F> static double timed(F f, int launches) {
    static cudaEvent_t begin, end;
    if (!begin) { CUDA_CHECK(cudaEventCreate(&begin)); CUDA_CHECK(cudaEventCreate(&end)); }
    CUDA_CHECK(cudaEventRecord(begin));
    for (int i = 0; i < launches; i++) f();
    CUDA_CHECK(cudaEventRecord(end));
    CUDA_CHECK(cudaEventSynchronize(end));
    float ms;
    CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
    return (double)ms / launches;
}
static void times(Problem *p, int rung, bool causal) {
    auto f = [&] { backward(p, rung, p->NKV); };
    CUDA_CHECK(cudaDeviceSynchronize());
    usleep(300000);
    const double first = timed(f, 1);
    timed(f, 1);
    std::vector<double> rested;
    for (int i = 0; i < (first > 50 ? 3 : 10); i++) rested.push_back(timed(f, 1));
    std::sort(rested.begin(), rested.end());
    const int launches = first > 50 ? 3 : first > 5 ? 40 : 120;
    timed(f, launches);
    const double sustained = timed(f, launches), r = rested[rested.size() / 2];
    const double flops = 10.0 * (double)p->A * (causal ? (double)p->B * (double)p->T * (double)p->T / 2 : p->plan.visible_pairs);
    printf("%4d  %-82s %9.3f %6.1f   %9.3f %6.1f\n", rung, ideas[rung - 1], r, flops / r * 1e-9, sustained, flops / sustained * 1e-9);
    fflush(stdout);
}
static void title(const char *what) { printf("\n%-88s %16s   %16s\n%4s  %-82s %9s %6s   %9s %6s\n", what, "rested", "sustained", "rung", "", "ms", "TFLOPs", "ms", "TFLOPs"); }

int main(int argc, char **argv) {
    program_name = "attention_backward";
    const char *what = argc > 1 ? argv[1] : "";
    const bool is_check = strcmp(what, "check") == 0, is_bench = strcmp(what, "bench") == 0, is_tiny = strcmp(what, "tiny") == 0;
    const int only = atoi(what);
    if (argc > 2 || (argc > 1 && !is_check && !is_bench && !is_tiny && (only < 1 || only > RUNGS))) die("\"%s\" ---> nothing for every rung, a rung's number (1 to %d), check, tiny or bench", argv[argc - 1], RUNGS);
    if (!device_is_hopper()) die("rungs 3 to 5 need a Hopper GPU, and to be compiled for it");
    if (is_tiny) {
        check(2, 333, 6, 2, 128, documents(1, 90, 1), 1);
        check(1, 200, 8, 4, 64, documents(1, 3, 2), 1);
        check(1, 300, 7, 1, 128, {}, 1);
        return check_result();
    }
    if (is_check) {
        for (int64_t HD : {128, 64}) {
            check(1, 1, 8, 2, HD, {}, 1);
            check(1, 64, 8, 8, HD, {}, 1);
            check(1, 63, 6, 3, HD, {}, 2);
            check(1, 128, 4, 1, HD, {}, 1);
            check(3, 191, 4, 2, HD, documents(1, 200, 14), 1);
            check(2, 200, 6, 2, HD, {1}, 1);
            check(2, 260, 8, 1, HD, {1, 1, 2, 127, 1, 128, 129, 1, 63, 64, 65, 3}, 1);
            check(2, 333, 7, 1, HD, documents(1, 90, 3), 3);
            check(1, 500, 14, 2, HD, {}, 1);
            check(1, 450, 5, 1, HD, documents(20, 200, 4), 1);
            check(1, 700, 12, 2, HD, documents(1, 300, 6), 1);
            check(2, 1000, 8, 2, HD, {}, 1);
            check(2, 777, 32, 8, HD, documents(1, 90, 5), 1);
            check(3, 513, 12, 4, HD, documents(1, 3, 6), 1);
            check(1, 3000, 8, 1, HD, {1}, 1);
            check(2, 1536, 8, 2, HD, {64}, 1);
            check(2, 1536, 8, 8, HD, {128}, 1);
            check(1, 4097, 12, 2, HD, documents(1, 4000, 13), 1);
            check(2, 2048, 32, 8, HD, documents(120, 1500, 7), 3);
        }
        check(1, 8192, 32, 8, 128, {}, 1);
        check(2, 8192, 32, 8, 128, documents(120, 1500, 9), 1);
        return check_result();
    }
    const std::vector<int> packed = documents(120, 1500, 3);
    if (is_bench) {
        struct { const char *name; int64_t B, HD; bool causal; } shapes[] = {{"1 x 8192 causal, 32/8 heads of 128", 1, 128, true}, {"2 x 8192, documents of 120-1500, 32/8 heads of 128", 2, 128, false},
            {"2 x 8192 causal, 32/8 heads of 128", 2, 128, true}, {"1 x 8192 causal, 32/8 heads of 64", 1, 64, true}, {"2 x 8192, documents of 120-1500, 32/8 heads of 64", 2, 64, false}};
        for (const auto &s : shapes) {
            Problem p(s.B, 8192, 32, 8, s.HD, s.causal ? std::vector<int>() : packed, 1.0f);
            title(s.name);
            for (int round = 0; round < 2; round++) times(&p, RUNGS, s.causal);
        }
        return 0;
    }
    Problem p(1, 8192, 32, 8, 128, {}, 1.0f);
    const std::vector<bf16> first = run(&p, 1, p.NKV);
    title("1 x 8192 causal, 32/8 heads of 128");
    for (int rung = 1; rung <= RUNGS; rung++) {
        if (only != 0 && only != rung) continue;
        const double error = error_of(p, run(&p, rung, p.NKV), first);
        times(&p, rung, true);
        char text[64];
        snprintf(text, sizeof text, "error %.2e against rung 1, at most 8e-3", error);
        expect(error <= 8e-3, text, ideas[rung - 1]);
    }
    return check_result();
}
