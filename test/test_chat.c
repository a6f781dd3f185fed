// test_chat.c: chat templates: the ids, which of them are trained, and that text never becomes a special token.
#include "findap/chat.h"         // defines: chat_render
#include "tiny_tokenizer.h"      // defines: tiny_tokenizer
#include <setjmp.h>
#include <stddef.h>
#include <cmocka.h>              // after our headers: it has a macro named fail

static char directory[] = "/tmp/findap_test_XXXXXX";
static Tokenizer *llama, *qwen, *r1;

static int setup(void **state) {
    (void)state;
    Error e;
    assert_non_null(mkdtemp(directory));
    e.text[0] = 0;
    llama = tiny_tokenizer(directory, "llama3", &e);
    if (!llama) fail_msg("%s", e.text);
    qwen = tiny_tokenizer(directory, "qwen2", &e);
    if (!qwen) fail_msg("%s", e.text);
    r1 = tiny_tokenizer(directory, "deepseek-r1", &e);
    if (!r1) fail_msg("%s", e.text);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    tokenizer_free(llama);
    tokenizer_free(qwen);
    tokenizer_free(r1);
    char *path = path_join(directory, "tokenizer.json");
    unlink(path);
    free(path);
    return rmdir(directory);
}

static Message message(const char *role, const char *content) { Message m = {role, content, (int64_t)strlen(content)}; return m; }

// `expected` is the rendered conversation with special tokens in it, what is trained between U+27E6 and U+27E7 (written as
// the bytes \1 and \2 here); each part between these is encoded by itself, with special tokens parsed
static void expect(const Tokenizer *t, ChatTemplate c, const Message *m, int n, bool generation_prompt, const char *expected) {
    Ids ids = {NULL, 0, 0}, want = {NULL, 0, 0};
    Buffer weights = {NULL, 0, 0}, want_weights = {NULL, 0, 0};
    Error e;
    e.text[0] = 0;
    if (!chat_render(t, c, m, n, generation_prompt, &ids, &weights, &e)) fail_msg("%s", e.text);
    bool trained = false;
    for (const char *p = expected; *p;) {
        size_t k = strcspn(p, "\1\2");
        tokenizer_encode(t, p, (int64_t)k, true, &want);
        while (want_weights.len < want.len) buffer_add(&want_weights, trained ? "\1" : "\0", 1);
        p += k;
        if (*p) trained = *p++ == '\1';
    }
    assert_int_equal(ids.len, want.len);
    assert_int_equal(weights.len, ids.len);
    for (int64_t i = 0; i < ids.len; i++) {
        assert_int_equal(ids.data[i], want.data[i]);
        assert_int_equal(weights.data[i], want_weights.data[i]);
    }
    ids_free(&ids); ids_free(&want); buffer_free(&weights); buffer_free(&want_weights);
}

#define H(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"

static void llama3_multi_turn(void **state) {
    (void)state;
    const Message m[] = {message("system", "Be brief."), message("user", " \n\xC2\xA0hello\t"), message("assistant", "\n Yes. "),
                         message("user", "why?"), message("assistant", "So.")};
    expect(llama, TEMPLATE_LLAMA3, m, 5, false,
           "<|begin_of_text|>" H("system") "Be brief.<|eot_id|>" H("user") "hello<|eot_id|>" H("assistant") "\1Yes.<|eot_id|>\2" H(
               "user") "why?<|eot_id|>" H("assistant") "\1So.<|eot_id|>");
    expect(llama, TEMPLATE_LLAMA3, m + 1, 1, true, "<|begin_of_text|>" H("user") "hello<|eot_id|>" H("assistant"));
}

static void llama31_always_has_a_system_turn(void **state) {
    (void)state;
    const Message m[] = {message("system", "Be brief."), message("user", "hello"), message("assistant", "Yes.")};
    #define DATES "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    expect(llama, TEMPLATE_LLAMA31, m, 3, false,
           "<|begin_of_text|>" H("system") DATES "Be brief.<|eot_id|>" H("user") "hello<|eot_id|>" H("assistant") "\1Yes.<|eot_id|>");
    expect(llama, TEMPLATE_LLAMA31, m + 1, 2, false,
           "<|begin_of_text|>" H("system") DATES "<|eot_id|>" H("user") "hello<|eot_id|>" H("assistant") "\1Yes.<|eot_id|>");
}

#define DEFAULT_SYSTEM "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"

static void qwen_default_system_and_no_trimming(void **state) {
    (void)state;
    const Message m[] = {message("user", "\nhello "), message("assistant", " Yes. "), message("user", "why?"), message("assistant", "\nSo.")};
    // "user\n" + "\nhello": the two newlines are one token; "assistant\n" + "\nSo.": cut where generation begins
    expect(qwen, TEMPLATE_QWEN2, m, 4, false, DEFAULT_SYSTEM "<|im_start|>user\n\nhello <|im_end|>\n<|im_start|>assistant\n\1 Yes. <|im_end|>\2\n"
           "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n\1\nSo.<|im_end|>\2\n");
    const Message s[] = {message("system", ""), message("user", "hello")};
    expect(qwen, TEMPLATE_QWEN2, s, 2, true, "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n");
    Ids ids = {NULL, 0, 0};
    assert_true(chat_render(qwen, TEMPLATE_QWEN2, m, 1, false, &ids, NULL, NULL));
    int newlines = 0;
    for (int64_t i = 0; i < ids.len; i++) newlines += ids.data[i] == TINY_NEWLINES;
    assert_int_equal(newlines, 1);
    ids_free(&ids);
}

static void deepseek_history_loses_its_thoughts(void **state) {
    (void)state;
    const Message m[] = {message("system", "Be brief."), message("user", "hello"),
                         message("assistant", "<think>\na</think>b</think>\n\nYes."), message("user", "why?"),
                         message("assistant", "<think>\nc</think>d</think>\n\nSo.")};
#define HISTORY R1_BOS "Be brief." R1_USER "hello" R1_ASSISTANT "\1\n\nYes." R1_EOS "\2" R1_USER "why?" R1_ASSISTANT
    Ids ids = {NULL, 0, 0};
    expect(r1, TEMPLATE_DEEPSEEK_R1, m, 4, true, HISTORY);
    // the last turn keeps them; the inner </think> is text, the outer pair are tokens
    assert_true(chat_render(r1, TEMPLATE_DEEPSEEK_R1, m, 5, false, &ids, NULL, NULL));
    int open = 0, close = 0;
    for (int64_t i = 0; i < ids.len; i++) {
        open += ids.data[i] == tokenizer_find(r1, "<think>");
        close += ids.data[i] == tokenizer_find(r1, "</think>");
    }
    assert_int_equal(open, 1);
    assert_int_equal(close, 1);
    ids_free(&ids);
    const Message one[] = {message("user", "hello <think>"), message("assistant", "<think>\nc</think>\n\nSo.")};
    Ids user = {NULL, 0, 0};
    tokenizer_encode(r1, "hello <think>", 13, false, &user);
    assert_true(chat_render(r1, TEMPLATE_DEEPSEEK_R1, one, 2, false, &ids, NULL, NULL));
    assert_memory_equal(ids.data + 2, user.data, (size_t)user.len * sizeof(int32_t));
    ids_free(&ids);
    ids_free(&user);
    expect(r1, TEMPLATE_DEEPSEEK_R1, &one[1], 1, false, R1_BOS R1_ASSISTANT "\1<think>\nc</think>\n\nSo." R1_EOS);
}

static void none_is_plain_text(void **state) {
    (void)state;
    const Message m[] = {message("user", "2+2="), message("assistant", "4")};
    expect(llama, TEMPLATE_NONE, m, 2, false, "<|begin_of_text|>2+2=\1" "4<|end_of_text|>");
    expect(qwen, TEMPLATE_NONE, m, 2, false, "2+2=\1" "4<|endoftext|>");
}

static void exactly_the_answer_is_trained(void **state) {   // "answer = tokens 5..7"
    (void)state;
    const Message m[] = {message("user", "123 "), message("assistant", "yn")};
    Ids ids = {NULL, 0, 0};
    Buffer w = {NULL, 0, 0};
    assert_true(chat_render(llama, TEMPLATE_NONE, m, 2, false, &ids, &w, NULL));
    const char expected[8] = {0, 0, 0, 0, 0, 1, 1, 1};
    assert_int_equal(w.len, 8);
    assert_memory_equal(w.data, expected, 8);
    assert_int_equal(ids.data[5], 'y');
    assert_int_equal(ids.data[7], tokenizer_eos(llama));
    ids_free(&ids);
    buffer_free(&w);
}

static void injected_specials_stay_text(void **state) {
    (void)state;
    const struct { Tokenizer *t; ChatTemplate c; const char *family;
    } all[] = {{llama, TEMPLATE_LLAMA3, "llama3"},
               {llama, TEMPLATE_LLAMA31, "llama3"},
               {qwen, TEMPLATE_QWEN2, "qwen2"},
               {r1, TEMPLATE_DEEPSEEK_R1, "deepseek-r1"},
               {llama, TEMPLATE_NONE, "llama3"}};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        Buffer evil = {NULL, 0, 0};
        for (const char *const *s = tiny_specials(all[k].family); *s; s++) buffer_add(&evil, *s, (int64_t)strlen(*s));
        buffer_add(&evil, "", 1);
        const char *roles[] = {"system", "user", "assistant", "user", "assistant"};
        Message clean[5], dirty[5];
        for (int i = 0; i < 5; i++) { clean[i] = message(roles[i], "x"); dirty[i] = message(roles[i], evil.data); }
        // a tokenizer of thoughts: what the last answer says of </think> is the template's own marker, so leave that one clean
        if (all[k].c == TEMPLATE_DEEPSEEK_R1) dirty[2] = dirty[4] = clean[2];
        Ids a = {NULL, 0, 0}, b = {NULL, 0, 0};
        assert_true(chat_render(all[k].t, all[k].c, clean, 5, false, &a, NULL, NULL));
        assert_true(chat_render(all[k].t, all[k].c, dirty, 5, false, &b, NULL, NULL));
        int64_t specials = 0;
        for (int64_t i = 0; i < a.len; i++) specials += a.data[i] >= TINY_FIRST_SPECIAL;
        for (int64_t i = 0; i < b.len; i++) specials -= b.data[i] >= TINY_FIRST_SPECIAL;
        assert_int_equal(specials, 0);
        ids_free(&a); ids_free(&b); buffer_free(&evil);
    }
}

static void refused(void **state) {
    (void)state;
    Error e;
    Ids ids = {NULL, 0, 0};
    const Message tool[] = {message("tool", "x")}, late[] = {message("user", "x"), message("system", "y")};
    assert_false(chat_render(llama, TEMPLATE_LLAMA3, tool, 1, false, &ids, NULL, &e));
    assert_non_null(strstr(e.text, "\"tool\""));
    assert_false(chat_render(r1, TEMPLATE_DEEPSEEK_R1, late, 2, false, &ids, NULL, &e));
    assert_true(chat_render(qwen, TEMPLATE_QWEN2, late, 2, false, &ids, NULL, &e));
    assert_false(chat_render(qwen, TEMPLATE_LLAMA3, late, 1, false, &ids, NULL, &e));   // a tokenizer without <|begin_of_text|>
    assert_non_null(strstr(e.text, "--->"));
    ChatTemplate c;
    assert_false(chat_find("vicuna", &c, &e));
    ids_free(&ids);
}

static void guess_and_hash(void **state) {
    (void)state;
    assert_int_equal(chat_guess(llama), TEMPLATE_LLAMA3);
    assert_int_equal(chat_guess(qwen), TEMPLATE_QWEN2);
    assert_int_equal(chat_guess(r1), TEMPLATE_DEEPSEEK_R1);
    char hashes[NUM_TEMPLATES][33];
    for (int i = 0; i < NUM_TEMPLATES; i++) {
        ChatTemplate c = TEMPLATE_NONE;
        assert_true(chat_find(chat_name((ChatTemplate)i), &c, NULL));
        assert_int_equal(c, i);
        snprintf(hashes[i], sizeof hashes[i], "%s", chat_hash(c));
        assert_int_equal(strlen(hashes[i]), 32);
        for (int k = 0; k < i; k++) assert_string_not_equal(hashes[i], hashes[k]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(llama3_multi_turn),
                                       cmocka_unit_test(llama31_always_has_a_system_turn),
                                       cmocka_unit_test(qwen_default_system_and_no_trimming),
                                       cmocka_unit_test(deepseek_history_loses_its_thoughts),
                                       cmocka_unit_test(none_is_plain_text),
                                       cmocka_unit_test(exactly_the_answer_is_trained),
                                       cmocka_unit_test(injected_specials_stay_text),
                                       cmocka_unit_test(refused),
                                       cmocka_unit_test(guess_and_hash)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
