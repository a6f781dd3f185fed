// test_ranks.c: several processes under mpirun, with the CPU twin: 1, 2 and 4 ranks give the same losses in every ZeRO stage, also where groups of them
// share the state and have replicas; a run goes on with another number of ranks; a rank that is killed or hangs ends the job with one line, and nothing is lost. Uses the programs built beside it.
#include "findap/common.h"
#include <sys/ptrace.h>
#include <sys/wait.h>   // defines: waitpid
#include "check.h"
#include "scratch.h"    // defines: directory, setup, teardown, in

static char build[512];   // where this program lies, and train_findap_cpu beside it
static char *output;      // what the last command printed

// runs a command, its stdout and stderr in `output`; gives its exit status, or 128 + the signal
__attribute__((format(printf, 1, 2))) static int run(const char *format, ...) {
    char command[4096];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof command, format, ap);
    va_end(ap);
    free(output);
    Buffer b = {NULL, 0, 0};
    FILE *f = popen(command, "r");
    assert_non_null(f);
    char piece[4096];
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) buffer_add(&b, piece, (int64_t)n);
    buffer_add(&b, "", 1);
    output = b.data;
    int status = pclose(f);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
static const char mpirun[] = "timeout -k 5 200 env OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to none";
static char small[2048];   // model, data and sizes; set by prepare
static bool no_ranks, no_programs;   // no mpirun here; the programs are not built beside this test, as with sanitizers

static const char *unless(const char *flags, const char *name, const char *otherwise) { return strstr(flags, name) ? "" : otherwise; }
static int train(int ranks, const char *flags) {
    const char *steps = unless(flags, "--steps", "--steps 20"), *tokens = unless(flags, "--step-tokens", "--step-tokens 896");
    if (ranks == 1) return run("OMP_NUM_THREADS=1 %s/train_findap_cpu %s %s %s %s 2>&1", build, small, steps, tokens, flags);
    return run("%s -np %d %s/train_findap_cpu %s %s %s %s 2>&1", mpirun, ranks, build, small, steps, tokens, flags);
}
static void must(int expected, int ranks, const char *flags) {
    int status = train(ranks, flags);
    if (status != expected) fail_msg("%d ranks, %s: status %d, expected %d:\n%s", ranks, flags, status, expected, output);
}
// the losses and norms of a run's log.jsonl, as text; the caller frees it
static char *losses(const char *out) {
    char path[512];
    snprintf(path, sizeof path, "%s/log.jsonl", in(out));
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    Buffer b = {NULL, 0, 0};
    char line[8192];
    while (fgets(line, sizeof line, f)) {
        const char *step = strstr(line, "\"step\":"), *loss = strstr(line, "\"loss_nats_per_target\":"), *norm = strstr(line, "\"grad_norm\":");
        if (!strstr(line, "\"event\":\"step\"") || !step || !loss || !norm) continue;
        char text[96];
        int n = snprintf(text, sizeof text, "%d %.4f %.3f\n", atoi(step + 7), atof(loss + 23), atof(norm + 12));   // as the terminal shows them
        buffer_add(&b, text, n);
    }
    fclose(f);
    buffer_add(&b, "", 1);
    return b.data;
}
static void expect_losses(const char *out, const char *of) {
    char *a = losses(out), *b = losses(of);
    if (strcmp(a, b) != 0) fail_msg("%s and %s differ:\n%s\n%s", out, of, a, b);
    free(a); free(b);
}

// a model whose sizes do not divide by the ranks, real documents of the demo, and the run of one rank that all others are held against
static int prepare(void **state) {
    if (setup(state) != 0) return -1;
    char program[600];
    snprintf(program, sizeof program, "%s/train_findap_cpu", build);
    if (!file_exists(program)) { printf("skipped: several ranks: %s is not there\n", program); no_programs = no_ranks = true; return 0; }
    if (run("mpirun --version >/dev/null 2>&1") != 0 || run("ldd %s/train_findap_cpu | grep -q libmpi", build) != 0) {
        printf("skipped: several ranks: no mpirun here, or the programs were built without MPI\n");
        no_ranks = true;
    }
    Error e;
    char config[600];
    snprintf(config, sizeof config, "{\"architectures\": [\"Qwen2ForCausalLM\"], \"model_type\": \"qwen2\", \"vocab_size\": 515, \"hidden_size\": 56, \"intermediate_size\": 136, \"num_hidden_layers\": 3, "
             "\"num_attention_heads\": 7, \"num_key_value_heads\": 1, \"head_dim\": 8, \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-5, \"initializer_range\": 0.05, \"rope_theta\": 10000.0, "
             "\"max_position_embeddings\": 512, \"tie_word_embeddings\": false, \"bos_token_id\": 507, \"eos_token_id\": 511, \"torch_dtype\": \"float32\"}");
    if (run("cd %s && %s/make_demo demo && cp -r demo/model model && %s/prepare --tokenizer model --kind cpt --max-len 120 --out reports demo/reports.jsonl 2>&1 && "
            "%s/prepare --tokenizer model --kind it --template llama3 --max-len 120 --out questions demo/questions.jsonl 2>&1", directory, build, build, build) != 0) { printf("%s", output); return -1; }
    if (!write_file(in("model/config.json"), config, (int64_t)strlen(config), &e)) { printf("%s\n", e.text); return -1; }
    snprintf(small, sizeof small, "--model %s/model --init random --init-seed 5 --data %s/reports %s/questions --seq-len 128 --micro-rows 2 --lr 1e-3", directory, directory, directory);
    char flags[512];
    snprintf(flags, sizeof flags, "--out %s/one", directory);
    int status = train(1, flags);
    if (status != 0) printf("%s", output);
    return status;
}
#define NEED_RANKS if (no_ranks) { skip(); return; }

// seven rows a step: no number of ranks but one and seven divides them
static void test_any_number_of_ranks_and_any_stage_give_the_same_losses(void **state) {
    (void)state;
    NEED_RANKS
    for (int ranks = 2; ranks <= 4; ranks += 2)
        for (int zero = 1; zero <= 3; zero++) {
            char out[32], flags[512];
            snprintf(out, sizeof out, "r%d.%d", ranks, zero);
            snprintf(flags, sizeof flags, "--zero %d --out %s", zero, in(out));
            must(0, ranks, flags);
            expect_losses(out, "one");
        }
    // more ranks than rows
    char flags[512];
    snprintf(flags, sizeof flags, "--step-tokens 384 --steps 3 --overwrite --out %s", in("few1"));
    must(0, 1, flags);
    snprintf(flags, sizeof flags, "--step-tokens 384 --steps 3 --overwrite --out %s", in("few4"));
    must(0, 4, flags);
    expect_losses("few4", "few1");
}

static void test_the_same_bits_twice_and_evaluation(void **state) {
    (void)state;
    NEED_RANKS
    char flags[512];
    snprintf(flags, sizeof flags, "--zero 2 --dev-rows 20 --dev-every 5 --out %s", in("a"));
    must(0, 2, flags);
    snprintf(flags, sizeof flags, "--zero 2 --dev-rows 20 --dev-every 5 --out %s", in("b"));
    must(0, 2, flags);
    assert_int_equal(run("cmp %s %s", in("a/model.safetensors"), in("b/model.safetensors")), 0);
    assert_int_equal(run("cmp %s %s", in("a/best/model.safetensors"), in("b/best/model.safetensors")), 0);
    snprintf(flags, sizeof flags, "--dev-rows 20 --dev-every 5 --out %s", in("c"));
    must(0, 1, flags);
    expect_losses("a", "c");
    assert_int_equal(run("bash -c 'diff <(grep -o \"dev_loss_nats_per_target\\\":[0-9.]\\{6\\}\" %s) <(grep -o \"dev_loss_nats_per_target\\\":[0-9.]\\{6\\}\" %s)'", in("a/log.jsonl"), in("c/log.jsonl")), 0);
}

// Fourteen rows a step: of four ranks each has two micro-batches, the first of which stays in the shard group. That replicas end with the same bits of
// weights and moments every run sees to itself (state_same), or it ends with an error.
static void test_shard_groups_give_the_same_losses(void **state) {
    (void)state;
    NEED_RANKS
    static const char *const ways[] = {"--shard-ranks 1", "--shard-ranks 2 --zero 1", "--shard-ranks 2 --zero 2", "--shard-ranks 2 --zero 3"};
    char flags[512];
    snprintf(flags, sizeof flags, "--step-tokens 1792 --out %s", in("wide"));
    must(0, 1, flags);
    for (int i = 0; i < 4; i++) {
        snprintf(flags, sizeof flags, "--step-tokens 1792 %s --overwrite --out %s", ways[i], in("groups"));
        must(0, 4, flags);
        expect_losses("groups", "wide");
    }
    snprintf(flags, sizeof flags, "--step-tokens 1792 %s --out %s", ways[3], in("again"));
    must(0, 4, flags);
    assert_int_equal(run("cmp %s %s", in("again/model.safetensors"), in("groups/model.safetensors")), 0);   // the same bits twice
}

static void test_shard_groups_are_resumed_with_any_ranks(void **state) {
    (void)state;
    NEED_RANKS
    static const struct { int ranks; const char *way; int stop; } parts[] = {
        {4, "--shard-ranks 2 --zero 1", 5}, {1, "", 3}, {4, "--shard-ranks 2 --zero 3", 4}, {3, "", 4}, {4, "--shard-ranks 4", 0}};
    for (int i = 0; i < 5; i++) {
        char flags[512], stop[64] = "";
        if (parts[i].stop) snprintf(stop, sizeof stop, "--stop-after-steps %d", parts[i].stop);
        snprintf(flags, sizeof flags, "--out %s %s %s %s", in("regrouped"), i ? "--resume" : "", parts[i].way, stop);
        must(parts[i].stop ? 3 : 0, parts[i].ranks, flags);
    }
    expect_losses("regrouped", "one");
}

static void expect_error(int ranks, const char *flags, const char *text) {
    must(1, ranks, flags);
    if (!strstr(output, text)) fail_msg("%s: %s", flags, output);
}
static void test_shard_groups_that_cannot_be(void **state) {
    (void)state;
    NEED_RANKS
    char flags[512];
    snprintf(flags, sizeof flags, "--shard-ranks 3 --out %s", in("x"));
    expect_error(4, flags, "--shard-ranks is 3, which does not divide the 4 ranks");
    snprintf(flags, sizeof flags, "--shard-ranks 1 --out %s", in("x"));
    expect_error(1, flags, "--shard-ranks has no effect here: there is one rank");
    snprintf(flags, sizeof flags, "--shard-ranks 1 --zero 2 --out %s", in("x"));
    expect_error(2, flags, "--zero has no effect here: with --shard-ranks 1 every rank has all of the state");
    snprintf(flags, sizeof flags, "--links copies --out %s", in("x"));
    expect_error(2, flags, "--links is \"copies\", the CPU twin's ranks talk by MPI: auto");
    // ranks with different groups; and replicas that do not begin with the same weights (the files of the second are a bit off, and as long)
    int status = run("%s -np 1 %s/train_findap_cpu %s --steps 3 --out %s : -np 1 %s/train_findap_cpu %s --steps 3 --shard-ranks 1 --out %s 2>&1", mpirun, build, small, in("x"), build, small, in("x"));
    if (status != 1 || !strstr(output, "rank 1 has another program, model, data, recipe or flags than rank 0")) fail_msg("status %d: %s", status, output);
    assert_int_equal(run("cp -r %s %s && printf '\001' | dd of=%s bs=1 seek=$(($(stat -c %%s %s) - 10)) conv=notrunc 2>&1", in("one"), in("off"), in("off/model.safetensors"), in("off/model.safetensors")), 0);
    char data[1024];
    snprintf(data, sizeof data, "--data %s/reports %s/questions --seq-len 128 --steps 3 --shard-ranks 1 --quiet --out %s", directory, directory, in("z"));
    status = run("%s -np 1 %s/train_findap_cpu --model %s %s : -np 1 %s/train_findap_cpu --model %s %s 2>&1", mpirun, build, in("one"), data, build, in("off"), data);
    if (status != 1 || !strstr(output, "error: rank 1 has other weights or moments than rank 0, whose replica it is")) fail_msg("status %d: %s", status, output);
}

static void test_the_gradient_of_all_ranks_is_that_of_one(void **state) {
    (void)state;
    NEED_RANKS
    char flags[512];
    snprintf(flags, sizeof flags, "--dump %s", in("one.st"));
    must(0, 1, flags);
    for (int zero = 1; zero <= 6; zero++) {   // among three, and in two groups of two
        snprintf(flags, sizeof flags, "--zero %d %s --dump %s", zero > 3 ? zero - 3 : zero, zero > 3 ? "--shard-ranks 2" : "", in("three.st"));
        must(0, zero > 3 ? 4 : 3, flags);
        if (file_exists("build/compare_dumps") && run("build/compare_dumps %s %s --most 1e-5 --loss 1e-6", in("one.st"), in("three.st")) != 0) fail_msg("%s: %s", flags, output);
    }
}

static void test_a_run_goes_on_with_another_number_of_ranks(void **state) {
    (void)state;
    NEED_RANKS
    static const struct { int ranks, zero, stop; } parts[] = {{4, 1, 5}, {2, 3, 4}, {1, 0, 3}, {3, 2, 4}, {4, 3, 0}};
    for (int i = 0; i < 5; i++) {
        char flags[512], stage[32] = "", stop[64] = "";
        if (parts[i].zero) snprintf(stage, sizeof stage, "--zero %d", parts[i].zero);
        if (parts[i].stop) snprintf(stop, sizeof stop, "--stop-after-steps %d", parts[i].stop);
        snprintf(flags, sizeof flags, "--out %s %s %s %s", in("moved"), i ? "--resume" : "", stage, stop);
        must(parts[i].stop ? 3 : 0, parts[i].ranks, flags);
    }
    expect_losses("moved", "one");
}

// the loss of OUT/merged on the first step's rows
static double merged_loss(const char *out) {
    int status = run("%s/train_findap_cpu --model %s/merged --data %s/reports %s/questions --seq-len 128 --step-tokens 896 --dump %s 2>&1 | grep -o 'loss [0-9.]*'", build, in(out), directory, directory, in("merged.st"));
    if (status != 0) fail_msg("%s/merged: %s", out, output);
    return atof(output + strlen("loss "));
}

// LoRA: adapters are cut among the ranks, the frozen model is not (ZeRO-3: it is too); and a run goes on with another number of them
static void test_an_adapter_is_the_same_with_any_number_of_ranks(void **state) {
    (void)state;
    NEED_RANKS
    char flags[512], *full = xstrdup(small);
    double loss = 0;
    snprintf(small, sizeof small, "--model %s/one --data %s/reports %s/questions --seq-len 128 --micro-rows 2 --lr 1e-2 --lora-rank 12 --merge", directory, directory, directory);
    snprintf(flags, sizeof flags, "--out %s", in("lora1"));
    must(0, 1, flags);
    for (int ranks = 2; ranks <= 3; ranks++)
        for (int zero = 1; zero <= 3; zero++) {
            char out[32];
            snprintf(out, sizeof out, "lora%d.%d", ranks, zero);
            snprintf(flags, sizeof flags, "--zero %d --out %s", zero, in(out));
            must(0, ranks, flags);
            expect_losses(out, "lora1");
            if (!loss) loss = merged_loss("lora1");
            double d = fabs(merged_loss(out) - loss);   // put together from what the ranks own
            if (!(d < 1e-4)) fail_msg("%d ranks, ZeRO-%d: the merged model's loss is %g apart from that of one rank", ranks, zero, d);
        }
    snprintf(flags, sizeof flags, "--zero 2 --stop-after-steps 3 --out %s", in("lora_moved"));
    must(3, 3, flags);
    snprintf(flags, sizeof flags, "--zero 3 --resume --stop-after-steps 2 --out %s", in("lora_moved"));
    must(3, 2, flags);
    snprintf(flags, sizeof flags, "--resume --out %s", in("lora_moved"));
    must(0, 1, flags);
    expect_losses("lora_moved", "lora1");
    snprintf(small, sizeof small, "%s", full);
    free(full);
}

// starts a job in the background and gives its process number; its output goes to in("job.log")
static pid_t start(int ranks, const char *flags) {
    pid_t pid = fork();
    if (pid != 0) return pid;
    char command[4096];
    snprintf(command, sizeof command, "exec %s -np %d %s/train_findap_cpu %s %s %s %s >%s 2>&1", mpirun, ranks, build, small,
             unless(flags, "--steps", "--steps 20"), unless(flags, "--step-tokens", "--step-tokens 896"), flags, in("job.log"));
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}
static int steps_logged(const char *out) {
    char path[512];
    snprintf(path, sizeof path, "%s/log.jsonl", in(out));
    return file_exists(path) && run("grep -c '\"event\":\"step\"' %s", path) <= 1 ? atoi(output) : 0;
}
static void wait_for_steps(const char *out, int n) { for (int i = 0; i < 3000 && steps_logged(out) < n; i++) usleep(10000); }
// the processes of the job's ranks, by what --out they have
static int ranks_of(const char *out, pid_t *pids) {
    int n = 0;
    run("pgrep -f 'train_findap_cpu.*--out %s( |$)' | while read p; do grep -q '^train_findap_cp' /proc/$p/comm && echo $p; done", in(out));
    for (char *p = strtok(output, "\n"); p && n < 16; p = strtok(NULL, "\n")) pids[n++] = (pid_t)atoi(p);
    return n;
}

static void test_a_killed_rank_ends_the_job_and_a_resume_goes_on(void **state) {
    (void)state;
    NEED_RANKS
    char flags[512];
    int kills = 0;
    for (int trial = 0; trial < 20; trial++) {   // at twenty moments, some of them inside a checkpoint
        pid_t pids[16];
        snprintf(flags, sizeof flags, "--checkpoint-every 2 --steps 90 --zero 2 --out %s %s", in("killed"), trial ? "--resume" : "");
        int before = steps_logged("killed"), status;
        pid_t job = start(2, flags);
        wait_for_steps("killed", before + 1);
        usleep((useconds_t)(1000 * (random_u64(1, 2, (uint64_t)trial) % 60)));
        int n = ranks_of("killed", pids);
        if (n > 0) kill(pids[trial % n], SIGKILL);
        waitpid(job, &status, 0);
        for (int i = 0; i < n; i++) for (int k = 0; k < 500 && kill(pids[i], 0) == 0; k++) usleep(10000);   // mpirun's end is not yet the ranks'
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;   // it was done before the blow
        kills++;
    }
    printf("killed %d times\n", kills);
    assert_true(kills >= 10);
    snprintf(flags, sizeof flags, "--checkpoint-every 2 --steps 90 --zero 2 --out %s --resume", in("killed"));
    must(0, 2, flags);
    // The log has steps twice that were done twice; what counts is the end
    snprintf(flags, sizeof flags, "--checkpoint-every 2 --steps 90 --zero 2 --out %s", in("whole"));
    must(0, 2, flags);
    assert_int_equal(run("cmp %s %s", in("killed/model.safetensors"), in("whole/model.safetensors")), 0);
}

static int count(const char *text, const char *of) { int n = 0; for (const char *p = text; (p = strstr(p, of)) != NULL; p++) n++; return n; }
// alone: only the thread that trains stands still (as one in a system call that does not return), not the process
static void hang(int ranks, const char *out, const char *way, bool alone, const char *words) {
    char flags[512];
    pid_t pids[16];
    int status;
    snprintf(flags, sizeof flags, "--watchdog 2 --steps 100000 --checkpoint-every 0 %s --out %s", way, in(out));
    pid_t job = start(ranks, flags);
    wait_for_steps(out, 3);
    int n = ranks_of(out, pids);
    assert_int_equal(n, ranks);
    double begin = seconds_now();
    if (!alone) kill(pids[1], SIGSTOP);
    else if (ptrace(PTRACE_SEIZE, pids[1], NULL, NULL) != 0 || ptrace(PTRACE_INTERRUPT, pids[1], NULL, NULL) != 0) {
        printf("skipped: one thread that stands still: ptrace: %s\n", strerror(errno));
        kill(job, SIGTERM);
        waitpid(job, &status, 0);
        return;
    }
    waitpid(job, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) fail_msg("the job ended well");
    if (seconds_now() - begin > 30) fail_msg("it took %.0f s", seconds_now() - begin);
    kill(pids[1], SIGKILL); kill(pids[1], SIGCONT);
    run("cat %s", in("job.log"));
    // a busy machine may let a thread that does nothing but count stand still as well
    if (!strstr(output, words) && !(alone && strstr(output, "has stood still for"))) fail_msg("no word of it: %s", output);
    if (count(output, "train_findap: error: ") != 1) fail_msg("not one line: %s", output);
}
static void test_a_hanging_rank_ends_the_job_in_time(void **state) {
    (void)state;
    NEED_RANKS
    hang(2, "hung", "", true, "a rank hangs");
    hang(4, "hung4", "--shard-ranks 2 --zero 3", true, "a rank hangs");   // the others wait in groups
    hang(4, "stopped", "--shard-ranks 2 --zero 3", false, "has stood still for");
    // and where the others may wait as long as they like: while rank 1 makes the model
    char flags[512];
    pid_t pids[16];
    int status, n = 0;
    snprintf(flags, sizeof flags, "--watchdog 2 --steps 100000 --checkpoint-every 0 --out %s", in("early"));
    pid_t job = start(2, flags);
    for (int i = 0; i < 1000 && (n = ranks_of("early", pids)) < 2; i++) usleep(10000);
    assert_int_equal(n, 2);
    for (int i = 0; i < 1000 && run("grep -q /dev/shm/findap. /proc/%d/maps && grep -q /dev/shm/findap. /proc/%d/maps", (int)pids[0], (int)pids[1]) != 0; i++) usleep(1000);   // they have joined the job
    kill(pids[1], SIGSTOP);
    waitpid(job, &status, 0);
    kill(pids[1], SIGKILL); kill(pids[1], SIGCONT);
    run("cat %s", in("job.log"));
    if (!strstr(output, "has stood still for")) fail_msg("no word of it: %s", output);
}

static void test_a_signal_to_one_rank_stops_all_with_a_checkpoint(void **state) {
    (void)state;
    NEED_RANKS
    char flags[512];
    pid_t pids[16];
    int status;
    snprintf(flags, sizeof flags, "--checkpoint-every 0 --out %s", in("asked"));
    pid_t job = start(3, flags);
    wait_for_steps("asked", 3);
    int n = ranks_of("asked", pids);
    if (n > 0) kill(pids[n - 1], SIGTERM);
    waitpid(job, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 3) { run("cat %s", in("job.log")); fail_msg("status %x: %s", status, output); }
    snprintf(flags, sizeof flags, "--checkpoint-every 0 --resume --out %s", in("asked"));
    must(0, 2, flags);
    expect_losses("asked", "one");
}

static void test_errors_are_said_once(void **state) {
    (void)state;
    NEED_RANKS
    char flags[512];
    snprintf(flags, sizeof flags, "--zero 4 --out %s", in("x"));
    must(1, 2, flags);
    int n = 0;
    for (const char *p = output; (p = strstr(p, "train_findap: error:")) != NULL; p++) n++;
    assert_int_equal(n, 1);
    must(1, 1, "--out ''");   // variables of a shell that are not set
    assert_non_null(strstr(output, "error: --out is empty, expected a DIR"));
    must(1, 1, "--out --resume");
    assert_non_null(strstr(output, "error: --out needs a value: DIR, found the flag --resume"));
    snprintf(flags, sizeof flags, "--out %s", in("one"));   // there is a run already
    must(1, 2, flags);
    assert_non_null(strstr(output, "--resume goes on"));
    // ranks that would train different things, and one that cannot begin at all
    int status = run("%s -np 1 %s/train_findap_cpu %s --steps 3 --step-tokens 896 --out %s : -np 1 %s/train_findap_cpu %s --steps 3 --step-tokens 896 --seed 43 --out %s 2>&1", mpirun, build, small, in("y"), build, small, in("y"));
    if (status != 1 || !strstr(output, "rank 1 has another program, model, data, recipe or flags than rank 0")) fail_msg("status %d: %s", status, output);
    // of another micro-batch's size a rank would exchange another number of times
    char other[sizeof small], *two = NULL;
    snprintf(other, sizeof other, "%s", small);
    assert_non_null(two = strstr(other, "--micro-rows 2"));
    two[strlen("--micro-rows ")] = '1';
    status = run("%s -np 1 %s/train_findap_cpu %s --steps 3 --step-tokens 896 --out %s : -np 1 %s/train_findap_cpu %s --steps 3 --step-tokens 896 --out %s 2>&1", mpirun, build, small, in("y"), build, other, in("y"));
    if (status != 1 || !strstr(output, "rank 1 has another program, model, data, recipe or flags than rank 0")) fail_msg("status %d: %s", status, output);
    status = run("%s -np 1 %s/train_findap_cpu %s --steps 3 --out %s : -np 1 %s/train_findap_cpu %s --steps 3 --nonsense --out %s 2>&1", mpirun, build, small, in("y"), build, small, in("y"));
    if (status != 1 || !strstr(output, "--nonsense")) fail_msg("status %d: %s", status, output);
    assert_false(is_directory(in("y/checkpoints")));
}

// A damaged checkpoint that --resume stepped over is none of those to keep, one under another's name is damaged too, and a record that was cut off stays by itself
static void test_damage_is_stepped_over(void **state) {
    (void)state;
    if (no_programs) { skip(); return; }
    char flags[512];
    const char *out = in("dented");
    snprintf(flags, sizeof flags, "--step-tokens 256 --steps 12 --checkpoint-every 4 --keep 2 --stop-after-steps 10 --quiet --out %s", out);
    must(3, 1, flags);   // steps 8 and 10
    assert_int_equal(run("truncate -s -1 %s/checkpoints/step_00000010/state.safetensors && cp -r %s/checkpoints/step_00000008 %s/checkpoints/step_00000077 && truncate -s -20 %s/log.jsonl 2>&1", out, out, out, out), 0);
    snprintf(flags, sizeof flags, "--step-tokens 256 --steps 12 --checkpoint-every 4 --keep 1 --stop-after-steps 1 --resume --out %s", out);
    must(3, 1, flags);
    assert_non_null(strstr(output, "checkpoint of step 10 is damaged"));
    assert_non_null(strstr(output, "is of step 8, its directory's name says 77"));
    assert_non_null(strstr(output, "resumed after step 8"));
    assert_int_equal(run("cd %s/checkpoints && test -e step_00000009 -a ! -e step_00000008", out), 0);
    assert_int_equal(run("grep -q '^{\"event\":\"resume\"' %s/log.jsonl && [ $(grep -vc '}$' %s/log.jsonl) = 1 ]", out, out), 0);
    snprintf(flags, sizeof flags, "--step-tokens 256 --steps 12 --checkpoint-every 4 --keep 1 --quiet --resume --out %s", out);
    must(0, 1, flags);
}

// The disk fails at the k-th call by which the program changes what is under checkpoints/, for every k, or the program is killed there: the run goes on
// where it can, and a resume ends with the bits of the run that nothing happened to. (test_checkpoint does this for several ranks, with a small model of its own.)
static void test_the_disk_fails_at_any_call(void **state) {
    (void)state;
    if (no_programs) { skip(); return; }
    if (run("cc -shared -fPIC -O1 test/fail_shim.c -o %s -ldl 2>&1", in("shim.so")) != 0) { printf("skipped: failing calls: no C compiler here\n"); skip(); return; }
    const char *flags = "--steps 4 --checkpoint-every 2 --step-tokens 256 --keep 1 --quiet";
    assert_int_equal(run("%s/train_findap_cpu %s %s --out %s 2>&1", build, small, flags, in("sound")), 0);
    for (int kill = 0; kill <= 1; kill++)
        for (int k = 1, clean = 0; clean < 4; k++) {
            run("rm -rf %s", in("torn"));
            int status = run("FAIL_UNDER=%s FAIL_AT=%d %s LD_PRELOAD=%s %s/train_findap_cpu %s %s --out %s 2>&1", in("torn/checkpoints/"), k, kill ? "FAIL_KILL=1" : "FAIL_ERRNO=28", in("shim.so"), build, small, flags, in("torn"));
            bool hit = status != 0 || output[0] != 0;
            clean = hit ? 0 : clean + 1;
            if (k > 300) fail_msg("more than 300 calls?");
            if (status == 1 && !strstr(output, "error: ")) fail_msg("call %d: %s", k, output);
            if (status != 0 && run("%s/train_findap_cpu %s %s --out %s --resume 2>&1", build, small, flags, in("torn")) != 0) fail_msg("call %d%s, then --resume: %s", k, kill ? ", killed" : "", output);
            if (run("cmp %s %s && ls %s/checkpoints | grep -c tmp", in("sound/model.safetensors"), in("torn/model.safetensors"), in("torn")) != 1 || output[0] != '0')
                fail_msg("call %d%s: other bits, or something half-written is left: %s", k, kill ? ", killed" : "", output);
            if (clean == 4) printf("%s at each of %d calls\n", kill ? "killed" : "failed", k - 4);
        }
}

int main(int argc, char **argv) {
    (void)argc;
    char *self = realpath(argv[0], NULL);
    snprintf(build, sizeof build, "%.*s", (int)(strrchr(self, '/') - self), self);
    free(self);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_number_of_ranks_and_any_stage_give_the_same_losses), cmocka_unit_test(test_the_same_bits_twice_and_evaluation),
        cmocka_unit_test(test_shard_groups_give_the_same_losses), cmocka_unit_test(test_shard_groups_are_resumed_with_any_ranks), cmocka_unit_test(test_shard_groups_that_cannot_be),
        cmocka_unit_test(test_the_gradient_of_all_ranks_is_that_of_one), cmocka_unit_test(test_a_run_goes_on_with_another_number_of_ranks),
        cmocka_unit_test(test_an_adapter_is_the_same_with_any_number_of_ranks),
        cmocka_unit_test(test_a_killed_rank_ends_the_job_and_a_resume_goes_on), cmocka_unit_test(test_a_hanging_rank_ends_the_job_in_time),
        cmocka_unit_test(test_a_signal_to_one_rank_stops_all_with_a_checkpoint), cmocka_unit_test(test_errors_are_said_once), cmocka_unit_test(test_damage_is_stepped_over), cmocka_unit_test(test_the_disk_fails_at_any_call),
    };
    int failed = cmocka_run_group_tests(tests, prepare, teardown);
    free(output);
    return failed;
}
