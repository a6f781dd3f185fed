// answers.h: rows in, a model asked about each, lines out: what `genrm sample`, `judge` and `correct` and `eval` have in common. A command says what a row asks (item, or
// part where it asks several things), what goes into the line of what was said (line), and what it makes of lines that are there already (had); all else is here.
//
// Who is asked is the model in this process, through the engine (generate.h), or one behind an HTTP endpoint (endpoint.h). Rows about which nobody has to be asked get their
// line at once. Several ranks: answer i is rank i % size's, and each writes to its own file (answer_file.h); on a rank is a whole model, and they meet at the end only.
//
// An endpoint's failures cost replies, not the run: such a row gets no line, so the same command asks it again; the exit status says that some are missing.
#ifndef FINDAP_ANSWERS_H
#define FINDAP_ANSWERS_H
#include "answer_file.h" // defines: AnswerFile
#include "answer_flags.h" // defines: Options
#include "endpoint.h"    // defines: Endpoint, endpoint_ask
#include "generate.h"    // defines: Engine, Request, engine_add, engine_next, stops_find
#include "log.h"         // defines: FINDAP_DEVICE, json_finite
#include "lora.h"        // defines: lora_read_config, lora_load_dir
#include "messages.h"    // defines: MessageList, parse_messages
#include "model_dir.h"   // defines: model_load_dir, model_hash
#include "prompt.h"      // defines: PromptTemplate
#include "reward.h"      // defines: Judgement
#include "verify.h"      // defines: VerifyKind

enum { CHECKED_ANSWERS = 32 };   // whose log-probs are computed a second time
#define PROGRESS_SECONDS 10

// why nobody is asked about a row
typedef enum { SKIP_NOT, SKIP_VERIFIED, SKIP_EMPTY, SKIP_CAPPED, SKIP_NO_REFERENCE, SKIP_TOO_LONG, SKIP_NOT_WRONG, NUM_SKIP } Skip;
FN const char *const skip_names[NUM_SKIP] = {"", "verified", "empty_answer", "reached_cap", "no_reference", "prompt_too_long", "not_judged_wrong"};

typedef struct {
    json_t *row;     // as it goes out
    Ids ids;         // what the model is asked
    Buffer text;     // what an endpoint is asked
    Skip skip;
} Item;

typedef struct { const Request *request; Text text; bool capped; const Request *const *requests; int num_requests; } Said;   // request: the last of them; NULL, an endpoint said it

typedef struct { int64_t T, B, batch, pages; } Room;   // of the model: positions of a row, rows; requests at a time, pages of keys and values

enum { MAX_OUTCOMES = 64 };
typedef struct Run Run;
struct Run {
    Options *o;
    Comm comm;
    Config config;
    ModelOptions memory;
    Tokenizer *tokenizer;
    ChatTemplate chat;
    Stops stops;
    PromptTemplate prompt;       // the file around a question or an answer, if there is one
    Item *items;                 // (num_items)
    int64_t num_items, longest, skipped[NUM_SKIP];   // longest: ids of the longest prompt
    AnswerFile file;
    TokenSet sets[2];            // of --mode yesno
    int num_sets;
    bool skipped_have_lines, begun;   // begun: --out was taken up, so there are sums to be printed
    bool (*item)(Run *, json_t *row, const char *where, Item *, Error *);
    void (*line)(Run *, const Item *, const Said *, Buffer *out);   // NULL: nobody was asked
    int (*parts)(const Run *, int64_t job);                        // requests of a job; NULL: one
    void (*part)(const Run *, int64_t job, int part, Request *);   // what differs from the item's prompt and the options; NULL: nothing does
    bool (*another)(Run *, int64_t job, const Said *, Request *);  // does what was said raise a further question? Then into the request; NULL: never
    const char *name;            // what is being asked, for the progress; NULL
    const int64_t *order;        // (jobs) in which they are asked; NULL: as they stand
    int64_t to_check;            // answers whose log-probs are to be computed a second time
    void *user;                  // the program's own
    Room room;                   // that the model is to have; batch 0: what these items need
    Model *model;                // from the first request on, to the end: with its engine
    Engine *engine;
    json_t *who;                 // the model's part of the identity; its weights are hashed once
    // outcome, of this rank, on rank 0 of all in the end
    int64_t answers, finishes[NUM_FINISHES], ended_in_answer, outcomes[MAX_OUTCOMES], right, wrong, capped;
    double logp_difference, logp_largest;   // generation against training: sum over tokens, and the largest
    int64_t logp_tokens, new_tokens, computed_tokens, shared_tokens;
    double seconds;
    Endpoint endpoint;           // counts of all connections
    Judgement *judgements;       // (num_judgements) where the verifier knows
    int64_t num_judgements, cap_judgements;
    VerifyKind verify_kind;
    int mode;
};

FN int64_t run_new_room(const Run *s) { return s->o->max_new > 0 ? s->o->max_new - 1 : 0; }   // the last token that is generated is never put through the model

// The text in row[name]: false, with an error, if it is something else; an empty one if it is not there
FN bool row_text(const json_t *row, const char *name, const char *where, bool required, Text *t, Error *e) {
    const json_t *j = json_object_get(row, name);
    *t = text_of("");
    if (!j || json_is_null(j)) return required ? fail(e, "%s: \"%s\" is missing, expected a string", where, name) : true;
    if (!json_is_string(j)) return fail(e, "%s: \"%s\" is %s, expected a string", where, name, json_type_name(j));
    *t = text_make(json_string_value(j), (int64_t)json_string_length(j));
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// rows

FN bool run_rows(Run *s, Error *e) {
    Mapped m;
    if (!map_file(s->o->in, &m, e)) return false;
    bool ok = true;
    int64_t number = 0, cap = 0;
    for (int64_t at = 0; ok && at < m.size;) {
        const uint8_t *end = (const uint8_t *)memchr(m.data + at, '\n', (size_t)(m.size - at));
        int64_t length = end ? end - (m.data + at) : m.size - at;
        number++;
        if (length > 0) {
            char *where = xprintf("%s:%" PRId64, s->o->in, number);
            if (s->num_items == cap) s->items = (Item *)xrealloc(s->items, cap = cap ? 2 * cap : 64, sizeof(Item));
            Item *p = &s->items[s->num_items++];
            memset(p, 0, sizeof *p);
            json_t *row = json_parse_line(where, (const char *)m.data + at, length, e);
            ok = row && (json_is_object(row) || fail(e, "%s: the row is %s, expected an object%s", where, json_type_name(row), json_is_array(row) ? " ---> jq -c '.[]' takes an array apart, one object a line" : "")) && s->item(s, row, where, p, e);
            json_decref(row);
            s->skipped[p->skip]++;
            if (p->skip) ids_free(&p->ids);
            s->longest = p->ids.len > s->longest ? p->ids.len : s->longest;
            free(where);
        }
        at += length + 1;
    }
    unmap_file(&m);
    return ok && (s->num_items > 0 || fail(e, "%s: has no rows", s->o->in));
}

// A copy of the row without the fields that we write ourselves (a list that ends with NULL)
FN json_t *row_without(json_t *row, const char *const *ours) {
    json_t *copy = json_object(), *value;
    const char *key;
    json_object_foreach(row, key, value) {
        bool mine = false;
        for (int i = 0; ours[i]; i++) mine = mine || strcmp(key, ours[i]) == 0;
        if (!mine) json_object_set(copy, key, value);
    }
    return copy;
}

// The prompt about a row, as ids for the model here or as text for an endpoint. What is too long for the model is counted, not asked.
FN bool run_ask_about(Run *s, const Text *values, const char *where, Item *p, Error *e) {
    Error inner;
    prompt_render(&s->prompt, values, &p->text);
    if (s->o->endpoint.url) return true;
    Message m = {"user", p->text.data, p->text.len};
    if (!chat_render(s->tokenizer, s->chat, &m, 1, true, &p->ids, NULL, &inner)) return fail(e, "%s: %s", where, inner.text);
    buffer_free(&p->text);
    if (p->ids.len + run_new_room(s) > s->config.max_position) p->skip = SKIP_TOO_LONG;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// lines

FN void add_text(Buffer *b, const char *text) { buffer_add(b, text, (int64_t)strlen(text)); }
FN void add_number(Buffer *b, double x) {
    char text[32];
    snprintf(text, sizeof text, isfinite(x) ? "%.9g" : "null", x);   // nine digits are a float, exactly
    add_text(b, text);
}
FN void add_field(Buffer *b, const char *name, Text value) {
    add_text(b, ",\"");
    add_text(b, name);
    add_text(b, "\":");
    json_add_string(b, value.data, value.length);
}

FN bool run_write(Run *s, int64_t job, const Said *said, Error *e) {
    const Item *p = &s->items[job / s->o->n];
    const AnswerFile *f = &s->file;
    Buffer b = {NULL, 0, 0};
    char *input = json_dumps(p->row, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17)), number[96];
    CHECK(input);
    if (f->sample_key) snprintf(number, sizeof number, "{\"%s\":%" PRId64 ",\"%s\":%" PRId64, f->row_key, job / s->o->n, f->sample_key, job % s->o->n);
    else snprintf(number, sizeof number, "{\"%s\":%" PRId64, f->row_key, job);
    add_text(&b, number);
    if (json_object_size(p->row)) add_text(&b, ",");
    buffer_add(&b, input + 1, (int64_t)strlen(input) - 2);   // without its braces
    s->line(s, p, said, &b);
    add_text(&b, "}\n");
    bool ok = answer_file_write(&s->file, b.data, b.len, e);
    buffer_free(&b);
    free(input);
    s->answers++;
    return ok;
}

// Is it this rank's to make, and not there yet?
FN bool run_mine(const Run *s, int64_t job) { return !s->file.done[job] && job / s->o->n % s->comm.size == s->comm.rank; }
FN int64_t run_jobs(const Run *s) { return s->num_items * s->o->n; }
FN int64_t run_total(const Run *s) {   // lines that there will be
    int64_t without = 0;
    for (int k = 1; k < NUM_SKIP && !s->skipped_have_lines; k++) without += s->skipped[k];
    return (s->num_items - without) * s->o->n;
}

FN bool run_write_skipped(Run *s, Error *e) {
    bool ok = true;
    for (int64_t job = 0; ok && job < run_jobs(s); job++)
        if (s->skipped_have_lines && s->items[job / s->o->n].skip && run_mine(s, job)) ok = run_write(s, job, NULL, e);
    return ok;
}

FN void run_progress(const Run *s, double *said, double start, const Engine *g) {
    double now = seconds_now();
    if (s->o->quiet || now - *said < PROGRESS_SECONDS) return;
    *said = now;
    fprintf(stderr, "%s%s%" PRId64 "/%" PRId64 " answers", s->name ? s->name : "", s->name ? ": " : "", s->answers, (run_total(s) + s->comm.size - 1) / s->comm.size);
    if (g && s->o->max_new > 0) fprintf(stderr, " | overlength %5.1f %%", s->answers ? 100.0 * (double)s->finishes[FINISH_LENGTH] / (double)s->answers : 0.0);
    if (g) fprintf(stderr, " | %.1f tok/s", (double)(s->o->max_new > 0 ? g->new_tokens - s->new_tokens : g->computed_tokens - s->computed_tokens) / (now - start));
    fputc('\n', stderr);
}

// ---------------------------------------------------------------------------------------------------------------
// the model in this process

// The answer's log-probs again, and those of what was given to be scored, as training has them: all tokens in one row
FN void run_check(Run *s, const Request *r) {
    Model *m = s->model;
    int64_t T = r->ids.len - 1, first = r->prompt_length - 1 - r->given;
    Batch b = {1, T, r->ids.data, (int32_t *)xcalloc(T, 4), (int32_t *)xcalloc(T, 4), (float *)xcalloc(T, 4), true};
    float *logp = (float *)model_host_alloc(T * (int64_t)sizeof(float));
    for (int64_t t = 0; t < T; t++) { b.positions[t] = (int32_t)t; b.targets[t] = r->ids.data[t + 1]; b.weights[t] = t >= first; }
    model_forward(m, &b);
    model_head(m, &b, NULL, logp);
    model_wait(m);
    for (int64_t t = first; t < T; t++) {
        double d = fabs((double)logp[t] - r->logp[t - first]);
        s->logp_difference += d;
        s->logp_largest = d > s->logp_largest || isnan(d) ? d : s->logp_largest;
        s->logp_tokens++;
    }
    model_host_free(logp);
    free(b.positions); free(b.targets); free(b.weights);
}

typedef struct { Request **requests; int n, open; bool checked; } Asked;   // what a job asks; open: of these are not answered yet
FN void asked_free(Asked *a) {
    for (int i = 0; a && i < a->n; i++) { request_free(a->requests[i]); free(a->requests[i]); }
    if (a) free(a->requests);
    free(a);
}

FN Request *run_request(const Run *s, int64_t job, int part) {
    const Options *o = s->o;
    const Item *p = &s->items[job / o->n];
    Request *r = (Request *)xcalloc(1, sizeof(Request));
    r->number = job; r->max_new = o->max_new; r->sampling = o->sampling; r->stops = &s->stops; r->sets = s->sets; r->num_sets = s->num_sets;
    r->seed = random_u64((uint64_t)o->seed, (uint64_t)(job / o->n), (uint64_t)(job % o->n));   // of the row and the sample: another --n has the same first answers
    ids_reserve(&r->ids, p->ids.len + o->max_new);
    memcpy(r->ids.data, p->ids.data, (size_t)p->ids.len * sizeof(int32_t));
    r->ids.len = p->ids.len;
    if (s->part && part >= 0) s->part(s, job, part, r);
    return r;
}
FN bool run_ask(Run *s, Asked *a, Request *r, Error *e) {   // one request more
    a->requests = (Request **)xrealloc(a->requests, a->n + 1, sizeof(Request *));
    a->requests[a->n++] = r;
    a->open++;
    return engine_add(s->engine, r, e);
}

FN bool run_ask_engine(Run *s, Error *e) {
    const Options *o = s->o;
    Engine *g = s->engine;
    int64_t next = 0, begun = 0, jobs = run_jobs(s);
    Asked **asked = (Asked **)xcalloc(jobs, sizeof(Asked *));   // of the jobs begun; those that are checked stay to the end
    double start = seconds_now(), reported = start;
    bool ok = true;
    s->new_tokens = g->new_tokens; s->computed_tokens = g->computed_tokens; s->shared_tokens = g->shared_tokens;   // as it begins
    while (ok) {
        for (; ok && next < jobs && g->num_waiting < o->batch; next++) {
            int64_t job = s->order ? s->order[next] : next;
            if (s->items[job / o->n].skip || !run_mine(s, job)) continue;
            Asked *a = asked[job] = (Asked *)xcalloc(1, sizeof(Asked));
            a->checked = begun++ < s->to_check;
            for (int part = 0, parts = s->parts ? s->parts(s, job) : 1; ok && part < parts; part++) ok = run_ask(s, a, run_request(s, job, part), e);
        }
        Request *r = ok ? engine_next(g) : NULL;
        if (!r) break;
        int64_t job = r->number;
        Asked *a = asked[job];
        if (--a->open > 0) continue;
        r = a->requests[a->n - 1];
        Said said = {r, text_make(r->text.data ? r->text.data : "", r->text.len), r->finish == FINISH_LENGTH, (const Request *const *)a->requests, a->n};
        Request *more = s->another ? run_request(s, job, -1) : NULL;
        if (more && s->another(s, job, &said, more)) { ok = run_ask(s, a, more, e); continue; }
        if (more) { request_free(more); free(more); }
        s->finishes[r->finish]++;
        ok = run_write(s, job, &said, e);
        if (!a->checked) { asked_free(a); asked[job] = NULL; }
        run_progress(s, &reported, start, g);
    }
    s->seconds = seconds_now() - start;
    for (int64_t job = 0; job < jobs; job++) {
        for (int i = 0; ok && asked[job] && i < asked[job]->n; i++) if (asked[job]->requests[i]->given + asked[job]->requests[i]->max_new > 0) run_check(s, asked[job]->requests[i]);
        asked_free(asked[job]);
    }
    free(asked);
    if (ok) CHECK(g->num_free == g->num_pages);
    s->new_tokens = g->new_tokens - s->new_tokens; s->computed_tokens = g->computed_tokens - s->computed_tokens; s->shared_tokens = g->shared_tokens - s->shared_tokens;
    return ok;
}

FN bool run_open_model(Run *s, Error *e) {   // all but the weights
    const Options *o = s->o;
    if (!config_load(o->model, &s->config, e) || (o->adapter && !lora_read_config(o->adapter, &s->memory.lora, e)) || !model_check(&s->config, &s->memory, e)) return false;
    s->tokenizer = tokenizer_load(o->model, e);
    if (!s->tokenizer) return false;
    if (tokenizer_vocab_size(s->tokenizer) > s->config.vocab_size)
        return fail(e, "%s: the tokenizer has %" PRId64 " ids, the model %" PRId64 " ---> do they belong together?", o->model, tokenizer_vocab_size(s->tokenizer), (int64_t)s->config.vocab_size);
    s->chat = chat_guess(s->tokenizer);
    stops_find(&s->stops, &s->config, s->tokenizer);
    s->stops.strings = o->stop;
    return !o->template_name || chat_find(o->template_name, &s->chat, e);
}

// Room: of a call at least CALL_TOKENS, so that prompts do not come in by drops; of pages what a full batch of the longest may need
FN Room run_room(const Run *s) {
    int64_t most = run_jobs(s);
    Room r;
    r.T = s->longest + run_new_room(s);
    if (r.T < 1) r.T = 1;   // every row is left out
    r.batch = s->o->batch < most ? s->o->batch : most;
    r.B = ((r.batch > CALL_TOKENS ? r.batch : CALL_TOKENS) + r.T - 1) / r.T;
    r.pages = r.batch * pages_for(r.T) + 1;
    return r;
}

FN void run_print_plan(const Run *s) {
    char plan[MODEL_PLAN_SIZE];
    if (s->o->endpoint.url) { fprintf(stderr, "%" PRId64 " of %" PRId64 " rows are to be asked of %s at %s, at most %" PRId64 " tokens each\n", s->skipped[SKIP_NOT], s->num_items, s->o->endpoint.model, s->o->endpoint.url, s->o->max_new); return; }
    Room r = run_room(s);
    int64_t bytes = model_memory_bytes(&s->config, r.B, r.T, false, &s->memory, plan), tokens = 0;
    for (int64_t i = 0; i < s->num_items; i++) tokens += s->items[i].ids.len;
    double MiB = 1048576.0, most = (double)((tokens + s->skipped[SKIP_NOT] * s->o->max_new) * (s->o->max_new > 0 ? s->o->n : 1)), parameters = (double)config_num_parameters(&s->config);
    fprintf(stderr, "%" PRId64 " prompts of %" PRId64 " tokens in all, template %s", s->skipped[SKIP_NOT], tokens, chat_name(s->chat));
    if (s->ended_in_answer) fprintf(stderr, "; %" PRId64 " ended with an answer, which is kept as \"completion\"", s->ended_in_answer);
    fprintf(stderr, "; %" PRId64 " answers each, at most %" PRId64 " new tokens\n", s->o->n, s->skipped[SKIP_NOT] * s->o->n * s->o->max_new);
    fprintf(stderr, "memory: %.1f MiB (%s), %" PRId64 " pages of %d tokens %.1f MiB\n", (double)bytes / MiB, plan, r.pages, PAGE_TOKENS, (double)model_pages_bytes(&s->config, r.pages) / MiB);
    lora_print(&s->memory.lora);
    if (s->o->dry_run) fprintf(stderr, "in all at most %.4g tokens, %.4g parameters, about %.3g FLOPs (2 x parameters x tokens)\n", most, parameters, 2 * most * parameters);
}

// Of the pages that the fullest batch of the longest rows would need, those for which there is memory: with fewer, requests wait for one another
FN bool room_fit(Room *r, int64_t page_bytes, int64_t available, Error *e) {
    const int64_t reserve = 2ll << 30, least = pages_for(r->T) + 1, most = (available - reserve) / page_bytes;   // reserve: attention's scratch, what other allocations round up to
    const double GiB = 1073741824.0;
    if (r->pages <= most) return true;
    if (most < least) return fail(e, "keys and values of the longest row alone, %" PRId64 " tokens, need %.2f GiB, %.2f are free ---> shorten prompts or answers, or use a larger machine", r->T, (double)(least * page_bytes) / GiB, (double)(available > reserve ? available - reserve : 0) / GiB);
    warn("memory is left for %" PRId64 " of %" PRId64 " pages of keys and values, %.1f of %.1f GiB: requests may wait for one another", most, r->pages, (double)(most * page_bytes) / GiB, (double)(r->pages * page_bytes) / GiB);
    r->pages = most;
    return true;
}

FN bool run_open_engine(Run *s, Room r, Error *e) {   // the weights, and room for what is to be asked
    const Options *o = s->o;
    if (s->comm.size > 1) model_use_device(s->comm.local_rank);   // every rank has a whole model, and asks it alone
    s->model = model_create(&s->config, r.B, r.T, false, &s->memory);
    if (!model_load_dir(s->model, o->model, e) || (o->adapter && !lora_load_dir(s->model, o->adapter, e))) return false;
#ifdef __CUDACC__
    size_t available = 0, total;
    CUDA_CHECK(cudaMemGetInfo(&available, &total));
    if (!room_fit(&r, model_pages_bytes(&s->config, 1), (int64_t)available, e)) return false;
#endif
    s->engine = engine_new(s->model, s->tokenizer, r.batch, r.B * r.T, r.T, r.pages);
    return true;
}

FN bool run_with_model(Run *s, Error *e) {
    bool any = false;
    for (int64_t job = 0; job < run_jobs(s) && !any; job++) any = !s->items[job / s->o->n].skip && run_mine(s, job);
    if (!any) return true;   // nothing is left to ask: no weights are read
    return (s->engine || run_open_engine(s, s->room.batch ? s->room : run_room(s), e)) && run_ask_engine(s, e);
}

// ---------------------------------------------------------------------------------------------------------------
// one behind an endpoint: as many requests at a time as there are connections, each with a thread and an Endpoint of its own

typedef struct { Run *run; pthread_mutex_t lock; int64_t next; double start, reported; bool ok; Error error; } Asking;   // lock: of all of it, and of the run
typedef struct { Asking *asking; Endpoint endpoint; pthread_t thread; bool running; } Connection;

FN void *run_connection(void *user) {
    Connection *c = (Connection *)user;
    Asking *a = c->asking;
    Run *s = a->run;
    for (;;) {
        pthread_mutex_lock(&a->lock);
        while (a->next < run_jobs(s) && (s->items[a->next / s->o->n].skip || !run_mine(s, a->next))) a->next++;
        int64_t job = a->next < run_jobs(s) && a->ok ? a->next++ : -1;
        pthread_mutex_unlock(&a->lock);
        if (job < 0) return NULL;
        const Item *p = &s->items[job / s->o->n];
        Message m = {"user", p->text.data, p->text.len};
        Reply reply;
        EndpointStatus status = endpoint_ask(&c->endpoint, &m, 1, &reply);
        if (status != ENDPOINT_GOOD) continue;   // counted, and asked again by the next run
        pthread_mutex_lock(&a->lock);
        Said said = {NULL, text_make(reply.text, reply.length), reply.capped, NULL, 0};
        if (a->ok) a->ok = run_write(s, job, &said, &a->error);
        run_progress(s, &a->reported, a->start, NULL);
        pthread_mutex_unlock(&a->lock);
        free(reply.text);
    }
}

FN bool run_with_endpoint(Run *s, Error *e) {
    Asking a;
    memset(&a, 0, sizeof a);
    a.run = s; a.ok = true; a.start = a.reported = seconds_now();
    int64_t n = s->o->connections, opened = 0, failed = 0;
    s->o->endpoint.max_tokens = s->o->max_new; s->o->endpoint.temperature = s->o->sampling.temperature;
    Connection *c = (Connection *)xcalloc(n, sizeof(Connection));
    bool ok = true, given_up = false;
    for (; ok && opened < n; opened += ok) { ok = endpoint_open(&c[opened].endpoint, &s->o->endpoint, e); c[opened].asking = &a; }
    pthread_mutex_init(&a.lock, NULL);
    for (int64_t i = 0; ok && i < n; i++) { c[i].running = pthread_create(&c[i].thread, NULL, run_connection, &c[i]) == 0; if (!c[0].running) ok = fail(e, "a thread could not be started"); }
    Error last;
    last.text[0] = 0;
    for (int64_t i = 0; i < opened; i++) {
        if (c[i].running) pthread_join(c[i].thread, NULL);
        endpoint_add(&s->endpoint, &c[i].endpoint);
        if (c[i].endpoint.last.text[0]) last = c[i].endpoint.last;
        given_up = given_up || c[i].endpoint.counts[ENDPOINT_NOT_ASKED] > 0;
        endpoint_close(&c[i].endpoint);
    }
    pthread_mutex_destroy(&a.lock);
    free(c);
    s->seconds = seconds_now() - a.start;
    if (ok && !a.ok) { *e = a.error; ok = false; }
    Buffer why = {NULL, 0, 0};
    for (int k = 1; k < NUM_ENDPOINT; k++) {
        if (s->endpoint.counts[k] == 0) continue;
        char *text = xprintf("%s%" PRId64 " %s", failed ? ", " : "", s->endpoint.counts[k], endpoint_names[k]);
        add_text(&why, text);
        free(text);
        failed += s->endpoint.counts[k];
    }
    buffer_add(&why, "", 1);
    if (ok && failed) ok = fail(e, "%" PRId64 " rows have no reply (%s)%s; the last failure: %.400s ---> what was said is in %s, and the same command asks for the rest", failed, why.data, given_up ? "; the endpoint was given up" : "", last.text, s->o->out);
    buffer_free(&why);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// the run

// who answers: the model, its adapter, tokenizer and template
FN bool run_identify_model(Run *s, Error *e) {
    const Options *o = s->o;
    Hash model = {""}, adapter = {""}, weights = {""};
    if (s->who) return true;
    if (!model_hash(o->model, &model, e)) return false;
    if (o->adapter) {
        char *a = path_join(o->adapter, "adapter_config.json"), *b = path_join(o->adapter, "adapter_model.safetensors");
        bool ok = hash_file(a, &adapter, e) && hash_file(b, &weights, e);
        free(a); free(b);
        if (!ok) return false;
    }
    s->who = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "device", FINDAP_DEVICE, "model_hash", model.hex, "adapter_config_hash", adapter.hex, "adapter_hash", weights.hex, "tokenizer_hash", tokenizer_hash(s->tokenizer), "template_hash", chat_hash(s->chat));
    CHECK(s->who);
    return true;
}

// what is the same for all that ask a model: who it is, and how it draws. Fields are added to `j`.
FN bool run_identity(Run *s, json_t *j, Error *e) {
    const Options *o = s->o;
    Hash in;
    if (!hash_file(o->in, &in, e) || (s->tokenizer && !run_identify_model(s, e))) return false;
    json_t *stop = json_array(), *more = NULL;
    for (int i = 0; i < s->stops.strings.n; i++) json_array_append_new(stop, json_string(s->stops.strings.items[i]));
    json_object_set_new(j, "input_hash", json_string(in.hex));
    if (s->tokenizer) {
        json_object_update(j, s->who);
        more = json_pack("{s:s?,s:o,s:I,s:I,s:f,s:I,s:f,s:f,s:f}", "system", o->system, "stop", stop, "max_new", (json_int_t)o->max_new, "seed", (json_int_t)o->seed,
                         "temperature", o->sampling.temperature, "top_k", (json_int_t)o->sampling.top_k, "top_p", o->sampling.top_p, "min_p", o->sampling.min_p, "repetition_penalty", o->sampling.repetition_penalty);
    } else if (o->endpoint.url) { json_decref(stop); more = json_pack("{s:s,s:s,s:I,s:f}", "endpoint", o->endpoint.url, "endpoint_model", o->endpoint.model, "max_new", (json_int_t)o->max_new, "temperature", o->sampling.temperature); }
    else { json_decref(stop); more = json_object(); }
    bool ok = more != NULL || fail(e, "--system, --stop or a name is not UTF-8");
    if (ok) json_object_update(j, more);
    json_decref(more);
    return ok;
}

// all ranks must have been given the same
FN bool run_same(Run *s, int argc, char **argv, Error *e) {
    Hash h[2];
    Buffer b = {NULL, 0, 0};
    for (int i = 0; i < argc; i++) buffer_add(&b, argv[i], (int64_t)strlen(argv[i]) + 1);
    memset(h, 0, sizeof h);
    h[0] = hash_bytes(b.data, b.len);
    buffer_free(&b);
    return comm_agree(&s->comm, !s->o->in || hash_file(s->o->in, &h[1], e), e, "reading the rows") && comm_same(&s->comm, h, (int64_t)sizeof h, e);
}

// Sums over ranks; what was counted by answer_file's had is rank 0's already
FN void run_sum(Run *s) {
    double x[2] = {s->logp_difference, s->logp_largest}, *all = (double *)xcalloc(s->comm.size, sizeof x);
    int64_t n[4] = {s->logp_tokens, s->new_tokens, s->computed_tokens, s->shared_tokens};
    comm_gather_bytes(&s->comm, x, all, (int64_t)sizeof x, "log-probs", true);
    comm_sum_i64(&s->comm, n, 4, "tokens");
    s->logp_difference = s->logp_largest = 0;
    for (int r = 0; r < s->comm.size; r++) { s->logp_difference += all[2 * r]; if (!(all[2 * r + 1] <= s->logp_largest)) s->logp_largest = all[2 * r + 1]; }
    s->logp_tokens = n[0]; s->new_tokens = n[1]; s->computed_tokens = n[2]; s->shared_tokens = n[3];
    free(all);
}

// identity: of the command; taken over. Collective.
FN bool run_answers(Run *s, json_t *identity, Error *e) {
    const Options *o = s->o;
    AnswerFile *f = &s->file;
    f->path = o->out; f->rows = s->num_items; f->samples = o->n; f->user = s; f->comm = &s->comm; f->quiet = o->quiet;
    bool first = s->comm.rank == 0, ok = comm_agree(&s->comm, !first || run_identity(s, identity, e), e, "hashing the model");
    if (!ok) { json_decref(identity); return false; }
    s->begun = ok = answer_file_open(f, identity, e);
    if (ok) ok = run_write_skipped(s, e) && (o->endpoint.url ? run_with_endpoint(s, e) : s->tokenizer ? run_with_model(s, e) : true);
    int64_t resumed = f->resumed;
    ok = answer_file_close(f, ok, e);
    f->resumed = resumed;
    run_sum(s);
    return ok;
}

FN void run_free_items(Run *s) {
    for (int64_t i = 0; i < s->num_items; i++) { json_decref(s->items[i].row); ids_free(&s->items[i].ids); buffer_free(&s->items[i].text); }
    free(s->items);
    s->items = NULL; s->num_items = 0;
}
FN void run_free(Run *s) {
    run_free_items(s);
    free(s->o->stop.items); free(s->judgements);
    engine_free(s->engine);
    if (s->model) model_free(s->model);
    json_decref(s->who);
    for (int k = 0; k < 2; k++) ids_free(&s->sets[k].ids);
    prompt_free(&s->prompt);
    tokenizer_free(s->tokenizer);
}

FN void run_print_logp(const Run *s) {
    if (s->logp_tokens) fprintf(stderr, "log-probs of generation and training: %" PRId64 " tokens differ by %.1e on average, %.1e at most\n", s->logp_tokens, s->logp_difference / (double)s->logp_tokens, s->logp_largest);
    else fprintf(stderr, "log-probs of generation and training: nothing was generated, nothing to compare\n");
}
// the sums of asking a model, into a summary
FN void run_speed_json(const Run *s, json_t *j) {
    json_object_set_new(j, "new_tokens", json_integer(s->new_tokens));
    json_object_set_new(j, "new_tokens_per_second", json_real(s->new_tokens ? (double)s->new_tokens / s->seconds : 0));
    json_object_set_new(j, "computed_tokens", json_integer(s->computed_tokens));
    json_object_set_new(j, "shared_prompt_tokens", json_integer(s->shared_tokens));
    json_object_set_new(j, "logp_difference_largest", s->logp_tokens ? json_finite(s->logp_largest) : json_null());
    json_object_set_new(j, "logp_difference_mean", s->logp_tokens ? json_finite(s->logp_difference / (double)s->logp_tokens) : json_null());
    json_object_set_new(j, "logp_compared_tokens", json_integer(s->logp_tokens));
}
FN void print_json(json_t *j) {   // one line on stdout; freed
    char *text = json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
    CHECK(text);
    puts(text);
    fflush(stdout);
    free(text);
    json_decref(j);
}
typedef struct { double p, error; } Share;
FN Share share_of(int64_t k, int64_t n) {   // and its binomial standard error
    Share s;
    s.p = n ? (double)k / (double)n : 0;
    s.error = n > 1 ? sqrt(s.p * (1 - s.p) / (double)(n - 1)) : 0;
    return s;
}

#endif
