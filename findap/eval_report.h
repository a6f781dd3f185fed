// eval_report.h: `eval report DIR ... --out report.html`: what runs of eval have found, as one page for people: what was gained, what was forgotten, what no model at all would get.
//
// The page is a function of its inputs - no date of its own, nothing drawn at random - and is written only when all of them could be read.
#ifndef FINDAP_EVAL_REPORT_H
#define FINDAP_EVAL_REPORT_H
#include "eval_charts.h"   // defines: bar_row, forest_row, confusion_table, length_histogram
#include "svg_plot.h"      // defines: train_log_load, train_log_plots

typedef struct {
    const TaskResult *first;          // of the first run that has it
    const TaskResult **of;            // (num_runs) NULL: not run
    double unit;
    bool same_data;                   // all runs on the same rows, by the same metric
} ReportTask;

typedef struct { const char *title; bool (*has)(const TaskResult *); } ReportGroup;
FN bool in_similar(const TaskResult *t) { return !t->general && strcmp(t->novelty, "similar") == 0; }
FN bool in_novel(const TaskResult *t) { return !t->general && strcmp(t->novelty, "similar") != 0; }
FN bool in_general(const TaskResult *t) { return t->general; }
enum { NUM_GROUPS = 3 };
FN const ReportGroup report_groups[NUM_GROUPS] = {{"Finance, tasks similar to trained ones", in_similar}, {"Finance, novel tasks", in_novel}, {"General", in_general}};

typedef struct {
    RunResult *runs;
    int num_runs;
    char **labels;                    // (num_runs)
    ReportTask *tasks;                // sorted into report_groups
    int64_t n;
    Comparisons compared;
    TrainLog *logs;
    int num_logs;
    bool published;                   // some task has a published score of shown_models
    Html h;
} Report;

FN void report_tasks(Report *r) {
    int64_t most = 0;
    for (int i = 0; i < r->num_runs; i++) most += r->runs[i].n;
    r->tasks = (ReportTask *)xcalloc(most, sizeof(ReportTask));
    for (int g = 0; g < NUM_GROUPS; g++) for (int i = 0; i < r->num_runs; i++) for (int64_t k = 0; k < r->runs[i].n; k++) {
        const TaskResult *t = &r->runs[i].tasks[k];
        bool earlier = !report_groups[g].has(t);
        for (int j = 0; !earlier && j < i; j++) earlier = task_result_find(&r->runs[j], t->id) != NULL;
        if (earlier) continue;
        ReportTask *x = &r->tasks[r->n++];
        x->first = t;
        x->of = (const TaskResult **)xcalloc(r->num_runs, sizeof *x->of);
        x->unit = 100;
        x->same_data = true;
        for (int j = 0; j < r->num_runs; j++) {
            const TaskResult *y = x->of[j] = task_result_find(&r->runs[j], t->id);
            if (!y) continue;
            if (task_unit(y) == 1) x->unit = 1;   // a rating over 1 in one run is none of 0.9 in the other
            x->same_data = x->same_data && strcmp(y->metric, t->metric) == 0 && (!*y->data_hash || !*t->data_hash || strcmp(y->data_hash, t->data_hash) == 0);
            for (int m = 0; m < NUM_SHOWN; m++) r->published = r->published || isfinite(published_of(y, shown_models[m]));
        }
    }
}
FN double report_published(const ReportTask *t, int num_runs, const char *model) {
    double x = NAN;
    for (int i = 0; i < num_runs && !isfinite(x); i++) x = published_of(t->of[i], model);
    return x;
}
FN Estimate report_score(const ReportTask *t, int run) {
    Estimate none = {NAN, NAN, NAN, NAN};
    if (!t->of[run]) return none;
    Estimate s = t->of[run]->score;
    if (isfinite(s.value) && !isfinite(s.low) && isfinite(s.error)) { s.low = s.value - 1.959964 * s.error; s.high = s.value + 1.959964 * s.error; }
    return s;
}

// ---- header

FN void settings_list(Html *h, const json_t *settings) {
    const char *key;
    json_t *value;
    bool any = false;
    if (settings) json_object_foreach((json_t *)settings, key, value) {
        if (json_is_null(value)) continue;
        char *text = json_is_string(value) ? xprintf("%s", json_string_value(value)) : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(6));
        html_textf(h, "%s%s: %.400s", any ? "; " : "", key, text ? text : "");
        any = true;
        free(text);
    }
    if (!any) html_raw(h, "\xE2\x80\x93");
}
FN void report_runs(Report *r) {
    Html *h = &r->h;
    static const char *const keys[] = {"model", "model_hash", "adapter", "commit", "device", "date"}, *const heads[] = {"Model", "Hash", "Adapter", "Commit", "Device", "Date"};
    html_raw(h, "<h2 id=\"runs\">Runs</h2>\n<div class=\"box\" tabindex=\"0\"><table class=\"pin\"><thead><tr><th scope=\"col\">Run</th>");
    for (int k = 0; k < 6; k++) html_add(h, "<th scope=\"col\">%s</th>", heads[k]);
    html_raw(h, "<th scope=\"col\" class=\"n\">Tasks</th><th scope=\"col\" class=\"n\">Rows</th><th scope=\"col\" class=\"n\">Seconds</th></tr></thead><tbody>\n");
    for (int i = 0; i < r->num_runs; i++) {
        const RunResult *x = &r->runs[i];
        int64_t rows = 0;
        for (int64_t k = 0; k < x->n; k++) rows += x->tasks[k].n;
        html_raw(h, "<tr><th scope=\"row\" class=\"name\">");
        html_text(h, r->labels[i]);
        html_raw(h, "</th>");
        for (int k = 0; k < 6; k++) {
            const char *s = json_string_value(json_object_get(x->json, keys[k]));
            html_raw(h, k == 1 || k == 3 ? "<td><code>" : k == 0 || k == 2 ? "<td class=\"path\">" : "<td>");
            if (s && *s) html_textn(h, s, k == 1 && strlen(s) > 12 ? 12 : strlen(s)); else html_raw(h, "\xE2\x80\x93");
            html_raw(h, k == 1 || k == 3 ? "</code></td>" : "</td>");
        }
        const json_t *seconds = json_object_get(x->json, "seconds");
        html_add(h, "<td class=\"n\">%" PRId64 "</td><td class=\"n\">%" PRId64 "</td><td class=\"n\">", x->n, rows);
        html_number(h, json_is_number(seconds) ? json_number_value(seconds) : NAN, 0, false);
        html_raw(h, "</td></tr>\n");
    }
    html_raw(h, "</tbody></table></div>\n");
    bool same = true;
    for (int i = 1; i < r->num_runs; i++) same = same && json_equal(json_object_get(r->runs[0].json, "settings"), json_object_get(r->runs[i].json, "settings"));
    if (!same) html_raw(h, "<p class=\"note\">The runs were asked with different settings, so differences between them are not of the models alone.</p>\n");
    for (int i = 0; i < (same ? 1 : r->num_runs); i++) {
        html_raw(h, "<p class=\"small\"><b>");
        if (same) html_raw(h, r->num_runs > 1 ? "Settings of all runs" : "Settings"); else { html_raw(h, "Settings of "); html_text(h, r->labels[i]); }
        html_raw(h, ":</b> ");
        settings_list(h, json_object_get(r->runs[i].json, "settings"));
        html_raw(h, "</p>\n");
    }
}

// ---- in short: the means, in words

FN void report_short(Report *r) {
    Html *h = &r->h;
    html_raw(h, "<h2 id=\"short\">In short</h2>\n");
    if (r->num_runs == 1) html_raw(h, "<p>One run: there is nothing to compare it with. <code>eval report BASE THIS --out report.html</code> shows what was gained and what forgotten.</p>\n");
    html_raw(h, "<ul>\n");
    for (int run = 1; run < r->num_runs; run++) for (int general = 0; general < 2; general++) {
        ComparedGroup g = compared_group(&r->compared, run, general);
        if (!g.tasks) continue;
        html_raw(h, "<li><b>");
        html_text(h, r->labels[run]);
        html_raw(h, "</b> against ");
        html_text(h, r->labels[0]);
        html_raw(h, general ? ", general tasks: " : ", finance tasks: ");
        if (isfinite(g.difference)) {
            html_raw(h, "mean difference <b>");
            html_number(h, 100 * g.difference, 1, true);
            html_raw(h, "</b> [");
            html_number(h, 100 * g.low, 1, true);
            html_raw(h, ", ");
            html_number(h, 100 * g.high, 1, true);
            html_raw(h, "], ");
        }
        html_add(h, "of %" PRId64 " task%s %" PRId64 " better, %" PRId64 " worse, %" PRId64 " not told apart.</li>\n", g.tasks, g.tasks == 1 ? "" : "s", g.better, g.worse, g.tasks - g.better - g.worse);
    }
    html_raw(h, "</ul>\n");
    if (r->num_runs > 1) html_add(h, "<p class=\"soft small\">Differences are of the same rows, in per cent points, with 95 %% intervals. \xE2\x80\x9C" "Better\xE2\x80\x9D and \xE2\x80\x9Cworse\xE2\x80\x9D: p &lt; 0.05 after Holm\xE2\x80\x99s correction for %" PRId64
                                    " test%s, all of this page.</p>\n", r->compared.tests, r->compared.tests == 1 ? "" : "s");
    for (int64_t i = 0; i < r->n; i++) {
        if (r->tasks[i].same_data) continue;
        html_raw(h, "<p class=\"note\"><b>");
        html_text(h, r->tasks[i].first->title);
        html_raw(h, "</b>: the runs had different data or show different metrics; no difference is computed where they do.</p>\n");
    }
}

// ---- scores

FN void score_cell(Html *h, const Estimate *s, double unit) {
    int d = unit == 1 ? 3 : 2;
    html_raw(h, "<td class=\"n\">");
    html_number(h, s->value * unit, d, false);
    if (isfinite(s->value) && isfinite(s->error)) { html_raw(h, " <span class=\"pm\">\xC2\xB1 "); html_number(h, s->error * unit, d, false); html_raw(h, "</span>"); }
    html_raw(h, "</td>");
}
FN void plain_cell(Html *h, double x, int digits) { html_raw(h, "<td class=\"n\">"); html_number(h, x, digits, false); html_raw(h, "</td>"); }

// the means of a group: of the tasks that all runs have and that are shares; a column of others only where none is missing
FN void report_mean_row(Report *r, int64_t begin, int64_t end) {
    Html *h = &r->h;
    double sum[5] = {0, 0, 0, 0, 0};   // majority, random, published
    Estimate *run = (Estimate *)xcalloc(r->num_runs, sizeof(Estimate));
    int64_t k = 0;
    for (int64_t i = begin; i < end; i++) {
        const ReportTask *t = &r->tasks[i];
        bool all = t->unit == 100;
        for (int j = 0; j < r->num_runs; j++) all = all && isfinite(report_score(t, j).value);
        if (!all) continue;
        k++;
        for (int j = 0; j < r->num_runs; j++) { Estimate s = report_score(t, j); run[j].value += s.value; run[j].error += s.error * s.error; }
        sum[0] += 100 * t->first->majority;
        sum[1] += 100 * t->first->random;
        for (int m = 0; m < NUM_SHOWN; m++) sum[2 + m] += report_published(t, r->num_runs, shown_models[m]);
    }
    if (k > 1) {
        html_add(h, "<tr class=\"group\"><th scope=\"row\">Mean of %" PRId64 " tasks</th><td></td>", k);
        for (int j = 0; j < r->num_runs; j++) { run[j].value /= (double)k; run[j].error = sqrt(run[j].error) / (double)k; score_cell(h, &run[j], 100); }
        for (int m = 0; m < (r->published ? 2 + NUM_SHOWN : 2); m++) plain_cell(h, sum[m] / (double)k, 2);
        html_raw(h, "</tr>\n");
    }
    free(run);
}

FN void report_table(Report *r) {
    Html *h = &r->h;
    int columns = 4 + r->num_runs + (r->published ? NUM_SHOWN : 0);
    html_raw(h, "<h2 id=\"scores\">Scores</h2>\n<div class=\"box\" tabindex=\"0\"><table class=\"pin\"><thead><tr><th scope=\"col\" class=\"name\">Task</th><th scope=\"col\" class=\"n\">n</th>");
    for (int i = 0; i < r->num_runs; i++) { html_raw(h, "<th scope=\"col\" class=\"n\" style=\"white-space:normal;min-width:8em\">"); html_text(h, r->labels[i]); html_raw(h, "</th>"); }
    html_raw(h, "<th scope=\"col\" class=\"n\">Majority</th><th scope=\"col\" class=\"n\">Random</th>");
    for (int m = 0; r->published && m < NUM_SHOWN; m++) html_add(h, "<th scope=\"col\" class=\"n\" style=\"white-space:normal;min-width:7em\">%s <span class=\"pm\">published</span></th>", shown_models[m]);
    html_raw(h, "</tr></thead><tbody>\n");
    for (int g = 0; g < NUM_GROUPS; g++) {
        int64_t begin = 0, end;
        while (begin < r->n && !report_groups[g].has(r->tasks[begin].first)) begin++;
        for (end = begin; end < r->n && report_groups[g].has(r->tasks[end].first);) end++;
        if (begin == end) continue;
        html_add(h, "<tr class=\"group\"><th scope=\"colgroup\" colspan=\"%d\"><span class=\"stick\">%s</span></th></tr>\n", columns, report_groups[g].title);
        for (int64_t i = begin; i < end; i++) {
            const ReportTask *t = &r->tasks[i];
            html_raw(h, "<tr><th scope=\"row\" class=\"name\">");
            html_text(h, t->first->title);
            html_raw(h, " <span class=\"pm\">");
            html_text(h, t->first->metric);
            html_raw(h, t->first->higher_is_better ? " \xE2\x86\x91" : " \xE2\x86\x93");
            html_add(h, "</span></th><td class=\"n\">%" PRId64 "</td>", t->first->n);
            for (int j = 0; j < r->num_runs; j++) {
                Estimate s = report_score(t, j);
                score_cell(h, &s, t->unit);
            }
            plain_cell(h, t->first->majority * t->unit, 2);
            plain_cell(h, t->first->random * t->unit, 2);
            for (int m = 0; r->published && m < NUM_SHOWN; m++) plain_cell(h, report_published(t, r->num_runs, shown_models[m]), 2);
            html_raw(h, "</tr>\n");
        }
        report_mean_row(r, begin, end);
    }
    html_raw(h, "</tbody></table></div>\n<p class=\"soft small\">Per cent, but RMSE and ratings as they are. \xC2\xB1: standard error. Majority: the most frequent gold answer each time. Random: guessing. Means are of tasks that all runs have; "
                "their error is of the rows, not of the choice of tasks.</p>\n");
    if (r->published) html_raw(h, "<p class=\"soft small\">Published: as printed in the FinDAP paper, whose prompts and answer extraction were not released; a difference of a few points to it says little.</p>\n");
}

FN BarRow report_bar(const Report *r, const ReportTask *t, Estimate *values, char *about, size_t size) {
    BarRow row;
    memset(&row, 0, sizeof row);
    row.title = t->first->title; row.about = about; row.unit = t->unit; row.values = values; row.n = r->num_runs;
    row.majority = t->first->majority; row.random = t->first->random;
    for (int m = 0; m < NUM_SHOWN; m++) row.published[m] = report_published(t, r->num_runs, shown_models[m]);
    for (int j = 0; j < r->num_runs; j++) values[j] = report_score(t, j);
    snprintf(about, size, "%.60s, n %" PRId64 "%s", t->first->metric, t->first->n, t->first->higher_is_better ? "" : ", lower is better");
    return row;
}
FN void report_bars(Report *r) {
    Html *h = &r->h;
    Estimate *values = (Estimate *)xcalloc(r->num_runs, sizeof(Estimate));
    char about[160];
    html_raw(h, "<h2 id=\"tasks\">Task by task</h2>\n");
    for (int g = 0; g < NUM_GROUPS; g++) {
        bool any = false;
        for (int64_t i = 0; i < r->n; i++) {
            if (!report_groups[g].has(r->tasks[i].first)) continue;
            if (!any) { html_add(h, "<h3>%s</h3>\n", report_groups[g].title); run_legend(h, r->labels, r->num_runs, false, true, r->published); bar_axis(h); }
            any = true;
            BarRow row = report_bar(r, &r->tasks[i], values, about, sizeof about);
            bar_row(h, &row, r->labels);
        }
    }
    free(values);
}

// ---- capabilities: the mean of the tasks of each, where all runs have them

FN void report_capabilities(Report *r) {
    Html *h = &r->h;
    static const char *const known[] = {"concept", "task", "reasoning", "chat"};
    Estimate *values = (Estimate *)xcalloc(r->num_runs, sizeof(Estimate));
    bool any = false;
    for (int general = 0; general < 2; general++) for (int c = 0; c < 4; c++) {
        BarRow row;
        memset(&row, 0, sizeof row);
        memset(values, 0, (size_t)r->num_runs * sizeof(Estimate));
        int64_t k = 0;
        for (int64_t i = 0; i < r->n; i++) {
            const ReportTask *t = &r->tasks[i];
            bool all = t->unit == 100 && t->first->general == (general == 1) && strcmp(t->first->capability, known[c]) == 0;
            for (int j = 0; j < r->num_runs; j++) all = all && isfinite(report_score(t, j).value);
            if (!all) continue;
            k++;
            row.majority += t->first->majority; row.random += t->first->random;
            for (int j = 0; j < r->num_runs; j++) { Estimate s = report_score(t, j); values[j].value += s.value; values[j].error += s.error * s.error; }
            for (int m = 0; m < NUM_SHOWN; m++) row.published[m] += report_published(t, r->num_runs, shown_models[m]);
        }
        if (!k) continue;
        if (!any) {
            html_raw(h, "<h2 id=\"capabilities\">Capabilities</h2>\n<p class=\"soft small\">Means over the tasks of each kind that all runs have, each task counting alike.</p>\n");
            run_legend(h, r->labels, r->num_runs, false, true, r->published);
            bar_axis(h);
        }
        any = true;
        for (int j = 0; j < r->num_runs; j++) {
            Estimate *v = &values[j];
            v->value /= (double)k;
            v->error = sqrt(v->error) / (double)k;
            v->low = v->value - 1.959964 * v->error;
            v->high = v->value + 1.959964 * v->error;
        }
        char title[64], about[64];
        snprintf(title, sizeof title, "%s: %s", general ? "General" : "Finance", known[c]);
        snprintf(about, sizeof about, "%" PRId64 " task%s", k, k == 1 ? "" : "s");
        row.title = title; row.about = about; row.unit = 100; row.values = values; row.n = r->num_runs;
        row.majority /= (double)k; row.random /= (double)k;
        for (int m = 0; m < NUM_SHOWN; m++) row.published[m] /= (double)k;
        bar_row(h, &row, r->labels);
    }
    free(values);
}

// ---- forgotten, gained

FN void report_forest(Report *r, bool general) {
    Html *h = &r->h;
    bool any = false, unpaired = false;
    for (int64_t i = 0; i < r->compared.n; i++) { any = any || r->compared.items[i].a->general == general; unpaired = unpaired || (r->compared.items[i].a->general == general && r->compared.items[i].test == TEST_UNPAIRED); }
    if (!any) return;
    double reach = forest_reach(&r->compared, general);
    html_add(h, general ? "<h2 id=\"forgotten\">Forgotten? General tasks against %s" : "<h2 id=\"gained\">Gained? Finance tasks against %s", "");
    html_text(h, r->labels[0]);
    html_raw(h, "</h2>\n<p class=\"soft small\">Left of the middle: worse than the first run. Points: the difference, in per cent points; lines: its 95 % interval.</p>\n");
    run_legend(h, r->labels, r->num_runs, true, false, false);
    forest_axis(h, reach);
    for (int64_t i = 0; i < r->n; i++) if (r->tasks[i].first->general == general) forest_row(h, &r->compared, r->tasks[i].first, reach, r->labels);
    if (unpaired) html_raw(h, "<p class=\"soft small\">\xC2\xB9 The rows are not there, or don\xE2\x80\x99t hold what the metric is made of: an interval of two independent scores, wider than need be.</p>\n");
}

// ---- honesty: what these numbers measure

enum { METER_PERCENT = 75 };
FN void report_notes(Report *r) {
    Html *h = &r->h;
    int meters = 0, below = 0;
    html_raw(h, "<h2 id=\"honest\">What these numbers measure</h2>\n");
    for (int pass = 0; pass < 2; pass++) for (int64_t i = 0; i < r->n; i++) {
        const ReportTask *t = &r->tasks[i];
        double best = NAN, majority = t->first->majority;
        for (int j = 0; j < r->num_runs; j++) { double v = report_score(t, j).value; if (isfinite(v) && (!isfinite(best) || (t->first->higher_is_better ? v > best : v < best))) best = v; }
        bool meter = t->unit == 100 && t->first->higher_is_better && 100 * majority >= METER_PERCENT, under = isfinite(best) && isfinite(majority) && (t->first->higher_is_better ? best <= majority : best >= majority);
        if (!isfinite(best) || (pass == 0 ? !meter : !under)) continue;
        if (pass == 0 && !meters++) html_add(h, "<p>On these tasks one answer is right in %d %% of the rows or more. Their score says how often a model gives that answer rather than what it knows; look at MCC or macro F1 instead.</p>\n<ul>\n", METER_PERCENT);
        if (pass == 1 && !below++) html_raw(h, meters ? "</ul>\n<p>No run does better here than always giving the most frequent answer:</p>\n<ul>\n" : "<p>No run does better here than always giving the most frequent answer:</p>\n<ul>\n");
        html_raw(h, "<li><b>");
        html_text(h, t->first->title);
        html_raw(h, "</b>: ");
        html_text(h, t->first->metric);
        html_raw(h, " of the most frequent answer ");
        html_number(h, majority * t->unit, t->unit == 1 ? 3 : 2, false);
        html_raw(h, ", best run ");
        html_number(h, best * t->unit, t->unit == 1 ? 3 : 2, false);
        static const char *const better[] = {"mcc", "macro_f1"};
        for (int m = 0; m < 2; m++) {
            int there = 0;
            for (int j = 0; j < r->num_runs; j++) {   // in the order of the runs
                const json_t *metric = t->of[j] && t->of[j]->metrics ? json_object_get(t->of[j]->metrics, better[m]) : NULL, *value = metric ? json_object_get(metric, "value") : NULL;
                if (strcmp(t->first->metric, better[m]) == 0 || (!json_is_number(value) && !there)) continue;
                html_raw(h, there++ ? ", " : m ? "; macro F1 " : "; MCC ");
                html_number(h, json_is_number(value) ? 100 * json_number_value(value) : NAN, 1, false);
            }
        }
        html_raw(h, "</li>\n");
    }
    if (meters + below) html_raw(h, "</ul>\n"); else html_raw(h, "<p>No task is answered best by one answer alone.</p>\n");
    int small = 0;
    for (int64_t i = 0; i < r->n; i++) {
        if (r->tasks[i].first->n >= 200) continue;
        html_raw(h, small++ ? ", " : "<p>Fewer than 200 rows, so that single answers move the score by half a point and more: ");
        html_text(h, r->tasks[i].first->title);
        html_add(h, " (%" PRId64 ")", r->tasks[i].first->n);
    }
    if (small) html_raw(h, ".</p>\n");
}

// ---- outcomes

FN void report_outcomes(Report *r) {
    Html *h = &r->h;
    json_t *names = json_object();   // in the order in which they appear
    const char *key;
    json_t *value;
    for (int i = 0; i < r->num_runs; i++) for (int64_t k = 0; k < r->runs[i].n; k++)
        if (r->runs[i].tasks[k].outcomes) json_object_foreach((json_t *)r->runs[i].tasks[k].outcomes, key, value) if (json_object_size(names) < 16) json_object_set_new(names, key, json_null());
    if (json_object_size(names) == 0) { json_decref(names); return; }
    int64_t all = 0, many = 0;
    for (int i = 0; i < r->num_runs; i++) for (int64_t k = 0; k < r->runs[i].n; k++) if (r->runs[i].tasks[k].outcomes) { all++; many += task_unanswered(&r->runs[i].tasks[k]) > UNANSWERED_PERCENT; }
    html_add(h, "<h2 id=\"outcomes\">Could the answers be read?</h2>\n<p>In %" PRId64 " of %" PRId64 " results more than %d %% of the outputs hold no clear answer. Those count as wrong, never as some default.</p>\n", many, all, UNANSWERED_PERCENT);
    html_raw(h, "<details><summary>All outcomes</summary>\n<p class=\"soft small\">Overlength: the share that reached the cap of tokens.</p>\n<div class=\"box\" tabindex=\"0\"><table class=\"pin\"><thead><tr><th scope=\"col\" class=\"name\">Task</th><th scope=\"col\">Run</th><th scope=\"col\" class=\"n\">n</th>");
    json_object_foreach(names, key, value) { html_raw(h, "<th scope=\"col\" class=\"n\">"); html_text(h, key); html_raw(h, "</th>"); }
    html_raw(h, "<th scope=\"col\" class=\"n\">not answered</th><th scope=\"col\" class=\"n\">overlength</th><th scope=\"col\" class=\"n\">bad rows</th></tr></thead><tbody>\n");
    for (int64_t i = 0; i < r->n; i++) for (int j = 0; j < r->num_runs; j++) {
        const TaskResult *t = r->tasks[i].of[j];
        if (!t || !t->outcomes) continue;
        html_raw(h, "<tr><th scope=\"row\" class=\"name\">");
        html_text(h, t->title);
        html_raw(h, "</th><td class=\"name\">");
        html_text(h, r->labels[j]);
        html_add(h, "</td><td class=\"n\">%" PRId64 "</td>", t->n);
        json_object_foreach(names, key, value) {
            const json_t *x = json_object_get(t->outcomes, key);
            if (x) html_add(h, "<td class=\"n\">%" PRId64 "</td>", (int64_t)json_integer_value(x));
            else html_raw(h, "<td class=\"n\">\xE2\x80\x93</td>");
        }
        double lost = task_unanswered(t);
        html_raw(h, lost > UNANSWERED_PERCENT ? "<td class=\"n\"><b>" : "<td class=\"n\">");
        html_number(h, lost, 1, false);
        html_raw(h, isfinite(lost) ? lost > UNANSWERED_PERCENT ? " %</b></td><td class=\"n\">" : " %</td><td class=\"n\">" : "</td><td class=\"n\">");
        html_number(h, 100 * t->overlength, 1, false);
        html_add(h, "%s</td><td class=\"n\">%" PRId64 "</td></tr>\n", isfinite(t->overlength) ? " %" : "", t->bad_rows);
    }
    html_raw(h, "</tbody></table></div></details>\n");
    json_decref(names);
}

// ---- details: everything else about a task, folded

FN void report_metrics(Report *r, const ReportTask *t) {
    Html *h = &r->h;
    json_t *names = json_object();
    const char *key;
    json_t *value;
    for (int j = 0; j < r->num_runs; j++) if (t->of[j] && t->of[j]->metrics) json_object_foreach((json_t *)t->of[j]->metrics, key, value) if (json_object_size(names) < 64) json_object_set_new(names, key, json_null());
    if (json_object_size(names)) {
        html_raw(h, "<div class=\"box\" tabindex=\"0\"><table class=\"pin\"><thead><tr><th scope=\"col\" class=\"name\">Metric</th>");
        for (int j = 0; j < r->num_runs; j++) { html_raw(h, "<th scope=\"col\" class=\"n\" style=\"white-space:normal;min-width:8em\">"); html_text(h, r->labels[j]); html_raw(h, "</th>"); }
        html_raw(h, "</tr></thead><tbody>\n");
        json_object_foreach(names, key, value) {
            html_raw(h, "<tr><th scope=\"row\" class=\"name\">");
            html_text(h, key);
            html_raw(h, "</th>");
            for (int j = 0; j < r->num_runs; j++) {
                Estimate s = {NAN, NAN, NAN, NAN};
                const json_t *x = t->of[j] && t->of[j]->metrics ? json_object_get(t->of[j]->metrics, key) : NULL;
                if (x) scored_read(x, "value", key, &s, NULL);   // checked when it was read
                score_cell(h, &s, strcmp(key, "rmse") == 0 ? 1 : strcmp(key, t->first->metric) == 0 ? t->unit : 100);
            }
            html_raw(h, "</tr>\n");
        }
        html_raw(h, "</tbody></table></div>\n");
    }
    json_decref(names);
    bool any = false;
    if (t->first->published) json_object_foreach((json_t *)t->first->published, key, value) {
        if (!json_is_number(value)) continue;
        html_raw(h, any ? ", " : "<p class=\"small\"><b>Published:</b> ");
        html_text(h, key);
        html_raw(h, " ");
        html_number(h, json_number_value(value), 2, false);
        any = true;
    }
    if (any) html_raw(h, "</p>\n");
}
FN void report_details(Report *r) {
    Html *h = &r->h;
    html_raw(h, "<h2 id=\"details\">Details</h2>\n<p class=\"soft small\">All metrics, the answers beside the gold ones (each row\xE2\x80\x99s share as its ground; outlined: right), and lengths.</p>\n");
    for (int64_t i = 0; i < r->n; i++) {
        const ReportTask *t = &r->tasks[i];
        html_raw(h, "<details><summary><b>");
        html_text(h, t->first->title);
        html_raw(h, "</b> <span class=\"soft small\">");
        html_textf(h, "%s%s%s%s%s", t->first->id, *t->first->capability ? ", " : "", t->first->capability, *t->first->mode ? ", " : "", t->first->mode);
        html_raw(h, "</span></summary>\n");
        report_metrics(r, t);
        html_raw(h, "<div class=\"cols\">");
        for (int j = 0; j < r->num_runs; j++) if (t->of[j] && t->of[j]->num_labels) confusion_table(h, t->of[j], r->labels[j]);
        html_raw(h, "</div><div class=\"cols\">");
        for (int j = 0; j < r->num_runs; j++) if (t->of[j] && t->of[j]->bins) length_histogram(h, t->of[j], r->labels[j], j);
        html_raw(h, "</div></details>\n");
    }
}

FN void report_logs(Report *r) {
    Html *h = &r->h;
    if (!r->num_logs) return;
    html_raw(h, "<h2 id=\"training\">Training</h2>\n");
    for (int i = 0; i < r->num_logs; i++) {
        const TrainLog *l = &r->logs[i];
        html_raw(h, "<h3>");
        html_text(h, l->path);
        html_add(h, "</h3>\n<p class=\"soft small\">%" PRId64 " steps", l->steps);
        if (*l->stages) { html_raw(h, "; "); html_text(h, l->stages); }
        if (l->skipped) html_add(h, "; %" PRId64 " skipped since their loss was not finite", l->skipped);
        if (l->cut) html_raw(h, "; the last line is not whole: the run goes on, or was killed");
        html_raw(h, ".</p>\n<div class=\"cols\">\n");
        train_log_plots(h, l);
        html_raw(h, "</div>\n");
    }
}

FN void report_page(Report *r) {
    Html *h = &r->h;
    Buffer title = {NULL, 0, 0};
    for (int i = 0; i < r->num_runs; i++) { if (i) buffer_add(&title, " \xE2\x86\x92 ", 5); buffer_add(&title, r->labels[i], (int64_t)strlen(r->labels[i])); }
    buffer_add(&title, "", 1);
    html_begin(h, "Evaluation");
    html_raw(h, "<header><p class=\"soft small\">findap eval</p><h1>");
    html_text(h, title.data);
    html_raw(h, "</h1>\n<nav aria-label=\"sections\"><a href=\"#short\">In short</a><a href=\"#scores\">Scores</a><a href=\"#tasks\">Task by task</a>");
    for (int general = 0; general < 2; general++) for (int64_t i = 0; i < r->compared.n; i++) {
        if (r->compared.items[i].a->general != (general == 1)) continue;
        html_raw(h, general ? "<a href=\"#forgotten\">Forgotten?</a>" : "<a href=\"#gained\">Gained?</a>");
        break;
    }
    html_raw(h, "<a href=\"#honest\">What they measure</a><a href=\"#details\">Details</a>");
    if (r->num_logs) html_raw(h, "<a href=\"#training\">Training</a>");
    html_raw(h, "<a href=\"#runs\">Runs</a></nav></header>\n<main>\n");
    buffer_free(&title);
    report_short(r);
    report_table(r);
    report_capabilities(r);
    report_bars(r);
    report_forest(r, false);
    report_forest(r, true);
    report_notes(r);
    report_outcomes(r);
    report_details(r);
    report_logs(r);
    report_runs(r);
    html_raw(h, "</main>\n");
}

FN void report_free(Report *r) {
    for (int64_t i = 0; i < r->n; i++) free(r->tasks[i].of);
    for (int i = 0; i < r->num_logs; i++) train_log_free(&r->logs[i]);
    free(r->tasks); free(r->logs); free(r->labels);
    comparisons_free(&r->compared);
    run_results_free(r->runs, r->num_runs);
    buffer_free(&r->h.b);
}

FN bool report_run(const StringList *dirs, const StringList *logs, const char *out, Error *e) {
    Report r;
    memset(&r, 0, sizeof r);
    if (!run_results_load(dirs, &r.runs, e)) return false;
    r.num_runs = dirs->n;
    r.labels = (char **)xcalloc(dirs->n, sizeof(char *));
    for (int i = 0; i < dirs->n; i++) r.labels[i] = r.runs[i].label;
    report_tasks(&r);
    bool ok = comparisons_make(r.runs, r.num_runs, NULL, NULL, true, &r.compared, e);
    r.logs = (TrainLog *)xcalloc(logs->n, sizeof(TrainLog));
    for (; ok && r.num_logs < logs->n; r.num_logs++) if (!train_log_load(logs->items[r.num_logs], &r.logs[r.num_logs], e)) { ok = false; break; }
    if (ok) {
        report_page(&r);
        ok = html_write(&r.h, out, e);
    }
    report_free(&r);
    return ok;
}

FN int eval_report_main(int argc, char **argv) {   // argv[0] is "report"
    StringList dirs = {NULL, 0}, logs = {NULL, 0};
    const char *out = NULL;
    bool help = false;
    Error e;
    Flag flags[] = {
        {"--out", FLAG_STRING, &out, "FILE", "the page, e.g. report.html: one file that needs no network", 0, 0, false},
        {"--log", FLAG_LIST, &logs, "FILE", "log.jsonl of train_findap or dpo: its losses are drawn", 0, 0, false},
    };
    int n = (int)(sizeof flags / sizeof *flags);
    bool ok = flags_parse(argc, argv, 1, flags, n, &dirs, &help, &e);
    if (ok && help) flags_help("eval report DIR... --out report.html [flags]", "A page of what runs have found. DIR: what eval --out wrote; give them in order, the first is what the others are compared with. Their names are their --label.", flags, n);
    if (ok && !help && dirs.n == 0) ok = fail(&e, "no directory given ---> eval report DIR... --out report.html");
    if (ok && !help && !out) ok = fail(&e, "--out is missing ---> e.g. --out report.html");
    ok = ok && (help || report_run(&dirs, &logs, out, &e));
    if (!ok) fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    free(dirs.items); free(logs.items);
    return ok ? 0 : 1;
}

#endif
