// nccl.cuh: what moves between GPUs: sums of gradients to the rank that owns them, new weights back to all (ZeRO: who owns what stands in
// comm.h). Bound by the links: with P ranks each sends and receives (P-1)/P of the bytes, 4 a parameter for gradients, 2 for weights. All of it runs
// on a stream of its own, under the computation.
//
// Sums are NCCL's: their order depends on the number of ranks and the topology, not on time; the same command gives the same bits. Replicas (hybrid sharding,
// see comm.h) get the same bits of a sum too: in a ring every number is summed along the ring and then handed round, in a tree summed up to the root and
// handed down; nobody adds for himself. That all of them do stay equal state_same of checkpoint.h sees to.
//
// A communicator each for all ranks, for the shard group and for the replicas, all used on the one stream, in the same order on every rank: with
// two streams two of them could wait for each other's blocks on two GPUs for ever. The price: sums among replicas and in the host do not overlap.
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
    Comm *comm, *shard, *replicas;   // all ranks; those that share one copy of the state; those that own what this one owns
    cudaStream_t stream;
#ifdef FINDAP_NCCL
    ncclComm_t nccl, nccl_shard, nccl_replicas;   // NULL: of one rank. The first two may be the same
#endif
} Links;

#ifdef FINDAP_NCCL
static void links_connect(Links *k);
static const char *links_broken(void *links) {   // asked by the watchdog's thread: an error that came after the call that caused it, such as a dead network
    const Links *k = (const Links *)links;
    const ncclComm_t all[] = {k->nccl, k->nccl_shard, k->nccl_replicas};
    for (ncclComm_t c : all) {
        ncclResult_t status = ncclSuccess;
        if (c && ncclCommGetAsyncError(c, &status) == ncclSuccess && status != ncclSuccess && status != ncclInProgress) return ncclGetErrorString(status);
    }
    return NULL;
}
// The ranks' first draws the name of the meeting place, MPI hands it round
static ncclComm_t links_join(Comm *c) {
    ncclUniqueId id;
    ncclComm_t nccl;
    if (c->size == 1) return NULL;
    memset(&id, 0, sizeof id);
    if (c->rank == 0) NCCL_CHECK(ncclGetUniqueId(&id));
    comm_broadcast(c, &id, (int64_t)sizeof id, 0, "NCCL's id");
    comm_wait_begin(c, "ncclCommInitRank", false);
    NCCL_CHECK(ncclCommInitRank(&nccl, c->size, id, c->rank));
    comm_wait_end(c);
    return nccl;
}
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

// Joins the ranks' GPUs.
static void links_create(Links *k, Comm *comm, Comm *shard, Comm *replicas) {
    memset(k, 0, sizeof *k);
    k->comm = comm; k->shard = shard; k->replicas = replicas;
    if (comm->size == 1) return;
#ifdef FINDAP_NCCL
    links_check_devices(comm);
    int least, greatest;
    CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CUDA_CHECK(cudaStreamCreateWithPriority(&k->stream, cudaStreamNonBlocking, greatest));   // its few blocks go before the waiting ones of a GEMM
    k->nccl = links_join(comm);
    k->nccl_shard = shard->size == comm->size ? k->nccl : links_join(shard);
    k->nccl_replicas = links_join(replicas);
    links_connect(k);
    comm_watch_links(comm, links_broken, k);
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
    comm_watch_links(k->comm, NULL, NULL);
    comm_barrier(k->comm, "the end", true);   // nobody's transfer is cut off
    if (k->nccl_replicas) ncclCommAbort(k->nccl_replicas);
    if (k->nccl_shard && k->nccl_shard != k->nccl) ncclCommAbort(k->nccl_shard);
    ncclCommAbort(k->nccl);
    cudaStreamDestroy(k->stream);
#endif
}

#ifdef FINDAP_NCCL
static ncclDataType_t nccl_type(int bytes) { return bytes == 4 ? ncclFloat32 : ncclBfloat16; }
static void links_begin(void) { NCCL_CHECK(ncclGroupStart()); }
static void links_end(void) { NCCL_CHECK(ncclGroupEnd()); }
// x (n) of every rank of the shard group: what this rank owns of it becomes the sum over them, in place; the rest is not to be used any more.
// bytes: 4 fp32, 2 bf16
static void links_reduce(Links *k, void *x, int64_t n, int bytes) {
    const int64_t part = shard_part(k->shard, n), whole = part * k->shard->size;
    char *p = (char *)x;
    if (k->shard->size == 1) return;
    if (part > 0) NCCL_CHECK(ncclReduceScatter(p, p + k->shard->rank * part * bytes, (size_t)part, nccl_type(bytes), ncclSum, k->nccl_shard, k->stream));
    if (n > whole) NCCL_CHECK(ncclReduce(p + whole * bytes, p + whole * bytes, (size_t)(n - whole), nccl_type(bytes), ncclSum, k->shard->size - 1, k->nccl_shard, k->stream));
}
// x (n) = the sum over the replicas
static void links_sum(Links *k, void *x, int64_t n, int bytes) {
    if (k->replicas->size > 1 && n > 0) NCCL_CHECK(ncclAllReduce(x, x, (size_t)n, nccl_type(bytes), ncclSum, k->nccl_replicas, k->stream));
}
// x (n) = what every rank of the shard group owns of it. owned: where this rank's part lies, in x or elsewhere
static void links_gather(Links *k, void *x, const void *owned, int64_t n, int bytes) {
    const int64_t part = shard_part(k->shard, n), whole = part * k->shard->size;
    char *p = (char *)x;
    const bool last = k->shard->rank == k->shard->size - 1;
    if (k->shard->size == 1) return;   // ZeRO-1 only: it is there
    if (part > 0) NCCL_CHECK(ncclAllGather(owned, p, (size_t)part, nccl_type(bytes), k->nccl_shard, k->stream));
    if (n > whole) NCCL_CHECK(ncclBroadcast(last ? (const char *)owned + part * bytes : p + whole * bytes, p + whole * bytes, (size_t)(n - whole), nccl_type(bytes), k->shard->size - 1, k->nccl_shard, k->stream));
}
// all (size, 2) = x (2) of every rank
static void links_gather_two(Links *k, double *all, const double *x) { NCCL_CHECK(ncclAllGather(x, all, 2, ncclFloat64, k->nccl, k->stream)); }
// One transfer of every kind, since NCCL connects, and takes its buffers, with the first: the plan of what fits comes after this. Small ones, but for the
// sum among replicas, which goes by a tree or a ring according to its length: both.
static void links_connect(Links *k) {
    float *x;
    double *totals;
    const int64_t n = (int64_t)k->shard->size * SHARD_MULTIPLE + 8, most = n > 16 << 20 ? n : 16 << 20;
    CUDA_CHECK(cudaMalloc((void **)&x, (size_t)most * sizeof(float)));
    CUDA_CHECK(cudaMalloc((void **)&totals, (size_t)(k->comm->size + 1) * 2 * sizeof(double)));
    CUDA_CHECK(cudaMemsetAsync(x, 0, (size_t)most * sizeof(float), k->stream));
    CUDA_CHECK(cudaMemsetAsync(totals, 0, 2 * sizeof(double), k->stream));
    comm_wait_begin(k->comm, "connecting the GPUs", false);
    links_begin();
    links_reduce(k, x, n, 4);
    links_end();
    links_sum(k, x, 8, 4);
    links_sum(k, x, most, 4);
    links_begin();
    links_gather(k, x, x + shard_begin(k->shard, n), n, 4);
    links_end();
    links_gather_two(k, totals + 2, totals);
    CUDA_CHECK(cudaStreamSynchronize(k->stream));
    comm_wait_end(k->comm);
    CUDA_CHECK(cudaFree(x));
    CUDA_CHECK(cudaFree(totals));
}
#else
static void links_begin(void) {}
static void links_end(void) {}
static void links_reduce(Links *, void *, int64_t, int) {}
static void links_sum(Links *, void *, int64_t, int) {}
static void links_gather(Links *, void *, const void *, int64_t, int) {}
static void links_gather_two(Links *, double *, const double *) {}
#endif
#endif
