// sm90.cuh: thin wrappers over Hopper's own instructions: the bulk copy engine (TMA), mbarriers, wgmma, register budgets. What
// attention, and products of a few rows, need, and nothing else. Compiles to nothing useful below sm_90a; the kernels that use it guard themselves.
//
// Words used here and in the kernels:
// - chunk: a [rows][64] bf16 block, 128 bytes a row, base aligned to 1024 bytes, swizzled: 16-byte unit u of row r lies at
//   r*128 + ((u ^ (r & 7)) << 4). TMA's SWIZZLE_128B, wgmma's descriptors, ldmatrix and stmatrix addresses (sw128) all agree on it.
//   A tile of [rows][128] is two chunks, one behind the other.
// - K-major operand: the sum of the product runs along the 64 contiguous numbers. MN-major: it runs along the rows; so one tile in
//   shared memory serves as a matrix and as its transpose.
// - fragment of D (m64nN): lane l of warp w holds d[4j + 2h + e] = row 16w + l/4 + 8h, column 8j + 2(l%4) + e. The A fragment of k16
//   step kk is accumulator columns 16kk..16kk+15 packed in pairs: a[i] = pack(d[8kk + 2i], d[8kk + 2i + 1]).
// Sources: PTX ISA 8.x (wgmma, cp.async.bulk.tensor, mbarrier); the layouts were checked by running them.
#ifndef FINDAP_KERNELS_SM90_CUH
#define FINDAP_KERNELS_SM90_CUH
#include "cuda.cuh"   // defines: CUDA_CHECK, bf16
#include <cuda.h>     // defines: CUtensorMap

#define DEVICE __device__ static __forceinline__

DEVICE uint32_t smem_u32(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
DEVICE uint32_t sw128(uint32_t row, uint32_t unit) { return row * 128u + ((unit ^ (row & 7u)) << 4); }
DEVICE uint32_t pack_bf16(float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
DEVICE float ex2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- registers of a warpgroup (a multiple of 8; the kernel needs __launch_bounds__(threads, 1)); named barriers 1..15
template <int N> DEVICE void reg_dec() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> DEVICE void reg_inc() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
DEVICE void bar_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// ---- mbarriers. A fresh barrier is in phase 0: waiting for parity 1 passes at once, for parity 0 when it has completed once.
// Functions that take an address of shared memory as 32 bits have it so because a loop cannot spare the registers for pointers.
DEVICE void mbar_init(uint64_t *b, uint32_t count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_u32(b)), "r"(count) : "memory"); }
DEVICE void mbar_arrive(uint32_t b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory"); }
DEVICE void mbar_arrive(uint64_t *b) { mbar_arrive(smem_u32(b)); }
// A warp gives a buffer back when all of its lanes have read it (after __syncwarp): one lane's arrival is enough, and 32 would queue up
// at the barrier. racecheck does not carry what __syncwarp orders over to the arriving lane, and reports every other lane's read as racing
// with the next copy into the buffer; built with -DFINDAP_RACECHECK every lane arrives, so that it can follow.
#ifdef FINDAP_RACECHECK
enum { WARP_ARRIVALS = 32 };
#else
enum { WARP_ARRIVALS = 1 };
#endif
DEVICE void warp_arrive(uint32_t b, int lane) { if (WARP_ARRIVALS == 32 || lane == 0) mbar_arrive(b); }
DEVICE void mbar_arrive_tx(uint64_t *b, uint32_t bytes) {   // arrives, and adds bytes that copies have yet to deliver
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_u32(b)), "r"(bytes) : "memory");
}
DEVICE void mbar_wait(uint32_t b, uint32_t parity) {
    asm volatile("{\n.reg .pred done;\nWAIT_%=:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra DONE_%=;\nbra WAIT_%=;\nDONE_%=:\n}"
                 ::"r"(b), "r"(parity) : "memory");
}
DEVICE void mbar_wait(uint64_t *b, uint32_t parity) { mbar_wait(smem_u32(b), parity); }
DEVICE void fence_mbar_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// ordinary writes to shared memory become visible to wgmma and TMA: every writing thread executes it, before the barrier
DEVICE void fence_async_smem() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- TMA: one thread issues. Tiles by a tensor map: x column in the chunk, y row, z chunk, w sequence
DEVICE void tma_prefetch(const CUtensorMap *m) { asm volatile("prefetch.tensormap [%0];" ::"l"((uint64_t)m) : "memory"); }
DEVICE void tma_load(void *to, const CUtensorMap *m, uint64_t *bar, int y, int z, int w) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
                 ::"r"(smem_u32(to)), "l"((uint64_t)m), "r"(smem_u32(bar)), "r"(0), "r"(y), "r"(z), "r"(w) : "memory");
}
DEVICE void tma_store(const CUtensorMap *m, const void *from, int y, int z, int w) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];"
                 ::"l"((uint64_t)m), "r"(smem_u32(from)), "r"(0), "r"(y), "r"(z), "r"(w) : "memory");
}
// plain runs of bytes (a multiple of 16, aligned to 16); _once: for data that the L2 need not keep
DEVICE uint64_t policy_once() {
    uint64_t p;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(p));
    return p;
}
DEVICE void bulk_load(void *to, const void *from, uint32_t bytes, uint64_t *bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(smem_u32(to)), "l"(from), "r"(bytes), "r"(smem_u32(bar)) : "memory");
}
DEVICE void bulk_load_once(void *to, const void *from, uint32_t bytes, uint64_t *bar, uint64_t policy) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;"
                 ::"r"(smem_u32(to)), "l"(from), "r"(bytes), "r"(smem_u32(bar)), "l"(policy) : "memory");
}
DEVICE void bulk_store_once(void *to, uint32_t from, uint32_t bytes, uint64_t policy) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, %3;" ::"l"(to), "r"(from), "r"(bytes), "l"(policy) : "memory");
}
DEVICE void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// at most N groups of this thread's stores are left under way; _read: the shared memory they read may be written again
template <int N> DEVICE void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"); }
template <int N> DEVICE void bulk_wait() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"); }

// ---- clusters: blocks that run side by side and reach each other's shared memory; an address of this block's has a counterpart in every other
DEVICE uint32_t cluster_rank() {
    uint32_t r;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
DEVICE void cluster_sync() { asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }
DEVICE uint32_t counterpart(uint32_t address, uint32_t rank) {
    uint32_t r;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
    return r;
}
// arrival at a barrier of counterpart(), enough to say that something was read
DEVICE void cluster_arrive(uint32_t b) { asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(b) : "memory"); }

// the same tile for each block of the cluster whose bit is set, at the same place, reported to the barrier at the same place
DEVICE void tma_load_shared(void *to, const CUtensorMap *m, uint64_t *bar, int y, int z, int w, uint16_t blocks) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4, %5, %6}], [%2], %7;"
                 ::"r"(smem_u32(to)), "l"((uint64_t)m), "r"(smem_u32(bar)), "r"(0), "r"(y), "r"(z), "r"(w), "h"(blocks) : "memory");
}

// ---- ldmatrix, stmatrix: lane l gives the address of row l%8 of 8x8 matrix l/8; register i of lane l is matrix i, row l/4, columns 2(l%4), +1
DEVICE void ldsm_x4(uint32_t (&r)[4], uint32_t a) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}
DEVICE void stsm_x4(uint32_t a, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(a), "r"(r0), "r"(r1), "r"(r2), "r"(r3) : "memory");
}

// Waits until loads into these registers have come. pin() is for the compiler only; this is an instruction that reads them all.
template <int N> DEVICE void arrived(uint32_t (&r)[N]) {
    uint32_t x = 0;
    #pragma unroll
    for (int i = 0; i < N; i++) x ^= r[i];
    asm volatile("{\n.reg .pred never;\nsetp.eq.u32 never, %0, 0x5eed1e55;\n@never nanosleep.u32 0;\n}" ::"r"(x) : "memory");
}

DEVICE float2 load_shared(uint32_t a) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(a));
    return v;
}
DEVICE void store_shared(uint32_t a, uint4 v) { asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(a), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory"); }

// ---- wgmma
DEVICE void wg_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wg_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> DEVICE void wg_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// "these registers change here": keeps reads of an accumulator below the wait and writes above the fence
template <int N> DEVICE void pin(float (&r)[N]) {
    #pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(r[i])::"memory");
}
template <int N> DEVICE void pin(uint32_t (&r)[N]) {
    #pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(r[i])::"memory");
}

// Descriptor of an operand in shared memory, 128-byte swizzle: [13:0] address/16, [29:16] leading offset/16, [45:32] stride offset/16 (8 rows
// of 128 bytes = 1024), [63:62] 1. K-major: the leading offset is unused; the next k16 step lies 32 bytes on, after four of them in the next
// chunk. MN-major: the leading offset is the distance to the chunk with the next 64 columns; the next k16 step lies 16 rows = 2048 bytes on.
DEVICE uint64_t descriptor(uint32_t address, uint32_t leading_bytes) {
    return (uint64_t)((address & 0x3FFFFu) >> 4) | (uint64_t)(leading_bytes >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | 1ull << 62;
}
DEVICE uint64_t descriptor_kmajor(uint32_t address) { return descriptor(address, 16); }

// lists of operands for the widths
#define WGMMA_F8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define WGMMA_F32(d, i) WGMMA_F8(d, i), WGMMA_F8(d, i + 8), WGMMA_F8(d, i + 16), WGMMA_F8(d, i + 24)
#define WGMMA_F64(d) WGMMA_F32(d, 0), WGMMA_F32(d, 32)
#define WGMMA_LIST_32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define WGMMA_LIST_64 WGMMA_LIST_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

#define WGMMA_F120(d) WGMMA_F32(d, 0), WGMMA_F32(d, 32), WGMMA_F32(d, 64), WGMMA_F8(d, 96), WGMMA_F8(d, 104), WGMMA_F8(d, 112)
#define WGMMA_LIST_120 WGMMA_LIST_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119"

// D (64, N) = or += A (64, 16) B (16, N); add 0: =. TA, TB 1: that operand is MN-major. N is twice the length of d. _ss: both operands
// in shared memory; _rs: A in registers.
template <int TA, int TB> DEVICE void mma_ss(float (&d)[32], uint64_t a, uint64_t b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_LIST_32 "}, %32, %33, p, 1, 1, %35, %36;\n}"
                 : WGMMA_F32(d, 0) : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB));
}
template <int TA, int TB> DEVICE void mma_ss(float (&d)[64], uint64_t a, uint64_t b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_LIST_64 "}, %64, %65, p, 1, 1, %67, %68;\n}"
                 : WGMMA_F64(d) : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB));
}
template <int TA, int TB> DEVICE void mma_ss(float (&d)[120], uint64_t a, uint64_t b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %122, 0;\nwgmma.mma_async.sync.aligned.m64n240k16.f32.bf16.bf16 {" WGMMA_LIST_120 "}, %120, %121, p, 1, 1, %123, %124;\n}"
                 : WGMMA_F120(d) : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB));
}
template <int TB> DEVICE void mma_rs(float (&d)[32], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_LIST_32 "}, {%32,%33,%34,%35}, %36, p, 1, 1, %38;\n}"
                 : WGMMA_F32(d, 0) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add), "n"(TB));
}
template <int TB> DEVICE void mma_rs(float (&d)[64], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_LIST_64 "}, {%64,%65,%66,%67}, %68, p, 1, 1, %70;\n}"
                 : WGMMA_F64(d) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add), "n"(TB));
}

// ---- host: tensor maps

// The map of a packed matrix (B*T, width): dimensions column in the chunk, row of the sequence, chunk, sequence; in boxes of `rows` rows, HD columns, so many sequences. Rows beyond T read
// as zero and are not written: no tail code, and never the next sequence. promotion: how much the L2 fetches at a time.
static CUtensorMap tile_map(const bf16 *base, int64_t B, int64_t T, int64_t width, int rows, int64_t HD, int sequences, CUtensorMapL2promotion promotion) {
    typedef CUresult (*Encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                               CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    static Encode encode = NULL;   // found through the runtime: no -lcuda when linking
    if (!encode) {
        void *p = NULL;
        cudaDriverEntryPointQueryResult found;
        CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault, &found));
        encode = (Encode)p;
    }
    CUtensorMap map;
    const cuuint64_t dims[4] = {64, (cuuint64_t)T, (cuuint64_t)(width / 64), (cuuint64_t)B}, strides[3] = {(cuuint64_t)width * 2, 128, (cuuint64_t)(T * width) * 2};
    const cuuint32_t box[4] = {64, (cuuint32_t)rows, (cuuint32_t)(HD / 64), (cuuint32_t)sequences}, steps[4] = {1, 1, 1, 1};
    const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, (void *)base, dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (status != CUDA_SUCCESS) die("cuTensorMapEncodeTiled: error %d for a matrix of %lld x %lld x %lld", (int)status, (long long)B, (long long)T, (long long)width);
    return map;
}
// of heads side by side, in boxes of one head of HD numbers
static CUtensorMap head_map(const bf16 *base, int64_t B, int64_t T, int64_t width, int rows, int64_t HD) { return tile_map(base, B, T, width, rows, HD, 1, CU_TENSOR_MAP_L2_PROMOTION_L2_256B); }
// of `matrices` weights (O, K) one behind the other, in boxes of 64 columns of the same rows of each; read once, so that fetching more than is asked for only costs (measured: 6 %)
static CUtensorMap weight_map(const bf16 *w, int64_t matrices, int64_t O, int64_t K, int rows) { return tile_map(w, matrices, O, K, rows, 64, (int)matrices, CU_TENSOR_MAP_L2_PROMOTION_L2_128B); }
#endif
