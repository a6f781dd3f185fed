// eval_results.h: what a run of eval has left in its directory - results.json and samples_<task>.jsonl - read back and checked, and the table people know.
//
// Whoever compares and draws trusts these numbers, so a file that is damaged, or of another format, is one line and nothing is drawn from the rest of it.
#ifndef FINDAP_EVAL_RESULTS_H
#define FINDAP_EVAL_RESULTS_H
#include "flags.h"        // defines: StringList
#include "json.h"         // defines: json_t, json_get_*
#include "stats.h"        // defines: Estimate, normal_cdf
#include "text_table.h"   // defines: TextTable

#define RESULTS_FORMAT "findap-eval-1"

typedef struct {
    const char *id, *title, *metric, *domain, *novelty, *capability, *mode, *data_hash, *task_hash;   // borrowed from json; hashes "" where they are not known
    const json_t *json, *metrics, *published, *outcomes;   // objects, or NULL
    bool higher_is_better, general, share;   // share: of 1, shown in per cent; else in a unit of its own
    int64_t n, bad_rows, shots, version;
    Estimate score;
    double majority, random, overlength;
    const json_t *labels;     // (num_labels) of the confusion
    int64_t num_labels;       // 0: no confusion
    int64_t *confusion;       // (num_labels, num_labels + 1) gold, answer; the last column is "no answer"
    int64_t bins;             // 0: no lengths
    int64_t *lengths;         // (bins)
    double *edges;            // (bins + 1) the last one INFINITY where the last bin is open
} TaskResult;

typedef struct {
    char *dir, *label;        // label: how it is called in tables
    json_t *json;
    TaskResult *tasks;
    int64_t n;
} RunResult;

FN void task_result_free(TaskResult *t) { free(t->confusion); free(t->lengths); free(t->edges); }
FN void run_result_free(RunResult *r) {
    for (int64_t i = 0; i < r->n; i++) task_result_free(&r->tasks[i]);
    free(r->tasks); free(r->dir); free(r->label);
    json_decref(r->json);
    memset(r, 0, sizeof *r);
}

// ---- reading. All accept null for "not known", and no number that is not one: 1e999 and NaN are no JSON

FN bool scored_read(const json_t *j, const char *value, const char *where, Estimate *s, Error *e) {
    s->value = s->error = s->low = s->high = NAN;
    return json_get_double(j, value, where, false, -1e12, 1e12, &s->value, e) && json_get_double(j, "stderr", where, false, 0, 1e12, &s->error, e) && json_get_double(j, "low", where, false, -1e12, 1e12, &s->low, e) &&
           json_get_double(j, "high", where, false, -1e12, 1e12, &s->high, e);
}
FN bool get_object(const json_t *j, const char *key, const char *where, const json_t **out, Error *e) {
    *out = json_object_get(j, key);
    if (json_is_null(*out)) *out = NULL;
    return !*out || json_is_object(*out) || fail(e, "%s: \"%s\" is %s, expected an object", where, key, json_type_name(*out));
}
FN bool get_array(const json_t *j, const char *key, const char *where, size_t low, size_t high, const json_t **out, Error *e) {
    *out = json_object_get(j, key);
    if (!json_is_array(*out)) return fail(e, "%s: \"%s\" is %s, expected a list", where, key, json_type_name(*out));
    size_t n = json_array_size(*out);
    return (n >= low && n <= high) || fail(e, "%s: \"%s\" has %zu items, expected %zu to %zu", where, key, n, low, high);
}
FN bool get_counts(const json_t *list, const char *what, const char *where, int64_t *out, Error *e) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *x = json_array_get(list, i);
        if (!json_is_integer(x) || json_integer_value(x) < 0 || json_integer_value(x) > (int64_t)1 << 50) return fail(e, "%s: \"%s\" holds %s, expected counts", where, what, json_is_integer(x) ? "a number out of range" : json_type_name(x));
        out[i] = (int64_t)json_integer_value(x);
    }
    return true;
}

FN bool task_confusion_read(TaskResult *t, const char *where, Error *e) {
    const json_t *j, *counts, *row;
    if (!get_object(t->json, "confusion", where, &j, e) || !j) return !j;
    if (!get_array(j, "labels", where, 1, 1000, &t->labels, e)) return false;
    size_t k = json_array_size(t->labels);
    for (size_t i = 0; i < k; i++) if (!json_is_string(json_array_get(t->labels, i))) return fail(e, "%s: \"labels\" holds %s, expected strings", where, json_type_name(json_array_get(t->labels, i)));
    if (!get_array(j, "counts", where, k, k, &counts, e)) return false;
    t->confusion = (int64_t *)xcalloc((int64_t)(k * (k + 1)), sizeof(int64_t));
    for (size_t i = 0; i < k; i++) {
        row = json_array_get(counts, i);
        if (json_array_size(row) != k + 1) return fail(e, "%s: row %zu of \"counts\" has %zu numbers, expected %zu: one a label and \"no answer\"", where, i, json_array_size(row), k + 1);
        if (!get_counts(row, "counts", where, t->confusion + i * (k + 1), e)) return false;
    }
    t->num_labels = (int64_t)k;
    return true;
}

FN bool task_lengths_read(TaskResult *t, const char *where, Error *e) {
    const json_t *j, *edges, *counts;
    if (!get_object(t->json, "lengths", where, &j, e) || !j || json_object_size(j) == 0) return !j || json_object_size(j) == 0;
    if (!get_array(j, "counts", where, 0, 4096, &counts, e)) return false;
    size_t n = json_array_size(counts);
    if (!get_array(j, "edges", where, n, n + 1, &edges, e)) return false;   // one edge more than bins, or the last bin is open
    if (n == 0) return true;
    t->edges = (double *)xcalloc((int64_t)n + 1, sizeof(double));
    t->lengths = (int64_t *)xcalloc((int64_t)n, sizeof(int64_t));
    t->edges[n] = INFINITY;
    for (size_t i = 0; i < json_array_size(edges); i++) {
        const json_t *x = json_array_get(edges, i);
        if (!json_is_number(x)) return fail(e, "%s: \"edges\" holds %s, expected numbers", where, json_type_name(x));
        t->edges[i] = json_number_value(x);
        if (i && !(t->edges[i] > t->edges[i - 1])) return fail(e, "%s: \"edges\" are not ascending at item %zu", where, i);
    }
    if (!get_counts(counts, "counts", where, t->lengths, e)) return false;
    t->bins = (int64_t)n;
    return true;
}

FN bool task_result_read(const char *id, const json_t *j, const char *where, TaskResult *t, Error *e) {
    const json_t *baselines;
    bool higher = true;
    memset(t, 0, sizeof *t);
    t->json = j;
    t->id = t->title = id;
    t->domain = t->novelty = t->capability = t->mode = t->data_hash = t->task_hash = "";
    t->majority = t->random = t->overlength = NAN;
    if (!json_is_object(j)) return fail(e, "%s is %s, expected an object", where, json_type_name(j));
    if (!json_object_get(j, "score")) return fail(e, "%s: \"score\" is missing, expected a number or null", where);
    bool ok = json_get_string(j, "title", where, false, &t->title, e) && json_get_string(j, "metric", where, true, &t->metric, e) && json_get_string(j, "domain", where, false, &t->domain, e) &&
              json_get_string(j, "novelty", where, false, &t->novelty, e) && json_get_string(j, "capability", where, false, &t->capability, e) && json_get_string(j, "mode", where, false, &t->mode, e) &&
              json_get_string(j, "data_hash", where, false, &t->data_hash, e) && json_get_string(j, "task_hash", where, false, &t->task_hash, e) && json_get_bool(j, "higher_is_better", where, false, &higher, e) &&
              json_get_int(j, "n", where, true, 0, (int64_t)1 << 40, &t->n, e) && json_get_int(j, "bad_rows", where, false, 0, (int64_t)1 << 40, &t->bad_rows, e) && json_get_int(j, "shots", where, false, 0, 1 << 20, &t->shots, e) &&
              json_get_int(j, "version", where, false, 0, 1 << 30, &t->version, e) && scored_read(j, "score", where, &t->score, e) && json_get_double(j, "overlength_ratio", where, false, 0, 1, &t->overlength, e) &&
              get_object(j, "metrics", where, &t->metrics, e) && get_object(j, "published", where, &t->published, e) && get_object(j, "outcomes", where, &t->outcomes, e) && get_object(j, "baselines", where, &baselines, e) &&
              (!baselines || (json_get_double(baselines, "majority", where, false, -1e12, 1e12, &t->majority, e) && json_get_double(baselines, "random", where, false, -1e12, 1e12, &t->random, e))) &&
              task_confusion_read(t, where, e) && task_lengths_read(t, where, e);
    t->higher_is_better = higher;
    t->general = strcmp(t->domain, "general") == 0;
    t->share = ok && strcmp(t->metric, "rmse") != 0 && !(fabs(t->score.value) > 1);
    ok = ok && json_get_bool(j, "share", where, false, &t->share, e);
    const char *key;
    json_t *value;
    if (ok && t->metrics) json_object_foreach((json_t *)t->metrics, key, value) {
        Estimate s;
        if (ok && !json_is_object(value)) ok = fail(e, "%s: \"metrics\".%s is %s, expected an object", where, key, json_type_name(value));
        ok = ok && scored_read(value, "value", where, &s, e);
    }
    if (ok && t->published) json_object_foreach((json_t *)t->published, key, value)
        if (ok && !json_is_number(value) && !json_is_null(value)) ok = fail(e, "%s: \"published\".%s is %s, expected a number", where, key, json_type_name(value));
    if (ok && t->outcomes) json_object_foreach((json_t *)t->outcomes, key, value)
        if (ok && (!json_is_integer(value) || json_integer_value(value) < 0)) ok = fail(e, "%s: \"outcomes\".%s is %s, expected a count", where, key, json_is_integer(value) ? "negative" : json_type_name(value));
    return ok;
}

FN bool run_result_read(RunResult *r, const char *path, Error *e) {
    const json_t *tasks;
    const char *format = NULL, *label = NULL, *key, *text = NULL;
    json_t *value;
    if (!json_is_object(r->json)) return fail(e, "%s: is %s, expected an object", path, json_type_name(r->json));
    if (!json_get_string(r->json, "format", path, true, &format, e)) return false;
    if (strcmp(format, RESULTS_FORMAT) != 0) return fail(e, "%s: \"format\" is \"%s\", expected \"%s\" ---> was it written by another program?", path, format, RESULTS_FORMAT);
    static const char *const texts[] = {"commit", "device", "date", "model", "model_hash", "adapter"};
    for (int i = 0; i < (int)(sizeof texts / sizeof *texts); i++) if (!json_get_string(r->json, texts[i], path, false, &text, e)) return false;
    if (!json_get_string(r->json, "label", path, false, &label, e) || !get_object(r->json, "settings", path, &tasks, e) || !get_object(r->json, "tasks", path, &tasks, e)) return false;
    if (!tasks || json_object_size(tasks) == 0) return fail(e, "%s: \"tasks\" is %s, expected at least one task", path, tasks ? "empty" : "missing");
    if (json_object_size(tasks) > 10000) return fail(e, "%s: has %zu tasks, expected at most 10000", path, json_object_size(tasks));
    if (label && *label) { free(r->label); r->label = xstrdup(label); }
    r->tasks = (TaskResult *)xcalloc((int64_t)json_object_size(tasks), sizeof(TaskResult));
    json_object_foreach((json_t *)tasks, key, value) {
        char *where = xprintf("%s: task \"%s\"", path, key);
        bool ok = task_result_read(key, value, where, &r->tasks[r->n++], e);
        free(where);
        if (!ok) return false;
    }
    return true;
}

// DIR/results.json; a path that ends in .json is taken as the file itself
FN bool run_result_load(const char *dir, RunResult *r, Error *e) {
    memset(r, 0, sizeof *r);
    size_t n = strlen(dir);
    bool file = n > 5 && strcmp(dir + n - 5, ".json") == 0;
    const char *slash = strrchr(dir, '/');
    while (n > 1 && dir[n - 1] == '/') n--;
    r->dir = file ? xprintf("%.*s", slash ? (int)(slash - dir + 1) : 1, slash ? dir : ".") : xprintf("%.*s", (int)n, dir);
    const char *base = strrchr(r->dir, '/');
    r->label = xstrdup(file || !base || !base[1] ? r->dir : base + 1);
    char *path = file ? xstrdup(dir) : path_join(dir, "results.json");
    r->json = json_parse_file(path, 256 << 20, e);
    bool ok = r->json && run_result_read(r, path, e);
    free(path);
    if (!ok) run_result_free(r);
    return ok;
}

// Several runs, in order; two of one label get a number, or nobody could tell them apart
FN bool run_results_load(const StringList *dirs, RunResult **out, Error *e) {
    RunResult *runs = (RunResult *)xcalloc(dirs->n, sizeof(RunResult));
    for (int i = 0; i < dirs->n; i++) {
        if (!run_result_load(dirs->items[i], &runs[i], e)) { while (i > 0) run_result_free(&runs[--i]); free(runs); return false; }
        int same = 1;
        for (int k = 0; k < i; k++) same += strcmp(runs[k].label, runs[i].label) == 0 || (strncmp(runs[k].label, runs[i].label, strlen(runs[i].label)) == 0 && strncmp(runs[k].label + strlen(runs[i].label), " (", 2) == 0);
        if (same > 1) { char *name = xprintf("%s (%d)", runs[i].label, same); free(runs[i].label); runs[i].label = name; }
    }
    *out = runs;
    return true;
}
FN void run_results_free(RunResult *runs, int n) {
    for (int i = 0; runs && i < n; i++) run_result_free(&runs[i]);
    free(runs);
}

FN const TaskResult *task_result_find(const RunResult *r, const char *id) {
    for (int64_t i = 0; i < r->n; i++) if (strcmp(r->tasks[i].id, id) == 0) return &r->tasks[i];
    return NULL;
}

// ---- how numbers are shown: shares in per cent, what has a unit of its own (an RMSE, a rating from 1 to 10) as it is

FN double task_unit(const TaskResult *t) { return t->share ? 100 : 1; }
enum { UNANSWERED_PERCENT = 5 };   // above it a score says more about the form of the answers than about what they say
FN double task_unanswered(const TaskResult *t) {   // per cent of the outputs
    double answered = 0, sum = 0;
    const char *key;
    json_t *value;
    if (t->outcomes) json_object_foreach((json_t *)t->outcomes, key, value) { sum += json_number_value(value); if (strcmp(key, "answered") == 0) answered = json_number_value(value); }
    return sum > 0 ? 100 * (sum - answered) / sum : NAN;
}
FN void number_text(char *out, size_t size, double x, int digits, bool sign) {   // "-" where it is not known
    if (!isfinite(x)) { snprintf(out, size, "-"); return; }
    snprintf(out, size, sign ? "%+.*f" : "%.*f", digits, x);
    if (strspn(out, "+-0.") == strlen(out)) snprintf(out, size, "%.*f", digits, 0.0);   // no -0.00
}
typedef struct { char text[48]; } NumberText;
FN NumberText shown(double x, int digits) { NumberText t; number_text(t.text, sizeof t.text, x, digits, false); return t; }
FN NumberText shown_signed(double x, int digits) { NumberText t; number_text(t.text, sizeof t.text, x, digits, true); return t; }
FN NumberText shown_p(double p) {
    NumberText t;
    snprintf(t.text, sizeof t.text, !isfinite(p) ? "-" : p < 0.0001 ? "<0.0001" : "%.4f", p);
    return t;
}

// ---- the table of lm-evaluation-harness, with what a score must be seen beside: how many rows, what no model at all would get, and how many answers could not be read

// How many answers could not be used, where that is more than one in twenty: such a score says as much about the asking as about the model
FN bool outcomes_note(const TaskResult *t, char *out, size_t size) {   // "31.2 % truncated, 6.0 % missing"
    const char *name;
    json_t *count;
    size_t n = 0;
    out[0] = 0;
    if (t->outcomes) json_object_foreach((json_t *)t->outcomes, name, count) {
        double share = t->n ? json_number_value(count) / (double)t->n : 0;
        if (strcmp(name, "answered") == 0 || !(100 * share > UNANSWERED_PERCENT) || n >= size) continue;
        n += (size_t)snprintf(out + n, size - n, "%s%.1f %% %.32s", n ? ", " : "", 100 * share, name);
    }
    return n > 0;
}

// A task's own metric, and of the others those that people look for beside it; all of them are in results.json
FN bool metric_beside(const TaskResult *k, const char *metric, double value) {
    static const char *const beside[] = {"acc", "weighted_f1", "f1", "entity_f1"};
    for (int i = 0; i < 4; i++) if (strcmp(metric, beside[i]) == 0) return strcmp(metric, k->metric) != 0 && value != k->score.value;
    return false;
}
FN void result_row(TextTable *t, const TaskResult *k, const char *metric, const Estimate *s, bool first) {
    const double unit = first ? task_unit(k) : 100;
    const char *mode = *k->mode ? k->mode : "none";
    table_cell(t, "%s", first ? k->id : "");
    if (first) table_cell(t, "%" PRId64, k->version); else table_cell(t, " ");
    table_cell(t, "%s", mode);
    if (first) table_cell(t, "%" PRId64, k->shots); else table_cell(t, " ");
    table_cell(t, "%s", metric);
    table_cell(t, "%s", first && !k->higher_is_better ? "\xE2\x86\x93" : "\xE2\x86\x91");
    table_cell(t, "%s", shown(s->value * unit, unit == 1 ? 4 : 2).text);
    table_cell(t, "\xC2\xB1");
    table_cell(t, "%s", shown(s->error * unit, unit == 1 ? 4 : 2).text);
    if (first) { table_cell(t, "%" PRId64, k->n); table_cell(t, "%s", shown(k->majority * unit, 2).text); table_cell(t, "%s", shown(k->random * unit, 2).text); table_cell(t, "%s", shown(task_unanswered(k), 1).text); }
    else for (int i = 0; i < 4; i++) table_cell(t, "%s", "");
}

// results: what results.json holds; `where` names it in errors
FN bool results_print(json_t *results, const char *where, FILE *f, Error *e) {
    RunResult r;
    memset(&r, 0, sizeof r);
    r.json = json_incref(results);
    r.label = xstrdup("");
    bool ok = run_result_read(&r, where, e);
    static const char *const head[] = {"Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr", "n", "Majority", "Random", "Unread"};
    TextTable t = {"lrlrllrlrrrrr", NULL, 0, 0}, g = {"lrlrllrlrr", NULL, 0, 0};
    for (int i = 0; ok && i < 13; i++) table_cell(&t, "%s", *head[i] ? head[i] : "   ");
    for (int64_t i = 0; ok && i < r.n; i++) {
        const TaskResult *k = &r.tasks[i];
        result_row(&t, k, k->metric, &k->score, true);
        const char *key;
        json_t *value;
        if (k->metrics) json_object_foreach((json_t *)k->metrics, key, value) {
            Estimate s;
            if (scored_read(value, "value", where, &s, e) && metric_beside(k, key, s.value)) result_row(&t, k, key, &s, false);
        }
    }
    if (ok) table_print(&t, f);
    const json_t *groups = NULL;
    const char *key;
    json_t *value;
    ok = ok && get_object(r.json, "groups", where, &groups, e);
    if (ok && groups && json_object_size(groups)) {
        for (int i = 0; i < 10; i++) table_cell(&g, "%s", i == 0 ? "Groups" : i == 9 ? "tasks" : *head[i] ? head[i] : "   ");
        json_object_foreach((json_t *)groups, key, value) {
            double mean = NAN;
            int64_t tasks = 0;
            ok = ok && json_get_double(value, "mean", where, false, -1e12, 1e12, &mean, e) && json_get_int(value, "tasks", where, false, 0, 1 << 20, &tasks, e);
            const char *cells[] = {key, " ", "none", " ", "mean", "\xE2\x86\x91", shown(100 * mean, 2).text, "\xC2\xB1", "-"};
            for (int i = 0; i < 9; i++) table_cell(&g, "%s", cells[i]);
            table_cell(&g, "%" PRId64, tasks);
        }
        fputc('\n', f);
        if (ok) table_print(&g, f);
    }
    if (ok) fputs("values x 100, but rmse and ratings as they are; majority: the most frequent answer each time; random: guessing; unread: per cent of the answers that say nothing clear, which count as wrong; further metrics: results.json\n", f);
    bool any = false;
    char note[512];
    for (int64_t i = 0; ok && i < r.n; i++) if (outcomes_note(&r.tasks[i], note, sizeof note)) {
        fprintf(f, "%s%s: %s\n", any ? "" : "outputs that were cut off or could not be read:\n", r.tasks[i].id, note);
        any = true;
    }
    if (any) fputs("---> truncated: more --max-new or --context, and does the model end its turns (--template)? missing, ambiguous, empty: see \"output\" in samples_TASK.jsonl\n", f);
    table_free(&t);
    table_free(&g);
    run_result_free(&r);
    return ok;
}

#endif
