// matmul_bench.c: how fast train_findap.c's gemm is, against the most this processor can do in fp32 multiply-adds.
// The ceiling is measured here and now, by a loop of independent multiply-adds in registers on every thread, so that the
// ratio holds on a shared or throttled machine. Build and run: make bench
#define FINDAP_LIBRARY
#include "../train_findap.c"

// FLOP/s of multiply-adds that never leave the registers: 24 independent chains a thread hide the latency
static double fma_peak(void) {
    double begin = seconds_now(), flops = 0;
    #pragma omp parallel reduction(+ : flops)
    {
        vec x[24], a, b;
        for (int i = 0; i < 24; i++) for (int j = 0; j < VL; j++) x[i][j] = (float)(i + j) * 1e-3f;
        for (int j = 0; j < VL; j++) { a[j] = 0.999f; b[j] = 1e-3f; }
        const int64_t rounds = 20000000;
        for (int64_t r = 0; r < rounds; r++) {
            #pragma GCC unroll 24
            for (int i = 0; i < 24; i++) x[i] = x[i] * a + b;
        }
        float sum = 0;
        for (int i = 0; i < 24; i++) for (int j = 0; j < VL; j++) sum += x[i][j];
        flops = sum == 12345.0f ? 0 : (double)rounds * 24 * VL * 2;   // sum is used, so nothing is optimised away
    }
    return flops / (seconds_now() - begin);
}

static double median_of(double *x, int n) {
    for (int i = 1; i < n; i++) for (int j = i; j > 0 && x[j] < x[j - 1]; j--) { double t = x[j]; x[j] = x[j - 1]; x[j - 1] = t; }
    return x[n / 2];
}

int main(void) {
    double peak = fma_peak();
    printf("measured fp32 multiply-add peak: %.1f GFLOP/s\n", peak / 1e9);
    const int64_t shapes[][3] = {{512, 256, 256}, {512, 704, 256}, {1024, 1024, 1024}, {1024, 4096, 1024}, {192, 128256, 256}};   // N, O, K
    printf("%28s %10s %10s %10s   GFLOP/s (share of peak)\n", "tokens x out x in", "y=x w^T", "dx=dy w", "dw+=dy^T x");
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t N = shapes[s][0], O = shapes[s][1], K = shapes[s][2];
        float *x = (float *)xmalloc(N * K * 4), *w = (float *)xmalloc(O * K * 4), *y = (float *)xmalloc(N * O * 4);
        for (int64_t i = 0; i < N * K; i++) x[i] = (float)random_normal(1, 0, (uint64_t)i);
        for (int64_t i = 0; i < O * K; i++) w[i] = (float)random_normal(1, 1, (uint64_t)i);
        for (int64_t i = 0; i < N * O; i++) y[i] = (float)random_normal(1, 2, (uint64_t)i);
        char name[64];
        snprintf(name, sizeof name, "%" PRId64 " x %" PRId64 " x %" PRId64, N, O, K);
        printf("%28s", name);
        for (int which = 0; which < 3; which++) {
            double seconds[9];
            for (int r = -1; r < 9; r++) {
                double begin = seconds_now();
                if (which == 0) gemm(N, O, K, x, K, 1, w, 1, K, y, O, false);
                if (which == 1) gemm(N, K, O, y, O, 1, w, K, 1, x, K, false);
                if (which == 2) gemm(O, K, N, y, 1, O, x, K, 1, w, K, false);
                if (r >= 0) seconds[r] = seconds_now() - begin;
            }
            double rate = 2.0 * (double)N * (double)O * (double)K / median_of(seconds, 9);
            printf("  %6.1f (%2.0f%%)", rate / 1e9, 100 * rate / peak);
        }
        printf("\n");
        free(x); free(w); free(y);
    }
    return 0;
}
