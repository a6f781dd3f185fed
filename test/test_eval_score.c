// test_eval_score.c: what is read out of an output (test/data/extract.jsonl, by hand), task files and rows, scores by hand, and the leaderboard's harness, quirk by quirk
// (test/data/pixiu.json, made by dev/eval_pixiu_reference.py). That whatever is damaged costs one line.
#include "findap/eval_predictions.h"
#include <sys/wait.h>       // defines: WEXITSTATUS
#include "test/check.h"
#include "test/scratch.h"   // defines: directory, setup, teardown, in

static void must(bool ok, const Error *e) { if (!ok) fail_msg("%s", e->text); }

static const char tasks[] = "test/data/tasks";

static const char *put(const char *name, const char *data, int64_t n) {   // not synced to the disk, as write_file would: there are thousands
    FILE *f = fopen(in(name), "wb");
    assert_non_null(f);
    assert_true((n == 0 || fwrite(data, 1, (size_t)n, f) == (size_t)n) && fclose(f) == 0);
    return in(name);
}

static void load(const char *name, Task *t) {
    Error e;
    char *path = xprintf("%s/%s.json", tasks, name);
    must(task_load(path, t, &e), &e);
    free(path);
}

// ---- reading

static bool tags_are(const json_t *want, const TextList *tags) {
    bool same = (int)json_array_size(want) == tags->n;
    for (int i = 0; same && i < tags->n; i++) same = text_equal(tags->items[i], text_of(json_string_value(json_array_get(want, (size_t)i))));
    return same;
}
// what stands in the row as "answer" is what was read
static bool reading_is(const Task *t, const Doc *d, const json_t *row, Text output, bool cut, const Answer *a, const Sample *s) {
    const json_t *want = json_object_get(row, "answer");
    bool same = false;
    TextList list = {NULL, 0, NULL, 0};
    int n = 0;
    if (t->extract == EXTRACT_LABEL || t->extract == EXTRACT_LETTER) return s->pred >= 0 && text_equal(d->choices[s->pred], text_of(json_string_value(want)));
    if (t->extract == EXTRACT_FLOAT || (t->extract == EXTRACT_NUMBER && json_is_number(want))) return json_is_number(want) && fabs(a->number.value - json_number_value(want)) <= 1e-12 * fabs(a->number.value);
    if (t->extract == EXTRACT_TEXT || t->extract == EXTRACT_NUMBER || t->extract == EXTRACT_SUMMARY) return text_equal(a->text, text_of(json_string_value(want)));
    if (t->extract == EXTRACT_SENTENCES) {
        uint8_t marks[64] = {0};
        same = sentences_read(a->text, marks, d->num_tokens);
        for (int i = 0; same && i < d->num_tokens; i++) same = marks[i] == json_integer_value(json_array_get(want, (size_t)i));
        return same;
    }
    Text lines = without_cut_line(a->text, cut);
    if (t->extract == EXTRACT_RELATIONS) list = relations_read(lines);
    if (t->extract == EXTRACT_TAGS) list = tags_read(t, lines, d->tokens, d->num_tokens, &n);
    if (t->extract == EXTRACT_ENTITIES) { Entity *x = entities_read(t, lines, &n); list = entities_project(x, n, d->tokens, d->num_tokens); free(x); }
    same = tags_are(want, &list);
    text_list_free(&list);
    (void)output;
    return same;
}

typedef struct { int64_t rows, readable, read, wrong, outcomes; } Readings;
static bool reading_row(void *user, json_t *row, const char *where, int64_t number, Error *e) {
    Readings *r = (Readings *)user;
    Task t;
    Doc d;
    Sample s;
    ScoreOptions o = score_options_default();
    const json_t *query, *answer = json_object_get(row, "answer"), *outcome = json_object_get(row, "outcome");
    load(json_string_value(json_object_get(row, "task")), &t);
    json_t *copy = json_copy(row);
    json_object_del(copy, "answer");
    if (t.extract == EXTRACT_LABEL || t.extract == EXTRACT_LETTER) json_object_set_new(copy, "gold", json_integer(0));
    if (t.extract == EXTRACT_ENTITIES || t.extract == EXTRACT_RELATIONS) json_object_set_new(copy, "gold", json_string(""));
    if (t.extract == EXTRACT_TAGS) json_object_set_new(copy, "label", json_pack("[s,s,s,s,s]", "O", "O", "O", "O", "O"));
    if (t.extract == EXTRACT_SENTENCES) json_object_set_new(copy, "label", json_pack("[i,i,i]", 0, 1, 0));
    memset(&d, 0, sizeof d);
    must(doc_fill(&t, copy, number, where, &d, &query, e), e);
    Text output = text_of(json_string_value(json_object_get(row, "output")));
    bool cut = json_is_true(json_object_get(row, "truncated"));
    sample_score(&t, &d, output, cut, &o, &s);
    Answer a = answer_extract(&t, &d, output, cut);
    r->rows++;
    const char *want = json_is_string(outcome) ? json_string_value(outcome) : "answered";   // "none": whichever, but no answer
    bool given = s.outcome == OUTCOME_ANSWERED, same = !json_is_null(answer) && reading_is(&t, &d, row, output, cut, &a, &s);
    if (!json_is_null(answer)) r->readable++;
    if (given && same) r->read++;
    if (given && !same) { r->wrong++; printf("wrong reading: %s: \"%.*s\" -> %s\n", where, (int)output.length, output.data, s.answer ? s.answer : "?"); }
    else if (!given && json_is_null(answer) && strcmp(want, "none") != 0 && strcmp(outcome_names[s.outcome], want) != 0) { r->outcomes++; printf("%s: \"%.*s\" is %s, expected %s\n", where, (int)output.length, output.data, outcome_names[s.outcome], want); }
    else if (!given && !json_is_null(answer) && !json_is_string(outcome)) printf("not read: %s: \"%.*s\" (%s)\n", where, (int)output.length, output.data, outcome_names[s.outcome]);
    if (json_is_string(outcome) && !json_is_null(answer)) { if (strcmp(outcome_names[s.outcome], want) != 0 || !same) r->outcomes++; r->readable--; }   // read in part, and said to be so
    sample_free(&s); doc_free(&d); json_decref(copy); task_free(&t);
    return true;
}
static void reads_by_hand(void **state) {
    (void)state;
    Readings r = {0, 0, 0, 0, 0};
    BadRows bad = {"", true, 0};
    Error e;
    must(rows_each("test/data/extract.jsonl", reading_row, &r, &bad, &e), &e);
    printf("%s: %lld outputs, %lld with an answer, false negatives %.1f %%\n", EXTRACTOR_VERSION, (long long)r.rows, (long long)r.readable, 100.0 * (double)(r.readable - r.read) / (double)r.readable);
    assert_int_equal(r.wrong, 0);
    assert_int_equal(r.outcomes, 0);
    assert_true(r.rows >= 150 && r.readable - r.read <= r.readable / 20);
}

// ---- scores

// writes rows, scores them as `eval score` does, returns the object
static json_t *score_rows(const char *task, const char *rows, const ScoreOptions *o, Error *e) {
    Task t;
    char *printed = NULL;
    size_t size = 0;
    load(task, &t);
    put("rows.jsonl", rows, (int64_t)strlen(rows));
    FILE *out = open_memstream(&printed, &size);
    bool ok = score_file(&t, in("rows.jsonl"), NULL, o, out, e);
    fclose(out);
    json_t *j = ok ? json_parse("printed", printed, (int64_t)size, e) : NULL;
    free(printed);
    task_free(&t);
    return j;
}
static void is_near(const json_t *j, const char *key, double want, double tolerance) {
    const json_t *v = json_object_get(j, key);
    if (!json_is_number(v) || !(fabs(json_number_value(v) - want) <= tolerance)) fail_msg("%s is %.12g, expected %.12g", key, json_is_number(v) ? json_number_value(v) : NAN, want);
}

static void classes_by_hand(void **state) {   // peers.md C.1
    (void)state;
    static const char *const gold[] = {"positive", "negative", "neutral", "positive", "negative", "neutral", "positive", "negative", "negative", "positive"},
        *const said[] = {"positive", "Negative.", "positive", "Answer: positive", "neutral", "It is neutral.", "who knows", "negative", "positive", "bullish"};
    char rows[4096];
    size_t n = 0;
    Error e;
    for (int i = 0; i < 10; i++) n += (size_t)snprintf(rows + n, sizeof rows - n, "{\"id\": %d, \"output\": \"%s\", \"gold\": \"%s\"}\n", i, said[i], gold[i]);
    ScoreOptions o = score_options_default();
    json_t *j = score_rows("sentiment", rows, &o, &e);
    must(j != NULL, &e);
    is_near(j, "acc", 0.6, 1e-12);
    is_near(j, "macro_f1", 0.611111111, 1e-9);
    is_near(j, "macro_f1_all", 0.458333333, 1e-9);
    is_near(j, "weighted_f1", 0.633333333, 1e-9);
    is_near(j, "micro_f1", 0.631578947, 1e-9);
    is_near(j, "mcc", 0.430820218, 1e-9);
    is_near(j, "missing", 0.1, 1e-12);
    is_near(j, "score", 0.633333333, 1e-9);   // the task's metric is weighted F1
    is_near(json_object_get(j, "stderr"), "acc", 0.163299316, 1e-9);
    is_near(json_object_get(j, "outcomes"), "missing", 1, 0);
    is_near(json_object_get(j, "outcomes"), "answered", 9, 0);
    const json_t *counts = json_object_get(json_object_get(j, "confusion"), "counts");
    assert_int_equal(json_integer_value(json_array_get(json_array_get(counts, 0), 3)), 1);   // one positive row has no answer
    assert_int_equal(json_integer_value(json_array_get(json_array_get(counts, 2), 2)), 2);
    json_t *again = score_rows("sentiment", rows, &o, &e);
    assert_true(json_equal(j, again));   // the bootstrap is seeded
    json_decref(j); json_decref(again);
}

static void others_by_hand(void **state) {
    (void)state;
    Error e;
    ScoreOptions o = score_options_default();
    // numbers: right to 5 decimals, right as far as the gold number is written, right to 1 %, wrong; words
    json_t *j = score_rows("quantity", "{\"id\":1,\"output\":\"Answer: 0.375\",\"gold\":0.375}\n{\"id\":2,\"output\":\"127.44\",\"gold\":\"127.4\"}\n{\"id\":3,\"output\":\"37.5%\",\"gold\":\"37.2\"}\n"
        "{\"id\":4,\"output\":\"9\",\"gold\":\"8\"}\n{\"id\":5,\"output\":\"Yes.\",\"gold\":\"yes\"}\n{\"id\":6,\"output\":\"three\",\"gold\":\"3\"}\n{\"id\":7,\"output\":\"Answer: 5\\nAnswer: 6\",\"gold\":[\"6\", \"5\"]}\n{\"id\":8,\"output\":\"6\",\"gold\":[\"5\",\"6\"]}\n", &o, &e);
    must(j != NULL, &e);
    is_near(j, "number_strict", 3.0 / 8, 1e-12);
    is_near(j, "number_rounded", 4.0 / 8, 1e-12);
    is_near(j, "number_relaxed", 5.0 / 8, 1e-12);
    is_near(j, "em", 3.0 / 8, 1e-12);
    is_near(json_object_get(j, "outcomes"), "missing", 1, 0);
    is_near(json_object_get(j, "outcomes"), "ambiguous", 1, 0);
    json_decref(j);
    // the majority baseline is what one gold answer, given every time, would score: equal numbers, several golds, other spellings count
    j = score_rows("quantity", "{\"id\":1,\"output\":\"1\",\"gold\":\"5\"}\n{\"id\":2,\"output\":\"1\",\"gold\":\"5.0\"}\n{\"id\":3,\"output\":\"1\",\"gold\":5}\n{\"id\":4,\"output\":\"1\",\"gold\":\"7\"}\n", &o, &e);
    must(j != NULL, &e);
    is_near(json_object_get(j, "baselines"), "majority", 0.75, 1e-12);
    json_decref(j);
    j = score_rows("open", "{\"id\":1,\"output\":\"x\",\"gold\":[\"a\",\"b\"]}\n{\"id\":2,\"output\":\"x\",\"gold\":[\"B.\",\"c\"]}\n{\"id\":3,\"output\":\"x\",\"gold\":[\"d\"]}\n{\"id\":4,\"output\":\"x\",\"gold\":[\"b\"]}\n", &o, &e);
    must(j != NULL, &e);
    is_near(json_object_get(j, "baselines"), "majority", 0.75, 1e-12);
    json_decref(j);
    // RMSE: the refusal costs the most that it could, 1.5
    j = score_rows("tone", "{\"id\":1,\"output\":\"-0.5\",\"gold\":-0.2}\n{\"id\":2,\"output\":\"0.4\",\"gold\":\"0.4\"}\n{\"id\":3,\"output\":\"I would rather not\",\"gold\":-0.5}\n", &o, &e);
    must(j != NULL, &e);
    is_near(j, "rmse", sqrt((0.09 + 2.25) / 3), 1e-12);
    is_near(j, "rmse_answered", sqrt(0.09 / 2), 1e-12);
    json_decref(j);
    // entities: gold tags, gold lines; the last word counts here
    j = score_rows("names", "{\"id\":1,\"text\":\"Ann met Bob\",\"output\":\"Bob, PER\\nAnn, ORG\",\"gold\":[\"B-PER\",\"O\",\"B-PER\"]}\n{\"id\":2,\"text\":\"in New York\",\"output\":\"New York, LOC\",\"gold\":\"New York, LOC\"}\n"
        "{\"id\":3,\"text\":\"in Rome\",\"output\":\"none\",\"gold\":[\"Rome, LOC\"]}\n{\"id\":4,\"output\":\"Ann, PER\",\"gold\":\"Ann, PER\"}\n", &o, &e);
    must(j != NULL, &e);
    is_near(j, "entity_f1", 2 * 3.0 / (4 + 5), 1e-12);   // 3 right, 4 said, 5 there
    json_decref(j);
    for (int stem = 0; stem < 2; stem++) {   // ROUGE of what was said, of stems where they are asked for
        o.stemmer = stem;
        j = score_rows("names", "{\"id\":1,\"output\":\"running banks, ORG\",\"gold\":\"run bank, ORG\"}\n", &o, &e);
        must(j != NULL, &e);
        is_near(j, "rouge1", stem ? 1 : 1.0 / 3, 1e-12);
        json_decref(j);
    }
    o.stemmer = false;
    // tags: 4 of 5 tokens; one entity of two
    j = score_rows("causes", "{\"id\":1,\"token\":[\"a\",\"b\",\"c\",\"d\",\"e\"],\"output\":\"a:B-CAUSE\\nb:I-CAUSE\\nc:O\\nd:B-EFFECT\",\"gold\":[\"B-CAUSE\",\"I-CAUSE\",\"O\",\"B-EFFECT\",\"I-EFFECT\"]}\n", &o, &e);
    must(j != NULL, &e);
    is_near(j, "acc", 0.8, 1e-12);
    is_near(j, "entity_f1", 0.5, 1e-12);
    is_near(j, "weighted_f1", (1 + 1 + 2.0 / 3 + 1 + 0) / 5, 1e-12);
    json_decref(j);
    j = score_rows("triplets", "{\"id\":1,\"output\":\"a ; b ; owned by\\nx ; y ; brand\",\"gold\":[\"A ; B ; owned_by\"]}\n{\"id\":2,\"output\":\"nothing found here\",\"gold\":\"a ; b ; owned_by\"}\n", &o, &e);
    must(j != NULL, &e);
    is_near(j, "relation_f1", 0.5, 1e-12);   // a relation of another row is none of this one
    json_decref(j);
    j = score_rows("digest", "{\"id\":1,\"output\":\"The company's revenue rose 12.5 percent in Q3 to $1.2 bn and beat guidance\",\"gold\":\"Q3 revenue rose 12.5% to $1.2bn, beating the company's own guidance.\"}\n", &o, &e);
    must(j != NULL, &e);
    is_near(j, "rouge1", 0.709677419, 1e-9);
    is_near(j, "rouge2", 0.413793103, 1e-9);
    is_near(j, "rougeL", 0.451612903, 1e-9);
    json_decref(j);
    j = score_rows("picked", "{\"id\":1,\"text\":\"Sales rose.\\nIt rained.\\nCosts fell.\",\"output\":\"1\\n0\\n0\",\"gold\":[1,0,1]}\n", &o, &e);
    must(j != NULL, &e);
    is_near(j, "rouge1", 2 * 1 * 0.5 / 1.5, 1e-12);
    json_decref(j);
    // headlines: the mean over kinds of question
    j = score_rows("headlines", "{\"id\":1,\"label_type\":\"up\",\"output\":\"Yes\",\"gold\":\"Yes\"}\n{\"id\":2,\"label_type\":\"up\",\"output\":\"no.\",\"gold\":\"No\"}\n{\"id\":3,\"label_type\":\"down\",\"output\":\"Yes\",\"gold\":1}\n", &o, &e);
    must(j != NULL, &e);
    is_near(j, "avg_f1", 0.5, 1e-12);
    json_decref(j);
    j = score_rows("open", "{\"id\":1,\"output\":\"Answer: December 1972\",\"gold\":[\"14 December 1972\",\"December 1972\"]}\n{\"id\":2,\"output\":\"-3\",\"gold\":\"3\"}\n", &o, &e);
    must(j != NULL, &e);
    is_near(j, "em", 0.5, 1e-12);
    json_decref(j);
    // letters: gold as a letter, an index, an option's text; without a list of options too
    j = score_rows("exam", "{\"id\":1,\"output\":\"B\",\"gold\":\"B\",\"choices\":[\"x\",\"y\",\"z\"]}\n{\"id\":2,\"output\":\"Selection: [[C]]\",\"gold\":2,\"choices\":[\"x\",\"y\",\"z\"]}\n{\"id\":3,\"output\":\"y\",\"gold\":\"y\",\"choices\":[\"x\",\"y\",\"z\"]}\n"
        "{\"id\":4,\"output\":\"D\",\"gold\":\"A\"}\n", &o, &e);
    must(j != NULL, &e);
    is_near(j, "acc", 0.75, 1e-12);
    json_decref(j);
}

static void like_the_harness(void **state) {   // test/data/pixiu.json, of dev/eval_pixiu_reference.py
    (void)state;
    Error e;
    ScoreOptions o = score_options_default();
    o.pixiu = o.strict = true;
    o.bootstrap = 10;
    json_t *cases = json_parse_file("test/data/pixiu.json", 1 << 20, &e), *want, *v;
    must(cases != NULL, &e);
    const char *key;
    int64_t numbers = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i), *list = json_object_get(c, "rows");
        Buffer rows = {NULL, 0, 0};
        for (size_t k = 0; k < json_array_size(list); k++) { char *s = json_dumps(json_array_get(list, k), JSON_COMPACT); buffer_add(&rows, s, (int64_t)strlen(s)); buffer_add(&rows, "\n", 1); free(s); }
        buffer_add(&rows, "", 1);
        json_t *j = score_rows(json_string_value(json_object_get(c, "task")), rows.data, &o, &e);
        must(j != NULL, &e);
        want = json_object_get(c, "want");
        json_object_foreach(want, key, v) { is_near(j, key, json_number_value(v), 1e-9); numbers++; }
        buffer_free(&rows);
        json_decref(j);
    }
    assert_true(json_array_size(cases) == 13 && numbers > 30);
    json_decref(cases);
}

static void choices_by_likelihood(void **state) {
    (void)state;
    Error e;
    Task t;
    Doc d;
    Sample s;
    ScoreOptions o = score_options_default();
    load("pick", &t);
    static const char text[] = "{\"query\":\"q\",\"choices\":[\"aa\",\"b\xC3\xA9\xC3\xA9\xC3\xA9\"],\"gold\":1}";
    json_t *row = json_parse("row", text, sizeof text - 1, &e);
    must(row != NULL, &e);
    must(doc_make(&t, row, 0, "row", false, &d, &e), &e);
    double logps[2] = {-3, -5};   // -1.5 and -1.25 a character: characters, not bytes
    sample_score_choices(&t, &d, logps, &o, &s);
    assert_true(s.pred == 0 && s.value[METRIC_ACC] == 0 && s.value[METRIC_ACC_NORM] == 1 && s.outcome == OUTCOME_ANSWERED);
    sample_free(&s);
    logps[0] = logps[1] = NAN;
    sample_score_choices(&t, &d, logps, &o, &s);
    assert_true(s.pred == -1 && s.value[METRIC_ACC] == 0 && s.outcome == OUTCOME_MISSING);
    json_t *j = task_metrics(&t, &d, &s, 1, 0, &o, NULL);
    assert_string_equal(json_string_value(json_object_get(j, "metric")), "acc_norm");
    is_near(json_object_get(j, "baselines"), "random", 0.5, 1e-12);
    json_decref(j);
    sample_free(&s); doc_free(&d); json_decref(row); task_free(&t);
}

// ---- tasks and rows

static void published_beside_its_own_metric(void **state) {   // an accuracy that was published says nothing beside an MCC
    (void)state;
    static const char text[] = "{\"name\":\"a\",\"extract\":\"label\",\"choices\":[\"good\",\"bad\"],\"metric\":\"mcc\",\"suites\":{\"one\":{\"metric\":\"acc\",\"published\":{\"X\":64}},\"two\":{\"published\":{\"Y\":1.5}}}}";
    static const struct { const char *suite, *metric, *who, *not_who; } cases[] = {{NULL, "mcc", "Y", "X"}, {"one", "acc", "X", "Y"}, {"two", "mcc", "Y", "X"}};
    Task t;
    Error e;
    must(task_load(put("published.json", text, (int64_t)sizeof text - 1), &t, &e), &e);
    ScoreOptions o = score_options_default();
    for (int i = 0; i < 3; i++) {
        json_t *j = task_metrics(&t, NULL, NULL, 0, 0, &o, cases[i].suite), *published = json_object_get(j, "published");
        assert_string_equal(json_string_value(json_object_get(j, "metric")), cases[i].metric);
        assert_true(json_object_get(published, cases[i].who) && !json_object_get(published, cases[i].not_who));
        json_decref(j);
    }
    task_free(&t);
    assert_int_equal(unlink(in("published.json")), 0);
}

static void bad_tasks(void **state) {
    (void)state;
    static const struct { const char *json, *says; } bad[] = {
        {"[]", "expected an object"}, {"{", "not valid JSON"}, {"{\"extract\":\"label\"}", "\"name\" is missing"}, {"{\"name\":\"a\"}", "\"extract\" is missing"}, {"{\"name\":\"A B\",\"extract\":\"label\"}", "small letters"},
        {"{\"name\":\"a\",\"extract\":\"guess\"}", "expected label, letter"}, {"{\"name\":\"a\",\"extract\":\"label\",\"metrics\":\"acc\"}", "unknown key \"metrics\""},
        {"{\"name\":\"a\",\"extract\":\"label\",\"metric\":\"rouge1\"}", "do not have"}, {"{\"name\":\"a\",\"extract\":\"label\",\"choices\":[\"x\"]}", "one entry"}, {"{\"name\":\"a\",\"extract\":\"label\",\"choices\":[\"x\",\"X\"]}", "twice"},
        {"{\"name\":\"a\",\"extract\":\"label\",\"choices\":[\"x\",1]}", "expected a string"}, {"{\"name\":\"a\",\"extract\":\"label\",\"prompt\":\"{query\"}", "never closed"}, {"{\"name\":\"a\",\"extract\":\"label\",\"prompt\":\"a } b\"}", "closes nothing"},
        {"{\"name\":\"a\",\"extract\":\"label\",\"cot\":\"think\"}", "no {prompt}"}, {"{\"name\":\"a\",\"extract\":\"number\",\"request\":\"choices\"}", "needs \"extract\" label"},
        {"{\"name\":\"a\",\"extract\":\"label\",\"fields\":{\"querry\":\"q\"}}", "unknown key \"querry\""}, {"{\"name\":\"a\",\"extract\":\"label\",\"max_new\":0}", "expected 1 to"}, {"{\"name\":\"a\",\"extract\":\"label\",\"max_new\":1e3}", "expected an integer"},
        {"{\"name\":\"a\",\"extract\":\"label\",\"suites\":{\"s\":{\"metric\":\"mccc\"}}}", "\"mccc\""}, {"{\"name\":\"a\",\"extract\":\"label\",\"suites\":{\"s\":{\"published\":{\"x\":\"9\"}}}}", "expected a number"},
        {"{\"name\":\"a\",\"extract\":\"label\",\"choices\":[\"x\",\"y\"],\"keywords\":{\"z\":[\"w\"]}}", "none of \"choices\""}, {"{\"name\":\"a\",\"extract\":\"float\",\"range\":[1,0]}", "lower number first"},
        {"{\"name\":\"a\",\"extract\":\"label\",\"range\":[0,1]}", "extracts \"float\""}, {"{\"name\":\"a\",\"extract\":\"label\",\"pixiu\":{\"class\":\"ner\"}}", "expected \"entities\""}, {"{\"name\":\"a\",\"extract\":\"label\",\"labels_are\":\"letters\"}", "expected \"letter\""},
        {"{\"name\":\"a\",\"name\":\"b\",\"extract\":\"label\"}", "duplicate"}, {"{\"name\":\"a\\u0000b\",\"extract\":\"label\"}", "NUL"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Error e;
        Task t;
        put("bad.json", bad[i].json, (int64_t)strlen(bad[i].json));
        assert_false(task_load(in("bad.json"), &t, &e));
        if (!strstr(e.text, bad[i].says) || !strstr(e.text, "bad.json")) fail_msg("\"%s\" says nothing of \"%s\"", e.text, bad[i].says);
    }
}

static void quietly(bool begin) {   // what is written on stderr goes nowhere
    static int kept = -1;
    fflush(stderr);
    if (begin) { kept = dup(2); int null = open("/dev/null", O_WRONLY); dup2(null, 2); close(null); }
    else { dup2(kept, 2); close(kept); }
}
static void found_tasks(void **state) {
    (void)state;
    Error e;
    TaskList l;
    const char *names[] = {"MOOD", "two", "test/data/tasks/tone.json"};
    StringList list = {names, 3};
    must(tasks_find(tasks, &list, &l, &e), &e);
    assert_int_equal(l.n, 3);   // sentiment is of suite "two", too, but comes once
    assert_string_equal(l.items[0].name, "sentiment");
    assert_string_equal(l.items[1].name, "fraud");
    assert_string_equal(l.items[2].name, "tone");
    assert_int_equal(json_integer_value(json_object_get(task_suite(&l.items[0], "one"), "order")), 2);
    tasks_free(&l);
    names[0] = "all";
    list.n = 1;
    must(tasks_find(tasks, &list, &l, &e), &e);
    assert_true(l.n >= 15);
    tasks_free(&l);
    static const char *const spellings[][2] = {{"Flare-Mood", "sentiment"}, {"SomeBody/flare_tone", "tone"}, {"flare sentiment", "sentiment"}, {"TWO", "sentiment"}};
    for (int i = 0; i < 4; i++) {
        names[0] = spellings[i][0];
        must(tasks_find(tasks, &list, &l, &e), &e);
        assert_string_equal(l.items[0].name, spellings[i][1]);
        tasks_free(&l);
    }
    // a file that is damaged, or takes another's name, is left out; the others are there
    static const char *const files[][2] = {{"few/a.json", "{\"name\": \"a\", \"extract\": \"label\", \"choices\": [\"x\", \"y\"], \"aliases\": [\"first\"]}"}, {"few/b.json", "{\"name\": \"b\", \"extract\":"},
        {"few/c.json", "{\"name\": \"c\", \"extract\": \"text\", \"aliases\": [\"FIRST\"]}"}, {"few/d.json", "{\"name\": \"d\", \"extract\": \"text\"}"}, {"few/e.json", ""}};
    must(make_directory(in("few"), &e), &e);
    for (int i = 0; i < 5; i++) put(files[i][0], files[i][1], (int64_t)strlen(files[i][1]));
    char *few = xstrdup(in("few"));
    quietly(true);
    for (int i = 0; i < 2; i++) {
        names[0] = i ? "first" : "all";
        bool ok = tasks_find(few, &list, &l, &e);
        if (!ok || l.n != (i ? 1 : 2) || strcmp(l.items[0].name, "a") != 0) { quietly(false); fail_msg("%s: %d tasks", names[0], l.n); }
        tasks_free(&l);
    }
    quietly(false);
    free(few);
    names[0] = "nothing";
    assert_false(tasks_find(tasks, &list, &l, &e));
    assert_non_null(strstr(e.text, "nothing"));
    names[0] = "test/data/tasks/absent.json";
    assert_false(tasks_find(tasks, &list, &l, &e));
}

static void good_rows(void **state) {
    (void)state;
    Error e;
    Task t;
    Doc *d;
    int64_t n, bad;
    load("sentiment", &t);
    static const char rows[] = "\xEF\xBB\xBF{\"id\":\"a\",\"query\":\"?\",\"text\":\"It {rose}.\",\"answer\":\"Positive\",\"choices\":[\"negative\",\"positive\",\"neutral\"],\"gold\":1}\r\n\n  \n"
        "{\"id\":\"b\",\"conversations\":[{\"from\":\"human\",\"value\":\"q\"},{\"from\":\"agent\",\"value\":\"neutral\"}],\"text\":\"x\",\"label\":\"neutral\"}\n{\"gold\":\"negative\",\"text\":\"y\"}";
    put("good.jsonl", rows, sizeof rows - 1);
    must(docs_load(&t, in("good.jsonl"), true, -1, 1, true, &d, &n, &bad, &e), &e);
    assert_true(n == 3 && bad == 0 && d[0].gold == 0 && d[1].gold == 1 && d[2].gold == 2);
    assert_true(d[0].row_order[0] == 2 && d[0].row_order[1] == 0);   // as the row lists them
    assert_true(text_equal(d[0].prompt, text_of("Is the mood of this sentence positive, neutral or negative?\nIt {rose}.\n\nThink first.")));   // what a value says is no placeholder
    assert_true(text_equal(d[2].id, text_of("2")) && text_equal(doc_target(&t, &d[1]), text_of("neutral")));
    docs_free(d, n);
    task_free(&t);
    load("exam", &t);
    static const char array[] = "[{\"query\":\"Which?\",\"choices\":[\"up\",\"down\"],\"gold\":1},\n {\"query\":\"Who?\",\"choices\":[\"A\",\"B\",\"C\"],\"answer\":\"C\"}, {\"query\":\"How?\",\"choices\":[\"well\",\"not\"],\"answer\":\"well\"}]";
    put("good.json", array, sizeof array - 1);
    must(docs_load(&t, in("good.json"), false, -1, 1, true, &d, &n, &bad, &e), &e);
    assert_true(n == 3 && d[0].gold == 1 && d[1].gold == 2 && d[2].gold == 0 && d[0].num_choices == 2);
    assert_true(text_equal(d[0].prompt, text_of("Which?\nA. up\nB. down\nAnswer:")) && text_equal(doc_target(&t, &d[0]), text_of("B")));
    docs_free(d, n);
    task_free(&t);
    // a sample is the same for a seed, in the file's order, another for another
    load("open", &t);
    Buffer b = {NULL, 0, 0};
    for (int i = 0; i < 100; i++) { char line[128]; buffer_add(&b, line, snprintf(line, sizeof line, "{\"id\":%d,\"question\":\"q\",\"answer\":[\"x\",\"%d\"]}\n", i, i)); }
    put("many.jsonl", b.data, b.len);
    buffer_free(&b);
    int64_t first[10], same = 0, other = 0;
    for (int run = 0; run < 3; run++) {
        must(docs_load(&t, in("many.jsonl"), false, 10, run < 2 ? 1 : 2, false, &d, &n, &bad, &e), &e);
        assert_int_equal(n, 10);
        for (int i = 0; i < 10; i++) {
            assert_true(i == 0 || d[i].number > d[i - 1].number);
            if (run == 0) first[i] = d[i].number;
            same += run == 1 && first[i] == d[i].number;
            other += run == 2 && first[i] == d[i].number;
        }
        docs_free(d, n);
    }
    assert_true(same == 10 && other < 10);
    task_free(&t);
}

static void bad_rows_cost_themselves(void **state) {
    (void)state;
    static const struct { const char *task, *row, *says; } bad[] = {
        {"sentiment", "{\"text\":\"x\",\"gold\":3}", "expected 0 to 2"}, {"sentiment", "{\"text\":\"x\",\"gold\":-1}", "expected 0 to 2"}, {"sentiment", "{\"text\":\"x\",\"gold\":1.5}", "index"}, {"sentiment", "{\"text\":\"x\",\"gold\":\"glad\"}", "one of the 3"},
        {"sentiment", "{\"text\":\"x\",\"gold\":true}", "true or false"}, {"sentiment", "{\"text\":\"x\"}", "what is right?"}, {"sentiment", "{\"text\":[],\"gold\":0}", "expected a string"}, {"sentiment", "{\"gold\":0}", "wants \"text\""},
        {"sentiment", "{\"text\":\"x\",\"gold\":0,\"answer\":\"negative\"}", "which of them"}, {"sentiment", "{\"text\":\"x\",\"gold\":0,\"choices\":[\"a\",\"b\"]}", "none of the task's"}, {"sentiment", "{\"text\":\"x\",\"gold\":0,\"choices\":7}", "expected a list"},
        {"sentiment", "[1]", "expected an object"}, {"sentiment", "{\"text\":\"x\",\"gold\":0", "not valid JSON"}, {"sentiment", "{\"text\":\"x\",\"text\":\"y\",\"gold\":0}", "duplicate"}, {"sentiment", "{\"text\":\"\xFF\",\"gold\":0}", "not valid JSON"},
        {"sentiment", "{\"text\":\"x\",\"gold\":0,\"id\":{}}", "expected a string or a number"}, {"sentiment", "{\"text\":\"x\",\"gold\":0,\"id\":\"good\"}", "twice"}, {"sentiment", "{\"text\":\"x\",\"gold\":1e999}", "not valid JSON"},
        {"sentiment", "{\"text\":\"x\",\"conversations\":[{\"from\":\"human\",\"value\":1}]}", "conversations"},
        {"exam", "{\"query\":\"q\",\"choices\":[\"only\"],\"gold\":0}", "expected 2 to 10"}, {"exam", "{\"query\":\"q\",\"gold\":0}", "no choices either"}, {"exam", "{\"query\":\"q\",\"choices\":[\"a\",\"\"],\"gold\":0}", "is empty"},
        {"tone", "{\"query\":\"q\",\"answer\":\"much\"}", "expected a number"}, {"tone", "{\"query\":\"q\",\"answer\":2}", "from -1 to 1"}, {"quantity", "{\"query\":\"q\",\"answer\":\" \"}", "what is right?"}, {"quantity", "{\"query\":\"q\",\"answer\":{}}", "expected a string"},
        {"names", "{\"query\":\"q\",\"text\":\"a b\",\"label\":[\"O\"]}", "1 labels for 2 tokens"}, {"names", "{\"query\":\"q\",\"text\":\"a b\",\"label\":[\"O\",\"PER\"]}", "behind B- or I-"}, {"names", "{\"query\":\"q\",\"text\":\"a b\"}", "what is right?"},
        {"causes", "{\"query\":\"q\",\"label\":[\"O\"]}", "has neither \"token\""}, {"picked", "{\"query\":\"q\",\"text\":\"a\\nb\",\"label\":[0,2]}", "0 or 1"}, {"triplets", "{\"query\":\"q\"}", "what is right?"}, {"digest", "{\"answer\":\"x\"}", "wants \"query\""}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Error e;
        Task t;
        Doc *d;
        int64_t n, counted;
        load(bad[i].task, &t);
        static const char *const good[] = {"{\"id\":\"good\",\"query\":\"q\",\"text\":\"x\",\"gold\":0}", "{\"query\":\"q\",\"choices\":[\"a\",\"b\"],\"gold\":0}", "{\"query\":\"q\",\"answer\":0.5}",
            "{\"query\":\"q\",\"text\":\"x\",\"label\":[\"O\"]}", "{\"query\":\"q\",\"text\":\"x\",\"label\":[1]}", "{\"query\":\"q\",\"answer\":\"x\"}"};
        const char *first = t.extract == EXTRACT_LABEL ? good[0] : t.extract == EXTRACT_LETTER ? good[1] : t.extract == EXTRACT_FLOAT ? good[2] : t.extract == EXTRACT_ENTITIES || t.extract == EXTRACT_TAGS ? good[3] : t.extract == EXTRACT_SENTENCES ? good[4] : good[5];
        char *text = xprintf("%s\n%s\n", first, bad[i].row);
        put("bad.jsonl", text, (int64_t)strlen(text));
        free(text);
        quietly(true);
        bool ok = docs_load(&t, in("bad.jsonl"), false, -1, 1, false, &d, &n, &counted, &e);
        quietly(false);
        must(ok, &e);
        assert_true(n == 1 && counted == 1);
        docs_free(d, n);
        assert_false(docs_load(&t, in("bad.jsonl"), false, -1, 1, true, &d, &n, &counted, &e));   // strict
        if (!strstr(e.text, bad[i].says) || !strstr(e.text, "bad.jsonl:2")) fail_msg("\"%s\" says nothing of \"%s\"", e.text, bad[i].says);
        task_free(&t);
    }
}

// ---- the program

static int run(const char *arguments, char *printed, size_t size) {   // eval score ARGUMENTS, split at blanks; its exit status, stdout and stderr together
    char copy[2048], *argv[32], *save = NULL;
    int argc = 0, pipes[2];
    snprintf(copy, sizeof copy, "score %s", arguments);
    for (char *w = strtok_r(copy, " ", &save); w && argc < 31; w = strtok_r(NULL, " ", &save)) argv[argc++] = w;
    argv[argc] = NULL;
    fflush(NULL);
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], 1); dup2(pipes[1], 2);
        close(pipes[0]); close(pipes[1]);
        program_name = "eval";
        int status = eval_score_main(argc, argv);
        fflush(NULL);
        _exit(status);
    }
    close(pipes[1]);
    size_t n = 0;
    for (ssize_t got; n + 1 < size && (got = read(pipes[0], printed + n, size - 1 - n)) > 0;) n += (size_t)got;
    printed[n] = 0;
    close(pipes[0]);
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
static void the_program(void **state) {
    (void)state;
    static char printed[65536];
    char arguments[1024];
    Error e;
    static const char rows[] = "{\"id\":1,\"output\":\"positive\",\"gold\":\"positive\"}\n{\"id\":2,\"output\":[],\"gold\":\"positive\"}\n{\"id\":3,\"output\":\"negative\",\"gold\":\"neutral\",\"reached_cap\":true}\n";
    put("p.jsonl", rows, sizeof rows - 1);
    snprintf(arguments, sizeof arguments, "--task mood --tasks-dir test/data/tasks --predictions %s --samples %s", in("p.jsonl"), in("s.jsonl"));
    assert_int_equal(run(arguments, printed, sizeof printed), 0);
    assert_non_null(strstr(printed, "p.jsonl:2: \"output\" is an array, expected a string"));
    json_t *j = json_parse("printed", strchr(printed, '{'), (int64_t)strlen(strchr(printed, '{')), &e);
    must(j != NULL, &e);
    is_near(j, "acc", 0.5, 0);
    is_near(j, "bad_rows", 1, 0);
    is_near(j, "overlength_ratio", 0.5, 0);
    is_near(json_object_get(j, "outcomes"), "truncated", 1, 0);
    json_decref(j);
    // the records are predictions, too
    snprintf(arguments, sizeof arguments, "--task test/data/tasks/sentiment.json --predictions %s --strict", in("s.jsonl"));
    assert_int_equal(run(arguments, printed, sizeof printed), 0);
    j = json_parse("printed", printed, (int64_t)strlen(printed), &e);
    must(j != NULL, &e);
    is_near(j, "acc", 0.5, 0);
    is_near(json_object_get(j, "outcomes"), "truncated", 1, 0);
    json_decref(j);
    static const struct { const char *arguments, *says; } wrong[] = {{"--predictions x", "--task is missing"}, {"--task mood", "--predictions is missing"}, {"--task mood --predictions /absent --tasks-dir test/data/tasks", "/absent"},
        {"--task nothing --predictions x --tasks-dir test/data/tasks", "no task or suite"}, {"--task two --predictions x --tasks-dir test/data/tasks", "2 tasks, expected one"}, {"--task mood --predictions x --stemmer --tasks-dir test/data/tasks", "no ROUGE"},
        {"--task exam --pixiu-compat --predictions x --tasks-dir test/data/tasks", "none of the harness'"}, {"--task mood --predictions x --tasks-dir /absent", "--tasks-dir"}, {"--nonsense", "unknown flag"}, {"--task mood --predictions /dev/null --tasks-dir test/data/tasks", "regular file"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(run(wrong[i].arguments, printed, sizeof printed), 1);
        if (!strstr(printed, wrong[i].says) || strchr(printed, '\n') != printed + strlen(printed) - 1) fail_msg("\"%s\" says nothing of \"%s\", or too much", printed, wrong[i].says);
    }
    snprintf(arguments, sizeof arguments, "--task mood --tasks-dir test/data/tasks --predictions %s --strict", in("p.jsonl"));
    assert_int_equal(run(arguments, printed, sizeof printed), 1);
    assert_int_equal(run("--help", printed, sizeof printed), 0);
    assert_non_null(strstr(printed, "--pixiu-compat"));
}

// Rows as other people write them: every form of what is right and what was said gives the same score
static void rows_of_others(void **state) {
    (void)state;
    Error e;
    const ScoreOptions o = score_options_default();
    static const struct { const char *task, *rows, *metric; double want; } cases[] = {
        {"sentiment", "{\"output\":\"positive\",\"gold\":[\"Positive\"]}\n{\"output\":\"negative\",\"gold\":[2],\"choices\":[\"positive\",\"neutral\",\"negative\"]}", "acc", 1},
        {"sentiment", "{\"output\":\"positive\",\"gold\":\"positive\",\"finish_reason\":\"length\"}\n{\"output\":\"positive\",\"gold\":\"positive\",\"finish_reason\":\"stop\",\"truncated\":null}", "acc", 0.5},
        {"sentiment", "{\"output\":\"positive\",\"gold\":\"positive\",\"truncated\":true,\"reached_cap\":false}\n{\"output\":\"positive\",\"gold\":0}", "acc", 0.5},
        {"pick", "{\"output\":\"Energy\",\"gold\":\"energy\"}\n{\"output\":\"Banking\",\"gold\":\"Energy\"}\n{\"output\":\"banking\",\"gold\":\"Banking\"}", "acc", 2.0 / 3},
        {"tone", "{\"output\":0.5,\"gold\":0.25}", "rmse", 0.25},
        {"quantity", "{\"output\":12.5,\"gold\":\"12.5\"}\n{\"output\":\"\\\"no change\\\"\",\"gold\":\"\\\"no change\\\"\"}", "em", 1},
        {"open", "{\"output\":\"\\\"Paris\\\"\",\"gold\":\"\\\"Paris\\\"\"}\n{\"output\":\"$5\",\"gold\":[\"five\",\"$5\"]}\n{\"output\":\"the answer is blowing\",\"gold\":\"The answer is blowing.\"}\n{\"output\":\"London\",\"gold\":\"'Paris'\"}", "em", 0.75},
        {"names", "{\"output\":\"Ann Lee, PER\\nAcme, ORG\",\"gold\":[[\"Ann Lee\",\"PER\"],[\"Acme\",\"ORG\"]]}", "entity_f1", 1},
        {"names", "{\"output\":[[\"Ann Lee\",\"PER\"],[\"Acme\",\"LOC\"]],\"gold\":[{\"name\":\"Ann Lee\",\"type\":\"PER\"},{\"text\":\"Acme\",\"label\":\"ORG\"}]}", "entity_f1", 0.5},
        {"names", "{\"output\":[\"B-PER\",\"I-PER\",\"O\"],\"gold\":[\"B-PER\",\"I-PER\",\"O\"]}\n{\"output\":\"B-PER O\",\"gold\":\"B-PER B-ORG\"}", "entity_f1", 0.8},
        {"names", "{\"output\":\"Ann Lee, PER\",\"gold\":[\"B-PER\",\"I-PER\",\"O\"],\"tokens\":[\"Ann\",\"Lee\",\"slept\"]}", "entity_f1", 1},
        {"causes", "{\"output\":\"a:B-CAUSE\\nb:I-CAUSE\\nc:O\",\"gold\":\"a:B-CAUSE\\nb:I-CAUSE\\nc:O\"}\n{\"output\":\"a:B-CAUSE\\nb:O\",\"gold\":[\"B-CAUSE\",\"O\"]}", "entity_f1", 1},
        {"causes", "{\"output\":[\"B-CAUSE\",\"O\",\"O\"],\"gold\":[\"B-CAUSE\",\"O\",\"B-EFFECT\"]}\n{\"output\":\"O O B-EFFECT\",\"gold\":\"O O B-EFFECT\",\"token\":[\"x\",\"y\",\"z\"]}", "acc", 5.0 / 6},
        {"triplets", "{\"output\":\"a ; b ; c\",\"gold\":[[\"A\",\"b\",\"c\"],[\"d\",\"e\",\"f\"]]}", "relation_f1", 2.0 / 3},
        {"picked", "{\"output\":[1,0],\"gold\":[1,0],\"text\":\"a\\nb\"}", "rouge1", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *j = score_rows(cases[i].task, cases[i].rows, &o, &e);
        must(j != NULL, &e);
        if (fabs(json_number_value(json_object_get(j, cases[i].metric)) - cases[i].want) > 1e-12 || json_integer_value(json_object_get(j, "bad_rows"))) fail_msg("%s, %s: %s", cases[i].task, cases[i].rows, json_dumps(j, 0));
        json_decref(j);
    }
    static const struct { const char *task, *rows, *says; } wrong[] = {{"sentiment", "{\"output\":[\"positive\"],\"gold\":\"positive\"}", "\"output\" is an array"}, {"sentiment", "{\"output\":\"positive\",\"gold\":[0,1]}", "an array"},
        {"names", "{\"output\":\"Ann, PER\",\"gold\":[\"B-PER\",\"O\"]}", "to find its entities in"}, {"names", "{\"output\":\"Ann, PER\",\"gold\":[{\"x\":1}]}", "pairs"}, {"picked", "{\"output\":\"1 0\",\"gold\":[1,0]}", "\"text\""}};
    ScoreOptions strict = o;
    strict.strict = true;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        json_t *j = score_rows(wrong[i].task, wrong[i].rows, &strict, &e);
        if (j || !strstr(e.text, wrong[i].says)) fail_msg("\"%s\" says nothing of \"%s\"", e.text, wrong[i].says);
    }
}

// The leaderboard counts an MCC from 0 to 1, whatever metric is shown; what is published is put beside the same metric only
static void suites_and_units(void **state) {
    (void)state;
    static const struct { const char *task, *suite, *metric; double score, category; bool published, share; } want[] = {
        {"german", "fineval", "acc", 1.0 / 3, 0.25, true, true}, {"german", "OpenFinLLM", "mcc", -0.5, 0.25, false, true}, {"german", NULL, "mcc", -0.5, 0.25, false, true}, {"polish", NULL, "mcc", -0.5, 0.25, true, true},
        {"tsa", "openfinllm", "rmse", 0.25, 0.25, false, false}, {"mt-bench", "fineval", "judge", NAN, NAN, true, false}, {"financebench", "fineval", "judge", NAN, NAN, true, true}};
    static const char good[] = "{\"output\":\"good\",\"gold\":\"good\"}\n{\"output\":\"bad\",\"gold\":\"good\"}\n{\"output\":\"good\",\"gold\":\"bad\"}",
        yes[] = "{\"output\":\"yes\",\"gold\":\"yes\"}\n{\"output\":\"no\",\"gold\":\"yes\"}\n{\"output\":\"yes\",\"gold\":\"no\"}", number[] = "{\"output\":\"0.5\",\"gold\":0.25}";
    ScoreOptions o = score_options_default();
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        Error e;
        Task t;
        PredictionReader r;
        BadRows bad = {"", true, 0};
        char *path = xprintf("data/tasks/%s.json", want[i].task);
        must(task_load(path, &t, &e), &e);
        memset(&r, 0, sizeof r);
        r.task = &t;
        const char *rows = t.extract == EXTRACT_LABEL && strcmp(t.name, "german") == 0 ? good : t.extract == EXTRACT_LABEL ? yes : number;
        put("rows.jsonl", rows, (int64_t)strlen(rows));
        must(rows_each(in("rows.jsonl"), prediction_row, &r, &bad, &e), &e);
        Sample *s = (Sample *)xcalloc(r.n, sizeof(Sample));
        for (int64_t k = 0; k < r.n; k++) sample_score(&t, &r.docs[k], r.outputs[k], false, &o, &s[k]);
        json_t *j = task_metrics(&t, r.docs, s, r.n, 0, &o, want[i].suite);
        const json_t *score = json_object_get(j, "score"), *category = json_object_get(j, "category_score");
        bool same = strcmp(json_string_value(json_object_get(j, "metric")), want[i].metric) == 0 && (isnan(want[i].score) ? json_is_null(score) : fabs(json_number_value(score) - want[i].score) < 1e-12);
        same = same && (isnan(want[i].category) ? !category : fabs(json_number_value(category) - want[i].category) < 1e-12) && (json_object_size(json_object_get(j, "published")) > 0) == want[i].published && json_is_true(json_object_get(j, "share")) == want[i].share;
        if (!same) fail_msg("%s by %s: %s", want[i].task, want[i].suite ? want[i].suite : "its own", json_dumps(j, 0));
        json_decref(j);
        samples_free(s, r.n);
        prediction_reader_free(&r);
        task_free(&t);
        free(path);
    }
}

// ---- damage

static const char *const seeds[][2] = {   // task, a data row that is also a prediction
    {"sentiment", "{\"id\":%d,\"query\":\"q\",\"text\":\"t\",\"answer\":\"positive\",\"choices\":[\"positive\",\"neutral\",\"negative\"],\"gold\":0,\"output\":\"Answer: not negative, <think>x</think> positive\"}"},
    {"exam", "{\"id\":%d,\"query\":\"q\",\"choices\":[\"a\",\"b\",\"c\"],\"gold\":1,\"output\":\"Selection: [[B]] or \\\\boxed{C}\"}"},
    {"quantity", "{\"id\":%d,\"query\":\"q\",\"answer\":\"12.5%%\",\"output\":\"Answer: 1,234.5 x 10^3 million\"}"},
    {"tone", "{\"id\":%d,\"query\":\"q\",\"answer\":-0.25,\"output\":\"Score: -0.3 (1.2.3)\"}"},
    {"names", "{\"id\":%d,\"query\":\"q\",\"text\":\"Ann met Bob in Rome .\",\"label\":[\"B-PER\",\"O\",\"B-PER\",\"O\",\"B-LOC\",\"O\"],\"output\":\"Ann, PER\\nRome, LOC\"}"},
    {"causes", "{\"id\":%d,\"query\":\"q\",\"token\":[\"a\",\"b\"],\"label\":[\"B-CAUSE\",\"O\"],\"output\":\"a:B-CAUSE\\nb:O\"}"},
    {"triplets", "{\"id\":%d,\"query\":\"q\",\"label\":[\"a ; b ; c\"],\"output\":\"a ; b ; c\\n- x; y; z\"}"},
    {"digest", "{\"id\":%d,\"query\":\"q\",\"answer\":\"a summary of it\",\"output\":\"a summary\"}"},
    {"picked", "{\"id\":%d,\"query\":\"q\",\"text\":\"a\\nb\",\"label\":[0,1],\"output\":\"[0, 1]\"}"},
    {"open", "{\"id\":%d,\"question\":\"q\",\"answer\":[\"x\",\"y\"],\"output\":\"Answer: x\"}"},
    {"headlines", "{\"id\":%d,\"query\":\"q\",\"gold\":\"Yes\",\"label_type\":\"up\",\"output\":\"Yes\",\"reached_cap\":false,\"tokens\":3}"}};
enum { NUM_SEEDS = sizeof seeds / sizeof *seeds };

typedef struct { uint64_t seed, next; } Dice;
static uint64_t roll(Dice *d, uint64_t n) { return random_below(d->seed, 7, d->next++, n); }
static void replace_part(Buffer *b, int64_t at, int64_t gone, const char *by, int64_t n) {
    Buffer out = {NULL, 0, 0};
    buffer_add(&out, b->data, at);
    buffer_add(&out, by, n);
    buffer_add(&out, b->data + at + gone, b->len - at - gone);
    buffer_free(b);
    *b = out;
}
// one damage to b: bits, cuts, repeats, values of other types, huge numbers, depth, NULs, broken UTF-8, keys twice, empty lines, texts that are hard to read
static void damage(Buffer *b, Dice *d) {
    static const char *const values[] = {"null", "true", "-1", "1e999", "99999999999999999999999", "0.1e-400", "\"\"", "\"\\u0000\"", "\"\\ud800\"", "[]", "{}", "[[]]", "{\"a\":1,\"a\":2}", "3.5", "\"A\"", "[\"A\",\"A\"]", "[1,2,3]", "\"1\"", "-0", "1e18",
        "\"answer: answer: answer is [[ [[A]]\"", "\"<think>\"", "\"</think><think></think>\"", "\"\\n\\n\"", "\"\xC2\xA0\"", "\"{{}}{\"", "\"\\u2028, , ,\"", "NaN", "Infinity", "'x'", "\"not not not no\""};
    static const char *const pieces[] = {"\xFF", "\xC0\x80", "\xED\xA0\x80", "\n", "\n\n", "\r", "{", "}", "[", "]", "\"", "\\", ",", ":", "\t", " ", "\xEF\xBB\xBF", "\\u0000", "1", "-"};
    int64_t at = b->len ? (int64_t)roll(d, (uint64_t)b->len) : 0;
    switch (roll(d, 10)) {
    case 0: if (b->len) b->data[at] = (char)(b->data[at] ^ (1 << roll(d, 8))); break;
    case 1: if (b->len) b->data[at] = (char)roll(d, 256); break;
    case 2: b->len = at; break;
    case 3: { int64_t n = (int64_t)roll(d, (uint64_t)(b->len - at) + 1); replace_part(b, at, n, "", 0); break; }
    case 4: { int64_t n = (int64_t)roll(d, (uint64_t)(b->len - at) + 1); char *copy = text_copy(text_make(b->data + at, n)); replace_part(b, at, 0, copy, n); free(copy); break; }
    case 5: replace_part(b, at, 0, "", 1); break;   // a NUL
    case 6: { const char *p = pieces[roll(d, sizeof pieces / sizeof *pieces)]; replace_part(b, at, 0, p, (int64_t)strlen(p)); break; }
    case 7: case 8: {   // the value behind a colon becomes another
        int64_t colon = text_find(text_make(b->data, b->len), text_of(":"), at), end = colon + 1, depth = 0;
        if (colon < 0) return;
        for (bool quoted = false; end < b->len; end++) {
            char c = b->data[end];
            if (c == '"' && b->data[end - 1] != '\\') quoted = !quoted;
            if (quoted) continue;
            if (c == '[' || c == '{') depth++;
            if ((c == ',' && depth == 0) || ((c == ']' || c == '}') && depth-- == 0)) break;
        }
        const char *v = values[roll(d, sizeof values / sizeof *values)];
        replace_part(b, colon + 1, end - colon - 1, v, (int64_t)strlen(v));
        break;
    }
    default: {   // deep, or long
        int64_t n = (int64_t)(1 + roll(d, roll(d, 20) == 0 ? 100000 : 3000));
        char *s = (char *)xmalloc(n);
        memset(s, "[{\"a9: ;\n,"[roll(d, 10)], (size_t)n);
        replace_part(b, at, 0, s, n);
        free(s);
    }
    }
}

typedef struct { int64_t tasks, tasks_bad, files, files_bad, rows, rows_bad, answered, outputs; } Fuzzed;
static int64_t lines_of(const Buffer *b) {   // rows, by another reader than the one that is tested
    int64_t n = 0;
    bool any = false;
    for (int64_t i = 0; i <= b->len; i++) {
        char c = i < b->len ? b->data[i] : '\n';
        if (c == '\n') { n += any; any = false; }
        else any = any || !(c == ' ' || c == '\t' || c == '\r');
    }
    return n;
}
static void one_line(const Error *e) {
    if (e->text[0] == 0 || strchr(e->text, '\n') || strlen(e->text) >= sizeof e->text) fail_msg("an error of no line, or more: \"%s\"", e->text);
}
// outputs of pieces that matter to the reader, in any order: there is an outcome, and a label only where there is an answer
static void fuzz_outputs(const Task *t, const Doc *d, Dice *dice, Fuzzed *f) {
    static const char *const pieces[] = {"answer", "Answer: ", "answer is ", "[[", "]]", "[[A]]", "\\boxed{", "}", "#### ", "Sentiment: ", "Selection: ", "score: ", "positive", "Negative", "neutral", "not ", "neither ", " nor ", " or ", "/", "A", "B.", "(C)",
        "option ", "I choose ", " is correct", "\n", "\n\n", "- ", "1. ", ", PER", ", ORG", "; ", ":B-CAUSE", "a:", "Ann", "Rome", "0", "1", "-0.5", "1,234.5", "1.2.3", "%", " million", "e", "x 10^", "<think>", "</think>", "\xFF", "\xC2", "\xE2\x88\x92", "",
        "\xF0\x9F\x98\x80", "\xC2\xA0", "no", "yes", " ", " ", ".", ",", "\"", "*", "(", ")", "-", "whether ", "isn't "};
    for (int k = 0; k < 5; k++) {
        Buffer b = {NULL, 0, 0};
        for (uint64_t n = roll(dice, 30); n; n--) { const char *p = pieces[roll(dice, sizeof pieces / sizeof *pieces)]; buffer_add(&b, p, *p ? (int64_t)strlen(p) : 1); }   // the empty one is a NUL
        ScoreOptions o = score_options_default();
        o.pixiu = roll(dice, 3) == 0 && t->pixiu != PIXIU_NONE;
        Sample s;
        sample_score(t, d, text_make(b.data ? b.data : "", b.len), roll(dice, 8) == 0, &o, &s);
        if (s.outcome >= NUM_OUTCOMES || s.pred < -1 || s.pred >= (d->num_choices ? d->num_choices : 1) || (s.pred >= 0 && s.outcome != OUTCOME_ANSWERED)) fail_msg("label %d, outcome %d of \"%.*s\"", s.pred, s.outcome, (int)b.len, b.data);
        json_t *j = sample_json(t, d, &s, 0, text_make(b.data ? b.data : "", b.len));
        char *line = json_dumps(j, JSON_COMPACT);
        assert_non_null(line);
        free(line);
        json_decref(j);
        sample_free(&s);
        buffer_free(&b);
        f->outputs++;
    }
}
static void fuzz(int64_t rounds, Fuzzed *f) {
    Dice dice = {20, 0};
    memset(f, 0, sizeof *f);
    for (int64_t round = 0; round < rounds; round++) {
        Error e;
        Task t;
        Mapped m;
        Buffer b = {NULL, 0, 0};
        const char *const *seed = seeds[round % NUM_SEEDS];
        char *path = xprintf("%s/%s.json", tasks, seed[0]);
        alarm(60);   // a hang is a failure
        // a task file
        must(map_file(path, &m, &e), &e);
        buffer_add(&b, m.data, m.size);
        unmap_file(&m);
        for (uint64_t k = 1 + roll(&dice, 3); k; k--) damage(&b, &dice);
        put("task.json", b.data, b.len);
        e.text[0] = 0;
        f->tasks++;
        if (task_load(in("task.json"), &t, &e)) task_free(&t);
        else { f->tasks_bad++; one_line(&e); }
        buffer_free(&b);
        // rows: a good one, damaged ones, a good one; as data, then as predictions
        must(task_load(path, &t, &e), &e);
        free(path);
        char *first = xprintf(seed[1], 1), *last = xprintf(seed[1], 2), *middle = xprintf(seed[1], 3);
        Buffer rows = {NULL, 0, 0};
        buffer_add(&b, middle, (int64_t)strlen(middle));
        for (uint64_t k = 1 + roll(&dice, 3); k; k--) damage(&b, &dice);
        buffer_add(&rows, first, (int64_t)strlen(first));
        buffer_add(&rows, "\n", 1);
        buffer_add(&rows, b.data, b.len);
        buffer_add(&rows, "\n", 1);
        buffer_add(&rows, last, (int64_t)strlen(last));
        put("rows.jsonl", rows.data, rows.len);
        Doc *docs = NULL;
        int64_t n = 0, bad = 0, want = lines_of(&rows);
        e.text[0] = 0;
        f->files++;
        if (docs_load(&t, in("rows.jsonl"), round & 1, -1, 1, false, &docs, &n, &bad, &e)) {
            if (n + bad != want || n < 2) fail_msg("round %lld: %lld rows and %lld bad ones of %lld: %.*s", (long long)round, (long long)n, (long long)bad, (long long)want, (int)rows.len, rows.data);
            f->rows += want;
            f->rows_bad += bad;
            fuzz_outputs(&t, &docs[0], &dice, f);
            docs_free(docs, n);
        } else { f->files_bad++; one_line(&e); }
        ScoreOptions o = score_options_default();
        o.bootstrap = 2;
        o.pixiu = (round & 2) && t.pixiu != PIXIU_NONE;
        char *printed = NULL;
        size_t size = 0;
        FILE *out = open_memstream(&printed, &size);
        e.text[0] = 0;
        f->files++;
        bool ok = score_file(&t, in("rows.jsonl"), NULL, &o, out, &e);
        fclose(out);
        if (ok) {
            json_t *j = json_parse("printed", printed, (int64_t)size, &e);
            must(j != NULL, &e);
            n = json_integer_value(json_object_get(j, "n"));
            bad = json_integer_value(json_object_get(j, "bad_rows"));
            if (n + bad != want || n < 2) fail_msg("round %lld: predictions: %lld rows and %lld bad ones of %lld", (long long)round, (long long)n, (long long)bad, (long long)want);
            f->rows += want;
            f->rows_bad += bad;
            f->answered += json_integer_value(json_object_get(json_object_get(j, "outcomes"), "answered"));
            json_decref(j);
        } else { f->files_bad++; one_line(&e); }
        free(printed); free(first); free(middle); free(last);
        buffer_free(&b); buffer_free(&rows);
        task_free(&t);
    }
    alarm(0);
}
static void fuzz_report(const Fuzzed *f) {
    printf("damaged task files %lld, refused %lld; files of rows %lld, refused as a whole %lld; rows %lld, bad %lld, answered %lld; outputs of pieces %lld\n", (long long)f->tasks, (long long)f->tasks_bad, (long long)f->files, (long long)f->files_bad,
        (long long)f->rows, (long long)f->rows_bad, (long long)f->answered, (long long)f->outputs);
}
static void damaged(void **state) {
    (void)state;
    Fuzzed f;
    quietly(true);
    fuzz(330, &f);
    quietly(false);
    fuzz_report(&f);
    assert_true(f.tasks_bad > 150 && f.rows_bad > 150 && f.files_bad == 0);
}

static int one_thread(void **state) {   // OpenMP's threads do not survive the fork that runs the program
    #ifdef _OPENMP
    omp_set_num_threads(1);
    #endif
    return setup(state);
}

int main(int argc, char **argv) {   // test_eval_score fuzz N 2> FILE: so many rounds, nothing else
    if (argc == 3 && strcmp(argv[1], "fuzz") == 0) {
        Fuzzed f;
        if (one_thread(NULL) != 0) return 1;
        fuzz(atoll(argv[2]), &f);
        fuzz_report(&f);
        return teardown(NULL);
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(reads_by_hand), cmocka_unit_test(classes_by_hand), cmocka_unit_test(others_by_hand), cmocka_unit_test(like_the_harness), cmocka_unit_test(choices_by_likelihood),
        cmocka_unit_test(published_beside_its_own_metric), cmocka_unit_test(bad_tasks), cmocka_unit_test(found_tasks), cmocka_unit_test(good_rows), cmocka_unit_test(bad_rows_cost_themselves), cmocka_unit_test(the_program), cmocka_unit_test(rows_of_others), cmocka_unit_test(suites_and_units), cmocka_unit_test(damaged)};
    return cmocka_run_group_tests(tests, one_thread, teardown);
}
