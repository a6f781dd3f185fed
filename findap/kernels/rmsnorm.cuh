// rmsnorm.cuh: RMSNorm (Zhang & Sennrich 2019) in Hugging Face's order: the normalised value is rounded to `real` first, then
// multiplied by the weight.
//
// Bound by bytes. Forward: x is read and y written once; a row lies in the registers of one block of 256 threads, all of its
// loads under way before the first is used. Backward: dy, x and dx are read and dx written once; each block takes many rows, the
// next one on its way while it works on one, and keeps its sums for dweight in registers, so that these cost one row of floats a block; a second kernel adds the blocks' rows in
// one order.
#ifndef FINDAP_KERNELS_RMSNORM_CUH
#define FINDAP_KERNELS_RMSNORM_CUH
#include "cuda.cuh"   // defines: Pack, load_pack, store_pack, warp_sum, device_multiprocessors, launch_early, real

enum { NORM_THREADS = 256, NORM_WARPS = NORM_THREADS / 32, NORM_BLOCKS = 1056 };   // NORM_BLOCKS: most blocks of the backward kernel, rows of `partial`

// the sum over the block's 8 warps; `shared` holds 2 x 8 floats, used in turn, so that one barrier a row is enough
__device__ static inline float norm_block_sum(float x, float *shared, int turn) {
    x = warp_sum(x);
    float *s = shared + (turn & 1) * NORM_WARPS;
    if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = x;
    __syncthreads();
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

template <int PACKS> __global__ static void __launch_bounds__(NORM_THREADS) rmsnorm_forward_kernel(real *y, float *rstd, const real *x, const real *weight, int C, float eps) {
    constexpr int P = Pack<real>::size;
    __shared__ float shared[2 * NORM_WARPS];
    const int64_t row = (int64_t)blockIdx.x * C;
    Pack<real> v[PACKS];
    float sum = 0;
    wait_for_previous();
    let_next_begin();
    #pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int c = (i * NORM_THREADS + threadIdx.x) * P;
        if (c < C) v[i] = load_pack(x + row + c);
    }
    #pragma unroll
    for (int i = 0; i < PACKS; i++)
        if ((i * NORM_THREADS + threadIdx.x) * P < C)
            #pragma unroll
            for (int k = 0; k < P; k++) { float f = to_float(v[i].at[k]); sum += f * f; }
    Pack<real> w[PACKS];   // asked for before the barrier
    #pragma unroll
    for (int i = 0; i < PACKS; i++) if ((i * NORM_THREADS + threadIdx.x) * P < C) w[i] = load_pack(weight + (i * NORM_THREADS + threadIdx.x) * P);
    const float r = 1.0f / sqrtf(norm_block_sum(sum, shared, 0) / (float)C + eps);
    if (threadIdx.x == 0) rstd[blockIdx.x] = r;
    #pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int c = (i * NORM_THREADS + threadIdx.x) * P;
        if (c >= C) break;
        Pack<real> out;
        #pragma unroll
        for (int k = 0; k < P; k++) out.at[k] = from_float<real>(to_float(w[i].at[k]) * to_float(from_float<real>(to_float(v[i].at[k]) * r)));
        store_pack(y + row + c, out);
    }
}

// Every thread copies the numbers of the next row that it will need itself into shared memory, past its registers, while it works on this one
// (cp.async): it waits for its own copies only, and the memory never idles while the block adds up a row.
__device__ static inline void copy_ahead(uint4 *to, const void *from) { asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from) : "memory"); }
template <int PACKS> __global__ static void __launch_bounds__(NORM_THREADS) rmsnorm_backward_kernel(real *dx, float *partial, const real *dy, const real *x, const float *rstd, const real *weight, int64_t N, int C) {
    constexpr int P = Pack<real>::size;
    extern __shared__ uint4 ahead[];   // (2, 3, PACKS, NORM_THREADS): two rows of dy, x and dx
    __shared__ float shared[2 * NORM_WARPS];
    float dw[PACKS][P];
    #pragma unroll
    for (int i = 0; i < PACKS; i++)
        #pragma unroll
        for (int k = 0; k < P; k++) dw[i][k] = 0.0f;
    auto slot = [&](int turn, int which, int i) { return ahead + (((turn & 1) * 3 + which) * PACKS + i) * NORM_THREADS + threadIdx.x; };
    auto fetch = [&](int64_t n, int turn) {
        #pragma unroll
        for (int i = 0; i < PACKS; i++) {
            const int c = (i * NORM_THREADS + threadIdx.x) * P;
            if (n >= N || c >= C) break;
            copy_ahead(slot(turn, 0, i), dy + n * C + c);
            copy_ahead(slot(turn, 1, i), x + n * C + c);
            copy_ahead(slot(turn, 2, i), dx + n * C + c);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    auto take = [&](int turn, int which, int i) { return *reinterpret_cast<const Pack<real> *>(slot(turn, which, i)); };
    int turn = 0;
    wait_for_previous();
    fetch(blockIdx.x, 0);
    for (int64_t n = blockIdx.x; n < N; n += gridDim.x, turn++) {
        const float r = rstd[n];
        fetch(n + gridDim.x, turn + 1);
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        float dot = 0;
        #pragma unroll
        for (int i = 0; i < PACKS; i++) {
            const int c = (i * NORM_THREADS + threadIdx.x) * P;
            if (c >= C) break;
            const Pack<real> w = load_pack(weight + c), vy = take(turn, 0, i), vx = take(turn, 1, i);
            #pragma unroll
            for (int k = 0; k < P; k++) {
                const float a = to_float(vy.at[k]), b = to_float(vx.at[k]);
                dot += to_float(w.at[k]) * a * b;
                dw[i][k] += a * b * r;
            }
        }
        const float s = norm_block_sum(dot, shared, turn) * r * r * r / (float)C;
        #pragma unroll
        for (int i = 0; i < PACKS; i++) {
            const int c = (i * NORM_THREADS + threadIdx.x) * P;
            if (c >= C) break;
            const Pack<real> w = load_pack(weight + c), vy = take(turn, 0, i), vx = take(turn, 1, i);
            Pack<real> vd = take(turn, 2, i);
            #pragma unroll
            for (int k = 0; k < P; k++) vd.at[k] = from_float<real>(to_float(vd.at[k]) + r * to_float(w.at[k]) * to_float(vy.at[k]) - s * to_float(vx.at[k]));
            store_pack(dx + n * C + c, vd);
        }
    }
    #pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int c = (i * NORM_THREADS + threadIdx.x) * P;
        if (c >= C) break;
        #pragma unroll
        for (int k = 0; k < P; k += 4) *reinterpret_cast<float4 *>(partial + (int64_t)blockIdx.x * C + c + k) = make_float4(dw[i][k], dw[i][k + 1], dw[i][k + 2], dw[i][k + 3]);
    }
}

// out (C) [+]= sums of the columns of partial (rows, C), in one order: 16 sums of every 16th row, then those
__global__ static void __launch_bounds__(512) column_sums_kernel(float *out, const float *partial, bool add, int rows, int64_t C) {
    __shared__ float shared[16][33];
    const int64_t c = blockIdx.x * 32ll + threadIdx.x;
    float sum = 0;
    if (c < C)
        #pragma unroll 8   // loads under way, added in order
        for (int r = threadIdx.y; r < rows; r += 16) sum += partial[r * C + c];
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < C) {
        sum = 0;
        #pragma unroll
        for (int k = 0; k < 16; k++) sum += shared[k][threadIdx.x];
        out[c] = add ? out[c] + sum : sum;
    }
}
static void column_sums(float *out, const float *partial, bool add, int rows, int64_t C, cudaStream_t stream) {
    column_sums_kernel<<<(unsigned)ceil_div(C, 32), dim3(32, 16), 0, stream>>>(out, partial, add, rows, C);
    CUDA_CHECK(cudaGetLastError());
}

// instances for rows of up to 1, 2, 4, 8 packs a thread
#define NORM_INSTANCE(kernel, blocks, bytes, ...) do { \
        if ((bytes) > 40 * 1024) CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes))); \
        launch_early(kernel, dim3((unsigned)(blocks)), NORM_THREADS, (int)(bytes), stream, __VA_ARGS__); \
    } while (0)
#define NORM_LAUNCH(kernel, blocks, bytes, ...) do { \
        const int64_t packs = ceil_div(C, (int64_t)NORM_THREADS * Pack<real>::size); \
        CHECK(packs <= 8); \
        if (packs <= 1) NORM_INSTANCE(kernel<1>, blocks, bytes, __VA_ARGS__); \
        else if (packs <= 2) NORM_INSTANCE(kernel<2>, blocks, bytes, __VA_ARGS__); \
        else if (packs <= 4) NORM_INSTANCE(kernel<4>, blocks, bytes, __VA_ARGS__); \
        else NORM_INSTANCE(kernel<8>, blocks, bytes, __VA_ARGS__); \
    } while (0)

// y (N, C) = weight * real(x * rstd), rstd (N) = 1 / sqrt(mean of x^2 + eps); rstd is kept for the backward pass
static void rmsnorm_forward(real *y, float *rstd, const real *x, const real *weight, int64_t N, int64_t C, float eps, cudaStream_t stream) {
    NORM_LAUNCH(rmsnorm_forward_kernel, N, 0, y, rstd, x, weight, (int)C, eps);
}
static int64_t rmsnorm_partial_count(int64_t C) { return NORM_BLOCKS * C; }
// dx (N, C) += gradient through the norm;  dweight (C) += or =   [NULL: frozen]
// with h = weight * dy:  dx = rstd * h - x * rstd^3 * mean(h * x);  partial: rmsnorm_partial_count(C) floats
static void rmsnorm_backward(real *dx, float *dweight, float *partial, const real *dy, const real *x, const float *rstd, const real *weight, bool add, int64_t N, int64_t C, cudaStream_t stream) {
    int64_t packs = 1;   // of a thread, as NORM_LAUNCH finds it
    while (packs * NORM_THREADS * Pack<real>::size < C) packs *= 2;
    const int64_t bytes = 2 * 3 * packs * NORM_THREADS * 16, fit = 200 * 1024 / bytes;   // shared memory of two rows; blocks a multiprocessor holds
    int64_t blocks = (fit > 3 ? 3 : fit) * device_multiprocessors();
    blocks = blocks > NORM_BLOCKS ? NORM_BLOCKS : blocks > N ? N : blocks;
    NORM_LAUNCH(rmsnorm_backward_kernel, blocks, bytes, dx, partial, dy, x, rstd, weight, N, (int)C);
    if (dweight) column_sums(dweight, partial, add, (int)blocks, C, stream);
}
#endif
