// eval_task.h: what is asked, as data. A task is one JSON file (data/tasks/NAME.json): which fields of a row make the prompt, what the answer may be, how it is read
// and which number is shown. A new task needs no C. Both a task and its rows come from outside: whatever is wrong with them is one line, and a bad row costs that row only.
//
// A task file's keys stand in task_keys below, each checked; a key that nobody reads is an error. Data rows are FLARE's {"id","query","answer","text","choices","gold","label",
// "token"}, or what "fields" maps onto these names ("a.b" goes into objects, "a.0.b" into arrays); {"id","conversations":[{"from","value"},...]} is read too, as query and answer.
#ifndef FINDAP_EVAL_TASK_H
#define FINDAP_EVAL_TASK_H
#include "flags.h"   // defines: StringList
#include "json.h"    // defines: json_parse, json_get_*, json_only_keys
#include "verify.h"  // defines: Text, label_of, number_of, result_text
#include <dirent.h>  // defines: opendir, readdir

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
    double low, high;                // of floats: what the answer may be
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
    int *row_order;                  // (num_choices) indices into choices in the order in which the row lists them; NULL: the same
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


enum { TASK_MAX_CHOICES = 1000, TASK_MAX_LETTERS = 10, ROW_MAX_TOKENS = 1000000 };   // letters: A to J, what label_of knows
#define TASK_MAX_BYTES (1ll << 20)
#define ROW_MAX_BYTES (64ll << 20)      // of one line of data
#define ROWS_MAX_BYTES (4ll << 30)      // of one JSON array, which is in memory as a whole
#define ROWS_SHOWN 20                   // bad rows that get a line of their own
#define TASK_DEFAULT_COT "{prompt}\n\nThink it through step by step. End with one line that begins with \"Answer:\" and says your final answer and nothing else."

// what each kind of answer can be measured by; the first is the default
FN bool metric_applies(ExtractKind kind, Metric m) {
    static const uint32_t labels = 1u << METRIC_ACC | 1u << METRIC_ACC_NORM | 1u << METRIC_WEIGHTED_F1 | 1u << METRIC_MACRO_F1 | 1u << METRIC_MICRO_F1 | 1u << METRIC_AVG_F1 | 1u << METRIC_MCC;
    static const uint32_t rouges = 1u << METRIC_ROUGE1 | 1u << METRIC_ROUGE2 | 1u << METRIC_ROUGEL, exact = 1u << METRIC_ACC | 1u << METRIC_EM;
    static const uint32_t numbers = 1u << METRIC_NUMBER_STRICT | 1u << METRIC_NUMBER_ROUNDED | 1u << METRIC_NUMBER_RELAXED;
    static const uint32_t of_kind[NUM_EXTRACTS] = {labels, labels, exact | numbers, 1u << METRIC_RMSE, 1u << METRIC_ENTITY_F1 | rouges,
        1u << METRIC_ENTITY_F1 | 1u << METRIC_ACC | 1u << METRIC_WEIGHTED_F1 | 1u << METRIC_MACRO_F1, 1u << METRIC_RELATION_F1, rouges, rouges, exact | rouges, 1u << METRIC_JUDGE};
    return of_kind[kind] >> m & 1;
}
FN bool metric_find(const char *name, Metric *m) {
    for (int i = 0; i < NUM_METRICS; i++) if (strcmp(name, metric_names[i]) == 0) { *m = (Metric)i; return true; }
    return false;
}
FN bool metric_higher_is_better(Metric m) { return m != METRIC_RMSE; }

// ---------------------------------------------------------------------------------------------------------------
// a task file

FN void task_free(Task *t) {
    free(t->choices); free(t->keywords); free(t->stop); free(t->path);
    json_decref(t->json);
    memset(t, 0, sizeof *t);
}

// "a, b or c" of a table of names
FN const char *names_list(const char *const *names, int n, char *out, size_t size) {
    size_t o = 0;
    out[0] = 0;
    for (int i = 0; i < n && o < size; i++) o += (size_t)snprintf(out + o, size - o, "%s%s", i == 0 ? "" : i + 1 == n ? " or " : ", ", names[i]);
    return out;
}
// object[key] as an index into a table of names; a missing key leaves *out as it is when it is not required
FN bool json_get_name(const json_t *object, const char *key, const char *where, bool required, const char *const *names, int n, int *out, Error *e) {
    const char *s = NULL;
    char list[512];
    if (!json_get_string(object, key, where, required, &s, e)) return false;
    if (!s) return true;
    for (int i = 0; i < n; i++) if (strcmp(s, names[i]) == 0) { *out = i; return true; }
    return fail(e, "%s: \"%s\" is \"%s\", expected %s", where, key, s, names_list(names, n, list, sizeof list));
}
// object[key], a list of non-empty strings without NULs, borrowed; *n 0 where the key is missing
FN bool json_get_strings(const json_t *object, const char *key, const char *where, int64_t most, const char ***out, int *n, Error *e) {
    const json_t *list = json_object_get(object, key);
    *out = NULL;
    *n = 0;
    if (!list || json_is_null(list)) return true;
    if (!json_is_array(list)) return fail(e, "%s: \"%s\" is %s, expected a list of strings", where, key, json_type_name(list));
    if ((int64_t)json_array_size(list) > most) return fail(e, "%s: \"%s\" has %zu entries, expected at most %" PRId64, where, key, json_array_size(list), most);
    *out = (const char **)xcalloc((int64_t)json_array_size(list), sizeof(char *));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *s = json_array_get(list, i);
        bool good = json_is_string(s) && json_string_length(s) > 0 && strlen(json_string_value(s)) == json_string_length(s);
        if (!good) {
            free(*out);
            *out = NULL;
            return fail(e, "%s: \"%s\"[%zu] is %s, expected a string that is not empty", where, key, i, json_is_string(s) ? "empty or has a NUL character" : json_type_name(s));
        }
        (*out)[(*n)++] = json_string_value(s);
    }
    return true;
}

FN bool task_name_good(const char *s) {
    int64_t n = (int64_t)strlen(s);
    for (int64_t i = 0; i < n; i++) if (!(is_digit(s[i]) || (s[i] >= 'a' && s[i] <= 'z') || s[i] == '_' || s[i] == '-')) return false;
    return n > 0 && n <= 64;
}
// {name} marks a value, {{ and }} are braces. The next part of a template: text up to *end of what is there, then the value `name`; false: no more
FN bool template_next(Text t, int64_t *at, Buffer *text, Text *name, const char **wrong) {
    *wrong = NULL;
    *name = text_make("", -1);
    while (*at < t.length) {
        char c = t.data[*at];
        if ((c == '{' || c == '}') && text_at(t, *at + 1) == c) { buffer_add(text, &c, 1); *at += 2; continue; }
        if (c == '}') { *wrong = "has a } that closes nothing ---> a brace is written }}"; return false; }
        if (c != '{') { buffer_add(text, &c, 1); ++*at; continue; }
        int64_t close = text_find(t, text_of("}"), *at);
        if (close < 0) { *wrong = "has a { that is never closed ---> a brace is written {{"; return false; }
        *name = text_slice(t, *at + 1, close);
        *at = close + 1;
        if (name->length == 0 || name->length > 128 || memchr(name->data, '{', (size_t)name->length) || memchr(name->data, '\n', (size_t)name->length)) {
            *wrong = "has a {} without a field's name inside ---> a brace is written {{";
            return false;
        }
        return true;
    }
    return false;
}
FN bool template_check(const char *template_text, const char *needs, const char *where, const char *key, Error *e) {
    Buffer text = {NULL, 0, 0};
    Text name;
    const char *wrong;
    bool found = !needs;
    for (int64_t at = 0; template_next(text_of(template_text), &at, &text, &name, &wrong);) found = found || text_equal(name, text_of(needs));
    buffer_free(&text);
    if (wrong) return fail(e, "%s: \"%s\" %s", where, key, wrong);
    return found ? true : fail(e, "%s: \"%s\" has no {%s} ---> without it the model is not shown the question", where, key, needs);
}

FN int label_find(const Text *labels, int n, Text t) {   // whatever the case; -1: none
    for (int i = 0; i < n; i++) if (text_equal(labels[i], t)) return i;
    for (int i = 0; i < n; i++) if (text_same_wording(labels[i], t)) return i;
    return -1;
}

FN bool task_choices(Task *t, const char *where, Error *e) {
    const char **strings;
    int n;
    if (!json_get_strings(t->json, "choices", where, TASK_MAX_CHOICES, &strings, &n, e)) return false;
    t->choices = (Text *)xcalloc(n, sizeof(Text));
    bool ok = n != 1 || fail(e, "%s: \"choices\" has one entry, expected two or more", where);
    for (int i = 0; ok && i < n; i++) {
        int twice = label_find(t->choices, t->num_choices, text_of(strings[i]));
        if (twice >= 0) ok = fail(e, "%s: \"choices\" has \"%s\" twice", where, strings[i]);
        t->choices[t->num_choices++] = text_of(strings[i]);
    }
    free(strings);
    if (ok && t->letters && n > TASK_MAX_LETTERS) ok = fail(e, "%s: \"choices\" has %d entries, expected at most %d when labels are letters (A to J)", where, n, TASK_MAX_LETTERS);
    const json_t *keywords = json_object_get(t->json, "keywords");
    if (!ok || !keywords || json_is_null(keywords)) return ok;
    if (!json_is_object(keywords)) return fail(e, "%s: \"keywords\" is %s, expected an object {label: [spellings]}", where, json_type_name(keywords));
    const char *label;
    json_t *unused;
    json_object_foreach((json_t *)keywords, label, unused) {
        int index = label_find(t->choices, t->num_choices, text_of(label));
        if (index < 0) return fail(e, "%s: \"keywords\" speaks of \"%s\", which is none of \"choices\"", where, label);
        if (!json_get_strings(keywords, label, where, TASK_MAX_CHOICES, &strings, &n, e)) return false;
        t->keywords = (Keyword *)xrealloc(t->keywords, t->num_keywords + n + 1, sizeof(Keyword));
        for (int i = 0; i < n; i++) { t->keywords[t->num_keywords].word = text_of(strings[i]); t->keywords[t->num_keywords++].label = index; }
        free(strings);
    }
    return true;
}

FN bool task_suites(const Task *t, const char *where, Error *e) {
    const json_t *suites = json_object_get(t->json, "suites");
    if (!suites || json_is_null(suites)) return true;
    if (!json_is_object(suites)) return fail(e, "%s: \"suites\" is %s, expected an object", where, json_type_name(suites));
    const char *name, *who;
    json_t *suite, *value;
    static const char *const keys[] = {"metric", "published", "order", "category", "mode", NULL}, *const modes[] = {"direct", "cot"};
    json_object_foreach((json_t *)suites, name, suite) {
        char place[256];
        int64_t order = 0;
        int metric = (int)t->metric, mode = 0;
        const char *category = NULL;
        snprintf(place, sizeof place, "%s: \"suites\".\"%.64s\"", where, name);
        if (!task_name_good(name)) return fail(e, "%s is no name ---> small letters, digits, _ and -", place);
        if (!json_is_object(suite)) return fail(e, "%s is %s, expected an object", place, json_type_name(suite));
        if (!json_only_keys(suite, place, keys, e) || !json_get_name(suite, "metric", place, false, metric_names, NUM_METRICS, &metric, e) || !json_get_name(suite, "mode", place, false, modes, 2, &mode, e)
            || !json_get_int(suite, "order", place, false, 0, 1000000, &order, e) || !json_get_string(suite, "category", place, false, &category, e)) return false;
        if (!metric_applies(t->extract, (Metric)metric)) return fail(e, "%s: \"metric\" is \"%s\", which answers of kind \"%s\" do not have", place, metric_names[metric], extract_names[t->extract]);
        const json_t *published = json_object_get(suite, "published");
        if (published && !json_is_object(published)) return fail(e, "%s: \"published\" is %s, expected an object {who: score}", place, json_type_name(published));
        json_object_foreach((json_t *)published, who, value) if (!json_is_number(value)) return fail(e, "%s: \"published\".\"%s\" is %s, expected a number", place, who, json_type_name(value));
    }
    return true;
}

FN bool task_fill(Task *t, const char *where, Error *e) {
    static const char *const keys[] = {"name", "aliases", "title", "describes", "version", "suites", "capability", "novelty", "domain", "file", "shots_file", "fields", "request", "prompt", "system", "cot", "mode",
        "choices", "labels_are", "keywords", "extract", "metric", "max_new", "max_new_cot", "stop", "shots", "range", "pixiu", NULL};
    static const char *const capabilities[] = {"concept", "task", "reasoning", "chat"}, *const novelties[] = {"similar", "novel"}, *const domains[] = {"finance", "general"}, *const modes[] = {"direct", "cot"},
        *const labels_are[] = {"texts", "letters"}, *const pixiu_keys[] = {"class", "max_new", "lower", NULL};
    if (!json_is_object(t->json)) return fail(e, "%s: is %s, expected an object (a task)", where, json_type_name(t->json));
    int request = REQUEST_GENERATE, extract = 0, metric = -1, capability = 1, novelty = 1, domain = 0, mode = 0, letters = 0, n = 0;
    const char **strings = NULL;
    json_t *j = t->json;
    t->describes = "";
    t->prompt = "{query}";
    t->version = 1; t->max_new = 64; t->max_new_cot = 512; t->pixiu_max_new = 256; t->pixiu_lower = true;
    t->low = -INFINITY; t->high = INFINITY;
    if (!json_only_keys(j, where, keys, e) || !json_get_string(j, "name", where, true, &t->name, e)) return false;
    if (!task_name_good(t->name)) return fail(e, "%s: \"name\" is \"%s\", expected up to 64 small letters, digits, _ and -", where, t->name);
    t->title = t->name;
    if (!json_get_string(j, "title", where, false, &t->title, e) || !json_get_string(j, "describes", where, false, &t->describes, e) || !json_get_string(j, "file", where, false, &t->file, e)
        || !json_get_string(j, "shots_file", where, false, &t->shots_file, e) || !json_get_string(j, "prompt", where, false, &t->prompt, e) || !json_get_string(j, "system", where, false, &t->system, e)
        || !json_get_string(j, "cot", where, false, &t->cot, e)
        || !json_get_name(j, "capability", where, false, capabilities, 4, &capability, e) || !json_get_name(j, "novelty", where, false, novelties, 2, &novelty, e)
        || !json_get_name(j, "domain", where, false, domains, 2, &domain, e) || !json_get_name(j, "mode", where, false, modes, 2, &mode, e) || !json_get_name(j, "labels_are", where, false, labels_are, 2, &letters, e)
        || !json_get_name(j, "request", where, false, request_names, NUM_REQUESTS, &request, e) || !json_get_name(j, "extract", where, true, extract_names, NUM_EXTRACTS, &extract, e)
        || !json_get_name(j, "metric", where, false, metric_names, NUM_METRICS, &metric, e) || !json_get_int(j, "version", where, false, 1, 1000000, &t->version, e)
        || !json_get_int(j, "max_new", where, false, 1, 1000000, &t->max_new, e) || !json_get_int(j, "max_new_cot", where, false, 1, 1000000, &t->max_new_cot, e)
        || !json_get_int(j, "shots", where, false, 0, 1000, &t->shots, e)) return false;
    t->capability = capabilities[capability]; t->novelty = novelties[novelty]; t->domain = domains[domain];
    t->request = (RequestKind)request; t->extract = (ExtractKind)extract; t->letters = letters || t->extract == EXTRACT_LETTER; t->cot_mode = mode == 1;
    for (int m = 0; metric < 0; m++) if (metric_applies(t->extract, (Metric)m)) metric = m;
    t->metric = (Metric)metric;
    if (!metric_applies(t->extract, t->metric)) return fail(e, "%s: \"metric\" is \"%s\", which answers of kind \"%s\" do not have", where, metric_names[metric], extract_names[extract]);
    if (letters && t->extract != EXTRACT_LETTER) return fail(e, "%s: \"labels_are\" is \"letters\" while \"extract\" is \"%s\", expected \"letter\"", where, extract_names[extract]);
    bool labelled = t->extract == EXTRACT_LABEL || t->extract == EXTRACT_LETTER;
    if (t->request != REQUEST_GENERATE && !labelled) return fail(e, "%s: \"request\" is \"%s\", which needs \"extract\" label or letter, found \"%s\"", where, request_names[request], extract_names[extract]);
    if (t->metric == METRIC_ACC_NORM && t->request != REQUEST_CHOICES) return fail(e, "%s: \"metric\" is \"acc_norm\", which needs \"request\": \"choices\"", where);
    if (!template_check(t->prompt, NULL, where, "prompt", e) || (t->cot && !template_check(t->cot, "prompt", where, "cot", e))) return false;
    if (!json_get_strings(j, "aliases", where, 100, &strings, &n, e)) return false;
    free(strings);
    if (!json_get_strings(j, "stop", where, 16, &t->stop, &t->num_stop, e) || !task_choices(t, where, e) || !task_suites(t, where, e)) return false;
    if (t->keywords && t->letters) return fail(e, "%s: \"keywords\" has no effect where labels are letters ---> remove it", where);
    for (int f = 0; f < NUM_FIELDS; f++) t->fields[f] = field_defaults[f];
    const json_t *fields = json_object_get(j, "fields"), *range = json_object_get(j, "range"), *pixiu = json_object_get(j, "pixiu");
    if (fields && !json_is_object(fields)) return fail(e, "%s: \"fields\" is %s, expected an object {field: where it stands in a row}", where, json_type_name(fields));
    const char *known[NUM_FIELDS + 1] = {NULL};
    for (int f = 0; f < NUM_FIELDS; f++) known[f] = field_names[f];
    if (fields && !json_only_keys((json_t *)fields, where, known, e)) return false;
    for (int f = 0; fields && f < NUM_FIELDS; f++) if (!json_get_string(fields, field_names[f], where, false, &t->fields[f], e)) return false;
    if (range && !json_is_null(range)) {
        if (t->extract != EXTRACT_FLOAT || json_array_size(range) != 2 || !json_is_number(json_array_get(range, 0)) || !json_is_number(json_array_get(range, 1)))
            return fail(e, "%s: \"range\" is %s, expected [lowest, highest] of a task that extracts \"float\"", where, json_type_name(range));
        t->low = json_number_value(json_array_get(range, 0));
        t->high = json_number_value(json_array_get(range, 1));
        if (!(t->low < t->high)) return fail(e, "%s: \"range\" is [%g, %g], expected the lower number first", where, t->low, t->high);
    }
    if (!pixiu || json_is_null(pixiu)) return true;
    int class_index = 0;
    if (!json_is_object(pixiu)) return fail(e, "%s: \"pixiu\" is %s, expected an object", where, json_type_name(pixiu));
    if (!json_only_keys((json_t *)pixiu, where, pixiu_keys, e) || !json_get_name(pixiu, "class", where, true, pixiu_names, NUM_PIXIU, &class_index, e)
        || !json_get_int(pixiu, "max_new", where, false, 1, 1000000, &t->pixiu_max_new, e) || !json_get_bool(pixiu, "lower", where, false, &t->pixiu_lower, e)) return false;
    t->pixiu = (PixiuClass)class_index;
    static const int of_class[NUM_PIXIU] = {-1, EXTRACT_LABEL, EXTRACT_LABEL, EXTRACT_LABEL, EXTRACT_LABEL, -1, EXTRACT_FLOAT, EXTRACT_ENTITIES, EXTRACT_TAGS, EXTRACT_RELATIONS, EXTRACT_SUMMARY, EXTRACT_SENTENCES};
    bool fits = of_class[t->pixiu] < 0 || of_class[t->pixiu] == extract || (t->pixiu <= PIXIU_HEADLINES && extract == EXTRACT_LETTER);
    return fits ? true : fail(e, "%s: \"pixiu\".\"class\" is \"%s\" while \"extract\" is \"%s\", expected \"%s\"", where, pixiu_names[class_index], extract_names[extract], extract_names[of_class[class_index]]);
}

// task_load reads and checks one file; task_from_json the same of a parsed one, whose reference it takes, also when it fails. `where` names it in errors
FN bool task_from_json(json_t *json, const char *where, Task *t, Error *e) {
    memset(t, 0, sizeof *t);
    t->json = json;
    if (json && task_fill(t, where, e)) return true;
    task_free(t);
    return false;
}
FN bool task_load(const char *path, Task *t, Error *e) {
    Mapped m;
    memset(t, 0, sizeof *t);
    if (!map_file(path, &m, e)) return false;
    json_t *j = NULL;
    if (m.size > TASK_MAX_BYTES) fail(e, "%s: is %" PRId64 " bytes, expected at most %lld ---> is this a task file?", path, m.size, TASK_MAX_BYTES);
    else j = json_parse(path, (const char *)m.data, m.size, e);
    Hash hash = hash_bytes(m.data, m.size);
    unmap_file(&m);
    if (!j || !task_from_json(j, path, t, e)) return false;
    t->path = xstrdup(path);
    t->hash = hash;
    return true;
}

FN const json_t *task_suite(const Task *t, const char *suite) { return json_object_get(json_object_get(t->json, "suites"), suite); }   // {"metric", "published", "order", "category"} or NULL

FN void tasks_free(TaskList *l) {
    for (int i = 0; i < l->n; i++) task_free(&l->items[i]);
    free(l->items);
    memset(l, 0, sizeof *l);
}

FN bool task_is_called(const Task *t, const char *name) {   // its name or an alias, whatever the case
    if (strcasecmp(t->name, name) == 0) return true;
    const json_t *aliases = json_object_get(t->json, "aliases");
    for (size_t i = 0; i < json_array_size(aliases); i++) if (strcasecmp(json_string_value(json_array_get(aliases, i)), name) == 0) return true;
    return false;
}

FN int strings_compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
// the .json files of a directory, sorted; the caller frees them
FN bool json_files(const char *dir, char ***out, int *n, Error *e) {
    *out = NULL;
    *n = 0;
    DIR *d = opendir(dir);
    if (!d) return fail(e, "%s: cannot be read: %s ---> try --tasks-dir DIR", dir, strerror(errno));
    for (struct dirent *f; (f = readdir(d)) != NULL;) {
        size_t length = strlen(f->d_name);
        if (f->d_name[0] == '.' || length < 6 || strcmp(f->d_name + length - 5, ".json") != 0) continue;
        *out = (char **)xrealloc(*out, *n + 1, sizeof(char *));
        (*out)[(*n)++] = path_join(dir, f->d_name);
    }
    closedir(d);
    if (*n) qsort(*out, (size_t)*n, sizeof(char *), strings_compare);
    return true;
}

typedef struct { int64_t order; int index; } TaskOrder;
FN int task_order_compare(const void *a, const void *b) {
    const TaskOrder *x = (const TaskOrder *)a, *y = (const TaskOrder *)b;
    return x->order != y->order ? (x->order < y->order ? -1 : 1) : x->index < y->index ? -1 : x->index > y->index;
}

FN bool is_json_path(const char *name) { size_t n = strlen(name); return n > 5 && strcmp(name + n - 5, ".json") == 0; }
FN bool tasks_read(const char *dir, TaskList *all, Error *e) {   // every good task of a directory; a bad file is a warning, or it would cost the others
    char **files = NULL;
    int n = 0;
    bool found = json_files(dir, &files, &n, e);
    all->items = (Task *)xcalloc(n, sizeof(Task));
    for (int i = 0; i < n; i++) {
        Error bad;
        Task *t = &all->items[all->n];
        bool ok = task_load(files[i], t, &bad);
        for (int k = 0; ok && k < all->n; k++)
            if (task_is_called(&all->items[k], t->name) || task_is_called(t, all->items[k].name)) {
                ok = fail(&bad, "%s: \"%s\" is a name of %s too ---> names and aliases are given once", files[i], t->name, all->items[k].path);
                task_free(t);
            }
        all->n += ok;
        if (!ok) warn("left out: %s", bad.text);
        free(files[i]);
    }
    free(files);
    return found;
}

// names: a task's name or alias (whatever the case), a suite ("fineval", "openfinllm"), "all", or a path that ends in .json. Each task comes once, suites in their "order", then by name
FN bool tasks_find(const char *dir, const StringList *names, TaskList *out, Error *e) {
    TaskList all = {NULL, 0};
    bool ok = true, needs_dir = false;
    memset(out, 0, sizeof *out);
    for (int k = 0; k < names->n; k++) needs_dir = needs_dir || !is_json_path(names->items[k]);
    if (needs_dir) ok = tasks_read(dir, &all, e);
    bool *taken = (bool *)xcalloc(all.n, sizeof(bool));
    TaskOrder *order = (TaskOrder *)xcalloc(all.n, sizeof(TaskOrder));
    out->items = (Task *)xcalloc(all.n + names->n, sizeof(Task));
    for (int k = 0; ok && k < names->n; k++) {
        const char *name = names->items[k];
        if (is_json_path(name)) {
            Task *t = &out->items[out->n];
            ok = task_load(name, t, e);
            out->n += ok;
            for (int i = 0; ok && i + 1 < out->n; i++) if (strcmp(out->items[i].name, t->name) == 0) ok = fail(e, "%s: is called \"%s\", and so is another task that was asked for", name, t->name);
            continue;
        }
        int found = 0;
        char suite_name[66];   // one more than a name can have
        snprintf(suite_name, sizeof suite_name, "%s", name);
        for (char *c = suite_name; *c; c++) if (*c >= 'A' && *c <= 'Z') *c = (char)(*c | 32);
        for (int i = 0; i < all.n; i++) {
            const json_t *suite = task_suite(&all.items[i], suite_name), *at = json_object_get(suite, "order");
            if (strcasecmp(name, "all") != 0 && !suite && !task_is_called(&all.items[i], name)) continue;
            order[found].order = at ? (int64_t)json_integer_value(at) : INT64_MAX;
            order[found++].index = i;
        }
        if (found == 0) ok = fail(e, "there is no task or suite \"%s\" in %s, which has %d tasks ---> try `eval tasks`, or the path of a task file", name, dir, all.n);
        qsort(order, (size_t)found, sizeof *order, task_order_compare);
        for (int i = 0; i < found; i++) {
            if (!taken[order[i].index]) out->items[out->n++] = all.items[order[i].index];
            taken[order[i].index] = true;
        }
    }
    for (int i = 0; i < all.n; i++) if (!taken[i]) task_free(&all.items[i]);
    free(all.items); free(taken); free(order);
    if (!ok) tasks_free(out);
    return ok;
}

// data/tasks under the working directory, else one or two above the program's (build/x, build/sanitize/x); the caller frees it
FN char *tasks_directory(void) {
    char *here = xstrdup("data/tasks"), program[4096];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n < 0 ? 0 : n] = 0;
    for (int up = 0; up < 3 && !is_directory(here); up++) {
        char *slash = strrchr(program, '/');
        if (!slash) break;
        *slash = 0;
        free(here);
        here = path_join(program, "data/tasks");
    }
    return here;
}

// ---------------------------------------------------------------------------------------------------------------
// a data row

FN void doc_free(Doc *d) {
    json_decref(d->row);
    for (int i = 0; i < d->num_owned; i++) free(d->owned[i]);
    free(d->owned); free(d->answers); free(d->choices); free(d->options); free(d->row_order); free(d->tokens); free(d->labels); free(d->turns);
    memset(d, 0, sizeof *d);
}
FN void docs_free(Doc *docs, int64_t n) {
    for (int64_t i = 0; i < n; i++) doc_free(&docs[i]);
    free(docs);
}
FN Text doc_own(Doc *d, char *s, int64_t n) {
    d->owned = (char **)xrealloc(d->owned, d->num_owned + 1, sizeof(char *));
    d->owned[d->num_owned++] = s;
    return text_make(s, n);
}

// row["a"]["b"], row["a"][0] for "a.b", "a.0"; a key that has dots itself is found as well. NULL: not there, or null
FN const json_t *json_at(const json_t *row, const char *path) {
    const json_t *j = json_object_get(row, path);
    if (j) return json_is_null(j) ? NULL : j;
    char key[256];
    for (j = row; j && *path;) {
        size_t n = strcspn(path, ".");
        if (n == 0 || n >= sizeof key) return NULL;
        memcpy(key, path, n);
        key[n] = 0;
        path += n + (path[n] == '.');
        if (json_is_object(j)) j = json_object_get(j, key);
        else if (json_is_array(j) && strspn(key, "0123456789") == n && n < 10) j = json_array_get(j, (size_t)atoll(key));
        else j = NULL;
    }
    return j == row || json_is_null(j) ? NULL : j;
}

// A string as it is, a number as it is written in the fewest digits that read back the same
FN bool doc_text(Doc *d, const json_t *j, Text *out) {
    if (json_is_string(j)) { *out = text_make(json_string_value(j), (int64_t)json_string_length(j)); return true; }
    if (!json_is_number(j)) return false;
    char *s = NULL;
    if (json_is_integer(j)) s = xprintf("%" JSON_INTEGER_FORMAT, json_integer_value(j));
    for (int digits = 1; !s || (json_is_real(j) && digits <= 17 && strtod(s, NULL) != json_real_value(j)); digits++) { free(s); s = xprintf("%.*g", digits, json_real_value(j)); }
    *out = doc_own(d, s, (int64_t)strlen(s));
    return true;
}
FN bool doc_texts(Doc *d, const json_t *j, const char *where, const char *what, Text **out, int *n, Error *e) {
    if (!json_is_array(j)) return fail(e, "%s: \"%s\" is %s, expected a list", where, what, json_type_name(j));
    if (json_array_size(j) > INT32_MAX / 2) return fail(e, "%s: \"%s\" has too many entries", where, what);
    *out = (Text *)xcalloc((int64_t)json_array_size(j), sizeof(Text));
    for (size_t i = 0; i < json_array_size(j); i++)
        if (!doc_text(d, json_array_get(j, i), &(*out)[(*n)++])) return fail(e, "%s: \"%s\"[%zu] is %s, expected a string or a number", where, what, i, json_type_name(json_array_get(j, i)));
    return true;
}
FN void doc_split(Text t, bool lines, Text **out, int *n) {   // at white space, as Python's str.split(); or the lines, of those that are not empty
    int64_t size = 0, begin = -1, cap = 0;
    for (int64_t i = 0; i <= t.length; i += size ? size : 1) {
        size = 1;
        bool space = i == t.length || (lines ? t.data[i] == '\n' : chat_is_space(chat_code_point((const unsigned char *)t.data + i, t.length - i, &size)));
        if (!space && begin < 0) begin = i;
        if (!space || begin < 0) continue;
        if (*n == cap) *out = (Text *)xrealloc(*out, cap = cap ? 2 * cap : 64, sizeof(Text));
        Text part = text_slice(t, begin, i);
        if (!lines || text_trim(part).length) (*out)[(*n)++] = lines ? text_trim(part) : part;
        begin = -1;
    }
}

FN int doc_label(const Task *t, const Doc *d, Text s) {   // what a gold answer says: a choice, a letter, or what stands behind the letter; -1: none of them
    s = text_trim(s);
    int found = label_find(d->choices, d->num_choices, s);
    char letter = 0;
    if (found >= 0 || !t->letters) return found;
    if ((found = label_find(d->options, d->num_choices, s)) >= 0) return found;
    bool bare = s.length == 1 || strchr(".):,", text_at(s, 1)) || (s.data[0] == '(' && text_at(s, 2) == ')') || verify_kind_of(s) == VERIFY_CHOICE;
    return s.length && bare && label_of(s, true, &letter) == RESULT_ONE && letter - 'A' < d->num_choices ? letter - 'A' : -1;
}

// d->choices, d->options, d->row_order, of the task and of the row
FN bool doc_choices(const Task *t, Doc *d, const json_t *list, const char *where, Error *e) {
    Text *own = NULL;
    int n = 0;
    if (list && !doc_texts(d, list, where, t->fields[FIELD_CHOICES], &own, &n, e)) { free(own); return false; }
    if (!list && t->num_choices == 0) return fail(e, "%s: has no \"%s\", and the task has no choices either", where, t->fields[FIELD_CHOICES]);
    bool ok = true;
    d->num_choices = list && (t->letters || t->num_choices == 0) ? n : t->num_choices;
    if (d->num_choices < 2 || d->num_choices > (t->letters ? TASK_MAX_LETTERS : TASK_MAX_CHOICES))
        ok = fail(e, "%s: has %d choices, expected 2 to %d", where, d->num_choices, t->letters ? TASK_MAX_LETTERS : TASK_MAX_CHOICES);
    d->choices = (Text *)xcalloc(ok ? d->num_choices : 0, sizeof(Text));
    d->options = (Text *)xcalloc(ok ? d->num_choices : 0, sizeof(Text));
    static const char letters[] = "ABCDEFGHIJ";
    for (int i = 0; ok && i < d->num_choices; i++) {
        d->options[i] = own && (t->letters || t->num_choices == 0) ? own[i] : t->choices[i];
        d->choices[i] = t->letters ? text_make(letters + i, 1) : d->options[i];
        if (text_trim(d->options[i]).length == 0) ok = fail(e, "%s: choice %d is empty", where, i);
    }
    for (int i = 0; ok && !t->letters && t->num_choices == 0 && i < d->num_choices; i++)
        for (int k = 0; ok && k < i; k++) if (text_equal(d->choices[k], d->choices[i])) ok = fail(e, "%s: choice %d stands there twice", where, i);   // "Ff" and "ff" are two
    if (ok && own && !t->letters && t->num_choices) {   // the row lists the task's labels, perhaps in another order, perhaps not all
        d->row_order = (int *)xcalloc(d->num_choices, sizeof(int));
        bool *seen = (bool *)xcalloc(d->num_choices, sizeof(bool));
        int k = 0;
        for (int i = 0; ok && i < n; i++) {
            int index = label_find(d->choices, d->num_choices, text_trim(own[i]));
            if (index < 0 || seen[index]) ok = fail(e, "%s: its choice \"%.*s\" is %s", where, (int)(own[i].length < 64 ? own[i].length : 64), own[i].data, index < 0 ? "none of the task's" : "there twice");
            else { seen[index] = true; d->row_order[k++] = index; }
        }
        for (int i = 0; i < d->num_choices; i++) if (ok && !seen[i]) d->row_order[k++] = i;
        free(seen);
    }
    free(own);
    return ok;
}

FN bool doc_gold(const Task *t, Doc *d, const json_t *gold, const json_t *choices, const char *where, Error *e) {   // d->gold of a task with labels
    const char *key = t->fields[FIELD_GOLD];
    int by_answer = d->answer.length ? doc_label(t, d, d->answer) : -1, listed = choices ? (int)json_array_size(choices) : d->num_choices;
    d->gold = -1;
    Text s;
    if (gold && json_is_string(gold)) {
        doc_text(d, gold, &s);
        d->gold = doc_label(t, d, s);
        if (d->gold < 0 && (s.length == 0 || s.length > 4 || strspn(json_string_value(gold), "0123456789") != (size_t)s.length))
            return fail(e, "%s: \"%s\" is \"%.*s\", expected one of the %d choices", where, key, (int)(s.length < 64 ? s.length : 64), s.data, d->num_choices);
    }
    if (gold && d->gold < 0) {
        double index = json_is_string(gold) ? atof(json_string_value(gold)) : json_is_number(gold) ? json_number_value(gold) : NAN;
        if (isnan(index)) return fail(e, "%s: \"%s\" is %s, expected the index of a choice or its text", where, key, json_type_name(gold));
        if (!(index >= 0 && index < listed && index == floor(index))) return fail(e, "%s: \"%s\" is %g, expected 0 to %d, the index of a choice", where, key, index, listed - 1);
        d->gold = d->row_order ? d->row_order[(int)index] : (int)index;
    }
    if (d->gold >= 0 && by_answer >= 0 && by_answer != d->gold)
        return fail(e, "%s: \"%s\" is choice %d, \"%s\" is choice %d ---> which of them is right?", where, key, d->gold, t->fields[FIELD_ANSWER], by_answer);
    if (d->gold < 0) d->gold = by_answer;
    if (d->gold < 0 && d->answer.length) return fail(e, "%s: \"%s\" is \"%.*s\", expected one of the %d choices", where, t->fields[FIELD_ANSWER], (int)(d->answer.length < 64 ? d->answer.length : 64), d->answer.data, d->num_choices);
    if (d->gold < 0) return fail(e, "%s: has neither \"%s\" nor \"%s\": what is right?", where, key, t->fields[FIELD_ANSWER]);
    if (d->answer.length == 0) d->answer = d->options[d->gold];
    return true;
}

FN bool tag_good(Text t) { return (t.length == 1 && t.data[0] == 'O') || (t.length > 2 && t.data[1] == '-' && strchr("BIESLU", t.data[0])); }

// tokens and labels of entities, tags, sentences
FN bool doc_tokens(const Task *t, Doc *d, const json_t *tokens, const json_t *labels, bool answered, const char *where, Error *e) {
    bool sentences = t->extract == EXTRACT_SENTENCES;
    if (tokens && !doc_texts(d, tokens, where, t->fields[FIELD_TOKENS], &d->tokens, &d->num_tokens, e)) return false;
    if (!tokens) doc_split(d->text, sentences, &d->tokens, &d->num_tokens);
    if (labels && !doc_texts(d, labels, where, t->fields[FIELD_LABELS], &d->labels, &d->num_labels, e)) return false;
    if (!labels && sentences) doc_split(d->answer, true, &d->labels, &d->num_labels);
    if (t->extract == EXTRACT_ENTITIES && !labels && d->num_tokens <= ROW_MAX_TOKENS) return answered ? true : fail(e, "%s: has neither \"%s\" nor \"%s\": what is right?", where, t->fields[FIELD_LABELS], t->fields[FIELD_ANSWER]);   // read from the answer's lines
    if (d->num_tokens > ROW_MAX_TOKENS) return fail(e, "%s: has %d tokens, expected at most %d", where, d->num_tokens, ROW_MAX_TOKENS);
    if (d->num_tokens == 0) return fail(e, "%s: has neither \"%s\" nor \"%s\" ---> the labels need them", where, t->fields[FIELD_TOKENS], t->fields[FIELD_TEXT]);
    if (d->num_labels != d->num_tokens) return fail(e, "%s: has %d labels for %d %s", where, d->num_labels, d->num_tokens, sentences ? "lines of text" : "tokens");
    for (int i = 0; i < d->num_labels; i++) {
        d->labels[i] = text_trim(d->labels[i]);
        bool good = sentences ? text_equal(d->labels[i], text_of("0")) || text_equal(d->labels[i], text_of("1")) : tag_good(d->labels[i]);
        if (!good) return fail(e, "%s: label %d is \"%.*s\", expected %s", where, i, (int)(d->labels[i].length < 64 ? d->labels[i].length : 64), d->labels[i].data, sentences ? "0 or 1" : "O, or a type behind B- or I-");
    }
    return true;
}

FN bool doc_conversation(const json_t *list, const char *where, const json_t **query, const json_t **answer, Error *e) {   // FLARE's training rows: a question, an answer
    const json_t *first = json_array_get(list, 0), *second = json_array_get(list, 1), *from = json_object_get(first, "from");
    bool good = json_array_size(list) == 2 && json_is_string(from) && (strcmp(json_string_value(from), "human") == 0 || strcmp(json_string_value(from), "user") == 0);
    *query = json_object_get(first, "value");
    *answer = json_object_get(second, "value");
    return good && json_is_string(*query) && json_is_string(*answer) ? true : fail(e, "%s: \"conversations\" is not a question of \"human\" and an answer, each {\"from\", \"value\"}", where);
}

// everything but the prompt: what is right, and what the answer may be
FN bool doc_fill(const Task *t, json_t *row, int64_t number, const char *where, Doc *d, const json_t **query, Error *e) {
    const json_t *f[NUM_FIELDS];
    if (!json_is_object(row)) return fail(e, "%s: the row is %s, expected an object", where, json_type_name(row));
    d->row = json_incref(row);
    d->number = number;
    d->gold = -1;
    d->gold_number = NAN;
    d->id = d->prompt = d->answer = d->text = d->subset = text_of("");
    for (int i = 0; i < NUM_FIELDS; i++) f[i] = json_at(row, t->fields[i]);
    const json_t *conversation = json_object_get(row, "conversations");
    if (!f[FIELD_QUERY] && json_is_array(conversation) && !doc_conversation(conversation, where, &f[FIELD_QUERY], &f[FIELD_ANSWER], e)) return false;
    *query = f[FIELD_QUERY];
    if (!f[FIELD_TOKENS] && t->fields[FIELD_TOKENS] == field_defaults[FIELD_TOKENS]) f[FIELD_TOKENS] = json_at(row, "tokens");
    if (!f[FIELD_LABELS] && t->fields[FIELD_LABELS] == field_defaults[FIELD_LABELS]) f[FIELD_LABELS] = json_at(row, "labels");
    if (f[FIELD_ID] ? !doc_text(d, f[FIELD_ID], &d->id) : false) return fail(e, "%s: \"%s\" is %s, expected a string or a number", where, t->fields[FIELD_ID], json_type_name(f[FIELD_ID]));
    if (!f[FIELD_ID]) { char *s = xprintf("%" PRId64, number); d->id = doc_own(d, s, (int64_t)strlen(s)); }
    if (f[FIELD_TEXT] && !doc_text(d, f[FIELD_TEXT], &d->text)) return fail(e, "%s: \"%s\" is %s, expected a string", where, t->fields[FIELD_TEXT], json_type_name(f[FIELD_TEXT]));
    if (json_is_string(f[FIELD_SUBSET])) doc_text(d, f[FIELD_SUBSET], &d->subset);
    bool labelled = t->extract == EXTRACT_LABEL || t->extract == EXTRACT_LETTER, tagged = t->extract == EXTRACT_ENTITIES || t->extract == EXTRACT_TAGS || t->extract == EXTRACT_SENTENCES;
    const json_t *answer = f[FIELD_ANSWER];
    if (t->extract == EXTRACT_RELATIONS && json_is_array(f[FIELD_LABELS])) answer = f[FIELD_LABELS];   // a list of "head ; tail ; relation"
    if (!answer && !labelled) answer = f[FIELD_GOLD];
    if (json_is_array(answer) && !tagged && !labelled && t->extract != EXTRACT_RELATIONS) {   // each of them is right
        if (!doc_texts(d, answer, where, t->fields[FIELD_ANSWER], &d->answers, &d->num_answers, e)) return false;
        if (d->num_answers) d->answer = d->answers[0];
    }
    if (json_is_array(answer) && (t->extract == EXTRACT_ENTITIES || t->extract == EXTRACT_RELATIONS)) {
        Buffer lines = {NULL, 0, 0};
        Text line;
        for (size_t i = 0; i < json_array_size(answer); i++) {
            if (!doc_text(d, json_array_get(answer, i), &line)) { buffer_free(&lines); return fail(e, "%s: its gold answer's entry %zu is %s, expected a string", where, i, json_type_name(json_array_get(answer, i))); }
            if (i) buffer_add(&lines, "\n", 1);
            buffer_add(&lines, line.data, line.length);
        }
        d->answer = doc_own(d, lines.data ? lines.data : xstrdup(""), lines.len);
    } else if (answer && !json_is_array(answer) && !doc_text(d, answer, &d->answer)) return fail(e, "%s: \"%s\" is %s, expected a string or a number", where, t->fields[FIELD_ANSWER], json_type_name(answer));
    if (labelled) return doc_choices(t, d, f[FIELD_CHOICES], where, e) && doc_gold(t, d, f[FIELD_GOLD], f[FIELD_CHOICES], where, e);
    if (tagged) {
        const json_t *labels = f[FIELD_LABELS];
        if (!labels && json_is_array(f[FIELD_GOLD]) && (t->extract != EXTRACT_ENTITIES || tag_good(text_of(json_string_value(json_array_get(f[FIELD_GOLD], 0)))))) labels = f[FIELD_GOLD];
        return doc_tokens(t, d, f[FIELD_TOKENS], labels, answer != NULL, where, e);
    }
    if (!json_is_array(answer) && answer) {
        d->answers = (Text *)xcalloc(1, sizeof(Text));
        d->answers[d->num_answers++] = d->answer;
    }
    Number one;
    if (t->extract == EXTRACT_FLOAT || t->extract == EXTRACT_NUMBER) d->gold_number = d->answer.length && number_of(d->answer, false, &one) == RESULT_ONE ? one.value : NAN;
    if (t->extract == EXTRACT_FLOAT && json_is_number(answer)) d->gold_number = json_number_value(answer);
    if (t->extract == EXTRACT_FLOAT && !(d->gold_number >= t->low && d->gold_number <= t->high))
        return fail(e, "%s: the gold answer is \"%.*s\", expected a number from %g to %g", where, (int)(d->answer.length < 64 ? d->answer.length : 64), d->answer.data, t->low, t->high);
    if (t->extract == EXTRACT_RELATIONS ? !answer : t->extract != EXTRACT_JUDGE && text_trim(d->answer).length == 0) return fail(e, "%s: has no \"%s\": what is right?", where, t->fields[FIELD_ANSWER]);
    return true;
}

// A template with the row's values. {choices}: a line for each, "A. text"; a list: an item a line
FN bool doc_render(const Task *t, const Doc *d, Text template_text, const json_t *query, Text prompt, const char *where, Buffer *out, Error *e) {
    Text name;
    const char *wrong;
    for (int64_t at = 0; template_next(template_text, &at, out, &name, &wrong);) {
        char key[256];
        snprintf(key, sizeof key, "%.*s", (int)name.length, name.data);
        if (strcmp(key, "prompt") == 0 && prompt.length >= 0) { buffer_add(out, prompt.data, prompt.length); continue; }
        if (strcmp(key, "choices") == 0 && d->num_choices) {
            for (int i = 0; i < d->num_choices; i++) {
                char head[32];
                buffer_add(out, head, snprintf(head, sizeof head, "%s%c. ", i ? "\n" : "", 'A' + (i < 26 ? i : 25)));
                buffer_add(out, d->options[i].data, d->options[i].length);
            }
            continue;
        }
        const json_t *j = NULL;
        for (int f = 0; f < NUM_FIELDS; f++) if (strcmp(key, field_names[f]) == 0) j = f == FIELD_QUERY ? query : json_at(d->row, t->fields[f]);
        if (!j) j = json_at(d->row, key);
        if (!j) return fail(e, "%s: the prompt wants \"%s\", which the row does not have", where, key);
        for (size_t i = 0; i < (json_is_array(j) ? json_array_size(j) : 1); i++) {
            Doc number = {0};   // owns what a number is written as
            Text value;
            bool good = doc_text(&number, json_is_array(j) ? json_array_get(j, i) : j, &value);
            if (good && i) buffer_add(out, "\n", 1);
            if (good) buffer_add(out, value.data, value.length);
            doc_free(&number);
            if (!good) return fail(e, "%s: \"%s\" is %s, expected a string, a number or a list of them", where, key, json_type_name(j));
        }
    }
    return true;
}

// where: "file:line". False: one line in *e, nothing to free
FN bool doc_make(const Task *t, json_t *row, int64_t number, const char *where, bool cot, Doc *out, Error *e) {
    const json_t *query = NULL, *turns = NULL;
    Buffer prompt = {NULL, 0, 0}, whole = {NULL, 0, 0};
    memset(out, 0, sizeof *out);
    bool ok = doc_fill(t, row, number, where, out, &query, e) && doc_render(t, out, text_of(t->prompt), query, text_make("", -1), where, &prompt, e);
    if (ok && cot) ok = doc_render(t, out, text_of(t->cot ? t->cot : TASK_DEFAULT_COT), query, text_make(prompt.data, prompt.len), where, &whole, e);
    if (ok) {
        Buffer *b = cot ? &whole : &prompt;
        out->prompt = doc_own(out, b->data ? b->data : xstrdup(""), b->len);
        b->data = NULL;
        if (text_trim(out->prompt).length == 0) ok = fail(e, "%s: the prompt is empty", where);
        if ((turns = json_at(row, t->fields[FIELD_TURNS])) != NULL && t->extract == EXTRACT_JUDGE) {
            ok = ok && doc_texts(out, turns, where, t->fields[FIELD_TURNS], &out->turns, &out->num_turns, e);
            if (ok && out->num_turns) memmove(out->turns, out->turns + 1, (size_t)--out->num_turns * sizeof(Text));   // the first one is in the prompt
        }
    }
    buffer_free(&prompt); buffer_free(&whole);
    if (!ok) doc_free(out);
    return ok;
}

FN Text doc_target(const Task *t, const Doc *d) {   // what a perfect answer says: for examples (shots) and for the record
    (void)t;
    return d->gold >= 0 ? d->choices[d->gold] : d->answer;
}

// ---------------------------------------------------------------------------------------------------------------
// files of rows

// What is wrong with a row costs the row: its line goes to stderr, the first ROWS_SHOWN of them, the others are counted. strict: it costs the run.
typedef struct { const char *path; bool strict; int64_t bad; } BadRows;
FN bool bad_row(BadRows *b, const Error *row_error, Error *e) {   // false: the run ends
    if (b->strict) { *e = *row_error; return false; }
    if (b->bad++ < ROWS_SHOWN) fprintf(stderr, "%s: bad row: %s\n", program_name, row_error->text);
    return true;
}
FN void bad_rows_end(const BadRows *b) { if (b->bad > ROWS_SHOWN) fprintf(stderr, "%s: %s: %" PRId64 " more bad rows are not shown\n", program_name, b->path, b->bad - ROWS_SHOWN); }

// ids that were seen
typedef struct { XXH128_hash_t *slots; int64_t n, cap; } IdSet;   // an all-zero slot is free
FN bool id_add(IdSet *s, Text id) {   // false: it is there already
    if (2 * (s->n + 1) > s->cap) {
        IdSet old = *s;
        s->cap = old.cap ? 2 * old.cap : 1024;
        s->slots = (XXH128_hash_t *)xcalloc(s->cap, sizeof(XXH128_hash_t));
        for (int64_t i = 0; i < old.cap; i++) {
            uint64_t k = old.slots[i].low64;
            if (!old.slots[i].low64 && !old.slots[i].high64) continue;
            for (; s->slots[k & (uint64_t)(s->cap - 1)].low64 || s->slots[k & (uint64_t)(s->cap - 1)].high64; k++) {}
            s->slots[k & (uint64_t)(s->cap - 1)] = old.slots[i];
        }
        free(old.slots);
    }
    XXH128_hash_t h = XXH3_128bits(id.data, (size_t)id.length);
    uint64_t k = h.low64;
    for (XXH128_hash_t *p; (p = &s->slots[k & (uint64_t)(s->cap - 1)], p->low64 || p->high64); k++) if (p->low64 == h.low64 && p->high64 == h.high64) return false;
    s->slots[k & (uint64_t)(s->cap - 1)] = h;
    s->n++;
    return true;
}

// Calls `row` for each row of a JSONL file, or of one JSON array. False from it: the row is bad.
typedef bool (*RowFunction)(void *user, json_t *row, const char *where, int64_t number, Error *e);
FN bool rows_each(const char *path, RowFunction row, void *user, BadRows *bad, Error *e) {
    Mapped m;
    Error row_error;
    if (!map_file(path, &m, e)) return false;
    const char *data = (const char *)m.data;
    int64_t at = m.size >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0, first = at, line = 0, number = 0;
    bool ok = true;
    while (first < m.size && strchr(" \t\r\n", data[first]) && data[first]) first++;
    if (first < m.size && data[first] == '[') {
        json_t *all = m.size > ROWS_MAX_BYTES ? NULL : json_parse(path, data + at, m.size - at, e);
        ok = all != NULL || (m.size > ROWS_MAX_BYTES && fail(e, "%s: is one JSON array of %" PRId64 " bytes, expected at most %lld ---> one row a line may be longer", path, m.size, ROWS_MAX_BYTES));
        for (size_t i = 0; ok && i < json_array_size(all); i++) {
            char *where = xprintf("%s: row %zu", path, i);
            if (!row(user, json_array_get(all, i), where, (int64_t)i, &row_error)) ok = bad_row(bad, &row_error, e);
            free(where);
        }
        json_decref(all);
        at = m.size;
    }
    for (; ok && at < m.size;) {
        const char *end = (const char *)memchr(data + at, '\n', (size_t)(m.size - at));
        Text text = text_make(data + at, end ? end - data - at : m.size - at);
        line++;
        at += text.length + 1;
        int64_t blank = 0;
        while (blank < text.length && (text.data[blank] == ' ' || text.data[blank] == '\t' || text.data[blank] == '\r')) blank++;
        if (blank == text.length) continue;
        char *where = xprintf("%s:%" PRId64, path, line);
        json_t *j = text.length > ROW_MAX_BYTES ? NULL : json_parse(where, text.data, text.length, &row_error);
        if (text.length > ROW_MAX_BYTES) fail(&row_error, "%s: the line has %" PRId64 " bytes, expected at most %lld", where, text.length, ROW_MAX_BYTES);
        if (!j || !row(user, j, where, number, &row_error)) ok = bad_row(bad, &row_error, e);
        number++;
        json_decref(j);
        free(where);
    }
    unmap_file(&m);
    return ok;
}

typedef struct { const Task *task; bool cot, prompts; IdSet ids; Doc *docs; int64_t n, cap; } DocReader;
FN bool docs_row(void *user, json_t *row, const char *where, int64_t number, Error *e) {
    DocReader *r = (DocReader *)user;
    if (r->n == r->cap) r->docs = (Doc *)xrealloc(r->docs, r->cap = r->cap ? 2 * r->cap : 64, sizeof(Doc));
    Doc *d = &r->docs[r->n];
    if (!doc_make(r->task, row, number, where, r->cot, d, e)) return false;
    if (json_at(row, r->task->fields[FIELD_ID]) && !id_add(&r->ids, d->id)) {
        fail(e, "%s: the id \"%.*s\" is there twice", where, (int)(d->id.length < 64 ? d->id.length : 64), d->id.data);
        doc_free(d);
        return false;
    }
    r->n++;
    return true;
}

typedef struct { uint64_t key; int64_t index; } DocDraw;
FN int doc_draw_compare(const void *a, const void *b) {
    const DocDraw *x = (const DocDraw *)a, *y = (const DocDraw *)b;
    return x->key != y->key ? (x->key < y->key ? -1 : 1) : x->index < y->index ? -1 : x->index > y->index;
}

// Rows of a JSONL file or of one JSON array. limit < 0: all; else a seeded sample of so many rows, in the file's order. A bad row: its line on stderr (the first 20), counted in *bad
// and left out; strict: an error. No row left: an error.
FN bool docs_load(const Task *t, const char *path, bool cot, int64_t limit, uint64_t seed, bool strict, Doc **docs, int64_t *n, int64_t *bad, Error *e) {
    DocReader r;
    BadRows rows = {path, strict, 0};
    memset(&r, 0, sizeof r);
    r.task = t;
    r.cot = cot;
    bool ok = rows_each(path, docs_row, &r, &rows, e);
    bad_rows_end(&rows);
    free(r.ids.slots);
    if (ok && r.n == 0) ok = fail(e, "%s: has no rows for task %s%s", path, t->name, rows.bad ? " that can be used ---> see the lines above" : "");
    if (ok && limit >= 0 && limit < r.n) {
        DocDraw *draws = (DocDraw *)xcalloc(r.n, sizeof(DocDraw));
        for (int64_t i = 0; i < r.n; i++) { draws[i].key = random_u64(seed, 0x6576616cull, (uint64_t)i); draws[i].index = i; }
        qsort(draws, (size_t)r.n, sizeof *draws, doc_draw_compare);
        uint8_t *kept = (uint8_t *)xcalloc(r.n, 1);
        for (int64_t i = 0; i < limit; i++) kept[draws[i].index] = 1;
        int64_t k = 0;
        for (int64_t i = 0; i < r.n; i++) if (kept[i]) r.docs[k++] = r.docs[i]; else doc_free(&r.docs[i]);
        r.n = k;
        free(draws); free(kept);
    }
    if (!ok) { docs_free(r.docs, r.n); r.docs = NULL; r.n = 0; }
    *docs = r.docs;
    *n = r.n;
    *bad = rows.bad;
    return ok;
}

#endif
