// text_table.h: a table for a terminal that is Markdown at the same time, as people know it from lm-evaluation-harness: paste it into an issue and it is a table there too.
// Cells may come from files, so what could move the cursor or make a column of its own is shown, not obeyed.
#ifndef FINDAP_TEXT_TABLE_H
#define FINDAP_TEXT_TABLE_H
#include "terminal.h"   // defines: terminal_text, utf8proc_iterate

typedef struct {
    const char *align;   // a letter a column: l, r
    char **cells;        // row by row, the first is the head
    int64_t n, cap;
} TextTable;

FN void table_free(TextTable *t) {
    for (int64_t i = 0; i < t->n; i++) free(t->cells[i]);
    free(t->cells);
    memset(t, 0, sizeof *t);
}

__attribute__((format(printf, 2, 3)))
FN void table_cell(TextTable *t, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    char *raw = xvprintf(format, ap);
    va_end(ap);
    Buffer b = {NULL, 0, 0};
    terminal_text(raw, (int64_t)strlen(raw), true, &b);
    for (int64_t i = 0; i < b.len; i++) if (b.data[i] == '|' || b.data[i] == '\n' || b.data[i] == '\t') b.data[i] = b.data[i] == '|' ? '/' : ' ';
    buffer_add(&b, "", 1);
    free(raw);
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 64;
        t->cells = (char **)xrealloc(t->cells, t->cap, sizeof(char *));
    }
    t->cells[t->n++] = b.data;
}

FN int64_t text_columns(const char *s) {   // that `s` takes on a terminal
    int64_t columns = 0;
    utf8proc_int32_t c;
    for (utf8proc_ssize_t k; *s && (k = utf8proc_iterate((const utf8proc_uint8_t *)s, -1, &c)) > 0; s += k) columns += utf8proc_charwidth(c);
    return columns;
}

FN void table_print(const TextTable *t, FILE *f) {
    int64_t columns = (int64_t)strlen(t->align);
    CHECK(columns > 0 && t->n % columns == 0);
    int64_t *width = (int64_t *)xcalloc(columns, sizeof(int64_t));
    for (int64_t i = 0; i < columns; i++) width[i] = t->align[i] == 'r' ? 2 : 0;   // the line under what stands right is -: at least
    for (int64_t i = 0; i < t->n; i++) { int64_t w = text_columns(t->cells[i]); if (w > width[i % columns]) width[i % columns] = w; }
    for (int64_t i = 0; i < t->n; i++) {
        int64_t c = i % columns, pad = width[c] - text_columns(t->cells[i]);
        bool right = t->align[c] == 'r';
        fprintf(f, "|%*s%s%*s", right ? (int)pad : 0, "", t->cells[i], right ? 0 : (int)pad, "");
        if (c == columns - 1) fputs("|\n", f);
        if (i != columns - 1) continue;
        for (int64_t k = 0; k < columns; k++) {
            fputc('|', f);
            for (int64_t j = 0; j < width[k]; j++) fputc(t->align[k] == 'r' && j == width[k] - 1 ? ':' : '-', f);
        }
        fputs("|\n", f);
    }
    free(width);
}

#endif
