// eval_task.h: what is asked, as data. A task is one JSON file (data/tasks/NAME.json): which fields of a row make the prompt, what the answer may be, how it is read
// and which number is shown. A new task needs no C. A task comes from outside: whatever is wrong with it is one line, and costs that task only.
//
// A task file's keys stand in task_fill, each checked; a key that nobody reads is an error. What a row of its data is: eval_doc.h.
#ifndef FINDAP_EVAL_TASK_H
#define FINDAP_EVAL_TASK_H
#include "flags.h"   // defines: StringList
#include "json.h"    // defines: json_parse, json_get_*, json_only_keys
#include "verify.h"  // defines: Text, label_of, number_of, result_text
#include <ctype.h>   // defines: tolower
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
    double low, high;                // of floats: what the answer may be; of judges: what a rating may be
    PixiuClass pixiu;                // none: the harness has no such task
    int64_t pixiu_max_new;
    bool pixiu_lower;
} Task;

typedef struct { Task *items; int n; } TaskList;

enum { TASK_MAX_CHOICES = 1000, TASK_MAX_LETTERS = 10 };   // letters: A to J, what label_of knows
#define TASK_MAX_BYTES (1ll << 20)
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
        if ((t->extract != EXTRACT_FLOAT && t->extract != EXTRACT_JUDGE) || json_array_size(range) != 2 || !json_is_number(json_array_get(range, 0)) || !json_is_number(json_array_get(range, 1)))
            return fail(e, "%s: \"range\" is %s, expected [lowest, highest] of a task that extracts \"float\" or \"judge\"", where, json_type_name(range));
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

FN void tasks_free(TaskList *l) {
    for (int i = 0; i < l->n; i++) task_free(&l->items[i]);
    free(l->items);
    memset(l, 0, sizeof *l);
}

// Names of tasks are given by people, who write flare-fpb, FLARE_FPB, TheFinAI/flare-fpb: case, -, _ and an owner say nothing. loose: "flare" before it doesn't either
FN bool task_name_same(const char *a, const char *b, bool loose) {
    const char *names[2] = {a, b};
    for (int k = 0; k < 2; k++) {
        const char *slash = strrchr(names[k], '/');
        if (slash) names[k] = slash + 1;
        if (loose && strncasecmp(names[k], "flare", 5) == 0) names[k] += 5;
    }
    for (;; names[0]++, names[1]++) {
        for (int k = 0; k < 2; k++) while (*names[k] == '-' || *names[k] == '_' || *names[k] == ' ') names[k]++;
        if (tolower((unsigned char)*names[0]) != tolower((unsigned char)*names[1])) return false;
        if (!*names[0]) return true;
    }
}
FN bool task_is_called(const Task *t, const char *name, bool loose) {   // its name or an alias
    if (task_name_same(t->name, name, loose)) return true;
    const json_t *aliases = json_object_get(t->json, "aliases");
    for (size_t i = 0; i < json_array_size(aliases); i++) if (task_name_same(json_string_value(json_array_get(aliases, i)), name, loose)) return true;
    return false;
}
FN bool tasks_share_name(const Task *a, const Task *b) {
    const json_t *aliases = json_object_get(b->json, "aliases");
    bool same = task_is_called(a, b->name, false);
    for (size_t i = 0; i < json_array_size(aliases); i++) same = same || task_is_called(a, json_string_value(json_array_get(aliases, i)), false);
    return same;
}
// what a suite says of a task: {"metric", "published", "order", "category", "mode"}, or NULL
FN const json_t *task_suite(const Task *t, const char *suite) {
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(t->json, "suites"), name, value) if (task_name_same(name, suite, false)) return value;
    return NULL;
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
            if (tasks_share_name(&all->items[k], t)) {
                ok = fail(&bad, "%s: \"%s\" or an alias of it is a name of %s too ---> names and aliases are given once", files[i], t->name, all->items[k].path);
                task_free(t);
            }
        all->n += ok;
        if (!ok) warn("left out: %s", bad.text);
        free(files[i]);
    }
    free(files);
    return found;
}

// Adds to `out` what one name stands for, in order: a task's name or alias, a suite ("fineval", "openfinllm"), "all", or a path that ends in .json. What it takes out of `all` is left
// there without its json; a task that `out` has already is not added again.
FN bool tasks_take(TaskList *all, const char *dir, const char *name, TaskList *out, Error *e) {
    TaskOrder *order = (TaskOrder *)xcalloc(all->n, sizeof(TaskOrder));
    int found = 0;
    bool ok = true, known = false;
    out->items = (Task *)xrealloc(out->items, out->n + all->n + 1, sizeof(Task));
    if (is_json_path(name)) {
        Task *t = &out->items[out->n];
        ok = task_load(name, t, e);
        for (int i = 0; ok && i < out->n; i++) if (strcmp(out->items[i].name, t->name) == 0) { ok = fail(e, "%s: is called \"%s\", and so is another task that was asked for", name, t->name); task_free(t); }
        out->n += ok;
        free(order);
        return ok;
    }
    for (int loose = 0; loose < 2 && found == 0 && !known; loose++) {
        for (int i = 0; i < out->n; i++) known = known || strcasecmp(name, "all") == 0 || task_suite(&out->items[i], name) || task_is_called(&out->items[i], name, loose);
        for (int i = 0; i < all->n; i++) {
            if (!all->items[i].json) continue;
            const json_t *suite = task_suite(&all->items[i], name), *at = json_object_get(suite, "order");
            if (strcasecmp(name, "all") != 0 && !suite && !task_is_called(&all->items[i], name, loose)) continue;
            order[found].order = at ? (int64_t)json_integer_value(at) : INT64_MAX;
            order[found++].index = i;
        }
    }
    if (found == 0 && !known) ok = fail(e, "there is no task or suite \"%s\" in %s, which has %d tasks ---> try `eval tasks`, or the path of a task file", name, dir, all->n);
    qsort(order, (size_t)found, sizeof *order, task_order_compare);
    for (int i = 0; i < found; i++) {
        out->items[out->n++] = all->items[order[i].index];
        memset(&all->items[order[i].index], 0, sizeof(Task));
    }
    free(order);
    return ok;
}
// All that the names stand for; the directory is read only when a name wants it
FN bool tasks_find(const char *dir, const StringList *names, TaskList *out, Error *e) {
    TaskList all = {NULL, 0};
    bool ok = true, needs_dir = false;
    memset(out, 0, sizeof *out);
    for (int k = 0; k < names->n; k++) needs_dir = needs_dir || !is_json_path(names->items[k]);
    if (needs_dir) ok = tasks_read(dir, &all, e);
    for (int k = 0; ok && k < names->n; k++) ok = tasks_take(&all, dir, names->items[k], out, e);
    tasks_free(&all);
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

#endif
