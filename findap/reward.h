// reward.h: what a generative reward model says, read. A judge's Yes or No, its verdict in JSON, the correction of a first wrong step; and how far
// a judge can be believed, where the right answers can be checked (verify.h).
//
// Judges talk. The object is looked for in whatever stands around it - prose, code fences, a list -, and what models do wrong most often is mended where
// it has one meaning only: a bare newline in a string, a backslash that begins no escape ("\(", "\%"). All else is not guessed at. Every reply ends as a
// verdict or as one named reason why it is none, never as an error: a row without a verdict is counted, kept and left out of pairs.
#ifndef FINDAP_REWARD_H
#define FINDAP_REWARD_H
#include "text.h"   // defines: Text

// ---------------------------------------------------------------------------------------------------------------
// one JSON object with given fields, somewhere in a reply

typedef enum { REPLY_GOOD, REPLY_EMPTY, REPLY_NO_JSON, REPLY_BAD_JSON, REPLY_TRUNCATED, REPLY_NO_FIELD, REPLY_WRONG_TYPE, REPLY_AMBIGUOUS, NUM_REPLY } ReplyStatus;
enum { REPLY_MAX_TRIES = 64, REPLY_MAX_FIELDS = 4 };   // braces looked at, so that a page of open ones costs no page each

// The object that begins at t[i] == '{', mended, into `out`; returns where it ends, -1 if it doesn't.
FN int64_t reply_object_end(Text t, int64_t i, Buffer *out) {
    bool quoted = false;
    int depth = 0;
    for (out->len = 0; i < t.length; i++) {
        char c = t.data[i], next = text_at(t, i + 1);
        if (quoted && c == '\\') {
            bool known = next && strchr("\"\\/bfnrt", next);
            if (next == 'u') { known = true; for (int k = 2; k < 6; k++) { char h = text_at(t, i + k); known = known && (is_digit(h) || ((h | 32) >= 'a' && (h | 32) <= 'f')); } }
            buffer_add(out, "\\\\", known ? 1 : 2);
            if (known) { buffer_add(out, &next, 1); i++; }
            continue;
        }
        if (quoted && (unsigned char)c < 0x20) {
            char code[8];
            snprintf(code, sizeof code, "\\u%04x", (unsigned char)c);
            buffer_add(out, code, 6);
            continue;
        }
        buffer_add(out, &c, 1);
        if (c == '"') quoted = !quoted;
        if (quoted) continue;
        depth += c == '{' ? 1 : c == '}' ? -1 : 0;
        if (depth == 0) return i + 1;
    }
    return -1;
}

// The value of the field `name`, letter case aside: a model that writes "correctness" means the same. NULL: none, or two.
FN const json_t *reply_field(json_t *object, const char *name, bool *twice) {
    const char *key;
    json_t *value;
    const json_t *found = NULL;
    json_object_foreach(object, key, value) if (strcasecmp(key, name) == 0) { *twice = *twice || found; found = value; }
    return found;
}

// Looks for objects that have any of `fields` (n of them). A good one has each exactly once, as a string. Good ones that say the same are one; values[]
// are copies, trimmed, which the caller frees if REPLY_GOOD is returned. `capped`: the reply reached its cap of tokens.
FN ReplyStatus reply_find(Text reply, bool capped, const char *const *fields, int n, char **values) {
    if (text_trim(reply).length == 0) return capped ? REPLY_TRUNCATED : REPLY_EMPTY;
    if (!text_after_thinking(&reply)) return REPLY_TRUNCATED;
    if (reply.length == 0) return capped ? REPLY_TRUNCATED : REPLY_EMPTY;
    ReplyStatus status = capped ? REPLY_TRUNCATED : REPLY_NO_JSON;
    bool good = false, ambiguous = false, telling = false;
    int64_t behind = 0;   // the end of the last object that has one
    Buffer object = {NULL, 0, 0};
    CHECK(n <= REPLY_MAX_FIELDS);
    int tries = 0;
    for (int64_t i = text_find(reply, text_of("{"), 0); i >= 0 && tries < REPLY_MAX_TRIES; i = text_find(reply, text_of("{"), i)) {
        int64_t end = reply_object_end(reply, i, &object);
        tries++;
        Error e;
        json_t *j = end < 0 ? NULL : json_parse("reply", object.data, object.len, &e);
        const json_t *field[REPLY_MAX_FIELDS];
        int have = 0;
        bool twice = false, strings = true;
        for (int k = 0; j && k < n; k++) { field[k] = reply_field(j, fields[k], &twice); have += field[k] != NULL; strings = strings && json_is_string(field[k]) && strlen(json_string_value(field[k])) == json_string_length(field[k]); }
        ReplyStatus this_one = end < 0 ? REPLY_TRUNCATED : !j ? REPLY_BAD_JSON : have < n ? REPLY_NO_FIELD : twice ? REPLY_AMBIGUOUS : !strings ? REPLY_WRONG_TYPE : REPLY_GOOD;
        int64_t at = i;
        i = have ? end : i + 1;   // what lies inside of an object that is not the one is looked at too
        if (this_one == REPLY_GOOD) {
            for (int k = 0; k < n; k++) {
                Text value = text_trim(text_make(json_string_value(field[k]), (int64_t)json_string_length(field[k])));
                if (good) ambiguous = ambiguous || !text_equal(value, text_of(values[k])); else values[k] = text_copy(value);
            }
            good = true;
        } else if (have || (!telling && (status == REPLY_NO_JSON || (this_one == REPLY_TRUNCATED && at >= behind)))) status = this_one;   // the most telling reason stays
        telling = telling || have;
        if (end > behind) behind = end;
        json_decref(j);
    }
    buffer_free(&object);
    if (!ambiguous && good) return REPLY_GOOD;
    for (int k = 0; good && k < n; k++) free(values[k]);
    return ambiguous ? REPLY_AMBIGUOUS : status;
}

// ---------------------------------------------------------------------------------------------------------------
// verdicts

typedef enum { JUDGED_RIGHT, JUDGED_WRONG, JUDGED_EMPTY, JUDGED_NO_JSON, JUDGED_BAD_JSON, JUDGED_TRUNCATED, JUDGED_NO_FIELD, JUDGED_WRONG_TYPE, JUDGED_AMBIGUOUS,
               JUDGED_NO_VERDICT, JUDGED_NO_REPLY, NUM_JUDGED } Judged;   // no_reply: the endpoint failed
FN const char *const judged_names[NUM_JUDGED] = {"right", "wrong", "empty", "no_json", "bad_json", "truncated", "no_field", "wrong_type", "ambiguous", "no_verdict", "no_reply"};

// ReplyStatus 1.. and Judged 2.. name the same things in the same order
FN Judged judged_of(ReplyStatus s) { return (Judged)(JUDGED_EMPTY + (int)s - (int)REPLY_EMPTY); }

FN Judged judge_parse_json(Text reply, bool capped) {   // {"Justification": "...", "Correctness": "correct" or "wrong"}
    static const char *const field[] = {"Correctness"};
    char *value = NULL;
    ReplyStatus s = reply_find(reply, capped, field, 1, &value);
    if (s != REPLY_GOOD) return judged_of(s);
    Judged v = strcasecmp(value, "correct") == 0 ? JUDGED_RIGHT : strcasecmp(value, "wrong") == 0 || strcasecmp(value, "incorrect") == 0 ? JUDGED_WRONG : JUDGED_NO_VERDICT;
    free(value);
    return v;
}

// Yes or No at the beginning of a sentence and standing alone: "Yes.", "**No**, because ...". "No errors were found" is neither. Both: ambiguous.
FN Judged judge_parse_text(Text reply, bool capped) {
    if (text_trim(reply).length == 0) return capped ? JUDGED_TRUNCATED : JUDGED_EMPTY;
    if (!text_after_thinking(&reply)) return JUDGED_TRUNCATED;
    if (reply.length == 0) return capped ? JUDGED_TRUNCATED : JUDGED_EMPTY;
    Judged found = JUDGED_NO_VERDICT;
    bool begins = true;
    for (int64_t i = 0; i < reply.length; i++) {
        char c = reply.data[i];
        if (strchr(" \t*_\"'`(>#-", c) && c) continue;   // what may stand before the first word
        Text rest = text_from(reply, i);
        int64_t word = begins && text_begins(rest, "yes") ? 3 : begins && text_begins(rest, "no") ? 2 : 0;
        char after = text_at(rest, word), behind = text_at(rest, word + 1);
        bool ends = after & 0x80 ? (unsigned char)after >= 0xE2   // dashes and full stops of other scripts, but not the letters of "No\xC3\xABl"
                                 : !is_word(after) && after != '\'' && !(after == '-' && is_word(behind)) && !(word == 2 && after == ' ' && is_word(behind));
        if (word && ends) {
            Judged v = word == 3 ? JUDGED_RIGHT : JUDGED_WRONG;
            if (found != JUDGED_NO_VERDICT && found != v) return JUDGED_AMBIGUOUS;
            found = v;
        }
        begins = c == '\n' || c == ':' || ((c == '.' || c == '!' || c == '?') && !is_word(text_at(reply, i + 1)));
    }
    return found == JUDGED_NO_VERDICT && capped ? JUDGED_TRUNCATED : found;
}

// spellings of the verdict's first token, for a judge whose probabilities can be read: all of a list are summed
FN const char *const judge_yes[] = {"Yes", " Yes", "yes", " yes", "YES", " YES", NULL};
FN const char *const judge_no[] = {"No", " No", "no", " no", "NO", " NO", NULL};

// By probability: *score = P(Yes) / (P(Yes) + P(No)). A judge that puts less than `least` on the two together has something else to say.
FN Judged judge_by_probability(double yes, double no, double least, double *score) {
    *score = NAN;
    if (!(yes >= 0 && no >= 0 && yes + no > 0 && yes + no <= 1 + 1e-3) || yes + no < least) return JUDGED_NO_VERDICT;
    *score = yes / (yes + no);
    return *score == 0.5 ? JUDGED_AMBIGUOUS : *score > 0.5 ? JUDGED_RIGHT : JUDGED_WRONG;
}

// ---------------------------------------------------------------------------------------------------------------
// calibration: the judge's scores against what the verifier knows

typedef struct { double score; bool judged, right; } Judgement;   // score: the judge's probability that the answer is right; NAN where it gave none
enum { CALIBRATION_BINS = 10 };
typedef struct {
    int64_t n, scored, true_right, false_right, true_wrong, false_wrong;   // false_right: judged right, and is not
    int64_t in_bin[CALIBRATION_BINS];
    double score_mean[CALIBRATION_BINS], right_share[CALIBRATION_BINS];    // of a bin; NAN if it is empty
    double accuracy, calibration_error, auc;                               // NAN where there is nothing to compute them from
} Calibration;

FN int judgement_compare(const void *a, const void *b) {
    double x = ((const Judgement *)a)->score, y = ((const Judgement *)b)->score;
    return x < y ? -1 : x > y;
}
// Expected calibration error: bins of equal width, |mean score - share right| weighted by their rows. AUC: the chance that a right answer's score is
// above a wrong one's, ties half, by ranks.
FN Calibration calibrate(const Judgement *rows, int64_t n) {
    Calibration c;
    memset(&c, 0, sizeof c);
    Judgement *scored = (Judgement *)xcalloc(n, sizeof(Judgement));
    for (int64_t i = 0; i < n; i++) {
        int64_t *cell = rows[i].judged ? (rows[i].right ? &c.true_right : &c.false_right) : (rows[i].right ? &c.false_wrong : &c.true_wrong);
        ++*cell;
        if (rows[i].score >= 0 && rows[i].score <= 1) scored[c.scored++] = rows[i];
    }
    c.n = n;
    c.accuracy = n ? (double)(c.true_right + c.true_wrong) / (double)n : NAN;
    double score_sum[CALIBRATION_BINS] = {0}, right_sum[CALIBRATION_BINS] = {0};
    int64_t right = 0;
    qsort(scored, (size_t)c.scored, sizeof *scored, judgement_compare);
    for (int64_t i = 0, end; i < c.scored; i = end) {   // rows of equal score share the mean of their ranks
        int64_t before = right;
        for (end = i; end < c.scored && scored[end].score == scored[i].score; end++) {
            int bin = (int)(scored[end].score * CALIBRATION_BINS);
            if (bin == CALIBRATION_BINS) bin--;
            c.in_bin[bin]++;
            score_sum[bin] += scored[end].score;
            right_sum[bin] += scored[end].right;
            right += scored[end].right;
        }
        c.auc += 0.5 * (double)(i + 1 + end) * (double)(right - before);   // the sum of the right ones' ranks
    }
    double wrong = (double)(c.scored - right);
    c.auc = right && wrong > 0 ? (c.auc - 0.5 * (double)right * (double)(right + 1)) / ((double)right * wrong) : NAN;
    for (int b = 0; b < CALIBRATION_BINS; b++) {
        double k = (double)c.in_bin[b];
        c.score_mean[b] = k > 0 ? score_sum[b] / k : NAN;
        c.right_share[b] = k > 0 ? right_sum[b] / k : NAN;
        if (k > 0) c.calibration_error += k / (double)c.scored * fabs(c.score_mean[b] - c.right_share[b]);
    }
    if (c.scored == 0) c.calibration_error = NAN;
    free(scored);
    return c;
}
FN json_t *calibration_json(const Calibration *c) {   // what is not a number is null
    json_t *j = json_object(), *bins = json_array();
    const struct { const char *name; int64_t value; } counts[] = {{"rows", c->n}, {"judged_right_is_right", c->true_right}, {"judged_right_is_wrong", c->false_right},
        {"judged_wrong_is_wrong", c->true_wrong}, {"judged_wrong_is_right", c->false_wrong}, {"rows_with_score", c->scored}};
    const struct { const char *name; double value; } shares[] = {{"accuracy", c->accuracy}, {"expected_calibration_error", c->calibration_error}, {"auc", c->auc}};
    for (int i = 0; i < 6; i++) json_object_set_new(j, counts[i].name, json_integer(counts[i].value));
    for (int i = 0; i < 3; i++) json_object_set_new(j, shares[i].name, isfinite(shares[i].value) ? json_real(shares[i].value) : json_null());
    for (int b = 0; b < CALIBRATION_BINS; b++) {
        if (c->in_bin[b] == 0) continue;
        json_array_append_new(bins, json_pack("{s:f,s:f,s:I,s:f,s:f}", "from", (double)b / CALIBRATION_BINS, "to", (double)(b + 1) / CALIBRATION_BINS, "rows", (json_int_t)c->in_bin[b],
                                              "score_mean", c->score_mean[b], "right_share", c->right_share[b]));
    }
    json_object_set_new(j, "bins", bins);
    return j;
}

// ---------------------------------------------------------------------------------------------------------------
// corrections: stepwise corrective preference. Only what can be found in the answer again is believed.

typedef enum { CORRECTION_GOOD, CORRECTION_EMPTY, CORRECTION_NO_JSON, CORRECTION_BAD_JSON, CORRECTION_TRUNCATED, CORRECTION_NO_FIELD, CORRECTION_WRONG_TYPE, CORRECTION_AMBIGUOUS,
               CORRECTION_NO_STEP, CORRECTION_NO_CORRECTION, CORRECTION_STEP_NOT_QUOTED, CORRECTION_PREFIX_NOT_QUOTED, CORRECTION_PREFIX_NOT_AT_START, CORRECTION_NOT_ADJACENT,
               CORRECTION_CUTS_WORD, CORRECTION_SAME_STEP, CORRECTION_REPEATS_PREFIX, CORRECTION_NO_REPLY, NUM_CORRECTION } CorrectionStatus;
FN const char *const correction_names[NUM_CORRECTION] = {"good", "empty", "no_json", "bad_json", "truncated", "no_field", "wrong_type", "ambiguous", "no_step", "no_correction", "step_not_quoted",
    "prefix_not_quoted", "prefix_not_at_start", "prefix_not_adjacent", "quote_cuts_word", "correction_same_as_step", "correction_repeats_prefix", "no_reply"};

typedef struct {
    Text prefix, wrong;   // in the answer, as the answer has them, trimmed; the prefix may be empty
    char *correction;     // the caller frees it
    bool exact;           // both quotes occur letter by letter; false: white space differed
} Correction;

FN bool cuts_word(Text t, int64_t i) {   // whether something that belongs together is cut at i: "1|2", "1|.5", "wo|rd"
    char a = text_at(t, i - 1), b = text_at(t, i);
    if (is_word(a) && is_word(b)) return true;
    return ((a == '.' || a == ',') && is_digit(text_at(t, i - 2)) && is_digit(b)) || (is_digit(a) && (b == '.' || b == ',') && is_digit(text_at(t, i + 1)));
}

// The quotes against the answer, white space aside: the prefix must be what the answer begins with, and the wrong step what follows.
FN CorrectionStatus correction_place(Text answer, Text prefix, Text step, Correction *out) {
    int64_t *at, *unused;
    Buffer a = text_squeeze(answer, &at), p = text_squeeze(prefix, &unused), s;
    free(unused);
    s = text_squeeze(step, &unused);
    free(unused);
    const Text in = text_make(a.data, a.len), before = text_make(p.data, p.len), wrong = text_make(s.data, s.len);
    int64_t begin = before.length + (before.length && text_at(in, before.length) == ' '), end = begin + wrong.length;
    CorrectionStatus status = CORRECTION_GOOD;
    if (text_find(in, wrong, 0) < 0) status = CORRECTION_STEP_NOT_QUOTED;
    else if (text_find(in, before, 0) < 0) status = CORRECTION_PREFIX_NOT_QUOTED;
    else if (text_find(in, before, 0) != 0) status = CORRECTION_PREFIX_NOT_AT_START;
    else if (end > in.length || !text_equal(text_slice(in, begin, end), wrong)) status = CORRECTION_NOT_ADJACENT;
    else if (cuts_word(in, begin) || cuts_word(in, end)) status = CORRECTION_CUTS_WORD;
    else {
        out->prefix = text_trim(text_slice(answer, 0, at[begin]));
        out->wrong = text_slice(answer, at[begin], at[end - 1] + 1);
        out->exact = text_find(answer, prefix, 0) >= 0 && text_find(answer, step, 0) >= 0;
    }
    buffer_free(&a); buffer_free(&p); buffer_free(&s);
    free(at);
    return status;
}

// A judge's reply about `answer`, parsed and checked. CORRECTION_GOOD: *out is filled, and borrows from the answer.
FN CorrectionStatus correction_parse(Text reply, bool capped, Text answer, Correction *out) {
    static const char *const fields[] = {"First incorrect step", "Reasoning up to incorrect", "Step correction"};
    char *values[3];
    memset(out, 0, sizeof *out);
    ReplyStatus found = reply_find(reply, capped, fields, 3, values);
    if (found != REPLY_GOOD) return (CorrectionStatus)(CORRECTION_EMPTY + (int)found - (int)REPLY_EMPTY);
    Text step = text_of(values[0]), prefix = text_of(values[1]), correction = text_of(values[2]);
    CorrectionStatus status = step.length == 0 ? CORRECTION_NO_STEP : correction.length == 0 ? CORRECTION_NO_CORRECTION : correction_place(answer, prefix, step, out);
    if (status == CORRECTION_GOOD && text_same_wording(correction, step)) status = CORRECTION_SAME_STEP;
    if (status == CORRECTION_GOOD && prefix.length) {   // it would be learned as something to say twice
        Buffer c = text_fold(correction), p = text_fold(prefix);
        if (text_find(text_make(c.data, c.len), text_make(p.data, p.len), 0) == 0) status = CORRECTION_REPEATS_PREFIX;
        buffer_free(&c); buffer_free(&p);
    }
    free(values[0]); free(values[1]);
    if (status == CORRECTION_GOOD) out->correction = values[2];
    else { free(values[2]); memset(out, 0, sizeof *out); }
    return status;
}

#endif
