// rmsnorm.cuh: RMSNorm (Zhang & Sennrich 2019) in Hugging Face's order: the normalised value is rounded to `real` first, then
// multiplied by the weight.
//
// Bound by bytes. Forward: x is read and y written once; a row lies in the registers of one block of 256 threads, all of its
// loads under way before the first is used. Backward: dy, x and dx are read and dx written once; each block takes many rows and
// keeps its sums for dweight in registers, so that these cost one row of floats a block; a second kernel adds the blocks' rows in
// one order.
#ifndef FINDAP_KERNELS_RMSNORM_CUH
#define FINDAP_KERNELS_RMSNORM_CUH
#include "cuda.cuh"   // defines: Pack, load_pack, store_pack, warp_sum, device_multiprocessors, real

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

// the blocks a multiprocessor shall hold: bytes under way are what keeps the memory busy
template <int PACKS> __global__ static void __launch_bounds__(NORM_THREADS, PACKS == 1 ? 5 : PACKS == 2 ? 3 : 1) rmsnorm_backward_kernel(real *dx, float *partial, const real *dy, const real *x, const float *rstd, const real *weight, int64_t N, int C) {
    constexpr int P = Pack<real>::size;
    __shared__ float shared[2 * NORM_WARPS];
    float dw[PACKS][P];
    #pragma unroll
    for (int i = 0; i < PACKS; i++)
        #pragma unroll
        for (int k = 0; k < P; k++) dw[i][k] = 0.0f;
    int turn = 0;
    for (int64_t n = blockIdx.x; n < N; n += gridDim.x, turn++) {
        Pack<real> vx[PACKS], vy[PACKS], vd[PACKS];
        const float r = rstd[n];
        #pragma unroll
        for (int i = 0; i < PACKS; i++) {
            const int c = (i * NORM_THREADS + threadIdx.x) * P;
            if (c < C) { vx[i] = load_pack_once(x + n * C + c); vy[i] = load_pack_once(dy + n * C + c); vd[i] = load_pack(dx + n * C + c); }
        }
        float dot = 0;
        #pragma unroll
        for (int i = 0; i < PACKS; i++) {
            const int c = (i * NORM_THREADS + threadIdx.x) * P;
            if (c >= C) break;
            const Pack<real> w = load_pack(weight + c);   // from L1: registers are scarcer
            #pragma unroll
            for (int k = 0; k < P; k++) {
                const float a = to_float(vy[i].at[k]), b = to_float(vx[i].at[k]);
                dot += to_float(w.at[k]) * a * b;
                dw[i][k] += a * b * r;
            }
        }
        const float s = norm_block_sum(dot, shared, turn) * r * r * r / (float)C;
        #pragma unroll
        for (int i = 0; i < PACKS; i++) {
            const int c = (i * NORM_THREADS + threadIdx.x) * P;
            if (c >= C) break;
            const Pack<real> w = load_pack(weight + c);
            #pragma unroll
            for (int k = 0; k < P; k++) vd[i].at[k] = from_float<real>(to_float(vd[i].at[k]) + r * to_float(w.at[k]) * to_float(vy[i].at[k]) - s * to_float(vx[i].at[k]));
            store_pack(dx + n * C + c, vd[i]);
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
#define NORM_LAUNCH(kernel, blocks, ...) do { \
        const int64_t packs = ceil_div(C, (int64_t)NORM_THREADS * Pack<real>::size); \
        CHECK(packs <= 8); \
        if (packs <= 1) kernel<1><<<(unsigned)(blocks), NORM_THREADS, 0, stream>>>(__VA_ARGS__); \
        else if (packs <= 2) kernel<2><<<(unsigned)(blocks), NORM_THREADS, 0, stream>>>(__VA_ARGS__); \
        else if (packs <= 4) kernel<4><<<(unsigned)(blocks), NORM_THREADS, 0, stream>>>(__VA_ARGS__); \
        else kernel<8><<<(unsigned)(blocks), NORM_THREADS, 0, stream>>>(__VA_ARGS__); \
        CUDA_CHECK(cudaGetLastError()); \
    } while (0)

// y (N, C) = weight * real(x * rstd), rstd (N) = 1 / sqrt(mean of x^2 + eps); rstd is kept for the backward pass
static void rmsnorm_forward(real *y, float *rstd, const real *x, const real *weight, int64_t N, int64_t C, float eps, cudaStream_t stream) {
    NORM_LAUNCH(rmsnorm_forward_kernel, N, y, rstd, x, weight, (int)C, eps);
}
static int64_t rmsnorm_partial_count(int64_t C) { return NORM_BLOCKS * C; }
// dx (N, C) += gradient through the norm;  dweight (C) += or =
// with h = weight * dy:  dx = rstd * h - x * rstd^3 * mean(h * x);  partial: rmsnorm_partial_count(C) floats
static void rmsnorm_backward(real *dx, float *dweight, float *partial, const real *dy, const real *x, const float *rstd, const real *weight, bool add, int64_t N, int64_t C, cudaStream_t stream) {
    int64_t blocks = (C <= 8 * NORM_THREADS ? 5 : 3) * device_multiprocessors();
    blocks = blocks > NORM_BLOCKS ? NORM_BLOCKS : blocks > N ? N : blocks;
    NORM_LAUNCH(rmsnorm_backward_kernel, blocks, dx, partial, dy, x, rstd, weight, N, (int)C);
    column_sums(dweight, partial, add, (int)blocks, C, stream);
}
#endif
