// ask.c: puts the questions of a JSONL file to a model, greedily, and counts exactly right answers. The demo's yardstick, and a
// first look at any small model; it keeps no KV cache, so it is for short prompts and short answers. eval.c will take its place.
//
//     ask --model DIR --questions FILE.jsonl      rows {"prompt", "completion", "type" (optional)}; one JSON object on stdout
#define FINDAP_LIBRARY
#ifdef __CUDACC__
#include "../train_findap.cu"
#else
#include "../train_findap.c"
#endif
#include "../findap/chat.h"        // defines: chat_find, chat_guess, chat_render
#include "../findap/flags.h"       // defines: flags_parse
#include "../findap/json.h"        // defines: json_parse
#include "../findap/model_dir.h"   // defines: model_load_dir
#include "../findap/tokenizer.h"   // defines: tokenizer_load, tokenizer_decode

typedef struct { char *type, *want; Ids ids; int64_t prompt_length; bool done, capped; } Question;

static bool read_question(const char *where, const char *line, int64_t length, const Tokenizer *t, ChatTemplate chat, Question *q, Error *e) {
    json_t *row = json_parse(where, line, length, e);
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

// one greedy token for each unfinished question of q[0..n): a row each; behind a question's tokens its row is an inert document
static void next_tokens(Model *m, Question *q, int64_t n, int64_t T, const int32_t *stops, int num_stops, Batch *b, int64_t *index, float *logits) {
    int64_t V = model_config(m)->vocab_size;
    b->B = n; b->T = T;
    for (int64_t r = 0; r < n; r++) {
        for (int64_t t = 0; t < T; t++) {
            bool inside = t < q[r].ids.len;
            b->tokens[r * T + t] = inside ? q[r].ids.data[t] : 0;
            b->positions[r * T + t] = (int32_t)(inside ? t : t - q[r].ids.len);
        }
        index[r] = r * T + q[r].ids.len - 1;
    }
    model_forward(m, b);
    model_logits(m, index, n, logits);
    for (int64_t r = 0; r < n; r++) {
        if (q[r].done) continue;
        int32_t best = 0;
        for (int64_t v = 1; v < V; v++) if (logits[r * V + v] > logits[r * V + best]) best = (int32_t)v;
        for (int s = 0; s < num_stops; s++) q[r].done = q[r].done || best == stops[s];
        if (!q[r].done) ids_add(&q[r].ids, best);
    }
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

// the share of right answers with its binomial standard error, and what always giving the most frequent answer would score
static json_t *score(int64_t right, int64_t n, int64_t most_frequent) {
    double p = (double)right / (double)n;
    return json_pack("{s:I,s:f,s:f,s:f}", "questions", (json_int_t)n, "exact_match", p, "exact_match_stderr", n > 1 ? sqrt(p * (1 - p) / (double)(n - 1)) : 0.0,
                     "most_frequent_answer", (double)most_frequent / (double)n);
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
    int64_t right = 0, capped = 0, frequent = 0;
    for (int64_t i = 0; i < n; i++) if (!json_object_get(types, q[i].type)) {   // types in the order of the file
        int64_t of = 0, good = 0;
        for (int64_t k = i; k < n; k++) {
            if (strcmp(q[k].type, q[i].type) != 0) continue;
            char *text = answer_text(&q[k], t);
            bool ok = !q[k].capped && strcmp(text, q[k].want) == 0;
            if (of++ < show) {
                char shown[200], prompt[400];
                Buffer b = {NULL, 0, 0};
                tokenizer_decode(t, q[k].ids.data, q[k].prompt_length, true, &b);
                escape_text(prompt, sizeof prompt, b.data, (size_t)b.len);
                escape_text(shown, sizeof shown, text, strlen(text));
                fprintf(stderr, "  %s | %s | %s\n", prompt, shown, ok ? "right" : q[k].capped ? "no end" : q[k].want);
                buffer_free(&b);
            }
            good += ok;
            capped += q[k].capped;
            free(text);
        }
        int64_t most = most_frequent_answer(q, n, q[i].type);
        json_object_set_new(types, q[i].type, score(good, of, most));
        right += good;
        frequent += most;
    }
    json_t *j = score(right, n, frequent);   // over all: the most frequent answer of each type
    json_object_set_new(j, "reached_cap", json_integer(capped));
    json_object_set_new(j, "by_type", types);
    return j;
}

int main(int argc, char **argv) {
    program_name = "ask";
    sigbus_message();
    const char *dir = NULL, *questions = NULL, *template_name = NULL, *init = "model";
    int64_t max_new = 16, batch = 64, show = 0, init_seed = 1;
    Flag flags[] = {
        {"--model", FLAG_STRING, &dir, "DIR", "Hugging Face model directory", 0, 0, false},
        {"--questions", FLAG_STRING, &questions, "FILE", "JSONL rows {\"prompt\", \"completion\", \"type\"}", 0, 0, false},
        {"--template", FLAG_STRING, &template_name, "NAME", "chat template (default: by the tokenizer's special tokens)", 0, 0, false},
        {"--max-new", FLAG_INT, &max_new, "N", "most tokens of an answer", 1, 4096, false},
        {"--batch", FLAG_INT, &batch, "N", "questions at a time: memory, not result", 1, 4096, false},
        {"--show", FLAG_INT, &show, "N", "print N answers of each type on stderr", 0, 1e6, false},
        {"--init", FLAG_STRING, &init, "WHAT", "model: weights of --model; random: only its config.json", 0, 0, false},
        {"--init-seed", FLAG_INT, &init_seed, "N", "seed of --init random", 0, 1e15, false},
    };
    int num_flags = (int)(sizeof flags / sizeof *flags);
    bool help = false;
    Error e;
    if (!flags_parse(argc, argv, 1, flags, num_flags, NULL, &help, &e)) die("%s", e.text);
    if (help) { flags_help("ask --model DIR --questions FILE.jsonl [flags]", "Greedy answers to short questions, and how many are exactly right.", flags, num_flags); return 0; }
    if (!dir || !questions) die("--model and --questions are needed ---> see --help");
    bool random = strcmp(init, "random") == 0;
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

    int32_t stops[16];   // what ends an answer: config.json's eos, and the end of turn of the chat templates
    int num_stops = 0;
    for (int i = 0; i < config.num_eos; i++) stops[num_stops++] = (int32_t)config.eos[i];
    const char *const ends[] = {"<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>"};
    for (int i = 0; i < 4; i++) if (tokenizer_find(t, ends[i]) >= 0) stops[num_stops++] = tokenizer_find(t, ends[i]);

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
        for (int64_t k = 0; k < max_new && left > 0; k++) {
            int64_t longest = 0;
            for (int64_t i = first; i < first + rows; i++) longest = q[i].ids.len > longest ? q[i].ids.len : longest;
            next_tokens(m, q + first, rows, longest, stops, num_stops, &b, index, logits);
            left = 0;
            for (int64_t i = first; i < first + rows; i++) left += !q[i].done;
        }
        for (int64_t i = first; i < first + rows; i++) q[i].capped = !q[i].done;
    }
    json_t *j = report(q, n, t, show);
    char *text = json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
    puts(text);
    free(text);
    json_decref(j);
    for (int64_t i = 0; i < n; i++) { free(q[i].type); free(q[i].want); ids_free(&q[i].ids); }
    free(q); free(b.tokens); free(b.positions); free(index); free(logits);
    model_free(m);
    tokenizer_free(t);
    return 0;
}
