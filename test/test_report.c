// test_report.c: what eval's runs have left, compared, drawn and fitted: the tables, the statistics against numbers worked out by hand, the page, and what is said to damaged files.
//
//     build/test_report --pages DIR    writes pages to be looked at: DIR/three.html (40 tasks, three runs), DIR/one.html, DIR/scaling.html
#include "../findap/eval_report.h"
#include "../findap/eval_scaling.h"
#include "check.h"
#include "scratch.h"           // defines: directory, setup, teardown, in
#include "program.h"           // defines: run_words, output
#include "report_fixture.h"    // defines: fake_run, fake_log

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

#define N NAN
static const FakeTask large[] = {
    {"fpb", "FPB", "acc", "finance", "similar", "task", "direct", FAKE_LABELS, 970, 3, 0.59, {0.73, 0.929, 0.911}, {91.13, 73.09}},
    {"fiqasa", "FiQA SA", "acc", "finance", "similar", "task", "direct", FAKE_LABELS, 235, 3, 0.6, {0.778, 0.944, 0.953}, {95.32, 77.87}},
    {"fomc", "FOMC", "acc", "finance", "similar", "task", "direct", FAKE_LABELS, 496, 3, 0.49, {0.566, 0.631, 0.643}, {64.31, 56.65}},
    {"ner", "NER", "entity_f1", "finance", "similar", "task", "direct", FAKE_COUNTS, 98, 0, 0, {0.45, 0.74, 0.77}, {76.69, 45.03}},
    {"edtsum", "EDTSUM", "rouge1", "finance", "similar", "task", "direct", FAKE_TEXT, 2000, 0, 0, {0.115, 0.542, 0.537}, {53.78, 11.5}},
    {"finer-ord", "FiNER-ORD", "entity_f1", "finance", "similar", "task", "direct", FAKE_COUNTS, 1080, 0, 0, {0.30, 0.62, 0.64}, {N, N}},
    {"headlines", "Gold commodity headlines: nine questions about price, direction, past, future and comparison of each headline", "avg_f1", "finance", "similar", "task", "direct", FAKE_SUBSETS, 2000, 2, 0.6, {0.66, 0.88, 0.89}, {N, N}},
    {"tsa", "TSA", "rmse", "finance", "similar", "task", "direct", FAKE_RMSE, 561, 0, 0, {0.2, 0.5, 0.6}, {N, N}},
    {"mmlu-finance", "MMLU-Finance", "acc", "finance", "novel", "concept", "direct", FAKE_LABELS, 1460, 4, 0.27, {0.657, 0.639, 0.642}, {64.2, 65.71}},
    {"ectsum", "Flare-ECTSUM", "rouge1", "finance", "novel", "task", "direct", FAKE_TEXT, 495, 0, 0, {0.359, 0.344, 0.341}, {34.1, 35.92}},
    {"mlesg", "MLESG", "acc", "finance", "novel", "task", "direct", FAKE_LABELS, 300, 35, 0.1, {0.363, 0.42, 0.407}, {40.67, 36.33}},
    {"ma", "MA", "acc", "finance", "novel", "task", "direct", FAKE_LABELS, 500, 2, 0.65, {0.826, 0.846, 0.84}, {84, 82.6}},
    {"sm-bigdata", "SM-Bigdata", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 1470, 2, 0.55, {0.553, 0.52, 0.541}, {54.14, 55.3}},
    {"sm-acl", "SM-ACL", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 3720, 2, 0.51, {0.505, 0.499, 0.52}, {51.99, 50.51}},
    {"sm-cikm", "SM-CIKM", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 1140, 2, 0.56, {0.555, 0.449, 0.549}, {54.94, 55.56}},
    {"cra-ccf", "CRA-CCF", "mcc", "finance", "novel", "task", "cot", FAKE_LABELS, 2280, 2, 0.99, {0.2, 0.4, 0.45}, {0.83, -0.32}},
    {"cra-ccfraud", "CRA-CCFraud", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 2100, 2, 0.941, {0.148, 0.323, 0.34}, {34.03, 14.78}},
    {"german", "Flare-German", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 200, 2, 0.66, {0.335, 0.605, 0.64}, {64, 33.5}},
    {"australian", "Flare-Australian", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 139, 2, 0.56, {0.669, 0.518, 0.446}, {44.6, 66.91}},
    {"lendingclub", "CRA-LendingClub", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 2690, 2, 0.81, {0.527, 0.66, 0.685}, {68.49, 52.69}},
    {"polish", "CRA-Polish", "mcc", "finance", "novel", "task", "cot", FAKE_LABELS, 1740, 2, 0.95, {0.3, 0.1, 0.5}, {15.3, 12.37}},
    {"taiwan", "CRA-Taiwan", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 1370, 2, 0.967, {0.12, 0.964, 0.408}, {40.81, 12.01}},
    {"portoseguro", "CRA-ProtoSeguro", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 2380, 2, 0.963, {0.97, 0.866, 0.351}, {35.14, 96.98}},
    {"travelinsurance", "CRA-TravelInsurance", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 2534, 2, 0.985, {0.064, 0.985, 0.415}, {41.52, 6.39}},
    {"tatqa", "Flare-TATQA", "number_rounded", "finance", "novel", "reasoning", "cot", FAKE_TEXT, 1670, 0, 0, {0.634, 0.664, 0.666}, {66.61, 63.43}},
    {"financebench", "FinanceBench", "judge", "finance", "novel", "reasoning", "cot", FAKE_TEXT, 150, 0, 0, {0.527, 0.52, 0.54}, {54, 52.7}},
    {"cfa-easy", "CFA-Easy", "acc", "finance", "novel", "reasoning", "cot", FAKE_LABELS, 1032, 3, 0.36, {0.606, 0.623, 0.663}, {66.28, 60.56}},
    {"cfa-challenge", "CFA-Challenge", "acc", "finance", "novel", "reasoning", "cot", FAKE_LABELS, 90, 3, 0.356, {0.344, 0.356, 0.556}, {55.56, 34.44}},
    {"finred", "FinRED", "relation_f1", "finance", "novel", "task", "direct", FAKE_COUNTS, 1068, 0, 0, {0.1, 0.3, N}, {N, N}},
    {"convfinqa", "ConvFinQA", "number_rounded", "finance", "novel", "reasoning", "cot", FAKE_TEXT, 1490, 0, 0, {N, 0.45, 0.5}, {N, N}},
    {"mmlu", "MMLU", "acc", "general", "novel", "concept", "cot", FAKE_LABELS, 6000, 4, 0.26, {0.481, 0.472, 0.474}, {47.42, 48.14}},
    {"arc", "AI2-ARC", "acc", "general", "novel", "concept", "cot", FAKE_LABELS, 3548, 4, 0.26, {0.893, 0.889, 0.894}, {89.43, 89.29}},
    {"nq-open", "NQ-open", "em", "general", "novel", "concept", "cot", FAKE_TEXT, 3610, 0, 0, {0.185, 0.162, 0.192}, {19.2, 18.47}},
    {"mt-bench", "MT-bench", "judge", "general", "novel", "chat", "direct", FAKE_TEXT, 80, 0, 0, {0.788, 0.729, 0.736}, {73.6, 78.8}},
    {"mathqa", "MathQA", "acc", "general", "novel", "reasoning", "cot", FAKE_LABELS, 2985, 5, 0.21, {0.512, 0.543, 0.551}, {55.08, 51.16}},
    {"social-iqa", "Social-IQA", "acc", "general", "novel", "reasoning", "cot", FAKE_LABELS, 2636, 3, 0.34, {0.688, 0.736, 0.752}, {75.23, 68.83}},
    {"openbookqa", "OpenBookQA", "acc", "general", "novel", "reasoning", "cot", FAKE_LABELS, 500, 4, 0.28, {0.77, 0.792, 0.826}, {82.6, 77}},
    {"hellaswag", "HellaSwag", "acc", "general", "novel", "reasoning", "cot", FAKE_LABELS, 4000, 4, 0.25, {0.733, 0.7, 0.68}, {81.9, 73.34}},
    {"winogrande", "Winogrande", "acc", "general", "novel", "reasoning", "cot", FAKE_LABELS, 1767, 2, 0.5, {0.625, 0.675, 0.703}, {70.32, 62.51}},
    {"piqa_with_a_name_that_is_far_longer_than_any_column_would_like_it_to_be", "PIQA_with_a_title_that_is_far_longer_than_any_column_would_like_it_to_be_and_no_blank", "acc", "general", "novel", "reasoning", "cot", FAKE_LABELS, 1838, 2, 0.505, {0.798, 0.844, 0.859}, {85.85, 79.82}},
};
#undef N

static int pages(const char *dir) {
    static const char *const labels[] = {"Llama-3-8B-Instruct", "CPT+IT", "+PA"};
    Error e;
    StringList dirs = {(const char **)xcalloc(3, sizeof(char *)), 0}, logs = {(const char **)xcalloc(1, sizeof(char *)), 0}, none = {NULL, 0};
    for (int i = 0; i < 3; i++) {
        char *run = xprintf("%s/run%d", dir, i);
        fake_json(run, "results.json", fake_run(run, labels[i], large, COUNT(large), i));
        dirs.items[dirs.n++] = run;
    }
    char *log = xprintf("%s/log.jsonl", dir), *three = xprintf("%s/three.html", dir), *one = xprintf("%s/one.html", dir), *two = xprintf("%s/scaling.html", dir), *points = xprintf("%s/points.jsonl", dir);
    fake_log(log, 2000);
    logs.items[logs.n++] = log;
    if (!report_run(&dirs, &logs, three, &e)) fail_msg("%s", e.text);
    dirs.n = 1;
    if (!report_run(&dirs, &none, one, &e)) fail_msg("%s", e.text);
    const char *rows = "{\"size\": 1000, \"f1\": 0.51}\n{\"size\": 4000, \"f1\": 0.66}\n{\"size\": 16000, \"f1\": 0.77}\n{\"size\": 64000, \"f1\": 0.84}\n{\"size\": 256000, \"f1\": 0.9}\n";
    if (!write_file(points, rows, (int64_t)strlen(rows), &e)) fail_msg("%s", e.text);
    char *argv[] = {(char *)"scaling", points, (char *)"--out", two, NULL};
    int result = eval_scaling_main(4, argv);
    char *compare[] = {(char *)"compare", (char *)dirs.items[0], (char *)dirs.items[1], NULL};
    return result | eval_compare_main(3, compare);
}

// ---- small runs, whose numbers are worked out by hand

static void write_text(const char *name, const char *text) {
    Error e;
    if (!write_file(in(name), text, (int64_t)strlen(text), &e)) fail_msg("%s", e.text);
}
// a run of one task "t": rows r0.. whose value is 1 or 0 as `right` says
static char *rows_of(const char *right, const char *more) {
    Buffer b = {NULL, 0, 0};
    for (int i = 0; right[i]; i++) {
        char *line = xprintf("{\"row\":%d,\"id\":\"r%d\",\"gold\":\"g%d\",\"value\":{\"acc\":%c.0}%s}\n", i, i, i, right[i], more);
        buffer_add(&b, line, (int64_t)strlen(line));
        free(line);
    }
    buffer_add(&b, "", 1);
    return b.data;
}
static char *results_of(const char *task, int n, const char *score) {
    return xprintf("{\"format\":\"findap-eval-1\",\"label\":null,\"settings\":{},\"tasks\":{%s\"n\":%d,\"metric\":\"acc\",\"score\":%s,\"data_hash\":\"d\"}}}", task, n, score);
}
static void write_run(const char *dir, const char *task, const char *score, const char *right) {
    Error e;
    char *name = xprintf("%s/results.json", dir), *samples = xprintf("%s/samples_t.jsonl", dir), *text = results_of(task, (int)strlen(right), score), *rows = rows_of(right, "");
    assert_true(make_directory(in(dir), &e));
    write_text(name, text);
    write_text(samples, rows);
    free(name); free(samples); free(text); free(rows);
}
static void has(const char *what) { if (!strstr(output, what)) fail_msg("not said: %s\n%s", what, output); }
static void one_error(const char *what) {   // one line, that says so
    has(what);
    if (strncmp(output, "findap: error: ", 15) != 0 || strchr(output, '\n') != output + strlen(output) - 1) fail_msg("expected one error line: %s", output);
}
static double number_after(const char *key, int skip) {
    const char *s = output;
    for (int i = 0; i <= skip && s; i++) s = strstr(i ? s + 1 : s, key);
    if (!s) fail_msg("no %s in %s", key, output);
    return strtod(s + strlen(key), NULL);
}

static void compare_accuracy(void **state) {
    (void)state;
    // of 40 rows 1 is right in A alone, 9 in B alone: McNemar p = 2 (C(10,0) + C(10,1)) / 2^10 = 22 / 1024; the difference is 8 / 40
    write_run("a", "\"t\":{\"domain\":\"finance\",", "0.525", "1111111111111111111110000000000000000000");
    write_run("b", "\"t\":{\"domain\":\"finance\",", "0.725", "0111111111111111111111111111110000000000");
    assert_int_equal(run_words(eval_compare_main, "compare", "@a @b --json"), 0);
    assert_true(fabs(number_after("\"p\":", 0) - 22.0 / 1024) < 1e-15 && fabs(number_after("\"p_holm\":", 0) - 22.0 / 1024) < 1e-15);
    assert_true(fabs(number_after("\"difference\":", 0) - 0.2) < 1e-15 && fabs(number_after("\"a\":", 0) - 0.525) < 1e-15);
    // s^2 of the differences: (10 - 8^2 / 40) / 39; t of 39 degrees of freedom at 0.975 is 2.022690911734729
    double error = sqrt((10 - 64.0 / 40) / 39 / 40);
    assert_true(fabs(number_after("\"stderr\":", 0) - error) < 1e-14 && fabs(number_after("\"low\":", 0) - (0.2 - 2.022690911734729 * error)) < 1e-9);
    assert_int_equal(number_after("\"only_b_right\":", 0), 9);
    has("\"better\""); has("McNemar");
    assert_int_equal(run_words(eval_compare_main, "compare", "@a @b"), 0);
    has("|t    |finance|40|acc   |\xE2\x86\x91|52.50|72.50|+20.00|"); has("|0.0215|  0.0215|"); has("over 1 task; 1 better, 0 worse");
    // three runs: two tests, so p is twice as much, and no longer below 0.04
    assert_int_equal(run_words(eval_compare_main, "compare", "@a @b @b --json"), 0);
    assert_true(fabs(number_after("\"p_holm\":", 0) - 44.0 / 1024) < 1e-15);
    has("\"b (2)\"");
}

static void holm_by_hand(void **state) {   // p 0.01, 0.04, 0.03, 0.005 -> 0.03, 0.06, 0.06, 0.02 (R: p.adjust(.., "holm"))
    (void)state;
    const double p[] = {0.01, 0.04, NAN, 0.03, 0.005}, expected[] = {0.03, 0.06, NAN, 0.06, 0.02};
    Comparison items[5];
    Comparisons c = {NULL, 0, items, 5, 0};
    memset(items, 0, sizeof items);
    for (int i = 0; i < 5; i++) { items[i].d.p = p[i]; items[i].holm = NAN; }
    holm(&c);
    assert_int_equal(c.tests, 4);
    for (int i = 0; i < 5; i++) assert_true(isnan(expected[i]) ? isnan(items[i].holm) : fabs(items[i].holm - expected[i]) < 1e-15);
}

static void compare_others(void **state) {   // F1 of labels, of entities, RMSE, text: the scores themselves by hand, the intervals around them
    (void)state;
    static const FakeTask tasks[] = {
        {"l", "L", "macro_f1", "finance", "novel", "task", "direct", FAKE_LABELS, 300, 3, 0.5, {0.5, 0.7, NAN}, {NAN, NAN}},
        {"e", "E", "entity_f1", "finance", "novel", "task", "direct", FAKE_COUNTS, 200, 0, 0, {0.4, 0.6, NAN}, {NAN, NAN}},
        {"r", "R", "rmse", "finance", "novel", "task", "direct", FAKE_RMSE, 200, 0, 0, {0.2, 0.6, NAN}, {NAN, NAN}},
        {"x", "X", "rouge1", "general", "novel", "task", "direct", FAKE_TEXT, 200, 0, 0, {0.6, 0.5, NAN}, {NAN, NAN}},
        {"s", "S", "avg_f1", "general", "novel", "task", "direct", FAKE_SUBSETS, 200, 2, 0.5, {0.6, 0.6, NAN}, {NAN, NAN}},
        {"only", "Only", "acc", "general", "novel", "task", "direct", FAKE_LABELS, 20, 2, 0.5, {NAN, 0.6, NAN}, {NAN, NAN}}};
    for (int i = 0; i < 2; i++) fake_json(in(i ? "f1" : "f0"), "results.json", fake_run(in(i ? "f1" : "f0"), i ? "after" : "before", tasks, COUNT(tasks), i));
    StringList dirs = {NULL, 0};
    const char *names[2] = {xstrdup(in("f0")), xstrdup(in("f1"))};
    RunResult *runs = NULL;
    Comparisons c;
    Error e;
    dirs.items = names; dirs.n = 2;
    if (!run_results_load(&dirs, &runs, &e) || !comparisons_make(runs, 2, NULL, NULL, false, &c, &e)) fail_msg("%s", e.text);
    assert_int_equal(c.n, 5);
    for (int i = 0; i < 5; i++) {
        const Comparison *x = &c.items[i];
        const TaskResult *b = task_result_find(&runs[1], x->a->id);
        if (fabs(x->d.a - x->a->score.value) > 1e-12 || fabs(x->d.b - b->score.value) > 1e-12 || x->scores_differ) fail_msg("%s: %g %g, expected %g %g", x->a->id, x->d.a, x->d.b, x->a->score.value, b->score.value);
        assert_true(x->d.low < x->d.difference && x->d.difference < x->d.high && x->d.p > 0 && x->d.p <= 1 && x->holm >= x->d.p);
        assert_int_equal(x->test, TEST_BOOTSTRAP);
        assert_int_equal(comparison_verdict(x), strcmp(x->a->id, "s") == 0 ? 0 : strcmp(x->a->id, "x") == 0 ? -1 : 1);   // a lower RMSE is better, a lower ROUGE worse
    }
    // the same rows are hard for both, so what is paired is narrower than what is not
    const Comparison *x = comparison_find(&c, "x", 1);
    assert_true(x->d.error < 0.5 * sqrt(pow(x->a->score.error, 2) + pow(x->b->score.error, 2)));
    comparisons_free(&c);
    run_results_free(runs, 2);
    assert_int_equal(run_words(eval_compare_main, "compare", "@f0 @f1 --tasks l --metric mcc"), 0);
    has("|mcc   |"); has("task \"only\" is in after, not in before");
    free((void *)names[0]); free((void *)names[1]);
}

// Ratings of five rows: pairs where both runs have one. d = 2, 1, 3, 2 (r4 has no rating in B): mean 2, and of the rows r4 is A's alone
static void compare_ratings(void **state) {
    (void)state;
    static const char *const ratings[2][5] = {{"4", "5", "3", "6", "9"}, {"6", "6", "6", "8", NULL}};
    Error e;
    for (int k = 0; k < 2; k++) {
        Buffer b = {NULL, 0, 0};
        char *dir = xstrdup(in(k ? "j1" : "j0")), *name = xprintf("%s/results.json", k ? "j1" : "j0"), *text = xprintf("{\"format\":\"findap-eval-1\",\"label\":null,\"settings\":{},\"tasks\":{\"t\":{\"n\":5,\"metric\":\"judge\",\"score\":%s,\"data_hash\":\"d\"}}}", k ? "6.5" : "5.4");
        for (int i = 0; i < 5; i++) {
            char *line = ratings[k][i] ? xprintf("{\"row\":%d,\"id\":\"r%d\",\"gold\":\"\",\"value\":{\"judge\":%s}}\n", i, i, ratings[k][i]) : xprintf("{\"row\":%d,\"id\":\"r%d\",\"gold\":\"\",\"value\":{}}\n", i, i);
            buffer_add(&b, line, (int64_t)strlen(line));
            free(line);
        }
        assert_true(make_directory(dir, &e));
        write_text(name, text);
        fake_write(dir, "rated_t.jsonl", b.data, b.len);
        buffer_free(&b);
        free(dir); free(name); free(text);
    }
    assert_int_equal(run_words(eval_compare_main, "compare", "@j0 @j1 --json"), 0);
    assert_true(number_after("\"difference\":", 0) == 2 && number_after("\"a\":", 0) == 4.5 && number_after("\"only_a\":", 0) == 1 && number_after("\"only_b\":", 0) == 0 && number_after("\"n\":", 0) == 4);
    has("paired bootstrap");
}

static void compare_refuses(void **state) {
    (void)state;
    const char *t = "\"t\":{";
    write_run("a", t, "0.5", "1010");
    assert_int_equal(run_words(eval_compare_main, "compare", "@a"), 1); one_error("expected at least two");
    assert_int_equal(run_words(eval_compare_main, "compare", "@a @none"), 1); one_error("none/results.json");
    assert_int_equal(run_words(eval_compare_main, "compare", "@a @a --tasks u"), 1); one_error("no task \"u\"");
    assert_int_equal(run_words(eval_compare_main, "compare", "@a @a --fast"), 1); one_error("unknown flag");
    assert_int_equal(run_words(eval_compare_main, "compare", "@a @a --metric mcc"), 1); one_error("nothing to compare");
    write_run("b", t, "0.5", "1010");
    write_text("b/results.json", "{\"format\":\"findap-eval-1\",\"tasks\":{\"t\":{\"n\":4,\"metric\":\"acc\",\"score\":0.5,\"data_hash\":\"other\"}}}");
    assert_int_equal(run_words(eval_compare_main, "compare", "@a @b"), 1); one_error("the data differ");
    write_text("b/results.json", "{\"format\":\"findap-eval-1\",\"tasks\":{\"t\":{\"n\":4,\"metric\":\"em\",\"score\":0.5,\"data_hash\":\"d\"}}}");
    assert_int_equal(run_words(eval_compare_main, "compare", "@a @b"), 1); one_error("choose with --metric");
    write_run("b", t, "0.5", "1010");
    char *good = rows_of("1010", ""), *rows = xprintf("%s", good);
    *strstr(rows, "\"g2\"") = ' '; memcpy(strstr(rows, " g2\""), "\"G2\"", 4);
    write_text("b/samples_t.jsonl", rows);
    assert_int_equal(run_words(eval_compare_main, "compare", "@a @b"), 1); one_error("row \"r2\" has another gold answer");
    free(rows);
    // rows that one run alone has are counted, not compared
    char *six = rows_of("101011", "");
    write_text("b/samples_t.jsonl", six);
    free(six);
    assert_int_equal(run_words(eval_compare_main, "compare", "@a @b"), 0); has("0 rows in A only, 2 in B only");
    char *asked = rows_of("1010", ",\"prompt_hash\":\"p\""), *other = rows_of("1010", ",\"prompt_hash\":\"q\"");
    write_text("a/samples_t.jsonl", asked);
    write_text("b/samples_t.jsonl", other);
    assert_int_equal(run_words(eval_compare_main, "compare", "@a @b"), 0); has("4 prompts differ");
    free(asked); free(other);
    static const struct { const char *rows, *says; } bad[] = {
        {"{\"row\":0,\"id\":\"r0\",\"gold\":1,\"value\":{\"acc\":1.0}}\n{\"row\":1,\"id\"", ":2: the last line is cut off"},
        {"{\"row\":0,\"id\":\"r0\",\"value\":{\"acc\":NaN}}\n", ":1: not valid JSON"},
        {"{\"row\":0,\"id\":\"r0\",\"value\":{\"acc\":\"1\"}}\n", "\"acc\" is a string"},
        {"{\"row\":0,\"id\":\"r0\",\"value\":[]}\n", "\"value\" is an array"},
        {"{\"id\":\"r0\"}\n", "\"row\" is missing"}, {"{\"row\":0}\n", "\"id\" is missing"}, {"[]\n", "expected an object"}, {"\n", "not valid JSON"},
        {"{\"row\":0,\"id\":\"r0\",\"label\":[0,5000]}\n", "\"label\" is not two labels"}, {"{\"row\":0,\"id\":\"r0\",\"counts\":[3,2,3]}\n", "more right ones than there are"},
        {"{\"row\":0,\"id\":\"r0\"}\n", "has 1 rows, results.json counts 4"},
        {"{\"row\":0,\"id\":\"r0\"}\n{\"row\":0,\"id\":\"r0\"}\n{\"row\":1,\"id\":\"r1\"}\n{\"row\":2,\"id\":\"r2\"}\n", "is there twice"}};
    for (int i = 0; i < COUNT(bad); i++) {
        write_text("b/samples_t.jsonl", bad[i].rows);
        assert_int_equal(run_words(eval_compare_main, "compare", "@a @b"), 1);
        one_error(bad[i].says);
    }
    write_text("b/samples_t.jsonl", good);
    free(good);
}

// ---- the table people know

static void terminal_table(void **state) {
    (void)state;
    Error e;
    const char *text = "{\"format\":\"findap-eval-1\",\"tasks\":{\"fpb\":{\"mode\":\"direct\",\"version\":1,\"n\":970,\"metric\":\"acc\",\"score\":0.9113,\"stderr\":0.0091,\"metrics\":{\"acc\":{\"value\":0.9113},\"mcc\":{\"value\":-0.05,\"stderr\":null},\"micro_f1\":{\"value\":0.9},\"weighted_f1\":{\"value\":-0.05,\"stderr\":null}},\"outcomes\":{\"answered\":620,\"truncated\":302,\"missing\":48},"
                       "\"baselines\":{\"majority\":0.5948,\"random\":0.3333}},\"t|s\\u001b[2J\":{\"n\":5,\"metric\":\"rmse\",\"score\":null,\"higher_is_better\":false},\"mt\":{\"n\":80,\"metric\":\"judge\",\"score\":0.9,\"share\":false,\"outcomes\":{\"answered\":76,\"truncated\":4}}},\"groups\":{\"finance\":{\"mean\":0.5,\"tasks\":2}}}";
    json_t *j = json_parse("t", text, (int64_t)strlen(text), &e);
    char *printed = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&printed, &size);
    if (!j || !results_print(j, "t", f, &e)) fail_msg("%s", e.text);
    fclose(f);
    const char *expected = "|Tasks     |Version|Filter|n-shot|Metric     |   | Value|   |Stderr|  n|Majority|Random|Unread|\n"
                           "|----------|------:|------|-----:|-----------|---|-----:|---|-----:|--:|-------:|-----:|-----:|\n"
                           "|fpb       |      1|direct|     0|acc        |\xE2\x86\x91  | 91.13|\xC2\xB1  |  0.91|970|   59.48| 33.33|  36.1|\n"
                           "|          |       |direct|      |weighted_f1|\xE2\x86\x91  | -5.00|\xC2\xB1  |     -|   |        |      |      |\n"
                           "|t/s\\x1b[2J|      0|none  |     0|rmse       |\xE2\x86\x93  |     -|\xC2\xB1  |     -|  5|       -|     -|     -|\n"
                           "|mt        |      0|none  |     0|judge      |\xE2\x86\x91  |0.9000|\xC2\xB1  |     -| 80|       -|     -|   5.0|\n";
    if (strncmp(printed, expected, strlen(expected)) != 0) fail_msg("%s\nexpected\n%s", printed, expected);
    if (!strstr(printed, "|Groups ") || !strstr(printed, "|50.00|")) fail_msg("%s", printed);
    if (!strstr(printed, "\nfpb: 31.1 % truncated\n") || strstr(printed, "missing\n") || strstr(printed, "mt:") || strstr(printed, "nan|")) fail_msg("%s", printed);   // 48 of 970 and 4 of 80 are few
    free(printed);
    json_decref(j);
}

// ---- the page

// every tag closed in its order, ids once, references to ids that are there, no attribute that loads anything
static void check_page(const char *page) {
    static const char *const alone[] = {"meta", "!doctype", NULL}, *const loads[] = {" src=", " href=\"http", "url(http", "@import", "<script", "<link", "<img", "<iframe", " onload", " onerror=", "javascript:", NULL};
    char stack[64][16];
    int depth = 0;
    for (const char *s = strchr(page, '<'); s; s = strchr(s + 1, '<')) {
        if (strncmp(s, "<style>", 7) == 0) { s = strstr(s, "</style>"); assert_non_null(s); continue; }
        bool close = s[1] == '/', single = false;
        char name[16] = "";
        sscanf(s + 1 + close, "%15[A-Za-z0-9!]", name);
        if (!*name) fail_msg("a bare < : %.80s", s);
        const char *end = s;
        for (bool quoted = false; *end && (quoted || *end != '>'); end++) if (*end == '"') quoted = !quoted;
        assert_true(*end == '>');
        char *tag = xprintf("%.*s", (int)(end - s), s);
        for (int i = 0; loads[i]; i++) if (strstr(tag, loads[i])) fail_msg("the page has %s: %s", loads[i], tag);
        free(tag);
        for (int i = 0; alone[i]; i++) single = single || strcmp(name, alone[i]) == 0;
        if (single || end[-1] == '/') continue;
        if (!close) { assert_true(depth < 64); strcpy(stack[depth++], name); continue; }
        if (!depth || strcmp(stack[--depth], name) != 0) fail_msg("</%s> closes <%s>: %.200s", name, depth >= 0 ? stack[depth] : "", s - 100);
    }
    assert_int_equal(depth, 0);
    for (const char *s = strstr(page, "aria-labelledby=\""); s; s = strstr(s + 1, "aria-labelledby=\"")) {   // "t3 d3": both there, once
        int a, b;
        char id[2][24];
        assert_int_equal(sscanf(s, "aria-labelledby=\"t%d d%d\"", &a, &b), 2);
        snprintf(id[0], sizeof id[0], "<title id=\"t%d\">", a);
        snprintf(id[1], sizeof id[1], "<desc id=\"d%d\">", b);
        for (int k = 0; k < 2; k++) { const char *first = strstr(page, id[k]); assert_true(first && !strstr(first + 1, id[k])); }
    }
    for (const char *s = strstr(page, "href=\"#"); s; s = strstr(s + 1, "href=\"#")) {
        char id[48] = "id=\"";
        sscanf(s, "href=\"#%40[a-z]", id + 4);
        strcat(id, "\"");
        if (!strstr(page, id)) fail_msg("nothing has %s", id);
    }
    for (const char *s = strstr(page, "<th"); s; s = strstr(s + 1, "<th")) if (strncmp(s, "<thead", 6) != 0 && strncmp(s, "<th scope=\"", 11) != 0) fail_msg("a head without scope: %.80s", s);
}
static char *read_page(const char *name) {
    Mapped m;
    Error e;
    if (!map_file(in(name), &m, &e)) fail_msg("%s", e.text);
    char *text = xprintf("%.*s", (int)m.size, (const char *)m.data);
    unmap_file(&m);
    return text;
}

#define HOSTILE "</title></desc><script>alert(1)</script><img src=x onerror=alert(2)>\"' onload=\"x\" &amp;\x1b[2J\xE2\x80\xAE"
static void page(void **state) {
    (void)state;
    static const FakeTask tasks[] = {
        {"fpb", "FPB", "acc", "finance", "similar", "task", "direct", FAKE_LABELS, 60, 3, 0.6, {0.5, 0.7, 0.8}, {91.13, 73.09}},
        {"hostile", HOSTILE, HOSTILE, "general", HOSTILE, HOSTILE, HOSTILE, FAKE_TEXT, 30, 0, 0, {0.5, 0.4, NAN}, {NAN, NAN}},
        {"taiwan", "Taiwan", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 60, 2, 0.95, {0.3, 0.4, 0.5}, {40.81, NAN}},
        {"tsa", "TSA", "rmse", "finance", "novel", "task", "direct", FAKE_RMSE, 60, 0, 0, {0.3, 0.4, 0.5}, {NAN, NAN}}};
    char *dirs[3];
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%d", i);
        dirs[i] = xstrdup(in(name));
        json_t *j = fake_run(dirs[i], i == 1 ? HOSTILE : i ? "+PA" : "base", tasks, COUNT(tasks), i), *t = json_object_get(json_object_get(j, "tasks"), "taiwan");
        json_object_set_new(j, "model", json_string(HOSTILE));
        if (i == 0) { json_object_set_new(t, "score", json_real(0.75)); json_object_set_new(t, "low", json_real(0.5)); json_object_set_new(t, "high", json_real(1)); }
        if (i == 2) json_object_set_new(json_object_get(j, "settings"), HOSTILE, json_string(HOSTILE));
        json_t *fpb = json_object_get(json_object_get(j, "tasks"), "fpb"), *names = json_object_get(json_object_get(fpb, "confusion"), "labels");
        assert_int_equal(json_array_set_new(names, 0, json_string(HOSTILE)), 0);
        fake_json(dirs[i], "results.json", j);
        free(dirs[i]);
    }
    fake_log(in("log.jsonl"), 100);
    if (run_words(eval_report_main, "report", "@p0 @p1 @p2 --log @log.jsonl --out @report.html")) fail_msg("%s", output);
    char *text = read_page("report.html");
    check_page(text);
    // where things stand: 0.75 of 0..1 is 75 % of the width, the majority's mark 95 %
    static const char *const there[] = {"width=\"75.000%\" height=\"13\"", "x1=\"50.000%\"", "<svg x=\"95.000%\"", "x=\"91.130%\"", "91.13</td>", "&lt;script&gt;alert(1)", "\\x1b[2J", "\\u202e", "different settings", "Gained?", "Forgotten?", "Taiwan</b>: acc of the most frequent answer 95.00",
        "Settings of all runs", "100 steps; group1 from step 1, group2 from step 51", "prefers-color-scheme:dark", NULL};
    for (int i = 0; there[i]; i++) if (strcmp(there[i], "Settings of all runs") != 0 ? !strstr(text, there[i]) : strstr(text, there[i]) != NULL) fail_msg("the page: %s", there[i]);
    // the same again, byte for byte
    if (run_words(eval_report_main, "report", "@p0 @p1 @p2 --log @log.jsonl --out @again.html")) fail_msg("%s", output);
    char *again = read_page("again.html");
    assert_string_equal(text, again);
    free(again);
    if (run_words(eval_report_main, "report", "@p1 --out @one.html")) fail_msg("%s", output);
    again = read_page("one.html");
    check_page(again);
    assert_true(strstr(again, "One run") && !strstr(again, "Forgotten?") && !strstr(again, "Training</h2>"));
    free(again);
    // other data: no difference is computed, and it is said
    write_run("x0", "\"t\":{\"title\":\"Moved\",", "0.5", "1010");
    write_run("x1", "\"t\":{\"title\":\"Moved\",", "0.75", "1110");
    if (run_words(eval_report_main, "report", "@x0 @x1 --out @moved.html")) fail_msg("%s", output);
    again = read_page("moved.html");
    assert_true(strstr(again, "Gained?") && !strstr(again, "had different data"));
    free(again);
    write_text("x1/results.json", "{\"format\":\"findap-eval-1\",\"tasks\":{\"t\":{\"title\":\"Moved\",\"n\":4,\"metric\":\"acc\",\"score\":0.75,\"data_hash\":\"other\"}}}");
    if (run_words(eval_report_main, "report", "@x0 @x1 --out @moved.html")) fail_msg("%s", output);
    again = read_page("moved.html");
    assert_true(!strstr(again, "id=\"gained\"") && strstr(again, "<b>Moved</b>: the runs had different data"));
    free(again);
    // damage: one line, and the page of before is as it was
    static const struct { const char *file, *what, *says; } bad[] = {
        {"p1/results.json", "{\"format\":\"findap-eval-1\",\"tasks\":{\"t\":{\"n\":1,\"metric\":\"acc\",\"score\":\"0.5\"}}}", "\"score\" is a string"},
        {"p1/results.json", "{\"format\":\"findap-eval-1\",\"tasks\":{\"t\":{\"n\":1,\"metric\":\"acc\",\"score\":NaN}}}", "not valid JSON"},
        {"p1/results.json", "{\"format\":\"findap-eval-1\",\"tasks\":{\"t\":{\"n\":1,\"metric\":\"acc\",\"score\":1e999}}}", "not valid JSON"},
        {"p1/results.json", "{\"format\":\"findap-eval-1\",\"tasks\":{\"t\":{\"n\":1,\"metric\":\"acc\"}}}", "\"score\" is missing"},
        {"p1/results.json", "{\"format\":\"findap-eval-1\",\"tasks\":{\"t\":{\"metric\":\"acc\",\"score\":1}}}", "\"n\" is missing"},
        {"p1/results.json", "{\"format\":\"findap-eval-2\",\"tasks\":{}}", "expected \"findap-eval-1\""},
        {"p1/results.json", "{\"format\":\"findap-eval-1\",\"tasks\":{}}", "at least one task"},
        {"p1/results.json", "{\"format\":\"findap-eval-1\"", "not valid JSON"},
        {"p1/results.json", "", "not valid JSON"},
        {"p1/results.json", "{\"format\":\"findap-eval-1\",\"tasks\":{\"t\":{\"n\":1,\"metric\":\"acc\",\"score\":1,\"confusion\":{\"labels\":[\"a\",\"b\"],\"counts\":[[1,2],[3,4]]}}}}", "expected 3: one a label"},
        {"p1/results.json", "{\"format\":\"findap-eval-1\",\"tasks\":{\"t\":{\"n\":1,\"metric\":\"acc\",\"score\":1,\"lengths\":{\"edges\":[0,5,5],\"counts\":[1,2]}}}}", "not ascending"},
        {"p1/results.json", "{\"format\":\"findap-eval-1\",\"tasks\":{\"t\":{\"n\":1,\"metric\":\"acc\",\"score\":1,\"outcomes\":{\"answered\":-1}}}}", "negative"},
        {"p1/results.json", "{\"format\":\"findap-eval-1\",\"label\":7,\"tasks\":{\"t\":{\"n\":1,\"metric\":\"acc\",\"score\":1}}}", "\"label\" is an integer"},
        {"log.jsonl", "{\"event\":\"step\",\"step\":1,\"loss_nats_per_target\":\"low\"}\n", "is a string"},
        {"log.jsonl", "{\"event\":\"step\",\"step\":1,\"loss_nats_per_ta\n", "log.jsonl:1: not valid JSON"},
        {"log.jsonl", "{\"event\":\"start\",\"step\":0}\n", "no step with a loss"}};
    for (int i = 0; i < COUNT(bad); i++) {
        Mapped m;
        Error e;
        char *path = xstrdup(in(bad[i].file));
        assert_true(map_file(path, &m, &e));
        char *keep = xprintf("%.*s", (int)m.size, (const char *)m.data);
        unmap_file(&m);
        write_text(bad[i].file, bad[i].what);
        assert_int_equal(run_words(eval_report_main, "report", "@p0 @p1 --log @log.jsonl --out @report.html"), 1);
        one_error(bad[i].says);
        write_text(bad[i].file, keep);
        free(keep); free(path);
        again = read_page("report.html");
        assert_string_equal(text, again);
        free(again);
    }
    free(text);
    assert_int_equal(run_words(eval_report_main, "report", "@p0"), 1); one_error("--out is missing");
    assert_int_equal(run_words(eval_report_main, "report", "@p0 --out @log.jsonl"), 1); one_error("log.jsonl: is there and is no page");
    assert_int_equal(run_words(eval_report_main, "report", "--out @x.html"), 1); one_error("no directory");
    assert_int_equal(run_words(eval_report_main, "report", "@p0 --out @none/x.html"), 1); one_error("cannot be written");
}

// what a fuzzer would do: bytes changed, inserted, cut off; each is a page or one line
static void damaged(void **state) {
    (void)state;
    static const FakeTask tasks[] = {{"a", "A", "acc", "finance", "novel", "task", "direct", FAKE_LABELS, 8, 2, 0.6, {0.5, 0.7, 0.8}, {91.13, 73.09}}, {"e", "E", "entity_f1", "general", "novel", "task", "direct", FAKE_COUNTS, 8, 0, 0, {0.5, 0.7, 0.8}, {NAN, NAN}}};
    for (int i = 0; i < 2; i++) { char *d = xstrdup(in(i ? "d1" : "d0")); fake_json(d, "results.json", fake_run(d, i ? "one" : "zero", tasks, 2, i)); free(d); }
    fake_log(in("d.jsonl"), 20);
    static const char *const files[] = {"d1/results.json", "d1/samples_a.jsonl", "d1/samples_e.jsonl", "d.jsonl"};
    int refused = 0, drawn = 0;
    for (int f = 0; f < COUNT(files); f++) {
        char *good = read_page(files[f]);
        int64_t n = (int64_t)strlen(good);
        for (uint64_t k = 0; k < 40; k++) {
            Buffer b = {NULL, 0, 0};
            int64_t at = (int64_t)random_below(9, (uint64_t)f, 4 * k, (uint64_t)n);
            static const char *const put[] = {"\"", "-1", "1e308", "null", "[", "}", "\n", "\xFF", "99999999999", "0.5", ",", "{}"};
            buffer_add(&b, good, at);
            if (k % 3 == 1) buffer_add(&b, put[random_below(9, (uint64_t)f, 4 * k + 1, COUNT(put))], 1);
            if (k % 3 == 2) { const char *p = put[random_below(9, (uint64_t)f, 4 * k + 1, COUNT(put))]; buffer_add(&b, p, (int64_t)strlen(p)); }
            if (k % 3) buffer_add(&b, good + at + (k % 3 == 1), n - at - (k % 3 == 1));
            Error e;
            if (!write_file(in(files[f]), b.data ? b.data : "", b.len, &e)) fail_msg("%s", e.text);
            buffer_free(&b);
            int result = run_words(eval_report_main, "report", "@d0 @d1 --log @d.jsonl --out @d.html");
            if (result) { one_error(""); refused++; continue; }
            char *text = read_page("d.html");
            check_page(text);
            free(text);
            drawn++;
        }
        write_text(files[f], good);
        free(good);
    }
    assert_true(refused > 60 && drawn > 10);
    assert_int_equal(run_words(eval_report_main, "report", "@d0 @d1 --log @d.jsonl --out @d.html"), 0);
}

// ---- readable: contrast of the style's own colours (WCAG 2), in both schemes

static double luminance(const char *style, const char *name) {
    const char *s = strstr(style, name);
    unsigned rgb[3];
    if (!s || (s += strlen(name), *s != '#')) fail_msg("no colour %s", name);
    char six[7] = "";
    for (int i = 0; i < 6; i++) six[i] = s[4] == ';' ? s[1 + i / 2] : s[1 + i];   // #fff
    assert_int_equal(sscanf(six, "%2x%2x%2x", &rgb[0], &rgb[1], &rgb[2]), 3);
    double sum = 0;
    for (int i = 0; i < 3; i++) { double v = rgb[i] / 255.0; sum += (const double[]){0.2126, 0.7152, 0.0722}[i] * (v <= 0.04045 ? v / 12.92 : pow((v + 0.055) / 1.055, 2.4)); }
    return sum;
}
static void contrast(void **state) {
    (void)state;
    const char *scheme[] = {html_style, strstr(html_style, "prefers-color-scheme:dark")};
    static const struct { const char *name; double least; } colors[] = {{"--ink:", 7}, {"--soft:", 4.5}, {"--link:", 4.5}, {"--edge:", 3}, {"--l0:", 3}, {"--l1:", 3}, {"--l2:", 3}, {"--l3:", 3}, {"--l4:", 3}, {"--l5:", 3}};
    for (int k = 0; k < 2; k++) for (int i = 0; i < COUNT(colors); i++) for (int g = 0; g < 2; g++) {
        double a = luminance(scheme[k], colors[i].name), b = luminance(scheme[k], g ? "--box:" : "--bg:"), ratio = (fmax(a, b) + 0.05) / (fmin(a, b) + 0.05);
        if (ratio < colors[i].least) fail_msg("%s %s on %s: %.2f, expected %.1f", k ? "dark" : "light", colors[i].name, g ? "box" : "ground", ratio, colors[i].least);
    }
}

// ---- curves

static void logs(void **state) {   // a resumed run's steps replace those that were lost; what is not finite is a gap; a line that is not whole is one of a run that goes on
    (void)state;
    TrainLog l;
    Error e;
    write_text("l.jsonl", "{\"event\":\"start\",\"step\":0}\n{\"event\":\"step\",\"step\":1,\"stage\":\"g\",\"loss_nats_per_target\":3.0}\n{\"event\":\"step\",\"step\":2,\"loss_nats_per_target\":2.0}\n{\"event\":\"step\",\"step\":3,\"loss_nats_per_target\":9.0}\n"
                          "{\"event\":\"resume\",\"step\":1}\n{\"event\":\"step\",\"step\":2,\"loss_nats_per_target\":null,\"skipped\":true}\n{\"event\":\"dev\",\"step\":2,\"dev_loss_nats_per_target\":1.5,\"dev_loss_cpt\":1.6,\"best_dev_loss_nats_per_target\":1}\n{\"event\":\"done\"}\n{\"event\":\"st");
    if (!train_log_load(in("l.jsonl"), &l, &e)) fail_msg("%s", e.text);
    assert_true(l.cut && l.n == 3 && l.steps == 3 && l.skipped == 1 && l.curves[0].n == 2 && l.curves[0].x[1] == 2 && isnan(l.curves[0].y[1]) && l.curves[1].y[0] == 1.5);
    char *name = curve_label(&l.curves[2]);
    assert_string_equal(name, "dev: cpt");
    free(name);
    train_log_free(&l);
}

// ---- scaling

static void scaling(void **state) {
    (void)state;
    Buffer b = {NULL, 0, 0};
    for (int i = 0; i < 6; i++) {   // without noise: what was put in comes out
        double size = 100 * pow(3, i);
        char *line = xprintf("{\"size\": %.17g, \"f1\": %.17g}\n", size, 1 - 2.5 * pow(size, -0.31));
        buffer_add(&b, line, (int64_t)strlen(line));
        free(line);
    }
    buffer_add(&b, "", 1);
    write_text("points.jsonl", b.data);
    buffer_free(&b);
    if (run_words(eval_scaling_main, "scaling", "@points.jsonl --json --out @scaling.html")) fail_msg("%s", output);
    assert_true(fabs(number_after("\"exponent\":", 0) - 0.31) < 1e-12 && fabs(number_after("\"intercept\":", 0) - log(2.5)) < 1e-10 && fabs(number_after("\"low\":", 0) - 0.31) < 1e-9);
    char *text = read_page("scaling.html");
    check_page(text);
    assert_true(strstr(text, "exponent 0.3100") && strstr(text, "<path d=\"M"));
    free(text);
    // with noise, against scipy.stats.linregress: with the t interval of two degrees of freedom
    write_text("points.jsonl", "{\"size\":1000,\"f1\":0.5}\n{\"size\":2000,\"f1\":0.6,\"stderr\":0.02}\n\n{\"size\":4000,\"f1\":0.62}\n{\"size\":8000,\"f1\":0.7}");
    if (run_words(eval_scaling_main, "scaling", "@points.jsonl --json")) fail_msg("%s", output);
    assert_true(fabs(number_after("\"exponent\":", 0) - 0.22848973639423953) < 1e-9 && fabs(number_after("\"low\":", 0) - 0.07127693410233654) < 1e-9 && fabs(number_after("\"high\":", 0) - 0.3857025386861425) < 1e-9);
    if (run_words(eval_scaling_main, "scaling", "@points.jsonl")) fail_msg("%s", output);
    has("0.28 lies inside");
    static const struct { const char *rows, *says; } bad[] = {
        {"{\"size\":1,\"f1\":0.5}\n{\"size\":2,\"f1\":0.6}\n{\"size\":2,\"f1\":0.61}\n", "3 points of 2 different sizes"}, {"", "0 points of 0"}, {"{\"size\":1,\"f1\":1}\n", "F1 is 1, expected a fraction"}, {"{\"size\":1,\"f1\":91.3}\n", "F1 is 91.3"},
        {"{\"size\":0,\"f1\":0.5}\n", "\"size\" is 0"}, {"{\"size\":1,\"f1\":\"a\"}\n", "\"f1\" is a string"}, {"{\"size\":1,\"F1\":0.5}\n", "unknown key \"F1\""}, {"[1]\n", "expected {\"size\""}, {"{\"size\":1,\"f1\":NaN}\n", ":1: not valid JSON"}};
    for (int i = 0; i < COUNT(bad); i++) {
        write_text("points.jsonl", bad[i].rows);
        assert_int_equal(run_words(eval_scaling_main, "scaling", "@points.jsonl --out @scaling.html"), 1);
        one_error(bad[i].says);
    }
    assert_int_equal(run_words(eval_scaling_main, "scaling", "@points.jsonl --task x"), 1); one_error("--task has no effect here");
    // directories: the mean of what all have
    const char *f1[] = {"0.5", "0.6", "0.68"};
    for (int i = 0; i < 3; i++) {
        char dir[16], *t = xprintf("{\"format\":\"findap-eval-1\",\"tasks\":{\"a\":{\"n\":9,\"metric\":\"acc\",\"score\":0.9,\"metrics\":{\"weighted_f1\":{\"value\":%s,\"stderr\":0.01}}},\"b\":{\"n\":9,\"metric\":\"weighted_f1\",\"score\":0.4}%s}}", f1[i], i ? "" : ",\"c\":{\"n\":1,\"metric\":\"weighted_f1\",\"score\":0}");
        Error e;
        snprintf(dir, sizeof dir, "s%d", i);
        assert_true(make_directory(in(dir), &e));
        fake_write(in(dir), "results.json", t, (int64_t)strlen(t));
        free(t);
    }
    if (run_words(eval_scaling_main, "scaling", "@s0 @s1 @s2 --sizes 1000 4000 1.6e4")) fail_msg("%s", output);
    has("mean weighted_f1 of 2 tasks"); has("|0.5400|");
    if (run_words(eval_scaling_main, "scaling", "@s0 @s1 @s2 --sizes 1000 4000 1.6e4 --task a")) fail_msg("%s", output);
    has("|0.6800|0.0100|");
    assert_int_equal(run_words(eval_scaling_main, "scaling", "@s0 @s1 @s2 --sizes 1000 4000"), 1); one_error("2 --sizes for 3 directories");
    assert_int_equal(run_words(eval_scaling_main, "scaling", "@s0 @s1 @s2 --sizes 1000 4000 x"), 1); one_error("\"x\" is no positive number");
    assert_int_equal(run_words(eval_scaling_main, "scaling", "@s0 @s1 @s2 --sizes 1 2 3 --task c"), 1); one_error("no task c has weighted_f1");
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--pages") == 0) return pages(argv[2]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(compare_accuracy), cmocka_unit_test(holm_by_hand), cmocka_unit_test(compare_others), cmocka_unit_test(compare_ratings), cmocka_unit_test(compare_refuses), cmocka_unit_test(terminal_table),
        cmocka_unit_test(page), cmocka_unit_test(damaged), cmocka_unit_test(contrast), cmocka_unit_test(logs), cmocka_unit_test(scaling)};
    int result = cmocka_run_group_tests(tests, setup, teardown);
    free(output);
    return result;
}
