// eval_extract.h: what a model's output answers. A reading is one of five outcomes, and never a default: answered, missing (it says none of what was asked for), ambiguous (it
// says two things), truncated (it was cut off at the cap, or inside its thoughts), empty. What is not "answered" is counted under its own name and is never right.
//
// How. A reasoning model's <think>...</think> goes first. What stands behind an anchor - "answer:", "answer is", \boxed{}, ####, [[A]] - counts before all else, wherever it
// stands; two anchored answers that differ are ambiguous, or guessing twice would pay. Next a line "Sentiment: ..", then a line or a beginning that is an answer by itself, and
// last, for labels, a sentence that says one label and no other. Labels are whole words, the longest first; "not positive", "whether it is positive", "positive would be
// wrong" say no label. When in doubt there is no answer: a wrong reading is worse than none. test/data/extract.jsonl is the hand-made list of what must be read how.
//
// Kinds that score in parts (entities, tags, relations, summaries) are read as far as they go, also when cut off; the outcome still says truncated.
#ifndef FINDAP_EVAL_EXTRACT_H
#define FINDAP_EVAL_EXTRACT_H
#include "eval_doc.h"    // defines: Task, Doc, tag_good
#include "verify.h"      // defines: Number, number_of, label_of, anchor_next, result_text

#define EXTRACTOR_VERSION "findap-extract-2"
enum { EXTRACT_MAX_BYTES = 1 << 16, SPAN_MAX_BYTES = 1024 };   // nobody looks for a short answer in more, nor is it longer; this bounds the time, too

typedef enum { OUTCOME_ANSWERED, OUTCOME_MISSING, OUTCOME_AMBIGUOUS, OUTCOME_TRUNCATED, OUTCOME_EMPTY, NUM_OUTCOMES } Outcome;
FN const char *const outcome_names[NUM_OUTCOMES] = {"answered", "missing", "ambiguous", "truncated", "empty"};

typedef struct { Outcome outcome; int label; Number number; Text text; } Answer;   // label -1: none; text: what was read, borrowed from the output

// ---------------------------------------------------------------------------------------------------------------
// words

FN uint32_t code_point_at(Text t, int64_t i, int64_t *size) {
    utf8proc_int32_t c = -1;
    utf8proc_ssize_t n = i < t.length ? utf8proc_iterate((const utf8proc_uint8_t *)t.data + i, t.length - i, &c) : 0;
    *size = n > 0 ? n : 1;
    return n > 0 ? (uint32_t)c : 0;
}
FN uint32_t code_point_before(Text t, int64_t i) {
    int64_t size, k = i - 1;
    while (k > 0 && i - k < 4 && ((unsigned char)t.data[k] & 0xC0) == 0x80) k--;
    return i > 0 ? code_point_at(t, k, &size) : 0;
}
FN bool is_word_code(uint32_t c) {   // a letter or digit of a script that puts blanks between words
    if (c < 0x80) return is_word((char)c);
    if (c >= 0x2E80 && c < 0xE000) return false;   // Chinese, Japanese, Korean
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NO);
}
FN bool word_here(Text t, int64_t begin, int64_t end) {   // [begin, end) is no part of a longer word
    int64_t size;
    bool first = is_word_code(code_point_at(t, begin, &size)), last = is_word_code(code_point_before(t, end));
    return !(first && is_word_code(code_point_before(t, begin))) && !(last && is_word_code(code_point_at(t, end, &size)));
}
// the word that ends at or before *at, which moves to its beginning; empty: there is none, or punctuation stands between
FN Text word_before(Text t, int64_t *at) {
    int64_t end = *at;
    while (end > 0 && strchr(" *_\"'`(", t.data[end - 1])) end--;
    int64_t begin = end;
    while (begin > 0 && (is_word(t.data[begin - 1]) || t.data[begin - 1] == '\'' || ((unsigned char)t.data[begin - 1] & 0x80))) begin--;
    *at = begin;
    return text_slice(t, begin, end);
}
FN bool text_is(Text t, const char *word) { return t.length == (int64_t)strlen(word) && text_begins(t, word); }
FN bool text_is_one(Text t, const char *const *words) { for (; *words; words++) if (text_is(t, *words)) return true; return false; }
FN bool begins_one(Text t, const char *const *words) { for (; *words; words++) if (text_begins(t, *words)) return true; return false; }

// ---------------------------------------------------------------------------------------------------------------
// labels in a text. All texts here are folded (text_fold): lower case, one blank between words.

typedef struct { Buffer text; int label; bool function_word; } Spelling;
typedef struct { Spelling *items; int n; } Spellings;
typedef struct { int label; int64_t begin, end; } Mention;
enum { MAX_MENTIONS = 256 };   // of one line; who says more labels has not chosen

FN int spelling_compare(const void *a, const void *b) {
    const Spelling *x = (const Spelling *)a, *y = (const Spelling *)b;
    return x->text.len != y->text.len ? (x->text.len > y->text.len ? -1 : 1) : x->label < y->label ? -1 : x->label > y->label;
}
FN void spelling_add(Spellings *s, Text word, int label) {
    Spelling *p = &s->items[s->n];
    p->text = text_fold(word);
    p->label = label;
    p->function_word = text_is(text_make(p->text.data, p->text.len), "no");   // "there is no ..." answers nothing
    if (p->text.len) s->n++;
    else buffer_free(&p->text);
}
FN Spellings spellings_make(const Text *labels, int n, const Keyword *keywords, int num_keywords) {
    Spellings s = {(Spelling *)xcalloc(n + num_keywords, sizeof(Spelling)), 0};
    for (int i = 0; i < n; i++) spelling_add(&s, labels[i], i);
    for (int i = 0; i < num_keywords; i++) spelling_add(&s, keywords[i].word, keywords[i].label);
    if (s.n) qsort(s.items, (size_t)s.n, sizeof(Spelling), spelling_compare);
    return s;
}
FN void spellings_free(Spellings *s) {
    for (int i = 0; i < s->n; i++) buffer_free(&s->items[i].text);
    free(s->items);
}

FN bool mention_denied(Text t, int64_t begin, int64_t end) {   // "not positive", "neither positive nor ..", "rather than positive", "positive is wrong"
    static const char *const deny[] = {"not", "never", "neither", "nor", "no", "non", "without", "hardly", "barely", "cannot", "whether", "if", "than", "excluding", "except", "unlikely", "excludes", "exclude",
        "opposite", "fails", "fail", "less", "avoid", "wrong", "lacks", "lack", "lacking", NULL}, *const opinion[] = {"think", "believe", "say", "see", "call", "consider", "find", "feel", "claim", "mean", NULL};
    static const char *const soften[] = {"only", "just", "merely", "simply", "doubt", "question", NULL}, *const turn[] = {"but", "yet", "instead", "however", NULL};
    static const char *const after[] = {" is not", " isn't", " is wrong", " is incorrect", " would be wrong", " would be incorrect", " would not", " wouldn't", " does not", " doesn't", " can be ruled out", " is ruled out",
        " is unlikely", " seems unlikely", " seems wrong", " was wrong", NULL};
    if (text_at(t, begin - 1) == '-' && is_word(text_at(t, begin - 2))) return true;      // "non-negative"
    if (text_at(t, end) == '-' && is_word(text_at(t, end + 1))) return true;              // "positive-leaning"
    int64_t behind = end, at = begin;
    while (behind < t.length && strchr("\"'*_`)", t.data[behind])) behind++;
    if (begins_one(text_from(t, behind), after)) return true;
    if (text_at(t, behind) == '?') return true;
    Text next = text_make("", 0);
    for (int words = 0; words < 8; words++) {   // four words on; "I don't think that this could be called ..." reaches farther
        Text w = word_before(t, &at);
        int64_t further = at;
        if (text_is(w, "but") && text_is(word_before(t, &further), "anything")) return true;
        if (w.length == 0 || text_is_one(w, turn)) return false;   // a comma ends the clause
        if (text_is(w, "far") && text_is(next, "from")) return true;
        bool not_at_end = w.length > 3 && memcmp(w.data + w.length - 3, "n't", 3) == 0;
        if (text_is(w, "of") && at > 0) { int64_t k = at; if (text_is(word_before(t, &k), "instead")) return true; }
        if (words < 4 && (text_is_one(w, deny) || not_at_end)) return !text_is_one(next, soften);
        if ((text_is(w, "not") || not_at_end) && text_is_one(next, opinion)) return true;
        next = w;
    }
    return false;
}

// The labels that line t says and doesn't deny, in order; -1 as the number of them: more than fit
FN int label_mentions(Text t, const Spellings *s, Mention *out) {
    int n = 0;
    for (int64_t i = 0; i < t.length;) {
        int64_t size;
        const Spelling *found = NULL;
        for (int k = 0; k < s->n && !found; k++) {
            const Buffer *w = &s->items[k].text;
            if (w->data[0] == t.data[i] && w->len <= t.length - i && memcmp(w->data, t.data + i, (size_t)w->len) == 0 && word_here(t, i, i + w->len)) found = &s->items[k];
        }
        if (!found) { code_point_at(t, i, &size); i += size; continue; }
        Mention m = {found->label, i, i + found->text.len};
        i = m.end;
        int64_t k = m.end;
        while (text_at(t, k) == ' ' || text_at(t, k) == '*' || text_at(t, k) == '"' || text_at(t, k) == '\'') k++;
        if (found->function_word ? is_word(text_at(t, k)) || (text_at(t, m.end) == '-' && k == m.end) : mention_denied(t, m.begin, m.end)) continue;
        if (n == MAX_MENTIONS) return -1;
        out[n++] = m;
    }
    return n;
}

// The one label of t: of what it begins with, or the only one it says. An enumeration is no choice.
FN Found label_span(Text raw, const Spellings *s, int *label) {
    Mention m[MAX_MENTIONS];
    Buffer folded = text_fold(raw);
    Text t = text_make(folded.data, folded.len);
    int64_t stop = text_find(t, text_of(". "), 0);
    if (stop > 0) t.length = stop + 1;
    int n = label_mentions(t, s, m);
    Found found = n == 0 ? RESULT_NONE : n < 0 ? RESULT_AMBIGUOUS : RESULT_ONE;
    if (n > 0) *label = m[0].label;
    for (int i = 1; i < n; i++) if (m[i].label != m[0].label) found = RESULT_AMBIGUOUS;
    if (n > 1 && found == RESULT_AMBIGUOUS) {   // "positive, since the negative effects ..": the first one is the answer, if the second is not just beside it
        int64_t begin = 0;
        while (begin < t.length && strchr(" \"'*_`([{:-", t.data[begin])) begin++;
        Text between = text_slice(t, m[0].end, m[1].begin);
        int64_t words = 0;
        for (int64_t i = 0; i < between.length; i++) words += is_word(between.data[i]) && !is_word(text_at(between, i - 1));
        char next = text_at(between, 0);
        while (between.length && strchr("\"'*_`)]} ", between.data[0])) { next = text_at(between, 1); between = text_from(between, 1); }
        static const char *const why[] = {"because", "since", "as ", "given", "due ", "rather than", "and not ", "not ", NULL};
        if (m[0].begin == begin && ((words >= 2 && next && strchr(".,;:-(", next)) || begins_one(between, why))) found = RESULT_ONE;
    }
    buffer_free(&folded);
    return found;
}

FN bool mention_stands_out(Text t, Mention m) {   // said as a judgement, not in passing: "is positive", "'rise'", "clearly positive", "a positive statement", "positive."
    static const char *const before[] = {"is", "as", "be", "remains", "seems", "appears", "looks", "label", "sentiment", "stance", "class", "category", "tone", "will", "would", "call", "say", "choose", "chose", "choosing",
        "select", "pick", "predict", "predicts", "prediction", "predicted", "expect", "should", "likely", "probably", "overall", "therefore", "thus", "hence", "so", "answer", "was", "it", "it's", "s", "conclude", "rather", "but", "mostly", "more", "est", "es", "ser", NULL};
    static const char *const at_end[] = {"a", "an", "to", "the", "for", "this", "that", "about", "with", "toward", "towards", "here", NULL}, *const coming[] = {"going", "expected", "likely", "set", "about", "bound", NULL}, *const behind[] = {" sentiment", " stance", " tone", " statement", " sentence", " label", " class", " category", " movement", " because", " since", " as ", " given", " due ", " for ", " overall", " one", NULL};
    int64_t at = m.begin, clause = m.begin;
    char left = text_at(t, m.begin - 1), right = text_at(t, m.end);
    if ((left && strchr("\"'*_`", left) && right && strchr("\"'*_`.,", right)) || (m.begin == 0 && (!right || strchr(".,;:!", right)))) return true;
    while (clause > 0 && strchr(" *_\"'`", t.data[clause - 1])) clause--;
    if (clause > 0 && strchr(":;,.", t.data[clause - 1]) && (!right || strchr(".!", right))) return true;   // "If I had to choose, positive."
    Text w = word_before(t, &at);
    if (text_is_one(w, before) || (w.length > 4 && memcmp(w.data + w.length - 2, "ly", 2) == 0)) return true;
    if (text_is(w, "to") && text_is_one(word_before(t, &at), coming)) return true;   // "is going to rise"
    return begins_one(text_from(t, m.end), behind) || (text_is_one(w, at_end) && (!right || strchr(".,;:!?\"'*", right)));
}

// ---------------------------------------------------------------------------------------------------------------
// anchors

// [[A]] and lines like "Selection: A", next at or behind *at, which moves behind its beginning. `lines`: those, else the brackets.
FN bool mark_next(Text t, bool lines, int64_t *at, Text *span) {
    static const char *const words[] = {"selection", "choice", "option", "sentiment", "label", "classification", "category", "prediction", "verdict", "stance", "class", "decision", "conclusion", "movement", "rating", "type", "result", "output",
        "response", "score", "sentiment score", "final choice", NULL};
    for (int64_t i = *at; i < t.length; i++) {
        if (!lines) {
            if (t.data[i] != '[' || text_at(t, i + 1) != '[') continue;
            int64_t begin = i + 2, end = begin;
            while (end < t.length && end - begin < 256 && t.data[end] != ']' && t.data[end] != '[' && t.data[end] != '\n') end++;
            if (text_at(t, end) != ']' || text_at(t, end + 1) != ']') continue;
            *span = text_trim(text_slice(t, begin, end));
            *at = end + 2;
            return true;
        }
        if (!is_letter(t.data[i]) || is_word(text_at(t, i - 1))) continue;
        for (const char *const *w = words; *w; w++) {
            int64_t k = i + (int64_t)strlen(*w);
            if (!text_begins(text_from(t, i), *w)) continue;
            while (text_at(t, k) && strchr(" *_\"'", t.data[k])) k++;
            if (text_at(t, k) != ':') continue;
            *at = k + 1;
            for (int64_t from = k + 1; from < t.length;) {   // the rest of the line, or the next one that has anything
                *span = text_trim(text_line(t, &from));
                while (span->length && strchr("*_ \t", span->data[0])) *span = text_from(*span, 1);
                if (span->length) return true;
            }
            return false;
        }
    }
    return false;
}

FN Found letter_span(const Doc *d, Text span, int *label) {   // a letter, or the text behind one
    char letter;
    Found found = label_of(label_words(text_trim(span)), true, &letter);
    if (found == RESULT_ONE && letter - 'A' < d->num_choices) {
        int64_t k = 0;
        span = label_words(text_trim(span));
        while (k < span.length && (span.data[k] & ~32) != letter) k++;
        for (k++; k < span.length && !is_word(span.data[k]);) k++;
        if (k < span.length && text_begins(text_from(span, k), "or ")) return RESULT_AMBIGUOUS;   // "A or maybe C"
        *label = letter - 'A';
        return RESULT_ONE;
    }
    if (found == RESULT_AMBIGUOUS) return found;
    Text t = result_text(span);
    int by_text = t.length ? label_find(d->options, d->num_choices, t) : -1;
    if (by_text >= 0) *label = by_text;
    return by_text >= 0 ? RESULT_ONE : RESULT_NONE;
}

typedef struct { const Task *task; const Doc *doc; const Spellings *spellings; ExtractKind kind; } Reader;
FN Found read_span(const Reader *r, Text span, Answer *a) {
    if (span.length > SPAN_MAX_BYTES) span.length = SPAN_MAX_BYTES;
    a->text = result_text(span);
    if (r->kind == EXTRACT_LETTER) return letter_span(r->doc, span, &a->label);
    if (r->kind == EXTRACT_LABEL) return label_span(span, r->spellings, &a->label);
    if (r->kind == EXTRACT_FLOAT || r->kind == EXTRACT_NUMBER) return number_of(span, true, &a->number);
    return a->text.length ? RESULT_ONE : RESULT_NONE;
}
FN bool same_reading(ExtractKind kind, const Answer *a, const Answer *b) {
    if (kind == EXTRACT_LABEL || kind == EXTRACT_LETTER) return a->label == b->label;
    if (kind == EXTRACT_FLOAT || kind == EXTRACT_NUMBER) return a->number.value == b->number.value && a->number.percent == b->number.percent;
    return text_same_wording(a->text, b->text);
}
FN Found join_reading(const Reader *r, Found found, Found one, const Answer *next, Answer *a) {   // of what was found so far and one more
    if (one == RESULT_NONE || found == RESULT_AMBIGUOUS) return found;
    if (one == RESULT_AMBIGUOUS || (found == RESULT_ONE && !same_reading(r->kind, next, a))) return RESULT_AMBIGUOUS;
    *a = *next;
    return RESULT_ONE;
}

FN Found read_anchors(const Reader *r, Text t, Answer *a) {
    Found found = RESULT_NONE;
    Text span, inner;
    Answer next = *a;
    for (int64_t at = 0; found != RESULT_AMBIGUOUS && anchor_next(t, &at, &span);) {
        int64_t begin = 0;
        if (anchor_next(span, &begin, &inner)) {   // "Answer: the answer is 5": the inner one comes next, but in "the answer is A. No, the answer is B" there are two
            if (r->kind != EXTRACT_LABEL && r->kind != EXTRACT_LETTER) continue;
            span = text_slice(span, 0, begin);
        }
        found = join_reading(r, found, read_span(r, span, &next), &next, a);
    }
    for (int64_t at = 0; found != RESULT_AMBIGUOUS && r->kind != EXTRACT_TEXT && mark_next(t, false, &at, &span);) found = join_reading(r, found, read_span(r, span, &next), &next, a);
    for (int64_t at = 0; found == RESULT_NONE && r->kind != EXTRACT_TEXT && mark_next(t, true, &at, &span);) {
        Found one = read_span(r, span, &next);
        if (one == RESULT_NONE) continue;
        found = join_reading(r, found, one, &next, a);
        while (found == RESULT_ONE && mark_next(t, true, &at, &span)) found = join_reading(r, found, read_span(r, span, &next), &next, a);
    }
    return found;
}

// ---------------------------------------------------------------------------------------------------------------
// without an anchor

FN Text strip_bullet(Text t) {   // "- ", "* ", "1. ", "2) "
    t = text_trim(t);
    int64_t k = 0;
    while (is_digit(text_at(t, k)) && k < 3) k++;
    if (k && (text_at(t, k) == '.' || text_at(t, k) == ')') && text_at(t, k + 1) == ' ') return text_trim(text_from(t, k + 2));
    if (t.length > 1 && strchr("-*", t.data[0]) && t.data[1] == ' ') return text_trim(text_from(t, 2));
    return text_begins(t, "\xE2\x80\xA2") ? text_trim(text_from(t, 3)) : t;
}

FN Found labels_unanchored(const Reader *r, Text t, Answer *a) {
    Mention m[MAX_MENTIONS];
    Found alone = RESULT_NONE, said = RESULT_NONE, first = RESULT_NONE;
    Answer next = *a, begins = *a, whole = *a;
    bool stands_out = false, first_line = true;
    int64_t words = 0;
    for (int64_t at = 0; at < t.length;) {
        Text line = text_trim(text_line(t, &at));
        if (line.length == 0) continue;
        Text bare = result_text(strip_bullet(line));
        Buffer folded = text_fold(bare.length ? bare : line);
        Text f = text_make(folded.data, folded.len);
        int n = label_mentions(f, r->spellings, m);
        next.text = bare;
        for (int i = 0; i < f.length; i++) words += is_word(f.data[i]) && !is_word(text_at(f, i - 1));
        if (n < 0) said = RESULT_AMBIGUOUS;
        if (n == 1 && m[0].begin == 0 && m[0].end == f.length) { next.label = m[0].label; alone = join_reading(r, alone, RESULT_ONE, &next, a); }
        if (first_line && n > 0 && m[0].begin == 0) {   // "positive, because ..", "Positive. The .."
            char behind = text_at(f, m[0].end);
            int64_t k = m[0].end;
            while (text_at(f, k) && strchr(" ,;:.!()\"'*_`-", f.data[k])) k++;
            bool listed = n > 1 && (m[1].begin <= k || text_begins(text_from(f, k), "or ") || text_begins(text_from(f, k), "and ") || text_at(f, k) == '/');
            static const char *const why[] = {" because", " since", " as ", " due ", " given", " (", " - ", " \xE2\x80\x93", " \xE2\x80\x94", NULL};
            listed = listed || (n > 1 && behind && strchr(":( ", behind) && is_digit(text_at(f, k)));   // "positive: 0.2, negative: 0.7"
            if (!listed && ((behind && strchr(".,;:!)\"'*_`", behind)) || begins_one(text_from(f, m[0].end), why))) { begins.label = m[0].label; begins.text = bare; first = RESULT_ONE; }
        }
        for (int i = 0; i < n && said != RESULT_AMBIGUOUS; i++) {
            next.label = m[i].label;
            said = join_reading(r, said, RESULT_ONE, &next, &whole);
            stands_out = stands_out || mention_stands_out(f, m[i]);
        }
        first_line = false;
        buffer_free(&folded);
    }
    if (first == RESULT_ONE) alone = join_reading(r, alone, RESULT_ONE, &begins, a);
    if (alone != RESULT_NONE) return alone;
    *a = whole;
    return said == RESULT_ONE && !stands_out && words > 3 ? RESULT_NONE : said;   // of a long text a label in passing
}

FN Found letters_unanchored(const Reader *r, Text t, Answer *a) {
    Result result;
    memset(&result, 0, sizeof result);
    Found found = final_result(VERIFY_CHOICE, t, &result);
    if (found == RESULT_AMBIGUOUS) return found;
    if (found == RESULT_ONE && result.label - 'A' < r->doc->num_choices) { a->label = result.label - 'A'; a->text = result.text; return found; }
    // "Option B is correct", "I choose B"
    static const char *const verdicts[] = {" is correct", " is right", " is the correct", " is the right", " is the best", " is the answer", " is the most", " would be correct", NULL}, *const choose[] = {"choose", "select", "pick", "go", NULL}, *const copula[] = {"say", "it's", "is", "be", "thus", "so", "hence", "therefore", NULL}, *const opens[] = {"!", " - ", " \xE2\x80\x93 ", NULL}, *const between[] = {"with", "for", "the", "option", "choice", "answer", NULL},
        *const why[] = {" because", " since", " as ", NULL};
    Answer next = *a;
    found = RESULT_NONE;
    for (int64_t i = 0; i < t.length && found != RESULT_AMBIGUOUS; i++) {
        if (!(t.data[i] >= 'A' && t.data[i] < 'A' + r->doc->num_choices) || is_word(text_at(t, i - 1)) || is_word(text_at(t, i + 1)) || text_at(t, i + 1) == '\'' || (text_at(t, i + 1) & 0x80)) continue;
        int64_t k = i + 1, at = i;
        while (text_at(t, k) && strchr(")]*\"'`.", t.data[k])) k++;
        while (at > 0 && strchr("([*\"'` ", t.data[at - 1])) at--;
        Text before = word_before(t, &at);
        for (int words = 0; words < 3 && text_is_one(before, between); words++) before = word_before(t, &at);   // "go with option B"
        bool chosen = text_is_one(before, choose) && (!is_letter(text_at(t, k + 1)) || text_at(t, k) != ' ' || begins_one(text_from(t, k), why));
        chosen = chosen || (text_is_one(before, copula) && (k >= t.length || t.data[k] == '\n' || strchr(".,;:!", text_at(t, k > i + 1 ? k - 1 : k))));   // "It's C.", "The best is D."
        chosen = chosen || ((i == 0 || t.data[i - 1] == '\n') && begins_one(text_from(t, k), opens));   // "C - an index"
        bool denied = false;
        int64_t look = at;
        for (int words = 0; words < 3; words++) { Text w = word_before(t, &look); denied = denied || text_is(w, "not") || text_is(w, "cannot") || (w.length > 3 && memcmp(w.data + w.length - 3, "n't", 3) == 0); }
        if (denied || (!chosen && !begins_one(text_from(t, k), verdicts))) continue;
        next.label = t.data[i] - 'A';
        next.text = text_slice(t, i, i + 1);
        found = join_reading(r, found, RESULT_ONE, &next, a);
    }
    if (found != RESULT_NONE) return found;
    for (int64_t at = 0; at < t.length && found != RESULT_AMBIGUOUS;) {   // a line that is an option's text
        Text line = result_text(strip_bullet(text_line(t, &at)));
        next.label = line.length ? label_find(r->doc->options, r->doc->num_choices, line) : -1;
        next.text = line;
        if (next.label >= 0) found = join_reading(r, found, RESULT_ONE, &next, a);
    }
    return found;
}

FN Found float_unanchored(Text t, Answer *a) {   // the number a text begins with, or the only one it has
    int64_t at = 0, begin = 0;
    Number n;
    Text line = text_make("", 0);
    while (line.length == 0 && begin < t.length) line = result_text(text_line(t, &begin));
    int64_t skip = 0;
    while (text_at(line, skip) && !is_word(line.data[skip])) skip++;
    Found found = is_digit(text_at(line, skip)) ? number_next(line, &at, &n) : RESULT_NONE;
    if (found == RESULT_ONE) {
        int64_t k = at;
        while (text_at(line, k) == ' ') k++;
        bool range = text_begins(text_from(line, k), "to ") || text_begins(text_from(line, k), "or ") || text_at(line, k) == '/' || (text_at(line, k) == '-' && is_digit(text_at(line, k + 1)));
        a->number = n;
        return range ? RESULT_AMBIGUOUS : RESULT_ONE;
    }
    return found == RESULT_AMBIGUOUS ? found : number_of(t, false, &a->number);
}

// ---------------------------------------------------------------------------------------------------------------
// an output

FN Answer answer_made(Outcome o) { Answer a; memset(&a, 0, sizeof a); a.outcome = o; a.label = -1; a.text = text_of(""); return a; }

// The output without its thoughts, trimmed. False: there is nothing to be read, and *a says why
FN bool answer_begin(Text *output, bool truncated, Answer *a) {
    *a = answer_made(OUTCOME_ANSWERED);
    if (text_trim(*output).length == 0) { a->outcome = truncated ? OUTCOME_TRUNCATED : OUTCOME_EMPTY; return false; }
    if (!text_after_thinking(output)) { a->outcome = truncated ? OUTCOME_TRUNCATED : OUTCOME_MISSING; return false; }
    if (output->length == 0) { a->outcome = truncated ? OUTCOME_TRUNCATED : OUTCOME_EMPTY; return false; }
    if (truncated) a->outcome = OUTCOME_TRUNCATED;
    return true;
}

// A model without a chat template goes on with the next example of its own making: "neutral\n\nText: ..\nAnswer: positive". The line before that, if it is all there is; else nothing
FN Text before_another_example(Text t) {
    static const char *const heads[] = {"text", "question", "context", "input", "instruction", "sentence", "headline", "statement", "passage", "query", "q", "user", "human"};
    int64_t at = 0;
    const Text first = text_trim(text_line(t, &at));
    while (at < t.length) {
        const Text line = text_trim(text_line(t, &at));
        if (line.length == 0) continue;
        for (size_t k = 0; k < sizeof heads / sizeof *heads; k++) {
            const int64_t n = (int64_t)strlen(heads[k]);
            if (line.length > n && line.data[n] == ':' && strncasecmp(line.data, heads[k], (size_t)n) == 0) return first;
        }
        break;
    }
    return text_of("");
}

FN Answer answer_extract(const Task *t, const Doc *d, Text output, bool truncated) {
    Answer a;
    Spellings s = {NULL, 0};
    if (!answer_begin(&output, truncated, &a)) return a;
    a.text = output;
    if (t->extract == EXTRACT_SUMMARY || t->extract == EXTRACT_ENTITIES || t->extract == EXTRACT_TAGS || t->extract == EXTRACT_RELATIONS || t->extract == EXTRACT_SENTENCES || t->extract == EXTRACT_JUDGE) return a;
    a.text = text_of("");
    if (truncated) return a;   // the answer may have been about to come
    if (output.length > EXTRACT_MAX_BYTES) { a.outcome = OUTCOME_MISSING; return a; }
    const Text head = before_another_example(output);
    if (head.length) {
        const Answer alone = answer_extract(t, d, head, false);
        if (alone.outcome == OUTCOME_ANSWERED) return alone;
    }
    Reader r = {t, d, &s, t->extract};
    static const char yes_no[] = "yesno";
    const Text yes_or_no[2] = {text_make(yes_no, 3), text_make(yes_no + 3, 2)};
    int asked = -1;
    if (t->extract == EXTRACT_NUMBER && isnan(d->gold_number)) {   // questions about numbers may be answered by yes, no or words
        asked = label_find(yes_or_no, 2, text_trim(d->answer));
        r.kind = asked >= 0 ? EXTRACT_LABEL : EXTRACT_TEXT;
    }
    if (r.kind == EXTRACT_LABEL) s = asked >= 0 ? spellings_make(yes_or_no, 2, NULL, 0) : spellings_make(d->choices, d->num_choices, t->keywords, t->num_keywords);
    Found found;
    if (r.kind == EXTRACT_NUMBER) {   // as the verifier of rewards reads it
        Result result;
        memset(&result, 0, sizeof result);
        found = final_result(VERIFY_NUMBER, output, &result);
        a.number = result.number;
        a.text = result.text;
    } else {
        found = read_anchors(&r, output, &a);
        if (found == RESULT_NONE && r.kind == EXTRACT_LABEL) found = labels_unanchored(&r, output, &a);
        if (found == RESULT_NONE && r.kind == EXTRACT_LETTER) found = letters_unanchored(&r, output, &a);
        if (found == RESULT_NONE && r.kind == EXTRACT_FLOAT) found = float_unanchored(output, &a);
        if (found == RESULT_NONE && r.kind == EXTRACT_TEXT) { a.text = result_text(output); found = a.text.length ? RESULT_ONE : RESULT_NONE; }
    }
    spellings_free(&s);
    if (found == RESULT_ONE && r.kind == EXTRACT_FLOAT && !(a.number.value >= t->low && a.number.value <= t->high)) found = RESULT_NONE;   // no number of the kind that was asked for
    if (found != RESULT_ONE) { Answer none = answer_made(found == RESULT_AMBIGUOUS ? OUTCOME_AMBIGUOUS : OUTCOME_MISSING); return none; }
    if (asked >= 0) a.text = yes_or_no[a.label];   // compared as a text
    if (r.kind != EXTRACT_LABEL && r.kind != EXTRACT_LETTER) a.label = -1;
    if (asked >= 0) a.label = -1;
    a.outcome = OUTCOME_ANSWERED;
    return a;
}

// ---------------------------------------------------------------------------------------------------------------
// answers of several lines

enum { MAX_ANSWER_LINES = 10000 };   // of entities and relations: what follows is noise, and each line is looked for in the whole text
typedef struct { Text *items; int n; char **owned; int num_owned; } TextList;   // owned: the bytes of some of them

FN void text_list_free(TextList *l) {
    for (int i = 0; i < l->num_owned; i++) free(l->owned[i]);
    free(l->owned); free(l->items);
    memset(l, 0, sizeof *l);
}
FN void text_list_add(TextList *l, Text t) {
    if ((l->n & (l->n - 1)) == 0) l->items = (Text *)xrealloc(l->items, l->n ? 2 * (int64_t)l->n : 1, sizeof(Text));
    l->items[l->n++] = t;
}
FN Text text_list_own(TextList *l, char *s, int64_t n) {
    if ((l->num_owned & (l->num_owned - 1)) == 0) l->owned = (char **)xrealloc(l->owned, l->num_owned ? 2 * (int64_t)l->num_owned : 1, sizeof(char *));
    l->owned[l->num_owned++] = s;
    return text_make(s, n);
}

typedef struct { Text name, type; int order; } Entity;

FN bool entity_type(const Task *t, Text *type) {   // one that the task knows, as the task writes it; a task without a list takes any single word
    *type = result_text(*type);
    while (type->length && strchr(")]", type->data[type->length - 1])) type->length--;
    int k = label_find(t->choices, t->num_choices, *type);
    for (int i = 0; i < t->num_keywords && k < 0; i++) if (text_same_wording(t->keywords[i].word, *type)) k = t->keywords[i].label;
    if (k >= 0) *type = t->choices[k];
    bool word = type->length > 0 && type->length <= 32;
    for (int64_t i = 0; word && i < type->length; i++) word = is_word(type->data[i]) || type->data[i] == '_' || type->data[i] == '-';
    return t->num_choices ? k >= 0 : word;
}
FN bool entity_line(const Task *t, Text line, Entity *out) {   // "name, TYPE"; "name (TYPE)", "name: TYPE" and "name - TYPE" mean the same
    line = strip_bullet(line);
    for (int64_t i = line.length - 1; i > 0; i--) {
        bool dash = line.data[i] == '-' && line.data[i - 1] == ' ' && text_at(line, i + 1) == ' ';
        if (!strchr(",:|(", line.data[i]) && !dash) continue;
        out->type = text_from(line, i + 1);
        out->name = text_trim(text_slice(line, 0, i));
        while (out->name.length && strchr("\"'*`", out->name.data[0])) out->name = text_from(out->name, 1);
        while (out->name.length && strchr("\"'*`,:", out->name.data[out->name.length - 1])) out->name.length--;
        out->name = text_trim(out->name);
        return out->name.length > 0 && entity_type(t, &out->type);
    }
    return false;
}
FN Entity *entities_read(const Task *t, Text answer, int *n) {   // one a line, or several between semicolons; the caller frees them
    Entity *list = NULL, one;
    int64_t cap = 0;
    *n = 0;
    for (int64_t at = 0; at < answer.length && *n < MAX_ANSWER_LINES;) {
        Text line = text_line(answer, &at);
        while (line.length) {
            int64_t semicolon = text_find(line, text_of(";"), 0);
            Text part = semicolon < 0 ? line : text_slice(line, 0, semicolon);
            line = semicolon < 0 ? text_make("", 0) : text_from(line, semicolon + 1);
            if (!entity_line(t, part, &one)) continue;
            if (*n == cap) list = (Entity *)xrealloc(list, cap = cap ? 2 * cap : 16, sizeof(Entity));
            one.order = *n;
            list[(*n)++] = one;
        }
    }
    return list;
}
FN int entity_compare(const void *a, const void *b) {   // the longest name first, so that "Solar" does not cut "Solar Inc" in two; then as said
    const Entity *x = (const Entity *)a, *y = (const Entity *)b;
    return x->name.length != y->name.length ? (x->name.length > y->name.length ? -1 : 1) : x->order < y->order ? -1 : x->order > y->order;
}
// How many tokens from number `first` on spell the name, blanks aside ("Inc." is the tokens "Inc" and "."); 0: they don't
FN int tokens_spelling(const Text *tokens, int n, int first, Text name, bool any_case) {
    int64_t k = 0;
    for (int i = first; i < n; i++) {
        for (int64_t c = 0; c < tokens[i].length; c++) {
            while (k < name.length && (name.data[k] == ' ' || name.data[k] == '\t')) k++;
            if (k >= name.length) return 0;   // the name ends inside a token
            char x = tokens[i].data[c], y = name.data[k++];
            if (x != y && !(any_case && is_letter(x) && is_letter(y) && (x | 32) == (y | 32))) return 0;
        }
        if (k >= name.length) return i - first + 1;
    }
    return 0;
}
// The tags of the tokens when every occurrence of an entity's name is one; a token belongs to one entity only
FN TextList entities_project(Entity *entities, int num, const Text *tokens, int n) {
    TextList tags = {NULL, 0, NULL, 0};
    for (int i = 0; i < n; i++) text_list_add(&tags, text_of("O"));
    if (num) qsort(entities, (size_t)num, sizeof(Entity), entity_compare);
    for (int k = 0; k < num; k++) {
        const Entity *x = &entities[k];
        char *text = xprintf("B-%.*s", (int)x->type.length, x->type.data);
        Text begin = text_list_own(&tags, text, (int64_t)strlen(text)), inside = text_list_own(&tags, xstrdup(text), begin.length);
        ((char *)inside.data)[0] = 'I';
        for (int any_case = 0, found = 0; any_case < 2 && !found; any_case++)
            for (int i = 0; i < n; i++) {
                int length = tokens_spelling(tokens, n, i, x->name, any_case), free_ones = 0;
                for (int m = 0; m < length; m++) free_ones += tags.items[i + m].length == 1;
                if (length == 0) continue;
                found = 1;
                if (free_ones < length) continue;
                for (int m = 0; m < length; m++) tags.items[i + m] = m ? inside : begin;
                i += length - 1;
            }
    }
    return tags;
}

// Tags one behind the other, however they are set apart; empty where anything else is there too. The texts are borrowed
FN TextList tags_bare(Text t) {
    TextList tags = {NULL, 0, NULL, 0};
    for (int64_t i = 0; i < t.length;) {
        int64_t begin = i;
        while (i < t.length && !(t.data[i] && strchr(" \t\r\n,;[]\"'", t.data[i]))) i++;
        if (i > begin && !tag_good(text_slice(t, begin, i))) { text_list_free(&tags); return tags; }
        if (i > begin) text_list_add(&tags, text_slice(t, begin, i));
        i += i == begin;
    }
    return tags;
}
// "token:LABEL" lines, in the order of the tokens; those that are left out are O. A tag for each token and nothing else is read, too. *read: how many were there.
// An empty token is one that is not known: the next line is about it
FN TextList tags_read(const Task *t, Text answer, const Text *tokens, int n, int *read) {
    TextList tags = {NULL, 0, NULL, 0};
    int next = 0;
    *read = 0;
    for (int i = 0; i < n; i++) text_list_add(&tags, text_of("O"));
    TextList bare = tags_bare(answer);
    for (int i = 0; bare.n == n && i < n; i++) {
        int known = label_find(t->choices, t->num_choices, bare.items[i]);
        if (known >= 0 || t->num_choices == 0) tags.items[i] = known >= 0 ? t->choices[known] : text_list_own(&tags, text_copy(bare.items[i]), bare.items[i].length);
        ++*read;
    }
    text_list_free(&bare);
    for (int64_t at = 0; *read < n && at < answer.length && next < n;) {
        Text line = text_trim(text_line(answer, &at));
        int64_t colon = line.length - 1;
        while (colon > 0 && line.data[colon] != ':') colon--;
        if (colon <= 0) continue;
        Text word = text_trim(text_slice(line, 0, colon)), label = result_text(text_from(line, colon + 1));
        int known = label_find(t->choices, t->num_choices, label), i = next;
        if (known >= 0) label = t->choices[known];
        if (t->num_choices ? known < 0 : !tag_good(label)) continue;
        ++*read;
        while (i < n && i < next + 10 && tokens[i].length && !text_equal(tokens[i], word)) i++;   // some lines may be missing
        if (i == n || i == next + 10) continue;
        tags.items[i] = text_list_own(&tags, text_copy(label), label.length);
        next = i + 1;
    }
    return tags;
}

FN TextList relations_read(Text answer) {   // "head ; tail ; relation" lines, as they are compared
    TextList list = {NULL, 0, NULL, 0};
    for (int64_t at = 0; at < answer.length && list.n < MAX_ANSWER_LINES;) {
        Text line = strip_bullet(text_line(answer, &at)), rest = line;
        Buffer out = {NULL, 0, 0};
        int parts = 0;
        bool good = true;
        while (good && rest.length >= 0) {
            int64_t semicolon = text_find(rest, text_of(";"), 0);
            Text part = result_text(semicolon < 0 ? rest : text_slice(rest, 0, semicolon));
            good = part.length > 0 && ++parts <= 3;
            Buffer folded = text_fold(part);
            for (int64_t i = 0; i < folded.len; i++) if (folded.data[i] == '_') folded.data[i] = ' ';
            if (parts > 1) buffer_add(&out, "\n", 1);
            buffer_add(&out, folded.data, folded.len);
            buffer_free(&folded);
            if (semicolon < 0) break;
            rest = text_from(rest, semicolon + 1);
        }
        if (good && parts == 3) text_list_add(&list, text_list_own(&list, out.data, out.len));
        else buffer_free(&out);
    }
    return list;
}

// A list of 0 and 1, one for each of n sentences, into out (n): however they are set apart. False: it is something else, or of another length
FN bool sentences_read(Text answer, uint8_t *out, int n) {
    int count = 0;
    for (int64_t i = 0; i < answer.length; i++) {
        char c = answer.data[i];
        if (c != '0' && c != '1') { if (c && strchr(" \t\r\n,;[]\"'", c)) continue; return false; }
        if (is_digit(text_at(answer, i + 1)) || count == n) return false;
        out[count++] = c == '1';
    }
    return count == n;
}

FN bool says_none(Text answer) {   // there is no entity, no relation: an answer, too
    static const char *const none[] = {"none", "no entities", "no entity", "no named entities", "no relations", "no relation", "no relationships", "there are no", "n/a", "nothing", "[]", NULL};
    return begins_one(result_text(answer), none);
}

#endif
