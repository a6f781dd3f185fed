// comm.h: the processes of one job, and what they say to each other on the host: one process a rank, started by mpirun or srun. MPI carries it;
// without MPI, or when the program was started alone, there is one rank and every function returns at once. On GPUs NCCL and
// copy engines move gradients and weights (findap/kernels/nccl.cuh); the CPU twin moves them here too.
//
// Every function but comm_abort is collective: all ranks call it, in the same order. Sums are made in rank order on every rank, so all ranks get the
// same bits and take the same decisions: a loop that branches on them cannot fall apart.
//
// A Comm is all ranks of the job, or a group of them (comm_group), in which ranks are counted from 0 again; every function takes either.
//
// A rank that is gone or hangs. When a process dies, mpirun and srun end the others. When one hangs, the others wait in a collective: a watchdog
// thread sees that a wait has lasted longer than `deadline` seconds, says so, and ends the job with MPI_Abort. Waits that may rightly be long (one rank
// writes a file, the others wait) are marked patient, and last as long as they like. But a process that is stopped is noticed whatever the others do: the watchdogs of a
// host's ranks count in memory that they share, and one that no longer counts for `deadline` seconds ends the job too.
#ifndef FINDAP_COMM_H
#define FINDAP_COMM_H
#include "common.h"    // defines: die, fail, Error
#include <pthread.h>
#ifdef FINDAP_MPI
#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>       // defines: MPI_*
#endif

typedef struct { volatile uint32_t beat; int32_t rank, process; uint32_t said; } CommBeat;   // a rank's, which its watchdog counts up. said, of the host's first: why the job ends has been said
#define COMM_ENDED UINT32_MAX   // a beat: it does not count any more, rightly
typedef struct Comm Comm;
struct Comm {
    int rank, size, local_rank;      // local_rank: among the ranks of this host
    int host;                        // the job's rank of the first process on this host
    int first, stride;               // rank k here is rank first + k * stride of the job (comm_job_rank)
    Comm *job;                       // of a group: all ranks, whose watchdog watches the group's waits too; else NULL
#ifdef FINDAP_MPI
    MPI_Comm mpi;
#endif
    bool parallel, watched;          // MPI was started; the watchdog was
    double deadline;                 // seconds that a wait may last, 0: for ever
    // the watchdog's: when the wait now in progress began (0: none, or a patient one), and what for
    pthread_t watchdog;
    volatile double waiting_since;
    const char *volatile waiting_for;
    volatile bool ending;
    CommBeat *beats;                 // (num_beats) of this host's ranks; NULL: no memory to share, one rank
    int num_beats;
    // what else the watchdog asks: are the links of the GPUs broken? Returns why, NULL: they are not. Both under `lock`, see comm_watch_links
    const char *(*broken)(void *links);
    void *links;
    pthread_mutex_t lock;
};
FN int comm_job_rank(const Comm *c, int k) { return c->first + k * c->stride; }

__attribute__((noreturn)) FN void comm_abort(const Comm *c, int status) {
    fflush(NULL);
#ifdef FINDAP_MPI
    if (c->parallel) MPI_Abort(MPI_COMM_WORLD, status);
#endif
    (void)c;
    _exit(status);
}

#ifdef FINDAP_MPI
// Memory that the ranks of a host share, for their beats. Collective over `host`; NULL on all of them where one cannot
FN CommBeat *comm_share_beats(MPI_Comm host, int rank, int size) {
    char path[64] = "";
    int fd = -1, good, all = 0;
    const size_t bytes = (size_t)size * sizeof(CommBeat);
    if (rank == 0) {
        snprintf(path, sizeof path, "/dev/shm/findap.%d.XXXXXX", (int)getpid());
        if ((fd = mkstemp(path)) < 0 || ftruncate(fd, (off_t)bytes) != 0) { if (fd >= 0) unlink(path); path[0] = 0; }
    }
    MPI_Bcast(path, (int)sizeof path, MPI_CHAR, 0, host);
    if (rank != 0 && path[0]) fd = open(path, O_RDWR | O_CLOEXEC);
    void *beats = fd >= 0 && path[0] ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    good = beats != MAP_FAILED;
    MPI_Allreduce(&good, &all, 1, MPI_INT, MPI_MIN, host);
    if (rank == 0 && path[0]) unlink(path);   // who has mapped it keeps it
    if (fd >= 0) close(fd);
    if (good && !all) munmap(beats, bytes);
    return all ? (CommBeat *)beats : NULL;
}
// The end, by a watchdog: one of a host's ranks says why and ends the job, the others wait for that.
FN void comm_give_up(Comm *c, const char *why) {
    if (!c->beats || __sync_bool_compare_and_swap(&c->beats[0].said, 0u, 1u)) fprintf(stderr, "%s: error: %s\n", program_name, why);
    else sleep(5);
    comm_abort(c, 1);
}
// One turn of a watchdog, `passed` seconds after the last: counts, and looks at the others of this host. still (num_beats): seconds since each last counted, seen: its count then.
// Gives the most of these seconds; a process that has stopped for longer than the deadline ends the job.
FN double comm_look_around(Comm *c, uint32_t *seen, double *still, double passed) {
    double most = 0;
    int worst = 0;
    char why[512];
    if (!c->beats) return 0;
    c->beats[c->local_rank].beat++;
    for (int k = 0; k < c->num_beats; k++) {
        const uint32_t beat = c->beats[k].beat;
        still[k] = k == c->local_rank || beat == COMM_ENDED || beat != seen[k] ? 0 : still[k] + passed;
        seen[k] = beat;
        if (still[k] > most) { most = still[k]; worst = k; }
    }
    if (c->deadline > 0 && most > c->deadline) {
        snprintf(why, sizeof why, "rank %d (process %d of its host) has stood still for %.0f s: it hangs, was stopped or is gone; the job ends ---> the same command with --resume goes on from the last checkpoint; "
                                  "--watchdog sets the time", c->beats[worst].rank, c->beats[worst].process, most);
        comm_give_up(c, why);
    }
    return most;
}
FN void *comm_watch(void *argument) {
    Comm *c = (Comm *)argument;
    double since = 0, waited = 0, *still = (double *)xcalloc(c->num_beats + 1, sizeof(double));
    uint32_t *seen = (uint32_t *)xcalloc(c->num_beats + 1, sizeof(uint32_t));
    char text[1024];
    while (!c->ending) {
        usleep(200000);
        const bool stopped = comm_look_around(c, seen, still, 0.2) > 1;
        pthread_mutex_lock(&c->lock);
        const char *why = c->broken ? c->broken(c->links) : NULL;
        pthread_mutex_unlock(&c->lock);
        if (why) {
            snprintf(text, sizeof text, "rank %d: the links to other GPUs are broken (%s); the job ends ---> NCCL_DEBUG=INFO tells more; the same command with --resume goes on from the last checkpoint", c->rank, why);
            comm_give_up(c, text);
        }
        double now = c->waiting_since;
        waited = now > 0 && now == since ? waited + 0.2 : 0;   // in this thread's own time: a job that was suspended has not waited
        since = now;
        if (c->deadline > 0 && waited > c->deadline && !stopped) {   // a process that was stopped is about to be named
            snprintf(text, sizeof text, "rank %d has waited %.0f s for the others (%s): a rank hangs, or a machine or link is gone; the job ends ---> the same command with --resume goes on from the last checkpoint; "
                                        "--watchdog sets the time", c->rank, waited, c->waiting_for ? c->waiting_for : "?");
            comm_give_up(c, text);
        }
    }
    free(seen); free(still);
    return NULL;
}
// From now on the watchdog asks broken(links) five times a second; broken NULL: no more, and it is not asking now either
FN void comm_watch_links(Comm *c, const char *(*broken)(void *), void *links) {
    pthread_mutex_lock(&c->lock);
    c->broken = broken; c->links = links;
    pthread_mutex_unlock(&c->lock);
}
FN void comm_die(int status) { MPI_Abort(MPI_COMM_WORLD, status); }
#endif
// a wait for other ranks begins, ends. `patient`: it may last as long as it likes
FN void comm_wait_begin(Comm *c, const char *what, bool patient) {
    if (c->job) c = c->job;
    c->waiting_for = what;
    c->waiting_since = patient ? 0 : seconds_now();
}
FN void comm_wait_end(Comm *c) { (c->job ? c->job : c)->waiting_since = 0; }

FN int comm_environment(const char *const *names) {   // the first of them that is set, -1: none
    for (; *names; names++) if (getenv(*names)) return atoi(getenv(*names));
    return -1;
}

// Joins the job that started this process. Ranks that a launcher started without MPI being compiled in would each do the whole work: an error.
FN bool comm_begin(Comm *c, double deadline, Error *e) {
    static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "SLURM_STEP_NUM_TASKS", NULL};
    memset(c, 0, sizeof *c);
    c->size = c->stride = 1;
    c->deadline = deadline;
    int size = comm_environment(sizes);
    if (size <= 1) return true;
#ifdef FINDAP_MPI
    int provided = 0;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) return fail(e, "MPI_Init_thread failed ---> is the program started by the mpirun of the MPI it was built with?");
    c->mpi = MPI_COMM_WORLD;
    MPI_Comm_rank(c->mpi, &c->rank);
    MPI_Comm_size(c->mpi, &c->size);
    c->parallel = true;
    if (c->size != size) return fail(e, "the launcher started %d processes, MPI knows %d ---> start it with the mpirun of the MPI it was built with (Slurm: srun --mpi=pmix)", size, c->size);
    die_with = comm_die;
    MPI_Comm host;
    MPI_Comm_split_type(c->mpi, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &host);
    MPI_Comm_rank(host, &c->local_rank);
    c->host = c->rank;
    MPI_Bcast(&c->host, 1, MPI_INT, 0, host);
    MPI_Comm_size(host, &c->num_beats);
    c->beats = comm_share_beats(host, c->local_rank, c->num_beats);
    if (c->beats) { c->beats[c->local_rank].rank = c->rank; c->beats[c->local_rank].process = (int32_t)getpid(); }
    MPI_Comm_free(&host);
    pthread_mutex_init(&c->lock, NULL);
    c->watched = pthread_create(&c->watchdog, NULL, comm_watch, c) == 0;
    return c->watched || fail(e, "the watchdog thread could not be started: %s", strerror(errno));
#else
    return fail(e, "started as one of %d processes, but built without MPI ---> install OpenMPI's development files and build again, or start it alone", size);
#endif
}
// Every rank must come here; after an error that only one rank has seen, comm_abort instead.
FN void comm_end(Comm *c) {
#ifdef FINDAP_MPI
    if (!c->parallel) return;
    c->ending = true;
    if (c->watched) pthread_join(c->watchdog, NULL);
    if (c->beats) c->beats[c->local_rank].beat = COMM_ENDED;
    MPI_Finalize();
    if (c->beats) munmap(c->beats, (size_t)c->num_beats * sizeof(CommBeat));
    c->beats = NULL;
    c->parallel = c->watched = false;
    die_with = NULL;
#endif
    (void)c;
}

// The group g of `size` ranks first, first + stride, ... of c, to which this rank belongs. Collective over c: every rank names a group of its own.
FN void comm_group(Comm *c, Comm *g, int first, int stride, int size) {
    memset(g, 0, sizeof *g);
    g->rank = (c->rank - first) / stride;
    g->size = size;
    g->local_rank = c->local_rank; g->host = c->host;
    g->first = first; g->stride = stride;
    g->job = c;
    g->parallel = c->parallel;
#ifdef FINDAP_MPI
    if (!c->parallel) return;
    comm_wait_begin(c, "forming groups of ranks", false);
    MPI_Comm_split(c->mpi, first, c->rank, &g->mpi);
    comm_wait_end(c);
#endif
}

FN void comm_barrier(Comm *c, const char *what, bool patient) {
#ifdef FINDAP_MPI
    if (!c->parallel) return;
    comm_wait_begin(c, what, patient);
    MPI_Barrier(c->mpi);
    comm_wait_end(c);
#endif
    (void)c; (void)what; (void)patient;
}

// n bytes of rank `root` to all
FN void comm_broadcast(Comm *c, void *bytes, int64_t n, int root, const char *what) {
#ifdef FINDAP_MPI
    if (!c->parallel) return;
    comm_wait_begin(c, what, false);
    for (int64_t done = 0; done < n; done += 1 << 30)   // MPI counts in int
        MPI_Bcast((char *)bytes + done, (int)(n - done < 1 << 30 ? n - done : 1 << 30), MPI_BYTE, root, c->mpi);
    comm_wait_end(c);
#endif
    (void)c; (void)bytes; (void)n; (void)root; (void)what;
}

// two numbers of rank 0 to all, which may wait for them as long as it takes: what a rank that works alone asks of the others
FN void comm_request(Comm *c, int64_t x[2]) {
#ifdef FINDAP_MPI
    if (!c->parallel) return;
    comm_wait_begin(c, "rank 0's request", true);
    MPI_Bcast(x, 2, MPI_INT64_T, 0, c->mpi);
    comm_wait_end(c);
#endif
    (void)c; (void)x;
}

// x (n) of every rank, one behind the other, on every rank: all (size, n)
FN void comm_gather_bytes(Comm *c, const void *x, void *all, int64_t n, const char *what, bool patient) {
#ifdef FINDAP_MPI
    if (c->parallel) {
        CHECK(n <= 1 << 30);
        comm_wait_begin(c, what, patient);
        MPI_Allgather(x, (int)n, MPI_BYTE, all, (int)n, MPI_BYTE, c->mpi);
        comm_wait_end(c);
        return;
    }
#endif
    (void)c; (void)what; (void)patient;
    memcpy(all, x, (size_t)n);
}

// x[i] = the sum over all ranks, in rank order
FN void comm_sum_f64(Comm *c, double *x, int64_t n, const char *what) {
    if (c->size <= 1) return;
    double *all = (double *)xmalloc(n * c->size * (int64_t)sizeof(double));
    comm_gather_bytes(c, x, all, n * (int64_t)sizeof(double), what, false);
    for (int64_t i = 0; i < n; i++) {
        x[i] = 0;
        for (int r = 0; r < c->size; r++) x[i] += all[r * n + i];
    }
    free(all);
}
FN void comm_sum_i64(Comm *c, int64_t *x, int64_t n, const char *what) {
    if (c->size <= 1) return;
    int64_t *all = (int64_t *)xmalloc(n * c->size * (int64_t)sizeof(int64_t));
    comm_gather_bytes(c, x, all, n * (int64_t)sizeof(int64_t), what, false);
    for (int64_t i = 0; i < n; i++) {
        x[i] = 0;
        for (int r = 0; r < c->size; r++) x[i] += all[r * n + i];
    }
    free(all);
}
FN int64_t comm_max_i64(Comm *c, int64_t x, const char *what) {
    if (c->size <= 1) return x;
    int64_t *all = (int64_t *)xmalloc(c->size * (int64_t)sizeof(int64_t)), most = x;
    comm_gather_bytes(c, &x, all, (int64_t)sizeof x, what, false);
    for (int r = 0; r < c->size; r++) if (all[r] > most) most = all[r];
    free(all);
    return most;
}

// Did it go well on every rank? If not, all of them get the error of the first rank that has one. Patient: what went before may take long.
FN bool comm_agree(Comm *c, bool ok, Error *e, const char *what) {
    if (c->size <= 1) return ok;
    typedef struct { Error e; int bad; } Report;
    Report mine, *all = (Report *)xmalloc(c->size * (int64_t)sizeof(Report));
    memset(&mine, 0, sizeof mine);
    mine.bad = !ok;
    if (!ok && e) mine.e = *e;
    comm_gather_bytes(c, &mine, all, (int64_t)sizeof mine, what, true);
    bool good = true;
    for (int r = c->size - 1; r >= 0; r--) {
        if (!all[r].bad) continue;
        good = false;
        if (e) *e = all[r].e;
    }
    free(all);
    return good;
}

// Is x (n bytes: a hash of all that must be the same) what rank 0 has, on every rank? If not, all get the error
FN bool comm_same(Comm *c, const void *x, int64_t n, Error *e) {
    if (c->size <= 1) return true;
    char *all = (char *)xmalloc(n * c->size);
    comm_gather_bytes(c, x, all, n, "comparing the ranks' settings", true);
    int other = 0;
    for (int r = c->size - 1; r > 0; r--) if (memcmp(all, all + r * n, (size_t)n) != 0) other = r;
    free(all);
    return other == 0 || fail(e, "rank %d has another program, model, data, recipe or flags than rank 0 ---> give every host the same files and every rank the same command", other);
}

// ---------------------------------------------------------------------------------------------------------------
// for the CPU twin: fp32 arrays, `part` numbers a rank

// x (n) of rank `root` = the sum over all ranks, in rank order; the other ranks' x stays
FN void comm_reduce_f32(Comm *c, float *x, int64_t n, int root, const char *what) {
#ifdef FINDAP_MPI
    if (c->size == 1 || n == 0) return;
    CHECK(n * 4 <= 1 << 30);
    float *all = c->rank == root ? (float *)xmalloc(n * c->size * 4) : NULL;
    comm_wait_begin(c, what, false);
    MPI_Gather(x, (int)n, MPI_FLOAT, all, (int)n, MPI_FLOAT, root, c->mpi);
    comm_wait_end(c);
    for (int64_t i = 0; all && i < n; i++) {
        float sum = all[i];
        for (int r = 1; r < c->size; r++) sum += all[r * n + i];
        x[i] = sum;
    }
    free(all);
#endif
    (void)c; (void)x; (void)n; (void)root; (void)what;
}
// x (size, part): part `rank` of it becomes the sum over all ranks, in rank order; the other parts are lost
FN void comm_reduce_scatter_f32(Comm *c, float *x, int64_t part, const char *what) {
#ifdef FINDAP_MPI
    if (c->size == 1 || part == 0) return;
    if (part * 4 > 1 << 28) {   // MPI counts in int
        for (int r = 0; r < c->size; r++)
            for (int64_t done = 0; done < part; done += 1 << 26) comm_reduce_f32(c, x + r * part + done, part - done < 1 << 26 ? part - done : 1 << 26, r, what);
        return;
    }
    float *all = (float *)xmalloc(part * c->size * 4);
    comm_wait_begin(c, what, false);
    MPI_Alltoall(x, (int)part, MPI_FLOAT, all, (int)part, MPI_FLOAT, c->mpi);   // and not MPI_Reduce_scatter, whose order is its own affair
    comm_wait_end(c);
    float *mine = x + c->rank * part;
    for (int64_t i = 0; i < part; i++) {
        float sum = all[i];
        for (int r = 1; r < c->size; r++) sum += all[r * part + i];
        mine[i] = sum;
    }
    free(all);
#endif
    (void)c; (void)x; (void)part; (void)what;
}
// x (size, part): every rank gives its part, and gets the others'
FN void comm_all_gather_f32(Comm *c, float *x, int64_t part, const char *what) {
#ifdef FINDAP_MPI
    if (c->size == 1 || part == 0) return;
    if (part * 4 > 1 << 28) {   // MPI counts in int
        for (int r = 0; r < c->size; r++) comm_broadcast(c, x + r * part, part * 4, r, what);
        return;
    }
    comm_wait_begin(c, what, false);
    MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, x, (int)part, MPI_FLOAT, c->mpi);
    comm_wait_end(c);
#endif
    (void)c; (void)x; (void)part; (void)what;
}

// x (n) = the sum over all ranks. Every number is summed on one rank and its bits are sent to the others: all have the same.
FN void comm_sum_f32(Comm *c, float *x, int64_t n, const char *what) {
    int64_t part = n / c->size, whole = part * c->size;
    comm_reduce_scatter_f32(c, x, part, what);
    comm_all_gather_f32(c, x, part, what);
    comm_reduce_f32(c, x + whole, n - whole, 0, what);
    comm_broadcast(c, x + whole, (n - whole) * (int64_t)sizeof(float), 0, what);
}

// ---------------------------------------------------------------------------------------------------------------
// ZeRO (Rajbhandari et al. 2020): which numbers of a tensor belong to which rank - its optimizer state, its share of the gradient's sum, its slice in
// a checkpoint. Every tensor of every layer is cut into `size` parts of `part` numbers, a multiple of 256 (a block of the 8-bit
// moments); what is left over belongs to the last rank.
//
// Hybrid sharding (--shard-ranks S; ZeRO++'s, FSDP's HYBRID_SHARD): the cut is among S ranks that stand together, normally those of a host, and
// c below is that group; as many whole copies of the state as there are groups. Rank r is number r % S of shard group r / S; the ranks with the same number
// own the same numbers, and are each other's replicas:
//
//     8 ranks, S = 4     shard groups  0 1 2 3 | 4 5 6 7     replicas  0 4 | 1 5 | 2 6 | 3 7
//
// Gradients are summed in the shard group, and once a step among replicas what is left, 1/S of them; weights are gathered in the shard group only. What crosses
// hosts is 1/S of what ZeRO over all would send in every micro-batch. Replicas never exchange weights: they stay equal because each makes the same update
// from the same bits (state_same of checkpoint.h looks).

enum { SHARD_MULTIPLE = 256 };
FN int64_t shard_part(const Comm *c, int64_t n) { return c->size == 1 ? n : n / ((int64_t)c->size * SHARD_MULTIPLE) * SHARD_MULTIPLE; }
FN int64_t shard_begin(const Comm *c, int64_t n) { return c->rank * shard_part(c, n); }
FN int64_t shard_end(const Comm *c, int64_t n) { return c->rank == c->size - 1 ? n : (c->rank + 1) * shard_part(c, n); }

// the first rank whose shard group of `size` ranks lies on more than one host, -1: none. hosts: of all ranks (Comm.host)
FN int shard_astride(const int *hosts, int ranks, int size) {
    for (int r = 0; r < ranks; r++) if (hosts[r] != hosts[r / size * size]) return r;
    return -1;
}

// all of a tensor x (n) on every rank, each of which has put what it owns of it in its place
FN void comm_gather_tensor_f32(Comm *c, float *x, int64_t n) {
    int64_t part = shard_part(c, n), whole = part * c->size;
    comm_all_gather_f32(c, x, part, "weights");
    comm_broadcast(c, x + whole, (n - whole) * (int64_t)sizeof(float), c->size - 1, "weights");
}

#endif
