// swiglu.cuh: silu(gate) * up (Shazeer 2020), gate and up side by side as one matmul leaves them.
// Bound by bytes: 3 numbers an element forward, 6 backward (dy, gate, up read; dgate, dup written; act written when it was not kept).
// Everything is element by element, so the gradient may take the place of gate_up, and act that of dy.
#ifndef FINDAP_KERNELS_SWIGLU_CUH
#define FINDAP_KERNELS_SWIGLU_CUH
#include "cuda.cuh"   // defines: Pack, load_pack, store_pack, real

// the fast exponential is good to about 2^-21, far below bf16's rounding; the fp32 build is there to be compared tightly
__device__ static inline float sigmoid(float x) { return 1.0f / (1.0f + (sizeof(real) == 4 ? expf(-x) : __expf(-x))); }

__global__ static void __launch_bounds__(256) swiglu_forward_kernel(real *y, const real *gate_up, int64_t N, int F) {
    constexpr int P = Pack<real>::size;
    const int packs = F / P;
    for (int64_t n = blockIdx.y; n < N; n += gridDim.y) {
        const int j = blockIdx.x * blockDim.x + threadIdx.x;
        if (j >= packs) return;
        const real *g = gate_up + n * 2 * F + (int64_t)j * P;
        Pack<real> gate = load_pack_once(g), up = load_pack_once(g + F), out;
        #pragma unroll
        for (int k = 0; k < P; k++) {
            float x = to_float(gate.at[k]);
            out.at[k] = from_float<real>(x * sigmoid(x) * to_float(up.at[k]));
        }
        store_pack(y + n * F + (int64_t)j * P, out);
    }
}
// y (N, F) from gate_up (N, 2F)
static void swiglu_forward(real *y, const real *gate_up, int64_t N, int64_t F, cudaStream_t stream) {
    dim3 grid((unsigned)ceil_div(F / Pack<real>::size, 256), (unsigned)(N < 65535 ? N : 65535));
    swiglu_forward_kernel<<<grid, 256, 0, stream>>>(y, gate_up, N, (int)F);
    CUDA_CHECK(cudaGetLastError());
}

__global__ static void __launch_bounds__(256) swiglu_backward_kernel(real *dgate_up, real *act, const real *dy, const real *gate_up, int64_t N, int F) {
    constexpr int P = Pack<real>::size;
    const int packs = F / P;
    for (int64_t n = blockIdx.y; n < N; n += gridDim.y) {
        const int j = blockIdx.x * blockDim.x + threadIdx.x;
        if (j >= packs) return;
        const int64_t at = n * 2 * F + (int64_t)j * P, out = n * F + (int64_t)j * P;
        Pack<real> gate = load_pack(gate_up + at), up = load_pack(gate_up + at + F), d = load_pack(dy + out), dgate, dup, y;
        #pragma unroll
        for (int k = 0; k < P; k++) {
            float g = to_float(gate.at[k]), u = to_float(up.at[k]), dk = to_float(d.at[k]), s = sigmoid(g);
            dgate.at[k] = from_float<real>(dk * u * s * (1.0f + g * (1.0f - s)));   // silu'(g) = s (1 + g (1 - s))
            dup.at[k] = from_float<real>(dk * g * s);
            y.at[k] = from_float<real>(g * s * u);
        }
        store_pack(dgate_up + at, dgate);
        store_pack(dgate_up + at + F, dup);
        if (act) store_pack(act + out, y);
    }
}
// dgate_up (N, 2F) from dy (N, F); act, when wanted: the forward pass's result again. dgate_up may be gate_up, act may be dy.
static void swiglu_backward(real *dgate_up, real *act, const real *dy, const real *gate_up, int64_t N, int64_t F, cudaStream_t stream) {
    dim3 grid((unsigned)ceil_div(F / Pack<real>::size, 256), (unsigned)(N < 65535 ? N : 65535));
    swiglu_backward_kernel<<<grid, 256, 0, stream>>>(dgate_up, act, dy, gate_up, N, (int)F);
    CUDA_CHECK(cudaGetLastError());
}
#endif
