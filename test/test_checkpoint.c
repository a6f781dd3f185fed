// test_checkpoint.c: checkpoints of several ranks. Saved by R and resumed by S for all R, S up to 4 (and some odd ones) bit for bit, each rank
// reading only its own; every failing or deadly system call of a save, with test/fail_shim.c; damaged and lying files; a save that
// goes on while the model changes; replicas, which write each number once and are found out when they have drifted apart.
//
// The ranks are threads: the five collectives of comm.h that checkpoint.h uses are replaced by ones over shared memory. One test runs real
// processes under mpirun. The model is numbers only: number i of a tensor is a function of the step, so anyone can check it.
#ifndef FINDAP_COMMIT
#define FINDAP_COMMIT "test"
#endif
#ifdef TEST_PROCESSES   // compiled by test_processes below
#define FINDAP_MPI 1
#endif
#include "findap/comm.h"
#include "findap/model.h"
#include "findap/model_dir.h"
#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>

#ifndef TEST_PROCESSES
enum { MOST_RANKS = 8 };
typedef struct { pthread_barrier_t barrier; const void *at[MOST_RANKS]; } Job;
static _Thread_local Job *job;

// c may be a group: all groups call at the same time, so the one barrier does
static void thread_gather(Comm *c, const void *x, void *all, int64_t n) {
    if (comm_job_rank(c, c->size - 1) >= MOST_RANKS) abort();
    job->at[comm_job_rank(c, c->rank)] = x;
    pthread_barrier_wait(&job->barrier);
    for (int r = 0; r < c->size && n; r++) memcpy((char *)all + r * n, job->at[comm_job_rank(c, r)], (size_t)n);
    pthread_barrier_wait(&job->barrier);
}
static void thread_broadcast(Comm *c, void *x, int64_t n, int root) {
    job->at[c->rank] = x;
    pthread_barrier_wait(&job->barrier);
    if (c->rank != root && n) memcpy(x, job->at[root], (size_t)n);
    pthread_barrier_wait(&job->barrier);
}
static int64_t thread_reduce(Comm *c, int64_t x, bool sum) {
    int64_t all[MOST_RANKS] = {0}, r = 0;
    thread_gather(c, &x, all, (int64_t)sizeof x);
    for (int i = 0; i < c->size; i++) r = sum ? r + all[i] : i == 0 || all[i] > r ? all[i] : r;
    return r;
}
static void thread_sum(Comm *c, int64_t *x, int64_t n) { for (int64_t i = 0; i < n; i++) x[i] = thread_reduce(c, x[i], true); }
static bool thread_agree(Comm *c, bool ok, Error *e) {
    typedef struct { Error e; bool ok; } Report;
    Report mine, *all = (Report *)xcalloc(c->size, sizeof(Report));
    memset(&mine, 0, sizeof mine);
    mine.ok = ok;
    if (!ok && e) mine.e = *e;
    thread_gather(c, &mine, all, (int64_t)sizeof mine);
    for (int r = c->size - 1; r >= 0; r--) if (!all[r].ok) { ok = false; if (e) *e = all[r].e; }
    free(all);
    return ok;
}
#define comm_gather_bytes(c, x, all, n, what, patient) thread_gather(c, x, all, n)
#define comm_broadcast(c, x, n, root, what) thread_broadcast(c, x, n, root)
#define comm_max_i64(c, x, what) thread_reduce(c, x, false)
#define comm_sum_i64(c, x, n, what) thread_sum(c, x, n)
#define comm_agree(c, ok, e, what) thread_agree(c, ok, e)

// what the tests want to see or to spoil of checkpoint.h's calls
static _Thread_local int64_t read_bytes;
static _Thread_local ino_t read_files[16];
static _Thread_local int num_read_files;
static const char *fsync_fails_for;   // part of a path; with __atomic, as the next two
static int gate_closed, disk_full, disk_lies;

static ssize_t seen_pread(int fd, void *p, size_t n, off_t at) {
    struct stat st;
    if (fstat(fd, &st) != 0) return -1;
    int i = 0;
    while (i < num_read_files && read_files[i] != st.st_ino) i++;
    if (i == num_read_files && i < 16) read_files[num_read_files++] = st.st_ino;
    read_bytes += (int64_t)n;
    return pread(fd, p, n, at);
}
static int spoiled_fsync(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    const char *part = __atomic_load_n(&fsync_fails_for, __ATOMIC_ACQUIRE);
    if (part && strstr(path, part)) { errno = EIO; return -1; }
    return fsync(fd);
}
static ssize_t gated_write(int fd, const void *p, size_t n) {
    while (__atomic_load_n(&gate_closed, __ATOMIC_ACQUIRE)) usleep(200);
    if (!disk_lies) return write(fd, p, n);
    char *other = (char *)xmalloc((int64_t)n);   // as many bytes, one of them another
    memcpy(other, p, n);
    other[n / 2] ^= 1;
    ssize_t k = write(fd, other, n);
    free(other);
    return k;
}
static int small_statvfs(const char *path, struct statvfs *s) {
    int r = statvfs(path, s);
    if (__atomic_load_n(&disk_full, __ATOMIC_ACQUIRE)) s->f_bavail = 0;
    return r;
}
#define pread seen_pread
#define fsync spoiled_fsync
#define write gated_write
#define statvfs(path, s) small_statvfs(path, s)
#endif
#include "findap/checkpoint.h"
#undef pread
#undef fsync
#undef write
#undef statvfs
#include "check.h"
#include "scratch.h"

static char fast[64] = "/dev/shm/findap_test_XXXXXX";   // where syncing costs nothing: there are 2,000 saves here, and none sees a power cut
static int setup_fast(void **state) {
    if (setup(state) != 0) return -1;
    if (!mkdtemp(fast)) snprintf(fast, sizeof fast, "%s", directory);
    return 0;
}
static int teardown_fast(void **state) { remove_tree(fast); return teardown(state); }

// for the ranks' threads, where cmocka's own cannot be used
#define MUST(condition, ...) do { if (!(condition)) { fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); fprintf(stderr, __VA_ARGS__); fprintf(stderr, "\n"); fflush(NULL); _exit(99); } } while (0)

// ---------------------------------------------------------------------------------------------------------------
// a model of odd sizes: not divisible by ranks * 256, shorter than that, a single number; of 8 ranks all but the last own nothing at all

static Tensor fake_tensors[] = {
    {"embed", "model.embed_tokens.weight", 37, 53, false, true, 0, 0, false, false},        {"q", "model.layers.%d.q.weight", 24, 83, true, true, 0, 0, false, false},
    {"norm", "model.layers.%d.norm.weight", 0, 97, true, false, 0, 0, false, false},        {"bias", "model.layers.%d.bias", 0, 2000, true, false, 0, 0, false, false},
    {"final", "model.norm.weight", 0, 255, false, false, 0, 0, false, false},               {"one", "model.one", 0, 1, false, false, 0, 0, false, false},
};
enum { TENSORS = sizeof fake_tensors / sizeof fake_tensors[0], LAYERS = 3, NUMBERS = 37 * 53 + LAYERS * (24 * 83 + 97 + 2000) + 255 + 1 };
struct Model { Config config; Comm *comm, shard, replicas; int shared; bool bf16; float numbers[3][NUMBERS]; };   // where this rank owns nothing: POISON
#define POISON -12345.0f

const Config *model_config(const Model *m) { return &m->config; }
const Lora *model_lora(const Model *m) { (void)m; static const Lora none; return &none; }
int model_num_tensors(const Model *m) { (void)m; return TENSORS; }
const Tensor *model_tensor(const Model *m, int i) { (void)m; return &fake_tensors[i]; }
Comm *model_comm(const Model *m) { return m->comm; }
Comm *model_replicas(const Model *m) { return (Comm *)&m->replicas; }
void model_wait(Model *m) { (void)m; }
void *model_host_alloc(int64_t bytes) { return xmalloc(bytes); }
void model_host_free(void *p) { free(p); }
void model_get(const Model *m, TensorKind kind, int i, int layer, float *out) { (void)m; (void)kind; (void)i; (void)layer; (void)out; MUST(false, "not to be called here"); }
void model_put(Model *m, TensorKind kind, int i, int layer, const float *in) { (void)m; (void)kind; (void)i; (void)layer; (void)in; MUST(false, "not to be called here"); }
void model_share(Model *m) { m->shared++; }

static int64_t place_of(const Model *m, int tensor, int layer) {
    int64_t at = 0;
    for (int i = 0; i < tensor; i++) at += tensor_numbers(&fake_tensors[i]) * tensor_layers(m, &fake_tensors[i]);
    return at + layer * tensor_numbers(&fake_tensors[tensor]);
}
static int row_of(TensorKind kind) { return kind == KIND_PARAM ? 0 : kind == KIND_MOMENT1 ? 1 : 2; }
void model_owned(const Model *m, int i, int64_t *begin, int64_t *end) {
    *begin = shard_begin(&m->shard, tensor_numbers(&fake_tensors[i]));
    *end = shard_end(&m->shard, tensor_numbers(&fake_tensors[i]));
}
void model_get_owned(const Model *m, TensorKind kind, int i, int layer, float *out) {
    int64_t begin, end;
    model_owned(m, i, &begin, &end);
    MUST(begin < end, "nothing is owned");
    memcpy(out, m->numbers[row_of(kind)] + place_of(m, i, layer) + begin, (size_t)(end - begin) * 4);
}
static int copy_gate_closed;   // with __atomic
bool model_copy_is_bf16(const Model *m, TensorKind kind) { return m->bf16 && kind != KIND_PARAM; }
void model_copy_begin(Model *m) { (void)m; }
void model_copy_owned(Model *m, TensorKind kind, int i, int layer, void *out) {
    int64_t begin, end;
    while (__atomic_load_n(&copy_gate_closed, __ATOMIC_ACQUIRE)) usleep(200);
    if (!model_copy_is_bf16(m, kind)) { model_get_owned(m, kind, i, layer, (float *)out); return; }
    model_owned(m, i, &begin, &end);
    for (int64_t k = begin; k < end; k++) memcpy((char *)out + 2 * (k - begin), (const char *)&m->numbers[row_of(kind)][place_of(m, i, layer) + k] + 2, 2);   // the upper half
}
void model_put_owned(Model *m, TensorKind kind, int i, int layer, const float *in) {
    int64_t begin, end;
    model_owned(m, i, &begin, &end);
    memcpy(m->numbers[row_of(kind)] + place_of(m, i, layer) + begin, in, (size_t)(end - begin) * 4);
}

static bool keep_bf16;   // moments
static Model *model_new(Comm *c, int shard_ranks) {
    Model *m = (Model *)xcalloc(1, sizeof(Model));
    m->comm = c;
    comm_group(c, &m->shard, c->rank / shard_ranks * shard_ranks, 1, shard_ranks);
    comm_group(c, &m->replicas, c->rank % shard_ranks, shard_ranks, c->size / shard_ranks);
    m->bf16 = keep_bf16;
    m->config.num_layers = LAYERS;
    return m;
}
static float number_at(int64_t step, int kind, int64_t place) {   // every bit pattern of a mantissa, negative zero and NaNs among them
    uint32_t bits = (uint32_t)random_u64((uint64_t)step, (uint64_t)kind, (uint64_t)place);
    if (place % 100 == 7) bits = 0x80000000u;
    if (place % 100 == 8) bits = 0x7FC00000u | (bits & 0xFFFF);
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
// the numbers of `step` where this rank owns them, POISON elsewhere: to set, or to compare; -1 when they are the same
static int64_t model_numbers(Model *m, int64_t step, bool set) {
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < TENSORS; i++) {
            int64_t begin, end;
            model_owned(m, i, &begin, &end);
            for (int l = 0; l < tensor_layers(m, &fake_tensors[i]); l++)
                for (int64_t n = 0; n < tensor_numbers(&fake_tensors[i]); n++) {
                    int64_t place = place_of(m, i, l) + n;
                    float x = n >= begin && n < end ? number_at(step, k, place) : POISON;
                    if (m->bf16 && k > 0 && x != POISON) memset(&x, 0, 2);
                    if (set) m->numbers[k][place] = x;
                    else if (memcmp(&x, &m->numbers[k][place], 4) != 0) return k * NUMBERS + place;
                }
        }
    return -1;
}
static void fill(Model *m, int64_t step) { model_numbers(m, step, true); }
static void check(Model *m, int64_t step) { int64_t at = model_numbers(m, step, false); MUST(at < 0, "rank %d of %d: number %d is not that of step %d", m->comm->rank, m->comm->size, (int)at, (int)step); }

static void update(CheckpointWriter *w, Model *m, int64_t step) {   // as training does it
    checkpoint_copied(w);
    fill(m, step);
}

static json_t *identity(void) { return json_pack("{s:{s:i,s:[i,i]},s:s}", "recipe", "seed", 3, "list", 1, 2, "model", "fake"); }
static Progress progress(int64_t step) {
    Progress p;
    memset(&p, 0, sizeof p);
    p.step = step; p.tokens_total = 1000 * step; p.best_dev = INFINITY; p.dev_stage_step = -1;
    progress_dev_add(&p, 0.5);
    return p;
}
static bool save(CheckpointWriter *w, Model *m, const char *out, int64_t step, bool wait, Error *e) {   // with wait false: the caller polls
    json_t *id = identity();
    Progress p = progress(step);
    update(w, m, step);
    bool ok = checkpoint_begin(w, out, m, &p, id, 2, wait, e);
    json_decref(id);
    free(p.dev);
    return ok;
}
// the step that is resumed, -1: none, -2: an error. What it loads is checked.
static int64_t resume(Model *m, const char *out, Error *e) {
    json_t *id = identity();
    Progress p;
    memset(&p, 0, sizeof p);
    bool found = false;
    fill(m, 0);
    m->shared = 0;
    bool ok = checkpoint_resume(out, m, &p, id, &found, e);
    json_decref(id);
    if (ok && found) {
        check(m, p.step);
        MUST(m->shared == 1 && p.tokens_total == 1000 * p.step && p.num_dev == 1 && p.dev[0].loss == 0.5, "shared %d times", m->shared);
    }
    free(p.dev);
    return !ok ? -2 : found ? p.step : -1;
}

#ifdef TEST_PROCESSES
// mpirun -np N this DIR STEP_EXPECTED STEP_TO_SAVE
int main(int argc, char **argv) {
    Comm c;
    Error e;
    MUST(argc == 4 && comm_begin(&c, 60, &e), "%s", e.text);
    Model *m = model_new(&c, c.size);
    CheckpointWriter w;
    memset(&w, 0, sizeof w);
    int64_t found = resume(m, argv[1], &e);
    MUST(found == atoi(argv[2]), "resumed %d: %s", (int)found, e.text);
    MUST(save(&w, m, argv[1], atoi(argv[3]), false, &e), "%s", e.text);
    update(&w, m, 999);
    bool committed = false;
    while (!committed) MUST(checkpoint_poll(&w, false, &committed, &e), "%s", e.text);
    checkpoint_free(&w);
    free(m);
    comm_end(&c);
    return 0;
}
#else

typedef struct { Job *job; Comm comm; int shard_ranks; void (*work)(Model *, void *); void *argument; } Rank;
static void *rank_main(void *p) {
    Rank *r = (Rank *)p;
    job = r->job;
    Model *m = model_new(&r->comm, r->shard_ranks);
    r->work(m, r->argument);
    free(m);
    return NULL;
}
static void groups(int size, int shard_ranks, void (*work)(Model *, void *), void *argument) {
    Job j;
    Rank r[MOST_RANKS];
    pthread_t threads[MOST_RANKS];
    memset(&r, 0, sizeof r);
    MUST(pthread_barrier_init(&j.barrier, NULL, (unsigned)size) == 0, "barrier");
    for (int i = 0; i < size; i++) {
        r[i].job = &j; r[i].comm.rank = r[i].comm.local_rank = i; r[i].comm.size = size; r[i].comm.stride = 1; r[i].shard_ranks = shard_ranks; r[i].work = work; r[i].argument = argument;
        MUST(pthread_create(&threads[i], NULL, rank_main, &r[i]) == 0, "thread");
    }
    for (int i = 0; i < size; i++) pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&j.barrier);
}
static void ranks(int size, void (*work)(Model *, void *), void *argument) { groups(size, size, work, argument); }

static bool exists(const char *format, ...) __attribute__((format(printf, 1, 2)));
static bool exists(const char *format, ...) {
    char path[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(path, sizeof path, format, ap);
    va_end(ap);
    return file_exists(path);
}
static int num_unfinished(const char *out) {   // entries of checkpoints/ that are no checkpoint
    char *path = path_join(out, "checkpoints");
    DIR *d = opendir(path);
    int n = 0;
    for (struct dirent *f; d && (f = readdir(d));) n += f->d_name[0] != '.' && (strncmp(f->d_name, "step_", 5) != 0 || strlen(f->d_name) != 13);
    if (d) closedir(d);
    free(path);
    return n;
}

// ---------------------------------------------------------------------------------------------------------------
// one save and one resume, on any number of ranks

typedef struct { const char *out; int64_t step, found; bool wait; int64_t memory; const char *error; Error e; } Work;   // error: part of what is to be reported

static void work_save(Model *m, void *p) {
    Work *a = (Work *)p;
    CheckpointWriter w;
    Error e;
    memset(&w, 0, sizeof w);
    w.memory_limit = a->memory;
    bool ok = save(&w, m, a->out, a->step, a->wait, &e);
    update(&w, m, 777);
    ok = ok && checkpoint_poll(&w, true, NULL, &e);
    MUST(ok == !a->error, "%s", ok ? "no error" : e.text);
    if (a->error) MUST(strstr(e.text, a->error), "rank %d: %s", m->comm->rank, e.text);   // on every rank
    else MUST(w.commits == 1 && w.committed_step == a->step && !w.pending, "not committed");
    checkpoint_free(&w);
}
static void work_resume(Model *m, void *p) {
    Work *a = (Work *)p;
    Error e;
    e.text[0] = 0;
    int64_t found = resume(m, a->out, &e);
    MUST(found == a->step || a->step == -3, "resumed step %d, expected %d: %s", (int)found, (int)a->step, e.text);
    if (a->error) MUST(strstr(e.text, a->error), "%s", e.text);
    if (m->comm->rank == 0) { a->found = found; a->e = e; }
}
static void save_with(int size, const char *out, int64_t step) { Work a = {out, step, 0, true, 0, NULL, {""}}; ranks(size, work_save, &a); }
static void resume_with(int size, const char *out, int64_t step) { Work a = {out, step, 0, true, 0, NULL, {""}}; ranks(size, work_resume, &a); }

typedef struct { const char *out; int written_by; } Pair;
static void work_pair(Model *m, void *p) {
    const Pair *pair = (const Pair *)p;
    Error e;
    read_bytes = num_read_files = 0;
    int64_t found = resume(m, pair->out, &e), numbers = 0;
    MUST(found == 5, "%s", e.text);
    bool needed[MOST_RANKS] = {false};
    for (int i = 0; i < TENSORS; i++) {
        int64_t n = tensor_numbers(&fake_tensors[i]), begin = shard_begin(m->comm, n), end = shard_end(m->comm, n);
        numbers += 3 * (end - begin) * tensor_layers(m, &fake_tensors[i]);
        for (int r = 0; r < pair->written_by; r++) {
            Comm c = {.rank = r, .size = pair->written_by};
            int64_t b = shard_begin(&c, n) > begin ? shard_begin(&c, n) : begin, l = shard_end(&c, n) < end ? shard_end(&c, n) : end;
            needed[r] |= b < l;
        }
    }
    int files = 0;
    for (int r = 0; r < pair->written_by; r++) {
        files += needed[r];
        char name[STATE_NAME_SIZE];
        struct stat st;
        state_file_name(r, pair->written_by, name);
        char *path = xprintf("%s/checkpoints/step_00000005/%s", pair->out, name);
        MUST(stat(path, &st) == 0, "%s", path);
        bool read = false;
        for (int i = 0; i < num_read_files; i++) read |= read_files[i] == st.st_ino;
        MUST(read == needed[r], "rank %d of %d: file %d of %d was %sread", m->comm->rank, m->comm->size, r, pair->written_by, read ? "" : "not ");
        free(path);
    }
    MUST(read_bytes == numbers * 4 && num_read_files == files, "rank %d of %d read %d bytes, it owns %d", m->comm->rank, m->comm->size, (int)read_bytes, (int)numbers * 4);
}

static void test_any_number_of_ranks(void **state) {
    (void)state;
    static const int written[] = {1, 2, 3, 4, 5, 8}, read[] = {1, 2, 3, 4, 7};
    for (size_t r = 0; r < sizeof written / sizeof *written; r++) {
        char out[300];
        snprintf(out, sizeof out, "%s/by%d", fast, written[r]);
        Work a = {out, 5, 0, r % 2 == 0, 0, NULL, {""}};   // waiting and not
        ranks(written[r], work_save, &a);
        assert_int_equal(exists("%s/checkpoints/step_00000005/state.safetensors", out), written[r] == 1);
        if (written[r] > 1) assert_true(exists("%s/checkpoints/step_00000005/state-%05d-of-%05d.safetensors", out, written[r], written[r]));
        for (size_t s = 0; s < sizeof read / sizeof *read; s++) {
            Pair pair = {out, written[r]};
            ranks(read[s], work_pair, &pair);
        }
    }
    assert_true(exists("%s/by8/checkpoints/step_00000005/state-00001-of-00008.safetensors", fast));   // without a single tensor
    // on and on, with another number each time
    static const int sizes[] = {8, 4, 8, 1, 3, 2};
    char out[300];
    snprintf(out, sizeof out, "%s/chain", fast);
    for (int i = 0; i < 6; i++) {
        save_with(sizes[i], out, i + 1);
        resume_with(sizes[(i + 1) % 6], out, i + 1);
    }
    int64_t n;
    int64_t *steps = checkpoint_list(out, false, &n);
    assert_true(n == 2 && steps[0] == 6 && steps[1] == 5 && num_unfinished(out) == 0);
    free(steps);
}

// Shard groups: every number is written once, by one of those that own it; and what is written, any ranks in any groups read.
static void test_any_groups_of_ranks(void **state) {
    (void)state;
    static const struct { int size, shard_ranks; } groupings[] = {{4, 2}, {4, 1}, {6, 3}, {8, 2}, {2, 1}, {4, 4}};
    enum { GROUPINGS = sizeof groupings / sizeof *groupings };
    for (int i = 0; i < GROUPINGS; i++) {
        int size = groupings[i].size, replicas = size / groupings[i].shard_ranks;
        char out[300];
        snprintf(out, sizeof out, "%s/groups%d.%d", fast, size, groupings[i].shard_ranks);
        Work a = {out, 5, 0, i % 2 == 0, 0, NULL, {""}};
        groups(size, groupings[i].shard_ranks, work_save, &a);
        int64_t numbers = 0;
        for (int r = 0; r < size; r++) {
            char name[STATE_NAME_SIZE];
            state_file_name(r, size, name);
            char *path = xprintf("%s/checkpoints/step_00000005/%s", out, name);
            Safetensors *s = safetensors_open(path, NULL);
            assert_non_null(s);
            Comm shard = {.rank = r % groupings[i].shard_ranks, .size = groupings[i].shard_ranks};
            int64_t written = 0, owned = 0, largest = 0;
            for (int64_t k = 0; k < s->count; k++) written += s->tensors[k].count;
            for (int k = 0; k < TENSORS; k++) {
                int64_t n = tensor_numbers(&fake_tensors[k]), slice = shard_end(&shard, n) - shard_begin(&shard, n);
                owned += 3 * slice * (fake_tensors[k].per_layer ? LAYERS : 1);
                if (slice > largest) largest = slice;
            }
            assert_true(written <= owned / replicas + largest);   // spread evenly, but for the slice where one replica's part ends
            numbers += written;
            safetensors_close(s);
            free(path);
        }
        assert_int_equal(numbers, 3 * NUMBERS);
        for (int k = 0; k < GROUPINGS; k++) groups(groupings[k].size, groupings[k].shard_ranks, work_resume, &a);
        resume_with(1, out, 5);
        resume_with(3, out, 5);
    }
}

typedef struct { int rank, kind, place; } Drift;   // rank -1: none
static void work_drift(Model *m, void *p) {
    const Drift *d = (const Drift *)p;
    Error e;
    fill(m, 3);
    if (m->comm->rank == d->rank) ((uint8_t *)&m->numbers[d->kind][d->place])[0] ^= 1;
    bool ok = state_same(m, &e);
    MUST(ok == (d->rank < 0), "rank %d: %s", m->comm->rank, ok ? "no error" : e.text);
    char text[100];
    snprintf(text, sizeof text, "rank %d has other weights or moments than rank %d,", d->rank >= m->shard.size ? d->rank : d->rank + m->shard.size, d->rank % m->shard.size);
    if (!ok) MUST(strstr(e.text, text), "rank %d: %s, expected %s", m->comm->rank, e.text, text);   // on every rank, drifted or not
}
static void test_replicas_that_drift_apart(void **state) {
    (void)state;
    Drift none = {-1, 0, 0};
    groups(4, 2, work_drift, &none);
    groups(4, 1, work_drift, &none);
    groups(4, 4, work_drift, &none);
    for (int rank = 0; rank < 4; rank++)
        for (int kind = 0; kind < 3; kind++) {
            Drift d = {rank, kind, rank % 2 ? 37 * 53 - 1 : 0};   // the first number of the first rank of a group, the embedding's last of the second
            groups(4, 2, work_drift, &d);
        }
    Drift last = {2, 2, NUMBERS - 1};
    groups(3, 1, work_drift, &last);
}

static void test_groups_astride_hosts(void **state) {
    (void)state;
    static const struct { int hosts[8], shard_ranks, first; } cases[] = {
        {{0, 0, 0, 0, 4, 4, 4, 4}, 4, -1}, {{0, 0, 0, 0, 4, 4, 4, 4}, 2, -1}, {{0, 0, 0, 0, 4, 4, 4, 4}, 1, -1}, {{0, 0, 0, 0, 4, 4, 4, 4}, 8, 4},
        {{0, 1, 0, 1, 0, 1, 0, 1}, 4, 1}, {{0, 0, 0, 3, 3, 3, 3, 3}, 4, 3}, {{0, 0, 0, 0, 4, 4, 4, 7}, 4, 7}, {{0, 1, 2, 3, 4, 5, 6, 7}, 1, -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_int_equal(shard_astride(cases[i].hosts, 8, cases[i].shard_ranks), cases[i].first);
}

// as the program wrote it before there were several ranks
static void test_an_old_checkpoint_loads(void **state) {
    (void)state;
    char *out = xprintf("%s/old", fast);
    save_with(1, out, 9);
    char *file = checkpoint_path(out, 9, "/state.safetensors"), *path = checkpoint_path(out, 9, "/manifest.json");
    Hash h;
    json_t *j = json_parse_file(path, 1 << 20, NULL);
    assert_true(j && hash_file(file, &h, NULL));
    json_object_del(j, "files");
    json_object_set_new(j, "format", json_string("findap-checkpoint-1"));
    json_object_set_new(j, "state_hash", json_string(h.hex));
    json_object_set_new(j, "manifest_hash", json_string("00000000000000000000000000000000"));
    char *text = json_dumps(j, JSON_INDENT(1) | JSON_SORT_KEYS);
    manifest_put_hash(text);
    assert_true(write_file(path, text, (int64_t)strlen(text), NULL));
    for (int size = 1; size <= 4; size++) resume_with(size, out, 9);
    free(text); json_decref(j); free(file); free(path); free(out);
}

// ---------------------------------------------------------------------------------------------------------------
// a save that goes on while the model changes

static void work_async(Model *m, void *p) {
    const char *out = (const char *)p;
    CheckpointWriter w;
    Error e;
    bool committed = true;
    memset(&w, 0, sizeof w);
    checkpoint_prepare(&w, m);
    for (int64_t step = 1; step <= 3; step++) {
        if (step < 3) __atomic_store_n(&gate_closed, 1, __ATOMIC_RELEASE);   // nothing can be written
        MUST(save(&w, m, out, step, false, &e) && w.pending, "%s", e.text);
        for (int i = 0; i < 5; i++) {
            update(&w, m, 1000 + i);
            if (step < 3) MUST(checkpoint_poll(&w, false, &committed, &e) && !committed && w.pending, "committed what is not written");
        }
        if (step < 3) MUST(!exists("%s/checkpoints/step_%08d", out, (int)step), "there already");
        thread_reduce(m->comm, 0, false);
        __atomic_store_n(&gate_closed, 0, __ATOMIC_RELEASE);
        if (step == 2) continue;   // the next save finishes this one
        committed = false;
        while (!committed) MUST(checkpoint_poll(&w, false, &committed, &e), "%s", e.text);
        MUST(w.committed_step == step && w.commits == step, "step %d", (int)w.committed_step);
        MUST(checkpoint_poll(&w, true, &committed, &e) && !committed, "nothing is pending");
        MUST(resume(m, out, &e) == step, "%s", e.text);
    }
    checkpoint_free(&w);
    checkpoint_free(&w);   // and twice does no harm
}
static void test_the_model_may_change(void **state) {
    (void)state;
    for (int size = 1; size <= 3; size += 2) {
        char out[300];
        snprintf(out, sizeof out, "%s/async%d", fast, size);
        gate_closed = 0;
        ranks(size, work_async, out);
        gate_closed = 0;
        resume_with(2, out, 3);
        assert_int_equal(num_unfinished(out), 0);
    }
}

static void *open_copy_gate(void *unused) {
    usleep(50000);
    __atomic_store_n(&copy_gate_closed, 0, __ATOMIC_RELEASE);
    return unused;
}
static void work_copy(Model *m, void *p) {
    CheckpointWriter w;
    Error e;
    pthread_t opener;
    memset(&w, 0, sizeof w);
    __atomic_store_n(&copy_gate_closed, 1, __ATOMIC_RELEASE);
    MUST(save(&w, m, (const char *)p, 4, false, &e), "%s", e.text);   // returns although nothing can be copied
    double begin = seconds_now();
    MUST(pthread_create(&opener, NULL, open_copy_gate, NULL) == 0, "thread");
    update(&w, m, 555);
    MUST(seconds_now() - begin > 0.04 && w.blocked > 0.04, "the update did not wait");
    pthread_join(opener, NULL);
    MUST(checkpoint_poll(&w, true, NULL, &e), "%s", e.text);
    checkpoint_free(&w);
}
static void test_an_update_waits_for_the_copy(void **state) {
    (void)state;
    char *out = path_join(fast, "copy");
    ranks(1, work_copy, out);
    resume_with(2, out, 4);
    free(out);
}

// moments that are kept in bf16 are so in the files, and read by any number of ranks
static void test_bf16_moments(void **state) {
    (void)state;
    char out[300];
    Work a;
    memset(&a, 0, sizeof a);
    snprintf(out, sizeof out, "%s/bf16", fast);
    a.out = out; a.step = 6;
    keep_bf16 = true;
    ranks(3, work_save, &a);
    for (int size = 1; size <= 4; size++) resume_with(size, out, 6);
    keep_bf16 = false;
    char path[400];
    Error e;
    int64_t bytes[2] = {0, 0};
    for (int i = 1; i <= 3; i++) {
        snprintf(path, sizeof path, "%s/checkpoints/step_00000006/state-%05d-of-00003.safetensors", out, i);
        Safetensors *f = safetensors_open(path, &e);
        if (!f) fail_msg("%s", e.text);
        for (int64_t k = 0; k < f->count; k++) {
            assert_int_equal(f->tensors[k].dtype, f->tensors[k].name[0] == 'p' ? DTYPE_F32 : DTYPE_BF16);
            bytes[f->tensors[k].name[0] == 'p'] += f->tensors[k].bytes;
        }
        safetensors_close(f);
    }
    assert_int_equal(bytes[1], NUMBERS * 4);
    assert_int_equal(bytes[0], NUMBERS * 4);
}

static void work_given_up(Model *m, void *p) {   // the run ends by an error while a save is pending
    CheckpointWriter w;
    Error e;
    memset(&w, 0, sizeof w);
    __atomic_store_n(&gate_closed, 1, __ATOMIC_RELEASE);
    MUST(save(&w, m, (const char *)p, 2, false, &e), "%s", e.text);
    __atomic_store_n(&gate_closed, 0, __ATOMIC_RELEASE);
    checkpoint_free(&w);
}
static void test_an_end_while_a_save_is_pending(void **state) {
    (void)state;
    for (int size = 1; size <= 3; size += 2) {
        char out[300];
        snprintf(out, sizeof out, "%s/ended%d", fast, size);
        save_with(size, out, 1);
        ranks(size, work_given_up, out);
        resume_with(2, out, size == 1 ? 2 : 1);   // alone it is finished
        assert_int_equal(num_unfinished(out), 0);
    }
}

static void test_without_memory_for_a_copy(void **state) {
    (void)state;
    char *out = xprintf("%s/pieces", fast);
    Work a = {out, 4, 0, false, -1, NULL, {""}};
    ranks(3, work_save, &a);
    resume_with(2, out, 4);
    assert_true(host_memory_free() > 1 << 20);
    free(out);
}

// ---------------------------------------------------------------------------------------------------------------
// failures

static void test_no_room(void **state) {
    (void)state;
    char *out = xprintf("%s/room", fast);
    save_with(3, out, 1);
    for (int size = 1; size <= 3; size++) {
        Work a = {out, 2, 0, size == 2, 0, "make room on the disk", {""}};
        disk_full = 1;
        ranks(size, work_save, &a);
        disk_full = 0;
        assert_int_equal(num_unfinished(out), 0);
        resume_with(size, out, 1);
    }
    free(out);
}

static void test_a_disk_that_lies(void **state) {
    (void)state;
    char *out = xprintf("%s/lying_disk", fast);
    save_with(2, out, 1);
    for (int size = 1; size <= 3; size++) {
        Work a = {out, 2, 0, size == 2, 0, "what was read back is not what was written", {""}};
        disk_lies = 1;
        ranks(size, work_save, &a);
        disk_lies = 0;
        resume_with(size, out, 1);
    }
    free(out);
}

static void work_one_fails(Model *m, void *p) {
    const char *out = (const char *)p;
    CheckpointWriter w;
    Error e;
    memset(&w, 0, sizeof w);
    for (int round = 0; round < 4; round++) {   // the same writer all the time
        bool wait = round % 2 == 0;
        __atomic_store_n(&fsync_fails_for, "state-00003-of-00003", __ATOMIC_RELEASE);
        thread_reduce(m->comm, 0, false);
        bool ok = save(&w, m, out, 2 + round, wait, &e) && checkpoint_poll(&w, true, NULL, &e);
        MUST(!ok && strstr(e.text, "state-00003-of-00003.safetensors: cannot be synced"), "rank %d: %s", m->comm->rank, ok ? "no error" : e.text);
        thread_reduce(m->comm, 0, false);
        __atomic_store_n(&fsync_fails_for, NULL, __ATOMIC_RELEASE);
        MUST(!exists("%s/checkpoints/step_%08d", out, 2 + round) && num_unfinished(out) == 0, "left behind");
        MUST(resume(m, out, &e) == 1 + round, "%s", e.text);
        thread_reduce(m->comm, 0, false);
        ok = save(&w, m, out, 2 + round, wait, &e) && checkpoint_poll(&w, true, NULL, &e);
        MUST(ok && resume(m, out, &e) == 2 + round, "%s", e.text);
    }
    checkpoint_free(&w);
}
static void test_one_rank_fails(void **state) {
    (void)state;
    char *out = xprintf("%s/one", fast);
    save_with(3, out, 1);
    ranks(3, work_one_fails, out);
    free(out);
}

// In the child, under the shim: resumes, goes on, saves twice. Exit status: see CHILD_*.
enum { CHILD_DONE = 0, CHILD_NOTHING_FAILED = 7 };
typedef struct { const char *out; bool wait; } Child;
static void work_child(Model *m, void *p) {
    const Child *a = (const Child *)p;
    bool forever = getenv("FAIL_FOREVER") != NULL;
    CheckpointWriter w;
    Error e;
    memset(&w, 0, sizeof w);
    int64_t first = resume(m, a->out, &e), failed = 0, now = first;
    MUST(first > 0, "%s", e.text);
    for (int round = 0; round < 2; round++) {
        bool committed = false, ok = save(&w, m, a->out, first + 1 + round, a->wait, &e);
        update(&w, m, 555);   // training goes on
        while (ok && w.pending) ok = checkpoint_poll(&w, false, &committed, &e);
        failed += !ok;
        if (!ok) MUST(e.text[0] && (forever || failed == 1), "%s", e.text);   // one failure costs at most one checkpoint
        int64_t then = resume(m, a->out, &e);
        MUST(ok ? then == first + 1 + round : then >= now && then <= first + 1 + round, "step %d was resumed after step %d was there: %s", (int)then, (int)now, e.text);
        now = then;
    }
    checkpoint_free(&w);
}
static int child(int argc, char **argv) {
    MUST(argc == 5, "arguments");
    Child a = {argv[2], strcmp(argv[4], "wait") == 0};
    ranks(atoi(argv[3]), work_child, &a);
    long (*calls)(void) = (long (*)(void))dlsym(RTLD_DEFAULT, "fail_shim_calls");
    MUST(calls, "the shim is not there");
    return calls() < atol(getenv("FAIL_AT")) ? CHILD_NOTHING_FAILED : CHILD_DONE;
}

static bool run(const char *command, ...) __attribute__((format(printf, 1, 2)));
static bool run(const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    char *command = NULL;
    assert_true(vasprintf(&command, format, ap) > 0);
    va_end(ap);
    int status = system(command);
    free(command);
    return status == 0;
}
static char *source(const char *name) {   // beside this file
    char *path = xstrdup(__FILE__), *slash = strrchr(path, '/'), *out;
    if (slash) slash[1] = 0;
    out = xprintf("%s%s", slash ? path : "", name);
    free(path);
    return out;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STRIDE = 5 };   // a child takes five times as long
#else
enum { STRIDE = 1 };
#endif
static void test_every_failing_call(void **state) {
    (void)state;
    char *shim = source("fail_shim.c"), *library = xstrdup(in("fail_shim.so")), *log = xstrdup(in("child.txt"));
    bool built = run("%s -shared -fPIC -O1 %s -o %s -ldl 2>%s", getenv("CC") ? getenv("CC") : "cc", shim, library, log);
    if (!built) { print_message("skipped: no compiler for %s, so failing system calls are not tested\n", shim); free(shim); free(library); free(log); skip(); }
    int children = 0, most = 0;
    double begin = seconds_now();
    for (int mode = 0; mode < 6; mode++) {   // once, for ever, killed; one rank that waits, three that do not
        int size = mode % 2 ? 3 : 1;
        char out[300];
        snprintf(out, sizeof out, "%s/fail%d", fast, mode);
        save_with(size, out, 1);
        for (int k = 1, ended = 0; !ended; k += STRIDE) {
            assert_true(k < 1000);
            pid_t pid = fork();
            assert_true(pid >= 0);
            if (pid == 0) {
                char at[32], error[32], count[32];
                snprintf(at, sizeof at, "%d", k);
                snprintf(error, sizeof error, "%d", k % 2 ? ENOSPC : EIO);
                snprintf(count, sizeof count, "%d", size);
                char *under = path_join(out, "checkpoints");
                setenv("FAIL_AT", at, 1); setenv("FAIL_ERRNO", error, 1); setenv("FAIL_UNDER", under, 1); setenv("LD_PRELOAD", library, 1);
                if (mode / 2 == 1) setenv("FAIL_FOREVER", "1", 1);
                if (mode / 2 == 2) setenv("FAIL_KILL", "1", 1);
                const char *asan = getenv("ASAN_OPTIONS");   // it wants to be the first library
                char *options = xprintf("%s%sverify_asan_link_order=0", asan ? asan : "", asan ? ":" : "");
                setenv("ASAN_OPTIONS", options, 1);
                int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
                dup2(fd, 2);
                execl("/proc/self/exe", "test_checkpoint", "child", out, count, mode % 2 ? "go on" : "wait", (char *)NULL);
                _exit(98);
            }
            int status = 0;
            assert_int_equal(waitpid(pid, &status, 0), pid);
            children++;
            ended = WIFEXITED(status) && WEXITSTATUS(status) == CHILD_NOTHING_FAILED;
            bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && mode / 2 == 2, good = ended || killed || (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_DONE);
            if (!good) { run("cat %s >&2", log); fail_msg("mode %d, call %d: status %x", mode, k, status); }
            // without the shim, on another number of ranks: something good is there, and nothing half-made stays
            Work a = {out, -3, 0, true, 0, NULL, {""}};
            ranks(2, work_resume, &a);
            if (a.found < 1) fail_msg("mode %d, call %d: nothing can be resumed: %s", mode, k, a.e.text);
            if (num_unfinished(out) > 0) fail_msg("mode %d, call %d: something half-made stays", mode, k);
            if (k > most) most = k;
        }
    }
    print_message("%d children, up to call %d, in %.1f s\n", children, most, seconds_now() - begin);
    assert_true(most > 30);
    free(shim); free(library); free(log);
}

// ---------------------------------------------------------------------------------------------------------------
// damage and lies

static char *victim(int file, int of) {   // of the checkpoint that is to be damaged
    char name[STATE_NAME_SIZE];
    state_file_name(file, of, name);
    return xprintf("%s/lies/checkpoints/step_00000002/%s", fast, name);
}
static void rewrite_manifest(void (*edit)(json_t *, json_t *files)) {   // and give it a good hash
    char *path = xprintf("%s/lies/checkpoints/step_00000002/manifest.json", fast);
    json_t *j = json_parse_file(path, 1 << 20, NULL);
    assert_non_null(j);
    edit(j, json_object_get(j, "files"));
    json_object_set_new(j, "manifest_hash", json_string("00000000000000000000000000000000"));
    char *text = json_dumps(j, JSON_INDENT(1) | JSON_SORT_KEYS);
    manifest_put_hash(text);
    assert_true(write_file(path, text, (int64_t)strlen(text), NULL));
    free(text); json_decref(j); free(path);
}
static void edit_hashes(json_t *j, json_t *files) {   // what somebody would do who means it
    (void)j;
    for (size_t i = 0; i < json_array_size(files); i++) {
        json_t *f = json_array_get(files, i);
        char *path = victim((int)i, (int)json_array_size(files));
        Hash h;
        struct stat st;
        if (stat(path, &st) == 0 && hash_file(path, &h, NULL)) { json_object_set_new(f, "hash", json_string(h.hex)); json_object_set_new(f, "bytes", json_integer(st.st_size)); }
        free(path);
    }
}
// rewrites a file with tensor `from` under the name `to`, with `count` numbers (0: as it is), of another type, left out (to NULL), or after it a
// tensor `more` of 256 numbers
static void rewrite_state(int file, const char *from, const char *to, int64_t count, Dtype dtype, const char *more) {
    char *path = victim(file, 3);
    Error e;
    Safetensors *s = safetensors_open(path, &e);
    assert_non_null(s);
    assert_non_null(safetensors_find(s, from));
    SafetensorsWriter *w = safetensors_writer_new(path);
    static const int64_t extra = 256;
    float zeros[2048] = {0};
    for (int round = 0; round < 2; round++) {
        if (round) assert_true(safetensors_writer_begin(w, &e));
        for (int64_t i = 0; i < s->count; i++) {
            const SafeTensor *t = &s->tensors[i];
            bool it = strcmp(t->name, from) == 0;
            if (!it && round) assert_true(safetensors_writer_data(w, t->data, t->bytes, &e));
            else if (!it) safetensors_writer_tensor(w, t->name, t->dtype, t->rank, t->shape);
            else if (to && round) assert_true(safetensors_writer_data(w, zeros, 4 * (count ? count : t->count), &e));
            else if (to) { int64_t n = count ? count : t->count; safetensors_writer_tensor(w, to, dtype, count ? 1 : t->rank, count ? &n : t->shape); }
            if (it && more && round) assert_true(safetensors_writer_data(w, zeros, 4 * extra, &e));
            else if (it && more) safetensors_writer_tensor(w, more, DTYPE_F32, 1, &extra);
        }
    }
    assert_true(safetensors_writer_commit(w, &e));
    safetensors_close(s);
    free(path);
    rewrite_manifest(edit_hashes);
}
static void fresh(void) {   // good ones of steps 1 and 2, by three ranks
    char *out = xprintf("%s/lies", fast);
    remove_tree(out);
    save_with(3, out, 1);
    save_with(3, out, 2);
    free(out);
}
typedef struct { const char *text; CheckpointResult result; } Expected;
static void work_refused(Model *m, void *p) {
    Expected *x = (Expected *)p;
    char *out = xprintf("%s/lies", fast);
    Error e;
    e.text[0] = 0;
    Progress loaded;
    memset(&loaded, 0, sizeof loaded);
    json_t *id = identity();
    CheckpointResult r = checkpoint_load(out, 2, m, &loaded, id, &e);
    MUST(r == x->result && (!x->text || strstr(e.text, x->text)), "rank %d of %d: result %d, \"%s\", expected \"%s\"", m->comm->rank, m->comm->size, r, e.text, x->text);
    MUST(r == CHECKPOINT_LOADED || loaded.dev == NULL, "a progress was loaded");
    MUST(resume(m, out, &e) == 1, "the one before does not load: %s", e.text);
    json_decref(id);
    free(loaded.dev);
    free(out);
}
static void refused(const char *text) {
    Expected x = {text, CHECKPOINT_DAMAGED};
    for (int size = 1; size <= 4; size++) ranks(size, work_refused, &x);
}
static void spoil(const char *path, int64_t place, int64_t truncate_to) {
    int fd = open(path, O_RDWR);
    uint8_t byte = 0;
    assert_true(fd >= 0);
    if (truncate_to >= 0) assert_int_equal(ftruncate(fd, truncate_to), 0);
    else {
        assert_true(pread(fd, &byte, 1, place) == 1);
        byte ^= 16;
        assert_true(pwrite(fd, &byte, 1, place) == 1);
    }
    close(fd);
}

static void test_damaged_files(void **state) {
    (void)state;
    for (int file = 0; file < 3; file++) {
        char *path = victim(file, 3), *other = victim((file + 1) % 3, 3), text[128];
        struct stat st;
        fresh();
        assert_int_equal(stat(path, &st), 0);
        spoil(path, st.st_size - 9, -1);   // in a slice
        snprintf(text, sizeof text, "state-%05d-of-00003.safetensors: its hash does not match", file + 1);
        refused(text);
        spoil(path, st.st_size - 9, -1);
        spoil(path, 20, -1);   // in the header
        refused(text);
        spoil(path, 20, -1);
        spoil(path, 0, st.st_size - 4);
        refused("was the copy cut off?");
        spoil(path, 0, 0);
        refused("is 0 bytes");
        rewrite_manifest(edit_hashes);
        refused("too short for a safetensors file");
        assert_int_equal(unlink(path), 0);
        refused("cannot be opened");
        assert_int_equal(mkdir(path, 0777), 0);
        refused("not a regular file");
        assert_int_equal(rmdir(path), 0);
        assert_int_equal(link(other, path), 0);   // another rank's in its place
        rewrite_manifest(edit_hashes);
        refused("00003.safetensors: ");
        free(path); free(other);
    }
}

static void edit_fewer(json_t *j, json_t *f) { (void)j; json_array_remove(f, 2); }
static void edit_swapped(json_t *j, json_t *f) { (void)j; json_t *x = json_incref(json_array_get(f, 0)); json_array_remove(f, 0); json_array_append_new(f, x); }
static void edit_elsewhere(json_t *j, json_t *f) { (void)j; json_object_set_new(json_array_get(f, 1), "name", json_string("../step_00000001/state-00002-of-00003.safetensors")); }
static void edit_negative(json_t *j, json_t *f) { (void)j; json_object_set_new(json_array_get(f, 1), "bytes", json_integer(-1)); }
static void edit_bytes(json_t *j, json_t *f) { (void)j; json_object_set_new(json_array_get(f, 1), "bytes", json_integer(INT64_MAX)); }
static void edit_no_hash(json_t *j, json_t *f) { (void)j; json_object_del(json_array_get(f, 2), "hash"); }
static void edit_short_hash(json_t *j, json_t *f) { (void)j; json_object_set_new(json_array_get(f, 2), "hash", json_string("00")); }
static void edit_long_hash(json_t *j, json_t *f) { (void)j; json_object_set_new(json_array_get(f, 2), "hash", json_string("000000000000000000000000000000000000000000000000000000000000000000000000")); }
static void edit_not_objects(json_t *j, json_t *f) { (void)j; json_array_set_new(f, 0, json_integer(3)); }
static void edit_empty(json_t *j, json_t *f) { (void)j; json_array_clear(f); }
static void edit_no_files(json_t *j, json_t *f) { (void)f; json_object_del(j, "files"); }
static void edit_many(json_t *j, json_t *f) { (void)j; for (int i = 0; i < 100000; i++) json_array_append_new(f, json_null()); }
static void edit_format(json_t *j, json_t *f) { (void)f; json_object_set_new(j, "format", json_string("findap-checkpoint-3")); }
static void edit_format_type(json_t *j, json_t *f) { (void)f; json_object_set_new(j, "format", json_integer(2)); }
static void edit_old_format(json_t *j, json_t *f) { (void)f; json_object_set_new(j, "format", json_string("findap-checkpoint-1")); }
static void edit_progress(json_t *j, json_t *f) { (void)f; json_object_del(j, "progress"); }
static void edit_cursor(json_t *j, json_t *f) { (void)f; json_object_set_new(json_object_get(j, "progress"), "row", json_integer(-2)); }
static void edit_dev(json_t *j, json_t *f) { (void)f; json_object_set_new(json_object_get(j, "progress"), "dev_history_stage_step_loss", json_pack("[i,[],[s],{}]", 1, "x")); json_object_set_new(j, "files", json_null()); }
static void edit_deep(json_t *j, json_t *f) { (void)f; for (int i = 0; i < 1000; i++) { json_t *x = json_array(); json_array_append(x, json_object_get(j, "commit")); json_object_set_new(j, "commit", x); } }
static void edit_list(json_t *j, json_t *f) { (void)f; json_object_clear(j); }

static void test_lying_manifests(void **state) {
    (void)state;
    static const struct { void (*edit)(json_t *, json_t *); const char *text; } cases[] = {
        {edit_fewer, "it was written by 2 ranks"}, {edit_swapped, "where state-00001-of-00003.safetensors belongs"}, {edit_elsewhere, "\"../step_00000001"},
        {edit_negative, "\"bytes\" is -1"}, {edit_bytes, "its manifest says 9223372036854775807"}, {edit_no_hash, "\"hash\" is missing"}, {edit_short_hash, "is not a hash"},
        {edit_long_hash, "is not a hash"}, {edit_not_objects, "\"name\" is missing"}, {edit_empty, "\"files\" is a list of another length"}, {edit_no_files, "\"files\" is missing"}, {edit_many, "another length"},
        {edit_format, "newer findap"}, {edit_format_type, "\"format\" is an integer"}, {edit_old_format, "\"state_hash\" is missing"}, {edit_progress, "\"step\" is missing"}, {edit_cursor, "\"row\" is -2"},
        {edit_dev, "\"files\" is null"}, {edit_deep, "nested deeper"}, {edit_list, "\"format\" is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fresh();
        rewrite_manifest(cases[i].edit);
        refused(cases[i].text);
    }
    fresh();
    char *path = xprintf("%s/lies/checkpoints/step_00000002/manifest.json", fast);
    spoil(path, 30, -1);
    refused("manifest.json: its hash does not match");
    assert_int_equal(unlink(path), 0);
    refused("manifest.json: cannot be opened");
    free(path);
}

static void work_any(Model *m, void *p) {
    char *out = xprintf("%s/lies", fast);
    Error e;
    Progress loaded;
    memset(&loaded, 0, sizeof loaded);
    json_t *id = identity();
    int r = (int)checkpoint_load(out, 2, m, &loaded, id, &e);
    if (m->comm->rank == 0) *(int *)p = r;
    json_decref(id);
    free(loaded.dev);
    free(out);
}
static void test_lying_slices(void **state) {
    (void)state;
#define Q "param.model.layers.1.q.weight"   // 1992 numbers: 0, 512, 1024
    static const struct { int file; const char *from, *to; int64_t count; const char *more, *text; } cases[] = {
        {1, Q "[512:1024]", Q "[5:3]", 0, NULL, "00002-of-00003.safetensors: \"" Q "[5:3]\" is no slice of a tensor of 1992 numbers"},
        {1, Q "[512:1024]", Q "[3:3]", 0, NULL, "is no slice"},
        {1, Q "[512:1024]", Q "[-5:507]", 0, NULL, "is no slice"},
        {1, Q "[512:1024]", Q "[1481:1993]", 0, NULL, "is no slice"},
        {1, Q "[512:1024]", Q "[9223372036854775296:9223372036854775808]", 0, NULL, "is no slice"},
        {1, Q "[512:1024]", Q "[18446744073709552128:18446744073709552640]", 0, NULL, "is no slice"},   // 2^64 + 512
        {1, Q "[512:1024]", Q "[0512:1024]", 0, NULL, "is no slice"},
        {1, Q "[512:1024]", Q "[512:1024]x]", 0, NULL, "is no slice"},
        {1, Q "[512:1024]", Q "[512:+1024]", 0, NULL, "is no slice"},
        {1, Q "[512:1024]", Q "[ 512:1024]", 0, NULL, "is no slice"},
        {1, Q "[512:1024]", Q "[]", 0, NULL, "is no slice"},
        {1, Q "[512:1024]", Q "[512:]", 0, NULL, "is no slice"},
        {1, Q "[512:1024]", Q "[512:1000]", 0, NULL, "is of another type or size"},
        {1, Q "[512:1024]", Q "[512:1000]", 488, NULL, "00003-of-00003.safetensors: " Q "[1024:1992]: the numbers before it, from 1000 on, are missing"},
        {1, Q "[512:1024]", Q "[511:1024]", 513, NULL, "00002-of-00003.safetensors: " Q "[511:1024] overlaps what state-00001-of-00003.safetensors has, which reaches to 512"},
        {1, Q "[512:1024]", Q "[0:512]", 0, NULL, "[0:512] overlaps"},
        {1, Q "[512:1024]", Q, 0, NULL, "is of another type or size"},
        {1, Q "[512:1024]", Q, 1992, NULL, "is of another type or size"},   // a whole one has two dimensions
        {1, Q "[512:1024]", Q "[0:1992]", 1992, NULL, "[0:1992] overlaps"},
        {1, Q "[512:1024]", Q "[512:1024]", 0, Q "[512:768]", "overlaps"},
        {2, Q "[1024:1992]", NULL, 0, NULL, "00002-of-00003.safetensors: " Q " ends at number 1024 of 1992"},
        {0, Q "[0:512]", NULL, 0, NULL, Q "[512:1024]: the numbers before it, from 0 on, are missing"},
        {2, "v.model.norm.weight", NULL, 0, NULL, "v.model.norm.weight is missing"},
        {2, "v.model.norm.weight", "v.model.norm.weight", 254, NULL, "is of another type or size"},
        {2, "v.model.norm.weight", "v.model.norm.weight[0:254]", 254, NULL, "ends at number 254 of 255"},
        {2, "v.model.norm.weight", "v.model.norm.weigh", 0, NULL, "is not a tensor of this model"},
        {2, "v.model.norm.weight", "x.model.norm.weight", 0, NULL, "is not a tensor of this model"},
        {2, "v.model.norm.weight", "v.model.layers.3.norm.weight", 0, NULL, "is not a tensor of this model"},
        {2, "v.model.norm.weight", "", 0, NULL, "is not a tensor of this model"},
        {1, Q "[512:1024]", Q "[512:1024]", 0, "m.model.norm.weight[0:256]", "is no slice"},
        {1, Q "[512:1024]", Q "[512:1024]", 0, "m.model.layers.0.bias[0:256]", "m.model.layers.0.bias[0:512] overlaps what state-00002"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fresh();
        rewrite_state(cases[i].file, cases[i].from, cases[i].to, cases[i].count, DTYPE_F32, cases[i].more);
        refused(cases[i].text);
    }
    fresh();
    rewrite_state(2, "v.model.norm.weight", "v.model.norm.weight", 0, DTYPE_I32, NULL);
    refused("is of another type or size");
    fresh();
    char name[300];
    snprintf(name, sizeof name, "v.%0250d[0:3]", 1);
    rewrite_state(2, "v.model.norm.weight", name, 0, DTYPE_F32, NULL);
    refused("is not a tensor of this model");
    // and what has whole numbers written as a slice is no lie
    fresh();
    rewrite_state(2, "v.model.norm.weight", "v.model.norm.weight[0:255]", 255, DTYPE_F32, NULL);
    int r = -1;
    ranks(2, work_any, &r);
    assert_int_equal(r, CHECKPOINT_LOADED);
}

static void test_random_headers(void **state) {   // with good hashes: nothing may happen but an error, or a load
    (void)state;
    fresh();
    char *path = victim(1, 3);
    Mapped m;
    assert_true(map_file(path, &m, NULL));
    int64_t header = 8;
    for (int i = 0; i < 8; i++) header += (int64_t)m.data[i] << (8 * i);
    Buffer whole = {NULL, 0, 0};
    buffer_add(&whole, m.data, m.size);
    unmap_file(&m);
    int counts[3] = {0};
    for (int k = 0; k < 400; k++) {
        static const char bytes[] = "0123456789[]:{}\",.-mvpe";
        char kept[3];
        int64_t places[3];
        for (int i = 0; i < 3; i++) {
            places[i] = (int64_t)random_below(1, (uint64_t)i, (uint64_t)k, (uint64_t)header);
            kept[i] = whole.data[places[i]];
            if (i <= k % 3) whole.data[places[i]] = bytes[random_below(2, (uint64_t)i, (uint64_t)k, sizeof bytes - 1)];
        }
        assert_true(write_file(path, whole.data, whole.len, NULL));
        rewrite_manifest(edit_hashes);
        int r = 0;
        ranks(1 + k % 2, work_any, &r);
        counts[r]++;
        for (int i = 2; i >= 0; i--) whole.data[places[i]] = kept[i];
    }
    assert_true(counts[CHECKPOINT_DAMAGED] > 300 && counts[CHECKPOINT_OTHER] == 0);
    buffer_free(&whole);
    free(path);
}

// ---------------------------------------------------------------------------------------------------------------
// real processes: 3 ranks, then 2, then this one alone

static void test_processes(void **state) {
    (void)state;
    if (!run("command -v mpicc >/dev/null && command -v mpirun >/dev/null")) { print_message("skipped: no mpicc and mpirun, so checkpoints of several processes are not tested (of threads they are)\n"); skip(); }
    char *out = xprintf("%s/processes", fast), *program = xstrdup(in("processes_test")), *log = xstrdup(in("mpi.txt")), *here = xstrdup(__FILE__);
    bool ok = run("mpicc -std=c11 -O0 -I. -DTEST_PROCESSES %s -o %s -ljansson -lcmocka -lm -lpthread >%s 2>&1", here, program, log);
    for (int size = 3, step = 1; ok && size >= 2; size--, step++)
        ok = run("OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout 60 mpirun --oversubscribe --bind-to none -np %d %s %s %d %d >%s 2>&1", size, program, out, step == 1 ? -1 : step - 1, step, log);
    if (!ok) { run("cat %s >&2", log); fail_msg("see above"); }
    resume_with(1, out, 2);
    resume_with(3, out, 2);
    free(out); free(program); free(log); free(here);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "child") == 0) return child(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_number_of_ranks), cmocka_unit_test(test_any_groups_of_ranks), cmocka_unit_test(test_replicas_that_drift_apart), cmocka_unit_test(test_groups_astride_hosts), cmocka_unit_test(test_an_old_checkpoint_loads), cmocka_unit_test(test_the_model_may_change),
        cmocka_unit_test(test_an_update_waits_for_the_copy), cmocka_unit_test(test_bf16_moments),
        cmocka_unit_test(test_an_end_while_a_save_is_pending), cmocka_unit_test(test_without_memory_for_a_copy), cmocka_unit_test(test_no_room), cmocka_unit_test(test_a_disk_that_lies), cmocka_unit_test(test_one_rank_fails),
        cmocka_unit_test(test_damaged_files), cmocka_unit_test(test_lying_manifests), cmocka_unit_test(test_lying_slices), cmocka_unit_test(test_random_headers),
        cmocka_unit_test(test_every_failing_call), cmocka_unit_test(test_processes),
    };
    return cmocka_run_group_tests(tests, setup_fast, teardown_fast);
}
#endif
