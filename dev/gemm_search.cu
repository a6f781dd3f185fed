// gemm_search.cu: does cuBLASLt have faster algorithms for our GEMMs than those that its heuristic proposes? Tries every tile, cluster, stage
// count and custom option of every algorithm that takes the shape, in a short burst, then the best of them and the heuristic's in turn and without
// a pause, as training runs. One line a shape and candidate.
//
//     build/dev/gemm_search [tokens]          shapes of Llama-3-8B
//     build/dev/gemm_search 256 generate      what so many answers ask for at a time: unsplit sums, each launch with other weights, as layer follows layer
//     build/dev/gemm_search [tokens] energy   what the tuner's fastest candidates cost at the card's power limit: time and joules (NVML's counter) of 0.4 s
//                                             of each, twice, after 0.15 s to settle
#include "findap/kernels/matmul.cuh"
#include <algorithm>
#include <dlfcn.h>   // defines: dlopen
#include <vector>

typedef struct { int (*energy)(void *, unsigned long long *); void *device; } Meter;
static bool meter_open(Meter *m) {
    void *lib = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!lib) return false;
    auto init = (int (*)())dlsym(lib, "nvmlInit_v2");
    auto handle = (int (*)(unsigned, void **))dlsym(lib, "nvmlDeviceGetHandleByIndex_v2");
    m->energy = (int (*)(void *, unsigned long long *))dlsym(lib, "nvmlDeviceGetTotalEnergyConsumption");
    return init && handle && m->energy && init() == 0 && handle(0, &m->device) == 0;
}

typedef struct { cublasLtMatmulAlgo_t algorithm; float ms; bool proposed; } Candidate;

static void describe(const cublasLtMatmulAlgo_t *a, char *text) {
    int id = 0, tile = 0, split = 0, custom = 0, swizzle = 0, stages = 0;
    uint16_t inner = 0, cluster = 0;
    cublasLtMatmulAlgoConfigGetAttribute(a, CUBLASLT_ALGO_CONFIG_ID, &id, sizeof id, NULL);
    cublasLtMatmulAlgoConfigGetAttribute(a, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile, sizeof tile, NULL);
    cublasLtMatmulAlgoConfigGetAttribute(a, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split, sizeof split, NULL);
    cublasLtMatmulAlgoConfigGetAttribute(a, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, &custom, sizeof custom, NULL);
    cublasLtMatmulAlgoConfigGetAttribute(a, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, &swizzle, sizeof swizzle, NULL);
    cublasLtMatmulAlgoConfigGetAttribute(a, CUBLASLT_ALGO_CONFIG_STAGES_ID, &stages, sizeof stages, NULL);
    cublasLtMatmulAlgoConfigGetAttribute(a, CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, &inner, sizeof inner, NULL);
    cublasLtMatmulAlgoConfigGetAttribute(a, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &cluster, sizeof cluster, NULL);
    sprintf(text, "id %d tile %d stages %d cluster %d inner %d custom %d swizzle %d split %d", id, tile, stages, cluster, inner, custom, swizzle, split);
}

int main(int argc, char **argv) {
    program_name = "gemm_search";
    const bool by_energy = argc > 2 && strcmp(argv[2], "energy") == 0, generates = argc > 2 && strcmp(argv[2], "generate") == 0;
    const int64_t N = argc > 1 ? atoll(argv[1]) : 8192, C = 4096, F = 14336, W = 6144, V = 128256, big = V * C;
    static Gemm g;
    gemm_create(&g);
    real *a, *b; char *d, *d2; int *differs;
    CUDA_CHECK(cudaMalloc((void **)&a, big * 2)); CUDA_CHECK(cudaMalloc((void **)&b, big * 2)); CUDA_CHECK(cudaMalloc((void **)&d, big * 4)); CUDA_CHECK(cudaMalloc((void **)&d2, big * 4)); CUDA_CHECK(cudaMalloc((void **)&differs, 4));
    gemm_fill_kernel<<<1024, 256>>>(a, big, 1); gemm_fill_kernel<<<1024, 256>>>(b, big, 2);
    typedef struct { const char *name; GemmShape s; } Product;
    std::vector<Product> shapes = {
        {"qkv forward", shape_forward(N, C, W, W, false, false)}, {"qkv dinput", shape_dinput(N, C, W, W, false)}, {"qkv dweight +=", shape_dweight(N, C, W, W, true)},
        {"o forward", shape_forward(N, C, C, C, true, false)}, {"o dinput", shape_dinput(N, C, C, C, false)}, {"o dweight +=", shape_dweight(N, C, C, C, true)},
        {"gate_up forward", shape_forward(N, C, 2 * F, 2 * F, false, false)}, {"gate_up dinput", shape_dinput(N, C, 2 * F, 2 * F, false)}, {"gate_up dweight +=", shape_dweight(N, C, 2 * F, 2 * F, true)},
        {"down forward", shape_forward(N, F, C, C, true, false)}, {"down dinput", shape_dinput(N, F, C, C, false)}, {"down dweight +=", shape_dweight(N, F, C, C, true)},
        {"LM head forward", shape_forward(N / 2, C, V, V, false, false)}, {"LM head dinput", shape_dinput(N / 2, C, V, V, false)}, {"LM head dweight +=", shape_dweight(N / 2, C, V, V, true)}};
    if (generates) shapes = {{"qkv", shape_generate(N, C, W, C, W, false, false, 1)}, {"o", shape_generate(N, C, C, C, C, true, false, 1)}, {"gate_up", shape_generate(N, C, 2 * F, C, 2 * F, false, false, 1)},
                             {"down", shape_generate(N, F, C, F, C, true, false, 1)}, {"LM head", shape_generate(N, C, V, C, V, false, false, 1)}};
    int64_t launched = 0;
    cudaEvent_t e0, e1;
    CUDA_CHECK(cudaEventCreate(&e0)); CUDA_CHECK(cudaEventCreate(&e1));
    auto launch = [&](GemmPlan *p, const cublasLtMatmulAlgo_t *algo, void *out) {
        float alpha = 1, beta = p->shape.add ? 1.0f : 0.0f;
        const int64_t weights = p->shape.m * p->shape.k, place = generates ? launched++ % (big / weights) * weights : 0;
        return cublasLtMatmul(g.handle, p->operation, &alpha, a + place, p->a, b, p->b, &beta, p->shape.out_fp32 ? out : (void *)b, p->d, out, p->d, algo, g.workspace, g.workspace_bytes, 0) == CUBLAS_STATUS_SUCCESS;
    };
    Meter meter;
    if (by_energy && !meter_open(&meter)) die("NVML was not found");
    auto seconds = [&](GemmPlan *p, const cublasLtMatmulAlgo_t *algo, double want, double *joules) {   // of one product, run back to back for so long
        unsigned long long j0, j1;
        float ms;
        int n = (int)(want / (2e-15 * (double)p->shape.m * (double)p->shape.n * (double)p->shape.k / 0.75)) + 1;
        CUDA_CHECK(cudaDeviceSynchronize());
        meter.energy(meter.device, &j0);
        CUDA_CHECK(cudaEventRecord(e0)); for (int k = 0; k < n; k++) launch(p, algo, d2); CUDA_CHECK(cudaEventRecord(e1)); CUDA_CHECK(cudaEventSynchronize(e1));
        meter.energy(meter.device, &j1);
        CUDA_CHECK(cudaEventElapsedTime(&ms, e0, e1));
        *joules = (double)(j1 - j0) * 1e-3 / n;
        return ms / n;
    };
    for (auto &shape : shapes) {
        if (!by_energy) break;
        GemmPlan *p = gemm_plan(&g, &shape.s);
        cublasLtMatmulHeuristicResult_t proposed[GEMM_PROPOSED];
        cublasLtMatmulAlgo_t tries[GEMM_TRIES];
        int found = gemm_candidates(&g, p, proposed, GEMM_PROPOSED);
        for (int i = 0; i < found; i++) tries[i] = proposed[i].algo;
        found += gemm_more_candidates(&g, p, tries + found, GEMM_TRIES - found);
        std::vector<Candidate> all;
        for (int i = 0; i < found; i++) {
            Candidate c = {tries[i], 1e9f, i < (int)GEMM_PROPOSED};
            for (int k = 0; k < 3; k++) {
                float ms;
                usleep(TUNE_PAUSE_US);
                CUDA_CHECK(cudaEventRecord(e0));
                if (!launch(p, &c.algorithm, d2)) break;
                CUDA_CHECK(cudaEventRecord(e1)); CUDA_CHECK(cudaEventSynchronize(e1));
                CUDA_CHECK(cudaEventElapsedTime(&ms, e0, e1));
                if (k > 0 && ms < c.ms) c.ms = ms;
            }
            all.push_back(c);
        }
        std::sort(all.begin(), all.end(), [](const Candidate &x, const Candidate &y) { return x.ms < y.ms; });
        if (all.size() > 7) all.resize(7);
        printf("%s: %d candidates\n", shape.name, found);
        double joules;
        for (auto &c : all) {
            char text[256];
            double sums[2] = {0, 0};
            describe(&c.algorithm, text);
            seconds(p, &c.algorithm, 0.15, &joules);
            for (int k = 0; k < 2; k++) { sums[0] += seconds(p, &c.algorithm, 0.2, &joules); sums[1] += joules; }
            printf("  burst %.3f ms, sustained %.3f ms, %.4f J, %.0f W  %s\n", c.ms, sums[0] / 2, sums[1] / 2, sums[1] / sums[0] * 1e3, text);
        }
        fflush(stdout);
    }
    for (auto &shape : shapes) {
        if (by_energy) break;
        GemmPlan *p = gemm_plan(&g, &shape.s);
        std::vector<Candidate> all;
        cublasLtMatmulHeuristicResult_t proposed[GEMM_PROPOSED];
        int found = gemm_candidates(&g, p, proposed, GEMM_PROPOSED);
        for (int i = 0; i < found; i++) all.push_back({proposed[i].algo, 0, true});
        int ids[64], n_ids = 0;
        cudaDataType out = shape.s.out_fp32 ? CUDA_R_32F : CUDA_R_16BF;
        CUBLAS_CHECK(cublasLtMatmulAlgoGetIds(g.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_16BF, out, out, 64, ids, &n_ids));
        for (int i = 0; i < n_ids; i++) {
            if (ids[i] != 66) continue;
            cublasLtMatmulAlgo_t algo;
            if (cublasLtMatmulAlgoInit(g.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_16BF, out, out, ids[i], &algo) != CUBLAS_STATUS_SUCCESS) continue;
            int tiles[1024], stages[128], custom = 0;
            size_t n_tiles = 0, n_stages = 0;
            cublasLtMatmulAlgoCapGetAttribute(&algo, CUBLASLT_ALGO_CAP_TILE_IDS, tiles, sizeof tiles, &n_tiles);
            cublasLtMatmulAlgoCapGetAttribute(&algo, CUBLASLT_ALGO_CAP_STAGES_IDS, stages, sizeof stages, &n_stages);
            cublasLtMatmulAlgoCapGetAttribute(&algo, CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX, &custom, sizeof custom, NULL);
            n_tiles /= sizeof(int); n_stages /= sizeof(int);
            if (&shape == &shapes[0]) printf("algorithm %d: %zu tiles, %zu stages, %d custom options\n", ids[i], n_tiles, n_stages, custom);
            for (size_t t = 0; t < n_tiles; t++)
                for (uint16_t cluster = 0; cluster < 12; cluster++)
                    for (size_t k = 0; k < (n_stages ? n_stages : 1); k++)
                        for (int c = 0; c <= (custom < 4 ? custom : 4); c++) {
                            cublasLtMatmulAlgo_t x = algo;
                            cublasLtMatmulAlgoConfigSetAttribute(&x, CUBLASLT_ALGO_CONFIG_TILE_ID, &tiles[t], sizeof(int));
                            if (n_stages) cublasLtMatmulAlgoConfigSetAttribute(&x, CUBLASLT_ALGO_CONFIG_STAGES_ID, &stages[k], sizeof(int));
                            cublasLtMatmulAlgoConfigSetAttribute(&x, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &cluster, sizeof cluster);
                            cublasLtMatmulAlgoConfigSetAttribute(&x, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, &c, sizeof c);
                            cublasLtMatmulHeuristicResult_t r;
                            if (cublasLtMatmulAlgoCheck(g.handle, p->operation, p->a, p->b, p->d, p->d, &x, &r) == CUBLAS_STATUS_SUCCESS && r.workspaceSize <= g.workspace_bytes) all.push_back({x, 0, false});
                        }
        }
        size_t limit = generates ? 20000 : 600;
        if (all.size() > limit) all.resize(limit);
        launched = 0;
        launch(p, &all[0].algorithm, d);
        std::vector<Candidate> good;
        for (auto &c : all) {
            launched = 0;
            if (!launch(p, &c.algorithm, d2)) continue;
            if (generates) {   // of use only with the bits of every other number of rows
                int differ = 0;
                CUDA_CHECK(cudaMemset(differs, 0, 4));
                gemm_differs_kernel<<<1024, 256>>>((const uint32_t *)d, (const uint32_t *)d2, shape.s.m * shape.s.n / 2, differs);
                CUDA_CHECK(cudaMemcpy(&differ, differs, 4, cudaMemcpyDeviceToHost));
                if (differ) continue;
            }
            CUDA_CHECK(cudaEventRecord(e0)); launch(p, &c.algorithm, d2); CUDA_CHECK(cudaEventRecord(e1)); CUDA_CHECK(cudaEventSynchronize(e1));
            CUDA_CHECK(cudaEventElapsedTime(&c.ms, e0, e1));
            good.push_back(c);
        }
        std::sort(good.begin(), good.end(), [](const Candidate &x, const Candidate &y) { return x.proposed != y.proposed ? x.proposed : x.ms < y.ms; });
        size_t keep = std::min(good.size(), (size_t)found + (generates ? 48 : 16));
        const size_t same_bits = good.size();
        good.resize(keep);
        for (auto &c : good) c.ms = 0;
        int launches = (int)((generates ? 1e12 : 4e12) / (2.0 * shape.s.m * shape.s.n * shape.s.k)) + 1;
        for (int round = 0; round < 4; round++)
            for (auto &c : good) {
                float ms;
                CUDA_CHECK(cudaEventRecord(e0)); for (int k = 0; k < launches; k++) launch(p, &c.algorithm, d2); CUDA_CHECK(cudaEventRecord(e1)); CUDA_CHECK(cudaEventSynchronize(e1));
                CUDA_CHECK(cudaEventElapsedTime(&ms, e0, e1));
                c.ms += ms / launches / 4;
            }
        std::sort(good.begin(), good.end(), [](const Candidate &x, const Candidate &y) { return x.ms < y.ms; });
        printf("%s: %zu configurations, %zu ran%s\n", shape.name, all.size(), same_bits, generates ? " with the first one's bits" : "");
        int shown = 0, shown_proposed = 0;
        for (auto &c : good) {
            char text[256];
            if (shown >= (generates ? 12 : 4) && (!c.proposed || shown_proposed)) continue;
            describe(&c.algorithm, text);
            printf("  %.3f ms %4.0f TFLOP/s %s %s\n", c.ms, 2e-9 * shape.s.m * shape.s.n * shape.s.k / c.ms, c.proposed ? "proposed" : "searched", text);
            shown++; shown_proposed += c.proposed;
        }
        fflush(stdout);
    }
    return 0;
}
