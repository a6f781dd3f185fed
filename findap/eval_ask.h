// eval_ask.h: what a task asks of a model: prompts with system turn, examples and template, choices cut into tokens, and the room that all of it needs.
//
// A row is one request, or one for each choice: the prompt and the choice behind it, of which the log-probs are summed. Choices that differ in their last token alone, letters for
// instance, are read from one row of logits. The prompt's pages are shared in any case. Choices are tokenised as in lm-evaluation-harness: prompt and choice in one piece, cut where the
// prompt's own tokens end; white space at the prompt's end belongs to the choice, because tokens begin with it. Behind a template nothing has to be cut, and its last line break is scored
// with the choice, the same for all of them.
//
// Nothing is cut off a prompt silently: a row that does not fit is a line of its own, finish "too_long", and counts as truncated.
#ifndef FINDAP_EVAL_ASK_H
#define FINDAP_EVAL_ASK_H
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

// the examples that row d is shown, `shots` of them: never its own answer
FN int64_t eval_shots(const EvalRun *v, const TaskRun *t, const Doc *d, const Doc **out) {
    int64_t n = 0;
    for (int64_t i = 0; i < t->num_shots && n < t->shots_wanted; i++)
        if (!text_equal(eval_question(v, t, &t->shots[i]), eval_question(v, t, d))) out[n++] = &t->shots[i];
    return n;
}

// The prompt as one text: examples as question, blank, answer, empty line (PIXIU has no blank there; as lm-evaluation-harness there is one even if the question ends in white space); then the question, and what was said behind it and asked again
FN void eval_plain(const EvalRun *v, const TaskRun *t, const Doc *d, const Doc *const *shots, int64_t n, const Text *said, int num_said, Buffer *b) {
    for (int64_t i = 0; i < n; i++) {
        Text question = eval_question(v, t, shots[i]), target = doc_target(t->task, shots[i]);
        buffer_add(b, question.data, question.length);
        buffer_add(b, " ", !v->o->pixiu);
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
            if (!v->o->pixiu) add_text(&text, " ");   // behind white space too, which belongs to the choice: as lm-evaluation-harness has it
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
    // A base model, without a template, answers "positive" and goes on with a text and a question of its own: what it was asked for is one line, and there it is stopped
    bool one_line = task->extract == EXTRACT_LABEL || task->extract == EXTRACT_LETTER || task->extract == EXTRACT_NUMBER || task->extract == EXTRACT_FLOAT;
    t->stops.at_line_end = o->no_template && !o->pixiu && !t->cot && one_line && task->num_stop == 0;
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
    const Config *c = &v->run.config;
    double head = (double)c->vocab_size * (double)c->hidden_size, body = (double)config_num_parameters(c) - head * (c->tied_embeddings ? 1 : 2);   // the head counts only where something is asked, an embedding is looked up
    double behind = 0, asked = (double)t->n, batch = (double)v->run.room.batch, calls = (double)t->new_tokens / batch;
    for (int64_t i = 0; i < t->n; i++) for (int k = 0; t->rows[i].choices && k < t->rows[i].num_choices; k++) behind += (double)t->rows[i].choices[k].len;
    double a_call = 2 * (body + head) * batch / assumed_flops, reading = (body + head) * (double)(sizeof(float) / (assumed_flops > 1e14 ? 2 : 1)) / assumed_bytes;
    return (2 * body * ((double)t->prompt_tokens + behind) / assumed_flops + 2 * head * (asked + behind) / assumed_flops + calls * (a_call > reading ? a_call : reading)) / v->run.comm.size;
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

#endif
