// model_bench.cuh: what the benchmarks of whole models share: the shapes of known ones, random weights made on the device, and where the time goes,
// kernel by kernel.
#ifndef DEV_MODEL_BENCH_CUH
#define DEV_MODEL_BENCH_CUH
#define FINDAP_LIBRARY
#include "../train_findap.cu"
#include "../findap/flags.h"         // defines: flags_parse
#include <unistd.h>                  // defines: usleep
#include <cupti.h>                   // defines: CUpti_ActivityKernel*; the library itself is opened at run time
#include <dlfcn.h>                   // defines: dlopen
#include <string>
#include <map>
#include <vector>
#include <algorithm>

static bool known_config(const char *name, Config *c) {
    static const struct { const char *name; Family family; int64_t V, C, L, NH, NKV, HD, F; double theta; bool tied, bias; } known[] = {
        {"llama3-8b", FAMILY_LLAMA, 128256, 4096, 32, 32, 8, 128, 14336, 5e5, false, false}, {"llama3.2-1b", FAMILY_LLAMA, 128256, 2048, 16, 32, 8, 64, 8192, 5e5, true, false},
        {"qwen2.5-1.5b", FAMILY_QWEN2, 151936, 1536, 28, 12, 2, 128, 8960, 1e6, true, true}, {"qwen2.5-0.5b", FAMILY_QWEN2, 151936, 896, 24, 14, 2, 64, 4864, 1e6, true, true}};
    memset(c, 0, sizeof *c);
    for (int i = 0; i < 4; i++) {
        if (strcmp(name, known[i].name) != 0) continue;
        c->family = known[i].family; c->vocab_size = known[i].V; c->hidden_size = known[i].C; c->num_layers = known[i].L; c->num_heads = known[i].NH; c->num_kv_heads = known[i].NKV;
        c->head_dim = known[i].HD; c->intermediate_size = known[i].F; c->rope_theta = known[i].theta; c->tied_embeddings = known[i].tied; c->qkv_bias = known[i].bias;
        c->max_position = 131072; c->rms_norm_eps = 1e-5; c->initializer_range = 0.02;
        return true;
    }
    return false;
}

__global__ static void random_weights(real *p, int64_t n, uint64_t seed, float std) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        float u = ((float)random_bits(seed, 2 * (uint64_t)i) + 1.0f) * (1.0f / 4294967808.0f), v = (float)random_bits(seed, 2 * (uint64_t)i + 1) * (1.0f / 4294967296.0f);
        p[i] = from_float<real>(std * sqrtf(-2.0f * logf(u)) * cospif(2.0f * v));
    }
}
__global__ static void ones(real *p, int64_t n) {
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) p[i] = from_float<real>(1.0f);
}
static void init_on_device(Model *m) {
    random_weights<<<2048, 256, 0, m->stream>>>(m->params, m->num_parameters, 1, 0.02f);
    for (int i = 0; i < m->num_tensors; i++)
        for (int64_t l = 0; strncmp(m->tensors[i].name, "norm", 4) == 0 && l < (m->tensors[i].per_layer ? m->config.num_layers : 1); l++)
            ones<<<1, 256, 0, m->stream>>>(m->params + m->tensors[i].offset + l * m->tensors[i].layer_stride, tensor_count(&m->tensors[i]));
    CUDA_CHECK(cudaGetLastError());
}

// ---------------------------------------------------------------------------------------------------------------------
// where the time goes: CUPTI's records of kernels

typedef struct { std::string name; double begin, end; } Record;   // milliseconds
static std::vector<Record> records;
static void CUPTIAPI buffer_requested(uint8_t **buffer, size_t *size, size_t *max_records) { *size = 8 << 20; *buffer = (uint8_t *)aligned_alloc(64, *size); *max_records = 0; }
static CUptiResult (*next_record)(uint8_t *, size_t, CUpti_Activity **);
static void CUPTIAPI buffer_completed(CUcontext, uint32_t, uint8_t *buffer, size_t, size_t valid) {
    CUpti_Activity *a = NULL;
    while (next_record(buffer, valid, &a) == CUPTI_SUCCESS) {
        if (a->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
            CUpti_ActivityKernel9 *k = (CUpti_ActivityKernel9 *)a;
            records.push_back({k->name, (double)k->start * 1e-6, (double)k->end * 1e-6});
        } else if (a->kind == CUPTI_ACTIVITY_KIND_MEMCPY) { CUpti_ActivityMemcpy5 *k = (CUpti_ActivityMemcpy5 *)a; records.push_back({"copy", (double)k->start * 1e-6, (double)k->end * 1e-6}); }
        else if (a->kind == CUPTI_ACTIVITY_KIND_MEMSET) { CUpti_ActivityMemset4 *k = (CUpti_ActivityMemset4 *)a; records.push_back({"memset", (double)k->start * 1e-6, (double)k->end * 1e-6}); }
    }
    free(buffer);
}
typedef struct { CUptiResult (*enable)(CUpti_ActivityKind), (*flush)(uint32_t); } Profiler;
static bool profiler_open(Profiler *p) {
    void *lib = NULL;
    for (const char *name : {"libcupti.so.13", "libcupti.so", "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so.13", "/usr/local/cuda/lib64/libcupti.so.13"})
        if (!lib) lib = dlopen(name, RTLD_NOW);
    if (!lib) { warn("libcupti was not found: no profile"); return false; }
    p->enable = (CUptiResult (*)(CUpti_ActivityKind))dlsym(lib, "cuptiActivityEnable");
    p->flush = (CUptiResult (*)(uint32_t))dlsym(lib, "cuptiActivityFlushAll");
    next_record = (CUptiResult (*)(uint8_t *, size_t, CUpti_Activity **))dlsym(lib, "cuptiActivityGetNextRecord");
    auto callbacks = (CUptiResult (*)(CUpti_BuffersCallbackRequestFunc, CUpti_BuffersCallbackCompleteFunc))dlsym(lib, "cuptiActivityRegisterCallbacks");
    if (!p->enable || !p->flush || !next_record || !callbacks || callbacks(buffer_requested, buffer_completed) != CUPTI_SUCCESS) return false;
    return p->enable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) == CUPTI_SUCCESS && p->enable(CUPTI_ACTIVITY_KIND_MEMCPY) == CUPTI_SUCCESS && p->enable(CUPTI_ACTIVITY_KIND_MEMSET) == CUPTI_SUCCESS;
}
static std::string kernel_class(const std::string &name) {
    static const char *const ours[] = {"decode_attention", "decode_join", "matvec", "rope_store", "sample", "attention_forward", "attention_backward", "rmsnorm", "rope", "swiglu", "embedding", "cross_entropy", "adamw", "norm", "gather", "scatter", "bias", "accumulate", "loss", "thin_pass", "thin_finish", "thin_expand", "sum_of_squares", "clip"};
    std::string lower = name;
    for (char &c : lower) c = (char)tolower(c);
    if (lower.find("gemm") != std::string::npos || lower.find("nvjet") != std::string::npos || lower.find("cublas") != std::string::npos || lower.find("cutlass") != std::string::npos || lower.find("splitk") != std::string::npos) return "GEMM";
    for (const char *o : ours) if (lower.find(o) != std::string::npos) return o;
    if (lower.find("attention") != std::string::npos) return "attention";
    return name.substr(0, 40);
}
static void print_profile(int micro_batches, double wall_ms, const char *what = "micro-batch") {
    std::map<std::string, std::pair<double, int>> sum, gaps;   // by kernel; by the kernels before and after
    std::sort(records.begin(), records.end(), [](const Record &a, const Record &b) { return a.begin < b.begin; });
    double busy = 0, last = 0;
    std::string before;
    for (const Record &r : records) {
        if (last > 0 && r.begin > last) {
            auto &g = gaps[before + " -> " + kernel_class(r.name)];
            g.first += r.begin - last; g.second++;
        }
        before = kernel_class(r.name);
        auto &s = sum[kernel_class(r.name)];
        s.first += r.end - r.begin; s.second++;
        busy += std::max(0.0, r.end - std::max(r.begin, last));
        last = std::max(last, r.end);
    }
    std::vector<std::pair<double, std::string>> order;
    for (auto &s : sum) order.push_back({-s.second.first, s.first});
    std::sort(order.begin(), order.end());
    printf("profile of one %s (mean of %d):\n", what, micro_batches);
    for (auto &o : order) printf("  %-44s %9.3f ms  %5d launches\n", o.second.c_str(), -o.first / micro_batches, sum[o.second].second / micro_batches);
    if (!records.empty()) {
        double span = last - records.front().begin;
        printf("  %-44s %9.3f ms  (%.2f %% of %.1f ms; with the profiler off %.1f ms)\n", "gaps between kernels", (span - busy) / micro_batches, 100 * (span - busy) / span, span / micro_batches, wall_ms);
        std::vector<std::pair<double, std::string>> longest;
        for (auto &g : gaps) longest.push_back({-g.second.first, g.first});
        std::sort(longest.begin(), longest.end());
        for (size_t i = 0; i < longest.size() && i < 8; i++) printf("    %-42s %9.3f ms  %5d times\n", longest[i].second.c_str(), -longest[i].first / micro_batches, gaps[longest[i].second].second / micro_batches);
    }
}
#endif
