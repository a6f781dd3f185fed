// sample.cuh: the next token of each row of logits, as sample.h defines it: repetition penalty, temperature, a cut by top-k, top-p and min-p, the largest of what is left plus
// Gumbel noise. One block a row.
//
// Bound by bytes as long as nothing is cut off: the logits are read twice, for the maximum and for the draw; by greedy rows once. The cut by top-k and top-p is found without sorting: logits,
// as integers of the same order, are counted by their highest eight bits, then, inside the one range where the cut lies, by the next eight, and so on: four passes
// each. Probabilities are summed as integers (2^-40), so no order of threads decides. Noise is the same function of seed, position and token as on the CPU, in double; most
// tokens are out of question by a bound in float before.
#ifndef FINDAP_KERNELS_SAMPLE_CUH
#define FINDAP_KERNELS_SAMPLE_CUH
#include "cuda.cuh"         // defines: real, Pack, load_pack, block_max, CUDA_CHECK
#include "findap/sample.h"  // defines: SampleRow, sample_num_seen, random_uniform

typedef struct {
    float temperature, penalty;
    double top_p, log_min_p;   // -infinity: no such cut
    uint64_t seed, position;
    int32_t top_k, seen, num_seen, pad;   // top_k 0: all; seen: where its tokens begin in the array of all rows'
} SampleSettings;
static inline SampleSettings sample_settings(const SampleRow *r, int64_t V, int32_t seen_begin) {
    const Sampling *s = &r->sampling;
    SampleSettings d;
    memset(&d, 0, sizeof d);
    d.temperature = (float)s->temperature; d.penalty = (float)s->repetition_penalty; d.top_p = s->top_p; d.log_min_p = s->min_p > 0 ? log(s->min_p) : -INFINITY;
    d.seed = r->seed; d.position = (uint64_t)r->position; d.top_k = s->top_k < V ? (int32_t)s->top_k : 0;
    d.seen = seen_begin; d.num_seen = (int32_t)sample_num_seen(r);
    return d;
}

enum { SAMPLE_THREADS = 1024, SAMPLE_COPIES = 4 /* of the counts, so that fewer threads meet */ };
__device__ inline uint32_t sample_key(float x) { const uint32_t b = __float_as_uint(x); return b & 0x80000000u ? ~b : b | 0x80000000u; }   // same order as the numbers
__device__ inline float sample_number(uint32_t k) { return __uint_as_float(k & 0x80000000u ? k & 0x7fffffffu : ~k); }

__global__ static void __launch_bounds__(SAMPLE_THREADS) sample_kernel(int32_t *tokens, const real *logits, int64_t ld, const SampleSettings *settings, const int32_t *all_seen, int V) {
    extern __shared__ uint32_t seen_bits[];   // (V / 32), when there is a penalty
    __shared__ float shared[33];
    __shared__ unsigned long long counts[SAMPLE_COPIES][256];
    __shared__ unsigned long long left;       // of what is looked for, inside the range that was found
    __shared__ uint32_t prefix;
    __shared__ double best_value[32];
    __shared__ int best_token[32];
    const SampleSettings s = settings[blockIdx.x];
    const real *x = logits + blockIdx.x * ld;
    const int thread = threadIdx.x;
    if (s.num_seen) {
        for (int i = thread; i < (V + 31) / 32; i += SAMPLE_THREADS) seen_bits[i] = 0;
        __syncthreads();
        for (int i = thread; i < s.num_seen; i += SAMPLE_THREADS) atomicOr(&seen_bits[all_seen[s.seen + i] / 32], 1u << all_seen[s.seen + i] % 32);
        __syncthreads();
    }
    auto z = [&](int v, float y) {
        if (s.num_seen && seen_bits[v / 32] >> v % 32 & 1) y = y < 0 ? y * s.penalty : __fdiv_rn(y, s.penalty);
        return s.temperature == 0 || s.temperature == 1 ? y : __fdiv_rn(y, s.temperature);
    };
    auto each = [&](auto visit) {   // visit(v, z of v) for this thread's tokens, in rising order; four loads under way
        constexpr int P = Pack<real>::size, AHEAD = 4;
        for (int j = thread; j * P < V; j += AHEAD * SAMPLE_THREADS) {
            Pack<real> pack[AHEAD];
            #pragma unroll
            for (int a = 0; a < AHEAD; a++) if ((j + a * SAMPLE_THREADS) * P < V) pack[a] = load_pack(x + (int64_t)(j + a * SAMPLE_THREADS) * P);
            #pragma unroll
            for (int a = 0; a < AHEAD; a++)
                #pragma unroll
                for (int k = 0; k < P; k++) {
                    const int v = (j + a * SAMPLE_THREADS) * P + k;
                    if (v < V) visit(v, z(v, to_float(pack[a].at[k])));
                }
        }
    };
    float maximum = -INFINITY;
    if (s.temperature != 0) {
        each([&](int, float y) { maximum = fmaxf(maximum, y); });
        maximum = block_max(maximum, shared);
    }

    // The largest key such that the weights of all keys from it upwards are at least `wanted`; only keys from `least` on count
    auto find = [&](unsigned long long wanted, uint32_t least, auto weight) {
        if (thread == 0) { left = wanted; prefix = 0; }
        for (int shift = 24; shift >= 0; shift -= 8) {
            for (int i = thread; i < SAMPLE_COPIES * 256; i += SAMPLE_THREADS) counts[i / 256][i % 256] = 0;
            __syncthreads();
            const uint32_t begun = prefix;
            each([&](int, float y) {
                const uint32_t key = sample_key(y);
                if (key < least || (shift < 24 && key >> (shift + 8) != begun >> (shift + 8))) return;
                const unsigned long long w = weight(y);
                if (w) atomicAdd(&counts[thread / 32 % SAMPLE_COPIES][key >> shift & 255], w);
            });
            __syncthreads();
            if (thread < 256) for (int i = 1; i < SAMPLE_COPIES; i++) counts[0][thread] += counts[i][thread];
            __syncthreads();
            if (thread == 0) {
                int d = 255;
                while (d > 0 && counts[0][d] < left) left -= counts[0][d--];
                prefix |= (uint32_t)d << shift;
            }
            __syncthreads();
        }
        return prefix;
    };
    uint32_t cut = 0;   // keys from here on stay
    if (s.temperature != 0 && s.top_k > 0) cut = find((unsigned long long)s.top_k, 0, [](float) { return 1ull; });
    if (s.temperature != 0 && s.top_p < 1) {
        auto mass = [&](float y) { return (unsigned long long)(expf(y - maximum) * 1099511627776.0f); };
        unsigned long long mine = 0;
        if (thread == 0) left = 0;
        __syncthreads();
        each([&](int, float y) { if (sample_key(y) >= cut) mine += mass(y); });
        atomicAdd(&left, mine);
        __syncthreads();
        const unsigned long long wanted = (unsigned long long)ceil(s.top_p * (double)left);
        __syncthreads();
        cut = max(cut, find(wanted > 1 ? wanted : 1, cut, mass));
    }
    const float lowest = cut ? sample_number(cut) : -INFINITY;
    const double low = (double)maximum + s.log_min_p;

    double best = -INFINITY;
    int token = 0x7fffffff;
    if (s.temperature == 0) {
        float most = -INFINITY;
        each([&](int v, float y) { if (y > most) { most = y; token = v; } });
        best = most;
    } else each([&](int v, float y) {
        if (y < lowest || (double)y < low || y == -INFINITY) return;
        const double u = random_uniform(s.seed, s.position, (uint64_t)v);
        // -log(-log u) in float is right to 1e-5 where u is not near 1; there -log u is 1 - u
        const float rough = u > 0.999 ? -__logf((float)(1.0 - u)) : -__logf(-__logf((float)u));
        if ((double)(y + rough) + 0.05 < best) return;
        const double value = (double)y - log(-log(u));
        if (value > best) { best = value; token = v; }
    });
    #pragma unroll
    for (int m = 16; m > 0; m >>= 1) {
        const double other = __shfl_xor_sync(0xffffffffu, best, m);
        const int t = __shfl_xor_sync(0xffffffffu, token, m);
        if (other > best || (other == best && t < token)) { best = other; token = t; }
    }
    if (thread % 32 == 0) { best_value[thread / 32] = best; best_token[thread / 32] = token; }
    __syncthreads();
    if (thread == 0) {
        for (int i = 1; i < 32; i++) if (best_value[i] > best || (best_value[i] == best && best_token[i] < token)) { best = best_value[i]; token = best_token[i]; }
        tokens[blockIdx.x] = token < V ? token : 0;   // no number is above -infinity: a row of NaN
    }
}
// tokens (n) from logits (n, V; row stride ld). settings (n) and seen are on the device; penalty: has any row one?
static inline void sample_tokens(int32_t *tokens, const real *logits, int64_t ld, const SampleSettings *settings, const int32_t *seen, bool penalty, int64_t n, int64_t V, cudaStream_t stream) {
    const size_t bytes = penalty ? (size_t)ceil_div(V, 32) * 4 : 0;
    CUDA_CHECK(cudaFuncSetAttribute(sample_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes > 32 << 10 ? bytes : 32 << 10)));
    sample_kernel<<<(unsigned)n, SAMPLE_THREADS, bytes, stream>>>(tokens, logits, ld, settings, seen, (int)V);
    CUDA_CHECK(cudaGetLastError());
}
#endif
