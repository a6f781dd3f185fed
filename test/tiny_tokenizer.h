// tiny_tokenizer.h: a tokenizer.json small enough to follow by hand, for tests and fuzzers: token i < 256 is the byte i, then a few
// merges, then the special tokens of one of the three template families, under their real names.
#ifndef FINDAP_TINY_TOKENIZER_H
#define FINDAP_TINY_TOKENIZER_H
#include "../findap/common.h"      // defines: xprintf, Buffer, write_file
#include "../findap/json.h"        // defines: json_t
#include "../findap/tokenizer.h"   // defines: tokenizer_load

enum { TINY_NEWLINES = 256, TINY_HE, TINY_LL, TINY_SPACE_A, TINY_FIRST_SPECIAL };

// GPT-2's printable stand-in for a byte, as UTF-8 at out
FN int tiny_byte(int byte, char *out) {
    int c = 0, next = 256;
    for (int i = 0; i <= byte; i++) {
        bool printable = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;
        c = printable ? i : next++;
    }
    if (c < 0x80) { out[0] = (char)c; return 1; }
    out[0] = (char)(0xC0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3F));
    return 2;
}

FN char *tiny_word(const char *bytes) {
    char *out = (char *)xcalloc((int64_t)strlen(bytes) * 2 + 1, 1), *p = out;
    for (; *bytes; bytes++) p += tiny_byte((unsigned char)*bytes, p);
    return out;
}

FN const char *const *tiny_specials(const char *family) {
    static const char *const llama3[] = {"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", NULL};
    static const char *const qwen2[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", NULL};
    static const char *const r1[] = {"<\xEF\xBD\x9C"
                                     "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
                                     "<\xEF\xBD\x9CUser\xEF\xBD\x9C>",
                                     "<\xEF\xBD\x9C"
                                     "Assistant\xEF\xBD\x9C>",
                                     "<\xEF\xBD\x9C"
                                     "begin\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
                                     "<think>",
                                     "</think>",
                                     NULL};
    return strcmp(family, "llama3") == 0 ? llama3 : strcmp(family, "qwen2") == 0 ? qwen2 : r1;
}

// writes DIR/tokenizer.json of the family ("llama3", "qwen2", "deepseek-r1") and loads it
FN Tokenizer *tiny_tokenizer(const char *directory, const char *family, Error *e) {
    static const char *const merges[][2] = {{"\n", "\n"}, {"h", "e"}, {"l", "l"}, {" ", "a"}};
    bool llama = strcmp(family, "llama3") == 0;
    json_t *vocab = json_object(), *pairs = json_array(), *added = json_array();
    int id = 0;
    for (; id < 256; id++) {
        char name[3] = "";
        tiny_byte(id, name);
        json_object_set_new(vocab, name, json_integer(id));
    }
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        char *a = tiny_word(merges[i][0]), *b = tiny_word(merges[i][1]), *both = xprintf("%s%s", a, b), *pair = xprintf("%s %s", a, b);
        json_object_set_new(vocab, both, json_integer(id++));
        json_array_append_new(pairs, json_string(pair));
        free(a); free(b); free(both); free(pair);
    }
    for (const char *const *s = tiny_specials(family); *s; s++)
        json_array_append_new(added, json_pack("{s:i,s:s,s:b,s:b,s:b,s:b,s:b}", "id", id++, "content", *s, "single_word", 0, "lstrip", 0,
                                               "rstrip", 0, "normalized", 0, "special", strstr(*s, "think") == NULL));
    char *regex = xprintf(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}%s| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        llama ? "{1,3}" : "");
    json_t *split = json_pack("{s:s,s:{s:s},s:s,s:b}", "type", "Split", "pattern", "Regex", regex, "behavior", "Isolated", "invert", 0);
    json_t *bytes = json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 0);
    json_t *j =
        json_pack("{s:s,s:n,s:n,s:o,s:o,s:{s:s,s:[oo]},s:n,s:o,s:{s:s,s:n,s:n,s:n,s:n,s:b,s:b,s:b,s:o,s:o}}", "version", "1.0", "truncation",
                  "padding", "added_tokens", added, "normalizer", llama ? json_null() : json_pack("{s:s}", "type", "NFC"), "pre_tokenizer",
                  "type", "Sequence", "pretokenizers", split, bytes, "post_processor", "decoder",
                  json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1), "model",
                  "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
                  "ignore_merges", llama, "vocab", vocab, "merges", pairs);
    CHECK(j != NULL);
    char *text = json_dumps(j, 0), *path = path_join(directory, "tokenizer.json");
    Tokenizer *t = write_file(path, text, (int64_t)strlen(text), e) ? tokenizer_load(path, e) : NULL;
    free(text); free(path); free(regex);
    json_decref(j);
    return t;
}

#endif
