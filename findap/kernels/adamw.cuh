// adamw.cuh: the optimizer (Loshchilov & Hutter 2019): gradient norm, clipping, the guard against non-finite steps, AdamW.
//
// Bound by bytes: 20 a parameter with bf16 moments, 16 with 8-bit ones, 28 with fp32 ones; every one is read once and written
// once. A thread takes 8 parameters in a row, all of its loads under way before the first is used.
//
// The weight. Kernels read bf16; AdamW needs fp32, since a step is often smaller than bf16's spacing. Instead of a second copy,
// 16 more bits: the fp32 weight is bits(bf16) * 2^16 + remainder, remainder a signed 16-bit number; so the bf16 weight is the
// fp32 one rounded to nearest, and nothing is lost.
//
// The moments, in fp32; in bf16, rounded stochastically (rounding to nearest would swallow the small changes of a moving
// average); or in 8 bits. These are blockwise: 256 numbers share one fp32 scale, their largest magnitude. The codes are not
// linear: m = scale sign(q) (q/127)^2, v = scale (q/255)^4, since what matters of v is its relative error over many decades (the
// smallest v but 0 is 2.4e-10 of the largest). Codes are rounded stochastically too. A v above zero never gets code 0, which
// would divide m by eps: then code 1 makes the step too small, never too large.
#ifndef FINDAP_KERNELS_ADAMW_CUH
#define FINDAP_KERNELS_ADAMW_CUH
#include "cuda.cuh"           // defines: Pack, random_bits, stochastic_round, real
#include "findap/model.h"     // defines: AdamW

typedef enum { MOMENT_FP32, MOMENT_BF16, MOMENT_8BIT } MomentType;
typedef enum { GRAD_FP32, GRAD_BF16 } GradType;
enum { MOMENT_BLOCK = 256, NORM_PARTS = 2048 };

// what a step decides, on the GPU
typedef struct {
    double loss;           // sum of coef * log-prob so far
    double sum_squares;    // of the gradient
    int64_t t;             // updates since the moments were zero
    float grad_scale;      // clipping
    float step;            // lr / (1 - beta1^t)
    float correction;      // sqrt(1 - beta2^t)
    int skip;              // loss or gradient is not finite
} StepState;

static int64_t moment_bytes(MomentType type, int64_t n) {   // n: a multiple of MOMENT_BLOCK
    return type == MOMENT_FP32 ? n * 4 : type == MOMENT_BF16 ? n * 2 : n + n / MOMENT_BLOCK * 4;
}

// ---------------------------------------------------------------------------------------------------------------------
// gradient norm and what follows from it

template <typename T> __global__ static void __launch_bounds__(256) sum_of_squares_kernel(double *partial, const T *x, int64_t n) {
    constexpr int P = Pack<T>::size;
    __shared__ double shared[256];
    // NORM_PARTS blocks whatever the GPU: the order of the sum is that of the numbers' places
    double sum = 0;
    for (int64_t i = (blockIdx.x * 256ll + threadIdx.x) * P; i < n; i += (int64_t)NORM_PARTS * 256 * P) {
        const Pack<T> v = load_pack_once(x + i);
        #pragma unroll
        for (int k = 0; k < P; k++) { double d = (double)to_float(v.at[k]); sum += d * d; }
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    #pragma unroll
    for (int half = 128; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = shared[0];
}
__global__ static void __launch_bounds__(256) norm_and_clip_kernel(StepState *state, const double *partial, double lr, double beta1, double beta2, double grad_clip, int64_t t) {
    __shared__ double shared[256];
    double sum = 0;
    for (int i = threadIdx.x; i < NORM_PARTS; i += 256) sum += partial[i];
    shared[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x != 0) return;
    const double norm = sqrt(shared[0]);
    state->sum_squares = shared[0];
    state->skip = !isfinite(norm) || !isfinite(state->loss);
    state->grad_scale = grad_clip > 0 && norm + 1e-6 > grad_clip ? (float)(grad_clip / (norm + 1e-6)) : 1.0f;
    if (t > 0) state->t = t - 1;
    if (state->skip) return;
    state->t++;
    state->step = (float)(lr / (1.0 - pow(beta1, (double)state->t)));
    state->correction = (float)sqrt(1.0 - pow(beta2, (double)state->t));
}
static int64_t norm_partial_count(void) { return NORM_PARTS; }
// The norm of the whole gradient (n a multiple of 8, its gaps zero), in double and in one order, and into `state` what follows from it and
// from state->loss: clipping as torch.nn.utils.clip_grad_norm_'s, skip, and AdamW's bias corrections. partial: norm_partial_count() doubles.
static void norm_and_clip(StepState *state, double *partial, const void *grads, GradType type, int64_t n, const AdamW *o, cudaStream_t stream) {
    if (type == GRAD_FP32) sum_of_squares_kernel<<<NORM_PARTS, 256, 0, stream>>>(partial, (const float *)grads, n);
    else sum_of_squares_kernel<<<NORM_PARTS, 256, 0, stream>>>(partial, (const bf16 *)grads, n);
    norm_and_clip_kernel<<<1, 256, 0, stream>>>(state, partial, o->lr, o->beta1, o->beta2, o->grad_clip, o->t);
    CUDA_CHECK(cudaGetLastError());
}

// ---------------------------------------------------------------------------------------------------------------------
// eight numbers in a row, of every kind

typedef struct { float at[8]; } Eight;

template <typename T> __device__ static inline Eight load_eight(const T *p) {
    Eight r;
    if constexpr (sizeof(T) == 4) {
        const float4 a = __ldcs(reinterpret_cast<const float4 *>(p)), b = __ldcs(reinterpret_cast<const float4 *>(p) + 1);
        r.at[0] = a.x; r.at[1] = a.y; r.at[2] = a.z; r.at[3] = a.w; r.at[4] = b.x; r.at[5] = b.y; r.at[6] = b.z; r.at[7] = b.w;
    } else {
        const Pack<T> v = load_pack_once(p);
        #pragma unroll
        for (int k = 0; k < 8; k++) r.at[k] = to_float(v.at[k]);
    }
    return r;
}
__device__ static inline void store_eight(float *p, const Eight &x) {
    reinterpret_cast<float4 *>(p)[0] = make_float4(x.at[0], x.at[1], x.at[2], x.at[3]);
    reinterpret_cast<float4 *>(p)[1] = make_float4(x.at[4], x.at[5], x.at[6], x.at[7]);
}

// the fp32 weight of a bf16 one and its remainder, and back
__host__ __device__ static inline uint32_t weight_join(uint16_t high, int16_t remainder) { return ((uint32_t)high << 16) + (uint32_t)(int32_t)remainder; }
__host__ __device__ static inline void weight_split(uint32_t bits, uint16_t *high, int16_t *remainder) {
    *high = (uint16_t)((bits + 0x8000u) >> 16);
    *remainder = (int16_t)(uint16_t)(bits - ((uint32_t)*high << 16));
}
__device__ static inline Eight load_weights(const float *p, const int16_t *) { return load_eight(p); }
__device__ static inline Eight load_weights(const bf16 *p, const int16_t *remainder) {
    const uint4 high = __ldcs(reinterpret_cast<const uint4 *>(p)), low = remainder ? __ldcs(reinterpret_cast<const uint4 *>(remainder)) : make_uint4(0, 0, 0, 0);
    const uint16_t *h = reinterpret_cast<const uint16_t *>(&high);
    const int16_t *l = reinterpret_cast<const int16_t *>(&low);
    Eight r;
    #pragma unroll
    for (int k = 0; k < 8; k++) r.at[k] = __uint_as_float(weight_join(h[k], l[k]));
    return r;
}
__device__ static inline void store_weights(float *p, int16_t *, const Eight &x) { store_eight(p, x); }
__device__ static inline void store_weights(bf16 *p, int16_t *remainder, const Eight &x) {
    uint4 high, low;
    uint16_t *h = reinterpret_cast<uint16_t *>(&high);
    int16_t *l = reinterpret_cast<int16_t *>(&low);
    #pragma unroll
    for (int k = 0; k < 8; k++) weight_split(__float_as_uint(x.at[k]), &h[k], &l[k]);
    *reinterpret_cast<uint4 *>(p) = high;
    if (remainder) *reinterpret_cast<uint4 *>(remainder) = low;
}

// 8-bit codes of a warp's block of 256 numbers, 8 a lane. random: 16 bits a number, in [0, 65536)
__device__ static inline float decode_first(int8_t q, float scale) { float r = (float)q * (1.0f / 127.0f); return scale * r * fabsf(r); }
__device__ static inline float decode_second(uint8_t q, float scale) { float r = (float)q * (1.0f / 255.0f); return scale * (r * r) * (r * r); }
__device__ static inline int8_t encode_first(float x, float inverse, float noise) {   // noise: 0.5 rounds to nearest
    float magnitude = fminf(floorf(sqrtf(fabsf(x) * inverse) * 127.0f + noise), 127.0f);
    return (int8_t)copysignf(magnitude, x);
}
__device__ static inline uint8_t encode_second(float x, float inverse, float noise) {
    float q = fminf(floorf(sqrtf(sqrtf(x * inverse)) * 255.0f + noise), 255.0f);
    return (uint8_t)(x > 0.0f && q < 1.0f ? 1.0f : q);
}
__device__ static inline float block_scale(const Eight &x, bool active) {
    float largest = 0.0f;
    #pragma unroll
    for (int k = 0; k < 8; k++) largest = fmaxf(largest, fabsf(x.at[k]));
    return warp_max(active ? largest : 0.0f);
}

// one moment's arena: numbers, or codes with the scales behind them
template <int TYPE, bool SECOND> __device__ static inline Eight load_moment(const void *arena, int64_t total, int64_t i) {
    Eight r;
    if constexpr (TYPE == MOMENT_FP32) return load_eight((const float *)arena + i);
    else if constexpr (TYPE == MOMENT_BF16) return load_eight((const bf16 *)arena + i);
    else {
        const uint2 codes = __ldcs(reinterpret_cast<const uint2 *>((const uint8_t *)arena + i));
        const uint8_t *q = reinterpret_cast<const uint8_t *>(&codes);
        const float scale = ((const float *)((const uint8_t *)arena + total))[i / MOMENT_BLOCK];
        #pragma unroll
        for (int k = 0; k < 8; k++) r.at[k] = SECOND ? decode_second(q[k], scale) : decode_first((int8_t)q[k], scale);
        return r;
    }
}
// random: a seed, or 0 to round to nearest. Called by whole warps; `active` says whether this lane has numbers.
template <int TYPE, bool SECOND> __device__ static inline void store_moment(void *arena, int64_t total, int64_t i, const Eight &x, uint64_t random, bool active) {
    if constexpr (TYPE == MOMENT_FP32) { if (active) store_eight((float *)arena + i, x); }
    else if constexpr (TYPE == MOMENT_BF16) {
        if (!active) return;
        Pack<bf16> v;
        #pragma unroll
        for (int k = 0; k < 8; k += 2) {
            const uint32_t bits = random_bits(random * 2 + SECOND, (uint64_t)(i + k));
            v.at[k] = random ? stochastic_round(x.at[k], bits) : __float2bfloat16_rn(x.at[k]);
            v.at[k + 1] = random ? stochastic_round(x.at[k + 1], bits >> 16) : __float2bfloat16_rn(x.at[k + 1]);
        }
        store_pack_once((bf16 *)arena + i, v);
    } else {
        const float scale = block_scale(x, active), inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
        if (!active) return;
        uint2 codes;
        uint8_t *q = reinterpret_cast<uint8_t *>(&codes);
        #pragma unroll
        for (int k = 0; k < 8; k += 2) {
            const uint32_t bits = random_bits(random * 2 + SECOND, (uint64_t)(i + k));
            #pragma unroll
            for (int j = 0; j < 2; j++) {
                const float noise = random ? (float)(bits >> 16 * j & 0xffffu) * (1.0f / 65536.0f) : 0.5f;
                q[k + j] = SECOND ? encode_second(x.at[k + j], inverse, noise) : (uint8_t)encode_first(x.at[k + j], inverse, noise);
            }
        }
        *reinterpret_cast<uint2 *>((uint8_t *)arena + i) = codes;
        if (i % MOMENT_BLOCK == 0) ((float *)((uint8_t *)arena + total))[i / MOMENT_BLOCK] = scale;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// AdamW, as torch.optim.AdamW and train_findap.c compute it

typedef struct { float beta1, beta2, eps, keep; } AdamWNumbers;

template <int TYPE, typename G> __global__ static void __launch_bounds__(256) adamw_kernel(real *p, int16_t *remainder, void *moment1, void *moment2, int64_t total, const G *grads, int64_t at, int64_t n,
                                                                                          AdamWNumbers o, const StepState *state) {
    if (state->skip) return;
    const int64_t j = (blockIdx.x * 256ll + threadIdx.x) * 8, i = at + j;
    const bool active = j < n;
    const float scale = state->grad_scale, step = state->step, correction = state->correction;
    Eight w = {}, g = {}, m = {}, v = {};
    if (active) {
        w = load_weights(p + i, remainder ? remainder + i : NULL);
        g = load_eight(grads + i);
        m = load_moment<TYPE, false>(moment1, total, i);
        v = load_moment<TYPE, true>(moment2, total, i);
    }
    #pragma unroll
    for (int k = 0; k < 8; k++) {
        const float gk = g.at[k] * scale;
        m.at[k] = o.beta1 * m.at[k] + (1.0f - o.beta1) * gk;
        v.at[k] = o.beta2 * v.at[k] + (1.0f - o.beta2) * gk * gk;
        w.at[k] = w.at[k] * o.keep - step * m.at[k] / (sqrtf(v.at[k]) / correction + o.eps);
    }
    if (active) store_weights(p + i, remainder ? remainder + i : NULL, w);
    const uint64_t random = (uint64_t)state->t;   // at least 1
    store_moment<TYPE, false>(moment1, total, i, m, random, active);
    store_moment<TYPE, true>(moment2, total, i, v, random, active);
}

// Updates n (a multiple of 8) numbers at offset `at` (a multiple of MOMENT_BLOCK) of all arenas, or nothing when state->skip.
// total: numbers in a moment's arena. remainder: NULL in the fp32 build.
static void adamw_update(real *p, int16_t *remainder, void *moment1, void *moment2, MomentType type, int64_t total, const void *grads, GradType grad_type, int64_t at, int64_t n,
                         const AdamW *o, bool decayed, const StepState *state, cudaStream_t stream) {
    CHECK(n % 8 == 0 && at % MOMENT_BLOCK == 0);
    AdamWNumbers k = {(float)o->beta1, (float)o->beta2, (float)o->eps, decayed ? (float)(1.0 - o->lr * o->weight_decay) : 1.0f};
    const unsigned blocks = (unsigned)ceil_div(n, 2048);
    #define ADAMW_LAUNCH(TYPE) do { \
            if (grad_type == GRAD_FP32) adamw_kernel<TYPE><<<blocks, 256, 0, stream>>>(p, remainder, moment1, moment2, total, (const float *)grads, at, n, k, state); \
            else adamw_kernel<TYPE><<<blocks, 256, 0, stream>>>(p, remainder, moment1, moment2, total, (const bf16 *)grads, at, n, k, state); \
        } while (0)
    if (type == MOMENT_FP32) ADAMW_LAUNCH(MOMENT_FP32);
    else if (type == MOMENT_BF16) ADAMW_LAUNCH(MOMENT_BF16);
    else ADAMW_LAUNCH(MOMENT_8BIT);
    #undef ADAMW_LAUNCH
    CUDA_CHECK(cudaGetLastError());
}

// grad = round(grad + delta), stochastically: a bf16 sum of micro-batches whose expectation is exact. call: tells the calls of one step apart
__host__ __device__ static inline uint64_t sum_seed(const StepState *state, uint64_t call) { return ((uint64_t)state->t << 24) + call + (1ull << 62); }
__global__ static void __launch_bounds__(256) accumulate_bf16_kernel(bf16 *grad, const float *delta, int64_t n, const StepState *state, uint64_t call) {
    const int64_t i = (blockIdx.x * 256ll + threadIdx.x) * 8;
    if (i >= n) return;
    const Eight d = load_eight(delta + i);
    const Pack<bf16> g = load_pack(grad + i);
    Pack<bf16> out;
    const uint64_t seed = sum_seed(state, call);
    #pragma unroll
    for (int k = 0; k < 8; k += 2) {
        const uint32_t bits = random_bits(seed, (uint64_t)(i + k));
        out.at[k] = stochastic_round(to_float(g.at[k]) + d.at[k], bits);
        out.at[k + 1] = stochastic_round(to_float(g.at[k + 1]) + d.at[k + 1], bits >> 16);
    }
    store_pack(grad + i, out);
}
static void accumulate_bf16(bf16 *grad, const float *delta, int64_t n, const StepState *state, uint64_t call, cudaStream_t stream) {
    CHECK(n % 8 == 0);
    accumulate_bf16_kernel<<<(unsigned)ceil_div(n, 2048), 256, 0, stream>>>(grad, delta, n, state, call);
    CUDA_CHECK(cudaGetLastError());
}

// ---------------------------------------------------------------------------------------------------------------------
// between arenas and fp32 numbers on the GPU (n a multiple of 8): loading, saving, checkpoints. What is got and put back is the same.

__global__ static void __launch_bounds__(256) params_copy_kernel(float *x, real *p, int16_t *remainder, bool put, int64_t n) {
    const int64_t i = (blockIdx.x * 256ll + threadIdx.x) * 8;
    if (i >= n) return;
    if (put) store_weights(p + i, remainder ? remainder + i : NULL, load_eight(x + i));
    else store_eight(x + i, load_weights(p + i, remainder ? remainder + i : NULL));
}
static void params_get(float *x, const real *p, const int16_t *remainder, int64_t at, int64_t n, cudaStream_t stream) {
    params_copy_kernel<<<(unsigned)ceil_div(n, 2048), 256, 0, stream>>>(x, (real *)p + at, remainder ? (int16_t *)remainder + at : NULL, false, n);
    CUDA_CHECK(cudaGetLastError());
}
static void params_put(const float *x, real *p, int16_t *remainder, int64_t at, int64_t n, cudaStream_t stream) {
    params_copy_kernel<<<(unsigned)ceil_div(n, 2048), 256, 0, stream>>>((float *)x, p + at, remainder ? remainder + at : NULL, true, n);
    CUDA_CHECK(cudaGetLastError());
}
template <typename G> __global__ static void __launch_bounds__(256) grads_get_kernel(float *x, const G *grads, int64_t n) {
    const int64_t i = (blockIdx.x * 256ll + threadIdx.x) * 8;
    if (i < n) store_eight(x + i, load_eight(grads + i));
}
static void grads_get(float *x, const void *grads, GradType type, int64_t at, int64_t n, cudaStream_t stream) {
    if (type == GRAD_FP32) grads_get_kernel<<<(unsigned)ceil_div(n, 2048), 256, 0, stream>>>(x, (const float *)grads + at, n);
    else grads_get_kernel<<<(unsigned)ceil_div(n, 2048), 256, 0, stream>>>(x, (const bf16 *)grads + at, n);
    CUDA_CHECK(cudaGetLastError());
}
template <int TYPE, bool SECOND> __global__ static void __launch_bounds__(256) moments_copy_kernel(float *x, void *arena, int64_t total, bool put, int64_t at, int64_t n) {
    const int64_t i = (blockIdx.x * 256ll + threadIdx.x) * 8;
    const bool active = i < n;
    Eight v = {};
    if (!put) { if (active) store_eight(x + i, load_moment<TYPE, SECOND>(arena, total, at + i)); return; }
    if (active) v = load_eight(x + i);
    store_moment<TYPE, SECOND>(arena, total, at + i, v, 0, active);
}
static void moments_copy(float *x, void *arena, MomentType type, bool second, int64_t total, bool put, int64_t at, int64_t n, cudaStream_t stream) {
    CHECK(at % MOMENT_BLOCK == 0 && n % 8 == 0);
    const unsigned blocks = (unsigned)ceil_div(n, 2048);
    #define MOMENTS_LAUNCH(TYPE) do { \
            if (second) moments_copy_kernel<TYPE, true><<<blocks, 256, 0, stream>>>(x, arena, total, put, at, n); \
            else moments_copy_kernel<TYPE, false><<<blocks, 256, 0, stream>>>(x, arena, total, put, at, n); \
        } while (0)
    if (type == MOMENT_FP32) MOMENTS_LAUNCH(MOMENT_FP32);
    else if (type == MOMENT_BF16) MOMENTS_LAUNCH(MOMENT_BF16);
    else MOMENTS_LAUNCH(MOMENT_8BIT);
    #undef MOMENTS_LAUNCH
    CUDA_CHECK(cudaGetLastError());
}
static void moments_get(float *x, const void *arena, MomentType type, bool second, int64_t total, int64_t at, int64_t n, cudaStream_t stream) { moments_copy(x, (void *)arena, type, second, total, false, at, n, stream); }
static void moments_put(const float *x, void *arena, MomentType type, bool second, int64_t total, int64_t at, int64_t n, cudaStream_t stream) { moments_copy((float *)x, arena, type, second, total, true, at, n, stream); }
#endif
