// eval_judge.h: `eval judge`: answers that no metric reads, MT-bench's and those of open questions, put to a judge: a model here or one behind an endpoint, as genrm's.
//
//     rate      each of the model's answers in a conversation, from 1 to 10; a row's rating is the mean of its turns (data/prompts/rate.txt)
//     correct   an answer beside the reference: correct or wrong (data/prompts/judge_reference.txt, as genrm judge --mode verdict)
//     prefer    the conversations of two runs, side by side, in both orders: who wins only when standing first, has not won (data/prompts/prefer.txt)
//
// Replies go to a file as they come, and the same command goes on after a kill. Ratings are then written into the run's results.json, and row by row, as `eval compare` pairs them, into
// rated_<task>.jsonl; what has no rating, because the reply could not be read, is counted and left out of the mean.
#ifndef FINDAP_EVAL_JUDGE_H
#define FINDAP_EVAL_JUDGE_H
#include "eval_run.h"   // defines: task_data, eval_groups
#include "reward.h"     // defines: reply_find, judge_parse_json

enum { JUDGE_RATE, JUDGE_CORRECT, JUDGE_PREFER, NUM_JUDGES };
FN const char *const judge_names[NUM_JUDGES] = {"rate", "correct", "prefer"};

typedef struct {
    Options a;
    const char *task, *run, *against, *data, *tasks_dir;
    Run s;
    Task found;
    Doc *docs;
    int64_t num_docs, num_rows, num_lines[2];   // rows: that were answered
    json_t **lines[2];              // (num_lines) of the run, and of the other
    int64_t *doc_of;                // (num_rows)
    int64_t *first_item;            // (num_rows + 1)
    double *ratings;                // (items) NAN: none
    char *in, *out;
} JudgeRun;

FN const Doc *judge_doc(const JudgeRun *v, int64_t row) { return &v->docs[v->doc_of[row]]; }
FN Text judge_output(const json_t *line, int turn) {   // what was said to turn 0, 1, ...
    const json_t *list = json_object_get(line, "outputs"), *j = list ? json_array_get(list, (size_t)turn) : turn == 0 ? json_object_get(line, "output") : NULL;
    return text_make(json_is_string(j) ? json_string_value(j) : "", (int64_t)json_string_length(j));
}

// user and assistant by turns, up to turn number `last`
FN void judge_conversation(const Doc *d, const json_t *line, int last, Buffer *b) {
    for (int k = 0; k <= last; k++) {
        Text asked = k == 0 ? d->prompt : d->turns[k - 1], said = judge_output(line, k);
        add_text(b, k ? "\n\nuser: " : "user: ");
        buffer_add(b, asked.data, asked.length);
        add_text(b, "\n\nassistant: ");
        buffer_add(b, said.data, said.length);
    }
}

// the lines of a run's samples file, by their "row"
FN json_t **judge_read(const char *dir, const Task *t, int64_t *n, Error *e) {
    char *path = xprintf("%s/samples_%s.jsonl", dir, t->name);
    Mapped m;
    json_t **out = NULL;
    int64_t line = 0;
    bool ok = map_file(path, &m, e);
    *n = 0;
    for (int64_t at = 0; ok && at < m.size;) {
        const char *end = (const char *)memchr(m.data + at, '\n', (size_t)(m.size - at));
        int64_t length = end ? end - (const char *)m.data - at : m.size - at, row = 0;
        char *where = xprintf("%s:%" PRId64, path, ++line);
        json_t *j = json_parse_line(where, (const char *)m.data + at, length, e);
        ok = j && json_get_int(j, "row", where, true, 0, 1 << 24, &row, e) && (json_is_string(json_object_get(j, "id")) || fail(e, "%s: \"id\" is missing", where));
        if (ok && row >= *n) { out = (json_t **)xrealloc(out, row + 1, sizeof(json_t *)); while (*n <= row) out[(*n)++] = NULL; }
        if (ok && out[row]) ok = fail(e, "%s: row %" PRId64 " is there twice", where, row);
        if (ok) out[row] = json_incref(j);
        json_decref(j);
        free(where);
        at += length + 1;
    }
    for (int64_t i = 0; ok && i < *n; i++) if (!out[i]) ok = fail(e, "%s: row %" PRId64 " is missing ---> has the run ended? The same command goes on", path, i);
    if (ok && *n == 0) ok = fail(e, "%s: has no rows", path);
    unmap_file(&m);
    free(path);
    if (ok) return out;
    for (int64_t i = 0; i < *n; i++) json_decref(out[i]);
    free(out);
    *n = 0;
    return NULL;
}

FN Text judge_reference(const Doc *d, int turn) {   // MT-bench has one a turn, for some of its questions
    const json_t *j = json_object_get(d->row, "reference");
    if (json_is_array(j)) j = json_array_get(j, (size_t)turn);
    return json_is_string(j) && json_string_length(j) ? text_make(json_string_value(j), (int64_t)json_string_length(j)) : d->answer.length ? d->answer : text_of("(there is none)");
}

FN bool judge_add(JudgeRun *v, int64_t row, int turn, const Text *values, Error *e) {
    Run *s = &v->s;
    s->items = (Item *)xrealloc(s->items, s->num_items + 1, sizeof(Item));
    Item *p = &s->items[s->num_items++];
    memset(p, 0, sizeof *p);
    p->row = json_pack("{s:O,s:i}", "id", json_object_get(v->lines[0][row], "id"), s->mode == JUDGE_PREFER ? "order" : "turn", turn);
    if (!run_ask_about(s, values, "a judge's prompt", p, e)) return false;
    s->skipped[p->skip]++;
    if (p->skip) ids_free(&p->ids);
    s->longest = p->ids.len > s->longest ? p->ids.len : s->longest;
    return true;
}
FN bool judge_items(JudgeRun *v, Error *e) {
    bool ok = true;
    v->first_item = (int64_t *)xcalloc(v->num_rows + 1, sizeof(int64_t));
    for (int64_t i = 0; ok && i < v->num_rows; i++) {
        const Doc *d = judge_doc(v, i);
        v->first_item[i] = v->s.num_items;
        for (int turn = 0; ok && turn < (v->s.mode == JUDGE_RATE ? 1 + d->num_turns : v->s.mode == JUDGE_PREFER ? 2 : 1); turn++) {
            Buffer b[2] = {{NULL, 0, 0}, {NULL, 0, 0}};
            for (int k = 0; k < 2 && v->s.mode != JUDGE_CORRECT; k++) if (v->lines[k]) judge_conversation(d, v->lines[k][i], v->s.mode == JUDGE_RATE ? turn : d->num_turns, &b[k]);
            const Text conversation[2] = {text_make(b[0].data ? b[0].data : "", b[0].len), text_make(b[1].data ? b[1].data : "", b[1].len)};
            const Text rate[] = {judge_reference(d, turn), conversation[0]}, correct[] = {d->prompt, d->answer, judge_output(v->lines[0][i], 0)}, prefer[] = {judge_reference(d, d->num_turns), conversation[turn], conversation[1 - turn]};
            ok = judge_add(v, i, turn, v->s.mode == JUDGE_RATE ? rate : v->s.mode == JUDGE_CORRECT ? correct : prefer, e);
            buffer_free(&b[0]); buffer_free(&b[1]);
        }
    }
    v->first_item[v->num_rows] = v->s.num_items;
    v->ratings = (double *)xcalloc(v->s.num_items, sizeof(double));
    return ok;
}

// What a reply says: 1 to 10; 1 or 0 for correct or wrong; 1, 0, 0.5 for first, second, tie. NAN, and why in *why: nothing that can be used
FN double judge_value(int mode, Text reply, bool capped, const char **why) {
    static const char *const fields[2][2] = {{"Justification", "Rating"}, {"Justification", "Better"}};
    if (mode == JUDGE_CORRECT) {
        Judged j = judge_parse_json(reply, capped);
        *why = judged_names[j];
        return j == JUDGED_RIGHT ? 1 : j == JUDGED_WRONG ? 0 : NAN;
    }
    char *values[2] = {NULL, NULL};
    ReplyStatus status = reply_find(reply, capped, fields[mode == JUDGE_PREFER], 2, values);
    double x = NAN;
    *why = status == REPLY_GOOD ? "judged" : judged_names[judged_of(status)];
    if (status == REPLY_GOOD && mode == JUDGE_PREFER) x = strcasecmp(values[1], "first") == 0 ? 1 : strcasecmp(values[1], "second") == 0 ? 0 : strcasecmp(values[1], "tie") == 0 ? 0.5 : NAN;
    if (status == REPLY_GOOD && mode == JUDGE_RATE) {
        char *end = NULL;
        x = strtod(values[1], &end);
        if (end == values[1] || !(strcmp(end, "") == 0 || strcmp(end, "/10") == 0) || !(x >= 1 && x <= 10)) x = NAN;
    }
    if (status == REPLY_GOOD && isnan(x)) *why = "no_verdict";
    if (status == REPLY_GOOD) { free(values[0]); free(values[1]); }
    return x;
}

FN void judge_rating_line(Run *s, const Item *p, const Said *said, Buffer *b) {
    JudgeRun *v = (JudgeRun *)s->user;
    const char *why = "prompt_too_long";
    double x = said ? judge_value(s->mode, said->text, said->capped, &why) : NAN;
    v->ratings[p - s->items] = x;
    add_text(b, ",\"rating\":");
    add_number(b, x);
    add_field(b, "judged", text_of(why));
    if (said) add_field(b, "reply", said->text);
}
FN bool judge_rating_had(void *user, json_t *line, const char *where, Error *e) {
    Run *s = (Run *)user;
    int64_t item = 0;
    double x = NAN;
    if (!json_get_int(line, "row", where, true, 0, s->num_items - 1, &item, e) || !json_get_double(line, "rating", where, false, 0, 10, &x, e)) return false;
    ((JudgeRun *)s->user)->ratings[item] = x;
    s->answers++;
    return true;
}

// rated_<task>.jsonl: of each row what names it, as in the samples file, and its rating x, where it has one
FN bool judge_write_rows(const JudgeRun *v, const double *x, Error *e) {
    static const char *const kept[] = {"row", "id", "gold", "prompt_hash"};
    Buffer b = {NULL, 0, 0};
    for (int64_t i = 0; i < v->num_rows; i++) {
        json_t *j = json_object(), *value = json_object();
        for (int k = 0; k < 4; k++) if (json_object_get(v->lines[0][i], kept[k])) json_object_set(j, kept[k], json_object_get(v->lines[0][i], kept[k]));
        if (!isnan(x[i])) json_object_set_new(value, "judge", json_real(x[i]));
        json_object_set_new(j, "value", value);
        char *line = json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER);
        CHECK(line);
        add_text(&b, line);
        add_text(&b, "\n");
        free(line);
        json_decref(j);
    }
    char *path = xprintf("%s/rated_%s.jsonl", v->run, v->found.name);
    bool ok = write_file(path, b.data, b.len, e);
    free(path);
    buffer_free(&b);
    return ok;
}
// ratings of the rows into results.json of the run
FN bool judge_write(const JudgeRun *v, Estimate x, Error *e) {
    char *path = path_join(v->run, "results.json");
    json_t *j = json_parse_file(path, 1 << 28, e), *task = j ? json_object_get(json_object_get(j, "tasks"), v->found.name) : NULL;
    bool ok = j && (json_is_object(task) || fail(e, "%s: has no task \"%s\" ---> is it of the run whose answers were judged?", path, v->found.name));
    if (ok) {
        json_t *e_json = estimate_json(x), *value;
        const char *key;
        json_object_foreach(e_json, key, value) json_object_set(task, strcmp(key, "value") == 0 ? "score" : key, value);
        if (!json_is_object(json_object_get(task, "metrics"))) json_object_set_new(task, "metrics", json_object());
        json_object_set_new(json_object_get(task, "metrics"), "judge", e_json);
        json_object_set_new(j, "groups", eval_groups(json_object_get(j, "tasks")));
        char *text = json_dumps(j, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
        CHECK(text);
        ok = write_file(path, text, (int64_t)strlen(text), e);
        free(text);
    }
    json_decref(j);
    free(path);
    return ok;
}

FN bool judge_summary_of(const JudgeRun *v, Error *e) {
    const Run *s = &v->s;
    int64_t rated = 0, rows = 0, counts[3] = {0, 0, 0}, torn = 0;
    double *x = (double *)xcalloc(v->num_rows, sizeof(double));
    for (int64_t i = 0; i < s->num_items; i++) rated += !isnan(v->ratings[i]);
    for (int64_t i = 0; i < v->num_rows; i++) {
        double sum = 0;
        int64_t n = 0, first = v->first_item[i];
        for (int64_t k = first; k < v->first_item[i + 1]; k++) if (!isnan(v->ratings[k])) { sum += v->ratings[k]; n++; }
        x[i] = n == v->first_item[i + 1] - first ? sum / (double)n : NAN;
        if (s->mode == JUDGE_PREFER && !isnan(x[i])) {   // the second time the run stood second
            double a = v->ratings[first], b = 1 - v->ratings[first + 1];
            torn += a != b;
            x[i] = a == b ? a : 0.5;
            counts[x[i] == 1 ? 0 : x[i] == 0 ? 2 : 1]++;
        }
        rows += !isnan(x[i]);
    }
    Estimate mean = mean_estimate(x, v->num_rows);
    json_t *j = json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:o}", "task", v->found.name, "mode", judge_names[s->mode], "rows", (json_int_t)v->num_rows, "rated_rows", (json_int_t)rows, "replies", (json_int_t)s->num_items, "rated_replies", (json_int_t)rated, "mean", estimate_json(mean));
    for (int turn = 0; s->mode == JUDGE_RATE && turn < 8; turn++) {
        double sum = 0;
        int64_t n = 0;
        for (int64_t i = 0; i < v->num_rows; i++) if (v->first_item[i] + turn < v->first_item[i + 1] && !isnan(v->ratings[v->first_item[i] + turn])) { sum += v->ratings[v->first_item[i] + turn]; n++; }
        char name[24];
        snprintf(name, sizeof name, "turn_%d", turn + 1);
        if (n) json_object_set_new(j, name, json_real(sum / (double)n));
    }
    if (s->mode == JUDGE_PREFER) {
        json_object_set_new(j, "wins", json_integer(counts[0])); json_object_set_new(j, "ties", json_integer(counts[1])); json_object_set_new(j, "losses", json_integer(counts[2]));
        json_object_set_new(j, "swapped_differently", json_integer(torn)); json_object_set_new(j, "p", json_finite(mcnemar(counts[0], counts[2])));
    }
    print_json(j);
    bool ok = rows > 0 || fail(e, "no reply of the judge could be used, see \"judged\" in %s ---> is this model able to follow the prompt?", v->out);
    if (s->mode != JUDGE_PREFER) ok = ok && judge_write_rows(v, x, e) && judge_write(v, mean, e);
    free(x);
    return ok;
}

FN bool judge_begin(JudgeRun *v, Error *e) {   // task, rows, answers
    char *standard = v->tasks_dir ? NULL : tasks_directory(), *data = NULL;
    StringList one = {&v->task, 1};
    TaskList found = {NULL, 0};
    int64_t bad = 0, n = 0;
    bool ok = tasks_find(v->tasks_dir ? v->tasks_dir : standard, &one, &found, e);
    free(standard);
    if (ok && found.n != 1) ok = fail(e, "--task \"%s\" is %d tasks, expected one", v->task, found.n);
    if (!ok) { tasks_free(&found); return false; }
    v->found = found.items[0];
    free(found.items);
    data = task_data(&v->found, v->data);
    int keep = silence_begin(&v->s);
    ok = docs_load(&v->found, data, false, -1, 0, false, &v->docs, &v->num_docs, &bad, e);
    silence_end(keep);
    free(data);
    for (int k = 0; ok && k < (v->against ? 2 : 1); k++) {
        v->lines[k] = judge_read(k ? v->against : v->run, &v->found, &n, e);
        v->num_lines[k] = n;
        ok = v->lines[k] != NULL;
        if (ok && k && n != v->num_rows) ok = fail(e, "%s has %" PRId64 " rows of %s, %s has %" PRId64 " ---> both must have answered the same rows", v->run, v->num_rows, v->found.name, v->against, n);
        if (k == 0) v->num_rows = n;
    }
    v->doc_of = (int64_t *)xcalloc(v->num_rows, sizeof(int64_t));
    for (int64_t i = 0; ok && i < v->num_rows; i++) {
        const char *id = json_string_value(json_object_get(v->lines[0][i], "id"));
        if (v->lines[1] && !json_equal(json_object_get(v->lines[1][i], "id"), json_object_get(v->lines[0][i], "id"))) ok = fail(e, "row %" PRId64 " is \"%.60s\" in %s and another in %s ---> both must have answered the same rows", i, id, v->run, v->against);
        while (ok && v->doc_of[i] < v->num_docs && !text_equal(v->docs[v->doc_of[i]].id, text_of(id))) v->doc_of[i]++;
        if (ok && v->doc_of[i] == v->num_docs) ok = fail(e, "row %" PRId64 " is \"%.60s\", which is not in the data ---> is --data that of the run?", i, id);
    }
    bool rates = ok && (judge_doc(v, 0)->num_turns > 0 || judge_doc(v, 0)->answer.length == 0);
    v->s.mode = v->against ? JUDGE_PREFER : rates ? JUDGE_RATE : JUDGE_CORRECT;
    return ok;
}

FN bool judge_all(JudgeRun *v, int argc, char **argv, Error *e) {
    static const char *const files[NUM_JUDGES] = {"rate.txt", "judge_reference.txt", "prefer.txt"};
    static const char *const *const values[NUM_JUDGES] = {prompt_rate, prompt_judge_reference, prompt_prefer};
    Run *s = &v->s;
    Hash prompt = {""}, other = {""};
    s->user = v; s->line = judge_rating_line; s->skipped_have_lines = true; s->to_check = CHECKED_ROWS;
    s->file.had = judge_rating_had; s->file.row_key = "row";
    bool ok = judge_begin(v, e) && (!s->o->model || run_open_model(s, e));
    char *path = ok ? s->o->prompt ? xstrdup(s->o->prompt) : prompt_path(files[s->mode]) : NULL, *samples = ok && v->against ? xprintf("%s/samples_%s.jsonl", v->against, v->found.name) : NULL;
    ok = ok && prompt_load(path, values[s->mode], &s->prompt, e) && hash_file(path, &prompt, e) && (!samples || hash_file(samples, &other, e)) && judge_items(v, e);
    free(path); free(samples);
    if (!comm_agree(&s->comm, ok, e, "reading the answers")) return false;
    v->in = xprintf("%s/samples_%s.jsonl", v->run, v->found.name);
    v->out = s->o->out ? xstrdup(s->o->out) : xprintf("%s/%s_%s.jsonl", v->run, s->mode == JUDGE_PREFER ? "preferred" : "judged", v->found.name);
    s->o->in = v->in; s->o->out = v->out;
    if (!s->o->quiet) run_print_plan(s);
    if (s->o->dry_run) return true;
    if (!run_same(s, argc, argv, e)) return false;
    ok = run_answers(s, json_pack("{s:s,s:s,s:s,s:s}", "format", "findap-eval-judge-1", "mode", judge_names[s->mode], "prompt_hash", prompt.hex, "against_hash", other.hex), e);
    return comm_agree(&s->comm, ok && (s->comm.rank != 0 || judge_summary_of(v, e)), e, "the ratings");
}

FN int eval_judge_main(int argc, char **argv) {   // argv[0] is "judge"
    JudgeRun v;
    Flag flags[MAX_FLAGS];
    Error e;
    bool help = false;
    memset(&v, 0, sizeof v);
    options_begin(&v.a);
    v.a.max_new = 512; v.a.sampling.temperature = 0;
    v.s.o = &v.a;
    const Flag table[] = {
        {"--task", FLAG_STRING, &v.task, "NAME", "the task: mt-bench, or one whose answers want a judge", 0, 0, false},
        {"--run", FLAG_STRING, &v.run, "DIR", "--out of the run whose answers are judged; its results.json gets the ratings", 0, 0, false},
        {"--against", FLAG_STRING, &v.against, "DIR", "that of another run: the judge says which of the two is better, in both orders", 0, 0, false},
        {"--data", FLAG_STRING, &v.data, "DIR", "where the task's rows are", 0, 0, false},
        {"--tasks-dir", FLAG_STRING, &v.tasks_dir, "DIR", "where the task files are (default: data/tasks)", 0, 0, false},
        {"--out", FLAG_STRING, &v.a.out, "FILE", "the judge's replies, a line each; the same command goes on after a kill (default: judged_NAME.jsonl or preferred_NAME.jsonl in --run)", 0, 0, false},
        {"--model", FLAG_STRING, &v.a.model, "DIR", "the judge: a Hugging Face model directory", 0, 0, false},
        {"--prompt", FLAG_STRING, &v.a.prompt, "FILE", "what the judge is asked (default: data/prompts/rate.txt, judge_reference.txt or prefer.txt)", 0, 0, false},
        {"--max-new", FLAG_INT, &v.a.max_new, "N", "most tokens of a reply", 1, 1 << 20, false},
    };
    int n = add_flags(flags, 0, table, (int)(sizeof table / sizeof *table));
    n = flags_of_runs(&v.a, flags, flags_of_endpoints(&v.a, flags, flags_of_draws(&v.a, flags, n)));
    bool ok = comm_begin(&v.s.comm, 60, &e) && flags_parse(argc, argv, 1, flags, n, NULL, &help, &e), print = v.s.comm.rank == 0;
    if (ok && help && print) flags_help("eval judge --task NAME --run DIR --data DIR (--model DIR | --endpoint URL) [flags]", "Answers that no metric reads, put to a judge: rated from 1 to 10 (MT-bench), correct or wrong beside a reference, or with\n--against which of two runs is better. A summary on stdout, one JSON object.", flags, n);
    const char *missing = !v.task ? "--task" : !v.run ? "--run" : !v.data ? "--data" : NULL;
    if (ok && !help && missing) ok = fail(&e, "%s is missing ---> see eval judge --help", missing);
    const char *out = v.a.out;
    v.a.in = v.a.out = "";   // made from --run
    if (ok && !help) ok = asking_settings(&v.a, flags, n, &e) && (v.a.model || v.a.endpoint.url || fail(&e, "--model or --endpoint is missing ---> who judges?"));
    v.a.out = out;
    ok = comm_agree(&v.s.comm, ok, &e, "reading flags");
    if (!print) v.a.quiet = true;
    if (ok && !help && !v.a.quiet) log_banner(FINDAP_DEVICE, argc, argv);
    if (ok && !help) ok = comm_agree(&v.s.comm, judge_all(&v, argc, argv, &e), &e, "the end");
    if (!ok && print) fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    for (int k = 0; k < 2; k++) { for (int64_t i = 0; v.lines[k] && i < v.num_lines[k]; i++) json_decref(v.lines[k][i]); free(v.lines[k]); }
    free(v.doc_of); free(v.first_item); free(v.ratings); free(v.in); free(v.out);
    docs_free(v.docs, v.num_docs);
    if (v.found.json) task_free(&v.found);
    run_free(&v.s);
    comm_end(&v.s.comm);
    return ok ? 0 : 1;
}

#endif
