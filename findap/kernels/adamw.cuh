// adamw.cuh: the optimizer (Loshchilov & Hutter 2019): gradient norm, clipping, the guard against non-finite steps, AdamW.
//
// Bound by bytes, with an fp32 gradient: 20 a parameter with bf16 moments, 16 with 8-bit ones, 28 with fp32 ones; every one is read
// once and written once. That leaves room for about 100 instructions a parameter before they are the bound, and IEEE divisions, 64-bit
// random numbers and conversions alone are more: hence the approximate reciprocal and square root below (bf16 build; what they cost
// is 1e-7 of a step), one hash a thread, and integers made from floats by adding 1.5 * 2^23.
//
// The weight. Kernels read bf16; AdamW needs fp32, since a step is often smaller than bf16's spacing. Instead of a second copy,
// 16 more bits: the fp32 weight is bits(bf16) * 2^16 + remainder, remainder a signed 16-bit number; so the bf16 weight is the
// fp32 one rounded to nearest (ties away from zero), and nothing is lost.
//
// The moments, in fp32; in bf16, rounded stochastically (rounding to nearest would swallow the small changes of a moving
// average); or in 8 bits. These are blockwise: 256 numbers share one fp32 scale, the largest |m| or sqrt(v) of them. The codes are not
// linear: m = scale sign(q) (q/127)^2, sqrt(v) = scale (q/255)^2, since what matters is the relative error over many decades. Code q is
// off by at most about 1/q of m and 2/q of v: of a number 1/100 of the block's largest, 8 % and 2.5 %; of sqrt(v) half of that.
// Codes are rounded stochastically too, up with the probability that makes the expectation of the VALUE exact: rounding the root
// instead would hold v up by a tenth and more wherever it is small.
//
// What must not happen is that v is rounded to almost nothing where m is not: the update is m / sqrt(v). So a v above zero never gets
// code 0 or 1. Code 2 is the right floor: there sqrt(v) is (2/255)^2 = 1/16256 of the block's largest, and the smallest m that a code
// can tell from zero is 1/16129 of its largest: what rounding adds to m moves the weight by about lr at most, as a gradient would. A
// floor makes a step too small, never too large. A block of zeros has scale 0, and stays zero.
#ifndef FINDAP_KERNELS_ADAMW_CUH
#define FINDAP_KERNELS_ADAMW_CUH
#include "cuda.cuh"           // defines: Pack, random_bits, stochastic_round, warp_max, real
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

template <typename T> __global__ static void __launch_bounds__(256) sum_of_squares_kernel(double *partial, const T *x, int64_t n, bool add) {
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
    if (threadIdx.x == 0) partial[blockIdx.x] = (add ? partial[blockIdx.x] : 0) + shared[0];
}
// state->sum_squares = the sum of the parts
__global__ static void __launch_bounds__(256) norm_kernel(StepState *state, const double *partial) {
    __shared__ double shared[256];
    double sum = 0;
    for (int i = threadIdx.x; i < NORM_PARTS; i += 256) sum += partial[i];
    shared[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) state->sum_squares = shared[0];
}
// Loss and squares of all ranks (ranks, 2), added in rank order; squares of the first shard group only: its replicas have the same numbers, and a sum
// that every rank makes of the same bits cannot let them drift apart.
__global__ static void norm_of_ranks_kernel(StepState *state, const double *all, int ranks, int shard_ranks) {
    double loss = 0, squares = 0;
    for (int r = 0; r < ranks; r++) { loss += all[2 * r]; squares += r < shard_ranks ? all[2 * r + 1] : 0.0; }
    state->loss = loss;
    state->sum_squares = squares;
}
__global__ static void clip_kernel(StepState *state, double lr, double beta1, double beta2, double grad_clip, int64_t t) {
    const double norm = sqrt(state->sum_squares);
    state->skip = !isfinite(norm) || !isfinite(state->loss);
    state->grad_scale = grad_clip > 0 && norm + 1e-6 > grad_clip ? (float)(grad_clip / (norm + 1e-6)) : 1.0f;
    if (t > 0) state->t = t - 1;
    if (state->skip) return;
    state->t++;
    state->step = (float)(lr / (1.0 - pow(beta1, (double)state->t)));
    state->correction = (float)sqrt(1.0 - pow(beta2, (double)state->t));
}
static int64_t norm_partial_count(void) { return NORM_PARTS; }
// Squares of n numbers (a multiple of 8), in double and in one order, into `partial` (norm_partial_count() doubles) or added to what is there
static void norm_part(double *partial, const void *grads, GradType type, int64_t n, bool add, cudaStream_t stream) {
    if (type == GRAD_FP32) sum_of_squares_kernel<<<NORM_PARTS, 256, 0, stream>>>(partial, (const float *)grads, n, add);
    else sum_of_squares_kernel<<<NORM_PARTS, 256, 0, stream>>>(partial, (const bf16 *)grads, n, add);
    CUDA_CHECK(cudaGetLastError());
}
static void norm_sum(StepState *state, const double *partial, cudaStream_t stream) {
    norm_kernel<<<1, 256, 0, stream>>>(state, partial);
    CUDA_CHECK(cudaGetLastError());
}
static void norm_of_ranks(StepState *state, const double *all, int ranks, int shard_ranks, cudaStream_t stream) {
    norm_of_ranks_kernel<<<1, 1, 0, stream>>>(state, all, ranks, shard_ranks);
    CUDA_CHECK(cudaGetLastError());
}
// Into `state` what follows from its loss and sum_squares: clipping as torch.nn.utils.clip_grad_norm_'s, skip, and AdamW's bias corrections
static void norm_clip(StepState *state, const AdamW *o, cudaStream_t stream) {
    clip_kernel<<<1, 1, 0, stream>>>(state, o->lr, o->beta1, o->beta2, o->grad_clip, o->t);
    CUDA_CHECK(cudaGetLastError());
}
// all three, for a gradient in one piece whose gaps are zero
static void norm_and_clip(StepState *state, double *partial, const void *grads, GradType type, int64_t n, const AdamW *o, cudaStream_t stream) {
    norm_part(partial, grads, type, n, false, stream);
    norm_sum(state, partial, stream);
    norm_clip(state, o, stream);
}

// ---------------------------------------------------------------------------------------------------------------------
// Eight numbers a lane, 256 a warp: four in a row and, 128 further on, four more, so that every load and store of a warp, be it of
// float, bf16 or bytes, is of one whole piece of memory. A warp's 256 numbers are a block of the 8-bit moments. All loads are without
// conditions, or each would be waited for before the next is sent: a lane beyond the tensor's end reads what its warp's first lane reads.

enum { PLACES = 2048 };   // of a block of 256 threads
typedef struct { float at[8]; } Eight;
// of the two fours, counted from the block's begin: where to store, where to load, and whether the tensor (a multiple of 8) reaches so far
typedef struct { int at[2], from[2]; bool has[2]; } Place;
__device__ static inline int64_t block_begin(void) { return blockIdx.x * (int64_t)PLACES; }
__device__ static inline bool warp_is_beyond(int64_t n) { return block_begin() + threadIdx.x / 32 * MOMENT_BLOCK >= n; }
__device__ static inline Place my_place(int64_t n) {
    const int first = (int)threadIdx.x / 32 * MOMENT_BLOCK, left = n - block_begin() < PLACES ? (int)(n - block_begin()) : PLACES;
    Place i;
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        i.at[h] = first + h * 128 + (int)threadIdx.x % 32 * 4;
        i.has[h] = i.at[h] < left;
        i.from[h] = i.has[h] ? i.at[h] : first;
    }
    return i;
}
static unsigned place_blocks(int64_t n) { CHECK(n > 0 && n % 8 == 0); return (unsigned)ceil_div(n, PLACES); }

__device__ static inline float4 load_four(const float *p) { return __ldcs(reinterpret_cast<const float4 *>(p)); }
__device__ static inline float4 load_four(const bf16 *p) {
    const uint2 x = __ldcs(reinterpret_cast<const uint2 *>(p));
    return make_float4(__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xffff0000u), __uint_as_float(x.y << 16), __uint_as_float(x.y & 0xffff0000u));
}
template <typename T> __device__ static inline Eight load_eight(const T *p, const Place &i) {
    const float4 a = load_four(p + i.from[0]), b = load_four(p + i.from[1]);
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
__device__ static inline void store_eight(float *p, const Place &i, const Eight &x) {
    #pragma unroll
    for (int h = 0; h < 2; h++)
        if (i.has[h]) __stcs(reinterpret_cast<float4 *>(p + i.at[h]), make_float4(x.at[h * 4], x.at[h * 4 + 1], x.at[h * 4 + 2], x.at[h * 4 + 3]));
}

// 16-bit halves of words; the fp32 weight of a bf16 one and its remainder, and back
__device__ static inline uint32_t low_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ static inline uint32_t high_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }
__host__ __device__ static inline uint32_t weight_join(uint16_t high, int16_t remainder) { return ((uint32_t)high << 16) + (uint32_t)(int32_t)remainder; }
__host__ __device__ static inline void weight_split(uint32_t bits, uint16_t *high, int16_t *remainder) {
    *high = (uint16_t)((bits + 0x8000u) >> 16);
    *remainder = (int16_t)(uint16_t)bits;   // bits - high * 2^16: high was rounded up just where these 16 bits are negative
}
__device__ static inline Eight load_weights(const float *p, const int16_t *, const Place &i) { return load_eight(p, i); }
__device__ static inline Eight load_weights(const bf16 *p, const int16_t *remainder, const Place &i) {
    uint2 high[2], low[2];
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        high[h] = __ldcs(reinterpret_cast<const uint2 *>(p + i.from[h]));
        low[h] = remainder ? __ldcs(reinterpret_cast<const uint2 *>(remainder + i.from[h])) : make_uint2(0, 0);
    }
    Eight r;
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        r.at[h * 4] = __uint_as_float(weight_join((uint16_t)high[h].x, (int16_t)low[h].x));
        r.at[h * 4 + 1] = __uint_as_float(weight_join((uint16_t)(high[h].x >> 16), (int16_t)(low[h].x >> 16)));
        r.at[h * 4 + 2] = __uint_as_float(weight_join((uint16_t)high[h].y, (int16_t)low[h].y));
        r.at[h * 4 + 3] = __uint_as_float(weight_join((uint16_t)(high[h].y >> 16), (int16_t)(low[h].y >> 16)));
    }
    return r;
}
__device__ static inline void store_weights(float *p, int16_t *, const Place &i, const Eight &x) { store_eight(p, i, x); }
__device__ static inline void store_weights(bf16 *p, int16_t *remainder, const Place &i, const Eight &x) {
    #pragma unroll
    for (int h = 0; h < 2; h++) {   // weight_split, two at a time
        if (!i.has[h]) continue;
        const uint32_t a = __float_as_uint(x.at[h * 4]), b = __float_as_uint(x.at[h * 4 + 1]);
        const uint32_t c = __float_as_uint(x.at[h * 4 + 2]), d = __float_as_uint(x.at[h * 4 + 3]);
        __stcs(reinterpret_cast<uint2 *>(p + i.at[h]), make_uint2(high_halves(a + 0x8000u, b + 0x8000u), high_halves(c + 0x8000u, d + 0x8000u)));
        if (remainder) __stcs(reinterpret_cast<uint2 *>(remainder + i.at[h]), make_uint2(low_halves(a, b), low_halves(c, d)));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// the moments

// one hardware instruction each, within two units in the last place; numbers below 1.2e-38 count as zero
__device__ static inline float reciprocal(float x) { float r; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x)); return r; }
__device__ static inline float square_root(float x) { float r; asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x)); return r; }

// A lane's random numbers: one hash begins a linear congruential sequence, each of whose states is mixed once more: 32 bits a number,
// 16 for each of its moments
typedef struct { uint32_t at[8]; } Noise;
__device__ static inline Noise noise_of(uint64_t seed, int64_t place) {   // place: no other lane's
    Noise r;
    uint32_t x = random_bits(seed, (uint64_t)place);
    #pragma unroll
    for (int k = 0; k < 8; k++) {
        x = x * 747796405u + 2891336453u;
        r.at[k] = (x ^ (x >> 15)) * 0x846CA68Bu;
    }
    return r;
}
// in (0, 1): the middle of one of 65536 parts. The bits of the float 2^23 + n are 0x4b000000 + n
__device__ static inline float noise_float(uint32_t bits, bool second) {
    return __uint_as_float(__byte_perm(bits, 0x4b000000u, second ? 0x7432u : 0x7410u)) * 0x1p-16f - (128.0f - 0x1p-17f);
}

// Codes of m are signed bytes, those of v unsigned ones. The constants are such that codes 127 and 255 give the scale itself.
__device__ static inline float decode_first(uint32_t word, int k, float scale) {
    const float r = (float)(int8_t)(word >> 8 * k) * (1.0f / 127.0f);
    return scale * (r * fabsf(r));
}
__device__ static inline float decode_root(uint32_t word, int k, float scale) {
    const float r = (float)(uint8_t)(word >> 8 * k) * (1.0f / 255.0f);
    return scale * (r * r);
}
// The code below a number and, where noise falls below the number's place between the two, the one above. `low` may be one too small (when the number
// is itself a code's, or the root was rounded): then it lies a whole step above, which no noise exceeds. 1.5 * 2^23, added, makes integers of floats,
// and its sum's low byte is the code. part: 127^2 / scale, 255^2 / scale
__device__ static inline uint32_t encode_first(float x, float part, float noise) {
    const float s = fminf(fabsf(x) * part, 16129.0f), low = __fadd_rd(square_root(s), 12582912.0f) - 12582912.0f;
    const float up = s - low * low > noise * (2.0f * low + 1.0f) ? 1.0f : 0.0f;
    return __float_as_uint(copysignf(low + up, x) + 12582912.0f);
}
__device__ static inline uint32_t encode_root(float x, float part, float noise) {   // x = sqrt(v); the place is that of v = x^2
    float s = fminf(x * part, 65025.0f);
    s = x > 0.0f ? fmaxf(s, 4.0f) : 0.0f;
    const float t = __fadd_rd(square_root(s), 12582912.0f), low = t - 12582912.0f, square = low * low, step = 2.0f * low + 1.0f;
    const float up = (s - square) * (s + square) > noise * (step * (2.0f * square + step)) ? 1.0f : 0.0f;
    return __float_as_uint(t + up);
}
// Of a warp's block: its largest magnitude, between bounds within which 255^2 / scale, the smallest code's v and the largest's are normal numbers
__device__ static inline float block_scale(const Eight &x, const Place &i) {
    float largest = 0.0f;
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        const float four = fmaxf(fmaxf(fabsf(x.at[h * 4]), fabsf(x.at[h * 4 + 1])), fmaxf(fabsf(x.at[h * 4 + 2]), fabsf(x.at[h * 4 + 3])));
        largest = i.has[h] ? fmaxf(largest, four) : largest;
    }
    largest = warp_max(largest);
    return largest > 0.0f ? fminf(fmaxf(largest, 0x1p-45f), 0x1p62f) : 0.0f;
}

// one moment's arena: numbers, or codes with the scales behind them. A pointer into it is the arena's own, `at` numbers further
typedef struct { void *numbers; float *scales; } Moment;
template <int TYPE> __host__ __device__ static inline Moment moment_at(void *arena, int64_t total, int64_t at) {   // at: a multiple of MOMENT_BLOCK
    const int size = TYPE == MOMENT_FP32 ? 4 : TYPE == MOMENT_BF16 ? 2 : 1;
    return {(uint8_t *)arena + at * size, (float *)((uint8_t *)arena + total) + at / MOMENT_BLOCK};
}
template <int TYPE, bool SECOND> __device__ static inline Eight load_moment(const Moment &moment, const Place &i) {
    if constexpr (TYPE == MOMENT_FP32) return load_eight((const float *)moment.numbers, i);
    else if constexpr (TYPE == MOMENT_BF16) return load_eight((const bf16 *)moment.numbers, i);
    else {
        const uint8_t *p = (const uint8_t *)moment.numbers;
        const uint32_t a = __ldcs(reinterpret_cast<const uint32_t *>(p + i.from[0])), b = __ldcs(reinterpret_cast<const uint32_t *>(p + i.from[1]));
        const float scale = moment.scales[threadIdx.x / 32];
        Eight r;
        #pragma unroll
        for (int k = 0; k < 8; k++) r.at[k] = SECOND ? decode_root(k < 4 ? a : b, k % 4, scale) : decode_first(k < 4 ? a : b, k % 4, scale);
        if constexpr (SECOND) {
            #pragma unroll
            for (int k = 0; k < 8; k++) r.at[k] *= r.at[k];
        }
        return r;
    }
}
// Called by whole warps that hold part of the tensor. In 8 bits v is kept by its root, which the update has computed: there x is sqrt(v).
template <int TYPE, bool SECOND, bool NEAREST> __device__ static inline void store_moment(const Moment &moment, const Place &i, const Eight &x, const Noise &noise) {
    if constexpr (TYPE == MOMENT_FP32) store_eight((float *)moment.numbers, i, x);
    else if constexpr (TYPE == MOMENT_BF16) {
        uint32_t bits[8];
        #pragma unroll
        for (int k = 0; k < 8; k++)
            bits[k] = __bfloat16_as_ushort(NEAREST ? __float2bfloat16_rn(x.at[k]) : stochastic_round(x.at[k], noise.at[k] >> (SECOND ? 16 : 0)));
        #pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint2 halves = make_uint2(low_halves(bits[h * 4], bits[h * 4 + 1]), low_halves(bits[h * 4 + 2], bits[h * 4 + 3]));
            if (i.has[h]) __stcs(reinterpret_cast<uint2 *>((bf16 *)moment.numbers + i.at[h]), halves);
        }
    } else {
        // a hair above 1, so that the block's largest number gets the last code, whatever the rounding: the scale survives a copy out and in
        const float scale = block_scale(x, i), part = scale > 0.0f ? (SECOND ? 65025.0f : 16129.0f) * 1.000002f * reciprocal(scale) : 0.0f;
        uint32_t q[8];
        #pragma unroll
        for (int k = 0; k < 8; k++) {
            const float random = NEAREST ? 0.5f : noise_float(noise.at[k], SECOND);
            q[k] = SECOND ? encode_root(x.at[k], part, random) : encode_first(x.at[k], part, random);
        }
        #pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t codes = low_halves(__byte_perm(q[h * 4], q[h * 4 + 1], 0x0040), __byte_perm(q[h * 4 + 2], q[h * 4 + 3], 0x0040));
            if (i.has[h]) __stcs(reinterpret_cast<uint32_t *>((uint8_t *)moment.numbers + i.at[h]), codes);
        }
        if (threadIdx.x % 32 == 0) moment.scales[threadIdx.x / 32] = scale;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// AdamW, as torch.optim.AdamW and train_findap.c compute it

typedef struct { float beta1, beta2, eps, keep; } AdamWNumbers;

// Everything from the tensor's begin, which is `base` in the moments' arenas. Noise follows from the number of updates and the number's place among what
// its rank owns: replicas, which own the same in the same order, round alike.
template <int TYPE, typename G> __global__ static void __launch_bounds__(256)
adamw_kernel(real *p, int16_t *remainder, void *moment1, void *moment2, int64_t total, const G *grads, int64_t base, int64_t n, AdamWNumbers o, const StepState *state) {
    if (state->skip || warp_is_beyond(n)) return;
    const Place i = my_place(n);
    const int64_t begin = block_begin();
    const Moment first = moment_at<TYPE>(moment1, total, base + begin), second = moment_at<TYPE>(moment2, total, base + begin);
    p += begin;
    if constexpr (sizeof(real) == 2) { remainder += begin; __builtin_assume(remainder != NULL); }
    Eight w = load_weights(p, remainder, i), m = load_moment<TYPE, false>(first, i), v = load_moment<TYPE, true>(second, i);
    const Eight g = load_eight(grads + begin, i);
    const float scale = state->grad_scale, step = state->step, correction = state->correction, inverse = reciprocal(correction);
    const Noise noise = noise_of((uint64_t)state->t, base + begin + i.at[0]);
    #pragma unroll
    for (int k = 0; k < 8; k++) {
        const float gk = g.at[k] * scale;
        m.at[k] = o.beta1 * m.at[k] + (1.0f - o.beta1) * gk;
        v.at[k] = o.beta2 * v.at[k] + (1.0f - o.beta2) * gk * gk;
        const float root = sizeof(real) == 4 ? sqrtf(v.at[k]) : square_root(v.at[k]);
        if constexpr (sizeof(real) == 4) w.at[k] = w.at[k] * o.keep - step * m.at[k] / (root / correction + o.eps);   // the CPU's very operations
        else w.at[k] = w.at[k] * o.keep - step * m.at[k] * reciprocal(root * inverse + o.eps);
        if constexpr (TYPE == MOMENT_8BIT) v.at[k] = root;
    }
    store_weights(p, remainder, i, w);
    store_moment<TYPE, false, false>(first, i, m, noise);
    store_moment<TYPE, true, false>(second, i, v, noise);
}

// Updates n (a multiple of 8) numbers at offset `at` (a multiple of MOMENT_BLOCK) of all arenas, or nothing when state->skip.
// total: numbers in a moment's arena. remainder: NULL in the fp32 build.
static void adamw_update(real *p, int16_t *remainder, void *moment1, void *moment2, MomentType type, int64_t total, const void *grads, GradType grad_type, int64_t at, int64_t n,
                         const AdamW *o, bool decayed, const StepState *state, cudaStream_t stream) {
    CHECK(at % MOMENT_BLOCK == 0 && (remainder != NULL) == (sizeof(real) == 2));
    const AdamWNumbers k = {(float)o->beta1, (float)o->beta2, (float)o->eps, decayed ? (float)(1.0 - o->lr * o->weight_decay) : 1.0f};
    const unsigned blocks = place_blocks(n);
    p += at;
    if (remainder) remainder += at;
    #define ADAMW_LAUNCH(TYPE) do { \
            if (grad_type == GRAD_FP32) adamw_kernel<TYPE><<<blocks, 256, 0, stream>>>(p, remainder, moment1, moment2, total, (const float *)grads + at, at, n, k, state); \
            else adamw_kernel<TYPE><<<blocks, 256, 0, stream>>>(p, remainder, moment1, moment2, total, (const bf16 *)grads + at, at, n, k, state); \
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
    if (warp_is_beyond(n)) return;
    const Place i = my_place(n);
    const int64_t begin = block_begin();
    const Eight d = load_eight(delta + begin, i), g = load_eight(grad + begin, i);
    const Noise noise = noise_of(sum_seed(state, call), begin + i.at[0]);
    uint32_t bits[8];
    #pragma unroll
    for (int k = 0; k < 8; k++) bits[k] = __bfloat16_as_ushort(stochastic_round(g.at[k] + d.at[k], noise.at[k] >> 16));
    #pragma unroll
    for (int h = 0; h < 2; h++)
        if (i.has[h]) *reinterpret_cast<uint2 *>(grad + begin + i.at[h]) = make_uint2(low_halves(bits[h * 4], bits[h * 4 + 1]), low_halves(bits[h * 4 + 2], bits[h * 4 + 3]));
}
static void accumulate_bf16(bf16 *grad, const float *delta, int64_t n, const StepState *state, uint64_t call, cudaStream_t stream) {
    accumulate_bf16_kernel<<<place_blocks(n), 256, 0, stream>>>(grad, delta, n, state, call);
    CUDA_CHECK(cudaGetLastError());
}

// sum (+)= x, fp32, n numbers (a multiple of 8): a micro-batch's gradient into the sum of the rank that owns it
__global__ static void __launch_bounds__(256) accumulate_fp32_kernel(float *sum, const float *x, bool add, int64_t n) {
    for (int64_t i = (blockIdx.x * 256ll + threadIdx.x) * 4; i < n; i += gridDim.x * 1024ll) {
        float4 v = *reinterpret_cast<const float4 *>(x + i), s = add ? *reinterpret_cast<const float4 *>(sum + i) : make_float4(0, 0, 0, 0);
        *reinterpret_cast<float4 *>(sum + i) = make_float4(s.x + v.x, s.y + v.y, s.z + v.z, s.w + v.w);
    }
}
static void accumulate_fp32(float *sum, const float *x, bool add, int64_t n, cudaStream_t stream) {
    CHECK(n % 4 == 0);
    if (n == 0) return;
    const int64_t blocks = ceil_div(n, 1024);
    accumulate_fp32_kernel<<<(unsigned)(blocks < 1024 ? blocks : 1024), 256, 0, stream>>>(sum, x, add, n);
    CUDA_CHECK(cudaGetLastError());
}

// ---------------------------------------------------------------------------------------------------------------------
// between arenas and fp32 numbers on the GPU (n a multiple of 8): loading, saving, checkpoints. What is got and put back is the same.

__global__ static void __launch_bounds__(256) params_copy_kernel(float *x, real *p, int16_t *remainder, bool put, int64_t n) {
    if (warp_is_beyond(n)) return;
    const Place i = my_place(n);
    x += block_begin(); p += block_begin();
    if (remainder) remainder += block_begin();
    if (put) store_weights(p, remainder, i, load_eight(x, i));
    else store_eight(x, i, load_weights(p, remainder, i));
}
static void params_get(float *x, const real *p, const int16_t *remainder, int64_t at, int64_t n, cudaStream_t stream) {
    params_copy_kernel<<<place_blocks(n), 256, 0, stream>>>(x, (real *)p + at, remainder ? (int16_t *)remainder + at : NULL, false, n);
    CUDA_CHECK(cudaGetLastError());
}
static void params_put(const float *x, real *p, int16_t *remainder, int64_t at, int64_t n, cudaStream_t stream) {   // remainder NULL: rounded
    params_copy_kernel<<<place_blocks(n), 256, 0, stream>>>((float *)x, p + at, remainder ? remainder + at : NULL, true, n);
    CUDA_CHECK(cudaGetLastError());
}
template <typename G> __global__ static void __launch_bounds__(256) grads_get_kernel(float *x, const G *grads, int64_t n) {
    if (warp_is_beyond(n)) return;
    const Place i = my_place(n);
    store_eight(x + block_begin(), i, load_eight(grads + block_begin(), i));
}
static void grads_get(float *x, const void *grads, GradType type, int64_t at, int64_t n, cudaStream_t stream) {
    if (type == GRAD_FP32) grads_get_kernel<<<place_blocks(n), 256, 0, stream>>>(x, (const float *)grads + at, n);
    else grads_get_kernel<<<place_blocks(n), 256, 0, stream>>>(x, (const bf16 *)grads + at, n);
    CUDA_CHECK(cudaGetLastError());
}
template <int TYPE, bool SECOND> __global__ static void __launch_bounds__(256) moments_copy_kernel(float *x, void *arena, int64_t total, bool put, int64_t at, int64_t n) {
    if (warp_is_beyond(n)) return;
    const Place i = my_place(n);
    const Moment moment = moment_at<TYPE>(arena, total, at + block_begin());
    x += block_begin();
    if (!put) { store_eight(x, i, load_moment<TYPE, SECOND>(moment, i)); return; }
    Eight v = load_eight(x, i);
    #pragma unroll
    for (int k = 0; k < 8; k++) v.at[k] = TYPE == MOMENT_8BIT && SECOND ? sqrtf(v.at[k]) : v.at[k];   // IEEE's root of a number's rounded square is the number
    store_moment<TYPE, SECOND, true>(moment, i, v, Noise());
}
static void moments_copy(float *x, void *arena, MomentType type, bool second, int64_t total, bool put, int64_t at, int64_t n, cudaStream_t stream) {
    CHECK(at % MOMENT_BLOCK == 0);
    const unsigned blocks = place_blocks(n);
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
