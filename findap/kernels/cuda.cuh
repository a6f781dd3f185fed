// cuda.cuh: what every kernel file needs: error checks, the number type of weights and activations, 16-byte loads and
// stores, reductions, stochastic rounding. No kernel of its own.
//
// `real` is the type of weights, activations and their gradients: bf16, or float in the fp32 build (-DFINDAP_FP32), which
// exists to be compared tightly with train_findap.c. Sums, softmax, norms and parameter gradients are float in both.
#ifndef FINDAP_KERNELS_CUDA_CUH
#define FINDAP_KERNELS_CUDA_CUH
#include "findap/common.h"   // defines: die, CHECK, int64_t
#include <cuda_bf16.h>       // defines: __nv_bfloat16
#include <cuda_runtime.h>    // defines: cudaError_t, cudaStream_t

typedef __nv_bfloat16 bf16;
#ifdef FINDAP_FP32
typedef float real;
#define REAL_NAME "fp32"
#else
typedef bf16 real;
#define REAL_NAME "bf16"
#endif

// every CUDA call stands in this; a launch is followed by CUDA_CHECK(cudaGetLastError())
#define CUDA_CHECK(call) cuda_check((call), #call, __FILE__, __LINE__)
static inline void cuda_check(cudaError_t status, const char *call, const char *file, int line) {
    if (status == cudaSuccess) return;
    const char *hint = status == cudaErrorMemoryAllocation ? "the GPU's memory is full: fewer --micro-rows, shorter --seq-len, or --recompute block"
                     : status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver ? "no usable NVIDIA GPU here: the CPU twin (_cpu) needs none"
                     : "rerun under compute-sanitizer to find the kernel";
    die("%s:%d: %s: %s ---> %s", file, line, call, cudaGetErrorString(status), hint);
}

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

__host__ __device__ inline float to_float(float x) { return x; }
__host__ __device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
template <typename T> __host__ __device__ inline T from_float(float x);
template <> __host__ __device__ inline float from_float<float>(float x) { return x; }
template <> __host__ __device__ inline bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }

// 16 bytes of T: what one thread loads or stores at a time
template <typename T> struct alignas(16) Pack {
    static constexpr int size = 16 / (int)sizeof(T);
    T at[16 / sizeof(T)];
};
template <typename T> __device__ inline Pack<T> load_pack(const T *p) {
    Pack<T> r;
    *reinterpret_cast<uint4 *>(&r) = *reinterpret_cast<const uint4 *>(p);
    return r;
}
// for data that is read once: does not push useful lines out of the caches
template <typename T> __device__ inline Pack<T> load_pack_once(const T *p) {
    Pack<T> r;
    *reinterpret_cast<uint4 *>(&r) = __ldcs(reinterpret_cast<const uint4 *>(p));
    return r;
}
template <typename T> __device__ inline void store_pack(T *p, const Pack<T> &x) { *reinterpret_cast<uint4 *>(p) = *reinterpret_cast<const uint4 *>(&x); }
template <typename T> __device__ inline void store_pack_once(T *p, const Pack<T> &x) { __stcs(reinterpret_cast<uint4 *>(p), *reinterpret_cast<const uint4 *>(&x)); }

__device__ inline float warp_sum(float x) {
    #pragma unroll
    for (int m = 16; m > 0; m >>= 1) x += __shfl_xor_sync(0xffffffffu, x, m);
    return x;
}
__device__ inline float warp_max(float x) {
    #pragma unroll
    for (int m = 16; m > 0; m >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, m));
    return x;
}
// over all threads of the block (a multiple of 32, at most 1024); `shared`: 33 floats. The order of the sum is fixed.
__device__ inline float block_sum(float x, float *shared) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    __syncthreads();   // an earlier use of `shared` has been read by all
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    if (warp == 0) {
        x = warp_sum(lane < warps ? shared[lane] : 0.0f);
        if (lane == 0) shared[32] = x;
    }
    __syncthreads();
    return shared[32];
}
__device__ inline float block_max(float x, float *shared) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    if (warp == 0) {
        x = warp_max(lane < warps ? shared[lane] : -INFINITY);
        if (lane == 0) shared[32] = x;
    }
    __syncthreads();
    return shared[32];
}

// 32 random bits of (seed, index): a counter-based generator (two rounds of a 64-bit finaliser), so that the bits belong to
// the number that is rounded, not to the thread that rounds it, and the same step gives the same bits twice
__host__ __device__ inline uint32_t random_bits(uint64_t seed, uint64_t index) {
    uint64_t z = (index + 1) * 0x9E3779B97F4A7C15ull ^ seed * 0xD1B54A32D192ED03ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return (uint32_t)((z ^ (z >> 31)) >> 16);
}
// float -> bf16, up or down with probabilities that make the expectation exact; `random`: 16 random bits in the low half
__device__ inline bf16 stochastic_round(float x, uint32_t random) {
    uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7f800000u) != 0x7f800000u) bits += random & 0xffffu;   // infinities and NaN stay what they are
    return __ushort_as_bfloat16((unsigned short)(bits >> 16));
}

static inline int device_multiprocessors(void) {
    static int count = 0;   // of the current device, which a process never changes
    if (count == 0) {
        int device;
        CUDA_CHECK(cudaGetDevice(&device));
        CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    }
    return count;
}
static inline int device_shared_bytes(void) {   // that a block may ask for
    static int bytes = 0;
    if (bytes == 0) {
        int device;
        CUDA_CHECK(cudaGetDevice(&device));
        CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    }
    return bytes;
}
static inline int device_capability(void) {   // 90 on Hopper
    static int capability = 0;
    if (capability == 0) {
        int device, major, minor;
        CUDA_CHECK(cudaGetDevice(&device));
        CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
        CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
        capability = major * 10 + minor;
    }
    return capability;
}
// Hopper's own instructions (sm90.cuh): only on such a card, and where this program has code for it. Without, the kernels that use them are empty; newer cards, and this one when the program
// was compiled for sm_80 alone, run what was compiled for sm_80.
static inline bool device_is_hopper(void) {
#ifdef __CUDA_ARCH_LIST__
    static const int compiled[] = {__CUDA_ARCH_LIST__};
    for (int arch : compiled) if (arch == 900) return device_capability() == 90;
#endif
    return false;
}
// A kernel that is launched early begins while the one before it is still at work (programmatic dependent launch, sm_90): it may read what was there before both, weights, and
// calls wait_for_previous() before anything that the other one writes. let_next_begin(): the next one may start as soon as every block has said so; it waits for
// this kernel's end all the same. Below sm_90 all of it means nothing, and order is what it always was.
__device__ inline void wait_for_previous(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void let_next_begin(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Only where the code that runs has these instructions: what was compiled for sm_80 would not wait.
static inline bool launches_early(void) {
#ifdef FINDAP_RACECHECK
    return false;
#else
    return device_is_hopper();
#endif
}
template <typename... P, typename... A> static void launch_early(void (*kernel)(P...), dim3 grid, int threads, int shared_bytes, cudaStream_t stream, A... arguments) {
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    c.gridDim = grid; c.blockDim = dim3((unsigned)threads); c.dynamicSmemBytes = (size_t)shared_bytes; c.stream = stream; c.attrs = &early; c.numAttrs = launches_early();
    CUDA_CHECK(cudaLaunchKernelEx(&c, kernel, (P)arguments...));
}
#endif
