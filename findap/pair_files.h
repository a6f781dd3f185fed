// pair_files.h: `genrm pairs` and `genrm distill`: what was sampled, judged and corrected becomes rows for `prepare`. No model is needed.
//
// The order of lines in a file is that in which answers happened to finish, so rows are sorted by their prompt's number, their sample's and their text first:
// the same answers give the same pairs, whatever the batch and the ranks were. Answers to one prompt are found by the prompt itself, so several files may bring them.
#ifndef FINDAP_PAIR_FILES_H
#define FINDAP_PAIR_FILES_H
#include "answers.h"     // defines: row_text, share_of, print_json
#include "pair_rows.h"   // defines: fap_rows, scp_row, overlong_row

typedef struct { json_t *row; char *where; int64_t number, sample; XXH128_hash_t prompt; } FileRow;   // number: of the prompt, or of the line where it has none
typedef struct { FileRow *items; int64_t n, cap; } FileRows;

FN int file_row_compare(const void *a, const void *b) {
    const FileRow *x = (const FileRow *)a, *y = (const FileRow *)b;
    if (x->number != y->number) return x->number < y->number ? -1 : 1;
    int prompts = memcmp(&x->prompt, &y->prompt, sizeof x->prompt);
    if (prompts || x->sample != y->sample) return prompts ? prompts : x->sample < y->sample ? -1 : 1;
    const char *s = json_string_value(json_object_get(x->row, "answer")), *t = json_string_value(json_object_get(y->row, "answer"));
    int texts = s && t ? strcmp(s, t) : 0;
    return texts ? texts : strcmp(x->where, y->where);
}
FN int file_row_by_prompt(const void *a, const void *b) {
    int prompts = memcmp(&((const FileRow *)a)->prompt, &((const FileRow *)b)->prompt, sizeof(XXH128_hash_t));
    return prompts ? prompts : file_row_compare(a, b);
}

FN void file_rows_free(FileRows *r) {
    for (int64_t i = 0; i < r->n; i++) { json_decref(r->items[i].row); free(r->items[i].where); }
    free(r->items);
}

FN bool file_rows_read(const StringList *files, FileRows *r, Error *e) {
    for (int k = 0; k < files->n; k++) {
        Mapped m;
        if (!map_file(files->items[k], &m, e)) return false;
        bool ok = true;
        int64_t line = 0, before = r->n;
        for (int64_t at = 0; ok && at < m.size;) {
            const uint8_t *end = (const uint8_t *)memchr(m.data + at, '\n', (size_t)(m.size - at));
            int64_t length = end ? end - (m.data + at) : m.size - at;
            char *where = xprintf("%s:%" PRId64, files->items[k], ++line);
            json_t *row = length ? json_parse_line(where, (const char *)m.data + at, length, e) : NULL;
            const json_t *prompt = json_object_get(row, "prompt");
            Text answer;
            FileRow x = {row, where, line, 0, {0, 0}};
            if (length) ok = row && (json_is_string(prompt) || (json_is_array(prompt) && prompt_question(prompt).length) || fail(e, "%s: \"prompt\" is %s, expected a string or messages with a user turn ---> is this a file of genrm's?", where, json_type_name(prompt))) &&
                json_get_int(row, "row", where, false, 0, INT64_MAX, &x.number, e) && json_get_int(row, "sample", where, false, 0, INT64_MAX, &x.sample, e) && row_text(row, "answer", where, true, &answer, e);
            if (ok && row) {
                char *p = json_dumps(prompt, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS);
                CHECK(p);
                x.prompt = XXH3_128bits(p, strlen(p));
                free(p);
                json_object_del(row, "token_logps");
                if (r->n == r->cap) r->items = (FileRow *)xrealloc(r->items, r->cap = r->cap ? 2 * r->cap : 256, sizeof(FileRow));
                r->items[r->n++] = x;
            } else { json_decref(row); free(where); }
            at += length + 1;
        }
        unmap_file(&m);
        if (!ok) return false;
        if (r->n == before) warn("%s: has no rows", files->items[k]);   // as `genrm correct` leaves it where nothing was wrong: the other files still count
    }
    if (r->n == 0) return true;
    // a prompt's answers get the number of its first, so that sorting by number keeps them together
    qsort(r->items, (size_t)r->n, sizeof(FileRow), file_row_by_prompt);
    for (int64_t i = 1; i < r->n; i++) if (memcmp(&r->items[i].prompt, &r->items[i - 1].prompt, sizeof(XXH128_hash_t)) == 0) r->items[i].number = r->items[i - 1].number;
    qsort(r->items, (size_t)r->n, sizeof(FileRow), file_row_compare);
    return true;
}
// items [i, end) have the prompt of item i
FN int64_t file_rows_end(const FileRows *r, int64_t i) {
    int64_t end = i + 1;
    while (end < r->n && memcmp(&r->items[end].prompt, &r->items[i].prompt, sizeof(XXH128_hash_t)) == 0) end++;
    return end;
}

// rows that are made already, as hashes: two answers that say the same make one pair
typedef struct { XXH128_hash_t *slots; int64_t n, size; } RowSet;
FN bool row_set_add(RowSet *s, const char *data, int64_t n) {   // false: it was there
    if (2 * s->n >= s->size) {
        RowSet more = {(XXH128_hash_t *)xcalloc(s->size ? 2 * s->size : 1024, sizeof(XXH128_hash_t)), s->n, s->size ? 2 * s->size : 1024};
        for (int64_t i = 0; i < s->size; i++) {
            if (!s->slots[i].low64) continue;
            int64_t k = (int64_t)(s->slots[i].low64 % (uint64_t)more.size);
            while (more.slots[k].low64) k = (k + 1) % more.size;
            more.slots[k] = s->slots[i];
        }
        free(s->slots);
        *s = more;
    }
    XXH128_hash_t h = XXH3_128bits(data, (size_t)n);
    h.low64 |= 1;   // 0 is a free slot
    int64_t k = (int64_t)(h.low64 % (uint64_t)s->size);
    for (; s->slots[k].low64; k = (k + 1) % s->size) if (XXH128_isEqual(s->slots[k], h)) return false;
    s->slots[k] = h;
    s->n++;
    return true;
}

typedef struct {
    StringList fap, scp, overlong, answers;
    const char *out, *gold, *next_step, *kind, *target;
    PairOptions pair;
    int64_t seed, per_prompt, per_answer;
    double tolerance;
    bool no_length_balance, quiet;
    int64_t rows;   // read, of all inputs
} PairFiles;

// Before anything is read: what is written is none of it
FN bool pair_files_apart(const PairFiles *o, Error *e) {
    const StringList *inputs[] = {&o->fap, &o->scp, &o->overlong, &o->answers};
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < inputs[k]->n; i++) if (!output_is_apart("--out", o->out, inputs[k]->items[i], e)) return false;
    return output_is_apart("--out", o->out, o->next_step, e);
}

// A file that is there is worth more than no rows
FN bool pair_files_write(const PairFiles *o, const Buffer *out, Error *e) {
    struct stat st;
    if (out->len == 0 && stat(o->out, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0)
        return fail(e, "%s: not one row was made, and what is there already was left as it is ---> see the counts, or remove the file", o->out);
    return write_file(o->out, out->data, out->len, e);
}

FN bool row_capped(const FileRow *x, bool *capped, Error *e) { *capped = false; return json_get_bool(x->row, "reached_cap", x->where, false, capped, e); }
FN Text row_answer(const FileRow *x) { const json_t *j = json_object_get(x->row, "answer"); return text_make(json_string_value(j), (int64_t)json_string_length(j)); }

// ---------------------------------------------------------------------------------------------------------------
// pairs

FN bool pairs_fap(PairFiles *o, PairYields *y, Buffer *out, Error *e) {
    FileRows r = {NULL, 0, 0};
    bool ok = file_rows_read(&o->fap, &r, e), tokens = true;
    o->rows += r.n;
    for (int64_t i = 0; i < r.n; i++) tokens = tokens && json_is_integer(json_object_get(r.items[i].row, "tokens"));   // lengths in tokens, or of all in bytes
    for (int64_t i = 0, end; ok && i < r.n; i = end) {
        end = file_rows_end(&r, i);
        if (end - i > PAIR_MAX_ANSWERS) { ok = fail(e, "%s: %" PRId64 " answers to one prompt, expected at most %d", r.items[i].where, end - i, PAIR_MAX_ANSWERS); break; }
        Answer *a = (Answer *)xcalloc(end - i, sizeof(Answer));
        for (int64_t k = i; ok && k < end; k++) {
            const FileRow *x = &r.items[k];
            Answer *one = &a[k - i];
            Text verdict;
            one->text = row_answer(x);
            one->length = tokens ? (int64_t)json_integer_value(json_object_get(x->row, "tokens")) : one->text.length;
            ok = row_capped(x, &one->capped, e) && row_text(x->row, "verdict", x->where, false, &verdict, e) &&
                 (json_object_get(x->row, "verdict") || fail(e, "%s: \"verdict\" is missing ---> judge the answers first: genrm judge", x->where));
            one->verdict = ok && text_equal(verdict, text_of("right")) ? PAIR_RIGHT : ok && text_equal(verdict, text_of("wrong")) ? PAIR_WRONG : PAIR_UNJUDGED;
        }
        if (ok) fap_rows(json_object_get(r.items[i].row, "prompt"), a, end - i, &o->pair, y, out);
        free(a);
    }
    file_rows_free(&r);
    return ok;
}

// SCP's and overlong pairs: of each answer at most one, of a prompt at most so many; what is over, or was said before, goes into over[2]
FN bool pairs_each(PairFiles *o, bool overlong, const PromptTemplate *next, PairYields *y, RowSet *seen, int64_t over[2], Buffer *out, Error *e) {
    FileRows r = {NULL, 0, 0};
    bool ok = file_rows_read(overlong ? &o->overlong : &o->scp, &r, e);
    o->rows += r.n;
    for (int64_t i = 0, end; ok && i < r.n; i = end) {
        end = file_rows_end(&r, i);
        int64_t made = 0;
        for (int64_t k = i; ok && k < end; k++) {
            const FileRow *x = &r.items[k];
            const json_t *prompt = json_object_get(x->row, "prompt");
            int64_t before = out->len;
            if (overlong) {
                Answer a = {row_answer(x), 0, PAIR_UNJUDGED, false};
                Text gold;
                ok = row_capped(x, &a.capped, e) && row_text(x->row, o->gold, x->where, false, &gold, e);
                if (ok) overlong_row(prompt, &a, gold, y, out);
            } else {
                Text reply;
                bool capped = false;
                ok = row_text(x->row, "reply", x->where, true, &reply, e) && json_get_bool(x->row, "reply_reached_cap", x->where, true, &capped, e) &&
                     (json_object_get(x->row, "correction") || fail(e, "%s: \"correction\" is missing ---> expected a file of genrm correct", x->where));
                if (ok) scp_row(prompt, row_answer(x), reply, capped, next, y, out);
            }
            if (out->len == before) continue;
            bool again = !row_set_add(seen, out->data + before, out->len - before);
            if (!again && made < o->pair.per_prompt) { made++; continue; }
            over[again ? 0 : 1]++;
            out->len = before;
            if (overlong) y->overlong--; else y->scp--;
        }
    }
    file_rows_free(&r);
    return ok;
}

FN bool pairs_run(PairFiles *o, Error *e) {
    PairYields y;
    PromptTemplate next;
    RowSet seen = {NULL, 0, 0};
    Buffer out = {NULL, 0, 0};
    int64_t over_scp[2] = {0, 0}, over_long[2] = {0, 0};   // said before; over --per-prompt
    memset(&y, 0, sizeof y);
    memset(&next, 0, sizeof next);
    o->pair.per_prompt = o->per_prompt; o->pair.per_answer = o->per_answer; o->pair.seed = (uint64_t)o->seed; o->pair.length_balance = !o->no_length_balance;
    char *path = o->next_step ? xstrdup(o->next_step) : prompt_path("next_step.txt");
    bool ok = o->scp.n == 0 || prompt_load(path, prompt_next_step, &next, e);
    ok = ok && pairs_fap(o, &y, &out, e) && pairs_each(o, false, &next, &y, &seen, over_scp, &out, e) && pairs_each(o, true, &next, &y, &seen, over_long, &out, e);
    if (ok && o->rows == 0) ok = fail(e, "%s: has no rows%s", o->fap.n ? o->fap.items[0] : o->scp.n ? o->scp.items[0] : o->overlong.items[0], o->fap.n + o->scp.n + o->overlong.n > 1 ? ", nor has any other of the files" : "");
    bool read = ok;
    ok = ok && pair_files_write(o, &out, e);
    if (ok || (read && out.len == 0)) {   // where nothing was made the counts say why
        json_t *j = pair_yields_json(&y);
        const struct { const char *kind; const int64_t *n; } over[] = {{"scp", over_scp}, {"overlong", over_long}};
        for (int k = 0; k < 2; k++) {
            json_t *dropped = json_object_get(json_object_get(j, over[k].kind), "dropped");
            json_object_set_new(dropped, "said_twice", json_integer(over[k].n[0]));
            json_object_set_new(dropped, "over_limits", json_integer(over[k].n[1]));
        }
        json_object_set_new(j, "rows", json_integer(y.fap + y.scp + y.overlong));
        print_json(j);
        if (!o->quiet) {
            pair_yields_print(&y, stderr);
            for (int k = 0; k < 2; k++) if (over[k].n[0] + over[k].n[1]) fprintf(stderr, "%14" PRId64 "      %s said twice, %" PRId64 " over --per-prompt\n", over[k].n[0], over[k].kind, over[k].n[1]);
            if (out.len > 0) fprintf(stderr, "%" PRId64 " rows in %s ---> prepare --kind pref\n", y.fap + y.scp + y.overlong, o->out);
        }
        if (ok && out.len == 0) warn("%s: no pairs: a prompt needs a right and a wrong answer, a wrong answer a correction that holds, an overlong answer its gold one", o->out);
    }
    prompt_free(&next);
    buffer_free(&out);
    free(seen.slots); free(path);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// distill: one iteration of Open FinLLM's loop. The model's own answers, step by step, of which the result can be read and, where there is a gold answer, is right

enum { KEPT = NUM_VERIFIED, KEEP_NOT_ANCHORED, KEEP_TWICE, KEEP_OVER, NUM_KEEP };
FN const char *const keep_names[NUM_KEEP - KEPT] = {"kept", "no_answer_line", "said_twice", "over_limits"};
FN const char *keep_name(int k) { return k < KEPT ? verified_names[k] : keep_names[k - KEPT]; }

// Without a gold answer, a result counts only behind "Answer:" or the like: a text without it is not one
FN int distill_look(const PairFiles *o, VerifyKind kind, const FileRow *x, bool capped, Text gold, Result *result) {
    Text answer = text_trim(row_answer(x)), span;
    int64_t at = 0;
    if (text_trim(gold).length) {
        Verified v = verify(kind, answer, capped, gold, o->tolerance);
        if (v != VERIFIED_RIGHT) return (int)v;
        if (kind == VERIFY_AUTO) kind = verify_kind_of(gold);
        text_after_thinking(&answer);
        final_result(kind, answer, result);
        return KEPT;
    }
    if (answer.length == 0) return VERIFIED_EMPTY;
    if (capped || !text_after_thinking(&answer)) return VERIFIED_TRUNCATED;
    if (!anchor_next(answer, &at, &span)) return KEEP_NOT_ANCHORED;
    if (kind == VERIFY_AUTO) kind = verify_kind_of(answer);
    Found found = final_result(kind, answer, result);
    return found == RESULT_ONE ? KEPT : found == RESULT_NONE ? (int)VERIFIED_NO_RESULT : (int)VERIFIED_AMBIGUOUS;
}

FN bool distill_run(const PairFiles *o, Error *e) {
    FileRows r = {NULL, 0, 0};
    RowSet seen = {NULL, 0, 0};
    Buffer out = {NULL, 0, 0};
    VerifyKind kind = VERIFY_AUTO;
    int64_t counts[NUM_KEEP] = {0}, capped_answers = 0, prompts = 0, prompts_kept = 0;
    bool whole = strcmp(o->target, "answer") == 0, ok = (whole || strcmp(o->target, "result") == 0 || fail(e, "--target is \"%s\", expected answer or result", o->target)) && verify_find(o->kind, &kind, e) && file_rows_read(&o->answers, &r, e) && (r.n > 0 || fail(e, "%s: has no rows%s", o->answers.items[0], o->answers.n > 1 ? ", nor has any other of the files" : ""));
    for (int64_t i = 0, end; ok && i < r.n; i = end) {
        end = file_rows_end(&r, i);
        int64_t made = 0;
        for (int64_t k = i; ok && k < end; k++) {
            const FileRow *x = &r.items[k];
            const json_t *plain = json_object_get(x->row, "plain_question"), *prompt = json_object_get(x->row, "prompt");
            Result result;
            Text gold;
            bool capped;
            memset(&result, 0, sizeof result);
            ok = row_capped(x, &capped, e) && row_text(x->row, o->gold, x->where, false, &gold, e);
            if (!ok) break;
            int kept = distill_look(o, kind, x, capped, gold, &result);
            capped_answers += capped;
            if (kept == KEPT) {   // the whole answer belongs to what was asked; the result alone to the question without "step by step"
                int64_t before = out.len;
                json_t *asked = !whole && json_is_string(plain) ? prompt_with_question(prompt, text_make(json_string_value(plain), (int64_t)json_string_length(plain))) : json_deep_copy(prompt);
                char *p = json_dumps(asked, JSON_COMPACT | JSON_ENCODE_ANY | JSON_PRESERVE_ORDER);
                Text says = whole ? text_trim(row_answer(x)) : result.text, label = text_make(&result.label, 1);
                if (!whole && result.label) says = label;
                add_text(&out, "{\"prompt\":");
                add_text(&out, p);
                add_field(&out, "completion", says);
                add_text(&out, "}\n");
                free(p);
                json_decref(asked);
                kept = !row_set_add(&seen, out.data + before, out.len - before) ? KEEP_TWICE : made == o->per_prompt ? KEEP_OVER : KEPT;
                if (kept == KEPT) made++; else out.len = before;
            }
            counts[kept]++;
        }
        prompts++;
        prompts_kept += made > 0;
    }
    bool read = ok;
    ok = ok && pair_files_write(o, &out, e);
    if (ok || (read && out.len == 0)) {   // where nothing was kept the counts say why
        Share overlength = share_of(capped_answers, r.n), yield = share_of(counts[KEPT], r.n);
        json_t *dropped = json_object(), *j = json_pack("{s:I,s:I,s:I,s:I,s:f,s:f,s:f}", "prompts", (json_int_t)prompts, "prompts_with_rows", (json_int_t)prompts_kept, "answers", (json_int_t)r.n, "rows", (json_int_t)counts[KEPT], "yield", yield.p,
                                                        "overlength_ratio", overlength.p, "overlength_ratio_stderr", overlength.error);
        for (int k = 1; k < NUM_KEEP; k++) if (k != KEPT && counts[k]) json_object_set_new(dropped, keep_name(k), json_integer(counts[k]));
        json_object_set_new(j, "dropped", dropped);
        print_json(j);
        if (!o->quiet) {
            fprintf(stderr, "%" PRId64 " of %" PRId64 " answers kept (%.1f %%), of %" PRId64 " of %" PRId64 " prompts; %.1f +- %.1f %% had reached the cap (overlength ratio)\n", counts[KEPT], r.n, 100 * yield.p, prompts_kept, prompts, 100 * overlength.p, 100 * overlength.error);
            for (int k = 1; k < NUM_KEEP; k++) if (k != KEPT && counts[k]) fprintf(stderr, "%14" PRId64 "  %s\n", counts[k], keep_name(k));
            if (out.len > 0) fprintf(stderr, "%" PRId64 " rows in %s ---> prepare --kind it\n", counts[KEPT], o->out);
        }
        if (ok && out.len == 0) warn("%s: not one answer was kept, so it is empty", o->out);
    }
    file_rows_free(&r);
    buffer_free(&out);
    free(seen.slots);
    return ok;
}

FN int pair_files_main(bool distill, int argc, char **argv) {
    PairFiles o;
    memset(&o, 0, sizeof o);
    o.gold = "completion"; o.kind = "auto"; o.target = "answer"; o.per_prompt = distill ? 1 : 4; o.per_answer = 2; o.pair.length_ratio = 3; o.seed = 1;
    Flag pairs[] = {
        {"--fap", FLAG_LIST, &o.fap, "FILE", "judged answers: of those to one prompt, right ones over wrong ones", 0, 0, false},
        {"--scp", FLAG_LIST, &o.scp, "FILE", "corrections: after question and correct prefix, the corrected step over the wrong one", 0, 0, false},
        {"--overlong", FLAG_LIST, &o.overlong, "FILE", "sampled or judged answers: the gold answer over what reached the cap", 0, 0, false},
        {"--out", FLAG_STRING, &o.out, "FILE", "JSONL rows {\"prompt\", \"chosen\", \"rejected\", \"kind\"} for `prepare --kind pref`", 0, 0, false},
        {"--per-prompt", FLAG_INT, &o.per_prompt, "N", "most rows of each kind from one prompt", 1, PAIR_MAX_ANSWERS, false},
        {"--per-answer", FLAG_INT, &o.per_answer, "N", "most rows of --fap with one answer in them", 1, PAIR_MAX_ANSWERS, false},
        {"--length-ratio", FLAG_DOUBLE, &o.pair.length_ratio, "X", "most that lengths in a row of --fap may differ, as a factor; 0: whatever they are", 0, 1e6, false},
        {"--no-length-balance", FLAG_BOOL, &o.no_length_balance, NULL, "take pairs as they come, instead of those that keep chosen and rejected equally long on average", 0, 0, false},
        {"--gold", FLAG_STRING, &o.gold, "NAME", "--overlong: field of the gold answer", 0, 0, false},
        {"--next-step", FLAG_STRING, &o.next_step, "FILE", "--scp: the prompt (default: data/prompts/next_step.txt)", 0, 0, false},
        {"--seed", FLAG_INT, &o.seed, "N", "which pairs, where there are more than the limits let through", 0, 4e18, false},
        {"--quiet", FLAG_BOOL, &o.quiet, NULL, "nothing on stderr but warnings and errors", 0, 0, false},
    };
    Flag keeping[] = {
        {"--answers", FLAG_LIST, &o.answers, "FILE", "sampled or judged answers, best asked with --wrap data/prompts/reason.txt", 0, 0, false},
        {"--out", FLAG_STRING, &o.out, "FILE", "JSONL rows {\"prompt\", \"completion\"} for `prepare --kind it`", 0, 0, false},
        {"--target", FLAG_STRING, &o.target, "WHAT", "answer: all of it, to the prompt as it was asked; result: the result alone, to the question without --wrap", 0, 0, false},
        {"--per-prompt", FLAG_INT, &o.per_prompt, "N", "most rows from one prompt", 1, 1e6, false},
        {"--gold", FLAG_STRING, &o.gold, "NAME", "field of the gold answer; of rows that have it only right answers are kept", 0, 0, false},
        {"--verifier", FLAG_STRING, &o.kind, "KIND", "auto (by the gold answer, or the answer's own result), choice, number or exact", 0, 0, false},
        {"--tolerance", FLAG_DOUBLE, &o.tolerance, "X", "most that a number may be off, as a share of the gold one", 0, 1, false},
        {"--quiet", FLAG_BOOL, &o.quiet, NULL, "nothing on stderr but warnings and errors", 0, 0, false},
    };
    Flag *flags = distill ? keeping : pairs;
    int n = distill ? (int)(sizeof keeping / sizeof *keeping) : (int)(sizeof pairs / sizeof *pairs);
    bool help = false;
    Error e;
    bool ok = flags_parse(argc, argv, 2, flags, n, NULL, &help, &e);
    if (ok && help && !distill) flags_help("genrm pairs [--fap FILE...] [--scp FILE...] [--overlong FILE...] --out FILE [flags]", "Preference pairs from answers that were judged, corrected or sampled. What makes no pair is counted under its reason. A summary on stdout, one JSON object.", flags, n);
    if (ok && help && distill) flags_help("genrm distill --answers FILE... --out FILE [flags]", "The model's own good answers as rows to train on: those that ended, whose result can be read, and is right where a gold answer is there (without one, it must stand behind\n"
                                                                                      "\"Answer:\" or the like). A summary with the overlength ratio on stdout, one JSON object.", flags, n);
    if (ok && !help) {
        if (!distill && o.fap.n + o.scp.n + o.overlong.n == 0) ok = fail(&e, "no input: expected --fap, --scp or --overlong ---> see genrm pairs --help");
        if (ok && distill && o.answers.n == 0) ok = fail(&e, "--answers is missing ---> see genrm distill --help");
        if (ok && !o.out) ok = fail(&e, "--out is missing ---> see --help");
        static const char *const of_fap[] = {"--per-answer", "--length-ratio", "--no-length-balance", "--seed", NULL}, *const of_scp[] = {"--next-step", NULL}, *const of_overlong[] = {"--gold", NULL};
        if (ok && !distill && !o.fap.n) ok = flags_unused(flags, n, of_fap, "there is no --fap", &e);
        if (ok && !distill && !o.scp.n) ok = flags_unused(flags, n, of_scp, "there is no --scp", &e);
        if (ok && !distill && !o.overlong.n) ok = flags_unused(flags, n, of_overlong, "there is no --overlong", &e);
        ok = ok && pair_files_apart(&o, &e) && (distill ? distill_run(&o, &e) : pairs_run(&o, &e));
    }
    if (!ok) fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    free(o.fap.items); free(o.scp.items); free(o.overlong.items); free(o.answers.items);
    return ok ? 0 : 1;
}

#endif
