// genrm.cu: answers from a model, and the generative reward model.
//
//     prompts -> sample -> answers -> judge -> judged answers -> correct -> corrections
//                              |                  |                  |
//                              +------------------+------------------+--> pairs (for `prepare --kind pref`), distill (for `prepare --kind it`)
//
//     sample    puts the prompts of a JSONL file to a model, N times each
//     judge     is an answer right? By the verifier (findap/verify.h), by a judge's P(Yes), or by its verdict beside a reference: FinDAP's FAP
//     correct   asks for the first wrong step of a wrong answer, and for what should stand there: FinDAP's SCP
//     pairs     preference pairs of all that; distill: the model's own good answers (findap/pair_files.h)
//     chat      talks to a person (findap/chat_loop.h)
//
// sample, judge and correct append a line an answer as they finish, and take up their file again after a kill (findap/answers.h, answer_file.h). What an answer is
// depends on its prompt, its number and the settings alone, so it does not matter when, in which batch and on which rank it is made.
//
// Every run of a model ends with the share of answers that reached the cap (overlength ratio), tokens a second, and how far log-probs of generation lie from those of a
// training pass over the same answers: one is made token by token from pages, the other from whole rows.
//
// Compiled twice: as CUDA over train_findap.cu (genrm), as C over the CPU reference (genrm_cpu).
#define FINDAP_LIBRARY          // the model, without its main()
#ifdef __CUDACC__
#include "train_findap.cu"
#else
#include "train_findap.c"
#endif
#include "findap/answers.h"     // defines: Run, run_answers
#include "findap/chat_loop.h"   // defines: chat_flags, chat_run
#include "findap/pair_files.h"  // defines: pair_files_main
#include "findap/pair_rows.h"   // defines: prompt_question, prompt_with_question

// ---------------------------------------------------------------------------------------------------------------
// sample

// One row. An assistant turn at the end of "messages" is the answer that the row brings: it goes out as "completion", as prepare calls it, and is not shown to the model.
// "prompt" goes out as the model was asked, system turn and --wrap included, so that pairs and trained rows are of the question that was answered.
FN bool sample_item(Run *s, json_t *row, const char *where, Item *p, Error *e) {
    static const char *const ours[] = {"row", "sample", "prompt", "plain_question", "answer", "tokens", "finish", "reached_cap", "logp", "token_logps", "messages", "conversations", NULL};
    const Options *o = s->o;
    Error inner;
    inner.text[0] = 0;
    MessageList list = {NULL, 0, 0}, shown = {NULL, 0, 0};
    const char *field = json_object_get(row, "messages") ? "messages" : json_object_get(row, "conversations") ? "conversations" : json_object_get(row, "prompt") ? "prompt" : NULL;
    bool ok = field || fail(&inner, "expected \"prompt\" or \"messages\"");
    bool prompt = ok && strcmp(field, "prompt") == 0;
    ok = ok && parse_messages(row, field, prompt ? "user" : NULL, &list, &inner) && begins_well(&list, field, &inner);
    const Message *last = ok ? &list.items[list.n - 1] : NULL, *gold = NULL;
    if (ok && !prompt && strcmp(last->role, "assistant") == 0) { gold = last; list.n--; s->ended_in_answer++; }
    if (ok && strcmp(list.items[list.n - 1].role, "user") != 0) ok = fail(&inner, "\"%s\" ends with %s %s turn, expected a user turn", field, list.items[list.n - 1].role[0] == 'a' ? "an" : "a", list.items[list.n - 1].role);
    if (ok) {
        bool system = o->system && strcmp(list.items[0].role, "system") != 0;
        json_t *asked = prompt && !system ? json_incref(json_object_get(row, "prompt")) : json_array();
        if (system) json_array_append_new(asked, json_pack("{s:s,s:o}", "role", "system", "content", text_json(text_of(o->system))));
        for (int i = 0; i < list.n && json_is_array(asked) && (system || !prompt); i++)
            json_array_append_new(asked, json_pack("{s:s,s:o}", "role", list.items[i].role, "content", text_json(text_make(list.items[i].content, list.items[i].length))));
        p->row = row_without(row, ours);
        if (o->wrap) {
            Text question = prompt_question(asked);
            Buffer b = {NULL, 0, 0};
            prompt_render(&s->prompt, &question, &b);
            json_object_set_new(p->row, "plain_question", text_json(question));
            json_t *wrapped = prompt_with_question(asked, text_make(b.data, b.len));
            json_decref(asked);
            asked = wrapped;
            buffer_free(&b);
        }
        json_object_set_new(p->row, "prompt", asked);
        if (gold) json_object_set_new(p->row, "completion", text_json(text_make(gold->content, gold->length)));
        ok = parse_messages(p->row, "prompt", "user", &shown, &inner) && chat_render(s->tokenizer, s->chat, shown.items, shown.n, true, &p->ids, NULL, &inner);
    }
    if (ok && p->ids.len == 0) ok = fail(&inner, "the prompt has no tokens");
    if (ok && p->ids.len + run_new_room(s) > s->config.max_position)
        ok = fail(&inner, "a prompt of %" PRId64 " tokens and --max-new %" PRId64 " are more than the model's %" PRId64 " positions ---> shorten one of them, or remove the row", p->ids.len, o->max_new, (int64_t)s->config.max_position);
    free(list.items); free(shown.items);
    return ok || fail(e, "%s: %s", where, inner.text);
}

FN void sample_line(Run *s, const Item *p, const Said *said, Buffer *b) {
    (void)s; (void)p;
    const Request *r = said->request;
    int64_t n = r->ids.len - r->prompt_length;
    double sum = 0;
    char number[128];
    for (int64_t i = 0; i < n; i++) sum += r->logp[i];
    add_field(b, "answer", said->text);
    snprintf(number, sizeof number, ",\"tokens\":%" PRId64 ",\"finish\":\"%s\",\"reached_cap\":%s,\"logp\":", n, finish_names[r->finish], said->capped ? "true" : "false");
    add_text(b, number);
    add_number(b, sum);
    for (int64_t i = 0; i < n; i++) { add_text(b, i ? "," : ",\"token_logps\":["); add_number(b, r->logp[i]); }
    add_text(b, "]");
}

FN bool sample_had(void *user, json_t *line, const char *where, Error *e) {
    Run *s = (Run *)user;
    const char *finish = NULL;
    if (!json_get_string(line, "finish", where, true, &finish, e)) return false;
    for (int k = 1; k < FINISH_SCORED; k++) if (strcmp(finish, finish_names[k]) == 0) { s->finishes[k]++; s->answers++; return true; }
    return fail(e, "%s: \"finish\" is \"%s\", expected stop, length or stop_string ---> remove the line", where, finish);
}

FN void sample_summary(const Run *s) {
    Share overlength = share_of(s->finishes[FINISH_LENGTH], s->answers);
    json_t *j = json_pack("{s:I,s:I,s:I,s:f,s:f,s:I,s:I,s:I}", "prompts", (json_int_t)s->num_items, "answers", (json_int_t)s->answers, "new_answers", (json_int_t)(s->answers - s->file.resumed),
                          "overlength_ratio", overlength.p, "overlength_ratio_stderr", overlength.error, "stop", (json_int_t)s->finishes[FINISH_STOP], "stop_string", (json_int_t)s->finishes[FINISH_STOP_STRING], "length", (json_int_t)s->finishes[FINISH_LENGTH]);
    run_speed_json(s, j);
    print_json(j);
    if (s->o->quiet) return;
    fprintf(stderr, "%" PRId64 " answers to %" PRId64 " prompts: %.1f +- %.1f %% reached the cap of %" PRId64 " tokens (overlength ratio), %" PRId64 " ended, %" PRId64 " met a stop string\n", s->answers, s->num_items, 100 * overlength.p, 100 * overlength.error,
            s->o->max_new, s->finishes[FINISH_STOP], s->finishes[FINISH_STOP_STRING]);
    fprintf(stderr, "%" PRId64 " new tokens in %.1f s, %.1f tok/s; of the prompts %" PRId64 " tokens were in pages already\n", s->new_tokens, s->seconds, s->new_tokens ? (double)s->new_tokens / s->seconds : 0, s->shared_tokens);
    run_print_logp(s);
}

FN int sample_flags(Options *o, Flag *flags) {
    const Flag table[] = {
        {"--model", FLAG_STRING, &o->model, "DIR", "Hugging Face model directory", 0, 0, false},
        {"--prompts", FLAG_STRING, &o->in, "FILE", "JSONL rows {\"prompt\"} or {\"messages\"}; an answer at the end of these is kept as \"completion\"", 0, 0, false},
        {"--out", FLAG_STRING, &o->out, "FILE", "JSONL, a line an answer as they finish; the same command goes on after a kill", 0, 0, false},
        {"--n", FLAG_INT, &o->n, "N", "answers a prompt", 1, 1e6, false},
        {"--max-new", FLAG_INT, &o->max_new, "N", "most tokens of an answer: what has not ended by then has reached the cap", 1, 1 << 20, false},
        {"--wrap", FLAG_STRING, &o->wrap, "FILE", "put each question into this prompt, e.g. data/prompts/reason.txt: step by step; the question alone goes out as \"plain_question\"", 0, 0, false},
        {"--system", FLAG_STRING, &o->system, "TEXT", "system turn of rows that have none", 0, 0, false},
        {"--stop", FLAG_LIST, &o->stop, "TEXT", "an answer ends before the first of these", 0, 0, false},
    };
    int n = add_flags(flags, 0, table, (int)(sizeof table / sizeof *table));
    n = flags_of_draws(o, flags, n);
    n = flags_of_cuts(o, flags, n);
    return flags_of_runs(o, flags, n);
}

FN bool sample_settings(Options *o, Flag *flags, int n, Error *e) {
    static const char *const printing[] = {"--quiet", NULL};
    if (!o->model || !o->in || (!o->out && !o->dry_run)) return fail(e, "%s is missing ---> see genrm sample --help", !o->model ? "--model" : !o->in ? "--prompts" : "--out");
    if (o->sampling.temperature == 0 && !flags_unused(flags, n, draw_flags, "--temperature 0 takes the most probable token", e)) return false;
    if (o->sampling.temperature == 0 && o->n > 1) return fail(e, "--n is %" PRId64 " with --temperature 0: all answers would be the same ---> give a temperature above 0", o->n);
    if (o->dry_run && !flags_unused(flags, n, printing, "--dry-run does nothing but print", e)) return false;
    for (int i = 0; i < o->stop.n; i++) if (!*o->stop.items[i]) return fail(e, "--stop has an empty text, expected at least one character");
    return true;
}

FN bool sample_run(Run *s, int argc, char **argv, Error *e) {
    const Options *o = s->o;
    s->item = sample_item; s->line = sample_line; s->file.had = sample_had; s->file.row_key = "row"; s->file.sample_key = "sample";
    if (!comm_agree(&s->comm, run_open_model(s, e) && (!o->wrap || prompt_load(o->wrap, prompt_reason, &s->prompt, e)) && run_rows(s, e), e, "reading the prompts")) return false;
    if (!o->quiet) run_print_plan(s);
    if (o->dry_run) return true;
    Hash wrap = {""};
    if (!run_same(s, argc, argv, e) || (o->wrap && !hash_file(o->wrap, &wrap, e))) return false;
    bool ok = run_answers(s, json_pack("{s:s,s:s,s:I}", "format", "findap-sample-2", "wrap_hash", wrap.hex, "n", (json_int_t)o->n), e);
    if (ok && s->comm.rank == 0) sample_summary(s);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// judge

enum { MODE_VERIFY, MODE_YESNO, MODE_VERDICT, NUM_MODES };
FN const char *const mode_names[NUM_MODES] = {"verify", "yesno", "verdict"};

// What came out for a row is one of: a judge's verdict or why there is none (judged_names), why none was asked for (skip_names), or the verifier's (verified_names)
FN const char *judge_outcome(int mode, int k) { return mode == MODE_VERIFY ? (k < NUM_VERIFIED ? verified_names[k] : NULL) : k < NUM_JUDGED ? judged_names[k] : k < NUM_JUDGED + NUM_SKIP ? skip_names[k - NUM_JUDGED] : NULL; }

// The conversation as a judge is shown it: the question, where there is but one; else all turns with who said them
FN void conversation_text(const json_t *row, Buffer *b) {
    const json_t *prompt = json_object_get(row, "prompt"), *plain = json_object_get(row, "plain_question");
    Text question = json_is_string(plain) ? text_make(json_string_value(plain), (int64_t)json_string_length(plain)) : prompt_question(prompt);
    if (json_array_size(prompt) < 2 || json_is_string(plain)) { buffer_add(b, question.data, question.length); return; }
    for (size_t i = 0; i < json_array_size(prompt); i++) {
        const json_t *m = json_array_get(prompt, i), *role = json_object_get(m, "role"), *content = json_object_get(m, "content");
        if (!json_is_string(role) || !json_is_string(content)) continue;
        add_text(b, b->len ? "\n\n" : "");
        add_text(b, json_string_value(role));
        add_text(b, ": ");
        buffer_add(b, json_string_value(content), (int64_t)json_string_length(content));
    }
}

FN bool judge_item(Run *s, json_t *row, const char *where, Item *p, Error *e) {
    static const char *const ours[] = {"line", "verdict", "judged", "score", "p_yes", "p_no", "p_outside", "verified", "reply", "reply_reached_cap", "token_logps", NULL};
    const Options *o = s->o;
    Text answer, gold;
    bool capped = false;
    if (!row_text(row, "answer", where, true, &answer, e) || !row_text(row, o->gold, where, false, &gold, e) || !json_get_bool(row, "reached_cap", where, false, &capped, e)) return false;
    p->row = row_without(row, ours);
    bool has_gold = text_trim(gold).length > 0;
    if (has_gold || s->mode == MODE_VERIFY) json_object_set_new(p->row, "verified", json_string(verified_names[verify(s->verify_kind, answer, capped, gold, o->tolerance)]));
    p->skip = s->mode == MODE_VERIFY ? SKIP_VERIFIED : text_trim(answer).length == 0 ? SKIP_EMPTY : capped ? SKIP_CAPPED : s->mode == MODE_VERDICT && !has_gold ? SKIP_NO_REFERENCE : SKIP_NOT;
    if (p->skip) return true;
    Buffer question = {NULL, 0, 0};
    conversation_text(row, &question);
    const Text q = text_make(question.data ? question.data : "", question.len), alone[] = {q, answer}, beside[] = {q, gold, answer};
    bool ok = run_ask_about(s, s->mode == MODE_VERDICT ? beside : alone, where, p, e);
    buffer_free(&question);
    return ok;
}

// one row more in the sums, whether it was judged now or by an earlier run
FN void judge_count(Run *s, const json_t *row, int outcome, double score) {
    const char *known = json_string_value(json_object_get(row, "verified"));
    bool right = outcome == JUDGED_RIGHT, decided = right || outcome == JUDGED_WRONG;   // VERIFIED_RIGHT and _WRONG are the same numbers
    s->outcomes[outcome]++;
    s->right += right;
    s->wrong += decided && !right;
    s->capped += json_is_true(json_object_get(row, "reached_cap"));
    if (s->mode == MODE_VERIFY || !decided || !known || (strcmp(known, "right") != 0 && strcmp(known, "wrong") != 0)) return;
    if (s->num_judgements == s->cap_judgements) s->judgements = (Judgement *)xrealloc(s->judgements, s->cap_judgements = s->cap_judgements ? 2 * s->cap_judgements : 256, sizeof(Judgement));
    Judgement j = {score, right, strcmp(known, "right") == 0};
    s->judgements[s->num_judgements++] = j;
}

FN void judge_line(Run *s, const Item *p, const Said *said, Buffer *b) {
    int outcome = NUM_JUDGED + (int)p->skip;
    double score = NAN;
    for (int k = 0; s->mode == MODE_VERIFY && k < NUM_VERIFIED; k++) if (strcmp(verified_names[k], json_string_value(json_object_get(p->row, "verified"))) == 0) outcome = k;
    if (said && s->num_sets) outcome = (int)judge_by_probability(said->request->set_probability[0], said->request->set_probability[1], s->o->least, &score);
    else if (said) outcome = (int)(s->mode == MODE_VERDICT ? judge_parse_json(said->text, said->capped) : judge_parse_text(said->text, said->capped));
    add_text(b, outcome == JUDGED_RIGHT ? ",\"verdict\":\"right\"" : outcome == JUDGED_WRONG ? ",\"verdict\":\"wrong\"" : ",\"verdict\":null");
    add_field(b, "judged", text_of(judge_outcome(s->mode, outcome)));
    if (said && s->num_sets) {
        static const char *const names[] = {",\"score\":", ",\"p_yes\":", ",\"p_no\":", ",\"p_outside\":"};
        for (int k = 0; k < 4; k++) { add_text(b, names[k]); add_number(b, k ? said->request->set_probability[k - 1] : score); }
    } else if (said) {
        add_field(b, "reply", said->text);
        add_text(b, said->capped ? ",\"reply_reached_cap\":true" : ",\"reply_reached_cap\":false");
    }
    judge_count(s, p->row, outcome, score);
}

FN bool judge_had(void *user, json_t *line, const char *where, Error *e) {
    Run *s = (Run *)user;
    const char *judged = NULL;
    double score = NAN;
    if (!json_get_string(line, "judged", where, true, &judged, e) || !json_get_double(line, "score", where, false, 0, 1, &score, e)) return false;
    for (int k = 0; judge_outcome(s->mode, k); k++) if (strcmp(judged, judge_outcome(s->mode, k)) == 0) { judge_count(s, line, k, score); s->answers++; return true; }
    return fail(e, "%s: \"judged\" is \"%s\", which --mode %s does not say ---> remove the line", where, judged, s->o->mode);
}

FN void judge_summary(const Run *s) {
    const Options *o = s->o;
    Share right = share_of(s->right, s->answers), capped = share_of(s->capped, s->answers);
    Calibration c = calibrate(s->judgements, s->num_judgements);
    json_t *outcomes = json_object(), *j = json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:f}", "mode", o->mode, "answers", (json_int_t)s->answers, "new_answers", (json_int_t)(s->answers - s->file.resumed), "right", (json_int_t)s->right, "wrong", (json_int_t)s->wrong,
                          "undecided", (json_int_t)(s->answers - s->right - s->wrong), "right_share", right.p, "right_share_stderr", right.error, "overlength_ratio", capped.p, "overlength_ratio_stderr", capped.error);
    for (int k = 0; judge_outcome(s->mode, k); k++) if (s->outcomes[k]) json_object_set_new(outcomes, judge_outcome(s->mode, k), json_integer(s->outcomes[k]));
    json_object_set_new(j, "judged", outcomes);
    if (s->mode != MODE_VERIFY) json_object_set_new(j, "calibration", calibration_json(&c));
    if (o->endpoint.url) json_object_set_new(j, "endpoint", endpoint_json(&s->endpoint));
    else if (s->mode != MODE_VERIFY) run_speed_json(s, j);
    print_json(j);
    if (o->quiet) return;
    fprintf(stderr, "%" PRId64 " answers: %" PRId64 " right (%.1f +- %.1f %%), %" PRId64 " wrong, %" PRId64 " undecided; %.1f +- %.1f %% had reached the cap (overlength ratio)\n", s->answers, s->right, 100 * right.p, 100 * right.error, s->wrong,
            s->answers - s->right - s->wrong, 100 * capped.p, 100 * capped.error);
    for (int k = 2; judge_outcome(s->mode, k); k++) if (s->outcomes[k]) fprintf(stderr, "%14" PRId64 "  %s\n", s->outcomes[k], judge_outcome(s->mode, k));
    if (s->mode == MODE_VERIFY) return;
    if (c.n == 0) fprintf(stderr, "calibration: no judged answer whose gold answer the verifier could use\n");
    else {
        fprintf(stderr, "calibration against the verifier, %" PRId64 " answers: judged as the verifier does %.1f %%; right judged right %" PRId64 ", judged wrong %" PRId64 "; wrong judged wrong %" PRId64 ", judged right %" PRId64 "\n", c.n, 100 * c.accuracy,
                c.true_right, c.false_wrong, c.true_wrong, c.false_right);
        if (c.scored) fprintf(stderr, "expected calibration error %.3f, AUC %.3f\n     score      answers  mean score  right\n", c.calibration_error, c.auc);
        for (int k = 0; k < CALIBRATION_BINS; k++) if (c.in_bin[k]) fprintf(stderr, "  %.1f to %.1f  %8" PRId64 "  %10.3f  %5.1f %%\n", k / (double)CALIBRATION_BINS, (k + 1) / (double)CALIBRATION_BINS, c.in_bin[k], c.score_mean[k], 100 * c.right_share[k]);
    }
    if (o->endpoint.url) fprintf(stderr, "endpoint: %" PRId64 " replies in %.1f s, %" PRId64 " tries more; %" PRId64 " tokens asked, %" PRId64 " said\n", s->endpoint.counts[ENDPOINT_GOOD], s->seconds, s->endpoint.retries, s->endpoint.prompt_tokens, s->endpoint.reply_tokens);
    else fprintf(stderr, "%" PRId64 " tokens through the judge in %.1f s, %" PRId64 " new ones; of the prompts %" PRId64 " were in pages already\n", s->computed_tokens, s->seconds, s->new_tokens, s->shared_tokens);
    if (!o->endpoint.url && s->mode == MODE_VERDICT) run_print_logp(s);
}

FN int judge_flags(Options *o, Flag *flags) {
    const Flag table[] = {
        {"--answers", FLAG_STRING, &o->in, "FILE", "JSONL rows as genrm sample writes them: \"prompt\", \"answer\", \"reached_cap\", and \"completion\", the gold answer", 0, 0, false},
        {"--out", FLAG_STRING, &o->out, "FILE", "the same rows with \"verdict\" (right, wrong, null) and \"judged\" (why), a line as each is judged; the same command goes on after a kill", 0, 0, false},
        {"--mode", FLAG_STRING, &o->mode, "MODE", "verify: letters, numbers and texts against the gold answer, no judge; yesno: P(Yes) against P(No); verdict: the judge compares with the gold answer, in JSON", 0, 0, false},
        {"--gold", FLAG_STRING, &o->gold, "NAME", "field of the gold answer", 0, 0, false},
        {"--verifier", FLAG_STRING, &o->kind, "KIND", "auto (by the gold answer), choice, number or exact", 0, 0, false},
        {"--tolerance", FLAG_DOUBLE, &o->tolerance, "X", "most that a number may be off, as a share of the gold one", 0, 1, false},
        {"--model", FLAG_STRING, &o->model, "DIR", "the judge: a Hugging Face model directory, that of the answers or another", 0, 0, false},
        {"--prompt", FLAG_STRING, &o->prompt, "FILE", "what the judge is asked (default: data/prompts/judge.txt, or judge_reference.txt for verdict)", 0, 0, false},
        {"--yes", FLAG_STRING, &o->yes, "WORD", "yesno: the word for right; all tokens that spell it are summed", 0, 0, false},
        {"--no", FLAG_STRING, &o->no, "WORD", "yesno: the word for wrong", 0, 0, false},
        {"--least", FLAG_DOUBLE, &o->least, "X", "yesno: a judge that gives the two words less than this has no verdict", 0, 1, false},
        {"--max-new", FLAG_INT, &o->max_new, "N", "most tokens of a reply", 1, 1 << 20, false},
    };
    o->mode = NULL; o->yes = "Yes"; o->no = "No"; o->least = 0.1; o->max_new = 512; o->sampling.temperature = 0;
    int n = add_flags(flags, 0, table, (int)(sizeof table / sizeof *table));
    n = flags_of_draws(o, flags, n);
    n = flags_of_endpoints(o, flags, n);
    return flags_of_runs(o, flags, n);
}

FN bool judge_settings(Run *s, Flag *flags, int n, Error *e) {
    static const char *const asking[] = {"--model", "--endpoint", "--endpoint-model", "--key-variable", "--connections", "--timeout", "--tries", "--give-up", "--prompt", "--max-new", "--temperature", "--seed", "--batch", "--template", "--adapter", "--dry-run", NULL};
    static const char *const words[] = {"--yes", "--no", "--least", NULL}, *const generating[] = {"--max-new", "--temperature", "--seed", NULL};
    Options *o = s->o;
    if (!o->mode) return fail(e, "--mode is missing, expected verify, yesno or verdict ---> see genrm judge --help");
    for (s->mode = 0; s->mode < NUM_MODES && strcmp(o->mode, mode_names[s->mode]) != 0;) s->mode++;
    if (s->mode == NUM_MODES) return fail(e, "--mode is \"%s\", expected verify, yesno or verdict", o->mode);
    if (s->mode == MODE_VERIFY && !flags_unused(flags, n, asking, "--mode verify asks no judge", e)) return false;
    if (!verify_find(o->kind, &s->verify_kind, e) || !asking_settings(o, flags, n, e)) return false;
    if ((s->mode != MODE_YESNO || o->endpoint.url) && !flags_unused(flags, n, words, s->mode == MODE_YESNO ? "an endpoint says Yes or No, its probabilities are not to be had" : "they are --mode yesno's", e)) return false;
    if (s->mode == MODE_YESNO && !o->endpoint.url && !flags_unused(flags, n, generating, "--mode yesno generates nothing", e)) return false;
    if (s->mode == MODE_YESNO && !o->endpoint.url) o->max_new = 0;
    if (s->mode != MODE_VERIFY && !o->model && !o->endpoint.url) return fail(e, "--model or --endpoint is missing ---> who judges?");
    return true;
}

// the judge's prompt file, hashed for the identity; *path, if NULL, becomes data/prompts/NAME, which the caller frees
FN bool judge_prompt(Run *s, const char *name, const char *const *names, Hash *hash, Error *e) {
    char *path = s->o->prompt ? xstrdup(s->o->prompt) : prompt_path(name);
    bool ok = prompt_load(path, names, &s->prompt, e) && hash_file(path, hash, e);
    free(path);
    return ok;
}

FN bool judge_run(Run *s, int argc, char **argv, Error *e) {
    Options *o = s->o;
    Hash prompt = {""};
    s->item = judge_item; s->line = judge_line; s->file.had = judge_had; s->file.row_key = "line"; s->skipped_have_lines = true;
    bool ok = (!o->model || run_open_model(s, e)) && (s->mode == MODE_VERIFY || (s->mode == MODE_VERDICT ? judge_prompt(s, "judge_reference.txt", prompt_judge_reference, &prompt, e) : judge_prompt(s, "judge.txt", prompt_judge, &prompt, e)));
    for (int k = 0; ok && s->mode == MODE_YESNO && o->model && k < 2; k++) {
        const char *word = k ? o->no : o->yes;
        s->sets[s->num_sets++] = token_set(s->tokenizer, word);
        if (s->sets[k].ids.len == 0) ok = fail(e, "%s: no token of the tokenizer spells \"%s\" ---> give %s a word that is one token, and a --prompt that asks for it, or use --mode verdict", o->model, word, k ? "--no" : "--yes");
    }
    for (int64_t i = 0; ok && s->num_sets && i < s->sets[0].ids.len; i++) for (int64_t k = 0; k < s->sets[1].ids.len; k++) if (s->sets[0].ids.data[i] == s->sets[1].ids.data[k]) ok = fail(e, "--yes and --no are the same word");
    if (!comm_agree(&s->comm, ok && run_rows(s, e), e, "reading the answers")) return false;
    if (!o->quiet && s->mode != MODE_VERIFY) run_print_plan(s);
    if (o->dry_run) return true;
    if (!run_same(s, argc, argv, e)) return false;
    ok = run_answers(s, json_pack("{s:s,s:s,s:s,s:s,s:s,s:f,s:s,s:s,s:f}", "format", "findap-judge-1", "mode", o->mode, "prompt_hash", prompt.hex, "gold", o->gold, "verifier", o->kind, "tolerance", o->tolerance, "yes", o->yes, "no", o->no, "least", o->least), e);
    if (s->begun && s->comm.rank == 0) judge_summary(s);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// correct

FN bool correct_item(Run *s, json_t *row, const char *where, Item *p, Error *e) {
    static const char *const ours[] = {"line", "reply", "reply_reached_cap", "correction", "correct_prefix", "wrong_step", "corrected_step", "token_logps", NULL};
    const Options *o = s->o;
    Text answer, gold, verdict;
    if (!row_text(row, "answer", where, true, &answer, e) || !row_text(row, o->gold, where, false, &gold, e) || !row_text(row, "verdict", where, false, &verdict, e)) return false;
    if (!json_object_get(row, "verdict")) return fail(e, "%s: \"verdict\" is missing: only wrong answers are corrected ---> judge them first: genrm judge", where);
    p->row = row_without(row, ours);
    p->skip = !text_equal(verdict, text_of("wrong")) ? SKIP_NOT_WRONG : text_trim(answer).length == 0 ? SKIP_EMPTY : json_is_true(json_object_get(row, "reached_cap")) ? SKIP_CAPPED : text_trim(gold).length == 0 ? SKIP_NO_REFERENCE : SKIP_NOT;
    if (p->skip) return true;
    Buffer question = {NULL, 0, 0};
    conversation_text(row, &question);
    const Text values[] = {text_make(question.data ? question.data : "", question.len), gold, answer};
    bool ok = run_ask_about(s, values, where, p, e);
    buffer_free(&question);
    return ok;
}

FN void correct_line(Run *s, const Item *p, const Said *said, Buffer *b) {
    Correction c;
    const json_t *answer = json_object_get(p->row, "answer");
    CorrectionStatus status = correction_parse(said->text, said->capped, text_make(json_string_value(answer), (int64_t)json_string_length(answer)), &c);
    s->outcomes[status]++;
    s->right += c.exact;
    add_field(b, "correction", text_of(correction_names[status]));
    if (status == CORRECTION_GOOD) {
        add_field(b, "correct_prefix", c.prefix);
        add_field(b, "wrong_step", c.wrong);
        add_field(b, "corrected_step", text_of(c.correction));
        free(c.correction);
    }
    add_field(b, "reply", said->text);
    add_text(b, said->capped ? ",\"reply_reached_cap\":true" : ",\"reply_reached_cap\":false");
}

FN bool correct_had(void *user, json_t *line, const char *where, Error *e) {
    Run *s = (Run *)user;
    const char *status = NULL;
    if (!json_get_string(line, "correction", where, true, &status, e)) return false;
    for (int k = 0; k < NUM_CORRECTION; k++) if (strcmp(status, correction_names[k]) == 0) { s->outcomes[k]++; s->answers++; return true; }
    return fail(e, "%s: \"correction\" is \"%s\", which is none that this program knows ---> remove the line", where, status);
}

FN void correct_summary(const Run *s) {
    const Options *o = s->o;
    Share good = share_of(s->outcomes[CORRECTION_GOOD], s->answers);
    json_t *skipped = json_object(), *j = json_pack("{s:I,s:I,s:I,s:I,s:f,s:f}", "rows", (json_int_t)s->num_items, "asked", (json_int_t)s->answers, "new", (json_int_t)(s->answers - s->file.resumed), "good", (json_int_t)s->outcomes[CORRECTION_GOOD],
                                                    "good_share", good.p, "good_share_stderr", good.error);
    for (int k = 1; k < NUM_SKIP; k++) if (s->skipped[k]) json_object_set_new(skipped, skip_names[k], json_integer(s->skipped[k]));
    json_object_set_new(j, "not_asked", skipped);
    json_object_set_new(j, "rejected", counts_json(correction_names + 1, s->outcomes + 1, NUM_CORRECTION - 1));
    if (o->endpoint.url) json_object_set_new(j, "endpoint", endpoint_json(&s->endpoint)); else run_speed_json(s, j);
    print_json(j);
    if (o->quiet) return;
    fprintf(stderr, "%" PRId64 " of %" PRId64 " answers asked about: %" PRId64 " corrections hold (%.1f +- %.1f %%)\n", s->answers, s->num_items, s->outcomes[CORRECTION_GOOD], 100 * good.p, 100 * good.error);
    for (int k = 1; k < NUM_CORRECTION; k++) if (s->outcomes[k]) fprintf(stderr, "%14" PRId64 "  rejected: %s\n", s->outcomes[k], correction_names[k]);
    for (int k = 1; k < NUM_SKIP; k++) if (s->skipped[k]) fprintf(stderr, "%14" PRId64 "  not asked: %s\n", s->skipped[k], skip_names[k]);
    if (o->endpoint.url) fprintf(stderr, "endpoint: %" PRId64 " replies in %.1f s, %" PRId64 " tries more\n", s->endpoint.counts[ENDPOINT_GOOD], s->seconds, s->endpoint.retries);
    else { fprintf(stderr, "%" PRId64 " new tokens in %.1f s, %.1f tok/s\n", s->new_tokens, s->seconds, s->new_tokens ? (double)s->new_tokens / s->seconds : 0); run_print_logp(s); }
}

FN int correct_flags(Options *o, Flag *flags) {
    const Flag table[] = {
        {"--answers", FLAG_STRING, &o->in, "FILE", "JSONL rows as genrm judge writes them; those with the verdict wrong are asked about", 0, 0, false},
        {"--out", FLAG_STRING, &o->out, "FILE", "these rows with \"correction\" (good, or why not), \"wrong_step\", \"corrected_step\", ...; the same command goes on after a kill", 0, 0, false},
        {"--gold", FLAG_STRING, &o->gold, "NAME", "field of the gold answer, which is shown as the reference", 0, 0, false},
        {"--model", FLAG_STRING, &o->model, "DIR", "who corrects: a Hugging Face model directory, that of the answers or another", 0, 0, false},
        {"--prompt", FLAG_STRING, &o->prompt, "FILE", "what is asked (default: data/prompts/correct.txt)", 0, 0, false},
        {"--max-new", FLAG_INT, &o->max_new, "N", "most tokens of a reply", 1, 1 << 20, false},
    };
    o->max_new = 1024; o->sampling.temperature = 0;
    int n = add_flags(flags, 0, table, (int)(sizeof table / sizeof *table));
    n = flags_of_draws(o, flags, n);
    n = flags_of_endpoints(o, flags, n);
    return flags_of_runs(o, flags, n);
}
FN bool correct_settings(Run *s, Flag *flags, int n, Error *e) {
    if (!asking_settings(s->o, flags, n, e)) return false;
    return s->o->model || s->o->endpoint.url || fail(e, "--model or --endpoint is missing ---> who corrects?");
}

FN bool correct_run(Run *s, int argc, char **argv, Error *e) {
    Options *o = s->o;
    Hash prompt = {""};
    s->item = correct_item; s->line = correct_line; s->file.had = correct_had; s->file.row_key = "line";
    if (!comm_agree(&s->comm, (!o->model || run_open_model(s, e)) && judge_prompt(s, "correct.txt", prompt_judge_reference, &prompt, e) && run_rows(s, e), e, "reading the answers")) return false;
    if (!o->quiet) run_print_plan(s);
    if (o->dry_run) return true;
    if (!run_same(s, argc, argv, e)) return false;
    bool ok = run_answers(s, json_pack("{s:s,s:s,s:s}", "format", "findap-correct-1", "prompt_hash", prompt.hex, "gold", o->gold), e);
    if (s->begun && s->comm.rank == 0) correct_summary(s);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// the program

FN bool chat_settings(const Options *o, const Comm *c, Flag *flags, int n, Error *e) {
    if (c->size > 1) return fail(e, "a conversation is one process's, found %d ---> start genrm chat alone", c->size);
    return o->sampling.temperature > 0 || flags_unused(flags, n, draw_flags, "--temperature 0 takes the most probable token", e);
}

enum { SAMPLE, JUDGE, CORRECT, CHAT };
FN int run_main(int command, int argc, char **argv) {
    static const struct { const char *usage, *about; } help_of[] = {
        {"genrm sample --model DIR --prompts FILE.jsonl --out FILE.jsonl [flags]",
         "Answers to prompts, N each. Rows go out with what they came in with, and \"answer\", \"tokens\", \"finish\" (stop, length, stop_string), \"reached_cap\", \"logp\", \"token_logps\":\n"
         "log-probs of the model itself, before temperature, penalty and cuts. A summary on stdout, one JSON object."},
        {"genrm judge --mode verify|yesno|verdict --answers FILE.jsonl --out FILE.jsonl [--model DIR | --endpoint URL] [flags]",
         "Is an answer right? Where there are gold answers the judge's agreement with the verifier is printed. A summary on stdout, one JSON object.\n"
         "With yesno \"score\" is P(Yes) / (P(Yes) + P(No)) and \"p_outside\" what neither word got; an endpoint's Yes or No is read as text and has no score."},
        {"genrm correct --answers JUDGED.jsonl --out FILE.jsonl (--model DIR | --endpoint URL) [flags]",
         "The first wrong step of wrong answers, and what should stand there instead. What is quoted must be in the answer, in its place, and the correction must differ;\n"
         "what does not hold is kept with its reason. A summary on stdout, one JSON object."},
        {"genrm chat --model DIR [flags]", "A conversation: a line of standard input is a turn, the answer comes as it is made. /clear begins anew, /quit ends. Escape sequences in answers are made visible."},
    };
    Options o;
    Flag flags[MAX_FLAGS];
    Run s;
    Error e;
    bool help = false;
    memset(&s, 0, sizeof s);
    options_begin(&o);
    s.o = &o; s.to_check = CHECKED_ANSWERS;
    int n = command == SAMPLE ? sample_flags(&o, flags) : command == JUDGE ? judge_flags(&o, flags) : command == CORRECT ? correct_flags(&o, flags) : flags_of_cuts(&o, flags, chat_flags(&o, flags));
    bool ok = comm_begin(&s.comm, 60, &e) && flags_parse(argc, argv, 2, flags, n, NULL, &help, &e);
    if (ok && help && s.comm.rank == 0) flags_help(help_of[command].usage, help_of[command].about, flags, n);
    ok = ok && (help || (command == SAMPLE ? sample_settings(&o, flags, n, &e) : command == JUDGE ? judge_settings(&s, flags, n, &e) : command == CORRECT ? correct_settings(&s, flags, n, &e) : chat_settings(&o, &s.comm, flags, n, &e)));
    ok = comm_agree(&s.comm, ok, &e, "reading flags");
    bool print = s.comm.rank == 0;
    if (!print) o.quiet = true;
    if (ok && !help && !o.quiet) log_banner(FINDAP_DEVICE, argc, argv);
    if (ok && !help) ok = comm_agree(&s.comm, command == SAMPLE ? sample_run(&s, argc, argv, &e) : command == JUDGE ? judge_run(&s, argc, argv, &e) : command == CORRECT ? correct_run(&s, argc, argv, &e) : chat_run(&s, &e), &e, "the end");
    if (!ok && print) fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    run_free(&s);
    comm_end(&s.comm);
    return ok ? 0 : 1;
}

FN int genrm_main(int argc, char **argv) {
    program_name = "genrm";
    sigbus_message();
    if (argc < 2) {
        fprintf(stderr, "%s: error: the command is missing, expected genrm sample|judge|correct|pairs|distill|chat ... ---> see genrm --help\n", program_name);
        return 1;
    }
    const char *command = argv[1];
    if (strcmp(command, "sample") == 0) return run_main(SAMPLE, argc, argv);
    if (strcmp(command, "judge") == 0) return run_main(JUDGE, argc, argv);
    if (strcmp(command, "correct") == 0) return run_main(CORRECT, argc, argv);
    if (strcmp(command, "chat") == 0) return run_main(CHAT, argc, argv);
    if (strcmp(command, "pairs") == 0) return pair_files_main(false, argc, argv);
    if (strcmp(command, "distill") == 0) return pair_files_main(true, argc, argv);
    if (strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0) {
        printf("usage: genrm sample ...    answers to prompts\n"
               "       genrm judge ...     are they right? by the verifier, by a judge's P(Yes), by its verdict beside a reference\n"
               "       genrm correct ...   the first wrong step of wrong answers, and what should stand there\n"
               "       genrm pairs ...     preference pairs of all these, for prepare --kind pref\n"
               "       genrm distill ...   the model's own good answers, for prepare --kind it\n"
               "       genrm chat ...      a conversation\n"
               "\n`genrm COMMAND --help` shows a command's flags\n");
        return 0;
    }
    Error e;
    fail(&e, "the command is \"%s\", expected sample, judge, correct, pairs, distill or chat ---> see genrm --help", command);
    fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    return 1;
}

#ifndef GENRM_LIBRARY
int main(int argc, char **argv) { return genrm_main(argc, argv); }
#endif
