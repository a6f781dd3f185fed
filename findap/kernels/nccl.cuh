// nccl.cuh: what moves between GPUs: sums of gradients to the rank that owns them, new weights back to all (ZeRO: who owns what stands in
// comm.h). Bound by the links: with P ranks each sends and receives (P-1)/P of the bytes, 4 a parameter for gradients, 2 for weights. All of it runs
// on a stream of its own, under the computation. Inside a host copy engines move what is large (peers.cuh), NCCL the rest.
//
// Sums by copies are made in rank order; the order of NCCL's depends on the number of ranks and the topology, not on time: the same command gives the same bits. Replicas
// (hybrid sharding, see comm.h), which NCCL alone sums, get the same bits too: in a ring every number is summed along the ring and then handed round, in a tree summed up to the root and
// handed down; nobody adds for himself. That all of them do stay equal state_same of checkpoint.h sees to.
//
// A communicator each for all ranks, for the shard group and for the replicas, all used on the one stream, in the same order on every rank: with
// two streams two of them could wait for each other's blocks on two GPUs for ever. The price: sums among replicas and in the host do not overlap.
#ifndef FINDAP_KERNELS_NCCL_CUH
#define FINDAP_KERNELS_NCCL_CUH
#include "cuda.cuh"        // defines: CUDA_CHECK, real
#include "peers.cuh"       // defines: Peers, PeerTensor, peers_*
#include "findap/comm.h"   // defines: Comm, comm_broadcast, shard_part
#ifdef FINDAP_NCCL
#include <nccl.h>          // defines: nccl*
#define NCCL_CHECK(call) do { ncclResult_t status_ = (call); \
    if (status_ != ncclSuccess) die("%s:%d: %s: %s ---> NCCL_DEBUG=INFO tells more", __FILE__, __LINE__, #call, ncclGetErrorString(status_)); } while (0)
#endif

enum { LINKS_MOST = 64 };
typedef struct { void *x; const void *owned; int64_t n; } LinkTensor;   // owned: where this rank's part lies, in x or elsewhere
typedef struct {
    Comm *comm, *shard, *replicas;   // all ranks; those that share one copy of the state; those that own what this one owns
    cudaStream_t stream;
    LinkTensor taken[LINKS_MOST];    // what the next call moves
    int num_taken;
    bool copies;                     // peers.cuh moves what has copies_worth bytes and more, but for sums of replicas and ZeRO-3's layers
    int64_t copies_worth;
    Peers peers;
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

// Joins the ranks' GPUs. how: "auto" or NULL; "nccl" for everything; "copies" for however little can be had by them. notes: what became of it, for the log
static void links_create(Links *k, Comm *comm, Comm *shard, Comm *replicas, const char *how, char *notes, size_t notes_size) {
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
    const bool wanted = how && strcmp(how, "copies") == 0;
    Error e;
    if (how && strcmp(how, "nccl") == 0) fail(&e, "--links nccl");
    else if (shard->size == 1) fail(&e, "one rank has all of the state");
    else k->copies = peers_begin(&k->peers, shard, !wanted, k->stream, &e);
    if (wanted && !k->copies) die("--links copies is not possible (%s) ---> --links auto takes NCCL then", e.text);
    k->copies_worth = wanted ? 0 : PEERS_WORTH;
    const size_t used = strlen(notes);
    if (k->copies) snprintf(notes + used, notes_size - used, "links: copy engines among %d GPUs, NCCL below %.0f MiB\n", shard->size, (double)k->copies_worth / (1 << 20));
    else snprintf(notes + used, notes_size - used, "links: NCCL (%s)\n", e.text);
#else
    (void)how; (void)notes; (void)notes_size;
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
    if (k->copies) peers_end(&k->peers, k->shard);
    comm_barrier(k->comm, "the end", true);   // nobody's transfer is cut off
    if (k->nccl_replicas) ncclCommAbort(k->nccl_replicas);
    if (k->nccl_shard && k->nccl_shard != k->nccl) ncclCommAbort(k->nccl_shard);
    ncclCommAbort(k->nccl);
    cudaStreamDestroy(k->stream);
#endif
}

#ifdef FINDAP_NCCL
static ncclDataType_t nccl_type(int bytes) { return bytes == 4 ? ncclFloat32 : ncclBfloat16; }
// Lets the ranks' copy engines read these arrays (cudaMalloc's; bytes[i] at x[i], the same on every rank). notes: as links_create's. Collective.
static void links_open(Links *k, void *const *x, const int64_t *bytes, int n, char *notes, size_t notes_size) {
    Error e;
    for (int i = 0; i < n && k->copies; i++) {
        if (peers_open(&k->peers, k->shard, x[i], bytes[i], &e)) continue;
        if (k->copies_worth == 0) die("--links copies is not possible (%s) ---> --links auto takes NCCL then", e.text);
        if (k->shard->rank == 0) warn("arrays could not be opened to the other GPUs (%s): NCCL moves everything", e.text);
        const size_t used = strlen(notes);
        snprintf(notes + used, notes_size - used, "links: NCCL after all (%s)\n", e.text);
        peers_end(&k->peers, k->shard);
        k->copies = false;
    }
}
// a tensor x (n) for the next links_reduce, links_sum or links_gather
static void links_take(Links *k, void *x, const void *owned, int64_t n) {
    CHECK(k->num_taken < LINKS_MOST);
    k->taken[k->num_taken++] = {x, owned, n};
}
// Are the taken tensors for the copy engines? Then t is what peers.cuh wants to know of them. Owned parts must lie in x (ZeRO-3's weights do not). The same answer on every rank.
static bool links_by_copies(const Links *k, PeerTensor *t, int bytes) {
    int64_t all = 0;
    if (!k->copies) return false;
    for (int i = 0; i < k->num_taken; i++) {
        const LinkTensor *l = &k->taken[i];
        const int64_t begin = shard_begin(k->shard, l->n);
        t[i] = {l->x, l->n, begin, shard_end(k->shard, l->n) - begin};
        all += l->n * bytes;
        if ((const char *)l->owned != (const char *)l->x + begin * bytes || l->n * bytes % 16 != 0 || (intptr_t)l->x % 16 != 0 || !peer_address(&k->peers, l->x, k->shard->rank)) return false;
    }
    return k->num_taken > 0 && all >= k->copies_worth;
}
// Of the taken tensors, of every rank of the shard group: what this rank owns becomes the sum over them, in place; the rest is not to be used any more.
// bytes: 4 fp32, 2 bf16. touched, or NULL: of the one tensor taken (V, C), rows v without touched[v] are zero on this rank
static void links_reduce(Links *k, int bytes, const uint8_t *touched, int64_t C) {
    PeerTensor t[LINKS_MOST];
    if (k->shard->size > 1 && links_by_copies(k, t, bytes)) {
        if (touched) peers_reduce_rows(&k->peers, t, C, touched, bytes, k->stream);
        else peers_reduce(&k->peers, t, k->num_taken, bytes, k->stream);
    }
    else if (k->shard->size > 1) {
        NCCL_CHECK(ncclGroupStart());
        for (int i = 0; i < k->num_taken; i++) {   // what is left over of equal parts belongs to the last rank
            const int64_t n = k->taken[i].n, part = shard_part(k->shard, n), whole = part * k->shard->size;
            char *p = (char *)k->taken[i].x;
            if (part > 0) NCCL_CHECK(ncclReduceScatter(p, p + k->shard->rank * part * bytes, (size_t)part, nccl_type(bytes), ncclSum, k->nccl_shard, k->stream));
            if (n > whole) NCCL_CHECK(ncclReduce(p + whole * bytes, p + whole * bytes, (size_t)(n - whole), nccl_type(bytes), ncclSum, k->shard->size - 1, k->nccl_shard, k->stream));
        }
        NCCL_CHECK(ncclGroupEnd());
    }
    k->num_taken = 0;
}
// taken x (n) = the sum over the replicas
static void links_sum(Links *k, int bytes) {
    NCCL_CHECK(ncclGroupStart());
    for (int i = 0; i < k->num_taken && k->replicas->size > 1; i++)
        if (k->taken[i].n > 0) NCCL_CHECK(ncclAllReduce(k->taken[i].x, k->taken[i].x, (size_t)k->taken[i].n, nccl_type(bytes), ncclSum, k->nccl_replicas, k->stream));
    NCCL_CHECK(ncclGroupEnd());
    k->num_taken = 0;
}
// taken x (n) = what every rank of the shard group owns of it
static void links_gather(Links *k, int bytes) {
    PeerTensor t[LINKS_MOST];
    if (k->shard->size > 1 && links_by_copies(k, t, bytes)) peers_gather(&k->peers, t, k->num_taken, bytes, k->shard, k->stream);
    else if (k->shard->size > 1) {   // one rank has ZeRO-1 only: it is there
        const bool last = k->shard->rank == k->shard->size - 1;
        NCCL_CHECK(ncclGroupStart());
        for (int i = 0; i < k->num_taken; i++) {
            const int64_t n = k->taken[i].n, part = shard_part(k->shard, n), whole = part * k->shard->size;
            const char *owned = (const char *)k->taken[i].owned;
            char *p = (char *)k->taken[i].x;
            if (part > 0) NCCL_CHECK(ncclAllGather(owned, p, (size_t)part, nccl_type(bytes), k->nccl_shard, k->stream));
            if (n > whole) NCCL_CHECK(ncclBroadcast(last ? owned + part * bytes : p + whole * bytes, p + whole * bytes, (size_t)(n - whole), nccl_type(bytes), k->shard->size - 1, k->nccl_shard, k->stream));
        }
        NCCL_CHECK(ncclGroupEnd());
    }
    k->num_taken = 0;
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
    links_take(k, x, x + shard_begin(k->shard, n), n);
    links_reduce(k, 4, NULL, 0);
    links_take(k, x, NULL, 8);
    links_sum(k, 4);
    links_take(k, x, NULL, most);
    links_sum(k, 4);
    links_take(k, x, x + shard_begin(k->shard, n), n);
    links_gather(k, 4);
    links_gather_two(k, totals + 2, totals);
    CUDA_CHECK(cudaStreamSynchronize(k->stream));
    comm_wait_end(k->comm);
    CUDA_CHECK(cudaFree(x));
    CUDA_CHECK(cudaFree(totals));
}
#else
static void links_open(Links *, void *const *, const int64_t *, int, char *, size_t) {}
static void links_take(Links *, void *, const void *, int64_t) {}
static void links_reduce(Links *, int, const uint8_t *, int64_t) {}
static void links_sum(Links *, int) {}
static void links_gather(Links *, int) {}
static void links_gather_two(Links *, double *, const double *) {}
#endif
#endif
