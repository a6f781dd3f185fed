// eval_compare.h: `eval compare A B [C ...]`: is the difference between runs real?
//
// Two runs over the same rows are compared row by row: most of what moves a score - easy rows, hard rows - moves both, so a paired interval is far narrower than two error bars
// suggest. Rows are matched by id; data that differ are an error, for then the difference is one of data. Rows are those of samples_<task>.jsonl, or with a judge's ratings of
// rated_<task>.jsonl. Where the rows don't hold what the metric is made of (tags) the scores' own errors are used as if the runs had nothing in common: too wide rather than too
// narrow, and said.
//
// With 40 tasks two differ at p < 0.05 by chance alone. Holm's step-down gives the p that holds for all of them at once; "better" and "worse" go by that one.
#ifndef FINDAP_EVAL_COMPARE_H
#define FINDAP_EVAL_COMPARE_H
#include "eval_results.h"   // defines: RunResult, TaskResult
#include "flags.h"          // defines: Flag, StringList
#include "log.h"            // defines: json_finite
#include "stats.h"          // defines: Difference, paired_sums, paired_cells, mcnemar

// ---- samples_<task>.jsonl, rated_<task>.jsonl

typedef struct {
    char *id;
    int64_t row;
    uint64_t gold, prompt;   // hashes, to tell whether two are of the same; prompt 0: not known
    double value, error;     // NAN: none
    int label[2];            // gold, answer; gold -1: none
    uint64_t subset;         // a hash; 0: none
    double counts[3];        // right, predicted, gold; NAN: none
} ResultRow;

typedef struct { ResultRow *items; int64_t n, cap; } ResultRows;

FN void result_rows_free(ResultRows *s) {
    for (int64_t i = 0; i < s->n; i++) free(s->items[i].id);
    free(s->items);
    memset(s, 0, sizeof *s);
}

FN bool result_row_read(const json_t *j, const char *metric, const char *where, ResultRow *r, Error *e) {
    const json_t *value, *list;
    const char *prompt = NULL, *subset = NULL;
    memset(r, 0, sizeof *r);
    r->value = r->error = r->counts[0] = r->counts[1] = r->counts[2] = NAN;
    r->label[0] = r->label[1] = -1;
    if (!json_is_object(j)) return fail(e, "%s: is %s, expected an object", where, json_type_name(j));
    if (!json_get_int(j, "row", where, true, 0, (int64_t)1 << 40, &r->row, e) || !get_object(j, "value", where, &value, e) || !json_get_double(j, "error", where, false, -1e300, 1e300, &r->error, e) ||
        !json_get_string(j, "prompt_hash", where, false, &prompt, e) || !json_get_string(j, "subset", where, false, &subset, e)) return false;
    if (value && !json_get_double(value, metric, where, false, -1e12, 1e12, &r->value, e)) return false;
    if (json_is_array(json_object_get(j, "label"))) {   // a task without labels has none, or null
        if (!get_array(j, "label", where, 2, 2, &list, e)) return false;
        for (size_t i = 0; i < 2; i++) {
            const json_t *x = json_array_get(list, i);
            if (!json_is_integer(x) || json_integer_value(x) < -1 || json_integer_value(x) >= METRICS_MAX_LABELS) return fail(e, "%s: \"label\" is not two labels, expected [gold, answer]", where);
            r->label[i] = (int)json_integer_value(x);
        }
    }
    if (json_is_array(json_object_get(j, "counts"))) {
        int64_t counts[3];
        if (!get_array(j, "counts", where, 3, 3, &list, e) || !get_counts(list, "counts", where, counts, e)) return false;
        if (counts[0] > counts[1] || counts[0] > counts[2]) return fail(e, "%s: \"counts\" has more right ones than there are, expected [right, predicted, gold]", where);
        for (int i = 0; i < 3; i++) r->counts[i] = (double)counts[i];
    }
    const json_t *id = json_object_get(j, "id"), *gold = json_object_get(j, "gold");
    if (!json_is_string(id) && !json_is_integer(id)) return fail(e, "%s: \"id\" is %s, expected a string", where, json_type_name(id));
    char *text = gold ? json_dumps(gold, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    r->gold = text ? XXH3_64bits(text, strlen(text)) : 0;
    r->prompt = prompt ? XXH3_64bits(prompt, strlen(prompt)) : 0;
    r->subset = subset && *subset ? XXH3_64bits(subset, strlen(subset)) : 0;
    free(text);
    r->id = json_is_integer(id) ? xprintf("%" PRId64, (int64_t)json_integer_value(id)) : xprintf("%s", json_string_value(id));
    return true;
}

FN int result_row_order(const void *a, const void *b) {   // by id, and where an id is there twice by row
    const ResultRow *x = (const ResultRow *)a, *y = (const ResultRow *)b;
    int c = strcmp(x->id, y->id);
    return c ? c : (x->row > y->row) - (x->row < y->row);
}

FN bool is_rating(const char *metric) { return strcmp(metric, "judge") == 0; }
FN char *result_rows_name(const char *id, const char *metric) { return xprintf("%s_%s.jsonl", is_rating(metric) ? "rated" : "samples", id); }

// The rows of a task, sorted. Fewer than results.json counted, or a line that is cut: the file is not the one that the results were made of.
FN bool result_rows_load(const RunResult *run, const TaskResult *t, const char *metric, ResultRows *s, Error *e) {
    memset(s, 0, sizeof *s);
    char *name = result_rows_name(t->id, metric), *path = strchr(t->id, '/') ? NULL : path_join(run->dir, name);
    Mapped m = {NULL, 0};
    bool ok = path ? map_file(path, &m, e) : fail(e, "%s: a task cannot be called \"%s\"", run->dir, t->id);
    int64_t line = 0;
    for (int64_t at = 0; ok && at < m.size;) {
        const uint8_t *newline = (const uint8_t *)memchr(m.data + at, '\n', (size_t)(m.size - at));
        line++;
        if (!newline) { ok = fail(e, "%s:%" PRId64 ": the last line is cut off ---> let the run go on: the same command again", path, line); break; }
        int64_t end = newline - m.data;
        char *where = xprintf("%s:%" PRId64, path, line);
        json_t *j = json_parse_line(where, (const char *)m.data + at, end - at, e);
        if (s->n == s->cap) {
            s->cap = s->cap ? 2 * s->cap : 256;
            s->items = (ResultRow *)xrealloc(s->items, s->cap, sizeof(ResultRow));
        }
        ok = j && result_row_read(j, metric, where, &s->items[s->n], e);
        s->n += ok;
        json_decref(j);
        free(where);
        at = end + 1;
    }
    if (ok && s->n < t->n) ok = fail(e, "%s: has %" PRId64 " rows, results.json counts %" PRId64 " ---> were lines removed? the same command again makes them anew", path, s->n, t->n);
    if (ok) qsort(s->items, (size_t)s->n, sizeof(ResultRow), result_row_order);
    for (int64_t i = 1; ok && i < s->n; i++) if (result_row_order(&s->items[i - 1], &s->items[i]) == 0) ok = fail(e, "%s: row %" PRId64 " (\"%.100s\") is there twice ---> remove one of the lines", path, s->items[i].row, s->items[i].id);
    unmap_file(&m);
    free(name); free(path);
    if (!ok) result_rows_free(s);
    return ok;
}

// ---- one task, two runs

typedef enum { TEST_MCNEMAR, TEST_BOOTSTRAP, TEST_UNPAIRED, NUM_TESTS } TestKind;
FN const char *const test_names[NUM_TESTS] = {"McNemar, exact", "paired bootstrap", "unpaired, normal"};

typedef struct {
    const TaskResult *a, *b;
    int run_a, run_b;
    const char *metric;
    double unit;                     // 100: shares, shown in per cent
    bool higher_is_better;
    int64_t n, only_a, only_b;       // rows of both; of one only
    int64_t better, worse;           // McNemar: right in B alone, in A alone
    int64_t other_prompts;           // rows that were asked in other words: settings differ
    TestKind test;
    Difference d;                    // b - a
    double holm;
    bool scores_differ;              // what the rows give is not what results.json says
} Comparison;

FN int comparison_verdict(const Comparison *c) {   // 1 better, -1 worse, 0 not told apart
    if (!(c->holm < 0.05) || c->d.difference == 0) return 0;
    return (c->d.difference > 0) == c->higher_is_better ? 1 : -1;
}

FN int cell_metric_of(const char *metric) {
    for (int i = 0; i < NUM_CELL; i++) if (strcmp(metric, cell_metric_names[i]) == 0) return i;
    return -1;
}

FN void compare_unpaired(Comparison *c, const Estimate *a, const Estimate *b) {
    c->test = TEST_UNPAIRED;
    c->d.a = a->value; c->d.b = b->value;
    c->d.difference = b->value - a->value;
    c->d.error = sqrt(a->error * a->error + b->error * b->error);
    c->d.low = c->d.difference - 1.959964 * c->d.error;
    c->d.high = c->d.difference + 1.959964 * c->d.error;
    c->d.p = c->d.error > 0 ? 2 * normal_cdf(-fabs(c->d.difference) / c->d.error) : NAN;
}

enum { COMPARE_SEED = 1 };

// A bootstrap of R replicates knows no p below 2 / R, which Holm's correction for many tasks would lift above 0.05 however large the difference: there it is the normal tail instead
FN void compare_tail(Difference *d) {
    if (d->p < 0.004 && d->error > 0) d->p = fmin(d->p, 2 * normal_cdf(-fabs(d->difference) / d->error));
}

// matched rows x[i], y[i] of the two runs; false: they don't hold what the metric is made of
FN bool compare_matched(Comparison *c, const ResultRow **x, const ResultRow **y, int64_t n) {
    const bool parts = strcmp(c->metric, "avg_f1") == 0;   // the mean of the subsets' weighted F1
    int cell = parts ? CELL_WEIGHTED_F1 : cell_metric_of(c->metric), labels = 0, subsets = 0;
    bool values = true, binary = true, labelled = cell >= 0, counted = true;
    for (int64_t i = 0; i < n; i++) {
        for (int k = 0; k < 2; k++) {
            const ResultRow *r = k ? y[i] : x[i];
            values = values && isfinite(r->value);
            binary = binary && (r->value == 0 || r->value == 1);
            labelled = labelled && r->label[0] >= 0;
            counted = counted && isfinite(r->counts[0]);
            for (int j = 0; j < 2; j++) if (r->label[j] >= labels) labels = r->label[j] + 1;
        }
        labelled = labelled && x[i]->label[0] == y[i]->label[0];
    }
    bool f1 = strcmp(c->metric, "entity_f1") == 0 || strcmp(c->metric, "relation_f1") == 0, squares = strcmp(c->metric, "rmse") == 0;
    int64_t columns = f1 ? 3 : 2;
    uint64_t *subset = (uint64_t *)xcalloc(MAX_SUBSETS + 1, sizeof(uint64_t));   // their hashes, in the order in which they come
    int *all = (int *)xmalloc(4 * n * (int64_t)sizeof(int)), *part = all + 3 * n;
    for (int64_t i = 0; i < n && labelled && parts; i++) {
        for (part[i] = 0; part[i] < subsets && subset[part[i]] != x[i]->subset;) part[i]++;
        if (part[i] == subsets) subset[subsets++] = x[i]->subset;
        labelled = subsets <= MAX_SUBSETS && x[i]->subset == y[i]->subset;
    }
    free(subset);
    if (!values && labelled) {   // F1 and MCC of labels: what cannot be summed up by row is drawn again from the rows
        Difference d[NUM_CELL];
        for (int64_t i = 0; i < n; i++) { all[i] = x[i]->label[0]; all[n + i] = x[i]->label[1]; all[2 * n + i] = y[i]->label[1]; }
        paired_cells(all, all + n, all + 2 * n, parts ? part : NULL, n, labels, parts ? subsets : 1, 0, COMPARE_SEED, d);
        free(all);
        c->d = d[cell];
        compare_tail(&c->d);
        c->test = TEST_BOOTSTRAP;
        return true;
    }
    free(all);
    if (f1 ? !counted : !squares && !values) return false;
    double *a = (double *)xcalloc(n * columns, sizeof(double)), *b = (double *)xcalloc(n * columns, sizeof(double));
    for (int64_t i = 0; i < n; i++) for (int k = 0; k < 2; k++) {
        const ResultRow *r = k ? y[i] : x[i];
        double *sums = (k ? b : a) + i * columns;
        if (f1) memcpy(sums, r->counts, sizeof r->counts);
        else if (!squares) { sums[0] = r->value; sums[1] = 1; }
        else if (isfinite(r->error)) { sums[0] = r->error * r->error; sums[1] = 1; }
    }
    if (binary && values && !f1 && !squares) {
        double *means = (double *)xmalloc(2 * n * (int64_t)sizeof(double));
        for (int64_t i = 0; i < n; i++) { means[i] = x[i]->value; means[n + i] = y[i]->value; c->better += y[i]->value > x[i]->value; c->worse += y[i]->value < x[i]->value; }
        c->d = paired_means(means, means + n, n);
        c->d.p = mcnemar(c->worse, c->better);
        c->test = TEST_MCNEMAR;
        free(means);
    } else {
        c->d = paired_sums(a, b, n, columns, f1 ? sums_f1 : squares ? sums_rmse : sums_mean, NULL, 0, COMPARE_SEED);
        compare_tail(&c->d);
        c->test = TEST_BOOTSTRAP;
    }
    free(a); free(b);
    return true;
}

FN bool compare_score(const TaskResult *t, const char *metric, Estimate *s, Error *e) {   // of results.json
    if (strcmp(metric, t->metric) == 0) { *s = t->score; return true; }
    const json_t *j = t->metrics ? json_object_get(t->metrics, metric) : NULL;
    s->value = s->error = s->low = s->high = NAN;
    return !j || scored_read(j, "value", t->id, s, e);
}

// task a of run A beside task b of run B. `rows` false: by the scores' own errors, for directories that hold no samples
FN bool compare_task(const RunResult *A, const TaskResult *a, const RunResult *B, const TaskResult *b, const char *metric, bool rows, Comparison *c, Error *e) {
    Estimate sa, sb;
    memset(c, 0, sizeof *c);
    c->a = a; c->b = b; c->metric = metric;
    c->higher_is_better = strcmp(metric, a->metric) == 0 ? a->higher_is_better : strcmp(metric, "rmse") != 0;
    c->holm = NAN;
    if (*a->data_hash && *b->data_hash && strcmp(a->data_hash, b->data_hash) != 0)
        return fail(e, "task \"%s\": the data differ: %.32s in %s, %.32s in %s ---> run both on the same file", a->id, a->data_hash, A->dir, b->data_hash, B->dir);
    if (!compare_score(a, metric, &sa, e) || !compare_score(b, metric, &sb, e)) return false;
    c->unit = strcmp(metric, a->metric) != 0 ? strcmp(metric, "rmse") == 0 ? 1 : 100 : task_unit(a) == 1 || task_unit(b) == 1 ? 1 : 100;
    c->n = a->n < b->n ? a->n : b->n;
    compare_unpaired(c, &sa, &sb);
    if (!rows) return true;
    ResultRows x = {NULL, 0, 0}, y = {NULL, 0, 0};
    if (!result_rows_load(A, a, metric, &x, e)) return false;
    if (!result_rows_load(B, b, metric, &y, e)) { result_rows_free(&x); return false; }
    const ResultRow **p = (const ResultRow **)xmalloc((x.n + 1) * (int64_t)sizeof *p), **q = (const ResultRow **)xmalloc((x.n + 1) * (int64_t)sizeof *q);
    bool ok = true;
    int64_t n = 0;
    for (int64_t i = 0, k = 0; ok && (i < x.n || k < y.n);) {
        int order = i == x.n ? 1 : k == y.n ? -1 : strcmp(x.items[i].id, y.items[k].id);
        if (order) { if (order < 0) { c->only_a++; i++; } else { c->only_b++; k++; } continue; }
        if (x.items[i].gold != y.items[k].gold) ok = fail(e, "task \"%s\": row \"%.100s\" has another gold answer in %s than in %s ---> run both on the same data", a->id, x.items[i].id, B->dir, A->dir);
        if (is_rating(metric) && (isnan(x.items[i].value) || isnan(y.items[k].value))) {   // the judge's reply could not be read
            c->only_a += isfinite(x.items[i].value); c->only_b += isfinite(y.items[k].value);
            i++; k++;
            continue;
        }
        c->other_prompts += x.items[i].prompt && y.items[k].prompt && x.items[i].prompt != y.items[k].prompt;
        p[n] = &x.items[i++];
        q[n++] = &y.items[k++];
    }
    if (ok && n == 0) ok = fail(e, "task \"%s\": no row of %s is in %s ---> was one run with another --limit or --seed?", a->id, A->dir, B->dir);
    if (ok) {
        c->n = n;
        if (compare_matched(c, p, q, n)) c->scores_differ = !c->only_a && !c->only_b && (fabs(c->d.a - sa.value) > 1e-6 || fabs(c->d.b - sb.value) > 1e-6);
    }
    free(p); free(q);
    result_rows_free(&x);
    result_rows_free(&y);
    return ok;
}

// ---- all tasks, all runs against the first

typedef struct {
    const RunResult *runs;
    int num_runs;
    Comparison *items;
    int64_t n, tests;   // tests: how many have a p, the family that Holm's procedure is over
} Comparisons;

FN int holm_order(const void *a, const void *b) {
    double x = (*(Comparison *const *)a)->d.p, y = (*(Comparison *const *)b)->d.p;
    return (x > y) - (x < y);
}
FN void holm(Comparisons *c) {   // the k-th smallest of m p-values times m - k, never below the one before
    Comparison **order = (Comparison **)xmalloc((c->n + 1) * (int64_t)sizeof *order);
    double least = 0;
    c->tests = 0;
    for (int64_t i = 0; i < c->n; i++) if (isfinite(c->items[i].d.p)) order[c->tests++] = &c->items[i];
    qsort(order, (size_t)c->tests, sizeof *order, holm_order);
    for (int64_t k = 0; k < c->tests; k++) {
        double p = fmin(1, order[k]->d.p * (double)(c->tests - k));
        order[k]->holm = least = fmax(least, p);
    }
    free(order);
}

// only: names of tasks, or NULL for all; metric NULL: each task's own. skip_bad: a task whose data differ is left out instead of being an error (the report says so itself)
FN bool comparisons_make(const RunResult *runs, int num_runs, const StringList *only, const char *metric, bool skip_bad, Comparisons *c, Error *e) {
    memset(c, 0, sizeof *c);
    c->runs = runs; c->num_runs = num_runs;
    c->items = (Comparison *)xcalloc(runs[0].n * num_runs + 1, sizeof(Comparison));
    for (int k = 0; only && k < only->n; k++) if (!task_result_find(&runs[0], only->items[k])) return fail(e, "%s has no task \"%s\"", runs[0].dir, only->items[k]);
    for (int r = 1; r < num_runs; r++) for (int64_t i = 0; i < runs[0].n; i++) {
        const TaskResult *a = &runs[0].tasks[i], *b = task_result_find(&runs[r], a->id);
        bool wanted = !only || only->n == 0;
        for (int k = 0; !wanted && k < only->n; k++) wanted = strcmp(only->items[k], a->id) == 0;
        if (!b || !wanted) continue;
        if (!metric && strcmp(a->metric, b->metric) != 0 && !skip_bad) return fail(e, "task \"%s\": %s shows %s, %s shows %s ---> choose with --metric", a->id, runs[0].dir, a->metric, runs[r].dir, b->metric);
        if (!metric && strcmp(a->metric, b->metric) != 0) continue;
        char *name = result_rows_name(a->id, metric ? metric : a->metric), *x = path_join(runs[0].dir, name), *y = path_join(runs[r].dir, name);
        Comparison *one = &c->items[c->n];
        bool differ = skip_bad && *a->data_hash && *b->data_hash && strcmp(a->data_hash, b->data_hash) != 0;
        bool ok = differ || compare_task(&runs[0], a, &runs[r], b, metric ? metric : a->metric, file_exists(x) && file_exists(y), one, e);
        free(name); free(x); free(y);
        if (!ok) return false;
        one->run_b = r;
        c->n += !differ && isfinite(one->d.difference);
    }
    holm(c);
    return true;
}
FN void comparisons_free(Comparisons *c) { free(c->items); memset(c, 0, sizeof *c); }
FN const Comparison *comparison_find(const Comparisons *c, const char *id, int run) {
    for (int64_t i = 0; i < c->n; i++) if (c->items[i].run_b == run && strcmp(c->items[i].a->id, id) == 0) return &c->items[i];
    return NULL;
}

// The mean difference over the tasks of a domain, and how many are better and worse. Tasks with a unit of their own have no place in a mean.
typedef struct { int64_t tasks, better, worse; double a, b, difference, low, high; } ComparedGroup;
FN ComparedGroup compared_group(const Comparisons *c, int run, bool general) {
    ComparedGroup g = {0, 0, 0, 0, 0, 0, 0, 0};
    double variance = 0;
    int64_t k = 0;
    for (int64_t i = 0; i < c->n; i++) {
        const Comparison *x = &c->items[i];
        if (x->run_b != run || x->a->general != general) continue;
        g.tasks++;
        g.better += comparison_verdict(x) > 0;
        g.worse += comparison_verdict(x) < 0;
        if (x->unit != 100) continue;
        k++;
        g.a += x->d.a; g.b += x->d.b;
        variance += x->d.error * x->d.error;
    }
    g.a /= (double)k; g.b /= (double)k;
    g.difference = g.b - g.a;
    g.low = g.difference - 1.959964 * sqrt(variance) / (double)k;
    g.high = g.difference + 1.959964 * sqrt(variance) / (double)k;
    return g;
}

FN void set_known(json_t *j, const char *key, double x) { json_object_set_new(j, key, json_finite(x)); }

FN json_t *comparisons_json(const Comparisons *c) {
    json_t *runs = json_array(), *tasks = json_array(), *groups = json_array();
    for (int i = 0; i < c->num_runs; i++) json_array_append_new(runs, text_json(text_of(c->runs[i].label)));
    for (int64_t i = 0; i < c->n; i++) {
        const Comparison *x = &c->items[i];
        json_t *j = json_pack("{s:s,s:s,s:i,s:s,s:I,s:I,s:I,s:I,s:s,s:b}", "task", x->a->id, "metric", x->metric, "run", x->run_b, "domain", x->a->general ? "general" : "finance", "n", (json_int_t)x->n, "only_a",
                              (json_int_t)x->only_a, "only_b", (json_int_t)x->only_b, "other_prompts", (json_int_t)x->other_prompts, "test", test_names[x->test], "scores_differ", x->scores_differ);
        set_known(j, "a", x->d.a); set_known(j, "b", x->d.b); set_known(j, "difference", x->d.difference); set_known(j, "stderr", x->d.error);
        set_known(j, "low", x->d.low); set_known(j, "high", x->d.high); set_known(j, "p", x->d.p); set_known(j, "p_holm", x->holm);
        bool own = strcmp(x->metric, x->a->metric) == 0;
        set_known(j, "majority", own ? x->a->majority : NAN); set_known(j, "random", own ? x->a->random : NAN);
        if (x->test == TEST_MCNEMAR) { json_object_set_new(j, "only_b_right", json_integer(x->better)); json_object_set_new(j, "only_a_right", json_integer(x->worse)); }
        json_object_set_new(j, "verdict", json_string(comparison_verdict(x) > 0 ? "better" : comparison_verdict(x) < 0 ? "worse" : "not told apart"));
        json_array_append_new(tasks, j);
    }
    for (int r = 1; r < c->num_runs; r++) for (int general = 0; general < 2; general++) {
        ComparedGroup g = compared_group(c, r, general);
        if (!g.tasks) continue;
        json_t *j = json_pack("{s:s,s:i,s:I,s:I,s:I}", "domain", general ? "general" : "finance", "run", r, "tasks", (json_int_t)g.tasks, "better", (json_int_t)g.better, "worse", (json_int_t)g.worse);
        set_known(j, "mean_difference", g.difference); set_known(j, "low", g.low); set_known(j, "high", g.high);
        json_array_append_new(groups, j);
    }
    return json_pack("{s:s,s:o,s:I,s:o,s:o}", "format", "findap-compare-1", "runs", runs, "holm_over", (json_int_t)c->tests, "tasks", tasks, "groups", groups);
}

FN void comparison_notes(const Comparison *x, char *out, size_t size) {
    int n = snprintf(out, size, "%s", x->test == TEST_UNPAIRED ? "unpaired" : "");
    if (x->only_a || x->only_b) n += snprintf(out + n, size - (size_t)n, "%s%" PRId64 " rows in A only, %" PRId64 " in B only", n ? "; " : "", x->only_a, x->only_b);
    if (x->other_prompts) n += snprintf(out + n, size - (size_t)n, "%s%" PRId64 " prompts differ", n ? "; " : "", x->other_prompts);
    double unread[2] = {task_unanswered(x->a), task_unanswered(x->b)};   // or a gain may be one of form alone
    if (unread[0] > UNANSWERED_PERCENT || unread[1] > UNANSWERED_PERCENT) n += snprintf(out + n, size - (size_t)n, "%sunread: %s %% of A, %s %% of B", n ? "; " : "", shown(unread[0], 0).text, shown(unread[1], 0).text);
    if (x->scores_differ) snprintf(out + n, size - (size_t)n, "%sresults.json has another score", n ? "; " : "");
}

FN void comparisons_print(const Comparisons *c, FILE *f) {
    for (int r = 1; r < c->num_runs; r++) {
        char name[2][512], notes[256];
        static const char *const head[] = {"Tasks", "Domain", "n", "Metric", "", "A", "B", "B - A", "95 % interval", "p", "p (Holm)", "Majority", "Random", "", "Notes"};
        TextTable t = {"llrllrrrrrrrrll", NULL, 0, 0};
        escape_text(name[0], sizeof name[0], c->runs[0].label, strlen(c->runs[0].label));
        escape_text(name[1], sizeof name[1], c->runs[r].label, strlen(c->runs[r].label));
        fprintf(f, "%sA: %s\nB: %s\n\n", r > 1 ? "\n" : "", name[0], name[1]);
        for (int i = 0; i < 15; i++) table_cell(&t, "%s", head[i]);
        for (int64_t i = 0; i < c->n; i++) {
            const Comparison *x = &c->items[i];
            if (x->run_b != r) continue;
            int digits = x->unit == 1 ? 4 : 2, verdict = comparison_verdict(x);
            bool own = strcmp(x->metric, x->a->metric) == 0;
            comparison_notes(x, notes, sizeof notes);
            table_cell(&t, "%s", x->a->id);
            table_cell(&t, "%s", x->a->general ? "general" : "finance");
            table_cell(&t, "%" PRId64, x->n);
            table_cell(&t, "%s", x->metric);
            table_cell(&t, "%s", x->higher_is_better ? "\xE2\x86\x91" : "\xE2\x86\x93");
            table_cell(&t, "%s", shown(x->d.a * x->unit, digits).text);
            table_cell(&t, "%s", shown(x->d.b * x->unit, digits).text);
            table_cell(&t, "%s", shown_signed(x->d.difference * x->unit, digits).text);
            table_cell(&t, "[%s, %s]", shown_signed(x->d.low * x->unit, digits).text, shown_signed(x->d.high * x->unit, digits).text);
            table_cell(&t, "%s", shown_p(x->d.p).text);
            table_cell(&t, "%s", shown_p(x->holm).text);
            table_cell(&t, "%s", shown(own ? x->a->majority * x->unit : NAN, digits).text);
            table_cell(&t, "%s", shown(own ? x->a->random * x->unit : NAN, digits).text);
            table_cell(&t, "%s", verdict > 0 ? "better" : verdict < 0 ? "worse" : "");
            table_cell(&t, "%s", notes);
        }
        table_print(&t, f);
        table_free(&t);
        fputc('\n', f);
        for (int general = 0; general < 2; general++) {
            ComparedGroup g = compared_group(c, r, general);
            if (!g.tasks) continue;
            fprintf(f, "%s: mean difference %s [%s, %s] over %" PRId64 " task%s; %" PRId64 " better, %" PRId64 " worse\n", general ? "forgotten? general tasks" : "gained? finance tasks   ", shown_signed(100 * g.difference, 2).text,
                    shown_signed(100 * g.low, 2).text, shown_signed(100 * g.high, 2).text, g.tasks, g.tasks == 1 ? "" : "s", g.better, g.worse);
        }
    }
    fprintf(f, "\nx 100 but rmse. Intervals are of each difference alone. better, worse: p < 0.05 after Holm's correction for %" PRId64 " test%s; accuracy by McNemar's exact test, else by a bootstrap over the rows of both\n",
            c->tests, c->tests == 1 ? "" : "s");
}

FN bool compare_run(const StringList *dirs, const StringList *only, const char *metric, bool as_json, Error *e) {
    RunResult *runs = NULL;
    Comparisons c;
    memset(&c, 0, sizeof c);
    if (!run_results_load(dirs, &runs, e)) return false;
    bool ok = comparisons_make(runs, dirs->n, only, metric, false, &c, e);
    if (ok && c.n == 0) ok = fail(e, "%s and the others have no task%s%s in common ---> nothing to compare", dirs->items[0], metric ? " with " : "", metric ? metric : "");
    if (ok && as_json) {
        json_t *j = comparisons_json(&c);
        char *text = json_dumps(j, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
        CHECK(text);
        puts(text);
        free(text);
        json_decref(j);
    } else if (ok) comparisons_print(&c, stdout);
    for (int r = 0; ok && r < dirs->n; r++) for (int64_t i = 0; i < runs[r].n; i++) {
        const char *id = runs[r].tasks[i].id;
        for (int k = 0; k < dirs->n; k++) if (k != r && !task_result_find(&runs[k], id) && (r == 0 || k == 0)) warn("task \"%s\" is in %s, not in %s", id, runs[r].label, runs[k].label);
    }
    comparisons_free(&c);
    run_results_free(runs, dirs->n);
    return ok && (fflush(stdout) == 0 || fail(e, "writing failed: %s", strerror(errno)));
}

FN int eval_compare_main(int argc, char **argv) {   // argv[0] is "compare"
    StringList dirs = {NULL, 0}, only = {NULL, 0};
    const char *metric = NULL;
    bool as_json = false, help = false;
    Error e;
    Flag flags[] = {
        {"--tasks", FLAG_LIST, &only, "NAME", "only these", 0, 0, false},
        {"--metric", FLAG_STRING, &metric, "NAME", "compare by this one; tasks that don't have it are left out (default: each task's own)", 0, 0, false},
        {"--json", FLAG_BOOL, &as_json, NULL, "one JSON object instead of tables, shares as fractions", 0, 0, false},
    };
    int n = (int)(sizeof flags / sizeof *flags);
    bool ok = flags_parse(argc, argv, 1, flags, n, &dirs, &help, &e);
    if (ok && help) flags_help("eval compare DIR DIR... [flags]", "Is the difference real? Every run is compared with the first, task by task, row by row. DIR: what eval --out wrote.", flags, n);
    if (ok && !help && dirs.n < 2) ok = fail(&e, "%d director%s given, expected at least two ---> eval compare A B", dirs.n, dirs.n == 1 ? "y is" : "ies are");
    ok = ok && (help || compare_run(&dirs, &only, metric, as_json, &e));
    if (!ok) fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    free(dirs.items); free(only.items);
    return ok ? 0 : 1;
}

#endif
