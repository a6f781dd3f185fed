// report_fixture.h: directories as eval leaves them, of models that don't exist: results.json, samples_<task>.jsonl, log.jsonl. What a "model" knows is a share of right answers;
// the same row is easy or hard for all of them, as rows are.
typedef enum { FAKE_LABELS, FAKE_COUNTS, FAKE_TEXT, FAKE_RMSE, FAKE_SUBSETS } FakeKind;   // SUBSETS: weighted F1, the mean of three parts

typedef struct {
    const char *id, *title, *metric, *domain, *novelty, *capability, *mode;
    FakeKind kind;
    int64_t n;
    int labels;
    double first;                    // share of the most frequent label
    double known[3];                 // share of right answers of three runs; NAN: not run
    double published[2];             // NAN: none
} FakeTask;

static json_t *fake_estimate(double value, double error) {
    return json_pack("{s:f,s:f,s:f,s:f}", "value", value, "stderr", error, "low", value - 1.96 * error, "high", value + 1.96 * error);
}
static void fake_write(const char *dir, const char *name, const char *text, int64_t n) {
    Error e;
    char *path = path_join(dir, name);
    if (!write_file(path, text, n, &e)) fail_msg("%s", e.text);
    free(path);
}
static void fake_json(const char *dir, const char *name, json_t *j) {
    char *text = json_dumps(j, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
    assert_non_null(text);
    fake_write(dir, name, text, (int64_t)strlen(text));
    free(text);
    json_decref(j);
}

// one task of one run: its samples file, and what results.json says of it
static json_t *fake_task(const char *dir, const FakeTask *t, int run, uint64_t stream) {
    static const char *const outcomes[] = {"answered", "missing", "ambiguous", "truncated", "empty"};
    int K = t->labels > 0 ? t->labels : 1;
    Confusion c = confusion_make(K), part[3] = {confusion_make(K), confusion_make(K), confusion_make(K)};
    Buffer b = {NULL, 0, 0};
    double sum = 0, squares = 0, counts[3] = {0, 0, 0};
    int64_t number[5] = {0}, lengths[12] = {0};
    for (int64_t i = 0; i < t->n; i++) {
        double hard = random_uniform(1, stream, (uint64_t)(8 * i)), luck = random_uniform(2 + (uint64_t)run, stream, (uint64_t)(8 * i + 1)), u = random_uniform(1, stream, (uint64_t)(8 * i + 2));
        bool right = 0.7 * hard + 0.3 * luck < t->known[run];
        int gold = K < 2 || u < t->first ? 0 : 1 + (int)random_below(1, stream, (uint64_t)(8 * i + 3), (uint64_t)(K - 1)), outcome = right || luck < 0.9 ? 0 : 1 + (int)random_below(3, stream, (uint64_t)(8 * i + 4), 4);
        int pred = outcome ? -1 : right || K < 2 ? gold : (int)random_below(4, stream, (uint64_t)(8 * i + 5), (uint64_t)K);
        double value = t->kind == FAKE_TEXT ? fmin(1, fmax(0, t->known[run] + 0.3 * (random_uniform(1, stream, (uint64_t)(8 * i + 6)) - 0.5) + 0.1 * (luck - 0.5))) : pred == gold, error = (hard - 0.5) * (1.2 - t->known[run]);
        json_t *j = json_pack("{s:I,s:o,s:s,s:s,s:s,s:s}", "row", (json_int_t)i, "id", json_sprintf("%s-%d", t->id, (int)i), "output", "...", "finish", "stop", "outcome", outcomes[outcome], "prompt_hash", "p");
        if (t->kind == FAKE_LABELS || t->kind == FAKE_SUBSETS) {
            json_object_set_new(j, "gold", json_sprintf("label %d", gold));
            json_object_set_new(j, "label", json_pack("[i,i]", gold, pred));
            json_object_set_new(j, "value", json_pack("{s:f}", "acc", (double)(pred == gold)));
            confusion_add(&c, gold, pred);
            confusion_add(&part[i % 3], gold, pred);
            if (t->kind == FAKE_SUBSETS) json_object_set_new(j, "subset", json_sprintf("part %d", (int)(i % 3)));
        } else if (t->kind == FAKE_COUNTS) {
            json_int_t there = 3, said = outcome ? 0 : 3, found = outcome ? 0 : right ? 3 : 1;
            json_object_set_new(j, "counts", json_pack("[I,I,I]", found, said, there));
            counts[0] += (double)found; counts[1] += (double)said; counts[2] += (double)there;
        } else if (t->kind == FAKE_RMSE) json_object_set_new(j, "error", json_real(error));
        else json_object_set_new(j, "value", json_pack("{s:f}", t->metric, value));
        sum += value; squares += t->kind == FAKE_RMSE ? error * error : value * value;
        number[outcome]++;
        lengths[(int)(12 * pow(random_uniform(5 + (uint64_t)run, stream, (uint64_t)(8 * i + 7)), 3))]++;
        char *line = json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER);
        buffer_add(&b, line, (int64_t)strlen(line));
        buffer_add(&b, "\n", 1);
        free(line);
        json_decref(j);
    }
    char *name = xprintf("samples_%s.jsonl", t->id);
    fake_write(dir, name, b.data ? b.data : "", b.len);
    free(name);
    buffer_free(&b);
    double cells[NUM_CELL], n = (double)t->n, score = sum / n, error = sqrt(fmax(0, squares / n - score * score) / (n - 1));
    json_t *j = json_pack("{s:s,s:[s],s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:I,s:i,s:s,s:b}", "title", t->title, "suites", "fineval", "capability", t->capability, "novelty", t->novelty, "domain", t->domain, "mode", t->mode, "request", "generate",
                          "shots", 0, "version", 1, "n", (json_int_t)t->n, "bad_rows", 0, "metric", t->metric, "higher_is_better", t->kind != FAKE_RMSE), *metrics = json_object(), *list = json_object();
    confusion_scores(&c, cells);
    if (t->kind == FAKE_LABELS) for (int k = 0; k < NUM_CELL; k++) { if (strcmp(cell_metric_names[k], t->metric) == 0) score = cells[k]; json_object_set_new(metrics, cell_metric_names[k], fake_estimate(cells[k], 0.5 / sqrt(n))); }
    if (t->kind == FAKE_SUBSETS) { subsets_scores(part, 3, cells); score = cells[CELL_WEIGHTED_F1]; error = 0.5 / sqrt(n); }
    if (t->kind == FAKE_COUNTS) { score = prf_of(counts[0], counts[1], counts[2]).f1; error = 0.4 / sqrt(n); }
    if (t->kind == FAKE_RMSE) { score = sqrt(squares / n); error = score / sqrt(2 * n); }
    if (json_object_size(metrics) == 0) json_object_set_new(metrics, t->metric, fake_estimate(score, error));
    json_object_set_new(j, "score", json_real(score));
    json_object_set_new(j, "stderr", json_real(error));
    json_object_set_new(j, "low", json_real(score - 1.96 * error));
    json_object_set_new(j, "high", json_real(score + 1.96 * error));
    json_object_set_new(j, "metrics", metrics);
    if (t->kind == FAKE_LABELS) json_object_set_new(j, "baselines", json_pack("{s:f,s:f}", "majority", strcmp(t->metric, "mcc") ? t->first : 0.0, "random", strcmp(t->metric, "mcc") ? 1.0 / K : 0.0));
    for (int k = 0; k < 5; k++) json_object_set_new(list, outcomes[k], json_integer(number[k]));
    json_object_set_new(j, "outcomes", list);
    json_object_set_new(j, "overlength_ratio", json_real((double)number[3] / n));
    if (t->kind == FAKE_LABELS) {
        json_t *names = json_array(), *rows = json_array();
        for (int i = 0; i < K; i++) {
            json_t *row = json_array();
            json_array_append_new(names, json_sprintf("label %d", i));
            for (int k = 0; k <= K; k++) json_array_append_new(row, json_integer(c.cells[i * (K + 1) + k]));
            json_array_append_new(rows, row);
        }
        json_object_set_new(j, "confusion", json_pack("{s:o,s:o}", "labels", names, "counts", rows));
    }
    json_t *edges = json_array(), *bins = json_array();
    for (int i = 0; i <= 12; i++) json_array_append_new(edges, json_integer(16 * i));
    for (int i = 0; i < 12; i++) json_array_append_new(bins, json_integer(lengths[i]));
    json_object_set_new(j, "lengths", json_pack("{s:o,s:o}", "edges", edges, "counts", bins));
    json_t *published = json_object();
    for (int k = 0; k < 2; k++) if (isfinite(t->published[k])) json_object_set_new(published, k ? "Llama-3-8B-Instruct" : "Llama-Fin", json_real(t->published[k]));
    json_object_set_new(j, "published", published);
    json_object_set_new(j, "data_hash", json_sprintf("%032x", (unsigned)stream));
    json_object_set_new(j, "seconds", json_real(12.5));
    confusion_free(&c);
    for (int k = 0; k < 3; k++) confusion_free(&part[k]);
    return j;
}

static json_t *fake_run(const char *dir, const char *label, const FakeTask *tasks, int n, int run) {   // writes all but results.json, which is what comes back
    Error e;
    json_t *list = json_object();
    if (!make_directory(dir, &e)) fail_msg("%s", e.text);
    for (int i = 0; i < n; i++) if (isfinite(tasks[i].known[run])) json_object_set_new(list, tasks[i].id, fake_task(dir, &tasks[i], run, (uint64_t)i + 100));
    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:n,s:s,s:{s:s,s:n,s:i,s:s,s:i},s:o,s:f}", "format", "findap-eval-1", "commit", "0123456789ab", "device", "NVIDIA H200, bf16", "date", "2026-11-21T20:30:00Z", "model",
                     "/models/llama-fin/checkpoint", "model_hash", "00112233445566778899aabbccddeeff", "adapter", "label", label, "settings", "template", "llama3", "system", "shots", 0, "mode", "as the task says", "seed", 1, "tasks", list, "seconds", 1234.5);
}

static void fake_log(const char *path, int64_t steps) {   // as log.h writes it
    Buffer b = {NULL, 0, 0};
    Error e;
    const char *start = "{\"event\":\"start\",\"step\":0,\"program\":\"train_findap\",\"commit\":\"0123456789ab\"}\n";
    buffer_add(&b, start, (int64_t)strlen(start));
    for (int64_t s = 1; s <= steps; s++) {
        double noise = 0.08 * (random_uniform(7, 0, (uint64_t)s) - 0.5), cpt = 1.9 + 1.2 * pow((double)s, -0.4), it = 0.9 + 1.6 * pow((double)s, -0.5);
        char *line = xprintf("{\"event\":\"step\",\"step\":%" PRId64 ",\"stage\":\"%s\",\"loss_nats_per_target\":%.5f,\"lr\":1e-05,\"skipped\":false,\"loss_cpt_nats_per_target\":%.5f,\"loss_it_nats_per_target\":%.5f}\n", s,
                             s <= steps / 2 ? "group1" : "group2", 0.6 * cpt + 0.4 * it + noise, cpt + noise, it - noise);
        buffer_add(&b, line, (int64_t)strlen(line));
        free(line);
        if (s % (steps / 10) != 0) continue;
        line = xprintf("{\"event\":\"dev\",\"step\":%" PRId64 ",\"stage\":\"%s\",\"dev_loss_nats_per_target\":%.5f,\"dev_targets\":1000,\"best_dev_loss_nats_per_target\":1.0,\"dev_loss_cpt\":%.5f,\"dev_loss_it\":%.5f}\n", s, s <= steps / 2 ? "group1" : "group2", 0.62 * cpt + 0.41 * it, cpt + 0.03, it + 0.02);
        buffer_add(&b, line, (int64_t)strlen(line));
        free(line);
    }
    if (!write_file(path, b.data, b.len, &e)) fail_msg("%s", e.text);
    buffer_free(&b);
}
