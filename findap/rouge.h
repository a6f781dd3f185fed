// rouge.h: ROUGE-1, -2 and -L as the Python package rouge_score computes them, with or without its stemmer.
//
// Its tokens are runs of a-z and 0-9 of the lower-case text: "12.5" is two tokens, letters beyond ASCII separate. Its stemmer is Porter's (1980) with the changes that NLTK
// made, so not the textbook's, and only tokens of more than three characters go through it. Python's lower() makes two characters ASCII that were not: U+0130 and U+212A.
//
// The longest common subsequence is found 64 tokens at a time (Crochemore et al. 2001, Hyyro 2004): memory is linear in the shorter text, time their product / 64. Texts are
// cut behind ROUGE_MAX_TOKENS tokens, so two hostile texts of any size cost about a second.
#ifndef FINDAP_ROUGE_H
#define FINDAP_ROUGE_H
#include "metrics.h"   // defines: Prf, prf_of, text_compare

enum { ROUGE_MAX_TOKENS = 262144 };

typedef enum { ROUGE_1, ROUGE_2, ROUGE_L, NUM_ROUGE } RougeKind;

// ---------------------------------------------------------------------------------------------------------------
// Porter's stemmer. `w` is a lower-case word of n letters and digits

// The measure m of w: how often consonants follow vowels in (C)(VC)^m(V). *vowel: there is one; *consonant: the last is one; y is a vowel behind a consonant.
FN int64_t stem_measure(const char *w, int64_t n, bool *vowel, bool *consonant) {
    int64_t m = 0;
    bool before = true;   // consonant?
    *vowel = false;
    *consonant = false;
    for (int64_t i = 0; i < n; i++) {
        bool c = w[i] == 'y' ? i == 0 || !before : !strchr("aeiou", w[i]);
        m += i > 0 && c && !before;
        *vowel = *vowel || !c;
        *consonant = before = c;
    }
    return m;
}
FN bool is_consonant(const char *w, int64_t n) { bool v, c; stem_measure(w, n, &v, &c); return c; }   // the last of n
FN int64_t measure_of(const char *w, int64_t n) { bool v, c; return stem_measure(w, n, &v, &c); }
FN bool ends_cvc(const char *w, int64_t n) {   // and not on w, x or y; or two letters, a vowel and a consonant
    if (n == 2) return !is_consonant(w, 1) && is_consonant(w, 2);
    return n >= 3 && is_consonant(w, n - 2) && !is_consonant(w, n - 1) && is_consonant(w, n) && !strchr("wxy", w[n - 1]);
}
FN bool ends_with(const char *w, int64_t n, const char *suffix) {
    int64_t k = (int64_t)strlen(suffix);
    return n >= k && memcmp(w + n - k, suffix, (size_t)k) == 0;
}

typedef struct { const char *suffix, *by; } StemRule;
// The first rule whose suffix is there decides: it is applied if the measure of what is before it is above `above`, else none is.
FN int64_t stem_apply(char *w, int64_t n, const StemRule *rules, int64_t above) {
    for (const StemRule *r = rules; r->suffix; r++) {
        if (!ends_with(w, n, r->suffix)) continue;
        int64_t stem = n - (int64_t)strlen(r->suffix), by = (int64_t)strlen(r->by);
        if (strcmp(r->suffix, "logi") == 0) { if (measure_of(w, stem + 1) <= above) return n; }   // "geologi": its l counts as the stem's
        else if (measure_of(w, stem) <= above) return n;
        if (strcmp(r->suffix, "ion") == 0 && (stem == 0 || !strchr("st", w[stem - 1]))) return n;
        memcpy(w + stem, r->by, (size_t)by);
        return stem + by;
    }
    return n;
}

FN int64_t stem_plural_and_past(char *w, int64_t n) {   // steps 1a, 1b, 1c
    if (ends_with(w, n, "sses")) n -= 2;
    else if (ends_with(w, n, "ies")) n -= n == 4 ? 1 : 2;   // "dies" is of "die"
    else if (ends_with(w, n, "s") && !ends_with(w, n, "ss")) n--;
    int64_t cut = 0;
    bool vowel, consonant;
    if (ends_with(w, n, "ied")) n -= n == 4 ? 1 : 2;
    else if (ends_with(w, n, "eed")) n -= measure_of(w, n - 3) > 0;
    else if (ends_with(w, n, "ed") && (stem_measure(w, n - 2, &vowel, &consonant), vowel)) cut = 2;
    else if (ends_with(w, n, "ing") && (stem_measure(w, n - 3, &vowel, &consonant), vowel)) cut = 3;
    if (cut) {
        n -= cut;
        if (ends_with(w, n, "at") || ends_with(w, n, "bl") || ends_with(w, n, "iz")) w[n++] = 'e';
        else if (n >= 2 && w[n - 1] == w[n - 2] && is_consonant(w, n)) n -= !strchr("lsz", w[n - 1]);
        else if (measure_of(w, n) == 1 && ends_cvc(w, n)) w[n++] = 'e';
    }
    if (n > 2 && w[n - 1] == 'y' && is_consonant(w, n - 1)) w[n - 1] = 'i';
    return n;
}

FN int64_t porter_stem(char *w, int64_t n) {   // in place, n characters; the new length, never more than n
    static const char *const irregular[][2] = {{"sky", "sky"}, {"skies", "sky"}, {"dying", "die"}, {"lying", "lie"}, {"tying", "tie"}, {"news", "news"}, {"innings", "inning"}, {"inning", "inning"},
        {"outings", "outing"}, {"outing", "outing"}, {"cannings", "canning"}, {"canning", "canning"}, {"howe", "howe"}, {"proceed", "proceed"}, {"exceed", "exceed"}, {"succeed", "succeed"}};
    static const StemRule step2[] = {{"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"}, {"anci", "ance"}, {"izer", "ize"}, {"bli", "ble"}, {"alli", "al"}, {"entli", "ent"}, {"eli", "e"},
        {"ousli", "ous"}, {"ization", "ize"}, {"ation", "ate"}, {"ator", "ate"}, {"alism", "al"}, {"iveness", "ive"}, {"fulness", "ful"}, {"ousness", "ous"}, {"aliti", "al"}, {"iviti", "ive"},
        {"biliti", "ble"}, {"fulli", "ful"}, {"logi", "log"}, {NULL, NULL}};
    static const StemRule step3[] = {{"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"}, {"ical", "ic"}, {"ful", ""}, {"ness", ""}, {NULL, NULL}};
    static const StemRule step4[] = {{"al", ""}, {"ance", ""}, {"ence", ""}, {"er", ""}, {"ic", ""}, {"able", ""}, {"ible", ""}, {"ant", ""}, {"ement", ""}, {"ment", ""}, {"ent", ""}, {"ion", ""},
        {"ou", ""}, {"ism", ""}, {"ate", ""}, {"iti", ""}, {"ous", ""}, {"ive", ""}, {"ize", ""}, {NULL, NULL}};
    for (size_t i = 0; i < sizeof irregular / sizeof *irregular; i++) {
        if (n != (int64_t)strlen(irregular[i][0]) || memcmp(w, irregular[i][0], (size_t)n) != 0) continue;
        n = (int64_t)strlen(irregular[i][1]);
        memcpy(w, irregular[i][1], (size_t)n);
        return n;
    }
    if (n <= 2) return n;
    n = stem_plural_and_past(w, n);
    if (ends_with(w, n, "alli") && measure_of(w, n - 4) > 0) n -= 2;   // and what is left goes through step 2
    n = stem_apply(w, n, step2, 0);
    n = stem_apply(w, n, step3, 0);
    n = stem_apply(w, n, step4, 1);
    if (ends_with(w, n, "e")) {   // step 5
        int64_t m = measure_of(w, n - 1);
        if (m > 1 || (m == 1 && !ends_cvc(w, n - 1))) n--;
    }
    if (ends_with(w, n, "ll") && measure_of(w, n - 1) > 1) n--;
    return n;
}

// ---------------------------------------------------------------------------------------------------------------
// tokens: numbers, equal where the (stemmed) words are, of two texts at once

typedef struct { Buffer letters; Text *words; int64_t count, cap; bool cut; } RougeWords;

FN void rouge_word(RougeWords *w, int64_t begin, bool stem) {   // letters from `begin` on are one more word
    int64_t n = w->letters.len - begin;
    if (n > 3 && stem) n = porter_stem(w->letters.data + begin, n);
    w->letters.len = begin + n;
    if (n == 0) return;
    if (w->count == w->cap) { w->cap = w->cap ? 2 * w->cap : 64; w->words = (Text *)xrealloc(w->words, w->cap, sizeof(Text)); }
    w->words[w->count++] = text_make(NULL, begin);   // places for now: letters may move
}
FN RougeWords rouge_words(Text t, bool stem) {
    RougeWords w;
    memset(&w, 0, sizeof w);
    int64_t begin = 0;
    for (int64_t i = 0; i <= t.length && !w.cut; i++) {
        unsigned char c = i < t.length ? (unsigned char)t.data[i] : 0;
        bool kelvin = i + 2 < t.length && memcmp(t.data + i, "\xE2\x84\xAA", 3) == 0, dotted = i + 1 < t.length && memcmp(t.data + i, "\xC4\xB0", 2) == 0;   // lower() makes k and i + U+0307 of them
        char letter = c >= 'A' && c <= 'Z' ? (char)(c | 32) : kelvin ? 'k' : dotted ? 'i' : (char)c;
        if (is_word(letter)) buffer_add(&w.letters, &letter, 1);
        if (kelvin) i += 2;
        if ((!is_word(letter) || dotted) && w.letters.len > begin) { rouge_word(&w, begin, stem); begin = w.letters.len; }
        if (w.count == ROUGE_MAX_TOKENS) for (; i < t.length && !w.cut; i++) w.cut = is_word(t.data[i]);   // is there more?
    }
    for (int64_t i = 0; i < w.count; i++) {
        int64_t from = w.words[i].length;
        w.words[i] = text_make(w.letters.data + from, (i + 1 < w.count ? w.words[i + 1].length : w.letters.len) - from);
    }
    return w;
}
FN void rouge_words_free(RougeWords *w) { buffer_free(&w->letters); free(w->words); memset(w, 0, sizeof *w); }

FN int64_t text_place(const Text *set, int64_t n, Text t) {   // where t is in a sorted set that has it
    int64_t low = 0, high = n - 1;
    while (low < high) { int64_t m = (low + high) / 2; if (text_compare(&set[m], &t) < 0) low = m + 1; else high = m; }
    return low;
}
FN int64_t *rouge_ids(const RougeWords *a, const RougeWords *b) {   // a's, then b's; the caller frees them
    const int64_t n = a->count + b->count;
    Text *all = (Text *)xcalloc(n, sizeof(Text));
    int64_t *ids = (int64_t *)xcalloc(n, sizeof(int64_t)), size;
    if (a->count) memcpy(all, a->words, (size_t)a->count * sizeof(Text));
    if (b->count) memcpy(all + a->count, b->words, (size_t)b->count * sizeof(Text));
    Text *set = text_set(all, n, &size);
    for (int64_t i = 0; i < n; i++) ids[i] = text_place(set, size, all[i]);
    free(all); free(set);
    return ids;
}

// ---------------------------------------------------------------------------------------------------------------
// scores

FN int compare_int64(const void *a, const void *b) { int64_t x = *(const int64_t *)a, y = *(const int64_t *)b; return (x > y) - (x < y); }

FN int64_t *grams_sorted(const int64_t *ids, int64_t n, int order) {   // of `order` 1 or 2, as single numbers; the caller frees them
    int64_t count = n - order + 1 > 0 ? n - order + 1 : 0, *grams = (int64_t *)xcalloc(count, sizeof(int64_t));
    for (int64_t i = 0; i < count; i++) grams[i] = order == 1 ? ids[i] : ids[i] * (2 * ROUGE_MAX_TOKENS) + ids[i + 1];
    qsort(grams, (size_t)count, sizeof(int64_t), compare_int64);
    return grams;
}
FN Prf rouge_grams(const int64_t *gold, int64_t num_gold, const int64_t *pred, int64_t num_pred, int order) {   // how many are in both, each as often as where it is rarer
    int64_t *g = grams_sorted(gold, num_gold, order), *p = grams_sorted(pred, num_pred, order), both = 0;
    int64_t ng = num_gold - order + 1 > 0 ? num_gold - order + 1 : 0, np = num_pred - order + 1 > 0 ? num_pred - order + 1 : 0;
    for (int64_t i = 0, k = 0; i < ng && k < np;) {
        both += g[i] == p[k];
        if (g[i] == p[k]) { i++; k++; } else if (g[i] < p[k]) i++; else k++;
    }
    free(g); free(p);
    return prf_of((double)both, (double)np, (double)ng);
}

// Length of the longest common subsequence of a (n) and b (m); ids are below `num_ids`. A row of the usual table grows by 0 or 1 from a place to the next: bit i is 1 where
// it doesn't, and a row follows from the one before by an addition. Where in the shorter text a token stands is a list (`first`, `next`), as bits only while it is needed,
// or for tokens so frequent that walking the list costs more than a row; there are at most 64 of those, so memory stays linear.
FN int64_t lcs_length(const int64_t *a, int64_t n, const int64_t *b, int64_t m, int64_t num_ids) {
    if (n > m) { const int64_t *s = a; a = b; b = s; int64_t k = n; n = m; m = k; }
    if (n == 0) return 0;
    const int64_t W = (n + 63) / 64;
    uint64_t *row = (uint64_t *)xcalloc(W, 8), *scratch = (uint64_t *)xcalloc(W, 8), **kept = (uint64_t **)xcalloc(num_ids, sizeof(uint64_t *));
    int64_t *first = (int64_t *)xcalloc(num_ids, 8), *next = (int64_t *)xcalloc(n, 8), *count = (int64_t *)xcalloc(num_ids, 8), length = 0;   // places count from 1
    for (int64_t i = 0; i < n; i++) { next[i] = first[a[i]]; first[a[i]] = i + 1; count[a[i]]++; }
    for (int64_t i = 0; i < W; i++) row[i] = ~0ull;
    for (int64_t k = 0; k < m; k++) {
        const int64_t id = b[k];
        if (!first[id]) continue;
        uint64_t *at = kept[id], carry = 0;
        if (!at) {
            at = count[id] > W ? kept[id] = (uint64_t *)xcalloc(W, 8) : scratch;
            for (int64_t i = first[id]; i; i = next[i - 1]) at[(i - 1) / 64] |= 1ull << ((i - 1) % 64);
        }
        for (int64_t w = 0; w < W; w++) {
            uint64_t u = row[w] & at[w], sum = row[w] + u, with = sum + carry;
            carry = (uint64_t)(sum < u) | (uint64_t)(with < sum);
            row[w] = with | (row[w] - u);
        }
        if (at == scratch) for (int64_t i = first[id]; i; i = next[i - 1]) at[(i - 1) / 64] = 0;
    }
    for (int64_t i = 0; i < n; i++) length += !(row[i / 64] >> (i % 64) & 1);
    for (int64_t i = 0; i < num_ids; i++) free(kept[i]);
    free(row); free(scratch); free(kept); free(first); free(next); free(count);
    return length;
}

FN bool rouge(Text gold, Text prediction, bool stem, Prf out[NUM_ROUGE]) {   // false: a text was cut, the scores are of its first ROUGE_MAX_TOKENS tokens
    RougeWords g = rouge_words(gold, stem), p = rouge_words(prediction, stem);
    int64_t *ids = rouge_ids(&g, &p);
    const int64_t *pred = ids + g.count;
    out[ROUGE_1] = rouge_grams(ids, g.count, pred, p.count, 1);
    out[ROUGE_2] = rouge_grams(ids, g.count, pred, p.count, 2);
    out[ROUGE_L] = prf_of((double)lcs_length(ids, g.count, pred, p.count, g.count + p.count), (double)p.count, (double)g.count);
    bool whole = !g.cut && !p.cut;
    free(ids);
    rouge_words_free(&g); rouge_words_free(&p);
    return whole;
}

#endif
