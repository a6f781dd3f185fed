// test_reward.c: the text layer of the generative reward model: prompts, the verifier, what judges say, corrections, pairs. The replies are those that
// models give when they don't do as they were told, and those somebody would write who wants to be paid for nothing.
#define FINDAP_LIBRARY
#include "../data/prepare.c"        // defines: prepare_program
#include "../findap/pair_rows.h"    // defines: fap_rows, scp_row, overlong_row
#include "../findap/verify.h"       // defines: verify
#include "tiny_tokenizer.h"         // defines: tiny_tokenizer
#include "check.h"
#include "scratch.h"                // defines: directory, setup, teardown, in

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

// ---- prompts

static void prompts(void **state) {
    (void)state;
    Error e;
    PromptTemplate p;
    static const char *const names[] = {"question", "answer", NULL};
    const Text values[] = {text_of("2 {{answer}} 2?"), text_of("{{question}}{{")};
    Buffer out = {NULL, 0, 0};
    assert_true(prompt_parse("t", text_of("Q {{question}}, A {{answer}}, {\"again\": \"{{question}}\"}}\n\n"), names, &p, &e));
    prompt_render(&p, values, &out);
    buffer_add(&out, "", 1);
    // what a value says is never a placeholder; one newline at the end goes, one stays
    assert_string_equal(out.data, "Q 2 {{answer}} 2?, A {{question}}{{, {\"again\": \"2 {{answer}} 2?\"}}\n");
    prompt_free(&p);
    out.len = 0;
    assert_true(prompt_parse("t", text_of("{{answer}}{{question}}"), names, &p, &e));   // nothing around them
    const Text nul[] = {text_make("a\0b", 3), text_of("")};
    prompt_render(&p, nul, &out);
    assert_true(out.len == 3 && memcmp(out.data, "a\0b", 3) == 0);
    prompt_free(&p);
    buffer_free(&out);
    static const struct { const char *text, *says; } bad[] = {
        {"{{question}} {{answr}} {{answer}}", "unknown placeholder {{answr}}, expected one of: {{question}}, {{answer}}"},
        {"{{question}}", "no placeholder {{answer}}"},
        {"", "no placeholder {{question}}"},
        {"{{question}} {{answer}}\n{{", "t:2: \"{{\" is never closed"},
        {"{{question}} {{answer}} {{}}", "unknown placeholder {{}}"},
        {"{{question}} {{answer}} {{ question }}", "unknown placeholder {{ question }}"},
        {"{{question}} {{answer}} {{\n}}", "unknown placeholder {{\\x0a}}"},
        {"{{{question}}} {{answer}}", "unknown placeholder {{{question}}"},
        {"{{Question}} {{answer}}", "unknown placeholder {{Question}}"},
        {"{{question}} {{answer}} \xFF", "byte 24 is not UTF-8"}};
    for (int i = 0; i < COUNT(bad); i++) {
        if (prompt_parse("t", text_of(bad[i].text), names, &p, &e)) fail_msg("accepted: %s", bad[i].text);
        if (!strstr(e.text, bad[i].says) || strchr(e.text, '\n')) fail_msg("%s: %s", bad[i].text, e.text);
    }
    assert_false(prompt_parse("t", text_make("{{question}}{{answer}}\0", 23), names, &p, &e));
    assert_false(prompt_load(in("none.txt"), names, &p, &e));
    assert_non_null(strstr(e.text, "none.txt"));
    // those that are shipped
    static const struct { const char *file; const char *const *names; } shipped[] = {{"judge.txt", prompt_judge}, {"judge_reference.txt", prompt_judge_reference}, {"correct.txt", prompt_judge_reference},
        {"next_step.txt", prompt_next_step}, {"reason.txt", prompt_reason}, {"rate.txt", prompt_rate}, {"prefer.txt", prompt_prefer}};
    for (int i = 0; i < COUNT(shipped); i++) {
        char *path = prompt_path(shipped[i].file);
        if (!prompt_load(path, shipped[i].names, &p, &e)) fail_msg("%s", e.text);
        prompt_free(&p);
        free(path);
    }
    // also from elsewhere
    char *home = getcwd(NULL, 0);
    assert_true(home && chdir(directory) == 0);
    char *found = prompt_path("judge.txt"), *lost = prompt_path("none.txt");
    if (!file_exists(found)) fail_msg("%s", found);
    assert_true(found[0] == '/' && !file_exists(lost));
    assert_int_equal(chdir(home), 0);
    free(found); free(lost); free(home);
}

// ---- the verifier

static void check_verify(VerifyKind kind, const char *answer, const char *gold, Verified expected, double tolerance, bool capped) {
    Verified v = verify(kind, text_of(answer), capped, text_of(gold), tolerance);
    if (v != expected) fail_msg("\"%s\" for \"%s\" (%s): %s, expected %s", answer, gold, verify_names[kind], verified_names[v], verified_names[expected]);
}
typedef struct { const char *answer, *gold; Verified expected; } VerifyCase;

static void numbers(void **state) {
    (void)state;
    static const VerifyCase cases[] = {
        {"12", "12", VERIFIED_RIGHT}, {"12.", "12", VERIFIED_RIGHT}, {"13", "12", VERIFIED_WRONG}, {"The profit is $1,234.50.", "1234.5", VERIFIED_RIGHT},
        {"1,234,567", "1234567", VERIFIED_RIGHT}, {"1'234", "1234", VERIFIED_RIGHT}, {"1\xC2\xA0" "234", "1234", VERIFIED_RIGHT}, {"1\xE2\x80\xAF" "234", "1234", VERIFIED_RIGHT},
        {"1,23", "123", VERIFIED_AMBIGUOUS}, {"1.234,5", "1234.5", VERIFIED_AMBIGUOUS}, {"1.234.567", "1234567", VERIFIED_AMBIGUOUS}, {"1234,567", "1234567", VERIFIED_AMBIGUOUS},
        {"31.12.2020", "31.12", VERIFIED_AMBIGUOUS}, {"1,2345", "12345", VERIFIED_AMBIGUOUS},
        // signs
        {"(134)", "-134", VERIFIED_RIGHT}, {"($1,234.5)", "-1234.5", VERIFIED_RIGHT}, {"-$5", "-5", VERIFIED_RIGHT}, {"$-5", "-5", VERIFIED_RIGHT}, {"\xE2\x88\x92" "5", "-5", VERIFIED_RIGHT},
        {"+5", "5", VERIFIED_RIGHT}, {".5", "0.5", VERIFIED_RIGHT}, {"-.5", "-0.5", VERIFIED_RIGHT}, {"5", "-5", VERIFIED_WRONG}, {"f(3)", "3", VERIFIED_RIGHT}, {"\\(5\\)", "5", VERIFIED_RIGHT}, {"(12%)", "-12%", VERIFIED_RIGHT}, {"(5 apples)", "5", VERIFIED_RIGHT},
        // units
        {"12%", "0.12", VERIFIED_RIGHT}, {"0.12", "12%", VERIFIED_RIGHT}, {"12", "12%", VERIFIED_RIGHT}, {"12 percent", "12%", VERIFIED_RIGHT}, {"\\boxed{12\\%}", "12%", VERIFIED_RIGHT},
        {"0.12%", "12%", VERIFIED_WRONG}, {"1200%", "12%", VERIFIED_WRONG}, {"50 bps", "0.5%", VERIFIED_RIGHT}, {"50 basis points", "0.005", VERIFIED_RIGHT}, {"50", "0.5%", VERIFIED_WRONG},
        {"$1.2bn", "1,200 million", VERIFIED_RIGHT}, {"1.2 Billion", "1200000000", VERIFIED_RIGHT}, {"5m", "5000000", VERIFIED_RIGHT}, {"5k", "5,000", VERIFIED_RIGHT}, {"5 thousand", "5", VERIFIED_WRONG},
        {"USD 5", "5", VERIFIED_RIGHT}, {"USD5", "5", VERIFIED_RIGHT}, {"\xE2\x82\xAC" "5", "5", VERIFIED_RIGHT}, {"5 m", "5", VERIFIED_RIGHT}, {"5 k", "5", VERIFIED_RIGHT}, {"50 bp", "0.5", VERIFIED_RIGHT},
        // powers
        {"1e6", "1000000", VERIFIED_RIGHT}, {"1.5E-3", "0.0015", VERIFIED_RIGHT}, {"1.5 x 10^3", "1500", VERIFIED_RIGHT}, {"1.5 \\times 10^{-3}", "0.0015", VERIFIED_RIGHT}, {"1.5\xC3\x97" "10^3", "1500", VERIFIED_RIGHT},
        {"1e999", "1", VERIFIED_AMBIGUOUS}, {"1e-999", "0", VERIFIED_RIGHT}, {"1e999999999999999999999", "1", VERIFIED_AMBIGUOUS},
        {"99999999999999999999999999999999999999", "1e38", VERIFIED_RIGHT}, {"9007199254740993", "9007199254740993", VERIFIED_RIGHT},
        // what is no number
        {"Q3", "3", VERIFIED_NO_RESULT}, {"the 10-K", "10", VERIFIED_NO_RESULT}, {"3rd", "3", VERIFIED_NO_RESULT}, {"N/A", "3", VERIFIED_NO_RESULT}, {"a_1", "1", VERIFIED_NO_RESULT}, {"Q3: 7", "7", VERIFIED_RIGHT},
        {"", "3", VERIFIED_EMPTY}, {" \n\xC2\xA0", "3", VERIFIED_EMPTY}, {"3", "N/A", VERIFIED_NO_GOLD}, {"3", "", VERIFIED_NO_GOLD}, {"3", "3 or 4", VERIFIED_NO_GOLD},
        // which one
        {"between 3 and 4", "3", VERIFIED_AMBIGUOUS}, {"3-4", "3", VERIFIED_AMBIGUOUS}, {"7 (7.0)", "7", VERIFIED_AMBIGUOUS}, {"7, 7.0", "7", VERIFIED_RIGHT}, {"First 3, then 4.\nSo it is 5.", "5", VERIFIED_RIGHT},
        {"Revenue 9 less cost 4 leaves 5", "5", VERIFIED_AMBIGUOUS}, {"9 - 4 gives it. The answer is 5.", "5", VERIFIED_RIGHT}, {"Answer: 3 + 2 = 5", "5", VERIFIED_RIGHT},
        {"Answer: 5 million in fiscal 2022", "5000000", VERIFIED_RIGHT}, {"Answer: .5 million in 2022", "500000", VERIFIED_RIGHT}, {"Answer: in 2022, 5 million", "5000000", VERIFIED_AMBIGUOUS}, {"Answer: 3 to 4", "3", VERIFIED_AMBIGUOUS}, {"Answer: 3 or 4", "3", VERIFIED_AMBIGUOUS}, {"Answer: 5. Not 6 as one may think", "5", VERIFIED_RIGHT},
        {"Answer: 5\nWait. Answer: 6", "6", VERIFIED_AMBIGUOUS}, {"Answer: 5\nSo again\nAnswer: 5.0", "5", VERIFIED_RIGHT}, {"Final Answer: The final answer is 5. I hope it is correct.", "5", VERIFIED_RIGHT},
        {"#### 72", "72", VERIFIED_RIGHT}, {"We get \\boxed{\\$1,234} here, in 2 steps", "1234", VERIFIED_RIGHT}, {"\\boxed{5", "5", VERIFIED_RIGHT}, {"**Answer**: **5**", "5", VERIFIED_RIGHT},
        {"Answer:\n\n5", "5", VERIFIED_RIGHT}, {"Answer - 5", "5", VERIFIED_RIGHT}, {"My answer -5", "-5", VERIFIED_RIGHT}, {"The unanswer: 6\n5", "5", VERIFIED_RIGHT}, {"answers: 6 of them\n5", "5", VERIFIED_RIGHT}, {"Answer 6 is a bad one.\n5", "5", VERIFIED_RIGHT},
        {"<think>Answer: 6</think>Answer: 5", "5", VERIFIED_RIGHT}, {"<think>Answer: 5", "5", VERIFIED_TRUNCATED}, {"<think>Answer: 5</think>", "5", VERIFIED_EMPTY}, {"<think>a</think><think>5", "5", VERIFIED_TRUNCATED},
        // as many digits as the gold one has
        {"12.3456", "12.35", VERIFIED_RIGHT}, {"12.3", "12.35", VERIFIED_WRONG}, {"12.356", "12.35", VERIFIED_WRONG}, {"134.4", "134", VERIFIED_RIGHT}, {"134.6", "134", VERIFIED_WRONG}, {"2.6", "3", VERIFIED_WRONG},
        {"0.14", "0.1", VERIFIED_WRONG}, {"12.344%", "12.34%", VERIFIED_RIGHT}, {"12.356", "12.35%", VERIFIED_WRONG}, {"133", "134", VERIFIED_WRONG}, {"0", "0", VERIFIED_RIGHT}, {"0.0000001", "0", VERIFIED_WRONG}};
    for (int i = 0; i < COUNT(cases); i++) check_verify(VERIFY_NUMBER, cases[i].answer, cases[i].gold, cases[i].expected, 0, false);
    check_verify(VERIFY_NUMBER, "100.9", "100", VERIFIED_WRONG, 0, false);
    check_verify(VERIFY_NUMBER, "100.9", "100", VERIFIED_RIGHT, 0.01, false);
    check_verify(VERIFY_NUMBER, "101.1", "100", VERIFIED_WRONG, 0.01, false);
    check_verify(VERIFY_NUMBER, "-99.5", "-100", VERIFIED_RIGHT, 0.01, false);
    check_verify(VERIFY_NUMBER, "Answer: 5", "5", VERIFIED_TRUNCATED, 0, true);   // what comes behind the cap is not known
    check_verify(VERIFY_NUMBER, "", "5", VERIFIED_EMPTY, 0, true);
    char *long_number = (char *)xmalloc(100001);   // digits without end are one number, and too large
    memset(long_number, '7', 100000);
    long_number[100000] = 0;
    check_verify(VERIFY_NUMBER, long_number, "5", VERIFIED_AMBIGUOUS, 0, false);
    free(long_number);
    assert_true(verify(VERIFY_NUMBER, text_make("5\0" "6", 3), false, text_of("5"), 0) == VERIFIED_AMBIGUOUS);
}

static void choices_and_texts(void **state) {
    (void)state;
    static const VerifyCase choice[] = {
        {"B", "B", VERIFIED_RIGHT}, {"b", "B", VERIFIED_RIGHT}, {"(b)", "B", VERIFIED_RIGHT}, {"B.", "B", VERIFIED_RIGHT}, {"B. the price", "B", VERIFIED_RIGHT}, {"**B**", "B", VERIFIED_RIGHT}, {"Option B", "B", VERIFIED_RIGHT},
        {"C", "B", VERIFIED_WRONG}, {"Answer: B", "Explanation: A is too low.\nAnswer: B. 5", VERIFIED_RIGHT}, {"The answer is B because A is low", "B", VERIFIED_RIGHT}, {"\\boxed{B}", "B", VERIFIED_RIGHT}, {"The answer is (C).", "C", VERIFIED_RIGHT},
        {"A bond is a loan", "A", VERIFIED_NO_RESULT}, {"A because it is", "A", VERIFIED_NO_RESULT}, {"Answer: A because it is", "A", VERIFIED_RIGHT}, {"Answer: A bond", "A", VERIFIED_NO_RESULT}, {"Answer - B", "B", VERIFIED_RIGHT}, {"G + T = 5", "G", VERIFIED_NO_RESULT}, {"A/100 = B", "A", VERIFIED_NO_RESULT},
        {"( G + T ) / 2", "G", VERIFIED_NO_RESULT}, {"It is low.\nAnswer B", "B", VERIFIED_RIGHT}, {"Correct Option: B", "B", VERIFIED_RIGHT}, {"ANS. (B)", "B", VERIFIED_RIGHT}, {"Answer B is low", "B", VERIFIED_NO_RESULT}, {"Answer B\nAnswer C", "B", VERIFIED_AMBIGUOUS}, {"I think B", "I", VERIFIED_NO_RESULT}, {"a bond", "A", VERIFIED_NO_RESULT}, {"Bonds", "B", VERIFIED_NO_RESULT}, {"B\xC3\xA9", "B", VERIFIED_NO_RESULT},
        {"B-rated", "B", VERIFIED_NO_RESULT}, {"The answer is not B", "B", VERIFIED_NO_RESULT}, {"K", "B", VERIFIED_NO_RESULT}, {"B", "K", VERIFIED_NO_GOLD},
        {"B or C", "B", VERIFIED_AMBIGUOUS}, {"B and C", "B", VERIFIED_AMBIGUOUS}, {"Answer: B/C", "B", VERIFIED_AMBIGUOUS}, {"B, C", "B", VERIFIED_AMBIGUOUS}, {"Answer: (A) or (C)", "A", VERIFIED_AMBIGUOUS}, {"B, because C is not", "B", VERIFIED_RIGHT},
        {"Answer: B\nAnswer: C", "C", VERIFIED_AMBIGUOUS}, {"Answer: B\nanswer is (b)", "B", VERIFIED_RIGHT}, {"A. is low\nB. is right", "A", VERIFIED_AMBIGUOUS}, {"It is low.\n\nB", "B", VERIFIED_RIGHT}, {"B. 5\nfor that is so", "B", VERIFIED_RIGHT},
        {"<think>A</think>B", "B", VERIFIED_RIGHT}, {"", "B", VERIFIED_EMPTY}, {"Answer: none of them\nB", "B", VERIFIED_RIGHT}, {"Answer: B and b", "B", VERIFIED_RIGHT}, {"B and b", "B", VERIFIED_NO_RESULT}};
    static const VerifyCase exact[] = {
        {"rise", "rise", VERIFIED_RIGHT}, {" Rise.\n", "rise", VERIFIED_RIGHT}, {"\"rise\"", "rise", VERIFIED_RIGHT}, {"fall", "rise", VERIFIED_WRONG}, {"rises", "rise", VERIFIED_WRONG}, {"ri se", "rise", VERIFIED_WRONG},
        {"a  b\tc", "A b c", VERIFIED_RIGHT}, {"Answer: rise", "rise", VERIFIED_RIGHT}, {"Answer: rise\nAnswer: fall", "fall", VERIFIED_AMBIGUOUS}, {"So it falls.\nAnswer: **Rise**", "rise", VERIFIED_RIGHT},
        {"Caf\xC3\xA9", "cafe\xCC\x81", VERIFIED_RIGHT}, {"\xEF\xBC\xA1\xEF\xBC\xA2", "ab", VERIFIED_RIGHT}, {"STRASSE", "stra\xC3\x9F" "e", VERIFIED_RIGHT}, {"\xFF", "\xFF", VERIFIED_RIGHT}, {"\xFF", "\xFE", VERIFIED_WRONG},
        {"...", "rise", VERIFIED_NO_RESULT}, {"rise", "...", VERIFIED_NO_GOLD}, {"rise or fall", "rise", VERIFIED_WRONG}};
    static const struct { const char *gold; VerifyKind kind; } kinds[] = {{"B", VERIFY_CHOICE}, {"(C)", VERIFY_CHOICE}, {"B. the price", VERIFY_CHOICE}, {"Explanation: x\nAnswer: D", VERIFY_CHOICE}, {"12", VERIFY_NUMBER}, {"-$1,234.5", VERIFY_NUMBER},
        {"12%", VERIFY_NUMBER}, {"5 million", VERIFY_NUMBER}, {"(134)", VERIFY_NUMBER}, {"#### 72", VERIFY_NUMBER}, {"rise", VERIFY_EXACT}, {"3 years", VERIFY_EXACT}, {"at 3", VERIFY_EXACT}, {"3 to 4", VERIFY_EXACT}, {"1,23", VERIFY_EXACT}, {"", VERIFY_EXACT}, {"Bern", VERIFY_EXACT}};
    for (int i = 0; i < COUNT(choice); i++) check_verify(VERIFY_CHOICE, choice[i].answer, choice[i].gold, choice[i].expected, 0, false);
    for (int i = 0; i < COUNT(exact); i++) check_verify(VERIFY_EXACT, exact[i].answer, exact[i].gold, exact[i].expected, 0, false);
    for (int i = 0; i < COUNT(kinds); i++) if (verify_kind_of(text_of(kinds[i].gold)) != kinds[i].kind) fail_msg("%s: %s", kinds[i].gold, verify_names[verify_kind_of(text_of(kinds[i].gold))]);
    check_verify(VERIFY_AUTO, "It is 5.", "5", VERIFIED_RIGHT, 0, false);
    check_verify(VERIFY_AUTO, "It rises", "rise", VERIFIED_WRONG, 0, false);
    Error e;
    VerifyKind kind;
    assert_true(verify_find("number", &kind, &e) && kind == VERIFY_NUMBER);
    assert_false(verify_find("numbers", &kind, &e));
}

// ---- judges

static void verdicts(void **state) {
    (void)state;
    #define V(x) "{\"Justification\": \"both are 5\", \"Correctness\": " x "}"
    static const struct { const char *reply; Judged expected; bool capped; } json[] = {
        {V("\"correct\""), JUDGED_RIGHT, false}, {V("\"wrong\""), JUDGED_WRONG, false}, {V("\" Correct\\n\""), JUDGED_RIGHT, false}, {V("\"incorrect\""), JUDGED_WRONG, false}, {V("\"correct\""), JUDGED_RIGHT, true},
        {"Sure! Here is my verdict:\n```json\n" V("\"wrong\"") "\n```\nAnything else?", JUDGED_WRONG, false}, {"[" V("\"wrong\"") "]", JUDGED_WRONG, false}, {"{\"verdict\": " V("\"wrong\"") "}", JUDGED_WRONG, false},
        {"a set {1, 2} and " V("\"correct\""), JUDGED_RIGHT, false}, {"{\"correctness\": \"correct\"}", JUDGED_RIGHT, false}, {"{\"Justification\": \"a\nb\", \"Correctness\": \"correct\"}", JUDGED_RIGHT, false},
        {"{\"Justification\": \"\\(x\\) is 5\\% and } \\\" {\", \"Correctness\": \"correct\"}", JUDGED_RIGHT, false}, {"{\"Justification\": \"\\u12\", \"Correctness\": \"correct\"}", JUDGED_RIGHT, false},
        {"<think>" V("\"wrong\"") "</think>" V("\"correct\""), JUDGED_RIGHT, false}, {"<think>" V("\"wrong\""), JUDGED_TRUNCATED, false}, {"<think>hm</think> ", JUDGED_EMPTY, false},
        {"", JUDGED_EMPTY, false}, {" \n", JUDGED_EMPTY, false}, {"", JUDGED_TRUNCATED, true}, {"It is correct.", JUDGED_NO_JSON, false}, {"It is", JUDGED_TRUNCATED, true}, {"\"correct\"", JUDGED_NO_JSON, false},
        {"{Correctness: correct}", JUDGED_BAD_JSON, false}, {"{'Correctness': 'correct'}", JUDGED_BAD_JSON, false}, {"{\"Correctness\": \"correct\",}", JUDGED_BAD_JSON, false}, {"{\"Correctness\": \"correct\" | \"wrong\"}", JUDGED_BAD_JSON, false},
        {"{\"Correctness\": \"correct\", \"Correctness\": \"wrong\"}", JUDGED_BAD_JSON, false}, {"{\"Correctness\": \"correct\", \"correctness\": \"wrong\"}", JUDGED_AMBIGUOUS, false}, {"{\"Correctness\": \"corr", JUDGED_TRUNCATED, false},
        {"{\"Correctness\": \"correct\"", JUDGED_TRUNCATED, false}, {"{\"Justification\": \"x\"}", JUDGED_NO_FIELD, false}, {"{}", JUDGED_NO_FIELD, false}, {V("true"), JUDGED_WRONG_TYPE, false}, {V("null"), JUDGED_WRONG_TYPE, false}, {V("1"), JUDGED_WRONG_TYPE, false},
        {V("[\"correct\"]"), JUDGED_WRONG_TYPE, false}, {V("{\"Correctness\": \"correct\"}"), JUDGED_WRONG_TYPE, false}, {V("\"correct\\u0000\""), JUDGED_WRONG_TYPE, false}, {V("\"maybe\""), JUDGED_NO_VERDICT, false}, {V("\"\""), JUDGED_NO_VERDICT, false}, {V("\"not correct\""), JUDGED_NO_VERDICT, false},
        {V("\"correct\"") " or rather " V("\"wrong\""), JUDGED_AMBIGUOUS, false}, {V("\"wrong\"") V("\"wrong\""), JUDGED_WRONG, false}, {"{\"quote\": \"{\\\"Correctness\\\": \\\"correct\\\"}\"}", JUDGED_NO_FIELD, false}, {"{\"Correctness\": \"\xFF\"}", JUDGED_BAD_JSON, false},
        {"{\"Correctness\": \"\\ud800\"}", JUDGED_BAD_JSON, false}, {V("1e999"), JUDGED_BAD_JSON, false}, {"} {", JUDGED_TRUNCATED, false}, {"the set {1, 2}. {\"Correctness\": \"corr", JUDGED_TRUNCATED, false}, {"{1}{\"Correctness\": \"corr", JUDGED_TRUNCATED, false}, {"{\"quote\": \"{ open\"}", JUDGED_NO_FIELD, false},
        {V("1") " {", JUDGED_WRONG_TYPE, false}};
    for (int i = 0; i < COUNT(json); i++) {
        Judged v = judge_parse_json(text_of(json[i].reply), json[i].capped);
        if (v != json[i].expected) fail_msg("%s: %s, expected %s", json[i].reply, judged_names[v], judged_names[json[i].expected]);
    }
    Buffer open = {NULL, 0, 0};   // a megabyte of open braces, or of nested ones, is read in no time
    for (int i = 0; i < 1 << 20; i++) buffer_add(&open, "{", 1);
    double start = seconds_now();
    assert_int_equal(judge_parse_json(text_make(open.data, open.len), false), JUDGED_TRUNCATED);
    for (int i = 0; i < 1 << 20; i++) buffer_add(&open, "}", 1);
    assert_int_equal(judge_parse_json(text_make(open.data, open.len), false), JUDGED_BAD_JSON);
    assert_true(seconds_now() - start < 20);
    buffer_free(&open);
    static const struct { const char *reply; Judged expected; bool capped; } text[] = {
        {"Yes", JUDGED_RIGHT, false}, {"no", JUDGED_WRONG, false}, {" Yes.", JUDGED_RIGHT, false}, {"**No**, for 5 is not 6.", JUDGED_WRONG, false}, {"Yes, it is.", JUDGED_RIGHT, false}, {"Yes it is correct", JUDGED_RIGHT, false}, {"YES!", JUDGED_RIGHT, true},
        {"Is the answer correct? Yes", JUDGED_RIGHT, false}, {"Verdict: no", JUDGED_WRONG, false}, {"5 is 5.\nYes.", JUDGED_RIGHT, false}, {"No\xE2\x80\x94it is 6", JUDGED_WRONG, false}, {"<think>No.</think>Yes", JUDGED_RIGHT, false},
        {"No errors were found", JUDGED_NO_VERDICT, false}, {"No\xC3\xABl", JUDGED_NO_VERDICT, false}, {"Yesterday", JUDGED_NO_VERDICT, false}, {"Nothing", JUDGED_NO_VERDICT, false}, {"No-brainer", JUDGED_NO_VERDICT, false}, {"There is no error", JUDGED_NO_VERDICT, false}, {"yes1", JUDGED_NO_VERDICT, false},
        {"Yes. No.", JUDGED_AMBIGUOUS, false}, {"No, wait.\nYes.", JUDGED_AMBIGUOUS, false}, {"Yes\nYes", JUDGED_RIGHT, false}, {"Yes, there is no error. No error at all", JUDGED_RIGHT, false}, {"It is 1.No", JUDGED_NO_VERDICT, false},
        {"", JUDGED_EMPTY, false}, {"  ", JUDGED_TRUNCATED, true}, {"<think>Yes", JUDGED_TRUNCATED, false}, {"Let me see", JUDGED_TRUNCATED, true}, {"Correct", JUDGED_NO_VERDICT, false}, {"\xFF\xFE", JUDGED_NO_VERDICT, false}};
    for (int i = 0; i < COUNT(text); i++) {
        Judged v = judge_parse_text(text_of(text[i].reply), text[i].capped);
        if (v != text[i].expected) fail_msg("%s: %s, expected %s", text[i].reply, judged_names[v], judged_names[text[i].expected]);
    }
    for (int s = REPLY_EMPTY; s < NUM_REPLY; s++) {   // one order, three lists
        static const char *const names[] = {"good", "empty", "no_json", "bad_json", "truncated", "no_field", "wrong_type", "ambiguous"};
        assert_string_equal(judged_names[judged_of((ReplyStatus)s)], names[s]);
        assert_string_equal(correction_names[s], names[s]);
    }
    double score;
    assert_true(judge_by_probability(0.6, 0.2, 0.5, &score) == JUDGED_RIGHT && fabs(score - 0.75) < 1e-15);
    assert_true(judge_by_probability(0.1, 0.3, 0.1, &score) == JUDGED_WRONG && fabs(score - 0.25) < 1e-15);
    assert_true(judge_by_probability(0, 0.9, 0.5, &score) == JUDGED_WRONG && score == 0 && judge_by_probability(0.9, 0, 0.5, &score) == JUDGED_RIGHT && score == 1);
    assert_true(judge_by_probability(0.2, 0.2, 0.5, &score) == JUDGED_NO_VERDICT && isnan(score));
    assert_true(judge_by_probability(0.3, 0.3, 0.5, &score) == JUDGED_AMBIGUOUS);
    assert_true(judge_by_probability(NAN, 0.3, 0, &score) == JUDGED_NO_VERDICT && judge_by_probability(0, 0, 0, &score) == JUDGED_NO_VERDICT && judge_by_probability(0.9, 0.9, 0, &score) == JUDGED_NO_VERDICT);
}

static void calibration(void **state) {
    (void)state;
    // by hand: bins 0.9-1.0 (0.9, 1.0; one right), 0.2-0.3 (0.2; right), 0.1-0.2 (0.1; wrong)
    const Judgement small[] = {{0.9, true, true}, {1.0, true, false}, {0.2, false, true}, {0.1, false, false}, {NAN, true, true}, {1.5, false, false}};
    Calibration c = calibrate(small, 6);
    assert_true(c.n == 6 && c.scored == 4 && c.true_right == 2 && c.false_right == 1 && c.false_wrong == 1 && c.true_wrong == 2);
    assert_true(fabs(c.accuracy - 4.0 / 6) < 1e-15 && fabs(c.calibration_error - (2 * 0.45 + 0.8 + 0.1) / 4) < 1e-15 && fabs(c.auc - 0.5) < 1e-15);
    assert_true(c.in_bin[9] == 2 && c.in_bin[2] == 1 && c.in_bin[1] == 1);
    // against the definition: every pair of a right and a wrong one, scores with many ties
    enum { N = 400 };
    Judgement rows[N];
    double wins = 0, pairs = 0;
    for (int i = 0; i < N; i++) {
        rows[i].score = (double)random_below(7, 1, (uint64_t)i, 21) / 20;
        rows[i].right = random_uniform(7, 2, (uint64_t)i) < 0.3 + 0.5 * rows[i].score;
        rows[i].judged = rows[i].score > 0.5;
    }
    for (int i = 0; i < N; i++) for (int k = 0; k < N; k++) if (rows[i].right && !rows[k].right) { pairs++; wins += rows[i].score > rows[k].score ? 1 : rows[i].score == rows[k].score ? 0.5 : 0; }
    c = calibrate(rows, N);
    assert_true(fabs(c.auc - wins / pairs) < 1e-12 && c.auc > 0.6);
    json_t *j = calibration_json(&c);
    assert_true(json_real_value(json_object_get(j, "auc")) == c.auc);
    json_decref(j);
    c = calibrate(rows, 0);   // nothing, and one class only: no number, and no NaN in JSON
    j = calibration_json(&c);
    assert_true(isnan(c.auc) && isnan(c.accuracy) && json_is_null(json_object_get(j, "accuracy")) && json_is_null(json_object_get(j, "expected_calibration_error")));
    json_decref(j);
    const Judgement all_right[] = {{0.9, true, true}, {0.8, true, true}};
    c = calibrate(all_right, 2);
    assert_true(isnan(c.auc) && c.accuracy == 1 && fabs(c.calibration_error - 0.15) < 1e-15);
}

// ---- corrections

static const char answer_text[] = "Revenue is 12 million.\n\nCost is 4.5  million,\nso profit is 8.5 million. It fell by 3 %. Cost is low.";
static char *reply_of(const char *step, const char *prefix, const char *correction) {
    json_t *j = json_pack("{s:s,s:s,s:s,s:s}", "Justification", "x", "First incorrect step", step, "Reasoning up to incorrect", prefix, "Step correction", correction);
    assert_non_null(j);
    char *text = json_dumps(j, 0);
    json_decref(j);
    return text;
}
static void corrections(void **state) {
    (void)state;
    static const struct { const char *step, *prefix, *correction; CorrectionStatus expected; bool exact; const char *wrong, *kept; } cases[] = {
        {"Cost is 4.5  million,\nso profit is 8.5 million.", "Revenue is 12 million.", "Cost is 4 million.", CORRECTION_GOOD, true, "Cost is 4.5  million,\nso profit is 8.5 million.", "Revenue is 12 million."},
        {"Cost is 4.5 million, so profit is 8.5 million.", " Revenue  is 12 million.\n", "Cost is 4 million.", CORRECTION_GOOD, false, "Cost is 4.5  million,\nso profit is 8.5 million.", "Revenue is 12 million."},
        {"It fell by 3", "Revenue is 12 million. Cost is 4.5 million, so profit is 8.5 million.", "y", CORRECTION_GOOD, false, "It fell by 3", "Revenue is 12 million.\n\nCost is 4.5  million,\nso profit is 8.5 million."},
        {"Revenue is 12 million.", "", "Revenue is 11 million.", CORRECTION_GOOD, true, "Revenue is 12 million.", ""},
        {"It fell by 3 %.", "Revenue is 12 million. Cost is 4.5 million, so profit is 8.5 million.", "It rose.", CORRECTION_GOOD, false, "It fell by 3 %.", "Revenue is 12 million.\n\nCost is 4.5  million,\nso profit is 8.5 million."},
        {"Cost is low.", "Revenue is 12 million. Cost is 4.5 million, so profit is 8.5 million. It fell by 3 %.", "y", CORRECTION_GOOD, false, "Cost is low.", "Revenue is 12 million.\n\nCost is 4.5  million,\nso profit is 8.5 million. It fell by 3 %."},
        {"", "Revenue is 12 million.", "y", CORRECTION_NO_STEP, false, NULL, NULL}, {" \n", "Revenue is 12 million.", "y", CORRECTION_NO_STEP, false, NULL, NULL}, {"It fell by 3 %.", "", " ", CORRECTION_NO_CORRECTION, false, NULL, NULL},
        {"It fell by 4 %.", "Revenue is 12 million.", "y", CORRECTION_STEP_NOT_QUOTED, false, NULL, NULL}, {"it fell by 3 %.", "Revenue is 12 million.", "y", CORRECTION_STEP_NOT_QUOTED, false, NULL, NULL},
        {"It fell by 3 %.", "Revenue is 13 million.", "y", CORRECTION_PREFIX_NOT_QUOTED, false, NULL, NULL}, {"It fell by 3 %.", "so profit is 8.5 million.", "y", CORRECTION_PREFIX_NOT_AT_START, false, NULL, NULL},
        {"It fell by 3 %.", "Revenue is 12 million.", "y", CORRECTION_NOT_ADJACENT, false, NULL, NULL}, {"It fell by 3 %.", "", "y", CORRECTION_NOT_ADJACENT, false, NULL, NULL},   // a gap
        {"Cost is 4.5 million,", "Revenue is 12 million. Cost is 4.5 million,", "y", CORRECTION_NOT_ADJACENT, false, NULL, NULL},   // an overlap
        {"2 million.", "Revenue is 1", "y", CORRECTION_CUTS_WORD, false, NULL, NULL}, {"5 million,", "Revenue is 12 million. Cost is 4.", "y", CORRECTION_CUTS_WORD, false, NULL, NULL},
        {"Revenue is 1", "", "y", CORRECTION_CUTS_WORD, false, NULL, NULL}, {"Cost is 4", "Revenue is 12 million.", "y", CORRECTION_CUTS_WORD, false, NULL, NULL}, {"Reven", "", "y", CORRECTION_CUTS_WORD, false, NULL, NULL},
        {"Revenue is 12 million.", "", "revenue  is 12 million.", CORRECTION_SAME_STEP, false, NULL, NULL}, {"Cost is 4.5 million,", "Revenue is 12 million.", "revenue is 12 million. Cost is 4 million", CORRECTION_REPEATS_PREFIX, false, NULL, NULL}};
    Correction c;
    for (int i = 0; i < COUNT(cases); i++) {
        char *reply = reply_of(cases[i].step, cases[i].prefix, cases[i].correction);
        CorrectionStatus s = correction_parse(text_of(reply), false, text_of(answer_text), &c);
        if (s != cases[i].expected) fail_msg("case %d, %s: %s, expected %s", i, reply, correction_names[s], correction_names[cases[i].expected]);
        if (s == CORRECTION_GOOD && (!text_equal(c.wrong, text_of(cases[i].wrong)) || !text_equal(c.prefix, text_of(cases[i].kept)) || c.exact != cases[i].exact || strcmp(c.correction, cases[i].correction) != 0))
            fail_msg("case %d: \"%.*s\" behind \"%.*s\", exact %d", i, (int)c.wrong.length, c.wrong.data, (int)c.prefix.length, c.prefix.data, c.exact);
        if (s != CORRECTION_GOOD) assert_null(c.correction);
        free(c.correction);
        free(reply);
    }
    static const struct { const char *reply; CorrectionStatus expected; bool capped; } broken[] = {
        {"", CORRECTION_EMPTY, false}, {"There is no wrong step.", CORRECTION_NO_JSON, false}, {"{\"First incorrect step\": \"Rev", CORRECTION_TRUNCATED, true}, {"{\"First incorrect step\": \"Revenue is 12 million.\"}", CORRECTION_NO_FIELD, false},
        {"{\"First incorrect step\": null, \"Reasoning up to incorrect\": \"\", \"Step correction\": \"y\"}", CORRECTION_WRONG_TYPE, false}, {"{\"First incorrect step\": [], \"Reasoning up to incorrect\": \"\", \"Step correction\": \"y\"}", CORRECTION_WRONG_TYPE, false}, {"{no}", CORRECTION_BAD_JSON, false}};
    for (int i = 0; i < COUNT(broken); i++) {
        CorrectionStatus s = correction_parse(text_of(broken[i].reply), broken[i].capped, text_of(answer_text), &c);
        if (s != broken[i].expected) fail_msg("%s: %s", broken[i].reply, correction_names[s]);
    }
    char *one = reply_of("Revenue is 12 million.", "", "a"), *two = reply_of("Revenue is 12 million.", "", "b"), *both = xprintf("%s %s", one, two), *fenced = xprintf("Here:\n```\n%s\n```", one);
    assert_int_equal(correction_parse(text_of(both), false, text_of(answer_text), &c), CORRECTION_AMBIGUOUS);
    assert_int_equal(correction_parse(text_of(fenced), false, text_of(""), &c), CORRECTION_STEP_NOT_QUOTED);
    assert_int_equal(correction_parse(text_of(fenced), false, text_of(answer_text), &c), CORRECTION_GOOD);
    free(c.correction); free(one); free(two); free(both); free(fenced);
    static const struct { const char *text; int64_t at; bool cuts; } places[] = {{"1,5", 1, true}, {"1,5", 2, true}, {"1.5", 1, true}, {"1 5", 1, false}, {"1 5", 2, false}, {"1;5", 1, false}, {"1. 5", 2, false}, {"1.", 1, false}, {"a.5", 2, false},
        {"a,5", 1, false}, {"1.a", 2, false}, {"ab", 1, true}, {"a1", 1, true}, {"ab", 0, false}, {"ab", 2, false}, {"\xC3\xA9\xC3\xA9", 2, false}};
    for (int i = 0; i < COUNT(places); i++) if (cuts_word(text_of(places[i].text), places[i].at) != places[i].cuts) fail_msg("\"%s\" at %d", places[i].text, (int)places[i].at);
    // other scripts, and characters whose bytes could be cut; white space of other widths; a bare newline in the JSON
    const char *const unicode = "\xE5\xB9\xB4\xE6\x94\xB6\xE5\x85\xA5\xE3\x80\x82\xE2\x80\x83\xE6\x88\x90\xE6\x9C\xAC caf\xC3\xA9 \xE2\x88\x92" "5\xF0\x9F\x98\x80";
    assert_int_equal(correction_parse(text_of("{\"First incorrect step\": \"\xE6\x88\x90\xE6\x9C\xAC\ncaf\xC3\xA9 \\u22125\\ud83d\\ude00\", \"Reasoning up to incorrect\": \"\xE5\xB9\xB4\xE6\x94\xB6\xE5\x85\xA5\xE3\x80\x82\", \"Step correction\": \"\xE6\x88\x90\"}"), false, text_of(unicode), &c), CORRECTION_GOOD);
    assert_true(text_equal(c.prefix, text_slice(text_of(unicode), 0, 12)) && text_equal(c.wrong, text_from(text_of(unicode), 15)) && !c.exact);
    free(c.correction);
}

// ---- pairs

static Answer make_answer(const char *text, int64_t length, int verdict, bool capped) { Answer a = {text_of(text), length, verdict, capped}; return a; }
static int64_t drops(const PairYields *y) { int64_t n = 0; for (int d = 0; d < NUM_DROP; d++) n += y->dropped[d]; return n; }

static void final_answer_pairs(void **state) {
    (void)state;
    PairYields y;
    memset(&y, 0, sizeof y);
    PairOptions o = {16, 16, 0, false, 1};
    PairIndex p[16], q[16];
    const Answer mixed[] = {make_answer("a", 5, PAIR_RIGHT, false), make_answer(" a\n", 5, PAIR_RIGHT, false), make_answer("b", 5, PAIR_WRONG, false), make_answer("c", 5, PAIR_RIGHT, false), make_answer("c", 5, PAIR_WRONG, false),
        make_answer(" ", 5, PAIR_WRONG, false), make_answer("d", 5, PAIR_UNJUDGED, false), make_answer("e", 5, PAIR_WRONG, true), make_answer("b", 5, PAIR_WRONG, true)};
    assert_int_equal(fap_pairs(text_of("q"), mixed, 9, &o, &y, p), 1);
    assert_true(p[0].chosen == 0 && p[0].rejected == 2);
    assert_true(y.dropped[DROP_TWICE] == 1 && y.dropped[DROP_CONTRADICTORY] == 2 && y.dropped[DROP_EMPTY] == 1 && y.dropped[DROP_UNJUDGED] == 1 && y.dropped[DROP_CAPPED] == 2 && y.answers_used == 2);
    assert_true(y.answers == y.answers_used + drops(&y) && y.prompts == 1 && y.prompts_with_pairs == 1);
    assert_int_equal(fap_pairs(text_of("q"), mixed, 2, &o, &y, p), 0);
    assert_int_equal(fap_pairs(text_of("q"), mixed + 2, 1, &o, &y, p), 0);
    assert_int_equal(fap_pairs(text_of("q"), mixed, 0, &o, &y, p), 0);
    assert_true(y.dropped[DROP_NO_WRONG] == 1 && y.dropped[DROP_NO_RIGHT] == 1 && y.prompts == 4 && y.prompts_with_pairs == 1 && y.answers == y.answers_used + drops(&y));
    // limits: no more pairs than asked for, none twice, no answer more often than asked for; the seed decides, the order of calls does not
    Answer many[16];
    char names[16][16];
    for (int i = 0; i < 16; i++) { snprintf(names[i], sizeof names[i], "x%d", i); many[i] = make_answer(names[i], 10, i % 2 ? PAIR_RIGHT : PAIR_WRONG, false); }
    for (int64_t limit = 1; limit <= 3; limit++) for (int64_t use = 1; use <= 2; use++) {
        PairOptions l = {limit * 3, use, 0, false, 5};
        memset(&y, 0, sizeof y);
        int64_t made = fap_pairs(text_of("q"), many, 16, &l, &y, p);
        assert_int_equal(made, 8 * use < l.per_prompt ? 8 * use : l.per_prompt);
        int times[16] = {0};
        for (int64_t k = 0; k < made; k++) {
            assert_true(p[k].chosen % 2 == 1 && p[k].rejected % 2 == 0);
            times[p[k].chosen]++; times[p[k].rejected]++;
            for (int64_t i = 0; i < k; i++) assert_true(p[i].chosen != p[k].chosen || p[i].rejected != p[k].rejected);
        }
        for (int i = 0; i < 16; i++) assert_true(times[i] <= use);
        assert_true(y.answers == y.answers_used + drops(&y) && y.dropped[DROP_LIMIT] == 16 - y.answers_used);
        memset(&y, 0, sizeof y);
        assert_true(fap_pairs(text_of("q"), many, 16, &l, &y, q) == made && memcmp(p, q, (size_t)made * sizeof *p) == 0);
        l.seed = 6;
        memset(&y, 0, sizeof y);
        assert_true(fap_pairs(text_of("q"), many, 16, &l, &y, q) == made && memcmp(p, q, (size_t)made * sizeof *p) != 0);
        l.seed = 5;
        memset(&y, 0, sizeof y);
        assert_true(fap_pairs(text_of("another"), many, 16, &l, &y, q) == made && memcmp(p, q, (size_t)made * sizeof *p) != 0);
    }
    // lengths: too far apart is no pair, the bound itself is one
    const Answer apart[] = {make_answer("r", 29, PAIR_RIGHT, false), make_answer("w", 9, PAIR_WRONG, false), make_answer("v", 99, PAIR_WRONG, false)};
    o.length_ratio = 3;
    memset(&y, 0, sizeof y);
    assert_true(fap_pairs(text_of("q"), apart, 3, &o, &y, p) == 1 && p[0].rejected == 1 && y.dropped[DROP_LENGTH] == 1 && y.answers == y.answers_used + drops(&y));
    o.length_ratio = 2.9;
    memset(&y, 0, sizeof y);
    assert_true(fap_pairs(text_of("q"), apart, 3, &o, &y, p) == 0 && y.dropped[DROP_LENGTH] == 3);
    // balance: right answers are twice as long in the mean, yet some are not; over many prompts the mean ratio comes down to 1
    double ratio[2];
    for (int balance = 0; balance < 2; balance++) {
        PairOptions b = {2, 2, 0, balance == 1, 3};
        memset(&y, 0, sizeof y);
        for (int prompt = 0; prompt < 200; prompt++) {
            char text[16];
            snprintf(text, sizeof text, "p%d", prompt);
            for (int i = 0; i < 16; i++) many[i].length = 20 + (int64_t)random_below(11, (uint64_t)prompt, (uint64_t)i, 100) + (i % 2 ? 50 : 0);
            fap_pairs(text_of(text), many, 16, &b, &y, p);
        }
        assert_int_equal(y.fap, 400);
        ratio[balance] = exp(y.log_ratio / (double)y.fap);
    }
    printf("chosen over rejected length %.3f, balanced %.3f\n", ratio[0], ratio[1]);
    assert_true(ratio[0] > 1.4 && fabs(ratio[1] - 1) < 0.01);
}

// the question of a prompt is its last user turn, wherever that is; nothing else of it changes
static void questions_of_prompts(void **state) {
    (void)state;
    Error e;
    static const struct { const char *prompt, *question, *changed; } cases[] = {
        {"\"a\"", "a", "\"new\""}, {"[{\"role\":\"user\",\"content\":\"a\"}]", "a", "[{\"role\":\"user\",\"content\":\"new\"}]"},
        {"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]", "a", "[{\"role\":\"user\",\"content\":\"new\"},{\"role\":\"assistant\",\"content\":\"b\"}]"},
        {"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b\"}]", "b", "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"new\"}]"},
        {"[1,{\"role\":1},{}]", "", "[1,{\"role\":1},{}]"}, {"[]", "", "[]"}, {"{}", "", "{}"}};
    for (int i = 0; i < COUNT(cases); i++) {
        json_t *j = json_parse("prompt", cases[i].prompt, (int64_t)strlen(cases[i].prompt), &e), *other = prompt_with_question(j, text_of("new"));
        char *now = json_dumps(other, JSON_COMPACT | JSON_ENCODE_ANY);
        if (!text_equal(prompt_question(j), text_of(cases[i].question)) || strcmp(now, cases[i].changed) != 0) fail_msg("%s: %s", cases[i].prompt, now);
        free(now);
        json_decref(j); json_decref(other);
    }
}

// rows of all three sources through prepare, on hostile texts; then the yields
static void rows_go_through_prepare(void **state) {
    (void)state;
    Error e;
    PairYields y;
    memset(&y, 0, sizeof y);
    PairOptions o = {4, 4, 0, true, 1};
    Buffer out = {NULL, 0, 0};
    PromptTemplate next;
    char *path = prompt_path("next_step.txt");
    if (!prompt_load(path, prompt_next_step, &next, &e)) fail_msg("%s", e.text);
    free(path);
    const char *const evil = "{{prefix}} \"}\n\\ <|eot_id|>\t\xFF \xE5\xB9\xB4 \x01";
    json_t *string = json_string("What {{prefix}}?"), *list = json_pack("[{s:s,s:s},{s:s,s:s}]", "role", "system", "content", "Be brief.", "role", "user", "content", "What?");
    const Answer two[] = {make_answer(evil, 9, PAIR_RIGHT, false), make_answer("no", 2, PAIR_WRONG, false)};
    assert_int_equal(fap_rows(string, two, 2, &o, &y, &out), 1);
    assert_int_equal(fap_rows(list, two, 2, &o, &y, &out), 1);
    char *reply = reply_of("Cost is 4.5 million,", "Revenue is 12 million.", "Cost is 4 million,"), *bad = reply_of("x", "", "y");
    assert_int_equal(scp_row(string, text_of(answer_text), text_of(reply), false, &next, &y, &out), CORRECTION_GOOD);
    assert_int_equal(scp_row(list, text_of(answer_text), text_of(reply), false, &next, &y, &out), CORRECTION_GOOD);
    assert_int_equal(scp_row(list, text_of(answer_text), text_of(bad), false, &next, &y, &out), CORRECTION_STEP_NOT_QUOTED);
    const Answer endless = make_answer("no no no", 3, PAIR_UNJUDGED, true), empty = make_answer(" ", 3, PAIR_UNJUDGED, true);
    assert_int_equal(overlong_row(string, &endless, text_of("yes"), &y, &out), OVERLONG_GOOD);
    assert_int_equal(overlong_row(string, &endless, text_of("no no no"), &y, &out), OVERLONG_GOOD);
    assert_int_equal(overlong_row(string, &endless, text_of(" "), &y, &out), OVERLONG_NO_GOLD);
    assert_int_equal(overlong_row(string, &empty, text_of("yes"), &y, &out), OVERLONG_EMPTY);
    assert_int_equal(overlong_row(string, &two[0], text_of("yes"), &y, &out), OVERLONG_ENDED);
    assert_true(write_file(in("pairs.jsonl"), out.data, out.len, &e));
    // every row is JSON of its own; the prompt of an SCP row, whole
    Text all = text_make(out.data, out.len);
    json_t *rows = json_array();
    for (int64_t at = 0; at < all.length;) {
        Text line = text_line(all, &at);
        json_t *row = json_parse("row", line.data, line.length, &e);
        if (!row) fail_msg("%s", e.text);
        json_array_append_new(rows, row);
    }
    assert_int_equal(json_array_size(rows), 6);
    #define NEXT(question) question "\n\nRevenue is 12 million.\n\nWhat is the next step?"
    assert_string_equal(json_string_value(json_object_get(json_array_get(rows, 2), "prompt")), NEXT("What {{prefix}}?"));
    const json_t *turns = json_object_get(json_array_get(rows, 3), "prompt");
    assert_string_equal(json_string_value(json_object_get(json_array_get(turns, 1), "content")), NEXT("What?"));
    assert_string_equal(json_string_value(json_object_get(json_array_get(turns, 0), "content")), "Be brief.");
    assert_string_equal(json_string_value(json_object_get(json_array_get(rows, 3), "chosen")), "Cost is 4 million,");
    assert_string_equal(json_string_value(json_object_get(json_array_get(rows, 3), "rejected")), "Cost is 4.5  million,");
    for (size_t i = 0; i < 6; i++) assert_true(json_is_true(json_object_get(json_array_get(rows, i), "open")) == (i >= 4));
    json_decref(rows);
    Tokenizer *t = tiny_tokenizer(directory, "llama3", &e);
    if (!t) fail_msg("%s", e.text);
    char *argv[] = {(char *)"prepare", (char *)"--tokenizer", directory, (char *)"--kind", (char *)"pref", (char *)"--template", (char *)"llama3", (char *)"--out", (char *)in("shard"), (char *)in("pairs.jsonl")};
    FILE *nowhere = fopen("/dev/null", "w");
    if (!prepare_program(10, argv, 0, nowhere, nowhere, &e)) fail_msg("%s", e.text);
    char *shard = shard_path(in("shard"), 1, 1);
    Shard s;
    if (!shard_open(shard, &s, &e)) fail_msg("%s", e.text);
    assert_int_equal(s.num_documents, 6);
    for (int64_t d = 0; d < 6; d++) {   // the chosen answer ends, the rejected one too unless it was cut off
        int32_t end = tokenizer_find(t, "<|eot_id|>");
        assert_true(s.tokens[s.rejected[d] - 1] == end && (s.tokens[s.documents[d + 1] - 1] == end) == (d < 4));
    }
    shard_close(&s);
    free(shard);
    tokenizer_free(t);
    // yields
    assert_true(y.fap == 2 && y.scp == 2 && y.overlong == 2 && y.corrections_exact == 0 && y.corrections[CORRECTION_GOOD] == 2 && y.corrections[CORRECTION_STEP_NOT_QUOTED] == 1);
    json_t *j = pair_yields_json(&y);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json_object_get(j, "scp"), "dropped"), "step_not_quoted")), 1);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json_object_get(j, "overlong"), "dropped"), "no_gold")), 1);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "fap"), "rows")), 2);
    json_decref(j);
    char *printed = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&printed, &size);
    pair_yields_print(&y, f);
    fclose(f);
    assert_true(strstr(printed, "2  rows fap, of 2 of 2 prompts") && strstr(printed, "1      step_not_quoted") && strstr(printed, "1      ended_by_itself") && !strstr(printed, "no_json"));
    free(printed);
    fclose(nowhere);
    prompt_free(&next);
    json_decref(string); json_decref(list);
    free(reply); free(bad);
    buffer_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(prompts), cmocka_unit_test(numbers), cmocka_unit_test(choices_and_texts), cmocka_unit_test(verdicts), cmocka_unit_test(calibration),
                                       cmocka_unit_test(corrections), cmocka_unit_test(final_answer_pairs), cmocka_unit_test(questions_of_prompts), cmocka_unit_test(rows_go_through_prepare)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
