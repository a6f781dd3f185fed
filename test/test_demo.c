// test_demo.c: what make_demo writes is the same for the same seed and another for another; its tokenizer loads and takes its texts
// apart without loss; no test prompt is in the training data; and no company that the test asks about is asked about in training.
#define main make_demo_main      // the program's main() is called like a function here
#include "data/make_demo.c"
#undef main
#include "findap/reward.h"       // defines: correction_parse
#include "findap/tokenizer.h"    // defines: tokenizer_load, tokenizer_encode, tokenizer_decode
#include "test/check.h"

static char home[] = "/tmp/findap_test_XXXXXX";
static const char *const files[] = {"model/tokenizer.json", "model/tokenizer_config.json", "model/config.json", "model/generation_config.json",
                                    "reports.jsonl", "book.jsonl", "questions.jsonl", "exercises.jsonl", "test.jsonl", "train.jsonl", "recipe.json"};
enum { NUM_FILES = sizeof files / sizeof *files };
static const char *const step_files[] = {"model/tokenizer.json", "model/tokenizer_config.json", "model/config.json", "model/generation_config.json", "recipe.json", "steps.jsonl", "corrections.jsonl", "ask.jsonl", "ask_test.jsonl", "correct.txt"};
enum { NUM_STEP_FILES = sizeof step_files / sizeof *step_files };

static char *in(const char *world, const char *name) {
    char *dir = path_join(home, world), *path = path_join(dir, name);
    free(dir);
    return path;
}
static void make(const char *world, const char *seed, const char *rambling) {
    char *dir = path_join(home, world);
    char *argv[] = {(char *)"make_demo", dir, (char *)"--seed", (char *)seed, (char *)"--rambling", (char *)rambling, (char *)"--steps"};
    assert_int_equal(make_demo_main(world[0] >= 's' ? 7 : 6, argv), 0);   // worlds from s on are --steps'
    free(dir);
}
static int setup(void **state) {
    (void)state;
    if (!mkdtemp(home)) return -1;
    make("a", "1", "0"); make("b", "1", "0"); make("c", "2", "0"); make("d", "1", "0.3"); make("s", "1", "0.3"); make("t", "1", "0.3"); make("u", "2", "0");
    return 0;
}
static int teardown(void **state) {
    (void)state;
    for (int w = 0; w < 7; w++) {
        char world[2] = {"abcdstu"[w], 0}, *model = in(world, "model"), *dir = path_join(home, world);
        for (int i = 0; i < (w < 4 ? NUM_FILES : NUM_STEP_FILES); i++) { char *path = in(world, w < 4 ? files[i] : step_files[i]); unlink(path); free(path); }
        rmdir(model); rmdir(dir);
        free(model); free(dir);
    }
    return rmdir(home);
}

static bool same(const char *one, const char *other, const char *name) {
    Error e;
    Hash a, b;
    char *x = in(one, name), *y = in(other, name);
    assert_true(hash_file(x, &a, &e) && hash_file(y, &b, &e));
    free(x); free(y);
    return memcmp(&a, &b, sizeof a) == 0;
}
static void test_seed(void **state) {
    (void)state;
    for (int i = 0; i < NUM_FILES; i++) if (!same("a", "b", files[i])) fail_msg("%s differs between two runs of one seed", files[i]);
    assert_false(same("a", "c", "reports.jsonl"));
    assert_false(same("a", "c", "test.jsonl"));
}

// calls f with each row of a file of a world
static void each_row(const char *world, const char *name, void (*f)(json_t *row, void *), void *data) {
    Error e;
    Mapped m;
    char *path = in(world, name);
    assert_true(map_file(path, &m, &e));
    for (int64_t at = 0; at < m.size;) {
        const uint8_t *end = (const uint8_t *)memchr(m.data + at, '\n', (size_t)(m.size - at));
        assert_non_null(end);
        json_t *row = json_parse(path, (const char *)m.data + at, end - (m.data + at), &e);
        assert_non_null(row);
        f(row, data);
        json_decref(row);
        at = end + 1 - m.data;
    }
    unmap_file(&m);
    free(path);
}

typedef struct { const Tokenizer *t; int64_t bytes, tokens; } Coded;
static void round_trip(json_t *row, void *data) {
    const char *text = json_string_value(json_object_get(row, "text"));
    Coded *coded = (Coded *)data;
    const Tokenizer *t = coded->t;
    Ids ids = {NULL, 0, 0};
    Buffer back = {NULL, 0, 0};
    assert_non_null(text);
    tokenizer_encode(t, text, (int64_t)strlen(text), false, &ids);
    tokenizer_decode(t, ids.data, ids.len, false, &back);
    assert_int_equal(back.len, strlen(text));
    assert_memory_equal(back.data, text, strlen(text));
    coded->bytes += back.len;
    coded->tokens += ids.len;
    ids_free(&ids);
    buffer_free(&back);
}
static void test_tokenizer_loads(void **state) {
    (void)state;
    Error e;
    char *model = in("a", "model");
    Tokenizer *t = tokenizer_load(model, &e);
    if (!t) fail_msg("%s", e.text);
    assert_int_equal(tokenizer_vocab_size(t), VOCABULARY);
    for (int i = 0; i < SPECIALS; i++) assert_int_equal(tokenizer_find(t, special_tokens[i]), BASE + i);
    Coded coded = {t, 0, 0};
    each_row("a", "reports.jsonl", round_trip, &coded);
    each_row("a", "book.jsonl", round_trip, &coded);
    assert_true(coded.bytes > 2 * coded.tokens);   // merges are used: on average more than two bytes a token
    tokenizer_free(t);
    free(model);
}

typedef struct { json_t *prompts; int64_t rows; World world; bool asked[NUM_COMPANIES]; } Seen;
static void note_facts(Seen *s, const char *prompt) {   // which companies questions about sector and city name
    if (!strstr(prompt, "sector") && !strstr(prompt, "city") && !strstr(prompt, "home of")) return;
    for (int i = 0; i < NUM_COMPANIES; i++) if (strstr(prompt, s->world.company[i].name)) s->asked[i] = true;
}
static void add_training(json_t *row, void *data) {
    Seen *s = (Seen *)data;
    const char *prompt = json_string_value(json_object_get(json_array_get(json_object_get(row, "messages"), 0), "content"));
    assert_non_null(prompt);
    json_object_set_new(s->prompts, prompt, json_true());
    note_facts(s, prompt);
    s->rows++;
}
static void check_test(json_t *row, void *data) {
    Seen *s = (Seen *)data;
    const char *prompt = json_string_value(json_object_get(row, "prompt")), *type = json_string_value(json_object_get(row, "type"));
    assert_non_null(prompt); assert_non_null(type);
    if (json_object_get(s->prompts, prompt)) fail_msg("a test prompt is in the training data: %s", prompt);
    for (int i = 0; i < NUM_COMPANIES && strcmp(type, "knowledge") == 0; i++)
        if (strstr(prompt, s->world.company[i].name) && s->asked[i]) fail_msg("the training data asks about the test's company: %s", prompt);
    s->rows++;
}
static void test_held_out(void **state) {
    (void)state;
    Seen s;
    memset(&s, 0, sizeof s);
    s.prompts = json_object();
    make_world(&s.world, 1);
    each_row("a", "questions.jsonl", add_training, &s);
    each_row("a", "exercises.jsonl", add_training, &s);
    assert_true(s.rows > (QUESTIONS + EXERCISES) * 9 / 10);
    s.rows = 0;
    each_row("a", "test.jsonl", check_test, &s);
    assert_int_equal(s.rows, NUM_TYPES * TEST_PER_TYPE);
    json_decref(s.prompts);
}

// --rambling: the same prompts with the same right answers in front; of each answer the share that was drawn for it goes on for longer than scripts/overlong.sh's cap
typedef struct { char *text; int64_t rows, rambling; } Answer;
typedef struct { const Tokenizer *t; json_t *asked; int64_t rows, shortest, longest_answer; Answer answers[64]; } Rambled;
static void keep_row(json_t *row, void *data) { json_array_append(((Rambled *)data)->asked, row); }
static void check_answer(json_t *row, void *data) {
    Rambled *r = (Rambled *)data;
    const json_t *asked = json_array_get(r->asked, (size_t)r->rows++);
    const char *said = json_string_value(json_object_get(json_array_get(json_object_get(row, "messages"), 1), "content")), *right = json_string_value(json_object_get(asked, "completion"));
    assert_non_null(said); assert_non_null(right);
    Answer *a = r->answers;
    while (a->text && strcmp(a->text, right) != 0) a++;
    assert_true(a < r->answers + 63);
    if (!a->text) a->text = xstrdup(right);
    bool rambles = strcmp(said, right) != 0;
    if (rambles && (strncmp(said, right, strlen(right)) != 0 || strncmp(said + strlen(right), ". ", 2) != 0)) fail_msg("\"%s\" does not begin with \"%s\"", said, right);
    Ids ids = {NULL, 0, 0};
    tokenizer_encode(r->t, said, (int64_t)strlen(said), false, &ids);
    if (rambles && (r->shortest == 0 || ids.len < r->shortest)) r->shortest = ids.len;
    if (!rambles && ids.len > r->longest_answer) r->longest_answer = ids.len;
    a->rambling += rambles;
    a->rows++;
    ids_free(&ids);
}
static void test_rambling(void **state) {
    (void)state;
    Error e;
    for (int i = 0; i < NUM_FILES; i++) if (same("a", "d", files[i]) == (strcmp(files[i], "questions.jsonl") == 0 || strcmp(files[i], "exercises.jsonl") == 0)) fail_msg("%s", files[i]);
    char *model = in("d", "model");
    Rambled r;
    memset(&r, 0, sizeof r);
    Tokenizer *t = tokenizer_load(model, &e);
    if (!t) fail_msg("%s", e.text);
    r.t = t;
    r.asked = json_array();
    each_row("d", "train.jsonl", keep_row, &r);
    each_row("d", "questions.jsonl", check_answer, &r);
    each_row("d", "exercises.jsonl", check_answer, &r);
    assert_int_equal(r.rows, json_array_size(r.asked));
    int64_t rarely = 0, often = 0, n = 0;
    for (Answer *a = r.answers; a->text; a++, n++) {
        double share = (double)a->rambling / (double)a->rows, want = rambling_share(1, a->text, 0.3);
        if (fabs(share - want) > 4 * sqrt(want * (1 - want) / (double)a->rows) + 1 / (double)a->rows) fail_msg("%s rambles %.3f of %d times, %.3f was drawn", a->text, share, (int)a->rows, want);
        rarely += want < 0.3; often += want > 0.6;
        free(a->text);
    }
    assert_true(n == 37 && rarely >= 10 && often >= 5);   // neither all nor none
    double mean = 0;   // over many answers the share is what was asked for, and another seed draws others
    for (int i = 0; i < 20000; i++) { char name[16]; snprintf(name, sizeof name, "%d", i); mean += rambling_share(1, name, 0.3) / 20000; }
    assert_true(rambling_share(1, "rise", 0.3) != rambling_share(2, "rise", 0.3) && rambling_share(1, "rise", 0) == 0 && rambling_share(1, "rise", 1) == 1);
    printf("rambling: the shortest of %d tokens, the longest other answer of %d\n", (int)r.shortest, (int)r.longest_answer);
    assert_true(fabs(mean - 0.3) < 0.01 && r.shortest > 16 && r.longest_answer < 16);
    json_decref(r.asked);
    tokenizer_free(t);
    free(model);
}

// --steps: what was computed is right, every correction holds as genrm looks at it, and no question is in two of trained, asked and held out
typedef struct { json_t *part; int64_t rows, wrong_first, wrong_second; int which; } Steps;
static void numbers_seen(Steps *s, const char *question, int *a, int *b, int *c) {
    int n[3] = {0, 0, 0}, k = 0;
    for (const char *p = question; *p && k < 3; p++) if (*p >= '0' && *p <= '9') { n[k++] = atoi(p); while (p[1] >= '0' && p[1] <= '9') p++; }
    assert_true(k == 3 && n[0] < 10 && n[1] < 10 && n[2] < 20);
    *a = n[0]; *b = n[1]; *c = n[2];
    char *alone = xprintf("%.*s", (int)strcspn(question, "\n"), question);
    const json_t *part = json_object_get(s->part, alone);
    if (part && json_integer_value(part) != s->which) fail_msg("%s: is in two parts", alone);
    if (!part) json_object_set_new(s->part, alone, json_integer(s->which));
    free(alone);
}
static void check_sum(json_t *row, void *data) {
    Steps *s = (Steps *)data;
    const json_t *messages = json_object_get(row, "messages");
    const char *question = json_string_value(messages ? json_object_get(json_array_get(messages, 0), "content") : json_object_get(row, "prompt")), *said = json_string_value(messages ? json_object_get(json_array_get(messages, 1), "content") : json_object_get(row, "completion"));
    int a, b, c;
    numbers_seen(s, question, &a, &b, &c);
    char *want = xprintf("%d + %d = %d. %d - %d = %d. Answer: %d", a, b, a + b, a + b, c, a + b - c, a + b - c);
    if (strncmp(said, want, strlen(want)) != 0 || (said[strlen(want)] && said[strlen(want)] != '.')) fail_msg("%s: %s", question, said);
    free(want);
    s->rows++;
}
static void check_correction(json_t *row, void *data) {
    Steps *s = (Steps *)data;
    const json_t *messages = json_object_get(row, "messages");
    const char *asked = json_string_value(json_object_get(json_array_get(messages, 0), "content")), *reply = json_string_value(json_object_get(json_array_get(messages, 1), "content")), *found = strstr(asked, "\nFound: ") + 8;
    int a, b, c;
    numbers_seen(s, asked, &a, &b, &c);
    Correction out;
    CorrectionStatus status = correction_parse(text_of(reply), false, text_make(found, strchr(found, '\n') - found), &out);
    if (status != CORRECTION_GOOD) fail_msg("%s: %s: %s", correction_names[status], asked, reply);
    char *want = out.prefix.length ? xprintf("%d - %d = %d.", a + b, c, a + b - c) : xprintf("%d + %d = %d.", a, b, a + b);
    assert_string_equal(out.correction, want);
    if (out.prefix.length) s->wrong_second++; else s->wrong_first++;
    free(want); free(out.correction);
    s->rows++;
}
static void test_steps(void **state) {
    (void)state;
    Steps s;
    memset(&s, 0, sizeof s);
    s.part = json_object();
    for (int i = 0; i < NUM_STEP_FILES; i++) if (!same("s", "t", step_files[i])) fail_msg("%s differs between two runs of one seed", step_files[i]);
    assert_false(same("s", "u", "steps.jsonl"));
    static const struct { const char *file; int part, rows; } parts[] = {{"steps.jsonl", 1, 4000}, {"corrections.jsonl", 1, 2500}, {"ask.jsonl", 2, 400}, {"ask_test.jsonl", 3, 250}};
    for (int k = 0; k < 4; k++) {
        s.which = parts[k].part;
        s.rows = 0;
        each_row("s", parts[k].file, k == 1 ? check_correction : check_sum, &s);
        assert_int_equal(s.rows, parts[k].rows);
    }
    assert_true(s.wrong_first > 1000 && s.wrong_second > 1000);
    json_decref(s.part);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_seed), cmocka_unit_test(test_tokenizer_loads), cmocka_unit_test(test_held_out), cmocka_unit_test(test_rambling), cmocka_unit_test(test_steps)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
