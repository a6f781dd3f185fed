// test_model.c: the CPU reference against transformers (fp32 tensors made by dev/make_reference.py), and the rules the
// numbers depend on: packing, micro-batches, threads, untrained places, non-finite steps.
#define FINDAP_LIBRARY
#include "../train_findap.c"
#include "../findap/safetensors.h"   // defines: Safetensors, safetensors_open, safetensors_find
#include "../findap/model_dir.h"     // defines: model_load_dir, model_save_dir
#include "check.h"                   // defines: cmocka's assertions, fail_msg

static const char *const model_names[] = {"llama3", "llama31", "llama32", "qwen25", "qwen25_untied"};
enum { NUM_MODELS = sizeof model_names / sizeof *model_names };

typedef struct { Safetensors *file; Config config; Model *model; Batch batch; float *coef, *logp; } Case;

static void must(bool ok, const Error *e) { if (!ok) fail_msg("%s", e->text); }
static const SafeTensor *reference(const Case *c, const char *name) {
    const SafeTensor *t = safetensors_find(c->file, name);
    if (!t) fail_msg("reference has no tensor %s", name);
    return t;
}

static Case case_open(const char *name, int64_t room_rows) {
    Case c;
    Error e;
    memset(&c, 0, sizeof c);
    char path[256];
    snprintf(path, sizeof path, "test/data/%s", name);
    must(config_load(path, &c.config, &e), &e);
    char file[300];
    snprintf(file, sizeof file, "%s/reference.safetensors", path);
    c.file = safetensors_open(file, &e);
    must(c.file != NULL, &e);
    const SafeTensor *tokens = reference(&c, "tokens");
    c.batch.B = tokens->shape[0];
    c.batch.T = tokens->shape[1];
    int64_t n = tokens->count;
    c.batch.tokens = (int32_t *)xmalloc(n * 4);    memcpy(c.batch.tokens, tokens->data, (size_t)n * 4);
    c.batch.positions = (int32_t *)xmalloc(n * 4); memcpy(c.batch.positions, reference(&c, "positions")->data, (size_t)n * 4);
    c.batch.targets = (int32_t *)xmalloc(n * 4);   memcpy(c.batch.targets, reference(&c, "targets")->data, (size_t)n * 4);
    c.batch.weights = (float *)xmalloc(n * 4);     memcpy(c.batch.weights, reference(&c, "weights")->data, (size_t)n * 4);
    c.coef = (float *)xmalloc(n * 4);
    c.logp = (float *)xmalloc(n * 4);
    double total = 0;
    for (int64_t i = 0; i < n; i++) total += c.batch.weights[i];
    for (int64_t i = 0; i < n; i++) c.coef[i] = (float)(-c.batch.weights[i] / total);
    c.model = model_create(&c.config, room_rows ? room_rows : c.batch.B, c.batch.T, true, NULL);
    must(model_load_dir(c.model, path, &e), &e);
    return c;
}
static void case_close(Case *c) {
    free(c->batch.tokens); free(c->batch.positions); free(c->batch.targets); free(c->batch.weights);
    free(c->coef); free(c->logp);
    model_free(c->model);
    safetensors_close(c->file);
}

static double relative_error(const float *a, const float *b, int64_t n) {   // |a - b| / |b|
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) { difference += pow((double)a[i] - b[i], 2); norm += pow((double)b[i], 2); }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

static void run(Case *c) {   // one forward and backward of the whole batch
    model_zero_grad(c->model);
    model_forward(c->model, &c->batch);
    model_head(c->model, &c->batch, c->coef, c->logp);
    model_backward(c->model, &c->batch);
}

static float *all_logits(Case *c) {
    int64_t n = c->batch.B * c->batch.T, *index = (int64_t *)xcalloc(n, 8);
    for (int64_t i = 0; i < n; i++) index[i] = i;
    float *logits = (float *)xmalloc(n * c->config.vocab_size * 4);
    model_logits(c->model, index, n, logits);
    free(index);
    return logits;
}

// ---- against transformers

static void logits_loss_and_every_gradient_match_transformers(void **state) {
    (void)state;
    for (int k = 0; k < NUM_MODELS; k++) {
        Case c = case_open(model_names[k], 0);
        run(&c);
        const SafeTensor *want = reference(&c, "logits");
        float *logits = all_logits(&c);
        double error = relative_error(logits, (const float *)want->data, want->count), worst = 0;
        printf("%-14s logits %.1e", model_names[k], error);
        if (!(error < 1e-5)) fail_msg("%s: logits differ by %.2e", model_names[k], error);
        free(logits);
        float loss = *(const float *)reference(&c, "loss")->data;
        double got = model_result(c.model).loss;
        if (!(fabs(got - loss) < 1e-5 * loss)) fail_msg("%s: loss %.8f, transformers %.8f", model_names[k], got, loss);
        int seen = 0;
        for (int i = 0; i < model_num_tensors(c.model); i++) {
            const Tensor *t = model_tensor(c.model, i);
            int64_t count = (t->rows ? t->rows : 1) * t->cols;
            float *g = (float *)xmalloc(count * 4);
            for (int l = 0; l < (t->per_layer ? c.config.num_layers : 1); l++, seen++) {
                char hf[128], name[160];
                #pragma GCC diagnostic push
                #pragma GCC diagnostic ignored "-Wformat-nonliteral"
                snprintf(hf, sizeof hf, t->hf_name, l);
                #pragma GCC diagnostic pop
                snprintf(name, sizeof name, "grad.%s", hf);
                const SafeTensor *r = reference(&c, name);
                assert_int_equal(r->count, count);
                model_get(c.model, KIND_GRAD, i, l, g);
                double d = relative_error(g, (const float *)r->data, count);
                if (!(d < 1e-4)) fail_msg("%s: %s differs by %.2e", model_names[k], name, d);
                worst = d > worst ? d : worst;
            }
            free(g);
        }
        int in_reference = 0;
        for (int64_t i = 0; i < safetensors_count(c.file); i++) in_reference += strncmp(safetensors_at(c.file, i)->name, "grad.", 5) == 0;
        assert_int_equal(seen, in_reference);   // no gradient of the reference went unchecked
        printf(", worst of %d gradients %.1e\n", seen, worst);
        case_close(&c);
    }
}

static void ten_adamw_steps_match_torch(void **state) {
    (void)state;
    for (int k = 0; k < NUM_MODELS; k++) {
        Case c = case_open(model_names[k], 0);
        const double *want = (const double *)reference(&c, "adamw_losses")->data;
        AdamW o = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1.0, 0};
        double worst = 0;
        for (int step = 0; step < 10; step++) {
            run(&c);
            o.t = step + 1;
            model_update(c.model, &o);
            StepResult r = model_result(c.model);
            assert_false(r.skipped);
            double d = fabs(r.loss - want[step]) / want[step];
            if (!(d < 1e-5)) fail_msg("%s: loss of step %d is %.8f, torch %.8f (%.1e)", model_names[k], step, r.loss, want[step], d);
            worst = d > worst ? d : worst;
        }
        printf("%-14s ten AdamW steps, worst loss difference %.1e\n", model_names[k], worst);
        case_close(&c);
    }
}

// ---- packing

static void a_document_is_blind_to_its_neighbours(void **state) {
    (void)state;
    Case c = case_open("llama31", 0);
    int64_t V = c.config.vocab_size, T = c.batch.T;
    model_forward(c.model, &c.batch);
    float *before = all_logits(&c);
    c.batch.tokens[9] = (c.batch.tokens[9] + 1) % (int32_t)V;   // inside the third document of row 0: places 8 to 18
    model_forward(c.model, &c.batch);
    float *after = all_logits(&c);
    for (int64_t i = 0; i < c.batch.B * T; i++) {
        bool same = memcmp(before + i * V, after + i * V, (size_t)V * 4) == 0;
        assert_int_equal(same, !(i >= 9 && i < 19));   // bit for bit outside; different from the change to the document's end
    }
    free(before); free(after);
    case_close(&c);
}

static void packed_equals_separate(void **state) {   // log-probs and gradients; every document as a batch of its own
    (void)state;
    for (int k = 0; k < NUM_MODELS; k++) {
        Case c = case_open(model_names[k], 0);
        run(&c);
        Model *packed = c.model, *alone = model_create(&c.config, 1, c.batch.T, true, NULL);
        Error e;
        char path[64];
        snprintf(path, sizeof path, "test/data/%s", model_names[k]);
        must(model_load_dir(alone, path, &e), &e);
        model_zero_grad(alone);
        int64_t N = c.batch.B * c.batch.T;
        for (int64_t begin = 0, end; begin < N; begin = end) {
            for (end = begin + 1; end < N && end % c.batch.T != 0 && c.batch.positions[end] != 0; end++) {}
            Batch b = {1, end - begin, c.batch.tokens + begin, c.batch.positions + begin, c.batch.targets + begin, c.batch.weights + begin, true};
            float logp[64];
            model_forward(alone, &b);
            model_head(alone, &b, c.coef + begin, logp);
            model_backward(alone, &b);
            for (int64_t i = begin; i < end; i++) assert_true(fabsf(logp[i - begin] - c.logp[i]) <= 1e-5f * (1 + fabsf(c.logp[i])));
        }
        double d = relative_error(alone->grads, packed->grads, packed->num_parameters);
        if (!(d < 1e-5)) fail_msg("%s: gradients of packed and separate differ by %.2e", model_names[k], d);
        assert_true(fabs(model_result(alone).loss - model_result(packed).loss) < 1e-5);
        model_free(alone);
        case_close(&c);
    }
}

// ---- micro-batches, threads

// 16 rows as 1x16, 4x4 and 16x1: the same gradient and loss, because both are sums over the step divided by the step's targets
static void micro_batching_does_not_change_the_gradient(void **state) {
    (void)state;
    Case c = case_open("llama3", 16);
    enum { ROWS = 16, T = 24 };
    static int32_t tokens[ROWS * T], positions[ROWS * T], targets[ROWS * T];
    static float weights[ROWS * T], coef[ROWS * T], logp[ROWS * T];
    double n = 0;
    for (int i = 0; i < ROWS * T; i++) {
        tokens[i] = (int32_t)random_below(5, 0, (uint64_t)i, (uint64_t)c.config.vocab_size);
        positions[i] = i % T;
        // rows have very different numbers of targets: a mean of means would be far off
        weights[i] = i % T < T - 1 && i % T < 2 + i / T ? 1.0f : 0.0f;
        n += weights[i];
    }
    for (int i = 0; i < ROWS * T; i++) { targets[i] = i % T < T - 1 ? tokens[i + 1] : -1; coef[i] = (float)(-weights[i] / n); }
    float *first = NULL;
    double loss = 0;
    for (int rows = 16; rows >= 1; rows /= 4) {
        model_zero_grad(c.model);
        for (int r = 0; r < ROWS; r += rows) {
            Batch b = {rows, T, tokens + r * T, positions + r * T, targets + r * T, weights + r * T, true};
            model_forward(c.model, &b);
            model_head(c.model, &b, coef + r * T, logp + r * T);
            model_backward(c.model, &b);
        }
        if (!first) {
            first = (float *)xmalloc(c.model->num_parameters * 4);
            memcpy(first, c.model->grads, (size_t)c.model->num_parameters * 4);
            loss = c.model->loss;
            continue;
        }
        double d = relative_error(c.model->grads, first, c.model->num_parameters);
        if (!(d < 2e-6)) fail_msg("%d rows at a time: gradient differs by %.2e", rows, d);
        assert_true(fabs(c.model->loss - loss) < 1e-7 * loss);
    }
    free(first);
    case_close(&c);
}

static void same_bits_on_any_number_of_threads(void **state) {
    (void)state;
#ifdef _OPENMP
    int threads = omp_get_max_threads();
    float *first = NULL;
    for (int n = 1; n <= 4; n++) {
        omp_set_num_threads(n);
        Case c = case_open("qwen25", 0);
        AdamW o = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1.0, 1};
        run(&c);
        model_update(c.model, &o);
        run(&c);
        if (!first) {
            first = (float *)xmalloc(c.model->num_parameters * 4);
            memcpy(first, c.model->grads, (size_t)c.model->num_parameters * 4);
        } else assert_memory_equal(first, c.model->grads, (size_t)c.model->num_parameters * 4);
        case_close(&c);
    }
    free(first);
    omp_set_num_threads(threads);
#else
    printf("skipped: built without OpenMP\n");
    skip();
#endif
}

// ---- the loss

static void only_weighted_targets_are_trained(void **state) {
    (void)state;
    Case c = case_open("llama3", 0);
    int64_t N = c.batch.B * c.batch.T;
    // what the untrained places would have to predict must not matter at all
    run(&c);
    float *g = (float *)xmalloc(c.model->num_parameters * 4);
    memcpy(g, c.model->grads, (size_t)c.model->num_parameters * 4);
    for (int64_t i = 0; i < N; i++) {
        if (c.batch.weights[i] == 0) { assert_true(c.logp[i] == 0); c.batch.targets[i] = -1; }
        else assert_true(c.logp[i] < 0);
    }
    run(&c);
    assert_memory_equal(g, c.model->grads, (size_t)c.model->num_parameters * 4);
    // and with one trained target left, only the places up to it have any gradient at the embedding
    int64_t only = 14;
    for (int64_t i = 0; i < N; i++) { c.batch.weights[i] = i == only; c.coef[i] = i == only ? -1.0f : 0.0f; c.batch.targets[i] = i == only ? 3 : -1; }
    run(&c);
    assert_true(fabs(model_result(c.model).loss + c.logp[only]) < 1e-6);
    for (int64_t i = 0; i < N; i++) {
        double size = 0;
        for (int64_t j = 0; j < c.config.hidden_size; j++) size += fabs(c.model->dx[i * c.config.hidden_size + j]);
        assert_int_equal(size > 0, i >= 8 && i <= only);   // its document begins at place 8
    }
    free(g);
    case_close(&c);
}

// the derivative along a random direction, by central differences, without any reference
static void gradient_matches_finite_differences(void **state) {
    (void)state;
    Case c = case_open("qwen25_untied", 0);
    run(&c);
    int64_t n = c.model->num_parameters;
    float *keep = (float *)xmalloc(n * 4);
    memcpy(keep, c.model->params, (size_t)n * 4);
    double slope = 0, norm = 0, loss[2], step = 2e-3;
    for (int64_t i = 0; i < n; i++) norm += pow(random_normal(9, 9, (uint64_t)i), 2);
    for (int64_t i = 0; i < n; i++) slope += c.model->grads[i] * random_normal(9, 9, (uint64_t)i) / sqrt(norm);
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < n; i++) c.model->params[i] = keep[i] + (float)((side ? -step : step) * random_normal(9, 9, (uint64_t)i) / sqrt(norm));
        run(&c);
        loss[side] = c.model->loss;
    }
    double measured = (loss[0] - loss[1]) / (2 * step);
    if (!(fabs(measured - slope) < 2e-2 * fabs(slope) + 1e-4)) fail_msg("slope %.6f, measured %.6f", slope, measured);
    free(keep);
    case_close(&c);
}

// a preference loss calls the head twice: log-probs first, then with its own derivative
static void head_without_coef_leaves_gradients_alone(void **state) {
    (void)state;
    Case c = case_open("llama32", 0);
    run(&c);
    float *g = (float *)xmalloc(c.model->num_parameters * 4), logp[64];
    memcpy(g, c.model->grads, (size_t)c.model->num_parameters * 4);
    model_zero_grad(c.model);
    model_forward(c.model, &c.batch);
    model_head(c.model, &c.batch, NULL, logp);
    assert_true(model_result(c.model).loss == 0);
    model_head(c.model, &c.batch, c.coef, c.logp);
    model_backward(c.model, &c.batch);
    assert_memory_equal(g, c.model->grads, (size_t)c.model->num_parameters * 4);
    for (int64_t i = 0; i < c.batch.B * c.batch.T; i++) assert_true(fabsf(logp[i] - c.logp[i]) < 1e-5f);
    free(g);
    case_close(&c);
}

// ---- updates

static void a_non_finite_step_changes_nothing(void **state) {
    (void)state;
    Case c = case_open("llama3", 0);
    AdamW o = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1.0, 1};
    int64_t n = c.model->num_parameters;
    run(&c);
    float *p = (float *)xmalloc(n * 4);
    memcpy(p, c.model->params, (size_t)n * 4);
    const float poison[] = {NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 3; k++) {
        float keep = c.model->grads[n / 2];
        c.model->grads[n / 2] = poison[k];
        model_update(c.model, &o);
        assert_true(model_result(c.model).skipped);
        assert_memory_equal(p, c.model->params, (size_t)n * 4);
        for (int64_t i = 0; i < n; i++) assert_true(c.model->moment1[i] == 0 && c.model->moment2[i] == 0);
        c.model->grads[n / 2] = keep;
    }
    model_update(c.model, &o);
    assert_false(model_result(c.model).skipped);
    assert_true(memcmp(p, c.model->params, (size_t)n * 4) != 0);
    free(p);
    case_close(&c);
}

static void clipping_bounds_the_gradient(void **state) {
    (void)state;
    Case c = case_open("llama3", 0);
    run(&c);
    AdamW o = {0, 0, 0, 1e-8, 0, 0.25, 1};   // beta1 0: moment1 is the clipped gradient itself
    model_update(c.model, &o);
    assert_true(model_result(c.model).grad_norm > 0.25);
    assert_true(fabs(sqrt(sum_of_squares(c.model->moment1, c.model->num_parameters)) - 0.25) < 1e-4);
    assert_true(fabs(model_result(c.model).grad_norm - sqrt(sum_of_squares(c.model->grads, c.model->num_parameters))) < 1e-12);
    case_close(&c);
}

static void inference_needs_less_and_gives_the_same(void **state) {
    (void)state;
    for (int k = 0; k < NUM_MODELS; k++) {
        Case c = case_open(model_names[k], 0);
        char path[64];
        snprintf(path, sizeof path, "test/data/%s", model_names[k]);
        Error e;
        model_forward(c.model, &c.batch);
        float *a = all_logits(&c);
        Model *training = c.model, *inference = model_create(&c.config, c.batch.B, c.batch.T, false, NULL);
        must(model_load_dir(inference, path, &e), &e);
        c.model = inference;
        model_forward(c.model, &c.batch);
        float *b = all_logits(&c);
        assert_memory_equal(a, b, (size_t)(c.batch.B * c.batch.T * c.config.vocab_size) * 4);
        assert_true(model_memory_bytes(&c.config, c.batch.B, c.batch.T, false, NULL, NULL) < model_memory_bytes(&c.config, c.batch.B, c.batch.T, true, NULL, NULL) / 2);
        free(a); free(b);
        model_free(training);
        case_close(&c);
    }
}

static void gemm_matches_the_plain_loop_at_ragged_sizes(void **state) {
    (void)state;
    const int64_t sizes[][3] = {{1, 1, 1}, {3, 5, 7}, {12, 32, 256}, {13, 33, 257}, {193, 257, 300}, {200, 31, 600}, {1, 300, 64}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t M = sizes[s][0], N = sizes[s][1], K = sizes[s][2];
        float *a = (float *)xmalloc(M * K * 4), *b = (float *)xmalloc(N * K * 4), *c = (float *)xmalloc(M * N * 4);
        for (int64_t i = 0; i < M * K; i++) a[i] = (float)random_normal(1, s, (uint64_t)i);
        for (int64_t i = 0; i < N * K; i++) b[i] = (float)random_normal(2, s, (uint64_t)i);
        for (int layout = 0; layout < 8; layout++) {   // each operand either way round, adding or not
            bool ta = layout & 1, tb = layout & 2, add = layout & 4;
            for (int64_t i = 0; i < M * N; i++) c[i] = add ? 1.0f : NAN;
            gemm(M, N, K, a, ta ? 1 : K, ta ? M : 1, b, tb ? N : 1, tb ? 1 : K, c, N, add);
            for (int64_t i = 0; i < M; i++)
                for (int64_t j = 0; j < N; j++) {
                    double sum = add, size = 1;
                    for (int64_t k = 0; k < K; k++) {
                        double x = (double)a[ta ? k * M + i : i * K + k] * b[tb ? k * N + j : j * K + k];
                        sum += x; size += fabs(x);
                    }
                    if (!(fabs(c[i * N + j] - sum) < 2e-6 * size)) fail_msg("%dx%dx%d layout %d: %f instead of %f", (int)M, (int)N, (int)K, layout, c[i * N + j], sum);
                }
        }
        free(a); free(b); free(c);
    }
}

static void fast_exp_is_exp(void **state) {
    (void)state;
    double worst = 0;
    for (double x = -87; x <= 88; x += 1.0 / 1024 / 7) {
        double want = exp((double)(float)x), d = fabs(fast_exp((float)x) - want) / want;
        worst = d > worst ? d : worst;
    }
    printf("fast_exp: worst relative error %.1e\n", worst);
    assert_true(worst < 2.4e-7);   // two units in the last place
    assert_true(fast_exp(0) == 1 && isnan(fast_exp(NAN)) && fast_exp(-INFINITY) < 1e-37f && fast_exp(INFINITY) > 1e38f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_exp_is_exp),
        cmocka_unit_test(gemm_matches_the_plain_loop_at_ragged_sizes),
        cmocka_unit_test(logits_loss_and_every_gradient_match_transformers),
        cmocka_unit_test(ten_adamw_steps_match_torch),
        cmocka_unit_test(a_document_is_blind_to_its_neighbours),
        cmocka_unit_test(packed_equals_separate),
        cmocka_unit_test(micro_batching_does_not_change_the_gradient),
        cmocka_unit_test(same_bits_on_any_number_of_threads),
        cmocka_unit_test(only_weighted_targets_are_trained),
        cmocka_unit_test(gradient_matches_finite_differences),
        cmocka_unit_test(head_without_coef_leaves_gradients_alone),
        cmocka_unit_test(a_non_finite_step_changes_nothing),
        cmocka_unit_test(clipping_bounds_the_gradient),
        cmocka_unit_test(inference_needs_less_and_gives_the_same),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
