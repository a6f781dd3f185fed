// peers.cuh: sums of gradients and gathers of weights among the GPUs of one host by their copy engines: each rank fetches from the others, over NVLink, what it
// is to have, and adds what are gradients up in rank order. Bound by the links: with P ranks (P-1)/P of the bytes come in, as with NCCL's ring. Alone it takes a
// fifth longer than that (a layer of 872 MB 2.45 ms, for 2.04), since copies and sums follow one another. But training runs beside it, and pays less: NCCL holds sixteen multiprocessors, and what arrives is written, read and read again for its next hop;
// here a few multiprocessors sum what one rank owns. On four H200s a step of 65,536 tokens of Llama-3-8B takes 1,433 ms instead of 1,452
// (dev/LOG.md). Versions on the way stand in dev/links.cu; kernels that read the peers' memory themselves are slower than both.
//
// Who may read is said by numbers in memory, which streams write and wait for (cuStreamBatchMemOp): no kernel waits. Every rank makes the same calls in the same order.
//
// Memory of other processes is opened by cudaIpcOpenMemHandle, and tried. Where that cannot be - no NVLink, processes that see one GPU each, ranks on several
// hosts - peers_begin says why, and NCCL moves everything.
#ifndef FINDAP_KERNELS_PEERS_CUH
#define FINDAP_KERNELS_PEERS_CUH
#include "cuda.cuh"        // defines: CUDA_CHECK, Pack
#include "findap/comm.h"   // defines: Comm, comm_gather_bytes
#include <cuda.h>          // defines: CUstreamBatchMemOpParams

enum { PEERS_MOST = 8, PEER_REGIONS = 3, PEER_RUNS = 64, PEER_THREADS = 1024, PEER_BLOCKS = 16 };   // PEER_BLOCKS: of the summing kernel
static const int64_t PEER_STAGING = 256ll << 20;     // bytes that have come in and wait for their sum, of all other ranks together
static const int64_t PEERS_WORTH = 64ll << 20;       // of fewer bytes copies and meetings cost more than they spare

enum { PEERS_BEGUN, PEERS_DONE };
// a rank's: which call of peers_reduce or peers_gather each rank has begun, is done with. Rank r writes entry r of everybody's
typedef struct { uint32_t at[2][PEERS_MOST]; } PeerFlags;
typedef struct { char *at[PEERS_MOST]; int64_t bytes; } PeerRegion;   // the same array of every rank, as this process sees it
typedef struct {
    int ranks, rank;
    PeerRegion regions[PEER_REGIONS], own;   // own: staging, then flags
    int num_regions;
    char *memory;                        // what `own` is of this rank
    uint32_t calls;
    CUresult (*memory_operations)(CUstream, unsigned, CUstreamBatchMemOpParams *, unsigned);
} Peers;
// a tensor x (n) whose owned part begins at `begin` and has `count` numbers
typedef struct { void *x; int64_t n, begin, count; } PeerTensor;

// what the kernel adds up: `bytes` at `at` in this rank's array and at `staged` in each other rank's part of the staging
typedef struct { char *at; int64_t staged, bytes; } PeerRun;
typedef struct { PeerRun run[PEER_RUNS]; const char *staging; int64_t stride; int count, ranks, rank; } PeerSum;

// P: at least `ranks`; a thread has 8 loads of 16 bytes under way
template <typename T, int P> __global__ static void __launch_bounds__(PEER_THREADS, 1) peers_sum_kernel(const __grid_constant__ PeerSum s) {
    constexpr int V = 8 / P, N = 16 / (int)sizeof(T);
    constexpr int64_t TILE = (int64_t)PEER_THREADS * 16 * V;
    int64_t tile = blockIdx.x;
    for (int i = 0; i < s.count; i++) {
        const PeerRun run = s.run[i];
        const int64_t tiles = (run.bytes + TILE - 1) / TILE;
        for (; tile < tiles; tile += gridDim.x) {
            const int64_t first = tile * TILE + threadIdx.x * 16;
            Pack<T> x[V][P];
            #pragma unroll
            for (int v = 0; v < V; v++) {
                const int64_t at = first + v * PEER_THREADS * 16;
                #pragma unroll
                for (int r = 0; r < P; r++)
                    if (at < run.bytes && r < s.ranks) x[v][r] = load_pack_once((const T *)(r == s.rank ? run.at + at : s.staging + (r - (r > s.rank)) * s.stride + run.staged + at));
            }
            #pragma unroll
            for (int v = 0; v < V; v++) {
                const int64_t at = first + v * PEER_THREADS * 16;
                float sum[N];
                #pragma unroll
                for (int k = 0; k < N; k++) sum[k] = to_float(x[v][0].at[k]);
                #pragma unroll
                for (int r = 1; r < P; r++)
                    #pragma unroll
                    for (int k = 0; k < N; k++) if (r < s.ranks) sum[k] += to_float(x[v][r].at[k]);
                Pack<T> out;
                #pragma unroll
                for (int k = 0; k < N; k++) out.at[k] = from_float<T>(sum[k]);
                if (at < run.bytes) store_pack((T *)(run.at + at), out);
            }
        }
        tile -= tiles;
    }
}
template <typename T> static void peers_sum(const PeerSum *s, cudaStream_t stream) {
    if (s->ranks <= 2) peers_sum_kernel<T, 2><<<PEER_BLOCKS, PEER_THREADS, 0, stream>>>(*s);
    else if (s->ranks <= 4) peers_sum_kernel<T, 4><<<PEER_BLOCKS, PEER_THREADS, 0, stream>>>(*s);
    else peers_sum_kernel<T, 8><<<PEER_BLOCKS, PEER_THREADS, 0, stream>>>(*s);
    CUDA_CHECK(cudaGetLastError());
}

// The embedding's gradient: of its rows few are touched in a step, and nothing else runs while it is summed, so kernels may read what the other ranks have themselves.
// What this rank owns of x (V, C), numbers [begin, end): each row, or part of one, that any other rank has touched is summed, in rank order, over the ranks that
// touched it. What no rank touched is zero everywhere.
typedef struct { const char *x[PEERS_MOST]; const uint8_t *touched[PEERS_MOST]; char *out; int64_t begin, end, C; int ranks, rank; } PeerRows;
template <typename T> __global__ static void __launch_bounds__(256) peers_sum_rows_kernel(const __grid_constant__ PeerRows s) {
    constexpr int N = 16 / (int)sizeof(T);
    for (int64_t row = s.begin / s.C + blockIdx.x; row * s.C < s.end; row += gridDim.x) {
        unsigned mask = 0;
        #pragma unroll
        for (int r = 0; r < PEERS_MOST; r++) if (r < s.ranks && s.touched[r][row]) mask |= 1u << r;
        if ((mask & ~(1u << s.rank)) == 0) continue;
        const int64_t first = row * s.C > s.begin ? row * s.C : s.begin, end = (row + 1) * s.C < s.end ? (row + 1) * s.C : s.end;
        for (int64_t at = first + threadIdx.x * N; at < end; at += 256 * N) {
            Pack<T> x[PEERS_MOST];
            #pragma unroll
            for (int r = 0; r < PEERS_MOST; r++) if (mask >> r & 1) x[r] = load_pack_once((const T *)s.x[r] + at);
            float sum[N] = {};
            #pragma unroll
            for (int r = 0; r < PEERS_MOST; r++)
                #pragma unroll
                for (int k = 0; k < N; k++) if (mask >> r & 1) sum[k] += to_float(x[r].at[k]);
            Pack<T> out;
            #pragma unroll
            for (int k = 0; k < N; k++) out.at[k] = from_float<T>(sum[k]);
            store_pack((T *)s.out + at, out);
        }
    }
}

// Opens an array of every rank (bytes at x here) to all of them. Collective. False on every rank, with one's error, when one of them cannot.
static bool peers_open_region(Comm *c, PeerRegion *region, void *x, int64_t bytes, Error *e) {
    typedef struct { cudaIpcMemHandle_t handle; int64_t bytes; } Offer;
    Offer mine, all[PEERS_MOST];
    memset(&mine, 0, sizeof mine);
    memset(region, 0, sizeof *region);
    region->bytes = mine.bytes = bytes;
    cudaError_t status = cudaIpcGetMemHandle(&mine.handle, x);
    if (!comm_agree(c, status == cudaSuccess || fail(e, "rank %d: %s", comm_job_rank(c, c->rank), cudaGetErrorString(status)), e, "the GPUs' memory")) { cudaGetLastError(); return false; }
    comm_gather_bytes(c, &mine, all, (int64_t)sizeof mine, "the GPUs' memory", true);
    for (int r = 0; r < c->size && status == cudaSuccess; r++) {
        CHECK(all[r].bytes == bytes);
        if (r == c->rank) region->at[r] = (char *)x;
        else status = cudaIpcOpenMemHandle((void **)&region->at[r], all[r].handle, cudaIpcMemLazyEnablePeerAccess);
    }
    cudaGetLastError();   // an error here is not to be found later
    return comm_agree(c, status == cudaSuccess || fail(e, "rank %d: %s", comm_job_rank(c, c->rank), cudaGetErrorString(status)), e, "the GPUs' memory");
}
static void peers_close_region(const Peers *p, PeerRegion *region) {
    for (int r = 0; r < p->ranks; r++) if (r != p->rank && region->at[r]) cudaIpcCloseMemHandle(region->at[r]);
    memset(region, 0, sizeof *region);
}
static PeerFlags *peer_flags(const Peers *p, int r) { return (PeerFlags *)(p->own.at[r] + PEER_STAGING); }
// on `stream`: this call's number into everybody's flags; wait: and what follows waits for everybody's in its own
static CUresult peers_say(const Peers *p, int what, bool wait, cudaStream_t stream) {
    CUstreamBatchMemOpParams o[2 * PEERS_MOST];
    unsigned n = 0;
    memset(o, 0, sizeof o);
    for (int turn = 0; turn < (wait ? 2 : 1); turn++)
        for (int k = 1; k < p->ranks; k++) {
            const int r = (p->rank + k) % p->ranks;
            CUstreamBatchMemOpParams *q = &o[n++];
            if (turn == 0) {
                q->operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
                q->writeValue.address = (CUdeviceptr)&peer_flags(p, r)->at[what][p->rank];
                q->writeValue.value = p->calls;
            } else {
                q->operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
                q->waitValue.address = (CUdeviceptr)&peer_flags(p, p->rank)->at[what][r];
                q->waitValue.value = p->calls;
                q->waitValue.flags = CU_STREAM_WAIT_VALUE_GEQ;   // of the difference: numbers may wrap
            }
        }
    return p->memory_operations(stream, n, o, 0);
}
// what follows on `stream` waits until all ranks' streams have come here
static void peers_meet(const Peers *p, int what, cudaStream_t stream) {
    const CUresult status = peers_say(p, what, true, stream);
    if (status != CUDA_SUCCESS) die("cuStreamBatchMemOp: error %d ---> --links nccl does without", (int)status);
}
// Memory that could be opened need not carry: over PCIe behind an IOMMU reads of a peer may bring anything, and nothing is said. So a mebibyte and a flag go from each to each and
// are looked at. Collective.
static bool peers_try(Peers *p, Comm *c, cudaStream_t stream, Error *e) {
    enum { WORDS = 1 << 18 };
    uint32_t *x = (uint32_t *)xmalloc(WORDS * 4);
    const char *wrong = NULL;
    PeerFlags seen;
    for (int i = 0; i < WORDS; i++) x[i] = random_bits((uint64_t)p->rank, (uint64_t)i);
    // the host is not to go on when its pages have been read, as cudaMemcpy does, but when the words are there
    if (cudaMemcpyAsync(p->memory, x, WORDS * 4, cudaMemcpyHostToDevice, stream) != cudaSuccess || cudaStreamSynchronize(stream) != cudaSuccess) wrong = "a copy failed";
    comm_barrier(c, "trying the GPUs' memory", true);
    for (int r = 0; r < p->ranks && !wrong; r++) {
        if (r == p->rank) continue;
        if (cudaMemcpyAsync(p->memory + WORDS * 4, p->own.at[r], WORDS * 4, cudaMemcpyDeviceToDevice, stream) != cudaSuccess || cudaStreamSynchronize(stream) != cudaSuccess
            || cudaMemcpy(x, p->memory + WORDS * 4, WORDS * 4, cudaMemcpyDeviceToHost) != cudaSuccess) wrong = "a copy between GPUs failed";
        for (int i = 0; i < WORDS && !wrong; i++) if (x[i] != random_bits((uint64_t)r, (uint64_t)i)) wrong = "a copy between GPUs brought something else";
    }
    free(x);
    p->calls = 1;
    if (!wrong && (peers_say(p, PEERS_BEGUN, false, stream) != CUDA_SUCCESS || cudaStreamSynchronize(stream) != cudaSuccess)) wrong = "a flag could not be written";
    comm_barrier(c, "trying the GPUs' memory", true);
    if (!wrong && cudaMemcpy(&seen, p->memory + PEER_STAGING, sizeof seen, cudaMemcpyDeviceToHost) != cudaSuccess) wrong = "a copy failed";
    for (int r = 0; r < p->ranks && !wrong; r++) if (r != p->rank && seen.at[PEERS_BEGUN][r] != 1) wrong = "a flag did not arrive";
    cudaGetLastError();
    return comm_agree(c, !wrong || fail(e, "rank %d: %s", comm_job_rank(c, c->rank), wrong), e, "trying the GPUs' memory");
}
// NVLink between all of them? Only GPUs that it joins change each other's memory atomically. Collective.
static bool peers_nvlink(Comm *c, Error *e) {
    typedef struct { char bus[32]; } Place;
    Place mine, all[PEERS_MOST];
    int device;
    bool good = true;
    memset(&mine, 0, sizeof mine);
    CUDA_CHECK(cudaGetDevice(&device));
    CUDA_CHECK(cudaDeviceGetPCIBusId(mine.bus, (int)sizeof mine.bus, device));
    comm_gather_bytes(c, &mine, all, (int64_t)sizeof mine, "the ranks' GPUs", true);
    for (int r = 0; r < c->size; r++) {
        int other, atomics = 0;
        if (r == c->rank) continue;
        good = good && cudaDeviceGetByPCIBusId(&other, all[r].bus) == cudaSuccess && cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, device, other) == cudaSuccess && atomics;
    }
    cudaGetLastError();   // a GPU that this process does not see
    return comm_agree(c, good || fail(e, "not all GPUs are joined by NVLink and seen by every process"), e, "the ranks' GPUs");
}

// Closes what was opened; then, after a barrier, everybody may free what is his. Collective.
static void peers_end(Peers *p, Comm *c) {
    for (int i = 0; i < p->num_regions; i++) peers_close_region(p, &p->regions[i]);
    peers_close_region(p, &p->own);
    comm_barrier(c, "closing the GPUs' memory", true);
    if (p->memory) cudaFree(p->memory);
    memset(p, 0, sizeof *p);
}
// Can the GPUs of these ranks read each other's memory? Then staging and flags are there. nvlink: only over that; elsewhere nobody has measured what is faster.
// Collective. False on every rank, with the reason
static bool peers_begin(Peers *p, Comm *c, bool nvlink, cudaStream_t stream, Error *e) {
    int *hosts = (int *)xmalloc(c->size * (int64_t)sizeof(int));
    memset(p, 0, sizeof *p);
    comm_gather_bytes(c, &c->host, hosts, (int64_t)sizeof(int), "the ranks' hosts", true);
    const bool together = shard_astride(hosts, c->size, c->size) < 0;
    free(hosts);
    if (!together) return fail(e, "ranks on several hosts");
    if (c->size > PEERS_MOST) return fail(e, "more than %d ranks share the state", PEERS_MOST);
    if (nvlink && !peers_nvlink(c, e)) return false;
    p->ranks = c->size; p->rank = c->rank;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t status = cudaGetDriverEntryPointByVersion("cuStreamBatchMemOp", (void **)&p->memory_operations, 12000, cudaEnableDefault, &found);
    cudaGetLastError();
    if (!comm_agree(c, (status == cudaSuccess && found == cudaDriverEntryPointSuccess) || fail(e, "the driver has no cuStreamBatchMemOp"), e, "the GPUs' abilities")) return false;
    CUDA_CHECK(cudaMalloc((void **)&p->memory, (size_t)PEER_STAGING + sizeof(PeerFlags)));
    CUDA_CHECK(cudaMemset(p->memory + PEER_STAGING, 0, sizeof(PeerFlags)));
    CUDA_CHECK(cudaDeviceSynchronize());
    if (peers_open_region(c, &p->own, p->memory, PEER_STAGING + (int64_t)sizeof(PeerFlags), e) && peers_try(p, c, stream, e)) return true;
    peers_end(p, c);
    return false;
}
// Opens one more array of all ranks (bytes at x, cudaMalloc's) to each other. Collective.
static bool peers_open(Peers *p, Comm *c, void *x, int64_t bytes, Error *e) {
    CHECK(p->num_regions < PEER_REGIONS);
    return peers_open_region(c, &p->regions[p->num_regions++], x, bytes, e);
}
// where rank r has what this rank has at x; NULL: not in an array that was opened
static char *peer_address(const Peers *p, const void *x, int r) {
    for (int i = 0; i < p->num_regions; i++) {
        const int64_t offset = (const char *)x - p->regions[i].at[p->rank];
        if (offset >= 0 && offset < p->regions[i].bytes) return p->regions[i].at[r] + offset;
    }
    return NULL;
}
// What this rank owns of n tensors in opened arrays becomes the sum over all ranks, in rank order; the rest is not to be used any more. bytes: 4 fp32, 2 bf16;
// owned parts begin at multiples of 16 bytes and are multiples of that
static void peers_reduce(Peers *p, const PeerTensor *x, int n, int bytes, cudaStream_t stream) {
    const int64_t room = PEER_STAGING / (p->ranks - 1) / 256 * 256;
    PeerSum s;
    int64_t used = 0;
    memset(&s, 0, sizeof s);
    s.staging = p->own.at[p->rank]; s.stride = room; s.ranks = p->ranks; s.rank = p->rank;
    auto flush = [&] {
        for (int k = 1; k < p->ranks; k++) {
            const int r = (p->rank + k) % p->ranks;   // not everybody the same one first
            for (int i = 0; i < s.count; i++)
                CUDA_CHECK(cudaMemcpyAsync(p->own.at[p->rank] + (r - (r > p->rank)) * room + s.run[i].staged, peer_address(p, s.run[i].at, r), (size_t)s.run[i].bytes, cudaMemcpyDeviceToDevice, stream));
        }
        if (s.count > 0) { if (bytes == 4) peers_sum<float>(&s, stream); else peers_sum<bf16>(&s, stream); }
        s.count = 0;
        used = 0;
    };
    p->calls++;
    peers_meet(p, PEERS_BEGUN, stream);
    for (int i = 0; i < n; i++)
        for (int64_t at = 0, all = x[i].count * bytes; at < all; ) {
            if (s.count == PEER_RUNS || used == room) flush();
            const int64_t some = all - at < room - used ? all - at : room - used;
            s.run[s.count++] = {(char *)x[i].x + x[i].begin * bytes + at, used, some};
            used += (some + 255) / 256 * 256;
            at += some;
        }
    flush();
    peers_meet(p, PEERS_DONE, stream);
}
// The same for x (V, C) in an opened array, of which only rows v with touched[v] (V; opened too) are not zero on a rank.
static void peers_reduce_rows(Peers *p, const PeerTensor *x, int64_t C, const uint8_t *touched, int bytes, cudaStream_t stream) {
    const int64_t V = x->n / C, room = (V + 255) / 256 * 256;
    PeerRows s;
    memset(&s, 0, sizeof s);
    CHECK(room * (p->ranks - 1) <= PEER_STAGING && C * bytes % 16 == 0);
    p->calls++;
    peers_meet(p, PEERS_BEGUN, stream);
    for (int r = 0; r < p->ranks; r++) {
        char *staged = p->own.at[p->rank] + (r - (r > p->rank)) * room;
        s.x[r] = peer_address(p, x->x, r);
        s.touched[r] = r == p->rank ? touched : (const uint8_t *)staged;
        if (r != p->rank) CUDA_CHECK(cudaMemcpyAsync(staged, peer_address(p, touched, r), (size_t)V, cudaMemcpyDeviceToDevice, stream));
    }
    s.out = (char *)x->x; s.begin = x->begin; s.end = x->begin + x->count; s.C = C; s.ranks = p->ranks; s.rank = p->rank;
    const int blocks = 4 * device_multiprocessors();
    if (bytes == 4) peers_sum_rows_kernel<float><<<blocks, 256, 0, stream>>>(s); else peers_sum_rows_kernel<bf16><<<blocks, 256, 0, stream>>>(s);
    CUDA_CHECK(cudaGetLastError());
    peers_meet(p, PEERS_DONE, stream);
}
// n tensors in opened arrays, of which every rank has what it owns in its place: all of them on every rank
static void peers_gather(Peers *p, const PeerTensor *x, int n, int bytes, Comm *c, cudaStream_t stream) {
    p->calls++;
    peers_meet(p, PEERS_BEGUN, stream);
    for (int k = 1; k < p->ranks; k++) {
        const int r = (p->rank + k) % p->ranks;
        for (int i = 0; i < n; i++) {
            const int64_t part = shard_part(c, x[i].n), begin = r * part, count = r == p->ranks - 1 ? x[i].n - begin : part;
            char *to = (char *)x[i].x + begin * bytes;
            if (count > 0) CUDA_CHECK(cudaMemcpyAsync(to, peer_address(p, to, r), (size_t)(count * bytes), cudaMemcpyDeviceToDevice, stream));
        }
    }
    peers_meet(p, PEERS_DONE, stream);
}
#endif
