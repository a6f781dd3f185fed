// links.cu: the ladder of findap/kernels/peers.cuh: sums of gradients among the GPUs of one host. Several processes, started by mpirun:
//
//     mpirun -np 4 build/dev/links            every version alone: a layer of Llama-3-8B, 872 MB of fp32
//     mpirun -np 4 build/dev/links beside     ... and what matrix products lose to it, and it to them
//     mpirun -np 4 build/dev/links check      the final version, forty trials, sums, gathers and rows, over odd sizes: the bits of a sum in rank order on the host. Exit status 1 if one fails
//
// What must move: (P-1)/P of the bytes, into each GPU; "bus" divides that by the time, as NCCL's own tests do.
#include "ladder.cuh"                       // defines: normal_kernel, expect, check_result
#include "../findap/kernels/nccl.cuh"       // defines: Links, links_*, peers_*
#include "../findap/kernels/matmul.cuh"     // defines: matmul_*, gemm_*
#include "../findap/kernels/swiglu.cuh"     // defines: swiglu_backward
#include "../findap/kernels/sm90.cuh"       // defines: bulk_load, mbar_*
#include <functional>

// ---------------------------------------------------------------------------------------------------------------------
// versions 2 and 3: kernels that read the peers' memory themselves. Both begin and end with all ranks meeting.

typedef struct { const char *x[PEERS_MOST]; PeerFlags *flags[PEERS_MOST]; uint32_t *blocks; int64_t begin, bytes; int ranks, rank; } Pull;
DEVICE void say(uint32_t *flag, uint32_t x) { asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(x) : "memory"); }
DEVICE void wait_until(const uint32_t *flag, uint32_t x) {
    uint32_t seen;
    for (;;) {
        asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
        if ((int32_t)(seen - x) >= 0) return;
        __nanosleep(64);
    }
}
DEVICE void pull_begin(const Pull &p, uint32_t call) {
    if (blockIdx.x == 0 && threadIdx.x < p.ranks) { __threadfence_system(); say(&p.flags[threadIdx.x]->at[PEERS_BEGUN][p.rank], call); }
    if (threadIdx.x < p.ranks) wait_until(&p.flags[p.rank]->at[PEERS_BEGUN][threadIdx.x], call);
    __syncthreads();
}
DEVICE void pull_end(const Pull &p, uint32_t call) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence_system();
        last = atomicAdd(p.blocks, 1u) == gridDim.x - 1;
        if (last) *p.blocks = 0;
    }
    __syncthreads();
    if (last && threadIdx.x < p.ranks) {
        __threadfence_system();
        say(&p.flags[threadIdx.x]->at[PEERS_DONE][p.rank], call);
        wait_until(&p.flags[p.rank]->at[PEERS_DONE][threadIdx.x], call);
    }
}
DEVICE void add(float (&sum)[4], const Pack<float> &x) {
    #pragma unroll
    for (int k = 0; k < 4; k++) sum[k] += x.at[k];
}
// 2: ordinary loads, eight of 16 bytes under way in a thread
template <int P> __global__ static void __launch_bounds__(512) pull_loads_kernel(const __grid_constant__ Pull p, uint32_t call) {
    constexpr int V = 8 / P;
    pull_begin(p, call);
    for (int64_t first = (blockIdx.x * 512ll * V + threadIdx.x) * 16; first < p.bytes; first += gridDim.x * 512ll * 16 * V) {
        Pack<float> x[V][P];
        #pragma unroll
        for (int v = 0; v < V; v++)
            #pragma unroll
            for (int r = 0; r < P; r++)
                if (r < p.ranks && first + v * 8192 < p.bytes) x[v][r] = load_pack_once((const float *)(p.x[r] + p.begin + first + v * 8192));
        #pragma unroll
        for (int v = 0; v < V; v++) {
            float sum[4] = {};
            #pragma unroll
            for (int r = 0; r < P; r++) if (r < p.ranks) add(sum, x[v][r]);
            if (first + v * 8192 < p.bytes) store_pack((float *)(p.x[p.rank] + p.begin + first + v * 8192), Pack<float>{sum[0], sum[1], sum[2], sum[3]});
        }
    }
    pull_end(p, call);
}
// 3: TMA fetches into shared memory, 192 KB under way in a block
enum { PULL_THREADS = 256, PULL_STAGES = 6, PULL_STAGE = 32768 };
__global__ static void __launch_bounds__(PULL_THREADS, 1) pull_tma_kernel(const __grid_constant__ Pull p, uint32_t call) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(128) char stage[];   // (PULL_STAGES, ranks, tile)
    __shared__ uint64_t full[PULL_STAGES];
    const int tile = PULL_STAGE / p.ranks / 128 * 128;
    if (threadIdx.x == 0) {
        for (int i = 0; i < PULL_STAGES; i++) mbar_init(&full[i], 1);
        fence_mbar_init();
    }
    pull_begin(p, call);
    auto at = [&](int64_t i) { return (blockIdx.x + i * gridDim.x) * tile; };   // of this block's i-th tile
    auto length = [&](int64_t i) { return (int)(p.bytes - at(i) < tile ? p.bytes - at(i) : tile); };
    auto fetch = [&](int64_t i) {
        const int s = (int)(i % PULL_STAGES);
        if (at(i) >= p.bytes) return;
        mbar_arrive_tx(&full[s], (uint32_t)(length(i) * p.ranks));
        for (int k = 0; k < p.ranks; k++) {
            const int r = (p.rank + k) % p.ranks;   // not everybody the same one first
            bulk_load(stage + (s * p.ranks + r) * tile, p.x[r] + p.begin + at(i), (uint32_t)length(i), &full[s]);
        }
    };
    if (threadIdx.x == 0) {
        asm volatile("fence.proxy.async;" ::: "memory");   // what the flags promised holds for TMA's reads too
        for (int i = 0; i < PULL_STAGES; i++) fetch(i);
    }
    for (int64_t i = 0; at(i) < p.bytes; i++) {
        const int s = (int)(i % PULL_STAGES);
        mbar_wait(&full[s], (uint32_t)(i / PULL_STAGES) & 1);
        for (int k = threadIdx.x * 16; k < length(i); k += PULL_THREADS * 16) {
            float sum[4] = {};
            for (int r = 0; r < p.ranks; r++) add(sum, load_pack((const float *)(stage + (s * p.ranks + r) * tile + k)));
            store_pack((float *)(p.x[p.rank] + p.begin + at(i) + k), Pack<float>{sum[0], sum[1], sum[2], sum[3]});
        }
        __syncthreads();   // the stage has been read
        if (threadIdx.x == 0) { fence_async_smem(); fetch(i + PULL_STAGES); }
    }
    pull_end(p, call);
#endif
}
static uint32_t *pull_blocks;   // how many blocks have ended
static void pull(Links *k, int version, int blocks, float *x, int64_t n) {
    Pull p;
    memset(&p, 0, sizeof p);
    p.ranks = k->shard->size; p.rank = k->shard->rank; p.blocks = pull_blocks;
    for (int r = 0; r < p.ranks; r++) { p.x[r] = peer_address(&k->peers, x, r); p.flags[r] = peer_flags(&k->peers, r); }
    p.begin = shard_begin(k->shard, n) * 4; p.bytes = (shard_end(k->shard, n) - shard_begin(k->shard, n)) * 4;
    const uint32_t call = ++k->peers.calls;
    if (version == 3) {
        CUDA_CHECK(cudaFuncSetAttribute(pull_tma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, PULL_STAGES * PULL_STAGE));
        pull_tma_kernel<<<blocks, PULL_THREADS, PULL_STAGES * PULL_STAGE, k->stream>>>(p, call);
    }
    else if (p.ranks <= 2) pull_loads_kernel<2><<<blocks, 512, 0, k->stream>>>(p, call);
    else if (p.ranks <= 4) pull_loads_kernel<4><<<blocks, 512, 0, k->stream>>>(p, call);
    else pull_loads_kernel<8><<<blocks, 512, 0, k->stream>>>(p, call);
    CUDA_CHECK(cudaGetLastError());
}

// ---------------------------------------------------------------------------------------------------------------------
// the check

static char notes[8192];
static void take(Links *k, char *x, int64_t n, int bytes) { links_take(k, x, x + shard_begin(k->shard, n) * bytes, n); }
template <typename T> static std::vector<T> numbers_of(int64_t n, uint64_t seed) {
    Array<T> x(n, seed, 1.0f);
    CUDA_CHECK(cudaDeviceSynchronize());
    return x.get();
}
template <typename T> static void check_sums(Links *k, Comm *c, const char *type) {
    const int64_t sizes[] = {8, 256 * c->size, 256 * c->size + 40, 1000000, 3000008, 77ll << 20}, all = 90ll << 20;
    const int bytes = (int)sizeof(T);
    T *x;
    CUDA_CHECK(cudaMalloc((void **)&x, (size_t)all * sizeof(T)));
    void *const arrays[] = {x};
    const int64_t room[] = {all * bytes};
    links_open(k, arrays, room, 1, notes, sizeof notes);
    for (int turn = 0; turn < 30; turn++) {   // 28 of them only follow each other as fast as they can
        int64_t at = 0;
        for (int64_t n : sizes) { normal_kernel<<<1024, 256, 0, k->stream>>>(x + at, n, (uint64_t)(turn * 64 + c->rank), 1.0f); take(k, (char *)(x + at), n, bytes); at += n; }
        links_reduce(k, bytes, NULL, 0);
        at = 0;
        for (int64_t n : sizes) { take(k, (char *)(x + at), n, bytes); at += n; }
        links_gather(k, bytes);
        if (turn > 0 && turn < 29) continue;
        CUDA_CHECK(cudaStreamSynchronize(k->stream));
        at = 0;
        for (int64_t n : sizes) {
            std::vector<float> want((size_t)n);
            for (int r = 0; r < c->size; r++) {
                const std::vector<T> part = numbers_of<T>(n, (uint64_t)(turn * 64 + r));
                for (int64_t i = 0; i < n; i++) want[(size_t)i] = r == 0 ? to_float(part[(size_t)i]) : want[(size_t)i] + to_float(part[(size_t)i]);
            }
            std::vector<T> got((size_t)n);
            CUDA_CHECK(cudaMemcpy(got.data(), x + at, (size_t)n * sizeof(T), cudaMemcpyDeviceToHost));
            int64_t wrong = 0;
            for (int64_t i = 0; i < n; i++) wrong += to_float(got[(size_t)i]) != to_float(from_float<T>(want[(size_t)i]));
            char shape[96];
            snprintf(shape, sizeof shape, "%s, %lld of %d ranks, turn %d: %lld wrong", type, (long long)n, c->size, turn, (long long)wrong);
            expect(wrong == 0, "sum and gather", shape);
            at += n;
        }
    }
    peers_close_region(&k->peers, &k->peers.regions[--k->peers.num_regions]);
    comm_barrier(c, "closing", true);
    CUDA_CHECK(cudaFree(x));
}
// Opened, tried and closed over and over: a trial that fails by chance would take NCCL without need
static void check_trials(Links *k, Comm *c) {
    enum { TIMES = 40 };
    int failed = 0;
    Error e = {""};
    for (int i = 0; i < TIMES; i++) {
        Peers p;
        float *x;
        CUDA_CHECK(cudaMalloc((void **)&x, 4096));
        const bool begun = peers_begin(&p, c, true, k->stream, &e);
        failed += !begun || !peers_open(&p, c, x, 4096, &e);
        if (begun) peers_end(&p, c);
        CUDA_CHECK(cudaFree(x));
    }
    char what[sizeof e.text + 64];
    snprintf(what, sizeof what, "%d of %d failed%s%s", failed, (int)TIMES, failed ? ": " : "", e.text);
    expect(failed == 0, "trials", what);
}
// rows of V x C, of which each rank touched its own
template <typename T> static void check_rows(Links *k, Comm *c, int64_t V, int64_t C, const char *type) {
    T *x;
    uint8_t *touched;
    CUDA_CHECK(cudaMalloc((void **)&x, (size_t)(V * C) * sizeof(T)));
    CUDA_CHECK(cudaMalloc((void **)&touched, (size_t)V));
    void *const arrays[] = {x, touched};
    const int64_t room[] = {V * C * (int64_t)sizeof(T), V};
    links_open(k, arrays, room, 2, notes, sizeof notes);
    std::vector<float> want((size_t)(V * C), 0.0f);
    for (int r = 0; r < c->size; r++) {
        std::vector<T> part = numbers_of<T>(V * C, (uint64_t)r);
        std::vector<uint8_t> rows((size_t)V);
        for (int64_t v = 0; v < V; v++) {
            rows[(size_t)v] = random_bits(99, (uint64_t)(v * 64 + r)) % 4 == 0 && v % 5 != 0;
            for (int64_t i = v * C; i < (v + 1) * C; i++) { if (!rows[(size_t)v]) part[(size_t)i] = from_float<T>(0.0f); want[(size_t)i] += to_float(part[(size_t)i]); }
        }
        if (r != c->rank) continue;
        CUDA_CHECK(cudaMemcpy(x, part.data(), part.size() * sizeof(T), cudaMemcpyHostToDevice));
        CUDA_CHECK(cudaMemcpy(touched, rows.data(), rows.size(), cudaMemcpyHostToDevice));
    }
    CUDA_CHECK(cudaDeviceSynchronize());
    take(k, (char *)x, V * C, (int)sizeof(T));
    links_reduce(k, (int)sizeof(T), touched, C);
    CUDA_CHECK(cudaStreamSynchronize(k->stream));
    std::vector<T> got(want.size());
    CUDA_CHECK(cudaMemcpy(got.data(), x, got.size() * sizeof(T), cudaMemcpyDeviceToHost));
    int64_t wrong = 0;
    for (int64_t i = shard_begin(c, V * C); i < shard_end(c, V * C); i++) wrong += to_float(got[(size_t)i]) != to_float(from_float<T>(want[(size_t)i]));
    char shape[96];
    snprintf(shape, sizeof shape, "%s, %lld x %lld of %d ranks: %lld wrong", type, (long long)V, (long long)C, c->size, (long long)wrong);
    expect(wrong == 0, "rows", shape);
    for (int i = 0; i < 2; i++) peers_close_region(&k->peers, &k->peers.regions[--k->peers.num_regions]);
    comm_barrier(c, "closing", true);
    CUDA_CHECK(cudaFree(x)); CUDA_CHECK(cudaFree(touched));
}

// ---------------------------------------------------------------------------------------------------------------------
// times

static const int64_t LAYER = 218112000;   // numbers of a layer of Llama-3-8B
enum { LAYERS = 4 };
struct Version { const char *name; std::function<void(int)> run; };
static double median(std::vector<float> t) { std::sort(t.begin(), t.end()); return t[t.size() / 2]; }

int main(int argc, char **argv) {
    Comm c, self;
    Error e;
    Links copies, nccl;
    program_name = "links";
    const bool check = argc > 1 && strcmp(argv[1], "check") == 0, beside = argc > 1 && strcmp(argv[1], "beside") == 0;
    if (argc > 2 || (argc == 2 && !check && !beside)) die("expected nothing, beside or check");
    if (!comm_begin(&c, 60, &e)) die("%s", e.text);
    if (c.size < 2) die("one rank ---> mpirun -np 2 %s", argv[0]);
    memset(&self, 0, sizeof self);
    self.size = self.stride = 1;
    CUDA_CHECK(cudaSetDevice(c.local_rank));
    links_create(&copies, &c, &c, &self, "copies", notes, sizeof notes);
    int status = 0;
    if (check) {
        check_trials(&copies, &c);
        check_sums<float>(&copies, &c, "fp32");
        check_sums<bf16>(&copies, &c, "bf16");
        check_rows<float>(&copies, &c, 3001, 200, "fp32");
        check_rows<float>(&copies, &c, 12000, 896, "fp32");
        check_rows<bf16>(&copies, &c, 3001, 200, "bf16");
        status = check_result();
    } else {
        float *x;
        CUDA_CHECK(cudaMalloc((void **)&x, LAYERS * LAYER * sizeof(float)));
        CUDA_CHECK(cudaMalloc((void **)&pull_blocks, sizeof *pull_blocks));
        CUDA_CHECK(cudaMemset(pull_blocks, 0, sizeof *pull_blocks));
        normal_kernel<<<1024, 256>>>(x, LAYERS * LAYER, (uint64_t)c.rank, 1e-3f);
        void *const arrays[] = {x};
        const int64_t room[] = {LAYERS * LAYER * 4};
        links_open(&copies, arrays, room, 1, notes, sizeof notes);
        links_create(&nccl, &c, &c, &self, "nccl", notes, sizeof notes);
        auto reduce = [&](Links *k, int i) { take(k, (char *)(x + i % LAYERS * LAYER), LAYER, 4); links_reduce(k, 4, NULL, 0); };
        std::vector<Version> versions = {{"1: NCCL's ring", [&](int i) { reduce(&nccl, i); }}};
        for (int blocks : {8, 16, 24}) {
            static char names[2][3][64];
            for (int v = 2; v <= 3; v++) {
                char *name = names[v - 2][blocks / 8 - 1];
                snprintf(name, 64, "%d: %s by %d blocks", v, v == 2 ? "loads from the peers" : "TMA from the peers", blocks);
                if (v == 2 || device_is_hopper()) versions.push_back({name, [&, v, blocks](int i) { pull(&copies, v, blocks, x + i % LAYERS * LAYER, LAYER); }});
            }
        }
        versions.push_back({"4: copy engines, then a sum", [&](int i) { reduce(&copies, i); }});
        cudaEvent_t a, b, ticks[160];
        CUDA_CHECK(cudaEventCreate(&a)); CUDA_CHECK(cudaEventCreate(&b));
        for (cudaEvent_t &t : ticks) CUDA_CHECK(cudaEventCreate(&t));
        for (const Version &v : versions) {
            std::vector<float> t;
            cudaStream_t s = v.name[0] == '1' ? nccl.stream : copies.stream;
            for (int i = 0; i < 12; i++) {
                float ms;
                CUDA_CHECK(cudaDeviceSynchronize());
                comm_barrier(&c, "the next", false);
                CUDA_CHECK(cudaEventRecord(a, s));
                v.run(i);
                CUDA_CHECK(cudaEventRecord(b, s));
                CUDA_CHECK(cudaEventSynchronize(b));
                CUDA_CHECK(cudaEventElapsedTime(&ms, a, b));
                if (i >= 2) t.push_back(ms);
            }
            if (c.rank == 0) printf("%-36s %7.3f ms  bus %4.0f GB/s\n", v.name, median(t), (double)LAYER * 4 * (c.size - 1) / c.size / median(t) / 1e6);
        }
        if (beside) {   // some of a layer's backward pass, over and over, on a stream of its own
            const int64_t N = 8192, C = 4096, F = 14336;
            cudaStream_t s;
            Gemm g;
            CUDA_CHECK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
            gemm_create(&g);
            Array<bf16> down(C * F, 1, 0.02f), gate(2 * C * F, 2, 0.02f), act(N * F, 3, 1.0f), dact(N * F, 4, 1.0f), gate_up(2 * N * F, 5, 1.0f), dgate_up(2 * N * F, 6, 1.0f), dy(N * C, 7, 1.0f), dx(N * C, 8, 1.0f);
            Array<float> dw(2 * C * F, 9, 0.0f), dw2(2 * C * F, 10, 0.0f);
            Array<int> differs(1);
            const struct { GemmShape shape; const char *name; } shapes[] = {{shape_dinput(N, F, C, C, false), "down dinput"}, {shape_dweight(N, F, C, C, true), "down dweight"},
                {shape_dinput(N, C, 2 * F, 2 * F, false), "gate, up dinput"}, {shape_dweight(N, C, 2 * F, 2 * F, true), "gate, up dweight"}};
            for (const auto &q : shapes) gemm_tune(&g, &q.shape, gate.at, gate_up.at, gate_up.at, dw.at, dw2.at, differs.at, q.name, notes, sizeof notes, s);
            auto pass = [&] {
                matmul_backward_input(&g, dact.at, dy.at, down.at, false, N, F, C, C, s);
                swiglu_backward(dgate_up.at, act.at, dact.at, gate_up.at, N, F, s);
                matmul_backward_weight(&g, dw.at, dy.at, act.at, true, N, F, C, C, s);
                matmul_backward_input(&g, dx.at, dgate_up.at, gate.at, false, N, C, 2 * F, 2 * F, s);
                matmul_backward_weight(&g, dw.at, dgate_up.at, dx.at, true, N, C, 2 * F, 2 * F, s);
            };
            versions.insert(versions.begin(), {"nothing", [](int) {}});
            for (int i = 0; i < 400; i++) pass();   // as warm as training
            double alone = 0;
            for (const Version &v : versions) {
                enum { MOVES = 150, PASSES = 20 };
                cudaStream_t moving = v.name[0] == '1' ? nccl.stream : copies.stream;
                for (int i = 0; i < 50; i++) pass();
                CUDA_CHECK(cudaDeviceSynchronize());
                comm_barrier(&c, "the next", false);
                for (int i = 0; i < MOVES; i++) {
                    v.run(i);
                    CUDA_CHECK(cudaEventRecord(ticks[i], moving));
                    if (i != 1) continue;
                    CUDA_CHECK(cudaStreamWaitEvent(s, ticks[1], 0));
                    CUDA_CHECK(cudaEventRecord(a, s));
                    for (int j = 0; j < PASSES; j++) pass();
                    CUDA_CHECK(cudaEventRecord(b, s));
                }
                CUDA_CHECK(cudaDeviceSynchronize());
                float ms, since;
                int moves = 0;
                CUDA_CHECK(cudaEventElapsedTime(&ms, a, b));
                for (int i = 2; i < MOVES; i++) { CUDA_CHECK(cudaEventElapsedTime(&since, a, ticks[i])); moves += since < ms; }
                if (alone == 0) alone = ms / PASSES;
                if (c.rank != 0) continue;
                if (v.name == versions[0].name) printf("products alone %.3f ms\n", alone);
                else printf("%-36s products %.3f ms; a layer's sum %.3f ms, in which they lose %.3f%s\n", v.name, ms / PASSES, ms / moves, ms / moves * (1 - alone * PASSES / ms), moves >= MOVES - 2 ? " (the sums ended first)" : "");
            }
        }
        links_free(&nccl);
    }
    links_free(&copies);
    comm_end(&c);
    return status;
}
