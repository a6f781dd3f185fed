// eval_doc.h: a row of data, checked: what is asked (prompt), what may be answered (choices), what is right (answer, gold). A bad row is one line and costs that row only.
//
// Rows are FLARE's {"id","query","answer","text","choices","gold","label","token"}, or what the task's "fields" maps onto these names ("a.b" goes into objects, "a.0.b" into arrays);
// {"id","conversations":[{"from","value"},...]} is read too, as query and answer.
#ifndef FINDAP_EVAL_DOC_H
#define FINDAP_EVAL_DOC_H
#include "eval_task.h"   // defines: Task, label_find, template_next

typedef struct {
    json_t *row;                     // a reference of our own; what is borrowed below is borrowed from it
    int64_t number;                  // of the row in its file, from 0
    Text id, prompt, answer, text, subset;   // id: the row's number where it has none; answer: as written, of several the first; subset: empty where there is none
    Text *answers;                   // (num_answers) everything that counts as right, `answer` among them
    int num_answers;
    Text *choices;                   // (num_choices) what the answer may be: the labels, or "A", "B", .. when they are letters
    Text *options;                   // (num_choices) what stands behind a letter; the same as choices when labels are texts
    int *row_order;                  // (num_choices) indices into choices in the order in which the row lists them; NULL: the same
    int num_choices;
    int gold;                        // index into choices, -1: none
    double gold_number;              // NAN: the gold answer is no number
    Text *tokens, *labels;           // (num_tokens), (num_labels): of entities, tags, sentences. Sentences' tokens are the lines of the text
    int num_tokens, num_labels;      // num_labels is 0 or num_tokens
    Text *turns;                     // (num_turns) what the user says later, behind the model's answers
    int num_turns;
    char **owned;                    // (num_owned)
    int num_owned;
} Doc;

enum { ROW_MAX_TOKENS = 1000000 };
#define ROW_MAX_BYTES (64ll << 20)      // of one line of data
#define ROWS_MAX_BYTES (4ll << 30)      // of one JSON array, which is in memory as a whole
#define ROWS_SHOWN 20                   // bad rows that get a line of their own

FN void doc_free(Doc *d) {
    json_decref(d->row);
    for (int i = 0; i < d->num_owned; i++) free(d->owned[i]);
    free(d->owned); free(d->answers); free(d->choices); free(d->options); free(d->row_order); free(d->tokens); free(d->labels); free(d->turns);
    memset(d, 0, sizeof *d);
}
FN void docs_free(Doc *docs, int64_t n) {
    for (int64_t i = 0; i < n; i++) doc_free(&docs[i]);
    free(docs);
}
FN Text doc_own(Doc *d, char *s, int64_t n) {
    d->owned = (char **)xrealloc(d->owned, d->num_owned + 1, sizeof(char *));
    d->owned[d->num_owned++] = s;
    return text_make(s, n);
}

// row["a"]["b"], row["a"][0] for "a.b", "a.0"; a key that has dots itself is found as well. NULL: not there, or null
FN const json_t *json_at(const json_t *row, const char *path) {
    const json_t *j = json_object_get(row, path);
    if (j) return json_is_null(j) ? NULL : j;
    char key[256];
    for (j = row; j && *path;) {
        size_t n = strcspn(path, ".");
        if (n == 0 || n >= sizeof key) return NULL;
        memcpy(key, path, n);
        key[n] = 0;
        path += n + (path[n] == '.');
        if (json_is_object(j)) j = json_object_get(j, key);
        else if (json_is_array(j) && strspn(key, "0123456789") == n && n < 10) j = json_array_get(j, (size_t)atoll(key));
        else j = NULL;
    }
    return j == row || json_is_null(j) ? NULL : j;
}

// A string as it is, a number as it is written in the fewest digits that read back the same
FN bool doc_text(Doc *d, const json_t *j, Text *out) {
    if (json_is_string(j)) { *out = text_make(json_string_value(j), (int64_t)json_string_length(j)); return true; }
    if (!json_is_number(j)) return false;
    char *s = NULL;
    if (json_is_integer(j)) s = xprintf("%" JSON_INTEGER_FORMAT, json_integer_value(j));
    for (int digits = 1; !s || (json_is_real(j) && digits <= 17 && strtod(s, NULL) != json_real_value(j)); digits++) { free(s); s = xprintf("%.*g", digits, json_real_value(j)); }
    *out = doc_own(d, s, (int64_t)strlen(s));
    return true;
}
FN bool doc_texts(Doc *d, const json_t *j, const char *where, const char *what, Text **out, int *n, Error *e) {
    if (!json_is_array(j)) return fail(e, "%s: \"%s\" is %s, expected a list", where, what, json_type_name(j));
    if (json_array_size(j) > INT32_MAX / 2) return fail(e, "%s: \"%s\" has too many entries", where, what);
    *out = (Text *)xcalloc((int64_t)json_array_size(j), sizeof(Text));
    for (size_t i = 0; i < json_array_size(j); i++)
        if (!doc_text(d, json_array_get(j, i), &(*out)[(*n)++])) return fail(e, "%s: \"%s\"[%zu] is %s, expected a string or a number", where, what, i, json_type_name(json_array_get(j, i)));
    return true;
}
FN void doc_split(Text t, bool lines, Text **out, int *n) {   // at white space, as Python's str.split(); or the lines, of those that are not empty
    int64_t size = 0, begin = -1, cap = 0;
    for (int64_t i = 0; i <= t.length; i += size ? size : 1) {
        size = 1;
        bool space = i == t.length || (lines ? t.data[i] == '\n' : chat_is_space(chat_code_point((const unsigned char *)t.data + i, t.length - i, &size)));
        if (!space && begin < 0) begin = i;
        if (!space || begin < 0) continue;
        if (*n == cap) *out = (Text *)xrealloc(*out, cap = cap ? 2 * cap : 64, sizeof(Text));
        Text part = text_slice(t, begin, i);
        if (!lines || text_trim(part).length) (*out)[(*n)++] = lines ? text_trim(part) : part;
        begin = -1;
    }
}

FN int doc_label(const Task *t, const Doc *d, Text s) {   // what a gold answer says: a choice, a letter, or what stands behind the letter; -1: none of them
    s = text_trim(s);
    int found = label_find(d->choices, d->num_choices, s);
    char letter = 0;
    if (found >= 0 || !t->letters) return found;
    if ((found = label_find(d->options, d->num_choices, s)) >= 0) return found;
    bool bare = s.length == 1 || strchr(".):,", text_at(s, 1)) || (s.data[0] == '(' && text_at(s, 2) == ')') || verify_kind_of(s) == VERIFY_CHOICE;
    return s.length && bare && label_of(s, true, &letter) == RESULT_ONE && letter - 'A' < d->num_choices ? letter - 'A' : -1;
}

// d->choices, d->options, d->row_order, of the task and of the row
FN bool doc_choices(const Task *t, Doc *d, const json_t *list, const char *where, Error *e) {
    Text *own = NULL;
    int n = 0;
    if (list && !doc_texts(d, list, where, t->fields[FIELD_CHOICES], &own, &n, e)) { free(own); return false; }
    if (!list && t->num_choices == 0) return fail(e, "%s: has no \"%s\", and the task has no choices either", where, t->fields[FIELD_CHOICES]);
    bool ok = true;
    d->num_choices = list && (t->letters || t->num_choices == 0) ? n : t->num_choices;
    if (d->num_choices < 2 || d->num_choices > (t->letters ? TASK_MAX_LETTERS : TASK_MAX_CHOICES))
        ok = fail(e, "%s: has %d choices, expected 2 to %d", where, d->num_choices, t->letters ? TASK_MAX_LETTERS : TASK_MAX_CHOICES);
    d->choices = (Text *)xcalloc(ok ? d->num_choices : 0, sizeof(Text));
    d->options = (Text *)xcalloc(ok ? d->num_choices : 0, sizeof(Text));
    static const char letters[] = "ABCDEFGHIJ";
    for (int i = 0; ok && i < d->num_choices; i++) {
        d->options[i] = own && (t->letters || t->num_choices == 0) ? own[i] : t->choices[i];
        d->choices[i] = t->letters ? text_make(letters + i, 1) : d->options[i];
        if (text_trim(d->options[i]).length == 0) ok = fail(e, "%s: choice %d is empty", where, i);
    }
    for (int i = 0; ok && !t->letters && t->num_choices == 0 && i < d->num_choices; i++)
        for (int k = 0; ok && k < i; k++) if (text_equal(d->choices[k], d->choices[i])) ok = fail(e, "%s: choice %d stands there twice", where, i);   // "Ff" and "ff" are two
    if (ok && own && !t->letters && t->num_choices) {   // the row lists the task's labels, perhaps in another order, perhaps not all
        d->row_order = (int *)xcalloc(d->num_choices, sizeof(int));
        bool *seen = (bool *)xcalloc(d->num_choices, sizeof(bool));
        int k = 0;
        for (int i = 0; ok && i < n; i++) {
            int index = label_find(d->choices, d->num_choices, text_trim(own[i]));
            if (index < 0 || seen[index]) ok = fail(e, "%s: its choice \"%.*s\" is %s", where, (int)(own[i].length < 64 ? own[i].length : 64), own[i].data, index < 0 ? "none of the task's" : "there twice");
            else { seen[index] = true; d->row_order[k++] = index; }
        }
        for (int i = 0; i < d->num_choices; i++) if (ok && !seen[i]) d->row_order[k++] = i;
        free(seen);
    }
    free(own);
    return ok;
}

FN bool doc_gold(const Task *t, Doc *d, const json_t *gold, const json_t *choices, const char *where, Error *e) {   // d->gold of a task with labels
    const char *key = t->fields[FIELD_GOLD];
    int by_answer = d->answer.length ? doc_label(t, d, d->answer) : -1, listed = choices ? (int)json_array_size(choices) : d->num_choices;
    d->gold = -1;
    Text s;
    if (gold && json_is_string(gold)) {
        doc_text(d, gold, &s);
        d->gold = doc_label(t, d, s);
        if (d->gold < 0 && (s.length == 0 || s.length > 4 || strspn(json_string_value(gold), "0123456789") != (size_t)s.length))
            return fail(e, "%s: \"%s\" is \"%.*s\", expected one of the %d choices", where, key, (int)(s.length < 64 ? s.length : 64), s.data, d->num_choices);
    }
    if (gold && d->gold < 0) {
        double index = json_is_string(gold) ? atof(json_string_value(gold)) : json_is_number(gold) ? json_number_value(gold) : NAN;
        if (isnan(index)) return fail(e, "%s: \"%s\" is %s, expected the index of a choice or its text", where, key, json_type_name(gold));
        if (!(index >= 0 && index < listed && index == floor(index))) return fail(e, "%s: \"%s\" is %g, expected 0 to %d, the index of a choice", where, key, index, listed - 1);
        d->gold = d->row_order ? d->row_order[(int)index] : (int)index;
    }
    if (d->gold >= 0 && by_answer >= 0 && by_answer != d->gold)
        return fail(e, "%s: \"%s\" is choice %d, \"%s\" is choice %d ---> which of them is right?", where, key, d->gold, t->fields[FIELD_ANSWER], by_answer);
    if (d->gold < 0) d->gold = by_answer;
    if (d->gold < 0 && d->answer.length) return fail(e, "%s: \"%s\" is \"%.*s\", expected one of the %d choices", where, t->fields[FIELD_ANSWER], (int)(d->answer.length < 64 ? d->answer.length : 64), d->answer.data, d->num_choices);
    if (d->gold < 0) return fail(e, "%s: has neither \"%s\" nor \"%s\": what is right?", where, key, t->fields[FIELD_ANSWER]);
    if (d->answer.length == 0) d->answer = d->options[d->gold];
    return true;
}

FN bool tag_good(Text t) { return (t.length == 1 && t.data[0] == 'O') || (t.length > 2 && t.data[1] == '-' && strchr("BIESLU", t.data[0])); }

// tokens and labels of entities, tags, sentences
FN bool doc_tokens(const Task *t, Doc *d, const json_t *tokens, const json_t *labels, bool answered, const char *where, Error *e) {
    bool sentences = t->extract == EXTRACT_SENTENCES;
    if (tokens && !doc_texts(d, tokens, where, t->fields[FIELD_TOKENS], &d->tokens, &d->num_tokens, e)) return false;
    if (!tokens) doc_split(d->text, sentences, &d->tokens, &d->num_tokens);
    if (labels && !doc_texts(d, labels, where, t->fields[FIELD_LABELS], &d->labels, &d->num_labels, e)) return false;
    if (!labels && sentences) doc_split(d->answer, true, &d->labels, &d->num_labels);
    if (t->extract == EXTRACT_ENTITIES && !labels && d->num_tokens <= ROW_MAX_TOKENS) return answered ? true : fail(e, "%s: has neither \"%s\" nor \"%s\": what is right?", where, t->fields[FIELD_LABELS], t->fields[FIELD_ANSWER]);   // read from the answer's lines
    if (d->num_tokens > ROW_MAX_TOKENS) return fail(e, "%s: has %d tokens, expected at most %d", where, d->num_tokens, ROW_MAX_TOKENS);
    if (d->num_tokens == 0) return fail(e, "%s: has neither \"%s\" nor \"%s\" ---> the labels need them", where, t->fields[FIELD_TOKENS], t->fields[FIELD_TEXT]);
    if (d->num_labels != d->num_tokens) return fail(e, "%s: has %d labels for %d %s", where, d->num_labels, d->num_tokens, sentences ? "lines of text" : "tokens");
    for (int i = 0; i < d->num_labels; i++) {
        d->labels[i] = text_trim(d->labels[i]);
        bool good = sentences ? text_equal(d->labels[i], text_of("0")) || text_equal(d->labels[i], text_of("1")) : tag_good(d->labels[i]);
        if (!good) return fail(e, "%s: label %d is \"%.*s\", expected %s", where, i, (int)(d->labels[i].length < 64 ? d->labels[i].length : 64), d->labels[i].data, sentences ? "0 or 1" : "O, or a type behind B- or I-");
    }
    return true;
}

FN bool doc_conversation(const json_t *list, const char *where, const json_t **query, const json_t **answer, Error *e) {   // FLARE's training rows: a question, an answer
    const json_t *first = json_array_get(list, 0), *second = json_array_get(list, 1), *from = json_object_get(first, "from");
    bool good = json_array_size(list) == 2 && json_is_string(from) && (strcmp(json_string_value(from), "human") == 0 || strcmp(json_string_value(from), "user") == 0);
    *query = json_object_get(first, "value");
    *answer = json_object_get(second, "value");
    return good && json_is_string(*query) && json_is_string(*answer) ? true : fail(e, "%s: \"conversations\" is not a question of \"human\" and an answer, each {\"from\", \"value\"}", where);
}

// everything but the prompt: what is right, and what the answer may be
FN bool doc_fill(const Task *t, json_t *row, int64_t number, const char *where, Doc *d, const json_t **query, Error *e) {
    const json_t *f[NUM_FIELDS];
    if (!json_is_object(row)) return fail(e, "%s: the row is %s, expected an object", where, json_type_name(row));
    d->row = json_incref(row);
    d->number = number;
    d->gold = -1;
    d->gold_number = NAN;
    d->id = d->prompt = d->answer = d->text = d->subset = text_of("");
    for (int i = 0; i < NUM_FIELDS; i++) f[i] = json_at(row, t->fields[i]);
    const json_t *conversation = json_object_get(row, "conversations");
    if (!f[FIELD_QUERY] && json_is_array(conversation) && !doc_conversation(conversation, where, &f[FIELD_QUERY], &f[FIELD_ANSWER], e)) return false;
    *query = f[FIELD_QUERY];
    if (!f[FIELD_TOKENS] && t->fields[FIELD_TOKENS] == field_defaults[FIELD_TOKENS]) f[FIELD_TOKENS] = json_at(row, "tokens");
    if (!f[FIELD_LABELS] && t->fields[FIELD_LABELS] == field_defaults[FIELD_LABELS]) f[FIELD_LABELS] = json_at(row, "labels");
    if (f[FIELD_ID] ? !doc_text(d, f[FIELD_ID], &d->id) : false) return fail(e, "%s: \"%s\" is %s, expected a string or a number", where, t->fields[FIELD_ID], json_type_name(f[FIELD_ID]));
    if (!f[FIELD_ID]) { char *s = xprintf("%" PRId64, number); d->id = doc_own(d, s, (int64_t)strlen(s)); }
    if (f[FIELD_TEXT] && !doc_text(d, f[FIELD_TEXT], &d->text)) return fail(e, "%s: \"%s\" is %s, expected a string", where, t->fields[FIELD_TEXT], json_type_name(f[FIELD_TEXT]));
    if (json_is_string(f[FIELD_SUBSET])) doc_text(d, f[FIELD_SUBSET], &d->subset);
    bool labelled = t->extract == EXTRACT_LABEL || t->extract == EXTRACT_LETTER, tagged = t->extract == EXTRACT_ENTITIES || t->extract == EXTRACT_TAGS || t->extract == EXTRACT_SENTENCES;
    const json_t *answer = f[FIELD_ANSWER];
    if (t->extract == EXTRACT_RELATIONS && json_is_array(f[FIELD_LABELS])) answer = f[FIELD_LABELS];   // a list of "head ; tail ; relation"
    if (!answer && !labelled) answer = f[FIELD_GOLD];
    if (json_is_array(answer) && !tagged && !labelled && t->extract != EXTRACT_RELATIONS) {   // each of them is right
        if (!doc_texts(d, answer, where, t->fields[FIELD_ANSWER], &d->answers, &d->num_answers, e)) return false;
        if (d->num_answers) d->answer = d->answers[0];
    }
    if (json_is_array(answer) && (t->extract == EXTRACT_ENTITIES || t->extract == EXTRACT_RELATIONS)) {
        Buffer lines = {NULL, 0, 0};
        Text line;
        for (size_t i = 0; i < json_array_size(answer); i++) {
            if (!doc_text(d, json_array_get(answer, i), &line)) { buffer_free(&lines); return fail(e, "%s: its gold answer's entry %zu is %s, expected a string", where, i, json_type_name(json_array_get(answer, i))); }
            if (i) buffer_add(&lines, "\n", 1);
            buffer_add(&lines, line.data, line.length);
        }
        d->answer = doc_own(d, lines.data ? lines.data : xstrdup(""), lines.len);
    } else if (answer && !json_is_array(answer) && !doc_text(d, answer, &d->answer)) return fail(e, "%s: \"%s\" is %s, expected a string or a number", where, t->fields[FIELD_ANSWER], json_type_name(answer));
    if (labelled) return doc_choices(t, d, f[FIELD_CHOICES], where, e) && doc_gold(t, d, f[FIELD_GOLD], f[FIELD_CHOICES], where, e);
    if (tagged) {
        const json_t *labels = f[FIELD_LABELS];
        if (!labels && json_is_array(f[FIELD_GOLD]) && (t->extract != EXTRACT_ENTITIES || tag_good(text_of(json_string_value(json_array_get(f[FIELD_GOLD], 0)))))) labels = f[FIELD_GOLD];
        return doc_tokens(t, d, f[FIELD_TOKENS], labels, answer != NULL, where, e);
    }
    if (!json_is_array(answer) && answer) {
        d->answers = (Text *)xcalloc(1, sizeof(Text));
        d->answers[d->num_answers++] = d->answer;
    }
    Number one;
    if (t->extract == EXTRACT_FLOAT || t->extract == EXTRACT_NUMBER) d->gold_number = d->answer.length && number_of(d->answer, false, &one) == RESULT_ONE ? one.value : NAN;
    if (t->extract == EXTRACT_FLOAT && json_is_number(answer)) d->gold_number = json_number_value(answer);
    if (t->extract == EXTRACT_FLOAT && !(d->gold_number >= t->low && d->gold_number <= t->high))
        return fail(e, "%s: the gold answer is \"%.*s\", expected a number from %g to %g", where, (int)(d->answer.length < 64 ? d->answer.length : 64), d->answer.data, t->low, t->high);
    if (t->extract == EXTRACT_RELATIONS ? !answer : t->extract != EXTRACT_JUDGE && text_trim(d->answer).length == 0) return fail(e, "%s: %s \"%s\"%s: what is right?", where, answer ? "its" : "has no", t->fields[answer && answer == f[FIELD_GOLD] ? FIELD_GOLD : FIELD_ANSWER], answer ? " is empty" : "");
    return true;
}

// A template with the row's values. {choices}: a line for each, "A. text"; a list: an item a line
FN bool doc_render(const Task *t, const Doc *d, Text template_text, const json_t *query, Text prompt, const char *where, Buffer *out, Error *e) {
    Text name;
    const char *wrong;
    for (int64_t at = 0; template_next(template_text, &at, out, &name, &wrong);) {
        char key[256];
        snprintf(key, sizeof key, "%.*s", (int)name.length, name.data);
        if (strcmp(key, "prompt") == 0 && prompt.length >= 0) { buffer_add(out, prompt.data, prompt.length); continue; }
        if (strcmp(key, "choices") == 0 && d->num_choices) {
            for (int i = 0; i < d->num_choices; i++) {
                char head[32];
                buffer_add(out, head, snprintf(head, sizeof head, "%s%c. ", i ? "\n" : "", 'A' + (i < 26 ? i : 25)));
                buffer_add(out, d->options[i].data, d->options[i].length);
            }
            continue;
        }
        const json_t *j = NULL;
        for (int f = 0; f < NUM_FIELDS; f++) if (strcmp(key, field_names[f]) == 0) j = f == FIELD_QUERY ? query : json_at(d->row, t->fields[f]);
        if (!j) j = json_at(d->row, key);
        if (!j) return fail(e, "%s: the prompt wants \"%s\", which the row does not have", where, key);
        for (size_t i = 0; i < (json_is_array(j) ? json_array_size(j) : 1); i++) {
            Doc number = {0};   // owns what a number is written as
            Text value;
            bool good = doc_text(&number, json_is_array(j) ? json_array_get(j, i) : j, &value);
            if (good && i) buffer_add(out, "\n", 1);
            if (good) buffer_add(out, value.data, value.length);
            doc_free(&number);
            if (!good) return fail(e, "%s: \"%s\" is %s, expected a string, a number or a list of them", where, key, json_type_name(j));
        }
    }
    return true;
}

// where: "file:line". False: one line in *e, nothing to free
FN bool doc_make(const Task *t, json_t *row, int64_t number, const char *where, bool cot, Doc *out, Error *e) {
    const json_t *query = NULL, *turns = NULL;
    Buffer prompt = {NULL, 0, 0}, whole = {NULL, 0, 0};
    memset(out, 0, sizeof *out);
    bool ok = doc_fill(t, row, number, where, out, &query, e) && doc_render(t, out, text_of(t->prompt), query, text_make("", -1), where, &prompt, e);
    if (ok && cot) ok = doc_render(t, out, text_of(t->cot ? t->cot : TASK_DEFAULT_COT), query, text_make(prompt.data, prompt.len), where, &whole, e);
    if (ok) {
        Buffer *b = cot ? &whole : &prompt;
        out->prompt = doc_own(out, b->data ? b->data : xstrdup(""), b->len);
        b->data = NULL;
        if (text_trim(out->prompt).length == 0) ok = fail(e, "%s: the prompt is empty", where);
        if ((turns = json_at(row, t->fields[FIELD_TURNS])) != NULL && t->extract == EXTRACT_JUDGE) {
            ok = ok && doc_texts(out, turns, where, t->fields[FIELD_TURNS], &out->turns, &out->num_turns, e);
            if (ok && out->num_turns) memmove(out->turns, out->turns + 1, (size_t)--out->num_turns * sizeof(Text));   // the first one is in the prompt
        }
    }
    buffer_free(&prompt); buffer_free(&whole);
    if (!ok) doc_free(out);
    return ok;
}

FN Text doc_target(const Task *t, const Doc *d) {   // what a perfect answer says: for examples (shots) and for the record
    (void)t;
    return d->gold >= 0 ? d->choices[d->gold] : d->answer;
}

// ---------------------------------------------------------------------------------------------------------------
// files of rows

// What is wrong with a row costs the row: its line goes to stderr, the first ROWS_SHOWN of them, the others are counted. strict: it costs the run.
typedef struct { const char *path; bool strict; int64_t bad; } BadRows;
FN bool bad_row(BadRows *b, const Error *row_error, Error *e) {   // false: the run ends
    if (b->strict) { *e = *row_error; return false; }
    if (b->bad++ < ROWS_SHOWN) fprintf(stderr, "%s: bad row: %s\n", program_name, row_error->text);
    return true;
}
FN void bad_rows_end(const BadRows *b) { if (b->bad > ROWS_SHOWN) fprintf(stderr, "%s: %s: %" PRId64 " more bad rows are not shown\n", program_name, b->path, b->bad - ROWS_SHOWN); }

// ids that were seen
typedef struct { XXH128_hash_t *slots; int64_t n, cap; } IdSet;   // an all-zero slot is free
FN bool id_add(IdSet *s, Text id) {   // false: it is there already
    if (2 * (s->n + 1) > s->cap) {
        IdSet old = *s;
        s->cap = old.cap ? 2 * old.cap : 1024;
        s->slots = (XXH128_hash_t *)xcalloc(s->cap, sizeof(XXH128_hash_t));
        for (int64_t i = 0; i < old.cap; i++) {
            uint64_t k = old.slots[i].low64;
            if (!old.slots[i].low64 && !old.slots[i].high64) continue;
            for (; s->slots[k & (uint64_t)(s->cap - 1)].low64 || s->slots[k & (uint64_t)(s->cap - 1)].high64; k++) {}
            s->slots[k & (uint64_t)(s->cap - 1)] = old.slots[i];
        }
        free(old.slots);
    }
    XXH128_hash_t h = XXH3_128bits(id.data, (size_t)id.length);
    uint64_t k = h.low64;
    for (XXH128_hash_t *p; (p = &s->slots[k & (uint64_t)(s->cap - 1)], p->low64 || p->high64); k++) if (p->low64 == h.low64 && p->high64 == h.high64) return false;
    s->slots[k & (uint64_t)(s->cap - 1)] = h;
    s->n++;
    return true;
}

// Calls `row` for each row of a JSONL file, or of one JSON array. False from it: the row is bad.
typedef bool (*RowFunction)(void *user, json_t *row, const char *where, int64_t number, Error *e);
FN bool rows_each(const char *path, RowFunction row, void *user, BadRows *bad, Error *e) {
    Mapped m;
    Error row_error;
    if (!map_file(path, &m, e)) return false;
    const char *data = (const char *)m.data;
    int64_t at = m.size >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0, first = at, line = 0, number = 0;
    bool ok = true;
    while (first < m.size && strchr(" \t\r\n", data[first]) && data[first]) first++;
    if (first < m.size && data[first] == '[') {
        json_t *all = m.size > ROWS_MAX_BYTES ? NULL : json_parse(path, data + at, m.size - at, e);
        ok = all != NULL || (m.size > ROWS_MAX_BYTES && fail(e, "%s: is one JSON array of %" PRId64 " bytes, expected at most %lld ---> one row a line may be longer", path, m.size, ROWS_MAX_BYTES));
        for (size_t i = 0; ok && i < json_array_size(all); i++) {
            char *where = xprintf("%s: row %zu", path, i);
            if (!row(user, json_array_get(all, i), where, (int64_t)i, &row_error)) ok = bad_row(bad, &row_error, e);
            free(where);
        }
        json_decref(all);
        at = m.size;
    }
    for (; ok && at < m.size;) {
        const char *end = (const char *)memchr(data + at, '\n', (size_t)(m.size - at));
        Text text = text_make(data + at, end ? end - data - at : m.size - at);
        line++;
        at += text.length + 1;
        int64_t blank = 0;
        while (blank < text.length && (text.data[blank] == ' ' || text.data[blank] == '\t' || text.data[blank] == '\r')) blank++;
        if (blank == text.length) continue;
        char *where = xprintf("%s:%" PRId64, path, line);
        json_t *j = text.length > ROW_MAX_BYTES ? NULL : json_parse_line(where, text.data, text.length, &row_error);
        if (text.length > ROW_MAX_BYTES) fail(&row_error, "%s: the line has %" PRId64 " bytes, expected at most %lld", where, text.length, ROW_MAX_BYTES);
        if (!j || !row(user, j, where, number, &row_error)) ok = bad_row(bad, &row_error, e);
        number++;
        json_decref(j);
        free(where);
    }
    unmap_file(&m);
    return ok;
}

typedef struct { const Task *task; bool cot, prompts; IdSet ids; Doc *docs; int64_t n, cap; } DocReader;
FN bool docs_row(void *user, json_t *row, const char *where, int64_t number, Error *e) {
    DocReader *r = (DocReader *)user;
    if (r->n == r->cap) r->docs = (Doc *)xrealloc(r->docs, r->cap = r->cap ? 2 * r->cap : 64, sizeof(Doc));
    Doc *d = &r->docs[r->n];
    if (!doc_make(r->task, row, number, where, r->cot, d, e)) return false;
    if (json_at(row, r->task->fields[FIELD_ID]) && !id_add(&r->ids, d->id)) {
        fail(e, "%s: the id \"%.*s\" is there twice", where, (int)(d->id.length < 64 ? d->id.length : 64), d->id.data);
        doc_free(d);
        return false;
    }
    r->n++;
    return true;
}

typedef struct { uint64_t key; int64_t index; } DocDraw;
FN int doc_draw_compare(const void *a, const void *b) {
    const DocDraw *x = (const DocDraw *)a, *y = (const DocDraw *)b;
    return x->key != y->key ? (x->key < y->key ? -1 : 1) : x->index < y->index ? -1 : x->index > y->index;
}

// Rows of a JSONL file or of one JSON array. limit < 0: all; else a seeded sample of so many rows, in the file's order. A bad row: its line on stderr (the first 20), counted in *bad
// and left out; strict: an error. No row left: an error.
FN bool docs_load(const Task *t, const char *path, bool cot, int64_t limit, uint64_t seed, bool strict, Doc **docs, int64_t *n, int64_t *bad, Error *e) {
    DocReader r;
    BadRows rows = {path, strict, 0};
    memset(&r, 0, sizeof r);
    r.task = t;
    r.cot = cot;
    bool ok = rows_each(path, docs_row, &r, &rows, e);
    bad_rows_end(&rows);
    free(r.ids.slots);
    if (ok && r.n == 0) ok = fail(e, "%s: has no rows for task %s%s", path, t->name, rows.bad ? " that can be used ---> see the lines above" : "");
    if (ok && limit >= 0 && limit < r.n) {
        DocDraw *draws = (DocDraw *)xcalloc(r.n, sizeof(DocDraw));
        for (int64_t i = 0; i < r.n; i++) { draws[i].key = random_u64(seed, 0x6576616cull, (uint64_t)i); draws[i].index = i; }
        qsort(draws, (size_t)r.n, sizeof *draws, doc_draw_compare);
        uint8_t *kept = (uint8_t *)xcalloc(r.n, 1);
        for (int64_t i = 0; i < limit; i++) kept[draws[i].index] = 1;
        int64_t k = 0;
        for (int64_t i = 0; i < r.n; i++) if (kept[i]) r.docs[k++] = r.docs[i]; else doc_free(&r.docs[i]);
        r.n = k;
        free(draws); free(kept);
    }
    if (!ok) { docs_free(r.docs, r.n); r.docs = NULL; r.n = 0; }
    *docs = r.docs;
    *n = r.n;
    *bad = rows.bad;
    return ok;
}

#endif
