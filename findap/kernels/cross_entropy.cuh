// cross_entropy.cuh: log-probabilities of the targets and, in place, the gradient of the logits.
//
// Bound by bytes: a row of logits (256 KB at V = 128,256 in bf16) is read once and its gradient written once. The exponentials are not
// far behind: two a number, at 16 a clock and multiprocessor, are over half of the time that the bytes take. Where shared memory is large
// (Hopper) one block of 1,024 threads keeps a whole row of up to 131,072 bf16 between the two passes: most in shared memory, where
// asynchronous copies put it without a detour through registers, all of them under way at once, a little in registers; 91 % of copy
// bandwidth on an H200. Elsewhere two blocks of 512 share a multiprocessor, one computing while the other waits, and read what they cannot
// keep again from L2 (81 % there).
//
// Maximum and sum are found in one pass. What stands for the maximum is a power of two, `shift`: the sum is that of 2^(x log2(e) - shift),
// and grows no further than the number of columns. shift is the rounded product of the largest x and log2(e), but every formula below
// uses shift itself, so that its rounding cancels, also where logits are large. It starts finite: -inf has probability 0 and does no harm.
#ifndef FINDAP_KERNELS_CROSS_ENTROPY_CUH
#define FINDAP_KERNELS_CROSS_ENTROPY_CUH
#include "cuda.cuh"   // defines: Pack, load_pack, store_pack, block_sum, block_max, real

__device__ static inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 16 bytes from global into shared memory, asynchronously; the thread that asked for them waits for them
__device__ static inline void copy_async(void *shared, const void *global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(global) : "memory");
}
__device__ static inline void copy_async_group(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int GROUPS> __device__ static inline void copy_async_wait(void) { asm volatile("cp.async.wait_group %0;" :: "n"(GROUPS) : "memory"); }

// BLOCKS: a multiprocessor's; REGISTERS, SHARED: packs of a thread that are kept in registers and in shared memory
template <int THREADS, int BLOCKS, int REGISTERS, int SHARED> __global__ static void __launch_bounds__(THREADS, BLOCKS)
cross_entropy_kernel(float *logp, real *logits, int64_t ld, const int32_t *targets, const float *coef, int V) {
    constexpr int P = Pack<real>::size, KEPT = REGISTERS + SHARED, HALF = SHARED / 2;
    constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;
    extern __shared__ uint4 kept_shared[];   // (SHARED, THREADS)
    __shared__ float shared[33];
    const int64_t row = blockIdx.x;
    real *x = logits + row * ld;
    const int target = targets[row], packs = (V + P - 1) / P, thread = threadIdx.x;
    const float at_target = to_float(x[target]);   // before any thread writes: every write comes after a barrier
    float shift = -1e30f, sum = 0.0f;

    auto mask = [&](Pack<real> &v, int j) {   // what lies beyond the vocabulary counts as -inf, and gets gradient 0
        if ((j + 1) * P > V)
            #pragma unroll
            for (int k = 0; k < P; k++) if (j * P + k >= V) v.at[k] = from_float<real>(-INFINITY);
    };
    auto take = [&](Pack<real> v, int j) {
        mask(v, j);
        float m = to_float(v.at[0]);
        #pragma unroll
        for (int k = 1; k < P; k++) m = fmaxf(m, to_float(v.at[k]));
        m *= LOG2E;
        if (m > shift) { sum *= exp2_fast(shift - m); shift = m; }
        #pragma unroll
        for (int k = 0; k < P; k++) sum += exp2_fast(fmaf(to_float(v.at[k]), LOG2E, -shift));
    };
    auto from_shared = [&](int i) {
        uint4 u = kept_shared[i * THREADS + thread];
        return *reinterpret_cast<Pack<real> *>(&u);
    };

    #pragma unroll
    for (int i = 0; i < SHARED; i++) {
        if (i == HALF) copy_async_group();   // in two groups: the first is worked on while the second arrives
        const int j = thread + (REGISTERS + i) * THREADS;
        if (j < packs) copy_async(kept_shared + i * THREADS + thread, x + (int64_t)j * P);
    }
    copy_async_group();
    Pack<real> kept[REGISTERS];
    #pragma unroll
    for (int i = 0; i < REGISTERS; i++) if (thread + i * THREADS < packs) kept[i] = load_pack(x + (int64_t)(thread + i * THREADS) * P);
    #pragma unroll
    for (int i = 0; i < REGISTERS; i++) if (thread + i * THREADS < packs) take(kept[i], thread + i * THREADS);
    copy_async_wait<1>();
    #pragma unroll 1
    for (int i = 0; i < SHARED; i++) {
        if (i == HALF) copy_async_wait<0>();
        const int j = thread + (REGISTERS + i) * THREADS;
        if (j < packs) take(from_shared(i), j);
    }
    #pragma unroll 4
    for (int j = thread + KEPT * THREADS; j < packs; j += THREADS) take(load_pack(x + (int64_t)j * P), j);

    const float all = block_max(shift, shared);
    sum = block_sum(sum * exp2_fast(shift - all), shared);
    if (thread == 0) logp[row] = (fmaf(at_target, LOG2E, -all) - log2f(sum)) * LN2;
    if (!coef) return;

    const float c = coef[row], factor = -c / sum;
    auto give = [&](Pack<real> v, int j) {
        mask(v, j);
        #pragma unroll
        for (int k = 0; k < P; k++) v.at[k] = from_float<real>(factor * exp2_fast(fmaf(to_float(v.at[k]), LOG2E, -all)));
        store_pack_once(x + (int64_t)j * P, v);
        // the target's number again, by the thread that has just written it: cheaper than a comparison at every number
        if ((unsigned)(target - j * P) < (unsigned)P) x[target] = from_float<real>(fmaf(factor, exp2_fast(fmaf(at_target, LOG2E, -all)), c));
    };
    // the part that must be read again first, while it is still in L2
    #pragma unroll 4
    for (int j = thread + KEPT * THREADS; j < packs; j += THREADS) give(load_pack(x + (int64_t)j * P), j);
    #pragma unroll 2
    for (int i = 0; i < SHARED; i++) {
        const int j = thread + (REGISTERS + i) * THREADS;
        if (j < packs) give(from_shared(i), j);
    }
    #pragma unroll
    for (int i = 0; i < REGISTERS; i++) if (thread + i * THREADS < packs) give(kept[i], thread + i * THREADS);
    // the row's end beyond the last pack of the vocabulary
    for (int j = packs + thread; j < ld / P; j += THREADS) { Pack<real> zero = {}; store_pack(x + (int64_t)j * P, zero); }
}
template <int THREADS, int BLOCKS, int REGISTERS, int SHARED>
static void cross_entropy_launch(float *logp, real *logits, int64_t ld, const int32_t *targets, const float *coef, int64_t n, int64_t V, cudaStream_t stream) {
    const int bytes = SHARED * THREADS * 16;
    CUDA_CHECK(cudaFuncSetAttribute(cross_entropy_kernel<THREADS, BLOCKS, REGISTERS, SHARED>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    cross_entropy_kernel<THREADS, BLOCKS, REGISTERS, SHARED><<<(unsigned)n, THREADS, bytes, stream>>>(logp, logits, ld, targets, coef, (int)V);
    CUDA_CHECK(cudaGetLastError());
}

// logp (n) = log softmax(logits)[target], natural. logits (n, V), row stride ld >= V, a multiple of 8. With coef (n) = dL/dlogp, the logits become
// dL/dlogits = coef (onehot - softmax) and columns V .. ld-1 zero; with coef NULL they are left alone.
static void cross_entropy(float *logp, real *logits, int64_t ld, const int32_t *targets, const float *coef, int64_t n, int64_t V, cudaStream_t stream) {
    static int shared_bytes = 0;   // of a multiprocessor, which a process never changes: 228 KB on Hopper, 100 KB on the smaller cards
    if (n == 0) return;
    if (shared_bytes == 0) {
        int device;
        CUDA_CHECK(cudaGetDevice(&device));
        CUDA_CHECK(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device));
    }
    if (shared_bytes >= 228 * 1024) cross_entropy_launch<1024, 1, 2, 14>(logp, logits, ld, targets, coef, n, V, stream);
    else if (shared_bytes >= 164 * 1024) cross_entropy_launch<512, 2, 3, 10>(logp, logits, ld, targets, coef, n, V, stream);
    else cross_entropy_launch<512, 2, 3, 6>(logp, logits, ld, targets, coef, n, V, stream);
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
