// eval_run.h: a model over tasks: what each row asks, the run, what is kept, results.json.
//
//     task file, data rows -> prompts -> requests to the engine -> samples_TASK.jsonl -> scores -> results.json
//
// All tasks are read and all prompts rendered before a weight is: the plan is printed, and memory is taken once, for the longest row and the fullest batch of all. Tasks are then
// run one after the other, each longest row first; results.json is written anew after each, so a killed run has what it has finished. A task's samples file is its cache
// (answer_file.h): the same command goes on with the rows that are missing, and rows are scored again from what was said, so a better extractor needs no model.
//
// A row is one request, or one for each choice: the prompt and the choice behind it, of which the log-probs are summed. Choices that differ in their last token alone, letters for
// instance, are read from one row of logits. The prompt's pages are shared in any case. Choices are tokenised as in lm-evaluation-harness: prompt and choice in one piece, cut where the
// prompt's own tokens end; white space at the prompt's end belongs to the choice, because tokens begin with it. Behind a template nothing has to be cut, and its last line break is scored
// with the choice, the same for all of them.
//
// Nothing is cut off a prompt silently: a row that does not fit is a line of its own, finish "too_long", and counts as truncated.
#ifndef FINDAP_EVAL_RUN_H
#define FINDAP_EVAL_RUN_H
#include "answers.h"      // defines: Run, run_answers
#include "eval_score.h"   // defines: Task, Doc, Sample, sample_score, task_metrics
#include "stats.h"        // defines: proportion_estimate
#include <ctype.h>        // defines: tolower, toupper

enum { CHECKED_ROWS = 8, MOST_SETS = 512, TURN_TOKENS = 8 };   // rows of a task whose log-probs are computed a second time; different choices of a task that are asked for by their first token; by how much an answer's ends may tokenise differently in a conversation

typedef struct {
    Options a;                      // how the model is asked
    StringList tasks;
    const char *tasks_dir, *data, *shots_as, *label;
    int64_t shots, limit, max_new, context;   // -1: as the task says, all rows, as the task says, the model's
    double cache_gib;               // most memory for keys and values, 0: what the batch needs
    ScoreOptions score;
    bool no_template, pixiu, strict;
} EvalOptions;

typedef struct {
    Ids *choices;                   // (num_choices) of requests "choices": what comes behind the prompt
    TokenSet *sets;                 // (num_choices) of requests "next_token", and of choices that differ in the last token alone
    bool own_sets;                  // their ids are not those of choices
    int num_choices;
    int64_t max_new, positions;     // what there is room for; what all of it may fill
} EvalRow;

typedef struct {
    const Task *task;
    const char *suite;              // by which it was asked for; NULL: by its name
    char *data, *samples;           // files
    Doc *docs, *shots;
    int64_t n, bad, num_shots, shots_wanted, max_new;
    const char *system;             // NULL: none
    bool cot;
    RequestKind request;
    Item *items;                    // (n) with the prompts' ids
    EvalRow *rows;                  // (n)
    int64_t *order;                 // (n) longest first
    Stops stops;
    TokenSet *sets;                 // (num_sets) of all choices met, by their word
    int num_sets;
    Sample *samples_of;             // (n) on rank 0 of all rows in the end, elsewhere of its own
    signed char (*right_by)[2];     // (n) the most likely choice for its bytes, for its tokens, is the gold one; -1: not asked
    int64_t prompt_tokens, new_tokens, longest, skipped[NUM_SKIP];   // tokens of all prompts; of answers, at most
    Hash prompts, shots_hash;       // of all that is asked; of the examples' file
} TaskRun;

typedef struct {
    EvalOptions *o;
    Run run;
    TaskList list;
    TaskRun *tasks;                 // (num_tasks) those that can be run, in order
    int num_tasks, failed, without_data;
    TaskRun *now;
    Options now_options;
    json_t *results;                // on rank 0
    double logp_difference, logp_largest, start;
    int64_t logp_tokens;
} EvalRun;

FN char *task_data(const Task *t, const char *dir) { return t->file ? path_join(dir, t->file) : xprintf("%s/%s.jsonl", dir, t->name); }
FN int64_t eval_context(const EvalRun *v) { return v->o->context > 0 ? v->o->context : v->run.config.max_position; }

// ---------------------------------------------------------------------------------------------------------------
// prompts

FN Text eval_question(const EvalRun *v, const TaskRun *t, const Doc *d) {   // the leaderboard's harness knows no prompt but the row's "query"
    const json_t *query = v->o->pixiu ? json_at(d->row, t->task->fields[FIELD_QUERY]) : NULL;
    return json_is_string(query) ? text_make(json_string_value(query), (int64_t)json_string_length(query)) : d->prompt;
}
FN bool ends_in_space(Text t) {   // what Python calls white space
    Text trimmed = text_trim(t);
    return trimmed.data + trimmed.length < t.data + t.length;
}

// the examples that row d is shown, `shots` of them: never its own answer
FN int64_t eval_shots(const EvalRun *v, const TaskRun *t, const Doc *d, const Doc **out) {
    int64_t n = 0;
    for (int64_t i = 0; i < t->num_shots && n < t->shots_wanted; i++)
        if (!text_equal(eval_question(v, t, &t->shots[i]), eval_question(v, t, d))) out[n++] = &t->shots[i];
    return n;
}

// The prompt as one text: examples as question, blank, answer, empty line (PIXIU has no blank there); then the question, and what was said behind it and asked again
FN void eval_plain(const EvalRun *v, const TaskRun *t, const Doc *d, const Doc *const *shots, int64_t n, const Text *said, int num_said, Buffer *b) {
    for (int64_t i = 0; i < n; i++) {
        Text question = eval_question(v, t, shots[i]), target = doc_target(t->task, shots[i]);
        buffer_add(b, question.data, question.length);
        buffer_add(b, " ", !v->o->pixiu && !ends_in_space(question));
        buffer_add(b, target.data, target.length);
        buffer_add(b, "\n\n", 2);
    }
    Text question = eval_question(v, t, d);
    buffer_add(b, question.data, question.length);
    for (int i = 0; i < num_said; i++) {
        buffer_add(b, "\n\n", 2);
        buffer_add(b, said[i].data, said[i].length);
        buffer_add(b, "\n\n", 2);
        buffer_add(b, d->turns[i].data, d->turns[i].length);
    }
}

// What the model is shown, as a chat; said: its answers to the first turns, each of which is followed by the row's next turn
FN bool eval_chat(const EvalRun *v, const TaskRun *t, const Doc *d, const Text *said, int num_said, Ids *out, Error *e) {
    const Doc **shots = (const Doc **)xcalloc(t->shots_wanted, sizeof(Doc *));
    int64_t num_shots = eval_shots(v, t, d, shots);
    bool as_text = v->o->shots_as && strcmp(v->o->shots_as, "text") == 0;
    Message *m = (Message *)xcalloc(2 + 2 * (num_shots + num_said), sizeof(Message));
    Buffer text = {NULL, 0, 0};
    int n = 0;
    #define SAY(who, words) do { Text w_ = (words); m[n].role = (who); m[n].content = w_.data; m[n++].length = w_.length; } while (0)
    if (t->system) SAY("system", text_of(t->system));
    for (int64_t i = 0; i < num_shots && !as_text; i++) { SAY("user", eval_question(v, t, shots[i])); SAY("assistant", doc_target(t->task, shots[i])); }
    if (as_text) eval_plain(v, t, d, shots, num_shots, NULL, 0, &text);
    SAY("user", as_text ? text_make(text.data, text.len) : eval_question(v, t, d));
    for (int i = 0; i < num_said; i++) { SAY("assistant", said[i]); SAY("user", d->turns[i]); }
    #undef SAY
    bool ok = chat_render(v->run.tokenizer, v->run.chat, m, n, true, out, NULL, e);
    free(m); free(shots);
    buffer_free(&text);
    return ok;
}
FN Buffer eval_text(const EvalRun *v, const TaskRun *t, const Doc *d, const Text *said, int num_said) {   // ... and without a template
    const Doc **shots = (const Doc **)xcalloc(t->shots_wanted, sizeof(Doc *));
    int64_t num_shots = eval_shots(v, t, d, shots);
    Buffer b = {NULL, 0, 0};
    if (t->system) { add_text(&b, t->system); add_text(&b, "\n\n"); }
    eval_plain(v, t, d, shots, num_shots, said, num_said, &b);
    free(shots);
    return b;
}
FN void eval_encode(const EvalRun *v, const char *text, int64_t n, Ids *out) {   // with what the tokenizer puts before a text of its own accord
    if (tokenizer_prefix(v->run.tokenizer) >= 0) ids_add(out, tokenizer_prefix(v->run.tokenizer));
    tokenizer_encode(v->run.tokenizer, text, n, false, out);
}

FN bool eval_prompt(const EvalRun *v, const TaskRun *t, const Doc *d, const Text *said, int num_said, Ids *out, Error *e) {
    if (!v->o->no_template) return eval_chat(v, t, d, said, num_said, out, e);
    Buffer text = eval_text(v, t, d, said, num_said);
    eval_encode(v, text.data, text.len, out);
    buffer_free(&text);
    return true;
}

FN bool is_space_token(const Tokenizer *t, int32_t id) {   // of characters, all of them white space
    Buffer b = {NULL, 0, 0};
    tokenizer_decode(t, &id, 1, true, &b);
    bool space = b.len > 0 && text_trim(text_make(b.data, b.len)).length == 0;
    buffer_free(&b);
    return space;
}

// Prompt and choices of a request "choices": what is behind the prompt's ids differs from choice to choice
FN bool eval_choices(const EvalRun *v, const TaskRun *t, const Doc *d, Ids *prompt, EvalRow *row, Error *e) {
    const Tokenizer *tokenizer = v->run.tokenizer;
    row->num_choices = d->num_choices;
    row->choices = (Ids *)xcalloc(d->num_choices, sizeof(Ids));
    if (!v->o->no_template) {
        if (!eval_chat(v, t, d, NULL, 0, prompt, e)) return false;
        int64_t spaces = 0;
        while (spaces < prompt->len && is_space_token(tokenizer, prompt->data[prompt->len - 1 - spaces])) spaces++;
        prompt->len -= spaces;
        for (int k = 0; k < d->num_choices; k++) {
            for (int64_t i = 0; i < spaces; i++) ids_add(&row->choices[k], prompt->data[prompt->len + i]);
            tokenizer_encode(tokenizer, d->choices[k].data, d->choices[k].length, false, &row->choices[k]);
        }
    } else {
        Buffer text = eval_text(v, t, d, NULL, 0);
        Ids whole = {NULL, 0, 0};
        Text all = text_make(text.data, text.len), trimmed = text_trim(all);
        int64_t cut = trimmed.data + trimmed.length - all.data, length = text.len;
        eval_encode(v, text.data, cut, prompt);
        for (int k = 0; k < d->num_choices; k++) {
            text.len = length;
            if (cut == length && !v->o->pixiu) add_text(&text, " ");
            buffer_add(&text, d->choices[k].data, d->choices[k].length);
            whole.len = 0;
            eval_encode(v, text.data, text.len, &whole);
            for (int64_t i = prompt->len; i < whole.len; i++) ids_add(&row->choices[k], whole.data[i]);
        }
        ids_free(&whole);
        buffer_free(&text);
    }
    if (prompt->len == 0) ids_add(prompt, tokenizer_bos(tokenizer) >= 0 ? tokenizer_bos(tokenizer) : tokenizer_eos(tokenizer) >= 0 ? tokenizer_eos(tokenizer) : 0);   // the first token wants one before it
    const Ids *first = &row->choices[0];
    bool last_alone = d->num_choices > 1 && first->len > 0;
    for (int k = 1; k < d->num_choices && last_alone; k++) {
        const Ids *c = &row->choices[k];
        last_alone = c->len == first->len && memcmp(c->data, first->data, (size_t)(c->len - 1) * sizeof(int32_t)) == 0;
        for (int j = 0; j < k && last_alone; j++) last_alone = row->choices[j].data[c->len - 1] != c->data[c->len - 1];
    }
    if (!last_alone) return true;
    row->sets = (TokenSet *)xcalloc(d->num_choices, sizeof(TokenSet));
    for (int k = 0; k < d->num_choices; k++) { row->sets[k].ids.data = row->choices[k].data + first->len - 1; row->sets[k].ids.len = 1; }
    return true;
}

// The tokens with which `word` may begin: those that spell all of it, as genrm judge --mode yesno knows them; if there is none, the first tokens of its usual spellings
FN TokenSet eval_first_tokens(const Tokenizer *t, const char *word) {
    TokenSet set = token_set(t, word);
    Ids ids = {NULL, 0, 0};
    enum { AS_IT_IS, SMALL, CAPITAL, LARGE, NUM_CASES };
    for (int i = 0, found = set.ids.len > 0; i < 2 * NUM_CASES && !found; i++) {
        char *s = xprintf("%s%s", i % 2 ? " " : "", word), *first = s + i % 2;
        for (char *c = first; *c; c++) *c = (char)(i / 2 == SMALL || (i / 2 == CAPITAL && c > first) ? tolower((unsigned char)*c) : i / 2 == LARGE || i / 2 == CAPITAL ? toupper((unsigned char)*c) : *c);
        ids.len = 0;
        tokenizer_encode(t, s, (int64_t)strlen(s), false, &ids);
        bool there = ids.len == 0 || is_space_token(t, ids.data[0]);
        for (int64_t k = 0; k < set.ids.len && !there; k++) there = set.ids.data[k] == ids.data[0];
        if (!there) ids_add(&set.ids, ids.data[0]);
        free(s);
    }
    ids_free(&ids);
    return set;
}
FN bool eval_next_token(const EvalRun *v, TaskRun *t, const Doc *d, EvalRow *row, Error *e) {   // a row's sets: a choice's tokens with which no other choice begins
    int *of = (int *)xcalloc(d->num_choices, sizeof(int));
    bool ok = true;
    row->num_choices = d->num_choices;
    row->sets = (TokenSet *)xcalloc(d->num_choices, sizeof(TokenSet));
    row->own_sets = true;
    for (int k = 0; ok && k < d->num_choices; k++) {
        while (of[k] < t->num_sets && !text_equal(text_of(t->sets[of[k]].word), d->choices[k])) of[k]++;
        if (of[k] == MOST_SETS) ok = fail(e, "more than %d different choices, whose first tokens are asked for ---> \"request\": \"choices\" is made for that", MOST_SETS);
        if (!ok || of[k] < t->num_sets) continue;
        t->sets = (TokenSet *)xrealloc(t->sets, t->num_sets + 1, sizeof(TokenSet));
        t->sets[t->num_sets++] = eval_first_tokens(v->run.tokenizer, text_copy(d->choices[k]));
    }
    for (int k = 0; ok && k < d->num_choices; k++) {
        const TokenSet *all = &t->sets[of[k]];
        row->sets[k].word = all->word;
        for (int64_t i = 0; i < all->ids.len; i++) {
            bool tells = true;
            for (int j = 0; j < d->num_choices; j++) for (int64_t x = 0; j != k && x < t->sets[of[j]].ids.len; x++) tells = tells && t->sets[of[j]].ids.data[x] != all->ids.data[i];
            if (tells) ids_add(&row->sets[k].ids, all->ids.data[i]);
        }
        if (row->sets[k].ids.len == 0) ok = fail(e, "no token tells the choice \"%.60s\" from the others ---> \"request\": \"choices\" scores whole choices", all->word);
    }
    free(of);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// a task made ready: its rows, what they ask, and how much room that takes

FN int64_t eval_row_longest(const TaskRun *t, int64_t i) {   // positions of its longest request
    const EvalRow *row = &t->rows[i];
    int64_t behind = 0;
    for (int k = 0; row->choices && k < row->num_choices; k++) if (row->choices[k].len > behind) behind = row->choices[k].len;
    if (row->choices && row->sets) behind--;   // the last token is only looked up
    return t->items[i].ids.len + behind + (row->max_new > 0 ? row->max_new - 1 : 0);
}

FN bool eval_row(EvalRun *v, TaskRun *t, int64_t i, Error *e) {
    const Doc *d = &t->docs[i];
    Item *p = &t->items[i];
    EvalRow *row = &t->rows[i];
    int64_t context = eval_context(v), turns = 0;
    if (!(t->request == REQUEST_CHOICES ? eval_choices(v, t, d, &p->ids, row, e) : eval_prompt(v, t, d, NULL, 0, &p->ids, e) && (t->request != REQUEST_NEXT_TOKEN || eval_next_token(v, t, d, row, e)))) return false;
    p->row = json_object();
    row->positions = eval_row_longest(t, i);
    if (t->request == REQUEST_GENERATE) {
        if (d->num_turns) {   // all turns with empty answers, and room for these
            Ids ids = {NULL, 0, 0};
            Text *nothing = (Text *)xcalloc(d->num_turns, sizeof(Text));
            for (int k = 0; k < d->num_turns; k++) nothing[k] = text_of("");
            bool ok = eval_prompt(v, t, d, nothing, d->num_turns, &ids, e);
            turns = ids.len - p->ids.len + d->num_turns * (t->max_new + TURN_TOKENS);
            ids_free(&ids);
            free(nothing);
            if (!ok) return false;
        }
        int64_t left = context - p->ids.len + 1;
        row->max_new = left < 0 ? 0 : left < t->max_new ? left : t->max_new;
        row->positions = p->ids.len + row->max_new - 1 + turns;
        if (d->num_turns && row->positions > context) row->positions = context;
        if (left < 1) p->skip = SKIP_TOO_LONG;
    } else if (row->positions > context) p->skip = SKIP_TOO_LONG;
    t->skipped[p->skip]++;
    if (p->skip) { ids_free(&p->ids); return true; }
    t->prompt_tokens += p->ids.len;
    t->new_tokens += row->max_new * (1 + d->num_turns);
    t->longest = row->positions > t->longest ? row->positions : t->longest;
    return true;
}

FN int compare_lengths(const void *a, const void *b) {   // longest first, else as they stand
    const int64_t *x = (const int64_t *)a, *y = (const int64_t *)b;
    return x[0] != y[0] ? (x[0] > y[0] ? -1 : 1) : x[1] < y[1] ? -1 : x[1] > y[1];
}
FN void eval_order(TaskRun *t) {
    int64_t *pairs = (int64_t *)xcalloc(2 * t->n, sizeof(int64_t));
    t->order = (int64_t *)xcalloc(t->n, sizeof(int64_t));
    for (int64_t i = 0; i < t->n; i++) { pairs[2 * i] = t->rows[i].positions; pairs[2 * i + 1] = i; }
    qsort(pairs, (size_t)t->n, 2 * sizeof(int64_t), compare_lengths);
    for (int64_t i = 0; i < t->n; i++) t->order[i] = pairs[2 * i + 1];
    free(pairs);
}

// Examples: the first rows of the task's "shots_file", or of NAME_train.jsonl, NAME_dev.jsonl or NAME_valid.jsonl beside its data
FN bool eval_load_shots(EvalRun *v, TaskRun *t, Error *e) {
    static const char *const endings[] = {"train", "dev", "valid", NULL};
    int64_t bad = 0;
    char *path = t->task->shots_file ? path_join(v->o->data, t->task->shots_file) : NULL;
    for (int i = 0; !t->task->shots_file && endings[i] && !(path && file_exists(path)); i++) {
        const char *dot = strrchr(t->data, '.'), *slash = strrchr(t->data, '/');
        free(path);
        path = xprintf("%.*s_%s%s", (int)(dot && dot > slash ? dot - t->data : (int64_t)strlen(t->data)), t->data, endings[i], dot && dot > slash ? dot : "");
    }
    bool ok = file_exists(path) || fail(e, "%s: %" PRId64 " examples are wanted and %s is not there ---> put it there, or try --shots 0", t->task->name, t->shots_wanted, path);
    ok = ok && docs_load(t->task, path, t->cot, -1, 0, v->o->strict, &t->shots, &t->num_shots, &bad, e);
    if (ok && t->num_shots < t->shots_wanted) ok = fail(e, "%s: has %" PRId64 " rows, %" PRId64 " examples are wanted ---> try --shots %" PRId64, path, t->num_shots, t->shots_wanted, t->num_shots);
    if (ok) ok = hash_file(path, &t->shots_hash, e);
    free(path);
    return ok;
}

// hash of all that the model is going to be asked, so that no change of template, prompt or tokenizer goes unnoticed
FN void eval_hash_prompts(TaskRun *t) {
    XXH3_state_t *state = XXH3_createState();
    CHECK(state && XXH3_128bits_reset(state) == XXH_OK);
    for (int64_t i = 0; i < t->n; i++) {
        int64_t head[3] = {t->items[i].ids.len, t->rows[i].max_new, t->rows[i].num_choices};
        XXH3_128bits_update(state, head, sizeof head);
        XXH3_128bits_update(state, t->items[i].ids.data, (size_t)t->items[i].ids.len * sizeof(int32_t));
        for (int k = 0; k < t->rows[i].num_choices; k++) {
            const Ids *x = t->rows[i].choices ? &t->rows[i].choices[k] : &t->rows[i].sets[k].ids;
            XXH3_128bits_update(state, &x->len, sizeof x->len);
            XXH3_128bits_update(state, x->data, (size_t)x->len * sizeof(int32_t));
        }
    }
    t->prompts = hash_digest(XXH3_128bits_digest(state));
    XXH3_freeState(state);
}

FN bool eval_prepare(EvalRun *v, TaskRun *t, Error *e) {
    const EvalOptions *o = v->o;
    const Task *task = t->task;
    const char *mode = o->a.mode ? o->a.mode : json_string_value(json_object_get(task_suite(task, t->suite ? t->suite : ""), "mode"));
    t->cot = !o->pixiu && (mode ? strcmp(mode, "cot") == 0 : task->cot_mode);
    t->request = o->pixiu ? REQUEST_GENERATE : task->request;
    t->system = o->pixiu ? NULL : o->a.system ? o->a.system : task->system;
    t->shots_wanted = o->shots >= 0 ? o->shots : task->shots;
    t->max_new = t->request != REQUEST_GENERATE ? 0 : o->max_new > 0 ? o->max_new : o->pixiu ? task->pixiu_max_new : t->cot ? task->max_new_cot : task->max_new;
    t->stops = v->run.stops;
    t->stops.strings.items = o->pixiu ? NULL : task->stop;
    t->stops.strings.n = o->pixiu ? 0 : task->num_stop;
    if (!docs_load(task, t->data, t->cot, o->limit, (uint64_t)o->a.seed, o->strict, &t->docs, &t->n, &t->bad, e)) return false;
    if (t->shots_wanted && !eval_load_shots(v, t, e)) return false;
    t->items = (Item *)xcalloc(t->n, sizeof(Item));
    t->rows = (EvalRow *)xcalloc(t->n, sizeof(EvalRow));
    for (int64_t i = 0; i < t->n; i++) {
        Error inner;
        if (!eval_row(v, t, i, &inner)) return fail(e, "%s: row %" PRId64 ": %s", t->data, t->docs[i].number, inner.text);
    }
    t->samples_of = (Sample *)xcalloc(t->n, sizeof(Sample));
    t->right_by = (signed char (*)[2])xcalloc(t->n, sizeof *t->right_by);
    eval_order(t);
    eval_hash_prompts(t);
    return true;
}

FN void task_run_free(TaskRun *t) {
    for (int64_t i = 0; i < t->n; i++) {
        EvalRow *row = t->rows ? &t->rows[i] : NULL;
        for (int k = 0; row && k < row->num_choices; k++) {
            if (row->own_sets) ids_free(&row->sets[k].ids);
            if (row->choices) ids_free(&row->choices[k]);
        }
        if (row) { free(row->choices); free(row->sets); }
        if (t->items) { json_decref(t->items[i].row); ids_free(&t->items[i].ids); }
        if (t->samples_of) sample_free(&t->samples_of[i]);
    }
    for (int k = 0; k < t->num_sets; k++) { free((char *)t->sets[k].word); ids_free(&t->sets[k].ids); }
    docs_free(t->docs, t->docs ? t->n : 0);
    docs_free(t->shots, t->num_shots);
    free(t->data); free(t->samples); free(t->items); free(t->rows); free(t->order); free(t->sets); free(t->samples_of); free(t->right_by);
}

// ---------------------------------------------------------------------------------------------------------------
// the plan

FN int compare_falling_i64(const void *a, const void *b) { int64_t x = *(const int64_t *)a, y = *(const int64_t *)b; return x < y ? 1 : x > y ? -1 : 0; }

// Room for all tasks: the longest request, and pages for the `batch` requests that need most of them; --cache-gib may say fewer, then requests wait for one another
FN bool eval_room(EvalRun *v, Error *e) {
    int64_t n = 0, cap = 0, *pages = NULL;
    Room r = {1, 1, 1, 1};
    for (int k = 0; k < v->num_tasks; k++) {
        const TaskRun *t = &v->tasks[k];
        r.T = t->longest > r.T ? t->longest : r.T;
        for (int64_t i = 0; i < t->n; i++) {
            const EvalRow *row = &t->rows[i];
            int parts = row->choices && !row->sets ? row->num_choices : 1;
            if (n + parts > cap) pages = (int64_t *)xrealloc(pages, cap = 2 * cap + parts + 1024, sizeof(int64_t));
            for (int part = 0; part < parts && !t->items[i].skip; part++) pages[n++] = pages_for(row->positions);
        }
    }
    if (n) qsort(pages, (size_t)n, sizeof(int64_t), compare_falling_i64);
    r.batch = v->o->a.batch < n ? v->o->a.batch : n > 0 ? n : 1;
    r.B = ((r.batch > CALL_TOKENS ? r.batch : CALL_TOKENS) + r.T - 1) / r.T;
    for (int64_t i = 0; i < r.batch && i < n; i++) r.pages += pages[i];
    free(pages);
    int64_t page_bytes = model_pages_bytes(&v->run.config, 1), least = pages_for(r.T) + 1;
    double most = v->o->cache_gib * 1073741824.0 / (double)page_bytes;
    if (v->o->cache_gib > 0 && most < (double)least) return fail(e, "--cache-gib is %g, the longest row alone needs %.3g ---> give more, or a smaller --context", v->o->cache_gib, (double)(least * page_bytes) / 1073741824.0);
    if (v->o->cache_gib > 0 && most < (double)r.pages) r.pages = (int64_t)most;
    v->run.room = r;
    return true;
}

// What an H200 is good for, and a core of an ordinary processor: for an estimate before anything was measured
#ifdef __CUDACC__
static const double assumed_flops = 4e14, assumed_bytes = 3e12;
#else
static const double assumed_flops = 2e10, assumed_bytes = 1e10;
#endif
FN double eval_estimate(const EvalRun *v, const TaskRun *t) {   // seconds: prompts at the rate of the arithmetic, answers a token a call, each of which reads all weights
    double parameters = (double)config_num_parameters(&v->run.config), behind = 0, calls = (double)t->new_tokens / (double)v->run.room.batch;
    for (int64_t i = 0; i < t->n; i++) for (int k = 0; t->rows[i].choices && k < t->rows[i].num_choices; k++) behind += (double)t->rows[i].choices[k].len;
    double a_call = 2 * parameters * (double)v->run.room.batch / assumed_flops, reading = parameters * (double)(sizeof(float) / (assumed_flops > 1e14 ? 2 : 1)) / assumed_bytes;
    return (2 * parameters * ((double)t->prompt_tokens + behind) / assumed_flops + calls * (a_call > reading ? a_call : reading)) / v->run.comm.size;
}

FN void eval_print_plan(const EvalRun *v) {
    char plan[MODEL_PLAN_SIZE];
    const Run *s = &v->run;
    double MiB = 1048576.0, seconds = 0;
    int64_t bytes = model_memory_bytes(&s->config, v->run.room.B, v->run.room.T, false, &s->memory, plan), rows = 0, tokens = 0, fresh = 0;
    fprintf(stderr, "%-24s %8s %12s %9s %12s  %-10s %-6s %5s  %s\n", "task", "rows", "prompt tok", "longest", "new at most", "request", "mode", "shots", "about");
    for (int k = 0; k < v->num_tasks; k++) {
        const TaskRun *t = &v->tasks[k];
        double about = eval_estimate(v, t);
        fprintf(stderr, "%-24s %8" PRId64 " %12" PRId64 " %9" PRId64 " %12" PRId64 "  %-10s %-6s %5" PRId64 "  %.0f s", t->task->name, t->n, t->prompt_tokens, t->longest, t->new_tokens, request_names[t->request], t->cot ? "cot" : "direct", t->shots_wanted, about);
        if (t->skipped[SKIP_TOO_LONG]) fprintf(stderr, "; %" PRId64 " rows are too long", t->skipped[SKIP_TOO_LONG]);
        if (t->bad) fprintf(stderr, "; %" PRId64 " bad rows are left out", t->bad);
        fputc('\n', stderr);
        rows += t->n; tokens += t->prompt_tokens; fresh += t->new_tokens; seconds += about;
    }
    fprintf(stderr, "%d task%s, %" PRId64 " rows, %" PRId64 " prompt tokens, at most %" PRId64 " new ones, %s%s\n", v->num_tasks, v->num_tasks == 1 ? "" : "s", rows, tokens, fresh, v->o->no_template ? "no template" : "template ", v->o->no_template ? "" : chat_name(s->chat));
    fprintf(stderr, "memory: %.1f MiB (%s), %" PRId64 " pages of %d tokens %.1f MiB\n", (double)bytes / MiB, plan, v->run.room.pages, PAGE_TOKENS, (double)model_pages_bytes(&s->config, v->run.room.pages) / MiB);
    lora_print(&s->memory.lora);
    double parameters = (double)config_num_parameters(&s->config), most = (double)(tokens + fresh);
    if (v->o->a.dry_run) fprintf(stderr, "in all at most %.4g tokens, %.4g parameters, about %.3g FLOPs (2 x parameters x tokens); about %.0f s if every answer is as long as it may be, at %.3g FLOP/s and %.3g byte/s, which is a guess: a run prints its rate\n",
                                 most, parameters, 2 * most * parameters, seconds, assumed_flops, assumed_bytes);
}

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
    int64_t fresh = t->n - s->file.resumed;
    json_object_set_new(j, "mode", json_string(t->cot ? "cot" : "direct"));
    json_object_set_new(j, "request", json_string(request_names[t->request]));
    json_object_set_new(j, "shots", json_integer(t->shots_wanted));
    json_object_set_new(j, "max_new", json_integer(t->max_new));
    json_object_set_new(j, "too_long", json_integer(t->skipped[SKIP_TOO_LONG]));
    json_object_set_new(j, "data_hash", json_string(data.hex));
    json_object_set_new(j, "task_hash", json_string(task->hash.hex));
    json_object_set_new(j, "new_tokens", json_integer(s->new_tokens));
    json_object_set_new(j, "seconds", json_real(s->seconds));
    json_object_set_new(j, "rows_per_second", fresh > 0 && s->seconds > 0 ? json_real((double)fresh / s->seconds) : json_null());
    static const char *const times[] = {"seconds", "rows_per_second", "new_tokens"};
    for (int k = 0; k < 3 && before && fresh == 0; k++) if (json_object_get(before, times[k])) json_object_set(j, times[k], json_object_get(before, times[k]));
    if (json_object_get(j, "metrics")) eval_add_norms(t, json_object_get(j, "metrics"));
    return j;
}

FN void group_add(json_t *groups, const char *name, double score) {
    json_t *g = json_object_get(groups, name);
    if (!g) json_object_set_new(groups, name, g = json_pack("{s:f,s:i}", "mean", 0.0, "tasks", 0));
    double n = (double)json_integer_value(json_object_get(g, "tasks")), mean = json_number_value(json_object_get(g, "mean"));
    json_object_set_new(g, "mean", json_real((mean * n + score) / (n + 1)));
    json_object_set_new(g, "tasks", json_integer((json_int_t)n + 1));
}
// plain means over tasks whose score is better when higher: of a domain and novelty, of a capability, of a leaderboard's category
FN json_t *eval_groups(const json_t *tasks) {
    json_t *groups = json_object();
    const char *name;
    json_t *t;
    json_object_foreach((json_t *)tasks, name, t) {
        static const char *const keys[] = {"domain", "novelty", "capability", "category"};
        const char *x[4];
        const json_t *score = json_object_get(t, "score");
        for (int k = 0; k < 4; k++) { x[k] = json_string_value(json_object_get(t, keys[k])); if (!x[k]) x[k] = ""; }
        if (!json_is_number(score) || json_is_false(json_object_get(t, "higher_is_better"))) continue;
        char *group[3] = {xprintf("%s %s", x[0], x[1]), xprintf("capability %s", x[2]), xprintf("category %s", x[3])};
        if (*x[0] && *x[1]) group_add(groups, group[0], json_number_value(score));
        if (*x[2]) group_add(groups, group[1], json_number_value(score));
        if (*x[3]) group_add(groups, group[2], json_number_value(score));
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
    if (ok && file_exists(path)) ok = (before = json_parse_file(path, 1 << 28, e)) != NULL;
    for (int k = 0; ok && before && k < 4; k++)
        if (!json_equal(json_object_get(before, same[k]), json_object_get(v->results, same[k]))) {
            char *a = json_dumps(json_object_get(before, same[k]), JSON_ENCODE_ANY | JSON_COMPACT), *b = json_dumps(json_object_get(v->results, same[k]), JSON_ENCODE_ANY | JSON_COMPACT);
            ok = fail(e, "%s: is of another run: \"%s\" is %.300s, here %.300s ---> give the same model and settings, or another --out", path, same[k], a ? a : "missing", b);
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
    json_t *identity = json_pack("{s:s,s:s,s:s,s:s,s:s,s:b,s:I,s:s,s:I,s:I,s:b}", "format", "findap-eval-samples-1", "task", t->task->name, "task_hash", t->task->hash.hex, "prompts_hash", t->prompts.hex, "mode", t->cot ? "cot" : "direct",
                                 "template", !o->no_template, "shots", (json_int_t)t->shots_wanted, "shots_hash", t->shots_hash.hex, "limit", (json_int_t)o->limit, "context", (json_int_t)eval_context(v), "pixiu_compat", o->pixiu);
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
            const json_t *score = json_object_get(entry, "score"), *error = json_object_get(entry, "stderr");
            fprintf(stderr, "%s: %s %.4f +- %.4f, %" PRId64 " rows", t->task->name, json_string_value(json_object_get(entry, "metric")), json_is_number(score) ? json_number_value(score) : NAN, json_is_number(error) ? json_number_value(error) : NAN, t->n);
            if (t->n > s->file.resumed) fprintf(stderr, ", %" PRId64 " new ones in %.1f s, %.1f rows/s, %.1f new tok/s", t->n - s->file.resumed, s->seconds, (double)(t->n - s->file.resumed) / s->seconds, (double)s->new_tokens / s->seconds);
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

// The tasks that were asked for; those whose data is not there are named and left out
FN bool eval_find_tasks(EvalRun *v, Error *e) {
    const EvalOptions *o = v->o;
    char *standard = o->tasks_dir ? NULL : tasks_directory();
    Buffer without = {NULL, 0, 0};
    bool ok = true;
    for (int i = 0; ok && i < o->tasks.n; i++) {
        StringList one = {&o->tasks.items[i], 1};
        TaskList found = {NULL, 0};
        Error inner;
        if (!tasks_find(o->tasks_dir ? o->tasks_dir : standard, &one, &found, &inner)) { ok = eval_complain(v, &inner, e); continue; }
        v->list.items = (Task *)xrealloc(v->list.items, v->list.n + found.n, sizeof(Task));
        for (int k = 0; k < found.n; k++) {
            bool known = false;
            for (int j = 0; j < v->list.n; j++) known = known || strcmp(v->list.items[j].name, found.items[k].name) == 0;
            if (known) { task_free(&found.items[k]); continue; }
            v->list.items[v->list.n++] = found.items[k];
        }
        free(found.items);
    }
    free(standard);
    v->tasks = (TaskRun *)xcalloc(v->list.n, sizeof(TaskRun));
    for (int k = 0; ok && k < v->list.n; k++) {
        const Task *task = &v->list.items[k];
        TaskRun *t = &v->tasks[v->num_tasks];
        char *data = task_data(task, o->data);
        bool there = file_exists(data), known = !o->pixiu || task->pixiu != PIXIU_NONE;
        if (!there || !known) {
            if (without.len) add_text(&without, ", ");
            add_text(&without, task->name);
            if (!known) add_text(&without, " (not in PIXIU's harness)");
            v->without_data++;
            if (o->strict) ok = fail(e, "%s: %s", there ? task->name : data, there ? "is not in PIXIU's harness" : "is not there ---> data/fineval.py makes it; without --strict the task is left out");
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
    if (ok && without.len && v->run.comm.rank == 0 && !o->a.quiet) fprintf(stderr, "left out, without data in %s: %.*s\n", o->data, (int)without.len, without.data);
    buffer_free(&without);
    if (ok && v->num_tasks == 0) ok = fail(e, v->failed ? "no task is left that could be run" : "no data of any of the tasks is in %s ---> data/fineval.py makes it, or is --data another directory?", o->data);
    return ok;
}

// A second rank has nothing to add to what docs_load says of bad rows
FN int silence_begin(const Run *s) {
    int keep = s->comm.rank == 0 ? -1 : dup(2), nowhere = keep < 0 ? -1 : open("/dev/null", O_WRONLY);
    if (nowhere >= 0) { dup2(nowhere, 2); close(nowhere); }
    return keep;
}
FN void silence_end(int keep) { if (keep >= 0) { dup2(keep, 2); close(keep); } }

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
    return v->failed == 0 || fail(e, "%d of the tasks could not be run, see above; the others are in %s/results.json", v->failed, o->a.out);
}

FN void eval_run_free(EvalRun *v) {
    for (int k = 0; k < v->num_tasks; k++) task_run_free(&v->tasks[k]);
    free(v->tasks);
    tasks_free(&v->list);
    json_decref(v->results);
}

#endif
