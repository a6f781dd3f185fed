// attention_check.cu: every attention there is - plain (fp32 and bf16), mma, sm90, and cuDNN where it is built in - forward and backward:
// against plain loops in double on the host where the problem is small, against attention_plain everywhere. Then their speed.
//
//     build/dev/attention_check            checks, then benchmark        build/dev/attention_check check | tiny | bench
//     tiny: a few small problems, for compute-sanitizer
//
// Rows hold documents, or pairs of answers that share a prompt (findap/pairs.h).
//
// What is checked of each kernel: out, dq, dk, dv and lse are close (norm of the difference over the norm); every number was written (arrays
// and scratch hold NaN before), and none behind an array's end (its last 1,024 bytes are a fence); it gives the same bits again; sm90's
// backward gives the same bits with scratch for all key/value heads, for two and for one; and, since lse is all that a forward pass hands to a backward
// pass beside out, each backward is right behind every other forward. A check that fails says which of these, and where the worst number stands.
//
// Times. Rested: a pause of 200 ms, two launches, then three timed, three times over, median: the card at high clocks. Sustained: 400 launches,
// then five times 60, median: the card at its power limit. TFLOP/s count visible pairs only, 4 HD a pair forward, 10 HD backward; a causal
// row, as is the custom, for half of all its pairs.
#include "findap/kernels/attention.cuh"         // defines: attention_{forward,backward}_{plain,mma,sm90}
#ifdef USE_CUDNN
#include "findap/kernels/attention_cudnn.cuh"   // defines: attention_forward_cudnn, attention_backward_cudnn, attention_cudnn_fits, attention_cudnn_workspace
#endif
#include <algorithm>
#include <string>
#include <unistd.h>                             // defines: usleep
#include <vector>

__global__ static void normal_kernel(bf16 *x, int64_t n, uint64_t seed, float scale) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        float u = ((float)random_bits(seed, 2 * (uint64_t)i) + 1.0f) * (1.0f / 4294967808.0f), v = (float)random_bits(seed, 2 * (uint64_t)i + 1) * (1.0f / 4294967296.0f);
        x[i] = __float2bfloat16(scale * sqrtf(-2.0f * logf(u)) * cospif(2.0f * v));
    }
}

enum { FENCE = 1024 };   // bytes behind every array that must stay as they are
typedef struct {
    int64_t B, T, NH, NKV, HD, N, W, A, TP;
    int documents, branches;                  // how many the list of lengths names; 0: one document a row
    AttentionPlan plan;
    std::vector<int32_t> positions, host_plan;
    int32_t *device_plan, *counters;
    bf16 *qkv, *out, *dout, *dqkv;            // (N, W), (N, A), (N, A), (N, W)
    float *lse, *dsum;                        // (B, NH, TP)
    void *scratch, *workspace;                // sm90's; cuDNN's
    int64_t scratch_bytes, workspace_bytes;
} Problem;

template <typename T> static void allocate(T **p, int64_t n) { CUDA_CHECK(cudaMalloc((void **)p, (size_t)n * sizeof(T) + FENCE)); }

// lengths: documents in turn, running on over rows; empty: one document a row. -p, n: a branch of n tokens, the first at position p, of the document before
// (left out where that is in the row before). scale: of q, k and v
static Problem problem(int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD, const std::vector<int> &lengths, float scale) {
    Problem p;
    p.B = B; p.T = T; p.NH = NH; p.NKV = NKV; p.HD = HD; p.N = B * T; p.W = (NH + 2 * NKV) * HD; p.A = NH * HD; p.TP = ceil_div(T, QUERY_TILE) * QUERY_TILE;
    p.branches = (int)std::count_if(lengths.begin(), lengths.end(), [](int n) { return n < 0; }); p.documents = (int)lengths.size() - 2 * p.branches;
    p.positions.resize((size_t)p.N);
    size_t next = 0;
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T;) {
            int64_t length = lengths.empty() ? T : lengths[next++ % lengths.size()], point = 0;
            if (length < 0) { point = -length; length = t > 0 ? lengths[next % lengths.size()] : 0; next++; }
            for (int64_t i = 0; i < length && t < T; i++, t++) p.positions[(size_t)(b * T + t)] = (int32_t)(point + i);
        }
    const int64_t ints = attention_plan_ints(B, T);
    p.host_plan.resize((size_t)ints);
    AttentionPlan host = attention_plan(p.host_plan.data(), p.positions.data(), B, T);
    allocate(&p.device_plan, ints);
    CUDA_CHECK(cudaMemcpy(p.device_plan, p.host_plan.data(), (size_t)ints * 4, cudaMemcpyHostToDevice));
    p.plan = attention_plan_at(host, p.device_plan);
    allocate(&p.counters, 2); CUDA_CHECK(cudaMemset(p.counters, 0, 8));
    allocate(&p.qkv, p.N * p.W); allocate(&p.dqkv, p.N * p.W); allocate(&p.out, p.N * p.A); allocate(&p.dout, p.N * p.A);
    allocate(&p.lse, B * NH * p.TP); allocate(&p.dsum, B * NH * p.TP);
    p.scratch_bytes = p.plan.visited_tiles * NH * QUERY_TILE * KEY_TILE * 2;
    CUDA_CHECK(cudaMalloc(&p.scratch, (size_t)p.scratch_bytes + FENCE));
    p.workspace = NULL; p.workspace_bytes = 0;
#ifdef USE_CUDNN
    if (attention_cudnn_fits(&p.plan, HD)) {
        p.workspace_bytes = attention_cudnn_workspace(B, T, NH, NKV, HD);
        CUDA_CHECK(cudaMalloc(&p.workspace, (size_t)p.workspace_bytes));
    }
#endif
    normal_kernel<<<1024, 256>>>(p.qkv, p.N * p.W, 1 + (uint64_t)T, scale);
    normal_kernel<<<1024, 256>>>(p.dout, p.N * p.A, 2 + (uint64_t)T, 1.0f);
    CUDA_CHECK(cudaGetLastError());
    CUDA_CHECK(cudaDeviceSynchronize());
    return p;
}
static void problem_free(Problem *p) {
    for (void *x : {(void *)p->device_plan, (void *)p->counters, (void *)p->qkv, (void *)p->dqkv, (void *)p->out, (void *)p->dout, (void *)p->lse, (void *)p->dsum, p->scratch, p->workspace}) CUDA_CHECK(cudaFree(x));
}
static std::string describe(const Problem *p) {
    char text[160];
    snprintf(text, sizeof text, "B %lld T %5lld heads %2lld/%-2lld HD %3lld documents %3d branches %3d", (long long)p->B, (long long)p->T, (long long)p->NH, (long long)p->NKV, (long long)p->HD, p->documents, p->branches);
    return text;
}

enum { PLAIN, MMA, SM90, CUDNN, KINDS };
static const char *const names[] = {"plain", "mma", "sm90", "cudnn"};
static bool runs(int kind, const Problem *p) {
    if (kind == PLAIN) return true;
    if (kind == CUDNN) return p->workspace != NULL;
    return (p->HD == 64 || p->HD == 128) && (kind != SM90 || device_is_hopper());
}
static void forward(Problem *p, int kind) {
    if (kind == PLAIN) attention_forward_plain<bf16>(p->out, p->lse, p->qkv, &p->plan, p->NH, p->NKV, p->HD, 0);
    else if (kind == MMA) attention_forward_mma(p->out, p->lse, p->qkv, &p->plan, p->NH, p->NKV, p->HD, 0);
    else if (kind == SM90) attention_forward_sm90(p->out, p->lse, p->qkv, &p->plan, p->counters, p->NH, p->NKV, p->HD, 0);
#ifdef USE_CUDNN
    else attention_forward_cudnn(p->out, p->lse, p->qkv, p->workspace, p->workspace_bytes, &p->plan, p->NH, p->NKV, p->HD, 0);
#endif
}
static void backward(Problem *p, int kind, int64_t scratch_bytes) {
    if (kind == PLAIN) attention_backward_plain<bf16>(p->dqkv, p->dsum, p->dout, p->out, p->lse, p->qkv, &p->plan, p->NH, p->NKV, p->HD, 0);
    else if (kind == MMA) attention_backward_mma(p->dqkv, p->dsum, p->dout, p->out, p->lse, p->qkv, &p->plan, p->NH, p->NKV, p->HD, 0);
    else if (kind == SM90) attention_backward_sm90(p->dqkv, p->dsum, p->dout, p->out, p->lse, p->qkv, p->scratch, scratch_bytes, &p->plan, p->NH, p->NKV, p->HD, 0);
#ifdef USE_CUDNN
    else attention_backward_cudnn(p->dqkv, p->dout, p->out, p->lse, p->qkv, p->workspace, p->workspace_bytes, &p->plan, p->NH, p->NKV, p->HD, 0);
#endif
}

// an array and its fence, filled with 0xff, which is NaN; and its numbers back on the host, with whether the fence still stands
template <typename T> static void poison(T *p, int64_t n) { CUDA_CHECK(cudaMemset(p, 0xff, (size_t)n * sizeof(T) + FENCE)); }
template <typename T> static std::vector<T> fetch(const T *p, int64_t n, bool *fence) {
    std::vector<T> v((size_t)n + FENCE / sizeof(T));
    CUDA_CHECK(cudaMemcpy(v.data(), p, v.size() * sizeof(T), cudaMemcpyDeviceToHost));
    const uint8_t *end = (const uint8_t *)(v.data() + n);
    for (int i = 0; i < FENCE; i++) *fence = *fence && end[i] == 0xff;
    v.resize((size_t)n);
    return v;
}
typedef struct { std::vector<bf16> out, dqkv; std::vector<float> lse; bool fence; } Result;
static Result run(Problem *p, int forward_kind, int backward_kind, int64_t scratch_bytes) {
    const int64_t statistics = p->B * p->NH * p->TP;
    poison(p->out, p->N * p->A); poison(p->dqkv, p->N * p->W); poison(p->lse, statistics); poison(p->dsum, statistics); poison((uint8_t *)p->scratch, p->scratch_bytes);
    if (p->workspace) CUDA_CHECK(cudaMemset(p->workspace, 0xff, (size_t)p->workspace_bytes));
    forward(p, forward_kind);
    CUDA_CHECK(cudaDeviceSynchronize());   // an error of the forward pass is reported as one
    backward(p, backward_kind, scratch_bytes);
    CUDA_CHECK(cudaDeviceSynchronize());
    Result r;
    r.fence = true;
    r.out = fetch(p->out, p->N * p->A, &r.fence); r.dqkv = fetch(p->dqkv, p->N * p->W, &r.fence); r.lse = fetch(p->lse, statistics, &r.fence);
    fetch(p->dsum, statistics, &r.fence);
    fetch((uint8_t *)p->scratch + p->scratch_bytes, 0, &r.fence);
    return r;
}

// the same by plain loops in double on the host, which keys a query sees from the positions alone; lse stays as it was where t >= T
static void reference(Problem *p, std::vector<double> &out, std::vector<double> &dqkv, std::vector<float> &lse) {
    std::vector<bf16> qkv((size_t)(p->N * p->W)), dout((size_t)(p->N * p->NH * p->HD));
    CUDA_CHECK(cudaMemcpy(qkv.data(), p->qkv, qkv.size() * 2, cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaMemcpy(dout.data(), p->dout, dout.size() * 2, cudaMemcpyDeviceToHost));
    out.assign(dout.size(), 0); dqkv.assign(qkv.size(), 0);
    const int64_t HD = p->HD, W = p->W, A = p->NH * HD;
    std::vector<double> x((size_t)p->T), dp((size_t)p->T);
    std::vector<int64_t> keys;
    auto at = [](const std::vector<bf16> &v, int64_t i) { return (double)__bfloat162float(v[(size_t)i]); };
    for (int64_t n = 0; n < p->N; n++) {
        const int64_t t = n % p->T, base = n - t;
        const int32_t *position = p->positions.data() + base;
        int64_t own = t, document;   // the first token of this one's document or branch; of its document
        while (own > 0 && position[own] == position[own - 1] + 1) own--;
        for (document = own; document > 0 && position[document] != 0; ) document--;
        keys.clear();
        for (int64_t j = document; j < document + position[own]; j++) keys.push_back(j);
        for (int64_t j = own; j <= t; j++) keys.push_back(j);
        for (int64_t h = 0; h < p->NH; h++) {
            const int64_t g = h / (p->NH / p->NKV), q = n * W + h * HD, o = n * A + h * HD;
            auto k = [&](int64_t j) { return (base + j) * W + (p->NH + g) * HD; };
            double m = -1e300, sum = 0, D = 0;
            for (int64_t j : keys) {
                x[(size_t)j] = 0; dp[(size_t)j] = 0;
                for (int64_t c = 0; c < HD; c++) { x[(size_t)j] += at(qkv, q + c) * at(qkv, k(j) + c); dp[(size_t)j] += at(dout, o + c) * at(qkv, k(j) + p->NKV * HD + c); }
                x[(size_t)j] /= sqrt((double)HD);
                m = std::max(m, x[(size_t)j]);
            }
            for (int64_t j : keys) { x[(size_t)j] = exp(x[(size_t)j] - m); sum += x[(size_t)j]; }
            lse[(size_t)((n / p->T * p->NH + h) * p->TP + t)] = (float)((m + log(sum)) * 1.4426950408889634);
            for (int64_t j : keys) {
                x[(size_t)j] /= sum; D += x[(size_t)j] * dp[(size_t)j];
                for (int64_t c = 0; c < HD; c++) out[(size_t)(o + c)] += x[(size_t)j] * at(qkv, k(j) + p->NKV * HD + c);
            }
            for (int64_t j : keys) {
                const double ds = x[(size_t)j] * (dp[(size_t)j] - D) / sqrt((double)HD);
                for (int64_t c = 0; c < HD; c++) {
                    dqkv[(size_t)(q + c)] += ds * at(qkv, k(j) + c);
                    dqkv[(size_t)(k(j) + c)] += ds * at(qkv, q + c);
                    dqkv[(size_t)(k(j) + p->NKV * HD + c)] += x[(size_t)j] * at(dout, o + c);
                }
            }
        }
    }
}

static double number(bf16 x) { return (double)__bfloat162float(x); }
static double number(float x) { return (double)x; }
static double number(double x) { return x; }
// of columns [begin, end) of rows of `width`: ||a - b|| / max(||b||, least), NaN if a has one; and the place of the largest difference
typedef struct { double error; int64_t at; double got, expected; } Difference;
template <typename X, typename Y> static Difference difference(const std::vector<X> &a, const std::vector<Y> &b, int64_t width, int64_t begin, int64_t end, double least) {
    double d = 0, n = 0, worst = -1;
    Difference r = {0, 0, 0, 0};
    for (int64_t row = 0; row < (int64_t)a.size() / width; row++)
        for (int64_t i = row * width + begin; i < row * width + end; i++) {
            const double x = number(a[(size_t)i]), y = number(b[(size_t)i]), e = fabs(x - y);
            d += e * e; n += y * y;
            if (e > worst || (e != e && worst != INFINITY)) { worst = e != e ? INFINITY : e; r.at = i; r.got = x; r.expected = y; }
        }
    r.error = sqrt(d) / std::max(sqrt(n), std::max(least, 1e-300));
    return r;
}

static int failures, checks;
static const char *const parts[] = {"out", "dq", "dk", "dv", "lse"};
// out and dqkv against `out`, `dqkv` (the same arrays, double or bf16), lse against `lse`; one line, more when something is wrong
template <typename X, typename Y> static void compare(const Problem *p, const char *name, const std::vector<X> &got_out, const std::vector<X> &got_dqkv, const std::vector<float> &got_lse, const std::vector<Y> &out,
                                                      const std::vector<Y> &dqkv, const std::vector<float> &lse, double limit, const std::string &complaints) {
    // dq and dk are small where documents are: softmax over one key has no gradient. They are measured by dv's norm then.
    const int64_t A = p->A, K = p->NKV * p->HD, from[4] = {0, A, A + K, A + 2 * K};
    double least = 0;
    for (size_t i = 0; i < dqkv.size(); i++) if ((int64_t)(i % (size_t)p->W) >= A + K) least += number(dqkv[i]) * number(dqkv[i]);
    least = 0.05 * sqrt(least);
    Difference e[5] = {difference(got_out, out, A, 0, A, 0)};
    for (int k = 0; k < 3; k++) e[1 + k] = difference(got_dqkv, dqkv, p->W, from[k], from[k + 1], k < 2 ? least : 0);
    e[4] = {0, 0, 0, 0};
    for (int64_t i = 0; i < p->B * p->NH * p->TP; i++) {
        const double d = fabs((double)got_lse[(size_t)i] - (double)lse[(size_t)i]);
        if (i % p->TP < p->T && (d > e[4].error || d != d)) { e[4] = {d, i, got_lse[(size_t)i], lse[(size_t)i]}; if (d != d) break; }
    }
    bool ok = complaints.empty();
    for (int k = 0; k < 5; k++) ok = ok && e[k].error < (k < 4 ? limit : 1e-3);
    checks++; failures += !ok;
    printf("%-11s %s: out %.1e dq %.1e dk %.1e dv %.1e lse %.1e %s%s\n", name, describe(p).c_str(), e[0].error, e[1].error, e[2].error, e[3].error, e[4].error, ok ? "ok" : "FAILED", complaints.c_str());
    for (int k = 0; k < 5; k++) {
        if (e[k].error < (k < 4 ? limit : 1e-3)) continue;
        const int64_t width = k == 0 ? A : p->W, n = e[k].at / width, c = e[k].at % width - (k >= 1 && k <= 3 ? from[k - 1] : 0);
        if (k < 4) printf("    %s: worst at row %lld token %lld head %lld column %lld: %g, expected %g\n", parts[k], (long long)(n / p->T), (long long)(n % p->T), (long long)(c / p->HD), (long long)(c % p->HD), e[k].got, e[k].expected);
        else printf("    lse: worst at row %lld head %lld token %lld: %g, expected %g\n", (long long)(e[k].at / p->TP / p->NH), (long long)(e[k].at / p->TP % p->NH), (long long)(e[k].at % p->TP), e[k].got, e[k].expected);
    }
    fflush(stdout);
}
template <typename T> static bool same(const std::vector<T> &a, const std::vector<T> &b) { return memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0; }

// the fp32 kernels on the same numbers, against the reference
static void check_fp32(Problem *p, const std::vector<double> &out, const std::vector<double> &dqkv, const std::vector<float> &lse) {
    const int64_t statistics = p->B * p->NH * p->TP;
    bool fence = true;
    std::vector<bf16> qkv16((size_t)(p->N * p->W)), dout16((size_t)(p->N * p->A));
    CUDA_CHECK(cudaMemcpy(qkv16.data(), p->qkv, qkv16.size() * 2, cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaMemcpy(dout16.data(), p->dout, dout16.size() * 2, cudaMemcpyDeviceToHost));
    std::vector<float> qkv32, dout32;
    for (bf16 x : qkv16) qkv32.push_back(__bfloat162float(x));
    for (bf16 x : dout16) dout32.push_back(__bfloat162float(x));
    float *qkv, *dout, *o, *d;
    allocate(&qkv, p->N * p->W); allocate(&d, p->N * p->W); allocate(&o, p->N * p->A); allocate(&dout, p->N * p->A);
    CUDA_CHECK(cudaMemcpy(qkv, qkv32.data(), qkv32.size() * 4, cudaMemcpyHostToDevice));
    CUDA_CHECK(cudaMemcpy(dout, dout32.data(), dout32.size() * 4, cudaMemcpyHostToDevice));
    poison(o, p->N * p->A); poison(d, p->N * p->W); poison(p->lse, statistics); poison(p->dsum, statistics);
    attention_forward_plain<float>(o, p->lse, qkv, &p->plan, p->NH, p->NKV, p->HD, 0);
    attention_backward_plain<float>(d, p->dsum, dout, o, p->lse, qkv, &p->plan, p->NH, p->NKV, p->HD, 0);
    CUDA_CHECK(cudaDeviceSynchronize());
    const std::vector<float> got_out = fetch(o, p->N * p->A, &fence), got_dqkv = fetch(d, p->N * p->W, &fence), got_lse = fetch(p->lse, statistics, &fence);
    compare(p, "plain fp32", got_out, got_dqkv, got_lse, out, dqkv, lse, 2e-5, fence ? "" : "; WROTE BEYOND AN ARRAY'S END");
    for (float *x : {qkv, dout, o, d}) CUDA_CHECK(cudaFree(x));
}

// slow_reference: loops on the host, which take a second for every few hundred million multiply-adds. mixed: every forward before every backward
static void check(int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD, const std::vector<int> &lengths, float scale, bool slow_reference, bool mixed = false) {
    Problem p = problem(B, T, NH, NKV, HD, lengths, scale);
    const int64_t head_bytes = p.plan.visited_tiles * (NH / NKV) * QUERY_TILE * KEY_TILE * 2;
    const Result plain = run(&p, PLAIN, PLAIN, p.scratch_bytes);
    std::vector<double> out, dqkv;
    std::vector<float> lse = plain.lse;
    if (slow_reference) { reference(&p, out, dqkv, lse); check_fp32(&p, out, dqkv, lse); }
    for (int kind = PLAIN; kind < KINDS; kind++) {
        if (!runs(kind, &p) || (kind == PLAIN && !slow_reference)) continue;
        const Result r = kind == PLAIN ? plain : run(&p, kind, kind, p.scratch_bytes), again = run(&p, kind, kind, p.scratch_bytes);
        std::string complaints;
        if (!r.fence || !again.fence) complaints += "; WROTE BEYOND AN ARRAY'S END";
        if (!same(r.out, again.out)) complaints += "; OUT DIFFERS FROM RUN TO RUN";
        if (!same(r.dqkv, again.dqkv)) complaints += "; GRADIENT DIFFERS FROM RUN TO RUN";
        if (kind == SM90)
            for (int64_t heads = 1; heads <= 2 && heads < NKV; heads++)
                if (!same(r.dqkv, run(&p, kind, kind, heads * head_bytes).dqkv)) complaints += "; GRADIENT DIFFERS WITH SCRATCH FOR " + std::to_string(heads) + " KEY/VALUE HEADS";
        if (slow_reference) compare(&p, names[kind], r.out, r.dqkv, r.lse, out, dqkv, lse, 8e-3, complaints);
        else compare(&p, names[kind], r.out, r.dqkv, r.lse, plain.out, plain.dqkv, plain.lse, 8e-3, complaints);
    }
    for (int f = PLAIN; mixed && f < KINDS; f++)
        for (int b = PLAIN; b < KINDS; b++) {
            if (f == b || !runs(f, &p) || !runs(b, &p)) continue;
            const Result r = run(&p, f, b, p.scratch_bytes);
            compare(&p, (std::string(names[f]) + "+" + names[b]).c_str(), r.out, r.dqkv, r.lse, plain.out, plain.dqkv, plain.lse, 8e-3, r.fence ? "" : "; WROTE BEYOND AN ARRAY'S END");
        }
    problem_free(&p);
}
static std::vector<int> documents(int low, int high, int n, uint64_t seed) {
    std::vector<int> v;
    for (int i = 0; i < n; i++) v.push_back(low + (int)(random_bits(seed, (uint64_t)i) % (uint32_t)(high - low + 1)));
    return v;
}
// pairs of answers as pairs.h lays them: a prompt and the chosen answer, then from the prompt's last token on the rejected one
static std::vector<int> pairs(int prompt_low, int prompt_high, int answer_low, int answer_high, int n, uint64_t seed) {
    const std::vector<int> prompts = documents(prompt_low, prompt_high, n, seed), answers = documents(answer_low, answer_high, 2 * n, seed + 1);
    std::vector<int> v;
    for (size_t i = 0; i < prompts.size(); i++) {
        v.push_back(prompts[i] + answers[2 * i]);
        if (prompts[i] > 1) v.push_back(1 - prompts[i]);   // of one token: the branch is a document
        v.push_back(1 + answers[2 * i + 1]);
    }
    return v;
}

// The forward pass again and again on short documents, where blocks go quickly from one piece of work to the next: the same bits every time.
// (It once gave a query tile's place back before it was read: a wrong row in one of 30,000 launches of this shape, and in no other check.)
__global__ static void count_differences(const uint32_t *a, const uint32_t *b, int64_t n, int *differences) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) if (a[i] != b[i]) atomicAdd(differences, 1);
}
static void check_again_and_again(int64_t HD, const std::vector<int> &lengths, int launches) {
    Problem p = problem(2, 2048, 8, 2, HD, lengths, 1);
    if (runs(SM90, &p)) {
        const int64_t words = p.N * p.A / 2, statistics = p.B * p.NH * p.TP;   // T is a multiple of the tile: all of lse is written
        bf16 *out;
        float *lse;
        int *differences, found;
        allocate(&out, p.N * p.A); allocate(&lse, statistics); allocate(&differences, 1);
        CUDA_CHECK(cudaMemset(differences, 0, 4));
        forward(&p, SM90);
        CUDA_CHECK(cudaMemcpy(out, p.out, (size_t)words * 4, cudaMemcpyDeviceToDevice));
        CUDA_CHECK(cudaMemcpy(lse, p.lse, (size_t)statistics * 4, cudaMemcpyDeviceToDevice));
        for (int i = 0; i < launches; i++) {
            poison(p.out, p.N * p.A);
            forward(&p, SM90);
            count_differences<<<512, 256>>>((const uint32_t *)p.out, (const uint32_t *)out, words, differences);
            count_differences<<<32, 256>>>((const uint32_t *)p.lse, (const uint32_t *)lse, statistics, differences);
        }
        CUDA_CHECK(cudaGetLastError());
        CUDA_CHECK(cudaMemcpy(&found, differences, 4, cudaMemcpyDeviceToHost));
        checks++; failures += found != 0;
        printf("sm90        %s: %d launches, %d words differ %s\n", describe(&p).c_str(), launches, found, found ? "FAILED" : "ok");
        fflush(stdout);
        for (void *x : {(void *)out, (void *)lse, (void *)differences}) CUDA_CHECK(cudaFree(x));
    }
    problem_free(&p);
}

static void check_all(void) {
    const std::vector<std::vector<int>> lists = {{}, {1}, documents(1, 3, 97, 2), {63, 64, 65, 127, 128, 129, 1}, documents(120, 1500, 97, 3), documents(1, 90, 97, 4)};
    const struct { int NH, NKV; } heads[] = {{4, 4}, {4, 2}, {8, 2}, {7, 1}, {8, 1}, {12, 3}};   // groups of 1, 2, 4, 7, 8, 4
    const int lengths[] = {1, 63, 64, 65, 77, 128, 200, 333, 1000, 2048};
    for (int64_t HD : {64, 128})
        for (size_t length = 0; length < 10; length++)
            for (size_t list = 0; list < 6; list++) {
                if (lengths[length] == 1 && list > 0) continue;
                const size_t h = (length + list) % 6;   // over the lengths every list meets every group
                check(list % 2 ? 2 : 1, lengths[length], heads[h].NH, heads[h].NKV, HD, lists[list], list == 4 ? 3.0f : 1.0f, lengths[length] <= 200, lengths[length] == 333);
            }
    const std::vector<std::vector<int>> pair_lists = {pairs(1, 4, 1, 3, 97, 10), pairs(1, 40, 1, 40, 97, 11), pairs(1, 700, 1, 300, 97, 12), pairs(200, 300, 60, 130, 97, 13), {100, -60, 70, -60, 40, -60, 5, -31, 90, -1, 33}};
    const int pair_lengths[] = {65, 200, 333, 500, 1000, 2048};   // more than one document and its branches a row in most
    const struct { int NH, NKV; } few[] = {{2, 2}, {4, 2}, {6, 2}, {7, 1}, {8, 1}, {5, 1}};   // groups of 1, 2, 3, 7, 8, 5
    for (int64_t HD : {64, 128})
        for (size_t length = 0; length < 6; length++)
            for (size_t list = 0; list < pair_lists.size(); list++) {
                const size_t h = (length + list) % 6;
                check(list % 2 ? 2 : 1, pair_lengths[length], few[h].NH, few[h].NKV, HD, pair_lists[list], list == 3 ? 3.0f : 1.0f, pair_lengths[length] <= 333, pair_lengths[length] == 333);
            }
    for (int64_t HD : {64, 128})   // the branch point, the branch's beginning and the other answer's end on tiles' borders and beside them
        for (int point : {1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 193})
            for (int begin : {point + 1 + 62, point + 1 + 63, point + 1 + 64, 255, 256, 257, 383, 384, 385}) check(1, begin + 130, 2, 1, HD, {begin, -point, 130}, 1, HD == 64 || begin < 260);
    for (int64_t HD : {16, 32, 80, 256}) {
        check(2, 300, 4, 2, HD, pairs(1, 90, 1, 60, 50, 7), 1, true);
        check(2, 150, 4, 2, HD, documents(1, 90, 50, 7), 1, true);
        check(1, 1, 2, 1, HD, {}, 1, true);
        check(1, 130, 7, 1, HD, {}, 1, true);
    }
    for (int64_t HD : {64, 128}) {
        check(3, 191, 7, 1, HD, {}, 1, true);
        check(2, 3000, 16, 2, HD, documents(20, 900, 97, 5), 3, false);
        check(1, 4097, 12, 4, HD, documents(1, 4000, 97, 6), 1, false);
        check(2, 2048, 32, 8, HD, {}, 2, false, true);
    }
    check(2, 8192, 32, 8, 128, documents(120, 1500, 97, 8), 1, false);
    check(2, 8192, 32, 8, 128, pairs(100, 1500, 50, 1000, 97, 14), 1, false);
    check(1, 3000, 24, 3, 64, {1000, -400, 900, -400, 500, -7, 400}, 2, false);
    for (int64_t HD : {64, 128}) {
        check_again_and_again(HD, documents(1, 90, 97, 2), 150000);
        check_again_and_again(HD, pairs(1, 60, 1, 40, 97, 2), 30000);
    }
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
    timed(f, 400);
    for (int i = 0; i < 5; i++) sustained.push_back(timed(f, 60));
    printf("%-66s rested %.3f ms %4.0f TFLOP/s | sustained %.3f ms %4.0f TFLOP/s\n", name, median(rested), flops / median(rested) * 1e-9, median(sustained), flops / median(sustained) * 1e-9);
    fflush(stdout);
}
static void bench(const char *name, int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD, const std::vector<int> &lengths, int kind) {
    Problem p = problem(B, T, NH, NKV, HD, lengths, 1.0f);
    const double pairs = lengths.empty() ? (double)B * (double)T * (double)T / 2 : p.plan.visible_pairs, flops = 4.0 * (double)p.A * pairs;
    char text[96];
    if (runs(kind, &p)) {
        forward(&p, kind);
        snprintf(text, sizeof text, "%s %s forward", names[kind], name);
        times(text, [&] { forward(&p, kind); }, flops);
        snprintf(text, sizeof text, "%s %s backward", names[kind], name);
        times(text, [&] { backward(&p, kind, p.scratch_bytes); }, 2.5 * flops);
    }
    problem_free(&p);
}

int main(int argc, char **argv) {
    program_name = "attention_check";
    const std::string what = argc > 1 ? argv[1] : "all";
    if (argc > 2 || (what != "all" && what != "check" && what != "tiny" && what != "bench")) die("unknown argument ---> attention_check [check | tiny | bench]");
    if (what == "tiny") {
        check(2, 333, 6, 1, 128, documents(1, 90, 50, 1), 1, false);
        check(1, 200, 8, 4, 64, documents(1, 3, 90, 2), 1, false);
        check(1, 65, 2, 2, 128, {}, 1, false);
        check(2, 333, 6, 1, 128, pairs(1, 90, 1, 60, 50, 1), 1, false);
        check(1, 400, 8, 4, 64, {150, -64, 130, -64, 100}, 1, false);
    } else if (what != "bench") check_all();
    if (what != "bench") {
        printf("%d checks, %d failed: %s\n", checks, failures, failures ? "FAILED" : "all ok");
        if (failures) return 1;
    }
    if (what == "all" || what == "bench") {
        const std::vector<int> packed = documents(120, 1500, 97, 3);
        for (int round = 0; round < 2; round++) {
            bench("1 x 8192 causal, 32/8 heads of 128", 1, 8192, 32, 8, 128, {}, SM90);
            bench("2 x 8192 documents of 120-1500, 32/8 heads of 128", 2, 8192, 32, 8, 128, packed, SM90);
            bench("1 x 8192 causal, 32/8 heads of 128", 1, 8192, 32, 8, 128, {}, CUDNN);
        }
        for (int kind : {SM90, MMA}) {   // the same 28 answers
            bench("14 pairs, prompt 600, answers 250, shared: 2 x 7707", 2, 7707, 32, 8, 128, {850, -599, 251}, kind);
            bench("14 pairs, prompt 600, answers 250, repeated: 4 x 5950", 4, 5950, 32, 8, 128, {850}, kind);
        }
        bench("2 x 8192 causal, 32/8 heads of 128", 2, 8192, 32, 8, 128, {}, SM90);
        bench("1 x 8192 causal, 32/8 heads of 64", 1, 8192, 32, 8, 64, {}, SM90);
        bench("4 x 2048 causal, 32/8 heads of 128", 4, 2048, 32, 8, 128, {}, SM90);
        bench("1 x 8192 causal, 32/8 heads of 128", 1, 8192, 32, 8, 128, {}, MMA);
        bench("2 x 8192 documents of 120-1500, 32/8 heads of 128", 2, 8192, 32, 8, 128, packed, MMA);
        bench("1 x 8192 causal, 32/8 heads of 64", 1, 8192, 32, 8, 64, {}, MMA);
    }
    return 0;
}
