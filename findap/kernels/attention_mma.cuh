#include "attention_plain.cuh"
static void attention_forward_mma(bf16 *out, float *lse, const bf16 *qkv, const AttentionPlan *plan, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) { attention_forward_plain<bf16>(out, lse, qkv, plan, NH, NKV, HD, stream); }
static void attention_backward_mma(bf16 *dqkv, float *dsum, const bf16 *dout, const bf16 *out, const float *lse, const bf16 *qkv, const AttentionPlan *plan, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) { attention_backward_plain<bf16>(dqkv, dsum, dout, out, lse, qkv, plan, NH, NKV, HD, stream); }
