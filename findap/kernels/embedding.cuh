// embedding.cuh: rows of a table by index, and their gradients: the token embedding, the rows the LM head looks at, biases.
// All bound by bytes. A token that occurs often makes no race and no atomics: the host sorts the places by token, and one block
// adds one token's rows in rising order.
#ifndef FINDAP_KERNELS_EMBEDDING_CUH
#define FINDAP_KERNELS_EMBEDDING_CUH
#include "rmsnorm.cuh"   // defines: column_sums
#include "adamw.cuh"     // defines: StepState, sum_seed

__global__ static void __launch_bounds__(256) gather_rows_kernel(real *out, const real *x, const int32_t *index, int64_t n, int C) {
    constexpr int P = Pack<real>::size;
    const int packs = C / P;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n * packs; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t row = i / packs;
        const int c = (int)(i - row * packs) * P;
        store_pack(out + row * C + c, load_pack(x + (int64_t)index[row] * C + c));
    }
}
__global__ static void __launch_bounds__(256) scatter_rows_kernel(real *out, const real *x, const int32_t *index, int64_t n, int C) {
    constexpr int P = Pack<real>::size;
    const int packs = C / P;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n * packs; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t row = i / packs;
        const int c = (int)(i - row * packs) * P;
        store_pack(out + (int64_t)index[row] * C + c, load_pack(x + row * C + c));
    }
}
static unsigned row_blocks(int64_t n, int64_t C) {
    int64_t blocks = ceil_div(n * (C / Pack<real>::size), 256);
    return (unsigned)(blocks < 1 ? 1 : blocks < 1 << 20 ? blocks : 1 << 20);
}
// out[i] (C) = x[index[i]], i < n
static void gather_rows(real *out, const real *x, const int32_t *index, int64_t n, int64_t C, cudaStream_t stream) {
    gather_rows_kernel<<<row_blocks(n, C), 256, 0, stream>>>(out, x, index, n, (int)C);
    CUDA_CHECK(cudaGetLastError());
}
// out[index[i]] (C) = x[i], i < n; no index occurs twice
static void scatter_rows(real *out, const real *x, const int32_t *index, int64_t n, int64_t C, cudaStream_t stream) {
    scatter_rows_kernel<<<row_blocks(n, C), 256, 0, stream>>>(out, x, index, n, (int)C);
    CUDA_CHECK(cudaGetLastError());
}
// x (N, C) = rows of table (V, C)
static void embedding_forward(real *x, const real *table, const int32_t *tokens, int64_t N, int64_t C, cudaStream_t stream) { gather_rows(x, table, tokens, N, C, stream); }

__global__ static void scatter_numbers_kernel(float *out, const float *x, const int32_t *index, int64_t n) {
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i < n) out[index[i]] = x[i];
}
// out[index[i]] = x[i], i < n; no index occurs twice
static void scatter_numbers(float *out, const float *x, const int32_t *index, int64_t n, cudaStream_t stream) {
    scatter_numbers_kernel<<<(unsigned)ceil_div(n, 256), 256, 0, stream>>>(out, x, index, n);
    CUDA_CHECK(cudaGetLastError());
}

enum { EMBEDDING_THREADS = 64, EMBEDDING_AHEAD = 8 };
// one column of blocks a token that occurs, each with 64 threads' packs of the row: a frequent token's rows are a chain of sums, and the more
// threads share it out by channels, the shorter it takes. T: what the gradient is summed in
template <typename T> __global__ static void __launch_bounds__(EMBEDDING_THREADS)
embedding_backward_kernel(T *dtable, uint8_t *touched, const real *dx, const int32_t *order, const int32_t *first, const int32_t *tokens, const StepState *state, uint64_t call, int C) {
    constexpr int P = Pack<real>::size;
    const int begin = first[blockIdx.x], end = first[blockIdx.x + 1];
    const int64_t row = (int64_t)tokens[order[begin]] * C;
    const int c = (blockIdx.y * EMBEDDING_THREADS + threadIdx.x) * P;
    if (touched && c == 0) touched[tokens[order[begin]]] = 1;
    if (c >= C) return;
    float sum[P];
    // this thread's numbers of the table, in as few loads as may be: P of T are 32, 16 or, where real is float and T bf16, 8 bytes
    struct alignas(P * sizeof(T) < 16 ? P * sizeof(T) : 16) Part { T at[P]; };
    Part *mine = reinterpret_cast<Part *>(dtable + row + c), part = *mine;
    #pragma unroll
    for (int k = 0; k < P; k++) sum[k] = to_float(part.at[k]);
    int place[EMBEDDING_AHEAD];
    #pragma unroll
    for (int j = 0; j < EMBEDDING_AHEAD; j++) place[j] = begin + j < end ? order[begin + j] : 0;
    for (int i = begin; i < end; i += EMBEDDING_AHEAD) {   // rows under way together, added in order; where the next ones are is asked meanwhile
        Pack<real> d[EMBEDDING_AHEAD];
        #pragma unroll
        for (int j = 0; j < EMBEDDING_AHEAD; j++) if (i + j < end) d[j] = load_pack_once(dx + (int64_t)place[j] * C + c);
        #pragma unroll
        for (int j = 0; j < EMBEDDING_AHEAD; j++) place[j] = i + EMBEDDING_AHEAD + j < end ? order[i + EMBEDDING_AHEAD + j] : 0;
        #pragma unroll
        for (int j = 0; j < EMBEDDING_AHEAD; j++)
            if (i + j < end)
                #pragma unroll
                for (int k = 0; k < P; k++) sum[k] += to_float(d[j].at[k]);
    }
    #pragma unroll
    for (int k = 0; k < P; k++) {
        if constexpr (sizeof(T) == 4) part.at[k] = sum[k];
        else part.at[k] = stochastic_round(sum[k], random_bits(sum_seed(state, call), (uint64_t)(row + c + k)));
    }
    *mine = part;
}
static dim3 embedding_blocks(int64_t unique, int64_t C) { return dim3((unsigned)unique, (unsigned)ceil_div(C / Pack<real>::size, EMBEDDING_THREADS)); }
// dtable (V, C) += dx (N, C), row by token. order (N): the places sorted by token; first (unique + 1): where each token's run begins;
// touched (V), or NULL: 1 is written for each row that is added to
static void embedding_backward(float *dtable, uint8_t *touched, const real *dx, const int32_t *order, const int32_t *first, const int32_t *tokens, int64_t unique, int64_t C, cudaStream_t stream) {
    embedding_backward_kernel<float><<<embedding_blocks(unique, C), EMBEDDING_THREADS, 0, stream>>>(dtable, touched, dx, order, first, tokens, NULL, 0, (int)C);
    CUDA_CHECK(cudaGetLastError());
}
// the same into a bf16 sum, rounded stochastically; call: see accumulate_bf16
static void embedding_backward_bf16(bf16 *dtable, uint8_t *touched, const real *dx, const int32_t *order, const int32_t *first, const int32_t *tokens, int64_t unique, const StepState *state, uint64_t call, int64_t C, cudaStream_t stream) {
    embedding_backward_kernel<bf16><<<embedding_blocks(unique, C), EMBEDDING_THREADS, 0, stream>>>(dtable, touched, dx, order, first, tokens, state, call, (int)C);
    CUDA_CHECK(cudaGetLastError());
}

enum { BIAS_BLOCKS = 128 };
static int64_t bias_partial_count(int64_t O) { return BIAS_BLOCKS * O; }
__global__ static void __launch_bounds__(256) bias_backward_kernel(float *partial, const real *dy, int64_t N, int64_t O) {
    constexpr int P = Pack<real>::size;
    const int64_t o = (blockIdx.x * 256ll + threadIdx.x) * P, rows = (N + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * rows, end = begin + rows < N ? begin + rows : N;
    if (o >= O) return;
    float sum[P];
    #pragma unroll
    for (int k = 0; k < P; k++) sum[k] = 0.0f;
    for (int64_t n = begin; n < end; n++) {
        const Pack<real> d = load_pack(dy + n * O + o);
        #pragma unroll
        for (int k = 0; k < P; k++) sum[k] += to_float(d.at[k]);
    }
    #pragma unroll
    for (int k = 0; k < P; k++) partial[blockIdx.y * O + o + k] = sum[k];
}
// dbias (O) += or = sum over n of dy (N, O); O a multiple of 8; partial: bias_partial_count(O) floats
static void bias_backward(float *dbias, float *partial, const real *dy, bool add, int64_t N, int64_t O, cudaStream_t stream) {
    const int64_t parts = N < BIAS_BLOCKS ? N : BIAS_BLOCKS;
    bias_backward_kernel<<<dim3((unsigned)ceil_div(O / Pack<real>::size, 256), (unsigned)parts), 256, 0, stream>>>(partial, dy, N, O);
    CUDA_CHECK(cudaGetLastError());
    column_sums(dbias, partial, add, (int)parts, O, stream);
}
#endif
