// rope.cuh: rotary position embedding in Hugging Face's half-split form, in place on the q and k parts of qkv, angles in fp32.
// Bound by bytes: q and k are read and written once. One thread turns 8 (bf16) pairs: 16 bytes of a head's first half and 16 of
// its second; the table of cosines and sines is small and stays in L2.
#ifndef FINDAP_KERNELS_ROPE_CUH
#define FINDAP_KERNELS_ROPE_CUH
#include "cuda.cuh"   // defines: Pack, load_pack, store_pack, real

__global__ static void rope_kernel(real *qkv, const float *table, const int32_t *positions, float sign, int64_t N, int heads, int W, int HD) {
    constexpr int P = Pack<real>::size;
    const int half = HD / 2, packs = half / P, per_token = heads * packs;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < N * per_token; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t n = i / per_token;
        const int r = (int)(i - n * per_token), h = r / packs, j = (r - h * packs) * P;
        real *p = qkv + n * W + h * HD + j;
        Pack<real> a = load_pack(p), b = load_pack(p + half);
        const float4 *cs = reinterpret_cast<const float4 *>(table + ((int64_t)positions[n] * half + j) * 2);
        #pragma unroll
        for (int k = 0; k < P; k += 2) {
            const float4 t = cs[k / 2];   // cosine and sine of two pairs
            float x0 = to_float(a.at[k]), y0 = to_float(b.at[k]), x1 = to_float(a.at[k + 1]), y1 = to_float(b.at[k + 1]);
            a.at[k] = from_float<real>(x0 * t.x - y0 * sign * t.y);
            b.at[k] = from_float<real>(y0 * t.x + x0 * sign * t.y);
            a.at[k + 1] = from_float<real>(x1 * t.z - y1 * sign * t.w);
            b.at[k + 1] = from_float<real>(y1 * t.z + x1 * sign * t.w);
        }
        store_pack(p, a);
        store_pack(p + half, b);
    }
}
// head_dim whose half is not a multiple of 16 bytes: one pair a thread
__global__ static void rope_pairs_kernel(real *qkv, const float *table, const int32_t *positions, float sign, int64_t N, int heads, int W, int HD) {
    const int half = HD / 2, per_token = heads * half;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < N * per_token; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t n = i / per_token;
        const int r = (int)(i - n * per_token), h = r / half, j = r - h * half;
        real *p = qkv + n * W + h * HD + j;
        const float *cs = table + ((int64_t)positions[n] * half + j) * 2;
        float x = to_float(p[0]), y = to_float(p[half]);
        p[0] = from_float<real>(x * cs[0] - y * sign * cs[1]);
        p[half] = from_float<real>(y * cs[0] + x * sign * cs[1]);
    }
}
static void rope(real *qkv, const float *table, const int32_t *positions, float sign, int64_t N, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    const int64_t W = (NH + 2 * NKV) * HD;
    const bool packed = HD / 2 % Pack<real>::size == 0;
    const int64_t threads = N * (NH + NKV) * (HD / 2) / (packed ? Pack<real>::size : 1), blocks = ceil_div(threads, 256);
    (packed ? rope_kernel : rope_pairs_kernel)<<<(unsigned)(blocks < 1 << 20 ? blocks : 1 << 20), 256, 0, stream>>>(qkv, table, positions, sign, N, (int)(NH + NKV), (int)W, (int)HD);
    CUDA_CHECK(cudaGetLastError());
}
static void rope_forward(real *qkv, const float *table, const int32_t *positions, int64_t N, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    rope(qkv, table, positions, 1.0f, N, NH, NKV, HD, stream);
}
// the rotation by the opposite angle: its transpose
static void rope_backward(real *dqkv, const float *table, const int32_t *positions, int64_t N, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    rope(dqkv, table, positions, -1.0f, N, NH, NKV, HD, stream);
}
#endif
