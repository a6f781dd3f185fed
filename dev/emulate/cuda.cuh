// cuda.cuh of dev/emulate.sh: a CUDA runtime that is the host. Memory is the host's, fresh memory is full of NaN, and streams do everything at once: what is
// enqueued in a wrong order is not seen here.
#ifndef FINDAP_KERNELS_CUDA_CUH
#define FINDAP_KERNELS_CUDA_CUH
#include "findap/common.h"
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <library_types.h>
#include <vector>
#include <algorithm>
typedef __nv_bfloat16 bf16;
#ifdef FINDAP_FP32
typedef float real;
#define REAL_NAME "fp32"
#else
typedef bf16 real;
#define REAL_NAME "bf16"
#endif
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline float to_float(float x) { return x; }
static inline float to_float(bf16 x) { return __bfloat162float(x); }
template <typename T> inline T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
template <> inline bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }
#define CUDA_CHECK(call) do { if ((call) != cudaSuccess) die("%s:%d: %s", __FILE__, __LINE__, #call); } while (0)
// numbers of an array as floats, and back when it ends
struct Floats {
    real *to; std::vector<float> x;
    Floats(const real *p, int64_t n, bool back = false) : to(back ? (real *)p : NULL), x((size_t)n) { for (int64_t i = 0; i < n; i++) x[(size_t)i] = to_float(p[i]); }
    ~Floats() { for (size_t i = 0; to && i < x.size(); i++) to[i] = from_float<real>(x[i]); }
    operator float *() { return x.data(); }
};
#define cudaMallocHost(p, n) (*(p) = xmalloc((int64_t)(n)), cudaSuccess)
static cudaError_t emu_malloc(void **p, size_t n) { *p = aligned_alloc(256, (n + 255) / 256 * 256 + 256); memset(*p, 0xff, n); return cudaSuccess; }
template <typename T> static cudaError_t cudaMalloc_(T **p, size_t n) { return emu_malloc((void **)p, n); }
#define cudaMalloc cudaMalloc_
#define cudaFree(p) (free((void *)(uintptr_t)(p)), cudaSuccess)
#define cudaFreeHost(p) (free(p), cudaSuccess)
#define cudaMemsetAsync(p, v, n, s) (memset((void *)(p), v, n), cudaSuccess)
#define cudaMemset2DAsync(p, pitch, v, w, h, s) ([&]{ for (size_t i_ = 0; i_ < (h); i_++) memset((char *)(p) + i_ * (pitch), v, w); return cudaSuccess; }())
#define cudaMemcpyAsync(d, s, n, k, st) (memcpy(d, s, n), cudaSuccess)
#define cudaStreamCreateWithFlags(s, f) (*(s) = NULL, cudaSuccess)
#define cudaStreamDestroy(s) cudaSuccess
#define cudaStreamSynchronize(s) cudaSuccess
#define cudaStreamWaitEvent(s, e, f) cudaSuccess
#define cudaEventCreateWithFlags(e, f) (*(e) = NULL, cudaSuccess)
#define cudaEventCreate(e) (*(e) = NULL, cudaSuccess)
#define cudaEventDestroy(e) cudaSuccess
#define cudaEventRecord(e, s) cudaSuccess
#define cudaEventSynchronize(e) cudaSuccess
#define cudaEventElapsedTime(ms, a, b) (*(ms) = 1.0f, cudaSuccess)
#define cudaGetDeviceCount(n) (*(n) = 1, cudaSuccess)
#define cudaSetDevice(n) cudaSuccess
#define cudaGetDevice(n) (*(n) = 0, cudaSuccess)
#define cudaGetLastError() cudaSuccess
#define cudaGraphExecDestroy(g) cudaSuccess
#define cudaGraphDestroy(g) cudaSuccess
#define cudaGraphInstantiate(e, g, f) cudaSuccess
#define cudaGraphLaunch(g, s) cudaSuccess
#define cudaStreamBeginCapture(s, m) cudaSuccess
#define cudaStreamEndCapture(s, g) cudaSuccess
#define cudaMemGetInfo(a, t) (*(a) = *(t) = (size_t)1 << 40, cudaSuccess)
#endif
