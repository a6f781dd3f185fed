// test_eval.c: eval's runs of a model over tasks. Log-likelihoods against a training pass over prompts rendered here by hand; the same rows whatever the batch, the number of ranks, and
// after kill -9; prompts that are too long, several turns, examples; and everything that is refused, in one line. (Scores themselves: test_eval_score.c. lm-evaluation-harness:
// dev/lm_eval_check.py.)
#define EVAL_LIBRARY
#include "eval.c"
#include "test/tiny_tokenizer.h" // defines: tiny_tokenizer
#include <sys/wait.h>            // defines: WEXITSTATUS
#include "test/check.h"
#include "test/scratch.h"        // defines: directory, setup, teardown, in
#define TESTED_MAIN eval_main
#define TESTED_NAME "eval"
#include "test/genrm_run.h"      // defines: run_genrm, expect, summary, sorted_file, put, make_files
#include "test/server.h"         // defines: Server, Script, server_start, server_stop

#define RUN "--model @model --data @data --tasks-dir @tasks "
enum { MANY = 400 };
static const char *const letters_from[] = {"bcde", "cdefg", "xyz"};

static char *question(int i) { return xprintf("count from %c%s", 'a' + i, i % 4 == 3 ? "\\nhello all" : i % 4 == 2 ? " " : ""); }   // as JSON writes it
static void put_task(const char *name, const char *more) {
    char *path = xprintf("tasks/%s.json", name), *text = xprintf("{\"name\":\"%s\",\"title\":\"%s\",\"describes\":\"a test\",\"capability\":\"task\",\"novelty\":\"novel\",\"domain\":\"finance\",%s}", name, name, more);
    put(path, text);
    free(path); free(text);
}
static void put_rows(const char *name, int n, int first) {
    Buffer b = {NULL, 0, 0};
    for (int i = first; i < first + n; i++) {
        char *q = question(i % 20), *row = xprintf("{\"id\":\"r%d\",\"query\":\"%s\",\"answer\":\"%s\",\"choices\":[\"bcde\",\"cdefg\",\"xyz\"],\"gold\":%d,\"turns\":[\"count from %c\",\"count from q\"]}\n", i, q, letters_from[i % 3], i % 3, 'a' + i % 20);
        add_text(&b, row);
        free(q); free(row);
    }
    buffer_add(&b, "", 1);
    put(name, b.data);
    buffer_free(&b);
}
static int open_all(void **state) {
    Error e;
    if (setup(state) != 0) return -1;
    #ifdef _OPENMP
    omp_set_num_threads(1);
    #endif
    make_files();
    must(make_directory(in("tasks"), &e) && make_directory(in("data"), &e), &e);
    put_rows("data/rows.jsonl", ROWS, 0);
    put_rows("data/rows_train.jsonl", 3, 4);   // the first is a row of the test
    put_rows("data/many.jsonl", MANY, 0);
    put_task("count", "\"file\":\"rows.jsonl\",\"extract\":\"text\",\"metric\":\"em\",\"max_new\":14,\"max_new_cot\":20,\"suites\":{\"partly\":{\"metric\":\"em\"}},\"pixiu\":{\"class\":\"qa\",\"max_new\":9}");
    put_task("many", "\"file\":\"many.jsonl\",\"extract\":\"text\",\"metric\":\"em\",\"max_new\":24,\"stop\":[\"rs\"],\"fields\":{\"choices\":\"none\"}");
    put_task("pick", "\"file\":\"rows.jsonl\",\"request\":\"choices\",\"extract\":\"label\",\"metric\":\"acc\",\"max_new\":4,\"suites\":{\"mine\":{\"metric\":\"acc_norm\"}},\"aliases\":[\"picked\"]");
    put_task("letter", "\"file\":\"rows.jsonl\",\"request\":\"choices\",\"labels_are\":\"letters\",\"extract\":\"letter\",\"metric\":\"acc\",\"max_new\":4,\"suites\":{\"mine\":{\"metric\":\"acc\"}}");
    put_task("next", "\"file\":\"rows.jsonl\",\"request\":\"next_token\",\"labels_are\":\"letters\",\"extract\":\"letter\",\"metric\":\"acc\",\"max_new\":4");
    put_task("talk", "\"file\":\"rows.jsonl\",\"extract\":\"judge\",\"metric\":\"judge\",\"prompt\":\"{turns.0}\",\"max_new\":8,\"fields\":{\"choices\":\"none\"}");
    put_task("line", "\"file\":\"rows.jsonl\",\"extract\":\"label\",\"metric\":\"acc\",\"max_new\":9");
    put_task("absent", "\"file\":\"absent.jsonl\",\"extract\":\"text\",\"metric\":\"em\",\"max_new\":4,\"suites\":{\"partly\":{\"metric\":\"em\"}}");
    return 0;
}

static json_t *results(const char *out) {
    Error e;
    char *path = xprintf("%s/results.json", out);
    json_t *j = json_parse_file(in(path), 1 << 26, &e);
    must(j != NULL, &e);
    free(path);
    return j;
}
static json_t *scores(const char *out, const char *task) {   // its entry, without what differs from run to run
    json_t *j = results(out), *t = json_incref(json_object_get(json_object_get(j, "tasks"), task));
    if (!t) fail_msg("%s has no task %s", out, task);
    json_decref(j);
    json_object_del(t, "seconds"); json_object_del(t, "rows_per_second"); json_object_del(t, "rows_timed");
    return t;
}
static void same_scores(const char *a, const char *b, const char *task) {
    json_t *x = scores(a, task), *y = scores(b, task);
    if (!json_equal(x, y)) fail_msg("%s and %s: scores of %s differ:\n%s\n%s", a, b, task, json_dumps(x, JSON_SORT_KEYS), json_dumps(y, JSON_SORT_KEYS));
    json_decref(x); json_decref(y);
}
static char *samples(const char *out, const char *task) {
    char *path = xprintf("%s/samples_%s.jsonl", out, task), *text = sorted_file(path);
    free(path);
    return text;
}
static void same_samples(const char *a, const char *b, const char *task) {
    char *x = samples(a, task), *y = samples(b, task);
    if (strcmp(x, y) != 0) fail_msg("%s and %s: rows of %s differ:\n%.900s\n%.900s", a, b, task, x, y);
    free(x); free(y);
}
static json_t *sample(const char *out, const char *task, int row) {
    char *text = samples(out, task), *begin = xprintf("{\"row\":%d,", row), *line = strstr(text, begin);
    Error e;
    assert_non_null(line);
    json_t *j = json_parse("sample", line, strchr(line, '\n') - line, &e);
    must(j != NULL, &e);
    free(text); free(begin);
    return j;
}
static const char *string_of(const json_t *j, const char *key) { const char *s = json_string_value(json_object_get(j, key)); return s ? s : "(none)"; }

// ---- log-likelihoods: of choices behind prompts that are rendered here

static Model *model;
static Tokenizer *tokenizer;
static double training_logp(const Ids *ids, int64_t from) {   // of ids[from..), as training has them
    int64_t T = ids->len - 1;
    int32_t positions[512], targets[512];
    float weights[512], logp[512];
    double sum = 0;
    assert_true(T < 128);
    for (int64_t t = 0; t < T; t++) { positions[t] = (int32_t)t; targets[t] = ids->data[t + 1]; weights[t] = t + 1 >= from; }
    Batch b = {1, T, ids->data, positions, targets, weights, true};
    model_forward(model, &b);
    model_head(model, &b, NULL, logp);
    model_wait(model);
    for (int64_t t = from - 1; t < T; t++) sum += logp[t];
    return sum;
}
static json_t *row_of(const char *file, int row) {
    Mapped m;
    Error e;
    must(map_file(in(file), &m, &e), &e);
    const char *at = (const char *)m.data;
    for (int i = 0; i < row; i++) at = strchr(at, '\n') + 1;
    json_t *j = json_parse(file, at, strchr(at, '\n') - at, &e);
    must(j != NULL, &e);
    unmap_file(&m);
    return j;
}

static void check_logps(const char *out, const char *task, bool template_on, int shots, bool as_text) {
    static const char *const letters[] = {"A", "B", "C"};
    Error e;
    for (int i = 0; i < ROWS; i++) {
        json_t *row = row_of("data/rows.jsonl", i), *line = sample(out, task, i);
        json_t *of_shots[2] = {row_of("data/rows_train.jsonl", i == 4 ? 1 : 0), row_of("data/rows_train.jsonl", i == 4 || i == 5 ? 2 : 1)};   // never its own answer
        const char *query = string_of(row, "query");
        Message m[8];
        int n = 0;
        Buffer text = {NULL, 0, 0};
        for (int k = 0; k < shots; k++) {
            const char *q = string_of(of_shots[k], "query"), *a = strcmp(task, "pick") == 0 ? string_of(of_shots[k], "answer") : letters[json_integer_value(json_object_get(of_shots[k], "gold"))];
            Message turns[2] = {{"user", q, (int64_t)strlen(q)}, {"assistant", a, (int64_t)strlen(a)}};
            m[n++] = turns[0]; m[n++] = turns[1];
            add_text(&text, q); add_text(&text, " ");   // lm-evaluation-harness has it behind white space too
            add_text(&text, a); add_text(&text, "\n\n");
        }
        if (as_text) n = 0;
        add_text(&text, query);
        Message last = {"user", as_text ? text.data : query, as_text ? text.len : (int64_t)strlen(query)};
        m[n++] = last;
        assert_int_equal(json_array_size(json_object_get(line, "logps")), 3);
        double best = -INFINITY;
        int chosen = -1;
        for (int k = 0; k < 3; k++) {
            const char *choice = strcmp(task, "pick") == 0 ? letters_from[k] : letters[k];
            Ids ids = {NULL, 0, 0};
            int64_t from;
            if (template_on) {
                must(chat_render(tokenizer, TEMPLATE_LLAMA3, m, n, true, &ids, NULL, &e), &e);
                assert_int_equal(ids.data[ids.len - 1], TINY_NEWLINES);
                from = ids.len - 1;   // the header's line break is scored with the choice
                tokenizer_encode(tokenizer, choice, (int64_t)strlen(choice), false, &ids);
            } else {
                Buffer whole = {NULL, 0, 0};
                buffer_add(&whole, text.data, text.len);
                while (whole.data[whole.len - 1] == ' ') whole.len--;   // white space at the end is scored with the choice
                tokenizer_encode(tokenizer, whole.data, whole.len, false, &ids);
                from = ids.len;
                ids.len = 0;
                whole.len = 0;
                buffer_add(&whole, text.data, text.len);
                add_text(&whole, " ");
                add_text(&whole, choice);
                tokenizer_encode(tokenizer, whole.data, whole.len, false, &ids);
                buffer_free(&whole);
            }
            double want = training_logp(&ids, from), have = json_number_value(json_array_get(json_object_get(line, "logps"), (size_t)k));
            if (!(fabs(want - have) < 1e-5)) fail_msg("%s %s row %d choice %d: %.8f, a training pass has %.8f", out, task, i, k, have, want);
            assert_int_equal(json_integer_value(json_array_get(json_object_get(line, "choice_tokens"), (size_t)k)), ids.len - from);
            if (have > best) { best = have; chosen = k; }
            ids_free(&ids);
        }
        assert_int_equal(json_integer_value(json_array_get(json_object_get(line, "label"), 1)), chosen);
        assert_string_equal(string_of(line, "output"), strcmp(task, "pick") == 0 ? letters_from[chosen] : letters[chosen]);
        json_decref(row); json_decref(line); json_decref(of_shots[0]); json_decref(of_shots[1]);
        buffer_free(&text);
    }
}

static void choices_are_scored_as_in_training(void **state) {
    (void)state;
    Config c;
    Error e;
    must(config_load(in("model"), &c, &e), &e);
    model = model_create(&c, 1, 128, false, NULL);
    must(model_load_dir(model, in("model"), &e), &e);
    tokenizer = tokenizer_load(in("model"), &e);
    run_genrm(0, RUN "--tasks pick letter --out @chat --quiet");
    check_logps("chat", "pick", true, 0, false);
    check_logps("chat", "letter", true, 0, false);   // these from one row of logits
    run_genrm(0, RUN "--tasks pick letter --out @plain --no-template --quiet");
    check_logps("plain", "pick", false, 0, false);
    check_logps("plain", "letter", false, 0, false);
    run_genrm(0, RUN "--tasks pick,letter --out @turns --shots 2 --quiet");
    check_logps("turns", "pick", true, 2, false);
    run_genrm(0, RUN "--tasks pick letter --out @text --shots 2 --shots-as text --quiet");
    check_logps("text", "letter", true, 2, true);
    run_genrm(0, RUN "--tasks pick --out @plaintext --shots 2 --no-template --quiet");
    check_logps("plaintext", "pick", false, 2, false);
    // normalised by length: recomputed from what was written
    int right[3] = {0, 0, 0};
    for (int i = 0; i < ROWS; i++) {
        json_t *line = sample("chat", "pick", i);
        for (int by = 0; by < 3; by++) {
            int best = 0;
            double most = -INFINITY;
            for (int k = 0; k < 3; k++) {
                double l = json_number_value(json_array_get(json_object_get(line, "logps"), (size_t)k)), x = l / (by == 0 ? 1 : by == 1 ? (double)strlen(letters_from[k]) : (double)json_integer_value(json_array_get(json_object_get(line, "choice_tokens"), (size_t)k)));
                if (x > most) { most = x; best = k; }
            }
            right[by] += best == i % 3;
        }
        json_decref(line);
    }
    json_t *entry = scores("chat", "pick"), *metrics = json_object_get(entry, "metrics");
    static const char *const names[] = {"acc", "acc_bytes", "acc_tokens"};
    for (int by = 0; by < 3; by++) assert_true(fabs(json_number_value(json_object_get(json_object_get(metrics, names[by]), "value")) - right[by] / (double)ROWS) < 1e-12);
    assert_true(json_equal(json_object_get(json_object_get(metrics, "acc_norm"), "value"), json_object_get(json_object_get(metrics, "acc_bytes"), "value")));   // ASCII
    json_decref(entry);
    // probabilities of the next token: all spellings of a letter together
    run_genrm(0, RUN "--tasks next --out @next --quiet");
    json_t *row = row_of("data/rows.jsonl", 1), *line = sample("next", "next", 1);
    Message m = {"user", string_of(row, "query"), (int64_t)strlen(string_of(row, "query"))};
    Ids ids = {NULL, 0, 0};
    must(chat_render(tokenizer, TEMPLATE_LLAMA3, &m, 1, true, &ids, NULL, &e), &e);
    int32_t positions[128];
    for (int k = 0; k < 128; k++) positions[k] = k;
    Batch b = {1, ids.len, ids.data, positions, NULL, NULL, true};
    float logits[512];
    int64_t at = ids.len - 1;
    model_forward(model, &b);
    model_logits(model, &at, 1, logits);
    double sum = 0, inside = 0;
    for (int v = 0; v < c.vocab_size; v++) sum += exp(logits[v]);
    for (int k = 0; k < 3; k++) {
        TokenSet set = token_set(tokenizer, k == 0 ? "A" : k == 1 ? "B" : "C");
        double p = 0;
        for (int64_t i = 0; i < set.ids.len; i++) p += exp(logits[set.ids.data[i]]) / sum;
        assert_true(set.ids.len >= 2 && fabs(p - exp(json_number_value(json_array_get(json_object_get(line, "logps"), (size_t)k)))) < 1e-6);
        inside += p;
        ids_free(&set.ids);
    }
    assert_true(fabs(json_number_value(json_object_get(line, "p_outside")) - (1 - inside)) < 1e-6);
    json_decref(row); json_decref(line);
    ids_free(&ids);
    model_free(model);
    tokenizer_free(tokenizer);
}

// ---- the same rows however they are made

static void pages_are_those_that_fit(void **state) {   // on a GPU its free memory is asked; what few pages do: batches_do_not_matter
    (void)state;
    const int64_t MiB = 1 << 20, reserve = 2048 * MiB, least = pages_for(1000) + 1;
    Room r = {1000, 4, 8, 500};
    Error e;
    assert_true(room_fit(&r, MiB, reserve + 500 * MiB, &e) && r.pages == 500);
    assert_true(room_fit(&r, MiB, reserve + 400 * MiB, &e) && r.pages == 400);
    assert_true(room_fit(&r, MiB, reserve + least * MiB, &e) && r.pages == least);
    assert_true(!room_fit(&r, MiB, reserve + least * MiB - 1, &e) && strstr(e.text, "the longest row alone, 1000 tokens") && r.pages == least);
    assert_true(!room_fit(&r, MiB, 0, &e) && strstr(e.text, "0.00 are free"));
}

static void batches_do_not_matter(void **state) {
    (void)state;
    static const char *const tasks[] = {"count", "pick", "letter", "next", "talk"};
    run_genrm(0, RUN "--tasks count pick letter next talk --out @batch32 --quiet");
    run_genrm(0, RUN "--tasks count pick letter next talk --out @batch1 --batch 1 --quiet");
    run_genrm(0, RUN "--tasks count pick letter next talk --out @batch5 --batch 5 --cache-gib 0.00003 --quiet");   // few pages: requests wait
    for (int k = 0; k < 5; k++) {
        same_samples("batch1", "batch32", tasks[k]); same_scores("batch1", "batch32", tasks[k]);
        same_samples("batch5", "batch32", tasks[k]); same_scores("batch5", "batch32", tasks[k]);
    }
    run_genrm(0, RUN "--tasks many --temperature 1 --limit 50 --out @drawn1 --batch 1 --quiet");
    run_genrm(0, RUN "--tasks many --temperature 1 --limit 50 --out @drawn9 --batch 9 --quiet");
    run_genrm(0, RUN "--tasks many --temperature 1 --limit 50 --seed 2 --out @drawn2 --quiet");
    same_samples("drawn1", "drawn9", "many");
    char *a = samples("drawn1", "many"), *b = samples("drawn2", "many");
    assert_string_not_equal(a, b);
    free(a); free(b);
}

static int shell(const char *command) { int status = system(command); return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }
static bool program_there(bool ranks) {
    char *program = xprintf("%s/eval_cpu", build), *look = xprintf(ranks ? "mpirun --version >/dev/null 2>&1 && ldd %s 2>/dev/null | grep -q libmpi" : "test -x %s", program);
    bool there = shell(look) == 0;
    free(program); free(look);
    if (!there) printf("skipped: %s: %s/eval_cpu is not there%s\n", ranks ? "several ranks" : "kill", build, ranks ? ", or there is no mpirun" : "");
    return there;
}
static void ranks_do_not_matter(void **state) {
    (void)state;
    if (!program_there(true)) skip();
    static const char *const tasks[] = {"count", "pick", "letter", "talk", "many"};
    run_genrm(0, RUN "--tasks count pick letter talk many --limit 40 --out @one --quiet");
    for (int ranks = 2; ranks <= 3; ranks++) {
        char name[32], *command = xprintf("timeout -k 5 100 env OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to none -np %d %s/eval_cpu --model %s/model --data %s/data --tasks-dir %s/tasks "
                                          "--tasks count pick letter talk many --limit 40 --out %s/ranks%d >%s/ranks.txt 2>&1", ranks, build, directory, directory, directory, directory, ranks, directory);
        if (shell(command) != 0) fail_msg("%s failed:\n%s", command, sorted_file("ranks.txt"));
        snprintf(name, sizeof name, "ranks%d", ranks);
        for (int k = 0; k < 5; k++) { same_samples(name, "one", tasks[k]); same_scores(name, "one", tasks[k]); }
        free(command);
    }
}

static void a_killed_run_goes_on(void **state) {
    (void)state;
    run_genrm(0, RUN "--tasks count many --out @whole --quiet");
    char *all = samples("whole", "many");
    for (size_t cut = 1; cut < strlen(all); cut += strlen(all) / 3) {   // cut off anywhere; results.json has the task before
        Mapped m;
        Error e;
        must(make_directory(in("cut"), &e), &e);
        must(map_file(in("whole/samples_many.jsonl"), &m, &e) && write_file(in("cut/samples_many.jsonl"), m.data, (int64_t)cut, &e), &e);
        unmap_file(&m);
        must(map_file(in("whole/samples_many.jsonl.run"), &m, &e) && write_file(in("cut/samples_many.jsonl.run"), m.data, m.size, &e), &e);
        unmap_file(&m);
        run_genrm(0, RUN "--tasks count many --out @cut --quiet");
        same_samples("cut", "whole", "many"); same_scores("cut", "whole", "many"); same_scores("cut", "whole", "count");
    }
    free(all);
    json_t *before = results("whole");   // nothing is left to do: times stay, other tasks are added and those that were there stay
    run_genrm(0, RUN "--tasks many pick --out @whole --quiet");
    json_t *now = results("whole"), *tasks = json_object_get(now, "tasks");
    assert_int_equal(json_object_size(tasks), 3);
    assert_true(json_equal(json_object_get(json_object_get(before, "tasks"), "many"), json_object_get(tasks, "many")));
    json_decref(before); json_decref(now);
    if (!program_there(false)) return;
    for (int after = 0; after < 3; after++) {   // killed for good, as soon as there are so many lines
        char *command = xprintf("rm -rf %s/killed; OMP_NUM_THREADS=1 %s/eval_cpu --model %s/model --data %s/data --tasks-dir %s/tasks --tasks count many --out %s/killed --quiet >/dev/null 2>&1 & pid=$!; "
                                "for i in $(seq 2000); do n=$(cat %s/killed/samples_many.jsonl 2>/dev/null | wc -l); [ $n -gt %d ] && break; done; kill -9 $pid; wait $pid; test $n -lt %d", directory, build, directory, directory, directory, directory, directory, after * 60, MANY);
        int status = shell(command);
        free(command);
        if (status != 0) { printf("a run was over before it could be killed\n"); continue; }
        run_genrm(0, RUN "--tasks count many --out @killed");
        assert_non_null(strstr(output, "resumed: "));
        same_samples("killed", "whole", "many"); same_scores("killed", "whole", "many"); same_scores("killed", "whole", "count");
    }
}

// ---- what a run says

static void long_prompts_are_not_cut(void **state) {
    (void)state;
    char text[128];
    memset(text, 'x', 100);
    text[100] = 0;
    char *rows = xprintf("{\"query\":\"count from c\",\"answer\":\"a\",\"choices\":[\"a\",\"bb\"]}\n{\"query\":\"%s\",\"answer\":\"a\",\"choices\":[\"a\",\"bb\"]}\n", text);
    put("data/long.jsonl", rows);
    put_task("long", "\"extract\":\"text\",\"metric\":\"em\",\"max_new\":64");
    put_task("longpick", "\"file\":\"long.jsonl\",\"request\":\"choices\",\"extract\":\"label\",\"metric\":\"acc\",\"max_new\":4");
    run_genrm(0, RUN "--tasks long longpick --context 60 --out @long");
    assert_non_null(strstr(output, "; 1 rows are too long"));
    json_t *line = sample("long", "long", 1), *entry = scores("long", "long"), *picked = scores("long", "longpick");
    assert_string_equal(string_of(line, "finish"), "too_long");
    assert_string_equal(string_of(line, "outcome"), "truncated");
    assert_true(json_is_true(json_object_get(line, "truncated")) && json_integer_value(json_object_get(entry, "too_long")) == 1 && json_integer_value(json_object_get(json_object_get(picked, "outcomes"), "truncated")) == 1);
    json_decref(line);
    line = sample("long", "long", 0);   // what there is room for: 60 positions, the last new token is not one of them
    assert_true(json_integer_value(json_object_get(line, "tokens")) <= 64);
    json_decref(line); json_decref(entry); json_decref(picked);
    run_genrm(0, RUN "--tasks long longpick --context 60 --out @long --quiet");   // read back
    entry = scores("long", "longpick");
    assert_true(json_integer_value(json_object_get(entry, "n")) == 2 && json_integer_value(json_object_get(json_object_get(entry, "outcomes"), "truncated")) == 1);
    json_decref(entry);
    run_genrm(0, RUN "--tasks long --context 60 --max-new 3 --out @short --quiet");
    line = sample("short", "long", 0);
    assert_true(json_integer_value(json_object_get(line, "tokens")) == 3 && json_is_true(json_object_get(line, "truncated")));
    assert_string_equal(string_of(line, "finish"), "length");
    json_decref(line);
    free(rows);
}

static void turns_follow_each_other(void **state) {
    (void)state;
    run_genrm(0, RUN "--tasks talk --out @talk --quiet");
    for (int i = 0; i < ROWS; i += 5) {   // the second turn is the answer to a question behind an example: question and answer of the first
        json_t *line = sample("talk", "talk", i), *outputs = json_object_get(line, "outputs");
        assert_int_equal(json_array_size(outputs), 2);
        assert_string_equal(json_string_value(json_array_get(outputs, 1)), string_of(line, "output"));
        json_t *shot = json_pack("{s:s,s:O}", "query", "", "answer", json_array_get(outputs, 0)), *row = row_of("data/rows.jsonl", i);
        json_object_set(shot, "query", json_array_get(json_object_get(row, "turns"), 0));
        char *text = json_dumps(shot, 0);
        put("data/second.jsonl", "{\"query\":\"count from q\",\"answer\":\"r\"}\n");
        put("data/second_train.jsonl", text);
        put_task("second", "\"extract\":\"text\",\"metric\":\"em\",\"max_new\":8,\"shots\":1");
        char *words = xprintf(RUN "--tasks second --out @second%d --quiet", i), name[32];
        run_genrm(0, words);
        snprintf(name, sizeof name, "second%d", i);
        json_t *second = sample(name, "second", 0);
        assert_string_equal(string_of(second, "output"), string_of(line, "output"));
        json_decref(line); json_decref(shot); json_decref(row); json_decref(second);
        free(text); free(words);
    }
}

static void groups_are_of_like_scores(void **state) {
    (void)state;
    Error e;
    static const char text[] = "{\"a\":{\"domain\":\"finance\",\"novelty\":\"novel\",\"capability\":\"task\",\"category\":\"RM\",\"score\":0.5,\"share\":true,\"category_score\":0.25},"
        "\"b\":{\"domain\":\"finance\",\"novelty\":\"novel\",\"capability\":\"chat\",\"score\":7.36,\"share\":false},"
        "\"c\":{\"domain\":\"finance\",\"novelty\":\"novel\",\"capability\":\"task\",\"category\":\"TA\",\"score\":0.3,\"share\":false,\"higher_is_better\":false,\"category_score\":0.35},"
        "\"d\":{\"domain\":\"finance\",\"novelty\":\"novel\",\"capability\":\"task\",\"category\":\"RM\",\"score\":null,\"share\":true,\"category_score\":null}}";
    json_t *tasks = json_parse("tasks", text, (int64_t)sizeof text - 1, &e), *g = eval_groups(tasks);
    static const struct { const char *name; double mean; int tasks; } want[] = {{"finance novel", 0.5, 1}, {"capability task", 0.5, 1}, {"leaderboard RM", 0.25, 1}, {"leaderboard TA", 0.35, 1}, {"leaderboard average", 0.3, 2}};
    assert_int_equal(json_object_size(g), 5);
    for (int i = 0; i < 5; i++) {
        const json_t *x = json_object_get(g, want[i].name);
        assert_true(fabs(json_number_value(json_object_get(x, "mean")) - want[i].mean) < 1e-12 && json_integer_value(json_object_get(x, "tasks")) == want[i].tasks);
    }
    json_decref(tasks); json_decref(g);
}

static void settings_do_what_they_say(void **state) {
    (void)state;
    run_genrm(0, RUN "--tasks mine --out @suite --label CPT+IT");   // pick and letter
    assert_non_null(strstr(output, "|pick "));
    assert_non_null(strstr(output, "|Tasks "));
    assert_non_null(strstr(output, "2 tasks, 24 rows, "));
    json_t *j = results("suite"), *pick = json_object_get(json_object_get(j, "tasks"), "pick");
    assert_string_equal(string_of(pick, "metric"), "acc_norm");   // the suite's
    assert_string_equal(string_of(j, "label"), "CPT+IT");
    assert_string_equal(string_of(json_object_get(j, "settings"), "template"), "llama3");
    assert_true(json_integer_value(json_object_get(pick, "n")) == ROWS && json_number_value(json_object_get(pick, "seconds")) > 0 && json_number_value(json_object_get(pick, "rows_per_second")) > 0);
    assert_true(json_integer_value(json_object_get(json_object_get(json_object_get(j, "groups"), "finance novel"), "tasks")) == 2 && json_number_value(json_object_get(j, "logp_difference_largest")) < 1e-5);
    json_decref(j);
    // without a template a label is asked for as one line, and where most answers are cut off the table says so
    static const char *const lines[] = {"", "--no-template", "--no-template --mode cot", "--pixiu-compat"};
    for (int i = 0; i < 4; i++) {
        char *words = xprintf(RUN "--tasks line --out @line%d %s", i, lines[i]), *path = xprintf("line%d/samples_line.jsonl.run", i);
        if (i < 3) run_genrm(0, words); else expect(words, "line: is not in PIXIU's harness");
        char *first = i < 3 ? sorted_file(path) : NULL;
        if (first) assert_true((strstr(first, "\"stop_at_line_end\": true") != NULL) == (i == 1));
        if (i == 0) assert_true(strstr(output, "\nline: 8.3 % missing, 91.7 % truncated\n") && strstr(output, "line: acc 0.0000 +- 0.0000, 12 rows, 8.3 % missing, 91.7 % truncated,") && !strstr(output, "|micro_f1"));
        free(words); free(path); free(first);
    }
    run_genrm(0, RUN "--tasks PICKED --out @alias --limit 5 --quiet");
    json_t *entry = scores("alias", "pick");
    assert_true(json_integer_value(json_object_get(entry, "n")) == 5);
    json_decref(entry);
    run_genrm(0, RUN "--tasks count --out @pixiu --pixiu-compat --quiet");
    json_t *line = sample("pixiu", "count", 0);
    entry = scores("pixiu", "count");
    assert_true(json_integer_value(json_object_get(entry, "max_new")) == 9 && json_integer_value(json_object_get(line, "tokens")) <= 9);
    json_decref(entry); json_decref(line);
    run_genrm(0, RUN "--tasks count --mode cot --out @cot --quiet");
    entry = scores("cot", "count");
    assert_string_equal(string_of(entry, "mode"), "cot");
    assert_int_equal(json_integer_value(json_object_get(entry, "max_new")), 20);
    json_decref(entry);
    run_genrm(0, RUN "--tasks many --system hello --max-new 6 --limit 3 --out @system --quiet");
    run_genrm(0, RUN "--tasks many --max-new 6 --limit 3 --out @nosystem --quiet");
    json_t *a = sample("system", "many", 0), *b = sample("nosystem", "many", 0);
    assert_string_not_equal(string_of(a, "prompt_hash"), string_of(b, "prompt_hash"));
    json_decref(a); json_decref(b);
    run_genrm(0, RUN "--tasks partly --out @partly --limit 2 --quiet");   // of a suite what is there is taken, and the rest is said
    assert_non_null(strstr(output, "warning: left out, without data in "));
    assert_non_null(strstr(output, ": absent\n"));
    run_genrm(1, RUN "--tasks count absent --dry-run");
    assert_non_null(strstr(output, "absent.jsonl: is not there"));
    assert_non_null(strstr(output, "count                          12"));
    assert_non_null(strstr(output, "FLOPs (2 x parameters x tokens)"));
    assert_non_null(strstr(output, "pages of 16 tokens"));
    run_genrm(0, "tasks --tasks-dir @tasks --data @data");
    assert_non_null(strstr(output, "many                        400  "));
    assert_non_null(strstr(output, "absent                        -  "));
    run_genrm(0, "--help");
    assert_non_null(strstr(output, "--pixiu-compat"));
}

// ---- judges

#ifdef FINDAP_CURL
#define REPLY(text) {SAY, 200, NULL, "{\"choices\":[{\"message\":{\"content\":\"" text "\"},\"finish_reason\":\"stop\"}]}"}
#define RATED(x) REPLY("{\\\"Justification\\\":\\\"so\\\",\\\"Rating\\\":\\\"" x "\\\"}")
#define BETTER(x) REPLY("{\\\"Justification\\\":\\\"so\\\",\\\"Better\\\":\\\"" x "\\\"}")
static void judge(int status, const Script *script, int n, const char *words, Server *s) {
    server_start(s, script, n);
    char *all = xprintf("judge --data @data --tasks-dir @tasks --endpoint http://127.0.0.1:%d/v1 --endpoint-model m --connections 1 --quiet %s", s->port, words);
    run_genrm(status, all);
    server_stop(s);
    free(all);
}
static void judges_rate_and_prefer(void **state) {
    (void)state;
    static Server s;
    put_task("talk3", "\"file\":\"rows.jsonl\",\"extract\":\"judge\",\"metric\":\"judge\",\"prompt\":\"{turns.0}\",\"max_new\":8,\"fields\":{\"choices\":\"none\",\"answer\":\"none\"}");
    put_task("open", "\"file\":\"rows.jsonl\",\"extract\":\"judge\",\"metric\":\"judge\",\"max_new\":8,\"fields\":{\"choices\":\"none\",\"turns\":\"none\"}");
    run_genrm(0, RUN "--tasks talk3 open --limit 3 --out @judged --quiet");
    run_genrm(0, RUN "--tasks talk3 --limit 3 --max-new 2 --out @other --quiet");
    static const Script ratings[] = {RATED("7"), RATED("3"), RATED("10"), RATED("11"), RATED("1"), RATED("6/10")};   // of three rows of two turns; 11 is no rating, so its row has none
    judge(0, ratings, 6, "--task talk3 --run @judged", &s);
    assert_true(summary("rows") == 3 && summary("rated_rows") == 2 && summary("replies") == 6 && summary("rated_replies") == 5 && summary("mean.value") == 4.25 && fabs(summary("turn_1") - 6) < 1e-9 && fabs(summary("turn_2") - 4.5) < 1e-9);
    assert_int_equal(s.requests, 6);
    assert_non_null(strstr(s.last, "assistant: "));
    json_t *entry = scores("judged", "talk3");
    assert_true(json_number_value(json_object_get(entry, "score")) == 4.25);
    json_decref(entry);
    Error e;
    char *path = xstrdup(in("judged/rated_talk3.jsonl"));   // row by row, for `eval compare`
    Mapped rated;
    assert_true(map_file(path, &rated, &e));
    char *text = xprintf("%.*s", (int)rated.size, (const char *)rated.data);
    assert_true(strstr(text, "\"value\":{\"judge\":5.0}") && strstr(text, "\"value\":{}") && strstr(text, "\"value\":{\"judge\":3.5}"));
    unmap_file(&rated);
    free(text); free(path);
    judge(1, ratings, 6, "--task talk3 --run @judged", &s);   // another endpoint is another judge
    assert_true(s.requests == 0 && strstr(output, "the answers there are of another run: \"endpoint\""));
    run_genrm(0, RUN "--tasks talk3 open --limit 3 --out @judged --quiet");   // what was rated stays
    entry = scores("judged", "talk3");
    assert_true(json_number_value(json_object_get(entry, "score")) == 4.25);
    json_decref(entry);
    static const Script verdicts[] = {REPLY("{\\\"Justification\\\":\\\"so\\\",\\\"Correctness\\\":\\\"correct\\\"}"), REPLY("{\\\"Justification\\\":\\\"so\\\",\\\"Correctness\\\":\\\"wrong\\\"}")};
    judge(0, verdicts, 2, "--task open --run @judged", &s);
    assert_true(fabs(summary("mean.value") - 1.0 / 3) < 1e-6 && summary("rated_rows") == 3);
    static const Script sides[] = {BETTER("first"), BETTER("second"), BETTER("first"), BETTER("first"), BETTER("second"), BETTER("first")};   // won; whoever stands first, a tie; lost
    judge(0, sides, 6, "--task talk3 --run @judged --against @other", &s);
    assert_true(summary("wins") == 1 && summary("ties") == 1 && summary("losses") == 1 && summary("swapped_differently") == 1 && summary("mean.value") == 0.5 && summary("p") == 1);
    static const Script useless[] = {REPLY("well")};
    judge(1, useless, 1, "--task talk3 --run @other", &s);
    assert_non_null(strstr(output, "no reply of the judge could be used"));
    expect("judge --run @judged --data @data --model @model", "--task is missing");
    expect("judge --task talk3 --run @judged --data @data --tasks-dir @tasks", "--model or --endpoint is missing");
    expect("judge --task talk3 --run @data --data @data --tasks-dir @tasks --model @model --quiet", "samples_talk3.jsonl: cannot be opened");
    run_genrm(1, "judge --task open --run @judged --data @data --tasks-dir @tasks --model @model --max-new 4 --out @mine.jsonl --quiet");   // prompts of a thousand letters for a model of 128 positions
    assert_non_null(strstr(output, "no reply of the judge could be used"));
}
#endif

// ---- what is refused

static void misuse_is_one_line(void **state) {
    (void)state;
    expect("--tasks count --data @data --out @x", "--model is missing");
    expect("--model @model --data @data --out @x", "--tasks is missing");
    expect("--model @model --tasks count --out @x", "--data is missing");
    expect("--model @model --tasks count --data @data", "--out is missing");
    expect(RUN "--tasks count --out @x --wrong 1", "unknown flag \"--wrong\"");
    expect(RUN "--tasks count --out @x --top-p 0.5", "--top-p has no effect here: --temperature 0");
    expect(RUN "--tasks count --out @x --mode fast", "--mode is \"fast\", expected direct or cot");
    expect(RUN "--tasks count --out @x --shots-as rows", "--shots-as is \"rows\", expected turns or text");
    expect(RUN "--tasks count --out @x --shots 0 --shots-as text", "--shots-as has no effect here");
    expect(RUN "--tasks count --out @x --no-template --shots 1 --shots-as turns", "--shots-as turns has no effect here");
    expect(RUN "--tasks count --out @x --no-template --template llama3", "--template has no effect here");
    expect(RUN "--tasks count --out @x --pixiu-compat --mode cot", "--mode has no effect here");
    expect(RUN "--tasks count --dry-run --quiet", "--quiet has no effect here");
    expect(RUN "--tasks count --out @x --max-new 0", "--max-new is 0");
    expect(RUN "--tasks count --out @x --context 1000", "--context is 1000, the model has 128 positions");
    expect(RUN "--tasks count --out @x --cache-gib 0.000001", "the longest row alone needs");
    expect("judging --model @model", "the command is \"judging\"");
    expect(RUN "--tasks absent --out @x", "absent.jsonl: is not there ---> data/fineval.py makes it");
    put_task("gone", "\"file\":\"gone.jsonl\",\"extract\":\"text\",\"metric\":\"em\",\"max_new\":4");
    run_genrm(1, RUN "--tasks absent gone --out @x");   // a line for each of them
    assert_true(strstr(output, "absent.jsonl: is not there") && strstr(output, "gone.jsonl: is not there"));
    run_genrm(1, RUN "--tasks absent count --limit 2 --out @named --quiet");   // what was named is wanted: the other task is run, the status says that not all was done
    assert_true(strstr(output, "absent.jsonl: is not there") && strstr(output, "1 of the tasks could not be run"));
    json_decref(scores("named", "count"));
    expect("--model @model --data @none --tasks-dir @tasks --tasks all --out @x", "none: is not there");
    expect(RUN "--tasks count absent --out @x --strict", "absent.jsonl: is not there");
    put("data/damaged.jsonl", "{\"query\":\"count from c\",\"answer\":\"a\"}\n{\"query\":\n");
    put_task("damaged", "\"extract\":\"text\",\"metric\":\"em\",\"max_new\":3");
    expect(RUN "--tasks damaged count --out @strict --strict --quiet", "damaged.jsonl:2: not valid JSON");
    assert_false(file_exists(in("strict/results.json")));
    run_genrm(0, RUN "--tasks damaged count --out @lenient --quiet");
    assert_non_null(strstr(output, "damaged.jsonl:2: not valid JSON"));
    json_t *entry = scores("lenient", "damaged");
    assert_true(json_integer_value(json_object_get(entry, "bad_rows")) == 1 && json_integer_value(json_object_get(entry, "n")) == 1);
    json_decref(entry);
    put("data/empty.jsonl", "\n");
    put_task("empty", "\"extract\":\"text\",\"metric\":\"em\",\"max_new\":3");
    run_genrm(1, RUN "--tasks empty count nobody --out @others --quiet");   // what is wrong with one task costs the others nothing
    assert_non_null(strstr(output, "empty.jsonl: has no rows"));
    assert_non_null(strstr(output, "there is no task or suite \"nobody\""));
    assert_non_null(strstr(output, "2 of the tasks could not be run, see above"));
    entry = scores("others", "count");
    json_decref(entry);
    expect(RUN "--tasks pick --shots 9 --out @x --strict", "rows_train.jsonl: has 3 rows, 9 examples are wanted");
    expect(RUN "--tasks many --shots 1 --out @x --strict", "many_valid.jsonl is not there");
    // another run's answers
    run_genrm(0, RUN "--tasks count --out @mine --quiet");
    expect(RUN "--tasks count --out @mine --max-new 5 --quiet", "results.json: is of another run: \"max_new\" is \"as the task says\", here 5 --->");
    assert_int_equal(unlink(in("mine/results.json")), 0);
    run_genrm(1, RUN "--tasks count pick --out @mine --max-new 5 --quiet");
    assert_non_null(strstr(output, "samples_count.jsonl.run: the answers there are of another run: "));
    assert_non_null(strstr(output, "give the same settings, or another --out"));
    put("results.txt", "");
    json_t *j = results("mine");   // pick was run all the same
    assert_true(json_object_size(json_object_get(j, "tasks")) == 1);
    json_decref(j);
    put("data/rows_old.jsonl", "");
    expect(RUN "--tasks count --out @model/config.json --quiet", "config.json");
}

int main(int argc, char **argv) {
    (void)argc;
    find_build(argv[0]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_are_scored_as_in_training), cmocka_unit_test(batches_do_not_matter), cmocka_unit_test(pages_are_those_that_fit), cmocka_unit_test(ranks_do_not_matter), cmocka_unit_test(a_killed_run_goes_on), cmocka_unit_test(long_prompts_are_not_cut),
        cmocka_unit_test(turns_follow_each_other), cmocka_unit_test(groups_are_of_like_scores), cmocka_unit_test(settings_do_what_they_say), cmocka_unit_test(misuse_is_one_line),
        #ifdef FINDAP_CURL
        cmocka_unit_test(judges_rate_and_prefer),
        #endif
    };
    int failed = cmocka_run_group_tests(tests, open_all, teardown);
    free(output);
    return failed;
}
