// train.h: the training program over any Model: recipe in, adapted Hugging Face directory out. Device-free; train_findap.c
// and train_findap.cu end with `return train_main(argc, argv)`.
//
//     flags -> recipe -> data (every shard opened, every step planned) -> model -> stages of steps -> model directory
//
// One loop (train_run) in which the only state is the model and a Progress; both are in a checkpoint, so the loop neither
// knows nor cares whether it was resumed. Everything that can be wrong about flags, recipe, data and OUT is found before
// the first step.
#ifndef FINDAP_TRAIN_H
#define FINDAP_TRAIN_H
#include "checkpoint.h"    // defines: Progress, checkpoint_save, checkpoint_resume
#include "config.h"        // defines: Config, config_load
#include "flags.h"         // defines: Flag, flags_parse
#include "log.h"           // defines: Log, log_step
#include "lora.h"          // defines: lora_read_config, lora_load_dir, lora_save_dir, lora_init
#include "model.h"         // defines: Model
#include "model_dir.h"     // defines: model_load_dir, model_save_dir
#include "stream.h"        // defines: Data, Step
#include <sys/syscall.h>   // defines: SYS_renameat2

#ifndef FINDAP_RESULTS_LATE
#define FINDAP_RESULTS_LATE 0       // 1: a step's results are read when the next step is on its way, so that a GPU never waits for the host
#endif

#define EXIT_STOPPED 3        // stopped by a signal or --stop-after-steps, checkpoint written: not done, but nothing is wrong
#define MAX_SKIPPED_IN_A_ROW 3

// The one mutable global of the house: a signal handler has nothing else to write to. The first signal asks the loop to
// finish its step; SA_RESETHAND lets the second one of its kind end the process at once.
static volatile sig_atomic_t train_stop_signal = 0;
static void train_on_signal(int number) {
    if (train_stop_signal) _exit(128 + number);
    train_stop_signal = number;
}

typedef struct {
    const char *model, *recipe, *out, *init, *save_dtype, *dump, *schedule, *packing, *adapter, *lora_targets;
    StringList data, dev_data;
    int64_t init_seed, seq_len, step_tokens, micro_rows, steps, epochs, tokens, seed, dev_every, patience, checkpoint_every, keep, log_every, stop_after_steps, lora_rank, lora_seed;
    double stage_values[STAGE_NUMBERS], dev_rows;
    bool resume, overwrite, dry_run, quiet, dev_every_given, lora_rslora, merge;
    ModelOptions memory;
    double watchdog, lora_alpha;
    int64_t shard_ranks;
    Comm comm, shard, replicas;   // all ranks; with --shard-ranks this one's two groups, see comm.h
} TrainOptions;

FN const char *const stage_flags[STAGE_NUMBERS] = {"--weight-decay", "--beta1", "--beta2", "--eps", "--grad-clip", "--lr", "--warmup", "--floor", "--decay"};
#define TRAIN_FLAGS 53
#define TRAIN_DUMP_FORMAT "findap-dump-1"

// fills the table; returns its length. Values of the recipe are shown as defaults; given explicitly they override every stage.
FN int train_flags(TrainOptions *o, Flag *flags) {
    static const char *const stage_help[STAGE_NUMBERS] = {"AdamW's weight decay of matrices", "AdamW's beta1", "AdamW's beta2", "AdamW's epsilon",
        "gradient norm limit, 0: none", "peak learning rate", "warmup as a share of the schedule", "end of the decay as a share of --lr", "wsd: the final decay as a share of the schedule"};
    memset(o, 0, sizeof *o);
    o->memory.zero = 1; o->watchdog = FINDAP_RESULTS_LATE ? 60 : 600;   // a CPU's steps take minutes, and are not all of the same length
    o->lora_targets = "q,k,v,o,gate,up,down"; o->lora_seed = 1;
    o->init = "model"; o->init_seed = 1; o->keep = 2; o->checkpoint_every = 500; o->log_every = 1;
    Recipe r;
    recipe_defaults(&r);
    o->seq_len = DEFAULT_SEQ_LEN; o->micro_rows = r.micro_rows; o->seed = r.seed; o->dev_every = r.dev_every; o->patience = r.dev_patience;
    o->epochs = 1; o->schedule = "linear"; o->packing = "best-fit"; o->step_tokens = 16 * DEFAULT_SEQ_LEN;
    const double big = 4e18;
    const Flag table[] = {
        {"--model", FLAG_STRING, &o->model, "DIR", "Hugging Face directory to start from", 0, 0, false},
        {"--recipe", FLAG_STRING, &o->recipe, "FILE", "recipe (JSON), see findap/recipe.h and data/recipes/", 0, 0, false},
        {"--data", FLAG_LIST, &o->data, "SHARD", "token shards or PREFIXes, instead of --recipe: one stage, one stream a word", 0, 0, false},
        {"--dev-data", FLAG_LIST, &o->dev_data, "SHARD", "with --data: shards to evaluate on", 0, 0, false},
        {"--out", FLAG_STRING, &o->out, "DIR", "where model, best/, checkpoints/ and log.jsonl go", 0, 0, false},
        {"--init", FLAG_STRING, &o->init, "WHAT", "model: weights of --model; random: only its config.json", 0, 0, false},
        {"--init-seed", FLAG_INT, &o->init_seed, "N", "seed of --init random", 0, big, false},
        {"--seq-len", FLAG_INT, &o->seq_len, "N", "tokens of a packed row, at most the model's positions", 2, 1 << 24, false},
        {"--step-tokens", FLAG_INT, &o->step_tokens, "N", "tokens of a step, all micro-batches: 16 rows unless given", 2, 1e12, false},
        {"--micro-rows", FLAG_INT, &o->micro_rows, "N", "rows of a micro-batch: memory, not result", 1, 1 << 20, false},
        {"--steps", FLAG_INT, &o->steps, "N", "schedule's horizon of a stage, in steps", 1, big, false},
        {"--epochs", FLAG_INT, &o->epochs, "N", "... or in epochs", 1, 1e6, false},
        {"--tokens", FLAG_INT, &o->tokens, "N", "... or in tokens", 1, big, false},
        {"--moments", FLAG_STRING, &o->memory.moments, "TYPE", "AdamW's moments: fp32, bf16 or 8bit (GPU)", 0, 0, false},
        {"--gradients", FLAG_STRING, &o->memory.gradients, "TYPE", "what micro-batches are summed in: fp32 or bf16 (GPU)", 0, 0, false},
        {"--recompute", FLAG_STRING, &o->memory.recompute, "WHAT", "instead of kept: none, some of swiglu,norm,ffn,qkv, block, or auto (GPU)", 0, 0, false},
        {"--lora-rank", FLAG_INT, &o->lora_rank, "N", "freeze the model and train an adapter of this rank (LoRA), 0: train all", 0, LORA_MAX_RANK, false},
        {"--lora-alpha", FLAG_DOUBLE, &o->lora_alpha, "X", "the adapter is scaled by alpha / rank, 0: alpha is twice the rank", 0, 1e9, false},
        {"--lora-rslora", FLAG_BOOL, &o->lora_rslora, NULL, "... by alpha / sqrt(rank)", 0, 0, false},
        {"--lora-targets", FLAG_STRING, &o->lora_targets, "LIST", "projections with an adapter", 0, 0, false},
        {"--lora-seed", FLAG_INT, &o->lora_seed, "N", "seed of a fresh adapter", 0, big, false},
        {"--adapter", FLAG_STRING, &o->adapter, "DIR", "PEFT's adapter directory to start from, with its settings", 0, 0, false},
        {"--merge", FLAG_BOOL, &o->merge, NULL, "write the model with the adapter merged in too, to OUT/merged", 0, 0, false},
        {"--zero", FLAG_INT, &o->memory.zero, "N", "ZeRO stage with several ranks: 1 shards moments, 2 gradients too, 3 weights too", 1, 3, false},
        {"--shard-ranks", FLAG_INT, &o->shard_ranks, "N", "share one copy of the state among N neighbouring ranks, as a host's; 0: all", 0, 1 << 20, false},
        {"--links", FLAG_STRING, &o->memory.links, "WHAT", "between the GPUs of a host: auto (copy engines, NCCL what is small), nccl, copies (GPU)", 0, 0, false},
        {"--watchdog", FLAG_DOUBLE, &o->watchdog, "SECONDS", "end the job when a rank lets the others wait so long, 0: never", 0, 1e9, false},
        {"--schedule", FLAG_STRING, &o->schedule, "NAME", "linear, cosine, constant, wsd", 0, 0, false},
        {"--packing", FLAG_STRING, &o->packing, "NAME", "best-fit, or next-fit as in the original recipe", 0, 0, false},
        {"--seed", FLAG_INT, &o->seed, "N", "of the data order", 0, big, false},
        {"--dev-rows", FLAG_DOUBLE, &o->dev_rows, "N", "documents of each stream held out for evaluation (below 1: a share)", 0, 1e12, false},
        {"--dev-every", FLAG_INT, &o->dev_every, "N", "steps between evaluations", 1, big, false},
        {"--patience", FLAG_INT, &o->patience, "N", "end a stage after N evaluations without a lower dev loss, 0: never", 0, 1e6, false},
        {"--checkpoint-every", FLAG_INT, &o->checkpoint_every, "N", "steps between checkpoints, 0: only at the end", 0, big, false},
        {"--keep", FLAG_INT, &o->keep, "N", "checkpoints kept", 1, 1e6, false},
        {"--resume", FLAG_BOOL, &o->resume, NULL, "go on from the newest good checkpoint in --out", 0, 0, false},
        {"--overwrite", FLAG_BOOL, &o->overwrite, NULL, "remove the model, checkpoints and log that are in --out", 0, 0, false},
        {"--save-dtype", FLAG_STRING, &o->save_dtype, "TYPE", "bfloat16, float32 or float16 (default: config.json's)", 0, 0, false},
        {"--dump", FLAG_STRING, &o->dump, "FILE", "first step's loss, batch, logits and gradients as safetensors, then exit", 0, 0, false},
        {"--dry-run", FLAG_BOOL, &o->dry_run, NULL, "print memory, token counts, steps and FLOPs, then exit", 0, 0, false},
        {"--stop-after-steps", FLAG_INT, &o->stop_after_steps, "N", "checkpoint and exit with status 3 after N steps of this process", 1, big, false},
        {"--log-every", FLAG_INT, &o->log_every, "N", "steps between lines on stderr (log.jsonl has all)", 1, big, false},
        {"--quiet", FLAG_BOOL, &o->quiet, NULL, "nothing on stderr but warnings and errors", 0, 0, false},
    };
    int n = (int)(sizeof table / sizeof table[0]);
    memcpy(flags, table, sizeof table);
    for (int i = 0; i < STAGE_NUMBERS; i++, n++) {
        Flag f = {stage_flags[i], FLAG_DOUBLE, &o->stage_values[i], "X", stage_help[i], stage_numbers[i].low, stage_numbers[i].high, false};
        o->stage_values[i] = stage_numbers[i].initial;
        flags[n] = f;
    }
    CHECK(n <= TRAIN_FLAGS);
    return n;
}

// ---------------------------------------------------------------------------------------------------------------
// settings: recipe and flags, and what does not go together

// what any training program's flags have in common
FN bool train_check_running(const TrainOptions *o, Flag *flags, int n, Error *e) {
    if (o->save_dtype && strcmp(o->save_dtype, "bfloat16") != 0 && strcmp(o->save_dtype, "float32") != 0 && strcmp(o->save_dtype, "float16") != 0)
        return fail(e, "--save-dtype is \"%s\", expected bfloat16, float32 or float16", o->save_dtype);
    if (o->resume && o->overwrite) return fail(e, "--resume and --overwrite contradict each other ---> give the one that is meant");
    if (o->quiet && !flag_unused(flags, n, "--log-every", "--quiet prints no line", e)) return false;
    static const char *const running[] = {"--resume", "--overwrite", "--save-dtype", "--checkpoint-every", "--keep", "--stop-after-steps", "--log-every", "--quiet", "--merge"};
    for (int i = 0; i < (int)(sizeof running / sizeof *running) && (o->dump || o->dry_run); i++)
        if (!flag_unused(flags, n, running[i], o->dump ? "--dump does not train" : "--dry-run does not train", e)) return false;
    static const char *const ranks[] = {"--zero", "--shard-ranks", "--watchdog", "--links"};
    for (int i = 0; i < 4 && o->comm.size == 1; i++) if (!flag_unused(flags, n, ranks[i], "there is one rank", e)) return false;
    if (o->shard_ranks > 0 && (int64_t)o->comm.size % o->shard_ranks != 0)
        return fail(e, "--shard-ranks is %" PRId64 ", which does not divide the %d ranks ---> the number of processes on a host", o->shard_ranks, o->comm.size);
    if (o->shard_ranks == 1 && !flag_unused(flags, n, "--zero", "with --shard-ranks 1 every rank has all of the state", e)) return false;
    return true;
}

FN bool train_check_flags(TrainOptions *o, Flag *flags, int n, Error *e) {
    if (!o->model) return fail(e, "--model is missing ---> name a Hugging Face directory, see --help");
    if (!o->recipe == !o->data.n) return fail(e, "expected either --recipe FILE or --data SHARD..., found %s ---> see --help", o->recipe ? "both" : "neither");
    if (!o->out && !o->dump && !o->dry_run) return fail(e, "--out is missing ---> name the directory for the adapted model");
    if (strcmp(o->init, "model") != 0 && strcmp(o->init, "random") != 0) return fail(e, "--init is \"%s\", expected model or random", o->init);
    if (strcmp(o->init, "random") != 0 && !flag_unused(flags, n, "--init-seed", "only --init random draws weights", e)) return false;
    if (strcmp(o->packing, "best-fit") != 0 && strcmp(o->packing, "next-fit") != 0) return fail(e, "--packing is \"%s\", expected best-fit or next-fit", o->packing);
    if (flag_given(flags, n, "--steps") + flag_given(flags, n, "--epochs") + flag_given(flags, n, "--tokens") > 1)
        return fail(e, "more than one of --steps, --epochs and --tokens ---> give the one that is meant");
    if (o->dump && o->dry_run) return fail(e, "--dump and --dry-run contradict each other ---> give the one that is meant");
    if (o->recipe && !flag_unused(flags, n, "--dev-data", "a recipe names its \"dev_shards\" itself", e)) return false;
    if (o->dev_data.n && !flag_unused(flags, n, "--dev-rows", "--dev-data is what is evaluated on", e)) return false;
    return train_check_running(o, flags, n, e);
}

// LoRA's settings: the flags', or those of --adapter, with which the flags that were given must agree
FN bool train_lora(TrainOptions *o, Flag *flags, int n, Error *e) {
    Lora *l = &o->memory.lora, file;
    static const char *const lora_flags[] = {"--lora-alpha", "--lora-rslora", "--lora-targets", "--lora-seed", "--merge"};
    for (int i = 0; i < (int)(sizeof lora_flags / sizeof *lora_flags) && !o->lora_rank && !o->adapter; i++)
        if (!flag_unused(flags, n, lora_flags[i], "without --lora-rank or --adapter there is no adapter", e)) return false;
    if ((o->lora_rank || o->adapter) && strcmp(o->init, "random") == 0) return fail(e, "--init random and LoRA do not go together: an adapter for weights that are not kept is of no use ---> train a model first");
    if (o->adapter && !flag_unused(flags, n, "--lora-seed", "--adapter is where the run starts", e)) return false;
    if ((o->lora_rank || o->adapter) && !o->merge && !flag_unused(flags, n, "--save-dtype", "an adapter is saved in float32, and without --merge there is no model", e)) return false;
    if (!o->lora_rank && !o->adapter) return true;
    l->rank = o->lora_rank; l->alpha = o->lora_alpha > 0 ? o->lora_alpha : 2.0 * (double)o->lora_rank; l->rslora = o->lora_rslora;
    if (!lora_parse_targets(o->lora_targets, &l->targets, e)) return false;
    if (!o->adapter) return true;
    if (!lora_read_config(o->adapter, &file, e)) return false;
    char have[LORA_TEXT_SIZE], want[LORA_TEXT_SIZE];
    const char *where = o->adapter, *hint = "leave the flag out, or start a fresh adapter";
    if (flag_given(flags, n, "--lora-rank") && l->rank != file.rank) return fail(e, "--lora-rank is %" PRId64 ", %s/adapter_config.json says %" PRId64 " ---> %s", l->rank, where, file.rank, hint);
    if (o->lora_alpha > 0 && l->alpha != file.alpha) return fail(e, "--lora-alpha is %g, %s/adapter_config.json says %g ---> %s", l->alpha, where, file.alpha, hint);
    if (l->rslora && !file.rslora) return fail(e, "--lora-rslora is given, %s/adapter_config.json is without ---> %s", where, hint);
    if (flag_given(flags, n, "--lora-targets") && l->targets != file.targets)
        return fail(e, "--lora-targets is %s, %s/adapter_config.json has %s ---> %s", lora_targets_text(l->targets, want), where, lora_targets_text(file.targets, have), hint);
    *l = file;
    return true;
}

// a flag that was given wins over the recipe, in every stage, and says so
FN bool train_override(const TrainOptions *o, Flag *flags, int n, Recipe *r, Error *e) {
    struct { const char *flag; int64_t value; int64_t *place; } integers[] = {{"--seq-len", o->seq_len, &r->seq_len}, {"--step-tokens", o->step_tokens, &r->step_tokens},
        {"--micro-rows", o->micro_rows, &r->micro_rows}, {"--seed", o->seed, &r->seed}, {"--dev-every", o->dev_every, &r->dev_every}, {"--patience", o->patience, &r->dev_patience}};
    for (int i = 0; i < (int)(sizeof integers / sizeof *integers); i++) {
        if (!flag_given(flags, n, integers[i].flag)) continue;
        if (o->recipe && !o->quiet && *integers[i].place != integers[i].value)
            fprintf(stderr, "%s: %" PRId64 " instead of the recipe's %" PRId64 "\n", integers[i].flag, integers[i].value, *integers[i].place);
        *integers[i].place = integers[i].value;
    }
    if (flag_given(flags, n, "--dev-rows")) {
        r->dev_rows = o->dev_rows;
        for (int i = 0; i < r->num_stages; i++) for (int k = 0; k < r->stages[i].num_streams; k++) r->stages[i].streams[k].dev_rows = -1;
    }
    bool steps = flag_given(flags, n, "--steps"), epochs = flag_given(flags, n, "--epochs"), tokens = flag_given(flags, n, "--tokens"), wsd = false;
    for (int i = 0; i < r->num_stages; i++) {
        RecipeStage *s = &r->stages[i];
        if (steps || epochs || tokens) {
            if (o->recipe && !o->quiet) fprintf(stderr, "stage %s: the horizon is %s instead of the recipe's\n", s->name, steps ? "--steps" : epochs ? "--epochs" : "--tokens");
            s->steps = steps ? o->steps : 0; s->epochs = epochs ? o->epochs : 0; s->tokens = tokens ? o->tokens : 0;
        }
        if (flag_given(flags, n, "--schedule") && !schedule_find(o->schedule, "--schedule", &s->schedule, e)) return false;
        if (flag_given(flags, n, "--packing")) s->next_fit = strcmp(o->packing, "next-fit") == 0;
        for (int k = 0; k < STAGE_NUMBERS; k++) {
            double *value = stage_number(s, &stage_numbers[k]);
            if (!flag_given(flags, n, stage_flags[k])) continue;
            if (o->recipe && !o->quiet && *value != o->stage_values[k]) fprintf(stderr, "stage %s: %s %g instead of the recipe's %g\n", s->name, stage_numbers[k].key, o->stage_values[k], *value);
            *value = o->stage_values[k];
        }
        wsd = wsd || s->schedule == SCHEDULE_WSD;
    }
    if (!wsd && !flag_unused(flags, n, "--decay", "no stage has the schedule wsd", e)) return false;
    return recipe_check(r, o->recipe ? o->recipe : "the flags", e);
}

// what an earlier run left in OUT: counts its weights, config.json, adapter, best/ and merged/, and with `clear` removes them
FN int train_earlier_results(const char *out, bool clear) {
    int n = 0;
    DIR *d = opendir(out);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        const char *name = entry->d_name;
        bool weights = (strncmp(name, "model", 5) == 0 || strncmp(name, "adapter_model", 13) == 0) && strstr(name, ".safetensors");
        bool best = strcmp(name, "best") == 0 || strcmp(name, "best.tmp") == 0 || strcmp(name, "merged") == 0;   // directories
        if (!weights && !best && strcmp(name, "config.json") != 0 && strcmp(name, "adapter_config.json") != 0) continue;
        n++;
        char *path = path_join(out, name);
        if (clear && best) remove_directory(path);
        else if (clear) unlink(path);
        free(path);
    }
    if (d) closedir(d);
    return n;
}

// Is an input (model, reference) what this run writes, or removes with --overwrite: OUT itself, its best/ or merged/?
FN bool train_input_kept(const char *flag, const char *input, const char *out, Error *e) {
    static const char *const own[] = {"", "/best", "/merged"};
    char *a = realpath(input, NULL), *b = realpath(out, NULL);
    size_t n = b ? strlen(b) : 0;
    bool ok = true;
    for (int i = 0; a && b && i < 3; i++)
        if (strncmp(a, b, n) == 0 && strcmp(a + n, own[i]) == 0) ok = fail(e, "--out%s is the same directory as %s: %s ---> write elsewhere, the input is not overwritten", own[i], flag, input);
    free(a); free(b);
    return ok;
}

// Can OUT be made and written, and does no other run write there? Looks only, long before train_out_directory does it: a model takes its time to load.
FN bool train_out_reachable(const char *out, Error *e) {
    char *p = xstrdup(out), *log = path_join(out, "log.jsonl"), *checkpoints = path_join(out, "checkpoints");
    while (!file_exists(p)) {   // up to what is there
        char *slash = strrchr(p, '/');
        if (slash && slash != p) { *slash = 0; continue; }
        free(p);
        p = xstrdup(slash ? "/" : ".");
    }
    bool ok = is_directory(p) ? true : fail(e, "--out %s: %s is not a directory ---> choose another path", out, p);
    const char *const written[] = {p, checkpoints};
    for (int i = 0; i < 2; i++)
        if (ok && is_directory(written[i]) && access(written[i], W_OK | X_OK) != 0) ok = fail(e, "--out %s: %s cannot be written: %s ---> choose an output path you may write to", out, written[i], strerror(errno));
    int fd = ok ? open(log, O_RDWR | O_CLOEXEC | O_NONBLOCK) : -1;
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) ok = fail(e, "%s: another run is writing here ---> use another --out, or wait for it to end", log);
    if (fd >= 0) close(fd);
    free(p); free(log); free(checkpoints);
    return ok;
}

// Lets nothing that is in OUT be lost silently.
FN bool train_out_check(const TrainOptions *o, Error *e) {   // may this run use OUT? Touches nothing
    char *b = realpath(o->out, NULL), *checkpoints = path_join(o->out, "checkpoints"), *d = o->adapter ? realpath(o->adapter, NULL) : NULL;
    bool ok = train_out_reachable(o->out, e) && train_input_kept("--model", o->model, o->out, e);
    int64_t n = 0, *steps = checkpoint_list(o->out, false, &n);
    if (ok && b && d && strncmp(d, b, strlen(b)) == 0 && (d[strlen(b)] == '/' || d[strlen(b)] == 0)) ok = fail(e, "--adapter %s is in --out %s ---> write elsewhere, the input is not overwritten", o->adapter, o->out);
    else if (ok && !o->resume && !o->overwrite && n > 0)
        ok = fail(e, "%s: a run is there already ---> --resume goes on, --overwrite removes it, or choose another --out", checkpoints);
    else if (ok && !o->resume && !o->overwrite && train_earlier_results(o->out, false) > 0)
        ok = fail(e, "%s: a model is there already ---> --overwrite removes it, or choose another --out", o->out);
    else if (ok && o->resume && n == 0 && train_earlier_results(o->out, false) > 0)
        ok = fail(e, "%s: has a model but no checkpoint to resume from ---> --overwrite starts again, or choose another --out", o->out);
    free(steps); free(checkpoints); free(b); free(d);
    return ok;
}

// May --dump write its file? It replaces an earlier dump, and nothing else: not a mistyped name, not the shards that are read.
FN bool train_dump_check(const char *path, Error *e) {
    struct stat st;
    if (stat(path, &st) != 0 || (S_ISREG(st.st_mode) && st.st_size == 0)) return true;
    Safetensors *s = safetensors_open(path, NULL);
    const char *format = s ? safetensors_metadata(s, "format") : NULL;
    bool ours = format && strcmp(format, TRAIN_DUMP_FORMAT) == 0;
    const char *kind = S_ISDIR(st.st_mode) ? "a directory" : s ? "a safetensors file of another kind" : "another file";
    safetensors_close(s);
    return ours || fail(e, "--dump %s is there already and is %s, not an earlier dump ---> another name: it would be lost", path, kind);
}

// Makes OUT and opens the log; with --overwrite removes the earlier run. Called once the model is loaded, so that a model which
// cannot be read costs no earlier result.
FN bool train_out_directory(const TrainOptions *o, Log *log, Error *e) {
    char *checkpoints = path_join(o->out, "checkpoints");
    int64_t n = 0, *steps = checkpoint_list(o->out, false, &n);
    bool ok = make_directory(checkpoints, e) && log_open(log, o->out, o->quiet, o->log_every, o->overwrite, e);
    if (ok && o->overwrite) {
        train_earlier_results(o->out, true);
        for (int64_t i = 0; i < n; i++) {
            char *path = checkpoint_path(o->out, steps[i], "");
            remove_directory(path);
            free(path);
        }
    }
    if (ok) { free(steps); steps = checkpoint_list(o->out, true, &n); }   // a killed run's half-written one goes
    free(steps); free(checkpoints);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// the run

// a step on its way: what its line in the log needs
typedef struct { StepRecord record; const StageData *stage; int slot; } TrainPending;

typedef struct {
    TrainOptions *options;
    Recipe *recipe;
    Data *data;
    const Config *config;
    Model *model;
    Step steps_held[2];     // the step on its way and, with late results, the one before it
    float *logp_held[2];    // (rows of a step, T) log-probs of their targets
    float *coef;            // (micro_rows, T)
    Comm *comm;
    Step shared[2];         // with several ranks: this rank's rows of the steps held (the steps themselves are all ranks')
    int *owner;             // (rows of a step) the rank that last got each row
    TrainPending pending[2];
    int num_pending;        // steps whose results were not read yet
    double last_finish;     // when a step's results were last read
    int64_t issued;         // steps given to the model by this process
    bool count_given;       // the model knows how many updates there were
    StreamLoss *losses;     // of the present stage's streams
    Log log;
    Progress progress;
    json_t *identity;
    int64_t steps, saved_step, process_steps;   // of all stages; of the newest checkpoint; done by this process
    CheckpointWriter writer;
} Train;

FN void train_free(Train *t) {
    checkpoint_free(&t->writer);
    if (t->model) model_free(t->model);
    for (int i = 0; i < 2; i++) { step_free(&t->steps_held[i]); step_free(&t->shared[i]); model_host_free(t->logp_held[i]); }
    free(t->coef); free(t->losses); free(t->owner); free(t->progress.dev);
    json_decref(t->identity);
    log_close(&t->log);
}

FN int64_t train_all_steps(const Data *d) {
    int64_t n = 0;
    for (int i = 0; i < d->recipe->num_stages; i++) n += d->stages[i].stop;
    return n;
}

// Forward, and with `trained` > 0 backward, over the rows of a step in micro-batches; log-probs go to logp (rows, T), complete
// once the model has been waited for. With `logits`, all of them (rows, T, V) are stored.
FN void train_pass(Train *t, const Step *s, int64_t trained, float *logp, float *logits) {
    for (int64_t row = 0; row < s->rows; row += t->recipe->micro_rows) {
        int64_t rows = s->rows - row < t->recipe->micro_rows ? s->rows - row : t->recipe->micro_rows, n = rows * s->T;
        Batch b = step_batch(s, row, rows);
        if (trained) for (int64_t i = 0; i < n; i++) t->coef[i] = b.targets[i] >= 0 ? -b.weights[i] / (float)trained : 0;
        model_forward(t->model, &b);
        if (logits) {
            int64_t *index = (int64_t *)xmalloc(n * (int64_t)sizeof(int64_t));
            for (int64_t i = 0; i < n; i++) index[i] = i;
            model_logits(t->model, index, n, logits + row * s->T * t->config->vocab_size);
            free(index);
        }
        model_head(t->model, &b, trained ? t->coef : NULL, logp + row * s->T);
        if (trained) model_backward(t->model, &b);
    }
}

// The sum of -weight * log-prob over a step; its parts are added to sums[stream] and counts[stream].
FN double train_sum(const Step *s, const float *logp, double *sums, int64_t *counts) {
    double sum = 0;
    for (int64_t i = 0; i < s->rows * s->T; i++) {
        if (s->targets[i] < 0 || s->weights[i] == 0) continue;
        double part = -(double)s->weights[i] * (double)logp[i];
        sum += part;
        sums[s->stream[i]] += part;
        counts[s->stream[i]]++;
    }
    return sum;
}

// the same of all ranks
FN void train_total(Train *t, double *sum, double *sums, int64_t *counts, int num_streams) {
    comm_sum_f64(t->comm, sum, 1, "losses");
    comm_sum_f64(t->comm, sums, num_streams, "losses");
    comm_sum_i64(t->comm, counts, num_streams, "losses");
}

// sums and counts into t->losses under the streams' names
FN void train_losses(Train *t, const StageData *s, const double *sums, const int64_t *counts) {
    for (int k = 0; k < s->num_streams; k++) {
        t->losses[k].name = s->streams[k].name;
        t->losses[k].targets = counts[k];
        t->losses[k].loss = counts[k] ? sums[k] / (double)counts[k] : 0;
    }
}

// Was any rank asked to stop? All take the same decision.
FN bool train_stopping(Train *t) { return comm_max_i64(t->comm, train_stop_signal, "the end of a step") != 0; }

// Gives the model one step at the cursor, and moves the cursor.
FN void train_issue(Train *t) {
    Progress *p = &t->progress;
    StageData *s = &t->data->stages[p->stage];
    const RecipeStage *r = &t->recipe->stages[p->stage];
    TrainPending *q = &t->pending[t->num_pending++];
    StepRecord *record = &q->record;
    const Step *mine;
    memset(q, 0, sizeof *q);
    q->stage = s;
    q->slot = (int)(t->issued++ % 2);
    Step *step = &t->steps_held[q->slot];
    record->seconds = seconds_now();   // when it began
    step_fill(step, t->data, (int)p->stage, &p->epoch, &p->row);
    Schedule schedule = {r->schedule, r->lr, r->warmup, r->floor, r->decay, s->horizon};
    record->lr = schedule_lr(&schedule, p->stage_step);
    if (step->trained > 0) {   // rows without any target teach nothing; AdamW on a zero gradient would still decay
        mine = step_share(t->comm, t->config, step, &t->shared[q->slot], t->owner);
        model_zero_grad(t->model);
        train_pass(t, mine, step->trained, t->logp_held[q->slot], NULL);
        // how many updates there were is only known late; the model counts on from where it was told once
        AdamW opt = {record->lr, r->beta1, r->beta2, r->eps, r->weight_decay, r->grad_clip, t->count_given ? 0 : p->adam_t + 1};
        t->count_given = true;
        checkpoint_copied(&t->writer);
        model_update(t->model, &opt);
    }
    p->step++;
    p->stage_step++;
    p->tokens_total += step->filled;
    p->trained_total += step->trained;
    record->stage = r->name;
    record->step = p->step; record->steps = t->steps; record->stage_step = p->stage_step; record->stage_steps = s->stop; record->epoch = p->epoch;
    record->tokens = step->filled; record->trained = step->trained; record->tokens_total = p->tokens_total; record->trained_total = p->trained_total;
    record->fill = (double)step->filled / (double)(step->rows * step->T);
}

// Reads and logs the results of the earliest step on its way. False, with an error, when too many in a row were not finite.
FN bool train_finish(Train *t, double *sums, int64_t *counts, Error *e) {
    Progress *p = &t->progress;
    TrainPending q = t->pending[0];
    StepRecord *record = &q.record;
    const Step *step = &t->steps_held[q.slot];
    double gpu = 0;
    t->pending[0] = t->pending[1];
    t->num_pending--;
    memset(sums, 0, (size_t)q.stage->num_streams * sizeof *sums);
    memset(counts, 0, (size_t)q.stage->num_streams * sizeof *counts);
    if (step->trained > 0) {
        comm_wait_begin(t->comm, "a step on the GPU", false);
        StepResult result = model_result(t->model);
        comm_wait_end(t->comm);
        double sum = train_sum(t->comm->size == 1 ? step : &t->shared[q.slot], t->logp_held[q.slot], sums, counts);
        train_total(t, &sum, sums, counts, q.stage->num_streams);
        record->loss = sum / (double)step->trained;
        record->grad_norm = result.grad_norm;
        record->skipped = result.skipped;
        gpu = result.seconds;
        if (result.skipped) { p->skipped_total++; p->skipped_in_a_row++; }
        else { p->adam_t++; p->skipped_in_a_row = 0; }
    }
    train_losses(t, q.stage, sums, counts);
    record->streams = t->losses; record->num_streams = q.stage->num_streams;
    double now = seconds_now(), begin = record->seconds > t->last_finish ? record->seconds : t->last_finish;   // overlapping steps share no second
    record->seconds = gpu > 0 ? gpu : now - begin;   // the GPU's own time: when the host reads a result says little, with a queue of steps before it
    t->last_finish = now;
    log_step(&t->log, record);
    if (p->skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW)
        return fail(e, "the loss or the gradient was not finite in %d steps in a row, the last one step %" PRId64 "; these steps were skipped, the parameters are those of "
                       "step %" PRId64 " ---> lower --lr (now %g), and look at the data of these steps", MAX_SKIPPED_IN_A_ROW, record->step, record->step - MAX_SKIPPED_IN_A_ROW, record->lr);
    return true;
}
FN bool train_finish_all(Train *t, double *sums, int64_t *counts, Error *e) {
    while (t->num_pending > 0) if (!train_finish(t, sums, counts, e)) return false;
    return true;
}

// what was trained: a Hugging Face directory or, with LoRA, PEFT's
FN bool train_save_model(Train *t, const char *dir, Error *e) {
    const TrainOptions *o = t->options;
    return o->memory.lora.rank ? lora_save_dir(t->model, o->model, dir, e) : model_save_dir(t->model, o->model, dir, o->save_dtype ? o->save_dtype : t->config->dtype, 5000000000ll, e);
}
// the results of a run that is done
FN bool train_save_all(Train *t, Error *e) {
    const TrainOptions *o = t->options;
    if (!train_save_model(t, o->out, e)) return false;
    char *merged = path_join(o->out, "merged");
    bool ok = !o->merge || model_save_dir(t->model, o->model, merged, o->save_dtype ? o->save_dtype : t->config->dtype, 5000000000ll, e);
    free(merged);
    return ok;
}

// writes the model as a directory that appears, or replaces `path`, in one rename
FN bool train_save_best(Train *t, Error *e) {
    char *path = path_join(t->options->out, "best"), *temporary = path_join(t->options->out, "best.tmp");
    bool first = t->comm->rank == 0;
    if (first) remove_directory(temporary);
    bool ok = train_save_model(t, temporary, e);
    if (first && ok && !is_directory(path)) ok = rename(temporary, path) == 0 || fail(e, "%s: cannot be renamed: %s", temporary, strerror(errno));
    else if (first && ok) {
        const unsigned exchange = 2;   // RENAME_EXCHANGE: at no instant is there no best
        if (syscall(SYS_renameat2, AT_FDCWD, temporary, AT_FDCWD, path, exchange) != 0) {   // not every file system can
            remove_directory(path);
            ok = rename(temporary, path) == 0 || fail(e, "%s: cannot be renamed: %s", temporary, strerror(errno));
        }
    }
    if (first) {
        ok = ok && sync_directory_of(path, e);
        remove_directory(temporary);
    }
    free(path); free(temporary);
    return comm_agree(t->comm, ok, e, "saving the best model");
}

// The loss on the stage's dev rows, by stream; keeps the best model. A signal ends it early: then nothing is recorded, and the
// resumed run evaluates again.
FN void train_evaluate(Train *t, double *sums, int64_t *counts) {
    Progress *p = &t->progress;
    StageData *s = &t->data->stages[p->stage];
    double begin = seconds_now(), sum = 0;
    int64_t targets = 0, most = t->recipe->micro_rows * t->comm->size;
    if (most > t->steps_held[0].capacity) most = t->steps_held[0].capacity;
    memset(sums, 0, (size_t)s->num_streams * sizeof *sums);
    memset(counts, 0, (size_t)s->num_streams * sizeof *counts);
    for (int64_t row = 0; row < s->dev.num_rows;) {
        if (train_stopping(t)) return;
        Step *step = &t->steps_held[0];   // no step is on its way
        step_clear(step);
        while (step->rows < most && row < s->dev.num_rows) step_add_row(step, t->data, s->dev_pieces, &s->dev, row++);
        targets += step->trained;
        const Step *mine = step_share(t->comm, t->config, step, &t->shared[0], t->owner);
        train_pass(t, mine, 0, t->logp_held[0], NULL);
        model_wait(t->model);
        sum += train_sum(mine, t->logp_held[0], sums, counts);
    }
    train_total(t, &sum, sums, counts, s->num_streams);
    double loss = targets ? sum / (double)targets : NAN;
    p->dev_stage_step = p->stage_step;
    progress_dev_add(p, loss);
    const bool best = loss < p->best_dev;   // false for NaN
    p->dev_without_gain = best ? 0 : p->dev_without_gain + 1;
    train_losses(t, s, sums, counts);
    log_dev(&t->log, t->recipe->stages[p->stage].name, p->step, p->stage_step, loss, targets, best ? loss : p->best_dev, seconds_now() - begin, t->losses, s->num_streams);
    Error e;
    if (best && (p->step == 0 || train_save_best(t, &e))) { p->best_dev = loss; p->best_dev_step = p->step; }   // that of the model in best/, whatever came later
    else if (best && t->comm->rank == 0) warn("the best model was not saved: %s ---> the next that is better than the one in best/ will be", e.text);
}

FN void train_checkpoint_failed(const Train *t, int64_t step, const Error *why) {
    if (t->comm->rank == 0) warn("no checkpoint of step %" PRId64 ": %s ---> the run goes on, the last good checkpoint is untouched", step, why->text);
}
// Is the checkpoint that is being written on the disk? Collective while there is one. False: it could not be written and is given up.
FN bool train_checkpoint_poll(Train *t, bool wait, Error *e) {
    bool committed = false;
    if (!t->writer.pending) return true;
    if (!checkpoint_poll(&t->writer, wait, &committed, e)) return false;
    if (!committed) return true;
    t->saved_step = t->writer.committed_step;
    char more[96] = "";
    if (t->writer.waited >= 0.1) snprintf(more, sizeof more, ", and for %.1f s more: the next was due before the disk had this one", t->writer.waited);
    log_say(&t->log, "checkpoint of step %" PRId64 " in %.1f s; training stood still for %.2f s%s\n", t->saved_step, t->writer.seconds, t->writer.blocked, more);
    return true;
}
// A checkpoint of the present state. wait: until it is on the disk; else a thread writes it while training goes on.
FN bool train_checkpoint(Train *t, bool wait, Error *e) {
    Error why;
    int64_t pending = t->writer.step;
    if (!train_checkpoint_poll(t, true, &why)) train_checkpoint_failed(t, pending, &why);
    if (t->saved_step == t->progress.step) return true;
    double begin = seconds_now();
    if (!checkpoint_begin(&t->writer, t->options->out, t->model, &t->progress, t->identity, t->options->keep, wait, e)) return false;
    if (!wait) return true;
    t->saved_step = t->progress.step;
    log_say(&t->log, "checkpoint of step %" PRId64 " in %.1f s\n", t->progress.step, seconds_now() - begin);
    return true;
}

// The end: the last checkpoint and the model. A disk without room for the first, six times as large, does not cost the second.
FN bool train_keep_all(Train *t, Error *e) {
    Error why;
    const bool kept = train_checkpoint(t, true, &why), saved = train_save_all(t, e);
    if (!kept && t->comm->rank == 0) warn("no checkpoint of step %" PRId64 ", the last: %s ---> %s, the last good checkpoint is untouched", t->progress.step, why.text, saved ? "the model is saved" : "nor is the model saved");
    return saved;
}

// All stages from the cursor on. Returns 0 when done, EXIT_STOPPED, or 1 with an error.
FN int train_run(Train *t, double *sums, int64_t *counts, Error *e) {
    Progress *p = &t->progress;
    for (;;) {
        const RecipeStage *r = &t->recipe->stages[p->stage];
        StageData *s = &t->data->stages[p->stage];
        bool dev = s->dev.num_rows > 0;
        if (p->stage_step == 0 && p->dev_stage_step != 0) {
            if (!r->keep_optimizer) { checkpoint_copied(&t->writer); model_zero_moments(t->model); p->adam_t = 0; t->count_given = false; }
            p->best_dev = INFINITY; p->dev_without_gain = 0; p->best_dev_step = -1; p->dev_stage_step = -1;
        }
        for (;;) {
            bool last = p->stage_step >= s->stop, stopping = train_stopping(t);
            bool asked = t->options->stop_after_steps > 0 && t->process_steps >= t->options->stop_after_steps;
            bool evaluate = dev && p->dev_stage_step != p->stage_step && (last || p->stage_step % t->recipe->dev_every == 0);
            if ((last || evaluate || asked || stopping) && !train_finish_all(t, sums, counts, e)) return 1;
            if (evaluate) { train_evaluate(t, sums, counts); stopping = train_stopping(t); }
            bool enough = dev && t->recipe->dev_patience > 0 && p->dev_without_gain >= t->recipe->dev_patience;
            if (stopping || (asked && !last)) {
                if (!train_finish_all(t, sums, counts, e) || !state_same(t->model, e) || !train_checkpoint(t, true, e)) return 1;
                log_say(&t->log, "stopped after step %" PRId64 " by %s ---> the same command with --resume goes on\n", p->step, train_stop_signal ? strsignal(train_stop_signal) : stopping ? "a signal to another rank" : "--stop-after-steps");
                return EXIT_STOPPED;
            }
            if (enough && !last) log_say(&t->log, "stage %s ends at step %" PRId64 ": no lower dev loss in %" PRId64 " evaluations, the best was %.4f at step %" PRId64 "\n",
                                         r->name, p->step, p->dev_without_gain, p->best_dev, p->best_dev_step);
            if (last || enough) break;
            train_issue(t);
            t->process_steps++;
            bool due = t->options->checkpoint_every > 0 && p->step % t->options->checkpoint_every == 0;
            if (due || !FINDAP_RESULTS_LATE) { if (!train_finish_all(t, sums, counts, e)) return 1; }
            else if (t->num_pending == 2 && !train_finish(t, sums, counts, e)) return 1;
            Error why;
            int64_t pending = t->writer.step;
            if (!train_checkpoint_poll(t, false, &why)) train_checkpoint_failed(t, pending, &why);
            if (due && !state_same(t->model, e)) return 1;   // replicas that have drifted apart are no reason to go on, nor is what they have to be kept
            if (due && !train_checkpoint(t, false, &why)) train_checkpoint_failed(t, p->step, &why);
        }
        if (p->stage + 1 == t->recipe->num_stages) return 0;
        p->stage++;
        p->stage_step = p->epoch = p->row = 0;
        p->dev_stage_step = -1;
    }
}

// ---------------------------------------------------------------------------------------------------------------
// --dry-run and --dump

FN void train_print_plan(const Train *t) {
    const Recipe *r = t->recipe;
    double tokens = (double)t->steps * (double)r->step_tokens, parameters = (double)config_num_parameters(t->config);
    fprintf(stderr, "recipe %s, seed %" PRId64 ": rows of %" PRId64 " tokens, %" PRId64 " rows a step in micro-batches of %" PRId64 "\n", r->name, r->seed, r->seq_len,
            r->step_tokens / r->seq_len, r->micro_rows);
    for (int i = 0; i < r->num_stages; i++) {
        const StageData *s = &t->data->stages[i];
        RecipeStage *g = &r->stages[i];
        fprintf(stderr, "stage %s: %" PRId64 " of %" PRId64 " steps, lr %g %s warmup %g floor %g, AdamW %s wd %g betas %g %g eps %g clip %g\n", g->name, s->stop, s->horizon, g->lr,
                schedule_name(g->schedule), g->warmup, g->floor, g->keep_optimizer ? "kept" : "fresh", g->weight_decay, g->beta1, g->beta2, g->eps, g->grad_clip);
        for (int k = 0; k < s->num_streams; k++) {
            const Stream *x = &s->streams[k];
            char share[64];
            if (x->take_tokens >= 0) snprintf(share, sizeof share, "%" PRId64 " tokens", x->take_tokens);
            else snprintf(share, sizeof share, "%" PRId64 " documents", x->take);
            fprintf(stderr, "  %-16s %-3s %10" PRId64 " documents %12" PRId64 " tokens; an epoch takes %s; split %" PRId64 " into %" PRId64 ", dropped as over-long %" PRId64 " (%" PRId64
                    " tokens), too short %" PRId64 ", held out %" PRId64 ", dev %" PRId64 "\n", x->name, shard_kind_names[x->kind], x->num_documents, x->num_tokens, share, x->split,
                    x->split_pieces, x->dropped, x->dropped_tokens, x->too_short, x->held_out, x->num_dev);
        }
        fprintf(stderr, "  first epoch: %" PRId64 " rows, %" PRId64 " tokens, %" PRId64 " trained targets; %s packing fills %.3f %%, balance %s\n", s->first_rows, s->first_tokens,
                s->first_trained, g->next_fit ? "next-fit" : "best-fit", 100 * s->first_fill, balance_names[g->balance]);
    }
    double MiB = 1048576.0;
    char plan[MODEL_PLAN_SIZE];
    int64_t bytes = model_memory_bytes(t->config, r->micro_rows, r->seq_len, true, &t->options->memory, plan);
    fprintf(stderr, "memory: model, gradient, moments and activations %.1f MiB (%s), two steps' rows %.1f MiB; token shards are mapped, not loaded\n",
            (double)bytes / MiB, plan, 2 * (double)(r->step_tokens * 24 + r->micro_rows * r->seq_len * 4) / MiB);
    lora_print(&t->options->memory.lora);
    double each = t->options->memory.lora.rank ? 4 : 6;   // nothing is computed for the gradient of a frozen weight
    fprintf(stderr, "in all %" PRId64 " steps, %.4g tokens, %.4g parameters, about %.3g FLOPs (%g x parameters x tokens)\n", t->steps, tokens, parameters, each * parameters * tokens, each);
}

FN bool train_dump(Train *t, double *sums, int64_t *counts, Error *e) {
    Model *m = t->model;
    int64_t epoch = 0, row = 0, V = t->config->vocab_size;
    step_fill(&t->steps_held[0], t->data, 0, &epoch, &row);
    const Step *all = &t->steps_held[0], *s = step_share(t->comm, t->config, all, &t->shared[0], t->owner);
    bool first = t->comm->rank == 0;
    if (all->trained == 0) return fail(e, "the first step has no trained target ---> is this the right data?");
    int64_t places = s->rows * s->T, one = 1, shape[3] = {s->rows, s->T, V}, logits_bytes = 0;
    bool with_logits = mul_size(places, V * 4, &logits_bytes) && logits_bytes < (1ll << 30);
    float *logits = with_logits ? (float *)xmalloc(logits_bytes) : NULL, *scratch = (float *)xmalloc(model_largest_tensor(m) * (int64_t)sizeof(float));
    model_zero_grad(m);
    train_pass(t, s, all->trained, t->logp_held[0], logits);
    model_wait(m);
    double sum = train_sum(s, t->logp_held[0], sums, counts);
    comm_sum_f64(t->comm, &sum, 1, "the loss");
    float loss = (float)(sum / (double)all->trained);
    if (s != all) {   // all rows in the step's order
        int64_t row_bytes = all->T * V * 4, next = 0;
        places = all->rows * all->T; shape[0] = all->rows;
        with_logits = mul_size(places, V * 4, &logits_bytes) && logits_bytes < (1ll << 30);
        float *together = with_logits ? (float *)xmalloc(logits_bytes) : NULL;
        for (int64_t r = 0; r < all->rows && with_logits; r++) {
            if (t->owner[r] == t->comm->rank) memcpy(together + r * all->T * V, logits + next++ * all->T * V, (size_t)row_bytes);
            comm_broadcast(t->comm, together + r * all->T * V, row_bytes, t->owner[r], "logits");
        }
        free(logits);
        logits = together;
        s = all;
    }
    SafetensorsWriter *w = safetensors_writer_new(t->options->dump);
    safetensors_writer_metadata(w, "format", TRAIN_DUMP_FORMAT);
    safetensors_writer_tensor(w, "loss", DTYPE_F32, 1, &one);
    safetensors_writer_tensor(w, "tokens", DTYPE_I32, 2, shape);
    safetensors_writer_tensor(w, "positions", DTYPE_I32, 2, shape);
    safetensors_writer_tensor(w, "targets", DTYPE_I32, 2, shape);
    safetensors_writer_tensor(w, "weights", DTYPE_F32, 2, shape);
    if (with_logits) safetensors_writer_tensor(w, "logits", DTYPE_F32, 3, shape);
    for (int i = 0; i < model_num_tensors(m); i++)
        for (int64_t l = 0; !model_tensor(m, i)->frozen && l < tensor_layers(m, model_tensor(m, i)); l++) tensor_declare(w, model_tensor(m, i), l, "grad.", DTYPE_F32);
    bool ok = !first || (safetensors_writer_begin(w, e) && safetensors_writer_data(w, &loss, 4, e) && safetensors_writer_data(w, s->tokens, places * 4, e) &&
              safetensors_writer_data(w, s->positions, places * 4, e) && safetensors_writer_data(w, s->targets, places * 4, e) && safetensors_writer_data(w, s->weights, places * 4, e) &&
              (!with_logits || safetensors_writer_data(w, logits, logits_bytes, e)));
    for (int i = 0; i < model_num_tensors(m); i++)
        for (int64_t l = 0; !model_tensor(m, i)->frozen && l < tensor_layers(m, model_tensor(m, i)); l++) {
            comm_barrier(t->comm, "writing the dump", true);   // rank 0 may still be at the tensor before
            model_get(m, KIND_GRAD, i, (int)l, scratch);   // all ranks, whatever became of the file
            ok = ok && (!first || safetensors_writer_data(w, scratch, tensor_numbers(model_tensor(m, i)) * 4, e));
        }
    if (ok && first) ok = safetensors_writer_commit(w, e);
    else safetensors_writer_abandon(w);
    ok = comm_agree(t->comm, ok, e, "writing the dump");
    free(logits); free(scratch);
    if (ok && first) fprintf(stderr, "%s: loss %.6f over %" PRId64 " trained targets, %" PRId64 " x %" PRId64 " places%s\n", t->options->dump, loss, s->trained, s->rows, s->T,
                    with_logits ? "" : "; no logits: they would take 1 GiB or more");
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// from flags to exit status

// LoRA's checkpoints do not hold the base model, so the run is that of these weights and no others: a hash of all their files
FN bool train_base_hash(const char *dir, Hash *out, Error *e) {
    Weights *w = weights_open(dir, e);
    if (!w) return false;
    Hash *each = (Hash *)xcalloc(w->num_files, sizeof(Hash));
    for (int f = 0; f < w->num_files; f++) each[f] = hash_bytes(w->files[f]->file.data, w->files[f]->file.size);
    *out = hash_bytes(each, w->num_files * (int64_t)sizeof(Hash));
    free(each);
    weights_close(w);
    return true;
}

// what --resume compares: settings, the model's shape, the data
FN bool train_identity(Train *t, Error *e) {
    char *path = path_join(t->options->model, "config.json");
    Hash config;
    const Lora *lora = &t->options->memory.lora;
    Hash base;
    bool ok = hash_file(path, &config, e) && (!lora->rank || train_base_hash(t->options->model, &base, e));
    free(path);
    if (!ok) return false;
    json_t *data = json_array();
    for (int i = 0; i < t->data->num_files; i++) json_array_append_new(data, json_string(t->data->files[i].hash.hex));
    t->identity = json_object();
    json_object_set_new(t->identity, "recipe", recipe_to_json(t->recipe));
    json_object_set_new(t->identity, "model_config_hash", json_string(config.hex));
    json_object_set_new(t->identity, "data_hashes", data);
    if (lora->rank) json_object_set_new(t->identity, "lora", lora_to_json(lora));
    if (lora->rank) json_object_set_new(t->identity, "model_weights_hash", json_string(base.hex));
    return true;
}

// Have all ranks the same program, data, settings (--shard-ranks: train_groups) and weights (by the sizes of their files)? Else each would train something else, and the
// sums of what they do would look like training.
FN bool train_same(const Train *t, Error *e) {
    const TrainOptions *o = t->options;
    int64_t bytes = 0;
    Hash adapter;
    char *adapter_path = o->adapter ? path_join(o->adapter, "adapter_model.safetensors") : NULL;
    if (!adapter_path || !hash_file(adapter_path, &adapter, NULL)) adapter = hash_bytes("", 0);   // one that cannot be read is an error when it is loaded
    free(adapter_path);
    DIR *d = opendir(o->model);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        struct stat st;
        char *path = path_join(o->model, entry->d_name);
        if (strstr(entry->d_name, ".safetensors") && stat(path, &st) == 0) bytes += (int64_t)st.st_size;
        free(path);
    }
    if (d) closedir(d);
    char *identity = json_dumps(t->identity, JSON_COMPACT | JSON_SORT_KEYS);
    CHECK(identity);
    // micro-batches and evaluations too: they say how many exchanges there are
    char *all = xprintf("%s %s %" PRId64 " %" PRId64 " %s %" PRId64 " %" PRId64 " %" PRId64 " %s %s %s %" PRId64 " %" PRId64 " %" PRId64 " %d %d %s %" PRId64 " %s %d %s", identity, FINDAP_COMMIT,
                        t->recipe ? t->recipe->micro_rows : o->micro_rows, o->dev_every, o->init, o->init_seed, bytes, o->memory.zero,
                        o->memory.moments ? o->memory.moments : "", o->memory.gradients ? o->memory.gradients : "", o->memory.recompute ? o->memory.recompute : "", o->checkpoint_every, o->stop_after_steps,
                        o->keep, o->resume, o->dump != NULL, o->save_dtype ? o->save_dtype : "", o->lora_seed, adapter.hex, o->merge, o->memory.links ? o->memory.links : "");
    Hash hash = hash_bytes(all, (int64_t)strlen(all));
    free(identity);
    free(all);
    return comm_same(t->comm, hash.hex, (int64_t)sizeof hash.hex, e);
}

FN void train_check_tokenizer(const char *model, const Shard *s) {
    char *path = path_join(model, "tokenizer.json"), *tiktoken = path_join(model, "tokenizer.model");
    Hash h;
    if (!file_exists(path) && !file_exists(tiktoken))   // shards are enough to train on, so it is no error
        warn("%s: has neither tokenizer.json nor tokenizer.model, so --out gets none either, and eval, genrm and AutoTokenizer cannot use it ---> copy the tokenizer's files there", model);
    if (file_exists(path) && hash_file(path, &h, NULL) && strcmp(h.hex, s->tokenizer) != 0)
        warn("%s: is not the tokenizer that the data was prepared with (%.8s, not %.8s) ---> prepare with --tokenizer %s, unless the two are equivalent", path, h.hex,
             s->tokenizer, model);
    free(path); free(tiktoken);
}

// the weights that training begins with, a fresh or given adapter among them
FN bool train_weights(Train *t, Error *e) {
    double begin = seconds_now();
    bool random = strcmp(t->options->init, "random") == 0;
    if (random) model_init_random(t->model, (uint64_t)t->options->init_seed);
    else if (!model_load_dir(t->model, t->options->model, e)) return false;
    if (t->options->adapter && !lora_load_dir(t->model, t->options->adapter, e)) return false;
    if (!t->options->adapter) lora_init(t->model, (uint64_t)t->options->lora_seed);   // without LoRA there is nothing to draw
    model_wait(t->model);
    if (!t->options->quiet) fprintf(stderr, "weights %s in %.1f s\n", random ? "drawn" : "loaded", seconds_now() - begin);
    model_zero_moments(t->model);
    return true;
}
FN bool train_make_model(Train *t, Error *e) {
    const Recipe *r = t->recipe;
    t->options->memory.quiet = t->options->quiet;
    t->model = model_create(t->config, r->micro_rows, r->seq_len, true, &t->options->memory);
    int64_t rows = r->step_tokens / r->seq_len > r->micro_rows ? r->step_tokens / r->seq_len : r->micro_rows;   // a step's, or an evaluation's
    for (int i = 0; i < 2; i++) {
        step_new(&t->steps_held[i], rows, r->seq_len);
        if (i == 0) t->owner = (int *)xcalloc(rows, sizeof(int));
        if (t->comm->size > 1) step_new(&t->shared[i], rows / t->comm->size + 1, r->seq_len);
        t->logp_held[i] = (float *)model_host_alloc(rows * r->seq_len * (int64_t)sizeof(float));
    }
    t->coef = (float *)xmalloc(r->micro_rows * r->seq_len * (int64_t)sizeof(float));
    return train_weights(t, e);
}

// the log's first record of this process
FN void train_started(Train *t, bool found, int argc, char **argv) {
    if (t->options->checkpoint_every > 0 && t->options->checkpoint_every < t->steps - t->progress.step) checkpoint_prepare(&t->writer, t->model);
    t->log.start = seconds_now();
    t->log.first_step = t->progress.step;
    json_t *j = json_object(), *command = json_array();
    for (int i = 0; i < argc; i++) {
        char word[4096];
        escape_text(word, sizeof word, argv[i], strlen(argv[i]));   // JSON holds UTF-8 only
        json_array_append_new(command, json_string(word));
    }
    json_object_set_new(j, "event", json_string(found ? "resume" : "start"));
    json_object_set_new(j, "step", json_integer(t->progress.step));
    json_object_set_new(j, "program", json_string(program_name));
    json_object_set_new(j, "commit", json_string(FINDAP_COMMIT));
    json_object_set_new(j, "device", json_string(FINDAP_DEVICE));
    json_object_set_new(j, "threads", json_integer(log_threads()));
    json_object_set_new(j, "command", command);
    if (model_notes(t->model)[0]) json_object_set_new(j, "notes", json_string(model_notes(t->model)));
    json_object_set(j, "run", t->identity);
    log_record(&t->log, j);
}

// the state of the newest good checkpoint, with --resume, else that of a beginning
FN bool train_resume(Train *t, bool *found, Error *e) {
    TrainOptions *o = t->options;
    *found = false;
    t->progress.best_dev = INFINITY;
    t->progress.dev_stage_step = t->progress.best_dev_step = t->saved_step = -1;
    if (o->resume && !checkpoint_resume(o->out, t->model, &t->progress, t->identity, found, e)) return false;
    if (o->resume && !*found && t->comm->rank == 0) warn("%s/checkpoints: there is no checkpoint yet ---> starting from the beginning", o->out);
    if (*found) t->saved_step = t->progress.step;
    return true;
}

FN bool train_begin(Train *t, int argc, char **argv, Error *e) {
    TrainOptions *o = t->options;
    bool found = false;
    if (!train_resume(t, &found, e)) return false;
    if (found) {
        const Progress *p = &t->progress;
        if (p->stage >= t->recipe->num_stages || p->stage_step > t->data->stages[p->stage].stop || p->epoch < 0 || p->row < 0) return fail(e, "%s: the checkpoint's cursor is beyond the recipe", o->out);
        stage_epoch(t->data, (int)p->stage, p->epoch);
        if (p->row > t->data->stages[p->stage].packing.num_rows) return fail(e, "%s: the checkpoint's row %" PRId64 " is beyond the epoch", o->out, p->row);
        log_say(&t->log, "resumed after step %" PRId64 ": stage %s, epoch %" PRId64 ", row %" PRId64 "\n", p->step, t->recipe->stages[p->stage].name, p->epoch, p->row);
    }
    train_started(t, found, argc, argv);
    return true;
}

// what every rank does for itself before anything is made
FN bool train_open(Train *t, Error *e) {
    const TrainOptions *o = t->options;
    Recipe *recipe = t->recipe;
    int64_t dev = 0;
    if (!model_check(t->config, &o->memory, e) || !data_open(t->data, recipe, t->config->vocab_size, e)) return false;
    for (int i = 0; i < recipe->num_stages; i++) dev += t->data->stages[i].dev.num_rows;
    if (recipe->seq_len > t->config->max_position) return fail(e, "seq_len is %" PRId64 ", the model has %" PRId64 " positions ---> use shorter rows: --seq-len %" PRId64, recipe->seq_len, t->config->max_position, t->config->max_position);
    if (dev == 0 && recipe->dev_patience > 0) return fail(e, "patience is %" PRId64 ", but there is no dev data ---> hold some out with --dev-rows", recipe->dev_patience);
    if (dev == 0 && o->dev_every_given) return fail(e, "--dev-every has no effect here: there is no dev data ---> hold some out with --dev-rows");
    return true;
}

FN int train_with_recipe(TrainOptions *o, Recipe *recipe, int argc, char **argv, Error *e) {
    Config config;
    Data data;
    Train t;
    memset(&t, 0, sizeof t);
    memset(&data, 0, sizeof data);
    Comm *c = &o->comm;
    t.options = o; t.recipe = recipe; t.data = &data; t.config = &config; t.comm = c;
    t.log.quiet = o->quiet;
    int result = 1, most = 1;
    double *sums = NULL;
    int64_t *counts = NULL;
    bool first = c->rank == 0;
    if (!comm_agree(c, config_load(o->model, &config, e) && train_open(&t, e), e, "opening the data")) goto end;
    for (int i = 0; i < recipe->num_stages; i++) if (data.stages[i].num_streams > most) most = data.stages[i].num_streams;
    t.steps = train_all_steps(&data);
    if (!o->quiet) train_print_plan(&t);
    if (o->dry_run) { result = 0; goto end; }
    sums = (double *)xcalloc(most, sizeof(double));
    counts = (int64_t *)xcalloc(most, sizeof(int64_t));
    t.losses = (StreamLoss *)xcalloc(most, sizeof(StreamLoss));
    if (first) train_check_tokenizer(o->model, &data.files[0].shard);
    if (!comm_agree(c, (!first || (o->dump ? train_dump_check(o->dump, e) : train_out_check(o, e))) && train_identity(&t, e), e, "looking at --out")) goto end;
    if (!train_same(&t, e) || !comm_agree(c, train_make_model(&t, e), e, "making the model")) goto end;
    if (!comm_agree(c, !first || o->dump || train_out_directory(o, &t.log, e), e, "making --out")) goto end;
    if (o->dump) { result = train_dump(&t, sums, counts, e) ? 0 : 1; goto end; }
    if (!comm_agree(c, train_begin(&t, argc, argv, e), e, "beginning") || !state_same(t.model, e)) goto end;
    result = train_run(&t, sums, counts, e);
    Error lost;
    if (result == 1) train_checkpoint_poll(&t, true, &lost);   // a run that ends in an error, on all ranks, leaves its last checkpoint
    if (result == 0 && (!state_same(t.model, e) || !train_keep_all(&t, e))) result = 1;
    if (result == 0) {
        json_t *j = json_pack("{s:s,s:I,s:I,s:I,s:I}", "event", "done", "step", (json_int_t)t.progress.step, "tokens_total", (json_int_t)t.progress.tokens_total,
                              "trained_targets_total", (json_int_t)t.progress.trained_total, "skipped_steps_total", (json_int_t)t.progress.skipped_total);
        log_record(&t.log, j);
        log_say(&t.log, "done: %" PRId64 " steps, %" PRId64 " tokens, %" PRId64 " trained targets, %" PRId64 " skipped steps; the %s is in %s%s%s\n", t.progress.step,
                t.progress.tokens_total, t.progress.trained_total, t.progress.skipped_total, o->memory.lora.rank ? "adapter" : "model", o->out, o->merge ? ", the model with it in its merged/" : "", t.progress.best_dev_step > 0 ? ", that of the lowest dev loss in its best/" : "");
    }
end:
    train_free(&t);
    data_free(&data);
    free(sums);
    free(counts);
    return result;
}

// flags and recipe, which each rank reads for itself
FN bool train_settings(TrainOptions *o, Flag *flags, int n, int argc, char **argv, Recipe *recipe, bool *help, Error *e) {
    if (!flags_parse(argc, argv, 1, flags, n, NULL, help, e)) return false;
    if (*help) return true;
    o->comm.deadline = o->watchdog;
    o->memory.comm = &o->comm;
    if (!train_check_flags(o, flags, n, e) || !train_lora(o, flags, n, e)) return false;
    if (o->comm.rank > 0) o->quiet = true;
    if (!o->quiet) log_banner(FINDAP_DEVICE, argc, argv);
    if (o->recipe && !recipe_load(o->recipe, recipe, e)) return false;
    if (!o->recipe) recipe_from_data(&o->data, &o->dev_data, recipe);
    if (recipe->seq_len == 0 && !flag_given(flags, n, "--seq-len")) {   // nobody said: as long as the model takes
        Config config;
        if (!config_load(o->model, &config, e)) return false;
        recipe->seq_len = config.max_position < DEFAULT_SEQ_LEN ? config.max_position : DEFAULT_SEQ_LEN;
    }
    return train_override(o, flags, n, recipe, e);
}

// The groups of --shard-ranks: collective. That all ranks have the same flag is asked here, or some would wait for groups that others do not form.
FN bool train_groups(TrainOptions *o, Error *e) {
    Comm *c = &o->comm;
    int n = (int)o->shard_ranks, *hosts;
    if (!comm_same(c, &o->shard_ranks, (int64_t)sizeof o->shard_ranks, e)) return false;
    if (n == 0 || n == c->size) return true;
    comm_group(c, &o->shard, c->rank / n * n, 1, n);
    comm_group(c, &o->replicas, c->rank % n, n, c->size / n);
    o->memory.shard = &o->shard; o->memory.replicas = &o->replicas;
    hosts = (int *)xcalloc(c->size, sizeof(int));
    comm_gather_bytes(c, &c->host, hosts, (int64_t)sizeof(int), "the ranks' hosts", true);
    int astride = shard_astride(hosts, c->size, n);
    if (astride >= 0 && c->rank == 0)
        warn("--shard-ranks %d: rank %d is on another host than rank %d, which shares its state: every micro-batch's weights and gradients cross the network ---> the number of processes on a host, "
             "neighbours side by side (mpirun --map-by ppr:%d:node, srun)", n, astride, astride / n * n, n);
    free(hosts);
    return true;
}

FN void train_signals(void) {
    sigbus_message();
    signal(SIGXFSZ, SIG_IGN);   // a file-size limit is then a failed write like a full disk
    train_stop_signal = 0;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = train_on_signal;
    action.sa_flags = (int)SA_RESETHAND | SA_RESTART;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);   // mpirun passes this one on to every rank
}

// main of train_findap. Exit status: 0 the job was done; 1 an error; EXIT_STOPPED (3) stopped by SIGTERM, SIGINT or
// --stop-after-steps, with a checkpoint from which the same command with --resume goes on.
FN int train_main(int argc, char **argv) {
    program_name = "train_findap";
    weights_can_be_drawn = true;
    train_signals();
    TrainOptions o;
    Recipe recipe;
    memset(&recipe, 0, sizeof recipe);
    Flag flags[TRAIN_FLAGS];
    int n = train_flags(&o, flags), result = 1;
    bool help = false;
    Error e;
    e.text[0] = 0;
    bool ok = comm_begin(&o.comm, 60, &e) && train_settings(&o, flags, n, argc, argv, &recipe, &help, &e);
    if (!comm_agree(&o.comm, ok, &e, "reading flags and recipe")) goto end;
    if (help) {
        if (o.comm.rank == 0) flags_help("train_findap --model DIR (--recipe FILE | --data SHARD...) --out DIR [flags]",
                   "Joint continual pre-training and instruction tuning. A Hugging Face directory in, the same out;\n"
                   "with --lora-rank PEFT's adapter directory out.\n"
                   "Exit status: 0 done, 1 error, 3 stopped with a checkpoint (go on with --resume).", flags, n);
        result = 0;
        goto end;
    }
    o.dev_every_given = flag_given(flags, n, "--dev-every");
    if (train_groups(&o, &e)) result = train_with_recipe(&o, &recipe, argc, argv, &e);
end:
    if (result == 1 && o.comm.rank == 0) fprintf(stderr, "%s: error: %s\n", program_name, e.text);   // all ranks have the same
    comm_end(&o.comm);
    recipe_free(&recipe);
    free(o.data.items);
    free(o.dev_data.items);
    return result;
}

#endif
