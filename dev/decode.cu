// decode.cu: the ladder of findap/kernels/decode.cuh: attention over pages, and a few rows times a matrix; and the check of sample.cuh. How to call it: dev/ladder.cuh.
// Bytes that must move: of attention the keys and values of every row, 4 HD a token and key/value head; of a product the matrix.
#include "ladder.cuh"                      // defines: Array, ladder_*, expect*
#include "../findap/kernels/decode.cuh"    // defines: rope_store, decode_attention, matvec, matvec_swiglu, rows_swiglu
#include "../findap/kernels/matmul.cuh"    // defines: Gemm, gemm_run, shape_generate, matmul_forward
#include "../findap/kernels/rmsnorm.cuh"   // defines: rmsnorm_forward
#include "../findap/kernels/sample.cuh"    // defines: sample_tokens, sample_settings
#include <memory>                          // defines: std::unique_ptr

// ---------------------------------------------------------------------------------------------------------------------
// attention: rows of given lengths, pages dealt out in random order; where no token lies there is NaN

struct Problem {
    int64_t N, NH, NKV, HD, W, longest, max_pages, scratch;
    std::vector<int32_t> length;
    std::vector<double> q, k, v;                     // (N, NH, HD); (N, longest, NKV, HD), read back as the cache has them
    std::unique_ptr<Array<real>> query, keys, values;
    std::unique_ptr<Array<int32_t>> table, positions, sequence;
    std::unique_ptr<Array<float>> part;
    PagedCall call(int64_t first, int64_t rows, int64_t sees) const { return {rows, max_pages, rows, rows, sees, NULL, positions->at + first, sequence->at + first, table->at, NULL, NULL}; }
};
static Problem problem(int64_t NH, int64_t NKV, int64_t HD, const std::vector<int32_t> &length, bool numbers) {
    Problem p;
    p.N = (int64_t)length.size(); p.NH = NH; p.NKV = NKV; p.HD = HD; p.W = (NH + 2 * NKV) * HD; p.length = length;
    p.longest = std::max<int64_t>(1, *std::max_element(length.begin(), length.end()));
    p.max_pages = ceil_div(p.longest, PAGE_TOKENS);
    p.scratch = decode_scratch(p.N, NH, HD, p.longest);
    const int64_t pages = p.N * p.max_pages;
    std::vector<int32_t> table((size_t)pages);
    for (int64_t i = 0; i < pages; i++) table[(size_t)i] = (int32_t)i;
    for (int64_t i = pages - 1; i > 0; i--) std::swap(table[(size_t)i], table[(size_t)(random_bits(7, (uint64_t)i) % (uint64_t)(i + 1))]);
    std::vector<int32_t> at(length), own((size_t)p.N);
    for (int64_t n = 0; n < p.N; n++) { at[(size_t)n]--; own[(size_t)n] = (int32_t)n; }
    p.table.reset(new Array<int32_t>(table)); p.positions.reset(new Array<int32_t>(at)); p.sequence.reset(new Array<int32_t>(own));  p.query.reset(new Array<real>(p.N * p.W, 1, 1.0f));
    p.keys.reset(new Array<real>(pages * NKV * PAGE_TOKENS * HD)); p.values.reset(new Array<real>(pages * NKV * PAGE_TOKENS * HD));
    p.part.reset(new Array<float>(std::max<int64_t>(1, p.scratch)));
    std::vector<float> turn((size_t)(p.longest * HD), 0.0f);   // no turn at all: cosine 1, sine 0
    for (size_t i = 0; i < turn.size(); i += 2) turn[i] = 1.0f;
    Array<float> still(turn);
    // every row's token t in one go: a batch of N new tokens, as generating makes them
    for (int64_t t = 0; t < p.longest; t++) {
        Array<real> qkv(p.N * p.W, 100 + (uint64_t)t, 1.0f);
        std::vector<int32_t> now((size_t)p.N), of((size_t)p.N);
        int64_t rows = 0;   // those that are that long, in the order of the batch
        for (int64_t n = 0; n < p.N; n++) if (t < length[(size_t)n]) { now[(size_t)rows] = (int32_t)t; of[(size_t)rows++] = (int32_t)n; }
        Array<int32_t> positions(now), sequence(of);
        const PagedCall c = {rows, p.max_pages, rows, rows, t + 1, NULL, positions.at, sequence.at, p.table->at, NULL, NULL};
        rope_store(qkv.at, p.keys->at, p.values->at, still.at, &c, NH, NKV, HD, 0);
        if (!numbers) continue;
        const std::vector<double> x = qkv.numbers();
        if (t == 0) { p.k.assign((size_t)(p.N * p.longest * NKV * HD), 0); p.v = p.k; }
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < NKV * HD; i++) {
                const size_t to = (size_t)((of[(size_t)r] * p.longest + t) * NKV * HD + i);
                p.k[to] = x[(size_t)(r * p.W + NH * HD + i)];
                p.v[to] = x[(size_t)(r * p.W + (NH + NKV) * HD + i)];
            }
    }
    p.q = p.query->numbers();
    CUDA_CHECK(cudaDeviceSynchronize());
    return p;
}
static std::vector<double> reference(const Problem &p) {
    std::vector<double> out((size_t)(p.N * p.NH * p.HD));
    #pragma omp parallel for collapse(2)
    for (int64_t n = 0; n < p.N; n++)
        for (int64_t h = 0; h < p.NH; h++) {
            const int64_t kv = h / (p.NH / p.NKV), T = p.length[(size_t)n];
            std::vector<double> s((size_t)T);
            double most = -INFINITY, sum = 0;
            for (int64_t t = 0; t < T; t++) {
                double dot = 0;
                for (int64_t d = 0; d < p.HD; d++) dot += p.q[(size_t)(n * p.W + h * p.HD + d)] * p.k[(size_t)(((n * p.longest + t) * p.NKV + kv) * p.HD + d)];
                s[(size_t)t] = dot / sqrt((double)p.HD);
                most = std::max(most, s[(size_t)t]);
            }
            for (double &x : s) { x = exp(x - most); sum += x; }
            for (int64_t d = 0; d < p.HD; d++) {
                double x = 0;
                for (int64_t t = 0; t < T; t++) x += s[(size_t)t] * p.v[(size_t)(((n * p.longest + t) * p.NKV + kv) * p.HD + d)];
                out[(size_t)((n * p.NH + h) * p.HD + d)] = x / sum;
            }
        }
    return out;
}
static void attend(const Problem &p, real *out) {
    const PagedCall c = p.call(0, p.N, p.longest);
    decode_attention(out, p.query->at, p.keys->at, p.values->at, NULL, &c, p.part->at, p.scratch, p.NH, p.NKV, p.HD, 0);
}
__global__ static void count_differences(int32_t *count, const real *a, const real *b, int64_t n) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        if (__bfloat16_as_ushort(a[i]) != __bfloat16_as_ushort(b[i])) atomicAdd(count, 1);
}
static void check_attention(int64_t NH, int64_t NKV, int64_t HD, const std::vector<int32_t> &length, int launches = 0) {
    char shape[160];
    snprintf(shape, sizeof shape, "attention of %lld rows, %lld/%lld heads of %lld, the last %d tokens long", (long long)length.size(), (long long)NH, (long long)NKV, (long long)HD, length.back());
    const Problem p = problem(NH, NKV, HD, length, true);
    Array<real> out(p.N * NH * HD), again(p.N * NH * HD);
    attend(p, out.at);
    const std::vector<double> want = reference(p);
    const Difference d = difference(out, want);   // P is rounded to bf16 before it meets V: 2^-9 of each term
    char text[96];
    snprintf(text, sizeof text, "error %.2e, worst number %.2e", d.norm, d.worst);
    expect(d.norm <= 3e-3 && d.worst <= 3e-2 && out.fences_stand() && p.part->fences_stand(), text, shape);
    attend(p, again.at);
    expect(same_bits(out.get(), again.get()), "other bits the second time", shape);
    decode_without_tma = true;
    attend(p, again.at);
    CUDA_CHECK(cudaDeviceSynchronize());
    decode_without_tma = false;
    expect(same_bits(out.get(), again.get()), "other bits without TMA", shape);
    // each row alone: the same bits
    bool same = true;
    const std::vector<real> all = out.get();
    for (int64_t n = 0; n < p.N; n++) {
        Array<real> one(NH * HD);
        const int64_t longest = length[(size_t)n];
        Array<float> part(std::max<int64_t>(1, decode_scratch(1, NH, HD, longest)));
        const PagedCall c = p.call(n, 1, longest);
        decode_attention(one.at, p.query->at + n * p.W, p.keys->at, p.values->at, NULL, &c, part.at, decode_scratch(1, NH, HD, longest), NH, NKV, HD, 0);
        same = same && same_bits(one.get(), std::vector<real>(all.begin() + n * NH * HD, all.begin() + (n + 1) * NH * HD));
    }
    expect(same, "a row alone has other bits", shape);
    // the last token's q and k turned by attention itself, k and v put into their pages by it: as by rope_store, in the output and in the pages
    std::vector<float> table((size_t)(p.longest * HD));
    for (size_t i = 0; i < table.size(); i += 2) { table[i] = cosf(0.01f * (float)i); table[i + 1] = sinf(0.01f * (float)i); }
    Array<float> turn(table);
    Array<real> qkv(p.N * p.W), fresh(p.N * NH * HD);
    qkv.copy(*p.query);
    const PagedCall c = p.call(0, p.N, p.longest);
    const std::vector<real> keys = p.keys->get(), values = p.values->get();
    decode_attention(fresh.at, p.query->at, p.keys->at, p.values->at, turn.at, &c, p.part->at, p.scratch, NH, NKV, HD, 0);
    CUDA_CHECK(cudaDeviceSynchronize());
    const std::vector<real> keys_fresh = p.keys->get(), values_fresh = p.values->get();
    p.keys->put(keys); p.values->put(values);
    rope_store(qkv.at, p.keys->at, p.values->at, turn.at, &c, NH, NKV, HD, 0);
    decode_attention(again.at, qkv.at, p.keys->at, p.values->at, NULL, &c, p.part->at, p.scratch, NH, NKV, HD, 0);
    CUDA_CHECK(cudaDeviceSynchronize());
    expect(same_bits(fresh.get(), again.get()) && fresh.fences_stand(), "with RoPE in it other bits than behind rope_store", shape);
    expect(same_bits(keys_fresh, p.keys->get()) && same_bits(values_fresh, p.values->get()), "with RoPE in it other pages than by rope_store", shape);
    if (launches) {   // what does not depend on time has the same bits each time; one launch begins before the one before has ended
        Array<int32_t> differ(1);
        CUDA_CHECK(cudaMemset(differ.at, 0, sizeof(int32_t)));
        for (int k = 0; k < launches; k++) {
            decode_without_tma = k % 8 == 7;
            decode_attention(again.at, p.query->at, p.keys->at, p.values->at, turn.at, &c, p.part->at, p.scratch, NH, NKV, HD, 0);
            count_differences<<<64, 256>>>(differ.at, fresh.at, again.at, p.N * NH * HD);
        }
        decode_without_tma = false;
        expect(differ.get()[0] == 0, "other bits in one of many launches", shape);
    }
}

// Rows of prompts, side by side in tiles: each has the bits that it has alone. pieces: (first position, tokens) of each sequence
static void check_tiles(int64_t NH, int64_t NKV, int64_t HD, const std::vector<std::pair<int, int>> &pieces, int launches = 0) {
    char shape[160];
    snprintf(shape, sizeof shape, "prompts of %lld sequences, %lld/%lld heads of %lld", (long long)pieces.size(), (long long)NH, (long long)NKV, (long long)HD);
    std::vector<int32_t> length, positions, sequence, tiles;
    const int64_t W = (NH + 2 * NKV) * HD, most = decode_tile_tokens(NH, NKV);
    for (auto &x : pieces) length.push_back(x.first + x.second);
    const Problem p = problem(NH, NKV, HD, length, false);
    for (size_t s = 0; s < pieces.size(); s++)
        for (int t = 0; t < pieces[s].second; t++) {
            if (t % most == 0) tiles.push_back((int32_t)positions.size());
            positions.push_back(pieces[s].first + t);
            sequence.push_back((int32_t)s);
        }
    const int64_t N = (int64_t)positions.size(), num_tiles = (int64_t)tiles.size();
    tiles.push_back((int32_t)N);
    Array<int32_t> at(positions), of(sequence), tile(tiles);
    Array<real> qkv(N * W, 9, 1.0f), out(N * NH * HD), goes(N * NH * HD);
    Array<float> part(std::max<int64_t>(1, decode_scratch(N, NH, HD, p.longest)));
    int64_t alone_first = 0;
    while (alone_first < num_tiles && tiles[(size_t)alone_first + 1] - tiles[(size_t)alone_first] == 1) alone_first++;
    const PagedCall c = {N, p.max_pages, num_tiles, alone_first, p.longest, NULL, at.at, of.at, p.table->at, tile.at, tiles.data()};
    decode_attention(out.at, qkv.at, p.keys->at, p.values->at, NULL, &c, part.at, decode_scratch(N, NH, HD, p.longest), NH, NKV, HD, 0);
    decode_attention(goes.at, qkv.at, p.keys->at, p.values->at, NULL, &c, part.at, decode_scratch(2 * most, NH, HD, p.longest), NH, NKV, HD, 0);   // two tiles at a time
    CUDA_CHECK(cudaDeviceSynchronize());
    expect(same_bits(out.get(), goes.get()) && out.fences_stand(), "other bits in several goes", shape);
    decode_little_shared = true;
    decode_attention(goes.at, qkv.at, p.keys->at, p.values->at, NULL, &c, part.at, decode_scratch(N, NH, HD, p.longest), NH, NKV, HD, 0);
    decode_little_shared = false;
    CUDA_CHECK(cudaDeviceSynchronize());
    expect(same_bits(out.get(), goes.get()), "other bits with little shared memory", shape);
    if (launches) {   // what does not depend on time has the same bits each time
        Array<int32_t> differ(1);
        CUDA_CHECK(cudaMemset(differ.at, 0, sizeof(int32_t)));
        for (int k = 0; k < launches; k++) {
            decode_little_shared = k % 2;
            decode_attention(goes.at, qkv.at, p.keys->at, p.values->at, NULL, &c, part.at, decode_scratch(N, NH, HD, p.longest), NH, NKV, HD, 0);
            count_differences<<<64, 256>>>(differ.at, out.at, goes.at, N * NH * HD);
        }
        decode_little_shared = false;
        expect(differ.get()[0] == 0, "other bits in one of many launches", shape);
    }
    const std::vector<real> all = out.get();
    bool same = true;
    for (int64_t n = 0; n < N; n++) {
        Array<real> one(NH * HD);
        const int64_t longest = positions[(size_t)n] + 1;
        Array<float> own(std::max<int64_t>(1, decode_scratch(1, NH, HD, longest)));
        const PagedCall alone = {1, p.max_pages, 1, 1, longest, NULL, at.at + n, of.at + n, p.table->at, NULL, NULL};
        decode_attention(one.at, qkv.at + n * W, p.keys->at, p.values->at, NULL, &alone, own.at, decode_scratch(1, NH, HD, longest), NH, NKV, HD, 0);
        same = same && same_bits(one.get(), std::vector<real>(all.begin() + n * NH * HD, all.begin() + (n + 1) * NH * HD));
    }
    expect(same, "a row alone has other bits", shape);
}

// ---------------------------------------------------------------------------------------------------------------------
// a few rows times a matrix

static void matvec_of(real *y, int64_t ldy, const real *x, const real *w, const real *bias, const real *residual, float scale, int64_t N, int64_t K, int64_t O, bool few = false) {
    const Matvec m = {y, x, w, bias, residual, NULL, scale, 0, K, ldy, (int)N, (int)K, (int)O};
    if (few) matvec_few(&m, 0); else matvec(&m, 0);
}
static void check_matvec(int64_t N, int64_t K, int64_t O, bool bias, bool residual) {
    char shape[160];
    snprintf(shape, sizeof shape, "matvec N %lld K %lld O %lld%s%s", (long long)N, (long long)K, (long long)O, bias ? ", bias" : "", residual ? ", residual" : "");
    Array<real> x(N * K, 1, 1.0f), w(O * K, 2, 0.05f), b(O, 3, 1.0f), r(N * O, 4, 1.0f), y(N * O), one(O);
    matvec_of(y.at, O, x.at, w.at, bias ? b.at : NULL, residual ? r.at : NULL, 1.0f, N, K, O);
    const std::vector<double> xs = x.numbers(), ws = w.numbers(), bs = b.numbers(), rs = r.numbers();
    std::vector<double> want((size_t)(N * O));
    #pragma omp parallel for collapse(2)
    for (int64_t n = 0; n < N; n++)
        for (int64_t o = 0; o < O; o++) {
            double s = (bias ? bs[(size_t)o] : 0) + (residual ? rs[(size_t)(n * O + o)] : 0);
            for (int64_t k = 0; k < K; k++) s += xs[(size_t)(n * K + k)] * ws[(size_t)(o * K + k)];
            want[(size_t)(n * O + o)] = s;
        }
    expect_close(y, want, "y", shape);
    const std::vector<real> all = y.get();
    bool same = true;
    for (int64_t n = 0; n < N; n++) {
        matvec_of(one.at, O, x.at + n * K, w.at, bias ? b.at : NULL, residual ? r.at + n * O : NULL, 1.0f, 1, K, O);
        same = same && same_bits(one.get(), std::vector<real>(all.begin() + n * O, all.begin() + (n + 1) * O));
        if (n > 0) continue;
        matvec_of(one.at, O, x.at, w.at, bias ? b.at : NULL, residual ? r.at : NULL, 1.0f, 1, K, O, true);   // and by the kernel for a few, which on Hopper no longer gets it
        same = same && same_bits(one.get(), std::vector<real>(all.begin(), all.begin() + O));
    }
    expect(same && one.fences_stand(), "a row alone has other bits", shape);
}

// the library's unsplit sums, of any number of rows, have matvec's bits
static void check_unsplit(Gemm *g, int64_t N, int64_t K, int64_t O, bool residual) {
    char shape[160];
    snprintf(shape, sizeof shape, "unsplit N %lld K %lld O %lld%s", (long long)N, (long long)K, (long long)O, residual ? ", residual" : "");
    Array<real> x(N * K, 1, 1.0f), w(O * K, 2, 0.05f), r(N * O, 4, 1.0f), y(N * O), z(N * O);
    const float scale = residual ? 1.0f : 1.7f;
    gemm_run(g, shape_generate(N, K, O, K, O, residual, false, scale), w.at, x.at, r.at, y.at, NULL, 0);
    for (int64_t n = 0; n < N; n += 8) matvec_of(z.at + n * O, O, x.at + n * K, w.at, NULL, residual ? r.at + n * O : NULL, scale, std::min<int64_t>(8, N - n), K, O);
    CUDA_CHECK(cudaDeviceSynchronize());
    const std::vector<real> a = y.get(), b = z.get();
    int64_t differ = 0;
    for (size_t i = 0; i < a.size(); i++) differ += memcmp(&a[i], &b[i], sizeof(real)) != 0;
    char text[96];
    snprintf(text, sizeof text, "%lld of %lld numbers differ", (long long)differ, (long long)a.size());
    expect(differ == 0 && z.fences_stand(), text, shape);
}
static void check_swiglu(int64_t N, int64_t K, int64_t F) {
    char shape[160];
    snprintf(shape, sizeof shape, "matvec_swiglu N %lld K %lld F %lld", (long long)N, (long long)K, (long long)F);
    Array<real> x(N * K, 1, 1.0f), w(2 * F * K, 2, 0.05f), gate_up(N * 2 * F), y(N * F), z(N * F);
    matvec_of(gate_up.at, 2 * F, x.at, w.at, NULL, NULL, 1.0f, N, K, 2 * F);
    swiglu_forward(y.at, gate_up.at, N, F, 0);
    Matvec m = {z.at, x.at, w.at, NULL, NULL, NULL, 1.0f, 1e-5f, K, F, (int)N, (int)K, (int)F};
    matvec_swiglu(&m, 0);
    CUDA_CHECK(cudaDeviceSynchronize());
    expect(same_bits(y.get(), z.get()) && z.fences_stand(), "other bits than in two kernels", shape);
    matvec_few_swiglu(&m, 0);
    CUDA_CHECK(cudaDeviceSynchronize());
    expect(same_bits(y.get(), z.get()) && z.fences_stand(), "other bits than in two kernels, by the kernel for a few", shape);
    if (!matvec_norm_possible(N, K)) return;
    Array<real> weight(K, 3, 1.0f), normed(N * K), p(N * 2 * F), q(N * 2 * F);
    Array<float> rstd(N);
    rmsnorm_forward(normed.at, rstd.at, x.at, weight.at, N, K, 1e-5f, 0);
    matvec_of(p.at, 2 * F, normed.at, w.at, NULL, NULL, 1.0f, N, K, 2 * F);
    swiglu_forward(y.at, p.at, N, F, 0);
    m.norm = weight.at;
    matvec_swiglu(&m, 0);
    m.y = q.at; m.ldy = 2 * F; m.O = (int)(2 * F);
    matvec(&m, 0);
    CUDA_CHECK(cudaDeviceSynchronize());
    expect(same_bits(y.get(), z.get()) && same_bits(p.get(), q.get()) && z.fences_stand() && q.fences_stand(), "with the norm in it other bits than in several kernels", shape);
}

// many rows: the bits of the library's unsplit product and swiglu_forward; `launches` of it, behind a kernel that it may overtake
static void check_rows_swiglu(Gemm *g, int64_t N, int64_t K, int64_t F, int launches) {
    if (!rows_swiglu_possible(N, K, F)) return;
    char shape[160];
    snprintf(shape, sizeof shape, "rows_swiglu N %lld K %lld F %lld", (long long)N, (long long)K, (long long)F);
    Array<real> x(N * K, 1, 1.0f), w(2 * F * K, 2, 0.05f), gate_up(N * 2 * F), y(N * F), z(N * F), weight(K, 3, 1.0f), normed(N * K);
    Array<float> rstd(N);
    Array<int32_t> differences(std::vector<int32_t>(1, 0));
    rmsnorm_forward(normed.at, rstd.at, x.at, weight.at, N, K, 1e-5f, 0);
    gemm_run(g, shape_generate(N, K, 2 * F, K, 2 * F, false, false, 1.0f), w.at, normed.at, NULL, gate_up.at, NULL, 0);
    swiglu_forward(y.at, gate_up.at, N, F, 0);
    for (int i = 0; i < launches; i++) {
        CUDA_CHECK(cudaMemsetAsync(normed.at, 0xff, (size_t)(N * K) * sizeof(real), 0));
        CUDA_CHECK(cudaMemsetAsync(z.at, 0xff, (size_t)(N * F) * sizeof(real), 0));
        rmsnorm_forward(normed.at, rstd.at, x.at, weight.at, N, K, 1e-5f, 0);
        rows_swiglu(z.at, normed.at, w.at, N, K, F, 0);
        count_differences<<<256, 256>>>(differences.at, y.at, z.at, N * F);
    }
    CUDA_CHECK(cudaDeviceSynchronize());
    char text[96];
    snprintf(text, sizeof text, "%d numbers have other bits than in two kernels, in %d launches", differences.get()[0], launches);
    expect(differences.get()[0] == 0 && z.fences_stand() && normed.fences_stand(), text, shape);
}

// the next tokens are sample.h's, for one setting, rows of logits of which some are equal
static void check_sample(int64_t n, int64_t V, Sampling sampling) {
    char shape[200];
    snprintf(shape, sizeof shape, "sample V %lld temperature %g top-k %lld top-p %g min-p %g penalty %g", (long long)V, sampling.temperature, (long long)sampling.top_k, sampling.top_p, sampling.min_p, sampling.repetition_penalty);
    const int64_t ld = ceil_div(V, 8) * 8;
    Array<real> logits(n * ld, 21, 3.0f);
    std::vector<real> host = logits.get();
    for (real &x : host) x = from_float<real>(rintf(to_float(x) * 8) / 8);
    logits.put(host);
    const std::vector<int32_t> seen = random_integers(n * 40, V, 22);
    std::vector<SampleRow> rows;
    std::vector<SampleSettings> settings;
    for (int64_t i = 0; i < n; i++) {
        const SampleRow r = {sampling, 77 + (uint64_t)i, i + 3, seen.data() + i * 40, 40};
        rows.push_back(r);
        settings.push_back(sample_settings(&r, V, (int32_t)(i * 40)));
    }
    SampleSettings *d;
    CUDA_CHECK(cudaMalloc((void **)&d, settings.size() * sizeof *d));
    CUDA_CHECK(cudaMemcpy(d, settings.data(), settings.size() * sizeof *d, cudaMemcpyHostToDevice));
    Array<int32_t> all_seen(seen), out(n);
    sample_tokens(out.at, logits.at, ld, d, all_seen.at, sampling.repetition_penalty != 1, n, V, 0);
    CUDA_CHECK(cudaDeviceSynchronize());
    const std::vector<int32_t> got = out.get();
    std::vector<float> z((size_t)V), sorted((size_t)V), row((size_t)V);
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t v = 0; v < V; v++) row[(size_t)v] = to_float(host[(size_t)(i * ld + v)]);
        sample_filter(z.data(), sorted.data(), row.data(), V, &rows[(size_t)i]);
        wrong += sample_draw(z.data(), V, &rows[(size_t)i]) != got[(size_t)i];
    }
    CUDA_CHECK(cudaFree(d));
    char text[96];
    snprintf(text, sizeof text, "%lld of %lld tokens are others than the CPU's", (long long)wrong, (long long)n);
    expect(wrong == 0 && out.fences_stand(), text, shape);
}

// ---------------------------------------------------------------------------------------------------------------------
// rung 1

__global__ static void plain_attention_kernel(real *out, const real *q, const real *k, const real *v, const int32_t *table, const int32_t *positions, int64_t ldq, int64_t max_pages, int NH, int NKV, int HD) {
    const int h = blockIdx.x, n = blockIdx.y, kv = h / (NH / NKV), d = threadIdx.x;   // a thread a dimension, a token at a time
    __shared__ float shared[33];
    float most = -INFINITY, sum = 0, x = 0;
    for (int t = 0; t <= positions[n]; t++) {
        const int64_t at = (((int64_t)table[n * max_pages + t / PAGE_TOKENS] * NKV + kv) * PAGE_TOKENS + t % PAGE_TOKENS) * HD + d;
        const float s = block_sum(to_float(q[n * ldq + h * HD + d]) * to_float(k[at]), shared) / sqrtf((float)HD), high = fmaxf(most, s), fade = expf(most - high), p = expf(s - high);
        sum = sum * fade + p;
        x = x * fade + p * to_float(v[at]);
        most = high;
    }
    out[((int64_t)n * NH + h) * HD + d] = from_float<real>(x / sum);
}
__global__ static void plain_matvec_kernel(real *y, const real *x, const real *w, int64_t N, int64_t K, int64_t O) {
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= N * O) return;
    float s = 0;
    for (int64_t k = 0; k < K; k++) s += to_float(x[i / O * K + k]) * to_float(w[i % O * K + k]);
    y[i] = from_float<real>(s);
}

static void bench_attention(const Ladder *l, int64_t N, int64_t T) {
    const Problem p = problem(32, 8, 128, std::vector<int32_t>((size_t)N, (int32_t)T), false);
    Array<real> out(N * 4096);
    char title[96];
    snprintf(title, sizeof title, "attention, 32/8 heads of 128, %lld rows of %lld tokens", (long long)N, (long long)T);
    ladder_title(title);
    const double bytes = 4.0 * 128 * 8 * (double)(N * T);
    if (ladder_wants(l, 1)) ladder_rung(l, 1, "a block a head, a token at a time", bytes, 0, [&](int) {
        plain_attention_kernel<<<dim3(32, (unsigned)N), 128>>>(out.at, p.query->at, p.keys->at, p.values->at, p.table->at, p.positions->at, p.W, p.max_pages, 32, 8, 128); });
    if (ladder_wants(l, 2)) {   // which is the kernel for prompts, 4 of its 64 rows there
        std::vector<int32_t> tiles((size_t)N + 1);
        for (size_t n = 0; n < tiles.size(); n++) tiles[n] = (int32_t)n;
        Array<int32_t> tile(tiles);
        const int64_t scratch = decode_scratch(std::max(N, decode_tile_tokens(32, 8)), 32, 128, T);   // a tile's at least
        Array<float> part(std::max<int64_t>(1, scratch));
        const PagedCall c = {N, p.max_pages, N, 0, T, NULL, p.positions->at, p.sequence->at, p.table->at, tile.at, tiles.data()};
        ladder_rung(l, 2, "decode.cuh: heads as first operand of mma.sync, pages by cp.async, a second kernel joins splits", bytes, 0, [&](int) {
            decode_attention(out.at, p.query->at, p.keys->at, p.values->at, NULL, &c, part.at, scratch, 32, 8, 128, 0); });
    }
    decode_without_tma = true;
    if (ladder_wants(l, 3)) ladder_rung(l, 3, "decode_single.cuh: heads as second operand, joined by the last block", bytes, 0, [&](int) { attend(p, out.at); });
    decode_without_tma = false;
    if (ladder_wants(l, 4)) ladder_rung(l, 4, "decode_single.cuh: pages by TMA", bytes, 0, [&](int) { attend(p, out.at); });
}
// the last N tokens of a prompt of T
static void bench_prompt(const Ladder *l, int64_t N, int64_t T) {
    const Problem p = problem(32, 8, 128, {(int32_t)T}, false);
    const int64_t most = decode_tile_tokens(32, 8);
    std::vector<int32_t> positions, tiles;
    for (int64_t n = 0; n < N; n++) {
        if (n % most == 0) tiles.push_back((int32_t)n);
        positions.push_back((int32_t)(T - N + n));
    }
    tiles.push_back((int32_t)N);
    Array<int32_t> at(positions), of(std::vector<int32_t>((size_t)N, 0)), tile(tiles);
    Array<real> qkv(N * p.W, 9, 1.0f), out(N * 4096);
    Array<float> part(std::max<int64_t>(1, decode_scratch(N, 32, 128, T)));
    const PagedCall c = {N, p.max_pages, (int64_t)tiles.size() - 1, 0, T, NULL, at.at, of.at, p.table->at, tile.at, tiles.data()};
    char title[96];
    snprintf(title, sizeof title, "attention, 32/8 heads of 128, the last %lld tokens of a prompt of %lld", (long long)N, (long long)T);
    ladder_title(title);
    if (ladder_wants(l, 2)) ladder_rung(l, 2, "decode.cuh: 16 tokens share a page", 4.0 * 128 * 8 * (double)T + 4.0 * 4096 * (double)N, 0, [&](int) {
        decode_attention(out.at, qkv.at, p.keys->at, p.values->at, NULL, &c, part.at, decode_scratch(N, 32, 128, T), 32, 8, 128, 0); });
}
static void bench_matvec(const Ladder *l, Gemm *g, int64_t N, int64_t K, int64_t O) {
    Array<real> x(N * K, 1, 1.0f), w(SETS * O * K, 2, 0.05f), y(N * O);
    char title[96];
    snprintf(title, sizeof title, "%lld rows times %lld x %lld", (long long)N, (long long)O, (long long)K);
    ladder_title(title);
    const double bytes = 2.0 * (double)(K * O);
    if (ladder_wants(l, 1) && N == 1) ladder_rung(l, 1, "a thread an element", bytes, 0, [&](int s) { plain_matvec_kernel<<<(unsigned)ceil_div(N * O, 256), 256>>>(y.at, x.at, w.at + s * O * K, N, K, O); });
    if (ladder_wants(l, 2)) ladder_rung(l, 2, "cuBLASLt's first choice", bytes, 0, [&](int s) { matmul_forward(g, y.at, x.at, w.at + s * O * K, NULL, NULL, N, K, O, O, 0); });
    if (ladder_wants(l, 3)) ladder_rung(l, 3, "decode.cuh: 16 rows of the matrix a warp, a chain of products; copies far ahead, x once a block", bytes, 0, [&](int s) { matvec_of(y.at, O, x.at, w.at + s * O * K, NULL, NULL, 1.0f, N, K, O, true); });
    if (ladder_wants(l, 4) && N == 1) ladder_rung(l, 4, "matvec_sm90.cuh: one row, w by TMA, the chain by wgmma", bytes, 0, [&](int s) { matvec_of(y.at, O, x.at, w.at + s * O * K, NULL, NULL, 1.0f, N, K, O); });
}

static void bench_rows_swiglu(const Ladder *l, Gemm *g, int64_t N, int64_t K, int64_t F) {
    Array<real> x(N * K, 1, 1.0f), w(SETS * 2 * F * K, 2, 0.05f), gate_up(N * 2 * F), y(N * F);
    char title[96];
    snprintf(title, sizeof title, "SwiGLU of %lld rows times 2 x %lld x %lld", (long long)N, (long long)F, (long long)K);
    ladder_title(title);
    const double bytes = 4.0 * (double)(K * F);
    if (ladder_wants(l, 2)) ladder_rung(l, 2, "cuBLASLt's first choice, and a kernel for SwiGLU", bytes, 0, [&](int s) {
        gemm_run(g, shape_generate(N, K, 2 * F, K, 2 * F, false, false, 1.0f), w.at + s * 2 * F * K, x.at, NULL, gate_up.at, NULL, 0);
        swiglu_forward(y.at, gate_up.at, N, F, 0); });
    if (ladder_wants(l, 3) && rows_swiglu_possible(N, K, F)) ladder_rung(l, 3, "matmul_rows_sm90.cuh: clusters of four, x and weights shared by multicast", bytes, 0, [&](int s) { rows_swiglu(y.at, x.at, w.at + s * 2 * F * K, N, K, F, 0); });
}

int main(int argc, char **argv) {
    program_name = "decode";
    static Gemm g;
    gemm_create(&g);
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "tiny") == 0) {
        check_attention(4, 2, 64, {1, 17, 40});
        check_attention(8, 1, 128, {270});
        check_tiles(4, 2, 64, {{0, 19}, {30, 5}});
        check_matvec(3, 96, 24, true, true);
        check_swiglu(2, 72, 24);
        check_sample(2, 40, {0.7, 5, 0.9, 0.01, 1.3});
#ifndef FINDAP_RACECHECK   // which does not carry what __syncwarp orders over to an arriving lane
        check_rows_swiglu(&g, 200, 128, 240, 2);
#endif
        return check_result();
    }
    if (strcmp(what, "check") == 0) {
        const std::vector<int32_t> lengths = {1, 2, 15, 16, 17, 31, 48, 63, 64, 65, 255, 256, 257, 511, 512, 513, 1030};
        for (int64_t HD : {64, 128}) {
            check_attention(4, 4, HD, lengths);
            check_attention(8, 2, HD, lengths);
            check_attention(6, 1, HD, {1, 300, 40});
            check_attention(14, 2, HD, {77});
            check_attention(16, 2, HD, {16, 5});
            check_attention(2, 1, HD, {1});
        }
        check_attention(32, 8, 128, {2000, 1, 1024});
        std::vector<int32_t> many;
        for (int n = 0; n < 48; n++) many.push_back(1 + (int32_t)(random_bits(3, (uint64_t)n) % 1100));
        check_attention(32, 8, 128, many, 3000);
        check_attention(14, 2, 64, many, 3000);
        for (int64_t N : {1, 2, 5, 8}) for (int64_t K : {32, 64, 96, 1024, 1056, 4864}) for (int64_t O : {8, 16, 24, 515}) check_matvec(N, K, O, O == 24 || K == 64, N == 5 || K == 64);
        check_matvec(8, 4096, 4096, false, true);
        for (int64_t K : {128, 896, 4096, 14336, 16384}) for (int64_t O : {8, 24, 2120, 4232, 6144, 9000}) check_matvec(2, K, O, O == 24, K == 896 || O == 6144);   // 16, 32, 48, 64 rows a block
        for (int64_t HD : {64, 128}) {
            check_tiles(4, 4, HD, {{0, 40}, {7, 1}, {250, 30}, {0, 1}, {15, 17}});
            check_tiles(8, 2, HD, {{0, 300}, {511, 3}, {100, 9}});
            check_tiles(6, 1, HD, {{3, 33}, {255, 2}});
            check_tiles(14, 2, HD, {{0, 21}});
            check_tiles(2, 1, HD, {{600, 20}, {0, 600}});
            check_tiles(32, 8, HD, {{1900, 1}, {30, 1}, {0, 1300}, {700, 50}, {5, 7}}, 3000);
        }
        for (int64_t N : {1, 2, 3, 8}) for (int64_t K : {64, 104, 2048, 3584, 4096, 8192}) for (int64_t F : {8, 40, 1000, 2048, 9000}) check_swiglu(N, K, F);
        for (int64_t N : {129, 192, 200, 255, 256}) for (int64_t K : {64, 192, 320, 384, 4096}) for (int64_t F : {8, 240, 7176, 9000, 14336}) check_rows_swiglu(&g, N, K, F, 3);
        check_rows_swiglu(&g, 256, 4096, 14336, 2000);
        check_rows_swiglu(&g, 256, 128, 7280, 2000);
        for (int64_t V : {40, 1000, 32003})
            for (double temperature : {0.0, 0.7, 1.0, 3.0}) for (double penalty : {1.0, 1.3}) {
                check_sample(40, V, {temperature, 0, 1, 0, penalty}); check_sample(40, V, {temperature, 5, 1, 0, penalty}); check_sample(40, V, {temperature, 0, 0.8, 0, penalty});
                check_sample(40, V, {temperature, 50, 0.95, 0.01, penalty}); check_sample(40, V, {temperature, 1, 0.3, 0.5, penalty}); check_sample(40, V, {temperature, V + 5, 0.999, 0, penalty});
            }
        for (int64_t N : {64, 128, 256, 1024}) {
            check_unsplit(&g, N, 4096, 6144, false); check_unsplit(&g, N, 4096, 4096, true); check_unsplit(&g, N, 4096, 28672, false); check_unsplit(&g, N, 14336, 4096, true);
            check_unsplit(&g, N, 1536, 2048, false); check_unsplit(&g, N, 8960, 1536, true); check_unsplit(&g, N, 64, 128, false); check_unsplit(&g, N, 1536, 151936, false); check_unsplit(&g, N, 4096, 48, false); check_unsplit(&g, N, 16, 4096, true);
        }
        return check_result();
    }
    const Ladder l = ladder_begin(argc, argv);
    bench_attention(&l, 256, 1024);
    bench_attention(&l, 64, 900);
    bench_attention(&l, 1, 1024);
    bench_attention(&l, 1, 8192);
    bench_prompt(&l, 778, 778);
    bench_prompt(&l, 2048, 3500);
    bench_rows_swiglu(&l, &g, 256, 4096, 14336);
    for (int64_t N : {1, 8}) {
        bench_matvec(&l, &g, N, 4096, 6144);
        bench_matvec(&l, &g, N, 4096, 4096);
        bench_matvec(&l, &g, N, 4096, 28672);
        bench_matvec(&l, &g, N, 14336, 4096);
        bench_matvec(&l, &g, N, 4096, 128256);
    }
    return 0;
}
