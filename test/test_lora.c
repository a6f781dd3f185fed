// test_lora.c: LoRA on the CPU reference against PEFT (adapters and fp64 tensors made by dev/lora_reference.py), PEFT's directories in and out, merging,
// and whole runs of train_findap_cpu with an adapter.
#define FINDAP_LIBRARY
#include "../train_findap.c"
#include "../findap/train.h"   // defines: train_main, lora_load_dir, lora_save_dir, model_load_dir, checkpoint_list
#include "check.h"             // defines: cmocka's assertions, fail_msg
#include "scratch.h"           // defines: directory, setup, teardown, in

static const struct { const char *name, *base; } cases[] = {{"llama3_all", "llama3"}, {"llama3_rslora", "llama3"}, {"qwen25_some", "qwen25"}, {"qwen25_untied_all", "qwen25_untied"}};
enum { CASES = sizeof cases / sizeof *cases };

typedef struct { Safetensors *data, *want; char base[128], dir[128]; Config config; ModelOptions options; Model *model; Batch batch; float *coef, *logp; } Case;

static void must(bool ok, const Error *e) { if (!ok) fail_msg("%s", e->text); }
static const SafeTensor *tensor_of(const Safetensors *file, const char *name) {
    const SafeTensor *t = safetensors_find(file, name);
    if (!t) fail_msg("the reference has no tensor %s", name);
    return t;
}
static Safetensors *open_in(const char *dir, const char *name) {
    Error e;
    char *path = path_join(dir, name);
    Safetensors *s = safetensors_open(path, &e);
    must(s != NULL, &e);
    free(path);
    return s;
}
static Case case_open(int k) {   // the base model with PEFT's adapter
    Case c;
    Error e;
    memset(&c, 0, sizeof c);
    snprintf(c.base, sizeof c.base, "test/data/%s", cases[k].base);
    snprintf(c.dir, sizeof c.dir, "test/data/lora/%s", cases[k].name);
    must(config_load(c.base, &c.config, &e) && lora_read_config(c.dir, &c.options.lora, &e) && model_check(&c.config, &c.options, &e), &e);
    c.data = open_in(c.base, "reference.safetensors");
    c.want = open_in(c.dir, "reference.safetensors");
    const SafeTensor *tokens = tensor_of(c.data, "tokens");
    int64_t n = tokens->count;
    double total = 0;
    Batch b = {tokens->shape[0], tokens->shape[1], (int32_t *)(uintptr_t)tokens->data, (int32_t *)(uintptr_t)tensor_of(c.data, "positions")->data, (int32_t *)(uintptr_t)tensor_of(c.data, "targets")->data,
               (float *)(uintptr_t)tensor_of(c.data, "weights")->data, true};
    c.batch = b;
    c.coef = (float *)xmalloc(n * 4);
    c.logp = (float *)xmalloc(n * 4);
    for (int64_t i = 0; i < n; i++) total += b.weights[i];
    for (int64_t i = 0; i < n; i++) c.coef[i] = (float)(-b.weights[i] / total);
    c.model = model_create(&c.config, b.B, b.T, true, &c.options);
    must(model_load_dir(c.model, c.base, &e) && lora_load_dir(c.model, c.dir, &e), &e);
    return c;
}
static void case_close(Case *c) {
    free(c->coef); free(c->logp);
    model_free(c->model);
    safetensors_close(c->data);
    safetensors_close(c->want);
}
static void run(Case *c) {   // one forward and backward of the whole batch
    model_zero_grad(c->model);
    model_forward(c->model, &c->batch);
    model_head(c->model, &c->batch, c->coef, c->logp);
    model_backward(c->model, &c->batch);
}
static float *logits_of(Model *m, const Batch *b) {   // (B*T, V), of a forward pass of b
    int64_t n = b->B * b->T, *index = (int64_t *)xcalloc(n, 8);
    for (int64_t i = 0; i < n; i++) index[i] = i;
    float *logits = (float *)xmalloc(n * model_config(m)->vocab_size * 4);
    model_forward(m, b);
    model_logits(m, index, n, logits);
    free(index);
    return logits;
}
static int64_t logits_bytes(const Case *c) { return c->batch.B * c->batch.T * c->config.vocab_size * 4; }
static double relative_error(const float *a, const float *b, int64_t n) {   // |a - b| / |b|
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) { difference += pow((double)a[i] - b[i], 2); norm += pow((double)b[i], 2); }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}
static Model *plain_model(const Case *c, const char *dir) {   // without LoRA
    Error e;
    Model *m = model_create(&c->config, c->batch.B, c->batch.T, false, NULL);
    must(model_load_dir(m, dir, &e), &e);
    return m;
}

// ---- against PEFT

static void logits_loss_and_every_adapter_gradient_match_peft(void **state) {
    (void)state;
    for (int k = 0; k < CASES; k++) {
        Case c = case_open(k);
        const SafeTensor *want = tensor_of(c.want, "logits");
        float *logits = logits_of(c.model, &c.batch);
        double error = relative_error(logits, (const float *)want->data, want->count), worst = 0;
        if (!(error < 1e-5)) fail_msg("%s: logits differ by %.2e", cases[k].name, error);
        free(logits);
        run(&c);
        float loss = *(const float *)tensor_of(c.want, "loss")->data;
        double got = model_result(c.model).loss;
        if (!(fabs(got - loss) < 1e-5 * loss)) fail_msg("%s: loss %.8f, PEFT %.8f", cases[k].name, got, loss);
        int seen = 0, in_reference = 0;
        for (int i = 0; i < model_num_tensors(c.model); i++) {
            const Tensor *t = model_tensor(c.model, i);
            assert_int_equal(t->frozen, !t->adapter);
            if (t->frozen) { assert_null(grad(c.model, t->name, 0)); continue; }
            float *g = (float *)xmalloc(tensor_numbers(t) * 4);
            for (int64_t l = 0; l < tensor_layers(c.model, t); l++, seen++) {
                char *name = tensor_state_name(t, l, "grad.");
                const SafeTensor *r = tensor_of(c.want, name);
                assert_int_equal(r->count, tensor_numbers(t));
                model_get(c.model, KIND_GRAD, i, (int)l, g);
                double d = relative_error(g, (const float *)r->data, r->count);
                if (!(d < 1e-5)) fail_msg("%s: %s differs by %.2e", cases[k].name, name, d);
                worst = d > worst ? d : worst;
                free(name);
            }
            free(g);
        }
        for (int64_t i = 0; i < safetensors_count(c.want); i++) in_reference += strncmp(safetensors_at(c.want, i)->name, "grad.", 5) == 0;
        assert_int_equal(seen, in_reference);   // no gradient of the reference went unchecked
        printf("%-18s logits %.1e, worst of %d gradients %.1e\n", cases[k].name, error, seen, worst);
        case_close(&c);
    }
}

// a plain copy of all that is frozen
static float *frozen_weights(const Model *m, int64_t *n) {
    *n = m->tensors[m->first_trained].offset;
    float *copy = (float *)xmalloc(*n * 4);
    memcpy(copy, m->params, (size_t)*n * 4);
    return copy;
}

static void adamw_steps_match_torch_and_leave_the_base_alone(void **state) {
    (void)state;
    for (int k = 0; k < CASES; k++) {
        Case c = case_open(k);
        const double *want = (const double *)tensor_of(c.want, "adamw_losses")->data;
        AdamW o = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1.0, 0};
        int64_t n;
        float *before = frozen_weights(c.model, &n);
        double worst = 0;
        for (int step = 0; step < 5; step++) {
            run(&c);
            o.t = step + 1;
            model_update(c.model, &o);
            StepResult r = model_result(c.model);
            double d = fabs(r.loss - want[step]) / want[step];
            assert_false(r.skipped);
            if (!(d < 1e-6)) fail_msg("%s: loss of step %d is %.8f, torch %.8f (%.1e)", cases[k].name, step, r.loss, want[step], d);
            worst = d > worst ? d : worst;
        }
        assert_memory_equal(before, c.model->params, (size_t)n * 4);
        printf("%-18s five AdamW steps, worst loss difference %.1e\n", cases[k].name, worst);
        free(before);
        case_close(&c);
    }
}

// ---- on, off, fresh

static void a_fresh_adapter_and_one_that_is_off_change_no_bit(void **state) {
    (void)state;
    for (int k = 0; k < CASES; k++) {
        Case c = case_open(k);
        Model *plain = plain_model(&c, c.base);
        float *base = logits_of(plain, &c.batch), *with = logits_of(c.model, &c.batch);
        assert_memory_not_equal(base, with, (size_t)logits_bytes(&c));
        model_adapter(c.model, false);
        float *off = logits_of(c.model, &c.batch);
        assert_memory_equal(base, off, (size_t)logits_bytes(&c));
        model_adapter(c.model, true);
        float *on = logits_of(c.model, &c.batch);
        assert_memory_equal(with, on, (size_t)logits_bytes(&c));
        lora_init(c.model, 7);
        float *fresh = logits_of(c.model, &c.batch);
        assert_memory_equal(base, fresh, (size_t)logits_bytes(&c));
        for (int i = 0; i < model_num_tensors(c.model); i++) {   // A fills +-1/sqrt(in) evenly, differently in every layer; B is zero
            const Tensor *t = model_tensor(c.model, i);
            if (!t->adapter) continue;
            double bound = 1 / sqrt((double)t->cols), sum = 0, squares = 0, n = (double)(tensor_numbers(t) * tensor_layers(c.model, t));
            bool a = t->name[strlen(t->name) - 1] == 'A';
            for (int64_t l = 0; l < tensor_layers(c.model, t); l++) {
                const float *x = param_at(c.model, i, l);
                for (int64_t j = 0; j < tensor_numbers(t); j++) { assert_true(fabs(x[j]) <= (a ? bound : 0)); sum += x[j]; squares += pow(x[j], 2); }
                if (a && l > 0) assert_true(x[0] != param_at(c.model, i, 0)[0]);
            }
            if (a) assert_true(fabs(sum / n) < 5 * bound / sqrt(3 * n) && fabs(squares / n * 3 / (bound * bound) - 1) < 5 * sqrt(0.8 / n));   // five standard deviations
        }
        free(base); free(with); free(off); free(on); free(fresh);
        model_free(plain);
        case_close(&c);
    }
}

static void nothing_is_kept_for_frozen_weights(void **state) {
    (void)state;
    Case c = case_open(0);
    ModelOptions full;
    memset(&full, 0, sizeof full);
    int64_t base = config_num_parameters(&c.config), lora = 0, n;
    for (int i = 0; i < model_num_tensors(c.model); i++) lora += model_tensor(c.model, i)->adapter ? tensor_numbers(model_tensor(c.model, i)) * tensor_layers(c.model, model_tensor(c.model, i)) : 0;
    assert_int_equal(lora, 3520);   // what PEFT counts
    assert_int_equal(c.model->num_parameters, base + lora);
    assert_int_equal(c.model->num_trained, lora);
    assert_int_equal(c.model->num_owned, lora);
    int64_t activations_full = model_memory_bytes(&c.config, 2, 24, true, &full, NULL) - base * 16, activations = model_memory_bytes(&c.config, 2, 24, true, &c.options, NULL) - base * 4 - lora * 16;
    int64_t N = 2 * 24, L = c.config.num_layers, R = c.options.lora.rank;
    assert_int_equal(activations - activations_full, 4 * (L * N * 7 * R + N * 3 * R));   // x A^T of seven targets in every layer, and one scratch: multiples of 16 here
    char plan[MODEL_PLAN_SIZE];
    model_memory_bytes(&c.config, 2, 24, true, &c.options, plan);
    assert_non_null(strstr(plan, "(trained 0.0 MiB)"));
    StateSlice *slices = state_slices(c.model, true, &n);
    assert_int_equal(state_bytes(slices, n), lora * 12);
    free(slices);
    case_close(&c);
}

// ---- merged, and fresh on merged

static void merged_equals_unmerged_and_takes_a_fresh_adapter(void **state) {
    (void)state;
    for (int k = 0; k < CASES; k++) {
        Case c = case_open(k);
        Error e;
        float *with = logits_of(c.model, &c.batch);
        must(model_save_dir(c.model, c.base, in("merged"), "float32", 0, &e), &e);
        Model *merged = plain_model(&c, in("merged"));
        float *got = logits_of(merged, &c.batch);
        double error = relative_error(got, with, logits_bytes(&c) / 4);
        if (!(error < 2e-6)) fail_msg("%s: merged and unmerged differ by %.2e", cases[k].name, error);
        printf("%-18s merged in fp32: logits within %.1e\n", cases[k].name, error);
        Model *next = model_create(&c.config, c.batch.B, c.batch.T, true, &c.options);   // the next round: a fresh adapter on the merged model
        must(model_load_dir(next, in("merged"), &e), &e);
        lora_init(next, 3);
        float *fresh = logits_of(next, &c.batch);
        assert_memory_equal(fresh, got, (size_t)logits_bytes(&c));
        // bf16: every number is the nearest to W + s B A in double, rounded once. The fp32 sum may tip a tie, not more
        must(model_save_dir(c.model, c.base, in("bf16"), "bfloat16", 0, &e), &e);
        Model *rounded = plain_model(&c, in("bf16"));
        int64_t tipped = 0, numbers = 0;
        for (int t = 0; t < LORA_TARGETS; t++) {
            if (!(c.options.lora.targets >> t & 1)) continue;
            for (int64_t l = 0; l < c.config.num_layers; l++) {
                const Tensor *w = model_tensor(c.model, model_find_tensor(c.model, lora_targets[t]));
                const float *W = param(c.model, lora_targets[t], l), *A = param_at(c.model, c.model->adapters[t][0], l), *B = param_at(c.model, c.model->adapters[t][1], l);
                const float *have = param(rounded, lora_targets[t], l);
                int64_t R = c.options.lora.rank;
                for (int64_t j = 0; j < w->rows * w->cols; j++, numbers++) {
                    double sum = 0;
                    for (int64_t r = 0; r < R; r++) sum += (double)B[j / w->cols * R + r] * A[r * w->cols + j % w->cols];
                    double exact = W[j] + lora_scale(&c.options.lora) * sum;
                    tipped += have[j] != bf16_to_f32(f32_to_bf16((float)exact));
                    assert_true(fabs(have[j] - exact) <= fabs(exact) / 256 * 1.001 + 1e-6);
                }
            }
        }
        assert_true(tipped * 1000 <= numbers);   // 65,536 fp32 numbers lie between two of bf16
        free(with); free(got); free(fresh);
        model_free(merged); model_free(next); model_free(rounded);
        case_close(&c);
    }
}

// ---- PEFT's directory

static json_t *adapter_config(const char *dir) {
    Error e;
    char *path = path_join(dir, "adapter_config.json");
    json_t *j = json_parse_file(path, 1 << 20, &e);
    must(j != NULL, &e);
    free(path);
    return j;
}

static void what_is_written_is_what_peft_wrote(void **state) {
    (void)state;
    for (int k = 0; k < CASES; k++) {
        Case c = case_open(k);
        Error e;
        must(lora_save_dir(c.model, c.base, in("adapter"), &e) && lora_save_dir(c.model, c.base, in("adapter"), &e), &e);   // the second replaces the first
        Safetensors *theirs = open_in(c.dir, "adapter_model.safetensors"), *ours = open_in(in("adapter"), "adapter_model.safetensors");
        assert_int_equal(safetensors_count(theirs), safetensors_count(ours));
        for (int64_t i = 0; i < safetensors_count(theirs); i++) {
            const SafeTensor *a = safetensors_at(theirs, i), *b = tensor_of(ours, a->name);
            assert_true(a->dtype == b->dtype && a->rank == b->rank && a->shape[0] == b->shape[0] && a->shape[1] == b->shape[1]);
            assert_memory_equal(a->data, b->data, (size_t)a->bytes);
        }
        assert_string_equal(safetensors_metadata(ours, "format"), "pt");
        json_t *peft = adapter_config(c.dir), *mine = adapter_config(in("adapter")), *value;
        const char *key;
        json_object_foreach(mine, key, value) {   // each key is one of PEFT's, with PEFT's value
            const json_t *other = json_object_get(peft, key);
            if (strcmp(key, "target_modules") == 0) { assert_int_equal(json_array_size(value), json_array_size(other)); continue; }   // a set there: in any order
            if (!json_equal(value, other)) fail_msg("%s: adapter_config.json: %s differs", cases[k].name, key);
        }
        Lora back;
        must(lora_read_config(in("adapter"), &back, &e), &e);
        assert_true(back.rank == c.options.lora.rank && back.alpha == c.options.lora.alpha && back.rslora == c.options.lora.rslora && back.targets == c.options.lora.targets);
        json_decref(peft); json_decref(mine);
        safetensors_close(theirs); safetensors_close(ours);
        case_close(&c);
    }
}

// writes the adapter again with every number as dtype; with `drop` without tensor number `drop`, with `swap` its two sizes exchanged, with `more` one tensor more
static void write_variant(const Safetensors *s, const char *path, Dtype dtype, int64_t drop, int64_t swap, const char *more) {
    Error e;
    SafetensorsWriter *w = safetensors_writer_new(path);
    int64_t one = 1;
    for (int64_t i = 0; i < s->count; i++) {
        int64_t shape[2] = {s->tensors[i].shape[i == swap], s->tensors[i].shape[i != swap]};
        if (i != drop) safetensors_writer_tensor(w, s->tensors[i].name, dtype, 2, shape);
    }
    if (more) safetensors_writer_tensor(w, more, DTYPE_I32, 1, &one);
    must(safetensors_writer_begin(w, &e), &e);
    for (int64_t i = 0; i < s->count; i++) {
        float x[4096];
        int64_t n = s->tensors[i].count;
        char bytes[4 * 4096] = {0};
        assert_true(n <= 4096 && safetensor_to_f32(&s->tensors[i], 0, n, x));
        if (dtype == DTYPE_I32) memset(bytes, 1, sizeof bytes); else safetensor_from_f32(dtype, x, n, bytes);
        if (i != drop) must(safetensors_writer_data(w, bytes, n * dtype_size(dtype), &e), &e);
    }
    if (more) must(safetensors_writer_data(w, "\1\0\0\0", 4, &e), &e);
    must(safetensors_writer_commit(w, &e), &e);
}

static void refused(Case *c, const char *dir, const char *words) {
    Error e;
    e.text[0] = 0;
    Lora l;
    if (lora_read_config(dir, &l, &e) && lora_load_dir(c->model, dir, &e)) fail_msg("accepted, though it should say \"%s\"", words);
    if (!strstr(e.text, words) || strchr(e.text, '\n')) fail_msg("\"%s\" instead of \"%s\"", e.text, words);
}

static void a_malformed_adapter_is_refused_in_one_line(void **state) {
    (void)state;
    static const struct { const char *key, *value, *words; } edits[] = {
        {"peft_type", "\"IA3\"", "\"peft_type\" is \"IA3\", expected LORA"}, {"peft_type", "null", "\"peft_type\" is missing"}, {"r", "0", "\"r\" is 0, expected 1 to"}, {"r", "null", "\"r\" is missing"},
        {"r", "4.5", "\"r\" is a number, expected an integer"}, {"r", "5", "rank 5, alpha 8"}, {"lora_alpha", "0", "\"lora_alpha\" is 0"}, {"lora_alpha", "\"8\"", "is a string, expected a number"},
        {"lora_alpha", "16", "alpha 16"}, {"use_rslora", "true", "rslora 1"}, {"use_rslora", "3", "expected true or false"}, {"bias", "\"all\"", "\"bias\" is \"all\", expected none"},
        {"task_type", "\"SEQ_CLS\"", "expected CAUSAL_LM"}, {"use_dora", "true", "\"use_dora\" is set"}, {"modules_to_save", "[\"lm_head\"]", "\"modules_to_save\" is set"},
        {"rank_pattern", "{\"q_proj\": 2}", "\"rank_pattern\" is set"}, {"alpha_pattern", "{\"q_proj\": 2}", "\"alpha_pattern\" is set"}, {"fan_in_fan_out", "true", "\"fan_in_fan_out\" is set"},
        {"layers_to_transform", "0", "\"layers_to_transform\" is set"}, {"layers_to_transform", "[0]", "\"layers_to_transform\" is set"}, {"exclude_modules", "\"k_proj\"", "\"exclude_modules\" is set"},
        {"lora_bias", "true", "\"lora_bias\" is set"}, {"use_of_tomorrow", "true", "\"use_of_tomorrow\" is set"}, {"init_lora_weights", "\"pissa\"", "\"init_lora_weights\" is \"pissa\""},
        {"target_modules", "\"all-linear\"", "\"target_modules\" is a string"}, {"target_modules", "[]", "\"target_modules\" is empty"}, {"target_modules", "[\"q_proj\", \"lm_head\"]", "has \"lm_head\""},
        {"target_modules", "[\"q_proj\", 3]", "has \"an integer\""}, {"target_modules", "[\"q_proj\"]", "on q, the model was made for"},
    };
    Case c = case_open(0);
    Error e;
    Safetensors *s = open_in(c.dir, "adapter_model.safetensors");
    const char *dir = in("bad");
    must(make_directory(dir, &e), &e);
    char *config = path_join(dir, "adapter_config.json"), *weights = path_join(dir, "adapter_model.safetensors"), *pickle = path_join(dir, "adapter_model.bin");
    refused(&c, dir, "adapter_config.json");
    for (int i = 0; i <= (int)(sizeof edits / sizeof *edits); i++) {   // the last round: unchanged, which is accepted
        json_t *j = adapter_config(c.dir);
        bool edit = i < (int)(sizeof edits / sizeof *edits);
        if (edit) json_object_set_new(j, edits[i].key, json_loads(edits[i].value, JSON_DECODE_ANY, NULL));
        char *text = json_dumps(j, 0);
        must(write_file(config, text, (int64_t)strlen(text), &e), &e);
        free(text);
        json_decref(j);
        write_variant(s, weights, DTYPE_F32, -1, -1, NULL);
        if (edit) refused(&c, dir, edits[i].words);
        else must(lora_load_dir(c.model, dir, &e), &e);
    }
    for (int i = 0; i < 2; i++) { write_variant(s, weights, i ? DTYPE_BF16 : DTYPE_F16, -1, -1, NULL); must(lora_load_dir(c.model, dir, &e), &e); }   // 16 bits will do
    write_variant(s, weights, DTYPE_I32, -1, -1, NULL);                                             refused(&c, dir, "is of type I32");
    write_variant(s, weights, DTYPE_F32, 3, -1, NULL);                                              refused(&c, dir, "is missing ---> do the model with adapter_config.json");
    write_variant(s, weights, DTYPE_F32, -1, 0, NULL);                                              refused(&c, dir, "the model with adapter_config.json says");
    write_variant(s, weights, DTYPE_F32, -1, -1, "base_model.model.lm_head.weight");                refused(&c, dir, "unexpected tensor \"base_model.model.lm_head.weight\"");
    write_variant(s, weights, DTYPE_F32, -1, -1, "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"); refused(&c, dir, "unexpected tensor");   // a layer too many
    must(write_file(weights, "x", 1, &e), &e);                                                      refused(&c, dir, "adapter_model.safetensors");
    unlink(weights);                                                                                refused(&c, dir, "adapter_model.safetensors");
    must(write_file(pickle, "x", 1, &e), &e);                                                       refused(&c, dir, "is a pickle");
    must(write_file(config, "[1]", 3, &e), &e);                                                     refused(&c, dir, "is an array, expected an object");
    must(write_file(config, "{", 1, &e), &e);                                                       refused(&c, dir, "not valid JSON");
    free(config); free(weights); free(pickle);
    safetensors_close(s);
    case_close(&c);
}

// ---- whole runs

// train_main with these words (DIRECTORY/ stands for an @ that begins one) has this status and prints this text
static char *output;
static void expect(int status, const char *text, const char *words) {
    char *copy = xstrdup(words), *argv[64], *made[64], *log = xstrdup(in("stderr.txt"));
    int argc = 0, num_made = 0;
    argv[argc++] = (char *)"train_findap";
    for (char *w = strtok(copy, " "); w; w = strtok(NULL, " ")) argv[argc++] = *w == '@' ? (made[num_made++] = path_join(directory, w + 1)) : w;
    fflush(stdout);
    int keep = dup(2), fd = open(log, O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600);
    dup2(fd, 2);
    close(fd);
    int result = train_main(argc, argv);
    dup2(keep, 2);
    close(keep);
    Mapped m;
    assert_true(map_file(log, &m, NULL));
    free(output);
    output = (char *)xcalloc(m.size + 1, 1);
    if (m.size) memcpy(output, m.data, (size_t)m.size);
    unmap_file(&m);
    for (int i = 0; i < num_made; i++) free(made[i]);
    free(log); free(copy);
    if (result != status || (text && !strstr(output, text))) fail_msg("status %d, expected %d and \"%s\", of: %s\n%s", result, status, text ? text : "", words, strlen(output) > 500 ? output + strlen(output) - 500 : output);
}
static void make_shard(void) {
    ShardWriter w;
    Error e;
    must(shard_writer_open(&w, in("text"), SHARD_CPT, 1 << 20, &e), &e);
    for (int d = 0; d < 60; d++) {
        int32_t ids[64];
        uint8_t weights[64];
        int n = 8 + (int)random_below(1, 1, (uint64_t)d, 24);
        for (int i = 0; i < n; i++) { ids[i] = (int32_t)random_below(1, 2 + (uint64_t)d, (uint64_t)i, 40); weights[i] = i > 0; }
        must(shard_writer_add(&w, ids, weights, n, 0, 0, 0, d + 1, &e), &e);
    }
    const ShardField fields[] = {{"vocab_size", "83"}, {"max_len", "4096"}, {"tokenizer", "0123"}, {"template", "none"}, {"template_hash", "0"}, {"inputs", "[\"x.jsonl\"]"}, {"input_hash", "0"}, {"set", "0"}};
    must(shard_writer_finish(&w, fields, 8, &e), &e);
}
static void same_bits(const char *a, const char *b) {
    Hash x, y;
    Error e;
    must(hash_file(in(a), &x, &e) && hash_file(in(b), &y, &e), &e);
    if (strcmp(x.hex, y.hex) != 0) fail_msg("%s and %s differ", a, b);
}
#define DATA "--data @text --seq-len 32 --step-tokens 128 --micro-rows 2 --steps 8 --lr 1e-2 "
#define SETTINGS "--lora-rank 4 --lora-targets q,v,down --dev-rows 4 --dev-every 4 --checkpoint-every 2 --keep 9 "
#define RUN "--model test/data/llama3 " DATA
#define LORA RUN SETTINGS

static void a_run_resumes_bit_for_bit(void **state) {
    (void)state;
    make_shard();
    expect(0, "the adapter is in", LORA "--out @one --merge --save-dtype float32");
    expect(3, "stopped", LORA "--out @two --stop-after-steps 3");
    expect(3, "resumed after step 3", LORA "--out @two --resume --stop-after-steps 2");
    expect(0, "resumed after step 5", LORA "--out @two --resume");
    same_bits("one/adapter_model.safetensors", "two/adapter_model.safetensors");
    same_bits("one/best/adapter_model.safetensors", "two/best/adapter_model.safetensors");
    same_bits("one/adapter_config.json", "two/adapter_config.json");
    same_bits("one/checkpoints/step_00000008/state.safetensors", "two/checkpoints/step_00000008/state.safetensors");
    assert_false(file_exists(in("one/model.safetensors")));   // beside an adapter, PEFT would take it for another thing
    Safetensors *s = open_in(in("one/checkpoints/step_00000008"), "state.safetensors");
    assert_int_equal(safetensors_count(s), 3 * 2 * 2 * 3);   // three targets, A and B, two layers; param, m, v
    for (int64_t i = 0; i < safetensors_count(s); i++) assert_non_null(strstr(safetensors_at(s, i)->name, ".lora_"));
    safetensors_close(s);
    // the merged model is the base but for what has an adapter
    Safetensors *merged = open_in(in("one/merged"), "model.safetensors"), *base = open_in("test/data/llama3", "model.safetensors");
    assert_int_equal(safetensors_count(merged), safetensors_count(base));
    int changed = 0;
    for (int64_t i = 0; i < safetensors_count(base); i++) {
        const SafeTensor *a = safetensors_at(base, i), *b = tensor_of(merged, a->name);
        float x[4096], y[4096];
        assert_true(a->count <= 4096 && safetensor_to_f32(a, 0, a->count, x) && safetensor_to_f32(b, 0, b->count, y));
        bool same = memcmp(x, y, (size_t)a->count * 4) == 0, target = strstr(a->name, "q_proj") || strstr(a->name, "v_proj") || strstr(a->name, "down_proj");
        if (same == target) fail_msg("%s: %s", a->name, target ? "not merged" : "changed");
        changed += !same;
    }
    assert_int_equal(changed, 6);
    safetensors_close(merged); safetensors_close(base);
    // a checkpoint belongs to its base and settings
    Config config;
    Error e;
    must(config_load("test/data/llama3", &config, &e), &e);
    Model *other = model_create(&config, 1, 8, false, NULL);   // the same config.json, other weights
    model_init_random(other, 1);
    must(model_save_dir(other, "test/data/llama3", in("other"), "bfloat16", 0, &e), &e);
    model_free(other);
    expect(1, "model_weights_hash is", "--model @other " DATA SETTINGS "--out @two --resume");
    expect(1, "lora.alpha is 3.0, was 8.0", LORA "--out @two --resume --lora-alpha 3");
    expect(1, "a model is there already", RUN "--lora-rank 2 --out @one/best");
    // going on from an adapter, and a fresh one on the merged model: the first loss is the same
    expect(0, NULL, RUN "--adapter @one --dump @going_on.st");
    expect(0, NULL, "--model @one/merged " DATA "--lora-rank 3 --dump @fresh.st");
    Safetensors *a = open_in(directory, "going_on.st"), *b = open_in(directory, "fresh.st");
    float before = *(const float *)tensor_of(a, "loss")->data, after = *(const float *)tensor_of(b, "loss")->data;
    assert_true(fabsf(before - after) < 1e-5f * before);
    for (int64_t i = 0; i < safetensors_count(a); i++) if (strncmp(safetensors_at(a, i)->name, "grad.", 5) == 0) assert_non_null(strstr(safetensors_at(a, i)->name, ".lora_"));   // of adapters only
    safetensors_close(a); safetensors_close(b);
}

// each against the run before it in the list: the adapter's weights differ
static void every_flag_does_something(void **state) {
    (void)state;
    static const char *const flags[] = {"--lora-rank 2", "--lora-rank 3", "--lora-rank 3 --lora-alpha 2", "--lora-rank 3 --lora-alpha 2 --lora-rslora", "--lora-rank 3 --lora-alpha 2 --lora-targets q,k",
                                        "--lora-rank 3 --lora-alpha 2 --lora-targets q,k --lora-seed 2", "--adapter test/data/lora/llama3_all"};
    make_shard();
    Hash before, now;
    char words[512];
    memset(&before, 0, sizeof before);
    for (int i = 0; i < (int)(sizeof flags / sizeof *flags); i++) {
        snprintf(words, sizeof words, RUN "--out @flag --overwrite %s", flags[i]);
        expect(0, "done", words);
        assert_true(hash_file(in("flag/adapter_model.safetensors"), &now, NULL));
        if (strcmp(before.hex, now.hex) == 0) fail_msg("%s changes nothing", flags[i]);
        before = now;
        assert_false(is_directory(in("flag/merged")));   // --merge was not given
    }
}

static void useless_flags_are_errors(void **state) {
    (void)state;
    make_shard();
    Error e;
    must(make_directory(in("old"), &e), &e);
    expect(1, "--lora-alpha has no effect here", RUN "--out @x --lora-alpha 4");
    expect(1, "--merge has no effect here", RUN "--out @x --merge");
    expect(1, "--save-dtype has no effect here", RUN "--out @x --lora-rank 2 --save-dtype float32");
    expect(1, "--lora-seed has no effect here", RUN "--out @x --adapter test/data/lora/llama3_all --lora-seed 4");
    expect(1, "--init random and LoRA", RUN "--out @x --lora-rank 2 --init random");
    expect(1, "expected some of q,k,v", RUN "--out @x --lora-rank 2 --lora-targets q,,v");
    expect(1, "q is there twice", RUN "--out @x --lora-rank 2 --lora-targets q,q");
    expect(1, "--lora-rank is 2, test/data/lora/llama3_all/adapter_config.json says 4", RUN "--out @x --adapter test/data/lora/llama3_all --lora-rank 2");
    expect(1, "--lora-alpha is 3,", RUN "--out @x --adapter test/data/lora/llama3_all --lora-alpha 3");
    expect(1, "--lora-rslora is given", RUN "--out @x --adapter test/data/lora/llama3_all --lora-rslora");
    expect(1, "--lora-targets is q,v,", RUN "--out @x --adapter test/data/lora/llama3_all --lora-targets v,q");
    expect(1, "has shape 2 x 24, the model with adapter_config.json says 2 x 32", RUN "--out @x --adapter test/data/lora/qwen25_some");   // another model's
    expect(1, "adapter_config.json", RUN "--out @x --adapter @nowhere");
    expect(1, "--merge has no effect here: --dry-run", RUN "--out @x --lora-rank 2 --merge --dry-run");
    expect(0, "LoRA: rank 2, alpha 4, scale 2, on q,k,v,o,gate,up,down", RUN "--lora-rank 2 --dry-run");
    assert_non_null(strstr(output, "(4 x parameters x tokens)"));
    assert_false(is_directory(in("x")));
    expect(0, "done", RUN "--lora-rank 2 --out @old");
    expect(1, "is in --out", RUN "--adapter @old --out @old --overwrite");
    assert_true(file_exists(in("old/adapter_model.safetensors")));
    expect(0, "done", RUN "--lora-rank 1 --out @old --overwrite");
    free(output);
    output = NULL;
}

int main(void) {
    program_name = "test_lora";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_loss_and_every_adapter_gradient_match_peft), cmocka_unit_test(adamw_steps_match_torch_and_leave_the_base_alone),
        cmocka_unit_test(a_fresh_adapter_and_one_that_is_off_change_no_bit), cmocka_unit_test(nothing_is_kept_for_frozen_weights),
        cmocka_unit_test(merged_equals_unmerged_and_takes_a_fresh_adapter), cmocka_unit_test(what_is_written_is_what_peft_wrote),
        cmocka_unit_test(a_malformed_adapter_is_refused_in_one_line), cmocka_unit_test(a_run_resumes_bit_for_bit), cmocka_unit_test(every_flag_does_something),
        cmocka_unit_test(useless_flags_are_errors),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
