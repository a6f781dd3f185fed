// test_dpo.c: preference alignment. The losses against TRL's own code, the model's gradient against transformers run on four separate sequences
// a pair (both dumped by dev/dpo_reference.py), shared prompts against the sequences run apart, and the program: its reference file, its first-step
// check, resuming, ranks, and what it says to wrong input.
#define DPO_LIBRARY
#include "../dpo.cu"
#include <sys/wait.h>   // defines: WEXITSTATUS
#include "check.h"
#include "scratch.h"    // defines: directory, setup, teardown, in
#include "program.h"    // defines: run_words, output

static char build[512];   // where this program lies, and dpo_cpu beside it
static const char model_dir[] = "test/data/llama3";
enum { VOCAB = 101, ROW = 64 };

#undef fail_msg   // cmocka cuts a message at 1 KiB, which is less than a run says
#define fail_msg(...) do { fflush(stdout); fprintf(stderr, "ERROR: "); fprintf(stderr, __VA_ARGS__); fprintf(stderr, "\n"); _fail(__FILE__, __LINE__); } while (0)
static void must(bool ok, const Error *e) { if (!ok) fail_msg("%s", e->text); }
static double relative(const float *a, const float *b, int64_t n) {   // |a - b| / |b|
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) { difference += pow((double)a[i] - b[i], 2); norm += pow((double)b[i], 2); }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

// ---- losses

static void golden_numbers(void **state) {
    (void)state;
    const PairLogp y = {{-12.5, -15.25}, {-13.0, -14.75}, {10, 12}};
    const struct { LossKind kind; double beta, alpha, smoothing, gamma, loss, dchosen; } golden[] = {
        {LOSS_DPO, 0.1, 0, 0, 0, 0.644396660, -0.047502081}, {LOSS_CDPO, 0.1, 0, 0.1, 0, 0.654396660, NAN}, {LOSS_ROBUST, 0.1, 0, 0.1, 0, 0.631896660, NAN}, {LOSS_HINGE, 0.1, 0, 0, 0, 0.9, NAN},
        {LOSS_IPO, 0.1, 0, 0, 0, 24.091736111, NAN}, {LOSS_DPO_NORM, 0.1, 0, 0, 0, 0.688574351, NAN}, {LOSS_DPO, 0.1, 1, 0, 0, 1.894396660, NAN}, {LOSS_DPO, 1, 0, 0, 0, 0.313261688, -0.268941421},
        {LOSS_CDPO, 1, 0, 0.1, 0, 0.413261688, NAN}, {LOSS_IPO, 1, 0, 0, 0, 0.166736111, NAN}, {LOSS_DPO, 1, 1, 0, 0, 1.563261688, NAN}, {LOSS_SIMPO, 2, 0, 0, 0.3, 1.010784995, NAN}};
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        Preference p = {golden[i].kind, golden[i].beta, golden[i].smoothing, golden[i].gamma, golden[i].alpha, NLL_SEQUENCE, 1};
        double weight;
        nll_weights(&p, &y, 1, &weight);
        PreferenceStats s = preference_stats(&p, &y, &weight, 1, 0);
        if (fabs(s.loss - golden[i].loss) > 1e-9) fail_msg("number %zu: %.9f, expected %.9f", i, s.loss, golden[i].loss);
        if (isfinite(golden[i].dchosen)) assert_true(fabs(preference_loss(&p, &y).dlogp[CHOSEN] - golden[i].dchosen) < 1e-9);
        if (i == 0) assert_true(fabs(s.reward[CHOSEN] - s.reward[REJECTED] - 0.1) < 1e-12 && s.accuracy == 1 && fabs(s.kl) < 1e-12 && fabs(s.reward[CHOSEN] - 0.05) < 1e-12);
    }
    // equal is not better, whatever beta; the loss is ln 2
    const PairLogp same = {{-13.0, -14.75}, {-13.0, -14.75}, {10, 12}};
    for (double beta = 0.01; beta < 20; beta *= 3) {
        Preference p = {LOSS_DPO, beta, 0, 0, 0, NLL_SEQUENCE, 1};
        double weight;
        nll_weights(&p, &same, 1, &weight);
        PreferenceStats s = preference_stats(&p, &same, &weight, 1, 1e-6);
        assert_true(fabs(s.loss - 0.693147180559945) < 1e-14 && s.accuracy == 0 && s.rounding > 0);
        // the bound is that of six deviations of the margin, and pairs that err independently tighten it
        const double h = 6e-6 * sqrt(10.0 + 12.0);
        PairLogp off = same, many[100];
        off.logp[CHOSEN] -= 0.25 * h; off.logp[REJECTED] += 0.75 * h;
        double moved = preference_loss(&p, &off).loss - s.preference, weights[100];
        assert_true(fabs(moved) <= s.rounding * (1 + 1e-6) && fabs(moved) > 0.99 * s.rounding);
        for (int i = 0; i < 100; i++) many[i] = same;
        nll_weights(&p, many, 100, weights);
        assert_true(fabs(preference_stats(&p, many, weights, 100, 1e-6).rounding / s.rounding - 0.1) < 0.01);
    }
}

static Safetensors *reference_file(void) {
    Error e;
    Safetensors *s = safetensors_open("test/data/dpo.safetensors", &e);
    must(s != NULL, &e);
    return s;
}
__attribute__((format(printf, 2, 3))) static const void *data_of(const Safetensors *s, const char *format, ...) {
    char name[128];
    va_list ap;
    va_start(ap, format);
    vsnprintf(name, sizeof name, format, ap);
    va_end(ap);
    const SafeTensor *t = safetensors_find(s, name);
    if (!t) fail_msg("the reference has no %s", name);
    return t->data;
}
static Preference reference_settings(const Safetensors *s) {
    Preference p = {LOSS_DPO, atof(safetensors_metadata(s, "beta")), atof(safetensors_metadata(s, "smoothing")), atof(safetensors_metadata(s, "gamma")), 0, NLL_BATCH, 3};
    return p;
}

static void every_loss_and_its_gradient_match_trl(void **state) {
    (void)state;
    Safetensors *s = reference_file();
    Preference p = reference_settings(s);
    const double *policy = data_of(s, "pair.policy"), *ref = data_of(s, "pair.reference"), *tokens = data_of(s, "pair.tokens");
    int64_t n = safetensors_find(s, "pair.policy")->shape[0];
    for (int k = 0; k < NUM_LOSSES; k++) {
        const double *loss = data_of(s, "loss.%s", loss_names[k]), *dlogp = data_of(s, "dlogp.%s", loss_names[k]);
        double worst = 0;
        p.kind = (LossKind)k;
        for (int64_t i = 0; i < n; i++) {
            PairLogp y;
            for (int side = 0; side < 2; side++) { y.logp[side] = policy[2 * i + side]; y.ref[side] = ref[2 * i + side]; y.tokens[side] = (int64_t)tokens[2 * i + side]; }
            PairLoss l = preference_loss(&p, &y);
            double d = fabs(l.loss - loss[i]) / (1 + fabs(loss[i]));
            for (int side = 0; side < 2; side++) d = fmax(d, fabs(l.dlogp[side] - dlogp[2 * i + side]) / (1 + fabs(dlogp[2 * i + side])));
            worst = fmax(worst, d);
        }
        printf("%-9s against TRL %s: worst %.1e over %d pairs\n", loss_names[k], safetensors_metadata(s, "trl"), worst, (int)n);
        if (!(worst < 1e-12)) fail_msg("%s differs by %.2e", loss_names[k], worst);
    }
    safetensors_close(s);
}

// ---- pairs in shards

static void make_shard(const char *prefix, ShardKind kind, const int64_t (*lengths)[3], int n, const int32_t *tokens, const uint8_t *weights) {
    ShardWriter w;
    Error e;
    must(shard_writer_open(&w, prefix, kind, 1 << 20, &e), &e);
    for (int i = 0; i < n; i++) {
        int64_t p = lengths[i][0], c = lengths[i][1], r = lengths[i][2];
        must(shard_writer_add(&w, tokens, weights, p + c + r, p, p + c, 0, i + 1, &e), &e);
        tokens += p + c + r;
        weights += p + c + r;
    }
    const ShardField fields[] = {{"vocab_size", "101"}, {"max_len", "4096"}, {"tokenizer", "0123"}, {"template", "none"}, {"template_hash", "0"}, {"inputs", "[\"x.jsonl\"]"}, {"input_hash", prefix}, {"set", prefix}};
    must(shard_writer_finish(&w, fields, 8, &e), &e);
}
// n random pairs; every third has the prompt of the one before
static void make_random_shard(const char *prefix, int n, int longest_prompt, int longest_answer, uint64_t seed) {
    int64_t (*lengths)[3] = xcalloc(n, sizeof *lengths), at = 0, before = 0;
    int32_t *tokens = xcalloc((int64_t)n * (longest_prompt + 2 * longest_answer), 4);
    uint8_t *weights = xcalloc((int64_t)n * (longest_prompt + 2 * longest_answer), 1);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < 3; k++) lengths[i][k] = 1 + (int64_t)random_below(seed, 1, (uint64_t)(3 * i + k), (uint64_t)(k ? longest_answer : longest_prompt));
        bool same = i % 3 == 2;
        if (same) lengths[i][0] = lengths[i - 1][0];
        int64_t total = lengths[i][0] + lengths[i][1] + lengths[i][2];
        for (int64_t t = 0; t < total; t++) {
            tokens[at + t] = same && t < lengths[i][0] ? tokens[before + t] : (int32_t)random_below(seed, 2, (uint64_t)(at + t), VOCAB);
            weights[at + t] = t >= lengths[i][0];
        }
        before = at;
        at += total;
    }
    make_shard(prefix, SHARD_PREF, (const int64_t (*)[3])lengths, n, tokens, weights);
    free(lengths); free(tokens); free(weights);
}

// a Dpo over the tiny model and a shard, without the program around it
typedef struct { TrainOptions o; DpoOptions options; Config config; Dpo d; const char *words[1]; } Case;
static void case_open(Case *c, const char *prefix, int64_t step_pairs, int64_t micro_rows, int64_t seq_len) {
    Flag flags[DPO_FLAGS];
    Error e;
    memset(c, 0, sizeof *c);
    dpo_flags(&c->o, &c->options, flags);
    c->o.model = model_dir; c->o.seq_len = seq_len; c->o.micro_rows = micro_rows; c->o.quiet = true;
    c->o.comm.size = 1; c->o.memory.comm = &c->o.comm;
    c->words[0] = prefix;
    c->options.words.items = c->words; c->options.words.n = 1; c->options.step_pairs = step_pairs;
    c->d.options = &c->options;
    c->d.train.options = &c->o; c->d.train.config = &c->config; c->d.train.comm = &c->o.comm; c->d.train.log.quiet = true;
    must(dpo_open(&c->d, &c->config, true, &e), &e);
    dpo_make_room(&c->d);
    c->d.train.model = model_create(&c->config, micro_rows, seq_len, true, &c->o.memory);
    must(model_load_dir(c->d.train.model, model_dir, &e), &e);
}

static void gradients_match_four_separate_sequences_in_transformers(void **state) {
    (void)state;
    Safetensors *s = reference_file();
    const int32_t *lengths32 = data_of(s, "lengths");
    int n = (int)safetensors_find(s, "lengths")->shape[0];
    int64_t lengths[16][3];
    for (int i = 0; i < 3 * n; i++) lengths[i / 3][i % 3] = lengths32[i];
    make_shard(in("reference"), SHARD_PREF, (const int64_t (*)[3])lengths, n, data_of(s, "tokens"), data_of(s, "weights"));
    Case c;
    case_open(&c, in("reference"), n, 2, ROW);
    Dpo *d = &c.d;
    Model *m = d->train.model;
    assert_int_equal(d->pairs.num_pairs, n);
    int64_t all[16];
    for (int i = 0; i < n; i++) all[i] = i;

    // the reference's log-probs: the model as it is; the policy: its matrices times 1.125
    const double *want[2] = {data_of(s, "logp.reference"), data_of(s, "logp.policy")};
    for (int side = 0; side < 2; side++) {
        for (int i = 0; side == 1 && i < model_num_tensors(m); i++)
            for (int64_t l = 0; l < tensor_layers(m, model_tensor(m, i)); l++) {
                const Tensor *t = model_tensor(m, i);
                float *x = xmalloc(tensor_numbers(t) * 4);
                model_get(m, KIND_PARAM, i, (int)l, x);
                for (int64_t k = 0; t->rows && k < tensor_numbers(t); k++) x[k] *= 1.125f;
                model_put(m, KIND_PARAM, i, (int)l, x);
                free(x);
            }
        assert_true(dpo_logps(d, m, all, n, side == 0));
        double worst = 0;
        for (int i = 0; i < 2 * n; i++) {
            double got = side == 0 ? d->logps[i / 2].ref[i % 2] : d->logps[i / 2].logp[i % 2];
            worst = fmax(worst, fabs(got - want[side][i]) / (1 + fabs(want[side][i])));
        }
        printf("log-probs of the %s against transformers: worst %.1e\n", side ? "policy" : "reference", worst);
        if (!(worst < 1e-6)) fail_msg("log-probs differ by %.2e", worst);
    }
    int cases = 0;
    for (int64_t i = 0; i < safetensors_count(s); i++) {
        const char *name = safetensors_at(s, i)->name;
        if (strncmp(name, "total.", 6) != 0) continue;
        name += 6;
        cases++;
        int kind = LOSS_DPO, nll = -1;
        for (int k = 0; k < NUM_LOSSES; k++) if (strcmp(name, loss_names[k]) == 0) kind = k;
        for (int k = 0; k < NUM_NLLS; k++) if (strncmp(name, "nll-", 4) == 0 && strcmp(name + 4, nll_names[k]) == 0) nll = k;
        bool full = strcmp(name, "full") == 0;
        if (full) nll = NLL_BATCH;
        c.options.loss = reference_settings(s);
        c.options.loss.kind = (LossKind)kind;
        if (nll >= 0) { c.options.loss.nll = (NllKind)nll; c.options.loss.alpha = atof(safetensors_metadata(s, "alpha")); }
        for (int k = 0; k < n; k++) { d->which[k] = k; d->batch[k] = d->logps[k]; }
        nll_weights(&c.options.loss, d->batch, n, d->weight);
        model_zero_grad(m);
        dpo_pass(d, m, n, true);
        for (int k = 0; k < 2 * n; k++) d->batch[k / 2].logp[k % 2] = d->sums[k];
        double total = preference_stats(&c.options.loss, d->batch, d->weight, n, 0).loss, expected = *(const double *)data_of(s, "total.%s", name), worst = fabs(total - expected) / expected;
        int seen = 0;
        for (int t = 0; t < model_num_tensors(m); t++) {
            const Tensor *x = model_tensor(m, t);
            int64_t count = tensor_numbers(x);
            float *got = xmalloc(count * 4), *wanted = xmalloc(count * 4);
            for (int64_t l = 0; l < tensor_layers(m, x); l++) {
                char hf[128];
                tensor_hf_name(x, l, hf, sizeof hf);
                const SafeTensor *r = NULL;
                char small[128];
                snprintf(small, sizeof small, "%s.%s", strcmp(hf, "model.norm.weight") == 0 ? "norm" : strcmp(hf, "model.layers.0.input_layernorm.weight") == 0 ? "first" : "none", name);
                r = safetensors_find(s, small);
                for (int round = 0; round < 2; round++) {
                    char big[160];
                    snprintf(big, sizeof big, "grad.%s", hf);
                    if (round == 1) r = full ? safetensors_find(s, big) : NULL;
                    if (round == 1 && full && !r) fail_msg("no %s", big);
                    if (!r) continue;
                    assert_int_equal(r->count, count);
                    assert_true(safetensor_to_f32(r, 0, count, wanted));
                    model_get(m, KIND_GRAD, t, (int)l, got);
                    double e = relative(got, wanted, count);
                    if (!(e < 1e-5)) fail_msg("%s: %s differs by %.2e", name, hf, e);
                    worst = fmax(worst, e);
                    seen++;
                }
            }
            free(got); free(wanted);
        }
        assert_int_equal(seen, full ? 23 : 2);   // 21 parameters and the two small ones again
        printf("%-13s loss %.9f, expected %.9f, worst of %d gradients %.1e\n", name, total, expected, seen, worst);
        if (!(fabs(total - expected) < 1e-6 * expected)) fail_msg("%s: loss %.9f, expected %.9f", name, total, expected);
    }
    assert_int_equal(cases, NUM_LOSSES + 4);

    // eight steps, each over all pairs in another order, beside torch.optim.AdamW
    const double *steps = data_of(s, "adamw");
    double values[STAGE_NUMBERS] = {0.1, 0.9, 0.95, 1e-8, 1, 1e-2, 0, 0, 0.2}, worst = 0;
    memcpy(c.o.stage_values, values, sizeof values);
    c.options.loss = reference_settings(s);
    c.options.loss.nll = NLL_TOKEN;
    c.options.loss.alpha = atof(safetensors_metadata(s, "alpha"));
    c.options.schedule = SCHEDULE_CONSTANT;
    d->train.steps = 8;
    strcpy(d->ref_hash.hex, "another model");
    model_zero_moments(m);
    for (int i = 0; i < 8; i++) {
        Error e;
        must(dpo_step(d, false, &e), &e);
        nll_weights(&c.options.loss, d->batch, n, d->weight);
        double loss = preference_stats(&c.options.loss, d->batch, d->weight, n, 0).loss;
        worst = fmax(worst, fabs(loss - steps[i]) / steps[i]);
    }
    printf("eight steps against torch.optim.AdamW, loss %.4f to %.4f: worst %.1e\n", steps[0], steps[7], worst);
    assert_true(steps[7] < 0.7 * steps[0] && worst < 1e-5);
    assert_int_equal(d->train.progress.epoch, 7);
    dpo_free(d);
    safetensors_close(s);
}

// ---- shared prompts

static void shared_prompts_equal_the_sequences_run_apart(void **state) {
    (void)state;
    double worst_logp = 0, worst_gradient = 0;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        make_random_shard(in("random"), 24, seed == 1 ? 1 : 3 * (int)seed, seed == 2 ? 1 : 2 * (int)seed, seed);   // prompts of one token; answers of one
        Case c;
        case_open(&c, in("random"), 24, 24, ROW);
        const Pairs *p = &c.d.pairs;
        Model *m = c.d.train.model;
        int64_t n = p->num_pairs, places = 0;
        assert_int_equal(n, 24);
        int64_t which[24];
        for (int64_t k = 0; k < n; k++) which[k] = (7 * k + 3) % n;
        Step *s = &c.d.train.steps_held[0];
        pairs_lay(s, p, which, n, ROW);
        for (int64_t k = 0; k < n; k++) places += pair_places(&p->pairs[k]);
        assert_int_equal(s->filled, places);
        assert_true(s->T <= ROW);
        Batch b = step_batch(s, 0, s->rows);
        int64_t N = b.B * b.T;
        float *coef = xcalloc(N, 4), *logp = xcalloc(N, 4), *packed = xcalloc(m->num_parameters, 4);
        double sums[48] = {0};
        // any derivative will do: one that tells every answer and every place from each other
        for (int64_t i = 0, at[48] = {0}; i < N; i++) if (s->stream[i] >= 0) coef[i] = (float)sin(1.0 + 3 * s->stream[i] + 0.7 * (double)at[s->stream[i]]++);
        model_zero_grad(m);
        model_forward(m, &b);
        model_head(m, &b, coef, logp);
        model_backward(m, &b);
        memcpy(packed, m->grads, (size_t)m->num_parameters * 4);
        for (int64_t i = 0; i < N; i++) if (s->stream[i] >= 0) sums[s->stream[i]] += logp[i];
        model_zero_grad(m);
        for (int64_t k = 0; k < 2 * n; k++) {   // each answer behind its own copy of the prompt, alone in a row
            const Pair *x = &p->pairs[which[k / 2]];
            int64_t T = x->length + x->answer_length[k % 2];
            int32_t tokens[ROW], positions[ROW], targets[ROW];
            float weights[ROW], alone_coef[ROW], alone_logp[ROW];
            double sum = 0;
            for (int64_t t = 0; t < T; t++) {
                bool target = t + 1 >= x->length && t + 1 < T;
                tokens[t] = t < x->length ? x->prompt[t] : x->answer[k % 2][t - x->length];
                positions[t] = (int32_t)t;
                targets[t] = target ? x->answer[k % 2][t + 1 - x->length] : -1;
                weights[t] = target;
                alone_coef[t] = target ? (float)sin(1.0 + 3 * (double)k + 0.7 * (double)(t + 1 - x->length)) : 0;
            }
            Batch alone = {1, T, tokens, positions, targets, weights, true};
            model_forward(m, &alone);
            model_head(m, &alone, alone_coef, alone_logp);
            model_backward(m, &alone);
            for (int64_t t = 0; t < T; t++) sum += alone_logp[t];
            worst_logp = fmax(worst_logp, fabs(sum - sums[k]) / (1 + fabs(sum)));
        }
        worst_gradient = fmax(worst_gradient, relative(packed, m->grads, m->num_parameters));

        // what one answer says changes nothing for the other, bit for bit; what the prompt says does
        for (int kind = 0; kind < 3; kind++) {
            double other[48] = {0};
            int64_t place = -1;
            for (int64_t i = 0; i < N && place < 0; i++) if (s->stream[i] == 2 * 5 + kind % 2 && s->positions[i] > 0) place = i;   // a place that predicts a token of pair 5's answer
            if (place < 0) continue;   // it has one token
            if (kind == 2) { while (s->positions[place] != 0) place--; }
            else {   // its own tokens stand behind the prompt's last
                const Pair *x = &p->pairs[which[5]];
                if (x->answer_length[kind] < 2) continue;
                while (s->positions[place] != (int32_t)x->length) place++;
            }
            int32_t keep = s->tokens[place];
            s->tokens[place] = (keep + 1) % VOCAB;
            model_forward(m, &b);
            model_head(m, &b, NULL, logp);
            s->tokens[place] = keep;
            for (int64_t i = 0; i < N; i++) if (s->stream[i] >= 0) other[s->stream[i]] += logp[i];
            for (int64_t k = 0; k < 2 * n; k++) if ((other[k] != sums[k]) != (kind == 2 ? k == 10 || k == 11 : k == 10 + kind)) {
                if (kind == 2 && p->pairs[which[5]].length == 1) continue;   // the branch has the only prompt token's copy
                fail_msg("seed %d: a change %s pair 5's %s: answer %d of pair %d %s", (int)seed, kind == 2 ? "in" : "of", kind == 2 ? "prompt" : kind ? "rejected answer" : "chosen answer", (int)k % 2, (int)k / 2, other[k] != sums[k] ? "changes" : "does not change");
            }
        }
        free(coef); free(logp); free(packed);
        dpo_free(&c.d);
    }
    printf("shared prompts against sequences run apart: log-probs %.1e, gradient %.1e\n", worst_logp, worst_gradient);
    assert_true(worst_logp < 1e-6 && worst_gradient < 1e-5);
}

static void a_step_holds_its_pairs_and_little_else(void **state) {
    (void)state;
    make_random_shard(in("fill"), 200, 20, 20, 9);
    Case c;
    case_open(&c, in("fill"), 16, 2, ROW);
    double filled = 0, places = 0, fixed = 0;
    for (int64_t begin = 0; begin + 16 <= c.d.pairs.num_pairs; begin += 16) {
        int64_t which[16];
        Step *s = &c.d.train.steps_held[0];
        for (int64_t k = 0; k < 16; k++) which[k] = begin + k;
        pairs_lay(s, &c.d.pairs, which, 16, ROW);
        int32_t seen[32] = {0};
        for (int64_t i = 0; i < s->rows * s->T; i++) if (s->stream[i] >= 0) seen[s->stream[i]]++;
        for (int k = 0; k < 32; k++) assert_int_equal(seen[k], c.d.pairs.pairs[begin + k / 2].trained[k % 2]);
        filled += (double)s->filled; places += (double)(s->rows * s->T); fixed += (double)(s->rows * ROW);
    }
    printf("steps of 16 pairs in rows of at most %d: %.1f %% full, with rows of %d %.1f %%\n", ROW, 100 * filled / places, ROW, 100 * filled / fixed);
    assert_true(filled / places > 0.87 && places < fixed);   // two or three pairs a row: full ones do not exist
    dpo_free(&c.d);
    // held out by prompt: no prompt on both sides
    Pairs p;
    Error e;
    StringList words = {c.words, 1};
    const char *prefix = in("fill");
    c.words[0] = prefix;
    for (int amount = 1; amount <= 40; amount += 3) {
        must(pairs_open(&p, &words, VOCAB, ROW, amount, (uint64_t)amount, &e), &e);
        assert_true(p.num_dev >= amount && p.num_dev < amount + 60 && p.num_train == p.num_pairs - p.num_dev);   // prompts of one token are often the same
        for (int64_t i = 0; i < p.num_dev; i++)
            for (int64_t k = 0; k < p.num_train; k++) {
                const Pair *x = &p.pairs[p.dev[i]], *y = &p.pairs[p.train[k]];
                assert_false(x->length == y->length && memcmp(x->prompt, y->prompt, (size_t)x->length * 4) == 0);
            }
        pairs_free(&p);
    }
}

// ---- the program

static int dpo(const char *words) { return run_words(dpo_main, "dpo", words); }
static void run_dpo(int expected, const char *words) { int status = dpo(words); if (status != expected) fail_msg("%s: status %d, expected %d:\n%s", words, status, expected, output); }
static void expect(const char *words, const char *text) {   // an error, one line, with this in it
    run_dpo(1, words);
    const char *error = strstr(output, "dpo: error: ");
    if (!error || !strstr(error, text)) fail_msg("%s: expected \"%s\" in:\n%s", words, text, output);
    if (strchr(error, '\n') != error + strlen(error) - 1) fail_msg("%s: more than one line: %s", words, error);
}
static char *bytes_of(const char *name, int64_t *n) {
    Mapped m;
    Error e;
    must(map_file(in(name), &m, &e), &e);
    char *p = xmalloc(m.size + 1);
    memcpy(p, m.data, (size_t)m.size);
    *n = m.size;
    unmap_file(&m);
    return p;
}
static bool same_bits(const char *a, const char *b) {
    int64_t n, k;
    char *x = bytes_of(a, &n), *y = bytes_of(b, &k);
    bool same = n == k && memcmp(x, y, (size_t)n) == 0;
    free(x); free(y);
    return same;
}
static void rename_in(const char *from, const char *to) {
    char *a = xprintf("%s", in(from));
    assert_int_equal(rename(a, in(to)), 0);
    free(a);
}
// the figures of the steps of a log as a terminal shows them; the caller frees
static char *figures(const char *out) {
    static const char *const keys[] = {"\"step\":", "\"loss_nats_per_pair\":", "\"reward_margin\":", "\"accuracy_share\":", "\"nll_nats_per_token\":", "\"grad_norm\":"};
    char path[300], line[8192];
    snprintf(path, sizeof path, "%s/log.jsonl", in(out));
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    Buffer b = {NULL, 0, 0};
    while (fgets(line, sizeof line, f)) {
        if (!strstr(line, "\"event\":\"step\"")) continue;
        for (int i = 0; i < 6; i++) {
            const char *at = strstr(line, keys[i]);
            assert_non_null(at);
            char text[64];
            int n = snprintf(text, sizeof text, i == 5 ? "%.3f\n" : "%.4f ", atof(at + strlen(keys[i])) + 0.0);
            buffer_add(&b, strcmp(text, "-0.0000 ") == 0 ? " 0.0000 " : text, n);
        }
    }
    fclose(f);
    buffer_add(&b, "", 1);
    assert_true(b.len > 1);
    return b.data;
}
static void same_figures(const char *out, const char *of) {
    char *a = figures(out), *b = figures(of);
    if (strcmp(a, b) != 0) fail_msg("%s and %s differ:\n%s\n%s", out, of, a, b);
    free(a); free(b);
}
#define BASE "--model test/data/llama3 --pairs @pairs --seq-len 64 --step-pairs 7 --lr 2e-3 --epochs 2 --save-dtype float32 "

static void first_step_is_ln_2_and_pairs_are_learned(void **state) {
    (void)state;
    make_random_shard(in("pairs"), 40, 12, 10, 3);
    static const char *const losses[] = {"dpo --beta 0.03", "dpo --beta 7", "cdpo", "robust", "ipo --beta 0.2", "hinge", "dpo-norm --beta 5", "simpo --beta 2"};
    for (int i = 0; i < 8; i++) {
        char words[512];
        snprintf(words, sizeof words, BASE "--out @loss --overwrite --loss %s", losses[i]);
        run_dpo(0, words);
        bool checked = strstr(output, "first step: ") != NULL, simpo = strncmp(losses[i], "simpo", 5) == 0;
        if (checked == simpo) fail_msg("%s: %s", losses[i], output);
        bool ln2 = i < 4 || i == 6;
        if (ln2 && !strstr(output, "loss 0.693147181, expected 0.693147181 (ln 2), off by ")) fail_msg("%s: %s", losses[i], output);
        if (checked && !(atof(strstr(output, "off by ") + 7) < 1e-14)) fail_msg("%s: the two passes differ: %s", losses[i], output);   // on the CPU they make the same sums
        if (strstr(output, "reference: log-probs") == NULL && !simpo) fail_msg("%s: no word of the reference: %s", losses[i], output);
        const char *last = output, *line;
        while ((line = strstr(last + 1, "\nstep ")) != NULL) last = line;
        double margin = atof(strstr(last, "margin") + 6);
        if (!(margin > 0)) fail_msg("%s: the last margin is %g:\n%s", losses[i], margin, output);
    }
    // --dry-run makes nothing
    run_dpo(0, "--model test/data/llama3 --pairs @pairs --seq-len 64 --dry-run");
    assert_non_null(strstr(output, "FLOPs"));
    run_dpo(0, "--help");
    assert_non_null(strstr(output, "--nll-batch"));
    // presets, and flags that win over them
    run_dpo(0, "--model test/data/llama3 --pairs @pairs --seq-len 64 --dry-run --preset findap");
    assert_non_null(strstr(output, "beta 0.1, alpha 1, NLL by batch of 1;"));
    assert_non_null(strstr(output, "lr 5e-07 linear warmup 0.1 floor 0, AdamW wd 0 betas 0.9 0.999"));
    run_dpo(0, "--model test/data/llama3 --pairs @pairs --seq-len 64 --dry-run --preset openfinllm --lr 2e-6");
    assert_non_null(strstr(output, "beta 1, no NLL;"));
    assert_non_null(strstr(output, "lr 2e-06 linear warmup 0 floor 0"));
}

static void micro_batches_change_nothing(void **state) {
    (void)state;
    make_random_shard(in("pairs"), 40, 12, 10, 3);
    run_dpo(0, BASE "--alpha 0.5 --nll batch --nll-batch 3 --dev-pairs 6 --dev-every 3 --micro-rows 1 --out @m1");
    run_dpo(0, BASE "--alpha 0.5 --nll batch --nll-batch 3 --dev-pairs 6 --dev-every 3 --micro-rows 2 --out @m2");
    run_dpo(0, BASE "--alpha 0.5 --nll batch --nll-batch 3 --dev-pairs 6 --dev-every 3 --micro-rows 5 --out @m5");
    same_figures("m2", "m1");
    same_figures("m5", "m1");
    run_dpo(0, BASE "--alpha 0.5 --nll sequence --micro-rows 2 --out @s");
    run_dpo(0, BASE "--alpha 0.5 --nll batch --nll-batch 1 --micro-rows 2 --out @b1");
    run_dpo(0, BASE "--alpha 0.5 --nll token --micro-rows 2 --out @t");
    run_dpo(0, BASE "--alpha 0.5 --nll batch --nll-batch 7 --micro-rows 2 --out @b7");
    same_figures("b1", "s");
    same_figures("b7", "t");
    assert_false(same_bits("t/model.safetensors", "s/model.safetensors"));
}

static void a_resumed_run_has_the_same_bits(void **state) {
    (void)state;
    make_random_shard(in("pairs"), 40, 12, 10, 3);
    run_dpo(0, BASE "--alpha 1 --dev-pairs 5 --dev-every 4 --out @whole");
    static const int stops[] = {1, 4, 3};
    for (int i = 0; i < 3; i++) {   // 5 steps an epoch: across its end too
        char words[512];
        snprintf(words, sizeof words, BASE "--alpha 1 --dev-pairs 5 --dev-every 4 --out @parts --stop-after-steps %d %s", stops[i], i ? "--resume" : "");
        run_dpo(EXIT_STOPPED, words);
        assert_non_null(strstr(output, "--resume goes on"));
    }
    assert_false(file_exists(in("parts/model.safetensors")));
    run_dpo(0, BASE "--alpha 1 --dev-pairs 5 --dev-every 4 --out @parts --resume");
    assert_non_null(strstr(output, "from "));   // the reference's log-probs were there
    assert_null(strstr(output, "first step"));
    assert_true(same_bits("parts/model.safetensors", "whole/model.safetensors"));
    assert_true(same_bits("parts/checkpoints/step_00000010/state.safetensors", "whole/checkpoints/step_00000010/state.safetensors"));
    expect(BASE "--alpha 1 --dev-pairs 5 --dev-every 4 --out @parts --resume --beta 0.2", "beta is 0.2, was 0.1");
    expect(BASE "--alpha 1 --dev-pairs 5 --dev-every 4 --out @parts", "--resume goes on");
    // a signal: what is asked before the first step already
    run_dpo(0, BASE "--alpha 1 --dev-pairs 5 --dev-every 4 --out @again");
    assert_true(same_bits("again/model.safetensors", "whole/model.safetensors"));   // the same command, the same bits
}

// the number `key` in a log's records of one event: of the n-th, or of the last for -1
static double logged(const char *out, const char *event, int n, const char *key) {
    char name[64], line[8192], what[64];
    snprintf(name, sizeof name, "%s/log.jsonl", out);
    snprintf(what, sizeof what, "\"event\":\"%s\"", event);
    FILE *f = fopen(in(name), "r");
    assert_non_null(f);
    double value = NAN;
    while (fgets(line, sizeof line, f)) {
        if (!strstr(line, what)) continue;
        json_t *j = json_loads(line, 0, NULL), *x = json_object_get(j, key);
        if (!json_is_number(x)) fail_msg("no number %s in %s", key, line);
        value = json_number_value(x);
        json_decref(j);
        if (n-- == 0) break;
    }
    fclose(f);
    if (n > -1) fail_msg("%s has too few records of %s", name, event);
    return value;
}
static const char *const dev_keys[] = {"dev_loss_nats_per_pair", "dev_reward_chosen", "dev_reward_rejected", "dev_accuracy_share", "dev_logp_chosen_nats_per_answer", "dev_logp_rejected_nats_per_answer"};
enum { DEV_KEYS = sizeof dev_keys / sizeof *dev_keys };
#define LORA "--model test/data/llama3 --pairs @pairs --seq-len 64 --lr 2e-2 --beta 1 "

static void lora_aligns_merges_resumes_and_goes_on(void **state) {
    (void)state;
    Error e;
    make_random_shard(in("pairs"), 40, 12, 10, 3);
    // three steps over all 40 pairs, and the loss after them: what a run with this adapter begins with
    run_dpo(0, LORA "--step-pairs 40 --steps 3 --lora-rank 4 --out @three");
    assert_non_null(strstr(output, "first step: dpo loss 0.693147181, expected 0.693147181 (ln 2)"));
    assert_non_null(strstr(output, "the adapter is in "));
    run_dpo(0, LORA "--step-pairs 40 --steps 1 --adapter @three --out @after");
    assert_non_null(strstr(output, "the policy begins with --adapter"));
    double loss[4];
    for (int i = 0; i < 4; i++) loss[i] = logged(i < 3 ? "three" : "after", "step", i < 3 ? i : 0, "loss_nats_per_pair");
    printf("LoRA, loss of all pairs before and after each of three steps: %.6f %.6f %.6f %.6f\n", loss[0], loss[1], loss[2], loss[3]);
    assert_true(fabs(loss[0] - log(2.0)) < 1e-6 && loss[1] < loss[0] && loss[2] < loss[1] && loss[3] < loss[2]);
    // PEFT's directory: nothing more, nothing less, and it loads
    for (int i = 0; i < 4; i++) assert_int_equal(file_exists(in(i == 0 ? "three/adapter_config.json" : i == 1 ? "three/adapter_model.safetensors" : i == 2 ? "three/model.safetensors" : "three/config.json")), i < 2);
    Config config;
    ModelOptions options;
    memset(&options, 0, sizeof options);
    must(config_load(model_dir, &config, &e) && lora_read_config(in("three"), &options.lora, &e), &e);
    assert_int_equal(options.lora.rank, 4);
    assert_true(options.lora.alpha == 8);
    Model *m = model_create(&config, 1, 8, false, &options);
    must(model_load_dir(m, model_dir, &e) && lora_load_dir(m, in("three"), &e), &e);
    model_free(m);

    // one run from beginning to end; the same stopped and resumed, in and between epochs of five steps
    #define ROUND LORA "--step-pairs 7 --epochs 2 --alpha 0.5 --dev-pairs 5 --dev-every 4 --lora-rank 4 --lora-alpha 6 --lora-targets q,v,down --merge --save-dtype float32 "
    run_dpo(0, ROUND "--out @round");
    for (int i = 0; i < 3; i++) {
        char words[512];
        snprintf(words, sizeof words, ROUND "--out @pieces --stop-after-steps %d %s", 1 + 2 * i, i ? "--resume" : "");
        run_dpo(EXIT_STOPPED, words);
    }
    assert_false(file_exists(in("pieces/adapter_model.safetensors")));
    run_dpo(0, ROUND "--out @pieces --resume");
    static const char *const made[] = {"adapter_model.safetensors", "adapter_config.json", "merged/model.safetensors", "merged/config.json"};
    for (int i = 0; i < 4; i++) {
        char one[64], two[64];
        snprintf(one, sizeof one, "round/%s", made[i]); snprintf(two, sizeof two, "pieces/%s", made[i]);
        assert_true(same_bits(one, two));
    }
    expect(ROUND "--out @pieces --resume --lora-rslora", "lora is ");

    // where it ended is where the next one begins: with the adapter to the last bit, with the merged model but for the rounding of W + s B A
    double end = logged("round", "dev", -1, dev_keys[0]), begin = logged("round", "dev", 0, dev_keys[0]);
    assert_true(fabs(end - begin) > 0.1);   // there is something to compare
    run_dpo(0, LORA "--step-pairs 7 --steps 1 --alpha 0.5 --dev-pairs 5 --adapter @round --out @next");
    run_dpo(0, "--model @round/merged --ref test/data/llama3 --pairs @pairs --seq-len 64 --beta 1 --step-pairs 7 --steps 1 --alpha 0.5 --dev-pairs 5 --out @merged");
    double worst = 0;
    for (int k = 0; k < DEV_KEYS; k++) {
        double want = logged("round", "dev", -1, dev_keys[k]), next = logged("next", "dev", 0, dev_keys[k]), merged = logged("merged", "dev", 0, dev_keys[k]);
        if (next != want) fail_msg("%s is %.17g with --adapter, was %.17g", dev_keys[k], next, want);
        worst = fmax(worst, fabs(merged - want) / (1 + fabs(want)));
    }
    printf("LoRA, dev figures of the merged model beside the run's last: worst %.1e, loss %.6f\n", worst, end);
    assert_true(worst < 1e-5);
}

// iterated alignment: with the earlier run's moments two runs are the one they are parts of, without them they are not
static void another_run_keeps_the_optimizer(void **state) {
    (void)state;
    #define ITERATED "--pairs @pairs --seq-len 64 --step-pairs 20 --lr 1e-2 --schedule constant --warmup 0 --save-dtype float32 --ref test/data/llama3 "
    make_random_shard(in("pairs"), 20, 12, 10, 3);   // every step takes all pairs
    run_dpo(0, "--model test/data/llama3 " ITERATED "--steps 4 --out @opt_four");
    run_dpo(0, "--model test/data/llama3 " ITERATED "--steps 2 --out @opt_first");
    run_dpo(0, "--model @opt_first " ITERATED "--steps 2 --optimizer @opt_first --out @opt_kept");
    assert_non_null(strstr(output, "optimizer: moments of 2 updates from "));
    run_dpo(0, "--model @opt_first " ITERATED "--steps 2 --out @opt_fresh");
    double want = logged("opt_four", "step", 3, "loss_nats_per_pair"), kept = logged("opt_kept", "step", 1, "loss_nats_per_pair"), fresh = logged("opt_fresh", "step", 1, "loss_nats_per_pair");
    printf("fourth step's loss: one run %.9f, two that keep the optimizer %.9f, two that do not %.9f\n", want, kept, fresh);
    assert_true(fabs(kept - want) < 1e-6 && fabs(fresh - want) > 1e-4);
    // stopped and resumed, the moments are the checkpoint's
    run_dpo(EXIT_STOPPED, "--model @opt_first " ITERATED "--steps 2 --optimizer @opt_first --out @opt_parts --stop-after-steps 1");
    run_dpo(0, "--model @opt_first " ITERATED "--steps 2 --optimizer @opt_first --out @opt_parts --resume");
    assert_true(same_bits("opt_parts/model.safetensors", "opt_kept/model.safetensors"));
    expect("--model @opt_first " ITERATED "--steps 2 --optimizer @nowhere --out @opt_x", "has no checkpoints/step_*");
    // the checkpoint has them, so the earlier run may be gone; one without a checkpoint needs it
    run_dpo(EXIT_STOPPED, "--model @opt_first " ITERATED "--steps 2 --optimizer @opt_first --out @opt_alone --stop-after-steps 1");
    rename_in("opt_first/checkpoints", "opt_first/gone");
    run_dpo(0, "--model @opt_first " ITERATED "--steps 2 --optimizer @opt_first --out @opt_alone --resume");
    assert_true(same_bits("opt_alone/model.safetensors", "opt_kept/model.safetensors"));
    expect("--model @opt_first " ITERATED "--steps 2 --optimizer @opt_first --out @opt_begun --resume", "has no checkpoints/step_*");
    rename_in("opt_first/gone", "opt_first/checkpoints");
    run_dpo(0, "--model @opt_first " ITERATED "--steps 2 --optimizer @opt_first --out @opt_begun --resume");
    assert_true(same_bits("opt_begun/model.safetensors", "opt_kept/model.safetensors"));
    expect("--model test/data/llama3 " ITERATED "--steps 2 --optimizer @opt_first --out @opt_first --overwrite", "--optimizer is --out");
    expect("--model test/data/llama3 " ITERATED "--steps 2 --optimizer @opt_first --out @opt_first --resume", "--optimizer is --out");
    expect("--model @opt_first " ITERATED "--steps 2 --optimizer @opt_first --lora-rank 4 --merge --out @opt_x", "is not a tensor of this model");
}

// --overwrite: what cannot be read is found before anything of OUT goes, another run's reference among it; and what is read is not written over
static void a_run_that_fails_costs_no_earlier_one(void **state) {
    (void)state;
    static const char *const kept[] = {"model.safetensors", "config.json", "log.jsonl", "checkpoints/reference.safetensors", "checkpoints/step_00000002/manifest.json", "checkpoints/step_00000002/state.safetensors"};
    enum { KEPT = 6 };
    char *before[KEPT], name[128];
    int64_t size[KEPT], n, k;
    make_random_shard(in("pairs"), 20, 12, 10, 3);
    make_random_shard(in("others"), 20, 12, 10, 4);
    run_dpo(0, "--model test/data/llama3 " ITERATED "--steps 2 --out @dear");
    run_dpo(0, "--model test/data/llama3 " ITERATED "--steps 2 --out @moments");
    for (int i = 0; i < KEPT; i++) { snprintf(name, sizeof name, "dear/%s", kept[i]); before[i] = bytes_of(name, &size[i]); }
    char *state_file = bytes_of("moments/checkpoints/step_00000002/state.safetensors", &n);
    state_file[n - 3] ^= 1;
    assert_true(write_file(in("moments/checkpoints/step_00000002/state.safetensors"), state_file, n, NULL));
    free(state_file);
    #define OTHERS "--model @moments --pairs @others --seq-len 64 --step-pairs 20 --steps 1 --out @dear --overwrite "
    expect(OTHERS "--optimizer @moments", "state.safetensors");
    expect(OTHERS "--optimizer @moments --lora-rank 4", "state.safetensors");
    expect(OTHERS "--ref @dear", "is the same directory as --ref");
    expect("--model @dear --pairs @others --seq-len 64 --out @dear --overwrite", "is the same directory as --model");
    for (int i = 0; i < KEPT; i++) {
        snprintf(name, sizeof name, "dear/%s", kept[i]);
        if (!file_exists(in(name))) fail_msg("%s is gone", name);
        char *after = bytes_of(name, &k);
        if (k != size[i] || memcmp(after, before[i], (size_t)k) != 0) fail_msg("%s is another", name);
        free(after); free(before[i]);
    }
    run_dpo(0, OTHERS);   // and when all can be read it is replaced
    assert_false(file_exists(in("dear/checkpoints/step_00000002/manifest.json")));
    run_dpo(0, OTHERS);
    assert_non_null(strstr(output, "reference: log-probs of 20 pairs from "));   // kept, and found again
    Error e;
    must(make_directory(in("dear/best"), &e), &e);
    static const char *const of[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "dear/%s", of[i]);
        char *bytes = bytes_of(name, &n);
        snprintf(name, sizeof name, "dear/best/%s", of[i]);
        assert_true(write_file(in(name), bytes, n, NULL));
        free(bytes);
    }
    expect("--model @dear/best --pairs @others --seq-len 64 --out @dear --overwrite", "--out/best is the same directory as --model");
    assert_true(same_bits("dear/best/model.safetensors", "dear/model.safetensors"));
}

// writes the file again with numbers added to all chosen and all rejected values and the hashes right: what only the first step can see
static void tamper(const char *out, double chosen, double rejected) {
    char name[128];
    snprintf(name, sizeof name, "%s/checkpoints/reference.safetensors", out);
    Error e;
    Safetensors *s = safetensors_open(in(name), &e);
    must(s != NULL, &e);
    int64_t n = safetensors_find(s, "chosen")->count;
    double *values = xmalloc(2 * n * 8);
    memcpy(values, safetensors_find(s, "chosen")->data, (size_t)n * 8);
    memcpy(values + n, safetensors_find(s, "rejected")->data, (size_t)n * 8);
    for (int64_t i = 0; i < 2 * n; i++) values[i] += i < n ? chosen : rejected;
    SafetensorsWriter *w = safetensors_writer_new(in(name));
    static const char *const keys[] = {"format", "weights", "pairs", "device"};
    for (int i = 0; i < 4; i++) safetensors_writer_metadata(w, keys[i], safetensors_metadata(s, keys[i]));
    safetensors_writer_metadata(w, "values", reference_values_hash(values, values + n, n).hex);
    safetensors_writer_tensor(w, "chosen", DTYPE_F64, 1, &n);
    safetensors_writer_tensor(w, "rejected", DTYPE_F64, 1, &n);
    must(safetensors_writer_begin(w, &e) && safetensors_writer_data(w, values, 2 * n * 8, &e) && safetensors_writer_commit(w, &e), &e);
    safetensors_close(s);
    free(values);
}

static void the_reference_is_kept_checked_and_refused(void **state) {
    (void)state;
    make_random_shard(in("pairs"), 40, 12, 10, 3);
    make_random_shard(in("others"), 40, 12, 10, 4);
    run_dpo(EXIT_STOPPED, BASE "--out @kept --stop-after-steps 1");
    int64_t n, k;
    char *before = bytes_of("kept/checkpoints/reference.safetensors", &n);
    run_dpo(0, BASE "--out @kept --resume");
    assert_non_null(strstr(output, "reference: log-probs of 40 pairs from "));
    char *after = bytes_of("kept/checkpoints/reference.safetensors", &k);
    assert_true(n == k && memcmp(before, after, (size_t)n) == 0);
    free(before); free(after);
    expect("--model test/data/llama3 --pairs @others --seq-len 64 --out @kept --resume", "the reference's log-probs are of another pairs");
    // other weights: the model of this run as the reference of another
    Error e;
    must(make_directory(in("mixed/checkpoints"), &e), &e);
    before = bytes_of("kept/checkpoints/reference.safetensors", &n);
    assert_true(write_file(in("mixed/checkpoints/reference.safetensors"), before, n, NULL));
    expect(BASE "--out @mixed --ref @kept", "the reference's log-probs are of another reference weights");
    expect("--model test/data/llama3 --pairs @pairs --seq-len 20 --out @mixed", "of another pairs");   // fewer fit
    run_dpo(0, BASE "--out @mixed --ref @kept --overwrite");
    assert_non_null(strstr(output, "not checked"));
    // --ref with the same weights is the same as none
    run_dpo(0, BASE "--out @same --ref test/data/llama3");
    assert_non_null(strstr(output, "(ln 2)"));
    assert_true(same_bits("same/model.safetensors", "kept/model.safetensors"));
    // damage, and what only the first step can see
    must(make_directory(in("bad/checkpoints"), &e), &e);
    before[n - 3] ^= 1;
    assert_true(write_file(in("bad/checkpoints/reference.safetensors"), before, n, NULL));
    expect(BASE "--out @bad", "its hash does not match");
    before[n - 3] ^= 1;
    assert_true(write_file(in("bad/checkpoints/reference.safetensors"), before, n / 2, NULL));
    expect(BASE "--out @bad", "reference.safetensors");
    assert_true(write_file(in("bad/checkpoints/reference.safetensors"), before, n, NULL));
    free(before);
    tamper("bad", 0.01, 0);
    expect(BASE "--out @bad", "the first step's dpo loss is 0.69");
    assert_false(file_exists(in("bad/model.safetensors")));
    expect(BASE "--out @bad --overwrite --loss ipo --beta 2", "the first step's ipo loss");
    tamper("bad", -0.01, 0.001);
    expect(BASE "--out @bad --overwrite", "the first step's dpo loss");
    tamper("bad", 0.001, 0);   // both answers of a pair moved alike: the loss is ln 2
    expect(BASE "--out @bad --overwrite", "the same weights do not agree");
    assert_non_null(strstr(output, "loss is 0.693147181, expected 0.693147181"));
    tamper("bad", -0.001, -0.001);
    run_dpo(0, BASE "--out @bad --overwrite");
}

static void bad_input_is_one_line(void **state) {
    (void)state;
    make_random_shard(in("pairs"), 40, 12, 10, 3);
    int64_t one[1][3] = {{5, 3, 4}};
    int32_t tokens[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    uint8_t weights[12] = {0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0};
    make_shard(in("untrained"), SHARD_PREF, (const int64_t (*)[3])one, 1, tokens, weights);
    weights[8] = 1;
    make_shard(in("it"), SHARD_IT, (const int64_t (*)[3])one, 1, tokens, weights);
    const struct { const char *words, *text; } bad[] = {
        {"--pairs @pairs --out @x", "--model is missing"}, {"--model test/data/llama3 --out @x", "--pairs is missing"}, {"--model test/data/llama3 --pairs @pairs", "--out is missing"},
        {BASE "--out @x --beta 0", "--beta is 0, expected"}, {BASE "--out @x --beta -1", "--beta is -1"}, {BASE "--out @x --beta nan", "--beta"}, {BASE "--out @x --alpha -1", "--alpha is -1"},
        {BASE "--out @x --loss kto", "--loss is \"kto\", expected one of: dpo, cdpo"}, {BASE "--out @x --preset best", "expected one of: findap, openfinllm"}, {BASE "--out @x --alpha 1 --nll mean", "--nll is \"mean\""},
        {BASE "--out @x --nll token", "--nll has no effect here: --alpha is 0"}, {BASE "--out @x --alpha 1 --nll token --nll-batch 2", "--nll-batch has no effect"}, {BASE "--out @x --label-smoothing 0.1", "only the losses cdpo and robust"},
        {BASE "--out @x --loss robust --label-smoothing 0.5", "expected 0 to 0.499"}, {BASE "--out @x --gamma-ratio 1", "only the loss simpo"}, {BASE "--out @x --loss simpo --ref test/data/llama3", "simpo has no reference"},
        {BASE "--out @x --dev-every 3", "there are no --dev-pairs"}, {BASE "--out @x --dev-pairs 40", "leaves none to train on"}, {BASE "--out @x --steps 3", "both --steps and --epochs"}, {BASE "--out @x --decay 0.1", "not wsd"},
        {BASE "--out @x --zero 2", "there is one rank"}, {BASE "--out @x --nonsense", "unknown flag"}, {BASE "--out @x --recipe r", "unknown flag"}, {BASE "--out test/data/llama3", "is the same directory as --model"},
        {"--model test/data/llama3 --pairs @it --out @x --seq-len 64", "is a shard of kind it, expected pref"}, {"--model test/data/llama3 --pairs @untrained --out @x --seq-len 64", "no pair is left: 0 do not fit"},
        {"--model test/data/llama3 --pairs @pairs --out @x --seq-len 3", "no pair is left: 40 do not fit"}, {"--model test/data/llama3 --pairs @pairs --out @x --seq-len 65", "the model has 64 positions"},
        {"--model test/data/llama3 --pairs @none --out @x --seq-len 64", "no such shard"}, {"--model @none --pairs @pairs --out @x --seq-len 64", "config.json"},
        {"--model test/data/qwen25 --pairs @pairs --out @x --seq-len 64", "a vocabulary of 101, the model has 89"}, {BASE "--out @x --ref @none", "none"}, {BASE "--out @x --ref test/data/qwen25", "vocabulary of 89"},
        {BASE "--out @x --resume --overwrite", "contradict"}, {BASE "--out @x --lora-alpha 3", "there is no adapter"}, {BASE "--out @x --merge", "there is no adapter"},
        {BASE "--out @x --lora-rank 4", "an adapter is saved in float32"}, {BASE "--out @x --adapter @none --merge", "adapter_config.json"}, {BASE "--out @x --dry-run", "--save-dtype has no effect"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) expect(bad[i].words, bad[i].text);
    assert_false(file_exists(in("x/model.safetensors")));
}

// ---- ranks

__attribute__((format(printf, 1, 2))) static int shell(const char *format, ...) {
    char command[4096];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof command, format, ap);
    va_end(ap);
    return WEXITSTATUS(system(command));
}
static void ranks_change_nothing(void **state) {
    (void)state;
    if (shell("test -x %s/dpo_cpu && mpirun --version >/dev/null 2>&1 && ldd %s/dpo_cpu | grep -q libmpi", build, build) != 0) {
        printf("skipped: several ranks: no mpirun here, or dpo_cpu is not built with MPI beside this test\n");
        skip();
    }
    make_random_shard(in("pairs"), 40, 12, 10, 3);
    char flags[1024];
    static const struct { int ranks, zero, rows; bool lora; } runs[] = {{1, 0, 2, false}, {2, 1, 1, false}, {2, 2, 2, false}, {3, 3, 1, false}, {1, 0, 2, true}, {2, 1, 1, true}, {2, 3, 2, true}};
    for (int i = 0; i < 7; i++) {
        char out[32];
        const char *of = runs[i].lora ? "lora1" : "r1";
        snprintf(flags, sizeof flags, "--model test/data/llama3 --pairs %s/pairs --seq-len 64 --step-pairs 7 --lr 2e-3 --epochs 1 --save-dtype float32 --alpha 0.5 --nll-batch 2 --dev-pairs 5 --dev-every 3%s", directory,
                 runs[i].lora ? " --lora-rank 4 --merge" : "");
        if (runs[i].ranks == 1) {
            assert_int_equal(shell("OMP_NUM_THREADS=1 %s/dpo_cpu %s --out %s/%s --quiet", build, flags, directory, of), 0);
            continue;
        }
        snprintf(out, sizeof out, "%s%d.%d", runs[i].lora ? "lora" : "r", runs[i].ranks, runs[i].zero);
        assert_int_equal(shell("timeout -k 5 60 env OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to none -np %d %s/dpo_cpu %s --zero %d --micro-rows %d --out %s/%s --quiet",
                               runs[i].ranks, build, flags, runs[i].zero, runs[i].rows, directory, out), 0);
        same_figures(out, of);
        char one[96], two[96];
        snprintf(one, sizeof one, "%s/checkpoints/reference.safetensors", out);
        snprintf(two, sizeof two, "%s/checkpoints/reference.safetensors", of);
        assert_true(same_bits(one, two));   // a pair's sum is made on one rank: the same bits on any number
    }
    // replicas that do not begin with the same weights (the second's files are a byte off, and as long): nothing is trained or kept, since --resume would make them one
    assert_int_equal(shell("cp -r test/data/llama3 %s/off && chmod -R u+w %s/off && printf '\\001' | dd of=%s/off/model.safetensors bs=1 seek=$(($(stat -c %%s %s/off/model.safetensors) - 10)) conv=notrunc 2>/dev/null", directory, directory, directory, directory), 0);
    snprintf(flags, sizeof flags, "--pairs %s/pairs --seq-len 64 --step-pairs 8 --steps 6 --checkpoint-every 2 --shard-ranks 1 --out %s/z --quiet", directory, directory);
    assert_int_equal(shell("timeout -k 5 60 env OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to none -np 1 %s/dpo_cpu --model test/data/llama3 %s : -np 1 %s/dpo_cpu --model %s/off %s >%s/z.log 2>&1",
                           build, flags, build, directory, flags, directory), 1);
    assert_int_equal(shell("grep -q 'error: rank 1 has other weights or moments than rank 0, whose replica it is' %s/z.log && ! ls -d %s/z/checkpoints/step_* 2>/dev/null", directory, directory), 0);
}

static void a_signal_stops_with_a_checkpoint(void **state) {
    (void)state;
    if (shell("test -x %s/dpo_cpu", build) != 0) { printf("skipped: a signal: dpo_cpu is not built beside this test\n"); skip(); }
    make_random_shard(in("pairs"), 40, 12, 10, 3);
    char program[600], pairs[300], out[300], log[300];
    snprintf(program, sizeof program, "%s/dpo_cpu", build); snprintf(pairs, sizeof pairs, "%s", in("pairs")); snprintf(out, sizeof out, "%s", in("asked")); snprintf(log, sizeof log, "%s", in("asked/log.jsonl"));
    pid_t pid = fork();
    if (pid == 0) { execl(program, program, "--model", model_dir, "--pairs", pairs, "--out", out, "--seq-len", "64", "--epochs", "100000", "--quiet", (char *)NULL); _exit(127); }
    struct stat st;
    for (int i = 0; i < 1500 && !(stat(log, &st) == 0 && st.st_size > 4000); i++) usleep(10000);
    kill(pid, SIGTERM);
    int status = 0;
    waitpid(pid, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_STOPPED) fail_msg("status %x", status);
    run_dpo(EXIT_STOPPED, "--model test/data/llama3 --pairs @pairs --out @asked --seq-len 64 --epochs 100000 --resume --stop-after-steps 1");
    assert_non_null(strstr(output, "resumed after step"));
}

int main(int argc, char **argv) {
    (void)argc;
    const char *slash = strrchr(argv[0], '/');
    snprintf(build, sizeof build, "%.*s", slash ? (int)(slash - argv[0]) : 1, slash ? argv[0] : ".");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_numbers), cmocka_unit_test(every_loss_and_its_gradient_match_trl), cmocka_unit_test(gradients_match_four_separate_sequences_in_transformers),
        cmocka_unit_test(shared_prompts_equal_the_sequences_run_apart), cmocka_unit_test(a_step_holds_its_pairs_and_little_else), cmocka_unit_test(first_step_is_ln_2_and_pairs_are_learned),
        cmocka_unit_test(micro_batches_change_nothing), cmocka_unit_test(a_resumed_run_has_the_same_bits), cmocka_unit_test(lora_aligns_merges_resumes_and_goes_on), cmocka_unit_test(another_run_keeps_the_optimizer),
        cmocka_unit_test(a_run_that_fails_costs_no_earlier_one),
        cmocka_unit_test(the_reference_is_kept_checked_and_refused), cmocka_unit_test(bad_input_is_one_line),
        cmocka_unit_test(ranks_change_nothing),
        cmocka_unit_test(a_signal_stops_with_a_checkpoint),
    };
    int failed = cmocka_run_group_tests(tests, setup, teardown);
    free(output);
    return failed;
}
