// test_config.c: config.json (findap/config.h): the real families in both spellings, parameter counts, the rotary frequencies
// against Hugging Face's values, and hostile files, each refused in one line that names the field.
#include "findap/config.h"   // defines: config_parse, config_load, config_num_parameters, config_rope_inv_freq
#include "check.h"

// a JSON object made of `base` with the keys of `change` over it (null: removed)
static json_t *changed(const char *base, const char *change) {
    json_t *j = json_loads(base, 0, NULL), *c = json_loads(change, 0, NULL), *value;
    const char *key;
    if (!j || !c) fail_msg("the test's own JSON is wrong: %s", change);
    json_object_foreach(c, key, value) { if (json_is_null(value)) json_object_del(j, key); else json_object_set(j, key, value); }
    json_decref(c);
    return j;
}
static Config parsed(const char *base, const char *change) {
    Error e;
    Config c;
    json_t *j = changed(base, change);
    if (!config_parse("config.json", j, &c, &e)) fail_msg("%s", e.text);
    json_decref(j);
    return c;
}
static void refused(const char *base, const char *change, const char *expected) {
    Error e;
    Config c;
    e.text[0] = 0;
    json_t *j = changed(base, change);
    if (config_parse("config.json", j, &c, &e)) fail_msg("accepted: %s", change);
    if (!strstr(e.text, expected) || strchr(e.text, '\n') || strncmp(e.text, "config.json: ", 13) != 0) fail_msg("%s: \"%s\", expected \"%s\"", change, e.text, expected);
    json_decref(j);
}

static const char llama3[] = "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":4096,\"num_hidden_layers\":32,\"num_attention_heads\":32,\"num_key_value_heads\":8,"
    "\"intermediate_size\":14336,\"vocab_size\":128256,\"rms_norm_eps\":1e-05,\"rope_theta\":500000.0,\"rope_scaling\":null,\"max_position_embeddings\":8192,\"hidden_act\":\"silu\","
    "\"tie_word_embeddings\":false,\"bos_token_id\":128000,\"eos_token_id\":128009,\"initializer_range\":0.02,\"torch_dtype\":\"bfloat16\",\"attention_bias\":false}";
static const char qwen[] = "{\"architectures\":[\"Qwen2ForCausalLM\"],\"hidden_size\":1536,\"num_hidden_layers\":28,\"num_attention_heads\":12,\"num_key_value_heads\":2,"
    "\"intermediate_size\":8960,\"vocab_size\":151936,\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,\"max_position_embeddings\":32768,\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,"
    "\"bos_token_id\":151643,\"eos_token_id\":151645,\"use_sliding_window\":false,\"sliding_window\":32768,\"max_window_layers\":21,\"torch_dtype\":\"bfloat16\"}";
static const char scaling31[] = "{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192},"
    "\"eos_token_id\":[128001,128008,128009]}";
static const char config32[] = "{\"hidden_size\":2048,\"num_hidden_layers\":16,\"head_dim\":64,\"intermediate_size\":8192,\"tie_word_embeddings\":true,\"rope_theta\":null,\"rope_scaling\":null,"
    "\"torch_dtype\":null,\"dtype\":\"float32\",\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":500000.0,\"factor\":32.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
    "\"original_max_position_embeddings\":8192}}";

static void test_families(void **state) {   // counts: openfinllm.md section 5
    (void)state;
    Config c = parsed(llama3, "{}");
    assert_int_equal(config_num_parameters(&c), 8030261248);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.bos, 128000);
    assert_true(c.num_eos == 1 && c.eos[0] == 128009 && !c.qkv_bias && !c.rope_llama3 && c.rope_theta == 500000.0 && c.rms_norm_eps == 1e-05);
    assert_string_equal(c.dtype, "bfloat16");
    c = parsed(llama3, scaling31);
    assert_true(c.rope_llama3 && c.rope_factor == 8 && c.rope_original_max_position == 8192 && c.num_eos == 3 && c.eos[2] == 128009);
    c = parsed(llama3, config32);   // transformers 5
    assert_int_equal(config_num_parameters(&c), 1235814400);
    assert_true(c.rope_llama3 && c.rope_factor == 32 && c.rope_theta == 500000.0 && c.tied_embeddings);
    assert_string_equal(c.dtype, "float32");
    c = parsed(qwen, "{}");
    assert_int_equal(config_num_parameters(&c), 1543714304);
    assert_true(c.qkv_bias && c.tied_embeddings && c.family == FAMILY_QWEN2);
    c = parsed(qwen, "{\"tie_word_embeddings\":false,\"rope_theta\":10000,\"layer_types\":[\"full_attention\"]}");
    assert_int_equal(config_num_parameters(&c), 1777088000);
    c = parsed(llama3, "{\"num_key_value_heads\":null,\"eos_token_id\":null,\"bos_token_id\":null,\"torch_dtype\":null,\"rope_theta\":null}");   // what is absent has HF's default
    assert_true(c.num_kv_heads == 32 && c.num_eos == 0 && c.bos == -1 && c.rope_theta == 10000.0 && strcmp(c.dtype, "float32") == 0);
    c = parsed(llama3, "{\"head_dim\":64}");   // given, not derived
    assert_int_equal(c.head_dim, 64);
    c = parsed(llama3, "{\"rope_theta\":1,\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":25000.0}}");
    assert_true(c.rope_theta == 25000.0 && !c.rope_llama3);
}

// the directories that transformers wrote: every field
static void test_written_by_transformers(void **state) {
    (void)state;
    static const struct { const char *name; Config want; } cases[] = {
        {"llama3",        {FAMILY_LLAMA, 101, 32, 2, 4, 2,   8, 40,  64, 1e-5,   5e5, 0.02, false,  0, 0, 0,  0, false, false, 1, {2}, 1, "bfloat16"}},
        {"llama31",       {FAMILY_LLAMA,  67, 32, 2, 2, 1,  32, 56, 256, 1e-5, 10000, 0.02, true,   8, 1, 4, 32, false, false, 1, {2}, 1, "bfloat16"}},
        {"llama32",       {FAMILY_LLAMA,  99, 48, 2, 3, 1,  64, 48, 256, 1e-5,   5e5, 0.02, true,  32, 1, 4, 64, true,  false, 1, {2}, 1, "bfloat16"}},
        {"qwen25",        {FAMILY_QWEN2,  89, 24, 2, 2, 1, 128, 40,  64, 1e-6,   1e6, 0.02, false,  0, 0, 0,  0, true,  true,  1, {2}, 1, "bfloat16"}},
        {"qwen25_untied", {FAMILY_QWEN2,  83, 48, 1, 3, 3,  16, 40,  64, 1e-6, 10000, 0.02, false,  0, 0, 0,  0, false, true,  1, {2}, 1, "bfloat16"}}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[64];
        Error e;
        Config c;
        const Config *w = &cases[i].want;
        snprintf(path, sizeof path, "test/data/%s", cases[i].name);
        if (!config_load(path, &c, &e)) fail_msg("%s", e.text);
        bool same = c.family == w->family && c.vocab_size == w->vocab_size && c.hidden_size == w->hidden_size && c.num_layers == w->num_layers && c.num_heads == w->num_heads &&
            c.num_kv_heads == w->num_kv_heads && c.head_dim == w->head_dim && c.intermediate_size == w->intermediate_size && c.max_position == w->max_position &&
            c.rms_norm_eps == w->rms_norm_eps && c.rope_theta == w->rope_theta && c.initializer_range == w->initializer_range && c.rope_llama3 == w->rope_llama3 &&
            c.rope_factor == w->rope_factor && c.rope_low_freq_factor == w->rope_low_freq_factor && c.rope_high_freq_factor == w->rope_high_freq_factor &&
            c.rope_original_max_position == w->rope_original_max_position && c.tied_embeddings == w->tied_embeddings && c.qkv_bias == w->qkv_bias && c.bos == w->bos &&
            c.eos[0] == w->eos[0] && c.num_eos == w->num_eos && strcmp(c.dtype, w->dtype) == 0;
        if (!same) fail_msg("%s: a field differs from its config.json", path);
    }
    Config c = parsed(llama3, "{\"eos_token_id\":[128001,200000,-1],\"bos_token_id\":128256}");   // ids beyond the vocabulary are left out
    assert_true(c.num_eos == 1 && c.eos[0] == 128001 && c.bos == -1);
}

static void check_bands(const char *change, int kept, int blended, double factor, float last) {
    Config c = parsed(llama3, change), plain = c;
    float f[64], g[64];
    int n[3] = {0, 0, 0};
    plain.rope_llama3 = false;
    config_rope_inv_freq(&c, f);
    config_rope_inv_freq(&plain, g);
    for (int i = 0; i < c.head_dim / 2; i++) n[f[i] == g[i] ? 0 : f[i] == g[i] / (float)factor ? 2 : 1]++;
    assert_int_equal(n[0], kept);
    assert_int_equal(n[1], blended);
    assert_int_equal(n[2], c.head_dim / 2 - kept - blended);
    assert_true(f[c.head_dim / 2 - 1] == last);
}
static void test_rope(void **state) {   // the last ones: transformers 5.23, fp32
    (void)state;
    check_bands(scaling31, 29, 6, 8, 3.068926e-07f);
    check_bands(config32, 15, 3, 32, 9.4183065e-08f);
    Config c = parsed(llama3, "{}");
    float f[64];
    config_rope_inv_freq(&c, f);
    assert_true(f[0] == 1.0f && f[63] == 2.4551407e-06f);
}

static void test_hostile(void **state) {
    (void)state;
    static const char *const bad[][2] = {
        {"{\"hidden_size\":4097}", "multiple of num_attention_heads"}, {"{\"num_key_value_heads\":64}", "divisor"}, {"{\"num_key_value_heads\":5}", "divisor"},
        {"{\"num_key_value_heads\":0}", "num_key_value_heads"}, {"{\"head_dim\":0}", "head_dim"}, {"{\"head_dim\":15}", "even"}, {"{\"head_dim\":-2}", "head_dim"},
        {"{\"head_dim\":4096}", "head_dim"}, {"{\"head_dim\":64.5}", "head_dim"}, {"{\"hidden_size\":32,\"num_key_value_heads\":null}", "even"},
        {"{\"vocab_size\":0}", "vocab_size"}, {"{\"vocab_size\":-1}", "vocab_size"}, {"{\"vocab_size\":2147483648}", "vocab_size"}, {"{\"vocab_size\":\"128256\"}", "a string"},
        {"{\"vocab_size\":1e5}", "a number"}, {"{\"vocab_size\":null}", "missing"}, {"{\"hidden_size\":null}", "missing"}, {"{\"hidden_size\":9223372036854775807}", "hidden_size"},
        {"{\"num_hidden_layers\":1000000}", "num_hidden_layers"}, {"{\"num_hidden_layers\":0}", "num_hidden_layers"}, {"{\"num_attention_heads\":0}", "num_attention_heads"},
        {"{\"intermediate_size\":[1]}", "an array"}, {"{\"max_position_embeddings\":0}", "max_position"}, {"{\"rms_norm_eps\":-1}", "rms_norm_eps"},
        {"{\"rms_norm_eps\":\"1e-5\"}", "a string"}, {"{\"rope_theta\":0}", "rope_theta"}, {"{\"rope_theta\":-5}", "rope_theta"}, {"{\"rope_theta\":\"NaN\"}", "rope_theta"},
        {"{\"rope_theta\":1e300}", "rope_theta"}, {"{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0}}", "\"yarn\""}, {"{\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}", "\"linear\""},
        {"{\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", "\"dynamic\""}, {"{\"rope_scaling\":{\"factor\":2}}", "no \"rope_type\""}, {"{\"rope_scaling\":\"llama3\"}", "expected an object"},
        {"{\"rope_scaling\":{\"rope_type\":3}}", "rope_type"}, {"{\"rope_scaling\":{\"rope_type\":\"llama3\"}}", "factor"},
        {"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":0,\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}", "factor"},
        {"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}", "high_freq_factor"},
        {"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":-1}}", "original_max"},
        {"{\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\",\"rope_theta\":1e6}}}", "full_attention"}, {"{\"rope_parameters\":{\"rope_type\":\"default\",\"attention_factor\":2}}", "attention_factor"},
        {"{\"partial_rotary_factor\":0.5}", "partial_rotary_factor"}, {"{\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.25}}", "partial_rotary_factor"},
        {"{\"architectures\":[\"MistralForCausalLM\"]}", "\"MistralForCausalLM\""}, {"{\"architectures\":[]}", "architectures"}, {"{\"architectures\":null}", "architectures"},
        {"{\"architectures\":\"LlamaForCausalLM\"}", "architectures"}, {"{\"architectures\":[1]}", "architectures"}, {"{\"architectures\":[\"LlamaForCausalLM\",\"x\"]}", "architectures"},
        {"{\"hidden_act\":\"gelu\"}", "\"gelu\""}, {"{\"hidden_act\":1}", "hidden_act"}, {"{\"attention_bias\":true}", "attention_bias"}, {"{\"attention_bias\":\"false\"}", "attention_bias"},
        {"{\"mlp_bias\":true}", "mlp_bias"}, {"{\"use_sliding_window\":true}", "use_sliding_window"}, {"{\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", "layer_types[1]"},
        {"{\"tie_word_embeddings\":\"yes\"}", "tie_word_embeddings"}, {"{\"quantization_config\":{\"bits\":4}}", "quantized"}, {"{\"torch_dtype\":\"int8\"}", "\"int8\""},
        {"{\"torch_dtype\":16}", "torch_dtype"}, {"{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", "at most 8"}, {"{\"eos_token_id\":\"</s>\"}", "token id"}, {"{\"eos_token_id\":-7}", "token id"},
        {"{\"bos_token_id\":[1,2]}", "at most 1"}, {"{\"bos_token_id\":1e3}", "token id"}, {"{\"architectures\":[\"\\u001b[2J\"]}", "\\x1b[2J"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) refused(llama3, bad[i][0], bad[i][1]);
    refused("[]", "{}", "expected an object");
    refused(qwen, "{\"use_sliding_window\":true}", "use_sliding_window");
}

static void test_files(void **state) {
    (void)state;
    static const char *const bad[][2] = {{"", "not valid JSON"}, {"{\"rope_theta\":NaN}", "not valid JSON"}, {"{\"rope_theta\":1e999}", "not valid JSON"}, {"{\"a\":1,\"a\":2}", "duplicate"},
        {"{\"vocab_size\":99999999999999999999}", "not valid JSON"}, {"{\"a\":\"\xff\"}", "not valid JSON"}, {"{} x", "not valid JSON"}};
    char directory[] = "/tmp/findap_test_XXXXXX";
    Error e;
    Config c;
    assert_non_null(mkdtemp(directory));
    char *path = path_join(directory, "config.json");
    assert_false(config_load(directory, &c, &e));
    assert_non_null(strstr(e.text, "cannot be opened"));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_true(write_file(path, bad[i][0], (int64_t)strlen(bad[i][0]), &e));
        assert_false(config_load(directory, &c, &e));
        if (!strstr(e.text, bad[i][1]) || strchr(e.text, '\n')) fail_msg("%s: %s", bad[i][0], e.text);
    }
    Buffer b = {NULL, 0, 0};
    for (int i = 0; i < 100000; i++) buffer_add(&b, "[", 1);
    assert_true(write_file(path, b.data, b.len, &e));
    assert_false(config_load(directory, &c, &e));
    assert_non_null(strstr(e.text, "depth"));
    for (int i = 0; i < 1000000; i++) buffer_add(&b, "[", 1);
    assert_true(write_file(path, b.data, b.len, &e));
    assert_false(config_load(directory, &c, &e));
    assert_non_null(strstr(e.text, "expected at most"));
    assert_true(write_file(path, llama3, (int64_t)strlen(llama3), &e));
    assert_true(config_load(directory, &c, &e));
    unlink(path);
    assert_int_equal(rmdir(directory), 0);
    buffer_free(&b);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_families), cmocka_unit_test(test_written_by_transformers), cmocka_unit_test(test_rope), cmocka_unit_test(test_hostile), cmocka_unit_test(test_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
