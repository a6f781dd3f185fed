// swiglu.cu: the ladder of findap/kernels/swiglu.cuh, forward and backward. How to call it: dev/ladder.cuh.
// Bytes that must move, in numbers an element: forward 3 (gate, up, y); backward 5 (dy, gate, up; dgate, dup).
#include "ladder.cuh"                       // defines: Array, ladder_*, expect*
#include "../findap/kernels/swiglu.cuh"     // defines: swiglu_forward, swiglu_backward, sigmoid

// ---------------------------------------------------------------------------------------------------------------------
// the reference: gate_up, dgate_up (N, 2F), y, dy (N, F)

static void reference(std::vector<double> &y, std::vector<double> &dgate_up, const std::vector<double> &dy, const std::vector<double> &gate_up, int64_t N, int64_t F) {
    y.resize((size_t)(N * F)); dgate_up.resize((size_t)(N * 2 * F));
    #pragma omp parallel for
    for (int64_t n = 0; n < N; n++)
        for (int64_t f = 0; f < F; f++) {
            const size_t g = (size_t)(n * 2 * F + f), u = g + (size_t)F, i = (size_t)(n * F + f);
            const double s = 1 / (1 + exp(-gate_up[g]));
            y[i] = gate_up[g] * s * gate_up[u];
            dgate_up[g] = dy[i] * gate_up[u] * s * (1 + gate_up[g] * (1 - s));
            dgate_up[u] = dy[i] * gate_up[g] * s;
        }
}

// ---------------------------------------------------------------------------------------------------------------------
// forward

__global__ static void forward1_kernel(real *y, const real *gate_up, int64_t N, int64_t F) {
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= N * F) return;
    const int64_t n = i / F, at = n * 2 * F + i - n * F;
    const float g = to_float(gate_up[at]), u = to_float(gate_up[at + F]);
    y[i] = from_float<real>(g * sigmoid(g) * u);
}
__global__ static void forward2_kernel(real *y, const real *gate_up, int F) {
    const int f = blockIdx.x * blockDim.x + threadIdx.x;
    const int64_t n = blockIdx.y;
    if (f >= F) return;
    const float g = to_float(gate_up[n * 2 * F + f]), u = to_float(gate_up[n * 2 * F + F + f]);
    y[n * F + f] = from_float<real>(g * sigmoid(g) * u);
}
static const char *const forward_ideas[] = {"a thread an element", "rows are a dimension of the grid: no 64-bit division", "swiglu.cuh: 16 bytes a load and a store, gate and up past the caches"};
static void forward(int rung, real *y, const real *gate_up, int64_t N, int64_t F) {
    if (rung == 1) forward1_kernel<<<(unsigned)ceil_div(N * F, 256), 256>>>(y, gate_up, N, F);
    else if (rung == 2) forward2_kernel<<<dim3((unsigned)ceil_div(F, 256), (unsigned)N), 256>>>(y, gate_up, (int)F);
    else swiglu_forward(y, gate_up, N, F, 0);
    CUDA_CHECK(cudaGetLastError());
}

// ---------------------------------------------------------------------------------------------------------------------
// backward

__device__ static inline void gradient(real *dgate, real *dup, real dy, real gate, real up) {
    const float d = to_float(dy), g = to_float(gate), u = to_float(up), s = sigmoid(g);
    *dgate = from_float<real>(d * u * s * (1.0f + g * (1.0f - s)));
    *dup = from_float<real>(d * g * s);
}
__global__ static void backward1_kernel(real *dgate_up, const real *dy, const real *gate_up, int64_t N, int64_t F) {
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= N * F) return;
    const int64_t n = i / F, at = n * 2 * F + i - n * F;
    gradient(dgate_up + at, dgate_up + at + F, dy[i], gate_up[at], gate_up[at + F]);
}
__global__ static void backward2_kernel(real *dgate_up, const real *dy, const real *gate_up, int F) {
    const int f = blockIdx.x * blockDim.x + threadIdx.x;
    const int64_t n = blockIdx.y, at = n * 2 * F + f;
    if (f < F) gradient(dgate_up + at, dgate_up + at + F, dy[n * F + f], gate_up[at], gate_up[at + F]);
}
static const char *const backward_ideas[] = {"a thread an element", "rows are a dimension of the grid: no 64-bit division", "swiglu.cuh: 16 bytes a load and a store",
                                             "the same, in place: the gradient where gate and up were, as training runs it", "the same, and the forward result again where dy was (6 numbers an element)"};
static void backward(int rung, real *dgate_up, real *dy, real *gate_up, int64_t N, int64_t F) {
    if (rung == 1) backward1_kernel<<<(unsigned)ceil_div(N * F, 256), 256>>>(dgate_up, dy, gate_up, N, F);
    else if (rung == 2) backward2_kernel<<<dim3((unsigned)ceil_div(F, 256), (unsigned)N), 256>>>(dgate_up, dy, gate_up, (int)F);
    else swiglu_backward(rung == 3 ? dgate_up : gate_up, rung == 5 ? dy : NULL, dy, gate_up, N, F, 0);
    CUDA_CHECK(cudaGetLastError());
}

// ---------------------------------------------------------------------------------------------------------------------

static void check(int64_t N, int64_t F, float scale) {
    char shape[96];
    snprintf(shape, sizeof shape, "swiglu N %lld F %lld scale %g", (long long)N, (long long)F, (double)scale);
    Array<real> gate_up(N * 2 * F, 1, scale), dy(N * F, 2, 1.0f), y(N * F), act(N * F), dgate_up(N * 2 * F);
    std::vector<double> ry, rd;
    reference(ry, rd, dy.numbers(), gate_up.numbers(), N, F);
    swiglu_forward(y.at, gate_up.at, N, F, 0);
    expect_close(y, ry, "y", shape);
    swiglu_backward(dgate_up.at, NULL, dy.at, gate_up.at, N, F, 0);
    expect_close(dgate_up, rd, "dgate_up", shape);
    const std::vector<real> gradient_apart = dgate_up.get();
    swiglu_backward(dgate_up.at, act.at, dy.at, gate_up.at, N, F, 0);
    expect(same_bits(dgate_up.get(), gradient_apart), "dgate_up: other bits when act is wanted too", shape);
    expect(same_bits(act.get(), y.get()), "act differs from the forward pass", shape);
    swiglu_backward(gate_up.at, dy.at, dy.at, gate_up.at, N, F, 0);   // everything in place
    expect(same_bits(gate_up.get(), gradient_apart), "dgate_up in gate_up's place: other bits", shape);
    expect(same_bits(dy.get(), y.get()), "act in dy's place: differs from the forward pass", shape);
    expect(gate_up.fences_stand() && dy.fences_stand() && act.fences_stand(), "written outside its shape", shape);
}

int main(int argc, char **argv) {
    program_name = "swiglu";
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "tiny") == 0) {
        for (int64_t F : {8, 200, 2056}) check(3, F, 1.0f);
        return check_result();
    }
    if (strcmp(what, "check") == 0) {
        for (int64_t F : {8, 64, 72, 200, 2048, 2056, 4864, 8960, 14336}) for (int64_t N : {1, 3, 77}) check(N, F, 1.0f);
        for (float scale : {1e-3f, 30.0f, 1000.0f}) check(77, 1000, scale);   // 1000: exp(-gate) overflows and vanishes
        check(70000, 16, 1.0f);                                              // more rows than a grid has in its second dimension
        check(8192, 1024, 1.0f);
        return check_result();
    }
    const Ladder l = ladder_begin(argc, argv);
    const int64_t N = 8192, F = 14336, few = 64;
    Array<real> gate_up(SETS * N * 2 * F, 1, 1.0f), dy(SETS * N * F, 2, 1.0f), y(SETS * N * F), dgate_up(SETS * N * 2 * F);
    Array<real> gate_up_few(few * 2 * F, 1, 1.0f), dy_few(few * F, 2, 1.0f), y_few(few * F), dgate_up_few(few * 2 * F);
    std::vector<double> ry, rd;
    reference(ry, rd, dy_few.numbers(), gate_up_few.numbers(), few, F);
    ladder_title("SwiGLU forward, 8192 x 14336 (error: 64 rows)");
    for (int rung = 1; rung <= 3; rung++) {
        if (!ladder_wants(&l, rung)) continue;
        forward(rung, y_few.at, gate_up_few.at, few, F);
        const double error = difference(y_few, ry).norm;
        ladder_rung(&l, rung, forward_ideas[rung - 1], 3.0 * (double)(N * F) * sizeof(real), error, [&](int set) { forward(rung, y.at + set * N * F, gate_up.at + set * N * 2 * F, N, F); });
    }
    ladder_title("SwiGLU backward, 8192 x 14336 (error: dgate_up, 64 rows)");
    for (int rung = 1; rung <= 5; rung++) {
        if (!ladder_wants(&l, rung)) continue;
        Array<real> in(few * 2 * F, 1, 1.0f), d(few * F, 2, 1.0f);   // its own: rungs 4 and 5 work in place
        backward(rung, dgate_up_few.at, d.at, in.at, few, F);
        const double error = difference(rung >= 4 ? in : dgate_up_few, rd).norm;
        ladder_rung(&l, rung, backward_ideas[rung - 1], (rung == 5 ? 6.0 : 5.0) * (double)(N * F) * sizeof(real), error,
                    [&](int set) { backward(rung, dgate_up.at + set * N * 2 * F, dy.at + set * N * F, gate_up.at + set * N * 2 * F, N, F); });
    }
    return 0;
}
