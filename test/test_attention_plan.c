// test_attention_plan.c: what the GPU's attention kernels are told of a batch's documents and branches, against the mask as findap/model.h defines it.
//
// No GPU is needed to know what the kernels would do with it: which tiles each of them visits, which of these it compares and how, is arithmetic on
// int32. It is repeated here, kernel by kernel, in the kernels' own names: every visible pair must be met exactly once, no other ever, and the dS
// tiles that one kernel writes to scratch must be those that the other one reads.
#include "findap/kernels/attention_plan.h"   // defines: attention_plan, AttentionPlan
#include <sys/wait.h>                        // defines: waitpid
#include <unistd.h>                          // defines: fork, dup2
#include "check.h"                           // defines: cmocka

enum { ABSENT = -1 };
static int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
static int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

typedef struct {
    int32_t B, T, K, Q, *positions, *block;
    AttentionPlan plan;
    uint8_t *visible;   // (B,T,T) query, key: the definition
    uint8_t *met;       // (B,T,T) how often a kernel lets the pair through
} Layout;

// ---------------------------------------------------------------------------------------------------------------
// the definition: a document begins with a row and at position 0; a branch where the position is not one more than that before, and it sees
// the first `position` tokens of its document, and of itself what is not behind

static void define_mask(Layout *x) {
    int32_t T = x->T, *document = (int32_t *)xcalloc(T, 4), *branch = (int32_t *)xcalloc(T, 4), *prefix = (int32_t *)xcalloc(T, 4);
    for (int32_t b = 0; b < x->B; b++) {
        const int32_t *at = x->positions + b * T;
        for (int32_t t = 0; t < T; t++) {
            bool first = t == 0 || at[t] == 0, begins = first || at[t] != at[t - 1] + 1;
            document[t] = first ? t : document[t - 1];
            branch[t] = begins ? t : branch[t - 1];
            prefix[t] = first ? 0 : begins ? at[t] : prefix[t - 1];
            for (int32_t s = 0; s <= t; s++)
                x->visible[((int64_t)b * T + t) * T + s] = document[s] == document[t] && (branch[s] == branch[t] || (branch[s] == document[t] && s - document[t] < prefix[t]));
        }
    }
    free(document); free(branch); free(prefix);
}

static Layout layout_new(int32_t B, int32_t T) {
    Layout x;
    memset(&x, 0, sizeof x);
    x.B = B; x.T = T; x.K = (T + KEY_TILE - 1) / KEY_TILE; x.Q = (T + QUERY_TILE - 1) / QUERY_TILE;
    x.positions = (int32_t *)xcalloc((int64_t)B * T, 4);
    x.block = (int32_t *)xcalloc(attention_plan_ints(B, T) + 1, 4);
    x.visible = (uint8_t *)xcalloc((int64_t)B * T * T, 1);
    x.met = (uint8_t *)xcalloc((int64_t)B * T * T, 1);
    return x;
}
static void layout_free(Layout *x) { free(x->positions); free(x->block); free(x->visible); free(x->met); }

// A kernel lets query q and key k through. Beyond the row there are no queries to be written; but a key there must be masked: its dS would go on.
static void meet(Layout *x, int32_t b, int32_t q, int32_t k) {
    if (q >= x->T) return;
    if (k >= x->T) fail_msg("row %d query %d meets key %d of %d", b, q, k, x->T);
    x->met[((int64_t)b * x->T + q) * x->T + k]++;
}
static void check_met(Layout *x, const char *kernel) {
    int64_t T = x->T;
    for (int64_t i = 0; i < x->B * T * T; i++)
        if (x->met[i] != x->visible[i]) fail_msg("%s: T %d row %d query %d key %d: met %d times, expected %d", kernel, x->T, (int)(i / T / T), (int)(i / T % T), (int)(i % T), x->met[i], x->visible[i]);
    memset(x->met, 0, (size_t)(x->B * T * T));
}

// ---------------------------------------------------------------------------------------------------------------
// the kernels

static void plain(Layout *x) {
    const AttentionPlan *p = &x->plan;
    for (int32_t n = 0; n < x->B * x->T; n++) {
        int32_t t = n % x->T, hole = p->hole_begin[n], own = p->hole_end[n];
        for (int32_t j = p->document_start[n]; j <= t; j = j + 1 == hole ? own : j + 1) meet(x, n / x->T, t, j);
    }
    check_met(x, "plain, queries");
    for (int32_t n = 0; n < x->B * x->T; n++)
        for (int32_t i = n % x->T; i < p->seen_end[n]; i++) meet(x, n / x->T, i, n % x->T);
    check_met(x, "plain, keys");
}

static void forward_sm90(Layout *x) {   // 128 queries, two warpgroups of 64, 128 keys a step
    const AttentionPlan *p = &x->plan;
    enum { BN = 128 };
    for (int32_t a = 0; a < x->B * x->K; a++) {
        int32_t tile = p->forward_order[a], n_min = p->forward_first[a], b = tile / x->K, q0 = (tile - b * x->K) * 128, n_max = (smaller(q0 + 128, x->T) - 1) / BN;
        const int32_t *start = p->document_start + b * x->T;
        for (int32_t cw = 0; cw < 2; cw++) {
            int32_t row_wg = q0 + cw * 64, lo_wg = start[smaller(row_wg + 63, x->T - 1)], own_wg = p->hole_end[b * x->T + smaller(row_wg + 63, x->T - 1)];
            int32_t hole_wg = p->hole_first[b * x->Q + smaller(row_wg / 64, x->Q - 1)];
            for (int32_t n = n_max; n >= n_min; n--)
                for (int32_t row = row_wg; row < row_wg + 64; row++) {
                    int32_t k0 = n * BN, lo = start[smaller(row, x->T - 1)], r = b * x->T + smaller(row, x->T - 1);
                    bool some = false;
                    for (int32_t i = 0; i < BN; i++) {
                        int32_t c = k0 + i % 8 / 2 * 2, column = i - i % 8 / 2 * 2;   // the thread's first key, and the key counted from there
                        bool masked = k0 + BN - 1 > row_wg && column > row - c;
                        if (k0 < own_wg) {
                            if (k0 < lo_wg) masked = masked || column < lo - c;
                            if (k0 + BN > hole_wg) masked = masked || (column >= p->hole_begin[r] - c && column < p->hole_end[r] - c);
                        }
                        if (row < x->T && !masked) meet(x, b, row, k0 + i);
                        some = some || !masked;
                    }
                    if (n == n_max && !some) fail_msg("forward_sm90: query %d sees nothing in its first tile: the softmax's reference would not be finite", row);
                }
        }
    }
    check_met(x, "forward_sm90");
}

static void backward_sm90(Layout *x) {
    const AttentionPlan *p = &x->plan;
    enum { HALF_KEYS = KEY_TILE / 2 };
    int32_t tiles = (int32_t)p->visited_tiles, *written = (int32_t *)xcalloc(2 * tiles, 4);   // halves of dS tiles: whose they are
    for (int32_t i = 0; i < 2 * tiles; i++) written[i] = ABSENT;
    for (int32_t a = 0; a < x->B * x->K; a++) {   // dK, dV: 128 keys, two warpgroups of 64, 64 queries a step
        int32_t job = p->key_order[a], b = job / x->K, k0 = job % x->K * KEY_TILE, qt0 = k0 / QUERY_TILE, qt1 = qt0 + p->tile_offset[job + 1] - p->tile_offset[job];
        assert_in_range(qt1, qt0 + 1, x->Q);
        for (int32_t wg = 0; wg < 2; wg++) {
            int32_t kw0 = k0 + wg * 64, end_least = kw0 < x->T ? p->seen_least[b * x->Q + kw0 / 64] : 0, wq0 = kw0 / QUERY_TILE;
            int32_t wq1 = kw0 < x->T ? (p->seen_most[b * x->Q + kw0 / 64] + QUERY_TILE - 1) / QUERY_TILE : wq0;
            assert_true(wq1 <= qt1);
            for (int32_t qt = qt0; qt < qt1; qt++) {
                if (qt < wq0 || qt >= wq1) continue;
                int32_t q0 = qt * QUERY_TILE, slot = (p->tile_offset[job] + qt - qt0) * 2 + wg, seen = 0;
                bool compares = q0 < kw0 + 63 || q0 + QUERY_TILE > end_least;
                assert_true(slot < 2 * tiles && written[slot] == ABSENT);
                written[slot] = (b * x->Q + qt) * 2 * x->K + kw0 / HALF_KEYS;
                for (int32_t key = kw0; key < kw0 + 64; key++)
                    for (int32_t q = q0; q < q0 + QUERY_TILE; q++) {
                        int32_t end = key < x->T ? p->seen_end[b * x->T + key] : 0;
                        if (compares && (q < key || q >= end)) continue;
                        if (q >= x->T) fail_msg("backward_sm90: key %d meets query %d of %d", key, q, x->T);
                        meet(x, b, q, key);
                        seen++;
                    }
                assert_true(seen > 0);   // what is computed is needed
            }
        }
    }
    check_met(x, "backward_sm90, keys");
    for (int32_t a = 0; a < x->B * x->Q; a++) {   // dQ: 64 queries, 64 keys a step
        int32_t job = p->query_order[a], b = job / x->Q, qt = job % x->Q, n0 = b * x->T + qt * QUERY_TILE;
        int32_t hole = (p->hole_begin[n0] - 1) / HALF_KEYS + 1, holes = larger(p->hole_end[n0] / HALF_KEYS - hole, 0);
        int32_t first = p->document_start[n0] / HALF_KEYS, steps = qt + 1 - first - holes;
        assert_true(steps > 0);
        for (int32_t i = 0; i < steps; i++) {
            int32_t half = first + i + (first + i < hole ? 0 : holes), kt = half / 2, slot = (p->tile_offset[b * x->K + kt] + (qt - 2 * kt)) * 2 + half % 2;
            assert_in_range(half, 0, qt);
            assert_in_range(slot, 0, 2 * tiles - 1);
            if (written[slot] != job * 2 * x->K + half) fail_msg("backward_sm90: T %d row %d queries %d reads dS of keys %d: not written, or another's", x->T, b, qt * QUERY_TILE, half * HALF_KEYS);
            written[slot] = ABSENT;
        }
    }
    for (int32_t i = 0; i < 2 * tiles; i++) if (written[i] != ABSENT) fail_msg("backward_sm90: a dS tile was written and not read");
    free(written);
}

static void queries_mma(Layout *x, int32_t KEYS, const char *kernel) {   // forward (64 keys a step) and dQ (32): 128 queries, four warps of 32
    const AttentionPlan *p = &x->plan;
    for (int32_t a = 0; a < x->B * x->K; a++) {
        int32_t tile = p->forward_order[a], b = tile / x->K, q0 = tile % x->K * 128;
        const int32_t *start = p->document_start + b * x->T, *hole_begin = p->hole_begin + b * x->T, *hole_end = p->hole_end + b * x->T;
        for (int32_t n = start[q0] / KEYS; n <= (smaller(q0 + 128, x->T) - 1) / KEYS; n++)
            for (int32_t first = q0; first < q0 + 128; first += 32) {
                int32_t k0 = n * KEYS, hole_first = NO_HOLE;
                for (int32_t lane = 0; lane < 32; lane++) hole_first = smaller(hole_first, hole_begin[smaller(first + lane, x->T - 1)]);
                if (first >= x->T || k0 > first + 31 || k0 + KEYS <= start[smaller(first, x->T - 1)]) continue;
                bool compares = k0 + KEYS - 1 > first || k0 < start[smaller(first + 31, x->T - 1)], holes = k0 < hole_end[smaller(first + 31, x->T - 1)] && k0 + KEYS > hole_first;
                for (int32_t row = first; row < first + 32; row++)
                    for (int32_t key = k0; key < k0 + KEYS; key++) {
                        int32_t at = smaller(row, x->T - 1);
                        if (compares && (key > row || key < start[at])) continue;
                        if (holes && key >= hole_begin[at] && key < hole_end[at]) continue;
                        meet(x, b, row, key);
                    }
            }
    }
    check_met(x, kernel);
}
static void keys_mma(Layout *x) {   // dK, dV: 64 keys, four warps of 16, 64 queries a step
    const AttentionPlan *p = &x->plan;
    for (int32_t block = 0; block < 2 * x->B * x->K; block++) {
        int32_t job = p->key_order[block / 2], b = job / x->K, k0 = job % x->K * KEY_TILE + block % 2 * 64;
        if (k0 >= x->T) continue;
        const int32_t *end = p->seen_end + b * x->T;
        int32_t qt1 = (p->seen_most[b * x->Q + k0 / 64] + 63) / 64;
        for (int32_t first = k0; first < k0 + 64; first += 16) {
            int32_t end_least = INT32_MAX, end_most = 0;
            for (int32_t key = first; key < first + 16; key++) {
                end_least = smaller(end_least, end[smaller(key, x->T - 1)]);
                end_most = larger(end_most, key < x->T ? end[key] : 0);
            }
            for (int32_t q0 = k0; q0 < qt1 * 64; q0 += 64) {
                if (q0 >= end_most) continue;
                for (int32_t key = first; key < first + 16; key++)
                    for (int32_t q = q0; q < q0 + 64; q++) {
                        if ((q0 < first + 15 || q0 + 64 > end_least) && (q < key || q >= (key < x->T ? end[key] : 0))) continue;
                        if (key >= x->T) continue;   // its dK and dV are not written, and nothing else has its dS
                        if (q >= x->T) fail_msg("keys_mma: key %d meets query %d of %d", key, q, x->T);
                        meet(x, b, q, key);
                    }
            }
        }
    }
    check_met(x, "keys_mma");
}

// ---------------------------------------------------------------------------------------------------------------
// the plan

static void check_order(const int32_t *order, const int32_t *work, int64_t n) {   // a permutation, heaviest first, equal ones in rising order
    char *seen = (char *)xcalloc(n, 1);
    for (int64_t i = 0; i < n; i++) {
        assert_in_range(order[i], 0, n - 1);
        assert_false(seen[order[i]]);
        seen[order[i]] = 1;
        if (i > 0) assert_true(work[order[i - 1]] > work[order[i]] || (work[order[i - 1]] == work[order[i]] && order[i - 1] < order[i]));
    }
    free(seen);
}

static void check_layout(Layout *x) {
    int64_t B = x->B, T = x->T, K = x->K, Q = x->Q, ints = attention_plan_ints(B, T), visited = 0;
    int32_t *key_work = (int32_t *)xcalloc(B * K, 4), *query_work = (int32_t *)xcalloc(B * Q, 4), *forward_work = (int32_t *)xcalloc(B * K, 4);
    define_mask(x);
    x->block[ints] = 12345;
    x->plan = attention_plan(x->block, x->positions, B, T);
    const AttentionPlan *p = &x->plan;
    assert_int_equal(x->block[ints], 12345);
    assert_true(p->seen_most + B * Q == x->block + ints);
    char *tile = (char *)xcalloc(B * K * Q, 1);   // (b, key tile, query tile): has a visible pair
    double pairs = 0;
    bool branches = false;
    for (int64_t n = 0; n < B * T; n++) {
        int64_t b = n / T, t = n % T;
        if (t > 0) assert_true(p->document_start[n] >= p->document_start[n - 1] && p->hole_end[n] >= p->hole_end[n - 1]);
        if (p->hole_begin[n] == NO_HOLE) assert_int_equal(p->hole_end[n], p->document_start[n]); else { assert_true(p->hole_begin[n] < p->hole_end[n]); branches = true; }
        for (int64_t s = 0; s < T; s++) {
            bool sees = x->visible[n * T + s];
            assert_true(sees == (s >= p->document_start[n] && s <= t && !(s >= p->hole_begin[n] && s < p->hole_end[n])));
            assert_true(sees == (t >= s && t < p->seen_end[b * T + s]));
            if (sees) { pairs++; tile[(b * K + s / KEY_TILE) * Q + t / QUERY_TILE] = 1; }
        }
    }
    assert_true(pairs == p->visible_pairs);
    if (branches) assert_true(pairs < (double)B * (double)T * (double)(T + 1) / 2);   // by which attention_cudnn_fits knows them
    for (int64_t i = 0; i < B * K; i++) {
        assert_int_equal(p->tile_offset[i], visited);
        for (int64_t q = 0; q < Q; q++) {
            assert_true((q >= i % K * 2 && q < i % K * 2 + p->tile_offset[i + 1] - p->tile_offset[i]) == tile[i * Q + q]);   // visited exactly where something is visible
            key_work[i] += tile[i * Q + q];
            query_work[i / K * Q + q] += tile[i * Q + q];
        }
        visited += key_work[i];
    }
    assert_int_equal(p->tile_offset[B * K], visited);
    assert_int_equal(p->visited_tiles, visited);
    for (int64_t i = 0; i < B * K; i++) {
        int64_t first = 0, j = 0;
        while (!tile[(i / K * K + first) * Q + i % K * 2]) first++;   // its first 64 queries see the earliest keys
        forward_work[i] = (int32_t)(i % K + 1 - first);
        while (p->forward_order[j] != i) j++;
        assert_int_equal(p->forward_first[j], first);
    }
    check_order(p->key_order, key_work, B * K);
    check_order(p->query_order, query_work, B * Q);
    check_order(p->forward_order, forward_work, B * K);
    for (int64_t i = 0; i < B * Q; i++) {
        int32_t hole = NO_HOLE, least = INT32_MAX, most = 0;
        for (int64_t t = i % Q * QUERY_TILE; t < T && t < (i % Q + 1) * QUERY_TILE; t++) {
            hole = smaller(hole, p->hole_begin[i / Q * T + t]);
            least = smaller(least, p->seen_end[i / Q * T + t]);
            most = larger(most, p->seen_end[i / Q * T + t]);
        }
        assert_true(p->hole_first[i] == hole && p->seen_least[i] == least && p->seen_most[i] == most);
    }
    free(key_work); free(query_work); free(forward_work); free(tile);
    plain(x);
    forward_sm90(x);
    backward_sm90(x);
    queries_mma(x, 64, "forward_mma");
    queries_mma(x, 32, "queries_mma");
    keys_mma(x);
}

// ---------------------------------------------------------------------------------------------------------------
// layouts

static uint64_t draws;
static int32_t draw(uint64_t seed, int32_t n) { return (int32_t)(random_u64(seed, 0, draws++) % (uint64_t)n); }

// documents of 1 ... longest tokens (0: one a row), `percent` of them with up to three branches. One branch point in three is moved to a tile's border, or one beside it.
static void check_random(int32_t B, int32_t T, int32_t longest, int32_t percent, uint64_t seed) {
    Layout x = layout_new(B, T);
    draws = 0;
    for (int32_t b = 0; b < B; b++)
        for (int32_t t = 0; t < T;) {
            int32_t document = t, length = longest == 0 ? T : 1 + draw(seed, longest), branches = length > 1 && draw(seed, 100) < percent ? 1 + draw(seed, 3) : 0, point = length - 1;
            for (int32_t i = 0; i < length && t < T; i++, t++) x.positions[b * T + t] = i;
            for (int32_t k = 0; k < branches; k++) {   // no branch point behind the one before; the first often at the document's last token but one, as pairs have it
                if (draw(seed, 2)) point = 1 + draw(seed, point);
                int32_t border = (document + point) / 32 * 32 + draw(seed, 3) - 1 - document;
                if (draw(seed, 3) == 0 && border >= 1 && border <= point) point = border;
                int32_t answer = 1 + draw(seed, longest ? longest : T);
                for (int32_t i = 0; i < answer && t < T; i++, t++) x.positions[b * T + t] = point + i;
            }
        }
    check_layout(&x);
    layout_free(&x);
}
static void test_documents(void **state) {
    (void)state;
    check_random(1, 1, 0, 0, 1);
    check_random(2, 63, 0, 0, 2);
    check_random(1, 64, 1, 0, 3);
    check_random(2, 129, 2, 0, 4);
    check_random(3, 500, 0, 0, 5);
    for (uint64_t seed = 10; seed < 40; seed++) check_random(2, 100 + (int32_t)(seed * 37 % 600), 1 + (int32_t)(seed * 53 % 400), 0, seed);
}
static void test_branches(void **state) {
    (void)state;
    for (uint64_t seed = 100; seed < 2500; seed++) check_random(1 + (int32_t)(seed % 2), 1 + (int32_t)(seed * 7919 % 290), 1 + (int32_t)(seed * 104729 % (seed % 3 ? 40 : 200)), (int32_t)(seed % 4) * 33 + 1, seed);
    for (uint64_t seed = 0; seed < 20; seed++) check_random(1, 600 + (int32_t)(seed * 97 % 500), 100 + (int32_t)seed * 20, 80, seed);
}
// a pair as pairs.h lays it, wherever its branch point and its ends may fall beside the tiles' borders
static void test_pairs(void **state) {
    (void)state;
    for (int32_t before = 0; before < 3; before++)
        for (int32_t prompt = 62; prompt <= 130; prompt++) {
            const int32_t chosen = 126 + prompt % 5, rejected = 190 + prompt % 7, lead = before * 40;
            Layout x = layout_new(1, lead + prompt + chosen + 1 + rejected);
            for (int32_t t = 0; t < x.T; t++) x.positions[t] = t < lead ? t : t < lead + prompt + chosen ? t - lead : t - lead - chosen - 1;
            check_layout(&x);
            layout_free(&x);
        }
}
// what the kernels could not do is refused: a branch that sees more than the one before it
static void test_refusal(void **state) {
    (void)state;
    int32_t positions[] = {0, 1, 2, 3, 1, 2, 2, 3}, falling[] = {0, 1, 2, 3, 2, 3, 1, 2}, block[64];
    assert_true(attention_plan_ints(1, 8) <= 64);
    attention_plan(block, falling, 1, 8);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(2);
        attention_plan(block, positions, 1, 8);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_documents), cmocka_unit_test(test_branches), cmocka_unit_test(test_pairs), cmocka_unit_test(test_refusal)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
