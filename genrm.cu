// genrm.cu: answers from a model. `genrm sample` puts the prompts of a JSONL file to it, N times each, and appends an answer a line as they finish.
//
//     prompts (JSONL) -> ids by the chat template -> the engine (findap/generate.h) -> answers (JSONL), and beside them OUT.run: what run they are of
//
// Nothing of a killed run is lost but what was being generated: lines are whole or cut off at the end of the file, where the next start of the same command removes the rest, and
// an answer depends on its prompt, its number and the settings alone, so it does not matter when it is made. A run with other settings is refused: its answers would be
// draws from another distribution in the same file.
//
// Every run ends with the share of answers that reached the cap (overlength ratio), tokens a second, and how far log-probs of generation lie from those of a training pass over
// the same answers: one is made token by token from pages, the other from whole rows.
//
// Compiled twice: as CUDA over train_findap.cu (genrm), as C over the CPU reference (genrm_cpu).
#define FINDAP_LIBRARY          // the model, without its main()
#ifdef __CUDACC__
#include "train_findap.cu"
#else
#include "train_findap.c"
#endif
#include "findap/flags.h"       // defines: flags_parse, flags_help, flag_unused
#include "findap/generate.h"    // defines: Engine, Request, engine_add, engine_next, stops_find
#include "findap/log.h"         // defines: log_banner, FINDAP_DEVICE, json_finite
#include "findap/lora.h"        // defines: lora_read_config, lora_load_dir
#include "findap/messages.h"    // defines: MessageList, parse_messages, begins_well
#include "findap/model_dir.h"   // defines: model_load_dir, model_hash

enum { CHECKED_ANSWERS = 32 };   // whose log-probs are computed a second time
#ifdef __CUDACC__
enum { CALL_TOKENS = 2048 };     // room of a call at least: prompts come in pieces of it, and a GPU wants large ones
#else
enum { CALL_TOKENS = 256 };
#endif
#define PROGRESS_SECONDS 10

typedef struct {
    const char *model, *prompts, *out, *adapter, *template_name, *system;
    int64_t n, max_new, seed, batch;
    Sampling sampling;
    StringList stop;
    bool dry_run, quiet;
} SampleOptions;

// A prompt: its row of the file as it goes out again, with "prompt" in place of "messages"; its ids
typedef struct { json_t *row; Ids ids; } Prompt;

typedef struct {
    SampleOptions *options;
    Config config;
    ModelOptions memory;
    Tokenizer *tokenizer;
    ChatTemplate chat;
    Prompt *prompts;             // (num_prompts)
    int64_t num_prompts, longest, ended_in_answer;   // longest: ids of the longest prompt
    uint8_t *done;               // (num_prompts * n) is that answer in the file?
    FILE *out;
    int64_t finishes[NUM_FINISHES], answers, resumed;
    double logp_difference, logp_largest;   // generation against training: sum over tokens, and the largest
    int64_t logp_tokens;
} Sample;

// ---------------------------------------------------------------------------------------------------------------
// prompts

FN const char *const output_fields[] = {"row", "sample", "prompt", "answer", "tokens", "finish", "reached_cap", "logp", "token_logps", NULL};

// One row. An assistant turn at the end of "messages" is the answer that the row brings: it goes out as "completion", as prepare calls it, and is not shown to the model.
FN bool sample_row(Sample *s, json_t *row, const char *where, Prompt *p, Error *e) {
    Error inner;
    inner.text[0] = 0;
    MessageList list = {NULL, 0, 0}, shown = {NULL, 0, 0};
    const char *field = !json_is_object(row) ? NULL : json_object_get(row, "messages") ? "messages" : json_object_get(row, "conversations") ? "conversations" : json_object_get(row, "prompt") ? "prompt" : NULL;
    bool ok = field || fail(&inner, json_is_object(row) ? "expected \"prompt\" or \"messages\"" : "the row is %s, expected an object", json_type_name(row));
    bool prompt = ok && strcmp(field, "prompt") == 0;
    ok = ok && parse_messages(row, field, prompt ? "user" : NULL, &list, &inner) && begins_well(&list, field, &inner);
    const Message *last = ok ? &list.items[list.n - 1] : NULL, *gold = NULL;
    if (ok && !prompt && strcmp(last->role, "assistant") == 0) { gold = last; list.n--; s->ended_in_answer++; }
    if (ok && strcmp(list.items[list.n - 1].role, "user") != 0) ok = fail(&inner, "\"%s\" ends with %s %s turn, expected a user turn", field, list.items[list.n - 1].role[0] == 'a' ? "an" : "a", list.items[list.n - 1].role);
    if (ok) {
        Message system = {"system", s->options->system, s->options->system ? (int64_t)strlen(s->options->system) : 0};
        bool add = s->options->system && strcmp(list.items[0].role, "system") != 0;
        shown.items = (Message *)xcalloc(list.n + add, sizeof(Message));
        if (add) shown.items[shown.n++] = system;
        memcpy(shown.items + shown.n, list.items, (size_t)list.n * sizeof(Message));
        shown.n += list.n;
        ok = chat_render(s->tokenizer, s->chat, shown.items, shown.n, true, &p->ids, NULL, &inner);
    }
    if (ok) {
        json_t *asked = prompt ? json_incref(json_object_get(row, "prompt")) : json_array();
        for (int i = 0; i < list.n && !prompt; i++) json_array_append_new(asked, json_pack("{s:s,s:s%}", "role", list.items[i].role, "content", list.items[i].content, (size_t)list.items[i].length));
        p->row = json_object();
        const char *key;
        json_t *value;
        json_object_foreach(row, key, value) {   // all that we don't write ourselves goes through
            bool ours = strcmp(key, "messages") == 0 || strcmp(key, "conversations") == 0;
            for (int i = 0; output_fields[i]; i++) ours = ours || strcmp(key, output_fields[i]) == 0;
            if (!ours) json_object_set(p->row, key, value);
        }
        json_object_set_new(p->row, "prompt", asked);
        if (gold) json_object_set_new(p->row, "completion", json_stringn(gold->content, (size_t)gold->length));
    }
    free(list.items); free(shown.items);
    return ok || fail(e, "%s: %s", where, inner.text);
}

FN bool sample_prompts(Sample *s, Error *e) {
    const SampleOptions *o = s->options;
    Mapped m;
    if (!map_file(o->prompts, &m, e)) return false;
    bool ok = true;
    int64_t number = 0, cap = 0, most = s->config.max_position;
    for (int64_t at = 0; ok && at < m.size;) {
        const uint8_t *end = (const uint8_t *)memchr(m.data + at, '\n', (size_t)(m.size - at));
        int64_t length = end ? end - (m.data + at) : m.size - at;
        number++;
        if (length > 0) {
            char *where = xprintf("%s:%" PRId64, o->prompts, number);
            if (s->num_prompts == cap) s->prompts = (Prompt *)xrealloc(s->prompts, cap = cap ? 2 * cap : 64, sizeof(Prompt));
            Prompt *p = &s->prompts[s->num_prompts++];
            memset(p, 0, sizeof *p);
            json_t *row = json_parse(where, (const char *)m.data + at, length, e);
            ok = row && sample_row(s, row, where, p, e);
            json_decref(row);
            if (ok && p->ids.len == 0) ok = fail(e, "%s: the prompt has no tokens", where);
            if (ok && p->ids.len + o->max_new - 1 > most) ok = fail(e, "%s: a prompt of %" PRId64 " tokens and --max-new %" PRId64 " are more than the model's %" PRId64 " positions ---> shorten one of them, or remove the row", where, p->ids.len, o->max_new, most);
            s->longest = p->ids.len > s->longest ? p->ids.len : s->longest;
            free(where);
        }
        at += length + 1;
    }
    unmap_file(&m);
    return ok && (s->num_prompts > 0 || fail(e, "%s: has no prompts", o->prompts));
}

// ---------------------------------------------------------------------------------------------------------------
// the file of answers, and of which run they are

// All that an answer depends on: who has the same may go on. Not the batch.
FN json_t *sample_identity(const Sample *s, Error *e) {
    const SampleOptions *o = s->options;
    Hash model, prompts, tokenizer = {""}, adapter = {""}, weights = {""};
    memcpy(tokenizer.hex, tokenizer_hash(s->tokenizer), sizeof tokenizer.hex);
    if (!model_hash(o->model, &model, e) || !hash_file(o->prompts, &prompts, e)) return NULL;
    if (o->adapter) {
        char *a = path_join(o->adapter, "adapter_config.json"), *b = path_join(o->adapter, "adapter_model.safetensors");
        bool ok = hash_file(a, &adapter, e) && hash_file(b, &weights, e);
        free(a); free(b);
        if (!ok) return NULL;
    }
    json_t *stop = json_array();
    for (int i = 0; i < o->stop.n; i++) json_array_append_new(stop, json_string(o->stop.items[i]));
    json_t *j = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s?,s:o,s:I,s:I,s:I,s:f,s:I,s:f,s:f,s:f}", "format", "findap-sample-1", "device", FINDAP_DEVICE, "model_hash", model.hex, "adapter_config_hash", adapter.hex, "adapter_hash", weights.hex,
                          "prompts_hash", prompts.hex, "tokenizer_hash", tokenizer.hex, "template_hash", chat_hash(s->chat), "system", o->system, "stop", stop, "n", (json_int_t)o->n, "max_new", (json_int_t)o->max_new, "seed", (json_int_t)o->seed,
                          "temperature", o->sampling.temperature, "top_k", (json_int_t)o->sampling.top_k, "top_p", o->sampling.top_p, "min_p", o->sampling.min_p, "repetition_penalty", o->sampling.repetition_penalty);
    if (!j) fail(e, "--system or --stop is not UTF-8");
    return j;
}

FN bool same_identity(const char *path, json_t *mine, Error *e) {
    json_t *theirs = json_parse_file(path, 1 << 20, e), *value;
    bool ok = theirs != NULL;
    const char *key;
    if (ok) json_object_foreach(mine, key, value) {
        const json_t *other = json_object_get(theirs, key);
        if (!ok || json_equal(value, other)) continue;
        char *a = other ? json_dumps(other, JSON_ENCODE_ANY | JSON_REAL_PRECISION(10)) : xstrdup("missing"), *b = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(10));
        ok = fail(e, "%s: the answers there are of another run: \"%s\" is %.100s, here %.100s ---> give the same settings, or another --out", path, key, a, b);
        free(a); free(b);
    }
    json_decref(theirs);
    return ok;
}

// Takes in the answers that the file has; *end: bytes of whole lines
FN bool sample_read_answers(Sample *s, int64_t *end, Error *e) {
    const SampleOptions *o = s->options;
    Mapped m;
    if (!map_file(o->out, &m, e)) return false;
    bool ok = true;
    int64_t line = 0;
    *end = 0;
    for (const uint8_t *newline; ok && *end < m.size && (newline = (const uint8_t *)memchr(m.data + *end, '\n', (size_t)(m.size - *end))) != NULL;) {
        char *where = xprintf("%s:%" PRId64, o->out, ++line);
        int64_t row = 0, sample = 0;
        const char *finish = NULL;
        int k = 1;
        json_t *j = json_parse(where, (const char *)m.data + *end, newline - (m.data + *end), e);
        ok = j && json_get_int(j, "row", where, true, 0, s->num_prompts - 1, &row, e) && json_get_int(j, "sample", where, true, 0, o->n - 1, &sample, e) && json_get_string(j, "finish", where, true, &finish, e);
        while (ok && k < NUM_FINISHES && strcmp(finish, finish_names[k]) != 0) k++;
        if (ok && k == NUM_FINISHES) ok = fail(e, "%s: \"finish\" is \"%s\", expected stop, length or stop_string ---> remove the line", where, finish);
        if (ok && s->done[row * o->n + sample]) ok = fail(e, "%s: row %" PRId64 ", sample %" PRId64 " is there twice ---> remove one of the lines", where, row, sample);
        if (ok) { s->done[row * o->n + sample] = 1; s->finishes[k]++; s->answers++; s->resumed++; }
        json_decref(j);
        free(where);
        *end = newline + 1 - m.data;
    }
    if (ok && *end < m.size && !o->quiet) fprintf(stderr, "%s: the last line was cut off by a kill; it is removed and made again\n", o->out);
    unmap_file(&m);
    return ok;
}

FN bool sample_open(Sample *s, Error *e) {
    const SampleOptions *o = s->options;
    int64_t end = 0;
    json_t *mine = sample_identity(s, e);
    char *run = xprintf("%s.run", o->out), *text = mine ? json_dumps(mine, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    s->out = mine ? fopen(o->out, "ab") : NULL;
    bool ok = mine && (s->out || fail(e, "%s: cannot be written: %s ---> is the directory there and writable?", o->out, strerror(errno)));
    if (ok && flock(fileno(s->out), LOCK_EX | LOCK_NB) != 0) ok = fail(e, "%s: another run is writing here ---> use another --out, or wait for it to end", o->out);
    struct stat st;
    ok = ok && (fstat(fileno(s->out), &st) == 0 || fail(e, "%s: %s", o->out, strerror(errno)));
    if (ok && st.st_size == 0) ok = write_file(run, text, (int64_t)strlen(text), e);
    else if (ok && !file_exists(run)) ok = fail(e, "%s: is there and not of this program: no %s.run ---> use another --out, or remove the file", o->out, o->out);
    else ok = ok && same_identity(run, mine, e);
    ok = ok && sample_read_answers(s, &end, e);
    if (ok && ftruncate(fileno(s->out), end) != 0) ok = fail(e, "%s: cannot be shortened: %s", o->out, strerror(errno));
    if (ok && s->resumed && !o->quiet) fprintf(stderr, "resumed: %" PRId64 " of %" PRId64 " answers are in %s\n", s->resumed, s->num_prompts * o->n, o->out);
    json_decref(mine);
    free(text); free(run);
    return ok;
}

FN void add_text(Buffer *b, const char *text) { buffer_add(b, text, (int64_t)strlen(text)); }
FN void add_number(Buffer *b, double x) {
    char text[32];
    snprintf(text, sizeof text, isfinite(x) ? "%.9g" : "null", x);   // nine digits are a float, exactly
    add_text(b, text);
}

// One line, by one write: a kill leaves it whole or cut, never mixed
FN bool sample_write(Sample *s, const Request *r, Error *e) {
    const SampleOptions *o = s->options;
    const Prompt *p = &s->prompts[r->number / o->n];
    Buffer b = {NULL, 0, 0};
    char *input = json_dumps(p->row, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17)), number[96];
    int64_t n = r->ids.len - r->prompt_length;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += r->logp[i];
    CHECK(input);
    snprintf(number, sizeof number, "{\"row\":%" PRId64 ",\"sample\":%" PRId64 ",", r->number / o->n, r->number % o->n);
    add_text(&b, number);
    buffer_add(&b, input + 1, (int64_t)strlen(input) - 2);   // without its braces; it has "prompt" at least
    add_text(&b, ",\"answer\":");
    json_add_string(&b, r->text.data ? r->text.data : "", r->text.len);
    snprintf(number, sizeof number, ",\"tokens\":%" PRId64 ",\"finish\":\"%s\",\"reached_cap\":%s,\"logp\":", n, finish_names[r->finish], r->finish == FINISH_LENGTH ? "true" : "false");
    add_text(&b, number);
    add_number(&b, sum);
    for (int64_t i = 0; i < n; i++) { add_text(&b, i ? "," : ",\"token_logps\":["); add_number(&b, r->logp[i]); }
    add_text(&b, "]}\n");
    bool ok = fwrite(b.data, 1, (size_t)b.len, s->out) == (size_t)b.len && fflush(s->out) == 0;
    if (!ok) fail(e, "%s: write failed: %s ---> is the disk full? Answers before this one are there; the same command goes on", o->out, strerror(errno));
    buffer_free(&b);
    free(input);
    s->finishes[r->finish]++;
    s->answers++;
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// the run

// The answer's log-probs again, as training has them: its tokens in one row behind the prompt
FN void sample_check(Sample *s, Model *m, const Request *r) {
    int64_t T = r->ids.len - 1, first = r->prompt_length - 1;
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

FN Request *sample_request(const Sample *s, int64_t number, const Stops *stops) {
    const SampleOptions *o = s->options;
    const Prompt *p = &s->prompts[number / o->n];
    Request *r = (Request *)xcalloc(1, sizeof(Request));
    r->number = number; r->max_new = o->max_new; r->sampling = o->sampling; r->stops = stops;
    r->seed = random_u64((uint64_t)o->seed, (uint64_t)(number / o->n), (uint64_t)(number % o->n));   // of the row and the sample: another --n has the same first answers
    ids_reserve(&r->ids, p->ids.len + o->max_new);
    memcpy(r->ids.data, p->ids.data, (size_t)p->ids.len * sizeof(int32_t));
    r->ids.len = p->ids.len;
    return r;
}

FN void sample_summary(const Sample *s, const Engine *g, double seconds) {
    double n = (double)s->answers, p = s->answers ? (double)s->finishes[FINISH_LENGTH] / n : 0, error = s->answers > 1 ? sqrt(p * (1 - p) / (n - 1)) : 0, speed = g->new_tokens ? (double)g->new_tokens / seconds : 0;
    json_t *mean = s->logp_tokens ? json_finite(s->logp_difference / (double)s->logp_tokens) : json_null(), *largest = s->logp_tokens ? json_finite(s->logp_largest) : json_null();
    json_t *j = json_pack("{s:I,s:I,s:I,s:f,s:f,s:I,s:I,s:I,s:I,s:f,s:I,s:I,s:o,s:o,s:I}", "prompts", (json_int_t)s->num_prompts, "answers", (json_int_t)s->answers, "new_answers", (json_int_t)(s->answers - s->resumed),
                          "overlength_ratio", p, "overlength_ratio_stderr", error, "stop", (json_int_t)s->finishes[FINISH_STOP], "stop_string", (json_int_t)s->finishes[FINISH_STOP_STRING], "length", (json_int_t)s->finishes[FINISH_LENGTH],
                          "new_tokens", (json_int_t)g->new_tokens, "new_tokens_per_second", speed, "computed_tokens", (json_int_t)g->computed_tokens, "shared_prompt_tokens", (json_int_t)g->shared_tokens,
                          "logp_difference_largest", largest, "logp_difference_mean", mean, "logp_compared_tokens", (json_int_t)s->logp_tokens);
    char *text = json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
    puts(text);
    fflush(stdout);
    free(text);
    json_decref(j);
    if (s->options->quiet) return;
    fprintf(stderr, "%" PRId64 " answers to %" PRId64 " prompts: %.1f +- %.1f %% reached the cap of %" PRId64 " tokens (overlength ratio), %" PRId64 " ended, %" PRId64 " met a stop string\n", s->answers, s->num_prompts, 100 * p, 100 * error,
            s->options->max_new, s->finishes[FINISH_STOP], s->finishes[FINISH_STOP_STRING]);
    fprintf(stderr, "%" PRId64 " new tokens in %.1f s, %.1f tok/s; of the prompts %" PRId64 " tokens were in pages already\n", g->new_tokens, seconds, speed, g->shared_tokens);
    if (s->logp_tokens) fprintf(stderr, "log-probs of generation and training: %" PRId64 " tokens differ by %.1e on average, %.1e at most\n", s->logp_tokens, s->logp_difference / (double)s->logp_tokens, s->logp_largest);
    else fprintf(stderr, "log-probs of generation and training: nothing was generated, nothing to compare\n");
}

FN bool sample_answers(Sample *s, Model *m, Engine *g, Error *e) {
    const SampleOptions *o = s->options;
    Stops stops;
    stops_find(&stops, &s->config, s->tokenizer);
    stops.strings = o->stop;
    int64_t total = s->num_prompts * o->n, next = 0, added = 0, check_below = 0, checks = 0;
    Request *checked[CHECKED_ANSWERS];
    double start = seconds_now(), said = start;
    bool ok = true;
    while (ok) {
        for (; ok && next < total && g->num_waiting < o->batch; next++) {
            if (s->done[next]) continue;
            ok = engine_add(g, sample_request(s, next, &stops), e);
            if (++added <= CHECKED_ANSWERS) check_below = next + 1;
        }
        Request *r = ok ? engine_next(g) : NULL;
        if (!r) break;
        ok = sample_write(s, r, e);
        if (r->number < check_below) checked[checks++] = r;
        else { request_free(r); free(r); }
        double now = seconds_now();
        if (o->quiet || now - said < PROGRESS_SECONDS) continue;
        fprintf(stderr, "%" PRId64 "/%" PRId64 " answers | overlength %5.1f %% | %.1f tok/s\n", s->answers, total, 100.0 * (double)s->finishes[FINISH_LENGTH] / (double)s->answers, (double)g->new_tokens / (now - start));
        said = now;
    }
    double seconds = seconds_now() - start;
    for (int64_t i = 0; i < checks; i++) { if (ok) sample_check(s, m, checked[i]); request_free(checked[i]); free(checked[i]); }
    if (ok) CHECK(g->num_free == g->num_pages);
    if (ok) sample_summary(s, g, seconds);
    return ok;
}

FN int sample_flags(SampleOptions *o, Flag *flags) {
    memset(o, 0, sizeof *o);
    o->n = 1; o->max_new = 256; o->batch = 32; o->seed = 1; o->sampling.temperature = 1; o->sampling.top_p = 1; o->sampling.repetition_penalty = 1;
    const Flag table[] = {
        {"--model", FLAG_STRING, &o->model, "DIR", "Hugging Face model directory", 0, 0, false},
        {"--prompts", FLAG_STRING, &o->prompts, "FILE", "JSONL rows {\"prompt\"} or {\"messages\"}; an answer at the end of these is kept as \"completion\"", 0, 0, false},
        {"--out", FLAG_STRING, &o->out, "FILE", "JSONL, a line an answer as they finish; the same command goes on after a kill", 0, 0, false},
        {"--adapter", FLAG_STRING, &o->adapter, "DIR", "PEFT's adapter directory on top of --model", 0, 0, false},
        {"--n", FLAG_INT, &o->n, "N", "answers a prompt", 1, 1e6, false},
        {"--max-new", FLAG_INT, &o->max_new, "N", "most tokens of an answer: what has not ended by then has reached the cap", 1, 1 << 20, false},
        {"--temperature", FLAG_DOUBLE, &o->sampling.temperature, "X", "logits are divided by it, 0: greedy", 0, 100, false},
        {"--top-k", FLAG_INT, &o->sampling.top_k, "N", "draw from the N most probable tokens only, 0: all", 0, 1 << 22, false},
        {"--top-p", FLAG_DOUBLE, &o->sampling.top_p, "X", "... from the most probable that together have this probability", 1e-9, 1, false},
        {"--min-p", FLAG_DOUBLE, &o->sampling.min_p, "X", "... from those at least this times as probable as the first", 0, 1, false},
        {"--repetition-penalty", FLAG_DOUBLE, &o->sampling.repetition_penalty, "X", "divides logits of tokens that were there, prompt included; 1: not", 0.01, 100, false},
        {"--seed", FLAG_INT, &o->seed, "N", "of all draws", 0, 4e18, false},
        {"--stop", FLAG_LIST, &o->stop, "TEXT", "an answer ends before the first of these", 0, 0, false},
        {"--template", FLAG_STRING, &o->template_name, "NAME", "chat template (default: by the tokenizer's special tokens)", 0, 0, false},
        {"--system", FLAG_STRING, &o->system, "TEXT", "system turn of rows that have none", 0, 0, false},
        {"--batch", FLAG_INT, &o->batch, "N", "answers at a time: memory and speed, not result", 1, 65536, false},
        {"--dry-run", FLAG_BOOL, &o->dry_run, NULL, "print prompts, tokens and memory, then exit", 0, 0, false},
        {"--quiet", FLAG_BOOL, &o->quiet, NULL, "nothing on stderr but warnings and errors", 0, 0, false},
    };
    memcpy(flags, table, sizeof table);
    return (int)(sizeof table / sizeof *table);
}

FN bool sample_settings(SampleOptions *o, Flag *flags, int n, Error *e) {
    static const char *const drawing[] = {"--top-k", "--top-p", "--min-p", "--seed"};
    if (!o->model || !o->prompts || (!o->out && !o->dry_run)) return fail(e, "%s is missing ---> see genrm sample --help", !o->model ? "--model" : !o->prompts ? "--prompts" : "--out");
    for (int i = 0; i < 4 && o->sampling.temperature == 0; i++) if (!flag_unused(flags, n, drawing[i], "--temperature 0 takes the most probable token", e)) return false;
    if (o->sampling.temperature == 0 && o->n > 1) return fail(e, "--n is %" PRId64 " with --temperature 0: all answers would be the same ---> give a temperature above 0", o->n);
    if (o->dry_run && !flag_unused(flags, n, "--quiet", "--dry-run does nothing but print", e)) return false;
    for (int i = 0; i < o->stop.n; i++) if (!*o->stop.items[i]) return fail(e, "--stop has an empty text, expected at least one character");
    return true;
}

FN bool sample_run(Sample *s, Error *e) {
    const SampleOptions *o = s->options;
    char plan[MODEL_PLAN_SIZE];
    if (!config_load(o->model, &s->config, e) || (o->adapter && !lora_read_config(o->adapter, &s->memory.lora, e)) || !model_check(&s->config, &s->memory, e)) return false;
    s->tokenizer = tokenizer_load(o->model, e);
    if (!s->tokenizer) return false;
    if (tokenizer_vocab_size(s->tokenizer) > s->config.vocab_size)
        return fail(e, "%s: the tokenizer has %" PRId64 " ids, the model %" PRId64 " ---> do they belong together?", o->model, tokenizer_vocab_size(s->tokenizer), (int64_t)s->config.vocab_size);
    s->chat = chat_guess(s->tokenizer);
    if ((o->template_name && !chat_find(o->template_name, &s->chat, e)) || !sample_prompts(s, e)) return false;
    // room: of a call at least a few hundred tokens, so that prompts do not come in by drops; of pages what a full batch of the longest may need
    int64_t T = s->longest + o->max_new - 1, answers = s->num_prompts * o->n, batch = o->batch < answers ? o->batch : answers, B = ((batch > CALL_TOKENS ? batch : CALL_TOKENS) + T - 1) / T, pages = batch * pages_for(T) + 1, tokens = 0;
    for (int64_t i = 0; i < s->num_prompts; i++) tokens += s->prompts[i].ids.len;
    int64_t bytes = model_memory_bytes(&s->config, B, T, false, &s->memory, plan);
    double MiB = 1048576.0;
    if (!o->quiet) {
        fprintf(stderr, "%" PRId64 " prompts of %" PRId64 " tokens in all, template %s", s->num_prompts, tokens, chat_name(s->chat));
        if (s->ended_in_answer) fprintf(stderr, "; %" PRId64 " ended with an answer, which is kept as \"completion\"", s->ended_in_answer);
        fprintf(stderr, "; %" PRId64 " answers each, at most %" PRId64 " new tokens\n", o->n, answers * o->max_new);
        fprintf(stderr, "memory: %.1f MiB (%s), %" PRId64 " pages of %d tokens %.1f MiB\n", (double)bytes / MiB, plan, pages, PAGE_TOKENS, (double)model_pages_bytes(&s->config, pages) / MiB);
        lora_print(&s->memory.lora);
    }
    if (o->dry_run) {
        double most = (double)(tokens + answers * o->max_new), parameters = (double)config_num_parameters(&s->config);
        fprintf(stderr, "in all at most %.4g tokens, %.4g parameters, about %.3g FLOPs (2 x parameters x tokens)\n", most, parameters, 2 * most * parameters);
        return true;
    }
    s->done = (uint8_t *)xcalloc(answers, 1);
    if (!sample_open(s, e)) return false;
    Model *m = model_create(&s->config, B, T, false, &s->memory);
    bool ok = model_load_dir(m, o->model, e) && (!o->adapter || lora_load_dir(m, o->adapter, e));
    if (ok) {
        Engine *g = engine_new(m, s->tokenizer, batch, B * T, T, pages);
        ok = sample_answers(s, m, g, e);
        engine_free(g);
    }
    model_free(m);
    return ok;
}

FN int sample_main(int argc, char **argv) {
    SampleOptions o;
    Flag flags[32];
    int n = sample_flags(&o, flags);
    bool help = false;
    Error e;
    Sample s;
    memset(&s, 0, sizeof s);
    s.options = &o;
    bool ok = flags_parse(argc, argv, 2, flags, n, NULL, &help, &e);
    if (ok && help) flags_help("genrm sample --model DIR --prompts FILE.jsonl --out FILE.jsonl [flags]",
                               "Answers to prompts, N each. Rows go out with what they came in with, and \"answer\", \"tokens\", \"finish\" (stop, length, stop_string), \"reached_cap\", \"logp\", \"token_logps\":\n"
                               "log-probs of the model itself, before temperature, penalty and cuts. A summary on stdout, one JSON object.", flags, n);
    ok = ok && (help || sample_settings(&o, flags, n, &e));
    if (ok && !help && !o.quiet) log_banner(FINDAP_DEVICE, argc, argv);
    ok = ok && (help || sample_run(&s, &e));
    if (s.out && fclose(s.out) != 0 && ok) ok = fail(&e, "%s: write failed: %s", o.out, strerror(errno));
    if (!ok) fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    for (int64_t i = 0; i < s.num_prompts; i++) { json_decref(s.prompts[i].row); ids_free(&s.prompts[i].ids); }
    free(s.prompts); free(s.done); free(o.stop.items);
    tokenizer_free(s.tokenizer);
    return ok ? 0 : 1;
}

FN int genrm_main(int argc, char **argv) {
    program_name = "genrm";
    sigbus_message();
    const char *command = argc > 1 ? argv[1] : "";
    if (strcmp(command, "sample") == 0) return sample_main(argc, argv);
    if (strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0) { printf("usage: genrm sample ...   answers to prompts\n\n`genrm COMMAND --help` shows a command's flags\n"); return 0; }
    Error e;
    fail(&e, "the command is \"%s\", expected sample ---> see genrm --help", command);
    fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    return 1;
}

#ifndef GENRM_LIBRARY
int main(int argc, char **argv) { return genrm_main(argc, argv); }
#endif
