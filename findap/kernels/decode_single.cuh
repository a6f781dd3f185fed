// decode_single.cuh: attention of single tokens, one a sequence, over their pages: what generating does in every layer. Part of decode.cuh, whose Decode, PagedCall and splits it uses.
//
// Bound by bytes, 4 HD a token and key/value head; and where memory is as fast as it can be, by energy: 256 rows at a time draw the whole power of an H200 (dev/LOG.md), so whatever a
// page costs in instructions is paid in clock by the products before and after. Hence:
//   - Keys are the first operand of S^T = K Q^T, values that of O^T = V^T P^T, heads the second: 8 columns, where heads as the first operand would be 16 rows, most of them not there.
//   - On Hopper one lane asks TMA for a page's keys and values, instead of 32 lanes for 16 bytes each, several times.
//   - Sums are scaled down only when a maximum rises. That it does not, one vote says.
//   - The block of a row and key/value head that is ready last puts all splits together: no second kernel.
//
// The bits are those of decode.cuh's tiles: the same chains of products, the weights' sums by the same tree.
#ifndef FINDAP_KERNELS_DECODE_SINGLE_CUH
#define FINDAP_KERNELS_DECODE_SINGLE_CUH

enum { DECODE_COUNTERS = 1 << 14 };
__device__ static int decode_ready[DECODE_COUNTERS];   // of a row and key/value head: splits that are done; zero again when the kernel is. So one stream at a time

typedef struct {
    Decode d;
    CUtensorMap k, v;   // TMA: (pages * NKV, HD / 64, PAGE_TOKENS, 64), in boxes of a page and head
} DecodeSingle;

DEVICE uint32_t transposed(uint32_t x) {   // of an 8 x 8 matrix of 16-bit numbers, as the products' fragments have it
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// One block: a row, a key/value head, DECODE_SPLIT tokens. A warp takes every fourth page, DECODE_STAGES - 1 ahead, and keeps its own maxima and sums; at the end the four are put
// together. Of S^T, lane l holds tokens l / 4 and 8 further on, heads 2 (l % 4) and the next. Heads from the group's size on are not there: their q is 0, and nobody reads their sums.
// FRESH: q, k and v of the row are as the product made them, and k and v not in their pages yet. TMA: pages come by it, else by cp.async.
template <int HD, bool FRESH, bool TMA> __global__ static void __launch_bounds__(DECODE_WARPS * 32) decode_single_kernel(const __grid_constant__ DecodeSingle s, const __grid_constant__ PagedCall c) {
    constexpr int UNITS = HD / 8, PAGE_BYTES = PAGE_TOKENS * HD * 2, STAGE = 2 * PAGE_BYTES, CHUNK = PAGE_TOKENS * 128 /* 64 columns of a page */, SUMS = HD + 4 /* a row's sums, maximum and weight: two rows 8 banks apart */;
    constexpr int PAGES = DECODE_SPLIT / PAGE_TOKENS / DECODE_WARPS;   // of a warp
    static_assert(PAGES <= 32 && DECODE_WARPS * 8 * SUMS * 4 <= DECODE_WARPS * DECODE_STAGES * STAGE, "a lane for every page; the sums fit where the pages were");
    extern __shared__ uint8_t single_shared[];
    __shared__ uint64_t full[DECODE_WARPS][DECODE_STAGES];
    __shared__ float row_high[8], row_weight[8];
    __shared__ int ready;
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr bool BY_TMA = TMA;
#else
    constexpr bool BY_TMA = false;   // not launched there
#endif
    const Decode &a = s.d;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane >> 2, q4 = lane & 3, G = a.NH / a.NKV, W = (a.NH + 2 * a.NKV) * HD;
    const int split = blockIdx.x, head = blockIdx.y, row = a.first_tile + blockIdx.z, length = c.positions[row] + 1, begin = split * DECODE_SPLIT, end = min(length, begin + DECODE_SPLIT);
    let_next_begin();
    if (!FRESH) wait_for_previous();   // FRESH: all that is read of the pages has been there since the token before
    if (begin >= length) return;
    const int first = begin / PAGE_TOKENS + warp, last = (end + PAGE_TOKENS - 1) / PAGE_TOKENS;
    const int32_t *table = c.pages + (int64_t)c.sequence[row] * c.width;
    const int own_page = lane < PAGES && first + lane * DECODE_WARPS < last ? table[first + lane * DECODE_WARPS] * a.NKV + head : 0;   // lane i: where the warp's page i is
    uint8_t *const shared = single_shared + (-smem_u32(single_shared) & 1023), *const stages = shared + warp * DECODE_STAGES * STAGE;
    const uint32_t stages_at = smem_u32(stages);

    // A page in shared memory: chunks of 64 columns, in them rows of 128 bytes, whose 16-byte unit u is in place u ^ (row % 8): TMA's 128-byte swizzle. What lies behind the end of a sequence comes too.
    auto load = [&](int page, int stage) {
        const int i = (page - first) / DECODE_WARPS, at = __shfl_sync(0xffffffffu, own_page, i % 32);
        if (page < last) {
            if constexpr (BY_TMA) {
                if (lane == 0) {
                    mbar_arrive_tx(&full[warp][stage], STAGE);
                    tma_load(stages + stage * STAGE, &s.k, &full[warp][stage], 0, 0, at);
                    tma_load(stages + stage * STAGE + PAGE_BYTES, &s.v, &full[warp][stage], 0, 0, at);
                }
            } else {
                #pragma unroll
                for (int j = 0; j < PAGE_TOKENS * UNITS / 32; j++) {
                    const int u = j * 32 + lane, token = u / UNITS, unit = u % UNITS;
                    const uint32_t to = stages_at + stage * STAGE + unit / 8 * CHUNK + sw128(token, unit % 8);
                    cp_async16(to, a.k + (int64_t)at * PAGE_TOKENS * HD + u * 8, true);
                    cp_async16(to + PAGE_BYTES, a.v + (int64_t)at * PAGE_TOKENS * HD + u * 8, true);
                }
            }
        }
        if (!BY_TMA) cp_async_commit();
    };
    if constexpr (BY_TMA) {   // a warp's barriers are its own
        if (lane == 0) {
            for (int i = 0; i < DECODE_STAGES; i++) mbar_init(&full[warp][i], 1);
            fence_mbar_init();
        }
        __syncwarp();
    }
    #pragma unroll
    for (int i = 0; i < DECODE_STAGES - 1; i++) load(first + i * DECODE_WARPS, i);

    // Of a new token: RoPE of its k, which goes with v into the page here and in memory; by the one warp of the card that has them in its last page. Lanes 0 to 15 have k, the others
    // v, each 8 numbers of either half of the head. The angles are known before the product is.
    const int fresh_unit = lane % (UNITS / 2), fresh_row = (length - 1) % PAGE_TOKENS;
    float4 angles[4], fq_angles[HD / 32][2];
    Pack<bf16> fresh_low, fresh_high;
    if (FRESH) {
        const float *turn = a.turn + (int64_t)(length - 1) * HD;
        #pragma unroll
        for (int e = 0; e < 4; e++) angles[e] = *reinterpret_cast<const float4 *>(turn + fresh_unit * 16 + e * 4);
        #pragma unroll
        for (int i = 0; i < HD / 32; i++)
            #pragma unroll
            for (int b = 0; b < 2; b++) fq_angles[i][b] = *reinterpret_cast<const float4 *>(turn + (i * 16 + b * 8 + 2 * q4) * 2);
        wait_for_previous();
        const bf16 *from = a.qkv + (int64_t)row * W + (a.NH + (lane < 16 ? 0 : a.NKV) + head) * HD;
        fresh_low = load_pack(from + fresh_unit * 8);
        fresh_high = load_pack(from + HD / 2 + fresh_unit * 8);
    }
    auto put_fresh = [&](uint32_t page_at, int page) {
        if (lane % 16 >= UNITS / 2) return;
        if (lane < 16)
            #pragma unroll
            for (int e = 0; e < 4; e++) {
                turn_pair(&fresh_low.at[2 * e], &fresh_high.at[2 * e], angles[e].x, angles[e].y);
                turn_pair(&fresh_low.at[2 * e + 1], &fresh_high.at[2 * e + 1], angles[e].z, angles[e].w);
            }
        bf16 *memory = (lane < 16 ? a.k : a.v) + (((int64_t)table[page] * a.NKV + head) * PAGE_TOKENS + fresh_row) * HD;
        #pragma unroll
        for (int h = 0; h < 2; h++) {
            const int unit = fresh_unit + h * UNITS / 2;
            const Pack<bf16> &x = h ? fresh_high : fresh_low;
            const uint4 p = *reinterpret_cast<const uint4 *>(&x);
            store_shared(page_at + (lane < 16 ? 0 : PAGE_BYTES) + unit / 8 * CHUNK + sw128(fresh_row, unit % 8), p);
            store_pack(memory + unit * 8, x);
        }
    };

    uint32_t fq[HD / 16][2];   // head g; columns 16 i + 2 q4 and the next, and 8 further on
    {
        const bf16 *from = a.qkv + (int64_t)row * W + (int64_t)(head * G + g) * HD + 2 * q4;
        #pragma unroll
        for (int i = 0; i < HD / 16; i++)
            #pragma unroll
            for (int b = 0; b < 2; b++) fq[i][b] = g < G ? *reinterpret_cast<const uint32_t *>(from + i * 16 + b * 8) : 0;
    }
    if (FRESH)   // both halves of pairs, HD / 2 apart, are here
        #pragma unroll
        for (int i = 0; i < HD / 32; i++)
            #pragma unroll
            for (int b = 0; b < 2; b++) {
                const float4 t = fq_angles[i][b];
                bf16 *x = reinterpret_cast<bf16 *>(&fq[i][b]), *y = reinterpret_cast<bf16 *>(&fq[i + HD / 32][b]);
                turn_pair(&x[0], &y[0], t.x, t.y);
                turn_pair(&x[1], &y[1], t.z, t.w);
            }

    // where ldmatrix reads, for columns 0 to 15: columns 16 i are at (address ^ 32 (i % 4)) + i / 4 * CHUNK. Keys as they are; of values, 16 columns' worth of them transposed
    const uint32_t k_at = sw128(lane & 15, lane >> 4), v_at = PAGE_BYTES + sw128((lane >> 4) * 8 + (lane & 7), (lane >> 3) & 1);
    float o[HD / 16][4], most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};   // o: columns 16 i + g of heads 2 q4 and the next, and the same 8 further on
    #pragma unroll
    for (int i = 0; i < HD / 16 * 4; i++) o[i / 4][i % 4] = 0.0f;
    int stage = 0, parity = 0;
    for (int page = first; page < last; page += DECODE_WARPS) {
        if constexpr (BY_TMA) mbar_wait(&full[warp][stage], parity);
        else asm volatile("cp.async.wait_group %0;" ::"n"(DECODE_STAGES - 2) : "memory");
        __syncwarp();   // the page has arrived for all, and all have done with the one before
        load(page + (DECODE_STAGES - 1) * DECODE_WARPS, (stage + DECODE_STAGES - 1) % DECODE_STAGES);
        const uint32_t at = stages_at + stage * STAGE;
        if (++stage == DECODE_STAGES) { stage = 0; parity ^= 1; }
        const int seen = end - page * PAGE_TOKENS;   // tokens of this page
        if (seen < PAGE_TOKENS)   // what lies behind the end may be NaN, and 0 times that is too
            for (int u = seen * UNITS + lane; u < PAGE_TOKENS * UNITS; u += 32) store_shared(at + PAGE_BYTES + u % UNITS / 8 * CHUNK + sw128(u / UNITS, u % 8), make_uint4(0, 0, 0, 0));
        if (FRESH && end == length && seen <= PAGE_TOKENS) put_fresh(at, page);
        if (seen <= PAGE_TOKENS) __syncwarp();
        float x[4] = {0, 0, 0, 0};
        #pragma unroll
        for (int i = 0; i < HD / 16; i++) {
            uint32_t f[4];
            ldsm_x4(f, ((at + k_at) ^ (i % 4 * 32)) + i / 4 * CHUNK);
            mma_bf16(x, f, fq[i][0], fq[i][1]);
        }
        #pragma unroll
        for (int i = 0; i < 4; i++) x[i] = __fmul_rn(x[i], a.scale_log2);
        if (seen < PAGE_TOKENS)
            #pragma unroll
            for (int i = 0; i < 4; i++) if (g + i / 2 * 8 >= seen) x[i] = -INFINITY;
        float fade[2] = {1, 1};
        if (__any_sync(0xffffffffu, fmaxf(x[0], x[2]) > most[0] || fmaxf(x[1], x[3]) > most[1])) {
            #pragma unroll
            for (int e = 0; e < 2; e++) {
                float high = fmaxf(most[e], fmaxf(x[e], x[2 + e]));
                #pragma unroll
                for (int d = 4; d <= 16; d *= 2) high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, d));
                fade[e] = ex2(most[e] - high);
                most[e] = high;
            }
            #pragma unroll
            for (int i = 0; i < HD / 16 * 4; i++) o[i / 4][i % 4] *= fade[i % 2];
        }
        float p[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) p[i] = ex2(x[i] - most[i % 2]);
        #pragma unroll
        for (int e = 0; e < 2; e++) sum[e] = fmaf(sum[e], fade[e], p[e] + p[2 + e]);   // of tokens g and g + 8; the others' are added in the end
        const uint32_t p0 = transposed(pack_bf16(p[0], p[1])), p1 = transposed(pack_bf16(p[2], p[3]));
        #pragma unroll
        for (int i = 0; i < HD / 16; i++) {
            uint32_t f[4];
            ldsm_x4_transposed(f, ((at + v_at) ^ (i % 4 * 32)) + i / 4 * CHUNK);
            mma_bf16(o[i], f, p0, p1);
        }
    }
    if (!BY_TMA) asm volatile("cp.async.wait_group 0;" ::: "memory");
    #pragma unroll
    for (int e = 0; e < 2; e++)
        #pragma unroll
        for (int d = 4; d <= 16; d *= 2) sum[e] += __shfl_xor_sync(0xffffffffu, sum[e], d);
    __syncthreads();
    float *const all = reinterpret_cast<float *>(shared);   // (warps, 8, SUMS), where the pages were
    #pragma unroll
    for (int e = 0; e < 2; e++) {
        float *mine = all + (warp * 8 + 2 * q4 + e) * SUMS;
        #pragma unroll
        for (int i = 0; i < HD / 16; i++) { mine[i * 16 + g] = o[i][e]; mine[i * 16 + 8 + g] = o[i][2 + e]; }
        if (g == 0) { mine[HD] = most[e]; mine[HD + 1] = sum[e]; }
    }
    __syncthreads();
    if (threadIdx.x < G) quarters_share(all + threadIdx.x * SUMS, 8 * SUMS, HD, &row_high[threadIdx.x], &row_weight[threadIdx.x]);
    __syncthreads();
    const int splits = (length - 1) / DECODE_SPLIT + 1;
    for (int i = threadIdx.x; i < G * (HD / 2); i += DECODE_WARPS * 32) {   // two numbers at a time
        const int h = i / (HD / 2), d = i % (HD / 2) * 2, query = head * G + h;
        const float2 x = quarters_sum(all + h * SUMS, 8 * SUMS, HD, d);
        if (splits == 1) *reinterpret_cast<uint32_t *>(a.out + ((int64_t)row * a.NH + query) * HD + d) = pack_bf16(x.x / row_weight[h], x.y / row_weight[h]);
        else {
            float *part = a.part + (((int64_t)blockIdx.z * a.NH + query) * a.splits + split) * (HD + 2);
            *reinterpret_cast<float2 *>(part + d) = x;
            if (d == 0) *reinterpret_cast<float2 *>(part + HD) = make_float2(row_high[h], row_weight[h]);
        }
    }
    if (splits == 1) return;
    __threadfence();   // the parts are there before the count says so
    __syncthreads();
    if (threadIdx.x == 0) {
        int *count = &decode_ready[blockIdx.z * a.NKV + head];
        ready = atomicAdd(count, 1) + 1;
        if (ready == splits) *count = 0;
        __threadfence();
    }
    __syncthreads();
    if (ready == splits)
        for (int h = warp; h < G; h += DECODE_WARPS)
            join_splits(a.out + ((int64_t)row * a.NH + head * G + h) * HD, a.part + ((int64_t)blockIdx.z * a.NH + head * G + h) * a.splits * (HD + 2), splits, HD, lane);
}

template <int HD> static inline void decode_single_hd(const Decode *a, const PagedCall *c, int64_t rows, cudaStream_t stream) {
#ifdef FINDAP_RACECHECK   // the tool does not carry what __syncwarp orders over to the lane that asks TMA
    const bool tma = false;
#else
    const bool tma = device_is_hopper() && !decode_without_tma;
#endif
    const int bytes = DECODE_WARPS * DECODE_STAGES * 2 * PAGE_TOKENS * HD * 2 + 1024;
    DecodeSingle s = {*a, {}, {}};
    if (tma) {   // how many pages there are, the map need not know
        s.k = tile_map(a->k, INT32_MAX, PAGE_TOKENS, HD, PAGE_TOKENS, HD, 1, CU_TENSOR_MAP_L2_PROMOTION_NONE);
        s.v = tile_map(a->v, INT32_MAX, PAGE_TOKENS, HD, PAGE_TOKENS, HD, 1, CU_TENSOR_MAP_L2_PROMOTION_NONE);
    }
    void (*kernel)(DecodeSingle, PagedCall) = a->turn ? tma ? decode_single_kernel<HD, true, true> : decode_single_kernel<HD, true, false> : tma ? decode_single_kernel<HD, false, true> : decode_single_kernel<HD, false, false>;
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    launch_early(kernel, dim3((unsigned)a->splits, (unsigned)a->NKV, (unsigned)rows), DECODE_WARPS * 32, bytes, stream, s, *c);
}
static inline void decode_single(const Decode *a, const PagedCall *c, int64_t HD, int64_t rows, cudaStream_t stream) { HD == 128 ? decode_single_hd<128>(a, c, rows, stream) : decode_single_hd<64>(a, c, rows, stream); }
#endif
