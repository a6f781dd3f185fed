// attention_plain.cuh: attention as train_findap.c does it: a warp for each query row (out, dq) and for each key row (dk, dv), any
// head_dim up to 256, fp32 sums in one order. Slow beside the others - every warp reads its keys from L2 - and meant to be: it is
// what the fp32 build runs, and what the tensor-core versions are checked against.
#ifndef FINDAP_KERNELS_ATTENTION_PLAIN_CUH
#define FINDAP_KERNELS_ATTENTION_PLAIN_CUH
#include "attention_plan.h"   // defines: AttentionPlan
#include "cuda.cuh"           // defines: warp_sum, to_float, from_float

typedef struct { int T, TP, NH, NKV, HD; float scale; } AttentionShape;

static AttentionShape attention_shape(const AttentionPlan *plan, int64_t NH, int64_t NKV, int64_t HD) {
    CHECK(HD <= 256 && NH % NKV == 0);
    AttentionShape s = {(int)plan->T, (int)(ceil_div(plan->T, QUERY_TILE) * QUERY_TILE), (int)NH, (int)NKV, (int)HD, 1.0f / sqrtf((float)HD)};
    return s;
}

// a row of HD numbers, shared out over a warp: lane l holds numbers l, l + 32, ...
typedef struct { float at[8]; } LaneRow;
template <typename T> __device__ static inline LaneRow lane_load(const T *p, int HD) {
    LaneRow r;
    #pragma unroll
    for (int k = 0; k < 8; k++) r.at[k] = k * 32 + (int)threadIdx.x % 32 < HD ? to_float(p[k * 32 + threadIdx.x % 32]) : 0.0f;
    return r;
}
template <typename T> __device__ static inline void lane_store(T *p, const LaneRow &x, float scale, int HD) {
    #pragma unroll
    for (int k = 0; k < 8; k++) if (k * 32 + (int)threadIdx.x % 32 < HD) p[k * 32 + threadIdx.x % 32] = from_float<T>(x.at[k] * scale);
}
__device__ static inline float lane_dot(const LaneRow &a, const LaneRow &b) {
    float s = 0;
    #pragma unroll
    for (int k = 0; k < 8; k++) s += a.at[k] * b.at[k];
    return warp_sum(s);
}
__device__ static inline void lane_add(LaneRow &y, const LaneRow &x, float s) {
    #pragma unroll
    for (int k = 0; k < 8; k++) y.at[k] += s * x.at[k];
}

// blockIdx.x: rows of the batch, 4 a block; blockIdx.y: query head
template <typename T> __global__ static void __launch_bounds__(128) attention_forward_plain_kernel(T *out, float *lse, const T *qkv, const AttentionPlan plan, int64_t N, AttentionShape s) {
    const int64_t n = blockIdx.x * 4ll + threadIdx.x / 32;
    if (n >= N) return;
    const int h = blockIdx.y, g = h / (s.NH / s.NKV), t = (int)(n % s.T), hole = plan.hole_begin[n], own = plan.hole_end[n];
    const int64_t b = n / s.T, W = (int64_t)(s.NH + 2 * s.NKV) * s.HD;
    const T *row = qkv + b * s.T * W, *k = row + (s.NH + g) * s.HD, *v = k + s.NKV * s.HD;
    const LaneRow q = lane_load(row + t * W + h * s.HD, s.HD);
    LaneRow o = {};
    float maximum = -INFINITY, sum = 0;
    for (int j = plan.document_start[n]; j <= t; j = j + 1 == hole ? own : j + 1) {
        const float x = s.scale * lane_dot(q, lane_load(k + j * W, s.HD)), m = fmaxf(maximum, x), fade = expf(maximum - m), p = expf(x - m);
        #pragma unroll
        for (int i = 0; i < 8; i++) o.at[i] *= fade;
        lane_add(o, lane_load(v + j * W, s.HD), p);
        sum = sum * fade + p;
        maximum = m;
    }
    lane_store(out + n * s.NH * s.HD + h * s.HD, o, 1.0f / sum, s.HD);
    if (threadIdx.x % 32 == 0) lse[(b * s.NH + h) * s.TP + t] = (maximum + logf(sum)) * 1.4426950408889634f;
}

// out (N, NH*HD), lse (B, NH, TP; base 2) from qkv (N, W)
template <typename T> static void attention_forward_plain(T *out, float *lse, const T *qkv, const AttentionPlan *plan, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    const int64_t N = plan->B * plan->T;
    attention_forward_plain_kernel<T><<<dim3((unsigned)ceil_div(N, 4), (unsigned)NH), 128, 0, stream>>>(out, lse, qkv, *plan, N, attention_shape(plan, NH, NKV, HD));
    CUDA_CHECK(cudaGetLastError());
}

// dq of one row, and D = dout . out for the other kernel
template <typename T> __global__ static void __launch_bounds__(128) attention_backward_query_kernel(T *dqkv, float *dsum, const T *dout, const T *out, const float *lse, const T *qkv, const AttentionPlan plan,
                                                                                                  int64_t N, AttentionShape s) {
    const int64_t n = blockIdx.x * 4ll + threadIdx.x / 32;
    if (n >= N) return;
    const int h = blockIdx.y, g = h / (s.NH / s.NKV), t = (int)(n % s.T), hole = plan.hole_begin[n], own = plan.hole_end[n];
    const int64_t b = n / s.T, W = (int64_t)(s.NH + 2 * s.NKV) * s.HD, at = (b * s.NH + h) * s.TP + t, o = n * s.NH * s.HD + h * s.HD;
    const T *row = qkv + b * s.T * W, *k = row + (s.NH + g) * s.HD, *v = k + s.NKV * s.HD;
    const LaneRow q = lane_load(row + t * W + h * s.HD, s.HD), dO = lane_load(dout + o, s.HD);
    const float D = lane_dot(dO, lane_load(out + o, s.HD)), l = lse[at];
    LaneRow dq = {};
    for (int j = plan.document_start[n]; j <= t; j = j + 1 == hole ? own : j + 1) {
        const LaneRow kj = lane_load(k + j * W, s.HD);
        const float p = exp2f(s.scale * 1.4426950408889634f * lane_dot(q, kj) - l);
        lane_add(dq, kj, p * (lane_dot(dO, lane_load(v + j * W, s.HD)) - D));
    }
    lane_store(dqkv + n * W + h * s.HD, dq, s.scale, s.HD);
    if (threadIdx.x % 32 == 0) dsum[at] = D;
}
// dk and dv of one row: over the queries that see it, of every head of its group
template <typename T> __global__ static void __launch_bounds__(128) attention_backward_key_kernel(T *dqkv, const float *dsum, const T *dout, const float *lse, const T *qkv, const int32_t *seen_end, int64_t N,
                                                                                                AttentionShape s) {
    const int64_t n = blockIdx.x * 4ll + threadIdx.x / 32;
    if (n >= N) return;
    const int g = blockIdx.y, group = s.NH / s.NKV, t = (int)(n % s.T);
    const int64_t b = n / s.T, W = (int64_t)(s.NH + 2 * s.NKV) * s.HD;
    const T *row = qkv + b * s.T * W;
    const LaneRow k = lane_load(row + t * W + (s.NH + g) * s.HD, s.HD), v = lane_load(row + t * W + (s.NH + s.NKV + g) * s.HD, s.HD);
    LaneRow dk = {}, dv = {};
    for (int h = g * group; h < (g + 1) * group; h++)
        for (int i = t; i < seen_end[n]; i++) {
            const int64_t at = (b * s.NH + h) * s.TP + i;
            const LaneRow q = lane_load(row + i * W + h * s.HD, s.HD), dO = lane_load(dout + (b * s.T + i) * s.NH * s.HD + h * s.HD, s.HD);
            const float p = exp2f(s.scale * 1.4426950408889634f * lane_dot(q, k) - lse[at]);
            lane_add(dv, dO, p);
            lane_add(dk, q, p * (lane_dot(dO, v) - dsum[at]));
        }
    lane_store(dqkv + n * W + (s.NH + g) * s.HD, dk, s.scale, s.HD);
    lane_store(dqkv + n * W + (s.NH + s.NKV + g) * s.HD, dv, 1.0f, s.HD);
}

// dqkv (N, W); with p = softmax(scores), D = dout . out:
//   dv_s += p_s dout;   dscore_s = p_s (dout . v_s - D);   dq += scale dscore_s k_s;   dk_s += scale dscore_s q
template <typename T> static void attention_backward_plain(T *dqkv, float *dsum, const T *dout, const T *out, const float *lse, const T *qkv, const AttentionPlan *plan, int64_t NH, int64_t NKV, int64_t HD,
                                                           cudaStream_t stream) {
    const int64_t N = plan->B * plan->T;
    const AttentionShape s = attention_shape(plan, NH, NKV, HD);
    attention_backward_query_kernel<T><<<dim3((unsigned)ceil_div(N, 4), (unsigned)NH), 128, 0, stream>>>(dqkv, dsum, dout, out, lse, qkv, *plan, N, s);
    attention_backward_key_kernel<T><<<dim3((unsigned)ceil_div(N, 4), (unsigned)NKV), 128, 0, stream>>>(dqkv, dsum, dout, lse, qkv, plan->seen_end, N, s);
    CUDA_CHECK(cudaGetLastError());
}
#endif
