// attention_cudnn.cuh: cuDNN's attention in the place of ours: an optional backend (-DUSE_CUDNN) and the yardstick, on the same packed arrays.
//
// cuDNN reads q, k, v out of qkv (B*T, W) by strides, so nothing is copied; it knows grouped queries. What it does not take in
// this form is a row of many documents, or of branches: the callers use it only when every row is one document (attention_cudnn_fits:
// then and only then are all causal pairs of a row visible), and our kernels otherwise. Its backward pass is asked for its deterministic algorithm: the house promises the same bits twice.
//
// cuDNN's statistics are natural logarithms, (B, NH, T); ours are base 2, (B, NH, TP). They are converted on the way out and in again, through
// the head of the workspace: B*NH*T numbers, nothing beside the attention itself.
//
// A graph is built (compiled: a second or so) once for every shape and direction and kept for the life of the process.
// Needs cudnn.h, libcudnn, and cuDNN's header-only frontend, which is not part of this repository: make USE_CUDNN=1 CUDNN_FRONTEND=DIR.
#ifndef FINDAP_KERNELS_ATTENTION_CUDNN_CUH
#define FINDAP_KERNELS_ATTENTION_CUDNN_CUH
#ifdef USE_CUDNN
#include "attention_plan.h"   // defines: AttentionPlan, QUERY_TILE
#include "cuda.cuh"           // defines: CUDA_CHECK, bf16
#include <cstring>            // the frontend uses std::strlen and leaves the include to others
#include <list>
#include <unordered_map>
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>   // defines: cudnn_frontend::graph

typedef struct {
    bool backward;
    int64_t B, T, NH, NKV, HD;
    int64_t bytes;                                             // of cuDNN's own workspace
    std::shared_ptr<cudnn_frontend::graph::Graph> graph;
} CudnnGraph;

enum { CUDNN_Q = 1, CUDNN_K, CUDNN_V, CUDNN_O, CUDNN_STATS, CUDNN_DO, CUDNN_DQ, CUDNN_DK, CUDNN_DV };   // names of the graphs' tensors

static void cudnn_check(cudnn_frontend::error_t status, const char *what, const CudnnGraph *g) {
    if (status.is_good()) return;
    die("cuDNN: %s of attention's %s pass, B %lld T %lld heads %lld/%lld of %lld: %s ---> build without USE_CUDNN", what, g->backward ? "backward" : "forward", (long long)g->B, (long long)g->T,
        (long long)g->NH, (long long)g->NKV, (long long)g->HD, status.get_message().c_str());
}
static cudnnHandle_t cudnn_handle(void) {
    static cudnnHandle_t handle = NULL;
    if (!handle) {
        const cudnnStatus_t status = cudnnCreate(&handle);
        if (status != CUDNN_STATUS_SUCCESS) die("cudnnCreate: %s ---> is libcudnn installed for this CUDA?", cudnnGetErrorString(status));
    }
    return handle;
}

static CudnnGraph *cudnn_graph(bool backward, int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD) {
    namespace fe = cudnn_frontend;
    static std::list<CudnnGraph> graphs;   // a handful
    for (CudnnGraph &g : graphs) if (g.backward == backward && g.B == B && g.T == T && g.NH == NH && g.NKV == NKV && g.HD == HD) return &g;
    graphs.push_back(CudnnGraph{backward, B, T, NH, NKV, HD, 0, std::make_shared<fe::graph::Graph>()});
    CudnnGraph *g = &graphs.back();
    g->graph->set_io_data_type(fe::DataType_t::BFLOAT16).set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(fe::DataType_t::FLOAT);
    // (B, heads, T, HD) by strides: heads lie side by side in a row of `width` numbers
    auto sizes = [&](int64_t heads) { return std::vector<int64_t>{B, heads, T, HD}; };
    auto strides = [&](int64_t width) { return std::vector<int64_t>{T * width, HD, width, 1}; };
    auto tensor = [&](int64_t id, int64_t heads, int64_t width) { return g->graph->tensor(fe::graph::Tensor_attributes().set_uid(id).set_dim(sizes(heads)).set_stride(strides(width))); };
    const int64_t W = (NH + 2 * NKV) * HD, A = NH * HD;
    const std::vector<int64_t> stats_sizes = {B, NH, T, 1}, stats_strides = {NH * T, T, 1, 1};
    auto q = tensor(CUDNN_Q, NH, W), k = tensor(CUDNN_K, NKV, W), v = tensor(CUDNN_V, NKV, W);
    const float scale = 1.0f / sqrtf((float)HD);
    if (!backward) {
        auto result = g->graph->sdpa(q, k, v, fe::graph::SDPA_attributes().set_generate_stats(true).set_causal_mask(true).set_attn_scale(scale));
        result[0]->set_output(true).set_uid(CUDNN_O).set_dim(sizes(NH)).set_stride(strides(A));
        result[1]->set_output(true).set_uid(CUDNN_STATS).set_dim(stats_sizes).set_stride(stats_strides).set_data_type(fe::DataType_t::FLOAT);
    } else {
        auto o = tensor(CUDNN_O, NH, A), dout = tensor(CUDNN_DO, NH, A);
        auto stats = g->graph->tensor(fe::graph::Tensor_attributes().set_uid(CUDNN_STATS).set_dim(stats_sizes).set_stride(stats_strides).set_data_type(fe::DataType_t::FLOAT));
        auto result = g->graph->sdpa_backward(q, k, v, o, dout, stats, fe::graph::SDPA_backward_attributes().set_causal_mask(true).set_attn_scale(scale).set_deterministic_algorithm(true));
        result[0]->set_output(true).set_uid(CUDNN_DQ).set_dim(sizes(NH)).set_stride(strides(W));
        result[1]->set_output(true).set_uid(CUDNN_DK).set_dim(sizes(NKV)).set_stride(strides(W));
        result[2]->set_output(true).set_uid(CUDNN_DV).set_dim(sizes(NKV)).set_stride(strides(W));
    }
    cudnnHandle_t handle = cudnn_handle();
    cudnn_check(g->graph->validate(), "description", g);
    cudnn_check(g->graph->build_operation_graph(handle), "graph", g);
    cudnn_check(g->graph->create_execution_plans({fe::HeurMode_t::A}), "plans", g);
    cudnn_check(g->graph->check_support(handle), "support", g);
    cudnn_check(g->graph->build_plans(handle), "compilation", g);
    cudnn_check(g->graph->get_workspace_size(g->bytes), "workspace", g);
    return g;
}

// one document in every row, and a shape that training meets: ours serve the rest
static bool attention_cudnn_fits(const AttentionPlan *plan, int64_t HD) {
    return (HD == 64 || HD == 128) && plan->T >= 64 && plan->visible_pairs == (double)plan->B * (double)plan->T * (double)(plan->T + 1) / 2;
}
static int64_t cudnn_stats_bytes(int64_t B, int64_t T, int64_t NH) { return ceil_div(B * NH * T * 4, 1024) * 1024; }
// bytes of workspace for both directions; builds both graphs, so call it before the first step
static int64_t attention_cudnn_workspace(int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD) {
    const int64_t forward = cudnn_graph(false, B, T, NH, NKV, HD)->bytes, backward = cudnn_graph(true, B, T, NH, NKV, HD)->bytes;
    return cudnn_stats_bytes(B, T, NH) + (forward > backward ? forward : backward);
}

// to (rows, to_stride) = factor * from (rows, from_stride), T numbers of each row
__global__ static void __launch_bounds__(256) cudnn_stats_kernel(float *to, int to_stride, const float *from, int from_stride, int T, float factor) {
    const int t = blockIdx.x * 256 + threadIdx.x;
    if (t < T) to[(int64_t)blockIdx.y * to_stride + t] = factor * from[(int64_t)blockIdx.y * from_stride + t];
}
static void cudnn_stats(float *to, int64_t to_stride, const float *from, int64_t from_stride, int64_t rows, int64_t T, float factor, cudaStream_t stream) {
    CHECK(rows < 65536);   // the grid's second dimension: B * NH
    cudnn_stats_kernel<<<dim3((unsigned)ceil_div(T, 256), (unsigned)rows), 256, 0, stream>>>(to, (int)to_stride, from, (int)from_stride, (int)T, factor);
    CUDA_CHECK(cudaGetLastError());
}
static void cudnn_execute(CudnnGraph *g, std::unordered_map<int64_t, void *> &arrays, void *workspace, int64_t workspace_bytes, cudaStream_t stream) {
    CHECK(workspace_bytes >= cudnn_stats_bytes(g->B, g->T, g->NH) + g->bytes);
    const cudnnStatus_t status = cudnnSetStream(cudnn_handle(), stream);
    if (status != CUDNN_STATUS_SUCCESS) die("cudnnSetStream: %s", cudnnGetErrorString(status));
    cudnn_check(g->graph->execute(cudnn_handle(), arrays, (uint8_t *)workspace + cudnn_stats_bytes(g->B, g->T, g->NH)), "execution", g);
}

// out (B*T, NH*HD), lse (B, NH, TP; base 2) from qkv (B*T, W); workspace: attention_cudnn_workspace bytes, aligned to 256
static void attention_forward_cudnn(bf16 *out, float *lse, const bf16 *qkv, void *workspace, int64_t workspace_bytes, const AttentionPlan *plan, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t stream) {
    const int64_t B = plan->B, T = plan->T, TP = ceil_div(T, QUERY_TILE) * QUERY_TILE;
    CHECK(attention_cudnn_fits(plan, HD));
    CudnnGraph *g = cudnn_graph(false, B, T, NH, NKV, HD);
    bf16 *q = (bf16 *)qkv;
    std::unordered_map<int64_t, void *> arrays = {{CUDNN_Q, q}, {CUDNN_K, q + NH * HD}, {CUDNN_V, q + (NH + NKV) * HD}, {CUDNN_O, out}, {CUDNN_STATS, workspace}};
    cudnn_execute(g, arrays, workspace, workspace_bytes, stream);
    cudnn_stats(lse, TP, (const float *)workspace, T, B * NH, T, 1.4426950408889634f, stream);
}
// dqkv (B*T, W)
static void attention_backward_cudnn(bf16 *dqkv, const bf16 *dout, const bf16 *out, const float *lse, const bf16 *qkv, void *workspace, int64_t workspace_bytes, const AttentionPlan *plan, int64_t NH, int64_t NKV,
                                     int64_t HD, cudaStream_t stream) {
    const int64_t B = plan->B, T = plan->T, TP = ceil_div(T, QUERY_TILE) * QUERY_TILE;
    CHECK(attention_cudnn_fits(plan, HD));
    CudnnGraph *g = cudnn_graph(true, B, T, NH, NKV, HD);
    bf16 *q = (bf16 *)qkv, *k = q + NH * HD, *v = k + NKV * HD;
    cudnn_stats((float *)workspace, T, lse, TP, B * NH, T, 0.6931471805599453f, stream);
    std::unordered_map<int64_t, void *> arrays = {{CUDNN_Q, q}, {CUDNN_K, k}, {CUDNN_V, v}, {CUDNN_O, (void *)out}, {CUDNN_DO, (void *)dout}, {CUDNN_STATS, workspace},
                                                  {CUDNN_DQ, dqkv}, {CUDNN_DK, dqkv + NH * HD}, {CUDNN_DV, dqkv + (NH + NKV) * HD}};
    cudnn_execute(g, arrays, workspace, workspace_bytes, stream);
}
#endif
#endif
