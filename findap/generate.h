// generate.h: the generation engine on the host. It holds no numbers of the model and calls it through model.h only, so it is the same for every device.
//
//     engine_add(e, request) ...          waiting
//     engine_next(e)                      calls the model until a request is finished, and hands it out; NULL: nothing is left
//
// Continuous batching: every call of the model has the next token of each running request, and fills what is left of its room with waiting prompts, or pieces of long
// ones. Who is finished leaves at once, and the next call has another in its place.
//
// Pages. Keys and values lie in pages of PAGE_TOKENS tokens. A request gets all the pages that it may need when it is admitted, so it can never be stopped half way for
// want of one; what does not fit waits. A page's key is a hash of all tokens up to its end: a prompt begins with the pages that are already there under the keys of its
// own beginning, counted by references and never written again - the same question asked N times, the same examples before every question. The page in which the
// last prompt token lies goes on differently in every answer, so it is copied, and only that one token is computed again. Free pages keep their key until they
// are given away, oldest first, and serve as long.
//
// What a request gets depends on no other: rows of a call do not meet, and noise is keyed by the request's seed and the token's position (sample.h).
#ifndef FINDAP_GENERATE_H
#define FINDAP_GENERATE_H
#include "chat.h"        // defines: chat_definitions, ChatTemplate
#include "flags.h"       // defines: StringList
#include "model.h"       // defines: Call, PAGE_TOKENS, model_generate_forward, model_sample
#include "text.h"        // defines: text_trim
#include "tokenizer.h"   // defines: tokenizer_decode

typedef enum { FINISH_NOT_YET, FINISH_STOP, FINISH_LENGTH, FINISH_STOP_STRING, FINISH_SCORED, NUM_FINISHES } Finish;
FN const char *const finish_names[NUM_FINISHES] = {"", "stop", "length", "stop_string", "scored"};

// tokens that a call should have room for: a GPU wants prompts in large pieces
#ifdef __CUDACC__
enum { CALL_TOKENS = 2048 };
#else
enum { CALL_TOKENS = 256 };
#endif

enum { MAX_STOP_TOKENS = 16 };
typedef struct { int32_t tokens[MAX_STOP_TOKENS]; int num_tokens; StringList strings; bool at_line_end; } Stops;   // at_line_end: of the first line that has anything
typedef struct { const char *word; Ids ids; } TokenSet;   // all spellings of a word that are one token

// What is asked, up to `ids`; the same struct is handed back with the answer. Pointers are the caller's and must last as long.
typedef struct {
    int64_t number;              // the caller's own
    int64_t max_new;             // 0: nothing is generated, the prompt is only scored
    Sampling sampling;
    uint64_t seed;
    const Stops *stops;
    int64_t given;               // log-probs of the prompt's last so many tokens are wanted: a continuation that is to be scored
    const TokenSet *sets;        // (num_sets) how probable is each as what comes behind the prompt?
    int64_t num_sets;
    Ids ids;                     // the prompt, and behind it what was generated, the stop token with it
    int64_t prompt_length;       // set by engine_add, as all that follows
    Finish finish;
    float *logp;                 // (given + max_new) in the model's own distribution; of the given tokens, then of those generated
    double *set_probability;     // (num_sets + 1) the last is the mass outside all sets
    Buffer text;                 // of the answer, without special tokens, up to a stop string; may end inside a character
} Request;

typedef struct { XXH128_hash_t key; int64_t call; int32_t refs, bucket_next, before, after; bool keyed; } Page;   // call: in which it was written up to its key's end
typedef struct { Request *request; XXH128_hash_t key; int64_t done, num_pages, place; } Sequence;            // key: of the prompt pages written so far; done: tokens of ids that are in pages; place: of its last token in the call

typedef struct {
    Model *model;
    const Tokenizer *tokenizer;
    int64_t batch, room;         // requests at a time; tokens of a call
    int64_t num_pages, num_free, num_buckets, calls;
    Page *pages;                 // (num_pages)
    int32_t *buckets, first_free, last_free;
    Sequence *running;           // (batch), in the order of their coming; row i of call.pages is that of running[i]
    int64_t num_running;
    Request **waiting, **finished;
    int64_t num_waiting, cap_waiting, num_finished, cap_finished;
    Call call;
    int32_t *targets, *sampled;  // (room), (batch)
    int64_t *index;              // (batch)
    float *weights, *logp, *sampled_logp, *logits;   // (room), (room), (batch), (V)
    SampleRow *rows;             // (batch)
    int64_t new_tokens, computed_tokens, shared_tokens;   // generated; through the model; of prompts, found in pages
} Engine;

// ---------------------------------------------------------------------------------------------------------------
// pages

FN int64_t pages_for(int64_t tokens) { return (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS; }

FN void page_unlink_free(Engine *e, int32_t p) {
    Page *page = &e->pages[p];
    if (page->before >= 0) e->pages[page->before].after = page->after; else e->first_free = page->after;
    if (page->after >= 0) e->pages[page->after].before = page->before; else e->last_free = page->before;
    e->num_free--;
}
FN void page_hold(Engine *e, int32_t p) { if (e->pages[p].refs++ == 0) page_unlink_free(e, p); }
FN void page_release(Engine *e, int32_t p) {
    Page *page = &e->pages[p];
    CHECK(page->refs > 0);
    if (--page->refs > 0) return;
    page->before = e->last_free;
    page->after = -1;
    if (e->last_free >= 0) e->pages[e->last_free].after = p; else e->first_free = p;
    e->last_free = p;
    e->num_free++;
}

FN XXH128_hash_t page_key(XXH128_hash_t before, const int32_t *tokens, int64_t n) {
    struct { XXH128_hash_t before; int32_t tokens[PAGE_TOKENS]; } x;
    memset(&x, 0, sizeof x);
    x.before = before;
    memcpy(x.tokens, tokens, (size_t)n * sizeof(int32_t));
    return XXH3_128bits(&x, sizeof x.before + (size_t)n * sizeof(int32_t));
}
FN int32_t page_find(const Engine *e, XXH128_hash_t key) {
    int32_t p = e->buckets[key.low64 & (uint64_t)(e->num_buckets - 1)];
    while (p >= 0 && !XXH128_isEqual(e->pages[p].key, key)) p = e->pages[p].bucket_next;
    return p;
}
FN void page_set_key(Engine *e, int32_t p, XXH128_hash_t key) {   // what is there under this key already stays
    Page *page = &e->pages[p];
    if (page->keyed || page_find(e, key) >= 0) return;
    int32_t *bucket = &e->buckets[key.low64 & (uint64_t)(e->num_buckets - 1)];
    page->key = key; page->keyed = true; page->call = e->calls; page->bucket_next = *bucket;
    *bucket = p;
}
FN int32_t page_take(Engine *e) {   // the page that has been free longest; it loses its key
    int32_t p = e->first_free;
    CHECK(p >= 0);
    Page *page = &e->pages[p];
    if (page->keyed) {
        int32_t *link = &e->buckets[page->key.low64 & (uint64_t)(e->num_buckets - 1)];
        while (*link != p) link = &e->pages[*link].bucket_next;
        *link = page->bucket_next;
        page->keyed = false;
    }
    page_hold(e, p);
    return p;
}

// ---------------------------------------------------------------------------------------------------------------
// beginning and end

// Bytes of pages, and of the model's room for calls, are the caller's to choose: room: B*T of the model, at least `batch`.
FN Engine *engine_new(Model *m, const Tokenizer *t, int64_t batch, int64_t room, int64_t longest, int64_t num_pages) {
    Engine *e = (Engine *)xcalloc(1, sizeof(Engine));
    CHECK(room >= batch && num_pages <= INT32_MAX);
    if (room - room % 256 >= batch && room > 256) room -= room % 256;   // a GPU computes pieces of 256 anyway
    e->model = m; e->tokenizer = t; e->batch = batch; e->room = room; e->num_pages = num_pages; e->call.width = pages_for(longest);
    model_pages(m, num_pages);
    e->pages = (Page *)xcalloc(num_pages, sizeof(Page));
    for (e->num_buckets = 1; e->num_buckets < num_pages;) e->num_buckets *= 2;
    e->buckets = (int32_t *)xmalloc(e->num_buckets * (int64_t)sizeof(int32_t));
    memset(e->buckets, 255, (size_t)e->num_buckets * sizeof(int32_t));
    e->first_free = e->last_free = -1;
    for (int32_t p = 0; p < num_pages; p++) { e->pages[p].refs = 1; page_release(e, p); }
    e->running = (Sequence *)xcalloc(batch, sizeof(Sequence));
    e->call.tokens = (int32_t *)xcalloc(room, sizeof(int32_t));
    e->call.positions = (int32_t *)xcalloc(room, sizeof(int32_t));
    e->call.sequence = (int32_t *)xcalloc(room, sizeof(int32_t));
    e->call.pages = (int32_t *)xcalloc(batch * e->call.width, sizeof(int32_t));
    e->targets = (int32_t *)xcalloc(room, sizeof(int32_t));
    e->weights = (float *)xcalloc(room, sizeof(float));
    e->sampled = (int32_t *)xcalloc(batch, sizeof(int32_t));
    e->index = (int64_t *)xcalloc(batch, sizeof(int64_t));
    e->rows = (SampleRow *)xcalloc(batch, sizeof(SampleRow));
    e->logp = (float *)model_host_alloc(room * (int64_t)sizeof(float));
    e->sampled_logp = (float *)model_host_alloc(batch * (int64_t)sizeof(float));
    e->logits = (float *)model_host_alloc(model_config(m)->vocab_size * (int64_t)sizeof(float));
    return e;
}
FN void engine_free(Engine *e) {
    if (!e) return;
    model_host_free(e->logp); model_host_free(e->sampled_logp); model_host_free(e->logits);
    free(e->pages); free(e->buckets); free(e->running); free(e->waiting); free(e->finished); free(e->targets); free(e->weights); free(e->sampled); free(e->index); free(e->rows);
    free(e->call.tokens); free(e->call.positions); free(e->call.sequence); free(e->call.pages);
    free(e);
}

FN void request_free(Request *r) {   // what engine_add and the engine have put into it, and its ids
    ids_free(&r->ids);
    buffer_free(&r->text);
    free(r->logp); free(r->set_probability);
    r->logp = NULL; r->set_probability = NULL;
}

FN void requests_push(Request ***list, int64_t *n, int64_t *cap, Request *r) {
    if (*n == *cap) {
        *cap = *cap ? 2 * *cap : 16;
        *list = (Request **)xrealloc(*list, *cap, sizeof(Request *));
    }
    (*list)[(*n)++] = r;
}

// positions that a request may fill; the last token that is generated is never put through the model
FN int64_t request_positions(const Request *r) { return r->ids.len + (r->max_new > 0 ? r->max_new - 1 : 0); }

FN bool engine_add(Engine *e, Request *r, Error *error) {
    int64_t n = request_positions(r), most = e->call.width < e->num_pages ? e->call.width : e->num_pages;
    r->prompt_length = r->ids.len;
    r->finish = FINISH_NOT_YET;
    r->logp = (float *)xcalloc(r->given + r->max_new, sizeof(float));
    r->set_probability = (double *)xcalloc(r->num_sets + 1, sizeof(double));
    if (r->prompt_length < 1 || r->given >= r->prompt_length) return fail(error, "request %" PRId64 ": a prompt of %" PRId64 " tokens, expected at least %" PRId64, r->number, r->prompt_length, r->given + 1);
    if (pages_for(n) > most) return fail(error, "request %" PRId64 ": %" PRId64 " tokens and %" PRId64 " new ones are more than the %" PRId64 " there is room for", r->number, r->prompt_length, r->max_new, most * PAGE_TOKENS);
    requests_push(&e->waiting, &e->num_waiting, &e->cap_waiting, r);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// one call

FN int32_t *engine_table(const Engine *e, int64_t i) { return e->call.pages + i * e->call.width; }

// Puts the next tokens of running[i] into the call, as many as there is room for. Prompt pages that are complete with them get their keys.
FN void engine_place(Engine *e, int64_t i) {
    Sequence *s = &e->running[i];
    Request *r = s->request;
    Call *c = &e->call;
    int64_t n = r->ids.len - s->done < e->room - c->N ? r->ids.len - s->done : e->room - c->N;
    for (int64_t k = 0; k < n; k++, c->N++) {
        int64_t position = s->done + k;
        bool wanted = position + 1 < r->prompt_length && position + 1 >= r->prompt_length - r->given;
        c->tokens[c->N] = r->ids.data[position];
        c->positions[c->N] = (int32_t)position;
        c->sequence[c->N] = (int32_t)i;
        e->targets[c->N] = wanted ? r->ids.data[position + 1] : -1;
        e->weights[c->N] = wanted ? 1.0f : 0.0f;
    }
    s->place = c->N - 1;
    for (int64_t end = s->done + 1; end <= s->done + n && end <= r->prompt_length; end++) {
        if (end % PAGE_TOKENS != 0 && end != r->prompt_length) continue;
        int64_t begin = (end - 1) / PAGE_TOKENS * PAGE_TOKENS;
        s->key = page_key(s->key, r->ids.data + begin, end - begin);
        page_set_key(e, engine_table(e, i)[begin / PAGE_TOKENS], s->key);
    }
    s->done += n;
}

// The first waiting request becomes running[num_running], if there are pages for it. It begins behind what pages have of its prompt, up to the first token whose
// hidden state is needed. If the last of its prompt's pages is being written in this very call, it waits for the next, when there is only a copy to be made.
FN bool engine_admit(Engine *e) {
    Request *r = e->waiting[0];
    Sequence *s = &e->running[e->num_running];
    int32_t *table = engine_table(e, e->num_running), tail = -1;
    int64_t first = r->prompt_length - 1 - r->given, full = first / PAGE_TOKENS, need = pages_for(request_positions(r)), shared = 0;
    memset(s, 0, sizeof *s);
    s->request = r;
    for (int32_t p; shared < full; shared++) {
        XXH128_hash_t key = page_key(s->key, r->ids.data + shared * PAGE_TOKENS, PAGE_TOKENS);
        if ((p = page_find(e, key)) < 0) break;
        page_hold(e, p);
        table[shared] = p;
        s->key = key;
    }
    if (shared == full && r->given == 0) tail = page_find(e, page_key(s->key, r->ids.data + full * PAGE_TOKENS, r->prompt_length - full * PAGE_TOKENS));
    bool wait = tail >= 0 && e->pages[tail].call == e->calls;
    if (tail >= 0 && !wait) page_hold(e, tail);
    if (tail >= 0 && !wait && e->num_free < need - shared) { page_release(e, tail); tail = -1; }   // rather without a copy than not at all
    if (wait || e->num_free < need - shared) {
        for (int64_t k = 0; k < shared; k++) page_release(e, table[k]);
        return false;
    }
    for (s->num_pages = shared; s->num_pages < need;) table[s->num_pages++] = page_take(e);
    s->done = shared * PAGE_TOKENS;
    if (tail >= 0) {
        model_page_copy(e->model, tail, table[full]);
        page_release(e, tail);
        s->done = first;
    }
    e->shared_tokens += s->done;
    e->num_running++;
    memmove(e->waiting, e->waiting + 1, (size_t)--e->num_waiting * sizeof *e->waiting);
    return true;
}

// how probable the sets are behind the prompt, from the logits there; in double, since what is outside is a difference
FN void request_sets(Request *r, const float *logits, int64_t V) {
    double maximum = -INFINITY, sum = 0, inside = 0;
    for (int64_t v = 0; v < V; v++) maximum = logits[v] > maximum ? logits[v] : maximum;
    for (int64_t v = 0; v < V; v++) sum += exp(logits[v] - maximum);
    for (int64_t k = 0; k < r->num_sets; k++) {
        for (int64_t i = 0; i < r->sets[k].ids.len; i++) r->set_probability[k] += exp(logits[r->sets[k].ids.data[i]] - maximum) / sum;
        inside += r->set_probability[k];
    }
    r->set_probability[r->num_sets] = inside < 1 ? 1 - inside : 0;
}

// A drawn token into the request; is it finished? A stop string may begin in earlier tokens and end inside this one.
FN void request_accept(Request *r, const Tokenizer *t, int32_t token, float logp) {
    int64_t n = r->ids.len - r->prompt_length, before = r->text.len, cut = -1;
    ids_add(&r->ids, token);
    r->logp[r->given + n] = logp;
    for (int i = 0; r->stops && i < r->stops->num_tokens; i++) if (token == r->stops->tokens[i]) { r->finish = FINISH_STOP; return; }
    if (t) tokenizer_decode(t, &token, 1, true, &r->text);
    for (int i = 0; r->stops && i < r->stops->strings.n; i++) {
        const char *word = r->stops->strings.items[i];
        int64_t length = (int64_t)strlen(word), from = before > length ? before - length : 0;
        const char *at = r->text.len > from ? (const char *)memmem(r->text.data + from, (size_t)(r->text.len - from), word, (size_t)length) : NULL;
        if (at && (cut < 0 || at - r->text.data < cut)) cut = at - r->text.data;
    }
    for (int64_t i = before; r->stops && r->stops->at_line_end && i < r->text.len && (cut < 0 || i < cut); i++)
        if (r->text.data[i] == '\n' && text_trim(text_make(r->text.data, i)).length) cut = i;
    if (cut >= 0) { r->text.len = cut; r->finish = FINISH_STOP_STRING; }
    else if (n + 1 == r->max_new) r->finish = FINISH_LENGTH;
}

// One call of the model: tokens in, what is asked about them out; requests that are finished with it move to e->finished.
FN void engine_call(Engine *e) {
    Call *c = &e->call;
    int64_t wanted = 0, scored = 0, sampled = 0, left = 0;
    c->N = 0;
    e->calls++;
    for (int pass = 0; pass < 2; pass++)   // single tokens first: they always have room, so nobody who is running waits for a prompt
        for (int64_t i = 0; i < e->num_running; i++) {
            bool prompt = e->running[i].done < e->running[i].request->prompt_length;
            e->running[i].place = pass == 0 ? -1 : e->running[i].place;
            if (prompt == (pass == 1) && c->N < e->room) engine_place(e, i);
        }
    while (e->num_waiting && e->num_running < e->batch && c->N < e->room && engine_admit(e)) engine_place(e, e->num_running - 1);
    CHECK(c->N > 0);
    c->own = true;
    for (int64_t n = 0; n < c->N; n++) c->own = c->own && e->pages[engine_table(e, c->sequence[n])[c->positions[n] / PAGE_TOKENS]].refs == 1;
    model_generate_forward(e->model, c);
    e->computed_tokens += c->N;
    for (int64_t i = 0; i < c->N; i++) scored += e->weights[i] != 0.0f;
    if (scored) {
        Batch b = {1, c->N, c->tokens, c->positions, e->targets, e->weights, true};
        model_head(e->model, &b, NULL, e->logp);
        model_wait(e->model);
    }
    for (int64_t i = 0; i < c->N && scored; i++) {
        Request *r = e->running[c->sequence[i]].request;
        if (e->weights[i] != 0.0f) r->logp[c->positions[i] + 1 - (r->prompt_length - r->given)] = e->logp[i];
    }
    for (int64_t i = 0; i < e->num_running; i++) {
        Sequence *s = &e->running[i];
        Request *r = s->request;
        if (s->place < 0 || s->done < r->ids.len) continue;
        if (r->num_sets && r->ids.len == r->prompt_length) {
            model_logits(e->model, &s->place, 1, e->logits);
            request_sets(r, e->logits, model_config(e->model)->vocab_size);
        }
        if (r->max_new == 0) { r->finish = FINISH_SCORED; continue; }
        SampleRow row = {r->sampling, r->seed, r->ids.len, r->ids.data, r->ids.len};
        e->rows[wanted] = row;
        e->index[wanted++] = s->place;
    }
    if (wanted) model_sample(e->model, e->index, wanted, e->rows, e->sampled, e->sampled_logp);
    for (int64_t i = 0; i < e->num_running; i++) {   // in the same order; who is finished leaves, the others close ranks
        Sequence s = e->running[i];
        Request *r = s.request;
        if (s.place >= 0 && s.done == r->ids.len && r->max_new > 0) {
            request_accept(r, e->tokenizer, e->sampled[sampled], e->sampled_logp[sampled]);
            sampled++;
            e->new_tokens++;
        }
        if (r->finish) {
            for (int64_t k = 0; k < s.num_pages; k++) page_release(e, engine_table(e, i)[k]);
            requests_push(&e->finished, &e->num_finished, &e->cap_finished, r);
            continue;
        }
        if (left < i) memcpy(engine_table(e, left), engine_table(e, i), (size_t)s.num_pages * sizeof(int32_t));
        e->running[left++] = s;
    }
    e->num_running = left;
}

FN Request *engine_next(Engine *e) {
    while (e->num_finished == 0 && (e->num_running || e->num_waiting)) engine_call(e);
    if (e->num_finished == 0) return NULL;
    Request *r = e->finished[0];
    memmove(e->finished, e->finished + 1, (size_t)--e->num_finished * sizeof *e->finished);
    return r;
}

// ---------------------------------------------------------------------------------------------------------------
// what ends an answer, and words as tokens

FN void stops_add(Stops *s, int32_t token) {
    for (int i = 0; i < s->num_tokens; i++) if (s->tokens[i] == token) return;
    if (token >= 0 && s->num_tokens < MAX_STOP_TOKENS) s->tokens[s->num_tokens++] = token;
}
// config.json's eos, the tokenizer's, and the ends of turn of all templates: a base model's eos is not always that of its chat
FN void stops_find(Stops *s, const Config *config, const Tokenizer *t) {
    s->num_tokens = 0;
    s->at_line_end = false;
    for (int i = 0; i < config->num_eos; i++) stops_add(s, (int32_t)config->eos[i]);
    stops_add(s, tokenizer_eos(t));
    for (int i = 0; i < NUM_TEMPLATES; i++) stops_add(s, tokenizer_find(t, chat_definitions[i].turns[CHAT_ASSISTANT].end));
}

// All tokens that spell `word`, whatever their case and the white space around it. A spelling of several tokens is not among them: its mass is outside.
FN TokenSet token_set(const Tokenizer *t, const char *word) {
    TokenSet set = {word, {NULL, 0, 0}};
    Buffer b = {NULL, 0, 0};
    for (int32_t id = 0; id < tokenizer_vocab_size(t); id++) {
        b.len = 0;
        tokenizer_decode(t, &id, 1, true, &b);
        const char *text = b.data;
        int64_t length = b.len;
        if (length == 0) continue;
        chat_trim(&text, &length);
        if (length == (int64_t)strlen(word) && strncasecmp(text, word, (size_t)length) == 0) ids_add(&set.ids, id);
    }
    buffer_free(&b);
    return set;
}

#endif
