// dpo.cu: preference alignment. A model and pairs of answers in, the model that prefers the chosen ones out, as a Hugging Face directory.
//
//     pairs (shards of `prepare --kind pref`) -> the reference's log-probs of all answers, once, into a file -> the policy, step by step
//
// There is never a second model in memory: the reference is loaded, asked for two numbers a pair, and freed before the policy is made. Its
// answers stay in OUT/checkpoints/reference.safetensors and serve every later start of the same run. (Not in OUT itself: there vLLM would take
// them for weights.)
//
// One step: its pairs packed into rows with shared prompts (findap/pairs.h); for each micro-batch a forward pass, the head once for the log-probs,
// the loss and its derivative (findap/preference.h), the head again with the derivative, the backward pass. A pair's derivative depends on that
// pair alone and on counts known beforehand, so micro-batches and ranks change no result.
//
// Iterated alignment is one run after another: --model the last OUT, new pairs sampled from it; the reference is then that model too, and with
// --optimizer that run's moments are kept.
//
// Compiled as C over the CPU reference (dpo_cpu), or by nvcc over the GPU twin (dpo).
#define FINDAP_LIBRARY         // the model, without its main()
#ifdef __CUDACC__
#include "train_findap.cu"
#else
#include "train_findap.c"
#endif
#include "findap/train.h"      // defines: Train, TrainOptions, train_flags, train_out_check, train_checkpoint, ...
#include "findap/pairs.h"      // defines: Pairs, pairs_open, pairs_lay
#include "findap/preference.h" // defines: Preference, preference_loss, preference_stats

// How far a token's log-prob in one pass lies from that in another over the same weights, in nats, root mean square (logp_rounding). Reference and policy meet a pair in
// other company, so in rows of other lengths and at other places.
//
// CPU: every sum is made in the same order all the same, the difference is 0; a few units in the last place for a compiler that orders them by shape.
//
// GPU: attention's tiles fall elsewhere in the answers and cuBLASLt chooses by shape, so sums have other orders, and a last bit that differs is within a few
// layers another rounding of everything: the passes differ as two that round independently. Rounding to bf16 moves a number by 2^-9.3 of itself (rms).
// The residual stream is rounded twice a layer, what is added to it about as often: 128 times in 32 layers, 2^-9.3 sqrt(128) = 2^-5.8 of the last hidden
// state, and as much of the logits' spread, of some 4: 0.07. A logit of 16 is rounded once more when it is stored: 0.025. Together 0.075 in each pass,
// 0.105 between two; on a token whose log-prob feels all of it, that is 2^-3. An answer of 250 such tokens may then be off by 12 nats (six
// deviations); another template or prompt moves it by tens. Measured (dev/LOG.md): 0.043 on random weights of Llama-3-8B's shape, 0.006 on a trained model of
// eight layers. In fp32 numbers have 16 bits more, but sums, then as long as before, lose a few of them again: 2^-17; measured 2^-19.
#ifndef FINDAP_LOGP_ROUNDING
#if defined(__CUDACC__) && !defined(FINDAP_FP32)
#define FINDAP_LOGP_ROUNDING 0x1p-3
#elif defined(__CUDACC__)
#define FINDAP_LOGP_ROUNDING 0x1p-17
#else
#define FINDAP_LOGP_ROUNDING 0x1p-20
#endif
#endif

typedef struct {
    Preference loss;
    const char *preset, *loss_name, *nll_name, *ref, *optimizer;
    int64_t step_pairs, dev_pairs;
    StringList words;          // --pairs
    ScheduleKind schedule;
} DpoOptions;

typedef struct {
    Train train;               // its options, model, progress, log, checkpoints
    DpoOptions *options;
    Pairs pairs;
    PairLogp *logps;           // (num_pairs) of all pairs: the reference's, the policy's newest
    PairLogp *batch;           // (n) those of one step, in its order
    double *weight;            // (n) of their NLL
    double *sums, *slope;      // (n, 2) log-probs of answers, and dL/d of them
    uint8_t *seen;             // (n)
    int64_t *which, *order;    // (n) pairs of a step; (num_train) the epoch's permutation
    int64_t order_epoch;
    bool ref_fresh;            // the reference's log-probs were computed by this process and are not on the disk yet
    Hash model_hash, ref_hash; // of weights and config.json
} Dpo;

// ---------------------------------------------------------------------------------------------------------------
// flags

#define DPO_FLAGS 64
typedef struct { const char *flag; double findap, openfinllm; } PresetValue;
// FinDAP: its script, and where that says nothing the defaults of TRL 0.12 and transformers. Open FinLLM states beta only: the others are TRL's defaults.
FN const PresetValue preset_values[] = {{"--beta", 0.1, 1}, {"--alpha", 1, 0}, {"--lr", 5e-7, 1e-6}, {"--warmup", 0.1, 0}, {"--weight-decay", 0, 0}, {"--beta2", 0.999, 0.999}, {"--epochs", 3, 3}};

FN int dpo_flags(TrainOptions *o, DpoOptions *d, Flag *flags) {
    static const char *const shared[] = {"--model", "--out", "--seq-len", "--micro-rows", "--steps", "--epochs", "--schedule", "--lr", "--warmup", "--floor", "--decay", "--weight-decay", "--beta1", "--beta2", "--eps",
        "--grad-clip", "--seed", "--dev-every", "--moments", "--gradients", "--recompute", "--zero", "--shard-ranks", "--links", "--watchdog", "--checkpoint-every", "--keep", "--resume", "--overwrite", "--save-dtype", "--dry-run",
        "--stop-after-steps", "--log-every", "--quiet", "--lora-rank", "--lora-alpha", "--lora-rslora", "--lora-targets", "--lora-seed", "--adapter", "--merge"};
    Flag all[TRAIN_FLAGS];
    int n = 0, m = train_flags(o, all);
    memset(d, 0, sizeof *d);
    d->loss_name = "dpo"; d->nll_name = "batch"; d->step_pairs = 16; d->loss.beta = 0.1; d->loss.smoothing = 0.1; d->loss.gamma = 0.3; d->loss.nll_batch = 1;
    const Flag table[] = {
        {"--pairs", FLAG_LIST, &d->words, "SHARD", "shards or PREFIXes of `prepare --kind pref`", 0, 0, false},
        {"--ref", FLAG_STRING, &d->ref, "DIR", "the reference model, if it is not --model as it is before training", 0, 0, false},
        {"--preset", FLAG_STRING, &d->preset, "NAME", "findap (beta 0.1, alpha 1, lr 5e-7, warmup 0.1) or openfinllm (beta 1, alpha 0, lr 1e-6, warmup 0); both 3 epochs, weight decay 0, beta2 0.999; flags win", 0, 0, false},
        {"--loss", FLAG_STRING, &d->loss_name, "NAME", "dpo, cdpo, robust, ipo, hinge, dpo-norm or simpo: see findap/preference.h", 0, 0, false},
        {"--beta", FLAG_DOUBLE, &d->loss.beta, "X", "how dear it is to leave the reference", 1e-6, 1e6, false},
        {"--label-smoothing", FLAG_DOUBLE, &d->loss.smoothing, "X", "cdpo, robust: share of pairs that are the wrong way round", 0, 0.499, false},
        {"--gamma-ratio", FLAG_DOUBLE, &d->loss.gamma, "X", "simpo: margin, in units of the mean log-prob (gamma/beta)", 0, 1e6, false},
        {"--alpha", FLAG_DOUBLE, &d->loss.alpha, "X", "weight of the chosen answer's negative log-likelihood", 0, 1e6, false},
        {"--nll", FLAG_STRING, &d->nll_name, "NAME", "its mean: batch (tokens of --nll-batch pairs, as TRL 0.12), token (of the step), sequence", 0, 0, false},
        {"--nll-batch", FLAG_INT, &d->loss.nll_batch, "N", "--nll batch: pairs of a group, TRL's per_device_train_batch_size", 1, 1 << 20, false},
        {"--optimizer", FLAG_STRING, &d->optimizer, "DIR", "AdamW's moments go on from the last checkpoint in DIR, an earlier run's --out; else they start at zero", 0, 0, false},
        {"--step-pairs", FLAG_INT, &d->step_pairs, "N", "pairs of a step", 1, 1 << 20, false},
        {"--dev-pairs", FLAG_INT, &d->dev_pairs, "N", "pairs held out for evaluation, by prompt", 0, 1e12, false},
    };
    for (int i = 0; i < (int)(sizeof shared / sizeof *shared); i++) {
        flags[n++] = *flag_find(all, m, shared[i]);
        if (i == 0) { memcpy(flags + n, table, sizeof table); n += (int)(sizeof table / sizeof *table); }
    }
    CHECK(n <= DPO_FLAGS);
    *(double *)flag_find(flags, n, "--lr")->value = 5e-7;
    o->seq_len = 2048;
    return n;
}

FN bool find_name(const char *name, const char *const *names, int n, const char *flag, int *out, Error *e) {
    Buffer list = {NULL, 0, 0};
    for (int i = 0; i < n; i++) {
        if (strcmp(name, names[i]) == 0) { *out = i; buffer_free(&list); return true; }
        if (i) buffer_add(&list, ", ", 2);
        buffer_add(&list, names[i], (int64_t)strlen(names[i]));
    }
    buffer_add(&list, "", 1);
    fail(e, "%s is \"%s\", expected one of: %s", flag, name, list.data);
    buffer_free(&list);
    return false;
}

FN bool dpo_preset(const DpoOptions *d, Flag *flags, int n, Error *e) {
    static const char *const names[] = {"findap", "openfinllm"};
    int which = 0;
    if (!d->preset) return true;
    if (!find_name(d->preset, names, 2, "--preset", &which, e)) return false;
    for (int i = 0; i < (int)(sizeof preset_values / sizeof *preset_values); i++) {
        Flag *f = flag_find(flags, n, preset_values[i].flag);
        double value = which == 0 ? preset_values[i].findap : preset_values[i].openfinllm;
        if (f->given || (strcmp(f->name, "--epochs") == 0 && flag_given(flags, n, "--steps"))) continue;
        if (f->type == FLAG_INT) *(int64_t *)f->value = (int64_t)value; else *(double *)f->value = value;
    }
    return true;
}

FN bool dpo_settings(TrainOptions *o, DpoOptions *d, Flag *flags, int n, int argc, char **argv, bool *help, Error *e) {
    int kind = 0, nll = 0;
    if (!flags_parse(argc, argv, 1, flags, n, NULL, help, e)) return false;
    if (*help) return true;
    o->comm.deadline = o->watchdog;
    o->memory.comm = &o->comm;
    if (!o->model) return fail(e, "--model is missing ---> name a Hugging Face directory, see --help");
    if (!d->words.n) return fail(e, "--pairs is missing ---> name shards of `prepare --kind pref`, see --help");
    if (!o->out && !o->dry_run) return fail(e, "--out is missing ---> name the directory for the aligned model");
    if (!dpo_preset(d, flags, n, e) || !find_name(d->loss_name, loss_names, NUM_LOSSES, "--loss", &kind, e) || !find_name(d->nll_name, nll_names, NUM_NLLS, "--nll", &nll, e) ||
        !schedule_find(o->schedule, "--schedule", &d->schedule, e)) return false;
    d->loss.kind = (LossKind)kind;
    d->loss.nll = (NllKind)nll;
    if (flag_given(flags, n, "--steps") && flag_given(flags, n, "--epochs")) return fail(e, "both --steps and --epochs ---> give the one that is meant");
    if (!loss_uses_smoothing(d->loss.kind) && !flag_unused(flags, n, "--label-smoothing", "only the losses cdpo and robust smooth labels", e)) return false;
    if (d->loss.kind != LOSS_SIMPO && !flag_unused(flags, n, "--gamma-ratio", "only the loss simpo has a margin", e)) return false;
    if (d->loss.kind == LOSS_SIMPO && !flag_unused(flags, n, "--ref", "the loss simpo has no reference", e)) return false;
    if (d->loss.alpha == 0 && (!flag_unused(flags, n, "--nll", "--alpha is 0", e) || !flag_unused(flags, n, "--nll-batch", "--alpha is 0", e))) return false;
    if (d->loss.nll != NLL_BATCH && !flag_unused(flags, n, "--nll-batch", "only --nll batch has groups", e)) return false;
    if (d->dev_pairs == 0 && !flag_unused(flags, n, "--dev-every", "there are no --dev-pairs", e)) return false;
    if (d->schedule != SCHEDULE_WSD && !flag_unused(flags, n, "--decay", "the schedule is not wsd", e)) return false;
    if (!train_check_running(o, flags, n, e) || !train_lora(o, flags, n, e)) return false;
    if (o->comm.rank > 0) o->quiet = true;
    if (!o->quiet) log_banner(FINDAP_DEVICE, argc, argv);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// log-probs of answers

// Adds the log-probs of a micro-batch's answers to d->sums.
FN void dpo_sum(Dpo *d, const Batch *b, const int32_t *stream, const float *logp) {
    for (int64_t i = 0; i < b->B * b->T; i++) {
        if (stream[i] < 0) continue;
        d->sums[stream[i]] += (double)logp[i];
        d->seen[stream[i] / 2] = 1;
    }
}

// The pairs d->which[0..n): laid into rows, this rank's share through the model, all ranks' sums into d->sums; with `train` backwards too. A pair lies in one
// row, so exactly one rank has its sum, and adding the others' zeros changes no bit of it.
FN void dpo_pass(Dpo *d, Model *m, int64_t n, bool train) {
    Train *t = &d->train;
    Step *all = &t->steps_held[0];
    pairs_lay(all, &d->pairs, d->which, n, t->options->seq_len);
    t->shared[0].T = all->T;
    const Step *s = step_share(t->comm, t->config, all, &t->shared[0], t->owner);
    if (!t->logp_held[0]) t->logp_held[0] = (float *)model_host_alloc(t->options->micro_rows * t->options->seq_len * (int64_t)sizeof(float));   // a model has chosen the GPU by now
    memset(d->sums, 0, (size_t)(2 * n) * sizeof *d->sums);
    for (int64_t row = 0; row < s->rows; row += t->options->micro_rows) {
        Batch b = step_batch(s, row, s->rows - row < t->options->micro_rows ? s->rows - row : t->options->micro_rows);
        const int32_t *stream = s->stream + row * s->T;
        memset(d->seen, 0, (size_t)n);
        model_forward(m, &b);
        model_head(m, &b, NULL, t->logp_held[0]);
        model_wait(m);
        dpo_sum(d, &b, stream, t->logp_held[0]);
        if (!train) continue;
        for (int64_t k = 0; k < n; k++) {
            if (!d->seen[k]) continue;
            PairLogp y = d->batch[k];
            y.logp[CHOSEN] = d->sums[2 * k]; y.logp[REJECTED] = d->sums[2 * k + 1];
            PairLoss l = preference_loss(&d->options->loss, &y);
            d->slope[2 * k] = l.dlogp[CHOSEN] / (double)n - d->options->loss.alpha * d->weight[k];
            d->slope[2 * k + 1] = l.dlogp[REJECTED] / (double)n;
        }
        for (int64_t i = 0; i < b.B * b.T; i++) t->coef[i] = stream[i] < 0 ? 0 : (float)d->slope[stream[i]];
        model_head(m, &b, t->coef, t->logp_held[0]);
        model_backward(m, &b);
    }
    comm_sum_f64(t->comm, d->sums, 2 * n, "log-probs");
}

// The log-probs of the answers of pairs[0..n) into d->logps, by a forward pass: as the reference's, or as the policy's. False: a signal asked to stop.
FN bool dpo_logps(Dpo *d, Model *m, const int64_t *pairs, int64_t n, bool reference) {
    for (int64_t begin = 0, k; begin < n; begin += k) {
        if (train_stopping(&d->train)) return false;
        k = n - begin < d->options->step_pairs ? n - begin : d->options->step_pairs;
        memcpy(d->which, pairs + begin, (size_t)k * sizeof *pairs);
        dpo_pass(d, m, k, false);
        for (int64_t i = 0; i < 2 * k; i++) {
            PairLogp *y = &d->logps[d->which[i / 2]];
            *(reference ? &y->ref[i % 2] : &y->logp[i % 2]) = d->sums[i];
        }
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// the reference's log-probs, kept in a file: chosen, rejected F64 (P), sums in double of fp32 log-probs

typedef struct { const char *key, *value, *what; } ReferenceKey;
enum { REFERENCE_KEYS = 4 };
FN void reference_keys(const Dpo *d, ReferenceKey *k) {
    const ReferenceKey keys[REFERENCE_KEYS] = {{"format", "findap-reference-1", "format"}, {"weights", d->ref_hash.hex, "reference weights"}, {"pairs", d->pairs.hash.hex, "pairs"}, {"device", FINDAP_DEVICE, "device"}};
    memcpy(k, keys, sizeof keys);
}
FN Hash reference_values_hash(const double *chosen, const double *rejected, int64_t n) {
    XXH3_state_t *state = XXH3_createState();
    CHECK(state && XXH3_128bits_reset(state) == XXH_OK);
    XXH3_128bits_update(state, chosen, (size_t)n * sizeof *chosen);
    XXH3_128bits_update(state, rejected, (size_t)n * sizeof *rejected);
    Hash h = hash_digest(XXH3_128bits_digest(state));
    XXH3_freeState(state);
    return h;
}

FN bool reference_save(const Dpo *d, const char *path, Error *e) {
    int64_t n = d->pairs.num_pairs;
    double *values = (double *)xmalloc(2 * n * (int64_t)sizeof(double));
    for (int64_t i = 0; i < 2 * n; i++) values[i] = d->logps[i % n].ref[i / n];
    ReferenceKey keys[REFERENCE_KEYS];
    reference_keys(d, keys);
    SafetensorsWriter *w = safetensors_writer_new(path);
    for (int i = 0; i < REFERENCE_KEYS; i++) safetensors_writer_metadata(w, keys[i].key, keys[i].value);
    safetensors_writer_metadata(w, "values", reference_values_hash(values, values + n, n).hex);
    safetensors_writer_tensor(w, "chosen", DTYPE_F64, 1, &n);
    safetensors_writer_tensor(w, "rejected", DTYPE_F64, 1, &n);
    bool ok = safetensors_writer_begin(w, e) && safetensors_writer_data(w, values, 2 * n * (int64_t)sizeof(double), e);
    free(values);
    if (ok) return safetensors_writer_commit(w, e);
    safetensors_writer_abandon(w);
    return false;
}

// *found: the file is there and serves. False, with an error: it is there and is another's, or damaged. `replace`: then it is as if it were not there.
FN bool reference_load(Dpo *d, const char *path, bool replace, bool *found, Error *e) {
    *found = false;
    if (!file_exists(path)) return true;
    int64_t n = d->pairs.num_pairs;
    ReferenceKey keys[REFERENCE_KEYS];
    reference_keys(d, keys);
    Safetensors *s = safetensors_open(path, e);
    bool ok = s != NULL;
    for (int i = 0; ok && i < REFERENCE_KEYS; i++) {
        const char *value = safetensors_metadata(s, keys[i].key);
        if (!value || strcmp(value, keys[i].value) != 0)
            ok = fail(e, "%s: the reference's log-probs are of another %s: %.40s, expected %s ---> give the same --model, --ref, --pairs and --seq-len, or another --out, or remove this file", path, keys[i].what, value ? value : "none", keys[i].value);
    }
    const SafeTensor *x[2] = {ok ? safetensors_find(s, "chosen") : NULL, ok ? safetensors_find(s, "rejected") : NULL};
    for (int side = 0; ok && side < 2; side++)
        if (!x[side] || x[side]->dtype != DTYPE_F64 || x[side]->rank != 1 || x[side]->count != n || (uintptr_t)x[side]->data % sizeof(double) != 0) ok = fail(e, "%s: expected chosen and rejected of type F64, %" PRId64 " each ---> remove this file", path, n);
    const char *values = ok ? safetensors_metadata(s, "values") : NULL;
    if (ok && (!values || strcmp(values, reference_values_hash((const double *)x[0]->data, (const double *)x[1]->data, n).hex) != 0)) ok = fail(e, "%s: is damaged: its hash does not match ---> remove this file", path);
    for (int64_t i = 0; ok && i < 2 * n; i++) {
        double value = ((const double *)x[i % 2]->data)[i / 2];
        if (!isfinite(value)) ok = fail(e, "%s: the log-prob of pair %" PRId64 " is not finite ---> remove this file", path, i / 2);
        d->logps[i / 2].ref[i % 2] = value;
    }
    if (s) safetensors_close(s);
    if (ok) *found = true;
    return ok || replace;
}

// Writes the reference's log-probs that were computed, over another run's if there are any. Collective.
FN bool dpo_keep_reference(Dpo *d, Error *e) {
    Train *t = &d->train;
    if (!d->ref_fresh) return true;
    char *directory = path_join(t->options->out, "checkpoints"), *path = path_join(directory, "reference.safetensors");
    bool ok = comm_agree(t->comm, t->comm->rank != 0 || (make_directory(directory, e) && reference_save(d, path, e)), e, "saving the reference's log-probs");
    if (ok) log_say(&t->log, "reference: kept in %s\n", path);
    d->ref_fresh = false;
    free(path); free(directory);
    return ok;
}

// From the file, or by a forward pass of the reference over all pairs; kept at once, unless (--overwrite) another run's would be lost: those go when all that this run
// reads has been read. Returns 0, EXIT_STOPPED or 1 with an error.
FN int dpo_reference(Dpo *d, Error *e) {
    Train *t = &d->train;
    const TrainOptions *o = t->options;
    const char *from = d->options->ref ? d->options->ref : o->model;
    char *path = path_join(o->out, "checkpoints/reference.safetensors");
    bool found = false, ok = comm_agree(t->comm, reference_load(d, path, o->overwrite, &found, e), e, "the reference's log-probs");
    if (ok) found = comm_max_i64(t->comm, !found, "the reference's log-probs") == 0;   // all, or none
    if (ok && found) log_say(&t->log, "reference: log-probs of %" PRId64 " pairs from %s\n", d->pairs.num_pairs, path);
    int result = ok ? 0 : 1;
    if (ok && !found) {
        Config config;
        double begin = seconds_now();
        Model *m = NULL;
        ModelOptions plain = o->memory;   // with LoRA the reference is the model without its adapter
        plain.lora.rank = 0;
        ok = config_load(from, &config, e) && model_check(&config, &plain, e);
        if (ok && config.vocab_size < t->config->vocab_size) ok = fail(e, "%s: has a vocabulary of %d, that of --model is %d ---> choose a reference of the same family", from, (int)config.vocab_size, (int)t->config->vocab_size);
        if (ok && config.max_position < o->seq_len) ok = fail(e, "%s: has %d positions, rows have %" PRId64 " ---> use shorter rows: --seq-len", from, (int)config.max_position, o->seq_len);
        ok = comm_agree(t->comm, ok, e, "the reference's config.json");   // models are made, and unmade, by all ranks together
        if (ok) {
            m = model_create(&config, o->micro_rows, o->seq_len, false, &plain);
            ok = model_load_dir(m, from, e);
        }
        ok = comm_agree(t->comm, ok, e, "loading the reference");
        result = ok ? 0 : 1;
        int64_t *all = permutation_new(d->pairs.num_pairs, 0, 0);   // shuffled: pairs of one length do not all come together
        if (ok && !dpo_logps(d, m, all, d->pairs.num_pairs, true)) {
            result = EXIT_STOPPED;
            log_say(&t->log, "stopped by a signal while the reference's log-probs were computed; nothing was trained ---> the same command begins again\n");
        }
        free(all);
        if (m) model_free(m);
        for (int64_t i = 0; result == 0 && i < 2 * d->pairs.num_pairs; i++)
            if (!isfinite(d->logps[i / 2].ref[i % 2])) { fail(e, "%s: the reference's log-prob of an answer of pair %" PRId64 " is not finite ---> are these weights whole?", from, i / 2); result = 1; }
        if (result == 0) log_say(&t->log, "reference: log-probs of %" PRId64 " pairs by %s in %.1f s\n", d->pairs.num_pairs, from, seconds_now() - begin);
        d->ref_fresh = result == 0;
        bool others = comm_max_i64(t->comm, file_exists(path), "the reference's log-probs") != 0;
        if (result == 0 && !others && !dpo_keep_reference(d, e)) result = 1;
    }
    free(path);
    return result;
}

// ---------------------------------------------------------------------------------------------------------------
// what a run says

FN void dpo_record(json_t *j, const Preference *p, const PreferenceStats *s, const char *prefix) {
    const struct { const char *name; double value; } values[] = {
        {"loss_nats_per_pair", s->loss}, {"preference_loss", s->preference}, {"nll_nats_per_token", s->nll}, {"reward_chosen", s->reward[CHOSEN]}, {"reward_rejected", s->reward[REJECTED]},
        {"reward_margin", s->reward[CHOSEN] - s->reward[REJECTED]}, {"accuracy_share", s->accuracy}, {"logp_chosen_nats_per_answer", s->logp[CHOSEN]}, {"logp_rejected_nats_per_answer", s->logp[REJECTED]},
        {"reward_kl_nats_per_answer", p->kind == LOSS_SIMPO ? NAN : s->kl}};
    for (int i = 0; i < (int)(sizeof values / sizeof *values); i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%s", prefix, values[i].name);
        json_object_set_new(j, name, json_finite(values[i].value));
    }
}
FN void dpo_text(char *out, size_t size, const Preference *p, const PreferenceStats *s) {
    char kl[32] = "-";
    if (p->kind != LOSS_SIMPO) snprintf(kl, sizeof kl, "%+.3f", s->kl);
    snprintf(out, size, "loss %8.4f | pref %8.4f nll %7.4f | rewards %+8.4f %+8.4f margin %+8.4f right %5.1f %% | logp %8.2f %8.2f kl %s", s->loss, s->preference, s->nll, s->reward[CHOSEN], s->reward[REJECTED],
             s->reward[CHOSEN] - s->reward[REJECTED], 100 * s->accuracy, s->logp[CHOSEN], s->logp[REJECTED], kl);
}

FN void dpo_log_step(Dpo *d, const StepRecord *r, const PreferenceStats *s) {
    Log *l = &d->train.log;
    char text[512];
    json_t *j = json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:I}", "event", "step", "step", (json_int_t)r->step, "epoch", (json_int_t)r->epoch, "pairs", (json_int_t)s->pairs, "tokens", (json_int_t)r->tokens,
                          "trained_targets", (json_int_t)r->trained, "tokens_total", (json_int_t)r->tokens_total);
    dpo_record(j, &d->options->loss, s, "");
    json_object_set_new(j, "fill_share", json_real(r->fill));
    json_object_set_new(j, "lr", json_real(r->lr));
    json_object_set_new(j, "grad_norm", json_finite(r->grad_norm));
    json_object_set_new(j, "skipped", json_boolean(r->skipped));
    json_object_set_new(j, "step_seconds", json_real(r->seconds));
    json_object_set_new(j, "pairs_per_second", json_finite((double)s->pairs / r->seconds));
    json_object_set_new(j, "tokens_per_second", json_finite((double)r->tokens / r->seconds));
    log_record(l, j);
    if (l->quiet || (r->step % l->every != 0 && r->step != r->steps && !r->skipped)) return;
    log_bar_clear(l);
    dpo_text(text, sizeof text, &d->options->loss, s);
    fprintf(stderr, "step %6" PRId64 "/%" PRId64 " | epoch %" PRId64 " | %s | norm %8.3f | lr %.2e | %8.1f ms | %6.2f pairs/s | %8.0f tok/s%s\n", r->step, r->steps, r->epoch, text, r->grad_norm, r->lr, 1e3 * r->seconds,
            (double)s->pairs / r->seconds, (double)r->tokens / r->seconds, r->skipped ? " | SKIPPED: not finite" : "");
    log_bar(l, r);
}

FN void dpo_print_plan(const Dpo *d) {
    const Train *t = &d->train;
    const TrainOptions *o = t->options;
    const Preference *p = &d->options->loss;
    const double *v = o->stage_values;   // in the order of stage_flags
    char nll[64] = "no NLL", extra[64] = "", plan[MODEL_PLAN_SIZE];
    if (p->alpha > 0) snprintf(nll, sizeof nll, "alpha %g, NLL by %s", p->alpha, nll_names[p->nll]);
    if (p->alpha > 0 && p->nll == NLL_BATCH) snprintf(nll + strlen(nll), sizeof nll - strlen(nll), " of %" PRId64, p->nll_batch);
    if (loss_uses_smoothing(p->kind)) snprintf(extra, sizeof extra, ", label smoothing %g", p->smoothing);
    if (p->kind == LOSS_SIMPO) snprintf(extra, sizeof extra, ", gamma ratio %g", p->gamma);
    fprintf(stderr, "loss %s, beta %g%s, %s; reference %s\n", loss_names[p->kind], p->beta, extra, nll, p->kind == LOSS_SIMPO ? "none" : d->options->ref ? d->options->ref : "the model before training");
    fprintf(stderr, "pairs: %" PRId64 " for training, %" PRId64 " for evaluation, %.1f tokens each as they lie in rows; dropped as longer than a row of %" PRId64 " %" PRId64 " (%" PRId64 " tokens), with an untrained answer %" PRId64 "\n",
            d->pairs.num_train, d->pairs.num_dev, (double)d->pairs.num_tokens / (double)d->pairs.num_pairs, o->seq_len, d->pairs.dropped, d->pairs.dropped_tokens, d->pairs.untrained);
    fprintf(stderr, "%" PRId64 " steps of %" PRId64 " pairs, seed %" PRId64 ", lr %g %s warmup %g floor %g, AdamW wd %g betas %g %g eps %g clip %g; micro-batches of %" PRId64 " rows\n", t->steps, d->options->step_pairs, o->seed, v[5],
            schedule_name(d->options->schedule), v[6], v[7], v[0], v[1], v[2], v[3], v[4], o->micro_rows);
    lora_print(&o->memory.lora);
    double MiB = 1048576.0, each = (double)d->pairs.num_tokens / (double)d->pairs.num_pairs, parameters = (double)config_num_parameters(t->config);
    int64_t bytes = model_memory_bytes(t->config, o->micro_rows, o->seq_len, true, &o->memory, plan), forward = model_memory_bytes(t->config, o->micro_rows, o->seq_len, false, NULL, NULL);
    fprintf(stderr, "memory: policy %.1f MiB (%s); before it, the reference's forward pass %.1f MiB of that; a step's rows %.1f MiB\n", (double)bytes / MiB, plan, p->kind == LOSS_SIMPO ? 0.0 : (double)forward / MiB,
            (double)(d->options->step_pairs * o->seq_len * 20) / MiB);
    double work = o->memory.lora.rank ? 4 : 6, tokens = (double)t->steps * (double)d->options->step_pairs * each, once = p->kind == LOSS_SIMPO ? 0 : (double)d->pairs.num_tokens;
    fprintf(stderr, "in all about %.4g tokens and %.4g for the reference, %.4g parameters, about %.3g FLOPs (%g x and 2 x parameters x tokens)\n", tokens, once, parameters,
            parameters * (work * tokens + 2 * once), work);
}

// ---------------------------------------------------------------------------------------------------------------
// the run

// the pairs of the step at the cursor, which moves on; a step goes on into the next epoch, only the last one can be smaller
FN int64_t dpo_take(Dpo *d, bool by_epochs) {
    Progress *p = &d->train.progress;
    int64_t n = 0;
    while (n < d->options->step_pairs) {
        if (p->row == d->pairs.num_train) {
            if (by_epochs && p->epoch + 1 >= d->train.options->epochs) break;
            p->epoch++;
            p->row = 0;
        }
        if (d->order_epoch != p->epoch) {
            free(d->order);
            d->order = permutation_new(d->pairs.num_train, (uint64_t)d->train.options->seed, data_key(KEY_PASS, 0, 0, p->epoch));
            d->order_epoch = p->epoch;
        }
        d->which[n++] = d->pairs.train[d->order[p->row++]];
    }
    return n;
}

// Policy and reference are the same weights before the first update: then the margin is 0, and the loss known. Anything else means that the two were not
// computed alike - other data, another template, a stale file - and that every later step would be wrong in the same way.
FN bool dpo_check_first(Dpo *d, const PreferenceStats *s, Error *e) {
    double slope, want = preference_of_margin(&d->options->loss, 0, &slope);
    if (d->options->loss.kind == LOSS_SIMPO) return true;
    if (d->train.options->adapter) {
        log_say(&d->train.log, "first step: the policy begins with --adapter, its loss (%.9f) is not known beforehand: not checked\n", s->preference);
        return true;
    }
    if (strcmp(d->model_hash.hex, d->ref_hash.hex) != 0) {
        log_say(&d->train.log, "first step: --ref are other weights than --model, so that its loss (%.9f) is not known beforehand: not checked\n", s->preference);
        return true;
    }
    double squares = 0, tokens = 0, furthest = 0;
    for (int64_t i = 0; i < 2 * s->pairs; i++) {   // each answer by itself too: what moves both of a pair alike does not show in the loss
        const PairLogp *y = &d->batch[i / 2];
        double off = fabs(y->logp[i % 2] - y->ref[i % 2]), most = logp_rounding(FINDAP_LOGP_ROUNDING, y->tokens[i % 2]);
        squares += off * off;
        tokens += (double)y->tokens[i % 2];
        if (off / most > furthest) furthest = off / most;
        if (off <= most && fabs(s->preference - want) <= s->rounding) continue;
        return fail(e, "the first step's %s loss is %.9f, expected %.9f within %.2g; the log-prob of an answer of pair %" PRId64 " is %.9g, by the reference %.9g: the same weights do not agree about these answers ---> remove "
                       "%s/checkpoints/reference.safetensors and start again; if that does not help it is a bug", loss_names[d->options->loss.kind], s->preference, want, s->rounding, d->which[i / 2], y->logp[i % 2], y->ref[i % 2], d->train.options->out);
    }
    log_say(&d->train.log, "first step: %s loss %.9f, expected %.9f (%s), off by %.1e, rounding allows %.1e; log-probs by %.1e nats a token (root mean square, %.1e expected at most), of an answer by at most %.1f %% of what it allows\n", loss_names[d->options->loss.kind], s->preference, want, fabs(want - log(2.0)) < 1e-12 ? "ln 2" : "that of margin 0",
            fabs(s->preference - want), s->rounding, sqrt(squares / tokens), FINDAP_LOGP_ROUNDING, 100 * furthest);
    return true;
}

FN bool dpo_step(Dpo *d, bool by_epochs, Error *e) {
    Train *t = &d->train;
    Progress *p = &t->progress;
    const double *v = t->options->stage_values;
    StepRecord record;
    memset(&record, 0, sizeof record);
    double begin = seconds_now();
    int64_t n = dpo_take(d, by_epochs);
    for (int64_t k = 0; k < n; k++) d->batch[k] = d->logps[d->which[k]];
    nll_weights(&d->options->loss, d->batch, n, d->weight);
    model_zero_grad(t->model);
    dpo_pass(d, t->model, n, true);
    for (int64_t i = 0; i < 2 * n; i++) d->batch[i / 2].logp[i % 2] = d->sums[i];
    PreferenceStats stats = preference_stats(&d->options->loss, d->batch, d->weight, n, FINDAP_LOGP_ROUNDING);
    if (p->step == 0 && !dpo_check_first(d, &stats, e)) return false;
    Schedule schedule = {d->options->schedule, v[5], v[6], v[7], v[8], t->steps};
    AdamW opt = {schedule_lr(&schedule, p->step), v[1], v[2], v[3], v[0], v[4], p->adam_t + 1};
    checkpoint_copied(&t->writer);
    model_update(t->model, &opt);
    comm_wait_begin(t->comm, "a step", false);
    StepResult result = model_result(t->model);
    comm_wait_end(t->comm);
    const Step *step = &t->steps_held[0];
    p->step++; p->stage_step++; t->process_steps++;
    p->tokens_total += step->filled;
    p->trained_total += step->trained;
    if (result.skipped) { p->skipped_total++; p->skipped_in_a_row++; }
    else { p->adam_t++; p->skipped_in_a_row = 0; }
    record.step = p->step; record.steps = t->steps; record.epoch = p->epoch; record.tokens = step->filled; record.trained = step->trained; record.tokens_total = p->tokens_total;
    record.fill = (double)step->filled / (double)(step->rows * step->T); record.lr = opt.lr; record.grad_norm = result.grad_norm; record.skipped = result.skipped; record.seconds = seconds_now() - begin;
    dpo_log_step(d, &record, &stats);
    if (p->skipped_in_a_row < MAX_SKIPPED_IN_A_ROW) return true;
    return fail(e, "the loss or the gradient was not finite in %d steps in a row, the last one step %" PRId64 "; these steps were skipped ---> lower --lr (now %g), and look at the pairs of these steps", MAX_SKIPPED_IN_A_ROW, p->step, opt.lr);
}

FN void dpo_evaluate(Dpo *d) {   // a signal ends it early: the resumed run evaluates again
    Train *t = &d->train;
    Progress *p = &t->progress;
    double begin = seconds_now();
    int64_t n = d->pairs.num_dev;
    char text[512];
    if (!dpo_logps(d, t->model, d->pairs.dev, n, false)) return;
    PairLogp *y = (PairLogp *)xmalloc(n * (int64_t)sizeof *y);
    double *weight = (double *)xmalloc(n * (int64_t)sizeof *weight);
    for (int64_t k = 0; k < n; k++) y[k] = d->logps[d->pairs.dev[k]];
    nll_weights(&d->options->loss, y, n, weight);
    PreferenceStats s = preference_stats(&d->options->loss, y, weight, n, 0);
    free(y); free(weight);
    p->dev_stage_step = p->step;
    progress_dev_add(p, s.loss);
    json_t *j = json_pack("{s:s,s:I,s:I,s:f}", "event", "dev", "step", (json_int_t)p->step, "dev_pairs", (json_int_t)n, "dev_seconds", seconds_now() - begin);
    dpo_record(j, &d->options->loss, &s, "dev_");
    log_record(&t->log, j);
    dpo_text(text, sizeof text, &d->options->loss, &s);
    log_say(&t->log, "dev  %6" PRId64 " | %s | %" PRId64 " pairs in %.1f s\n", p->step, text, n, seconds_now() - begin);
}

// from the cursor to the end. Returns 0 when done, EXIT_STOPPED, or 1 with an error
FN int dpo_run(Dpo *d, bool by_epochs, Error *e) {
    Train *t = &d->train;
    const TrainOptions *o = t->options;
    Progress *p = &t->progress;
    for (;;) {
        Error why;
        bool last = p->step >= t->steps, asked = o->stop_after_steps > 0 && t->process_steps >= o->stop_after_steps;
        if (d->pairs.num_dev > 0 && p->dev_stage_step != p->step && (last || p->step % o->dev_every == 0)) dpo_evaluate(d);
        bool stopping = train_stopping(t);
        if (stopping || (asked && !last)) {
            if (!state_same(t->model, e) || !train_checkpoint(t, true, e)) return 1;
            log_say(&t->log, "stopped after step %" PRId64 " by %s ---> the same command with --resume goes on\n", p->step, train_stop_signal ? strsignal(train_stop_signal) : stopping ? "a signal to another rank" : "--stop-after-steps");
            return EXIT_STOPPED;
        }
        if (last) return 0;
        if (!dpo_step(d, by_epochs, e)) return 1;
        int64_t pending = t->writer.step;
        if (!train_checkpoint_poll(t, false, &why)) train_checkpoint_failed(t, pending, &why);
        if (o->checkpoint_every == 0 || p->step % o->checkpoint_every != 0) continue;
        if (!state_same(t->model, e)) return 1;   // see train_run
        if (!train_checkpoint(t, false, &why)) train_checkpoint_failed(t, p->step, &why);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// from flags to exit status

// what --resume compares, and what all ranks must have alike
FN void dpo_identity(Dpo *d, bool by_epochs) {
    const TrainOptions *o = d->train.options;
    const Preference *p = &d->options->loss;
    json_t *j = json_pack("{s:s,s:f,s:f,s:I,s:I,s:I,s:s,s:s,s:s,s:s,s:I}", "loss", loss_names[p->kind], "beta", p->beta, "alpha", p->alpha, "seq_len", (json_int_t)o->seq_len, "step_pairs", (json_int_t)d->options->step_pairs,
                          "seed", (json_int_t)o->seed, "schedule", schedule_name(d->options->schedule), "pairs_hash", d->pairs.hash.hex, "model_hash", d->model_hash.hex, "reference_hash",
                          p->kind == LOSS_SIMPO ? "none" : d->ref_hash.hex, "dev_pairs", (json_int_t)d->options->dev_pairs);
    CHECK(j);
    if (loss_uses_smoothing(p->kind)) json_object_set_new(j, "label_smoothing", json_real(p->smoothing));
    if (p->kind == LOSS_SIMPO) json_object_set_new(j, "gamma_ratio", json_real(p->gamma));
    if (p->alpha > 0) json_object_set_new(j, "nll", json_string(nll_names[p->nll]));
    if (p->alpha > 0 && p->nll == NLL_BATCH) json_object_set_new(j, "nll_batch", json_integer(p->nll_batch));
    json_object_set_new(j, by_epochs ? "epochs" : "steps", json_integer(by_epochs ? o->epochs : o->steps));
    for (int i = 0; i < STAGE_NUMBERS; i++) json_object_set_new(j, stage_numbers[i].key, json_real(o->stage_values[i]));
    if (o->memory.lora.rank) json_object_set_new(j, "lora", lora_to_json(&o->memory.lora));
    d->train.identity = j;
}

FN void dpo_make_room(Dpo *d) {   // for a step's pairs: the most rows are one a pair
    Train *t = &d->train;
    int64_t n = d->options->step_pairs, T = t->options->seq_len, places = t->options->micro_rows * T * (int64_t)sizeof(float);
    step_new(&t->steps_held[0], n, T);
    if (t->comm->size > 1) step_new(&t->shared[0], n / t->comm->size + 1, T);
    t->owner = (int *)xcalloc(n, sizeof(int));
    t->coef = (float *)xmalloc(places);
    d->batch = (PairLogp *)xcalloc(n, sizeof(PairLogp));
    d->weight = (double *)xcalloc(n, sizeof(double));
    d->sums = (double *)xcalloc(2 * n, sizeof(double));
    d->slope = (double *)xcalloc(2 * n, sizeof(double));
    d->seen = (uint8_t *)xcalloc(n, 1);
    d->which = (int64_t *)xcalloc(n, sizeof(int64_t));
    d->logps = (PairLogp *)xcalloc(d->pairs.num_pairs, sizeof(PairLogp));
    for (int64_t i = 0; i < 2 * d->pairs.num_pairs; i++) d->logps[i / 2].tokens[i % 2] = d->pairs.pairs[i / 2].trained[i % 2];
    d->order_epoch = -1;
}
FN void dpo_free(Dpo *d) {
    free(d->batch); free(d->weight); free(d->sums); free(d->slope); free(d->seen); free(d->which); free(d->logps); free(d->order);
    train_free(&d->train);
    pairs_free(&d->pairs);
}

FN bool dpo_open(Dpo *d, Config *config, bool seq_len_given, Error *e) {
    TrainOptions *o = d->train.options;
    if (!config_load(o->model, config, e) || !model_check(config, &o->memory, e)) return false;
    if (!seq_len_given && config->max_position < o->seq_len) o->seq_len = config->max_position;
    if (o->seq_len > config->max_position)
        return fail(e, "--seq-len is %" PRId64 ", the model has %" PRId64 " positions ---> use shorter rows", o->seq_len, (int64_t)config->max_position);
    return pairs_open(&d->pairs, &d->options->words, config->vocab_size, o->seq_len, d->options->dev_pairs, (uint64_t)o->seed, e);
}

// one rank reads the weights' files for the hashes, all get them
FN bool dpo_hashes(Dpo *d, Error *e) {
    Comm *c = d->train.comm;
    const char *model = d->train.options->model, *ref = d->options->ref;
    bool ok = comm_agree(c, c->rank != 0 || (model_hash(model, &d->model_hash, e) && (!ref || model_hash(ref, &d->ref_hash, e))), e, "hashing the weights");
    if (!ref) d->ref_hash = d->model_hash;
    comm_broadcast(c, &d->model_hash, (int64_t)sizeof(Hash), 0, "hashes");
    comm_broadcast(c, &d->ref_hash, (int64_t)sizeof(Hash), 0, "hashes");
    return ok;
}

// --optimizer, before anything is computed: is there one, and not in the directory that this run is about to fill? A run that is resumed from a checkpoint has its moments there.
FN bool dpo_optimizer_check(Dpo *d, Error *e) {
    const char *from = d->options->optimizer, *out = d->train.options->out;
    int64_t n = 0;
    if (!from) return true;
    if (same_file(from, out)) return fail(e, "--optimizer is --out, %s ---> to go on with a run give --resume; for new pairs another --out", out);
    if (d->train.options->resume) free(checkpoint_list(out, false, &n));
    if (n == 0) free(checkpoint_list(from, false, &n));
    return n > 0 ? true : fail(e, "--optimizer %s: has no checkpoints/step_* ---> give the --out of an earlier run that still has its last checkpoint", from);
}

FN bool dpo_moments(Dpo *d, Error *e) {
    Train *t = &d->train;
    if (!checkpoint_load_moments(d->options->optimizer, t->model, &t->progress.adam_t, e)) return false;
    log_say(&t->log, "optimizer: moments of %" PRId64 " updates from %s\n", t->progress.adam_t, d->options->optimizer);
    return true;
}

FN int dpo_with_options(TrainOptions *o, DpoOptions *options, bool by_epochs, bool seq_len_given, int argc, char **argv, Error *e) {
    Config config;
    Dpo d;
    memset(&d, 0, sizeof d);
    Train *t = &d.train;
    Comm *c = &o->comm;
    t->options = o; t->config = &config; t->comm = c; t->log.quiet = o->quiet; t->log.every = o->log_every;
    d.options = options;
    bool first = c->rank == 0, found = false, moments = options->optimizer != NULL;
    int result = 1;
    if (!comm_agree(c, dpo_open(&d, &config, seq_len_given, e), e, "opening the pairs")) goto end;
    t->steps = by_epochs ? (d.pairs.num_train * o->epochs + options->step_pairs - 1) / options->step_pairs : o->steps;
    if (!o->quiet) dpo_print_plan(&d);
    if (o->dry_run) { result = 0; goto end; }
    if (first) train_check_tokenizer(o->model, &d.pairs.shards[0]);
    if (!comm_agree(c, !first || (train_out_check(o, e) && (!options->ref || train_input_kept("--ref", options->ref, o->out, e)) && dpo_optimizer_check(&d, e)), e, "looking at --out") || !dpo_hashes(&d, e)) goto end;
    dpo_identity(&d, by_epochs);
    if (!train_same(t, e) || !comm_same(c, &moments, sizeof moments, e)) goto end;
    dpo_make_room(&d);
    if (options->loss.kind != LOSS_SIMPO && (result = dpo_reference(&d, e)) != 0) goto end;
    result = 1;
    o->memory.quiet = o->quiet;
    t->model = model_create(&config, o->micro_rows, o->seq_len, true, &o->memory);
    if (!comm_agree(c, train_weights(t, e), e, "making the model")) goto end;
    if (options->optimizer && !o->resume && !dpo_moments(&d, e)) goto end;   // with --overwrite nothing of OUT goes before all that is read has been read
    if (!comm_agree(c, !first || train_out_directory(o, &t->log, e), e, "making --out") || !dpo_keep_reference(&d, e) || !comm_agree(c, train_resume(t, &found, e), e, "resuming")) goto end;
    if (options->optimizer && o->resume && !found && !dpo_moments(&d, e)) goto end;
    if (found && (t->progress.step > t->steps || t->progress.epoch < 0 || t->progress.row < 0 || t->progress.row > d.pairs.num_train)) { fail(e, "%s: the checkpoint's cursor is beyond the pairs", o->out); goto end; }
    if (found) log_say(&t->log, "resumed after step %" PRId64 ": epoch %" PRId64 ", pair %" PRId64 "\n", t->progress.step, t->progress.epoch, t->progress.row);
    if (!state_same(t->model, e)) goto end;
    train_started(t, found, argc, argv);
    result = dpo_run(&d, by_epochs, e);
    Error lost;
    if (result == 1) train_checkpoint_poll(t, true, &lost);   // a run that ends in an error, on all ranks, leaves its last checkpoint
    if (result == 0 && (!state_same(t->model, e) || !train_keep_all(t, e))) result = 1;
    if (result == 0) {
        log_record(&t->log, json_pack("{s:s,s:I,s:I,s:I,s:I}", "event", "done", "step", (json_int_t)t->progress.step, "tokens_total", (json_int_t)t->progress.tokens_total, "trained_targets_total",
                                      (json_int_t)t->progress.trained_total, "skipped_steps_total", (json_int_t)t->progress.skipped_total));
        log_say(&t->log, "done: %" PRId64 " steps, %" PRId64 " tokens, %" PRId64 " trained targets, %" PRId64 " skipped steps; the %s is in %s%s\n", t->progress.step, t->progress.tokens_total, t->progress.trained_total,
                t->progress.skipped_total, o->memory.lora.rank ? "adapter" : "model", o->out, o->merge ? ", the model with it in its merged/" : "");
    }
end:
    dpo_free(&d);
    return result;
}

// Exit status as train_findap's: 0 done, 1 an error, 3 stopped with a checkpoint.
FN int dpo_main(int argc, char **argv) {
    program_name = "dpo";
    train_signals();
    TrainOptions o;
    DpoOptions d;
    Flag flags[DPO_FLAGS];
    int n = dpo_flags(&o, &d, flags), result = 1;
    bool help = false;
    Error e;
    e.text[0] = 0;
    bool ok = comm_begin(&o.comm, 60, &e) && dpo_settings(&o, &d, flags, n, argc, argv, &help, &e);
    if (comm_agree(&o.comm, ok, &e, "reading flags")) {
        if (help && o.comm.rank == 0) flags_help("dpo --model DIR --pairs SHARD... --out DIR [--ref DIR] [flags]",
                   "Preference alignment on pairs of answers. A Hugging Face directory in, the same out.\n"
                   "Exit status: 0 done, 1 error, 3 stopped with a checkpoint (go on with --resume).", flags, n);
        result = help ? 0 : !train_groups(&o, &e) ? 1 : dpo_with_options(&o, &d, !flag_given(flags, n, "--steps"), flag_given(flags, n, "--seq-len"), argc, argv, &e);
    }
    if (result == 1 && o.comm.rank == 0) fprintf(stderr, "%s: error: %s\n", program_name, e.text);   // all ranks have the same
    comm_end(&o.comm);
    free(d.words.items);
    return result;
}

#ifndef DPO_LIBRARY
int main(int argc, char **argv) { return dpo_main(argc, argv); }
#endif
