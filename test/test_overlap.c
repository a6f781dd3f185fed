// test_overlap.c: eval_overlap.h against what dev/overlap_reference.py says with sets of strings (test/data/overlap), and cases small enough to count by hand.
#include "../findap/eval_overlap.h"      // defines: eval_overlap_main
#include "tiny_tokenizer.h"              // defines: tiny_tokenizer
#include "check.h"
#include "scratch.h"                     // defines: directory, setup, teardown, in
#include "program.h"                     // defines: run_words, output

static void put(const char *name, const char *text) {
    Error e;
    if (!write_file(in(name), text, (int64_t)strlen(text), &e)) fail_msg("%s", e.text);
}
static json_t *told(const char *words) {   // the JSON of `eval overlap`; nothing else may be printed
    Error e;
    if (run_words(eval_overlap_main, "overlap", words) != 0) fail_msg("%s: %s", words, output);
    json_t *j = json_parse("output", output, (int64_t)strlen(output), &e);
    if (!j) fail_msg("%s: %s", e.text, output);
    return j;
}
static const json_t *test_of(const json_t *j, size_t i) { return json_array_get(json_object_get(j, "tests"), i); }
static long long count_of(const json_t *test, const char *key) { return (long long)json_integer_value(json_object_get(test, key)); }

static void like_the_reference(void **state) {
    (void)state;
    Error e;
    json_t *want = json_parse_file("test/data/overlap/expected.json", 1 << 20, &e);
    if (!want) fail_msg("%s", e.text);
    json_t *j = told("--json --train test/data/overlap/train.jsonl --test test/data/overlap/test.jsonl");
    const json_t *test = test_of(j, 0), *hits = json_object_get(want, "hits"), *found = json_object_get(test, "hits");
    static const char *const keys[] = {"rows", "hit", "untold", "mostly"};
    for (int k = 0; k < 4; k++) assert_int_equal(count_of(test, keys[k]), count_of(want, keys[k]));
    assert_true(count_of(want, "hit") > 20 && count_of(want, "untold") > 0 && count_of(want, "mostly") > 0);
    assert_int_equal(json_array_size(found), json_array_size(hits));
    for (size_t i = 0; i < json_array_size(hits); i++) {
        const json_t *a = json_array_get(hits, i), *b = json_array_get(found, i);
        assert_true(json_equal(json_object_get(a, "row"), json_object_get(b, "row")) && json_equal(json_object_get(a, "by"), json_object_get(b, "by")));
        assert_true(fabs(json_number_value(json_object_get(a, "coverage")) - json_number_value(json_object_get(b, "coverage"))) < 1e-12);
    }
    json_decref(want); json_decref(j);
}

// one training text, one test text: is it a hit, and by what?
static void by_hand(void **state) {
    (void)state;
    static const struct { const char *train, *test, *by; } cases[] = {
        // 13 words of one letter: too few letters for the other window
        {"{\"text\": \"a b c d e f g h i j k l m\"}", "{\"text\": \"x a b c d e f g h i j k l m y\"}", "words"},
        {"{\"text\": \"a b c d e f g h i j k l\"}", "{\"text\": \"x a b c d e f g h i j k l y m n\"}", ""},
        {"{\"text\": \"A, b; C-d (e) f.g h! i? j k / l\\nm\"}", "{\"text\": \"x a b c d e f g h i j k l m y\"}", "words"},   // case, punctuation, lines
        // 50 letters in two words: cut otherwise, still the same; 49 are not enough
        {"{\"text\": \"zzabcdefghijklmnopqrstuvwxyabcdefghijklmnopqrstuvwxyzz\"}", "{\"text\": \"qqq abcdefghijklmnopqrs tuvwxyabcdefghijklmnopqrstuvwxy qqq\"}", "chars"},
        {"{\"text\": \"zzabcdefghijklmnopqrstuvwxyabcdefghijklmnopqrstuvwxzz\"}", "{\"text\": \"qqq abcdefghijklmnopqrs tuvwxyabcdefghijklmnopqrstuvwx qqq\"}", ""},
        // whole texts: as a field, behind a label, not inside another line
        {"{\"a\": {\"b\": [\"Kingfisher: bid for Mr Bricolage\"]}}", "{\"text\": \"kingfisher bid for mr. bricolage\"}", "whole"},
        {"{\"a\": \"Say which it is.\\nText: Kingfisher bid for Mr Bricolage\\nAnswer:\"}", "{\"query\": \"Tell.\\nQuestion: Kingfisher bid for Mr Bricolage\\nOther\"}", "whole"},
        {"{\"a\": \"Kingfisher bid for Mr Bricolage runs aground\"}", "{\"text\": \"Kingfisher bid for Mr Bricolage\"}", ""},
        {"{\"a\": \"abcdefghij klmnopqrst\"}", "{\"text\": \"abcdefghij klmnopqrst\"}", "whole"},   // 20 letters
        {"{\"a\": \"abcdefghij klmnopqrs\"}", "{\"text\": \"abcdefghij klmnopqrs\"}", ""},
        // compatibility forms; what isn't a letter in any script divides
        {"{\"text\": \"\\ufb01rma \\u0130stanbul e\\u0301t\\u00e9 Stra\\u00dfe\"}", "{\"text\": \"firma i\\u0307stanbul \\u00c9T\\u00c9 STRASSE\"}", "whole"},
        // an answer is no question: "positive" would be everywhere
        {"{\"text\": \"Kingfisher bid for Mr Bricolage\"}", "{\"text\": \"Something else altogether, longer than twenty letters\", \"answer\": \"Kingfisher bid for Mr Bricolage\"}", ""},
        {"{\"text\": \"Kingfisher bid for Mr Bricolage\"}", "{\"text\": \"Something else altogether\", \"choices\": [\"Kingfisher bid for Mr Bricolage\", \"no\"]}", ""},
        {"\"a b c d e f g h i j k l m\"", "{\"text\": \"a b c d e f g h i j k l m\"}", "words"},   // a training row may be a string
    };
    for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++) {
        put("train.jsonl", cases[i].train);
        put("test.jsonl", cases[i].test);
        json_t *j = told("--json --train @train.jsonl --test @test.jsonl");
        const json_t *hit = json_array_get(json_object_get(test_of(j, 0), "hits"), 0), *by = json_object_get(hit, "by");
        const char *found = json_array_size(by) == 1 ? json_string_value(json_array_get(by, 0)) : json_array_size(by) ? "several" : "";
        if (strcmp(found, cases[i].by) != 0) fail_msg("case %d: \"%s\", expected \"%s\"", i, found, cases[i].by);
        json_decref(j);
    }
}

// The words around a row, the same in all rows of both files, are no overlap; a passage asked about a few times is
static void the_prompt_does_not_count(void **state) {
    (void)state;
    const char *ask = "Read the sentence below with care and say in one word whether it is good or bad news for those who hold shares of the company";
    Buffer test = {NULL, 0, 0}, train = {NULL, 0, 0};
    for (int i = 0; i < 60; i++) {
        char row[1024];
        const char *passage = i < 5 ? "the board of the company proposes that no dividend shall be paid for the year that has just come to its end" : "";
        buffer_add(&test, row, snprintf(row, sizeof row, "{\"id\": \"t%d\", \"query\": \"%s.\\nText: alpha%d beta%d gamma%d %s\\nAnswer:\"}\n", i, ask, i, i * 7, i * 3, passage));
        buffer_add(&train, row, snprintf(row, sizeof row, "{\"query\": \"%s.\\nText: delta%d epsilon%d %s\\nAnswer:\"}\n", ask, i, i, i == 41 ? "the board of the company proposes that no dividend shall be paid for the year that has just come to its end" : ""));
    }
    buffer_add(&test, "", 1); buffer_add(&train, "", 1);
    put("test.jsonl", test.data);
    put("train.jsonl", train.data);
    json_t *j = told("--json --train @train.jsonl --test @test.jsonl");
    assert_int_equal(count_of(test_of(j, 0), "hit"), 5);
    const json_t *hit = json_array_get(json_object_get(test_of(j, 0), "hits"), 4);
    assert_int_equal(count_of(hit, "row"), 4);
    assert_string_equal(json_string_value(json_object_get(hit, "id")), "t4");
    assert_true(strstr(json_string_value(json_object_get(hit, "train")), "train.jsonl row 42") != NULL);
    assert_true(strncmp(json_string_value(json_object_get(hit, "text")), "the board of the company", 24) == 0);
    json_decref(j);
    // for people: the same, and one example if asked
    assert_int_equal(run_words(eval_overlap_main, "overlap", "--train @train.jsonl --test @test.jsonl --show 1"), 0);
    assert_true(strstr(output, "test                       60        5    8.33%") != NULL && strstr(output, "test row 1 (") != NULL && strstr(output, "test row 2 (") == NULL);
    buffer_free(&test); buffer_free(&train);
}

// a row that says the same in several fields, or several times, is one row; the place is that of the first training row that has it
static void rows_and_places(void **state) {
    (void)state;
    put("one.jsonl", "{\"text\": \"something else\"}\n\n{\"text\": \"and more\"}\n");
    put("two.jsonl", "{\"text\": \"a b c d e f g h i j k l m\"}\n{\"text\": \"a b c d e f g h i j k l m\"}\n");
    put("test.jsonl", "{\"text\": \"a b c d e f g h i j k l m\", \"query\": \"a b c d e f g h i j k l m a b c d e f g h i j k l m\"}\n{\"text\": \"x\"}\n");
    json_t *j = told("--json --train @one.jsonl @two.jsonl --test @test.jsonl");
    assert_int_equal(count_of(test_of(j, 0), "hit"), 1);
    const json_t *hit = json_array_get(json_object_get(test_of(j, 0), "hits"), 0);
    if (!strstr(json_string_value(json_object_get(hit, "train")), "two.jsonl row 1")) fail_msg("%s", json_string_value(json_object_get(hit, "train")));
    json_decref(j);
}

// in parts that fit, and in any grouping of the files, the same is found; what does not fit at all is said
static void memory(void **state) {
    (void)state;
    for (int f = 0; f < 3; f++) {
        Buffer b = {NULL, 0, 0};
        char row[512], name[32];
        for (int i = 0; i < 40; i++) {
            int64_t n = snprintf(row, sizeof row, "{\"text\": \"");
            for (int w = 0; w < 15; w++) n += snprintf(row + n, sizeof row - (size_t)n, "w%llu ", (unsigned long long)random_below(f == 2 ? 1 : 9, (uint64_t)(i / (f + 1)), (uint64_t)w, 100000));
            n += snprintf(row + n, sizeof row - (size_t)n, "\"}\n");
            buffer_add(&b, row, n);
        }
        buffer_add(&b, "", 1);
        snprintf(name, sizeof name, "m%d.jsonl", f);
        put(name, b.data);
        if (f == 1) put("train.jsonl", b.data);
        buffer_free(&b);
    }
    json_t *all = told("--json --train @train.jsonl --test @m0.jsonl @m1.jsonl @m2.jsonl"), *parts = told("--json --memory 1 --train @train.jsonl --test @m0.jsonl @m1.jsonl @m2.jsonl");
    assert_true(json_equal(all, parts));
    assert_int_equal(count_of(test_of(all, 0), "hit"), 20);   // the first 20 seeds are those of m1
    assert_int_equal(count_of(test_of(all, 1), "hit"), 40);
    assert_int_equal(count_of(test_of(all, 2), "hit"), 0);
    json_decref(all); json_decref(parts);
    Buffer b = {NULL, 0, 0};
    buffer_add(&b, "{\"text\": \"", 10);
    for (int i = 0; i < 30000; i++) { char word[16]; buffer_add(&b, word, snprintf(word, sizeof word, "w%d ", i)); }
    buffer_add(&b, "\"}\n", 4);
    put("long.jsonl", b.data);
    buffer_free(&b);
    assert_int_equal(run_words(eval_overlap_main, "overlap", "--memory 1 --train @train.jsonl --test @m0.jsonl @long.jsonl"), 1);
    assert_true(strstr(output, "long.jsonl: its windows need more than 1 MiB ---> try --memory 4") != NULL);
    assert_int_equal(run_words(eval_overlap_main, "overlap", "--train @train.jsonl --test @long.jsonl"), 0);
}

static void shards(void **state) {
    (void)state;
    Error e;
    Tokenizer *t = tiny_tokenizer(directory, "llama3", &e);
    if (!t) fail_msg("%s", e.text);
    put("it.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"Is it up?\\nText: Kingfisher bid for Mr Bricolage\\nAnswer:\"}, {\"role\": \"assistant\", \"content\": \"no\"}]}\n"
                    "{\"messages\": [{\"role\": \"user\", \"content\": \"a b c d e f g h i j k l m n o\"}, {\"role\": \"assistant\", \"content\": \"yes\"}]}\n");
    static const char *const documents[] = {"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nIs it up?\nText: Kingfisher bid for Mr Bricolage\nAnswer:<|eot_id|>", "a b c d e f g h i j k l m n o"};
    const ShardField fields[] = {{"max_len", "1000"}, {"vocab_size", "1000"}, {"tokenizer", tokenizer_hash(t)}, {"template", "llama3"}, {"template_hash", "-"}, {"inputs", "[\"it.jsonl\"]"}, {"input_hash", "-"}, {"set", "s"}};
    ShardWriter w;
    bool ok = shard_writer_open(&w, in("shard"), SHARD_IT, 100000, &e);
    for (int d = 0; ok && d < 2; d++) {
        Ids ids = {NULL, 0, 0};
        tokenizer_encode(t, documents[d], (int64_t)strlen(documents[d]), true, &ids);
        uint8_t weights[512] = {0, 1};
        assert_true(ids.len > 1 && ids.len <= 512);
        ok = shard_writer_add(&w, ids.data, weights, ids.len, 0, 0, 0, d + 1, &e);
        free(ids.data);
    }
    if (!ok || !shard_writer_finish(&w, fields, 8, &e)) fail_msg("%s", e.text);
    put("test.jsonl", "[{\"text\": \"kingfisher bid for mr bricolage\"}, {\"text\": \"c d e f g h i j k l m n o\"}, {\"text\": \"Neither of the two\"}]");
    char words[1024];
    snprintf(words, sizeof words, "--json --train @it.jsonl @shard --tokenizer %s --test @test.jsonl", directory);
    json_t *j = told(words);   // the PREFIX of a set; beside a JSONL file the first one that has it is named
    assert_int_equal(count_of(test_of(j, 0), "hit"), 2);
    assert_true(strstr(json_string_value(json_object_get(json_array_get(json_object_get(test_of(j, 0), "hits"), 1), "train")), "it.jsonl row 2") != NULL);
    json_decref(j);
    snprintf(words, sizeof words, "--json --train @shard-00001-of-00001.safetensors --tokenizer %s --test @test.jsonl", directory);
    j = told(words);
    assert_int_equal(count_of(test_of(j, 0), "hit"), 2);
    assert_true(strstr(json_string_value(json_object_get(json_array_get(json_object_get(test_of(j, 0), "hits"), 1), "train")), "00001.safetensors row 2") != NULL);
    json_decref(j);
    tokenizer_free(t);
    assert_int_equal(run_words(eval_overlap_main, "overlap", "--train @shard --test @test.jsonl"), 1);
    assert_true(strstr(output, "is a shard, whose tokens only its tokenizer can read") != NULL);
    assert_int_equal(mkdir(in("other"), 0700), 0);
    tokenizer_free(tiny_tokenizer(in("other"), "qwen2", &e));
    assert_int_equal(run_words(eval_overlap_main, "overlap", "--train @shard --tokenizer @other --test @test.jsonl"), 1);
    assert_true(strstr(output, "was made with another tokenizer") != NULL);
}

static void errors(void **state) {
    (void)state;
    put("good.jsonl", "{\"text\": \"a b c d e f g h i j k l m\"}\n");
    put("bad.jsonl", "{\"text\": \"a b c d e f g h i j k l m\"}\nnot JSON\n17\n{\"text\": 5, \"query\": [[[null]]]}\n{\"messages\": 3, \"conversations\": \"x\"}\n");
    put("empty.jsonl", "\n");
    put("no.txt", "x");
    static const struct { const char *words, *says; } cases[] = {
        {"", "--train is missing"}, {"--train @good.jsonl", "--test is missing"}, {"--train @good.jsonl --test @none.jsonl", "none.jsonl: cannot be opened"},
        {"--train @none.jsonl --test @good.jsonl", "none.jsonl: cannot be opened"}, {"--train @none --test @good.jsonl", "no such shard file"}, {"--train @no.txt --tokenizer @none --test @good.jsonl", "none"},
        {"--train @good.jsonl --test @empty.jsonl", "empty.jsonl: has no rows"}, {"--train @good.jsonl --test @good.jsonl --tokenizer @", "--tokenizer has no effect here"},
        {"--train @good.jsonl --test @good.jsonl --json --show 2", "--show has no effect here"}, {"--train @good.jsonl --test @good.jsonl --grams 8", "unknown flag \"--grams\""}, {"@good.jsonl", "unexpected argument"}};
    for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++) {
        if (run_words(eval_overlap_main, "overlap", cases[i].words) != 1 || !strstr(output, cases[i].says)) fail_msg("case %d: %s", i, output);
        const char *line = strchr(output, '\n');
        if (!line || line[1]) fail_msg("case %d: more than one line: %s", i, output);
    }
    // bad rows cost themselves, wherever they stand, and are told once
    assert_int_equal(run_words(eval_overlap_main, "overlap", "--train @bad.jsonl --test @bad.jsonl"), 0);
    assert_true(strstr(output, "bad.jsonl:2: not valid JSON") != NULL && strstr(output, "bad.jsonl:3: the row is an integer, expected an object") != NULL);
    assert_true(strstr(output, "3        1   33.33%") != NULL);
    assert_int_equal(run_words(eval_overlap_main, "overlap", "--help"), 0);
    assert_true(strstr(output, "--memory MIB") != NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(like_the_reference), cmocka_unit_test(by_hand), cmocka_unit_test(the_prompt_does_not_count), cmocka_unit_test(rows_and_places), cmocka_unit_test(memory), cmocka_unit_test(shards), cmocka_unit_test(errors)};
    int failed = cmocka_run_group_tests(tests, setup, teardown);
    free(output);
    return failed;
}
