// svg_plot.h: curves in SVG - losses over steps, errors over sizes - and what train_findap and dpo have written to log.jsonl.
#ifndef FINDAP_SVG_PLOT_H
#define FINDAP_SVG_PLOT_H
#include "html.h"   // defines: Html, svg_begin, nice_step
#include "json.h"   // defines: json_parse

typedef struct {
    char *name;
    double *x, *y;
    int64_t n, cap;
    bool points;     // dots instead of a line
    int style;       // colour, dashes, shape
} Curve;

FN void curve_add(Curve *c, double x, double y) {
    if (c->n == c->cap) {
        c->cap = c->cap ? 2 * c->cap : 64;
        c->x = (double *)xrealloc(c->x, c->cap, sizeof(double));
        c->y = (double *)xrealloc(c->y, c->cap, sizeof(double));
    }
    c->x[c->n] = x;
    c->y[c->n++] = y;
}
FN void curve_free(Curve *c) { free(c->name); free(c->x); free(c->y); memset(c, 0, sizeof *c); }

enum { PLOT_HEIGHT = 200, PLOT_TOP = 8, PLOT_LABELS = 56, PLOT_MOST = 500 };   // more points than that are more than there are pixels

typedef struct { double low, high; bool logarithmic; } Axis;
FN double axis_at(const Axis *a, double v) { return a->logarithmic ? log(v / a->low) / log(a->high / a->low) : (v - a->low) / (a->high - a->low); }   // 0 to 1
FN void axis_fit(Axis *a, const Curve *c, int n, bool y, bool logarithmic) {
    a->low = INFINITY; a->high = -INFINITY; a->logarithmic = logarithmic;
    for (int k = 0; k < n; k++) for (int64_t i = 0; i < c[k].n; i++) {
        double v = y ? c[k].y[i] : c[k].x[i];
        if (!isfinite(c[k].y[i]) || !isfinite(c[k].x[i]) || (logarithmic && v <= 0)) continue;
        a->low = fmin(a->low, v);
        a->high = fmax(a->high, v);
    }
    if (logarithmic) { a->low /= 1.15; a->high *= 1.15; return; }
    bool points = false;
    for (int k = 0; k < n; k++) points = points || c[k].points;
    double pad = (y ? 0.05 : points ? 0.02 : 0) * (a->high - a->low);
    if (!(a->high > a->low)) pad = a->high != 0 ? 0.1 * fabs(a->high) : 1;   // one value alone
    a->low -= pad; a->high += pad;
}
FN void tick_text(char *out, size_t size, double v, int digits, double thousands) {   // short: 2.5M, 40k, 0.02
    double m = fabs(v);
    if (m >= 1e9) snprintf(out, size, "%.3gG", v / 1e9);
    else if (m >= 1e6) snprintf(out, size, "%.3gM", v / 1e6);
    else if (m >= thousands) snprintf(out, size, "%.3gk", v / 1e3);
    else snprintf(out, size, "%.*f", digits, v);
}
typedef struct { double at[16]; char text[16][32]; int n; } Ticks;
FN void axis_ticks(const Axis *a, int most, Ticks *t) {
    t->n = 0;
    if (!a->logarithmic) {
        double step = nice_step(a->high - a->low, most);
        for (double v = ceil(a->low / step - 1e-9) * step; v <= a->high + 1e-9 * step && t->n < 16; v += step) {
            t->at[t->n] = v;
            tick_text(t->text[t->n++], 32, fabs(v) < 1e-9 * step ? 0 : v, digits_for(step), 1e4);
        }
        return;
    }
    static const double fine[] = {1, 2, 5};
    double decades = log10(a->high / a->low);
    int every = (int)ceil(decades / most), use = decades * 3 <= most + 1 ? 3 : 1;
    for (int d = (int)floor(log10(a->low)); d <= (int)ceil(log10(a->high)); d += every < 1 ? 1 : every) for (int k = 0; k < use; k++) {
        double v = fine[k] * pow(10, d);
        if (v < a->low || v > a->high || t->n == 16) continue;
        t->at[t->n] = v;
        tick_text(t->text[t->n++], 32, v, d < 0 ? -d : 0, 1e3);
    }
    if (t->n >= 2) return;
    t->n = 2;   // less than a step of 1, 2, 5 wide: the ends
    t->at[0] = a->low; t->at[1] = a->high;
    for (int k = 0; k < 2; k++) tick_text(t->text[k], 32, t->at[k], digits_for(t->at[0]) + 2, 1e3);
}

FN void plot_curve(Html *h, const Curve *c, const Axis *x, const Axis *y) {
    int64_t every = (c->n + PLOT_MOST - 1) / PLOT_MOST;
    bool pen = false;
    if (!c->points) html_raw(h, "<path d=\"");
    for (int64_t i = 0; i < c->n; i += every) {
        double sx = 0, sy = 0;
        int64_t n = 0;
        for (int64_t k = i; k < c->n && k < i + every; k++) if (isfinite(c->y[k]) && isfinite(c->x[k])) { sx += c->x[k]; sy += c->y[k]; n++; }
        if (!n) { pen = false; continue; }   // a gap where the loss was not finite
        double px = axis_at(x, sx / (double)n), py = PLOT_TOP + (PLOT_HEIGHT - PLOT_TOP) * (1 - axis_at(y, sy / (double)n));
        if (c->points) svg_point(h, 100 * px, py, c->style);
        else html_add(h, "%s%.1f %.1f", pen ? "L" : "M", 1000 * px, py);
        pen = true;
    }
    if (!c->points) html_add(h, "\" fill=\"none\" vector-effect=\"non-scaling-stroke\" style=\"stroke:var(--l%d);stroke-width:2%s%s\"/>", html_color(c->style), *svg_dashes[c->style % HTML_SERIES] ? ";stroke-dasharray:" : "", svg_dashes[c->style % HTML_SERIES]);
}

// x_name, y_name and title may be any text
FN void plot_svg(Html *h, const char *title, const char *x_name, const char *y_name, bool logarithmic, const Curve *c, int n) {
    Axis x, y;
    Ticks tx, ty;
    axis_fit(&x, c, n, false, logarithmic);
    axis_fit(&y, c, n, true, logarithmic);
    if (!isfinite(x.low) || !isfinite(y.low)) { html_raw(h, "<p class=\"soft\">No finite number to draw.</p>\n"); return; }
    axis_ticks(&x, 5, &tx);
    axis_ticks(&y, 5, &ty);
    char *about = xprintf("%s over %s: %d curve%s, %s from %s to %s", y_name, x_name, n, n == 1 ? "" : "s", y_name, ty.text[0], ty.text[ty.n - 1]);
    html_raw(h, "<figure><figcaption><b>");
    html_text(h, title);
    html_raw(h, "</b></figcaption>\n<ul class=\"legend\">");
    for (int k = 0; k < n; k++) {
        html_raw(h, "<li><svg width=\"34\" height=\"14\" aria-hidden=\"true\">");
        if (c[k].points) svg_point(h, 50, 7, c[k].style);
        else html_add(h, "<path d=\"M1 7h32\" fill=\"none\" style=\"stroke:var(--l%d);stroke-width:2.5%s%s\"/>", html_color(c[k].style), *svg_dashes[c[k].style % HTML_SERIES] ? ";stroke-dasharray:" : "", svg_dashes[c[k].style % HTML_SERIES]);
        html_raw(h, "</svg>");
        html_text(h, c[k].name);
        html_raw(h, "</li>");
    }
    html_add(h, "</ul>\n<div class=\"plot\"><svg class=\"y\" width=\"%d\" height=\"%d\" aria-hidden=\"true\">", PLOT_LABELS, PLOT_HEIGHT + 24);
    for (int k = 0; k < ty.n; k++) html_add(h, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>", PLOT_LABELS - 6, PLOT_TOP + (PLOT_HEIGHT - PLOT_TOP) * (1 - axis_at(&y, ty.at[k])) + 4, ty.text[k]);
    html_raw(h, "</svg><div class=\"area\">");
    svg_begin(h, 0, PLOT_HEIGHT + 24, title, about);
    for (int k = 0; k < ty.n; k++) {
        double py = PLOT_TOP + (PLOT_HEIGHT - PLOT_TOP) * (1 - axis_at(&y, ty.at[k]));
        html_add(h, "<line x1=\"0\" x2=\"100%%\" y1=\"%.1f\" y2=\"%.1f\" style=\"stroke:var(--line)\"/>", py, py);
    }
    html_add(h, "<line x1=\"0\" x2=\"100%%\" y1=\"%d\" y2=\"%d\" style=\"stroke:var(--edge)\"/>", PLOT_HEIGHT, PLOT_HEIGHT);
    for (int k = 0; k < tx.n; k++) {
        double px = 100 * axis_at(&x, tx.at[k]);
        html_add(h, "<line x1=\"%.2f%%\" x2=\"%.2f%%\" y1=\"%d\" y2=\"%d\" style=\"stroke:var(--edge)\"/><text x=\"%.2f%%\" y=\"%d\" text-anchor=\"%s\">%s</text>", px, px, PLOT_HEIGHT, PLOT_HEIGHT + 4, px, PLOT_HEIGHT + 18,
                 px < 4 ? "start" : px > 96 ? "end" : "middle", tx.text[k]);
    }
    html_add(h, "<svg width=\"100%%\" height=\"%d\" viewBox=\"0 0 1000 %d\" preserveAspectRatio=\"none\">", PLOT_HEIGHT, PLOT_HEIGHT);
    for (int k = 0; k < n; k++) if (!c[k].points) plot_curve(h, &c[k], &x, &y);
    html_raw(h, "</svg>");
    for (int k = 0; k < n; k++) if (c[k].points) plot_curve(h, &c[k], &x, &y);
    svg_end(h);
    html_raw(h, "</div></div>\n<figcaption class=\"soft small\">across: ");
    html_text(h, x_name);
    html_raw(h, "; up: ");
    html_text(h, y_name);
    html_raw(h, "</figcaption></figure>\n");
    free(about);
}

// ---- log.jsonl of train_findap and dpo (findap/log.h): its losses, by name

enum { LOG_SERIES = 48 };
typedef struct {
    char *path;
    Curve curves[LOG_SERIES];        // name: the record's key
    int n;
    char *stages;                    // "group1 from step 1, group2 from step 100"
    int64_t steps, skipped;          // last step; steps that were not taken since their loss was not finite
    bool cut;                        // the last line is not whole: the run goes on, or was killed
} TrainLog;

FN void train_log_free(TrainLog *l) {
    for (int i = 0; i < l->n; i++) curve_free(&l->curves[i]);
    free(l->path); free(l->stages);
    memset(l, 0, sizeof *l);
}

FN void train_log_number(TrainLog *l, const char *key, double step, double value) {
    int k = 0;
    while (k < l->n && strcmp(l->curves[k].name, key) != 0) k++;
    if (k == LOG_SERIES) return;
    Curve *c = &l->curves[k];
    if (k == l->n) { c->name = xstrdup(key); l->n++; }
    while (c->n && c->x[c->n - 1] >= step) c->n--;   // a resumed run makes the steps behind its checkpoint anew
    curve_add(c, step, value);
}

FN bool train_log_record(TrainLog *l, const json_t *j, const char *where, Buffer *stages, Buffer *stage, Error *e) {
    const char *event = NULL, *name = NULL, *key;
    json_t *value;
    int64_t step = 0;
    bool skipped = false;
    if (!json_is_object(j)) return fail(e, "%s: is %s, expected an object", where, json_type_name(j));
    if (!json_get_string(j, "event", where, true, &event, e)) return false;
    if (strcmp(event, "step") != 0 && strcmp(event, "dev") != 0) return true;
    if (!json_get_int(j, "step", where, true, 0, (int64_t)1 << 50, &step, e) || !json_get_string(j, "stage", where, false, &name, e) || !json_get_bool(j, "skipped", where, false, &skipped, e)) return false;
    if (name && (stage->len == 0 || strcmp(stage->data, name) != 0) && stages->len < 4096) {
        char *text = xprintf("%s%s from step %" PRId64, stages->len ? ", " : "", name, step);
        buffer_add(stages, text, (int64_t)strlen(text));
        stage->len = 0;
        buffer_add(stage, name, (int64_t)strlen(name) + 1);
        free(text);
    }
    if (step > l->steps) l->steps = step;
    l->skipped += skipped;
    json_object_foreach((json_t *)j, key, value) {
        if (strncmp(key, "loss_", 5) != 0 && strncmp(key, "dev_loss_", 9) != 0) continue;
        if (!json_is_number(value) && !json_is_null(value)) return fail(e, "%s: \"%s\" is %s, expected a number", where, key, json_type_name(value));
        train_log_number(l, key, (double)step, json_is_null(value) ? NAN : json_number_value(value));
    }
    return true;
}

FN bool train_log_load(const char *path, TrainLog *l, Error *e) {
    memset(l, 0, sizeof *l);
    Mapped m;
    if (!map_file(path, &m, e)) return false;
    Buffer stages = {NULL, 0, 0}, stage = {NULL, 0, 0};
    bool ok = true;
    int64_t line = 0;
    l->path = xstrdup(path);
    for (int64_t at = 0; ok && at < m.size;) {
        const uint8_t *newline = (const uint8_t *)memchr(m.data + at, '\n', (size_t)(m.size - at));
        line++;
        if (!newline) { l->cut = true; break; }
        char *where = xprintf("%s:%" PRId64, path, line);
        json_t *j = json_parse_line(where, (const char *)m.data + at, newline - m.data - at, e);
        ok = j && train_log_record(l, j, where, &stages, &stage, e);
        at = newline + 1 - m.data;
        json_decref(j);
        free(where);
    }
    buffer_add(&stages, "", 1);
    l->stages = xstrdup(stages.data);
    unmap_file(&m);
    buffer_free(&stages); buffer_free(&stage);
    if (ok && l->n == 0) ok = fail(e, "%s: holds no step with a loss ---> is it the log.jsonl of train_findap or dpo?", path);
    if (!ok) train_log_free(l);
    return ok;
}

FN bool curve_of_dev(const Curve *c) { return strncmp(c->name, "dev_", 4) == 0; }
FN bool curve_of_all(const Curve *c) { return strncmp(c->name + (curve_of_dev(c) ? 4 : 0), "loss_nats_per_", 14) == 0; }   // not of one stream
FN char *curve_label(const Curve *c) {
    const char *s = c->name + (curve_of_dev(c) ? 9 : 5), *end = strstr(s, "_nats_per_");
    if (curve_of_all(c)) return xstrdup(curve_of_dev(c) ? "dev" : "training");
    return xprintf("%s%.*s", curve_of_dev(c) ? "dev: " : "", end ? (int)(end - s) : (int)strlen(s), s);
}

// training and dev loss in one plot; the streams, when there are several, in others
FN void train_log_plots(Html *h, const TrainLog *l) {
    Curve some[HTML_SERIES];
    int order[LOG_SERIES], total = 0, n = 0;
    const char *unit = "nats per target";
    for (int k = 0; k < l->n; k++) if (curve_of_all(&l->curves[k])) { order[n++] = k; total++; if (strstr(l->curves[k].name, "_per_pair")) unit = "nats per pair"; }
    for (int dev = 0; dev < 2; dev++) for (int k = 0; k < l->n; k++) if (!curve_of_all(&l->curves[k]) && curve_of_dev(&l->curves[k]) == (dev == 1)) order[n++] = k;
    for (int k = 0; k < n;) {
        bool all = k < total;
        int dev = curve_of_dev(&l->curves[order[k]]), m = 0;
        for (; k < n && m < HTML_SERIES && (k < total) == all && (all || curve_of_dev(&l->curves[order[k]]) == dev); k++, m++) {
            some[m] = l->curves[order[k]];
            some[m].name = curve_label(&some[m]);
            some[m].style = all ? curve_of_dev(&l->curves[order[k]]) : m;
            some[m].points = curve_of_dev(&l->curves[order[k]]) && some[m].n <= 60;
        }
        plot_svg(h, all ? "Loss" : dev ? "Dev loss by stream" : "Training loss by stream", "step", unit, false, some, m);
        for (int i = 0; i < m; i++) free(some[i].name);
    }
}

#endif
