// test_generate.c: generation on the CPU reference. Tokens, log-probs and probabilities against transformers (dumped by dev/generate_reference.py), sampling against
// transformers' processors and against direct sums, pages shared and given back, the same answers whatever the batch, and `genrm sample`: resumed, killed, misused.
#define GENRM_LIBRARY
#include "genrm.cu"
#include "test/tiny_tokenizer.h" // defines: tiny_tokenizer
#include <sys/wait.h>            // defines: waitpid
#include "test/check.h"
#include "test/scratch.h"        // defines: directory, setup, teardown, in
#include "test/genrm_run.h"      // defines: run_genrm, expect, summary, sorted_file, put, make_files

static Safetensors *want;        // test/data/generate.safetensors
enum { PROMPTS = 6, NEW = 24 };

static const SafeTensor *reference(const char *name, const char *what, int i) {
    char full[96];
    if (i < 0) snprintf(full, sizeof full, "%s.%s", name, what); else snprintf(full, sizeof full, "%s.%s.%d", name, what, i);
    const SafeTensor *t = safetensors_find(want, full);
    if (!t) fail_msg("the reference has no %s", full);
    return t;
}
static const int32_t *ints(const SafeTensor *t) { return (const int32_t *)t->data; }
static const float *floats(const SafeTensor *t) { return (const float *)t->data; }
static int open_all(void **state) {
    Error e;
    want = safetensors_open("test/data/generate.safetensors", &e);
    if (!want) fprintf(stderr, "%s\n", e.text);
    return want ? setup(state) : -1;
}
static int close_all(void **state) { safetensors_close(want); return teardown(state); }

static const struct { const char *name, *base, *adapter; } cases[] = {{"llama3", "test/data/llama3", NULL}, {"llama31", "test/data/llama31", NULL}, {"qwen25", "test/data/qwen25", NULL}, {"qwen25_untied", "test/data/qwen25_untied", NULL},
                                                                      {"lora", "test/data/llama3", "test/data/lora/llama3_all"}, {"trained", "test/data/trained", NULL}};
enum { CASES = sizeof cases / sizeof *cases };
static const Sampling greedy = {0, 0, 1, 0, 1};

// Where processors are busy with other things, two threads wait for each other longer than these models take; that their number changes no bit is one test's affair
static void use_threads(int n) {
    #ifdef _OPENMP
    omp_set_num_threads(n);
    #endif
    (void)n;
}
static Model *model_of(int k, int64_t B, int64_t T) {
    Error e;
    Config c;
    ModelOptions o;
    memset(&o, 0, sizeof o);
    must(config_load(cases[k].base, &c, &e) && (!cases[k].adapter || lora_read_config(cases[k].adapter, &o.lora, &e)), &e);
    Model *m = model_create(&c, B, T, false, &o);
    must(model_load_dir(m, cases[k].base, &e) && (!cases[k].adapter || lora_load_dir(m, cases[k].adapter, &e)), &e);
    return m;
}
static Request *ask(Engine *g, int64_t number, const int32_t *prompt, int64_t n, int64_t max_new, Sampling s, const Stops *stops) {
    Error e;
    Request *r = (Request *)xcalloc(1, sizeof(Request));
    r->number = number; r->max_new = max_new; r->sampling = s; r->stops = stops; r->seed = random_u64(5, 6, (uint64_t)number);
    for (int64_t i = 0; i < n; i++) ids_add(&r->ids, prompt[i]);
    must(engine_add(g, r, &e), &e);
    return r;
}
static void discard(Request *r) { request_free(r); free(r); }
static void all_pages_free(const Engine *g) {   // and the free list has each once
    int64_t n = 0;
    for (int32_t p = g->first_free; p >= 0; p = g->pages[p].after, n++) assert_int_equal(g->pages[p].refs, 0);
    assert_int_equal(n, g->num_pages);
    assert_int_equal(g->num_free, g->num_pages);
}

// ---- against transformers

static void tokens_and_log_probs_are_transformers(void **state) {
    (void)state;
    static const struct { int64_t batch, T, B, pages; } shapes[] = {{1, 64, 1, 4}, {3, 64, 1, 13}, {8, 64, 4, 40}, {4, 64, 1, 9}};   // the last: more requests than pages
    for (int k = 0; k < CASES; k++) {
        bool trained = strcmp(cases[k].name, "trained") == 0;
        Stops stops = {{264}, 1, {NULL, 0}, false};
        float *first[2 * PROMPTS] = {NULL};
        double worst = 0;
        for (size_t shape = 0; shape < sizeof shapes / sizeof *shapes; shape++) {
            use_threads(shape == 2 ? 2 : 1);
            Model *m = model_of(k, shapes[shape].B, shapes[shape].T);
            Engine *g = engine_new(m, NULL, shapes[shape].batch, shape == 3 ? 5 : shapes[shape].B * shapes[shape].T, shapes[shape].T, shapes[shape].pages);   // room for 5: prompts come in pieces
            for (int i = 0; i < 2 * PROMPTS; i++) {
                const SafeTensor *p = reference(cases[k].name, "prompt", i / 2);
                Sampling s = greedy;
                if (i % 2) s.repetition_penalty = 1.3;
                ask(g, i, ints(p), p->count, NEW, s, trained ? &stops : NULL);
            }
            int64_t answers = 0;
            for (Request *r; (r = engine_next(g)) != NULL; answers++) {
                int i = (int)r->number;
                const SafeTensor *tokens = reference(cases[k].name, i % 2 ? "penalty" : "greedy", i / 2), *logp = reference(cases[k].name, i % 2 ? "penalty_logp" : "greedy_logp", i / 2);
                int64_t n = r->ids.len - r->prompt_length;
                assert_int_equal(n, tokens->count);
                assert_int_equal(r->finish, tokens->count < NEW || (trained && ints(tokens)[NEW - 1] == 264) ? FINISH_STOP : FINISH_LENGTH);
                assert_memory_equal(r->ids.data + r->prompt_length, tokens->data, (size_t)n * 4);
                for (int64_t t = 0; t < n; t++) {
                    double d = fabs((double)r->logp[t] - floats(logp)[t]);
                    if (!(d < 1e-4)) fail_msg("%s, prompt %d: log-prob of token %d differs by %.1e", cases[k].name, i / 2, (int)t, d);
                    worst = d > worst ? d : worst;
                }
                if (shape == 0) { first[i] = r->logp; r->logp = NULL; }
                else assert_memory_equal(first[i], r->logp, (size_t)n * 4);   // not a bit depends on the batch, on pieces, on what is shared, on threads
                discard(r);
            }
            assert_int_equal(answers, 2 * PROMPTS);
            all_pages_free(g);
            engine_free(g);
            model_free(m);
            use_threads(1);
        }
        for (int i = 0; i < 2 * PROMPTS; i++) free(first[i]);
        printf("%-14s tokens of %d prompts, with and without penalty, are transformers'; log-probs within %.1e\n", cases[k].name, PROMPTS, worst);
    }
}

static void scores_are_transformers(void **state) {
    (void)state;
    for (int k = 0; k < CASES; k++) {
        Model *m = model_of(k, 1, 64);
        Engine *g = engine_new(m, NULL, 3, 64, 64, 20);
        int64_t V = model_config(m)->vocab_size;
        double worst = 0;
        TokenSet sets[2] = {{"a", {NULL, 0, 0}}, {"b", {NULL, 0, 0}}};
        for (int32_t v = 0; v < V; v++) { if (v % 3 == 0) ids_add(&sets[0].ids, v); if (v % 5 == 1 && v % 3) ids_add(&sets[1].ids, v); }
        for (int i = 0; i < 3 * PROMPTS; i++) {   // the whole prompt; its last tokens only, shared with the one before; and with something generated behind it
            const SafeTensor *p = reference(cases[k].name, "prompt", i / 3);
            Request *r = (Request *)xcalloc(1, sizeof(Request));
            Error e;
            r->number = i; r->given = i % 3 == 0 ? p->count - 1 : p->count / 3; r->max_new = i % 3 == 2 ? 2 : 0; r->sampling = greedy; r->sets = sets; r->num_sets = 2;
            for (int64_t t = 0; t < p->count; t++) ids_add(&r->ids, ints(p)[t]);
            must(engine_add(g, r, &e), &e);
        }
        for (Request *r; (r = engine_next(g)) != NULL;) {
            int i = (int)r->number / 3;
            const float *next = floats(reference(cases[k].name, "next", i));
            const SafeTensor *given = reference(cases[k].name, "given", i);
            double mass[3] = {0, 0, 0};
            for (int64_t v = 0; v < V; v++) mass[v % 3 == 0 ? 0 : v % 5 == 1 ? 1 : 2] += next[v];
            for (int s = 0; s < 3; s++) if (!(fabs(r->set_probability[s] - mass[s]) < 1e-5)) fail_msg("%s, prompt %d: mass of set %d is %.7f, transformers %.7f", cases[k].name, i, s, r->set_probability[s], mass[s]);
            for (int64_t t = 0; t < r->given; t++) {
                double d = fabs((double)r->logp[t] - floats(given)[given->count - r->given + t]);
                if (!(d < 1e-4)) fail_msg("%s, prompt %d: log-prob of its token %d differs by %.1e", cases[k].name, i, (int)t, d);
                worst = d > worst ? d : worst;
            }
            assert_int_equal(r->finish, r->max_new ? FINISH_LENGTH : FINISH_SCORED);
            if (r->max_new) assert_memory_equal(r->ids.data + r->prompt_length, reference(cases[k].name, "greedy", i)->data, 2 * 4);
            discard(r);
        }
        assert_true(g->shared_tokens > 0);
        all_pages_free(g);
        engine_free(g);
        model_free(m);
        ids_free(&sets[0].ids); ids_free(&sets[1].ids);
        printf("%-14s log-probs of given tokens within %.1e\n", cases[k].name, worst);
    }
}

static void cuts_are_transformers(void **state) {
    (void)state;
    const SafeTensor *logits = reference("processors", "logits", -1), *seen = reference("processors", "seen", -1), *settings = reference("processors", "settings", -1), *scores = reference("processors", "scores", -1);
    int64_t R = logits->shape[0], V = logits->shape[1], n = seen->shape[1], kept = 0;
    float z[64], sorted[64];
    for (int64_t i = 0; i < R; i++) {
        const double *x = (const double *)settings->data + i * 5;
        SampleRow row = {{x[1], (int64_t)x[2], x[3], x[4], x[0]}, 1, 0, ints(seen) + i * n, n};
        sample_filter(z, sorted, floats(logits) + i * V, V, &row);
        for (int64_t v = 0; v < V; v++) {
            float theirs = floats(scores)[i * V + v];
            if ((z[v] == -INFINITY) != (theirs == -INFINITY)) fail_msg("settings %d: token %d is %s", (int)i, (int)v, z[v] == -INFINITY ? "dropped" : "kept");
            if (theirs != -INFINITY && !(fabsf(z[v] - theirs) <= 1e-6f * fabsf(theirs))) fail_msg("settings %d: token %d has %.8g, transformers %.8g", (int)i, (int)v, z[v], theirs);
            kept += z[v] != -INFINITY;
        }
    }
    assert_true(kept > R && kept < R * V);
}

// ---- sampling

// Is a count of draws what the probabilities say? Chi-square with `cells` - 1 degrees of freedom: mean that, variance twice as much; five deviations.
static void check_counts(const char *what, const int64_t *count, const double *p, int64_t V, int64_t draws) {
    double chi = 0, cells = 0;
    for (int64_t v = 0; v < V; v++) {
        double expected = p[v] * (double)draws;
        if (p[v] == 0) { if (count[v]) fail_msg("%s: token %d was drawn, which is impossible", what, (int)v); continue; }
        chi += pow((double)count[v] - expected, 2) / expected;
        cells++;
    }
    double bound = cells - 1 + 5 * sqrt(2 * (cells - 1));
    printf("%-32s chi-square %.1f of %d degrees of freedom, bound %.1f\n", what, chi, (int)cells - 1, bound);
    if (!(chi < bound)) fail_msg("%s: chi-square %.1f, bound %.1f", what, chi, bound);
}

static void draws_have_their_probabilities(void **state) {
    (void)state;
    enum { V = 8, DRAWS = 40000 };
    static const float logits[V] = {1.0f, -0.5f, 0.3f, 2.0f, 0.0f, -1.5f, 1.2f, 0.7f};
    static const struct { const char *name; Sampling s; int kept; } settings[] = {
        {"temperature 1", {1, 0, 1, 0, 1}, 8}, {"temperature 0.5", {0.5, 0, 1, 0, 1}, 8}, {"temperature 2", {2, 0, 1, 0, 1}, 8}, {"top-k 3", {1, 3, 1, 0, 1}, 3}, {"top-p 0.8", {1, 0, 0.8, 0, 1}, 4}, {"min-p 0.3", {1, 0, 1, 0.3, 1}, 3}};
    for (size_t k = 0; k < sizeof settings / sizeof *settings; k++) {
        // by hand: sorted by probability 3, 6, 0, 7, 2, 4, 1, 5; p(3) = 0.399, p(6) = 0.179, p(0) = 0.147, p(7) = 0.109
        static const int order[V] = {3, 6, 0, 7, 2, 4, 1, 5};
        double p[V] = {0}, sum = 0;
        for (int i = 0; i < settings[k].kept; i++) sum += p[order[i]] = exp(logits[order[i]] / settings[k].s.temperature);
        for (int v = 0; v < V; v++) p[v] /= sum;
        for (int by = 0; by < 2; by++) {   // another seed each time, and another position each time
            int64_t count[V] = {0};
            float z[V], sorted[V];
            for (int i = 0; i < DRAWS; i++) {
                SampleRow row = {settings[k].s, by ? 17 : (uint64_t)i, by ? i : 9, NULL, 0};
                sample_filter(z, sorted, logits, V, &row);
                int32_t token = sample_draw(z, V, &row);
                assert_int_equal(token, sample_draw(z, V, &row));
                count[token]++;
            }
            check_counts(settings[k].name, count, p, V, DRAWS);
        }
    }
    // through the engine: the first token of 3,000 answers to one question
    int64_t V2 = 101, count[101] = {0}, draws = 3000;
    double p[101];
    Model *m = model_of(0, 4, 64);
    Engine *g = engine_new(m, NULL, 256, 256, 64, 700);   // more at a time than model_sample has logits of
    const SafeTensor *prompt = reference("llama3", "prompt", 4), *next = reference("llama3", "next", 4);
    const Sampling plain = {1, 0, 1, 0, 1};
    for (int64_t v = 0; v < V2; v++) p[v] = floats(next)[v];
    for (int64_t i = 0; i < draws; i++) ask(g, i, ints(prompt), prompt->count, 1, plain, NULL);
    for (Request *r; (r = engine_next(g)) != NULL; discard(r)) {
        int32_t token = r->ids.data[r->prompt_length];
        assert_true(fabs(exp(r->logp[0]) - p[token]) < 1e-5);
        count[token]++;
    }
    check_counts("the engine's first tokens", count, p, V2, draws);
    assert_int_equal(g->computed_tokens, prompt->count + draws - 1);   // the prompt once, and its last token for every other answer
    float first[250][3];
    for (int few = 0; few < 2; few++) {   // 250 answers that differ, at once and seven at a time
        g->batch = few ? 7 : 256;
        for (int64_t i = 0; i < 250; i++) ask(g, i, ints(prompt), prompt->count, 3, plain, NULL);
        for (Request *r; (r = engine_next(g)) != NULL; discard(r)) {
            if (!few) memcpy(first[r->number], r->logp, sizeof *first);
            else assert_memory_equal(first[r->number], r->logp, sizeof *first);
        }
    }
    all_pages_free(g);
    engine_free(g);
    model_free(m);
}

// ---- pages and batches

static void prompts_share_pages(void **state) {
    (void)state;
    int32_t header[40], prompt[60];
    for (int i = 0; i < 40; i++) header[i] = (int32_t)(i * 37 % 101);
    const Sampling plain = {1, 0, 1, 0, 1};
    float *alone[12];
    int32_t *alone_ids[12];
    for (int shared = 0; shared < 3; shared++) {   // each alone in fresh pages; all at once; in so few pages that they take turns
        Model *m = model_of(0, 1, 64);
        Engine *g = engine_new(m, NULL, 12, 64, 64, shared == 1 ? 48 : 9);
        int64_t computed = 0;
        for (int i = 0; i < 12; i++) {   // one header; four questions behind it, three answers to each; question 3 is none, so its prompt ends inside the header's pages
            int n = i % 4 == 3 ? 30 : 40 + 3 * (i % 4 + 1);
            memcpy(prompt, header, sizeof header);
            for (int t = 40; t < n; t++) prompt[t] = (int32_t)(t + 10 * (i % 4));
            if (shared == 0) for (int64_t page = 0; page < g->num_pages; page++) { int32_t p = page_take(g); page_release(g, p); }   // nothing is left of the one before
            ask(g, i, prompt, n, 10, plain, NULL);
            if (shared == 0) { Request *r = engine_next(g); alone[i] = r->logp; r->logp = NULL; alone_ids[i] = (int32_t *)xmalloc(10 * 4); memcpy(alone_ids[i], r->ids.data + r->prompt_length, 40); discard(r); computed += n + 9; }
        }
        if (shared == 0) { assert_int_equal(g->computed_tokens, computed); assert_int_equal(g->shared_tokens, 0); }
        for (Request *r; (r = engine_next(g)) != NULL; discard(r)) {
            assert_memory_equal(alone[r->number], r->logp, 10 * 4);
            assert_memory_equal(alone_ids[r->number], r->ids.data + r->prompt_length, 10 * 4);
        }
        // once the header's two whole pages, the rest of each of four prompts once, one token for each of the other eight answers, and what is generated.
        // The prompt that is 30 long ends in the header's second page, which is another's: 14 tokens of its own
        if (shared == 1) assert_int_equal(g->computed_tokens, 32 + (43 - 32) + (46 - 32) + (49 - 32) + 14 + 8 + 12 * 9);
        if (shared == 2) assert_true(g->shared_tokens > 0);
        all_pages_free(g);
        if (shared == 1) {   // free pages serve as long as nobody else has them
            int64_t before = g->computed_tokens;
            ask(g, 0, header, 40, 1, greedy, NULL);
            discard(engine_next(g));
            assert_int_equal(g->computed_tokens - before, 40 - 32);
            ask(g, 0, header, 40, 1, greedy, NULL);
            discard(engine_next(g));
            assert_int_equal(g->computed_tokens - before, 40 - 32 + 1);
            all_pages_free(g);
        }
        // a page is known by all that is before it: the header, another text, the other text's first page with the header's second, the header again
        static const int64_t found[4] = {-1, 0, 16, 39};
        for (int turn = 0; turn < 4; turn++) {
            for (int t = 0; t < 40; t++) prompt[t] = turn == 1 || (turn == 2 && t < 16) ? (int32_t)(100 - t) : header[t];
            int64_t before = g->shared_tokens;
            ask(g, 0, prompt, 40, 1, greedy, NULL);
            discard(engine_next(g));
            if (turn > 0) assert_int_equal(g->shared_tokens - before, found[turn]);
        }
        Error e;
        Request r;
        memset(&r, 0, sizeof r);
        for (int i = 0; i < 60; i++) ids_add(&r.ids, 1);
        r.max_new = 6;
        assert_false(engine_add(g, &r, &e));
        assert_non_null(strstr(e.text, "60 tokens and 6 new ones are more than the 64 there is room for"));
        request_free(&r);
        engine_free(g);
        model_free(m);
    }
    for (int i = 0; i < 12; i++) { free(alone[i]); free(alone_ids[i]); }
}

// Call.own, by which attention may put keys and values into pages while others read: only where no page that is written is in another sequence's row
static void pages_that_are_written(void **state) {
    (void)state;
    int32_t prompt[60];
    Model *m = model_of(0, 1, 128);
    Engine *g = engine_new(m, NULL, 12, 128, 64, 96);
    const Sampling plain = {1, 0, 1, 0, 1};
    for (int t = 0; t < 60; t++) prompt[t] = (int32_t)(t * 37 % 101);
    for (int i = 0; i < 12; i++) ask(g, i, prompt, i % 3 == 2 ? 33 : 20 + 16 * (i % 2), 3 + i % 5, plain, NULL);   // some prompts' whole pages are others' beginnings, written in the same call
    int own = 0, shared = 0;
    while (g->num_waiting || g->num_running) {
        while (g->num_finished > 0) discard(engine_next(g));
        if (!g->num_waiting && !g->num_running) break;
        engine_call(g);
        if (g->num_finished > 0) continue;   // rows have moved up: what was read is not there any more
        const Call *c = &g->call;
        bool alone = true;
        for (int64_t a = 0; a < c->N; a++)
            for (int64_t b = 0; b < c->N; b++)
                for (int64_t k = 0; c->sequence[a] != c->sequence[b] && k <= c->positions[b] / PAGE_TOKENS; k++)
                    alone = alone && engine_table(g, c->sequence[a])[c->positions[a] / PAGE_TOKENS] != engine_table(g, c->sequence[b])[k];
        assert_true(alone || !c->own);
        if (c->own) own++; else shared++;
    }
    for (Request *r; (r = engine_next(g)) != NULL;) discard(r);
    assert_true(own > 0 && shared > 0);
    all_pages_free(g);
    engine_free(g);
    model_free(m);
}

static void answers_end_where_they_should(void **state) {
    (void)state;
    Error e;
    Tokenizer *t = tiny_tokenizer(directory, "llama3", &e);
    must(t != NULL, &e);
    static const struct { const char *says, *stop1, *stop2, *text; Finish finish; int tokens; bool line; } ends[] = {
        {"abcdef", "cd", NULL, "ab", FINISH_STOP_STRING, 4, false}, {"abcdef", "x", NULL, "abcdef", FINISH_LENGTH, 6, false}, {"abcdef", "def", "cde", "ab", FINISH_STOP_STRING, 5, false}, {"abcdef", "ef", "f", "abcd", FINISH_STOP_STRING, 6, false},
        {"aaab", "ab", NULL, "aa", FINISH_STOP_STRING, 4, false}, {"abcdef", "a", NULL, "", FINISH_STOP_STRING, 1, false}, {"ab|cdef", "b", "z", "a", FINISH_STOP_STRING, 2, false}, {"ab|cdef", "cd", NULL, "ab", FINISH_STOP, 3, false}, {"abcdef", "bcd", "cd", "a", FINISH_STOP_STRING, 4, false},
        {"\n ab\ncd", "x", NULL, "\n ab", FINISH_STOP_STRING, 5, true}, {"\n \n", "x", NULL, "\n \n", FINISH_LENGTH, 3, true}, {"ab\nc", "b", NULL, "a", FINISH_STOP_STRING, 2, true}, {"ab\ncd", "x", NULL, "ab\ncd", FINISH_LENGTH, 5, false}};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const char *words[2] = {ends[i].stop1, ends[i].stop2};
        Stops stops = {{264}, 1, {words, ends[i].stop2 ? 2 : 1}, ends[i].line};
        Request r;
        memset(&r, 0, sizeof r);
        r.max_new = (int64_t)strlen(ends[i].says); r.stops = &stops; r.logp = (float *)xcalloc(16, 4);
        for (const char *c = ends[i].says; *c && !r.finish; c++) request_accept(&r, t, *c == '|' ? 264 : *c, -1);
        if (r.finish != ends[i].finish || r.ids.len != ends[i].tokens || r.text.len != (int64_t)strlen(ends[i].text) || memcmp(r.text.data ? r.text.data : "", ends[i].text, (size_t)r.text.len) != 0)
            fail_msg("case %d: %s after %d tokens, text \"%.*s\"", (int)i, finish_names[r.finish], (int)r.ids.len, (int)r.text.len, r.text.data);
        request_free(&r);
    }
    TokenSet a = token_set(t, "A");   // a, A and " a", which is one token here
    assert_int_equal(a.ids.len, 3);
    assert_int_equal(a.ids.data[0], 'A'); assert_int_equal(a.ids.data[1], 'a'); assert_int_equal(a.ids.data[2], TINY_SPACE_A);
    ids_free(&a.ids);
    Config c;
    Stops stops;
    must(config_load("test/data/trained", &c, &e), &e);
    stops_find(&stops, &c, t);
    assert_int_equal(stops.num_tokens, 2);   // config.json's <|eot_id|>, and <|end_of_text|>
    assert_int_equal(stops.tokens[0] + stops.tokens[1], 264 + 261);
    tokenizer_free(t);
}

// ---- the program

#define SAMPLE "sample --model @model --prompts @prompts.jsonl --max-new 18 --n 3 --temperature 1.2 --top-p 0.95 --seed 4"
static void samples_do_not_depend_on_the_batch(void **state) {
    (void)state;
    make_files();
    run_genrm(0, SAMPLE " --batch 1 --out @one.jsonl");
    char *one = sorted_file("one.jsonl");
    double ratio = summary("overlength_ratio");
    assert_true(summary("answers") == 3 * ROWS && summary("new_answers") == 3 * ROWS && summary("stop") + summary("length") == 3 * ROWS);
    assert_true(summary("new_tokens_per_second") > 0 && summary("logp_compared_tokens") > 100 && summary("logp_difference_largest") < 1e-5);
    assert_non_null(strstr(output, "log-probs of generation and training: "));
    assert_true(ratio > 0.05 && ratio < 0.95);
    static const char *const batches[] = {SAMPLE " --batch 3 --out @three.jsonl", SAMPLE " --batch 8 --out @eight.jsonl --quiet"}, *const names[] = {"three.jsonl", "eight.jsonl"};
    for (int i = 0; i < 2; i++) {
        run_genrm(0, batches[i]);
        char *many = sorted_file(names[i]);
        assert_string_equal(one, many);
        assert_true(summary("overlength_ratio") == ratio);
        free(many);
    }
    // what a row says
    Error e;
    int capped = 0;
    bool seen[ROWS][3] = {{false}};
    char *text = xstrdup(one);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *j = json_parse("row", line, (int64_t)strlen(line), &e);
        must(j != NULL, &e);
        int row = (int)json_integer_value(json_object_get(j, "row")), sample = (int)json_integer_value(json_object_get(j, "sample"));
        const json_t *prompt = json_object_get(j, "prompt"), *logps = json_object_get(j, "token_logps");
        const char *answer = json_string_value(json_object_get(j, "answer")), *finish = json_string_value(json_object_get(j, "finish"));
        assert_false(seen[row][sample]);
        seen[row][sample] = true;
        assert_true(row % 3 == 0 ? json_is_string(prompt) && json_integer_value(json_object_get(j, "id")) == row : json_array_size(prompt) == 1);
        if (row % 3 == 1) { char *gold = xprintf("gold %d", row); assert_string_equal(json_string_value(json_object_get(j, "completion")), gold); assert_null(json_object_get(j, "messages")); free(gold); }
        int64_t tokens = json_integer_value(json_object_get(j, "tokens"));
        bool cap = json_is_true(json_object_get(j, "reached_cap"));
        assert_string_equal(finish, cap ? "length" : "stop");
        assert_true(tokens == (int64_t)json_array_size(logps) && tokens == (int64_t)strlen(answer) + !cap);   // letters, and the end
        double sum = 0;
        for (size_t i = 0; i < json_array_size(logps); i++) sum += json_number_value(json_array_get(logps, i));
        assert_true(fabs(sum - json_number_value(json_object_get(j, "logp"))) < 1e-6 * fabs(sum) && sum < 0);
        capped += cap;
        json_decref(j);
    }
    assert_int_equal(capped, (int)lround(ratio * 3 * ROWS));
    free(text);
    for (int row = 0; row < ROWS; row++) {   // a row's samples are drawn apart: lines of one row begin alike up to their answers
        char *key = xprintf("{\"row\":%d,\"sample\":0,", row), *line = strstr(one, key), *second = strchr(line, '\n') + 1, *x = strstr(line, "\"token_logps\":"), *y = strstr(second, "\"token_logps\":");
        assert_true(strchr(line, '\n') - x != strchr(second, '\n') - y || memcmp(x, y, (size_t)(strchr(line, '\n') - x)) != 0);
        free(key);
    }
    // greedy is one answer, and a stop string cuts it; with --system the model is asked something else
    run_genrm(0, "sample --model @model --prompts @prompts.jsonl --max-new 30 --temperature 0 --out @greedy.jsonl --stop xy --quiet");
    assert_true(summary("stop_string") == ROWS && summary("overlength_ratio") == 0);
    char *cut = sorted_file("greedy.jsonl");
    assert_non_null(strstr(cut, "\"id\":3,\"prompt\":\"count from d\",\"answer\":\"efghijklmnopqrstuvw\",\"tokens\":21,\"finish\":\"stop_string\",\"reached_cap\":false,"));
    free(cut);
    run_genrm(0, "sample --model @model --prompts @prompts.jsonl --system hi --max-new 18 --dry-run");
    assert_non_null(strstr(output, "4 ended with an answer"));
    assert_non_null(strstr(output, "FLOPs"));
    free(one);
}

static void a_killed_run_goes_on(void **state) {
    (void)state;
    char *whole = sorted_file("one.jsonl");
    Mapped m;
    Error e;
    must(map_file(in("one.jsonl"), &m, &e), &e);
    for (int64_t part = 0; part < 4; part++) {   // cut off in a line, between two lines, to nothing, not at all
        int64_t at = part == 0 ? m.size / 2 : part == 1 ? (const uint8_t *)memchr(m.data + m.size / 3, '\n', (size_t)(m.size / 2)) + 1 - m.data : part == 2 ? 0 : m.size;
        must(write_file(in("cut.jsonl"), m.data, at, &e) && copy_file(directory, directory, "one.jsonl.run", &e), &e);
        Mapped run;
        must(map_file(in("one.jsonl.run"), &run, &e) && write_file(in("cut.jsonl.run"), run.data, run.size, &e), &e);
        unmap_file(&run);
        run_genrm(0, SAMPLE " --batch 2 --out @cut.jsonl");
        char *now = sorted_file("cut.jsonl");
        assert_string_equal(whole, now);
        free(now);
        int64_t had = 0;
        for (int64_t i = 0; i < at; i++) had += m.data[i] == '\n';
        assert_true(summary("answers") == 3 * ROWS && summary("new_answers") == (double)(3 * ROWS - had));
        if (part == 0) assert_non_null(strstr(output, "the last line was cut off by a kill"));
        if (part == 3) assert_non_null(strstr(output, "nothing was generated, nothing to compare"));
    }
    unmap_file(&m);
    free(whole);
    // and with a real kill
    char program[600], model[300], prompts[300], out[300];
    snprintf(program, sizeof program, "%s/genrm_cpu", build); snprintf(model, sizeof model, "%s", in("model")); snprintf(prompts, sizeof prompts, "%s", in("prompts.jsonl")); snprintf(out, sizeof out, "%s", in("killed.jsonl"));
    if (access(program, X_OK) != 0) { printf("skipped: a kill: genrm_cpu is not built beside this test\n"); skip(); }
    setenv("OMP_NUM_THREADS", "1", 1);   // of the programs below
    pid_t pid = fork();
    if (pid == 0) { execl(program, program, "sample", "--model", model, "--prompts", prompts, "--out", out, "--n", "50", "--max-new", "18", "--batch", "2", "--quiet", (char *)NULL); _exit(127); }
    struct stat st;
    for (int i = 0; i < 3000 && !(stat(out, &st) == 0 && st.st_size > 10000); i++) usleep(2000);
    kill(pid, SIGKILL);
    int status = 0;
    waitpid(pid, &status, 0);
    if (!WIFSIGNALED(status)) fail_msg("the run was over before it was killed: status %x", status);
    Mapped killed;
    must(map_file(out, &killed, &e), &e);
    int had = 0;
    for (int64_t i = 0; i < killed.size; i++) had += killed.data[i] == '\n';
    unmap_file(&killed);
    printf("killed with %d answers of %d in the file\n", had, 50 * ROWS);
    assert_true(had > 0 && had < 50 * ROWS);
    static const char *const names[] = {"killed.jsonl", "straight.jsonl"};   // by the same program: another binary's last bits may differ
    for (int i = 0; i < 2; i++) {
        char *command = xprintf("%s sample --model %s --prompts %s --out %s --n 50 --max-new 18 --batch 32 --quiet >%s", program, model, prompts, in(names[i]), in("summary.txt"));
        assert_int_equal(system(command), 0);
        free(command);
        char *text = sorted_file("summary.txt"), *new_answers = xprintf("\"new_answers\":%d,", 50 * ROWS - (i ? 0 : had));
        if (!strstr(text, new_answers)) fail_msg("expected %s in %s", new_answers, text);
        free(text); free(new_answers);
    }
    char *a = sorted_file("killed.jsonl"), *b = sorted_file("straight.jsonl");
    assert_string_equal(a, b);
    free(a); free(b);
}

static void bad_input_is_one_line(void **state) {
    (void)state;
    run_genrm(0, "--help");
    run_genrm(0, "sample --help");
    assert_non_null(strstr(output, "--repetition-penalty X"));
    expect("", "the command is missing, expected genrm sample|judge|correct|pairs|distill|chat");
    expect("smaple", "the command is \"smaple\", expected sample, judge, correct, pairs, distill or chat");
    expect("sample", "--model is missing");
    expect("sample --model @model --prompts @prompts.jsonl", "--out is missing");
    expect("sample --model @model --prompts @prompts.jsonl --out @x --nn 3", "unknown flag \"--nn\"");
    expect("sample --model @model --prompts @prompts.jsonl --out @x --temperature 0 --top-k 4", "--top-k has no effect here: --temperature 0");
    expect("sample --model @model --prompts @prompts.jsonl --out @x --temperature 0 --n 4", "all answers would be the same");
    expect("sample --model @model --prompts @prompts.jsonl --out @x --temperature -1", "--temperature is -1, expected 0 to 100");
    expect("sample --model @model --prompts @prompts.jsonl --out @x --top-p 0", "--top-p is 0");
    expect("sample --model @model --prompts @prompts.jsonl --out @x --stop=", "--stop has an empty text");
    expect("sample --model @model --prompts @prompts.jsonl --out @x --template alpaca", "unknown chat template \"alpaca\"");
    expect("sample --model @model --prompts @nothing.jsonl --out @x", "nothing.jsonl: cannot be opened");
    expect("sample --model @nowhere --prompts @prompts.jsonl --out @x", "nowhere/config.json: cannot be opened");
    expect("sample --model @model --prompts @prompts.jsonl --max-new 18 --out @no/x", "no/x: cannot be written");
    expect("sample --model @model --prompts @prompts.jsonl --out @x --max-new 18 --adapter @nowhere", "nowhere/adapter_config.json: cannot be opened");
    expect("sample --model @model --prompts @prompts.jsonl --out @x --max-new 100", "prompts.jsonl:1: a prompt of 32 tokens and --max-new 100 are more than the model's 128 positions");
    static const struct { const char *rows, *text; } rows[] = {
        {"{\"prompt\":\"a\"}\n{\"prompt\":", "bad.jsonl:2: not valid JSON"}, {"[1]\n", "bad.jsonl:1: the row is an array, expected an object"}, {"{\"text\":\"a\"}", "bad.jsonl:1: expected \"prompt\" or \"messages\""}, {"{\"prompt\":3}", "bad.jsonl:1: \"prompt\" is an integer"},
        {"{\"prompt\":\" \"}", "bad.jsonl:1: \"prompt\" is empty"}, {"{\"messages\":[]}", "\"messages\" is an empty list"}, {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}", "is an assistant turn that answers nothing"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"system\",\"content\":\"b\"}]}", "\"messages\" ends with a system turn, expected a user turn"},
        {"{\"prompt\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]}", "\"prompt\" ends with an assistant turn, expected a user turn"}, {"", "bad.jsonl: has no rows"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) { put("bad.jsonl", rows[i].rows); expect("sample --model @model --prompts @bad.jsonl --max-new 18 --out @x --quiet", rows[i].text); }
    // answers of another run, of nobody, damaged
    expect("sample --model @model --prompts @prompts.jsonl --max-new 18 --n 3 --temperature 1.2 --top-p 0.9 --seed 4 --out @one.jsonl", "the answers there are of another run: \"top_p\" is 0.95, here 0.9");
    expect("sample --model @model --prompts @prompts.jsonl --max-new 18 --n 3 --temperature 1.2 --top-p 0.95 --seed 4 --stop x --out @one.jsonl", "\"stop\" is [], here [\"x\"]");
    put("theirs.jsonl", "{\"row\":0}\n");
    expect(SAMPLE " --out @theirs.jsonl", "is there and not of this program");
    Mapped m;
    Error e;
    must(map_file(in("one.jsonl.run"), &m, &e) && write_file(in("bad_out.jsonl.run"), m.data, m.size, &e), &e);
    unmap_file(&m);
    static const struct { const char *rows, *text; } lines[] = {
        {"{\"row\":0,\"sample\":0,\"finish\":\"stop\"}\n{\"row\":0,\"sample\":0,\"finish\":\"stop\"}\n", "bad_out.jsonl:2: row 0, sample 0 is there twice"}, {"{\"row\":0,\"sample\":3,\"finish\":\"stop\"}\n", "bad_out.jsonl:1: \"sample\" is 3, expected 0 to 2"},
        {"{\"row\":0,\"sample\":1,\"finish\":\"end\"}\n", "\"finish\" is \"end\""}, {"{\"row\":0,\n", "bad_out.jsonl:1: not valid JSON"}};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        put("bad_out.jsonl", lines[i].rows);
        expect(SAMPLE " --out @bad_out.jsonl", lines[i].text);
        Mapped after;
        must(map_file(in("bad_out.jsonl"), &after, &e), &e);
        assert_true(after.size == (int64_t)strlen(lines[i].rows) && memcmp(after.data, lines[i].rows, (size_t)after.size) == 0);   // nothing is lost
        unmap_file(&after);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    find_build(argv[0]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_and_log_probs_are_transformers), cmocka_unit_test(scores_are_transformers), cmocka_unit_test(cuts_are_transformers), cmocka_unit_test(draws_have_their_probabilities),
        cmocka_unit_test(prompts_share_pages), cmocka_unit_test(pages_that_are_written), cmocka_unit_test(answers_end_where_they_should), cmocka_unit_test(samples_do_not_depend_on_the_batch), cmocka_unit_test(a_killed_run_goes_on), cmocka_unit_test(bad_input_is_one_line),
    };
    use_threads(1);
    int failed = cmocka_run_group_tests(tests, open_all, close_all);
    free(output);
    return failed;
}
