// cross_entropy.cu: the ladder of findap/kernels/cross_entropy.cuh: log-probabilities and, in place, gradients. How to call it: dev/ladder.cuh.
// Bytes that must move: the logits once in, their gradient once out.
#include "ladder.cuh"                              // defines: Array, ladder_*, expect*
#include "../findap/kernels/cross_entropy.cuh"     // defines: cross_entropy, cross_entropy_launch, loss_sum

// ---------------------------------------------------------------------------------------------------------------------
// the reference: logits, gradient (n, ld), logp (n); coef NULL: no gradient

static void reference(std::vector<double> &logp, std::vector<double> &gradient, const std::vector<double> &logits, const std::vector<int32_t> &targets, const float *coef, int64_t n, int64_t ld, int64_t V) {
    logp.resize((size_t)n); gradient.assign((size_t)(coef ? n * ld : 0), 0.0);
    #pragma omp parallel for
    for (int64_t i = 0; i < n; i++) {
        const double *x = logits.data() + i * ld;
        double maximum = -INFINITY, sum = 0;
        for (int64_t v = 0; v < V; v++) maximum = std::max(maximum, x[v]);
        for (int64_t v = 0; v < V; v++) sum += exp(x[v] - maximum);
        logp[(size_t)i] = x[targets[(size_t)i]] - maximum - log(sum);
        for (int64_t v = 0; coef && v < V; v++) gradient[(size_t)(i * ld + v)] = (double)coef[i] * ((v == targets[(size_t)i] ? 1.0 : 0.0) - exp(x[v] - maximum) / sum);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// rungs: ld = V here

__global__ static void rung1_kernel(float *logp, real *logits, const int32_t *targets, const float *coef, int n, int V) {
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= n) return;
    real *x = logits + i * V;
    float maximum = -INFINITY, sum = 0;
    for (int v = 0; v < V; v++) maximum = fmaxf(maximum, to_float(x[v]));
    for (int v = 0; v < V; v++) sum += expf(to_float(x[v]) - maximum);
    logp[i] = to_float(x[targets[i]]) - maximum - logf(sum);
    for (int v = 0; v < V; v++) x[v] = from_float<real>(coef[i] * ((v == targets[i] ? 1.0f : 0.0f) - expf(to_float(x[v]) - maximum) / sum));
}
__global__ static void __launch_bounds__(1024) rung2_kernel(float *logp, real *logits, const int32_t *targets, const float *coef, int V) {
    __shared__ float shared[33];
    real *x = logits + blockIdx.x * (int64_t)V;
    const int target = targets[blockIdx.x];
    const float c = coef[blockIdx.x], at_target = to_float(x[target]);
    float maximum = -INFINITY, sum = 0;
    for (int v = threadIdx.x; v < V; v += 1024) maximum = fmaxf(maximum, to_float(x[v]));
    maximum = block_max(maximum, shared);
    for (int v = threadIdx.x; v < V; v += 1024) sum += expf(to_float(x[v]) - maximum);
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) logp[blockIdx.x] = at_target - maximum - logf(sum);
    for (int v = threadIdx.x; v < V; v += 1024) x[v] = from_float<real>(c * ((v == target ? 1.0f : 0.0f) - expf(to_float(x[v]) - maximum) / sum));
}
__global__ static void __launch_bounds__(1024) rung3_kernel(float *logp, real *logits, const int32_t *targets, const float *coef, int V) {
    __shared__ float shared[33];
    real *x = logits + blockIdx.x * (int64_t)V;
    const int target = targets[blockIdx.x];
    const float c = coef[blockIdx.x], at_target = to_float(x[target]);
    float maximum = -1e30f, sum = 0;
    for (int v = threadIdx.x; v < V; v += 1024) {
        const float f = to_float(x[v]);
        if (f > maximum) { sum *= __expf(maximum - f); maximum = f; }
        sum += __expf(f - maximum);
    }
    const float all = block_max(maximum, shared);
    sum = block_sum(sum * __expf(maximum - all), shared);
    if (threadIdx.x == 0) logp[blockIdx.x] = at_target - all - logf(sum);
    const float factor = -c / sum;
    for (int v = threadIdx.x; v < V; v += 1024) x[v] = from_float<real>(factor * __expf(to_float(x[v]) - all) + (v == target ? c : 0.0f));
}
static const char *const ideas[] = {"a thread a row, three passes", "a block a row: neighbouring threads read neighbouring numbers", "maximum and sum in one pass; one division a row; the fast exponential",
                                    "16 bytes a load and a store; base 2: one multiply-add before each exponential", "the whole row kept: 1024 threads, asynchronous copies to shared memory, 2 packs in registers",
                                    "cross_entropy.cuh: two blocks of 512 a multiprocessor, the rest of the row again from L2"};
static void run(int rung, float *logp, real *logits, const int32_t *targets, const float *coef, int64_t n, int64_t V) {
    if (rung == 1) rung1_kernel<<<(unsigned)ceil_div(n, 32), 32>>>(logp, logits, targets, coef, (int)n, (int)V);
    else if (rung == 2) rung2_kernel<<<(unsigned)n, 1024>>>(logp, logits, targets, coef, (int)V);
    else if (rung == 3) rung3_kernel<<<(unsigned)n, 1024>>>(logp, logits, targets, coef, (int)V);
    else if (rung == 4) cross_entropy_launch<512, 2, 1, 0>(logp, logits, V, targets, coef, n, V, 0);   // the header's kernel with next to nothing kept
    else if (rung == 5) cross_entropy_launch<1024, 1, 2, 14>(logp, logits, V, targets, coef, n, V, 0);
    else cross_entropy(logp, logits, V, targets, coef, n, V, 0);
    CUDA_CHECK(cudaGetLastError());
}

// ---------------------------------------------------------------------------------------------------------------------

// every number by itself: nearly all are tiny beside the target's, and must be right all the same
static void expect_gradient(const Array<real> &a, const std::vector<double> &b, const std::vector<int32_t> &targets, const float *coef, int64_t n, int64_t ld, int64_t V, const char *shape) {
    const std::vector<double> x = a.numbers();
    const double tolerance = sizeof(real) == 2 ? 4.2e-3 : 5e-5;
    checks++;
    int64_t wrong = 0, at = -1;
    for (int64_t i = 0; i < n; i++)
        for (int64_t v = 0; v < ld; v++) {
            const double y = b[(size_t)(i * ld + v)], e = fabs(x[(size_t)(i * ld + v)] - y);
            const double allowed = v >= V ? 0 : tolerance * fabs(y) + (v == targets[(size_t)i] ? 1e-5 * fabs((double)coef[i]) : 1e-36);   // 1 - p loses what p lacks
            if (!(e <= allowed)) { wrong++; if (at < 0) at = i * ld + v; }
        }
    if (wrong > 0) printf("FAILED: %s: gradient: %lld numbers wrong, the first at row %lld column %lld: %.9g, expected %.9g\n", shape, (long long)wrong, (long long)(at / ld), (long long)(at % ld), x[(size_t)at], b[(size_t)at]);
    if (!a.fences_stand()) printf("FAILED: %s: gradient: WRITTEN OUTSIDE ITS SHAPE\n", shape);
    failures += wrong > 0 || !a.fences_stand();
}
enum Special { ORDINARY, MINUS_INFINITY, ONE_LEFT };   // whole packs of -inf, the first one too; nothing but the target finite
static const char *const special_names[] = {"", ", packs of -inf", ", one finite logit"};
template <typename F> static void check_with(F launch, const char *name, int64_t n, int64_t V, int64_t pad, float scale, Special special) {
    const int64_t ld = ceil_div(V, 8) * 8 + pad;
    char shape[128];
    snprintf(shape, sizeof shape, "%s n %lld V %lld ld %lld scale %g%s", name, (long long)n, (long long)V, (long long)ld, (double)scale, special_names[special]);
    std::vector<int32_t> targets = random_integers(n, V, 3);
    targets[0] = (int32_t)(V - 1);
    if (n > 1) targets[1] = 0;
    std::vector<real> logits;
    { Array<real> random(n * ld, 1, scale); logits = random.get(); }
    for (int64_t i = 0; i < n; i++)
        for (int64_t v = 0; v < ld; v++) {
            real *x = &logits[(size_t)(i * ld + v)];
            if (v >= V) *x = from_float<real>(v % 2 ? NAN : 1e30f);   // what lies there must not matter
            else if (v != targets[(size_t)i] && (special == ONE_LEFT || (special == MINUS_INFINITY && (v < 40 || v % 5000 < 700)))) *x = from_float<real>(-INFINITY);
        }
    std::vector<float> coef((size_t)n);
    for (int64_t i = 0; i < n; i++) coef[(size_t)i] = i % 7 == 6 ? 0.0f : (i % 2 ? -1.0f : 1.0f) / (float)(100 + i);
    Array<real> x(logits);
    Array<int32_t> device_targets(targets);
    Array<float> device_coef(coef), logp(n), logp_alone(n);
    std::vector<double> rp, rg;
    reference(rp, rg, x.numbers(), targets, coef.data(), n, ld, V);
    launch(logp_alone.at, x.at, ld, device_targets.at, (const float *)NULL, n, V);
    // a log-probability of 0 has no digits of its own: its error is one of the sum, about 1e-6
    auto expect_logp = [&](const Array<float> &a, const char *what) {
        const std::vector<double> p = a.numbers();
        checks++;
        for (int64_t i = 0; i < n; i++) {
            if (fabs(p[(size_t)i] - rp[(size_t)i]) <= 1e-6 * fabs(rp[(size_t)i]) + 5e-6) continue;
            failures++;
            printf("FAILED: %s: %s: row %lld is %.9g, expected %.9g\n", shape, what, (long long)i, p[(size_t)i], rp[(size_t)i]);
            break;
        }
        expect(a.fences_stand(), "logp: written outside its shape", shape);
    };
    expect_logp(logp_alone, "logp without coef");
    expect(same_bits(x.get(), logits), "without coef the logits were changed", shape);
    launch(logp.at, x.at, ld, device_targets.at, (const float *)device_coef.at, n, V);
    expect_logp(logp, "logp");
    expect(same_bits(logp.get(), logp_alone.get()), "logp: other bits with coef", shape);
    expect_gradient(x, rg, targets, coef.data(), n, ld, V, shape);
    const std::vector<real> first = x.get();
    x.put(logits);
    launch(logp.at, x.at, ld, device_targets.at, (const float *)device_coef.at, n, V);
    expect(same_bits(x.get(), first) && same_bits(logp.get(), logp_alone.get()), "other bits in a second run", shape);
}
static void check(int64_t n, int64_t V, int64_t pad, float scale, Special special) {
    check_with([](float *logp, real *x, int64_t ld, const int32_t *t, const float *c, int64_t rows, int64_t width) { cross_entropy(logp, x, ld, t, c, rows, width, 0); }, "cross_entropy", n, V, pad, scale, special);
}
// the instances that other cards run, and rung 5: what is kept where must not matter
template <int THREADS, int BLOCKS, int REGISTERS, int SHARED> static void check_instance(int64_t n, int64_t V, int64_t pad) {
    char name[64];
    snprintf(name, sizeof name, "cross_entropy <%d, %d, %d, %d>", THREADS, BLOCKS, REGISTERS, SHARED);
    check_with([](float *logp, real *x, int64_t ld, const int32_t *t, const float *c, int64_t rows, int64_t width) { cross_entropy_launch<THREADS, BLOCKS, REGISTERS, SHARED>(logp, x, ld, t, c, rows, width, 0); }, name, n, V, pad, 1.0f, ORDINARY);
}
static void check_not_finite(void) {   // must show up, so that the step is skipped
    for (float bad : {NAN, INFINITY}) {
        Array<real> x(1003 / 8 * 8 + 8, 1, 1.0f);
        std::vector<real> h = x.get();
        h[777] = from_float<real>(bad);
        x.put(h);
        Array<int32_t> target(std::vector<int32_t>(1, 5));
        Array<float> coef(std::vector<float>(1, 1.0f)), logp(1);
        cross_entropy(logp.at, x.at, x.n, target.at, coef.at, 1, 1003, 0);
        expect(!isfinite(logp.get()[0]), "logp is finite, though a logit is not", isnan(bad) ? "cross_entropy, a NaN" : "cross_entropy, an infinity");
    }
}
static void check_loss_sum(int64_t n) {
    char shape[64];
    snprintf(shape, sizeof shape, "loss_sum n %lld", (long long)n);
    Array<float> coef(n, 1, 1.0f), logp(n, 2, 5.0f);
    const std::vector<double> c = coef.numbers(), p = logp.numbers();
    double expected = 3.25, scale = 0;
    for (size_t i = 0; i < c.size(); i++) { expected += c[i] * p[i]; scale += fabs(c[i] * p[i]); }
    double *loss, start = 3.25, found[2];
    CUDA_CHECK(cudaMalloc((void **)&loss, sizeof *loss));
    for (int r = 0; r < 2; r++) {
        CUDA_CHECK(cudaMemcpy(loss, &start, sizeof start, cudaMemcpyHostToDevice));
        loss_sum(loss, coef.at, logp.at, n, 0);
        CUDA_CHECK(cudaMemcpy(&found[r], loss, sizeof start, cudaMemcpyDeviceToHost));
    }
    CUDA_CHECK(cudaFree(loss));
    expect(fabs(found[0] - expected) <= 1e-13 * (scale + 4), "not the sum", shape);
    expect(found[0] == found[1], "other bits in a second run", shape);
}

int main(int argc, char **argv) {
    program_name = "cross_entropy";
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "tiny") == 0) {
        check(3, 1003, 8, 1.0f, ORDINARY);
        check(2, 80003, 0, 1.0f, MINUS_INFINITY);   // longer than what is kept
        check_instance<1024, 1, 2, 14>(1, 32003, 8);
        check_loss_sum(1500);
        return check_result();
    }
    if (strcmp(what, "check") == 0) {
        for (int64_t V : {1, 7, 8, 9, 1003, 4096, 32003, 128256, 151936}) for (int64_t n : {1, 3, 77}) for (int64_t pad : {0, 56}) check(n, V, pad, 1.0f, ORDINARY);
        for (int64_t V : {1003, 32003, 128256}) {
            for (float scale : {1e-3f, 10.0f, 300.0f, 30000.0f}) check(13, V, 8, scale, ORDINARY);
            for (Special special : {MINUS_INFINITY, ONE_LEFT}) check(13, V, 8, 3.0f, special);
        }
        for (int64_t V : {1003, 128256, 151933}) {
            check_instance<512, 2, 3, 10>(5, V, 8); check_instance<512, 2, 3, 6>(5, V, 8); check_instance<1024, 1, 2, 14>(5, V, 8); check_instance<512, 2, 1, 0>(5, V, 8);
        }
        check(8192, 1003, 0, 1.0f, ORDINARY);
        check_not_finite();
        for (int64_t n : {1, 31, 1024, 1025, 100003}) check_loss_sum(n);
        return check_result();
    }
    const Ladder l = ladder_begin(argc, argv);
    const int64_t n = 8192, V = 128256, few = 16;
    std::vector<int32_t> targets = random_integers(n, V, 3);
    const std::vector<float> coef((size_t)n, -1.0f / (float)n);
    Array<real> logits(n * V, 1, 1.0f), start(few * V, 1, 1.0f), x(few * V);
    Array<int32_t> device_targets(targets);
    Array<float> device_coef(coef), logp(n), logp_few(few);
    std::vector<double> rp, rg;
    reference(rp, rg, start.numbers(), targets, coef.data(), few, V, V);
    ladder_title("cross-entropy, 8192 x 128256, gradient in place (error: the larger of logp and gradient, 16 rows)");
    for (int rung = 1; rung <= 6; rung++) {
        if (!ladder_wants(&l, rung)) continue;
        x.copy(start);
        run(rung, logp_few.at, x.at, device_targets.at, device_coef.at, few, V);
        const double error = std::max(difference(x, rg).norm, difference(logp_few, rp).norm);
        normal_kernel<<<1024, 256>>>(logits.at, n * V, 1, 1.0f);   // the rung before left its gradient there
        ladder_rung(&l, rung, ideas[rung - 1], 2.0 * (double)(n * V) * sizeof(real), error, [&](int) { run(rung, logp.at, logits.at, device_targets.at, device_coef.at, n, V); });
    }
    return 0;
}
