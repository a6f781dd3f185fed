// tokenizer.h: text to token ids and back, with exactly the ids of Hugging Face `tokenizers` (and of tiktoken).
//
// Byte-level BPE works in three steps. The text is cut into words ("pre-tokens") by a regular expression; the bytes of a
// word become one token each; then, again and again, the adjacent pair that was merged earliest in training (lowest rank,
// leftmost on a tie) becomes one token. What is here and why:
//   - The regular expressions of Llama-3 and Qwen2 (also DeepSeek-R1-Distill) differ in the length of digit groups only,
//     so they are written out by hand as one function; a tokenizer.json that asks for anything else is refused by name.
//   - Words repeat. A direct-mapped cache word -> ids answers almost all of them; an entry is one cache line, nothing is
//     allocated per word. What misses is merged by scanning when short and with a heap when long: O(n log n), never n^2.
//   - A Tokenizer is immutable and shared by all threads. Caches and scratch memory live in a pool behind one mutex that
//     each call takes twice; a thread-local would outlive the tokenizer or leak with the thread.
//
// Unicode. Hugging Face (Oniguruma) and tiktoken (Rust regex) class letters, numbers and white space by Unicode 16;
// utf8proc 2.8 knows Unicode 15. `added_in_16` closes the gap. Hugging Face's NFC is older: Unicode 9's combining classes
// and compositions. `unknown_to_nfc` lists what came later, which it therefore neither reorders nor composes.
// dev/tokenizer_check.py compares every code point; with another utf8proc, run it. Invalid UTF-8 becomes
// U+FFFD per maximal subpart before anything else, as bytes.decode("utf-8", "replace") does.
//
// `truncation`, `padding` and the special tokens of the post-processor are not applied: the caller decides where BOS goes, and may ask for
// tokenizer_prefix, the token that the post-processor would put before a text.
#ifndef FINDAP_TOKENIZER_H
#define FINDAP_TOKENIZER_H
#include "common.h"
#include "json.h"
#include <pthread.h>    // defines: pthread_mutex_t
#include <utf8proc.h>   // defines: utf8proc_category, utf8proc_decompose_char, utf8proc_normalize_utf32

#define TOKENIZER_MAX_FILE   ((int64_t)64 << 20)   // bytes; the largest published tokenizer.json is about half of this
#define TOKENIZER_MAX_ID     ((int64_t)1 << 22)
#define TOKENIZER_MAX_MERGES ((int64_t)1 << 22)
#define TOKENIZER_MAX_ADDED  1024                  // bytes of an added token: bounds the walk from each text position
#define TOKENIZER_MAX_RANKED 512                   // bytes of a token in tokenizer.model: its splits are all looked up
#define CACHE_BITS     14                          // 2^14 lines of 64 bytes: 1 MiB, about the size of a core's L2
#define CACHE_WORD     31
#define CACHE_IDS      7
#define SHORT_WORD     64                          // bytes up to which scanning for the lowest rank beats a heap
#define NO_RANK        0xFFFFFFFFu

enum { CLASS_OTHER, CLASS_LETTER, CLASS_NUMBER, CLASS_SPACE, CLASS_NEWLINE, CLASS_MASK = 7, NFC_TRIGGER = 8 };
enum { TOKEN_KNOWN = 1, TOKEN_ADDED = 2, TOKEN_SPECIAL = 4 };

typedef struct { int32_t left, right; uint32_t rank; int32_t id; } MergeSlot;          // left < 0: empty
typedef struct { uint64_t key; int32_t child; int32_t used; } EdgeSlot;
typedef struct { EdgeSlot *edges; int64_t mask; int32_t *ids; int64_t num_nodes; bool first[256]; } AddedTrie;   // ids[node]: token that ends here or -1
typedef struct { uint64_t key[4]; int32_t ids[CACHE_IDS]; int32_t count; } CacheLine;  // 31 bytes of word, its length in the last byte

typedef struct Workspace {   // what one running call needs; lives in the tokenizer's pool between calls
    struct Workspace *next;
    CacheLine *cache;
    Buffer repaired, normalized, points, classes;
    int32_t *ids, *previous, *following;   // a long word as a linked list
    uint64_t *heap;                        // rank << 32 | position
    int64_t capacity;
} Workspace;

typedef struct { pthread_mutex_t mutex; Workspace *idle; } WorkspacePool;

typedef struct Tokenizer {
    int64_t vocab_size;          // highest id + 1
    int64_t *offset;             // [vocab_size] into bytes
    int32_t *length;             // [vocab_size]
    uint8_t *flags;              // [vocab_size]
    Buffer bytes;                // what each id stands for, one after the other
    int32_t *words; int64_t word_mask;      // hash of the vocabulary: token bytes -> id, -1 empty
    MergeSlot *merges; int64_t merge_mask;
    uint64_t seed;               // of both hashes, from the file: a file cannot easily be made to collide
    int32_t byte_id[256];
    int64_t longest;             // bytes of the longest vocabulary entry
    AddedTrie raw, normalized;   // added tokens matched before and after normalization
    int32_t *added; int64_t num_added;
    uint8_t *classes;            // [0x110000]
    int max_digits;
    bool ignore_merges, nfc;
    int32_t bos, eos, prefix;    // prefix: what Hugging Face puts before a text of its own accord; -1: none
    Hash hash;
    WorkspacePool *pool;
} Tokenizer;

// ---------------------------------------------------------------------------------------------------------------
// Unicode

typedef struct { int32_t first, last; uint8_t class_; } ClassRange;

// letters and numbers of Unicode 16 that Unicode 15 does not have (UnicodeData.txt)
FN const ClassRange added_in_16[] = {
    {0x1C89, 0x1C8A, 1}, {0xA7CB, 0xA7CD, 1}, {0xA7DA, 0xA7DC, 1}, {0x105C0, 0x105F3, 1}, {0x10D40, 0x10D49, 2}, {0x10D4A, 0x10D65, 1},
    {0x10D6F, 0x10D85, 1}, {0x10EC2, 0x10EC4, 1}, {0x11380, 0x11389, 1}, {0x1138B, 0x1138B, 1}, {0x1138E, 0x1138E, 1}, {0x11390, 0x113B5, 1},
    {0x113B7, 0x113B7, 1}, {0x113D1, 0x113D1, 1}, {0x113D3, 0x113D3, 1}, {0x116D0, 0x116E3, 2}, {0x11BC0, 0x11BE0, 1}, {0x11BF0, 0x11BF9, 2},
    {0x13460, 0x143FA, 1}, {0x16100, 0x1611D, 1}, {0x16130, 0x16139, 2}, {0x16D40, 0x16D6C, 1}, {0x16D70, 0x16D79, 2}, {0x18CFF, 0x18CFF, 1},
    {0x1CCF0, 0x1CCF9, 2}, {0x1E5D0, 0x1E5ED, 1}, {0x1E5F0, 0x1E5F0, 1}, {0x1E5F1, 0x1E5FA, 2}, {0x2EBF0, 0x2EE5D, 1},
};

// combining marks (and the second half of U+11938) newer than Unicode 9, as far as utf8proc 2.8 knows them
FN const int32_t unknown_to_nfc[][2] = {
    {0x7FD, 0x7FD}, {0x898, 0x89F}, {0x8CA, 0x8D3}, {0x9FE, 0x9FE}, {0xC3C, 0xC3C}, {0xD3B, 0xD3C}, {0xEBA, 0xEBA}, {0x1715, 0x1715},
    {0x1ABF, 0x1ACE}, {0x1DF6, 0x1DFA}, {0xA82C, 0xA82C}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50},
    {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF},
};

// one byte per code point: its class, and whether NFC can change it or what stands before it. 1.1 MB.
FN uint8_t *unicode_classes(bool nfc) {
    uint8_t *classes = (uint8_t *)xcalloc(0x110000, 1);
    for (int32_t c = 0; c < 0x110000; c++) {
        const utf8proc_property_t *p = utf8proc_get_property(c);
        if (p->category >= UTF8PROC_CATEGORY_LU && p->category <= UTF8PROC_CATEGORY_LO) classes[c] = CLASS_LETTER;
        else if (p->category >= UTF8PROC_CATEGORY_ND && p->category <= UTF8PROC_CATEGORY_NO) classes[c] = CLASS_NUMBER;
        else if (p->category >= UTF8PROC_CATEGORY_ZS && p->category <= UTF8PROC_CATEGORY_ZP) classes[c] = CLASS_SPACE;
        if (!nfc || c < 0x80) continue;
        if (p->combining_class != 0) classes[c] |= NFC_TRIGGER;
        utf8proc_int32_t parts[32];
        int boundary = 0;
        utf8proc_ssize_t n = utf8proc_decompose_char(c, parts, 32, UTF8PROC_DECOMPOSE, &boundary);
        if (n > 1 || (n == 1 && parts[0] != c)) {
            // what composes is among the parts after the first; parts of a Hangul syllable are its vowel and trailing consonant
            for (utf8proc_ssize_t i = 1; i < n && i < 32; i++) classes[parts[i]] |= NFC_TRIGGER;
            // a composite that NFC leaves alone may still be taken apart by a mark behind it, which then is the trigger
            utf8proc_ssize_t m = utf8proc_normalize_utf32(parts, n, (utf8proc_option_t)(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
            if (m != 1 || parts[0] != c) classes[c] |= NFC_TRIGGER;
        }
    }
    for (int c = 9; c <= 13; c++) classes[c] = CLASS_SPACE;
    classes[0x85] = CLASS_SPACE;
    classes['\n'] = classes['\r'] = CLASS_NEWLINE;
    for (size_t i = 0; i < sizeof added_in_16 / sizeof added_in_16[0]; i++)
        for (int32_t c = added_in_16[i].first; c <= added_in_16[i].last; c++) classes[c] = added_in_16[i].class_;
    for (size_t i = 0; i < sizeof unknown_to_nfc / sizeof unknown_to_nfc[0]; i++)
        for (int32_t c = unknown_to_nfc[i][0]; c <= unknown_to_nfc[i][1]; c++) classes[c] &= CLASS_MASK;
    return classes;
}

// the code point at s, which is known to be valid UTF-8; *size gets its bytes
FN inline int32_t decode_valid(const uint8_t *s, int *size) {
    uint8_t c = s[0];
    if (c < 0x80) { *size = 1; return c; }
    if (c < 0xE0) { *size = 2; return (c & 0x1F) << 6 | (s[1] & 0x3F); }
    if (c < 0xF0) { *size = 3; return (c & 0x0F) << 12 | (s[1] & 0x3F) << 6 | (s[2] & 0x3F); }
    *size = 4;
    return (c & 0x07) << 18 | (s[1] & 0x3F) << 12 | (s[2] & 0x3F) << 6 | (s[3] & 0x3F);
}

// bytes of the character at s[0..n) when it is valid (*valid), else of the maximal subpart that one U+FFFD stands for
FN inline int utf8_step(const uint8_t *s, int64_t n, bool *valid) {
    uint8_t c = s[0];
    *valid = true;
    if (c < 0x80) return 1;
    int size = c >= 0xC2 && c < 0xE0 ? 2 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
    *valid = false;
    if (size == 0 || n < 2) return 1;
    uint8_t low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80, high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;   // no overlong forms, surrogates, > 10FFFF
    if (s[1] < low || s[1] > high) return 1;
    for (int k = 2; k < size; k++) if (k >= n || (s[k] & 0xC0) != 0x80) return k;
    *valid = true;
    return size;
}

// index of the first byte that is not valid UTF-8, or n
FN int64_t utf8_valid_prefix(const uint8_t *s, int64_t n) {
    for (int64_t i = 0; i < n;) {
        uint64_t eight;
        if (i + 8 <= n && (memcpy(&eight, s + i, 8), (eight & 0x8080808080808080ull) == 0)) { i += 8; continue; }
        bool valid;
        int size = utf8_step(s + i, n - i, &valid);
        if (!valid) return i;
        i += size;
    }
    return n;
}

FN void utf8_repair(const uint8_t *s, int64_t n, Buffer *out) {
    out->len = 0;
    for (int64_t i = 0; i < n;) {
        bool valid;
        int size = utf8_step(s + i, n - i, &valid);
        buffer_add(out, valid ? (const char *)s + i : "\xEF\xBF\xBD", valid ? size : 3);
        i += size;
    }
}

// NFC of one starter and the marks behind it. Marks are sorted here because utf8proc's own sort is quadratic in their number.
FN void nfc_chunk(const Tokenizer *t, Workspace *w, const uint8_t *s, int64_t n) {
    Buffer *points = &w->points, *classes = &w->classes;
    points->len = classes->len = 0;
    for (int64_t i = 0; i < n;) {
        int size;
        int32_t c = decode_valid(s + i, &size);
        utf8proc_int32_t parts[32];
        int boundary = 0;
        utf8proc_ssize_t k = t->classes[c] & NFC_TRIGGER || i == 0 ? utf8proc_decompose_char(c, parts, 32, UTF8PROC_DECOMPOSE, &boundary) : 0;
        if (k <= 0 || k > 32) { parts[0] = c; k = 1; }
        for (utf8proc_ssize_t j = 0; j < k; j++) {
            uint8_t class_ = (uint8_t)utf8proc_get_property(parts[j])->combining_class;
            if (!(t->classes[parts[j]] & NFC_TRIGGER)) class_ = 0;
            buffer_add(points, &parts[j], 4);
            buffer_add(classes, &class_, 1);
        }
        i += size;
    }
    int64_t count = classes->len;
    buffer_reserve(points, count * 4 + 16);
    int32_t *p = (int32_t *)points->data, *sorted = p + count;
    const uint8_t *class_ = (const uint8_t *)classes->data;
    for (int64_t i = 0; i < count;) {   // each run of marks by class, equal classes in their order: a counting sort
        if (class_[i] == 0) { i++; continue; }
        int64_t end = i, start[257] = {0};
        bool ordered = true;
        for (; end < count && class_[end] != 0; end++) { start[class_[end] + 1]++; if (end > i && class_[end] < class_[end - 1]) ordered = false; }
        if (!ordered) {
            for (int k = 0; k < 256; k++) start[k + 1] += start[k];
            for (int64_t k = i; k < end; k++) sorted[start[class_[k]]++] = p[k];
            memcpy(p + i, sorted, (size_t)(end - i) * 4);
        }
        i = end;
    }
    utf8proc_ssize_t m = utf8proc_normalize_utf32(p, (utf8proc_ssize_t)count, (utf8proc_option_t)(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    for (utf8proc_ssize_t i = 0; i < m; i++) {
        utf8proc_uint8_t encoded[4];
        buffer_add(&w->normalized, encoded, utf8proc_encode_char(p[i], encoded));
    }
}

// NFC of s[0..n) into w->normalized; false when s is its own NFC (almost always), with nothing written
FN bool nfc_text(const Tokenizer *t, Workspace *w, const uint8_t *s, int64_t n) {
    w->normalized.len = 0;
    int64_t copied = 0, starter = 0;   // a character that is no trigger never interacts with what is before it
    for (int64_t i = 0; i < n;) {
        if (s[i] < 0x80) { starter = i++; continue; }
        int size;
        int32_t c = decode_valid(s + i, &size);
        if (!(t->classes[c] & NFC_TRIGGER)) { starter = i; i += size; continue; }
        int64_t end = i;
        while (end < n && s[end] >= 0x80 && (t->classes[decode_valid(s + end, &size)] & NFC_TRIGGER)) end += size;
        buffer_add(&w->normalized, s + copied, starter - copied);
        nfc_chunk(t, w, s + starter, end - starter);
        copied = starter = i = end;
    }
    if (copied == 0) return false;
    buffer_add(&w->normalized, s + copied, n - copied);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// words: where the pre-token that starts at i ends. By hand, this is the first alternative that matches of
//   (?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N}{1,3} | ?[^\s\p{L}\p{N}]+[\r\n]* | \s*[\r\n]+ | \s+(?!\S) | \s+

FN inline int class_at(const uint8_t *classes, const uint8_t *s, int64_t i, int *size) {
    if (s[i] < 0x80) { *size = 1; return classes[s[i]]; }
    return classes[decode_valid(s + i, size)] & CLASS_MASK;
}

FN inline int64_t skip_class(const uint8_t *classes, const uint8_t *s, int64_t i, int64_t n, int class_) {
    int size;
    while (i < n && class_at(classes, s, i, &size) == class_) i += size;
    return i;
}

FN int64_t whitespace_end(const uint8_t *classes, const uint8_t *s, int64_t i, int64_t n) {
    int64_t end = i, last = i, after_newline = -1;
    while (end < n) {
        int size, class_ = class_at(classes, s, end, &size);
        if (class_ != CLASS_SPACE && class_ != CLASS_NEWLINE) break;
        last = end;
        end += size;
        if (class_ == CLASS_NEWLINE) after_newline = end;
    }
    if (after_newline > 0) return after_newline;   // \s*[\r\n]+ gives back what follows the last line break
    return end == n || last == i ? end : last;     // \s+(?!\S) leaves the last one to the word behind it
}

FN inline int64_t word_end(const uint8_t *classes, int max_digits, const uint8_t *s, int64_t i, int64_t n) {
    int size, class_ = class_at(classes, s, i, &size);
    int64_t j = i + size;
    if (class_ == CLASS_LETTER) return skip_class(classes, s, j, n, CLASS_LETTER);
    if (class_ == CLASS_NUMBER) {
        for (int k = 1; k < max_digits && j < n && class_at(classes, s, j, &size) == CLASS_NUMBER; k++) j += size;
        return j;
    }
    if (class_ == CLASS_NEWLINE) return whitespace_end(classes, s, i, n);
    if (j == n) return j;
    if (s[i] == '\'') {
        uint8_t a = s[j] | 0x20, b = j + 1 < n ? s[j + 1] | 0x20 : 0;
        if (a == 's' || a == 't' || a == 'm' || a == 'd') return j + 1;
        if ((b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l')) return j + 2;
        if (s[j] == 0xC5 && s[j + 1] == 0xBF) return j + 2;   // U+017F, the long s, is an s to (?i)
    }
    int next = class_at(classes, s, j, &size);
    if (next == CLASS_LETTER) return skip_class(classes, s, j + size, n, CLASS_LETTER);
    if (class_ == CLASS_SPACE && !(s[i] == ' ' && next == CLASS_OTHER)) return whitespace_end(classes, s, i, n);
    j = skip_class(classes, s, j, n, CLASS_OTHER);
    while (j < n && (s[j] == '\n' || s[j] == '\r')) j++;
    return j;
}

// ---------------------------------------------------------------------------------------------------------------
// merging the bytes of one word

FN inline const MergeSlot *find_merge(const Tokenizer *t, int32_t left, int32_t right) {
    uint64_t h = mix64(((uint64_t)(uint32_t)left << 32 | (uint32_t)right) ^ t->seed);
    for (;; h++) {
        const MergeSlot *m = &t->merges[h & (uint64_t)t->merge_mask];
        if (m->left == left && m->right == right) return m;
        if (m->left < 0) return NULL;
    }
}

FN int32_t find_word(const Tokenizer *t, const void *s, int64_t n) {   // id of the vocabulary entry with these bytes or -1
    if (n > t->longest) return -1;
    for (uint64_t h = XXH3_64bits_withSeed(s, (size_t)n, t->seed);; h++) {
        int32_t id = t->words[h & (uint64_t)t->word_mask];
        if (id < 0 || (t->length[id] == n && memcmp(t->bytes.data + t->offset[id], s, (size_t)n) == 0)) return id;
    }
}

FN void merge_short(const Tokenizer *t, const uint8_t *s, int n, Ids *out) {
    int32_t id[SHORT_WORD], merged[SHORT_WORD];
    uint32_t rank[SHORT_WORD];
    for (int i = 0; i < n; i++) id[i] = t->byte_id[s[i]];
    for (int i = 0; i + 1 < n; i++) {
        const MergeSlot *m = find_merge(t, id[i], id[i + 1]);
        rank[i] = m ? m->rank : NO_RANK;
        merged[i] = m ? m->id : -1;
    }
    while (n > 1) {
        int best = 0;
        for (int i = 1; i + 1 < n; i++) if (rank[i] < rank[best]) best = i;
        if (rank[best] == NO_RANK) break;
        id[best] = merged[best];
        n--;
        for (int i = best + 1; i < n; i++) { id[i] = id[i + 1]; rank[i - 1] = rank[i]; merged[i - 1] = merged[i]; }
        for (int i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const MergeSlot *m = find_merge(t, id[i], id[i + 1]);
            rank[i] = m ? m->rank : NO_RANK;
            merged[i] = m ? m->id : -1;
        }
    }
    for (int i = 0; i < n; i++) ids_add(out, id[i]);
}

// four children a node: half the levels, and half the cache misses, of a binary heap
FN inline void heap_down(uint64_t *heap, int64_t n, int64_t i) {
    uint64_t x = heap[i];
    for (int64_t child; (child = 4 * i + 1) < n;) {
        int64_t last = child + 4 < n ? child + 4 : n, best = child;
        for (int64_t k = child + 1; k < last; k++) if (heap[k] < heap[best]) best = k;
        if (heap[best] >= x) break;
        heap[i] = heap[best];
        i = best;
    }
    heap[i] = x;
}

FN inline void heap_push(uint64_t *heap, int64_t *n, uint64_t x) {
    int64_t i = (*n)++;
    for (; i > 0 && heap[(i - 1) / 4] > x; i = (i - 1) / 4) heap[i] = heap[(i - 1) / 4];
    heap[i] = x;
}

FN void workspace_grow(Workspace *w, int64_t n) {
    if (n <= w->capacity) return;
    free(w->ids); free(w->previous); free(w->following); free(w->heap);
    w->ids = (int32_t *)xmalloc(n * 4);
    w->previous = (int32_t *)xmalloc(n * 4);
    w->following = (int32_t *)xmalloc(n * 4);
    w->heap = (uint64_t *)xmalloc(n * 16);   // a merge takes one entry out and puts at most two in: never more than 2n
    w->capacity = n;
}

// A heap entry is (rank, position) in one integer. It is not removed when its pair is gone; when it comes out, the pair that
// now stands at that position must still have that rank.
FN void merge_long(const Tokenizer *t, Workspace *w, const uint8_t *s, int64_t n, Ids *out) {
    if (n >= INT32_MAX) die("a single word of %" PRId64 " bytes cannot be tokenized, expected less than 2 GiB", n);
    workspace_grow(w, n);
    int32_t *id = w->ids, *previous = w->previous, *following = w->following;
    int64_t size = 0;
    for (int64_t i = 0; i < n; i++) {
        id[i] = t->byte_id[s[i]];
        previous[i] = (int32_t)i - 1;
        following[i] = (int32_t)i + 1;
        const MergeSlot *m = i + 1 < n ? find_merge(t, id[i], t->byte_id[s[i + 1]]) : NULL;
        if (m) w->heap[size++] = (uint64_t)m->rank << 32 | (uint64_t)i;
    }
    for (int64_t i = (size - 2) / 4; i >= 0; i--) if (i < size) heap_down(w->heap, size, i);
    while (size > 0) {
        uint64_t top = w->heap[0];
        w->heap[0] = w->heap[--size];
        if (size > 0) heap_down(w->heap, size, 0);
        int64_t i = (int64_t)(top & 0xFFFFFFFFu);
        int64_t j = id[i] < 0 ? n : following[i];
        const MergeSlot *m = j < n ? find_merge(t, id[i], id[j]) : NULL;
        if (!m || m->rank != (uint32_t)(top >> 32)) continue;
        id[i] = m->id;
        id[j] = -1;
        int64_t k = following[i] = following[j], p = previous[i];
        if (k < n) {
            previous[k] = (int32_t)i;
            if ((m = find_merge(t, id[i], id[k])) != NULL) heap_push(w->heap, &size, (uint64_t)m->rank << 32 | (uint64_t)i);
        }
        if (p >= 0 && (m = find_merge(t, id[p], id[i])) != NULL) heap_push(w->heap, &size, (uint64_t)m->rank << 32 | (uint64_t)p);
    }
    for (int64_t i = 0; i < n; i = following[i]) ids_add(out, id[i]);
}

FN void encode_new_word(const Tokenizer *t, Workspace *w, const uint8_t *s, int64_t n, Ids *out) {
    int32_t id = t->ignore_merges ? find_word(t, s, n) : -1;
    if (id >= 0) ids_add(out, id);
    else if (n <= SHORT_WORD) merge_short(t, s, (int)n, out);
    else merge_long(t, w, s, n, out);
}

// s[0..n) has no added tokens and is normalized
FN void encode_words(const Tokenizer *t, Workspace *w, const uint8_t *s, int64_t n, Ids *out) {
    // row k keeps the first k bytes of a 32-byte load
    static const uint8_t keep[64] = {255,255,255,255,255,255,255,255,255,255,255,255,255,255,255,255,
                                     255,255,255,255,255,255,255,255,255,255,255,255,255,255,255,255};
    for (int64_t i = 0, end; i < n; i = end) {
        end = word_end(t->classes, t->max_digits, s, i, n);
        int64_t size = end - i;
        if (size > CACHE_WORD) { encode_new_word(t, w, s + i, size, out); continue; }
        uint64_t key[4] = {0, 0, 0, 0}, mask[4];
        if (i + 32 <= n) {
            memcpy(key, s + i, 32);
            memcpy(mask, keep + 32 - size, 32);
            for (int k = 0; k < 4; k++) key[k] &= mask[k];
        } else memcpy(key, s + i, (size_t)size);
        key[3] |= (uint64_t)size << 56;
        uint64_t h = (key[0] ^ key[2] * 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull ^ (key[1] ^ key[3] * 0xD6E8FEB86659FD93ull) * 0x94D049BB133111EBull;
        CacheLine *line = &w->cache[(h ^ h >> 29) * 0x9E3779B97F4A7C15ull >> (64 - CACHE_BITS)];
        if (((line->key[0] ^ key[0]) | (line->key[1] ^ key[1]) | (line->key[2] ^ key[2]) | (line->key[3] ^ key[3])) == 0) {
            if (out->len + CACHE_IDS > out->cap) ids_reserve(out, CACHE_IDS);
            memcpy(out->data + out->len, line->ids, sizeof line->ids);   // all of them: a copy of known size is cheaper
            out->len += line->count;
            continue;
        }
        int64_t before = out->len;
        encode_new_word(t, w, s + i, size, out);
        int64_t count = out->len - before;
        if (count > CACHE_IDS) continue;
        memcpy(line->key, key, sizeof key);
        memcpy(line->ids, out->data + before, (size_t)count * 4);
        line->count = (int32_t)count;
    }
}

// ---------------------------------------------------------------------------------------------------------------
// added tokens

FN int32_t trie_child(const AddedTrie *a, int32_t node, uint8_t byte) {
    uint64_t key = (uint64_t)node << 8 | byte;
    for (uint64_t h = mix64(key);; h++) {
        const EdgeSlot *edge = &a->edges[h & (uint64_t)a->mask];
        if (!edge->used) return -1;
        if (edge->key == key) return edge->child;
    }
}

FN void trie_build(AddedTrie *a, const Tokenizer *t, const int32_t *ids, int64_t n) {
    if (n == 0) return;
    int64_t total = 1, slots = 16;
    for (int64_t i = 0; i < n; i++) total += t->length[ids[i]];
    while (slots < 2 * total) slots *= 2;
    a->edges = (EdgeSlot *)xcalloc(slots, sizeof(EdgeSlot));
    a->mask = slots - 1;
    a->ids = (int32_t *)xmalloc(total * 4);
    a->ids[0] = -1;
    a->num_nodes = 1;
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *s = (const uint8_t *)t->bytes.data + t->offset[ids[i]];
        int32_t node = 0;
        a->first[s[0]] = true;
        for (int32_t k = 0; k < t->length[ids[i]]; k++) {
            int32_t child = trie_child(a, node, s[k]);
            if (child < 0) {
                uint64_t key = (uint64_t)node << 8 | s[k], h = mix64(key);
                while (a->edges[h & (uint64_t)a->mask].used) h++;
                EdgeSlot *edge = &a->edges[h & (uint64_t)a->mask];
                edge->key = key; edge->used = 1;
                edge->child = child = (int32_t)a->num_nodes++;
                a->ids[child] = -1;
            }
            node = child;
        }
        a->ids[node] = ids[i];
    }
}

// the leftmost, then longest, added token in s[from..n): its start (n: none), its id and bytes
FN int64_t trie_find(const AddedTrie *a, const uint8_t *s, int64_t from, int64_t n, int32_t *id, int64_t *size) {
    for (int64_t i = from; a->edges && i < n; i++) {
        if (!a->first[s[i]]) continue;
        int32_t node = 0;
        *id = -1;
        for (int64_t j = i; j < n && (node = trie_child(a, node, s[j])) >= 0; j++) if (a->ids[node] >= 0) { *id = a->ids[node]; *size = j + 1 - i; }
        if (*id >= 0) return i;
    }
    return n;
}

FN void encode_segment(const Tokenizer *t, Workspace *w, const uint8_t *s, int64_t n, bool parse_special, Ids *out) {
    if (t->nfc && nfc_text(t, w, s, n)) { s = (const uint8_t *)w->normalized.data; n = w->normalized.len; }
    if (!parse_special || !t->normalized.edges) { encode_words(t, w, s, n, out); return; }
    for (int64_t i = 0; i < n;) {
        int32_t id = -1;
        int64_t size = 0, at = trie_find(&t->normalized, s, i, n, &id, &size);
        encode_words(t, w, s + i, at - i, out);
        if (at < n) ids_add(out, id);
        i = at + size;
    }
}

// ---------------------------------------------------------------------------------------------------------------
// public: encode and decode

FN void workspace_free(Workspace *w) {
    free(w->cache); free(w->ids); free(w->previous); free(w->following); free(w->heap);
    buffer_free(&w->repaired); buffer_free(&w->normalized); buffer_free(&w->points); buffer_free(&w->classes);
    free(w);
}

FN Workspace *workspace_take(const Tokenizer *t) {
    pthread_mutex_lock(&t->pool->mutex);
    Workspace *w = t->pool->idle;
    if (w) t->pool->idle = w->next;
    pthread_mutex_unlock(&t->pool->mutex);
    if (w) return w;
    w = (Workspace *)xcalloc(1, sizeof(Workspace));
    void *lines = NULL;
    if (posix_memalign(&lines, 64, sizeof(CacheLine) << CACHE_BITS) != 0) die("out of memory for the tokenizer's cache");
    memset(lines, 0, sizeof(CacheLine) << CACHE_BITS);   // a length of 0 matches no word
    w->cache = (CacheLine *)lines;
    return w;
}

FN void workspace_give_back(const Tokenizer *t, Workspace *w) {
    // one giant document must not pin its scratch memory for the rest of the run
    if (w->capacity > 1 << 20 || w->repaired.cap + w->normalized.cap + w->points.cap + w->classes.cap > 64 << 20) { workspace_free(w); return; }
    pthread_mutex_lock(&t->pool->mutex);
    w->next = t->pool->idle;
    t->pool->idle = w;
    pthread_mutex_unlock(&t->pool->mutex);
}

// Appends the ids of text[0..length) to out. parse_special: added tokens spelled in the text become their ids, as Hugging
// Face does; false: text stays text whatever it spells. Any number of threads may call this with the same tokenizer.
FN void tokenizer_encode(const Tokenizer *t, const char *text, int64_t length, bool parse_special, Ids *out) {
    if (length <= 0) return;
    Workspace *w = workspace_take(t);
    const uint8_t *s = (const uint8_t *)text;
    if (utf8_valid_prefix(s, length) < length) {
        utf8_repair(s, length, &w->repaired);
        s = (const uint8_t *)w->repaired.data;
        length = w->repaired.len;
    }
    for (int64_t i = 0; i < length;) {
        int32_t id = -1;
        int64_t size = 0, at = parse_special ? trie_find(&t->raw, s, i, length, &id, &size) : length;
        if (at > i) encode_segment(t, w, s + i, at - i, parse_special, out);
        if (at < length) ids_add(out, id);
        i = at + size;
    }
    workspace_give_back(t, w);
}

// Appends the bytes that the ids stand for; they need not be valid UTF-8. Ids outside the vocabulary are ignored.
FN void tokenizer_decode(const Tokenizer *t, const int32_t *ids, int64_t n, bool skip_special, Buffer *out) {
    for (int64_t i = 0; i < n; i++) {
        int32_t id = ids[i];
        if (id < 0 || id >= t->vocab_size || (skip_special && (t->flags[id] & TOKEN_SPECIAL))) continue;
        buffer_add(out, t->bytes.data + t->offset[id], t->length[id]);
    }
}

FN int32_t tokenizer_find(const Tokenizer *t, const char *content) {   // id of an added token or -1
    size_t n = strlen(content);
    for (int64_t i = 0; i < t->num_added; i++) {
        int32_t id = t->added[i];
        if ((size_t)t->length[id] == n && memcmp(t->bytes.data + t->offset[id], content, n) == 0) return id;
    }
    return -1;
}

FN int64_t tokenizer_vocab_size(const Tokenizer *t) { return t->vocab_size; }
FN int32_t tokenizer_bos(const Tokenizer *t) { return t->bos; }
FN int32_t tokenizer_eos(const Tokenizer *t) { return t->eos; }
FN int32_t tokenizer_prefix(const Tokenizer *t) { return t->prefix; }
FN const char *tokenizer_hash(const Tokenizer *t) { return t->hash.hex; }

FN void tokenizer_free(Tokenizer *t) {
    if (!t) return;
    while (t->pool && t->pool->idle) { Workspace *w = t->pool->idle; t->pool->idle = w->next; workspace_free(w); }
    if (t->pool) pthread_mutex_destroy(&t->pool->mutex);
    free(t->pool); free(t->offset); free(t->length); free(t->flags); free(t->words); free(t->merges); free(t->added); free(t->classes);
    free(t->raw.edges); free(t->raw.ids); free(t->normalized.edges); free(t->normalized.ids);
    buffer_free(&t->bytes);
    free(t);
}

#include "tokenizer_load.h"   // defines: tokenizer_parse, tokenizer_load
#endif
