// pair_rows.h: preference pairs as JSONL rows that `prepare --kind pref` takes as they are, from three sources:
//
//     fap       final answer preference: of the answers to one prompt, a right one over a wrong one
//     scp       stepwise corrective preference: question, correct prefix and "what is the next step?"; the correction over the wrong step (findap/reward.h)
//     overlong  the gold answer over one that reached the cap of tokens; "open": true, for it was cut off where it would have gone on
//
// The same answers, options and seed give the same rows. What makes no pair is counted under its reason; the sums come out: answers in are answers
// used, left over by the limits, or dropped by name.
//
// Length. DPO learns any length the chosen answers have in common, so pairs whose lengths differ by more than a factor are not made, and of up to 32
// candidates the one is taken that brings the mean logarithm of chosen over rejected length, over all pairs so far, nearest to 0.
#ifndef FINDAP_PAIR_ROWS_H
#define FINDAP_PAIR_ROWS_H
#include "prompt.h"   // defines: PromptTemplate, prompt_render
#include "reward.h"   // defines: Correction

enum { PAIR_RIGHT, PAIR_WRONG, PAIR_UNJUDGED };
typedef struct { Text text; int64_t length; int verdict; bool capped; } Answer;   // length: in tokens, or in whatever unit all of them are in

typedef struct {
    int64_t per_prompt, per_answer;   // most pairs of one prompt, and of one answer in them
    double length_ratio;              // most that the lengths of a pair may differ, as a factor; 0: whatever they are
    bool length_balance;
    uint64_t seed;
} PairOptions;
enum { PAIR_CHOICES = 32, PAIR_MAX_ANSWERS = 4096 };   // candidates the balance chooses from; answers of one prompt that are looked at

typedef enum { DROP_EMPTY, DROP_CAPPED, DROP_UNJUDGED, DROP_TWICE, DROP_CONTRADICTORY, DROP_NO_RIGHT, DROP_NO_WRONG, DROP_LENGTH, DROP_LIMIT, NUM_DROP } Drop;
FN const char *const drop_names[NUM_DROP] = {"empty", "reached_cap", "unjudged", "said_twice", "judged_right_and_wrong", "no_right_answer", "no_wrong_answer", "lengths_differ", "over_limits"};

typedef enum { OVERLONG_GOOD, OVERLONG_ENDED, OVERLONG_EMPTY, OVERLONG_NO_GOLD, NUM_OVERLONG } OverlongStatus;
FN const char *const overlong_names[NUM_OVERLONG] = {"good", "ended_by_itself", "empty", "no_gold"};

typedef struct {
    int64_t prompts, prompts_with_pairs, answers, answers_used, dropped[NUM_DROP];   // of FAP; dropped: answers
    int64_t fap, scp, overlong;                                                      // rows
    int64_t corrections[NUM_CORRECTION], corrections_exact, overlongs[NUM_OVERLONG]; // good ones included
    double log_ratio;                                                                // sum over FAP's pairs of ln(chosen / rejected length)
} PairYields;

typedef struct { int64_t chosen, rejected; } PairIndex;
typedef struct { uint64_t key; int64_t chosen, rejected; } PairCandidate;
FN int pair_candidate_compare(const void *a, const void *b) {
    const PairCandidate *x = (const PairCandidate *)a, *y = (const PairCandidate *)b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->chosen != y->chosen ? (x->chosen < y->chosen ? -1 : 1) : x->rejected < y->rejected ? -1 : x->rejected > y->rejected;
}
FN double pair_log_ratio(const Answer *chosen, const Answer *rejected) { return log((double)(chosen->length + 1) / (double)(rejected->length + 1)); }

// Which of an answer's reasons keeps it out of every pair; NUM_DROP: none. Prepare trims, so texts that differ in surrounding white space are the same.
FN Drop answer_drop(const Answer *a, int64_t n, int64_t i) {
    Text t = text_trim(a[i].text);
    if (t.length == 0) return DROP_EMPTY;
    if (a[i].capped) return DROP_CAPPED;
    if (a[i].verdict == PAIR_UNJUDGED) return DROP_UNJUDGED;
    bool twice = false;
    for (int64_t k = 0; k < n; k++) {
        if (k == i || a[k].capped || a[k].verdict == PAIR_UNJUDGED || !text_equal(t, text_trim(a[k].text))) continue;
        if (a[k].verdict != a[i].verdict) return DROP_CONTRADICTORY;
        twice = twice || k < i;
    }
    return twice ? DROP_TWICE : NUM_DROP;
}

// The pairs of one prompt, numbers into a[0..n), into `out` (per_prompt places); returns how many. `prompt`: its text, for the order only.
FN int64_t fap_pairs(Text prompt, const Answer *a, int64_t n, const PairOptions *o, PairYields *y, PairIndex *out) {
    CHECK(n <= PAIR_MAX_ANSWERS && o->per_prompt > 0 && o->per_answer > 0);
    const uint64_t stream = XXH3_64bits(prompt.data ? prompt.data : "", (size_t)prompt.length);
    int64_t count[2] = {0, 0}, made = 0, num = 0, *which[2] = {(int64_t *)xcalloc(n, 8), (int64_t *)xcalloc(n, 8)}, *used = (int64_t *)xcalloc(n, 8);
    y->prompts++;
    y->answers += n;
    for (int64_t i = 0; i < n; i++) {
        Drop d = answer_drop(a, n, i);
        if (d != NUM_DROP) y->dropped[d]++; else which[a[i].verdict][count[a[i].verdict]++] = i;
    }
    int64_t rights = count[PAIR_RIGHT], wrongs = count[PAIR_WRONG];
    if (rights == 0 || wrongs == 0) { y->dropped[DROP_NO_RIGHT] += rights ? 0 : wrongs; y->dropped[DROP_NO_WRONG] += wrongs ? 0 : rights; }
    PairCandidate *c = (PairCandidate *)xcalloc(rights * wrongs, sizeof(PairCandidate));
    bool *possible = (bool *)xcalloc(n, sizeof(bool));
    for (int64_t r = 0; r < rights; r++) for (int64_t w = 0; w < wrongs; w++) {
        int64_t i = which[PAIR_RIGHT][r], k = which[PAIR_WRONG][w];
        if (o->length_ratio > 0 && fabs(pair_log_ratio(&a[i], &a[k])) > log(o->length_ratio) + 1e-12) continue;
        possible[i] = possible[k] = true;
        PairCandidate one = {random_u64(o->seed, stream, (uint64_t)(i * PAIR_MAX_ANSWERS + k)), i, k};
        c[num++] = one;
    }
    qsort(c, (size_t)num, sizeof *c, pair_candidate_compare);
    while (made < o->per_prompt && num > 0) {
        int64_t best = -1, kept = 0;
        for (int64_t k = 0; k < num; k++) if (used[c[k].chosen] < o->per_answer && used[c[k].rejected] < o->per_answer) c[kept++] = c[k];
        num = kept;
        double nearest = INFINITY;
        for (int64_t k = 0; k < num && k < (o->length_balance ? PAIR_CHOICES : 1); k++) {
            double off = fabs(y->log_ratio + pair_log_ratio(&a[c[k].chosen], &a[c[k].rejected]));
            if (off < nearest) { nearest = off; best = k; }
        }
        if (best < 0) break;
        out[made].chosen = c[best].chosen;
        out[made++].rejected = c[best].rejected;
        used[c[best].chosen]++;
        used[c[best].rejected]++;
        y->log_ratio += pair_log_ratio(&a[c[best].chosen], &a[c[best].rejected]);
        memmove(c + best, c + best + 1, (size_t)(num - best - 1) * sizeof *c);
        num--;
    }
    if (rights && wrongs) for (int v = 0; v < 2; v++) for (int64_t k = 0; k < count[v]; k++) {
        int64_t i = which[v][k];
        if (used[i]) y->answers_used++; else y->dropped[possible[i] ? DROP_LIMIT : DROP_LENGTH]++;
    }
    y->fap += made;
    y->prompts_with_pairs += made > 0;
    free(c); free(possible); free(which[0]); free(which[1]); free(used);
    return made;
}

// One row at the end of `out`. prompt: as the source has it, a string or a list of messages.
FN void pair_row(const json_t *prompt, Text chosen, Text rejected, const char *kind, bool open, Buffer *out) {
    char *p = json_dumps(prompt, JSON_COMPACT | JSON_ENCODE_ANY | JSON_PRESERVE_ORDER);
    CHECK(p);
    buffer_add(out, "{\"prompt\":", 10);
    buffer_add(out, p, (int64_t)strlen(p));
    buffer_add(out, ",\"chosen\":", 10);
    json_add_string(out, chosen.data, chosen.length);
    buffer_add(out, ",\"rejected\":", 12);
    json_add_string(out, rejected.data, rejected.length);
    buffer_add(out, ",\"kind\":", 8);
    json_add_string(out, kind, (int64_t)strlen(kind));
    if (open) buffer_add(out, ",\"open\":true", 12);
    buffer_add(out, "}\n", 2);
    free(p);
}

FN int64_t fap_rows(const json_t *prompt, const Answer *a, int64_t n, const PairOptions *o, PairYields *y, Buffer *out) {   // returns how many
    char *p = json_dumps(prompt, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS);
    CHECK(p);
    PairIndex *pairs = (PairIndex *)xcalloc(o->per_prompt, sizeof(PairIndex));
    int64_t made = fap_pairs(text_of(p), a, n, o, y, pairs);
    for (int64_t k = 0; k < made; k++) pair_row(prompt, a[pairs[k].chosen].text, a[pairs[k].rejected].text, "fap", false, out);
    free(pairs); free(p);
    return made;
}

// What the user asked last: the prompt itself, or the content of its last user turn; empty if there is none. Borrowed.
FN Text prompt_question(const json_t *prompt) {
    if (json_is_string(prompt)) return text_make(json_string_value(prompt), (int64_t)json_string_length(prompt));
    for (size_t i = json_array_size(prompt); i > 0; i--) {
        const json_t *m = json_array_get(prompt, i - 1), *role = json_object_get(m, "role"), *content = json_object_get(m, "content");
        if (json_is_string(role) && json_is_string(content) && strcmp(json_string_value(role), "user") == 0) return text_make(json_string_value(content), (int64_t)json_string_length(content));
    }
    return text_of("");
}
FN json_t *prompt_with_question(const json_t *prompt, Text question) {   // a copy that asks this instead
    if (json_is_string(prompt)) return text_json(question);
    json_t *copy = json_deep_copy(prompt);
    for (size_t i = json_array_size(copy); i > 0; i--) {
        json_t *m = json_array_get(copy, i - 1);
        const json_t *role = json_object_get(m, "role");
        if (!json_is_string(role) || strcmp(json_string_value(role), "user") != 0) continue;
        json_object_set_new(m, "content", text_json(question));
        break;
    }
    return copy;
}

// A judge's correction of one wrong answer: a row if it holds, counted under its reason if not. `next`: data/prompts/next_step.txt.
FN CorrectionStatus scp_row(const json_t *prompt, Text answer, Text reply, bool reply_capped, const PromptTemplate *next, PairYields *y, Buffer *out) {
    Correction c;
    CorrectionStatus s = correction_parse(reply, reply_capped, answer, &c);
    y->corrections[s]++;
    if (s != CORRECTION_GOOD) return s;
    y->corrections_exact += c.exact;
    Buffer question = {NULL, 0, 0};
    const Text values[] = {prompt_question(prompt), c.prefix};
    prompt_render(next, values, &question);
    json_t *p = prompt_with_question(prompt, text_make(question.data, question.len));
    pair_row(p, text_of(c.correction), c.wrong, "scp", false, out);
    y->scp++;
    json_decref(p);
    buffer_free(&question);
    free(c.correction);
    return s;
}

// Gold over an answer without an end. Gold itself without an end is a pair too: what it teaches is to stop there.
FN OverlongStatus overlong_row(const json_t *prompt, const Answer *a, Text gold, PairYields *y, Buffer *out) {
    OverlongStatus s = !a->capped ? OVERLONG_ENDED : text_trim(a->text).length == 0 ? OVERLONG_EMPTY : text_trim(gold).length == 0 ? OVERLONG_NO_GOLD : OVERLONG_GOOD;
    y->overlongs[s]++;
    if (s != OVERLONG_GOOD) return s;
    pair_row(prompt, gold, a->text, "overlong", true, out);
    y->overlong++;
    return s;
}

FN json_t *pair_yields_json(const PairYields *y) {
    json_t *j = json_object(), *fap = json_object(), *scp = json_object(), *overlong = json_object();
    const struct { const char *name; int64_t value; } counts[] = {{"prompts", y->prompts}, {"prompts_with_pairs", y->prompts_with_pairs}, {"answers", y->answers}, {"answers_used", y->answers_used}, {"rows", y->fap}};
    for (int i = 0; i < 5; i++) json_object_set_new(fap, counts[i].name, json_integer(counts[i].value));
    json_object_set_new(fap, "length_ratio", y->fap ? json_real(exp(y->log_ratio / (double)y->fap)) : json_null());   // geometric mean, chosen over rejected
    json_object_set_new(fap, "dropped", counts_json(drop_names, y->dropped, NUM_DROP));
    json_object_set_new(scp, "rows", json_integer(y->scp));
    json_object_set_new(scp, "quoted_exactly", json_integer(y->corrections_exact));
    json_object_set_new(scp, "dropped", counts_json(correction_names + 1, y->corrections + 1, NUM_CORRECTION - 1));
    json_object_set_new(overlong, "rows", json_integer(y->overlong));
    json_object_set_new(overlong, "dropped", counts_json(overlong_names + 1, y->overlongs + 1, NUM_OVERLONG - 1));
    json_object_set_new(j, "fap", fap);
    json_object_set_new(j, "scp", scp);
    json_object_set_new(j, "overlong", overlong);
    return j;
}
FN void yield_lines(FILE *f, const char *const *names, const int64_t *counts, int n) { for (int i = 0; i < n; i++) if (counts[i]) fprintf(f, "%14" PRId64 "      %s\n", counts[i], names[i]); }
FN void pair_yields_print(const PairYields *y, FILE *f) {
    fprintf(f, "%14" PRId64 "  rows fap, of %" PRId64 " of %" PRId64 " prompts; %" PRId64 " of %" PRId64 " answers used", y->fap, y->prompts_with_pairs, y->prompts, y->answers_used, y->answers);
    if (y->fap) fprintf(f, "; chosen %.2f times as long as rejected", exp(y->log_ratio / (double)y->fap));
    fputc('\n', f);
    yield_lines(f, drop_names, y->dropped, NUM_DROP);
    fprintf(f, "%14" PRId64 "  rows scp, %" PRId64 " quoted letter by letter\n", y->scp, y->corrections_exact);
    yield_lines(f, correction_names + 1, y->corrections + 1, NUM_CORRECTION - 1);
    fprintf(f, "%14" PRId64 "  rows overlong\n", y->overlong);
    yield_lines(f, overlong_names + 1, y->overlongs + 1, NUM_OVERLONG - 1);
}

#endif
