// chat_loop.h: `genrm chat`: a person, or a file, on standard input; the model's words on standard output as they come, made harmless (terminal.h).
//
// Every turn is one request with the whole conversation as its prompt. What earlier turns have left in pages is found there by its key (generate.h): of a long
// conversation only the last answer and the new turn go through the model.
//
// Ctrl-C while the model speaks ends its turn; at the prompt it ends the program.
#ifndef FINDAP_CHAT_LOOP_H
#define FINDAP_CHAT_LOOP_H
#include "answers.h"    // defines: Run, Options, run_open_model
#include "terminal.h"   // defines: terminal_text

FN volatile sig_atomic_t chat_interrupted = 0;
FN void chat_on_interrupt(int number) { (void)number; chat_interrupted = 1; }

typedef struct { char *role, *text; int64_t length; } Turn;
typedef struct { Turn *items; int n; } Conversation;
FN void conversation_add(Conversation *c, const char *role, const char *text, int64_t length) {
    c->items = (Turn *)xrealloc(c->items, c->n + 1, sizeof(Turn));
    Turn t = {xstrdup(role), text_copy(text_make(text, length)), length};
    c->items[c->n++] = t;
}
FN void conversation_cut(Conversation *c, int n) { while (c->n > n) { c->n--; free(c->items[c->n].role); free(c->items[c->n].text); } }

// The conversation's ids, ready for an answer; false with one line in e where the template has no such turns
FN bool conversation_render(const Run *s, const Conversation *c, Ids *ids, Error *e) {
    Message *m = (Message *)xcalloc(c->n, sizeof(Message));
    for (int i = 0; i < c->n; i++) { m[i].role = c->items[i].role; m[i].content = c->items[i].text; m[i].length = c->items[i].length; }
    bool ok = chat_render(s->tokenizer, s->chat, m, c->n, true, ids, NULL, e);
    free(m);
    return ok;
}

// One answer, printed as it comes; it is added to the conversation
FN bool chat_answer(Run *s, Engine *g, Conversation *c, int64_t number, int64_t positions, Error *e) {
    Request r;
    memset(&r, 0, sizeof r);
    if (!conversation_render(s, c, &r.ids, e)) { ids_free(&r.ids); return false; }
    int64_t left = positions - r.ids.len + 1;   // the last token is never put through the model
    r.number = number; r.max_new = s->o->max_new < left ? s->o->max_new : left; r.sampling = s->o->sampling; r.stops = &s->stops;
    r.seed = random_u64((uint64_t)s->o->seed, 1, (uint64_t)number);
    if (left < 1) {
        fail(e, "the conversation has %" PRId64 " tokens, there is room for %" PRId64 " ---> /clear begins anew", r.ids.len, positions);
        ids_free(&r.ids);
        return false;
    }
    bool ok = engine_add(g, &r, e);
    int64_t printed = 0, shared = g->shared_tokens;
    Buffer b = {NULL, 0, 0};
    double start = seconds_now(), first = start;
    chat_interrupted = 0;
    while (ok && !r.finish) {
        engine_call(g);
        int64_t n = r.ids.len - r.prompt_length;
        if (n == 1) first = seconds_now();
        if (chat_interrupted && !r.finish) r.max_new = n + 1;   // the next token is its last
        b.len = 0;
        printed += terminal_text(r.text.data + printed, r.text.len - printed, r.finish != FINISH_NOT_YET, &b);
        fwrite(b.data, 1, (size_t)b.len, stdout);
        fflush(stdout);
    }
    if (ok) {
        int64_t n = r.ids.len - r.prompt_length;
        double seconds = seconds_now() - first;
        CHECK(engine_next(g) == &r);
        putchar('\n');
        fflush(stdout);
        if (!s->o->quiet) fprintf(stderr, "[%" PRId64 " tokens%s, %.1f tok/s; %.2f s to the first; prompt %" PRId64 ", %" PRId64 " of it in pages]\n", n, chat_interrupted ? ", interrupted" : r.finish == FINISH_LENGTH ? ", cut off at the cap" : "",
                                  n > 1 && seconds > 0 ? (double)(n - 1) / seconds : 0.0, first - start, r.prompt_length, g->shared_tokens - shared);
        Text said = text_trim(text_make(r.text.data ? r.text.data : "", r.text.len));
        if (said.length) conversation_add(c, "assistant", said.data, said.length);
        else conversation_cut(c, c->n - 1);   // an empty turn would be none that was trained on
    }
    chat_interrupted = 0;
    buffer_free(&b);
    request_free(&r);
    return ok;
}

FN bool chat_talk(Run *s, Engine *g, int64_t positions, Error *e) {
    const Options *o = s->o;
    Conversation c = {NULL, 0};
    char *line = NULL;
    size_t cap = 0;
    bool terminal = isatty(0), ok = true;
    int first = o->system ? 1 : 0;
    if (o->system) conversation_add(&c, "system", o->system, (int64_t)strlen(o->system));
    if (terminal && !o->quiet) fprintf(stderr, "/clear begins a new conversation, /quit ends; Ctrl-C ends an answer\n");
    for (int64_t number = 0; ok;) {
        if (terminal) { fputs("> ", stderr); fflush(stderr); }
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0) break;
        Text said = text_trim(text_make(line, (int64_t)n));
        if (said.length == 0) continue;
        if (text_equal(said, text_of("/quit"))) break;
        if (text_equal(said, text_of("/clear"))) { conversation_cut(&c, first); if (!o->quiet) fprintf(stderr, "[a new conversation]\n"); continue; }
        if (said.data[0] == '/' && said.length > 1 && is_letter(said.data[1])) { fprintf(stderr, "no such command: expected /clear or /quit\n"); continue; }
        int turns = c.n;
        conversation_add(&c, "user", said.data, said.length);
        if (chat_answer(s, g, &c, number, positions, e)) { number++; continue; }
        conversation_cut(&c, turns);
        ok = terminal;   // a person can go on; a file's next turns would follow a question without an answer
        if (ok) fprintf(stderr, "%s: %s\n", program_name, e->text);
    }
    conversation_cut(&c, 0);
    free(c.items); free(line);
    return ok;
}

FN int chat_flags(Options *o, Flag *flags) {
    const Flag table[] = {
        {"--model", FLAG_STRING, &o->model, "DIR", "Hugging Face model directory", 0, 0, false},
        {"--adapter", FLAG_STRING, &o->adapter, "DIR", "PEFT's adapter directory on top of --model", 0, 0, false},
        {"--system", FLAG_STRING, &o->system, "TEXT", "system turn", 0, 0, false},
        {"--template", FLAG_STRING, &o->template_name, "NAME", "chat template (default: by the tokenizer's special tokens)", 0, 0, false},
        {"--context", FLAG_INT, &o->context, "N", "most tokens of a conversation, memory is kept for that many; 0: the model's positions, at most 8192", 0, 1 << 30, false},
        {"--max-new", FLAG_INT, &o->max_new, "N", "most tokens of an answer", 1, 1 << 20, false},
        {"--temperature", FLAG_DOUBLE, &o->sampling.temperature, "X", "logits are divided by it, 0: greedy", 0, 100, false},
        {"--seed", FLAG_INT, &o->seed, "N", "of all draws", 0, 4e18, false},
        {"--quiet", FLAG_BOOL, &o->quiet, NULL, "nothing on stderr but errors", 0, 0, false},
    };
    memcpy(flags, table, sizeof table);
    return (int)(sizeof table / sizeof *table);
}

FN bool chat_run(Run *s, Error *e) {
    Options *o = s->o;
    if (!o->model) return fail(e, "--model is missing ---> see genrm chat --help");
    if (!run_open_model(s, e)) return false;
    int64_t most = s->config.max_position, context = o->context ? o->context : most < 8192 ? most : 8192, room = context < 512 ? context : 512;
    if (context > most) return fail(e, "--context is %" PRId64 ", the model has %" PRId64 " positions", context, most);
    Config config = s->config;
    Model *m = model_create(&config, (room + context - 1) / context, context, false, &s->memory);
    bool ok = model_load_dir(m, o->model, e) && (!o->adapter || lora_load_dir(m, o->adapter, e));
    if (ok) {   // twice the pages: those of the last turn stay while this one is made
        Engine *g = engine_new(m, s->tokenizer, 1, room, context, 2 * pages_for(context) + 1);
        struct sigaction act, before;
        memset(&act, 0, sizeof act);
        act.sa_handler = chat_on_interrupt;   // without SA_RESTART: getline returns
        sigaction(SIGINT, &act, &before);
        ok = chat_talk(s, g, context, e);
        sigaction(SIGINT, &before, NULL);
        engine_free(g);
    }
    model_free(m);
    return ok;
}

#endif
