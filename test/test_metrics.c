// test_metrics.c: metrics.h, rouge.h, stats.h and finance_number.h against what scikit-learn, seqeval, rouge_score and scipy say (dev/metrics_reference.py): a few cases of
// test/data/metrics.json, and thousands more of FINDAP_METRICS=FILE. All must agree to 1e-9; bootstraps as far as the reference's own number of replicates allows.
#include "../findap/stats.h"
#include "../findap/rouge.h"
#include "../findap/verify.h"   // defines: number_next, number_matches, verify
#include "check.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static json_t *files[2];
static int64_t compared;
static double largest;

static int setup(void **state) {
    (void)state;
    Error e;
    const char *big = getenv("FINDAP_METRICS"), *const names[2] = {"test/data/metrics.json", big};
    for (int i = 0; i < 2; i++) {
        if (names[i] && !(files[i] = json_parse_file(names[i], 1ll << 30, &e))) { printf("%s\n", e.text); return -1; }
    }
    return 0;
}
static int teardown(void **state) { (void)state; for (int i = 0; i < 2; i++) json_decref(files[i]); return 0; }

static void near(double x, double expected, const char *what, int64_t number) {
    double difference = fabs(x - expected), size = fabs(expected) > 1 ? fabs(expected) : 1;
    compared++;
    if (!(difference <= 1e-9 * size)) fail_msg("%s, case %" PRId64 ": %.17g, expected %.17g", what, number, x, expected);
    if (difference / size > largest) largest = difference / size;
}
static void near_json(double x, const json_t *expected, const char *what, int64_t number) {
    if (!expected || json_is_null(expected)) { if (!isnan(x)) fail_msg("%s, case %" PRId64 ": %g, expected none", what, number, x); compared++; }
    else near(x, json_number_value(expected), what, number);
}
static Text string_of(const json_t *j) { assert_true(json_is_string(j)); return text_make(json_string_value(j), (int64_t)json_string_length(j)); }
static const json_t *field(const json_t *j, const char *key) { const json_t *v = json_object_get(j, key); if (!v) fail_msg("no \"%s\" in a case", key); return v; }
static double real(const json_t *j, const char *key) { return json_number_value(field(j, key)); }
static int *ints(const json_t *j, int64_t *n) {
    *n = (int64_t)json_array_size(j);
    int *x = (int *)xcalloc(*n, sizeof(int));
    for (int64_t i = 0; i < *n; i++) x[i] = (int)json_integer_value(json_array_get(j, (size_t)i));
    return x;
}
static double *reals(const json_t *j, int64_t *n) {
    *n = (int64_t)json_array_size(j);
    double *x = (double *)xcalloc(*n, sizeof(double));
    for (int64_t i = 0; i < *n; i++) { const json_t *v = json_array_get(j, (size_t)i); x[i] = json_is_null(v) ? NAN : json_number_value(v); }
    return x;
}
static Text *strings(const json_t *j, int64_t *n) {
    *n = (int64_t)json_array_size(j);
    Text *t = (Text *)xcalloc(*n, sizeof(Text));
    for (int64_t i = 0; i < *n; i++) t[i] = string_of(json_array_get(j, (size_t)i));
    return t;
}

// calls `check` for every case of a section, in both files
static void each(const char *section, void (*check)(const json_t *, int64_t)) {
    compared = 0; largest = 0;
    int64_t cases = 0;
    for (int f = 0; f < 2; f++) {
        const json_t *list = files[f] ? json_object_get(files[f], section) : NULL;
        if (files[f] && json_array_size(list) == 0) fail_msg("no %s", section);
        for (size_t i = 0; i < json_array_size(list); i++) check(json_array_get(list, i), cases++);
    }
    printf("%-12s %7" PRId64 " cases, %8" PRId64 " numbers, largest difference %.1e\n", section, cases, compared, largest);
}

// ---- classes

static Confusion confusion_of(int K, const int *gold, const int *pred, int64_t n) {
    Confusion c = confusion_make(K);
    for (int64_t i = 0; i < n; i++) confusion_add(&c, gold[i], pred[i]);
    return c;
}
static void check_classes(const json_t *c, int64_t number) {
    int64_t n, m;
    int *gold = ints(field(c, "gold"), &n), *pred = ints(field(c, "pred"), &m), K = (int)real(c, "K");
    Confusion confusion = confusion_of(K, gold, pred, n);
    double s[NUM_CELL], *rows = (double *)xcalloc(n * 3 * K, sizeof(double));
    confusion_scores(&confusion, s);
    near(s[CELL_ACC], real(c, "acc"), "acc", number);
    near(s[CELL_MCC], real(c, "mcc"), "mcc", number);
    Counts *classes = confusion_classes(&confusion);
    for (int a = 0; a < 3; a++) for (int l = 0; l < 3; l++) {
        const json_t *expected = json_array_get(json_array_get(field(c, "averages"), (size_t)a), (size_t)l);
        Prf got = classes_average(classes, K, (Average)a, (LabelSet)l);
        near_json(got.precision, json_array_get(expected, 0), "average precision", number);
        near_json(got.recall, json_array_get(expected, 1), "average recall", number);
        near_json(got.f1, json_array_get(expected, 2), "average f1", number);
        if (l == LABELS_GOLD) near(s[a == AVERAGE_MICRO ? CELL_MICRO_F1 : a == AVERAGE_MACRO ? CELL_MACRO_F1 : CELL_WEIGHTED_F1], got.f1, "score", number);
        if (l == LABELS_SEEN && a == AVERAGE_MACRO) near(s[CELL_MACRO_F1_ALL], got.f1, "score", number);
    }
    for (int k = 0; k < K; k++) {
        const json_t *expected = json_array_get(field(c, "classes"), (size_t)k);
        Prf got = counts_prf(classes[k]);
        near_json(got.precision, json_array_get(expected, 0), "precision", number);
        near_json(got.recall, json_array_get(expected, 1), "recall", number);
        near_json(got.f1, json_array_get(expected, 2), "f1", number);
    }
    for (int64_t i = 0; i < n; i++) {   // the same weighted F1 as sums over rows
        rows[(i * K + gold[i]) * 3 + 2] = 1;
        if (pred[i] >= 0) rows[(i * K + pred[i]) * 3 + 1] = 1;
        if (pred[i] == gold[i]) rows[(i * K + gold[i]) * 3] = 1;
    }
    near(bootstrap_sums(rows, n, 3 * K, sums_token_f1, NULL, 2, 1).value, s[CELL_WEIGHTED_F1], "token f1", number);
    free(classes);
    confusion_free(&confusion);
    free(gold); free(pred); free(rows);
}
static void check_baselines(const json_t *c, int64_t number) {
    int64_t n;
    int *gold = ints(field(c, "gold"), &n);
    Confusion confusion = confusion_make((int)real(c, "K"));
    for (int64_t i = 0; i < n; i++) confusion_add(&confusion, gold[i], (int)(i % (confusion.num_labels + 1)) - 1);   // predictions don't matter
    double majority[NUM_CELL], uniform[NUM_CELL];
    cell_baselines(&confusion, 1, majority, uniform);
    for (int m = 0; m < NUM_CELL; m++) {
        near_json(majority[m], json_array_get(field(c, "majority"), (size_t)m), cell_metric_names[m], number);
        near_json(uniform[m], json_array_get(field(c, "uniform"), (size_t)m), cell_metric_names[m], number);
    }
    confusion_free(&confusion);
    free(gold);
}
static void check_headlines(const json_t *c, int64_t number) {
    int64_t n, m;
    int *gold = ints(field(c, "gold"), &n), *pred = ints(field(c, "pred"), &m), *kind = ints(field(c, "kind"), &m);
    Confusion subsets[9];
    double s[NUM_CELL];
    for (int k = 0; k < 9; k++) subsets[k] = confusion_make(2);
    for (int64_t i = 0; i < n; i++) confusion_add(&subsets[kind[i]], gold[i], pred[i]);
    subsets_scores(subsets, 9, s);
    near(s[CELL_WEIGHTED_F1], real(c, "avg_f1"), "avg_f1", number);
    Estimate e[NUM_CELL];
    Difference d[NUM_CELL];
    bootstrap_cells(subsets, 9, 2, 1, e);
    paired_cells(gold, gold, pred, kind, n, 2, 9, 2, 1, d);
    near(e[CELL_WEIGHTED_F1].value, s[CELL_WEIGHTED_F1], "bootstrap's avg_f1", number);
    near(d[CELL_WEIGHTED_F1].b, s[CELL_WEIGHTED_F1], "paired avg_f1", number);
    near(d[CELL_WEIGHTED_F1].a, 1, "paired avg_f1 of the golds", number);
    for (int k = 0; k < 9; k++) confusion_free(&subsets[k]);
    free(gold); free(pred); free(kind);
}
static void classes(void **state) { (void)state; each("classes", check_classes); each("baselines", check_baselines); each("headlines", check_headlines); }

static void golden_classes(void **state) {   // ten predictions, worked out in the specification
    (void)state;
    const int gold[] = {0, 1, 2, 0, 1, 2, 0, 1, 1, 0}, pred[] = {0, 1, 0, 0, 2, 2, -1, 1, 0, 0};
    const double expected[NUM_CELL] = {0.6, 0.633333333, 0.611111111, 0.631578947, 0.458333333, 0.430820218};
    Confusion c = confusion_of(3, gold, pred, 10);
    double s[NUM_CELL], right[10];
    confusion_scores(&c, s);
    for (int m = 0; m < NUM_CELL; m++) if (fabs(s[m] - expected[m]) > 5e-10) fail_msg("%s: %.9f, expected %.9f", cell_metric_names[m], s[m], expected[m]);
    for (int i = 0; i < 10; i++) right[i] = gold[i] == pred[i];
    assert_true(fabs(standard_error(right, 10) - 0.163299316) < 5e-10 && fabs(proportion_estimate(6, 10).error - 0.163299316) < 5e-10);
    confusion_free(&c);
    c = confusion_make(2);   // nothing at all
    confusion_scores(&c, s);
    for (int m = 0; m < NUM_CELL; m++) assert_true(isnan(s[m]));
    Estimate e[NUM_CELL];
    double a[NUM_CELL], b[NUM_CELL];
    bootstrap_cells(&c, 1, 0, 1, e);
    assert_true(isnan(e[CELL_ACC].value) && isnan(e[CELL_ACC].error));
    cell_baselines(&c, 1, a, b);
    assert_true(isnan(a[CELL_ACC]) && isnan(b[CELL_ACC]));
    confusion_free(&c);
    // many rows: counts beyond 32 bits, one class only
    c = confusion_make(2);
    c.cells[0] = 6000000000ll; c.cells[3] = 3000000000ll; c.n = 9000000000ll;
    confusion_scores(&c, s);
    assert_true(fabs(s[CELL_ACC] - 1.0 * 6 / 9) < 1e-12 && s[CELL_MCC] == 0);
    bootstrap_cells(&c, 1, 2000, 1, e);
    assert_true(fabs(e[CELL_ACC].error / sqrt(2.0 / 9 / 9e9) - 1) < 0.1);
    confusion_free(&c);
}

// ---- entities, relations, numbers

static void check_entities(const json_t *c, int64_t number) {
    const json_t *gold = field(c, "gold"), *pred = field(c, "pred");
    Counts sum = {0, 0, 0};
    for (size_t s = 0; s < json_array_size(gold); s++) {   // a sentence at a time: the sums are seqeval's of all sentences
        int64_t n, m;
        Text *g = strings(json_array_get(gold, s), &n), *p = strings(json_array_get(pred, s), &m);
        assert_true(n == m);
        counts_add(&sum, entity_counts(g, p, n));
        free(g); free(p);
    }
    near((double)sum.right, real(c, "right"), "entities right", number);
    near((double)sum.predicted, real(c, "predicted"), "entities predicted", number);
    near((double)sum.gold, real(c, "golds"), "entities", number);
    near(counts_prf(sum).f1, real(c, "f1"), "entity f1", number);
    near(counts_prf(sum).precision, real(c, "p"), "entity precision", number);
    near(counts_prf(sum).recall, real(c, "r"), "entity recall", number);
}
static void check_relations(const json_t *c, int64_t number) {
    const json_t *rows = field(c, "rows"), *all = field(c, "all");
    Text golds[64], preds[64];
    int64_t num_golds = 0, num_preds = 0;
    for (size_t r = 0; r < json_array_size(rows); r++) {
        int64_t n, m;
        Text *g = strings(json_array_get(json_array_get(rows, r), 0), &n), *p = strings(json_array_get(json_array_get(rows, r), 1), &m);
        const json_t *expected = json_array_get(field(c, "each"), r);
        Counts counts = set_counts(g, n, p, m);
        near_json((double)counts.right, json_array_get(expected, 0), "relations right", number);
        near_json((double)counts.predicted, json_array_get(expected, 1), "relations predicted", number);
        near_json((double)counts.gold, json_array_get(expected, 2), "relations", number);
        assert_true(num_golds + n <= 64 && num_preds + m <= 64);
        for (int64_t i = 0; i < n; i++) golds[num_golds++] = g[i];
        for (int64_t i = 0; i < m; i++) preds[num_preds++] = p[i];
        free(g); free(p);
    }
    Counts counts = set_counts(golds, num_golds, preds, num_preds);
    near_json((double)counts.right, json_array_get(all, 0), "all relations right", number);
    near_json((double)counts.predicted, json_array_get(all, 1), "all relations predicted", number);
    near_json((double)counts.gold, json_array_get(all, 2), "all relations", number);
    near(counts_prf(counts).f1, real(c, "f1"), "relation f1", number);
}
// What the leaderboard's harness makes of raw outputs, from its predictions on: accuracy, weighted and macro F1 over set(golds), MCC, entities, tokens, one set of all relations
static double rmse_of(const double *errors, int64_t n) {   // as eval_score.h has it: what is NAN is left out
    double *rows = (double *)xcalloc(2 * n, sizeof(double));
    for (int64_t i = 0; i < n; i++) if (!isnan(errors[i])) { rows[2 * i] = errors[i] * errors[i]; rows[2 * i + 1] = 1; }
    double value = bootstrap_sums(rows, n, 2, sums_rmse, NULL, 2, 1).value;
    free(rows);
    return value;
}
static void check_harness(const json_t *c, int64_t number) {
    const char *kind = json_string_value(field(c, "class"));
    const json_t *rows = field(c, "rows"), *pred = json_object_get(c, "pred");
    const int64_t n = (int64_t)json_array_size(rows);
    Counts sum = {0, 0, 0};
    if (json_object_get(c, "choices") || strcmp(kind, "sequence") == 0) {
        const json_t *labels = json_object_get(c, "labels"), *choices = json_object_get(c, "choices");
        Confusion confusion = confusion_make((int)json_array_size(labels ? labels : choices));
        double s[NUM_CELL];
        for (int64_t i = 0; i < n; i++) {
            const json_t *row = json_array_get(rows, (size_t)i), *said = json_array_get(pred, (size_t)i), *golds = json_array_get(row, labels ? 2 : 1);
            if (choices) { confusion_add(&confusion, (int)json_integer_value(golds), (int)json_integer_value(said)); continue; }
            Text g[64], p[64], names[8];
            int64_t num = (int64_t)json_array_size(golds);
            assert_true(num <= 64 && json_array_size(labels) <= 8);
            for (size_t k = 0; k < json_array_size(labels); k++) names[k] = string_of(json_array_get(labels, k));
            for (int64_t k = 0; k < num; k++) {
                int id = (int)json_integer_value(json_array_get(said, (size_t)k)), gold = 0;
                g[k] = string_of(json_array_get(golds, (size_t)k));
                p[k] = names[id < 0 ? 0 : id];
                while (!text_equal(names[gold], g[k])) gold++;
                confusion_add(&confusion, gold, id);
            }
            counts_add(&sum, entity_counts(g, p, num));
        }
        confusion_scores(&confusion, s);
        near(s[CELL_WEIGHTED_F1], real(c, "f1"), "f1", number);
        if (labels) near(counts_prf(sum).f1, real(c, "entity_f1"), "entity_f1", number);
        else { near(s[CELL_ACC], real(c, "acc"), "acc", number); near(s[CELL_MACRO_F1], real(c, "macro_f1"), "macro_f1", number); near(s[CELL_MCC], real(c, "mcc"), "mcc", number); }
        confusion_free(&confusion);
    } else if (strcmp(kind, "tsa") == 0) {
        int64_t m;
        double *errors = reals(field(c, "errors"), &m);
        near_json(rmse_of(errors, m), field(c, "rmse"), "rmse", number);
        free(errors);
    } else if (strcmp(kind, "ner") == 0) {
        for (int64_t i = 0; i < n; i++) {
            int64_t m;
            Text *g = strings(json_array_get(json_array_get(rows, (size_t)i), 2), &m), *p = strings(json_array_get(pred, (size_t)i), &m);
            counts_add(&sum, entity_counts(g, p, m));
            free(g); free(p);
        }
        near(counts_prf(sum).f1, real(c, "entity_f1"), "entity_f1", number);
    } else if (strcmp(kind, "relation") == 0) {
        Text golds[256], lines[256];
        int64_t num_golds = 0, num_lines = 0;
        for (int64_t i = 0; i < n; i++) {
            const json_t *row = json_array_get(rows, (size_t)i), *list = json_array_get(row, 1);
            Text said = string_of(json_array_get(row, 0));
            for (int64_t at = 0, from = 0; from >= 0; at = from + 1) { from = text_find(said, text_of("\n"), at); lines[num_lines++] = text_slice(said, at, from < 0 ? said.length : from); }   // split, also of "" one
            for (size_t k = 0; k < json_array_size(list); k++) golds[num_golds++] = string_of(json_array_get(list, k));
            assert_true(num_golds < 250 && num_lines < 250);
        }
        Prf s = counts_prf(set_counts(golds, num_golds, lines, num_lines));
        near(s.precision, real(c, "p"), "precision", number); near(s.recall, real(c, "r"), "recall", number); near(s.f1, real(c, "f1"), "f1", number);
    } else {
        double right = 0;
        for (int64_t i = 0; i < n; i++) right += text_equal(text_trim(string_of(json_array_get(json_array_get(rows, (size_t)i), 0))), string_of(json_array_get(json_array_get(rows, (size_t)i), 1)));
        assert_string_equal(kind, "qa");
        near(right / (double)n, real(c, "acc"), "acc", number);
    }
}
static void check_rmse(const json_t *c, int64_t number) {
    int64_t n;
    double *gold = reals(field(c, "gold"), &n), *pred = reals(field(c, "pred"), &n), constant, uniform;
    for (int64_t i = 0; i < n; i++) pred[i] -= gold[i];
    near_json(rmse_of(pred, n), field(c, "rmse"), "rmse", number);
    rmse_baselines(gold, n, -1, 1, &constant, &uniform);
    near(constant, real(c, "constant"), "rmse of a constant", number);
    near(uniform, real(c, "uniform"), "rmse of a draw", number);
    free(gold); free(pred);
}
static void entities_relations_numbers(void **state) { (void)state; each("entities", check_entities); each("relations", check_relations); each("rmse", check_rmse); each("harness", check_harness); }

// ---- texts

static void check_rouge(const json_t *c, int64_t number) {
    static const char *const names[] = {"rouge1", "rouge2", "rougeL"};
    for (int stem = 0; stem < 2; stem++) {
        Prf got[NUM_ROUGE];
        assert_true(rouge(string_of(field(c, "gold")), string_of(field(c, "pred")), stem, got));
        for (int k = 0; k < NUM_ROUGE; k++) {
            const json_t *expected = json_array_get(json_array_get(field(c, "scores"), (size_t)stem), (size_t)k);
            near_json(got[k].precision, json_array_get(expected, 0), names[k], number);
            near_json(got[k].recall, json_array_get(expected, 1), names[k], number);
            near_json(got[k].f1, json_array_get(expected, 2), names[k], number);
        }
    }
}
static void check_stems(const json_t *c, int64_t number) {
    char *word = text_copy(string_of(json_array_get(c, 0)));
    word[porter_stem(word, (int64_t)strlen(word))] = 0;
    if (strcmp(word, json_string_value(json_array_get(c, 1))) != 0) fail_msg("case %" PRId64 ": %s -> %s, expected %s", number, json_string_value(json_array_get(c, 0)), word, json_string_value(json_array_get(c, 1)));
    compared++;
    free(word);
}
static void check_matches(const json_t *c, int64_t number) {
    Text a = string_of(field(c, "a")), b = string_of(field(c, "b"));
    if (exact_match_normalised(a, b) != json_is_true(field(c, "normalised"))) fail_msg("case %" PRId64 ": \"%.*s\" and \"%.*s\", normalised", number, (int)a.length, a.data, (int)b.length, b.data);
    compared++;
}
static void texts(void **state) {
    (void)state;
    each("rouge", check_rouge); each("stems", check_stems); each("matches", check_matches);
    Prf r[NUM_ROUGE];   // the specification's own
    rouge(text_of("Q3 revenue rose 12.5% to $1.2bn, beating the company's own guidance."), text_of("The company's revenue rose 12.5 percent in Q3 to $1.2 bn and beat guidance"), false, r);
    assert_true(fabs(r[ROUGE_1].f1 - 0.709677419) < 5e-10 && fabs(r[ROUGE_2].f1 - 0.413793103) < 5e-10 && fabs(r[ROUGE_L].f1 - 0.451612903) < 5e-10);
    rouge(text_of("It was 3\xE2\x84\xAA, \xC4\xB0stanbul"), text_of("it wa 3k i stanbul"), true, r);   // three letters are no word to stem; lower() makes ASCII of two others
    assert_true(fabs(r[ROUGE_1].f1 - 0.8) < 1e-15 && fabs(r[ROUGE_L].f1 - 0.8) < 1e-15);
    static const struct { const char *a, *b; bool same; } pairs[] = {{"12.5", "125", false}, {"-3%", "3", false}, {"-3", "3", false}, {"12.", "12", true}, {"Rise!", "rise", true}, {"10\xC2\xB2", "102", false}, {"...", "", false}, {"a\n b", "A B", true}};
    for (int i = 0; i < COUNT(pairs); i++) if (exact_match_normalised(text_of(pairs[i].a), text_of(pairs[i].b)) != pairs[i].same) fail_msg("%s, %s", pairs[i].a, pairs[i].b);
    // bytes that are no text, and texts of any size
    assert_true(rouge(text_make("\xFF\0a\xE2\x84", 5), text_of("A \xC4"), true, r) && r[ROUGE_1].f1 == 1);
    Buffer big = {NULL, 0, 0};
    for (uint64_t i = 0; i < ROUGE_MAX_TOKENS / 8 + 1; i++) { char w[16]; int n = snprintf(w, sizeof w, "%d ", (int)random_below(1, 2, i, 3)); buffer_add(&big, w, n); }
    double start = seconds_now();
    assert_true(rouge(text_make(big.data, big.len), text_make(big.data + 2, big.len - 2), true, r) && r[ROUGE_L].f1 > 0.9999 && r[ROUGE_L].f1 < 1);
    for (int i = 0; i < 3; i++) { buffer_reserve(&big, big.len); buffer_add(&big, big.data, big.len); }
    assert_false(rouge(text_make(big.data, big.len), text_of("1"), false, r));
    assert_true(r[ROUGE_1].recall == 1.0 / ROUGE_MAX_TOKENS);
    assert_true(seconds_now() - start < 20);
    buffer_free(&big);
}

// lcs_length by bits against the table it stands for, on texts of few and of many kinds of tokens
static void subsequences(void **state) {
    (void)state;
    enum { MOST = 300 };
    int64_t a[MOST], b[MOST];
    for (uint64_t t = 0; t < 400; t++) {
        int64_t n = (int64_t)random_below(5, 1, t, MOST), m = (int64_t)random_below(5, 2, t, MOST), kinds = 1 + (int64_t)random_below(5, 3, t, t % 2 ? 4 : 200), row[MOST + 1] = {0};
        for (int64_t i = 0; i < n; i++) a[i] = (int64_t)random_below(6, t, (uint64_t)i, (uint64_t)kinds);
        for (int64_t i = 0; i < m; i++) b[i] = (int64_t)random_below(7, t, (uint64_t)i, (uint64_t)kinds);
        for (int64_t i = 0; i < n; i++) for (int64_t j = 0, diagonal = 0; j < m; j++) {
            int64_t above = row[j + 1];
            row[j + 1] = a[i] == b[j] ? diagonal + 1 : row[j] > above ? row[j] : above;
            diagonal = above;
        }
        assert_int_equal(lcs_length(a, n, b, m, kinds), row[m]);
    }
}

// ---- numbers

static Number number_in(const json_t *j, int64_t number) {   // reads the text, which must give what the file says
    Number n, again;
    int64_t at = 0;
    Text t = string_of(field(j, "text"));
    if (number_next(t, &at, &n) != RESULT_ONE || number_next(t, &at, &again) != RESULT_NONE) fail_msg("case %" PRId64 ": \"%.*s\" is no number", number, (int)t.length, t.data);
    near(n.value, real(j, "value"), "value", number);
    near(n.unit / real(j, "unit"), 1, "unit", number);
    assert_true(n.percent == json_is_true(field(j, "percent")));
    return n;
}
static const char *const number_compare[NUM_COMPARE] = {"strict", "rounded", "relaxed"};
static void check_comparisons(const json_t *c, int64_t number) {
    Number p = number_in(field(c, "pred"), number), g = number_in(field(c, "gold"), number);
    for (int how = 0; how < NUM_COMPARE; how++) {
        if (number_matches((NumberCompare)how, p, g) != json_is_true(json_array_get(field(c, "matches"), (size_t)how)))
            fail_msg("case %" PRId64 ": \"%s\" for \"%s\" is %s %s", number, json_string_value(field(field(c, "pred"), "text")), json_string_value(field(field(c, "gold"), "text")),
                     json_is_true(json_array_get(field(c, "matches"), (size_t)how)) ? "not right, expected right:" : "right, expected not:", number_compare[how]);
        compared++;
    }
}
static void numbers(void **state) {
    (void)state;
    each("comparisons", check_comparisons);
    static const struct { const char *pred, *gold; int level; } cases[] = {   // from which on they match: 0 strict, 1 rounded, 2 relaxed, 3 not at all
        {"$1.2bn", "1,200 million", 0}, {"(134)", "-134", 0}, {"\xE2\x88\x92" "5", "-5", 0}, {"12.", "12", 0}, {"1.5e3", "1,500", 0}, {"14.136%", "0.14136", 0}, {"14.1%", "0.14136", 2}, {"14.1", "0.14136", 2}, {"0.141", "14.136", 2},
        {"12%", "12", 2}, {"12", "12%", 2}, {"0.12", "12%", 0}, {"1200%", "12%", 3}, {"12", "1,200", 3}, {"150", "1.5", 2}, {"12.3456", "12.35", 1}, {"12.3", "12.35", 2}, {"12.345", "12.34", 1}, {"12.345", "12.35", 1}, {"2.6", "3", 1}, {"2.4", "3", 3},
        {"100.9", "100", 2}, {"101.1", "100", 3}, {"-99.5", "-100", 1}, {"99.4", "-99.4", 3}, {"0.12345", "0.12346", 2}, {"0.123456", "0.123459", 0}, {"0.1234561", "0.1234562", 0}, {"0", "0.0", 0}, {"0.0000001", "0", 0}, {"5 million", "5", 3}, {"5", "5 thousand", 3}, {"50 bps", "0.5%", 0}};
    for (int i = 0; i < COUNT(cases); i++) for (int how = 0; how < NUM_COMPARE; how++) {
        Number p, g;
        assert_true(number_of(text_of(cases[i].pred), false, &p) == RESULT_ONE && number_of(text_of(cases[i].gold), false, &g) == RESULT_ONE);
        if (number_matches((NumberCompare)how, p, g) != (how >= cases[i].level)) fail_msg("\"%s\" for \"%s\": %s", cases[i].pred, cases[i].gold, number_compare[how]);
    }
    Number n;   // what is no answer, or not one
    static const struct { const char *text; Found found; } none[] = {{"1.234,5", RESULT_AMBIGUOUS}, {"Q3", RESULT_NONE}, {"10-K", RESULT_NONE}, {"N/A", RESULT_NONE}, {"between 3 and 4", RESULT_AMBIGUOUS}, {"5 (1)", RESULT_AMBIGUOUS}, {"1,234.5", RESULT_ONE}};
    for (int i = 0; i < COUNT(none); i++) if (number_of(text_of(none[i].text), false, &n) != none[i].found) fail_msg("%s", none[i].text);
    const Number bad[] = {{NAN, 1, false}, {INFINITY, 1, false}}, huge = {1.7e308, 1e308, false};
    for (int i = 0; i < 2; i++) assert_false(number_matches(COMPARE_RELAXED, bad[i], bad[i]));
    assert_true(number_matches(COMPARE_STRICT, huge, huge));
}

// ---- statistics

static void check_statistics(const json_t *c, int64_t number) {
    int64_t n, m;
    double *a = reals(field(c, "a"), &n), *b = reals(field(c, "b"), &m), low, high;
    Estimate e = mean_estimate(a, n);
    near(e.value, real(c, "mean"), "mean", number);
    near(e.error, real(c, "sem"), "standard error", number);
    near(e.low, real(c, "mean_low"), "low", number);
    near(e.high, real(c, "mean_high"), "high", number);
    Difference d = paired_means(a, b, n);
    near(d.b - d.a, d.difference, "difference", number);
    if (json_is_number(field(c, "paired_p"))) near(d.p, real(c, "paired_p"), "paired t test", number);
    wilson(real(c, "k"), real(c, "n"), 1.959963984540054, &low, &high);
    near_json(low, json_array_get(field(c, "wilson"), 0), "wilson", number);
    near_json(high, json_array_get(field(c, "wilson"), 1), "wilson", number);
    const json_t *pair = field(c, "mcnemar");
    near_json(mcnemar(json_integer_value(json_array_get(pair, 0)), json_integer_value(json_array_get(pair, 1))), json_array_get(pair, 2), "mcnemar", number);
    near(t_quantile(real(c, "q"), real(c, "df")), real(c, "t_quantile"), "t quantile", number);
    near(normal_quantile(real(c, "q")), real(c, "normal_quantile"), "normal quantile", number);
    near(t_cdf(real(c, "t"), real(c, "df")), real(c, "t_cdf"), "t", number);
    free(a); free(b);
}
static void check_fits(const json_t *c, int64_t number) {
    int64_t n;
    double *size = reals(field(c, "size"), &n), *f1 = reals(field(c, "f1"), &n);
    PowerFit fit;
    Error e;
    if (!power_fit(size, f1, NULL, n, 1, &fit, &e)) fail_msg("%s", e.text);
    near(fit.slope, real(c, "slope"), "slope", number);
    near(fit.exponent, -real(c, "slope"), "exponent", number);
    near(fit.intercept, real(c, "intercept"), "intercept", number);
    near(fit.r2, real(c, "r2"), "r2", number);
    near(fit.error, real(c, "error"), "error", number);
    near(fit.low, real(c, "low"), "low", number);
    near(fit.high, real(c, "high"), "high", number);
    if (!(fit.boot_low <= fit.exponent && fit.exponent <= fit.boot_high)) fail_msg("case %" PRId64 ": bootstrap %g to %g", number, fit.boot_low, fit.boot_high);
    free(size); free(f1);
}
// Two bootstraps of B1 and B2 replicates agree as well as such numbers can: the standard error of an error estimated from B replicates is about error / sqrt(2 B), that of its 2.5 %
// point about 2.7 error / sqrt(B), and scores of few rows jump. Five of those.
static double roughest;
static void alike(double x, double reference, double error, int64_t replicates, double wide, double jump, const char *what, int64_t number) {
    double off = fabs(x - reference), allowed = 5 * wide * error / sqrt((double)replicates) + jump;
    compared++;
    if (error > 0 && off / error > roughest) roughest = off / error;
    if (!(off <= allowed)) fail_msg("%s, case %" PRId64 ": %g, the reference has %g +- %g", what, number, x, reference, allowed);
}
static void check_bootstraps(const json_t *c, int64_t number) {
    int64_t n, R = (int64_t)real(c, "replicates");
    int *gold = ints(field(c, "gold"), &n), *pred = ints(field(c, "pred"), &n), *other = ints(field(c, "other"), &n), K = (int)real(c, "K");
    Confusion confusion = confusion_of(K, gold, pred, n);
    Estimate e[NUM_CELL], again[NUM_CELL];
    Difference d[NUM_CELL];
    bootstrap_cells(&confusion, 1, 100000, 3, e);
    bootstrap_cells(&confusion, 1, 100000, 3, again);
    assert_memory_equal(e, again, sizeof e);   // the same bits twice
    paired_cells(gold, pred, other, NULL, n, K, 1, 100000, 4, d);
    double *rows = (double *)xcalloc(4 * n, sizeof(double));
    for (int64_t i = 0; i < n; i++) { rows[2 * i] = gold[i] == pred[i]; rows[2 * n + 2 * i] = gold[i] == other[i]; rows[2 * i + 1] = rows[2 * n + 2 * i + 1] = 1; }
    for (int m = 0; m < NUM_CELL; m++) {
        double error = json_number_value(json_array_get(field(c, "error"), (size_t)m)), of_difference = json_number_value(json_array_get(field(c, "difference_error"), (size_t)m)), jump = m == CELL_ACC || m == CELL_MICRO_F1 ? 1.0 / (double)n : 0;   // those two move in steps
        alike(e[m].error, error, error, R, 0.9, 0, cell_metric_names[m], number);
        alike(e[m].low, json_number_value(json_array_get(field(c, "low"), (size_t)m)), error, R, 2.7, jump, cell_metric_names[m], number);
        alike(e[m].high, json_number_value(json_array_get(field(c, "high"), (size_t)m)), error, R, 2.7, jump, cell_metric_names[m], number);
        alike(d[m].error, of_difference, of_difference, R, 0.9, 0, cell_metric_names[m], number);
        alike(d[m].low, json_number_value(json_array_get(field(c, "difference_low"), (size_t)m)), of_difference, R, 2.7, jump, cell_metric_names[m], number);
        alike(d[m].high, json_number_value(json_array_get(field(c, "difference_high"), (size_t)m)), of_difference, R, 2.7, jump, cell_metric_names[m], number);
    }
    double p = e[CELL_ACC].value, closed = sqrt(p * (1 - p) / (double)n);   // accuracy has a closed form; so has its difference
    alike(e[CELL_ACC].error, closed, closed, 100000, 0.9, 0, "accuracy, closed form", number);
    Estimate by_rows = bootstrap_sums(rows, n, 2, sums_mean, NULL, 20000, 5);
    Difference by_pairs = paired_sums(rows, rows + 2 * n, n, 2, sums_mean, NULL, 20000, 5);
    near(by_rows.value, e[CELL_ACC].value, "accuracy by rows", number);
    near(by_pairs.difference, d[CELL_ACC].difference, "difference by rows", number);
    alike(by_rows.error, closed, closed, 20000, 0.9, 0, "accuracy by rows", number);
    alike(by_pairs.error, d[CELL_ACC].error, d[CELL_ACC].error, 20000, 0.9, 0, "difference by rows", number);
    if (fabs(by_pairs.p - d[CELL_ACC].p) > 0.03) fail_msg("p: %g by rows, %g by cells", by_pairs.p, d[CELL_ACC].p);
    confusion_free(&confusion);
    free(gold); free(pred); free(other); free(rows);
}

static void binomial_draws(void **state) {   // as often each as the distribution says: chi-square, few and many tries, both ways of drawing
    (void)state;
    static const struct { int64_t n; double p; } cases[] = {{1, 0.5}, {5, 0.3}, {20, 0.49}, {20, 0.51}, {100, 0.05}, {100, 0.2}, {1000, 0.01}, {1000, 0.3}, {1000, 0.97}, {970, 0.0103}};
    enum { DRAWS = 200000, MOST = 1001 };
    for (int c = 0; c < COUNT(cases); c++) {
        const int64_t n = cases[c].n;
        double p = cases[c].p, *expected = (double *)xcalloc(MOST, 8), chi = 0, rest_seen = 0, rest = 0;
        int64_t *seen = (int64_t *)xcalloc(MOST, 8), used = 0;
        Draws d = {11, (uint64_t)c, 0};
        for (int i = 0; i < DRAWS; i++) { int64_t k = draw_binomial(&d, n, p); assert_true(k >= 0 && k <= n); seen[k]++; }
        for (int64_t k = 0; k <= n; k++) expected[k] = DRAWS * exp(lgamma((double)n + 1) - lgamma((double)k + 1) - lgamma((double)(n - k) + 1) + (double)k * log(p) + (double)(n - k) * log1p(-p));
        for (int64_t k = 0; k <= n; k++) {
            if (expected[k] < 20) { rest += expected[k]; rest_seen += (double)seen[k]; continue; }
            chi += ((double)seen[k] - expected[k]) * ((double)seen[k] - expected[k]) / expected[k];
            used++;
        }
        if (rest > 1) { chi += (rest_seen - rest) * (rest_seen - rest) / rest; used++; }
        double z = (chi - (double)(used - 1)) / sqrt(2.0 * (double)(used > 1 ? used - 1 : 1));
        if (!(z < 5)) fail_msg("%" PRId64 " tries of %g: chi-square %.1f of %" PRId64 " cells", n, p, chi, used);
        free(expected); free(seen);
    }
    Draws d = {1, 1, 0};
    assert_true(draw_binomial(&d, 10, 0) == 0 && draw_binomial(&d, 10, 1) == 10 && draw_binomial(&d, 0, 0.5) == 0);
}

static void statistics(void **state) {
    (void)state;
    each("statistics", check_statistics); each("fits", check_fits);
    each("bootstraps", check_bootstraps);
    printf("             bootstraps and references differ by %.3f standard errors at most\n", roughest);
    // ends of the scales
    assert_true(isnan(standard_error(NULL, 0)) && isnan(mean_estimate((const double[]){1}, 1).error) && isnan(proportion_estimate(0, 0).value));
    assert_true(proportion_estimate(0, 3).low == 0 && proportion_estimate(0, 3).high > 0.5 && proportion_estimate(3, 3).high == 1 && proportion_estimate(3, 3).low < 0.5);
    assert_true(mcnemar(0, 0) == 1 && mcnemar(7, 7) == 1 && fabs(mcnemar(0, 5) - 0.0625) < 1e-12 && mcnemar(100000, 90000) < 1e-100);
    assert_true(isinf(normal_quantile(0)) && isinf(normal_quantile(1)) && isnan(normal_quantile(2)) && isnan(t_quantile(0.9, 0)) && t_quantile(0.5, 4) == 0);
    const double same[] = {0.5, 0.7, NAN}, up[] = {0.6, 0.8, 1};
    assert_true(paired_means(same, same, 3).p == 1 && paired_means(same, up, 3).difference > 0 && isnan(paired_means(same, up, 1).p));
    // no difference at all, and one that nobody can doubt
    int gold[200], right[200], wrong[200];
    Difference d[NUM_CELL];
    for (int i = 0; i < 200; i++) { gold[i] = right[i] = i % 2; wrong[i] = i % 3 ? -1 : 1; }
    paired_cells(gold, wrong, wrong, NULL, 200, 2, 1, 2000, 1, d);
    assert_true(d[CELL_ACC].p == 1 && d[CELL_ACC].difference == 0 && d[CELL_MCC].error == 0);
    paired_cells(gold, wrong, right, NULL, 200, 2, 1, 2000, 1, d);
    assert_true(d[CELL_ACC].p <= 2.0 / 2001 && d[CELL_ACC].low > 0 && d[CELL_ACC].a < d[CELL_ACC].b && d[CELL_ACC].b == 1);
    double first[2000], second[2000];   // on values without ties the bootstrap's p is nearly that of the t test
    for (uint64_t i = 0; i < 1000; i++) { first[2 * i] = random_normal(1, 1, i); second[2 * i] = first[2 * i] - 0.03 + random_normal(1, 2, i); first[2 * i + 1] = second[2 * i + 1] = 1; }
    double x[1000], y[1000];
    for (int i = 0; i < 1000; i++) { x[i] = first[2 * i]; y[i] = second[2 * i]; }
    Difference closed = paired_means(x, y, 1000), drawn = paired_sums(first, second, 1000, 2, sums_mean, NULL, 20000, 1);
    assert_true(closed.p > 0.05 && closed.p < 0.9 && fabs(drawn.p - closed.p) < 0.03 && fabs(drawn.error / closed.error - 1) < 0.03 && fabs(drawn.low - closed.low) < 0.005 && fabs(drawn.difference - closed.difference) < 1e-12);
    assert_true(paired_sums(first, first, 1000, 2, sums_mean, NULL, 2000, 1).p == 1);
    paired_cells(NULL, NULL, NULL, NULL, 0, 2, 1, 0, 1, d);   // no rows
    assert_true(isnan(d[CELL_ACC].a) && isnan(d[CELL_ACC].p) && isnan(paired_sums(x, y, 0, 2, sums_mean, NULL, 0, 1).p));
    // a power law is found again, and what has none is refused
    double size[8], f1[8], error[8];
    PowerFit fit;
    Error e;
    for (int i = 0; i < 8; i++) { size[i] = 100 * pow(2, i); f1[i] = 1 - 2 * pow(size[i], -0.28); error[i] = 0.01; }
    assert_true(power_fit(size, f1, error, 8, 1, &fit, &e) && fabs(fit.exponent - 0.28) < 1e-12 && fit.boot_low < 0.28 && fit.boot_high > 0.28 && fit.boot_high - fit.boot_low > 0.005 && fabs(power_fit_at(&fit, 1000) - 2 * pow(1000, -0.28)) < 1e-12);
    assert_true(power_fit(size, f1, NULL, 2, 1, &fit, &e) && isnan(fit.error) && isnan(fit.low) && isnan(fit.boot_low) && fabs(fit.exponent - 0.28) < 1e-12);
    f1[3] = 1;
    assert_true(!power_fit(size, f1, NULL, 8, 1, &fit, &e) && strstr(e.text, "point 4") && strstr(e.text, "--->"));
    f1[3] = 0.5; size[0] = 0;
    assert_false(power_fit(size, f1, NULL, 8, 1, &fit, &e));
    size[0] = size[1] = 100;
    assert_true(!power_fit(size, f1, NULL, 2, 1, &fit, &e) && !power_fit(size, f1, NULL, 1, 1, &fit, &e) && !power_fit(size, f1, NULL, 0, 1, &fit, &e));
}

static void any_bytes(void **state) {   // what is no text at all is scored as well; the sanitizers watch
    (void)state;
    static const char alphabet[] = "abeginoslyztudif ABE-OI\n.,%0129\xC4\xB0\xE2\x84\xAA\xFF";   // and its NUL
    for (uint64_t t = 0; t < 4000; t++) {
        char bytes[2][64];
        Text tags[2][64], x[2];
        for (int k = 0; k < 2; k++) {
            int64_t n = (int64_t)random_below(21, 2 * t, (uint64_t)k, 65);
            for (int64_t i = 0; i < n; i++) bytes[k][i] = alphabet[random_below(22, 2 * t + (uint64_t)k, (uint64_t)i, sizeof alphabet)];
            if (t % 4 == 0 && k) memcpy(bytes[1], bytes[0], sizeof bytes[0]);
            x[k] = text_make(bytes[k], n);
            for (int i = 0; i < 16; i++) tags[k][i] = text_slice(x[k], n * i / 16, n * (i + 1) / 16);
        }
        Prf r[NUM_ROUGE];
        assert_true(rouge(x[0], x[1], t % 2, r));
        for (int k = 0; k < NUM_ROUGE; k++) assert_true(r[k].precision >= 0 && r[k].precision <= 1 && r[k].recall >= 0 && r[k].recall <= 1 && r[k].f1 >= 0 && r[k].f1 <= 1);
        assert_true(r[ROUGE_1].f1 > 0 || (r[ROUGE_2].f1 == 0 && r[ROUGE_L].f1 == 0));
        Counts e = entity_counts(tags[0], tags[1], 16), s = set_counts(tags[0], 16, tags[1], 16);
        assert_true(e.right <= e.gold && e.right <= e.predicted && e.gold <= 16 && s.right <= s.gold && s.right <= s.predicted && s.gold >= 1);
        e = entity_counts(tags[0], tags[0], 16);
        assert_true(e.right == e.gold && e.right == e.predicted && exact_match_normalised(x[0], x[0]));
        exact_match_normalised(x[0], x[1]);
        Number n;
        for (int64_t at = 0; number_next(x[0], &at, &n) != RESULT_NONE;) assert_true(isfinite(n.value) ? number_matches(COMPARE_STRICT, n, n) && number_matches(COMPARE_RELAXED, n, n) : true);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden_classes), cmocka_unit_test(classes), cmocka_unit_test(entities_relations_numbers), cmocka_unit_test(texts), cmocka_unit_test(subsequences),
        cmocka_unit_test(numbers), cmocka_unit_test(binomial_draws), cmocka_unit_test(statistics), cmocka_unit_test(any_bytes)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
