// ladder.cuh: what the ladders of dev/ share. A ladder climbs from the obvious version of a kernel to the one that training uses, one idea a
// rung; every rung is checked against a plain loop in double on the host and timed against the bandwidth of a copy, measured in the same run.
//
//     build/dev/X          every rung         build/dev/X 3      one rung
//     build/dev/X check    the final kernels over odd shapes, exit status 1 if one fails (all in fp32 when compiled with -DFINDAP_FP32)
//     build/dev/X tiny     the same over a few small shapes, for compute-sanitizer
//
// Arrays lie between fences and start as NaN: a kernel that writes beside its shape, or leaves a part of it out, is found.
#ifndef DEV_LADDER_CUH
#define DEV_LADDER_CUH
#include "../findap/kernels/cuda.cuh"   // defines: real, bf16, CUDA_CHECK, random_bits
#include <algorithm>                    // defines: std::sort
#include <vector>

template <typename T> __global__ static void normal_kernel(T *x, int64_t n, uint64_t seed, float scale) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const float u = ((float)random_bits(seed, 2 * (uint64_t)i) + 1.0f) * (1.0f / 4294967808.0f), v = (float)random_bits(seed, 2 * (uint64_t)i + 1) * (1.0f / 4294967296.0f);
        x[i] = from_float<T>(scale * sqrtf(-2.0f * logf(u)) * cospif(2.0f * v));
    }
}

// n numbers on the device, freed at the end of the scope; every byte, fences too, starts as 0xff: NaN
template <typename T> struct Array {
    static constexpr int64_t FENCE = 512 / (int64_t)sizeof(T);
    T *base, *at;
    int64_t n;
    explicit Array(int64_t count) : n(count) {
        CUDA_CHECK(cudaMalloc((void **)&base, (size_t)(n + 2 * FENCE) * sizeof(T)));
        CUDA_CHECK(cudaMemset(base, 0xff, (size_t)(n + 2 * FENCE) * sizeof(T)));
        at = base + FENCE;
    }
    explicit Array(const std::vector<T> &x) : Array((int64_t)x.size()) { put(x); }
    Array(int64_t count, uint64_t seed, float scale) : Array(count) {   // normal numbers
        normal_kernel<<<1024, 256>>>(at, n, seed, scale);
        CUDA_CHECK(cudaGetLastError());
    }
    Array(const Array &) = delete;
    Array &operator=(const Array &) = delete;
    ~Array() { CUDA_CHECK(cudaFree(base)); }
    void put(const std::vector<T> &x) { CHECK((int64_t)x.size() == n); CUDA_CHECK(cudaMemcpy(at, x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice)); }
    void copy(const Array &x) { CHECK(x.n == n); CUDA_CHECK(cudaMemcpy(at, x.at, (size_t)n * sizeof(T), cudaMemcpyDeviceToDevice)); }
    std::vector<T> get() const {
        std::vector<T> x((size_t)n);
        CUDA_CHECK(cudaMemcpy(x.data(), at, x.size() * sizeof(T), cudaMemcpyDeviceToHost));
        return x;
    }
    std::vector<double> numbers() const {
        const std::vector<T> x = get();
        std::vector<double> y(x.size());
        for (size_t i = 0; i < x.size(); i++) y[i] = (double)to_float(x[i]);
        return y;
    }
    bool fences_stand() const {
        std::vector<unsigned char> x((size_t)(n + 2 * FENCE) * sizeof(T));
        CUDA_CHECK(cudaMemcpy(x.data(), base, x.size(), cudaMemcpyDeviceToHost));
        for (size_t i = 0; i < 512; i++) if (x[i] != 0xff || x[x.size() - 1 - i] != 0xff) return false;
        return true;
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// checks

typedef struct { double norm, worst; } Difference;   // ||a - b|| / ||b||; the largest |a - b| / (|b| + root mean square of b). NaN where a has one

// b is rounded to T first: what is left are the kernel's own errors, and now and then a number rounded to the other side
template <typename T> static Difference difference(const Array<T> &a, const std::vector<double> &b) {
    CHECK((int64_t)b.size() == a.n);
    const std::vector<double> x = a.numbers();
    double d = 0, n = 0, worst = 0;
    for (size_t i = 0; i < b.size(); i++) n += b[i] * b[i];
    const double mean = sqrt(n / (double)std::max<size_t>(b.size(), 1)) + 1e-300;
    for (size_t i = 0; i < b.size(); i++) {
        const double y = (double)to_float(from_float<T>((float)b[i])), e = fabs(x[i] - y);
        d += e * e;
        if (!(e / (fabs(y) + mean) <= worst)) worst = e / (fabs(y) + mean);
        if (e != e) return {NAN, NAN};
    }
    return {sqrt(d) / (sqrt(n) + 1e-300), worst};
}

static int checks, failures;
static void expect(bool ok, const char *what, const char *shape) {
    checks++;
    if (ok) return;
    failures++;
    printf("FAILED: %s: %s\n", shape, what);
}
// bf16: numbers rounded to the other side, at most one unit in the last place each. fp32: sums in another order
template <typename T> static void expect_close(const Array<T> &a, const std::vector<double> &b, const char *what, const char *shape) {
    const Difference d = difference(a, b);
    const double norm = sizeof(T) == 2 ? 4e-4 : 1e-5, worst = sizeof(T) == 2 ? 1e-2 : 1e-4;
    checks++;
    if (d.norm <= norm && d.worst <= worst && a.fences_stand()) return;
    failures++;
    printf("FAILED: %s: %s: error %.2e (at most %.0e), worst number %.2e (at most %.0e)%s\n", shape, what, d.norm, norm, d.worst, worst, a.fences_stand() ? "" : ", WRITTEN OUTSIDE ITS SHAPE");
}
template <typename T> static bool same_bits(const std::vector<T> &a, const std::vector<T> &b) { return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0; }
static int check_result(void) {
    printf("%s: %d checks, %d failed (%s)\n", failures ? "FAILED" : "ok", checks, failures, REAL_NAME);
    return failures != 0;
}
static std::vector<int32_t> random_integers(int64_t n, int64_t below, uint64_t seed) {
    std::vector<int32_t> x((size_t)n);
    for (int64_t i = 0; i < n; i++) x[(size_t)i] = (int32_t)(random_bits(seed, (uint64_t)i) % (uint64_t)below);
    return x;
}

// ---------------------------------------------------------------------------------------------------------------------
// times

enum { SETS = 4 };   // of buffers, used in turn, so that nothing is found in L2 that the launch before left there

// of one launch: f(i) launches, on buffers i % SETS. Launches follow each other as in training, so that what a kernel leaves to be written
// back counts, in the next one's time
template <typename F> static double milliseconds(F f) {
    static cudaEvent_t begin, end;
    if (!begin) { CUDA_CHECK(cudaEventCreate(&begin)); CUDA_CHECK(cudaEventCreate(&end)); }
    auto timed = [&](int launches) {
        CUDA_CHECK(cudaEventRecord(begin));
        for (int i = 0; i < launches; i++) f(i % SETS);
        CUDA_CHECK(cudaEventRecord(end));
        CUDA_CHECK(cudaEventSynchronize(end));
        float ms;
        CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
        return (double)ms / launches;
    };
    const double first = timed(1);
    const int launches = first > 20 ? 1 : 3 * SETS, rounds = first > 20 ? 3 : 11;
    timed(launches);
    std::vector<double> times;
    for (int r = 0; r < rounds; r++) times.push_back(timed(launches));
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

__global__ static void __launch_bounds__(512) copy_kernel(uint4 *to, const uint4 *from, int64_t n) {
    const int64_t i = blockIdx.x * 2048ll + threadIdx.x;
    uint4 x[4];
    #pragma unroll
    for (int k = 0; k < 4; k++) if (i + k * 512 < n) x[k] = __ldcs(from + i + k * 512);
    #pragma unroll
    for (int k = 0; k < 4; k++) if (i + k * 512 < n) __stcs(to + i + k * 512, x[k]);
}
// bytes read and written a second by the better of a kernel and the driver's own copy
static double copy_bandwidth(void) {
    const int64_t bytes = 512ll << 20, n = bytes / 16;
    Array<uint4> from(n), to(n);
    const double a = milliseconds([&](int) { copy_kernel<<<(unsigned)ceil_div(n, 2048), 512>>>(to.at, from.at, n); });
    const double b = milliseconds([&](int) { CUDA_CHECK(cudaMemcpyAsync(to.at, from.at, (size_t)bytes, cudaMemcpyDeviceToDevice)); });
    return 2.0 * (double)bytes / (std::min(a, b) * 1e-3);
}

typedef struct { double copy; int only; } Ladder;   // bytes a second; the one rung wanted, or 0

static Ladder ladder_begin(int argc, char **argv) {
    Ladder l = {0, argc > 1 ? atoi(argv[1]) : 0};
    if (argc > 2 || (argc > 1 && l.only <= 0)) die("\"%s\" is not a rung ---> nothing for all rungs, a rung's number, check or tiny", argv[argc > 2 ? 2 : 1]);
    l.copy = copy_bandwidth();
    printf("copy: %.0f GB/s read and written (%s)\n", l.copy * 1e-9, REAL_NAME);
    return l;
}
static void ladder_title(const char *what) { printf("\n%s\n%4s  %-92s %10s %7s %7s  %s\n", what, "rung", "what", "ms", "GB/s", "of copy", "error"); }
// bytes: what must be read and written, the same for all rungs of a ladder: a rung that moves more than that shows it as less
template <typename F> static void ladder_rung(const Ladder *l, int rung, const char *idea, double bytes, double error, F launch) {
    if (l->only != 0 && l->only != rung) return;
    const double ms = milliseconds(launch), speed = bytes / (ms * 1e-3);
    printf("%4d  %-92s %10.4f %7.0f %5.1f %%  %.1e\n", rung, idea, ms, speed * 1e-9, 100 * speed / l->copy, error);
    fflush(stdout);
}
static bool ladder_wants(const Ladder *l, int rung) { return l->only == 0 || l->only == rung; }
#endif
