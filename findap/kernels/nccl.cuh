// nccl.cuh: what moves between GPUs: sums of gradients to the rank that owns them, new weights back to all (ZeRO: who owns what stands in
// comm.h). Bound by the links: with P ranks each sends and receives (P-1)/P of the bytes, 4 a parameter for gradients, 2 for weights. All of it runs
// on a stream of its own, under the computation.
//
// Sums are NCCL's: their order depends on the number of ranks and the topology, not on time; the same command gives the same bits.
#ifndef FINDAP_KERNELS_NCCL_CUH
#define FINDAP_KERNELS_NCCL_CUH
#include "cuda.cuh"        // defines: CUDA_CHECK, real
#include "findap/comm.h"   // defines: Comm, comm_broadcast, shard_part
#ifdef FINDAP_NCCL
#include <nccl.h>          // defines: nccl*
#define NCCL_CHECK(call) do { ncclResult_t status_ = (call); \
    if (status_ != ncclSuccess) die("%s:%d: %s: %s ---> NCCL_DEBUG=INFO tells more", __FILE__, __LINE__, #call, ncclGetErrorString(status_)); } while (0)
#endif

typedef struct {
    Comm *comm;
    cudaStream_t stream;
#ifdef FINDAP_NCCL
    ncclComm_t nccl;
#endif
} Links;

#ifdef FINDAP_NCCL
static void links_connect(Links *k);
// Two ranks on one GPU would wait for each other for ever, or be told something obscure
static void links_check_devices(Comm *comm) {
    typedef struct { char host[64], bus[32]; } Place;
    Place mine, *all = (Place *)xcalloc(comm->size, (int64_t)sizeof(Place));
    memset(&mine, 0, sizeof mine);
    int device;
    CUDA_CHECK(cudaGetDevice(&device));
    gethostname(mine.host, sizeof mine.host - 1);
    CUDA_CHECK(cudaDeviceGetPCIBusId(mine.bus, (int)sizeof mine.bus, device));
    comm_gather_bytes(comm, &mine, all, (int64_t)sizeof mine, "the ranks' GPUs", true);
    for (int r = 0; r < comm->size; r++)
        if (r != comm->rank && memcmp(&all[r], &mine, sizeof mine) == 0)
            die("ranks %d and %d share the GPU %s of %s ---> start as many processes on a host as it has GPUs", comm->rank < r ? comm->rank : r, comm->rank < r ? r : comm->rank, mine.bus, mine.host);
    free(all);
}
#endif

// Joins the ranks' GPUs. Rank 0 draws the name of the meeting place, MPI hands it round.
static void links_create(Links *k, Comm *comm) {
    memset(k, 0, sizeof *k);
    k->comm = comm;
    if (comm->size == 1) return;
#ifdef FINDAP_NCCL
    links_check_devices(comm);
    int least, greatest;
    CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CUDA_CHECK(cudaStreamCreateWithPriority(&k->stream, cudaStreamNonBlocking, greatest));   // its few blocks go before the waiting ones of a GEMM
    ncclUniqueId id;
    memset(&id, 0, sizeof id);
    if (comm->rank == 0) NCCL_CHECK(ncclGetUniqueId(&id));
    comm_broadcast(comm, &id, (int64_t)sizeof id, 0, "NCCL's id");
    comm_wait_begin(comm, "ncclCommInitRank", false);
    NCCL_CHECK(ncclCommInitRank(&k->nccl, comm->size, id, comm->rank));
    comm_wait_end(comm);
    links_connect(k);
#else
    die("%d ranks, but built without NCCL ---> install NCCL and build again", comm->size);
#endif
}
static void links_free(Links *k) {
    if (!k->comm || k->comm->size == 1) return;
#ifdef FINDAP_NCCL
    comm_wait_begin(k->comm, "the end", false);
    cudaStreamSynchronize(k->stream);
    comm_wait_end(k->comm);
    comm_barrier(k->comm, "the end", true);   // nobody's transfer is cut off
    ncclCommAbort(k->nccl);
    cudaStreamDestroy(k->stream);
#endif
}

#ifdef FINDAP_NCCL
static ncclDataType_t nccl_type(int bytes) { return bytes == 4 ? ncclFloat32 : ncclBfloat16; }
static void links_begin(void) { NCCL_CHECK(ncclGroupStart()); }
static void links_end(void) { NCCL_CHECK(ncclGroupEnd()); }
// x (n) of every rank: what this rank owns of it becomes the sum over all, in place; the rest is not to be used any more. bytes: 4 fp32, 2 bf16
static void links_reduce(Links *k, void *x, int64_t n, int bytes) {
    const int64_t part = shard_part(k->comm, n), whole = part * k->comm->size;
    char *p = (char *)x;
    if (part > 0) NCCL_CHECK(ncclReduceScatter(p, p + k->comm->rank * part * bytes, (size_t)part, nccl_type(bytes), ncclSum, k->nccl, k->stream));
    if (n > whole) NCCL_CHECK(ncclReduce(p + whole * bytes, p + whole * bytes, (size_t)(n - whole), nccl_type(bytes), ncclSum, k->comm->size - 1, k->nccl, k->stream));
}
// x (n) = what every rank owns of it. owned: where this rank's part lies, in x or elsewhere
static void links_gather(Links *k, void *x, const void *owned, int64_t n, int bytes) {
    const int64_t part = shard_part(k->comm, n), whole = part * k->comm->size;
    char *p = (char *)x;
    const bool last = k->comm->rank == k->comm->size - 1;
    if (part > 0) NCCL_CHECK(ncclAllGather(owned, p, (size_t)part, nccl_type(bytes), k->nccl, k->stream));
    if (n > whole) NCCL_CHECK(ncclBroadcast(last ? (const char *)owned + part * bytes : p + whole * bytes, p + whole * bytes, (size_t)(n - whole), nccl_type(bytes), k->comm->size - 1, k->nccl, k->stream));
}
// all (size, 2) = x (2) of every rank
static void links_gather_two(Links *k, double *all, const double *x) { NCCL_CHECK(ncclAllGather(x, all, 2, ncclFloat64, k->nccl, k->stream)); }
// One small transfer of every kind, since NCCL connects, and takes its buffers, with the first: the plan of what fits comes after this
static void links_connect(Links *k) {
    float *x;
    const int64_t n = (int64_t)k->comm->size * SHARD_MULTIPLE + 8;
    CUDA_CHECK(cudaMalloc((void **)&x, (size_t)n * sizeof(float)));
    CUDA_CHECK(cudaMemsetAsync(x, 0, (size_t)n * sizeof(float), k->stream));
    comm_wait_begin(k->comm, "connecting the GPUs", false);
    links_begin();
    links_reduce(k, x, n, 4);
    links_end();
    links_begin();
    links_gather(k, x, x + shard_begin(k->comm, n), n, 4);
    links_end();
    CUDA_CHECK(cudaStreamSynchronize(k->stream));
    comm_wait_end(k->comm);
    CUDA_CHECK(cudaFree(x));
}
#else
static void links_begin(void) {}
static void links_end(void) {}
static void links_reduce(Links *, void *, int64_t, int) {}
static void links_gather(Links *, void *, const void *, int64_t, int) {}
static void links_gather_two(Links *, double *, const double *) {}
#endif
#endif
