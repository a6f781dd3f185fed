// attention.cuh: which attention runs. Causal, inside documents and their branches (attention_plan.h), grouped queries; nothing of size T x T is
// stored in the forward pass, and every version is deterministic.
//
//     attention_*_sm90    Hopper, head_dim 64 or 128: TMA, wgmma, warp specialisation. What training on H100 and H200 uses.
//     attention_*_mma     any GPU from sm_80, head_dim 64 or 128: mma.sync. Simpler; the other one's check.
//     attention_*_plain   any type and head_dim: the fp32 build, tiny test models, and the check of both others.
//     attention_*_cudnn   the library's, where the program is built with USE_CUDNN=1: for rows of one document each.
#ifndef FINDAP_KERNELS_ATTENTION_CUH
#define FINDAP_KERNELS_ATTENTION_CUH
#include "attention_plain.cuh"           // defines: attention_forward_plain, attention_backward_plain
#ifndef FINDAP_FP32
#include "attention_backward_sm90.cuh"   // defines: attention_backward_sm90, attention_backward_sm90_scratch
#include "attention_forward_sm90.cuh"    // defines: attention_forward_sm90
#include "attention_mma.cuh"             // defines: attention_forward_mma, attention_backward_mma
#ifdef USE_CUDNN
#include "attention_cudnn.cuh"           // defines: attention_forward_cudnn, attention_backward_cudnn, attention_cudnn_fits, attention_cudnn_workspace
static inline bool attention_by_cudnn(const AttentionPlan *plan, int64_t NH, int64_t NKV, int64_t HD, int64_t scratch_bytes) {
    return attention_cudnn_fits(plan, HD) && attention_cudnn_workspace(plan->B, plan->T, NH, NKV, HD) <= scratch_bytes;
}
#endif
#endif

// bytes of scratch with which the backward pass of `kv_heads` key/value heads at a time never runs out
static inline int64_t attention_scratch_bytes(int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD, int64_t kv_heads) {
#ifdef FINDAP_FP32
    (void)B; (void)T; (void)NH; (void)NKV; (void)HD; (void)kv_heads;
    return 0;
#else
    return HD == 64 || HD == 128 ? attention_backward_sm90_scratch(B, T, NH, NKV, HD, kv_heads) : 0;
#endif
}

// out (N, NH*HD), lse (B, NH, TP; base 2) from qkv (N, W) after rotation. scratch: working memory, which only cuDNN's forward pass needs
static inline void attention_forward(real *out, float *lse, const real *qkv, void *scratch, int64_t scratch_bytes, const AttentionPlan *plan, int32_t *counters, int64_t NH, int64_t NKV, int64_t HD,
                                     cudaStream_t stream) {
    (void)counters; (void)scratch; (void)scratch_bytes;
#ifndef FINDAP_FP32
#ifdef USE_CUDNN
    if (attention_by_cudnn(plan, NH, NKV, HD, scratch_bytes)) { attention_forward_cudnn(out, lse, qkv, scratch, scratch_bytes, plan, NH, NKV, HD, stream); return; }
#endif
    if ((HD == 64 || HD == 128) && device_is_hopper()) { attention_forward_sm90(out, lse, qkv, plan, counters, NH, NKV, HD, stream); return; }
    if (HD == 64 || HD == 128) { attention_forward_mma(out, lse, qkv, plan, NH, NKV, HD, stream); return; }
#endif
    attention_forward_plain<real>(out, lse, qkv, plan, NH, NKV, HD, stream);
}

// dqkv (N, W) = gradient of q, k and v; dsum (B, NH, TP) and scratch are working memory
static inline void attention_backward(real *dqkv, float *dsum, const real *dout, const real *out, const float *lse, const real *qkv, void *scratch, int64_t scratch_bytes,
                                      const AttentionPlan *plan, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    (void)scratch; (void)scratch_bytes;
#ifndef FINDAP_FP32
#ifdef USE_CUDNN
    if (attention_by_cudnn(plan, NH, NKV, HD, scratch_bytes)) { attention_backward_cudnn(dqkv, dout, out, lse, qkv, scratch, scratch_bytes, plan, NH, NKV, HD, stream); return; }
#endif
    if ((HD == 64 || HD == 128) && device_is_hopper()) { attention_backward_sm90(dqkv, dsum, dout, out, lse, qkv, scratch, scratch_bytes, plan, NH, NKV, HD, stream); return; }
    if (HD == 64 || HD == 128) { attention_backward_mma(dqkv, dsum, dout, out, lse, qkv, plan, NH, NKV, HD, stream); return; }
#endif
    attention_backward_plain<real>(dqkv, dsum, dout, out, lse, qkv, plan, NH, NKV, HD, stream);
}
#endif
