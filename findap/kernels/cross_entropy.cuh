// cross_entropy.cuh: log-probabilities of the targets and, in place, the gradient of the logits.
//
// Bound by bytes: a row of logits (256 KB at V = 128,256 in bf16) is read once and its gradient written once. Two blocks share a
// multiprocessor, so that one computes while the other waits for memory; each keeps what it can of its row between the two
// passes - the first packs of a thread in registers, the next in shared memory - and only the rest, about a third, is read again,
// from L2. Maximum and sum are found in one pass (the sum is rescaled when the maximum grows), in fp32.
#ifndef FINDAP_KERNELS_CROSS_ENTROPY_CUH
#define FINDAP_KERNELS_CROSS_ENTROPY_CUH
#include "cuda.cuh"   // defines: Pack, load_pack, store_pack, block_sum, block_max, real

enum { CE_THREADS = 512, CE_REGISTERS = 6, CE_SHARED = 14 };   // packs of a thread that are kept in registers and in shared memory

__device__ static inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__global__ static void __launch_bounds__(CE_THREADS, 2) cross_entropy_kernel(float *logp, real *logits, int64_t ld, const int32_t *targets, const float *coef, int V) {
    constexpr int P = Pack<real>::size;
    constexpr float LOG2E = 1.4426950408889634f;
    extern __shared__ uint4 kept_shared[];   // (CE_SHARED, CE_THREADS)
    __shared__ float shared[33];
    const int64_t row = blockIdx.x;
    real *x = logits + row * ld;
    const int target = targets[row], packs = (V + P - 1) / P, thread = threadIdx.x;
    const float at_target = to_float(x[target]);   // before any thread writes: every write comes after a barrier
    Pack<real> kept[CE_REGISTERS];
    float maximum = -INFINITY, sum = 0.0f;

    auto load = [&](int j) {   // what lies beyond the vocabulary counts as -inf, and gets gradient 0
        Pack<real> v = load_pack(x + (int64_t)j * P);
        if ((j + 1) * P > V)
            #pragma unroll
            for (int k = 0; k < P; k++) if (j * P + k >= V) v.at[k] = from_float<real>(-INFINITY);
        return v;
    };
    auto take = [&](const Pack<real> &v) {
        float m = maximum;
        #pragma unroll
        for (int k = 0; k < P; k++) m = fmaxf(m, to_float(v.at[k]));
        if (m > maximum) { sum *= exp2_fast((maximum - m) * LOG2E); maximum = m; }
        const float shift = maximum * LOG2E;
        #pragma unroll
        for (int k = 0; k < P; k++) sum += exp2_fast(fmaf(to_float(v.at[k]), LOG2E, -shift));
    };
    #pragma unroll
    for (int i = 0; i < CE_REGISTERS; i++) if (thread + i * CE_THREADS < packs) kept[i] = load(thread + i * CE_THREADS);
    #pragma unroll
    for (int i = 0; i < CE_SHARED; i++) {
        const int j = thread + (CE_REGISTERS + i) * CE_THREADS;
        if (j < packs) {
            Pack<real> v = load(j);
            kept_shared[i * CE_THREADS + thread] = *reinterpret_cast<uint4 *>(&v);
        }
    }
    #pragma unroll
    for (int i = 0; i < CE_REGISTERS; i++) if (thread + i * CE_THREADS < packs) take(kept[i]);
    #pragma unroll 2
    for (int i = 0; i < CE_SHARED; i++) {
        if (thread + (CE_REGISTERS + i) * CE_THREADS >= packs) break;
        uint4 u = kept_shared[i * CE_THREADS + thread];
        take(*reinterpret_cast<Pack<real> *>(&u));
    }
    #pragma unroll 4
    for (int j = thread + (CE_REGISTERS + CE_SHARED) * CE_THREADS; j < packs; j += CE_THREADS) take(load(j));

    const float all = block_max(maximum, shared);
    // a thread with nothing finite contributes nothing, but NaN stays NaN
    sum = block_sum(maximum == -INFINITY && sum == 0.0f ? 0.0f : sum * exp2_fast((maximum - all) * LOG2E), shared);
    if (thread == 0) logp[row] = at_target - all - logf(sum);
    if (!coef) return;

    const float c = coef[row], factor = -c / sum, shift = all * LOG2E;
    auto give = [&](Pack<real> v, int j) {
        #pragma unroll
        for (int k = 0; k < P; k++) {
            float g = factor * exp2_fast(fmaf(to_float(v.at[k]), LOG2E, -shift));
            if (j * P + k == target) g += c;
            v.at[k] = from_float<real>(g);
        }
        store_pack_once(x + (int64_t)j * P, v);
    };
    // the part that must be read again first, while it is still in L2
    #pragma unroll 4
    for (int j = thread + (CE_REGISTERS + CE_SHARED) * CE_THREADS; j < packs; j += CE_THREADS) give(load(j), j);
    #pragma unroll 2
    for (int i = 0; i < CE_SHARED; i++) {
        const int j = thread + (CE_REGISTERS + i) * CE_THREADS;
        if (j >= packs) break;
        uint4 u = kept_shared[i * CE_THREADS + thread];
        give(*reinterpret_cast<Pack<real> *>(&u), j);
    }
    #pragma unroll
    for (int i = 0; i < CE_REGISTERS; i++) if (thread + i * CE_THREADS < packs) give(kept[i], thread + i * CE_THREADS);
    // the row's end beyond the last pack of the vocabulary
    for (int j = packs + thread; j < ld / P; j += CE_THREADS) { Pack<real> zero = {}; store_pack(x + (int64_t)j * P, zero); }
}

// logp (n) = log softmax(logits)[target], natural. logits (n, V), row stride ld >= V, a multiple of 8. With coef (n) = dL/dlogp, the logits become
// dL/dlogits = coef (onehot - softmax) and columns V .. ld-1 zero; with coef NULL they are left alone.
static void cross_entropy(float *logp, real *logits, int64_t ld, const int32_t *targets, const float *coef, int64_t n, int64_t V, cudaStream_t stream) {
    if (n == 0) return;
    const int bytes = CE_SHARED * CE_THREADS * 16;
    CUDA_CHECK(cudaFuncSetAttribute(cross_entropy_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    cross_entropy_kernel<<<(unsigned)n, CE_THREADS, bytes, stream>>>(logp, logits, ld, targets, coef, (int)V);
    CUDA_CHECK(cudaGetLastError());
}

__global__ static void __launch_bounds__(1024) loss_sum_kernel(double *loss, const float *coef, const float *logp, int64_t n) {
    __shared__ double shared[1024];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += 1024) sum += (double)coef[i] * (double)logp[i];
    shared[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 512; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) *loss += shared[0];
}
// *loss += sum over i < n of coef logp: one block, one order
static void loss_sum(double *loss, const float *coef, const float *logp, int64_t n, cudaStream_t stream) {
    if (n == 0) return;
    loss_sum_kernel<<<1, 1024, 0, stream>>>(loss, coef, logp, n);
    CUDA_CHECK(cudaGetLastError());
}
#endif
