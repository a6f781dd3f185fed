// matmul.cu: matrix products by hand (dev/matmul_sm90.cuh) beside the library's.
//
//     build/dev/matmul check          odd shapes against sums in double; large ones against cuBLASLt, bit for bit
//     build/dev/matmul bench [rows [NAME]]  the products of a layer of Llama-3-8B, each beside the library's fastest (tuned as training tunes): rested, at the power
//                                     limit, and all of a layer in turn as a step runs them
#include "../findap/kernels/matmul.cuh"   // defines: gemm_*, shape_*
#include "matmul_sm90.cuh"                // defines: matmul_sm90
#include "ladder.cuh"                     // defines: Array, expect*

// the same product in row-major words: D (n, m), the library's second operand first
static Matmul gemm_own(const GemmShape *s, const void *a, const void *b, const void *c, void *d, const void *bias, int32_t *counters) {
    Matmul m;
    memset(&m, 0, sizeof m);
    CHECK(s->ldd == s->m && s->lda == (s->transpose_a ? s->k : s->m) && s->ldb == (s->transpose_b ? s->n : s->k));
    m.a = (const bf16 *)b; m.b = (const bf16 *)a; m.c = s->add && !s->out_fp32 ? (const bf16 *)c : NULL; m.bias = s->bias ? (const bf16 *)bias : NULL; m.d = d;
    m.R = s->n; m.S = s->m; m.K = s->k;
    m.a_by_rows_of_k = s->transpose_b; m.b_by_rows_of_k = !s->transpose_a; m.out_fp32 = s->out_fp32; m.add = s->add; m.scale = s->scale; m.counters = counters;
    return m;
}

static int32_t *counters;

enum { FORWARD, DINPUT, DWEIGHT };
static void check(int kind, int64_t N, int64_t K, int64_t O, bool extra) {   // extra: residual and bias; D += ...
    char name[128];
    snprintf(name, sizeof name, "%s N %lld K %lld O %lld%s", kind == FORWARD ? "forward" : kind == DINPUT ? "dinput" : "dweight", (long long)N, (long long)K, (long long)O, extra ? " with more" : "");
    Array<bf16> x(N * K, 1, 1.0f), w(O * K, 2, 1.0f), y(N * O, 3, 1.0f), bias(O, 4, 1.0f), out(kind == FORWARD ? N * O : N * K);
    Array<float> dw(O * K, 5, 1.0f);
    const std::vector<double> X = x.numbers(), W = w.numbers(), Y = y.numbers(), B = bias.numbers(), D = dw.numbers();
    std::vector<double> want((size_t)(kind == FORWARD ? N * O : kind == DINPUT ? N * K : O * K));
    GemmShape s = kind == FORWARD ? shape_forward(N, K, O, O, extra, extra) : kind == DINPUT ? shape_dinput(N, K, O, O, extra) : shape_dweight(N, K, O, O, extra);
    if (kind == DINPUT && extra) out.copy(x);
    #pragma omp parallel for
    for (int64_t i = 0; i < (kind == DWEIGHT ? O : N); i++)
        for (int64_t j = 0; j < (kind == FORWARD ? O : K); j++) {
            double sum = 0;
            for (int64_t k = 0; k < (kind == FORWARD ? K : kind == DINPUT ? O : N); k++)
                sum += kind == FORWARD ? X[(size_t)(i * K + k)] * W[(size_t)(j * K + k)] : kind == DINPUT ? Y[(size_t)(i * O + k)] * W[(size_t)(k * K + j)] : Y[(size_t)(k * O + i)] * X[(size_t)(k * K + j)];
            if (extra) sum += kind == FORWARD ? Y[(size_t)(i * O + j)] + B[(size_t)j] : kind == DINPUT ? X[(size_t)(i * K + j)] : D[(size_t)(i * K + j)];
            want[(size_t)(i * (kind == FORWARD ? O : K) + j)] = sum;
        }
    Matmul m = kind == FORWARD ? gemm_own(&s, w.at, x.at, y.at, out.at, bias.at, counters) : kind == DINPUT ? gemm_own(&s, w.at, y.at, out.at, out.at, NULL, counters) : gemm_own(&s, x.at, y.at, NULL, dw.at, NULL, counters);
    expect(matmul_sm90_possible(&m), "not possible", name);
    matmul_sm90(&m, 0);
    if (kind == DWEIGHT) expect_close(dw, want, "dw", name); else expect_close(out, want, "out", name);
}
static void check_swiglu(int64_t N, int64_t K, int64_t F) {   // gate and up as without, act as swiglu_forward leaves it: the same bits
    char name[128];
    snprintf(name, sizeof name, "with SwiGLU N %lld K %lld F %lld", (long long)N, (long long)K, (long long)F);
    Array<bf16> x(N * K, 1, 1.0f), w(2 * F * K, 2, 0.1f), gate_up(N * 2 * F), act(N * F), gate_up2(N * 2 * F), act2(N * F);
    GemmShape s = shape_forward(N, K, 2 * F, 2 * F, false, false);
    Matmul m = gemm_own(&s, w.at, x.at, NULL, gate_up.at, NULL, counters);
    matmul_sm90(&m, 0);
    swiglu_forward(act.at, gate_up.at, N, F, 0);
    m.d = gate_up2.at; m.act = act2.at;
    matmul_sm90(&m, 0);
    expect(same_bits(gate_up.get(), gate_up2.get()), "gate_up: other bits", name);
    expect(same_bits(act.get(), act2.get()), "act: other bits", name);
    expect(gate_up2.fences_stand() && act2.fences_stand(), "written outside its shape", name);
}

typedef struct { const char *name; GemmShape s; } Product;
static std::vector<Product> products(int64_t N) {
    const int64_t C = 4096, F = 14336, W = 6144, V = 128256, H = N / 2;
    return {{"qkv forward", shape_forward(N, C, W, W, false, false)}, {"o forward", shape_forward(N, C, C, C, true, false)}, {"gate_up forward", shape_forward(N, C, 2 * F, 2 * F, false, false)}, {"down forward", shape_forward(N, F, C, C, true, false)},
            {"down dinput", shape_dinput(N, F, C, C, false)}, {"down dweight +=", shape_dweight(N, F, C, C, true)}, {"gate_up dinput", shape_dinput(N, C, 2 * F, 2 * F, false)}, {"gate_up dweight +=", shape_dweight(N, C, 2 * F, 2 * F, true)},
            {"o dinput", shape_dinput(N, C, C, C, false)}, {"o dweight +=", shape_dweight(N, C, C, C, true)}, {"qkv dinput", shape_dinput(N, C, W, W, false)}, {"qkv dweight +=", shape_dweight(N, C, W, W, true)},
            {"LM head forward", shape_forward(H, C, V, V, false, false)}, {"LM head dinput", shape_dinput(H, C, V, V, false)}, {"LM head dweight +=", shape_dweight(H, C, V, V, true)}};
}

static int bench(int64_t N, const char *only) {
    const int64_t big = 128256ll * 4096;
    static Gemm g;
    gemm_create(&g);
    real *a, *b; char *d, *d2; int *differs;
    CUDA_CHECK(cudaMalloc((void **)&a, big * 2)); CUDA_CHECK(cudaMalloc((void **)&b, big * 2)); CUDA_CHECK(cudaMalloc((void **)&d, big * 4)); CUDA_CHECK(cudaMalloc((void **)&d2, big * 4)); CUDA_CHECK(cudaMalloc((void **)&differs, 4));
    gemm_fill_kernel<<<1024, 256>>>(a, big, 1); gemm_fill_kernel<<<1024, 256>>>(b, big, 2);
    std::vector<Product> all;
    for (auto &p : products(N)) if (strstr(p.name, only)) all.push_back(p);
    static char notes[16384];
    for (auto &p : all) gemm_tune(&g, &p.s, a, b, b, d, d2, differs, p.name, notes, sizeof notes, 0);
    printf("%s", notes);
    cudaEvent_t e0, e1;
    CUDA_CHECK(cudaEventCreate(&e0)); CUDA_CHECK(cudaEventCreate(&e1));
    auto run = [&](const Product &p, int how, char *out) {   // 0: the library; 4, 8, 16: ours, that many pairs of rows together
        if (!how) { GemmPlan *plan = gemm_plan(&g, &p.s); gemm_launch(&g, plan, &plan->algorithm, a, b, p.s.out_fp32 ? (void *)out : b, out, NULL, 0); return; }
        Matmul m = gemm_own(&p.s, a, b, b, out, NULL, counters);
        m.group = how;
        matmul_sm90(&m, 0);
    };
    const int ways[] = {0, 8, 4};   // first the two that are compared at the limit
    auto timed = [&](const Product &p, int how, int times) {
        float ms;
        CUDA_CHECK(cudaEventRecord(e0));
        for (int i = 0; i < times; i++) run(p, how, d2);
        CUDA_CHECK(cudaEventRecord(e1));
        CUDA_CHECK(cudaEventSynchronize(e1));
        CUDA_CHECK(cudaEventElapsedTime(&ms, e0, e1));
        return (double)ms / times;
    };
    printf("\n%-20s %6s | rested, TFLOP/s: %7s %7s %7s | at the limit: %7s %7s\n", "product", "bits", "library", "ours", "by 4", "library", "ours");
    for (auto &p : all) {
        const double flops = 2e-9 * (double)p.s.m * (double)p.s.n * (double)p.s.k;
        const size_t bytes = (size_t)(p.s.ldd * p.s.n) * (p.s.out_fp32 ? 4 : 2);
        int host = 0;
        CUDA_CHECK(cudaMemset(d, 0, bytes)); CUDA_CHECK(cudaMemset(d2, 0, bytes)); CUDA_CHECK(cudaMemset(differs, 0, 4));
        run(p, 0, d); run(p, 8, d2);
        gemm_differs_kernel<<<1024, 256>>>((const uint32_t *)d, (const uint32_t *)d2, (int64_t)bytes / 4, differs);
        CUDA_CHECK(cudaMemcpy(&host, differs, 4, cudaMemcpyDeviceToHost));
        printf("%-20s %6s |                 ", p.name, host ? "OTHER" : "same");
        expect(!host, "other bits than the library's", p.name);
        for (int how : ways) {
            std::vector<double> t;
            for (int i = 0; i < 7; i++) { usleep(5000); t.push_back(timed(p, how, 1)); }
            std::sort(t.begin(), t.end());
            printf(" %7.0f", flops / t[2]);
        }
        printf(" |              ");
        std::vector<double> t[2];
        for (int round = 0; round < 3; round++)
            for (int w = 0; w < 2; w++) t[w].push_back(timed(p, ways[w], (int)ceil(60 / timed(p, ways[w], 1))));
        for (int w = 0; w < 2; w++) { std::sort(t[w].begin(), t[w].end()); printf(" %7.0f", flops / t[w][1]); }
        printf("\n");
        fflush(stdout);
    }
    // a layer's twelve products in the order of a step, and the LM head's three for every 32 layers and two halves: 0.7 s of each in turn
    for (int round = 0; round < 4 && !*only; round++)
        for (int how : {0, 8}) {
            double ms = 0;
            for (int i = 0; i < 2; i++) {
                float t;
                CUDA_CHECK(cudaEventRecord(e0));
                for (int layer = 0; layer < 32; layer++) for (int k = 0; k < 12; k++) run(all[(size_t)k], how, k % 2 ? d : d2);
                for (int half = 0; half < 2; half++) for (size_t k = 12; k < 15; k++) run(all[k], how, d2);
                CUDA_CHECK(cudaEventRecord(e1)); CUDA_CHECK(cudaEventSynchronize(e1)); CUDA_CHECK(cudaEventElapsedTime(&t, e0, e1));
                ms = t;
            }
            printf("all products of a micro-batch, %s: %.1f ms\n", how ? "ours" : "the library's", ms);
        }
    return failures != 0;
}

int main(int argc, char **argv) {
    program_name = "matmul";
    CUDA_CHECK(cudaMalloc((void **)&counters, 8));
    CUDA_CHECK(cudaMemset(counters, 0, 8));
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "bench") == 0) return bench(argc > 2 ? atoll(argv[2]) : 8192, argc > 3 ? argv[3] : "");
    if (strcmp(what, "check") != 0) die("\"%s\" is not known ---> check or bench", what);
    for (bool extra : {false, true}) {
        for (int64_t N : {1, 64, 127, 300}) for (int64_t K : {64, 320, 1024}) for (int64_t O : {64, 192, 576}) check(FORWARD, N, K, O, extra);
        for (int64_t N : {1, 130, 513}) for (int64_t K : {64, 448}) for (int64_t O : {64, 704}) check(DINPUT, N, K, O, extra);
        for (int64_t N : {1, 65, 700}) for (int64_t K : {64, 320}) for (int64_t O : {64, 448}) check(DWEIGHT, N, K, O, extra);
        check(FORWARD, 3000, 256, 2560, extra); check(DINPUT, 3000, 2560, 256, extra); check(DWEIGHT, 512, 2560, 2560, extra);   // several items a block
    }
    for (int64_t N : {1, 200, 3000}) for (int64_t F : {128, 640, 2048}) check_swiglu(N, 512, F);
    return check_result();
}
