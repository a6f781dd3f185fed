// tokenizer_bench.c: our encoder for dev/tokenizer_check.py and dev/tokenizer_bench.py.
//     tokenizer_bench TOKENIZER FILE.jsonl [threads]          times encoding the documents: MB/s
//     tokenizer_bench --encode TOKENIZER [plain] < in.jsonl   {"text"} or a JSON string a line -> one JSON array of ids a line
// Build: gcc -std=c11 -O3 -march=native -fopenmp -I. dev/tokenizer_bench.c -o build/tokenizer_bench -ljansson -lutf8proc -lm
#include "findap/tokenizer.h"

typedef struct { char *text; int64_t length; } Document;

static Document *read_documents(FILE *f, int64_t *n) {
    Document *documents = NULL;
    char *line = NULL;
    size_t cap = 0;
    Error e;
    int64_t slots = 0;
    *n = 0;
    for (ssize_t k; (k = getline(&line, &cap, f)) > 0;) {
        json_t *j = json_parse("input", line, k, &e);
        json_t *s = json_is_object(j) ? json_object_get(j, "text") : j;
        if (!json_is_string(s)) die("line %" PRId64 " is not a string or {\"text\"}", *n + 1);
        if (*n == slots) documents = (Document *)xrealloc(documents, slots = slots ? 2 * slots : 1024, sizeof(Document));
        documents[*n].length = (int64_t)json_string_length(s);
        documents[*n].text = (char *)xmalloc(documents[*n].length);
        memcpy(documents[*n].text, json_string_value(s), json_string_length(s));
        (*n)++;
        json_decref(j);
    }
    free(line);
    return documents;
}

int main(int argc, char **argv) {
    bool encode = argc >= 3 && strcmp(argv[1], "--encode") == 0;
    if (argc < 3) die("usage: tokenizer_bench TOKENIZER FILE.jsonl [threads] | --encode TOKENIZER [plain]");
    Error e;
    double start = seconds_now();
    Tokenizer *t = tokenizer_load(argv[encode ? 2 : 1], &e);
    if (!t) die("%s", e.text);
    fprintf(stderr, "loaded in %.3f s, %" PRId64 " ids\n", seconds_now() - start, tokenizer_vocab_size(t));
    FILE *f = encode ? stdin : fopen(argv[2], "r");
    if (!f) die("%s: cannot be opened", argv[2]);
    int64_t n, bytes = 0, tokens = 0;
    Document *documents = read_documents(f, &n);
    if (encode) {
        Ids ids = {NULL, 0, 0};
        for (int64_t i = 0; i < n; i++) {
            ids.len = 0;
            tokenizer_encode(t, documents[i].text, documents[i].length, argc < 4, &ids);
            putchar('[');
            for (int64_t k = 0; k < ids.len; k++) printf(k ? ",%d" : "%d", ids.data[k]);
            puts("]");
        }
        return 0;
    }
    for (int64_t i = 0; i < n; i++) bytes += documents[i].length;
    int threads = argc > 3 ? atoi(argv[3]) : 1;
    double best = 1e9;
    for (int run = 0; run < 3; run++) {
        start = seconds_now();
        tokens = 0;
#pragma omp parallel num_threads(threads) reduction(+ : tokens)
        {
            Ids ids = {NULL, 0, 0};
#pragma omp for schedule(dynamic, 16)
            for (int64_t i = 0; i < n; i++) {
                ids.len = 0;
                tokenizer_encode(t, documents[i].text, documents[i].length, true, &ids);
                tokens += ids.len;
            }
            ids_free(&ids);
        }
        double seconds = seconds_now() - start;
        if (run == 0) printf("first %.1f MB/s ", (double)bytes / 1e6 / seconds);   // with an empty cache
        if (seconds < best) best = seconds;
    }
    printf("best %.1f MB/s %" PRId64 " tokens %" PRId64 " bytes %d threads\n", (double)bytes / 1e6 / best, tokens, bytes, threads);
    return 0;
}
