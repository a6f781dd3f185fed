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
#include "model_bench.cuh"             // defines: known_config, init_on_device, Profiler, print_profile
#include "../findap/safetensors.h"   // defines: safetensors_open

static const double PEAK = 989.4e12;

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
    int32_t *tokens = (int32_t *)xmalloc(micro * N * 4), *positions = (int32_t *)xmalloc(micro * N * 4), *all_targets = (int32_t *)xmalloc(micro * N * 4);   // of a whole step
    float *weights = (float *)xmalloc(micro * N * 4), *all_coef = (float *)xmalloc(micro * N * 4), *coef = NULL, *logp = (float *)model_host_alloc(N * 4);
    auto take = [&](int64_t i) { b.tokens = tokens + i * N; b.positions = positions + i * N; b.targets = all_targets + i * N; b.weights = weights + i * N; coef = all_coef + i * N; };
    double pairs = 0, targets = 0;
    int64_t next_row = 0, batches = 0;
    auto fill = [&](int64_t which) {
        take(which);
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
    auto micro_batch = [&](int64_t which) {
        take(which);
        model_forward(m, &b);
        model_head(m, &b, coef, logp);
        model_backward(m, &b);
    };
    AdamW opt = {1e-5, 0.9, 0.95, 1e-8, 0.1, 1.0, 1};
    cudaEvent_t e0, e1, e2;
    CUDA_CHECK(cudaEventCreate(&e0)); CUDA_CHECK(cudaEventCreate(&e1)); CUDA_CHECK(cudaEventCreate(&e2));
    auto step = [&](float *pass_ms, float *update_ms) {
        for (int64_t i = 0; i < micro; i++) fill(i);   // as training has its rows before their step begins
        model_zero_grad(m);
        CUDA_CHECK(cudaEventRecord(e0, m->stream));
        for (int64_t i = 0; i < micro; i++) micro_batch(i);
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
        micro_batch(0);   // so that the profiled ones add to their gradients, as most do
        model_wait(m);
        prof.flush(1);
        records.clear();
        for (int i = 0; i < 2; i++) micro_batch(i % micro);
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
