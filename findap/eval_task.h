// eval_task.h: what is asked, as data. A task is one JSON file (data/tasks/NAME.json): which fields of a row make the prompt, what the answer may be, how it is read
// and which number is shown. A new task needs no C. Both a task and its rows come from outside: whatever is wrong with them is one line, and a bad row costs that row only.
//
// A task file's keys stand in task_keys below, each checked; a key that nobody reads is an error. Data rows are FLARE's {"id","query","answer","text","choices","gold","label",
// "token"}, or what "fields" maps onto these names ("a.b" goes into objects, "a.0.b" into arrays); {"id","conversations":[{"from","value"},...]} is read too, as query and answer.
#ifndef FINDAP_EVAL_TASK_H
#define FINDAP_EVAL_TASK_H
#include "flags.h"   // defines: StringList
#include "json.h"    // defines: json_parse, json_get_*, json_only_keys
#include "text.h"    // defines: Text

typedef enum { REQUEST_GENERATE, REQUEST_CHOICES, REQUEST_NEXT_TOKEN, NUM_REQUESTS } RequestKind;
FN const char *const request_names[NUM_REQUESTS] = {"generate", "choices", "next_token"};

typedef enum { EXTRACT_LABEL, EXTRACT_LETTER, EXTRACT_NUMBER, EXTRACT_FLOAT, EXTRACT_ENTITIES, EXTRACT_TAGS, EXTRACT_RELATIONS, EXTRACT_SUMMARY, EXTRACT_SENTENCES, EXTRACT_TEXT, EXTRACT_JUDGE, NUM_EXTRACTS } ExtractKind;
FN const char *const extract_names[NUM_EXTRACTS] = {"label", "letter", "number", "float", "entities", "tags", "relations", "summary", "sentences", "text", "judge"};

// acc_norm: the most likely choice by log-likelihood per character (requests "choices" only)
typedef enum { METRIC_ACC, METRIC_ACC_NORM, METRIC_WEIGHTED_F1, METRIC_MACRO_F1, METRIC_MICRO_F1, METRIC_AVG_F1, METRIC_MCC, METRIC_ENTITY_F1, METRIC_RELATION_F1, METRIC_ROUGE1, METRIC_ROUGE2, METRIC_ROUGEL, METRIC_EM,
    METRIC_NUMBER_STRICT, METRIC_NUMBER_ROUNDED, METRIC_NUMBER_RELAXED, METRIC_RMSE, METRIC_JUDGE, NUM_METRICS } Metric;
FN const char *const metric_names[NUM_METRICS] = {"acc", "acc_norm", "weighted_f1", "macro_f1", "micro_f1", "avg_f1", "mcc", "entity_f1", "relation_f1", "rouge1", "rouge2", "rougeL", "em",
    "number_strict", "number_rounded", "number_relaxed", "rmse", "judge"};

typedef enum { PIXIU_NONE, PIXIU_CLASSIFICATION, PIXIU_STOCK, PIXIU_CREDIT, PIXIU_HEADLINES, PIXIU_QA, PIXIU_TSA, PIXIU_NER, PIXIU_SEQUENCE, PIXIU_RELATION, PIXIU_ABSTRACTIVE, PIXIU_EXTRACTIVE, NUM_PIXIU } PixiuClass;
FN const char *const pixiu_names[NUM_PIXIU] = {"none", "classification", "stock", "credit", "headlines", "qa", "tsa", "ner", "sequence", "relation", "abstractive", "extractive"};

typedef enum { FIELD_QUERY, FIELD_ANSWER, FIELD_TEXT, FIELD_ID, FIELD_CHOICES, FIELD_GOLD, FIELD_TOKENS, FIELD_LABELS, FIELD_SUBSET, FIELD_TURNS, NUM_FIELDS } Field;
FN const char *const field_names[NUM_FIELDS] = {"query", "answer", "text", "id", "choices", "gold", "tokens", "labels", "subset", "turns"};
FN const char *const field_defaults[NUM_FIELDS] = {"query", "answer", "text", "id", "choices", "gold", "token", "label", "label_type", "turns"};

typedef struct { Text word; int label; } Keyword;   // a further spelling of a label

typedef struct {
    json_t *json;                    // the file; every string below is borrowed from it
    char *path;
    Hash hash;                       // of the file's bytes
    const char *name, *title, *describes, *capability, *novelty, *domain, *file, *shots_file, *prompt, *system, *cot;   // system, cot, shots_file: NULL where absent; never the others
    const char *fields[NUM_FIELDS];  // where each stands in a row
    int64_t version, max_new, max_new_cot, shots;
    RequestKind request;
    ExtractKind extract;
    Metric metric;
    bool letters, cot_mode;          // labels_are letters; mode is cot
    Text *choices;                   // (num_choices) fixed labels; 0: none, or the row's
    int num_choices;
    Keyword *keywords;               // (num_keywords)
    int num_keywords;
    const char **stop;               // (num_stop)
    int num_stop;
    PixiuClass pixiu;                // none: the harness has no such task
    int64_t pixiu_max_new;
    bool pixiu_lower;
} Task;

typedef struct { Task *items; int n; } TaskList;

typedef struct {
    json_t *row;                     // a reference of our own; what is borrowed below is borrowed from it
    int64_t number;                  // of the row in its file, from 0
    Text id, prompt, answer, text, subset;   // id: the row's number where it has none; answer: as written, of several the first; subset: empty where there is none
    Text *answers;                   // (num_answers) everything that counts as right, `answer` among them
    int num_answers;
    Text *choices;                   // (num_choices) what the answer may be: the labels, or "A", "B", .. when they are letters
    Text *options;                   // (num_choices) what stands behind a letter; the same as choices when labels are texts
    int num_choices;
    int gold;                        // index into choices, -1: none
    double gold_number;              // NAN: the gold answer is no number
    Text *tokens, *labels;           // (num_tokens), (num_labels): of entities, tags, sentences. Sentences' tokens are the lines of the text
    int num_tokens, num_labels;      // num_labels is 0 or num_tokens
    Text *turns;                     // (num_turns) what the user says later, behind the model's answers
    int num_turns;
    char **owned;                    // (num_owned)
    int num_owned;
} Doc;

// task_load reads and checks one file; task_from_json the same of a parsed one, whose reference it takes, also when it fails. `where` names it in errors
FN bool task_load(const char *path, Task *t, Error *e);
FN bool task_from_json(json_t *json, const char *where, Task *t, Error *e);
FN void task_free(Task *t);
// names: a task's name or alias (whatever the case), a suite ("fineval", "openfinllm"), "all", or a path that ends in .json. Each task comes once, suites in their "order", then by name
FN bool tasks_find(const char *dir, const StringList *names, TaskList *out, Error *e);
FN void tasks_free(TaskList *l);
FN const json_t *task_suite(const Task *t, const char *suite);   // {"metric", "published", "order", "category"} or NULL
FN bool metric_find(const char *name, Metric *m);
FN bool metric_higher_is_better(Metric m);   // all but rmse

// where: "file:line". False: one line in *e, nothing to free
FN bool doc_make(const Task *t, json_t *row, int64_t number, const char *where, bool cot, Doc *out, Error *e);
FN void doc_free(Doc *d);
FN Text doc_target(const Task *t, const Doc *d);   // what a perfect answer says: for examples (shots) and for the record
// Rows of a JSONL file or of one JSON array. limit < 0: all; else a seeded sample of so many rows, in the file's order. A bad row: its line on stderr (the first 20), counted in *bad
// and left out; strict: an error. No row left: an error.
FN bool docs_load(const Task *t, const char *path, bool cot, int64_t limit, uint64_t seed, bool strict, Doc **docs, int64_t *n, int64_t *bad, Error *e);
FN void docs_free(Doc *docs, int64_t n);

#endif
