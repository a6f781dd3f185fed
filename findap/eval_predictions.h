// eval_predictions.h: `eval score`: scores of outputs that somebody else made, one JSON object of metrics on stdout. No model is needed.
//
// A row is {"id", "output", "gold", ..}. The gold answer is whatever the task's kind knows: a label (any case) or its index, a letter, a number, a text or a list of texts each of
// which is right, a list of tags, "name, TYPE" or "head ; tail ; relation" lines or a list of them. What the row brings of "choices", "text", "token" or "tokens", "label", "label_type"
// is used as in a data row; of a task whose rows bring their own choices and don't, the labels are those that are some row's gold answer. "output" is a string; a number is taken as it is
// written, a list of tags, entities, relations, marks or lines as its lines. "truncated", "reached_cap" or a finish of "length" says that the output was cut off.
#ifndef FINDAP_EVAL_PREDICTIONS_H
#define FINDAP_EVAL_PREDICTIONS_H
#include "eval_score.h"   // defines: Sample, sample_score, task_metrics

typedef struct { const Task *task; IdSet ids; Doc *docs; Text *outputs; bool *truncated; int64_t *tokens; int64_t n, cap; json_t *labels; bool letters_unknown; } PredictionReader;   // labels: some row's gold answers; letters_unknown: how many there are stands in no row

FN bool prediction_cut(json_t *row, const char *where, bool *cut, Error *e) {
    const char *finish = NULL;
    *cut = false;
    if (!json_get_bool(row, "truncated", where, false, cut, e)) return false;
    bool cap = false;
    if (!json_get_bool(row, "reached_cap", where, false, &cap, e) || !json_get_string(row, "finish", where, false, &finish, e) || (!finish && !json_get_string(row, "finish_reason", where, false, &finish, e))) return false;
    *cut = *cut || cap || (finish && (strcmp(finish, "length") == 0 || strcmp(finish, "cap") == 0));
    return true;
}

// A value as one line: a string or a number as written; an entity ["Acme", "ORG"] or {"name": .., "type": ..} as "Acme, ORG", a relation of three likewise. False: something else
FN bool value_line(const json_t *j, const char *between, Buffer *out) {
    static const char *const keys[2][5] = {{"name", "entity", "text", "word", NULL}, {"type", "label", "tag", "entity_type", NULL}};
    const json_t *parts[3] = {j, NULL, NULL};
    size_t n = 1;
    if (json_is_array(j)) n = json_array_size(j);
    if (n < 1 || n > 3) return false;
    for (size_t i = 0; json_is_array(j) && i < n; i++) parts[i] = json_array_get(j, i);
    for (int side = 0; json_is_object(j) && side < 2; side++) {
        parts[side] = NULL;
        for (int k = 0; keys[side][k] && !parts[side]; k++) parts[side] = json_object_get(j, keys[side][k]);
        n = 2;
    }
    for (size_t i = 0; i < n; i++) {
        Doc number = {0};   // owns what a number is written as
        Text t = text_make("", 0);
        bool good = parts[i] && doc_text(&number, parts[i], &t);
        if (good && i) buffer_add(out, between, (int64_t)strlen(between));
        buffer_add(out, t.data, t.length);
        doc_free(&number);
        if (!good) return false;
    }
    return true;
}
FN bool value_lines(const json_t *j, const char *between, Buffer *out) {   // of a list, or of one value
    if (!json_is_array(j)) return value_line(j, between, out);
    for (size_t i = 0; i < json_array_size(j); i++) {
        if (i) buffer_add(out, "\n", 1);
        if (!value_line(json_array_get(j, i), between, out)) return false;
    }
    return true;
}

// A gold answer of tags that is a text, as the lists that a data row has: tags one behind the other, or "token:TAG" lines
FN void prediction_tags(const Task *t, json_t *row, Text gold) {
    TextList tags = tags_bare(gold);
    json_t *labels = json_array(), *tokens = json_array();
    for (int i = 0; i < tags.n; i++) json_array_append_new(labels, text_json(tags.items[i]));
    bool lines = tags.n == 0 && t->extract == EXTRACT_TAGS;
    for (int64_t at = 0; lines && at < gold.length;) {
        Text line = text_trim(text_line(gold, &at));
        int64_t colon = line.length - 1;
        while (colon > 0 && line.data[colon] != ':') colon--;
        if (line.length == 0) continue;
        lines = colon > 0 && tag_good(text_trim(text_from(line, colon + 1)));
        if (!lines) continue;
        json_array_append_new(tokens, text_json(text_trim(text_slice(line, 0, colon))));
        json_array_append_new(labels, text_json(text_trim(text_from(line, colon + 1))));
    }
    if (tags.n || (lines && json_array_size(labels))) {
        json_object_set(row, t->fields[FIELD_LABELS], labels);
        json_object_del(row, t->fields[FIELD_GOLD]);
        json_object_del(row, t->fields[FIELD_ANSWER]);
        if (lines && !json_at(row, t->fields[FIELD_TOKENS]) && !json_at(row, "tokens")) json_object_set(row, t->fields[FIELD_TOKENS], tokens);
    }
    json_decref(labels); json_decref(tokens);
    text_list_free(&tags);
}

// The row as a data row of the task: what is right in the form that doc_fill knows
FN bool prediction_gold(PredictionReader *r, json_t *row, const char *where, Error *e) {
    const Task *t = r->task;
    const bool labelled = t->extract == EXTRACT_LABEL || t->extract == EXTRACT_LETTER, tagged = t->extract == EXTRACT_TAGS || t->extract == EXTRACT_ENTITIES;
    const json_t *gold = json_at(row, t->fields[FIELD_GOLD]);
    if (gold) json_object_del(row, t->fields[FIELD_ANSWER]);   // beside a "gold" it is what somebody read in the output
    if (json_is_number(json_object_get(row, "tokens"))) json_object_del(row, "tokens");   // their number, in a record of eval
    if (labelled && json_is_array(gold) && json_array_size(gold) == 1) json_object_set(row, t->fields[FIELD_GOLD], json_array_get(gold, 0));
    if (labelled && t->num_choices == 0 && !json_at(row, t->fields[FIELD_CHOICES])) {
        json_object_set(row, t->fields[FIELD_CHOICES], r->labels);
        r->letters_unknown = t->extract == EXTRACT_LETTER;
    }
    const char *key = t->fields[gold ? FIELD_GOLD : FIELD_ANSWER];
    const json_t *first = gold ? gold : json_at(row, key);
    const bool has_labels = json_is_array(json_at(row, t->fields[FIELD_LABELS])) || json_is_array(json_at(row, "labels"));
    if (tagged && !has_labels && json_is_string(first)) prediction_tags(t, row, text_make(json_string_value(first), (int64_t)json_string_length(first)));
    const json_t *entry = json_array_get(first, 0);
    if ((t->extract == EXTRACT_ENTITIES || t->extract == EXTRACT_RELATIONS) && (json_is_array(entry) || json_is_object(entry))) {
        Buffer b = {NULL, 0, 0};
        bool ok = value_lines(first, t->extract == EXTRACT_ENTITIES ? ", " : " ; ", &b) || fail(e, "%s: \"%s\" is a list of neither strings, pairs nor triples", where, key);
        if (ok) json_object_set_new(row, key, text_json(text_make(b.data, b.len)));
        buffer_free(&b);
        if (!ok) return false;
    }
    const json_t *labels = json_at(row, t->fields[FIELD_LABELS]);
    if (!json_is_array(labels)) labels = json_at(row, "labels");
    if (!json_is_array(labels)) labels = json_at(row, t->fields[FIELD_GOLD]);
    bool places = tagged && json_is_array(labels) && json_is_string(json_array_get(labels, 0)) && tag_good(text_of(json_string_value(json_array_get(labels, 0))));
    if (places && !json_at(row, t->fields[FIELD_TOKENS]) && !json_at(row, "tokens") && !json_at(row, t->fields[FIELD_TEXT])) {   // tags without their tokens: compared place by place
        json_t *tokens = json_array();
        for (size_t i = 0; i < json_array_size(labels); i++) json_array_append_new(tokens, json_string(""));
        json_object_set_new(row, t->fields[FIELD_TOKENS], tokens);
    }
    return true;
}

FN bool prediction_label(void *user, json_t *row, const char *where, int64_t number, Error *e) {   // what rows say is right, once each: the labels of a task that has none of its own
    PredictionReader *r = (PredictionReader *)user;
    const json_t *gold = json_at(row, r->task->fields[FIELD_GOLD]);
    if (!gold) gold = json_at(row, r->task->fields[FIELD_ANSWER]);
    if (json_is_array(gold) && json_array_size(gold) == 1) gold = json_array_get(gold, 0);
    bool there = !json_is_string(gold) || json_array_size(r->labels) >= TASK_MAX_CHOICES;
    for (size_t i = 0; !there && i < json_array_size(r->labels); i++) there = text_same_wording(text_of(json_string_value(json_array_get(r->labels, i))), text_trim(text_of(json_string_value(gold))));
    if (!there) json_array_append_new(r->labels, text_json(text_trim(text_of(json_string_value(gold)))));
    (void)where; (void)number; (void)e;
    return true;
}

FN bool prediction_row(void *user, json_t *row, const char *where, int64_t number, Error *e) {
    PredictionReader *r = (PredictionReader *)user;
    const Task *t = r->task;
    if (!json_is_object(row)) return fail(e, "%s: the row is %s, expected an object", where, json_type_name(row));
    const json_t *output = json_object_get(row, "output"), *query = NULL;
    if (r->n == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 64;
        r->docs = (Doc *)xrealloc(r->docs, r->cap, sizeof(Doc));
        r->outputs = (Text *)xrealloc(r->outputs, r->cap, sizeof(Text));
        r->truncated = (bool *)xrealloc(r->truncated, r->cap, sizeof(bool));
        r->tokens = (int64_t *)xrealloc(r->tokens, r->cap, sizeof(int64_t));
    }
    Doc *d = &r->docs[r->n];
    Buffer lines = {NULL, 0, 0};
    memset(d, 0, sizeof *d);
    r->tokens[r->n] = -1;
    if (!prediction_cut(row, where, &r->truncated[r->n], e)) return false;
    if (json_is_integer(json_object_get(row, "tokens")) && !json_get_int(row, "tokens", where, false, 0, 1ll << 40, &r->tokens[r->n], e)) return false;
    json_t *copy = json_copy(row);   // of the object only
    const bool lists = t->extract == EXTRACT_ENTITIES || t->extract == EXTRACT_TAGS || t->extract == EXTRACT_RELATIONS || t->extract == EXTRACT_SENTENCES || t->extract == EXTRACT_SUMMARY;
    bool ok = ((lists || json_is_string(output) || json_is_number(output)) && value_lines(output, t->extract == EXTRACT_RELATIONS ? " ; " : ", ", &lines)) || fail(e, "%s: \"output\" is %s, expected a string", where, json_type_name(output));
    ok = ok && prediction_gold(r, copy, where, e) && doc_fill(t, copy, number, where, d, &query, e);
    json_decref(copy);
    if (ok) r->outputs[r->n] = doc_own(d, lines.data ? lines.data : xstrdup(""), lines.len);
    else buffer_free(&lines);
    bool placeless = ok && t->extract == EXTRACT_ENTITIES && d->num_labels && d->tokens[0].length == 0;
    if (placeless) {
        TextList tags = tags_bare(r->outputs[r->n]);
        ok = tags.n == d->num_labels || r->outputs[r->n].length == 0 || fail(e, "%s: the gold answer is tags, the output is not %d tags, and there is no \"%s\" or \"%s\" to find its entities in", where, d->num_labels, t->fields[FIELD_TEXT], t->fields[FIELD_TOKENS]);
        text_list_free(&tags);
    }
    if (ok && json_at(row, t->fields[FIELD_ID]) && !id_add(&r->ids, d->id)) ok = fail(e, "%s: the id \"%.*s\" is there twice", where, (int)(d->id.length < 64 ? d->id.length : 64), d->id.data);
    if (!ok) { doc_free(d); return false; }
    r->n++;
    return true;
}
FN void prediction_reader_free(PredictionReader *r) {
    docs_free(r->docs, r->n);
    free(r->outputs); free(r->truncated); free(r->tokens); free(r->ids.slots);
    json_decref(r->labels);
}

FN json_t *score_line(const Task *t, json_t *full, int64_t missing, int64_t n) {   // flat: what `eval score` prints
    json_t *j = json_object(), *errors = json_object(), *low = json_object(), *high = json_object(), *value;
    const char *name;
    json_object_set_new(j, "task", json_string(t->name));
    json_object_set(j, "n", json_object_get(full, "n"));
    json_object_set(j, "bad_rows", json_object_get(full, "bad_rows"));
    json_object_foreach(json_object_get(full, "metrics"), name, value) {
        json_object_set(j, name, json_object_get(value, "value"));
        json_object_set(errors, name, json_object_get(value, "stderr"));
        json_object_set(low, name, json_object_get(value, "low"));
        json_object_set(high, name, json_object_get(value, "high"));
    }
    if (!json_object_get(j, "missing")) json_object_set_new(j, "missing", json_real((double)missing / (double)n));   // the share of rows without an answer
    static const char *const kept[] = {"metric", "score", "baselines", "outcomes", "overlength_ratio", "confusion", "task_hash", "extractor"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) json_object_set(j, kept[i], json_object_get(full, kept[i]));
    json_object_set_new(j, "stderr", errors);
    json_object_set_new(j, "low", low);
    json_object_set_new(j, "high", high);
    return j;
}

FN bool score_records(const char *path, const Task *t, const PredictionReader *r, const Sample *samples, Error *e) {
    AtomicFile f;
    if (!atomic_open(&f, path, e)) return false;
    bool ok = true;
    for (int64_t i = 0; ok && i < r->n; i++) {
        json_t *j = sample_json(t, &r->docs[i], &samples[i], r->docs[i].number, r->outputs[i]);
        char *line = json_dumps(j, JSON_COMPACT);
        CHECK(line);
        ok = atomic_write(&f, line, (int64_t)strlen(line), e) && atomic_write(&f, "\n", 1, e);
        free(line);
        json_decref(j);
    }
    if (!ok) { atomic_abandon(&f); return false; }
    return atomic_commit(&f, e);
}

FN bool score_file(const Task *t, const char *predictions, const char *records, const ScoreOptions *o, FILE *out, Error *e) {
    PredictionReader r;
    BadRows bad = {predictions, o->strict, 0};
    memset(&r, 0, sizeof r);
    r.task = t;
    const bool listed = t->extract == EXTRACT_LABEL && t->num_choices == 0;
    BadRows unheard = {predictions, false, ROWS_SHOWN};   // the second reading says what is wrong
    r.labels = listed ? json_array() : json_pack("[s,s,s,s,s,s,s,s,s,s]", "A", "B", "C", "D", "E", "F", "G", "H", "I", "J");
    bool ok = score_options_check(t, o, e) && (!listed || rows_each(predictions, prediction_label, &r, &unheard, e)) && rows_each(predictions, prediction_row, &r, &bad, e);
    bad_rows_end(&bad);
    if (ok && r.n == 0) ok = fail(e, "%s: has no rows for task %s%s", predictions, t->name, bad.bad ? " that can be scored ---> see the lines above" : "");
    int most = 1;
    for (int64_t i = 0; i < r.n && r.letters_unknown; i++) most = r.docs[i].gold > most ? r.docs[i].gold : most;
    for (int64_t i = 0; i < r.n && r.letters_unknown; i++) r.docs[i].num_choices = most + 1;   // as many as are ever right
    Sample *samples = (Sample *)xcalloc(r.n, sizeof(Sample));
    int64_t missing = 0, scored = ok ? r.n : 0;
    for (int64_t i = 0; i < scored; i++) {
        sample_score(t, &r.docs[i], r.outputs[i], r.truncated[i], o, &samples[i]);
        samples[i].tokens = r.tokens[i];
        missing += samples[i].outcome != OUTCOME_ANSWERED;
    }
    ok = ok && (!records || score_records(records, t, &r, samples, e));
    if (ok) {
        json_t *full = task_metrics(t, r.docs, samples, r.n, bad.bad, o, NULL), *line = score_line(t, full, missing, r.n);
        char *text = json_dumps(line, JSON_COMPACT);
        CHECK(text);
        fprintf(out, "%s\n", text);
        if (fflush(out) != 0) ok = fail(e, "standard output cannot be written: %s", strerror(errno));
        free(text);
        json_decref(full); json_decref(line);
    }
    samples_free(samples, scored);
    prediction_reader_free(&r);
    return ok;
}

FN int eval_score_main(int argc, char **argv) {   // argv[0] is "score"
    const char *task = NULL, *predictions = NULL, *tasks_dir = NULL, *records = NULL;
    ScoreOptions o = score_options_default();
    int64_t seed = 1;
    bool help = false;
    Error e;
    Flag flags[] = {
        {"--task", FLAG_STRING, &task, "NAME|FILE", "a task's name or alias, or the path of a task file (.json)", 0, 0, false},
        {"--predictions", FLAG_STRING, &predictions, "FILE", "JSONL rows {\"id\", \"output\", \"gold\", ..}", 0, 0, false},
        {"--tasks-dir", FLAG_STRING, &tasks_dir, "DIR", "where task files are; else data/tasks here or beside the program", 0, 0, false},
        {"--pixiu-compat", FLAG_BOOL, &o.pixiu, NULL, "read and score as the leaderboard's harness does, quirks included", 0, 0, false},
        {"--strict", FLAG_BOOL, &o.strict, NULL, "the first bad row ends the run", 0, 0, false},
        {"--samples", FLAG_STRING, &records, "FILE", "write a record of every row", 0, 0, false},
        {"--stemmer", FLAG_BOOL, &o.stemmer, NULL, "ROUGE of word stems", 0, 0, false},
        {"--bootstrap", FLAG_INT, &o.bootstrap, "N", "replicates for standard errors; 0: as many as are cheap", 0, 10000000, false},
        {"--seed", FLAG_INT, &seed, "N", "of the bootstrap", 0, 9e18, false},
    };
    const int n = (int)(sizeof flags / sizeof *flags);
    if (!flags_parse(argc, argv, 1, flags, n, NULL, &help, &e)) die("%s", e.text);
    if (help) {
        flags_help("eval score --task NAME --predictions FILE.jsonl [flags]", "Scores outputs that are there already: one JSON object of metrics on standard output, no model needed.\nA bad row is a line on standard error, counted as bad_rows.", flags, n);
        return 0;
    }
    if (!task) die("--task is missing ---> see eval score --help");
    if (!predictions) die("--predictions is missing ---> see eval score --help");
    o.seed = (uint64_t)seed;
    char *dir = tasks_dir ? xstrdup(tasks_dir) : tasks_directory();
    StringList names = {&task, 1};
    TaskList list;
    if (!tasks_find(dir, &names, &list, &e)) die("%s", e.text);
    free(dir);
    if (list.n != 1) { int found = list.n; tasks_free(&list); die("--task \"%s\" is %d tasks, expected one", task, found); }
    Task *t = &list.items[0];
    bool rouges = metric_applies(t->extract, METRIC_ROUGE1);
    bool ok = rouges || flag_unused(flags, n, "--stemmer", "this task has no ROUGE", &e);
    ok = ok && output_is_apart("--samples", records, predictions, &e) && score_file(t, predictions, records, &o, stdout, &e);
    tasks_free(&list);
    if (!ok) die("%s", e.text);
    return 0;
}

#endif
