// fuzz_tokenizer.c: an even first byte: the rest is a tokenizer.json or tokenizer.model; odd: the rest is text for a small built-in tokenizer.
#include "findap/tokenizer.h"

// a tokenizer.json of the 256 bytes, a few merges and three added tokens, one a prefix of another
static Tokenizer *built_in(bool nfc) {
    Buffer b = {NULL, 0, 0};
    const char *head = nfc ? "{\"normalizer\":{\"type\":\"NFC\"}," : "{";
    const char *middle = "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
        "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"
        "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"added_tokens\":[{\"id\":260,\"content\":\"<a>\",\"special\":true},{\"id\":261,\"content\":\"<a><b>\",\"special\":true},{\"id\":262,\"content\":\"xy\",\"normalized\":true}],"
        "\"model\":{\"type\":\"BPE\",\"merges\":[\"a a\",\"aa aa\",[\"a\",\"b\"],\"ab ab\"],\"vocab\":{\"aa\":256,\"aaaa\":257,\"ab\":258,\"abab\":259";
    buffer_add(&b, head, (int64_t)strlen(head));
    buffer_add(&b, middle, (int64_t)strlen(middle));
    for (int i = 0; i < 256; i++) {
        int c = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174 ? i : i < 33 ? 256 + i : i == 173 ? 323 : 289 + i - 127;
        char row[32];
        buffer_add(&b, row, snprintf(row, sizeof row, ",\"\\u%04x\":%d", c, i));
    }
    buffer_add(&b, "}}}", 3);
    Error e;
    Tokenizer *t = tokenizer_parse("built-in", b.data, b.len, &e);
    if (!t) die("%s", e.text);
    buffer_free(&b);
    return t;
}

static void round_trip(const Tokenizer *t, const char *text, int64_t n, bool parse_special) {
    Ids ids = {NULL, 0, 0};
    Buffer decoded = {NULL, 0, 0}, repaired = {NULL, 0, 0};
    tokenizer_encode(t, text, n, parse_special, &ids);
    for (int64_t i = 0; i < ids.len; i++) CHECK(ids.data[i] >= 0 && ids.data[i] < t->vocab_size);
    tokenizer_decode(t, ids.data, ids.len, false, &decoded);
    utf8_repair((const uint8_t *)text, n, &repaired);
    CHECK(t->nfc || (decoded.len == repaired.len && (n == 0 || memcmp(decoded.data, repaired.data, (size_t)decoded.len) == 0)));
    if (t->nfc) {   // NFC is idempotent: what comes out encodes to the same ids
        Ids again = {NULL, 0, 0};
        tokenizer_encode(t, decoded.data, decoded.len, parse_special, &again);
        CHECK(again.len == ids.len || parse_special);   // composing may join or cut an added token only when they are parsed
        ids_free(&again);
    }
    ids_free(&ids); buffer_free(&decoded); buffer_free(&repaired);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static Tokenizer *plain, *nfc;   // built once
    if (!plain) { plain = built_in(false); nfc = built_in(true); }
    if (size < 1) return 0;
    const char *rest = (const char *)data + 1;
    int64_t n = (int64_t)size - 1;
    if (data[0] & 1) {
        for (int k = 0; k < 4; k++) round_trip(k & 1 ? nfc : plain, rest, n, k & 2);
        return 0;
    }
    Error e;
    e.text[0] = 0;
    Tokenizer *t = tokenizer_parse("fuzz", rest, n, &e);
    CHECK(t || (e.text[0] && !strchr(e.text, '\n')));
    if (t) round_trip(t, "Hello 123 <|eot_id|>", 20, true);
    tokenizer_free(t);
    return 0;
}
