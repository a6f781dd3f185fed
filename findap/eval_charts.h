// eval_charts.h: the pictures of report.html: bars with error bars, differences with intervals, confusion matrices, lengths.
#ifndef FINDAP_EVAL_CHARTS_H
#define FINDAP_EVAL_CHARTS_H
#include "eval_compare.h"   // defines: Comparisons, Comparison
#include "html.h"           // defines: Html, svg_begin, svg_mark

enum { BAR_PITCH = 18, BAR_TOP = 8, BAR_BOTTOM = 10, NUM_SHOWN = 2 };
FN const char *const shown_models[NUM_SHOWN] = {"Llama-Fin", "Llama-3-8B-Instruct"};   // of the published columns, those beside ours; the others are folded away

FN double published_of(const TaskResult *t, const char *model) {   // as printed in the paper: already in per cent where ours is a share
    const json_t *j = t && t->published ? json_object_get(t->published, model) : NULL;
    return json_is_number(j) ? json_number_value(j) : NAN;
}

// ---- bars

typedef struct {
    const char *title, *about;     // any text
    double unit;
    Estimate *values;              // (n) one a run; NAN: not run
    int n;
    double majority, random, published[NUM_SHOWN];   // published: in shown units
} BarRow;

FN void bar_scale(const BarRow *r, double *low, double *high) {   // of what is shown
    double most = 0, least = 0;
    for (int i = 0; i < r->n; i++) {
        const Estimate *v = &r->values[i];
        if (!isfinite(v->value)) continue;
        most = fmax(most, fmax(v->value, isfinite(v->high) ? v->high : v->value));
        least = fmin(least, fmin(v->value, isfinite(v->low) ? v->low : v->value));
    }
    if (isfinite(r->majority)) { most = fmax(most, r->majority); least = fmin(least, r->majority); }
    if (isfinite(r->random)) { most = fmax(most, r->random); least = fmin(least, r->random); }
    most *= r->unit; least *= r->unit;
    for (int k = 0; k < NUM_SHOWN; k++) if (isfinite(r->published[k])) { most = fmax(most, r->published[k]); least = fmin(least, r->published[k]); }
    *low = least < 0 ? floor(least / 10) * 10 : 0;
    *high = 100;
    if (r->unit == 1) {
        double step = nice_step(most > 0 ? most : 1, 4);
        *high = ceil(most / step - 1e-9) * step;
        if (!(*high > 0)) *high = step;
        if (least < 0) *low = floor(least / step) * step;
    }
}

FN void bar_values(Html *h, const BarRow *r, bool published) {
    html_raw(h, "<div class=\"vals\">");
    for (int i = 0; i < r->n; i++) {
        const Estimate *v = &r->values[i];
        html_raw(h, "<div>");
        html_number(h, v->value * r->unit, r->unit == 1 ? 3 : 1, false);
        if (isfinite(v->value) && isfinite(v->error)) { html_raw(h, " <span class=\"pm\">\xC2\xB1 "); html_number(h, v->error * r->unit, r->unit == 1 ? 3 : 1, false); html_raw(h, "</span>"); }
        html_raw(h, "</div>");
    }
    if (published) {
        html_raw(h, "<div class=\"pm\">");
        for (int k = 0; k < NUM_SHOWN; k++) {
            html_raw(h, k ? " \xE2\x97\x87\xC2\xA0" : "\xE2\x97\x86\xC2\xA0");
            html_number(h, r->published[k], r->unit == 1 ? 2 : 1, false);
        }
        html_raw(h, "</div>");
    }
    html_raw(h, "</div>");
}

FN void bar_row(Html *h, const BarRow *r, char *const *labels) {
    double low, high;
    bool published = false;
    for (int k = 0; k < NUM_SHOWN; k++) published = published || isfinite(r->published[k]);
    bar_scale(r, &low, &high);
    bool odd = low != 0 || high != 100;
    double span = high - low, bottom = BAR_TOP + BAR_PITCH * r->n, lanes = bottom + (published ? BAR_PITCH + 2 : 0), zero = 100 * (0 - low) / span;
    Html about;
    memset(&about, 0, sizeof about);
    for (int i = 0; i < r->n; i++) {
        char *text = xprintf("%s%s %s", i ? ", " : "", labels[i], shown(r->values[i].value * r->unit, r->unit == 1 ? 3 : 1).text);
        html_raw(&about, text);
        free(text);
    }
    html_add(&about, "; majority %s, random %s", shown(r->majority * r->unit, 1).text, shown(r->random * r->unit, 1).text);
    buffer_add(&about.b, "", 1);
    html_raw(h, "<div class=\"bars\"><div class=\"what\"><b>");
    html_text(h, r->title);
    html_raw(h, "</b><div class=\"soft small\">");
    html_text(h, r->about);
    html_raw(h, "</div></div>");
    svg_begin(h, 0, lanes + BAR_BOTTOM + (odd ? 14 : 0), r->title, about.b.data);
    buffer_free(&about.b);
    for (int k = 0; k <= 4; k++) {
        double x = odd ? (k == 0 ? 0 : k == 4 ? 100 : NAN) : 25 * k;
        if (isfinite(x)) html_add(h, "<line x1=\"%g%%\" x2=\"%g%%\" y1=\"0\" y2=\"%g\" style=\"stroke:var(--line)\"/>", x, x, lanes + 4);
    }
    for (int i = 0; i < r->n; i++) {
        const Estimate *v = &r->values[i];
        double y = BAR_TOP + BAR_PITCH * i + 2, at = 100 * (v->value * r->unit - low) / span;
        if (!isfinite(v->value)) { html_add(h, "<text x=\"%.3f%%\" dx=\"4\" y=\"%g\">not run</text>", zero, y + 11); continue; }
        html_add(h, "<rect x=\"%.3f%%\" y=\"%g\" width=\"%.3f%%\" height=\"13\" style=\"fill:url(#s%d);stroke:var(--edge);stroke-width:1\"/>", fmin(at, zero), y, fabs(at - zero), html_fill(i));
        if (!isfinite(v->low) || !isfinite(v->high)) continue;
        double a = fmax(0, 100 * (v->low * r->unit - low) / span), b = fmin(100, 100 * (v->high * r->unit - low) / span);
        svg_line(h, a, y + 6.5, b, y + 6.5, "");
        html_add(h, "<line x1=\"%.3f%%\" x2=\"%.3f%%\" y1=\"%g\" y2=\"%g\" style=\"stroke:var(--ink);stroke-width:1.5\"/><line x1=\"%.3f%%\" x2=\"%.3f%%\" y1=\"%g\" y2=\"%g\" style=\"stroke:var(--ink);stroke-width:1.5\"/>", a, a, y + 3, y + 10, b, b, y + 3, y + 10);
    }
    html_add(h, "<line x1=\"%.3f%%\" x2=\"%.3f%%\" y1=\"%d\" y2=\"%g\" style=\"stroke:var(--edge)\"/>", zero, zero, BAR_TOP - 2, lanes);
    if (isfinite(r->majority)) {
        double x = 100 * (r->majority * r->unit - low) / span;
        svg_line(h, x, BAR_TOP - 2, x, bottom, "");
        svg_mark(h, x, 0, "M-5 0h10l-5 7z", "fill:var(--ink)");
    }
    if (isfinite(r->random)) {
        double x = 100 * (r->random * r->unit - low) / span;
        svg_line(h, x, BAR_TOP, x, bottom + 1, "3 2");
        svg_mark(h, x, bottom + 4, "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z", "fill:var(--bg);stroke:var(--ink);stroke-width:1.5");
    }
    for (int k = NUM_SHOWN - 1; k >= 0; k--) if (isfinite(r->published[k]))
        svg_mark(h, fmin(100, fmax(0, 100 * (r->published[k] - low) / span)), bottom + 15, "M0-5.5l5.5 5.5-5.5 5.5-5.5-5.5z", k ? "fill:none;stroke:var(--ink);stroke-width:1.5" : "fill:var(--ink)");
    if (odd) {   // not the axis above
        int d = r->unit == 1 && high < 10 ? 1 : 0;
        html_add(h, "<text x=\"0\" y=\"%g\">", lanes + BAR_BOTTOM + 10);
        html_number(h, low, d, false);
        html_add(h, "</text><text x=\"100%%\" y=\"%g\" text-anchor=\"end\">", lanes + BAR_BOTTOM + 10);
        html_number(h, high, d, false);
        html_raw(h, "</text>");
    }
    svg_end(h);
    bar_values(h, r, published);
    html_raw(h, "</div>\n");
}

FN void bar_axis(Html *h) {   // above a group of bars
    html_raw(h, "<div class=\"bars axis\" aria-hidden=\"true\"><div class=\"what\"></div><svg width=\"100%\" height=\"16\"><text x=\"0\" y=\"12\">0</text><text x=\"25%\" y=\"12\" text-anchor=\"middle\">25</text>"
                "<text x=\"50%\" y=\"12\" text-anchor=\"middle\">50</text><text x=\"75%\" y=\"12\" text-anchor=\"middle\">75</text><text x=\"100%\" y=\"12\" text-anchor=\"end\">100</text></svg><div></div></div>\n");
}

// what the runs look like; bars: what else is in a row of bars
FN void run_legend(Html *h, char *const *labels, int n, bool points, bool bars, bool published) {
    html_raw(h, "<ul class=\"legend\">");
    for (int i = points ? 1 : 0; i < n; i++) {
        html_raw(h, "<li><svg width=\"26\" height=\"15\" aria-hidden=\"true\">");
        if (points) svg_point(h, 50, 7.5, i);
        else html_add(h, "<rect x=\"1\" y=\"1\" width=\"24\" height=\"13\" style=\"fill:url(#s%d);stroke:var(--edge)\"/>", html_fill(i));
        html_raw(h, "</svg>");
        html_text(h, labels[i]);
        html_raw(h, "</li>");
    }
    if (bars) {
        html_raw(h, "<li><svg width=\"26\" height=\"15\" aria-hidden=\"true\">");
        svg_line(h, 8, 7.5, 92, 7.5, "");
        html_raw(h, "<line x1=\"8%\" x2=\"8%\" y1=\"3\" y2=\"12\" style=\"stroke:var(--ink);stroke-width:1.5\"/><line x1=\"92%\" x2=\"92%\" y1=\"3\" y2=\"12\" style=\"stroke:var(--ink);stroke-width:1.5\"/></svg>95 % interval</li><li><svg width=\"14\" height=\"15\" aria-hidden=\"true\">");
        svg_line(h, 50, 3, 50, 15, "");
        svg_mark(h, 50, 0, "M-5 0h10l-5 7z", "fill:var(--ink)");
        html_raw(h, "</svg>most frequent answer each time</li><li><svg width=\"14\" height=\"15\" aria-hidden=\"true\">");
        svg_line(h, 50, 0, 50, 10, "3 2");
        svg_mark(h, 50, 11, "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z", "fill:var(--bg);stroke:var(--ink);stroke-width:1.5");
        html_raw(h, "</svg>guessing</li>");
    }
    for (int k = 0; published && k < NUM_SHOWN; k++) {
        html_raw(h, "<li><svg width=\"14\" height=\"15\" aria-hidden=\"true\">");
        svg_mark(h, 50, 7.5, "M0-5.5l5.5 5.5-5.5 5.5-5.5-5.5z", k ? "fill:none;stroke:var(--ink);stroke-width:1.5" : "fill:var(--ink)");
        html_add(h, "</svg>%s, as published</li>", shown_models[k]);
    }
    html_raw(h, "</ul>\n");
}

// ---- differences to the first run: a lane a run, its interval and a point, zero in the middle

FN double forest_reach(const Comparisons *c, bool general) {
    double most = 0;
    for (int64_t i = 0; i < c->n; i++) {
        const Comparison *x = &c->items[i];
        if (x->a->general != general || x->unit != 100) continue;
        most = fmax(most, fmax(fabs(x->d.difference), fmax(isfinite(x->d.low) ? fabs(x->d.low) : 0, isfinite(x->d.high) ? fabs(x->d.high) : 0)));
    }
    double step = nice_step(100 * most, 4);
    return most > 0 ? ceil(100 * most / step - 1e-9) * step : 1;
}
FN void forest_axis(Html *h, double reach) {
    int d = digits_for(reach / 2);
    html_raw(h, "<div class=\"bars wide axis\" aria-hidden=\"true\"><div class=\"what\"></div><svg width=\"100%\" height=\"16\">");
    for (int k = -2; k <= 2; k++) {
        html_add(h, "<text x=\"%d%%\" y=\"12\" text-anchor=\"%s\">", 50 + 25 * k, k == -2 ? "start" : k == 2 ? "end" : "middle");
        html_number(h, reach * k / 2, d, true);
        html_raw(h, "</text>");
    }
    html_raw(h, "</svg><div class=\"vals\"></div></div>\n");
}
FN void forest_row(Html *h, const Comparisons *c, const TaskResult *t, double reach, char *const *labels) {
    int runs = c->num_runs, there = 0;
    Html about;
    memset(&about, 0, sizeof about);
    for (int r = 1; r < runs; r++) {
        const Comparison *x = comparison_find(c, t->id, r);
        if (!x) continue;
        char *text = xprintf("%s%s %s, 95 %% interval %s to %s", there++ ? "; " : "", labels[r], shown_signed(x->d.difference * x->unit, 2).text, shown_signed(x->d.low * x->unit, 2).text, shown_signed(x->d.high * x->unit, 2).text);
        html_raw(&about, text);
        free(text);
    }
    buffer_add(&about.b, "", 1);
    if (there) {
        html_raw(h, "<div class=\"bars wide\"><div class=\"what\"><b>");
        html_text(h, t->title);
        html_raw(h, "</b> <span class=\"soft small\">");
        html_text(h, t->metric);
        html_raw(h, "</span></div>");
        svg_begin(h, 0, BAR_TOP + BAR_PITCH * (runs - 1), t->title, about.b.data);
        for (int k = 0; k <= 4; k++) html_add(h, "<line x1=\"%d%%\" x2=\"%d%%\" y1=\"0\" y2=\"%d\" style=\"stroke:var(--%s)\"/>", 25 * k, 25 * k, BAR_TOP + BAR_PITCH * (runs - 1), k == 2 ? "edge" : "line");
        for (int r = 1; r < runs; r++) {
            const Comparison *x = comparison_find(c, t->id, r);
            double y = BAR_TOP + BAR_PITCH * (r - 1) + 9;
            if (x && x->unit != 100 && r == 1) html_add(h, "<text x=\"51%%\" y=\"%g\">in its own unit: not drawn</text>", y + 4);
            if (!x || x->unit != 100) continue;
            if (isfinite(x->d.low) && isfinite(x->d.high)) svg_line(h, 50 + 5000 * x->d.low / reach, y, 50 + 5000 * x->d.high / reach, y, "");
            svg_point(h, 50 + 5000 * x->d.difference / reach, y, r);
        }
        svg_end(h);
        html_raw(h, "<div class=\"vals\">");
        for (int r = 1; r < runs; r++) {
            const Comparison *x = comparison_find(c, t->id, r);
            html_raw(h, "<div>");
            if (x) {
                int d = x->unit == 1 ? 3 : 1, verdict = comparison_verdict(x);
                html_number(h, x->d.difference * x->unit, d, true);
                html_raw(h, " <span class=\"pm\">[");
                html_number(h, x->d.low * x->unit, d, true);
                html_raw(h, ", ");
                html_number(h, x->d.high * x->unit, d, true);
                html_add(h, "]%s</span>%s", x->test == TEST_UNPAIRED ? "\xC2\xB9" : "", verdict > 0 ? " <b>better</b>" : verdict < 0 ? " <b>worse</b>" : "");
            } else html_raw(h, "\xE2\x80\x93");
            html_raw(h, "</div>");
        }
        html_raw(h, "</div></div>\n");
    }
    buffer_free(&about.b);
}

// ---- what a task's answers look like

enum { CONFUSION_MOST = 60 };
FN void confusion_table(Html *h, const TaskResult *t, const char *label) {
    int64_t k = t->num_labels;
    bool names = k <= 4;
    html_raw(h, k > 12 ? "<figure style=\"flex-basis:100%\"><figcaption><b>" : "<figure><figcaption><b>");
    html_text(h, label);
    html_raw(h, "</b><div class=\"soft small\">across: the answer, down: the gold one</div></figcaption>\n");
    if (k > CONFUSION_MOST) { html_add(h, "<p class=\"soft\">%" PRId64 " labels: too many for a table; they are in results.json.</p></figure>\n", k); return; }
    html_raw(h, "<div class=\"box\" tabindex=\"0\"><table class=\"heat pin small\"><thead><tr><th scope=\"col\" class=\"name\">gold</th>");
    for (int64_t j = 0; j < k; j++) {
        html_raw(h, "<th scope=\"col\" class=\"n\">");
        if (names) html_text(h, json_string_value(json_array_get(t->labels, (size_t)j))); else html_add(h, "%" PRId64, j + 1);
        html_raw(h, "</th>");
    }
    html_raw(h, "<th scope=\"col\" class=\"n\">none</th></tr></thead><tbody>\n");
    for (int64_t i = 0; i < k; i++) {
        int64_t sum = 0;
        for (int64_t j = 0; j <= k; j++) sum += t->confusion[i * (k + 1) + j];
        html_raw(h, "<tr><th scope=\"row\" class=\"name\">");
        if (!names) html_add(h, "%" PRId64 " ", i + 1);
        html_text(h, json_string_value(json_array_get(t->labels, (size_t)i)));
        html_raw(h, "</th>");
        for (int64_t j = 0; j <= k; j++) {   // the ground is the share of the gold label's rows, at most so dark that text stays readable
            int64_t v = t->confusion[i * (k + 1) + j];
            if (v == 0 && k > 12) html_raw(h, i == j ? "<td class=\"n hit\"></td>" : "<td></td>");   // most cells of a large one: numbers are found more easily without
            else html_add(h, "<td class=\"n%s\" style=\"--v:%.3f\">%" PRId64 "</td>", i == j ? " hit" : "", sum ? 0.5 * (double)v / (double)sum : 0, v);
        }
        html_raw(h, "</tr>\n");
    }
    html_raw(h, "</tbody></table></div></figure>\n");
}

FN void length_histogram(Html *h, const TaskResult *t, const char *label, int run) {
    int64_t total = 0, most = 0, last = 0;
    for (int64_t i = 0; i < t->bins; i++) { total += t->lengths[i]; if (t->lengths[i] > most) most = t->lengths[i]; if (t->lengths[i]) last = i; }
    if (!total) return;
    int64_t n = last + 1;
    double width = 100.0 / (double)n;
    char *about = xprintf("lengths of %" PRId64 " outputs in tokens, %g to %g", total, t->edges[0], t->edges[n]);
    html_raw(h, "<figure><figcaption><b>");
    html_text(h, label);
    html_raw(h, "</b><div class=\"soft small\">tokens an output");
    if (isfinite(t->overlength)) { html_raw(h, "; reached the cap: "); html_number(h, 100 * t->overlength, 1, false); html_raw(h, " %"); }
    html_raw(h, "</div></figcaption>\n");
    svg_begin(h, 0, 96, label, about);
    for (int64_t i = 0; i < n; i++) {
        double y = 66.0 * (double)t->lengths[i] / (double)most;
        if (t->lengths[i]) html_add(h, "<rect x=\"%.3f%%\" y=\"%.1f\" width=\"%.3f%%\" height=\"%.1f\" style=\"fill:url(#s%d);stroke:var(--edge)\"/>", width * (double)i, 76 - y, width, y, html_fill(run));
    }
    html_raw(h, "<line x1=\"0\" x2=\"100%\" y1=\"76\" y2=\"76\" style=\"stroke:var(--edge)\"/>");
    html_add(h, "<text x=\"0\" y=\"91\">%g</text>", t->edges[0]);
    if (n > 1) html_add(h, "<text x=\"%.3f%%\" y=\"91\" text-anchor=\"middle\">%g</text>", width * (double)(n / 2), t->edges[n / 2]);
    if (isfinite(t->edges[n])) html_add(h, "<text x=\"100%%\" y=\"91\" text-anchor=\"end\">%g</text>", t->edges[n]);
    else html_add(h, "<text x=\"100%%\" y=\"91\" text-anchor=\"end\">%g and more</text>", t->edges[n - 1]);
    html_add(h, "<text x=\"100%%\" y=\"9\" text-anchor=\"end\">highest bar: %" PRId64 "</text>", most);
    svg_end(h);
    html_raw(h, "</figure>\n");
    free(about);
}

#endif
