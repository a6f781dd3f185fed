// test_train.c: the training loop (findap/train.h and what is under it) over a fake model: a table of bigram logits with
// AdamW, which is fast and the same bits on every machine, so that whole runs - resumed, killed, damaged, out of disk -
// can be compared bit for bit.
#include "findap/train.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <cmocka.h>

// ---------------------------------------------------------------------------------------------------------------
// the fake model: logits of the next token = table[token] + bias[0] + bias[1]; one matrix and one vector per layer

enum { VOCAB = 24, LAYERS = 2, NUMBERS = VOCAB * VOCAB + LAYERS * VOCAB };
struct Model { Config config; float p[NUMBERS], g[NUMBERS], m[NUMBERS], v[NUMBERS]; StepResult result; const Batch *batch; int64_t B, T, t; };
static const Tensor fake_tensors[2] = {
    {"embed", "model.embed_tokens.weight", VOCAB, VOCAB, false, true, 0, 0, false, false},
    {"bias", "model.layers.%d.input_layernorm.weight", 0, VOCAB, true, false, VOCAB * VOCAB, VOCAB, false, false},
};
static struct { int64_t updates, nan_from, nan_until, signal_at, signals, delay_us; } fake;   // what the next runs shall suffer

Model *model_create(const Config *config, int64_t B, int64_t T, bool training, const ModelOptions *options) {
    (void)training; (void)options;
    Model *m = (Model *)xcalloc(1, sizeof(Model));
    m->config = *config; m->B = B; m->T = T;
    return m;
}
void model_free(Model *m) { free(m); }
const Config *model_config(const Model *m) { return &m->config; }
const Lora *model_lora(const Model *m) { (void)m; static const Lora none; return &none; }
bool model_check(const Config *config, const ModelOptions *o, Error *e) {
    (void)config;
    if (o->moments) return (fail)(e, "no moments %s here", o->moments);
    if (o->gradients) return (fail)(e, "no gradients %s here", o->gradients);
    if (o->recompute) return (fail)(e, "no recompute %s here", o->recompute);
    return true;
}
const char *model_notes(const Model *m) { (void)m; return ""; }
int64_t model_memory_bytes(const Config *config, int64_t B, int64_t T, bool training, const ModelOptions *options, char *plan) {
    (void)config; (void)training; (void)options;
    if (plan) plan[0] = 0;
    return (int64_t)sizeof(Model) + B * T;
}
void model_wait(Model *m) { (void)m; }
void *model_host_alloc(int64_t bytes) { return xmalloc(bytes); }
void model_host_free(void *p) { free(p); }
int model_num_tensors(const Model *m) { (void)m; return 2; }
const Tensor *model_tensor(const Model *m, int i) { (void)m; return &fake_tensors[i]; }
static float *fake_place(Model *m, TensorKind k, int i, int layer) {
    float *a = k == KIND_PARAM ? m->p : k == KIND_GRAD ? m->g : k == KIND_MOMENT1 ? m->m : m->v;
    return a + fake_tensors[i].offset + layer * fake_tensors[i].layer_stride;
}
static size_t fake_bytes(int i) { return sizeof(float) * (i == 0 ? VOCAB * VOCAB : VOCAB); }
void model_get(const Model *m, TensorKind k, int i, int layer, float *out) { memcpy(out, fake_place((Model *)m, k, i, layer), fake_bytes(i)); }
void model_put(Model *m, TensorKind k, int i, int layer, const float *in) { memcpy(fake_place(m, k, i, layer), in, fake_bytes(i)); }
void model_owned(const Model *m, int i, int64_t *begin, int64_t *end) { (void)m; *begin = 0; *end = (int64_t)(fake_bytes(i) / sizeof(float)); }
bool model_copy_is_bf16(const Model *m, TensorKind kind) { (void)m; (void)kind; return false; }
void model_copy_begin(Model *m) { (void)m; }
void model_copy_owned(Model *m, TensorKind kind, int i, int layer, void *out) { model_get_owned(m, kind, i, layer, (float *)out); }
void model_get_owned(const Model *m, TensorKind k, int i, int layer, float *out) { model_get(m, k, i, layer, out); }
void model_put_owned(Model *m, TensorKind k, int i, int layer, const float *in) { model_put(m, k, i, layer, in); }
void model_share(Model *m) { (void)m; }
static Comm alone = {.size = 1};
Comm *model_comm(const Model *m) { (void)m; return &alone; }
Comm *model_replicas(const Model *m) { (void)m; return &alone; }
void model_init_random(Model *m, uint64_t seed) { for (int i = 0; i < NUMBERS; i++) m->p[i] = (float)(0.1 * random_normal(seed, 0, (uint64_t)i)); }
void model_zero_grad(Model *m) { memset(m->g, 0, sizeof m->g); m->result.loss = 0; }
void model_zero_moments(Model *m) { memset(m->m, 0, sizeof m->m); memset(m->v, 0, sizeof m->v); m->t = 0; }
void model_forward(Model *m, const Batch *b) { assert_true(b->B <= m->B && b->T == m->T); m->batch = b; }
static void fake_logits(const Model *m, int32_t token, float *x) {
    for (int j = 0; j < VOCAB; j++) x[j] = m->p[token * VOCAB + j] + m->p[VOCAB * VOCAB + j] + m->p[VOCAB * VOCAB + VOCAB + j];
}
void model_logits(Model *m, const int64_t *index, int64_t n, float *logits) { for (int64_t i = 0; i < n; i++) fake_logits(m, m->batch->tokens[index[i]], logits + i * VOCAB); }
void model_head(Model *m, const Batch *b, const float *coef, float *logp) {
    for (int64_t i = 0; i < b->B * b->T; i++) {
        logp[i] = 0;
        if (b->targets[i] < 0 || b->weights[i] == 0) continue;
        float x[VOCAB], sum = 0;
        fake_logits(m, b->tokens[i], x);
        for (int j = 0; j < VOCAB; j++) sum += expf(x[j]);
        logp[i] = x[b->targets[i]] - logf(sum);
        if (!coef) continue;
        m->result.loss += (double)coef[i] * (double)logp[i];
        for (int j = 0; j < VOCAB; j++) {
            float d = coef[i] * ((j == b->targets[i] ? 1.0f : 0.0f) - expf(x[j]) / sum);
            m->g[b->tokens[i] * VOCAB + j] += d;
            for (int l = 0; l < LAYERS; l++) m->g[VOCAB * VOCAB + l * VOCAB + j] += d;
        }
    }
}
void model_backward(Model *m, const Batch *b) { assert_ptr_equal(b, m->batch); }
void model_update(Model *m, const AdamW *o) {
    int64_t k = fake.updates++;
    if (fake.delay_us) usleep((useconds_t)fake.delay_us);
    for (int64_t i = 0; k + 1 == fake.signal_at && i < fake.signals; i++) raise(SIGTERM);
    double norm = 0;
    for (int i = 0; i < NUMBERS; i++) norm += (double)m->g[i] * (double)m->g[i];
    m->result.grad_norm = sqrt(norm);
    m->result.skipped = k >= fake.nan_from && k < fake.nan_until;
    if (o->t > 0) m->t = o->t - 1;
    if (m->result.skipped) { m->result.grad_norm = NAN; return; }
    m->t++;
    double scale = o->grad_clip > 0 && m->result.grad_norm > o->grad_clip ? o->grad_clip / m->result.grad_norm : 1;
    for (int i = 0; i < NUMBERS; i++) {
        double g = scale * (double)m->g[i], decay = i < VOCAB * VOCAB ? o->weight_decay : 0;
        m->m[i] = (float)(o->beta1 * (double)m->m[i] + (1 - o->beta1) * g);
        m->v[i] = (float)(o->beta2 * (double)m->v[i] + (1 - o->beta2) * g * g);
        double step = (double)m->m[i] / (1 - pow(o->beta1, (double)m->t)) / (sqrt((double)m->v[i] / (1 - pow(o->beta2, (double)m->t))) + o->eps);
        m->p[i] -= (float)(o->lr * (step + decay * (double)m->p[i]));
    }
}
StepResult model_result(Model *m) { return m->result; }

// ---------------------------------------------------------------------------------------------------------------
// a directory with a model, shards and a recipe; runs of train_main in it, with stderr kept

static char home[] = "/tmp/findap_test_XXXXXX";
static char *output;   // what the last run printed

static char *at(const char *name) { return path_join(home, name); }
static void put(const char *name, const char *text) {
    char *p = at(name);
    assert_true(write_file(p, text, (int64_t)strlen(text), NULL));
    free(p);
}

// `documents` of low..high tokens: a noisy cycle, so that there is something to learn. IT: the second half is trained.
static void make_shards(const char *name, ShardKind kind, int documents, int low, int high, uint64_t seed) {
    ShardWriter w;
    Error e;
    char *prefix = at(name);
    assert_true(shard_writer_open(&w, prefix, kind, 1 << 20, &e));
    for (int d = 0; d < documents; d++) {
        int32_t ids[4096];
        uint8_t weights[4096];
        int n = low + (int)random_below(seed, 1, (uint64_t)d, (uint64_t)(high - low + 1)), step = kind == SHARD_CPT ? 1 : 5;
        ids[0] = (int32_t)random_below(seed, 2, (uint64_t)d, VOCAB);
        weights[0] = 0;
        for (int i = 1; i < n; i++) {
            bool noise = random_below(seed, 3 + (uint64_t)d, (uint64_t)i, 8) == 0;
            ids[i] = noise ? (int32_t)random_below(seed, 4, (uint64_t)(d * 5000 + i), VOCAB) : (ids[i - 1] + step) % VOCAB;
            weights[i] = kind == SHARD_CPT || i >= n / 2;
        }
        assert_true(shard_writer_add(&w, ids, weights, n, 0, 0, 0, d + 1, &e));
    }
    const ShardField fields[] = {{"vocab_size", "24"}, {"max_len", "4096"}, {"tokenizer", "0123"}, {"template", "none"}, {"template_hash", "0"}, {"inputs", "[\"x.jsonl\"]"},
                                 {"input_hash", name}, {"set", name}};
    if (!shard_writer_finish(&w, fields, 8, &e)) fail_msg("%s", e.text);
    free(prefix);
}

static const char recipe_text[] =
    "{\"name\": \"test\", \"seed\": 3, \"seq_len\": 64, \"step_tokens\": 256, \"micro_rows\": 2, \"dev\": {\"dev_rows\": 4, \"every\": 5},"
    " \"optimizer\": {\"weight_decay\": 0.01},"
    " \"stages\": ["
    "  {\"name\": \"one\", \"streams\": [{\"name\": \"cpt\", \"kind\": \"cpt\", \"shards\": [\"cpt\"]}, {\"name\": \"it\", \"kind\": \"it\", \"shards\": [\"it\"]}],"
    "   \"balance\": \"rows\", \"epochs\": 2, \"lr\": 0.05, \"warmup\": 0.2, \"schedule\": \"cosine\", \"floor\": 0.1},"
    "  {\"name\": \"two\", \"streams\": [{\"name\": \"cpt\", \"kind\": \"cpt\", \"shards\": [\"cpt\"], \"tokens\": 700}, {\"name\": \"it\", \"kind\": \"it\", \"shards\": [\"it\"], \"rows\": 25}],"
    "   \"packing\": \"next-fit\", \"steps\": 14, \"stop_after_steps\": 11, \"lr\": 0.02, \"warmup\": 0.5, \"optimizer\": \"kept\"}]}";

static int setup(void **state) {
    (void)state;
    assert_non_null(mkdtemp(home));
    char *model = at("model");
    assert_true(make_directory(model, NULL));
    free(model);
    put("model/tokenizer.model", "x");   // training only asks whether there is one
    put("model/config.json", "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 24, \"hidden_size\": 16, \"num_hidden_layers\": 2,"
        " \"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"head_dim\": 8, \"intermediate_size\": 32, \"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-5,"
        " \"rope_theta\": 10000.0, \"hidden_act\": \"silu\", \"tie_word_embeddings\": false, \"attention_bias\": false, \"mlp_bias\": false, \"initializer_range\": 0.02,"
        " \"bos_token_id\": 0, \"eos_token_id\": 1, \"torch_dtype\": \"float32\"}");
    make_shards("cpt", SHARD_CPT, 60, 5, 150, 1);   // some longer than a row of 64
    make_shards("it", SHARD_IT, 40, 4, 70, 2);
    put("recipe.json", recipe_text);
    return 0;
}
static void remove_tree(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        char *p = path_join(path, entry->d_name);
        if (is_directory(p)) remove_tree(p); else unlink(p);
        free(p);
    }
    if (d) closedir(d);
    rmdir(path);
}
static int teardown(void **state) { (void)state; remove_tree(home); free(output); return 0; }

// train_main with these words (HOME/ stands for an @ that begins one); its exit status; what it printed goes to `output`
static int train(const char *words) {
    char *copy = xstrdup(words), *argv[64], *made[64], *log = at("stderr.txt");
    int argc = 0, num_made = 0;
    argv[argc++] = (char *)"train_findap";
    for (char *w = strtok(copy, " "); w; w = strtok(NULL, " ")) argv[argc++] = *w == '@' ? (made[num_made++] = at(w + 1)) : w;
    fflush(stdout);
    int keep = dup(2), keep_out = dup(1), fd = open(log, O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600);
    dup2(fd, 2);
    dup2(fd, 1);
    close(fd);
    fake.updates = 0;
    int result = train_main(argc, argv);
    fflush(stdout);
    dup2(keep, 2);
    dup2(keep_out, 1);
    close(keep);
    close(keep_out);
    Mapped m;
    assert_true(map_file(log, &m, NULL));
    free(output);
    output = (char *)xcalloc(m.size + 1, 1);
    if (m.size) memcpy(output, m.data, (size_t)m.size);
    unmap_file(&m);
    for (int i = 0; i < num_made; i++) free(made[i]);
    free(log);
    free(copy);
    return result;
}
static void expect(int status, const char *text, const char *words) {
    int r = train(words);
    if (r != status || (text && !strstr(output, text))) fail_msg("status %d, expected %d and \"%s\", of: %s\n%s", r, status, text ? text : "", words, output);
}
#define BASE "--model @model --init random "
#define RUN BASE "--recipe @recipe.json --checkpoint-every 3 "

// the final model, and the newest checkpoint's state and cursor, of two OUTs are the same bits
static char *newest(const char *out, const char *file) {
    int64_t n = 0, *steps = checkpoint_list(out, false, &n);
    assert_true(n > 0);
    char *p = checkpoint_path(out, steps[0], file);
    free(steps);
    return p;
}
static void same_bits(char *a, char *b) {
    Hash x, y;
    assert_true(hash_file(a, &x, NULL) && hash_file(b, &y, NULL));
    if (strcmp(x.hex, y.hex) != 0) fail_msg("%s and %s differ", a, b);
    free(a);
    free(b);
}
static void same_result(const char *one, const char *two) {
    char *a = at(one), *b = at(two);
    same_bits(path_join(a, "model.safetensors"), path_join(b, "model.safetensors"));
    same_bits(newest(a, "/state.safetensors"), newest(b, "/state.safetensors"));
    same_bits(newest(a, "/manifest.json"), newest(b, "/manifest.json"));   // cursor, counters, dev losses, hashes
    same_bits(path_join(a, "best/model.safetensors"), path_join(b, "best/model.safetensors"));
    free(a);
    free(b);
}
static void reference(void) {   // the uninterrupted run that others are compared with
    char *p = at("reference/model.safetensors");
    if (!file_exists(p)) expect(0, "done", RUN "--out @reference");
    free(p);
}

static bool open_data(Data *d, Recipe *r, const char *name, Error *e) {
    char *p = at(name);
    bool ok = recipe_load(p, r, e) && recipe_check(r, p, e) && data_open(d, r, VOCAB, e);
    free(p);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// rows

static void test_weights_belong_to_targets(void **state) {   // "answer = tokens 5..7": 5, 6 and 7 are predicted with loss, nothing else
    (void)state;
    ShardWriter w;
    Error e;
    char *prefix = at("answer");
    const int32_t ids[] = {10, 11, 12, 13, 14, 15, 16, 17, 18, 19};
    const uint8_t answer[] = {0, 0, 0, 0, 0, 1, 1, 1, 0, 0};
    const ShardField fields[] = {{"vocab_size", "24"}, {"max_len", "64"}, {"tokenizer", "0123"}, {"template", "none"}, {"template_hash", "0"}, {"inputs", "[\"x\"]"}, {"input_hash", "0"}, {"set", "a"}};
    assert_true(shard_writer_open(&w, prefix, SHARD_IT, 1000, &e) && shard_writer_add(&w, ids, answer, 10, 0, 0, 0, 1, &e) &&
                shard_writer_add(&w, ids, answer, 8, 0, 0, 0, 2, &e) && shard_writer_finish(&w, fields, 8, &e));
    free(prefix);
    put("answer.json", "{\"name\": \"a\", \"seq_len\": 24, \"step_tokens\": 24, \"stages\": [{\"name\": \"a\", \"epochs\": 1, \"streams\": [{\"name\": \"it\", \"kind\": \"it\", \"shards\": [\"answer\"]}]}]}");
    Recipe r;
    Data d;
    Step s;
    memset(&d, 0, sizeof d);
    assert_true(open_data(&d, &r, "answer.json", &e));
    step_new(&s, 1, 24);
    int64_t epoch = 0, row = 0;
    step_fill(&s, &d, 0, &epoch, &row);
    assert_int_equal(s.rows, 1);
    assert_int_equal(s.trained, 6);
    assert_int_equal(s.filled, 18);
    int documents = 0, at_start = 0;
    for (int64_t i = 0; i < 24; i++) {
        if (s.positions[i] == 0) { at_start = (int)i; documents++; }
        int64_t p = i - at_start;
        assert_int_equal(s.positions[i], p);   // positions restart with every document, and in the unfilled tail
        if (i >= 18) { assert_int_equal(s.targets[i], -1); assert_true(s.weights[i] == 0); continue; }
        int64_t length = documents == 1 ? 10 : 8;
        assert_int_equal(s.tokens[i], 10 + p);
        assert_int_equal(s.targets[i], p == length - 1 ? -1 : 11 + p);   // the next document's first token is nobody's target
        assert_true(s.weights[i] == (p >= 4 && p <= 6 ? 1.0f : 0.0f));
    }
    assert_int_equal(documents, 3);   // two documents and the tail
    step_free(&s); data_free(&d); recipe_free(&r);
}

static void test_split_and_dropped_are_counted(void **state) {
    (void)state;
    Recipe r;
    Data d;
    Error e;
    assert_true(open_data(&d, &r, "recipe.json", &e));
    for (int k = 0; k < 2; k++) {
        const Stream *s = &d.stages[0].streams[k];
        const DataFile *f = &d.files[k];
        int64_t over = 0, pieces = 0, kept = 0, held = 0, over_tokens = 0;
        for (int64_t i = 0; i < f->shard.num_documents; i++) {
            int64_t n = f->shard.documents[i + 1] - f->shard.documents[i];
            if (f->held_out[i]) { held++; continue; }
            if (n > 64) { over++; pieces += (n + 63) / 64; over_tokens += n; } else kept++;
        }
        assert_true(over > 0);
        assert_int_equal(held, 4);
        assert_int_equal(s->held_out, 4);
        assert_int_equal(s->split, k == 0 ? over : 0);
        assert_int_equal(s->split_pieces, k == 0 ? pieces : 0);
        assert_int_equal(s->dropped, k == 0 ? 0 : over);
        assert_int_equal(s->dropped_tokens, k == 0 ? 0 : over_tokens);
        assert_int_equal(s->num_documents, k == 0 ? kept + over : kept);
    }
    // balance by rows: as many CPT documents as IT documents; the tokens share of stage two is met within a document
    assert_int_equal(d.stages[0].streams[0].take, d.stages[0].streams[1].take);
    for (int64_t epoch = 0; epoch < 5; epoch++) {
        stage_epoch(&d, 1, epoch);
        int64_t tokens[2] = {0, 0}, targets = 0;
        for (int64_t i = 0; i < d.stages[1].num_pieces; i++) { tokens[d.stages[1].pieces[i].stream] += d.stages[1].pieces[i].length; targets += piece_trained(&d, &d.stages[1].pieces[i]); }
        assert_true(llabs(tokens[0] - 700) <= 75 && tokens[1] > 0 && targets > 0);
    }
    // what is held out is never trained on, in no stage and epoch
    for (int stage = 0; stage < 2; stage++)
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            stage_epoch(&d, stage, epoch);
            for (int64_t i = 0; i < d.stages[stage].num_pieces; i++) {
                const Piece *p = &d.stages[stage].pieces[i];
                const DataFile *f = &d.files[p->file];
                int64_t doc = 0;
                while (f->shard.documents[doc + 1] <= p->start) doc++;
                assert_int_equal(f->held_out[doc], 0);
            }
        }
    data_free(&d); recipe_free(&r);
}

static void test_order_is_a_function_of_seed_stage_epoch(void **state) {
    (void)state;
    Recipe r;
    Data d;
    Error e;
    assert_true(open_data(&d, &r, "recipe.json", &e));
    Hash seen[2][4];
    for (int round = 0; round < 2; round++)
        for (int k = 0; k < 8; k++) {
            int i = round == 0 ? k : 7 - k, stage = i / 4;   // the second time in reverse order
            int64_t epoch = i % 4;
            stage_epoch(&d, stage, epoch);
            Hash h = hash_digest(XXH3_128bits(d.stages[stage].packing.items, (size_t)d.stages[stage].num_pieces * 8));
            Buffer b = {NULL, 0, 0};
            for (int64_t q = 0; q < d.stages[stage].num_pieces; q++) buffer_add(&b, &d.stages[stage].pieces[q].start, 8);
            buffer_add(&b, h.hex, 32);
            h = hash_bytes(b.data, b.len);
            buffer_free(&b);
            if (round == 0) seen[stage][epoch] = h; else assert_string_equal(seen[stage][epoch].hex, h.hex);
        }
    for (int i = 0; i < 8; i++) for (int k = 0; k < i; k++) assert_string_not_equal(seen[i / 4][i % 4].hex, seen[k / 4][k % 4].hex);
    data_free(&d); recipe_free(&r);
}

// every document of an epoch exactly once over its steps, also where a step goes on into the next epoch
static void test_no_row_is_dropped_between_epochs(void **state) {
    (void)state;
    put("whole.json", "{\"name\": \"w\", \"seq_len\": 64, \"step_tokens\": 320, \"stages\": [{\"name\": \"a\", \"epochs\": 3, \"streams\": [{\"name\": \"cpt\", \"kind\": \"cpt\", \"shards\": [\"cpt\"]}]}]}");
    Recipe r;
    Data d;
    Step s;
    Error e;
    assert_true(open_data(&d, &r, "whole.json", &e));
    step_new(&s, 5, 64);
    int64_t epoch = 0, row = 0, tokens = 0, steps = 0, rows = 0;
    assert_true(d.stages[0].first_rows % 5 != 0);
    for (; steps < d.stages[0].horizon; steps++) {
        step_fill(&s, &d, 0, &epoch, &row);
        assert_true(s.rows == 5 || steps == d.stages[0].horizon - 1);
        tokens += s.filled;
        rows += s.rows;
    }
    assert_int_equal(tokens, 3 * d.files[0].shard.num_tokens);
    assert_int_equal(rows, 3 * d.stages[0].first_rows);
    step_fill(&s, &d, 0, &epoch, &row);
    assert_int_equal(s.rows, 0);
    step_free(&s); data_free(&d); recipe_free(&r);
}

// Four rows of the same documents, of which the first and the third are trained on, and Llama-3-8B's sizes: of two ranks each gets one of these. By attention alone the first rank would
// have both; a longer document outweighs targets, as many as its pairs cost. Every row has one owner, and a rank without a row gets an inert one.
static void test_rows_are_shared_by_attention_and_targets(void **state) {
    (void)state;
    Config c = {0};
    c.hidden_size = 4096; c.vocab_size = 128256; c.num_layers = c.num_heads = 32; c.head_dim = 128;
    const int64_t T = 4096;
    Step all, mine;
    step_new(&all, 4, T); step_new(&mine, 4, T);
    for (int64_t r = 0; r < 4; r++) {
        step_inert_row(&all);
        for (int64_t i = 0; i < T; i++) { all.positions[r * T + i] = (int32_t)(i % 64); all.weights[r * T + i] = r % 2 == 0; }
    }
    int owner[4];
    for (int rank = 0; rank < 2; rank++) {
        Comm comm = {0};
        comm.size = 2; comm.rank = rank;
        assert_ptr_equal(step_share(&comm, &c, &all, &mine, owner), &mine);
        assert_int_equal(mine.rows, 2);
        assert_int_not_equal(owner[0], owner[2]);
        assert_int_not_equal(owner[1], owner[3]);
    }
    // 4,096 targets are 12.9 TFLOP, the pairs of one document of 4,096 tokens 15.4: it goes first, then the two trained rows to the other rank and to it
    for (int64_t i = 0; i < T; i++) all.positions[T + i] = (int32_t)i;
    Comm comm = {0};
    comm.size = 3; comm.rank = 2;
    step_share(&comm, &c, &all, &mine, owner);
    assert_int_equal(owner[1], 0); assert_int_equal(owner[0], 1); assert_int_equal(owner[2], 2); assert_int_equal(owner[3], 1);
    assert_int_equal(mine.rows, 2);
    for (int64_t i = 0; i < T; i++) assert_true(mine.weights[i] == 1 && mine.targets[T + i] == -1 && mine.positions[T + i] == 0);
    step_free(&all); step_free(&mine);
}

// ---------------------------------------------------------------------------------------------------------------
// loss and gradient

static void test_a_dump_replaces_only_a_dump(void **state) {
    (void)state;
    expect(0, "trained targets", BASE "--recipe @recipe.json --dump @dumped");
    expect(0, "trained targets", BASE "--recipe @recipe.json --dump @dumped");
    put("notes", "not a dump");
    char *shard = at("cpt-00001-of-00001.safetensors"), *notes = at("notes");
    Hash before[2], after[2];
    assert_true(hash_file(shard, &before[0], NULL) && hash_file(notes, &before[1], NULL));
    expect(1, "not an earlier dump", BASE "--recipe @recipe.json --dump @cpt-00001-of-00001.safetensors");
    expect(1, "not an earlier dump", BASE "--recipe @recipe.json --dump @notes");
    expect(1, "is a directory", BASE "--recipe @recipe.json --dump @model");
    assert_true(hash_file(shard, &after[0], NULL) && hash_file(notes, &after[1], NULL));
    assert_memory_equal(before, after, sizeof before);
    free(shard); free(notes);
}

static void test_a_model_without_a_tokenizer_is_named(void **state) {
    (void)state;
    char *tokenizer = at("model/tokenizer.model");
    unlink(tokenizer);
    expect(0, "has neither tokenizer.json nor tokenizer.model", BASE "--recipe @recipe.json --dump @dumped");
    put("model/tokenizer.model", "x");
    expect(0, "trained targets", BASE "--recipe @recipe.json --dump @dumped");
    assert_null(strstr(output, "has neither tokenizer.json"));
    free(tokenizer);
}

static void test_micro_batches_do_not_change_the_gradient(void **state) {   // 1x16, 4x4, 16x1, and 16 = 5+5+5+1
    (void)state;
    static const char *const names[] = {"d1", "d4", "d16", "d5"};
    static const int rows[] = {1, 4, 16, 5};
    Safetensors *files[4];
    for (int k = 0; k < 4; k++) {
        char words[256];
        snprintf(words, sizeof words, BASE "--recipe @recipe.json --step-tokens 1024 --micro-rows %d --dump @%s", rows[k], names[k]);
        expect(0, "trained targets", words);
        char *p = at(names[k]);
        files[k] = safetensors_open(p, NULL);
        assert_non_null(files[k]);
        free(p);
    }
    const char *const same[] = {"tokens", "positions", "targets", "weights", "logits"};
    const char *const close[] = {"loss", "grad.model.embed_tokens.weight", "grad.model.layers.1.input_layernorm.weight"};
    for (int k = 1; k < 4; k++) {
        for (int i = 0; i < 5; i++) {
            const SafeTensor *a = safetensors_find(files[0], same[i]), *b = safetensors_find(files[k], same[i]);
            assert_true(a && b && a->bytes == b->bytes);
            assert_int_equal(a->shape[0], 16);
            assert_memory_equal(a->data, b->data, (size_t)a->bytes);
        }
        for (int i = 0; i < 3; i++) {
            const SafeTensor *a = safetensors_find(files[0], close[i]), *b = safetensors_find(files[k], close[i]);
            assert_true(a && b && a->count == b->count);
            double difference = 0, norm = 0;
            for (int64_t j = 0; j < a->count; j++) {
                float x, y;
                assert_true(safetensor_to_f32(a, j, 1, &x) && safetensor_to_f32(b, j, 1, &y));
                difference += ((double)x - (double)y) * ((double)x - (double)y);
                norm += (double)x * (double)x;
            }
            assert_true(norm > 0 && sqrt(difference) <= 1e-6 * sqrt(norm));
        }
    }
    // the loss is the mean over all trained targets of the step: recomputed here from the dumped logits
    const float *logits = (const float *)safetensors_find(files[0], "logits")->data, *weights = (const float *)safetensors_find(files[0], "weights")->data;
    const int32_t *targets = (const int32_t *)safetensors_find(files[0], "targets")->data;
    double sum = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < 16 * 64; i++) {
        if (targets[i] < 0 || weights[i] == 0) continue;
        double z = 0;
        for (int j = 0; j < VOCAB; j++) z += exp((double)logits[i * VOCAB + j]);
        sum += log(z) - (double)logits[i * VOCAB + targets[i]];
        n++;
    }
    float loss;
    assert_true(safetensor_to_f32(safetensors_find(files[0], "loss"), 0, 1, &loss));
    assert_true(fabs(sum / (double)n - (double)loss) < 1e-6);
    for (int k = 0; k < 4; k++) safetensors_close(files[k]);
}

static void test_schedules(void **state) {
    (void)state;
    Schedule s = {SCHEDULE_LINEAR, 2.0, 0.1, 0.0, 0.2, 100};
    assert_true(fabs(schedule_lr(&s, 0) - 0.2) < 1e-12 && fabs(schedule_lr(&s, 9) - 2.0) < 1e-12 && fabs(schedule_lr(&s, 55) - 1.0) < 1e-12);
    assert_true(schedule_lr(&s, 99) > 0 && schedule_lr(&s, 100) == 0);
    s.floor = 0.5;
    assert_true(fabs(schedule_lr(&s, 55) - 1.5) < 1e-12 && fabs(schedule_lr(&s, 100) - 1.0) < 1e-12);
    s.kind = SCHEDULE_COSINE; s.floor = 0.1;
    assert_true(fabs(schedule_lr(&s, 10) - 2.0) < 1e-12 && fabs(schedule_lr(&s, 55) - (0.2 + 1.8 * 0.5)) < 1e-12 && fabs(schedule_lr(&s, 100) - 0.2) < 1e-12);
    s.kind = SCHEDULE_CONSTANT;
    assert_true(fabs(schedule_lr(&s, 4) - 1.0) < 1e-12 && schedule_lr(&s, 10) == 2.0 && schedule_lr(&s, 99) == 2.0);
    s.kind = SCHEDULE_WSD; s.floor = 0;
    assert_true(schedule_lr(&s, 79) == 2.0 && fabs(schedule_lr(&s, 90) - 1.0) < 1e-12 && fabs(schedule_lr(&s, 100)) < 1e-12);
    s.kind = SCHEDULE_LINEAR; s.warmup = 0;
    assert_true(schedule_lr(&s, 0) == 2.0);
}

// ---------------------------------------------------------------------------------------------------------------
// resuming

static void test_resume_is_bit_for_bit(void **state) {
    (void)state;
    reference();
    assert_non_null(strstr(output, "loss"));
    // stopped every few steps: many resumes, across two epochs and two stages
    int status = train(RUN "--out @stopped --stop-after-steps 1"), resumes = 0;
    while (status == EXIT_STOPPED) {
        resumes++;
        char words[256];
        snprintf(words, sizeof words, RUN "--out @stopped --resume --stop-after-steps %d", 1 + resumes % 3);
        status = train(words);
    }
    if (status != 0) fail_msg("%s", output);
    assert_true(resumes > 8);
    same_result("reference", "stopped");
    // a finished run resumed: nothing is done again, the same model is there
    expect(0, "done", RUN "--out @stopped --resume");
    same_result("reference", "stopped");
}

static void test_sigterm(void **state) {
    (void)state;
    reference();
    fake.signal_at = 7; fake.signals = 1;
    expect(EXIT_STOPPED, "stopped after step 7", RUN "--out @terminated");
    fake.signal_at = 2;
    expect(EXIT_STOPPED, "stopped after step 9", RUN "--out @terminated --resume");
    pid_t child = fork();   // a second signal ends it at once
    assert_true(child >= 0);
    if (child == 0) { fake.signals = 2; _exit(train(RUN "--out @terminated --resume")); }
    int status = 0;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    fake.signal_at = 0;
    expect(0, "resumed after step 9", RUN "--out @terminated --resume");
    same_result("reference", "terminated");
}

static void test_kill_9(void **state) {
    (void)state;
    reference();
    int kills = 0;
    for (int round = 0; round < 200; round++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            fake.delay_us = 3000;
            _exit(train(BASE "--recipe @recipe.json --checkpoint-every 1 --out @killed --resume"));
        }
        if (kills < 24) usleep((useconds_t)(2000 + random_below(99, 1, (uint64_t)round, 22000)));
        int status = 0;
        if (kills < 24) kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFSIGNALED(status)) { kills++; continue; }
        if (WEXITSTATUS(status) != 0) {
            char *p = at("stderr.txt");
            Mapped m;
            assert_true(map_file(p, &m, NULL));
            fail_msg("status %d: %.*s", WEXITSTATUS(status), (int)m.size, (const char *)m.data);
        }
        break;
    }
    print_message("killed %d times\n", kills);
    assert_true(kills >= 12);
    same_result("reference", "killed");
}

static void damage(const char *path, int64_t place, int bit, int64_t truncate_to) {
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    uint8_t byte = 0;
    if (truncate_to >= 0) assert_int_equal(ftruncate(fd, truncate_to), 0);
    else {
        assert_int_equal(pread(fd, &byte, 1, place), 1);
        byte ^= (uint8_t)(1 << bit);
        assert_int_equal(pwrite(fd, &byte, 1, place), 1);
    }
    close(fd);
}

static void test_damage_falls_back(void **state) {
    (void)state;
    reference();
    char *out = at("damaged");
    for (int round = 0; round < 3; round++) {   // a flipped bit, a truncated state, a truncated manifest
        expect(EXIT_STOPPED, NULL, RUN "--out @damaged --overwrite --stop-after-steps 7");
        char *state_file = newest(out, "/state.safetensors"), *manifest = newest(out, "/manifest.json");
        damage(round == 2 ? manifest : state_file, 3000, 4, round == 0 ? -1 : 100);
        free(state_file); free(manifest);
        expect(0, "resumed after step 6", RUN "--out @damaged --resume");
        assert_non_null(strstr(output, "step 7 is damaged"));
        same_result("reference", "damaged");
    }
    expect(EXIT_STOPPED, NULL, RUN "--out @damaged --overwrite --stop-after-steps 7");
    int64_t n = 0, *steps = checkpoint_list(out, false, &n);
    for (int64_t i = 0; i < n; i++) {
        char *p = checkpoint_path(out, steps[i], "/state.safetensors");
        damage(p, 0, 0, 10);
        free(p);
    }
    free(steps); free(out);
    expect(1, "none of the 2 checkpoints is whole", RUN "--out @damaged --resume");
}

static void test_every_flipped_bit_is_found(void **state) {
    (void)state;
    expect(EXIT_STOPPED, NULL, RUN "--out @bits --stop-after-steps 2");
    char *out = at("bits");
    Config config;
    Error e;
    char *model = at("model"), *manifest = newest(out, "/manifest.json"), *file = newest(out, "/state.safetensors");
    assert_true(config_load(model, &config, &e));
    json_t *j = json_parse_file(manifest, 1 << 20, &e);
    Model *m = model_create(&config, 1, 64, true, NULL);
    Progress p;
    memset(&p, 0, sizeof p);
    assert_int_equal(checkpoint_load(out, 2, m, &p, json_object_get(j, "identity"), &e), CHECKPOINT_LOADED);
    for (int k = 0; k < 1000; k++) {
        const char *path = k % 2 ? manifest : file;
        Mapped size;
        assert_true(map_file(path, &size, NULL));
        int64_t place = (int64_t)random_below(5, 5, (uint64_t)k, (uint64_t)size.size);
        unmap_file(&size);
        damage(path, place, k % 8, -1);
        CheckpointResult r = checkpoint_load(out, 2, m, &p, json_object_get(j, "identity"), &e);
        if (r != CHECKPOINT_DAMAGED) fail_msg("%s: bit %d of byte %d flipped, result %d", path, k % 8, (int)place, r);
        damage(path, place, k % 8, -1);
    }
    for (int k = 0; k < 2; k++) {   // and every truncation
        const char *path = k ? manifest : file;
        Mapped map;
        assert_true(map_file(path, &map, NULL));
        Buffer whole = {NULL, 0, 0};
        buffer_add(&whole, map.data, map.size);
        unmap_file(&map);
        for (int64_t n = 0; n < whole.len; n += k ? 100 : 500) {
            assert_true(write_file(path, whole.data, n, NULL));
            assert_int_equal(checkpoint_load(out, 2, m, &p, json_object_get(j, "identity"), &e), CHECKPOINT_DAMAGED);
        }
        assert_true(write_file(path, whole.data, whole.len, NULL));
        buffer_free(&whole);
    }
    assert_int_equal(checkpoint_load(out, 2, m, &p, json_object_get(j, "identity"), &e), CHECKPOINT_LOADED);
    free(p.dev); model_free(m); json_decref(j); free(out); free(model); free(manifest); free(file);
}

static void test_resume_refuses_another_run(void **state) {
    (void)state;
    expect(EXIT_STOPPED, NULL, RUN "--out @other --stop-after-steps 4");
    expect(1, "recipe.stages[0].lr is", RUN "--out @other --resume --lr 0.01");
    expect(1, "recipe.seed is 4, was 3", RUN "--out @other --resume --seed 4");
    expect(1, "a run is there already", RUN "--out @other");
    char *p = at("model/config.json"), *kept = at("config.kept");
    Mapped m;
    assert_true(map_file(p, &m, NULL));
    Buffer text = {NULL, 0, 0};
    buffer_add(&text, m.data, m.size);
    unmap_file(&m);
    assert_true(write_file(kept, text.data, text.len, NULL));
    buffer_add(&text, "\n", 1);
    assert_true(write_file(p, text.data, text.len, NULL));
    buffer_free(&text);
    expect(1, "model_config_hash", RUN "--out @other --resume");
    assert_int_equal(rename(kept, p), 0);
    free(p); free(kept);
    make_shards("cpt", SHARD_CPT, 60, 5, 150, 77);
    expect(1, "data_hashes[0]", RUN "--out @other --resume");
    make_shards("cpt", SHARD_CPT, 60, 5, 150, 1);
    expect(0, NULL, RUN "--out @other --resume --micro-rows 1");   // memory, not result
    expect(1, "a run is there already", RUN "--out @other");
}

static void test_full_disk_keeps_the_last_good(void **state) {
    (void)state;
    reference();
    expect(EXIT_STOPPED, NULL, RUN "--out @full --stop-after-steps 5");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit limit = {4096, 4096};   // below a state, above a manifest
        char *log = at("full/log.jsonl");
        unlink(log);   // it has outgrown the limit already
        free(log);
        setrlimit(RLIMIT_FSIZE, &limit);
        int r = train(BASE "--recipe @recipe.json --checkpoint-every 1 --out @full --resume --stop-after-steps 3 --quiet");
        _exit(r == 1 && strstr(output, "no checkpoint of step 6") && strstr(output, "no checkpoint of step 8") ? 42 : 43);
    }
    int status = 0;
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);   // the run went on to its last step, and the failed last checkpoint is an error
    for (rlim_t limit = 0; limit <= 9000; limit += 500) {   // wherever it is cut off, what was whole stays
        child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct rlimit small = {limit, limit};
            setrlimit(RLIMIT_FSIZE, &small);
            _exit(train(BASE "--recipe @recipe.json --checkpoint-every 1 --out @full --resume --stop-after-steps 2 --quiet"));
        }
        waitpid(child, &status, 0);
        assert_true(WIFEXITED(status));
        assert_true(WEXITSTATUS(status) == 1 || WEXITSTATUS(status) == EXIT_STOPPED);
    }
    expect(0, "resumed after step", RUN "--out @full --resume");
    same_result("reference", "full");
}

// ---------------------------------------------------------------------------------------------------------------
// steps that are not finite, dev loss, the log

static void test_not_finite(void **state) {
    (void)state;
    fake.nan_from = 3; fake.nan_until = 5;
    expect(0, "2 skipped steps", RUN "--out @nan2");
    assert_non_null(strstr(output, "SKIPPED"));
    fake.nan_until = 1000;
    expect(1, "not finite in 3 steps in a row, the last one step 6", RUN "--out @nan3");
    fake.nan_from = fake.nan_until = 0;
    char *p = at("nan2/log.jsonl");
    Mapped m;
    assert_true(map_file(p, &m, NULL));
    assert_non_null(memmem(m.data, (size_t)m.size, "\"grad_norm\":null", 16));   // never 0
    unmap_file(&m);
    free(p);
}

static void test_log_has_units_and_streams(void **state) {
    (void)state;
    reference();
    char *p = at("reference/log.jsonl");
    FILE *f = fopen(p, "r");
    assert_non_null(f);
    char *line = NULL;
    size_t cap = 0;
    int64_t steps = 0, dev = 0, others = 0, epochs = 0;
    double first = 0, last = 0, dev_first = 0, dev_last = 0;
    while (getline(&line, &cap, f) > 0) {
        json_t *j = json_parse("log", line, (int64_t)strlen(line), NULL);
        assert_non_null(j);
        const char *event = json_string_value(json_object_get(j, "event"));
        if (strcmp(event, "step") == 0) {
            assert_int_equal(json_integer_value(json_object_get(j, "step")), ++steps);
            double sum = 0, n = 0;
            static const char *const keys[] = {"loss_nats_per_target", "lr", "grad_norm", "step_seconds", "tokens_per_second", "loss_cpt_nats_per_target", "loss_it_nats_per_target"};
            for (int k = 0; k < 5; k++) assert_true(json_is_real(json_object_get(j, keys[k])));
            bool both = json_is_real(json_object_get(j, keys[5])) && json_is_real(json_object_get(j, keys[6]));   // a small step may have one stream only
            sum = json_real_value(json_object_get(j, keys[5])) - json_real_value(json_object_get(j, keys[0]));
            n = json_real_value(json_object_get(j, keys[6])) - json_real_value(json_object_get(j, keys[0]));
            assert_true(!both || sum * n <= 0);   // the whole lies between its parts
            if (steps == 1) first = json_real_value(json_object_get(j, keys[0]));
            last = json_real_value(json_object_get(j, keys[0]));
            if (json_integer_value(json_object_get(j, "epoch")) == 1) epochs++;
        } else if (strcmp(event, "dev") == 0) {
            assert_true(json_is_real(json_object_get(j, "dev_loss_cpt")) && json_is_real(json_object_get(j, "dev_loss_it")));
            dev_last = json_real_value(json_object_get(j, "dev_loss_nats_per_target"));
            if (dev++ == 0) dev_first = dev_last;
        } else others++;
        json_decref(j);
    }
    free(line); fclose(f); free(p);
    assert_true(steps > 15 && dev >= 5 && epochs > 0);
    assert_int_equal(others, 2);   // start, done
    print_message("%d steps: loss %.3f -> %.3f, dev %.3f -> %.3f\n", (int)steps, first, last, dev_first, dev_last);
    assert_true(last < 0.8 * first && dev_last < 0.8 * dev_first);
}

static void test_patience_ends_a_stage(void **state) {
    (void)state;
    // a rate so high that the dev loss rises; evaluations at 0, 2, 4, ...
    expect(0, "no lower dev loss in 2 evaluations", RUN "--out @patience --lr 8 --warmup 0 --dev-every 2 --patience 2");
    expect(1, "there is no dev data", RUN "--out @patience2 --dev-rows 0 --patience 2");
    expect(1, "--dev-every has no effect here", RUN "--out @patience2 --dev-rows 0 --dev-every 2");
    // dev shards of their own
    make_shards("dev", SHARD_IT, 10, 4, 60, 9);
    expect(0, "dev       0 | data", BASE "--data @cpt @it --dev-data @dev --seq-len 64 --step-tokens 256 --steps 3 --lr 0.01 --out @devdata");
    assert_non_null(strstr(output, "dev 10"));
    expect(1, "is both training and dev data", BASE "--data @cpt @it --dev-data @it --seq-len 64 --step-tokens 256 --steps 3 --out @devdata2");
}

// ---------------------------------------------------------------------------------------------------------------
// settings

static void test_flags(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"--model @model --recipe @recipe.json --out @x --learning-rate 1", "unknown flag \"--learning-rate\""},
        {"--recipe @recipe.json --out @x", "--model is missing"},
        {"--model @model --out @x", "expected either --recipe FILE or --data"},
        {"--model @model --recipe @recipe.json --data @cpt --out @x", "found both"},
        {"--model @model --recipe @recipe.json", "--out is missing"},
        {"--model @model --recipe @recipe.json --out @x --init-seed 3", "--init-seed has no effect"},
        {BASE "--recipe @recipe.json --out @x --steps 3 --epochs 1", "more than one of --steps"},
        {BASE "--recipe @recipe.json --out @x --resume --overwrite", "contradict"},
        {BASE "--recipe @recipe.json --out @x --quiet --log-every 3", "--log-every has no effect"},
        {BASE "--recipe @recipe.json --out @x --dry-run --keep 3", "--keep has no effect"},
        {BASE "--recipe @recipe.json --dump @y --checkpoint-every 3", "--checkpoint-every has no effect"},
        {BASE "--recipe @recipe.json --out @x --dev-data @it", "--dev-data has no effect"},
        {BASE "--recipe @recipe.json --out @x --decay 0.1", "--decay has no effect"},
        {BASE "--recipe @recipe.json --out @x --schedule constant", "\"floor\" has no effect"},
        {BASE "--recipe @recipe.json --out @x --seq-len 100", "expected a multiple of seq_len"},
        {BASE "--recipe @recipe.json --out @x --micro-rows 5", "micro_rows is 5"},
        {BASE "--recipe @recipe.json --out @x --packing worst-fit", "--packing is"},
        {BASE "--recipe @recipe.json --out @x --save-dtype int8", "--save-dtype is"},
        {BASE "--recipe @recipe.json --out @x --seq-len 8192 --step-tokens 8192 --micro-rows 1", "the model has 4096 positions"},
        {BASE "--recipe @recipe.json --out @model", "same directory as --model"},
        {BASE "--recipe @recipe.json --out @recipe.json", "recipe.json is not a directory"},
        {BASE "--recipe @recipe.json --out @recipe.json/x", "recipe.json is not a directory"},
        {BASE "--data @it --seq-len 2 --out @x", "do not fit into a row of 2 tokens"},
        {BASE "--data @it --seq-len 2 --out @x", "longer rows (--seq-len)"},
        {"--model @model --data @it --out @x", "(--init random starts without weights)"},
        {BASE "--data @nothing --out @x", "no such shard file"},
        {BASE "--data @cpt @cpt --seq-len 64 --balance rows --out @x", "unknown flag"},
        {BASE "--data @cpt --dev-rows 1000 --out @x", "hold out fewer"},
    };
    for (int i = 0; i < (int)(sizeof cases / sizeof cases[0]); i++) expect(1, cases[i][1], cases[i][0]);
    expect(1, "recipe.json is not a directory", BASE "--recipe @recipe.json --out @recipe.json");
    assert_null(strstr(output, "weights drawn"));   // known before a model is made
    char *x = at("x"), *y = at("y");
    assert_false(file_exists(x) && is_directory(x) && file_exists(y));
    free(x); free(y);
    expect(0, "FLOPs", BASE "--recipe @recipe.json --dry-run");
    assert_non_null(strstr(output, "split"));
    assert_non_null(strstr(output, "fills"));
    expect(0, "lr 0.01 instead of the recipe's 0.05", BASE "--recipe @recipe.json --dry-run --lr 0.01");
}

// Every flag of the table does something: against one base run, either the model, or the lines on stderr, or the exit status,
// or the files in OUT change. A flag that is added and forgotten here fails the test.
static void test_every_flag_does_something(void **state) {
    (void)state;
#define SMALL "--model @model --data @cpt @it --seq-len 64 --step-tokens 256 --steps 8 --out @flag --overwrite "
    static const char *const effects[][2] = {
        {"--init-seed 2", "model"}, {"--seq-len 32", "model"}, {"--step-tokens 512", "model"}, {"--epochs 1", "model"}, {"--steps 5", "model"}, {"--tokens 1000", "model"},
        {"--schedule cosine", "model"}, {"--packing next-fit", "model"}, {"--seed 7", "model"}, {"--dev-rows 5", "model"}, {"--weight-decay 0.5", "model"}, {"--beta1 0.5", "model"},
        {"--beta2 0.5", "model"}, {"--eps 0.1", "model"}, {"--grad-clip 0.01", "model"}, {"--lr 0.02", "model"}, {"--warmup 0.9", "model"}, {"--floor 0.9", "model"},
        {"--schedule wsd --decay 0.7", "model"}, {"--save-dtype bfloat16", "model"},
        {"--micro-rows 2", "in micro-batches of 2"}, {"--dev-data @dev", "dev       8"}, {"--dev-rows 5 --dev-every 3", "dev       3"}, {"--checkpoint-every 3", "checkpoint of step 6"},
        {"--dry-run", "FLOPs"}, {"--dump @flag.dump", "trained targets"}, {"--stop-after-steps 2", "stopped after step 2"}, {"--help", "usage:"},
        {"--moments bf16", "no moments bf16 here"}, {"--gradients bf16", "no gradients bf16 here"}, {"--recompute block", "no recompute block here"},
        {"--zero 2", "there is one rank"}, {"--watchdog 5", "there is one rank"}, {"--shard-ranks 1", "there is one rank"}, {"--links auto", "there is one rank"},   // with several: test_ranks
    };
    // shown elsewhere: --model, --recipe, --data, --out, --init, --resume, --overwrite (everywhere), --patience, --keep, --log-every, --quiet (below); LoRA's in test_lora
    static const char *const elsewhere = " --model --recipe --data --out --init --resume --overwrite --patience --keep --log-every --quiet "
                                         "--lora-rank --lora-alpha --lora-rslora --lora-targets --lora-seed --adapter --merge ";
    Hash base, now;
    char *model = at("flag/model.safetensors");
    make_shards("dev", SHARD_IT, 10, 4, 60, 9);
    expect(0, NULL, SMALL "--init random --lr 0.01 ");
    assert_true(hash_file(model, &base, NULL));
    for (int i = 0; i < (int)(sizeof effects / sizeof effects[0]); i++) {
        char words[512] = "";
        static const char *const parts[] = {"--seq-len 64 ", "--step-tokens 256 ", "--steps 8 ", "--lr 0.01 ", "--overwrite "};
        const char *drop[] = {"--seq-len", "--step-tokens", "--steps", "--lr", "--overwrite"};
        const char *flag = effects[i][0];
        bool horizon = strncmp(flag, "--epochs", 8) == 0 || strncmp(flag, "--tokens", 8) == 0, no_run = strncmp(flag, "--dry", 5) == 0 || strncmp(flag, "--dump", 6) == 0;
        snprintf(words, sizeof words, "--model @model --init random --data @cpt @it --out @flag %s", flag);
        for (int k = 0; k < 5; k++) {
            size_t n = strlen(drop[k]);
            if ((strncmp(flag, drop[k], n) == 0 && flag[n] == ' ') || (k == 2 && horizon) || (k == 4 && no_run)) continue;
            size_t used = strlen(words);
            snprintf(words + used, sizeof words - used, " %s", parts[k]);
        }
        int status = train(words);
        if (strcmp(effects[i][1], "model") != 0) { if (!strstr(output, effects[i][1])) fail_msg("%s: \"%s\" is not in: %s", flag, effects[i][1], output); continue; }
        if (status != 0) fail_msg("%s: %s", flag, output);
        assert_true(hash_file(model, &now, NULL));
        if (strcmp(base.hex, now.hex) == 0) fail_msg("%s changes nothing", flag);
    }
    free(model);
    expect(0, NULL, SMALL "--init random --lr 0.01 --quiet");
    assert_string_equal(output, "");
    expect(0, "step      8", SMALL "--init random --lr 0.01 --log-every 4");
    assert_null(strstr(output, "step      3"));
    expect(0, NULL, SMALL "--init random --lr 0.01 --checkpoint-every 1 --keep 5");
    char *out = at("flag");
    int64_t kept = 0;
    free(checkpoint_list(out, false, &kept));
    assert_int_equal(kept, 5);
    free(out);
    TrainOptions o;
    Flag flags[TRAIN_FLAGS];
    int n = train_flags(&o, flags);
    for (int f = 0; f < n; f++) {
        char name[64];
        snprintf(name, sizeof name, "%s ", flags[f].name);
        bool listed = strstr(elsewhere, name) != NULL;
        for (int i = 0; i < (int)(sizeof effects / sizeof effects[0]); i++) {
            char with_space[128];
            snprintf(with_space, sizeof with_space, "%s ", effects[i][0]);
            listed = listed || strstr(with_space, name);
        }
        if (!listed) fail_msg("%s is in the table of flags, but no test shows what it does", flags[f].name);
    }
}

static void test_recipe_errors(void **state) {
    (void)state;
#define STREAMS "\"streams\": [{\"name\": \"cpt\", \"kind\": \"cpt\", \"shards\": [\"cpt\"]}]"
#define STAGE(x) "{\"name\": \"r\", \"stages\": [{\"name\": \"a\", " x "}]}"
    static const char *const cases[][2] = {
        {"{\"name\": \"r\"", "not valid JSON at line 1"},
        {"[]", "is an array, expected an object"},
        {"{\"stages\": []}", "\"name\" is missing"},
        {"{\"name\": \"r\", \"stages\": []}", "\"stages\" is an empty list"},
        {"{\"name\": \"r\", \"stagse\": []}", "unknown key \"stagse\""},
        {"{\"name\": \"a b\", \"stages\": []}", "\"name\" is \"a b\""},
        {"{\"name\": \"r\", \"seq_len\": 1, \"stages\": []}", "\"seq_len\" is 1, expected 2"},
        {"{\"name\": \"r\", \"dev\": {\"each\": 3}, \"stages\": []}", "unknown key \"each\""},
        {"{\"name\": \"r\", \"optimizer\": {\"lr\": 3}, \"stages\": []}", "unknown key \"lr\""},
        {"{\"name\": \"r\", \"name\": \"s\", \"stages\": []}", "duplicate"},
        {STAGE("\"epochs\": 1"), "stages[0]: \"streams\" is missing"},
        {STAGE(STREAMS), "exactly one of \"epochs\", \"steps\" and \"tokens\""},
        {STAGE(STREAMS ", \"epochs\": 1, \"steps\": 3"), "exactly one of"},
        {STAGE(STREAMS ", \"epochs\": \"3\""), "\"epochs\" is a string, expected an integer"},
        {STAGE(STREAMS ", \"epochs\": 1, \"lr\": -1"), "\"lr\" is -1"},
        {STAGE(STREAMS ", \"epochs\": 1, \"schedule\": \"step\""), "the schedule is \"step\""},
        {STAGE(STREAMS ", \"epochs\": 1, \"packing\": \"first-fit\""), "expected one of: best-fit, next-fit"},
        {STAGE(STREAMS ", \"epochs\": 1, \"optimizer\": \"kept\""), "the first stage has none to keep"},
        {STAGE(STREAMS ", \"epochs\": 1, \"balance\": \"rows\""), "needs a cpt stream and an it stream"},
        {STAGE("\"epochs\": 1, \"streams\": [{\"name\": \"c\", \"kind\": \"pref\", \"shards\": [\"cpt\"]}]"), "streams[0]: \"kind\" is \"pref\""},
        {STAGE("\"epochs\": 1, \"streams\": [{\"name\": \"c\", \"kind\": \"it\", \"shards\": [\"cpt\"]}]"), "is of kind cpt, but stream \"c\" is of kind it"},
        {STAGE("\"epochs\": 1, \"streams\": [{\"name\": \"c\", \"kind\": \"cpt\", \"shards\": []}]"), "\"shards\" is an empty list"},
        {STAGE("\"epochs\": 1, \"streams\": [{\"name\": \"c\", \"kind\": \"cpt\", \"shards\": [\"cpt\", \"cpt\"]}]"), "in the list twice"},
        {STAGE("\"epochs\": 1, \"streams\": [{\"name\": \"c\", \"kind\": \"cpt\", \"shards\": [\"cpt\"], \"rows\": 3, \"weight\": 1}]"), "more than one of \"weight\""},
        {STAGE("\"epochs\": 1, \"streams\": [{\"name\": \"c\", \"kind\": \"cpt\", \"shards\": [\"cpt\"]}, {\"name\": \"c\", \"kind\": \"it\", \"shards\": [\"it\"]}]"), "\"c\" is used twice"},
    };
    for (int i = 0; i < (int)(sizeof cases / sizeof cases[0]); i++) {
        put("bad.json", cases[i][0]);
        expect(1, cases[i][1], BASE "--recipe @bad.json --out @bad");
        assert_non_null(strstr(output, cases[i][1][0] == 'i' && strstr(cases[i][1], "is of kind") ? "cpt-00001" : ""));
        char *first = strstr(output, "error: ");
        assert_non_null(first);
        assert_null(strchr(strchr(first, '\n') + 1, '\n'));   // one line
    }
}

static void test_presets(void **state) {
    (void)state;
    Recipe r;
    Error e;
    if (!recipe_load("data/recipes/findap-paper.json", &r, &e)) fail_msg("%s", e.text);
    assert_true(recipe_check(&r, "paper", &e));
    assert_int_equal(r.step_tokens, 128000);
    assert_int_equal(r.stages[0].steps * r.step_tokens, 3840000000ll);
    assert_int_equal(r.stages[1].steps * r.step_tokens, 1664000000ll);
    assert_true(r.stages[0].lr == 5e-6 && r.stages[0].warmup == 0.1 && r.stages[1].warmup == 0.5 && r.stages[1].weight_decay == 0.1 && r.stages[1].beta2 == 0.95);
    assert_string_equal(r.stages[0].streams[0].shards.items[0], "data/recipes/fineweb_fin");
    recipe_free(&r);
    if (!recipe_load("data/recipes/findap-code.json", &r, &e)) fail_msg("%s", e.text);
    assert_true(recipe_check(&r, "code", &e));
    assert_true(r.stages[1].stop_after_steps == 13000 && r.stages[1].epochs == 3 && r.stages[1].next_fit && r.stages[1].balance == BALANCE_ROWS);
    assert_true(r.stages[0].weight_decay == 0 && r.stages[0].beta2 == 0.999 && !r.stages[1].keep_optimizer);
    recipe_free(&r);
}

static void test_balance_by_tokens(void **state) {
    (void)state;
    make_shards("more", SHARD_CPT, 50, 5, 60, 4);
    put("tokens.json", "{\"name\": \"t\", \"seq_len\": 64, \"step_tokens\": 64, \"stages\": [{\"name\": \"a\", \"epochs\": 1, \"balance\": \"tokens\", \"streams\": ["
        "{\"name\": \"cpt\", \"kind\": \"cpt\", \"shards\": [\"cpt\"]}, {\"name\": \"more\", \"kind\": \"cpt\", \"shards\": [\"more\"]}, {\"name\": \"it\", \"kind\": \"it\", \"shards\": [\"it\"]}]}]}");
    Recipe r;
    Data d;
    Error e;
    if (!open_data(&d, &r, "tokens.json", &e)) fail_msg("%s", e.text);
    int64_t tokens[3] = {0, 0, 0};
    for (int64_t i = 0; i < d.stages[0].num_pieces; i++) tokens[d.stages[0].pieces[i].stream] += d.stages[0].pieces[i].length;
    assert_int_equal(tokens[2], d.stages[0].streams[2].num_tokens);
    assert_true(llabs(tokens[0] + tokens[1] - tokens[2]) <= 110);   // half a document of each
    double share = (double)tokens[0] / (double)(tokens[0] + tokens[1]), want = (double)d.stages[0].streams[0].num_tokens / (double)(d.stages[0].streams[0].num_tokens + d.stages[0].streams[1].num_tokens);
    assert_true(fabs(share - want) < 0.1);
    data_free(&d); recipe_free(&r);
}

// what any stage evaluates on, no stage trains on - also when a later stage has the same shard together with others
static void test_held_out_in_one_stage_is_held_out_in_all(void **state) {
    (void)state;
    make_shards("more", SHARD_CPT, 50, 5, 60, 4);
    put("hold.json", "{\"name\": \"h\", \"seq_len\": 64, \"step_tokens\": 64, \"dev\": {\"dev_rows\": 20}, \"stages\": ["
        "{\"name\": \"a\", \"epochs\": 1, \"streams\": [{\"name\": \"cpt\", \"kind\": \"cpt\", \"shards\": [\"cpt\"]}]},"
        "{\"name\": \"b\", \"epochs\": 1, \"streams\": [{\"name\": \"cpt\", \"kind\": \"cpt\", \"shards\": [\"more\", \"cpt\"], \"dev_rows\": 0.5}]}]}");
    Recipe r;
    Data d;
    Error e;
    if (!open_data(&d, &r, "hold.json", &e)) fail_msg("%s", e.text);
    assert_int_equal(d.stages[0].streams[0].num_dev, 20);
    assert_int_equal(d.stages[1].streams[0].num_dev, 20 + 25);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 2; k++)
            for (int64_t x = 0; x < d.stages[i].streams[0].num_dev; x++)
                for (int64_t y = 0; y < d.stages[k].streams[0].num_documents; y++) {
                    const Document *dev = &d.stages[i].streams[0].dev[x], *trained = &d.stages[k].streams[0].documents[y];
                    assert_false(dev->file == trained->file && dev->document == trained->document);
                }
    data_free(&d); recipe_free(&r);
}

static void test_an_unreadable_model_costs_no_earlier_result(void **state) {
    (void)state;
    expect(0, NULL, RUN "--out @earlier --quiet");
    expect(1, "neither model.safetensors", "--model @model --recipe @recipe.json --out @earlier --overwrite");   // no weights there
    char *out = at("earlier"), *model = path_join(out, "model.safetensors"), *log = path_join(out, "log.jsonl");
    int64_t n = 0, *steps = checkpoint_list(out, false, &n);
    assert_true(file_exists(model) && file_exists(log) && n > 0);
    free(out); free(model); free(log); free(steps);
}

static void test_the_same_data_prepared_anew_are_the_same_data(void **state) {
    (void)state;
    make_shards("cpt_again", SHARD_CPT, 60, 5, 150, 1);   // as "cpt", under other metadata
    make_shards("cpt_other", SHARD_CPT, 60, 5, 150, 9);
    const char *const names[] = {"cpt-00001-of-00001.safetensors", "cpt_again-00001-of-00001.safetensors", "cpt_other-00001-of-00001.safetensors"};
    Hash content[3], file[3];
    for (int i = 0; i < 3; i++) {
        Shard shard;
        Error e;
        char *path = at(names[i]);
        if (!shard_open(path, &shard, &e) || !hash_file(path, &file[i], &e)) fail_msg("%s", e.text);
        content[i] = shard_content_hash(&shard);
        shard_close(&shard);
        free(path);
    }
    assert_string_equal(content[0].hex, content[1].hex);
    assert_string_not_equal(file[0].hex, file[1].hex);
    assert_string_not_equal(content[0].hex, content[2].hex);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_belong_to_targets), cmocka_unit_test(test_split_and_dropped_are_counted), cmocka_unit_test(test_order_is_a_function_of_seed_stage_epoch),
        cmocka_unit_test(test_no_row_is_dropped_between_epochs), cmocka_unit_test(test_rows_are_shared_by_attention_and_targets), cmocka_unit_test(test_held_out_in_one_stage_is_held_out_in_all), cmocka_unit_test(test_balance_by_tokens), cmocka_unit_test(test_a_dump_replaces_only_a_dump), cmocka_unit_test(test_a_model_without_a_tokenizer_is_named), cmocka_unit_test(test_micro_batches_do_not_change_the_gradient),
        cmocka_unit_test(test_schedules), cmocka_unit_test(test_resume_is_bit_for_bit), cmocka_unit_test(test_sigterm), cmocka_unit_test(test_kill_9),
        cmocka_unit_test(test_damage_falls_back), cmocka_unit_test(test_every_flipped_bit_is_found), cmocka_unit_test(test_resume_refuses_another_run),
        cmocka_unit_test(test_full_disk_keeps_the_last_good), cmocka_unit_test(test_not_finite), cmocka_unit_test(test_log_has_units_and_streams),
        cmocka_unit_test(test_patience_ends_a_stage), cmocka_unit_test(test_flags), cmocka_unit_test(test_every_flag_does_something), cmocka_unit_test(test_recipe_errors), cmocka_unit_test(test_presets),
        cmocka_unit_test(test_an_unreadable_model_costs_no_earlier_result), cmocka_unit_test(test_the_same_data_prepared_anew_are_the_same_data),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
