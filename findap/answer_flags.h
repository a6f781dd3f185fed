// answer_flags.h: what the programs that ask a model can be told, and the flags that tell it. Each command takes the groups it has a use for.
#ifndef FINDAP_ANSWER_FLAGS_H
#define FINDAP_ANSWER_FLAGS_H
#include "endpoint.h"   // defines: EndpointOptions
#include "flags.h"      // defines: Flag, StringList
#include "sample.h"     // defines: Sampling

typedef struct {
    const char *model, *in, *out, *adapter, *template_name, *system, *wrap;
    const char *mode, *prompt, *gold, *kind, *yes, *no;   // of judges
    int64_t n, max_new, seed, batch, connections, context;
    Sampling sampling;
    StringList stop;
    EndpointOptions endpoint;
    double tolerance, least;
    bool dry_run, quiet;
} Options;

FN bool flags_unused(Flag *flags, int n, const char *const *names, const char *why, Error *e) {   // names end with NULL
    for (; *names; names++) if (!flag_unused(flags, n, *names, why, e)) return false;
    return true;
}

enum { MAX_FLAGS = 48 };
FN const char *const draw_flags[] = {"--top-k", "--top-p", "--min-p", "--seed", NULL};   // flags that need a temperature
FN int add_flags(Flag *flags, int n, const Flag *more, int k) {
    CHECK(n + k <= MAX_FLAGS);
    memcpy(flags + n, more, (size_t)k * sizeof(Flag));
    return n + k;
}
FN int flags_of_draws(Options *o, Flag *flags, int n) {
    const Flag table[] = {
        {"--temperature", FLAG_DOUBLE, &o->sampling.temperature, "X", "logits are divided by it, 0: greedy", 0, 100, false},
        {"--seed", FLAG_INT, &o->seed, "N", "of all draws", 0, 4e18, false},
        {"--batch", FLAG_INT, &o->batch, "N", "answers at a time: memory and speed, not result", 1, 65536, false},
        {"--template", FLAG_STRING, &o->template_name, "NAME", "chat template (default: by the tokenizer's special tokens)", 0, 0, false},
        {"--adapter", FLAG_STRING, &o->adapter, "DIR", "PEFT's adapter directory on top of --model", 0, 0, false},
    };
    return add_flags(flags, n, table, (int)(sizeof table / sizeof *table));
}
FN int flags_of_cuts(Options *o, Flag *flags, int n) {
    const Flag table[] = {
        {"--top-k", FLAG_INT, &o->sampling.top_k, "N", "draw from the N most probable tokens only, 0: all", 0, 1 << 22, false},
        {"--top-p", FLAG_DOUBLE, &o->sampling.top_p, "X", "... from the most probable that together have this probability", 1e-9, 1, false},
        {"--min-p", FLAG_DOUBLE, &o->sampling.min_p, "X", "... from those at least this times as probable as the first", 0, 1, false},
        {"--repetition-penalty", FLAG_DOUBLE, &o->sampling.repetition_penalty, "X", "divides logits of tokens that were there, prompt included; 1: not", 0.01, 100, false},
    };
    return add_flags(flags, n, table, (int)(sizeof table / sizeof *table));
}
FN int flags_of_runs(Options *o, Flag *flags, int n) {
    const Flag table[] = {
        {"--dry-run", FLAG_BOOL, &o->dry_run, NULL, "print prompts, tokens and memory, then exit", 0, 0, false},
        {"--quiet", FLAG_BOOL, &o->quiet, NULL, "nothing on stderr but warnings and errors", 0, 0, false},
    };
    return add_flags(flags, n, table, (int)(sizeof table / sizeof *table));
}
FN int flags_of_endpoints(Options *o, Flag *flags, int n) {
    EndpointOptions *p = &o->endpoint;
    const Flag table[] = {
        {"--endpoint", FLAG_STRING, &p->url, "URL", "ask a model behind an endpoint of the OpenAI chat protocol instead, as in https://host/v1/chat/completions", 0, 0, false},
        {"--endpoint-model", FLAG_STRING, &p->model, "NAME", "which model of the endpoint", 0, 0, false},
        {"--key-variable", FLAG_STRING, &p->key_variable, "NAME", "environment variable that holds the endpoint's key, if it wants one", 0, 0, false},
        {"--connections", FLAG_INT, &o->connections, "N", "requests at a time", 1, 256, false},
        {"--timeout", FLAG_DOUBLE, &p->timeout, "SECONDS", "of one request", 0.001, 86400, false},
        {"--tries", FLAG_INT, &p->tries, "N", "of one request, where the endpoint is busy or the connection is lost", 1, 100, false},
        {"--give-up", FLAG_INT, &p->give_up, "N", "failures in a row after which a connection asks no more", 1, 1e9, false},
    };
    return add_flags(flags, n, table, (int)(sizeof table / sizeof *table));
}
FN void options_begin(Options *o) {
    memset(o, 0, sizeof *o);
    o->n = 1; o->max_new = 256; o->batch = 32; o->seed = 1; o->sampling.temperature = 1; o->sampling.top_p = 1; o->sampling.repetition_penalty = 1;
    o->gold = "completion"; o->kind = "auto"; o->connections = 4; o->endpoint = endpoint_defaults();
}

// what those that ask a judge have in common: who is asked, and that no flag is of no use
FN bool asking_settings(Options *o, Flag *flags, int n, Error *e) {
    static const char *const local[] = {"--model", "--adapter", "--template", "--batch", "--seed", NULL}, *const remote[] = {"--endpoint-model", "--key-variable", "--connections", "--timeout", "--tries", "--give-up", NULL};
    static const char *const drawing[] = {"--seed", NULL}, *const printing[] = {"--quiet", NULL};
    if (!o->in || (!o->out && !o->dry_run)) return fail(e, "%s is missing ---> see --help", !o->in ? "--answers" : "--out");
    if (o->dry_run && !flags_unused(flags, n, printing, "--dry-run does nothing but print", e)) return false;
    if (!o->endpoint.url && !flags_unused(flags, n, remote, "there is no --endpoint", e)) return false;
    if (o->endpoint.url && !o->endpoint.model) return fail(e, "--endpoint-model is missing ---> which of the endpoint's models is asked?");
    if (o->endpoint.url) return flags_unused(flags, n, local, "an --endpoint is asked", e);
    return o->sampling.temperature > 0 || flags_unused(flags, n, drawing, "--temperature 0 takes the most probable token", e);
}

#endif
