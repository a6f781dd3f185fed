// flags.h: one table of flags drives the parser, --help and the run log.
//
// A program lists its flags once; each row points at the variable it sets, whose initial value is the default shown by
// --help. An unknown flag, a missing value, a number out of range or a flag that does not apply to what was asked
// (flag_unused) is an error: a flag that is read but does nothing is worse than none.
#ifndef FINDAP_FLAGS_H
#define FINDAP_FLAGS_H
#include "common.h"

typedef enum { FLAG_BOOL, FLAG_INT, FLAG_DOUBLE, FLAG_STRING, FLAG_LIST } FlagType;

typedef struct { const char **items; int n; } StringList;   // a FLAG_LIST takes every word up to the next --flag

typedef struct {
    const char *name;      // "--seq-len"
    FlagType type;
    void *value;           // bool *, int64_t *, double *, const char **, StringList *
    const char *argument;  // what --help calls the value: "N", "DIR"; NULL for FLAG_BOOL
    const char *help;      // one line, with the unit
    double low, high;      // inclusive bounds for numbers; both 0: none
    bool given;            // set by the parser
} Flag;

FN void flags_help(const char *usage, const char *about, const Flag *flags, int n) {
    printf("usage: %s\n\n%s\n\nflags:\n", usage, about);
    for (int i = 0; i < n; i++) {
        char left[64], value[128] = "";
        snprintf(left, sizeof left, "%s %s", flags[i].name, flags[i].argument ? flags[i].argument : "");
        const Flag *f = &flags[i];
        if (f->type == FLAG_INT) snprintf(value, sizeof value, " (default %" PRId64 ")", *(int64_t *)f->value);
        if (f->type == FLAG_DOUBLE) snprintf(value, sizeof value, " (default %g)", *(double *)f->value);
        if (f->type == FLAG_STRING && *(const char **)f->value) snprintf(value, sizeof value, " (default %s)", *(const char **)f->value);
        printf("  %-28s %s%s\n", left, f->help, value);
    }
    printf("  %-28s %s\n", "--help", "this text");
}

FN bool flag_set(Flag *f, const char *text, Error *e) {
    char *end = NULL;
    errno = 0;
    if (f->type == FLAG_STRING) { *(const char **)f->value = text; return true; }
    if (f->type == FLAG_INT) {
        long long v = strtoll(text, &end, 10);
        if (errno || end == text || *end) return fail(e, "%s is \"%s\", expected an integer", f->name, text);
        if ((f->low != 0 || f->high != 0) && ((double)v < f->low || (double)v > f->high))
            return fail(e, "%s is %lld, expected %.0f to %.0f", f->name, v, f->low, f->high);
        *(int64_t *)f->value = v;
        return true;
    }
    double v = strtod(text, &end);
    if (errno || end == text || *end || !isfinite(v)) return fail(e, "%s is \"%s\", expected a number", f->name, text);
    if ((f->low != 0 || f->high != 0) && (v < f->low || v > f->high)) return fail(e, "%s is %g, expected %g to %g", f->name, v, f->low, f->high);
    *(double *)f->value = v;
    return true;
}

FN bool flag_is_path(const Flag *f) {
    static const char *const paths[] = {"DIR", "FILE", "SHARD", "PREFIX", "NAME|FILE"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) if (strcmp(f->argument, paths[i]) == 0) return f->type == FLAG_STRING || f->type == FLAG_LIST;
    return false;
}
// Parses argv[first..]. Words that belong to no flag go to `rest` (NULL: they are an error). *help is set by --help.
FN bool flags_parse(int argc, char **argv, int first, Flag *flags, int n, StringList *rest, bool *help, Error *e) {
    *help = false;
    for (int a = first; a < argc; a++)   // before anything is set, so that --help shows the defaults
        if (strcmp(argv[a], "--help") == 0 || strcmp(argv[a], "-h") == 0) { *help = true; return true; }
    for (int a = first; a < argc; a++) {
        if (strncmp(argv[a], "--", 2) != 0) {
            if (!rest) return fail(e, "unexpected argument \"%s\" ---> see --help", argv[a]);
            rest->items = (const char **)xrealloc(rest->items, rest->n + 1, sizeof(char *));
            rest->items[rest->n++] = argv[a];
            continue;
        }
        Flag *f = NULL;
        const char *equals = strchr(argv[a], '=');
        size_t length = equals ? (size_t)(equals - argv[a]) : strlen(argv[a]);
        for (int i = 0; i < n; i++) if (strlen(flags[i].name) == length && strncmp(flags[i].name, argv[a], length) == 0) f = &flags[i];
        if (!f) return fail(e, "unknown flag \"%s\" ---> see --help", argv[a]);
        if (f->given) return fail(e, "%s is given twice", f->name);
        f->given = true;
        if (f->type == FLAG_BOOL) {
            if (equals) return fail(e, "%s takes no value, found \"%s\"", f->name, equals + 1);
            *(bool *)f->value = true;
        } else if (f->type == FLAG_LIST) {
            StringList *list = (StringList *)f->value;
            const char *word = equals ? equals + 1 : a + 1 < argc && strncmp(argv[a + 1], "--", 2) != 0 ? argv[++a] : NULL;
            if (!word) return fail(e, "%s needs at least one %s", f->name, f->argument);
            while (word) {
                if (!word[0] && flag_is_path(f)) return fail(e, "%s has an empty word, expected a %s", f->name, f->argument);
                list->items = (const char **)xrealloc(list->items, list->n + 1, sizeof(char *));
                list->items[list->n++] = word;
                word = a + 1 < argc && strncmp(argv[a + 1], "--", 2) != 0 ? argv[++a] : NULL;
            }
        } else {
            const char *text = equals ? equals + 1 : a + 1 < argc ? argv[++a] : NULL;
            if (!text) return fail(e, "%s needs a value: %s", f->name, f->argument);
            for (int i = 0; i < n && !equals; i++)   // an empty variable of a shell
                if (strcmp(flags[i].name, text) == 0) return fail(e, "%s needs a value: %s, found the flag %s ---> %s=%s if that is meant", f->name, f->argument, text, f->name, text);
            if (!text[0] && flag_is_path(f)) return fail(e, "%s is empty, expected a %s", f->name, f->argument);
            if (!flag_set(f, text, e)) return false;
        }
    }
    return true;
}

FN Flag *flag_find(Flag *flags, int n, const char *name) {
    for (int i = 0; i < n; i++) if (strcmp(flags[i].name, name) == 0) return &flags[i];
    CHECK(!"a flag name that is not in the table");
    return NULL;
}
FN bool flag_given(Flag *flags, int n, const char *name) { return flag_find(flags, n, name)->given; }

// an error when `name` was given although, as `why` says, it has no effect in this run
FN bool flag_unused(Flag *flags, int n, const char *name, const char *why, Error *e) {
    return flag_find(flags, n, name)->given ? fail(e, "%s has no effect here: %s ---> remove it", name, why) : true;
}

#endif
