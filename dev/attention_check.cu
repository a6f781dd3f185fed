// attention_check.cu: every attention kernel against a plain CPU loop in double (small shapes) and against attention_plain (all
// shapes), forward and backward; then the speed of the one that training uses.
//
//     build/dev/attention_check            checks, then benchmark        build/dev/attention_check check | tiny | bench
//     tiny: a few small shapes, for compute-sanitizer
//
// Outputs and scratch are poisoned with 0xff (NaN) before every run and must be written everywhere; every kernel runs twice and must give
// the same bits; the backward pass is also run with scratch for one key/value head at a time and must give the same bits again.
// Times: "rested": a pause of 200 ms, two launches, then three timed, three times over, median - the card at high clocks; "sustained": 300
// launches, then five times 50, median - the card at its power limit. TFLOP/s count visible pairs only: 4 HD a pair forward, 10 HD backward.
#include "findap/kernels/attention.cuh"
#include <algorithm>
#include <unistd.h>
#include <vector>

__global__ static void normal_kernel(bf16 *x, int64_t n, uint64_t seed, float scale) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        float u = ((float)random_bits(seed, 2 * (uint64_t)i) + 1.0f) * (1.0f / 4294967808.0f), v = (float)random_bits(seed, 2 * (uint64_t)i + 1) * (1.0f / 4294967296.0f);
        x[i] = __float2bfloat16(scale * sqrtf(-2.0f * logf(u)) * cospif(2.0f * v));
    }
}

typedef struct {
    int64_t B, T, NH, NKV, HD, N, W, TP;
    AttentionPlan plan;
    std::vector<int32_t> host_plan;
    int32_t *device_plan, *counters;
    bf16 *qkv, *out, *dout, *dqkv;
    float *lse, *dsum;
    void *scratch;
    int64_t scratch_bytes;
} Problem;

// lengths: documents in turn, running on over rows; empty: one document a row
static Problem problem(int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD, const std::vector<int> &lengths, float scale) {
    Problem p;
    p.B = B; p.T = T; p.NH = NH; p.NKV = NKV; p.HD = HD; p.N = B * T; p.W = (NH + 2 * NKV) * HD; p.TP = ceil_div(T, QUERY_TILE) * QUERY_TILE;
    std::vector<int32_t> positions((size_t)p.N);
    size_t next = 0;
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T;) {
            int64_t length = lengths.empty() ? T : lengths[next++ % lengths.size()];
            for (int64_t i = 0; i < length && t < T; i++, t++) positions[(size_t)(b * T + t)] = (int32_t)i;
        }
    int64_t ints = attention_plan_ints(B, T);
    p.host_plan.resize((size_t)ints);
    AttentionPlan host = attention_plan(p.host_plan.data(), positions.data(), B, T);
    CUDA_CHECK(cudaMalloc((void **)&p.device_plan, (size_t)ints * 4));
    CUDA_CHECK(cudaMemcpy(p.device_plan, p.host_plan.data(), (size_t)ints * 4, cudaMemcpyHostToDevice));
    p.plan = attention_plan_at(host, p.device_plan);
    CUDA_CHECK(cudaMalloc((void **)&p.counters, 8)); CUDA_CHECK(cudaMemset(p.counters, 0, 8));
    CUDA_CHECK(cudaMalloc((void **)&p.qkv, (size_t)(p.N * p.W) * 2)); CUDA_CHECK(cudaMalloc((void **)&p.dqkv, (size_t)(p.N * p.W) * 2));
    CUDA_CHECK(cudaMalloc((void **)&p.out, (size_t)(p.N * NH * HD) * 2)); CUDA_CHECK(cudaMalloc((void **)&p.dout, (size_t)(p.N * NH * HD) * 2));
    CUDA_CHECK(cudaMalloc((void **)&p.lse, (size_t)(B * NH * p.TP) * 4)); CUDA_CHECK(cudaMalloc((void **)&p.dsum, (size_t)(B * NH * p.TP) * 4));
    p.scratch_bytes = std::max<int64_t>(p.plan.visited_tiles * NH * QUERY_TILE * KEY_TILE * 2, 1024);
    CUDA_CHECK(cudaMalloc(&p.scratch, (size_t)p.scratch_bytes));
    normal_kernel<<<1024, 256>>>(p.qkv, p.N * p.W, 1 + (uint64_t)T, scale);
    normal_kernel<<<1024, 256>>>(p.dout, p.N * NH * HD, 2 + (uint64_t)T, 1.0f);
    CUDA_CHECK(cudaDeviceSynchronize());
    return p;
}
static void problem_free(Problem *p) {
    for (void *x : {(void *)p->device_plan, (void *)p->counters, (void *)p->qkv, (void *)p->dqkv, (void *)p->out, (void *)p->dout, (void *)p->lse, (void *)p->dsum, p->scratch}) CUDA_CHECK(cudaFree(x));
}

enum { PLAIN, MMA, SM90 };
static const char *const names[] = {"plain", "mma", "sm90"};
static bool runs(int which, int64_t HD) { return which == PLAIN || ((HD == 64 || HD == 128) && (which != SM90 || device_capability() == 90)); }
static void forward(Problem *p, int which) {
    if (which == PLAIN) attention_forward_plain<bf16>(p->out, p->lse, p->qkv, &p->plan, p->NH, p->NKV, p->HD, 0);
    else if (which == MMA) attention_forward_mma(p->out, p->lse, p->qkv, &p->plan, p->NH, p->NKV, p->HD, 0);
    else attention_forward_sm90(p->out, p->lse, p->qkv, &p->plan, p->counters, p->NH, p->NKV, p->HD, 0);
}
static void backward(Problem *p, int which, int64_t scratch_bytes) {
    if (which == PLAIN) attention_backward_plain<bf16>(p->dqkv, p->dsum, p->dout, p->out, p->lse, p->qkv, &p->plan, p->NH, p->NKV, p->HD, 0);
    else if (which == MMA) attention_backward_mma(p->dqkv, p->dsum, p->dout, p->out, p->lse, p->qkv, &p->plan, p->NH, p->NKV, p->HD, 0);
    else attention_backward_sm90(p->dqkv, p->dsum, p->dout, p->out, p->lse, p->qkv, p->scratch, scratch_bytes, &p->plan, p->NH, p->NKV, p->HD, 0);
}

typedef struct { std::vector<bf16> out, dqkv; std::vector<float> lse; } Result;
static Result run(Problem *p, int which, int64_t scratch_bytes) {
    Result r;
    r.out.resize((size_t)(p->N * p->NH * p->HD)); r.dqkv.resize((size_t)(p->N * p->W)); r.lse.resize((size_t)(p->B * p->NH * p->TP));
    CUDA_CHECK(cudaMemset(p->out, 0xff, r.out.size() * 2)); CUDA_CHECK(cudaMemset(p->dqkv, 0xff, r.dqkv.size() * 2));
    CUDA_CHECK(cudaMemset(p->lse, 0xff, r.lse.size() * 4)); CUDA_CHECK(cudaMemset(p->dsum, 0xff, r.lse.size() * 4)); CUDA_CHECK(cudaMemset(p->scratch, 0xff, (size_t)p->scratch_bytes));
    forward(p, which);
    backward(p, which, scratch_bytes);
    CUDA_CHECK(cudaDeviceSynchronize());
    CUDA_CHECK(cudaMemcpy(r.out.data(), p->out, r.out.size() * 2, cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaMemcpy(r.dqkv.data(), p->dqkv, r.dqkv.size() * 2, cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaMemcpy(r.lse.data(), p->lse, r.lse.size() * 4, cudaMemcpyDeviceToHost));
    return r;
}

// the same by plain loops in double: out and dqkv as double
static void reference(Problem *p, std::vector<double> &out, std::vector<double> &dqkv) {
    std::vector<bf16> qkv((size_t)(p->N * p->W)), dout((size_t)(p->N * p->NH * p->HD));
    CUDA_CHECK(cudaMemcpy(qkv.data(), p->qkv, qkv.size() * 2, cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaMemcpy(dout.data(), p->dout, dout.size() * 2, cudaMemcpyDeviceToHost));
    out.assign(dout.size(), 0); dqkv.assign(qkv.size(), 0);
    const int64_t HD = p->HD, W = p->W, A = p->NH * HD;
    std::vector<double> x((size_t)p->T), dp((size_t)p->T);
    auto at = [](const std::vector<bf16> &v, int64_t i) { return (double)__bfloat162float(v[(size_t)i]); };
    for (int64_t n = 0; n < p->N; n++)
        for (int64_t h = 0; h < p->NH; h++) {
            const int64_t t = n % p->T, lo = p->host_plan[(size_t)n], base = n - t, g = h / (p->NH / p->NKV), q = n * W + h * HD, o = n * A + h * HD;
            auto k = [&](int64_t j) { return (base + j) * W + (p->NH + g) * HD; };
            double m = -1e300, sum = 0, D = 0;
            for (int64_t j = lo; j <= t; j++) {
                x[(size_t)j] = 0; dp[(size_t)j] = 0;
                for (int64_t c = 0; c < HD; c++) { x[(size_t)j] += at(qkv, q + c) * at(qkv, k(j) + c); dp[(size_t)j] += at(dout, o + c) * at(qkv, k(j) + p->NKV * HD + c); }
                x[(size_t)j] /= sqrt((double)HD);
                m = std::max(m, x[(size_t)j]);
            }
            for (int64_t j = lo; j <= t; j++) { x[(size_t)j] = exp(x[(size_t)j] - m); sum += x[(size_t)j]; }
            for (int64_t j = lo; j <= t; j++) {
                x[(size_t)j] /= sum; D += x[(size_t)j] * dp[(size_t)j];
                for (int64_t c = 0; c < HD; c++) out[(size_t)(o + c)] += x[(size_t)j] * at(qkv, k(j) + p->NKV * HD + c);
            }
            for (int64_t j = lo; j <= t; j++) {
                const double ds = x[(size_t)j] * (dp[(size_t)j] - D) / sqrt((double)HD);
                for (int64_t c = 0; c < HD; c++) {
                    dqkv[(size_t)(q + c)] += ds * at(qkv, k(j) + c);
                    dqkv[(size_t)(k(j) + c)] += ds * at(qkv, q + c);
                    dqkv[(size_t)(k(j) + p->NKV * HD + c)] += x[(size_t)j] * at(dout, o + c);
                }
            }
        }
}

// ||a - b|| / ||b|| over columns [begin, end) of rows of `width`; NaN in a gives NaN
template <typename X, typename Y> static double error(const std::vector<X> &a, const std::vector<Y> &b, int64_t width, int64_t begin, int64_t end, double scale) {
    double d = 0, n = 0;
    for (size_t i = 0; i < a.size(); i++) {
        const int64_t c = (int64_t)(i % (size_t)width);
        if (c < begin || c >= end) continue;
        double x, y;
        if constexpr (sizeof(X) == 2) x = __bfloat162float(a[i]); else x = (double)a[i];
        if constexpr (sizeof(Y) == 2) y = __bfloat162float(b[i]); else y = (double)b[i];
        d += (x - y) * (x - y); n += y * y;
    }
    return sqrt(d) / std::max(sqrt(n), scale);
}

static int failures;
static void check(int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD, const std::vector<int> &lengths, float scale, bool slow_reference) {
    Problem p = problem(B, T, NH, NKV, HD, lengths, scale);
    Result plain = run(&p, PLAIN, p.scratch_bytes);
    std::vector<double> out, dqkv;
    if (slow_reference) reference(&p, out, dqkv);
    for (int which = PLAIN; which <= SM90; which++) {
        if (!runs(which, HD) || (which == PLAIN && !slow_reference)) continue;
        Result r = which == PLAIN ? plain : run(&p, which, p.scratch_bytes);
        const int64_t A = NH * HD, K = NKV * HD;
        // dQ and dK are small where documents are: softmax over one key has no gradient. They are measured against dV's norm then.
        double tiny = 0;
        for (size_t i = 0; i < plain.dqkv.size(); i++) if ((int64_t)(i % (size_t)p.W) >= A + K) tiny += pow((double)__bfloat162float(plain.dqkv[i]), 2);
        tiny = 0.05 * sqrt(tiny);
        double e[5] = {slow_reference ? error(r.out, out, A, 0, A, 0) : error(r.out, plain.out, A, 0, A, 0)};
        const int64_t from[4] = {0, A, A + K, A + 2 * K};
        for (int k = 0; k < 3; k++) e[1 + k] = slow_reference ? error(r.dqkv, dqkv, p.W, from[k], from[k + 1], k < 2 ? tiny : 0) : error(r.dqkv, plain.dqkv, p.W, from[k], from[k + 1], k < 2 ? tiny : 0);
        for (int64_t i = 0; i < B * NH * p.TP; i++) if (i % p.TP < T) { double d = fabs((double)r.lse[(size_t)i] - (double)plain.lse[(size_t)i]); e[4] = d > e[4] || d != d ? d : e[4]; }
        Result again = run(&p, which, p.scratch_bytes), one = run(&p, which, std::max<int64_t>(p.plan.visited_tiles * (NH / NKV) * QUERY_TILE * KEY_TILE * 2, 1));
        const bool same_out = memcmp(r.out.data(), again.out.data(), r.out.size() * 2) == 0, same_gradient = memcmp(r.dqkv.data(), again.dqkv.data(), r.dqkv.size() * 2) == 0;
        const bool same_passes = memcmp(r.dqkv.data(), one.dqkv.data(), r.dqkv.size() * 2) == 0, same = same_out && same_gradient && same_passes;
        bool ok = same;
        for (int k = 0; k < 4; k++) ok = ok && e[k] < 8e-3;
        ok = ok && e[4] < 1e-3;
        failures += !ok;
        printf("%-5s B %lld T %5lld heads %2lld/%-2lld HD %3lld documents %4lld: out %.1e dq %.1e dk %.1e dv %.1e lse %.1e %s %s\n", names[which], (long long)B, (long long)T, (long long)NH, (long long)NKV, (long long)HD,
               (long long)lengths.size(), e[0], e[1], e[2], e[3], e[4], same ? "same bits" : !same_out ? "OUT DIFFERS FROM RUN TO RUN" : !same_gradient ? "GRADIENT DIFFERS FROM RUN TO RUN" : "GRADIENT DIFFERS WITH THE NUMBER OF PASSES", ok ? "ok" : "FAILED");
    }
    problem_free(&p);
}
static std::vector<int> documents(int low, int high, int n, uint64_t seed) {
    std::vector<int> v;
    for (int i = 0; i < n; i++) v.push_back(low + (int)(random_bits(seed, (uint64_t)i) % (uint32_t)(high - low + 1)));
    return v;
}

template <typename F> static double timed(F f, int n) {
    static cudaEvent_t a, b;
    if (!a) { CUDA_CHECK(cudaEventCreate(&a)); CUDA_CHECK(cudaEventCreate(&b)); }
    CUDA_CHECK(cudaEventRecord(a));
    for (int i = 0; i < n; i++) f();
    CUDA_CHECK(cudaEventRecord(b));
    CUDA_CHECK(cudaEventSynchronize(b));
    float ms;
    CUDA_CHECK(cudaEventElapsedTime(&ms, a, b));
    return ms / n;
}
static double median(std::vector<double> v) { std::sort(v.begin(), v.end()); return v[v.size() / 2]; }
template <typename F> static void times(const char *name, F f, double flops) {
    std::vector<double> rested, sustained;
    for (int r = 0; r < 3; r++) { CUDA_CHECK(cudaDeviceSynchronize()); usleep(200000); timed(f, 2); for (int i = 0; i < 3; i++) rested.push_back(timed(f, 1)); }
    timed(f, 300);
    for (int i = 0; i < 5; i++) sustained.push_back(timed(f, 50));
    printf("%-58s rested %.3f ms %4.0f TFLOP/s | sustained %.3f ms %4.0f TFLOP/s\n", name, median(rested), flops / median(rested) * 1e-9, median(sustained), flops / median(sustained) * 1e-9);
    fflush(stdout);
}
static void bench(const char *name, int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD, const std::vector<int> &lengths, int which) {
    Problem p = problem(B, T, NH, NKV, HD, lengths, 1.0f);
    // causal rows by the usual convention, half of all pairs; documents by their visible pairs
    const double pairs = lengths.empty() ? (double)B * (double)T * (double)T / 2 : p.plan.visible_pairs, flops = 4.0 * (double)(NH * HD) * pairs;
    char text[96];
    forward(&p, which);
    snprintf(text, sizeof text, "%s %s forward", names[which], name);
    times(text, [&] { forward(&p, which); }, flops);
    snprintf(text, sizeof text, "%s %s backward", names[which], name);
    times(text, [&] { backward(&p, which, p.scratch_bytes); }, 2.5 * flops);
    problem_free(&p);
}

int main(int argc, char **argv) {
    program_name = "attention_check";
    const char *what = argc > 1 ? argv[1] : "all";
    if (strcmp(what, "tiny") == 0) {
        check(2, 333, 6, 1, 128, documents(1, 90, 50, 1), 1, false);
        check(1, 200, 8, 4, 64, documents(1, 3, 90, 2), 1, false);
        printf("%s\n", failures ? "FAILED" : "ok");
        return failures != 0;
    }
    if (strcmp(what, "bench") != 0) {
        for (int64_t HD : {64, 128}) {
            check(1, 1, 4, 1, HD, {}, 1, true);
            check(2, 77, 8, 2, HD, {}, 1, true);
            check(1, 63, 4, 4, HD, {}, 1, true);
            check(1, 128, 4, 2, HD, {}, 1, true);
            check(3, 191, 7, 1, HD, {}, 1, true);
            check(2, 200, 6, 2, HD, {1}, 1, true);
            check(2, 260, 8, 2, HD, {1, 1, 2, 127, 1, 128, 129, 1, 63, 64, 65, 3}, 1, true);
            check(2, 333, 5, 1, HD, documents(1, 90, 97, 3), 3, true);
            check(2, 1000, 12, 2, HD, documents(1, 300, 97, 4), 1, false);
            check(1, 1536, 8, 1, HD, {64}, 1, false);
            check(1, 1536, 8, 8, HD, {128}, 1, false);
            check(2, 2048, 32, 8, HD, {}, 2, false);
            check(2, 3000, 16, 2, HD, documents(20, 900, 97, 5), 3, false);
            check(1, 4097, 12, 4, HD, documents(1, 4000, 97, 6), 1, false);
        }
        for (int64_t HD : {16, 32, 80, 256}) check(2, 150, 4, 2, HD, documents(1, 90, 50, 7), 1, true);
        check(2, 8192, 32, 8, 128, documents(120, 1500, 97, 8), 1, false);
        printf("%s\n", failures ? "FAILED" : "all ok");
        if (failures) return 1;
    }
    if (strcmp(what, "check") != 0) {
        const std::vector<int> packed = documents(120, 1500, 97, 3);
        for (int round = 0; round < 2; round++) {
            bench("1 x 8192 causal, 32/8 heads of 128", 1, 8192, 32, 8, 128, {}, SM90);
            bench("2 x 8192 documents of 120-1500, 32/8 heads of 128", 2, 8192, 32, 8, 128, packed, SM90);
        }
        bench("2 x 8192 causal, 32/8 heads of 128", 2, 8192, 32, 8, 128, {}, SM90);
        bench("1 x 8192 causal, 32/8 heads of 64", 1, 8192, 32, 8, 64, {}, SM90);
        bench("4 x 2048 causal, 32/8 heads of 128", 4, 2048, 32, 8, 128, {}, SM90);
        bench("1 x 8192 causal, 32/8 heads of 128", 1, 8192, 32, 8, 128, {}, MMA);
    }
    return 0;
}
