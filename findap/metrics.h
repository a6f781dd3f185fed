// metrics.h: what predictions are worth - pure functions over arrays, in the conventions of the programs whose numbers people compare with: scikit-learn for classes, seqeval's
// default mode for entities, the leaderboard's harness (PIXIU) for its set of labels and its relations. dev/metrics_reference.py proves it, test/test_metrics.c repeats it.
//
// Classes. A prediction without a label ("no answer", -1) is a column of its own. Which labels an average is over decides what such a prediction costs: over the gold labels
// (PIXIU, set(golds)) it costs recall only, over all labels that occur (scikit-learn's default) it is one more class with F1 0; in MCC it is always a class. Every score of
// classes here is a function of three counts a class - right, predicted, gold - so a bootstrap over the cells never needs the rows (stats.h).
//
// 0 / 0 is 0 throughout; a score of nothing at all (no rows) is NAN.
#ifndef FINDAP_METRICS_H
#define FINDAP_METRICS_H
#include "text.h"   // defines: Text, text_trim, text_equal, text_fold_by

typedef struct { double precision, recall, f1; } Prf;
typedef struct { int64_t right, predicted, gold; } Counts;   // of one class, or of entities, of relations

FN Prf prf_of(double right, double predicted, double gold) {
    Prf s = {predicted > 0 ? right / predicted : 0, gold > 0 ? right / gold : 0, predicted + gold > 0 ? 2 * right / (predicted + gold) : 0};
    return s;
}
FN void counts_add(Counts *sum, Counts c) { sum->right += c.right; sum->predicted += c.predicted; sum->gold += c.gold; }
FN Prf counts_prf(Counts c) { return prf_of((double)c.right, (double)c.predicted, (double)c.gold); }

// ---------------------------------------------------------------------------------------------------------------
// classes

enum { METRICS_MAX_LABELS = 4096 };   // cells are (K, K + 1) counts: 128 MiB

typedef enum { AVERAGE_MICRO, AVERAGE_MACRO, AVERAGE_WEIGHTED } Average;
typedef enum { LABELS_GOLD, LABELS_SEEN, LABELS_DECLARED } LabelSet;   // those of the golds; those of golds or predictions, "no answer" too; all K
typedef enum { CELL_ACC, CELL_WEIGHTED_F1, CELL_MACRO_F1, CELL_MICRO_F1, CELL_MACRO_F1_ALL, CELL_MCC, NUM_CELL } CellMetric;   // macro and micro over LABELS_GOLD, macro_all over LABELS_SEEN
FN const char *const cell_metric_names[NUM_CELL] = {"acc", "weighted_f1", "macro_f1", "micro_f1", "macro_f1_all", "mcc"};

typedef struct { int num_labels; int64_t n, *cells; } Confusion;   // cells (K, K + 1): gold, prediction; the last column is "no answer"

FN Confusion confusion_make(int num_labels) {
    CHECK(num_labels > 0 && num_labels <= METRICS_MAX_LABELS);
    Confusion c = {num_labels, 0, (int64_t *)xcalloc((int64_t)num_labels * (num_labels + 1), sizeof(int64_t))};
    return c;
}
FN void confusion_free(Confusion *c) { free(c->cells); memset(c, 0, sizeof *c); }
FN void confusion_add(Confusion *c, int gold, int pred) {   // pred -1: no answer
    CHECK(gold >= 0 && gold < c->num_labels && pred >= -1 && pred < c->num_labels);
    c->cells[(int64_t)gold * (c->num_labels + 1) + (pred < 0 ? c->num_labels : pred)]++;
    c->n++;
}
// One class' counts a label, and one more for "no answer", which is nobody's gold. The caller frees them.
FN Counts *confusion_classes(const Confusion *c) {
    const int K = c->num_labels;
    Counts *classes = (Counts *)xcalloc(K + 1, sizeof(Counts));
    for (int g = 0; g < K; g++) for (int p = 0; p <= K; p++) {
        int64_t count = c->cells[(int64_t)g * (K + 1) + p];
        classes[g].gold += count;
        classes[p].predicted += count;
        if (g == p) classes[g].right += count;
    }
    return classes;
}

FN Prf classes_average(const Counts *classes, int K, Average average, LabelSet set) {
    Prf sum = {0, 0, 0};
    Counts all = {0, 0, 0};
    double weights = 0;
    for (int k = 0; k <= K; k++) {
        const Counts *c = &classes[k];
        if (set == LABELS_SEEN ? c->gold == 0 && c->predicted == 0 : k == K || (set == LABELS_GOLD && c->gold == 0)) continue;
        Prf s = counts_prf(*c);
        double w = average == AVERAGE_WEIGHTED ? (double)c->gold : 1;
        counts_add(&all, *c);
        weights += w; sum.precision += w * s.precision; sum.recall += w * s.recall; sum.f1 += w * s.f1;
    }
    if (average == AVERAGE_MICRO) return counts_prf(all);
    if (weights > 0) { sum.precision /= weights; sum.recall /= weights; sum.f1 /= weights; }
    return sum;
}

FN double classes_mcc(const Counts *classes, int K) {   // R_K (Gorodkin 2004)
    double right = 0, n = 0, both = 0, predicted = 0, gold = 0;
    for (int k = 0; k <= K; k++) {
        double p = (double)classes[k].predicted, g = (double)classes[k].gold;
        right += (double)classes[k].right; n += g; both += p * g; predicted += p * p; gold += g * g;
    }
    double square = (n * n - predicted) * (n * n - gold);
    return square > 0 ? (right * n - both) / sqrt(square) : 0;
}

FN void classes_scores(const Counts *classes, int K, double out[NUM_CELL]) {
    int64_t right = 0, n = 0;
    for (int k = 0; k < K; k++) { right += classes[k].right; n += classes[k].gold; }
    out[CELL_ACC] = n > 0 ? (double)right / (double)n : NAN;
    out[CELL_WEIGHTED_F1] = classes_average(classes, K, AVERAGE_WEIGHTED, LABELS_GOLD).f1;
    out[CELL_MACRO_F1] = classes_average(classes, K, AVERAGE_MACRO, LABELS_GOLD).f1;
    out[CELL_MICRO_F1] = classes_average(classes, K, AVERAGE_MICRO, LABELS_GOLD).f1;
    out[CELL_MACRO_F1_ALL] = classes_average(classes, K, AVERAGE_MACRO, LABELS_SEEN).f1;
    out[CELL_MCC] = classes_mcc(classes, K);
    for (int m = 0; m < NUM_CELL && n == 0; m++) out[m] = NAN;
}
FN void confusion_scores(const Confusion *c, double out[NUM_CELL]) {
    Counts *classes = confusion_classes(c);
    classes_scores(classes, c->num_labels, out);
    free(classes);
}
enum { MAX_SUBSETS = 1000 };
// The mean over subsets, each scored alone (the headlines' average F1 is over nine kinds of question); those without rows don't count.
FN void subsets_scores(const Confusion *subsets, int num, double out[NUM_CELL]) {
    int used = 0;
    for (int m = 0; m < NUM_CELL; m++) out[m] = 0;
    for (int s = 0; s < num; s++) {
        double one[NUM_CELL];
        if (subsets[s].n == 0) continue;
        confusion_scores(&subsets[s], one);
        for (int m = 0; m < NUM_CELL; m++) out[m] += one[m];
        used++;
    }
    for (int m = 0; m < NUM_CELL; m++) out[m] = used ? out[m] / used : NAN;
}

// ---------------------------------------------------------------------------------------------------------------
// baselines: what somebody gets who does not read

FN double expected_share(int64_t n, double p, double add) {   // E[P / (P + add)] for a binomial P of n draws: from the likeliest value outwards, until what is left is nothing
    if (p >= 1) return (double)n / ((double)n + add);
    int64_t mode = (int64_t)(((double)n + 1) * p);
    if (mode > n) mode = n;
    double sum = 0, mass = 0, odds = p / (1 - p), w = 1;
    for (int64_t k = mode; k <= n && w > 1e-20; k++) { mass += w; sum += w * (double)k / ((double)k + add); w *= odds * (double)(n - k) / (double)(k + 1); }
    w = mode > 0 ? (double)mode / (odds * (double)(n - mode + 1)) : 0;
    for (int64_t k = mode - 1; k >= 0 && w > 1e-20; k--) { mass += w; sum += w * (double)k / ((double)k + add); w *= (double)k / (odds * (double)(n - k + 1)); }
    return sum / mass;
}

// majority: always the most frequent gold label (of equal ones the first), each subset its own. uniform: what a fair draw among the K labels gets on average, exactly:
// of P predictions of a class, P g / n are right on average, so its F1 is E[2 (P g / n) / (P + g)] with P binomial; no simulation. Labels that are nobody's gold count
// in the random macro F1 over all labels as if each was drawn at least once. MCC is 0 for both.
FN void cell_baselines(const Confusion *subsets, int num, double majority[NUM_CELL], double uniform[NUM_CELL]) {
    Confusion *always = (Confusion *)xcalloc(num, sizeof(Confusion));
    int used = 0;
    for (int m = 0; m < NUM_CELL; m++) uniform[m] = 0;
    for (int s = 0; s < num; s++) {
        const int K = subsets[s].num_labels;
        const double n = (double)subsets[s].n;
        Counts *classes = confusion_classes(&subsets[s]);
        int most = 0, present = 0;
        double weighted = 0, macro = 0;
        for (int k = 0; k < K; k++) {
            double g = (double)classes[k].gold;
            if (classes[k].gold > classes[most].gold) most = k;
            if (g == 0) continue;
            double f1 = 2 * g / n * expected_share(subsets[s].n, 1.0 / K, g);
            weighted += g / n * f1; macro += f1; present++;
        }
        always[s] = confusion_make(K);
        for (int k = 0; k < K; k++) always[s].cells[(int64_t)k * (K + 1) + most] = classes[k].gold;
        always[s].n = subsets[s].n;
        free(classes);
        if (!present) continue;
        uniform[CELL_ACC] += 1.0 / K;
        uniform[CELL_WEIGHTED_F1] += weighted;
        uniform[CELL_MACRO_F1] += macro / present;
        uniform[CELL_MICRO_F1] += 2.0 / present * expected_share(subsets[s].n, (double)present / K, n);
        uniform[CELL_MACRO_F1_ALL] += macro / K;
        used++;
    }
    for (int m = 0; m < NUM_CELL; m++) uniform[m] = used ? uniform[m] / used : NAN;
    subsets_scores(always, num, majority);
    for (int s = 0; s < num; s++) confusion_free(&always[s]);
    free(always);
}

// constant: always the mean gold number, the best that a constant can do; uniform: a draw from [low, high], the root of the expected squared error
FN void rmse_baselines(const double *gold, int64_t n, double low, double high, double *constant, double *uniform) {
    double mean = 0, squares = 0, draw = 0, middle = 0.5 * (low + high);
    for (int64_t i = 0; i < n; i++) mean += gold[i] / (double)n;
    for (int64_t i = 0; i < n; i++) { squares += (gold[i] - mean) * (gold[i] - mean); draw += (gold[i] - middle) * (gold[i] - middle); }
    *constant = n > 0 ? sqrt(squares / (double)n) : NAN;
    *uniform = n > 0 ? sqrt(draw / (double)n + (high - low) * (high - low) / 12) : NAN;
}

// ---------------------------------------------------------------------------------------------------------------
// entities and relations

typedef struct { char tag; Text type; int64_t begin; } TagReader;   // the tag before, and where the last entity began

// Reads tag i of a sequence; true when an entity ended before it: *type, *begin say which. These are conlleval's rules: entities end and begin where the letters or the types
// say so, whether or not the tags are a sound BIO sequence (a stray I- opens one). Bare "B" has the type "_".
FN bool tag_next(TagReader *r, Text t, int64_t i, Text *type, int64_t *begin) {
    char before = r->tag, now = t.length ? t.data[0] : 'O';
    int64_t first = t.length > 0;
    while (first < t.length && ((unsigned char)t.data[first] & 0xC0) == 0x80) first++;
    Text rest = text_from(t, first);
    int64_t dash = text_find(rest, text_of("-"), 0);
    if (dash >= 0) rest = text_from(rest, dash + 1);
    if (rest.length == 0) rest = text_of("_");
    bool other = !text_equal(r->type, rest);
    bool ends = before == 'E' || before == 'S' || ((before == 'B' || before == 'I') && (now == 'B' || now == 'S' || now == 'O')) || (before != 'O' && before != '.' && other);
    bool begins = now == 'B' || now == 'S' || ((before == 'E' || before == 'S' || before == 'O') && (now == 'E' || now == 'I')) || (now != 'O' && now != '.' && other);
    *type = r->type;
    *begin = r->begin;
    if (begins) r->begin = i;
    r->tag = now;
    r->type = rest;
    return ends;
}

// One sentence's tags. An entity is right if type, begin and end are. Two entities of one sequence never end at the same place, so walking along both at once finds every
// pair. seqeval puts an "O" behind each sentence and goes on: the "O" ends what is open, and behind it B, I, E and S begin an entity whatever was before, just as at the very
// start. So with tags of these letters no entity reaches into another sentence, and the counts of sentences add up to seqeval's of all of them. (With others, U- or lower
// case, one sentence is seqeval's, but there an entity may seem to begin in the sentence before.)
FN Counts entity_counts(const Text *gold, const Text *pred, int64_t n) {
    Counts c = {0, 0, 0};
    TagReader g = {'O', {"", 0}, 0}, p = {'O', {"", 0}, 0};
    for (int64_t i = 0; i <= n; i++) {
        Text end = text_of("O"), gold_type, pred_type;
        int64_t gold_begin, pred_begin;
        bool gold_ends = tag_next(&g, i < n ? gold[i] : end, i, &gold_type, &gold_begin), pred_ends = tag_next(&p, i < n ? pred[i] : end, i, &pred_type, &pred_begin);
        c.gold += gold_ends;
        c.predicted += pred_ends;
        c.right += gold_ends && pred_ends && gold_begin == pred_begin && text_equal(gold_type, pred_type);
    }
    return c;
}

FN int text_compare(const void *a, const void *b) {
    const Text *x = (const Text *)a, *y = (const Text *)b;
    int64_t n = x->length < y->length ? x->length : y->length;
    int order = n ? memcmp(x->data, y->data, (size_t)n) : 0;
    return order ? order : x->length < y->length ? -1 : x->length > y->length;
}
FN Text *text_set(const Text *items, int64_t n, int64_t *size) {   // sorted, each once; the caller frees it
    Text *set = (Text *)xcalloc(n, sizeof(Text));
    if (n > 0) memcpy(set, items, (size_t)n * sizeof(Text));
    qsort(set, (size_t)n, sizeof(Text), text_compare);
    *size = 0;
    for (int64_t i = 0; i < n; i++) if (*size == 0 || !text_equal(set[*size - 1], set[i])) set[(*size)++] = set[i];
    return set;
}
// How many distinct strings are in both, in the prediction, in the gold. A row at a time, or all rows' strings at once as PIXIU does for relations: there a relation that two
// rows have counts once, and one of another row's is right.
FN Counts set_counts(const Text *gold, int64_t num_gold, const Text *pred, int64_t num_pred) {
    Counts c = {0, 0, 0};
    Text *g = text_set(gold, num_gold, &c.gold), *p = text_set(pred, num_pred, &c.predicted);
    for (int64_t i = 0, k = 0; i < c.gold && k < c.predicted;) {
        int order = text_compare(&g[i], &p[k]);
        c.right += order == 0;
        i += order <= 0;
        k += order >= 0;
    }
    free(g); free(p);
    return c;
}

// ---------------------------------------------------------------------------------------------------------------
// texts

// Case and white space don't count, nor does punctuation at the end. Everything else stays: to delete "." or "-" wherever they are, as others do, makes 12.5 equal to 125 and
// -3 to 3, and NFKC would make 10^2 (superscript) 102.
FN Buffer text_without_end(Text t) {   // the caller frees it
    Buffer b = text_fold_by(t, (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_CASEFOLD));
    int64_t n = b.len;
    while (n > 0 && strchr(".,;:!? ", b.data[n - 1]) && b.data[n - 1]) n--;
    if (n > 0) b.len = n;   // what is only punctuation is itself
    return b;
}
FN bool exact_match_normalised(Text a, Text b) {
    Buffer x = text_without_end(a), y = text_without_end(b);
    bool same = text_equal(text_make(x.data, x.len), text_make(y.data, y.len));
    buffer_free(&x); buffer_free(&y);
    return same;
}

#endif
