// generate.cu: the generation engine on random weights: tokens a second of batches of given shapes, alone and mixed with prompts, and with --profile where the time of a
// token goes. Answers have no end: every request runs to its cap.
//
//     build/dev/generate llama3-8b                                        the shapes of the table below
//     build/dev/generate llama3-8b --batch 1 --prompt 128 --new 256 --profile
//     build/dev/generate qwen2.5-0.5b --same                              that a request's answer does not depend on its batch, bit for bit
//
// Decode: calls of the model in which every request brings one token, host and sampling included, by their median. All: first call to last token, prompts
// included. What decoding must read is the weights, without the embedding table, and keys and values: at the bandwidth that reads alone reach, 4.27 TB/s, the roof.
#include "model_bench.cuh"            // defines: known_config, init_on_device, Profiler, print_profile
// the host's time in the two calls of the model that decoding has
static double forward_seconds, sample_seconds;
static void timed_forward(Model *m, const Call *c) {
    const double start = seconds_now();
    model_generate_forward(m, c);
    forward_seconds += seconds_now() - start;
}
static void timed_sample(Model *m, const int64_t *index, int64_t n, const SampleRow *rows, int32_t *tokens, float *logp) {
    const double start = seconds_now();
    model_sample(m, index, n, rows, tokens, logp);
    sample_seconds += seconds_now() - start;
}
#define model_generate_forward timed_forward
#define model_sample timed_sample
#include "../findap/generate.h"      // defines: Engine, Request
#undef model_generate_forward
#undef model_sample

static const double READ = 4.27e12;
static double median(std::vector<double> x) { std::sort(x.begin(), x.end()); return x.empty() ? NAN : x[x.size() / 2]; }

static void bench(const Config *config, int64_t batch, int64_t prompt, int64_t fresh, int64_t requests, double temperature, Profiler *profiler) {
    const int64_t T = prompt + fresh, room = std::max<int64_t>(batch, 2048), B = ceil_div(room, T), pages = batch * pages_for(T) + 1;
    Model *m = model_create(config, B, T, false, NULL);
    init_on_device(m);
    Engine *g = engine_new(m, NULL, batch, B * T, T, pages);
    Error e;
    std::vector<double> decode, prefill, starting, waiting;
    auto add = [&](int64_t number, int64_t n, int64_t most) {
        Request *r = (Request *)xcalloc(1, sizeof(Request));
        r->number = number; r->max_new = most; r->seed = (uint64_t)number; r->sampling.temperature = temperature; r->sampling.top_p = 1; r->sampling.repetition_penalty = 1;
        for (int64_t i = 0; i < n; i++) ids_add(&r->ids, (int32_t)(random_bits(11, (uint64_t)(number * 65536 + i)) % (uint32_t)config->vocab_size));
        if (!engine_add(g, r, &e)) die("%s", e.text);
    };
    auto drain = [&](std::vector<double> *decode, std::vector<double> *prefill, double *prefill_tokens) {
        while (g->num_running || g->num_waiting) {
            const double start = seconds_now(), forward = forward_seconds, sample = sample_seconds;
            engine_call(g);
            const double ms = 1e3 * (seconds_now() - start);
            if (g->call.N == batch && m->call.tiles == NULL) { decode->push_back(ms); starting.push_back(1e3 * (forward_seconds - forward)); waiting.push_back(1e3 * (sample_seconds - sample)); }
            else if (m->call.tiles) { prefill->push_back(ms); *prefill_tokens += (double)g->call.N; }
            while (g->num_finished) { Request *r = g->finished[--g->num_finished]; request_free(r); free(r); }
        }
    };
    double prefill_tokens = 0;
    for (int64_t i = 0; i < batch; i++) add(1000000 + i, std::min<int64_t>(prompt, 64), 4);   // warm up: algorithms, graphs
    drain(&decode, &prefill, &prefill_tokens);
    decode.clear(); prefill.clear(); starting.clear(); waiting.clear(); prefill_tokens = 0;
    for (int64_t i = 0; i < requests; i++) add(i, prompt, fresh);
    const int64_t before = g->new_tokens;
    const double start = seconds_now();
    drain(&decode, &prefill, &prefill_tokens);
    const double seconds = seconds_now() - start, ms = median(decode), context = (double)prompt + 0.5 * (double)fresh;
    double matmul = (double)config_num_parameters(config) - (config->tied_embeddings ? 0 : (double)(config->vocab_size * config->hidden_size)), prefill_ms = 0;
    for (double x : prefill) prefill_ms += x;
    const double bytes = 2 * matmul + 4.0 * (double)(config->num_layers * config->num_kv_heads * config->head_dim) * context * (double)batch;
    printf("batch %4lld, prompt %5lld, new %4lld, %5lld requests: decode %.3f ms a call, %.0f tok/s (%.0f %% of the roof, %.0f); all %.0f new tok/s; prompts %.0f tok/s in %zu calls\n", (long long)batch, (long long)prompt, (long long)fresh,
           (long long)requests, ms, 1e3 * (double)batch / ms, 100 * bytes / READ / (ms * 1e-3), (double)batch / (bytes / READ), (double)(g->new_tokens - before) / seconds, 1e3 * prefill_tokens / prefill_ms, prefill.size());
    printf("    the host: %.3f ms to start the layers, %.3f ms to start sampling and wait for it, %.3f ms around that\n", median(starting), median(waiting), ms - median(starting) - median(waiting));
    fflush(stdout);
    cudaEvent_t begin, end;   // the layers alone, without host, LM head and sampling: the last call again and again
    float layers_ms;
    CUDA_CHECK(cudaEventCreate(&begin)); CUDA_CHECK(cudaEventCreate(&end));
    for (int k = 0; k < 12; k++) {
        if (k == 2) CUDA_CHECK(cudaEventRecord(begin, m->stream));
        layers_generate(m);
    }
    CUDA_CHECK(cudaEventRecord(end, m->stream));
    CUDA_CHECK(cudaEventSynchronize(end));
    CUDA_CHECK(cudaEventElapsedTime(&layers_ms, begin, end));
    printf("    its layers back to back %.3f ms\n", layers_ms / 10);
    if (profiler) {
        for (int64_t i = 0; i < batch; i++) add(2000000 + i, prompt, fresh);
        do engine_call(g); while (g->num_waiting || m->call.tiles);
        engine_call(g); engine_call(g);
        profiler->flush(1);
        records.clear();
        engine_call(g); engine_call(g);
        model_wait(m);
        profiler->flush(1);
        std::sort(records.begin(), records.end(), [](const Record &a, const Record &b) { return a.end < b.end; });
        std::map<std::string, std::pair<double, int>> step;   // how much later than the one before it each kernel ends, of a token's first to last: with kernels that overlap the time each takes
        for (size_t i = 1; i < records.size(); i++) {
            if (records[i].name == "copy" || records[i - 1].name == "copy" || records[i].name.find("gather") != std::string::npos) continue;
            auto &s = step[records[i - 1].name.substr(0, 44) + " -> " + records[i].name.substr(0, 44)];
            s.first += records[i].end - records[i - 1].end; s.second++;
        }
        for (auto &x : step) if (x.second.second >= 8) printf("    %8.2f us  %4d times  %s\n", 1e3 * x.second.first / x.second.second, x.second.second, x.first.c_str());
        print_profile(2, ms, "token");
        records.clear();
        std::vector<double> none;
        double no_tokens = 0;
        drain(&none, &none, &no_tokens);
    }
    engine_free(g);
    model_free(m);
}

// The same requests - prompts of all lengths, some with the same beginning, drawn at temperature 0.8 - in batches of 1, 7 and 24: every token and every bit of the log-probs
static bool same_in_any_batch(const Config *config) {
    const int64_t requests = 24, fresh = 40, T = 700;
    std::vector<std::vector<int32_t>> ids[3];
    std::vector<std::vector<float>> logp[3];
    const int64_t batches[3] = {1, 7, 24};
    bool same = true;
    for (int k = 0; k < 3; k++) {
        Model *m = model_create(config, 3, T, false, NULL);
        init_on_device(m);
        Engine *g = engine_new(m, NULL, batches[k], 3 * T, T, batches[k] * pages_for(T) + 1);
        Error e;
        ids[k].resize(requests); logp[k].resize(requests);
        for (int64_t i = 0; i < requests; i++) {
            Request *r = (Request *)xcalloc(1, sizeof(Request));
            const int64_t n = 1 + (int64_t)(random_bits(31, (uint64_t)i) % 600);
            r->number = i; r->max_new = fresh; r->seed = (uint64_t)(100 + i); r->sampling.temperature = 0.8; r->sampling.top_p = i % 3 ? 1 : 0.9; r->sampling.top_k = i % 4 ? 0 : 50; r->sampling.repetition_penalty = i % 5 ? 1 : 1.2;
            for (int64_t j = 0; j < n; j++) ids_add(&r->ids, (int32_t)(random_bits((uint64_t)(40 + i % 6), (uint64_t)j) % (uint32_t)config->vocab_size));
            if (!engine_add(g, r, &e)) die("%s", e.text);
        }
        for (Request *r; (r = engine_next(g)) != NULL; free(r)) {
            ids[k][(size_t)r->number].assign(r->ids.data, r->ids.data + r->ids.len);
            logp[k][(size_t)r->number].assign(r->logp, r->logp + fresh);
            request_free(r);
        }
        engine_free(g);
        model_free(m);
    }
    for (int k = 1; k < 3; k++)
        for (size_t i = 0; i < (size_t)requests; i++) {
            if (ids[k][i] == ids[0][i] && memcmp(logp[k][i].data(), logp[0][i].data(), (size_t)fresh * sizeof(float)) == 0) continue;
            same = false;
            printf("FAILED: request %d in a batch of %d is another than alone\n", (int)i, (int)batches[k]);
        }
    printf("%s: 24 requests in batches of 1, 7 and 24: the same tokens and bits of log-probs\n", same ? "ok" : "FAILED");
    return same;
}

int main(int argc, char **argv) {
    program_name = "generate";
    int64_t batch = 0, prompt = 128, fresh = 128, requests = 0;
    double temperature = 0;
    bool profile = false, help = false, same = false;
    Flag flags[] = {{"--batch", FLAG_INT, &batch, "N", "requests at a time, 0: the table", 0, 65536, false}, {"--prompt", FLAG_INT, &prompt, "N", "tokens of a prompt", 1, 65535, false},
                    {"--new", FLAG_INT, &fresh, "N", "tokens of an answer", 1, 65535, false}, {"--requests", FLAG_INT, &requests, "N", "in all, 0: one batch", 0, 1 << 20, false},
                    {"--temperature", FLAG_DOUBLE, &temperature, "X", "0: greedy", 0, 100, false}, {"--profile", FLAG_BOOL, &profile, NULL, "a token, kernel by kernel", 0, 0, false},
                    {"--same", FLAG_BOOL, &same, NULL, "no times: the same requests in several batches", 0, 0, false}};
    const int n = (int)(sizeof flags / sizeof *flags);
    Error e;
    Config config;
    Profiler profiler;
    if (!flags_parse(argc, argv, 2, flags, n, NULL, &help, &e)) die("%s", e.text);
    if (help || argc < 2 || !known_config(argv[1], &config)) { flags_help("generate llama3-8b|llama3.2-1b|qwen2.5-1.5b|qwen2.5-0.5b [flags]", "Times the generation engine.", flags, n); return help ? 0 : 1; }
    printf("%s, %s\n", argv[1], REAL_NAME);
    if (same) { const bool ok = same_in_any_batch(&config); fflush(stdout); _exit(!ok); }
    if (batch) bench(&config, batch, prompt, fresh, requests ? requests : batch, temperature, profile && profiler_open(&profiler) ? &profiler : NULL);
    else {
        static const struct { int64_t batch, prompt, fresh, requests; } table[] = {{1, 128, 256, 1}, {1, 1024, 128, 1}, {8, 512, 64, 8}, {64, 512, 64, 64}, {256, 512, 64, 256}, {256, 928, 192, 256}, {256, 778, 128, 1024}, {8, 3500, 64, 8}};
        for (const auto &t : table) bench(&config, t.batch, t.prompt, t.fresh, t.requests, temperature, NULL);
    }
    fflush(stdout);
    _exit(0);   // CUPTI does not always let a process end
}
