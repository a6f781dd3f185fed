// test_model_dir.c: a model directory to the real model and back (findap/model_dir.h over train_findap.c), with the small models
// of test/data: every dtype, shards, what must be refused by name, and what a failed or repeated save leaves behind.
// The container itself and interrupted writes are test_safetensors.c's.
#define FINDAP_LIBRARY
#include "../train_findap.c"
#include "../findap/model_dir.h"   // defines: model_load_dir, model_save_dir
#include "check.h"                 // defines: cmocka's assertions, fail_msg
#include "scratch.h"   // defines: directory, setup, teardown, in

static const char *const model_names[] = {"llama3", "llama31", "llama32", "qwen25", "qwen25_untied"};
enum { NUM_MODELS = sizeof model_names / sizeof *model_names };

static const char *data(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "test/data/%s", name);
    return path;
}
static void must(bool ok, const Error *e) { if (!ok) fail_msg("%s", e->text); }
static void check_line(const Error *e, const char *expected) {
    if (!strstr(e->text, expected) || strchr(e->text, '\n')) fail_msg("the error is \"%s\", expected one line with \"%s\"", e->text, expected);
}

static Model *new_model(const char *name) {   // as large as test/data/NAME says, not loaded
    Error e;
    Config c;
    must(config_load(data(name), &c, &e), &e);
    return model_create(&c, 1, 8, false, NULL);
}
static Model *loaded(const char *name, const char *dir) {
    Error e;
    Model *m = new_model(name);
    must(model_load_dir(m, dir, &e), &e);
    return m;
}
// every parameter in the order of the table
static float *parameters(const Model *m, int64_t *n) {
    *n = config_num_parameters(model_config(m));
    float *all = (float *)xmalloc(*n * 4), *at = all;
    for (int i = 0; i < model_num_tensors(m); i++)
        for (int l = 0; l < tensor_layers(m, model_tensor(m, i)); l++, at += tensor_numbers(model_tensor(m, i))) model_get(m, KIND_PARAM, i, l, at);
    assert_int_equal(at - all, *n);   // the table is the whole model, and its size is what config.h says
    return all;
}

// f rounded to `digits` binary digits with exponents from `lowest`, ties to even: by the definition, in double, where it is exact
static float rounded(float f, int digits, int lowest) {
    int exponent;
    if (f == 0 || !isfinite(f)) return f;
    frexp(f, &exponent);                                      // |f| in [2^(exponent-1), 2^exponent)
    double unit = ldexp(1, (exponent < lowest ? lowest : exponent) - digits);
    return (float)(nearbyint((double)f / unit) * unit);
}

static void every_model_survives_every_dtype(void **state) {
    (void)state;
    Error e;
    for (int k = 0; k < NUM_MODELS; k++) {
        Model *m = new_model(model_names[k]);
        model_init_random(m, 42);          // fp32 numbers that no 16-bit type holds
        int64_t n;
        float *want = parameters(m, &n);
        want[0] = 1e-7f; want[1] = -3e-6f;   // subnormal in half
        model_put(m, KIND_PARAM, 0, 0, want);
        for (int d = 0; d < 3; d++) {
            static const char *const dtypes[] = {"float32", "bfloat16", "float16"};
            must(model_save_dir(m, data(model_names[k]), in("m"), dtypes[d], 0, &e), &e);
            Model *again = loaded(model_names[k], in("m"));
            int64_t changed = 0;
            float *got = parameters(again, &n);
            for (int64_t i = 0; i < n; i++) {
                float expected = d == 0 ? want[i] : d == 1 ? rounded(want[i], 8, -125) : rounded(want[i], 11, -13);
                if (memcmp(&got[i], &expected, 4) != 0) fail_msg("%s as %s: number %" PRId64 " is %.9g, expected %.9g for %.9g", model_names[k], dtypes[d], i, got[i], expected, want[i]);
                changed += got[i] != want[i];
            }
            assert_true(d == 0 ? changed == 0 : changed > n / 2);
            Config c;
            must(config_load(in("m"), &c, &e), &e);
            assert_string_equal(c.dtype, dtypes[d]);
            free(got);
            model_free(again);
            remove_tree(in("m"));
        }
        free(want);
        model_free(m);
    }
}

// what transformers wrote, loaded and saved as the same type, is the same tensors
static void loading_and_saving_changes_no_tensor(void **state) {
    (void)state;
    Error e;
    for (int k = 0; k < NUM_MODELS; k++) {
        Model *m = loaded(model_names[k], data(model_names[k]));
        must(model_save_dir(m, data(model_names[k]), in("m"), "bfloat16", 0, &e), &e);
        Weights *a = weights_open(data(model_names[k]), &e), *b = weights_open(in("m"), &e);
        assert_true(a && b);
        assert_int_equal(a->files[0]->count, b->files[0]->count);
        assert_string_equal(safetensors_metadata(b->files[0], "format"), "pt");   // transformers asks for it
        for (int64_t i = 0; i < a->files[0]->count; i++) {
            const SafeTensor *s = safetensors_at(a->files[0], i), *t = weights_find(b, s->name);
            if (!t) fail_msg("%s: %s was not saved", model_names[k], s->name);
            assert_true(t->dtype == DTYPE_BF16 && t->rank == s->rank && memcmp(t->shape, s->shape, sizeof s->shape) == 0);
            assert_memory_equal(t->data, s->data, (size_t)s->bytes);
        }
        weights_close(a);
        weights_close(b);
        model_free(m);
        remove_tree(in("m"));
    }
}

// ---- shards

// the weight files of `dir`: their number; each must be of this save (`shards` of them) and none may be left of another
static int64_t check_shards(const char *dir, int64_t limit) {
    Error e;
    Weights *w = weights_open(dir, &e);
    if (!w) fail_msg("%s", e.text);
    int64_t shards = w->num_files, in_directory = 0, index = 0, other = 0;
    for (int64_t i = 0; i < shards; i++) {
        int64_t bytes = 0;
        for (int64_t k = 0; k < w->files[i]->count; k++) bytes += safetensors_at(w->files[i], k)->bytes;
        if (bytes > limit) assert_int_equal(w->files[i]->count, 1);   // only a tensor that is larger by itself may exceed it
    }
    weights_close(w);
    DIR *d = opendir(dir);
    for (struct dirent *f; (f = readdir(d));) {
        size_t n = strlen(f->d_name);
        if (n > 12 && strcmp(f->d_name + n - 12, ".safetensors") == 0) in_directory++;
        else if (strcmp(f->d_name, "model.safetensors.index.json") == 0) index++;
        else if (strcmp(f->d_name, "config.json") != 0 && f->d_name[0] != '.') other++;
        if (strcmp(f->d_name, ".saving") == 0 || strstr(f->d_name, ".tmp.")) other++;
    }
    closedir(d);
    assert_int_equal(in_directory, shards);
    assert_int_equal(index, shards > 1);
    assert_int_equal(other, 0);
    return shards;
}

static void shards_of_any_number_replace_each_other(void **state) {
    (void)state;
    Error e;
    Model *m = new_model("qwen25");
    static const int64_t limits[] = {100000, 30000, 0, 30000, 30000, 1, 100000, 60000, 0};
    int64_t n, seen = 0;
    for (size_t k = 0; k < sizeof limits / sizeof *limits; k++) {
        model_init_random(m, 100 + k);
        float *want = parameters(m, &n);
        must(model_save_dir(m, data("qwen25"), in("s"), "float32", limits[k], &e), &e);
        int64_t shards = check_shards(in("s"), limits[k] ? limits[k] : 5000000000ll);
        if (limits[k] == 0) assert_int_equal(shards, 1);
        if (limits[k] == 1) assert_int_equal(shards, 26);   // one for each tensor
        if (limits[k] == 30000) assert_true(shards > 5 && shards < 26);
        seen |= (int64_t)1 << shards;
        Model *again = loaded("qwen25", in("s"));
        float *got = parameters(again, &n);
        assert_memory_equal(got, want, (size_t)n * 4);      // of this save, not of one before
        free(want);
        free(got);
        model_free(again);
    }
    assert_true(__builtin_popcountll((unsigned long long)seen) >= 4);
    model_free(m);
    remove_tree(in("s"));
}

// the directory of a killed save is cleaned, but what a link in its place points to is not ours
static void a_link_named_saving_is_not_followed(void **state) {
    (void)state;
    Error e;
    must(make_directory(in("elsewhere"), &e) && make_directory(in("l"), &e) && write_file(in("elsewhere/thesis"), "x", 1, &e), &e);
    assert_int_equal(symlink(in("elsewhere"), in("l/.saving")), 0);
    Model *m = loaded("llama3", data("llama3"));
    must(model_save_dir(m, data("llama3"), in("l"), "bfloat16", 0, &e), &e);
    assert_true(file_exists(in("elsewhere/thesis")));
    assert_int_equal(check_shards(in("l"), 5000000000ll), 1);
    model_free(m);
    remove_tree(in("l"));
    remove_tree(in("elsewhere"));
}

// ---- weights that do not belong to the model

// copies the weights of test/data/NAME to DIRECTORY/w with one change; `tensor` is that to be changed or, when not there, added
typedef struct { const char *tensor; bool leave_out, transpose; int dtype; int rank; int64_t shape[2]; float value; } Change;

static void put_changed(const char *name, const Change *change) {
    Error e;
    Weights *from = weights_open(data(name), &e);
    if (!from) fail_msg("%s", e.text);
    must(make_directory(in("w"), &e), &e);
    Safetensors *s = from->files[0];
    SafetensorsWriter *w = safetensors_writer_new(in("w/model.safetensors"));
    bool there = safetensors_find(s, change->tensor) != NULL;
    int64_t last = s->count + (there ? 0 : 1), added[2] = {change->shape[0], change->shape[1]};
    for (int64_t i = 0; i < last; i++) {
        const SafeTensor *t = i < s->count ? safetensors_at(s, i) : NULL;
        if (!t) { safetensors_writer_tensor(w, change->tensor, (Dtype)change->dtype, change->rank, added); continue; }
        bool hit = strcmp(t->name, change->tensor) == 0;
        if (hit && change->leave_out) continue;
        int64_t shape[2] = {t->shape[0], t->rank > 1 ? t->shape[1] : 1};
        if (hit && change->transpose) { shape[0] = t->shape[1]; shape[1] = t->shape[0]; }
        safetensors_writer_tensor(w, t->name, hit ? (Dtype)change->dtype : t->dtype, t->rank, shape);
    }
    bool ok = safetensors_writer_begin(w, &e);
    for (int64_t i = 0; ok && i < last; i++) {
        const SafeTensor *t = i < s->count ? safetensors_at(s, i) : NULL;
        bool hit = !t || strcmp(t->name, change->tensor) == 0;
        if (t && (!hit || (change->dtype == (int)t->dtype && !change->leave_out))) { ok = safetensors_writer_data(w, t->data, t->bytes, &e); continue; }
        if (change->leave_out) continue;
        int64_t count = t ? t->count : added[0] * (change->rank > 1 ? added[1] : 1), bytes = count * dtype_size((Dtype)change->dtype);
        uint8_t *buffer = (uint8_t *)xcalloc(bytes, 1);
        for (int64_t k = 0; k < count && change->dtype == DTYPE_F32; k++) memcpy(buffer + 4 * k, &change->value, 4);
        ok = safetensors_writer_data(w, buffer, bytes, &e);
        free(buffer);
    }
    must(ok && safetensors_writer_commit(w, &e), &e);
    weights_close(from);
}
static void check_change(const char *name, Change change, const char *expected) {   // expected NULL: loads
    Error e;
    e.text[0] = 0;
    put_changed(name, &change);
    Model *m = new_model(name);
    bool ok = model_load_dir(m, in("w"), &e);
    if (ok != !expected) fail_msg("%s, %s: %s", name, change.tensor, ok ? "loaded" : e.text);
    if (expected) { check_line(&e, expected); check_line(&e, change.tensor); }   // and by name
    model_free(m);
    remove_tree(in("w"));
}

static void tensors_that_do_not_fit_are_refused_by_name(void **state) {
    (void)state;
    const char *q = "model.layers.1.self_attn.q_proj.weight", *norm = "model.norm.weight", *bias = "model.layers.0.self_attn.k_proj.bias";
    check_change("llama3", (Change){.tensor = q, .leave_out = true, .dtype = DTYPE_BF16}, "is missing");
    check_change("llama3", (Change){.tensor = "lm_head.weight", .leave_out = true, .dtype = DTYPE_BF16}, "is missing");   // not tied
    check_change("qwen25", (Change){.tensor = bias, .leave_out = true, .dtype = DTYPE_BF16}, "is missing");
    check_change("llama3", (Change){.tensor = "model.layers.1.mlp.up_proj.weight", .transpose = true, .dtype = DTYPE_BF16}, "has shape 32 x 40, config.json says 40 x 32");
    check_change("llama3", (Change){.tensor = q, .dtype = DTYPE_I8}, "of type I8");
    check_change("llama3", (Change){.tensor = q, .dtype = DTYPE_F8_E4M3}, "of type F8_E4M3");
    check_change("llama3", (Change){.tensor = norm, .dtype = DTYPE_I64}, "of type I64");
    check_change("llama3", (Change){.tensor = norm, .dtype = DTYPE_F64}, NULL);
    check_change("llama3", (Change){.tensor = norm, .dtype = DTYPE_F16}, NULL);   // dtypes may be mixed
    check_change("llama3", (Change){.tensor = bias, .dtype = DTYPE_BF16, .rank = 1, .shape = {16, 1}}, "unexpected tensor");        // Llama has no biases
    check_change("llama3", (Change){.tensor = "model.layers.2.mlp.up_proj.weight", .dtype = DTYPE_BF16, .rank = 2, .shape = {40, 32}}, "unexpected tensor");
    check_change("llama3", (Change){.tensor = "model.layers.-1.mlp.up_proj.weight", .dtype = DTYPE_BF16, .rank = 2, .shape = {40, 32}}, "unexpected tensor");
    check_change("llama3", (Change){.tensor = "model.layers.99999999999999999999.x", .dtype = DTYPE_BF16, .rank = 1, .shape = {1, 1}}, "unexpected tensor");
    check_change("llama3", (Change){.tensor = "q_norm", .dtype = DTYPE_BF16, .rank = 1, .shape = {1, 1}}, "unexpected tensor");
    check_change("llama3", (Change){.tensor = "model.layers.0.self_attn.rotary_emb.inv_freq", .dtype = DTYPE_F32, .rank = 1, .shape = {4, 1}}, NULL);
    // another model's config with these weights
    Error e;
    Model *m = new_model("llama31");
    assert_false(model_load_dir(m, data("llama3"), &e));
    check_line(&e, "config.json says");
    assert_false(model_load_dir(m, in("none"), &e));
    check_line(&e, "neither model.safetensors nor");
    model_free(m);
}

static void a_tied_model_may_only_repeat_its_embedding(void **state) {
    (void)state;
    static const char *const tied[] = {"llama32", "qwen25"};
    Error e;
    for (int k = 0; k < 2; k++) {
        Model *m = loaded(tied[k], data(tied[k]));
        const Config *c = model_config(m);
        int64_t n = c->vocab_size * c->hidden_size;
        check_change(tied[k], (Change){.tensor = "lm_head.weight", .dtype = DTYPE_BF16, .rank = 2, .shape = {c->vocab_size, c->hidden_size}}, "ties the embeddings");   // zeros
        for (int differs = 0; differs < 2; differs++) {
            Weights *from = weights_open(data(tied[k]), &e);
            SafetensorsWriter *w = safetensors_writer_new(in("w/model.safetensors"));
            must(make_directory(in("w"), &e), &e);
            const SafeTensor *embed = weights_find(from, "model.embed_tokens.weight");
            for (int64_t i = 0; i < from->files[0]->count; i++) { const SafeTensor *t = safetensors_at(from->files[0], i); safetensors_writer_tensor(w, t->name, t->dtype, t->rank, t->shape); }
            safetensors_writer_tensor(w, "lm_head.weight", embed->dtype, 2, embed->shape);
            bool ok = safetensors_writer_begin(w, &e);
            for (int64_t i = 0; ok && i < from->files[0]->count; i++) ok = safetensors_writer_data(w, safetensors_at(from->files[0], i)->data, safetensors_at(from->files[0], i)->bytes, &e);
            uint8_t *copy = (uint8_t *)xmalloc(embed->bytes);
            memcpy(copy, embed->data, (size_t)embed->bytes);
            copy[embed->bytes - 1] ^= differs ? 1 : 0;   // one bit of the last number
            must(ok && safetensors_writer_data(w, copy, embed->bytes, &e) && safetensors_writer_commit(w, &e), &e);
            ok = model_load_dir(m, in("w"), &e);
            assert_int_equal(ok, !differs);
            if (differs) check_line(&e, "ties the embeddings");
            free(copy);
            weights_close(from);
        }
        // what is saved of a tied model has no lm_head
        must(model_save_dir(m, data(tied[k]), in("t"), "float32", 0, &e), &e);
        Weights *saved = weights_open(in("t"), &e);
        assert_true(saved && !weights_find(saved, "lm_head.weight") && weights_find(saved, "model.embed_tokens.weight")->count == n);
        weights_close(saved);
        remove_tree(in("t"));
        remove_tree(in("w"));
        model_free(m);
    }
}

// loads DIRECTORY/w and returns what was written to stderr
static char *warning_of_load(const char *name) {
    Error e;
    fflush(stderr);
    int keep = dup(2), fd = open(in("stderr"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(keep >= 0 && fd >= 0 && dup2(fd, 2) == 2);
    Model *m = new_model(name);
    bool ok = model_load_dir(m, in("w"), &e);
    fflush(stderr);
    dup2(keep, 2);
    close(keep);
    must(ok, &e);
    char *text = (char *)xcalloc(4096, 1);
    assert_true(pread(fd, text, 4095, 0) >= 0);
    close(fd);
    model_free(m);
    return text;
}
static void weights_that_are_no_numbers_are_counted(void **state) {
    (void)state;
    static const float values[] = {NAN, INFINITY, 1.0f};
    for (int k = 0; k < 3; k++) {
        Change change = {.tensor = "model.norm.weight", .dtype = DTYPE_F32, .value = values[k]};
        put_changed("llama3", &change);
        char *text = warning_of_load("llama3");
        if (k < 2 && !strstr(text, " 32 weights are NaN or infinite")) fail_msg("the warning is \"%s\"", text);
        if (k == 2) assert_string_equal(text, "");
        free(text);
        remove_tree(in("w"));
    }
}

// ---- config.json and the other files

static char *text_of(const char *path) {
    Error e;
    Mapped m;
    must(map_file(path, &m, &e), &e);
    char *s = (char *)xcalloc(m.size + 1, 1);
    memcpy(s, m.data, (size_t)m.size);
    unmap_file(&m);
    return s;
}
static void only_the_dtype_of_the_config_changes(void **state) {
    (void)state;
    Error e;
    for (int k = 0; k < NUM_MODELS; k++) {
        Model *m = loaded(model_names[k], data(model_names[k]));
        char *source = path_join(data(model_names[k]), "config.json"), *before = text_of(source);
        must(model_save_dir(m, data(model_names[k]), in("c"), "bfloat16", 0, &e), &e);
        char *after = text_of(in("c/config.json"));
        assert_string_equal(before, after);   // nothing to change: the same bytes
        free(after);
        must(model_save_dir(m, data(model_names[k]), in("c"), "float16", 0, &e), &e);
        json_t *a = json_parse_file(source, 1 << 20, &e), *b = json_parse_file(in("c/config.json"), 1 << 20, &e);
        const char *key = json_object_get(a, "torch_dtype") ? "torch_dtype" : "dtype";
        assert_string_equal(json_string_value(json_object_get(b, key)), "float16");
        void *x = json_object_iter(a), *y = json_object_iter(b);
        for (; x && y; x = json_object_iter_next(a, x), y = json_object_iter_next(b, y)) {   // in the same order, too
            assert_string_equal(json_object_iter_key(x), json_object_iter_key(y));
            if (strcmp(json_object_iter_key(x), key) != 0) assert_true(json_equal(json_object_iter_value(x), json_object_iter_value(y)));
        }
        assert_true(!x && !y);
        json_decref(a);
        json_decref(b);
        free(before);
        free(source);
        model_free(m);
        remove_tree(in("c"));
    }
    // both spellings, or neither, in one file; and the tokenizer's files come along, byte for byte
    static const char *const spellings[][2] = {{", \"dtype\": \"bfloat16\", \"torch_dtype\": \"bfloat16\"}", "both"}, {"}", "neither"}, {", \"dtype\": \"float32\", \"torch_dtype\": \"bfloat16\"}", "both"}};
    Model *m = loaded("llama3", data("llama3"));
    for (int k = 0; k < 3; k++) {
        char *text = xprintf("{\"architectures\": [\"LlamaForCausalLM\"], \"x\": 1.0e-5, \"y\": [1, {\"z\": null}]%s", spellings[k][0]);
        must(make_directory(in("source"), &e) && write_file(in("source/config.json"), text, (int64_t)strlen(text), &e) && write_file(in("source/tokenizer.json"), "\0\xff x", 4, &e), &e);
        must(model_save_dir(m, in("source"), in("c"), "float32", 0, &e), &e);
        json_t *j = json_parse_file(in("c/config.json"), 1 << 20, &e);
        assert_string_equal(json_string_value(json_object_get(j, "dtype")), "float32");
        bool other = json_object_get(j, "torch_dtype") != NULL;
        if (other) assert_string_equal(json_string_value(json_object_get(j, "torch_dtype")), "float32");
        assert_int_equal(other, strcmp(spellings[k][1], "both") == 0);
        assert_true(json_real_value(json_object_get(j, "x")) == 1e-5);
        Mapped copy;
        must(map_file(in("c/tokenizer.json"), &copy, &e), &e);
        assert_true(copy.size == 4 && memcmp(copy.data, "\0\xff x", 4) == 0);
        unmap_file(&copy);
        json_decref(j);
        free(text);
        remove_tree(in("c"));
    }
    remove_tree(in("source"));
    model_free(m);
}

// ---- refusals to save

static void saving_where_it_must_not_is_refused(void **state) {
    (void)state;
    Error e;
    Model *m = loaded("llama3", data("llama3"));
    must(model_save_dir(m, data("llama3"), in("a"), "bfloat16", 0, &e), &e);
    Hash before, after;
    must(hash_file(in("a/model.safetensors"), &before, &e), &e);
    model_init_random(m, 5);
    assert_int_equal(symlink("a", in("link")), 0);
    static const char *const same[] = {"a", "a/", "./a", "link", "a/../link"};
    for (int k = 0; k < 5; k++) { assert_false(model_save_dir(m, in("a"), in(same[k]), "float32", 0, &e)); check_line(&e, "read from"); }
    static const char *const dtypes[] = {"", "int8", "BF16", "float64"};
    for (int k = 0; k < 4; k++) { assert_false(model_save_dir(m, data("llama3"), in("a"), dtypes[k], 0, &e)); check_line(&e, "expected bfloat16"); }
    assert_false(model_save_dir(m, data("llama3"), in("a/config.json"), "float32", 0, &e)); check_line(&e, "not a directory");
    assert_false(model_save_dir(m, data("llama3"), in("a/config.json/x"), "float32", 0, &e)); check_line(&e, "cannot make the directory");
    assert_false(model_save_dir(m, in("none"), in("b"), "float32", 0, &e)); check_line(&e, "config.json");
    // an unwritable directory; root must become somebody else to meet one
    must(write_file(in("config.json"), "{}", 2, &e), &e);   // a source that everybody may read
    bool root = geteuid() == 0;
    assert_true(chmod(directory, 0755) == 0 && chmod(in("a"), 0555) == 0);
    if (root) assert_int_equal(seteuid(65534), 0);
    bool ok = model_save_dir(m, directory, in("a"), "float32", 0, &e);
    if (root) assert_int_equal(seteuid(0), 0);
    assert_true(chmod(in("a"), 0755) == 0);
    assert_false(ok);
    check_line(&e, "cannot be written");
    check_line(&e, "---> ");
    must(hash_file(in("a/model.safetensors"), &after, &e), &e);
    assert_string_equal(before.hex, after.hex);   // after all of these, what was there
    assert_int_equal(check_shards(in("a"), 5000000000ll), 1);
    model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_model_survives_every_dtype),
        cmocka_unit_test(loading_and_saving_changes_no_tensor),
        cmocka_unit_test(shards_of_any_number_replace_each_other),
        cmocka_unit_test(a_link_named_saving_is_not_followed),
        cmocka_unit_test(tensors_that_do_not_fit_are_refused_by_name),
        cmocka_unit_test(a_tied_model_may_only_repeat_its_embedding),
        cmocka_unit_test(weights_that_are_no_numbers_are_counted),
        cmocka_unit_test(only_the_dtype_of_the_config_changes),
        cmocka_unit_test(saving_where_it_must_not_is_refused),
    };
    return cmocka_run_group_tests_name("model_dir", tests, setup, teardown);
}
