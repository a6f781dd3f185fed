// fuzz_reward.c: whatever a model, a judge or an endpoint says, into everything that reads it. The first byte chooses which, the second where the input is cut in two.
#include "../../findap/endpoint.h"     // defines: endpoint_parse, endpoint_body
#include "../../findap/pair_rows.h"    // defines: scp_row, fap_rows
#include "../../findap/verify.h"       // defines: verify

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void all_rows_are_json(const Buffer *rows) {
    Error e;
    for (int64_t at = 0; at < rows->len;) {
        Text line = text_line(text_make(rows->data, rows->len), &at);
        json_t *row = json_parse("row", line.data, line.length, &e);
        CHECK(row && json_is_string(json_object_get(row, "chosen")) && json_string_length(json_object_get(row, "rejected")) > 0);
        json_decref(row);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const names[] = {"question", "prefix", NULL};
    Error e;
    e.text[0] = 0;
    if (size < 2) return 0;
    const Text all = text_make((const char *)data + 2, (int64_t)size - 2);
    const int64_t cut = all.length * data[1] / 255;
    const Text a = text_slice(all, 0, cut), b = text_from(all, cut), values[] = {a, b};
    bool capped = data[0] & 128;
    Buffer out = {NULL, 0, 0};
    PairYields y;
    memset(&y, 0, sizeof y);
    PromptTemplate p;
    if (data[0] % 6 == 0) {
        bool ok = prompt_parse("fuzz", a, names, &p, &e);
        if (!ok) CHECK(e.text[0] && !strchr(e.text, '\n'));
        else { prompt_render(&p, values, &out); prompt_free(&p); }
    } else if (data[0] % 6 == 1) {
        for (int kind = 0; kind < NUM_VERIFY; kind++) {
            Verified v = verify((VerifyKind)kind, a, capped, b, 0), same = verify((VerifyKind)kind, a, false, a, 0);
            CHECK(v < NUM_VERIFIED && (!capped || (v != VERIFIED_RIGHT && v != VERIFIED_WRONG)));
            // a text is as right as itself (the answer's thinking is not the gold one's)
            if (text_find(a, text_of("think>"), 0) < 0) CHECK(same != VERIFIED_WRONG);
        }
    } else if (data[0] % 6 == 2) {
        CHECK(judge_parse_json(all, capped) < NUM_JUDGED && judge_parse_text(all, capped) < NUM_JUDGED);
    } else if (data[0] % 6 == 3) {   // the reply is the input, or JSON made of pieces of it, which gets farther
        CHECK(prompt_parse("next", text_of("{{question}}\n{{prefix}}\nnext?"), names, &p, &e));
        json_t *prompt = text_json(b), *j = json_object();
        json_object_set_new(j, "First incorrect step", text_json(text_slice(a, a.length / 3, a.length * 2 / 3)));
        json_object_set_new(j, "Reasoning up to incorrect", text_json(text_slice(a, 0, a.length / 3)));
        json_object_set_new(j, "Step correction", text_json(b));
        char *reply = json_dumps(j, 0);
        for (int whole = 0; whole < 2; whole++) {
            Correction c;
            Text said = whole ? b : text_of(reply);
            if (correction_parse(said, capped, a, &c) == CORRECTION_GOOD) {
                CHECK(c.prefix.data >= a.data && c.wrong.data >= c.prefix.data + c.prefix.length && c.wrong.length > 0 && c.wrong.data + c.wrong.length <= a.data + a.length && c.correction[0]);
                Text before = text_trim(text_make(a.data, c.wrong.data - a.data));
                CHECK(text_equal(before, c.prefix) || (c.prefix.length == 0 && before.length == 0));
                free(c.correction);
            }
            scp_row(prompt, a, said, capped, &p, &y, &out);
        }
        all_rows_are_json(&out);
        free(reply);
        json_decref(prompt); json_decref(j);
        prompt_free(&p);
    } else if (data[0] % 6 == 4) {
        Reply r;
        if (endpoint_parse(all, &r, &e)) CHECK(r.text && r.length >= 0 && r.prompt_tokens >= 0);
        else CHECK(e.text[0] && !strchr(e.text, '\n'));
        free(r.text);
        EndpointOptions o = endpoint_defaults();
        const Message m = {"user", all.data, all.length};
        o.model = "m";
        char *body = endpoint_body(&o, &m, 1);
        json_t *j = json_parse("body", body, (int64_t)strlen(body), &e);
        CHECK(j);
        json_decref(j);
        free(body);
    } else {   // answers: every eighth byte ends one and says what it is
        Answer answers[64];
        int64_t n = 0;
        for (int64_t i = 0; i + 8 <= all.length && n < 64; i += 8) { Answer x = {text_slice(all, i, i + 7), (unsigned char)all.data[i], (unsigned char)all.data[i + 7] % 3, (all.data[i + 7] & 64) != 0}; answers[n++] = x; }
        json_t *prompt = text_json(a);
        PairOptions o = {1 + data[1] % 8, 1 + data[1] / 8 % 4, data[1] % 3, data[1] & 64, data[1]};
        fap_rows(prompt, answers, n, &o, &y, &out);
        int64_t dropped = 0;
        for (int d = 0; d < NUM_DROP; d++) dropped += y.dropped[d];
        CHECK(y.answers == n && y.answers_used + dropped == n && y.fap <= o.per_prompt);
        all_rows_are_json(&out);
        json_decref(prompt);
    }
    buffer_free(&out);
    return 0;
}
