// eval_scaling.h: `eval scaling`: how errors fall with the amount of data. 1 - F1 ~ size^-exponent is a line on two logarithmic axes, whose slope the paper on the Open FinLLM
// leaderboard puts at 0.28 over all its tasks. Three points always lie near some line, so the exponent is never printed without its interval.
#ifndef FINDAP_EVAL_SCALING_H
#define FINDAP_EVAL_SCALING_H
#include "eval_results.h"   // defines: RunResult, run_results_load
#include "svg_plot.h"       // defines: plot_svg, Curve

#define PAPER_EXPONENT 0.28

typedef struct { double *size, *f1, *error; int64_t n, cap; bool errors; char *what; } Scaling;   // errors: every point has a standard error

FN void scaling_free(Scaling *s) { free(s->size); free(s->f1); free(s->error); free(s->what); memset(s, 0, sizeof *s); }
FN bool scaling_add(Scaling *s, double size, double f1, double error, const char *where, Error *e) {
    if (!(f1 >= 0 && f1 < 1)) return fail(e, "%s: F1 is %g, expected a fraction from 0 to less than 1 ---> 1 - F1 must have a logarithm; per cent are divided by 100", where, f1);
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 16;
        s->size = (double *)xrealloc(s->size, s->cap, sizeof(double));
        s->f1 = (double *)xrealloc(s->f1, s->cap, sizeof(double));
        s->error = (double *)xrealloc(s->error, s->cap, sizeof(double));
    }
    s->size[s->n] = size; s->f1[s->n] = f1; s->error[s->n] = error;
    s->errors = (s->n == 0 || s->errors) && isfinite(error);
    s->n++;
    return true;
}

FN bool scaling_read_rows(const char *path, Scaling *s, Error *e) {   // {"size": .., "f1": .., "stderr": ..} a line
    static const char *const known[] = {"size", "f1", "stderr", NULL};
    Mapped m;
    if (!map_file(path, &m, e)) return false;
    bool ok = true;
    int64_t line = 0;
    for (int64_t at = 0; ok && at < m.size;) {
        const uint8_t *newline = (const uint8_t *)memchr(m.data + at, '\n', (size_t)(m.size - at));
        int64_t end = newline ? newline - m.data : m.size;
        char *where = xprintf("%s:%" PRId64, path, ++line);
        double size = 0, f1 = 0, error = NAN;
        Text t = text_trim(text_make((const char *)m.data + at, end - at));
        if (t.length) {
            json_t *j = json_parse_line(where, t.data, t.length, e);
            ok = j && (json_is_object(j) || fail(e, "%s: is %s, expected {\"size\": N, \"f1\": X}", where, json_type_name(j))) && json_only_keys(j, where, known, e) && json_get_double(j, "size", where, true, 1e-9, 1e18, &size, e) &&
                 json_get_double(j, "f1", where, true, -1e18, 1e18, &f1, e) && json_get_double(j, "stderr", where, false, 0, 1, &error, e) && scaling_add(s, size, f1, error, where, e);
            json_decref(j);
        }
        at = end + 1;
        free(where);
    }
    unmap_file(&m);
    s->what = xstrdup("f1");
    return ok;
}

// One task's metric, or its mean over the tasks that all runs have
FN bool scaling_read_runs(const StringList *dirs, const StringList *sizes, const char *task, const char *metric, Scaling *s, Error *e) {
    RunResult *runs = NULL;
    if (sizes->n != dirs->n) return fail(e, "%d --sizes for %d directories, expected one each, in their order ---> e.g. --sizes 1000 4000 16000", sizes->n, dirs->n);
    if (!run_results_load(dirs, &runs, e)) return false;
    int64_t common = 0;
    bool ok = true;
    for (int i = 0; ok && i < dirs->n; i++) {
        char *end = NULL;
        double size = strtod(sizes->items[i], &end), sum = 0, variance = 0;
        int64_t k = 0;
        if (!*sizes->items[i] || *end || !(size > 0) || !isfinite(size)) { ok = fail(e, "--sizes: \"%s\" is no positive number", sizes->items[i]); break; }
        for (int64_t t = 0; ok && t < runs[0].n; t++) {
            const char *id = runs[0].tasks[t].id;
            Estimate x = {NAN, NAN, NAN, NAN};
            bool all = !task || strcmp(task, id) == 0;
            for (int r = 0; all && r < dirs->n; r++) {
                const TaskResult *y = task_result_find(&runs[r], id);
                const json_t *value = y && y->metrics ? json_object_get(y->metrics, metric) : NULL;
                Estimate one = {NAN, NAN, NAN, NAN};
                if (y && !value && strcmp(y->metric, metric) == 0) one = y->score;
                else if (value) ok = ok && scored_read(value, "value", runs[r].dir, &one, e);
                all = isfinite(one.value);
                if (r == i) x = one;
            }
            if (!all) continue;
            k++;
            sum += x.value;
            variance += x.error * x.error;
        }
        common = k;
        if (ok && !k) ok = fail(e, "no task%s%s has %s in all %d runs ---> choose with --task and --metric", task ? " " : "", task ? task : "", metric, dirs->n);
        ok = ok && scaling_add(s, size, sum / (double)k, sqrt(variance) / (double)k, runs[i].dir, e);
    }
    s->what = task ? xprintf("%s of %s", metric, task) : xprintf("mean %s of %" PRId64 " task%s", metric, common, common == 1 ? "" : "s");
    run_results_free(runs, dirs->n);
    return ok;
}

FN int64_t scaling_sizes(const Scaling *s) {   // how many different ones
    int64_t sizes = 0;
    for (int64_t i = 0; i < s->n; i++) {
        bool seen = false;
        for (int64_t k = 0; k < i; k++) seen = seen || s->size[k] == s->size[i];
        sizes += !seen;
    }
    return sizes;
}

FN void scaling_sentence(const PowerFit *f, char *out, size_t size) {
    bool inside = f->low <= PAPER_EXPONENT && PAPER_EXPONENT <= f->high;
    snprintf(out, size, "exponent %.4f, 95 %% interval [%.4f, %.4f] (by the bootstrap [%.4f, %.4f]), R^2 %.4f; the paper's %.2f lies %s. %s", f->exponent, f->low, f->high, f->boot_low, f->boot_high, f->r2, PAPER_EXPONENT,
             inside ? "inside" : f->low > PAPER_EXPONENT ? "below" : "above", f->low > 0 ? "" : "The interval holds 0: more data need not help.");
    size_t n = strlen(out);
    if (f->low > 0) snprintf(out + n, size - n, "Half the errors need %.3g times the data (%.3g to %.3g).", pow(2, 1 / f->exponent), pow(2, 1 / f->high), pow(2, 1 / f->low));
}

FN bool scaling_page(const Scaling *s, const PowerFit *f, const char *out, Error *e) {
    Html h;
    Curve curves[3];
    char text[512];
    double low = INFINITY, high = 0, mx = 0, my = 0;
    memset(curves, 0, sizeof curves);
    static const char *const names[] = {"1 \xE2\x88\x92 F1", "fitted line", "the paper\xE2\x80\x99s slope, through the middle"};
    for (int k = 0; k < 3; k++) { curves[k].name = xstrdup(names[k]); curves[k].style = k; curves[k].points = k == 0; }
    for (int64_t i = 0; i < s->n; i++) {
        curve_add(&curves[0], s->size[i], 1 - s->f1[i]);
        low = fmin(low, s->size[i]); high = fmax(high, s->size[i]);
        mx += log(s->size[i]) / (double)s->n; my += log(1 - s->f1[i]) / (double)s->n;
    }
    for (int k = 0; k < 2; k++) {
        double x = k ? high : low;
        curve_add(&curves[1], x, power_fit_at(f, x));
        curve_add(&curves[2], x, exp(my - PAPER_EXPONENT * (log(x) - mx)));
    }
    html_begin(&h, "Scaling");
    html_raw(&h, "<header><p class=\"soft small\">findap eval scaling</p><h1>Errors over data</h1></header>\n<main><p><b>");
    html_text(&h, s->what);
    html_raw(&h, ":</b> ");
    scaling_sentence(f, text, sizeof text);
    html_text(&h, text);
    html_raw(&h, "</p>\n");
    plot_svg(&h, s->what, "amount of data", "1 \xE2\x88\x92 F1", true, curves, 3);
    html_raw(&h, "<div class=\"box\" tabindex=\"0\"><table><thead><tr><th scope=\"col\" class=\"n\">Size</th><th scope=\"col\" class=\"n\">F1</th><th scope=\"col\" class=\"n\">\xC2\xB1</th><th scope=\"col\" class=\"n\">1 \xE2\x88\x92 F1</th><th scope=\"col\" class=\"n\">Line</th></tr></thead><tbody>\n");
    for (int64_t i = 0; i < s->n; i++) {
        html_add(&h, "<tr><td class=\"n\">%.15g</td><td class=\"n\">", s->size[i]);
        html_number(&h, s->f1[i], 4, false);
        html_raw(&h, "</td><td class=\"n\">");
        html_number(&h, s->error[i], 4, false);
        html_raw(&h, "</td><td class=\"n\">");
        html_number(&h, 1 - s->f1[i], 4, false);
        html_raw(&h, "</td><td class=\"n\">");
        html_number(&h, power_fit_at(f, s->size[i]), 4, false);
        html_raw(&h, "</td></tr>\n");
    }
    html_raw(&h, "</tbody></table></div></main>\n");
    for (int k = 0; k < 3; k++) curve_free(&curves[k]);
    bool ok = html_write(&h, out, e);
    buffer_free(&h.b);
    return ok;
}

FN void scaling_print(const Scaling *s, const PowerFit *f, bool as_json) {
    if (as_json) {
        json_t *points = json_array(), *j = json_object();
        for (int64_t i = 0; i < s->n; i++) {
            json_t *p = json_pack("{s:f,s:f,s:f}", "size", s->size[i], "f1", s->f1[i], "fitted_error", power_fit_at(f, s->size[i]));
            json_array_append_new(points, p);
        }
        const struct { const char *name; double value; } values[] = {{"exponent", f->exponent}, {"stderr", f->error}, {"low", f->low}, {"high", f->high}, {"bootstrap_low", f->boot_low}, {"bootstrap_high", f->boot_high},
            {"intercept", f->intercept}, {"r2", f->r2}, {"paper_exponent", PAPER_EXPONENT}};
        for (int i = 0; i < (int)(sizeof values / sizeof *values); i++) json_object_set_new(j, values[i].name, isfinite(values[i].value) ? json_real(values[i].value) : json_null());
        json_object_set_new(j, "what", text_json(text_of(s->what)));
        json_object_set_new(j, "points", points);
        char *text = json_dumps(j, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
        CHECK(text);
        puts(text);
        free(text);
        json_decref(j);
        return;
    }
    static const char *const head[] = {"Size", "F1", "Stderr", "1 - F1", "Line"};
    TextTable t = {"rrrrr", NULL, 0, 0};
    char text[512];
    for (int i = 0; i < 5; i++) table_cell(&t, "%s", head[i]);
    for (int64_t i = 0; i < s->n; i++) {
        table_cell(&t, "%.15g", s->size[i]);
        table_cell(&t, "%s", shown(s->f1[i], 4).text);
        table_cell(&t, "%s", shown(s->error[i], 4).text);
        table_cell(&t, "%s", shown(1 - s->f1[i], 4).text);
        table_cell(&t, "%s", shown(power_fit_at(f, s->size[i]), 4).text);
    }
    table_print(&t, stdout);
    table_free(&t);
    scaling_sentence(f, text, sizeof text);
    char what[512];
    escape_text(what, sizeof what, s->what, strlen(s->what));
    printf("\n%s: %s\n", what, text);
}

FN int eval_scaling_main(int argc, char **argv) {   // argv[0] is "scaling"
    StringList inputs = {NULL, 0}, sizes = {NULL, 0};
    const char *out = NULL, *task = NULL, *metric = "weighted_f1";
    bool as_json = false, help = false;
    Error e;
    Scaling s;
    PowerFit fit;
    memset(&s, 0, sizeof s);
    Flag flags[] = {
        {"--sizes", FLAG_LIST, &sizes, "N", "amounts of training data (tokens or rows) of the directories, in their order", 0, 0, false},
        {"--task", FLAG_STRING, &task, "NAME", "of directories: this task (default: the mean over those that all have)", 0, 0, false},
        {"--metric", FLAG_STRING, &metric, "NAME", "of directories", 0, 0, false},
        {"--out", FLAG_STRING, &out, "FILE", "also a page with a plot, e.g. scaling.html", 0, 0, false},
        {"--json", FLAG_BOOL, &as_json, NULL, "one JSON object instead of the table", 0, 0, false},
    };
    int n = (int)(sizeof flags / sizeof *flags);
    bool ok = flags_parse(argc, argv, 1, flags, n, &inputs, &help, &e);
    if (ok && help) flags_help("eval scaling POINTS.jsonl | eval scaling DIR DIR DIR... --sizes N N N... [flags]",
                               "How do errors fall with data? Fits log(1 - F1) = a - b log(size) and prints b with its interval. POINTS: {\"size\": N, \"f1\": X} a line, \"stderr\" if known.", flags, n);
    if (ok && !help) {
        if (inputs.n == 0) ok = fail(&e, "no input: expected a file of points or directories ---> see eval scaling --help");
        bool rows = ok && inputs.n == 1 && !is_directory(inputs.items[0]);
        static const char *const of_runs[] = {"--sizes", "--task", "--metric"};
        for (int i = 0; rows && ok && i < 3; i++) ok = flag_unused(flags, n, of_runs[i], "the points come from a file", &e);
        ok = ok && (rows ? scaling_read_rows(inputs.items[0], &s, &e) : scaling_read_runs(&inputs, &sizes, task, metric, &s, &e));
        if (ok && scaling_sizes(&s) < 3) ok = fail(&e, "%" PRId64 " point%s of %" PRId64 " different sizes, expected at least three sizes ---> two always lie on a line", s.n, s.n == 1 ? "" : "s", scaling_sizes(&s));
        ok = ok && power_fit(s.size, s.f1, s.errors ? s.error : NULL, s.n, 1, &fit, &e) && (!out || scaling_page(&s, &fit, out, &e));
        if (ok) scaling_print(&s, &fit, as_json);
        ok = ok && (fflush(stdout) == 0 || fail(&e, "writing failed: %s", strerror(errno)));
    }
    if (!ok) fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    free(inputs.items); free(sizes.items);
    scaling_free(&s);
    return ok ? 0 : 1;
}

#endif
