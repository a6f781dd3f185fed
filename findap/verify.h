// verify.h: is an answer right? - without a judge, where the gold answer is a letter, a number or a short text.
//
// An answer is brought down to its final result first. What stands behind "answer:", "answer is", "####" or inside \boxed{} is anchored: it counts wherever
// it stands, and two anchored results that differ are ambiguous, or guessing twice would pay. Without an anchor a text counts as a whole, a label where a line
// begins with it, a number if the last line has just one. What is cut off, ambiguous or without a result is neither right nor wrong: it is
// counted under its own name and takes part in nothing. So errors are on the side of saying nothing. The gold answer goes the same way.
#ifndef FINDAP_VERIFY_H
#define FINDAP_VERIFY_H
#include "finance_number.h"   // defines: Number, Found, number_next, number_of, number_equal

typedef enum { VERIFY_AUTO, VERIFY_CHOICE, VERIFY_NUMBER, VERIFY_EXACT, NUM_VERIFY } VerifyKind;   // auto: by the gold answer
FN const char *const verify_names[NUM_VERIFY] = {"auto", "choice", "number", "exact"};

typedef enum { VERIFIED_RIGHT, VERIFIED_WRONG, VERIFIED_EMPTY, VERIFIED_TRUNCATED, VERIFIED_NO_RESULT, VERIFIED_AMBIGUOUS, VERIFIED_NO_GOLD, NUM_VERIFIED } Verified;
FN const char *const verified_names[NUM_VERIFIED] = {"right", "wrong", "empty", "truncated", "no_result", "ambiguous", "no_gold"};

FN bool verify_find(const char *name, VerifyKind *kind, Error *e) {
    for (int i = 0; i < NUM_VERIFY; i++) if (strcmp(name, verify_names[i]) == 0) { *kind = (VerifyKind)i; return true; }
    return fail(e, "there is no verifier \"%s\", expected auto, choice, number or exact", name);
}

// ---------------------------------------------------------------------------------------------------------------
// labels

// The choice, A to J, that t begins with: "B", "(b)", "**B.** because", "option C: ...". Not anchored, a letter that a sentence follows is more likely a
// quantity: "G + T = 5", "A is the price".
FN Found label_of(Text t, bool anchored, char *label) {
    const char *const around = " \t*_\"'`([{$\\";
    int64_t i = 0;
    while (text_at(t, i) && strchr(around, t.data[i])) i++;
    const Text rest = text_from(t, i);
    if (text_begins(rest, "option ") || text_begins(rest, "choice ")) i += 7;
    while (text_at(t, i) && strchr(around, t.data[i])) i++;
    char c = text_at(t, i), next = text_at(t, i + 1);
    bool lower = c >= 'a' && c <= 'j', bracket = text_at(t, i - 1) == '(' || text_at(t, i - 1) == '[';
    if (!lower && !(c >= 'A' && c <= 'J')) return RESULT_NONE;
    if (is_word(next) || (next & 0x80) || next == '\'' || next == '-' || next == '_') return RESULT_NONE;
    int64_t k = i + 1;
    while (text_at(t, k) && strchr(")]}*\"`.:$", t.data[k])) k++;
    if (lower && !(bracket && (next == ')' || next == ']')) && k < t.length) return RESULT_NONE;   // "a" is a word
    bool closed = k > i + 1;
    while (text_at(t, k) == ' ' || text_at(t, k) == ',') k++;
    Text after = text_from(t, k);
    if (!closed && k < t.length && (c == 'A' || c == 'I')) {   // and so is "A", "I"
        static const char *const follow[] = {"because", "since", "as ", "and ", "or ", "is ", "/", "&"};
        bool good = text_at(t, i + 1) == ',';
        for (int f = 0; f < 8; f++) good = good || text_begins(after, follow[f]);
        if (!good) return RESULT_NONE;
    }
    // "B or C", "B/C", "B, C": no choice was made
    bool listed = text_begins(after, "and ") || text_begins(after, "or ") || text_begins(after, "/") || text_begins(after, "&") || (k > 0 && text_find(text_slice(t, i, k), text_of(","), 0) >= 0);
    int64_t skip = text_begins(after, "and ") ? 4 : text_begins(after, "or ") ? 3 : text_begins(after, "/") || text_begins(after, "&") ? 1 : 0;
    while (text_at(after, skip) && strchr(around, after.data[skip])) skip++;
    char second = text_at(after, skip), behind = text_at(after, skip + 1);
    if (listed && second >= 'A' && second <= 'J' && second != (c & ~32) && !is_word(behind) && !(behind & 0x80) && behind != '\'') return RESULT_AMBIGUOUS;
    if (!anchored && !closed && k < t.length && next != ',') return RESULT_NONE;
    *label = (char)(c & ~32);
    return RESULT_ONE;
}

FN Text label_words(Text t) {   // without "the correct answer is", "Correct option:", "Ans."
    static const char *const words[] = {"the", "correct", "right", "answer", "option", "choice", "is", "ans"};
    for (int k = 0; k < 8; k++) {
        int64_t n = (int64_t)strlen(words[k]);
        if (!text_begins(t, words[k]) || is_word(text_at(t, n))) continue;
        t = text_from(t, n);
        while (t.length && strchr(" :.*", t.data[0])) t = text_from(t, 1);
        k = -1;   // any of them may follow
    }
    return t;
}

// ---------------------------------------------------------------------------------------------------------------
// the final result of an answer

typedef struct { char label; Number number; Text text; } Result;

FN Text result_text(Text t) {   // without what is put around a result
    for (Text before = text_make("", -1); t.length != before.length;) {
        before = t;
        t = text_trim(t);
        while (t.length && strchr("\"'*_`$", t.data[0])) t = text_from(t, 1);
        while (t.length && strchr("\"'*_`$.!,;:", t.data[t.length - 1])) t.length--;
    }
    return t;
}
FN bool result_equal(VerifyKind kind, const Result *p, const Result *g, double tolerance) {
    return kind == VERIFY_CHOICE ? p->label == g->label : kind == VERIFY_NUMBER ? number_equal(p->number, g->number, tolerance) : text_same_wording(p->text, g->text);
}
FN bool result_identical(VerifyKind kind, const Result *a, const Result *b) {
    return kind == VERIFY_NUMBER ? a->number.value == b->number.value && a->number.percent == b->number.percent : result_equal(kind, a, b, 0);
}
FN Found result_of(VerifyKind kind, Text t, bool anchored, Result *r) {
    r->text = result_text(t);
    if (kind == VERIFY_CHOICE) return label_of(anchored ? text_trim(t) : label_words(text_trim(t)), anchored, &r->label);
    if (kind == VERIFY_NUMBER) return number_of(t, anchored, &r->number);
    return r->text.length ? RESULT_ONE : RESULT_NONE;
}

// The next anchored span of t at or behind *at, which moves to its beginning, so that an anchor inside a span is found as well; false: none
FN bool anchor_next(Text t, int64_t *at, Text *span) {
    for (int64_t i = *at; i < t.length; i++) {
        Text rest = text_from(t, i);
        bool boxed = text_begins(rest, "\\boxed{");
        if (boxed) {
            int64_t depth = 1, k = 7;
            while (k < rest.length && k < 4096 && depth) { depth += rest.data[k] == '{' ? 1 : rest.data[k] == '}' ? -1 : 0; k++; }   // bounded, or a page of open braces costs a page each
            *at = i + 7;
            if (depth) continue;   // never closed
            *span = text_slice(rest, 7, k - 1);
            return true;
        }
        int64_t k = 0;
        if (text_begins(rest, "####")) k = 4;
        else if (text_begins(rest, "answer") && !is_word(text_at(t, i - 1))) {
            k = 6;
            while (text_at(rest, k) && strchr(" \t*_\"", rest.data[k])) k++;
            if (text_at(rest, k) == ':' || text_at(rest, k) == '=') k++;
            else if (text_begins(text_from(rest, k), "is") && !is_word(text_at(rest, k + 2))) k += 2 + (text_at(rest, k + 2) == ':');
            else if (k > 6 && text_begins(text_from(rest, k), "- ")) k += 2;   // "Answer - B"; "answer -5" has a sign
            else continue;
        } else continue;
        *at = i + k;
        for (int64_t from = *at; from < t.length;) {   // the rest of the line, or the next line that has anything
            *span = text_trim(text_line(t, &from));
            while (span->length && strchr("*_ \t", span->data[0])) *span = text_from(*span, 1);
            if (span->length) return true;
        }
        return false;
    }
    return false;
}

FN Found final_result(VerifyKind kind, Text t, Result *out) {
    Text span, line;
    Result r;
    memset(&r, 0, sizeof r);
    Found found = RESULT_NONE, one;
    for (int64_t at = 0; anchor_next(t, &at, &span);) {
        Text inner;
        int64_t begin = 0;
        if (anchor_next(span, &begin, &inner)) continue;   // "Answer: the answer is 5": the inner one comes next
        if ((one = result_of(kind, span, true, &r)) == RESULT_NONE) continue;
        if (one == RESULT_AMBIGUOUS || (found && !result_identical(kind, &r, out))) return RESULT_AMBIGUOUS;
        *out = r;
        found = one;
    }
    if (found) return found;
    if (kind == VERIFY_EXACT) return result_of(kind, t, false, out);
    for (int64_t at = 0; at < t.length;) {
        line = text_trim(text_line(t, &at));
        if (line.length == 0) continue;
        one = result_of(kind, line, false, &r);
        if (kind == VERIFY_NUMBER) { *out = r; found = one; continue; }   // the last line's
        if (one == RESULT_NONE) continue;
        if (one == RESULT_AMBIGUOUS || (found && r.label != out->label)) return RESULT_AMBIGUOUS;
        *out = r;
        found = one;
    }
    return found;
}

// what the gold answer is: a label, or a number and nothing else, or a text
FN VerifyKind verify_kind_of(Text gold) {
    Text span = gold, t;
    for (int64_t at = 0; anchor_next(gold, &at, &t);) span = t;
    t = result_text(span);
    char label;
    Number n;
    int64_t at = 0;
    bool bare = t.length == 1 || (t.length > 1 && strchr(".):", t.data[1])) || (t.length > 2 && t.data[0] == '(' && t.data[2] == ')');
    if (bare && label_of(t, true, &label) == RESULT_ONE) return VERIFY_CHOICE;
    if (number_next(t, &at, &n) != RESULT_ONE) return VERIFY_EXACT;
    for (int64_t i = at; i < t.length; i++) if (is_word(t.data[i]) || (t.data[i] & 0x80)) return VERIFY_EXACT;
    int64_t first = 0;
    while (first < t.length && !is_word(t.data[first])) first++;
    return is_digit(text_at(t, first)) || text_at(t, 0) == '$' ? VERIFY_NUMBER : VERIFY_EXACT;
}

FN Verified verify(VerifyKind kind, Text answer, bool capped, Text gold, double tolerance) {
    Result g, p;
    memset(&g, 0, sizeof g);
    memset(&p, 0, sizeof p);
    gold = text_trim(gold);
    if (kind == VERIFY_AUTO) kind = verify_kind_of(gold);
    if (final_result(kind, gold, &g) != RESULT_ONE) return VERIFIED_NO_GOLD;
    answer = text_trim(answer);
    if (answer.length == 0) return VERIFIED_EMPTY;
    if (capped || !text_after_thinking(&answer)) return VERIFIED_TRUNCATED;
    if (answer.length == 0) return VERIFIED_EMPTY;
    Found found = final_result(kind, answer, &p);
    if (found != RESULT_ONE) return found == RESULT_NONE ? VERIFIED_NO_RESULT : VERIFIED_AMBIGUOUS;
    return result_equal(kind, &p, &g, tolerance) ? VERIFIED_RIGHT : VERIFIED_WRONG;
}

#endif
