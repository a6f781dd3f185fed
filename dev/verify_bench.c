// verify_bench.c: the verifier beside labels that others gave: GSM8K's example_model_solutions.jsonl (answers of four models, each marked right or wrong) and AQuA's
// rationales, which end in the right letter or in none. A right answer without a verdict costs a row; a wrong one taken for right would teach it.
//
//     make build/verify_bench && build/verify_bench FILE.jsonl...
#include "findap/verify.h"   // defines: verify

static int64_t counts[2][NUM_VERIFIED];   // by the label: wrong, right

static void one(VerifyKind kind, const json_t *answer, const json_t *gold, bool right) {
    Verified v = verify(kind, text_of(json_string_value(answer)), false, text_of(json_string_value(gold)), 0);
    counts[right][v]++;
    if ((v == VERIFIED_RIGHT && !right) || (v == VERIFIED_WRONG && right)) printf("  %s, for \"%s\": %s\n", verified_names[v], json_string_value(gold), json_string_value(answer));
}

int main(int argc, char **argv) {
    program_name = "verify_bench";
    Error e;
    for (int f = 1; f < argc; f++) {
        Mapped m;
        if (!map_file(argv[f], &m, &e)) die("%s", e.text);
        memset(counts, 0, sizeof counts);
        double start = seconds_now();
        for (int64_t at = 0; at < m.size;) {
            Text line = text_line(text_make((const char *)m.data, m.size), &at);
            json_t *row = json_parse(argv[f], line.data, line.length, &e), *value;
            if (!row) die("%s", e.text);
            const char *key;
            if (json_object_get(row, "rationale")) one(VERIFY_CHOICE, json_object_get(row, "rationale"), json_object_get(row, "correct"), true);
            json_object_foreach(row, key, value) if (json_object_get(value, "solution")) one(VERIFY_NUMBER, json_object_get(value, "solution"), json_object_get(row, "ground_truth"), json_is_true(json_object_get(value, "is_correct")));
            json_decref(row);
        }
        printf("%s, %.2f s\n", argv[f], seconds_now() - start);
        for (int right = 1; right >= 0; right--) {
            printf("  labelled %s:", right ? "right" : "wrong");
            for (int v = 0; v < NUM_VERIFIED; v++) if (counts[right][v]) printf("  %" PRId64 " %s", counts[right][v], verified_names[v]);
            printf("\n");
        }
        unmap_file(&m);
    }
    return 0;
}
