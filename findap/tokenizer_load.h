// tokenizer_load.h: reads tokenizer.json and tokenizer.model for tokenizer.h, which includes this.
//
// These files come from strangers. Everything that would make our ids differ from Hugging Face's is refused by name
// instead of being ignored; sizes are bounded before memory is taken; every error is one line.
#ifndef FINDAP_TOKENIZER_LOAD_H
#define FINDAP_TOKENIZER_LOAD_H
#include "tokenizer.h"

#define WORDS_BEFORE_DIGITS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
#define WORDS_AFTER_DIGITS  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

FN Tokenizer *tokenizer_new(const void *data, int64_t size) {
    Tokenizer *t = (Tokenizer *)xcalloc(1, sizeof(Tokenizer));
    t->pool = (WorkspacePool *)xcalloc(1, sizeof(WorkspacePool));
    pthread_mutex_init(&t->pool->mutex, NULL);
    t->hash = hash_bytes(data, size);
    t->seed = XXH3_64bits(data, (size_t)size);
    t->bos = t->eos = t->prefix = -1;
    return t;
}

FN void allocate_vocabulary(Tokenizer *t, int64_t vocab_size) {
    int64_t slots = 1024;
    while (slots < 2 * vocab_size) slots *= 2;
    t->vocab_size = vocab_size;
    t->offset = (int64_t *)xcalloc(vocab_size, sizeof(int64_t));
    t->length = (int32_t *)xcalloc(vocab_size, sizeof(int32_t));
    t->flags = (uint8_t *)xcalloc(vocab_size, 1);
    t->words = (int32_t *)xmalloc(slots * 4);
    memset(t->words, 0xFF, (size_t)slots * 4);
    t->word_mask = slots - 1;
}

FN void store_token(Tokenizer *t, int64_t id, const void *bytes, int64_t n) {
    t->offset[id] = t->bytes.len;
    t->length[id] = (int32_t)n;
    t->flags[id] |= TOKEN_KNOWN;
    buffer_add(&t->bytes, bytes, n);
}

// makes the bytes of `id` findable; false when another id has the same bytes
FN bool index_token(Tokenizer *t, int32_t id) {
    const char *s = t->bytes.data + t->offset[id];
    if (t->length[id] > t->longest) t->longest = t->length[id];
    if (find_word(t, s, t->length[id]) >= 0) return false;
    uint64_t h = XXH3_64bits_withSeed(s, (size_t)t->length[id], t->seed);
    while (t->words[h & (uint64_t)t->word_mask] >= 0) h++;
    t->words[h & (uint64_t)t->word_mask] = id;
    return true;
}

FN void allocate_merges(Tokenizer *t, int64_t n) {
    int64_t slots = 1024;
    while (slots < 2 * n) slots *= 2;
    t->merges = (MergeSlot *)xmalloc(slots * (int64_t)sizeof(MergeSlot));
    for (int64_t i = 0; i < slots; i++) t->merges[i].left = t->merges[i].right = -1;
    t->merge_mask = slots - 1;
}

FN void add_merge(Tokenizer *t, int32_t left, int32_t right, uint32_t rank, int32_t id) {   // a repeated pair: the last one counts, as in HF
    uint64_t h = mix64(((uint64_t)(uint32_t)left << 32 | (uint32_t)right) ^ t->seed);
    MergeSlot *m = &t->merges[h & (uint64_t)t->merge_mask];
    while (m->left >= 0 && !(m->left == left && m->right == right)) m = &t->merges[++h & (uint64_t)t->merge_mask];
    m->left = left; m->right = right; m->rank = rank; m->id = id;
}

FN bool find_bytes(Tokenizer *t, const char *where, Error *e) {
    for (int b = 0; b < 256; b++) {
        uint8_t byte = (uint8_t)b;
        t->byte_id[b] = find_word(t, &byte, 1);
        if (t->byte_id[b] < 0) return fail(e, "%s: the vocabulary has no token for byte 0x%02x, expected all 256 ---> is this a byte-level BPE?", where, b);
    }
    return true;
}

FN void find_bos_eos(Tokenizer *t) {   // by the family's names: the files themselves do not say
    static const char *const names[][2] = {
        {"<|begin_of_text|>", "<|end_of_text|>"},                                                   // Llama-3
        {"<\xEF\xBD\x9C" "begin\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>", "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"},   // DeepSeek
        {NULL, "<|endoftext|>"},                                                                    // Qwen has no BOS
    };
    for (int i = 0; i < 3 && t->eos < 0; i++) {
        int32_t bos = names[i][0] ? tokenizer_find(t, names[i][0]) : -1;
        if (names[i][0] && bos < 0) continue;
        t->bos = bos;
        t->eos = tokenizer_find(t, names[i][1]);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// tokenizer.json

// GPT-2's alphabet writes each byte as a printable character. Appends the bytes of s to out; false: not all in the alphabet
FN bool alphabet_to_bytes(const char *s, int64_t n, Buffer *out) {
    for (int64_t i = 0; i < n;) {
        int size;
        int32_t c = decode_valid((const uint8_t *)s + i, &size), byte = -1;
        if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255)) byte = c;
        else if (c >= 256 && c < 256 + 33) byte = c - 256;           // 0..32
        else if (c >= 289 && c < 289 + 34) byte = 127 + (c - 289);   // 127..160
        else if (c == 323) byte = 173;
        if (byte < 0) return false;
        char b = (char)byte;
        buffer_add(out, &b, 1);
        i += size;
    }
    return true;
}

FN const char *type_of(json_t *j) { const char *s = json_string_value(json_object_get(j, "type")); return s ? s : json_type_name(j); }
FN bool is_type(json_t *j, const char *name) { return strcmp(type_of(j), name) == 0; }
FN bool absent(json_t *j) { return !j || json_is_null(j); }

FN bool read_normalizer(Tokenizer *t, const char *where, json_t *j, Error *e) {
    if (absent(j)) return true;
    if (is_type(j, "NFC")) { t->nfc = true; return true; }
    json_t *list = json_object_get(j, "normalizers");
    if (is_type(j, "Sequence") && json_is_array(list)) {
        for (size_t i = 0; i < json_array_size(list); i++) {
            json_t *item = json_array_get(list, i);
            if (!is_type(item, "NFC")) return fail(e, "%s: normalizer \"%.80s\" is not supported, expected NFC or null", where, type_of(item));
            t->nfc = true;
        }
        return true;
    }
    return fail(e, "%s: normalizer \"%.80s\" is not supported, expected NFC or null", where, type_of(j));
}

FN bool read_pre_tokenizer(Tokenizer *t, const char *where, json_t *j, Error *e) {
    json_t *list = json_object_get(j, "pretokenizers");
    if (!is_type(j, "Sequence") || !json_is_array(list))
        return fail(e, "%s: pre_tokenizer \"%.80s\" is not supported, expected a Sequence of Split and ByteLevel as Llama-3 and Qwen2 have", where, type_of(j));
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *item = json_array_get(list, i);
        if (!is_type(item, "Split") && !is_type(item, "ByteLevel"))
            return fail(e, "%s: pre_tokenizer \"%.80s\" is not supported, expected Split, then ByteLevel", where, type_of(item));
    }
    json_t *split = json_array_get(list, 0), *bytes = json_array_get(list, 1);
    if (json_array_size(list) != 2 || !is_type(split, "Split") || !is_type(bytes, "ByteLevel"))
        return fail(e, "%s: pre_tokenizer is a Sequence of %zu, expected one Split, then one ByteLevel, as Llama-3 and Qwen2 have", where, json_array_size(list));
    const char *regex = json_string_value(json_object_get(json_object_get(split, "pattern"), "Regex"));
    if (regex && strcmp(regex, WORDS_BEFORE_DIGITS "{1,3}" WORDS_AFTER_DIGITS) == 0) t->max_digits = 3;
    else if (regex && strcmp(regex, WORDS_BEFORE_DIGITS WORDS_AFTER_DIGITS) == 0) t->max_digits = 1;
    else return fail(e, "%s: pre_tokenizer Split by \"%.200s\" is not supported, expected the pattern of Llama-3 or of Qwen2", where, regex ? regex : "(no Regex)");
    const char *behavior = json_string_value(json_object_get(split, "behavior"));
    if (!behavior || strcmp(behavior, "Isolated") != 0 || json_is_true(json_object_get(split, "invert")))
        return fail(e, "%s: pre_tokenizer Split has behavior \"%.80s\"%s, expected Isolated, not inverted", where, behavior ? behavior : "(none)",
                    json_is_true(json_object_get(split, "invert")) ? ", inverted" : "");
    // both default to true in Hugging Face, so they must be there and false
    if (!json_is_false(json_object_get(bytes, "add_prefix_space")) || !json_is_false(json_object_get(bytes, "use_regex")))
        return fail(e, "%s: pre_tokenizer ByteLevel must have \"add_prefix_space\": false and \"use_regex\": false", where);
    return true;
}

FN bool check_post_processor(const char *where, json_t *j, Error *e) {   // read for what it would do to the text, which must be nothing
    json_t *list = !absent(j) && is_type(j, "Sequence") ? json_object_get(j, "processors") : NULL;
    for (size_t i = 0; i < (list ? json_array_size(list) : 1); i++) {
        json_t *item = list ? json_array_get(list, i) : j;
        if (absent(item) || is_type(item, "ByteLevel") || is_type(item, "TemplateProcessing")) continue;
        return fail(e, "%s: post_processor \"%.80s\" is not supported, expected ByteLevel or TemplateProcessing", where, type_of(item));
    }
    return true;
}

// ... and, once the added tokens are known, for the special token that it puts before a text
FN bool read_prefix(Tokenizer *t, const char *where, json_t *j, Error *e) {
    json_t *list = !absent(j) && is_type(j, "Sequence") ? json_object_get(j, "processors") : NULL;
    for (size_t i = 0; i < (list ? json_array_size(list) : 1); i++) {
        const char *name = json_string_value(json_object_get(json_object_get(json_array_get(json_object_get(list ? json_array_get(list, i) : j, "single"), 0), "SpecialToken"), "id"));
        if (!name) continue;
        t->prefix = tokenizer_find(t, name);
        if (t->prefix < 0) return fail(e, "%s: post_processor puts \"%.80s\" before a text, which is not among the added tokens", where, name);
    }
    return true;
}

FN bool check_model(Tokenizer *t, const char *where, json_t *model, Error *e) {
    if (!json_is_object(model)) return fail(e, "%s: \"model\" is %s, expected an object", where, json_type_name(model));
    json_t *type = json_object_get(model, "type");
    if (type && (!json_is_string(type) || strcmp(json_string_value(type), "BPE") != 0))
        return fail(e, "%s: model \"%.80s\" is not supported, expected BPE", where, type_of(model));
    json_t *dropout = json_object_get(model, "dropout");
    if (!absent(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0))
        return fail(e, "%s: model has a dropout, expected null: ids would be random", where);
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        json_t *affix = json_object_get(model, affixes[i]);
        if (!absent(affix) && !(json_is_string(affix) && json_string_length(affix) == 0)) return fail(e, "%s: model.%s is not supported, expected null", where, affixes[i]);
    }
    bool byte_fallback = false;
    if (!json_get_bool(model, "byte_fallback", where, false, &byte_fallback, e)) return false;
    if (byte_fallback) return fail(e, "%s: model.byte_fallback is not supported, expected false ---> this is a SentencePiece-like vocabulary", where);
    return json_get_bool(model, "ignore_merges", where, false, &t->ignore_merges, e);
}

// the highest id of vocabulary and added tokens decides all sizes, so it is bounded first
FN bool measure_vocabulary(Tokenizer *t, const char *where, json_t *vocab, json_t *added, Error *e) {
    if (!json_is_object(vocab)) return fail(e, "%s: model.vocab is %s, expected an object", where, json_type_name(vocab));
    if (!absent(added) && !json_is_array(added)) return fail(e, "%s: added_tokens is %s, expected an array", where, json_type_name(added));
    const char *key;
    json_t *value;
    int64_t highest = -1;
    json_object_foreach(vocab, key, value) {
        int64_t id = json_is_integer(value) ? (int64_t)json_integer_value(value) : -1;
        if (id < 0 || id >= TOKENIZER_MAX_ID) {
            char text[32];
            snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
            return fail(e, "%s: model.vocab[\"%.80s\"] is %s, expected an id from 0 to %" PRId64, where, key, json_is_integer(value) ? text : json_type_name(value), TOKENIZER_MAX_ID - 1);
        }
        if (!*key) return fail(e, "%s: model.vocab has an empty token", where);
        if (id > highest) highest = id;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        int64_t id = 0;
        char place[600];
        snprintf(place, sizeof place, "%.500s: added_tokens[%zu]", where, i);
        if (!json_is_object(json_array_get(added, i))) return fail(e, "%s is %s, expected an object", place, json_type_name(json_array_get(added, i)));
        if (!json_get_int(json_array_get(added, i), "id", place, true, 0, TOKENIZER_MAX_ID - 1, &id, e)) return false;
        if (id > highest) highest = id;
    }
    if (highest < 0) return fail(e, "%s: the vocabulary is empty", where);
    int64_t entries = (int64_t)json_object_size(vocab) + (int64_t)json_array_size(added);
    if (highest + 1 > entries) return fail(e, "%s: the highest id is %" PRId64 " but there are %" PRId64 " tokens at most, expected ids without gaps", where, highest, entries);
    allocate_vocabulary(t, highest + 1);
    return true;
}

FN bool read_vocabulary(Tokenizer *t, const char *where, json_t *vocab, Error *e) {
    const char *key;
    json_t *value;
    Buffer bytes = {NULL, 0, 0};
    bool ok = true;
    json_object_foreach(vocab, key, value) {
        int32_t id = (int32_t)json_integer_value(value);
        if (t->flags[id] & TOKEN_KNOWN) { ok = fail(e, "%s: model.vocab[\"%.80s\"] has id %d, which another token has already", where, key, id); break; }
        bytes.len = 0;
        if (alphabet_to_bytes(key, (int64_t)strlen(key), &bytes)) {
            store_token(t, id, bytes.data, bytes.len);
            index_token(t, id);   // the alphabet is one to one, so that no two keys have the same bytes
        } else store_token(t, id, key, (int64_t)strlen(key));   // cannot come from text; decodes as itself, as in HF
    }
    buffer_free(&bytes);
    return ok;
}

FN bool read_added_token(Tokenizer *t, const char *place, json_t *j, json_t *vocab, bool *normalized, int32_t *out, Error *e) {
    int64_t id = 0;
    const char *content = NULL;
    static const char *const unsupported[] = {"single_word", "lstrip", "rstrip"};
    bool special = false;
    for (int i = 0; i < 3; i++) {
        bool on = false;
        if (!json_get_bool(j, unsupported[i], place, false, &on, e)) return false;
        if (on) return fail(e, "%s: \"%s\" is true, which is not supported, expected false", place, unsupported[i]);
    }
    if (!json_get_int(j, "id", place, true, 0, t->vocab_size - 1, &id, e) || !json_get_string(j, "content", place, true, &content, e)) return false;
    if (!json_get_bool(j, "special", place, false, &special, e)) return false;
    *normalized = !special;   // Hugging Face's default
    if (!json_get_bool(j, "normalized", place, false, normalized, e)) return false;
    size_t n = strlen(content);
    if (n == 0 || n > TOKENIZER_MAX_ADDED) return fail(e, "%s: \"content\" has %zu bytes, expected 1 to %d", place, n, TOKENIZER_MAX_ADDED);
    json_t *in_vocab = json_object_get(vocab, content);
    if (in_vocab && json_integer_value(in_vocab) != id)
        return fail(e, "%s: \"%.80s\" has id %" PRId64 ", but %" PRId64 " in model.vocab", place, content, id, (int64_t)json_integer_value(in_vocab));
    if (!in_vocab && (t->flags[id] & (TOKEN_KNOWN | TOKEN_ADDED))) return fail(e, "%s: \"%.80s\" has id %" PRId64 ", which another token has already", place, content, id);
    if (t->flags[id] & TOKEN_ADDED) return fail(e, "%s: \"%.80s\" appears twice", place, content);
    if (!in_vocab) store_token(t, id, content, (int64_t)n);
    t->flags[id] |= (uint8_t)(TOKEN_ADDED | (special ? TOKEN_SPECIAL : 0));
    *out = (int32_t)id;
    return true;
}

FN bool read_added(Tokenizer *t, const char *where, json_t *list, json_t *vocab, Error *e) {
    int64_t n = (int64_t)json_array_size(list), num_raw = 0, num_normalized = 0;
    t->added = (int32_t *)xcalloc(n, 4);
    int32_t *raw = (int32_t *)xcalloc(n, 4), *normalized = (int32_t *)xcalloc(n, 4);
    json_t *contents = json_object();   // a repeated content under two ids would make the match ambiguous
    bool ok = true;
    for (int64_t i = 0; i < n && ok; i++) {
        char place[600];
        snprintf(place, sizeof place, "%.500s: added_tokens[%" PRId64 "]", where, i);
        json_t *item = json_array_get(list, (size_t)i);
        bool is_normalized = false;
        int32_t id = 0;
        ok = read_added_token(t, place, item, vocab, &is_normalized, &id, e);
        if (!ok) break;
        const char *content = json_string_value(json_object_get(item, "content"));
        if (json_object_get(contents, content)) { ok = fail(e, "%s: \"%.80s\" appears twice", place, content); break; }
        json_object_set_new(contents, content, json_true());
        if (is_normalized && t->nfc) {
            utf8proc_uint8_t *nfc = utf8proc_NFC((const utf8proc_uint8_t *)content);
            bool same = nfc && strcmp((const char *)nfc, content) == 0;
            free(nfc);
            if (!same) { ok = fail(e, "%s: \"%.80s\" is \"normalized\" but not in NFC, which is not supported", place, content); break; }
        }
        t->added[t->num_added++] = id;
        if (is_normalized) normalized[num_normalized++] = id; else raw[num_raw++] = id;
    }
    json_decref(contents);
    // content of a token that is also in the vocabulary: what counts is how it is spelled in text, not its alphabet form
    for (int64_t i = 0; i < t->num_added && ok; i++) {
        json_t *content = json_object_get(json_array_get(list, (size_t)i), "content");
        int32_t id = t->added[i];
        const char *s = json_string_value(content);
        if ((size_t)t->length[id] == json_string_length(content) && memcmp(t->bytes.data + t->offset[id], s, json_string_length(content)) == 0) continue;
        ok = fail(e, "%s: added token \"%.80s\" is in model.vocab as other bytes, which is not supported", where, s);
    }
    if (ok) { trie_build(&t->raw, t, raw, num_raw); trie_build(&t->normalized, t, normalized, num_normalized); }
    free(raw); free(normalized);
    return ok;
}

// one merge, "a b" or ["a", "b"], into the bytes of a, then b; *left gets the number of a's
FN bool merge_bytes(json_t *j, Buffer *bytes, int64_t *left) {
    const char *a = NULL, *b = NULL;
    int64_t a_length = 0, b_length = 0;
    if (json_is_string(j)) {
        a = json_string_value(j);
        const char *space = (const char *)memchr(a, ' ', json_string_length(j));
        if (!space || memchr(space + 1, ' ', json_string_length(j) - (size_t)(space + 1 - a))) return false;
        b = space + 1;
        a_length = space - a;
        b_length = (int64_t)json_string_length(j) - a_length - 1;
    } else {
        json_t *first = json_array_get(j, 0), *second = json_array_get(j, 1);
        if (json_array_size(j) != 2 || !json_is_string(first) || !json_is_string(second)) return false;
        a = json_string_value(first); a_length = (int64_t)json_string_length(first);
        b = json_string_value(second); b_length = (int64_t)json_string_length(second);
    }
    bytes->len = 0;
    if (a_length == 0 || b_length == 0 || !alphabet_to_bytes(a, a_length, bytes)) return false;
    *left = bytes->len;
    return alphabet_to_bytes(b, b_length, bytes);
}

FN bool read_merges(Tokenizer *t, const char *where, json_t *list, Error *e) {
    if (!json_is_array(list)) return fail(e, "%s: model.merges is %s, expected an array", where, json_type_name(list));
    int64_t n = (int64_t)json_array_size(list);
    if (n > TOKENIZER_MAX_MERGES) return fail(e, "%s: model.merges has %" PRId64 " entries, expected at most %" PRId64, where, n, TOKENIZER_MAX_MERGES);
    allocate_merges(t, n);
    Buffer bytes = {NULL, 0, 0};
    bool ok = true;
    for (int64_t i = 0; i < n && ok; i++) {
        int64_t split = 0;
        json_t *item = json_array_get(list, (size_t)i);
        const char *text = json_is_string(item) ? json_string_value(item) : json_type_name(item);
        if (!merge_bytes(item, &bytes, &split)) {
            ok = fail(e, "%s: model.merges[%" PRId64 "] is \"%.80s\", expected two byte-level tokens ---> was the file cut or edited by hand?", where, i, text);
            break;
        }
        int32_t left = find_word(t, bytes.data, split), right = find_word(t, bytes.data + split, bytes.len - split), id = find_word(t, bytes.data, bytes.len);
        if (left < 0 || right < 0 || id < 0)
            ok = fail(e, "%s: model.merges[%" PRId64 "] is \"%.80s\", whose %s is not in model.vocab", where, i, text, left < 0 ? "first half" : right < 0 ? "second half" : "whole");
        else add_merge(t, left, right, (uint32_t)i, id);
    }
    buffer_free(&bytes);
    return ok;
}

FN bool parse_tokenizer_json(Tokenizer *t, const char *where, json_t *root, Error *e) {
    if (!json_is_object(root)) return fail(e, "%s: is %s, expected an object", where, json_type_name(root));
    json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab"), *added = json_object_get(root, "added_tokens");
    json_t *decoder = json_object_get(root, "decoder");
    if (!check_model(t, where, model, e) || !read_normalizer(t, where, json_object_get(root, "normalizer"), e)) return false;
    if (!read_pre_tokenizer(t, where, json_object_get(root, "pre_tokenizer"), e)) return false;
    if (!check_post_processor(where, json_object_get(root, "post_processor"), e)) return false;
    if (!is_type(decoder, "ByteLevel")) return fail(e, "%s: decoder \"%.80s\" is not supported, expected ByteLevel", where, type_of(decoder));
    if (!measure_vocabulary(t, where, vocab, added, e) || !read_vocabulary(t, where, vocab, e)) return false;
    if (!find_bytes(t, where, e) || !read_merges(t, where, json_object_get(model, "merges"), e)) return false;
    if (!read_added(t, where, added, vocab, e) || !read_prefix(t, where, json_object_get(root, "post_processor"), e)) return false;
    for (int64_t id = 0; id < t->vocab_size; id++)
        if (!(t->flags[id] & TOKEN_KNOWN)) return fail(e, "%s: no token has id %" PRId64 ", expected ids without gaps up to %" PRId64, where, id, t->vocab_size - 1);
    t->classes = unicode_classes(t->nfc);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// tokenizer.model of Llama-3: one "base64 rank" a line

FN bool base64_decode(const uint8_t *s, int64_t n, Buffer *out) {
    if (n == 0 || n % 4 != 0) return false;
    for (int64_t i = 0; i < n; i += 4) {
        uint32_t bits = 0;
        int padding = 0;
        for (int k = 0; k < 4; k++) {
            uint8_t c = s[i + k];
            int v = c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;
            if (c == '=' && i + 4 == n && k >= 2) { padding++; v = 0; }
            else if (padding) return false;
            if (v < 0) return false;
            bits = bits << 6 | (uint32_t)v;
        }
        uint8_t bytes[3] = {(uint8_t)(bits >> 16), (uint8_t)(bits >> 8), (uint8_t)bits};
        buffer_add(out, bytes, 3 - padding);
    }
    return true;
}

// Any two ranked tokens whose concatenation is ranked merge, with the rank of the whole; so every split of every token is looked up.
FN void derive_merges(Tokenizer *t, int64_t num_ranks) {
    for (int pass = 0; pass < 2; pass++) {   // counts, then stores
        int64_t count = 0;
        for (int64_t id = 0; id < num_ranks; id++) {
            const char *s = t->bytes.data + t->offset[id];
            for (int32_t k = 1; k < t->length[id]; k++) {
                int32_t left = find_word(t, s, k), right = left < 0 ? -1 : find_word(t, s + k, t->length[id] - k);
                if (right < 0) continue;
                if (pass == 1) add_merge(t, left, right, (uint32_t)id, (int32_t)id);
                count++;
            }
        }
        if (pass == 0) allocate_merges(t, count);
    }
}

FN void add_llama3_specials(Tokenizer *t, int64_t first) {
    static const char *const named[10] = {"<|begin_of_text|>", "<|end_of_text|>", NULL, NULL, NULL, NULL, "<|start_header_id|>", "<|end_header_id|>", NULL, "<|eot_id|>"};
    t->added = (int32_t *)xcalloc(256, 4);
    for (int i = 0, reserved = 0; i < 256; i++) {
        char name[64];
        if (i < 10 && named[i]) snprintf(name, sizeof name, "%s", named[i]);
        else snprintf(name, sizeof name, "<|reserved_special_token_%d|>", reserved++);
        store_token(t, first + i, name, (int64_t)strlen(name));
        t->flags[first + i] |= TOKEN_ADDED | TOKEN_SPECIAL;
        t->added[t->num_added++] = (int32_t)(first + i);
    }
    trie_build(&t->raw, t, t->added, t->num_added);
    t->prefix = t->added[0];
}

FN bool parse_tiktoken(Tokenizer *t, const char *where, const uint8_t *data, int64_t size, Error *e) {
    int64_t lines = 0;
    for (int64_t i = 0; i < size; i++) lines += data[i] == '\n' || (i + 1 == size && data[i] != '\n');
    if (lines + 256 > TOKENIZER_MAX_ID) return fail(e, "%s: has %" PRId64 " lines, expected at most %" PRId64, where, lines, TOKENIZER_MAX_ID - 256);
    if (lines == 151643) return fail(e, "%s: has Qwen's 151643 ranks, expected Llama-3's ---> use Qwen's tokenizer.json", where);
    allocate_vocabulary(t, lines + 256);
    Buffer bytes = {NULL, 0, 0};
    bool ok = true;
    int64_t id = 0;
    for (int64_t i = 0; i < size && ok; id++) {
        const uint8_t *newline = (const uint8_t *)memchr(data + i, '\n', (size_t)(size - i));
        int64_t end = newline ? newline - data : size, space = i, rank = 0, k;
        while (space < end && data[space] != ' ') space++;
        for (k = space + 1; k < end && k < space + 9 && data[k] >= '0' && data[k] <= '9'; k++) rank = rank * 10 + (data[k] - '0');
        bytes.len = 0;
        if (space + 1 >= end || k != end || !base64_decode(data + i, space - i, &bytes) || bytes.len == 0)
            ok = fail(e, "%s:%" PRId64 ": expected \"base64 rank\" ---> is this Llama-3's tokenizer.model (a SentencePiece file is not)?", where, id + 1);
        else if (rank != id) ok = fail(e, "%s:%" PRId64 ": rank is %" PRId64 ", expected %" PRId64, where, id + 1, rank, id);
        else if (bytes.len > TOKENIZER_MAX_RANKED) ok = fail(e, "%s:%" PRId64 ": token has %" PRId64 " bytes, expected at most %d", where, id + 1, bytes.len, TOKENIZER_MAX_RANKED);
        else {
            store_token(t, id, bytes.data, bytes.len);
            if (!index_token(t, (int32_t)id)) ok = fail(e, "%s:%" PRId64 ": the token appears twice", where, id + 1);
        }
        i = end + 1;
    }
    buffer_free(&bytes);
    if (!ok || !find_bytes(t, where, e)) return false;
    derive_merges(t, lines);
    add_llama3_specials(t, lines);
    t->max_digits = 3;
    t->ignore_merges = true;
    t->classes = unicode_classes(false);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// public: load

// data[0..size) is a tokenizer.json (starts with '{') or a tokenizer.model; `where` names it in errors; NULL on error
FN Tokenizer *tokenizer_parse(const char *where, const char *data, int64_t size, Error *e) {
    if (size <= 0 || size > TOKENIZER_MAX_FILE) {
        fail(e, "%s: is %" PRId64 " bytes, expected 1 to %" PRId64 " ---> is this a tokenizer.json or tokenizer.model?", where, size, TOKENIZER_MAX_FILE);
        return NULL;
    }
    Tokenizer *t = tokenizer_new(data, size);
    int64_t i = 0;
    while (i < size && (data[i] == ' ' || data[i] == '\n' || data[i] == '\r' || data[i] == '\t')) i++;
    bool ok;
    if (i < size && data[i] == '{') {
        json_t *root = json_parse(where, data, size, e);
        ok = root && parse_tokenizer_json(t, where, root, e);
        json_decref(root);
    } else ok = parse_tiktoken(t, where, (const uint8_t *)data, size, e);
    if (!ok) { tokenizer_free(t); return NULL; }
    find_bos_eos(t);
    return t;
}

// path is a model directory (its tokenizer.json, else tokenizer.model) or one of these files; NULL on error
FN Tokenizer *tokenizer_load(const char *path, Error *e) {
    char *file = xstrdup(path);
    if (is_directory(path)) {
        free(file);
        file = path_join(path, "tokenizer.json");
        if (!file_exists(file)) {
            free(file);
            file = path_join(path, "tokenizer.model");
            if (!file_exists(file)) { fail(e, "%s: has no tokenizer.json and no tokenizer.model", path); free(file); return NULL; }
        }
    }
    Mapped m;
    Tokenizer *t = NULL;
    if (map_file(file, &m, e)) {
        t = tokenizer_parse(file, (const char *)m.data, m.size, e);
        unmap_file(&m);
    }
    free(file);
    return t;
}

#endif
