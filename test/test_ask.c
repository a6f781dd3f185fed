// test_ask.c: what ask counts - right answers, answers that begin right, answers without an end -, and that an answer depends neither on the other
// questions of its batch nor on the cap, if it ends before it.
#define main ask_main            // the program's main() is called like a function here
#include "data/ask.c"
#undef main
#include "test/tiny_tokenizer.h" // defines: tiny_tokenizer
#include "test/check.h"
#include "test/scratch.h"

static void what_counts(void **state) {
    (void)state;
    static const struct { const char *want, *text; bool capped, right, begins; } cases[] = {
        {"rise", "rise", false, true, true},
        {"rise", "rise", true, false, true},   // the right text, and yet no end
        {"rise", "rise. The home of Aldora is Bern", true, false, true},
        {"rise", "rise. Or fall", false, false, true},
        {"rise", "rises", false, false, false},
        {"1", "12", false, false, false},
        {"1", "1,", false, false, true},
        {"rise", "rise\xC3\xA9", false, false, false},
        {"rise", "ris", true, false, false},
        {"rise", "", false, false, false},
        {"rise", "Rise", false, false, false}};
    Tally all = {0, 0, 0, 0, 0};
    int64_t n = sizeof cases / sizeof *cases, right = 0, begins = 0, capped = 0;
    for (int64_t i = 0; i < n; i++) {
        Question q;
        memset(&q, 0, sizeof q);
        q.want = (char *)cases[i].want;
        q.capped = cases[i].capped;
        int64_t before = all.begins;
        bool ok = tally(&all, &q, cases[i].text);
        if (ok != cases[i].right || (all.begins > before) != cases[i].begins) fail_msg("\"%s\" for \"%s\"", cases[i].text, cases[i].want);
        right += cases[i].right; begins += cases[i].begins; capped += cases[i].capped;
    }
    json_t *j = tally_json(&all);
    const struct { const char *name; int64_t count; } shares[] = {{"exact_match", right}, {"begins_right", begins}, {"overlength_ratio", capped}};
    for (int i = 0; i < 3; i++) {
        char *name = xprintf("%s_stderr", shares[i].name);
        double p = (double)shares[i].count / (double)n;
        assert_true(json_real_value(json_object_get(j, shares[i].name)) == p);
        assert_true(fabs(json_real_value(json_object_get(j, name)) - sqrt(p * (1 - p) / (double)(n - 1))) < 1e-15);
        free(name);
    }
    assert_int_equal(json_integer_value(json_object_get(j, "reached_cap")), capped);
    json_decref(j);
}

enum { QUESTIONS = 40 };
// the rows of --answers for a random model whose answers sometimes end
static json_t *answers(const char *batch, const char *max_new) {
    Error e;
    char *argv[] = {(char *)"ask", (char *)"--model", directory, (char *)"--questions", (char *)in("questions.jsonl"), (char *)"--answers", (char *)in("answers.jsonl"),
                    (char *)"--init", (char *)"random", (char *)"--batch", (char *)batch, (char *)"--max-new", (char *)max_new};
    assert_int_equal(ask_main(13, argv), 0);
    Mapped m;
    assert_true(map_file(in("answers.jsonl"), &m, &e));
    json_t *rows = json_array();
    for (int64_t at = 0; at < m.size;) {
        const uint8_t *end = (const uint8_t *)memchr(m.data + at, '\n', (size_t)(m.size - at));
        assert_non_null(end);
        json_t *row = json_parse("answers", (const char *)m.data + at, end - (m.data + at), &e);
        if (!row) fail_msg("%s", e.text);
        json_array_append_new(rows, row);
        at = end + 1 - m.data;
    }
    unmap_file(&m);
    assert_int_equal(json_array_size(rows), QUESTIONS);
    return rows;
}
static void answers_stand_alone(void **state) {
    (void)state;
    Error e;
    Tokenizer *t = tiny_tokenizer(directory, "llama3", &e);
    if (!t) fail_msg("%s", e.text);
    tokenizer_free(t);
    static const char config[] = "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"vocab_size\":272,\"hidden_size\":32,\"intermediate_size\":40,\"num_hidden_layers\":2,"
        "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-5,\"initializer_range\":0.3,\"rope_theta\":10000.0,\"max_position_embeddings\":128,"
        "\"tie_word_embeddings\":false,\"bos_token_id\":260,\"eos_token_id\":[264,10,30,50,70,90,110,130]}";
    assert_true(write_file(in("config.json"), config, (int64_t)strlen(config), &e));
    Buffer b = {NULL, 0, 0};
    for (int i = 0; i < QUESTIONS; i++) {   // of different lengths, so that rows of a batch end in different places
        char *row = xprintf("{\"type\":\"%s\",\"prompt\":\"%.*s %d?\",\"completion\":\"x\"}\n", i % 2 ? "odd" : "even", 1 + i * 7 % 23, "what is the sense of asking", i);
        buffer_add(&b, row, (int64_t)strlen(row));
        free(row);
    }
    assert_true(write_file(in("questions.jsonl"), b.data, b.len, &e));
    buffer_free(&b);
    json_t *all = answers("64", "12"), *one = answers("1", "12"), *seven = answers("7", "12"), *longer = answers("64", "24");
    assert_true(json_equal(all, one) && json_equal(all, seven));
    int64_t capped = 0;
    for (size_t i = 0; i < QUESTIONS; i++) {
        const json_t *row = json_array_get(all, i), *later = json_array_get(longer, i);
        int64_t tokens = json_integer_value(json_object_get(row, "tokens"));
        bool cap = json_is_true(json_object_get(row, "reached_cap"));
        assert_true(cap ? tokens == 12 : tokens < 12);
        if (!cap) assert_true(json_equal(row, later)); else assert_true(json_integer_value(json_object_get(later, "tokens")) >= 12);
        capped += cap;
    }
    printf("%d of %d answers of a random model reached the cap\n", (int)capped, QUESTIONS);
    assert_true(capped >= 5 && capped <= QUESTIONS - 5);
    json_decref(all); json_decref(one); json_decref(seven); json_decref(longer);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_counts), cmocka_unit_test(answers_stand_alone)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
