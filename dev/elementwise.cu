// elementwise.cu: rotary embedding, token embedding, rows by index, bias: small kernels that need no ladder. Checks, then times against a
// copy's bandwidth. How to call it: dev/ladder.cuh; without an argument: times.
#include "ladder.cuh"                          // defines: Array, ladder_*, expect*
#include "../findap/kernels/embedding.cuh"     // defines: embedding_*, gather_rows, scatter_rows, scatter_numbers, bias_backward
#include "../findap/kernels/rope.cuh"          // defines: rope_forward, rope_backward

// table (T, HD/2, 2)
static std::vector<float> rope_table(int64_t T, int64_t HD) {
    std::vector<float> table((size_t)(T * HD));
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = 0; j < HD / 2; j++) {
            const double angle = (double)t * pow(5e5, -2.0 * (double)j / (double)HD);
            table[(size_t)(t * HD + 2 * j)] = (float)cos(angle);
            table[(size_t)(t * HD + 2 * j + 1)] = (float)sin(angle);
        }
    return table;
}
// places by token, and where each token's run begins
typedef struct { std::vector<int32_t> order, first; } Runs;
static Runs runs_of(const std::vector<int32_t> &tokens) {
    Runs r;
    for (size_t i = 0; i < tokens.size(); i++) r.order.push_back((int32_t)i);
    std::stable_sort(r.order.begin(), r.order.end(), [&](int32_t a, int32_t b) { return tokens[(size_t)a] < tokens[(size_t)b]; });
    for (size_t i = 0; i < r.order.size(); i++) if (i == 0 || tokens[(size_t)r.order[i]] != tokens[(size_t)r.order[i - 1]]) r.first.push_back((int32_t)i);
    r.first.push_back((int32_t)tokens.size());
    return r;
}
// as text has them: the frequent ones very often
static std::vector<int32_t> text_tokens(int64_t N, int64_t V) {
    std::vector<int32_t> tokens((size_t)N);
    for (int64_t i = 0; i < N; i++) tokens[(size_t)i] = (int32_t)std::min<double>((double)V - 1, exp((double)random_bits(7, (uint64_t)i) / 4294967296.0 * log((double)V)) - 1);
    return tokens;
}
// n different numbers below `below`
static std::vector<int32_t> different(int64_t n, int64_t below, uint64_t seed) {
    std::vector<int32_t> x((size_t)below);
    for (int64_t i = 0; i < below; i++) x[(size_t)i] = (int32_t)i;
    for (int64_t i = 0; i < n; i++) std::swap(x[(size_t)i], x[(size_t)(i + random_bits(seed, (uint64_t)i) % (uint64_t)(below - i))]);
    x.resize((size_t)n);
    return x;
}

static void check_rope(int64_t N, int64_t NH, int64_t NKV, int64_t HD) {
    char shape[96];
    snprintf(shape, sizeof shape, "rope N %lld heads %lld/%lld of %lld", (long long)N, (long long)NH, (long long)NKV, (long long)HD);
    const int64_t W = (NH + 2 * NKV) * HD, T = 5000;
    const std::vector<float> table = rope_table(T, HD);
    const std::vector<int32_t> positions = random_integers(N, T, 2);
    Array<float> device_table(table);
    Array<int32_t> device_positions(positions);
    for (int sign : {1, -1}) {
        Array<real> qkv(N * W, 1, 1.0f);
        const std::vector<real> before = qkv.get();
        std::vector<double> expected = qkv.numbers();
        for (int64_t n = 0; n < N; n++)
            for (int64_t h = 0; h < NH + NKV; h++)
                for (int64_t j = 0; j < HD / 2; j++) {
                    double *x = &expected[(size_t)(n * W + h * HD + j)], a = x[0], b = x[HD / 2];
                    const float *cs = &table[(size_t)(positions[(size_t)n] * HD + 2 * j)];
                    x[0] = a * cs[0] - sign * b * cs[1];
                    x[HD / 2] = b * cs[0] + sign * a * cs[1];
                }
        (sign > 0 ? rope_forward : rope_backward)(qkv.at, device_table.at, device_positions.at, N, NH, NKV, HD, 0);
        expect_close(qkv, expected, sign > 0 ? "forward" : "backward", shape);
        const std::vector<real> after = qkv.get();
        bool kept = true;
        for (int64_t n = 0; n < N; n++) kept = kept && memcmp(&after[(size_t)(n * W + (NH + NKV) * HD)], &before[(size_t)(n * W + (NH + NKV) * HD)], (size_t)(NKV * HD) * sizeof(real)) == 0;
        expect(kept, "the values were turned too", shape);
    }
}

static void check_rows(int64_t n, int64_t rows, int64_t C) {
    char shape[96];
    snprintf(shape, sizeof shape, "rows n %lld of %lld, C %lld", (long long)n, (long long)rows, (long long)C);
    Array<real> table(rows * C, 1, 1.0f), out(n * C), embedded(n * C), scattered(rows * C, 2, 1.0f);
    const std::vector<int32_t> index = random_integers(n, rows, 3), places = different(n, rows, 4);
    Array<int32_t> device_index(index), device_places(places);
    const std::vector<real> x = table.get();
    std::vector<real> gathered((size_t)(n * C)), expected = scattered.get();
    for (int64_t i = 0; i < n; i++) memcpy(&gathered[(size_t)(i * C)], &x[(size_t)(index[(size_t)i] * C)], (size_t)C * sizeof(real));
    for (int64_t i = 0; i < n; i++) memcpy(&expected[(size_t)(places[(size_t)i] * C)], &gathered[(size_t)(i * C)], (size_t)C * sizeof(real));
    gather_rows(out.at, table.at, device_index.at, n, C, 0);
    embedding_forward(embedded.at, table.at, device_index.at, n, C, 0);
    scatter_rows(scattered.at, out.at, device_places.at, n, C, 0);
    expect(same_bits(out.get(), gathered) && out.fences_stand(), "gather_rows", shape);
    expect(same_bits(embedded.get(), gathered) && embedded.fences_stand(), "embedding_forward", shape);
    expect(same_bits(scattered.get(), expected) && scattered.fences_stand(), "scatter_rows", shape);
    Array<float> numbers(n, 5, 1.0f), to(rows, 6, 1.0f);
    const std::vector<float> from = numbers.get();
    std::vector<float> want = to.get();
    for (int64_t i = 0; i < n; i++) want[(size_t)places[(size_t)i]] = from[(size_t)i];
    scatter_numbers(to.at, numbers.at, device_places.at, n, 0);
    expect(same_bits(to.get(), want) && to.fences_stand(), "scatter_numbers", shape);
}

static void check_embedding_backward(const std::vector<int32_t> &tokens, int64_t V, int64_t C, const char *name) {
    char shape[128];
    const int64_t N = (int64_t)tokens.size();
    snprintf(shape, sizeof shape, "embedding_backward N %lld V %lld C %lld, %s", (long long)N, (long long)V, (long long)C, name);
    const Runs runs = runs_of(tokens);
    Array<real> dx(N * C, 1, 1.0f);
    Array<float> dtable(V * C, 2, 1.0f), again(V * C, 2, 1.0f);
    Array<bf16> small(V * C, 2, 1.0f), small_again(V * C, 2, 1.0f);
    Array<int32_t> order(runs.order), first(runs.first), device_tokens(tokens);
    const int64_t unique = (int64_t)runs.first.size() - 1;
    const std::vector<double> d = dx.numbers();
    std::vector<double> expected = dtable.numbers(), exact = small.numbers();
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0; c < C; c++) { expected[(size_t)(tokens[(size_t)n] * C + c)] += d[(size_t)(n * C + c)]; exact[(size_t)(tokens[(size_t)n] * C + c)] += d[(size_t)(n * C + c)]; }
    Array<uint8_t> touched(std::vector<uint8_t>((size_t)V, 0));
    std::vector<uint8_t> occurs((size_t)V, 0);
    for (int32_t t : tokens) occurs[(size_t)t] = 1;
    embedding_backward(dtable.at, touched.at, dx.at, order.at, first.at, device_tokens.at, unique, C, 0);
    expect_close(dtable, expected, "dtable", shape);
    expect(touched.get() == occurs && touched.fences_stand(), "touched", shape);
    embedding_backward(again.at, NULL, dx.at, order.at, first.at, device_tokens.at, unique, C, 0);
    expect(same_bits(dtable.get(), again.get()), "dtable: other bits in a second run", shape);

    // the sum in bf16: at most one unit in the last place away, up as often as down
    Array<StepState> state(1);
    CUDA_CHECK(cudaMemset(state.at, 0, sizeof(StepState)));
    embedding_backward_bf16(small.at, NULL, dx.at, order.at, first.at, device_tokens.at, unique, state.at, 5, C, 0);
    embedding_backward_bf16(small_again.at, NULL, dx.at, order.at, first.at, device_tokens.at, unique, state.at, 5, C, 0);
    expect(same_bits(small.get(), small_again.get()), "bf16 dtable: other bits in a second run", shape);
    expect(small.fences_stand(), "bf16 dtable: written outside its shape", shape);
    const std::vector<double> x = small.numbers();
    double bias = 0, count = 0;
    bool near = true;
    for (size_t i = 0; i < x.size(); i++) {
        int exponent;
        frexp(exact[i], &exponent);
        const double unit = ldexp(1, exponent - 8), e = (x[i] - exact[i]) / unit;
        near = near && fabs(e) <= 1.001 + 1e-4 / unit;   // the float sum has an error of its own, which shows where the result is near 0
        if (unit > 1e-3) { bias += e; count++; }
    }
    expect(near, "bf16 dtable: a number more than one unit in the last place away", shape);
    expect(fabs(bias) <= 4 * 0.41 * sqrt(count) + 1, "bf16 dtable: rounding leans to one side", shape);
}

static void check_bias(int64_t N, int64_t O) {
    char shape[96];
    snprintf(shape, sizeof shape, "bias_backward N %lld O %lld", (long long)N, (long long)O);
    Array<real> dy(N * O, 1, 1.0f);
    Array<float> dbias(O, 2, 1.0f), partial(bias_partial_count(O));
    const std::vector<double> d = dy.numbers();
    std::vector<double> added = dbias.numbers(), alone((size_t)O, 0.0);
    for (int64_t n = 0; n < N; n++) for (int64_t o = 0; o < O; o++) { added[(size_t)o] += d[(size_t)(n * O + o)]; alone[(size_t)o] += d[(size_t)(n * O + o)]; }
    bias_backward(dbias.at, partial.at, dy.at, true, N, O, 0);
    expect_close(dbias, added, "dbias, added to", shape);
    bias_backward(dbias.at, partial.at, dy.at, false, N, O, 0);
    expect_close(dbias, alone, "dbias, written", shape);
    const std::vector<float> first = dbias.get();
    bias_backward(dbias.at, partial.at, dy.at, false, N, O, 0);
    expect(same_bits(first, dbias.get()), "dbias: other bits in a second run", shape);
    expect(partial.fences_stand(), "partial: written outside its shape", shape);
}

static void checks_of(bool tiny) {
    for (int64_t HD : {8, 24, 64, 80, 128}) for (int64_t N : {1, 77}) check_rope(N, 6, 2, HD);
    for (int64_t C : {8, 1000}) for (int64_t n : {1, 77}) check_rows(n, 200, C);
    check_embedding_backward(text_tokens(77, 50), 50, 200, "as in text");
    for (int64_t N : {1, 3, 129}) check_bias(N, 200);
    if (tiny) return;
    check_rope(2000, 32, 8, 128); check_rope(3, 1, 1, 256); check_rope(1000, 14, 2, 64);
    for (int64_t C : {64, 896, 4096, 8192}) check_rows(1000, 3000, C);
    for (int64_t C : {8, 1536, 4096}) {
        check_embedding_backward(text_tokens(2000, 3000), 3000, C, "as in text");
        check_embedding_backward(std::vector<int32_t>(777, 12), 20, C, "one token");
        check_embedding_backward(different(300, 400, 9), 400, C, "each once");
    }
    for (int64_t N : {1, 127, 128, 130, 8192}) for (int64_t O : {8, 2048, 2056, 6144}) check_bias(N, O);
}

int main(int argc, char **argv) {
    program_name = "elementwise";
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "tiny") == 0 || strcmp(what, "check") == 0) {
        checks_of(strcmp(what, "tiny") == 0);
        return check_result();
    }
    const Ladder l = ladder_begin(argc, argv);
    const int64_t N = 8192, C = 4096, V = 128256, NH = 32, NKV = 8, HD = 128, W = (NH + 2 * NKV) * HD;
    const double row_bytes = (double)C * sizeof(real);
    const std::vector<int32_t> tokens = text_tokens(N, V);
    const Runs runs = runs_of(tokens);
    const int64_t unique = (int64_t)runs.first.size() - 1;
    std::vector<int32_t> positions((size_t)N);
    for (int64_t n = 0; n < N; n++) positions[(size_t)n] = (int32_t)n;
    Array<real> qkv(SETS * N * W, 1, 1.0f), table(V * C, 2, 1.0f), x(SETS * N * C, 3, 1.0f), out(SETS * N * C);
    Array<float> cosines(rope_table(N, HD)), dtable(V * C, 4, 1.0f), dbias(W), partial(bias_partial_count(W));
    Array<int32_t> device_tokens(tokens), device_positions(positions), places(different(N, N, 5)), order(runs.order), first(runs.first);
    printf("\n%lld tokens, %lld different ones, the most frequent %d times\n", (long long)N, (long long)unique, [&] { int most = 0; for (int64_t i = 0; i < unique; i++) most = std::max(most, runs.first[(size_t)i + 1] - runs.first[(size_t)i]); return most; }());
    ladder_title("small kernels (errors: elementwise check)");
    ladder_rung(&l, 1, "rope, 8192 tokens, 32/8 heads of 128: q and k in and out", 2.0 * (double)(N * (NH + NKV) * HD) * sizeof(real), 0, [&](int set) { rope_forward(qkv.at + set * N * W, cosines.at, device_positions.at, N, NH, NKV, HD, 0); });
    ladder_rung(&l, 2, "embedding forward, 8192 x 4096: rows in and out", 2.0 * (double)N * row_bytes, 0, [&](int set) { embedding_forward(out.at + set * N * C, table.at, device_tokens.at, N, C, 0); });
    ladder_rung(&l, 3, "gather_rows, 8192 x 4096, a permutation", 2.0 * (double)N * row_bytes, 0, [&](int set) { gather_rows(out.at + set * N * C, x.at + set * N * C, places.at, N, C, 0); });
    ladder_rung(&l, 4, "scatter_rows, 8192 x 4096, a permutation", 2.0 * (double)N * row_bytes, 0, [&](int set) { scatter_rows(out.at + set * N * C, x.at + set * N * C, places.at, N, C, 0); });
    ladder_rung(&l, 5, "embedding backward, 8192 x 4096, tokens as in text: dx in, rows of dtable in and out", (double)N * row_bytes + 8.0 * (double)(unique * C), 0, [&](int set) { embedding_backward(dtable.at, NULL, x.at + set * N * C, order.at, first.at, device_tokens.at, unique, C, 0); });
    ladder_rung(&l, 6, "bias backward, 8192 x 6144: dy in", (double)(N * W) * sizeof(real), 0, [&](int set) { bias_backward(dbias.at, partial.at, qkv.at + set * N * W, false, N, W, 0); });
    return 0;
}
