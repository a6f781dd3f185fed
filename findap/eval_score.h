// eval_score.h: outputs against gold answers. sample_score makes of one output the facts about it (Sample), task_metrics makes of all of them the scores, each with its
// standard error, its 95 % interval and, beside it, what one gets who always says the most frequent answer, or draws one.
//
// A row without an answer is never right: in F1 it costs recall, in MCC it is a class of its own. A number that was not given costs as much as the worst one that could have
// been given, where the task says what that is ("range"); else refusing would improve the RMSE. "rmse_answered" leaves such rows out.
#ifndef FINDAP_EVAL_SCORE_H
#define FINDAP_EVAL_SCORE_H
#include "eval_extract.h"     // defines: Answer, answer_extract, TextList
#include "eval_pixiu.h"       // defines: pixiu_choice, pixiu_entities, ...
#include "finance_number.h"   // defines: number_matches
#include "log.h"              // defines: json_finite
#include "metrics.h"          // defines: Confusion, Counts, entity_counts, set_counts
#include "rouge.h"            // defines: rouge
#include "stats.h"            // defines: Estimate, bootstrap_cells, bootstrap_sums

typedef struct { bool pixiu, stemmer, strict; int64_t bootstrap; uint64_t seed; } ScoreOptions;   // bootstrap: replicates, 0: as many as are cheap
FN ScoreOptions score_options_default(void) { ScoreOptions o = {false, false, false, 0, 1}; return o; }

typedef struct {
    Outcome outcome;
    int gold, pred;               // indices into the row's choices; pred -1: none; gold -1: the task has no labels
    double value[NUM_METRICS];    // of the row; NAN where the metric is not a mean over rows
    Counts counts;                // entities, relations
    bool counted;
    double error;                 // prediction - gold, NAN where there is none
    TextList tags;                // owned; of kind tags, what was read for each token; in --pixiu-compat of relations, the lines
    int64_t tokens;               // of the output; -1: unknown
    bool truncated;
    char *answer;                 // owned; what was read, for the record; NULL: nothing
} Sample;

FN void sample_free(Sample *s) { text_list_free(&s->tags); free(s->answer); memset(s, 0, sizeof *s); }
FN void samples_free(Sample *s, int64_t n) { for (int64_t i = 0; i < n; i++) sample_free(&s[i]); free(s); }
FN bool sample_has_answer(const Sample *s) { return s->outcome == OUTCOME_ANSWERED; }
FN void sample_begin(const Doc *d, Sample *out) {
    memset(out, 0, sizeof *out);
    out->gold = d->gold;
    out->pred = -1;
    out->error = NAN;
    out->tokens = -1;
    for (int m = 0; m < NUM_METRICS; m++) out->value[m] = NAN;
}

// ---------------------------------------------------------------------------------------------------------------
// one row

FN void score_rouge(Text gold, Text output, bool stem, Sample *out) {
    static bool said;   // once is enough
    Prf r[NUM_ROUGE];
    if (!rouge(gold, output, stem, r) && !said) {
        warn("ROUGE of a text with more than %d words is that of its first %d", ROUGE_MAX_TOKENS, ROUGE_MAX_TOKENS);
        said = true;
    }
    out->value[METRIC_ROUGE1] = r[ROUGE_1].f1;
    out->value[METRIC_ROUGE2] = r[ROUGE_2].f1;
    out->value[METRIC_ROUGEL] = r[ROUGE_L].f1;
}
FN void score_label(int pred, Sample *out) {
    out->pred = pred;
    out->value[METRIC_ACC] = pred >= 0 && pred == out->gold;
}
FN Counts score_tags(const Text *gold, const TextList *pred, int n) {
    Text *read = (Text *)xcalloc(n, sizeof(Text));
    for (int i = 0; i < n; i++) read[i] = pred->items[i].length ? pred->items[i] : text_of("O");
    Counts c = entity_counts(gold, read, n);
    free(read);
    return c;
}
FN Text doc_gold_sentences(const Doc *d, const uint8_t *chosen, Buffer *out) {   // chosen NULL: those of the gold labels
    for (int i = 0; i < d->num_tokens; i++) {
        if (chosen ? !chosen[i] : d->labels[i].data[0] != '1') continue;
        if (out->len) buffer_add(out, "\n", 1);
        buffer_add(out, d->tokens[i].data, d->tokens[i].length);
    }
    return text_make(out->data, out->len);
}

// Does an answer say what the gold one says? What is put around a result (quotes, $, a full stop) counts in neither, as it was taken off the answer; an output that is the gold answer
// word for word is right whatever was read in it.
FN bool answer_is(Text answer, Text output, Text gold) {
    return exact_match_normalised(result_text(answer), result_text(gold)) || exact_match_normalised(output, text_trim(gold));
}

FN void score_number(const Doc *d, const Answer *a, Text output, Sample *out) {
    bool right[NUM_COMPARE] = {false}, answered = sample_has_answer(out), same = false;
    for (int i = 0; i < d->num_answers && answered; i++) {
        Number g;
        bool number = number_of(d->answers[i], false, &g) == RESULT_ONE, equal = answer_is(a->text, output, d->answers[i]);
        same = same || equal;
        for (int k = 0; k < NUM_COMPARE; k++) right[k] = right[k] || (number && !isnan(d->gold_number) ? number_matches((NumberCompare)k, a->number, g) : equal);
    }
    out->value[METRIC_EM] = same;
    for (int k = 0; k < NUM_COMPARE; k++) out->value[METRIC_NUMBER_STRICT + k] = right[k];
    out->value[METRIC_ACC] = right[COMPARE_ROUNDED];
}

FN void score_entities(const Task *t, const Doc *d, Text output, bool stem, Sample *out) {
    int num = 0, gold_num = 0;
    TextList bare = tags_bare(output);
    if (d->num_labels && bare.n == d->num_labels) out->counts = score_tags(d->labels, &bare, d->num_labels);   // tags instead of entities
    out->counted = d->num_labels && bare.n == d->num_labels;
    text_list_free(&bare);
    if (out->counted) return;
    Entity *said = entities_read(t, output, &num), *gold = NULL;
    if (num == 0 && out->outcome == OUTCOME_ANSWERED && !says_none(output)) out->outcome = OUTCOME_MISSING;
    if (d->num_labels == 0) gold = entities_read(t, d->answer, &gold_num);
    if (d->num_tokens == 0) {   // no text to find them in: name and type as they are
        TextList x = {NULL, 0, NULL, 0}, y = {NULL, 0, NULL, 0};
        for (int i = 0; i < num; i++) { char *s = xprintf("%.*s\n%.*s", (int)said[i].name.length, said[i].name.data, (int)said[i].type.length, said[i].type.data); text_list_add(&x, text_list_own(&x, s, (int64_t)strlen(s))); }
        for (int i = 0; i < gold_num; i++) { char *s = xprintf("%.*s\n%.*s", (int)gold[i].name.length, gold[i].name.data, (int)gold[i].type.length, gold[i].type.data); text_list_add(&y, text_list_own(&y, s, (int64_t)strlen(s))); }
        out->counts = set_counts(y.items, y.n, x.items, x.n);
        text_list_free(&x); text_list_free(&y);
    } else {
        TextList tags = entities_project(said, num, d->tokens, d->num_tokens), gold_tags = {NULL, 0, NULL, 0};
        if (d->num_labels == 0) gold_tags = entities_project(gold, gold_num, d->tokens, d->num_tokens);
        out->counts = score_tags(d->num_labels ? d->labels : gold_tags.items, &tags, d->num_tokens);
        text_list_free(&tags); text_list_free(&gold_tags);
    }
    out->counted = true;
    if (d->answer.length) score_rouge(d->answer, output, stem, out);
    free(said); free(gold);
}

FN Text without_cut_line(Text output, bool truncated) {   // the last line of what was cut off is half a line
    if (!truncated) return output;
    const char *p = (const char *)memrchr(output.data, '\n', (size_t)output.length);
    return text_slice(output, 0, p ? p - output.data : 0);
}

FN void pixiu_score(const Task *t, const Doc *d, Text output, const ScoreOptions *o, Sample *out) {
    static const Text nothing = {"", 0};
    out->outcome = OUTCOME_ANSWERED;
    if (t->pixiu <= PIXIU_HEADLINES) {
        score_label(pixiu_choice(t, d, output), out);
        if (out->pred < 0) out->outcome = OUTCOME_MISSING;
    } else if (t->pixiu == PIXIU_QA) out->value[METRIC_ACC] = text_equal(text_trim(output), d->answer);
    else if (t->pixiu == PIXIU_TSA) {
        double x;
        if (pixiu_number(output, &x)) out->error = x - d->gold_number;
        else out->outcome = OUTCOME_MISSING;
    } else if (t->pixiu == PIXIU_NER) {
        TextList tags = pixiu_entities(d->text, output);
        if (tags.n == d->num_labels) { out->counts = score_tags(d->labels, &tags, d->num_labels); out->counted = true; }
        text_list_free(&tags);
    } else if (t->pixiu == PIXIU_SEQUENCE) {
        out->tags = pixiu_tags(t, d, output);
        out->counts = score_tags(d->labels, &out->tags, d->num_tokens);
        out->counted = true;
    } else if (t->pixiu == PIXIU_RELATION) {   // its lines, for the set over all rows
        char *copy = text_copy(output);
        Text all = text_list_own(&out->tags, copy, output.length);
        for (int64_t at = 0;;) {
            const char *newline = at < all.length ? (const char *)memchr(all.data + at, '\n', (size_t)(all.length - at)) : NULL;
            text_list_add(&out->tags, text_slice(all, at, newline ? newline - all.data : all.length));
            if (!newline) break;
            at = newline - all.data + 1;
        }
    } else if (t->pixiu == PIXIU_ABSTRACTIVE) score_rouge(d->answer, output, o->stemmer, out);
    else {
        Buffer gold = {NULL, 0, 0};
        score_rouge(doc_gold_sentences(d, NULL, &gold), nothing, o->stemmer, out);
        buffer_free(&gold);
    }
}

FN void sample_score(const Task *t, const Doc *d, Text output, bool truncated, const ScoreOptions *o, Sample *out) {
    sample_begin(d, out);
    out->truncated = truncated;
    if (o->pixiu && t->pixiu != PIXIU_NONE) { pixiu_score(t, d, output, o, out); return; }
    Answer a = answer_extract(t, d, output, truncated);
    out->outcome = a.outcome;
    Text shown = a.text;
    Buffer gold = {NULL, 0, 0}, chosen = {NULL, 0, 0};
    switch (t->extract) {
    case EXTRACT_LABEL: case EXTRACT_LETTER:
        score_label(a.outcome == OUTCOME_ANSWERED ? a.label : -1, out);
        if (out->pred >= 0) shown = d->choices[out->pred];
        break;
    case EXTRACT_NUMBER: score_number(d, &a, text_trim(output), out); break;
    case EXTRACT_FLOAT:
        if (a.outcome == OUTCOME_ANSWERED) out->error = a.number.value - d->gold_number;
        else if (isfinite(t->low) && isfinite(t->high)) out->error = t->high - d->gold_number > d->gold_number - t->low ? t->high - d->gold_number : t->low - d->gold_number;
        break;
    case EXTRACT_ENTITIES: score_entities(t, d, without_cut_line(a.text, truncated), o->stemmer, out); shown = text_of(""); break;
    case EXTRACT_TAGS: {
        int read = 0;
        out->tags = tags_read(t, without_cut_line(a.text, truncated), d->tokens, d->num_tokens, &read);
        if (read == 0 && a.outcome == OUTCOME_ANSWERED) out->outcome = OUTCOME_MISSING;
        out->counts = score_tags(d->labels, &out->tags, d->num_tokens);
        out->counted = true;
        shown = text_of("");
        break;
    }
    case EXTRACT_RELATIONS: {
        Text lines = without_cut_line(a.text, truncated);
        TextList said = relations_read(lines), right = relations_read(d->answer);
        if (said.n == 0 && a.outcome == OUTCOME_ANSWERED && !says_none(lines)) out->outcome = OUTCOME_MISSING;
        out->counts = set_counts(right.items, right.n, said.items, said.n);
        out->counted = true;
        text_list_free(&said); text_list_free(&right);
        shown = text_of("");
        break;
    }
    case EXTRACT_SENTENCES: {
        uint8_t *marks = (uint8_t *)xcalloc(d->num_tokens, 1);
        bool read = !truncated && a.text.length && sentences_read(a.text, marks, d->num_tokens);
        if (!read) memset(marks, 0, (size_t)d->num_tokens);
        if (!read && a.outcome == OUTCOME_ANSWERED) out->outcome = OUTCOME_MISSING;
        score_rouge(doc_gold_sentences(d, NULL, &gold), doc_gold_sentences(d, marks, &chosen), o->stemmer, out);
        free(marks);
        shown = text_of("");
        break;
    }
    case EXTRACT_SUMMARY: score_rouge(d->answer, a.text, o->stemmer, out); shown = text_of(""); break;
    case EXTRACT_TEXT:
        out->value[METRIC_EM] = 0;
        for (int i = 0; i < d->num_answers && a.outcome == OUTCOME_ANSWERED; i++) if (answer_is(a.text, text_trim(output), d->answers[i])) out->value[METRIC_EM] = 1;
        out->value[METRIC_ACC] = out->value[METRIC_EM];
        score_rouge(d->answer, a.text, o->stemmer, out);
        break;
    default: shown = text_of(""); break;
    }
    buffer_free(&gold); buffer_free(&chosen);
    if (out->outcome == OUTCOME_ANSWERED && shown.length) out->answer = text_copy(text_slice(shown, 0, shown.length < 1000 ? shown.length : 1000));
}

// requests "choices" and "next_token": logps of the choices, each a sum over its tokens. acc takes the likeliest, acc_norm the likeliest per character
FN void sample_score_choices(const Task *t, const Doc *d, const double *logps, const ScoreOptions *o, Sample *out) {
    (void)o;
    sample_begin(d, out);
    int best = -1, best_norm = -1;
    double top = -INFINITY, top_norm = -INFINITY;
    for (int i = 0; i < d->num_choices; i++) {
        int64_t size, characters = 0;
        for (int64_t k = 0; k < d->choices[i].length; k += size, characters++) code_point_at(d->choices[i], k, &size);
        double norm = logps[i] / (double)(characters > 0 ? characters : 1);
        if (logps[i] > top) { top = logps[i]; best = i; }
        if (norm > top_norm) { top_norm = norm; best_norm = i; }
    }
    out->outcome = best < 0 ? OUTCOME_MISSING : OUTCOME_ANSWERED;   // all of them NAN or -inf
    score_label(best, out);
    if (t->request == REQUEST_CHOICES) out->value[METRIC_ACC_NORM] = best_norm >= 0 && best_norm == d->gold;
    if (best >= 0) out->answer = text_copy(d->choices[best]);
}

FN json_t *sample_json(const Task *t, const Doc *d, const Sample *s, int64_t row, Text output) {
    json_t *j = json_object(), *value = json_object();
    json_object_set_new(j, "row", json_integer(row));
    json_object_set_new(j, "id", text_json(d->id));
    json_object_set_new(j, "gold", text_json(doc_target(t, d)));
    json_object_set_new(j, "output", text_json(output));
    if (s->tokens >= 0) json_object_set_new(j, "tokens", json_integer(s->tokens));
    json_object_set_new(j, "truncated", json_boolean(s->truncated));
    json_object_set_new(j, "outcome", json_string(outcome_names[s->outcome]));
    json_object_set_new(j, "answer", s->answer ? text_json(text_of(s->answer)) : json_null());
    if (s->gold >= 0) json_object_set_new(j, "label", json_pack("[i, i]", s->gold, s->pred));
    for (int m = 0; m < NUM_METRICS; m++) if (!isnan(s->value[m])) json_object_set_new(value, metric_names[m], json_real(s->value[m]));
    json_object_set_new(j, "value", value);
    if (s->counted) json_object_set_new(j, "counts", json_pack("[I, I, I]", (json_int_t)s->counts.right, (json_int_t)s->counts.predicted, (json_int_t)s->counts.gold));
    if (!isnan(s->error)) json_object_set_new(j, "error", json_real(s->error));
    json_object_set_new(j, "extractor", json_string(EXTRACTOR_VERSION));
    const char *subset = t->fields[FIELD_SUBSET];   // under the row's own name, or `eval score` of these lines would not know the parts that avg_f1 is over; and as "subset", for `eval compare`
    if (d->subset.length && !strchr(subset, '.') && !json_object_get(j, subset)) json_object_set_new(j, subset, text_json(d->subset));
    if (d->subset.length && !json_object_get(j, "subset")) json_object_set_new(j, "subset", text_json(d->subset));
    return j;
}

// ---------------------------------------------------------------------------------------------------------------
// all rows

typedef struct { const char *name; Estimate e; double majority, random; } Score;
typedef struct { Score items[24]; int n; } Scores;
FN Score *scores_add(Scores *s, const char *name, Estimate e) {
    CHECK(s->n < 24);
    Score x = {name, e, NAN, NAN};
    s->items[s->n] = x;
    return &s->items[s->n++];
}
FN Score *scores_find(Scores *s, const char *name) {
    for (int i = 0; i < s->n; i++) if (strcmp(s->items[i].name, name) == 0) return &s->items[i];
    return NULL;
}

typedef struct { const Task *t; const Doc *docs; const Sample *samples; int64_t n; const ScoreOptions *o; bool pixiu; } Scored;

// A set of texts in the order in which they came; more than `most`: full
enum { MAX_CONFUSION = 64 };
typedef struct { Text *items; int n, most; bool full; } TextSet;
FN int set_place(TextSet *s, Text t, bool add) {
    for (int i = 0; i < s->n; i++) if (text_equal(s->items[i], t)) return i;
    if (!add || s->n == s->most) { s->full = s->full || add; return -1; }
    if (!s->items) s->items = (Text *)xcalloc(s->most, sizeof(Text));
    s->items[s->n] = t;
    return s->n++;
}

FN void score_mean(const Scored *x, Metric m, const char *name, Scores *out) {
    double *v = (double *)xcalloc(x->n, sizeof(double));
    bool share = m == METRIC_ACC || m == METRIC_ACC_NORM || m == METRIC_EM || (m >= METRIC_NUMBER_STRICT && m <= METRIC_NUMBER_RELAXED);
    int64_t right = 0, n = 0;
    for (int64_t i = 0; i < x->n; i++) { v[i] = x->samples[i].value[m]; n += !isnan(v[i]); right += v[i] == 1; }
    if (n > 0) scores_add(out, name, share ? proportion_estimate(right, n) : mean_estimate(v, x->n));
    free(v);
}

// The labels of all rows as one table: the task's; A, B, ..; or whatever the rows list, unless they list too much
FN TextSet labels_table(const Scored *x) {
    TextSet s = {NULL, 0, x->t->num_choices && !x->t->letters ? x->t->num_choices : MAX_CONFUSION, false};
    if (x->t->num_choices && !x->t->letters) for (int i = 0; i < x->t->num_choices; i++) set_place(&s, x->t->choices[i], true);
    else for (int64_t i = 0; i < x->n; i++) for (int k = 0; k < x->docs[i].num_choices && !s.full; k++) set_place(&s, x->docs[i].choices[k], true);
    return s;
}
FN Confusion *labels_confusions(const Scored *x, TextSet *labels, TextSet *subsets, Confusion *all) {   // of each subset, and of all rows
    Confusion *c = (Confusion *)xcalloc(subsets->n, sizeof(Confusion));
    *all = confusion_make(labels->n);
    for (int s = 0; s < subsets->n; s++) c[s] = confusion_make(labels->n);
    bool same = x->t->num_choices && !x->t->letters;
    for (int64_t i = 0; i < x->n; i++) {
        const Doc *d = &x->docs[i];
        int gold = x->samples[i].gold, pred = x->samples[i].pred, subset = set_place(subsets, d->subset, false);
        if (!same) { gold = set_place(labels, d->choices[gold], false); pred = pred < 0 ? -1 : set_place(labels, d->choices[pred], false); }
        confusion_add(all, gold, pred);
        if (subset >= 0) confusion_add(&c[subset], gold, pred);
    }
    return c;
}
FN json_t *confusion_json(const Confusion *c, const TextSet *labels) {   // the last column is "no answer"
    json_t *names = json_array(), *rows = json_array();
    for (int g = 0; g < c->num_labels; g++) {
        json_t *row = json_array();
        for (int p = 0; p <= c->num_labels; p++) json_array_append_new(row, json_integer(c->cells[(int64_t)g * (c->num_labels + 1) + p]));
        json_array_append_new(names, text_json(labels->items[g]));
        json_array_append_new(rows, row);
    }
    return json_pack("{s:o, s:o}", "labels", names, "counts", rows);
}
FN Estimate mcc_pixiu(const Confusion *c, const ScoreOptions *o) {   // a label that is nobody's gold is "missing", too
    Confusion merged = confusion_make(c->num_labels);
    const int K = c->num_labels;
    for (int p = 0; p < K; p++) {
        int64_t gold = 0;
        for (int k = 0; k <= K; k++) gold += c->cells[(int64_t)p * (K + 1) + k];
        for (int g = 0; g < K; g++) merged.cells[(int64_t)g * (K + 1) + (gold ? p : K)] += c->cells[(int64_t)g * (K + 1) + p];
    }
    for (int g = 0; g < K; g++) merged.cells[(int64_t)g * (K + 1) + K] += c->cells[(int64_t)g * (K + 1) + K];
    merged.n = c->n;
    Estimate e[NUM_CELL];
    bootstrap_cells(&merged, 1, o->bootstrap, o->seed, e);
    confusion_free(&merged);
    return e[CELL_MCC];
}

FN void score_labels(const Scored *x, Scores *out, json_t **confusion) {
    TextSet labels = labels_table(x), subsets = {NULL, 0, MAX_SUBSETS, false};
    const bool headlines = x->pixiu && x->t->pixiu == PIXIU_HEADLINES;
    double chance = 0;
    bool any = false;
    for (int64_t i = 0; i < x->n; i++) {
        chance += 1.0 / x->docs[i].num_choices / (double)x->n;
        any = any || x->docs[i].subset.length;
        set_place(&subsets, x->docs[i].subset, true);
    }
    if (!headlines) score_mean(x, METRIC_ACC, "acc", out);
    score_mean(x, METRIC_ACC_NORM, "acc_norm", out);
    if (!labels.full && labels.n > 0) {
        static const char *const names[2][NUM_CELL] = {{"acc", "weighted_f1", "macro_f1", "micro_f1", "macro_f1_all", "mcc"}, {"acc", "f1", "macro_f1", NULL, NULL, "mcc"}};
        Confusion all, *parts = labels_confusions(x, &labels, &subsets, &all);
        Estimate e[NUM_CELL];
        double most[NUM_CELL], uniform[NUM_CELL];
        bootstrap_cells(&all, 1, x->o->bootstrap, x->o->seed, e);
        cell_baselines(&all, 1, most, uniform);
        if (x->pixiu) e[CELL_MCC] = mcc_pixiu(&all, x->o);
        for (int m = CELL_WEIGHTED_F1; m < NUM_CELL && !headlines; m++) {
            if (!names[x->pixiu][m]) continue;
            Score *s = scores_add(out, names[x->pixiu][m], e[m]);
            s->majority = most[m];
            s->random = uniform[m];
        }
        if (scores_find(out, "acc")) scores_find(out, "acc")->majority = most[CELL_ACC];
        if ((any || headlines || x->t->metric == METRIC_AVG_F1) && !subsets.full) {
            bootstrap_cells(parts, subsets.n, x->o->bootstrap, x->o->seed, e);
            cell_baselines(parts, subsets.n, most, uniform);
            Score *s = scores_add(out, "avg_f1", e[CELL_WEIGHTED_F1]);
            s->majority = most[CELL_WEIGHTED_F1];
            s->random = uniform[CELL_WEIGHTED_F1];
        }
        if (labels.n <= MAX_CONFUSION) *confusion = confusion_json(&all, &labels);
        for (int k = 0; k < subsets.n; k++) confusion_free(&parts[k]);
        confusion_free(&all);
        free(parts);
    }
    if (scores_find(out, "acc")) scores_find(out, "acc")->random = chance;
    if (scores_find(out, "acc_norm")) scores_find(out, "acc_norm")->random = chance;
    free(labels.items); free(subsets.items);
}

FN void score_counts(const Scored *x, const char *name, Scores *out) {   // micro F1 over all rows
    double *rows = (double *)xcalloc(x->n * 3, sizeof(double));
    int64_t n = 0;
    for (int64_t i = 0; i < x->n; i++) {
        const Counts *c = &x->samples[i].counts;
        if (!x->samples[i].counted) continue;
        rows[3 * n] = (double)c->right; rows[3 * n + 1] = (double)c->predicted; rows[3 * n++ + 2] = (double)c->gold;
    }
    if (n > 0) scores_add(out, name, bootstrap_sums(rows, n, 3, sums_f1, NULL, x->o->bootstrap, x->o->seed))->majority = 0;   // who says nothing finds nothing
    free(rows);
}

FN double sums_token_macro(const double *s, int64_t num, const void *context) {
    double sum = 0, n = 0;
    (void)context;
    for (int64_t k = 0; k + 2 < num; k += 3) if (s[k + 2] > 0) { sum += prf_of(s[k], s[k + 1], s[k + 2]).f1; n++; }
    return n > 0 ? sum / n : 0;
}
FN double sums_token_acc(const double *s, int64_t num, const void *context) {
    double right = 0, n = 0;
    (void)context;
    for (int64_t k = 0; k + 2 < num; k += 3) { right += s[k]; n += s[k + 2]; }
    return n > 0 ? right / n : NAN;
}
enum { MAX_TAGS = METRICS_MAX_LABELS };
FN void score_tokens(const Scored *x, Scores *out) {   // labels of single tokens, errors by a bootstrap over rows. A token without a label is O, in the harness it has none
    TextSet labels = {NULL, 0, MAX_TAGS, false};
    for (int k = 0; k < x->t->num_choices; k++) set_place(&labels, x->t->choices[k], true);
    for (int64_t i = 0; i < x->n; i++) for (int k = 0; k < x->docs[i].num_labels && !labels.full; k++) set_place(&labels, x->docs[i].labels[k], true);
    int64_t wide = 3 * (int64_t)labels.n;
    if (!labels.full && wide > 0 && x->n < (1ll << 31) / wide) {
        double *rows = (double *)xcalloc(x->n * wide, sizeof(double)), most[NUM_CELL], uniform[NUM_CELL];
        Confusion all = confusion_make(labels.n);
        for (int64_t i = 0; i < x->n; i++) for (int k = 0; k < x->docs[i].num_labels; k++) {
            int gold = set_place(&labels, x->docs[i].labels[k], false), pred = -1;
            Text read = x->samples[i].tags.n > k ? x->samples[i].tags.items[k] : text_make("", 0);
            if (read.length) pred = set_place(&labels, read, false);
            rows[i * wide + 3 * gold + 2]++;
            if (pred >= 0) rows[i * wide + 3 * pred + 1]++;
            if (pred == gold) rows[i * wide + 3 * gold]++;
            confusion_add(&all, gold, pred);
        }
        cell_baselines(&all, 1, most, uniform);
        static const struct { const char *name, *pixiu; SumsMetric f; CellMetric cell; } kinds[3] = {{"weighted_f1", "f1", sums_token_f1, CELL_WEIGHTED_F1}, {"acc", NULL, sums_token_acc, CELL_ACC}, {"macro_f1", NULL, sums_token_macro, CELL_MACRO_F1}};
        for (int k = 0; k < 3; k++) {
            if (x->pixiu && !kinds[k].pixiu) continue;
            Score *s = scores_add(out, x->pixiu ? kinds[k].pixiu : kinds[k].name, bootstrap_sums(rows, x->n, wide, kinds[k].f, NULL, x->o->bootstrap, x->o->seed));
            s->majority = most[kinds[k].cell];
            s->random = uniform[kinds[k].cell];
        }
        confusion_free(&all);
        free(rows);
    }
    free(labels.items);
}

FN void score_errors(const Scored *x, Scores *out) {   // RMSE of those with an answer, and of all
    double *rows = (double *)xcalloc(2 * x->n, sizeof(double)), *gold = (double *)xcalloc(x->n, sizeof(double)), constant, uniform;
    for (int all = 0; all < 2; all++) {
        int64_t n = 0;
        for (int64_t i = 0; i < x->n; i++) {
            const Sample *s = &x->samples[i];
            gold[i] = x->docs[i].gold_number;
            if (isnan(s->error) || (!all && s->outcome != OUTCOME_ANSWERED)) continue;
            rows[2 * n] = s->error * s->error;
            rows[2 * n++ + 1] = 1;
        }
        if (n == 0 || (x->pixiu && all)) continue;
        Score *s = scores_add(out, all || x->pixiu ? "rmse" : "rmse_answered", bootstrap_sums(rows, n, 2, sums_rmse, NULL, x->o->bootstrap, x->o->seed));
        rmse_baselines(gold, x->n, x->t->low, x->t->high, &constant, &uniform);
        s->majority = constant;
        s->random = uniform;
    }
    free(rows); free(gold);
}

FN Estimate estimate_only(double value) { Estimate e = {value, NAN, NAN, NAN}; return e; }
FN void score_global_relations(const Scored *x, Scores *out) {   // the harness' one set over all rows: no error bar can be had of it
    TextList gold = {NULL, 0, NULL, 0}, pred = {NULL, 0, NULL, 0};
    for (int64_t i = 0; i < x->n; i++) {
        const json_t *list = json_at(x->docs[i].row, x->t->fields[FIELD_LABELS]);
        for (size_t k = 0; k < json_array_size(list); k++) if (json_is_string(json_array_get(list, k))) text_list_add(&gold, text_make(json_string_value(json_array_get(list, k)), (int64_t)json_string_length(json_array_get(list, k))));
        Text rest = x->docs[i].answer;
        for (int64_t at = 0; !json_is_array(list) && at < rest.length;) text_list_add(&gold, text_line(rest, &at));
        for (int k = 0; k < x->samples[i].tags.n; k++) text_list_add(&pred, x->samples[i].tags.items[k]);
    }
    Prf s = counts_prf(set_counts(gold.items, gold.n, pred.items, pred.n));
    scores_add(out, "precision", estimate_only(s.precision));
    scores_add(out, "recall", estimate_only(s.recall));
    scores_add(out, "f1", estimate_only(s.f1));
    text_list_free(&gold); text_list_free(&pred);
}

// What the best of the frequent gold answers would score if it were given every time, by the metrics' own comparisons: several golds a row, equal numbers and other spellings count. Of all
// gold answers the 16 that most rows have in some spelling are tried
enum { MAJORITY_TRIES = 16 };
typedef struct { char *key; Text answer; int64_t rows; } GoldAnswer;
FN int gold_answer_by_key(const void *a, const void *b) { return strcmp(((const GoldAnswer *)a)->key, ((const GoldAnswer *)b)->key); }
FN int gold_answer_by_rows(const void *a, const void *b) {
    const GoldAnswer *x = (const GoldAnswer *)a, *y = (const GoldAnswer *)b;
    return x->rows != y->rows ? (x->rows < y->rows) - (x->rows > y->rows) : strcmp(x->key, y->key);
}
FN void answers_majority(const Scored *x, Scores *out) {
    const bool numbers = x->t->extract == EXTRACT_NUMBER;
    int64_t n = 0, kinds = 0;
    for (int64_t i = 0; i < x->n; i++) n += x->docs[i].num_answers;
    GoldAnswer *all = (GoldAnswer *)xcalloc(n + 1, sizeof(GoldAnswer));
    n = 0;
    for (int64_t i = 0; i < x->n; i++) for (int k = 0; k < x->docs[i].num_answers; k++) {
        GoldAnswer *g = &all[n++];
        Number number;
        g->answer = x->docs[i].answers[k];
        g->rows = 1;
        if (numbers && number_of(g->answer, false, &number) == RESULT_ONE) { g->key = xprintf("%.5f", number.value); continue; }
        Buffer folded = text_fold(result_text(g->answer));
        g->key = xprintf("%.*s", (int)folded.len, folded.data ? folded.data : "");
        buffer_free(&folded);
    }
    qsort(all, (size_t)n, sizeof(GoldAnswer), gold_answer_by_key);
    for (int64_t i = 0; i < n; i++) {
        if (kinds && strcmp(all[kinds - 1].key, all[i].key) == 0) { all[kinds - 1].rows++; free(all[i].key); }
        else all[kinds++] = all[i];
    }
    qsort(all, (size_t)kinds, sizeof(GoldAnswer), gold_answer_by_rows);
    for (int64_t c = 0; c < kinds && c < MAJORITY_TRIES; c++) {
        double sums[NUM_METRICS] = {0};
        Answer a = answer_made(OUTCOME_ANSWERED);
        a.text = text_trim(all[c].answer);
        if (!numbers || number_of(a.text, false, &a.number) != RESULT_ONE) a.number.value = NAN;
        for (int64_t i = 0; i < x->n; i++) {
            Sample s;
            sample_begin(&x->docs[i], &s);
            if (numbers) score_number(&x->docs[i], &a, a.text, &s);
            else {
                s.value[METRIC_EM] = 0;
                for (int k = 0; k < x->docs[i].num_answers; k++) if (answer_is(a.text, a.text, x->docs[i].answers[k])) s.value[METRIC_EM] = 1;
                s.value[METRIC_ACC] = s.value[METRIC_EM];
            }
            for (int m = 0; m < NUM_METRICS; m++) sums[m] += s.value[m];
        }
        for (int k = 0; k < out->n; k++) for (int m = 0; m < NUM_METRICS; m++) {
            if (strcmp(out->items[k].name, metric_names[m]) != 0 || isnan(sums[m])) continue;
            const double share = sums[m] / (double)x->n;
            if (!(out->items[k].majority >= share)) out->items[k].majority = share;
        }
    }
    for (int64_t i = 0; i < kinds; i++) free(all[i].key);
    free(all);
}

FN void scores_compute(const Scored *x, Scores *out, json_t **confusion) {
    const ExtractKind kind = x->t->extract;
    const PixiuClass c = x->pixiu ? x->t->pixiu : PIXIU_NONE;
    if (c == PIXIU_RELATION) { score_global_relations(x, out); return; }
    if (c == PIXIU_QA) { score_mean(x, METRIC_ACC, "acc", out); return; }
    if (kind == EXTRACT_LABEL || kind == EXTRACT_LETTER) score_labels(x, out, confusion);
    else if (kind == EXTRACT_FLOAT) score_errors(x, out);
    else {
        if (kind == EXTRACT_RELATIONS) score_counts(x, "relation_f1", out);
        if (kind == EXTRACT_ENTITIES || kind == EXTRACT_TAGS) score_counts(x, "entity_f1", out);
        if (kind == EXTRACT_TAGS) score_tokens(x, out);
        for (int m = 0; m < NUM_METRICS; m++) if (kind != EXTRACT_TAGS || m != METRIC_ACC) score_mean(x, (Metric)m, metric_names[m], out);
        if (kind == EXTRACT_TEXT || kind == EXTRACT_NUMBER) answers_majority(x, out);
    }
    if (!x->pixiu || kind == EXTRACT_ENTITIES || kind == EXTRACT_TAGS || kind == EXTRACT_SUMMARY || kind == EXTRACT_SENTENCES || c == PIXIU_HEADLINES) return;
    int64_t missing = 0;
    for (int64_t i = 0; i < x->n; i++) missing += x->samples[i].outcome == OUTCOME_MISSING;
    scores_add(out, "missing", proportion_estimate(missing, x->n));
}

FN const char *score_name(Metric m, bool pixiu) {   // what the harness calls a metric, or the one of its metrics that is shown for it
    if (!pixiu) return metric_names[m];
    switch (m) {
    case METRIC_WEIGHTED_F1: case METRIC_RELATION_F1: return "f1";
    case METRIC_ACC_NORM: case METRIC_MICRO_F1: case METRIC_EM: case METRIC_NUMBER_STRICT: case METRIC_NUMBER_ROUNDED: case METRIC_NUMBER_RELAXED: return "acc";
    default: return metric_names[m];
    }
}
FN bool score_options_check(const Task *t, const ScoreOptions *o, Error *e) {
    return !o->pixiu || t->pixiu != PIXIU_NONE ? true : fail(e, "--pixiu-compat: task %s is none of the harness' (its file has no \"pixiu\") ---> leave the flag out for it", t->name);
}

FN json_t *lengths_json(const Sample *s, int64_t n) {   // of outputs, in tokens
    enum { EDGES = 12 };
    static const int64_t edges[EDGES] = {0, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
    int64_t counts[EDGES] = {0}, known = 0;
    for (int64_t i = 0; i < n; i++) {
        if (s[i].tokens < 0) continue;
        int k = EDGES - 1;
        while (k > 0 && s[i].tokens < edges[k]) k--;
        counts[k]++;
        known++;
    }
    if (known == 0) return json_null();
    json_t *e = json_array(), *c = json_array();
    for (int k = 0; k < EDGES; k++) { json_array_append_new(e, json_integer(edges[k])); json_array_append_new(c, json_integer(counts[k])); }
    return json_pack("{s:o, s:o}", "edges", e, "counts", c);   // the last bin is open
}
FN json_t *outcomes_json(const Sample *s, int64_t n) {
    int64_t counts[NUM_OUTCOMES] = {0};
    for (int64_t i = 0; i < n; i++) counts[s[i].outcome]++;
    return counts_json(outcome_names, counts, NUM_OUTCOMES);
}
FN double overlength_ratio(const Sample *s, int64_t n) {
    int64_t cut = 0;
    for (int64_t i = 0; i < n; i++) cut += s[i].truncated;
    return n > 0 ? (double)cut / (double)n : NAN;
}
FN json_t *estimate_json(Estimate e) { return json_pack("{s:o, s:o, s:o, s:o}", "value", json_finite(e.value), "stderr", json_finite(e.error), "low", json_finite(e.low), "high", json_finite(e.high)); }

FN void suite_metric(const json_t *suite, Metric *m) {   // stays as it is where the suite says nothing
    const char *name = json_string_value(json_object_get(suite, "metric"));
    if (name) metric_find(name, m);
}
FN const json_t *task_category(const Task *t) {   // the suite that is a leaderboard with categories, if there is one
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(t->json, "suites"), name, value) if (json_object_get(value, "category")) return value;
    return NULL;
}

// What results.json says of one task, times aside. suite: whose metric is shown (NULL: the task's own)
FN json_t *task_metrics(const Task *t, const Doc *docs, const Sample *samples, int64_t n, int64_t bad_rows, const ScoreOptions *o, const char *suite) {
    Scored x = {t, docs, samples, n, o, o->pixiu && t->pixiu != PIXIU_NONE};
    Scores scores;
    scores.n = 0;
    json_t *confusion = NULL, *j = json_object(), *metrics = json_object(), *names = json_array(), *published = json_object();
    const char *name, *who;
    json_t *value, *score;
    Metric shown = t->metric;
    if (n > 0) scores_compute(&x, &scores, &confusion);
    if (suite) suite_metric(task_suite(t, suite), &shown);
    json_object_foreach(json_object_get(t->json, "suites"), name, value) {
        Metric of_suite = t->metric;
        json_array_append_new(names, json_string(name));
        suite_metric(value, &of_suite);
        if (of_suite == shown) json_object_foreach(json_object_get(value, "published"), who, score) json_object_set(published, who, score);   // an accuracy is nothing to put beside an MCC
    }
    json_object_set_new(j, "title", json_string(t->title));
    json_object_set_new(j, "suites", names);
    const json_t *board = task_category(t);
    if (board) {   // of the leaderboard, by its metric; an MCC as it has it, (x + 1) / 2
        Metric m = t->metric;
        suite_metric(board, &m);
        const Score *s = scores_find(&scores, score_name(m, x.pixiu));
        json_object_set(j, "category", json_object_get(board, "category"));
        json_object_set_new(j, "category_score", json_finite(!s ? NAN : m == METRIC_MCC ? (s->e.value + 1) / 2 : s->e.value));
    }
    json_object_set_new(j, "capability", json_string(t->capability));
    json_object_set_new(j, "novelty", json_string(t->novelty));
    json_object_set_new(j, "domain", json_string(t->domain));
    json_object_set_new(j, "mode", json_string(t->cot_mode ? "cot" : "direct"));
    json_object_set_new(j, "request", json_string(request_names[t->request]));
    json_object_set_new(j, "shots", json_integer(t->shots));
    json_object_set_new(j, "version", json_integer(t->version));
    json_object_set_new(j, "n", json_integer(n));
    json_object_set_new(j, "bad_rows", json_integer(bad_rows));
    const Score *s = scores_find(&scores, score_name(shown, x.pixiu));
    Estimate e = s ? s->e : estimate_only(NAN);
    json_object_set_new(j, "metric", json_string(score_name(shown, x.pixiu)));
    json_object_set_new(j, "score", json_finite(e.value));
    json_object_set_new(j, "stderr", json_finite(e.error));
    json_object_set_new(j, "low", json_finite(e.low));
    json_object_set_new(j, "high", json_finite(e.high));
    json_object_set_new(j, "higher_is_better", json_boolean(metric_higher_is_better(shown)));
    json_object_set_new(j, "share", json_boolean(shown != METRIC_RMSE && !(shown == METRIC_JUDGE && isfinite(t->high))));   // of 1: shown in per cent; else in a unit of its own
    for (int i = 0; i < scores.n; i++) json_object_set_new(metrics, scores.items[i].name, estimate_json(scores.items[i].e));
    json_object_set_new(j, "metrics", metrics);
    json_object_set_new(j, "baselines", json_pack("{s:o, s:o}", "majority", json_finite(s ? s->majority : NAN), "random", json_finite(s ? s->random : NAN)));
    json_object_set_new(j, "outcomes", outcomes_json(samples, n));
    json_object_set_new(j, "overlength_ratio", json_finite(overlength_ratio(samples, n)));
    json_object_set_new(j, "confusion", confusion ? confusion : json_null());
    json_object_set_new(j, "lengths", lengths_json(samples, n));
    json_object_set_new(j, "published", published);
    json_object_set_new(j, "task_hash", json_string(t->hash.hex));
    json_object_set_new(j, "extractor", json_string(x.pixiu ? "pixiu" : EXTRACTOR_VERSION));
    return j;
}

#endif
