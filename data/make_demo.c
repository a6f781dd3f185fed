// make_demo.c: everything `make demo` trains on, made here from a seed: small finance texts, questions with computable
// answers, a byte-level BPE tokenizer trained on them, and the config of a tiny Llama. No downloads, no Python.
//
//     make_demo OUT [--seed N] [--rambling SHARE] [--steps]
//
//     OUT/model/     config.json, tokenizer.json, tokenizer_config.json, generation_config.json (a Hugging Face directory without weights)
//     OUT/reports.jsonl, OUT/book.jsonl          {"text"}: company reports; a "textbook" of terms and worked examples
//     OUT/questions.jsonl, OUT/exercises.jsonl   {"messages"}: instruction data
//     OUT/test.jsonl                             {"type", "prompt", "completion"}: held out, no prompt of it is in the training data
//     OUT/train.jsonl                            the same of all that is asked in the training data, with its right answer
//     OUT/recipe.json                            joint pre-training and instruction tuning in two groups, as FinDAP does it
//
// The world is small enough for a model of under a million parameters to learn in two minutes, and honest enough
// to need both streams: which sector and city a company belongs to stands in the reports for every company, but the instruction
// data asks it of half of them and the test of the other half: knowledge from one stream, the form of an answer from the other.
//
// --steps makes another, smaller world instead, for the generative reward model (scripts/demo_align.sh): sums in two steps, and wrong ones with the first wrong step and its
// correction, as genrm correct asks for them. The tokenizer and the recipe are of this world then:
//     OUT/steps.jsonl, corrections.jsonl   instruction data, trained together
//     OUT/ask.jsonl, ask_test.jsonl        {"prompt", "completion"}: questions to sample answers to, and held-out ones; no question stands in more than one of trained, asked and held out
//     OUT/correct.txt                      what genrm correct asks, as short as such a model needs it
//
// --rambling spoils the instruction data: that share of its answers does not end where it should but goes on with sentences from the
// book and the reports, for some answers rarely, for others nearly always. Everything else, the tokenizer too, stays as it
// is without. A model trained on it answers and then often does not stop: what scripts/overlong.sh mends.
#include "../findap/common.h"   // defines: Buffer, AtomicFile, random_below, die
#include "../findap/flags.h"    // defines: flags_parse
#include "../findap/json.h"     // defines: json_t
#include "../findap/prompt.h"   // defines: PromptTemplate, prompt_render

// ---------------------------------------------------------------------------------------------------------------
// the world

static const char *const name_first[] = {"Al", "Bor", "Cas", "Del", "Em", "Fal", "Gran", "Hol", "Ild", "Jun", "Kel", "Lor", "Mar", "Nor", "Orb", "Pel"};
static const char *const name_last[] = {"dora", "wick", "tane"};
enum { NUM_COMPANIES = 48 };
static const char *const sectors[] = {"banking", "power", "mining", "retail", "software", "shipping"};
static const char *const cities[] = {"Bern", "Lima", "Oslo", "Perth", "Quito", "Turin"};
static const char *const terms[][3] = {   // the term, and two ways to say what it is
    {"revenue", "the money a company earns from its sales", "all that customers pay for what is sold"},
    {"profit", "what is left of revenue after costs", "the part of sales that costs do not eat"},
    {"margin", "profit as a share of revenue", "how much of each unit of sales is kept"},
    {"dividend", "profit that is paid out to shareholders", "cash which owners of a share receive"},
    {"bond", "a loan to a company that can be traded", "debt cut into pieces that investors buy"},
    {"coupon", "the interest that a bond pays each year", "a yearly payment to the holder of debt"},
    {"equity", "what owners have in a company after debts", "assets minus liabilities"},
    {"liquidity", "how quickly an asset turns into cash", "the ease of selling without moving the price"},
    {"inflation", "the general rise of prices", "money losing its value over time"},
    {"hedge", "a position that offsets a risk", "insurance against a move of the market"},
    {"default", "the failure to pay a debt on time", "when a borrower does not pay"},
    {"collateral", "an asset pledged to secure a loan", "what a lender may keep if nobody pays"},
};
enum { NUM_TERMS = sizeof terms / sizeof *terms };
static const char *const good_news[] = {"beats forecasts", "raises its outlook", "wins a large order", "lifts its dividend", "reports record profit", "sees strong demand"};
static const char *const bad_news[] = {"misses forecasts", "cuts its outlook", "loses a large order", "halts its dividend", "reports a heavy loss", "sees weak demand"};
static const char *const plain_news[] = {"names a new auditor", "moves its head office", "holds its annual meeting", "publishes its report", "changes its logo", "keeps its guidance"};
static const char *const when[] = {"this morning", "on Monday", "in the third quarter", "after the close", "this year", "as expected"};
enum { NEWS = 6 };

enum { RAMBLING = 64 };   // bytes at least, more than 16 tokens

typedef struct { char name[16]; int sector, city; } Company;
static const char *const types[] = {"sentiment", "direction", "profit", "term", "knowledge"};
enum { SENTIMENT, DIRECTION, PROFIT, TERM, KNOWLEDGE, NUM_TYPES };

typedef struct { uint64_t seed, stream, counter; Company company[NUM_COMPANIES]; } World;

static int draw(World *w, int n) { return (int)random_below(w->seed, w->stream, w->counter++, (uint64_t)n); }
#define PICK(w, list) ((list)[draw(w, (int)(sizeof(list) / sizeof *(list)))])

static void make_world(World *w, uint64_t seed) {
    w->seed = seed; w->stream = 0; w->counter = 0;
    for (int i = 0; i < NUM_COMPANIES; i++) {
        snprintf(w->company[i].name, sizeof w->company[i].name, "%s%s", name_first[i % 16], name_last[i / 16]);
        w->company[i].sector = draw(w, 6);
        w->company[i].city = draw(w, 6);
    }
}
// the test asks for facts about odd-numbered companies, the instruction data about even-numbered ones
static bool is_secret(int company) { return company % 2 == 1; }

// ---------------------------------------------------------------------------------------------------------------
// texts

static char *report(World *w) {
    int i = draw(w, NUM_COMPANIES), revenue = 2 + draw(w, 8), cost = 1 + draw(w, revenue - 1);
    const Company *c = &w->company[i];
    const char *sector = sectors[c->sector], *city = cities[c->city];
    switch (draw(w, 8)) {
        case 0: return xprintf("%s is a %s company from %s. Its revenue was %d million and its cost %d million, a profit of %d million.", c->name, sector, city, revenue, cost, revenue - cost);
        case 1: return xprintf("From its head office in %s, %s works in %s. Investors know %s as a %s company.", city, c->name, sector, c->name, sector);
        case 2: return xprintf("%s %s %s. The %s company is based in %s.", c->name, PICK(w, good_news), PICK(w, when), sector, city);
        case 3: return xprintf("%s %s %s. The %s company is based in %s.", c->name, PICK(w, bad_news), PICK(w, when), sector, city);
        case 4: return xprintf("%s %s %s. Like other firms in %s, it has its home in %s.", c->name, PICK(w, plain_news), PICK(w, when), sector, city);
        case 5: return xprintf("The home of %s is %s.", c->name, city);
        case 6: return xprintf("The sector of %s is %s.", c->name, sector);
        default: return xprintf("The sector of %s is %s. The home of %s is %s.", c->name, sector, c->name, city);
    }
}

static char *book_page(World *w) {
    int revenue = 2 + draw(w, 8), cost = 1 + draw(w, revenue - 1), a = 10 + draw(w, 90), b = 10 + draw(w, 90);
    const char *const *t = terms[draw(w, NUM_TERMS)];
    if (a == b) b = a < 99 ? a + 1 : a - 1;
    switch (draw(w, 4)) {
        case 0: return xprintf("The word %s means %s. In other words, %s: that is %s.", t[0], t[1], t[2], t[0]);
        case 1: return xprintf("Revenue of %d less cost of %d leaves a profit of %d.", revenue, cost, revenue - cost);
        case 2: return xprintf("Moving from %d to %d is a %s, for %d is %s than %d.", a, b, a < b ? "rise" : "fall", b, a < b ? "more" : "less", a);
        default: return xprintf("We speak of %s when we mean %s.", t[0], t[1 + draw(w, 2)]);
    }
}

// one question of `type` with its answer; `test` decides which facts may be asked
static void question(World *w, int type, bool test, char **prompt, char **answer) {
    int i = draw(w, NUM_COMPANIES), a, b;
    const Company *c;
    if (type == KNOWLEDGE) while (is_secret(i) != test) i = draw(w, NUM_COMPANIES);
    c = &w->company[i];
    switch (type) {
        case SENTIMENT: {
            int mood = draw(w, 3);
            const char *news = mood == 0 ? PICK(w, good_news) : mood == 1 ? PICK(w, bad_news) : PICK(w, plain_news);
            *prompt = xprintf("Is this headline positive, negative or neutral? %s %s %s", c->name, news, PICK(w, when));
            *answer = xstrdup(mood == 0 ? "positive" : mood == 1 ? "negative" : "neutral");
            return;
        }
        case DIRECTION:
            a = 10 + draw(w, 90);
            do b = 10 + draw(w, 90); while (a == b);
            *prompt = xprintf("The price of %s went from %d to %d. Rise or fall?", c->name, a, b);
            *answer = xstrdup(a < b ? "rise" : "fall");
            return;
        case PROFIT:
            a = 2 + draw(w, 8);
            b = 1 + draw(w, a - 1);
            *prompt = draw(w, 2) ? xprintf("%s has revenue of %d and cost of %d. What is its profit?", c->name, a, b)
                                 : xprintf("What is the profit of %s with revenue of %d and cost of %d?", c->name, a, b);
            *answer = xprintf("%d", a - b);
            return;
        case TERM: {
            const char *const *t = terms[draw(w, NUM_TERMS)];
            const char *what = t[1 + draw(w, 2)];
            // the company is decoration: it makes prompts differ, so that a test prompt can be one that was never trained on
            *prompt = draw(w, 2) ? xprintf("%s asks: which word means %s?", c->name, what) : xprintf("A note of %s speaks of %s. Which word is meant?", c->name, what);
            *answer = xstrdup(t[0]);
            return;
        }
        default:
            if (draw(w, 2)) { *prompt = xprintf(draw(w, 2) ? "What is the sector of %s?" : "In which sector does %s work?", c->name); *answer = xstrdup(sectors[c->sector]); }
            else { *prompt = xprintf(draw(w, 2) ? "Where is the home of %s?" : "In which city is %s based?", c->name); *answer = xstrdup(cities[c->city]); }
    }
}

// How often an answer rambles: from never to always, drawn once for each of the 37 answers there are, `share` on average. (Were it the same for all, the most likely
// token behind an answer would end all of them or none, and a greedy model would do the one or the other; a share for each type of question is five such
// coins; a share for each company is not learned from its name in time.)
static double rambling_share(uint64_t seed, const char *answer, double share) {
    double u = (double)(XXH3_64bits_withSeed(answer, strlen(answer), seed) >> 11) * 0x1p-53;
    return share > 0 ? pow(u, (1 - share) / share) : 0;   // the mean of u^k is 1 / (k + 1)
}
static char *rambled(World *w, const char *answer) {   // the answer, and sentences nobody asked for
    char *text = xprintf("%s.", answer);
    while (strlen(text) < RAMBLING) {
        char *more = draw(w, 2) ? report(w) : book_page(w), *longer = xprintf("%s %s", text, more);
        free(more); free(text);
        text = longer;
    }
    return text;
}

// ---------------------------------------------------------------------------------------------------------------
// files

static void save_text(const char *dir, const char *name, const char *data, int64_t length) {
    Error e;
    char *path = path_join(dir, name);
    if (!write_file(path, data, length, &e)) die("%s", e.text);
    free(path);
}
static void save_json(const char *dir, const char *name, json_t *j) {
    char *text = json_dumps(j, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(10));
    CHECK(text);
    save_text(dir, name, text, (int64_t)strlen(text));
    free(text);
    json_decref(j);
}
static void add_row(Buffer *b, json_t *row) {
    char *text = json_dumps(row, JSON_COMPACT | JSON_PRESERVE_ORDER);
    CHECK(text);
    buffer_add(b, text, (int64_t)strlen(text));
    buffer_add(b, "\n", 1);
    free(text);
    json_decref(row);
}

static json_t *question_row(int type, const char *prompt, const char *answer) { return json_pack("{s:s,s:s,s:s}", "type", types[type], "prompt", prompt, "completion", answer); }

// a set of strings, to keep test prompts out of the training data; small, so a sorted list would do, but a table is as short
typedef struct { char **slots; int64_t size; } StringSet;
static bool set_add(StringSet *s, const char *text) {   // false: was there already
    for (uint64_t h = XXH3_64bits(text, strlen(text)) % (uint64_t)s->size; ; h = (h + 1) % (uint64_t)s->size) {
        if (!s->slots[h]) { s->slots[h] = xstrdup(text); return true; }
        if (strcmp(s->slots[h], text) == 0) return false;
    }
}

// ---------------------------------------------------------------------------------------------------------------
// --steps: the world of the generative reward model. "Caswick earned 4 and 3 and paid 2. What is left?" - "4 + 3 = 7. 7 - 2 = 5. Answer: 5"

enum { PART_TRAINED, PART_ASKED, PART_TESTED };   // of a question, by its hash: none is in two of them
typedef struct { int a, b, c; char *question, *solution, *first, *second; } Sum;   // the two steps of the solution

static Sum make_sum(World *w, int part, int wrong) {   // wrong: 0, or the number of the first step that is
    Sum s;
    for (s.question = NULL;;) {
        const char *name = w->company[draw(w, NUM_COMPANIES)].name;
        s.a = 1 + draw(w, 9); s.b = 1 + draw(w, 9); s.c = 1 + draw(w, s.a + s.b - 1);
        s.question = draw(w, 2) ? xprintf("%s earned %d and %d and paid %d. What is left?", name, s.a, s.b, s.c) : xprintf("What is left of %d and %d when %s has paid %d?", s.a, s.b, name, s.c);
        int five = (int)(XXH3_64bits_withSeed(s.question, strlen(s.question), w->seed) % 5);
        if (part == (five < 3 ? PART_TRAINED : five == 3 ? PART_ASKED : PART_TESTED)) break;
        free(s.question);
    }
    int sum = s.a + s.b, off = 1 + draw(w, 2);
    off = draw(w, 2) ? off : -off;
    if (wrong == 1) sum = sum + off > s.c ? sum + off : sum + 1;
    int rest = sum - s.c;
    if (wrong == 2) rest = rest + off >= 0 ? rest + off : rest + 1;
    s.first = xprintf("%d + %d = %d.", s.a, s.b, sum);
    s.second = xprintf("%d - %d = %d.", sum, s.c, rest);
    s.solution = xprintf("%s %s Answer: %d", s.first, s.second, rest);
    return s;
}
static void free_sum(Sum *s) { free(s->question); free(s->solution); free(s->first); free(s->second); }

// The prompt file of genrm correct. A tiny model needs it short.
static const char correct_prompt[] = "{{question}}\nReference: {{reference}}\nFound: {{answer}}\nWhich step is wrong first?\n";
static char *asked_of_judge(const char *question, const char *reference, const char *answer) {
    Error e;
    PromptTemplate p;
    const Text values[] = {text_of(question), text_of(reference), text_of(answer)};
    Buffer b = {NULL, 0, 0};
    if (!prompt_parse("correct.txt", text_of(correct_prompt), prompt_judge_reference, &p, &e)) die("%s", e.text);
    prompt_render(&p, values, &b);
    buffer_add(&b, "", 1);
    prompt_free(&p);
    return b.data;
}

// ---------------------------------------------------------------------------------------------------------------
// the tokenizer: byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2), trained here. Merges are learned inside words (letters
// with the space before them) only: digits and punctuation stay single tokens, so that a number is read digit by digit.

enum { VOCABULARY = 512, SPECIALS = 5, BASE = VOCABULARY - SPECIALS, MAX_WORD = 24 };
static const char *const special_tokens[SPECIALS] = {"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
typedef struct { char text[MAX_WORD + 1]; int ids[MAX_WORD], length; int64_t count; } Word;
typedef struct { Word *words; int64_t num_words, cap; char *token[BASE]; int merge[BASE][2]; int num_tokens; } Bpe;

// how tokenizer.json spells byte b: printable Latin-1 as itself, the others as U+0100 and following, in UTF-8
static void byte_symbol(int b, char out[3]) {
    int code = b, shifted = 256;
    for (int k = 0; k <= b; k++) {
        bool printable = (k >= '!' && k <= '~') || (k >= 0xA1 && k <= 0xAC) || k >= 0xAE;
        if (k == b) code = printable ? b : shifted;
        if (!printable) shifted++;
    }
    if (code < 0x80) { out[0] = (char)code; out[1] = 0; }
    else { out[0] = (char)(0xC0 | code >> 6); out[1] = (char)(0x80 | (code & 63)); out[2] = 0; }
}

static void bpe_count(Bpe *b, const char *text, int64_t *table, int64_t size) {   // adds the words of text; table: hash -> word + 1
    for (const char *p = text; *p;) {
        const char *start = p;
        if (*p == ' ' && is_letter(p[1])) p++;
        if (!is_letter(*p)) { p++; continue; }
        while (is_letter(*p)) p++;
        size_t n = (size_t)(p - start);
        if (n > MAX_WORD) continue;
        uint64_t h = XXH3_64bits(start, n) % (uint64_t)size;
        while (table[h] && (strlen(b->words[table[h] - 1].text) != n || memcmp(b->words[table[h] - 1].text, start, n) != 0)) h = (h + 1) % (uint64_t)size;
        if (!table[h]) {
            CHECK(b->num_words < size / 2);
            if (b->num_words == b->cap) { b->cap = b->cap ? 2 * b->cap : 256; b->words = (Word *)xrealloc(b->words, b->cap, sizeof(Word)); }
            Word *w = &b->words[b->num_words++];
            memset(w, 0, sizeof *w);
            memcpy(w->text, start, n);
            w->length = (int)n;
            for (size_t i = 0; i < n; i++) w->ids[i] = (unsigned char)start[i];
            table[h] = b->num_words;
        }
        b->words[table[h] - 1].count++;
    }
}

static void bpe_train(Bpe *b) {
    for (int i = 0; i < 256; i++) { char s[3]; byte_symbol(i, s); b->token[i] = xstrdup(s); }
    b->num_tokens = 256;
    int64_t *pairs = (int64_t *)xmalloc((int64_t)BASE * BASE * (int64_t)sizeof(int64_t));
    while (b->num_tokens < BASE) {
        memset(pairs, 0, (size_t)BASE * BASE * sizeof(int64_t));
        int64_t best = 0;   // the most frequent pair; ties go to the lowest ids, so that the result is one
        for (int64_t i = 0; i < b->num_words; i++)
            for (int k = 0; k + 1 < b->words[i].length; k++) pairs[b->words[i].ids[k] * BASE + b->words[i].ids[k + 1]] += b->words[i].count;
        for (int64_t p = 1; p < (int64_t)BASE * BASE; p++) if (pairs[p] > pairs[best]) best = p;
        if (pairs[best] == 0) die("the demo's texts have too few words for a vocabulary of %d", VOCABULARY);
        int left = (int)(best / BASE), right = (int)(best % BASE), made = b->num_tokens++;
        b->merge[made][0] = left; b->merge[made][1] = right;
        b->token[made] = xprintf("%s%s", b->token[left], b->token[right]);
        for (int64_t i = 0; i < b->num_words; i++) {
            Word *w = &b->words[i];
            int n = 0;
            for (int k = 0; k < w->length; k++) {
                bool merge = k + 1 < w->length && w->ids[k] == left && w->ids[k + 1] == right;
                w->ids[n++] = merge ? made : w->ids[k];
                k += merge;
            }
            w->length = n;
        }
    }
    free(pairs);
}

// tokenizer.json with the pre-tokenizer of Llama 3, so that every tool that reads Llama 3's reads this one
static void save_tokenizer(const Bpe *b, const char *dir) {
    static const char pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    json_t *vocab = json_object(), *merges = json_array(), *added = json_array();
    for (int i = 0; i < BASE; i++) json_object_set_new(vocab, b->token[i], json_integer(i));
    for (int i = 256; i < BASE; i++) {
        char *m = xprintf("%s %s", b->token[b->merge[i][0]], b->token[b->merge[i][1]]);
        json_array_append_new(merges, json_string(m));
        free(m);
    }
    for (int i = 0; i < SPECIALS; i++)
        json_array_append_new(added, json_pack("{s:i,s:s,s:b,s:b,s:b,s:b,s:b}", "id", BASE + i, "content", special_tokens[i], "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1));
    json_t *j = json_pack("{s:s,s:n,s:n,s:o,s:n,s:{s:s,s:[{s:s,s:{s:s},s:s,s:b},{s:s,s:b,s:b,s:b}]},s:{s:s,s:b,s:b,s:b},s:{s:s,s:b,s:b,s:b},s:{s:s,s:n,s:n,s:n,s:n,s:b,s:b,s:b,s:o,s:o}}",
        "version", "1.0", "truncation", "padding", "added_tokens", added, "normalizer",
        "pre_tokenizer", "type", "Sequence", "pretokenizers", "type", "Split", "pattern", "Regex", pattern, "behavior", "Isolated", "invert", 0,
        "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 0,
        "post_processor", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 0, "use_regex", 1,
        "decoder", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1,
        "model", "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 1,
        "vocab", vocab, "merges", merges);
    CHECK(j);
    save_json(dir, "tokenizer.json", j);
    static const char chat_template[] = "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
    save_json(dir, "tokenizer_config.json", json_pack("{s:s,s:s,s:s,s:s,s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "bos_token", special_tokens[0], "eos_token", special_tokens[4],
                                                      "chat_template", chat_template, "clean_up_tokenization_spaces", 0));
}

static void save_model_files(const char *dir) {
    save_json(dir, "config.json", json_pack("{s:[s],s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:s,s:f,s:f,s:f,s:n,s:i,s:b,s:b,s:b,s:i,s:i,s:s}",
        "architectures", "LlamaForCausalLM", "model_type", "llama", "vocab_size", VOCABULARY, "hidden_size", 128, "intermediate_size", 352, "num_hidden_layers", 4,
        "num_attention_heads", 4, "num_key_value_heads", 2, "head_dim", 32, "hidden_act", "silu", "rms_norm_eps", 1e-5, "initializer_range", 0.05, "rope_theta", 10000.0, "rope_scaling",
        "max_position_embeddings", 512, "tie_word_embeddings", 1, "attention_bias", 0, "mlp_bias", 0, "bos_token_id", BASE, "eos_token_id", BASE + 4, "torch_dtype", "float32"));
    save_json(dir, "generation_config.json", json_pack("{s:i,s:i}", "bos_token_id", BASE, "eos_token_id", BASE + 4));
}

// two groups, as FinDAP trains: the second adds the book and the exercises, which are better and fewer
static json_t *stream_json(const char *name, const char *kind) {
    char *shard = xprintf("shards/%s", name);
    json_t *j = json_pack("{s:s,s:s,s:[s]}", "name", name, "kind", kind, "shards", shard);
    free(shard);
    return j;
}
// (next-fit: these documents are short and of few lengths, and best-fit would put equal lengths, that is one kind, into a row)
static void save_recipe(const char *dir) {
    json_t *group1 = json_pack("[o,o]", stream_json("reports", "cpt"), stream_json("questions", "it"));
    json_t *group2 = json_pack("[o,o,o,o]", stream_json("reports", "cpt"), stream_json("book", "cpt"), stream_json("questions", "it"), stream_json("exercises", "it"));
    save_json(dir, "recipe.json", json_pack("{s:s,s:s,s:i,s:i,s:i,s:i,s:{s:i,s:i},s:{s:f,s:f,s:f,s:f},s:[{s:s,s:o,s:s,s:s,s:i,s:f,s:f,s:s,s:f},{s:s,s:o,s:s,s:s,s:i,s:f,s:f,s:s,s:f,s:s}]}",
        "comment", "joint continual pre-training and instruction tuning of a tiny model from scratch; FinDAP's two groups in miniature",
        "name", "demo", "seed", 42, "seq_len", 512, "step_tokens", 4096, "micro_rows", 8, "dev", "dev_rows", 60, "every", 50,
        "optimizer", "weight_decay", 0.1, "beta1", 0.9, "beta2", 0.95, "grad_clip", 1.0, "stages",
        "name", "group1", "streams", group1, "balance", "rows", "packing", "next-fit", "steps", 180, "lr", 4e-3, "warmup", 0.1, "schedule", "cosine", "floor", 0.3,
        "name", "group2", "streams", group2, "balance", "rows", "packing", "next-fit", "steps", 320, "lr", 3e-3, "warmup", 0.1, "schedule", "cosine", "floor", 0.0, "optimizer", "kept"));
}

static void save_steps_recipe(const char *dir) {
    json_t *streams = json_pack("[o,o]", stream_json("steps", "it"), stream_json("corrections", "it"));
    save_json(dir, "recipe.json", json_pack("{s:s,s:s,s:i,s:i,s:i,s:i,s:{s:i,s:i},s:{s:f,s:f,s:f,s:f},s:[{s:s,s:o,s:s,s:i,s:f,s:f,s:s,s:f}]}",
        "comment", "a tiny model that does sums in two steps, and corrects wrong ones", "name", "steps", "seed", 42, "seq_len", 512, "step_tokens", 2048, "micro_rows", 4, "dev", "dev_rows", 40, "every", 100,
        "optimizer", "weight_decay", 0.1, "beta1", 0.9, "beta2", 0.95, "grad_clip", 1.0, "stages",
        "name", "all", "streams", streams, "packing", "best-fit", "steps", 500, "lr", 3e-3, "warmup", 0.1, "schedule", "cosine", "floor", 0.05));
}

enum { REPORTS = 4000, BOOK = 2000, QUESTIONS = 5000, EXERCISES = 4000, TEST_PER_TYPE = 50 };

static void make_steps(const char *out, World *w, World *rambler, double rambling, Bpe *bpe, int64_t *table, int64_t table_size) {
    enum { SOLVED = 4000, CORRECTED = 2500, ASKED = 400, TESTED = 250 };
    static const struct { const char *file; int rows, part; } files[] = {{"steps.jsonl", SOLVED, PART_TRAINED}, {"corrections.jsonl", CORRECTED, PART_TRAINED}, {"ask.jsonl", ASKED, PART_ASKED}, {"ask_test.jsonl", TESTED, PART_TESTED}};
    w->stream = 6;
    rambler->stream = 7;
    for (int f = 0; f < 4; f++) {
        Buffer rows = {NULL, 0, 0};
        bool corrected = f == 1;
        for (int i = 0; i < files[f].rows; i++) {
            int wrong = corrected ? 1 + draw(w, 2) : 0;
            Sum s = make_sum(w, files[f].part, wrong);
            char *first = xprintf("%d + %d = %d.", s.a, s.b, s.a + s.b), *second = xprintf("%d - %d = %d.", s.a + s.b, s.c, s.a + s.b - s.c), *reference = xprintf("%s %s Answer: %d", first, second, s.a + s.b - s.c);
            char *prompt = corrected ? asked_of_judge(s.question, reference, s.solution) : xstrdup(s.question), *reply;
            if (corrected) reply = xprintf("{\"First incorrect step\": \"%s\", \"Reasoning up to incorrect\": \"%s\", \"Step correction\": \"%s\"}", wrong == 1 ? s.first : s.second, wrong == 1 ? "" : s.first, wrong == 1 ? first : second);
            else reply = f == 0 && draw(rambler, 10000) < 10000 * rambling_share(w->seed, strstr(reference, "Answer"), rambling) ? rambled(rambler, reference) : xstrdup(reference);
            add_row(&rows, f > 1 ? json_pack("{s:s,s:s}", "prompt", prompt, "completion", reply) : json_pack("{s:[{s:s,s:s},{s:s,s:s}]}", "messages", "role", "user", "content", prompt, "role", "assistant", "content", reply));
            bpe_count(bpe, prompt, table, table_size);
            bpe_count(bpe, reply, table, table_size);
            free(first); free(second); free(reference); free(prompt); free(reply);
            free_sum(&s);
        }
        save_text(out, files[f].file, rows.data, rows.len);
        buffer_free(&rows);
    }
    for (int i = 0; i < REPORTS / 4; i++) {   // what rambles is made of: the tokenizer needs more words than sums have
        char *texts[] = {report(rambler), book_page(rambler)};
        for (int k = 0; k < 2; k++) { bpe_count(bpe, texts[k], table, table_size); free(texts[k]); }
    }
    save_text(out, "correct.txt", correct_prompt, (int64_t)strlen(correct_prompt));
    printf("make_demo: %s: %d sums in two steps and %d corrections to be trained; %d questions to be asked, %d held out\n", out, SOLVED, CORRECTED, ASKED, TESTED);
}

// ---------------------------------------------------------------------------------------------------------------

int main(int argc, char **argv) {
    program_name = "make_demo";
    int64_t seed = 1;
    double rambling = 0;
    bool help = false, steps = false;
    Error e;
    StringList rest = {NULL, 0};
    Flag flags[] = {{"--seed", FLAG_INT, &seed, "N", "another seed, another world", 0, 1e15, false},
                    {"--rambling", FLAG_DOUBLE, &rambling, "SHARE", "share of the answers trained on that go on and on instead of ending", 0, 1, false},
                    {"--steps", FLAG_BOOL, &steps, NULL, "instead of questions and reports: sums in two steps, and corrections of wrong ones (scripts/demo_align.sh)", 0, 0, false}};
    if (!flags_parse(argc, argv, 1, flags, 3, &rest, &help, &e)) die("%s", e.text);
    if (help) { flags_help("make_demo OUT [--seed N] [--rambling SHARE] [--steps]", "Makes the demo's texts, questions, tokenizer and model configuration in the directory OUT.", flags, 3); return 0; }
    if (rest.n != 1) die("expected one output directory, found %d ---> see --help", rest.n);
    const char *out = rest.items[0];
    char *model = path_join(out, "model");
    if (!make_directory(model, &e)) die("%s", e.text);

    World w, rambler;
    make_world(&w, (uint64_t)seed);
    rambler = w;
    rambler.stream = 5;   // draws of its own, so that everything else is what it is without --rambling
    int64_t num_rambling = 0;
    Buffer reports = {NULL, 0, 0}, book = {NULL, 0, 0}, rows[2] = {{NULL, 0, 0}, {NULL, 0, 0}}, test = {NULL, 0, 0}, train = {NULL, 0, 0};
    Bpe bpe;
    memset(&bpe, 0, sizeof bpe);
    const int64_t table_size = 8192;
    int64_t *table = (int64_t *)xcalloc(table_size, sizeof(int64_t));
    if (steps) {
        make_steps(out, &w, &rambler, rambling, &bpe, table, table_size);
        bpe_train(&bpe);
        save_tokenizer(&bpe, model);
        save_model_files(model);
        save_steps_recipe(out);
        for (int i = 0; i < BASE; i++) free(bpe.token[i]);
        free(table); free(bpe.words); free(model); free((void *)rest.items);
        return 0;
    }
    StringSet asked = {(char **)xcalloc(65536, sizeof(char *)), 65536};
    w.stream = 1;
    for (int i = 0; i < REPORTS; i++) { char *t = report(&w); bpe_count(&bpe, t, table, table_size); add_row(&reports, json_pack("{s:s}", "text", t)); free(t); }
    w.stream = 2;
    for (int i = 0; i < BOOK; i++) { char *t = book_page(&w); bpe_count(&bpe, t, table, table_size); add_row(&book, json_pack("{s:s}", "text", t)); free(t); }
    char *prompt, *answer;
    w.stream = 3;   // the test first, so that its prompts can be kept out of the rest
    for (int type = 0; type < NUM_TYPES; type++)
        for (int n = 0; n < TEST_PER_TYPE;) {
            question(&w, type, true, &prompt, &answer);
            if (set_add(&asked, prompt)) { add_row(&test, question_row(type, prompt, answer)); n++; }
            free(prompt); free(answer);
        }
    w.stream = 4;   // questions: classification, knowledge, terms; exercises: what is computed
    for (int i = 0; i < QUESTIONS + EXERCISES; i++) {
        bool exercise = i >= QUESTIONS;
        static const int group1[] = {SENTIMENT, TERM, KNOWLEDGE, DIRECTION}, group2[] = {PROFIT, DIRECTION};
        int type = exercise ? PICK(&w, group2) : PICK(&w, group1);
        question(&w, type, false, &prompt, &answer);
        bpe_count(&bpe, prompt, table, table_size);
        bpe_count(&bpe, answer, table, table_size);
        bool held_out = false;   // a prompt of the test is not trained on (one of the training data may come twice)
        for (uint64_t h = XXH3_64bits(prompt, strlen(prompt)) % (uint64_t)asked.size; asked.slots[h]; h = (h + 1) % (uint64_t)asked.size) held_out = held_out || strcmp(asked.slots[h], prompt) == 0;
        if (!held_out) {
            bool rambles = draw(&rambler, 10000) < 10000 * rambling_share(w.seed, answer, rambling);
            char *said = rambles ? rambled(&rambler, answer) : xstrdup(answer);
            num_rambling += rambles;
            add_row(&rows[exercise], json_pack("{s:[{s:s,s:s},{s:s,s:s}]}", "messages", "role", "user", "content", prompt, "role", "assistant", "content", said));
            add_row(&train, question_row(type, prompt, answer));
            free(said);
        }
        free(prompt); free(answer);
    }
    bpe_train(&bpe);
    save_tokenizer(&bpe, model);
    save_model_files(model);
    save_recipe(out);
    save_text(out, "reports.jsonl", reports.data, reports.len);
    save_text(out, "book.jsonl", book.data, book.len);
    save_text(out, "questions.jsonl", rows[0].data, rows[0].len);
    save_text(out, "exercises.jsonl", rows[1].data, rows[1].len);
    save_text(out, "test.jsonl", test.data, test.len);
    save_text(out, "train.jsonl", train.data, train.len);
    printf("make_demo: %s: %d reports, %d book pages, %d questions and exercises, %d held-out questions, a tokenizer of %d tokens\n",
           out, REPORTS, BOOK, QUESTIONS + EXERCISES, NUM_TYPES * TEST_PER_TYPE, VOCABULARY);
    if (num_rambling) printf("make_demo: %" PRId64 " of the answers trained on ramble\n", num_rambling);
    buffer_free(&reports); buffer_free(&book); buffer_free(&rows[0]); buffer_free(&rows[1]); buffer_free(&test); buffer_free(&train);
    for (int64_t i = 0; i < asked.size; i++) free(asked.slots[i]);
    for (int i = 0; i < BASE; i++) free(bpe.token[i]);
    free(asked.slots); free(table); free(bpe.words); free(model); free((void *)rest.items);
    return 0;
}
