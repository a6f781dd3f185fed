// ask.c: puts the questions of a JSONL file to a model, greedily, and counts exactly right answers and those that do not end. The demo's
// yardstick, and a first look at any small model; it keeps no KV cache, so it is for short prompts and short answers. eval.c will take its place.
//
//     ask --model DIR --questions FILE.jsonl      rows {"prompt", "completion", "type" (optional)}; one JSON object on stdout
//
// Two things can go wrong with an answer, and one must not hide the other, so there are three shares, each with its standard error:
//     exact_match        it is the right text, and ended by itself
//     begins_right       it is the right text, or that and something behind it: what the model knows, whether or not it stops
//     overlength_ratio   it reached --max-new tokens without an end
#define FINDAP_LIBRARY
#ifdef __CUDACC__
#include "../train_findap.cu"
#else
#include "../train_findap.c"
#endif
#include "../findap/chat.h"        // defines: chat_find, chat_guess, chat_render
#include "../findap/flags.h"       // defines: flags_parse
#include "../findap/generate.h"    // defines: Stops, stops_find
#include "../findap/json.h"        // defines: json_parse
#include "../findap/model_dir.h"   // defines: model_load_dir
#include "../findap/tokenizer.h"   // defines: tokenizer_load, tokenizer_decode

typedef struct { char *type, *prompt, *want; Ids ids; int64_t prompt_length; bool done, capped; } Question;

static bool read_question(const char *where, const char *line, int64_t length, const Tokenizer *t, ChatTemplate chat, Question *q, Error *e) {
    json_t *row = json_parse_line(where, line, length, e);
    const char *prompt = NULL, *completion = NULL, *type = "all";
    bool ok = row != NULL;
    if (ok && !json_is_object(row)) ok = fail(e, "%s: is %s, expected an object with \"prompt\" and \"completion\"", where, json_type_name(row));
    ok = ok && json_get_string(row, "prompt", where, true, &prompt, e) && json_get_string(row, "completion", where, true, &completion, e) &&
         json_get_string(row, "type", where, false, &type, e);
    if (ok) {
        Message m = {"user", prompt, (int64_t)strlen(prompt)};
        ok = chat_render(t, chat, &m, 1, true, &q->ids, NULL, e);
        q->want = xstrdup(completion);
        q->type = xstrdup(type);
        q->prompt = xstrdup(prompt);
        q->prompt_length = q->ids.len;
    }
    json_decref(row);
    return ok;
}

static Question *read_questions(const char *path, const Tokenizer *t, ChatTemplate chat, int64_t *n, Error *e) {
    Mapped m;
    if (!map_file(path, &m, e)) return NULL;
    Question *q = (Question *)xcalloc(1, sizeof(Question));
    bool ok = true;
    *n = 0;
    int64_t number = 0;
    for (int64_t at = 0; ok && at < m.size;) {
        const uint8_t *end = (const uint8_t *)memchr(m.data + at, '\n', (size_t)(m.size - at));
        int64_t length = end ? end - (m.data + at) : m.size - at;
        number++;
        if (length > 0) {
            char *where = xprintf("%s:%" PRId64, path, number);
            q = (Question *)xrealloc(q, *n + 1, sizeof(Question));
            memset(&q[*n], 0, sizeof(Question));
            ok = read_question(where, (const char *)m.data + at, length, t, chat, &q[(*n)++], e);
            free(where);
        }
        at += length + 1;
    }
    unmap_file(&m);
    if (ok && *n == 0) ok = fail(e, "%s: has no questions", path);
    return ok ? q : NULL;
}

// One greedy token for each unfinished question of q[0..n): a row each; behind a question's tokens its row is an inert document. Returns how many are left.
static int64_t next_tokens(Model *m, Question *q, int64_t n, const Stops *stops, Batch *b, int64_t *index, float *logits) {
    int64_t V = model_config(m)->vocab_size, T = 0, row = 0, left = 0;
    for (int64_t i = 0; i < n; i++) if (!q[i].done && q[i].ids.len > T) T = q[i].ids.len;
    for (int64_t i = 0; i < n; i++) {
        if (q[i].done) continue;
        for (int64_t t = 0; t < T; t++) {
            bool inside = t < q[i].ids.len;
            b->tokens[row * T + t] = inside ? q[i].ids.data[t] : 0;
            b->positions[row * T + t] = (int32_t)(inside ? t : t - q[i].ids.len);
        }
        index[row] = row * T + q[i].ids.len - 1;
        row++;
    }
    b->B = row; b->T = T;
    model_forward(m, b);
    model_logits(m, index, row, logits);
    row = 0;
    for (int64_t i = 0; i < n; i++) {
        if (q[i].done) continue;
        const float *x = logits + row++ * V;
        int32_t best = 0;
        for (int64_t v = 1; v < V; v++) if (x[v] > x[best]) best = (int32_t)v;
        for (int s = 0; s < stops->num_tokens; s++) q[i].done = q[i].done || best == stops->tokens[s];
        if (!q[i].done) { ids_add(&q[i].ids, best); left++; }
    }
    return left;
}

static char *answer_text(const Question *q, const Tokenizer *t) {   // what was generated, without surrounding white space
    Buffer b = {NULL, 0, 0};
    tokenizer_decode(t, q->ids.data + q->prompt_length, q->ids.len - q->prompt_length, true, &b);
    buffer_add(&b, "", 1);
    const char *text = b.data;
    int64_t length = b.len - 1;
    chat_trim(&text, &length);
    char *out = xprintf("%.*s", (int)length, text);
    buffer_free(&b);
    return out;
}

typedef struct { int64_t questions, right, begins, capped, frequent; } Tally;   // frequent: right by always giving the most frequent answer

// into `t`; the answer's text is right, begins right: followed by nothing, or by what cannot be a part of it
static bool tally(Tally *t, const Question *q, const char *text) {
    size_t n = strlen(q->want);
    unsigned char next = strncmp(text, q->want, n) == 0 ? (unsigned char)text[n] : 'x';
    bool right = !q->capped && strcmp(text, q->want) == 0;
    t->questions++;
    t->right += right;
    t->begins += !(next >= 0x80 || (next >= '0' && next <= '9') || ((next | 32) >= 'a' && (next | 32) <= 'z'));
    t->capped += q->capped;
    return right;
}
static json_t *tally_json(const Tally *t) {   // shares with their binomial standard errors
    json_t *j = json_pack("{s:I}", "questions", (json_int_t)t->questions);
    const struct { const char *name; int64_t count; } shares[] = {{"exact_match", t->right}, {"begins_right", t->begins}, {"overlength_ratio", t->capped}};
    double n = (double)t->questions;
    for (int i = 0; i < 3; i++) {
        char name[64];
        double p = (double)shares[i].count / n;
        snprintf(name, sizeof name, "%s_stderr", shares[i].name);
        json_object_set_new(j, shares[i].name, json_real(p));
        json_object_set_new(j, name, json_real(t->questions > 1 ? sqrt(p * (1 - p) / (n - 1)) : 0));
    }
    json_object_set_new(j, "reached_cap", json_integer(t->capped));
    json_object_set_new(j, "most_frequent_answer", json_real((double)t->frequent / n));
    return j;
}

static int64_t most_frequent_answer(const Question *q, int64_t n, const char *type) {   // how often it is the gold answer among questions of `type`
    int64_t best = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t count = 0;
        for (int64_t k = i; k < n; k++) count += strcmp(q[k].type, type) == 0 && strcmp(q[i].type, type) == 0 && strcmp(q[k].want, q[i].want) == 0;
        best = count > best ? count : best;
    }
    return best;
}

static json_t *report(const Question *q, int64_t n, const Tokenizer *t, int64_t show) {
    json_t *types = json_object();
    Tally all = {0, 0, 0, 0, 0};
    for (int64_t i = 0; i < n; i++) if (!json_object_get(types, q[i].type)) {   // types in the order of the file
        Tally of = {0, 0, 0, 0, most_frequent_answer(q, n, q[i].type)};
        for (int64_t k = i; k < n; k++) {
            if (strcmp(q[k].type, q[i].type) != 0) continue;
            char *text = answer_text(&q[k], t);
            bool ok = tally(&of, &q[k], text);
            if (of.questions <= show) {
                char shown[200], prompt[400];
                escape_text(prompt, sizeof prompt, q[k].prompt, strlen(q[k].prompt));
                escape_text(shown, sizeof shown, text, strlen(text));
                fprintf(stderr, "  %s | %s | %s\n", prompt, shown, ok ? "right" : q[k].capped ? "no end" : q[k].want);
            }
            free(text);
        }
        json_object_set_new(types, q[i].type, tally_json(&of));
        all.questions += of.questions; all.right += of.right; all.begins += of.begins; all.capped += of.capped; all.frequent += of.frequent;
    }
    json_t *j = tally_json(&all);   // its most frequent answer: that of each type
    json_object_set_new(j, "by_type", types);
    return j;
}

// One row a question: what was asked, the right answer, the model's. The rows that reached the cap are the pairs of an alignment that teaches to stop:
// prepare --kind pref --fields chosen=completion,rejected=answer,open=reached_cap
static bool save_answers(const char *path, const Question *q, int64_t n, const Tokenizer *t, Error *e) {
    Buffer b = {NULL, 0, 0};
    for (int64_t i = 0; i < n; i++) {
        char *text = answer_text(&q[i], t);
        Tally one = {0, 0, 0, 0, 0};
        const char *const values[] = {q[i].type, q[i].prompt, q[i].want, text};
        static const char *const names[] = {"{\"type\":", ",\"prompt\":", ",\"completion\":", ",\"answer\":"};
        for (int k = 0; k < 4; k++) {
            buffer_add(&b, names[k], (int64_t)strlen(names[k]));
            json_add_string(&b, values[k], (int64_t)strlen(values[k]));
        }
        char *rest = xprintf(",\"tokens\":%" PRId64 ",\"reached_cap\":%s,\"right\":%s}\n", q[i].ids.len - q[i].prompt_length, q[i].capped ? "true" : "false", tally(&one, &q[i], text) ? "true" : "false");
        buffer_add(&b, rest, (int64_t)strlen(rest));
        free(rest); free(text);
    }
    bool ok = write_file(path, b.data, b.len, e);
    buffer_free(&b);
    return ok;
}

int main(int argc, char **argv) {
    program_name = "ask";
    sigbus_message();
    const char *dir = NULL, *questions = NULL, *template_name = NULL, *init = "model", *answers = NULL;
    int64_t max_new = 16, batch = 64, show = 0, init_seed = 1;
    Flag flags[] = {
        {"--model", FLAG_STRING, &dir, "DIR", "Hugging Face model directory", 0, 0, false},
        {"--questions", FLAG_STRING, &questions, "FILE", "JSONL rows {\"prompt\", \"completion\", \"type\" (optional)}", 0, 0, false},
        {"--template", FLAG_STRING, &template_name, "NAME", "chat template (default: by the tokenizer's special tokens)", 0, 0, false},
        {"--max-new", FLAG_INT, &max_new, "N", "most tokens of an answer: what has not ended by then has reached the cap", 1, 4096, false},
        {"--batch", FLAG_INT, &batch, "N", "questions at a time: memory, not result", 1, 4096, false},
        {"--answers", FLAG_STRING, &answers, "FILE", "write every question with its right answer and the model's, as JSONL", 0, 0, false},
        {"--show", FLAG_INT, &show, "N", "print N answers of each type on stderr", 0, 1e6, false},
        {"--init", FLAG_STRING, &init, "WHAT", "model: weights of --model; random: only its config.json", 0, 0, false},
        {"--init-seed", FLAG_INT, &init_seed, "N", "seed of --init random", 0, 1e15, false},
    };
    int num_flags = (int)(sizeof flags / sizeof *flags);
    bool help = false;
    Error e;
    if (!flags_parse(argc, argv, 1, flags, num_flags, NULL, &help, &e)) die("%s", e.text);
    if (help) { flags_help("ask --model DIR --questions FILE.jsonl [flags]", "Greedy answers to short questions: how many are exactly right, and how many do not end by themselves.", flags, num_flags); return 0; }
    if (!dir || !questions) die("--model and --questions are needed ---> see --help");
    bool random = strcmp(init, "random") == 0;
    weights_can_be_drawn = true;
    if (!random && strcmp(init, "model") != 0) die("--init is \"%s\", expected model or random", init);
    if (!random && !flag_unused(flags, num_flags, "--init-seed", "only --init random draws weights", &e)) die("%s", e.text);

    Config config;
    if (!config_load(dir, &config, &e)) die("%s", e.text);
    Tokenizer *t = tokenizer_load(dir, &e);
    if (!t) die("%s", e.text);
    ChatTemplate chat = chat_guess(t);
    if (template_name && !chat_find(template_name, &chat, &e)) die("%s", e.text);
    int64_t n = 0;
    Question *q = read_questions(questions, t, chat, &n, &e);
    if (!q) die("%s", e.text);
    int64_t T = 0;
    for (int64_t i = 0; i < n; i++) T = q[i].ids.len > T ? q[i].ids.len : T;
    T += max_new;
    if (tokenizer_vocab_size(t) > config.vocab_size) die("%s: the tokenizer has %" PRId64 " ids, the model %" PRId64 " ---> do they belong together?", dir, tokenizer_vocab_size(t), config.vocab_size);
    if (batch > n) batch = n;

    Stops stops;
    stops_find(&stops, &config, t);

    Model *m = model_create(&config, batch, T, false, NULL);
    if (random) model_init_random(m, (uint64_t)init_seed);
    else if (!model_load_dir(m, dir, &e)) die("%s", e.text);
    Batch b;
    memset(&b, 0, sizeof b);
    b.tokens = (int32_t *)xcalloc(batch * T, 4);
    b.positions = (int32_t *)xcalloc(batch * T, 4);
    int64_t *index = (int64_t *)xcalloc(batch, 8);
    float *logits = (float *)xcalloc(batch, config.vocab_size * 4);
    for (int64_t first = 0; first < n; first += batch) {
        int64_t rows = n - first < batch ? n - first : batch, left = rows;
        for (int64_t k = 0; k < max_new && left > 0; k++) left = next_tokens(m, q + first, rows, &stops, &b, index, logits);
        for (int64_t i = first; i < first + rows; i++) q[i].capped = !q[i].done;
    }
    if (answers && !save_answers(answers, q, n, t, &e)) die("%s", e.text);
    json_t *j = report(q, n, t, show);
    json_object_set_new(j, "max_new_tokens", json_integer(max_new));
    char *text = json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
    puts(text);
    free(text);
    json_decref(j);
    for (int64_t i = 0; i < n; i++) { free(q[i].type); free(q[i].prompt); free(q[i].want); ids_free(&q[i].ids); }
    free(q); free(b.tokens); free(b.positions); free(index); free(logits);
    model_free(m);
    tokenizer_free(t);
    return 0;
}
