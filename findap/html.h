// html.h: a page in one file - text, tables and SVG, no script, nothing from elsewhere - that is read on a phone as well as on a desk, in light and dark.
//
// What is shown comes from files, so all text goes through html_text; the page's own Content-Security-Policy forbids scripts and requests, should that ever be forgotten once.
//
// Charts use percent for x and pixels for y, so they take whatever width there is while their text stays as large as the page's. Runs differ by colour (Okabe and Ito's, which
// the usual colour-vision deficiencies keep apart), by pattern in bars, by shape of points and by dashes of lines: no chart needs colours to be read.
#ifndef FINDAP_HTML_H
#define FINDAP_HTML_H
#include "terminal.h"   // defines: terminal_text

enum { HTML_SERIES = 6 };   // colours, patterns, shapes, dashes; the next ones repeat colours with other patterns

typedef struct { Buffer b; int ids; } Html;

FN void html_raw(Html *h, const char *s) { buffer_add(&h->b, s, (int64_t)strlen(s)); }

__attribute__((format(printf, 2, 3)))
FN void html_add(Html *h, const char *format, ...) {   // markup and numbers of our own
    va_list ap;
    va_start(ap, format);
    char *s = xvprintf(format, ap);
    va_end(ap);
    html_raw(h, s);
    free(s);
}

FN void html_textn(Html *h, const char *s, size_t n) {   // anything else; what hides or reorders text becomes visible, as on a terminal
    Buffer plain = {NULL, 0, 0};
    terminal_text(s, (int64_t)n, true, &plain);
    for (int64_t i = 0; i < plain.len; i++) {
        char c = plain.data[i];
        const char *entity = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&quot;" : c == '\'' ? "&#39;" : NULL;
        if (entity) html_raw(h, entity); else buffer_add(&h->b, &c, 1);
    }
    buffer_free(&plain);
}
FN void html_text(Html *h, const char *s) { html_textn(h, s, strlen(s)); }

__attribute__((format(printf, 2, 3)))
FN void html_textf(Html *h, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    char *s = xvprintf(format, ap);
    va_end(ap);
    html_text(h, s);
    free(s);
}

// a number as people read it: U+2212 for minus, an en dash where it is not known
FN void html_number(Html *h, double x, int digits, bool sign) {
    char s[64];
    if (!isfinite(x)) { html_raw(h, "\xE2\x80\x93"); return; }
    snprintf(s, sizeof s, "%.*f", digits, fabs(x));
    bool zero = strspn(s, "0.") == strlen(s);
    html_raw(h, zero ? "" : x < 0 ? "\xE2\x88\x92" : sign ? "+" : "");
    html_raw(h, s);
}

// ---- the page

// Contrast of text on its ground is 4.5 at least, in both schemes; of lines (--l) and of the outlines of bars and points (--edge, --ink) 3. test_report.c computes them.
FN const char html_style[] =
    ":root{color-scheme:light dark;--bg:#fff;--ink:#1b1e22;--soft:#4d545d;--line:#c6ccd4;--edge:#737b86;--box:#f3f5f7;--link:#005a94;--heat:0,114,178;"
    "--c0:#0072b2;--c1:#e69f00;--c2:#009e73;--c3:#cc79a7;--c4:#d55e00;--c5:#56b4e9;--l0:#0072b2;--l1:#b07800;--l2:#008561;--l3:#b1588a;--l4:#c25500;--l5:#2f8abf}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14171b;--ink:#e9ebee;--soft:#b4bbc4;--line:#3d444d;--edge:#8f98a3;--box:#1d2127;--link:#7cc0f2;--heat:86,180,233;"
    "--c0:#3f9fe0;--c1:#e8a723;--c2:#22b58b;--c3:#d68fb8;--c4:#e8752a;--c5:#9bd3f5;--l0:#3f9fe0;--l1:#e8a723;--l2:#22b58b;--l3:#d68fb8;--l4:#e8752a;--l5:#9bd3f5}}\n"
    "*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}\n"
    "body{margin:0 auto;padding:16px;max-width:1180px;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,\"Segoe UI\",Roboto,\"Liberation Sans\",sans-serif;overflow-wrap:anywhere}\n"
    "h1{font-size:1.6em;line-height:1.25;margin:.3em 0}h2{font-size:1.25em;margin:2em 0 .4em;padding-top:.5em;border-top:2px solid var(--line)}h3{font-size:1.05em;margin:1.4em 0 .3em}\n"
    "p,ul{max-width:76ch}p{margin:.5em 0}a{color:var(--link)}code{font:.9em ui-monospace,\"DejaVu Sans Mono\",monospace}.soft{color:var(--soft)}.small{font-size:.87em}\n"
    "nav{display:flex;flex-wrap:wrap;gap:.2em 1.1em;margin:.8em 0}nav a{padding:.2em 0}\n"
    ".box{overflow-x:auto;border:1px solid var(--line);border-radius:6px;margin:.6em 0;max-width:100%}\n"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%;font-size:.95em}th,td{padding:.3em .55em;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);overflow-wrap:normal}\n"
    "tbody tr:last-child>*{border-bottom:0}thead th{background:var(--box);font-weight:600;vertical-align:bottom}th[scope=row]{font-weight:500}tr.group>*{background:var(--box);font-weight:600}\n"
    ".n{text-align:right;white-space:nowrap}.name{min-width:15em;max-width:26em;overflow-wrap:anywhere}.path{min-width:7em;max-width:22em;overflow-wrap:anywhere}.stick{position:sticky;left:.55em;display:inline-block}.pin th:first-child{position:sticky;left:0;background:var(--bg);border-right:1px solid var(--line);z-index:1}.pin thead th:first-child,.pin tr.group>:first-child{background:var(--box)}.pin tr.group>[colspan]{position:static;border-right:0}\n"
    ".pm{color:var(--soft);font-size:.85em}\n"
    "svg{display:block;overflow:visible}svg text{fill:var(--soft);font:12px system-ui,-apple-system,\"Segoe UI\",Roboto,\"Liberation Sans\",sans-serif;font-variant-numeric:tabular-nums}\n"
    ".legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3em 1.3em;margin:.6em 0;padding:0;max-width:none}.legend li{display:flex;align-items:center;gap:.5em}.legend svg{flex:none}\n"
    ".bars{display:grid;grid-template-columns:minmax(0,14em) minmax(0,1fr) 7.4em;column-gap:12px;align-items:start;padding:9px 0;border-top:1px solid var(--line)}.bars.axis{border:0;padding:0}\n"
    ".bars .what{line-height:1.3}.bars .vals>div{height:18px}.bars .vals{line-height:18px;padding-top:8px;text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.wide{grid-template-columns:minmax(0,14em) minmax(0,1fr) 17em}\n"
    "details{border:1px solid var(--line);border-radius:6px;margin:.5em 0;padding:0 .7em}summary{cursor:pointer;padding:.5em 0}details[open]{padding-bottom:.7em}details .box{margin:.4em 0}\n"
    ".cols{display:flex;flex-wrap:wrap;gap:14px 24px}.cols>*{flex:1 1 300px;min-width:0;max-width:100%}figure{margin:.8em 0}figcaption{margin:.2em 0}\n"
    ".plot{display:flex}.plot .y{flex:none}.plot .area{flex:1 1 0;min-width:0}.note{border-left:4px solid var(--c4);padding:.1em .8em;margin:.7em 0}\n"
    ".heat td.n{background:rgba(var(--heat),var(--v,0))}.heat td.hit{box-shadow:inset 0 0 0 2px var(--edge)}.heat .name{min-width:7em}\n"
    "@media(max-width:640px){body{padding:12px}.bars,.wide{grid-template-columns:minmax(0,1fr) 7.4em}.wide{grid-template-columns:minmax(0,1fr)}.bars .what{grid-column:1/-1}.bars.axis .what{display:none}.wide .vals{padding-top:0;text-align:left}.wide.axis .vals{display:none}.name{max-width:11em;min-width:8.5em}}\n"
    "@media print{details:not([open])>*{display:block}.box{overflow:visible}}\n";

// patterns of bars, one a series: solid, rising lines, dots, lying lines, falling lines, upright lines
FN void html_patterns(Html *h) {
    static const char *const marks[HTML_SERIES] = {"", "<path d=\"M-2 2l4-4M0 8l8-8M6 10l4-4\"/>", "<circle cx=\"2\" cy=\"2\" r=\"1.4\"/><circle cx=\"6\" cy=\"6\" r=\"1.4\"/>", "<path d=\"M0 2h8M0 6h8\"/>",
        "<path d=\"M-2 6l4 4M0 0l8 8M6-2l4 4\"/>", "<path d=\"M2 0v8M6 0v8\"/>"};
    html_raw(h, "<svg width=\"0\" height=\"0\" style=\"position:absolute\" aria-hidden=\"true\"><defs>");
    for (int c = 0; c < HTML_SERIES; c++) for (int p = 0; p < HTML_SERIES; p++) {
        html_add(h, "<pattern id=\"s%d\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\"><rect width=\"8\" height=\"8\" style=\"fill:var(--bg)\"/><rect width=\"8\" height=\"8\" style=\"fill:var(--c%d);opacity:%s\"/>", p * HTML_SERIES + c, c, p ? ".3" : "1");
        html_add(h, "<g style=\"%s:var(--c%d);stroke-width:1.8\">%s</g></pattern>", p == 2 ? "fill" : "stroke", c, marks[p]);
    }
    html_raw(h, "</defs></svg>\n");
}
FN int html_fill(int run) { return (run / HTML_SERIES + run) % HTML_SERIES * HTML_SERIES + run % HTML_SERIES; }   // the pattern's number: the seventh run has the first's colour and another pattern
FN int html_color(int run) { return run % HTML_SERIES; }

FN void html_begin(Html *h, const char *title) {
    memset(h, 0, sizeof *h);
    html_raw(h, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n<meta name=\"referrer\" content=\"no-referrer\">\n<title>");
    html_text(h, title);
    html_raw(h, "</title>\n<style>\n");
    html_raw(h, html_style);
    html_raw(h, "</style>\n</head>\n<body>\n");
    html_patterns(h);
}
FN bool html_write(Html *h, const char *path, Error *e) {   // the old page stays until the new one is whole; what is no page stays altogether
    static const char begins[] = "<!doctype html";
    Mapped old;
    Error none;
    if (file_exists(path) && !is_directory(path) && map_file(path, &old, &none)) {
        const bool page = old.size == 0 || (old.size >= (int64_t)strlen(begins) && strncasecmp((const char *)old.data, begins, strlen(begins)) == 0);
        unmap_file(&old);
        if (!page) return fail(e, "%s: is there and is no page ---> another name, or remove it first", path);
    }
    html_raw(h, "</body>\n</html>\n");
    return write_file(path, h->b.data, h->b.len, e);
}

// ---- SVG

// an image of `height` pixels and any width; title and description are for those who don't see it. `title` is any text, `description` likewise
FN void svg_begin(Html *h, int width, double height, const char *title, const char *description) {   // width 0: all there is
    int id = h->ids++;
    char size[32] = "100%";
    if (width) snprintf(size, sizeof size, "%d", width);
    html_add(h, "<svg width=\"%s\" height=\"%g\" role=\"img\" aria-labelledby=\"t%d d%d\"><title id=\"t%d\">", size, height, id, id, id);
    html_text(h, title);
    html_add(h, "</title><desc id=\"d%d\">", id);
    html_text(h, description);
    html_raw(h, "</desc>");
}
FN void svg_end(Html *h) { html_raw(h, "</svg>"); }

// a vertical or lying line with a halo, so that it is seen on any bar
FN void svg_line(Html *h, double x0, double y0, double x1, double y1, const char *dash) {   // x in per cent, y in pixels
    html_add(h, "<line x1=\"%.3f%%\" y1=\"%g\" x2=\"%.3f%%\" y2=\"%g\" style=\"stroke:var(--bg);stroke-width:4\"/>", x0, y0, x1, y1);
    html_add(h, "<line x1=\"%.3f%%\" y1=\"%g\" x2=\"%.3f%%\" y2=\"%g\" style=\"stroke:var(--ink);stroke-width:1.5%s%s\"/>", x0, y0, x1, y1, *dash ? ";stroke-dasharray:" : "", dash);
}
// a path of pixels around (x per cent, y)
FN void svg_mark(Html *h, double x, double y, const char *path, const char *style) {
    html_add(h, "<svg x=\"%.3f%%\" y=\"%g\" width=\"1\" height=\"1\" overflow=\"visible\"><path d=\"%s\" style=\"%s\"/></svg>", x, y, path, style);
}
FN const char *const svg_shapes[HTML_SERIES] = {"M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z", "M-4.5-4.5h9v9h-9z", "M0-6l5.5 10h-11z", "M0-6l6 6-6 6-6-6z", "M0 6l5.5-10h-11z", "M-5-2h3v-3h4v3h3v4h-3v3h-4v-3h-3z"};
FN void svg_point(Html *h, double x, double y, int run) {
    char style[96];
    snprintf(style, sizeof style, "fill:var(--c%d);stroke:var(--ink);stroke-width:1", html_color(run));
    svg_mark(h, x, y, svg_shapes[(run + run / HTML_SERIES) % HTML_SERIES], style);
}
FN const char *const svg_dashes[HTML_SERIES] = {"", "7 3", "2 3", "9 3 2 3", "4 4", "12 4"};

FN double nice_step(double span, int most) {   // the least of 1, 2, 5 x 10^k that cuts `span` into at most so many
    if (!(span > 0) || !isfinite(span)) return 1;
    double p = pow(10, floor(log10(span / most)));
    static const double steps[] = {1, 2, 5, 10, 20};
    for (int i = 0; i < 4; i++) if (span / (p * steps[i]) <= most) return p * steps[i];
    return p * 20;
}
FN int digits_for(double step) { int d = step > 0 ? (int)ceil(-log10(step) - 1e-9) : 0; return d < 0 ? 0 : d > 9 ? 9 : d; }

#endif
