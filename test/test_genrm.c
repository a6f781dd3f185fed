// test_genrm.c: the commands of genrm around sampling. judge by verifier, probability and verdict, also through an endpoint that fails in every way; correct; files that are
// taken up again, by other numbers of ranks too. That nothing is lost, nothing made twice, and everything counted.
#define GENRM_LIBRARY
#include "genrm.cu"
#include "test/tiny_tokenizer.h" // defines: tiny_tokenizer
#include <sys/wait.h>            // defines: WEXITSTATUS
#include "test/check.h"
#include "test/scratch.h"        // defines: directory, setup, teardown, in
#include "test/genrm_run.h"      // defines: run_genrm, expect, summary, sorted_file, put, make_files
#include "test/server.h"         // defines: Server, Script, server_start, server_stop

static int open_all(void **state) {
    if (setup(state) != 0) return -1;
    #ifdef _OPENMP
    omp_set_num_threads(1);
    #endif
    make_files();
    return 0;
}
// the rows of a file by their "line" (or `key`); the caller frees what is not NULL
enum { MAX_ROWS = 64 };
static int rows_of(const char *name, const char *key, json_t **rows) {
    Mapped m;
    Error e;
    int n = 0;
    memset(rows, 0, MAX_ROWS * sizeof *rows);
    must(map_file(in(name), &m, &e), &e);
    for (int64_t at = 0; at < m.size;) {
        const uint8_t *end = (const uint8_t *)memchr(m.data + at, '\n', (size_t)(m.size - at));
        assert_non_null(end);
        json_t *j = json_parse(name, (const char *)m.data + at, end - (m.data + at), &e);
        must(j != NULL, &e);
        int64_t i = key ? json_integer_value(json_object_get(j, key)) : n;
        assert_true(i >= 0 && i < MAX_ROWS && !rows[i]);   // none is there twice
        rows[i] = j;
        n++;
        at = end + 1 - m.data;
    }
    unmap_file(&m);
    return n;
}
static void free_rows(json_t **rows) { for (int i = 0; i < MAX_ROWS; i++) json_decref(rows[i]); }
static const char *string_of(const json_t *row, const char *key) { const char *s = json_string_value(json_object_get(row, key)); return s ? s : "(none)"; }
static void says(const json_t *row, const char *key, const char *want) {
    if (strcmp(string_of(row, key), want) == 0) return;
    char *text = json_dumps(row, JSON_COMPACT);
    fail_msg("\"%s\" is \"%s\", expected \"%s\": %.600s", key, string_of(row, key), want, text);
}

// ---- judge --mode verify

static const char answers[] =
    "{\"row\":0,\"sample\":0,\"prompt\":\"2 + 3?\",\"completion\":\"5\",\"answer\":\"Answer: 5\",\"reached_cap\":false,\"token_logps\":[-0.5]}\n"
    "{\"row\":0,\"sample\":1,\"prompt\":\"2 + 3?\",\"completion\":\"5\",\"answer\":\"Two and three.\\nAnswer: 6\",\"reached_cap\":false}\n"
    "\n"
    "{\"row\":1,\"sample\":0,\"prompt\":[{\"role\":\"user\",\"content\":\"Which?\"}],\"completion\":\"(B)\",\"answer\":\"B. because\",\"reached_cap\":false}\n"
    "{\"row\":1,\"sample\":1,\"prompt\":[{\"role\":\"user\",\"content\":\"Which?\"}],\"completion\":\"(B)\",\"answer\":\"B. and so on and\",\"reached_cap\":true}\n"
    "{\"row\":2,\"sample\":0,\"prompt\":\"Mood?\",\"completion\":\"positive\",\"answer\":\" Positive.\",\"reached_cap\":false,\"verdict\":\"old\",\"x\":0.5}\n"
    "{\"row\":2,\"sample\":1,\"prompt\":\"Mood?\",\"completion\":\"positive\",\"answer\":\" \",\"reached_cap\":false}\n"
    "{\"row\":3,\"sample\":0,\"prompt\":\"Why?\",\"answer\":\"because\",\"reached_cap\":false}\n"
    "{\"row\":4,\"sample\":0,\"prompt\":\"10 / 4?\",\"completion\":\"2.5\",\"answer\":\"2.51\"}\n";
enum { ANSWERS = 8 };

static void verifier_judges(void **state) {
    (void)state;
    static const char *const expected[ANSWERS] = {"right", "wrong", "right", "truncated", "right", "empty", "no_gold", "wrong"};
    put("answers.jsonl", answers);
    run_genrm(0, "judge --mode verify --answers @answers.jsonl --out @verified.jsonl");
    json_t *rows[MAX_ROWS];
    assert_int_equal(rows_of("verified.jsonl", "line", rows), ANSWERS);
    for (int i = 0; i < ANSWERS; i++) {
        says(rows[i], "judged", expected[i]);
        says(rows[i], "verified", expected[i]);
        says(rows[i], "verdict", strcmp(expected[i], "right") == 0 || strcmp(expected[i], "wrong") == 0 ? expected[i] : "(none)");
        assert_true(json_object_get(rows[i], "verdict") && !json_object_get(rows[i], "token_logps"));
    }
    assert_true(json_number_value(json_object_get(rows[4], "x")) == 0.5 && json_integer_value(json_object_get(rows[1], "sample")) == 1);
    free_rows(rows);
    assert_true(summary("answers") == 8 && summary("right") == 3 && summary("wrong") == 2 && summary("undecided") == 3 && fabs(summary("right_share") - 0.375) < 1e-6 && summary("judged.truncated") == 1 && fabs(summary("overlength_ratio") - 0.125) < 1e-6);
    run_genrm(0, "judge --mode verify --tolerance 0.01 --answers @answers.jsonl --out @tolerant.jsonl --quiet");
    assert_true(summary("right") == 4 && summary("wrong") == 1);
    run_genrm(0, "judge --mode verify --verifier exact --answers @answers.jsonl --out @exact.jsonl --quiet");
    assert_true(summary("right") == 2);   // "5", "Positive."
    run_genrm(0, "judge --mode verify --answers @answers.jsonl --out @verified.jsonl");   // again: nothing is left to do
    assert_true(summary("answers") == 8 && summary("new_answers") == 0 && summary("right") == 3);
    char *whole = sorted_file("verified.jsonl");
    for (size_t cut = 1; cut < strlen(whole); cut += strlen(whole) / 5) {   // cut off anywhere
        Mapped m;
        Error e;
        must(map_file(in("verified.jsonl"), &m, &e) && write_file(in("cut.jsonl"), m.data, (int64_t)cut, &e), &e);
        unmap_file(&m);
        must(map_file(in("verified.jsonl.run"), &m, &e) && write_file(in("cut.jsonl.run"), m.data, m.size, &e), &e);
        unmap_file(&m);
        run_genrm(0, "judge --mode verify --answers @answers.jsonl --out @cut.jsonl --quiet");
        assert_true(summary("answers") == 8 && summary("right") == 3 && summary("wrong") == 2);
        char *now = sorted_file("cut.jsonl");
        assert_string_equal(now, whole);
        free(now);
    }
    free(whole);
}

// ---- judge --mode yesno: probabilities against those of a training pass, and calibration against counts by hand

static void probabilities_judge(void **state) {
    (void)state;
    enum { N = 20 };
    Buffer b = {NULL, 0, 0};
    for (int i = 0; i < N; i++) {   // the trained model goes on counting from the last letter: behind q comes r
        char *row = xprintf("{\"prompt\":\"count\",\"completion\":\"%s\",\"answer\":\"%c\"}\n", i % 3 == 0 ? "z" : "q", i % 3 == 2 ? 'b' + i : i % 2 ? 'z' : 'q');
        add_text(&b, row);
        free(row);
    }
    add_text(&b, "{\"prompt\":\"count\",\"answer\":\"\"}\n{\"prompt\":\"count\",\"answer\":\"z\",\"reached_cap\":true}\n{\"prompt\":\"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\",\"answer\":\"z\"}\n");
    buffer_add(&b, "", 1);
    put("count.jsonl", b.data);
    buffer_free(&b);
    put("judge.txt", "{{question}} from {{answer}}\n");
    run_genrm(0, "judge --mode yesno --model @model --prompt @judge.txt --yes R --no a --least 0 --answers @count.jsonl --out @yesno.jsonl --batch 3");
    json_t *rows[MAX_ROWS];
    Error e;
    assert_int_equal(rows_of("yesno.jsonl", "line", rows), N + 3);
    Model *m = NULL;
    Config c;
    must(config_load(in("model"), &c, &e), &e);
    m = model_create(&c, 1, 128, false, NULL);
    must(model_load_dir(m, in("model"), &e), &e);
    Tokenizer *t = tokenizer_load(in("model"), &e);
    TokenSet yes = token_set(t, "r"), no = token_set(t, "a");
    int64_t cells[2][2] = {{0, 0}, {0, 0}};   // judged right, is right
    for (int i = 0; i < N; i++) {
        char *text = xprintf("count from %s", string_of(rows[i], "answer"));
        Message message = {"user", text, (int64_t)strlen(text)};
        Ids ids = {NULL, 0, 0};
        must(chat_render(t, chat_guess(t), &message, 1, true, &ids, NULL, &e), &e);
        int32_t positions[128];
        for (int k = 0; k < 128; k++) positions[k] = k;
        Batch batch = {1, ids.len, ids.data, positions, NULL, NULL, true};
        float logits[512];
        int64_t last = ids.len - 1;
        model_forward(m, &batch);
        model_logits(m, &last, 1, logits);
        double sum = 0, y = 0, n = 0;
        for (int64_t v = 0; v < c.vocab_size; v++) sum += exp(logits[v]);
        for (int64_t k = 0; k < yes.ids.len; k++) y += exp(logits[yes.ids.data[k]]) / sum;
        for (int64_t k = 0; k < no.ids.len; k++) n += exp(logits[no.ids.data[k]]) / sum;
        double py = json_number_value(json_object_get(rows[i], "p_yes")), pn = json_number_value(json_object_get(rows[i], "p_no")), out = json_number_value(json_object_get(rows[i], "p_outside")), score = json_number_value(json_object_get(rows[i], "score"));
        if (!(fabs(py - y) < 1e-5 && fabs(pn - n) < 1e-5 && fabs(out - (1 - y - n)) < 1e-5 && fabs(score - y / (y + n)) < 1e-4)) fail_msg("row %d: %.7f %.7f %.7f score %.6f, by the training pass %.7f %.7f", i, py, pn, out, score, y, n);
        bool right = y > n, known = strcmp(string_of(rows[i], "verified"), "right") == 0;
        says(rows[i], "verdict", right ? "right" : "wrong");
        says(rows[i], "judged", right ? "right" : "wrong");
        cells[right][known]++;
        free(text);
        ids_free(&ids);
    }
    assert_true(cells[1][1] > 0 && cells[1][0] > 0 && cells[0][0] > 0);   // the rows have all these, or the next lines say nothing
    assert_true(summary("calibration.judged_right_is_right") == cells[1][1] && summary("calibration.judged_right_is_wrong") == cells[1][0] && summary("calibration.judged_wrong_is_wrong") == cells[0][0] && summary("calibration.judged_wrong_is_right") == cells[0][1]);
    assert_true(summary("calibration.rows_with_score") == N && summary("calibration.auc") > 0 && summary("right") == cells[1][0] + cells[1][1]);
    says(rows[N], "judged", "empty_answer");
    says(rows[N + 1], "judged", "reached_cap");
    says(rows[N + 2], "judged", "prompt_too_long");
    free_rows(rows);
    assert_non_null(strstr(output, "expected calibration error"));
    // taken up by another batch: the same rows, and the same sums
    char *whole = sorted_file("yesno.jsonl");
    Mapped file;
    must(map_file(in("yesno.jsonl"), &file, &e) && write_file(in("yesno2.jsonl"), file.data, file.size / 2, &e), &e);
    unmap_file(&file);
    must(map_file(in("yesno.jsonl.run"), &file, &e) && write_file(in("yesno2.jsonl.run"), file.data, file.size, &e), &e);
    unmap_file(&file);
    run_genrm(0, "judge --mode yesno --model @model --prompt @judge.txt --yes R --no a --least 0 --answers @count.jsonl --out @yesno2.jsonl --quiet");
    char *again = sorted_file("yesno2.jsonl");
    assert_string_equal(again, whole);
    assert_true(summary("calibration.judged_right_is_wrong") == cells[1][0] && summary("new_answers") < N + 3 && summary("new_answers") > 0);
    free(whole); free(again);
    // a judge that has something else to say
    put("unasked.jsonl", "{\"prompt\":\"count\",\"answer\":\"\"}\n{\"prompt\":\"count\",\"answer\":\"z\",\"reached_cap\":true}\n");   // no row asks anything: there is no longest prompt
    run_genrm(0, "judge --mode yesno --model @model --prompt @judge.txt --yes R --no a --answers @unasked.jsonl --out @unasked_judged.jsonl");
    json_t *none[MAX_ROWS];
    assert_int_equal(rows_of("unasked_judged.jsonl", "line", none), 2);
    for (int i = 0; i < 2; i++) { assert_true(json_is_null(json_object_get(none[i], "verdict"))); json_decref(none[i]); }
    run_genrm(0, "judge --mode yesno --model @model --prompt @judge.txt --yes ! --no ? --answers @count.jsonl --out @outside.jsonl --quiet");
    assert_true(summary("judged.no_verdict") == N && summary("undecided") == N + 3);
    // and one that cannot write JSON at all
    put("reference.txt", "{{question}}{{reference}}{{answer}}");
    run_genrm(0, "judge --mode verdict --model @model --prompt @reference.txt --answers @count.jsonl --out @prose.jsonl --max-new 5");
    assert_true(summary("undecided") == N + 3 && summary("judged.no_reference") == 1 && summary("logp_difference_largest") < 1e-5);
    ids_free(&yes.ids); ids_free(&no.ids);
    model_free(m);
    tokenizer_free(t);
}

// ---- an endpoint, well and badly behaved

#define SAYS(content) "{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"" content "\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}"
#define VERDICT(word) SAYS("Here it is:\\n{\\\"Justification\\\": \\\"so\\\", \\\"Correctness\\\": \\\"" word "\\\"}")
static char *endpoint_words(const Server *s, const char *words) { return xprintf("%s --endpoint http://127.0.0.1:%d/v1/chat/completions --endpoint-model judge-1", words, s->port); }
#define VERDICTS "judge --mode verdict --answers @answers.jsonl --timeout 0.4 --connections 1"

static void an_endpoint_judges(void **state) {
    (void)state;
    #ifndef FINDAP_CURL
    skip();
    #endif
    put("answers.jsonl", answers);
    // five answers can be asked about (lines 0, 1, 2, 4, 7): a verdict, prose, a time-out, a broken reply, nothing
    static const Script bad[] = {{SAY, 200, NULL, VERDICT("correct")}, {SAY, 200, NULL, SAYS("I would say it is fine.")}, {HANG, 0, NULL, NULL}, {SAY, 200, NULL, "{\"choices\":"}, {SAY, 200, NULL, SAYS("")}};
    Server s;
    server_start(&s, bad, 5);
    char *words = endpoint_words(&s, VERDICTS " --out @remote.jsonl");
    run_genrm(1, words);
    server_stop(&s);
    if (!strstr(output, "2 rows have no reply (1 timeout, 1 malformed); the last failure: http://127.0.0.1:")) fail_msg("%s", output);
    assert_non_null(strstr(output, "remote.jsonl, and the same command asks for the rest"));
    assert_true(summary("answers") == 6 && summary("endpoint.timeout") == 1 && summary("endpoint.malformed") == 1 && summary("endpoint.good") == 3 && summary("right") == 1 && summary("judged.no_json") == 1 && summary("judged.empty") == 1);
    json_t *rows[MAX_ROWS];
    assert_int_equal(rows_of("remote.jsonl", "line", rows), 6);
    assert_true(!rows[2] && !rows[4]);
    says(rows[0], "verdict", "right");
    says(rows[1], "judged", "no_json");
    says(rows[1], "reply", "I would say it is fine.");
    says(rows[7], "judged", "empty");
    says(rows[3], "judged", "reached_cap");
    says(rows[5], "judged", "empty_answer");
    says(rows[6], "judged", "no_reference");
    free_rows(rows);
    free(words);
    // the same command later, when the endpoint is well: only what is missing is asked. It stands at another port, so the file's run must say so
    static const Script good[] = {{SAY, 200, NULL, VERDICT("wrong")}};
    server_start(&s, good, 1);
    Mapped m;
    Error e;
    must(map_file(in("remote.jsonl.run"), &m, &e), &e);
    char *run = xprintf("%.*s", (int)m.size, (const char *)m.data), *port = strstr(run, "127.0.0.1:"), *moved = xprintf("%.*s127.0.0.1:%d%s", (int)(port - run), run, s.port, strchr(port, '/'));
    unmap_file(&m);
    put("remote.jsonl.run", moved);
    words = endpoint_words(&s, VERDICTS " --out @remote.jsonl");
    run_genrm(0, words);
    server_stop(&s);
    assert_int_equal(s.requests, 2);
    assert_non_null(strstr(s.last, "The same value in another notation"));   // the prompt file's words, and the row's
    assert_non_null(strstr(s.last, "Positive."));
    assert_true(summary("answers") == 8 && summary("new_answers") == 2 && summary("right") == 1 && summary("wrong") == 2 && summary("calibration.judged_right_is_right") == 1 && summary("calibration.judged_wrong_is_right") == 2);
    assert_int_equal(rows_of("remote.jsonl", "line", rows), 8);
    free_rows(rows);
    free(words); free(run); free(moved);
    // dead: given up after two, the others are not asked, and what needs no judge is there
    static const Script dead[] = {{HANG, 0, NULL, NULL}};
    server_start(&s, dead, 1);
    words = endpoint_words(&s, VERDICTS " --out @dead.jsonl --give-up 2");
    run_genrm(1, words);
    server_stop(&s);
    assert_int_equal(s.requests, 2);
    assert_non_null(strstr(output, "5 rows have no reply (2 timeout, 3 not_asked); the endpoint was given up; the last failure: "));
    assert_int_equal(rows_of("dead.jsonl", "line", rows), 3);
    free_rows(rows);
    free(words);
    // Yes or No, as text, by three at a time, of a server that is busy first
    static const Script yes[] = {{SAY, 503, NULL, "later"}, {SAY, 200, NULL, SAYS("**Yes**, it is.")}};
    server_start(&s, yes, 2);
    words = endpoint_words(&s, "judge --mode yesno --answers @answers.jsonl --connections 3 --out @yes.jsonl --max-new 8");
    run_genrm(0, words);
    server_stop(&s);
    assert_non_null(strstr(s.last, "\"max_tokens\":8"));
    assert_true(summary("answers") == 8 && summary("right") == 6 && summary("endpoint.good") == 6 && summary("endpoint.retries") == 1 && summary("calibration.rows_with_score") == 0 && summary("calibration.rows") == 5);
    free(words);
}

// ---- correct

static const char judged[] =
    "{\"line\":3,\"prompt\":\"2 + 3 - 1?\",\"completion\":\"4\",\"answer\":\"2 + 3 = 6. 6 - 1 = 5. Answer: 5\",\"verdict\":\"wrong\"}\n"
    "{\"line\":4,\"prompt\":\"2 + 3 - 1?\",\"completion\":\"4\",\"answer\":\"2 + 3 = 5. 5 - 1 = 4. Answer: 4\",\"verdict\":\"right\"}\n"
    "{\"line\":5,\"prompt\":\"2 + 3 - 1?\",\"completion\":\"4\",\"answer\":\"2 + 3 = 5. 5 - 1 = 3. Answer: 3\",\"verdict\":\"wrong\"}\n"
    "{\"line\":6,\"prompt\":\"2 + 3 - 1?\",\"completion\":\"4\",\"answer\":\"3\",\"verdict\":\"wrong\"}\n"
    "{\"line\":7,\"prompt\":\"2 + 3 - 1?\",\"answer\":\"3\",\"verdict\":\"wrong\"}\n"
    "{\"line\":8,\"prompt\":\"2 + 3 - 1?\",\"completion\":\"4\",\"answer\":\"\",\"verdict\":null}\n"
    "{\"line\":9,\"prompt\":\"2 + 3 - 1?\",\"completion\":\"4\",\"answer\":\"2 + 3 - 1 = 3\",\"verdict\":\"wrong\"}\n";
#define CORRECTION(step, prefix, new_step) SAYS("{\\\"First incorrect step\\\": \\\"" step "\\\", \\\"Reasoning up to incorrect\\\": \\\"" prefix "\\\", \\\"Step correction\\\": \\\"" new_step "\\\"}")
#define CORRECTS "correct --answers @judged.jsonl --connections 1"

static void corrections_are_checked(void **state) {
    (void)state;
    #ifndef FINDAP_CURL
    skip();
    #endif
    put("judged.jsonl", judged);
    static const Script script[] = {{SAY, 200, NULL, CORRECTION("2 + 3 = 6.", "", "2 + 3 = 5.")}, {SAY, 200, NULL, CORRECTION("5 - 1 = 3.", "2 + 3 = 5.", "5 - 1 = 4.")}, {SAY, 200, NULL, CORRECTION("2 - 1 = 1", "", "4")}, {SAY, 200, NULL, SAYS("no idea")}};
    Server s;
    server_start(&s, script, 4);
    char *words = endpoint_words(&s, CORRECTS " --out @corrected.jsonl");
    run_genrm(0, words);
    server_stop(&s);
    assert_int_equal(s.requests, 4);
    json_t *rows[MAX_ROWS];
    assert_int_equal(rows_of("corrected.jsonl", "line", rows), 4);   // lines of judged.jsonl: 0, 2, 3, 6
    says(rows[0], "correction", "good");
    says(rows[0], "corrected_step", "2 + 3 = 5.");
    says(rows[2], "correct_prefix", "2 + 3 = 5.");
    says(rows[2], "wrong_step", "5 - 1 = 3.");
    says(rows[3], "correction", "step_not_quoted");
    says(rows[6], "correction", "no_json");
    free_rows(rows);
    assert_true(summary("rows") == 7 && summary("asked") == 4 && summary("good") == 2 && summary("rejected.step_not_quoted") == 1 && summary("rejected.no_json") == 1 && summary("not_asked.not_judged_wrong") == 2 && summary("not_asked.no_reference") == 1);
    run_genrm(0, words);   // again: nobody is asked (the server is gone)
    assert_true(summary("asked") == 4 && summary("new") == 0 && summary("good") == 2);
    char *dry = xprintf("%s --dry-run", words), *out = strstr(dry, "--out");
    memset(out, ' ', strcspn(out + 6, " ") + 6);
    run_genrm(0, dry);
    assert_non_null(strstr(output, "4 of 7 rows are to be asked of judge-1 at http://127.0.0.1:"));
    free(dry);
    free(words);
    // the model here: what it says is no JSON, which is counted
    put("reference.txt", "{{question}}{{reference}}{{answer}}");
    run_genrm(0, "correct --model @model --answers @judged.jsonl --out @local.jsonl --prompt @reference.txt --max-new 6 --quiet");
    assert_true(summary("asked") == 4 && summary("good") == 0 && summary("rejected.no_json") + summary("rejected.truncated") == 4);
}

// ---- ranks

static int shell(const char *command) { int status = system(command); return WIFEXITED(status) ? WEXITSTATUS(status) : 255; }
static void ranks_make_the_same_rows(void **state) {
    (void)state;
    char *program = xprintf("%s/genrm_cpu", build), *look = xprintf("mpirun --version >/dev/null 2>&1 && ldd %s 2>/dev/null | grep -q libmpi", program);
    int there = shell(look);
    free(look);
    if (there != 0) { printf("skipped: several ranks: no mpirun here, or genrm_cpu is not built beside this test\n"); free(program); skip(); }
    static const char mpirun[] = "timeout -k 5 100 env OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to none";
    char *flags = xprintf("%s sample --model %s/model --prompts %s/prompts.jsonl --max-new 18 --n 3 --seed 4", program, directory, directory);
    char *said[4] = {NULL};
    Error e;
    Mapped one;
    json_t *rows[MAX_ROWS];
    for (int k = 0; k < 4; k++) {   // one rank; three; what three left when they were killed, taken up by two; the same by one
        char name[32], *command = k == 0 || k == 3 ? xprintf("OMP_NUM_THREADS=1 %s --out %s/ranks%d.jsonl >%s/summary.txt 2>%s/log.txt", flags, directory, k, directory, directory)
                                                   : xprintf("%s -np %d %s --out %s/ranks%d.jsonl >%s/summary.txt 2>%s/log.txt", mpirun, k == 1 ? 3 : 2, flags, directory, k, directory, directory);
        snprintf(name, sizeof name, "ranks%d.jsonl", k);
        if (k >= 2) {   // five lines in OUT; in the parts the fifth and the next four, and half of a tenth; and one more
            must(map_file(in("ranks0.jsonl"), &one, &e), &e);
            const char *data = (const char *)one.data, *line[12] = {data};
            for (int i = 1; i < 12; i++) line[i] = strchr(line[i - 1], '\n') + 1;
            must(write_file(in(name), data, line[5] - data, &e) && write_file(in(k == 2 ? "ranks2.jsonl.part.1" : "ranks3.jsonl.part.1"), line[4], line[9] - line[4] + (line[10] - line[9]) / 2, &e)
                 && write_file(in(k == 2 ? "ranks2.jsonl.part.7" : "ranks3.jsonl.part.7"), line[10], line[11] - line[10], &e), &e);
            unmap_file(&one);
            put(k == 2 ? "ranks2.jsonl.part.1.bak" : "ranks3.jsonl.part.", "somebody's own");   // no rank's
            must(map_file(in("ranks0.jsonl.run"), &one, &e) && write_file(in(k == 2 ? "ranks2.jsonl.run" : "ranks3.jsonl.run"), one.data, one.size, &e), &e);
            unmap_file(&one);
        }
        if (shell(command) != 0) fail_msg("%s failed: %s", command, sorted_file("log.txt"));
        free(command);
        said[k] = sorted_file(name);
        assert_string_equal(said[k], said[0]);
        char *text = sorted_file("summary.txt"), *left = xprintf("%s/ranks%d.jsonl.part.1", directory, k);
        if (!strstr(text, "\"answers\":36,") || !strstr(text, k < 2 ? "\"new_answers\":36," : "\"new_answers\":26,")) fail_msg("summary: %s", text);
        char *compared = strstr(text, "\"logp_difference_largest\":");
        assert_true(compared && atof(compared + 26) < 1e-5);
        assert_false(file_exists(left));
        free(text); free(left);
    }
    assert_true(file_exists(in("ranks2.jsonl.part.1.bak")) && file_exists(in("ranks3.jsonl.part.")));
    for (int k = 0; k < 4; k++) free(said[k]);
    // judge too; and an error on all ranks is one line
    char *command = xprintf("%s -np 3 %s judge --mode verify --answers %s/ranks1.jsonl --out %s/judged3.jsonl --quiet >%s/summary.txt 2>%s/log.txt", mpirun, program, directory, directory, directory, directory);
    assert_int_equal(shell(command), 0);
    assert_int_equal(rows_of("judged3.jsonl", "line", rows), 36);
    free_rows(rows);
    free(command);
    command = xprintf("%s -np 2 %s judge --mode verify --answers %s/nothing.jsonl --out %s/x.jsonl >%s/summary.txt 2>%s/log.txt", mpirun, program, directory, directory, directory, directory);
    assert_int_not_equal(shell(command), 0);
    char *log = sorted_file("log.txt"), *error = strstr(log, "genrm: error: ");
    assert_non_null(error);
    assert_non_null(strstr(error, "nothing.jsonl: cannot be opened"));
    assert_null(strstr(error + 1, "genrm: error: "));
    free(log); free(command); free(flags); free(program);
}

// ---- pairs and distill

static const char sampled[] =   // two prompts, a second file brings more answers to the first; lines out of order
    "{\"row\":1,\"sample\":0,\"prompt\":[{\"role\":\"user\",\"content\":\"Which?\"}],\"completion\":\"B\",\"answer\":\"B\",\"tokens\":2,\"reached_cap\":false,\"verdict\":\"right\"}\n"
    "{\"row\":0,\"sample\":2,\"prompt\":\"2 + 3?\",\"completion\":\"5\",\"answer\":\"6\",\"tokens\":2,\"reached_cap\":false,\"verdict\":\"wrong\"}\n"
    "{\"row\":0,\"sample\":0,\"prompt\":\"2 + 3?\",\"completion\":\"5\",\"answer\":\"5\",\"tokens\":2,\"reached_cap\":false,\"verdict\":\"right\"}\n"
    "{\"row\":0,\"sample\":1,\"prompt\":\"2 + 3?\",\"completion\":\"5\",\"answer\":\"5 and so on and on\",\"tokens\":9,\"reached_cap\":true,\"verdict\":null}\n"
    "{\"row\":1,\"sample\":1,\"prompt\":[{\"role\":\"user\",\"content\":\"Which?\"}],\"completion\":\"B\",\"answer\":\"C it is, as I see it\",\"tokens\":20,\"reached_cap\":false,\"verdict\":\"wrong\"}\n"
    "{\"row\":1,\"sample\":2,\"prompt\":[{\"role\":\"user\",\"content\":\"Which?\"}],\"completion\":\"B\",\"answer\":\"B or\",\"tokens\":9,\"reached_cap\":true,\"verdict\":null}\n";
static const char more_sampled[] = "{\"prompt\":\"2 + 3?\",\"answer\":\"7\",\"tokens\":2,\"verdict\":\"wrong\",\"token_logps\":[1]}\n\n{\"prompt\":\"2 + 3?\",\"answer\":\"Well, 5\",\"tokens\":3,\"verdict\":null}\n";
static void put_reversed(const char *name, const char *text) {
    Buffer b = {NULL, 0, 0};
    for (int64_t end = (int64_t)strlen(text) - 1; end > 0;) {
        int64_t begin = end;
        while (begin > 0 && text[begin - 1] != '\n') begin--;
        buffer_add(&b, text + begin, end + 1 - begin);
        end = begin - 1;
    }
    buffer_add(&b, "", 1);
    put(name, b.data);
    buffer_free(&b);
}

static void pairs_are_made_and_counted(void **state) {
    (void)state;
    put("sampled.jsonl", sampled);
    put("more.jsonl", more_sampled);
    run_genrm(0, "pairs --fap @sampled.jsonl @more.jsonl --overlong @sampled.jsonl --out @pairs.jsonl");
    // 2 + 3?: 5 over 6 and 5 over 7, of which balance takes both (per-answer 2); Which?: lengths differ by a factor of seven
    char *made = sorted_file("pairs.jsonl");
    assert_string_equal(made, "{\"prompt\":\"2 + 3?\",\"chosen\":\"5\",\"rejected\":\"5 and so on and on\",\"kind\":\"overlong\",\"open\":true}\n"
                              "{\"prompt\":\"2 + 3?\",\"chosen\":\"5\",\"rejected\":\"6\",\"kind\":\"fap\"}\n"
                              "{\"prompt\":\"2 + 3?\",\"chosen\":\"5\",\"rejected\":\"7\",\"kind\":\"fap\"}\n"
                              "{\"prompt\":[{\"role\":\"user\",\"content\":\"Which?\"}],\"chosen\":\"B\",\"rejected\":\"B or\",\"kind\":\"overlong\",\"open\":true}\n");
    assert_true(summary("rows") == 4 && summary("fap.rows") == 2 && summary("fap.prompts") == 2 && summary("fap.answers") == 8 && summary("fap.answers_used") == 3 && summary("fap.dropped.lengths_differ") == 2 &&
                summary("fap.dropped.reached_cap") == 2 && summary("fap.dropped.unjudged") == 1 && summary("overlong.rows") == 2 && summary("overlong.dropped.ended_by_itself") == 4);
    // the same whatever the order of lines; with limits fewer
    put_reversed("sampled.jsonl", sampled);
    put_reversed("more.jsonl", more_sampled);
    run_genrm(0, "pairs --fap @sampled.jsonl @more.jsonl --overlong @sampled.jsonl --out @again.jsonl --quiet");
    Mapped a, b;
    Error e;
    must(map_file(in("pairs.jsonl"), &a, &e) && map_file(in("again.jsonl"), &b, &e), &e);
    assert_true(a.size == b.size && memcmp(a.data, b.data, (size_t)a.size) == 0);
    unmap_file(&a); unmap_file(&b);
    run_genrm(0, "pairs --fap @sampled.jsonl @more.jsonl --length-ratio 0 --per-prompt 1 --per-answer 1 --out @few.jsonl --quiet");
    assert_true(summary("fap.rows") == 2 && summary("fap.dropped.over_limits") == 1 && summary("fap.dropped.lengths_differ") == 0);
    // corrections, one said twice, one that does not hold; prompt files of our own
    static const char good[] = "\"reply\":\"{\\\"First incorrect step\\\": \\\"5 - 1 = 3.\\\", \\\"Reasoning up to incorrect\\\": \\\"2 + 3 = 5.\\\", \\\"Step correction\\\": \\\"5 - 1 = 4.\\\"}\"";
    char *row = xprintf("{\"line\":0,\"prompt\":\"2 + 3 - 1?\",\"answer\":\"2 + 3 = 5. 5 - 1 = 3. Answer: 3\",\"correction\":\"good\",%s,\"reply_reached_cap\":false}\n", good), *bad = xprintf("%s%s{\"line\":2,\"prompt\":\"2 + 3 - 1?\",\"answer\":\"5 - 1 = 2.\",\"correction\":\"step_not_quoted\",%s,\"reply_reached_cap\":false}\n", row, row, good);
    put("corrected.jsonl", bad);
    run_genrm(0, "pairs --scp @corrected.jsonl --out @scp.jsonl");
    free(made);
    made = sorted_file("scp.jsonl");
    assert_string_equal(made, "{\"prompt\":\"2 + 3 - 1?\\n\\n2 + 3 = 5.\\n\\nWhat is the next step?\",\"chosen\":\"5 - 1 = 4.\",\"rejected\":\"5 - 1 = 3.\",\"kind\":\"scp\"}\n");
    assert_true(summary("scp.rows") == 1 && summary("scp.dropped.said_twice") == 1 && summary("scp.dropped.step_not_quoted") == 1);
    free(row); free(bad); free(made);
    // prepare takes them
    char *prepare = xprintf("%s/prepare", build), *command = xprintf("%s --tokenizer %s/model --kind pref --template llama3 --out %s/shards/pairs %s/pairs.jsonl %s/scp.jsonl >%s/summary.txt 2>&1", prepare, directory, directory, directory, directory, directory);
    if (file_exists(prepare)) {
        if (system(command) != 0) fail_msg("%s: %s", command, sorted_file("summary.txt"));
        char *text = sorted_file("summary.txt");
        if (!strstr(text, "5 ")) fail_msg("%s", text);
        free(text);
    } else printf("skipped: prepare is not built beside this test\n");
    free(prepare); free(command);
}

static void assert_file(const char *name, const char *expected) { char *text = sorted_file(name); assert_string_equal(text, expected); free(text); }
static void files_that_are_there_stay(void **state) {
    (void)state;
    static const char one[] = "{\"prompt\":\"1?\",\"answer\":\"1\",\"verdict\":\"right\"}\n", two[] = "{\"prompt\":\"1?\",\"answer\":\"1\",\"verdict\":\"right\"}\n{\"prompt\":\"1?\",\"answer\":\"2\",\"verdict\":\"wrong\"}\n";
    put("lone.jsonl", one); put("two.jsonl", two); put("none.jsonl", "");
    assert_int_equal(symlink("lone.jsonl", in("link.jsonl")), 0);
    // an input is no output, whatever it is called
    expect("pairs --fap @two.jsonl @lone.jsonl --out @lone.jsonl", "--out");
    expect("pairs --scp @lone.jsonl --out @link.jsonl", "is one of the files that are read");
    expect("pairs --overlong @lone.jsonl --out @lone.jsonl", "is one of the files that are read");
    expect("distill --answers @lone.jsonl --out @lone.jsonl", "is one of the files that are read");
    assert_file("lone.jsonl", one);
    // no rows do not replace some; under a new name they are an empty file and a warning
    put("kept.jsonl", "{}\n");
    expect("pairs --fap @lone.jsonl --out @kept.jsonl", "kept.jsonl: not one row was made");
    expect("distill --answers @lone.jsonl --out @kept.jsonl --quiet", "kept.jsonl: not one row was made");
    assert_file("kept.jsonl", "{}\n");
    run_genrm(0, "pairs --fap @lone.jsonl --out @fresh.jsonl --quiet");
    assert_true(strstr(output, "warning: ") && strstr(output, "no pairs") && !strstr(output, "prepare") && summary("rows") == 0);
    run_genrm(0, "distill --answers @lone.jsonl --out @fresh2.jsonl");
    assert_true(strstr(output, "not one answer was kept") && !strstr(output, "prepare"));
    assert_true(file_exists(in("fresh.jsonl")) && file_exists(in("fresh2.jsonl")));
    // an empty file of one kind does not cost the pairs of another
    run_genrm(0, "pairs --fap @two.jsonl --scp @none.jsonl --out @fap.jsonl");
    assert_true(strstr(output, "none.jsonl: has no rows") && summary("fap.rows") == 1);
    expect("pairs --fap @none.jsonl --scp @none.jsonl --out @fap.jsonl", "none.jsonl: has no rows, nor has any other");
    expect("distill --answers @none.jsonl --out @fap.jsonl", "none.jsonl: has no rows");
    assert_file("fap.jsonl", "{\"prompt\":\"1?\",\"chosen\":\"1\",\"rejected\":\"2\",\"kind\":\"fap\"}\n");
}

static void good_answers_are_distilled(void **state) {
    (void)state;
    static const char rows[] =
        "{\"row\":0,\"sample\":0,\"prompt\":\"2 + 3? Work it out.\",\"plain_question\":\"2 + 3?\",\"completion\":\"5\",\"answer\":\" Two and three.\\nAnswer: 5\",\"reached_cap\":false}\n"
        "{\"row\":0,\"sample\":1,\"prompt\":\"2 + 3? Work it out.\",\"plain_question\":\"2 + 3?\",\"completion\":\"5\",\"answer\":\"Answer: 6\",\"reached_cap\":false}\n"
        "{\"row\":0,\"sample\":2,\"prompt\":\"2 + 3? Work it out.\",\"plain_question\":\"2 + 3?\",\"completion\":\"5\",\"answer\":\"Answer: 5\",\"reached_cap\":false}\n"
        "{\"row\":1,\"sample\":0,\"prompt\":\"Which? Work it out.\",\"plain_question\":\"Which?\",\"answer\":\"Hm.\\nAnswer: (B) of course\",\"reached_cap\":false}\n"
        "{\"row\":1,\"sample\":1,\"prompt\":\"Which? Work it out.\",\"plain_question\":\"Which?\",\"answer\":\"I think B\",\"reached_cap\":false}\n"
        "{\"row\":2,\"sample\":0,\"prompt\":\"Why? Work it out.\",\"plain_question\":\"Why?\",\"answer\":\"Answer: 5 and\",\"reached_cap\":true}\n"
        "{\"row\":2,\"sample\":1,\"prompt\":\"Why? Work it out.\",\"plain_question\":\"Why?\",\"answer\":\"\",\"reached_cap\":false}\n";
    put("reasoned.jsonl", rows);
    run_genrm(0, "distill --answers @reasoned.jsonl --out @sft.jsonl");
    char *made = sorted_file("sft.jsonl");
    assert_string_equal(made, "{\"prompt\":\"2 + 3? Work it out.\",\"completion\":\"Two and three.\\nAnswer: 5\"}\n{\"prompt\":\"Which? Work it out.\",\"completion\":\"Hm.\\nAnswer: (B) of course\"}\n");
    free(made);
    assert_true(summary("rows") == 2 && summary("answers") == 7 && summary("prompts") == 3 && summary("prompts_with_rows") == 2 && fabs(summary("overlength_ratio") - 1.0 / 7) < 1e-6 && summary("dropped.wrong") == 1 &&
                summary("dropped.over_limits") == 1 && summary("dropped.no_answer_line") == 1 && summary("dropped.truncated") == 1 && summary("dropped.empty") == 1);
    run_genrm(0, "distill --answers @reasoned.jsonl --out @results.jsonl --target result --per-prompt 5 --quiet");
    made = sorted_file("results.jsonl");
    assert_string_equal(made, "{\"prompt\":\"2 + 3?\",\"completion\":\"5\"}\n{\"prompt\":\"Which?\",\"completion\":\"B\"}\n");
    assert_true(summary("dropped.said_twice") == 1);
    free(made);
    // --wrap brings such rows about
    put("wrap.txt", "{{question}}, quickly");
    run_genrm(0, "sample --model @model --prompts @prompts.jsonl --max-new 3 --system hi --wrap @wrap.txt --temperature 0 --out @wrapped.jsonl --quiet");
    json_t *wrapped[MAX_ROWS];
    assert_int_equal(rows_of("wrapped.jsonl", "row", wrapped), ROWS);
    for (int i = 0; i < ROWS; i++) {
        char *plain = xprintf("count from %c", 'a' + i), *asked = xprintf("%s, quickly", plain);
        const json_t *prompt = json_object_get(wrapped[i], "prompt");
        says(wrapped[i], "plain_question", plain);
        assert_int_equal(json_array_size(prompt), 2);
        says(json_array_get(prompt, 0), "content", "hi");
        says(json_array_get(prompt, 1), "content", asked);
        free(plain); free(asked);
    }
    free_rows(wrapped);
}

// ---- chat

static void words_are_made_harmless(void **state) {
    (void)state;
    static const struct { const char *text, *want; } cases[] = {{"plain\n\ttext \xC3\xA9 \xE5\xB9\xB4 \xF0\x9F\x98\x80", NULL}, {"\x1B[2J\x1B]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"}, {"a\rb\bc\x7F", "a\\x0db\\x08c\\x7f"}, {"\xC2\x9B" "31m", "\\u009b31m"},
        {"\x9B" "31m", "\\x9b31m"}, {"\xE2\x80\xAE" "drow", "\\u202edrow"}, {"\xE2\x81\xA6\xE2\x81\xA9\xE2\x80\x8F", "\\u2066\\u2069\\u200f"}, {"\xF3\xA0\x81\x81", "\\U000e0041"}, {"\xE2\x80", "\\xe2\\x80"}, {"\xED\xA0\x80", "\\xed\\xa0\\x80"}, {"\xC0\xAF", "\\xc0\\xaf"}, {"\xE2\x80\xA8", "\\u2028"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *text = cases[i].text, *want = cases[i].want ? cases[i].want : text;
        int64_t n = (int64_t)strlen(text);
        for (int64_t cut = 0; cut <= n; cut++) {   // as it streams in, in two pieces
            Buffer b = {NULL, 0, 0};
            int64_t taken = terminal_text(text, cut, false, &b);
            assert_true(taken <= cut && cut - taken < 4);
            assert_int_equal(terminal_text(text + taken, n - taken, true, &b), n - taken);
            if (b.len != (int64_t)strlen(want) || memcmp(b.data ? b.data : "", want, (size_t)b.len) != 0) fail_msg("case %d, cut at %d: \"%.*s\"", (int)i, (int)cut, (int)b.len, b.data);
            buffer_free(&b);
        }
    }
    for (int i = 0; i < 20000; i++) {   // whatever it is
        char text[12];
        Buffer b = {NULL, 0, 0};
        for (int k = 0; k < 12; k++) text[k] = (char)random_below(3, (uint64_t)i, (uint64_t)k, 256);
        assert_int_equal(terminal_text(text, 12, true, &b), 12);
        for (int64_t k = 0; k < b.len; k++) {
            unsigned char c = (unsigned char)b.data[k];
            if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F || (c == 0xC2 && (unsigned char)b.data[k + 1] < 0xA0)) fail_msg("byte %02x came through", c);
        }
        buffer_free(&b);
    }
}

static void chat(int status, const char *turns, const char *words) {
    put("turns.txt", turns);
    assert_non_null(freopen(in("turns.txt"), "r", stdin));
    run_genrm(status, words);
}
static void conversations_are_held(void **state) {
    (void)state;
    #define CHAT "chat --model @model --temperature 0 --max-new 12"
    chat(0, "count from p\n\n  count from c  \n/clear\n/nonsense\ncount from p", CHAT " --quiet");
    const char *first = "qrstuvwxyz";   // sample's greedy answer to the first turn, and to both: see below
    assert_memory_equal(output, first, strlen(first));
    char *second = strchr(output, '\n') + 1, *third = strstr(second, "no such command: expected /clear or /quit\n");
    assert_non_null(third);
    third = strchr(third, '\n') + 1;
    assert_memory_equal(third, output, (size_t)(second - output));
    char *answer = xprintf("%.*s", (int)(strchr(second, '\n') - second), second), *said = xprintf("%.*s", (int)(second - 1 - output), output);
    put("two.jsonl", "");
    char *row = xprintf("{\"prompt\":[{\"role\":\"user\",\"content\":\"count from p\"},{\"role\":\"assistant\",\"content\":\"%s\"},{\"role\":\"user\",\"content\":\"count from c\"}]}", said);
    put("two.jsonl", row);
    run_genrm(0, "sample --model @model --prompts @two.jsonl --temperature 0 --max-new 12 --out @two_answer.jsonl --quiet");
    json_t *rows[MAX_ROWS];
    assert_int_equal(rows_of("two_answer.jsonl", "row", rows), 1);
    says(rows[0], "answer", answer);
    free_rows(rows);
    free(row); free(answer); free(said);
    // earlier turns are found in pages; /quit; a system turn; what is left of the context is all there is
    chat(0, "count from p\ncount from c\n/clear\ncount from p\n/quit\ncount from a\n", CHAT " --system hello");
    const char *one = strstr(output, "; prompt "), *two = one ? strstr(one + 1, "; prompt ") : NULL, *three = two ? strstr(two + 1, "; prompt ") : NULL;
    assert_true(three && !strstr(three + 1, "; prompt "));
    assert_int_equal(atoi(three + 9), atoi(one + 9));   // begun anew, with the system turn
    int of_first = atoi(one + 9), of_second = atoi(two + 9);
    assert_true(of_first > 2 * PAGE_TOKENS && of_second > of_first + 12);
    assert_int_equal(atoi(strchr(two + 9, ',') + 1), of_first / PAGE_TOKENS * PAGE_TOKENS);   // the first turn's whole pages
    assert_int_equal(atoi(strchr(one + 9, ',') + 1), 0);
    chat(1, "count from p\ncount from c\ncount from d\ncount from e\ncount from f\n", CHAT " --quiet");
    assert_non_null(strstr(output, "genrm: error: the conversation has "));
    assert_non_null(strstr(output, "there is room for 128 ---> /clear begins anew"));
    expect("chat", "--model is missing");
    run_genrm(0, "chat --help");
    assert_true(strstr(output, "at most 8192 (default 0)") != NULL);
    Error e;   // what is no model: an adapter, a directory with nothing but its settings
    must(make_directory(in("adapter"), &e) && make_directory(in("empty"), &e) && copy_file(in("model"), in("empty"), "config.json", &e) && copy_file(in("model"), in("empty"), "tokenizer.json", &e), &e);
    put("adapter/adapter_config.json", "{}");
    expect("chat --model @adapter", "adapter: is an adapter, expected a model ---> give the model it was trained on, and this with --adapter");
    expect("chat --model @empty", "is it a model directory?\n");
    expect("chat --model @model --context 1000", "--context is 1000, the model has 128 positions");
    expect(CHAT " --top-p 0.5", "--top-p has no effect here");
}

// ---- misuse

static void misuse_is_one_line(void **state) {
    (void)state;
    put("answers.jsonl", answers);
    run_genrm(0, "judge --help");
    assert_non_null(strstr(output, "--least X"));
    run_genrm(0, "correct --help");
    expect("judge --answers @answers.jsonl --out @x", "--mode is missing, expected verify, yesno or verdict");
    expect("judge --mode maybe --answers @answers.jsonl --out @x", "--mode is \"maybe\", expected verify, yesno or verdict");
    expect("judge --mode verify --out @x", "--answers is missing");
    expect("judge --mode verify --answers @answers.jsonl", "--out is missing");
    expect("judge --mode verify --answers @answers.jsonl --out @x --model @model", "--model has no effect here: --mode verify asks no judge");
    expect("judge --mode verify --answers @answers.jsonl --out @x --yes ja", "--yes has no effect here");
    expect("judge --mode verify --answers @answers.jsonl --out @x --verifier best", "there is no verifier \"best\"");
    expect("judge --mode yesno --answers @answers.jsonl --out @x", "--model or --endpoint is missing");
    expect("judge --mode yesno --answers @answers.jsonl --out @x --model @model --timeout 3", "--timeout has no effect here: there is no --endpoint");
    expect("judge --mode yesno --answers @answers.jsonl --out @x --model @model --max-new 3", "--max-new has no effect here");
    expect("judge --mode yesno --answers @answers.jsonl --out @x --endpoint http://localhost:9/v1 --endpoint-model m --model @model", "--model has no effect here: an --endpoint is asked");
    expect("judge --mode yesno --answers @answers.jsonl --out @x --endpoint http://localhost:9/v1", "--endpoint-model is missing");
    expect("judge --mode yesno --answers @answers.jsonl --out @x --endpoint http://localhost:9/v1 --endpoint-model m --least 0.5", "--least has no effect here");
    expect("judge --mode yesno --answers @answers.jsonl --out @x --model @model", "no token of the tokenizer spells \"Yes\"");
    expect("judge --mode yesno --answers @answers.jsonl --out @x --model @model --yes a --no A", "--yes and --no are the same word");
    put("lacking.txt", "{{question}}");
    expect("judge --mode yesno --answers @answers.jsonl --out @x --model @model --yes a --no b --prompt @lacking.txt", "has no placeholder {{answer}}");
    expect("correct --answers @answers.jsonl --out @x", "--model or --endpoint is missing");
    expect("correct --model @model --out @x", "--answers is missing");
    expect("correct --model @model --answers @answers.jsonl --out @x", "answers.jsonl:1: \"verdict\" is missing: only wrong answers are corrected");
    expect("pairs --out @x", "no input: expected --fap, --scp or --overlong");
    expect("pairs --fap @answers.jsonl", "--out is missing");
    expect("pairs --overlong @answers.jsonl --out @x --seed 3", "--seed has no effect here: there is no --fap");
    expect("pairs --fap @answers.jsonl --out @x --gold x", "--gold has no effect here: there is no --overlong");
    expect("pairs --fap @answers.jsonl --out @x", "\"verdict\" is missing ---> judge the answers first");
    expect("pairs --scp @answers.jsonl --out @x", "answers.jsonl:1: \"reply\" is missing");
    expect("distill --out @x", "--answers is missing");
    expect("distill --answers @answers.jsonl --out @x --target all", "--target is \"all\", expected answer or result");
    static const struct { const char *rows, *text; } rows[] = {{"{\"prompt\":\"a\"}\n", "bad.jsonl:1: \"answer\" is missing"}, {"{\"prompt\":\"a\",\"answer\":3}", "bad.jsonl:1: \"answer\" is an integer"}, {"\n\n[]", "bad.jsonl:3: the row is an array"},
        {"{\"answer\":\"a\",\"completion\":[]}", "\"completion\" is an array, expected a string"}, {"{\"answer\":\"a\",\"reached_cap\":1}", "\"reached_cap\" is an integer"}, {"", "bad.jsonl: has no rows"}, {"{\"answer\":", "bad.jsonl:1: not valid JSON"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) { put("bad.jsonl", rows[i].rows); expect("judge --mode verify --answers @bad.jsonl --out @x --quiet", rows[i].text); }
    run_genrm(0, "judge --mode verify --answers @answers.jsonl --out @mine.jsonl --quiet");
    expect("judge --mode verify --answers @answers.jsonl --out @mine.jsonl --tolerance 0.1 --quiet", "the answers there are of another run: \"tolerance\" is 0.0, here 0.1");
    expect("judge --mode verify --answers @prompts.jsonl --out @mine.jsonl --quiet", "\"answer\" is missing");
    put("mine.jsonl", "{\"line\":0,\"judged\":\"perhaps\"}\n");
    expect("judge --mode verify --answers @answers.jsonl --out @mine.jsonl --quiet", "mine.jsonl:1: \"judged\" is \"perhaps\"");
    put("mine.jsonl", "{\"line\":0,\"judged\":\"right\"}\n{\"line\":0,\"judged\":\"right\"}\n");
    expect("judge --mode verify --answers @answers.jsonl --out @mine.jsonl --quiet", "mine.jsonl:2: line 0 is there twice");
}

int main(int argc, char **argv) {
    (void)argc;
    find_build(argv[0]);
    unsetenv("OPENAI_API_KEY");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(verifier_judges), cmocka_unit_test(probabilities_judge), cmocka_unit_test(an_endpoint_judges), cmocka_unit_test(corrections_are_checked), cmocka_unit_test(pairs_are_made_and_counted), cmocka_unit_test(files_that_are_there_stay), cmocka_unit_test(good_answers_are_distilled), cmocka_unit_test(words_are_made_harmless), cmocka_unit_test(conversations_are_held), cmocka_unit_test(ranks_make_the_same_rows), cmocka_unit_test(misuse_is_one_line),
    };
    int failed = cmocka_run_group_tests(tests, open_all, teardown);
    free(output);
    return failed;
}
