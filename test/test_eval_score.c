// test_eval_score.c: what is read out of an output (test/data/extract.jsonl, by hand), task files and rows, scores by hand, and the leaderboard's harness, quirk by quirk
// (test/data/pixiu.json, made by dev/eval_pixiu_reference.py). That whatever is damaged costs one line.
#include "findap/eval_score.h"
#include <sys/wait.h>       // defines: WEXITSTATUS
#include "test/check.h"
#include "test/scratch.h"   // defines: directory, setup, teardown, in

static void must(bool ok, const Error *e) { if (!ok) fail_msg("%s", e->text); }

static const char tasks[] = "test/data/tasks";

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
    const char *want = json_is_string(outcome) ? json_string_value(outcome) : "answered";
    bool given = s.outcome == OUTCOME_ANSWERED, same = !json_is_null(answer) && reading_is(&t, &d, row, output, cut, &a, &s);
    if (!json_is_null(answer)) r->readable++;
    if (given && same) r->read++;
    if (given && !same) { r->wrong++; printf("wrong reading: %s: \"%.*s\" -> %s\n", where, (int)output.length, output.data, s.answer ? s.answer : "?"); }
    else if (!given && json_is_null(answer) && strcmp(outcome_names[s.outcome], want) != 0) { r->outcomes++; printf("%s: \"%.*s\" is %s, expected %s\n", where, (int)output.length, output.data, outcome_names[s.outcome], want); }
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(reads_by_hand)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
