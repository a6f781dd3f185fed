// step.cu: the training step as a whole, on random weights: tokens a second, model FLOPs utilisation, peak memory, and with
// --profile where the time goes, kernel by kernel, against what the card can do.
//
//     build/dev/step llama3-8b                           one row of 8,192 tokens, one document
//     build/dev/step llama3-8b --batch FILE --profile    rows of real documents: FILE written by `train_findap --dump`
//     build/dev/step qwen2.5-1.5b --rows 4 --seq-len 4096 --moments bf16 --recompute none
//     build/dev/step llama3-8b --seq-len 4096 --lora-rank 16     adapters on all seven projections of a frozen model
//
// A micro-batch is one forward and backward pass, its gradient added to the earlier ones', as in a step of many micro-batches;
// the optimizer's time is given apart. MFU: 6 x matmul parameters x tokens + 12 x visible pairs x heads x head_dim, over
// 989.4 TFLOP/s (dense bf16); what is recomputed does not count, invisible pairs do not count. With LoRA 4 x, since a frozen weight has no gradient, and 6 x the
// adapters' own parameters.
#define FINDAP_LIBRARY
#include "../train_findap.cu"
#include "../findap/flags.h"         // defines: flags_parse
#include "../findap/safetensors.h"   // defines: safetensors_open
#include <unistd.h>                  // defines: usleep
#include <cupti.h>                   // defines: CUpti_ActivityKernel*; the library itself is opened at run time
#include <dlfcn.h>                   // defines: dlopen
#include <string>
#include <map>
#include <vector>
#include <algorithm>

static const double PEAK = 989.4e12;

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
    static const char *const ours[] = {"attention_forward", "attention_backward", "rmsnorm", "rope", "swiglu", "embedding", "cross_entropy", "adamw", "norm", "gather", "scatter", "bias", "accumulate", "loss", "thin_pass", "thin_finish", "thin_expand", "sum_of_squares", "clip"};
    std::string lower = name;
    for (char &c : lower) c = (char)tolower(c);
    if (lower.find("gemm") != std::string::npos || lower.find("nvjet") != std::string::npos || lower.find("cublas") != std::string::npos || lower.find("cutlass") != std::string::npos || lower.find("splitk") != std::string::npos) return "GEMM";
    for (const char *o : ours) if (lower.find(o) != std::string::npos) return o;
    if (lower.find("attention") != std::string::npos) return "attention";
    return name.substr(0, 40);
}
static void print_profile(int micro_batches, double wall_ms) {
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
    printf("profile of one micro-batch (mean of %d):\n", micro_batches);
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

// ---------------------------------------------------------------------------------------------------------------------

int main(int argc, char **argv) {
    program_name = "step";
    const char *name = argc > 1 ? argv[1] : "", *batch_file = NULL;
    int64_t rows = 1, T = 8192, micro = 4, repeat = 3, lora_rank = 0;
    bool profile = false, help = false, time_head = false;
    ModelOptions options = {};
    options.moments = "bf16"; options.recompute = "auto";
    Flag flags[] = {
        {"--rows", FLAG_INT, &rows, "N", "rows of a micro-batch", 1, 1 << 20, false}, {"--seq-len", FLAG_INT, &T, "N", "tokens of a row", 1, 1 << 24, false},
        {"--batch", FLAG_STRING, &batch_file, "FILE", "tokens, positions, targets and weights of `train_findap --dump`; its rows are taken in turn", 0, 0, false},
        {"--micro", FLAG_INT, &micro, "N", "micro-batches of a step", 1, 1 << 20, false}, {"--repeat", FLAG_INT, &repeat, "N", "steps timed", 1, 1 << 20, false},
        {"--moments", FLAG_STRING, &options.moments, "TYPE", "as train_findap's", 0, 0, false}, {"--gradients", FLAG_STRING, &options.gradients, "TYPE", "as train_findap's", 0, 0, false},
        {"--recompute", FLAG_STRING, &options.recompute, "WHAT", "as train_findap's", 0, 0, false}, {"--profile", FLAG_BOOL, &profile, NULL, "kernel by kernel", 0, 0, false},
        {"--lora-rank", FLAG_INT, &lora_rank, "N", "adapters of this rank on all projections of a frozen model, 0: all is trained", 0, 1 << 16, false},
        {"--head", FLAG_BOOL, &time_head, NULL, "the loss with the LM head alone, too", 0, 0, false}};
    int n_flags = (int)(sizeof flags / sizeof *flags);
    Error e;
    Config config;
    if (!flags_parse(argc, argv, 2, flags, n_flags, NULL, &help, &e)) die("%s", e.text);
    if (help || !known_config(name, &config)) { flags_help("step llama3-8b|llama3.2-1b|qwen2.5-1.5b|qwen2.5-0.5b [flags]", "Times the training step.", flags, n_flags); return help ? 0 : 1; }
    if (lora_rank) options.lora = {lora_rank, 2.0 * (double)lora_rank, false, (1u << LORA_TARGETS) - 1};
    if (!model_check(&config, &options, &e)) die("%s", e.text);

    int64_t file_rows = rows;
    Safetensors *file = batch_file ? safetensors_open(batch_file, &e) : NULL;
    if (batch_file && !file) die("%s", e.text);
    const int32_t *file_tokens = NULL, *file_positions = NULL, *file_targets = NULL;
    const float *file_weights = NULL;
    if (file) {
        const SafeTensor *t = safetensors_find(file, "tokens");
        CHECK(t && t->rank == 2 && safetensors_find(file, "positions") && safetensors_find(file, "targets") && safetensors_find(file, "weights"));
        file_rows = t->shape[0]; T = t->shape[1];
        file_tokens = (const int32_t *)t->data; file_positions = (const int32_t *)safetensors_find(file, "positions")->data;
        file_targets = (const int32_t *)safetensors_find(file, "targets")->data; file_weights = (const float *)safetensors_find(file, "weights")->data;
    }
    int64_t N = rows * T;
    size_t before, total, now;
    CUDA_CHECK(cudaMemGetInfo(&before, &total));
    char plan[MODEL_PLAN_SIZE];
    int64_t planned = model_memory_bytes(&config, rows, T, true, &options, plan);
    printf("%s, %s: %s\n", name, REAL_NAME, plan);
    if (lora_rank) printf("LoRA: rank %lld on all projections\n", (long long)lora_rank);
    double start = seconds_now();
    Model *m = model_create(&config, rows, T, true, &options);
    init_on_device(m);
    model_zero_moments(m);
    model_wait(m);
    printf("%smade in %.1f s\n", model_notes(m), seconds_now() - start);

    Batch b;
    b.B = rows; b.T = T; b.last = true;
    b.tokens = (int32_t *)xmalloc(N * 4); b.positions = (int32_t *)xmalloc(N * 4); b.targets = (int32_t *)xmalloc(N * 4); b.weights = (float *)xmalloc(N * 4);
    float *coef = (float *)xmalloc(N * 4), *logp = (float *)model_host_alloc(N * 4);
    double pairs = 0, targets = 0;
    int64_t next_row = 0, batches = 0;
    auto fill = [&]() {
        for (int64_t i = 0; i < N; i++) {
            int64_t at = (next_row + i / T) % file_rows * T + i % T;
            b.tokens[i] = file ? file_tokens[at] : (int32_t)(random_bits(3, (uint64_t)(batches * N + i)) % (uint32_t)config.vocab_size);
            b.positions[i] = file ? file_positions[at] : (int32_t)(i % T);
            b.targets[i] = file ? file_targets[at] : i % T + 1 < T ? (int32_t)(random_bits(3, (uint64_t)(batches * N + i + 1)) % (uint32_t)config.vocab_size) : -1;
            b.weights[i] = file ? file_weights[at] : b.targets[i] >= 0 ? 1.0f : 0.0f;
            CHECK(b.tokens[i] < config.vocab_size && b.targets[i] < config.vocab_size);
            coef[i] = b.targets[i] >= 0 ? -b.weights[i] / (float)(N * micro) : 0;
            pairs += b.positions[i] + 1;
            targets += b.targets[i] >= 0 && b.weights[i] != 0;
        }
        next_row += rows; batches++;
    };
    auto micro_batch = [&]() {
        fill();
        model_forward(m, &b);
        model_head(m, &b, coef, logp);
        model_backward(m, &b);
    };
    AdamW opt = {1e-5, 0.9, 0.95, 1e-8, 0.1, 1.0, 1};
    cudaEvent_t e0, e1, e2;
    CUDA_CHECK(cudaEventCreate(&e0)); CUDA_CHECK(cudaEventCreate(&e1)); CUDA_CHECK(cudaEventCreate(&e2));
    auto step = [&](float *pass_ms, float *update_ms) {
        model_zero_grad(m);
        CUDA_CHECK(cudaEventRecord(e0, m->stream));
        for (int64_t i = 0; i < micro; i++) micro_batch();
        CUDA_CHECK(cudaEventRecord(e1, m->stream));
        model_update(m, &opt);
        opt.t = 0;
        CUDA_CHECK(cudaEventRecord(e2, m->stream));
        StepResult r = model_result(m);
        if (r.skipped) die("the step was skipped: loss %g, gradient norm %g", r.loss, r.grad_norm);
        CUDA_CHECK(cudaEventElapsedTime(pass_ms, e0, e1));
        CUDA_CHECK(cudaEventElapsedTime(update_ms, e1, e2));
        return r;
    };
    std::vector<float> pass, update;
    float p, u;
    StepResult r = step(&p, &u);   // warm-up
    pairs = targets = 0; batches = 0;
    for (int64_t i = 0; i < repeat; i++) { r = step(&p, &u); pass.push_back(p / (float)micro); update.push_back(u); }
    CUDA_CHECK(cudaMemGetInfo(&now, &total));
    std::sort(pass.begin(), pass.end()); std::sort(update.begin(), update.end());
    double ms = pass[pass.size() / 2], update_ms = update[update.size() / 2];
    if (file) { ms = 0; for (float x : pass) ms += x / (double)pass.size(); }   // rows of documents differ in work: the mean over them, so that --repeat should take them all
    pairs /= (double)batches; targets /= (double)batches;
    double matmul_parameters = (double)config_num_parameters(&config) - (double)config.vocab_size * (double)config.hidden_size * (config.tied_embeddings ? 0 : 1);
    double head = (double)config.vocab_size * (double)config.hidden_size, each = lora_rank ? 4 : 6, adapters = 0;   // each: FLOPs of a parameter and token
    for (int i = 0; i < m->num_tensors; i++) if (m->tensors[i].adapter) adapters += (double)(tensor_count(&m->tensors[i]) * config.num_layers);
    double flops = (each * (matmul_parameters - head) + 6 * adapters) * (double)N + each * head * targets + 12 * (double)config.num_layers * pairs * (double)(config.num_heads * config.head_dim);
    double per_128k = 131072.0 / (double)N * ms + update_ms;
    printf("loss %.4f, gradient norm %.4f\n", r.loss * (double)(N * micro) / (targets * (double)micro), r.grad_norm);
    printf("%s %lld x %lld tokens: forward+backward %.1f ms (%.1f - %.1f) = %.0f tokens/s, %.1f model TFLOP/s, %.1f %% MFU; update %.1f ms; %.0f tokens/s at 131,072 tokens a step; visible pairs %.3g, trained targets %.0f\n",
           name, (long long)rows, (long long)T, ms, pass.front(), pass.back(), (double)N / ms * 1e3, flops / ms * 1e-9, 100 * flops / (ms * 1e-3) / PEAK, update_ms, 131072 / per_128k * 1e3, pairs, targets);
    printf("memory: planned %.2f GiB, taken %.2f GiB, in use on the card %.2f GiB of %.2f GiB\n", (double)planned / 1073741824, (double)(before - now) / 1073741824,
           (double)(total - now) / 1073741824, (double)total / 1073741824);
    if (time_head) {   // the loss with the LM head alone, all gradients: after a pause, and back to back at the card's power limit
        auto timed = [&](int n) {
            CUDA_CHECK(cudaEventRecord(e0, m->stream));
            for (int i = 0; i < n; i++) model_head(m, &b, coef, NULL);
            CUDA_CHECK(cudaEventRecord(e1, m->stream));
            CUDA_CHECK(cudaEventSynchronize(e1));
            CUDA_CHECK(cudaEventElapsedTime(&p, e0, e1));
            return p / (float)n;
        };
        std::vector<float> rested;
        for (int i = 0; i < 5; i++) { usleep(300000); timed(1); rested.push_back(timed(1)); }
        std::sort(rested.begin(), rested.end());
        timed(20);
        float sustained = timed(20);
        double bytes = (double)(m->head_rows * (m->ldv + config.hidden_size) * (int64_t)sizeof(real));
        printf("loss with LM head, %.0f targets x %lld: rested %.2f ms (%.0f TFLOP/s), sustained %.2f ms (%.0f TFLOP/s); workspace %.3f GB\n", targets, (long long)config.vocab_size, rested[2],
               1e-9 * each * targets * head / rested[2], sustained, 1e-9 * each * targets * head / sustained, bytes * 1e-9);
    }
    Profiler prof;
    if (profile && profiler_open(&prof)) {
        model_zero_grad(m);
        micro_batch();   // so that the profiled ones add to their gradients, as most do
        model_wait(m);
        prof.flush(1);
        records.clear();
        for (int i = 0; i < 2; i++) micro_batch();
        model_wait(m);
        prof.flush(1);
        print_profile(2, ms);
        records.clear();
        model_update(m, &opt);
        model_wait(m);
        prof.flush(1);
        printf("update: ");
        print_profile(1, update_ms);
    }
    fflush(stdout);
    _exit(0);   // CUPTI does not always let a process end
}
