// eval_run.h: a model over tasks: the run, what is kept, results.json.
//
//     task file, data rows -> prompts (eval_ask.h) -> requests to the engine -> samples_TASK.jsonl -> scores (eval_score.h) -> results.json
//
// All tasks are read and all prompts rendered before a weight is: the plan is printed, and memory is taken once, for the longest row and the fullest batch of all. Tasks are then
// run one after the other, each longest row first; results.json is written anew after each, so a killed run has what it has finished. A task's samples file is its cache
// (answer_file.h): the same command goes on with the rows that are missing, and rows are scored again from what was said, so a better extractor needs no model.
#ifndef FINDAP_EVAL_RUN_H
#define FINDAP_EVAL_RUN_H
#include "eval_ask.h"     // defines: EvalRun, TaskRun, eval_prepare, eval_room
#include "eval_results.h" // defines: task_result_read, outcomes_note

// ---------------------------------------------------------------------------------------------------------------
// the run of a task: hooks of answers.h

FN int eval_parts(const Run *s, int64_t job) {
    const EvalRow *row = &((const EvalRun *)s->user)->now->rows[job];
    return row->choices && !row->sets ? row->num_choices : 1;
}
FN void eval_part(const Run *s, int64_t job, int part, Request *r) {
    const EvalRow *row = &((const EvalRun *)s->user)->now->rows[job];
    r->max_new = row->max_new;
    r->sets = row->sets;
    r->num_sets = row->sets ? row->num_choices : 0;
    for (int64_t i = 0; row->choices && i < row->choices[part].len - (row->sets != NULL); i++, r->given++) ids_add(&r->ids, row->choices[part].data[i]);
}
// the row's next turn, behind what was said to those before
FN bool eval_another(Run *s, int64_t job, const Said *said, Request *r) {
    EvalRun *v = (EvalRun *)s->user;
    const TaskRun *t = v->now;
    const Doc *d = &t->docs[job];
    Error inner;
    if (t->request != REQUEST_GENERATE || said->num_requests > d->num_turns) return false;
    Text *texts = (Text *)xcalloc(said->num_requests, sizeof(Text));
    for (int i = 0; i < said->num_requests; i++) texts[i] = text_make(said->requests[i]->text.data ? said->requests[i]->text.data : "", said->requests[i]->text.len);
    r->ids.len = 0;
    bool ok = eval_prompt(v, t, d, texts, said->num_requests, &r->ids, &inner);
    free(texts);
    int64_t left = v->run.room.T - r->ids.len + 1;
    r->max_new = left < t->max_new ? left : t->max_new;
    return ok && left > 0;
}

FN double or_minus_infinity(const json_t *j) { return json_is_number(j) ? json_number_value(j) : -INFINITY; }
// log-probs of the choices of a row, summed over their tokens: of the engine's requests, or (said NULL) of a line that was there already
FN void eval_logps(const EvalRow *row, const Said *said, const json_t *line, double *logps) {
    for (int k = 0; k < row->num_choices; k++) {
        const Request *r = said ? said->requests[row->sets ? 0 : k] : NULL;
        logps[k] = r ? row->sets ? log(r->set_probability[k]) : 0 : or_minus_infinity(json_array_get(line, (size_t)k));
        for (int64_t i = 0; r && i < r->given; i++) logps[k] += r->logp[i];
    }
}

// A row's scores; on rank 0 they are kept for the task's
FN void eval_score_row(EvalRun *v, TaskRun *t, int64_t i, Text output, bool truncated, int64_t tokens, const double *logps) {
    Sample *x = &t->samples_of[i];
    const Doc *d = &t->docs[i];
    t->right_by[i][0] = t->right_by[i][1] = -1;
    if (logps) {
        double best[2] = {-INFINITY, -INFINITY};
        sample_score_choices(t->task, d, logps, &v->o->score, x);
        for (int k = 0; k < d->num_choices && t->rows[i].choices; k++) {
            double by[2] = {logps[k] / (double)d->choices[k].length, logps[k] / (double)t->rows[i].choices[k].len};
            for (int m = 0; m < 2; m++) if (k == 0 || by[m] > best[m]) { best[m] = by[m]; t->right_by[i][m] = k == d->gold; }
        }
    } else sample_score(t->task, d, output, truncated, &v->o->score, x);
    if (t->items[i].skip) x->outcome = OUTCOME_TRUNCATED;   // and not empty: nobody was asked
    x->tokens = tokens;
}

FN void eval_line(Run *s, const Item *p, const Said *said, Buffer *b) {
    EvalRun *v = (EvalRun *)s->user;
    TaskRun *t = v->now;
    int64_t i = p - s->items, tokens = 0;
    const EvalRow *row = &t->rows[i];
    const Doc *d = &t->docs[i];
    bool chosen = said && t->request != REQUEST_GENERATE, truncated = !said || said->capped;
    Text output = said ? said->text : text_of("");
    double *logps = (double *)xcalloc(chosen ? row->num_choices : 0, sizeof(double));
    if (chosen) eval_logps(row, said, NULL, logps);
    for (int k = 0; said && !chosen && k < said->num_requests; k++) {
        tokens += said->requests[k]->ids.len - said->requests[k]->prompt_length;
        truncated = truncated || said->requests[k]->finish == FINISH_LENGTH;
    }
    truncated = truncated || (!chosen && said && said->num_requests <= d->num_turns);
    eval_score_row(v, t, i, output, truncated, tokens, chosen ? logps : NULL);
    const Sample *x = &t->samples_of[i];
    if (chosen && x->pred >= 0) output = d->choices[x->pred];
    json_t *line = sample_json(t->task, d, x, i, output);
    json_object_del(line, "row");
    json_object_set_new(line, "finish", json_string(!said ? "too_long" : finish_names[said->request->finish]));
    json_object_set_new(line, "truncated", json_boolean(truncated));
    json_object_set_new(line, "tokens", json_integer(tokens));
    if (chosen) {
        json_t *list = json_array(), *counts = json_array();
        for (int k = 0; k < row->num_choices; k++) {
            json_array_append_new(list, json_finite(logps[k]));
            if (row->choices) json_array_append_new(counts, json_integer(row->choices[k].len));
        }
        json_object_set_new(line, "logps", list);
        if (row->choices) json_object_set_new(line, "choice_tokens", counts); else json_decref(counts);
        if (t->request == REQUEST_NEXT_TOKEN) json_object_set_new(line, "p_outside", json_finite(said->request->set_probability[row->num_choices]));
    }
    if (d->num_turns) {
        json_t *list = json_array();
        for (int k = 0; said && k < said->num_requests; k++) json_array_append_new(list, text_json(text_make(said->requests[k]->text.data ? said->requests[k]->text.data : "", said->requests[k]->text.len)));
        json_object_set_new(line, "outputs", list);
    }
    json_object_set_new(line, "prompt_hash", json_string(hash_bytes(p->ids.data, p->ids.len * (int64_t)sizeof(int32_t)).hex));
    char *text = json_dumps(line, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    CHECK(text);
    add_text(b, ",");
    buffer_add(b, text + 1, (int64_t)strlen(text) - 2);
    free(text); free(logps);
    json_decref(line);
}

FN bool eval_had(void *user, json_t *line, const char *where, Error *e) {   // scored again from what was said then
    Run *s = (Run *)user;
    EvalRun *v = (EvalRun *)s->user;
    TaskRun *t = v->now;
    int64_t row = 0, tokens = 0;
    bool truncated = false;
    Text output;
    const json_t *list = json_object_get(line, "logps");
    if (!json_get_int(line, "row", where, true, 0, t->n - 1, &row, e) || !row_text(line, "output", where, true, &output, e) || !json_get_bool(line, "truncated", where, true, &truncated, e)
        || !json_get_int(line, "tokens", where, true, 0, INT64_MAX, &tokens, e)) return false;
    const EvalRow *r = &t->rows[row];
    bool chosen = t->request != REQUEST_GENERATE && !s->items[row].skip;
    if (chosen && (int)json_array_size(list) != r->num_choices) return fail(e, "%s: \"logps\" has %zu entries, the row has %d choices ---> remove the line", where, json_array_size(list), r->num_choices);
    double *logps = (double *)xcalloc(chosen ? r->num_choices : 0, sizeof(double));
    if (chosen) eval_logps(r, NULL, list, logps);
    eval_score_row(v, t, row, output, truncated, tokens, chosen ? logps : NULL);
    free(logps);
    s->answers++;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// results.json

// acc by log-likelihood per byte and per token, beside acc and acc_norm (per character)
FN void eval_add_norms(const TaskRun *t, json_t *metrics) {
    static const char *const names[] = {"acc_bytes", "acc_tokens"};
    for (int m = 0; m < 2; m++) {
        int64_t n = 0, right = 0;
        for (int64_t i = 0; i < t->n; i++) { n += t->right_by[i][m] >= 0 || t->items[i].skip; right += t->right_by[i][m] == 1; }
        if (t->request == REQUEST_CHOICES && n) json_object_set_new(metrics, names[m], estimate_json(proportion_estimate(right, n)));
    }
}

// What results.json says of a task that was run. before: its entry of an earlier run, for the time when nothing was left to do; NULL: none
FN json_t *eval_entry(const EvalRun *v, const TaskRun *t, const json_t *before, Error *e) {
    const Run *s = &v->run;
    const Task *task = t->task;
    Hash data;
    if (!hash_file(t->data, &data, e)) return NULL;
    json_t *j = task_metrics(task, t->docs, t->samples_of, t->n, t->bad, &v->o->score, t->suite);
    int64_t fresh = t->n - s->file.resumed, new_tokens = 0;
    for (int64_t i = 0; i < t->n; i++) new_tokens += t->samples_of[i].tokens > 0 ? t->samples_of[i].tokens : 0;   // of all rows; time is that of this run's, rows_timed of them
    json_object_set_new(j, "mode", json_string(t->cot ? "cot" : "direct"));
    json_object_set_new(j, "request", json_string(request_names[t->request]));
    json_object_set_new(j, "shots", json_integer(t->shots_wanted));
    json_object_set_new(j, "max_new", json_integer(t->max_new));
    json_object_set_new(j, "too_long", json_integer(t->skipped[SKIP_TOO_LONG]));
    json_object_set_new(j, "data_hash", json_string(data.hex));
    json_object_set_new(j, "task_hash", json_string(task->hash.hex));
    json_object_set_new(j, "new_tokens", json_integer(new_tokens));
    json_object_set_new(j, "seconds", json_real(s->seconds));
    json_object_set_new(j, "rows_timed", json_integer(fresh));
    json_object_set_new(j, "rows_per_second", fresh > 0 && s->seconds > 0 ? json_real((double)fresh / s->seconds) : json_null());
    static const char *const times[] = {"seconds", "rows_per_second", "rows_timed"};
    for (int k = 0; k < 3 && before && fresh == 0; k++) if (json_object_get(before, times[k])) json_object_set(j, times[k], json_object_get(before, times[k]));
    static const char *const rated[] = {"score", "stderr", "low", "high"};   // by `eval judge`, of the same answers
    bool judged = before && fresh == 0 && task->extract == EXTRACT_JUDGE && json_is_number(json_object_get(before, "score"));
    for (int k = 0; k < 4 && judged; k++) json_object_set(j, rated[k], json_object_get(before, rated[k]));
    if (judged) json_object_set(json_object_get(j, "metrics"), "judge", json_object_get(json_object_get(before, "metrics"), "judge"));
    eval_add_norms(t, json_object_get(j, "metrics"));
    const char *asked = json_string_value(json_object_get(task_category(task), "mode"));
    if (!v->o->pixiu && asked && strcmp(asked, t->cot ? "cot" : "direct") != 0) json_object_del(j, "category_score");   // the leaderboard asks otherwise
    return j;
}

FN void group_add(json_t *groups, const char *name, double score) {
    json_t *g = json_object_get(groups, name);
    if (!g) json_object_set_new(groups, name, g = json_pack("{s:f,s:i}", "mean", 0.0, "tasks", 0));
    double n = (double)json_integer_value(json_object_get(g, "tasks")), mean = json_number_value(json_object_get(g, "mean"));
    json_object_set_new(g, "mean", json_real((mean * n + score) / (n + 1)));
    json_object_set_new(g, "tasks", json_integer((json_int_t)n + 1));
}
// Plain means, of what there is: over a domain and novelty and over a capability those of shares, whose scores are better when higher; and as the leaderboard has it, over its categories
// and all of its tasks, by its metrics: MCC from 0 to 1, an RMSE among them as it is.
FN json_t *eval_groups(const json_t *tasks) {
    json_t *groups = json_object(), *t;
    const char *name;
    json_object_foreach((json_t *)tasks, name, t) {
        static const char *const keys[] = {"domain", "novelty", "capability", "category"};
        const char *x[4];
        const json_t *score = json_object_get(t, "score"), *listed = json_object_get(t, "category_score");
        for (int k = 0; k < 4; k++) { x[k] = json_string_value(json_object_get(t, keys[k])); if (!x[k]) x[k] = ""; }
        char *group[3] = {xprintf("%s %s", x[0], x[1]), xprintf("capability %s", x[2]), xprintf("leaderboard %s", x[3])};
        bool counts = json_is_number(score) && json_is_true(json_object_get(t, "share")) && !json_is_false(json_object_get(t, "higher_is_better"));
        if (counts && *x[0] && *x[1]) group_add(groups, group[0], json_number_value(score));
        if (counts && *x[2]) group_add(groups, group[1], json_number_value(score));
        if (json_is_number(listed) && *x[3]) { group_add(groups, group[2], json_number_value(listed)); group_add(groups, "leaderboard average", json_number_value(listed)); }
        for (int k = 0; k < 3; k++) free(group[k]);
    }
    return groups;
}

FN json_t *eval_settings(const EvalRun *v) {
    const EvalOptions *o = v->o;
    const Sampling *p = &o->a.sampling;
    json_t *j = json_pack("{s:s,s:s?,s:s,s:s,s:I,s:b,s:f,s:I,s:f,s:f,s:f}", "template", o->no_template ? "none" : chat_name(v->run.chat), "system", o->a.system, "shots_as", o->shots_as ? o->shots_as : o->no_template ? "text" : "turns",
                          "mode", o->a.mode ? o->a.mode : "as the task says", "seed", (json_int_t)o->a.seed, "pixiu_compat", o->pixiu, "temperature", p->temperature, "top_k", (json_int_t)p->top_k, "top_p", p->top_p, "min_p", p->min_p, "repetition_penalty", p->repetition_penalty);
    CHECK(j);
    json_object_set_new(j, "shots", o->shots >= 0 ? json_integer(o->shots) : json_string("as the task says"));
    json_object_set_new(j, "limit", o->limit >= 0 ? json_integer(o->limit) : json_null());
    json_object_set_new(j, "max_new", o->max_new > 0 ? json_integer(o->max_new) : json_string("as the task says"));
    json_object_set_new(j, "context", json_integer(eval_context(v)));
    return j;
}

// On rank 0: what results.json begins with, and the tasks that an earlier run of the same model and settings has left there
FN bool eval_results_begin(EvalRun *v, Error *e) {
    static const char *const same[] = {"model_hash", "adapter_hash", "tokenizer_hash", "settings"};
    const EvalOptions *o = v->o;
    char *path = path_join(o->a.out, "results.json");
    json_t *before = NULL;
    bool ok = run_identify_model(&v->run, e);
    if (ok) {
        v->results = json_pack("{s:s,s:s,s:s,s:s?,s:s,s:s?,s:s?,s:o,s:{}}", "format", "findap-eval-1", "commit", FINDAP_COMMIT, "device", FINDAP_DEVICE, "date", NULL, "model", o->a.model, "adapter", o->a.adapter, "label", o->label,
                               "settings", eval_settings(v), "tasks");
        ok = v->results != NULL || fail(e, "--model, --adapter or --label is not UTF-8");
        static const char *const who[] = {"model_hash", "adapter_hash", "tokenizer_hash", "template_hash"};
        for (int k = 0; ok && k < 4; k++) json_object_set(v->results, who[k], json_object_get(v->run.who, who[k]));
    }
    Error inner;
    if (ok && file_exists(path) && !(before = json_parse_file(path, 1 << 28, &inner))) ok = fail(e, "%.700s ---> remove it: it is made anew, and the answers stay in samples_TASK.jsonl", inner.text);
    for (int k = 0; ok && before && k < 4; k++)
        if (!json_equal(json_object_get(before, same[k]), json_object_get(v->results, same[k]))) {
            const json_t *x = json_object_get(before, same[k]), *y = json_object_get(v->results, same[k]), *one;
            const char *key, *which = same[k];   // of the settings only the first that differs
            json_object_foreach((json_t *)y, key, one) if (!json_equal(json_object_get(x, key), one)) { which = key; x = json_object_get(x, key); y = one; break; }
            char *a = json_dumps(x, JSON_ENCODE_ANY | JSON_COMPACT), *b = json_dumps(y, JSON_ENCODE_ANY | JSON_COMPACT);
            ok = fail(e, "%s: is of another run: \"%s\" is %.300s, here %.300s ---> give the same model and settings, or another --out", path, which, a ? a : "missing", b);
            free(a); free(b);
        }
    if (ok && before) json_object_update(json_object_get(v->results, "tasks"), json_object_get(before, "tasks"));
    json_decref(before);
    free(path);
    return ok;
}

FN bool eval_results_write(EvalRun *v, Error *e) {
    char date[32], *path = path_join(v->o->a.out, "results.json");
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    double seconds = 0;
    const char *name;
    json_t *t;
    json_object_foreach(json_object_get(v->results, "tasks"), name, t) seconds += json_number_value(json_object_get(t, "seconds"));
    json_object_set_new(v->results, "date", json_string(date));
    json_object_set_new(v->results, "groups", eval_groups(json_object_get(v->results, "tasks")));
    json_object_set_new(v->results, "seconds", json_real(seconds));
    json_object_set_new(v->results, "logp_difference_largest", v->logp_tokens ? json_finite(v->logp_largest) : json_null());
    json_object_set_new(v->results, "logp_difference_mean", v->logp_tokens ? json_finite(v->logp_difference / (double)v->logp_tokens) : json_null());
    json_object_set_new(v->results, "logp_compared_tokens", json_integer(v->logp_tokens));
    char *text = json_dumps(v->results, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    CHECK(text);
    bool ok = write_file(path, text, (int64_t)strlen(text), e);
    free(text); free(path);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// the run

// One task: what is missing is asked, all of it is scored, results.json written. Collective. *on: false, nothing more can be done
FN bool eval_task(EvalRun *v, TaskRun *t, bool *on, Error *e) {
    Run *s = &v->run;
    const EvalOptions *o = v->o;
    *s->o = o->a;
    s->o->in = t->data; s->o->out = t->samples; s->o->max_new = t->max_new; s->o->system = t->system;
    s->stops = t->stops;
    s->items = t->items; s->num_items = t->n; s->longest = t->longest; s->order = t->order; s->name = t->task->name;
    memcpy(s->skipped, t->skipped, sizeof s->skipped);
    memset(s->finishes, 0, sizeof s->finishes);
    s->answers = s->logp_tokens = s->new_tokens = s->computed_tokens = s->shared_tokens = 0;
    s->logp_difference = s->logp_largest = s->seconds = 0;
    s->begun = false;
    memset(&s->file, 0, sizeof s->file);
    s->file.had = eval_had; s->file.row_key = "row";
    v->now = t;
    Hash h[3] = {t->task->hash, t->prompts, t->shots_hash};
    json_t *identity = json_pack("{s:s,s:s,s:s,s:s,s:s,s:b,s:I,s:s,s:I,s:I,s:b,s:b}", "format", "findap-eval-samples-1", "task", t->task->name, "task_hash", t->task->hash.hex, "prompts_hash", t->prompts.hex, "mode", t->cot ? "cot" : "direct",
                                 "template", !o->no_template, "shots", (json_int_t)t->shots_wanted, "shots_hash", t->shots_hash.hex, "limit", (json_int_t)o->limit, "context", (json_int_t)eval_context(v), "pixiu_compat", o->pixiu, "stop_at_line_end", t->stops.at_line_end);
    CHECK(identity);
    if (!comm_same(&s->comm, h, (int64_t)sizeof h, e)) { json_decref(identity); *on = false; return false; }
    bool ok = run_answers(s, identity, e);
    s->items = NULL; s->num_items = 0; s->stops.strings.items = NULL; s->stops.strings.n = 0;
    *on = ok || !s->begun;   // what is wrong with its file is the task's own affair
    if (s->comm.rank == 0) {
        v->logp_difference += s->logp_difference; v->logp_tokens += s->logp_tokens;
        if (!(s->logp_largest <= v->logp_largest)) v->logp_largest = s->logp_largest;
    }
    if (ok && s->comm.rank == 0) {
        json_t *tasks = json_object_get(v->results, "tasks"), *entry = eval_entry(v, t, json_object_get(tasks, t->task->name), e);
        ok = *on = entry != NULL;
        if (ok && !o->a.quiet) {
            TaskResult x;
            Error inner;
            char notes[512] = "";
            bool read = task_result_read(t->task->name, entry, t->task->name, &x, &inner);
            if (read) outcomes_note(&x, notes, sizeof notes);
            fprintf(stderr, "%s: %s ", t->task->name, json_string_value(json_object_get(entry, "metric")));
            if (read && isfinite(x.score.value)) fprintf(stderr, "%s +- %s", shown(x.score.value, 4).text, shown(x.score.error, 4).text);
            else fprintf(stderr, t->task->metric == METRIC_JUDGE ? "comes from eval judge" : "has no value");
            if (read) task_result_free(&x);
            fprintf(stderr, ", %" PRId64 " rows%s%s", t->n, *notes ? ", " : "", notes);
            if (t->skipped[SKIP_TOO_LONG]) fprintf(stderr, ", %" PRId64 " of them too long to be asked", t->skipped[SKIP_TOO_LONG]);
            if (t->n > s->file.resumed) fprintf(stderr, ", %" PRId64 " new ones", t->n - s->file.resumed);
            if (t->n > s->file.resumed && s->seconds > 0) fprintf(stderr, " in %.1f s, %.1f rows/s, %.1f new tok/s", s->seconds, (double)(t->n - s->file.resumed) / s->seconds, (double)s->new_tokens / s->seconds);
            fputc('\n', stderr);
        }
        if (ok) json_object_set_new(tasks, t->task->name, entry);
        ok = *on = ok && eval_results_write(v, e);
    }
    bool all = comm_agree(&s->comm, ok, e, t->task->name);
    int64_t go[2] = {*on, 0};
    comm_sum_i64(&s->comm, go, 1, "whether to go on");
    *on = go[0] == s->comm.size;
    return all;
}

FN bool eval_complain(EvalRun *v, const Error *e, Error *out) {   // what is wrong with a task costs that task; with --strict the run
    v->failed++;
    if (v->o->strict) { *out = *e; return false; }
    if (v->run.comm.rank == 0) fprintf(stderr, "%s: error: %s\n", program_name, e->text);
    return true;
}

// A second rank has nothing to add to what docs_load says of bad rows
FN int silence_begin(const Run *s) {
    int keep = s->comm.rank == 0 ? -1 : dup(2), nowhere = keep < 0 ? -1 : open("/dev/null", O_WRONLY);
    if (nowhere >= 0) { dup2(nowhere, 2); close(nowhere); }
    return keep;
}
FN void silence_end(int keep) { if (keep >= 0) { dup2(keep, 2); close(keep); } }

// The tasks that were asked for; those whose data is not there are named and left out
FN bool eval_find_tasks(EvalRun *v, Error *e) {
    const EvalOptions *o = v->o;
    char *standard = o->tasks_dir ? NULL : tasks_directory();
    const char *dir = o->tasks_dir ? o->tasks_dir : standard;
    Buffer without = {NULL, 0, 0};
    TaskList all = {NULL, 0};
    Error *lost = NULL;   // of tasks that were named and cannot be asked
    int num_lost = 0;
    bool ok = true, needs_dir = false;
    for (int i = 0; i < o->tasks.n; i++) needs_dir = needs_dir || !is_json_path(o->tasks.items[i]);
    int keep = silence_begin(&v->run);
    if (needs_dir) ok = tasks_read(dir, &all, e);
    silence_end(keep);
    for (int i = 0; ok && i < o->tasks.n; i++) {
        Error inner;
        if (!tasks_take(&all, dir, o->tasks.items[i], &v->list, &inner)) ok = eval_complain(v, &inner, e);
    }
    tasks_free(&all);
    free(standard);
    v->tasks = (TaskRun *)xcalloc(v->list.n, sizeof(TaskRun));
    for (int k = 0; ok && k < v->list.n; k++) {
        const Task *task = &v->list.items[k];
        TaskRun *t = &v->tasks[v->num_tasks];
        char *data = task_data(task, o->data);
        bool there = file_exists(data), known = !o->pixiu || task->pixiu != PIXIU_NONE;
        if (!there || !known) {
            bool by_suite = false;   // of a whole suite what is there is taken; what was named is wanted
            for (int i = 0; i < o->tasks.n; i++) by_suite = by_suite || strcasecmp(o->tasks.items[i], "all") == 0 || task_suite(task, o->tasks.items[i]);
            if (by_suite && !o->strict) {
                if (without.len) add_text(&without, ", ");
                add_text(&without, task->name);
                if (!known) add_text(&without, " (not in PIXIU's harness)");
                v->without_data++;
            } else {
                lost = (Error *)xrealloc(lost, num_lost + 1, sizeof(Error));
                fail(&lost[num_lost++], "%s: %s", there ? task->name : data, there ? "is not in PIXIU's harness ---> --pixiu-compat is for the leaderboard's tasks" : "is not there ---> data/fineval.py makes it, or is --data another directory?");
            }
            free(data);
            continue;
        }
        memset(t, 0, sizeof *t);
        t->task = task; t->data = data;
        t->samples = o->a.out ? xprintf("%s/samples_%s.jsonl", o->a.out, task->name) : NULL;
        t->suite = o->pixiu && task_suite(task, "openfinllm") ? "openfinllm" : NULL;
        for (int i = 0; i < o->tasks.n && !t->suite; i++) if (task_suite(task, o->tasks.items[i])) t->suite = o->tasks.items[i];
        v->num_tasks++;
    }
    if (ok && without.len && v->run.comm.rank == 0) warn("left out, without data in %s: %.*s", o->data, (int)without.len, without.data);
    buffer_free(&without);
    const bool none = v->num_tasks == 0 && !v->failed && num_lost > 0 && !o->strict;   // then the first of them is what the run ends with
    if (ok && v->num_tasks == 0 && !is_directory(o->data)) ok = fail(e, "--data %s: is %s ---> the directory with a file of rows for each task, as data/fineval.py makes it", o->data, file_exists(o->data) ? "a file, expected a directory" : "not there");
    for (int i = none; ok && i < num_lost; i++) ok = eval_complain(v, &lost[i], e);
    if (ok && none) ok = fail(e, "%s", lost[0].text);
    if (ok && v->num_tasks == 0) ok = fail(e, v->failed ? "no task is left that could be run" : "no data of any of the tasks is in %s ---> data/fineval.py makes it, or is --data another directory?", o->data);
    free(lost);
    return ok;
}

FN bool eval_prepare_all(EvalRun *v, Error *e) {
    int kept = 0;
    bool ok = true;
    for (int k = 0; ok && k < v->num_tasks; k++) {
        TaskRun *t = &v->tasks[k];
        Error inner;
        int keep = silence_begin(&v->run);
        bool good = eval_prepare(v, t, &inner);
        silence_end(keep);
        good = comm_agree(&v->run.comm, good, &inner, t->task->name);
        if (good) { TaskRun moved = *t; memset(t, 0, sizeof *t); v->tasks[kept++] = moved; continue; }
        task_run_free(t);
        memset(t, 0, sizeof *t);
        ok = eval_complain(v, &inner, e);
    }
    if (ok) v->num_tasks = kept;
    return ok && (kept > 0 || fail(e, "no task is left that could be run"));
}

// Collective
FN bool eval_run(EvalRun *v, int argc, char **argv, Error *e) {
    const EvalOptions *o = v->o;
    Run *s = &v->run;
    v->now_options = o->a;
    s->o = &v->now_options;
    s->user = v; s->line = eval_line; s->parts = eval_parts; s->part = eval_part; s->another = eval_another; s->skipped_have_lines = true; s->to_check = CHECKED_ROWS;
    if (!comm_agree(&s->comm, run_open_model(s, e) && eval_find_tasks(v, e), e, "reading the tasks")) return false;
    if (!o->no_template && s->chat == TEMPLATE_NONE) v->o->no_template = true;
    if (o->no_template && o->shots_as && strcmp(o->shots_as, "turns") == 0) return fail(e, "--shots-as turns wants a chat template, this model has none ---> give --template, or --shots-as text");
    if (eval_context(v) > s->config.max_position) return fail(e, "--context is %" PRId64 ", the model has %" PRId64 " positions", o->context, (int64_t)s->config.max_position);
    if (!eval_prepare_all(v, e) || !comm_agree(&s->comm, eval_room(v, e), e, "planning memory")) return false;
    if (!o->a.quiet) eval_print_plan(v);
    if (o->a.dry_run) return v->failed == 0 || fail(e, "%d tasks cannot be run, see above", v->failed);
    s->o->in = NULL;
    if (!run_same(s, argc, argv, e) || !comm_agree(&s->comm, s->comm.rank != 0 || (make_directory(o->a.out, e) && eval_results_begin(v, e)), e, "taking up --out")) return false;
    bool on = true;
    for (int k = 0; on && k < v->num_tasks; k++) {
        Error inner;
        // the model is made when the first row is asked, with room for all tasks
        if (eval_task(v, &v->tasks[k], &on, &inner)) continue;
        if (!on || !eval_complain(v, &inner, e)) { *e = inner; return false; }
    }
    const bool some = json_object_size(json_object_get(v->results, "tasks")) > 0;   // on rank 0, whose line is printed
    return v->failed == 0 || (some ? fail(e, "%d of the tasks could not be run, see above; the others are in %s/results.json", v->failed, o->a.out) : fail(e, "none of the tasks could be run, see above"));
}

FN void eval_run_free(EvalRun *v) {
    for (int k = 0; k < v->num_tasks; k++) task_run_free(&v->tasks[k]);
    free(v->tasks);
    tasks_free(&v->list);
    json_decref(v->results);
}

#endif
