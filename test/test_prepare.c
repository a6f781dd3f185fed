// test_prepare.c: prepare from end to end on a tokenizer that can be followed by hand: what is trained, what is split, dropped and
// counted, that the output doesn't depend on threads, and that hostile rows and shards are refused in one line.
#define FINDAP_LIBRARY
#include "../data/prepare.c"
#include "tiny_tokenizer.h"      // defines: tiny_tokenizer
#include <setjmp.h>
#include <stddef.h>
#include <cmocka.h>              // after our headers: it has a macro named fail

static char directory[] = "/tmp/findap_test_XXXXXX";
static char llama_path[64], qwen_path[64], prefix[64], input[64];
static Tokenizer *llama;

static Tokenizer *make(char *path, size_t n, const char *family) {
    Error e;
    e.text[0] = 0;
    snprintf(path, n, "%s/%s", directory, family);
    assert_true(make_directory(path, &e));
    Tokenizer *t = tiny_tokenizer(path, family, &e);
    if (!t) fail_msg("%s", e.text);
    return t;
}
static int setup(void **state) {
    (void)state;
    assert_non_null(mkdtemp(directory));
    llama = make(llama_path, sizeof llama_path, "llama3");
    tokenizer_free(make(qwen_path, sizeof qwen_path, "qwen2"));
    snprintf(prefix, sizeof prefix, "%s/out", directory);
    snprintf(input, sizeof input, "%s/in.jsonl", directory);
    return 0;
}
static void remove_tree(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        if (entry->d_name[0] == '.') continue;
        char *child = path_join(path, entry->d_name);
        if (is_directory(child)) remove_tree(child); else unlink(child);
        free(child);
    }
    if (d) closedir(d);
    rmdir(path);
}
static int teardown(void **state) { (void)state; tokenizer_free(llama); remove_tree(directory); return is_directory(directory); }

static void put(const char *path, const char *text, int64_t n) { Error e; assert_true(write_file(path, text, n, &e)); }
static void put_text(const char *text) { put(input, text, (int64_t)strlen(text)); }

// runs prepare with these words (split at blanks); standard input from `in` or NULL; *out (to be freed) is what it printed
static bool run_words(const char *words, const char *in, char **out, Error *e) {
    char *copy = xstrdup(words), *save = NULL, *argv[64] = {(char *)"prepare"};
    int argc = 1, fd = 0;
    for (char *w = strtok_r(copy, " ", &save); w && argc < 63; w = strtok_r(NULL, " ", &save)) argv[argc++] = w;
    if (in) { put_text(in); fd = open(input, O_RDONLY); assert_true(fd > 2); }
    size_t n = 0;
    char *text = NULL;
    FILE *f = open_memstream(&text, &n), *log = fopen("/dev/null", "w");
    e->text[0] = 0;
    bool ok = prepare_program(argc, argv, fd, f, log, e);
    fclose(f);
    fclose(log);
    free(copy);
    if (out) *out = text; else free(text);
    return ok;
}
__attribute__((format(printf, 1, 2)))
static void prepare_ok(const char *format, ...) {
    char words[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(words, sizeof words, format, ap);
    va_end(ap);
    Error e;
    if (!run_words(words, NULL, NULL, &e)) fail_msg("%s: %s", words, e.text);
}
static Shard open_shard(int i, int n) {
    Shard s;
    Error e;
    char *path = shard_path(prefix, i, n);
    if (!shard_open(path, &s, &e)) fail_msg("%s", e.text);
    free(path);
    return s;
}
static int64_t count_of(const Shard *s, const char *key) {
    const char *v = safetensors_metadata(s->file, key);
    assert_non_null(v);
    return atoll(v);
}

// a document of a shard as text, what is trained between [ and ]
static void expect_document(const Shard *s, int64_t d, const char *expected) {
    Buffer text = {NULL, 0, 0};
    assert_true(d < s->num_documents);
    for (int64_t i = s->documents[d], on = 0; i <= s->documents[d + 1]; i++) {
        int64_t now = i < s->documents[d + 1] && s->weights[i];
        if (now != on) buffer_add(&text, now ? "[" : "]", 1);
        on = now;
        if (i < s->documents[d + 1]) tokenizer_decode(llama, &s->tokens[i], 1, false, &text);
    }
    buffer_add(&text, "", 1);
    assert_string_equal(text.data, expected);
    buffer_free(&text);
}

#define H(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define U(text) "{\"role\":\"user\",\"content\":\"" text "\"}"
#define A(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"

static void only_answers_are_trained(void **state) {
    (void)state;
    put_text("{\"messages\":[" U("hello") "," A(" Yes. ") "," U("why?") "," A("So <|eot_id|>") "]}\n"
             "{\"conversations\":[{\"from\":\"human\",\"value\":\"hello\"},{\"from\":\"gpt\",\"value\":\"Yes.\"}],\"id\":7}\n"
             "{\"prompt\":\"hello\",\"completion\":\"Yes.\"}\n"
             "{\"prompt\":[" U("hello") "],\"completion\":[" A("Yes.") "]}\n"
             "{\"prompt\":[" U("hello") "," A("No.") "," U("why?") "],\"completion\":\"Yes.\"}\n");
    prepare_ok("--tokenizer %s --kind it --template llama3 --out %s %s", llama_path, prefix, input);
    Shard s = open_shard(1, 1);
    #define ONE "<|begin_of_text|>" H("user") "hello<|eot_id|>" H("assistant")
    assert_int_equal(s.num_documents, 5);
    expect_document(&s, 0, ONE "[Yes.<|eot_id|>]" H("user") "why?<|eot_id|>" H("assistant") "[So <|eot_id|><|eot_id|>]");
    for (int i = 1; i < 4; i++) expect_document(&s, i, ONE "[Yes.<|eot_id|>]");
    expect_document(&s, 4, ONE "No.<|eot_id|>" H("user") "why?<|eot_id|>" H("assistant") "[Yes.<|eot_id|>]");
    int eot = 0;   // the one spelled in the text is not the token
    for (int64_t i = 0; i < s.documents[1]; i++) eot += s.tokens[i] == tokenizer_find(llama, "<|eot_id|>");
    assert_int_equal(eot, 4);
    assert_int_equal(s.source_row[4], 5);
    assert_string_equal(s.template_name, "llama3");
    assert_string_equal(s.template_hash, chat_hash(TEMPLATE_LLAMA3));
    assert_string_equal(s.tokenizer, tokenizer_hash(llama));
    assert_int_equal(count_of(&s, "trained_tokens"), s.num_trained);
    shard_close(&s);
}

static void plain_prompt_and_completion(void **state) {
    (void)state;
    put_text("{\"question\":\"123 \",\"answer\":\"yn\"}\n");
    prepare_ok("--tokenizer %s --kind it --template none --fields prompt=question,completion=answer --out %s %s", llama_path, prefix, input);
    Shard s = open_shard(1, 1);
    const uint8_t expected[8] = {0, 0, 0, 0, 0, 1, 1, 1};   // answer = tokens 5..7
    assert_int_equal(s.num_tokens, 8);
    assert_memory_equal(s.weights, expected, 8);
    expect_document(&s, 0, "<|begin_of_text|>123 [yn<|end_of_text|>]");
    shard_close(&s);
}

static void texts_and_split(void **state) {
    (void)state;
    put_text("{\"text\":\"0123\"}\n{\"text\":\"qwertyuiopasdf\"}\n{\"text\":\"qwertyuiopasdfg\"}\n");   // with BOS, EOS: 6, 16, 17 tokens
    prepare_ok("--tokenizer %s --kind cpt --max-len 8 --out %s %s", llama_path, prefix, input);
    Shard s = open_shard(1, 1);
    assert_int_equal(s.num_documents, 6);
    expect_document(&s, 0, "<|begin_of_text|>[0123<|end_of_text|>]");
    expect_document(&s, 1, "<|begin_of_text|>[qwertyu]");
    expect_document(&s, 2, "i[opasdf<|end_of_text|>]");
    expect_document(&s, 3, "<|begin_of_text|>[qwertyu]");
    expect_document(&s, 4, "i[opasdf]");             // one short of 8, so that EOS is not alone in the next
    expect_document(&s, 5, "g[<|end_of_text|>]");
    assert_int_equal(count_of(&s, "rows_split"), 2);
    assert_int_equal(count_of(&s, "rows_kept"), 3);
    assert_int_equal(s.source_row[5], 3);
    shard_close(&s);
    prepare_ok("--tokenizer %s --kind cpt --max-len 8 --split-with-bos-eos --out %s %s", llama_path, prefix, input);
    s = open_shard(1, 1);
    assert_int_equal(s.num_documents, 1 + 3 + 3);
    expect_document(&s, 0, "<|begin_of_text|>[0123<|end_of_text|>]");
    expect_document(&s, 1, "<|begin_of_text|>[qwerty<|end_of_text|>]");
    expect_document(&s, 3, "<|begin_of_text|>[df<|end_of_text|>]");
    expect_document(&s, 6, "<|begin_of_text|>[dfg<|end_of_text|>]");
    shard_close(&s);
    // Qwen has no BOS, and ends texts with <|endoftext|>
    prepare_ok("--tokenizer %s --kind cpt --out %s %s", qwen_path, prefix, input);
    s = open_shard(1, 1);
    assert_int_equal(s.tokens[0], '0');
    assert_int_equal(s.num_tokens, 5 + 15 + 16);
    assert_int_equal(s.tokens[4], TINY_FIRST_SPECIAL);
    shard_close(&s);
}

static void pairs(void **state) {
    (void)state;
    put_text("{\"prompt\":\"Q\",\"chosen\":\"good\",\"rejected\":\"bad\"}\n"
             "{\"prompt\":\"Q\",\"chosen\":\"same\",\"rejected\":\" same\"}\n"
             "{\"prompt\":\"Q\",\"chosen\":\"good\",\"rejected\":\"bad, and much too long for what is allowed\"}\n"
             "{\"prompt\":[" U("Q") "],\"chosen\":[" A("good") "],\"rejected\":{\"from\":\"gpt\",\"value\":\"bad\"}}\n");
    prepare_ok("--tokenizer %s --kind pref --template llama3 --max-len 40 --out %s %s", llama_path, prefix, input);
    Shard s = open_shard(1, 1);
    assert_int_equal(s.num_documents, 2);
    for (int i = 0; i < 2; i++) {
        expect_document(&s, i, "<|begin_of_text|>" H("user") "Q<|eot_id|>" H("assistant") "[good<|eot_id|>bad<|eot_id|>]");
        assert_int_equal(s.rejected[i] - s.chosen[i], 5);
        assert_int_equal(s.documents[i + 1] - s.rejected[i], 4);
    }
    assert_int_equal(count_of(&s, "rows_dropped_same"), 1);
    assert_int_equal(count_of(&s, "rows_dropped_too_long"), 1);
    assert_int_equal(count_of(&s, "rows_read"), 4);
    shard_close(&s);
}

static void a_rejected_answer_that_was_cut_off_has_no_end(void **state) {
    (void)state;
    // "cut" is the field's name here; false, null and nothing are the same
    put_text("{\"prompt\":\"Q\",\"chosen\":\"good\",\"rejected\":\"good and good\",\"cut\":true}\n"
             "{\"prompt\":\"Q\",\"chosen\":\"good\",\"rejected\":\"good\",\"cut\":true}\n"
             "{\"prompt\":\"Q\",\"chosen\":\"good\",\"rejected\":\"bad\",\"cut\":false}\n"
             "{\"prompt\":\"Q\",\"chosen\":\"good\",\"rejected\":\"bad\",\"cut\":null}\n"
             "{\"prompt\":\"Q\",\"chosen\":\"good\",\"rejected\":\"bad\",\"open\":true}\n"
             "{\"prompt\":\"Q\",\"chosen\":\"good\",\"rejected\":[" A("bad") "," U("Q?") "," A("worse") "],\"cut\":true}\n");
    prepare_ok("--tokenizer %s --kind pref --template llama3 --fields open=cut --out %s %s", llama_path, prefix, input);
    Shard s = open_shard(1, 1);
    assert_int_equal(s.num_documents, 6);
    #define HEAD "<|begin_of_text|>" H("user") "Q<|eot_id|>" H("assistant")
    expect_document(&s, 0, HEAD "[good<|eot_id|>good and good]");
    expect_document(&s, 1, HEAD "[good<|eot_id|>good]");   // the same text, and yet a pair: one ends, the other does not
    for (int i = 2; i < 5; i++) expect_document(&s, i, HEAD "[good<|eot_id|>bad<|eot_id|>]");
    expect_document(&s, 5, HEAD "[good<|eot_id|>bad<|eot_id|>]" H("user") "Q?<|eot_id|>" H("assistant") "[worse]");
    shard_close(&s);
    put_text("{\"prompt\":\"Q\",\"chosen\":\"good\",\"rejected\":\"bad\",\"open\":true}\n");
    prepare_ok("--tokenizer %s --kind pref --template qwen2 --out %s %s", qwen_path, prefix, input);   // a template that writes something behind the end
    s = open_shard(1, 1);
    assert_int_equal(s.documents[1] - s.rejected[0], 3);
    assert_int_equal(s.rejected[0] - s.chosen[0], 4 + 2);
    shard_close(&s);
    prepare_ok("--tokenizer %s --kind pref --template none --out %s %s", llama_path, prefix, input);
    s = open_shard(1, 1);
    assert_int_equal(s.documents[1] - s.rejected[0], 3);
    assert_int_equal(s.rejected[0] - s.chosen[0], 4 + (tokenizer_eos(llama) >= 0));
    shard_close(&s);
}

static void dropped_and_counted(void **state) {
    (void)state;
    put_text("{\"prompt\":\"Q\",\"completion\":\"short\"}\n{\"prompt\":\"Q\",\"completion\":\"far too long to be kept\"}\n"
             "{\"messages\":[" U("why?") "]}\n\n  \n{\"prompt\":\"Q\"}\nnot json\n");
    Error e;
    char words[512];
    snprintf(words, sizeof words, "--tokenizer %s --kind it --template none --max-len 8 --out %s %s", llama_path, prefix, input);
    assert_false(run_words(words, NULL, NULL, &e));
    assert_non_null(strstr(e.text, "in.jsonl:6: \"completion\" is missing"));
    prepare_ok("%s --skip-bad-rows", words);
    Shard s = open_shard(1, 1);
    assert_int_equal(s.num_documents, 1);
    const struct { const char *key; int64_t value;
    } counts[] = {{"rows_read", 5},
                  {"rows_kept", 1},
                  {"rows_dropped", 4},
                  {"rows_dropped_too_long", 1},
                  {"rows_dropped_no_target", 1},
                  {"rows_dropped_malformed", 2},
                  {"lines_blank", 2},
                  {"rows_truncated", 0}};
    char *path = xprintf("%s.report.json", prefix);
    json_t *report = json_parse_file(path, 1 << 20, &e);
    assert_non_null(report);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        assert_int_equal(count_of(&s, counts[i].key), counts[i].value);
        assert_int_equal(json_integer_value(json_object_get(report, counts[i].key)), counts[i].value);
    }
    json_decref(report);
    free(path);
    shard_close(&s);
    put_text("{\"messages\":[" U("why?") "]}\n");
    assert_false(run_words(words, NULL, NULL, &e));
    assert_non_null(strstr(e.text, "no row was kept"));
}

static void any_line_ending(void **state) {
    (void)state;
    static const char text[] = "\xEF\xBB\xBF{\"text\":\"one\"}\r\n\r\n{\"text\":\"t\\u0000wo\"}\n\n{\"text\":\"three\"}";
    put(input, text, sizeof text - 1);
    prepare_ok("--tokenizer %s --kind cpt --out %s %s", llama_path, prefix, input);
    Shard s = open_shard(1, 1);
    assert_int_equal(s.num_documents, 3);
    assert_int_equal(s.documents[2] - s.documents[1], 2 + 4);
    assert_int_equal(s.tokens[s.documents[1] + 2], 0);
    assert_int_equal(s.source_row[2], 5);
    assert_int_equal(count_of(&s, "lines_blank"), 2);
    shard_close(&s);
    char txt[96];
    snprintf(txt, sizeof txt, "%s/a.txt", directory);
    put(txt, "\xEF\xBB\xBFone\r\ntwo\n", 12);
    prepare_ok("--tokenizer %s --kind cpt --out %s %s %s", llama_path, prefix, input, txt);
    s = open_shard(1, 1);
    expect_document(&s, 3, "<|begin_of_text|>[one\r\ntwo\n<|end_of_text|>]");
    assert_int_equal(s.source_file[3], 1);
    shard_close(&s);
    Reader r;
    Row rows[4];
    Error e;
    int64_t n = 0, blank = 0;
    put_text("\n\n{}\n[1,2,3,4]\n");
    assert_true(reader_open(&r, input, -1, false, &e));
    r.max_line = 8;
    assert_false(reader_next(&r, rows, 4, &n, &blank, &e));
    assert_non_null(strstr(e.text, "in.jsonl:4: the line is longer than 8 bytes"));
    reader_close(&r);
}

static void refused_with(const char *path, const char *kind, const char *text) {
    Error e;
    char words[512];
    snprintf(words, sizeof words, "--tokenizer %s --kind %s --template llama3 --dry-run %s", llama_path, kind, path);
    if (run_words(words, NULL, NULL, &e)) fail_msg("accepted, expected: %s", text);
    if (!strstr(e.text, text) || strchr(e.text, '\n')) fail_msg("expected \"%s\": %s", text, e.text);
}
static void what_is_no_utf8_is_named(void **state) {
    (void)state;
    char txt[96];
    snprintf(txt, sizeof txt, "%s/b.txt", directory);
    static const struct { const char *bytes; size_t n; const char *text; } cases[] = {
        {"\xFF\xFEo\0n\0", 6, "b.txt: is not UTF-8 (byte 0xff at 0; looks like UTF-16) ---> iconv -f UTF-16 -t UTF-8"},
        {"o\0n\0e\0", 6, "(byte 0x00 at 1; looks like UTF-16) ---> iconv -f UTF-16LE -t UTF-8"},
        {"\0o\0n\0e", 6, "(byte 0x00 at 0; looks like UTF-16) ---> iconv -f UTF-16BE -t UTF-8"},
        {"caf\xE9 au lait", 12, "(byte 0xe9 at 3; looks like an older encoding) ---> iconv -f WINDOWS-1252"},
        {"%PDF-1.4\n%\xE2\xE3\xCF\xD3", 14, "it is a PDF) ---> pdftotext"},
        {"text\0text, and more of it", 25, "(byte 0x00 at 4; looks binary)"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) { put(txt, cases[i].bytes, (int64_t)cases[i].n); refused_with(txt, "cpt", cases[i].text); }
    // JSONL: its encoding, its shape, the names of its fields
    put(input, "\xFF\xFE{\0}\0\n\0", 8);       refused_with(input, "it", "looks like UTF-16 ---> iconv");
    put_text("[\n{\"prompt\":\"x\"}\n]\n");   refused_with(input, "it", "in.jsonl:1: row: not valid JSON at column 1: ");
                                               refused_with(input, "it", "jq -c '.[]'");
    put_text("{\n\"prompt\":\"x\"}\n");        refused_with(input, "it", "jq -c .");
    put_text("[{\"prompt\":\"x\"}]\n");         refused_with(input, "it", "jq -c '.[]'");
    put_text("{\"instruction\":\"x\",\"input\":\"\",\"output\":\"y\"}\n");
    refused_with(input, "it", "found \"instruction\", \"input\", \"output\" ---> name them with --fields");
    put_text("{}\n");                          refused_with(input, "cpt", "found no key --->");
    put_text("{\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1,\"g\":1,\"h\":1,\"i\":1,\"j\":1}\n"); refused_with(input, "pref", "\"h\", ... --->");
}

static Hash hash_of_output(int n) {   // of all shards, and of their order
    Buffer all = {NULL, 0, 0};
    for (int i = 1; i <= n; i++) {
        Hash h;
        Error e;
        char *path = shard_path(prefix, i, n);
        if (!hash_file(path, &h, &e)) fail_msg("%s", e.text);
        buffer_add(&all, h.hex, 32);
        free(path);
    }
    Hash h = hash_bytes(all.data, all.len);
    buffer_free(&all);
    return h;
}

static void same_bytes_for_any_threads(void **state) {
    (void)state;
    Buffer b = {NULL, 0, 0};
    for (uint64_t i = 0; i < 2000; i++) {
        buffer_add(&b, "{\"text\":\"", 9);
        for (uint64_t k = 0, n = 1 + random_below(1, i, 0, 200); k < n; k++) {
            char c = (char)('a' + random_below(2, i, k, 26));
            buffer_add(&b, &c, 1);
        }
        buffer_add(&b, "\"}\n", 3);
    }
    put(input, b.data, b.len);
    buffer_free(&b);
    Hash first = {""};
    for (int threads = 1; threads <= 5; threads += 2) {
        prepare_ok("--tokenizer %s --kind cpt --max-len 64 --shard-tokens 60000 --threads %d --out %s %s", llama_path, threads, prefix, input);
        Hash h = hash_of_output(4);
        if (threads == 1) first = h;
        assert_string_equal(h.hex, first.hex);
    }
    // the whole set is found, an incomplete one refused, and another number of shards leaves nothing behind
    const char *word = prefix;
    StringList words = {&word, 1}, paths;
    Error e;
    assert_true(shard_list(&words, &paths, &e));
    assert_int_equal(paths.n, 4);
    int64_t rows = 0;
    for (int i = 0; i < 4; i++) {
        Shard s;
        assert_true(shard_open(paths.items[i], &s, &e));
        assert_true(s.num_tokens <= 60000);
        rows += s.num_documents;
        if (i == 3) assert_int_equal(rows, count_of(&s, "documents"));
        shard_close(&s);
    }
    unlink(paths.items[2]);
    shard_list_free(&paths);
    assert_false(shard_list(&words, &paths, &e));
    assert_non_null(strstr(e.text, "shard 3 of 4 is missing"));
    shard_list_free(&paths);
    prepare_ok("--tokenizer %s --kind cpt --out %s %s", llama_path, prefix, input);
    assert_true(shard_list(&words, &paths, &e));
    assert_int_equal(paths.n, 1);
    shard_list_free(&paths);
    // a set of which one shard is from another run
    prepare_ok("--tokenizer %s --kind cpt --shard-tokens 150000 --out %s %s", llama_path, prefix, input);
    char *second = shard_path(prefix, 2, 2), *kept = xprintf("%s.kept", prefix);
    assert_int_equal(rename(second, kept), 0);
    prepare_ok("--tokenizer %s --kind cpt --shard-tokens 150001 --out %s %s", llama_path, prefix, input);
    assert_int_equal(rename(kept, second), 0);
    assert_false(shard_list(&words, &paths, &e));
    assert_non_null(strstr(e.text, "another set"));
    shard_list_free(&paths);
    unlink(second);
    free(second);
    free(kept);
}

static void hostile_rows(void **state) {
    (void)state;
    static const char *const it[] = {"{",
                                     "[]",
                                     "\"text\"",
                                     "17",
                                     "null",
                                     "{\"text\":\"x\"}",
                                     "{\"messages\":[]}",
                                     "{\"messages\":{}}",
                                     "{\"messages\":\"x\"}",
                                     "{\"messages\":[1]}",
                                     "{\"messages\":[{\"role\":\"user\"}]}",
                                     "{\"messages\":[{\"content\":\"x\"}]}",
                                     "{\"messages\":[{\"role\":1,\"content\":\"x\"}]}",
                                     "{\"messages\":[{\"role\":\"user\",\"content\":7}]}",
                                     "{\"messages\":[{\"role\":\"user\",\"content\":null}]}",
                                     "{\"messages\":[{\"role\":\"wizard\",\"content\":\"x\"}]}",
                                     "{\"messages\":[{\"role\":\"user\\u0000\",\"content\":\"x\"}]}",
                                     "{\"messages\":[" U("") "," A("x") "]}",
                                     "{\"messages\":[" U("x") "," A(" \\n") "]}",
                                     "{\"messages\":[" A("x") "]}",
                                     "{\"messages\":[{\"role\":\"system\",\"content\":\"x\"}]}",
                                     "{\"conversations\":[{\"from\":\"bot\",\"value\":\"x\"}]}",
                                     "{\"prompt\":\"x\",\"completion\":\"\"}",
                                     "{\"prompt\":\"\",\"completion\":\"x\"}",
                                     "{\"prompt\":\"x\",\"completion\":3}",
                                     "{\"prompt\":[],\"completion\":\"x\"}",
                                     "{\"prompt\":\"x\",\"completion\":[" U("x") "," A("y") "]}",
                                     "{\"prompt\":\"x\",\"prompt\":\"y\",\"completion\":\"z\"}",
                                     "{\"prompt\":\"\\ud800\",\"completion\":\"x\"}",
                                     "{\"prompt\":\"x\",\"completion\":\"y\",\"z\":1e999}",
                                     "{\"prompt\":\"\xFF\",\"completion\":\"x\"}",
                                     "{\"prompt\":\"x\",\"completion\":\"y\"} {}",
                                     "{\"a\":\"\x01\"}"};
    static const char *const pref[] = {"{\"prompt\":\"x\",\"chosen\":\"y\"}", "{\"prompt\":\"x\",\"rejected\":\"y\"}",
                                       "{\"prompt\":\"x\",\"chosen\":\"y\",\"rejected\":\"z\",\"open\":1}",
                                       "{\"chosen\":\"x\",\"rejected\":\"y\"}", "{\"prompt\":\"x\",\"chosen\":\"\",\"rejected\":\"y\"}",
                                       "{\"prompt\":\"x\",\"chosen\":[" U("x") "," A("y") "],\"rejected\":[" A("z") "]}"};
    static const char *const cpt[] = {"{\"text\":\"\"}", "{\"text\":1}", "{\"text\":[\"x\"]}", "{\"content\":\"x\"}", "{\"text\":null}"};
    const struct { const char *kind; const char *const *rows; size_t n; } lists[] = {
        {"it", it, sizeof it / sizeof *it}, {"pref", pref, sizeof pref / sizeof *pref}, {"cpt", cpt, sizeof cpt / sizeof *cpt}};
    Error e;
    char words[512];
    for (size_t k = 0; k < 3; k++) for (size_t i = 0; i < lists[k].n; i++) {
        put_text(lists[k].rows[i]);
        snprintf(words, sizeof words, "--tokenizer %s --kind %s --template llama3 --out %s %s", llama_path, lists[k].kind, prefix, input);
        if (run_words(words, NULL, NULL, &e)) fail_msg("accepted: %s", lists[k].rows[i]);
        if (!strstr(e.text, "in.jsonl:1: ") || strchr(e.text, '\n')) fail_msg("%s: %s", lists[k].rows[i], e.text);
    }
    Buffer deep = {NULL, 0, 0};   // a depth bomb, and a NUL outside of a string
    for (int i = 0; i < 100000; i++) buffer_add(&deep, "[", 1);
    put(input, deep.data, deep.len);
    assert_false(run_words(words, NULL, NULL, &e));
    buffer_free(&deep);
    put(input, "{\"text\":\0\"x\"}", 13);
    assert_false(run_words(words, NULL, NULL, &e));
}

// a small valid shard with one thing wrong
typedef struct {
    int64_t documents[3], rows[2], chosen[2], rejected[2];
    int32_t tokens[9], files[2];
    uint8_t weights[9];
    const char *kind, *format, *vocab, *max_len, *inputs;
    int skip;
    int64_t num_tokens;
} Parts;

static void put_parts(const char *path, const Parts *p, bool pref) {
    Error e;
    SafetensorsWriter *w = safetensors_writer_new(path);
    safetensors_writer_metadata(w, "format", p->format);
    safetensors_writer_metadata(w, "kind", p->kind);
    safetensors_writer_metadata(w, "vocab_size", p->vocab);
    safetensors_writer_metadata(w, "max_len", p->max_len);
    safetensors_writer_metadata(w, "inputs", p->inputs);
    static const char *const texts[] = {"tokenizer", "template", "template_hash", "input_hash", "set"};
    for (int i = 0; i < 5; i++) if (p->skip != 10 + i) safetensors_writer_metadata(w, texts[i], "x");
    const struct { const char *name; Dtype dtype; int64_t n; const void *data;
    } all[] = {
        {"documents", DTYPE_I64, 3, p->documents}, {"source_row", DTYPE_I64, 2, p->rows},           {"chosen", DTYPE_I64, 2, p->chosen},
        {"rejected", DTYPE_I64, 2, p->rejected},   {"tokens", DTYPE_I32, p->num_tokens, p->tokens}, {"source_file", DTYPE_I32, 2, p->files},
        {"weights", DTYPE_U8, 9, p->weights}};
    for (int i = 0; i < 7; i++) if ((pref || i < 2 || i > 3) && i != p->skip) safetensors_writer_tensor(w, all[i].name, all[i].dtype, 1, &all[i].n);
    bool ok = safetensors_writer_begin(w, &e);
    for (int i = 0; i < 7 && ok; i++)
        if ((pref || i < 2 || i > 3) && i != p->skip) ok = safetensors_writer_data(w, all[i].data, all[i].n * dtype_size(all[i].dtype), &e);
    if (!ok || !safetensors_writer_commit(w, &e)) fail_msg("%s", e.text);
}

static void hostile_shards(void **state) {
    (void)state;
    const Parts good = {{0, 5, 9},
                        {1, 2},
                        {2, 6},
                        {3, 8},
                        {1, 2, 3, 4, 5, 6, 7, 8, 9},
                        {0, 0},
                        {0, 1, 1, 1, 1, 0, 1, 1, 1},
                        "pref",
                        "findap-shard-1",
                        "10",
                        "5",
                        "[\"a\"]",
                        -1,
                        9};
    char path[96];
    snprintf(path, sizeof path, "%s/bad.safetensors", directory);
    for (int i = 0; i <= 40; i++) {
        Parts p = good;
        switch (i) {
            case 1: p.documents[0] = 1; break;
            case 2: p.documents[1] = 0; break;
            case 3: p.documents[1] = 10; break;
            case 4: p.documents[2] = 8; break;
            case 5: p.documents[2] = INT64_MAX; break;
            case 6: p.documents[1] = INT64_MIN; break;
            case 7: p.rows[1] = 0; break;
            case 8: p.files[0] = 1; break;
            case 9: p.files[1] = -1; break;
            case 10: p.chosen[0] = 0; break;
            case 11: p.chosen[1] = INT64_MIN; break;
            case 12: p.rejected[0] = 2; break;
            case 13: p.rejected[1] = 9; break;
            case 14: p.rejected[1] = INT64_MAX; break;
            case 15: p.tokens[3] = 10; break;
            case 16: p.tokens[8] = -1; break;
            case 17: p.weights[4] = 2; break;
            case 18: p.weights[5] = 1; break;
            case 19: p.kind = "sft"; break;
            case 20: p.format = "findap-shard-2"; break;
            case 21: p.vocab = "0"; break;
            case 22: p.vocab = "9999999999999999999999"; break;
            case 23: p.vocab = "10x"; break;
            case 24: p.max_len = "2"; break;
            case 25: p.max_len = "-5"; break;
            case 26: p.inputs = "[]"; break;
            case 27: p.inputs = "{"; break;
            case 28: p.num_tokens = 8; break;
            default: if (i >= 29 && i <= 40) p.skip = i - 29 < 7 ? i - 29 : i - 29 + 3; break;   // a tensor or a text is missing
        }
        put_parts(path, &p, true);
        Shard s;
        Error e;
        e.text[0] = 0;
        bool ok = shard_open(path, &s, &e);
        if (ok != (i == 0)) fail_msg("case %d: %s", i, ok ? "accepted" : e.text);
        if (ok) { assert_int_equal(s.num_trained, 7); shard_close(&s); }
        else { assert_true(e.text[0] != 0); assert_null(strchr(e.text, '\n')); assert_non_null(strstr(e.text, "bad.safetensors")); }
    }
    Shard s;
    Error e;
    put(path, "x", 1);
    assert_false(shard_open(path, &s, &e));
    assert_false(shard_open(directory, &s, &e));
}

static void encode_and_decode(void **state) {
    (void)state;
    char words[256], *ids = NULL, *text = NULL;
    Error e;
    snprintf(words, sizeof words, "--encode --tokenizer %s", llama_path);
    assert_true(run_words(words, "{\"text\":\"hell\"}\n\"a \\\"b\\\\\\u0000\\u00e9\\n<|eot_id|>\"\n\"\"", &ids, &e));
    assert_int_equal(strncmp(ids, "[257,258]\n[97,32,34,98,92,0,195,169,10,", 39), 0);
    char *last = strstr(ids, "[]\n");
    assert_non_null(last);
    snprintf(words, sizeof words, "--decode --tokenizer %s", llama_path);
    assert_true(run_words(words, ids, &text, &e));
    assert_string_equal(text, "\"hell\"\n\"a \\\"b\\\\\\u0000\xC3\xA9\\n<|eot_id|>\"\n\"\"\n");
    free(ids);
    free(text);
    assert_true(run_words(words, "[195,40,240,159,152,65,237,160,128]", &text, &e));   // bytes that are not UTF-8
    assert_string_equal(text, "\"\xEF\xBF\xBD(\xEF\xBF\xBD" "A\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"\n");
    free(text);
    snprintf(words, sizeof words, "--encode --parse-special --tokenizer %s", llama_path);
    assert_true(run_words(words, "\"<|eot_id|>\"", &ids, &e));
    char expected[32];
    snprintf(expected, sizeof expected, "[%d]\n", tokenizer_find(llama, "<|eot_id|>"));
    assert_string_equal(ids, expected);
    free(ids);
    static const char *const bad[] = {"7", "{\"text\":7}", "[\"a\"", "{}"};
    snprintf(words, sizeof words, "--encode --tokenizer %s", llama_path);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(run_words(words, bad[i], NULL, &e));
    static const char *const bad_ids[] = {"7", "[-1]", "[99999]", "[1.5]", "[\"a\"]", "[9999999999]", "[[1]]"};
    snprintf(words, sizeof words, "--decode --tokenizer %s", llama_path);
    for (size_t i = 0; i < sizeof bad_ids / sizeof *bad_ids; i++) assert_false(run_words(words, bad_ids[i], NULL, &e));
    assert_non_null(strstr(e.text, "standard input:1: "));
}

static void flags(void **state) {
    (void)state;
    Error e;
    char words[512];
    put_text("{\"text\":\"x\"}\n");
    static const char *const bad[] = {"",
                                      "--kind cpt",
                                      "--kind sft --out P I",
                                      "--kind cpt I",
                                      "--kind cpt --out P",
                                      "--kind cpt --out P --frobnicate I",
                                      "--kind cpt --out P --parse-special I",
                                      "--kind it --split-with-bos-eos --out P I",
                                      "--encode --decode",
                                      "--encode --kind cpt",
                                      "--decode --parse-special",
                                      "--kind cpt --out P --max-len 1 I",
                                      "--kind cpt --out P --template vicuna I",
                                      "--kind cpt --out P --fields text I",
                                      "--kind cpt --out P --fields title=x I",
                                      "--kind cpt --out P /nonexistent",
                                      "--kind cpt --out P /tmp",
                                      "--kind cpt --out /tmp I",
                                      "--kind cpt --out /dev/null/x I"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Buffer b = {NULL, 0, 0};
        for (const char *p = bad[i]; *p; p++) {
            bool word = (p == bad[i] || p[-1] == ' ') && (p[1] == 0 || p[1] == ' ');
            const char *value = word && *p == 'P' ? prefix : word && *p == 'I' ? input : NULL;
            buffer_add(&b, value ? value : p, value ? (int64_t)strlen(value) : 1);
        }
        buffer_add(&b, "", 1);
        snprintf(words, sizeof words, "--tokenizer %s %s", llama_path, b.data);
        if (run_words(words, NULL, NULL, &e)) fail_msg("accepted: %s", words);
        assert_true(e.text[0] != 0);
        buffer_free(&b);
    }
    assert_false(run_words("", NULL, NULL, &e));
    // --dry-run writes nothing, --show prints
    char *out = NULL, *path = shard_path(prefix, 1, 1);
    unlink(path);
    snprintf(words, sizeof words, "--tokenizer %s --kind cpt --dry-run --show 1 --out %s %s", llama_path, prefix, input);
    assert_true(run_words(words, NULL, &out, &e));
    assert_false(file_exists(path));
    assert_non_null(strstr(out, "<|begin_of_text|>[[x<|end_of_text|>]]"));
    free(path);
    free(out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(only_answers_are_trained),
                                       cmocka_unit_test(plain_prompt_and_completion),
                                       cmocka_unit_test(texts_and_split),
                                       cmocka_unit_test(pairs), cmocka_unit_test(a_rejected_answer_that_was_cut_off_has_no_end),
                                       cmocka_unit_test(dropped_and_counted),
                                       cmocka_unit_test(any_line_ending), cmocka_unit_test(what_is_no_utf8_is_named),
                                       cmocka_unit_test(same_bytes_for_any_threads),
                                       cmocka_unit_test(hostile_rows),
                                       cmocka_unit_test(hostile_shards),
                                       cmocka_unit_test(encode_and_decode),
                                       cmocka_unit_test(flags)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
