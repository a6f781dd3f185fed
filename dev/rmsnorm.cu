// rmsnorm.cu: the ladder of findap/kernels/rmsnorm.cuh, forward and backward. How to call it: dev/ladder.cuh.
// Bytes that must move: forward x and y; backward dy, x, dx, and dx again.
#include "ladder.cuh"                        // defines: Array, ladder_*, expect*
#include "../findap/kernels/rmsnorm.cuh"     // defines: rmsnorm_forward, rmsnorm_backward

static const float EPS = 1e-5f;

// ---------------------------------------------------------------------------------------------------------------------
// the reference: x, dy, dx (N, C), weight (C)

static double rounded(double x) { return (double)to_float(from_float<real>((float)x)); }
static void reference_forward(std::vector<double> &y, std::vector<double> &rstd, const std::vector<double> &x, const std::vector<double> &weight, int64_t N, int64_t C) {
    y.resize(x.size()); rstd.resize((size_t)N);
    #pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        double sum = 0;
        for (int64_t c = 0; c < C; c++) sum += x[(size_t)(n * C + c)] * x[(size_t)(n * C + c)];
        rstd[(size_t)n] = 1 / sqrt(sum / (double)C + (double)EPS);
        // the cast order is part of what is checked: another order differs in most numbers
        for (int64_t c = 0; c < C; c++) y[(size_t)(n * C + c)] = weight[(size_t)c] * rounded(x[(size_t)(n * C + c)] * rstd[(size_t)n]);
    }
}
static void reference_backward(std::vector<double> &dx, std::vector<double> &dweight, const std::vector<double> &dy, const std::vector<double> &x, const std::vector<double> &rstd,
                               const std::vector<double> &weight, int64_t N, int64_t C) {   // both +=
    #pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        double dot = 0;
        const double r = rstd[(size_t)n];
        for (int64_t c = 0; c < C; c++) dot += weight[(size_t)c] * dy[(size_t)(n * C + c)] * x[(size_t)(n * C + c)];
        for (int64_t c = 0; c < C; c++) dx[(size_t)(n * C + c)] += r * weight[(size_t)c] * dy[(size_t)(n * C + c)] - dot * r * r * r / (double)C * x[(size_t)(n * C + c)];
    }
    #pragma omp parallel for
    for (int64_t block = 0; block < C; block += 8)   // C is a multiple of 8; threads share out columns
        for (int64_t n = 0; n < N; n++)
            for (int64_t c = block; c < block + 8; c++) dweight[(size_t)c] += dy[(size_t)(n * C + c)] * x[(size_t)(n * C + c)] * rstd[(size_t)n];
}

// ---------------------------------------------------------------------------------------------------------------------
// forward

__global__ static void forward1_kernel(real *y, float *rstd, const real *x, const real *weight, int N, int C) {
    const int64_t n = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (n >= N) return;
    float sum = 0;
    for (int c = 0; c < C; c++) sum += to_float(x[n * C + c]) * to_float(x[n * C + c]);
    const float r = 1.0f / sqrtf(sum / (float)C + EPS);
    rstd[n] = r;
    for (int c = 0; c < C; c++) y[n * C + c] = from_float<real>(to_float(weight[c]) * to_float(from_float<real>(to_float(x[n * C + c]) * r)));
}
__global__ static void forward2_kernel(real *y, float *rstd, const real *x, const real *weight, int N, int C) {
    const int64_t n = blockIdx.x * (int64_t)(blockDim.x / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (n >= N) return;
    float sum = 0;
    for (int c = lane; c < C; c += 32) sum += to_float(x[n * C + c]) * to_float(x[n * C + c]);
    const float r = 1.0f / sqrtf(warp_sum(sum) / (float)C + EPS);
    if (lane == 0) rstd[n] = r;
    for (int c = lane; c < C; c += 32) y[n * C + c] = from_float<real>(to_float(weight[c]) * to_float(from_float<real>(to_float(x[n * C + c]) * r)));
}
__global__ static void forward3_kernel(real *y, float *rstd, const real *x, const real *weight, int N, int C) {
    constexpr int P = Pack<real>::size;
    const int64_t n = blockIdx.x * (int64_t)(blockDim.x / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (n >= N) return;
    float sum = 0;
    for (int c = lane * P; c < C; c += 32 * P) {
        const Pack<real> v = load_pack(x + n * C + c);
        for (int k = 0; k < P; k++) sum += to_float(v.at[k]) * to_float(v.at[k]);
    }
    const float r = 1.0f / sqrtf(warp_sum(sum) / (float)C + EPS);
    if (lane == 0) rstd[n] = r;
    for (int c = lane * P; c < C; c += 32 * P) {
        const Pack<real> v = load_pack(x + n * C + c), w = load_pack(weight + c);
        Pack<real> out;
        for (int k = 0; k < P; k++) out.at[k] = from_float<real>(to_float(w.at[k]) * to_float(from_float<real>(to_float(v.at[k]) * r)));
        store_pack(y + n * C + c, out);
    }
}
static const char *const forward_ideas[] = {"a thread a row", "a warp a row: neighbouring threads read neighbouring numbers", "16 bytes a load and a store",
                                            "rmsnorm.cuh: a block a row, kept in registers, all loads under way at once"};
static void forward(int rung, real *y, float *rstd, const real *x, const real *weight, int64_t N, int64_t C) {
    if (rung == 1) forward1_kernel<<<(unsigned)ceil_div(N, 64), 64>>>(y, rstd, x, weight, (int)N, (int)C);
    else if (rung == 2) forward2_kernel<<<(unsigned)ceil_div(N, 8), 256>>>(y, rstd, x, weight, (int)N, (int)C);
    else if (rung == 3) forward3_kernel<<<(unsigned)ceil_div(N, 8), 256>>>(y, rstd, x, weight, (int)N, (int)C);
    else rmsnorm_forward(y, rstd, x, weight, N, C, EPS, 0);
    CUDA_CHECK(cudaGetLastError());
}

// ---------------------------------------------------------------------------------------------------------------------
// backward: dweight is written, not added to

__global__ static void backward1_kernel(real *dx, const real *dy, const real *x, const float *rstd, const real *weight, int N, int C) {
    const int64_t n = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (n >= N) return;
    float dot = 0;
    const float r = rstd[n];
    for (int c = 0; c < C; c++) dot += to_float(weight[c]) * to_float(dy[n * C + c]) * to_float(x[n * C + c]);
    const float s = dot * r * r * r / (float)C;
    for (int c = 0; c < C; c++) dx[n * C + c] = from_float<real>(to_float(dx[n * C + c]) + r * to_float(weight[c]) * to_float(dy[n * C + c]) - s * to_float(x[n * C + c]));
}
// rows [blockIdx.y * rows, ...) of a column: with one part, out is dweight itself
__global__ static void weight_kernel(float *out, const real *dy, const real *x, const float *rstd, int rows, int N, int C) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x, begin = blockIdx.y * rows, end = min(begin + rows, N);
    if (c >= C) return;
    float sum = 0;
    for (int64_t n = begin; n < end; n++) sum += to_float(dy[n * C + c]) * to_float(x[n * C + c]) * rstd[n];
    out[blockIdx.y * (int64_t)C + c] = sum;
}
__global__ static void backward2_kernel(real *dx, const real *dy, const real *x, const float *rstd, const real *weight, int N, int C) {
    constexpr int P = Pack<real>::size;
    const int64_t n = blockIdx.x * (int64_t)(blockDim.x / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (n >= N) return;
    float dot = 0;
    const float r = rstd[n];
    for (int c = lane * P; c < C; c += 32 * P) {
        const Pack<real> a = load_pack(dy + n * C + c), b = load_pack(x + n * C + c), w = load_pack(weight + c);
        for (int k = 0; k < P; k++) dot += to_float(w.at[k]) * to_float(a.at[k]) * to_float(b.at[k]);
    }
    const float s = warp_sum(dot) * r * r * r / (float)C;
    for (int c = lane * P; c < C; c += 32 * P) {
        const Pack<real> a = load_pack(dy + n * C + c), b = load_pack(x + n * C + c), w = load_pack(weight + c);
        Pack<real> d = load_pack(dx + n * C + c);
        for (int k = 0; k < P; k++) d.at[k] = from_float<real>(to_float(d.at[k]) + r * to_float(w.at[k]) * to_float(a.at[k]) - s * to_float(b.at[k]));
        store_pack(dx + n * C + c, d);
    }
}
// one kernel for both gradients: a block takes every gridDim.x-th row; its part of dweight lies in shared memory, each number one thread's
__global__ static void __launch_bounds__(256) backward3_kernel(real *dx, float *partial, const real *dy, const real *x, const float *rstd, const real *weight, int N, int C) {
    constexpr int P = Pack<real>::size;
    extern __shared__ float dw[];   // (C)
    __shared__ float shared[33];
    for (int c = threadIdx.x * P; c < C; c += 256 * P) for (int k = 0; k < P; k++) dw[c + k] = 0.0f;
    for (int64_t n = blockIdx.x; n < N; n += gridDim.x) {
        float dot = 0;
        const float r = rstd[n];
        for (int c = threadIdx.x * P; c < C; c += 256 * P) {
            const Pack<real> a = load_pack(dy + n * C + c), b = load_pack(x + n * C + c), w = load_pack(weight + c);
            for (int k = 0; k < P; k++) {
                dot += to_float(w.at[k]) * to_float(a.at[k]) * to_float(b.at[k]);
                dw[c + k] += to_float(a.at[k]) * to_float(b.at[k]) * r;
            }
        }
        const float s = block_sum(dot, shared) * r * r * r / (float)C;
        for (int c = threadIdx.x * P; c < C; c += 256 * P) {
            const Pack<real> a = load_pack(dy + n * C + c), b = load_pack(x + n * C + c), w = load_pack(weight + c);
            Pack<real> d = load_pack(dx + n * C + c);
            for (int k = 0; k < P; k++) d.at[k] = from_float<real>(to_float(d.at[k]) + r * to_float(w.at[k]) * to_float(a.at[k]) - s * to_float(b.at[k]));
            store_pack(dx + n * C + c, d);
        }
    }
    for (int c = threadIdx.x * P; c < C; c += 256 * P) for (int k = 0; k < P; k++) partial[blockIdx.x * (int64_t)C + c + k] = dw[c + k];
}
static const char *const backward_ideas[] = {"a thread a row, then a thread a column for dweight", "a warp a row, 16 bytes a load; dweight in 128 parts, then their sum",
                                             "one kernel: a block takes many rows, its part of dweight in shared memory", "rmsnorm.cuh: dweight's part in registers; the next row on its way to shared memory meanwhile"};
static void backward(int rung, real *dx, float *dweight, float *partial, const real *dy, const real *x, const float *rstd, const real *weight, int64_t N, int64_t C) {
    const int n = (int)N, width = (int)C;
    if (rung == 1) {
        backward1_kernel<<<(unsigned)ceil_div(N, 64), 64>>>(dx, dy, x, rstd, weight, n, width);
        weight_kernel<<<(unsigned)ceil_div(C, 64), 64>>>(dweight, dy, x, rstd, n, n, width);
    } else if (rung == 2) {
        const int rows = (int)ceil_div(N, 128), parts = (int)ceil_div(N, rows);
        backward2_kernel<<<(unsigned)ceil_div(N, 8), 256>>>(dx, dy, x, rstd, weight, n, width);
        weight_kernel<<<dim3((unsigned)ceil_div(C, 128), (unsigned)parts), 128>>>(partial, dy, x, rstd, rows, n, width);
        column_sums(dweight, partial, false, parts, C, 0);
    } else if (rung == 3) {
        const int blocks = (int)std::min<int64_t>(N, 4 * device_multiprocessors());
        backward3_kernel<<<blocks, 256, (size_t)C * sizeof(float)>>>(dx, partial, dy, x, rstd, weight, n, width);
        column_sums(dweight, partial, false, blocks, C, 0);
    } else rmsnorm_backward(dx, dweight, partial, dy, x, rstd, weight, false, N, C, 0);
    CUDA_CHECK(cudaGetLastError());
}

// ---------------------------------------------------------------------------------------------------------------------

static void check(int64_t N, int64_t C, float scale) {
    char shape[96];
    snprintf(shape, sizeof shape, "rmsnorm N %lld C %lld scale %g", (long long)N, (long long)C, (double)scale);
    Array<real> x(N * C, 1, scale), weight(C, 2, 1.0f), dy(N * C, 3, 1.0f), dx(N * C, 4, 1.0f), dx_before(N * C, 4, 1.0f), y(N * C);
    Array<float> rstd(N), dweight(C, 5, 1.0f), partial(rmsnorm_partial_count(C));
    if (N == 3) CUDA_CHECK(cudaMemset(x.at, 0, (size_t)C * sizeof(real)));   // a row of zeros: only eps keeps it finite
    std::vector<double> ry, rr, rdx = dx.numbers(), rdw = dweight.numbers();
    const std::vector<double> hx = x.numbers(), hw = weight.numbers(), hdy = dy.numbers(), zero((size_t)C, 0.0);
    reference_forward(ry, rr, hx, hw, N, C);
    rmsnorm_forward(y.at, rstd.at, x.at, weight.at, N, C, EPS, 0);
    expect_close(y, ry, "y", shape);
    expect_close(rstd, rr, "rstd", shape);
    reference_backward(rdx, rdw, hdy, hx, rr, hw, N, C);
    rmsnorm_backward(dx.at, dweight.at, partial.at, dy.at, x.at, rstd.at, weight.at, true, N, C, 0);
    expect_close(dx, rdx, "dx", shape);
    expect_close(dweight, rdw, "dweight, added to", shape);
    expect(partial.fences_stand(), "partial: written outside its shape", shape);
    const std::vector<real> first = dx.get();
    std::vector<double> unused(dx_before.numbers()), rdw_alone(zero);
    reference_backward(unused, rdw_alone, hdy, hx, rr, hw, N, C);
    dx.copy(dx_before);
    rmsnorm_backward(dx.at, dweight.at, partial.at, dy.at, x.at, rstd.at, weight.at, false, N, C, 0);
    expect_close(dweight, rdw_alone, "dweight, written", shape);
    const std::vector<float> once = dweight.get();
    expect(same_bits(first, dx.get()), "dx: other bits in a second run", shape);
    rmsnorm_backward(dx.at, dweight.at, partial.at, dy.at, x.at, rstd.at, weight.at, false, N, C, 0);
    expect(same_bits(once, dweight.get()), "dweight: other bits in a second run", shape);
}

int main(int argc, char **argv) {
    program_name = "rmsnorm";
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "tiny") == 0) {
        for (int64_t C : {64, 1000, 2056}) check(3, C, 1.0f);
        check(1500, 64, 1.0f);   // more rows than blocks: a block's second row follows its first through the same shared memory
        return check_result();
    }
    if (strcmp(what, "check") == 0) {
        for (int64_t C : {8, 64, 72, 896, 1000, 1536, 2048, 2056, 4096, 5120, 8192}) for (int64_t N : {1, 3, 77, 1500}) check(N, C, 1.0f);
        check(8192, 64, 1.0f); check(8192, 4096, 1.0f); check(77, 4096, 1e-3f); check(77, 4096, 300.0f);
        return check_result();
    }
    const Ladder l = ladder_begin(argc, argv);
    const int64_t N = 8192, C = 4096, few = 256;
    Array<real> x(SETS * N * C, 1, 1.0f), weight(C, 2, 1.0f), dy(SETS * N * C, 3, 1.0f), dx(SETS * N * C), dx_few(few * C, 4, 1.0f), y(few * C), x_few(few * C, 1, 1.0f), dy_few(few * C, 3, 1.0f);
    Array<float> rstd(SETS * N), dweight(C), partial(rmsnorm_partial_count(C));
    std::vector<double> ry, rr, rdx = dx_few.numbers(), rdw((size_t)C, 0.0);
    reference_forward(ry, rr, x_few.numbers(), weight.numbers(), few, C);
    reference_backward(rdx, rdw, dy_few.numbers(), x_few.numbers(), rr, weight.numbers(), few, C);
    ladder_title("RMSNorm forward, 8192 x 4096 (error: y, 256 rows)");
    for (int rung = 1; rung <= 4; rung++) {
        if (!ladder_wants(&l, rung)) continue;
        forward(rung, y.at, rstd.at, x_few.at, weight.at, few, C);
        const double error = difference(y, ry).norm;
        ladder_rung(&l, rung, forward_ideas[rung - 1], 2.0 * (double)(N * C) * sizeof(real), error, [&](int set) { forward(rung, dx.at + set * N * C, rstd.at + set * N, x.at + set * N * C, weight.at, N, C); });
    }
    ladder_title("RMSNorm backward, 8192 x 4096 (error: the larger of dx and dweight, 256 rows)");
    forward(4, dx.at, rstd.at, x.at, weight.at, SETS * N, C);
    CUDA_CHECK(cudaMemset(dx.at, 0, (size_t)(SETS * N * C) * sizeof(real)));
    for (int rung = 1; rung <= 4; rung++) {
        if (!ladder_wants(&l, rung)) continue;
        Array<real> sum(few * C, 4, 1.0f);
        backward(rung, sum.at, dweight.at, partial.at, dy_few.at, x_few.at, rstd.at, weight.at, few, C);   // x_few is the beginning of x, so rstd is its too
        const double error = std::max(difference(sum, rdx).norm, difference(dweight, rdw).norm);
        ladder_rung(&l, rung, backward_ideas[rung - 1], 4.0 * (double)(N * C) * sizeof(real), error, [&](int set) { const int64_t at = set * N * C; backward(rung, dx.at + at, dweight.at, partial.at, dy.at + at, x.at + at, rstd.at + set * N, weight.at, N, C); });
    }
    return 0;
}
