// recipe.h: the recipe, a JSON file that says what is mixed, how much of it, in which order and at which learning rate.
//
//     {"name", "seed", "seq_len", "step_tokens", "micro_rows", "comment",
//      "dev": {"dev_rows": documents of each stream held out (below 1: a share), "every": steps, "patience": evaluations, "max_rows"},
//      "optimizer": {"weight_decay", "beta1", "beta2", "eps", "grad_clip"},              defaults of every stage
//      "stages": [{"name", "streams": [{"name", "kind", "shards": [FILE or PREFIX], "dev_shards", "dev_rows",
//                                       one of "weight" (1 = every document once an epoch), "rows", "tokens" (an epoch)}],
//                  "balance": "none" | "rows" | "tokens"    down-sample CPT to as many documents / tokens as IT has,
//                  "packing": "best-fit" | "next-fit",
//                  one of "epochs", "steps", "tokens"       the horizon of the schedule, "stop_after_steps": an earlier stop,
//                  "lr", "warmup" (share), "schedule", "floor" (share of lr), "decay" (share, wsd),
//                  "optimizer": "fresh" | "kept", "weight_decay", "beta1", "beta2", "eps", "grad_clip"}]}
//
// Paths are relative to the recipe. An unknown key is an error: a setting that does nothing is worse than none.
#ifndef FINDAP_RECIPE_H
#define FINDAP_RECIPE_H
#include "json.h"       // defines: json_get_*, json_only_keys
#include "schedule.h"   // defines: ScheduleKind, schedule_find
#include "shard.h"      // defines: ShardKind, shard_kind_find, StringList
#include <stddef.h>     // defines: offsetof

typedef enum { BALANCE_NONE, BALANCE_ROWS, BALANCE_TOKENS } Balance;
FN const char *const balance_names[] = {"none", "rows", "tokens"};

typedef struct {
    char *name;
    bool kind_given;            // false (from --data): whatever the shards say
    ShardKind kind;
    StringList shards, dev_shards;
    double weight;              // documents an epoch, as a multiple of all; used when rows and tokens are -1
    int64_t rows, tokens;       // documents or tokens an epoch, or -1
    double dev_rows;            // held out: a count, or a share below 1; -1: as the recipe says
} RecipeStream;

typedef struct {
    char *name;
    RecipeStream *streams;
    int num_streams;
    Balance balance;
    bool next_fit, keep_optimizer;
    int64_t epochs, steps, tokens;   // one is above 0: the horizon
    int64_t stop_after_steps;        // 0: at the horizon
    ScheduleKind schedule;
    double lr, warmup, floor, decay, weight_decay, beta1, beta2, eps, grad_clip;
} RecipeStage;

typedef struct {
    char *name;
    int64_t seed, seq_len, step_tokens, micro_rows, dev_every, dev_patience, dev_max_rows;
    double dev_rows;
    RecipeStage *stages;
    int num_stages;
} Recipe;

// The numbers of a stage, once: JSON key, place, bounds. The recipe reader, the flags that override it (--weight-decay
// for weight_decay) and the resolved form all go by this table. The first OPTIMIZER_NUMBERS also stand in "optimizer".
typedef struct { const char *key; size_t place; double low, high, initial; } StageNumber;
#define OPTIMIZER_NUMBERS 5
#define STAGE_NUMBERS 9
FN const StageNumber stage_numbers[STAGE_NUMBERS] = {
    {"weight_decay", offsetof(RecipeStage, weight_decay), 0, 100, 0.1},
    {"beta1", offsetof(RecipeStage, beta1), 0, 0.999999, 0.9},
    {"beta2", offsetof(RecipeStage, beta2), 0, 0.99999999, 0.95},
    {"eps", offsetof(RecipeStage, eps), 1e-20, 1, 1e-8},
    {"grad_clip", offsetof(RecipeStage, grad_clip), 0, 1e9, 1.0},
    {"lr", offsetof(RecipeStage, lr), 0, 10, 5e-6},
    {"warmup", offsetof(RecipeStage, warmup), 0, 1, 0.1},
    {"floor", offsetof(RecipeStage, floor), 0, 1, 0},
    {"decay", offsetof(RecipeStage, decay), 0, 1, 0.2},
};
FN double *stage_number(RecipeStage *s, const StageNumber *n) { return (double *)((char *)s + n->place); }

FN void recipe_free(Recipe *r) {
    for (int i = 0; i < r->num_stages; i++) {
        RecipeStage *s = &r->stages[i];
        for (int k = 0; k < s->num_streams; k++) {
            free(s->streams[k].name);
            shard_list_free(&s->streams[k].shards);
            shard_list_free(&s->streams[k].dev_shards);
        }
        free(s->streams);
        free(s->name);
    }
    free(r->stages);
    free(r->name);
    memset(r, 0, sizeof *r);
}

enum { DEFAULT_SEQ_LEN = 2048 };

FN void recipe_defaults(Recipe *r) {
    memset(r, 0, sizeof *r);
    r->seed = 42;
    r->seq_len = 0;       // what the model has positions for, at most DEFAULT_SEQ_LEN
    r->step_tokens = 0;   // 16 rows, once seq_len is known
    r->micro_rows = 1;
    r->dev_every = 500;
    r->dev_patience = 0;
    r->dev_max_rows = 10000;
    r->dev_rows = 0;
}

FN void stage_defaults(RecipeStage *s) {
    memset(s, 0, sizeof *s);
    for (int i = 0; i < STAGE_NUMBERS; i++) *stage_number(s, &stage_numbers[i]) = stage_numbers[i].initial;
    s->schedule = SCHEDULE_LINEAR;
}

// one of `names` (n of them) under `key`; a missing key leaves *out
FN bool recipe_choice(const json_t *j, const char *key, const char *where, const char *const *names, int n, int *out, Error *e) {
    const char *text = NULL;
    if (!json_get_string(j, key, where, false, &text, e)) return false;
    if (!text) return true;
    for (int i = 0; i < n; i++) if (strcmp(text, names[i]) == 0) { *out = i; return true; }
    Buffer list = {NULL, 0, 0};
    for (int i = 0; i < n; i++) { if (i) buffer_add(&list, ", ", 2); buffer_add(&list, names[i], (int64_t)strlen(names[i])); }
    buffer_add(&list, "", 1);
    fail(e, "%s: \"%s\" is \"%s\", expected one of: %s", where, key, text, list.data);
    buffer_free(&list);
    return false;
}

// a name goes into the log's field names ("dev_loss_cpt"), so it is kept to what every reader takes
FN bool recipe_name(const json_t *j, const char *where, char **out, Error *e) {
    const char *text = NULL;
    if (!json_get_string(j, "name", where, true, &text, e)) return false;
    size_t good = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    if (good == 0 || text[good] || good > 64) return fail(e, "%s: \"name\" is \"%s\", expected 1 to 64 letters, digits, _ . -", where, text);
    *out = xstrdup(text);
    return true;
}

FN bool recipe_paths(const json_t *j, const char *key, const char *where, bool required, const char *base, StringList *out, Error *e) {
    const json_t *list = json_object_get(j, key);
    if (!list && !required) return true;
    if (!json_is_array(list) || json_array_size(list) == 0)
        return fail(e, "%s: \"%s\" is %s, expected a list of at least one shard or PREFIX", where, key, json_is_array(list) ? "an empty list" : json_type_name(list));
    int64_t n = (int64_t)json_array_size(list);
    out->items = (const char **)xcalloc(n, sizeof(char *));
    for (int64_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, (size_t)i);
        const char *text = json_string_value(item);
        if (!text || !*text || strlen(text) != json_string_length(item)) return fail(e, "%s: %s[%" PRId64 "] is not a path", where, key, i);
        out->items[out->n++] = text[0] == '/' ? xstrdup(text) : path_join(base, text);
    }
    return true;
}

FN bool recipe_stream(json_t *j, const char *where, const char *base, RecipeStream *s, Error *e) {
    static const char *const known[] = {"name", "kind", "shards", "dev_shards", "dev_rows", "weight", "rows", "tokens", "comment", NULL};
    if (!json_is_object(j)) return fail(e, "%s: is %s, expected an object", where, json_type_name(j));
    if (!json_only_keys(j, where, known, e) || !recipe_name(j, where, &s->name, e)) return false;
    int kind = -1;
    if (!recipe_choice(j, "kind", where, shard_kind_names, 2, &kind, e)) return false;
    if (kind < 0) return fail(e, "%s: \"kind\" is missing, expected cpt or it", where);
    s->kind = (ShardKind)kind;
    s->kind_given = true;
    s->weight = 1; s->rows = s->tokens = -1; s->dev_rows = -1;
    int amounts = (json_object_get(j, "weight") != NULL) + (json_object_get(j, "rows") != NULL) + (json_object_get(j, "tokens") != NULL);
    if (amounts > 1) return fail(e, "%s: more than one of \"weight\", \"rows\" and \"tokens\" ---> keep the one that is meant", where);
    if (json_object_get(j, "dev_shards") && json_object_get(j, "dev_rows"))
        return fail(e, "%s: both \"dev_shards\" and \"dev_rows\" ---> keep the one that is meant", where);
    return recipe_paths(j, "shards", where, true, base, &s->shards, e) && recipe_paths(j, "dev_shards", where, false, base, &s->dev_shards, e) &&
           json_get_double(j, "dev_rows", where, false, 0, 1e12, &s->dev_rows, e) && json_get_double(j, "weight", where, false, 1e-9, 1e6, &s->weight, e) &&
           json_get_int(j, "rows", where, false, 1, INT64_MAX / 4, &s->rows, e) && json_get_int(j, "tokens", where, false, 1, INT64_MAX / 4, &s->tokens, e);
}

FN bool recipe_stage(json_t *j, const char *where, const char *base, RecipeStage *s, Error *e) {
    static const char *const known[] = {"name", "streams", "balance", "packing", "epochs", "steps", "tokens", "stop_after_steps", "lr", "warmup", "schedule",
        "floor", "decay", "optimizer", "weight_decay", "beta1", "beta2", "eps", "grad_clip", "comment", NULL};
    static const char *const packings[] = {"best-fit", "next-fit"}, *const optimizers[] = {"fresh", "kept"};
    if (!json_is_object(j)) return fail(e, "%s: is %s, expected an object", where, json_type_name(j));
    if (!json_only_keys(j, where, known, e) || !recipe_name(j, where, &s->name, e)) return false;
    int balance = 0, packing = 0, optimizer = 0;
    if (!recipe_choice(j, "balance", where, balance_names, 3, &balance, e) || !recipe_choice(j, "packing", where, packings, 2, &packing, e) ||
        !recipe_choice(j, "optimizer", where, optimizers, 2, &optimizer, e)) return false;
    s->balance = (Balance)balance;
    s->next_fit = packing == 1;
    s->keep_optimizer = optimizer == 1;
    const char *schedule = NULL;
    if (!json_get_string(j, "schedule", where, false, &schedule, e) || (schedule && !schedule_find(schedule, where, &s->schedule, e))) return false;
    for (int i = 0; i < STAGE_NUMBERS; i++)
        if (!json_get_double(j, stage_numbers[i].key, where, false, stage_numbers[i].low, stage_numbers[i].high, stage_number(s, &stage_numbers[i]), e)) return false;
    if (!json_get_int(j, "epochs", where, false, 1, 1000000, &s->epochs, e) || !json_get_int(j, "steps", where, false, 1, INT64_MAX / 4, &s->steps, e) ||
        !json_get_int(j, "tokens", where, false, 1, INT64_MAX / 4, &s->tokens, e) ||
        !json_get_int(j, "stop_after_steps", where, false, 1, INT64_MAX / 4, &s->stop_after_steps, e)) return false;
    if ((s->epochs > 0) + (s->steps > 0) + (s->tokens > 0) != 1) return fail(e, "%s: expected exactly one of \"epochs\", \"steps\" and \"tokens\"", where);
    json_t *streams = json_object_get(j, "streams");
    if (!json_is_array(streams) || json_array_size(streams) == 0)
        return fail(e, "%s: \"streams\" is %s, expected a list of at least one", where, json_is_array(streams) ? "an empty list" : json_type_name(streams));
    int64_t n = (int64_t)json_array_size(streams);
    if (n > 1000) return fail(e, "%s: %" PRId64 " streams, expected at most 1000", where, n);
    s->streams = (RecipeStream *)xcalloc(n, sizeof(RecipeStream));
    for (int64_t i = 0; i < n; i++) {
        char *at = xprintf("%s: streams[%" PRId64 "]", where, i);
        s->num_streams++;
        bool ok = recipe_stream(json_array_get(streams, (size_t)i), at, base, &s->streams[i], e);
        for (int64_t k = 0; ok && k < i; k++)
            if (strcmp(s->streams[k].name, s->streams[i].name) == 0) ok = fail(e, "%s: the name \"%s\" is used twice in this stage", at, s->streams[i].name);
        free(at);
        if (!ok) return false;
    }
    return true;
}

// what both a file and the flags must satisfy; fills in step_tokens where it was left out
FN bool recipe_check(Recipe *r, const char *where, Error *e) {
    if (r->seq_len == 0) r->seq_len = DEFAULT_SEQ_LEN;
    if (r->step_tokens == 0) r->step_tokens = 16 * r->seq_len;
    if (r->step_tokens % r->seq_len != 0)
        return fail(e, "%s: step_tokens is %" PRId64 ", expected a multiple of seq_len = %" PRId64 " ---> try %" PRId64, where, r->step_tokens, r->seq_len,
                    (r->step_tokens / r->seq_len + 1) * r->seq_len);
    if (r->micro_rows > r->step_tokens / r->seq_len)
        return fail(e, "%s: micro_rows is %" PRId64 ", expected at most the %" PRId64 " rows of a step", where, r->micro_rows, r->step_tokens / r->seq_len);
    if (r->num_stages > 0 && r->stages[0].keep_optimizer)
        return fail(e, "%s: stage \"%s\": the optimizer is \"kept\", but the first stage has none to keep", where, r->stages[0].name);
    for (int i = 0; i < r->num_stages; i++) {
        const RecipeStage *s = &r->stages[i];
        if (s->schedule == SCHEDULE_CONSTANT && s->floor != 0) return fail(e, "%s: stage \"%s\": \"floor\" has no effect on a constant schedule", where, s->name);
        if (s->schedule == SCHEDULE_WSD && s->warmup + s->decay > 1) return fail(e, "%s: stage \"%s\": warmup and decay together exceed 1", where, s->name);
        bool cpt = false, it = false;
        for (int k = 0; k < s->num_streams; k++) { cpt = cpt || s->streams[k].kind == SHARD_CPT; it = it || s->streams[k].kind == SHARD_IT; }
        if (s->balance != BALANCE_NONE && s->streams && s->streams[0].kind_given && !(cpt && it))
            return fail(e, "%s: stage \"%s\": \"balance\" needs a cpt stream and an it stream", where, s->name);
    }
    return true;
}

FN bool recipe_parse(json_t *j, const char *where, const char *base, Recipe *r, Error *e) {
    static const char *const known[] = {"name", "seed", "seq_len", "step_tokens", "micro_rows", "dev", "optimizer", "stages", "comment", NULL};
    static const char *const dev_known[] = {"dev_rows", "every", "patience", "max_rows", "comment", NULL};
    static const char *const optimizer_known[] = {"weight_decay", "beta1", "beta2", "eps", "grad_clip", "comment", NULL};
    if (!json_is_object(j)) return fail(e, "%s: is %s, expected an object", where, json_type_name(j));
    if (!json_only_keys(j, where, known, e) || !recipe_name(j, where, &r->name, e) || !json_get_int(j, "seed", where, false, 0, INT64_MAX, &r->seed, e) ||
        !json_get_int(j, "seq_len", where, false, 2, 1 << 24, &r->seq_len, e) || !json_get_int(j, "step_tokens", where, false, 2, 1ll << 40, &r->step_tokens, e) ||
        !json_get_int(j, "micro_rows", where, false, 1, 1 << 20, &r->micro_rows, e)) return false;
    json_t *dev = json_object_get(j, "dev"), *optimizer = json_object_get(j, "optimizer"), *stages = json_object_get(j, "stages");
    if (dev && !json_is_object(dev)) return fail(e, "%s: \"dev\" is %s, expected an object", where, json_type_name(dev));
    if (dev && (!json_only_keys(dev, where, dev_known, e) || !json_get_double(dev, "dev_rows", where, false, 0, 1e12, &r->dev_rows, e) ||
                !json_get_int(dev, "every", where, false, 1, INT64_MAX / 4, &r->dev_every, e) || !json_get_int(dev, "patience", where, false, 0, 1000000, &r->dev_patience, e) ||
                !json_get_int(dev, "max_rows", where, false, 1, INT64_MAX / 4, &r->dev_max_rows, e))) return false;
    RecipeStage initial;
    stage_defaults(&initial);
    if (optimizer && !json_is_object(optimizer)) return fail(e, "%s: \"optimizer\" is %s, expected an object", where, json_type_name(optimizer));
    if (optimizer && !json_only_keys(optimizer, where, optimizer_known, e)) return false;
    for (int i = 0; optimizer && i < OPTIMIZER_NUMBERS; i++)
        if (!json_get_double(optimizer, stage_numbers[i].key, where, false, stage_numbers[i].low, stage_numbers[i].high, stage_number(&initial, &stage_numbers[i]), e)) return false;
    if (!json_is_array(stages) || json_array_size(stages) == 0)
        return fail(e, "%s: \"stages\" is %s, expected a list of at least one", where, json_is_array(stages) ? "an empty list" : json_type_name(stages));
    int64_t n = (int64_t)json_array_size(stages);
    if (n > 1000) return fail(e, "%s: %" PRId64 " stages, expected at most 1000", where, n);
    r->stages = (RecipeStage *)xcalloc(n, sizeof(RecipeStage));
    for (int64_t i = 0; i < n; i++) {
        char *at = xprintf("%s: stages[%" PRId64 "]", where, i);
        r->stages[i] = initial;
        r->num_stages++;
        bool ok = recipe_stage(json_array_get(stages, (size_t)i), at, base, &r->stages[i], e);
        free(at);
        if (!ok) return false;
    }
    return true;
}

// Reads a recipe file; opens no shard. False with one line in e; recipe_free either way. recipe_check is for the caller,
// after the flags have had their say.
FN bool recipe_load(const char *path, Recipe *r, Error *e) {
    recipe_defaults(r);
    json_t *j = json_parse_file(path, 16 << 20, e);
    if (!j) return false;
    const char *base = NULL;
    char *directory = shard_directory(path, &base);
    bool ok = recipe_parse(j, path, directory, r, e);
    free(directory);
    json_decref(j);
    return ok;
}

// The recipe of `--data SHARD...`: one stage, one stream a word, of the kind that the shards have.
FN void recipe_from_data(const StringList *words, const StringList *dev_words, Recipe *r) {
    recipe_defaults(r);
    r->name = xstrdup("data");
    r->num_stages = 1;
    r->stages = (RecipeStage *)xcalloc(1, sizeof(RecipeStage));
    RecipeStage *s = &r->stages[0];
    stage_defaults(s);
    s->name = xstrdup("data");
    s->epochs = 1;
    s->streams = (RecipeStream *)xcalloc(words->n, sizeof(RecipeStream));
    for (int i = 0; i < words->n; i++) {
        RecipeStream *t = &s->streams[s->num_streams++];
        const char *slash = strrchr(words->items[i], '/');
        char *name = xstrdup(slash ? slash + 1 : words->items[i]);
        for (char *c = name; *c; c++) if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-", *c)) *c = '_';
        char *suffix = strstr(name, ".safetensors");
        if (suffix) *suffix = 0;
        bool taken = !*name;
        for (int k = 0; k < i; k++) taken = taken || strcmp(s->streams[k].name, name) == 0;
        t->name = taken ? xprintf("%s_%d", name, i + 1) : xstrdup(name);
        free(name);
        t->weight = 1; t->rows = t->tokens = -1; t->dev_rows = -1;
        t->shards.items = (const char **)xcalloc(1, sizeof(char *));
        t->shards.items[t->shards.n++] = xstrdup(words->items[i]);
    }
    for (int i = 0; i < dev_words->n; i++) {   // all of them with the first stream; the shard's own kind names its loss
        StringList *d = &s->streams[0].dev_shards;
        d->items = (const char **)xrealloc(d->items, d->n + 1, sizeof(char *));
        d->items[d->n++] = xstrdup(dev_words->items[i]);
    }
}

// The settings on which the result depends, flags included: what a checkpoint compares on --resume. Paths are left out
// (data may move; its hashes are compared) and so is micro_rows (it changes rounding and memory, not the order).
FN json_t *recipe_to_json(const Recipe *r) {
    json_t *stages = json_array();
    for (int i = 0; i < r->num_stages; i++) {
        RecipeStage *s = &r->stages[i];
        json_t *streams = json_array(), *stage = json_object();
        for (int k = 0; k < s->num_streams; k++) {
            const RecipeStream *t = &s->streams[k];
            json_t *stream = json_object();
            json_object_set_new(stream, "name", json_string(t->name));
            json_object_set_new(stream, "kind", json_string(shard_kind_names[t->kind]));
            json_object_set_new(stream, "dev_rows", json_real(t->dev_shards.n ? -1 : t->dev_rows >= 0 ? t->dev_rows : r->dev_rows));
            if (t->rows >= 0) json_object_set_new(stream, "rows", json_integer(t->rows));
            else if (t->tokens >= 0) json_object_set_new(stream, "tokens", json_integer(t->tokens));
            else json_object_set_new(stream, "weight", json_real(t->weight));
            json_array_append_new(streams, stream);
        }
        json_object_set_new(stage, "name", json_string(s->name));
        json_object_set_new(stage, "streams", streams);
        json_object_set_new(stage, "balance", json_string(balance_names[s->balance]));
        json_object_set_new(stage, "packing", json_string(s->next_fit ? "next-fit" : "best-fit"));
        json_object_set_new(stage, "optimizer", json_string(s->keep_optimizer ? "kept" : "fresh"));
        json_object_set_new(stage, s->epochs ? "epochs" : s->steps ? "steps" : "tokens", json_integer(s->epochs ? s->epochs : s->steps ? s->steps : s->tokens));
        if (s->stop_after_steps) json_object_set_new(stage, "stop_after_steps", json_integer(s->stop_after_steps));
        json_object_set_new(stage, "schedule", json_string(schedule_name(s->schedule)));
        for (int k = 0; k < STAGE_NUMBERS; k++) json_object_set_new(stage, stage_numbers[k].key, json_real(*stage_number(s, &stage_numbers[k])));
        json_array_append_new(stages, stage);
    }
    json_t *j = json_object();
    json_object_set_new(j, "name", json_string(r->name));
    json_object_set_new(j, "seed", json_integer(r->seed));
    json_object_set_new(j, "seq_len", json_integer(r->seq_len));
    json_object_set_new(j, "step_tokens", json_integer(r->step_tokens));
    json_object_set_new(j, "dev_every", json_integer(r->dev_every));
    json_object_set_new(j, "dev_patience", json_integer(r->dev_patience));
    json_object_set_new(j, "dev_max_rows", json_integer(r->dev_max_rows));
    json_object_set_new(j, "stages", stages);
    return j;
}

#endif
