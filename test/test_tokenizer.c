// test_tokenizer.c: the tokenizer against ids that Hugging Face made (test/data/tokenizer_golden.json, written by
// dev/tokenizer_check.py --golden), against a table of hard splits, and against hostile files.
#include "findap/tokenizer.h"
#include "check.h"   // defines: cmocka's assertions, fail_msg

#define QWEN_REGEX   "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3_REGEX "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

// a tokenizer.json as an object that a test may damage: the 256 bytes, "aa" "aaaa" "ab" "abab", three added tokens
static json_t *small_tokenizer(const char *regex, bool pairs) {
    json_t *vocab = json_object(), *merges = json_array();
    static const char *const halves[][2] = {{"a", "a"}, {"aa", "aa"}, {"a", "b"}, {"ab", "ab"}};
    int id = 0;
    for (int b = 0; b < 256; b++) {
        int c = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? b : b < 33 ? 256 + b : b == 173 ? 323 : 289 + b - 127;
        utf8proc_uint8_t key[5] = {0};
        utf8proc_encode_char(c, key);
        json_object_set_new(vocab, (const char *)key, json_integer(id++));
    }
    for (int i = 0; i < 4; i++) {
        char whole[16];
        snprintf(whole, sizeof whole, "%s%s", halves[i][0], halves[i][1]);
        json_object_set_new(vocab, whole, json_integer(id++));
        json_array_append_new(merges, pairs ? json_pack("[ss]", halves[i][0], halves[i][1]) : json_sprintf("%s %s", halves[i][0], halves[i][1]));
    }
    json_t *added = json_pack("[{s:i,s:s,s:b,s:b},{s:i,s:s,s:b,s:b},{s:i,s:s,s:b,s:b}]",
        "id", 260, "content", "<|eot|>", "special", 1, "normalized", 0, "id", 261, "content", "<|eot|><|x|>", "special", 1, "normalized", 0,
        "id", 262, "content", "<think>", "special", 0, "normalized", 0);
    return json_pack("{s:o,s:n,s:{s:s,s:[{s:s,s:{s:s},s:s,s:b},{s:s,s:b,s:b}]},s:{s:s},s:{s:s,s:b,s:o,s:o}}", "added_tokens", added, "normalizer",
        "pre_tokenizer", "type", "Sequence", "pretokenizers", "type", "Split", "pattern", "Regex", regex, "behavior", "Isolated", "invert", 0,
        "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0, "decoder", "type", "ByteLevel",
        "model", "type", "BPE", "ignore_merges", 0, "vocab", vocab, "merges", merges);
}

static Tokenizer *parse(json_t *j, Error *e) {   // takes j
    char *text = json_dumps(j, JSON_COMPACT);
    e->text[0] = 0;
    Tokenizer *t = tokenizer_parse("test.json", text, (int64_t)strlen(text), e);
    free(text);
    json_decref(j);
    return t;
}

static Tokenizer *parse_good(json_t *j) {
    Error e;
    Tokenizer *t = parse(j, &e);
    if (!t) fail_msg("%s", e.text);
    return t;
}

static void assert_refused(json_t *j, const char *expected) {
    Error e;
    Tokenizer *t = parse(j, &e);
    if (t) fail_msg("was accepted, expected an error with \"%s\"", expected);
    if (!strstr(e.text, expected) || strchr(e.text, '\n')) fail_msg("error is \"%s\", expected \"%s\"", e.text, expected);
}

static void test_golden(void **state) {
    (void)state;
    Error e;
    json_t *golden = json_parse_file("test/data/tokenizer_golden.json", 1 << 20, &e);
    if (!golden) fail_msg("%s", e.text);
    json_t *texts = json_object_get(golden, "texts"), *item;
    size_t k;
    assert_true(json_array_size(json_object_get(golden, "tokenizers")) == 2);
    json_array_foreach(json_object_get(golden, "tokenizers"), k, item) {
        Tokenizer *t = parse_good(json_incref(json_object_get(item, "tokenizer")));
        assert_int_equal(json_array_size(texts), json_array_size(json_object_get(item, "ids")));
        for (size_t i = 0; i < json_array_size(texts); i++) {
            json_t *text = json_array_get(texts, i), *expected = json_array_get(json_object_get(item, "ids"), i);
            Ids ids = {NULL, 0, 0};
            for (int again = 0; again < 2; again++) {   // the second time from the cache
                ids.len = 0;
                tokenizer_encode(t, json_string_value(text), (int64_t)json_string_length(text), true, &ids);
                assert_int_equal(ids.len, json_array_size(expected));
                for (int64_t n = 0; n < ids.len; n++) assert_int_equal(ids.data[n], json_integer_value(json_array_get(expected, (size_t)n)));
            }
            ids_free(&ids);
        }
        tokenizer_free(t);
    }
    json_decref(golden);
}

static void test_splits(void **state) {
    (void)state;
    static const char *const cases[][3] = {   // text, words of Llama-3, words of Qwen2 (NULL: the same), separated by '|'
        {"Hello world", "Hello| world", NULL}, {"  two", " | two", NULL}, {"end  ", "end|  ", NULL}, {"a\n\n b", "a|\n\n| b", NULL},
        {"a \n \n  b", "a| \n \n| | b", NULL}, {"\t\tx", "\t|\tx", NULL}, {"it's IT'S we'Ll", "it|'s| IT|'S| we|'Ll", NULL},
        {"x'\xC5\xBFy", "x|'\xC5\xBF|y", NULL}, {"'tis 'x 'rex", "'t|is| '|x| '|rex", NULL}, {"12345", "123|45", "1|2|3|4|5"},
        {" 12", " |12", " |1|2"}, {"$1,234.50", "$|1|,|234|.|50", "$|1|,|2|3|4|.|5|0"}, {"a--b !!\r\n\r\nc", "a|--|b| !!\r\n\r\n|c", NULL},
        {"\xC2\xA0x \xC2\xA0y", "\xC2\xA0x| |\xC2\xA0y", NULL}, {"e\xCC\x81", "e|\xCC\x81", NULL}, {" \xE2\x82\xAC\xE2\x82\xAC""5", " \xE2\x82\xAC\xE2\x82\xAC|5", NULL},
        {"\xE4\xB8\xAD\xE5\x9B\xBD\xE3\x80\x82x", "\xE4\xB8\xAD\xE5\x9B\xBD|\xE3\x80\x82x", NULL}, {"\xE2\x80\xA8 x", "\xE2\x80\xA8| x", NULL}, {"'", "'", NULL}, {"\r", "\r", NULL},
    };
    uint8_t *classes = unicode_classes(false);
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) for (int family = 0; family < 2; family++) {
        const uint8_t *s = (const uint8_t *)cases[k][0];
        int64_t n = (int64_t)strlen(cases[k][0]);
        char got[256] = "";
        for (int64_t i = 0, end; i < n; i = end) {
            end = word_end(classes, family ? 1 : 3, s, i, n);
            snprintf(got + strlen(got), sizeof got - strlen(got), "%s%.*s", i ? "|" : "", (int)(end - i), s + i);
        }
        assert_string_equal(got, family && cases[k][2] ? cases[k][2] : cases[k][1]);
    }
    free(classes);
}

static void test_round_trip(void **state) {
    (void)state;
    Tokenizer *t = parse_good(small_tokenizer(LLAMA3_REGEX, false));
    for (uint64_t k = 0; k < 3000; k++) {
        Buffer text = {NULL, 0, 0}, decoded = {NULL, 0, 0}, repaired = {NULL, 0, 0};
        Ids ids = {NULL, 0, 0};
        bool valid = k % 2 == 0;
        for (uint64_t i = 0, n = random_below(1, k, 0, 100); i < n; i++) {
            uint64_t r = random_u64(2, k, i);
            utf8proc_uint8_t c[4] = {(uint8_t)(r >> 40)};
            utf8proc_int32_t point = (utf8proc_int32_t)(r % (i % 3 == 0 ? 0x110000 : i % 3 == 1 ? 0x80 : 0x3000));
            if (point >= 0xD800 && point < 0xE000) point = 'a';
            buffer_add(&text, c, valid ? utf8proc_encode_char(point, c) : 1);
        }
        tokenizer_encode(t, text.data, text.len, k % 3 == 0, &ids);
        tokenizer_decode(t, ids.data, ids.len, false, &decoded);
        utf8_repair((const uint8_t *)text.data, text.len, &repaired);
        if (valid) { assert_int_equal(repaired.len, text.len); if (text.len) assert_memory_equal(repaired.data, text.data, (size_t)text.len); }
        assert_int_equal(decoded.len, repaired.len);
        if (repaired.len) assert_memory_equal(decoded.data, repaired.data, (size_t)repaired.len);
        buffer_free(&text); buffer_free(&decoded); buffer_free(&repaired); ids_free(&ids);
    }
    Buffer out = {NULL, 0, 0};
    int32_t outside[] = {-1, 97, 1 << 30, 260, 98};
    tokenizer_decode(t, outside, 5, true, &out);
    assert_int_equal(out.len, 2);
    assert_memory_equal(out.data, "ab", 2);
    buffer_free(&out);
    tokenizer_free(t);
}

static void test_invalid_utf8(void **state) {   // as bytes.decode("utf-8", "replace"): one U+FFFD per maximal subpart
    (void)state;
    static const struct { const char *in, *out; } cases[] = {
        {"a\xFFz", "a?z"}, {"\xE2\x82", "?"}, {"\xE2\x28\xA1", "?(?"}, {"\xF0\x9F\x98", "?"}, {"\xF0\x9Fx", "?x"}, {"\xED\xA0\x80", "???"}, {"\xC0\xAF", "??"},
        {"\xF4\x90\x80\x80", "????"}, {"\xE0\x80\x80", "???"}, {"\xF5\x80", "??"}, {"\xC3", "?"}, {"\xE4\xB8\xAD\xE4\xB8", "\xE4\xB8\xAD?"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Buffer got = {NULL, 0, 0}, want = {NULL, 0, 0};
        utf8_repair((const uint8_t *)cases[i].in, (int64_t)strlen(cases[i].in), &got);
        for (const char *s = cases[i].out; *s; s++) buffer_add(&want, *s == '?' ? "\xEF\xBF\xBD" : s, *s == '?' ? 3 : 1);
        assert_int_equal(got.len, want.len);
        assert_memory_equal(got.data, want.data, (size_t)got.len);
        buffer_free(&got); buffer_free(&want);
    }
}

static void assert_ids(const Tokenizer *t, const char *text, bool parse_special, int n, const int32_t *expected) {
    Ids ids = {NULL, 0, 0};
    tokenizer_encode(t, text, (int64_t)strlen(text), parse_special, &ids);
    assert_int_equal(ids.len, n);
    assert_memory_equal(ids.data, expected, (size_t)n * 4);
    ids_free(&ids);
}

static void test_special_tokens(void **state) {
    (void)state;
    Tokenizer *t = parse_good(small_tokenizer(QWEN_REGEX, false));
    const int32_t parsed[] = {256, 260, 'x', 261, 262}, plain[] = {'<', '|', 'e', 'o', 't', '|', '>'};
    assert_ids(t, "aa<|eot|>x<|eot|><|x|><think>", true, 5, parsed);   // the longest of two that begin at one place
    assert_ids(t, "<|eot|>", false, 7, plain);                        // text that spells a special token is text
    assert_int_equal(tokenizer_find(t, "<|eot|>"), 260);
    assert_int_equal(tokenizer_find(t, "aa"), -1);
    assert_int_equal(tokenizer_vocab_size(t), 263);
    assert_int_equal(tokenizer_bos(t), -1);
    assert_int_equal(strlen(tokenizer_hash(t)), 32);
    Buffer out = {NULL, 0, 0};
    tokenizer_decode(t, parsed, 5, true, &out);
    assert_int_equal(out.len, 10);   // <think> is added but not special: it stays
    assert_memory_equal(out.data, "aax<think>", 10);
    buffer_free(&out);
    tokenizer_free(t);
}

static void test_merge_forms(void **state) {
    (void)state;
    Tokenizer *strings = parse_good(small_tokenizer(LLAMA3_REGEX, false)), *pairs = parse_good(small_tokenizer(LLAMA3_REGEX, true));
    const int32_t expected[] = {257, 258, 259, 'c'};   // aaaa ab abab c
    const int32_t odd[] = {256, 'a', 'c'};
    for (int k = 0; k < 2; k++) {
        assert_ids(k ? pairs : strings, "aaaa ab", true, 3, (const int32_t[]){257, ' ', 258});
        assert_ids(k ? pairs : strings, "aaac", true, 3, odd);
        assert_ids(k ? pairs : strings, "ababc", true, 2, expected + 2);
    }
    tokenizer_free(strings); tokenizer_free(pairs);
}

static void test_long_word(void **state) {   // the heap against the scan, then 5 MB: a quadratic merge would take hours
    (void)state;
    Tokenizer *t = parse_good(small_tokenizer(LLAMA3_REGEX, false));
    Workspace *w = workspace_take(t);
    for (uint64_t k = 0; k < 2000; k++) {
        uint8_t word[SHORT_WORD];
        int n = 1 + (int)random_below(3, k, 100, SHORT_WORD);
        for (int i = 0; i < n; i++) word[i] = (uint8_t)('a' + random_below(3, k, (uint64_t)i, 2));
        Ids a = {NULL, 0, 0}, b = {NULL, 0, 0};
        merge_short(t, word, n, &a);
        merge_long(t, w, word, n, &b);
        assert_int_equal(a.len, b.len);
        assert_memory_equal(a.data, b.data, (size_t)a.len * 4);
        ids_free(&a); ids_free(&b);
    }
    workspace_give_back(t, w);
    int64_t n = 5000000;
    char *text = (char *)xmalloc(n);
    memset(text, 'a', (size_t)n);
    Ids ids = {NULL, 0, 0};
    double start = seconds_now();
    tokenizer_encode(t, text, n, true, &ids);
    assert_int_equal(ids.len, n / 4);
    for (int64_t i = 0; i < n; i++) text[i] = i % 2 ? ' ' : '\n';
    tokenizer_encode(t, text, n, true, &ids);
    assert_true(seconds_now() - start < 60);
    ids_free(&ids);
    free(text);
    tokenizer_free(t);
}

static void test_long_marks(void **state) {   // NFC sorts a run of marks: 1 M of them in the worst order
    (void)state;
    json_t *j = small_tokenizer(QWEN_REGEX, false);
    json_object_set_new(j, "normalizer", json_pack("{s:s}", "type", "NFC"));
    Tokenizer *t = parse_good(j);
    Buffer text = {NULL, 0, 0}, out = {NULL, 0, 0};
    Ids ids = {NULL, 0, 0};
    buffer_add(&text, "q", 1);
    for (int i = 0; i < 1000000; i++) buffer_add(&text, i % 2 ? "\xCC\xA3" : "\xCC\x87", 2);   // U+0307 above, U+0323 below
    double start = seconds_now();
    tokenizer_encode(t, text.data, text.len, true, &ids);
    assert_true(seconds_now() - start < 60);
    tokenizer_decode(t, ids.data, ids.len, false, &out);
    assert_int_equal(out.len, text.len);
    assert_memory_equal(out.data, "q\xCC\xA3\xCC\xA3", 5);   // all marks below come first
    buffer_free(&text); buffer_free(&out); ids_free(&ids);
    tokenizer_free(t);
}

typedef struct { const Tokenizer *t; const Buffer *text; Ids ids; } ThreadWork;
static void *encode_thread(void *p) {
    ThreadWork *work = (ThreadWork *)p;
    for (int i = 0; i < 20; i++) { work->ids.len = 0; tokenizer_encode(work->t, work->text->data, work->text->len, true, &work->ids); }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    Tokenizer *t = parse_good(small_tokenizer(LLAMA3_REGEX, false));
    Buffer text = {NULL, 0, 0};
    for (uint64_t i = 0; i < 20000; i++) { char c = "ab aabb\n1"[random_below(4, 0, i, 9)]; buffer_add(&text, &c, 1); }
    ThreadWork work[8];
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) { work[i] = (ThreadWork){t, &text, {NULL, 0, 0}}; assert_int_equal(pthread_create(&threads[i], NULL, encode_thread, &work[i]), 0); }
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    for (int i = 1; i < 8; i++) { assert_int_equal(work[i].ids.len, work[0].ids.len); assert_memory_equal(work[i].ids.data, work[0].ids.data, (size_t)work[0].ids.len * 4); }
    for (int i = 0; i < 8; i++) ids_free(&work[i].ids);
    buffer_free(&text);
    tokenizer_free(t);
}

#define MODEL(j) json_object_get(j, "model")
#define VOCAB(j) json_object_get(MODEL(j), "vocab")
#define MERGES(j) json_object_get(MODEL(j), "merges")
#define ADDED(j) json_object_get(j, "added_tokens")
#define SPLIT(j) json_array_get(json_object_get(json_object_get(j, "pre_tokenizer"), "pretokenizers"), 0)
#define REFUSED(expected, damage) do { json_t *j = small_tokenizer(LLAMA3_REGEX, false); damage; assert_refused(j, expected); } while (0)

static void test_hostile_json(void **state) {
    (void)state;
    REFUSED("vocab[\"aa\"] is -1", json_object_set_new(VOCAB(j), "aa", json_integer(-1)));
    REFUSED("another token has already", json_object_set_new(VOCAB(j), "aa", json_integer(3)));
    REFUSED("9223372036854775807", json_object_set_new(VOCAB(j), "aa", json_integer(INT64_MAX)));
    REFUSED("without gaps", json_object_set_new(VOCAB(j), "zzz", json_integer(4000000)));
    REFUSED("no token has id 263,", (json_array_append_new(ADDED(j), json_pack("{s:i,s:s}", "id", 258, "content", "ab")),
                                     json_array_append_new(ADDED(j), json_pack("{s:i,s:s}", "id", 264, "content", "<q>"))));
    REFUSED("is a number", json_object_set_new(VOCAB(j), "aa", json_real(1.5)));
    REFUSED("empty token", json_object_set_new(VOCAB(j), "", json_integer(263)));
    REFUSED("no token for byte 0x61", (json_object_del(VOCAB(j), "a"), json_object_set_new(VOCAB(j), "<0x-1>", json_integer(97))));
    REFUSED("vocab is missing", json_object_del(MODEL(j), "vocab"));
    REFUSED("vocab is an array", json_object_set_new(MODEL(j), "vocab", json_array()));
    REFUSED("merges is missing", json_object_del(MODEL(j), "merges"));
    REFUSED("first half is not in", json_array_append_new(MERGES(j), json_string("qq b")));
    REFUSED("second half is not in", json_array_append_new(MERGES(j), json_string("b qq")));
    REFUSED("whole is not in", json_array_append_new(MERGES(j), json_string("b b")));
    REFUSED("merges[4] is \"a b c\"", json_array_append_new(MERGES(j), json_string("a b c")));
    REFUSED("merges[4]", json_array_append_new(MERGES(j), json_string("ab")));
    REFUSED("merges[4]", json_array_append_new(MERGES(j), json_string(" ")));
    REFUSED("merges[4]", json_array_append_new(MERGES(j), json_pack("[sss]", "a", "b", "c")));
    REFUSED("merges[4]", json_array_append_new(MERGES(j), json_pack("[si]", "a", 1)));
    REFUSED("merges[4]", json_array_append_new(MERGES(j), json_pack("[ss]", "", "a")));
    REFUSED("merges[4]", json_array_append_new(MERGES(j), json_null()));
    REFUSED("\"content\" has 0 bytes", json_array_append_new(ADDED(j), json_pack("{s:i,s:s}", "id", 263, "content", "")));
    REFUSED("appears twice", json_array_append_new(ADDED(j), json_pack("{s:i,s:s}", "id", 263, "content", "<think>")));
    REFUSED("another token has already", json_array_append_new(ADDED(j), json_pack("{s:i,s:s}", "id", 262, "content", "<q>")));
    REFUSED("but 256 in model.vocab", json_array_append_new(ADDED(j), json_pack("{s:i,s:s}", "id", 263, "content", "aa")));
    REFUSED("\"id\" is -5", json_array_append_new(ADDED(j), json_pack("{s:i,s:s}", "id", -5, "content", "<q>")));
    REFUSED("without gaps", json_array_append_new(ADDED(j), json_pack("{s:i,s:s}", "id", 999, "content", "<q>")));
    REFUSED("\"lstrip\" is true", json_object_set_new(json_array_get(ADDED(j), 0), "lstrip", json_true()));
    REFUSED("\"rstrip\" is true", json_object_set_new(json_array_get(ADDED(j), 0), "rstrip", json_true()));
    REFUSED("\"single_word\" is true", json_object_set_new(json_array_get(ADDED(j), 0), "single_word", json_true()));
    REFUSED("model \"Unigram\"", json_object_set_new(MODEL(j), "type", json_string("Unigram")));
    REFUSED("byte_fallback", json_object_set_new(MODEL(j), "byte_fallback", json_true()));
    REFUSED("dropout", json_object_set_new(MODEL(j), "dropout", json_real(0.1)));
    REFUSED("end_of_word_suffix", json_object_set_new(MODEL(j), "end_of_word_suffix", json_string("</w>")));
    REFUSED("\"ignore_merges\" is an integer", json_object_set_new(MODEL(j), "ignore_merges", json_integer(1)));
    REFUSED("normalizer \"NFKC\"", json_object_set_new(j, "normalizer", json_pack("{s:s}", "type", "NFKC")));
    REFUSED("normalizer \"Lowercase\"", json_object_set_new(j, "normalizer", json_pack("{s:s,s:[{s:s}]}", "type", "Sequence", "normalizers", "type", "Lowercase")));
    REFUSED("pre_tokenizer \"Metaspace\"", json_object_set_new(j, "pre_tokenizer", json_pack("{s:s}", "type", "Metaspace")));
    REFUSED("pre_tokenizer \"null\"", json_object_set_new(j, "pre_tokenizer", json_null()));
    REFUSED("Split by \"\\w+\"", json_object_set_new(SPLIT(j), "pattern", json_pack("{s:s}", "Regex", "\\w+")));
    REFUSED("behavior \"Removed\"", json_object_set_new(SPLIT(j), "behavior", json_string("Removed")));
    REFUSED("inverted", json_object_set_new(SPLIT(j), "invert", json_true()));
    REFUSED("decoder \"WordPiece\"", json_object_set_new(j, "decoder", json_pack("{s:s}", "type", "WordPiece")));
    REFUSED("post_processor \"BertProcessing\"", json_object_set_new(j, "post_processor", json_pack("{s:s}", "type", "BertProcessing")));
    json_t *j = small_tokenizer(LLAMA3_REGEX, false);   // one added token of 2 MB
    char *giant = (char *)xmalloc(2000001);
    memset(giant, 'q', 2000000);
    giant[2000000] = 0;
    json_array_append_new(ADDED(j), json_pack("{s:i,s:s}", "id", 263, "content", giant));
    free(giant);
    assert_refused(j, "expected 1 to 1024");
}

static void assert_text_refused(const char *text, int64_t n, const char *expected) {
    Error e;
    e.text[0] = 0;
    Tokenizer *t = tokenizer_parse("test", text, n, &e);
    if (t) fail_msg("was accepted, expected \"%s\"", expected);
    if (!strstr(e.text, expected) || strchr(e.text, '\n')) fail_msg("error is \"%s\", expected \"%s\"", e.text, expected);
}

static void test_hostile_bytes(void **state) {
    (void)state;
    assert_text_refused("", 0, "is 0 bytes");
    assert_text_refused("{", 1, "not valid JSON");
    assert_text_refused("{\"model\":1,\"model\":2}", 21, "duplicate");
    assert_text_refused("{\"model\":{\"vocab\":{\"\\ud800\":1}}}", 32, "not valid JSON");
    assert_text_refused("{} x", 4, "not valid JSON");
    assert_text_refused("\x0A\x0E\x0A\x05<unk>", 9, "base64 rank");
    assert_text_refused("IQ== 1\n", 7, "rank is 1, expected 0");
    assert_text_refused("IQ== 0\nIQ== 1\n", 14, "appears twice");
    assert_text_refused("IQ=A 0\n", 7, "base64 rank");
    assert_text_refused("IQ== -1\n", 8, "base64 rank");
    assert_text_refused("IQ== 99999999999999999999\n", 26, "base64 rank");
    assert_text_refused("IQ== 0\n", 7, "no token for byte 0x00");
    int64_t n = 200000;   // a depth bomb
    char *bomb = (char *)xmalloc(n);
    memset(bomb, '[', (size_t)n);
    memcpy(bomb, "{\"a\":", 5);
    assert_text_refused(bomb, n, "not valid JSON");
    free(bomb);
    Buffer many = {NULL, 0, 0};   // 10 M merges, in a file of 60 MB
    buffer_add(&many, "{\"model\":{\"merges\":[", 20);
    for (int i = 0; i < 9999999; i++) buffer_add(&many, "\"a\",", 4);
    buffer_add(&many, "\"a\"]}}", 6);
    double start = seconds_now();
    assert_text_refused(many.data, many.len, "pre_tokenizer");
    assert_true(seconds_now() - start < 60);
    buffer_free(&many);
    Error e;
    assert_null(tokenizer_load("/nonexistent/tokenizer.json", &e));
}

static void test_load_directory(void **state) {   // tokenizer.json, and a tokenizer.model whose merges follow from its ranks
    (void)state;
    char dir[] = "/tmp/findap_test_XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    Error e;
    assert_null(tokenizer_load(dir, &e));
    assert_non_null(strstr(e.text, "no tokenizer.json"));
    Buffer model = {NULL, 0, 0};
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int b = 0; b < 256; b++) {
        char line[32];
        buffer_add(&model, line, snprintf(line, sizeof line, "%c%c== %d\n", digits[b >> 2], digits[(b & 3) << 4], b));
    }
    const char *merged = "YWI= 256\nYWJj 257\nYmM= 258\n";   // ab, abc, bc
    buffer_add(&model, merged, (int64_t)strlen(merged));
    snprintf(path, sizeof path, "%s/tokenizer.model", dir);
    assert_true(write_file(path, model.data, model.len, &e));
    buffer_free(&model);
    Tokenizer *t = tokenizer_load(dir, &e);
    if (!t) fail_msg("%s", e.text);
    assert_ids(t, "abc xbc", true, 4, (const int32_t[]){257, ' ', 'x', 258});
    assert_int_equal(tokenizer_bos(t), 259);
    assert_int_equal(tokenizer_eos(t), 260);
    assert_int_equal(tokenizer_find(t, "<|eot_id|>"), 268);
    assert_int_equal(tokenizer_find(t, "<|reserved_special_token_4|>"), 267);
    assert_int_equal(tokenizer_find(t, "<|reserved_special_token_250|>"), 259 + 255);
    tokenizer_free(t);
    json_t *j = small_tokenizer(QWEN_REGEX, true);
    char json_path[64];
    snprintf(json_path, sizeof json_path, "%s/tokenizer.json", dir);
    char *text = json_dumps(j, 0);
    assert_true(write_file(json_path, text, (int64_t)strlen(text), &e));
    free(text);
    json_decref(j);
    t = tokenizer_load(dir, &e);   // tokenizer.json comes first
    assert_non_null(t);
    assert_int_equal(tokenizer_vocab_size(t), 263);
    tokenizer_free(t);
    unlink(path); unlink(json_path);
    rmdir(dir);
}

static void test_real(void **state) {
    (void)state;
    const char *data = getenv("FINDAP_DATA");
    if (!data) { print_message("skipped: FINDAP_DATA is not set, so the real tokenizers are not tested\n"); skip(); }
    static const struct { const char *file; const char *text; int n; int32_t ids[3]; } cases[] = {
        {"qwen2_5_tokenizer.json", "Hello world", 2, {9707, 1879}}, {"qwen2_5_tokenizer.json", " Hello world<|im_end|>", 3, {21927, 1879, 151645}},
        {"llama3_tokenizer.json", "Hello world<|eot_id|>", 3, {9906, 1917, 128009}}, {"llama3_tokenizer.model", "Hello world<|eot_id|>", 3, {9906, 1917, 128009}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *path = xprintf("%s/tokenizers/%s", data, cases[i].file);
        if (!file_exists(path)) print_message("%s is not there: not tested\n", path);
        else {
            Error e;
            Tokenizer *t = tokenizer_load(path, &e);
            if (!t) fail_msg("%s", e.text);
            assert_ids(t, cases[i].text, true, cases[i].n, cases[i].ids);
            assert_int_equal(tokenizer_eos(t), i < 2 ? 151643 : 128001);
            tokenizer_free(t);
        }
        free(path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden), cmocka_unit_test(test_splits), cmocka_unit_test(test_round_trip), cmocka_unit_test(test_invalid_utf8),
        cmocka_unit_test(test_special_tokens), cmocka_unit_test(test_merge_forms), cmocka_unit_test(test_long_word), cmocka_unit_test(test_long_marks),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_hostile_json), cmocka_unit_test(test_hostile_bytes), cmocka_unit_test(test_load_directory),
        cmocka_unit_test(test_real),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
