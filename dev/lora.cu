// lora.cu: the ladder of findap/kernels/lora_thin.cuh: the thin products of LoRA's adapters. How to call it: dev/ladder.cuh.
// Bytes that must move: those of the wide matrix, read or written once (with a residual: and read). A, B, xa and their gradients are a few per cent of that.
#include "ladder.cuh"                    // defines: Array, ladder_*, expect*
#include "../findap/kernels/lora.cuh"    // defines: lora_a_*, lora_b_*, lora_shape_*, LoraSide

typedef std::vector<double> Numbers;

// ---------------------------------------------------------------------------------------------------------------------
// the reference, in double: c (M, N) = sum over k of a (M, K; rows lda apart) b (K, N; element (k, n) at k * sk + n * sn)

static Numbers product(const Numbers &a, int64_t la, int64_t sa, const Numbers &b, int64_t sk, int64_t sn, int64_t M, int64_t N, int64_t K, double scale) {
    Numbers c((size_t)(M * N));
    #pragma omp parallel for collapse(2)
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            double sum = 0;
            for (int64_t k = 0; k < K; k++) sum += a[(size_t)(m * la + k * sa)] * b[(size_t)(k * sk + n * sn)];
            c[(size_t)(m * N + n)] = scale * sum;
        }
    return c;
}
static Numbers columns(const Numbers &x, int64_t ld, int64_t first, int64_t width) {
    Numbers y;
    for (int64_t n = 0; n < (int64_t)x.size() / ld; n++) y.insert(y.end(), x.begin() + n * ld + first, x.begin() + n * ld + first + width);
    return y;
}
static double difference_columns(const Array<real> &a, int64_t ld, int64_t first, const Numbers &b, int64_t width, double *worst) {
    const Numbers x = columns(a.numbers(), ld, first, width);
    double d = 0, n = 0, mean, most = 0;
    for (double y : b) n += y * y;
    mean = sqrt(n / (double)b.size()) + 1e-300;
    for (size_t i = 0; i < b.size(); i++) {
        const double y = (double)to_float(from_float<real>((float)b[i])), e = fabs(x[i] - y);
        d += e * e;
        if (!(e / (fabs(y) + mean) <= most)) most = e / (fabs(y) + mean);
    }
    *worst = most;
    return sqrt(d) / (sqrt(n) + 1e-300);
}
static void expect_columns(const Array<real> &a, int64_t ld, int64_t first, const Numbers &b, int64_t width, const char *what, const char *shape) {
    double worst;
    const double norm = difference_columns(a, ld, first, b, width, &worst);
    char text[160];
    snprintf(text, sizeof text, "%s: error %.2e, worst number %.2e", what, norm, worst);
    expect(norm <= (sizeof(real) == 2 ? 4e-4 : 1e-5) && worst <= (sizeof(real) == 2 ? 1e-2 : 1e-4) && a.fences_stand(), text, shape);
}

static Gemm gemm;

// a site of n projections O[i] wide, which begin at column[i] of y: every product of it, and that the same launch gives the same bits
static void check(int64_t N, int64_t K, int64_t R, int n, const int64_t *column, const int64_t *O, int64_t ldy, bool residual) {
    char shape[160];
    snprintf(shape, sizeof shape, "LoRA N %lld K %lld R %lld, %d projections, the last %lld wide at %lld of %lld%s", (long long)N, (long long)K, (long long)R, n, (long long)O[n - 1], (long long)column[n - 1], (long long)ldy, residual ? ", residual" : "");
    const int64_t nR = n * R;
    const float scale = 2.0f;
    Array<real> x(N * K, 1, 1.0f), a(nR * K, 2, 0.1f), dy(N * ldy, 3, 1.0f), with(N * ldy, 4, 1.0f), xa(N * nR), y(N * ldy), dxa(N * nR), dx(N * K), again(N * nR);
    Array<float> da(nR * K), before(nR * K, 5, 1.0f), da_again(nR * K);
    std::vector<Array<real> *> b;
    std::vector<Array<float> *> db;
    LoraSide side[3];
    for (int i = 0; i < n; i++) {
        b.push_back(new Array<real>(O[i] * R, 10 + (uint64_t)i, 0.1f));
        db.push_back(new Array<float>(O[i] * R));
        side[i] = {b[(size_t)i]->at, db[(size_t)i]->at, O[i], column[i]};
    }
    lora_a_forward(&gemm, xa.at, x.at, a.at, scale, N, K, nR, 0);
    expect_close(xa, product(x.numbers(), K, 1, a.numbers(), 1, K, N, nR, K, scale), "xa", shape);
    lora_a_forward(&gemm, again.at, x.at, a.at, scale, N, K, nR, 0);
    expect(same_bits(xa.get(), again.get()), "xa: other bits the second time", shape);
    lora_b_forward(&gemm, y.at, ldy, xa.at, side, n, residual ? with.at : NULL, N, R, 0);
    const Numbers u = xa.numbers(), wide = dy.numbers(), added = with.numbers();
    std::vector<bool> made((size_t)ldy, false);
    for (int i = 0; i < n; i++) {
        Numbers want = product(columns(u, nR, i * R, R), R, 1, b[(size_t)i]->numbers(), 1, R, N, O[i], R, 1);
        if (residual) { const Numbers w = columns(added, ldy, column[i], O[i]); for (size_t k = 0; k < want.size(); k++) want[k] += w[k]; }
        expect_columns(y, ldy, column[i], want, O[i], "y", shape);
        for (int64_t c = 0; c < O[i]; c++) made[(size_t)(column[i] + c)] = true;
    }
    const Numbers ys = y.numbers();
    bool left = true;
    for (int64_t t = 0; t < N; t++) for (int64_t c = 0; c < ldy; c++) left = left && (made[(size_t)c] || ys[(size_t)(t * ldy + c)] != ys[(size_t)(t * ldy + c)]);
    expect(left, "y: written between the projections", shape);
    for (int add = 0; add < 2; add++) {
        lora_b_backward(&gemm, dxa.at, dy.at, ldy, xa.at, side, n, scale, add, N, R, 0);
        for (int i = 0; i < n; i++) {
            const Numbers part = columns(wide, ldy, column[i], O[i]);
            if (add == 0) expect_columns(dxa, nR, i * R, product(part, O[i], 1, b[(size_t)i]->numbers(), R, 1, N, R, O[i], scale), R, "dxa", shape);
            Numbers want = product(part, 1, O[i], columns(u, nR, i * R, R), R, 1, O[i], R, N, 1 + add);
            expect_close(*db[(size_t)i], want, add ? "dB +=" : "dB", shape);
        }
    }
    lora_a_backward_input(&gemm, dx.at, dxa.at, a.at, N, K, nR, 0);
    const Numbers du = dxa.numbers();
    expect_close(dx, product(du, nR, 1, a.numbers(), K, 1, N, K, nR, 1), "dx", shape);
    Numbers want = product(du, 1, nR, x.numbers(), K, 1, nR, K, N, 1);
    lora_a_backward_weight(&gemm, da.at, dxa.at, x.at, false, N, K, nR, 0);
    expect_close(da, want, "dA", shape);
    da_again.copy(before);
    const Numbers old = before.numbers();
    for (size_t k = 0; k < want.size(); k++) want[k] += old[k];
    lora_a_backward_weight(&gemm, da_again.at, dxa.at, x.at, true, N, K, nR, 0);
    expect_close(da_again, want, "dA +=", shape);
    da_again.copy(before);
    const std::vector<float> first = da.get();
    lora_a_backward_weight(&gemm, da_again.at, dxa.at, x.at, false, N, K, nR, 0);
    expect(same_bits(first, da_again.get()), "dA: other bits the second time", shape);
    for (int i = 0; i < n; i++) { delete b[(size_t)i]; delete db[(size_t)i]; }
}
static void check_site(int64_t N, int64_t K, int64_t R, std::vector<int64_t> O, uint64_t without, bool residual) {   // without: bits of the projections that have no adapter
    int64_t column[3], width[3], at = 0;
    int n = 0;
    for (size_t i = 0; i < O.size(); i++) {
        if (!(without >> i & 1)) { column[n] = at; width[n++] = O[i]; }
        at += O[i];
    }
    check(N, K, R, n, column, width, at, residual);
}

// ---------------------------------------------------------------------------------------------------------------------
// rung 1: a thread an element of the result

__global__ static void plain_kernel(real *c, float *sum_to, const real *a, int64_t la, int64_t sa, const real *b, int64_t sk, int64_t sn, int64_t ldc, int64_t M, int64_t N, int64_t K, float scale) {
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= M * N) return;
    const int64_t m = i / N, n = i % N;
    float sum = 0;
    for (int64_t k = 0; k < K; k++) sum += to_float(a[m * la + k * sa]) * to_float(b[k * sk + n * sn]);
    if (c) c[m * ldc + n] = from_float<real>(scale * sum);
    else sum_to[m * ldc + n] = sum;
}
static void plain(real *c, float *sum_to, const real *a, int64_t la, int64_t sa, const real *b, int64_t sk, int64_t sn, int64_t ldc, int64_t M, int64_t N, int64_t K, float scale) {
    plain_kernel<<<(unsigned)ceil_div(M * N, 256), 256>>>(c, sum_to, a, la, sa, b, sk, sn, ldc, M, N, K, scale);
    CUDA_CHECK(cudaGetLastError());
}
static const char *const ideas[] = {"a thread an element of the result", "cuBLASLt's first choice", "lora_thin.cuh: the wide matrix once, all that is made from it together"};

static void bench(const Ladder *l, const char *name, int64_t N, int64_t K, int64_t R, int n, const int64_t *O) {
    int64_t column[3], W = 0;
    for (int i = 0; i < n; i++) { column[i] = W; W += O[i]; }
    const int64_t nR = n * R;
    Array<real> x(SETS * N * K, 1, 1.0f), a(nR * K, 2, 0.1f), y(SETS * N * W, 3, 1.0f), xa(SETS * N * nR, 4, 1.0f), dxa(SETS * N * nR, 5, 1.0f), b(W * R, 6, 0.1f);
    Array<float> da(nR * K), db(W * R);
    LoraSide side[3];
    for (int i = 0; i < n; i++) side[i] = {b.at + column[i] * R, db.at + column[i] * R, O[i], column[i]};
    auto time = [&](const char *what, double bytes, auto f) {
        char title[128];
        snprintf(title, sizeof title, "%s, %s: %lld tokens, R %lld", name, what, (long long)N, (long long)R);
        ladder_title(title);
        for (int rung = 1; rung <= 3; rung++) if (ladder_wants(l, rung)) ladder_rung(l, rung, ideas[rung - 1], bytes, 0, [&](int set) { f(rung, set); });
    };
    time("xa = s x A^T", 2.0 * (double)(N * K), [&](int rung, int set) {
        real *u = xa.at + set * N * nR, *from = x.at + set * N * K;
        if (rung == 1) plain(u, NULL, from, K, 1, a.at, 1, K, nR, N, nR, K, 2);
        else if (rung == 2) gemm_run(&gemm, lora_shape_xa(N, K, nR, 2), a.at, from, NULL, u, NULL, 0);
        else lora_a_forward(&gemm, u, from, a.at, 2, N, K, nR, 0);
    });
    time("y = xa B^T", 2.0 * (double)(N * W), [&](int rung, int set) {
        real *u = xa.at + set * N * nR, *to = y.at + set * N * W;
        if (rung == 3) lora_b_forward(&gemm, to, W, u, side, n, NULL, N, R, 0);
        else for (int i = 0; i < n; i++) {
            if (rung == 1) plain(to + column[i], NULL, u + i * R, nR, 1, side[i].b, 1, R, W, N, O[i], R, 1);
            else gemm_run(&gemm, lora_shape_y(N, R, nR, O[i], W, false), side[i].b, u + i * R, NULL, to + column[i], NULL, 0);
        }
    });
    time("dxa = s dy B, dB = dy^T xa", 2.0 * (double)(N * W), [&](int rung, int set) {
        real *u = xa.at + set * N * nR, *du = dxa.at + set * N * nR, *dy = y.at + set * N * W;
        if (rung == 3) lora_b_backward(&gemm, du, dy, W, u, side, n, 2, false, N, R, 0);
        else for (int i = 0; i < n; i++) {
            if (rung == 1) { plain(du + i * R, NULL, dy + column[i], W, 1, side[i].b, R, 1, nR, N, R, O[i], 2); plain(NULL, side[i].db, dy + column[i], 1, W, u + i * R, nR, 1, R, O[i], R, N, 1); }
            else {
                gemm_run(&gemm, lora_shape_dxa(N, R, nR, O[i], W, 2), side[i].b, dy + column[i], NULL, du + i * R, NULL, 0);
                gemm_run(&gemm, lora_shape_db(N, R, nR, O[i], W, false), u + i * R, dy + column[i], side[i].db, side[i].db, NULL, 0);
            }
        }
    });
    time("dx = dxa A", 2.0 * (double)(N * K), [&](int rung, int set) {
        real *du = dxa.at + set * N * nR, *to = x.at + set * N * K;
        if (rung == 1) plain(to, NULL, du, nR, 1, a.at, K, 1, K, N, K, nR, 1);
        else if (rung == 2) gemm_run(&gemm, lora_shape_dx(N, K, nR), a.at, du, NULL, to, NULL, 0);
        else lora_a_backward_input(&gemm, to, du, a.at, N, K, nR, 0);
    });
    time("dA = dxa^T x", 2.0 * (double)(N * K), [&](int rung, int set) {
        real *du = dxa.at + set * N * nR, *from = x.at + set * N * K;
        if (rung == 1) plain(NULL, da.at, du, 1, nR, from, K, 1, K, nR, K, N, 1);
        else if (rung == 2) gemm_run(&gemm, lora_shape_da(N, K, nR, false), from, du, da.at, da.at, NULL, 0);
        else lora_a_backward_weight(&gemm, da.at, du, from, false, N, K, nR, 0);
    });
}

int main(int argc, char **argv) {
    program_name = "lora";
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "--help") == 0) { printf("usage: lora [RUNG | check | tiny]\n"); return 0; }
    gemm_create(&gemm);
    if (strcmp(what, "tiny") == 0) {
        check_site(77, 264, 16, {136, 72, 72}, 0, false);
        check_site(65, 136, 40, {72, 520}, 1, true);
        return check_result();
    }
    if (strcmp(what, "check") == 0) {
        for (int64_t R : {8, 16, 24, 32, 40, 48, 56, 64, 72}) for (int64_t N : {1, 63, 130}) check_site(N, 72 + 8 * R, R, {200}, 0, N == 63);
        for (int64_t R : {8, 16, 24}) for (uint64_t without = 0; without < 7; without++) check_site(333, 520, R, {1032, 256, 256}, without, false);
        for (uint64_t without = 0; without < 3; without++) check_site(1000, 600, 16, {1408, 1408}, without, false);
        check_site(3000, 1024, 16, {1024}, 0, true);
        check_site(2048, 1024, 64, {2048}, 0, false);
        check_site(4500, 512, 32, {512}, 0, false);
        const size_t all = gemm.workspace_bytes;   // scratch too small for all rows at once: spans
        gemm.workspace_bytes = 8 << 20;
        check_site(5000, 136, 16, {4104}, 0, false);
        gemm.workspace_bytes = all;
        return check_result();
    }
    const Ladder l = ladder_begin(argc, argv);
    const int64_t qkv[] = {4096, 1024, 1024}, gate_up[] = {14336, 14336}, one[] = {4096};
    bench(&l, "q, k, v of Llama-3-8B", 4096, 4096, 16, 3, qkv);
    bench(&l, "gate, up of Llama-3-8B", 4096, 4096, 16, 2, gate_up);
    bench(&l, "down of Llama-3-8B", 4096, 14336, 16, 1, one);
    bench(&l, "o of Llama-3-8B", 4096, 4096, 16, 1, one);
    bench(&l, "o of Llama-3-8B", 8192, 4096, 48, 1, one);
    return 0;
}
