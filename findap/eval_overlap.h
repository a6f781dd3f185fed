// eval_overlap.h: which test rows stand in the training data. A score on rows that were trained on is a score of memory, and sets that are called by other names share their
// sources: FinGPT's sentiment data holds three quarters of the sentences that FPB's test part draws from.
//
// Text is compared by its words and letters alone: compatibility forms and case are folded, everything but letters and digits divides words. Three kinds of window are hashed:
//     words   13 words in a row
//     chars   50 letters and digits in a row, whatever stands between them (a sentence cut into tokens is still the same sentence)
//     whole   a whole text of at least 20 letters, which may be too short for a window: a field, or what stands behind "Text:" or "Question:" on a line
// The windows of the test rows are kept in one table of hashes; the training data streams past it once for each batch of test files that fits into --memory. A window that more than
// some rows of its own file share (overlap_limit) is the prompt around the row, not the row, and counts for nothing. A hit is told by hash: among 10^8 windows kept and 10^10
// that stream past, less than one in ten runs would have a single false one. A window that reaches into such a prompt doesn't count either: half of it says nothing.
// Rows that are tables in words ("The state of Purpose is radio. The state of ..") are made of the same phrases, and share windows by chance: of these, look at "mostly".
#ifndef FINDAP_EVAL_OVERLAP_H
#define FINDAP_EVAL_OVERLAP_H
#include "eval_doc.h"    // defines: rows_each, BadRows
#include "shard.h"       // defines: shard_open, shard_list
#include "tokenizer.h"   // defines: tokenizer_load, tokenizer_decode

typedef enum { WINDOW_WORDS, WINDOW_CHARS, WINDOW_WHOLE, NUM_WINDOWS } WindowKind;
FN const char *const window_names[NUM_WINDOWS] = {"words", "chars", "whole"};
enum { OVERLAP_WORDS = 13, OVERLAP_CHARS = 50, OVERLAP_LEAST = 20, OVERLAP_DEPTH = 16, OVERLAP_SHOWN_BYTES = 240 };
#define OVERLAP_BASE 0x9E3779B97F4A7C15ull   // of the polynomial hashes; odd, so that no power of it is 0

// ---------------------------------------------------------------------------------------------------------------
// windows of a text

typedef void (*WindowFunction)(void *user, WindowKind kind, uint64_t key, int64_t begin, int64_t end);   // bytes of the folded text

typedef struct {   // the hash of the last `size` symbols
    uint64_t hash, symbols[OVERLAP_CHARS], last_power;
    int64_t begins[OVERLAP_CHARS], n;
    int size;
} Roll;

FN void roll_begin(Roll *r, int size) {
    memset(r, 0, sizeof *r);
    r->size = size;
    r->last_power = 1;
    for (int i = 0; i < size; i++) r->last_power *= OVERLAP_BASE;
}
FN bool roll_add(Roll *r, uint64_t symbol, int64_t begin) {   // true: it is full, and began at begins[n % size]
    int at = (int)(r->n++ % r->size);
    r->hash = r->hash * OVERLAP_BASE + symbol - (r->n > r->size ? r->symbols[at] * r->last_power : 0);
    r->symbols[at] = symbol;
    r->begins[at] = begin;
    return r->n >= r->size;
}
FN uint64_t window_key(WindowKind kind, uint64_t hash) {   // never 0, which marks a free slot
    uint64_t k = mix64(hash ^ (uint64_t)(kind + 1) << 60);
    return k ? k : 1;
}

// `t` with its case and its compatibility forms folded, line ends kept; ASCII, which needs no copy, as it is. *out is to be freed
FN Text overlap_fold(Text t, char **out) {
    *out = NULL;
    bool ascii = true;
    for (int64_t i = 0; ascii && i < t.length; i++) ascii = (unsigned char)t.data[i] < 0x80;
    utf8proc_uint8_t *folded = NULL;
    int64_t n = ascii ? -1 : utf8proc_map((const utf8proc_uint8_t *)t.data, t.length, &folded, (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT | UTF8PROC_CASEFOLD));
    if (n < 0) return t;   // what is not UTF-8 is compared by its bytes
    *out = (char *)folded;
    return text_make(*out, n);
}

FN bool overlap_letter(Text t, int64_t i, int64_t *size, uint64_t *symbol) {   // of the folded text: the letter or digit at i
    unsigned char c = (unsigned char)t.data[i];
    *size = 1;
    *symbol = mix64(c >= 'A' && c <= 'Z' ? c | 32u : c);
    if (c < 0x80) return is_word((char)c);
    utf8proc_int32_t code = -1;
    int64_t n = utf8proc_iterate((const utf8proc_uint8_t *)t.data + i, t.length - i, &code);
    if (n <= 0 || code < 0) return true;   // a byte that is not UTF-8
    *size = n;
    *symbol = mix64((uint64_t)code);
    utf8proc_category_t k = utf8proc_category(code);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_ME) || (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);   // letters with their marks, numbers
}

FN bool label_of_text(Text line) {   // "Text" and the like, before a colon
    static const char *const labels[] = {"text", "question", "sentence", "input", "headline"};
    line = text_trim(line);
    for (int i = 0; i < (int)(sizeof labels / sizeof *labels); i++) if (line.length == (int64_t)strlen(labels[i]) && text_begins(line, labels[i])) return true;
    return false;
}

// Calls f for each window of the folded text. whole: whole texts too; lines: each line by itself is one
FN void windows_each(Text t, bool whole, bool lines, WindowFunction f, void *user) {
    Roll words, chars;
    roll_begin(&words, OVERLAP_WORDS);
    roll_begin(&chars, OVERLAP_CHARS);
    struct { uint64_t hash; int64_t n, begin; } part[3] = {{0, 0, 0}, {0, 0, 0}, {0, 0, -1}};   // the text, its line, what stands behind the line's label (begin -1: none yet)
    bool wanted[3] = {whole, whole && lines, whole};
    uint64_t word = 0, symbol;
    int64_t word_begin = -1, size = 1;
    for (int64_t i = 0; i <= t.length; i += size) {
        size = 1;
        bool letter = i < t.length && overlap_letter(t, i, &size, &symbol);
        if (letter) {
            if (word_begin < 0) { word_begin = i; word = 0; }
            word = word * OVERLAP_BASE + symbol;
            if (roll_add(&chars, symbol, i)) f(user, WINDOW_CHARS, window_key(WINDOW_CHARS, chars.hash), chars.begins[chars.n % OVERLAP_CHARS], i + size);
            for (int k = 0; k < 3; k++) if (part[k].begin >= 0) { part[k].hash = part[k].hash * OVERLAP_BASE + symbol; part[k].n++; }
            continue;
        }
        if (word_begin >= 0 && roll_add(&words, mix64(word), word_begin)) f(user, WINDOW_WORDS, window_key(WINDOW_WORDS, words.hash), words.begins[words.n % OVERLAP_WORDS], i);
        word_begin = -1;
        if (text_at(t, i) == ':' && part[2].begin < 0 && label_of_text(text_slice(t, part[1].begin, i))) part[2].begin = i + 1;
        if (i < t.length && t.data[i] != '\n') continue;
        for (int k = i < t.length ? 1 : 0; k < 3; k++) {
            if (wanted[k] && part[k].n >= OVERLAP_LEAST) f(user, WINDOW_WHOLE, window_key(WINDOW_WHOLE, part[k].hash), part[k].begin, i);
            part[k].hash = 0;
            part[k].n = 0;
            part[k].begin = k == 1 ? i + 1 : -1;
        }
    }
}
FN void text_windows(Text t, bool whole, bool lines, WindowFunction f, void *user) {
    char *owned;
    windows_each(overlap_fold(t, &owned), whole, lines, f, user);
    free(owned);
}

// The texts of a row: all of its strings for training; of a test row those that ask, not the answer, which may well be the word "positive"
typedef void (*TextFunction)(void *user, Text t, bool whole);
FN void row_strings(const json_t *j, bool whole, int depth, TextFunction f, void *user) {
    const char *key;
    json_t *value;
    if (json_is_string(j)) f(user, text_make(json_string_value(j), (int64_t)json_string_length(j)), whole);
    if (depth >= OVERLAP_DEPTH) return;
    for (size_t i = 0; json_is_array(j) && i < json_array_size(j); i++) row_strings(json_array_get(j, i), whole, depth + 1, f, user);
    if (json_is_object(j)) json_object_foreach((json_t *)j, key, value) row_strings(value, whole, depth + 1, f, user);
}
FN void test_row_strings(const json_t *row, TextFunction f, void *user) {
    static const char *const keys[] = {"text", "query", "question", "context", "input", "instruction", "prompt", "sentence", "turns", "conversations", "messages", "choices"};
    for (int i = 0; i < (int)(sizeof keys / sizeof *keys); i++) {
        const json_t *j = json_object_get(row, keys[i]);
        if (strcmp(keys[i], "conversations") == 0 || strcmp(keys[i], "messages") == 0) j = json_array_get(j, 0);   // the question
        row_strings(j, strcmp(keys[i], "choices") != 0, 0, f, user);   // "all of the above are right" is a whole text, and says nothing
    }
}

// ---------------------------------------------------------------------------------------------------------------
// the table of windows

typedef struct { uint64_t key; int64_t train; uint32_t rows, last; } Window;   // train: number from 1 of the first training row that has it, 0: none; rows: test rows that have it; last: the last of them
// most: slots that --memory allows; filter: one bit for each key, in a twenty-fourth of the slots' bytes: what streams past is seldom in the table, and the filter fits into a cache
typedef struct { Window *slots; int64_t n, cap, most; bool full; uint64_t *filter; } WindowTable;

FN Window *window_find(const WindowTable *t, uint64_t key) {   // its slot, or the free one where it would go
    int64_t k = (int64_t)(key & (uint64_t)(t->cap - 1));
    while (t->slots[k].key && t->slots[k].key != key) k = (k + 1) & (t->cap - 1);
    return &t->slots[k];
}
FN int64_t window_bit(const WindowTable *t, uint64_t key) { return (int64_t)(key >> 20 & (uint64_t)(t->cap * 8 - 1)); }
FN void window_filter(WindowTable *t) {
    t->filter = (uint64_t *)xcalloc(t->cap / 8, sizeof(uint64_t));
    for (int64_t i = 0; i < t->cap; i++) if (t->slots[i].key) { int64_t bit = window_bit(t, t->slots[i].key); t->filter[bit / 64] |= 1ull << bit % 64; }
}
FN void window_table_grow(WindowTable *t) {
    WindowTable old = *t;
    t->cap = old.cap ? 2 * old.cap : 1 << 14;
    if (t->cap + old.cap > t->most && old.cap) { t->cap = old.cap; t->full = true; return; }
    t->slots = (Window *)xcalloc(t->cap, sizeof(Window));
    for (int64_t i = 0; i < old.cap; i++) if (old.slots[i].key) *window_find(t, old.slots[i].key) = old.slots[i];
    free(old.slots);
}

typedef struct { const char *path; char *name; int64_t rows, bad_rows, untold, hits, mostly, by[NUM_WINDOWS]; json_t *found; } TestFile;
typedef struct { const char *path; int64_t first, rows, bad_rows; } TrainFile;   // first: number of its first row, from 1

typedef struct {
    StringList train, test;
    const char *tokenizer_path;
    int64_t memory_mib, shown;
    bool as_json;
    Tokenizer *tokenizer;
    WindowTable table;
    uint32_t test_row;               // of the batch, from 1
    int64_t train_row;               // of all training files, from 1
    TestFile *tests;
    TrainFile *trains;
    int num_trains;
    // of the row that is reported
    TestFile *file;
    int64_t limit, windows[NUM_WINDOWS], hit[NUM_WINDOWS], marked[NUM_WINDOWS], run_begin, run_end, run_train, best_length, best_train;   // marked: where the prompt's windows of a kind end so far
    char *best;                      // the longest text in common
    Text folded;
    int32_t *prompt;                 // (folded.length + 1) bytes before this one that belong to the prompt
} Overlap;

FN void on_test_window(void *user, WindowKind kind, uint64_t key, int64_t begin, int64_t end) {
    Overlap *o = (Overlap *)user;
    (void)kind; (void)begin; (void)end;
    if (4 * (o->table.n + 1) > 3 * o->table.cap) window_table_grow(&o->table);
    if (o->table.full) return;
    Window *w = window_find(&o->table, key);
    if (!w->key) { w->key = key; o->table.n++; }
    if (w->last != o->test_row) { w->last = o->test_row; w->rows++; }
}
FN void on_test_text(void *user, Text t, bool whole) { text_windows(t, whole, false, on_test_window, user); }
FN bool on_test_row(void *user, json_t *row, const char *where, int64_t number, Error *e) {
    Overlap *o = (Overlap *)user;
    (void)number;
    if (!json_is_object(row)) return fail(e, "%s: the row is %s, expected an object", where, json_type_name(row));
    o->test_row++;
    o->file->rows++;
    test_row_strings(row, on_test_text, o);
    return true;
}

FN void on_train_window(void *user, WindowKind kind, uint64_t key, int64_t begin, int64_t end) {
    Overlap *o = (Overlap *)user;
    (void)kind; (void)begin; (void)end;
    int64_t bit = window_bit(&o->table, key);
    if (!(o->table.filter[bit / 64] >> bit % 64 & 1)) return;
    Window *w = window_find(&o->table, key);
    if (w->key && !w->train) w->train = o->train_row;
}
FN void on_train_text(void *user, Text t, bool whole) { text_windows(t, whole, true, on_train_window, user); }
FN bool on_train_row(void *user, json_t *row, const char *where, int64_t number, Error *e) {
    Overlap *o = (Overlap *)user;
    (void)where; (void)e;
    o->train_row = o->trains[o->num_trains - 1].first + number;
    row_strings(row, true, 0, on_train_text, o);   // a row may be one JSON string too
    return true;
}

FN bool train_shard(Overlap *o, const char *path, int64_t *rows, Error *e) {
    Shard s;
    if (!o->tokenizer) return fail(e, "%s: is a shard, whose tokens only its tokenizer can read ---> give --tokenizer DIR", path);
    if (!shard_open(path, &s, e)) return false;
    bool ok = strcmp(s.tokenizer, tokenizer_hash(o->tokenizer)) == 0;
    if (!ok) fail(e, "%s: was made with another tokenizer than %s ---> give the one that `prepare` was given", path, o->tokenizer_path);
    Buffer text = {NULL, 0, 0};
    for (int64_t d = 0; ok && d < s.num_documents; d++) {
        text.len = 0;
        tokenizer_decode(o->tokenizer, s.tokens + s.documents[d], s.documents[d + 1] - s.documents[d], true, &text);
        o->train_row = o->trains[o->num_trains - 1].first + d;
        on_train_text(o, text_make(text.data ? text.data : "", text.len), true);
    }
    *rows = s.num_documents;
    buffer_free(&text);
    shard_close(&s);
    return ok;
}

FN bool is_jsonl(const char *path) {
    size_t n = strlen(path);
    return (n >= 6 && strcmp(path + n - 6, ".jsonl") == 0) || (n >= 5 && strcmp(path + n - 5, ".json") == 0);
}

// all training files past the table; the first time, their rows are counted
FN bool train_pass(Overlap *o, const StringList *files, Error *e) {
    bool ok = true, first = o->trains == NULL;
    if (first) o->trains = (TrainFile *)xcalloc(files->n, sizeof(TrainFile));
    int64_t next = 1;
    for (o->num_trains = 1; ok && o->num_trains <= files->n; o->num_trains++) {
        TrainFile *f = &o->trains[o->num_trains - 1];
        int64_t rows = 0;
        f->path = files->items[o->num_trains - 1];
        f->first = o->train_row = next;
        BadRows bad = {f->path, false, first ? 0 : ROWS_SHOWN};   // told once
        if (is_jsonl(f->path)) {
            ok = rows_each(f->path, on_train_row, o, &bad, e);
            rows = o->train_row - next + 1;
            if (first) { f->bad_rows = bad.bad; bad_rows_end(&bad); }
        } else ok = train_shard(o, f->path, &rows, e);
        f->rows = rows;
        next += rows;
    }
    o->num_trains = files->n;
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// what was found

// Of n rows, how many may share a window that is still the rows' own: a passage asked about ten times is, an instruction is not
FN int64_t overlap_limit(int64_t n) {
    int64_t few = n / 2 < 10 ? n / 2 : 10, limit = n / 50 > few ? n / 50 : few;
    return limit < 2 ? 2 : limit;
}

FN void run_close(Overlap *o) {   // keeps the longest text in common
    int64_t begin = o->run_begin, end = o->run_end;
    o->run_begin = -1;
    while (begin >= 0 && begin < end && o->prompt[begin + 1] > o->prompt[begin]) begin++;   // a whole text has its prompt too
    if (begin < 0 || end - begin <= o->best_length) return;
    Text t = text_trim(text_slice(o->folded, begin, end));
    o->best_length = end - begin;
    if (t.length > OVERLAP_SHOWN_BYTES) t.length = utf8_valid_prefix((const uint8_t *)t.data, OVERLAP_SHOWN_BYTES);
    free(o->best);
    o->best = text_copy(t);
    o->best_train = o->run_train;
}
FN void on_prompt_window(void *user, WindowKind kind, uint64_t key, int64_t begin, int64_t end) {
    Overlap *o = (Overlap *)user;
    if (kind == WINDOW_WHOLE || window_find(&o->table, key)->rows <= o->limit) return;
    for (int64_t i = begin > o->marked[kind] ? begin : o->marked[kind]; i < end; i++) o->prompt[i + 1] = 1;
    o->marked[kind] = end;   // those of one kind come in order
}
FN void on_report_window(void *user, WindowKind kind, uint64_t key, int64_t begin, int64_t end) {
    Overlap *o = (Overlap *)user;
    const Window *w = window_find(&o->table, key);
    if (w->rows > o->limit || (kind != WINDOW_WHOLE && o->prompt[end] > o->prompt[begin])) return;
    o->windows[kind]++;
    if (!w->train) return;
    o->hit[kind]++;
    if (o->run_begin < 0 || begin > o->run_end) { run_close(o); o->run_begin = begin; o->run_end = end; o->run_train = w->train; }
    if (begin < o->run_begin) o->run_begin = begin;
    if (end > o->run_end) o->run_end = end;
}
FN void on_report_text(void *user, Text t, bool whole) {
    Overlap *o = (Overlap *)user;
    char *owned;
    o->folded = overlap_fold(t, &owned);
    o->run_begin = -1;
    memset(o->marked, 0, sizeof o->marked);
    o->prompt = (int32_t *)xcalloc(o->folded.length + 1, sizeof(int32_t));
    windows_each(o->folded, false, false, on_prompt_window, o);
    for (int64_t i = 0; i < o->folded.length; i++) o->prompt[i + 1] += o->prompt[i];
    windows_each(o->folded, whole, false, on_report_window, o);
    run_close(o);
    free(o->prompt); free(owned);
}

FN char *train_place(const Overlap *o, int64_t row) {
    int f = 0;
    while (f + 1 < o->num_trains && o->trains[f + 1].first <= row) f++;
    return xprintf("%s row %" PRId64, o->trains[f].path, row - o->trains[f].first + 1);
}

FN bool on_report_row(void *user, json_t *row, const char *where, int64_t number, Error *e) {
    Overlap *o = (Overlap *)user;
    if (!json_is_object(row)) return fail(e, "%s: the row is %s, expected an object", where, json_type_name(row));
    memset(o->windows, 0, sizeof o->windows);
    memset(o->hit, 0, sizeof o->hit);
    o->best_length = 0;
    test_row_strings(row, on_report_text, o);
    double coverage = 0;
    int64_t windows = 0, hits = 0;
    json_t *by = json_array();
    for (int k = 0; k < NUM_WINDOWS; k++) {
        windows += o->windows[k];
        hits += o->hit[k];
        if (o->hit[k] == 0) continue;
        o->file->by[k]++;
        json_array_append_new(by, json_string(window_names[k]));
        double share = (double)o->hit[k] / (double)o->windows[k];
        if (share > coverage) coverage = share;
    }
    o->file->untold += windows == 0;
    o->file->hits += hits > 0;
    o->file->mostly += coverage >= 0.5;
    if (hits == 0) { json_decref(by); return true; }
    json_t *found = json_object(), *id = json_object_get(row, "id");
    char *place = train_place(o, o->best_train);
    json_object_set_new(found, "row", json_integer(number));
    if (id) json_object_set(found, "id", id);
    json_object_set_new(found, "coverage", json_real(coverage));
    json_object_set_new(found, "by", by);
    json_object_set_new(found, "train", json_string(place));
    json_object_set_new(found, "text", text_json(text_of(o->best)));
    json_array_append_new(o->file->found, found);
    free(place);
    return true;
}

FN void overlap_print(const Overlap *o) {
    int64_t rows = 0;
    for (int i = 0; i < o->num_trains; i++) rows += o->trains[i].rows;
    printf("%" PRId64 " training rows of %d file%s. A test row is hit when it shares %d words in a row, %d letters in a row, or a whole text; mostly: at least half of it is shared; untold: it has too little of its own.\n\n", rows, o->num_trains,
        o->num_trains == 1 ? "" : "s", OVERLAP_WORDS, OVERLAP_CHARS);
    printf("%-20s %8s %8s %8s %8s %8s %8s %8s %10s\n", "test", "rows", "hit", "share", "mostly", "words", "chars", "whole", "untold");
    for (int i = 0; i < o->test.n; i++) {
        const TestFile *f = &o->tests[i];
        printf("%-20s %8" PRId64 " %8" PRId64 " %7.2f%% %8" PRId64 " %8" PRId64 " %8" PRId64 " %8" PRId64 " %10" PRId64 "\n", f->name, f->rows, f->hits, f->rows ? 100.0 * (double)f->hits / (double)f->rows : 0,
            f->mostly, f->by[WINDOW_WORDS], f->by[WINDOW_CHARS], f->by[WINDOW_WHOLE], f->untold);
    }
    for (int i = 0; i < o->test.n; i++)
        for (int64_t k = 0; k < (int64_t)json_array_size(o->tests[i].found) && k < o->shown; k++) {
            const json_t *h = json_array_get(o->tests[i].found, (size_t)k);
            char line[OVERLAP_SHOWN_BYTES * 4 + 8];
            const json_t *text = json_object_get(h, "text");
            escape_text(line, sizeof line, json_string_value(text), json_string_length(text));
            printf("%s%s row %lld (%.0f %% of it) and %s:\n    \"%s\"\n", k == 0 ? "\n" : "", o->tests[i].name, (long long)json_integer_value(json_object_get(h, "row")) + 1, 100 * json_real_value(json_object_get(h, "coverage")),
                json_string_value(json_object_get(h, "train")), line);
        }
}

FN json_t *overlap_json(const Overlap *o) {
    json_t *j = json_object(), *trains = json_array(), *tests = json_array();
    for (int i = 0; i < o->num_trains; i++) {
        json_t *t = json_object();
        json_object_set_new(t, "file", text_json(text_of(o->trains[i].path)));
        json_object_set_new(t, "rows", json_integer(o->trains[i].rows));
        json_object_set_new(t, "bad_rows", json_integer(o->trains[i].bad_rows));
        json_array_append_new(trains, t);
    }
    for (int i = 0; i < o->test.n; i++) {
        const TestFile *f = &o->tests[i];
        json_t *t = json_object();
        json_object_set_new(t, "task", text_json(text_of(f->name)));
        json_object_set_new(t, "file", text_json(text_of(f->path)));
        json_object_set_new(t, "rows", json_integer(f->rows));
        json_object_set_new(t, "bad_rows", json_integer(f->bad_rows));
        json_object_set_new(t, "untold", json_integer(f->untold));
        json_object_set_new(t, "hit", json_integer(f->hits));
        json_object_set_new(t, "share", json_real(f->rows ? (double)f->hits / (double)f->rows : 0));
        json_object_set_new(t, "mostly", json_integer(f->mostly));
        json_object_set_new(t, "by", counts_json(window_names, f->by, NUM_WINDOWS));
        json_object_set(t, "hits", f->found);
        json_array_append_new(tests, t);
    }
    json_object_set_new(j, "words", json_integer(OVERLAP_WORDS));
    json_object_set_new(j, "chars", json_integer(OVERLAP_CHARS));
    json_object_set_new(j, "train", trains);
    json_object_set_new(j, "tests", tests);
    return j;
}

// ---------------------------------------------------------------------------------------------------------------
// test files in batches that fit

FN bool overlap_batch(Overlap *o, const StringList *trains, int *next, Error *e) {
    bool ok = true;
    int begin = *next, end = begin;
    int64_t bytes = 0;
    o->test_row = 0;
    memset(&o->table, 0, sizeof o->table);
    o->table.most = (o->memory_mib << 20) / (int64_t)sizeof(Window);
    window_table_grow(&o->table);
    for (; ok && end < o->test.n; end++) {
        Mapped m;
        if (!(ok = map_file(o->tests[end].path, &m, e))) break;
        bytes += m.size;
        unmap_file(&m);
        if (end > begin && bytes * 64 > o->memory_mib << 20) break;   // two windows a byte at most (text and query say the same), seldom one; at three quarters full and while it grows
        o->file = &o->tests[end];
        BadRows bad = {o->file->path, false, 0};
        ok = rows_each(o->file->path, on_test_row, o, &bad, e);
        bad_rows_end(&bad);
        o->file->bad_rows = bad.bad;
        if (ok && o->table.full) ok = fail(e, "%s: its windows need more than %" PRId64 " MiB ---> try --memory %" PRId64 ", or cut the file in two", o->file->path, o->memory_mib, 4 * o->memory_mib);
        if (ok && o->file->rows == 0) ok = fail(e, "%s: has no rows", o->file->path);
    }
    if (ok) window_filter(&o->table);
    ok = ok && train_pass(o, trains, e);
    for (int i = begin; ok && i < end; i++) {
        BadRows bad = {o->tests[i].path, false, ROWS_SHOWN};   // were told above
        o->file = &o->tests[i];
        o->limit = overlap_limit(o->file->rows);
        ok = rows_each(o->file->path, on_report_row, o, &bad, e);
    }
    free(o->table.slots); free(o->table.filter);
    *next = end;
    return ok;
}

FN bool overlap_run(Overlap *o, Error *e) {
    StringList trains = {NULL, 0};
    bool ok = true, shards = false;
    for (int i = 0; ok && i < o->train.n; i++) {
        StringList word = {o->train.items + i, 1}, files = {NULL, 0};
        if (is_jsonl(o->train.items[i])) { files.items = (const char **)xcalloc(1, sizeof(char *)); files.items[files.n++] = xstrdup(o->train.items[i]); }
        else { shards = true; ok = shard_list(&word, &files, e); }
        trains.items = (const char **)xrealloc(trains.items, trains.n + files.n + 1, sizeof(char *));
        for (int k = 0; k < files.n; k++) trains.items[trains.n++] = files.items[k];
        free(files.items);
    }
    if (ok && shards && o->tokenizer_path) ok = (o->tokenizer = tokenizer_load(o->tokenizer_path, e)) != NULL;
    if (ok && !shards && o->tokenizer_path) ok = fail(e, "--tokenizer has no effect here: no training file is a shard ---> remove it");
    o->tests = (TestFile *)xcalloc(o->test.n, sizeof(TestFile));
    for (int i = 0; i < o->test.n; i++) {
        const char *slash = strrchr(o->test.items[i], '/'), *name = slash ? slash + 1 : o->test.items[i], *dot = strrchr(name, '.');
        o->tests[i].path = o->test.items[i];
        o->tests[i].name = dot && dot > name ? xprintf("%.*s", (int)(dot - name), name) : xstrdup(name);
        o->tests[i].found = json_array();
    }
    for (int next = 0; ok && next < o->test.n;) ok = overlap_batch(o, &trains, &next, e);
    if (ok && o->as_json) {
        json_t *j = overlap_json(o);
        char *line = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(17));
        printf("%s\n", line);
        free(line);
        json_decref(j);
    } else if (ok) overlap_print(o);
    for (int i = 0; i < o->test.n; i++) { free(o->tests[i].name); json_decref(o->tests[i].found); }
    free(o->tests); free(o->trains); free(o->best);
    tokenizer_free(o->tokenizer);
    shard_list_free(&trains);
    return ok;
}

FN int eval_overlap_main(int argc, char **argv) {   // argv[0] is "overlap"
    Overlap o;
    Error e;
    bool help = false;
    memset(&o, 0, sizeof o);
    o.memory_mib = 4096;
    o.shown = 3;
    Flag flags[] = {
        {"--train", FLAG_LIST, &o.train, "FILE", "what was trained: FILE.jsonl, or a token shard or the PREFIX of a set", 0, 0, false},
        {"--test", FLAG_LIST, &o.test, "FILE", "rows that are tested: FILE.jsonl, each a task of its name", 0, 0, false},
        {"--tokenizer", FLAG_STRING, &o.tokenizer_path, "DIR", "of the shards: a model directory or its tokenizer.json", 0, 0, false},
        {"--show", FLAG_INT, &o.shown, "N", "rows of each test file whose text in common is printed", 0, 1e9, false},
        {"--json", FLAG_BOOL, &o.as_json, NULL, "one JSON object instead of the table, with every row that is hit", 0, 0, false},
        {"--memory", FLAG_INT, &o.memory_mib, "MIB", "most memory for the table of windows; training data is read once for each part of the test files that fits", 1, 1 << 24, false},
    };
    int n = (int)(sizeof flags / sizeof *flags);
    bool ok = flags_parse(argc, argv, 1, flags, n, NULL, &help, &e);
    if (ok && help) flags_help("eval overlap --train FILE... --test FILE... [flags]", "Which test rows stand in the training data? Nothing is trained or asked; files are only read.", flags, n);
    if (ok && !help) {
        if (o.train.n == 0) ok = fail(&e, "--train is missing ---> what was trained: FILE.jsonl or a shard");
        else if (o.test.n == 0) ok = fail(&e, "--test is missing ---> the rows that are tested: FILE.jsonl");
        else ok = (!o.as_json || flag_unused(flags, n, "--show", "--json tells every row", &e)) && overlap_run(&o, &e);
    }
    if (!ok) fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    free(o.train.items); free(o.test.items);
    return ok ? 0 : 1;
}

#endif
