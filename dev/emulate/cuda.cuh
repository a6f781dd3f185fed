// cuda.cuh of dev/emulate.sh: a CUDA runtime that is the host. Memory is the host's, fresh memory is full of NaN, and streams do everything at once: what is
// enqueued in a wrong order is not seen here.
#ifndef FINDAP_KERNELS_CUDA_CUH
#define FINDAP_KERNELS_CUDA_CUH
#include "findap/common.h"
#include <cuda.h>
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
// 16 bytes of T, and kernels one thread after the other: peers.cuh's, which share no memory and wait for nobody. A launch is EMU_LAUNCH here (emulate.sh)
template <typename T> struct alignas(16) Pack { static constexpr int size = 16 / (int)sizeof(T); T at[16 / sizeof(T)]; };
template <typename T> inline Pack<T> load_pack_once(const T *p) { return *(const Pack<T> *)p; }
template <typename T> inline void store_pack(T *p, const Pack<T> &x) { *(Pack<T> *)p = x; }
static inline uint32_t random_bits(uint64_t seed, uint64_t index) { return (uint32_t)((index + 1) * 0x9E3779B97F4A7C15ull >> 16 ^ seed * 0x85EBCA6Bull); }
static inline int device_multiprocessors(void) { return 3; }
static struct { unsigned x; } emu_block, emu_thread, emu_grid;
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__
#define blockIdx emu_block
#define threadIdx emu_thread
#define gridDim emu_grid
#define EMU_LAUNCH(blocks, threads, ...) do { emu_grid.x = (unsigned)(blocks); \
    for (emu_block.x = 0; emu_block.x < emu_grid.x; emu_block.x++) for (emu_thread.x = 0; emu_thread.x < (unsigned)(threads); emu_thread.x++) { __VA_ARGS__; } } while (0)
#define cudaMallocHost(p, n) (*(p) = xmalloc((int64_t)(n)), cudaSuccess)
// Memory that other processes can map, by a descriptor of this one: the IPC of ranks on one host
#include <map>
#include <sys/mman.h>
struct EmuMemory { int descriptor; size_t bytes; };
static std::map<void *, EmuMemory> emu_memory;
static cudaError_t emu_map(void **p, int descriptor, size_t n) {
    *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (*p == MAP_FAILED) die("mmap of %zu bytes: %s", n, strerror(errno));
    emu_memory[*p] = {descriptor, n};
    return cudaSuccess;
}
static cudaError_t emu_malloc(void **p, size_t n) {
    int descriptor = memfd_create("emulated", MFD_CLOEXEC);
    n = (n + 4095) / 4096 * 4096 + 4096;
    if (descriptor < 0 || ftruncate(descriptor, (off_t)n) != 0) die("memfd_create: %s", strerror(errno));
    emu_map(p, descriptor, n);
    memset(*p, 0xff, n);
    return cudaSuccess;
}
static cudaError_t emu_free(void *p) {
    auto found = emu_memory.find(p);
    if (!p) return cudaSuccess;
    if (found == emu_memory.end()) die("an address is freed that was never allocated, or twice");
    munmap(p, found->second.bytes);
    close(found->second.descriptor);
    emu_memory.erase(found);
    return cudaSuccess;
}
struct EmuHandle { pid_t process; int descriptor; size_t bytes; };
static cudaError_t emu_ipc_get(cudaIpcMemHandle_t *h, void *p) {
    auto found = emu_memory.find(p);
    if (found == emu_memory.end()) return cudaErrorInvalidValue;
    EmuHandle e = {getpid(), found->second.descriptor, found->second.bytes};
    memcpy(h, &e, sizeof e);
    return cudaSuccess;
}
static cudaError_t emu_ipc_open(void **p, cudaIpcMemHandle_t h) {
    EmuHandle e;
    char path[64];
    memcpy(&e, &h, sizeof e);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)e.process, e.descriptor);
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    return descriptor < 0 ? cudaErrorInvalidResourceHandle : emu_map(p, descriptor, e.bytes);
}
// what a stream writes and waits for, at once
static CUresult emu_memory_operations(CUstream, unsigned n, CUstreamBatchMemOpParams *o, unsigned) {
    for (unsigned i = 0; i < n; i++) {
        if (o[i].operation == CU_STREAM_MEM_OP_WRITE_VALUE_32) __atomic_store_n((uint32_t *)o[i].writeValue.address, (uint32_t)o[i].writeValue.value, __ATOMIC_RELEASE);
        else while ((int32_t)(__atomic_load_n((uint32_t *)o[i].waitValue.address, __ATOMIC_ACQUIRE) - (uint32_t)o[i].waitValue.value) < 0) usleep(20);
    }
    return CUDA_SUCCESS;
}
static cudaError_t emu_entry_point(void **p, cudaDriverEntryPointQueryResult *found) { *p = (void *)emu_memory_operations; *found = cudaDriverEntryPointSuccess; return cudaSuccess; }
#define cudaIpcGetMemHandle(h, p) emu_ipc_get(h, p)
#define cudaIpcOpenMemHandle(p, h, f) emu_ipc_open(p, h)
#define cudaIpcCloseMemHandle(p) emu_free(p)
#define cudaGetDriverEntryPointByVersion(name, p, v, f, found) emu_entry_point(p, found)
#define cudaGetErrorString(e) "emulated"
#define cudaDeviceSynchronize() cudaSuccess
#define cudaMemcpy(d, s, n, k) (memcpy(d, s, n), cudaSuccess)
#define cudaMemset(p, v, n) (memset((void *)(p), v, n), cudaSuccess)
#define cudaDeviceGetPCIBusId(s, n, d) (snprintf(s, n, "emulated"), cudaSuccess)
#define cudaDeviceGetByPCIBusId(d, s) (*(d) = 0, cudaSuccess)
#define cudaDeviceGetP2PAttribute(x, a, d, e) (*(x) = 1, cudaSuccess)
template <typename T> static cudaError_t cudaMalloc_(T **p, size_t n) { return emu_malloc((void **)p, n); }
#define cudaMalloc cudaMalloc_
#define cudaFree(p) emu_free((void *)(uintptr_t)(p))
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
