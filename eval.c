// eval.c: what did the adaptation gain, what did it forget, is the difference real?
//
//     eval --model DIR --tasks fineval --data DIR --out DIR     a model over tasks: samples_TASK.jsonl, results.json, a table
//     eval tasks                                                the tasks that there are
//     eval score                                                scores of answers that somebody else made
//     eval judge                                                ratings of answers that no metric reads, by another model
//     eval compare | report | scaling | overlap                 of two runs; of all runs, as one page; of a series of runs; of training texts and test rows
//
// A task is a file (data/tasks/NAME.json): its prompt, how an answer is read, which number counts. What each part does stands in its header: eval_task.h, eval_doc.h, eval_extract.h,
// eval_score.h (and metrics.h, rouge.h, stats.h), eval_predictions.h, eval_ask.h, eval_run.h, eval_judge.h, eval_report.h, eval_compare.h, eval_overlap.h.
//
// Compiled twice: as CUDA over train_findap.cu (eval), as C over the CPU reference (eval_cpu).
#define FINDAP_LIBRARY          // the model, without its main()
#ifdef __CUDACC__
#include "train_findap.cu"
#else
#include "train_findap.c"
#endif
#include "findap/eval_compare.h"  // defines: eval_compare_main
#include "findap/eval_judge.h"    // defines: eval_judge_main
#include "findap/eval_overlap.h"  // defines: eval_overlap_main
#include "findap/eval_predictions.h" // defines: eval_score_main
#include "findap/eval_report.h"   // defines: eval_report_main
#include "findap/eval_run.h"      // defines: EvalRun, eval_run
#include "findap/eval_scaling.h"  // defines: eval_scaling_main

// ---------------------------------------------------------------------------------------------------------------
// the run

FN int eval_flags(EvalOptions *o, Flag *flags) {
    const Flag table[] = {
        {"--model", FLAG_STRING, &o->a.model, "DIR", "Hugging Face model directory", 0, 0, false},
        {"--tasks", FLAG_LIST, &o->tasks, "NAME", "tasks, suites (fineval, openfinllm), all, or task files, with blanks or commas between them; `eval tasks` lists them", 0, 0, false},
        {"--data", FLAG_STRING, &o->data, "DIR", "where the tasks' rows are (data/fineval.py makes them); tasks without are named and left out", 0, 0, false},
        {"--out", FLAG_STRING, &o->a.out, "DIR", "results.json, samples_TASK.jsonl; the same command goes on after a kill, other tasks are added", 0, 0, false},
        {"--tasks-dir", FLAG_STRING, &o->tasks_dir, "DIR", "where the task files are (default: data/tasks)", 0, 0, false},
        {"--label", FLAG_STRING, &o->label, "NAME", "what reports call this model, e.g. CPT+IT", 0, 0, false},
        {"--limit", FLAG_INT, &o->limit, "N", "only so many rows of each task, drawn by --seed; -1: all", -1, 4e18, false},
        {"--mode", FLAG_STRING, &o->a.mode, "MODE", "direct or cot, chain of thought (default: as the suite or the task says)", 0, 0, false},
        {"--max-new", FLAG_INT, &o->max_new, "N", "most tokens of an answer; -1: as the task says", -1, 1 << 20, false},
        {"--context", FLAG_INT, &o->context, "N", "most tokens of prompt and answer, a longer prompt is not asked and counts as truncated; -1: the model's positions", -1, 1 << 24, false},
        {"--shots", FLAG_INT, &o->shots, "N", "examples: the first rows of the task's shots_file, or of NAME_train, _dev or _valid beside its data; -1: as the task says", -1, 1000, false},
        {"--shots-as", FLAG_STRING, &o->shots_as, "HOW", "turns of the conversation, or text before the question (default: turns with a template)", 0, 0, false},
        {"--system", FLAG_STRING, &o->a.system, "TEXT", "system turn, instead of the task's", 0, 0, false},
        {"--no-template", FLAG_BOOL, &o->no_template, NULL, "plain text instead of a conversation, behind the BOS that the tokenizer itself would put there", 0, 0, false},
        {"--pixiu-compat", FLAG_BOOL, &o->pixiu, NULL, "as the leaderboard's harness does it, quirks included: plain \"query\", its caps, its scores", 0, 0, false},
        {"--stemmer", FLAG_BOOL, &o->score.stemmer, NULL, "ROUGE of stems instead of words", 0, 0, false},
        {"--bootstrap", FLAG_INT, &o->score.bootstrap, "N", "replicates for errors of what is no mean over rows; 0: as many as are cheap", 0, 1e7, false},
        {"--cache-gib", FLAG_DOUBLE, &o->cache_gib, "X", "most memory for keys and values; 0: what the batch needs, as far as the GPU has it", 0, 1e6, false},
        {"--strict", FLAG_BOOL, &o->strict, NULL, "a bad row, a bad task or missing data ends the run", 0, 0, false},
    };
    int n = add_flags(flags, 0, table, (int)(sizeof table / sizeof *table));
    n = flags_of_draws(&o->a, flags, n);
    n = flags_of_cuts(&o->a, flags, n);
    return flags_of_runs(&o->a, flags, n);
}

FN void split_at_commas(StringList *list, Buffer *copies) {   // "fpb,fomc" is two; copies: holds the pieces
    StringList out = {NULL, 0};
    int64_t length = 1;
    for (int i = 0; i < list->n; i++) length += (int64_t)strlen(list->items[i]) + 1;
    buffer_reserve(copies, length);
    for (int i = 0; i < list->n; i++) {
        char *word = copies->data + copies->len, *rest = NULL;
        buffer_add(copies, list->items[i], (int64_t)strlen(list->items[i]) + 1);
        for (char *w = file_exists(word) ? word : strtok_r(word, ",", &rest); w; w = rest ? strtok_r(NULL, ",", &rest) : NULL) {
            out.items = (const char **)xrealloc(out.items, out.n + 1, sizeof(char *));
            out.items[out.n++] = w;
        }
    }
    free(list->items);
    *list = out;
}

FN bool eval_check_flags(EvalOptions *o, Flag *flags, int n, Error *e) {
    static const char *const cuts[] = {"--top-k", "--top-p", "--min-p", NULL}, *const chat[] = {"--template", NULL}, *const own[] = {"--template", "--no-template", "--mode", "--system", "--shots-as", "--repetition-penalty", "--temperature", NULL};
    static const char *const printing[] = {"--quiet", "--label", "--bootstrap", "--stemmer", NULL};
    const char *missing = !o->a.model ? "--model" : o->tasks.n == 0 ? "--tasks" : !o->data ? "--data" : !o->a.out && !o->a.dry_run ? "--out" : NULL;
    if (missing) return fail(e, "%s is missing ---> see eval --help", missing);
    if (o->a.sampling.temperature == 0 && !flags_unused(flags, n, cuts, "--temperature 0 takes the most probable token", e)) return false;
    if (o->a.dry_run && !flags_unused(flags, n, printing, "--dry-run does nothing but print", e)) return false;
    if (o->pixiu && !flags_unused(flags, n, own, "--pixiu-compat does it as the leaderboard's harness does", e)) return false;
    if (o->no_template && !flags_unused(flags, n, chat, "--no-template", e)) return false;
    if (o->a.mode && strcmp(o->a.mode, "direct") != 0 && strcmp(o->a.mode, "cot") != 0) return fail(e, "--mode is \"%s\", expected direct or cot", o->a.mode);
    if (o->shots_as && strcmp(o->shots_as, "turns") != 0 && strcmp(o->shots_as, "text") != 0) return fail(e, "--shots-as is \"%s\", expected turns or text", o->shots_as);
    if (o->shots == 0 && !flag_unused(flags, n, "--shots-as", "--shots 0", e)) return false;
    if (o->no_template && o->shots_as && strcmp(o->shots_as, "turns") == 0) return fail(e, "--shots-as turns has no effect here: --no-template ---> remove one of them");
    if (o->max_new == 0 || o->limit == 0) return fail(e, "%s is 0, expected at least 1 ---> to leave it to the task: -1", o->limit == 0 ? "--limit" : "--max-new");
    if (o->pixiu) o->no_template = true;
    o->score.pixiu = o->pixiu; o->score.strict = o->strict; o->score.seed = (uint64_t)o->a.seed;
    return true;
}

FN int eval_run_main(int argc, char **argv) {
    EvalOptions o;
    EvalRun v;
    Flag flags[MAX_FLAGS];
    Error e;
    bool help = false;
    memset(&o, 0, sizeof o);
    memset(&v, 0, sizeof v);
    options_begin(&o.a);
    o.a.sampling.temperature = 0;
    o.shots = o.limit = o.max_new = o.context = -1;
    o.score = score_options_default();
    v.o = &o;
    v.run.o = &v.now_options;
    int n = eval_flags(&o, flags);
    Buffer names = {NULL, 0, 0};
    Comm *comm = &v.run.comm;
    bool ok = comm_begin(comm, 60, &e) && flags_parse(argc, argv, 1, flags, n, NULL, &help, &e);
    if (ok && help && comm->rank == 0)
        flags_help("eval --model DIR --tasks NAME... --data DIR --out DIR [flags]",
                   "A model over tasks. Answers go to OUT/samples_TASK.jsonl as they finish, scores with errors and baselines to OUT/results.json after each task; a table at the end, on stdout.\n"
                   "Other commands: eval tasks, score, judge, compare, report, scaling, overlap; `eval COMMAND --help` shows their flags.", flags, n);
    if (ok) split_at_commas(&o.tasks, &names);
    ok = comm_agree(comm, ok && (help || eval_check_flags(&o, flags, n, &e)), &e, "reading flags");
    bool print = comm->rank == 0;
    if (!print) o.a.quiet = true;
    if (ok && !help && !o.a.quiet) log_banner(FINDAP_DEVICE, argc, argv);
    if (ok && !help) ok = comm_agree(comm, eval_run(&v, argc, argv, &e), &e, "the end");
    Error inner;
    if (v.results && print && json_object_size(json_object_get(v.results, "tasks")) && !results_print(v.results, "results", stdout, &inner)) warn("%s", inner.text);
    fflush(stdout);
    if (v.logp_tokens && !o.a.quiet) fprintf(stderr, "log-probs of generation and training: %" PRId64 " tokens differ by %.1e on average, %.1e at most\n", v.logp_tokens, v.logp_difference / (double)v.logp_tokens, v.logp_largest);
    if (!ok && print) fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    eval_run_free(&v);
    run_free(&v.run);
    free(o.tasks.items);
    buffer_free(&names);
    comm_end(comm);
    return ok ? 0 : 1;
}

// ---------------------------------------------------------------------------------------------------------------
// the tasks

typedef struct { int64_t rows; } RowCount;
FN bool count_row(void *user, json_t *row, const char *where, int64_t number, Error *e) { (void)row; (void)where; (void)number; (void)e; ((RowCount *)user)->rows++; return true; }

FN int eval_tasks_main(int argc, char **argv) {
    const char *data = NULL, *tasks_dir = NULL;
    Flag flags[] = {
        {"--data", FLAG_STRING, &data, "DIR", "count the rows that are there", 0, 0, false},
        {"--tasks-dir", FLAG_STRING, &tasks_dir, "DIR", "where the task files are (default: data/tasks)", 0, 0, false},
    };
    Error e;
    StringList names = {NULL, 0};
    TaskList list = {NULL, 0};
    bool help = false, ok = flags_parse(argc, argv, 2, flags, 2, &names, &help, &e);
    if (ok && help) flags_help("eval tasks [NAME...] [flags]", "The tasks that there are: suites, metric, request, mode, and how many rows --data has of each.", flags, 2);
    static const char *all[] = {"all"};
    StringList wanted = {names.n ? names.items : all, names.n ? names.n : 1};
    char *standard = tasks_dir ? NULL : tasks_directory();
    ok = ok && (help || tasks_find(tasks_dir ? tasks_dir : standard, &wanted, &list, &e));
    if (ok && !help) printf("%-22s %8s  %-20s %-13s %-10s %-6s %-10s %s\n", "task", "rows", "suites", "metric", "request", "mode", "capability", "title");
    for (int i = 0; ok && i < list.n; i++) {
        const Task *t = &list.items[i];
        char suites[256] = "", rows[24] = "-", *path = data ? task_data(t, data) : NULL;
        const char *suite;
        json_t *x;
        json_object_foreach(json_object_get(t->json, "suites"), suite, x) snprintf(suites + strlen(suites), sizeof suites - strlen(suites), "%s%s", *suites ? "," : "", suite);
        RowCount count = {0};
        BadRows bad = {path, false, 0};
        if (path && file_exists(path)) {
            if (rows_each(path, count_row, &count, &bad, &e)) snprintf(rows, sizeof rows, "%" PRId64, count.rows);
            else { warn("%s", e.text); snprintf(rows, sizeof rows, "damaged"); }
        }
        printf("%-22s %8s  %-20s %-13s %-10s %-6s %-10s %s\n", t->name, rows, *suites ? suites : "-", metric_names[t->metric], request_names[t->request], t->cot_mode ? "cot" : "direct", t->capability, t->title);
        free(path);
    }
    if (!ok) fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    tasks_free(&list);
    free(standard); free(names.items);
    return ok ? 0 : 1;
}

// ---------------------------------------------------------------------------------------------------------------
// the program

FN int eval_main(int argc, char **argv) {
    static const struct { const char *name; int (*run)(int, char **); bool shifted; } commands[] = {   // shifted: argv[0] is to be the command's name
        {"tasks", eval_tasks_main, false},
        {"score", eval_score_main, true},
        {"judge", eval_judge_main, true},
        {"compare", eval_compare_main, true},
        {"report", eval_report_main, true},
        {"scaling", eval_scaling_main, true},
        {"overlap", eval_overlap_main, true},
    };
    program_name = "eval";
    sigbus_message();
    const char *command = argc > 1 ? argv[1] : "--help";
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) if (strcmp(command, commands[i].name) == 0) return commands[i].run(argc - commands[i].shifted, argv + commands[i].shifted);
    char *help[] = {argv[0], (char *)"--help", NULL};
    if (strncmp(command, "-", 1) == 0) return argc > 1 ? eval_run_main(argc, argv) : eval_run_main(2, help);
    Error e;
    fail(&e, "the command is \"%s\", expected tasks, score, judge, compare, report, scaling or overlap, or no command and --model ---> see eval --help", command);
    fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    return 1;
}

#ifndef EVAL_LIBRARY
int main(int argc, char **argv) { return eval_main(argc, argv); }
#endif
