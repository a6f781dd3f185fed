// genrm_run.h: genrm called from tests, its files made and read. Include it after genrm.cu, tiny_tokenizer.h, check.h and scratch.h.
#include "program.h"   // defines: run_words, output

FN char build[512];    // where this program lies, and genrm_cpu beside it
FN void find_build(const char *program) {
    const char *slash = strrchr(program, '/');
    snprintf(build, sizeof build, "%.*s", slash ? (int)(slash - program) : 1, slash ? program : ".");
}
FN void must(bool ok, const Error *e) { if (!ok) fail_msg("%s", e->text); }
#ifndef TESTED_MAIN   // of another program that asks models
#define TESTED_MAIN genrm_main
#define TESTED_NAME "genrm"
#endif
FN void run_genrm(int expected, const char *words) { int status = run_words(TESTED_MAIN, TESTED_NAME, words); if (status != expected) fail_msg("%s: status %d, expected %d:\n%.700s", words, status, expected, output); }
FN void expect(const char *words, const char *text) {   // an error, one line, with this in it
    run_genrm(1, words);
    const char *error = strstr(output, TESTED_NAME ": error: ");
    if (!error || !strstr(error, text)) fail_msg("%s: expected \"%s\" in:\n%.700s", words, text, output);
    if (strchr(error, '\n') != error + strlen(error) - 1) fail_msg("%s: more than one line: %.700s", words, error);
}
FN double summary(const char *key) {   // of the JSON object on stdout; "a.b" is b of a
    Error e;
    char *begin = strstr(output, "{\""), *copy = xstrdup(key);   // no other line begins so
    assert_non_null(begin);
    json_t *j = json_parse("summary", begin, strchr(begin, '\n') - begin, &e);
    must(j != NULL, &e);
    const json_t *v = j;
    for (char *name = strtok(copy, "."); name; name = strtok(NULL, ".")) v = json_object_get(v, name);
    if (!json_is_number(v)) fail_msg("the summary has no number %s: %.600s", key, output);
    free(copy);
    double x = json_number_value(v);
    json_decref(j);
    return x;
}
FN int compare_lines(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
FN char *sorted_file(const char *name) {   // its lines, sorted
    Mapped m;
    Error e;
    must(map_file(in(name), &m, &e), &e);
    char *text = xprintf("%.*s", (int)m.size, (const char *)m.data), *lines[2000];
    unmap_file(&m);
    int n = 0;
    for (char *line = strtok(text, "\n"); line && n < 2000; line = strtok(NULL, "\n")) lines[n++] = line;
    qsort(lines, (size_t)n, sizeof *lines, compare_lines);
    Buffer b = {NULL, 0, 0};
    for (int i = 0; i < n; i++) { buffer_add(&b, lines[i], (int64_t)strlen(lines[i])); buffer_add(&b, "\n", 1); }
    buffer_add(&b, "", 1);
    free(text);
    return b.data;
}
FN void put(const char *name, const char *text) { Error e; must(write_file(in(name), text, (int64_t)strlen(text), &e), &e); }

enum { ROWS = 12 };
FN void make_files(void) {   // the trained model with a tokenizer, questions to it
    Error e;
    must(make_directory(in("model"), &e) && copy_file("test/data/trained", in("model"), "config.json", &e) && copy_file("test/data/trained", in("model"), "model.safetensors", &e), &e);
    Tokenizer *t = tiny_tokenizer(in("model"), "llama3", &e);
    must(t != NULL, &e);
    tokenizer_free(t);
    Buffer b = {NULL, 0, 0};
    for (int i = 0; i < ROWS; i++) {
        char *row = i % 3 == 0 ? xprintf("{\"id\":%d,\"prompt\":\"count from %c\"}\n", i, 'a' + i) : i % 3 == 1 ? xprintf("{\"messages\":[{\"role\":\"user\",\"content\":\"count from %c\"},{\"role\":\"assistant\",\"content\":\"gold %d\"}],\"x\":1.5}\n", 'a' + i, i)
                                 : xprintf("\n{\"prompt\":[{\"role\":\"user\",\"content\":\"count from %c\"}],\"answer\":\"an old one\"}\n", 'a' + i);
        buffer_add(&b, row, (int64_t)strlen(row));
        free(row);
    }
    buffer_add(&b, "", 1);
    put("prompts.jsonl", b.data);
    buffer_free(&b);
}
