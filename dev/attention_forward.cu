// attention_forward.cu: the ladder of attention's forward pass, up to findap/kernels/attention_forward_sm90.cuh.
//
//     build/dev/attention_forward          every rung, 1 x 8192 causal, 32/8 heads of 128        build/dev/attention_forward 3      one rung
//     build/dev/attention_forward check    every rung over odd shapes, exit status 1 if one fails
//     build/dev/attention_forward tiny     the same over a few small shapes, for compute-sanitizer
//     build/dev/attention_forward bench    the final kernel's speed: causal and packed rows, head_dim 128 and 64
//
// Every rung is checked against plain loops in double on the host: every row of small problems, a few hundred rows of large ones, where the
// rest must at least have been written with numbers. Then it runs again, and must give the same bits.
//
// This kernel lives at the card's power limit, so its speed depends on what ran before. "Rested": a pause of 200 ms, two launches, three
// timed, three times over, median: high clocks. "Sustained": 400 launches, then five times 60, median; fewer where a launch takes long.
// Never compare one with the other. TFLOP/s count 4 * HD for a visible pair; a causal row, as is the custom, for half of all its pairs.
#include "ladder.cuh"                                    // defines: Array, expect, check_result
#include "../findap/kernels/attention_forward_sm90.cuh"  // defines: attention_forward_sm90, and what sm90.cuh does
#include "../findap/kernels/attention_mma.cuh"           // defines: attention_forward_mma
#include "../findap/kernels/attention_plain.cuh"         // defines: attention_forward_plain
#include <unistd.h>                                      // defines: usleep

static const float LOG2E = 1.4426950408889634f;

// ---------------------------------------------------------------------------------------------------------------------
// rung 2: 64 queries of one head a block, keys and values by tiles of 64 through shared memory, so that each is read from L2 once for 64
// rows instead of once a row. 16 x 16 threads: 4 x 4 scores each, then 4 rows x HD/16 columns of the output. Bound by fp32 multiply-adds.

static constexpr int TILED = 64, TILED_P = TILED + 4;
// a row of q, k or v in shared memory, shifted by 16 bytes against the one before: eight threads reading from eight rows hit all banks
__host__ __device__ static constexpr int tiled_row(int HD) { return HD + 4; }

// rows [t0, t0 + 64) of a head to shared memory as floats; rows from T on are zero
template <int HD> __device__ static void tiled_load(float *to, const bf16 *from, int64_t W, int t0, int T) {
    for (int i = threadIdx.x; i < TILED * HD / 8; i += 256) {
        const int row = i / (HD / 8), column = i % (HD / 8) * 8;
        float x[8] = {};
        if (t0 + row < T) {
            const Pack<bf16> in = load_pack(from + (int64_t)(t0 + row) * W + column);
            for (int k = 0; k < 8; k++) x[k] = to_float(in.at[k]);
        }
        float4 *p = reinterpret_cast<float4 *>(to + row * tiled_row(HD) + column);
        p[0] = make_float4(x[0], x[1], x[2], x[3]);
        p[1] = make_float4(x[4], x[5], x[6], x[7]);
    }
}

template <int HD> __global__ static void __launch_bounds__(256, 2) tiled_kernel(bf16 *out, float *lse, const bf16 *qkv, const int32_t *document_start, int T, int TP, int NH, int NKV, float scale_log2) {
    constexpr int LD = tiled_row(HD), COLUMNS = HD / 64;   // float4 columns a thread has of O
    extern __shared__ float4 tiled_shared[];
    float *q = reinterpret_cast<float *>(tiled_shared), *kv = q + TILED * LD, *p = kv + TILED * LD;   // (64, LD), (64, LD): keys, then values; (64, 68)
    const int q0 = (gridDim.x - 1 - blockIdx.x) * TILED, h = blockIdx.y, g = h / (NH / NKV), tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const int64_t b = blockIdx.z, W = (int64_t)(NH + 2 * NKV) * HD;
    const bf16 *row = qkv + b * T * W, *k = row + (NH + g) * HD, *v = k + NKV * HD;
    float4 o[4][COLUMNS] = {};
    float m[4], l[4] = {};
    int start[4];
    for (int i = 0; i < 4; i++) { m[i] = -INFINITY; start[i] = document_start[b * T + min(q0 + ty * 4 + i, T - 1)]; }
    tiled_load<HD>(q, row + h * HD, W, q0, T);
    const int last = (min(q0 + TILED, T) - 1) / TILED;
    for (int n = document_start[b * T + q0] / TILED; n <= last; n++) {
        __syncthreads();   // the values of the tile before have been read
        tiled_load<HD>(kv, k, W, n * TILED, T);
        __syncthreads();
        float s[4][4] = {};
        for (int c = 0; c < HD; c += 4) {
            float4 x[4], y[4];
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                x[i] = *reinterpret_cast<float4 *>(q + (ty * 4 + i) * LD + c);
                y[i] = *reinterpret_cast<float4 *>(kv + (tx + 16 * i) * LD + c);
            }
            #pragma unroll
            for (int i = 0; i < 4; i++)
                #pragma unroll
                for (int j = 0; j < 4; j++) s[i][j] += x[i].x * y[j].x + x[i].y * y[j].y + x[i].z * y[j].z + x[i].w * y[j].w;
        }
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            const int t = q0 + ty * 4 + i;
            float x = m[i];
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                const int key = n * TILED + tx + 16 * j;
                s[i][j] = key >= start[i] && key <= t ? s[i][j] * scale_log2 : -INFINITY;
                x = fmaxf(x, s[i][j]);
            }
            #pragma unroll
            for (int d = 8; d > 0; d >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
            const float base = x == -INFINITY ? 0.0f : x, fade = exp2f(m[i] - base);   // a row may not have seen a key yet
            m[i] = x;
            l[i] *= fade;
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                const float e = exp2f(s[i][j] - base);
                l[i] += e;
                p[(ty * 4 + i) * TILED_P + tx + 16 * j] = e;
            }
            #pragma unroll
            for (int c = 0; c < COLUMNS; c++) { o[i][c].x *= fade; o[i][c].y *= fade; o[i][c].z *= fade; o[i][c].w *= fade; }
        }
        __syncthreads();   // the keys have been read, P is complete
        tiled_load<HD>(kv, v, W, n * TILED, T);
        __syncthreads();
        for (int key = 0; key < TILED; key += 4) {
            float4 x[4];
            #pragma unroll
            for (int i = 0; i < 4; i++) x[i] = *reinterpret_cast<float4 *>(p + (ty * 4 + i) * TILED_P + key);
            #pragma unroll
            for (int e = 0; e < 4; e++)
                #pragma unroll
                for (int c = 0; c < COLUMNS; c++) {
                    const float4 y = *reinterpret_cast<float4 *>(kv + (key + e) * LD + tx * 4 + 64 * c);
                    #pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const float w = e == 0 ? x[i].x : e == 1 ? x[i].y : e == 2 ? x[i].z : x[i].w;
                        o[i][c].x += w * y.x; o[i][c].y += w * y.y; o[i][c].z += w * y.z; o[i][c].w += w * y.w;
                    }
                }
        }
    }
    #pragma unroll
    for (int i = 0; i < 4; i++)
        #pragma unroll
        for (int d = 8; d > 0; d >>= 1) l[i] += __shfl_xor_sync(0xffffffffu, l[i], d);
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        const int t = q0 + ty * 4 + i;
        if (t >= T) continue;
        const float w = 1.0f / l[i];
        if (tx == 0) lse[(b * NH + h) * TP + t] = m[i] + log2f(l[i]);
        #pragma unroll
        for (int c = 0; c < COLUMNS; c++)
            *reinterpret_cast<uint2 *>(out + ((b * T + t) * NH + h) * HD + tx * 4 + 64 * c) = make_uint2(pack_bf16(o[i][c].x * w, o[i][c].y * w), pack_bf16(o[i][c].z * w, o[i][c].w * w));
    }
}

template <int HD> static void tiled(bf16 *out, float *lse, const bf16 *qkv, const AttentionPlan *plan, int64_t NH, int64_t NKV) {
    const int bytes = (2 * TILED * tiled_row(HD) + TILED * TILED_P) * (int)sizeof(float);
    CUDA_CHECK(cudaFuncSetAttribute(tiled_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    const dim3 grid((unsigned)ceil_div(plan->T, TILED), (unsigned)NH, (unsigned)plan->B);
    tiled_kernel<HD><<<grid, 256, bytes>>>(out, lse, qkv, plan->document_start, (int)plan->T, (int)(ceil_div(plan->T, QUERY_TILE) * QUERY_TILE), (int)NH, (int)NKV, LOG2E / sqrtf((float)HD));
    CUDA_CHECK(cudaGetLastError());
}

// ---------------------------------------------------------------------------------------------------------------------
// rung 3: the same by tensor cores: one warpgroup, 64 queries, key tiles of 128. S, softmax and O follow one another; all that overlaps is the
// copy of the next keys (under softmax and P V) and of the next values (under Q K^T), and the two blocks that share a multiprocessor.

template <int HD> struct alignas(1024) SerialShared {
    uint8_t q[64 * HD * 2], k[128 * HD * 2], v[128 * HD * 2];
    uint64_t k_full, v_full;
};

template <int HD> __global__ static void __launch_bounds__(128, 2) serial_kernel(const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_kv, bf16 *out, float *lse,
                                                                                 const int32_t *document_start, int T, int TP, int NH, int NKV, float scale_log2) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int BN = 128, CHUNKS = HD / 64, Q_BYTES = 64 * HD * 2, KV_BYTES = BN * HD * 2;
    extern __shared__ uint8_t shared_raw[];
    auto &sm = *reinterpret_cast<SerialShared<HD> *>(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023);
    const int q0 = (gridDim.x - 1 - blockIdx.x) * 64, h = blockIdx.y, b = blockIdx.z, g = h / (NH / NKV), quad = threadIdx.x & 3;
    const int r0 = q0 + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, r1 = r0 + 8;   // this thread's two rows
    const int32_t *start = document_start + (int64_t)b * T;
    const int lo0 = start[min(r0, T - 1)], lo1 = start[min(r1, T - 1)], n_min = start[q0] / BN, n_max = (min(q0 + 64, T) - 1) / BN;
    auto load_k = [&](int n, int more) {
        mbar_arrive_tx(&sm.k_full, KV_BYTES + more);
        tma_load(sm.k, &map_kv, &sm.k_full, n * BN, (NH + g) * CHUNKS, b);
    };
    auto load_v = [&](int n) {
        mbar_arrive_tx(&sm.v_full, KV_BYTES);
        tma_load(sm.v, &map_kv, &sm.v_full, n * BN, (NH + NKV + g) * CHUNKS, b);
    };
    if (threadIdx.x == 0) {
        mbar_init(&sm.k_full, 1); mbar_init(&sm.v_full, 1);
        fence_mbar_init();
        load_k(n_max, Q_BYTES);
        tma_load(sm.q, &map_q, &sm.k_full, q0, h * CHUNKS, b);
        load_v(n_max);
    }
    __syncthreads();
    float o[HD / 2] = {}, s[BN / 2];
    uint32_t pr[BN / 4];
    float m0 = -INFINITY, m1 = -INFINITY, l0 = 0.0f, l1 = 0.0f;
    uint32_t parity = 0;
    for (int n = n_max; n >= n_min; n--, parity ^= 1) {
        mbar_wait(&sm.k_full, parity);
        pin(s); wg_fence();
        #pragma unroll
        for (int kk = 0; kk < HD / 16; kk++)
            mma_ss<0, 0>(s, descriptor_kmajor(smem_u32(sm.q) + kk / 4 * (64 * 128) + kk % 4 * 32), descriptor_kmajor(smem_u32(sm.k) + kk / 4 * (BN * 128) + kk % 4 * 32), kk != 0);
        wg_commit(); wg_wait<0>(); pin(s);
        __syncthreads();   // all four warps have read the keys
        if (threadIdx.x == 0 && n > n_min) load_k(n - 1, 0);
        float x0 = m0, x1 = m1;
        #pragma unroll
        for (int j = 0; j < BN / 8; j++)
            #pragma unroll
            for (int e = 0; e < 2; e++) {
                const int key = n * BN + 8 * j + 2 * quad + e;
                s[4 * j + e] = key >= lo0 && key <= r0 ? s[4 * j + e] * scale_log2 : -INFINITY;
                s[4 * j + 2 + e] = key >= lo1 && key <= r1 ? s[4 * j + 2 + e] * scale_log2 : -INFINITY;
                x0 = fmaxf(x0, s[4 * j + e]); x1 = fmaxf(x1, s[4 * j + 2 + e]);
            }
        x0 = fmaxf(x0, __shfl_xor_sync(0xffffffffu, x0, 1)); x0 = fmaxf(x0, __shfl_xor_sync(0xffffffffu, x0, 2));
        x1 = fmaxf(x1, __shfl_xor_sync(0xffffffffu, x1, 1)); x1 = fmaxf(x1, __shfl_xor_sync(0xffffffffu, x1, 2));
        const float b0 = x0 == -INFINITY ? 0.0f : x0, b1 = x1 == -INFINITY ? 0.0f : x1, fade0 = ex2(m0 - b0), fade1 = ex2(m1 - b1);
        m0 = x0; m1 = x1;
        l0 *= fade0; l1 *= fade1;
        #pragma unroll
        for (int j = 0; j < BN / 8; j++) {
            #pragma unroll
            for (int e = 0; e < 2; e++) {
                s[4 * j + e] = ex2(s[4 * j + e] - b0); l0 += s[4 * j + e];
                s[4 * j + 2 + e] = ex2(s[4 * j + 2 + e] - b1); l1 += s[4 * j + 2 + e];
            }
            pr[2 * j] = pack_bf16(s[4 * j], s[4 * j + 1]); pr[2 * j + 1] = pack_bf16(s[4 * j + 2], s[4 * j + 3]);
        }
        #pragma unroll
        for (int j = 0; j < HD / 8; j++) { o[4 * j] *= fade0; o[4 * j + 1] *= fade0; o[4 * j + 2] *= fade1; o[4 * j + 3] *= fade1; }
        mbar_wait(&sm.v_full, parity);
        pin(pr); pin(o); wg_fence();
        #pragma unroll
        for (int kk = 0; kk < BN / 16; kk++)
            mma_rs<1>(o, pr[4 * kk], pr[4 * kk + 1], pr[4 * kk + 2], pr[4 * kk + 3], descriptor(smem_u32(sm.v) + kk * (16 * 128), BN * 128), 1);
        wg_commit(); wg_wait<0>(); pin(o);
        __syncthreads();   // and the values
        if (threadIdx.x == 0 && n > n_min) load_v(n - 1);
    }
    l0 += __shfl_xor_sync(0xffffffffu, l0, 1); l0 += __shfl_xor_sync(0xffffffffu, l0, 2);
    l1 += __shfl_xor_sync(0xffffffffu, l1, 1); l1 += __shfl_xor_sync(0xffffffffu, l1, 2);
    auto store = [&](int t, int half, float m, float l) {
        if (t >= T) return;
        if (quad == 0) lse[((int64_t)b * NH + h) * TP + t] = m + __log2f(l);
        #pragma unroll
        for (int j = 0; j < HD / 8; j++)
            *reinterpret_cast<uint32_t *>(out + (((int64_t)b * T + t) * NH + h) * HD + 8 * j + 2 * quad) = pack_bf16(o[4 * j + 2 * half] / l, o[4 * j + 2 * half + 1] / l);
    };
    store(r0, 0, m0, l0);
    store(r1, 1, m1, l1);
#endif
}

template <int HD> static void serial(bf16 *out, float *lse, const bf16 *qkv, const AttentionPlan *plan, int64_t NH, int64_t NKV) {
    const int64_t B = plan->B, T = plan->T, W = (NH + 2 * NKV) * HD;
    const int bytes = (int)sizeof(SerialShared<HD>) + 1024;
    CUDA_CHECK(cudaFuncSetAttribute(serial_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    serial_kernel<HD><<<dim3((unsigned)ceil_div(T, 64), (unsigned)NH, (unsigned)B), 128, bytes>>>(head_map(qkv, B, T, W, 64, HD), head_map(qkv, B, T, W, 128, HD), out, lse, plan->document_start, (int)T,
                                                                                                 (int)(ceil_div(T, QUERY_TILE) * QUERY_TILE), (int)NH, (int)NKV, LOG2E / sqrtf((float)HD));
    CUDA_CHECK(cudaGetLastError());
}

// ---------------------------------------------------------------------------------------------------------------------
// a problem and its solution in double

struct Problem {
    int64_t B, T, NH, NKV, HD, N, W, TP;
    std::vector<int32_t> block;   // the plan's arrays on the host
    AttentionPlan plan;           // and on the device
    Array<bf16> qkv, out;         // (N, W), (N, NH*HD)
    Array<float> lse;             // (B, NH, TP)
    Array<int32_t> device_block, counters;
    char shape[112];

    // lengths: documents in turn, running on over rows; empty: a document a row
    Problem(int64_t B_, int64_t T_, int64_t NH_, int64_t NKV_, int64_t HD_, const std::vector<int> &lengths, float scale)
        : B(B_), T(T_), NH(NH_), NKV(NKV_), HD(HD_), N(B * T), W((NH + 2 * NKV) * HD), TP(ceil_div(T, QUERY_TILE) * QUERY_TILE), block((size_t)attention_plan_ints(B, T)),
          qkv(N * W, 1 + (uint64_t)T, scale), out(N * NH * HD), lse(B * NH * TP), device_block(attention_plan_ints(B, T)), counters(std::vector<int32_t>(2, 0)) {
        std::vector<int32_t> positions((size_t)N);
        size_t next = 0;
        for (int64_t b = 0; b < B; b++)
            for (int64_t t = 0; t < T;) {
                const int64_t length = lengths.empty() ? T : lengths[next++ % lengths.size()];
                for (int64_t i = 0; i < length && t < T; i++, t++) positions[(size_t)(b * T + t)] = (int32_t)i;
            }
        plan = attention_plan(block.data(), positions.data(), B, T);
        device_block.put(block);
        plan = attention_plan_at(plan, device_block.at);
        snprintf(shape, sizeof shape, "B %lld T %lld heads %lld/%lld of %lld, %s, scale %g", (long long)B, (long long)T, (long long)NH, (long long)NKV, (long long)HD, lengths.empty() ? "causal" : "documents", (double)scale);
    }
    void poison() {
        CUDA_CHECK(cudaMemset(out.at, 0xff, (size_t)out.n * sizeof(bf16)));
        CUDA_CHECK(cudaMemset(lse.at, 0xff, (size_t)lse.n * sizeof(float)));
    }
};

static const char *const ideas[] = {"attention_plain.cuh: a warp a query row, softmax as it goes", "64 x 64 tiles through shared memory, fp32 multiply-adds from registers",
                                    "tensor cores: wgmma and TMA, one step after the other", "attention_forward_sm90.cuh: copies, products and softmax at the same time",
                                    "beside it, attention_forward_mma: what GPUs before Hopper run"};
enum { RUNGS = 5, FINAL = 4 };
static bool runs(int rung) { return (rung != 3 && rung != 4) || device_is_hopper(); }
static void forward(int rung, Problem &p) {
    if (rung == 1) attention_forward_plain<bf16>(p.out.at, p.lse.at, p.qkv.at, &p.plan, p.NH, p.NKV, p.HD, 0);
    else if (rung == 2 && p.HD == 128) tiled<128>(p.out.at, p.lse.at, p.qkv.at, &p.plan, p.NH, p.NKV);
    else if (rung == 2) tiled<64>(p.out.at, p.lse.at, p.qkv.at, &p.plan, p.NH, p.NKV);
    else if (rung == 3 && p.HD == 128) serial<128>(p.out.at, p.lse.at, p.qkv.at, &p.plan, p.NH, p.NKV);
    else if (rung == 3) serial<64>(p.out.at, p.lse.at, p.qkv.at, &p.plan, p.NH, p.NKV);
    else if (rung == 4) attention_forward_sm90(p.out.at, p.lse.at, p.qkv.at, &p.plan, p.counters.at, p.NH, p.NKV, p.HD, 0);
    else attention_forward_mma(p.out.at, p.lse.at, p.qkv.at, &p.plan, p.NH, p.NKV, p.HD, 0);
}

typedef struct {
    std::vector<int64_t> rows;      // tokens of the batch that were worked out
    std::vector<double> out, lse;   // (rows, NH*HD), (rows, NH) base 2
} Reference;

static Reference reference(const Problem &p) {
    Reference r;
    const int64_t HD = p.HD, A = p.NH * HD, every = p.N / 256;
    for (int64_t n = 0; n < p.N; n++) if (p.N <= 1100 || n % p.T == 0 || n % p.T == p.T - 1 || random_bits(11, (uint64_t)n) % (uint64_t)every == 0) r.rows.push_back(n);
    const int64_t R = (int64_t)r.rows.size();
    r.out.assign((size_t)(R * A), 0.0); r.lse.resize((size_t)(R * p.NH));
    const std::vector<bf16> packed = p.qkv.get();
    std::vector<float> x(packed.size());
    #pragma omp parallel for
    for (int64_t i = 0; i < (int64_t)x.size(); i++) x[(size_t)i] = to_float(packed[(size_t)i]);
    #pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < R * p.NH; i++) {
        const int64_t n = r.rows[(size_t)(i / p.NH)], h = i % p.NH, t = n % p.T, start = p.block[(size_t)n], base = n - t;   // the plan's block begins with document_start
        const float *q = &x[(size_t)(n * p.W + h * HD)], *k = &x[(size_t)(base * p.W + (p.NH + h / (p.NH / p.NKV)) * HD)], *v = k + p.NKV * HD;
        double *o = &r.out[(size_t)(i * HD)], m = -INFINITY, sum = 0;
        std::vector<double> s((size_t)(t - start + 1));
        for (int64_t j = start; j <= t; j++) {
            double dot = 0;
            for (int64_t c = 0; c < HD; c++) dot += (double)q[c] * (double)k[j * p.W + c];
            s[(size_t)(j - start)] = dot / sqrt((double)HD);
            m = std::max(m, s[(size_t)(j - start)]);
        }
        for (int64_t j = start; j <= t; j++) {
            const double e = exp(s[(size_t)(j - start)] - m);
            sum += e;
            for (int64_t c = 0; c < HD; c++) o[c] += e * (double)v[j * p.W + c];
        }
        for (int64_t c = 0; c < HD; c++) o[c] /= sum;
        r.lse[(size_t)i] = (m + log(sum)) / log(2.0);
    }
    return r;
}

// of out: ||error|| / ||out||, the worst head of a row, of lse: the worst difference; numbers that were not written
typedef struct { double norm, row, lse; int64_t unwritten; } Errors;
static const Errors limits = {5e-3, 1e-2, 3e-4, 0};   // P is rounded to bf16, and so is the result

static Errors errors(const Problem &p, const Reference &r) {
    const std::vector<bf16> out = p.out.get();
    const std::vector<float> lse = p.lse.get();
    Errors e = {0, 0, 0, 0};
    double all = 0, size = 0;
    for (bf16 x : out) e.unwritten += !std::isfinite(to_float(x));
    for (int64_t i = 0; i < p.lse.n; i++) e.unwritten += i % p.TP < p.T && !std::isfinite(lse[(size_t)i]);   // what lies behind T is nobody's
    for (int64_t i = 0; i < (int64_t)r.rows.size() * p.NH; i++) {
        const int64_t n = r.rows[(size_t)(i / p.NH)], h = i % p.NH;
        double d = 0, s = 0;
        for (int64_t c = 0; c < p.HD; c++) {
            const double y = r.out[(size_t)(i * p.HD + c)], x = (double)to_float(out[(size_t)((n * p.NH + h) * p.HD + c)]);
            d += (x - y) * (x - y); s += y * y;
        }
        all += d; size += s;
        const double row = sqrt(d / s), l = fabs((double)lse[(size_t)((n / p.T * p.NH + h) * p.TP + n % p.T)] - r.lse[(size_t)i]);
        if (!(row <= e.row)) e.row = row;   // keeps a NaN
        if (!(l <= e.lse)) e.lse = l;
    }
    e.norm = sqrt(all / size);
    return e;
}

static Errors worst[RUNGS + 1];

// launches a rung on poisoned outputs and judges what it wrote; again: that many more launches, which must give the same bits
static Errors judge(int rung, Problem &p, const Reference &r, int again) {
    char what[256];
    p.poison();
    forward(rung, p);
    const cudaError_t status = cudaDeviceSynchronize();
    if (status != cudaSuccess) die("%s: rung %d: %s ---> run tiny under compute-sanitizer", p.shape, rung, cudaGetErrorString(status));
    const Errors e = errors(p, r);
    snprintf(what, sizeof what, "rung %d: out %.1e (at most %.0e), worst row %.1e (%.0e), lse %.1e (%.0e), %lld numbers not written", rung, e.norm, limits.norm, e.row, limits.row, e.lse, limits.lse, (long long)e.unwritten);
    expect(e.norm <= limits.norm && e.row <= limits.row && e.lse <= limits.lse && e.unwritten == 0, what, p.shape);
    const std::vector<bf16> out = p.out.get();
    const std::vector<float> lse = p.lse.get();
    bool same = true;
    for (int i = 0; i < again; i++) {
        p.poison();
        forward(rung, p);
        same = same && same_bits(out, p.out.get()) && same_bits(lse, p.lse.get());
    }
    snprintf(what, sizeof what, "rung %d: other bits when run again", rung);
    expect(same, what, p.shape);
    snprintf(what, sizeof what, "rung %d: written outside its shape", rung);
    expect(p.out.fences_stand() && p.lse.fences_stand() && p.qkv.fences_stand() && p.counters.fences_stand(), what, p.shape);
    const std::vector<int32_t> counters = p.counters.get();
    snprintf(what, sizeof what, "rung %d: counters left at %d, %d instead of 0", rung, counters[0], counters[1]);
    expect(counters[0] == 0 && counters[1] == 0, what, p.shape);
    Errors &w = worst[rung];
    w.norm = std::max(w.norm, e.norm); w.row = std::max(w.row, e.row); w.lse = std::max(w.lse, e.lse);
    return e;
}

static void check(int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD, const std::vector<int> &lengths, float scale) {
    Problem p(B, T, NH, NKV, HD, lengths, scale);
    const Reference r = reference(p);
    const int before = failures;
    printf("%s:", p.shape);
    for (int rung = 1; rung <= RUNGS; rung++) {
        if (!runs(rung)) continue;
        printf(" %d", rung);   // and at once: a kernel that hangs is named
        fflush(stdout);
        judge(rung, p, r, rung == FINAL ? 3 : 1);
    }
    printf(failures == before ? " ok\n" : " FAILED\n");
}
static int result(void) {
    for (int rung = 1; rung <= RUNGS; rung++) {
        if (runs(rung)) printf("rung %d: at worst out %.1e, row %.1e, lse %.1e\n", rung, worst[rung].norm, worst[rung].row, worst[rung].lse);
        else printf("rung %d: not run, it needs Hopper\n", rung);
    }
    return check_result();
}
static std::vector<int> documents(int low, int high, int n, uint64_t seed) {
    std::vector<int> v;
    for (int i = 0; i < n; i++) v.push_back(low + (int)(random_bits(seed, (uint64_t)i) % (uint32_t)(high - low + 1)));
    return v;
}

// ---------------------------------------------------------------------------------------------------------------------
// times

typedef struct { double rested, sustained; } Times;   // ms

static double median(std::vector<double> v) { std::sort(v.begin(), v.end()); return v[v.size() / 2]; }
static Times times(int rung, Problem &p) {
    static cudaEvent_t begin, end;
    if (!begin) { CUDA_CHECK(cudaEventCreate(&begin)); CUDA_CHECK(cudaEventCreate(&end)); }
    auto timed = [&](int launches) {
        CUDA_CHECK(cudaEventRecord(begin));
        for (int i = 0; i < launches; i++) forward(rung, p);
        CUDA_CHECK(cudaEventRecord(end));
        CUDA_CHECK(cudaEventSynchronize(end));
        float ms;
        CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
        return (double)ms / launches;
    };
    std::vector<double> rested, sustained;
    for (int round = 0; round < 3; round++) {
        CUDA_CHECK(cudaDeviceSynchronize());
        usleep(200000);
        timed(2);
        for (int i = 0; i < 3; i++) rested.push_back(timed(1));
    }
    const double one = median(rested);
    timed((int)std::min(400.0, std::max(1.0, 2000 / one)));
    for (int i = 0; i < 5; i++) sustained.push_back(timed((int)std::min(60.0, std::max(1.0, 300 / one))));
    return {one, median(sustained)};
}
// floating-point operations that the problem asks for
static double work(const Problem &p, bool causal) { return 4.0 * (double)(p.NH * p.HD) * (causal ? (double)p.B * (double)p.T * (double)p.T / 2 : p.plan.visible_pairs); }

static void bench(const char *name, int64_t B, int64_t T, int64_t HD, const std::vector<int> &lengths) {
    Problem p(B, T, 32, 8, HD, lengths, 1.0f);
    const Times t = times(FINAL, p);
    const double flops = work(p, lengths.empty());
    printf("%-58s rested %.3f ms %4.0f TFLOP/s | sustained %.3f ms %4.0f TFLOP/s\n", name, t.rested, flops / t.rested * 1e-9, t.sustained, flops / t.sustained * 1e-9);
    fflush(stdout);
}

int main(int argc, char **argv) {
    program_name = "attention_forward";
    const char *what = argc > 1 ? argv[1] : "";
    const int only = atoi(what);
    const bool named = strcmp(what, "check") == 0 || strcmp(what, "tiny") == 0 || strcmp(what, "bench") == 0;
    if (argc > 2 || (argc == 2 && !named && (only < 1 || only > RUNGS))) die("\"%s\" is not a rung ---> nothing for all rungs, a rung's number from 1 to %d, check, tiny or bench", argv[argc - 1], RUNGS);
    if (strcmp(what, "tiny") == 0) {
        check(1, 1, 4, 1, 128, {}, 1);
        check(2, 77, 4, 2, 64, {}, 1);
        check(2, 200, 4, 1, 128, documents(1, 90, 50, 1), 1);
        check(1, 300, 2, 2, 64, {1, 1, 2, 127, 1, 128, 129}, 1);
        return result();
    }
    if (strcmp(what, "check") == 0) {
        for (int64_t HD : {64, 128}) {
            check(1, 1, 4, 1, HD, {}, 1);
            check(2, 77, 8, 2, HD, {}, 1);
            check(2, 64, 4, 4, HD, {}, 1);
            check(1, 128, 4, 4, HD, {}, 1);
            check(2, 129, 8, 1, HD, {}, 1);
            check(3, 333, 8, 1, HD, {}, 1);
            check(2, 500, 8, 2, HD, {1}, 1);
            check(2, 500, 8, 8, HD, {64}, 1);
            check(2, 512, 8, 1, HD, {128}, 1);
            check(2, 1027, 8, 2, HD, {1, 1, 2, 127, 1, 128, 129, 1, 63, 64, 65, 3}, 1);
            check(2, 1000, 8, 2, HD, documents(1, 300, 97, 1), 1);
            check(300, 3, 8, 2, HD, documents(1, 3, 97, 9), 1);
            check(1, 2048, 32, 8, HD, {}, 3);                               // scores x 9
            check(2, 3000, 32, 8, HD, documents(20, 900, 97, 5), 5);        // and x 25
            check(2, 4100, 32, 8, HD, documents(120, 1500, 97, 2), 1);
            check(2, 8192, 32, 8, HD, documents(120, 1500, 97, 3), 1);
            check(1, 8192, 32, 8, HD, {}, 1);
            check(2, 8192, 32, 8, HD, {}, 1);                               // heads in sections
        }
        return result();
    }
    if (strcmp(what, "bench") == 0) {
        if (!runs(FINAL)) die("the final kernel needs a Hopper GPU");
        const std::vector<int> packed = documents(120, 1500, 97, 3);
        for (int round = 0; round < 2; round++) {   // twice, in turn: the first of a list runs on a cooler card
            bench("1 x 8192 causal, 32/8 heads of 128", 1, 8192, 128, {});
            bench("2 x 8192 causal, 32/8 heads of 128", 2, 8192, 128, {});
            bench("2 x 8192 documents of 120-1500, 32/8 heads of 128", 2, 8192, 128, packed);
            bench("1 x 8192 causal, 32/8 heads of 64", 1, 8192, 64, {});
            bench("2 x 8192 documents of 120-1500, 32/8 heads of 64", 2, 8192, 64, packed);
        }
        return 0;
    }
    Problem p(1, 8192, 32, 8, 128, {}, 1.0f);
    const Reference r = reference(p);
    printf("attention forward, 1 x 8192 causal, 32/8 heads of 128 (error: out, worst head of a row)\n%4s  %-74s %10s %8s %12s %8s  %s\n", "rung", "one idea more", "rested ms", "TFLOP/s", "sustained ms", "TFLOP/s", "error");
    for (int rung = 1; rung <= RUNGS; rung++) {
        if (only && rung != only) continue;
        if (!runs(rung)) { printf("%4d  %-74s needs Hopper\n", rung, ideas[rung - 1]); continue; }
        const Errors e = judge(rung, p, r, 1);
        const Times t = times(rung, p);
        printf("%4d  %-74s %10.3f %8.1f %12.3f %8.1f  %.1e, %.1e\n", rung, ideas[rung - 1], t.rested, work(p, true) / t.rested * 1e-9, t.sustained, work(p, true) / t.sustained * 1e-9, e.norm, e.row);
        fflush(stdout);
    }
    return failures != 0;
}
