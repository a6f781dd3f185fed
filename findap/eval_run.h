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

enum { CHECKED_ROWS = 8, MOST_SETS = 512 };   // rows of a task whose log-probs are computed a second time; different choices of a task that are asked for by their first token

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
    int num_choices;
    int64_t max_new;                // what there is room for
} EvalRow;

typedef struct {
    const Task *task;
    const char *suite;              // by which it was asked for; NULL: by its name
    char *data, *samples;           // files
    Doc *docs, *shots;
    int64_t n, bad, num_shots, max_new;
    bool cot;
    Item *items;                    // (n) with the prompts' ids
    EvalRow *rows;                  // (n)
    int64_t *order;                 // (n) longest first
    Stops stops;
    TokenSet *sets;                 // (num_sets) of all choices met, by their word
    int num_sets;
    Sample *samples_of;             // (n) on rank 0 of all rows in the end, elsewhere of its own
    bool *has_sample;
    signed char (*right_by)[2];     // (n) the most likely choice for its bytes, for its tokens, is the gold one; -1: not asked
    int64_t prompt_tokens, new_tokens, requests, longest, skipped[NUM_SKIP];
    Hash prompts;                   // of all that is asked
} TaskRun;

typedef struct {
    const EvalOptions *o;
    Run run;
    TaskList list;
    TaskRun *tasks;                 // (num_tasks) those that can be run, in order
    int num_tasks, failed, without_data;
    TaskRun *now;
    Room room;
    json_t *results;                // on rank 0
    double logp_difference, logp_largest, start;
    int64_t logp_tokens;
} EvalRun;

FN int64_t eval_context(const EvalRun *v) { return v->o->context > 0 ? v->o->context : v->run.config.max_position; }

// ---------------------------------------------------------------------------------------------------------------
// prompts

FN void eval_add_shots(const TaskRun *t, const Doc *d, bool pixiu, Buffer *b) {   // as text: question, blank, answer, empty line
    for (int64_t i = 0, used = 0; i < t->num_shots && used < t->task->shots; i++) {
        const Doc *s = &t->shots[i];
        if (text_equal(s->prompt, d->prompt)) continue;   // never its own answer
        bool blank = s->prompt.length > 0 && !chat_is_space((unsigned char)s->prompt.data[s->prompt.length - 1]) && !pixiu;
        Text target = doc_target(t->task, s);
        buffer_add(b, s->prompt.data, s->prompt.length);
        buffer_add(b, " ", blank);
        buffer_add(b, target.data, target.length);
        buffer_add(b, "\n\n", 2);
        used++;
    }
}
